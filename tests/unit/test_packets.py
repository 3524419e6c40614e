"""Lengths, checksums and answers. The judges are scapy, where it is right, recordings of Linux, and Linux itself."""

from __future__ import annotations

import ipaddress
import itertools
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_EOL, IPOption_LSRR, IPOption_NOP, IPOption_SSRR, fragment
from scapy.layers.inet6 import (
    HAO,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    Jumbo,
)
from scapy.packet import Raw

from nfnl.errors import NfnlError, PacketError
from nfnl.packets import reject, repair
from nfnl.sim import FakeKernel
from nfnl.subsys.queue import Packet, SkbInfo
from nfnl.testing.lab import LinuxLab
from nfnl.wire.codec import iter_decode
from tests import probes
from tests.recordings import FIXTURES, exchanges, sessions

V4 = {"src": "10.0.0.9", "dst": "10.0.0.1"}
V6 = {"src": "fd00::9", "dst": "fd00::1"}


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


# --- what others make of the same packets ---------------------------------------------------------------------------------------


class Edit(NamedTuple):
    """An edit that a library made."""

    case: str
    wrong: bool
    before: bytes
    edited: bytes  #: as it was asked for, and nothing else changed
    after: bytes


def recorded_edits(path: Path) -> Iterator[Edit]:
    for block in path.read_text().split("\n\n"):
        case = re.search("^# case: (.*)$", block, re.M)
        if not case:
            continue
        before, after = (bytes.fromhex(digits) for digits in re.findall(r"^(?:in|out) (\w+)$", block, re.M))
        asked = re.search(r"^edit at=(\d+) remove=(\d+) insert=(\w*)$", block, re.M)
        assert asked
        at, removed, new = int(asked[1]), int(asked[2]), bytes.fromhex(asked[3])
        yield Edit(case[1], "# wrong: " in block, before, before[:at] + new + before[at + removed :], after)


EDITS = {edit.case: edit for edit in recorded_edits(FIXTURES / "packets" / "libnetfilter_queue-1.0.5.txt")}
WRONG = {case for case, edit in EDITS.items() if edit.wrong}


@pytest.mark.parametrize("case", EDITS.keys() - WRONG)
def test_an_edited_packet_is_repaired_as_by_libnetfilter_queue(case: str) -> None:
    edit = EDITS[case]
    assert repair(edit.edited) == edit.after
    assert repair(edit.after) == edit.after


def test_where_libnetfilter_queue_is_wrong_repair_is_right() -> None:
    def right(case: str) -> bytes:
        edit = EDITS[case]
        repaired = repair(edit.edited)
        assert repaired != edit.after
        return repaired

    # it refuses, and leaves a packet that nobody takes; whether there is room is no question here
    assert right("udp4: longer but no tail room (extra=0)") == EDITS["udp4: longer"].after
    # no checksum stays none
    assert right("udp4: incoming checksum 0") == EDITS["udp4: incoming checksum 0"].edited
    # the checksum behind an extension header is that of the packet without it
    assert right("udp6 behind hop-by-hop")[-19:] == EDITS["udp6: same length"].after[-19:]
    # of a fragment nothing is touched
    for case in ("udp6 first fragment", "udp6 later fragment: no transport header"):
        assert right(case) == EDITS[case].edited
    assert len(WRONG) == 5


def rebuilt_by_scapy(packet: bytes) -> bytes:
    """The known recipe: delete what is to be computed, and build."""
    layer = whole = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    while layer:
        for name in {"chksum", "cksum", "len", "plen"} & layer.fields.keys():
            delattr(layer, name)
        layer = layer.payload
    return bytes(whole)


BIG_DATAGRAM = IP(**V4, id=7) / UDP(sport=1000, dport=2000) / (b"x" * 40)
FIRST, LATER = (bytes(part) for part in fragment(BIG_DATAGRAM, fragsize=24))
FIRST_V6 = bytes(IPv6(**V6) / IPv6ExtHdrFragment(m=1, nh=17) / Raw(bytes(UDP(sport=1, dport=2, len=100, chksum=77)) + b"x" * 8))
NO_CHECKSUM = bytes(IP(**V4) / UDP(chksum=0) / b"abc")
BEHIND_AH = bytes(IPv6(**V6, nh=51) / Raw(bytes([17, 4]) + bytes(22) + bytes(UDP(len=11)) + b"abc"))
UDP_LITE = bytes(IP(**V4, proto=136) / Raw(struct.pack("!HHHH", 5, 6, 8, 0) + b"hello"))


@pytest.mark.parametrize("packet", [FIRST, LATER, FIRST_V6, NO_CHECKSUM])
def test_what_cannot_or_need_not_be_summed_is_left_alone(packet: bytes) -> None:
    assert repair(packet) == packet


