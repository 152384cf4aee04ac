"""The connection that commands and clients share."""

import pytest

from gate.client import (
    Alerts,
    ArgumentError,
    Connection,
    GateControl,
    JobClient,
    Pacer,
    SyncGateControl,
    SyncJobClient,
    SyncPacer,
    Worker,
)
from gate.policy import PolicyError
from gate.protocol.topics import TopicNameError

MAKERS = {
    "Worker": lambda first, **more: Worker(first, group_id="g", **more),
    "Alerts": Alerts,
    "JobClient": JobClient,
    "SyncJobClient": SyncJobClient,
    "Pacer": lambda first, **more: Pacer(first, "pay", **more),
    "SyncPacer": lambda first, **more: SyncPacer(first, "pay", **more),
    "GateControl": GateControl,
    "SyncGateControl": SyncGateControl,
}


def test_keywords_go_before_variables_before_the_file(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("bootstrap: 'file:1'\nprefix: file\nconnect_timeout: 1m\ntopics: {requests: 'todo.{service}'}\n")
    assert Connection.load(environment={}) == Connection()
    one = Connection.load(file, environment={})
    assert one == Connection("file:1", prefix="file", topics=one.topics, connect_timeout=60.0)
    assert (one.group_id, one.names.requests("pay"), one.names.usage) == ("file", "todo.pay", "file.usage")
    environment = {"GATE_CONFIG": str(file), "GATE_PREFIX": "variable", "GATE_CONNECT_TIMEOUT": "1m30s"}
    one = Connection.load(environment=environment)
    assert (one.bootstrap, one.prefix, one.group_id, one.connect_timeout) == ("file:1", "variable", "variable", 90.0)
    one = Connection.load(environment=environment, bootstrap="keyword:1", prefix="keyword", group_id="crew")
    assert (one.bootstrap, one.names.usage, one.group_id) == ("keyword:1", "keyword.usage", "crew")
    assert one.names.requests("pay") == "todo.pay"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"bootstrap": "nowhere"}, "bootstrap"),
        ({"bootstrap": 9092}, "bootstrap"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"topics": {"request": "{service}"}}, "no kind 'request'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(wrong, told):
    with pytest.raises(ArgumentError, match=told) as refused:
        Connection(**wrong)
    assert refused.value.hint


def test_topics_that_kafka_would_refuse_or_confuse_are_refused():
    for topics in ({"requests": "in"}, {"requests": "my topic {service}"}, {"requests": "{prefix}.admitted.{service}"}):
        with pytest.raises(TopicNameError):
            Connection(topics=topics)


def test_a_file_or_a_variable_that_can_not_be_is_told(tmp_path):
    with pytest.raises(PolicyError, match="GATE_CONNECT_TIMEOUT"):
        Connection.load(environment={"GATE_CONNECT_TIMEOUT": "soon"})
    with pytest.raises(PolicyError, match=r"none\.yaml"):
        Connection.load(tmp_path / "none.yaml", environment={})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_class_of_the_client_takes_a_whole_connection(make):
    make(Connection("host:1", topics={"requests": "todo.{service}"}))
    for twice in ({"prefix": "other"}, {"connect_timeout": 5.0}):
        with pytest.raises(ArgumentError, match="given beside a Connection"):
            make(Connection("host:1"), **twice)
