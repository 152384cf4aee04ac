"""Secrets come by a variable or a file; on the command line they still work, with a warning."""

import os

import pytest

from gate.cli import main
from gate.cli.secrets import LONGEST, secret
from gate.errors import GateError


def ask(given):
    return secret("--webhook-secret", "GATE_WEBHOOK_SECRET", given)


def test_a_variable_is_taken_as_it_is(monkeypatch, capsys):
    monkeypatch.setenv("GATE_WEBHOOK_SECRET", "@home")
    assert ask("@home") == "@home"
    assert ask(None) is None
    assert capsys.readouterr().err == ""


def test_a_file_is_read_without_its_last_line_break(tmp_path, capsys):
    (tmp_path / "secret").write_text("tö p\n")
    assert ask(f"@{tmp_path}/secret") == "tö p"
    assert capsys.readouterr().err == ""


def test_what_stands_on_the_command_line_is_taken_with_a_warning(capsys):
    assert ask("k") == "k"
    assert "GATE_WEBHOOK_SECRET" in capsys.readouterr().err


def test_a_file_that_is_none_is_one_clear_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * (LONGEST + 1))
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, why in [("pipe", "no regular file"), ("large", "larger"), ("bytes", "UTF-8"), ("gone", "No such file")]:
        with pytest.raises(GateError, match=f"--webhook-secret: {tmp_path}/{name} .*{why}"):
            ask(f"@{tmp_path}/{name}")


def test_an_empty_secret_is_bad_usage(tmp_path, capsys):
    (tmp_path / "secret").write_text("\n")
    code = main(["alerts", "--webhook", "http://localhost:1", "--webhook-secret", f"@{tmp_path}/secret"])
    assert code == 2
    assert "the secret is empty" in capsys.readouterr().err
