import json
import os
import socket
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gate.policy import PolicyError, load_policy, parse_policy
from gate.policy.errors import Span
from gate.policy.source import MAX_BYTES, MAX_VALUES, parse, read_file, scalar


def read(text):
    root, problems = parse(text, "policy.yaml")
    assert not problems
    return root.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("+3", 3), ("0", 0), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1e3", 1000.0),
        ("1.5e-3", 0.0015), (".inf", float("inf")), ("-.Inf", float("-inf")),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        # what YAML 1.1 would have taken for something else
        ("yes", "yes"), ("off", "off"), ("y", "y"), ("NO", "NO"), ("1_000", "1_000"), ("017", "017"), ("0o17", "0o17"),
        ("0x1f", "0x1f"), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"),
        ("1e", "1e"), ("٣", "٣"), ("=", "="), ("10/min", "10/min"),
        ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_a_scalar_is_what_it_looks_like(text, value):
    got = scalar(text)
    assert (type(got), got) == (type(value), value)


def test_a_quoted_scalar_is_text():
    assert read("""{a: "1", b: 'true', c: ""}""") == {"a": "1", "b": "true", "c": ""}


def test_keys_are_text_whatever_they_look_like():
    assert read("{404: a, on: b, null: c, 1.5: d, '': e}") == {"404": "a", "on": "b", "null": "c", "1.5": "d", "": "e"}


def test_aliases_repeat_what_they_name():
    assert read("{a: &x {b: [1, &y z]}, c: *x, d: [*y, *y], *y : e}") == {
        "a": {"b": [1, "z"]},
        "c": {"b": [1, "z"]},
        "d": ["z", "z"],
        "z": "e",
    }


def test_places_count_characters_from_one_and_fall_back_to_what_is_around():
    root, _ = parse("ä: 1\nservices:\n  é: {burst_size: 40, windows: [{limit: 3}]}\n", "policy.yaml")
    assert root.locate(("services",)) == Span(3, 3, 4)
    assert root.locate(("services",), key=True) == Span(2, 1, 9)
    assert root.locate(("services", "é", "burst_size")) == Span(3, 19, 21)
    assert root.locate(("services", "é", "burst_size"), key=True) == Span(3, 7, 17)
    assert root.locate(("services", "é", "windows", 0, "limit")) == Span(3, 41, 42)
    assert root.locate(("services", "é", "windows", 0, "size")) == Span(3, 33, 43)
    assert root.locate(("services", "nobody")) == root.locate(("services",))


# YAML has no pairs of \\u escapes for what lies beyond 16 bits.
# a key of YAML has at most 1,024 characters, and each of ours may take six
_TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=100)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**30), 10**30)
        | st.floats(allow_nan=False, allow_infinity=False)
        | _TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
        max_leaves=30,
    )
)
def test_json_is_read_as_json(value):
    text = json.dumps({"x": value})
    assume("<<" not in text)
    assert read(text) == {"x": value}


@given(st.text())
@example("services: {" * 3)
@example("\ud800")
@example("a: |\n  \x85\n")
@example("? ")
@example("%YAML 9.9\n---\n")
@example("&a *a")
@example("- &a [*a]")
@example("{a: b")
@example('"\\ud800": 1')
@example("<<: 1")
@example("a: !!int x")
def test_no_text_does_more_than_be_refused(text):
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        assert str(error).startswith("policy.yaml")  # noqa: PT017
        assert error.render().startswith(str(error))  # noqa: PT017
    else:
        assert len(policy.version) == 6


_WORDS = st.sampled_from(
    ["defaults", "services", "templates", "groups", "tenants", "pay", "default", "extends", "group", "burst_size",
     "windows", "limit", "priorities", "shards", "topics", "http", "prefix", "bulk", "*"]
)  # fmt: skip


@given(
    st.dictionaries(
        _WORDS,
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
        ),
    )
)
def test_no_structure_does_more_than_be_refused(document):
    try:
        policy = parse_policy(yaml.safe_dump(document))
    except PolicyError as error:
        assert all(problem.message for problem in error.problems)  # noqa: PT017
    else:
        policy.service("pay")
        policy.explain("pay")


def test_a_billion_laughs_are_cut_short():
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    begun = time.process_time()
    with pytest.raises(PolicyError, match=f"more than {MAX_VALUES:,} values"):
        parse_policy("\n".join(layers))
    assert time.process_time() - begun < 20  # all of it would take weeks


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_depth_is_bounded(text):
    with pytest.raises(PolicyError, match=r"nested deeper than 32 levels|not valid YAML"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"services:\n  caf\xe9: {}\n", "{}:2:6: byte 0xe9 is not UTF-8"),
        ("services: {}".encode("utf-16"), "{}:1:1: byte 0xff is not UTF-8"),
        (b" " * (MAX_BYTES + 1), "{}: is larger than 16 MiB"),
        (b"", "{}: is empty"),
        (b"services: {\x00}", "{}:1:12: a control character that YAML does not allow"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, data, expected):
    file = tmp_path / "policy.yaml"
    file.write_bytes(data)
    with pytest.raises(PolicyError) as raised:
        load_policy(file)
    assert str(raised.value) == expected.format(file)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(PolicyError) as raised:
        load_policy(tmp_path / "policy.yaml")
    assert str(raised.value) == f"{tmp_path}/policy.yaml: no such file"
    assert raised.value.line is None
    with pytest.raises(PolicyError) as raised:
        load_policy(tmp_path)
    assert str(raised.value) == f"{tmp_path}: is a directory"
    (tmp_path / "file").touch()
    with pytest.raises(PolicyError, match="cannot be read: Not a directory"):
        load_policy(tmp_path / "file" / "policy.yaml")


def test_byte_order_mark_and_line_ends_of_other_systems(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"\xef\xbb\xbfdefaults: {burst_size: 3}\r\nservices:\r\n  pay: {}\r\n")
    assert read(read_file(file)) == {"defaults": {"burst_size": 3}, "services": {"pay": None} | {"pay": {}}}
    assert load_policy(file).services == ("pay",)


@pytest.mark.timeout(10)
def test_what_may_never_end_is_no_policy(tmp_path):
    pipe = tmp_path / "policy.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(PolicyError, match=f"{path}: is no regular file"):
            load_policy(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(PolicyError, match="socket: cannot be read"):
            load_policy(tmp_path / "socket")


def test_a_huge_file_is_no_policy(tmp_path):
    path = tmp_path / "policy.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PolicyError, match="larger than 16 MiB"):
        load_policy(path)


def test_a_link_to_a_policy_is_one(tmp_path):
    (tmp_path / "real.yaml").write_text("services: {}")
    (tmp_path / "policy.yaml").symlink_to("real.yaml")
    assert load_policy(tmp_path / "policy.yaml").services == ()
