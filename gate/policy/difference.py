"""The difference of two policies, for whom: effective values, not lines of text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gate.policy.origins import Origin
from gate.policy.policy import Policy

OTHERS = "(all others)"


@dataclass(frozen=True, slots=True)
class Change:
    """One field of one subject. `kind` is service, glob, group, others or settings; None: not there on that side."""

    kind: str
    name: str
    field: str
    before: Origin | None
    after: Origin | None


def difference(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Return what differs in effect, subject by subject; a service counts whether it is listed or covered otherwise."""
    return tuple(_changes(old, new))


def _changes(old: Policy, new: Policy) -> Iterator[Change]:
    for name in _union(old.services, new.services):
        yield from _compare("service", name, old.explain(name), new.explain(name))
    for name in _union(old.globs, new.globs):
        before = old.explain_glob(name) if name in old.globs else {}
        yield from _compare("glob", name, before, new.explain_glob(name) if name in new.globs else {})
    yield from _compare("others", OTHERS, old.explain_others(), new.explain_others())
    for name in _union(old.groups, new.groups):
        before = old.explain_group(name) if name in old.groups else {}
        yield from _compare("group", name, before, new.explain_group(name) if name in new.groups else {})
    yield from _compare("settings", "settings", _settings(old), _settings(new))


def _compare(kind: str, name: str, old: Mapping[str, Origin], new: Mapping[str, Origin]) -> Iterator[Change]:
    for field in _union(old, new):
        if field == "extends":
            continue  # what it brings is compared
        before, after = old.get(field), new.get(field)
        if (before.meaning if before else None) != (after.meaning if after else None):
            yield Change(kind, name, field, before, after)


def _settings(policy: Policy) -> dict[str, Origin]:
    said: Any = policy.settings.model_dump(mode="json")
    topics = {f"topics.{kind}": template for kind, template in said.pop("topics").items()}
    return {name: Origin(value, value, "file") for name, value in (said | topics).items()}


def _union(old: Mapping[str, Any] | tuple[str, ...], new: Mapping[str, Any] | tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([*new, *old]))
