"""Produce requests in pieces: aiokafka copies each batch six times while it encodes a request around it.

This is the form of version 7 (Kafka 2.1 and later). For an older broker its own is used.
Layout: https://kafka.apache.org/protocol#The_Messages_Produce
"""

from struct import Struct
from typing import Any

from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7
from aiokafka.protocol.types import String

_TEXT = String("utf-8")
_INT, _HEAD, _BATCH = Struct(">i"), Struct(">hii"), Struct(">ii")


class _ProduceV7(ProduceRequest_v7):  # type: ignore[misc]
    def pieces(self) -> list[bytes]:
        """Return what, joined, is the request; the batches are themselves."""
        head = _HEAD.pack(self.required_acks, self.timeout, len(self.topics))
        pieces = [_TEXT.encode(self.transactional_id), head]
        for topic, partitions in self.topics:
            pieces += _TEXT.encode(topic), _INT.pack(len(partitions))
            for number, batch in partitions:
                pieces += _BATCH.pack(number, len(batch)), batch
        return pieces

    def encode(self) -> bytes:
        return b"".join(self.pieces())


class Produce(ProduceRequest):  # type: ignore[misc]
    """A produce request; topics are (name, [(partition, batch)])."""

    def build(self, request_struct_class: Any) -> Any:
        """Return it in the form that the broker understands."""
        form = _ProduceV7 if request_struct_class is ProduceRequest_v7 else request_struct_class
        return super().build(form)
