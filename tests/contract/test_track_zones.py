"""Zones that rules give, expected flows and the FTP helper."""

from __future__ import annotations

import pytest

from nfnl.wire.constants import Group
from tests.contract import ctkit
from tests.contract.ctkit import (
    CONFIRMED,
    CREATE,
    EXP,
    EXPECTED,
    HELPER,
    NEW,
    SEEN_REPLY,
    TCP,
    Cta,
    Ends,
    Exp,
    ends,
    helper,
    nest,
    tuple_,
    u32,
    watch,
)
from tests.contract.rules import needs, rule
from tests.contract.trackkit import A2, A, B, Wire, addresses, icmp, ports, tcp, udp

THERE, BACK = udp(A, B), udp(B, A, 53, 5000)


def in_zone(wire: Wire, option: str, *, source: str = A) -> None:
    wire.kernel.iptables(f"-t raw -A PREROUTING -s {source} -j CT {option}")


# ----------------------------------------------------------------------------------------------------------------------- zones


@rule("TZ-1")
def test_a_zone_for_both_directions(wire: Wire) -> None:
    in_zone(wire, "--zone 5")
    in_zone(wire, "--zone 5", source=B)
    assert wire.states(THERE, BACK) == ["NEW", "ESTABLISHED"]
    assert (wire.flow.number(Cta.ZONE), wire.flow.ends.zone, wire.flow.back.zone) == (5, None, None)


@rule("TZ-1")
def test_an_answer_in_another_zone_is_a_flow_of_its_own(wire: Wire) -> None:
    in_zone(wire, "--zone 5")
    assert wire.states(THERE, BACK) == ["NEW", "NEW"]
    assert sorted((flow.ends.source, Cta.ZONE in flow) for flow in wire.flows) == [(A, True), (B, False)]


@rule("TZ-1")
def test_the_same_addresses_in_several_zones(wire: Wire) -> None:
    assert wire.state(THERE) == "NEW"
    in_zone(wire, "--zone 5")
    assert wire.states(THERE, THERE) == ["NEW", "NEW"]
    assert wire.state(BACK) == "ESTABLISHED"
    assert sorted((Cta.ZONE in flow, flow.status) for flow in wire.flows) == [(False, CONFIRMED | SEEN_REPLY), (True, CONFIRMED)]


@rule("TZ-1")
def test_a_zone_of_the_original_direction(wire: Wire) -> None:
    in_zone(wire, "--zone-orig 5")
    assert wire.states(THERE, BACK) == ["NEW", "ESTABLISHED"]
    assert (wire.flow.ends.zone, wire.flow.back.zone, Cta.ZONE in wire.flow) == (5, None, False)


@rule("TZ-1")
def test_a_zone_of_the_reply_direction(wire: Wire) -> None:
    in_zone(wire, "--zone-reply 5")
    in_zone(wire, "--zone-reply 5", source=B)
    assert wire.states(THERE, BACK) == ["NEW", "ESTABLISHED"]
    assert (wire.flow.ends.zone, wire.flow.back.zone, Cta.ZONE in wire.flow) == (None, 5, False)


@rule("TZ-1")
def test_with_a_zone_of_the_reply_direction_answers_must_be_in_it(wire: Wire) -> None:
    in_zone(wire, "--zone-reply 5")
    assert wire.states(THERE, BACK) == ["NEW", "NEW"]


@rule("TZ-1")
def test_a_mark_as_zone(wire: Wire) -> None:
    wire.kernel.iptables("-t raw -A PREROUTING -p udp --dport 54 -j MARK --set-mark 7")
    wire.kernel.iptables("-t raw -A PREROUTING -p udp -j CT --zone mark")
    wire.states(udp(A, B, 5000, 54), THERE)
    assert sorted((flow.ends.numbers, flow.get(Cta.ZONE, b"")) for flow in wire.flows) == [
        ((5000, 53), b""),
        ((5000, 54), b"\0\7"),
    ]


@rule("TZ-1")
def test_an_error_is_about_the_flow_in_its_zone(wire: Wire) -> None:
    in_zone(wire, "--zone 5")
    wire.state(THERE)
    error = icmp(3, 3, 0, THERE[:28], source=B, destination=A)
    assert wire.state(error) == "INVALID"
    in_zone(wire, "--zone 5", source=B)
    assert wire.state(error) == "RELATED"


