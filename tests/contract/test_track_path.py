"""The way of tracked packets: which chains see them, in which state; when a flow comes to be; verdicts; what REJECT does."""

from __future__ import annotations

import re
import struct

import pytest

from nfnl.sim.journey import Fate, Journey
from tests.contract.ctkit import ASSURED, CONFIRMED, SEEN_REPLY, UDP, Asker, Cta, Ends
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.trackkit import (
    A6,
    B6,
    HERE,
    A,
    B,
    Connection,
    Wire,
    addresses,
    icmp,
    ip,
    kinds,
    ports,
    spoilt,
    state,
    tcp,
    tcp_flags,
    udp,
)
from tests.contract.wirekit import ACCEPT, DROP, REPEAT, STOP, Listener, nothing_to_receive

THERE, BACK = udp(A, B), udp(B, A, 53, 5000)
STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")


# ---------------------------------------------------------------------------------------------------------------------- the way

CHAINS = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("FORWARD", "OUTPUT"),  # where it stands in INPUT depends on the program that made it
}


def way(journey: Journey) -> list[str]:
    """The chains that a packet met, and its state there."""
    met = []
    for step in journey.steps:
        if found := re.search(r"--ctstate (\w+)", step.what):
            met.append(f"{step.table} {step.hook} {found[1]}")
        elif "-p " in step.what and step.table == "raw":
            met.append(f"raw {step.hook}")
    return met


@pytest.fixture
def watched(kernel: KernelUnderTest) -> Wire:
    """Rules in every chain tell what comes by there."""
    wire = Wire(kernel).ipv6()
    kernel.touched = True
    for program in ("iptables", "ip6tables"):
        for table, chains in CHAINS.items():
            rules = "".join(f"-A {chain} -m conntrack --ctstate {name} -j RETURN\n" for chain in chains for name in STATES)
            getattr(kernel.kernel, f"{program}_restore")(f"*{table}\n{rules}COMMIT\n")
        for chain in ("PREROUTING", "OUTPUT"):
            getattr(kernel, program)(f"-t raw -A {chain} -p udp -j RETURN")
    return wire


def forwarded(name: str, *, first: bool) -> list[str]:
    nat = ["nat PREROUTING", "nat POSTROUTING"]
    chains = ["mangle PREROUTING", nat[0], "mangle FORWARD", "filter FORWARD", "security FORWARD", "mangle POSTROUTING", nat[1]]
    return ["raw PREROUTING", *(f"{chain} {name}" for chain in chains if first or chain not in nat)]


@rule("TP-1")
def test_what_is_passed_on(watched: Wire) -> None:
    receive = watched.kernel.receive
    assert way(receive(THERE)) == forwarded("NEW", first=True)
    assert way(receive(BACK)) == forwarded("ESTABLISHED", first=False)
    assert way(receive(THERE)) == forwarded("ESTABLISHED", first=False)


@rule("TP-1")
def test_what_is_passed_on_over_ipv6(watched: Wire) -> None:
    receive = watched.kernel.receive
    assert way(receive(udp(A6, B6))) == forwarded("NEW", first=True)
    assert way(receive(udp(B6, A6, 53, 5000))) == forwarded("ESTABLISHED", first=False)


@rule("TP-1")
def test_nat_is_asked_once_however_often_the_first_packet_comes(watched: Wire) -> None:
    assert way(watched.kernel.receive(THERE)) == forwarded("NEW", first=True)
    assert way(watched.kernel.receive(THERE)) == forwarded("NEW", first=False)


@rule("TP-1")
def test_what_comes_in_and_its_answer(watched: Wire) -> None:
    chains = ["mangle PREROUTING", "nat PREROUTING", "mangle INPUT", "filter INPUT", "nat INPUT"]
    assert way(watched.kernel.receive(udp(A, HERE))) == ["raw PREROUTING", *(f"{chain} NEW" for chain in chains)]
    chains = ["mangle OUTPUT", "filter OUTPUT", "security OUTPUT", "mangle POSTROUTING"]
    assert way(watched.kernel.send(udp(HERE, A, 53, 5000))) == ["raw OUTPUT", *(f"{chain} ESTABLISHED" for chain in chains)]


