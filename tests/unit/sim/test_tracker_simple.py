"""UDP and the other simple ones (rule B.6)."""

from __future__ import annotations

from struct import pack

import pytest

from nfnl.sim.ct_entry import Entry, Event, Status
from nfnl.sim.ct_sysctls import HZ, SYSCTLS
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, UDP
from nfnl.sim.tracker import INVALID, Answer
from nfnl.sim.tracker_simple import TRACKERS, sound_udp, sound_udplite, track_generic
from nfnl.sim.tuples import DEFAULT_ZONE, GRE, UDPLITE, Tuple
from tests.unit.sim.flows import A, B


class Flow:
    def __init__(self, protocol: int, dst_part: int = 0) -> None:
        t = Tuple(IPV4, A, B, protocol, 0, dst_part)
        self.entry = Entry(1, DEFAULT_ZONE, t, t.inverse() or t, None)
        self.current = {name: row.default for name, row in SYSCTLS.items()}
        self.track = TRACKERS.get(protocol, track_generic)

    def packet(self, seconds: float, *, reply: bool = False) -> tuple[int, int]:
        """Timeout in seconds, and events; a first answer sets SEEN_REPLY afterwards."""
        answer = self.track(self.entry, self.current, round(seconds * HZ))
        assert answer.timeout is not None
        self.entry.status |= answer.status | Status.CONFIRMED | (Status.SEEN_REPLY if reply else 0)
        assert bool(answer.status & Status.ASSURED) == bool(answer.events & Event.ASSURED)
        return answer.timeout // HZ, answer.events


def test_udp_is_a_stream_when_it_is_answered_for_more_than_two_seconds() -> None:
    flow = Flow(UDP)
    assert flow.packet(0) == (30, 0)
    assert flow.packet(5) == (30, 0)
    assert flow.packet(5, reply=True) == (30, 0)  # the first answer is not known yet
    assert flow.packet(5) == (120, Event.ASSURED)
    assert flow.packet(5) == (120, 0)


def test_udp_within_two_seconds_is_no_stream() -> None:
    flow = Flow(UDP)
    flow.packet(0)
    flow.packet(1, reply=True)
    assert flow.packet(2) == (30, 0)
    assert flow.packet(2.004) == (120, Event.ASSURED)


def test_a_udp_flow_that_a_request_made_answered_is_a_stream_at_once() -> None:
    flow = Flow(UDP)
    flow.entry.status = Status.CONFIRMED | Status.SEEN_REPLY
    assert flow.packet(0.004) == (120, Event.ASSURED)


def test_udplite_is_a_stream_at_once() -> None:
    flow = Flow(UDPLITE)
    assert [flow.packet(0), flow.packet(0, reply=True), flow.packet(0), flow.packet(0)] == [
        (30, 0),
        (30, 0),
        (120, Event.ASSURED),
        (120, 0),
    ]


def test_gre_keeps_the_timeouts_of_its_beginning() -> None:
    flow = Flow(GRE)
    assert flow.packet(0) == (30, 0)
    flow.current.update(gre_timeout=1, gre_timeout_stream=2)
    assert [flow.packet(0, reply=True), flow.packet(0)] == [(30, 0), (180, Event.ASSURED)]


def test_a_gre_flow_that_a_request_made_ends_with_its_first_packet() -> None:
    flow = Flow(GRE)
    flow.entry.status = Status.CONFIRMED
    assert flow.packet(0) == (0, 0)


def test_one_that_lost_a_clash_is_never_assured() -> None:
    flow = Flow(UDPLITE)
    flow.entry.status = Status.CONFIRMED | Status.SEEN_REPLY | Status.NAT_CLASH
    assert flow.packet(0) == (120, 0)


def test_others_have_ten_minutes_and_are_never_assured() -> None:
    flow = Flow(50)
    assert [flow.packet(0), flow.packet(0, reply=True), flow.packet(9)] == [(600, 0)] * 3


@pytest.mark.parametrize(("protocol", "starting"), [(ICMP, {8, 13, 15, 17}), (ICMPV6, {128, 139})])
def test_icmp_flows_start_with_a_question(protocol: int, starting: set[int]) -> None:
    for kind in range(256):
        flow = Flow(protocol, kind << 8)
        answer = flow.track(flow.entry, flow.current, 0)
        assert answer == (Answer(timeout=30 * HZ) if kind in starting else INVALID)
        flow.entry.status |= Status.CONFIRMED | Status.SEEN_REPLY
        assert flow.track(flow.entry, flow.current, 0) == Answer(timeout=30 * HZ)


def test_a_flow_may_have_timeouts_of_its_own() -> None:
    flow = Flow(UDP)
    flow.entry.timeouts = {"udp_timeout": 5, "udp_timeout_stream": 6}
    assert flow.packet(0) == (5, 0)


@pytest.mark.parametrize(
    ("length", "there", "sound"),
    [(8, 8, True), (8, 20, True), (20, 20, True), (21, 20, False), (7, 20, False), (0, 20, False), (8, 6, False)],
)
def test_udp_lengths(length: int, there: int, sound: bool) -> None:
    assert sound_udp(pack("!HHHH", 1, 2, length, 0).ljust(there, b"x")[:there]) == sound


@pytest.mark.parametrize(
    ("coverage", "checksum", "there", "sound"),
    [
        (0, 1, 20, True),
        (8, 1, 20, True),
        (20, 1, 20, True),
        (21, 1, 20, False),
        (7, 1, 20, False),
        (0, 0, 20, False),
        (0, 1, 7, False),
    ],
)
def test_udplite_coverage(coverage: int, checksum: int, there: int, sound: bool) -> None:
    assert sound_udplite(pack("!HHHH", 1, 2, coverage, checksum).ljust(there, b"x")[:there]) == sound
