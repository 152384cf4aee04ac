"""What kind each state record is, and records of those that the shell writes."""

from typing import Any

import msgspec

from gate.admission.model import Pull, Reason, Verdict
from gate.admission.state import (
    GroupRecord,
    RunningRecord,
    ScheduledRecord,
    SeenRecord,
    SegmentRecord,
    ServiceRecord,
    TenantRecord,
    decode,
    encode,
)
from gate.kafka.generations import PLACEMENT_KEY, Placed
from gate.protocol.answers import AnswerState
from gate.protocol.control import Cancel, Selection
from gate.protocol.control import encode as encode_command
from gate.protocol.policies import LiveLimit
from gate.protocol.topics import Names
from gate.shard.changelog_records import (
    FLOORS_KEY,
    FORMAT,
    LEAVING_KEY,
    META_KEY,
    ClosedGeneration,
    FloorsRecord,
    Meta,
    encode_leaving,
    encode_meta,
    read_leaving,
    read_meta,
)
from gate.shard.feedback_state import FeedbackPositionsRecord, FeedbackState
from gate.shard.live_limits import DoneRecord, LimitRecord
from gate.shard.operator_commands import CommandRecord
from gate.shard.positions import Positions, PositionsRecord
from gate.shard.records import CommittedOffset, Partition
from gate.shard.seen_feedback import SeenFeedbackRecord
from gate.shard.tenant_limits import BucketRecord, TenantLimits

KINDS: dict[str, Any] = {
    "service": ServiceRecord, "tenant": TenantRecord, "group": GroupRecord, "parked": SegmentRecord,
    "scheduled": ScheduledRecord, "seen": SeenRecord,
    "offsets": PositionsRecord, "returns": FeedbackPositionsRecord, "told": SeenFeedbackRecord,
    "command": CommandRecord,
    "running": RunningRecord,
    "limit": LimitRecord, "limited": DoneRecord,
    FLOORS_KEY: FloorsRecord,
}  # fmt: skip
AS_JSON = frozenset({META_KEY, PLACEMENT_KEY, "closed"})  # they say their format themselves
AT = 1_764_000_123_456_000_000


def decoded(key: str, data: bytes) -> Any:
    """Read a record as gates do."""
    if key in {META_KEY, "closed"}:
        return read_meta(data, 16)
    if key == PLACEMENT_KEY:
        return msgspec.json.decode(data, type=Placed)
    if key == LEAVING_KEY:
        return read_leaving(data)
    if key.startswith("limit/") and key.count("/") > 1:
        return decode(key, data, BucketRecord)
    return decode(key, data, KINDS[key.partition("/")[0]])


class _Record:
    offset, timestamp, key, value, headers = 17, 1_764_000_000_001, None, None, ()


def shell_records() -> dict[str, bytes]:
    """Return what the owner of a shard writes beside its engines' records."""
    names = Names()
    positions = Positions(names, {}, 0)
    positions.advance("pay", 0, [_Record()], 18)
    positions.advance("pay", 3, [], 4)
    feedback = FeedbackState(names)
    feedback.begin({Partition(names.feedback("pay"), 2): CommittedOffset(5)})
    feedback.advance(Partition(names.feedback("pay"), 2), 11)
    feedback.advance(Partition(names.retries("pay"), 0), 7)
    told = feedback.told("pay", 2)
    for offset, settled in ((40, 30), (44, 30), (41, 33)):
        told.take("workers", offset, settled, 1_764_000_000_000)
    told.settle("others", 12)
    pulls = [
        ("pay", Pull(2, 40, 3, Verdict.ADMITTED, None, None)),
        ("mail", Pull(0, 7, 1, Verdict.REJECTED, Reason.DEADLINE, "mail.rate")),
    ]
    changed = {key: data for key, data in feedback.changes().items() if data is not None}
    given = Cancel("pay", Selection(tenant="acme", keep_newest=5))
    command = CommandRecord(
        encode_command(given), 41, AT, 1200, 900, "ann@ops", "left us", 300, 100, 2, (1, 77), AnswerState.ABORTED,
        "by command 2b", "send it again",
    )  # fmt: skip
    table = TenantLimits("pay", 3, 64)
    table.set("acme", LiveLimit("10/min", 5, "1h", 100, AT // 1_000_000))
    table.set("zoë", LiveLimit("0"))
    limits = {key: data for key, data in table.changes().items() if data is not None}
    return {
        **changed,
        **limits,
        "limit/pay": encode(LimitRecord(7, LiveLimit("50", 80, "60", 3000, AT // 1_000_000), 3, 64)),
        "limited/pay/9c": encode(DoneRecord(43, AT, 7, "they were changed since", "look at them")),
        "command/pay/1a": encode(command),
        "offsets/pay": positions.record("pay"),
        LEAVING_KEY: encode_leaving(pulls),
        META_KEY: encode_meta(Meta(FORMAT, 16, AT, AT - 5_000_000, 12)),
        "closed": encode_meta(Meta(FORMAT, 16, AT, 0, 12, ClosedGeneration(3, 24, {"pay": "bank", "mail": None}, 7))),
        PLACEMENT_KEY: msgspec.json.encode(Placed({"pay": "bank", "mail": None})),
        FLOORS_KEY: encode(FloorsRecord({"pay": 41, "mail": 7})),
    }
