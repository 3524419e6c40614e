"""Checksums: right ones by scapy, and wrong ones."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.sctp import SCTP, SCTPChunkInit

from nfnl.sim.checksums import crc32c, is_right, is_right_sctp, made_anew
from nfnl.sim.journey import Journey
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, Skb, family_of
from nfnl.sim.skb import TCP as TCP_PROTOCOL
from nfnl.sim.skb import UDP as UDP_PROTOCOL
from tests.unit.sim.dataplane import PING, PING6, ip4, ip6


def skb_of(data: bytes) -> Skb:
    return Skb(data, family_of(data), Journey(data, data))


PACKETS = [
    (ip4(PING), ICMP, 20),
    (ip4(UDP(dport=9) / b"odd"), UDP_PROTOCOL, 20),
    (ip4(TCP(dport=9) / b"even"), TCP_PROTOCOL, 20),
    (ip6(PING6), ICMPV6, 40),
    (ip6(UDP(dport=9) / b"odd"), UDP_PROTOCOL, 40),
    (ip6(TCP(dport=9) / b"even"), TCP_PROTOCOL, 40),
]


@pytest.mark.parametrize(("packet", "protocol", "at"), PACKETS)
def test_right_ones_are_right_and_one_bit_more_is_wrong(packet: bytes, protocol: int, at: int) -> None:
    assert is_right(skb_of(packet), protocol, at)
    for place in range(at, len(packet)):
        assert not is_right(skb_of(packet[:place] + bytes((packet[place] ^ 4,)) + packet[place + 1 :]), protocol, at)


def test_those_of_sctp() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    packet = bytes(SCTP(sport=1, dport=2) / SCTPChunkInit())
    assert is_right_sctp(packet)
    assert not is_right_sctp(packet[:-1] + b"\1")


def test_a_payload_of_another_length() -> None:
    choose = random.Random(1)
    for _ in range(200):
        old, new = (choose.randbytes(choose.randrange(40)) for _ in range(2))
        transport = choose.choice((UDP, TCP))(sport=choose.randrange(1 << 16), dport=choose.randrange(1 << 16))
        head = choose.choice((IP(src="10.0.0.9", dst="10.0.0.1"), IPv6(src="fd00::9", dst="fd00::1")))
        before, after = bytes(head / transport / old), bytes(head / transport / new)
        at = len(before) - len(old) - len(transport)
        put = before[: len(before) - len(old)] + new
        protocol = TCP_PROTOCOL if isinstance(transport, TCP) else UDP_PROTOCOL
        if protocol == UDP_PROTOCOL:  # its length field is its caller's to set
            put = put[: at + 4] + after[at + 4 : at + 6] + put[at + 6 :]
        family = IPV4 if isinstance(head, IP) else IPV6
        assert made_anew(family, put, protocol, at, partial=False) == after


def test_a_partial_one_is_the_sum_of_the_pseudo_header() -> None:
    packet = ip4(TCP(dport=9) / b"abcd")
    skb = skb_of(made_anew(IPV4, packet + b"ef", TCP_PROTOCOL, 20, partial=True))
    skb.set_partial(20, 16, 0)
    skb.set_data(made_anew(IPV4, packet + b"ef", TCP_PROTOCOL, 20, partial=True))
    skb.finish_checksum()
    assert skb.data == ip4(TCP(dport=9) / b"abcdef")
