"""The reference codec: the declaration said in construct, slow and readable.

It exists to be right, not fast: the compiled codec is compared with it on every generated, damaged and random message. The two
share the declarations and nothing else. Attributes are read by one construct of ours, since construct's ``GreedyRange`` takes an
error for the end of the data and would lose attributes in silence.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import construct

from nfnl.errors import DecodeError, EncodeError
from nfnl.wire.declare import Attr, AttrSet, Message, View
from nfnl.wire.header import BIG, NATIVE, ByteOrder

NLMSGHDR = {
    order: construct.Struct(
        "nlmsg_len" / u32,
        "nlmsg_type" / u16,
        "nlmsg_flags" / u16,
        "nlmsg_seq" / u32,
        "nlmsg_pid" / u32,
    )
    for order, u16, u32 in (
        ("little", construct.Int16ul, construct.Int32ul),
        ("big", construct.Int16ub, construct.Int32ub),
    )
}
NFGENMSG = construct.Struct("nfgen_family" / construct.Int8ub, "nfgen_version" / construct.Int8ub, "res_id" / construct.Int16ub)
NLATTR = {
    "little": construct.Struct("nla_len" / construct.Int16ul, "nla_type" / construct.Int16ul),
    "big": construct.Struct("nla_len" / construct.Int16ub, "nla_type" / construct.Int16ub),
}


@dataclass(frozen=True)
class Residue:
    """One attribute as it lay on the wire, less what its field says: enough to put the same bytes together again."""

    type: int  #: the type word with its flag bits
    field: str | None  #: the field whose value this attribute holds, or None (unknown, or repeated later)
    rest: bytes | None  #: what the field's value does not tell: all bytes where field is None, those of text as they came
    padding: bytes
    nest: tuple[Residue, ...] | None = None
    nest_tail: bytes = b""  #: up to 3 stray bytes at the end of the nest


@dataclass(frozen=True)
class Decoded:
    """A message taken apart."""

    header: dict[str, int]
    fields: dict[str, Any]
    residue: tuple[Residue, ...]
    attributes_tail: bytes  #: up to 3 stray bytes inside the message behind its last attribute
    tail: bytes  #: padding and stray bytes behind the message


class _AttributeTable(construct.Construct):  # type: ignore[type-arg]
    """All attributes up to the end: a list of containers with offset, type, value and padding, and the stray bytes at the end."""

    def __init__(self, order: ByteOrder) -> None:
        super().__init__()
        self.head = NLATTR[order.name]

    def _parse(self, stream: Any, context: Any, path: Any) -> Any:
        data = stream.read()
        found: list[Any] = []
        offset = 0
        while len(data) - offset >= 4:
            head = self.head.parse(data[offset : offset + 4])
            if not 4 <= head.nla_len <= len(data) - offset:
                bad = construct.Container(offset=offset, type=head.nla_type, length=head.nla_len, left=len(data) - offset)
                return construct.Container(found=found, tail=b"", bad=bad)
            end = offset + head.nla_len
            after = min(len(data), (end + 3) // 4 * 4)
            found.append(
                construct.Container(offset=offset, type=head.nla_type, value=data[offset + 4 : end], padding=data[end:after])
            )
            offset = after
        return construct.Container(found=found, tail=data[offset:], bad=None)

    def _build(self, obj: Any, stream: Any, context: Any, path: Any) -> Any:
        for item in obj.found:
            stream.write(self.head.build({"nla_len": 4 + len(item.value), "nla_type": item.type}))
            stream.write(item.value + item.padding)
        stream.write(obj.tail)
        return obj


def decode(cls: type[Message], data: bytes, order: ByteOrder = NATIVE, base: int = 0) -> Decoded:
    """Take apart one message (with what stands behind it). Raises `DecodeError` as the compiled codec does."""
    header = dict(NLMSGHDR[order.name].parse(data[:16]))
    header.pop("_io", None)
    length = header["nlmsg_len"]
    if length < 20:
        raise DecodeError(f"{length} bytes hold no nfgenmsg", path=cls.__name__, offset=base + 16)
    generic = dict(NFGENMSG.parse(data[16:20]))
    generic.pop("_io", None)
    header |= generic
    fields, residue, tail = _decode_set(cls, data[20:length], order, cls.__name__, base + 20)
    return Decoded(header, fields, residue, tail, data[length:])


def _decode_set(
    cls: type[View], data: bytes, order: ByteOrder, path: str, base: int
) -> tuple[dict[str, Any], tuple[Residue, ...], bytes]:
    table = _AttributeTable(order).parse(data)
    by_number = {a.number: a for a in cls.__attrs__}
    last: dict[str, int] = {}
    parsed: list[tuple[Any, Residue]] = []
    for i, item in enumerate(table.found):
        field = by_number.get(item.type & 0x3FFF)
        if field is None:
            parsed.append((None, Residue(item.type, None, item.value, item.padding)))
            continue
        value, residue = _decode_value(field, item, order, f"{path}.{field.name}", base + item.offset)
        last[field.name] = i
        parsed.append((value, residue))
    if table.bad is not None:
        field = by_number.get(table.bad.type & 0x3FFF)
        where = f"{path}.{field.name}" if field else f"{path}.[{table.bad.type & 0x3FFF}]"
        raise DecodeError(f"nla_len is {table.bad.length}", path=where, offset=base + table.bad.offset)
    fields: dict[str, Any] = {}
    for field in cls.__attrs__:
        if field.name in last:
            fields[field.name] = parsed[last[field.name]][0]
        elif field.required:
            raise DecodeError("missing", path=f"{path}.{field.name}", offset=base)
        else:
            fields[field.name] = field.default
    kept = tuple(
        residue
        if residue.field is None or last[residue.field] == i
        else Residue(residue.type, None, table.found[i].value, residue.padding)
        for i, (_, residue) in enumerate(parsed)
    )
    return fields, kept, table.tail


def _decode_value(field: Attr, item: Any, order: ByteOrder, path: str, base: int) -> tuple[Any, Residue]:
    if field.nest is not None:
        inner, residue, tail = _decode_set(field.nest, item.value, order, path, base + 4)
        return inner, Residue(item.type, field.name, b"", item.padding, residue, tail)
    layout = field.layout
    assert layout is not None
    if len(item.value) < layout.size:
        raise DecodeError("too short", path=path, offset=base)
    stream = io.BytesIO(item.value)
    value = layout.construct(order).parse_stream(stream)
    # A text does not tell whether a NUL ended it, nor what followed.
    rest = item.value if layout.name == "text" else stream.read()
    return plain(value, layout.convert, bool(layout.parts)), Residue(item.type, field.name, rest, item.padding)


def plain(value: Any, convert: Any, record: bool) -> Any:
    """What construct parsed, as the value a field has."""
    if record:
        return convert(*(value[name] for name in value if not name.startswith("_")))
    return convert(value) if convert else value


def encode(cls: type[Message], decoded: Decoded, order: ByteOrder = NATIVE) -> bytes:
    """Put the bytes of a message together again from its fields and residue. Raises `EncodeError`."""
    body = _encode_set(cls, decoded.fields, decoded.residue, decoded.attributes_tail, order, cls.__name__)
    header = decoded.header | {"nlmsg_len": 20 + len(body)}
    try:
        head: bytes = NLMSGHDR[order.name].build(header) + NFGENMSG.build(header)
    except construct.ConstructError as error:
        raise EncodeError(str(error), path=cls.__name__) from None
    return head + body + decoded.tail


def build(cls: type[Message], header: Mapping[str, int], fields: Mapping[str, Any], order: ByteOrder = NATIVE) -> bytes:
    """The bytes of a new message: present fields in the order of declaration. What ``cls(**header, **fields)`` gives."""
    full: dict[str, int] = {"nlmsg_type": cls.__type__} | dict.fromkeys(("nlmsg_flags", "nlmsg_seq", "nlmsg_pid"), 0)
    full |= dict.fromkeys(("nfgen_family", "nfgen_version", "res_id"), 0) | dict(header)
    return encode(cls, Decoded(full, _as_fields(cls, fields), _fresh(cls, fields, order), b"", b""), order)


def _as_fields(cls: type[View], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values of fields with nests as plain dicts, the form `decode` gives."""
    out = {}
    for a in cls.__attrs__:
        value = fields.get(a.name)
        out[a.name] = _as_fields(a.nest, value.fields()) if a.nest is not None and isinstance(value, AttrSet) else value
    return out


