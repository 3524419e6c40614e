"""What a session has to tell: facts, in the past tense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfnl.errors import CodecError, NetlinkError
from nfnl.subsys.queue import Packet
from nfnl.wire.compiled import Shape, view_of

if TYPE_CHECKING:
    from nfnl.subsys.conntrack import DestroyedFlow, Flow
    from nfnl.subsys.expect import DestroyedExpectation, Expectation
    from nfnl.wire.declare import Message


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
    """The socket's buffer was full and the kernel threw messages away.

    Of a queue's packets the next one shows how many were lost (`PacketsLost`); of conntrack events nobody knows.
    """

    def __str__(self) -> str:
        return "the receive buffer was full (ENOBUFS): messages were lost; a larger receive_buffer holds more"


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


@dataclass(frozen=True, slots=True)
class Answered:
    """The kernel answered a request with data: all messages of one datagram that belong to it. More may follow."""

    request: int
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class DumpDone:
    """A dump has come to its end, whole."""

    request: int
    what: str


@dataclass(frozen=True, slots=True)
class DumpInterrupted:
    """A dump has come to its end, but what it was read from changed meanwhile (NLM_F_DUMP_INTR): it may be neither old nor new."""

    request: int
    what: str

    def __str__(self) -> str:
        return f"{self.what}: the table changed while it was read (NLM_F_DUMP_INTR)"


@dataclass(frozen=True, slots=True)
class FlowNew:
    """A flow came to be: its first packet was let through, or somebody created it (NFNLGRP_CONNTRACK_NEW).

    ``flow.nlmsg_pid`` is the port id of the socket whose request caused it, 0 for packets. Events tell less than a dump: no
    counters, and only part of what is attached to a flow.
    """

    flow: Flow


@dataclass(frozen=True, slots=True)
class FlowUpdated:
    """A flow changed (NFNLGRP_CONNTRACK_UPDATE). ``flow`` has its tuples, id and status, and what changed."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class FlowDestroyed:
    """A flow is gone (NFNLGRP_CONNTRACK_DESTROY), with its final counters, if they were kept."""

    flow: DestroyedFlow


@dataclass(frozen=True, slots=True)
class ExpectationNew:
    """A flow is expected (NFNLGRP_CONNTRACK_EXP_NEW)."""

    expectation: Expectation


@dataclass(frozen=True, slots=True)
class ExpectationDestroyed:
    """A flow is no longer expected: it came, its time was up, or its master is gone (NFNLGRP_CONNTRACK_EXP_DESTROY)."""

    expectation: DestroyedExpectation


@dataclass(slots=True)
class EventsLost:
    """Events were thrown away by the session, because nobody took those before them. ``count`` grows until this is taken."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} events were thrown away: nobody took those before them"


@dataclass(frozen=True, slots=True)
class Resynced:
    """A mirror has read the table to its end and is equal to it again; ``count`` flows are in it."""

    count: int

    def __str__(self) -> str:
        return f"the mirror was made anew: {self.count} flows"


FlowEvent = FlowNew | FlowUpdated | FlowDestroyed | ExpectationNew | ExpectationDestroyed

#: what somebody who follows a table of flows is told
TableEvent = FlowEvent | Overrun | EventsLost | Resynced | Undecodable | ForeignDatagram

Event = (
    PacketQueued
    | Acked
    | Refused
    | Overrun
    | PacketsLost
    | Undecodable
    | ForeignDatagram
    | Answered
    | DumpDone
    | DumpInterrupted
    | FlowEvent
    | EventsLost
    | Resynced
)
