"""The queue session against a small model of the kernel's queue, whatever happens in whatever order.

What must hold: every packet gets at most one verdict, and it is the one its handler gave; no batch decides a packet nobody decided
but by policy; counters never fall; any bytes are survived.
"""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nfnl
from nfnl.errors import NfnlError, RemoteProtocolError
from nfnl.session.events import PacketQueued, PacketsLost, Refused, Undecodable
from nfnl.session.queue import Policy, QueueSession
from nfnl.testing.strategies import datagrams
from nfnl.wire.datagram import Datagram
from tests.unit.session.kernel_model import MASK, ModelQueue

WORDS = [0, 1, 5, 4, 3 | 7 << 16]


class QueueMachine(RuleBasedStateMachine):
    """Packets come, get lost, arrive broken; verdicts are given in any order and leave at any time."""

    @initialize(first=st.sampled_from([1, 0xFFFFFFF0, 0x7FFFFFF8]), policy=st.sampled_from(Policy), join=st.booleans())
    def open(self, first: int, policy: Policy, join: bool) -> None:
        self.kernel = ModelQueue(first_id=first)
        self.session = QueueSession(0, undecided=policy, join=join)
        self.session.bind()
        self.session._next_id = self.session._head = first
        self.now = 0.0
        self.decided: dict[int, int] = {}
        self.waiting: list[int] = []
        self.broken: set[int] = set()  # messages that could not be read: their packets belong to the policy
        self.gone: set[int] = set()  # taken away by the kernel
        self.lost = 0
        self.told_lost = 0
        self.policy = policy
        self._move()

    def _move(self) -> None:
        """What leaves reaches the kernel; its answers come back."""
        while self.session.has_output:
            self._feed(*self.kernel.take(self.session.datagrams_to_send()))

    def _feed(self, *messages: bytes) -> None:
        self.session.receive_datagrams(messages, self.now)
        for event in iter(self.session.next_event, None):
            if isinstance(event, PacketQueued):
                assert event.id not in self.waiting
                self.waiting.append(event.id)
            elif isinstance(event, PacketsLost):
                self.told_lost += event.count
            elif isinstance(event, Refused):
                assert event.packet_id in self.gone | self.decided.keys()

    @rule(count=st.integers(1, 5))
    def packets_come(self, count: int) -> None:
        self._feed(*(self.kernel.arrive() for _ in range(count)))
        self._move()

    @rule(count=st.integers(1, 4), tell=st.booleans())
    def packets_are_lost(self, count: int, tell: bool) -> None:
        for _ in range(count):
            self.kernel.arrive(lost=True)
        self.lost += count
        if tell:
            self.session.receive_overrun(self.now)
            self._feed()

    @rule(how=st.sampled_from(["attribute", "cut", "id too"]))
    def a_broken_message_comes(self, how: str) -> None:
        data = bytearray(self.kernel.arrive())
        self.broken.add(self.kernel.last_id)
        if how == "cut":
            self._feed(Datagram.make(bytes(data[:40]), truncated=True))
        else:
            data[20 if how == "id too" else 32] = 3
            self._feed(bytes(data))
        self._move()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), word=st.sampled_from(WORDS), mark=st.none() | st.integers(0, 9))
    def a_packet_is_decided(self, data: st.DataObject, word: int, mark: int | None) -> None:
        packet_id = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(packet_id)
        self.decided[packet_id] = word
        self.session.decide(packet_id, word, self.now, mark=mark)
        self._move()

    @precondition(lambda self: self.waiting)
    @rule(word=st.sampled_from(WORDS), count=st.integers(1, 6))
    def packets_are_decided_in_order(self, word: int, count: int) -> None:
        for packet_id in self.waiting[:count]:
            self.decided[packet_id] = word
            self.session.decide(packet_id, word, self.now)
        del self.waiting[:count]
        self._move()

    @precondition(lambda self: self.kernel.waiting)
    @rule(data=st.data())
    def the_kernel_takes_a_packet_away(self, data: st.DataObject) -> None:
        """Its device went down, or a hook was removed."""
        packet_id = data.draw(st.sampled_from(self.kernel.waiting))
        self.kernel.waiting.remove(packet_id)
        self.gone.add(packet_id)

    @rule(seconds=st.sampled_from([0.0001, 0.0006, 0.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.session.handle_timer(self.now)
        self._move()

    @rule()
    def the_socket_is_empty(self) -> None:
        self.session.receive_empty(self.now)
        self._move()
        self._agree()

    def _agree(self) -> None:
        """Everything decided has left, so the kernel's fates are the handler's decisions."""
        for packet_id, word in self.decided.items():
            assert self.kernel.fates.get(packet_id) == word or packet_id in self.gone, packet_id
        for packet_id, word in self.kernel.fates.items():
            if packet_id not in self.decided:
                assert packet_id in self.broken
                assert word == self.policy.value

    @invariant()
    def no_packet_is_decided_behind_the_handlers_back(self) -> None:
        for packet_id in self.waiting:
            assert packet_id not in self.kernel.fates

    @invariant()
    def losses_are_never_overstated_and_never_fall(self) -> None:
        losses = self.session.losses.lost
        assert self.told_lost == losses <= self.lost + len(self.broken)

    def teardown(self) -> None:
        if not hasattr(self, "kernel"):
            return
        self._feed(self.kernel.arrive())  # the next packet tells of what was lost before it
        for packet_id in self.waiting:
            self.decided[packet_id] = 1
            self.session.decide(packet_id, 1, self.now)
        self.session.receive_empty(self.now)
        self._move()
        self._agree()
        assert self.lost == self.session.losses.lost or self.broken
        assert not [i for i in self.kernel.waiting if i not in self.gone], "nothing is left waiting for ever"
        assert not self.session._gaps
        assert self.session._head == (self.kernel.last_id + 1) & MASK


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(datagrams(damaged=True) | datagrams(damaged=True, kinds=[nfnl.Packet]), max_size=6))
def test_a_session_survives_any_bytes(received: list[bytes]) -> None:
    kernel = ModelQueue()
    session = QueueSession(0)
    session.bind()
    session.receive_datagrams(kernel.take(session.datagrams_to_send()), 0.0)
    session.next_event()
    before = (0, 0, 0)
    for datagram in received:
        with contextlib.suppress(RemoteProtocolError):
            session.receive_datagram(datagram, 0.0)
        count = session.losses
        after = (count.lost, count.overruns, count.undecodable)
        assert all(a >= b for a, b in zip(after, before, strict=True))
        before = after
    told = list(iter(session.next_event, None))
    queued = [e.id for e in told if isinstance(e, PacketQueued)]
    assert len(set(queued)) == len(queued)
    assert session.waiting == set(queued)
    assert sum(isinstance(e, Undecodable) for e in told) == session.losses.undecodable
    for packet_id in queued:
        session.decide(packet_id, 1, 0.0)
    session.flush()
    with contextlib.suppress(NfnlError):
        kernel.take(session.datagrams_to_send())
