"""Declarations and datagrams for people: rows for documentation, one-line summaries for traces, a tree of every byte.

Everything here is read off the declarations, and no bytes are too broken for it: what cannot be understood is shown as it is,
and said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from nfnl.errors import DecodeError, error_name
from nfnl.wire.codec import attribute_at, decode_part
from nfnl.wire.compiled import BODY
from nfnl.wire.constants import (
    NLA_F_NESTED,
    NLA_HDRLEN,
    NLA_TYPE_MASK,
    NLMSG_HDRLEN,
    Family,
    NlmsgFlag,
    NlmsgType,
    SubsystemId,
    align4,
)
from nfnl.wire.control import Ack, Done, ExtendedAck, Generic, Malformed
from nfnl.wire.declare import Attr, Direction, Message, View, registry
from nfnl.wire.header import NATIVE, ByteOrder, NetlinkMessage, Part, walk
from nfnl.wire.layout import Layout, raw

# --- declarations --------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What there is to know about one attribute of a declaration."""

    path: str  #: the field, with the fields it is nested in: ``vlan.tci``
    number: int
    kernel_name: str
    layout: str  #: ``be32``; of a record its parts, ``packet_id be32, hook u8``; ``nest Vlan``
    presence: str  #: ``required`` or ``optional``
    since: str  #: first kernel that knows it, "" where that is long ago
    meaning: str


def rows(declaration: type[View], within: str = "", *, deep: bool = True) -> Iterator[Row]:
    """The attributes of a message or nest in the order of the wire, each nest followed by what is in it.

    What is in a nest is left out where a message says the same, and without ``deep`` always.
    """
    for a in declaration.__attrs__:
        path = f"{within}{a.name}"
        presence = "required" if a.required else "optional"
        yield Row(path, a.number, a.kernel_name, _layout_name(a), presence, a.since, a.doc)
        if deep and a.nest is not None and not a.nest.__told_by__:
            yield from rows(a.nest, f"{path}.")


def _layout_name(a: Attr) -> str:
    if a.nest is not None:
        return f"nest {a.nest.__name__}"
    assert a.layout is not None
    parts = ", ".join(f"{name} {part.name}" for name, part in a.layout.parts)
    return parts or a.layout.name


# --- one line per message ------------------------------------------------------------------------------------------------------


def summary(message: NetlinkMessage) -> str:
    """A message in one line: ``Config queue 1 BIND, PACKET 65531 seq 1``."""
    return _SUMMARIES.get(type(message), _summary_of_declared)(message)


def _seq(message: NetlinkMessage) -> str:
    return f" seq {message.nlmsg_seq}" if message.nlmsg_seq else ""


def _summary_of_declared(message: Any) -> str:
    if not isinstance(message, Message):
        return f"{type_words(message.nlmsg_type, None)}{_seq(message)}"
    head = f"{type(message).__name__} {message.__subsystem__.name} {message.res_id}"
    told = ", ".join(_told(message))
    return f"{head}{f' {told}' if told else ''}{_seq(message)}"


def _told(view: View) -> Iterator[str]:
    present = view.present()
    for a in view.__attrs__:
        if a.name not in present:
            continue
        value = getattr(view, a.name)
        if a.layout is None:
            speaks = any("__str__" in cls.__dict__ for cls in type(value).__mro__[:-1])
            said = str(value) if speaks else ", ".join(_told(value))
            yield f"{a.name} ({said})"
        elif a.layout.parts:
            yield a.layout.say(value)
        else:
            yield f"{a.name} {a.layout.say(value)}"
    unknown = view.unknown
    if unknown:
        yield f"unknown {', '.join(str(attribute.number) for attribute in unknown)}"


