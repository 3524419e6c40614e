"""Tuples, masks and filters from what people write: addresses as text, protocols by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from nfnl.errors import LocalProtocolError
from nfnl.session.protocols import protocol_number
from nfnl.subsys.conntrack import (
    Filter,
    FilterFlag,
    FlowAttributes,
    Help,
    Nat,
    NatProto,
    Protocol,
    ProtoInfo,
    Status,
    TcpInfo,
    Tuple,
    TupleIp,
    TupleProto,
    label_bitmap,
)
from nfnl.wire.constants import Family

Address = str | IPv4Address | IPv6Address

#: type of an ICMP query -> that of its answer (net/netfilter/nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c)
_ICMP_ANSWERS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
_ICMPV6_ANSWERS = {128: 129, 129: 128, 139: 140, 140: 139}


def tuple_of(
    src: Address | None = None,
    dst: Address | None = None,
    protocol: str | int | None = None,
    src_port: int | None = None,
    dst_port: int | None = None,
    *,
    icmp_type: int | None = None,
    icmp_code: int | None = None,
    icmp_id: int | None = None,
    zone: int | None = None,
) -> Tuple:
    """A tuple, whole or in part: ``tuple_of("10.0.0.1", "10.0.0.2", "tcp", 40000, 80)``.

    ``zone`` is for a zone of this direction only. What ICMP has goes to ICMPv6 if that is the protocol. Raises ValueError for
    what is no address or protocol, or for addresses of two families; `EncodeError` for numbers that do not fit.
    """
    ends = {end: ip_address(address) for end, address in (("src", src), ("dst", dst)) if address is not None}
    if len({address.version for address in ends.values()}) > 1:
        raise ValueError(f"{src} and {dst} are of two families")
    addresses: dict[str, Any] = {f"v{address.version}_{end}": address for end, address in ends.items()}
    number = None if protocol is None else protocol_number(protocol)
    icmp = "icmpv6" if number == Protocol.ICMPV6 else "icmp"
    parts: dict[str, Any] = {
        "num": number,
        "src_port": src_port,
        "dst_port": dst_port,
        f"{icmp}_id": icmp_id,
        f"{icmp}_type": icmp_type,
        f"{icmp}_code": icmp_code,
    }
    proto = {name: value for name, value in parts.items() if value is not None}
    return Tuple(ip=TupleIp(**addresses) if addresses else None, proto=TupleProto(**proto) if proto else None, zone=zone)


def reply_to(original: Tuple) -> Tuple:
    """What answers the packets of a tuple, where nothing is translated: both ends change places. Its zone is not taken along.

    Raises ValueError for an ICMP type that has no answer.
    """
    answers = _ICMPV6_ANSWERS if original.protocol == Protocol.ICMPV6 else _ICMP_ANSWERS
    if original.icmp_type is not None and original.icmp_type not in answers:
        raise ValueError(f"ICMP type {original.icmp_type} has no answer")
    return tuple_of(
        original.dst,
        original.src,
        original.protocol,
        original.dst_port,
        original.src_port,
        icmp_type=None if original.icmp_type is None else answers[original.icmp_type],
        icmp_code=original.icmp_code,
        icmp_id=original.icmp_id,
    )


def expected_tuple(wanted: Tuple) -> tuple[Tuple, Tuple]:
    """A tuple and a mask for an expectation: what ``wanted`` says of its source must be so, what it leaves out may be anything.

    Of the destination the kernel always compares all.
    """
    ones, nothing = ("f" * 4 + ":ffff" * 7, "::") if family_of(wanted) is Family.IPV6 else ("255.255.255.255", "0.0.0.0")
    whole = tuple_of(wanted.src or nothing, wanted.dst, wanted.protocol, wanted.src_port or 0, wanted.dst_port)
    mask = tuple_of(ones if wanted.src else nothing, ones, wanted.protocol, 0 if wanted.src_port is None else 0xFFFF, 0xFFFF)
    return whole, mask


def nat_to(
    address: Address | None = None, port: int | None = None, *, last: Address | None = None, last_port: int | None = None
) -> Nat:
    """What an end of a new flow is to become: an address and a port, or a range of either up to ``last`` and ``last_port``.

    Raises ValueError for what is no address, or no range.
    """
    first, end = (None if a is None else ip_address(a) for a in (address, last))
    if end is not None and (first is None or first.version != end.version):
        raise ValueError(f"{address} to {last} is no range of addresses")
    if last_port is not None and port is None:
        raise ValueError("last_port needs port")
    version = 4 if first is None else first.version
    ends: dict[str, Any] = {f"v{version}_minip": first, f"v{version}_maxip": end}
    return Nat(**ends, proto=None if port is None else NatProto(port_min=port, port_max=last_port))


def family_of(*tuples: Tuple | None) -> Family:
    """The family of the addresses in some tuples. Raises ValueError if there are two."""
    versions = {address.version for t in tuples if t is not None for address in (t.src, t.dst) if address is not None}
    if len(versions) > 1:
        raise ValueError("the tuples are of two families")
    return {4: Family.IPV4, 6: Family.IPV6}[versions.pop()] if versions else Family.UNSPEC


def labels_of(labels: bytes | Iterable[int]) -> bytes:
    """A bitmap of labels, from one or from their numbers. Raises ValueError for numbers beyond 127."""
    return labels if isinstance(labels, bytes) else label_bitmap(*labels)


def helper_of(name: str) -> Help:
    """The nest that names a helper."""
    return Help(name=name)


def tcp_info(state: int) -> ProtoInfo:
    """The nest that says a TCP state."""
    return ProtoInfo(tcp=TcpInfo(state=state))


#: parts of a tuple that CTA_FILTER can select by: flag, its field in the ip or proto nest
_PARTS: tuple[tuple[FilterFlag, str], ...] = (
    (FilterFlag.IP_SRC, "ip.v4_src"),
    (FilterFlag.IP_DST, "ip.v4_dst"),
    (FilterFlag.PROTO_NUM, "proto.num"),
    (FilterFlag.PROTO_SRC_PORT, "proto.src_port"),
    (FilterFlag.PROTO_DST_PORT, "proto.dst_port"),
    (FilterFlag.PROTO_ICMP_TYPE, "proto.icmp_type"),
    (FilterFlag.PROTO_ICMP_CODE, "proto.icmp_code"),
    (FilterFlag.PROTO_ICMP_ID, "proto.icmp_id"),
    (FilterFlag.PROTO_ICMPV6_TYPE, "proto.icmpv6_type"),
    (FilterFlag.PROTO_ICMPV6_CODE, "proto.icmpv6_code"),
    (FilterFlag.PROTO_ICMPV6_ID, "proto.icmpv6_id"),
)
_PORTS = FilterFlag.PROTO_SRC_PORT | FilterFlag.PROTO_DST_PORT


def filter_flags(wanted: Tuple | None) -> FilterFlag:
    """What the kernel is asked to compare of a tuple.

    IPv6 addresses are left out: kernels since 5.8, some to this day, let pass what is *un*equal to them.
    """
    flags = FilterFlag(0)
    if wanted is not None:
        present = {f"ip.{name}" for name in (wanted.ip.present() if wanted.ip else ())}
        present |= {f"proto.{name}" for name in (wanted.proto.present() if wanted.proto else ())}
        for flag, name in _PARTS:
            if name in present:
                flags |= flag
    return flags


@dataclass(frozen=True, kw_only=True)
class FlowFilter:
    """Which flows are meant: those for which all that is given holds.

    ``mark`` and ``status`` are compared after ``mark_mask`` and ``status_mask``; without a mask of its own a mark is compared as a
    whole, and a status holds when all its bits are set. ``zone`` 0 is the default zone. ``original`` and ``reply`` may be
    tuples in part (`tuple_of`); what they have is compared.

    As far as it can the kernel selects: by family and mark always, by tuples since Linux 5.8, by status since 5.18, by zone since
    6.8; older ones give everything, so look at `matches`, too.

    Raises `LocalProtocolError` for what the kernel would refuse, or take for no filter at all.
    """

    family: Family | None = None
    mark: int | None = None
    mark_mask: int | None = None
    status: Status | None = None
    status_mask: Status | None = None
    zone: int | None = None
    original: Tuple | None = None
    reply: Tuple | None = None

    def __post_init__(self) -> None:
        for value, mask, name in ((self.mark, self.mark_mask, "mark"), (self.status, self.status_mask, "status")):
            if mask is not None and value is None:
                raise LocalProtocolError(f"{name}_mask without {name} is no filter to the kernel: it would mean everything")
            if mask is not None and value is not None and value & ~mask:
                raise LocalProtocolError(f"{name} {value:#x} has bits outside its mask {mask:#x}: no flow would match")
        if self.status == 0 and not self.status_mask:
            raise LocalProtocolError("a status of 0 needs a status_mask that says which bits are to be clear")
        for name in ("original", "reply"):
            wanted = getattr(self, name)
            if wanted is not None and wanted.protocol is None and filter_flags(wanted) & ~(FilterFlag.IP_SRC | FilterFlag.IP_DST):
                raise LocalProtocolError(f"{name}: ports and ICMP fields select only together with a protocol")
        if (self.original is not None or self.reply is not None) and self.which_family is Family.UNSPEC:
            raise LocalProtocolError("a tuple without addresses selects only together with a family")

    def __bool__(self) -> bool:
        return self != _EVERYTHING

    @property
    def which_family(self) -> Family:
        """The family it is about, said or by its addresses; UNSPEC for all."""
        by_address = family_of(self.original, self.reply)
        if self.family and by_address and self.family != by_address:
            raise LocalProtocolError(f"the addresses are not of family {Family(self.family).name}")
        return Family(self.family or by_address)

    def request(self) -> dict[str, Any]:
        """The fields of a `GetFlow` or `DeleteFlow` that have the kernel select, as far as it can be trusted to."""
        flags = {name: filter_flags(getattr(self, name)) for name in ("original", "reply")}
        tuples = {name: _without_zone(getattr(self, name)) for name, bits in flags.items() if bits}
        words = {f"{name.removesuffix('inal')}_flags": flags[name] for name in tuples}
        return {
            "nfgen_family": self.which_family,
            "mark": self.mark,
            "mark_mask": self.mark_mask,
            "status": self.status,
            "status_mask": self.status_mask,
            "zone": self.zone,
            **tuples,
            "filter": Filter(**words) if words else None,
        }

    def unselectable(self) -> str | None:
        """Why the kernel cannot be left alone with this filter; None when it selects exactly what is meant (since Linux 6.8)."""
        for name in ("original", "reply"):
            wanted = getattr(self, name)
            if wanted is None:
                continue
            if wanted.ip is not None and wanted.ip.present() & {"v6_src", "v6_dst"}:
                return "kernels since 5.8 let pass what is unequal to an IPv6 address in CTA_FILTER"
            if filter_flags(wanted) & _PORTS and wanted.protocol not in (Protocol.TCP, Protocol.UDP):
                return "the kernel compares ports of TCP and UDP only"
            if wanted.zone is not None:
                return "the kernel does not compare the zone of a tuple"
        return None

    def matches(self, flow: FlowAttributes) -> bool:
        """Whether a flow is meant. Equal on all kernels, whatever theirs can select by."""
        return (
            (not self.family or self.family == family_of(flow.original))
            and (self.mark is None or (flow.mark or 0) & (0xFFFFFFFF if self.mark_mask is None else self.mark_mask) == self.mark)
            and (
                self.status is None
                or (flow.status or 0) & (self.status if self.status_mask is None else self.status_mask) == self.status
            )
            and (self.zone is None or self.zone in zones_of(flow))
            and _fits(self.original, flow.original)
            and _fits(self.reply, flow.reply)
        )


_EVERYTHING = FlowFilter()


def zones_of(flow: FlowAttributes) -> frozenset[int]:
    """The zones of a flow: one, or one for each direction that has its own."""
    own = (flow.zone, *(t.zone for t in (flow.original, flow.reply) if t is not None))
    return frozenset(zone for zone in own if zone is not None) or frozenset((0,))


def _without_zone(wanted: Tuple) -> Tuple:
    return wanted if wanted.zone is None else wanted.replace(zone=None)


def _fits(wanted: Tuple | None, actual: Tuple | None) -> bool:
    """All that ``wanted`` has is equal."""
    if wanted is None:
        return True
    if actual is None:
        return False
    if wanted.zone is not None and wanted.zone != actual.zone:
        return False
    for mine, theirs in ((wanted.ip, actual.ip), (wanted.proto, actual.proto)):
        if mine is not None and (theirs is None or any(getattr(mine, name) != getattr(theirs, name) for name in mine.present())):
            return False
    return True


def which(target: Tuple | FlowAttributes, zone: int | None) -> dict[str, Any]:
    """The fields of a request that say which one flow is meant. Raises `LocalProtocolError` if they would not."""
    if isinstance(target, Tuple):
        wanted: Tuple | None = target
        name = "original"
    else:
        name = "reply" if target.original is None else "original"
        wanted = target.original or target.reply
        zone = target.zone if zone is None else zone
    if wanted is None or wanted.ip is None or wanted.proto is None:
        raise LocalProtocolError("one flow is named by a whole tuple: two addresses, a protocol, and its ports")
    return {name: wanted, "zone": zone or None, "nfgen_family": family_of(wanted)}
