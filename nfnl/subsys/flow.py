"""What there is to say of a flow (``CTA_*``): it is declared here once, and said by the messages of `nfnl.subsys.conntrack`.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h for numbers, nf_conntrack_common.h, nf_conntrack_tcp.h and
nf_conntrack_sctp.h beside it for what the values mean, net/netfilter/nf_conntrack_netlink.c for the policies and for the order in
which the kernel writes attributes. Numbers are in network byte order but for the words of `Filter` and the bitmaps of labels, which
are in that of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import Annotated, NamedTuple

from nfnl.subsys.tuples import NEST, Tuple
from nfnl.wire.declare import AttrSet, View, attr
from nfnl.wire.header import NATIVE, ByteOrder
from nfnl.wire.layout import (
    U8,
    Be16,
    Be32,
    Be64,
    CString,
    IPv4,
    IPv6,
    Raw,
    SignedBe32,
    as_enum,
    be16,
    be32,
    be64,
    octets,
    u8,
    u32,
)

#: bytes of a bitmap of labels (``NF_CT_LABELS_MAX_SIZE``): what the kernel sends, and the most it takes (ERANGE)
LABELS_SIZE = 16


class Status(IntFlag):
    """``IPS_*``: how far a flow has come (include/uapi/linux/netfilter/nf_conntrack_common.h)."""

    EXPECTED = 0x1  #: an expectation was waiting for it: it has a master
    SEEN_REPLY = 0x2  #: packets went both ways
    ASSURED = 0x4  #: not to be thrown out early when the table is full
    CONFIRMED = 0x8  #: its first packet has left the box, or was taken in
    SRC_NAT = 0x10  #: the source of its original direction is rewritten
    DST_NAT = 0x20  #: the destination of its original direction is rewritten
    SEQ_ADJUST = 0x40  #: its TCP sequence numbers are adjusted
    SRC_NAT_DONE = 0x80  #: whether to rewrite the source is settled
    DST_NAT_DONE = 0x100  #: whether to rewrite the destination is settled
    DYING = 0x200  #: on its way out of the table
    FIXED_TIMEOUT = 0x400  #: packets do not renew its timeout
    TEMPLATE = 0x800  #: a template of ``-j CT``, no flow
    UNTRACKED = 0x1000  #: obsolete
    HELPER = 0x2000  #: it was given its helper by a rule or by ctnetlink
    OFFLOAD = 0x4000  #: a flow table takes its packets past the tracker (since 4.16)
    HW_OFFLOAD = 0x8000  #: the hardware does (since 5.7)


class TcpState(IntEnum):
    """``enum tcp_conntrack`` (include/uapi/linux/netfilter/nf_conntrack_tcp.h)."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9  #: a SYN came from each side (LISTEN of old)


class TcpFlag(IntFlag):
    """``IP_CT_TCP_FLAG_*``: what is known of one side of a TCP flow."""

    WINDOW_SCALE = 0x01  #: it offered window scaling
    SACK_PERM = 0x02  #: it permits selective acknowledgements
    CLOSE_INIT = 0x04  #: it sent the first FIN
    BE_LIBERAL = 0x08  #: packets outside its window are let through
    DATA_UNACKNOWLEDGED = 0x10  #: it has sent data that nobody has acknowledged
    MAXACK_SET = 0x20  #: the highest acknowledgement is known
    EXP_CHALLENGE_ACK = 0x40  #: a challenge ACK (RFC 5961) may come
    SIMULTANEOUS_OPEN = 0x80  #: both sides sent a SYN


class SctpState(IntEnum):
    """``enum sctp_conntrack`` (include/uapi/linux/netfilter/nf_conntrack_sctp.h)."""

    NONE = 0
    CLOSED = 1
    COOKIE_WAIT = 2
    COOKIE_ECHOED = 3
    ESTABLISHED = 4
    SHUTDOWN_SENT = 5
    SHUTDOWN_RECD = 6
    SHUTDOWN_ACK_SENT = 7
    HEARTBEAT_SENT = 8
    HEARTBEAT_ACKED = 9  #: no longer used


class DccpState(IntEnum):
    """``enum ct_dccp_states`` (include/linux/netfilter/nf_conntrack_dccp.h, no longer in 6.18)."""

    NONE = 0
    REQUEST = 1
    RESPOND = 2
    PARTOPEN = 3
    OPEN = 4
    CLOSEREQ = 5
    CLOSING = 6
    TIMEWAIT = 7
    IGNORE = 8
    INVALID = 9


