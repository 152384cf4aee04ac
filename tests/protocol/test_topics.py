import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.protocol.topics import MAX_TOPIC_LENGTH, PER_SERVICE, Names, Templates, TopicNameError, check_service_name

services = st.text("abcXYZ019._-", min_size=1, max_size=60)


def test_the_usual_names_are_those_of_the_contract():
    names = Names()
    assert [names.requests("s"), names.admitted("s"), names.delayed("s"), names.rejected("s"), names.results("s")] == [
        "gate.requests.s",
        "gate.admitted.s",
        "gate.delayed.s",
        "gate.rejected.s",
        "gate.results.s",
    ]
    assert [names.alerts, names.usage, names.state, names.control] == [
        "gate.alerts",
        "gate.usage",
        "gate.state",
        "gate.control",
    ]


def test_templates_and_prefix_are_the_users():
    names = Names("shop", Templates(requests="in.{service}.{prefix}", alerts="all-alerts"))
    assert names.requests("pay") == "in.pay.shop"
    assert names.admitted("pay") == "shop.admitted.pay"
    assert names.alerts == "all-alerts"
    assert names.service_of("in.pay.shop") == "pay"


@given(services)
def test_a_service_is_found_in_its_request_topic_and_in_no_other(service):
    names = Names()
    assert names.service_of(names.requests(service)) == service
    assert re.compile(names.requests_pattern).match(names.requests(service))
    for kind in PER_SERVICE - {"requests"}:
        assert names.service_of(getattr(names, kind)(service)) is None
        assert names.service_of(getattr(names, kind)(service), kind) == service


@pytest.mark.parametrize(
    "topic",
    [
        "gate.requests.",
        "gate.requests",
        "xgate.requests.a",
        "gate.requests.a\n",
        "gateXrequests.a",
        "gate.requests.ä",
        "",
    ],
)
def test_other_topics_have_no_service(topic):
    assert Names().service_of(topic) is None
    assert not re.match(Names().requests_pattern, topic)


@pytest.mark.parametrize(
    ("templates", "kinds"),
    [
        ({"requests": "{prefix}.{service}"}, "requests"),  # would read gate.admitted.x as requests of "admitted.x"
        ({"requests": "{service}"}, "requests"),
        ({"admitted": "{prefix}.requests.{service}.out"}, "admitted"),
        ({"rejected": "{prefix}.delayed.{service}"}, "rejected"),
        ({"usage": "{prefix}.alerts"}, "usage"),
        ({"alerts": "{prefix}.results.alerts"}, "alerts"),
    ],
)
def test_templates_that_could_meet_are_refused(templates, kinds):
    with pytest.raises(TopicNameError, match=rf"{kinds}.* can name the same topic"):
        Names(templates=Templates(**templates))


def test_templates_kept_apart_by_their_ends_are_fine():
    kinds = {kind: "{prefix}.{service}." + kind for kind in PER_SERVICE}
    assert Names(templates=Templates(**kinds)).service_of("gate.a.b.requests") == "a.b"


@pytest.mark.parametrize(
    ("templates", "text"),
    [
        ({"requests": "{prefix}.requests"}, "must hold {service} once"),
        ({"requests": "{service}.{service}"}, "must hold {service} once"),
        ({"alerts": "{prefix}.alerts.{service}"}, "must hold {service} not at all"),
        ({"alerts": "alerts now"}, "makes no topic that Kafka takes"),
        ({"alerts": ""}, "makes no topic that Kafka takes"),
        ({"alerts": ".."}, "makes no topic that Kafka takes"),
        ({"delayed": "{preset}.{service}"}, "makes no topic that Kafka takes"),
    ],
)
def test_a_bad_template_is_named(templates, text):
    with pytest.raises(TopicNameError, match=re.escape(text)):
        Names(templates=Templates(**templates))


def test_a_bad_prefix_is_refused():
    with pytest.raises(TopicNameError, match="prefix 'my gate'"):
        Names("my gate")
    with pytest.raises(TopicNameError, match="at most 200"):
        Names("g" * 200)


@pytest.mark.parametrize(
    ("service", "text"),
    [("", "empty"), ("a b", "' '"), ("a/b", "'/'"), ("zäh", "'ä'"), ("a\n", r"'\\n'"), ("s" * 300, "300 characters")],
)
def test_a_bad_service_name_is_refused(service, text):
    with pytest.raises(TopicNameError, match=text):
        check_service_name(service)


def test_the_longest_service_name_fits_exactly():
    names = Names()
    room = MAX_TOPIC_LENGTH - len("gate.requests.")
    names.check_service_name("s" * room)
    assert len(names.rejected("s" * room)) == MAX_TOPIC_LENGTH
    with pytest.raises(TopicNameError, match=f"{room} fit"):
        names.check_service_name("s" * (room + 1))


def test_each_generation_of_the_state_has_a_topic_of_its_own():
    assert Names().state == "gate.state"
    assert Names(generation=3).state == "gate.state.3"
    found = {topic: Names().generation_of(topic) for topic in ("gate.state", "gate.state.2", "gate.state.31")}
    assert found == {"gate.state": 1, "gate.state.2": 2, "gate.state.31": 31}
    others = ("gate.state.1", "gate.state.02", "gate.state.x", "gate.state.", "gate.states", "gate.state.2.3", "gate")
    assert {Names().generation_of(topic) for topic in others} == {None}
