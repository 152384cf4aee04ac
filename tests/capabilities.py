"""Capabilities that came with test files of their own: what each costs in the suite is told apart from the rest.

A file belongs to the capability that it shows; what all of them stand on, and files that are older than they are, stay
with the core. `-m "not long and not capability"` leaves all of them out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

CORE: Final = "core"
TESTS: Final = Path(__file__).parent

FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "three brokers": (
        "bench/test_pauses.py",
        "chaos/test_nodes.py",
        "chaos/test_readiness.py",
        "chaos/test_resharding.py",
        "chaos/test_rolling.py",
        "chaos/test_stale.py",
        "chaos/test_twice.py",
        "chaos/test_versions.py",
        "golden/test_golden.py",
        "kafka/aio/test_fencing.py",
        "kafka/aio/test_heartbeats.py",
        "kafka/aio/test_leader_epochs.py",
        "kafka/test_durability.py",
        "kafka/test_generation_watch.py",
        "kafka/test_health.py",
        "kafka/test_local_cluster.py",
        "kafka/test_ready.py",
        "kafka/test_retention_sweeper.py",
        "kafka/test_tokens.py",
        "kafka/test_topic_creation.py",
        "system/test_sessions.py",
        "system/test_sweeping.py",
        "system/test_topics_on_three_brokers.py",
        "system/test_transactions.py",
    ),
    "limits that processes share": (
        "bench/test_mesh.py",
        "chaos/test_mesh.py",
        "cli/test_demo_calls.py",
        "distributed/",
        "doors/",
        "golden/test_mesh_golden.py",
        "hostile/test_leases.py",
        "limits/test_face.py",
        "limits/test_part.py",
        "limits/test_waiting.py",
        "mesh/",
        "policy/test_match.py",
        "shard/test_mesh.py",
    ),
    "requests in one's hands": (
        "admission/test_blocked.py",
        "admission/test_blocked_heads.py",
        "admission/test_recent_ids.py",
        "admission/test_running.py",
        "admission/test_scheduled.py",
        "chaos/test_commands.py",
        "chaos/test_limits.py",
        "chaos/test_redrive.py",
        "cli/test_limit.py",
        "cli/test_times.py",
        "client/test_commands.py",
        "client/test_control.py",
        "client/test_limits.py",
        "client/test_retries.py",
        "kafka/aio/test_compacted.py",
        "kafka/aio/test_indexed_batch.py",
        "kafka/test_request_search.py",
        "policy/test_live.py",
        "shard/test_duplicates.py",
        "shard/test_group_limits.py",
        "shard/test_live_limits.py",
        "shard/test_redrives.py",
        "shard/test_redriving.py",
        "shard/test_retrying.py",
        "system/test_redrive.py",
        "system/test_running.py",
        "system/test_scheduled_commands.py",
        "system/test_where.py",
    ),
    "the console": (
        "cli/test_top.py",
        "cli/test_usage_history.py",
        "client/test_tracing.py",
        "console/",
        "kafka/test_parked_since.py",
        "observe/test_history.py",
        "observe/test_request_spans.py",
        "protocol/test_traces.py",
        "system/test_history.py",
        "system/test_http_commands.py",
        "system/test_schemas.py",
        "system/test_tracing.py",
    ),
}

_OF: Final = {name: capability for capability, names in FILES.items() for name in names}


def capability(file: str) -> str:
    """Return what a file shows, named from the folder of the tests: `chaos/test_nodes.py`."""
    folder = file.rpartition("/")[0]
    return _OF.get(file) or _OF.get(f"{folder}/") or CORE
