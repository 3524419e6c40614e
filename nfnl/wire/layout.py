"""How one value lies in bytes.

A `Layout` pairs a construct object, which is the definition, with what the code generator needs to be fast: a struct code. A layout
the generator does not know has no code and is read and written through its construct object, so the fast codec is never
wrong by being incomplete.

The names below are types: ``mark: Be32`` is an ``int`` to a type checker and 4 bytes in network order to the codecs.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, cast

from nfnl.wire.header import BIG, ByteOrder

if TYPE_CHECKING:
    import construct

Construct: TypeAlias = "construct.Construct[Any, Any]"


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of one value."""

    #: what documentation calls it: ``be32``, ``bytes``
    name: str
    #: the definition: a construct object for a host of the given byte order
    construct: Callable[[ByteOrder], Construct]
    #: fewest bytes it needs; more may follow and are ignored, as the kernel does (nla_policy minimum lengths)
    size: int
    #: struct codes (without byte order) where the value is plain numbers; "" where only construct knows
    code: str = ""
    #: in the order of the host rather than the network
    host: bool = False
    #: takes all the bytes there are
    greedy: bool = False
    #: made of the plain value(s) on reading: an enum, a NamedTuple
    convert: Callable[..., Any] | None = None
    #: the way back, for building, where the value is not a plain number or bytes itself; TypeError for what it does not take
    plain: Callable[[Any], Any] | None = None
    #: for a record of several values: their names and layouts
    parts: tuple[tuple[str, Layout], ...] = ()
    #: the value in words, for people; None where the value says it itself
    words: Callable[[Any], str] | None = None

    def say(self, value: Any) -> str:
        """A value of this layout in words, for people. A record says itself (``__str__``)."""
        if self.words is not None:
            return self.words(value)
        if isinstance(value, enum.IntEnum | enum.IntFlag):
            return value.name or str(int(value))
        return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)

    def prefix(self, order: ByteOrder) -> str:
        """The struct prefix for this layout on a host of that order."""
        return (order if self.host else BIG).prefix


def _library() -> ModuleType:
    # Importing construct takes longer than importing nfnl, and what is fast has no need of it.
    import construct

    return construct


def _fixed(make: Callable[[ModuleType], Construct]) -> Callable[[ByteOrder], Construct]:
    made = cache(lambda: make(_library()))
    return lambda order: made()


def _hosted(name: str) -> Callable[[ByteOrder], Construct]:
    return lambda order: cast("Construct", getattr(_library(), f"{name}{'b' if order is BIG else 'l'}"))


u8 = Layout("u8", _fixed(lambda c: c.Int8ub), 1, "B")
be16 = Layout("be16", _fixed(lambda c: c.Int16ub), 2, "H")
be32 = Layout("be32", _fixed(lambda c: c.Int32ub), 4, "I")
be64 = Layout("be64", _fixed(lambda c: c.Int64ub), 8, "Q")
sbe32 = Layout("signed be32", _fixed(lambda c: c.Int32sb), 4, "i")
u16 = Layout("u16", _hosted("Int16u"), 2, "H", host=True)
u32 = Layout("u32", _hosted("Int32u"), 4, "I", host=True)
u64 = Layout("u64", _hosted("Int64u"), 8, "Q", host=True)
raw = Layout("bytes", _fixed(lambda c: c.GreedyBytes), 0, greedy=True)


def _text(c: ModuleType) -> Construct:
    """Text up to the first NUL, or to the end where there is none, as the kernel's ``nla_strscpy`` takes it."""

    def encode(value: str, context: Any) -> bytes:
        data = value.encode("utf-8", "surrogateescape")
        if b"\0" in data:
            raise c.StringError("a NUL inside a NUL-terminated text")
        return data + b"\0"

    def decode(data: bytes, context: Any) -> str:
        return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")

    return cast("Construct", c.ExprAdapter(c.GreedyBytes, decode, encode))


