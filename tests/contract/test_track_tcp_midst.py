"""TCP in the midst of connections: resets, SYNs of connections that are there, windows, and what makes their time shorter."""

from __future__ import annotations

import struct

import pytest

from nfnl.sim.journey import Fate
from tests.contract.ctkit import ASSURED, CONFIRMED, FIXED_TIMEOUT, SEEN_REPLY, Cta, u32
from tests.contract.rules import needs, rule
from tests.contract.trackkit import HAS_ACKED, SACK_PERMITTED, TCP_TIMES, A, B, Clock, Connection, Wire, kinds, scale, tcp


@pytest.fixture
def clock(wire: Wire) -> Clock:
    return Clock(wire, "tcp_timeout_", *TCP_TIMES)


@pytest.fixture
def connection(wire: Wire, clock: Clock) -> Connection:
    return Connection(wire)


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
        (1001 + 8192 + 8191, 5001, "ESTABLISHED"),
        (1001 + 8192 + 8192, 5001, "INVALID"),
        (1001 + 8192 + 70_000, 5001, "INVALID"),
        (1001, 5002, "INVALID"),
        (1001, 5001 - 65_999, "ESTABLISHED"),
    ],
    ids=[
        *("at the edge", "just over the edge", "a window over the edge", "more than a window", "far beyond"),
        *("acknowledges what nobody sent", "acknowledges what is old"),
    ],
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


@rule("TT-15")
def test_after_a_while_without_tracking_the_tracker_learns_anew(connection: Connection) -> None:
    """Where both sides stand it takes from what comes next."""
    connection.open()
    assert connection.a("A", 900_001, 800_001) == "INVALID"
    connection.wire.look_away()
    assert connection.a("A", 900_001, 800_001) == "ESTABLISHED"
    assert connection.b("A", 800_001, 900_001) == "ESTABLISHED"
    assert connection.a("A", 1001, 5001 + 900_000) == "INVALID"


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
