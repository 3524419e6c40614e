"""Flows in queue messages and in verdicts, for kernels that have the glue."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

import nfnl
from nfnl.sim import FakeKernel
from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.ct_messages import attached_flow
from nfnl.sim.expectations import Expectation
from nfnl.sim.profile import Profile
from nfnl.subsys.conntrack import AttachedFlow, Help, Tuple, TupleIp, TupleProto
from nfnl.subsys.conntrack import Status as Bits
from nfnl.subsys.expect import AttachedExpectation
from nfnl.subsys.queue import ConntrackInfo, QueueFlag
from tests.unit.sim.dataplane import TCP, UDP, ip4

GLUED = replace(Profile(), conntrack_glue=True)
OUT = {"src": "10.0.0.1", "dst": "10.0.0.9"}


class Held:
    """A kernel where the first packet of a flow waits, and the handle of it."""

    def __init__(self, *rules: str, packet: bytes | None = None, **areas: int) -> None:
        self.kernel = FakeKernel(profile=GLUED)
        for name, value in areas.items():
            self.kernel.sysctl(f"net.netfilter.nf_conntrack_{name}", value)
        for rule in rules:
            self.kernel.iptables(rule)
        self.kernel.iptables("-A OUTPUT -m conntrack --ctstate NEW,ESTABLISHED -j NFQUEUE --queue-num 1")
        self.queue = nfnl.open_queue(1, kernel=self.kernel, flags=QueueFlag.CONNTRACK)
        self.journey = self.kernel.send(packet or ip4(UDP(sport=5000, dport=9000) / b"hello", **OUT))
        with self.kernel.until_idle():
            [self.packet] = list(self.queue)
            queued = next(iter(self.kernel._world.queues.queues()[0].entries.values()))
            assert queued.skb.ct is not None
            self.flow: Entry = queued.skb.ct

    def accept(self, flow: AttachedFlow | None = None, **change: Any) -> Entry:
        """The flow afterwards."""
        if flow is not None:
            change["flow"] = flow
        self.packet.accept(**change)
        self.queue.flush()
        return self.flow


def test_what_is_told_of_a_flow_that_is_not_confirmed() -> None:
    held = Held("-t raw -A OUTPUT -j CT --zone 7", "-t mangle -A OUTPUT -j CONNMARK --set-mark 5", acct=1, timestamp=1)
    flow = held.packet.flow
    assert flow is not None
    assert held.packet.flow_info == ConntrackInfo.NEW
    assert (flow.zone, flow.status, flow.timeout, flow.mark) == (7, 0, 30, 5)
    assert flow.counters_original is not None
    assert (flow.counters_original.packets, flow.counters_original.bytes) == (1, 33)
    assert flow.timestamp is not None
    assert flow.timestamp.start == 0
    assert flow.id == held.flow.id


def test_in_the_order_of_the_kernel() -> None:
    held = Held("-t raw -A OUTPUT -p tcp -j CT --zone 7 --helper ftp", acct=1, timestamp=1, packet=ip4(TCP(dport=21), **OUT))
    body, numbers, at = attached_flow(held.flow, held.kernel._world.conntrack), [], 0
    while at < len(body):
        length, number = struct.unpack_from("=HH", body, at)
        numbers.append(number & 0x3FFF)
        at += length + 3 & ~3
    assert numbers == [1, 2, 18, 12, 3, 7, 4, 9, 10, 20, 5, 8]


def test_without_the_flag_nothing_is_told_and_without_the_glue_there_is_no_flag() -> None:
    kernel = FakeKernel()
    with pytest.raises(nfnl.NetlinkError) as refused:
        nfnl.open_queue(1, kernel=kernel, flags=QueueFlag.CONNTRACK)
    assert refused.value.errno == 95
    kernel = FakeKernel(profile=GLUED)
    kernel.iptables("-A OUTPUT -m conntrack --ctstate NEW -j NFQUEUE --queue-num 1")
    with nfnl.open_queue(1, kernel=kernel) as queue, kernel.until_idle():
        kernel.send(ip4(UDP(dport=9000), **OUT))
        for packet in queue:
            assert (packet.flow, packet.flow_info) == (None, None)
            packet.accept()


def test_a_verdict_changes_a_flow_before_it_is_confirmed() -> None:
    held = Held()
    flow = held.accept(AttachedFlow(timeout=777, mark=0x99, status=Bits(Status.FIXED_TIMEOUT)))
    assert flow.confirmed
    assert flow.mark == 0x99
    assert flow.status & Status.FIXED_TIMEOUT
    assert held.kernel._world.conntrack.seconds_left(flow) == 777
    held.kernel.advance(100)
    [shown] = held.kernel.flows()
    assert (shown.timeout, shown.mark) == (677, 0x99)


def test_labels_of_a_flow_that_has_room_for_them() -> None:
    held = Held("-t mangle -A OUTPUT -m connlabel --label 3 -j RETURN")
    flow = held.accept(AttachedFlow(labels=(1 << 5).to_bytes(16, "little")))
    assert flow.labels == 1 << 5


def test_status_bits_may_be_cleared_but_for_those_that_last() -> None:
    held = Held()
    held.flow.status |= Status.FIXED_TIMEOUT | Status.HELPER
    held.accept(AttachedFlow(status=Bits(Status.FIXED_TIMEOUT | Status.CONFIRMED | Status.SRC_NAT)))
    assert held.flow.status == Status.FIXED_TIMEOUT | Status.CONFIRMED, "confirmed, as what is accepted is"
    other = Held()
    other.flow.status |= Status.ASSURED
    other.accept(AttachedFlow(status=Bits(0), mark=7))
    assert other.flow.status == Status.ASSURED | Status.CONFIRMED
    assert other.flow.mark == 0, "what comes behind an error is not done"


def test_no_helper_is_given_to_a_flow_that_has_none() -> None:
    held = Held(packet=ip4(TCP(dport=21), **OUT))
    held.accept(AttachedFlow(help=Help(name="ftp"), mark=7))
    assert held.flow.help is None
    assert held.flow.mark == 0


def tcp_to(port: int, source: str = "10.0.0.9", destination: str = "10.0.0.1", sport: int = 0) -> Tuple:
    return Tuple(
        ip=TupleIp(v4_src=IPv4Address(source), v4_dst=IPv4Address(destination)),
        proto=TupleProto(num=6, src_port=sport, dst_port=port),
    )


MASK = tcp_to(0xFFFF, "255.255.255.255", "255.255.255.255")


def expecting(*rules: str) -> list[Expectation]:
    held = Held(*rules, packet=ip4(TCP(dport=21), **OUT))
    held.accept(AttachedFlow(mark=1), expectation=AttachedExpectation(tuple=tcp_to(1025), mask=MASK))
    return list(held.kernel._world.expectations)


def test_a_verdict_can_expect_another_flow() -> None:
    [expected] = expecting("-t raw -A OUTPUT -p tcp -j CT --helper ftp")
    assert expected.tuple.dst_part == 1025
    assert expected.master.original.dst_part == 21
    assert expecting() == [], "without a helper it cannot"