@rule("TP-1")
def test_what_is_sent_and_its_answer(watched: Wire) -> None:
    chains = ["mangle OUTPUT", "nat OUTPUT", "filter OUTPUT", "security OUTPUT", "mangle POSTROUTING", "nat POSTROUTING"]
    assert way(watched.kernel.send(udp(HERE, A))) == ["raw OUTPUT", *(f"{chain} NEW" for chain in chains)]
    chains = ["mangle PREROUTING", "mangle INPUT", "filter INPUT"]
    assert way(watched.kernel.receive(udp(A, HERE, 53, 5000))) == ["raw PREROUTING", *(f"{chain} ESTABLISHED" for chain in chains)]


@rule("TP-2")
def test_what_this_machine_sends_to_itself(watched: Wire) -> None:
    """It is tracked on its way out; then it comes in with its flow, still new, and nobody translates it again."""
    watcher = watched.listen()
    out = ["mangle OUTPUT", "nat OUTPUT", "filter OUTPUT", "security OUTPUT", "mangle POSTROUTING", "nat POSTROUTING"]
    back_in = ["mangle PREROUTING", "mangle INPUT", "filter INPUT"]
    journey = watched.kernel.send(udp("127.0.0.1", "127.0.0.1"))
    assert way(journey) == [
        *("raw OUTPUT", *(f"{chain} NEW" for chain in out)),
        *("raw PREROUTING", *(f"{chain} NEW" for chain in back_in)),
    ]
    assert kinds(watcher) == ["NEW"]


@rule("TP-2", "TV-5")
def test_on_the_loopback_a_packet_counts_once(kernel: KernelUnderTest) -> None:
    wire = Wire(kernel)
    wire.set(acct=1)
    kernel.send(udp("127.0.0.1", "127.0.0.1", data=bytes(10)))
    assert wire.flow.inside(Cta.COUNTERS_ORIG).numbers() == {1: 1, 2: 38}


@rule("TP-2", "TP-6")
def test_the_answer_that_nobody_listens_is_related(kernel: KernelUnderTest) -> None:
    wire = Wire(kernel)
    journey = kernel.receive(udp(A, HERE))
    assert state(journey) == "NEW"
    assert [state(answer) for answer in journey.answers] == ["RELATED"]
    assert wire.flow.status == CONFIRMED


@rule("TP-1")
@pytest.mark.parametrize(
    ("packet", "name"), [(spoilt(THERE, 26, size=2), "INVALID"), (udp(A, B, 5000, 66), "UNTRACKED")], ids=["invalid", "untracked"]
)
def test_what_has_no_flow_goes_the_same_way_without_nat(watched: Wire, packet: bytes, name: str) -> None:
    watched.kernel.iptables("-t raw -I PREROUTING -p udp --dport 66 -j CT --notrack")
    met = way(watched.kernel.receive(packet))
    assert [where for where in met if not where.startswith("raw")] == forwarded(name, first=False)[1:]


# ------------------------------------------------------------------------------------------------------------------- fragments


@rule("TP-3")
def test_fragments_are_tracked_as_the_packet_they_are_of(wire: Wire) -> None:
    whole = udp(A, B, data=bytes(1600))[20:]
    first = wire.kernel.receive(ip(A, B, UDP, whole[:800], id=42, fragment=0x2000))
    assert (way(first), wire.flows) == ([], [])
    assert wire.state(ip(A, B, UDP, whole[800:], id=42, fragment=100)) == "NEW"
    assert wire.flow.ends == Ends(A, B, UDP, (5000, 53))


