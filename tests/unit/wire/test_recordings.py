"""Every recording of a real kernel or program: decoded, understood alike by both codecs, and back to equal bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import nfnl
from nfnl.errors import DecodeError
from nfnl.subsys.conntrack import DestroyedFlow, Flow, GetFlow, NewFlow
from nfnl.subsys.expect import Expectation, NewExpectation
from nfnl.subsys.queue import Config, Packet, VerdictMessage
from nfnl.wire import reference
from nfnl.wire.codec import decode, encode
from nfnl.wire.compiled import Codec, Wire, wire_attributes
from nfnl.wire.constants import NLA_HDRLEN, NLA_TYPE_MASK
from nfnl.wire.control import Ack, Malformed
from nfnl.wire.declare import Message, View
from nfnl.wire.header import NATIVE
from tests.properties.test_codecs import agree, plain
from tests.recordings import Recording, exchanges, sessions

RECORDINGS = [*exchanges(), *(recording for subsystem in ("queue", "conntrack", "expect") for recording in sessions(subsystem))]

#: Requests their senders made wrong on purpose, and what is wrong with them.
WRONG_ON_PURPOSE = {
    "6.18.44/ack.ERANGE.request": "Config.command at byte 20: 1 bytes are too few for Command, which takes 4",
    "6.18.44/ack.unaligned.ext.request": "Config.command at byte 20: 1 bytes are too few for Command, which takes 4",
    "6.18.44/attr.u32-3-bytes.request": "Config.queue_maxlen at byte 20: 3 bytes are too few for be32, which takes 4",
    "err-erange:4": "NewFlow.timeout at byte 124: 3 bytes are too few for be32, which takes 4",
    "err-extack:5": "NewFlow.timeout at byte 124: 3 bytes are too few for be32, which takes 4",
    "q-errors:33": "VerdictMessage.header at byte 20: required attribute NFQA_VERDICT_HDR is missing",
}


@pytest.mark.skipif(NATIVE.name != "little", reason="probe little-endian: the recordings were made on a little-endian machine")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_a_recording_comes_back_to_equal_bytes(recording: Recording) -> None:
    messages = decode(recording.data, direction=recording.direction)
    assert encode(messages) == recording.data
    for message in messages:
        if isinstance(message, Malformed):
            assert str(message.error).startswith(WRONG_ON_PURPOSE[recording.name])
        if isinstance(message, Message):
            agree(type(message), bytes(message), NATIVE)


def test_the_recordings_hold_every_kind_of_message() -> None:
    kinds = Counter(type(m).__name__ for r in RECORDINGS for m in decode(r.data, direction=r.direction))
    assert kinds.keys() >= {"Packet", "VerdictMessage", "VerdictBatch", "Config", "Ack", "Done", "Generic", "Malformed"}
    assert kinds["Packet"] > 100
    assert len(RECORDINGS) > 500


def named(name: str) -> Message:
    (recording,) = (r for r in RECORDINGS if r.name == name)
    (message,) = decode(recording.data, direction=recording.direction)
    assert isinstance(message, Message)
    return message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "6.18.44/packet.OUTPUT.packet",
            {"header": (1, 0x0800, 3), "outdev": 1, "indev": None, "mark": None, "cap_len": None},
        ),
        ("5.10.223/packet.mark+priority", {"mark": 0x01020304, "priority": None, "skb_info": nfnl.SkbInfo.CSUMNOTREADY}),
        ("6.18.15/packet.bridge.vlan", {"vlan": {"tci": 0x6005, "proto": 0x8100}, "physindev": 3, "physoutdev": 5}),
        ("6.18.15/packet.ct.reply", {"ct_info": 3}),
        ("6.18.15/packet.secctx", {"secctx": b"unlabeled\0", "payload": None}),
        ("6.18.44/gso.flag.whole", {"skb_info": nfnl.SkbInfo.CSUMNOTREADY | nfnl.SkbInfo.GSO}),
        ("6.18.44/config.bind.request", {"command": (1, 0, 0), "params": None}),
        ("6.18.44/config.params.request", {"params": (65535, 2)}),
        (
            "6.18.44/config.flags.request",
            {"mask": nfnl.QueueFlag.FAIL_OPEN | nfnl.QueueFlag.GSO, "flags": nfnl.QueueFlag.FAIL_OPEN | nfnl.QueueFlag.GSO},
        ),
        ("6.18.15/verdict.vlan.request", {"header": (1, 7), "vlan": {"tci": 0x2005, "proto": 0x8100}}),
    ],
)
def test_what_recordings_mean(name: str, expected: dict[str, object]) -> None:
    fields = named(name).fields()
    assert {key: plain(fields[key]) for key in expected} == expected


def test_the_last_attribute_of_a_real_packet_is_not_padded() -> None:
    packet = named("6.18.44/packet.OUTPUT.packet")
    assert isinstance(packet, Packet)
    assert packet.nlmsg_len == 77
    assert packet.payload is not None
    assert packet.payload.endswith(b"hello")


def test_extended_acknowledgements() -> None:
    (ack,) = (decode(r.data)[0] for r in RECORDINGS if r.name == "6.18.44/attr.u32-3-bytes.reply")
    assert isinstance(ack, Ack)
    assert ack.error == 34
    assert ack.extended is not None
    assert (ack.extended.message, ack.extended.offset) == ("Attribute failed policy validation", 20)
    policy = ack.extended.policy
    assert policy is not None
    assert (policy.type, policy.min_unsigned, policy.max_unsigned) == (4, 0, 0xFFFFFFFF)


def test_our_acknowledgements_are_byte_for_byte_the_kernels() -> None:
    """`Ack.build`, which the fake kernel answers with, against every recorded acknowledgement."""
    seen = 0
    for recording in RECORDINGS:
        for message in decode(recording.data, direction=recording.direction):
            if not isinstance(message, Ack) or (
                message.error and len(message.request) < message.request_len and not message.capped
            ):
                continue
            rebuilt = Ack.build(
                message.request, message.error, port_id=message.nlmsg_pid, capped=message.capped, extended=message.extended
            )
            assert bytes(rebuilt) == bytes(message), recording.name
            seen += 1
    assert seen > 150


LIES = [0, 1, 2, 3, -1, +1, +4, 0xFFFF]


@pytest.mark.parametrize("cls", [Packet, VerdictMessage, Config], ids=lambda cls: cls.__name__)
def test_every_attribute_length_that_lies(cls: type[Message]) -> None:
    """In every recorded message every nla_len is made to lie in every way: both codecs agree, whatever shape was remembered."""
    tried = 0
    seen: set[tuple[int, ...]] = set()
    for recording in RECORDINGS:
        for message in decode(recording.data, direction=recording.direction):
            shape = tuple(raw.type for raw in message.attributes) if isinstance(message, cls) else ()
            if not shape or shape in seen:
                continue
            seen.add(shape)
            data = bytes(message)
            for wire in wire_attributes(data, 20, message.nlmsg_len, NATIVE):
                length = 4 + len(wire.data)
                for lie in LIES:
                    told = length + lie if lie in (-1, 1, 4) else lie
                    lying = bytearray(data)
                    lying[wire.offset : wire.offset + 2] = NATIVE.u16.pack(told & 0xFFFF)
                    _same(cls, data, bytes(lying))
                    tried += 1
    assert tried > 20


def places(
    cls: type[View], data: bytes, start: int, end: int, above: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], Wire]]:
    """Every attribute with the numbers that lead to it, those of nests too."""
    for wire in wire_attributes(data, start, end, NATIVE):
        path = (*above, wire.type & NLA_TYPE_MASK)
        yield path, wire
        field = cls.__by_number__.get(path[-1])
        if field is not None and field.nest is not None:
            inside = wire.offset + NLA_HDRLEN
            yield from places(field.nest, data, inside, inside + len(wire.data), path)


@pytest.mark.parametrize("cls", [Flow, DestroyedFlow, NewFlow, GetFlow, Expectation, NewExpectation], ids=lambda cls: cls.__name__)
def test_lengths_that_lie_inside_of_nests(cls: type[Message]) -> None:
    """The same for each attribute at each place it was recorded at, once."""
    seen: set[tuple[int, ...]] = set()
    for recording in RECORDINGS:
        for message in decode(recording.data, direction=recording.direction):
            if not isinstance(message, cls):
                continue
            data = bytes(message)
            for path, wire in places(cls, data, 20, message.nlmsg_len):
                if path in seen:
                    continue
                seen.add(path)
                for lie in LIES:
                    told = 4 + len(wire.data) + lie if lie in (-1, 1, 4) else lie
                    lying = bytearray(data)
                    lying[wire.offset : wire.offset + 2] = NATIVE.u16.pack(told & 0xFFFF)
                    _same(cls, data, bytes(lying))
    assert len(seen) > 10


def _same(cls: type[Message], learned_from: bytes, data: bytes) -> None:
    codec = Codec(cls, NATIVE)
    codec.decode(learned_from)
    agree(cls, data, NATIVE)
    try:
        got: object = plain(codec.decode(data))
    except DecodeError as error:
        got = error.path, error.offset
    try:
        expected: object = reference.decode(cls, data).fields
    except DecodeError as error:
        expected = error.path, error.offset
    assert got == expected
