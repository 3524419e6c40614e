"""Rewriting packets: against the same packet as scapy makes it with the new addresses and ports."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6MLReport, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.sctp import SCTP, SCTPChunkInit

from nfnl.sim.journey import Journey
from nfnl.sim.nat import Manip
from nfnl.sim.nat_packet import replaced, rewrite, rewrite_quoted
from nfnl.sim.skb import ICMP as ICMP_PROTOCOL
from nfnl.sim.skb import ICMPV6, IPV4, IPV6, Skb, checksum, family_of
from nfnl.sim.skb import TCP as TCP_PROTOCOL
from nfnl.sim.skb import UDP as UDP_PROTOCOL
from nfnl.sim.tuples import GRE, UDPLITE, Tuple
from nfnl.sim.tuples import SCTP as SCTP_PROTOCOL


def skb_of(data: bytes) -> Skb:
    return Skb(data, family_of(data), Journey(data, data))


def target(family: int, protocol: int, address: str, part: int) -> Tuple:
    """Both ends alike, so that either can be taken."""
    packed = ip_address(address).packed
    return Tuple(family, packed, packed, protocol, part, part)


def packet(kind: str, v6: bool, src: str, dst: str, sport: int, dport: int, data: bytes) -> bytes:
    transport: Any = {
        "tcp": lambda: TCP(sport=sport, dport=dport, flags="PA", seq=7, ack=9, options=[("MSS", 1460)]),
        "udp": lambda: UDP(sport=sport, dport=dport),
        "sctp": lambda: SCTP(sport=sport, dport=dport) / SCTPChunkInit(),
        "ping": lambda: ICMPv6EchoRequest(id=sport) if v6 else ICMP(id=sport),
    }[kind]()
    if kind == "sctp":
        data = b""
    if not v6:
        return bytes(IP(src=src, dst=dst, id=5) / transport / data)
    return bytes(IPv6(src=src, dst=dst) / IPv6ExtHdrDestOpt() / transport / data)


PROTOCOLS = {"tcp": (TCP_PROTOCOL,) * 2, "udp": (UDP_PROTOCOL,) * 2, "sctp": (SCTP_PROTOCOL,) * 2, "ping": (ICMP_PROTOCOL, ICMPV6)}


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_as_if_it_had_been_made_so(kind: str, v6: bool) -> None:
    choose = random.Random(2)

    def address() -> str:
        return str(ip_address(b"\xfd" + choose.randbytes(15) if v6 else b"\x0a" + choose.randbytes(3)))

    for _ in range(150):
        src, dst, new, data = address(), address(), address(), choose.randbytes(choose.randrange(30))
        sport, dport, part = (choose.choice((0, 1, 0xFFFF, choose.randrange(1 << 16))) for _ in range(3))
        family = IPV6 if v6 else IPV4
        manip = choose.choice((Manip.SRC, Manip.DST))
        skb = skb_of(packet(kind, v6, src, dst, sport, dport, data))
        assert rewrite(skb, target(family, PROTOCOLS[kind][v6], new, part), manip)
        if manip is Manip.SRC:
            src, sport = new, part
        else:
            dst, dport = new, part
        if kind == "ping":
            sport = part  # whichever end it is, the id is taken from the source
        assert skb.data == packet(kind, v6, src, dst, sport, dport, data)


def test_a_wrong_checksum_stays_wrong_by_as_much() -> None:
    skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(chksum=0x1234) / b"abc"))
    assert rewrite(skb, target(IPV4, UDP_PROTOCOL, "10.9.9.9", 77), Manip.SRC)
    back = skb_of(skb.data)
    assert rewrite(back, target(IPV4, UDP_PROTOCOL, "10.0.0.9", 53), Manip.SRC)
    assert back.data == bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(chksum=0x1234) / b"abc")


def test_udp_without_a_checksum_gets_none() -> None:
    skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(chksum=0) / b"abc"))
    assert rewrite(skb, target(IPV4, UDP_PROTOCOL, "10.9.9.9", 77), Manip.SRC)
    assert skb.data == bytes(IP(src="10.9.9.9", dst="10.0.0.1") / UDP(sport=77, chksum=0) / b"abc")


def test_udp_whose_checksum_comes_out_as_0() -> None:
    """0 would say that there is none."""
    found = False
    for port in range(1, 1 << 16):
        new = bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=1) / b"abc")
        sum_ = int.from_bytes(new[26:28], "big")
        if replaced(sum_, b"\0\1", port.to_bytes(2, "big")) == 0:
            skb = skb_of(new)
            assert rewrite(skb, target(IPV4, UDP_PROTOCOL, "10.0.0.9", port), Manip.SRC)
            assert skb.data[26:28] == b"\xff\xff"
            found = True
            break
    assert found


@pytest.mark.parametrize("at_port", [0, 2])
def test_a_partial_checksum_is_finished_right(at_port: int) -> None:
    data = bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=5, dport=6) / b"abc")
    skb = skb_of(data)
    skb.set_partial(20, 6, sum(data[at] << 8 | data[at + 1] for at in range(12, 20, 2)) + 17 + 11)
    assert rewrite(skb, target(IPV4, UDP_PROTOCOL, "10.9.9.9", 77), Manip.DST if at_port else Manip.SRC)
    skb.finish_checksum()
    src, dst, ports = ("10.0.0.9", "10.9.9.9", (5, 77)) if at_port else ("10.9.9.9", "10.0.0.1", (77, 6))
    assert skb.data == bytes(IP(src=src, dst=dst) / UDP(sport=ports[0], dport=ports[1]) / b"abc")


def test_icmp_without_an_id_keeps_what_stands_there() -> None:
    skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1") / ICMP(type=3, code=1, nexthopmtu=1500) / b"abc"))
    assert rewrite(skb, target(IPV4, ICMP_PROTOCOL, "10.9.9.9", 77), Manip.SRC)
    assert skb.data == bytes(IP(src="10.9.9.9", dst="10.0.0.1") / ICMP(type=3, code=1, nexthopmtu=1500) / b"abc")


def test_icmpv6_without_an_id_is_summed_with_its_addresses() -> None:
    skb = skb_of(bytes(IPv6(src="fd00::9", dst="fd00::1") / ICMPv6MLReport()))
    assert rewrite(skb, target(IPV6, ICMPV6, "fd00::77", 77), Manip.SRC)
    assert skb.data == bytes(IPv6(src="fd00::77", dst="fd00::1") / ICMPv6MLReport())


@pytest.mark.parametrize(
    ("manip", "version", "changed"), [(Manip.DST, 1, True), (Manip.SRC, 1, False), (Manip.DST, 0, False), (Manip.SRC, 0, False)]
)
def test_gre_has_its_call_id_in_one_place(manip: Manip, version: int, changed: bool) -> None:
    header = bytes((0x20, version)) + b"\x88\x0b\0\0\0\5" + b"abcd"
    skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1", proto=47) / header))
    assert rewrite(skb, target(IPV4, GRE, "10.9.9.9", 0x4D4D), manip)
    assert skb.data[20:] == (header[:6] + b"\x4d\x4d" + header[8:] if changed else header)


def test_what_is_not_known_has_its_address_changed_and_nothing_else() -> None:
    skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1", proto=200) / b"ab"))
    assert rewrite(skb, target(IPV4, 200, "10.9.9.9", 77), Manip.SRC)
    assert skb.data == bytes(IP(src="10.9.9.9", dst="10.0.0.1", proto=200) / b"ab")


@pytest.mark.parametrize("protocol", [TCP_PROTOCOL, UDP_PROTOCOL, UDPLITE, SCTP_PROTOCOL, ICMP_PROTOCOL, GRE])
def test_eight_bytes_of_a_transport_header_have_to_be_there(protocol: int) -> None:
    for size in range(8):
        skb = skb_of(bytes(IP(src="10.0.0.9", dst="10.0.0.1", proto=protocol) / bytes(size)))
        before = skb.data
        assert not rewrite(skb, target(IPV4, protocol, "10.9.9.9", 77), Manip.SRC)
        assert skb.data == before
    assert rewrite(skb_of(bytes(IP(src="10.0.0.9", proto=protocol) / bytes(8))), target(IPV4, protocol, "1.1.1.1", 7), Manip.SRC)


@pytest.mark.parametrize("size", [8, 11, 12, 19, 20, 40])
@pytest.mark.parametrize("v6", [False, True])
def test_a_quoted_packet(v6: bool, size: int) -> None:
    """As much of it as there is has its ports changed, its checksum only if that is there; the error's own is right."""
    src, dst, new = ("fd00::9", "fd01::5", "fd00::77") if v6 else ("10.0.0.9", "10.1.0.5", "10.9.9.9")
    inner = packet("tcp", v6, src, dst, 5000, 80, b"x" * 20)
    start = 40 + 8 if v6 else 20  # scapy's extension header is 8 bytes long
    quoted = inner[: start + size]
    outer: Any = IPv6(src="fd00::1", dst=src, nh=58) if v6 else IP(src="10.0.0.1", dst=src, proto=1)
    skb = skb_of(bytes(outer / (b"\1\4\0\0" + bytes(4) if v6 else b"\3\3\0\0" + bytes(4)) / quoted))
    at = len(skb.data) - len(quoted)
    family = IPV6 if v6 else IPV4
    assert rewrite_quoted(skb, at, target(family, TCP_PROTOCOL, new, 99), Manip.SRC)
    expected = packet("tcp", v6, new, dst, 99, 80, b"x" * 20)
    got = skb.data[at:]
    if size < 20:  # the checksum lies behind the end, or would have to be known
        assert got == (expected[: start + size] if size <= 16 else expected[: start + 16] + inner[start + 16 : start + size])
    else:
        assert got == expected[: start + size]
    pseudo = 0
    if v6:
        length = len(skb.data) - 40
        pseudo = sum(int.from_bytes(skb.data[8 + i : 10 + i], "big") for i in range(0, 32, 2)) + length + 58
    assert not checksum(skb.data[40 if v6 else 20 :], pseudo)


def test_a_quote_that_is_too_short() -> None:
    inner = packet("tcp", False, "10.0.0.9", "10.1.0.5", 5000, 80, b"")[:27]
    skb = skb_of(bytes(IP(src="10.0.0.1", dst="10.0.0.9", proto=1) / (b"\3\3\0\0" + bytes(4)) / inner))
    assert not rewrite_quoted(skb, 28, target(IPV4, TCP_PROTOCOL, "10.9.9.9", 99), Manip.SRC)
