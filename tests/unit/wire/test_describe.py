"""Declarations and datagrams for people."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfnl
from nfnl.errors import DecodeError
from nfnl.subsys.queue import (
    Command,
    Config,
    ConfigCommand,
    CopyMode,
    Packet,
    Params,
    QueueFlag,
    VerdictBatch,
    VerdictHeader,
    VerdictMessage,
    Vlan,
)
from nfnl.testing.strategies import datagrams
from nfnl.wire.codec import attribute_at, iter_decode
from nfnl.wire.constants import NlmsgFlag, NlmsgType
from nfnl.wire.control import Ack, ExtendedAck, Malformed
from nfnl.wire.declare import Direction, Message, registry
from nfnl.wire.describe import Line, Row, flag_words, lines, rows, summary, tree, type_words
from nfnl.wire.header import BIG, NATIVE, NetlinkMessage
from tests import recordings

RECORDINGS = [
    *recordings.exchanges(),
    *(recording for subsystem in ("queue", "conntrack", "expect") for recording in recordings.sessions(subsystem)),
]


def recorded(name: str) -> recordings.Recording:
    return next(r for r in RECORDINGS if r.name == name)


def described(r: recordings.Recording) -> list[Line]:
    return list(tree(r.data, direction=r.direction))


def value(of: list[Line], name: str) -> str:
    return next(line.value for line in of if line.name == name)


# --- rows ----------------------------------------------------------------------------------------------------------------------


def test_rows_say_everything_that_is_declared() -> None:
    found = {row.path: row for row in rows(Packet)}
    assert found["header"] == Row(
        "header",
        1,
        "NFQA_PACKET_HDR",
        "packet_id be32, hw_protocol be16, hook u8",
        "required",
        "",
        "packet id, link-layer protocol, hook",
    )
    assert found["vlan"][:6] == ("vlan", 19, "NFQA_VLAN", "nest Vlan", "optional", "4.7")
    assert found["vlan.tci"].kernel_name == "NFQA_VLAN_TCI"
    assert found["ct"].layout == "nest AttachedFlow"
    assert found["ct_info"].layout == "be32 ConntrackInfo"


@pytest.mark.parametrize("declaration", registry.values(), ids=lambda cls: cls.__name__)
def test_every_attribute_has_a_row_with_a_meaning(declaration: type[Message]) -> None:
    found = list(rows(declaration))
    assert [row.path for row in found if "." not in row.path] == [a.name for a in declaration.__attrs__]
    assert all(row.meaning and row.kernel_name and row.layout for row in found)


# --- summaries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            Config(res_id=1, nlmsg_seq=1, command=Command(ConfigCommand.BIND), params=Params(65531, CopyMode.PACKET)),
            "Config queue 1 BIND, PACKET 65531 seq 1",
        ),
        (
            Config(res_id=2, mask=QueueFlag.FAIL_OPEN | QueueFlag.GSO, flags=QueueFlag.GSO),
            "Config queue 2 mask FAIL_OPEN|GSO, flags GSO",
        ),
        (VerdictMessage(res_id=1, header=VerdictHeader(1, 7), mark=5), "VerdictMessage queue 1 id 7 ACCEPT, mark 5"),
        (VerdictMessage(header=VerdictHeader(2 << 16 | 0x8003, 7)), "VerdictMessage queue 0 id 7 QUEUE 2 bypass"),
        (VerdictBatch(header=VerdictHeader(9, 7)), "VerdictBatch queue 0 id 7 9"),
        (
            VerdictMessage(header=VerdictHeader(1, 7), vlan=Vlan(tci=5)),
            "VerdictMessage queue 0 id 7 ACCEPT, vlan (tci 5)",
        ),
        (Ack.build(bytes(Config(nlmsg_seq=3)), 0), "Ack of Config seq 3"),
        (Ack.build(bytes(Config(nlmsg_seq=3)), 1), "Error EPERM of Config seq 3"),
        (
            Ack.build(bytes(Config(command=Command(9))), 95, capped=False, extended=ExtendedAck(message="no", offset=20)),
            "Error EOPNOTSUPP of Config: 'no' at Config.command (NFQA_CFG_CMD)",
        ),
        (
            Ack.build(bytes(Config(command=Command(9))), 95, extended=ExtendedAck(offset=20)),
            "Error EOPNOTSUPP of Config at byte 20 of the request",
        ),
    ],
)
def test_a_message_in_one_line(message: NetlinkMessage, said: str) -> None:
    assert summary(message) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("6.18.44/packet.OUTPUT.packet", "Packet queue 1 id 1 OUTPUT, outdev 1, payload 33 bytes"),
        (
            "6.18.15/packet.ct.new",
            (
                "Packet queue 1 id 1 OUTPUT, outdev 1, ct (udp 127.0.0.1:41127 > 127.0.0.1:9000 timeout 30 id 2836202517), "
                "ct_info NEW, skb_info CSUMNOTREADY"
            ),
        ),
        ("6.18.44/ack.cap0.ext1.ERANGE", "Error ERANGE of Config seq 1: 'Attribute failed policy validation' at Config.command"),
    ],
)
def test_a_recorded_message_in_one_line(name: str, said: str) -> None:
    r = recorded(name)
    assert [summary(message) for message in nfnl.decode(r.data, direction=r.direction)] == [said]


def test_messages_without_a_declaration_have_a_name() -> None:
    assert [type_words(number, None) for number in (0x0300, 0x0401, 0x7F02, 1, 16)] == [
        "NFQNL_MSG_PACKET",
        "ULOG 1",
        "subsystem 127 2",
        "NLMSG_NOOP",
        "NFNL_MSG_BATCH_BEGIN",
    ]
    assert type_words(0x0300, Direction.TO_KERNEL) == "QUEUE 0"


@pytest.mark.parametrize(
    ("flags", "type_", "said"),
    [
        (0, 0x0300, "none"),
        (5, 0x0302, "REQUEST|ACK"),
        (0x300, NlmsgType.ERROR, "CAPPED|ACK_TLVS"),
        (0x301, 0x0A00, "REQUEST|DUMP"),
        (0x601, 0x0A00, "REQUEST|EXCL|CREATE"),
        (0x8001, 0x0300, "REQUEST|0x8000"),
        (0x12, 0x0A00, "MULTI|DUMP_INTR"),
    ],
)
def test_flags_by_name(flags: int, type_: int, said: str) -> None:
    assert flag_words(flags, type_) == said


def test_an_offset_leads_to_an_attribute_even_in_a_nest() -> None:
    message = VerdictMessage(header=VerdictHeader(1, 1), vlan=Vlan(tci=1, proto=0x8100))
    at = {offset: attribute_at(message, offset) for offset in (20, 32, 36, 44, 21)}
    assert at == {
        20: "VerdictMessage.header (NFQA_VERDICT_HDR)",
        32: "VerdictMessage.vlan (NFQA_VLAN)",
        36: "VerdictMessage.vlan.tci (NFQA_VLAN_TCI)",
        44: "VerdictMessage.vlan.proto (NFQA_VLAN_PROTO)",
        21: "VerdictMessage, byte 21",
    }


# --- trees -----------------------------------------------------------------------------------------------------------------------


def complete(of: list[Line], data: bytes) -> bool:
    """Every byte is there, once and in order."""
    position = 0
    for line in of:
        assert line.offset == position
        assert line.data == data[position : position + len(line.data)]
        position += len(line.data)
    return position == len(data)


@pytest.mark.parametrize("r", RECORDINGS, ids=lambda r: r.name)
def test_a_tree_shows_every_byte_of_a_recording(r: recordings.Recording) -> None:
    found = described(r)
    assert complete(found, r.data)
    malformed = [isinstance(message, nfnl.Malformed) for message in nfnl.decode(r.data, direction=r.direction)]
    assert [line.problem for line in found if line.depth == 0] == malformed


@given(datagrams(damaged=True), st.sampled_from([None, *Direction]))
def test_a_tree_shows_every_byte_of_anything(data: bytes, direction: Direction | None) -> None:
    found = list(tree(data, direction=direction))
    assert complete(found, data)
    assert list(lines(found))


@given(datagrams(damaged=True, order=BIG))
def test_a_tree_of_a_big_endian_host(data: bytes) -> None:
    assert complete(list(tree(data, order=BIG)), data)


@given(datagrams(damaged=True))
def test_what_does_not_decode_is_said_to_be_a_problem(data: bytes) -> None:
    expected = []
    try:
        for message in iter_decode(data):
            expected += [f"Malformed {message.error}"] if isinstance(message, Malformed) else []
    except DecodeError as error:
        expected.append(f"broken framing: {error}")
    assert [line.name for line in tree(data) if line.problem and line.depth == 0] == expected


def test_a_tree_in_words() -> None:
    r = recorded("6.18.44/packet.OUTPUT.packet")
    assert list(lines(tree(r.data, direction=r.direction, longest=8))) == [
        "    0                           Packet queue 1 id 1 OUTPUT, outdev 1, payload 33 bytes",
        "    0  4d 00 00 00                nlmsg_len: 77",
        "    4  00 03                      nlmsg_type: 0x0300 NFQNL_MSG_PACKET",
        "    6  00 00                      nlmsg_flags: 0x0000 none",
        "    8  00 00 00 00                nlmsg_seq: 0",
        "   12  00 00 00 00                nlmsg_pid: 0",
        "   16  02                         nfgen_family: 2 IPV4",
        "   17  00                         nfgen_version: 0",
        "   18  00 01                      res_id: 1",
        "   20  0b 00 01 00                header                                  NFQA_PACKET_HDR 1",
        "   24  00 00 00 01                  packet_id: 1",
        "   28  08 00                        hw_protocol: IPV4 (0x0800)",
        "   30  03                           hook: OUTPUT (3)",
        "   31  00                         padding",
        "   32  08 00 06 00 00 00 00 01    outdev: 1                               NFQA_IFINDEX_OUTDEV 6",
        "   40  25 00 0a 00                payload: 33 bytes                       NFQA_PAYLOAD 10",
        "   44  45 00 00 21 c5 cc 40 00      |E..!..@.|",
        "   52                               ... 25 more bytes",
    ]


def test_an_acknowledgement_shows_the_request_it_repeats_and_what_the_kernel_says() -> None:
    found = described(recorded("6.18.44/ack.cap0.ext1.ERANGE"))
    assert value(found, "error") == "-34 ERANGE"
    assert [line.value for line in found if line.name == "nlmsg_type"] == ["0x0002 NLMSG_ERROR", "0x0302 NFQNL_MSG_CONFIG"]
    assert value(found, "message") == "'Attribute failed policy validation'"
    assert value(found, "offset") == "20 (0x14)"
    assert [line.name for line in found if line.problem] == ["command: 1 bytes are too few for Command, which takes 4"]


def test_a_policy_of_the_kernel_is_a_nest() -> None:
    found = described(recorded("6.18.44/attr.u32-3-bytes.reply"))
    policy = next(line for line in found if line.name == "policy")
    assert next(line for line in found if line.name == "max_unsigned").depth == policy.depth + 1
    assert value(found, "max_unsigned") == "4294967295 (0xffffffff)"


def test_unknown_attributes_and_nests_are_shown() -> None:
    known = bytes(VerdictMessage(header=VerdictHeader(1, 7)))
    nest = struct.pack("=HHHHI", 12, 0x8000 | 40, 8, 2, 5)
    data = struct.pack("=I", len(known) + 12) + known[4:] + nest
    found = list(tree(data, direction=Direction.TO_KERNEL))
    outer, inner = found[-2:]
    assert (outer.name, outer.note, inner.name, inner.value, inner.depth) == ("[40]", "unknown", "[2]", "4 bytes", outer.depth + 1)


def test_of_a_repeated_attribute_the_earlier_is_marked() -> None:
    known = bytes(Config(queue_maxlen=5))
    data = struct.pack("=I", len(known) + 8) + known[4:] + known[20:]
    first, second = (line for line in tree(data, direction=Direction.TO_KERNEL) if line.name == "queue_maxlen")
    assert "only the last counts" in first.note
    assert "only the last counts" not in second.note


def test_a_malformed_message_is_shown_with_path_and_offset_and_all_its_attributes() -> None:
    data = bytearray(bytes(VerdictMessage(header=VerdictHeader(1, 7), mark=5, payload=b"abcd")))
    struct.pack_into("=H", data, 32, 6)  # the mark says it has 2 bytes
    found = list(tree(bytes(data), direction=Direction.TO_KERNEL))
    assert found[0].problem
    assert found[0].name.startswith("Malformed VerdictMessage.mark at byte 32: 2 bytes are too few")
    assert [line.name for line in found if line.problem][1] == "mark: 2 bytes are too few for be32, which takes 4"
    assert value(found, "payload") == "4 bytes"


def test_broken_framing_is_shown_behind_what_came_before() -> None:
    whole = bytes(Config(queue_maxlen=5))
    found = list(tree(whole + b"\xff" * 20, direction=Direction.TO_KERNEL))
    assert value(found, "queue_maxlen") == "5"
    (broken,) = (line for line in found if line.problem)
    assert broken.offset == len(whole)
    assert broken.name.startswith("broken framing: nlmsghdr at byte 28: nlmsg_len is 4294967295, ")


def test_text_cannot_reach_the_terminal_raw() -> None:
    request = bytes(Config(nlmsg_flags=NlmsgFlag.REQUEST))
    data = bytes(Ack.build(request, 1, extended=ExtendedAck(message="\x1b[2J\udc80")))
    said = "\n".join(lines(tree(data)))
    assert "\x1b" not in said
    assert "\\x1b[2J" in said
    said.encode()


def test_nests_cannot_be_deeper_than_the_stack() -> None:
    body = b""
    for _ in range(4000):
        body = NATIVE.attr.pack(4 + len(body), 0x8000 | 40) + body
    data = NATIVE.header.pack(20 + len(body), 0x0301, 1, 0, 0) + bytes(4) + body
    found = list(tree(data))
    assert complete(found, data)
