"""`gate doctor` misses each thing that the page about access tells operators to allow, and nothing else."""

import asyncio

import pytest

from gate.kafka.access_rights import look, rights_of
from gate.kafka.aio.authorized_operations import Operation
from gate.kafka.aio.client import Client
from gate.kafka.cluster import Cluster
from gate.kafka.findings import Health
from gate.kafka.local import config
from gate.protocol.topics import Names
from tests.system.gates import create, guarded_by_password
from tests.system.test_pages import ACL_TYPES, allow, told_acls

NAMES = Names()
TOPIC, GROUP = ACL_TYPES["--topic"], ACL_TYPES["--group"]
TOLD = [acl for acl in told_acls("User:gate") if acl[0] in {TOPIC, GROUP}]
LISTED = set(TOLD)  # the console's Read of a topic may be listed beside the gate's own
SILENT = {Operation.DELETE, Operation.CREATE, Operation.ALTER, Operation.DESCRIBE_CONFIGS}


@pytest.fixture
def guarded(own_broker):
    """A broker where user `all` may what the page tells of gates, and user `n` all of that but the n-th."""
    port = config.free_port()
    users = ["all", "nobody", *(str(n) for n in range(len(TOLD)))]
    broker = own_broker(
        properties=guarded_by_password(port, users),
    )
    mine = []
    for n, left in enumerate(TOLD):
        mine += [(a[0], a[1], a[2], f"User:{n}", *a[4:]) for a in TOLD if a != left]
    mine += [(acl[0], acl[1], acl[2], "User:all", *acl[4:]) for acl in TOLD]

    async def prepare() -> None:
        await create(broker.bootstrap, NAMES.requests("pay"), NAMES.retries("pay"))
        cluster = Cluster(NAMES, create=True, replication_factor=-1, bootstrap_servers=broker.bootstrap)
        await cluster.start()
        try:
            await cluster.ensure(*cluster.common_specs(2))
            await cluster.prepare(["pay"])
        finally:
            await cluster.close()
        await allow(broker.bootstrap, mine)

    asyncio.run(prepare())
    return f"{config.HOST}:{port}"


async def seen_by(user: str, bootstrap: str, worker_groups: tuple[str, ...] = ()):
    client = Client(
        bootstrap_servers=bootstrap, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN",
        sasl_plain_username=user, sasl_plain_password="secret",
    )  # fmt: skip
    await client.bootstrap()
    try:
        return await look(client, rights_of(NAMES, ["pay"], create=True, delete={"pay"}), "gate", worker_groups)
    finally:
        await client.close()


def test_each_line_that_operators_are_told_is_missed_by_name(guarded):
    async def see() -> None:
        async with asyncio.timeout(60):  # brokers learn of ACLs some time after the controller has answered
            while (found := await seen_by("all", guarded))[0].health is not Health.OK:
                await asyncio.sleep(0.1)
        assert [finding.text.startswith("all is allowed on ") for finding in found] == [True]
        for n, (kind, name, _, _, _, number, _) in enumerate(TOLD):
            operation = Operation(number)
            found = await seen_by(str(n), guarded)
            assert len(found) == 1, (name, operation, found)
            where = f"--topic {name}" if kind == TOPIC else f"--group {name}"
            assert f"--operation {operation.shown}" in found[0].fix, (name, found)
            assert name == "gate." or where in found[0].fix.replace("  ", " "), (name, found)
        whole = await seen_by("nobody", guarded)
        assert {finding.health for finding in whole} == {Health.FAIL, Health.WARN}
        found = await seen_by("all", guarded, ("payments-workers",))
        assert [finding.fix.endswith("--operation Describe --group payments-workers") for finding in found] == [True]

    asyncio.run(see())