@pytest.mark.parametrize("packet", [FIRST, FIRST_V6, NO_CHECKSUM], ids=["first fragment", "first fragment, IPv6", "no checksum"])
def test_there_scapy_puts_a_wrong_checksum_or_an_unwanted_one(packet: bytes) -> None:
    assert rebuilt_by_scapy(packet) != repair(packet)


def test_scapy_gives_up_behind_an_authentication_header() -> None:
    assert rebuilt_by_scapy(BEHIND_AH)[-5:-3] == b"\0\0"
    assert repair(BEHIND_AH)[-11:] == repair(bytes(IPv6(**V6) / UDP() / b"abc"))[-11:]


def test_scapy_does_not_know_udp_lite() -> None:
    assert rebuilt_by_scapy(UDP_LITE) == UDP_LITE
    # over 8 bytes: ports, coverage, and the pseudo-header with the whole length
    total = sum((*struct.unpack("!4H", UDP_LITE[12:20]), 136, 13, 5, 6, 8))
    assert repair(UDP_LITE)[26:28] == struct.pack("!H", 0xFFFF - total)


payloads = st.binary(max_size=50)
words = st.integers(0, 0xFFFF)
flags = st.sampled_from(["S", "SA", "A", "PA", "FA", "R", "RA", "F", ""])
udp = st.builds(lambda a, b: UDP(sport=a, dport=b), words, words)
tcp = st.builds(
    lambda a, b, s, f, o: TCP(sport=a, dport=b, seq=s, ack=s ^ 77, flags=f, options=o, window=a),
    words,
    words,
    st.integers(0, 2**32 - 1),
    flags,
    st.sampled_from([[], [("MSS", 1460), ("NOP", None), ("WScale", 7)]]),
)
ping = st.builds(lambda i: ICMP(id=i, seq=i ^ 5), words)
ping6 = st.builds(lambda i: ICMPv6EchoRequest(id=i), words)
options = st.sampled_from([[], [IPOption_NOP()] * 4, [IPOption_LSRR(pointer=4, routers=["10.0.0.7"]), IPOption_NOP()]])
extensions = st.sampled_from(
    [
        [],
        [IPv6ExtHdrHopByHop()],
        [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()],
        [IPv6ExtHdrFragment()],
        [IPv6ExtHdrFragment(res2=3)],
        [IPv6ExtHdrRouting(addresses=["fd00::7", "fd00::8"], segleft=2)],
        [IPv6ExtHdrRouting(addresses=["fd00::7"], segleft=0)],
        [IPv6ExtHdrSegmentRouting(addresses=["fd00::7", "fd00::8"], segleft=1, lastentry=1)],
    ]
)


@st.composite
def right_packets(draw: st.DrawFn) -> bytes:
    """As scapy builds them."""
    if draw(st.booleans()):
        packet = IP(**V4, options=draw(options), tos=draw(st.integers(0, 255)), id=draw(words), flags=draw(st.sampled_from([0, 2])))
        return bytes(packet / draw(st.one_of(udp, tcp, ping)) / draw(payloads))
    packet = IPv6(**V6, tc=draw(st.integers(0, 255)))
    for extension in draw(extensions):
        packet /= extension.copy()
    return bytes(packet / draw(st.one_of(udp, tcp, ping6)) / draw(payloads))


def transport(packet: bytes) -> tuple[int, int]:
    """Protocol and offset of the transport header of one of those."""
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 15) * 4
    protocol, at = packet[6], 40
    while protocol in (0, 43, 44, 60):
        protocol, at = packet[at], at + (8 if protocol == 44 else 8 + 8 * packet[at + 1])
    return protocol, at


CHECKSUM_AT = {1: 2, 6: 16, 17: 6, 58: 2}


@given(packet=right_packets(), noise=st.binary(min_size=8, max_size=8))
def test_every_length_and_checksum_that_was_spoilt_is_found_again(packet: bytes, noise: bytes) -> None:
    protocol, at = transport(packet)
    checksum = packet[at + CHECKSUM_AT[protocol] :][:2]
    spoilt = with_bytes(packet, 2, noise[:2]) if packet[0] >> 4 == 4 else with_bytes(packet, 4, noise[:2])
    if packet[0] >> 4 == 4:
        spoilt = with_bytes(spoilt, 10, noise[2:4])
    if protocol == 17:
        spoilt = with_bytes(spoilt, at + 4, noise[4:6])
    spoilt = with_bytes(spoilt, at + CHECKSUM_AT[protocol], bytes([noise[6], noise[7] | 1]))  # not 0: that may be meant
    repaired = repair(spoilt)
    assert repaired == packet or (checksum == b"\0\0" and protocol != 17)  # of which 0xffff is as right
    assert repair(repaired) == repaired
    assert repair(packet) == packet


def queued_by_linux() -> Iterator[Packet]:
    for recording in itertools.chain(exchanges(), sessions()):
        if recording.direction.name != "FROM_KERNEL":
            continue
        for message in iter_decode(recording.data, direction=recording.direction):
            if isinstance(message, Packet) and message.payload and message.cap_len is None:
                yield message


