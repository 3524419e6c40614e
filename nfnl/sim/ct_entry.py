"""One tracked flow (`struct nf_conn`), and the rules of its status bits."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from errno import EBUSY
from typing import Any, NamedTuple

from nfnl.sim.ct_expiry import NEVER
from nfnl.sim.helpers import Help
from nfnl.sim.protoinfo import ProtoInfo
from nfnl.sim.tuples import Tuple, Zone

ORIGINAL, REPLY = range(2)


class Status:
    """``IPS_*``: bits of `Entry.status` (include/uapi/linux/netfilter/nf_conntrack_common.h)."""

    EXPECTED = 0x1
    SEEN_REPLY = 0x2
    ASSURED = 0x4
    CONFIRMED = 0x8
    SRC_NAT = 0x10
    DST_NAT = 0x20
    SEQ_ADJUST = 0x40
    SRC_NAT_DONE = 0x80
    DST_NAT_DONE = 0x100
    DYING = 0x200
    FIXED_TIMEOUT = 0x400
    TEMPLATE = 0x800
    NAT_CLASH = 0x1000
    HELPER = 0x2000
    OFFLOAD = 0x4000
    HW_OFFLOAD = 0x8000


class Event:
    """``IPCT_*``: what happened to a flow, as bits (enum ip_conntrack_events)."""

    NEW = 1 << 0
    RELATED = 1 << 1
    DESTROY = 1 << 2
    REPLY = 1 << 3
    ASSURED = 1 << 4
    PROTOINFO = 1 << 5
    HELPER = 1 << 6
    MARK = 1 << 7
    SEQADJ = 1 << 8
    SECMARK = 1 << 9
    LABEL = 1 << 10
    SYNPROXY = 1 << 11


class SequenceAdjustment(NamedTuple):
    """How sequence numbers of one direction are shifted (`struct nf_ct_seqadj`): before and after a position."""

    position: int = 0
    before: int = 0
    after: int = 0


#: No shift in either direction: what a fresh area holds.
NO_ADJUSTMENT = (SequenceAdjustment(), SequenceAdjustment())


class Entry:
    """One flow. What it may carry besides its tuples is decided when it is made; None stands for an area it has not got."""

    __slots__ = (
        "cached",
        "cause",
        "counters",
        "entered",
        "event_mask",
        "expect_mask",
        "expires",
        "help",
        "id",
        "labels",
        "mark",
        "master",
        "missed",
        "original",
        "proto",
        "reply",
        "scheduled",
        "secmark",
        "seqadj",
        "slot",
        "start",
        "status",
        "stop",
        "synproxy",
        "timeouts",
        "use",
        "zone",
    )

    def __init__(self, id: int, zone: Zone, original: Tuple, reply: Tuple, proto: ProtoInfo | None) -> None:  # noqa: A002
        #: 32 bits, unlike those of every other flow there is
        self.id = id
        self.zone = zone
        self.original = original
        #: what answers look like: the inverse of ``original`` unless addresses are translated
        self.reply = reply
        #: bits of `Status`
        self.status = 0
        self.mark = 0
        self.secmark = 0
        #: when it ends, in ticks of the clock; of an unconfirmed flow: how long it shall last, in ticks
        self.expires = 0
        self.proto = proto
        #: timeouts of its own instead of the sysctls, by the short names of those, in seconds (``-j CT --timeout``)
        self.timeouts: Mapping[str, int] | None = None
        #: the flow whose helper expected this one
        self.master: Entry | None = None
        self.help: Help | None = None
        #: packets and bytes of the original direction, packets and bytes of the reply direction
        self.counters: list[int] | None = None
        #: nanoseconds since 1970 when it was confirmed (0: not yet) and when it ended (0: not yet); None: not noted
        self.start: int | None = None
        self.stop = 0
        #: 128 bits, bit n for label n
        self.labels: int | None = None
        #: by direction
        self.seqadj: tuple[SequenceAdjustment, SequenceAdjustment] | None = None
        #: isn, its, tsoff
        self.synproxy: tuple[int, int, int] | None = None
        #: bits of `Event` that are told; None: nothing ever is, of its expectations neither
        self.event_mask: int | None = None
        #: what is told of its expectations, bits of `nfnl.sim.expectations.ExpectEvent`
        self.expect_mask = 0
        #: events waiting to be told, and those that were told and not heard
        self.cached = self.missed = 0
        #: port id of whoever had it destroyed, where that was not heard at once
        self.cause = 0
        #: references: of the table or its maker, of flows it is the master of, of packets
        self.use = 1
        #: `ExpiryQueue` and `ConntrackTable` keep it there
        self.scheduled = NEVER
        self.slot = -1
        #: how many had entered the table before it did
        self.entered = 0

    @property
    def family(self) -> int:
        """2 or 10."""
        return self.original.family

    @property
    def protocol(self) -> int:
        """Transport protocol."""
        return self.original.protocol

    @property
    def confirmed(self) -> bool:
        """It stands, or stood, in the table."""
        return bool(self.status & Status.CONFIRMED)

    @property
    def dying(self) -> bool:
        """It was taken out of the table."""
        return bool(self.status & Status.DYING)

    def tuple(self, direction: int) -> Tuple:
        """``original`` or ``reply``."""
        return self.reply if direction else self.original

    def __deepcopy__(self, memo: dict[int, Any]) -> Entry:
        # by itself, copy asks each of the values how it wants to be copied, which takes ten times as long; tables are large
        twin = memo[id(self)] = Entry.__new__(Entry)
        for name in _PLAIN:
            setattr(twin, name, getattr(self, name))
        for name in _OWN:
            value = getattr(self, name)
            setattr(twin, name, None if value is None else deepcopy(value, memo))
        return twin

    def __repr__(self) -> str:
        return f"<Entry {self.id:#010x} {self.original!r}>"


#: what a copy of a flow has of its own, and what it can share
_OWN = ("proto", "timeouts", "master", "help", "counters")
_PLAIN = tuple(name for name in Entry.__slots__ if name not in _OWN)

#: Bits that a request cannot set; what it says of them is passed over (IPS_UNCHANGEABLE_MASK).
UNCHANGEABLE = (
    Status.SRC_NAT
    | Status.DST_NAT
    | Status.SRC_NAT_DONE
    | Status.DST_NAT_DONE
    | Status.EXPECTED
    | Status.CONFIRMED
    | Status.DYING
    | Status.SEQ_ADJUST
    | Status.TEMPLATE
    | Status.NAT_CLASH
    | Status.OFFLOAD
    | Status.HW_OFFLOAD
)
#: Bits that a request must repeat as they are.
_FIXED = Status.EXPECTED | Status.CONFIRMED | Status.DYING
#: Bits that a request must repeat once they are set.
_LASTING = Status.SEEN_REPLY | Status.ASSURED
_KNOWN = 0xFFFF


def replace_status(entry: Entry, status: int) -> None:
    """Set and clear status bits as a verdict may (`ctnetlink_update_status`). Raises OSError (EBUSY)."""
    if entry.status & ~status & _LASTING:
        raise OSError(EBUSY, "Device or resource busy")
    entry.status = entry.status & UNCHANGEABLE | status & _KNOWN & ~UNCHANGEABLE


def change_status(entry: Entry, status: int) -> None:
    """Set status bits as a request may (`nf_ct_change_status_common`). Nothing is ever cleared. Raises OSError (EBUSY)."""
    if (entry.status ^ status) & _FIXED or entry.status & ~status & _LASTING:
        raise OSError(EBUSY, "Device or resource busy")
    entry.status |= status & _KNOWN & ~UNCHANGEABLE