@rule("TP-3", "TV-5")
def test_fragments_count_as_one_packet(wire: Wire) -> None:
    wire.set(acct=1)
    whole = udp(A, B, data=bytes(1600))[20:]
    for offset, more in ((800, 0), (0, 0x2000)):
        wire.kernel.receive(ip(A, B, UDP, whole[offset : 1608 if offset else 800], id=42, fragment=more | offset // 8))
    assert wire.flow.inside(Cta.COUNTERS_ORIG).numbers() == {1: 1, 2: 1628}


@rule("TP-3")
def test_a_fragment_whose_others_never_come_is_no_flow(wire: Wire) -> None:
    wire.kernel.touched = True  # it lies there for half a minute
    journey = wire.kernel.receive(ip(A, B, UDP, bytes(64), id=42, fragment=100))
    assert (way(journey), wire.flows) == ([], [])


# -------------------------------------------------------------------------------------------------------------------- verdicts


@pytest.fixture
def watcher(wire: Wire) -> Asker:
    return wire.listen()


def queued(wire: Wire, where: str = "FORWARD", more: str = "") -> Listener:
    """UDP of A waits in queue 1."""
    wire.kernel.iptables(f"-t mangle -A {where} -p udp --dport 53 {more} -j NFQUEUE --queue-num 1")
    return Listener(wire.kernel)


@rule("TP-4")
def test_a_flow_comes_to_be_when_its_first_packet_is_accepted(wire: Wire, watcher: Asker) -> None:
    queue = queued(wire)
    assert wire.state(THERE) == "NEW"
    assert wire.flows == []
    assert nothing_to_receive(watcher)
    queue.decide(queue.packet(), ACCEPT)
    assert wire.flow.ends == Ends(A, B, UDP, (5000, 53))
    assert kinds(watcher) == ["NEW"]


@rule("TP-4")
def test_a_flow_does_not_come_to_be_when_its_first_packet_is_dropped(wire: Wire, watcher: Asker) -> None:
    queue = queued(wire)
    wire.state(THERE)
    queue.decide(queue.packet(), DROP)
    assert wire.flows == []
    assert nothing_to_receive(watcher)
    assert wire.state(THERE) == "NEW"


@rule("TP-4")
def test_a_packet_that_stops_before_the_end_makes_no_flow(wire: Wire) -> None:
    queue = queued(wire, "POSTROUTING")
    journey = wire.kernel.receive(THERE)
    queue.decide(queue.packet(), STOP)
    assert (journey.fate, wire.flows) == (Fate.SENT, [])
    wire.kernel.receive(THERE)
    queue.decide(queue.packet(), ACCEPT)
    assert len(wire.flows) == 1


@rule("TP-4")
def test_a_packet_that_stops_earlier_makes_one(wire: Wire) -> None:
    queue = queued(wire, "FORWARD")
    wire.kernel.receive(THERE)
    queue.decide(queue.packet(), STOP)
    assert len(wire.flows) == 1


@rule("TP-4")
def test_a_packet_that_begins_again_keeps_its_flow(wire: Wire, watcher: Asker) -> None:
    queue = queued(wire, more="-m mark ! --mark 9")
    wire.kernel.iptables("-t mangle -I FORWARD -p udp -j CONNMARK --set-mark 3")
    journey = wire.kernel.receive(THERE)
    queue.decide(queue.packet(), REPEAT, mark=9)
    assert (journey.fate, wire.flow.mark) == (Fate.SENT, 3)
    assert kinds(watcher) == ["NEW"]


@rule("TP-4")
def test_where_nobody_listens(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p udp --dport 53 -j NFQUEUE --queue-num 1")
    wire.kernel.iptables("-t mangle -A FORWARD -p udp --dport 54 -j NFQUEUE --queue-num 1 --queue-bypass")
    assert [wire.passes(packet) is None for packet in (THERE, udp(A, B, 5000, 54))] == [True, False]
    assert [flow.ends.numbers for flow in wire.flows] == [(5000, 54)]


@rule("TP-4")
def test_a_changed_packet_belongs_to_its_flow_all_the_same(wire: Wire) -> None:
    queue = queued(wire)
    wire.kernel.receive(THERE)
    queue.decide(queue.packet(), ACCEPT, payload=udp(A, B, 5000, 53, b"something else"))
    assert wire.flow.ends == Ends(A, B, UDP, (5000, 53))


@needs("late-first-packets-clash")
@rule("TP-5")
def test_two_first_packets_of_a_flow_of_udp(wire: Wire, watcher: Asker) -> None:
    """Each has made a flow of its own; the second gives its own up and joins the other."""
    wire.set(acct=1)
    queue = queued(wire)
    journeys = [wire.kernel.receive(THERE) for _ in range(2)]
    assert [state(journey) for journey in journeys] == ["NEW", "NEW"]
    for packet in queue.packets():
        queue.decide(packet, ACCEPT)
    assert [journey.fate for journey in journeys] == [Fate.SENT, Fate.SENT]
    assert wire.flow.inside(Cta.COUNTERS_ORIG).number(1) == 2
    assert kinds(watcher) == ["NEW"]


@needs("late-first-packets-clash")
@rule("TP-5")
def test_two_first_packets_of_a_connection(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -p tcp -j NFQUEUE --queue-num 1")
    queue = Listener(wire.kernel)
    journeys = [wire.kernel.receive(tcp(A, B, 5000, 80, "S", 1000)) for _ in range(2)]
    for packet in queue.packets():
        queue.decide(packet, ACCEPT)
    assert [journey.fate for journey in journeys] == [Fate.SENT, Fate.DROPPED]
    assert len(wire.flows) == 1


# ---------------------------------------------------------------------------------------------------------------------- REJECT


@rule("TP-6")
def test_what_reject_says_belongs_to_what_it_rejects(wire: Wire, watcher: Asker) -> None:
    wire.kernel.iptables("-A FORWARD -p udp -j REJECT")
    journey = wire.kernel.receive(THERE)
    assert (journey.fate, [state(answer) for answer in journey.answers]) == (Fate.DROPPED, ["RELATED"])
    assert wire.flows == []
    assert nothing_to_receive(watcher)


@needs("rejected-connections-close")
@rule("TP-6")
def test_the_reset_of_reject_closes_a_connection(wire: Wire, watcher: Asker) -> None:
    wire.set(tcp_timeout_close=10_000)
    connection = Connection(wire).open()
    watcher.told()
    wire.kernel.iptables("-A FORWARD -p tcp -m length --length 50 -j REJECT --reject-with tcp-reset")
    journey = wire.kernel.receive(tcp(A, B, 5000, 80, "PA", 1001, 5001, data=bytes(10)))
    [answer] = journey.answers
    assert state(answer) == "RELATED"
    assert (connection.tcp_state, 5000 < connection.flow.number(Cta.TIMEOUT) <= 10_000) == ("CLOSE", True)
    assert kinds(watcher) == ["UPDATE"]
    assert connection.flow.status == CONFIRMED | SEEN_REPLY | ASSURED


@rule("TP-6")
def test_the_reset_of_reject_for_a_first_segment(wire: Wire) -> None:
    wire.kernel.iptables("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    journey = wire.kernel.receive(tcp(A, B, 5000, 80, "S", 1000))
    assert ([state(answer) for answer in journey.answers], wire.flows) == (["RELATED"], [])


@rule("TP-6")
@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("", 3),
        *((f"--reject-with icmp-{name}", code) for name, code in (("net-unreachable", 0), ("host-unreachable", 1))),
        *((f"--reject-with icmp-{name}", code) for name, code in (("proto-unreachable", 2), ("port-unreachable", 3))),
        *((f"--reject-with icmp-{name}", code) for name, code in (("net-prohibited", 9), ("host-prohibited", 10))),
        ("--reject-with icmp-admin-prohibited", 13),
    ],
)
def test_what_reject_says(wire: Wire, option: str, code: int) -> None:
    """It quotes the packet as it is there: one step nearer to its end."""
    wire.kernel.iptables(f"-A FORWARD -p udp -j REJECT {option}")
    [answer] = wire.kernel.receive(THERE).answers
    assert (addresses(answer.data), answer.data[20:22]) == ((HERE, A), bytes((3, code)))
    assert (answer.data[36], addresses(answer.data[28:])) == (63, (A, B))
    assert answer.data[48 : 28 + len(THERE)] == THERE[20:]


@rule("TP-6")
@pytest.mark.parametrize(
    ("packet", "flags", "seq", "ack"),
    [
        (tcp(A, B, 5000, 80, "S", 1000), "RA", 0, 1001),
        (tcp(A, B, 5000, 80, "A", 1000, 777), "R", 777, 0),
        (tcp(A, B, 5000, 80, "PA", 1000, 777, data=bytes(5)), "R", 777, 0),
        (tcp(A, B, 5000, 80, "F", 1000, data=bytes(5)), "RA", 0, 1006),
    ],
    ids=["SYN", "ACK", "data", "FIN"],
)
def test_resets_of_reject(wire: Wire, packet: bytes, flags: str, seq: int, ack: int) -> None:
    """They come from the address that was asked."""
    wire.kernel.iptables("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    [answer] = wire.kernel.receive(packet).answers
    assert (addresses(answer.data), ports(answer.data)) == ((B, A), (80, 5000))
    assert struct.unpack_from(">IIBB", answer.data, 24) == (seq, ack, 5 << 4, tcp_flags(flags))


@rule("TP-6")
@pytest.mark.parametrize(
    ("packet", "option"),
    [
        (tcp(A, B, 5000, 80, "R", 1000), "-p tcp -j REJECT --reject-with tcp-reset"),
        (spoilt(THERE, 26, size=2), "-p udp -j REJECT"),
        (icmp(3, 3, 0, THERE[:28], source=B, destination=A), "-p icmp -j REJECT"),
    ],
    ids=["reset", "wrong checksum", "error"],
)
def test_what_reject_does_not_answer(wire: Wire, packet: bytes, option: str) -> None:
    wire.state(THERE)
    wire.kernel.iptables(f"-A FORWARD {option}")
    journey = wire.kernel.receive(packet)
    assert (journey.fate, journey.answers) == (Fate.DROPPED, [])


@rule("TP-7")
def test_a_program_is_told_that_its_first_packet_was_dropped(wire: Wire) -> None:
    wire.kernel.iptables("-A OUTPUT -p udp -j DROP")
    assert (wire.kernel.send(udp(HERE, A)).errno, wire.flows) == (1, [])


@rule("TP-8")
def test_without_a_rule_that_needs_it_nothing_is_tracked(kernel: KernelUnderTest) -> None:
    wire = Wire(kernel)
    kernel.iptables("-t mangle -F")
    kernel.receive(THERE)
    assert wire.flows == []
    kernel.iptables("-t mangle -A FORWARD -m conntrack --ctstate NEW")
    kernel.receive(THERE)
    assert len(wire.flows) == 1
    kernel.iptables("-t mangle -F")
    kernel.receive(BACK)
    assert wire.flow.status == CONFIRMED


@rule("TP-8")
@pytest.mark.parametrize(
    "line",
    [
        "-t mangle -A FORWARD -m state --state NEW",
        "-t mangle -A FORWARD -m connmark --mark 1",
        "-t mangle -A FORWARD -m helper --helper ftp",
        "-t mangle -A FORWARD -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode packets",
        "-t mangle -A FORWARD -m connlimit --connlimit-above 1",
        "-t mangle -A FORWARD -m connlabel --label 1",
        "-t mangle -A FORWARD -j CONNMARK --restore-mark",
        "-t raw -A PREROUTING -p tcp -j CT --zone 1",
        "-t nat -A POSTROUTING -p tcp -j MASQUERADE",
    ],
    ids=["state", "connmark", "helper", "connbytes", "connlimit", "connlabel", "CONNMARK", "CT", "nat"],
)
def test_what_needs_tracking(kernel: KernelUnderTest, line: str) -> None:
    wire = Wire(kernel)
    wire.set(acct=0)  # a rule about counters switches them on
    kernel.touched = kernel.touched or "nat" in line
    kernel.iptables("-t mangle -F")
    kernel.iptables(line)
    kernel.receive(THERE)
    assert [flow.ends for flow in wire.flows] == [Ends(A, B, UDP, (5000, 53))]


@rule("TP-8")
@pytest.mark.parametrize(
    "line",
    ["-t raw -A PREROUTING -p tcp -j CT --notrack", "-t mangle -A FORWARD -m mark --mark 1", "-t nat -A POSTROUTING -j ACCEPT"],
)
def test_what_does_not(kernel: KernelUnderTest, line: str) -> None:
    wire = Wire(kernel)
    kernel.touched = kernel.touched or "nat" in line
    kernel.iptables("-t mangle -F")
    kernel.iptables(line)
    kernel.receive(THERE)
    assert wire.flows == []


@rule("TP-8")
def test_each_family_is_tracked_for_itself(kernel: KernelUnderTest) -> None:
    wire = Wire(kernel).ipv6()
    kernel.iptables("-t mangle -F")
    for packet in (THERE, udp(A6, B6)):
        kernel.receive(packet)
    assert [flow.ends.source for flow in wire.flows] == [A6]
