"""Flows that are expected (net/netfilter/nf_conntrack_expect.c): a helper, or a program, says that one will come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EALREADY, EBUSY, EMFILE, ESHUTDOWN
from typing import Any, NamedTuple

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.ct_expiry import NEVER, ExpiryQueue
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.helpers import Helper
from nfnl.sim.lots import scramble
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
            and not (int.from_bytes(a.src, "big") ^ int.from_bytes(b.src, "big")) & int.from_bytes(self.src, "big")
        )

    def __and__(self, other: Mask) -> Mask:
        """What counts for both."""
        src = int.from_bytes(self.src, "big") & int.from_bytes(other.src, "big")
        return Mask(src.to_bytes(len(self.src), "big"), self.src_part & other.src_part)

    def __deepcopy__(self, memo: Any) -> Mask:
        return self


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


def _nobody(bit: int, expectation: Expectation, portid: int, report: bool) -> None:
    pass


class ExpectationTable:
    """All expectations of a namespace. ``listener`` is told what happens to those whose master has events."""

    __slots__ = ("_by_destination", "_expectations", "_expiry", "_made", "_seed", "listener", "table")

    def __init__(self, table: ConntrackTable, *, seed: int = 1) -> None:
        self.table = table
        self.listener: ExpectListener = _nobody
        self._seed = seed
        self._made = 0
        #: by id, oldest first
        self._expectations: dict[int, Expectation] = {}
        #: by what every match has in common, oldest first
        self._by_destination: dict[_Destination, list[Expectation]] = {}
        self._expiry: ExpiryQueue[Expectation] = ExpiryQueue(table.clock, self.remove)
        table.leaving.append(self.remove_of)

    def __len__(self) -> int:
        return len(self._expectations)

    def __iter__(self) -> Iterator[Expectation]:
        """Those there are now, oldest first; those that go meanwhile are left out. Any whose time is over are ended."""
        now = self.table.now
        for expectation in tuple(self._expectations.values()):
            if expectation.scheduled != NEVER:
                if expectation.expires > now:
                    yield expectation
                else:
                    self.remove(expectation)

    def find(self, zone: Zone, t: Tuple) -> Expectation | None:
        """The one that a flow with this tuple would meet, INACTIVE ones too (`__nf_ct_expect_find`)."""
        return self._newest(zone, t, skip=0)

    def meet(self, zone: Zone, t: Tuple) -> Expectation | None:
        """The live one a new flow meets (`nf_ct_find_expectation`); unless PERMANENT, it is used up.

        None too if its master is not confirmed yet, or gone.
        """
        met = self._newest(zone, t, skip=INACTIVE)
        if met is None or met.master.status & (Status.CONFIRMED | Status.DYING) != Status.CONFIRMED:
            return None
        if not met.flags & PERMANENT:
            self.remove(met)
        return met

    def _newest(self, zone: Zone, t: Tuple, skip: int) -> Expectation | None:
        for expectation in self._towards(t):
            if (
                not expectation.flags & skip
                and expectation.mask.covers(t, expectation.tuple)
                and expectation.master.zone.id == zone.id
            ):
                return expectation
        return None

    def _towards(self, t: Tuple) -> Iterator[Expectation]:
        """Those with this destination, newest first. Any whose time is over are ended."""
        now = self.table.now
        for expectation in reversed(tuple(self._by_destination.get(_destination(t), ()))):
            if expectation.expires > now:
                yield expectation
            else:
                self.remove(expectation)

    def add(self, expectation: Expectation, portid: int = 0, report: bool = False) -> None:
        """Expect it, and tell so (`nf_ct_expect_related_report`); its helper's policy sets the timeout.

        The same one again (master, tuple, mask and class) takes the place of the old one. Where the policy's number is
        reached, the oldest of that class gives way. Raises OSError: ESHUTDOWN (the master has no helper), EALREADY (the same but
        for the class), EBUSY (it overlaps another), EMFILE (too many in the namespace).
        """
        self._check(expectation)
        help = expectation.master.help  # noqa: A001
        assert help is not None
        assert help.helper is not None
        self._made += 1
        expectation.id = scramble(self._made, self._seed)
        self._expectations[expectation.id] = expectation
        self._by_destination.setdefault(_destination(expectation.tuple), []).append(expectation)
        help.expectations.append(expectation)
        self.table.statistics.expect_create += 1
        self.set_timeout(expectation, help.helper.policies[expectation.class_].timeout)
        self._tell(ExpectEvent.NEW, expectation, portid, report)

    def _check(self, new: Expectation) -> None:
        """`__nf_ct_expect_check`."""
        help = new.master.help  # noqa: A001
        if help is None or help.helper is None:
            raise OSError(ESHUTDOWN, "Cannot send after transport endpoint shutdown")
        for other in self._towards(new.tuple):
            if _same(other, new):
                if other.class_ != new.class_:
                    raise OSError(EALREADY, "Operation already in progress")
                self.remove(other)
                break
            if (other.mask & new.mask).covers(other.tuple, new.tuple) and other.master.zone.id == new.master.zone.id:
                raise OSError(EBUSY, "Device or resource busy")
        most = help.helper.policies[new.class_].max_expected
        if most and help.expecting(new.class_) >= most:
            self.remove(next(old for old in help.expectations if old.class_ == new.class_))
        if len(self) >= self.table.sysctls.current["expect_max"]:
            raise OSError(EMFILE, "Too many open files")

    def remove(self, expectation: Expectation, portid: int = 0, report: bool = False) -> None:
        """Expect it no longer, and tell so (`nf_ct_unlink_expect_report`). Nothing for one that is gone."""
        if self._expectations.pop(expectation.id, None) is None:
            return
        self._expiry.forget(expectation)
        destination = _destination(expectation.tuple)
        self._by_destination[destination].remove(expectation)
        if not self._by_destination[destination]:
            del self._by_destination[destination]
        help = expectation.master.help  # noqa: A001
        assert help is not None
        help.expectations.remove(expectation)
        self._tell(ExpectEvent.DESTROY, expectation, portid, report)
        self.table.statistics.expect_delete += 1

    def remove_of(self, master: Entry) -> None:
        """All of one master, newest first (`nf_ct_remove_expectations`)."""
        if master.help is not None:
            for expectation in reversed(list(master.help.expectations)):
                self.remove(expectation)

    def _tell(self, bit: int, expectation: Expectation, portid: int, report: bool) -> None:
        master = expectation.master
        if master.event_mask is not None and master.expect_mask & bit:
            self.listener(bit, expectation, portid, report)

    def seconds_left(self, expectation: Expectation) -> int:
        """Whole seconds until it ends, never negative."""
        return max(0, expectation.expires - self.table.now) // HZ

    def set_timeout(self, expectation: Expectation, seconds: int) -> None:
        """Let it end so many seconds from now."""
        expectation.expires = self.table.now + seconds * HZ
        self._expiry.schedule(expectation)


_Destination = tuple[int, bytes, int, int]


def _destination(t: Tuple) -> _Destination:
    return t.family, t.dst, t.protocol, t.dst_part


def _same(a: Expectation, b: Expectation) -> bool:
    return a.master is b.master and a.tuple == b.tuple and a.mask == b.mask
