"""The table of tracked flows (net/netfilter/nf_conntrack_core.c), one network namespace's.

It knows neither packets nor netlink. Trackers and requests make, find, change and end flows here; what happens is told through
`ConntrackTable.events`.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EEXIST, ENOMEM, EPERM, ETIME

from nfnl.sim import protoinfo
from nfnl.sim.clock import EPOCH, Clock
from nfnl.sim.ct_entry import NO_ADJUSTMENT, REPLY, Entry, Event, Status
from nfnl.sim.ct_events import Events
from nfnl.sim.ct_expiry import ExpiryQueue, ticks
from nfnl.sim.ct_limits import Buckets, may_give_way
from nfnl.sim.ct_sysctls import HZ, ConntrackSysctls
from nfnl.sim.lots import Lots, scramble
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple, Zone

#: Any number would do; this one is always the same.
SEED = 0x6E666E6C

#: The longest timeout, in ticks.
MOST_TICKS = 0x7FFFFFFF

#: Seconds between a flow that found no place and the collector's next look (GC_SCAN_INTERVAL_MAX).
_COLLECTOR = 60.0

#: A tuple as it is kept: outside zone 0 with the zone's id in front.
_Key = Tuple | tuple[int, Tuple]


class Statistics:
    """Counters of /proc/net/stat/nf_conntrack that still move (`struct ip_conntrack_stat`). 32 bits where they are told."""

    __slots__ = (
        "chaintoolong",
        "clash_resolve",
        "drop",
        "early_drop",
        "error",
        "expect_create",
        "expect_delete",
        "expect_new",
        "found",
        "insert",
        "insert_failed",
        "invalid",
        "search_restart",
    )

    def __init__(self) -> None:
        self.found = self.invalid = self.insert = self.insert_failed = self.drop = self.early_drop = self.error = 0
        self.search_restart = self.clash_resolve = self.chaintoolong = 0
        self.expect_new = self.expect_create = self.expect_delete = 0


def _nobody_listens() -> bool:
    return False


class ConntrackTable:
    """All flows of a namespace, by their tuples.

    The layers above plug in by setting attributes: ``events.listener`` is told what happens, ``has_listeners`` says whether
    anybody is subscribed to events, functions in ``leaving`` are called with each flow that leaves the table, those in ``freed``
    with each that nobody holds any more. ``label_users`` counts the rules that work with labels.
    """

    __slots__ = (
        "_buckets",
        "_collecting",
        "_entered",
        "_expiry",
        "_free_slots",
        "_made",
        "_original",
        "_reply",
        "_seed",
        "_slots",
        "clock",
        "count",
        "events",
        "freed",
        "has_listeners",
        "label_users",
        "leaving",
        "lots",
        "statistics",
        "sysctls",
    )

    def __init__(self, clock: Clock, *, seed: int = SEED) -> None:
        self.clock = clock
        self.lots = Lots(seed)
        self.sysctls = ConntrackSysctls(self._count)
        self.statistics = Statistics()
        self.events = Events(clock, self.put)
        self.has_listeners: Callable[[], bool] = _nobody_listens
        self.leaving: list[Callable[[Entry], None]] = []
        self.freed: list[Callable[[Entry], None]] = []
        self.label_users = 0
        #: flows there are: in the table, unconfirmed, and gone but still held by somebody
        self.count = 0
        self._seed = seed
        self._made = self._entered = 0
        self._original: dict[_Key, Entry] = {}
        self._reply: dict[_Key, Entry] = {}
        #: the same flows in a row for walks, with gaps
        self._slots: list[Entry | None] = []
        self._free_slots: list[int] = []
        self._expiry: ExpiryQueue[Entry] = ExpiryQueue(clock, self.kill_expired)
        self._buckets: Buckets | None = None
        self._collecting = False

    def _count(self) -> int:
        return self.count

    def __len__(self) -> int:
        """Flows in the table."""
        return len(self._original)

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> int:
        """Ticks since the kernel was made."""
        return ticks(self.clock)

    def seconds_left(self, entry: Entry) -> int:
        """Whole seconds until it ends, never negative (`nf_ct_expires`); of an unconfirmed flow: how long it shall last."""
        return max(0, entry.expires - (self.now if entry.status & Status.CONFIRMED else 0)) // HZ

    def set_timeout(self, entry: Entry, seconds: int) -> None:
        """What a request wishes, capped at 2**31 - 1 ticks (`nf_ct_set_timeout`).

        Raises OSError: EPERM for a flow with FIXED_TIMEOUT, ETIME for one that is gone.
        """
        if entry.status & Status.FIXED_TIMEOUT:
            raise OSError(EPERM, "Operation not permitted")
        if entry.status & Status.DYING:
            raise OSError(ETIME, "Timer expired")
        entry.expires = min(seconds * HZ, MOST_TICKS)
        if entry.status & Status.CONFIRMED:
            entry.expires += self.now
            self._schedule(entry)

    def refresh(self, entry: Entry, timeout: int) -> None:
        """A packet of the flow was seen: ``timeout`` ticks from now on (`nf_ct_refresh`). FIXED_TIMEOUT stays as it is."""
        if entry.status & Status.FIXED_TIMEOUT:
            return
        if entry.status & Status.CONFIRMED:
            entry.expires = timeout + self.now
            if entry.expires < entry.scheduled:
                self._schedule(entry)
        else:
            entry.expires = timeout

    @staticmethod
    def count_packet(entry: Entry, direction: int, size: int) -> None:
        """A packet of so many bytes belongs to it (`nf_ct_acct_update`)."""
        if entry.counters is not None:
            entry.counters[2 * direction] += 1
            entry.counters[2 * direction + 1] += size

    def shorten(self, entry: Entry, timeout: int) -> None:
        """Let it last ``timeout`` ticks from now on, if it would last longer."""
        if entry.expires - self.now > timeout:
            self.refresh(entry, timeout)

    def _schedule(self, entry: Entry) -> None:
        if entry.slot >= 0:
            self._expiry.schedule(entry)

    def kill_expired(self, entry: Entry) -> None:
        """End a flow whose time is over."""
        self.delete(entry)

    # ------------------------------------------------------------------ finding

    def find(self, zone: Zone, t: Tuple) -> Entry | None:
        """The confirmed flow one of whose directions has this tuple (`nf_conntrack_find_get`)."""
        found = self.lookup(zone, t)
        return found[0] if found else None

    def lookup(self, zone: Zone, t: Tuple) -> tuple[Entry, int] | None:
        """As `find`, with the direction the tuple belongs to. A flow met whose time is over is ended, and not found.

        Zones that hold for one direction let two flows share a tuple. Then that of the original direction is found or, where the
        zone has one id for both directions, the one that came later.
        """
        if zone is DEFAULT_ZONE:
            by_original, by_reply = self._original.get(t), self._reply.get(t)
        else:
            by_original, by_reply = self._original.get(_key(zone.original_id, t)), self._reply.get(_key(zone.reply_id, t))
        if by_reply is None:
            if by_original is None:
                return None
            entry, direction = by_original, 0
        elif by_original is None or (zone.original_id == zone.reply_id and by_reply.entered >= by_original.entered):
            entry, direction = by_reply, REPLY
        else:
            entry, direction = by_original, 0
        if entry.expires <= self.now:
            self.kill_expired(entry)
            return self.lookup(zone, t)
        return entry, direction

    def taken(self, t: Tuple, wanted_by: Entry) -> bool:
        """Whether another flow answers to a tuple that ``wanted_by`` would like to have (`nf_conntrack_tuple_taken`).

        If so, FOUND moves. A flow whose time is over is in nobody's way, nor is one with the very same original tuple:
        `confirm` settles that.
        """
        zone = wanted_by.zone
        key = _key(zone.reply_id, t)
        entries = [self._reply.get(key)]
        if zone.original_id == zone.reply_id:
            entries.append(self._original.get(key))
        for entry in entries:
            if entry is None or entry is wanted_by:
                continue
            if entry.expires <= self.now:
                self.kill_expired(entry)
            elif entry.original != wanted_by.original or entry.zone.original_id != zone.original_id:
                self.statistics.found += 1
                return True
        return False

    def walk(self) -> Walk:
        """All flows of the table, one after the other, whatever comes and goes meanwhile."""
        return Walk(self)

    # ------------------------------------------------------------------ making

    def allocate(self, zone: Zone, original: Tuple, reply: Tuple) -> Entry:
        """A new flow, unconfirmed: it counts, but is not in the table (`nf_conntrack_alloc`).

        The caller holds it, and gives it to `insert` or back with `put`. Raises OSError (ENOMEM) if the table is full and none
        of the flows near the place it would get may be dropped for it.
        """
        limit = self.sysctls.current["max"]
        if limit and self.count >= limit and not self._early_drop(original):
            raise OSError(ENOMEM, "Cannot allocate memory")
        self.count += 1
        self._made += 1
        return Entry(scramble(self._made, self._seed), zone, original, reply, protoinfo.fresh(original.protocol))

    def add_areas(self, entry: Entry, *, events: int = 0, expect_events: int = 0, synproxy: bool = False) -> None:
        """Decide what an unconfirmed flow carries: counters, time stamps, labels, events, by the sysctls as they are now.

        ``events`` and ``expect_events`` are masks a rule has given (``-j CT --ctevents``). ``synproxy``: sequence adjustment and
        SYNPROXY areas too, as every flow has that a request makes.
        """
        current = self.sysctls.current
        if current["acct"]:
            entry.counters = [0, 0, 0, 0]
        if current["timestamp"]:
            entry.start = 0
        if self.label_users:
            entry.labels = 0
        if synproxy:
            entry.seqadj = NO_ADJUSTMENT
            entry.synproxy = (0, 0, 0)
        mode = current["events"]
        asked = events | expect_events
        if (mode == 0 and not asked) or (mode == 2 and not self.has_listeners()):
            return
        entry.event_mask, entry.expect_mask = (events, expect_events) if asked else (0xFFFF, 0xFFFF)

    def set_master(self, entry: Entry, master: Entry) -> None:
        """An unconfirmed flow belongs to another: status EXPECTED, and a reference to the master."""
        entry.master = master
        entry.status |= Status.EXPECTED
        master.use += 1

    def insert(self, entry: Entry) -> None:
        """Put a flow into the table that a request made; its timeout is absolute already (`nf_conntrack_hash_check_insert`).

        The caller's reference becomes the table's. Raises OSError (EEXIST) if one of its tuples is taken; nothing has changed then.
        """
        self._enter(entry)
        self.statistics.insert += 1

    def confirm(self, entry: Entry) -> None:
        """Put a flow into the table that a packet made (`__nf_conntrack_confirm`).

        Its time starts to run, and NEW or RELATED is noted. The table takes a reference of its own. Raises OSError (EEXIST)
        if one of its tuples is taken; nothing has changed then.
        """
        relative = entry.expires
        entry.expires += self.now
        try:
            self._enter(entry)
        except OSError:
            entry.expires = relative
            raise
        entry.status |= Status.CONFIRMED
        entry.use += 1
        self.stamp_start(entry)
        bits = Event.RELATED if entry.master else Event.NEW
        self.events.cache(entry, bits | Event.HELPER if entry.help else bits)

    def stamp_start(self, entry: Entry) -> None:
        """Note when it began, if it has a place for that."""
        if entry.start is not None:
            entry.start = self.wall_ns()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return EPOCH * 10**9 + round(self.clock.now * 10**9)

    def _enter(self, entry: Entry) -> None:
        zone = entry.zone
        original_id, reply_id = zone.original_id, zone.reply_id
        original, reply = _key(original_id, entry.original), _key(reply_id, entry.reply)
        if (
            original in self._original
            or reply in self._reply
            or (original_id == reply_id and (original in self._reply or reply in self._original))
        ):
            raise OSError(EEXIST, "File exists")
        self._original[original] = entry
        self._reply[reply] = entry
        entry.entered = self._entered
        self._entered += 1
        slots = self._slots
        while self._free_slots:
            slot = self._free_slots.pop()
            if slot < len(slots):
                slots[slot] = entry
                break
        else:
            slot = len(slots)
            slots.append(entry)
        entry.slot = slot
        if self._buckets:
            self._buckets.add(entry)
        self._expiry.schedule(entry)

    # ------------------------------------------------------------------ ending

    def delete(self, entry: Entry, portid: int = 0, report: bool = False) -> bool:
        """Take a flow out of the table and tell so (`nf_ct_delete`). False: it is gone already.

        An unconfirmed flow is only marked; it is with whoever holds it.
        """
        if entry.status & Status.DYING:
            return False
        entry.status |= Status.DYING
        if entry.start is not None:
            entry.stop = self.wall_ns() - max(0, self.now - entry.expires) * (10**9 // HZ)
        if entry.slot < 0:
            return True
        heard = self.events.destroy(entry, portid, report)
        self._leave(entry)
        if heard:
            self.put(entry)
            if self.events.dying:
                self.events.retry()
        return True

    def _leave(self, entry: Entry) -> None:
        del self._original[_key(entry.zone.original_id, entry.original)]
        del self._reply[_key(entry.zone.reply_id, entry.reply)]
        slots = self._slots
        slots[entry.slot] = None
        self._free_slots.append(entry.slot)
        entry.slot = -1
        while slots and slots[-1] is None:
            slots.pop()
        if not slots:
            self._free_slots.clear()
        if self._buckets:
            self._buckets.remove(entry)
        self._expiry.forget(entry)
        for function in self.leaving:
            function(entry)

    def flush(self, concerned: Callable[[Entry], bool] | None = None, portid: int = 0, report: bool = False) -> int:
        """Delete all flows of the table, or those that ``concerned`` says yes to; how many (`nf_ct_iterate_cleanup`)."""
        return sum(self.delete(entry, portid, report) for entry in self.walk() if concerned is None or concerned(entry))

    def put(self, entry: Entry) -> None:
        """Give up a reference. With the last one the flow is freed and counts no more (`nf_ct_put`)."""
        entry.use -= 1
        if entry.use:
            return
        self.count -= 1
        for function in self.freed:
            function(entry)
        if entry.master is not None:
            self.put(entry.master)

    # ------------------------------------------------------------------ a full table

    def _early_drop(self, original: Tuple) -> bool:
        """Make room for a flow. False: there is nobody near who may go, and the collector is asked to look further."""
        size = self.sysctls.current["buckets"]
        if self._buckets is None or self._buckets.size != size:
            self._buckets = Buckets(size)
            for entry in self.walk():
                self._buckets.add(entry)
        victims = [entry for entry in self._buckets.near(original) if self.delete(entry)]
        self.statistics.early_drop += len(victims)
        if not victims and not self._collecting:
            self._collecting = True
            self.clock.call_at(self.clock.now + _COLLECTOR, self._collect)
        return bool(victims)

    def _collect(self) -> None:
        """End flows that may give way while the table is more than 95 % full."""
        self._collecting = False
        enough = self.sysctls.current["max"] // 100 * 95
        for entry in self.walk():
            if not enough or self.count < enough:
                return
            if may_give_way(entry):
                self.delete(entry)


def _key(zone: int, t: Tuple) -> _Key:
    return (zone, t) if zone else t


class Walk:
    """A place in the table that moves on: each flow that stays is met once, one that comes meanwhile perhaps."""

    __slots__ = ("_position", "_table")

    def __init__(self, table: ConntrackTable) -> None:
        self._table = table
        self._position = 0

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> Entry:
        """The next flow. Those met whose time is over are ended and left out."""
        table = self._table
        now = table.now
        while self._position < len(table._slots):
            entry = table._slots[self._position]
            self._position += 1
            if entry is not None:
                if entry.expires > now:
                    return entry
                table.kill_expired(entry)
        raise StopIteration

    def back(self) -> None:
        """Meet the last one again, or what has come into its place: it did not fit."""
        self._position -= 1


__all__ = ["DEFAULT_ZONE", "SEED", "ConntrackTable", "Entry", "Event", "Statistics", "Status", "Walk", "may_give_way"]
