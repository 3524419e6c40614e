"""TCP: how connections begin and end, their times and flags; what is invalid."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import ASSURED, CONFIRMED, SEEN_REPLY, TCP, Ends
from tests.contract.rules import rule
from tests.contract.trackkit import (
    A6,
    B6,
    CLOSED_FIRST,
    HAS_ACKED,
    LIBERAL,
    SACK,
    SACK_PERMITTED,
    SCALED,
    TCP_TIMES,
    UNACKNOWLEDGED,
    A,
    B,
    Clock,
    Connection,
    Wire,
    ip,
    scale,
    spoilt,
    tcp,
    tcp_flags,
)


@pytest.fixture
def clock(wire: Wire) -> Clock:
    return Clock(wire, "tcp_timeout_", *TCP_TIMES)


@pytest.fixture
def connection(wire: Wire, clock: Clock) -> Connection:
    return Connection(wire)


# ------------------------------------------------------------------------------------------------------------------------ life


@rule("TT-4", "TK-3")
def test_life_of_a_connection(connection: Connection, clock: Clock) -> None:
    a, b = connection.a, connection.b

    def now(state: str) -> tuple[object, ...]:
        return state, connection.tcp_state, clock(connection.flow), connection.flow.status, connection.tcp_flags

    new, answered = CONFIRMED, CONFIRMED | SEEN_REPLY
    assured = answered | ASSURED
    assert now(a("S", 1000)) == ("NEW", "SYN_SENT", "syn_sent", new, (0, 0))
    assert now(b("SA", 5000, 1001)) == ("ESTABLISHED", "SYN_RECV", "syn_recv", answered, (0, HAS_ACKED))
    assert now(a("A", 1001, 5001)) == ("ESTABLISHED", "ESTABLISHED", "established", assured, (HAS_ACKED,) * 2)
    waiting = HAS_ACKED | UNACKNOWLEDGED
    assert now(a("PA", 1001, 5001, data=b"hello")) == (
        "ESTABLISHED",
        "ESTABLISHED",
        "unacknowledged",
        assured,
        (waiting, HAS_ACKED),
    )
    assert now(b("A", 5001, 1006)) == ("ESTABLISHED", "ESTABLISHED", "established", assured, (HAS_ACKED,) * 2)
    first = (HAS_ACKED | CLOSED_FIRST, HAS_ACKED)
    assert now(a("FA", 1006, 5001))[:4] == ("ESTABLISHED", "FIN_WAIT", "fin_wait", assured)
    assert now(b("A", 5001, 1007)) == ("ESTABLISHED", "CLOSE_WAIT", "close_wait", assured, first)
    assert now(b("FA", 5001, 1007))[:4] == ("ESTABLISHED", "LAST_ACK", "last_ack", assured)
    assert now(a("A", 1007, 5002)) == ("ESTABLISHED", "TIME_WAIT", "time_wait", assured, first)


@rule("TT-4", "TK-2")
def test_both_directions_of_a_connection(connection: Connection) -> None:
    connection.a("S", 1000)
    assert (connection.flow.ends, connection.flow.back) == (Ends(A, B, TCP, (5000, 80)), Ends(B, A, TCP, (80, 5000)))


@rule("TT-4")
def test_a_connection_over_ipv6(wire: Wire) -> None:
    wire.ipv6()
    there, back = (A6, B6, 5000, 80), (B6, A6, 80, 5000)
    packets = tcp(*there, "S", 1000), tcp(*back, "SA", 5000, 1001), tcp(*there, "A", 1001, 5001)
    assert wire.states(*packets) == ["NEW", "ESTABLISHED", "ESTABLISHED"]
    assert wire.flow.status == CONFIRMED | SEEN_REPLY | ASSURED


@rule("TT-4")
def test_a_fin_waits_to_be_acknowledged_like_data(connection: Connection, clock: Clock) -> None:
    connection.open().a("FA", 1001, 5001)
    assert connection.tcp_flags == (HAS_ACKED | CLOSED_FIRST | UNACKNOWLEDGED, HAS_ACKED)
    assert clock(connection.flow) == "fin_wait"  # which is shorter


@rule("TT-5")
@pytest.mark.parametrize(
    ("offered", "answered", "scales", "flags"),
    [
        (scale(7) + SACK_PERMITTED, scale(8) + SACK_PERMITTED, (7, 8), (SCALED | SACK, SCALED | SACK)),
        (scale(7), b"", (0, 0), (SCALED, 0)),
        (b"", scale(8), (0, 0), (0, SCALED)),
        (scale(15), scale(255), (14, 14), (SCALED, SCALED)),
        (SACK_PERMITTED, b"", (0, 0), (SACK, 0)),
        (b"\3\0" + scale(7), scale(8), (0, 0), (0, SCALED)),
        (b"\0" + scale(7), scale(8), (0, 0), (0, SCALED)),
        (b"\1\1\1" + scale(7), b"\2\4\5\xb4" + scale(8), (7, 8), (SCALED, SCALED)),
    ],
    ids=["both", "one", "the other", "too much", "SACK", "an option without length", "behind the end", "behind others"],
)
def test_options(connection: Connection, offered: bytes, answered: bytes, scales: tuple[int, int], flags: tuple[int, int]) -> None:
    connection.a("S", 1000, options=offered)
    connection.b("SA", 5000, 1001, options=answered)
    assert connection.scales == scales
    assert tuple(each & (SCALED | SACK) for each in connection.tcp_flags) == flags


@rule("TT-5")
def test_options_count_in_syns_only(connection: Connection) -> None:
    connection.open().a("A", 1001, 5001, options=scale(5) + SACK_PERMITTED)
    assert (connection.scales, connection.tcp_flags) == ((0, 0), (HAS_ACKED, HAS_ACKED))


# -------------------------------------------------------------------------------------------------------------------- beginning

FIN, SYN, RST, PSH, ACK, URG = (tcp_flags(letter) for letter in "FSRPAU")
BEGINS = {SYN: "SYN_SENT", SYN | URG: "SYN_SENT", ACK: "ESTABLISHED", ACK | URG: "ESTABLISHED"}


@rule("TT-6", "TT-7")
def test_which_flags_begin_a_connection(wire: Wire) -> None:
    """Every set of them, but for those that never matter, which `test_flags_that_do_not_matter` tries."""

    def begun(flags: int) -> str | None:
        connection = Connection(wire, 1000 + flags)
        state = connection.a(flags, 1000, 1)
        assert (state == "NEW") == connection.there
        return connection.tcp_state if connection.there else None

    assert {flags: begun(flags) for flags in range(64)} == {flags: BEGINS.get(flags & ~PSH) for flags in range(64)}


@rule("TT-6")
@pytest.mark.parametrize("flags", ["SE", "SC", "SEC", "SECP"])
def test_flags_that_do_not_matter(connection: Connection, flags: str) -> None:
    assert connection.a(flags, 1000) == "NEW"


@rule("TT-6")
@pytest.mark.parametrize("flags", ["SF", "SR", "FR", "P", "F", "", "U", "FSRPAU", "SFA", "SRA", "RU", "FU"])
def test_sets_of_flags_that_are_invalid_anywhere(connection: Connection, clock: Clock, flags: str) -> None:
    connection.open()
    assert connection.b(flags, 5001, 1001) == "INVALID"
    assert (connection.tcp_state, clock(connection.flow)) == ("ESTABLISHED", "established")


@rule("TT-6")
@pytest.mark.parametrize(
    "packet",
    [
        spoilt(tcp(A, B, 5000, 80, "S"), 32, 4 << 4),
        spoilt(tcp(A, B, 5000, 80, "S"), 32, 15 << 4),
        ip(A, B, TCP, b"\0\11\0\x50" + bytes(8)),
        ip(A, B, TCP, b"\0\11\0"),
        ip(A, B, TCP),
        spoilt(tcp(A, B, 5000, 80, "S"), 36, size=2),
        spoilt(tcp(A6, B6, 5000, 80, "S"), 56, size=2),
    ],
    ids=["header too short", "header too long", "12 bytes", "3 bytes", "nothing", "checksum", "checksum, IPv6"],
)
def test_invalid_segments(wire: Wire, packet: bytes) -> None:
    assert wire.ready_for(packet).state(packet) == "INVALID"
    assert wire.flows == []


@rule("TT-7")
def test_a_connection_that_is_picked_up(connection: Connection, clock: Clock) -> None:
    """Of one that began before it was tracked nothing is known of windows and options, so everything passes."""
    a, b = connection.a, connection.b

    def now(state: str) -> tuple[object, ...]:
        return state, connection.tcp_state, clock(connection.flow), connection.flow.status

    assert now(a("A", 777)) == ("NEW", "ESTABLISHED", "unacknowledged", CONFIRMED)
    assert connection.tcp_flags == (SACK | LIBERAL | HAS_ACKED, SACK | LIBERAL)
    answered = CONFIRMED | SEEN_REPLY
    assert now(b("A", 888, 777)) == ("ESTABLISHED", "ESTABLISHED", "unacknowledged", answered)
    assert now(a("A", 777, 889)) == ("ESTABLISHED", "ESTABLISHED", "established", answered | ASSURED)
    assert a("A", 2_000_000_000, 1) == "ESTABLISHED"
    assert b("A", 1_000_000_000, 2_000_000_000) == "ESTABLISHED"


@rule("TT-7")
def test_a_connection_that_is_picked_up_with_an_acknowledgement(connection: Connection, clock: Clock) -> None:
    """It is for data that nobody has seen, so the segment's window is none that counts, and the last one is still 0."""
    connection.a("A", 777, 888)
    assert clock(connection.flow) == "max_retrans"