def test_what_linux_has_queued_is_right_and_stays() -> None:
    checked = 0
    for message in queued_by_linux():
        assert message.payload
        if not SkbInfo(message.skb_info or 0) & (SkbInfo.CSUMNOTREADY | SkbInfo.GSO):
            assert repair(message.payload) == message.payload
            checked += 1
    assert checked > 20


# --- any bytes ------------------------------------------------------------------------------------------------------------------


@st.composite
def nearly_packets(draw: st.DrawFn) -> bytes:
    """A packet with some bytes changed, cut off or longer."""
    data = bytearray(draw(right_packets()))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, min(len(data) - 1, 75)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))]) + draw(st.binary(max_size=9))


@given(data=st.one_of(nearly_packets(), st.binary(max_size=90), st.binary(max_size=90).map(lambda tail: b"\x45" + tail)))
def test_any_bytes_are_repaired_or_refused(data: bytes) -> None:
    try:
        repaired = repair(data)
    except PacketError as error:
        refusal = error
    else:
        assert len(repaired) == len(data)
        assert repair(repaired) == repaired
        return
    assert isinstance(refusal, NfnlError)
    assert isinstance(refusal, ValueError)
    assert 0 <= refusal.offset <= len(data)


@given(data=st.one_of(nearly_packets(), st.binary(max_size=90)), check=st.booleans(), reset=st.booleans())
def test_any_bytes_are_answered_or_not_or_refused(data: bytes, check: bool, reset: bool) -> None:
    try:
        answer = reject(data, "tcp-reset" if reset else None, check=check)
    except PacketError:
        return
    if answer is not None:
        assert repair(answer) == answer
        assert reject(answer, "tcp-reset" if reset else None) is None, "an answer deserves no answer"


CUT = bytes(IP(**V4) / TCP())[:30]
JUMBO = bytes(IPv6(**V6) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / UDP())
UNKNOWN_ROUTING = bytes(IPv6(**V6, nh=43) / Raw(bytes([17, 0, 99, 1, 0, 0, 0, 0]) + bytes(8)))


@pytest.mark.parametrize(
    ("packet", "what", "offset"),
    [
        (b"", "no IP packet: no bytes", 0),
        (b"\x50" + bytes(40), "no IP packet: version 5", 0),
        (b"\x45" + bytes(18), "IPv4 header is cut off", 0),
        (b"\x60" + bytes(38), "IPv6 header is cut off", 0),
        (b"\x44" + bytes(30), "IPv4 header of 16 bytes in a packet of 31", 0),
        (b"\x46" + bytes(20), "IPv4 header of 24 bytes in a packet of 21", 0),
        (CUT, "TCP header is cut off", 20),
        (bytes(IP(**V4, proto=17)), "UDP header is cut off", 20),
        (bytes(IPv6(**V6, nh=58)) + bytes(7), "ICMPv6 header is cut off", 40),
        (bytes(IPv6(**V6, nh=0)) + bytes(7), "IPv6 extension header 0 is cut off", 40),
        (bytes(IPv6(**V6, nh=60)) + b"\x11\1" + bytes(13), "IPv6 extension header 60 is cut off", 40),
        (bytes(IP(**V4, len=0)) + bytes(65516), "65536 bytes are too long for an IPv4 packet (65535)", 2),
        (bytes(IPv6(**V6, nh=59, plen=0)) + bytes(65536), "65536 bytes are too long for the payload of an IPv6 packet (65535)", 4),
        (JUMBO, "a jumbogram, whose length is in an option", 40),
        (UNKNOWN_ROUTING, "IPv6 routing header of type 99 does not tell the last address", 40),
    ],
)
def test_what_is_no_ip_packet_is_refused_in_words(packet: bytes, what: str, offset: int) -> None:
    with pytest.raises(PacketError) as error:
        repair(packet)
    assert (error.value.what, error.value.offset) == (what, offset)
    assert str(error.value) == f"{what} (at byte {offset})"


def test_the_longest_packets_are_taken() -> None:
    assert repair(bytes(IP(**V4, len=0)) + bytes(65515))[2:4] == b"\xff\xff"
    assert repair(bytes(IPv6(**V6, nh=59, plen=0)) + bytes(65535))[4:6] == b"\xff\xff"


# --- rules of single protocols --------------------------------------------------------------------------------------------------


def test_what_follows_the_headers_belongs_to_the_packet() -> None:
    longer = repair(bytes(IP(**V4) / UDP() / b"abc") + b"de")
    assert longer == bytes(IP(**V4) / UDP() / b"abcde")


