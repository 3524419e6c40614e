"""Choosing what a flow is translated to (net/netfilter/nf_nat_core.c).

A flow is translated by its reply tuple being no mirror of its original one. Both ends are bound once, before the flow is
confirmed: the destination (DST) and the source (SRC), each to what was asked for or, by a *null binding*, to what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import pack, unpack

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import NO_ADJUSTMENT, Entry, Status
from nfnl.sim.jhash import jhash2
from nfnl.sim.protoinfo import TcpInfo, TcpState
from nfnl.sim.skb import ICMP, ICMPV6, TCP, UDP
from nfnl.sim.tuples import GRE, SCTP, UDPLITE, Tuple


class Manip(IntEnum):
    """Which end is translated (enum nf_nat_manip_type)."""

    SRC = 0
    DST = 1


#: ``NF_NAT_RANGE_*`` beyond what the fields of `Range` say by being there: bits of `Range.flags`.
PROTO_RANDOM, PERSISTENT, PROTO_RANDOM_FULLY, PROTO_OFFSET = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_RANDOM = PROTO_RANDOM | PROTO_RANDOM_FULLY

#: Most ports tried in a first round, and the last tries, in which a TCP flow that is over may have to go (NF_NAT_MAX_ATTEMPTS,
#: NF_NAT_HARDER_THRESH).
_ATTEMPTS, _HARDER = 128, 32

#: Where a port may go that nobody gave a range for: (those below, first, last).
_PORT_RANGES = ((512, 1, 511), (1024, 600, 1023), (65536, 1024, 65535))

_BITS = {Manip.SRC: (Status.SRC_NAT, Status.SRC_NAT_DONE), Manip.DST: (Status.DST_NAT, Status.DST_NAT_DONE)}

#: What tells sources apart: family, address, source part, protocol, zone.
_Source = tuple[int, bytes, int, int, int]


@dataclass(frozen=True, slots=True)
class Range:
    """What may be chosen from (`struct nf_nat_range2`). A part that is not given is kept if it can be."""

    #: first and last address, packed
    addresses: tuple[bytes, bytes] | None = None
    #: first and last port; ICMP: id, GRE: key
    parts: tuple[int, int] | None = None
    flags: int = 0
    #: with PROTO_OFFSET: the port that the first of ``parts`` stands for
    base: int = 0


class Nat:
    """Translation of the flows of one namespace."""

    __slots__ = ("_by_source", "table")

    def __init__(self, table: ConntrackTable) -> None:
        self.table = table
        #: flows whose source is bound, oldest first
        self._by_source: dict[_Source, list[Entry]] = {}
        table.freed.append(self._freed)

    def setup(self, entry: Entry, wanted: Range, manip: Manip) -> bool:
        """Bind one end of an unconfirmed flow (`nf_nat_setup_info`).

        The reply tuple changes, SRC_NAT or DST_NAT is set if it did, and SRC_NAT_DONE or DST_NAT_DONE. False: that end is bound
        already; a packet would be dropped. A confirmed flow is left as it is.
        """
        if entry.status & Status.CONFIRMED:
            return True
        changed, done = _BITS[manip]
        if entry.status & done:
            return False
        now = entry.reply.inverse()
        assert now is not None
        new = self._unique_tuple(now, wanted, entry, manip)
        if new != now:
            reply = new.inverse()
            assert reply is not None
            entry.reply = reply
            entry.status |= changed
            if entry.help and entry.seqadj is None:
                entry.seqadj = NO_ADJUSTMENT
        if manip is Manip.SRC:
            self._by_source.setdefault(_source(entry, entry.original), []).append(entry)
        entry.status |= done
        return True

    def null_binding(self, entry: Entry, manip: Manip) -> bool:
        """Bind one end to the address it has; the port changes only if it must (`nf_nat_alloc_null_binding`)."""
        address = entry.reply.dst if manip is Manip.SRC else entry.reply.src
        return self.setup(entry, Range((address, address)), manip)

    def _freed(self, entry: Entry) -> None:
        if entry.status & Status.SRC_NAT_DONE:
            source = _source(entry, entry.original)
            others = self._by_source[source]
            others.remove(entry)
            if not others:
                del self._by_source[source]

    # ------------------------------------------------------------------ choosing

    def _used(self, t: Tuple, entry: Entry) -> bool:
        """Whether another flow's packets would be taken for the answers (`nf_nat_used_tuple`)."""
        reply = t.inverse()
        assert reply is not None
        return self.table.taken(reply, entry)

    def _unique_tuple(self, t: Tuple, wanted: Range, entry: Entry, manip: Manip) -> Tuple:
        """`get_unique_tuple`."""
        random = wanted.flags & _RANDOM
        if manip is Manip.SRC and not random:
            if _in_range(t, wanted):
                if not self._used(t, entry):
                    return t
            elif (same := self._same_source(t, wanted, entry)) and not self._used(same, entry):
                return same
        if wanted.addresses:
            t = _with_address(t, wanted, entry.zone.id, manip)
        if not random:
            if wanted.parts is None:
                if not self._used(t, entry):
                    return t
            elif (
                not wanted.flags & PROTO_OFFSET
                and _part_in_range(t, wanted.parts, manip)
                and (wanted.parts[0] == wanted.parts[1] or not self._used(t, entry))
            ):
                return t
        return self._with_free_part(t, wanted, entry, manip)

    def _same_source(self, t: Tuple, wanted: Range, entry: Entry) -> Tuple | None:
        """What the newest flow from the same source is mapped to, if that is in the range (`find_appropriate_src`)."""
        for other in reversed(self._by_source.get(_source(entry, t), ())):
            if other.zone.original_id == entry.zone.original_id:
                mapped = other.reply.inverse()
                assert mapped is not None
                result = t._replace(src=mapped.src, src_part=mapped.src_part)
                if _in_range(result, wanted):
                    return result
        return None

    def _with_free_part(self, t: Tuple, wanted: Range, entry: Entry, manip: Manip) -> Tuple:
        """Try ports until one is free; if none is, the last one stands (`nf_nat_l4proto_unique_tuple`)."""
        place = _place(t, entry, manip)
        span = _span(t, wanted, manip, place) if place else None
        if place is None or span is None:
            return t
        first, size = span
        if wanted.flags & PROTO_OFFSET:
            offset = getattr(t, place) - wanted.base & 0xFFFF
        elif manip is Manip.DST and not wanted.flags & _RANDOM:
            offset = 0
        else:
            offset = self.table.lots.draw(16)
        attempts = min(size, _ATTEMPTS)
        while True:
            for left in range(attempts, 0, -1):
                t = t._replace(**{place: first + offset % size & 0xFFFF})
                if not self._used_harder(t, entry, left):
                    return t
                offset = offset + 1 & 0xFFFF
            if attempts >= size or attempts < 16:
                return t
            attempts //= 2
            offset = self.table.lots.draw(16)

    def _used_harder(self, t: Tuple, entry: Entry, left: int) -> bool:
        """`_used`, and in the last tries for a TCP flow one that is over and behind in its sequence numbers has to go."""
        proto = entry.proto
        if left > _HARDER or not isinstance(proto, TcpInfo) or proto.state != TcpState.SYN_SENT:
            return self._used(t, entry)
        reply = t.inverse()
        assert reply is not None
        found = self.table.lookup(entry.zone, reply)
        if found is None:
            return False
        other, direction = found
        if direction == 0 or not isinstance(other.proto, TcpInfo) or other.proto.state < TcpState.TIME_WAIT:
            return True
        if other.status & (Status.FIXED_TIMEOUT | Status.DYING) or not other.status & Status.SRC_NAT:
            return True
        if not 0 < proto.sides[0].end - other.proto.sides[0].end & 0xFFFFFFFF < 0x80000000:
            return True
        self.table.delete(other)
        return bool(other.status & Status.OFFLOAD)


