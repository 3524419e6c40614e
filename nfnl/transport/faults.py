"""Accidents on demand: a kernel around any kernel whose sockets lose, overrun and interrupt what you say.

    kernel = FaultyKernel(nfnl.LinuxKernel())
    kernel.interrupt_dump()                  # the next dump says that the table changed under it
    kernel.overrun(lost=3)                   # the next receive meets ENOBUFS, and three datagrams are gone
    kernel.lose(matching=is_acknowledgement)

For programs that must cope with what a real kernel does rarely, or never when a test looks. Each fault strikes once, at whichever
of the kernel's sockets meets it first. What is sent to the kernel is never touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nfnl.errors import DecodeError, OverrunError
from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.wrap import WrappedKernel, WrappedTransport
from nfnl.wire.constants import NlmsgFlag, NlmsgType
from nfnl.wire.datagram import Datagram
from nfnl.wire.header import NATIVE, Part, walk

_DUMP, _INTERRUPTED = int(NlmsgFlag.DUMP), int(NlmsgFlag.DUMP_INTR)
_DONE, _ERROR = int(NlmsgType.DONE), int(NlmsgType.ERROR)
#: where an nlmsghdr has its flags
_FLAGS_AT = 6

#: Which datagrams a fault is about.
Matching = Callable[[bytes], bool]


def _every(datagram: bytes) -> bool:
    return True


@dataclass
class _Loss:
    left: int
    matching: Matching


class _Faults:
    """What is still to go wrong, for all sockets of a kernel."""

    def __init__(self) -> None:
        #: by dump: how many of its messages go before the one that says so; None: NLMSG_DONE does
        self.interruptions: deque[int | None] = deque()
        #: what is to vanish
        self.losses: list[_Loss] = []
        #: how much each of them loses
        self.overruns: deque[int] = deque()

    def loses(self, datagram: bytes) -> bool:
        """Whether this one vanishes."""
        for loss in self.losses:
            if loss.left and loss.matching(datagram):
                loss.left -= 1
                return True
        return False


class FaultyKernel(WrappedKernel):
    """The kernel inside in everything, until one of the methods below was called."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._faults = _Faults()

    def wrap(self, transport: Transport, options: SocketOptions) -> FaultyTransport:
        """The transport, with this kernel's faults."""
        return FaultyTransport(transport, self._faults)

    def interrupt_dump(self, *, after: int | None = None) -> None:
        """Have the next dump say NLM_F_DUMP_INTR: in the message behind the first ``after``, or where there are not that many,
        and unless said otherwise, in its NLMSG_DONE. Linux says it once for every change it notices, wherever in the dump that is.
        """
        self._faults.interruptions.append(after)

    def lose(self, count: int = 1, *, matching: Matching = _every) -> None:
        """Have the next ``count`` datagrams that come and are ``matching`` vanish without a word."""
        self._faults.losses.append(_Loss(count, matching))

    def overrun(self, *, lost: int = 1) -> None:
        """Have the next receive raise `OverrunError`; ``lost`` datagrams that come after it are gone."""
        self._faults.overruns.append(lost)


class FaultyTransport(WrappedTransport):
    """A transport that meets the faults of its kernel."""

    def __init__(self, transport: Transport, faults: _Faults) -> None:
        super().__init__(transport)
        self._faults = faults
        #: dumps that were asked for, by sequence number: how many of their messages have come; None: it was interrupted
        self._dumps: dict[int, int | None] = {}

    def send(self, datagram: bytes) -> None:
        for part in _parts(datagram):
            if part.flags & _DUMP == _DUMP:
                self._dumps[_seq(part)] = 0
        self._transport.send(datagram)

    def receive(self) -> list[bytes]:
        faults = self._faults
        if faults.overruns:
            faults.losses.append(_Loss(faults.overruns.popleft(), _every))
            raise OverrunError("an overrun that was asked for")
        return [self._seen(datagram) for datagram in self._transport.receive() if not faults.loses(datagram)]

    def _seen(self, datagram: bytes) -> bytes:
        """The datagram, perhaps with an interruption in it."""
        marks = [offset for part in _parts(datagram) if self._dumps and (offset := self._mark(part)) is not None]
        if not marks:
            return datagram
        data = bytearray(datagram)
        for offset in marks:
            (flags,) = NATIVE.u16.unpack_from(data, offset + _FLAGS_AT)
            NATIVE.u16.pack_into(data, offset + _FLAGS_AT, flags | _INTERRUPTED)
        if type(datagram) is Datagram:
            return Datagram.make(bytes(data), sender=datagram.sender, groups=datagram.groups, truncated=datagram.truncated)
        return bytes(data)

    def _mark(self, part: Part) -> int | None:
        """Where a message starts that is to say that its dump was interrupted."""
        seq = _seq(part)
        come = self._dumps.get(seq)
        ends = part.type in (_DONE, _ERROR)  # an error refuses it
        if ends:
            self._dumps.pop(seq, None)
        elif come is not None:
            self._dumps[seq] = come + 1
        interruptions = self._faults.interruptions
        if come is None or not interruptions or part.type == _ERROR or (not ends and come != interruptions[0]):
            return None
        interruptions.popleft()
        if not ends:
            self._dumps[seq] = None
        return part.offset


def _parts(datagram: bytes) -> list[Part]:
    """The messages up to broken framing, which is none of our business."""
    parts = []
    try:
        for part in walk(datagram):
            parts.append(part)  # noqa: PERF402 -- what came before the error counts
    except DecodeError:
        pass
    return parts


def _seq(part: Part) -> int:
    seq: int = NATIVE.header.unpack_from(part.data)[3]
    return seq
