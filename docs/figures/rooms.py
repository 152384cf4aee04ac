"""Draws docs/figures/rooms.svg: the rooms of the house and who imports whom, as the imports say today.

python docs/figures/rooms.py
"""

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import grimp

FILE: Final = Path(__file__).with_suffix(".svg")
# from who knows all to who knows nothing
ROOMS: Final = (
    "cli",
    "client",
    "doors",
    "kafka",
    "kafka.local",
    "kafka.aio",
    "shard",
    "observe",
    "admission",
    "mesh",
    "policy",
    "limits",
    "protocol",
)
LEFT, WIDTH, ROW, BOX = 16, 860, 46, 32
PURE, SHELL, PROGRAM = "#bfe6df", "#dbe7f5", "#f3ead7"
FILLS: Final = {
    "cli": PROGRAM,
    "client": PROGRAM,
    "doors": PROGRAM,
    "kafka": SHELL,
    "kafka.local": SHELL,
    "kafka.aio": SHELL,
}


def room_of(module: str) -> str | None:
    """Return the innermost room of a module."""
    inside = [room for room in ROOMS if module == f"gate.{room}" or module.startswith(f"gate.{room}.")]
    return max(inside, key=len, default=None)


def imports() -> list[tuple[str, str]]:
    """Return which room imports from which other one."""
    graph = grimp.build_graph("gate")
    pairs = {(room_of(a), room_of(b)) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
    return sorted((a, b) for a, b in pairs if a and b and a != b)


def summary(room: str) -> str:
    """Return the first line of a room's docstring."""
    spec = find_spec(f"gate.{room}")
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return re.split("[:;] ", text.splitlines()[0])[0].removesuffix(".").replace("&", "&amp;")


def picture() -> str:
    """Return the picture: a column of rooms, and an arc from each importer down to what it imports."""
    height = ROW * len(ROOMS) + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="15">'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L10,5 L0,10 z" fill="#77808c"/></marker></defs>'
    )
    parts = [head]
    middle = {room: 8 + ROW * index + BOX // 2 for index, room in enumerate(ROOMS)}
    for room in ROOMS:
        y = middle[room]
        parts.append(
            f'<rect x="{LEFT}" y="{y - BOX // 2}" width="560" height="{BOX}" rx="6" fill="{FILLS.get(room, PURE)}"/>'
            f'<g fill="#1b2733"><text x="{LEFT + 12}" y="{y + 5}" font-weight="bold">{room}</text>'
            f'<text x="{LEFT + 118}" y="{y + 5}" font-size="13">{summary(room)}</text></g>'
        )
    for importer, imported in imports():
        start, end = middle[importer], middle[imported]
        near, far = LEFT + 562, LEFT + 562 + 26 * abs(ROOMS.index(imported) - ROOMS.index(importer))
        parts.append(
            f'<path d="M{near},{start + 4} C{far},{start + 4} {far},{end - 4} {near + 2},{end - 4}" fill="none" '
            'stroke="#77808c" stroke-width="1.4" marker-end="url(#tip)"/>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    FILE.write_text(picture())
