"""Diagnostics of `gate doctor`: whether this broker, these topics and this host let a gate keep its promises."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import aiokafka
from aiokafka.errors import KafkaError

from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.access_rights import look, rights_of
from gate.kafka.aio.client import Client
from gate.kafka.aio.compat import CHOICE, RANGE, VARIABLE, Choice
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.session import KafkaSession
from gate.kafka.cluster import STAMP_ROOM, Cluster
from gate.kafka.durability import broker_settings, examine
from gate.kafka.findings import Finding, Health
from gate.kafka.generations import FIRST, Moving, find, known
from gate.kafka.open_transactions import Transactions
from gate.kafka.profiles import OWN, Profile
from gate.kafka.retention_sweeper import refused_to_delete
from gate.kafka.stalled_requests import StalledRequests, stalled_requests
from gate.kafka.topic_creation import TopicSpec
from gate.kafka.undecided_requests import options
from gate.kafka.worker_pauses import unnamed
from gate.policy import Policy, Settings
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition, RecoveredState
from gate.shard.routing import Topics

DEADLINE: Final = 10.0


class Diagnostics:
    """Looks at one cluster. Writes nothing that anybody will see: its one transaction is never committed."""

    def __init__(
        self,
        cluster: Cluster,
        names: Names,
        settings: Settings,
        bootstrap: str,
        profile: Profile = OWN,
        policy: Policy | None = None,
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._settings = settings
        self._bootstrap = bootstrap
        self._profile = profile
        self._policy = policy  # of the gates, if it is known

    async def run(self) -> AsyncIterator[Finding]:
        """Yield findings one by one."""
        there = await self._cluster.partitions()
        yield Finding("broker", Health.OK, f"{self._bootstrap} answers and has {len(there)} topics")
        for finding in await _guarded("topics", lambda: self._common_topics(there)):
            yield finding
        for finding in await _guarded("services", lambda: self._services(there)):
            yield finding
        for finding in await _guarded("replication", lambda: self._durability(there)):
            yield finding
        for finding in await _guarded("sweeping", lambda: self._sweeping(there)):
            yield finding
        for finding in await _guarded("access", lambda: self._access(there)):
            yield finding
        for finding in await _guarded("broker settings", self._broker_settings):
            yield finding
        for finding in await _guarded("group", self._group):
            yield finding
        for finding in await _guarded("undecided", lambda: self._undecided(there)):
            yield finding
        for finding in await _guarded("control", lambda: self._commands(there)):
            yield finding
        for finding in await _guarded("transactions", lambda: self._transactions(there)):
            yield finding
        yield client_path(aiokafka.__version__, CHOICE)

    async def _common_topics(self, there: Mapping[str, int]) -> list[Finding]:
        findings, shards = await self._generation(there)
        specs = self._cluster.common_specs(shards)
        missing = [spec for spec in specs if spec.name not in there]
        configs = await self._cluster.configs(*(spec.name for spec in specs if spec.name in there))
        findings += [_missing(spec, create=self._settings.create_topics) for spec in missing]
        for spec in specs:
            if spec.name not in there:
                continue
            config = configs[spec.name]
            wrong = {key: value for key, value in spec.needed.items() if _differs(key, config.get(key), value)}
            lacks = {
                key: value
                for key, value in spec.wished.items()
                if key not in self._profile.fixed and _differs(key, config.get(key), value)
            }
            if spec.name == self._names.state and there[spec.name] != shards:
                runs = bool(await self._cluster.members(self._settings.group_id))
                findings.append(_other_shards(spec.name, there[spec.name], self._settings.shards, runs=runs))
            elif not config:
                fix = f"allow DescribeConfigs on {spec.name} to whoever runs the doctor"
                findings.append(Finding(spec.name, Health.SKIPPED, "is there; its settings may not be read", fix))
            elif wrong:
                health = Health.FAIL if spec.name == self._names.state else Health.WARN
                text = f"is not configured as it should be: {_settings(wrong)}"
                findings.append(Finding(spec.name, health, text, self._profile.cure(spec.name, wrong)))
            elif lacks:
                text = f"lacks what makes take-overs quick: {_settings(lacks)}"
                findings.append(Finding(spec.name, Health.WARN, text, self._profile.cure(spec.name, lacks)))
            else:
                findings.append(Finding(spec.name, Health.OK, f"is there, with {there[spec.name]} partitions"))
        return findings

    async def _generation(self, there: Mapping[str, int]) -> tuple[list[Finding], int]:
        """Look at the generation of the state that is in force, and say what is to be said of it; return its shards."""
        said = self._settings.shards
        if not any(number > FIRST for number in known(self._names, there)):
            return [], said
        async with self._client() as client, asyncio.timeout(DEADLINE):
            found = await find(Reader(client), self._names, there)
        if isinstance(found, Moving):
            fix = f"`gate reshard {found.closed.shards}` finishes it, `gate reshard --abort` takes it back"
            return [Finding(self._names.state, Health.FAIL, found.shown, fix)], said
        if found is None or found.number == FIRST:
            return [], said
        self._names = replace(self._names, generation=found.number)
        self._cluster.enter(self._names)
        if found.shards == said:
            return [], said
        text = f"{found.shards} shards are in force since `gate reshard`, the settings say {said}"
        return [Finding("shards", Health.WARN, text, f"write `shards: {found.shards}`")], found.shards

    async def _services(self, there: Mapping[str, int]) -> list[Finding]:
        services = sorted(s for topic in there if (s := self._names.service_of(topic)) is not None)
        if not services:
            pattern = self._names.requests("SERVICE")
            return [
                Finding("services", Health.WARN, "there are none yet", f"create {pattern}, or `gate submit SERVICE`")
            ]
        findings = []
        for service in services:
            topics = Topics.of(self._names, service)
            requests, outputs = topics.requests, (*topics.decided, topics.feedback)
            present = [topic for topic in outputs if topic in there]
            if narrow := [topic for topic in present if there[topic] < there[requests]]:
                fix = f"kafka-topics.sh --alter --topic {narrow[0]} --partitions {there[requests]}"
                text = f"{', '.join(narrow)} has fewer partitions than {requests}"
                findings.append(Finding(service, Health.FAIL, text, fix))
                continue
            configs = await self._cluster.configs(requests, *present)
            most = int(configs[requests].get("max.message.bytes") or 0)
            stamped = [topic for topic in present if topic != topics.feedback]
            tight = [t for t in stamped if int(configs[t].get("max.message.bytes") or most + STAMP_ROOM) <= most]
            if tight:
                config = f"max.message.bytes={most + STAMP_ROOM}"
                fix = f"kafka-configs.sh --alter --topic {tight[0]} --add-config {config}"
                text = f"the largest request and its stamp do not fit into {', '.join(tight)}"
                findings.append(Finding(service, Health.WARN, text, fix))
                continue
            lacking = len(outputs) - len(present)
            text = f"{there[requests]} partitions" + (f"; {lacking} output topics will be created" if lacking else "")
            findings.append(Finding(service, Health.OK, text))
        return findings

    async def _durability(self, there: Mapping[str, int]) -> list[Finding]:
        return await examine(self._cluster, self._names, self._settings.shards, there, self._profile)

    async def _sweeping(self, there: Mapping[str, int]) -> list[Finding]:
        """Ask whether what has been released can be deleted."""
        delayed = sorted(self._names.delayed(s) for topic in there if (s := self._names.service_of(topic)) is not None)
        if not (delayed := [topic for topic in delayed if topic in there]):
            return [Finding("sweeping", Health.SKIPPED, "there is no delayed topic yet")]
        async with self._client() as client, asyncio.timeout(DEADLINE):
            refused = await refused_to_delete(Reader(client), Partition(delayed[0], 0))
        if refused is None:
            return [Finding("sweeping", Health.OK, "records of delayed topics can be deleted once they are released")]
        text = f"what has been released stays in {delayed[0]} and others: {refused.__name__}"
        fix = "allow Delete on the delayed and the retries topics, or set `keep_released: null`"
        return [Finding("sweeping", Health.WARN, text, fix)]

    async def _access(self, there: Mapping[str, int]) -> list[Finding]:
        """Ask whether all is allowed that a gate does; transactional ids are tried by a transaction."""
        services = sorted(s for topic in there if (s := self._names.service_of(topic)) is not None)
        policies = {} if self._policy is None else {service: self._policy.effective(service) for service in services}
        kept = {service for service, policy in policies.items() if policy.keep_released is None}
        watched = {p.worker_group for p in policies.values() if p.max_in_flight is not None and p.worker_group}
        rights = rights_of(self._names, services, create=self._settings.create_topics, delete=set(services) - kept)
        async with self._client() as client, asyncio.timeout(DEADLINE):
            return await look(client, rights, self._settings.group_id, watched)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        client = Client(request_timeout_ms=int(DEADLINE * 1000), **access(self._bootstrap))
        try:
            await client.bootstrap()
            yield client
        finally:
            await client.close()

    async def _broker_settings(self) -> list[Finding]:
        return broker_settings(await self._cluster.broker_configs(), self._profile)

    async def _group(self) -> list[Finding]:
        members = await self._cluster.members(self._settings.group_id)
        if members:
            return [Finding("group", Health.OK, f"{self._settings.group_id} has {members} gates running")]
        fix = "start one with `gate run --config FILE`"
        return [Finding("group", Health.WARN, f"{self._settings.group_id} has no gate running", fix)]

    async def _undecided(self, there: Mapping[str, int]) -> list[Finding]:
        """Look for requests that stand, although a gate runs or behind a transaction that nobody ends."""
        group = self._settings.group_id
        where = options(self._bootstrap, self._settings.prefix)
        found = {topic: service for topic in there if (service := self._names.service_of(topic)) is not None}
        partitions = {Partition(topic, n): service for topic, service in found.items() for n in range(there[topic])}
        async with self._client() as client:
            stand = await stalled_requests(
                Reader(client), lambda some: self._cluster.marks(group, some), partitions, where, time.time_ns,
                Transactions(client).name,
            )  # fmt: skip
        runs = bool(await self._cluster.members(group))
        findings = [_stands(one, self._profile) for one in stand if one.blocked or runs]
        return findings or [Finding("undecided", Health.OK, "no partition stands")]

    async def _commands(self, there: Mapping[str, int]) -> list[Finding]:
        """Look for workers of earlier versions, which pause services by commands."""
        topic = self._names.control
        if topic not in there:
            return []
        async with self._client() as client, asyncio.timeout(DEADLINE):
            found = await unnamed(Reader(client), topic, int(time.time() * 1000))
        if not found:
            return [Finding("control", Health.OK, "only operators command")]
        text = (
            f"{len(found)} pauses in {topic} do not say that an operator wants them, the newest at offset "
            f"{found[-1].offset} for {found[-1].service}; they last for an hour at the most"
        )
        fix = (
            f"upgrade the workers, which then tell {self._names.feedback('SERVICE')} instead and may not write there;"
            " or the host on which `gate pause` runs"
        )
        return [Finding("control", Health.WARN, text, fix)]

    async def _transactions(self, there: Mapping[str, int]) -> list[Finding]:
        """Open a transaction, see what the broker's clock stamps on a record of it, and abandon it."""
        if self._names.alerts not in there:
            text = f"not tried: {self._names.alerts}, into which the trial writes, is missing"
            return [Finding("transactions", Health.SKIPPED, text), Finding("clock", Health.SKIPPED, text)]
        alerts = Partition(self._names.alerts, 0)

        async def nothing(_: Sequence[Partition]) -> RecoveredState:
            return RecoveredState({}, {})

        async def no_offsets(_: Mapping[Partition, int]) -> None:
            return None

        name = f"{self._settings.group_id}-doctor"
        session = KafkaSession(
            name,
            self._settings.group_id,
            alerts,
            nothing,
            no_offsets,
            deadline=DEADLINE,
            **access(self._bootstrap),
        )
        try:
            await session.claim([])
            session.begin()
            before = time.time()
            written = await session.produce({alerts: [Outgoing(b"", b"{}", None, [])]})
            after = time.time()
            await session.abort()
        except (KafkaError, TimeoutError) as error:
            fix = (
                f"allow Write and Describe on TransactionalId {self._settings.group_id}-*, or `delivery: at_least_once`"
            )
            return [Finding("transactions", Health.FAIL, f"do not work: {error or type(error).__name__}", fix)]
        finally:
            await session.discard()
        findings = [Finding("transactions", Health.OK, f"work; the trial took {(after - before) * 1000:.0f} ms")]
        stamp = written[alerts].timestamp / 1000
        if stamp < 0:
            findings.append(Finding("clock", Health.SKIPPED, f"{alerts.topic} does not carry the broker's time"))
        else:
            skew = max(before - stamp - 0.001, stamp - after, 0.0)
            far = skew > self._settings.max_clock_skew
            text = f"this host and the broker differ by at least {skew:.3f} s"
            cure = "run chrony or ntpd on both; decisions go by the broker's clock in any case" if far else None
            findings.append(Finding("clock", Health.WARN if far else Health.OK, text, cure))
        return findings