cstring = Layout("text", _fixed(_text), 0, greedy=True)


def _plain_ipv4(value: Any) -> int:
    if not isinstance(value, IPv4Address):
        raise TypeError("it is not an IPv4Address")
    return int(value)


def _plain_ipv6(value: Any) -> bytes:
    if not isinstance(value, IPv6Address):
        raise TypeError("it is not an IPv6Address")
    return value.packed


ipv4 = Layout("ipv4", _fixed(lambda c: c.Int32ub), 4, "I", convert=IPv4Address, plain=_plain_ipv4)
ipv6 = Layout("ipv6", _fixed(lambda c: c.Bytes(16)), 16, "16s", convert=IPv6Address, plain=_plain_ipv6)


def octets(count: int) -> Layout:
    """Exactly ``count`` bytes."""
    return Layout(f"{count} bytes", _fixed(lambda c: c.Bytes(count)), count, f"{count}s")


def as_enum(layout: Layout, kind: type[enum.IntEnum] | type[enum.IntFlag]) -> Layout:
    """``layout`` read as members of ``kind``; a number the enum does not know stays an int."""
    if issubclass(kind, enum.IntFlag):
        convert: Callable[..., Any] = kind  # unknown bits are kept
    else:
        known = {int(member): member for member in kind}

        def convert(value: int) -> int:
            return known.get(value, value)

    return Layout(f"{layout.name} {kind.__name__}", layout.construct, layout.size, layout.code, layout.host, convert=convert)


def in_words(layout: Layout, words: Callable[[Any], str]) -> Layout:
    """``layout`` whose values stay plain to programs, and are said in words to people."""
    return replace(layout, words=words)


def names_of(kind: type[enum.IntEnum]) -> Callable[[int], str]:
    """Words for `in_words`: the members of an enum by name, other numbers as they are."""
    names = {int(member): member.name for member in kind}
    return lambda value: names.get(value, str(value))


U8 = Annotated[int, u8]
Be16 = Annotated[int, be16]
Be32 = Annotated[int, be32]
Be64 = Annotated[int, be64]
SignedBe32 = Annotated[int, sbe32]
U16 = Annotated[int, u16]
U32 = Annotated[int, u32]
U64 = Annotated[int, u64]
Raw = Annotated[bytes, raw]
CString = Annotated[str, cstring]
Octets8 = Annotated[bytes, octets(8)]
IPv4 = Annotated[IPv4Address, ipv4]
IPv6 = Annotated[IPv6Address, ipv6]


@cache
def layout_of(hint: Any) -> Layout | None:
    """The layout a type annotation stands for: ``Annotated[..., layout]``, or a NamedTuple whose fields all have one."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Layout):
            return extra
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _record(cast("type[NamedTuple]", hint))
    return None


def _record(kind: type[NamedTuple]) -> Layout:
    hints = typing.get_type_hints(kind, include_extras=True)
    parts: list[tuple[str, Layout]] = []
    for name in kind._fields:
        part = layout_of(hints[name])
        if part is None or part.greedy or part.host or part.plain or not part.code:
            raise TypeError(f"{kind.__name__}.{name}: a record is made of fixed layouts in network order")
        parts.append((name, part))

    def subcons(c: ModuleType) -> Construct:
        return cast("Construct", c.Struct(*(c.Renamed(part.construct(BIG), newname=name) for name, part in parts)))

    converters = [(i, part.convert) for i, (_, part) in enumerate(parts) if part.convert is not None]
    make = kind._make  # type: ignore[attr-defined,unused-ignore]

    def convert(*values: Any) -> Any:
        if converters:
            fields = list(values)
            for i, function in converters:
                fields[i] = function(fields[i])
            return make(fields)
        return make(values)

    return Layout(
        kind.__name__,
        _fixed(subcons),
        sum(part.size for _, part in parts),
        "".join(part.code for _, part in parts),
        convert=convert,
        parts=tuple(parts),
    )
