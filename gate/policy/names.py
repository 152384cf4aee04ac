"""Names of services, tenants, lanes, groups and templates, and the globs that stand for many."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import PlainValidator

from gate.policy.errors import quoted
from gate.policy.fields import wrong

DEFAULT: Final = "default"  # the lane, and the tenants' entry, for whoever is not named
MAX_TOPIC: Final = 249  # characters Kafka allows in a topic's name

_WILDCARDS: Final = frozenset("*?")
_SERVICE: Final = re.compile(r"[a-zA-Z0-9._-]+")
_SERVICE_GLOB: Final = re.compile(r"[a-zA-Z0-9._*?-]+")
_LABEL: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")
MAX_TENANT: Final = 256


def is_glob(name: str) -> bool:
    """Tell a glob (it has `*` or `?`) from a name."""
    return not _WILDCARDS.isdisjoint(name)


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern over whole names: `*` is any text, `?` any one character, all else itself."""

    pattern: str
    matches: Callable[[str], bool]

    @classmethod
    def compile(cls, pattern: str) -> "Glob":
        """Compile a pattern; what it becomes does not backtrack, so that a hostile name costs no time."""
        regex = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
        return cls(pattern, lambda name: regex.match(name) is not None)

    @property
    def literals(self) -> int:
        """Characters that stand for themselves: the more, the more specific."""
        return sum(char not in _WILDCARDS for char in self.pattern)


def globs_of(names: Iterable[str]) -> tuple[Glob, ...]:
    """Compile the globs among `names`, the less specific first; equals stay in the order given."""
    return tuple(sorted(map(Glob.compile, filter(is_glob, names)), key=lambda glob: glob.literals))


def stands_for_many(tenant: str) -> bool:
    """Tell whether the name of a tenant is none, but stands for those that others do not name."""
    return tenant == DEFAULT or is_glob(tenant)


def read_service(value: object) -> str:
    """Read a service's name or glob: what can stand in a topic's name."""
    name = _text(value, "a service's name")
    allowed = _SERVICE_GLOB if is_glob(name) else _SERVICE
    if not allowed.fullmatch(name) or name in {".", ".."}:
        raise wrong(f"{quoted(name)} cannot be a service", "use letters, digits, `.`, `_`, `-`; `*` and `?` in a glob")
    return name


def read_tenant(value: object) -> str:
    """Read a tenant's name or glob: any printable text of at most 256 characters."""
    name = _text(value, "a tenant's name")
    if not 0 < len(name) <= MAX_TENANT or not name.isprintable() or name != name.strip():
        raise wrong(f"{quoted(name)} cannot be a tenant", f"use 1 to {MAX_TENANT} printable characters")
    return name


def read_label(value: object) -> str:
    """Read the name of a lane, group or template: it may become a metric's label or part of a key."""
    name = _text(value, "a name")
    if not _LABEL.fullmatch(name):
        raise wrong(
            f"{quoted(name)} cannot be a name here",
            "use 1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit",
        )
    return name


def read_extends(value: object) -> tuple[str, ...]:
    """Read the name of a template, or a list of them."""
    if isinstance(value, list | tuple):
        return tuple(map(read_label, value))
    return (read_label(value),)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        raise wrong(f"must be {what}, not {quoted(value)}", f'write "{value}" in quotes' if number else "")
    return value


ServiceName = Annotated[str, PlainValidator(read_service)]
TenantName = Annotated[str, PlainValidator(read_tenant)]
Label = Annotated[str, PlainValidator(read_label)]
Extends = Annotated[tuple[str, ...], PlainValidator(read_extends)]
