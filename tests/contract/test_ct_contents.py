"""What a message about a flow consists of, byte by byte."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import (
    ASSURED,
    CONFIRMED,
    GET,
    LIFE,
    NEW,
    SCTP,
    TCP,
    V4,
    V6,
    Asker,
    Cta,
    Told,
    both,
    both6,
    helper,
    messages,
    name,
    nest,
    orig,
    pings,
    pings6,
    reply,
    request,
    u8,
    u16,
    u32,
    watch,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import attribute

ACCT, STAMPS = "net.netfilter.nf_conntrack_acct", "net.netfilter.nf_conntrack_timestamp"


# ----------------------------------------------------------------------------------------------------------------------- order


@rule("CTATTR-1")
@pytest.mark.parametrize(
    ("said", "names"),
    [
        (both(), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SYNPROXY"),
        (both(number=TCP), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT PROTOINFO SYNPROXY"),
        (both(number=SCTP), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT PROTOINFO SYNPROXY"),
        (pings(), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SYNPROXY"),
        (both() + u16(Cta.ZONE, 5), "TUPLE_ORIG TUPLE_REPLY ZONE STATUS MARK ID USE TIMEOUT SYNPROXY"),
        (orig(zone=5) + reply(), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SYNPROXY"),
        (both(number=TCP, to=21) + helper("ftp"), "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT PROTOINFO HELP SYNPROXY"),
        (
            both() + words(Cta.SEQ_ADJ_ORIG, 1, 2, 3),
            "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SEQ_ADJ_ORIG SEQ_ADJ_REPLY SYNPROXY",
        ),
    ],
    ids=["UDP", "TCP", "SCTP", "ICMP", "zone", "zone of a direction", "helper", "adjusted"],
)
def test_what_a_flow_has(asker: Asker, said: bytes, names: str) -> None:
    assert asker.made(said).names == names
    assert asker.fetch(said).names == names


#: a flow with everything a program can give it
RICH = (
    both(number=TCP, to=21)
    + u16(Cta.ZONE, 5)
    + u32(Cta.MARK, 0x01020304)
    + u32(Cta.STATUS, CONFIRMED | ASSURED)
    + helper("ftp")
    + attribute(Cta.LABELS, b"\2\0\0\0")
    + words(Cta.SEQ_ADJ_ORIG, 1, 2, 3)
    + words(Cta.SYNPROXY, 4, 5, 6)
    + nest(Cta.PROTOINFO, nest(1, u8(1, 3)))
)


@rule("CTATTR-1")
def test_a_flow_with_everything(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.use_labels()
    kernel.sysctl(ACCT, 1)
    kernel.sysctl(STAMPS, 1)
    assert asker.make(both(9, number=TCP), LIFE, u16(Cta.ZONE, 5)) == "ACK"
    assert asker.make(RICH, LIFE, orig(9, number=TCP, type=Cta.TUPLE_MASTER)) == "ACK"
    order = (
        "TUPLE_ORIG TUPLE_REPLY ZONE STATUS MARK ID USE TUPLE_MASTER TIMEOUT PROTOINFO COUNTERS_ORIG COUNTERS_REPLY TIMESTAMP"
        " HELP LABELS SEQ_ADJ_ORIG SEQ_ADJ_REPLY SYNPROXY"
    )
    assert asker.fetch(orig(number=TCP, to=21), u16(Cta.ZONE, 5)).names == order
    assert [flow.names for flow in asker.dump() if Cta.TUPLE_MASTER in flow] == [order]


# ----------------------------------------------------------------------------------------------------------------------- bytes


def told(asker: Asker, said: bytes, family: int = V4) -> bytes:
    """The answer to a question for a flow."""
    [answer] = asker.ask(request(GET, said, ack=False, family=family))
    [message] = messages(answer)
    return message


@rule("CTATTR-2", "CTATTR-3")
def test_a_flow_of_udp_byte_by_byte(asker: Asker) -> None:
    assert asker.make(both(), LIFE, u32(Cta.MARK, 5)) == "ACK"
    answer = told(asker, orig())
    number, timeout = (Told(answer)[type_] for type_ in (Cta.ID, Cta.TIMEOUT))
    wanted = (
        bytes.fromhex("02000000")
        + bytes.fromhex("34000180 14000180 080001000a090001 080002000a090002 1c000280 0500010011000000")
        + bytes.fromhex("0600020013880000 0600030000350000")
        + bytes.fromhex("34000280 14000180 080001000a090002 080002000a090001 1c000280 0500010011000000")
        + bytes.fromhex("0600020000350000 0600030013880000")
        + bytes.fromhex("0800030000000008 0800080000000005 08000c00")
        + number
        + bytes.fromhex("08000b0000000002 08000700")
        + timeout
        + bytes.fromhex("1c001880 0800010000000000 0800020000000000 0800030000000000")
    )
    assert answer[16:] == wanted
    assert struct.unpack_from("=IHH", answer) == (len(answer), 0x0100, 2)


@rule("CTATTR-3")
@pytest.mark.parametrize(
    ("said", "family", "wanted"),
    [
        (
            pings(7, 8, 0, code=9),
            V4,
            (
                "3c000180 14000180 080001000a090001 080002000a090002"
                "24000280 0500010001000000 0600040000070000 0500050008000000 0500060009000000"
            ),
        ),
        (
            pings6(7),
            V6,
            (
                "54000180 2c000180 14000300fd000000000000000000000000000001 14000400fd000000000000000000000000000002"
                "24000280 050001003a000000 0600070000070000 0500080080000000 0500090000000000"
            ),
        ),
        (
            both6(),
            V6,
            (
                "4c000180 2c000180 14000300fd000000000000000000000000000001 14000400fd000000000000000000000000000002"
                "1c000280 0500010011000000 0600020013880000 0600030000350000"
            ),
        ),
        (
            orig(zone=7) + reply(),
            V4,
            (
                "3c000180 14000180 080001000a090001 080002000a090002"
                "1c000280 0500010011000000 0600020013880000 0600030000350000 0600030000070000"
            ),
        ),
    ],
    ids=["ICMP", "ICMPv6", "UDP over IPv6", "zone"],
)
def test_tuples_byte_by_byte(asker: Asker, said: bytes, family: int, wanted: str) -> None:
    assert asker.make(said, LIFE, family=family) == "ACK"
    assert told(asker, said, family)[20:].startswith(bytes.fromhex(wanted))
    assert told(asker, said, family)[16:20] == bytes((family, 0, 0, 0))


@rule("CTATTR-3")
def test_the_state_of_tcp_byte_by_byte(asker: Asker) -> None:
    assert asker.make(both(number=TCP), LIFE, nest(Cta.PROTOINFO, nest(1, u8(1, 3), attribute(4, b"\x0a\xff")))) == "ACK"
    wanted = "30000480 2c000180 0500010003000000 0500020000000000 0500030000000000 060004000a000000 0600050000000000"
    assert bytes.fromhex(wanted) in told(asker, orig(number=TCP))


@rule("CTATTR-3")
def test_the_state_of_sctp_byte_by_byte(asker: Asker) -> None:
    state = nest(Cta.PROTOINFO, nest(3, u8(1, 4), u32(2, 0x01020304), u32(3, 5)))
    assert asker.make(both(number=SCTP), LIFE, state) == "ACK"
    wanted = "20000480 1c000380 0500010004000000 0800020001020304 0800030000000005"
    assert bytes.fromhex(wanted) in told(asker, orig(number=SCTP))


@rule("CTATTR-3")
def test_a_helper_byte_by_byte(asker: Asker) -> None:
    assert asker.make(both(number=TCP, to=21), LIFE, helper("ftp")) == "ACK"
    assert bytes.fromhex("0c000580 0800010066747000") in told(asker, orig(number=TCP, to=21))


# ---------------------------------------------------------------------------------------------------------------------- values


@rule("CTATTR-4")
def test_a_flow_has_one_id_for_life(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = watch(kernel)
    assert asker.make(both(), LIFE) == "ACK"
    shown = [asker.only()[Cta.ID], asker.fetch(reply())[Cta.ID]]
    assert asker.change(orig(), u32(Cta.MARK, 5)) == "ACK"
    shown.append(asker.only()[Cta.ID])
    assert asker.delete(orig()) == "ACK"
    shown += [event[Cta.ID] for event in watcher.told()]
    assert len(shown) == 6
    assert len(set(shown)) == 1


@rule("CTATTR-4")
def test_flows_have_different_ids(asker: Asker) -> None:
    for port in range(20):
        assert asker.make(both(port), LIFE) == "ACK"
    assert len({flow[Cta.ID] for flow in asker.dump()}) == 20


@rule("CTATTR-5")
def test_labels_are_16_bytes_or_not_there(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.use_labels()
    assert "LABELS" not in asker.made(both()).names
    assert asker.change(orig(), attribute(Cta.LABELS, b"\1\0\0\0")) == "ACK"
    assert asker.only()[Cta.LABELS] == b"\1" + bytes(15)


@rule("CTATTR-6")
def test_counters_are_there_if_they_were_on_when_the_flow_was_made(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(ACCT, 1)
    assert asker.make(both(1), LIFE) == "ACK"
    kernel.sysctl(ACCT, 0)
    assert asker.make(both(2), LIFE) == "ACK"
    counted = asker.fetch(orig(1))
    for direction in (Cta.COUNTERS_ORIG, Cta.COUNTERS_REPLY):
        assert counted[direction] == struct.pack("=HHQHHQ", 12, 1, 0, 12, 2, 0)
        assert direction not in asker.fetch(orig(2))


@rule("CTATTR-7")
def test_timestamps_are_there_if_they_were_on_when_the_flow_was_made(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(STAMPS, 1)
    assert asker.make(both(1), LIFE) == "ACK"
    kernel.sysctl(STAMPS, 0)
    assert asker.make(both(2), LIFE) == "ACK"
    stamped = asker.fetch(orig(1)).inside(Cta.TIMESTAMP)
    assert list(stamped) == [1], "it has not stopped yet"
    assert len(stamped[1]) == 8
    assert Cta.TIMESTAMP not in asker.fetch(orig(2))


@rule("CTATTR-7")
def test_timestamps_are_in_order(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(STAMPS, 1)
    watcher = watch(kernel)
    for port in (1, 2):
        assert asker.make(both(port), LIFE) == "ACK"
    first, second = (asker.fetch(orig(port)).inside(Cta.TIMESTAMP).number(1) for port in (1, 2))
    assert first <= second
    assert asker.delete(orig(1)) == "ACK"
    stamps = watcher.told()[-1].inside(Cta.TIMESTAMP)
    assert list(stamps) == [1, 2]
    assert stamps.number(1) == first
    assert stamps.number(2) >= second


@rule("CTATTR-8", "C7-44")
def test_a_mark_of_0_is_told(asker: Asker) -> None:
    assert asker.made(both())[Cta.MARK] == bytes(4)


@rule("CTATTR-9")
def test_a_name_of_a_helper_ends_with_a_nul(asker: Asker) -> None:
    assert asker.made(both(to=69), helper("tftp"))[Cta.HELP] == name(1, "tftp")


@rule("CTATTR-2")
def test_the_message_says_which_family_the_flow_is_of(asker: Asker) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.make(both6(), LIFE, family=V6) == "ACK"
    assert {(flow.family, flow.version, flow.res_id, flow.type) for flow in asker.dump()} == {
        (V4, 0, 0, 0x0100 | NEW),
        (V6, 0, 0, 0x0100 | NEW),
    }
