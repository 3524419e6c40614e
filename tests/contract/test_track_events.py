"""What is told of flows that packets make and change; what of packets is counted."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import ASSURED, CONFIRMED, DYING, SEEN_REPLY, TCP, Asker, Cta, Told, events, tuple_, u32
from tests.contract.rules import needs, rule
from tests.contract.trackkit import TCP_STATES, A, B, Connection, Wire, chunk, icmp, kinds, sctp, spoilt, tcp, udp
from tests.contract.wirekit import nothing_to_receive

ALWAYS = "TUPLE_ORIG TUPLE_REPLY ID STATUS TIMEOUT"
THERE, BACK = udp(A, B), udp(B, A, 53, 5000)
ANSWERED = CONFIRMED | SEEN_REPLY


@pytest.fixture
def watcher(wire: Wire) -> Asker:
    """Somebody who hears of all that happens to flows, from before there are any."""
    return wire.listen()


def tcp_state(event: Told) -> str:
    return TCP_STATES[event.inside(Cta.PROTOINFO, 1).number(1)]


# ---------------------------------------------------------------------------------------------------------------------- events


@rule("TV-1")
def test_every_packet_of_a_connection_has_one_event_or_none(wire: Wire, watcher: Asker) -> None:
    connection = Connection(wire)
    a, b = connection.a, connection.b

    def told(_: str) -> list[tuple[str, str, str, int]]:
        return [(event.kind, event.names.removeprefix(ALWAYS), tcp_state(event), event.status) for event in watcher.told()]

    assured = ANSWERED | ASSURED
    assert told(a("S", 1000)) == [("NEW", " PROTOINFO", "SYN_SENT", CONFIRMED)]
    assert told(a("S", 1000)) == []
    assert told(b("SA", 5000, 1001)) == [("UPDATE", " PROTOINFO", "SYN_RECV", ANSWERED)]
    assert told(a("A", 1001, 5001)) == [("UPDATE", " PROTOINFO", "ESTABLISHED", assured)]
    assert told(a("PA", 1001, 5001, data=b"hello")) == []
    assert told(b("A", 5001, 1006)) == []
    assert told(a("FA", 1006, 5001)) == [("UPDATE", " PROTOINFO", "FIN_WAIT", assured)]
    assert told(b("A", 5001, 1007)) == [("UPDATE", " PROTOINFO", "CLOSE_WAIT", assured)]
    assert told(b("FA", 5001, 1007)) == [("UPDATE", " PROTOINFO", "LAST_ACK", assured)]
    assert told(a("A", 1007, 5002)) == [("UPDATE", " PROTOINFO", "TIME_WAIT", assured)]
    assert told(a("A", 1007, 5002)) == []
    assert told(a("R", 1007)) == [("UPDATE", " PROTOINFO", "CLOSE", assured)]


@rule("TV-1")
def test_heads_of_events_of_packets(wire: Wire, watcher: Asker) -> None:
    wire.states(THERE, BACK)
    assert [(event.type, event.flags, event.seq, event.pid, event.family) for event in watcher.told()] == [
        (0x100, 0x600, 0, 0, 2),
        (0x100, 0, 0, 0, 2),
    ]


@needs("ends-tell-time-and-state")
@rule("TV-1")
def test_what_is_told_of_a_connection_that_goes(wire: Wire, watcher: Asker) -> None:
    connection = Connection(wire).open()
    watcher.told()
    assert wire.asker.delete(connection.key) == "ACK"
    [event] = watcher.told()
    assert (event.kind, event.names, event.status) == ("DESTROY", f"{ALWAYS} PROTOINFO", ANSWERED | ASSURED | DYING)
    assert event.inside(Cta.PROTOINFO, 1).numbers() == {1: 3}


@rule("TV-1")
def test_what_is_told_of_a_connection_that_is_refused(wire: Wire, watcher: Asker) -> None:
    connection = Connection(wire)
    connection.a("S", 1000)
    connection.b("RA", 0, 1001)
    new, gone = watcher.told()
    assert (new.kind, gone.kind, tcp_state(gone), gone.status) == ("NEW", "DESTROY", "CLOSE", CONFIRMED | DYING)


@rule("TV-2")
@pytest.mark.parametrize(
    ("there", "back"),
    [(THERE, BACK), (icmp(8), icmp(0, source=B, destination=A))],
    ids=["UDP", "ICMP"],
)
def test_a_flow_is_told_twice(wire: Wire, watcher: Asker, there: bytes, back: bytes) -> None:
    """With its first packet, and with its first answer."""
    wire.states(there, there, back, back, there)
    assert [(event.kind, event.names, event.status) for event in watcher.told()] == [
        ("NEW", ALWAYS, CONFIRMED),
        ("UPDATE", ALWAYS, ANSWERED),
    ]


@rule("TV-2")
def test_that_a_flow_has_become_a_stream_is_told(wire: Wire, watcher: Asker) -> None:
    wire.states(THERE, BACK)
    wire.pass_time(2.1)
    watcher.told()
    wire.states(THERE, BACK)
    assert [(event.kind, event.names, event.status) for event in watcher.told()] == [("UPDATE", ALWAYS, ANSWERED | ASSURED)]


@rule("TV-2")
def test_what_is_told_of_an_association(wire: Wire, watcher: Asker) -> None:
    wire.state(sctp(A, B, 5000, 80, 0, chunk(1, 0, struct.pack(">IIHHI", 0xABCD, 1000, 1, 1, 1))))
    [event] = watcher.told()
    assert (event.kind, event.names) == ("NEW", f"{ALWAYS} PROTOINFO")
    assert event.inside(Cta.PROTOINFO, 3).numbers() == {1: 1, 2: 0, 3: 0xABCD}
    assert wire.asker.delete() == "ACK"
    [event] = watcher.told()
    assert event.inside(Cta.PROTOINFO, 3).numbers() == {1: 1}


@rule("TV-2")
def test_of_invalid_packets_nothing_is_told(wire: Wire, watcher: Asker) -> None:
    wire.states(spoilt(THERE, 26, size=2), icmp(0), tcp(A, B, 5000, 80, "FA", 1, 1))
    assert nothing_to_receive(watcher)


@rule("TV-3")
def test_a_first_packet_that_does_not_get_through_leaves_nothing(wire: Wire, watcher: Asker) -> None:
    wire.kernel.iptables("-A FORWARD -p udp -j DROP")
    assert wire.states(THERE, THERE) == ["NEW", "NEW"]
    assert wire.flows == []
    assert nothing_to_receive(watcher)


@rule("TV-3")
def test_what_a_lost_packet_did_is_told_with_the_next_one(wire: Wire, watcher: Asker) -> None:
    wire.kernel.iptables("-A FORWARD -p udp --sport 53 -j DROP")
    wire.state(THERE)
    watcher.told()
    assert wire.state(BACK) == "ESTABLISHED"
    assert nothing_to_receive(watcher)
    assert wire.flow.status == ANSWERED
    assert wire.state(THERE) == "ESTABLISHED"
    assert [(event.kind, event.status) for event in watcher.told()] == [("UPDATE", ANSWERED)]


@rule("TV-3")
def test_states_that_were_lost_are_told_as_one(wire: Wire, watcher: Asker) -> None:
    connection = Connection(wire).open()
    watcher.told()
    wire.kernel.iptables("-A FORWARD -p tcp --tcp-flags FIN FIN -j DROP")
    connection.a("FA", 1001, 5001)
    connection.b("FA", 5001, 1002)
    assert nothing_to_receive(watcher)
    connection.a("A", 1002, 5002)
    assert [(event.kind, tcp_state(event)) for event in watcher.told()] == [("UPDATE", "TIME_WAIT")]


@rule("TV-4")
def test_marks_that_rules_give(wire: Wire, watcher: Asker) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p udp -j CONNMARK --set-mark 0x55")
    wire.state(THERE)
    [event] = watcher.told()
    assert (event.kind, event.names, event.mark) == ("NEW", f"{ALWAYS} MARK", 0x55)
    wire.state(THERE)
    assert nothing_to_receive(watcher)
    assert wire.asker.change(tuple_(Cta.TUPLE_ORIG, A, B, 17, 5000, 53), u32(Cta.MARK, 7)) == "ACK"
    watcher.told()
    wire.state(THERE)
    [event] = watcher.told()
    assert (event.kind, event.names, event.mark) == ("UPDATE", f"{ALWAYS} MARK", 0x55)


@rule("TV-4")
def test_marks_stay_with_the_flow_and_are_told_with_answers(wire: Wire, watcher: Asker) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p udp --sport 53 -j CONNMARK --set-mark 7")
    wire.states(THERE, BACK)
    assert events(watcher.told()) == [("NEW", ALWAYS), ("UPDATE", f"{ALWAYS} MARK")]


# -------------------------------------------------------------------------------------------------------------------- counters


@pytest.fixture
def counting(wire: Wire) -> Wire:
    wire.set(acct=1)
    return wire


def counters(flow: Told) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Packets and bytes, there and back."""
    there, back = (tuple(flow.inside(part).numbers().values()) for part in (Cta.COUNTERS_ORIG, Cta.COUNTERS_REPLY))
    return there, back


