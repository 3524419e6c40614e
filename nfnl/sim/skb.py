"""A packet inside the kernel (`struct sk_buff`), and the device it comes from or leaves through (`struct net_device`)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING

from nfnl.sim.journey import Fate, Journey

if TYPE_CHECKING:
    from nfnl.sim.ct_entry import Entry
    from nfnl.sim.tracking import Template

IPV4 = 2
IPV6 = 10
ICMP, IGMP, TCP, UDP, ICMPV6 = 1, 2, 6, 17, 58

_IPV4_MATCHED = Struct("!BxxxxxHxBxx4s4s")
_U16 = Struct("!H")
_U16_PAIR = Struct("!HH")

#: IPv6 extension headers (`ipv6_ext_hdr` in net/ipv6/exthdrs_core.c), NEXTHDR_NONE included.
HOPOPTS, ROUTING, FRAGMENT, AUTH, NONE, DSTOPTS = 0, 43, 44, 51, 59, 60
_EXTENSIONS = frozenset((HOPOPTS, ROUTING, FRAGMENT, AUTH, NONE, DSTOPTS))


class Link(IntEnum):
    """What a device puts in front of the network header."""

    ETHER = 1  #: an Ethernet header
    LOOPBACK = 772  #: an Ethernet header of zeros
    NONE = 65534  #: nothing (tun)


class Device:
    """A network device. ``index`` is its ifindex, ``mtu`` in bytes from the network header on."""

    __slots__ = ("index", "link", "mac", "master", "mtu", "name", "peer_mac", "up")

    def __init__(
        self,
        name: str,
        index: int,
        link: Link = Link.NONE,
        *,
        mtu: int = 1500,
        mac: bytes = b"\x02\0\0\0\0\x01",
        peer_mac: bytes = b"\x02\0\0\0\0\x02",
    ) -> None:
        self.name = name
        self.index = index
        self.link = link
        self.mtu = mtu
        #: its own link-layer address, where it has one
        self.mac = bytes(6) if link is Link.LOOPBACK else mac
        #: source address of frames that arrive, where `receive` is not told another
        self.peer_mac = bytes(6) if link is Link.LOOPBACK else peer_mac
        self.up = True
        #: the bridge whose port it is
        self.master: Device | None = None

    def __repr__(self) -> str:
        return f"<Device {self.index} {self.name}{'' if self.up else ' down'}>"


class RouteType(IntEnum):
    """``RTN_*``: what becomes of packets to a destination (include/uapi/linux/rtnetlink.h)."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    UNREACHABLE = 7


class Route:
    """What routing decided about a packet (`struct dst_entry`)."""

    __slots__ = ("dev", "length", "local", "type")

    def __init__(self, type: RouteType, dev: Device, *, local: bool = False, length: int = 0) -> None:  # noqa: A002
        self.type = type
        #: the device it leaves through
        self.dev = dev
        #: to be delivered here when it comes in (``dst->input`` is `ip_local_deliver`), and if going out, here too
        self.local = local
        #: prefix length of the entry that was found
        self.length = length


