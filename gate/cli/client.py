"""The connection of a command: its options, and what they, variables and a policy file come to."""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from aiokafka.errors import KafkaError
from cyclopts import CycloptsError, Parameter
from pydantic_core import PydanticCustomError

from gate.cli.logs import take_over_libraries
from gate.cli.options import Duration, Flag, Seconds, read_seconds
from gate.config import Connection
from gate.errors import GateError
from gate.kafka.aio.client import Client as Connections
from gate.kafka.cluster import Cluster
from gate.kafka.connect import check_bootstrap, wait_for_broker
from gate.policy import Policy, Settings, load_policy
from gate.policy.names import read_label
from gate.policy.settings import CONFIG
from gate.protocol.topics import Names, check_service_name

__all__ = [
    "Client",
    "Duration",
    "Flag",
    "Group",
    "OptionalService",
    "Seconds",
    "Service",
    "log_to_stderr",
    "read_seconds",
    "say",
]

BROKER_DEFAULT: Final = -1  # replication factor
_PATIENCE: Final = 10.0  # seconds that somebody at a terminal waits for a broker, unless told otherwise
_CALL_MS: Final = 10_000


def _is_bootstrap(_type: Any, value: str | None) -> None:
    try:
        if value is not None:
            check_bootstrap(value)
    except GateError as error:
        raise ValueError(f"{error}; {error.hint}") from error


def _is_prefix(_type: Any, value: str | None) -> None:
    if value is not None:
        Names(value)


def _is_group(_type: Any, value: str | None) -> None:
    try:
        if value is not None:
            read_label(value)
    except PydanticCustomError as error:
        raise ValueError(str(error)) from error


def _is_service(_type: Any, value: str | None) -> None:
    if value is not None:
        check_service_name(value)


Service = Annotated[str, Parameter(validator=_is_service)]
Group = Annotated[str | None, Parameter(validator=_is_group)]
OptionalService = Annotated[str | None, Parameter(validator=_is_service)]
Bootstrap = Annotated[str, Parameter(env_var="GATE_BOOTSTRAP", validator=_is_bootstrap)]
Prefix = Annotated[str, Parameter(env_var="GATE_PREFIX", validator=_is_prefix)]
Timeout = Annotated[Seconds, Parameter(env_var="GATE_CONNECT_TIMEOUT")]


@Parameter(name="*")
@dataclass(frozen=True)
class Client:
    """What a command is told of its connection: options, else GATE_* variables, else the policy file, else defaults.

    A command takes `client: Client | None = None`, makes `Client()` where it is None, and asks `connection`.
    """

    config: Annotated[Path | None, Parameter(env_var=CONFIG)] = None
    """Policy file of the gates. Its bootstrap, prefix, topics, group_id, connect_timeout hold unless said otherwise."""

    bootstrap: Bootstrap | None = None
    """Kafka broker, HOST:PORT; localhost:9092 unless said."""

    prefix: Prefix | None = None
    """What the names of all topics begin with; `gate` unless said."""

    connect_timeout: Timeout | None = None
    """How long to wait for a broker before giving up, such as 1m30s; 10s unless said, with `gate run` 30s."""

    @property
    def _file(self) -> Path | None:
        named = os.environ.get(CONFIG)
        return self.config or (Path(named) if named else None)

    @cached_property
    def policy(self) -> Policy:
        """The policy. Raises CycloptsError where no file is given."""
        if self._file is None:
            raise CycloptsError(msg=f"a policy file is needed: give --config FILE, or set {CONFIG}")
        return load_policy(self._file)

    @property
    def known_policy(self) -> Policy | None:
        """The policy; None where no file is given."""
        return None if self._file is None else self.policy

    @cached_property
    def settings(self) -> Settings:
        """What the gates run with. Raises PolicyError."""
        settings = Settings() if self._file is None else self.policy.settings
        return settings.with_environment(os.environ).override(
            bootstrap=self.bootstrap, prefix=self.prefix, connect_timeout=self.connect_timeout
        )

    @cached_property
    def connection(self) -> Connection:
        """Where the broker is, what the topics are called, and how long to wait for a broker."""
        connection = Connection.of(self.settings)
        said = "connect_timeout" in self.settings.model_fields_set
        return connection if said else replace(connection, connect_timeout=_PATIENCE)

    @property
    def names(self) -> Names:
        """The topics."""
        return self.connection.names

    async def reach(self) -> None:
        """Return when a broker answers; on a terminal, say so when that takes time."""
        connection = self.connection
        await wait_for_broker(connection.bootstrap, connection.connect_timeout, say if sys.stderr.isatty() else None)

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator[Cluster]:
        """Connect to what knows the topics."""
        connection = self.connection
        cluster = Cluster(self.names, create=True, replication_factor=BROKER_DEFAULT, **connection.access())
        try:
            await cluster.start()
            yield cluster
        except (KafkaError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise GateError(f"asking the broker at {connection.bootstrap} failed: {why}") from error
        finally:
            await cluster.close()

    @asynccontextmanager
    async def connected(self, needs: str) -> AsyncIterator[tuple[Cluster, Connections]]:
        """Reach a broker, and connect to what knows the topics and to what asks brokers; `needs` is what it takes."""
        await self.reach()
        async with self.cluster() as cluster:
            connections = Connections(request_timeout_ms=_CALL_MS, **self.connection.access())
            try:
                await connections.bootstrap()
                yield cluster, connections
            except KafkaError as error:
                raise GateError(f"the broker refused: {error or type(error).__name__}", hint=needs) from error
            finally:
                await connections.close()


def say(message: str) -> None:
    """Tell the user something that is not part of the output."""
    print("gate:", message, file=sys.stderr, flush=True)


def log_to_stderr(level: int = logging.WARNING, *, json: bool = False) -> None:
    """Keep stdout for the output, and out of the log what aiokafka says about each attempt to reach a broker."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    take_over_libraries()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
