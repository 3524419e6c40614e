"""Tuples: what the packets of one direction of a flow have in common (``CTA_TUPLE_*``).

Flows and expectations are told by them. Numbers are in network byte order. Sources:
include/uapi/linux/netfilter/nfnetlink_conntrack.h, `ctnetlink_parse_tuple` and `ctnetlink_dump_tuples` in
net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

from nfnl.wire.declare import AttrSet, attr
from nfnl.wire.layout import U8, Be16, IPv4, IPv6, Layout, as_enum, be16, octets, u8

#: what the policy demands of a nest: nothing, or room for one attribute header
NEST: Layout = octets(0)


class Protocol(IntEnum):
    """``IPPROTO_*`` of the protocols that are tracked by more than their addresses."""

    ICMP = 1
    TCP = 6
    UDP = 17
    DCCP = 33  #: no longer tracked by 6.18
    GRE = 47
    ICMPV6 = 58
    SCTP = 132
    UDPLITE = 136


ProtocolNumber = Annotated[int, as_enum(u8, Protocol)]


class TupleIp(AttrSet):
    """``CTA_TUPLE_IP``: two addresses of one family."""

    __slots__ = ()

    v4_src: IPv4 | None = attr(1, "CTA_IP_V4_SRC", default=None, doc="source address")
    v4_dst: IPv4 | None = attr(2, "CTA_IP_V4_DST", default=None, doc="destination address")
    v6_src: IPv6 | None = attr(3, "CTA_IP_V6_SRC", default=None, doc="source address")
    v6_dst: IPv6 | None = attr(4, "CTA_IP_V6_DST", default=None, doc="destination address")


class TupleProto(AttrSet):
    """``CTA_TUPLE_PROTO``: the protocol, and what tells its flows between two addresses apart."""

    __slots__ = ()

    num: ProtocolNumber | None = attr(1, "CTA_PROTO_NUM", default=None, doc="IP protocol number, see Protocol")
    src_port: Be16 | None = attr(2, "CTA_PROTO_SRC_PORT", default=None, doc="source port; of GRE the key")
    dst_port: Be16 | None = attr(3, "CTA_PROTO_DST_PORT", default=None, doc="destination port; of GRE the key")
    icmp_id: Be16 | None = attr(4, "CTA_PROTO_ICMP_ID", default=None, doc="identifier of an ICMP query")
    icmp_type: U8 | None = attr(5, "CTA_PROTO_ICMP_TYPE", default=None, doc="ICMP type: 8 echo request, 0 its reply ...")
    icmp_code: U8 | None = attr(6, "CTA_PROTO_ICMP_CODE", default=None, doc="ICMP code")
    icmpv6_id: Be16 | None = attr(7, "CTA_PROTO_ICMPV6_ID", default=None, doc="identifier of an ICMPv6 query")
    icmpv6_type: U8 | None = attr(8, "CTA_PROTO_ICMPV6_TYPE", default=None, doc="ICMPv6 type: 128 echo request, 129 its reply ...")
    icmpv6_code: U8 | None = attr(9, "CTA_PROTO_ICMPV6_CODE", default=None, doc="ICMPv6 code")


class Tuple(AttrSet):
    """``CTA_TUPLE_*``: what the packets of one direction of a flow have in common."""

    __slots__ = ()

    ip: TupleIp | None = attr(1, "CTA_TUPLE_IP", default=None, doc="addresses")
    proto: TupleProto | None = attr(2, "CTA_TUPLE_PROTO", default=None, doc="protocol and ports")
    zone: Be16 | None = attr(
        3, "CTA_TUPLE_ZONE", default=None, since="4.3", policy=be16, doc="the zone, where it holds for this direction only"
    )

    @property
    def src(self) -> IPv4Address | IPv6Address | None:
        """The source address, of either family."""
        ip = self.ip
        return None if ip is None else ip.v4_src or ip.v6_src

    @property
    def dst(self) -> IPv4Address | IPv6Address | None:
        """The destination address, of either family."""
        ip = self.ip
        return None if ip is None else ip.v4_dst or ip.v6_dst

    @property
    def protocol(self) -> int | None:
        """The IP protocol number; a `Protocol` where that knows it."""
        proto = self.proto
        return None if proto is None else proto.num

    @property
    def src_port(self) -> int | None:
        """The source port; of GRE the key."""
        proto = self.proto
        return None if proto is None else proto.src_port

    @property
    def dst_port(self) -> int | None:
        """The destination port; of GRE the key."""
        proto = self.proto
        return None if proto is None else proto.dst_port

    @property
    def icmp_id(self) -> int | None:
        """The identifier of an ICMP or ICMPv6 query."""
        proto = self.proto
        return None if proto is None else proto.icmpv6_id if proto.icmp_id is None else proto.icmp_id

    @property
    def icmp_type(self) -> int | None:
        """The type of an ICMP or ICMPv6 query."""
        proto = self.proto
        return None if proto is None else proto.icmpv6_type if proto.icmp_type is None else proto.icmp_type

    @property
    def icmp_code(self) -> int | None:
        """The code of an ICMP or ICMPv6 query."""
        proto = self.proto
        return None if proto is None else proto.icmpv6_code if proto.icmp_code is None else proto.icmp_code

    def _ends(self) -> str:
        """Who speaks to whom: ``10.0.1.2:5000 > 10.0.2.2:53``, ``fd00::1 > fd00::2 type 128 code 0 id 7``."""
        said = f"{_endpoint(self.src, self.src_port)} > {_endpoint(self.dst, self.dst_port)}"
        if self.icmp_type is not None:
            said += f" type {self.icmp_type} code {self.icmp_code} id {self.icmp_id}"
        return said if self.zone is None else f"{said} zone {self.zone}"

    def __str__(self) -> str:
        return f"{protocol_words(self.protocol)} {self._ends()}"


def protocol_words(number: int | None) -> str:
    """A protocol for people: ``tcp``, and ``protocol 50`` where `Protocol` has no name."""
    if isinstance(number, Protocol):
        return number.name.lower()
    return "any protocol" if number is None else f"protocol {number}"


def _endpoint(address: IPv4Address | IPv6Address | None, port: int | None) -> str:
    host = "any" if address is None else str(address)
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
