"""Parts of aiokafka that the gate uses beyond what it documents, each named once, and what is wrong with them.

`NEEDED` are parts without which a promise can't be held, `FAST` those that only make it quick. A part is written as it
is used: a name, or a function with the parameters that it must take first.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

# what aiokafka documents may be used anywhere: https://aiokafka.readthedocs.io/en/stable/api.html, and its admin client
DOCUMENTED: Final = frozenset(
    {"aiokafka", "aiokafka.abc", "aiokafka.admin", "aiokafka.errors", "aiokafka.helpers", "aiokafka.structs"}
)

Parts = Mapping[str, tuple[str, ...]]

NEEDED: Final[Parts] = {
    # nothing that is documented reads at an offset, or tells what a broker has answered
    "aiokafka.client:AIOKafkaClient": (
        "bootstrap()", "close()", "ready(node_id, group)", "send(node_id, request, group)", "get_random_node()",
        "add_topic(topic)", "set_topics(topics)", "force_metadata_update()", "cluster",
        "coordinator_lookup(coordinator_type, coordinator_key)",
    ),
    "aiokafka.client:ConnectionGroup": ("COORDINATION", "DEFAULT"),
    "aiokafka.client:CoordinationType": ("GROUP", "TRANSACTION"),
    "aiokafka.cluster:ClusterMetadata": (
        "brokers()", "broker_metadata(broker_id)", "leader_for_partition(partition)", "partitions_for_topic(topic)",
    ),
    "aiokafka:AIOKafkaProducer": ("client",),
    # a client that can't be reached can't be ended where its broker is gone
    "aiokafka:AIOKafkaConsumer": (
        "_client",
        "_coordinator",  # `committed` leaves out the metadata, which tells what is done behind the offset
    ),
    "aiokafka.admin:AIOKafkaAdminClient": ("_client",),
    "aiokafka.consumer.group_coordinator:GroupCoordinator": ("fetch_committed_offsets(partitions)",),
    "aiokafka.admin.config_resource": ("ConfigResource", "ConfigResourceType"),
    "aiokafka.coordinator.assignors.abstract:AbstractPartitionAssignor": (
        "assign(cluster, members)", "metadata(topics)", "on_assignment(assignment)",
    ),
    "aiokafka.coordinator.protocol": ("ConsumerProtocolMemberAssignment", "ConsumerProtocolMemberMetadata"),
    "aiokafka.producer.message_accumulator:BatchBuilder": (
        "append(timestamp, key, value, headers)", "close()", "record_count()", "size()",
    ),
    "aiokafka.protocol.api:Request": ("build(request_struct_class)", "prepare(versions)"),
    "aiokafka.protocol.api:RequestStruct": ("encode()",),
    "aiokafka.protocol.api": ("Response",),
    "aiokafka.protocol.types": (
        "Array", "Boolean", "CompactArray", "CompactBytes", "CompactString", "Int16", "Int32", "Int64", "Int8",
        "Schema", "String", "TaggedFields",
    ),
    "aiokafka.protocol.admin": (
        "CreateTopicsRequest(create_topic_requests, timeout, validate_only)", "CreateTopicsRequest_v3",
        "CreateTopicsResponse_v3", "DeleteRecordsRequest(topics, timeout_ms)", "SaslAuthenticateRequest(payload)",
        "SaslHandShakeRequest(mechanism)",
    ),
    "aiokafka.protocol.coordination": ("FindCoordinatorRequest(coordinator_key, coordinator_type)",),
    "aiokafka.protocol.fetch": (
        "FetchRequest(max_wait_time, min_bytes, max_bytes, isolation_level, topics)", "FetchRequest_v10",
    ),
    "aiokafka.protocol.group": ("HeartbeatRequest",),
    "aiokafka.protocol.metadata": ("MetadataRequest(topics)", "MetadataResponse_v2"),
    "aiokafka.protocol.offset": ("OffsetRequest(replica_id, isolation_level, topics)",),
    "aiokafka.protocol.produce": ("ProduceRequest",),
    "aiokafka.protocol.transaction": (
        "AddPartitionsToTxnRequest(transactional_id, producer_id, producer_epoch, topics)",
        "InitProducerIdRequest(transactional_id, transaction_timeout_ms)",
    ),
    "aiokafka.record.control_record:ControlRecord": ("parse(data)",),
    "aiokafka.record.control_record": ("ABORT_MARKER",),
    "aiokafka.record.default_records:DefaultRecordBatch": (
        "base_offset", "next_offset", "producer_id", "producer_epoch", "compression_type", "is_control_batch",
        "is_transactional",
    ),
    "aiokafka.record.util": ("calc_crc32c",),
}  # fmt: skip

FAST: Final[Parts] = {
    "aiokafka.client:AIOKafkaClient": (
        "_bootstrap_servers", "_client_id", "_conns", "_connections_max_idle_ms", "_get_conn(node_id, group, no_hint)",
        "_md_synchronizer()", "_metadata_update(cluster_metadata, topics)",
        "_on_connection_closed(conn, reason)", "_request_timeout_ms",
        "_sasl_mechanism", "_sasl_oauth_token_provider", "_sasl_plain_password", "_sasl_plain_username",
        "_security_protocol", "_ssl_context", "_sync_task", "hosts",
    ),
    "aiokafka.conn:AIOKafkaConnection": (
        "connect()", "connected()", "close(reason, exc)", "send(request, expect_response)", "authenticator_plain()",
        "authenticator_scram()", "_client_id", "_do_sasl_handshake()", "_handle_frame(resp)", "_last_action", "_loop",
        "_next_correlation_id()", "_read_task", "_request_timeout", "_requests", "_sasl_mechanism",
        "_sasl_oauth_token_provider", "_sasl_plain_username", "_versions", "_writer",
    ),
    "aiokafka.conn:CloseReason": (
        "AUTH_FAILURE", "CONNECTION_BROKEN", "CONNECTION_TIMEOUT", "IDLE_DROP", "SHUTDOWN",
    ),
    "aiokafka.util": ("create_task", "wait_for"),
    "aiokafka.protocol.produce": ("ProduceRequest_v7", "ProduceRequest_v8"),
    "aiokafka:AIOKafkaProducer": ("_closed", "_message_accumulator", "_sender", "_txn_manager"),
    "aiokafka.producer.message_accumulator:BatchBuilder": ("_build()", "_builder", "_relative_offset"),
    "aiokafka.producer.message_accumulator:MessageAccumulator": (
        "_batches", "_pending_batches", "flush_for_commit()",
    ),
    "aiokafka.producer.message_accumulator:MessageBatch": ("_drain_waiter", "failure(exception)", "future"),
    "aiokafka.producer.sender:Sender": (
        "_coordinators", "_do_add_offsets_to_txn(group_id)", "_do_add_partitions_to_txn(tps)",
        "_do_init_pid(node_id)", "_do_txn_commit(commit_result)", "_do_txn_offset_commit(offsets, group_id)",
        "_find_coordinator(coordinator_type, coordinator_key)", "_in_flight", "_maybe_do_transactional_request()",
        "_message_accumulator", "_muted_partitions", "_retry_backoff", "_send_produce_req(node_id, batches)",
        "_txn_manager", "sender_task",
    ),
    "aiokafka.producer.sender:SendProduceReqHandler": (
        "_default_backoff", "_sender", "create_request()", "handle_response(response)",
    ),
    **{
        f"aiokafka.producer.sender:{kind}": (
            "_default_backoff", "_sender", "create_request()", "do(node_id)", "group", "handle_error()",
            "handle_response(resp)",
        )
        for kind in (
            "AddOffsetsToTxnHandler", "AddPartitionsToTxnHandler", "EndTxnHandler", "InitPIDHandler",
            "TxnOffsetCommitHandler",
        )
    },
    "aiokafka.producer.transaction_manager:TransactionManager": (
        "_pending_txn_offsets", "_transaction_waiter", "begin_transaction()", "complete_transaction()",
        "error_transaction(exc)", "fatal_error(exc)", "is_empty_transaction()", "transactional_id",
        "maybe_add_partition_to_txn(tp)", "producer_epoch", "producer_id", "wait_for_transaction_end()",
    ),
    "aiokafka:AIOKafkaConsumer": ("_fetcher",),
    "aiokafka.consumer.fetcher:Fetcher": ("_proc_fetch_request(assignment, node_id, request)",),
    "aiokafka.consumer.fetcher": ("MemoryRecords", "PartitionRecords(tp, records)"),
    "aiokafka.record.memory_records:MemoryRecords": ("has_next()", "next_batch()", "size_in_bytes()"),
}  # fmt: skip


def faults(parts: Parts) -> Iterator[str]:
    """Yield in words which parts are not as they are used."""
    for owner, members in parts.items():
        module, _, kind = owner.partition(":")
        try:
            found: Any = importlib.import_module(module)
            found = getattr(found, kind) if kind else found
        except (ImportError, AttributeError):
            yield f"{owner.replace(':', '.')} is missing"
            continue
        for member in members:
            if (why := _fault(found, member)) is not None:
                yield f"{owner.replace(':', '.')}.{why}"


def _fault(owner: Any, member: str) -> str | None:
    name, call, takes = member.removesuffix(")").partition("(")
    part = inspect.getattr_static(owner, name, None)
    if part is None:
        return None if not call and name in _set_by(owner) else f"{name} is missing"
    if not call:
        return None
    wanted = takes.split(", ") if takes else []
    has = _parameters(getattr(owner, name))
    if has is None or set(wanted) <= set(has):
        return None
    return f"{name} takes ({', '.join(has)}) and not ({takes})"


def _set_by(owner: Any) -> tuple[str, ...]:
    """Return the names of what the methods by which objects of a class are made may set."""
    made = [vars(kind).get("__init__") for kind in getattr(owner, "__mro__", ())]
    return tuple(name for init in made if init is not None for name in getattr(init, "__code__", _NOTHING).co_names)


def _parameters(part: Any) -> list[str] | None:
    """Return what a function, or a class as it is called, takes; None: that is not told, as of what is written in C."""
    try:
        names = list(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        return None
    return names[1:] if names[:1] == ["self"] else names


_NOTHING: Final = (lambda: None).__code__
