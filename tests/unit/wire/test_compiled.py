"""Remembered shapes: what a matcher may take for a message it has seen, and what it may not."""

from __future__ import annotations

import struct

import nfnl
from nfnl.subsys.queue import Packet, PacketHeader
from nfnl.wire.compiled import Codec
from nfnl.wire.header import LITTLE


def packet(*attributes: tuple[int, int, bytes]) -> bytes:
    """A packet message with attributes (nla_len, nla_type, what follows), on a little-endian host."""
    body = bytes((2, 0, 0, 0)) + b"".join(struct.pack("<HH", length, type_) + data for length, type_, data in attributes)
    return struct.pack("<IHHII", 16 + len(body), Packet.__type__, 0, 0, 0) + body


HEADER = (11, 1, struct.pack(">IHBx", 1, 0x0800, 3))


def test_the_length_of_the_last_attribute_never_carries_into_its_type() -> None:
    """65544 bytes from the last header on are not an attribute of type 10 and that length; they may well be one of 11 and 8."""
    codec = Codec(Packet, LITTLE)
    seen = codec.decode(packet(HEADER, (8, 10, b"ABCD")))
    assert seen.payload == b"ABCD"
    other = packet(HEADER, (8, 11, struct.pack("<HH", 4, 100)), (65532, 99, bytes(65528)), (4, 98, b""))
    assert len(other) - 32 == 65544
    assert codec.match(other) is None
    message = codec.decode(other)
    assert message.payload is None
    assert {a.number for a in message.unknown} == {99, 98}


def test_shapes_seen_before_are_found_again_whatever_came_between() -> None:
    codec = Codec(Packet, LITTLE)
    plain, marked = packet(HEADER, (8, 10, b"ABCD")), packet(HEADER, (8, 3, b"\0\0\0\7"), (8, 10, b"ABCD"))
    codec.decode(plain)
    codec.decode(marked)
    assert codec.match(plain) is None
    shape = codec.remembered(plain)
    assert shape is not None
    assert codec.match(plain) is shape
    assert codec.decode(marked).mark == 7
    assert codec.remembered(packet(HEADER)) is None


def test_an_event_makes_its_message_once() -> None:
    message = Packet(header=PacketHeader(1, 0x0800, 3), payload=b"x")
    event = nfnl.PacketQueued()
    event._data, event._shape = bytes(message), message._shape
    assert event.message == message
    assert event.message is event.message