def _summary_of_ack(ack: Ack) -> str:
    request = registry.get((ack.request_type, Direction.TO_KERNEL))
    what = request.__name__ if request else type_words(ack.request_type, Direction.TO_KERNEL)
    said = f"{f'Error {error_name(ack.error)}' if ack.error else 'Ack'} of {what}{_seq(ack)}"
    extended = ack.extended
    if extended is not None and extended.message is not None:
        said += f": {extended.message!r}"
    if extended is not None and extended.offset is not None:
        said += f" at {_pointed_at(ack, extended.offset)}"
    return said


def _pointed_at(ack: Ack, offset: int) -> str:
    """What an offset in the request means, if enough of the request is there to tell."""
    cls = registry.get((ack.request_type, Direction.TO_KERNEL))
    request = ack.request
    if cls is not None and len(request) == ack.request_len >= BODY:
        try:
            message = decode_part(Part(0, len(request), ack.request_type, 0, request), Direction.TO_KERNEL, ack._order)
        except DecodeError as error:
            if error.offset == offset:
                return error.path
        else:
            if isinstance(message, Message):
                return attribute_at(message, offset)
    return f"byte {offset} of the request"


def _summary_of_done(done: Done) -> str:
    return f"Done{f' {error_name(done.error)}' if done.error > 0 else ''}{_seq(done)}"


def _summary_of_generic(generic: Generic) -> str:
    return f"{type_words(generic.nlmsg_type, None)}, {generic.nlmsg_len} bytes{_seq(generic)}"


_SUMMARIES: dict[type[NetlinkMessage], Callable[[Any], str]] = {
    Ack: _summary_of_ack,
    Done: _summary_of_done,
    Generic: _summary_of_generic,
    Malformed: lambda message: f"Malformed {message.error}{_seq(message)}",
}


def type_words(type_: int, direction: Direction | None) -> str:
    """A message type: ``NFQNL_MSG_PACKET`` where it is declared, else ``ULOG 1``, ``NLMSG_DONE``. With no direction, either."""
    for said in (direction,) if direction else Direction:
        if cls := registry.get((type_, said)):
            return cls.__kernel_name__
    names = {int(known): known.name for known in NlmsgType}
    if type_ in names:
        return f"{'NFNL_MSG' if type_ >= NlmsgType.BATCH_BEGIN else 'NLMSG'}_{names[type_]}"
    subsystems = {int(known): known.name for known in SubsystemId}
    return f"{subsystems.get(type_ >> 8, f'subsystem {type_ >> 8}')} {type_ & 0xFF}"


_FLAGS = ["REQUEST", "MULTI", "ACK", "ECHO", "DUMP_INTR", "DUMP_FILTERED"]
_FLAGS_OF_ACK = ["CAPPED", "ACK_TLVS"]
_FLAGS_OF_DUMP = ["DUMP"]
_FLAGS_OF_NEW = ["REPLACE", "EXCL", "CREATE", "APPEND"]


def flag_words(flags: int, type_: int) -> str:
    """``nlmsg_flags`` by name; the high bits mean different things in answers, dumps and requests to create."""
    if type_ in (NlmsgType.ERROR, NlmsgType.DONE):
        high = _FLAGS_OF_ACK
    else:
        high = _FLAGS_OF_DUMP if flags & NlmsgFlag.DUMP == NlmsgFlag.DUMP else _FLAGS_OF_NEW
    found = [name for name in _FLAGS + high if flags & NlmsgFlag[name]]
    rest = flags & ~sum(NlmsgFlag[name] for name in found)
    return "|".join(found + [f"{rest:#x}"] * bool(rest)) or "none"


# --- every byte ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a tree."""

    depth: int
    offset: int  #: from the beginning of the datagram
    data: bytes  #: the bytes it is about, up to `WIDTH` of them; b"" for a heading
    name: str
    value: str = ""
    note: str = ""  #: the kernel's name for it
    problem: bool = False  #: it says what is wrong
    content: bytes | None = None  #: on the line of an attribute that is plain bytes: all of them


#: bytes on a line
WIDTH = 8
#: Nests that nobody declared are followed so deep, and no deeper.
_DEEPEST = 16


