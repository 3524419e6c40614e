"""Fragments before connection tracking."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from nfnl.sim.journey import Fate
from tests.unit.sim.dataplane import ip6
from tests.unit.sim.tracked import Tracked

BODY = b"abcdefgh" * 20


def pieces(ident: int = 7, **fields: object) -> list[bytes]:
    whole = IP(**{"src": "10.0.0.9", "dst": "10.1.0.5", "id": ident, **fields}) / UDP(sport=5, dport=6) / BODY
    return [bytes(piece) for piece in fragment(whole, fragsize=64)]


def pieces6(ident: int = 7, dst: str = "fd01::5", size: int = 64) -> list[bytes]:
    inner = ip6(UDP(sport=5, dport=6) / BODY, dst=dst)[40:]
    return [
        ip6(IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(at + size < len(inner)), id=ident) / inner[at : at + size], dst=dst)
        for at in range(0, len(inner), size)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_in_pieces_is_tracked_whole(seed: int) -> None:
    kernel = Tracked()
    for made in (pieces(), pieces6()):
        random.Random(seed).shuffle(made)
        kernel.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
        journeys = [kernel.receive(piece) for piece in made]
        assert [journey.fate for journey in journeys] == [Fate.JOINED] * (len(made) - 1) + [Fate.SENT]
    kernel.at_rest()
    assert kernel.states == ["NEW", "NEW"]
    assert [flow.counters for flow in kernel.flows] == [[1, 28 + len(BODY), 0, 0], [1, 48 + len(BODY), 0, 0]]
    kernel.empty()


def test_what_goes_out_and_what_comes_in_are_not_mixed() -> None:
    kernel = Tracked()
    mine = pieces(src="10.0.0.1")
    assert kernel.send(mine[0]).fate is Fate.HELD
    for piece in mine[1:]:
        assert kernel.receive(piece).fate is Fate.HELD
    assert kernel.states == []
    for piece in mine[1:-1]:
        assert kernel.send(piece).fate is Fate.HELD
    assert kernel.send(mine[-1]).fate is Fate.SENT
    kernel.at_rest()


def test_those_that_never_become_whole_leave_nothing() -> None:
    kernel = Tracked()
    kernel.stack.sysctls["net.ipv4.ip_forward"] = 1
    waiting = [kernel.receive(piece) for piece in pieces()[:-1]]
    here = [kernel.receive(piece) for piece in pieces(8, dst="10.0.0.1")[:-1]]
    kernel.clock.advance(100)
    assert all(journey.dropped for journey in (*waiting, *here))
    assert [len(journey.answers) for journey in waiting] == [0, 0], "a router says nothing"
    assert [len(journey.answers) for journey in here] == [1, 0]
    kernel.at_rest()
    kernel.empty()


@pytest.mark.parametrize(
    ("packet", "fate", "state"),
    [
        (IPv6ExtHdrFragment(nh=17, m=1) / b"1234567890", Fate.SENT, "INVALID"),
        (IPv6ExtHdrFragment(nh=6, m=1) / b"12345678", Fate.SENT, "INVALID"),
        (IPv6ExtHdrFragment(nh=17, offset=8191) / b"1234567890", Fate.DROPPED, None),
        (IPv6ExtHdrFragment(nh=17) / UDP() / b"x", Fate.SENT, "NEW"),
        (IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(nh=17) / UDP() / b"x", Fate.SENT, "NEW"),
    ],
)
def test_odd_ones_of_ipv6(packet: object, fate: Fate, state: str | None) -> None:
    """As measured on Linux 6.18."""
    kernel = Tracked()
    kernel.stack.sysctls["net.ipv6.conf.all.forwarding"] = 1
    assert kernel.receive(ip6(packet, src="2001:db8::1", dst="fd01::5")).fate is fate
    assert kernel.states == ([state] if state else [])
    kernel.at_rest()


@pytest.mark.parametrize("cut", [b"\x11\0\0\0", b"\x11\0"])
def test_a_fragment_header_that_is_cut_off_goes_on(cut: bytes) -> None:
    kernel = Tracked()
    kernel.stack.sysctls["net.ipv6.conf.all.forwarding"] = 1
    assert kernel.receive(ip6(cut, src="2001:db8::1", dst="fd01::5", nh=44)).fate is Fate.SENT
    assert kernel.states == ["INVALID"]