@rule("TZ-1")
def test_translation_in_zones(wire: Wire) -> None:
    """Two networks with the same addresses; the zone is of one direction only, so the mapped port tells answers apart."""
    wire.kernel.iptables("-t raw -A PREROUTING -m mark --mark 0 -s 198.51.100.0/24 -p udp -m ttl --ttl-eq 60 -j CT --zone-orig 1")
    wire.kernel.iptables("-t raw -A PREROUTING -m mark --mark 0 -s 198.51.100.0/24 -p udp -m ttl --ttl-eq 50 -j CT --zone-orig 2")
    wire.nat("POSTROUTING -s 198.51.100.0/24 -p udp -j SNAT --to-source 192.0.2.50")
    first, second = wire.passes(udp(ttl=60)), wire.passes(udp(ttl=50))
    assert addresses(first) == addresses(second) == ("192.0.2.50", B)
    assert ports(first)[0] != ports(second)[0]
    assert sorted(flow.ends.zone or 0 for flow in wire.flows) == [1, 2]
    assert wire.state(udp(B, "192.0.2.50", 53, ports(second)[0])) == "ESTABLISHED"


# ------------------------------------------------------------------------------------------------------------------------- FTP


class Control:
    """The control connection of FTP, from port 4100 of A to port 21 of B."""

    def __init__(self, wire: Wire, *, seen_from: str = A) -> None:
        self.wire = wire
        self.at_a, self.at_b = 1000, 5000
        self.seen_from = seen_from
        self.flows = wire.listen()
        self.expected = watch(wire.kernel, Group.CONNTRACK_EXP_NEW, Group.CONNTRACK_EXP_DESTROY)
        wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
        self.a("S")
        self.b("SA")
        self.a("A")

    def a(self, flags: str = "PA", data: bytes = b"") -> bytes | None:
        packet = tcp(A, B, 4100, 21, flags, self.at_a, self.at_b if "A" in flags else 0, data=data)
        self.at_a += len(data) + ("S" in flags)
        return self.wire.passes(packet)

    def b(self, flags: str = "PA", data: bytes = b"", *, ack: int | None = None) -> bytes | None:
        packet = tcp(B, self.seen_from, 21, 4100, flags, self.at_b, self.at_a if ack is None else ack, data=data)
        self.at_b += len(data) + ("S" in flags)
        return self.wire.passes(packet)

    def greeting(self) -> Control:
        """A line that ends, from both: what comes first is never looked at."""
        self.b(data=b"220 hello\r\n")
        self.a(data=b"USER x\r\n")
        self.flows.told()
        return self

    @property
    def expectations(self) -> list[ctkit.Told]:
        return self.wire.asker.dump(subsystem=EXP)


@pytest.fixture
def control(wire: Wire) -> Control:
    return Control(wire)


PASSIVE = b"227 Entering Passive Mode (203,0,113,1,19,137)\r\n"


@rule("TH-1")
def test_a_passive_connection_is_expected(control: Control) -> None:
    control.greeting().b(data=PASSIVE)
    [event] = control.expected.told()
    assert (event.type, event.flags, event.pid, event.names) == (
        0x200,
        0x600,
        0,
        "TUPLE MASK MASTER TIMEOUT ID FLAGS CLASS HELP_NAME",
    )
    [expectation] = control.expectations
    assert ends(expectation[Exp.TUPLE]) == Ends(A, B, TCP, (0, 5001))
    assert ends(expectation[Exp.MASK]) == Ends("255.255.255.255", "255.255.255.255", TCP, (0, 65535))
    assert ends(expectation[Exp.MASTER]) == Ends(A, B, TCP, (4100, 21))
    assert 0 < expectation.number(Exp.TIMEOUT) <= 300
    assert control.flows.told() == []


@rule("TH-1")
@pytest.mark.parametrize(
    ("sender", "line", "expected"),
    [
        ("b", PASSIVE, Ends(A, B, TCP, (0, 5001))),
        ("b", b"229 Entering Extended Passive Mode (|||5002|)\r\n", Ends(A, B, TCP, (0, 5002))),
        ("b", b"227 203,0,113,1,19,137\r\n", Ends(A, B, TCP, (0, 5001))),
        ("a", b"PORT 198,51,100,1,19,140\r\n", Ends(B, A, TCP, (0, 5004))),
        ("a", b"port 198,51,100,1,19,140\r\n", Ends(B, A, TCP, (0, 5004))),
        ("a", b"EPRT |1|198.51.100.1|5005|\r\n", Ends(B, A, TCP, (0, 5005))),
        ("a", b"PORT 198,51,100,2,19,140\r\n", None),
        ("b", b"227 Entering Passive Mode (203,0,113,2,19,137)\r\n", None),
        ("a", b"PORT 198,51,100,1,19\r\n", None),
        ("a", b"PORT 198,51,100,1,19,256\r\n", Ends(B, A, TCP, (0, 19 << 8 | 256))),
        ("a", b"NOOP\r\n", None),
        ("a", PASSIVE, None),
        ("b", b"PORT 203,0,113,1,19,140\r\n", None),
    ],
    ids=[
        *(
            "227",
            "229",
            "no parentheses",
            "PORT",
            "lower case",
            "EPRT",
            "another client",
            "another server",
            "short",
            "nobody looks",
        ),
        *("nothing", "227 of the client", "PORT of the server"),
    ],
)
def test_what_announces_a_connection(control: Control, sender: str, line: bytes, expected: Ends | None) -> None:
    control.greeting()
    getattr(control, sender)(data=line)
    assert [ends(each[Exp.TUPLE]) for each in control.expectations] == ([expected] if expected else [])


