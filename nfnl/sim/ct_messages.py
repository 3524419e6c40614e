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
_pack_header = Struct(NATIVE.header.format + "Bx2s").pack

#: attributes of expectations by name
_E = {field.name: field.number for field in NewExpectation.__attrs__}


def message(type_: int, flags: int, seq: int, port: int, family: int, body: bytes, res_id: int = 0) -> bytes:
    """A whole message."""
    return _pack_header(_HEAD + len(body), type_, flags, seq, port, family, res_id.to_bytes(2, "big")) + body


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


_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}


def _numbers(codes: str, *attributes: int, inside: tuple[int, ...] = ()) -> Callable[..., bytes]:
    """What makes plain attributes of as many numbers, up to five, with one call of `struct`.

    ``codes`` has a struct code for each; ``inside`` names the nests around them, the outermost first.
    """
    headers = [_header(number, _SIZES[code]) for number, code in zip(attributes, codes, strict=True)]
    size = sum(NLA_HDRLEN + (_SIZES[code] + 3 & ~3) for code in codes)
    for number in reversed(inside):
        headers[0] = _header(number, size, nested=True) + headers[0]
        size += NLA_HDRLEN
    fields = [f"{len(header)}s{code}{-_SIZES[code] % 4}x" for header, code in zip(headers, codes, strict=True)]
    pack = Struct(">" + "".join(fields)).pack
    match headers:
        case [a]:
            return lambda v: pack(a, v)
        case [a, b]:
            return lambda v, w: pack(a, v, b, w)
        case [a, b, c]:
            return lambda v, w, x: pack(a, v, b, w, c, x)
        case [a, b, c, d]:
            return lambda v, w, x, y: pack(a, v, b, w, c, x, d, y)
        case [a, b, c, d, e]:
            return lambda v, w, x, y, z: pack(a, v, b, w, c, x, d, y, e, z)
    raise AssertionError(f"{len(headers)} attributes at once")


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
_status_mark_id_use_timeout = _numbers("IIIII", N["status"], N["mark"], N["id"], N["use"], N["timeout"])
_id_status = _numbers("II", N["id"], N["status"])
_timeout = _numbers("I", N["timeout"])
_mark = _numbers("I", N["mark"])
_timestamp_event = _numbers("Q", N["timestamp_event"])
_counters = tuple(_numbers("QQ", 1, 2, inside=(N[name],)) for name in ("counters_original", "counters_reply"))
_started = _numbers("Q", 1, inside=(N["timestamp"],))
_started_and_stopped = _numbers("QQ", 1, 2, inside=(N["timestamp"],))
_labels_header = _header(N["labels"], 16)
_seqadj = tuple(_numbers("III", 1, 2, 3, inside=(N[name],)) for name in ("seq_adj_original", "seq_adj_reply"))
_synproxy = _numbers("III", 1, 2, 3, inside=(N["synproxy"],))

_tcp_state = _numbers("B", 1, inside=(N["protoinfo"], 1))
_tcp = _numbers("BBBHH", 1, 2, 3, 4, 5, inside=(N["protoinfo"], 1))
_sctp_state = _numbers("B", 1, inside=(N["protoinfo"], 3))
_sctp = _numbers("BII", 1, 2, 3, inside=(N["protoinfo"], 3))


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
            return _tcp_state(proto.state)
        one, other = proto.sides
        return _tcp(proto.state, one.scale, other.scale, (one.flags & 0xFF) << 8, (other.flags & 0xFF) << 8)
    if isinstance(proto, SctpInfo):
        if destroyed:
            return _sctp_state(proto.state)
        return _sctp(proto.state, *proto.vtags)
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
    parts = [_tuples(entry)]
    if status & (Status.EXPECTED | Status.OFFLOAD):
        parts += _status_mark_id_use(status, entry.mark, entry.id, use), _master(entry)
        if not status & Status.OFFLOAD:
            parts.append(_timeout(table.seconds_left(entry)))
    else:
        parts.append(_status_mark_id_use_timeout(status, entry.mark, entry.id, use, table.seconds_left(entry)))
    if entry.proto is not None and not status & Status.OFFLOAD:
        parts.append(_protoinfo(entry.proto))
    counters = entry.counters
    if counters is not None:
        before = _HEAD + sum(map(len, parts))
        parts += _counters[0](*counters[:2]), _counters[1](*counters[2:])
        if reset:
            for direction in (0, 1):
                if before + direction * len(parts[-1]) <= room:
                    counters[2 * direction : 2 * direction + 2] = 0, 0
    if entry.start is not None:
        parts.append(_timestamp(entry))
    if entry.help is not None:
        parts.append(_help(entry))
    if entry.labels:
        parts.append(_labels(entry))
    if status & Status.SEQ_ADJUST:
        parts.append(_adjustments(entry))
    if entry.synproxy is not None:
        parts.append(_synproxy(*entry.synproxy))
    body = b"".join(parts)
    length = _HEAD + len(body)
    if length > room:
        return None
    return _pack_header(length, CT_NEW, flags, seq, port, entry.original[0], b"\0\0") + body


def attached_flow(entry: Entry, table: ConntrackTable) -> bytes:
    """A flow inside a message of another subsystem (`__ctnetlink_glue_build`): attributes, without a header."""
    parts = [_tuples(entry), _id_status(entry.id, entry.status), _timeout(table.seconds_left(entry)), _protoinfo(entry.proto)]
    if entry.counters is not None:
        parts += _counters[0](*entry.counters[:2]), _counters[1](*entry.counters[2:])
    parts += _timestamp(entry), _help(entry), _master(entry), _adjustments(entry)
    if entry.synproxy is not None:
        parts.append(_synproxy(*entry.synproxy))
    parts += _mark(entry.mark), _labels(entry)
    return b"".join(parts)


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
