"""A data plane with connection tracking and translation, for tests of them: rules are functions, and nothing speaks netlink."""

from __future__ import annotations

import copy
from ipaddress import ip_address

from nfnl.sim.clock import Clock
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry
from nfnl.sim.expectations import ExpectationTable
from nfnl.sim.helper_ftp import FtpHelper
from nfnl.sim.hooks import ACCEPT, INPUT, OUTPUT, POSTROUTING, PREROUTING, QUEUE, HookFunction, HookTable
from nfnl.sim.journey import Journey, Step
from nfnl.sim.nat import Nat, Range
from nfnl.sim.nat_hooks import MANIPS, NatHooks
from nfnl.sim.queueing import COPY_PACKET, Queue, QueuedEntry, QueueTable
from nfnl.sim.seqadj import adjust
from nfnl.sim.skb import IPV4, IPV6, Skb
from nfnl.sim.tracking import Template, Tracking, state_of
from tests.unit.sim.dataplane import Tapped
from tests.unit.sim.flows import Told

RAW, MANGLE, FILTER = -300, -150, 0
HERE, THERE = "10.0.0.1", "10.0.0.9"


class Tracked:
    """One network namespace that tracks, and may translate. What it is told of flows is in ``told``."""

    def __init__(self, *, nat: bool = False, acct: bool = True) -> None:
        self.clock = Clock()
        self.hooks = HookTable()
        self.queues = QueueTable(self.hooks)
        self.stack = Tapped(self.clock, self.queues)
        self.stack.sysctls |= {"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0}
        self.stack.sysctls |= {f"net.ipv4.conf.{name}.send_redirects": 0 for name in ("all", "eth0", "default")}
        self.table = ConntrackTable(self.clock)
        self.told = Told()
        self.table.events.listener = self.told
        self.table.sysctls.current["events"] = 1
        self.table.sysctls.current["acct"] = int(acct)
        self.expectations = ExpectationTable(self.table)
        self.nat = Nat(self.table)
        self.tracking = Tracking(self.hooks, self.table, self.expectations, self.stack.defragment)
        self.tracking.adjust_sequence = adjust
        self.ftp = FtpHelper(self.expectations, self.nat, self.table.lots)
        self.tracking.helpers["ftp"] = self.ftp
        self.tracking.expected["nat-follow-master"] = self.ftp.follow_master
        self.nat_hooks = NatHooks(self.hooks, self.nat, self.stack.routing)
        self.stack.responder.related = self.tracking.belong_together
        self.stack.rejecter.closing = self.tracking.close
        #: states of packets, in the order they were met
        self.states: list[str] = []
        for family in (IPV4, IPV6):
            self.tracking.need(family, "test")
            for hook in (PREROUTING, OUTPUT):
                self.hooks.register(family, hook, MANGLE, "states", self._note_state)
            if nat:
                for hook in (PREROUTING, INPUT, OUTPUT, POSTROUTING):
                    self.nat_hooks.add(family, hook, 0, "idle", _idle)

    def _note_state(self, skb: Skb, hook: int) -> int:
        self.states.append(state_of(skb))
        return ACCEPT

    # ------------------------------------------------------------------ rules

    def rule(self, hook: int, function: HookFunction, priority: int = FILTER, *, family: int = IPV4) -> None:
        """Hang something at a hook, with a step of its own as rules have."""

        def stepping(skb: Skb, hook: int) -> int:
            skb.journey.steps.append(Step("", "test", "", function.__name__, ""))  # type: ignore[attr-defined]
            return function(skb, hook)

        self.hooks.register(family, hook, priority, f"rule {id(function)}", stepping)

    def template(self, template: Template, *, family: int = IPV4) -> None:
        """``-j CT`` for everything."""

        def set_template(skb: Skb, hook: int) -> int:
            if skb.ct is None:
                skb.template = template
            return ACCEPT

        for hook in (PREROUTING, OUTPUT):
            self.rule(hook, set_template, RAW, family=family)

    def queue(self, hook: int, priority: int = FILTER, number: int = 1, *, family: int = IPV4) -> Queue:
        """Everything that comes by goes to a queue, whose owner takes it."""

        def to_queue(skb: Skb, hook: int) -> int:
            return number << 16 | QUEUE

        self.rule(hook, to_queue, priority, family=family)
        queue = self.queues.create(number, owner=77)
        queue.copy_mode = COPY_PACKET
        queue.deliver = _takes_everything
        return queue

    def bind(self, hook: int, address: str | None = None, ports: tuple[int, int] | None = None, *, family: int = IPV4) -> None:
        """SNAT or DNAT of all new flows."""
        addresses = None
        if address is not None:
            packed = ip_address(address).packed
            addresses = packed, packed
        self.ask(hook, lambda skb, hook: self.nat_hooks.bind(skb, hook, Range(addresses, ports)), family=family)

    def ask(self, hook: int, function: HookFunction, *, family: int = IPV4) -> None:
        """A chain of a nat table."""
        self.nat_hooks.add(family, hook, -1, f"chain {MANIPS[hook].name} {id(function)}", function)

    # ------------------------------------------------------------------ packets

    def receive(self, packet: bytes) -> Journey:
        return self.stack.receive(packet)

    def send(self, packet: bytes) -> Journey:
        return self.stack.send(packet)

    def through(self, packet: bytes) -> bytes | None:
        """It arrives, to be passed on; what leaves."""
        self.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
        self.stack.seen.clear()
        self.stack.receive(packet)
        return self.stack.seen[0][1] if self.stack.seen else None

    def answer(self, verdict: int, number: int = 1) -> Journey:
        """Decide the oldest packet."""
        queue = self.queues.get(number)
        assert queue is not None
        entry = queue.take(next(iter(queue.entries)))
        assert entry is not None
        self.queues.reinject(entry, verdict)
        return entry.journey

    # ------------------------------------------------------------------ flows

    @property
    def flows(self) -> list[Entry]:
        return list(self.table.walk())

    @property
    def flow(self) -> Entry:
        [entry] = self.flows
        return entry

    def at_rest(self) -> None:
        """Nobody but the table holds any flow: not packets that ended, not fragments, not queues."""
        flows = self.flows
        slaves = {id(flow): sum(other.master is flow for other in flows) for flow in flows}
        held = {str(flow): flow.use - 1 - slaves[id(flow)] for flow in flows if flow.use - 1 - slaves[id(flow)]}
        assert not held
        assert self.table.count == len(flows) == len(self.table)

    def empty(self) -> None:
        """Nor does anybody once they are gone."""
        self.table.flush()
        assert self.table.count == 0
        assert not self.nat._by_source
        assert not self.nat_hooks._devices

    def copied(self) -> Tracked:
        """Another such namespace, in the same state."""
        return copy.deepcopy(self)


def _takes_everything(queue: Queue, entry: QueuedEntry) -> bool:
    return True


def _idle(skb: Skb, hook: int) -> int:
    return ACCEPT


__all__ = ["FILTER", "HERE", "MANGLE", "RAW", "THERE", "Tracked"]
