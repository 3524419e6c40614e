"""A data plane without netlink for the tests of it, and packets made by scapy, which shares no code with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from nfnl.sim.clock import Clock
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.expectations import ExpectationTable
from nfnl.sim.ground import Ground
from nfnl.sim.hooks import HookTable
from nfnl.sim.iptables import Iptables
from nfnl.sim.journey import Journey
from nfnl.sim.nat import Nat
from nfnl.sim.nat_hooks import NatHooks
from nfnl.sim.queueing import COPY_PACKET, Queue, QueuedEntry, QueueTable
from nfnl.sim.skb import IPV4, IPV6, Skb
from nfnl.sim.stack import Stack
from nfnl.sim.tracking import Tracking

logging.getLogger("scapy").setLevel(logging.CRITICAL)

from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6  # noqa: E402


class Tapped(Stack):
    """Notes what leaves through a device, in the order it leaves."""

    def __init__(self, clock: Clock, queues: QueueTable) -> None:
        self.seen: list[tuple[str, bytes]] = []
        super().__init__(clock, queues)

    def _transmit(self, skb: Skb) -> int:
        dev, looped, place = skb.outdev, skb.looped, len(self.seen)
        assert dev is not None
        error = super()._transmit(skb)
        if not looped and not skb.journey.dropped:
            self.seen.insert(place, (dev.name, skb.data))
        return error


@dataclass
class World:
    """One network namespace, and an owner of queues that notes what it is told."""

    clock: Clock = field(default_factory=Clock)
    hooks: HookTable = field(default_factory=HookTable)
    told: list[tuple[int, QueuedEntry]] = field(default_factory=list)
    listening: bool = True

    def __post_init__(self) -> None:
        self.queues = QueueTable(self.hooks)
        self.stack = Tapped(self.clock, self.queues)
        self.conntrack = ConntrackTable(self.clock)
        self.tracking = Tracking(self.hooks, self.conntrack, ExpectationTable(self.conntrack), self.stack.defragment)
        self.stack.responder.related = self.tracking.belong_together
        self.stack.rejecter.closing = self.tracking.close
        nat_hooks = NatHooks(self.hooks, Nat(self.conntrack), self.stack.routing)
        self.ground = Ground(self.hooks, self.clock, self.stack.routing, self.tracking, nat_hooks)
        self.iptables = Iptables(self.ground, IPV4)
        self.ip6tables = Iptables(self.ground, IPV6)

    def listen(self, number: int = 1, *, mode: int = COPY_PACKET, flags: int = 0, max_length: int = 1024) -> Queue:
        queue = self.queues.create(number, owner=77)
        queue.copy_mode, queue.flags, queue.max_length = mode, flags, max_length
        queue.deliver = self._deliver
        return queue

    def _deliver(self, queue: Queue, entry: QueuedEntry) -> bool:
        if self.listening:
            self.told.append((queue.number, entry))
        return self.listening

    def answer(self, verdict: int, number: int = 1, packet_id: int | None = None) -> Journey:
        """Decide the packet with this id, or the oldest."""
        queue = self.queues.get(number)
        assert queue is not None
        entry = queue.take(next(iter(queue.entries)) if packet_id is None else packet_id)
        assert entry is not None
        self.queues.reinject(entry, verdict)
        return entry.journey

    def hits(self, chain: str, *, table: str = "filter", v6: bool = False) -> list[int]:
        """How often each rule of a chain was met."""
        tables = (self.ip6tables if v6 else self.iptables).ruleset
        return [rule.packets for rule in tables.table(table).chain(chain).rules]


def ip4(payload: Any, **fields: Any) -> bytes:
    """IPv4 from a neighbour to this machine, unless said otherwise."""
    return bytes(IP(**{"src": "10.0.0.9", "dst": "10.0.0.1", **fields}) / payload)


def ip6(payload: Any, **fields: Any) -> bytes:
    """IPv6 from a neighbour to this machine, unless said otherwise."""
    return bytes(IPv6(**{"src": "fd00::9", "dst": "fd00::1", **fields}) / payload)


PING = ICMP(id=1) / b"hello"
PING6 = ICMPv6EchoRequest(id=1, data=b"hello")

__all__ = ["ICMP", "IP", "PING", "PING6", "TCP", "UDP", "ICMPv6EchoRequest", "IPv6", "Tapped", "World", "ip4", "ip6"]
