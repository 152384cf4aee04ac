"""Produce requests in pieces: aiokafka copies each batch six times while it encodes a request around it.

This is the form of version 7 (Kafka 2.1), and of version 8 (Kafka 2.4), whose answer tells which record of a batch was
refused; aiokafka knows the latter, but does not ask for it. For an older broker its own is used.
Layout: https://kafka.apache.org/protocol#The_Messages_Produce
"""

from struct import Struct
from typing import Any

from gate.kafka.aio.compat.producers import ProduceRequest, ProduceRequest_v7, ProduceRequest_v8
from gate.kafka.aio.compat.shared import String

_TEXT = String("utf-8")
_INT, _HEAD, _BATCH = Struct(">i"), Struct(">hii"), Struct(">ii")


class _Pieces:
    transactional_id: str | None
    required_acks: int
    timeout: int
    topics: list[tuple[str, list[tuple[int, bytes]]]]

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


class _ProduceV7(_Pieces, ProduceRequest_v7):  # type: ignore[misc]
    pass


class _ProduceV8(_Pieces, ProduceRequest_v8):  # type: ignore[misc]
    pass


class Produce(ProduceRequest):  # type: ignore[misc]
    """A produce request; topics are (name, [(partition, batch)])."""

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return it in the newest form that the broker understands."""
        least, most = versions.get(self.API_KEY, (0, 0))
        return (
            self.build(ProduceRequest_v8)
            if least <= ProduceRequest_v8.API_VERSION <= most
            else super().prepare(versions)
        )

    def build(self, request_struct_class: Any) -> Any:
        """Return it in a form."""
        forms = {ProduceRequest_v7: _ProduceV7, ProduceRequest_v8: _ProduceV8}
        return super().build(forms.get(request_struct_class, request_struct_class))
