"""The one loop between a session and a transport, written without waiting.

`Pump.events` is a generator that hands out events, and None whenever there is nothing to do but wait. How to wait is all that
distinguishes the sync, asyncio and trio doors.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfnl.errors import OverrunError, RemoteProtocolError
from nfnl.session.base import Session
from nfnl.session.events import Acked, Event, Refused
from nfnl.transport.base import Transport

#: How often an answer that was lost to an overrun is asked for again before giving up.
ATTEMPTS = 5


class Pump:
    """Moves bytes and time between one session and one transport."""

    def __init__(self, session: Session, transport: Transport) -> None:
        self.session = session
        self.transport = transport

    def send(self) -> None:
        """Do what the session asks of its socket, and send what it has to send. Raises `NetlinkError` for what is refused."""
        session = self.session
        for request in session.socket_requests():
            try:
                self.transport.apply(request)
            except OSError as refusal:
                raise session.socket_refused(request, refusal.errno or 0) from None
        for datagram in session.datagrams_to_send():
            self.transport.send(datagram)

    def receive(self) -> bool:
        """Feed the session what the transport has, one receive call's worth. False when there was nothing."""
        session, transport = self.session, self.transport
        try:
            datagrams = transport.receive()
        except OverrunError:
            session.receive_overrun(transport.now())
            return True
        if datagrams:
            session.receive_datagrams(datagrams, transport.now())
            return True
        session.receive_empty(transport.now())
        return False

    def events(self) -> Iterator[Event | None]:
        """Events as they come; None when the driver should wait until the transport is readable or the session's deadline."""
        session = self.session
        events, output, now = session.events, session.output, self.transport.now
        while True:
            while events:
                yield events.popleft()
                if now() > session.due:
                    session.handle_timer(now())
                if output:
                    self.send()
            received = self.receive()
            if output:
                self.send()
            elif not received and not events:
                yield None

    def ask(self, request: int) -> None:
        """See a request through: send it, and read until it is answered. Raises the kernel's refusal.

        Nothing here waits: netlink is synchronous, so the answer is in the socket when `send` returns, unless an overrun took it.
        Other events stay where they are.
        """
        session = self.session
        for _ in range(ATTEMPTS):
            self.send()
            while self.receive():
                pass
            for event in session.events:
                if isinstance(event, Acked | Refused) and event.request == request:
                    session.events.remove(event)
                    if isinstance(event, Refused):
                        raise event.error
                    return
        raise RemoteProtocolError("the kernel did not answer a request")