class DccpRole(IntEnum):
    """``enum ct_dccp_roles``: what the side that began the flow is."""

    CLIENT = 0
    SERVER = 1


class FilterFlag(IntFlag):
    """``CTA_FILTER_F_*``: which parts of a tuple must be equal (net/netfilter/nf_conntrack_netlink.c)."""

    IP_SRC = 0x1
    IP_DST = 0x2
    TUPLE_ZONE = 0x4  #: parsed, but does not select
    PROTO_NUM = 0x8  #: what follows needs it
    PROTO_SRC_PORT = 0x10
    PROTO_DST_PORT = 0x20
    PROTO_ICMP_TYPE = 0x40
    PROTO_ICMP_CODE = 0x80
    PROTO_ICMP_ID = 0x100
    PROTO_ICMPV6_TYPE = 0x200
    PROTO_ICMPV6_CODE = 0x400
    PROTO_ICMPV6_ID = 0x800


StatusWord = Annotated[Status, as_enum(be32, Status)]
FilterWord = Annotated[FilterFlag, as_enum(u32, FilterFlag)]


class TcpFlags(NamedTuple):
    """``struct nf_ct_tcp_flags``: 2 bytes."""

    #: the bits
    flags: Annotated[int, as_enum(u8, TcpFlag)]
    #: in a request: which of them count; 0 from the kernel
    mask: Annotated[int, as_enum(u8, TcpFlag)]

    def __str__(self) -> str:
        return f"{self.flags:#04x}" + (f"/{self.mask:#04x}" if self.mask else "")


class TcpInfo(AttrSet):
    """``CTA_PROTOINFO_TCP``. Events of destruction have only the state."""

    __slots__ = ()

    state: Annotated[int, as_enum(u8, TcpState)] | None = attr(
        1, "CTA_PROTOINFO_TCP_STATE", default=None, policy=u8, doc="state of the flow; above 9 refused (ERANGE)"
    )
    wscale_original: U8 | None = attr(
        2, "CTA_PROTOINFO_TCP_WSCALE_ORIGINAL", default=None, policy=u8, doc="window scale of the original side, 0 to 14"
    )
    wscale_reply: U8 | None = attr(
        3, "CTA_PROTOINFO_TCP_WSCALE_REPLY", default=None, policy=u8, doc="window scale of the reply side, 0 to 14"
    )
    flags_original: TcpFlags | None = attr(
        4, "CTA_PROTOINFO_TCP_FLAGS_ORIGINAL", default=None, policy=octets(2), doc="flags of the original side"
    )
    flags_reply: TcpFlags | None = attr(
        5, "CTA_PROTOINFO_TCP_FLAGS_REPLY", default=None, policy=octets(2), doc="flags of the reply side"
    )


class DccpInfo(AttrSet):
    """``CTA_PROTOINFO_DCCP``: of kernels that track DCCP; ignored where it is no longer done, as in 6.18."""

    __slots__ = ()

    state: Annotated[int, as_enum(u8, DccpState)] | None = attr(
        1, "CTA_PROTOINFO_DCCP_STATE", default=None, policy=u8, doc="state of the flow"
    )
    role: Annotated[int, as_enum(u8, DccpRole)] | None = attr(
        2, "CTA_PROTOINFO_DCCP_ROLE", default=None, policy=u8, doc="role of the original side"
    )
    handshake_seq: Be64 | None = attr(
        3, "CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ", default=None, policy=be64, doc="sequence number of the handshake"
    )
    pad: Raw | None = attr(4, "CTA_PROTOINFO_DCCP_PAD", default=None, since="4.7", doc="aligns what follows it; says nothing")


class SctpInfo(AttrSet):
    """``CTA_PROTOINFO_SCTP``: since 2.6.27. A request must have all three (EINVAL)."""

    __slots__ = ()

    state: Annotated[int, as_enum(u8, SctpState)] | None = attr(
        1, "CTA_PROTOINFO_SCTP_STATE", default=None, policy=u8, doc="state of the flow; above 8 refused (ERANGE)"
    )
    vtag_original: Be32 | None = attr(
        2, "CTA_PROTOINFO_SCTP_VTAG_ORIGINAL", default=None, policy=be32, doc="verification tag of the original direction"
    )
    vtag_reply: Be32 | None = attr(
        3, "CTA_PROTOINFO_SCTP_VTAG_REPLY", default=None, policy=be32, doc="verification tag of the reply direction"
    )


