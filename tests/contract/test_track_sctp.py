"""SCTP: associations, their tags, and what is invalid. The table of states is in `test_track_tables.py`."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import ASSURED, CONFIRMED, SCTP, SEEN_REPLY, Cta, Ends
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.trackkit import A, B, Clock, Wire, chunk, ip, sctp, spoilt

DATA, INIT, INIT_ACK, _, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = range(12)
SHUTDOWN_COMPLETE = 14
CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED = range(1, 5)
TIMES = ("closed", "cookie_wait", "cookie_echoed", "established", "shutdown_sent", "shutdown_recd", "shutdown_ack_sent")
#: the tags of packets to A and to B
TO_A, TO_B = 0xAA, 0xBB


def begins(kind: int, tag: int) -> bytes:
    """INIT or INIT ACK, which say by which tag their sender wants to be known."""
    return chunk(kind, 0, struct.pack(">IIHHI", tag, 1000, 1, 1, 1))


def some_data() -> bytes:
    return chunk(DATA, 3, bytes(13))


class Association:
    """SCTP packets between port 5000 of A and port 80 of B."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.clock = Clock(wire, "sctp_timeout_", *TIMES, "heartbeat_sent")

    def a(self, *chunks: bytes, tag: int = TO_B) -> str:
        return self.wire.state(sctp(A, B, 5000, 80, tag, *chunks))

    def b(self, *chunks: bytes, tag: int = TO_A) -> str:
        return self.wire.state(sctp(B, A, 80, 5000, tag, *chunks))

    def open(self) -> Association:
        """Four packets."""
        assert self.a(begins(INIT, TO_A), tag=0) == "NEW"
        answers = [self.b(begins(INIT_ACK, TO_B)), self.a(chunk(COOKIE_ECHO)), self.b(chunk(COOKIE_ACK))]
        assert answers == ["ESTABLISHED"] * 3
        return self

    @property
    def info(self) -> tuple[int, ...]:
        """State, and the tags of packets to B and to A."""
        return tuple(self.wire.flow.inside(Cta.PROTOINFO, 3).numbers().values())


@pytest.fixture
def association(kernel: KernelUnderTest) -> Association:
    return Association(Wire(kernel))


@rule("TS-2")
def test_life_of_an_association(association: Association) -> None:
    a, b = association.a, association.b

    def now(state: str) -> tuple[object, ...]:
        flow = association.wire.flow
        return state, association.info, association.clock(flow), flow.status

    answered = CONFIRMED | SEEN_REPLY
    assured = answered | ASSURED
    assert now(a(begins(INIT, TO_A), tag=0)) == ("NEW", (CLOSED, 0, TO_A), "closed", CONFIRMED)
    assert now(b(begins(INIT_ACK, TO_B))) == ("ESTABLISHED", (COOKIE_WAIT, TO_B, TO_A), "cookie_wait", answered)
    assert now(a(chunk(COOKIE_ECHO))) == ("ESTABLISHED", (COOKIE_ECHOED, TO_B, TO_A), "cookie_echoed", answered)
    assert now(b(chunk(COOKIE_ACK))) == ("ESTABLISHED", (ESTABLISHED, TO_B, TO_A), "established", assured)
    assert now(a(some_data())) == ("ESTABLISHED", (ESTABLISHED, TO_B, TO_A), "established", assured)
    assert now(a(chunk(SHUTDOWN, 0, bytes(4))))[2:] == ("shutdown_sent", assured)
    assert now(b(chunk(SHUTDOWN_ACK)))[2:] == ("shutdown_ack_sent", assured)
    assert now(a(chunk(SHUTDOWN_COMPLETE))) == ("ESTABLISHED", (CLOSED, TO_B, TO_A), "closed", assured)
    assert association.wire.flow.ends == Ends(A, B, SCTP, (5000, 80))


@rule("TS-3")
@pytest.mark.parametrize(("tag", "state"), [(TO_B, "ESTABLISHED"), (TO_A, "INVALID"), (0, "INVALID")])
def test_packets_have_the_tag_of_their_direction(association: Association, tag: int, state: str) -> None:
    association.open()
    assert association.a(some_data(), tag=tag) == state


