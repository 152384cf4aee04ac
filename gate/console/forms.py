"""Forms as browsers and programs send them: read, checked to be ours, and turned into arguments of commands."""

import hmac
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from gate.client import Filter
from gate.console.access import Viewer, is_same_origin
from gate.units import SECOND, parse_duration

FILTER: Final = ("lane", "tenant", "older_than", "key", "producer_id", "request", "keep_newest", "all")
OF_LIMIT: Final = ("requests_per_second", "burst_size", "window_size", "window_limit")
LONGEST: Final = 30 * 86_400  # seconds, of a pause or a limit: one without an end is what is forgotten
_FORM_BYTES: Final = 16 << 10


class RefusedError(Exception):
    """An action that was not taken. `str(error)` says why, and what to do."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises RefusedError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(f"a form is application/x-www-form-urlencoded, not {kind[:100]!r}", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise RefusedError(f"the form is larger than {_FORM_BYTES >> 10} KiB", 413)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=50))
    except ValueError as error:
        raise RefusedError(f"this is no form: {error}") from error


def check_form(request: Request, viewer: Viewer, form: Mapping[str, str]) -> None:
    """Raise RefusedError unless a browser sends a form that this viewer was given by this very server."""
    if not is_same_origin(request):
        raise RefusedError("the form comes from a page of elsewhere", 403)
    known = form.get("id", "")
    if not known or not hmac.compare_digest(viewer.sign(known).encode(), form.get("csrf", "").encode()):
        raise RefusedError("the form is of an earlier sign-in; it is made anew below, and nothing was done", 403)


def seconds_of(text: str, what: str = "a pause") -> float:
    """Read for how long something lasts. Raises RefusedError."""
    try:
        seconds = parse_duration(text) / SECOND
    except ValueError as error:
        raise RefusedError(f"for how long? {error}") from error
    if not 0 < seconds <= LONGEST:
        raise RefusedError(f"{what} lasts for more than 0 seconds and at most 30 days: one without an end is forgotten")
    return seconds


def filter_of(form: Mapping[str, str]) -> Filter:
    """Read which requests are meant. Raises RefusedError."""
    said = {name: form.get(name, "").strip() for name in FILTER}
    if not any(said[name] for name in FILTER if name != "keep_newest"):
        raise RefusedError(
            "nothing says which requests are meant: give a lane, a tenant, an age, a key, an id, or all"
        )  # fmt: skip
    return Filter(
        id=said["request"], producer_id=said["producer_id"], key=said["key"] or None, tenant=said["tenant"] or None,
        lane=said["lane"], older_than=seconds_of(said["older_than"], "an age") if said["older_than"] else 0,
        everything=said["all"] == "all", keep_newest=_count("keep_newest", said["keep_newest"]) or 0,
    )  # fmt: skip


def limit_of(form: Mapping[str, str]) -> dict[str, Any]:
    """Read what a limit is to be, as arguments of `GateControl.set_limit`. Raises RefusedError."""
    said = {name: form.get(name, "").strip() for name in OF_LIMIT}
    if not any(said.values()):
        raise RefusedError("no limit is given: say at least how many requests per second")
    return {
        "requests_per_second": said["requests_per_second"] or None,
        "burst_size": _count("burst_size", said["burst_size"]),
        "window_size": said["window_size"] or None,
        "window_limit": _count("window_limit", said["window_limit"]),
    }


def _count(name: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise RefusedError(f"{name} is a whole number, not {text[:100]!r}")
    return int(text)
