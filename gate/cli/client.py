"""Options of all commands that talk to a broker: where it is, how long to try, how the topics are called."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
from aiokafka.errors import KafkaError
from cyclopts import Parameter
from cyclopts.validators import Number

from gate.cli.logs import take_over_libraries
from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.cluster import Cluster
from gate.kafka.connect import check_bootstrap, wait_for_broker
from gate.protocol.topics import Names, check_service_name

BROKER_DEFAULT: Final = -1  # replication factor


def _is_bootstrap(_type: Any, value: str | None) -> None:
    try:
        if value is not None:
            check_bootstrap(value)
    except GateError as error:
        raise ValueError(f"{error}; {error.hint}") from error


def _is_prefix(_type: Any, value: str | None) -> None:
    if value is not None:
        Names(value)


def _is_service(_type: Any, value: str | None) -> None:
    if value is not None:
        check_service_name(value)


Service = Annotated[str, Parameter(validator=_is_service)]
OptionalService = Annotated[str | None, Parameter(validator=_is_service)]
Flag = Annotated[bool, Parameter(negative="")]
Bootstrap = Annotated[str, Parameter(env_var="GATE_BOOTSTRAP", validator=_is_bootstrap)]
Prefix = Annotated[str, Parameter(env_var="GATE_PREFIX", validator=_is_prefix)]
Timeout = Annotated[float, Parameter(env_var="GATE_CONNECT_TIMEOUT", validator=Number(gt=0))]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Client:
    """Where the broker is and what the topics are called."""

    bootstrap: Bootstrap = "localhost:9092"
    """Kafka broker, HOST:PORT."""

    prefix: Prefix = "gate"
    """What the names of all topics begin with."""

    connect_timeout: Timeout = 10.0
    """Seconds to wait for a broker before giving up."""

    @property
    def names(self) -> Names:
        """The topics."""
        return Names(self.prefix)

    async def reach(self) -> None:
        """Return when a broker answers; on a terminal, say so when that takes time."""
        await wait_for_broker(self.bootstrap, self.connect_timeout, say if sys.stderr.isatty() else None)

    @asynccontextmanager
    async def cluster(self, names: Names | None = None) -> AsyncIterator[Cluster]:
        """Connect to what knows the topics."""
        cluster = Cluster(names or self.names, create=True, replication_factor=BROKER_DEFAULT, **access(self.bootstrap))
        try:
            await cluster.start()
            yield cluster
        except (KafkaError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise GateError(f"asking the broker at {self.bootstrap} failed: {why}") from error
        finally:
            await cluster.close()


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
