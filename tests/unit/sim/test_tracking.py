"""The tracker at its hooks: states, references, clashes, what waits in queues."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment

from nfnl.sim.ct_entry import Event, Status
from nfnl.sim.helpers import find_helper
from nfnl.sim.hooks import ACCEPT, DROP, FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING, REPEAT, STOP, HookFunction
from nfnl.sim.journey import Fate
from nfnl.sim.protoinfo import TcpInfo, TcpState
from nfnl.sim.queueing import GSO
from nfnl.sim.skb import IPV4, IPV6, Skb
from nfnl.sim.tracking import CtInfo, Template
from nfnl.sim.tuples import Zone
from tests.unit.sim.dataplane import PING, PING6, ip4, ip6
from tests.unit.sim.tracked import FILTER, MANGLE, RAW, Tracked

OUT = {"src": "10.0.0.1", "dst": "10.0.0.9"}
AROUND = {"src": "10.0.0.1", "dst": "10.0.0.1"}


def udp(**ends: str) -> bytes:
    return ip4(UDP(sport=5000, dport=53) / b"hello", **ends)


def through(src: str = "10.0.0.9", dst: str = "10.1.0.5", sport: int = 5000, dport: int = 53, data: bytes = b"hello") -> bytes:
    return ip4(UDP(sport=sport, dport=dport) / data, src=src, dst=dst)


# -------------------------------------------------------------------------------------------------------------------- states


def test_new_and_established() -> None:
    kernel = Tracked()
    for packet in (through(), through(), through("10.1.0.5", "10.0.0.9", 53, 5000), through()):
        assert kernel.through(packet)
        kernel.at_rest()
    assert kernel.states == ["NEW", "NEW", "ESTABLISHED", "ESTABLISHED"]
    assert kernel.flow.counters == [3, 99, 1, 33]
    assert kernel.told.bits() == [Event.NEW, Event.REPLY]
    kernel.empty()


def test_what_goes_around_is_tracked_once_and_still_new_when_it_comes_in() -> None:
    kernel = Tracked()
    kernel.send(ip4(b"abc", proto=2, **AROUND))
    assert kernel.states == ["NEW", "NEW"]
    assert kernel.flow.counters == [1, 23, 0, 0]
    kernel.at_rest()


@pytest.mark.parametrize(
    ("packet", "state"),
    [
        (ip4(ICMP(type=3) / b"short"), "INVALID"),
        (ip4(ICMP(type=19)), "INVALID"),
        (ip4(ICMP(type=0)), "INVALID"),
        (ip4(ICMP(type=8, chksum=1)), "INVALID"),
        (ip4(UDP(dport=9, chksum=1) / b"x"), "INVALID"),
        (ip4(TCP(flags="SF")), "INVALID"),
        (ip4(TCP(flags="SA")), "INVALID"),
        (ip4(b"\x08\0\xf7\xff", proto=1), "INVALID"),
        (ip4(b"\x80\0\x7f\xff\0\0\0\0", proto=58), "INVALID"),
        (ip6(b"\x08\0\xf7\xff\0\0\0\0", nh=1), "INVALID"),
        (ip6(b"abc", nh=59), "INVALID"),
        (ip6(ICMPv6DestUnreach() / bytes(48)), "INVALID"),
        (ip6(ICMPv6ND_NS(tgt="fd00::1"), hlim=255), "UNTRACKED"),
        (ip6(PING6), "NEW"),
        (ip4(b"abc", proto=200), "NEW"),
    ],
)
def test_what_makes_no_flow(packet: bytes, state: str) -> None:
    kernel = Tracked()
    kernel.receive(packet)
    assert kernel.states[0] == state
    assert len(kernel.flows) == (state == "NEW")
    assert (kernel.table.statistics.invalid + kernel.table.statistics.error > 0) == (state == "INVALID")
    kernel.at_rest()
    kernel.empty()


def test_checksums_are_looked_at_unless_told_otherwise() -> None:
    kernel = Tracked()
    kernel.table.sysctls.current["checksum"] = 0
    kernel.through(ip4(UDP(dport=9, chksum=1) / b"x", dst="10.1.0.5"))
    assert kernel.states == ["NEW"]
    kernel.send(ip4(UDP(dport=9, chksum=1) / b"x", **OUT))
    assert kernel.states == ["NEW", "NEW"], "and never of what goes out"


def test_it_can_be_switched_off_and_on_again() -> None:
    kernel = Tracked()
    kernel.through(ip4(TCP(sport=5, dport=6, flags="S", seq=1)))
    kernel.through(ip4(TCP(sport=5, dport=7, flags="A", seq=1, ack=1), dst="10.1.0.5"))
    picked_up = next(flow for flow in kernel.flows if flow.original.dst_part == 7)
    assert isinstance(picked_up.proto, TcpInfo)
    assert picked_up.proto.sides[0].maxwin
    kernel.tracking.release(IPV4, "test")
    assert not kernel.tracking.is_on(IPV4)
    assert kernel.tracking.is_on(IPV6)
    kernel.states.clear()
    kernel.through(through(sport=9))
    assert kernel.states == ["INVALID"]
    kernel.tracking.need(IPV4, "test")
    assert picked_up.proto.state is TcpState.ESTABLISHED
    assert not picked_up.proto.sides[0].maxwin, "nobody has seen what went by meanwhile"
    kernel.empty()


# --------------------------------------------------------------------------------------------------------- errors and resets


@pytest.mark.parametrize("size", [*range(20, 29), 36])
def test_an_error_needs_the_ports_of_what_it_quotes(size: int) -> None:
    kernel = Tracked()
    kernel.send(udp(**OUT))
    kernel.receive(ip4(ICMP(type=3, code=1) / udp(**OUT)[:size]))
    assert kernel.states[1] == ("RELATED" if size >= 24 else "INVALID")
    assert kernel.flow.counters == [1, 33, 0, 0]
    kernel.at_rest()


def test_an_error_for_somebody_else_is_invalid() -> None:
    kernel = Tracked()
    kernel.through(through())
    for to, state in (("10.0.0.9", "RELATED"), ("10.0.0.8", "INVALID")):
        kernel.through(ip4(ICMP(type=11) / through()[:28], src="10.1.0.1", dst=to))
        assert kernel.states[-1] == state
    kernel.at_rest()


def test_what_a_rule_answers_belongs_to_the_flow_of_what_it_rejects() -> None:
    kernel = Tracked()

    def reject(skb: Skb, hook: int) -> int:
        kernel.hooks.reject(skb, 3)
        return DROP

    kernel.rule(INPUT, reject)
    assert kernel.receive(udp(dst="10.0.0.1")).dropped
    assert kernel.states == ["NEW", "RELATED"]
    assert kernel.flows == [], "it was never confirmed"
    assert kernel.table.count == 0


def test_a_reset_by_a_rule_closes_a_confirmed_connection() -> None:
    kernel = Tracked()
    kernel.through(ip4(TCP(sport=5, dport=6, flags="S", seq=1), dst="10.1.0.5"))
    kernel.told.bits()

    def reset(skb: Skb, hook: int) -> int:
        kernel.hooks.reject(skb, None)
        return DROP

    kernel.rule(FORWARD, reset)
    kernel.through(ip4(TCP(sport=5, dport=6, flags="S", seq=1), dst="10.1.0.5"))
    assert kernel.states == ["NEW", "NEW", "RELATED"]
    flow = kernel.flow
    assert isinstance(flow.proto, TcpInfo)
    assert flow.proto.state is TcpState.CLOSE
    assert kernel.table.seconds_left(flow) == 10
    kernel.at_rest()


# ------------------------------------------------------------------------------------------------------------------ templates


def test_a_template_gives_zone_helper_and_events() -> None:
    kernel = Tracked()
    helper = find_helper("ftp", IPV4, 6)
    kernel.template(Template(zone=Zone(7), helper=helper, events=Event.DESTROY))
    kernel.through(ip4(TCP(sport=5, dport=21, flags="S", seq=1), dst="10.1.0.5"))
    assert kernel.flow.zone == Zone(7)
    assert kernel.flow.help is not None
    assert kernel.flow.help.helper is helper
    assert kernel.flow.status & Status.HELPER
    assert kernel.told.bits() == []
    kernel.through(through())
    assert kernel.flows[1].help is None, "that one is for TCP"
    kernel.at_rest()


def test_a_zone_of_the_mark() -> None:
    kernel = Tracked()
    kernel.template(Template(zone_of_mark=True))

    def mark(skb: Skb, hook: int) -> int:
        skb.mark = 0x30004
        return ACCEPT

    kernel.rule(PREROUTING, mark, RAW)
    kernel.through(through())
    assert kernel.flow.zone == Zone(4)


def test_of_zones_bound_to_a_direction_only_that_one_is_in_them() -> None:
    kernel = Tracked()
    kernel.template(Template(zone=Zone(7, 1)))
    kernel.through(through())
    kernel.through(through("10.1.0.5", "10.0.0.9", 53, 5000))
    assert kernel.states == ["NEW", "ESTABLISHED"]


# -------------------------------------------------------------------------------------------------------------------- queues


VERDICTS = (ACCEPT, DROP, STOP, REPEAT)


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("hook", [PREROUTING, FORWARD, POSTROUTING])
@pytest.mark.parametrize("priority", [RAW, MANGLE, FILTER])
def test_what_waits_leaves_nothing_behind(hook: int, priority: int, verdict: int) -> None:
    kernel = Tracked()
    queue = kernel.queue(hook, priority)
    kernel.through(through())
    assert len(queue) == 1
    assert kernel.flows == [], "nothing is confirmed yet"
    assert kernel.table.count == (hook != PREROUTING or priority != RAW)
    kernel.answer(verdict)
    if verdict == REPEAT:
        assert len(queue) == 1
        kernel.answer(ACCEPT)
    tracked = not (verdict == STOP and hook == PREROUTING and priority == RAW)
    confirmed = verdict in (ACCEPT, REPEAT) or (verdict == STOP and hook != POSTROUTING and tracked)
    assert len(kernel.flows) == confirmed
    kernel.at_rest()
    kernel.empty()


@pytest.mark.parametrize("end", ["close", "unhook", "device", "full"])
def test_what_is_lost_in_a_queue_leaves_nothing_behind(end: str) -> None:
    kernel = Tracked()
    queue = kernel.queue(FORWARD)
    for sport in range(5):
        kernel.through(through(sport=sport))
    assert kernel.table.count == 5
    if end == "close":
        kernel.queues.destroy(1)
    elif end == "unhook":
        kernel.tracking.release(IPV4, "test")
    elif end == "device":
        kernel.stack.set_up("eth0", False)
    else:
        queue.max_length = 5
        kernel.through(through(sport=9))
        assert kernel.table.count == 5
        kernel.queues.destroy(1)
    assert kernel.table.count == 0


def test_the_second_of_two_first_packets_joins_the_flow_of_the_first() -> None:
    kernel = Tracked()
    kernel.queue(FORWARD)
    kernel.through(through())
    kernel.through(through())
    assert kernel.table.count == 2
    assert [kernel.answer(ACCEPT).fate for _ in range(2)] == [Fate.SENT] * 2
    assert kernel.flow.counters == [2, 66, 0, 0]
    assert kernel.table.statistics.clash_resolve == 1
    kernel.at_rest()


def test_so_does_one_that_goes_the_other_way_and_it_counts_as_if_it_did_not() -> None:
    """As measured on Linux 6.18."""
    kernel = Tracked()
    kernel.queue(FORWARD)
    kernel.through(through())
    kernel.through(through("10.1.0.5", "10.0.0.9", 53, 5000))
    assert [kernel.answer(ACCEPT).fate for _ in range(2)] == [Fate.SENT] * 2
    assert kernel.states == ["NEW", "NEW"]
    assert kernel.flow.counters == [2, 66, 0, 0]
    assert not kernel.flow.status & Status.SEEN_REPLY
    kernel.at_rest()


@pytest.mark.parametrize("payload", [TCP(sport=5, dport=6, flags="S", seq=1), ICMP(id=5)])
def test_connections_and_pings_cannot_have_begun_twice(payload: Any) -> None:
    kernel = Tracked()
    kernel.queue(FORWARD)
    kernel.through(ip4(payload, dst="10.1.0.5"))
    kernel.through(ip4(payload, dst="10.1.0.5"))
    assert [kernel.answer(ACCEPT).fate for _ in range(2)] == [Fate.SENT, Fate.DROPPED]
    statistics = kernel.table.statistics
    assert (statistics.insert_failed, statistics.drop, statistics.clash_resolve) == (1, 1, 0)
    kernel.at_rest()


def test_a_flow_flushed_while_its_first_packet_waits() -> None:
    kernel = Tracked()
    kernel.queue(FORWARD)
    kernel.through(through())
    waiting = kernel.queues.get(1)
    assert waiting is not None
    [entry] = waiting.entries.values()
    assert entry.skb.ct is not None
    kernel.table.delete(entry.skb.ct)
    assert kernel.answer(ACCEPT).dropped
    assert kernel.table.statistics.insert_failed == 1
    assert kernel.table.count == 0


def test_of_a_broadcast_and_its_copy_only_one_may_wait_for_confirming_their_flow() -> None:
    """As measured on Linux 6.18: the copy comes first and is lost, without a number."""
    kernel = Tracked()
    queue = kernel.queue(POSTROUTING, MANGLE)
    packet = udp(src="10.0.0.1", dst="10.0.0.255")
    kernel.send(packet)
    assert (len(queue), queue.last_id, queue.dropped, queue.user_dropped) == (1, 1, 0, 0)
    kernel.answer(ACCEPT)
    kernel.send(packet)
    assert len(queue) == 2, "once the flow is confirmed both may"
    kernel.queues.destroy(1)
    kernel.at_rest()
    kernel.empty()


@pytest.mark.parametrize("flags", [0, GSO])
def test_segments_of_one_packet_share_its_flow(flags: int) -> None:
    kernel = Tracked()
    queue = kernel.queue(OUTPUT)
    queue.flags = flags
    kernel.stack.send(ip4(UDP(sport=5, dport=6) / (b"x" * 35), **OUT), gso_size=10)
    assert len(queue) == (1 if flags else 4)
    while len(queue):
        kernel.answer(ACCEPT)
    assert kernel.flow.counters == [1, 63, 0, 0]
    kernel.at_rest()
    kernel.empty()


# ----------------------------------------------------------------------------------------------------------------- references


def packets(choose: random.Random) -> bytes:
    """One of a few flows, pieces of packets and errors among them."""
    src, dst = choose.sample(["10.0.0.9", "10.1.0.5", "10.0.0.1", "10.0.0.255"], 2)
    sport, dport = choose.choice((5, 6)), choose.choice((9, 5))
    payload: Any = choose.choice(
        (
            UDP(sport=sport, dport=dport) / b"x",
            TCP(sport=sport, dport=dport, flags=choose.choice(("S", "SA", "A", "R", "FA", "SF")), seq=choose.randrange(3)),
            ICMP(type=choose.choice((0, 3, 8)), id=5) / bytes(IP(src=dst, dst=src) / UDP(sport=dport, dport=sport)),
            UDP(sport=sport, dport=dport) / (b"x" * 100),
        )
    )
    if choose.random() < 0.2:
        ends = choose.sample(["fd00::9", "fd01::5", "fd00::1"], 2)
        return bytes(IPv6(src=ends[0], dst=ends[1]) / choose.choice((ICMPv6EchoRequest(id=5), UDP(sport=5, dport=6))))
    whole = IP(src=src, dst=dst, id=choose.randrange(1, 4)) / payload
    if choose.random() < 0.3:
        return bytes(choose.choice(fragment(whole, fragsize=48)))
    if choose.random() < 0.05:
        return bytes(IPv6(src="fd00::9", dst="fd01::5") / IPv6ExtHdrFragment(m=1, id=choose.randrange(3)) / (b"x" * 24))
    return bytes(whole)


def at_random(choose: random.Random, kernel: Tracked) -> HookFunction:
    """A rule that does any of the things rules do."""

    def rule(skb: Skb, hook: int) -> int:
        what = choose.random()
        if what < 0.1:
            return DROP
        if what < 0.15:
            kernel.hooks.reject(skb, choose.choice((None, 3)) if skb.family == IPV4 else 4)
            return DROP
        return ACCEPT

    return rule


@pytest.mark.parametrize("nat", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_every_packet_that_ends_gives_its_flow_back(seed: int, nat: bool) -> None:
    choose = random.Random(seed)
    kernel = Tracked(nat=nat)
    kernel.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
    if nat:
        kernel.bind(POSTROUTING, "10.0.0.1")
        kernel.bind(choose.choice((PREROUTING, OUTPUT)), "10.1.0.5", (5, 6))
    for family in (IPV4, IPV6):
        for hook in range(5):
            kernel.rule(hook, at_random(choose, kernel), choose.choice((MANGLE, FILTER)), family=family)
    queue = kernel.queue(choose.randrange(5), choose.choice((RAW, MANGLE, FILTER)))
    verbs: list[Callable[[bytes], object]] = [
        kernel.receive,
        kernel.send,
        lambda packet: kernel.stack.send(packet, gso_size=30),
    ]
    for _ in range(400):
        packet = packets(choose)
        verb = choose.choice(verbs)
        if verb is verbs[2] and (packet[0] >> 4 == 6 or packet[9] != 17 or packet[6:8] != b"\0\0"):
            verb = kernel.send
        verb(packet)
        if len(queue) and choose.random() < 0.6:
            kernel.answer(choose.choice((ACCEPT, ACCEPT, DROP, STOP, REPEAT)))
        if choose.random() < 0.03:
            kernel.clock.advance(choose.choice((0.5, 31, 200)))
        if choose.random() < 0.02:
            kernel.table.flush()
    kernel.queues.destroy(1)
    kernel.clock.advance(200)
    kernel.at_rest()
    kernel.empty()


def test_a_copy_of_everything_goes_its_own_way() -> None:
    kernel = Tracked(nat=True)
    kernel.queue(FORWARD)
    kernel.through(through())
    kernel.answer(ACCEPT)
    kernel.through(through(sport=1))
    twin = kernel.copied()
    twin.answer(ACCEPT)
    assert (len(twin.flows), len(kernel.flows)) == (2, 1)
    twin.at_rest()
    twin.empty()
    assert kernel.table.count == 2
    kernel.answer(DROP)
    kernel.at_rest()
    kernel.empty()


def test_how_a_packet_stands_to_its_flow_is_told_by_numbers_of_the_kernel() -> None:
    assert [info.value for info in CtInfo] == [0, 1, 2, 3, 4, 7]
    assert ip4(PING)[9] == 1
