"""Hypothesis strategies for netlink messages: ours to test with, and yours.

    from hypothesis import given
    from nfnl.testing.strategies import datagrams, messages

    @given(messages())
    def test_my_codec_reads_what_nfnl_builds(message): ...

    @given(datagrams(damaged=True))
    def test_my_codec_survives(datagram): ...

Made from the declarations, so a new subsystem has strategies the moment it is declared.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

import nfnl.subsys.expect
import nfnl.subsys.queue  # noqa: F401 -- declares the messages drawn by default
from nfnl.wire.compiled import build
from nfnl.wire.constants import NLA_F_NESTED, NLA_F_NET_BYTEORDER, NlmsgFlag, align4
from nfnl.wire.declare import HEADER_FIELDS, Direction, Message, View, registry
from nfnl.wire.header import NATIVE, ByteOrder
from nfnl.wire.layout import Layout

__all__ = ["attributes", "datagrams", "messages", "values"]

_BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}
#: Longest payload drawn, in bytes. Length limits have tests of their own.
MAX_PAYLOAD = 70


def _declared(kinds: Sequence[type[Message]] | None) -> list[type[Message]]:
    return list(kinds) if kinds is not None else sorted(registry.values(), key=lambda cls: cls.__type__)


def values(layout: Layout) -> SearchStrategy[Any]:
    """Values that a layout can hold, the edges often among them."""
    if layout.parts:
        return st.tuples(*(values(part) for _, part in layout.parts)).map(lambda fields: layout.convert(*fields))  # type: ignore[misc]
    if layout.code in _BITS:
        top = (1 << _BITS[layout.code]) - 1
        numbers = st.integers(0, top) | st.sampled_from([0, 1, top, top >> 1])
        if isinstance(layout.convert, type) and issubclass(layout.convert, enum.IntFlag):
            return numbers.map(layout.convert)
        return numbers.map(layout.convert) if layout.plain and layout.convert else numbers
    if layout.code == "i":
        return st.integers(-(1 << 31), (1 << 31) - 1)
    if layout.name == "text":
        return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=MAX_PAYLOAD // 4)
    if layout.greedy:
        return st.binary(max_size=MAX_PAYLOAD)
    octets = st.binary(min_size=layout.size, max_size=layout.size)
    return octets.map(layout.convert) if layout.plain and layout.convert else octets


def attributes(cls: type[View], *, order: ByteOrder = NATIVE) -> SearchStrategy[dict[str, Any]]:
    """Field values for ``cls(**values)``: the required ones always, the others sometimes."""
    required: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for a in cls.__attrs__:
        if a.nest is not None:
            nest = a.nest
            inner: SearchStrategy[Any] = attributes(nest, order=order).map(lambda v, nest=nest: build(nest, v, order))  # type: ignore[misc]
        else:
            assert a.layout is not None
            inner = values(a.layout)
        (required if a.required else optional)[a.name] = inner
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def messages(draw: DrawFn, *, kinds: Sequence[type[Message]] | None = None, order: ByteOrder = NATIVE) -> Message:
    """Well-formed messages, as nfnl would build them; of all declared kinds unless told which."""
    cls = draw(st.sampled_from(_declared(kinds)))
    header = {name: draw(st.integers(0, (1 << bits) - 1)) for name, bits in HEADER_FIELDS.items() if name != "nlmsg_flags"}
    request = NlmsgFlag.REQUEST if cls.__direction__ is Direction.TO_KERNEL else 0
    header["nlmsg_flags"] = draw(st.sampled_from([0, NlmsgFlag.ACK, NlmsgFlag.MULTI, 0xFFFE])) & ~1 | request
    return build(cls, {**header, **draw(attributes(cls, order=order))}, order)


def _lie(draw: DrawFn, length: int) -> int:
    """A length field that does not tell the truth."""
    lies = [0, 1, 2, 3, 3, max(0, length - 1), length + 1, length + 4, 0xFFFF, length ^ 0x100]
    return draw(st.sampled_from(lies) | st.sampled_from(lies) | st.integers(0, 0xFFFF))


@st.composite
def _attribute_bytes(draw: DrawFn, cls: type[View], order: ByteOrder, damaged: bool, depth: int = 0) -> bytes:
    """The attributes of ``cls`` as some other encoder might lay them out: any order, repeats, unknown ones, odd padding."""
    out = bytearray()
    padding = b""
    numbers = [a.number for a in cls.__attrs__ if a.required] + draw(
        st.lists(st.sampled_from([a.number for a in cls.__attrs__] or [0]) | st.integers(0, 0x3FFF), max_size=5)
    )
    for number in draw(st.permutations(numbers)):
        a = cls.__by_number__.get(number)
        if a is None or draw(st.integers(0, 9)) == 0:
            data = draw(st.binary(max_size=12))
            if not damaged and a is not None:
                continue
        elif a.nest is not None:
            data = draw(_attribute_bytes(a.nest, order, damaged, depth + 1)) if depth < 3 else b""
        else:
            single = build_attribute(a.layout, draw(values(a.layout)), order)  # type: ignore[arg-type]
            data = single + draw(st.binary(max_size=3)) if not a.layout.greedy else single  # type: ignore[union-attr]
        flags = draw(st.sampled_from([0, NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLA_F_NESTED | NLA_F_NET_BYTEORDER]))
        if damaged and data and draw(st.integers(0, 5)) == 0:
            data = data[:-1]
        length = 4 + len(data)
        if damaged and draw(st.integers(0, 3)) == 0:
            length = _lie(draw, length)
        padding = draw(st.binary(min_size=3, max_size=3))[: -len(data) % 4]
        out += order.attr.pack(length, number | flags) + data + padding
    if damaged:
        return bytes(out[: len(out) - draw(st.integers(0, 3))])
    if draw(st.booleans()):  # the last attribute needs no padding
        return bytes(out[: len(out) - len(padding)])
    return bytes(out)


def build_attribute(layout: Layout, value: Any, order: ByteOrder) -> bytes:
    """The bytes of one value, by its construct definition."""
    ready = dict(zip((name for name, _ in layout.parts), value, strict=True)) if layout.parts else value
    ready = layout.plain(ready) if layout.plain else ready
    data: bytes = layout.construct(order).build(ready)
    return data


@st.composite
def datagrams(
    draw: DrawFn, *, kinds: Sequence[type[Message]] | None = None, damaged: bool = False, order: ByteOrder = NATIVE
) -> bytes:
    """Datagrams of one to three messages, laid out as some other encoder might.

    With ``damaged``, lengths sometimes lie (0, 1 to 3, one less, past the end), ends are cut off, attributes are too short for
    their layout, and now and then the whole is random bytes.
    """
    if damaged and draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=100))
    out = bytearray()
    for _ in range(draw(st.integers(1, 3))):
        cls = draw(st.sampled_from(_declared(kinds)))
        body = bytes(draw(st.lists(st.integers(0, 255), min_size=4, max_size=4)))
        body += draw(_attribute_bytes(cls, order, damaged))
        length = 16 + len(body)
        if damaged and draw(st.integers(0, 15)) == 0:
            length = draw(st.sampled_from([0, 15, 16, 17, 19, length - 1, length + 1, length + 4, 0xFFFFFFFF]))
        request = cls.__direction__ is Direction.TO_KERNEL
        out += bytes(align4(len(out)) - len(out))  # padding between messages
        out += order.header.pack(length, cls.__type__, int(request), draw(st.integers(0, 0xFFFFFFFF)), 0) + body
    if damaged:
        out = out[: len(out) - draw(st.integers(0, 20))]
    return bytes(out)
