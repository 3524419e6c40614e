"""From what happens to flows and expectations to messages in sockets (`ctnetlink_conntrack_event`, `ctnetlink_expect_event`)."""

from __future__ import annotations

from nfnl.sim.af_netlink import SocketTable
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Event
from nfnl.sim.ct_messages import CREATED, EXP_DELETE, EXP_NEW, event_message, expectation_message
from nfnl.sim.dump import GOODSIZE
from nfnl.sim.expectations import Expectation, ExpectationTable, ExpectEvent
from nfnl.wire.constants import Group

#: groups whose members are waited for by ``nf_conntrack_events=2``, as a mask
_OURS = 0x3F
#: bytes asked for an event of a flow: it depends on what that carries, but 257 and 704 are the same to the allocator
_FLOW_EVENT = 704


class Notifier:
    """Tells sockets what happens. It plugs itself into the tables."""

    __slots__ = ("_expectations", "_flows", "_sockets")

    def __init__(self, sockets: SocketTable, flows: ConntrackTable, expectations: ExpectationTable) -> None:
        self._sockets = sockets
        self._flows = flows
        self._expectations = expectations
        flows.has_listeners = self._anybody
        flows.events.listener = self._flow
        expectations.listener = self._expectation

    def _anybody(self) -> bool:
        return self._sockets.listeners(_OURS)

    def _flow(self, bits: int, entry: Entry, port: int, report: bool) -> bool:
        if bits & Event.DESTROY:
            group = Group.CONNTRACK_DESTROY
        elif bits & (Event.NEW | Event.RELATED):
            group = Group.CONNTRACK_NEW
        elif bits:
            group = Group.CONNTRACK_UPDATE
        else:
            return True
        if not report and not self._sockets.listeners(1 << group - 1):
            return True
        timed = entry.start is not None and self._sockets.profile.knows("6.14")
        data = event_message(bits, entry, self._flows, port, self._flows.wall_ns() if timed else None)
        return self._send(data, group, _FLOW_EVENT, port, report)

    def _expectation(self, event: int, expectation: Expectation, port: int, report: bool) -> None:
        if event & ExpectEvent.DESTROY:
            group, type_, flags = Group.CONNTRACK_EXP_DESTROY, EXP_DELETE, 0
        else:
            group, type_, flags = Group.CONNTRACK_EXP_NEW, EXP_NEW, CREATED
        if report or self._sockets.listeners(1 << group - 1):
            data = expectation_message(type_, flags, 0, port, expectation, self._expectations)
            self._send(data, group, GOODSIZE, port, report)

    def _send(self, data: bytes, group: int, asked: int, port: int, report: bool) -> bool:
        """To the members of the group and, where it wants a copy of its own, to whoever caused it (`nlmsg_notify`).

        False: somebody did not get it who wanted to be sure of it.
        """
        sockets = self._sockets
        truesize = sockets.profile.truesize(asked, len(data))
        received = sockets.multicast(data, group, truesize, but=port if report else 0)
        if report and not sockets.unicast(port, data, truesize) and port in sockets.ports:
            return False
        return received
