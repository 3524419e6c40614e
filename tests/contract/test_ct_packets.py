"""What conntrack tells of packets: events of flows that packets make, their counters, expectations that they meet."""

from __future__ import annotations

import socket
import struct

import pytest

from nfnl.packets import repair
from nfnl.sim.journey import Fate, Journey
from nfnl.wire.constants import Group, SocketOption
from tests.contract.ctkit import (
    CONFIRMED,
    DUMP,
    EXP,
    EXPECTED,
    GET,
    GET_CTRZERO,
    GET_STATS,
    GET_STATS_CPU,
    GET_UNCONFIRMED,
    ICMP,
    LIFE,
    NEW,
    TCP,
    UDP,
    Asker,
    Cta,
    Ends,
    Exp,
    Told,
    address,
    ends,
    events,
    helper,
    name,
    nest,
    request,
    tuple_,
    u16,
    u32,
    watch,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import Listener, attribute

A, B, NAT = "10.0.0.2", "10.0.9.2", "10.0.9.77"
ALWAYS = "TUPLE_ORIG TUPLE_REPLY ID STATUS TIMEOUT"
DUMPED = "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(1, 9)
PREFIX = "net.netfilter.nf_conntrack_"


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A packet with right checksums."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    return repair(head + socket.inet_aton(source) + socket.inet_aton(destination) + payload, udp_checksum=True)


def sent(journey: Journey) -> bytes | None:
    """What left this machine."""
    return journey.data if journey.fate is Fate.SENT else None


class Wire:
    """Two hosts with this machine between them: A behind eth0, and B behind eth1."""

    def __init__(self, kernel: KernelUnderTest) -> None:
        self.kernel = kernel
        kernel.add_device("eth1")
        kernel.track()
        self.asker = Asker(kernel)
        self.watcher = watch(kernel)

    def send(self, protocol: int, payload: bytes, *, back: bool = False, to: str | None = None) -> bytes | None:
        """A packet from A to B, or back; what leaves on the other side."""
        source, destination = (B, A) if back else (A, B)
        devices = ("eth1", "eth0") if back else ("eth0", "eth1")
        return sent(self.kernel.forward(ipv4(source, to or destination, protocol, payload), *devices))

    def udp(self, port: int = 53, data: bytes = b"x", *, back: bool = False, source: int = 5000, **where: str) -> bytes | None:
        """A UDP datagram from A to a port of B, or back."""
        here, there = (port, source) if back else (source, port)
        return self.send(UDP, struct.pack(">HHHH", here, there, 8 + len(data), 0) + data, back=back, **where)

    def tcp(
        self,
        flags: int,
        seq: int,
        ack: int = 0,
        data: bytes = b"",
        *,
        back: bool = False,
        source: int = 5000,
        port: int = 80,
        **where: str,
    ) -> bytes | None:
        """A segment from A to a port of B, or back."""
        here, there = (port, source) if back else (source, port)
        header = struct.pack(">HHIIBBHHH", here, there, seq, ack, 0x50, flags, 8192, 0, 0)
        return self.send(TCP, header + data, back=back, **where)

    def ping(self, kind: int = 8, *, back: bool = False) -> bytes | None:
        """An echo request from A, or the reply."""
        return self.send(ICMP, struct.pack(">BBHHH", kind, 0, 0, 7, 1), back=back)

    def handshake(self, source: int = 5000, port: int = 80) -> None:
        """A connection."""
        self.tcp(SYN, 1000, source=source, port=port)
        self.tcp(SYN | ACK, 5000, 1001, back=True, source=source, port=port)
        self.tcp(ACK, 1001, 5001, source=source, port=port)

    def told(self) -> list[tuple[str, str]]:
        """Kind and attributes of the events that have come; none of them was caused by a program."""
        told = self.watcher.told()
        assert {(event.pid, event.seq) for event in told} <= {(0, 0)}
        return events(told)

    def states(self) -> list[tuple[str, int, int]]:
        """Kind, TCP state and status of the events that have come."""
        return [(event.kind, event.inside(Cta.PROTOINFO, 1).number(1), event.status) for event in self.watcher.told()]


@pytest.fixture
def wire(kernel: KernelUnderTest) -> Wire:
    """Two hosts with this machine between them."""
    return Wire(kernel)


def passed(packet: bytes | None) -> tuple[str, str, int, int]:
    """Addresses and ports of what was sent."""
    assert packet is not None
    return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), *struct.unpack_from(">HH", packet, 20)


