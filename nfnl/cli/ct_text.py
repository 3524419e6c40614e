"""Flows and expectations as text: lines equal to those of conntrack 1.4.7, its XML and its save format, and JSON.

conntrack-tools and libnetfilter_conntrack are the model of what is written, byte for byte; see
docs/explanation/conntrack-command.md. Addresses, numbers and states are read from messages; nothing here talks to a kernel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

from nfnl.subsys.conntrack import (
    Counters,
    FlowAttributes,
    Protocol,
    Status,
    Tuple,
)
from nfnl.subsys.expect import ExpectationAttributes, ExpectFlag

_SECOND = 10**9
#: protocols whose names the command knows; all others are "unknown"
_PROTOCOL_NAMES = {number: number.name.lower() for number in Protocol}
_FAMILY_NAMES = {2: "ipv4", 10: "ipv6"}
_PORTS = frozenset((Protocol.TCP, Protocol.UDP, Protocol.UDPLITE, Protocol.SCTP, Protocol.DCCP))
_ICMP = frozenset((Protocol.ICMP, Protocol.ICMPV6))
_SEEN_REPLY = int(Status.SEEN_REPLY)
_SHOWN_BITS = [(int(bit), bit.name) for bit in (Status.HW_OFFLOAD, Status.OFFLOAD, Status.ASSURED)]
_PROTOINFO = {Protocol.TCP: "tcp", Protocol.SCTP: "sctp", Protocol.DCCP: "dccp"}


class What(Enum):
    """What an event tells; the value is the tag in front of the line."""

    NEW = "[NEW]"
    UPDATE = "[UPDATE]"
    DESTROY = "[DESTROY]"


@dataclass(frozen=True)
class Style:
    """What ``-o`` asks for."""

    extended: bool = False
    id: bool = False
    timestamp: bool = False
    ktimestamp: bool = False
    labels: bool = False
    #: numbers of labels and their names, in the order of the numbers
    label_names: Mapping[int, str] | None = None


PLAIN = Style()


# --- what is common ----------------------------------------------------------------------------------------------------------


def _protocol_name(number: int | None) -> str:
    return _PROTOCOL_NAMES.get(number or 0, "unknown")  # type: ignore[call-overload,no-any-return]


def _family(ends: Tuple) -> int:
    return 10 if ends.src is not None and ends.src.version == 6 else 2


def _state(flow: FlowAttributes) -> str | None:
    """The state of the protocol, if it has one that has a name."""
    field = _PROTOINFO.get(flow.protocol or 0)  # type: ignore[call-overload]
    info = flow.protoinfo if field else None
    of_protocol = None if info is None else getattr(info, field)
    return None if of_protocol is None else getattr(of_protocol.state, "name", None)


def _port(number: int | None) -> int:
    return number or 0


def _ports(ends: Tuple, prefix: str = "") -> Iterator[tuple[str, int]]:
    if ends.protocol in _PORTS:
        yield f"{prefix}sport", _port(ends.src_port)
        yield f"{prefix}dport", _port(ends.dst_port)


def _counters(counters: Counters | None) -> tuple[int, int]:
    if counters is None:
        return 0, 0
    packets = counters.packets32 if counters.packets is None else counters.packets
    octets = counters.bytes32 if counters.bytes is None else counters.bytes
    return packets or 0, octets or 0


def _offload(status: int) -> str | None:
    for bit, name in _SHOWN_BITS:
        if status & bit:
            return name
    return None


def _named_labels(flow: FlowAttributes, style: Style) -> list[str]:
    names = style.label_names or {}
    return [names[number] for number in sorted(flow.label_numbers) if number in names]


def _clock(nanoseconds: int) -> str:
    """As ctime(3) writes it, in the time zone of this machine."""
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(nanoseconds // _SECOND))


# --- lines -------------------------------------------------------------------------------------------------------------------


def flow_line(flow: FlowAttributes, style: Style = PLAIN, *, what: What | None = None, now: float) -> str:
    """A flow on one line, as ``conntrack -L`` and ``-E`` print it. ``now``: seconds since 1970, for the age of living flows."""
    return " ".join(_flow_words(flow, style, what, now))


def _flow_words(flow: FlowAttributes, style: Style, what: What | None, now: float) -> Iterator[str]:
    original, reply, status = flow.original, flow.reply, flow.status
    bits = None if status is None else int(status)  # whose & is quicker than that of an enum
    ends = original or reply
    if ends is None:
        raise ValueError("a flow without a tuple has no line")
    if style.timestamp and what is not None:
        yield f"[{int(now)}.{int(now % 1 * 1_000_000):06}]\t" + f"{what.value:>9}"
    elif what is not None:
        yield f"{what.value:>9}"
    if style.extended:
        family = _family(ends)
        yield f"{_FAMILY_NAMES[family]:<8} {family}"
    yield f"{_protocol_name(ends.protocol):<8} {ends.protocol or 0}"
    if flow.timeout is not None:
        yield str(flow.timeout)
    state = _state(flow)
    if state is not None:
        yield state
    if original is not None:
        yield _direction(original, flow.counters_original, "zone-orig")
    if bits is not None and not bits & _SEEN_REPLY:
        yield "[UNREPLIED]"
    if reply is not None:
        yield _direction(reply, flow.counters_reply, "zone-reply")
    if bits is not None and (bit := _offload(bits)):
        yield f"[{bit}]"
    yield from _values(flow, "mark", "secmark")
    if flow.secctx is not None and flow.secctx.name:
        yield f"secctx={flow.secctx.name}"
    yield from _values(flow, "zone")
    age = _age(flow, now, of_seconds=True)
    if age is not None:
        yield f"delta-time={age}"
    if style.ktimestamp and (stamp := flow.timestamp) is not None:
        if stamp.start is not None:
            yield f"[start={_clock(stamp.start)}]"
        if stamp.stop is not None:
            yield f"[stop={_clock(stamp.stop)}]"
    if flow.helper:
        yield f"helper={flow.helper}"
    yield from _values(flow, "use", *(("id",) if style.id else ()))
    if style.labels and (names := _named_labels(flow, style)):
        yield f"labels={','.join(names)}"


def _values(flow: FlowAttributes, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(flow, name)
        if value is not None:
            yield f"{name}={value}"


def _direction(ends: Tuple, counters: Counters | None, zone_word: str) -> str:
    # one string, and everything read once: these are most of what a list of many flows takes
    proto = ends.proto
    protocol = None if proto is None else proto.num
    words = f"src={ends.src} dst={ends.dst}"
    if proto is not None and protocol in _PORTS:
        words += f" sport={proto.src_port or 0} dport={proto.dst_port or 0}"
    elif protocol in _ICMP:
        words += f" type={ends.icmp_type or 0} code={ends.icmp_code or 0} id={ends.icmp_id or 0}"
    elif protocol == Protocol.GRE:
        words += f" srckey={_port(ends.src_port):#x} dstkey={_port(ends.dst_port):#x}"
    if (zone := ends.zone) is not None:
        words += f" {zone_word}={zone}"
    if counters is not None:
        packets, octets = _counters(counters)
        words += f" packets={packets} bytes={octets}"
    return words


def _age(flow: FlowAttributes, now: float, *, of_seconds: bool) -> int | None:
    """Seconds it has lived. ``of_seconds``: the difference of whole seconds, as on lines; in XML it is that of the nanoseconds."""
    stamp = flow.timestamp
    if stamp is None or stamp.start is None:
        return None
    if stamp.stop is None:
        return int(now) - stamp.start // _SECOND
    if of_seconds:
        return stamp.stop // _SECOND - stamp.start // _SECOND
    return (stamp.stop - stamp.start) // _SECOND


def expectation_line(expectation: ExpectationAttributes, style: Style = PLAIN, *, what: What | None = None, now: float) -> str:
    """An expectation on one line, as ``conntrack -L expect`` and ``-E expect`` print it."""
    tag = "" if what is None else f"{what.value:>9} "
    stamp = f"[{int(now)}.{int(now % 1 * 1_000_000):06}]\t" if style.timestamp else ""
    return stamp + tag + " ".join(_expectation_words(expectation, style))


def _expectation_words(expectation: ExpectationAttributes, style: Style) -> Iterator[str]:
    expected, mask, master = expectation.tuple, expectation.mask, expectation.master
    assert expected is not None
    assert mask is not None
    assert master is not None
    if style.extended:
        family = _family(expected)
        yield f"{_FAMILY_NAMES[family]:<8} {family}"
    if expectation.timeout is not None:
        yield str(expectation.timeout)
    yield f"proto={expected.protocol or 0}"
    for prefix, ends in (("", expected), ("mask-", mask), ("master-", master)):
        yield f"{prefix}src={ends.src} {prefix}dst={ends.dst}"
        yield from (f"{name}={value}" for name, value in _ports(ends))
    flags = expectation.flags or ExpectFlag(0)
    if flags:
        yield ",".join(flag.name or "" for flag in ExpectFlag if flags & flag)
    if expectation.expect_class is not None:
        yield f"class={expectation.expect_class}"
    if expectation.help_name:
        yield f"helper={expectation.help_name}"


# --- save --------------------------------------------------------------------------------------------------------------------

_SAVE_COMMANDS = {None: "-A", What.NEW: "-A", What.UPDATE: "-U", What.DESTROY: "-D"}
_SAVED_STATUS = (Status.SEEN_REPLY, Status.ASSURED, Status.FIXED_TIMEOUT, Status.EXPECTED)


def flow_save(flow: FlowAttributes, *, what: What | None = None) -> str:
    """The options that make the flow again, as ``conntrack -o save`` prints them."""
    return " ".join(_save_words(flow, what))


def _save_words(flow: FlowAttributes, what: What | None) -> Iterator[str]:
    original, reply = flow.original, flow.reply
    if original is None or reply is None:
        raise ValueError("a flow without both tuples cannot be saved")
    yield _SAVE_COMMANDS[what]
    if flow.timeout is not None:
        yield f"-t {flow.timeout}"
    if flow.status is not None:
        bits = [bit.name or "" for bit in _SAVED_STATUS if flow.status & bit]
        yield f"-u {','.join(bits) or 'UNSET'}"
    for option, value in (("-m", flow.mark), ("-c", flow.secmark)):
        if value:
            yield f"{option} {value}"
    if flow.zone is not None:
        yield f"-w {flow.zone}"
    for option, ends in (("--orig-zone", original), ("--reply-zone", reply)):
        if ends.zone is not None:
            yield f"{option} {ends.zone}"
    status = flow.status or Status(0)
    yield f"-s {original.src} -d {original.dst}"
    yield f"{'-g' if status & Status.DST_NAT else '-r'} {reply.src}"
    yield f"{'-n' if status & Status.SRC_NAT else '-q'} {reply.dst}"
    name = _protocol_name(original.protocol)
    yield f"-p {original.protocol if name == 'unknown' else name}"
    if original.protocol in _PORTS and original.src_port is not None:
        yield f"--sport {_port(original.src_port)} --dport {_port(original.dst_port)}"
        yield f"--reply-port-src {_port(reply.src_port)} --reply-port-dst {_port(reply.dst_port)}"
    elif original.protocol == Protocol.GRE:
        yield f"--srckey {_port(original.src_port)} --dstkey {_port(original.dst_port)}"
        yield f"--reply-key-src {_port(reply.src_port)} --reply-key-dst {_port(reply.dst_port)}"
    elif original.protocol in _ICMP:
        yield f"--{name}-type {original.icmp_type} --{name}-code {original.icmp_code} --{name}-id {original.icmp_id}"
    state = _state(flow)
    if state is not None:
        yield f"--state {state}"
    info = flow.protoinfo
    if original.protocol == Protocol.SCTP and info is not None and info.sctp is not None:
        yield f"--orig-vtag {info.sctp.vtag_original} --reply-vtag {info.sctp.vtag_reply}"


# --- XML ---------------------------------------------------------------------------------------------------------------------


def _element(name: str, value: object) -> str:
    return f"<{name}>{escape(str(value))}</{name}>"


def _type(what: What | None) -> str:
    return "" if what is None else f' type="{what.name.lower()}"'


def _layers(ends: Tuple) -> tuple[str, str]:
    """The opening tags of both layers."""
    family = _family(ends)
    return (
        f'<layer3 protonum="{family}" protoname="{_FAMILY_NAMES[family]}">',
        f'<layer4 protonum="{ends.protocol or 0}" protoname="{_protocol_name(ends.protocol)}">',
    )


def _when(now: float) -> str:
    at = time.localtime(now)
    return (
        f"<when><hour>{at.tm_hour}</hour><min>{at.tm_min:02}</min><sec>{at.tm_sec:02}</sec>"
        f"<wday>{(at.tm_wday + 1) % 7 + 1}</wday><day>{at.tm_mday}</day><month>{at.tm_mon}</month><year>{at.tm_year}</year></when>"
    )


def flow_xml(flow: FlowAttributes, style: Style = PLAIN, *, what: What | None = None, now: float) -> str:
    """A flow as the element that ``conntrack -o xml`` prints."""
    return f"<flow{_type(what)}>{''.join(_flow_elements(flow, style, now, what is not None))}</flow>"


def _flow_elements(flow: FlowAttributes, style: Style, now: float, event: bool) -> Iterator[str]:
    counted = flow.counters_original is not None or flow.counters_reply is not None  # then both are shown
    for name, ends, counters in (("original", flow.original, flow.counters_original), ("reply", flow.reply, flow.counters_reply)):
        if ends is not None:
            said = "".join(_direction_elements(ends, _counters(counters) if counted else None))
            yield f'<meta direction="{name}">{said}</meta>'
    yield f'<meta direction="independent">{"".join(_independent(flow, style, now))}</meta>'
    if style.timestamp and event:
        yield _when(now)
    if flow.helper:
        yield _element("helper", flow.helper)


def _direction_elements(ends: Tuple, counted: tuple[int, int] | None) -> Iterator[str]:
    layer3, layer4 = _layers(ends)
    yield f"{layer3}{_element('src', ends.src)}{_element('dst', ends.dst)}</layer3>{layer4}"
    yield from (_element(name, value) for name, value in _ports(ends))
    if ends.protocol == Protocol.GRE:
        yield _element("srckey", f"{_port(ends.src_port):#x}") + _element("dstkey", f"{_port(ends.dst_port):#x}")
    yield "</layer4>"
    if ends.zone is not None:
        yield _element("zone", ends.zone)
    if counted is not None:
        packets, octets = counted
        yield f"<counters>{_element('packets', packets)}{_element('bytes', octets)}</counters>"


def _independent(flow: FlowAttributes, style: Style, now: float) -> Iterator[str]:
    state = _state(flow)
    if state is not None:
        yield _element("state", state)
    for name in ("timeout", "mark"):
        if getattr(flow, name) is not None:
            yield _element(name, getattr(flow, name))
    if style.labels and (names := _named_labels(flow, style)):
        yield f"<labels>{''.join(_element('label', name) for name in names)}</labels>"
    if flow.secmark is not None:
        yield _element("secmark", flow.secmark)
    if flow.secctx is not None and flow.secctx.name:
        yield _element("secctx", flow.secctx.name)
    for name in ("zone", "use", "id"):
        if getattr(flow, name) is not None:
            yield _element(name, getattr(flow, name))
    if flow.status is not None:
        if flow.status & Status.ASSURED:
            yield "<assured/>"
        if not flow.status & Status.SEEN_REPLY:
            yield "<unreplied/>"
    stamp = flow.timestamp
    if style.ktimestamp and stamp is not None:
        times = [_element(name, value) for name, value in (("start", stamp.start), ("stop", stamp.stop)) if value is not None]
        if times:
            yield f"<timestamp>{''.join(times)}</timestamp>"
    age = _age(flow, now, of_seconds=False)
    if age is not None:
        yield _element("deltatime", age)


def expectation_xml(expectation: ExpectationAttributes, style: Style = PLAIN, *, what: What | None = None, now: float) -> str:
    """An expectation as the element that ``conntrack -o xml -L expect`` prints."""
    expected, mask, master = expectation.tuple, expectation.mask, expectation.master
    assert expected is not None
    assert mask is not None
    assert master is not None
    parts = (("expected", expected), ("mask", mask), ("master", master))
    layer3, layer4 = _layers(expected)
    addresses = "".join(f"<{name}>{_element('src', ends.src)}{_element('dst', ends.dst)}</{name}>" for name, ends in parts)
    ports = "".join(f"<{name}>{''.join(_element(*port) for port in _ports(ends))}</{name}>" for name, ends in parts)
    meta = [
        _element(name, value)
        for name, value in (
            ("helper-name", expectation.help_name),
            ("timeout", expectation.timeout),
            ("class", expectation.expect_class),
        )
        if value is not None
    ]
    if style.timestamp:
        meta.append(_when(now))
    return f"<flow{_type(what)}>{layer3}{addresses}</layer3>{layer4}{ports}</layer4><meta>{''.join(meta)}</meta></flow>"


# --- JSON --------------------------------------------------------------------------------------------------------------------


def flow_json(flow: FlowAttributes | ExpectationAttributes, *, what: What | None = None) -> str:
    """Everything the message says, as one line of JSON: names are those of `nfnl.subsys`, numbers stay numbers, enums are words."""
    values = {"event": what.name} if what is not None else {}
    return json.dumps(values | _plain_values(flow))


def _plain_values(value: Any) -> Any:
    if hasattr(value, "present"):
        there = value.present()
        return {name: _plain_values(inner) for name, inner in value.fields().items() if name in there}
    if isinstance(value, Status | ExpectFlag):
        return [bit.name for bit in type(value) if value & bit]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return {name: _plain_values(inner) for name, inner in value._asdict().items()}
    return str(value)