@rule("TV-5")
def test_every_packet_counts_with_its_length(counting: Wire) -> None:
    counting.states(udp(data=bytes(10)), udp(data=bytes(20)), udp(B, A, 53, 5000, bytes(100)))
    assert counters(counting.flow) == ((2, 86), (1, 128))


@rule("TV-5")
def test_of_ipv6_the_header_counts_too(counting: Wire) -> None:
    packet = udp("2001:db8:a::1", "2001:db8:b::1", data=bytes(10))
    counting.ipv6().state(packet)
    assert counters(counting.flow) == ((1, len(packet)), (0, 0))


@rule("TV-5")
def test_segments_that_do_not_count(counting: Wire) -> None:
    """A SYN sent again, what is ignored, what is invalid."""
    connection = Connection(counting)
    connection.a("S", 1000)
    connection.a("S", 1000)
    assert counters(connection.flow) == ((1, 40), (0, 0))
    connection.b("A", 5, 1001)
    assert counters(connection.flow) == ((1, 40), (0, 0))
    connection.b("SA", 5000, 1001)
    connection.a("A", 1001, 5001)
    connection.a("A", 1001 + 200_000, 5001)
    connection.a("S", 77_000)
    assert counters(connection.flow) == ((2, 80), (1, 40))


@rule("TV-5")
def test_a_flow_made_while_nobody_counted(wire: Wire) -> None:
    wire.state(THERE)
    wire.set(acct=1)
    wire.state(THERE)
    assert Cta.COUNTERS_ORIG not in wire.flow
    assert kinds(wire.listen()) == []


@rule("TV-5")
def test_a_flow_goes_on_counting(counting: Wire) -> None:
    counting.state(THERE)
    counting.set(acct=0)
    counting.state(THERE)
    assert counters(counting.flow)[0][0] == 2


@rule("TV-5", "TK-3")
def test_what_does_not_prolong_counts_where_the_time_is_fixed(counting: Wire) -> None:
    connection = Connection(counting).open()
    assert counting.asker.change(connection.key, u32(Cta.STATUS, ANSWERED | ASSURED | 0x400)) == "ACK"
    connection.a("A", 1001, 5001)
    assert counters(connection.flow)[0] == (3, 120)


@rule("TV-6")
def test_when_a_flow_began_and_ended(wire: Wire, watcher: Asker) -> None:
    wire.set(timestamp=1)
    wire.state(tcp(A, B, 5000, 80, "S", 1))
    assert list(wire.flow.inside(Cta.TIMESTAMP)) == [1]
    assert wire.asker.delete(tuple_(Cta.TUPLE_ORIG, A, B, TCP, 5000, 80)) == "ACK"
    new, gone = watcher.told()
    assert Cta.TIMESTAMP not in new
    start, stop = gone.inside(Cta.TIMESTAMP).numbers().values()
    assert 0 < start <= stop
