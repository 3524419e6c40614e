"""Telling what happens to flows, and telling again what was not heard (nf_conntrack_ecache.c)."""

from __future__ import annotations

from collections.abc import Callable

from nfnl.sim.clock import Clock, Timer
from nfnl.sim.ct_entry import Entry, Event, Status

#: Seconds until a lost DESTROY event is told again, and between tries while nobody has room for it.
_FIRST_RETRY = 1.0
_RETRY = 0.01

#: Told about a flow: bits of `Event`, the flow, port id of the process that caused it (0: a packet, or time), and whether that
#: process wants a copy (NLM_F_ECHO). False: a receiver that wants to be sure of its events did not get it.
Listener = Callable[[int, Entry, int, bool], bool]


def _nobody(bits: int, entry: Entry, portid: int, report: bool) -> bool:
    return True


class Events:
    """The way of events from flows to the listener, and the list of flows whose end is still to be told (the dying list)."""

    __slots__ = ("_clock", "_timer", "dying", "listener", "put")

    def __init__(self, clock: Clock, put: Callable[[Entry], None]) -> None:
        self._clock = clock
        #: gives up the reference that the dying list holds
        self.put = put
        self.listener: Listener = _nobody
        #: flows that have left the table and whose DESTROY event was not heard, oldest first
        self.dying: dict[Entry, None] = {}
        self._timer: Timer | None = None

    def cache(self, entry: Entry, bits: int) -> None:
        """Note what happened, to be told with the next `deliver`."""
        if entry.event_mask is not None:
            entry.cached |= bits

    def deliver(self, entry: Entry) -> None:
        """Tell what is noted about a confirmed flow (`nf_ct_deliver_cached_events`)."""
        if entry.event_mask is None:
            return
        bits, entry.cached = entry.cached, 0
        if entry.status & (Status.CONFIRMED | Status.DYING) == Status.CONFIRMED:
            self._tell(entry, bits, entry.missed, 0, False)

    def report(self, entry: Entry, bits: int, portid: int = 0, report: bool = False) -> bool:
        """Tell something at once (`nf_conntrack_eventmask_report`). False: not heard; a DESTROY has to be told again."""
        if entry.event_mask is None or not entry.status & Status.CONFIRMED:
            return True
        heard = self._tell(entry, bits, 0 if entry.cause else entry.missed, entry.cause or portid, report)
        if not heard and bits & Event.DESTROY and not entry.cause:
            entry.cause = portid
        return heard

    def _tell(self, entry: Entry, bits: int, missed: int, portid: int, report: bool) -> bool:
        mask = entry.event_mask
        assert mask is not None
        if not (bits | missed) & mask:
            return True
        heard = self.listener(bits | missed, entry, portid, report)
        if heard:
            entry.missed &= ~missed
        else:
            entry.missed |= bits
        return heard

    # ------------------------------------------------------------------ the dying list

    def destroy(self, entry: Entry, portid: int, report: bool) -> bool:
        """Tell that a flow is gone. False: it was not heard, and the flow stays on the dying list until it was."""
        if self.report(entry, Event.DESTROY, portid, report):
            return True
        self.dying[entry] = None
        if self._timer is None:
            self._timer = self._clock.call_at(self._clock.now + _FIRST_RETRY, self.retry)
        return False

    def retry(self) -> None:
        """Tell again what is on the dying list, until one is not heard. Time brings it, and another DESTROY that was heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.dying:
            entry = next(iter(self.dying))
            if not self.report(entry, Event.DESTROY):
                self._timer = self._clock.call_at(self._clock.now + _RETRY, self.retry)
                return
            del self.dying[entry]
            self.put(entry)