@rule("TH-1")
def test_the_first_line_is_not_looked_at(control: Control) -> None:
    control.b(data=PASSIVE)
    assert control.expectations == []


@rule("TH-1")
def test_a_line_that_does_not_follow_the_end_of_one_is_not_looked_at(control: Control) -> None:
    control.greeting().b(data=b"220 not the")
    control.b(data=PASSIVE)
    assert control.expectations == []


@rule("TH-1")
def test_a_line_in_pieces_is_dropped(control: Control) -> None:
    control.greeting()
    assert control.b(data=PASSIVE[:35]) is None


@rule("TH-1")
def test_the_next_announcement_takes_the_place_of_the_last(control: Control) -> None:
    control.greeting()
    control.b(data=PASSIVE)
    control.b(data=PASSIVE.replace(b"137", b"138"))
    assert [ends(each[Exp.TUPLE]).numbers for each in control.expectations] == [(0, 5002)]
    assert [event.type & 0xFF for event in control.expected.told()] == [0, 2, 0]


@rule("TH-2")
def test_a_connection_that_was_expected(control: Control) -> None:
    control.greeting().b(data=PASSIVE)
    control.expected.told()
    state = control.wire.state
    assert state(tcp(A, B, 4200, 5001, "S", 77)) == "RELATED"
    [event] = control.flows.told()
    assert (event.kind, event.status) == ("NEW", CONFIRMED | EXPECTED)
    assert event.names == "TUPLE_ORIG TUPLE_REPLY ID STATUS TIMEOUT PROTOINFO TUPLE_MASTER"
    assert ends(event[Cta.TUPLE_MASTER]) == Ends(A, B, TCP, (4100, 21))
    assert state(tcp(A, B, 4200, 5001, "S", 77)) == "RELATED"
    assert state(tcp(B, A, 5001, 4200, "SA", 99, 78)) == "ESTABLISHED"
    assert state(tcp(A, B, 4200, 5001, "A", 78, 100)) == "ESTABLISHED"
    assert [(event.type & 0xFF, event.pid) for event in control.expected.told()] == [(2, 0)]
    assert control.expectations == []
    assert state(tcp(A, B, 4201, 5001, "S", 77)) == "NEW"


@rule("TH-2", "TR-6")
def test_rules_know_it_by_the_helper_of_its_master(control: Control) -> None:
    control.greeting().b(data=PASSIVE)
    control.wire.kernel.iptables("-t mangle -A FORWARD -m helper --helper ftp -j MARK --set-mark 5")
    receive = control.wire.kernel.receive
    assert receive(tcp(A, B, 4200, 5001, "S", 77)).mark == 5
    assert receive(tcp(A, B, 4200, 5002, "S", 77)).mark == 0


@rule("TH-2")
def test_only_from_where_it_is_expected(control: Control) -> None:
    control.greeting().b(data=PASSIVE)
    assert control.wire.state(tcp(A2, B, 4200, 5001, "S", 77)) == "NEW"
    assert control.wire.state(udp(A, B, 4200, 5001)) == "NEW"
    assert len(control.expectations) == 1


@rule("TH-2")
def test_it_goes_with_its_master(control: Control) -> None:
    control.greeting().b(data=PASSIVE)
    control.expected.told()
    assert control.wire.asker.delete(tuple_(Cta.TUPLE_ORIG, A, B, TCP, 4100, 21)) == "ACK"
    assert [(event.type & 0xFF, event.pid) for event in control.expected.told()] == [(2, 0)]
    assert control.wire.state(tcp(A, B, 4200, 5001, "S", 77)) == "NEW"


