"""What the kernel tells of flows and expectations, byte by byte (`ctnetlink_fill_info`, `ctnetlink_conntrack_event`).

Tables of up to 100,000 flows are told with this, so a tuple is one `struct` call over prepared headers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from struct import Struct

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Event, SequenceAdjustment, Status
from nfnl.sim.ct_requests import N, labels_bitmap
from nfnl.sim.expectations import Expectation, ExpectationTable
from nfnl.sim.protoinfo import ProtoInfo, SctpInfo, TcpInfo
from nfnl.sim.skb import ICMP, ICMPV6, IPV4
from nfnl.sim.tuples import PORT_PROTOCOLS, Tuple
from nfnl.subsys.expect import NewExpectation
from nfnl.wire.constants import NFGENMSG_LEN, NLA_F_NESTED, NLA_HDRLEN, NLMSG_HDRLEN, NlmsgFlag, SubsystemId
from nfnl.wire.header import NATIVE

#: message types
CT_NEW, CT_DELETE = SubsystemId.CTNETLINK << 8, SubsystemId.CTNETLINK << 8 | 2
EXP_NEW, EXP_DELETE = SubsystemId.CTNETLINK_EXP << 8, SubsystemId.CTNETLINK_EXP << 8 | 2

CREATED = int(NlmsgFlag.CREATE | NlmsgFlag.EXCL)
_HEAD = NLMSG_HDRLEN + NFGENMSG_LEN
_pack_header = Struct(NATIVE.header.format + "BxH").pack

#: attributes of expectations by name
_E = {field.name: field.number for field in NewExpectation.__attrs__}


def message(type_: int, flags: int, seq: int, port: int, family: int, body: bytes, res_id: int = 0) -> bytes:
    """A whole message."""
    big_endian = (res_id & 0xFF) << 8 | res_id >> 8 if NATIVE.name == "little" else res_id
    return _pack_header(_HEAD + len(body), type_, flags, seq, port, family, big_endian) + body


# ----------------------------------------------------------------------------------------------------------------- attributes


def _header(number: int, size: int, nested: bool = False) -> bytes:
    return NATIVE.attr.pack(NLA_HDRLEN + size, number | (NLA_F_NESTED if nested else 0))


def nested(number: int, inner: bytes) -> bytes:
    """A nest; what is inside is padded already."""
    return _header(number, len(inner), nested=True) + inner


def _text(number: int, text: str) -> bytes:
    """A string with its NUL."""
    data = text.encode("latin-1") + b"\0"
    return _header(number, len(data)) + data + bytes(-len(data) % 4)


def _numbers(codes: str, *attributes: int) -> Callable[..., bytes]:
    """What makes several plain attributes of their numbers, in one go. ``codes``: a struct code for each."""
    sizes = {"B": 1, "H": 2, "I": 4, "Q": 8}
    headers = [_header(number, sizes[code]) for number, code in zip(attributes, codes, strict=True)]
    pack = Struct(">" + "".join(f"4s{code}{-sizes[code] % 4}x" for code in codes)).pack
    if len(codes) == 1:
        (one,) = headers
        return lambda value: pack(one, value)

    def packed(*values: int) -> bytes:
        return pack(*[part for pair in zip(headers, values, strict=True) for part in pair])

    return packed


def _nest_of(number: int, codes: str, *attributes: int) -> Callable[..., bytes]:
    """The same inside a nest."""
    inside = _numbers(codes, *attributes)
    head = _header(number, len(inside(*[0] * len(codes))), nested=True)
    return lambda *values: head + inside(*values)


# ----------------------------------------------------------------------------------------------------------------------- tuples

_TupleWriter = Callable[[Tuple], bytes]
_zone_in_tuple = _numbers("H", 3)


@cache
def _tuple_writer(outer: int, family: int, protocol: int, zone: int) -> _TupleWriter:
    """What writes tuples of one kind as the attribute ``outer``, for one zone (0: none is told)."""
    size = 4 if family == IPV4 else 16
    source, destination = (1, 2) if family == IPV4 else (3, 4)
    inside: tuple[tuple[int, str], ...]
    if protocol in PORT_PROTOCOLS:
        inside, parts = ((2, "H"), (3, "H")), 2
    elif protocol in (ICMP, ICMPV6):
        id_ = 4 if protocol == ICMP else 7
        inside, parts = ((id_, "H"), (id_ + 1, "B"), (id_ + 2, "B")), 3
    else:
        inside, parts = (), 0
    addresses = 2 * (NLA_HDRLEN + size)
    proto = 8 * (1 + parts)
    tail = _zone_in_tuple(zone) if zone else b""
    first = (
        _header(outer, 2 * NLA_HDRLEN + addresses + proto + len(tail), nested=True)
        + _header(1, addresses, nested=True)
        + _header(source, size)
    )
    second = _header(destination, size)
    third = _header(2, proto, nested=True) + _header(1, 1) + bytes((protocol, 0, 0, 0))
    headers = [_header(number, 2 if code == "H" else 1) for number, code in inside]
    pack = Struct(
        f">{len(first)}s{size}s{len(second)}s{size}s{len(third)}s" + "".join(f"4s{c}{2 if c == 'H' else 3}x" for _, c in inside)
    ).pack
    if parts == 2:
        sport, dport = headers
        return lambda t: pack(first, t[1], second, t[2], third, sport, t[4], dport, t[5]) + tail
    if parts == 3:
        ident, kind, code = headers
        return lambda t: pack(first, t[1], second, t[2], third, ident, t[4], kind, t[5] >> 8, code, t[5] & 0xFF) + tail
    return lambda t: pack(first, t[1], second, t[2], third) + tail


def tuple_attribute(outer: int, t: Tuple, zone: int = 0) -> bytes:
    """A tuple as a nest; ``zone``: told inside it, unless 0."""
    return _tuple_writer(outer, t[0], t[3], zone)(t)


# ------------------------------------------------------------------------------------------------------------- parts of a flow

_ORIGINAL, _REPLY, _MASTER = N["original"], N["reply"], N["master"]
_zone = _numbers("H", N["zone"])
_status_mark_id_use = _numbers("IIII", N["status"], N["mark"], N["id"], N["use"])
_id_status = _numbers("II", N["id"], N["status"])
_timeout = _numbers("I", N["timeout"])
_mark = _numbers("I", N["mark"])
_timestamp_event = _numbers("Q", N["timestamp_event"])
_counters = (_nest_of(N["counters_original"], "QQ", 1, 2), _nest_of(N["counters_reply"], "QQ", 1, 2))
_started = _nest_of(N["timestamp"], "Q", 1)
_started_and_stopped = _nest_of(N["timestamp"], "QQ", 1, 2)
_labels_header = _header(N["labels"], 16)
_seqadj = tuple(_nest_of(N[name], "III", 1, 2, 3) for name in ("seq_adj_original", "seq_adj_reply"))
_synproxy = _nest_of(N["synproxy"], "III", 1, 2, 3)

_tcp_state = _nest_of(1, "B", 1)
_tcp = _nest_of(1, "BBBHH", 1, 2, 3, 4, 5)
_sctp_state = _nest_of(3, "B", 1)
_sctp = _nest_of(3, "BII", 1, 2, 3)


def _tuples(entry: Entry) -> bytes:
    """Both tuples and the zone."""
    zone = entry.zone
    original, reply = entry.original, entry.reply
    if not zone.id:
        return _tuple_writer(_ORIGINAL, original[0], original[3], 0)(original) + _tuple_writer(_REPLY, reply[0], reply[3], 0)(reply)
    bound = zone.id if zone.directions != 3 else 0
    return (
        tuple_attribute(_ORIGINAL, original, bound if zone.directions == 1 else 0)
        + tuple_attribute(_REPLY, reply, bound if zone.directions == 2 else 0)
        + (b"" if bound else _zone(zone.id))
    )


def _protoinfo(proto: ProtoInfo | None, *, destroyed: bool = False) -> bytes:
    """Of TCP and SCTP; others have nothing to tell."""
    if isinstance(proto, TcpInfo):
        if destroyed:
            return nested(N["protoinfo"], _tcp_state(proto.state))
        one, other = proto.sides
        flags = ((one.flags & 0xFF) << 8, (other.flags & 0xFF) << 8)
        return nested(N["protoinfo"], _tcp(proto.state, one.scale, other.scale, *flags))
    if isinstance(proto, SctpInfo):
        if destroyed:
            return nested(N["protoinfo"], _sctp_state(proto.state))
        return nested(N["protoinfo"], _sctp(proto.state, *proto.vtags))
    return b""


def _timestamp(entry: Entry) -> bytes:
    if entry.start is None:
        return b""
    return _started_and_stopped(entry.start, entry.stop) if entry.stop else _started(entry.start)


def _help(entry: Entry) -> bytes:
    if entry.help is None or entry.help.helper is None:
        return b""
    return nested(N["help"], _text(1, entry.help.helper.name))


def _labels(entry: Entry) -> bytes:
    return _labels_header + labels_bitmap(entry.labels) if entry.labels else b""


def _master(entry: Entry) -> bytes:
    if not entry.status & Status.EXPECTED or entry.master is None:
        return b""
    return tuple_attribute(_MASTER, entry.master.original)


def _adjustments(entry: Entry) -> bytes:
    adjustments: tuple[SequenceAdjustment, SequenceAdjustment] | None = entry.seqadj
    if adjustments is None or not entry.status & Status.SEQ_ADJUST:
        return b""
    return b"".join(write(*shift) for write, shift in zip(_seqadj, adjustments, strict=True))


# ---------------------------------------------------------------------------------------------------------------- whole flows


def flow_message(
    entry: Entry, table: ConntrackTable, port: int, seq: int, flags: int, use: int, room: int = 1 << 16, *, reset: bool = False
) -> bytes | None:
    """A flow as dumps and answers tell it; None if it takes more than ``room`` bytes.

    ``reset``: its counters start again from 0. Those that were reached before the room came to an end do so even if the message
    is not sent (`dump_counters`).
    """
    status = entry.status
    parts = [_tuples(entry), _status_mark_id_use(status, entry.mark, entry.id, use)]
    if status & Status.EXPECTED:
        parts.append(_master(entry))
    if not status & Status.OFFLOAD:
        parts.append(_timeout(table.seconds_left(entry)))
        if entry.proto is not None:
            parts.append(_protoinfo(entry.proto))
    counters = entry.counters
    if counters is not None:
        before = _HEAD + sum(map(len, parts))
        parts += _counters[0](*counters[:2]), _counters[1](*counters[2:])
        if reset:
            for direction in (0, 1):
                if before + direction * len(parts[-1]) <= room:
                    counters[2 * direction : 2 * direction + 2] = 0, 0
    parts += _timestamp(entry), _help(entry), _labels(entry), _adjustments(entry)
    if entry.synproxy is not None:
        parts.append(_synproxy(*entry.synproxy))
    body = b"".join(parts)
    length = _HEAD + len(body)
    if length > room:
        return None
    return _pack_header(length, CT_NEW, flags, seq, port, entry.original[0], 0) + body


def event_message(bits: int, entry: Entry, table: ConntrackTable, port: int, timestamp: int | None) -> bytes:
    """An event of a flow: ``bits`` of `Event` say of what. ``timestamp``: nanoseconds, where events have one."""
    parts = [_tuples(entry), _id_status(entry.id, entry.status)]
    left = table.seconds_left(entry)
    if bits & Event.DESTROY:
        type_, flags = CT_DELETE, 0
        if left:
            parts.append(_timeout(left))
        if entry.counters is not None:
            parts += _counters[0](*entry.counters[:2]), _counters[1](*entry.counters[2:])
        parts += _timestamp(entry), _protoinfo(entry.proto, destroyed=True)
    else:
        type_, flags = CT_NEW, CREATED if bits & (Event.NEW | Event.RELATED) else 0
        parts.append(_timeout(left))
        if bits & Event.PROTOINFO:
            parts.append(_protoinfo(entry.proto))
        parts.append(_help(entry))
        if bits & Event.LABEL:
            parts.append(_labels(entry))
        if bits & Event.RELATED:
            parts.append(_master(entry))
        if bits & Event.SEQADJ:
            parts.append(_adjustments(entry))
        if bits & Event.SYNPROXY and entry.synproxy is not None:
            parts.append(_synproxy(*entry.synproxy))
    if bits & Event.MARK or entry.mark:
        parts.append(_mark(entry.mark))
    if timestamp is not None:
        parts.append(_timestamp_event(timestamp))
    return message(type_, flags, 0, port, entry.family, b"".join(parts))


# --------------------------------------------------------------------------------------------------------------- expectations

_exp_timeout_id_flags_class = _numbers("IIII", _E["timeout"], _E["id"], _E["flags"], _E["expect_class"])
_exp_nat_dir = _numbers("I", 1)


def expectation_message(
    type_: int, flags: int, seq: int, port: int, expectation: Expectation, expectations: ExpectationTable
) -> bytes:
    """An expectation, the same in dumps, answers and events (`ctnetlink_exp_dump_expect`)."""
    t, mask, master = expectation.tuple, expectation.mask, expectation.master
    everything = Tuple(t.family, mask.src, b"\xff" * len(t.dst), t.protocol, mask.src_part, 0xFFFF)
    parts = [
        tuple_attribute(_E["tuple"], t),
        tuple_attribute(_E["mask"], everything),
        tuple_attribute(_E["master"], master.original),
    ]
    if any(expectation.saved_addr) or expectation.saved_part:
        before = Tuple(
            master.family, expectation.saved_addr, bytes(len(expectation.saved_addr)), master.protocol, expectation.saved_part, 0
        )
        parts.append(nested(_E["nat"], _exp_nat_dir(expectation.direction) + tuple_attribute(2, before)))
    left = expectations.seconds_left(expectation)
    parts.append(_exp_timeout_id_flags_class(left, expectation.id, expectation.flags, expectation.class_))
    if master.help is not None and master.help.helper is not None:
        parts.append(_text(_E["help_name"], master.help.helper.name))
    if expectation.function is not None:
        parts.append(_text(_E["fn"], expectation.function))
    return message(type_, flags, seq, port, t.family, b"".join(parts))


# ----------------------------------------------------------------------------------------------------------------- statistics


def statistics_message(type_: int, seq: int, port: int, attributes: dict[int, int], res_id: int = 0) -> bytes:
    """Numbers of 32 bits, for everybody."""
    body = b"".join(_header(number, 4) + (value & 0xFFFFFFFF).to_bytes(4, "big") for number, value in attributes.items())
    return message(type_, int(NlmsgFlag.MULTI), seq, port, 0, body, res_id)