def tree(
    datagram: bytes, *, direction: Direction | None = None, order: ByteOrder = NATIVE, longest: int | None = None
) -> Iterator[Line]:
    """Every byte of a datagram, in order, with what it means; nothing is too broken to be shown, and nothing raises.

    ``direction`` says who sent it, by default NLM_F_REQUEST tells; plain bytes are cut after ``longest`` of them.
    """
    return _Tree(bytes(datagram), direction, order, longest).datagram()


def lines(described: Iterable[Line]) -> Iterator[str]:
    """A tree as plain text."""
    for line in described:
        yield "  ".join(columns(line)).rstrip()


def columns(line: Line) -> tuple[str, str, str, str]:
    """The parts of a printed line: offset, bytes, name and value, kernel name."""
    text = f"{'  ' * line.depth}{line.name}{': ' if line.value else ''}{line.value}"
    return f"{line.offset:>5}", f"{line.data.hex(' '):<{WIDTH * 3 - 1}}", f"{text:<40}" if line.note else text, line.note


class _Tree:
    """Walks a datagram leniently: by the declarations where they fit, without them where not."""

    def __init__(self, data: bytes, direction: Direction | None, order: ByteOrder, longest: int | None) -> None:
        self.data = data
        self.direction = direction
        self.order = order
        self.longest = longest

    def datagram(self) -> Iterator[Line]:
        end = 0
        try:
            for part in walk(self.data, self.order):
                yield from self.message(part)
                end = part.offset + len(part.data)
        except DecodeError as error:
            yield Line(0, end, b"", f"broken framing: {error}", problem=True)
            yield from self.plain(0, end, len(self.data))

    def message(self, part: Part) -> Iterator[Line]:
        start, end = part.offset, part.offset + part.length
        try:
            heading = summary(decode_part(part, self.direction, self.order))
            problem = False
        except DecodeError as error:
            heading, problem = f"Malformed {error}", True
        yield Line(0, start, b"", heading, problem=problem)
        yield from self.header(1, start, self.direction)
        inside = start + NLMSG_HDRLEN
        if part.type == NlmsgType.ERROR:
            yield from self.ack(inside, end, part.flags)
        elif part.type == NlmsgType.DONE:
            yield from self.done(inside, end)
        elif part.type < NlmsgType.BATCH_BEGIN:
            yield from self.plain(1, inside, end)
        else:
            yield from self.body(1, inside, end, self.declaration(part.type, part.flags))
        yield from self.spare(1, end, start + len(part.data))

    def declaration(self, type_: int, flags: int) -> type[Message] | None:
        said = self.direction or (Direction.TO_KERNEL if flags & NlmsgFlag.REQUEST else Direction.FROM_KERNEL)
        return registry.get((type_, said))

    def header(self, depth: int, at: int, direction: Direction | None) -> Iterator[Line]:
        length, type_, flags, seq, pid = self.order.header.unpack_from(self.data, at)
        values = (
            ("nlmsg_len", 4, str(length)),
            ("nlmsg_type", 2, f"{type_:#06x} {type_words(type_, direction)}"),
            ("nlmsg_flags", 2, f"{flags:#06x} {flag_words(flags, type_)}"),
            ("nlmsg_seq", 4, str(seq)),
            ("nlmsg_pid", 4, str(pid)),
        )
        yield from self.fields(depth, at, values)

    def fields(self, depth: int, at: int, values: tuple[tuple[str, int, str], ...]) -> Iterator[Line]:
        for name, size, value in values:
            yield from self.shown(depth, at, at + size, name, value)
            at += size

    def body(self, depth: int, at: int, end: int, declaration: type[View] | None) -> Iterator[Line]:
        """What stands behind nlmsghdr in messages of nfnetlink."""
        if end - at < BODY - NLMSG_HDRLEN:
            yield from self.plain(depth, at, end)
            return
        family, version, resource = self.data[at], self.data[at + 1], self.data[at + 2 : at + 4]
        families = {int(known): known.name for known in Family}
        values = (
            ("nfgen_family", 1, f"{family} {families.get(family, '')}".rstrip()),
            ("nfgen_version", 1, str(version)),
            ("res_id", 2, _number(int.from_bytes(resource, "big"))),
        )
        yield from self.fields(depth, at, values)
        yield from self.attributes(depth, at + 4, end, declaration)

    def ack(self, at: int, end: int, flags: int) -> Iterator[Line]:
        if end - at < 4 + NLMSG_HDRLEN:
            yield from self.plain(1, at, end)
            return
        error = -int.from_bytes(self.data[at : at + 4], self.order.name, signed=True)
        yield Line(1, at, self.data[at : at + 4], "error", f"{-error} {error_name(error)}" if error else "0 success")
        at += 4
        length, type_, _, _, _ = self.order.header.unpack_from(self.data, at)
        yield Line(1, at, b"", "the request's header" if flags & NlmsgFlag.CAPPED else "the request")
        yield from self.header(2, at, Direction.TO_KERNEL)
        behind = at + (NLMSG_HDRLEN if flags & NlmsgFlag.CAPPED else max(length, NLMSG_HDRLEN))
        at += NLMSG_HDRLEN
        if behind > at:
            declaration = registry.get((type_, Direction.TO_KERNEL))
            yield from self.body(2, at, min(behind, end), declaration)
            at = min(align4(behind - at) + at, end)
            yield from self.spare(2, min(behind, end), at)
        if flags & NlmsgFlag.ACK_TLVS:
            yield Line(1, at, b"", "extended acknowledgement")
            yield from self.attributes(2, at, end, ExtendedAck)
        else:
            yield from self.plain(1, at, end)

    def done(self, at: int, end: int) -> Iterator[Line]:
        if end - at >= 4:
            number = int.from_bytes(self.data[at : at + 4], self.order.name, signed=True)
            yield Line(1, at, self.data[at : at + 4], "error", f"{number} {error_name(-number)}" if number < 0 else str(number))
            at += 4
        yield from self.plain(1, at, end)

    def attributes(self, depth: int, at: int, end: int, declaration: type[View] | None) -> Iterator[Line]:
        """A row of attributes, as far as their lengths can be true."""
        last = {type_ & NLA_TYPE_MASK: start for start, _, type_ in self.heads(at, end)}
        for start, length, type_ in self.heads(at, end):
            repeated = last[type_ & NLA_TYPE_MASK] != start
            yield from self.attribute(depth, start, length, type_, declaration, repeated)
            at = min(start + align4(length), end)
            yield from self.spare(depth, start + length, at)
        if end - at >= NLA_HDRLEN:
            length, type_ = self.order.attr.unpack_from(self.data, at)
            _, name, note = _names(declaration, type_)
            problem = f"{name}: nla_len is {length}, but must be from 4 to the {end - at} bytes left"
            yield Line(depth, at, self.data[at : at + NLA_HDRLEN], problem, note=note, problem=True)
            at += NLA_HDRLEN
            yield from self.plain(depth, at, end)
        else:
            yield from self.spare(depth, at, end)

    def heads(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Offset, length and type of the attributes there, up to the first that cannot be."""
        while end - at >= NLA_HDRLEN:
            length, type_ = self.order.attr.unpack_from(self.data, at)
            if not NLA_HDRLEN <= length <= end - at:
                return
            yield at, length, type_
            at += align4(length)

    def attribute(
        self, depth: int, at: int, length: int, type_: int, declaration: type[View] | None, repeated: bool
    ) -> Iterator[Line]:
        field, name, note = _names(declaration, type_)
        if repeated:
            note += ", comes again: only the last counts"
        start, end = at + NLA_HDRLEN, at + length
        head = self.data[at:start]
        nest = field.nest if field else None
        if nest is not None or (type_ & NLA_F_NESTED and (field is None or field.nested) and self.nest_fits(depth, start, end)):
            yield Line(depth, at, head, name, note=note)
            yield from self.attributes(depth + 1, start, end, nest)
            return
        layout = field.layout if field and field.layout else raw
        if end - start < layout.size:
            problem = f"{name}: {end - start} bytes are too few for {layout.name}, which takes {layout.size}"
            yield Line(depth, at, head, problem, note=note, problem=True)
            yield from self.plain(depth + 1, start, end)
        elif layout.parts:
            yield Line(depth, at, head, name, note=note)
            for part_name, part in layout.parts:
                yield from self.shown(depth + 1, start, start + part.size, part_name, self.value(part, start))
                start += part.size
            yield from self.spare(depth + 1, start, end)
        elif not layout.greedy:
            yield from self.shown(depth, at, start + layout.size, name, self.value(layout, start), note)
            yield from self.spare(depth + 1, start + layout.size, end)
        else:
            content = self.data[start:end]
            value = self.value(layout, start, end) if layout is not raw else f"{len(content)} byte{'s' * (len(content) != 1)}"
            short = end - at <= WIDTH
            yield Line(depth, at, self.data[at:end] if short else head, name, value, note, content=content)
            if not short:
                yield from self.plain(depth + 1, start, end)

    def nest_fits(self, depth: int, start: int, end: int) -> bool:
        """Attributes fill it, so that it may well be the nest it says it is."""
        behind = start
        for at, length, _ in self.heads(start, end):
            behind = min(at + align4(length), end)
        return depth < _DEEPEST and behind == end > start

    def value(self, layout: Layout, start: int, end: int | None = None) -> str:
        data = self.data[start : start + layout.size if end is None else end]
        value = layout.construct(self.order).parse(data)
        if layout.convert is not None:
            value = layout.convert(value)
        if isinstance(value, bytes):
            return value.hex(":")
        if isinstance(value, str):
            return repr(value)  # it may be anything, and goes to a terminal
        said = layout.say(value)
        if not isinstance(value, int):
            return said
        return _number(value) if said == str(int(value)) else f"{said} ({value:{'#06x' if value > 0xFF else 'd'}})"

    def shown(self, depth: int, start: int, end: int, name: str, value: str = "", note: str = "") -> Iterator[Line]:
        """Bytes with a name; those that do not fit on its line go below."""
        yield Line(depth, start, self.data[start : min(start + WIDTH, end)], name, value, note)
        for at in range(start + WIDTH, end, WIDTH):
            yield Line(depth + 1, at, self.data[at : min(at + WIDTH, end)], "")

    def spare(self, depth: int, start: int, end: int) -> Iterator[Line]:
        """Bytes that belong to nothing."""
        if start < end:
            name = "padding" if end - start < 4 and not any(self.data[start:end]) else "stray bytes"
            yield from self.shown(depth, start, end, name)

    def plain(self, depth: int, start: int, end: int) -> Iterator[Line]:
        """Bytes as they are, and as text where they are some."""
        stop = end if self.longest is None else min(end, start + self.longest)
        for at in range(start, stop, WIDTH):
            piece = self.data[at : min(at + WIDTH, stop)]
            yield Line(depth, at, piece, "|" + "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece) + "|")
        if stop < end:
            yield Line(depth, stop, b"", f"... {end - stop} more bytes")


def _names(declaration: type[View] | None, type_: int) -> tuple[Attr | None, str, str]:
    """The field an attribute type stands for, its name, and what the kernel calls it."""
    number = type_ & NLA_TYPE_MASK
    field = declaration.__by_number__.get(number) if declaration else None
    if field is not None:
        return field, field.name, f"{field.kernel_name} {number}"
    return None, f"[{number}]", "unknown" if declaration else ""


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value} ({value:#x})"
