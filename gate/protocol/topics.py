"""The names of the gate's topics: the only place that knows how they are spelt."""

import re
import string
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

from gate.errors import GateError

MAX_TOPIC_LENGTH: Final = 249  # Kafka's limit: a partition is a directory named after its topic
PER_SERVICE: Final = frozenset({"requests", "admitted", "delayed", "rejected", "results", "retries", "feedback"})
_ALPHABET: Final = frozenset(string.ascii_letters + string.digits + "._-")
_MAX_TEMPLATE_LENGTH: Final = 200  # leaves a service 49 characters at the least


class TopicNameError(GateError, ValueError):
    """A name that Kafka would refuse, or templates that could be taken for one another."""


@dataclass(frozen=True, slots=True)
class Templates:
    """How each topic is spelt: `{prefix}` where wanted, `{service}` once in those that exist per service."""

    requests: str = "{prefix}.requests.{service}"
    admitted: str = "{prefix}.admitted.{service}"
    delayed: str = "{prefix}.delayed.{service}"
    rejected: str = "{prefix}.rejected.{service}"
    results: str = "{prefix}.results.{service}"
    retries: str = "{prefix}.retries.{service}"
    feedback: str = "{prefix}.feedback.{service}"
    alerts: str = "{prefix}.alerts"
    usage: str = "{prefix}.usage"
    state: str = "{prefix}.state"
    control: str = "{prefix}.control"
    answers: str = "{prefix}.answers"
    audit: str = "{prefix}.audit"
    leases: str = "{prefix}.leases"
    grants: str = "{prefix}.grants"
    policies: str = "{prefix}.policies"
    history: str = "{prefix}.history"


