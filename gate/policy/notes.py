"""Notes on a policy: what is allowed, and yet may not be what its author had in mind."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from gate.policy.compiled import ServicePolicy, is_limited
from gate.policy.errors import Loc, dotted
from gate.policy.fields import Overflow
from gate.policy.layers import Layer, merge
from gate.policy.policy import Policy
from gate.policy.wording import spell_duration, spell_rate

BATCH_SECONDS: Final = Fraction(1, 50)  # from one batch of a busy shard to the next, roughly


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on one field or entry, with its line in the file."""

    field: str
    message: str
    line: int


def notes_on(policy: Policy) -> tuple[Note, ...]:
    """Return remarks on a valid policy, in the order of the file."""
    found = [
        Note(dotted(loc), message, policy.root.locate(loc, key=True).line)
        for part in (_on_policy, _on_services, _on_groups, _on_templates, _on_names)
        for loc, message in part(policy)
    ]
    return tuple(sorted(found, key=lambda note: note.line))


def _on_policy(policy: Policy) -> Iterator[tuple[Loc, str]]:
    if not (policy.services or policy.globs or policy.layers.defaults):
        yield (), "no service and no defaults: nothing is limited"


def _on_services(policy: Policy) -> Iterator[tuple[Loc, str]]:
    entries = [(name, policy.effective(name), policy.layers.stack(name)) for name in policy.services]
    entries += [(glob, policy.glob(glob), policy.layers.stack_glob(glob)) for glob in policy.globs]
    for name, service, stack in entries:
        loc = ("services", name)
        if service.blocked_until:
            yield loc, "requests_per_second is 0: it is blocked, nothing of it is admitted"
        elif not is_limited(service.spec):
            yield loc, "no requests_per_second and no window_limit applies: it is unlimited"
        yield from ((loc, message) for message in _on_limits(service, stack))
        if service.default_lane not in {"default", next(iter(service.lanes))}:
            yield loc, f'requests that name no lane of it go to "{service.default_lane}", the lightest'
        if service.shadow:
            yield loc, "shadow: decides and reports, and admits everything"


def _on_limits(service: ServicePolicy, stack: list[Layer]) -> Iterator[str]:
    said, spec = merge(stack), service.spec
    by = said.get("burst_size")
    if spec.rate is None and by and by.source != "defaults":
        yield "burst_size has no effect without requests_per_second"
    if spec.rate is not None and spec.burst < spec.rate * BATCH_SECONDS:
        enough = math.ceil(spec.rate * BATCH_SECONDS)
        yield (
            f"burst_size {spec.burst} is full again before a busy gate decides its next batch, after some"
            f" {float(1000 * BATCH_SECONDS):.0f} ms, so less than requests_per_second is admitted; {enough} would do"
        )
    for limit in spec.limits if spec.rate is not None else ():
        if limit.capacity < spec.burst:
            allowed = limit.words(spell_rate, spell_duration)
            yield f"burst_size {spec.burst} is never reached: a {limit.reason} allows {allowed}"
    by = said.get("max_delay")
    if service.overflow is not Overflow.DELAY and service.max_delay is not None and by and by.source != "defaults":
        yield f"max_delay has no effect with overflow: {service.overflow}"


def _on_groups(policy: Policy) -> Iterator[tuple[Loc, str]]:
    layers = [*policy.layers.templates.values(), *policy.layers.exact.values()]
    layers += [layer for _, layer in policy.layers.globs]
    layers += [policy.layers.defaults] if policy.layers.defaults else []
    used = {layer.fields.get("group") for layer in layers}
    for name, group in policy.groups.items():
        if name not in used:
            yield ("groups", name), "no service shares this budget"
        if not is_limited(group.spec):
            yield ("groups", name), "no requests_per_second and no window_limit: it limits nothing"


def _on_templates(policy: Policy) -> Iterator[tuple[Loc, str]]:
    layers = [*policy.layers.templates.values(), *policy.layers.exact.values()]
    layers += [layer for _, layer in policy.layers.globs]
    used = {name for layer in layers for name in layer.fields.get("extends") or ()}
    for name in policy.layers.templates:
        if name not in used:
            yield ("templates", name), "nothing extends this template"


def _on_names(policy: Policy) -> Iterator[tuple[Loc, str]]:
    first: dict[str, str] = {}
    for name in policy.services:
        other = first.setdefault(name.replace(".", "_"), name)
        if other != name:
            yield (
                ("services", name),
                f'Kafka takes "." and "_" for the same in metrics, so it refuses topics of both "{other}" and "{name}"',
            )