# --------------------------------------------------------------------------------------------------------------- when at all


@rule("C7-43")
def test_without_a_rule_that_needs_it_nothing_is_tracked(kernel: KernelUnderTest) -> None:
    kernel.add_device("eth1")
    watcher, asker = watch(kernel), Asker(kernel)
    datagram = ipv4(A, B, UDP, struct.pack(">HHHH", 5000, 53, 9, 0) + b"x")
    assert sent(kernel.forward(datagram, "eth0", "eth1"))
    assert asker.dump() == []
    assert asker.make(tuple_(1, A, B, UDP, 5000, 53), tuple_(2, B, A, UDP, 53, 5000), LIFE) == "ACK"
    assert sent(kernel.forward(ipv4(B, A, UDP, struct.pack(">HHHH", 53, 5000, 9, 0) + b"x"), "eth1", "eth0"))
    assert asker.only().status == CONFIRMED, "packets do not touch it"
    assert [event.kind for event in watcher.told()] == ["NEW"]


@rule("CTPKT-1")
def test_a_rule_that_needs_it_switches_it_on_and_off(wire: Wire) -> None:
    wire.udp()
    assert len(wire.asker.dump()) == 1
    wire.kernel.iptables("-F FORWARD")
    assert wire.asker.delete() == "ACK"
    wire.udp()
    assert wire.asker.dump() == []


# -------------------------------------------------------------------------------------------------------------------- events


@rule("CTPKT-2")
def test_a_flow_of_udp(wire: Wire) -> None:
    wire.udp()
    [event] = wire.watcher.told()
    assert (event.kind, event.names, event.status, event.pid) == ("NEW", ALWAYS, CONFIRMED, 0)
    assert event.number(Cta.TIMEOUT) in (29, 30)
    assert wire.asker.only().names == DUMPED
    wire.udp(back=True)
    assert wire.told() == [("UPDATE", ALWAYS)]
    wire.udp()
    wire.udp(back=True)
    assert wire.told() == []


@needs("ends-tell-time-and-state")
@rule("CTPKT-2")
def test_the_end_of_a_flow_of_udp(wire: Wire) -> None:
    wire.udp()
    wire.watcher.told()
    assert wire.asker.delete() == "ACK"
    assert events(wire.watcher.told()) == [("DESTROY", ALWAYS)]


@rule("CTPKT-3")
def test_a_connection_of_tcp(wire: Wire) -> None:
    told = []
    for segment in (
        (SYN, 1000, 0, False),
        (SYN | ACK, 5000, 1001, True),
        (ACK, 1001, 5001, False),
        (ACK | PSH, 1001, 5001, False),
        (FIN | ACK, 1001, 5001, False),
        (ACK, 5001, 1002, True),
        (FIN | ACK, 5001, 1002, True),
        (ACK, 1002, 5002, False),
        (ACK, 1002, 5002, False),
    ):
        flags, seq, ack, back = segment
        wire.tcp(flags, seq, ack, back=back)
        told.append(wire.states())
    assert told == [
        [("NEW", SYN_SENT, 0x8)],
        [("UPDATE", SYN_RECV, 0xA)],
        [("UPDATE", ESTABLISHED, 0xE)],
        [],
        [("UPDATE", FIN_WAIT, 0xE)],
        [("UPDATE", CLOSE_WAIT, 0xE)],
        [("UPDATE", LAST_ACK, 0xE)],
        [("UPDATE", TIME_WAIT, 0xE)],
        [],
    ]


@rule("CTPKT-3")
def test_what_events_of_a_connection_have(wire: Wire) -> None:
    wire.handshake()
    assert wire.told() == [("NEW", f"{ALWAYS} PROTOINFO"), ("UPDATE", f"{ALWAYS} PROTOINFO"), ("UPDATE", f"{ALWAYS} PROTOINFO")]
    assert wire.asker.only().names == f"{DUMPED} PROTOINFO"


