"""Which flows a dump shows and a flush deletes (`ctnetlink_alloc_filter`, `ctnetlink_filter_match`)."""

from __future__ import annotations

from nfnl.sim.ct_entry import Entry
from nfnl.sim.ct_requests import N, ZoneGiven, read_tuple, u32
from nfnl.sim.errnos import Errno
from nfnl.sim.netlink import Refusal, Request
from nfnl.sim.nfnetlink import Attributes
from nfnl.sim.skb import ICMP, ICMPV6, IPV6, TCP, UDP
from nfnl.sim.tuples import Tuple
from nfnl.subsys.conntrack import FilterFlag
from nfnl.wire.constants import NFGENMSG_LEN, NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN, align4
from nfnl.wire.header import NATIVE

_IP_SRC, _IP_DST, _PROTO_NUM = int(FilterFlag.IP_SRC), int(FilterFlag.IP_DST), int(FilterFlag.PROTO_NUM)
_ALL_FLAGS = 0xFFF
_FILTER, _MARK, _STATUS, _ZONE = N["filter"], N["mark"], N["status"], N["zone"]


def _parts(flags: int, protocol: int) -> tuple[int, int]:
    """Which bits of source and destination part select. Ports do for TCP and UDP only; of others with ports nothing does."""

    def bits(flag: FilterFlag) -> int:
        return 0xFFFF if flags & flag else 0

    if protocol in (TCP, UDP):
        return bits(FilterFlag.PROTO_SRC_PORT), bits(FilterFlag.PROTO_DST_PORT)
    if protocol == ICMP:
        type_, code, id_ = FilterFlag.PROTO_ICMP_TYPE, FilterFlag.PROTO_ICMP_CODE, FilterFlag.PROTO_ICMP_ID
    elif protocol == ICMPV6:
        type_, code, id_ = FilterFlag.PROTO_ICMPV6_TYPE, FilterFlag.PROTO_ICMPV6_CODE, FilterFlag.PROTO_ICMPV6_ID
    else:
        return 0, 0
    return bits(id_), bits(type_) & 0xFF00 | bits(code) & 0xFF


class TupleFilter:
    """A tuple, and flags of `FilterFlag` that say what of it selects."""

    __slots__ = ("_flags", "_inverted", "_parts", "_tuple")

    def __init__(self, wanted: Tuple, flags: int, inverted: bool) -> None:
        self._tuple = wanted
        self._flags = flags
        #: addresses select those that are different
        self._inverted = inverted
        # a part is never flagged without the protocol
        self._parts = _parts(flags, wanted.protocol)

    def matches(self, t: Tuple) -> bool:
        """`ctnetlink_filter_match_tuple`."""
        wanted, flags = self._tuple, self._flags
        if flags & _IP_SRC and (t.src == wanted.src) is self._inverted:
            return False
        if flags & _IP_DST and (t.dst == wanted.dst) is self._inverted:
            return False
        if flags & _PROTO_NUM and t.protocol != wanted.protocol:
            return False
        source, destination = self._parts
        return not ((t.src_part ^ wanted.src_part) & source or (t.dst_part ^ wanted.dst_part) & destination)


class Filter:
    """What a request selects by."""

    __slots__ = ("_family", "_mark", "_original", "_reply", "_status", "_zone")

    def __init__(self, request: Request, attributes: Attributes, family: int, *, inverted: bool) -> None:
        self._family = family
        self._mark = _value_and_mask(attributes, _MARK, N["mark_mask"], 0xFFFFFFFF)
        self._status = _value_and_mask(attributes, _STATUS, N["status_mask"], None)
        if self._status is not None and not self._status[1]:
            raise Refusal(Errno.EINVAL)
        #: an id, whatever it is bound to; None: any
        self._zone: ZoneGiven | None = None
        self._original: TupleFilter | None = None
        self._reply: TupleFilter | None = None
        zone = ZoneGiven(attributes.get(_ZONE))
        if _ZONE in attributes:
            self._zone = zone  # a zone inside a tuple may still change it
        if _FILTER not in attributes:
            return
        flags = _read_flags(request, attributes[_FILTER])
        inverted = inverted and family == IPV6
        made: list[TupleFilter | None] = [None, None]
        for i, name in enumerate(("original", "reply")):
            if not flags[i]:
                continue
            payload = attributes.get(N[name])
            if payload is None:
                raise Refusal(Errno.EINVAL)
            made[i] = TupleFilter(read_tuple(payload, family, zone, i + 1, flags[i]), flags[i], inverted)
        self._original, self._reply = made

    def matches(self, entry: Entry) -> bool:
        """Whether the flow is one of those."""
        return (
            (not self._family or entry.family == self._family)
            and (self._zone is None or entry.zone.id == self._zone.id)
            and (self._original is None or self._original.matches(entry.original))
            and (self._reply is None or self._reply.matches(entry.reply))
            and (self._mark is None or entry.mark & self._mark[1] == self._mark[0])
            and (self._status is None or entry.status & self._status[1] == self._status[0])
        )


def wanted_flows(request: Request, attributes: Attributes, family: int, *, inverted: bool) -> Filter | None:
    """The filter a request asks for; None: it asks for none, and lone masks are passed over (`ctnetlink_needs_filter`).

    ``inverted``: this kernel takes IPv6 addresses the wrong way round. Raises `Refusal`.
    """
    if not family and not attributes.keys() & {_MARK, _FILTER, _STATUS, _ZONE}:
        return None
    return Filter(request, attributes, family, inverted=inverted)


def _value_and_mask(attributes: Attributes, value: int, mask: int, default: int | None) -> tuple[int, int] | None:
    """``default`` None: a mask that is not given is the value."""
    if value not in attributes:
        if mask in attributes:
            raise Refusal(Errno.EINVAL)
        return None
    (wanted,) = u32(attributes[value])
    if mask in attributes:
        return wanted, u32(attributes[mask])[0]
    return wanted, wanted if default is None else default


def _read_flags(request: Request, payload: bytes) -> list[int]:
    """CTA_FILTER, the one nest that is read strictly (`nla_parse_nested`): of the original tuple, of the reply tuple.

    The numbers are in the order of the host.
    """
    if not _says_nested(request):
        raise Refusal(Errno.EINVAL)
    flags = [0, 0]
    offset = 0
    while offset < len(payload):
        if len(payload) - offset < NLA_HDRLEN:
            raise Refusal(Errno.EINVAL)
        length, type_ = NATIVE.attr.unpack_from(payload, offset)
        if length != NLA_HDRLEN + 4 or type_ not in (1, 2) or offset + length > len(payload):
            raise Refusal(Errno.EINVAL)
        (flags[type_ - 1],) = NATIVE.u32.unpack_from(payload, offset + NLA_HDRLEN)
        if flags[type_ - 1] & ~_ALL_FLAGS:
            raise Refusal(Errno.EINVAL)
        offset += align4(length)
    return flags


def _says_nested(request: Request) -> bool:
    """The last CTA_FILTER of the request has NLA_F_NESTED."""
    offset, end = request.offset + NLMSG_HDRLEN + NFGENMSG_LEN, request.offset + request.length
    says = False
    while end - offset >= NLA_HDRLEN:
        length, type_ = NATIVE.attr.unpack_from(request.data, offset)
        if not NLA_HDRLEN <= length <= end - offset:
            break
        if type_ & NLA_TYPE_MASK == _FILTER:
            says = bool(type_ & NLA_F_NESTED)
        offset += align4(length)
    return says
