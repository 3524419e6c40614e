"""Packets that stand for several segments (GSO) meet a queue."""

from __future__ import annotations

from errno import EINVAL, EMSGSIZE
from struct import pack, unpack_from
from typing import NamedTuple

import pytest

from nfnl.subsys.queue import CopyMode, Packet, QueueFlag, SkbInfo
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import ACCEPT, CAUGHT, DROP, Listener, refused, sum16, tcp, udp4, udp6, udp_sum

#: 350 bytes, of which every 100 differ
DATA = bytes(range(1, 176)) * 2
SEGMENTS = [DATA[:100], DATA[100:200], DATA[200:300], DATA[300:]]
WHOLE = {"mask": QueueFlag.GSO, "flags": QueueFlag.GSO}
FAIL_OPEN = {"mask": QueueFlag.FAIL_OPEN, "flags": QueueFlag.FAIL_OPEN}
IPV4, IPV6 = 20, 40

#: On the loopback, and through a device that makes no checksums.
ROUTES = pytest.mark.parametrize(
    ("source", "destination"),
    [("127.0.0.1", "127.0.0.1"), pytest.param("10.0.0.1", "10.0.0.9", marks=needs("segments-without-offload"))],
)


@pytest.fixture
def rules(kernel: KernelUnderTest) -> None:
    """What is sent to port 9000 waits at mangle OUTPUT in queue 1, and what comes out of that at filter OUTPUT in queue 2."""
    for program in (kernel.iptables, kernel.ip6tables):
        program(f"-t mangle -A OUTPUT {CAUGHT} 1")
        program(f"-A OUTPUT {CAUGHT} 2")


def payloads(packets: list[Packet], header: int = IPV4) -> list[bytes]:
    return [bytes(packet.payload or b"")[header + 8 :] for packet in packets]


# ------------------------------------------------------------------------------------------------------------- without the flag


@rule("QG-1", "C7-62")
@ROUTES
def test_each_segment_has_a_message_and_an_id(kernel: KernelUnderTest, rules: None, source: str, destination: str) -> None:
    listener = Listener(kernel)
    kernel.send_datagram(udp4(DATA, source=source, destination=destination), gso_size=100)
    packets = listener.packets()
    assert [packet.header.packet_id for packet in packets] == [1, 2, 3, 4]
    assert payloads(packets) == SEGMENTS
    assert [packet.skb_info for packet in packets] == [None] * 4
    assert listener.row.waiting == 4


@rule("QG-1")
@ROUTES
def test_each_segment_has_a_header_of_its_own(kernel: KernelUnderTest, rules: None, source: str, destination: str) -> None:
    listener = Listener(kernel)
    kernel.send_datagram(udp4(DATA, source=source, destination=destination), gso_size=100)
    segments = [bytes(packet.payload or b"") for packet in listener.packets()]
    assert [unpack_from(">H", segment, 2)[0] for segment in segments] == [128, 128, 128, 78]
    assert [unpack_from(">H", segment, 24)[0] for segment in segments] == [108, 108, 108, 58]
    ids = [unpack_from(">H", segment, 4)[0] for segment in segments]
    assert ids == [(ids[0] + number) & 0xFFFF for number in range(4)]
    assert [sum16(segment[:20]) for segment in segments] == [0xFFFF] * 4
    assert [udp_sum(segment) for segment in segments] == [0xFFFF] * 4


