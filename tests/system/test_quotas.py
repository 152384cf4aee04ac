"""A calendar quota on a real broker: used up, told, kept over a restart, and raised while requests wait for it."""

import json
import time

from gate.limits import Per
from gate.limits.quota import calendar
from tests.system.gates import create, gate, header, read_count, send, stamp, until

SECOND = 10**9
HOUR = 3600 * SECOND
POLICY = "services: {{pay: {{quotas: [{{limit: {limit}, per: year, timezone: {zone}}}]}}}}\n"


def year() -> tuple[str, int]:
    """Return a time zone and when its year ends: not within the hour."""
    now = time.time_ns()
    ends = [(zone, calendar(Per.YEAR, zone).period(now)[1]) for zone in ("Asia/Kathmandu", "America/New_York")]
    return next((zone, end) for zone, end in ends if end - now > HOUR)


def quota(running) -> dict:
    services = json.loads(running.get("/v1/usage"))["services"]
    return next((limit for usage in services for limit in usage["limits"]), {})


async def test_a_quota_is_kept_by_the_calendar_and_changes_while_requests_wait(bootstrap, prefix, tmp_path):
    zone, end = year()
    await create(bootstrap, f"{prefix}.requests.pay")
    policy = POLICY.format(limit=5, zone=zone)
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "127.0.0.1:0") as running:
        requests = [(b"k", b"%d" % number, [("gate-cost", b"2")] if number == 0 else []) for number in range(9)]
        await send(bootstrap, f"{prefix}.requests.pay", requests, partitions=1)
        delayed = await read_count(bootstrap, [f"{prefix}.delayed.pay"], 5)
        assert [record.value for record in delayed] == [b"4", b"5", b"6", b"7", b"8"], running.text()
        assert {(stamp(record).reason, stamp(record).limit) for record in delayed} == {("quota", "pay.quota.year")}
        assert {header(record, "gate-not-before") for record in delayed} == {b"%d" % (end // 10**6)}
        until(lambda: quota(running).get("left") == 0, explain=running.text)
        assert quota(running)["renews_at_ms"] == end // 10**6
        series = 'gate_quota_left_units{limit="pay.quota.year",service="pay"} 0.0'
        until(lambda: series in running.get("/metrics"), explain=running.text)
        assert running.stop() == 0
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "127.0.0.1:0") as running:
        until(running.is_ready, explain=running.text)
        until(lambda: quota(running).get("left") == 0, explain=running.text)
        top = "".join(running.config.read_text().splitlines(keepends=True)[:3])
        running.config.write_text(top + POLICY.format(limit=7, zone=zone))
        until(lambda: quota(running).get("capacity") == 7, explain=running.text)
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 6)
        assert [record.value for record in admitted] == [b"0", b"1", b"2", b"3", b"4", b"5"], running.text()
        until(lambda: quota(running)["left"] == 0 and quota(running)["usage"] == 1.0, explain=running.text)
