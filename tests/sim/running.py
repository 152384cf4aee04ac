"""What ran at any time, recomputed from the topics alone; serves the simulation and real brokers.

A batch is known by the time at which it was decided: the state says with each how far feedback was read for it. So it
is known which tellings had been heard when it admitted, whatever clocks show.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from gate.admission.state import decode
from gate.policy import Policy
from gate.protocol.feedback import Finished
from gate.protocol.topics import Names
from gate.shard.changelog_records import META_KEY, Meta
from gate.shard.feedback_state import FeedbackPositionsRecord

MS = 1_000_000


@dataclass(slots=True)
class _Service:
    admitted: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # by id: at (ns), tenant, policy version
    told: list[tuple[int, int, list[str]]] = field(default_factory=list)  # partition and offset of feedback, ids
    heard: list[tuple[int, Mapping[int, int]]] = field(default_factory=list)  # batch (ns), up to which offsets


class RunningChecker:
    """Takes what is admitted, told and written as state; `problems` says where more ran than may."""

    def __init__(self, names: Names, policies: Mapping[str, Policy]) -> None:
        self._names = names
        self._policies = policies  # by version
        self.services: dict[str, _Service] = {}
        self._batches: dict[int, int] = {}  # by partition of the state, the newest

    def admit(self, service: str, request: str, at: int, tenant: str, version: str) -> None:
        """Take a request that was admitted at a time in ns."""
        self._of(service).admitted[request] = (at, tenant, version)

    def tell(self, topic: str, partition: int, offset: int, value: bytes | None) -> bool:
        """Take a record; False: it is of no feedback topic."""
        service = self._names.service_of(topic, "feedback")
        if service is None:
            return False
        try:
            ids = msgspec.json.decode(value or b"", type=Finished).ids
        except msgspec.DecodeError:
            ids = []
        self._of(service).told.append((partition, offset, ids))
        return True

    def write(self, partition: int, key: str, value: bytes | None) -> None:
        """Take a record of the state, in the order of its partition."""
        if key == META_KEY and value is not None:
            self._batches[partition] = msgspec.json.decode(value, type=Meta).at
        elif key.startswith("returns/") and value is not None:
            record = decode(key, value, FeedbackPositionsRecord)
            batch = self._of(key.removeprefix("returns/")), self._batches[partition]
            batch[0].heard.append((batch[1], dict(record.feedback)))

    def _of(self, service: str) -> _Service:
        return self.services.setdefault(service, _Service())

    def problems(self) -> Iterator[str]:
        """Yield each moment at which more ran of a service, a tenant or a group than may."""
        groups: dict[str, list[tuple[int, int, str]]] = {}
        for name, service in self.services.items():
            spans = list(self._spans(name, service))
            yield from _above(name, [span[:3] for span in spans], lambda v, name=name: self._most(v, name))
            for tenant in {span[3] for span in spans}:
                own = [span[:3] for span in spans if span[3] == tenant]
                yield from _above(f"{name}/{tenant}", own, lambda v, name=name, t=tenant: self._most(v, name, t))
            for span in spans:
                group = self._policies[span[2]].effective(name).group
                if group is not None:
                    groups.setdefault(group, []).append(span[:3])
        for group, together in groups.items():
            yield from _above(f"group {group}", together, lambda v, group=group: self._most_of_group(v, group))

    def _spans(self, name: str, service: _Service) -> Iterator[tuple[int, int, str, str]]:
        """Yield when each request began to run and when it ended as the gate heard it, with version and tenant."""
        heard = sorted(service.heard, key=lambda batch: batch[0])
        ends: dict[str, list[int]] = {}
        for partition, offset, ids in service.told:
            # how far it is read never goes back
            index = bisect_right(heard, offset, key=lambda batch, number=partition: batch[1].get(number, 0))
            if index < len(heard):
                for request in ids:
                    ends.setdefault(request, []).append(heard[index][0])
        for request, (at, tenant, version) in service.admitted.items():
            timeout = self._policies[version].effective(name).running_timeout
            told = min((end for end in ends.get(request, ()) if end > at), default=2**62)
            yield at, min(told, 2**62 if timeout is None else at + timeout), version, tenant

    def used(self, service: str, most: int, begin: int, end: int) -> float:
        """Return the share of `most` places of a service that were taken between two times, in ns."""
        spans = self._spans(service, self._of(service))
        taken = sum(max(0, min(ended, end) - max(began, begin)) for began, ended, _, _ in spans)
        return taken / most / (end - begin)

    def _most(self, version: str, service: str, tenant: str | None = None) -> int | None:
        policy = self._policies[version].effective(service)
        spec = policy.spec if tenant is None else policy.tenant(tenant)
        return None if spec is None or spec.running is None else spec.running.capacity

    def _most_of_group(self, version: str, group: str) -> int | None:
        found = self._policies[version].group(group)
        return None if found is None or found.spec.running is None else found.spec.running.capacity


def _above(name: str, spans: list[tuple[int, int, str]], most: Callable[[str], int | None]) -> Iterator[str]:
    """Yield where more run; in one moment ends come before begins, as feedback is heard before a batch is decided."""
    events = sorted([(at, 1, version) for at, _, version in spans] + [(end, -1, version) for _, end, version in spans])
    events.sort(key=lambda event: (event[0], event[1]))
    runs = 0
    for at, change, version in events:
        runs += change
        limit = most(version)
        if change > 0 and limit is not None and runs > limit:
            yield f"running: {runs} of {name} ran at {at // MS}, and {limit} may"
