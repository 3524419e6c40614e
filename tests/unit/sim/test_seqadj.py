"""Sequence numbers where a payload has become longer or shorter."""

from __future__ import annotations

import random

from scapy.layers.inet import IP, TCP

from nfnl.sim.ct_entry import NO_ADJUSTMENT, Entry, SequenceAdjustment, Status
from nfnl.sim.journey import Journey
from nfnl.sim.seqadj import adjust, after, note
from nfnl.sim.skb import IPV4, Skb
from nfnl.sim.skb import TCP as TCP_PROTOCOL
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple

TOP = 1 << 32


def entry() -> Entry:
    t = Tuple(IPV4, b"\x0a\0\0\x09", b"\x0a\0\0\x01", TCP_PROTOCOL, 1, 2)
    back = t.inverse()
    assert back
    made = Entry(1, DEFAULT_ZONE, t, back, None)
    made.seqadj = NO_ADJUSTMENT
    return made


def segment(seq: int, ack: int = 0, flags: str = "A", options: list[tuple[str, object]] | None = None) -> bytes:
    return bytes(IP(src="10.0.0.9", dst="10.0.0.1") / TCP(seq=seq % TOP, ack=ack % TOP, flags=flags, options=options or []) / b"ab")


def adjusted(flow: Entry, data: bytes, direction: int) -> bytes | None:
    skb = Skb(data, IPV4, Journey(data, data))
    return skb.data if adjust(skb, flow, direction, 20) else None


def test_after_goes_around_the_circle() -> None:
    assert after(1, 0)
    assert after(5, TOP - 5)
    assert not after(TOP - 5, 5)
    assert not after(7, 7)


def test_what_is_behind_the_place_is_shifted_and_acknowledgements_are_shifted_back() -> None:
    flow = entry()
    note(flow, 0, 1000, 7)
    assert flow.status & Status.SEQ_ADJUST
    assert adjusted(flow, segment(1000), 0) == segment(1000)
    assert adjusted(flow, segment(1001, 50), 0) == segment(1008, 50)
    assert adjusted(flow, segment(50, 1000), 1) == segment(50, 1000)
    assert adjusted(flow, segment(50, 1020), 1) == segment(50, 1013)
    assert adjusted(flow, segment(50, 1020, "S"), 1) == segment(50, 1020, "S"), "without the flag it is no acknowledgement"


def test_several_shifts_of_one_direction() -> None:
    flow = entry()
    note(flow, 0, 1000, 7)
    note(flow, 0, 2000, -20)
    assert flow.seqadj == (SequenceAdjustment(2000, 7, TOP - 13), SequenceAdjustment())
    assert adjusted(flow, segment(1500), 0) == segment(1507)
    assert adjusted(flow, segment(2001), 0) == segment(1988)
    assert adjusted(flow, segment(9, 1988), 1) == segment(9, 1981), "the place was moved itself"
    assert adjusted(flow, segment(9, 2100), 1) == segment(9, 2113)


def test_an_older_place_changes_nothing_once_there_is_a_shift() -> None:
    flow = entry()
    note(flow, 0, 2000, 3)
    note(flow, 0, 1000, 9)
    assert flow.seqadj == (SequenceAdjustment(2000, 0, 3), SequenceAdjustment())


def test_no_change_of_length_is_not_noted() -> None:
    flow = entry()
    note(flow, 0, 1000, 0)
    assert not flow.status & Status.SEQ_ADJUST
    assert flow.seqadj == NO_ADJUSTMENT


def test_nor_is_any_where_there_is_no_place_for_it() -> None:
    flow = entry()
    flow.seqadj = None
    note(flow, 0, 1000, 5)
    assert not flow.status & Status.SEQ_ADJUST
    assert flow.seqadj is None


def test_blocks_of_sack() -> None:
    flow = entry()
    note(flow, 0, 1000, 7)
    options: list[tuple[str, object]] = [("NOP", None), ("NOP", None), ("SAck", (900, 1000, 1020, 1030))]
    shifted: list[tuple[str, object]] = [("NOP", None), ("NOP", None), ("SAck", (900, 1000, 1013, 1023))]
    assert adjusted(flow, segment(50, 1010, options=options), 1) == segment(50, 1003, options=shifted)


def test_options_that_are_cut_off_are_a_reason_to_drop() -> None:
    flow = entry()
    note(flow, 0, 1000, 7)
    for options in (b"\1\1\1\5", b"\1\1\5\x0a", b"\2\1\0\0", b"\2\0\0\0"):
        data = bytes(IP(src="10.0.0.9", dst="10.0.0.1") / TCP(dataofs=6, seq=1, ack=2, flags="A") / (options + b"ab"))
        assert adjusted(flow, data, 1) is None
    data = bytes(IP(src="10.0.0.9", dst="10.0.0.1") / TCP(dataofs=6, seq=1, ack=2, flags="A") / (b"\0\5\5\5" + b"ab"))
    assert adjusted(flow, data, 1) is not None, "behind the end of options nobody looks"
    assert adjusted(flow, data[:39], 1) is None


def test_to_and_back_is_where_one_was() -> None:
    choose = random.Random(3)
    for _ in range(200):
        flow = entry()
        seq = choose.randrange(TOP)
        for _ in range(choose.randrange(1, 3)):
            note(flow, 0, seq, choose.randrange(-30, 30))
            seq = (seq + choose.randrange(100, 1000)) % TOP
        here = (seq + choose.randrange(1, 5000)) % TOP
        there = adjusted(flow, segment(here), 0)
        assert there is not None
        shifted = int.from_bytes(there[24:28], "big")
        assert there == segment(shifted), "and its checksum is right"
        back = adjusted(flow, segment(5, shifted), 1)
        assert back == segment(5, here)
