"""What the asyncio and trio doors share: everything but how their loops wait."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack

from nfnl._door import QueueDoor
from nfnl._handles import QueuedPacket
from nfnl._table import FlowCriteria, FlowTableDoor
from nfnl.errors import LocalProtocolError, TransportClosed
from nfnl.session.events import TableEvent
from nfnl.session.flowspec import FlowFilter
from nfnl.session.queue import Changes
from nfnl.subsys.conntrack import Flow

T = TypeVar("T")


class AsyncDoor:
    """Stopping and closing, and what a loop has to offer for it."""

    _running = False
    _stopping = False

    if TYPE_CHECKING:

        def _finish(self) -> None: ...

    def stop(self) -> None:
        """End the iteration that is under way, or else the next one; it stays open. From any thread or task."""
        self._stopping = True
        self._end_wait()

    def close(self) -> None:
        """Finish what is to be finished, and close the socket; an iteration in another task ends. Twice is fine.

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

    async def _readable(self, deadline: float | None) -> None:
        """Wait until the transport has something to receive, its clock shows ``deadline``, or `_end_wait` was called."""
        raise NotImplementedError

    def _end_wait(self) -> None:
        """End `_readable`, from any thread."""
        raise NotImplementedError

    async def _breathe(self) -> None:
        """Let other tasks run."""
        raise NotImplementedError


class AsyncQueueDoor(AsyncDoor, QueueDoor):
    """A bound queue: iterate over it with ``async for``, and give each packet a verdict, now or from a task of its own.

    An async context manager. Verdicts leave at the latest `nfnl.session.queue.HOLD` (1 ms) after they were given, whatever the
    handler awaits.
    """

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
                    await self._readable(None)  # nothing is held that a deadline would be for: the pump has flushed
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

    def decide(self, packet_id: int, word: int, **changes: Unpack[Changes]) -> None:
        """The verdict of a packet; users call the packet's own methods."""
        super().decide(packet_id, word, **changes)
        if self._session.due != inf:
            self._flush_soon()

    def decide_plain(self, packet_id: int, word: int) -> None:
        """The same for most packets: a verdict that changes nothing."""
        session = self._session
        session.decide_plain(packet_id, word, self._now())
        if self._output:
            self._pump.send()
        if session.due != inf:
            self._flush_soon()

    def close(self) -> None:
        """Decide what waits by the policy, and close the socket; an iteration in another task ends. Twice is fine.

        From the event loop's thread only.
        """
        super().close()

    def _flush_soon(self) -> None:
        """See that `flush` is called within `HOLD`, if the queue is still open then. Called for every verdict that is held."""
        raise NotImplementedError


class AsyncList(Generic[T]):
    """Things that come several at a time, one by one, letting other tasks run in between. Let go of, it is over."""

    def __init__(self, parts: Iterator[Sequence[T]], breathe: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._breathe = breathe
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next one."""
        while not self._ready:
            await self._breathe()
            part = next(self._parts, None)
            if part is None:
                raise StopAsyncIteration
            self._ready.extend(part)
        return self._ready.popleft()


class AsyncFlowTableDoor(AsyncDoor, FlowTableDoor):
    """The flows of a network namespace: list them, change them, and iterate with ``async for`` over what happens to them.

    An async context manager. Requests are answered at once, so they are plain calls.
    """

    def flows(self, *, zero: bool = False, retries: int = 0, **criteria: Unpack[FlowCriteria]) -> AsyncIterator[Flow]:
        """Flows as they are: ``async for flow in table.flows()``. See `nfnl.FlowTable.flows`."""
        return AsyncList(self._lists(FlowFilter(**criteria), zero=zero, retries=retries), self._breathe)

    def dying(self, *, retries: int = 0) -> AsyncIterator[Flow]:
        """Flows that are gone, but whose event is still to be told to somebody reliable. Since Linux 3.8."""
        return AsyncList(self._dump(Flow, self._session.dump_dying, retries), self._breathe)

    def unconfirmed(self, *, retries: int = 0) -> AsyncIterator[Flow]:
        """Flows whose first packet is still under way. Since Linux 3.8; always empty since 6.0."""
        return AsyncList(self._dump(Flow, self._session.dump_unconfirmed, retries), self._breathe)

    async def __aiter__(self) -> AsyncIterator[TableEvent]:
        """Events as they come, for ever; ends at `stop` and `close`. On the fake kernel it waits even when all is quiet.

        They are those of `nfnl.FlowTable`. Raises `LocalProtocolError` when nothing is followed.
        """
        self._check_followed()
        self._enter_loop()
        self._running = True
        try:
            for event in self._pump.events():
                if event is not None:
                    yield event  # type: ignore[misc]  # answers go to who asked
                elif not self._stopping:
                    await self._readable(self._session.deadline())
                if self._stopping:
                    return
        except TransportClosed:
            if not self._closed:
                raise
        finally:
            self._running = self._stopping = False
