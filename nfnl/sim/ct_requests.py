"""What requests to ctnetlink say: tuples, zones, and what else stands in nests (net/netfilter/nf_conntrack_netlink.c).

Each function reads the payload of one attribute and raises `Refusal` as the kernel does. What the kernel checks of sizes follows
from the declarations; what it demands beyond that is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from struct import Struct
from types import MappingProxyType

from nfnl.sim.ct_entry import SequenceAdjustment
from nfnl.sim.errnos import Errno
from nfnl.sim.nat import Range
from nfnl.sim.netlink import Refusal
from nfnl.sim.nfnetlink import Attributes, Check, check_of, nul_string
from nfnl.sim.protoinfo import SctpInfo, SctpState, TcpInfo, TcpState
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6
from nfnl.sim.tuples import DEFAULT_ZONE, ICMP_INVERSES, PORT_PROTOCOLS, Tuple, Zone
from nfnl.subsys import conntrack as declared
from nfnl.subsys.conntrack import FilterFlag, NewFlow
from nfnl.wire.constants import NLA_HDRLEN, NLA_TYPE_MASK, align4
from nfnl.wire.declare import View
from nfnl.wire.header import NATIVE

u16 = Struct(">H").unpack_from
u32 = Struct(">I").unpack_from

#: what fits into ``nf_conntrack_helper.name`` before its NUL
HELPER_NAME = 15


def number_of(kind: type[View], name: str) -> int:
    """The number of a declared attribute."""
    return next(field.number for field in kind.__attrs__ if field.name == name)


#: attributes of flows by name
N = MappingProxyType({field.name: field.number for field in NewFlow.__attrs__})


# ----------------------------------------------------------------------------------------------------------------------- nests


@cache
def _checks(kind: type[View]) -> Mapping[int, Check]:
    """What is checked inside a nest. Where no policy is declared the layout's size is the least."""
    checks = {}
    for field in kind.__attrs__:
        check = check_of(field)
        if check is None and field.layout is not None and not field.layout.greedy:
            check = Check(field.layout.size, False, None, 0)
        if check is not None:
            checks[field.number] = check
    return checks


def read_nest(data: bytes, checks: Mapping[int, Check]) -> Attributes:
    """The attributes in a nest, as lenient as at the top (`nla_parse_nested_deprecated`). Nobody is told what is wrong."""
    found: Attributes = {}
    offset, end = 0, len(data)
    while end - offset >= NLA_HDRLEN:
        length, type_ = NATIVE.attr.unpack_from(data, offset)
        if not NLA_HDRLEN <= length <= end - offset:
            break
        number = type_ & NLA_TYPE_MASK
        payload = data[offset + NLA_HDRLEN : offset + length]
        check = checks.get(number)
        if check is not None and (error := check.verdict(payload)) is not None:
            raise Refusal(error)
        found[number] = payload
        offset += align4(length)
    return found


# ---------------------------------------------------------------------------------------------------------------------- tuples

_ALL = int(FilterFlag(0xFFF))
_IP_SRC, _IP_DST = int(FilterFlag.IP_SRC), int(FilterFlag.IP_DST)
_TUPLE_ZONE, _PROTO_NUM = int(FilterFlag.TUPLE_ZONE), int(FilterFlag.PROTO_NUM)
#: flags that need PROTO_NUM
_BELOW_PROTO = _ALL & ~(_IP_SRC | _IP_DST | _TUPLE_ZONE | _PROTO_NUM)

_TUPLE_CHECKS = {1: Check(0, True, None, 0), 2: Check(0, True, None, 0), 3: Check(2, False, None, 0)}
_NUM_CHECK = {1: Check(1, False, None, 0)}
#: of a family: the numbers of source and destination, the size of an address
_ADDRESSES = {IPV4: (1, 2, 4), IPV6: (3, 4, 16)}
_PORT_CHECKS = {2: Check(2, False, None, 0), 3: Check(2, False, None, 0)}
#: of an ICMP: the numbers of id, type and code, and the filter flags that ask for type, code and id
_ICMP_PARTS = {ICMP: ((4, 5, 6), (0x40, 0x80, 0x100)), ICMPV6: ((7, 8, 9), (0x200, 0x400, 0x800))}


class ZoneGiven:
    """The zone as a request is read: tuples may still set it (`struct nf_conntrack_zone`)."""

    __slots__ = ("directions", "id")

    def __init__(self, payload: bytes | None = None) -> None:
        self.id: int = u16(payload)[0] if payload is not None else 0
        self.directions = 3

    def of_tuple(self, payload: bytes, direction: int) -> None:
        """CTA_TUPLE_ZONE: for that direction only, if none was given before."""
        if self.id:
            raise Refusal(Errno.EINVAL)
        (self.id,) = u16(payload)
        self.directions = direction

    @property
    def zone(self) -> Zone:
        """What was given in the end."""
        return Zone(self.id, self.directions) if self.id or self.directions != 3 else DEFAULT_ZONE


