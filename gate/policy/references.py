"""References between the parts of a document: names that must exist, and chains that must end.

Works on plain data, so that these problems are reported together with those of single fields.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from gate.policy.document import Document
from gate.policy.errors import Loc, Problem, did_you_mean, dotted, quoted
from gate.policy.fields import is_zero
from gate.policy.layers import Layers, merge
from gate.policy.names import MAX_TOPIC, is_glob
from gate.policy.settings import Settings
from gate.policy.source import Node


def check_references(root: Node, settings: Settings) -> list[Problem]:
    """Find unknown templates and groups, templates that extend themselves, and names too long for a topic."""
    problems = []
    templates, groups = _section(root, "templates"), _section(root, "groups")
    for loc, entry in _entries(root):
        for at, name in _extends(entry):
            if isinstance(name, str) and name not in templates:
                where = root.locate((*loc, "extends", *at))
                problems.append(_unknown("template", name, (*loc, "extends"), where, templates))
        group = entry.get("group")
        if isinstance(group, str) and group not in groups:
            where = root.locate((*loc, "group"))
            problems.append(_unknown("group", group, (*loc, "group"), where, groups))
    problems += _matches(root)
    problems += _blocked_groups(groups, root)
    room = MAX_TOPIC - settings.topics.overhead(settings.prefix)
    for name in _section(root, "services"):
        if len(name) > room and not is_glob(name):
            message = f"a name of {len(name)} characters does not fit into a topic's name of {MAX_TOPIC}"
            where = root.locate(("services", name), key=True)
            problems.append(Problem(message, dotted(("services", name)), where, f"use at most {room}"))
    return problems + list(_cycles(root, templates))


def check_resolved(root: Node, document: Document, layers: Layers) -> Iterator[Problem]:
    """Find what only the fields of an entry together can get wrong."""
    for name in document.services:
        said = merge(layers.stack_glob(name) if is_glob(name) else layers.stack(name))
        by = said.get("max_in_flight")
        if by is None or by.fields["max_in_flight"] is None:
            continue
        worker = said.get("worker_group")
        if worker is None or worker.fields["worker_group"] is None:
            loc = by.place("max_in_flight")
            yield Problem(
                f"without worker_group nothing tells what is in flight of {quoted(name)}",
                dotted(loc),
                root.locate(loc, key=True),
                "set worker_group to the consumer group of the workers",
            )


def _blocked_groups(groups: dict[str, Any], root: Node) -> Iterator[Problem]:
    """Find shared budgets of nothing: what becomes of who can't go is for each service to say."""
    for name, said in groups.items():
        rate = said.get("requests_per_second") if isinstance(said, dict) else None
        if is_zero(rate):
            loc = ("groups", name, "requests_per_second")
            hint = "set requests_per_second: 0 for its services"
            yield Problem("a budget that services share can't be 0", dotted(loc), root.locate(loc), hint)


def _matches(root: Node) -> Iterator[Problem]:
    """Find what matches requests of Envoy where no service is named, twice, or by a tenant that is no key."""
    seen: dict[tuple[Any, ...], str] = {}
    for loc, entry in _entries(root):
        if entry.get("match") is None:
            continue
        at = (*loc, "match")
        if loc[0] != "services" or is_glob(str(loc[-1])):
            hint = "write it below `services`, at a name without `*` and `?`"
            yield Problem(
                "only a service with a name of its own can match", dotted(at), root.locate(at, key=True), hint
            )
            continue
        listed = entry["match"] if isinstance(entry["match"], list) else [entry["match"]]
        for one in listed:
            descriptors = one.get("descriptors") if isinstance(one, dict) else None
            if not isinstance(descriptors, dict):
                continue
            tenant = one.get("tenant")
            if tenant is not None and tenant not in descriptors:
                message = f"the tenant {quoted(tenant)} is no key of the descriptors"
                hint = f"known keys: {', '.join(map(str, descriptors))}"
                yield Problem(message, dotted((*at, "tenant")), root.locate(at), hint)
            what = (one.get("domain"), *sorted((str(key), str(value)) for key, value in descriptors.items()))
            other = seen.setdefault(what, str(loc[-1]))
            if other != loc[-1]:
                hint = "each descriptor belongs to one service: let the keys or values differ"
                yield Problem(f"matches what {quoted(other)} matches", dotted(at), root.locate(at), hint)


def _cycles(root: Node, templates: dict[str, Any]) -> Iterator[Problem]:
    graph = {
        name: {base for _, base in _extends(entry) if isinstance(base, str) and base in templates}
        for name, entry in templates.items()
        if isinstance(entry, dict)
    }
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1]
            name = min(cycle)
            turn = cycle[:-1][::-1]
            turn = [*turn[turn.index(name) :], *turn[: turn.index(name)], name]
            loc = ("templates", name, "extends")
            yield Problem(
                f"extends itself: {' > '.join(turn if len(turn) < 10 else [*turn[:9], '...'])}",
                dotted(loc),
                root.locate(loc),
                "take one of them out of the ring",
            )
            graph |= {name: set() for name in cycle}
        else:
            return


def _section(root: Node, key: str) -> dict[str, Any]:
    found = root.value.get(key)
    return found if isinstance(found, dict) else {}


def _entries(root: Node) -> Iterator[tuple[Loc, dict[str, Any]]]:
    if isinstance(root.value.get("defaults"), dict):
        yield ("defaults",), root.value["defaults"]
    for key in ("templates", "services"):
        for name, entry in _section(root, key).items():
            if isinstance(entry, dict):
                yield (key, name), entry


def _extends(entry: dict[str, Any]) -> list[tuple[Loc, Any]]:
    """Return each name that an entry extends, with its place in the field."""
    extends = entry.get("extends")
    if isinstance(extends, list):
        return [((at,), name) for at, name in enumerate(extends)]
    return [((), extends)]


def _unknown(kind: str, name: str, loc: Loc, where: Any, known: dict[str, Any]) -> Problem:
    hint = did_you_mean(name, known) or (
        f"known {kind}s: {', '.join(list(known)[:8])}" if known else f"there are no {kind}s: add `{kind}s:`"
    )
    return Problem(f"unknown {kind} {quoted(name)}", dotted(loc), where, hint)