@dataclass(frozen=True)
class Names:
    """The topics of one gate; gates with different prefixes share a broker without meeting.

    Raises TopicNameError for a template that makes no topic, and where two templates could ever make the same one:
    a gate that took its own output for requests would feed itself.
    """

    prefix: str = "gate"
    templates: Templates = Templates()
    generation: int = 1  # of the state

    def __post_init__(self) -> None:
        for (one, a), (other, b) in combinations(self._patterns.items(), 2):
            if _may_meet(a, b):
                raise TopicNameError(
                    f"the templates of {one} ({'*'.join(a)!r}) and {other} ({'*'.join(b)!r}) can name the same topic; "
                    "give each a beginning or an end of its own"
                )

    def requests(self, service: str) -> str:
        """Name the topic that producers write to."""
        return service.join(self._patterns["requests"])

    def admitted(self, service: str) -> str:
        """Name the topic of what may go on now."""
        return service.join(self._patterns["admitted"])

    def delayed(self, service: str) -> str:
        """Name the topic of what waits."""
        return service.join(self._patterns["delayed"])

    def rejected(self, service: str) -> str:
        """Name the topic of what will not be admitted, and of what workers gave up."""
        return service.join(self._patterns["rejected"])

    def results(self, service: str) -> str:
        """Name the topic of what workers answer."""
        return service.join(self._patterns["results"])

    def retries(self, service: str) -> str:
        """Name the topic of failed jobs on their way back; the gate reads it as it reads requests."""
        return service.join(self._patterns["retries"])

    def feedback(self, service: str) -> str:
        """Name the topic of what workers tell: the only one that they write."""
        return service.join(self._patterns["feedback"])

    @property
    def alerts(self) -> str:
        """Breach and recovery events of all services."""
        return self._patterns["alerts"][0]

    @property
    def usage(self) -> str:
        """The newest usage per service; compacted."""
        return self._patterns["usage"][0]

    @property
    def state(self) -> str:
        """The limiters' state, in the generation that is in force; compacted."""
        first = self._patterns["state"][0]
        return first if self.generation == 1 else f"{first}.{self.generation}"

    def generation_of(self, topic: str) -> int | None:
        """Return of which generation a topic holds the state; None: it is another topic."""
        return self._generation(topic, "state")

    def leases_generation(self, topic: str) -> int | None:
        """Return to the shards of which generation holders report in a topic; None: it is another topic."""
        return self._generation(topic, "leases")

    def _generation(self, topic: str, kind: str) -> int | None:
        first = self._patterns[kind][0]
        if topic == first:
            return 1
        head, _, number = topic.rpartition(".")
        is_one = head == first and number.isdecimal() and number == str(int(number)) and int(number) > 1
        return int(number) if is_one else None

    @property
    def control(self) -> str:
        """Commands from operators."""
        return self._patterns["control"][0]

    @property
    def answers(self) -> str:
        """What became of each command."""
        return self._patterns["answers"][0]

    @property
    def audit(self) -> str:
        """Who did what, when and why; kept for good."""
        return self._patterns["audit"][0]

    @property
    def leases(self) -> str:
        """What holders of the distributed limiter want: a partition per shard of the generation that is in force."""
        first = self._patterns["leases"][0]
        return first if self.generation == 1 else f"{first}.{self.generation}"

    @property
    def grants(self) -> str:
        """What owners grant to holders."""
        return self._patterns["grants"][0]

    @property
    def policies(self) -> str:
        """Limits set while it runs, over the policy file; compacted."""
        return self._patterns["policies"][0]

    @property
    def history(self) -> str:
        """What each service was like in the last day; a partition holds some services."""
        return self._patterns["history"][0]

    @cached_property
    def requests_pattern(self) -> str:
        """Anchored regular expression of every request topic, for a subscription."""
        head, tail = map(re.escape, self._patterns["requests"])
        return rf"^{head}(?P<service>[a-zA-Z0-9._-]+){tail}\Z"

    def service_of(self, topic: str, kind: str = "requests") -> str | None:
        """Return the service whose request topic (or other `kind`) this is; None for any other topic."""
        head, tail = self._patterns[kind]
        service = topic[len(head) : len(topic) - len(tail)]
        is_one = service and _ALPHABET.issuperset(service) and topic == f"{head}{service}{tail}"
        return service if is_one else None

    def check_service_name(self, service: str) -> None:
        """Raise TopicNameError unless all topics of `service` have names that Kafka takes."""
        if not service:
            raise TopicNameError("the service's name is empty")
        if illegal := sorted(set(service) - _ALPHABET):
            raise TopicNameError(
                f"service {service[:60]!r} has {', '.join(map(repr, illegal))} in its name; "
                "Kafka takes letters, digits, '.', '_' and '-'"
            )
        room = MAX_TOPIC_LENGTH - max(sum(map(len, self._patterns[kind])) for kind in PER_SERVICE)
        if len(service) > room:
            raise TopicNameError(
                f"service '{service[:40]}...' has a name of {len(service)} characters; "
                f"{room} fit into a topic of {MAX_TOPIC_LENGTH}"
            )

    @cached_property
    def _patterns(self) -> dict[str, tuple[str, ...]]:
        """What stands around the service: (head, tail), or (topic,) where there is one for all."""
        return {kind: self._parts(kind, template) for kind, template in asdict(self.templates).items()}

    def _parts(self, kind: str, template: str) -> tuple[str, ...]:
        parts = tuple(template.replace("{prefix}", self.prefix).split("{service}"))
        if len(parts) != (2 if kind in PER_SERVICE else 1):
            wanted = "once" if kind in PER_SERVICE else "not at all"
            raise TopicNameError(f"the template of {kind}, {template!r}, must hold {{service}} {wanted}")
        text = "".join(parts)
        if set(text) - _ALPHABET or len(text) > _MAX_TEMPLATE_LENGTH or (len(parts) == 1 and text in {"", ".", ".."}):
            raise TopicNameError(
                f"the template of {kind}, {template!r}, with prefix {self.prefix!r} makes no topic that Kafka takes; "
                f"use letters, digits, '.', '_' and '-', at most {_MAX_TEMPLATE_LENGTH}"
            )
        return parts


def check_service_name(service: str) -> None:
    """Raise TopicNameError unless `service` can be a service under the usual names."""
    Names().check_service_name(service)


def _may_meet(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Tell whether two patterns have a topic in common, whatever stands for the service."""
    if len(a) == len(b) == 1:
        return a == b
    if len(a) == 1:
        a, b = b, a
    head, tail = a
    if len(b) == 1:
        return len(b[0]) > len(head) + len(tail) and b[0].startswith(head) and b[0].endswith(tail)
    # With a service long enough, only the beginnings and the ends can keep two patterns apart.
    heads, tails = sorted((head, b[0]), key=len), sorted((tail, b[1]), key=len)
    return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])
