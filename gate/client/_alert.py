"""An alert of the gate, as its consumers see it."""

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from aiokafka import ConsumerRecord
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from gate.protocol.alert_types import CLOCK_SKEWED, RESUMED, WAITING
from gate.text import printable, timestamp

_FIGURES: Final = {
    "refused": "{} refused",
    "offered_per_second": "{:.1f}/s offered",
    "backlog": "{} waiting",
    "eta_seconds": "the last one in {:.0f} s",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of the gate. The `id` is the same at every redelivery; `event` is the CloudEvent itself."""

    id: str
    type: str
    service: str
    time: datetime
    data: dict[str, Any]
    event: CloudEvent

    @classmethod
    def of(cls, record: ConsumerRecord) -> "Alert":
        """Read a record of the alerts topic. Raises ValueError where it is no CloudEvent with an object as data."""
        headers = {name: value for name, value in record.headers if value is not None}
        if "ce_id" not in headers or "ce_time" not in headers:
            raise ValueError("it has no ce_id or no ce_time")  # the library would make them up
        try:
            event = from_binary_event(KafkaMessage(headers, record.key, record.value or b""))
        except (BaseCloudEventException, ValueError, TypeError) as error:
            raise ValueError(str(error)) from error
        data = event.get_data()
        if not (isinstance(event, CloudEvent) and isinstance(data, dict)):
            raise ValueError("its data is no JSON object")  # noqa: TRY004 - the value of a record, not a caller's mistake
        service = str(data.get("service") or "")
        time = event.get_time()
        assert time is not None  # its header is there
        return cls(event.get_id(), event.get_type(), service, time, data, event)

    @property
    def since(self) -> datetime:
        """When the breach opened, or the other thing happened; the alert's own time where that is not told."""
        try:
            since = datetime.fromisoformat(str(self.data.get("since")))
        except ValueError:
            return self.time
        return since if since.tzinfo else self.time

    @property
    def reason(self) -> str:
        """Which kind of limit bound; of other alerts, what went wrong in words."""
        return str(self.data.get("reason") or "")

    @property
    def limit(self) -> str:
        """The limit that bound; empty where it is about none."""
        return str(self.data.get("limit") or "")

    def matches(self, type: str = "*", service: str = "*") -> bool:  # noqa: A002 - as CloudEvents call it
        """Tell whether the type and the service are as wanted; both may be globs (`gate.breach.*`, `pay*`)."""
        return fnmatchcase(self.type, type) and fnmatchcase(self.service, service)

    def to_json(self) -> str:
        """Return the CloudEvent in JSON."""
        return to_structured_event(self.event).body.decode()

    def summary(self) -> str:
        """Say in one line what it is about: reason, limit and figures."""
        said = [f"{self.reason} ({self.limit})" if self.limit else self.reason] if self.reason else []
        if self.type in {WAITING, RESUMED}:
            where = f"{self.data.get('topic')}-{self.data.get('partition')} at offset {self.data.get('offset')}"
            if self.type == RESUMED:
                return printable(f"{where} goes on; it stood as {self.reason}")
            return printable(f"{where} stands: {self.reason}; {self.data.get('remedy')}")
        if self.type == CLOCK_SKEWED:
            said.insert(0, f"host {self.data.get('host')}")
        for name, form in _FIGURES.items():
            value = self.data.get(name)
            if isinstance(value, int | float) and (value or name == "backlog"):
                said.append(form.format(value))
        return printable(", ".join(said))

    def __str__(self) -> str:
        parts = timestamp(self.time), printable(self.type), printable(self.service) or "-", self.summary()
        return "  ".join(parts).rstrip()
