import re
from pathlib import Path

import pytest

from gate.errors import GateError
from gate.policy import PolicyError, Problem, parse_policy


def _cases():
    parts = re.split(r"^=== (.*)\n", Path(__file__).with_name("errors.txt").read_text(), flags=re.MULTILINE)[1:]
    for name, case in zip(parts[::2], parts[1::2], strict=True):
        text, expected = case.split(">>>\n")
        yield pytest.param(text, expected.rstrip("\n"), id=name)


@pytest.mark.parametrize(("text", "expected"), list(_cases()))
def test_an_error_says_where_what_and_what_to_do(text, expected):
    with pytest.raises(PolicyError) as raised:
        parse_policy(text)
    assert raised.value.render() == expected


def test_all_errors_of_a_file_come_together_in_its_order():
    text = """\
services:
  pay: {brust_size: 1, extends: bulc, max_delay: soon}
  pay: {}
  search:
    group: nobody
    tenants: {acme: {overflow: hold}}
templates:
  bulk: {extends: bulk}
shards: many
"""
    with pytest.raises(PolicyError) as raised:
        parse_policy(text, "conf/gate.yaml")
    error = raised.value
    assert [(problem.span.line, problem.span.column, problem.field) for problem in error.problems] == [
        (2, 9, "services.pay.brust_size"),
        (2, 33, "services.pay.extends"),
        (2, 50, "services.pay.max_delay"),
        (3, 3, "services.pay"),
        (5, 12, "services.search.group"),
        (6, 22, "services.search.tenants.acme.overflow"),
        (8, 19, "templates.bulk.extends"),
        (9, 9, "shards"),
    ]
    assert (error.path, error.line, error.column, error.field) == ("conf/gate.yaml", 2, 9, "services.pay.brust_size")
    assert error.message == "unknown field"


def test_an_error_is_one_line_and_its_hint_is_the_rest():
    with pytest.raises(GateError) as raised:
        parse_policy("services: {pay: {brust_size: 1, bust_size: 2}}\n")
    assert str(raised.value) == "policy.yaml:1:18: services.pay.brust_size: unknown field"
    assert raised.value.hint.splitlines()[-1] == "hint: did you mean burst_size?"
    assert "\n".join([str(raised.value), raised.value.hint]) == raised.value.render()


def test_a_file_with_a_thousand_errors_does_not_fill_the_screen():
    text = "services:\n" + "".join(f"  service-{i}: {{burst: 1}}\n" for i in range(1000))
    with pytest.raises(PolicyError) as raised:
        parse_policy(text)
    assert len(raised.value.problems) == 1000
    assert raised.value.render().endswith("\n... and 900 more")


def test_what_a_terminal_would_obey_is_not_printed():
    error = PolicyError("a\x1b[2J.yaml", [Problem("is empty")])
    assert error.render() == "a\N{REPLACEMENT CHARACTER}[2J.yaml: is empty"
    with pytest.raises(PolicyError) as raised:
        parse_policy('"\\e[2J": 1\n"\u202e": 2\n')
    assert "\x1b" not in raised.value.render()
    assert "\u202e" not in raised.value.render()
