"""The asyncio door: the same queue, with ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, Unpack

from nfnl._door import QueueDoor, QueueOptions
from nfnl._handles import QueuedPacket
from nfnl.errors import LocalProtocolError, TransportClosed
from nfnl.session.queue import HOLD

__all__ = ["Queue", "open_queue"]


class Queue(QueueDoor):
    """A bound queue: iterate over it with ``async for``, and give each packet a verdict, now or from a task of its own.

    An async context manager. Verdicts leave at the latest `HOLD` (1 ms) after they were given, whatever the handler awaits.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, number: int, **options: Unpack[QueueOptions]) -> None:
        super().__init__(number, **options)
        self._wakeup = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[QueuedPacket]:
        """Packets as they come, for ever; ends at `stop` and `close`. On the fake kernel it waits even when all is quiet."""
        if self._closed:
            raise LocalProtocolError(f"queue {self.number} is closed")
        self._loop = asyncio.get_running_loop()
        waiting = self._session.waiting_set
        packet = None
        try:
            for event in self._pump.events():
                if event.__class__ is QueuedPacket:
                    packet = event
                    yield packet
                    if packet.id in waiting:
                        self._handed_out(packet)
                elif event is not None:
                    self._on_event(event)
                else:
                    await self._readable()
                if self._stopping:
                    return
        except TransportClosed:
            if not self._closed:
                raise
        finally:
            self._stopping = False
            if packet is not None and packet.id in waiting:
                self._handed_out(packet)
            if not self._closed:
                self.flush()

    async def _readable(self) -> None:
        """Wait until the transport has something, or `stop` or `close` was called."""
        loop, transport, wakeup = asyncio.get_running_loop(), self._transport, self._wakeup
        wakeup.clear()
        if self._stopping:
            return
        descriptor = transport.fileno()
        if descriptor is None:
            forget = transport.on_readable(lambda: _set_from_anywhere(loop, wakeup))
            try:
                await wakeup.wait()
            finally:
                forget()
        else:
            loop.add_reader(descriptor, wakeup.set)
            try:
                await wakeup.wait()
            finally:
                loop.remove_reader(descriptor)

    def decide(self, packet_id: int, word: int, **extra: Any) -> None:
        """The verdict of a packet; users call the packet's own methods."""
        super().decide(packet_id, word, **extra)
        if self._timer is None and self._loop is not None and self._session.deadline() is not None:
            self._timer = self._loop.call_later(HOLD, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._closed:
            self.flush()

    def stop(self) -> None:
        """End the iteration that is under way, or else the next one; the queue stays bound. From any thread or task."""
        self._stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wakeup.set)

    def close(self) -> None:
        """Decide what waits by the policy, and close the socket; an iteration in another task ends. Twice is fine.

        From the event loop's thread only.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._finish()
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _set_from_anywhere(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number``: ``async with nfnl.aio.open_queue(0) as queue: async for packet in queue: ...``.

    The options are those of `nfnl.open_queue`. Opening does not wait: netlink answers at once.
    """
    return Queue(number, **options)
