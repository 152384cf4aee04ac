"""Topics as the gate wants them, and CreateTopics requests that leave the number of copies to the broker.

aiokafka's own go as far as version 3; a replication factor of -1 came with version 4 (Kafka 2.4), in the same form.
Layout: https://kafka.apache.org/protocol#The_Messages_CreateTopics
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiokafka import errors

from gate.errors import GateError
from gate.kafka.aio.client import Client
from gate.kafka.aio.compat.shared import CreateTopicsRequest, CreateTopicsRequest_v3, CreateTopicsResponse_v3
from gate.kafka.aio.described import describe
from gate.log import get_logger

MIN_ISR: Final = "min.insync.replicas"
BROKERS_OWN: Final = -1
TIMEOUT_MS: Final = 15_000
BACKOFF: Final = 0.1
SAFE: Final = 3  # copies, of which two must have what is acknowledged: one broker may be away at any time
# what a broker answers that does not let a setting be set
SETTINGS_REFUSED: Final = (errors.InvalidConfigurationError, errors.PolicyViolationError)


log = get_logger("gate.topics")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as the gate wants it: what is `needed` keeps promises, what is `wished` is for comfort."""

    name: str
    partitions: int
    needed: Mapping[str, str]
    wished: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, str]:
        """All of its settings."""
        return {**self.needed, **self.wished}

    def command(self) -> str:
        """Return the command by which an operator would create it: with what some brokers refuse left out."""
        config = "".join(f" --config {key}={value}" for key, value in self.needed.items())
        return f"kafka-topics.sh --create --topic {self.name} --partitions {self.partitions}{config}"


class Copies(NamedTuple):
    """How many copies topics get, and how many of them must be in sync; None: as the broker has it."""

    factor: int
    min_isr: int | None


def choose_copies(setting: int, brokers: int, default: int | None) -> Copies:
    """Return with how many copies topics are created, by `replication_factor` and what a cluster tells of itself.

    `default`: the brokers' own number, which is 1 where nobody has chosen; None: they do not tell.
    """
    if setting != BROKERS_OWN:
        return Copies(setting, 2 if setting >= SAFE else None)
    if brokers >= SAFE:
        return Copies(min(brokers, max(SAFE, default or 0)), 2)
    # two in sync with a factor of one would make a topic unwritable, so nothing is said of it where one may come out
    return Copies(BROKERS_OWN if default is None else default, None)


class _CreateTopicsV4(CreateTopicsRequest_v3):  # type: ignore[misc]
    API_VERSION = 4
    RESPONSE_TYPE = CreateTopicsResponse_v3  # the same since version 2


class CreateTopics(CreateTopicsRequest):  # type: ignore[misc]
    """A request to create topics, with `copies` each."""

    def __init__(self, specs: Sequence[TopicSpec], copies: Copies, *, wished: bool, timeout_ms: int) -> None:
        topics: list[Any] = [
            (spec.name, spec.partitions, copies.factor, [], list(_config(spec, copies, wished=wished).items()))
            for spec in specs
        ]
        super().__init__(topics, timeout_ms, validate_only=False)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return it in the newest form that the broker understands."""
        least, most = versions.get(self.API_KEY, (0, 0))
        return self.build(_CreateTopicsV4) if least <= 4 <= most else super().prepare(versions)


def left_out(spec: TopicSpec, copies: Copies) -> tuple[str, ...]:
    """Return the settings that a topic is created without where only what is needed is set."""
    return tuple(key for key in _config(spec, copies, wished=True) if key not in spec.needed)


def _config(spec: TopicSpec, copies: Copies, *, wished: bool) -> dict[str, str]:
    isr = {} if copies.min_isr is None else {MIN_ISR: str(copies.min_isr)}
    return {**spec.needed, **spec.wished, **isr} if wished else dict(spec.needed)


def refusal_hint(spec: TopicSpec, error: type[errors.KafkaError]) -> str:
    """Return what to do about a topic that could not be created although only what is needed was asked for."""
    if issubclass(error, SETTINGS_REFUSED):  # by whatever tool it is tried, with these it will be refused again
        names = ", ".join(spec.needed) or "none"
        return (
            f"the gate can do without all settings of it but {names}: have whoever runs the brokers allow them for"
            f" {spec.name}, or name another topic under `topics` that has them"
        )
    return f"create it yourself: {spec.command()}"


class Creator:
    """Creates topics; `broker_configs` returns a broker's settings, as far as it tells them."""

    def __init__(
        self,
        client: Client,
        replication: int,
        broker_configs: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> None:
        self._client = client
        self._replication = replication
        self._broker_configs = broker_configs

    async def _copies(self) -> Copies:
        """Return with how many copies topics are created now."""
        if self._replication != BROKERS_OWN:
            return choose_copies(self._replication, 0, None)
        brokers = (await describe(self._client)).brokers
        default = (await self._broker_configs()).get("default.replication.factor")
        return choose_copies(self._replication, len(brokers), int(default) if default else None)

    async def create(self, missing: Sequence[TopicSpec]) -> None:
        """Create topics, with less where a broker refuses what can be done without. Raises GateError."""
        copies, wished, pending = await self._copies(), True, list(missing)
        while refused := await self._create_topics(pending, copies, wished=wished):
            pending = [spec for spec in pending if spec.name in refused]
            kinds = {kind for kind, _ in refused.values()}
            if any(issubclass(kind, SETTINGS_REFUSED) for kind in kinds) and wished:
                wished = False
                for spec in pending:
                    log.warning(
                        "a broker refuses settings; a topic is created with those alone that the gate can't do without",
                        topic=spec.name, without=sorted(left_out(spec, copies)), why=refused[spec.name][1],
                    )  # fmt: skip
            elif errors.InvalidReplicationFactorError in kinds and self._replication == BROKERS_OWN != copies.factor:
                copies = Copies(BROKERS_OWN, None)
            elif kinds == {errors.NotControllerError}:
                await self._client.force_metadata_update()
                await asyncio.sleep(BACKOFF)
            else:
                spec = pending[0]
                kind, why = refused[spec.name]
                raise GateError(f"topic {spec.name} could not be created: {why}", hint=refusal_hint(spec, kind))

    async def _create_topics(
        self, specs: Sequence[TopicSpec], copies: Copies, *, wished: bool
    ) -> dict[str, tuple[type[errors.KafkaError], str]]:
        """Return those that were not created, and why. One that is there already counts as created."""
        request = CreateTopics(specs, copies, wished=wished, timeout_ms=TIMEOUT_MS)
        # aiokafka's own call takes no factor of -1
        while not await self._client.ready(node := (await describe(self._client)).controller):  # noqa: ASYNC110
            await asyncio.sleep(BACKOFF)
        answer = await self._client.send(node, request)
        refused = {}
        for topic, code, *rest in answer.topic_errors:
            if code and (kind := errors.for_code(code)) is not errors.TopicAlreadyExistsError:
                refused[topic] = kind, (rest[0] if rest and rest[0] else kind.__name__)
        return refused
