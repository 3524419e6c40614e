"""IP packets in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6

from nfnl.cli.packets import summary

HERE = {"src": "127.0.0.1", "dst": "10.0.0.9"}


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (IP(**HERE) / ICMP(type=8, seq=7), "ICMP 127.0.0.1 > 10.0.0.9 echo request seq 7"),
        (IP(**HERE) / ICMP(type=0, seq=7), "ICMP 127.0.0.1 > 10.0.0.9 echo reply seq 7"),
        (IP(**HERE) / ICMP(type=3, code=3), "ICMP 127.0.0.1 > 10.0.0.9 port unreachable"),
        (IP(**HERE) / ICMP(type=3, code=9), "ICMP 127.0.0.1 > 10.0.0.9 destination unreachable, code 9"),
        (IP(**HERE) / ICMP(type=77, code=1), "ICMP 127.0.0.1 > 10.0.0.9 type 77 code 1"),
        (IP(**HERE) / UDP(sport=5, dport=9) / b"hello", "UDP 127.0.0.1:5 > 10.0.0.9:9, 5 bytes"),
        (IP(**HERE) / TCP(sport=5, dport=9, flags="SA"), "TCP 127.0.0.1:5 > 10.0.0.9:9 SYN ACK"),
        (IP(**HERE, frag=3) / b"12345678", "protocol 0 127.0.0.1 > 10.0.0.9 fragment at 24, 8 bytes"),
        (IP(**HERE, proto=132) / b"12345678", "SCTP 127.0.0.1 > 10.0.0.9, 8 bytes"),
        (IP(**HERE, options=b"\1\1\1\0") / ICMP(type=8, seq=7), "ICMP 127.0.0.1 > 10.0.0.9 echo request seq 7"),
        (IPv6(src="::1", dst="fd00::2") / UDP(sport=5, dport=9), "UDP [::1]:5 > [fd00::2]:9, 0 bytes"),
        (IPv6(src="::1", dst="fd00::2") / ICMPv6EchoRequest(seq=3), "ICMPv6 ::1 > fd00::2 echo request seq 3"),
        (IPv6(src="::1", dst="fd00::2") / ICMPv6DestUnreach(code=4), "ICMPv6 ::1 > fd00::2 port unreachable"),
    ],
)
def test_packets_in_words(packet: IP, said: str) -> None:
    assert summary(bytes(packet)) == said


def test_a_packet_that_was_cut_off_says_what_is_left() -> None:
    whole = bytes(IP(**HERE) / UDP(sport=5, dport=9) / b"hello")
    assert summary(whole[:24]) == "UDP 127.0.0.1 > 10.0.0.9, 4 bytes"
    assert summary(whole[:8]) == "8 bytes, not IP"
    assert summary(b"") == "0 bytes, not IP"


@given(st.binary())
def test_nothing_is_too_broken(data: bytes) -> None:
    assert summary(data)
    assert summary(b"\x45" + data)
    assert summary(b"\x60" + data)