@rule("CTPKT-3")
def test_a_connection_that_is_refused(wire: Wire) -> None:
    wire.tcp(SYN, 1000)
    wire.tcp(SYN, 1000)
    assert wire.states() == [("NEW", SYN_SENT, 0x8)]
    wire.tcp(RST | ACK, 0, 1001, back=True)
    assert wire.states() == [("DESTROY", CLOSE, 0x208)]
    assert wire.asker.dump() == []


@rule("CTPKT-4")
def test_a_ping(wire: Wire) -> None:
    wire.ping()
    wire.ping(0, back=True)
    assert wire.told() == [("NEW", ALWAYS), ("UPDATE", ALWAYS)]
    wire.ping()
    wire.ping(0, back=True)
    assert wire.told() == []
    assert wire.asker.only().ends == Ends(A, B, ICMP, (7, 8, 0))


@rule("CTPKT-5")
def test_a_packet_that_is_dropped_on_its_way_leaves_nothing(wire: Wire) -> None:
    wire.kernel.iptables("-A FORWARD -p udp --dport 99 -j DROP")
    wire.udp(99)
    assert wire.told() == []
    assert wire.asker.dump() == []
    [stats] = wire.asker.say(request(GET_STATS)).told
    assert stats.number(1) == 0


@needs("unconfirmed-unlisted")
@rule("CTPKT-5", "C7-36")
def test_a_packet_in_a_queue_is_counted_and_not_listed(wire: Wire) -> None:
    wire.kernel.iptables("-A FORWARD -p udp --dport 99 -j NFQUEUE --queue-num 1")
    listener = Listener(wire.kernel)
    wire.udp(99)
    assert wire.asker.dump() == wire.asker.dump(operation=GET_UNCONFIRMED) == []
    [stats] = wire.asker.say(request(GET_STATS)).told
    assert stats.number(1) == 1
    assert wire.asker.delete() == "ACK"
    assert wire.told() == []
    listener.decide(listener.packet())
    assert wire.told() == [("NEW", ALWAYS)]


@rule("CTPKT-6")
def test_marks_that_rules_set(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p udp --dport 77 -j CONNMARK --set-mark 0x55")
    wire.udp(77)
    [event] = wire.watcher.told()
    assert (event.kind, event.names, event.mark) == ("NEW", f"{ALWAYS} MARK", 0x55)
    wire.udp(77)
    assert wire.told() == [], "the same again is no change"
    flow = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 77)
    assert wire.asker.change(flow, u32(Cta.MARK, 0)) == "ACK"
    [event] = wire.watcher.told()
    assert (event.kind, event.names, event.mark) == ("UPDATE", f"{ALWAYS} MARK", 0)
    wire.udp(77)
    [event] = wire.watcher.told()
    assert (event.kind, event.names, event.mark) == ("UPDATE", f"{ALWAYS} MARK", 0x55)


