"""What all sessions share: bytes in, events out, requests that wait for their answers.

A session is a machine without I/O. Whoever drives it feeds it datagrams and the time, sends what `Session.datagrams_to_send`
gives, and takes events until there are none. It never looks at a clock, a socket or another thread.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from nfnl.errors import DecodeError, NetlinkError, RemoteProtocolError
from nfnl.session.events import Acked, Event, ForeignDatagram, Overrun, Refused, Undecodable
from nfnl.wire.codec import attribute_at, iter_decode
from nfnl.wire.compiled import view_of
from nfnl.wire.control import Ack, Malformed
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, SocketRequest
from nfnl.wire.declare import Direction, Message
from nfnl.wire.header import NATIVE, NetlinkMessage


@dataclass(slots=True)
class Pending:
    """A request that waits for its answer."""

    what: str  #: in words, for events and errors
    message: Message
    #: errno that means "it was done already" when the request had to be repeated
    done_already: int | None = None
    #: the seq it was first sent with; what `Acked` and `Refused` carry
    number: int = 0


#: (message type, errno) -> the likely reason. Kept by the subsystems' sessions.
Hints = dict[tuple[int, int], str]

#: (what was asked of the socket, errno) -> the likely reason
SOCKET_HINTS: dict[tuple[type, int], str] = {
    (JoinGroup, errno.EPERM): "Joining a multicast group takes CAP_NET_ADMIN",
    (AttachFilter, errno.EPERM): "The filter of this socket is locked (SO_LOCK_FILTER)",
    (AttachFilter, errno.ENOMEM): "The filter takes more memory than net.core.optmem_max",
}

M = TypeVar("M", bound=Message)


class Session:
    """See the module's text. Not thread-safe."""

    #: hints for refusals of this session's requests
    hints: Hints = {}  # noqa: RUF012 -- a table of the class, replaced by subclasses

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._out: list[bytes] = []
        self._wanted: list[SocketRequest] = []
        #: what `deadline` says, for drivers in a hurry: infinity when there is no need
        self.due = inf
        self._pending: dict[int, Pending] = {}
        self._seq = 0
        self._answers_in_doubt = False

    # -- what the driver calls -------------------------------------------------------------------------------------------

    def receive_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Take in what the socket had, in order. Raises `RemoteProtocolError` for broken framing, after what came before it."""
        for datagram in datagrams:
            self.receive_datagram(datagram, now)

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take in one datagram: plain bytes, or a `Datagram` that has facts to tell."""
        if isinstance(datagram, Datagram):
            if datagram.sender:
                self._events.append(ForeignDatagram(datagram.sender, bytes(datagram)))
                return
            if datagram.truncated:
                self._truncated(datagram)
                return
        try:
            for message in iter_decode(datagram, direction=Direction.FROM_KERNEL):
                if isinstance(message, Ack):
                    self._answer(message)
                elif isinstance(message, Malformed):
                    self._undecodable(bytes(message), message.error)
                else:
                    self._message(message, now)
        except DecodeError as error:
            raise RemoteProtocolError(f"the kernel sent a broken datagram: {error}") from error

    def receive_overrun(self, now: float) -> None:
        """The socket reported ENOBUFS: datagrams were lost, answers to requests perhaps among them."""
        self._answers_in_doubt = bool(self._pending)
        self._events.append(Overrun())

    def receive_empty(self, now: float) -> None:
        """The socket has been read empty. Only now does the kernel deliver again after an overrun: the time to ask once more."""
        if self._answers_in_doubt:
            self._answers_in_doubt = False
            for seq, pending in list(self._pending.items()):
                # A lost answer is not a failed request: ask again, and take "done already" for a yes.
                del self._pending[seq]
                self._submit(pending)

    def datagrams_to_send(self) -> list[bytes]:
        """What is to be sent, each its own datagram, in order. Calling it takes them out."""
        out = self._out.copy()
        self._out.clear()
        return out

    def socket_requests(self) -> list[SocketRequest]:
        """What the session wants of its socket, before anything is sent. Calling it takes them out."""
        wanted = self._wanted.copy()
        self._wanted.clear()
        return wanted

    def socket_refused(self, request: SocketRequest, number: int) -> NetlinkError:
        """The socket did not do what was asked of it: what to raise. ``number`` is the errno."""
        return NetlinkError.of(number, str(request), hint=SOCKET_HINTS.get((type(request), number)))

    @property
    def events(self) -> deque[Event]:
        """What `next_event` takes from, for drivers in a hurry."""
        return self._events

    @property
    def output(self) -> Sequence[bytes]:
        """What `datagrams_to_send` takes from, for drivers in a hurry."""
        return self._out

    @property
    def has_output(self) -> bool:
        """`datagrams_to_send` would give something."""
        return bool(self._out)

    def next_event(self) -> Event | None:
        """The next event, or None: then feed the session."""
        return self._events.popleft() if self._events else None

    def deadline(self) -> float | None:
        """When `handle_timer` should be called, on the clock whose times were passed in; None: no need."""
        return None if self.due == inf else self.due

    def handle_timer(self, now: float) -> None:
        """Do what time asks for."""

    # -- for subclasses --------------------------------------------------------------------------------------------------

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) & 0xFFFFFFFF or 1
        return self._seq

    def _submit(self, pending: Pending) -> int:
        seq = self._next_seq()
        pending.message = _numbered(pending.message, seq)
        pending.number = pending.number or seq
        self._pending[seq] = pending
        self._out.append(bytes(pending.message))
        return pending.number

    def _answer(self, ack: Ack) -> None:
        pending = self._pending.get(ack.nlmsg_seq)
        if pending is None or pending.message.nlmsg_type != ack.request_type:
            self._unasked(ack)
            return
        del self._pending[ack.nlmsg_seq]
        repeated = ack.nlmsg_seq != pending.number
        if ack.error == 0 or (repeated and ack.error == pending.done_already):
            self._events.append(Acked(pending.number, pending.what))
            self._done(pending)
        else:
            self._events.append(Refused(pending.number, pending.what, self._error(ack, pending.what, pending.message)))
            self._failed(pending)

    def _error(self, ack: Ack, what: str, request: Message | None) -> NetlinkError:
        extended = ack.extended
        return NetlinkError.of(
            ack.error,
            what,
            kernel_message=extended.message if extended else None,
            attribute=attribute_at(request, extended.offset) if extended and extended.offset is not None and request else None,
            hint=self.hints.get((ack.request_type, ack.error)),
        )

    def _done(self, pending: Pending) -> None:
        """A request succeeded."""

    def _failed(self, pending: Pending) -> None:
        """A request was refused."""

    def _unasked(self, ack: Ack) -> None:
        raise RemoteProtocolError(f"an answer to a request nobody made: {ack!r}")

    def _message(self, message: NetlinkMessage, now: float) -> None:
        """Anything that is not an answer; by default it is of no interest."""

    def _truncated(self, datagram: Datagram) -> None:
        error = DecodeError("the datagram was cut: the transport's buffer is too small", offset=len(datagram))
        self._undecodable(bytes(datagram), error)

    def _undecodable(self, data: bytes, error: DecodeError) -> None:
        self._events.append(Undecodable(data, error))


def _numbered(message: M, seq: int) -> M:
    """The message with that ``nlmsg_seq``: `Message.replace` for a change of four bytes that moves nothing."""
    data = bytes(message)
    return view_of(type(message), data[:8] + NATIVE.u32.pack(seq) + data[12:], message._shape)
