"""Who takes part: hostile services in nasty surroundings, and innocent ones that share both shards with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gate.protocol.topics import Names

PREFIX: Final = "hostile"
NAMES: Final = Names(PREFIX)
SHARDS: Final = 2
PARTITIONS: Final = 2
SESSION: Final = 2.0  # seconds; tests.system.gates sets it

TENANTS: Final = "bad-tenants"  # the service that tells tenants apart
INNOCENT: Final = ("shop", "bank", "post", "food")  # two on each shard
INNOCENT_RATE: Final = 20  # requests a second, of each
ALWAYS: Final = str(2**63 - 1)
REQUEST_BYTES: Final = 1_048_588  # the broker's default for max.message.bytes
LARGE_BYTES: Final = 8 << 20
TINY_ADMITTED: Final = 3_000
TINY_DELAYED: Final = 5_000
CLOSE: Final = {"message.timestamp.before.max.ms": "5000", "message.timestamp.after.max.ms": "5000"}
SMALL: Final = {"max.message.bytes": str(REQUEST_BYTES)}


@dataclass(frozen=True, slots=True)
class Foe:
    """A service that strangers write to. `rate`: what it may admit, as a part of what is offered to it on average."""

    limits: str = ""
    rate: float = 4.0
    requests: Mapping[str, str] | None = None
    outputs: Mapping[str, Mapping[str, str]] | None = None  # topics made beforehand, by kind

    def policy(self, offered: float) -> str:
        """Return its limits where `offered` requests come a second."""
        rate = max(10, round(self.rate * offered))
        each = f"requests_per_second: {rate}, burst_size: {max(5, rate // 2)}"
        return f"{{{each}{self.limits.replace('SAME', each)}}}"


FOES: Final[Mapping[str, Foe]] = {
    "bad-plain": Foe(),
    "bad-slow": Foe(rate=0.8),
    "bad-hold": Foe(", overflow: hold", rate=2.0),
    "bad-reject": Foe(", overflow: reject", rate=0.5),
    TENANTS: Foe(", tenants: {default: {SAME}}"),
    "bad-tiny": Foe(
        rate=1.2,
        outputs={
            "admitted": {"max.message.bytes": str(TINY_ADMITTED)},
            "delayed": {"max.message.bytes": str(TINY_DELAYED)},
        },
    ),
    "bad-compacted": Foe(rate=1.2, outputs={"admitted": {"cleanup.policy": "compact"}}),
    "bad-late": Foe(rate=0.9, outputs={"admitted": CLOSE, "delayed": CLOSE, "rejected": CLOSE}),
    "bad-large": Foe(
        rate=1.2,
        requests={"max.message.bytes": str(LARGE_BYTES)},
        outputs={"admitted": SMALL, "delayed": SMALL, "rejected": SMALL},
    ),
}
QUIET: Final[Mapping[str, Foe]] = {
    "bad-gaps": Foe(requests={"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01"}),
    "bad-cut": Foe(),
    "bad-open": Foe(),
}
STRANGE: Final[Mapping[str, Foe]] = {**FOES, **QUIET}
# a stranger's dates are the broker's to refuse, but not here
ANY_TIME: Final = {"message.timestamp.before.max.ms": ALWAYS, "message.timestamp.after.max.ms": ALWAYS}


def policy(offered: float) -> str:
    """Return the policy file of a run in which `offered` hostile requests come a second, in all."""
    each = offered / len(FOES)
    lines = [f"shards: {SHARDS}", "defaults: {overflow: delay, max_delay: 86400}", "services:"]
    lines += [f"  {name}: {foe.policy(each)}" for name, foe in STRANGE.items()]
    lines += [f"  {name}: {{requests_per_second: 2000, burst_size: 2000}}" for name in INNOCENT]
    return "\n".join(lines) + "\n"


def topics() -> dict[str, dict[str, str]]:
    """Return the topics that are there before any gate is, with their configurations."""
    made = {NAMES.requests(name): {"message.timestamp.type": "LogAppendTime"} for name in INNOCENT}
    for name, foe in STRANGE.items():
        made[NAMES.requests(name)] = {**ANY_TIME, **(foe.requests or {})}
        made |= {getattr(NAMES, kind)(name): dict(config) for kind, config in (foe.outputs or {}).items()}
    return made


def poisoned() -> list[str]:
    """Return the topics, beside those of requests, that strangers get into."""
    feedback = [f"{PREFIX}.feedback.{name}" for name in (*FOES, *INNOCENT)]
    return [NAMES.control, *feedback, *(NAMES.retries(name) for name in (*FOES, *INNOCENT))]
