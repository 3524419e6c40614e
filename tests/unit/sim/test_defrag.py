"""Fragments for this machine. The outcomes were seen on Linux 6.18; `test_dataplane_against_linux` tries more."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from scapy.layers.inet import fragment
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from nfnl.sim.journey import Fate
from tests.unit.sim.dataplane import ICMP, IP, UDP, ICMPv6EchoRequest, World, ip4, ip6

ECHO = ICMP(id=1) / (b"abcdefgh" * 10)


def pieces(payload: Any = ECHO, **fields: Any) -> list[bytes]:
    whole = IP(**{"src": "10.0.0.9", "dst": "10.0.0.1", "id": 7, **fields}) / payload
    return [bytes(piece) for piece in fragment(whole, fragsize=24)]


def pieces6(at_a_time: int = 24, ident: int = 7) -> list[bytes]:
    inner = ip6(ICMPv6EchoRequest(id=1, data=b"abcdefgh" * 10))[40:]
    return [
        ip6(IPv6ExtHdrFragment(nh=58, offset=at // 8, m=int(at + at_a_time < len(inner)), id=ident) / inner[at : at + at_a_time])
        for at in range(0, len(inner), at_a_time)
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_last_to_come_goes_on_as_the_whole(order: tuple[int, ...]) -> None:
    world = World()
    parts = pieces()
    *held, last = [world.stack.receive(parts[i]) for i in order]
    assert [journey.fate for journey in held] == [Fate.JOINED] * 3
    assert all(journey.hooks == ["PREROUTING"] for journey in held)
    assert last.hooks == ["PREROUTING", "INPUT"]
    assert last.data == ip4(ECHO, id=7)
    assert len(last.answers) == 1


def test_until_then_they_wait() -> None:
    world = World()
    assert world.stack.receive(pieces()[0]).fate is Fate.HELD


def test_input_sees_whole_packets_and_prerouting_fragments() -> None:
    world = World()
    world.iptables("-t mangle -A PREROUTING -f")
    world.iptables("-t mangle -A INPUT -p udp --dport 9")
    for piece in pieces(UDP(dport=9) / (b"x" * 80)):
        world.stack.receive(piece)
    assert world.hits("PREROUTING", table="mangle") == [3]
    assert world.hits("INPUT", table="mangle") == [1]


def test_the_mark_is_that_of_the_first_fragment() -> None:
    world = World()
    world.iptables("-t mangle -A PREROUTING ! -f -j MARK --set-mark 5")
    world.iptables("-A INPUT -m mark --mark 5")
    for piece in pieces():
        world.stack.receive(piece)
    assert world.hits("INPUT") == [1]


def test_a_fragment_that_was_there_already_is_dropped_alone() -> None:
    world = World()
    parts = pieces()
    for i, fate in ((0, Fate.HELD), (0, Fate.DROPPED), (1, Fate.HELD), (2, Fate.HELD), (3, Fate.DELIVERED)):
        journey = world.stack.receive(parts[i])
        assert journey.fate is fate, i


def test_fragments_that_overlap_destroy_each_other() -> None:
    world = World()
    parts = pieces()
    first = world.stack.receive(parts[0])
    assert world.stack.receive(ip4(b"y" * 24, id=7, frag=2, flags="MF", proto=1)).dropped
    assert first.dropped
    assert [world.stack.receive(part).fate for part in parts[1:]] == [Fate.HELD] * 3


@pytest.mark.parametrize(
    ("frag", "data"),
    [(9, b"x" * 16), (1, b"x" * 8)],  # another end, and an end before what is known
)
def test_two_ends_destroy_each_other(frag: int, data: bytes) -> None:
    world = World()
    world.stack.receive(ip4(b"x" * 24, id=7, frag=3))
    assert world.stack.receive(ip4(data, id=7, frag=frag)).dropped


def test_what_is_not_a_multiple_of_8_is_cut_unless_it_is_the_end() -> None:
    world = World()
    data = ip4(ECHO, id=7)[20:]
    world.stack.receive(ip4(data[:27], id=7, flags="MF", proto=1))
    assert world.stack.receive(ip4(data[24:], id=7, frag=3, proto=1)).data == ip4(ECHO, id=7)
    assert world.stack.receive(ip4(b"1234567", id=8, flags="MF", proto=1)).dropped


@pytest.mark.parametrize(
    ("ecn", "together"),
    [((2, 2, 2, 2), 2), ((2, 3, 2, 2), 3), ((1, 3, 1, 2), 3), ((2, 1, 2, 2), 2), ((0, 0, 0, 0), 0), ((0, 2, 0, 0), None)],
)
def test_congestion_survives_and_contradictions_do_not(ecn: tuple[int, ...], together: int | None) -> None:
    world = World()
    journeys = []
    for piece, bits in zip(pieces(), ecn, strict=True):
        marked = IP(piece)
        marked.tos, marked.chksum = bits, None
        journeys.append(world.stack.receive(bytes(marked)))
    if together is None:
        assert [journey.fate for journey in journeys] == [Fate.DROPPED] * 4
    else:
        assert journeys[-1].data[1] == together


def test_dont_fragment_stays_if_the_largest_had_it() -> None:
    world = World()
    for piece in pieces():
        marked = IP(piece)
        marked.flags |= "DF"
        marked.chksum = None
        journey = world.stack.receive(bytes(marked))
    assert journey.data == ip4(ECHO, id=7, flags="DF")


def test_giving_up_is_told_to_the_sender_if_the_first_fragment_came() -> None:
    world = World()
    first, second = world.stack.receive(pieces()[0]), world.stack.receive(pieces(id=8)[1])
    world.clock.advance(29.9)
    assert first.fate is Fate.HELD
    world.clock.advance(0.2)
    assert (first.fate, second.fate) == (Fate.DROPPED, Fate.DROPPED)
    [error] = first.answers
    assert error.data[20:22] == b"\x0b\x01"
    assert error.data[28:] == first.packet
    assert second.answers == []


def test_ipv6_waits_longer_and_behind_input() -> None:
    world = World()
    parts = pieces6()
    first = world.stack.receive(parts[0])
    assert first.hooks == ["PREROUTING", "INPUT"]
    world.clock.advance(59.0)
    assert first.fate is Fate.HELD
    world.clock.advance(1.0)
    [error] = first.answers
    assert error.data[40:42] == b"\x03\x01"


def test_ipv6_without_its_fragment_header() -> None:
    world = World()
    parts = pieces6()
    *_, last = [world.stack.receive(parts[i]) for i in (3, 0, 2, 1)]
    assert last.data == ip6(ICMPv6EchoRequest(id=1, data=b"abcdefgh" * 10))
    assert len(last.answers) == 1
    extended = [
        ip6(IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(nh=58, offset=at // 8, m=int(at < 64), id=9) / last.data[40:][at : at + 64])
        for at in (0, 64)
    ]
    for part in extended:
        journey = world.stack.receive(part)
    assert journey.data == ip6(IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(id=1, data=b"abcdefgh" * 10))


@pytest.mark.parametrize(
    ("packet", "code", "pointer"),
    [
        (ip6(IPv6ExtHdrFragment(nh=58, m=1) / b"\x80 345678 "), 0, 4),
        (ip6(IPv6ExtHdrFragment(nh=17, offset=8191) / b"1234567890"), 0, 42),
        (ip6(IPv6ExtHdrFragment(nh=6, m=1) / b"12345678"), 3, 0),
        (ip6(b"\x11\x05", nh=44), 0, 40),
    ],
)
def test_what_cannot_be_a_fragment_is_complained_about(packet: bytes, code: int, pointer: int) -> None:
    journey = World().stack.receive(packet)
    assert journey.dropped
    [error] = journey.answers
    assert error.data[40:42] + error.data[44:48] == bytes([4, code]) + pointer.to_bytes(4, "big")


def test_what_waits_is_copied_with_the_machine() -> None:
    world = World()
    parts = pieces()
    for part in parts[:3]:
        world.stack.receive(part)
    twin = copy.deepcopy(world)
    world.clock.advance(31.0)
    assert world.stack.receive(parts[3]).fate is Fate.HELD
    assert twin.stack.receive(parts[3]).delivered
