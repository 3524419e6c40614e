"""What a session has to tell: facts, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nfnl.errors import CodecError, NetlinkError
from nfnl.subsys.queue import Packet
from nfnl.wire.compiled import Shape, view_of


class PacketQueued:
    """A packet waits for a verdict.

    Made once per packet on the hot path, so it is a plain object with slots. ``owner`` is whoever the session was told to name as
    answering for its packets; None when nobody was.
    """

    __slots__ = ("__weakref__", "_data", "_message", "_shape", "id", "owner")
    #: number of the packet in its queue
    id: int
    owner: Any
    _data: bytes
    _shape: Shape
    _message: Packet

    @property
    def message(self) -> Packet:
        """The whole message. Made when first asked for: it costs as much as all the rest of the event."""
        try:
            return self._message
        except AttributeError:
            self._message = message = view_of(Packet, self._data, self._shape)
            return message

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id}, message={self.message!r})"


@dataclass(frozen=True, slots=True)
class Acked:
    """The kernel did what was asked. ``request`` is what the session's method gave back when it was asked."""

    request: int
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The kernel did not do what was asked; ``error`` says why.

    For a verdict ``request`` is None and ``packet_id`` the packet (in a batch the last of them) it was about: ENOENT means that the
    packet is no longer there, because its device went down or a hook was removed.
    """

    request: int | None
    what: str
    error: NetlinkError
    packet_id: int | None = None

    def __str__(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True)
class Overrun:
    """The socket's buffer was full and packets were lost; how many shows when the next one comes (`PacketsLost`)."""

    def __str__(self) -> str:
        return "the receive buffer was full (ENOBUFS): packets were lost; give the queue a larger receive_buffer"


@dataclass(frozen=True, slots=True)
class PacketsLost:
    """Packet ids that never came: ``first`` to ``last``, both included.

    The kernel uses an id up when it cannot deliver the message, so the number is exact. A full queue (its ``max_length``) uses no
    id; those losses only the kernel's own counter knows.
    """

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many."""
        return (self.last - self.first + 1) & 0xFFFFFFFF

    def __str__(self) -> str:
        return f"{self.count} packets were lost (ids {self.first} to {self.last}): the receive buffer was full"


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A datagram that could not be understood; the conversation goes on.

    ``packet_id`` is known where at least the packet's header could be read; the policy for undecided packets decides it.
    """

    data: bytes
    error: CodecError
    packet_id: int | None = None

    def __str__(self) -> str:
        return f"a message could not be decoded: {self.error}"


@dataclass(frozen=True, slots=True)
class ForeignDatagram:
    """Some process other than the kernel sent a datagram to our socket. It was ignored."""

    sender: int
    data: bytes

    def __str__(self) -> str:
        return f"ignored a datagram from port {self.sender}, which is not the kernel"


Event = PacketQueued | Acked | Refused | Overrun | PacketsLost | Undecodable | ForeignDatagram
