"""Flows that are expected (net/netfilter/nf_conntrack_expect.c): a helper, or a program, says that one will come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry
from nfnl.sim.ct_expiry import NEVER
from nfnl.sim.helpers import Helper
from nfnl.sim.tuples import Tuple, Zone

#: ``NF_CT_EXPECT_*``: bits of `Expectation.flags`.
PERMANENT, INACTIVE, USERSPACE = 1, 2, 4


class ExpectEvent:
    """``IPEXP_*`` as bits."""

    NEW = 1
    DESTROY = 2


class Mask(NamedTuple):
    """What counts of a source (`struct nf_conntrack_tuple_mask`); of destination, family and protocol everything counts."""

    src: bytes  #: bits of the address
    src_part: int  #: bits of the source part

    def covers(self, a: Tuple, b: Tuple) -> bool:
        """Whether the two agree in everything that counts (`nf_ct_tuple_mask_cmp`)."""
        return (
            a.dst == b.dst
            and a.dst_part == b.dst_part
            and a.protocol == b.protocol
            and a.family == b.family
            and not (a.src_part ^ b.src_part) & self.src_part
            and not _number(a.src, b.src) & int.from_bytes(self.src, "big")
        )

    def __and__(self, other: Mask) -> Mask:
        """What counts for both."""
        src = int.from_bytes(self.src, "big") & int.from_bytes(other.src, "big")
        return Mask(src.to_bytes(len(self.src), "big"), self.src_part & other.src_part)

    def __deepcopy__(self, memo: Any) -> Mask:
        return self


def _number(a: bytes, b: bytes) -> int:
    """The bits in which two addresses differ."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


class Expectation:
    """One expected flow (`struct nf_conntrack_expect`)."""

    __slots__ = (
        "class_",
        "direction",
        "expires",
        "flags",
        "function",
        "helper",
        "id",
        "mask",
        "master",
        "saved_addr",
        "saved_part",
        "scheduled",
        "tuple",
    )

    def __init__(self, master: Entry, expected: Tuple, mask: Mask, class_: int = 0, flags: int = 0) -> None:
        #: the flow whose helper expects it
        self.master = master
        self.tuple = expected
        self.mask = mask
        #: which of the helper's policies
        self.class_ = class_
        #: PERMANENT | INACTIVE
        self.flags = flags
        #: the helper the new flow gets
        self.helper: Helper | None = None
        #: name of the function the new flow is handed to
        self.function: str | None = None
        #: NAT: direction, and source address and part before translation
        self.direction = 0
        self.saved_addr = bytes(len(expected.src))
        self.saved_part = 0
        #: 32 bits, unlike those of every other expectation there is
        self.id = 0
        #: when it ends, in ticks
        self.expires = 0
        #: `ExpiryQueue` keeps it
        self.scheduled = NEVER


#: Told about an expectation: a bit of `ExpectEvent`, the expectation, port id of the process that caused it (0: a packet, time, or
#: the end of the master), and whether that process wants a copy (NLM_F_ECHO).
ExpectListener = Callable[[int, Expectation, int, bool], None]


class ExpectationTable:
    """All expectations of a namespace."""

    def __init__(self, table: ConntrackTable) -> None:
        self.table = table
        self.listener: ExpectListener

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Expectation]:
        """Those there are now, oldest first; those that go meanwhile are left out."""
        raise NotImplementedError

    def find(self, zone: Zone, t: Tuple) -> Expectation | None:
        """The one that a flow with this tuple would meet, INACTIVE ones too (`__nf_ct_expect_find`)."""
        raise NotImplementedError

    def meet(self, zone: Zone, t: Tuple) -> Expectation | None:
        """The live one a new flow meets (`nf_ct_find_expectation`); unless PERMANENT, it is used up."""
        raise NotImplementedError

    def add(self, expectation: Expectation, portid: int = 0, report: bool = False) -> None:
        """Expect it (`nf_ct_expect_related_report`); its helper's policy sets the timeout.

        The same one again (master, tuple, mask and class) only gets its time anew, silently. Where the policy's number is reached,
        the oldest of that class gives way. Raises OSError: ESHUTDOWN (the master has no helper), EALREADY (the same but for
        the class), EBUSY (it overlaps another), EMFILE (too many in the namespace).
        """
        raise NotImplementedError

    def remove(self, expectation: Expectation, portid: int = 0, report: bool = False) -> None:
        """Expect it no longer, and tell so (`nf_ct_unlink_expect_report`). Nothing for one that is gone."""
        raise NotImplementedError

    def remove_of(self, master: Entry) -> None:
        """All of one master (`nf_ct_remove_expectations`)."""
        raise NotImplementedError

    def seconds_left(self, expectation: Expectation) -> int:
        """Whole seconds until it ends, never negative."""
        raise NotImplementedError

    def set_timeout(self, expectation: Expectation, seconds: int) -> None:
        """Let it end so many seconds from now."""
        raise NotImplementedError