@rule("TS-3")
@pytest.mark.parametrize("kind", [ABORT, SHUTDOWN_COMPLETE])
@pytest.mark.parametrize(
    ("flags", "tag", "state"),
    [(0, TO_B, "ESTABLISHED"), (1, TO_A, "ESTABLISHED"), (0, TO_A, "INVALID"), (0, 0xCC, "INVALID"), (1, 0xCC, "INVALID")],
)
def test_an_end_may_have_the_tag_of_the_other_direction_and_say_so(
    association: Association, kind: int, flags: int, tag: int, state: str
) -> None:
    association.open()
    assert association.a(chunk(kind, flags), tag=tag) == state


@rule("TS-4")
@pytest.mark.parametrize(
    ("tag", "chunks"),
    [
        (5, [begins(INIT, 1)]),
        (0, [begins(INIT, 1), chunk(3)]),
        (7, [chunk(COOKIE_ECHO)]),
        (7, [chunk(ABORT)]),
        (7, [chunk(SHUTDOWN_COMPLETE)]),
        (7, [chunk(COOKIE_ACK)]),
        (7, [some_data()]),
        (7, []),
        (7, [struct.pack(">BBH", COOKIE_ECHO, 0, 0)]),
    ],
    ids=[
        "INIT with a tag",
        "INIT with another",
        "COOKIE ECHO",
        *("ABORT", "SHUTDOWN COMPLETE", "COOKIE ACK", "DATA"),
        "nothing",
        "a chunk of length 0",
    ],
)
def test_what_begins_no_association(association: Association, tag: int, chunks: list[bytes]) -> None:
    assert association.a(*chunks, tag=tag) == "INVALID"
    assert association.wire.flows == []


@rule("TS-4")
@pytest.mark.parametrize(("kind", "state"), [(HEARTBEAT, "heartbeat_sent"), (SHUTDOWN_ACK, "shutdown_ack_sent")])
def test_what_else_begins_an_association(association: Association, kind: int, state: str) -> None:
    assert association.a(chunk(kind), tag=TO_B) == "NEW"
    assert association.clock(association.wire.flow) == state


@rule("TS-4")
@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(COOKIE_ECHO), begins(INIT_ACK, 1)],
        [some_data(), chunk(COOKIE_ECHO)],
        [some_data(), chunk(COOKIE_ACK)],
        [chunk(SHUTDOWN_COMPLETE), chunk(3)],
        [struct.pack(">BBH", DATA, 0, 0)],
        [],
    ],
    ids=[
        "INIT ACK behind another",
        "COOKIE ECHO not first",
        "COOKIE ACK not first",
        "SHUTDOWN COMPLETE with another",
        "length 0",
        "nothing",
    ],
)
def test_packets_of_an_association_that_are_invalid(association: Association, chunks: list[bytes]) -> None:
    association.open()
    assert association.a(*chunks) == "INVALID"


@rule("TS-4")
def test_an_association_that_is_watched_from_its_midst(association: Association) -> None:
    """A heartbeat tells one tag, the answer the other."""
    assert association.a(chunk(HEARTBEAT), tag=TO_B) == "NEW"
    assert association.info[1:] == (TO_B, 0)
    assert association.b(chunk(HEARTBEAT_ACK), tag=TO_A) == "ESTABLISHED"
    assert association.info == (ESTABLISHED, TO_B, TO_A)
    assert association.b(some_data(), tag=0xCC) == "INVALID"


@rule("TS-4", "TK-1")
@pytest.mark.parametrize(
    "packet",
    [
        spoilt(sctp(A, B, 5000, 80, 0, begins(INIT, 1)), 30),
        ip(A, B, SCTP, struct.pack(">HHI", 5000, 80, 0)),
        ip(A, B, SCTP, b"\0\1"),
    ],
    ids=["checksum", "8 bytes", "2 bytes"],
)
def test_invalid_packets(association: Association, packet: bytes) -> None:
    assert association.wire.state(packet) == "INVALID"


@rule("TS-2")
def test_an_init_that_is_sent_again_does_not_prolong(association: Association) -> None:
    association.a(begins(INIT, TO_A), tag=0)
    association.wire.set(sctp_timeout_closed=50_000)
    assert association.a(begins(INIT, TO_A), tag=0) == "NEW"
    assert association.clock(association.wire.flow) == "closed"
