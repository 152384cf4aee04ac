"""The connection to a gate, as every command and every class of the client has it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from gate.errors import ArgumentError, GateError
from gate.kafka.access import access
from gate.kafka.connect import check_bootstrap, wait_for_broker
from gate.protocol.topics import Names, Templates

if TYPE_CHECKING:
    from gate.policy import Settings

_TEMPLATES: Final = frozenset(one.name for one in fields(Templates))


@dataclass(frozen=True)
class Connection:
    """Where the broker is, what the topics of a gate are called, and for how long a broker is looked for.

    >>> Connection("localhost:9092", prefix="acme", topics={"requests": "todo.{service}"}).names.requests("payments")
    'todo.payments'

    `topics` are the templates of the policy file's `topics`, as far as they differ from the usual ones. Raises
    ArgumentError, and TopicNameError for names that Kafka would refuse. Credentials come from GATE_* variables alone.
    """

    bootstrap: str = "localhost:9092"
    prefix: str = field(default="gate", kw_only=True)
    topics: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    group_id: str = field(default="", kw_only=True)  # the gates' consumer group; by default it is the prefix
    connect_timeout: float = field(default=30.0, kw_only=True)  # seconds

    def __post_init__(self) -> None:
        try:
            check_bootstrap(self.bootstrap)
        except GateError as error:
            raise ArgumentError(f"bootstrap: {error}", hint=error.hint) from error
        except AttributeError:
            raise ArgumentError(
                f"bootstrap is a text, not {self.bootstrap!r}", hint="give HOST:PORT, or several with commas between"
            ) from None
        if not 0 < self.connect_timeout < inf:
            raise ArgumentError(
                f"connect_timeout is {self.connect_timeout}", hint="connect_timeout is a number of seconds above 0"
            )
        if unknown := sorted(set(self.topics) - _TEMPLATES):
            raise ArgumentError(
                f"topics: there is no kind {', '.join(map(repr, unknown))}", hint=f"use {', '.join(sorted(_TEMPLATES))}"
            )
        object.__setattr__(self, "group_id", self.group_id or self.prefix)
        _ = self.names  # told now, not when it is first used

    @classmethod
    def load(
        cls, config: Path | str | None = None, *, environment: Mapping[str, str] = os.environ, **given: Any
    ) -> Self:
        """Return the connection by which `gate run` would run: keywords before GATE_* variables before the file.

        The policy file is `config`, else what GATE_CONFIG names, else there is none. Keywords are those of the class.
        Raises PolicyError, with everything that is wrong.
        """
        from gate.policy import load_settings  # noqa: PLC0415 - pydantic and YAML, which a worker need not load

        return cls.of(load_settings(None if config is None else Path(config), environment, **given))

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Return the connection that settings come to."""
        return cls(
            settings.bootstrap,
            prefix=settings.prefix,
            topics=settings.topics.model_dump(exclude_defaults=True),
            group_id=settings.group_id,
            connect_timeout=settings.connect_timeout,
        )

    @cached_property
    def names(self) -> Names:
        """The topics."""
        return Names(self.prefix, Templates(**self.topics))

    def access(self) -> dict[str, Any]:
        """Return the options with which aiokafka's clients reach the broker. Raises GateError for odd variables."""
        return access(self.bootstrap)

    async def reach(self) -> None:
        """Return when a broker answers. Raises BrokerUnreachableError."""
        await wait_for_broker(self.bootstrap, self.connect_timeout)
