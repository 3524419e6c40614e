"""Dumps of flows and expectations: what is still to be told, and as much of it as fits (`ctnetlink_dump_table` and its like)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry
from nfnl.sim.ct_filter import Filter
from nfnl.sim.ct_messages import EXP_NEW, expectation_message, flow_message
from nfnl.sim.expectations import Expectation, ExpectationTable
from nfnl.wire.constants import NlmsgFlag

_MULTI = int(NlmsgFlag.MULTI)
_FILTERED = int(NlmsgFlag.DUMP_FILTERED)


class FlowDump:
    """The table, while it changes: a flow that comes after the walk has passed its place is not shown."""

    __slots__ = ("_done", "_filter", "_flags", "_port", "_reset", "_seq", "_table", "_walk")

    def __init__(self, table: ConntrackTable, wanted: Filter | None, port: int, seq: int, *, reset: bool) -> None:
        self._table = table
        self._walk = table.walk()
        self._filter = wanted
        self._port = port
        self._seq = seq
        self._flags = _MULTI | (_FILTERED if wanted is not None else 0)
        #: counters of what is shown start again
        self._reset = reset
        #: the walk came to the end of the table; what is put there afterwards is too late
        self._done = False

    def fill(self, room: int) -> bytes:
        """See `nfnl.sim.dump.Fill`."""
        table, walk, port, seq, flags, reset = self._table, self._walk, self._port, self._seq, self._flags, self._reset
        matches = self._filter.matches if self._filter is not None else None
        parts: list[bytes] = []
        if self._done:
            return b""
        for entry in walk:
            if matches is not None and not matches(entry):
                continue
            message = flow_message(entry, table, port, seq, flags, entry.use, room, reset=reset)
            if message is None:
                walk.back()
                break
            parts.append(message)
            room -= len(message)
        else:
            self._done = True
        return b"".join(parts)


class DyingDump:
    """Flows that are gone and whose event is not heard yet (`ctnetlink_dump_dying`).

    When the one that did not fit has gone before the next part, so has the rest of the dump.
    """

    __slots__ = ("_done", "_family", "_next", "_port", "_seq", "_table")

    def __init__(self, table: ConntrackTable, family: int, port: int, seq: int) -> None:
        self._table = table
        self._family = family
        self._port = port
        self._seq = seq
        #: the one that did not fit
        self._next: Entry | None = None
        self._done = False

    def fill(self, room: int) -> bytes:
        """See `nfnl.sim.dump.Fill`."""
        if self._done:
            return b""
        parts: list[bytes] = []
        for entry in self._table.events.dying:
            if (self._next is not None and entry is not self._next) or (self._family and entry.family != self._family):
                continue
            self._next = None
            message = flow_message(entry, self._table, self._port, self._seq, _MULTI, entry.use, room)
            if message is None:
                self._next = entry
                return b"".join(parts)
            parts.append(message)
            room -= len(message)
        self._done = True
        return b"".join(parts)


class ExpectationDump:
    """All expectations, or those of one master, as they are when the first part is made; ones that go meanwhile are left out."""

    __slots__ = ("_family", "_left", "_master", "_port", "_seq", "_table")

    def __init__(self, table: ExpectationTable, master: Entry | None, family: int, port: int, seq: int) -> None:
        self._table = table
        self._master = master
        #: 0: any
        self._family = family
        self._port = port
        self._seq = seq
        self._left: deque[Expectation] | None = None

    def _shown(self) -> Iterator[Expectation]:
        for expectation in self._table:
            if self._master in (None, expectation.master) and self._family in (0, expectation.tuple.family):
                yield expectation

    def fill(self, room: int) -> bytes:
        """See `nfnl.sim.dump.Fill`."""
        if self._left is None:
            self._left = deque(self._shown())
        there = set(self._table)
        parts: list[bytes] = []
        while self._left:
            expectation = self._left[0]
            if expectation in there:
                message = expectation_message(EXP_NEW, _MULTI, self._seq, self._port, expectation, self._table)
                if len(message) > room:
                    break
                parts.append(message)
                room -= len(message)
            self._left.popleft()
        return b"".join(parts)


class Listed:
    """A few messages that are known from the start."""

    __slots__ = ("_messages",)

    def __init__(self, *messages: bytes) -> None:
        self._messages = list(messages)

    def fill(self, room: int) -> bytes:
        """See `nfnl.sim.dump.Fill`."""
        assert sum(map(len, self._messages)) <= room
        part = b"".join(self._messages)
        self._messages.clear()
        return part
