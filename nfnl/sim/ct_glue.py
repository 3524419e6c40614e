"""Flows in queue messages and verdicts (CONFIG_NETFILTER_NETLINK_GLUE_CT; the glue in net/netfilter/nf_conntrack_netlink.c).

What a verdict says of a flow is taken as far as it makes sense; whatever is wrong with it, nobody is told.
"""

from __future__ import annotations

from nfnl.sim import seqadj
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_change import Changes
from nfnl.sim.ct_entry import REPLY, Entry, Status
from nfnl.sim.ct_messages import attached_flow
from nfnl.sim.ct_requests import read_nest
from nfnl.sim.ctnetlink import ConntrackSubsystem
from nfnl.sim.ctnetlink_expect import ExpectSubsystem
from nfnl.sim.netlink import Refusal
from nfnl.sim.skb import ICMP, ICMPV6, TCP, Skb
from nfnl.sim.tracking import direction_of
from nfnl.sim.tuples import PORT_PROTOCOLS, SCTP

#: `ctnetlink_glue_build_size`: what every flow takes, and what its areas add
_ALWAYS = 36 + 24 + 3 * 8 + 8 + 20 + 56 + 8 + 8 + 168
_COUNTERS, _TIMESTAMP = 56, 28
#: three tuples of it, and of TCP and SCTP what is told of their state
_OF_PROTOCOL = {**dict.fromkeys(PORT_PROTOCOLS, 48), ICMP: 72, ICMPV6: 72, TCP: 48 + 32, SCTP: 48 + 24}


class Glue:
    """Between the queues of a namespace and its flows."""

    __slots__ = ("_changes", "_expectations", "_flows", "_table")

    def __init__(self, table: ConntrackTable, flows: ConntrackSubsystem, expectations: ExpectSubsystem) -> None:
        self._table = table
        self._flows = flows
        self._expectations = expectations
        self._changes: Changes = flows.changes

    def room_for(self, entry: Entry) -> int:
        """Bytes that the kernel reserves for a flow in a message."""
        size = _ALWAYS + _OF_PROTOCOL.get(entry.protocol, 0)
        if entry.counters is not None:
            size += _COUNTERS
        return size + _TIMESTAMP if entry.start is not None else size

    def told(self, entry: Entry) -> bytes:
        """The attributes that tell of a flow: the inside of NFQA_CT."""
        return attached_flow(entry, self._table)

    def change(self, skb: Skb, payload: bytes) -> Entry | None:
        """Do what NFQA_CT says of the packet's flow (`ctnetlink_glue_parse`).

        The flow; None if there is none, or something was wrong: what stood before that is done all the same.
        """
        entry = skb.ct
        if entry is None:
            return None
        try:
            self._changes.change_attached(entry, read_nest(payload, self._flows.checks))
        except (Refusal, OSError):
            return None
        return entry

    def expect(self, entry: Entry, payload: bytes, report: bool) -> None:
        """NFQA_EXP: the flow's helper expects another one (`ctnetlink_glue_attach_expect`)."""
        try:
            self._expectations.attach(entry, payload, report)
        except (Refusal, OSError):
            return

    @staticmethod
    def lengthened(skb: Skb, entry: Entry, change: int) -> None:
        """Its payload has become longer by so many bytes (`ctnetlink_glue_seqadj`). Where the header lies is read as of IPv4."""
        at = (skb.data[0] & 0xF) << 2 if skb.data else 0
        if entry.status & (Status.SRC_NAT | Status.DST_NAT) and entry.protocol == TCP and len(skb.data) >= at + 8:
            seqadj.note(entry, int(direction_of(skb) == REPLY), int.from_bytes(skb.data[at + 4 : at + 8], "big"), change)
