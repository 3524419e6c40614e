"""The asyncio door: the same queue, with ``async for``."""

from __future__ import annotations

import asyncio
from typing import Unpack

from nfnl._async import AsyncQueueDoor
from nfnl._door import QueueOptions
from nfnl.session.queue import HOLD

__all__ = ["Queue", "open_queue"]


class Queue(AsyncQueueDoor):
    __doc__ = AsyncQueueDoor.__doc__

    _loop: asyncio.AbstractEventLoop | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, number: int, **options: Unpack[QueueOptions]) -> None:
        super().__init__(number, **options)
        self._wakeup = asyncio.Event()

    def _enter_loop(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def _readable(self) -> None:
        loop, wakeup = asyncio.get_running_loop(), self._wakeup
        wakeup.clear()
        if self._stopping:
            return
        descriptor = self._transport.fileno()
        if descriptor is None:
            forget = self._transport.on_readable(self._end_wait)
            try:
                await wakeup.wait()
            finally:
                forget()
        else:
            # Only while waiting: a loop that polled it all the time would spin while the handler awaits something else.
            loop.add_reader(descriptor, wakeup.set)
            try:
                await wakeup.wait()
            finally:
                loop.remove_reader(descriptor)

    def _end_wait(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wakeup.set)

    def _flush_soon(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(HOLD, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._closed:
            self.flush()


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number``: ``async with nfnl.aio.open_queue(0) as queue: async for packet in queue: ...``.

    The options are those of `nfnl.open_queue`. Opening does not wait: netlink answers at once.
    """
    return Queue(number, **options)
