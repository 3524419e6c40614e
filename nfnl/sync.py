"""The sync door: a queue you loop over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self, Unpack

from nfnl._door import QueueDoor, QueueOptions
from nfnl._handles import QueuedPacket
from nfnl.errors import LocalProtocolError, TransportClosed
from nfnl.transport.base import Wait


class Queue(QueueDoor):
    """A bound queue: iterate over it, and give each packet a verdict.

    A context manager that closes at its end; an exception inside comes out, and the packets it left behind are decided by the
    policy for undecided ones.
    """

    _thread: int | None = None

    def __iter__(self) -> Iterator[QueuedPacket]:
        """Packets as they come, for ever; ends at `stop`, at `close`, or in ``until_idle()`` of a test kernel when all is quiet."""
        if self._closed:
            raise LocalProtocolError(f"queue {self.number} is closed")
        transport, session = self._transport, self._session
        waiting = session.waiting_set
        packet = None
        self._thread = threading.get_ident()
        try:
            for event in self._pump.events():
                if type(event) is QueuedPacket:
                    packet = event
                    yield packet
                    if packet.id in waiting:
                        self._handed_out(packet)
                elif event is not None:
                    self._on_event(event)
                elif not self._stopping and transport.wait(session.deadline()) is Wait.IDLE:
                    return
                if self._stopping:
                    return
        except TransportClosed:
            if not self._stopping:
                raise
        finally:
            self._thread = None
            self._stopping = False
            if packet is not None and packet.id in waiting:
                self._handed_out(packet)
            if self._close_asked:
                self._finish()
            elif not self._closed:
                self.flush()

    _close_asked = False

    def close(self) -> None:
        """Decide what waits by the policy, and close the socket; the queue's number is free at once. Twice is fine.

        From another thread than the one that iterates it ends the iteration at once, or as soon as its handler comes back, and the
        closing is done there.
        """
        if self._thread not in (None, threading.get_ident()):
            self._close_asked = True
            self.stop()
            return
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number`` and configure it: ``with nfnl.open_queue(0) as queue: for packet in queue: ...``.

    See `QueueOptions` for what can be said. Raises `NotPermitted` without CAP_NET_ADMIN or when another process owns the queue,
    and other `NetlinkError` as the kernel refuses.
    """
    return Queue(number, **options)