@rule("CTPKT-6")
def test_labels_that_rules_set(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p udp --dport 78 -m connlabel --label 2 --set")
    for _ in range(2):
        wire.udp(78)
    [event] = wire.watcher.told()
    assert (event.kind, event.names, event[Cta.LABELS]) == ("NEW", f"{ALWAYS} LABELS", b"\4" + bytes(15))


@rule("CTPKT-7")
@pytest.mark.parametrize(
    ("mask", "kinds"),
    [
        ("new,destroy", ["NEW", "DESTROY"]),
        ("assured", ["UPDATE"]),
        ("reply", ["UPDATE"]),
        ("protoinfo", ["NEW", "UPDATE", "UPDATE"]),
    ],
)
def test_a_rule_can_say_which_events_a_flow_has(wire: Wire, mask: str, kinds: list[str]) -> None:
    wire.kernel.iptables(f"-t raw -A PREROUTING -p tcp --dport 80 -j CT --ctevents {mask}")
    wire.handshake()
    assert wire.asker.delete() == "ACK"
    assert [event.kind for event in wire.watcher.told()] == kinds


@rule("CTPKT-7")
def test_an_event_that_a_mask_lets_through_is_whole(wire: Wire) -> None:
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 80 -j CT --ctevents assured")
    wire.handshake()
    assert wire.states() == [("UPDATE", ESTABLISHED, 0xE)]


@rule("CTPKT-7")
def test_a_rule_can_ask_for_events_where_there_are_none(wire: Wire) -> None:
    wire.kernel.sysctl(f"{PREFIX}events", 0)
    wire.udp(1)
    assert wire.told() == []
    wire.kernel.iptables("-t raw -A PREROUTING -p udp --dport 2 -j CT --ctevents new")
    wire.udp(2)
    assert wire.told() == [("NEW", ALWAYS)]


@rule("CTPKT-8")
def test_events_are_switched_when_a_flow_is_made(wire: Wire) -> None:
    wire.kernel.sysctl(f"{PREFIX}events", 1)
    wire.udp()
    wire.kernel.sysctl(f"{PREFIX}events", 0)
    wire.udp(back=True)
    assert [kind for kind, _ in wire.told()] == ["NEW", "UPDATE"]


@rule("CTPKT-9")
def test_a_packet_passes_although_its_event_does_not(wire: Wire) -> None:
    full = Asker(wire.kernel, Group.CONNTRACK_NEW, receive_buffer=4096)
    full.option(SocketOption.BROADCAST_ERROR)
    for port in range(1, 60):
        assert wire.udp(port) is not None
    assert len(wire.asker.dump()) == 59
    assert len(wire.watcher.told()) == 59


@needs("rejected-connections-close")
@rule("CTPKT-10")
def test_a_connection_that_is_rejected_is_closed(wire: Wire) -> None:
    wire.handshake()
    wire.watcher.told()
    wire.kernel.iptables("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    wire.tcp(ACK | PSH, 1001, 5001, b"evil")
    flow = wire.asker.only()
    assert flow.inside(Cta.PROTOINFO, 1).number(1) == CLOSE
    assert flow.number(Cta.TIMEOUT) <= 10
    assert [state for _, state, _ in wire.states()] == [CLOSE]


# ---------------------------------------------------------------------------------------------------------------- what they are


@rule("CTPKT-11")
def test_a_flow_of_packets_has_no_room_for_what_programs_add(wire: Wire) -> None:
    wire.udp()
    flow = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53)
    for said in (words(Cta.SEQ_ADJ_ORIG, 1, 2, 3), words(Cta.SEQ_ADJ_ORIG, 1), words(Cta.SYNPROXY, 1, 2, 3), nest(Cta.SYNPROXY)):
        assert wire.asker.change(flow, said) == "ACK", "it is ignored"
    assert (wire.asker.only().names, wire.asker.only().status) == (DUMPED, CONFIRMED)
    assert wire.asker.change(flow, helper("tftp")) == "EOPNOTSUPP"
    assert wire.asker.change(flow, attribute(Cta.LABELS, b"\1\0\0\0")) == "ENOSPC"


@rule("CTPKT-11", "C7-39")
@pytest.mark.parametrize(("port", "room"), [(80, False), (21, True)], ids=["no helper", "helper"])
def test_a_translated_flow_has_room_for_adjustments_if_it_has_a_helper(wire: Wire, port: int, room: bool) -> None:
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    wire.kernel.iptables(f"-t nat -A POSTROUTING -p tcp -j SNAT --to-source {NAT}")
    wire.tcp(SYN, 1000, port=port)
    assert wire.asker.change(tuple_(Cta.TUPLE_ORIG, A, B, TCP, 5000, port), words(Cta.SEQ_ADJ_ORIG, 1, 2, 3)) == "ACK"
    assert ("SEQ_ADJ_ORIG" in wire.asker.only().names.split()) == room


@rule("CTPKT-12")
def test_counters(wire: Wire) -> None:
    wire.kernel.sysctl(f"{PREFIX}acct", 1)
    for _ in range(3):
        wire.udp(data=b"x" * 10)
    wire.udp(data=b"y" * 20, back=True)

    def counters(flow: Told) -> list[tuple[int, ...]]:
        return [tuple(flow.inside(kind).numbers().values()) for kind in (Cta.COUNTERS_ORIG, Cta.COUNTERS_REPLY)]

    flow = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53)
    seen, zeros, one = [(3, 114), (1, 48)], [(0, 0), (0, 0)], [(1, 38), (0, 0)]
    assert counters(wire.asker.fetch(flow)) == seen
    cleared = wire.asker.fetch(flow, operation=GET_CTRZERO)
    assert (counters(cleared), cleared.type) == (seen, 1 << 8 | NEW)
    assert counters(wire.asker.fetch(flow)) == zeros
    wire.udp(data=b"x" * 10)
    assert [counters(shown) for shown in wire.asker.dump(operation=GET_CTRZERO)] == [one]
    assert [counters(shown) for shown in wire.asker.dump()] == [zeros]
    wire.udp(data=b"x" * 10)
    assert wire.asker.dump(u32(Cta.MARK, 5), operation=GET_CTRZERO) == []
    assert [counters(shown) for shown in wire.asker.dump()] == [one], "what is not shown is not cleared"
    assert wire.asker.delete() == "ACK"
    assert counters(wire.watcher.told()[-1]) == one