@rule("QG-1")
def test_so_it_is_in_ipv6(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    kernel.send_datagram(udp6(DATA), gso_size=100)
    packets = listener.packets()
    assert payloads(packets, IPV6) == SEGMENTS
    assert [unpack_from(">H", packet.payload or b"", 4)[0] for packet in packets] == [108, 108, 108, 58]
    assert [udp_sum(packet.payload or b"") for packet in packets] == [0xFFFF] * 4


@rule("QG-1")
def test_segments_come_without_their_bytes_too(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    packets = listener.packets()
    assert [(packet.header.packet_id, packet.payload, packet.skb_info) for packet in packets] == [
        (number, None, None) for number in (1, 2, 3, 4)
    ]


@rule("QG-1")
@needs("loopback-keeps-segments-together")
def test_nobody_has_looked_at_checksums_of_segments_cut_on_the_way_in(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A INPUT {CAUGHT} 1")
    listener = Listener(kernel)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    packets = listener.packets()
    assert payloads(packets) == SEGMENTS
    assert [packet.skb_info for packet in packets] == [SkbInfo.CSUM_NOTVERIFIED] * 4


@rule("QG-1")
def test_each_segment_has_a_verdict_of_its_own(kernel: KernelUnderTest, rules: None) -> None:
    listener, later = Listener(kernel), Listener(kernel, 2)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    verdicts = [(3, ACCEPT), (1, DROP), (2, ACCEPT), (4, DROP)]
    assert [listener.decide(*verdict) for verdict in verdicts] == ["ACK"] * 4
    assert payloads(later.packets()) == [SEGMENTS[2], SEGMENTS[1]]


@rule("QG-1")
@pytest.mark.parametrize("size", [350, 400])
def test_what_fits_into_one_segment_is_an_ordinary_packet(kernel: KernelUnderTest, rules: None, size: int) -> None:
    listener = Listener(kernel, **WHOLE)
    kernel.send_datagram(udp4(DATA), gso_size=size)
    packet = listener.packet()
    assert (payloads([packet]), packet.skb_info) == ([DATA], SkbInfo.CSUMNOTREADY)


# ---------------------------------------------------------------------------------------------------------------- with the flag


@rule("QG-2", "C7-62")
def test_with_the_flag_it_comes_whole(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, **WHOLE)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    packet = listener.packet()
    assert payloads([packet]) == [DATA]
    assert packet.skb_info == SkbInfo.CSUMNOTREADY | SkbInfo.GSO
    assert unpack_from(">H", packet.payload or b"", 2) == (378,)


@rule("QG-2")
@needs("segments-without-offload")
@pytest.mark.parametrize("chain", ["OUTPUT", "POSTROUTING"])
def test_where_the_device_makes_no_checksums_it_is_not_said_that_there_is_none(kernel: KernelUnderTest, chain: str) -> None:
    kernel.iptables(f"-t mangle -A {chain} {CAUGHT} 1")
    listener = Listener(kernel, **WHOLE)
    kernel.send_datagram(udp4(DATA, source="10.0.0.1", destination="10.0.0.9"), gso_size=100)
    packet = listener.packet()
    assert packet.skb_info == SkbInfo.GSO
    assert udp_sum(packet.payload or b"") != 0xFFFF, "though there is none"


@rule("QG-2")
def test_what_is_copied_is_measured_by_the_whole(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, copy_range=50, **WHOLE)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    packet = listener.packet()
    assert (len(packet.payload or b""), packet.cap_len) == (50, 378)


@rule("QG-2")
def test_what_was_whole_may_be_cut_later(kernel: KernelUnderTest, rules: None) -> None:
    listener, later = Listener(kernel, **WHOLE), Listener(kernel, 2)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    assert listener.decide(listener.packet()) == "ACK"
    packets = later.packets()
    assert payloads(packets) == SEGMENTS
    assert [udp_sum(packet.payload or b"") for packet in packets] == [0xFFFF] * 4


@rule("QG-2")
@pytest.mark.parametrize(
    ("new", "segments"),
    [
        (udp4(b"z" * 350), 4),
        (udp4(b"z" * 101), 2),
        (udp4(b"z" * 100), 0),
        (udp4(b"z" * 350)[:28], 0),
        (udp4(b"z" * 350)[:25], 0),
        (udp4(b"z" * 350)[:9] + bytes((6,)) + udp4(b"z" * 350)[10:], 0),
    ],
    ids=["as long", "shorter", "of one segment", "headers only", "less than that", "no UDP"],
)
def test_a_new_payload_is_cut_too_or_lost(kernel: KernelUnderTest, new: bytes, segments: int) -> None:
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    kernel.iptables("-t mangle -A POSTROUTING -j NFQUEUE --queue-num 2")
    listener, later = Listener(kernel, **WHOLE), Listener(kernel, 2)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    assert listener.decide(listener.packet(), payload=new) == "ACK"
    packets = later.packets()
    assert len(packets) == segments
    assert b"".join(payloads(packets)) == (new[28:] if segments else b"")
    # cut from a sum that was already there they have wrong ones
    assert all(udp_sum(packet.payload or b"") != 0xFFFF for packet in packets)


# ----------------------------------------------------------------------------------------------------------- no room for all of it


@rule("QG-3")
def test_segments_without_a_place_are_lost_and_counted_once(kernel: KernelUnderTest, rules: None) -> None:
    listener, later = Listener(kernel, queue_maxlen=2), Listener(kernel, 2)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    assert payloads(listener.packets()) == SEGMENTS[:2]
    row = listener.row
    assert (row.waiting, row.dropped, row.user_dropped, row.last_id) == (2, 1, 0, 2)
    assert later.packets() == []
    assert listener.decide(2) == "ACK"
    assert payloads(later.packets()) == SEGMENTS[1:2]


@rule("QG-3")
def test_where_none_has_a_place_one_is_counted(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, queue_maxlen=0)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    row = listener.row
    assert (listener.packets(), row.waiting, row.dropped, row.last_id) == ([], 0, 1, 0)


@rule("QG-3")
def test_refused_segments_are_counted_once_too(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    listener.socket.connect((4711, 0))
    kernel.send_datagram(udp4(DATA), gso_size=100)
    row = listener.row
    assert (row.waiting, row.dropped, row.user_dropped, row.last_id) == (0, 0, 1, 1)


@rule("QG-4")
@pytest.mark.parametrize("places", [0, 2])
def test_segments_without_a_place_go_on_if_the_queue_fails_open(kernel: KernelUnderTest, rules: None, places: int) -> None:
    listener, later = Listener(kernel, queue_maxlen=places, **FAIL_OPEN), Listener(kernel, 2)
    kernel.send_datagram(udp4(DATA), gso_size=100)
    assert payloads(listener.packets()) == SEGMENTS[:places]
    assert payloads(later.packets()) == SEGMENTS[places:]
    row = listener.row
    assert (row.waiting, row.dropped, row.last_id) == (places, 0, places)


# -------------------------------------------------------------------------------------------------------------------------- TCP

#: Of the packets of a connection those that carry data.
STREAM = "-p tcp --dport 9000 --tcp-flags PSH PSH -j NFQUEUE --queue-num"
FAMILIES = pytest.mark.parametrize("family", [4, 6])
_PSH_ACK, _ACK = 0x18, 0x10


@pytest.fixture
def stream(kernel: KernelUnderTest, family: int) -> None:
    """Data on its way to TCP port 9000 waits at mangle OUTPUT in queue 1, and if it is marked then, at filter OUTPUT in queue 2."""
    program = kernel.iptables if family == 4 else kernel.ip6tables
    program(f"-t mangle -A OUTPUT {STREAM} 1")
    program("-A OUTPUT -m mark --mark 9 -j NFQUEUE --queue-num 2")


class Segment(NamedTuple):
    """What is read of a TCP packet."""

    seq: int
    flags: int
    data: bytes
    ip_id: int
    right: bool  #: lengths and checksums are


def segment(packet: Packet) -> Segment:
    data = bytes(packet.payload or b"")
    at, addresses = (20, data[12:20]) if data[0] >> 4 == 4 else (40, data[8:40])
    length = unpack_from(">H", data, 2 if at == 20 else 4)[0] + (0 if at == 20 else 40)
    sums = [sum16(data[:20])] * (at == 20) + [sum16(addresses + pack(">II", 6, len(data) - at) + data[at:])]
    (seq,) = unpack_from(">I", data, at + 4)
    start = at + (data[at + 12] >> 4 << 2)
    right = length == len(data) and sums == [0xFFFF] * len(sums)
    return Segment(seq, data[at + 13], data[start:], unpack_from(">H", data, 4)[0], right)


@rule("QG-1", "C7-62")
@FAMILIES
def test_a_stretch_of_tcp_is_cut_into_packets_that_follow_each_other(kernel: KernelUnderTest, stream: None, family: int) -> None:
    listener = Listener(kernel)
    kernel.send_stream(tcp(family, DATA), segment=100)
    packets = listener.packets()
    assert [packet.skb_info for packet in packets] == [None] * 4
    first, *_ = segments = list(map(segment, packets))
    assert [segment.data for segment in segments] == SEGMENTS
    assert [(segment.seq - first.seq) & 0xFFFFFFFF for segment in segments] == [0, 100, 200, 300]
    assert [segment.flags for segment in segments] == [_ACK, _ACK, _ACK, _PSH_ACK]
    assert all(segment.right for segment in segments)
    if family == 4:
        assert [(segment.ip_id - first.ip_id) & 0xFFFF for segment in segments] == [0, 1, 2, 3]


@rule("QG-2", "C7-62")
@FAMILIES
def test_with_the_flag_a_stretch_of_tcp_comes_whole(kernel: KernelUnderTest, stream: None, family: int) -> None:
    listener = Listener(kernel, **WHOLE)
    kernel.send_stream(tcp(family, DATA), segment=100)
    packet = listener.packet()
    assert (segment(packet).data, segment(packet).flags) == (DATA, _PSH_ACK)
    assert packet.skb_info == SkbInfo.CSUMNOTREADY | SkbInfo.GSO
    assert not segment(packet).right


@rule("QG-2")
@FAMILIES
def test_a_new_stretch_of_tcp_gets_right_checksums_when_it_is_cut(kernel: KernelUnderTest, stream: None, family: int) -> None:
    listener, later = Listener(kernel, **WHOLE), Listener(kernel, 2)
    kernel.send_stream(tcp(family, DATA), segment=100)
    packet = listener.packet()
    new = bytes(packet.payload or b"")[: -len(DATA)] + b"z" * len(DATA)
    assert listener.decide(packet, payload=new, mark=9) == "ACK"
    segments = list(map(segment, later.packets()))
    assert [segment.data for segment in segments] == [b"z" * 100] * 3 + [b"z" * 50]
    assert all(segment.right for segment in segments)


# ---------------------------------------------------------------------------------------------------------------------- sending


@rule("QG-1")
@needs("segments-without-offload")
@pytest.mark.parametrize(("length", "size", "error"), [(1290, 10, EINVAL), (3000, 1473, EMSGSIZE), (3000, 1480, EMSGSIZE)])
def test_what_cannot_be_cut_is_not_sent(kernel: KernelUnderTest, rules: None, length: int, size: int, error: int) -> None:
    listener = Listener(kernel)
    with refused(error):
        kernel.send_datagram(udp4(bytes(length), source="10.0.0.1", destination="10.0.0.9"), gso_size=size)
    assert listener.packets() == []


@rule("QG-2")
@needs("segments-without-offload")
def test_it_may_be_longer_than_the_mtu(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, **WHOLE)
    kernel.send_datagram(udp4(bytes(3000), source="10.0.0.1", destination="10.0.0.9"), gso_size=1472)
    assert payloads([listener.packet()]) == [bytes(3000)]
