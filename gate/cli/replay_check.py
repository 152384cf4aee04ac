"""Whether an engine decides about what was recorded as the gate did."""

from dataclasses import dataclass
from typing import Final

from gate.admission.replay import replay
from gate.cli.client import Client
from gate.errors import GateError
from gate.kafka.recorded_decisions import disagreements, recorded_decisions
from gate.kafka.request_history import reader
from gate.policy import Policy

_MOST: Final = 5_000_000  # records of outputs


@dataclass(frozen=True, slots=True)
class Checked:
    """How many decisions of a gate an engine repeats, and the first of the others in words."""

    compared: int
    same: int
    first: str = ""


async def check(client: Client, service: str, policy: Policy, now_ms: int) -> Checked:
    """Play the gate's batches again, from the beginning of the recording on. Raises GateError."""
    await client.reach()
    async with client.cluster() as cluster, reader(**client.connection.access()) as source:
        there = await cluster.partitions()
        recording = await recorded_decisions(
            source, client.names, service, lambda topic: there.get(topic, 0), 0, now_ms, _MOST
        )
    versions = {one.policy for one in recording.decisions}
    if versions != {policy.version_of(service)}:
        told = ", ".join(sorted(versions)) or "none"
        raise GateError(
            f"decisions about {service} are of policy {told}, and {policy.name} is {policy.version_of(service)}",
            hint="give the policy file with which the gate has run",
        )
    wrong = disagreements(recording, replay(service, policy, recording.requests, recording.moments))
    first = "" if not wrong else f"{wrong[0][0].id}: {wrong[0][1]}"
    return Checked(len(recording.decisions), len(recording.decisions) - len(wrong), first)
