"""What the trackers remember of a flow besides its tuples (`union nf_conntrack_proto`)."""

from __future__ import annotations

from copy import deepcopy
from enum import IntEnum
from typing import Any, Self

from nfnl.sim.skb import TCP
from nfnl.sim.tuples import SCTP


class TcpState(IntEnum):
    """``TCP_CONNTRACK_*`` (include/uapi/linux/netfilter/nf_conntrack_tcp.h)."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9


class SctpState(IntEnum):
    """``SCTP_CONNTRACK_*`` (include/uapi/linux/netfilter/nf_conntrack_sctp.h)."""

    NONE = 0
    CLOSED = 1
    COOKIE_WAIT = 2
    COOKIE_ECHOED = 3
    ESTABLISHED = 4
    SHUTDOWN_SENT = 5
    SHUTDOWN_RECD = 6
    SHUTDOWN_ACK_SENT = 7
    HEARTBEAT_SENT = 8


class TcpFlag:
    """``IP_CT_TCP_FLAG_*`` and, above the byte that is told, the kernel's own: bits of `TcpSide.flags`."""

    WINDOW_SCALE = 0x01
    SACK_PERM = 0x02
    CLOSE_INIT = 0x04  #: this side closed first
    BE_LIBERAL = 0x08
    DATA_UNACKNOWLEDGED = 0x10
    MAXACK_SET = 0x20
    EXP_CHALLENGE_ACK = 0x40
    SIMULTANEOUS_OPEN = 0x80


class _State:
    """Numbers, and what holds numbers. Copied name by name: a snapshot of a large table has many of them."""

    __slots__: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        for name in self.__slots__:
            value = getattr(self, name)
            setattr(twin, name, value if isinstance(value, int) else deepcopy(value, memo))
        return twin


class TcpSide(_State):
    """What one side has sent (`struct ip_ct_tcp_state`). All numbers are those of the packets, modulo 2**32."""

    __slots__ = ("end", "flags", "maxack", "maxend", "maxwin", "scale")

    def __init__(self) -> None:
        #: highest sequence number sent, plus length
        self.end = 0
        #: highest sequence number the other side allows
        self.maxend = 0
        #: largest window offered; 0: nothing was seen of this side, and its next packet starts its history
        self.maxwin = 0
        #: highest acknowledgement sent
        self.maxack = 0
        #: window scale, 0 to 14
        self.scale = 0
        #: bits of `TcpFlag`
        self.flags = 0


class TcpInfo(_State):
    """State of a TCP flow (`struct ip_ct_tcp`)."""

    __slots__ = (
        "last_ack",
        "last_dir",
        "last_end",
        "last_flags",
        "last_index",
        "last_scale",
        "last_seq",
        "last_win",
        "retransmissions",
        "sides",
        "state",
    )

    def __init__(self) -> None:
        self.state = TcpState.NONE
        #: by direction: 0 the side that opened the connection, 1 the other
        self.sides = (TcpSide(), TcpSide())
        #: kind of the last packet (`nfnl.sim.tracker_tcp.Kind`), and its direction
        self.last_index = 0
        self.last_dir = 0
        self.last_seq = self.last_ack = self.last_end = self.last_win = 0
        #: options of the last SYN that was ignored
        self.last_scale = self.last_flags = 0
        self.retransmissions = 0

    def configure(
        self,
        state: int | None = None,
        scales: tuple[int | None, int | None] = (None, None),
        flags: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None),
    ) -> None:
        """What a request sets (`nlattr_to_tcp`); None: not in the request. ``flags`` are pairs of value and mask.

        The scales count only if both are there and, with these flags, both sides have WINDOW_SCALE. The history of the
        windows is none of it.
        """
        if state is not None:
            self.state = TcpState(state)
        for side, given in zip(self.sides, flags, strict=True):
            if given is not None:
                value, mask = given
                side.flags = side.flags & ~mask | value & mask
        original, reply = scales
        if original is not None and reply is not None and all(side.flags & TcpFlag.WINDOW_SCALE for side in self.sides):
            self.sides[0].scale, self.sides[1].scale = original, reply


class SctpInfo(_State):
    """State of an SCTP flow (`struct ip_ct_sctp`)."""

    __slots__ = ("heartbeat_failed", "init", "last_dir", "state", "vtags")

    def __init__(self) -> None:
        self.state = SctpState.NONE
        #: verification tags by direction, as numbers read in network order; 0: not known
        self.vtags = [0, 0]
        #: by direction, whether an INIT was seen whose handshake is not over
        self.init = [False, False]
        #: a heartbeat had another tag than is known, and the direction it went
        self.heartbeat_failed = False
        self.last_dir = 0


class UdpInfo(_State):
    """Of a UDP flow: when the first answer may count as a stream (``ct->proto.udp.stream_ts``), in ticks."""

    __slots__ = ("stream_from",)

    def __init__(self, stream_from: int) -> None:
        self.stream_from = stream_from


class GreInfo(_State):
    """Of a GRE flow: the timeouts as they were when it began, in ticks."""

    __slots__ = ("stream_timeout", "timeout")

    def __init__(self, timeout: int, stream_timeout: int) -> None:
        self.timeout = timeout
        self.stream_timeout = stream_timeout


ProtoInfo = TcpInfo | SctpInfo | UdpInfo | GreInfo

_STATES: dict[int, type[TcpInfo] | type[SctpInfo]] = {TCP: TcpInfo, SCTP: SctpInfo}


def fresh(protocol: int) -> ProtoInfo | None:
    """What a new flow of this protocol starts with; None for those without a state that requests can set."""
    kind = _STATES.get(protocol)
    return kind() if kind else None