def test_an_absent_udp_checksum_is_kept_unless_one_is_asked_for() -> None:
    assert repair(NO_CHECKSUM, udp_checksum=True) == bytes(IP(**V4) / UDP() / b"abc")
    # in IPv6 there must be one
    assert repair(bytes(IPv6(**V6) / UDP(chksum=0) / b"abc")) == bytes(IPv6(**V6) / UDP() / b"abc")


@pytest.mark.parametrize("ip", [IP(**V4), IPv6(**V6)], ids=["IPv4", "IPv6"])
def test_a_sum_of_nothing_is_written_as_0xffff_in_udp_alone(ip: Any) -> None:
    def with_sum_of_nothing(transport: Any, at: int) -> bytes:
        unbalanced = bytes(ip / transport / b"\0\0")
        balance = struct.unpack_from("!H", unbalanced, len(ip) + at)[0]
        return with_bytes(unbalanced, len(ip) + at, b"\x12\x34")[:-2] + struct.pack("!H", balance)

    datagram = with_sum_of_nothing(UDP(), 6)
    assert repair(datagram)[len(ip) + 6 :][:2] == b"\xff\xff"
    assert repair(with_bytes(datagram, len(ip) + 6, bytes(2)), udp_checksum=True) == repair(datagram)
    segment = repair(with_sum_of_nothing(TCP(), 16))
    assert segment[len(ip) + 16 :][:2] == b"\0\0"
    as_linux_writes_it = with_bytes(segment, len(ip) + 16, b"\xff\xff")
    assert repair(as_linux_writes_it) == as_linux_writes_it, "0xffff is the same number: it was right already"


def test_a_message_of_zeros_has_a_checksum_too() -> None:
    assert repair(bytes(IP(**V4, proto=1)) + bytes(8))[20:24] == b"\0\0\xff\xff"


def test_igmp() -> None:
    assert repair(bytes(IP(**V4, proto=2)) + bytes.fromhex("16000000ef010101"))[20:].hex() == "1600f9fcef010101"


@pytest.mark.parametrize(("covers", "then"), [(0, 0), (8, 8), (13, 13), (14, 0), (7, 0), (1, 0)])
def test_udp_lite_covers_what_it_says_or_everything(covers: int, then: int) -> None:
    repaired = repair(with_bytes(UDP_LITE, 24, struct.pack("!H", covers)))
    assert struct.unpack_from("!H", repaired, 24)[0] == then
    spoilt_tail = repair(with_bytes(repaired, 28, b"HELLO"))
    assert (spoilt_tail[26:28] == repaired[26:28]) == (then == 8)


def test_protocols_with_other_checksums_are_payload() -> None:
    for protocol in (33, 47, 50, 89, 132, 253):
        packet = bytes(IP(**V4, proto=protocol) / Raw(b"whatever this is"))
        assert repair(packet) == packet
    assert repair(bytes(IPv6(**V6, nh=59) / Raw(b"nothing"))) == bytes(IPv6(**V6, nh=59) / Raw(b"nothing"))


def udp_checksum_between(source: str, destination: str) -> bytes:
    layer = IP if ":" not in source else IPv6
    return bytes(layer(src=source, dst=destination) / UDP() / b"abc")[-5:-3]


def under_way(header: bytes) -> bytes:
    return bytes(IPv6(**V6, nh=43) / Raw(header + bytes(UDP(len=11)) + b"abc"))


SEVEN, EIGHT, FAR = (ipaddress.ip_address(text).packed for text in ("fd00::7", "fd00::8", "2001:db8::7"))
ROUTING = {
    "type 0, two to go": (bytes([17, 4, 0, 2, 0, 0, 0, 0]) + SEVEN + EIGHT, "fd00::8"),
    "type 0, there": (bytes([17, 4, 0, 0, 0, 0, 0, 0]) + SEVEN + EIGHT, "fd00::1"),
    "type 2": (bytes([17, 2, 2, 1, 0, 0, 0, 0]) + SEVEN, "fd00::7"),
    # the last 2 bytes of an address, and 6 of padding
    "type 3": (bytes([17, 1, 3, 1, 0xEE, 0x60, 0, 0]) + b"\0\7" + bytes(6), "fd00::7"),
    # the last 15 bytes of the first, all 16 of the last, 1 of padding
    "type 3, two addresses": (bytes([17, 4, 3, 2, 0x10, 0x10, 0, 0]) + EIGHT[1:] + FAR + bytes(1), "2001:db8::7"),
    "type 4, one to go": (bytes([17, 4, 4, 1, 1, 0, 0, 0]) + EIGHT + SEVEN, "fd00::8"),
    "type 4, with a TLV": (bytes([17, 5, 4, 1, 1, 0, 0, 0]) + EIGHT + SEVEN + bytes([4, 6, 0, 0, 0, 0, 0, 0]), "fd00::8"),
    "type 4, there": (bytes([17, 4, 4, 0, 1, 0, 0, 0]) + EIGHT + SEVEN, "fd00::1"),
    "unknown, there": (bytes([17, 2, 99, 0, 0, 0, 0, 0]) + SEVEN, "fd00::1"),
}


