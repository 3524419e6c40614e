from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.journey import Journey
from nfnl.sim.skb import ICMPV6, IPV4, IPV6, Skb, checksum, find_header
from tests.unit.sim.dataplane import IP, PING6, TCP, UDP, ip4, ip6


def skb(data: bytes) -> Skb:
    return Skb(data, IPV6 if data[0] >> 4 == 6 else IPV4, Journey(data))


def sum_by_words(data: bytes, initial: int) -> int:
    """The definition of RFC 1071, word by word."""
    total = initial
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@given(st.binary(max_size=200), st.integers(0, 2**40))
def test_checksum_is_the_internet_checksum(data: bytes, initial: int) -> None:
    assert checksum(data, initial) == sum_by_words(data, initial)


def test_what_rules_look_at_is_found() -> None:
    packet = skb(ip4(TCP(sport=1000, dport=80), frag=0))
    assert packet.parse() == (bytes([10, 0, 0, 9]), bytes([10, 0, 0, 1]), 6, 0, 20)
    assert packet.parse_ports() == (1000, 80)


def test_new_bytes_are_looked_at_anew() -> None:
    packet = skb(ip4(TCP(sport=1000, dport=80)))
    packet.parse_ports()
    packet.set_data(ip4(UDP(sport=5, dport=6), src="1.2.3.4"))
    assert packet.parse()[0] == bytes([1, 2, 3, 4])
    assert packet.parse_ports() == (5, 6)


def test_the_fragment_offset_is_in_units_of_8_in_ipv4_and_in_bytes_in_ipv6() -> None:
    from scapy.layers.inet6 import IPv6ExtHdrFragment

    assert skb(ip4(b"x" * 8, frag=5)).parse()[3] == 5
    assert skb(ip6(IPv6ExtHdrFragment(nh=17, offset=5, m=1) / (b"x" * 8))).parse()[2:4] == (17, 40)


def test_extension_headers_are_walked_to_the_transport_header() -> None:
    from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

    headers = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt()
    protocol, at, fragment = find_header(ip6(headers / PING6))
    assert (protocol, at, fragment) == (ICMPV6, 40 + 8 * 4, 1)


def test_a_chain_of_extension_headers_that_breaks_off() -> None:
    assert find_header(ip6(b"\x11", nh=60))[0] == -1
    assert find_header(ip6(b"", nh=0))[0] == -1
    assert find_header(ip6(b"anything", nh=59)) == (59, 40, 0)  # no next header is a protocol too


def test_a_payload_too_short_for_a_header_is_not_read_beyond_its_end() -> None:
    packet = skb(ip6(PING6))
    packet.set_data(b"")
    assert packet.parse()[1] == bytes(16)


def test_a_partial_checksum_is_finished_once() -> None:
    whole = ip4(UDP(sport=1, dport=2) / b"abc")
    pseudo = sum(whole[12:20][i] << (8 if i % 2 == 0 else 0) for i in range(8)) + 17 + 11
    packet = skb(whole)
    packet.set_partial(20, 6, pseudo)
    assert packet.csum.name == "PARTIAL"
    assert packet.data != whole
    for _ in range(2):
        packet.finish_checksum()
        assert packet.data == whole
        assert packet.csum.name == "NONE"


def test_a_checksum_that_comes_out_as_zero_is_written_as_all_ones() -> None:
    # the two bytes of payload are chosen so that the sum is 0xffff, whose complement means "no checksum" in UDP
    blank = bytearray(ip4(UDP(sport=0, dport=0, chksum=0) / b"\0\0", src="0.0.0.0", dst="0.0.0.0"))
    blank[28:30] = (0xFFFF - 17 - 10 - 10).to_bytes(2, "big")
    packet = skb(bytes(blank))
    packet.set_partial(20, 6, 17 + 10)
    packet.finish_checksum()
    assert packet.data[26:28] == b"\xff\xff"
    assert IP(packet.data).chksum is not None
