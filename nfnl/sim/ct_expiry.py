"""What ends by itself: flows and expectations, each at its time.

Time is counted in ticks (`HZ` in a second) of the virtual clock, as the kernel counts jiffies. Putting an end off costs
nothing but the new number: when the old time comes, the thing is put back in line.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from nfnl.sim.clock import Clock
from nfnl.sim.ct_sysctls import HZ

#: `Expiring.scheduled` of what does not stand in line; later than every time.
NEVER = 1 << 62


class Expiring(Protocol):
    """What an `ExpiryQueue` holds."""

    expires: int  #: the tick at which it ends
    scheduled: int  #: the queue's own note


T = TypeVar("T", bound=Expiring)


def ticks(clock: Clock) -> int:
    """The time now. The millionth makes up for fractions that a float cannot hold."""
    return int(clock.now * HZ + 1e-6)


class ExpiryQueue(Generic[T]):
    """Calls ``expire`` for each thing whose time has come, in the order of their times."""

    __slots__ = ("_armed", "_clock", "_count", "_expire", "_heap", "_stale")

    def __init__(self, clock: Clock, expire: Callable[[T], None]) -> None:
        self._clock = clock
        self._expire = expire
        #: (tick, order of arrival, thing); out of date if the thing is scheduled for another tick
        self._heap: list[tuple[int, int, T]] = []
        self._count = 0
        #: how many of those are out of date, about
        self._stale = 0
        #: ticks at which the clock will call, earliest first
        self._armed: list[int] = []

    def schedule(self, item: T) -> None:
        """To be called when ``item.expires`` was set; where the time was only put off it does nothing."""
        when = item.expires
        if when >= item.scheduled:
            return
        if item.scheduled != NEVER:
            self._stale += 1
        item.scheduled = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, item))
        self._arm()

    def forget(self, item: T) -> None:
        """It has ended otherwise."""
        if item.scheduled == NEVER:
            return
        item.scheduled = NEVER
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [place for place in self._heap if place[2].scheduled == place[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def _arm(self) -> None:
        if self._heap and (not self._armed or self._heap[0][0] < self._armed[0]):
            when = self._heap[0][0]
            heapq.heappush(self._armed, when)
            self._clock.call_at(when / HZ, self._run)

    def _run(self) -> None:
        heapq.heappop(self._armed)
        now = ticks(self._clock)
        while self._heap and self._heap[0][0] <= now:
            when, _, item = heapq.heappop(self._heap)
            if item.scheduled != when:
                self._stale = max(0, self._stale - 1)
                continue
            item.scheduled = NEVER
            if item.expires > now:
                self.schedule(item)
            else:
                self._expire(item)
        self._arm()