class ProtoInfo(AttrSet):
    """``CTA_PROTOINFO``: the state of the protocol."""

    __slots__ = ()

    tcp: TcpInfo | None = attr(1, "CTA_PROTOINFO_TCP", default=None, policy=NEST, doc="of TCP")
    dccp: DccpInfo | None = attr(2, "CTA_PROTOINFO_DCCP", default=None, policy=NEST, doc="of DCCP")
    sctp: SctpInfo | None = attr(3, "CTA_PROTOINFO_SCTP", default=None, since="2.6.27", policy=NEST, doc="of SCTP")


class Help(AttrSet):
    """``CTA_HELP``: who reads along to learn of related flows."""

    __slots__ = ()

    name: CString | None = attr(1, "CTA_HELP_NAME", default=None, doc="name of the helper, up to 15 bytes; required in a request")
    info: Raw | None = attr(2, "CTA_HELP_INFO", default=None, doc="data of a helper in user space")


class Counters(AttrSet):
    """``CTA_COUNTERS_*``: what went in one direction, with the sysctl nf_conntrack_acct."""

    __slots__ = ()

    packets: Be64 | None = attr(1, "CTA_COUNTERS_PACKETS", default=None, doc="number of packets")
    bytes: Be64 | None = attr(2, "CTA_COUNTERS_BYTES", default=None, doc="bytes, from the network header on")
    packets32: Be32 | None = attr(3, "CTA_COUNTERS32_PACKETS", default=None, doc="number of packets, before Linux 2.6.27")
    bytes32: Be32 | None = attr(4, "CTA_COUNTERS32_BYTES", default=None, doc="bytes, before Linux 2.6.27")
    pad: Raw | None = attr(5, "CTA_COUNTERS_PAD", default=None, since="4.7", doc="aligns what follows it; says nothing")


class FlowTimestamp(AttrSet):
    """``CTA_TIMESTAMP``: when the flow began and ended, with the sysctl nf_conntrack_timestamp."""

    __slots__ = ()

    start: Be64 | None = attr(1, "CTA_TIMESTAMP_START", default=None, doc="nanoseconds since 1970")
    stop: Be64 | None = attr(2, "CTA_TIMESTAMP_STOP", default=None, doc="nanoseconds since 1970; when it has ended")
    pad: Raw | None = attr(3, "CTA_TIMESTAMP_PAD", default=None, since="4.7", doc="aligns what follows it; says nothing")


class SeqAdj(AttrSet):
    """``CTA_SEQ_ADJ_*``: how the TCP sequence numbers of one direction are shifted. A request must have all three (EINVAL)."""

    __slots__ = ()

    correction_pos: Be32 | None = attr(
        1, "CTA_SEQADJ_CORRECTION_POS", default=None, policy=be32, doc="sequence number of the last correction"
    )
    offset_before: SignedBe32 | None = attr(
        2, "CTA_SEQADJ_OFFSET_BEFORE", default=None, policy=be32, doc="what is added to numbers before it"
    )
    offset_after: SignedBe32 | None = attr(
        3, "CTA_SEQADJ_OFFSET_AFTER", default=None, policy=be32, doc="what is added to numbers behind it"
    )


class SynProxy(AttrSet):
    """``CTA_SYNPROXY``: of a connection that SYNPROXY answered. A request must have all three (EINVAL)."""

    __slots__ = ()

    isn: Be32 | None = attr(1, "CTA_SYNPROXY_ISN", default=None, policy=be32, doc="initial sequence number that the proxy chose")
    its: Be32 | None = attr(2, "CTA_SYNPROXY_ITS", default=None, policy=be32, doc="initial timestamp")
    tsoff: Be32 | None = attr(3, "CTA_SYNPROXY_TSOFF", default=None, policy=be32, doc="difference of the timestamps")


class SecCtx(AttrSet):
    """``CTA_SECCTX``: the security context."""

    __slots__ = ()

    name: CString | None = attr(1, "CTA_SECCTX_NAME", default=None, doc="security context as text")


class NatProto(AttrSet):
    """``CTA_NAT_PROTO``: ports to choose from; of ICMP the identifiers."""

    __slots__ = ()

    port_min: Be16 | None = attr(1, "CTA_PROTONAT_PORT_MIN", default=None, policy=be16, doc="lowest")
    port_max: Be16 | None = attr(2, "CTA_PROTONAT_PORT_MAX", default=None, policy=be16, doc="highest; the lowest where absent")


