"""Tokens are asked for as seldom as they may be, and an issuer that is away is no reason to stop while one is good."""

import asyncio
import sys
from importlib.metadata import entry_points

import pytest

from gate.errors import GateError
from gate.kafka.aio.sasl import AccessError, shown
from gate.kafka.tokens import DEADLINE, FIRST_PAUSE, FRESH, LONGEST_PAUSE, UNKNOWN_LIFE, Token, Tokens, custom, end_of
from tests.system.issuer import part, unsecured


class Issuer:
    """Gives tokens that live for 100 s, numbered, by a clock that is set."""

    def __init__(self, life: float | None = 100.0) -> None:
        self.now = 1000.0
        self.given = self.failures = 0
        self.life = life
        self.tokens = Tokens(self.give, "the issuer", dict, lambda: self.now)

    async def give(self) -> Token:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise AccessError("away", lasting=False)
        self.given += 1
        return Token(f"t{self.given}", None if self.life is None else self.now + self.life)

    async def value_at(self, now: float) -> str:
        self.now = now
        return await self.tokens.token()


async def test_one_token_serves_all_until_it_has_grown_old():
    issuer = Issuer()
    assert await asyncio.gather(*(issuer.tokens.token() for _ in range(50))) == ["t1"] * 50
    assert await issuer.value_at(1000 + 100 * FRESH - 0.1) == "t1"
    assert await asyncio.gather(*(issuer.value_at(1000 + 100 * FRESH) for _ in range(50))) == ["t2"] * 50


async def test_one_that_does_not_say_when_it_ends_is_renewed_soon():
    issuer = Issuer(life=None)
    assert await issuer.value_at(1000) == "t1"
    assert await issuer.value_at(1000 + UNKNOWN_LIFE) == "t2"


async def test_an_issuer_that_is_away_is_asked_ever_more_seldom_while_the_old_token_is_good():
    issuer = Issuer()
    await issuer.tokens.token()
    issuer.failures = 1000
    for tenth in range(1000 + 700, 1000 + 1000):
        assert await issuer.value_at(1000 + (tenth - 1000) / 10) == "t1"
    asked = 1000 - issuer.failures
    assert 4 < asked < 8
    with pytest.raises(AccessError, match="away"):
        await issuer.value_at(1100)
    issuer.failures = 0
    assert await issuer.value_at(1100 + LONGEST_PAUSE) == "t2"


async def test_one_that_refuses_is_not_asked_at_once_again():
    issuer = Issuer()
    issuer.failures = 1
    for _ in range(3):
        with pytest.raises(AccessError, match="away"):
            await issuer.tokens.token()
    assert await issuer.value_at(1000 + FIRST_PAUSE) == "t1"


@pytest.mark.parametrize("life", [0.0, -50.0, float("nan")])
async def test_a_token_that_has_ended_is_told(life):
    with pytest.raises(AccessError, match=r"the token of the issuer has ended .* s ago; check this host's clock"):
        await Issuer(life).tokens.token()


@pytest.mark.parametrize("value", ["", "a b", "a\x01auth=Bearer b", "a\n", "ä"])
async def test_what_is_no_bearer_token_is_not_sent(value):
    async def give() -> Token:
        return Token(value)

    with pytest.raises(AccessError, match="is no bearer token"):
        await Tokens(give, "the issuer", dict).token()


def test_tokens_serve_several_loops():
    issuer = Issuer()

    async def many() -> list[str]:
        return await asyncio.gather(*(issuer.tokens.token() for _ in range(5)))

    assert asyncio.run(many()) == ["t1"] * 5
    issuer.now += 100
    assert asyncio.run(many()) == ["t2"] * 5


def test_a_jwt_tells_when_it_ends():
    import time

    assert end_of(unsecured("a", 50)) == pytest.approx(time.time() + 50, abs=5)
    for other in ("", "opaque", "a.b", "a.!.c", f"a.{part({})}.c", f"a.{part({'exp': None})}.c", "a.W10.c"):
        assert end_of(other) is None


PROVIDERS = """
from aiokafka.abc import AbstractTokenProvider
def plain(): return "plain"
def until(): return "until", 5000.0
async def later(): return "later"
def answers(): return later()
class Theirs(AbstractTokenProvider):
    async def token(self): return "theirs"
    def extensions(self): return {"logicalCluster": "lkc-1"}
theirs = Theirs()
class Called:
    def __call__(self): return "called"
class Slow:
    def token(self): raise TimeoutError("slow")
def none(): return None
number = 7
"""


@pytest.fixture
def providers(tmp_path, monkeypatch):
    (tmp_path / "providers_of_ours.py").write_text(PROVIDERS)
    distribution = tmp_path / "ours-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[gate.token_providers]\nvault = providers_of_ours:plain\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "providers_of_ours"
    sys.modules.pop("providers_of_ours", None)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("plain", ("plain", None)),
        ("until", ("until", 5000.0)),
        ("later", ("later", None)),
        ("answers", ("later", None)),
        ("Theirs", ("theirs", None)),
        ("theirs", ("theirs", None)),
        ("Called", ("called", None)),
    ],
)
async def test_who_gives_tokens_may_be_written_in_many_ways(providers, name, token):
    source, extensions = custom(f"{providers}:{name}")
    assert await source() == token
    assert (extensions() if extensions else {}) == ({"logicalCluster": "lkc-1"} if "heirs" in name else {})


async def test_who_gives_tokens_may_be_an_entry_point(providers):
    assert "vault" in entry_points(group="gate.token_providers").names
    source, _ = custom("vault")
    assert await source() == Token("plain")


@pytest.mark.parametrize(
    ("name", "said"),
    [("Slow", f"has not answered within {DEADLINE:g} s"), ("none", "fails: TypeError: ")],
)
async def test_who_fails_to_give_a_token_is_named(providers, name, said):
    source, _ = custom(f"{providers}:{name}")
    with pytest.raises(AccessError, match=f"the token provider {providers}:{name} {said}"):
        await source()


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("nowhere:at_all", "can't be loaded: No module named 'nowhere'", "installed"),
        ("providers_of_ours:missing", "can't be loaded: .* has no attribute 'missing'", "installed"),
        ("providers_of_ours:number", "can't be called", "function"),
        ("unheard-of", "is not known", "use one of msk, vault, or MODULE:NAME"),
    ],
)
def test_a_provider_that_is_none_is_told(providers, name, said, hint):
    with pytest.raises(GateError, match=f"GATE_OAUTH_PROVIDER={name} {said}") as told:
        custom(name)
    assert hint in told.value.hint


def test_what_others_say_stays_one_short_line():
    assert shown("a\nb\x1b[31m c") == "a b [31m c"
    assert len(shown("x" * 10_000)) < 250


async def test_amazons_tokens_are_signed_with_the_credentials_of_the_process(monkeypatch):
    import base64
    import time

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    source, _ = custom("msk")
    token = await source()
    assert token.expires_at == pytest.approx(time.time() + 900, abs=10)
    url = base64.urlsafe_b64decode(token.value + "==").decode()
    assert url.startswith("https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect")
    assert "AKIAEXAMPLE" in url
    assert "hunter2" not in url
    tokens = Tokens(source, "provider msk", dict)
    assert await tokens.token() == await tokens.token()


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "neither AWS_REGION nor AWS_DEFAULT_REGION is set"), ({"AWS_REGION": "eu-west-1"}, "knows no credentials")],
)
async def test_what_amazons_tokens_lack_is_told(monkeypatch, tmp_path, given, said):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    source, _ = custom("msk")
    with pytest.raises(AccessError, match=said):
        await source()
