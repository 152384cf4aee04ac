"""The types of alerts (`ce_type`): what gates write, and what receivers know."""

from typing import Final

OPENED: Final = "gate.breach.opened"
ONGOING: Final = "gate.breach.ongoing"
RESOLVED: Final = "gate.breach.resolved"
NEAR_LIMIT: Final = "gate.near_limit"
POLICY_REFUSED: Final = "gate.policy.refused"
POLICY_ACCEPTED: Final = "gate.policy.accepted"
SHARD_FAILED: Final = "gate.shard.failed"
SHARD_RECOVERED: Final = "gate.shard.recovered"
WAITING: Final = "gate.partition.waiting"
RESUMED: Final = "gate.partition.resumed"
CLOCK_SKEWED: Final = "gate.clock.skewed"
OWNER_AWAY: Final = "gate.owner.away"