@rule("CTPKT-12")
def test_counters_and_timestamps_of_packets(wire: Wire) -> None:
    for switch in ("acct", "timestamp"):
        wire.kernel.sysctl(PREFIX + switch, 1)
    wire.udp()
    wire.udp(back=True)
    assert [names.removesuffix(" TIMESTAMP_EVENT") for _, names in wire.told()] == [ALWAYS, ALWAYS]
    assert wire.asker.only().names == f"{DUMPED} COUNTERS_ORIG COUNTERS_REPLY TIMESTAMP"


# ------------------------------------------------------------------------------------------------------------------ statistics


def moved(wire: Wire, before: dict[int, int]) -> dict[int, int]:
    """The counters of all processors that are not what they were."""
    return {number: value - before.get(number, 0) for number, value in sums(wire).items() if value != before.get(number, 0)}


def sums(wire: Wire) -> dict[int, int]:
    """The counters of all processors together."""
    told = [stats.numbers() for stats in wire.asker.dump(operation=GET_STATS_CPU)]
    return {number: sum(one[number] for one in told) for number in told[0]}


@rule("CTPKT-13")
def test_what_packets_move_among_the_statistics(wire: Wire) -> None:
    invalid, error = 4, 12
    before = sums(wire)
    wire.udp()
    assert moved(wire, before) == {}
    bad = bytearray(ipv4(A, B, UDP, struct.pack(">HHHH", 1, 2, 9, 0) + b"x"))
    bad[26] ^= 0x55
    wire.kernel.forward(bytes(bad), "eth0", "eth1")
    assert moved(wire, before) == {invalid: 1}
    about = ipv4(A, B, UDP, struct.pack(">HHHH", 1, 999, 9, 0) + b"x")[:28]
    wire.send(ICMP, struct.pack(">BBHI", 3, 3, 0, 0) + about, back=True)
    assert moved(wire, before).get(error) == 1


@rule("CTPKT-13")
def test_a_packet_whose_translation_is_taken_is_dropped_and_counted(wire: Wire) -> None:
    found, insert_failed, drop = 2, 9, 10
    before = sums(wire)
    wire.kernel.iptables(f"-t nat -A POSTROUTING -p udp --dport 9 -j SNAT --to-source {NAT}:7000")
    assert wire.udp(9, source=1) is not None
    assert wire.udp(9, source=2) is None
    after = moved(wire, before)
    assert (after.get(insert_failed), after.get(drop)) == (1, 1)
    assert after.get(found, 0) >= 1


# ------------------------------------------------------------------------------------------------------------- nat by programs


@rule("CTPKT-14")
def test_what_a_program_translates_is_translated_where_there_is_nat(wire: Wire) -> None:
    flow = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53) + tuple_(Cta.TUPLE_REPLY, B, A, UDP, 53, 5000)
    to = nest(Cta.NAT_DST, attribute(1, address("10.0.9.9")), nest(3, u16(1, 99)))
    assert wire.asker.make(flow, LIFE, to) == "ACK"
    assert passed(wire.udp()) == (A, B, 5000, 53)
    wire.kernel.iptables(f"-t nat -A POSTROUTING -p udp --dport 5 -j SNAT --to-source {NAT}")
    wire.kernel.forward(ipv4(A, "10.0.9.9", UDP, struct.pack(">HHHH", 1, 1, 8, 0)), "eth0", "eth1")  # a route there
    assert passed(wire.udp()) == (A, "10.0.9.9", 5000, 99)
    answer = ipv4("10.0.9.9", A, UDP, struct.pack(">HHHH", 99, 5000, 8, 0))
    assert passed(sent(wire.kernel.forward(answer, "eth1", "eth0"))) == (B, A, 53, 5000)