@rule("TH-2")
@pytest.mark.parametrize(
    ("flags", "states", "left"), [(0, ["RELATED", "NEW"], 0), (1, ["RELATED", "RELATED"], 1), (2, ["NEW", "NEW"], 1)]
)
def test_expectations_that_a_program_makes(control: Control, flags: int, states: list[str], left: int) -> None:
    """It may be met time and again (1), or not at all (2). The mark is the master's."""
    master = tuple_(Cta.TUPLE_ORIG, A, B, TCP, 4100, 21)
    assert control.wire.asker.change(master, u32(Cta.MARK, 0x99)) == "ACK"
    said = tuple_(Exp.TUPLE, A, B, TCP, 0, 5500), tuple_(Exp.MASK, "255.255.255.255", "255.255.255.255", TCP, 0, 65535)
    about = tuple_(Exp.MASTER, A, B, TCP, 4100, 21), u32(Exp.FLAGS, flags), u32(Exp.TIMEOUT, 100)
    assert control.wire.asker.do(NEW, *said, *about, subsystem=EXP, flags=CREATE) == "ACK"
    assert control.wire.states(*(tcp(A, B, port, 5500, "S", 1) for port in (4500, 4501))) == states
    assert len(control.expectations) == left
    marks = {flow.ends.numbers[0]: flow.mark for flow in control.wire.flows}
    assert [marks[port] for port in (4500, 4501)] == [0x99 if state == "RELATED" else 0 for state in states]


MAPPED = "192.0.2.77"


@pytest.fixture
def translated(wire: Wire) -> Control:
    """The same through SNAT."""
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    return Control(wire, seen_from=MAPPED).greeting()


@needs("ftp-translated")
@rule("TH-3")
def test_a_command_is_rewritten_where_the_client_is_translated(translated: Control) -> None:
    packet = translated.a(data=b"PORT 198,51,100,1,19,140\r\n")
    assert packet is not None
    assert packet[40:] == b"PORT 192,0,2,77,19,140\r\n"
    [expectation] = translated.expectations
    assert expectation.names == "TUPLE MASK MASTER NAT TIMEOUT ID FLAGS CLASS HELP_NAME FN"
    assert ends(expectation[Exp.TUPLE]) == Ends(B, MAPPED, TCP, (0, 5004))
    assert ends(expectation.inside(Exp.NAT)[2]) == Ends("0.0.0.0", "0.0.0.0", TCP, (5004, 0))
    assert expectation[Exp.FN] == b"nat-follow-master\0"


@needs("ftp-translated")
@rule("TH-3")
def test_numbers_shift_behind_a_command_that_is_rewritten(translated: Control) -> None:
    start = translated.at_a
    translated.a(data=b"PORT 198,51,100,1,19,140\r\n")
    [flow] = translated.wire.flows
    adjusted = [flow.inside(part).numbers() for part in (Cta.SEQ_ADJ_ORIG, Cta.SEQ_ADJ_REPLY)]
    assert adjusted == [{1: start, 2: 0, 3: 2**32 - 2}, {1: 0, 2: 0, 3: 0}]
    assert translated.flows.told() == []
    packet = translated.a(data=b"NOOP\r\n")
    assert packet is not None
    assert int.from_bytes(packet[24:28], "big") == translated.at_a - 6 - 2
    packet = translated.b("A", ack=translated.at_a - 2)
    assert packet is not None
    assert int.from_bytes(packet[28:32], "big") == translated.at_a


@needs("ftp-translated")
@rule("TH-3")
def test_the_expected_connection_goes_to_the_client(translated: Control) -> None:
    translated.a(data=b"PORT 198,51,100,1,19,140\r\n")
    packet = tcp(B, MAPPED, 20, 5004, "S", 9)
    journey = translated.wire.kernel.receive(packet)
    assert (addresses(journey.data), ports(journey.data)) == ((B, A), (20, 5004))
    [flow] = [flow for flow in translated.wire.flows if flow.ends.destination == MAPPED]
    assert flow.status & EXPECTED


@rule("TH-4")
def test_no_helper_without_a_rule(wire: Wire) -> None:
    wire.state(tcp(A, B, 4100, 21, "S", 1))
    assert (Cta.HELP in wire.flow, wire.flow.status) == (False, CONFIRMED)


@rule("TH-4")
def test_a_helper_that_a_program_gives(wire: Wire) -> None:
    """It looks at the first line, too."""
    there, back = tuple_(Cta.TUPLE_ORIG, A, B, TCP, 4100, 21), tuple_(Cta.TUPLE_REPLY, B, A, TCP, 21, 4100)
    state = nest(Cta.PROTOINFO, nest(1, ctkit.u8(1, 3)))
    status = u32(Cta.STATUS, CONFIRMED | SEEN_REPLY)
    assert wire.asker.make(there, back, helper("ftp"), u32(Cta.TIMEOUT, 1000), state, status) == "ACK"
    assert wire.flow.status == CONFIRMED | SEEN_REPLY | HELPER
    wire.passes(tcp(B, A, 21, 4100, "PA", 5000, 1000, data=PASSIVE))
    assert [ends(each[Exp.TUPLE]).numbers for each in wire.asker.dump(subsystem=EXP)] == [(0, 5001)]