@pytest.mark.parametrize("name", ROUTING)
def test_a_checksum_is_for_the_last_address_of_a_routing_header(name: str) -> None:
    header, last = ROUTING[name]
    assert repair(under_way(header))[-5:-3] == udp_checksum_between("fd00::9", last)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ([IPOption_LSRR(pointer=4, routers=["10.0.0.7", "10.0.0.8"])], "10.0.0.8"),
        ([IPOption_SSRR(pointer=8, routers=["10.0.0.7", "10.0.0.8"])], "10.0.0.8"),
        ([IPOption_LSRR(pointer=12, routers=["10.0.0.7", "10.0.0.8"])], "10.0.0.1"),
        ([IPOption_NOP(), IPOption_LSRR(pointer=4, routers=["10.0.0.7"])], "10.0.0.7"),
        ([IPOption_EOL(), IPOption_LSRR(pointer=4, routers=["10.0.0.7"])], "10.0.0.1"),
        ([IPOption_LSRR(pointer=4, routers=[])], "10.0.0.1"),
    ],
    ids=["loose", "strict", "at its end", "behind another", "behind the end", "without addresses"],
)
def test_a_checksum_is_for_the_last_address_of_a_source_route(options: list[Any], last: str) -> None:
    packet = bytes(IP(**V4, options=options) / UDP(chksum=9) / b"abc")
    assert repair(packet)[-5:-3] == udp_checksum_between("10.0.0.9", last)


def test_a_checksum_is_from_the_home_address() -> None:
    packet = bytes(IPv6(**V6) / IPv6ExtHdrDestOpt(options=[HAO(hoa="fd00::7")]) / UDP(chksum=9) / b"abc")
    assert repair(packet)[-5:-3] == udp_checksum_between("fd00::7", "fd00::1")


def test_an_option_counts_only_in_its_own_header() -> None:
    for header in (IPv6ExtHdrHopByHop(options=[HAO(hoa="fd00::7")]), IPv6ExtHdrDestOpt(options=[Jumbo(jumboplen=70000)])):
        packet = bytes(IPv6(**V6) / header / UDP(chksum=9) / b"abc")
        assert repair(packet)[-5:-3] == udp_checksum_between("fd00::9", "fd00::1")


# --- rejecting ------------------------------------------------------------------------------------------------------------------

WITH_V4 = {
    "icmp-net-unreachable": 0,
    "icmp-host-unreachable": 1,
    "icmp-proto-unreachable": 2,
    "icmp-port-unreachable": 3,
    "icmp-net-prohibited": 9,
    "icmp-host-prohibited": 10,
    "icmp-admin-prohibited": 13,
}
WITH_V6 = {
    "icmp6-no-route": 0,
    "icmp6-adm-prohibited": 1,
    "icmp6-addr-unreachable": 3,
    "icmp6-port-unreachable": 4,
    "icmp6-policy-fail": 5,
    "icmp6-reject-route": 6,
}
SHORT = {
    "net-unreach": "icmp-net-unreachable",
    "host-unreach": "icmp-host-unreachable",
    "proto-unreach": "icmp-proto-unreachable",
    "port-unreach": "icmp-port-unreachable",
    "net-prohib": "icmp-net-prohibited",
    "host-prohib": "icmp-host-prohibited",
    "admin-prohib": "icmp-admin-prohibited",
}


def answer_to(packet: Any, with_: str | None = None, **how: Any) -> bytes:
    answer = reject(bytes(packet), with_, **how)
    assert answer is not None
    return answer


@pytest.mark.parametrize("name", WITH_V4)
def test_an_icmp_error(name: str) -> None:
    datagram = bytes(IP(**V4, tos=0xFF) / UDP() / b"abc")
    answer = IP(answer_to(datagram, name))
    assert (answer.src, answer.dst, answer.tos, answer.ttl, answer.id, answer.flags) == ("10.0.0.1", "10.0.0.9", 0xDE, 64, 0, 0)
    assert (answer[ICMP].type, answer[ICMP].code, bytes(answer[ICMP].payload)) == (3, WITH_V4[name], datagram)


@pytest.mark.parametrize("name", WITH_V6)
def test_an_icmpv6_error(name: str) -> None:
    datagram = bytes(IPv6(**V6, tc=0xFF, fl=5) / UDP() / b"abc")
    answer = IPv6(answer_to(datagram, name))
    assert (answer.src, answer.dst, answer.tc, answer.fl, answer.hlim) == ("fd00::1", "fd00::9", 0, 0, 64)
    assert (answer[ICMPv6DestUnreach].code, bytes(answer[ICMPv6DestUnreach].payload)) == (WITH_V6[name], datagram)