class Owner:
    """The local socket a packet belongs to. ``uid`` and ``gid`` are None for a socket of the kernel's own."""

    __slots__ = ("classid", "gid", "uid")

    def __init__(self, uid: int | None, gid: int | None, classid: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        #: net_cls class of its control group; 0: none
        self.classid = classid


#: What the kernel itself sends (ICMP, RST) belongs to a socket without a file.
KERNEL = Owner(None, None)


class Frame:
    """What a bridged packet has in front of it, and the ports it comes in and goes out by."""

    __slots__ = ("header", "indev", "outdev", "vlan")

    def __init__(self, indev: Device, outdev: Device, header: bytes, vlan: tuple[int, int] | None) -> None:
        self.indev = indev
        self.outdev = outdev
        #: 14 bytes
        self.header = header
        #: EtherType and TCI of the tag that travels beside it
        self.vlan = vlan

    @property
    def is_bridged(self) -> bool:
        """Both are still ports of a bridge (`nf_bridge_ports_valid`)."""
        return self.indev.master is not None and self.outdev.master is not None


#: What `Skb.parse` finds: source, destination, protocol, fragment offset, offset of the transport header.
Parsed = tuple[bytes, bytes, int, int, int]


class Checksum(IntEnum):
    """``skb->ip_summed``: what is known about the transport checksum."""

    NONE = 0  #: nothing: it is complete, right or wrong
    UNNECESSARY = 1  #: the device vouches for it
    PARTIAL = 3  #: only the sum of the pseudo header is in place


def checksum(data: bytes, initial: int = 0) -> int:
    """The Internet checksum (RFC 1071) of ``data`` and of a sum ``initial`` that goes before it.

    0 over data that has its right checksum in it.
    """
    if len(data) & 1:
        data += b"\0"
    # 2**16 = 1 modulo 0xffff: the sum of the words and the one big number have the same remainder
    total = initial + int.from_bytes(data, "big")
    folded = total % 0xFFFF
    return 0xFFFF - (folded or (0xFFFF if total else 0))


class Skb:
    """A packet on its way, from the network header on.

    ``data`` is replaced as a whole by `set_data`, never changed in place. What netfilter calls the state of a hook (the
    hook, input and output device) is kept here too, for it changes only when the packet moves on.
    """

    __slots__ = (
        "csum",
        "csum_offset",
        "csum_start",
        "ct",
        "ct_put",
        "ctinfo",
        "data",
        "dst",
        "family",
        "frame",
        "gso_protocol",
        "gso_size",
        "hook",
        "hwaddr",
        "ignore_df",
        "indev",
        "ip",
        "journey",
        "looped",
        "mark",
        "outdev",
        "ports",
        "priority",
        "sk",
        "template",
        "transport",
        "tstamp",
    )

    def __init__(
        self, data: bytes, family: int, journey: Journey, mark: int = 0, priority: int = 0, sk: Owner | None = None
    ) -> None:
        self.data = data
        #: 2 or 10 (NFPROTO_IPV4, NFPROTO_IPV6)
        self.family = family
        self.journey = journey
        self.mark = mark
        self.priority = priority
        #: the local socket that sent it, until it leaves through a device
        self.sk = sk
        #: number of the hook it is at or was at last (NF_INET_*)
        self.hook = -1
        self.indev: Device | None = None
        self.outdev: Device | None = None
        #: source address in the link-layer header; None when there is no such header
        self.hwaddr: bytes | None = None
        #: bridge family: the link-layer header, and the ports
        self.frame: Frame | None = None
        #: seconds since 1970 when it was received; None unless somebody asked for time stamps
        self.tstamp: float | None = None
        #: IPv6: may be cut into fragments on its way out, as the kernel's own packets are
        self.ignore_df = False
        #: this machine's own copy of a broadcast or multicast: it comes in where it would go out (PACKET_LOOPBACK)
        self.looped = False
        #: where routing sends it (``skb->dst``)
        self.dst: Route | None = None
        #: offset of the transport header as noted when the packet was made or received (``skb_transport_offset``)
        self.transport = 0
        self.csum = Checksum.NONE
        #: for `Checksum.PARTIAL`: where summing starts, and where in there the checksum goes
        self.csum_start = 0
        self.csum_offset = 0
        #: most bytes of payload in each of the packets it stands for; 0: it is one packet
        self.gso_size = 0
        #: what transport protocol they are of
        self.gso_protocol = 0
        #: the flow it belongs to, if it is tracked, and how it stands to it (`nfnl.sim.tracking.CtInfo`)
        self.ct: Entry | None = None
        self.ctinfo = 0
        #: gives the reference to the flow back
        self.ct_put: Callable[[Entry], None] | None = None
        #: what a rule has said of a flow that is still to be made
        self.template: Template | None = None
        #: what `parse` found, or None
        self.ip: Parsed | None = None
        #: what `parse_ports` found, or None
        self.ports: tuple[int, int] | None = None

    @property
    def hw_protocol(self) -> int:
        """``skb->protocol``: 0x0800 or 0x86dd; in the bridge family what the frame says."""
        if self.frame is not None:
            return int.from_bytes(self.frame.header[12:14], "big")
        return 0x0800 if self.family == IPV4 else 0x86DD

    def set_data(self, data: bytes) -> None:
        """Put other bytes in the packet's place."""
        self.data = data
        self.ip = self.ports = None

    def parse(self) -> Parsed:
        """What rules look at: source, destination, transport protocol, fragment offset, offset of the transport header.

        The protocol is -1 when the chain of IPv6 extension headers is broken. The fragment offset is 0 for a whole packet
        and a first fragment; it counts 8-byte units in IPv4 and bytes in IPv6, as the match functions get it.
        """
        data = self.data
        if len(data) < 40:  # a payload put in by a verdict may be anything
            data = data.ljust(40, b"\0")
        if self.family == IPV4:
            first, frag, proto, src, dst = _IPV4_MATCHED.unpack_from(data)
            self.ip = ip = (src, dst, proto, frag & 0x1FFF, (first & 0xF) << 2)
        else:
            proto, offset, frag = find_header(data)
            self.ip = ip = (data[8:24], data[24:40], proto, frag & ~7, offset)
        return ip

    def parse_ports(self) -> tuple[int, int]:
        """Source and destination port. Only for packets whose transport header is known to be there."""
        self.ports = ports = _U16_PAIR.unpack_from(self.data, (self.ip or self.parse())[4])
        return ports

    # ------------------------------------------------------------------ checksums

    def set_partial(self, start: int, offset: int, pseudo: int) -> None:
        """Put the sum of the pseudo header at ``start + offset``, to be completed later (CHECKSUM_PARTIAL)."""
        at = start + offset
        sum_ = 0xFFFF - checksum(b"", pseudo)
        self.set_data(self.data[:at] + _U16.pack(sum_) + self.data[at + 2 :])
        self.csum, self.csum_start, self.csum_offset = Checksum.PARTIAL, start, offset

    def finish_checksum(self) -> None:
        """Complete a partial checksum (`skb_checksum_help`); nothing to do for any other packet."""
        if self.csum is not Checksum.PARTIAL:
            return
        data, at = self.data, self.csum_start + self.csum_offset
        value = checksum(data[self.csum_start :]) or 0xFFFF
        self.set_data(data[:at] + _U16.pack(value) + data[at + 2 :])
        self.csum = Checksum.NONE

    @property
    def csum_unnecessary(self) -> bool:
        """Nobody needs to look at the checksum (`skb_csum_unnecessary`)."""
        return self.csum is not Checksum.NONE

    # ------------------------------------------------------------------ its flow

    def attach(self, entry: Entry, ctinfo: int, put: Callable[[Entry], None]) -> None:
        """It belongs to a flow, to which it holds a reference that the caller has taken; ``put`` will give it back."""
        self.ct, self.ctinfo, self.ct_put = entry, ctinfo, put

    def detach(self) -> None:
        """It belongs to no flow any more (`nf_reset_ct`)."""
        entry, put = self.ct, self.ct_put
        self.ct, self.ctinfo = None, 0
        if entry is not None and put is not None:
            put(entry)

    def share_flow(self, other: Skb) -> None:
        """A copy, or a part, of this packet belongs to the same flow."""
        if self.ct is not None and self.ct_put is not None:
            self.ct.use += 1
            other.attach(self.ct, self.ctinfo, self.ct_put)
        else:
            other.ctinfo = self.ctinfo
        other.template = self.template

    # ------------------------------------------------------------------ the end

    def end(self, fate: Fate, reason: str = "") -> None:
        """The journey of this packet is over, or pauses."""
        journey = self.journey
        journey.fate, journey.reason, journey.data, journey.mark = fate, reason, self.data, self.mark
        if self.ct is not None and fate is not Fate.QUEUED:
            self.detach()

    def drop(self, reason: str) -> None:
        """Free the packet (`kfree_skb`)."""
        self.end(Fate.DROPPED, reason)


def family_of(data: bytes) -> int:
    """By the version; what has none passes for IPv4."""
    return IPV6 if data and data[0] >> 4 == 6 else IPV4


def find_header(data: bytes) -> tuple[int, int, int]:
    """Walk the extension headers of an IPv6 packet (`ipv6_find_hdr` with target -1).

    Returns the transport protocol (-1 when a header is cut off, or in another fragment), its offset, and the field with
    fragment offset and flags (0: not a fragment).
    """
    proto, at, frag = data[6], 40, 0
    while proto in _EXTENSIONS and proto != NONE:
        if len(data) < at + (4 if proto in (ROUTING, FRAGMENT) else 2):
            return -1, at, 0
        following = data[at]
        if proto == FRAGMENT:
            frag = _U16.unpack_from(data, at + 2)[0]
            if frag & ~7:
                # behind the first fragment there is no header to walk to: its word for the protocol is all there is
                if following in _EXTENSIONS and following != NONE:
                    return -1, at, 0
                return following, at, frag
            length = 8
        elif proto == AUTH:
            length = (data[at + 1] + 2) << 2
        else:
            length = (data[at + 1] + 1) << 3
        proto = following
        at += length
    return proto, at, frag
