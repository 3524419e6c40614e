"""The asyncio doors: the same queue and the same table of flows, with ``async for``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Unpack

from nfnl._async import AsyncDoor, AsyncFlowTableDoor, AsyncQueueDoor
from nfnl._door import QueueOptions
from nfnl._table import ConntrackOptions
from nfnl.session.queue import HOLD
from nfnl.transport.base import Transport

__all__ = ["FlowTable", "Queue", "open_conntrack", "open_queue"]


class _Loop(AsyncDoor):
    """How asyncio waits."""

    _transport: Transport
    _loop: asyncio.AbstractEventLoop | None = None
    _wakeup: asyncio.Event

    def _enter_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()

    async def _readable(self, deadline: float | None) -> None:
        loop, wakeup = asyncio.get_running_loop(), self._wakeup
        wakeup.clear()
        if self._stopping:
            return
        descriptor = self._transport.fileno()
        if descriptor is None:
            forget = self._transport.on_readable(self._end_wait)
            try:
                await self._woken(deadline)
            finally:
                forget()
        else:
            # Only while waiting: a loop that polled it all the time would spin while the handler awaits something else.
            loop.add_reader(descriptor, wakeup.set)
            try:
                await self._woken(deadline)
            finally:
                loop.remove_reader(descriptor)

    async def _woken(self, deadline: float | None) -> None:
        if deadline is None:
            await self._wakeup.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - self._transport.now())):
                await self._wakeup.wait()

    def _end_wait(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wakeup.set)

    async def _breathe(self) -> None:
        await asyncio.sleep(0)


class Queue(_Loop, AsyncQueueDoor):
    __doc__ = AsyncQueueDoor.__doc__

    _timer: asyncio.TimerHandle | None = None

    def _flush_soon(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(HOLD, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._closed:
            self.flush()


class FlowTable(_Loop, AsyncFlowTableDoor):
    __doc__ = AsyncFlowTableDoor.__doc__


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number``: ``async with nfnl.aio.open_queue(0) as queue: async for packet in queue: ...``.

    The options are those of `nfnl.open_queue`. Opening does not wait: netlink answers at once.
    """
    return Queue(number, **options)


def open_conntrack(**options: Unpack[ConntrackOptions]) -> FlowTable:
    """Open the table of flows: ``async with nfnl.aio.open_conntrack(follow=True) as table: async for event in table: ...``.

    The options are those of `nfnl.open_conntrack`. Opening does not wait, nor does any request: netlink answers at once.
    """
    return FlowTable(**options)
