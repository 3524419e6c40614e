"""What the doors share: opening a queue, giving verdicts, and never losing track of a packet."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

from nfnl._handles import QueuedPacket
from nfnl._pump import Pump
from nfnl.errors import LocalProtocolError, TransportClosed
from nfnl.session.events import Event
from nfnl.session.queue import MAX_COPY_RANGE, Changes, Policy, QueueSession
from nfnl.subsys.queue import CopyMode, QueueFlag
from nfnl.transport.base import Kernel, SocketOptions

E = TypeVar("E", bound=Enum)


class QueueWarning(UserWarning):
    """Packets were lost, left undecided, or could not be understood."""


@dataclass(frozen=True, slots=True)
class QueueLosses:
    """Packets that never reached the handler, by where they were lost."""

    #: times the receive buffer overflowed (ENOBUFS); 0 forever with ``no_enobufs``
    overruns: int
    #: packets lost because of that. Exact up to the last packet received (the kernel uses up an id for each)
    lost: int
    #: an overrun was reported and no packet has come since: ``lost`` is a lower bound
    uncertain: bool
    #: messages that came but could not be understood; their packets are decided by the ``undecided`` policy
    undecodable: int
    #: the kernel's own counts, exact, since the queue was bound; None where /proc cannot be read:
    #: dropped because ``max_length`` packets were waiting
    queue_dropped: int | None
    #: dropped because the message did not fit the receive buffer
    user_dropped: int | None


class QueueStatistics(NamedTuple):
    """A line of /proc/net/netfilter/nfnetlink_queue (`seq_show` in net/netfilter/nfnetlink_queue.c)."""

    number: int
    #: of the listening socket
    port_id: int
    #: packets that wait for a verdict, handed over or not
    waiting: int
    #: see `CopyMode`
    copy_mode: int
    copy_range: int
    #: packets dropped because the queue was full
    queue_dropped: int
    #: packets dropped because the listener did not take the message
    user_dropped: int
    #: of the last packet
    last_id: int


class QueueOptions(TypedDict, total=False):
    """How a queue is opened. All of it is optional."""

    #: where; None is Linux
    kernel: Kernel | None
    #: Linux: the network namespace, by name (of ``ip netns``), path or descriptor; None is the current one
    netns: str | int | None
    #: how much of a packet comes: everything up to ``copy_range`` bytes (the default), or only what is known about it
    copy: CopyMode | Literal["packet", "meta"]
    #: bytes of each packet that are copied; at most 65531, the default
    copy_range: int
    #: how many packets may wait in the kernel; 1024 unless given
    max_length: int | None
    #: `QueueFlag`: FAIL_OPEN, GSO, UID_GID ...
    flags: QueueFlag
    #: bytes of socket buffer, which the kernel doubles; a small packet takes 832 of them, a full-size one 2304
    receive_buffer: int | None
    #: overruns are not reported (packet ids still tell of losses) and do not make the kernel wait for an empty socket
    no_enobufs: bool
    #: what becomes of packets left without a verdict; ``"drop"`` unless given
    undecided: Literal["drop", "accept"]
    #: let verdicts leave together (the default); False sends each at once
    join: bool
    #: have the kernel answer every verdict message; refusals are answered anyway, so it only costs time (False unless given)
    acknowledge: bool
    #: called for everything that is not a packet: losses, refused verdicts, messages that could not be understood. By default
    #: such an event becomes a `QueueWarning`
    on_event: Callable[[Event], object] | None


class QueueDoor:
    """A bound queue, but for the waiting. Not thread-safe, except for `stop` and, in the sync door, ``close``."""

    def __init__(self, number: int, **options: Unpack[QueueOptions]) -> None:
        """Open a socket, bind queue ``number`` and configure it. See `QueueOptions`.

        Raises `NotPermitted` without CAP_NET_ADMIN or when another process owns the queue, and other `NetlinkError` as the kernel
        refuses.
        """
        unknown = options.keys() - QueueOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"open_queue() has no option {', '.join(sorted(unknown))}")
        self.number = number
        self._kernel = options.get("kernel") or linux_kernel(options.get("netns"))
        if options.get("kernel") is not None and options.get("netns") is not None:
            raise LocalProtocolError("netns goes with kernel=None: give it to the kernel instead")
        self._session = QueueSession(
            number,
            undecided=_choice("undecided", options.get("undecided", "drop"), Policy),
            join=options.get("join", True),
            acknowledge=options.get("acknowledge", False),
            packet_class=QueuedPacket,
            owner=self,
        )
        self._on_event = options.get("on_event") or _warn
        self._stopping = False
        self._closed = False
        self._watched: dict[int, weakref.ref[QueuedPacket]] = {}
        request = self._session.bind(
            copy_mode=_choice("copy", options.get("copy", "packet"), CopyMode),
            copy_range=options.get("copy_range", MAX_COPY_RANGE),
            max_length=options.get("max_length"),
            flags=options.get("flags", QueueFlag(0)),
        )
        self._transport = self._kernel.open(
            SocketOptions(receive_buffer=options.get("receive_buffer"), no_enobufs=options.get("no_enobufs", False))
        )
        self._now = self._transport.now
        self._output = self._session.output
        self._decide_plain = self._session.decide_plain
        self._pump = Pump(self._session, self._transport)
        try:
            self._pump.ask(request)
        except BaseException:
            self._closed = True
            self._transport.close()
            raise

    # -- for everyone ----------------------------------------------------------------------------------------------------------

    def configure(
        self,
        *,
        copy: CopyMode | Literal["packet", "meta"] | None = None,
        copy_range: int = MAX_COPY_RANGE,
        max_length: int | None = None,
        flags: QueueFlag | None = None,
        mask: QueueFlag | None = None,
    ) -> None:
        """Change what is given. ``flags`` alone sets those; bits in ``mask`` that are not in ``flags`` are cleared.

        Raises `NetlinkError` as the kernel refuses.
        """
        mode = None if copy is None else _choice("copy", copy, CopyMode)
        self._pump.ask(
            self._session.configure(copy_mode=mode, copy_range=copy_range, max_length=max_length, flags=flags, mask=mask)
        )

    def stop(self) -> None:
        """End the iteration that is under way, or else the next one; the queue stays bound. From any thread or task."""
        self._stopping = True
        self._transport.wake()

    def flush(self) -> None:
        """Let the verdicts given so far leave now."""
        self._session.flush()
        self._pump.send()

    def fileno(self) -> int | None:
        """The socket's descriptor, for a poll of your own; None on the fake kernel."""
        return self._transport.fileno()

    @property
    def receive_buffer(self) -> int:
        """SO_RCVBUF as granted, in bytes, doubled by the kernel."""
        return self._transport.receive_buffer

    @property
    def waiting(self) -> frozenset[int]:
        """Ids of the packets handed over that have no verdict yet."""
        return self._session.waiting

    @property
    def losses(self) -> QueueLosses:
        """What was lost, as far as it can be known; see `QueueLosses` for what is exact."""
        count = self._session.losses
        line = self.statistics
        kernel = (None, None) if line is None else (line.queue_dropped, line.user_dropped)
        return QueueLosses(count.overruns, count.lost, count.uncertain, count.undecodable, *kernel)

    @property
    def statistics(self) -> QueueStatistics | None:
        """What the kernel says of this queue; None where its /proc file cannot be read: root of the machine alone may."""
        try:
            lines = self._kernel.read_proc("netfilter/nfnetlink_queue").splitlines()
        except OSError:
            return None
        return next((QueueStatistics(*map(int, f[:8])) for f in map(str.split, lines) if int(f[0]) == self.number), None)

    def interface_name(self, index: int) -> str | None:
        """What the network device with this number is called now, where this queue is; None if it is gone. See `Kernel`."""
        return self._kernel.interface_name(index)

    # -- for packets -----------------------------------------------------------------------------------------------------------

    def decide(self, packet_id: int, word: int, **changes: Unpack[Changes]) -> None:
        """The verdict of a packet; users call the packet's own methods."""
        self._session.decide(packet_id, word, self._now(), **changes)
        if self._output:
            self._pump.send()

    def decide_plain(self, packet_id: int, word: int) -> None:
        """The same for most packets: a verdict that changes nothing."""
        self._decide_plain(packet_id, word, self._now())
        if self._output:
            self._pump.send()

    def send_raw(self, packet: bytes) -> None:
        """An answer to a packet, from this host; users call `QueuedPacket.reject`."""
        self._kernel.send_raw(packet)

    def is_waiting(self, packet_id: int) -> bool:
        """It has come and has no verdict."""
        return packet_id in self._session.waiting_set

    # -- for the doors ---------------------------------------------------------------------------------------------------------

    def _handed_out(self, packet: QueuedPacket) -> None:
        """Called when the handler comes back without a verdict. It may keep the packet for later; if it lost it, we hear."""
        packet_id = packet.id
        self._watched[packet_id] = weakref.ref(packet, lambda _: self._forgotten(packet_id))

    def _forgotten(self, packet_id: int) -> None:
        self._watched.pop(packet_id, None)
        if self._closed or packet_id not in self._session.waiting_set:
            return
        policy = self._session.undecided
        self.decide(packet_id, policy.value)
        warnings.warn(
            f"queue {self.number}: packet {packet_id} was let go without a verdict; policy: {policy.name}",
            QueueWarning,
            stacklevel=2,
        )

    def _finish(self) -> None:
        """Decide what is left, and close the socket."""
        if self._closed:
            return
        self._closed = True
        try:
            self._session.flush()
            left = self._session.decide_undecided()
            self._pump.send()
        except TransportClosed:
            left = []
        finally:
            self._watched.clear()
            self._transport.close()
        if left:
            ids = ", ".join(map(str, left[:10])) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
            policy = self._session.undecided.name
            warnings.warn(f"queue {self.number} closed with undecided packets: {ids}; policy: {policy}", QueueWarning, stacklevel=3)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._session.state.value
        return f"<{type(self).__module__}.{type(self).__name__} {self.number}, {state}>"


def linux_kernel(netns: str | int | None) -> Kernel:
    """Linux, imported when it is needed."""
    from nfnl.transport.linux import LinuxKernel  # ctypes and socket are needed only here

    return LinuxKernel(netns=netns)


def _choice(option: str, value: Any, kind: type[E]) -> E:
    """A member of an enum, by itself or by its name in lower case. Raises ValueError that names the option and the choices."""
    if isinstance(value, kind):
        return value
    for member in kind:
        if value == member.name.lower():
            return member
    raise ValueError(f"{option} is {value!r}, but must be one of {', '.join(member.name.lower() for member in kind)}")


def _warn(event: Event) -> None:
    warnings.warn(str(event), QueueWarning, stacklevel=2)
