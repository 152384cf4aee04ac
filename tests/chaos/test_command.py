"""What the commands of long runs say where they can't keep a run."""

import sys
from collections.abc import Callable

import pytest

import tests.chaos.__main__ as chaos
import tests.hostile.__main__ as hostile
from bench.pauses import __main__ as pauses


@pytest.mark.parametrize("main", [chaos.main, hostile.main, pauses.main], ids=["chaos", "hostile", "pauses"])
def test_a_folder_that_is_there_already_is_told_and_kept(main: Callable[[], int], tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(pauses, "build_kafka_streams", lambda: None)
    monkeypatch.setattr(pauses, "use_memory", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run", "--keep", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--keep {tmp_path / 'run'}: it is there already; name a folder that is not" in capsys.readouterr().err
