"""Undocumented modules of aiokafka that both paths use, and the few private attributes that have no public twin."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    CreateTopicsRequest_v3,
    CreateTopicsResponse_v3,
    DeleteRecordsRequest,
    SaslAuthenticateRequest,
    SaslHandShakeRequest,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v10
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v2
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, InitProducerIdRequest
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import OffsetAndMetadata, TopicPartition

__all__ = [
    "ABORT_MARKER",
    "READ_COMMITTED",
    "READ_UNCOMMITTED",
    "AIOKafkaClient",
    "AbstractPartitionAssignor",
    "AddPartitionsToTxnRequest",
    "Array",
    "BatchBuilder",
    "Boolean",
    "CompactArray",
    "CompactBytes",
    "CompactString",
    "ConfigResource",
    "ConfigResourceType",
    "ConnectionGroup",
    "ConsumerProtocolMemberAssignment",
    "ConsumerProtocolMemberMetadata",
    "ControlRecord",
    "CoordinationType",
    "CreateTopicsRequest",
    "CreateTopicsRequest_v3",
    "CreateTopicsResponse_v3",
    "DefaultRecordBatch",
    "DeleteRecordsRequest",
    "FetchRequest",
    "FetchRequest_v10",
    "FindCoordinatorRequest",
    "HeartbeatRequest",
    "InitProducerIdRequest",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "MetadataRequest",
    "MetadataResponse_v2",
    "OffsetRequest",
    "ProduceRequest",
    "Request",
    "RequestStruct",
    "Response",
    "SaslAuthenticateRequest",
    "SaslHandShakeRequest",
    "Schema",
    "String",
    "TaggedFields",
    "calc_crc32c",
    "client_of",
    "committed",
]

READ_UNCOMMITTED, READ_COMMITTED = 0, 1  # isolation levels, as in the protocol


def client_of(owner: Any) -> AIOKafkaClient:
    """Return the network client of a producer, a consumer or an admin client."""
    return getattr(owner, "client", None) or owner._client


async def committed(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> Mapping[TopicPartition, OffsetAndMetadata]:
    """Return what the group of a consumer has committed, with its metadata. Raises KafkaError."""
    found: Mapping[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(partitions)
    return found
