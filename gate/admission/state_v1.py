"""Version 1 of the state records: the fields by their position, without names, as gates wrote them until version 2.

Derived from the records of today, which have the same fields in the same order. Where they gain fields, these stand
behind, with a default; where one goes or changes its meaning, its record of version 1 is to be written out here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin

import msgspec


def pack(record: msgspec.Struct) -> bytes:
    """Return a record's fields by position."""
    return msgspec.msgpack.encode(_values(record))


def unpack(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """Read a record back. Raises msgspec.DecodeError."""
    return _named(_decoder(kind).decode(body), kind)


def _values(record: msgspec.Struct) -> Sequence[Any]:
    values = msgspec.structs.astuple(record)
    parts = _parts(type(record))
    if not parts:
        return values
    result = list(values)
    for index in parts:
        result[index] = _each(result[index])
    return result


def _each(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _values(value)
    if isinstance(value, Mapping):
        return {key: _values(held) for key, held in value.items()}
    return None if value is None else [_values(held) for held in value]


def _named(read: msgspec.Struct, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Make a record of today from one of version 1."""
    values = list(msgspec.structs.astuple(read))
    for index, inner in _parts(kind).items():
        held = values[index]
        if isinstance(held, msgspec.Struct):
            values[index] = _named(held, inner)
        elif isinstance(held, dict):
            values[index] = {key: _named(one, inner) for key, one in held.items()}
        elif held is not None:
            values[index] = [_named(one, inner) for one in held]
    return kind(*values)


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(_twin(kind))


@cache
def _twin(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return what a record is in version 1."""
    fields: list[Any] = []
    said: tuple[Any, ...]
    for field in msgspec.structs.fields(kind):
        said = (field.name, _twin_type(field.type))
        if field.default is not msgspec.NODEFAULT:
            said = (*said, field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            said = (*said, msgspec.field(default_factory=field.default_factory))
        fields.append(said)
    return msgspec.defstruct(f"{kind.__name__}1", fields, array_like=True, frozen=True)


def _twin_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _twin(hint)
    origin, args = get_origin(hint), get_args(hint)
    if not any(map(_struct_in, args)):
        return hint
    twins = tuple(map(_twin_type, args))
    if origin in {list, dict}:
        return origin[twins]
    result = twins[0]  # a union
    for twin in twins[1:]:
        result |= twin
    return result


@cache
def _parts(kind: type[msgspec.Struct]) -> dict[int, type[msgspec.Struct]]:
    """Return which fields hold records, by position, and of what kind."""
    found = ((index, _struct_in(field.type)) for index, field in enumerate(msgspec.structs.fields(kind)))
    return {index: inner for index, inner in found if inner is not None}


def _struct_in(hint: Any) -> type[msgspec.Struct] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((inner for inner in map(_struct_in, get_args(hint)) if inner is not None), None)
