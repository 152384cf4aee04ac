"""Matching of what Envoy asks about: which service and tenant a descriptor belongs to."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from gate.policy import Policy
from gate.policy.names import MAX_TENANT, Glob, is_glob

NOBODY: Final = "-"  # who names no tenant where one is asked for: all of them are one


class Target(NamedTuple):
    """Whose limits count."""

    service: str
    tenant: str = ""


def target(service: str, tenant: str) -> Target:
    """Return whose limits count; a tenant's name of more characters than a policy can spell is known by its hash."""
    return Target(service, tenant if len(tenant) <= MAX_TENANT else hashlib.sha256(tenant.encode()).hexdigest())


class _Rule(NamedTuple):
    service: str
    exact: Mapping[str, str]
    globs: Mapping[str, Glob]
    tenant: str | None

    @property
    def order(self) -> tuple[int, int]:
        """Sort the more specific first: more exact values, then more characters that stand for themselves."""
        return -len(self.exact), -sum(glob.literals for glob in self.globs.values())

    def fits(self, entries: Mapping[str, str]) -> bool:
        return all(entries[key] == value for key, value in self.exact.items()) and all(
            glob.matches(entries[key]) for key, glob in self.globs.items()
        )


class Matcher:
    """All that the services of a policy match. The most specific of several that fit counts, then the first."""

    def __init__(self, policy: Policy) -> None:
        self._rules: dict[tuple[str, frozenset[str]], list[_Rule]] = {}
        for service in policy.services:
            for match in policy.effective(service).match:
                exact = {key: value for key, value in match.descriptors.items() if not is_glob(value)}
                globs = {key: Glob.compile(value) for key, value in match.descriptors.items() if is_glob(value)}
                rule = _Rule(service, exact, globs, match.tenant)
                self._rules.setdefault((match.domain, frozenset(match.descriptors)), []).append(rule)
        for rules in self._rules.values():
            rules.sort(key=lambda rule: rule.order)

    def find(self, domain: str, entries: Iterable[tuple[str, str]]) -> Target | None:
        """Return whose limits count for a descriptor; None where no service matches its keys and values."""
        given = dict(entries)
        for rule in self._rules.get((domain, frozenset(given)), ()):
            if rule.fits(given):
                return target(rule.service, "" if rule.tenant is None else given[rule.tenant] or NOBODY)
        return None
