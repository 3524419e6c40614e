"""What is read from packets: their tuples, and whether they are sound."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop

from nfnl.sim.ct_packet import inner_tuple, is_sound, tuple_of, where
from nfnl.sim.journey import Journey
from nfnl.sim.skb import IPV4, IPV6, Checksum, Skb, family_of
from nfnl.sim.tuples import GRE, UDPLITE, Tuple
from tests.unit.sim.dataplane import PING, PING6, ip4, ip6

A, B = b"\x0a\0\0\x09", b"\x0a\0\0\x01"
A6, B6 = b"\xfd" + bytes(14) + b"\x09", b"\xfd" + bytes(14) + b"\x01"


def skb_of(data: bytes) -> Skb:
    return Skb(data, family_of(data), Journey(data, data))


def read(data: bytes) -> Tuple | None:
    found = where(skb_of(data))
    return None if found is None else tuple_of(family_of(data), data, *found)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ip4(PING), Tuple(IPV4, A, B, 1, 1, 8 << 8)),
        (ip4(ICMP(type=0, code=3, id=7)), Tuple(IPV4, A, B, 1, 7, 3)),
        (ip4(UDP(sport=5, dport=6)), Tuple(IPV4, A, B, 17, 5, 6)),
        (ip4(TCP(sport=5, dport=6)), Tuple(IPV4, A, B, 6, 5, 6)),
        (ip4(b"\0\5\0\6", proto=132), Tuple(IPV4, A, B, 132, 5, 6)),
        (ip4(b"\0\5\0\6", proto=UDPLITE), Tuple(IPV4, A, B, UDPLITE, 5, 6)),
        (ip4(b"\0\5\0\6", proto=33), Tuple(IPV4, A, B, 33)),
        (ip4(b"", proto=200), Tuple(IPV4, A, B, 200)),
        (ip6(PING6), Tuple(IPV6, A6, B6, 58, 1, 128 << 8)),
        (ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=5, dport=6)), Tuple(IPV6, A6, B6, 17, 5, 6)),
        (ip6(IPv6ExtHdrFragment(m=1) / UDP(sport=5, dport=6)), Tuple(IPV6, A6, B6, 17, 5, 6)),
        (ip6(b"", nh=200), Tuple(IPV6, A6, B6, 200)),
        (ip6(b"\xc8\5\1\4\0\0\0\0", nh=60), Tuple(IPV6, A6, B6, 200)),
    ],
)
def test_tuples(packet: bytes, expected: Tuple) -> None:
    assert read(packet) == expected


@pytest.mark.parametrize(
    "packet",
    [
        ip4(b"\0\5\0", proto=17),
        ip4(b"\0\5\0", proto=6),
        ip4(b"\x08\0\0\0\0\1\0", proto=1),
        ip4(b"x" * 8, proto=17, frag=1),
        ip6(b"\0\5\0", nh=17),
        ip6(b"abc", nh=59),
        ip6(b"\x11", nh=60),
        ip6(b"\x11\0\0", nh=44),
        ip6(IPv6ExtHdrFragment(offset=1, nh=17) / (b"x" * 8)),
        ip6(b"\x11\5\1\4\0\0\0\0", nh=60),
    ],
)
def test_where_there_is_no_tuple(packet: bytes) -> None:
    assert read(packet) is None


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        (b"\x20\1\x88\x0b\0\0\0\7", (0, 7)),
        (b"\x20\1\x88\x0b\0\0\0", (0, 0)),
        (b"\0\0\x08\0" + bytes(8), (0, 0)),
        (b"\0\3\x88\x0b\0\0\0\7", (0, 0)),
        (b"", (0, 0)),
        (b"\x20\1\x08\0" + bytes(8), None),
    ],
)
def test_gre(header: bytes, keys: tuple[int, int] | None) -> None:
    assert read(ip4(header, proto=GRE)) == (None if keys is None else Tuple(IPV4, A, B, GRE, *keys))


def test_what_an_error_quotes() -> None:
    assert inner_tuple(IPV4, ip4(UDP(sport=5, dport=6))[:24]) == Tuple(IPV4, A, B, 17, 5, 6)
    assert inner_tuple(IPV4, ip4(UDP(sport=5, dport=6))[:23]) is None
    assert inner_tuple(IPV4, ip4(UDP(sport=5, dport=6), frag=1)) is None
    assert inner_tuple(IPV4, ip4(PING)[:19]) is None
    assert inner_tuple(IPV6, ip6(UDP(sport=5, dport=6))[:44]) == Tuple(IPV6, A6, B6, 17, 5, 6)
    assert inner_tuple(IPV6, ip6(UDP(sport=5, dport=6))[:39]) is None
    assert inner_tuple(IPV6, ip6(IPv6ExtHdrFragment(offset=1, nh=17) / (b"x" * 8))) is None


@pytest.mark.parametrize(
    ("payload", "protocol", "sound"),
    [
        (UDP(dport=9) / b"x", 17, True),
        (UDP(dport=9, chksum=5) / b"x", 17, False),
        (UDP(dport=9, chksum=0) / b"x", 17, True),
        (TCP(dport=9) / b"x", 6, True),
        (TCP(dport=9, chksum=0) / b"x", 6, False),
        (PING, 1, True),
        (ICMP(chksum=4), 1, False),
    ],
)
def test_soundness(payload: Any, protocol: int, sound: bool) -> None:
    skb = skb_of(ip4(payload))
    assert is_sound(skb, protocol, 20) == sound


def test_nobody_looks_twice_at_a_checksum_that_was_right() -> None:
    skb = skb_of(ip4(UDP(dport=9) / b"x"))
    assert is_sound(skb, 17, 20)
    assert skb.csum is Checksum.UNNECESSARY
    none = skb_of(ip4(UDP(dport=9, chksum=0) / b"x"))
    assert is_sound(none, 17, 20)
    assert none.csum is Checksum.NONE, "there was nothing to look at"


def test_the_right_checksum_of_udplite_is_taken_for_wrong() -> None:
    """The kernel sums it with the number of UDP."""
    datagram = bytes(IP(src="10.0.0.9", dst="10.0.0.1", proto=UDPLITE) / bytes(UDP(sport=5, dport=6) / b"x"))
    as_udp = bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=5, dport=6) / b"x")[20:]
    assert is_sound(skb_of(datagram[:20] + as_udp), UDPLITE, 20)
    right = (int.from_bytes(as_udp[6:8], "big") - (UDPLITE - 17)) % 0xFFFF
    assert not is_sound(skb_of(datagram[:20] + as_udp[:6] + right.to_bytes(2, "big") + as_udp[8:]), UDPLITE, 20)
