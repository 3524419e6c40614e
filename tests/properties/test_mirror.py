"""The mirror against a kernel, whatever happens in whatever order: when all has been read, it is that kernel's table.

Flows come and go while dumps are read part by part; the receive buffer holds a handful of events, so that many are lost; dumps are
called interrupted, and events arrive broken. The same machine runs on both kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nfnl
from nfnl._pump import Pump
from nfnl.errors import Exists, NotFound
from nfnl.session.flowspec import tuple_of
from nfnl.session.mirror import MirrorSession
from nfnl.sim import FakeKernel
from nfnl.subsys.conntrack import Flow, Status, Tuple
from nfnl.testing.lab import LinuxLab
from nfnl.transport.base import SocketOptions
from nfnl.transport.wrap import WrappedTransport
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.datagram import Datagram
from tests import probes

#: Flows there may be: more than fit a part of a dump.
FLOWS = 60
#: A mirror that has not come to rest by then never will.
PATIENCE = 2000

#: What can happen between the parts of a dump.
MEANWHILE = ["comes", "goes", "changes", "is replaced", "many", "is read", "is read", "is interrupted"]

numbers = st.integers(0, FLOWS - 1)


def tuple_number(number: int) -> Tuple:
    if number % 7 == 0:
        return tuple_of(f"fd00::{number + 1:x}", "fd00::ffff", "udp", 1000 + number, 53)
    return tuple_of(f"10.0.0.{number + 1}", "10.0.9.9", ("tcp", "udp")[number % 2], 1000 + number, 53)


class Troublesome(WrappedTransport):
    """Says of parts of dumps that they were interrupted, and breaks events, as often as it was told."""

    interrupt = 0
    cut = 0

    def receive(self) -> list[bytes]:
        return [self._spoilt(datagram) for datagram in super().receive()]

    def _spoilt(self, datagram: bytes) -> bytes:
        is_event = datagram[8:12] == bytes(4)
        if is_event and self.cut:
            self.cut -= 1
            return Datagram.make(datagram[:40], truncated=True)
        if not is_event and self.interrupt and datagram[4:6] == Flow.__type__.to_bytes(2, sys.byteorder):
            self.interrupt -= 1
            first = decode(datagram)[0]  # and it has left something out
            assert isinstance(first, Flow)
            return bytes(first.replace(nlmsg_flags=first.nlmsg_flags | NlmsgFlag.DUMP_INTR))
        return datagram


def one_datagram_at_a_time() -> Any:
    """A dump is made as it is read: so that things can happen between its parts, they must not be read all at once."""
    stack = ExitStack()
    stack.enter_context(mock.patch("nfnl.sim.transport._AT_ONCE", 1))
    stack.enter_context(mock.patch("nfnl.transport.linux._SLOTS", 1))
    return stack


def content(flow: Flow) -> tuple[Any, ...]:
    """What must be equal: all but counters and times."""
    return (
        flow.id,
        flow.reply,
        flow.status,
        flow.mark or 0,
        flow.zone,
        flow.protoinfo,
        flow.helper,
        flow.label_numbers,
        flow.synproxy,
    )


class MirrorMachine(RuleBasedStateMachine):
    """Flows change, and the mirror reads of it as much or as little as it happens to."""

    on_linux = False
    kernel: Any

    @contextmanager
    def a_kernel(self) -> Iterator[Any]:
        with FakeKernel() as kernel:
            yield kernel

    @initialize(buffer=st.sampled_from([1, 6000, 1 << 20]), delay=st.sampled_from([0.0, 5.0]), many=st.booleans())
    def open(self, buffer: int, delay: float, many: bool) -> None:
        self.delay = 0.0 if self.on_linux else delay
        self.things = ExitStack()
        self.kernel = self.things.enter_context(self.a_kernel())
        self.things.enter_context(one_datagram_at_a_time())
        self.kernel.sysctl("net.netfilter.nf_conntrack_events", 1)
        self.table = self.things.enter_context(nfnl.open_conntrack(kernel=self.kernel))
        if many:
            self.many_flows_come(0, FLOWS)
        self.session = MirrorSession(resync_delay=self.delay)
        self.transport = Troublesome(self.kernel.open(SocketOptions(receive_buffer=buffer)))
        self.things.callback(self.transport.close)
        self.pump = Pump(self.session, self.transport)
        self.pump.send()

    # -- what happens to flows -------------------------------------------------------------------------------------------------

    @rule(number=numbers, mark=st.integers(0, 3))
    def a_flow_comes(self, number: int, mark: int) -> None:
        with suppress(Exists):
            self.table.create(tuple_number(number), timeout=600, mark=mark)

    @rule(first=numbers, count=st.integers(1, 30))
    def many_flows_come(self, first: int, count: int) -> None:
        for number in range(first, min(first + count, FLOWS)):
            self.a_flow_comes(number, number % 3)

    @rule(number=numbers, mark=st.integers(0, 3), status=st.none() | st.just(Status.ASSURED))
    def a_flow_changes(self, number: int, mark: int, status: Status | None) -> None:
        with suppress(NotFound):
            flow = self.table.get(tuple_number(number))
            self.table.update(flow, mark=mark, status=status, tcp_state=3 if flow.protocol == 6 else None)

    @rule(number=numbers)
    def a_flow_goes(self, number: int) -> None:
        with suppress(NotFound):
            self.table.delete(tuple_number(number))

    @rule(number=numbers)
    def a_flow_is_replaced(self, number: int) -> None:
        self.a_flow_goes(number)
        self.a_flow_comes(number, 0)

    @rule(mark=st.integers(0, 3))
    def flows_with_a_mark_go(self, mark: int) -> None:
        self.table.flush(mark=mark)

    @precondition(lambda self: not self.on_linux)
    @rule(seconds=st.sampled_from([1, 5, 700]))
    def time_passes(self, seconds: int) -> None:
        self.kernel.advance(seconds)

    @rule(what=st.lists(st.tuples(st.sampled_from(MEANWHILE), numbers), min_size=3, max_size=12))
    def flows_change_while_the_table_is_read(self, what: list[tuple[str, int]]) -> None:
        """The dump begins, and between its parts, which are few, things happen."""
        while self.step() or self.session.dumping:
            pass
        self.session.due = self.transport.now()
        self.step()
        for change, number in what:
            match change:
                case "comes":
                    self.a_flow_comes(number, 1)
                case "goes":
                    self.a_flow_goes(number)
                case "changes":
                    self.a_flow_changes(number, 2, None)
                case "is replaced":
                    self.a_flow_is_replaced(number)
                case "is read":
                    self.step()
                case "is interrupted":
                    self.a_dump_is_interrupted(1)
                case "many":
                    self.many_flows_come(number, 20)

    # -- what happens to the mirror --------------------------------------------------------------------------------------------

    @rule(times=st.integers(1, 5))
    def some_of_it_is_read(self, times: int) -> None:
        for _ in range(times):
            self.step()

    @rule(count=st.integers(1, 2))
    def a_dump_is_interrupted(self, count: int) -> None:
        self.transport.interrupt = count

    @rule(count=st.integers(1, 3))
    def events_arrive_broken(self, count: int) -> None:
        self.transport.cut = count

    def step(self) -> bool:
        received = self.pump.receive()
        self.session.events.clear()
        self.pump.send()
        return received

    @rule()
    def all_is_read(self) -> None:
        self.transport.interrupt = self.transport.cut = 0
        list(self.table.flows())  # whose time is up goes now, and not when it is compared
        for _ in range(PATIENCE):
            if self.step() or self.session.dumping:
                continue
            if self.session.mirror.synced:
                break
            self.kernel.advance(self.delay)
        assert self.session.mirror.synced
        mirrored = {(flow.zone, flow.original): content(flow) for flow in self.session.mirror}
        assert mirrored == {(flow.zone, flow.original): content(flow) for flow in self.table.flows()}
        assert len(self.session.mirror) == len(mirrored)

    @invariant()
    def nothing_is_in_it_twice(self) -> None:
        if hasattr(self, "session"):
            keys = [(flow.zone, flow.original) for flow in self.session.mirror]
            assert len(set(keys)) == len(keys)

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.all_is_read()
        if hasattr(self, "things"):
            self.things.close()


class LinuxMirrorMachine(MirrorMachine):
    on_linux = True

    @contextmanager
    def a_kernel(self) -> Iterator[Any]:
        probes.require("lab-available")
        with LinuxLab() as kernel:
            yield kernel


TestMirror = MirrorMachine.TestCase
TestMirror.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMirrorOfLinux = LinuxMirrorMachine.TestCase
TestMirrorOfLinux.settings = settings(max_examples=8, stateful_step_count=30, deadline=None)
