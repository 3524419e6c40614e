"""Numbers of netlink and nfnetlink, by their kernel names.

Sources: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/nfnetlink.h, include/uapi/linux/netfilter.h.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

#: Protocol number of AF_NETLINK for everything here (``NETLINK_NETFILTER``).
NETLINK_NETFILTER = 12

NLMSG_HDRLEN = 16
NFGENMSG_LEN = 4
NLA_HDRLEN = 4
#: ``nla_type`` flags: the payload is a nest; the payload is in network byte order. The type is the other 14 bits.
NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF


def align4(n: int) -> int:
    """``n`` rounded up to a multiple of 4 (NLMSG_ALIGN, NLA_ALIGN)."""
    return (n + 3) & ~3


class NlmsgType(IntEnum):
    """Control messages: types below 16 (``NLMSG_MIN_TYPE``), and the two that frame an nfnetlink batch."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4
    BATCH_BEGIN = 16
    BATCH_END = 17


class NlmsgFlag(IntFlag):
    """``nlmsg_flags``. Bits above 0xff mean different things in requests to get, requests to create, and answers."""

    REQUEST = 0x1
    MULTI = 0x2
    ACK = 0x4
    ECHO = 0x8
    DUMP_INTR = 0x10
    DUMP_FILTERED = 0x20
    # in a request to get
    ROOT = 0x100
    MATCH = 0x200
    DUMP = 0x300
    # in a request to create
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    APPEND = 0x800
    # in an acknowledgement
    CAPPED = 0x100
    ACK_TLVS = 0x200


class ExtAck(IntEnum):
    """Attributes behind an acknowledgement (``NLMSGERR_ATTR_*``, since Linux 4.12; POLICY since 5.10, MISS_* since 6.1)."""

    MSG = 1
    OFFS = 2
    COOKIE = 3
    POLICY = 4
    MISS_TYPE = 5
    MISS_NEST = 6


class SubsystemId(IntEnum):
    """``NFNL_SUBSYS_*``: the high byte of an nfnetlink message type."""

    NONE = 0
    CTNETLINK = 1
    CTNETLINK_EXP = 2
    QUEUE = 3
    ULOG = 4
    OSF = 5
    IPSET = 6
    ACCT = 7
    CTNETLINK_TIMEOUT = 8
    CTHELPER = 9
    NFTABLES = 10
    NFT_COMPAT = 11
    HOOK = 12


class Family(IntEnum):
    """``nfgen_family``: NFPROTO_* (equal to AF_* where both exist)."""

    UNSPEC = 0
    INET = 1
    IPV4 = 2
    ARP = 3
    NETDEV = 5
    BRIDGE = 7
    IPV6 = 10


class Hook(IntEnum):
    """``NF_INET_*``: where on its way a packet met the rule."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Verdict(IntEnum):
    """``NF_*``: low byte of a verdict word (include/uapi/linux/netfilter.h)."""

    DROP = 0
    ACCEPT = 1
    STOLEN = 2
    QUEUE = 3
    REPEAT = 4
    STOP = 5


class EtherType(IntEnum):
    """``ETH_P_*``: which protocol a packet belongs to (include/uapi/linux/if_ether.h)."""

    IPV4 = 0x0800
    ARP = 0x0806
    VLAN = 0x8100
    IPV6 = 0x86DD


#: Bit of a QUEUE verdict word: go on with the next hook if nobody listens (``NF_VERDICT_FLAG_QUEUE_BYPASS``).
VERDICT_FLAG_QUEUE_BYPASS = 0x8000


class Group(IntEnum):
    """Multicast groups of NETLINK_NETFILTER (``NFNLGRP_*``)."""

    CONNTRACK_NEW = 1
    CONNTRACK_UPDATE = 2
    CONNTRACK_DESTROY = 3
    CONNTRACK_EXP_NEW = 4
    CONNTRACK_EXP_UPDATE = 5
    CONNTRACK_EXP_DESTROY = 6
    NFTABLES = 7
    ACCT_QUOTA = 8
    NFTRACE = 9


class SocketOption(IntEnum):
    """Options at level SOL_NETLINK (270)."""

    ADD_MEMBERSHIP = 1
    DROP_MEMBERSHIP = 2
    PKTINFO = 3
    BROADCAST_ERROR = 4
    NO_ENOBUFS = 5
    LISTEN_ALL_NSID = 8
    LIST_MEMBERSHIPS = 9
    CAP_ACK = 10
    EXT_ACK = 11
    GET_STRICT_CHK = 12


SOL_NETLINK = 270