class Nat(AttrSet):
    """``CTA_NAT_SRC``, ``CTA_NAT_DST``: what an address and a port are to become. Only while a flow is made."""

    __slots__ = ()

    v4_minip: IPv4 | None = attr(1, "CTA_NAT_V4_MINIP", default=None, policy=be32, doc="first address to choose from")
    v4_maxip: IPv4 | None = attr(2, "CTA_NAT_V4_MAXIP", default=None, policy=be32, doc="last address; the first where absent")
    proto: NatProto | None = attr(3, "CTA_NAT_PROTO", default=None, policy=NEST, doc="ports to choose from")
    v6_minip: IPv6 | None = attr(
        4, "CTA_NAT_V6_MINIP", default=None, since="3.7", policy=octets(16), doc="first address to choose from"
    )
    v6_maxip: IPv6 | None = attr(
        5, "CTA_NAT_V6_MAXIP", default=None, since="3.7", policy=octets(16), doc="last address; the first where absent"
    )


class Filter(AttrSet):
    """``CTA_FILTER``: which parts of the tuples select. In the byte order of the host; anything else in it is refused (EINVAL)."""

    __slots__ = ()

    orig_flags: FilterWord | None = attr(1, "CTA_FILTER_ORIG_FLAGS", default=None, policy=u32, doc="of the original tuple")
    reply_flags: FilterWord | None = attr(2, "CTA_FILTER_REPLY_FLAGS", default=None, policy=u32, doc="of the reply tuple")


class FlowAttributes(View):
    """``CTA_*``: all there is to say of a flow, in the order of dumps. What is only said in requests stands last."""

    __slots__ = ()

    original: Tuple | None = attr(1, "CTA_TUPLE_ORIG", default=None, policy=NEST, doc="packets from the side that began")
    reply: Tuple | None = attr(2, "CTA_TUPLE_REPLY", default=None, policy=NEST, doc="packets that answer, as they come back")
    zone: Be16 | None = attr(18, "CTA_ZONE", default=None, since="2.6.34", policy=be16, doc="the zone; absent when 0")
    status: StatusWord | None = attr(3, "CTA_STATUS", default=None, policy=be32, doc="how far it has come")
    mark: Be32 | None = attr(8, "CTA_MARK", default=None, policy=be32, doc="mark of the flow (connmark); in events absent when 0")
    secmark: Be32 | None = attr(17, "CTA_SECMARK", default=None, doc="obsolete: before 2.6.37, the security mark")
    secctx: SecCtx | None = attr(19, "CTA_SECCTX", default=None, since="2.6.37", doc="security context, with an active LSM")
    id: Be32 | None = attr(12, "CTA_ID", default=None, policy=be32, doc="opaque; the same as long as the flow lives")
    use: Be32 | None = attr(11, "CTA_USE", default=None, doc="references the kernel holds to it")
    master: Tuple | None = attr(
        14, "CTA_TUPLE_MASTER", default=None, policy=NEST, doc="original tuple of the flow that made it expected"
    )
    timeout: Be32 | None = attr(
        7, "CTA_TIMEOUT", default=None, policy=be32, doc="seconds left, rounded down; absent when offloaded"
    )
    protoinfo: ProtoInfo | None = attr(4, "CTA_PROTOINFO", default=None, policy=NEST, doc="state of the protocol: TCP, SCTP, DCCP")
    counters_original: Counters | None = attr(9, "CTA_COUNTERS_ORIG", default=None, doc="traffic of the original direction")
    counters_reply: Counters | None = attr(10, "CTA_COUNTERS_REPLY", default=None, doc="traffic of the reply direction")
    timestamp: FlowTimestamp | None = attr(20, "CTA_TIMESTAMP", default=None, since="2.6.39", doc="when it began and ended")
    help: Help | None = attr(5, "CTA_HELP", default=None, policy=NEST, doc="its helper")
    labels: Raw | None = attr(
        22,
        "CTA_LABELS",
        default=None,
        since="3.9",
        doc="bitmap in the byte order of the host, see label_bitmap: 16 bytes; to the kernel 4, 8, 12 or 16",
    )
    seq_adj_original: SeqAdj | None = attr(
        15, "CTA_SEQ_ADJ_ORIG", default=None, policy=NEST, doc="sequence numbers of the original direction"
    )
    seq_adj_reply: SeqAdj | None = attr(
        16, "CTA_SEQ_ADJ_REPLY", default=None, policy=NEST, doc="sequence numbers of the reply direction"
    )
    synproxy: SynProxy | None = attr(24, "CTA_SYNPROXY", default=None, since="4.17", doc="what SYNPROXY must know")
    timestamp_event: Be64 | None = attr(
        27,
        "CTA_TIMESTAMP_EVENT",
        default=None,
        since="6.14",
        doc="nanoseconds since 1970 when the event happened; refused in requests (EINVAL)",
    )
    nat_src: Nat | None = attr(6, "CTA_NAT_SRC", default=None, policy=NEST, doc="what the source is to become")
    nat_dst: Nat | None = attr(13, "CTA_NAT_DST", default=None, policy=NEST, doc="what the destination is to become")
    mark_mask: Be32 | None = attr(21, "CTA_MARK_MASK", default=None, policy=be32, doc="which bits of mark count; all where absent")
    labels_mask: Raw | None = attr(
        23, "CTA_LABELS_MASK", default=None, since="3.9", doc="which labels count; as long as labels (EINVAL)"
    )
    filter: Filter | None = attr(25, "CTA_FILTER", default=None, since="5.8", policy=NEST, doc="which parts of the tuples select")
    status_mask: StatusWord | None = attr(
        26,
        "CTA_STATUS_MASK",
        default=None,
        since="5.15",
        policy=be32,
        doc="which bits of status select; those of status where absent",
    )

    @property
    def protocol(self) -> int | None:
        """The IP protocol number; a `Protocol` where that knows it."""
        tuple_ = self.original or self.reply
        return None if tuple_ is None else tuple_.protocol

    @property
    def tcp_state(self) -> int | None:
        """The state of a TCP flow, a `TcpState`; None where it is not told."""
        info = self.protoinfo
        tcp = None if info is None else info.tcp
        return None if tcp is None else tcp.state

    @property
    def sctp_state(self) -> int | None:
        """The state of an SCTP flow, a `SctpState`; None where it is not told."""
        info = self.protoinfo
        sctp = None if info is None else info.sctp
        return None if sctp is None else sctp.state

    @property
    def helper(self) -> str | None:
        """Name of its helper."""
        help_ = self.help
        return None if help_ is None else help_.name

    @property
    def label_numbers(self) -> frozenset[int]:
        """The labels it has, by number, 0 to 127."""
        return labels_in(self.labels or b"", self._shape.order)

    def __str__(self) -> str:
        return " ".join(_words(self))