def read_tuple(data: bytes, family: int, zone: ZoneGiven | None, direction: int = 1, flags: int = _ALL) -> Tuple:
    """A tuple (`ctnetlink_parse_tuple_filter`).

    ``zone`` is what a zone in it sets, for ``direction`` (1 original, 2 reply); None: there may be none. ``flags`` of
    `FilterFlag` say what must be there; the rest is not read, and empty.
    """
    found = read_nest(data, _TUPLE_CHECKS)
    if family not in _ADDRESSES:
        raise Refusal(Errno.EOPNOTSUPP)
    source, destination = bytes(_ADDRESSES[family][2]), bytes(_ADDRESSES[family][2])
    protocol = source_part = destination_part = 0
    if flags & (_IP_SRC | _IP_DST):
        source, destination = _read_addresses(found, family, flags)
    if flags & _PROTO_NUM:
        protocol, source_part, destination_part = _read_protocol(found, flags)
    elif flags & _BELOW_PROTO:
        raise Refusal(Errno.EINVAL)
    if flags & _TUPLE_ZONE and 3 in found:
        if zone is None:
            raise Refusal(Errno.EINVAL)
        zone.of_tuple(found[3], direction)
    return Tuple(family, source, destination, protocol, source_part, destination_part)


def _read_addresses(found: Attributes, family: int, flags: int) -> tuple[bytes, bytes]:
    """`ctnetlink_parse_tuple_ip`."""
    if 1 not in found:
        raise Refusal(Errno.EINVAL)
    inner = read_nest(found[1], _checks(declared.TupleIp))
    *numbers, size = _ADDRESSES[family]
    read = []
    for number, flag in zip(numbers, (_IP_SRC, _IP_DST), strict=True):
        if flags & flag and number not in inner:
            raise Refusal(Errno.EINVAL)
        read.append(inner[number][:size] if flags & flag else bytes(size))
    return read[0], read[1]


def _read_protocol(found: Attributes, flags: int) -> tuple[int, int, int]:
    """`ctnetlink_parse_tuple_proto`: protocol, source part and destination part."""
    if 2 not in found:
        raise Refusal(Errno.EINVAL)
    inner = read_nest(found[2], _NUM_CHECK)
    if 1 not in inner:
        raise Refusal(Errno.EINVAL)
    protocol = inner[1][0]
    if protocol in PORT_PROTOCOLS:
        read_nest(found[2], _PORT_CHECKS)
        return protocol, *_read_ports(inner, flags)
    if protocol in _ICMP_PARTS:
        numbers, asked = _ICMP_PARTS[protocol]
        read_nest(found[2], {number: check for number, check in _checks(declared.TupleProto).items() if number in numbers})
        return protocol, *_read_icmp(protocol, inner, numbers, [bool(flags & flag) for flag in asked])
    return protocol, 0, 0


def _read_ports(inner: Attributes, flags: int) -> tuple[int, int]:
    ports = []
    for number, flag in ((2, int(FilterFlag.PROTO_SRC_PORT)), (3, int(FilterFlag.PROTO_DST_PORT))):
        if flags & flag and number not in inner:
            raise Refusal(Errno.EINVAL)
        ports.append(u16(inner[number])[0] if flags & flag else 0)
    return ports[0], ports[1]


def _read_icmp(protocol: int, inner: Attributes, numbers: tuple[int, int, int], asked: list[bool]) -> tuple[int, int]:
    id_, type_, code = numbers
    if any(wanted and number not in inner for number, wanted in zip((type_, code, id_), asked, strict=True)):
        raise Refusal(Errno.EINVAL)
    kind = inner[type_][0] if asked[0] else 0
    if asked[0] and kind not in ICMP_INVERSES[protocol]:
        raise Refusal(Errno.EINVAL)
    return u16(inner[id_])[0] if asked[2] else 0, kind << 8 | (inner[code][0] if asked[1] else 0)


# ----------------------------------------------------------------------------------------------------------- the other nests

_HELP_CHECKS = {1: nul_string(HELPER_NAME)}


def text_of(payload: bytes) -> str:
    """A string up to its NUL. Names of the kernel's are ASCII; others are none of them, whatever they are."""
    return payload.partition(b"\0")[0].decode("latin-1")


def read_help(data: bytes) -> str:
    """CTA_HELP: the name of the helper."""
    found = read_nest(data, _HELP_CHECKS)
    if 1 not in found:
        raise Refusal(Errno.EINVAL)
    return text_of(found[1])


