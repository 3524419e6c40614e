"""The trio door: the same queue, with ``async for``. Needs trio, which ``nfnl[trio]`` brings."""

from __future__ import annotations

from contextlib import suppress
from typing import Unpack

import trio

from nfnl._async import AsyncQueueDoor
from nfnl._door import QueueOptions
from nfnl.session.queue import HOLD

__all__ = ["Queue", "open_queue"]


class Queue(AsyncQueueDoor):
    __doc__ = AsyncQueueDoor.__doc__

    _token: trio.lowlevel.TrioToken | None = None
    _waiting: trio.CancelScope | None = None
    _ticking = False

    def _enter_loop(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    async def _readable(self) -> None:
        descriptor = self._transport.fileno()
        with trio.CancelScope() as self._waiting:
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

    def _flush_soon(self) -> None:
        if not self._ticking and self._token is not None:
            self._ticking = True
            trio.lowlevel.spawn_system_task(self._tick)

    async def _tick(self) -> None:
        await trio.sleep(HOLD)
        self._ticking = False
        if not self._closed:
            self.flush()


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number``: ``async with nfnl.trio.open_queue(0) as queue: async for packet in queue: ...``.

    The options are those of `nfnl.open_queue`. Opening does not wait: netlink answers at once.
    """
    return Queue(number, **options)
