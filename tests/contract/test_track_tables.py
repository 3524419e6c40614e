"""The tables of states of TCP and SCTP, cell by cell, against recordings of Linux 6.18: every packet in every state, both ways.

A program puts a flow into the state, a packet comes by; what it was to the tracker, and the state and timeout of the flow tell.
"""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import pytest

from tests.contract import ctkit
from tests.contract.ctkit import ASSURED, CONFIRMED, SCTP, SEEN_REPLY, TCP, Cta, Told, nest, tcp_flags, tuple_, u8, u32
from tests.contract.rules import rule
from tests.contract.trackkit import TCP_STATES, TCP_TIMES, A, B, Clock, Wire, chunk, sctp, tcp

Row = dict[str, str]
FIXTURES = Path(__file__).parents[2] / "fixtures/conntrack"
#: a timeout that nothing sets
UNTOUCHED = 4000
ALIVE = u32(Cta.STATUS, CONFIRMED | SEEN_REPLY | ASSURED) + u32(Cta.TIMEOUT, UNTOUCHED)


def recorded(name: str, *columns: str) -> dict[str, list[Row]]:
    """The cells of a table by direction and packet."""
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Row]] = {}
    for row in csv.DictReader([line for line in lines if not line.startswith("#")], delimiter="\t"):
        found.setdefault(" ".join(row[column] for column in columns), []).append(row)
    return found


TCP_ROWS = recorded("tcp-transitions.tsv", "direction", "packet")
SCTP_ROWS = recorded("sctp-transitions.tsv", "direction", "chunk")


def test_the_tables_are_whole() -> None:
    assert [len(row) for row in TCP_ROWS.values()] == [10] * 12
    assert [len(row) for row in SCTP_ROWS.values()] == [9] * 22


# ------------------------------------------------------------------------------------------------------------------------- TCP

FLAGS = {"SYN": "S", "SYNACK": "SA", "FIN": "FA", "ACK": "A", "RST": "R", "NONE": "P"}


def segment(direction: str, flags: str, port: int, ack: int) -> bytes:
    """From A to B, or the other way."""
    ends = (A, B, port, 80) if direction == "original" else (B, A, 80, port)
    return tcp(*ends, flags, 5000, ack)