_SEQADJ = tuple(number_of(declared.SeqAdj, name) for name in ("correction_pos", "offset_before", "offset_after"))


def read_seqadj(data: bytes, before: SequenceAdjustment) -> tuple[SequenceAdjustment, bool]:
    """CTA_SEQ_ADJ_*: the new numbers, up to the first that is missing, and whether all are there."""
    found = read_nest(data, _checks(declared.SeqAdj))
    values = list(before)
    for i, number in enumerate(_SEQADJ):
        if number not in found:
            return SequenceAdjustment(*values), False
        (values[i],) = u32(found[number])
    return SequenceAdjustment(*values), True


def read_synproxy(data: bytes) -> tuple[int, int, int]:
    """CTA_SYNPROXY."""
    found = read_nest(data, _checks(declared.SynProxy))
    if not found.keys() >= {1, 2, 3}:
        raise Refusal(Errno.EINVAL)
    return u32(found[1])[0], u32(found[2])[0], u32(found[3])[0]


def read_nat(data: bytes | None, family: int) -> Range:
    """CTA_NAT_SRC, CTA_NAT_DST (`nfnetlink_parse_nat`); absent: a null binding."""
    if data is None:
        return Range()
    found = read_nest(data, _checks(declared.Nat))
    least, most, size = {IPV4: (1, 2, 4), IPV6: (4, 5, 16)}[family]
    addresses = None
    if least in found:
        first = found[least][:size]
        addresses = (first, found[most][:size] if most in found else first)
    parts = None
    if 3 in found:
        ports = read_nest(found[3], _checks(declared.NatProto))
        if ports.keys() & {1, 2}:
            low = u16(ports[1])[0] if 1 in ports else 0
            parts = (low, u16(ports[2])[0] if 2 in ports else low)
    return Range(addresses, parts)


_PROTOINFO_CHECKS = {1: Check(0, True, None, 0), 3: Check(0, True, None, 0)}
_MOST_SCALE = 14


def change_protoinfo(data: bytes, proto: object) -> None:
    """CTA_PROTOINFO for a flow whose protocol has this state; other protocols pass it over."""
    found = read_nest(data, _PROTOINFO_CHECKS)
    if isinstance(proto, TcpInfo):
        if 1 in found:
            _change_tcp(read_nest(found[1], _checks(declared.TcpInfo)), proto)
    elif isinstance(proto, SctpInfo) and 3 in found:
        _change_sctp(read_nest(found[3], _checks(declared.SctpInfo)), proto)


def _change_tcp(found: Attributes, proto: TcpInfo) -> None:
    """`nlattr_to_tcp`."""
    state, *scales = (found[number][0] if number in found else None for number in (1, 2, 3))
    flags = [(found[number][0], found[number][1]) if number in found else None for number in (4, 5)]
    if (state or 0) > max(TcpState) or any((scale or 0) > _MOST_SCALE for scale in scales):
        raise Refusal(Errno.ERANGE)
    proto.configure(state, (scales[0], scales[1]), (flags[0], flags[1]))


def _change_sctp(found: Attributes, proto: SctpInfo) -> None:
    """`nlattr_to_sctp`."""
    if 1 in found and found[1][0] > max(SctpState):
        raise Refusal(Errno.ERANGE)
    if not found.keys() >= {1, 2, 3}:
        raise Refusal(Errno.EINVAL)
    proto.state = SctpState(found[1][0])
    proto.vtags = [u32(found[2])[0], u32(found[3])[0]]


_LABEL_WORD = Struct(NATIVE.prefix + "QQ")


def labels_bitmap(labels: int) -> bytes:
    """128 labels as they are told: two words of the host's."""
    return _LABEL_WORD.pack(labels & 0xFFFFFFFFFFFFFFFF, labels >> 64)


def replace_labels(current: int | None, data: bytes, mask: bytes | None) -> int:
    """CTA_LABELS with CTA_LABELS_MASK: the new labels (`ctnetlink_attach_labels`, `nf_connlabels_replace`).

    Each byte becomes (old & ~mask) ^ given; those beyond what is given become 0.
    """
    if len(data) % 4 or (mask is not None and (not mask or len(mask) != len(data))):
        raise Refusal(Errno.EINVAL)
    if current is None:
        raise Refusal(Errno.ENOSPC)
    replaced = mask if mask is not None else b"\xff" * len(data)
    new = bytes(old & ~bits ^ given for old, bits, given in zip(labels_bitmap(current), replaced, data, strict=False))
    low, high = _LABEL_WORD.unpack(new.ljust(16, b"\0"))
    return int(low | high << 64)
