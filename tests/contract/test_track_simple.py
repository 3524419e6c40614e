"""Flows of UDP, UDP-Lite, GRE and of protocols that nobody knows; how their first packets are told from invalid ones."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import ASSURED, CONFIRMED, DCCP, ESP, GRE, SEEN_REPLY, UDP, UDPLITE, Cta, Ends
from tests.contract.rules import needs, rule
from tests.contract.trackkit import A6, B6, A, B, Clock, Wire, ip, sctp, spoilt, tcp, udp

#: the datagram and its answer
THERE, BACK = udp(A, B), udp(B, A, 53, 5000)


# ------------------------------------------------------------------------------------------------------------------------- UDP


@rule("TU-1", "TK-3")
def test_life_of_a_flow_of_udp(wire: Wire) -> None:
    clock = Clock(wire, "udp_", "timeout", "timeout_stream")
    assert [(wire.state(packet), clock(wire.flow), wire.flow.status) for packet in (THERE, THERE, BACK, THERE)] == [
        ("NEW", "timeout", CONFIRMED),
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
    ]


@rule("TU-1")
def test_a_flow_of_udp_that_lasts_longer_than_two_seconds_is_a_stream(wire: Wire) -> None:
    """Whoever goes on. Without an answer it is none; and the tracker does not know of the first answer until it has seen it."""
    clock = Clock(wire, "udp_", "timeout", "timeout_stream")
    wire.states(THERE, BACK, udp(A, B, 5001), udp(B, A, 53, 5001), udp(A, B, 5002))
    wire.pass_time(2.1)
    assert [clock(flow) for flow in wire.flows] == ["timeout"] * 3
    assert wire.states(THERE, udp(B, A, 53, 5001), udp(B, A, 53, 5002)) == ["ESTABLISHED"] * 3
    assert {flow.ends.numbers[0]: (clock(flow), flow.status) for flow in wire.flows} == {
        5000: ("timeout_stream", CONFIRMED | SEEN_REPLY | ASSURED),
        5001: ("timeout_stream", CONFIRMED | SEEN_REPLY | ASSURED),
        5002: ("timeout", CONFIRMED | SEEN_REPLY),
    }


@rule("TU-1")
def test_an_answer_that_nobody_asked_for_is_a_new_flow(wire: Wire) -> None:
    assert wire.state(BACK) == "NEW"
    assert wire.flow.ends == Ends(B, A, UDP, (53, 5000))


@rule("TU-1", "TK-2")
def test_both_directions_of_a_flow(wire: Wire) -> None:
    wire.state(THERE)
    assert (wire.flow.ends, wire.flow.back) == (Ends(A, B, UDP, (5000, 53)), Ends(B, A, UDP, (53, 5000)))


@rule("TU-1")
def test_udp_over_ipv6(wire: Wire) -> None:
    wire.ipv6()
    assert wire.states(udp(A6, B6), udp(B6, A6, 53, 5000)) == ["NEW", "ESTABLISHED"]
    assert wire.flow.ends == Ends(A6, B6, UDP, (5000, 53))


@rule("TU-2")
@pytest.mark.parametrize(
    "packet",
    [
        spoilt(THERE, 26, size=2),
        spoilt(THERE, 24, 10, size=2),
        spoilt(THERE, 24, 7, size=2),
        spoilt(THERE, 24, 0, size=2),
        ip(A, B, UDP, THERE[20:26]),
        ip(A, B, UDP, b"\0\1\0"),
        ip(A, B, UDP),
        spoilt(udp(A6, B6), 46, size=2),
    ],
    ids=["checksum", "longer than there is", "length 7", "length 0", "6 bytes", "3 bytes", "nothing", "checksum, IPv6"],
)
def test_invalid_udp(wire: Wire, packet: bytes) -> None:
    assert wire.ready_for(packet).state(packet) == "INVALID"
    assert wire.flows == []


@rule("TU-2")
def test_udp_without_a_checksum(wire: Wire) -> None:
    assert wire.state(spoilt(THERE, 26, 0, size=2)) == "NEW"


@rule("TU-2")
def test_a_datagram_may_be_shorter_than_what_is_there(wire: Wire) -> None:
    packet = ip(A, B, UDP, struct.pack(">HHHH", 5000, 53, 8, 0) + b"padding")
    assert wire.state(packet) == "NEW"


@rule("TK-1")
@pytest.mark.parametrize(
    "packet",
    [
        udp(A, B),
        udp(A6, B6),
        tcp(A, B, 5000, 80, "S"),
        sctp(A, B, 5000, 80, 0, struct.pack(">BBHIIHHI", 1, 0, 20, 7, 1000, 1, 1, 1)),
    ],
    ids=["UDP", "UDP over IPv6", "TCP", "SCTP"],
)
@pytest.mark.parametrize(("checksum", "state"), [(1, "INVALID"), (0, "NEW")])
def test_checksums_are_verified_unless_told_otherwise(wire: Wire, packet: bytes, checksum: int, state: str) -> None:
    wire.ready_for(packet).set(checksum=checksum)
    at = {17: 26, 6: 36, 132: 28}[packet[9]] if packet[0] >> 4 == 4 else 46
    assert wire.state(spoilt(packet, at, size=2)) == state


# -------------------------------------------------------------------------------------------------------------------- UDP-Lite


def lite(source: str = A, destination: str = B, *, coverage: int = 9, over: int = UDP, sport: int = 5000, dport: int = 53) -> bytes:
    """A UDP-Lite packet with one byte of data, and a checksum that holds for this protocol number in the pseudo header."""
    packet = udp(source, destination, sport, dport, protocol=over)
    return spoilt(spoilt(packet, 9, UDPLITE), 24, coverage, size=2)


@needs("tracks-udplite")
@rule("TU-3")
def test_the_right_checksum_of_udplite_is_wrong(wire: Wire) -> None:
    """The kernel looks at it as if it were that of UDP."""
    right = udp(protocol=UDPLITE)
    assert wire.states(right, lite()) == ["INVALID", "NEW"]
    wire.set(checksum=0)
    assert wire.state(right) == "NEW"


@needs("tracks-udplite")
@rule("TU-3")
def test_life_of_a_flow_of_udplite(wire: Wire) -> None:
    clock = Clock(wire, "udp_", "timeout", "timeout_stream")
    assert [
        (wire.state(packet), clock(wire.flow), wire.flow.status) for packet in (lite(), lite(B, A, sport=53, dport=5000), lite())
    ] == [
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout_stream", CONFIRMED | SEEN_REPLY | ASSURED),
    ]
    assert wire.flow.ends == Ends(A, B, UDPLITE, (5000, 53))


@needs("tracks-udplite")
@rule("TU-3")
@pytest.mark.parametrize(
    ("coverage", "state"), [(0, "NEW"), (8, "NEW"), (9, "NEW"), (1, "INVALID"), (7, "INVALID"), (10, "INVALID")]
)
def test_coverage_of_udplite(wire: Wire, coverage: int, state: str) -> None:
    wire.set(checksum=0)
    assert wire.state(lite(coverage=coverage)) == state


@needs("tracks-udplite")
@rule("TU-3")
def test_udplite_has_a_checksum(wire: Wire) -> None:
    wire.set(checksum=0)
    assert wire.state(spoilt(lite(), 26, 0, size=2)) == "INVALID"


# ------------------------------------------------------------------------------------------------------------------------- GRE

PLAIN_GRE = struct.pack(">HH", 0, 0x800) + bytes(8)


@rule("TU-4")
def test_life_of_a_flow_of_gre(wire: Wire) -> None:
    clock = Clock(wire, "gre_", "timeout", "timeout_stream")
    assert [
        (wire.state(packet), clock(wire.flow), wire.flow.status)
        for packet in (ip(A, B, GRE, PLAIN_GRE), ip(B, A, GRE, PLAIN_GRE), ip(A, B, GRE, PLAIN_GRE))
    ] == [
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout_stream", CONFIRMED | SEEN_REPLY | ASSURED),
    ]
    assert wire.flow.ends == Ends(A, B, GRE, (0, 0))


@rule("TU-4")
def test_times_of_gre_are_those_of_when_the_flow_was_made(wire: Wire) -> None:
    clock = Clock(wire, "gre_", "timeout", "timeout_stream")
    there, back = ip(A, B, GRE, PLAIN_GRE), ip(B, A, GRE, PLAIN_GRE)
    wire.states(there, back)
    wire.set(gre_timeout_stream=5)
    assert wire.state(there) == "ESTABLISHED"
    assert clock(wire.flow) == "timeout_stream"


@rule("TU-4")
def test_gre_of_pptp_is_known_by_its_call(wire: Wire) -> None:
    call = struct.pack(">HHHH", 0x2001, 0x880B, 4, 0x1234) + bytes(8)
    assert wire.state(ip(A, B, GRE, call)) == "NEW"
    assert wire.flow.ends == Ends(A, B, GRE, (0, 0x1234))


@rule("TU-4")
def test_gre_like_that_of_pptp_that_carries_no_ppp_is_invalid(wire: Wire) -> None:
    assert wire.state(ip(A, B, GRE, struct.pack(">HH", 0x2001, 0x800) + bytes(8))) == "INVALID"


@rule("TU-4")
@pytest.mark.parametrize(
    "payload", [struct.pack(">HHH", 0x2001, 0x880B, 4), b"\x20", b""], ids=["no call", "no version", "nothing"]
)
def test_gre_that_is_cut_off_has_no_keys(wire: Wire, payload: bytes) -> None:
    assert wire.state(ip(A, B, GRE, payload)) == "NEW"
    assert wire.flow.ends == Ends(A, B, GRE, (0, 0))


# ------------------------------------------------------------------------------------------------------------- everything else


@rule("TU-5")
def test_life_of_a_flow_that_nobody_knows(wire: Wire) -> None:
    clock = Clock(wire, "generic_", "timeout")
    assert [
        (wire.state(packet), clock(wire.flow), wire.flow.status)
        for packet in (ip(A, B, ESP, bytes(8)), ip(B, A, ESP, bytes(8)), ip(A, B, ESP, bytes(8)))
    ] == [
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
    ]
    assert wire.flow.ends == Ends(A, B, ESP)


@rule("TU-5")
def test_a_flow_of_empty_packets(wire: Wire) -> None:
    assert wire.states(ip(A, B, 253), ip(B, A, 253)) == ["NEW", "ESTABLISHED"]


@rule("TU-5")
def test_protocols_are_flows_of_their_own(wire: Wire) -> None:
    assert wire.states(ip(A, B, 253), ip(A, B, 254), ip(A, B, 255)) == ["NEW"] * 3


@needs("dccp-is-generic")
@rule("TU-5")
def test_nobody_knows_dccp(wire: Wire) -> None:
    assert wire.state(ip(A, B, DCCP, b"\0\1\0\2" + bytes(20))) == "NEW"
    assert wire.flow.ends == Ends(A, B, DCCP)


# --------------------------------------------------------------------------------------------------------------- how they end


@rule("TK-4")
def test_a_flow_ends_when_its_time_is_up(wire: Wire) -> None:
    """Neither a packet nor a dump finds it then."""
    wire.set(udp_timeout=1)
    watcher = wire.listen()
    wire.states(THERE, BACK, udp(A, B, 5001))
    wire.pass_time(1.1)
    wire.set(udp_timeout=1000)
    assert wire.state(THERE) == "NEW"
    assert wire.flow.status == CONFIRMED
    told = [(event.ends.numbers[0], event.kind, Cta.TIMEOUT in event) for event in watcher.told()]
    assert sorted(each for each in told if each[1] != "UPDATE") == [
        *((5000, "DESTROY", False), (5000, "NEW", True), (5000, "NEW", True)),
        *((5001, "DESTROY", False), (5001, "NEW", True)),
    ]


@rule("TK-4")
def test_packets_prolong_a_flow(wire: Wire) -> None:
    clock = Clock(wire, "udp_", "timeout")
    wire.state(THERE)
    wire.set(udp_timeout=30_000)
    assert wire.state(THERE) == "NEW"
    assert wire.flow.number(Cta.TIMEOUT) > 2 * clock.STEP
