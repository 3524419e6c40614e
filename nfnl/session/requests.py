"""Requests that are answered with data, and events, on one socket: what the sessions of all nfnetlink tables have in common.

Every request goes the way of its kind (`TRANSITIONS` is the whole truth):

    COMMAND   ASKED --acked--> OVER                          create, update, delete, flush
    QUERY     ASKED --part--> ANSWERING --acked--> OVER      one thing asked for
    DUMP      ASKED --part--> ANSWERING --done--> OVER       a list; one at a time, or the kernel says EBUSY

and any of them may be refused. Answers carry the number of their request, events carry 0, so both may come by one socket in
any order. Answers to a single question have NLM_F_MULTI and yet no DONE behind them: what ends them is the acknowledgement.

What a request is answered comes as `Answered`, `Acked`, `DumpDone`, `DumpInterrupted` or `Refused`, among the events and in
the order in which it came; or in a place of its own, if `RequestSession.collect` was called for it. Events that nobody takes are
kept up to ``max_events``; what comes then is counted and thrown away (`EventsLost`), as the kernel does with a socket that nobody
reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from nfnl.errors import DecodeError, LocalProtocolError, NetlinkError, RemoteProtocolError
from nfnl.session.base import Pending, Session
from nfnl.session.events import Acked, Answered, DumpDone, DumpInterrupted, Event, EventsLost, Refused, Undecodable
from nfnl.wire.compiled import codec
from nfnl.wire.constants import NLMSG_HDRLEN, NlmsgFlag, align4
from nfnl.wire.control import Ack, Done
from nfnl.wire.declare import Message
from nfnl.wire.header import NATIVE, NetlinkMessage

#: Events kept while nobody takes them.
MAX_EVENTS = 100_000


class Kind(Enum):
    """How a request is answered."""

    COMMAND = "command"
    QUERY = "query"
    DUMP = "dump"


class Phase(Enum):
    """How far a request has come."""

    ASKED = "asked"
    ANSWERING = "answering"
    OVER = "over"


class Input(Enum):
    """What can come for a request."""

    PART = "data"
    ACKED = "an acknowledgement"
    REFUSED = "a refusal"
    DONE = "the end of a dump"


#: (kind, phase, input) -> next phase. What is not here the kernel may not say: `RemoteProtocolError`.
TRANSITIONS: dict[tuple[Kind, Phase, Input], Phase] = {
    (Kind.COMMAND, Phase.ASKED, Input.ACKED): Phase.OVER,
    (Kind.QUERY, Phase.ASKED, Input.PART): Phase.ANSWERING,
    (Kind.QUERY, Phase.ANSWERING, Input.PART): Phase.ANSWERING,
    (Kind.QUERY, Phase.ANSWERING, Input.ACKED): Phase.OVER,
    (Kind.DUMP, Phase.ASKED, Input.PART): Phase.ANSWERING,
    (Kind.DUMP, Phase.ANSWERING, Input.PART): Phase.ANSWERING,
    (Kind.DUMP, Phase.ASKED, Input.DONE): Phase.OVER,
    (Kind.DUMP, Phase.ANSWERING, Input.DONE): Phase.OVER,
    # Of a master that has no helper no expectations are dumped, and only the acknowledgement says so.
    (Kind.DUMP, Phase.ASKED, Input.ACKED): Phase.OVER,
} | {(kind, phase, Input.REFUSED): Phase.OVER for kind in Kind for phase in (Phase.ASKED, Phase.ANSWERING)}
del TRANSITIONS[Kind.COMMAND, Phase.ANSWERING, Input.REFUSED]


@dataclass(slots=True)
class Request(Pending):
    """A request that waits for its answer."""

    kind: Kind = Kind.COMMAND
    phase: Phase = Phase.ASKED
    #: a part of the answer said that the table had changed meanwhile
    interrupted: bool = False
    #: where its answers go; None: among the events
    replies: deque[Event] | None = None
    #: nobody wants what is still to come
    abandoned: bool = False


class RequestSession(Session):
    """A session that asks and is told. Methods that ask something give back the number that the answers carry."""

    #: what dumps are mostly made of: it is decoded the fast way
    entry: ClassVar[type[Message]]
    #: messages that answer requests
    answers: ClassVar[tuple[type[Message], ...]] = ()
    #: what messages that nobody asked for are told as
    happenings: ClassVar[dict[type[NetlinkMessage], Callable[[Any], Event]]] = {}

    def __init__(self, *, max_events: int = MAX_EVENTS) -> None:
        super().__init__()
        self.max_events = max_events
        self._dump: Request | None = None
        self._lost: EventsLost | None = None

    # -- asking ----------------------------------------------------------------------------------------------------------------

    @property
    def dumping(self) -> bool:
        """A list is under way; another has to wait for its end."""
        return self._dump is not None

    def collect(self, request: int) -> deque[Event]:
        """Have the answers to a request, just made, come here and not among the events: for who wants them at once."""
        pending = next(p for p in self._pending.values() if p.number == request)
        assert isinstance(pending, Request)
        pending.replies = deque()
        return pending.replies

    def abandon(self, request: int) -> None:
        """Nobody wants the answers to a request any more. They still have to be read; a list keeps others waiting until then."""
        for pending in self._pending.values():
            if pending.number == request and isinstance(pending, Request):
                pending.abandoned = True
                pending.replies = None

    @property
    def finishing(self) -> bool:
        """A list is under way that nobody waits for by its number: it ends when the socket is read."""
        return self._dump is not None and self._dump.replies is None

    def _ask(
        self,
        kind: Kind,
        message: type[Message],
        what: str,
        fields: dict[str, Any] | None = None,
        *,
        flags: int = 0,
        done_already: int | None = None,
    ) -> int:
        """Ask it; ``fields`` that are None are left out."""
        if kind is Kind.DUMP:
            if self._dump is not None:
                raise LocalProtocolError(f"cannot {what} now: there is still another answer to come ({self._dump.what})")
            flags |= NlmsgFlag.DUMP
        present = {name: value for name, value in (fields or {}).items() if value is not None}
        request = message(nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.ACK | flags, **present)
        pending = Request(what, request, done_already=done_already, kind=kind)
        number = self._submit(pending)
        if kind is Kind.DUMP:
            self._dump = pending
        return number

    # -- what comes ------------------------------------------------------------------------------------------------------------

    def receive_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Take in what the socket had, in order. Raises `RemoteProtocolError` for broken framing, after what came before it."""
        for datagram in datagrams:
            dump = self._dump
            if dump is None or type(datagram) is not bytes or not self._parts(datagram, dump):
                self.receive_datagram(datagram, now)

    def _parts(self, datagram: bytes, dump: Request) -> bool:
        """The fast way for a datagram that is nothing but entries of the dump under way. False, and nothing done, if it is not."""
        unpack, decode = NATIVE.header.unpack_from, codec(self.entry).decode
        seq, expected = dump.message.nlmsg_seq, self.entry.__type__
        if dump.abandoned and unpack(datagram, 0)[1:4:2] == (expected, seq):
            return True
        offset, end = 0, len(datagram)
        seen = 0
        entries: list[Message] = []
        try:
            while end - offset >= NLMSG_HDRLEN:
                length, kind, flags, number, _ = unpack(datagram, offset)
                if kind != expected or number != seq or length < NLMSG_HDRLEN or length > end - offset:
                    return False
                entries.append(decode(datagram[offset : offset + length], offset))
                seen |= flags
                offset += align4(length)
        except DecodeError:
            return False
        if not entries:
            return False
        self._step(dump, Input.PART)
        dump.interrupted |= bool(seen & NlmsgFlag.DUMP_INTR)
        self._reply(dump, Answered(dump.number, entries))
        return True

    def _message(self, message: NetlinkMessage, now: float) -> None:
        seq = message.nlmsg_seq
        if seq == 0:
            make = self.happenings.get(type(message))
            if make is not None:
                self._happened(make(message))
            return
        pending = self._pending.get(seq)
        if not isinstance(pending, Request):
            return  # an answer to what was asked again meanwhile
        pending.interrupted |= bool(message.nlmsg_flags & NlmsgFlag.DUMP_INTR)
        if isinstance(message, Done):
            self._step(pending, Input.DONE)
            if message.error:
                hint = self.hints.get((pending.message.nlmsg_type, message.error))
                refusal = NetlinkError.of(message.error, pending.what, hint=hint)
                self._reply(pending, Refused(pending.number, pending.what, refusal))
            else:
                self._dumped(pending)
        elif isinstance(message, self.answers):
            self._step(pending, Input.PART)
            self._reply(pending, Answered(pending.number, [message]))

    def _answer(self, ack: Ack) -> None:
        pending = self._pending.get(ack.nlmsg_seq)
        if not isinstance(pending, Request) or pending.message.nlmsg_type != ack.request_type:
            self._unasked(ack)
            return
        repeated = ack.nlmsg_seq != pending.number
        if ack.error and not (repeated and ack.error == pending.done_already):
            self._step(pending, Input.REFUSED)
            error = self._error(ack, pending.what, pending.message)
            self._reply(pending, Refused(pending.number, pending.what, error))
            return
        self._step(pending, Input.ACKED)
        if pending.kind is Kind.DUMP:
            self._dumped(pending)
        else:
            self._reply(pending, Acked(pending.number, pending.what))

    def _dumped(self, pending: Request) -> None:
        ended = DumpInterrupted if pending.interrupted else DumpDone
        self._reply(pending, ended(pending.number, pending.what))

    def _step(self, pending: Request, what: Input) -> None:
        phase = TRANSITIONS.get((pending.kind, pending.phase, what))
        if phase is None:
            raise RemoteProtocolError(
                f"{pending.what}: {what.value} came for a {pending.kind.value} that was {pending.phase.value}"
            )
        pending.phase = phase
        if phase is Phase.OVER:
            del self._pending[pending.message.nlmsg_seq]
            if pending is self._dump:
                self._dump = None

    def _reply(self, pending: Request, event: Event) -> None:
        if not pending.abandoned:
            (self._events if pending.replies is None else pending.replies).append(event)

    def _happened(self, event: Event) -> None:
        """An event that nobody asked for, kept within bounds."""
        if len(self._events) < self.max_events:
            self._lost = None
            self._events.append(event)
        elif self._lost is None:
            self._lost = EventsLost(1)
            self._events.append(self._lost)
        else:
            self._lost.count += 1

    def _undecodable(self, data: bytes, error: DecodeError) -> None:
        event = Undecodable(data, error)
        seq = NATIVE.header.unpack_from(data, 0)[3] if len(data) >= NLMSG_HDRLEN else 0
        pending = self._pending.get(seq) if seq else None
        if isinstance(pending, Request):
            self._step(pending, Input.PART)
            self._reply(pending, event)
        else:
            self._happened(event)

    def receive_empty(self, now: float) -> None:
        """The socket has been read empty: what an overrun may have taken the answer of is asked again.

        A dump that has begun is not: its parts are made when there is room for them, so none is lost.
        """
        running = self._dump
        if self._answers_in_doubt and running is not None and running.phase is Phase.ANSWERING:
            seq = running.message.nlmsg_seq
            del self._pending[seq]
            super().receive_empty(now)
            self._pending[seq] = running
        else:
            super().receive_empty(now)
