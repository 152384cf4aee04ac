from dataclasses import asdict

import pytest

from gate.policy import Compression, Delivery, PolicyError, Settings, Topics, parse_policy
from gate.protocol.topics import Templates

TEXT = "1 to 1000 printable characters without spaces around them"


def test_what_holds_where_nothing_is_said():
    settings = parse_policy("services: {}").settings
    assert settings == Settings()
    assert (settings.prefix, settings.group_id, settings.shards) == ("gate", "gate", 16)
    assert settings.delivery is Delivery.EXACTLY_ONCE
    assert settings.fail_open
    assert settings.create_topics
    assert settings.http_address is None
    assert settings.replication_factor == -1


def test_topics_are_spelt_as_the_shell_spells_them():
    assert Topics().model_dump() == asdict(Templates())


def test_what_a_file_says():
    settings = parse_policy("""
bootstrap: kafka-1:9092, kafka-2:9092
prefix: eu
topics: {admitted: "ready.{service}"}
shards: 4
create_topics: false
replication_factor: 3
delivery: at_least_once
compression: zstd
fail_open: false
http: 8080
max_clock_skew: 500ms
connect_timeout: 1m
""").settings
    assert settings.bootstrap == "kafka-1:9092,kafka-2:9092"
    assert settings.group_id == "eu"
    assert settings.topics == Topics(admitted="ready.{service}")
    assert (settings.shards, settings.replication_factor) == (4, 3)
    assert not settings.create_topics
    assert not settings.fail_open
    assert (settings.delivery, settings.compression) == (Delivery.AT_LEAST_ONCE, Compression.ZSTD)
    assert settings.http_address == ("127.0.0.1", 8080)
    assert (settings.max_clock_skew, settings.connect_timeout) == (0.5, 60.0)


@pytest.mark.parametrize(
    ("written", "address"),
    [("0", ("127.0.0.1", 0)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("'[::1]:9000'", ("::1", 9000)), ("a:1", ("a", 1)),
     ("null", None)],
)  # fmt: skip
def test_http_addresses(written, address):
    settings = parse_policy(f"http: {written}").settings
    assert settings.http_address == address
    assert settings.override(shards=3).http_address == address


@pytest.mark.parametrize(
    ("written", "names"),
    [("gate.example.com", ("gate.example.com",)), ("'a, b'", ("a", "b")), ("[a, b.c]", ("a", "b.c")), ("null", ())],
)
def test_names_of_the_http_port(written, names):
    assert parse_policy(f"http_host: {written}").settings.http_host == names
    assert Settings().with_environment({"GATE_HTTP_HOST": "7, b"}).http_host == ("7", "b")


@pytest.mark.parametrize("written", ["http://a", "'a:80'", "7", "[7]", "'*'", "''", "{a: b}"])
def test_what_is_no_name_of_a_host_is_refused(written):
    with pytest.raises(PolicyError, match="name"):
        parse_policy(f"http_host: {written}")


def test_overriding_keeps_the_rest_and_what_follows_follows():
    settings = parse_policy("shards: 4\ntopics: {alerts: 'alarms'}").settings
    assert settings.override(bootstrap=None, prefix=None) == settings
    changed = settings.override(prefix="eu", http=9090, connect_timeout=2.5)
    assert (changed.prefix, changed.group_id, changed.shards, changed.topics.alerts) == ("eu", "eu", 4, "alarms")
    assert changed.http_address == ("127.0.0.1", 9090)
    assert changed.override(http="off").http is None
    assert settings.override(group_id="mine").override(prefix="eu").group_id == "mine"


def test_environment():
    environment = {
        "GATE_BOOTSTRAP": "kafka:9092",
        "GATE_SHARDS": "8",
        "GATE_FAIL_OPEN": "false",
        "GATE_DELIVERY": "at_least_once",
        "GATE_PREFIX": "007",
        "GATE_HTTP": "off",
        "GATE_GROUP_ID": "",
        "GATE_CONNECT_TIMEOUT": "1m",
        "GATE_TOPICS": "no setting of one line",
        "GATE_TRACEBACK": "1",
        "PATH": "/bin",
    }
    settings = Settings().override(http=80).with_environment(environment)
    assert settings == Settings(
        bootstrap="kafka:9092",
        shards=8,
        fail_open=False,
        delivery="at_least_once",
        prefix="007",
        http=None,
        connect_timeout=60,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda settings: settings.override(shards=0), "settings: shards: must be at least 1, not 0"),
        (lambda settings: settings.override(shard=3), "settings: shard: unknown field\nhint: did you mean shards?"),
        (lambda settings: settings.override(group_id=""), f'settings: group_id: must be {TEXT}, not ""'),
        (
            lambda settings: settings.with_environment({"GATE_SHARDS": "many"}),
            'environment: GATE_SHARDS: must be a whole number, not "many"',
        ),
        (
            lambda settings: settings.with_environment({"GATE_BOOTSTRAP": "kafka"}),
            'environment: GATE_BOOTSTRAP: must be HOST:PORT, not "kafka"\nhint: write it as in localhost:9092',
        ),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_given(change, said):
    with pytest.raises(PolicyError) as raised:
        change(Settings())
    assert raised.value.render() == said