@rule("CTPKT-14")
def test_a_flow_that_a_program_made_without_nat_never_gets_any(wire: Wire) -> None:
    wire.kernel.iptables(f"-t nat -A POSTROUTING -p udp --dport 53 -j SNAT --to-source {NAT}")
    flow = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53) + tuple_(Cta.TUPLE_REPLY, B, A, UDP, 53, 5000)
    assert wire.asker.make(flow, LIFE) == "ACK"
    assert passed(wire.udp()) == (A, B, 5000, 53)
    assert wire.asker.only().status == CONFIRMED
    assert wire.asker.delete() == "ACK"
    assert passed(wire.udp()) == (NAT, B, 5000, 53)


# ---------------------------------------------------------------------------------------------------------------- expectations


class Expecting(Wire):
    """The same, with a flow from A to port 21 of B that has the helper of FTP, and somebody who hears of expectations."""

    def __init__(self, kernel: KernelUnderTest) -> None:
        super().__init__(kernel)
        self.hearer = Asker(kernel, Group.CONNTRACK_EXP_NEW, Group.CONNTRACK_EXP_DESTROY)
        flow = tuple_(Cta.TUPLE_ORIG, A, B, TCP, 4100, 21) + tuple_(Cta.TUPLE_REPLY, B, A, TCP, 21, 4100)
        assert self.asker.make(flow, LIFE, helper("ftp")) == "ACK"
        self.watcher.told()

    def expect(self, port: int, flags: int = 0) -> None:
        """A program sees a datagram from A to a port of B coming."""
        ones = "255.255.255.255"
        said = tuple_(Exp.TUPLE, A, B, UDP, 0, port) + tuple_(Exp.MASK, ones, ones, UDP, 0, 0xFFFF)
        master = tuple_(Exp.MASTER, A, B, TCP, 4100, 21)
        assert self.asker.do(NEW, said, master, u32(Exp.FLAGS, flags), subsystem=EXP, flags=0x400) == "ACK"

    @property
    def expected(self) -> list[Told]:
        """The expectations there are."""
        return self.asker.dump(subsystem=EXP)


@pytest.fixture
def expecting(kernel: KernelUnderTest) -> Expecting:
    """Two hosts, and a flow that may expect others."""
    return Expecting(kernel)


@rule("CTPKT-15")
def test_a_flow_that_was_expected(expecting: Expecting) -> None:
    flow = tuple_(Cta.TUPLE_ORIG, A, B, TCP, 4100, 21)
    assert expecting.asker.change(flow, u32(Cta.MARK, 0x99)) == "ACK"
    expecting.watcher.told()
    expecting.expect(9000)
    expecting.udp(9000)
    [event] = expecting.watcher.told()
    assert (event.kind, event.names, event.status) == ("NEW", f"{ALWAYS} TUPLE_MASTER MARK", CONFIRMED | EXPECTED)
    assert (ends(event[Cta.TUPLE_MASTER]).numbers, event.mark) == ((4100, 21), 0x99), "it has the mark of its master"
    assert expecting.expected == []
    assert [(told.kind, told.pid) for told in expecting.hearer.told()] == [("NEW", expecting.asker.port_id), ("DESTROY", 0)]


@rule("CTPKT-15")
@pytest.mark.parametrize(("flags", "status"), [(0, EXPECTED), (1, EXPECTED), (2, 0)], ids=["once", "permanent", "inactive"])
def test_how_often_an_expectation_is_met(expecting: Expecting, flags: int, status: int) -> None:
    expecting.expect(9000, flags)
    expecting.udp(9000, source=1)
    expecting.udp(9000, source=2)
    first, second = (expecting.asker.fetch(tuple_(Cta.TUPLE_ORIG, A, B, UDP, port, 9000)) for port in (1, 2))
    assert first.status & EXPECTED == status
    assert second.status & EXPECTED == (status if flags else 0)
    assert len(expecting.expected) == (flags != 0)