async def _guarded(check: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        return await look()
    except GateError as error:
        return [Finding(check, Health.FAIL, str(error), error.hint)]
    except (KafkaError, TimeoutError) as error:
        text = f"could not be looked at: {error or type(error).__name__}"
        return [Finding(check, Health.FAIL, text, "allow Describe and DescribeConfigs to whoever runs the doctor")]


def _stands(one: StalledRequests, profile: Profile) -> Finding:
    waiting = one.waiting
    age = max(0, time.time_ns() - waiting.since_ns) / 1e9
    place = f"{waiting.topic}-{waiting.partition}"
    count = f"{one.requests} request{'' if one.requests == 1 else 's'}"
    if one.blocked:
        alone = f"; what no coordinator knows {profile.provider} alone can end" if profile.provider else ""
        text = f"{count} wait, {age:.0f} s by now: {waiting.why}"
        return Finding(place, Health.FAIL, text, f"{waiting.remedy}{alone}")
    text = f"{count} from offset {waiting.offset} on are not decided, the first after {age:.0f} s, though a gate runs"
    fix = f"{waiting.remedy}; a policy that is missing with `fail_open: false`, or `overflow: hold`, does it on purpose"
    return Finding(place, Health.WARN, text, fix)


def _other_shards(state: str, has: int, said: int, *, runs: bool) -> Finding:
    """Tell of a state topic for other shards than settings say. A gate that runs has as many as it."""
    text = f"has {has} partitions, the settings say {said} shards"
    if runs:
        fix = f"say so here too: `--shards {has}`, GATE_SHARDS={has}, or `shards: {has}` in the policy file"
        return Finding(state, Health.WARN, f"{text}; gates run with {has}", fix)
    return Finding(state, Health.FAIL, text, f"run gates with `--shards {has}`")


def _missing(spec: TopicSpec, *, create: bool) -> Finding:
    if create:
        return Finding(spec.name, Health.WARN, "is missing; the next gate that starts will create it")
    return Finding(spec.name, Health.FAIL, "is missing, and `create_topics` is false", spec.command())


def _settings(config: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in config.items())


def _differs(key: str, has: str | None, wanted: str) -> bool:
    """Tell whether a setting is not as wanted. None: it is not told, which is no fault of the topic."""
    if key == "max.message.bytes":
        return has is not None and int(has) < int(wanted)
    return has is not None and has != wanted


def client_path(version: str, choice: Choice) -> Finding:
    """Tell which path over aiokafka runs, and why."""
    if choice.fast:
        return Finding("aiokafka", Health.OK, f"{version}: the fast path runs, {choice.why}")
    text = f"{version}: the public path runs, which is as exact, and slower: {choice.why}"
    if choice.wanted:
        return Finding("aiokafka", Health.OK, text)
    return Finding("aiokafka", Health.WARN, text, f"pip install '{RANGE}', or set {VARIABLE}=public if it is meant")
