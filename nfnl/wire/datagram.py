"""What crosses the seam between a session and a kernel: datagrams, and facts about the socket. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class Datagram(bytes):
    """One received datagram: its bytes, and three facts about how it came.

    An ordinary datagram (whole, sent by the kernel to this socket alone) may also be plain `bytes`, which is what transports
    hand out on the hot path: the defaults below are its facts. Ask with ``sender_of`` and friends, or check
    ``type(d) is bytes`` first.
    """

    #: port id of the sender (``nl_pid``); 0 is the kernel, anything else is some process and not to be trusted
    sender: int = 0
    #: bit mask of multicast groups the datagram was sent to (``nl_groups``: bit n - 1 for group n); 0 for unicast
    groups: int = 0
    #: MSG_TRUNC: the buffer was too small and the rest is lost
    truncated: bool = False

    @classmethod
    def make(cls, data: bytes, *, sender: int = 0, groups: int = 0, truncated: bool = False) -> Self:
        """A datagram with facts other than the defaults."""
        self = cls(data)
        self.sender, self.groups, self.truncated = sender, groups, truncated
        return self

    def __repr__(self) -> str:
        facts = f"sender={self.sender}, groups={self.groups:#x}, truncated={self.truncated}"
        return f"{type(self).__name__}({bytes(self)!r}, {facts})"


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """Join a multicast group by number (NETLINK_ADD_MEMBERSHIP)."""

    group: int


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    """Leave a multicast group by number (NETLINK_DROP_MEMBERSHIP)."""

    group: int


@dataclass(frozen=True, slots=True)
class SetReceiveBuffer:
    """Ask for a receive buffer of ``size`` bytes (SO_RCVBUFFORCE where permitted, else SO_RCVBUF); the kernel doubles it."""

    size: int


@dataclass(frozen=True, slots=True)
class SetOption:
    """Switch a boolean netlink option: one of the ``NETLINK_*`` numbers in `nfnl.wire.constants.SocketOption`."""

    option: int
    value: bool


@dataclass(frozen=True, slots=True)
class AttachFilter:
    """Attach a classic BPF program (SO_ATTACH_FILTER): instructions as ``(code, jt, jf, k)``; empty detaches."""

    program: tuple[tuple[int, int, int, int], ...]


#: What a session may ask of its socket: it is asked for, not done, by the session.
SocketRequest = JoinGroup | LeaveGroup | SetReceiveBuffer | SetOption | AttachFilter