@rule("TT-7")
def test_connections_need_not_be_picked_up(connection: Connection) -> None:
    connection.wire.set(tcp_loose=0)
    assert connection.a("A", 777, 888) == "INVALID"
    assert not connection.there


@rule("TT-4")
def test_an_acknowledgement_before_there_is_an_answer(connection: Connection) -> None:
    connection.a("S", 1000)
    assert (connection.a("A", 1001, 1), connection.tcp_state) == ("INVALID", "SYN_SENT")


@rule("TT-4")
def test_a_syn_that_is_sent_again(connection: Connection, clock: Clock) -> None:
    connection.a("S", 1000)
    connection.reset_timeout(1000)
    assert connection.a("S", 1000) == "NEW"
    assert (clock(connection.flow), connection.tcp_state) == ("none of them", "SYN_SENT")


@rule("TT-8")
def test_an_acknowledgement_that_answers_a_syn_counts_as_an_answer(connection: Connection) -> None:
    connection.a("S", 1000)
    assert (connection.b("A", 5, 1001), connection.tcp_state) == ("ESTABLISHED", "SYN_SENT")
    assert connection.flow.status == CONFIRMED | SEEN_REPLY


@rule("TT-9")
def test_both_begin_at_once(connection: Connection, clock: Clock) -> None:
    a, b = connection.a, connection.b
    a("S", 1000)
    connection.reset_timeout(1000)
    assert (b("S", 5000), connection.tcp_state) == ("ESTABLISHED", "SYN_SENT2")
    assert clock(connection.flow) == "none of them"  # as if it were the first SYN, sent again
    assert (a("SA", 1000, 5001), connection.tcp_state) == ("ESTABLISHED", "SYN_RECV")
    assert (b("SA", 5000, 1001), connection.tcp_state) == ("ESTABLISHED", "SYN_RECV")
    assert (a("A", 1001, 5001), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")


@rule("TT-9")
def test_both_begin_at_once_and_one_answer_is_enough(connection: Connection) -> None:
    connection.a("S", 1000)
    connection.b("S", 5000)
    assert (connection.a("SA", 1000, 5001), connection.tcp_state) == ("ESTABLISHED", "SYN_RECV")
    assert (connection.b("A", 5001, 1001), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")
