"""What gives way when the table of flows is full (`early_drop`, `gc_worker` in nf_conntrack_core.c)."""

from __future__ import annotations

from binascii import crc32

from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.protoinfo import SctpInfo, SctpState, TcpInfo, TcpState
from nfnl.sim.tuples import Tuple

#: How many buckets are searched for a flow that may give way (NF_CT_EVICTION_RANGE).
_RANGE = 8

_CLOSING_TCP = frozenset((TcpState.FIN_WAIT, TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.TIME_WAIT, TcpState.CLOSE))
_CLOSING_SCTP = frozenset((SctpState.SHUTDOWN_SENT, SctpState.SHUTDOWN_RECD, SctpState.SHUTDOWN_ACK_SENT))


def may_give_way(entry: Entry) -> bool:
    """Whether the collector may end it in a full table (`gc_worker_can_early_drop`)."""
    if not entry.status & Status.ASSURED:
        return True
    proto = entry.proto
    if isinstance(proto, TcpInfo):
        return proto.state in _CLOSING_TCP
    return isinstance(proto, SctpInfo) and proto.state in _CLOSING_SCTP


class Buckets:
    """Which flows stand in which bucket of the hash table, in both directions. Which bucket that is, is a matter of chance in
    Linux; here it follows from the tuple.
    """

    __slots__ = ("_buckets", "size")

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._buckets: dict[int, list[Entry]] = {}

    def _number(self, t: Tuple) -> int:
        return crc32(b"%b%b%d %d %d" % (t.src, t.dst, t.protocol, t.src_part, t.dst_part)) * self.size >> 32

    def add(self, entry: Entry) -> None:
        """A flow that enters the table."""
        for t in (entry.original, entry.reply):
            self._buckets.setdefault(self._number(t), []).append(entry)

    def remove(self, entry: Entry) -> None:
        """A flow that leaves it."""
        for t in (entry.original, entry.reply):
            number = self._number(t)
            bucket = self._buckets[number]
            bucket.remove(entry)
            if not bucket:
                del self._buckets[number]

    def near(self, t: Tuple) -> list[Entry]:
        """The flows without ASSURED in the first bucket that has any, searched from the bucket of a tuple on."""
        first = self._number(t)
        for number in range(first, first + _RANGE):
            victims = {entry: None for entry in self._buckets.get(number % self.size, ()) if not entry.status & Status.ASSURED}
            if victims:
                return list(victims)
        return []
