"""What a doctor says of copies, elections, retention and transactions."""

import pytest

from gate.kafka.cluster import Copied
from gate.kafka.durability import broker_settings, durability, retention
from gate.kafka.findings import Health
from gate.kafka.profiles import OWN, PROFILES

SOUND = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


def judged(topics, brokers=3, profile=OWN, **config):
    """Judge topics: name -> (copies, in sync)."""
    layout = {topic: [Copied(0, *counts)] for topic, counts in topics.items()}
    configs = {topic: {**SOUND, **{k.replace("_", "."): v for k, v in config.items()}} for topic in topics}
    return {finding.check: finding for finding in durability(layout, configs, brokers, profile)}


def test_three_copies_of_which_two_are_in_sync_are_sound():
    found = judged({"a": (3, 3), "b": (4, 4)})
    assert len(found) == 4
    assert {finding.health for finding in found.values()} == {Health.OK}


def test_one_copy_is_a_failure_where_there_could_be_three():
    found = judged({"a": (1, 1), "b": (3, 3), "c": (2, 2)}, min_insync_replicas="1")
    assert found["replication"].health is Health.FAIL
    assert found["replication"].text.startswith("a, c have fewer than 3 copies")
    assert judged({"a": (1, 1)}, brokers=1, min_insync_replicas="1")["replication"].health is Health.WARN


def test_many_topics_are_counted():
    assert "t0, t1, t2 and 5 more have" in judged({f"t{n}": (1, 1) for n in range(8)})["replication"].text


def test_copies_that_lag_are_named():
    found = judged({"a": (3, 2)})["in-sync replicas"]
    assert (found.health, found.text) == (Health.WARN, "a-0 has copies that are not in sync")


@pytest.mark.parametrize(
    ("copies", "least", "health", "says"),
    [
        (3, "1", Health.FAIL, "what one broker acknowledged is lost with it"),
        (3, "3", Health.WARN, "each stop of a broker stops writing"),
        (1, "2", Health.FAIL, "can't be written"),
        (1, "1", Health.OK, "fits"),
    ],
)
def test_min_isr(copies, least, health, says):
    found = judged({"a": (copies, copies)}, min_insync_replicas=least)["min.insync.replicas"]
    assert found.health is health
    assert says in found.text


def test_unclean_elections_are_a_failure():
    found = judged({"a": (3, 3)}, unclean_leader_election_enable="true")["elections"]
    assert found.health is Health.FAIL
    assert "unclean.leader.election.enable=false" in found.fix


def test_what_is_not_told_is_skipped_and_what_a_provider_sees_to_is_sound():
    layout = {"a": [Copied(0, 3, 3)]}
    own = {f.check: f.health for f in durability(layout, {"a": {}}, 3, OWN)}
    redpanda = {f.check: f.health for f in durability(layout, {"a": {}}, 3, PROFILES["redpanda"])}
    assert own["min.insync.replicas"] is own["elections"] is Health.SKIPPED
    assert redpanda["min.insync.replicas"] is redpanda["elections"] is Health.OK


def test_no_cure_names_what_a_provider_lets_nobody_set():
    serverless = PROFILES["msk-serverless"]
    found = judged({"a": (3, 3)}, profile=serverless, min_insync_replicas="1")["min.insync.replicas"]
    assert found.fix == "MSK Serverless lets nobody set min.insync.replicas: ask AWS"
    assert "at creation only" in serverless.cure("a", {"cleanup.policy": "compact"})
    assert (
        serverless.cure("a", {"retention.ms": "-1"})
        == "kafka-configs.sh --alter --topic a --add-config retention.ms=-1"
    )


def kept(requests, delayed):
    return [(finding.health, finding.fix) for finding in retention({"r": requests}, {"d": delayed}, OWN)]


def test_what_waits_must_stay_and_requests_for_a_day():
    forever = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    week = {"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1"}
    assert kept(week, forever) == kept(forever, {}) == [(Health.OK, None)]
    [(health, fix)] = kept(week, week)
    assert (health, fix.endswith("--topic d --add-config retention.ms=-1")) == (Health.FAIL, True)
    [(health, fix)] = kept(week | {"cleanup.policy": "compact,delete"}, forever)
    assert (health, fix.endswith("--topic r --add-config cleanup.policy=delete")) == (Health.FAIL, True)
    assert [health for health, _ in kept({"retention.ms": "3600000", "retention.bytes": "9"}, forever)] == [
        Health.WARN, Health.WARN,
    ]  # fmt: skip


def test_transactions_must_last_as_long_as_a_gate_asks_for():
    [sound] = broker_settings(
        {"transaction.max.timeout.ms": "900000", "transactional.id.expiration.ms": "604800000"}, OWN
    )
    [short] = broker_settings({"transaction.max.timeout.ms": "10000"}, OWN)
    [soon] = broker_settings({"transactional.id.expiration.ms": "10000"}, OWN)
    [hidden] = broker_settings({}, OWN)
    assert [f.health for f in (sound, short, soon, hidden)] == [Health.OK, Health.FAIL, Health.WARN, Health.SKIPPED]
