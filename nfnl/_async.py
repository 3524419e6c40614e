"""What the asyncio and trio doors share: everything but how their loops wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf
from types import TracebackType
from typing import Self

from nfnl._door import QueueDoor
from nfnl._handles import QueuedPacket
from nfnl.errors import LocalProtocolError, TransportClosed


class AsyncQueueDoor(QueueDoor):
    """A bound queue: iterate over it with ``async for``, and give each packet a verdict, now or from a task of its own.

    An async context manager. Verdicts leave at the latest `nfnl.session.queue.HOLD` (1 ms) after they were given, whatever the
    handler awaits.
    """

    _running = False

    async def __aiter__(self) -> AsyncIterator[QueuedPacket]:
        """Packets as they come, for ever; ends at `stop` and `close`. On the fake kernel it waits even when all is quiet."""
        if self._closed:
            raise LocalProtocolError(f"queue {self.number} is closed")
        self._enter_loop()
        self._running = True
        waiting = self._session.waiting_set
        packet = None
        try:
            for event in self._pump.events():
                if type(event) is QueuedPacket:
                    packet = event
                    yield packet
                    if packet.id in waiting:
                        self._handed_out(packet)
                elif event is not None:
                    self._on_event(event)
                elif not self._stopping:
                    await self._readable()
                if self._stopping:
                    return
        except TransportClosed:
            if not self._closed:
                raise
        finally:
            self._running = self._stopping = False
            if packet is not None and packet.id in waiting:
                self._handed_out(packet)
            if not self._closed:
                self.flush()

    def decide(
        self, packet_id: int, word: int, payload: bytes | None = None, mark: int | None = None, priority: int | None = None
    ) -> None:
        """The verdict of a packet; users call the packet's own methods."""
        super().decide(packet_id, word, payload, mark, priority)
        if self._session.due != inf:
            self._flush_soon()

    def stop(self) -> None:
        """End the iteration that is under way, or else the next one; the queue stays bound. From any thread or task."""
        self._stopping = True
        self._end_wait()

    def close(self) -> None:
        """Decide what waits by the policy, and close the socket; an iteration in another task ends. Twice is fine.

        From the event loop's thread only.
        """
        self._finish()
        if self._running:
            self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- what a loop has to offer ----------------------------------------------------------------------------------------------

    def _enter_loop(self) -> None:
        """The iteration begins; remember the loop that runs it."""
        raise NotImplementedError

    async def _readable(self) -> None:
        """Wait until the transport has something to receive, or `_end_wait` was called."""
        raise NotImplementedError

    def _end_wait(self) -> None:
        """End `_readable`, from any thread."""
        raise NotImplementedError

    def _flush_soon(self) -> None:
        """See that `flush` is called within `HOLD`, if the queue is still open then. Called for every verdict that is held."""
        raise NotImplementedError
