"""The conversation with one NFQUEUE: bind, configure, packets in, verdicts out.

States of a session and what is allowed in them (`TRANSITIONS` is the whole truth; the documentation draws it):

    NEW --bind--> BINDING --acked--> BOUND --unbind--> UNBINDING --acked--> UNBOUND
                     \\--refused--> NEW                    \\--refused--> BOUND

The ledger. Every packet the kernel hands over gets exactly one verdict. It is *waiting* from `PacketQueued` until
`QueueSession.decide`; a second verdict raises. Decisions are held for a moment so that many leave together: consecutive packets
with the same plain decision as one NFQNL_MSG_VERDICT_BATCH, the rest side by side in one datagram, always in the order they
were made.

A batch message speaks for every packet in the kernel's queue up to its id. So it may only be used when nothing older is
undecided: `_head` is the oldest undecided id, and only decisions made at the head are joined. Ids that never came (the gap after an
overrun, a message nobody could decode) count as undecided. When the head reaches such a gap, one batch message with the
policy's verdict settles whatever may still wait there, and the head moves on.

A verdict carries the packet's id as its sequence number. Refusals come back with it, so that they find their packet without
a table of what was sent.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import Enum
from math import inf
from struct import Struct
from typing import Any, TypedDict, Unpack

from nfnl.errors import DecodeError, EncodeError, LocalProtocolError
from nfnl.session.base import Hints, Pending, Session
from nfnl.session.events import PacketQueued, PacketsLost, Refused, Undecodable
from nfnl.subsys.conntrack import AttachedFlow
from nfnl.subsys.expect import AttachedExpectation
from nfnl.subsys.queue import (
    Command,
    Config,
    ConfigCommand,
    CopyMode,
    Packet,
    Params,
    QueueFlag,
    VerdictBatch,
    VerdictHeader,
    VerdictMessage,
    Vlan,
)
from nfnl.wire.compiled import codec, packer
from nfnl.wire.constants import NlmsgFlag, Verdict
from nfnl.wire.control import Ack
from nfnl.wire.header import NATIVE, NetlinkMessage

ID_MASK = 0xFFFFFFFF
#: What the kernel copies at the most: an attribute of 65535 bytes without its header.
MAX_COPY_RANGE = 65531
#: Seconds a decision may be held so that it can travel with others.
HOLD = 0.001
#: Verdict messages that leave in one datagram at the most, and their bytes: well below the default SO_SNDBUF (212992).
MAX_JOINED = 1024
MAX_DATAGRAM = 131072

HINTS: Hints = {
    (Config.__type__, errno.EPERM): "Either CAP_NET_ADMIN is missing, or another process owns this queue",
    (Config.__type__, errno.EBUSY): "This queue is bound already, by this very socket",
    (Config.__type__, errno.ENODEV): "This queue is not bound",
    (Config.__type__, errno.EOPNOTSUPP): "This kernel does not know the command or one of the flags, "
    "or lacks what the flag needs (CONNTRACK: CONFIG_NETFILTER_NETLINK_GLUE_CT and nf_conntrack_netlink)",
    (Config.__type__, errno.EINVAL): "Flags need a mask; or the kernel has no nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE)",
    (VerdictMessage.__type__, errno.ENOENT): "The packet no longer waits: its device went down, or a netfilter hook was removed",
    (VerdictMessage.__type__, errno.ENODEV): "The queue is no longer bound",
    (VerdictBatch.__type__, errno.ENOENT): "None of these packets waits any longer",
}


class State(Enum):
    """Where a session is."""

    NEW = "new"
    BINDING = "binding"
    BOUND = "bound"
    UNBINDING = "unbinding"
    UNBOUND = "unbound"


class Input(Enum):
    """What can happen to it."""

    BIND = "bind"
    CONFIGURE = "configure"
    UNBIND = "unbind"
    DECIDE = "decide"
    ACKED = "acked"
    REFUSED = "refused"
    PACKET = "packet"
    OVERRUN = "overrun"


#: (state, input) -> next state. A pair that is not here is refused with `LocalProtocolError` if the input is yours. A packet that
#: comes when none is expected is ignored: messages already in the socket survive an unbind, the packets behind them do not.
TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.NEW, Input.BIND): State.BINDING,
    (State.BINDING, Input.ACKED): State.BOUND,
    (State.BINDING, Input.REFUSED): State.NEW,
    (State.BINDING, Input.PACKET): State.BINDING,
    (State.BOUND, Input.CONFIGURE): State.BOUND,
    (State.BOUND, Input.DECIDE): State.BOUND,
    (State.BOUND, Input.PACKET): State.BOUND,
    (State.BOUND, Input.UNBIND): State.UNBINDING,
    (State.UNBINDING, Input.ACKED): State.UNBOUND,
    (State.UNBINDING, Input.REFUSED): State.BOUND,
} | {(state, Input.OVERRUN): state for state in State}


class Policy(Enum):
    """What becomes of packets nobody decided."""

    DROP = Verdict.DROP
    ACCEPT = Verdict.ACCEPT


class Changes(TypedDict, total=False):
    """What a verdict may change beside deciding. What is not given, or None, stays as it is."""

    #: the packet's new bytes from the network header on
    payload: bytes | None
    #: packet mark; 0 clears it
    mark: int | None
    #: packet priority
    priority: int | None
    #: bridge family: the 802.1Q tag, with both its parts
    vlan: Vlan | None
    #: bridge family: the link-layer header, of the length it has
    l2hdr: bytes | None
    #: changes to its flow: mark, labels, timeout, status, help
    ct: AttachedFlow | None
    #: an expectation for its flow; with ``ct``
    exp: AttachedExpectation | None


@dataclass(slots=True)
class LossCount:
    """What a session knows about packets that were lost on the way to it."""

    #: times the socket reported an overrun (ENOBUFS)
    overruns: int = 0
    #: packet ids that never came. Exact up to the last packet received
    lost: int = 0
    #: messages that came but could not be understood
    undecodable: int = 0
    #: an overrun was reported and no packet has come since: ``lost`` is a lower bound until one does
    uncertain: bool = False


class QueueSession(Session):
    """A session for queue ``number``.

    ``undecided`` is the policy for packets without a verdict. ``join`` False makes every decision leave at once. ``acknowledge``
    asks the kernel to answer every verdict message; it costs time, and refusals are answered anyway.
    ``packet_class`` is made for each packet, and ``owner`` set on it.
    """

    hints = HINTS

    def __init__(
        self,
        number: int,
        *,
        undecided: Policy = Policy.DROP,
        join: bool = True,
        acknowledge: bool = False,
        packet_class: type[PacketQueued] = PacketQueued,
        owner: Any = None,
    ) -> None:
        if not 0 <= number <= 0xFFFF:
            raise LocalProtocolError(f"queue numbers go from 0 to 65535, not {number}")
        super().__init__()
        self.number = number
        self.state = State.NEW
        self.undecided = undecided
        self.losses = LossCount()
        self._join = join
        self._packet_class = packet_class
        self._owner = owner
        flags = NlmsgFlag.REQUEST | (NlmsgFlag.ACK if acknowledge else 0)
        self._verdict_flags = flags
        self._pack_verdict = packer(VerdictMessage, "header", res_id=number, nlmsg_flags=flags)
        self._pack_batch = packer(VerdictBatch, "header", res_id=number, nlmsg_flags=flags)
        # the ledger
        self._waiting: set[int] = set()
        self._head = 1  # the oldest undecided id
        self._next_id = 1  # the id the next packet should have
        self._gaps: dict[int, int] = {}  # first id -> last id of what never came, ahead of the head
        self._unidentified = 0  # messages that came since the last packet, but not even their id could be read
        # decisions on their way out
        self._held: list[bytes] = []
        self._patience = HOLD if join else -inf
        self._run_first = 0  # the run of joined decisions, while there is one: from here to just before the head
        self._run_word: int | None = None
        self._turn = 0.0  # when the session was last told the time
        self._settled: set[int] = set()  # last ids of gaps settled by a batch, whose ENOENT means nothing

    # -- asking ----------------------------------------------------------------------------------------------------------

    def bind(
        self,
        *,
        copy_mode: CopyMode = CopyMode.PACKET,
        copy_range: int = MAX_COPY_RANGE,
        max_length: int | None = None,
        flags: QueueFlag = QueueFlag(0),
        mask: QueueFlag | None = None,
    ) -> int:
        """Ask for the queue and configure it in the same message. Gives the number that `Acked` or `Refused` will carry.

        A queue that is bound but not configured drops everything (copy mode NONE), even with ``--queue-bypass``: so the two
        are never apart. ``copy_range`` and ``max_length`` are in bytes and packets; ``mask`` is ``flags`` unless given.
        """
        self._step(Input.BIND)
        config = self._config(Command(ConfigCommand.BIND), copy_mode, copy_range, max_length, flags, mask)
        return self._submit(Pending(f"bind queue {self.number}", config, done_already=errno.EBUSY))

    def configure(
        self,
        *,
        copy_mode: CopyMode | None = None,
        copy_range: int = MAX_COPY_RANGE,
        max_length: int | None = None,
        flags: QueueFlag | None = None,
        mask: QueueFlag | None = None,
    ) -> int:
        """Change what is given. ``flags`` alone sets those bits; bits in ``mask`` but not in ``flags`` are cleared."""
        self._step(Input.CONFIGURE)
        config = self._config(None, copy_mode, copy_range, max_length, flags, mask)
        return self._submit(Pending(f"configure queue {self.number}", config))

    def unbind(self) -> int:
        """Give the queue up. Decisions made leave first, then the policy speaks for what waits; the kernel drops the rest."""
        self._check(Input.UNBIND)
        self.decide_undecided()
        self._step(Input.UNBIND)
        config = self._config(Command(ConfigCommand.UNBIND), None, 0, None, None, None)
        return self._submit(Pending(f"unbind queue {self.number}", config, done_already=errno.ENODEV))

    def _config(
        self,
        command: Command | None,
        copy_mode: CopyMode | None,
        copy_range: int,
        max_length: int | None,
        flags: QueueFlag | None,
        mask: QueueFlag | None,
    ) -> Config:
        if mask is None:
            mask = flags
        return Config(
            nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.ACK,
            res_id=self.number,
            command=command,
            params=None if copy_mode is None else Params(copy_range, CopyMode(copy_mode)),
            queue_maxlen=max_length,
            mask=mask or None,
            flags=(flags or QueueFlag(0)) if mask else None,
        )

    # -- verdicts --------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> frozenset[int]:
        """Ids of the packets that have come and have no verdict yet."""
        return frozenset(self._waiting)

    @property
    def waiting_set(self) -> Set[int]:
        """The same as it is now and changes, for drivers in a hurry."""
        return self._waiting

    def decide(self, packet_id: int, word: int, now: float, **changes: Unpack[Changes]) -> None:
        """Give the one verdict for a packet. ``word`` is a `Verdict`, for QUEUE with the number of the queue in its upper half.

        Raises `LocalProtocolError` for a packet that has its verdict already, or never came, and for STOLEN, which the kernel
        would refuse while keeping the packet; `EncodeError` for values that do not fit. In both cases nothing has changed.
        """
        waiting = self._waiting
        if packet_id not in waiting:
            raise LocalProtocolError(self._why_not(packet_id))
        if self._join and (not changes or all(value is None for value in changes.values())):
            # A run starts at the head and grows with it, so nothing older than its end is undecided.
            if word != self._run_word or packet_id != self._head:
                self._start_run(packet_id, word)
        else:
            message = self._verdict(packet_id, word, changes)
            self._close_run()
            self._hold(message)
        waiting.discard(packet_id)
        if packet_id == self._head:
            self._head = head = packet_id + 1
            if head not in waiting and head != self._next_id:
                self._advance()  # which also wraps it at 2^32
        if now > self.due:
            self._turn = now
            self.flush()

    def decide_plain(self, packet_id: int, word: int, now: float) -> None:
        """`decide` without changes, which is what nearly all packets get: one more of the run costs next to nothing."""
        if packet_id != self._head or word != self._run_word or packet_id not in self._waiting:
            self.decide(packet_id, word, now)
            return
        waiting = self._waiting
        waiting.discard(packet_id)
        self._head = head = packet_id + 1
        if head not in waiting and head != self._next_id:
            self._advance()
        if now > self.due:
            self._turn = now
            self.flush()

    def decide_undecided(self) -> list[int]:
        """Give the policy's verdict to all that wait. Returns their ids; DROP sends nothing: unbind and close do that."""
        left = sorted(self._waiting, key=lambda i: (i - self._head) & ID_MASK)
        if self.undecided is not Policy.DROP:
            for packet_id in left:
                self.decide(packet_id, self.undecided.value, self._turn)
        self._waiting.clear()
        self.flush()
        return left

    def flush(self) -> None:
        """Let the decisions made so far leave: they are in `datagrams_to_send` now."""
        self._close_run()
        self.due = inf
        if not self._held:
            return
        datagram: list[bytes] = []
        size = 0
        for message in self._held:
            if datagram and (size + len(message) > MAX_DATAGRAM):
                self._out.append(b"".join(datagram))
                datagram, size = [], 0
            datagram.append(message)
            size += len(message)
        self._out.append(b"".join(datagram))
        self._held = []

    def _start_run(self, packet_id: int, word: int) -> None:
        _check_word(word)
        self._close_run()
        if packet_id == self._head:
            self._run_first, self._run_word = packet_id, word
            self._set_due()
        else:  # something older is undecided: this one must not be joined with anything
            self._hold(self._pack_verdict(packet_id, word, packet_id))

    def _close_run(self) -> None:
        """Put the run of joined decisions into one message."""
        word = self._run_word
        if word is None:
            return
        self._run_word = None
        last = (self._head - 1) & ID_MASK
        pack = self._pack_verdict if last == self._run_first else self._pack_batch
        self._hold(pack(last, word, last))

    def _hold(self, message: bytes) -> None:
        self._held.append(message)
        self._set_due()
        if len(self._held) >= MAX_JOINED:
            self.flush()

    def _set_due(self) -> None:
        if self.due == inf:
            # Counted from the last time a driver came by: a slow handler's verdict is old the moment it is given.
            self.due = self._turn + self._patience

    def _verdict(self, packet_id: int, word: int, changes: Changes) -> bytes:
        _check_word(word)
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        payload = changes.get("payload")
        if payload is not None and len(payload) > MAX_COPY_RANGE:
            problem = f"a packet of {len(payload)} bytes is more than the {MAX_COPY_RANGE} a verdict can carry"
            raise EncodeError(problem, path="VerdictMessage.payload")
        return bytes(
            VerdictMessage(
                nlmsg_flags=self._verdict_flags,
                nlmsg_seq=packet_id,
                res_id=self.number,
                header=VerdictHeader(word, packet_id),
                **given,
            )
        )

    def _why_not(self, packet_id: int) -> str:
        if self.state is not State.BOUND:
            return f"queue {self.number} is {self.state.value}: there is nothing to decide"
        if (packet_id - self._next_id) & ID_MASK < 1 << 31:
            return f"packet {packet_id} of queue {self.number} has not come yet"
        return f"packet {packet_id} of queue {self.number} has its verdict already"

    # -- what comes ------------------------------------------------------------------------------------------------------

    def receive_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Take in what the socket had, in order. Raises `RemoteProtocolError` for broken framing, after what came before it.

        The hot path: while bound, a whole datagram of the kernel whose shape was seen before costs a match, an id, a place in the
        ledger and an event. Everything else takes the long way round.
        """
        self._turn = now
        if self.state is not State.BOUND:
            super().receive_datagrams(datagrams, now)
            return
        packets = codec(Packet)
        match, unpack = packets.match, _BE32.unpack_from
        waiting, append = self._waiting.add, self._events.append
        make, owner = self._packet_class, self._owner
        expected = self._next_id
        known, at = None, 0
        for data in datagrams:
            shape = match(data) or packets.remembered(data) if type(data) is bytes else None
            if shape is None:
                self._next_id = expected & ID_MASK
                self.receive_datagram(data, now)
                expected = self._next_id
                continue
            if shape is not known:
                if int.from_bytes(data[18:20], "big") != self.number:
                    continue
                known, match, at = shape, packets.match, shape.at[0]
            packet_id = unpack(data, at)[0]
            if packet_id != expected:
                self._next_id = expected = expected & ID_MASK
                if packet_id != expected and not self._skip_to(packet_id):
                    self._repeated(packet_id, data)
                    continue
            expected = packet_id + 1
            waiting(packet_id)
            event = make()
            event.id = packet_id
            event.owner = owner
            event._data = data
            event._shape = shape
            append(event)
        self._next_id = expected & ID_MASK

    def _message(self, message: NetlinkMessage, now: float) -> None:
        if not isinstance(message, Packet) or message.res_id != self.number or (self.state, Input.PACKET) not in TRANSITIONS:
            return
        packet_id = message.header.packet_id
        if packet_id != self._next_id and not self._skip_to(packet_id):
            self._repeated(packet_id, bytes(message))
            return
        self._next_id = (packet_id + 1) & ID_MASK
        self._waiting.add(packet_id)
        event = self._packet_class()
        event.id, event.owner = packet_id, self._owner
        event._data, event._shape = message._data, message._shape
        self._events.append(event)

    def _repeated(self, packet_id: int, data: bytes) -> None:
        error = DecodeError(f"packet id {packet_id} came again or too late", path="Packet.header", offset=20)
        self.losses.undecodable += 1
        self._events.append(Undecodable(data, error))

    def _skip_to(self, packet_id: int) -> bool:
        """The next packet has an id other than expected: note what is missing. False, and no change, if the id lies behind us."""
        first, count = self._next_id, (packet_id - self._next_id) & ID_MASK
        if count >= 1 << 31:
            return False
        lost = count - min(count, self._unidentified)
        self._unidentified = 0
        self._missing(first, (packet_id - 1) & ID_MASK)
        if lost:
            self.losses.lost += lost
            self._events.append(PacketsLost((packet_id - lost) & ID_MASK, (packet_id - 1) & ID_MASK))
        self.losses.uncertain = False
        return True

    def _missing(self, first: int, last: int) -> None:
        """Ids that nobody will decide: a gap in the ledger."""
        self._gaps[first] = last
        self._next_id = (last + 1) & ID_MASK
        if self._head == first:
            self._advance()

    def _advance(self) -> None:
        """Move the head past what is decided, and settle the gaps it meets."""
        self._head &= ID_MASK
        while self._head != self._next_id and self._head not in self._waiting:
            self._close_run()  # it ends where ids are passed over
            last = self._gaps.pop(self._head, None)
            if last is not None:
                # Everything older has its verdict, so a batch message up to the gap's end speaks for the gap alone.
                self._hold(self._pack_batch(last, self.undecided.value, last))
                self._settled.add(last)
                self._head = last
            self._head = (self._head + 1) & ID_MASK

    def _undecodable(self, data: bytes, error: DecodeError) -> None:
        packet_id = _peek_id(data, self.number)
        self.losses.undecodable += 1
        if packet_id is None:
            self._unidentified += 1
        elif packet_id == self._next_id or self._skip_to(packet_id):
            self._missing(packet_id, packet_id)
        self._events.append(Undecodable(data, error, packet_id))

    def receive_overrun(self, now: float) -> None:
        """The socket reported ENOBUFS: packets were lost; how many, the next id will tell."""
        self._turn = now
        self.losses.overruns += 1
        self.losses.uncertain = True
        super().receive_overrun(now)

    def receive_empty(self, now: float) -> None:
        """The socket has been read empty: nothing more can be joined, so what was decided leaves."""
        self._turn = now
        super().receive_empty(now)
        if self.due == inf and not self._out:
            self._settled.clear()  # whatever the kernel had to say of them has been read
        self.flush()

    def handle_timer(self, now: float) -> None:
        """A driver came by: decisions held for longer than `HOLD` leave."""
        if now > self.due:
            self.flush()
        self._turn = now

    # -- answers ---------------------------------------------------------------------------------------------------------

    def _unasked(self, ack: Ack) -> None:
        if ack.request_type not in (VerdictMessage.__type__, VerdictBatch.__type__):
            super()._unasked(ack)
        packet_id = ack.nlmsg_seq  # see `_verdict`
        if ack.request_type == VerdictBatch.__type__ and packet_id in self._settled:
            self._settled.discard(packet_id)
            if ack.error in (0, errno.ENOENT):
                return
        if ack.error:
            what = f"verdict for packet {packet_id} of queue {self.number}"
            self._events.append(Refused(None, what, self._error(ack, what, None), packet_id))

    def _done(self, pending: Pending) -> None:
        if self.state in (State.BINDING, State.UNBINDING):
            self._step(Input.ACKED)

    def _failed(self, pending: Pending) -> None:
        if self.state in (State.BINDING, State.UNBINDING):
            self._step(Input.REFUSED)

    # -- states ----------------------------------------------------------------------------------------------------------

    def _check(self, what: Input) -> State:
        next_state = TRANSITIONS.get((self.state, what))
        if next_state is None:
            raise LocalProtocolError(f"cannot {what.value}: queue {self.number} is {self.state.value}")
        return next_state

    def _step(self, what: Input) -> None:
        self.state = self._check(what)


_BE32 = Struct(">I")


def _check_word(word: int) -> None:
    """Refuse what the kernel would refuse while keeping the packet, or take for something else than was meant."""
    if not 0 <= word <= 0xFFFFFFFF:
        raise LocalProtocolError(f"{word!r} is not a verdict")
    low, high = word & 0xFF, word >> 8
    if low == Verdict.STOLEN:
        raise LocalProtocolError("STOLEN is not for user space: the kernel would answer EINVAL and keep the packet")
    if low > Verdict.STOP or (high and low != Verdict.QUEUE):
        # Upper bits would turn ACCEPT into STOP and REPEAT into DROP: the kernel compares whole words (`nf_reinject`).
        raise LocalProtocolError(f"{word:#x} is not a verdict")


def _peek_id(data: bytes, queue: int) -> int | None:
    """The packet id of a packet message that could not be decoded, if it is where the kernel always writes it: first."""
    if len(data) < 31 or NATIVE.u16.unpack_from(data, 4)[0] != Packet.__type__ or int.from_bytes(data[18:20], "big") != queue:
        return None
    length, type_ = NATIVE.attr.unpack_from(data, 20)
    return int.from_bytes(data[24:28], "big") if (type_ & 0x3FFF, length) == (1, 11) else None
