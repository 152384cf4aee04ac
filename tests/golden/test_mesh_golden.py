"""Owners and holders of shared limits read what those of earlier versions have written."""

import json
from pathlib import Path

import pytest

from gate.mesh import state, wire
from tests.golden import mesh
from tests.golden.__main__ import plain
from tests.golden.test_golden import known

FILES = {int(path.stem.rpartition("-")[2]): path for path in Path(__file__).parent.glob("mesh-*.json")}
RECORDS = [(version, name) for version, path in sorted(FILES.items()) for name in json.loads(path.read_text())]


def test_each_version_and_each_kind_is_there():
    assert sorted(FILES) == list(range(1, state.VERSION + 1))
    assert state.VERSION == wire.VERSION
    assert {name for version, name in RECORDS if version == state.VERSION} == mesh.RECORDS.keys()
    kept = {kind.__name__ for kind in state.Record.__args__}
    assert {type(record).__name__ for record in mesh.RECORDS.values()} == {*kept, "Report", "Grant"}


@pytest.mark.parametrize(("version", "name"), RECORDS)
def test_what_an_earlier_version_wrote_is_read_and_written_as_it_was(version, name):
    kept = json.loads(FILES[version].read_text())[name]
    data = bytes.fromhex(kept["record"])
    assert data[0] == version
    read = mesh.decoded(name, data)
    assert known(plain(read), kept["holds"]) == kept["holds"]
    if plain(read) == kept["holds"]:  # no field has come since
        assert mesh.encoded(read) == data
