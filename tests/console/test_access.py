"""Who is known by what, and what a file of tokens may hold."""

from hashlib import sha256

import pytest
from starlette.requests import Request

from gate.console.access import Access, Role, is_same_origin, load_access, parse_tokens
from gate.errors import GateError

ANN, BOB = "a" * 32, "b" * 32
TOKENS = f"# on call\nann operate {ANN}\n\nbob read sha256:{sha256(BOB.encode()).hexdigest()}\n"


def asked(client="10.1.2.3", **headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (client, 1)})


@pytest.fixture
def access(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    return load_access(file, ["10.0.0.0/8", "::1/128"])


def test_nobody_is_asked_where_nothing_is_set():
    viewer = Access({}).viewer(asked(authorization=f"Bearer {ANN}"))
    assert (viewer.who, viewer.role, viewer.may(Role.READ)) == ("", None, False)


def test_a_token_says_who_somebody_is(access):
    ann = access.viewer(asked(authorization=f"Bearer {ANN}"))
    assert (ann.who, ann.role, ann.by_cookie) == ("ann", Role.OPERATE, False)
    assert (ann.may(Role.READ), ann.may(Role.OPERATE), ann.may(Role.ADMIN)) == (True, True, False)
    bob = access.viewer(asked(cookie=f"gate-token={BOB}"))
    assert (bob.who, bob.role, bob.by_cookie) == ("bob", Role.READ, True)
    assert ann.sign("x") != bob.sign("x")


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer "}, {"authorization": f"Bearer {ANN[:-1]}"}, {"authorization": f"Basic {ANN}"},
     {"cookie": "gate-token=x"}, {"authorization": "Bearer x", "cookie": f"gate-token={ANN}"},
     {"authorization": f"Bearer sha256:{sha256(BOB.encode()).hexdigest()}"}],
)  # fmt: skip
def test_a_stranger_is_nobody(access, headers):
    assert access.viewer(asked("192.0.2.1", **headers)) is None


def test_a_proxy_is_believed_only_from_its_network(access):
    named = {"x_forwarded_user": "carol", "x_gate_role": "admin"}
    carol = access.viewer(asked("10.9.9.9", **named))
    assert (carol.who, carol.role, carol.by_cookie) == ("carol", Role.ADMIN, True)
    assert access.viewer(asked("10.9.9.9", x_forwarded_user="dave")).role is Role.READ
    assert access.viewer(asked("10.9.9.9", x_forwarded_user="dave", x_gate_role="root")).role is Role.READ
    assert access.viewer(asked("192.0.2.1", **named)) is None
    assert access.viewer(asked("10.9.9.9", x_gate_role="admin")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f holds no token"),
        ("ann operate", "f:1 gives nobody a token"),
        (f"ann boss {ANN}", "f:1 gives nobody a token"),
        ("\nann read short", "f:2 has a token of 5 characters: too short"),
        ("ann read sha256:abc", "f:1 has no SHA-256 behind sha256:"),
        (f"ann read {ANN}\nbob read {ANN}", "f:2 gives bob a token that ann has"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_without_the_token(text, told):
    with pytest.raises(GateError) as refused:
        parse_tokens(text, "f")
    assert str(refused.value) == told
    assert ANN not in str(refused.value) + refused.value.hint


def test_a_network_that_is_none_is_told():
    with pytest.raises(GateError, match=r"--trusted-proxy: 10\.0\.0\.1/8 has"):
        load_access(None, ["10.0.0.1/8"])


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({"sec_fetch_site": "same-origin", "host": "gate:1"}, True),
        ({"sec_fetch_site": "same-site", "origin": "http://gate:1", "host": "gate:1"}, False),
        ({"sec_fetch_site": "cross-site", "host": "gate:1"}, False),
        ({"origin": "http://gate:1", "host": "gate:1"}, True),
        ({"origin": "http://gate:2", "host": "gate:1"}, False),
        ({"origin": "null", "host": "gate:1"}, False),
        ({"host": "gate:1"}, False),
    ],
)
def test_a_page_of_elsewhere_is_told_from_our_own(headers, same):
    assert is_same_origin(asked(**headers)) is same
