"""Every gate reads what earlier ones have written, and writes what those read until it is told otherwise."""

import json
import zlib
from pathlib import Path

import msgspec
import pytest

from gate.admission.state import VERSION, decode, encode
from gate.limits import StateError
from gate.shard.changelog_records import FORMAT, LEAVING_KEY, encode_leaving, read_leaving
from tests.golden import kinds
from tests.golden.__main__ import plain

FOLDER = Path(__file__).parent
FILES = {int(path.stem.rpartition("-")[2]): path for path in FOLDER.glob("state-*.json")}
RECORDS = [(version, key) for version, path in sorted(FILES.items()) for key in json.loads(path.read_text())]


def golden(version: int, key: str) -> tuple[bytes, object]:
    kept = json.loads(FILES[version].read_text())[key]
    return bytes.fromhex(kept["record"]), kept["holds"]


def known(read: object, holds: object) -> object:
    """Leave out the fields that there were not then: they must be as if nothing had ever been said of them."""
    if isinstance(read, dict) and isinstance(holds, dict):
        assert not any(read[name] for name in read.keys() - holds.keys())
        return {name: known(value, holds[name]) for name, value in read.items() if name in holds}
    if isinstance(read, list) and isinstance(holds, list) and len(read) == len(holds):
        return [known(one, other) for one, other in zip(read, holds, strict=True)]
    return read


def test_each_version_has_a_file():
    assert sorted(FILES) == list(range(1, VERSION + 1))
    assert FORMAT == VERSION


@pytest.mark.parametrize(("version", "key"), RECORDS)
def test_what_an_earlier_gate_wrote_is_read(version, key):
    data, holds = golden(version, key)
    assert known(plain(kinds.decoded(key, data)), holds) == holds
    if key not in {*kinds.AS_JSON, LEAVING_KEY}:
        assert data[0] == version


@pytest.mark.parametrize(("version", "key"), [(v, k) for v, k in RECORDS if k not in kinds.AS_JSON])
def test_each_version_is_written_as_it_was(version, key):
    data, _ = golden(version, key)
    read = kinds.decoded(key, data)
    again = encode_leaving(read, version) if key == LEAVING_KEY else encode(read, version)
    assert again == data


@pytest.mark.parametrize("key", [key for version, key in RECORDS if version == 1 and key not in kinds.AS_JSON])
def test_a_record_goes_from_the_old_version_to_the_new_one_and_back(key):
    data, holds = golden(1, key)
    if key == LEAVING_KEY:
        new = encode_leaving(read_leaving(data), VERSION)
        assert encode_leaving(read_leaving(new), 1) == data
    else:
        kind = kinds.KINDS[key.partition("/")[0]]
        new = encode(decode(key, data, kind), VERSION)
        assert encode(decode(key, new, kind), 1) == data
    assert new[0] == VERSION
    assert known(plain(kinds.decoded(key, new)), holds) == holds


def test_names_of_fields_are_told_apart():
    """Two fields of one record with one name would be one."""
    known = {kind for top in kinds.KINDS.values() for kind in _within(top)}
    assert len(known) > len(kinds.KINDS)
    for kind in known:
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        assert len(set(names)) == len(names), kind


def test_a_field_of_a_newer_gate_is_passed_over():
    """What a version gains stands behind a name that older gates of the same version do not look at."""
    data, holds = golden(VERSION, "group/bank-parks")
    record = msgspec.msgpack.decode(data[5:])
    body = msgspec.msgpack.encode({**record, "zz": [1, 2]})
    more = data[:1] + zlib.crc32(body).to_bytes(4, "big") + body
    assert known(plain(kinds.decoded("group/bank-parks", more)), holds) == holds


def test_a_version_that_is_not_known_is_refused():
    data, _ = golden(VERSION, "group/bank-parks")
    with pytest.raises(StateError, match=f"has version {VERSION + 1}, this gate reads up to {VERSION}: run a newer"):
        kinds.decoded("group/bank-parks", bytes([VERSION + 1]) + data[1:])


def _within(kind: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    found = {kind}
    for inner in (hint for field in msgspec.structs.fields(kind) for hint in _structs(field.type)):
        found |= _within(inner)
    return found


def _structs(hint: object) -> list[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [struct for inner in getattr(hint, "__args__", ()) for struct in _structs(inner)]
