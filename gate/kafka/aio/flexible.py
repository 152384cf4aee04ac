"""Requests of flexible versions (KIP-482) that aiokafka does not have: compact arrays and strings, and no tagged field.

Layout: https://kafka.apache.org/protocol
"""

from typing import Any, Final

from gate.kafka.aio.compat.shared import (
    CompactArray,
    CompactString,
    Request,
    RequestStruct,
    Response,
    Schema,
    TaggedFields,
)

TEXT: Final = CompactString("utf-8")
NO_TAGS: Final[dict[int, bytes]] = {}
_TAGS: Final = ("tags", TaggedFields)


def many(*fields: tuple[str, Any]) -> Any:
    """Return an array of what has these fields; a value of it ends with NO_TAGS."""
    return CompactArray(*fields, _TAGS)


def flexible(key: int, version: int, asks: tuple[Any, ...], answers: tuple[Any, ...]) -> Any:
    """Return a class for requests of one kind in one version, which is made with the values of `asks`.

    A broker that does not know the version makes `prepare` raise NotImplementedError or IncompatibleBrokerVersion.
    """
    response = type("Answer", (Response,), {"API_KEY": key, "API_VERSION": version, "SCHEMA": Schema(*answers, _TAGS)})
    form: Any = type(
        "Form",
        (RequestStruct,),
        {
            "API_KEY": key,
            "API_VERSION": version,
            "FLEXIBLE_VERSION": True,
            "RESPONSE_TYPE": response,
            "SCHEMA": Schema(*asks, _TAGS),
        },
    )

    class Flexible(Request[form]):  # type: ignore[misc]
        """See `flexible`."""

        API_KEY = key

        def __init__(self, *values: Any) -> None:
            self.values = values

        def build(self, request_struct_class: Any) -> Any:
            """See aiokafka."""
            return request_struct_class(*self.values, NO_TAGS)

    return Flexible