def _source(entry: Entry, t: Tuple) -> _Source:
    return t.family, t.src, t.src_part, t.protocol, entry.zone.id if entry.zone.directions == 3 else 0


def _in_range(t: Tuple, wanted: Range) -> bool:
    """Whether a tuple's source satisfies the range (`nf_in_range`)."""
    if wanted.addresses and not wanted.addresses[0] <= t.src <= wanted.addresses[1]:
        return False
    return wanted.parts is None or _part_in_range(t, wanted.parts, Manip.SRC)


def _part_in_range(t: Tuple, parts: tuple[int, int], manip: Manip) -> bool:
    """`l4proto_in_range`."""
    if t.protocol in (ICMP, ICMPV6):
        part = t.src_part
    elif t.protocol in (TCP, UDP, UDPLITE, SCTP, GRE):
        part = t.src_part if manip is Manip.SRC else t.dst_part
    else:
        return True
    return parts[0] <= part <= parts[1]


def _place(t: Tuple, entry: Entry, manip: Manip) -> str | None:
    """Which part of the tuple may be varied; None: nothing."""
    if t.protocol in (ICMP, ICMPV6):
        return "src_part"
    if t.protocol not in (TCP, UDP, UDPLITE, SCTP, GRE) or (t.protocol == GRE and entry.master is None):
        return None
    return "src_part" if manip is Manip.SRC else "dst_part"


def _span(t: Tuple, wanted: Range, manip: Manip, place: str) -> tuple[int, int] | None:
    """First value for that part, and how many there are; None: it may not be changed."""
    if wanted.parts is not None:
        first, last = wanted.parts
        if t.protocol not in (ICMP, ICMPV6, GRE):
            first, last = sorted(wanted.parts)
        return first, last - first + 1 & 0xFFFFFFFF or 1
    if t.protocol in (ICMP, ICMPV6):
        return 0, 65536
    if t.protocol == GRE:
        return 1, 65535
    if manip is Manip.DST:
        return None
    return next((first, last - first + 1) for below, first, last in _PORT_RANGES if getattr(t, place) < below)


def _with_address(t: Tuple, wanted: Range, zone: int, manip: Manip) -> Tuple:
    """Put an address of the range in (`find_best_ips_proto`): which, says a hash of source and, unless PERSISTENT, destination.

    Words are numbers in the byte order of the machine where the kernel hashes them, and in network order where it counts them.
    """
    assert wanted.addresses
    low, high = wanted.addresses
    if low == high:
        return _put_address(t, low, manip)
    count = len(low) // 4
    destination = list(unpack(f"={count}I", t.dst))
    persistent = wanted.flags & PERSISTENT
    number = jhash2(unpack("=4I", t.src.ljust(16, b"\0")), 0 if persistent else destination[-1] ^ zone)
    chosen = b""
    whole = False  # an earlier word is below the last address: any word will do
    for i, (least, most) in enumerate(zip(unpack(f"!{count}I", low), unpack(f"!{count}I", high), strict=True)):
        first, size = (0, 0xFFFFFFFF) if whole else (least, most - least + 1 & 0xFFFFFFFF)
        word = pack("!I", first + (number * size >> 32) & 0xFFFFFFFF)
        chosen += word
        whole = whole or word != high[4 * i : 4 * i + 4]
        if not persistent:
            number ^= unpack("=I", word)[0] if manip is Manip.DST else destination[i]
    return _put_address(t, chosen, manip)


def _put_address(t: Tuple, address: bytes, manip: Manip) -> Tuple:
    return t._replace(src=address) if manip is Manip.SRC else t._replace(dst=address)
