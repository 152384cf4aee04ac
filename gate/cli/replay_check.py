"""Whether an engine decides about what was recorded as the gate did."""

from dataclasses import dataclass, replace
from typing import Final

from gate.admission.replay import replay
from gate.cli.client import Client
from gate.errors import GateError
from gate.kafka.recorded_decisions import RecordedDecision, Recording, disagreements, recorded_decisions
from gate.kafka.request_history import reader
from gate.policy import Policy

_MOST: Final = 5_000_000  # records of outputs


@dataclass(frozen=True, slots=True)
class Checked:
    """How many decisions of a gate an engine repeats, and the first of the others in words."""

    compared: int
    same: int
    first: str = ""
    unchecked: int = 0  # since another policy decided


async def check(client: Client, service: str, policy: Policy, now_ms: int) -> Checked:
    """Play the gate's batches again, from the beginning of the recording on. Raises GateError."""
    await client.reach()
    async with client.cluster() as cluster, reader(**client.connection.access()) as source:
        there = await cluster.partitions()
        recording = await recorded_decisions(
            source, client.names, service, lambda topic: there.get(topic, 0), 0, now_ms, _MOST
        )
    return compare(service, policy, recording)


def compare(service: str, policy: Policy, recording: Recording) -> Checked:
    """Play a recording up to where a policy of another version decides: from there on what counts is not the file's.

    A limit that is set live makes another version, and no file has it. Raises GateError where nothing is of the file's.
    """
    version = policy.version_of(service)
    others = [since_ms for other, since_ms in recording.policies.items() if other != version]
    same = recording if not others else _before(min(others), recording)
    if not same.decisions:
        told = ", ".join(sorted(recording.policies)) or "none"
        raise GateError(
            f"decisions about {service} are of policy {told}, and {policy.name} is {version}: the first is not",
            hint="give the policy file with which the gate began; what a limit decides that was set live is of none",
        )
    wrong = disagreements(same, replay(service, policy, same.requests, same.moments))
    first = "" if not wrong else f"{wrong[0][0].id}: {wrong[0][1]}"
    count = len(same.decisions)
    return Checked(count, count - len(wrong), first, len(recording.decisions) - count)


def _before(end_ms: int, recording: Recording) -> Recording:
    """Return what was decided before a time: what waited then waits."""
    decisions = [_by_then(end_ms, one) for one in recording.decisions if one.request.at_ms < end_ms]
    return replace(recording, decisions=decisions, moments=[moment for moment in recording.moments if moment < end_ms])


def _by_then(end_ms: int, one: RecordedDecision) -> RecordedDecision:
    if one.ended_ms is None or one.ended_ms < end_ms:
        return one
    return replace(one, ended_ms=None, ended=None, ended_by=None)