def _fresh(cls: type[View], fields: Mapping[str, Any], order: ByteOrder) -> tuple[Residue, ...]:
    """The residue of a message nobody has received: declared order, flag bits as declared, zero padding."""
    out: list[Residue] = []
    present = [a for a in cls.__attrs__ if fields.get(a.name) is not None]
    for a in present:
        nest = None
        if a.nest is not None:
            value = fields[a.name]
            nest = _fresh(a.nest, value.fields() if isinstance(value, AttrSet) else value, order)
        length = len(_encode_value(a, fields[a.name], Residue(0, a.name, None, b"", nest), order, a.name))
        padding = b"" if a is present[-1] and not a.padded else b"\0" * (-length % 4)
        out.append(Residue(a.number | (0x8000 if a.nested else 0), a.name, None, padding, nest))
    return tuple(out)


def _encode_set(
    cls: type[View], fields: Mapping[str, Any], residue: tuple[Residue, ...], tail: bytes, order: ByteOrder, path: str
) -> bytes:
    by_name = {a.name: a for a in cls.__attrs__}
    found = []
    for item in residue:
        value = item.rest or b""
        if item.field is not None:
            value = _encode_value(by_name[item.field], fields[item.field], item, order, f"{path}.{item.field}")
        found.append(construct.Container(type=item.type, value=value, padding=item.padding))
    built: bytes = _AttributeTable(order).build(construct.Container(found=found, tail=tail))
    return built


def _encode_value(field: Attr, value: Any, residue: Residue, order: ByteOrder, path: str) -> bytes:
    if field.nest is not None:
        assert residue.nest is not None
        inner = value.fields() if isinstance(value, AttrSet) else value
        return _encode_set(field.nest, inner, residue.nest, residue.nest_tail, order, path)
    layout = field.layout
    assert layout is not None
    # A record goes in by name; the order of a NamedTuple is that of its layout.
    try:
        ready = dict(zip((name for name, _ in layout.parts), value, strict=True)) if layout.parts else value
        ready = layout.plain(ready) if layout.plain else ready
        data: bytes = layout.construct(BIG if not layout.host else order).build(ready)
    except (construct.ConstructError, TypeError) as error:
        raise EncodeError(str(error), path=path) from None
    if residue.rest is None:
        return data
    return residue.rest if layout.name == "text" else data + residue.rest
