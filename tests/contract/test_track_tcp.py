"""TCP: how connections begin and end, their times and flags; what is invalid; resets, and SYNs of connections that are there."""

from __future__ import annotations

import struct

import pytest

from nfnl.sim.journey import Fate
from tests.contract.ctkit import ASSURED, CONFIRMED, FIXED_TIMEOUT, SEEN_REPLY, TCP, Cta, Ends, u32
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, only, rule
from tests.contract.trackkit import A6, B6, TCP_TIMES, A, B, Clock, Connection, Wire, ip, kinds, spoilt, tcp, tcp_flags

pytestmark = only("linux", "the fake does not track packets yet")

#: flags of each side: TCP flags of CTA_PROTOINFO
SCALED, SACK, CLOSED_FIRST, LIBERAL, UNACKNOWLEDGED, HAS_ACKED = 1, 2, 4, 8, 16, 32
SACK_PERMITTED = b"\4\2"


def scale(shift: int) -> bytes:
    """The option of window scaling."""
    return bytes((3, 3, shift))


@pytest.fixture
def wire(kernel: KernelUnderTest) -> Wire:
    return Wire(kernel)


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
    assert wire.ipv6().state(packet) == "INVALID"
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


# -------------------------------------------------------------------------------------------------------------- resets


@rule("TT-10")
def test_a_reset_where_the_other_side_stands(connection: Connection, clock: Clock) -> None:
    connection.open()
    assert (connection.b("R", 5001), connection.tcp_state, clock(connection.flow)) == ("ESTABLISHED", "CLOSE", "close")


@needs("near-resets-shorten")
@rule("TT-10")
def test_a_reset_that_is_only_near_shortens_the_time(connection: Connection, clock: Clock) -> None:
    connection.open()
    assert connection.b("R", 5101) == "ESTABLISHED"
    assert (connection.tcp_state, clock(connection.flow)) == ("ESTABLISHED", "close")


@rule("TT-10")
@pytest.mark.parametrize("seq", [4999, 5001 + 100_000], ids=["before", "far beyond"])
def test_a_reset_elsewhere_is_invalid(connection: Connection, clock: Clock, seq: int) -> None:
    connection.open()
    assert connection.b("R", seq) == "INVALID"
    assert (connection.tcp_state, clock(connection.flow)) == ("ESTABLISHED", "established")


