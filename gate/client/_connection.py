"""The connection that every class of the client is given: a broker, the names of the topics, and how long to try."""

from dataclasses import dataclass
from math import inf
from typing import Self

from gate.client._errors import ArgumentError
from gate.errors import GateError
from gate.kafka.connect import check_bootstrap, wait_for_broker
from gate.protocol.topics import Names


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the broker is, what the topics are called, and for how many seconds to look for a broker at first."""

    bootstrap: str
    names: Names
    timeout: float

    @classmethod
    def of(cls, bootstrap: str, prefix: str, names: Names | None, connect_timeout: float) -> Self:
        """Check what a user gave. Raises ArgumentError, and TopicNameError for a prefix that Kafka would refuse."""
        try:
            check_bootstrap(bootstrap)
        except GateError as error:
            raise ArgumentError(f"bootstrap: {error}", hint=error.hint) from error
        except AttributeError:
            raise ArgumentError(
                f"bootstrap is a text, not {bootstrap!r}", hint="give HOST:PORT, or several with commas between"
            ) from None
        positive(connect_timeout=connect_timeout)
        return cls(bootstrap, names or Names(prefix), connect_timeout)

    async def reach(self) -> None:
        """Return when a broker answers. Raises BrokerUnreachableError."""
        await wait_for_broker(self.bootstrap, self.timeout)


def positive(**seconds: float | None) -> None:
    """Raise ArgumentError for a length of time that is none; None is allowed, and means that there is no bound."""
    for name, value in seconds.items():
        if value is not None and not 0 < value < inf:
            raise ArgumentError(f"{name} is {value}", hint=f"{name} is a number of seconds above 0")
