"""Whose limits `gate limit` is about: a service's, one of its tenants', or a group's, and one of them."""

import pytest

from gate.cli import main
from gate.cli.limit_files import read_rows
from gate.protocol.policies import LiveLimit


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["set", "--rps", "5"], "name one of both: SERVICE, or --group NAME"),
        (["set", "pay", "--group", "bank", "--rps", "5"], "name one of both"),
        (["show"], "name one of both"),
        (["clear", "pay", "--group", "bank"], "name one of both"),
        (["set", "--group", "bank", "--tenant", "acme", "--rps", "5"], "--tenant is of a service"),
        (["show", "--group", "bank", "--tenant", "acme"], "--tenant is of a service"),
        (["set", "pay", "--tenant", "", "--rps", "5"], "--tenant is empty"),
        (["clear", "pay", "--tenant", ""], "--tenant is empty"),
        (["clear", "--group", "bank", "--all"], "--all is of a service"),
        (["set", "--group", "a/b", "--rps", "5"], '"a/b" cannot be a name here'),
        (["set", "group:bank", "--rps", "5"], "has ':' in its name"),
        (["set", "--group", "bank"], "no limit is given"),
    ],
)
def test_what_is_of_nobody_or_of_two_is_refused_before_anything_is_asked(tokens, said, capsys):
    assert main(["limit", *tokens, "--bootstrap", "127.0.0.1:1"]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(("name", "text"), [("t.csv", ""), ("t.csv", "tenant,burst_size\n"), ("t.jsonl", "")])
@pytest.mark.parametrize("service", [(), ("--service", "pay")])
def test_a_file_without_rows_clears_nobodys_limits(name, text, service, tmp_path, capsys):
    file = tmp_path / name
    file.write_text(text)
    assert main(["limit", "import", str(file), *service, "--bootstrap", "127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert (f"{file} has no rows" in said, "--all`" in said) == (True, True)


def test_a_file_is_csv_by_its_name_in_whichever_case(tmp_path):
    file = tmp_path / "T.CSV"
    file.write_text("tenant,burst_size\nacme,5\n")
    assert read_rows(file, "pay") == {"pay": {"acme": LiveLimit(burst_size=5)}}
