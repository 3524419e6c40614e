"""Packets that stand for several, and what becomes of their journeys."""

from __future__ import annotations

import errno

import pytest

from nfnl.errors import NotModelled
from nfnl.sim.journey import Fate
from nfnl.sim.kernel import FakeKernel
from nfnl.sim.skb import checksum
from tests.unit.sim.dataplane import PING, TCP, UDP, World, ip4

DATA = UDP(sport=5000, dport=9000) / bytes(350)
OUT = {"src": "10.0.0.1", "dst": "10.0.0.9"}


def test_it_is_cut_at_the_device_if_not_before() -> None:
    world = World()
    journey = world.stack.send(ip4(DATA, **OUT), gso_size=100)
    assert (journey.fate, journey.reason, journey.errno) == (Fate.SPLIT, "into 4 segments", 0)
    assert [(segment.fate, len(segment.data)) for segment in journey.segments] == [
        (Fate.SENT, 128),
        (Fate.SENT, 128),
        (Fate.SENT, 128),
        (Fate.SENT, 78),
    ]
    assert [checksum(segment.data[:20]) for segment in journey.segments] == [0] * 4


def test_it_crosses_the_loopback_whole() -> None:
    world = World()
    journey = world.stack.send(ip4(DATA, src="127.0.0.1", dst="127.0.0.1"), gso_size=100)
    assert (journey.fate, journey.segments) == (Fate.DELIVERED, [])
    [unreachable] = journey.answers
    assert len(unreachable.data) == 28 + 378


def test_segments_go_on_from_the_queue() -> None:
    world = World()
    world.iptables("-A OUTPUT -p udp -j NFQUEUE --queue-num 1")
    world.listen(max_length=3)
    journey = world.stack.send(ip4(DATA, **OUT), gso_size=80, mark=7)
    assert journey.fate is Fate.SPLIT
    first, second, third, fourth, fifth = journey.segments
    assert first.steps == journey.steps
    assert (third.queued, third.queue, third.mark) == (True, 1, 7)
    assert (fourth.dropped, fourth.reason) == (True, "queue 1 is full")
    assert (fifth.dropped, fifth.reason) == (True, "a segment before it was lost at queue 1")
    assert world.answer(1) is first
    assert (first.fate, second.queued) == (Fate.SENT, True)
    assert first.hooks == ["OUTPUT", "POSTROUTING"]


def test_what_a_verdict_made_of_it_may_be_impossible_to_cut() -> None:
    world = World()
    world.iptables("-A OUTPUT -p udp -j NFQUEUE --queue-num 1")
    queue = world.listen(flags=4)
    journey = world.stack.send(ip4(DATA, **OUT), gso_size=100)
    assert world.queues.replace_payload(next(iter(queue.entries.values())), ip4(UDP(), **OUT))
    assert world.answer(1) is journey
    assert (journey.dropped, journey.reason) == (True, "it is to be cut into segments, and cannot be")


def test_there_may_be_128_segments() -> None:
    world = World()
    assert len(world.stack.send(ip4(DATA, **OUT), gso_size=3).segments) == 117
    journey = world.stack.send(ip4(DATA, **OUT), gso_size=2)
    assert (journey.errno, journey.dropped, journey.reason) == (errno.EINVAL, True, "more than 128 segments")


def test_tcp_is_cut_as_well() -> None:
    """How many there may be is limited for UDP alone. Where a verdict left less of it than a header, it cannot be cut."""
    world = World()
    world.iptables("-A OUTPUT -p tcp -j NFQUEUE --queue-num 1")
    queue = world.listen(flags=4)
    journey = world.stack.send(ip4(TCP(flags="PA") / bytes(350), **OUT), gso_size=2)
    assert world.answer(1) is journey
    assert (journey.fate, len(journey.segments)) == (Fate.SPLIT, 175)
    journey = world.stack.send(ip4(TCP(flags="PA") / bytes(350), **OUT), gso_size=100)
    assert world.queues.replace_payload(next(iter(queue.entries.values())), ip4(TCP(), **OUT)[:30])
    world.answer(1)
    assert (journey.dropped, journey.segments) == (True, [])


def test_nothing_else_is_cut() -> None:
    with FakeKernel() as kernel, pytest.raises(NotModelled, match="TCP and UDP"):
        kernel.send(ip4(PING / bytes(350), **OUT), gso_size=100)


def test_a_snapshot_brings_segments_back() -> None:
    with FakeKernel() as kernel:
        kernel.iptables("-A OUTPUT -p udp -j NFQUEUE --queue-num 1 --queue-bypass")
        snapshot = kernel.snapshot()
        journey = kernel.send(ip4(DATA, **OUT), gso_size=100)
        assert [segment.fate for segment in journey.segments] == [Fate.SENT] * 4
        snapshot.restore()
        again = kernel.send(ip4(DATA, **OUT), gso_size=100)
        assert [segment.data for segment in again.segments] == [segment.data for segment in journey.segments]
