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

    __slots__ = ("_armed", "_clock", "_due", "_expire", "_places", "_stale", "_ticks")

    def __init__(self, clock: Clock, expire: Callable[[T], None]) -> None:
        self._clock = clock
        self._expire = expire
        #: by tick, what may end then; out of date if it is scheduled for another. What is made together mostly ends together
        self._due: dict[int, list[T]] = {}
        #: heap of those ticks
        self._ticks: list[int] = []
        #: how many places there are, and how many of them are out of date, about
        self._places = self._stale = 0
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
        self._places += 1
        line = self._due.get(when)
        if line is not None:
            line.append(item)
            return
        self._due[when] = [item]
        heapq.heappush(self._ticks, when)
        self._arm()

    def forget(self, item: T) -> None:
        """It has ended otherwise."""
        if item.scheduled == NEVER:
            return
        item.scheduled = NEVER
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > self._places:
            self._sweep()

    def _sweep(self) -> None:
        for when in list(self._due):
            line = self._due[when] = [item for item in self._due[when] if item.scheduled == when]
            if not line:
                del self._due[when]
        self._ticks = sorted(self._due)
        self._places = sum(map(len, self._due.values()))
        self._stale = 0

    def _arm(self) -> None:
        if self._ticks and (not self._armed or self._ticks[0] < self._armed[0]):
            when = self._ticks[0]
            heapq.heappush(self._armed, when)
            self._clock.call_at(when / HZ, self._run)

    def _run(self) -> None:
        heapq.heappop(self._armed)
        now = ticks(self._clock)
        while self._ticks and self._ticks[0] <= now:
            when = heapq.heappop(self._ticks)
            line = self._due.pop(when)
            self._places -= len(line)
            for item in line:
                if item.scheduled != when:
                    self._stale = max(0, self._stale - 1)
                    continue
                item.scheduled = NEVER
                if item.expires > now:
                    self.schedule(item)
                else:
                    self._expire(item)
        self._arm()
