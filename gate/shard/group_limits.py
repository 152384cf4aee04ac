"""Limits of groups that are set live: what a command about one may ask for. No I/O.

The services of a group lie on one shard, which is that of the group itself: whoever owns it carries these commands out,
also before a service of the group has come.
"""

from collections.abc import Iterable
from typing import Final

from gate.protocol.control import ClearLimit, ImportLimits, LimitCommand, SetLimit
from gate.protocol.policies import group_of

_NAMED: Final = 20  # groups, to somebody who named another


def refusal_of(command: LimitCommand, groups: Iterable[str]) -> tuple[str, str] | None:
    """Tell why a command can't be about the group that it names, and what to do; None: it can, or names a service."""
    group = group_of(command.service)
    if group is None:
        return None
    if isinstance(command, ImportLimits) or command.tenant or (isinstance(command, ClearLimit) and command.all):
        return f"group {group} has no tenants", "set the limits of tenants for its services"
    if isinstance(command, SetLimit) and group not in groups:
        known = ", ".join(sorted(groups)[:_NAMED])
        told = f"known are {known}" if known else "the policy file of its gate has none"
        return f"there is no group {group!r}; {told}", "check the name, and `groups` in the policy file"
    return None
