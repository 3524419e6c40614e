"""CTA_PROTOINFO: what the tracker of a protocol knows of a flow, given by a program."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import (
    LIFE,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Asker,
    Cta,
    both,
    nest,
    orig,
    sctp,
    tcp,
    tcp_flags,
    u8,
    u32,
)
from tests.contract.rules import rule
from tests.contract.wirekit import attribute

STATE, SCALE, SCALE_BACK, FLAGS, FLAGS_BACK = 1, 2, 3, 4, 5
#: IP_CT_TCP_FLAG_WINDOW_SCALE, SACK_PERM, BE_LIBERAL
WINDOW_SCALE, SACK_PERM, BE_LIBERAL = 1, 2, 8
#: in both directions
SCALING = tcp_flags(FLAGS, WINDOW_SCALE, WINDOW_SCALE) + tcp_flags(FLAGS_BACK, WINDOW_SCALE, WINDOW_SCALE)


def info(asker: Asker) -> dict[int, bytes]:
    """What is shown of the one flow, which is TCP."""
    return dict(asker.only().inside(Cta.PROTOINFO, 1))


def scales(asker: Asker) -> tuple[int, int]:
    """The window scales of the one flow."""
    return info(asker)[SCALE][0], info(asker)[SCALE_BACK][0]


# ------------------------------------------------------------------------------------------------------------------------ tcp


@rule("CTPROTO-1")
@pytest.mark.parametrize(
    "said", [b"", nest(Cta.PROTOINFO), nest(Cta.PROTOINFO, attribute(1)), tcp()], ids=["none", "empty", "empty TCP", "empty nest"]
)
def test_without_a_state_there_is_none(asker: Asker, said: bytes) -> None:
    asker.made(both(number=TCP), said)
    assert info(asker) == {STATE: b"\0", SCALE: b"\0", SCALE_BACK: b"\0", FLAGS: b"\0\0", FLAGS_BACK: b"\0\0"}


@rule("CTPROTO-2")
@pytest.mark.parametrize("state", [0, 1, 3, 7, 9])
def test_a_state_of_tcp(asker: Asker, state: int) -> None:
    asker.made(both(number=TCP), tcp(u8(STATE, state)))
    assert info(asker)[STATE] == bytes((state,))
    assert asker.change(orig(number=TCP), tcp(u8(STATE, 5))) == "ACK"
    assert info(asker)[STATE] == b"\5"


@rule("CTPROTO-2")
@pytest.mark.parametrize(
    "said",
    [
        u8(STATE, 10),
        u8(STATE, 255),
        attribute(STATE),
        u8(SCALE, 15),
        u8(SCALE_BACK, 15),
        attribute(SCALE),
        attribute(FLAGS, b"\1"),
        attribute(FLAGS_BACK, b"\1"),
        attribute(FLAGS),
    ],
    ids=["state 10", "state 255", "no state", "scale 15", "other scale 15", "no scale", "1 byte", "other 1 byte", "0 bytes"],
)
def test_what_is_out_of_range(asker: Asker, said: bytes) -> None:
    assert asker.make(both(number=TCP), LIFE, tcp(u8(STATE, 3), said)) == "ERANGE"
    assert asker.dump() == []
    asker.made(both(number=TCP))
    assert asker.change(orig(number=TCP), tcp(said)) == "ERANGE"


@rule("CTPROTO-3")
def test_flags_are_changed_under_a_mask(asker: Asker) -> None:
    asker.made(both(number=TCP), tcp(tcp_flags(FLAGS, 0x0A, 0xFF), tcp_flags(FLAGS_BACK, 0xFF, BE_LIBERAL)))
    assert (info(asker)[FLAGS], info(asker)[FLAGS_BACK]) == (b"\x0a\0", b"\x08\0")
    assert asker.change(orig(number=TCP), tcp(tcp_flags(FLAGS, 0x04, 0x06))) == "ACK"
    assert (info(asker)[FLAGS], info(asker)[FLAGS_BACK]) == (b"\x0c\0", b"\x08\0")
    assert asker.change(orig(number=TCP), tcp(tcp_flags(FLAGS, 0xFF, 0))) == "ACK"
    assert info(asker)[FLAGS] == b"\x0c\0"


@rule("CTPROTO-4")
def test_window_scales_need_the_flag_in_both_directions(asker: Asker) -> None:
    given = u8(SCALE, 14) + u8(SCALE_BACK, 8)
    asker.made(both(number=TCP), tcp(given))
    assert scales(asker) == (0, 0)
    assert asker.change(orig(number=TCP), tcp(given, tcp_flags(FLAGS, WINDOW_SCALE, WINDOW_SCALE))) == "ACK"
    assert scales(asker) == (0, 0)
    assert asker.change(orig(number=TCP), tcp(given, tcp_flags(FLAGS_BACK, WINDOW_SCALE, WINDOW_SCALE))) == "ACK"
    assert scales(asker) == (14, 8)


@rule("CTPROTO-4")
def test_window_scales_come_together(asker: Asker) -> None:
    asker.made(both(number=TCP), tcp(SCALING, u8(SCALE, 7), u8(SCALE_BACK, 8)))
    for one in (u8(SCALE, 3), u8(SCALE_BACK, 3)):
        assert asker.change(orig(number=TCP), tcp(one)) == "ACK"
        assert scales(asker) == (7, 8)
    assert asker.change(orig(number=TCP), tcp(u8(SCALE, 3), u8(SCALE_BACK, 4))) == "ACK"
    assert scales(asker) == (3, 4)


@rule("CTPROTO-2")
def test_each_part_may_come_alone(asker: Asker) -> None:
    asker.made(both(number=TCP), tcp(u8(STATE, 3)))
    assert asker.change(orig(number=TCP), tcp(tcp_flags(FLAGS, SACK_PERM, SACK_PERM))) == "ACK"
    assert (info(asker)[STATE], info(asker)[FLAGS]) == (b"\3", b"\2\0")


# ----------------------------------------------------------------------------------------------------------------------- sctp


@rule("CTPROTO-5")
@pytest.mark.parametrize("state", [0, 1, 4, 8])
def test_a_state_of_sctp(asker: Asker, state: int) -> None:
    flow = asker.made(both(number=SCTP), sctp(u8(1, state), u32(2, 0x01020304), u32(3, 5)))
    assert flow.inside(Cta.PROTOINFO, 3).numbers() == {1: state, 2: 0x01020304, 3: 5}


@rule("CTPROTO-5")
@pytest.mark.parametrize("said", [b"", nest(Cta.PROTOINFO), nest(Cta.PROTOINFO, nest(1, u8(1, 3)))], ids=["none", "empty", "TCP"])
def test_sctp_without_a_state(asker: Asker, said: bytes) -> None:
    assert asker.made(both(number=SCTP), said).inside(Cta.PROTOINFO, 3).numbers() == {1: 0, 2: 0, 3: 0}


@rule("CTPROTO-5")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (sctp(u8(1, 4)), "EINVAL"),
        (sctp(u8(1, 4), u32(2, 1)), "EINVAL"),
        (sctp(u32(2, 1), u32(3, 1)), "EINVAL"),
        (sctp(u8(1, 9), u32(2, 1), u32(3, 1)), "ERANGE"),
        (sctp(u8(1, 4), attribute(2, bytes(3)), u32(3, 1)), "ERANGE"),
        (sctp(attribute(1), u32(2, 1), u32(3, 1)), "ERANGE"),
    ],
    ids=["state alone", "one tag", "no state", "state 9", "short tag", "empty state"],
)
def test_sctp_takes_all_three(asker: Asker, said: bytes, answer: str) -> None:
    assert asker.make(both(number=SCTP), LIFE, said) == answer
    asker.made(both(number=SCTP))
    assert asker.change(orig(number=SCTP), said) == answer


# --------------------------------------------------------------------------------------------------------------------- others


@rule("CTPROTO-6")
@pytest.mark.parametrize("number", [UDP, UDPLITE])
@pytest.mark.parametrize("said", [tcp(u8(1, 3)), tcp(u8(1, 99)), sctp(u8(1, 99))], ids=["TCP", "bad TCP", "bad SCTP"])
def test_other_protocols_have_no_state(asker: Asker, number: int, said: bytes) -> None:
    assert "PROTOINFO" not in asker.made(both(number=number), said).names


@rule("CTPROTO-6")
@pytest.mark.parametrize("other", [2, 3], ids=["DCCP", "SCTP"])
def test_the_state_of_another_protocol_is_ignored(asker: Asker, other: int) -> None:
    asker.made(both(number=TCP), nest(Cta.PROTOINFO, nest(other, u8(1, 99))))
    assert info(asker)[STATE] == b"\0"
