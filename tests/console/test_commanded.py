"""What was commanded stands beside what it changed, with who and why, as long as it holds or goes on."""

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from gate.config import Connection
from gate.console.asked import Asked
from gate.console.commanded import ANSWERED, Commanded
from gate.console.feed import Feed
from gate.console.lookups import Lookups
from gate.console.views import Views
from gate.protocol.answers import Answer, AnswerState, Audit, encode
from tests.console.conftest import AT_MS


@pytest.fixture
def known():
    return Commanded()


def test_a_pause_of_a_tenant_is_not_one_of_its_service(known):
    known.take_audit(Audit(AT_MS, "pause", "pay", "c1", "ann", said={"tenant": "acme"}))
    assert known.pause_of("pay") is None
    assert known.pause_of("pay", "acme").who == "ann"


def answered(known, state, command="c1", **fields):
    said = {"what": "cancel", "who": "ann", "because": "they have left"} | fields
    known.take_answer(Answer(command, "pay", state, AT_MS, **said))


def test_a_command_is_under_way_until_it_is_over(known):
    answered(known, AnswerState.TAKEN)
    answered(known, AnswerState.WORKING, done=500, of=3000)
    (one,) = known.under_way("pay", names=True)
    assert (one.what, one.done, one.of, one.who, one.why) == ("cancel", 500, 3000, "ann", "they have left")
    (hidden,) = known.under_way("pay", names=False)
    assert (hidden.done, hidden.who, hidden.why) == (500, "", "")
    answered(known, AnswerState.DONE, done=3000, of=3000, what="", who="", because="")
    assert known.under_way("pay", names=True) == []
    (over,) = known.latest("pay", AT_MS + 1, names=True)
    assert (over.state, over.what, over.who) == ("done", "cancel", "ann"), "an answer adds to those before"
    assert known.latest("pay", AT_MS + 3_600_000, names=True) == []


def test_what_is_done_at_once_is_no_command_under_way(known):
    for what in ("pause-until", "resume", "abort"):
        known.take_answer(Answer(what, "pay", AnswerState.DONE, AT_MS, what=what, who="ann"))
    assert known.latest("pay", AT_MS, names=True) == []


def test_what_only_counts_is_no_command_under_way(known):
    answered(known, AnswerState.WORKING, of=10, dry_run=True)
    answered(known, AnswerState.TAKEN, "of an earlier gate", what="")
    assert known.latest("pay", AT_MS, names=True) == []


def test_a_limit_with_the_id_of_a_command_is_not_taken_for_it(known):
    known.take_answer(Answer("c", "pay", AnswerState.WORKING, AT_MS, done=1, of=9, what="cancel", who="ann"))
    known.take_answer(Answer("c", "pay", AnswerState.DONE, AT_MS, version=3))  # of a limit
    (shown,) = known.latest("pay", AT_MS, names=True)
    assert (shown.what, shown.done, shown.of, shown.is_under_way) == ("cancel", 1, 9, True)


def test_pauses_are_bands_from_their_beginning_to_their_end(known):
    def told(at, what, **said):
        known.take_audit(Audit(AT_MS + at, what, "pay", f"c{at}", said=said, result="done"))

    told(0, "pause", until_ms=AT_MS + 10)
    told(50, "pause", until_ms=AT_MS + 90)
    told(60, "pause", until_ms=AT_MS + 80)  # of several the longest counts
    told(70, "resume")
    told(71, "resume")
    told(100, "pause", until_ms=AT_MS + 500, tenant="acme")  # the others go on
    told(200, "pause", until_ms=None)
    spans = [(begin - AT_MS, end - AT_MS) for begin, end in known.paused("pay", AT_MS + 1000)]
    assert spans == [(0, 10), (50, 70), (200, 1000)]
    assert known.paused("search", AT_MS) == []


def test_few_are_kept(known):
    answered(known, AnswerState.WORKING, "first", of=3)
    for number in range(ANSWERED):
        answered(known, AnswerState.DONE, f"c{number}")
    assert known.under_way("pay", names=True) == []
    assert len(known.latest("pay", AT_MS, names=True)) == ANSWERED


def test_what_was_commanded_about_a_tenant_is_found(known):
    known.take_audit(Audit(AT_MS, "cancel", "pay", "c1", said={"selection": {"tenant": "acme"}}))
    known.take_audit(Audit(AT_MS, "set-limit", "pay", "c2", said={"tenant": "acme"}, after={"burst_size": 3}))
    known.take_audit(Audit(AT_MS, "set-limit", "pay", "c3", after={"burst_size": 3}))
    assert [audit.what for audit in known.audits("pay", "acme")] == ["set-limit", "cancel"]
    assert len(known.audits("pay")) == 3


async def test_an_id_of_any_letters_is_aborted_by_that_id(tell, group, monkeypatch):
    tell("pay")
    hostile = "x&abort=y#z\"'<"
    group.take_answer(encode(Answer(hostile, "pay", AnswerState.TAKEN, AT_MS, what="cancel")))
    connection = Connection("127.0.0.1:1")
    feed = Feed(connection)
    feed.group = group
    feed._ready.set()
    monkeypatch.setattr(feed, "look", lambda: None)
    page = await Views(feed, Lookups(connection), wall_ms=lambda: AT_MS).render(
        Asked("service", service="pay", acts=True, names=True)
    )
    (link,) = re.findall(r'href="([^"]*abort=[^"]*)"', page)
    url = urlsplit(html.unescape(link))
    assert (url.path, url.fragment) == ("/services/pay", "do")
    assert parse_qs(url.query) == {"abort": [hostile]}