@rule("CTPKT-16")
def test_an_expectation_that_a_helper_makes(wire: Wire) -> None:
    hearer = Asker(wire.kernel, Group.CONNTRACK_EXP_NEW, Group.CONNTRACK_EXP_DESTROY)
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    wire.handshake(source=4100, port=21)
    wire.watcher.told()

    def say(seq: int, line: bytes) -> None:
        wire.tcp(ACK | PSH, seq, 1001, line, back=True, source=4100, port=21)

    say(5001, b"220 hello\r\n")  # the helper reads lines, and must have seen where one ends
    say(5012, b"227 Entering Passive Mode (10,0,9,2,19,137)\r\n")
    [event] = hearer.told()
    assert (event.kind, event.pid, event.names) == ("NEW", 0, "TUPLE MASK MASTER TIMEOUT ID FLAGS CLASS HELP_NAME")
    assert ends(event[Exp.TUPLE]) == (A, B, TCP, (0, 19 << 8 | 137), None)
    assert ends(event[Exp.MASK]).numbers == (0, 0xFFFF)
    wire.tcp(SYN, 77, source=4200, port=5001)
    [flow] = wire.watcher.told()
    assert (flow.kind, flow.names) == ("NEW", f"{ALWAYS} PROTOINFO TUPLE_MASTER")
    assert [(told.kind, told.pid) for told in hearer.told()] == [("DESTROY", 0)]


@rule("CTPKT-16")
def test_an_expectation_of_a_connection_that_is_translated(kernel: KernelUnderTest) -> None:
    wire = Wire(kernel)
    hearer = Asker(kernel, Group.CONNTRACK_EXP_NEW)
    kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    kernel.iptables(f"-t nat -A POSTROUTING -p tcp -j SNAT --to-source {NAT}")
    wire.tcp(SYN, 1000, source=4300, port=21)
    wire.tcp(SYN | ACK, 5000, 1001, back=True, source=4300, port=21, to=NAT)
    wire.tcp(ACK, 1001, 5001, source=4300, port=21)
    wire.tcp(ACK | PSH, 1001, 5001, b"USER x\r\n", source=4300, port=21)
    wire.watcher.told()
    packet = wire.tcp(ACK | PSH, 1009, 5001, b"PORT 10,0,0,2,19,140\r\n", source=4300, port=21)
    assert packet is not None
    assert packet[40:] == b"PORT 10,0,9,77,19,140\r\n"
    [event] = hearer.told()
    assert event.names == "TUPLE MASK MASTER NAT TIMEOUT ID FLAGS CLASS HELP_NAME FN"
    assert event[Exp.FN] == b"nat-follow-master\0"
    assert ends(event[Exp.TUPLE]) == (B, NAT, TCP, (0, 5004), None)
    assert ends(event.inside(Exp.NAT)[2]).numbers == (5004, 0)
    flow = wire.asker.only()
    assert flow.names == f"{DUMPED} PROTOINFO HELP SEQ_ADJ_ORIG SEQ_ADJ_REPLY"
    assert flow.inside(Cta.SEQ_ADJ_ORIG).numbers() == {1: 1009, 2: 0, 3: 1}
    assert wire.watcher.told() == [], "no event says so"


@rule("CTPKT-17")
def test_no_helper_without_a_rule(wire: Wire) -> None:
    wire.tcp(SYN, 1, port=21)
    assert "HELP" not in wire.asker.only().names
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 2121 -j CT --helper ftp")
    wire.tcp(SYN, 1, port=2121)
    flow = wire.asker.fetch(tuple_(Cta.TUPLE_ORIG, A, B, TCP, 5000, 2121))
    assert flow[Cta.HELP] == name(1, "ftp")
    assert wire.told()[-1] == ("NEW", f"{ALWAYS} PROTOINFO HELP")


@rule("CTPKT-18")
@pytest.mark.parametrize(("option", "flows"), [("--zone-orig 5", 1), ("--zone 5", 2)])
def test_zones_that_rules_give(wire: Wire, option: str, flows: int) -> None:
    wire.kernel.iptables(f"-t raw -A PREROUTING -i eth0 -j CT {option}")
    wire.udp()
    wire.udp(back=True)
    assert len(wire.asker.say(request(GET, flags=DUMP, ack=False)).told) == flows