@pytest.mark.parametrize("short", SHORT)
def test_short_names(short: str) -> None:
    assert reject(bytes(IP(**V4) / UDP()), short) == reject(bytes(IP(**V4) / UDP()), SHORT[short])


@pytest.mark.parametrize(("packet", "name"), [(IP(**V4) / UDP(), "icmp6-no-route"), (IPv6(**V6) / UDP(), "icmp-net-unreachable")])
def test_a_name_of_the_other_family_is_refused(packet: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"rejected with one of .*tcp-reset.*, not with {name}"):
        reject(bytes(packet), name)


@pytest.mark.parametrize(("ip", "error"), [(IP(**V4), 576), (IPv6(**V6), 1280)], ids=["IPv4", "IPv6"])
def test_as_much_is_quoted_as_fits(ip: Any, error: int) -> None:
    assert len(answer_to(ip / UDP() / bytes(1300))) == error


@pytest.mark.parametrize("ip", [IP(**V4), IPv6(**V6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (TCP(flags="S", seq=100), ("RA", 0, 101)),
        (TCP(flags="SF", seq=100) / b"abc", ("RA", 0, 105)),
        (TCP(flags="", seq=2**32 - 1) / b"abc", ("RA", 0, 2)),
        (TCP(flags="S", seq=100, options=[("MSS", 1460)]), ("RA", 0, 101)),
        (TCP(flags="PA", seq=100, ack=7) / b"abc", ("R", 7, 0)),
    ],
)
def test_a_reset(ip: Any, segment: Any, expected: tuple[str, int, int]) -> None:
    answer = type(ip)(answer_to(ip / segment, "tcp-reset"))
    assert (answer[TCP].flags, answer[TCP].seq, answer[TCP].ack) == expected
    assert (answer[TCP].sport, answer[TCP].dport, answer[TCP].window, bytes(answer[TCP].payload)) == (80, 20, 0, b"")
    assert (answer.src, answer.dst) == (ip.dst, ip.src)


def test_an_error_may_come_from_another_address_but_a_reset_never() -> None:
    syn = bytes(IP(**V4) / TCP())
    assert IP(answer_to(syn, source="192.0.2.1")).src == "192.0.2.1"
    assert IP(answer_to(syn, source=bytes(4))).src == "0.0.0.0"
    assert IP(answer_to(syn, "tcp-reset", source="192.0.2.1")).src == "10.0.0.1"
    assert IPv6(answer_to(IPv6(**V6) / UDP(), source="fd00::77")).src == "fd00::77"


@pytest.mark.parametrize("ip", [IP(**V4), IPv6(**V6)], ids=["IPv4", "IPv6"])
def test_a_packet_that_was_cut_short_is_answered_as_far_as_it_goes(ip: Any) -> None:
    whole = bytes(ip / TCP(seq=100, flags="S") / (b"x" * 100))
    cut = whole[: len(ip) + 20]
    assert type(ip)(answer_to(cut, "tcp-reset"))[TCP].ack == 201
    assert answer_to(cut).endswith(cut)
    assert reject(whole[: len(ip) + 19], "tcp-reset") is None


def test_a_wrong_checksum_is_not_answered_unless_somebody_vouches_for_it() -> None:
    for ip in (IP(**V4), IPv6(**V6)):
        for with_ in ("tcp-reset", "port-unreach"):
            packet = bytes(ip / TCP(chksum=1))
            assert reject(packet, with_) is None
            assert reject(packet, with_, check=False) is not None


def test_a_packet_too_long_for_its_length_field_is_as_long_as_it_is() -> None:
    """What the kernel has put together of many segments (BIG TCP) has 0 there."""
    for ip, at in ((IP(**V4), 2), (IPv6(**V6), 4)):
        packet = with_bytes(bytes(ip / TCP(seq=100, flags="S") / b"abc"), at, bytes(2))
        assert type(ip)(answer_to(packet, "tcp-reset", check=False))[TCP].ack == 104


@pytest.mark.parametrize("source", ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.9.9.9", "255.255.255.255"])
def test_nobody_is_answered_who_is_not_one_host(source: str) -> None:
    for with_ in ("tcp-reset", "port-unreach"):
        assert reject(bytes(IP(src=source, dst="10.0.0.1") / TCP()), with_) is None
        assert reject(bytes(IP(src="10.0.0.9", dst=source) / TCP()), with_) is None
        assert reject(bytes(IP(src="240.0.0.1", dst="223.0.0.1") / TCP()), with_) is not None


@pytest.mark.parametrize("source", ["::", "ff02::1"])
def test_nobody_is_answered_who_is_not_one_ipv6_host(source: str) -> None:
    for with_ in ("tcp-reset", "port-unreach"):
        assert reject(bytes(IPv6(src=source, dst="fd00::1") / TCP()), with_) is None


def test_of_fragments_the_first_may_be_answered_if_its_checksum_need_not_be_looked_at() -> None:
    assert reject(FIRST) is None
    assert answer_to(FIRST, check=False).endswith(FIRST)
    assert answer_to(FIRST_V6, check=False).endswith(FIRST_V6)
    assert reject(LATER, check=False) is None
    assert reject(bytes(IPv6(**V6) / IPv6ExtHdrFragment(offset=2, nh=17) / Raw(bytes(8))), check=False) is None


def test_where_there_is_no_transport_header_there_is_nothing_to_judge_by() -> None:
    assert reject(bytes(IP(**V4, proto=1)), check=False) is None
    assert reject(bytes(IPv6(**V6, nh=58)), check=False) is None
    assert reject(bytes(IPv6(**V6, nh=44)) + bytes(3), check=False) is None
    assert reject(bytes(IPv6(**V6, nh=0)) + b"\6", check=False) is None


def test_what_is_no_ip_packet_cannot_be_rejected() -> None:
    with pytest.raises(PacketError, match="no IP packet"):
        reject(b"")


# --- rejecting as Linux does ----------------------------------------------------------------------------------------------------

ERROR_V4 = ICMP(type=3, code=3) / IP(src="10.0.0.1", dst="10.0.0.9") / UDP()
ERROR_V6 = ICMPv6DestUnreach() / IPv6(src="fd00::1", dst="fd00::9") / UDP()

#: what has rules of its own; what else there is comes from hypothesis
ODD_V4 = {
    "tos": IP(**V4, tos=0xFF) / UDP(),
    "no checksum": IP(**V4) / UDP(chksum=0),
    "wrong checksum": IP(**V4) / UDP(chksum=77),
    "wrong TCP checksum": IP(**V4) / TCP(chksum=77),
    "wrong ICMP checksum": IP(**V4) / ICMP(chksum=77),
    "RST": IP(**V4) / TCP(flags="R"),
    "SYN with data": IP(**V4) / TCP(flags="S", seq=2**32 - 1) / b"abc",
    "data offset beyond the end": IP(**V4) / TCP(flags="S", dataofs=15),
    "half a TCP header": IP(**V4, proto=6) / Raw(bytes(10)),
    "no TCP header": IP(**V4, proto=6),
    "nothing": IP(**V4, proto=253),
    "ICMP error": IP(**V4) / ERROR_V4,
    **{f"ICMP type {kind}": IP(**V4) / ICMP(type=kind) for kind in (*range(20), 42)},
    **{f"protocol {number}": IP(**V4, proto=number) / Raw(b"hello world!") for number in (2, 4, 33, 47, 50, 51, 132, 136, 253)},
    "unknown, sum right by chance": IP(**V4, proto=253) / Raw(bytes(8)),
    "long": IP(**V4) / UDP() / bytes(1000),
    "options": IP(**V4, options=[IPOption_NOP()] * 4) / UDP(),
    "trailing bytes": Raw(bytes(IP(**V4) / UDP()) + b"trailing"),
    "multicast": IP(src="10.0.0.9", dst="224.0.0.1") / UDP(),
    "to everybody": IP(src="10.0.0.9", dst="255.255.255.255") / UDP(),
}
ODD_V6 = {
    "tos": IPv6(**V6, tc=0xFF, fl=77) / UDP(),
    "no checksum": IPv6(**V6) / UDP(chksum=0),
    "wrong checksum": IPv6(**V6) / UDP(chksum=77),
    "wrong TCP checksum": IPv6(**V6) / TCP(chksum=77),
    "wrong ICMPv6 checksum": IPv6(**V6) / ICMPv6EchoRequest(cksum=77),
    "RST": IPv6(**V6) / TCP(flags="R"),
    "SYN with data": IPv6(**V6) / TCP(flags="S", seq=2**32 - 1) / b"abc",
    "half a TCP header": IPv6(**V6, nh=6) / Raw(bytes(10)),
    "nothing": IPv6(**V6, nh=59),
    "no UDP header": IPv6(**V6, nh=17),
    "ICMPv6 error": IPv6(**V6) / ERROR_V6,
    "ping": IPv6(**V6) / ICMPv6EchoRequest(data=b"abc"),
    **{f"protocol {number}": IPv6(**V6, nh=number) / Raw(b"hello world!") for number in (33, 47, 50, 132, 136, 253)},
    "behind AH": IPv6(**V6, nh=51) / Raw(bytes([17, 1]) + bytes(10) + bytes(UDP(len=8, chksum=1))),
    "behind options": IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(),
    "behind routing": IPv6(**V6) / IPv6ExtHdrRouting(segleft=0) / TCP(),
    "whole fragment": IPv6(**V6) / IPv6ExtHdrFragment() / UDP(),
    "first fragment": IPv6(**V6) / IPv6ExtHdrFragment(m=1, nh=17) / Raw(bytes(UDP(len=100, chksum=1))),
    "later fragment": IPv6(**V6) / IPv6ExtHdrFragment(offset=2, nh=17) / Raw(bytes(8)),
    "long": IPv6(**V6) / UDP() / bytes(1400),
    "trailing bytes": Raw(bytes(IPv6(**V6) / UDP()) + b"trailing"),
    "the last kind of error": IPv6(**V6) / ICMPv6Unknown(type=127),
    "the first kind of query": IPv6(**V6) / ICMPv6Unknown(type=128),
    "multicast": IPv6(src="fd00::9", dst="ff02::1") / UDP(),
    "TCP to many": IPv6(src="fd00::9", dst="ff02::1") / TCP(),
    "TCP from an IPv4 address": IPv6(src="::ffff:1.2.3.4", dst="fd00::1") / TCP(),
    "UDP from an IPv4 address": IPv6(src="::ffff:1.2.3.4", dst="fd00::1") / UDP(),
    "from a compatible address": IPv6(src="::1.2.3.4", dst="fd00::1") / TCP(),
    "from nobody": IPv6(src="::", dst="fd00::1") / UDP(),
}


class Rejecting:
    """A kernel whose INPUT rejects what comes, and what it was asked last to reject with."""

    def __init__(self, kernel: LinuxLab | FakeKernel) -> None:
        self.kernel = kernel
        self.with_ = ""

    def answers(self, packet: bytes, with_: str) -> list[bytes]:
        """What the REJECT target sends, but for the IPv4 id."""
        if with_ != self.with_:
            for tool, names in ((self.kernel.iptables, WITH_V4), (self.kernel.ip6tables, WITH_V6)):
                tool("-F INPUT")
                if with_ in names or with_ == "tcp-reset":
                    tool(f"-A INPUT {'-p tcp ' if with_ == 'tcp-reset' else ''}-j REJECT --reject-with {with_}")
            self.with_ = with_
        journey = self.kernel.receive(packet)
        assert journey.dropped or not journey.steps
        return [repair(with_bytes(a.data, 4, bytes(2))) if a.data[0] >> 4 == 4 else a.data for a in journey.answers]


@pytest.fixture(scope="module", params=["fake", "linux"])
def rejecting(request: pytest.FixtureRequest) -> Iterator[Rejecting]:
    if request.param == "linux":
        probes.require("lab-available")
    with LinuxLab() if request.param == "linux" else FakeKernel() as kernel:
        yield Rejecting(kernel)


def same_as_linux(rejecting: Rejecting, packet: bytes, with_: str) -> None:
    answer = reject(packet, with_)
    assert rejecting.answers(packet, with_) == ([] if answer is None else [answer])


@pytest.mark.parametrize("name", [*WITH_V4, *WITH_V6])
def test_every_answer_is_that_of_linux(rejecting: Rejecting, name: str) -> None:
    for packet in (IP(**V4) / UDP() / b"abc", IP(**V4) / TCP()) if name in WITH_V4 else (IPv6(**V6) / UDP(), IPv6(**V6) / TCP()):
        same_as_linux(rejecting, bytes(packet), name)


@pytest.mark.parametrize("case", ODD_V4)
def test_odd_packets_are_answered_as_by_linux(rejecting: Rejecting, case: str) -> None:
    same_as_linux(rejecting, bytes(ODD_V4[case]), "icmp-port-unreachable")
    if TCP in ODD_V4[case] or "TCP" in case:
        same_as_linux(rejecting, bytes(ODD_V4[case]), "tcp-reset")


@pytest.mark.parametrize("case", ODD_V6)
def test_odd_ipv6_packets_are_answered_as_by_linux(rejecting: Rejecting, case: str) -> None:
    same_as_linux(rejecting, bytes(ODD_V6[case]), "icmp6-port-unreachable")
    if TCP in ODD_V6[case] or "TCP" in case:
        same_as_linux(rejecting, bytes(ODD_V6[case]), "tcp-reset")


def test_only_where_addresses_do_not_tell_linux_knows_better(rejecting: Rejecting) -> None:
    """The one known difference: that 10.0.0.255 is the broadcast address of a network."""
    packet = bytes(IP(src="10.0.0.9", dst="10.0.0.255") / UDP())
    assert rejecting.answers(packet, "icmp-port-unreachable") == []
    assert reject(packet) is not None


@settings(max_examples=60, derandomize=True)
@given(segment=st.tuples(st.sampled_from([IP(**V4), IPv6(**V6)]), tcp, payloads), reset=st.booleans())
def test_any_segment_is_answered_as_by_linux(rejecting: Rejecting, segment: tuple[Any, Any, bytes], reset: bool) -> None:
    ip, header, payload = segment
    unreachable = "icmp-port-unreachable" if ip.version == 4 else "icmp6-port-unreachable"
    same_as_linux(rejecting, bytes(ip / header / payload), "tcp-reset" if reset else unreachable)
