"""Durability of topics: whether what is in them outlives a broker that stops or loses its disk, and for how long."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from gate.kafka.cluster import FOREVER, Cluster, Copied
from gate.kafka.findings import Finding, Health
from gate.kafka.profiles import UNCLEAN, Profile
from gate.kafka.topic_creation import MIN_ISR, SAFE
from gate.protocol.topics import Names
from gate.shard.routing import Topics

INTERNAL: Final = ("__consumer_offsets", "__transaction_state")
SETTINGS: Final = (MIN_ISR, UNCLEAN, "cleanup.policy", "retention.ms", "retention.bytes")
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
LEAST_TIMEOUT_MS: Final = 30_000  # what a gate asks for
NAMED: Final = 3

Layout = Mapping[str, Sequence[Copied]]
Configs = Mapping[str, Mapping[str, str]]


async def examine(
    cluster: Cluster, names: Names, shards: int, there: Collection[str], profile: Profile
) -> list[Finding]:
    """Judge the topics of a gate, and those in which brokers keep offsets and transactions."""
    services = [s for topic in there if (s := names.service_of(topic)) is not None]
    requests = [names.requests(s) for s in services]
    waiting = [topic for s in services for topic in (names.delayed(s), names.retries(s))]
    own = {spec.name for spec in cluster.common_specs(shards)}
    own |= {*requests, *waiting, *(topic for s in services for topic in Topics.of(names, s).outputs)}
    layout = await cluster.layout({*own, *INTERNAL})
    if not layout.keys() & own:
        return [Finding("replication", Health.SKIPPED, "there are no topics yet")]
    configs = await cluster.configs(*layout, names=SETTINGS)
    return durability(layout, configs, await cluster.brokers(), profile) + retention(
        {topic: configs[topic] for topic in requests if topic in configs},
        {topic: configs[topic] for topic in waiting if topic in configs},
        profile,
    )


def durability(layout: Layout, configs: Configs, brokers: int, profile: Profile) -> list[Finding]:
    """Judge copies, those in sync, and elections, of topics that all are there."""
    return [
        _copies(layout, brokers, profile),
        _in_sync(layout),
        *_min_isr(layout, configs, profile),
        _unclean(configs, profile),
    ]


def _copies(layout: Layout, brokers: int, profile: Profile) -> Finding:
    thin = sorted(topic for topic, parts in layout.items() if min((p.copies for p in parts), default=SAFE) < SAFE)
    if not thin:
        return Finding("replication", Health.OK, f"{len(layout)} topics have {SAFE} copies or more")
    text = f"{_named(thin)} {_have(thin)} fewer than {SAFE} copies: what a disk loses is lost, and limits with it"
    if brokers < SAFE:
        fix = f"for production run {SAFE} brokers; new topics then get {SAFE} copies and {MIN_ISR}=2"
        return Finding("replication", Health.WARN, f"{text} ({brokers} of {SAFE} brokers are there)", fix)
    fix = f"kafka-reassign-partitions.sh with {SAFE} replicas for each partition of {_named(thin)}"
    return Finding("replication", Health.FAIL, text, f"ask {profile.provider}" if profile.provider else fix)


def _in_sync(layout: Layout) -> Finding:
    behind = [f"{topic}-{p.number}" for topic, parts in sorted(layout.items()) for p in parts if p.in_sync < p.copies]
    if not behind:
        return Finding("in-sync replicas", Health.OK, "all copies of all partitions are in sync")
    text = f"{_named(behind)} {_have(behind)} copies that are not in sync"
    return Finding(
        "in-sync replicas", Health.WARN, text, "look for a broker that is away, or that has a full or slow disk"
    )


def _min_isr(layout: Layout, configs: Configs, profile: Profile) -> list[Finding]:
    check = MIN_ISR
    known = {topic: int(config[MIN_ISR]) for topic, config in configs.items() if config.get(MIN_ISR, "").isdecimal()}
    copies = {topic: min((p.copies for p in parts), default=0) for topic, parts in layout.items()}
    stuck = sorted(topic for topic, least in known.items() if least > copies[topic])
    weak = sorted(topic for topic, least in known.items() if least < 2 and copies[topic] >= SAFE)
    strict = sorted(topic for topic, least in known.items() if least == copies[topic] > 1)
    findings = []
    if stuck:
        text = f"{_named(stuck)} can't be written: {MIN_ISR} is more than there are copies"
        findings.append(Finding(check, Health.FAIL, text, profile.cure(stuck[0], {MIN_ISR: str(copies[stuck[0]])})))
    if weak:
        text = f"{_named(weak)} {_have(weak)} {MIN_ISR}=1: what one broker acknowledged is lost with it"
        findings.append(Finding(check, Health.FAIL, text, profile.cure(weak[0], {MIN_ISR: "2"})))
    if strict:
        text = f"{_named(strict)} {_have(strict)} {MIN_ISR} as high as copies: each stop of a broker stops writing"
        fix = f"give them {SAFE} copies: kafka-reassign-partitions.sh"
        findings.append(Finding(check, Health.WARN, text, f"ask {profile.provider}" if profile.provider else fix))
    if not known:
        fixed = MIN_ISR in profile.fixed
        text = f"{profile.title} sees to it" if fixed else "no broker tells it"
        cure = None if fixed else "allow DescribeConfigs on the topics to whoever runs the doctor"
        return [Finding(check, Health.OK if fixed else Health.SKIPPED, text, cure)]
    return findings or [Finding(check, Health.OK, f"fits the copies of {len(known)} topics")]


def _unclean(configs: Configs, profile: Profile) -> Finding:
    unclean = sorted(topic for topic, config in configs.items() if config.get(UNCLEAN) == "true")
    if unclean:
        text = f"{_named(unclean)} may be led by a broker that lacks what was acknowledged"
        return Finding("elections", Health.FAIL, text, profile.cure(unclean[0], {UNCLEAN: "false"}))
    if not any(UNCLEAN in config for config in configs.values()):
        fixed = UNCLEAN in profile.fixed
        return Finding(
            "elections", Health.OK if fixed else Health.SKIPPED,
            f"{profile.title} sees to them" if fixed else f"no broker tells {UNCLEAN}",
        )  # fmt: skip
    return Finding("elections", Health.OK, "none is unclean")


def retention(requests: Configs, delayed: Configs, profile: Profile) -> list[Finding]:
    """Judge how long requests stay: those that nobody has decided, and those that wait."""
    findings = []
    for topic, config in sorted(delayed.items()):
        wrong = {key: value for key, value in FOREVER.items() if config.get(key, value) != value}
        if wrong:
            text = f"{topic} does not keep what waits: {_said(config, wrong)}"
            findings.append(Finding("retention", Health.FAIL, text, profile.cure(topic, wrong)))
    swept = [topic for topic, config in sorted(requests.items()) if "compact" in config.get("cleanup.policy", "")]
    if swept:
        text = f"{_named(swept)} {_have(swept)} compaction: of requests with one key only the last may be decided"
        findings.append(Finding("retention", Health.FAIL, text, profile.cure(swept[0], {"cleanup.policy": "delete"})))
    short = [topic for topic, config in sorted(requests.items()) if 0 <= _number(config, "retention.ms") < DAY_MS]
    if short:
        text = (
            f"{_named(short)} {_have(short)} a retention below a day: in a longer outage requests are deleted undecided"
        )
        findings.append(
            Finding("retention", Health.WARN, text, profile.cure(short[0], {"retention.ms": str(7 * DAY_MS)}))
        )
    sized = [topic for topic, config in sorted(requests.items()) if _number(config, "retention.bytes") >= 0]
    if sized:
        text = f"{_named(sized)} {_have(sized)} a limit of size: in an outage requests may be deleted undecided"
        findings.append(Finding("retention", Health.WARN, text, profile.cure(sized[0], {"retention.bytes": "-1"})))
    return findings or [Finding("retention", Health.OK, "requests stay for a day or longer, what waits stays")]


def broker_settings(config: Mapping[str, str], profile: Profile) -> list[Finding]:
    """Judge what brokers say of transactions."""
    check = "broker settings"
    if not config:
        text = f"{profile.title} does not tell them" if profile.provider else "may not be read"
        fix = None if profile.provider else "allow DescribeConfigs on the cluster to whoever runs the doctor"
        return [Finding(check, Health.SKIPPED, text, fix)]
    findings = []
    most, expiry = _number(config, "transaction.max.timeout.ms"), _number(config, "transactional.id.expiration.ms")
    if 0 <= most < LEAST_TIMEOUT_MS:
        text = f"transaction.max.timeout.ms={most} is below the {LEAST_TIMEOUT_MS} that a gate asks for"
        fix = f"set transaction.max.timeout.ms={15 * 60_000} in server.properties of all brokers"
        findings.append(Finding(check, Health.FAIL, text, fix))
    if 0 <= expiry < HOUR_MS:
        text = f"transactional.id.expiration.ms={expiry}: a shard that is idle for so long is taken over anew"
        fix = f"set transactional.id.expiration.ms={7 * DAY_MS} in server.properties of all brokers"
        findings.append(Finding(check, Health.WARN, text, fix))
    return findings or [Finding(check, Health.OK, "let a gate's transactions last as long as it asks for")]


def _number(config: Mapping[str, str], key: str) -> int:
    try:
        return int(config.get(key, -1))
    except ValueError:
        return -1


def _said(config: Mapping[str, str], keys: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={config[key]}" for key in keys)


def _named(things: Sequence[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more


def _have(things: Sequence[str]) -> str:
    return "has" if len(things) == 1 else "have"
