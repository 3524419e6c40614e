"""Virtual time: it stands still until somebody moves it."""

from __future__ import annotations

import heapq
from collections.abc import Callable

#: Wall-clock time of virtual second 0.0, in seconds since 1970 (2024-01-01 00:00:00 UTC). Time stamps count from here.
EPOCH = 1_704_067_200


class Timer:
    """Something that is to happen later. `cancel` it, or wait for it with `Clock.advance`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget it. Harmless when it has happened already."""
        self.callback = None

    @property
    def pending(self) -> bool:
        """It has neither happened nor been cancelled."""
        return self.callback is not None


class Clock:
    """A monotonic clock that starts at 0.0 and moves only by `advance`."""

    __slots__ = ("_count", "_timers", "now")

    def __init__(self) -> None:
        #: seconds since this kernel was made
        self.now = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called once time reaches ``when``; not before the next `advance`, even if that time has passed."""
        timer = Timer(when, callback)
        self._count += 1  # equal times: first asked, first called
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def next_due(self) -> float | None:
        """When the next pending timer is due; None when nothing is scheduled."""
        while self._timers and not self._timers[0][2].pending:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def advance(self, seconds: float) -> None:
        """Let time pass and do what falls due, in order, each at its own time. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: advance({seconds})")
        end = self.now + seconds
        while (due := self.next_due()) is not None and due <= end:
            timer = heapq.heappop(self._timers)[2]
            self.now = max(self.now, due)
            callback, timer.callback = timer.callback, None
            assert callback is not None
            callback()
        self.now = end

    def wall(self) -> float:
        """Seconds since 1970."""
        return EPOCH + self.now
