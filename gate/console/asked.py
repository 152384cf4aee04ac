"""What a request asks for: which view of which part of the group, as who may see what."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from starlette.requests import Request

from gate.console.access import Role, Viewer
from gate.protocol.policies import MAX_COUNT
from gate.units import parse_duration

_SHOWN: Final = 200  # characters of what somebody has typed into a search
_ID: Final = 400  # of an id, which names a topic
WINDOW: Final = "window."  # in front of a window's size, in the query of a limit that is tried
_WINDOWS: Final = 20
_DIGITS: Final = 16
_LEAST_TRIED: Final = 5  # percent
_MOST_TRIED: Final = 400


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the group is asked for: the key of what viewers share."""

    view: str
    service: str = ""
    query: str = ""
    state: str = ""
    page: int = 0
    names: bool = False  # whether tenants, and who commanded what, may be told
    acts: bool = False  # whether the viewer may command
    tenant: str = ""
    id: str = ""  # of a request
    percent: int = 100  # of the limit in force, that is tried
    windows: tuple[tuple[int, int], ...] = ()  # that are tried: size in ns, and what they are to hold


def asked_of(request: Request, view: str, viewer: Viewer | None = None, *, acts: bool = False) -> Asked:
    """Read what is asked for; what makes no sense is left out. `acts`: whether anybody may command here."""
    given = request.query_params
    return Asked(
        view=view,
        service=request.path_params.get("service", "") or given.get("service", "")[:_SHOWN],
        query=given.get("q", "")[:_SHOWN],
        state=given.get("state", "")[:_SHOWN],
        page=max(0, number(given.get("page", ""), 1, 1_000_000) - 1),
        names=viewer is not None and viewer.may(Role.READ),
        acts=acts and viewer is not None and viewer.may(Role.OPERATE),
        tenant=given.get("tenant", "")[:_SHOWN],
        id=given.get("id", "").strip()[:_ID],
        percent=max(_LEAST_TRIED, number(given.get("limit", ""), 100, _MOST_TRIED)),
        windows=_windows(given.multi_items()),
    )


def _windows(given: Iterable[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    """Read what windows are to hold: `window.3s=120`."""
    found: dict[int, int] = {}
    for name, value in given:
        limit = int(value) if value.isascii() and value.isdecimal() and len(value) <= _DIGITS else 0
        if name.startswith(WINDOW) and 1 <= limit <= MAX_COUNT and len(found) < _WINDOWS:
            with suppress(ValueError):
                found[parse_duration(name.removeprefix(WINDOW))] = limit
    return tuple(sorted(found.items()))


def number(text: str, otherwise: int, most: int) -> int:
    """Read a number of a query; `otherwise` where it is none."""
    return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 10 else otherwise


def live_url(request: Request, asked: Asked) -> str:
    """Return where the same view is followed."""
    service = f"/{quote(asked.service)}" if asked.service else ""
    query = f"?{request.url.query}" if request.url.query and not asked.service else ""
    return f"/live/{asked.view}{service}{query}"
