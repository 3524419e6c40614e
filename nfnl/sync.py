"""The sync doors: a queue and a table of flows that you loop over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import chain
from types import TracebackType
from typing import Self, Unpack

from nfnl._door import QueueDoor, QueueOptions
from nfnl._handles import QueuedPacket
from nfnl._table import ConntrackOptions, FlowCriteria, FlowTableDoor
from nfnl.errors import LocalProtocolError, TransportClosed
from nfnl.session.events import TableEvent
from nfnl.session.flowspec import FlowFilter
from nfnl.subsys.conntrack import Flow
from nfnl.transport.base import Wait


class _Door:
    """What the sync doors share: closing, from any thread."""

    _thread: int | None = None
    _close_asked = False

    def stop(self) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket, and before that finish what is to be finished. Twice is fine.

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


class Queue(QueueDoor, _Door):
    """A bound queue: iterate over it, and give each packet a verdict.

    A context manager that closes at its end; an exception inside comes out, and the packets it left behind are decided by the
    policy for undecided ones.
    """

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

    def close(self) -> None:
        """Decide what waits by the policy, and close the socket; the queue's number is free at once. Twice is fine.

        From another thread than the one that iterates it ends the iteration at once, or as soon as its handler comes back, and the
        closing is done there.
        """
        super().close()


def open_queue(number: int, **options: Unpack[QueueOptions]) -> Queue:
    """Bind queue ``number`` and configure it: ``with nfnl.open_queue(0) as queue: for packet in queue: ...``.

    See `QueueOptions` for what can be said. Raises `NotPermitted` without CAP_NET_ADMIN or when another process owns the queue,
    and other `NetlinkError` as the kernel refuses.
    """
    return Queue(number, **options)


class FlowTable(FlowTableDoor, _Door):
    """The flows of a network namespace: list them, change them, and iterate over what happens to them.

    A context manager that closes at its end.
    """

    def flows(self, *, zero: bool = False, retries: int = 0, **criteria: Unpack[FlowCriteria]) -> Iterator[Flow]:
        """Flows as they are, one after the other, without holding them all; those that are meant (`FlowFilter`), or all.

        With ``zero`` the counters of those given start again from 0. If another list is begun meanwhile, what is left of this one
        is held. The table goes on changing while it is read: what is there all the time is there once (or, when flows around it
        vanish, twice); events tell of the rest. Raises
        `DumpInterruptedError` when the kernel says that this cannot be relied on, after what was given out; with ``retries`` it is
        read so often again, and held until it is whole.
        """
        return chain.from_iterable(self._lists(FlowFilter(**criteria), zero=zero, retries=retries))

    def dying(self, *, retries: int = 0) -> Iterator[Flow]:
        """Flows that are gone, but whose event is still to be told to somebody reliable. Since Linux 3.8."""
        return chain.from_iterable(self._dump(Flow, self._session.dump_dying, retries))

    def unconfirmed(self, *, retries: int = 0) -> Iterator[Flow]:
        """Flows whose first packet is still under way. Since Linux 3.8; always empty since 6.0."""
        return chain.from_iterable(self._dump(Flow, self._session.dump_unconfirmed, retries))

    def __iter__(self) -> Iterator[TableEvent]:
        """Events as they come, for ever; ends at `stop`, at `close`, or in ``until_idle()`` of a test kernel when all is quiet.

        They are those that are followed, and what else happens: `Overrun`, `EventsLost`, `Undecodable`, `ForeignDatagram`,
        and `Resynced` of a mirror. Raises `LocalProtocolError` when nothing is followed.
        """
        self._check_followed()
        transport, session = self._transport, self._session
        self._thread = threading.get_ident()
        try:
            for event in self._pump.events():
                if event is not None:
                    yield event  # type: ignore[misc]  # answers go to who asked
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
            if self._close_asked:
                self._finish()


def open_conntrack(**options: Unpack[ConntrackOptions]) -> FlowTable:
    """Open the table of flows: ``with nfnl.open_conntrack() as table: for flow in table.flows(): ...``.

    See `ConntrackOptions` for what can be said. Raises `NotPermitted` without CAP_NET_ADMIN when events are followed; without it,
    requests are refused later.
    """
    return FlowTable(**options)
