"""The trio doors: the same queue and the same table of flows, with ``async for``. Needs trio, which ``nfnl[trio]`` brings."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Unpack

import trio

from nfnl._async import AsyncDoor, AsyncFlowTableDoor, AsyncQueueDoor
from nfnl._door import QueueOptions
from nfnl._table import ConntrackOptions
from nfnl.session.queue import HOLD
from nfnl.transport.base import Transport

__all__ = ["FlowTable", "Queue", "open_conntrack", "open_queue"]


class _Loop(AsyncDoor):
    """How trio waits."""

    _transport: Transport
    _token: trio.lowlevel.TrioToken | None = None
    _waiting: trio.CancelScope | None = None

    def _enter_loop(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    async def _readable(self, deadline: float | None) -> None:
        descriptor = self._transport.fileno()
        until = inf if deadline is None else trio.current_time() + max(0.0, deadline - self._transport.now())
        with trio.CancelScope(deadline=until) as self._waiting:
            if self._stopping:
                return
            if descriptor is None:
                forget = self._transport.on_readable(self._end_wait)
                try:
                    await trio.sleep_forever()
                finally:
                    forget()
            else:
                await trio.lowlevel.wait_readable(descriptor)

    def _end_wait(self) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # nobody waits there any more
                self._token.run_sync_soon(self._cancel_wait, idempotent=True)

    def _cancel_wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _breathe(self) -> None:
        await trio.lowlevel.checkpoint()


class Queue(_Loop, AsyncQueueDoor):
    __doc__ = AsyncQueueDoor.__doc__

    _ticking = False

    def _flush_soon(self) -> None:
        if not self._ticking and self._token is not None:
            self._ticking = True
            trio.lowlevel.spawn_system_task(self._tick)

    async def _tick(self) -> None:
        await trio.sleep(HOLD)
        self._ticking = False
        if not self._closed:
            self.flush()


class FlowTable(_Loop, AsyncFlowTableDoor):
    __doc__ = AsyncFlowTableDoor.__doc__


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number``: ``async with nfnl.trio.open_queue(0) as queue: async for packet in queue: ...``.

    The options are those of `nfnl.open_queue`. Opening does not wait: netlink answers at once.
    """
    return Queue(number, **options)


def open_conntrack(**options: Unpack[ConntrackOptions]) -> FlowTable:
    """Open the table of flows: ``async with nfnl.trio.open_conntrack(follow=True) as table: async for event in table: ...``.

    The options are those of `nfnl.open_conntrack`. Opening does not wait, nor does any request: netlink answers at once.
    """
    return FlowTable(**options)