_TOLD_BITS = [(int(bit), bit.name) for bit in Status if bit.name in ("SEEN_REPLY", "ASSURED", "DYING", "OFFLOAD", "HW_OFFLOAD")]


def _words(flow: FlowAttributes) -> Iterator[str]:
    original, reply = flow.original, flow.reply
    if original is not None:
        yield str(original)
    if reply is not None and (original is None or not _mirrored(original, reply)):
        yield f"reply {reply._ends() if original is not None else reply}"
    for state in (flow.tcp_state, flow.sctp_state):
        if state is not None:
            yield state.name if isinstance(state, IntEnum) else f"state {state}"
    if flow.status is not None:
        status = int(flow.status)  # plain numbers, as a listing may be long
        yield from (name for bit, name in _TOLD_BITS if status & bit)
    for name in ("zone", "mark", "timeout", "helper", "id"):
        value = getattr(flow, name)
        if value:
            yield f"{name} {value}"
    for name, counters in (("sent", flow.counters_original), ("answered", flow.counters_reply)):
        if counters is not None:
            yield f"{name} {counters.packets} packets {counters.bytes} bytes"


def _mirrored(original: Tuple, reply: Tuple) -> bool:
    return (original.src, original.dst, original.src_port, original.dst_port) == (
        reply.dst,
        reply.src,
        reply.dst_port,
        reply.src_port,
    )


def label_bitmap(*numbers: int, order: ByteOrder = NATIVE) -> bytes:
    """The bitmap of these labels, 0 to 127, for ``labels`` and ``labels_mask``: 16 bytes, as the kernel sends them.

    The kernel keeps it in words of its own (``unsigned long``); on big-endian hosts they are taken to be of 64 bits.
    """
    words = [0, 0]
    for number in numbers:
        if not 0 <= number < 8 * LABELS_SIZE:
            raise ValueError(f"{number} is not a label: they go from 0 to {8 * LABELS_SIZE - 1}")
        words[number // 64] |= 1 << number % 64
    return b"".join(word.to_bytes(8, order.name) for word in words)


def labels_in(bitmap: bytes, order: ByteOrder = NATIVE) -> frozenset[int]:
    """The numbers of the labels in a bitmap, see `label_bitmap`."""
    words = [int.from_bytes(bitmap[at : at + 8], order.name) for at in range(0, len(bitmap), 8)]
    return frozenset(64 * i + bit for i, word in enumerate(words) for bit in range(word.bit_length()) if word >> bit & 1)