@rule("TT-10")
def test_invalid_resets_can_be_let_pass(connection: Connection) -> None:
    connection.open().wire.set(tcp_ignore_invalid_rst=1)
    assert (connection.b("R", 4999), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")


@rule("TT-10")
def test_a_reset_behind_the_last_data_of_its_own_side(connection: Connection) -> None:
    connection.open().b("PA", 5001, 1001, data=bytes(19))
    assert (connection.b("R", 5020), connection.tcp_state) == ("ESTABLISHED", "CLOSE")


@rule("TT-10")
def test_a_connection_that_ends_is_reset_by_any(connection: Connection, clock: Clock) -> None:
    connection.open().a("FA", 1001, 5001)
    assert (connection.b("R", 1), connection.tcp_state, clock(connection.flow)) == ("ESTABLISHED", "CLOSE", "close")


@rule("TT-11")
@pytest.mark.parametrize("ack", [1001, 999], ids=["right", "near"])
def test_a_reset_answers_a_syn(connection: Connection, ack: int) -> None:
    watcher = connection.wire.listen()
    connection.a("S", 1000)
    assert (connection.b("RA", 0, ack), connection.there) == ("ESTABLISHED", False)
    assert kinds(watcher) == ["NEW", "DESTROY"]


@rule("TT-11")
def test_who_asked_takes_it_back(connection: Connection) -> None:
    connection.a("S", 1000)
    assert (connection.a("R", 1001), connection.there) == ("NEW", False)


@rule("TT-11")
def test_a_reset_that_removes_a_connection_passes(wire: Wire) -> None:
    Connection(wire).a("S", 1000)
    assert wire.kernel.receive(tcp(B, A, 80, 5000, "RA", 0, 1001)).fate is Fate.SENT


@rule("TT-8", "TT-11")
def test_who_asked_is_answered_by_no_syn_and_resets(connection: Connection) -> None:
    connection.a("S", 1000)
    connection.b("A", 7777, 555)
    assert (connection.a("R", 555), connection.tcp_state) == ("ESTABLISHED", "CLOSE")
    assert connection.flow.status == CONFIRMED | SEEN_REPLY


# ------------------------------------------------------------------------------------------ SYNs of connections that are there


@rule("TT-2", "TT-12")
def test_a_syn_in_the_midst_that_is_challenged(connection: Connection) -> None:
    a, b = connection.a, connection.b
    watcher = connection.wire.listen()
    connection.open()
    watcher.told()
    assert (a("S", 77_000), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")
    assert (b("A", 5001, 1001), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")
    assert (a("R", 1001), connection.tcp_state) == ("ESTABLISHED", "CLOSE")
    assert (a("S", 78_000), connection.tcp_state) == ("NEW", "SYN_SENT")
    assert kinds(watcher) == ["UPDATE", "DESTROY", "NEW"]


@rule("TT-3")
def test_a_syn_in_the_midst_that_is_answered(connection: Connection) -> None:
    a, b = connection.a, connection.b
    connection.open()
    a("S", 77_000)
    assert (b("SA", 90_000, 77_001), connection.tcp_state) == ("ESTABLISHED", "SYN_RECV")
    assert (a("A", 77_001, 90_001), connection.tcp_state) == ("ESTABLISHED", "ESTABLISHED")


@rule("TT-12")
def test_a_syn_in_the_midst_that_is_refused(connection: Connection) -> None:
    connection.open().a("S", 77_000)
    assert (connection.b("RA", 0, 77_001), connection.tcp_state) == ("ESTABLISHED", "CLOSE")


@rule("TT-12")
def test_a_challenge_is_not_the_last_acknowledgement(connection: Connection) -> None:
    connection.open().a("FA", 1001, 5001)
    connection.b("FA", 5001, 1002)
    assert connection.tcp_state == "LAST_ACK"
    connection.a("S", 77_000)
    assert (connection.b("A", 5002, 1002), connection.tcp_state) == ("ESTABLISHED", "LAST_ACK")


@rule("TT-12")
def test_without_a_syn_any_acknowledgement_is_the_last(connection: Connection) -> None:
    connection.open().a("FA", 1001, 5001)
    connection.b("FA", 5001, 1002)
    assert (connection.b("A", 5002, 1002), connection.tcp_state) == ("ESTABLISHED", "TIME_WAIT")


@rule("TT-2")
def test_a_syn_after_the_end_begins_anew(connection: Connection) -> None:
    a, b = connection.a, connection.b
    watcher = connection.wire.listen()
    connection.open().a("FA", 1001, 5001)
    b("FA", 5001, 1002)
    a("A", 1002, 5002)
    watcher.told()
    assert (a("S", 9000), connection.tcp_state, connection.flow.status) == ("NEW", "SYN_SENT", CONFIRMED)
    assert kinds(watcher) == ["DESTROY", "NEW"]


# --------------------------------------------------------------------------------------------------------------------- windows


@rule("TT-13")
@pytest.mark.parametrize(
    ("seq", "ack", "state"),
    [
        (1001 + 8192, 5001, "ESTABLISHED"),
        (1001 + 8192 + 1, 5001, "ESTABLISHED"),
        (1001 + 8192 + 70_000, 5001, "INVALID"),
        (1001, 5002, "INVALID"),
        (1001, 5001 - 65_999, "ESTABLISHED"),
    ],
    ids=["at the edge", "just over the edge", "far beyond", "acknowledges what nobody sent", "acknowledges what is old"],
)
def test_where_a_segment_may_stand(connection: Connection, seq: int, ack: int, state: str) -> None:
    assert connection.open().a("A", seq, ack) == state


def sent(connection: Connection) -> int:
    """A sends a lot, which B acknowledges; where they stand."""
    seq = 1001
    connection.open()
    for _ in range(8):
        connection.a("PA", seq, 5001, data=bytes(1400))
        seq += 1400
        connection.b("A", 5001, seq)
    return seq


@rule("TT-13")
@pytest.mark.parametrize(
    ("back", "size", "renewed"), [(8192, 1000, True), (8 * 1400, 100, False)], ids=["within a window", "more than a window"]
)
def test_data_that_is_sent_again(connection: Connection, clock: Clock, back: int, size: int, renewed: bool) -> None:
    seq = sent(connection)
    connection.reset_timeout(1000)
    assert connection.a("PA", seq - back, 5001, data=bytes(size)) == "ESTABLISHED"
    assert clock(connection.flow) == ("established" if renewed else "none of them")


@rule("TT-13")
@pytest.mark.parametrize(("back", "renewed"), [(65_999, True), (66_001, False)])
def test_old_acknowledgements(connection: Connection, clock: Clock, back: int, renewed: bool) -> None:
    seq = sent(connection)
    connection.reset_timeout(1000)
    assert connection.a("A", seq, 5001 - back) == "ESTABLISHED"
    assert clock(connection.flow) == ("established" if renewed else "none of them")


@rule("TT-13")
def test_a_small_window(connection: Connection) -> None:
    connection.open(window=100)
    assert connection.a("PA", 1001, 5001, data=bytes(100), window=100) == "ESTABLISHED"
    assert connection.a("PA", 1101, 5001, data=bytes(50), window=100) == "ESTABLISHED"
    assert connection.a("PA", 1551, 5001, data=bytes(50), window=100) == "INVALID"


@rule("TT-13")
def test_what_is_just_over_the_edge_does_not_count(connection: Connection, clock: Clock) -> None:
    connection.open()
    connection.reset_timeout(1000)
    assert connection.a("A", 1001 + 8192 + 1, 5001) == "ESTABLISHED"
    assert clock(connection.flow) == "none of them"


@rule("TT-13")
def test_a_scaled_window(connection: Connection) -> None:
    connection.open(window=10, options=scale(7))
    assert connection.b("PA", 5001, 1001, data=bytes(1280), window=10) == "ESTABLISHED"
    assert connection.b("PA", 5001 + 4 * 1280, 1001, data=bytes(100), window=10) == "INVALID"


@rule("TT-13")
def test_a_sack_beyond_what_was_sent(connection: Connection) -> None:
    connection.open(options=SACK_PERMITTED)
    block = b"\1\1\5\12" + struct.pack(">II", 3000, 4000)
    assert connection.b("A", 5001, 1001, options=block) == "INVALID"


@rule("TT-13")
def test_a_sack_that_nobody_permitted(connection: Connection) -> None:
    connection.open()
    block = b"\1\1\5\12" + struct.pack(">II", 3000, 4000)
    assert connection.b("A", 5001, 1001, options=block) == "ESTABLISHED"


@rule("TT-13")
def test_windows_need_not_be_looked_at(connection: Connection) -> None:
    connection.open().wire.set(tcp_be_liberal=1)
    assert connection.a("A", 1001 + 900_000, 5001) == "ESTABLISHED"
    assert connection.a("A", 1001, 999_999) == "ESTABLISHED"
    connection.wire.set(tcp_be_liberal=0)
    assert connection.a("A", 1001 + 900_000, 5001) == "INVALID"  # what passed has taught the tracker nothing


@rule("TT-13")
def test_numbers_wrap_around(connection: Connection) -> None:
    top = 1 << 32
    connection.a("S", top - 10)
    connection.b("SA", top - 20, top - 9)
    connection.a("A", top - 9, top - 19)
    assert connection.a("PA", top - 9, top - 19, data=bytes(100)) == "ESTABLISHED"
    assert connection.b("PA", top - 19, 91, data=bytes(100)) == "ESTABLISHED"
    assert connection.a("A", 91, 81) == "ESTABLISHED"
    assert connection.tcp_flags == (HAS_ACKED, HAS_ACKED)


# ------------------------------------------------------------------------------------------------------------- shorter times


@rule("TT-14")
def test_what_is_repeated_too_often_shortens_the_time(connection: Connection, clock: Clock) -> None:
    connection.open()
    seen = []
    for _ in range(5):
        connection.a("A", 1001, 5001, window=4000)
        seen.append(clock(connection.flow))
    assert seen == ["established"] * 3 + ["max_retrans"] * 2
    connection.a("A", 1001, 5001, window=4001)
    assert clock(connection.flow) == "established"


@rule("TT-14")
def test_how_often_that_is(connection: Connection, clock: Clock) -> None:
    connection.open().wire.set(tcp_max_retrans=1)
    for _ in range(2):
        connection.a("A", 1001, 5001, window=4000)
    assert clock(connection.flow) == "max_retrans"


@rule("TT-14")
def test_a_closed_window_shortens_the_time(connection: Connection, clock: Clock) -> None:
    connection.open().a("A", 1001, 5001, window=0)
    assert clock(connection.flow) == "max_retrans"


@rule("TT-14")
def test_nothing_makes_the_time_longer(connection: Connection) -> None:
    connection.wire.set(tcp_timeout_established=50)
    connection.open().a("PA", 1001, 5001, data=b"x")
    assert connection.flow.number(Cta.TIMEOUT) <= 50


@rule("TT-14")
@pytest.mark.parametrize("flags", ["FA", "RA"])
def test_both_sides_end_it_invalidly(connection: Connection, clock: Clock, flags: str) -> None:
    connection.open()
    assert (connection.b(flags, 5001 + 200_000, 1001), clock(connection.flow)) == ("INVALID", "established")
    assert (connection.a(flags, 1001 + 200_000, 5001), clock(connection.flow)) == ("INVALID", "unacknowledged")


@rule("TT-14")
def test_one_side_ends_it_invalidly_twice(connection: Connection, clock: Clock) -> None:
    connection.open()
    for _ in range(2):
        assert connection.b("FA", 5001 + 200_000, 1001) == "INVALID"
    assert clock(connection.flow) == "established"


@rule("TK-3")
def test_times_change_with_the_next_packet(connection: Connection, clock: Clock) -> None:
    connection.open().wire.set(tcp_timeout_established=500_000)
    assert clock(connection.flow) == "established"
    connection.a("A", 1001, 5001)
    assert connection.flow.number(Cta.TIMEOUT) > 400_000


@rule("TK-3")
def test_a_time_that_is_fixed(connection: Connection, clock: Clock) -> None:
    connection.open()
    assert connection.wire.asker.change(connection.key, u32(Cta.STATUS, CONFIRMED | SEEN_REPLY | ASSURED | FIXED_TIMEOUT)) == "ACK"
    connection.a("FA", 1001, 5001)
    assert (connection.tcp_state, clock(connection.flow)) == ("FIN_WAIT", "established")