class Cells:
    """TCP flows that a program puts into a state, with no history of their windows; each has a port of its own."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.clock = Clock(wire, "tcp_timeout_", *TCP_TIMES)
        self.port = 2000

    def make(self, state: str, flags: int = 0) -> None:
        """The next flow."""
        self.port += 1
        inner = ctkit.tcp(u8(1, TCP_STATES.index(state)), tcp_flags(4, flags, 0xFF), tcp_flags(5, 0, 0xFF))
        assert self.wire.asker.make(ctkit.tuple_(Cta.TUPLE_ORIG, A, B, TCP, self.port, 80), self._back, ALIVE, inner) == "ACK"

    @property
    def _back(self) -> bytes:
        return tuple_(Cta.TUPLE_REPLY, B, A, TCP, 80, self.port)

    def look(self) -> tuple[str, str]:
        """State and timeout of the flow: ``"untouched"``, the name of one, or ``"120 s"``."""
        flow = self.wire.asker.fetch(tuple_(Cta.TUPLE_ORIG, A, B, TCP, self.port, 80))
        return TCP_STATES[flow.inside(Cta.PROTOINFO, 1).number(1)], timeout(flow, self.clock)

    def try_(self, row: Row) -> tuple[str, str, str]:
        """What a packet is in a state, and what it makes of it."""
        self.make(row["old_state"])
        acks = row["packet"] in ("ACK", "FIN") or (row["packet"] == "SYNACK" and row["effect"] == "IGNORE")
        packet = segment(row["direction"], FLAGS[row["packet"]], self.port, 7000 if acks else 0)
        return (self.wire.state(packet), *self.look())


def timeout(flow: Told, clock: Clock) -> str:
    """The name of its timeout; that of SYN_SENT2 has none, and is two minutes."""
    seconds = flow.number(Cta.TIMEOUT)
    if seconds <= 120:
        return "syn_sent2"
    return "untouched" if seconds <= UNTOUCHED else clock(flow)


@pytest.fixture
def cells(wire: Wire) -> Cells:
    return Cells(wire)


def expected(row: Row) -> tuple[str, str, str]:
    """What was recorded."""
    time = row["new_state"].lower() if row["effect"] == "ACCEPT" else "untouched"
    return row["seen_ctstate"], row["seen_state"], time


@rule("TT-1")
@pytest.mark.parametrize("name", TCP_ROWS)
def test_every_segment_in_every_state(cells: Cells, name: str) -> None:
    rows = TCP_ROWS[name]
    assert {row["old_state"]: cells.try_(row) for row in rows} == {row["old_state"]: expected(row) for row in rows}


@rule("TT-2")
@pytest.mark.parametrize("state", ["TIME_WAIT", "CLOSE"])
def test_a_syn_begins_anew_what_somebody_has_closed(cells: Cells, state: str) -> None:
    watcher = cells.wire.listen()
    cells.make(state, flags=4)
    watcher.told()
    assert cells.wire.state(segment("original", "S", cells.port, 0)) == "NEW"
    assert [event.kind for event in watcher.told()] == ["DESTROY", "NEW"]
    assert cells.look() == ("SYN_SENT", "syn_sent")


@rule("TT-2")
def test_a_syn_of_the_other_side_begins_anew_what_waits_only(cells: Cells) -> None:
    cells.make("TIME_WAIT", flags=4)
    assert cells.wire.state(segment("reply", "S", cells.port, 0)) == "NEW"
    assert cells.wire.flow.ends[:2] == (B, A)
    cells.make("CLOSE", flags=4)
    assert cells.wire.state(segment("reply", "S", cells.port, 0)) == "INVALID"


@rule("TT-3")
@pytest.mark.parametrize("state", ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"])
def test_an_answer_to_a_syn_that_was_ignored_brings_a_flow_in_step_again(cells: Cells, state: str) -> None:
    """A flow made by a program remembers a SYN that ends at 0."""
    cells.make(state)
    assert cells.wire.state(segment("reply", "SA", cells.port, 0)) == "ESTABLISHED"
    assert cells.look() == ("SYN_RECV", "syn_recv")


# ------------------------------------------------------------------------------------------------------------------------ SCTP

CHUNKS = {
    "INIT": 1,
    "INIT_ACK": 2,
    "ABORT": 6,
    "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8,
    "ERROR": 9,
    "COOKIE_ECHO": 10,
    "COOKIE_ACK": 11,
    "SHUTDOWN_COMPLETE": 14,
    "HEARTBEAT": 4,
    "HEARTBEAT_ACK": 5,
}
SCTP_STATES = (
    *("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT"),
    "HEARTBEAT_SENT",
)
SCTP_TIMES = tuple(name.lower() for name in SCTP_STATES[1:])
#: the tags of packets of A and of B
TAGS = {"original": 0x11, "reply": 0x22}


def try_sctp(wire: Wire, clock: Clock, port: int, row: Row) -> tuple[str, str, str]:
    """What a packet is in a state, and what it makes of it."""
    there = tuple_(Cta.TUPLE_ORIG, A, B, SCTP, port, 9)
    tags = u32(2, TAGS["original"]) + u32(3, TAGS["reply"])
    state = nest(Cta.PROTOINFO, nest(3, u8(1, SCTP_STATES.index(row["old_state"])), tags))
    assert wire.asker.make(there, tuple_(Cta.TUPLE_REPLY, B, A, SCTP, 9, port), ALIVE, state) == "ACK"

    direction = row["direction"]
    tag, peers = (TAGS[name] for name in (("original", "reply") if direction == "original" else ("reply", "original")))
    body = struct.pack(">IIHHI", peers, 1000, 1, 1, 1) if row["chunk"] in ("INIT", "INIT_ACK") else b""
    ends = (A, B, port, 9) if direction == "original" else (B, A, 9, port)
    seen = wire.state(sctp(*ends, 0 if row["chunk"] == "INIT" else tag, chunk(CHUNKS[row["chunk"]], 0, body)))
    flow = wire.asker.fetch(there)
    return seen, SCTP_STATES[flow.inside(Cta.PROTOINFO, 3).number(1)], timeout(flow, clock)


def expected_sctp(row: Row) -> tuple[str, str, str]:
    """What was recorded. A repeated INIT renews nothing."""
    touched = row["seen_timeout"] != "7776"
    return row["seen_ctstate"], row["seen_state"], row["new_state"].lower() if touched else "untouched"


@rule("TS-1")
@pytest.mark.parametrize("name", SCTP_ROWS)
def test_every_chunk_in_every_state(wire: Wire, name: str) -> None:
    clock = Clock(wire, "sctp_timeout_", *SCTP_TIMES)
    rows = SCTP_ROWS[name]
    seen = {row["old_state"]: try_sctp(wire, clock, port, row) for port, row in enumerate(rows, 2000)}
    assert seen == {row["old_state"]: expected_sctp(row) for row in rows}
