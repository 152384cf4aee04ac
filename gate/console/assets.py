"""The console's scripts and styles, packed, kept by browsers, and loaded from nowhere else."""

import gzip
from functools import cache
from hashlib import sha256
from importlib.resources import files
from mimetypes import guess_type
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_STATIC: Final = files("gate.console").joinpath("static")


@cache
def _content(file: str) -> tuple[bytes, bytes]:
    """Return a file that is served, plain and packed."""
    plain = _STATIC.joinpath(file).read_bytes()
    return plain, gzip.compress(plain, mtime=0)


@cache
def asset(file: str) -> str:
    """Return the address of a file, which changes with what is in it."""
    return f"/static/{file}?{sha256(_content(file)[0]).hexdigest()[:12]}"


async def static(request: Request) -> Response:
    """Answer with a file."""
    file = request.path_params["file"]
    kind = guess_type(file)[0]
    if kind not in {"text/css", "text/javascript"} or not _STATIC.joinpath(file).is_file():
        raise HTTPException(404)
    plain, packed = _content(file)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding", **SECURITY}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, media_type=kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(plain, media_type=kind, headers=headers)
