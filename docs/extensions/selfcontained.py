"""Built pages load nothing from elsewhere: no fonts, scripts, styles or pictures. Links are for readers to follow."""

import re
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOREIGN: Final = re.compile(
    r"""<(?!a\b)[a-z]+\b[^>]*\b(?:src|srcset|href|data|poster)=["'](?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import\b"""
)


def check(app: Sphinx, error: Exception | None) -> None:
    """Fail the build, with the page and the place, if anything is loaded from elsewhere."""
    pages = [] if error else [page for page in Path(app.outdir).rglob("*") if page.suffix in {".html", ".css", ".svg"}]
    for page in pages:
        if found := FOREIGN.search(text := page.read_text("utf-8")):
            shown = text[found.start() : found.end() + 60]
            raise ExtensionError(f"{page} loads something from elsewhere: {shown!r}; keep a copy here, or link it")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
