"""Remembered shapes: what a matcher may take for a message it has seen, and what it may not."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

import nfnl
from nfnl.errors import EncodeError
from nfnl.subsys.queue import Packet, PacketHeader
from nfnl.wire.compiled import Codec
from nfnl.wire.declare import AttrSet, View, attr
from nfnl.wire.header import LITTLE
from nfnl.wire.layout import Be32, CString


def packet(*attributes: tuple[int, int, bytes]) -> bytes:
    """A packet message with attributes (nla_len, nla_type, what follows), on a little-endian host."""
    body = bytes((2, 0, 0, 0)) + b"".join(struct.pack("<HH", length, type_) + data for length, type_, data in attributes)
    return struct.pack("<IHHII", 16 + len(body), Packet.__type__, 0, 0, 0) + body


HEADER = (11, 1, struct.pack(">IHBx", 1, 0x0800, 3))


def test_the_length_of_the_last_attribute_never_carries_into_its_type() -> None:
    """65544 bytes from the last header on are not an attribute of type 10 and that length; they may well be one of 11 and 8."""
    codec = Codec(Packet, LITTLE)
    seen = codec.decode(packet(HEADER, (8, 10, b"ABCD")))
    assert seen.payload == b"ABCD"
    other = packet(HEADER, (8, 11, struct.pack("<HH", 4, 100)), (65532, 99, bytes(65528)), (4, 98, b""))
    assert len(other) - 32 == 65544
    assert codec.match(other) is None
    message = codec.decode(other)
    assert message.payload is None
    assert {a.number for a in message.unknown} == {99, 98}


def test_shapes_seen_before_are_found_again_whatever_came_between() -> None:
    codec = Codec(Packet, LITTLE)
    plain, marked = packet(HEADER, (8, 10, b"ABCD")), packet(HEADER, (8, 3, b"\0\0\0\7"), (8, 10, b"ABCD"))
    codec.decode(plain)
    codec.decode(marked)
    assert codec.match(plain) is None
    shape = codec.remembered(plain)
    assert shape is not None
    assert codec.match(plain) is shape
    assert codec.decode(marked).mark == 7
    assert codec.remembered(packet(HEADER)) is None


def test_an_event_makes_its_message_once() -> None:
    message = Packet(header=PacketHeader(1, 0x0800, 3), payload=b"x")
    event = nfnl.PacketQueued()
    event._data, event._shape = bytes(message), message._shape
    assert event.message == message
    assert event.message is event.message


class Shared(View):
    """Attributes that several sets have."""

    __slots__ = ()

    a: Be32 | None = attr(1, "A", default=None)
    b: Be32 | None = attr(2, "B", default=None)
    c: CString | None = attr(3, "C", default=None)


class Same(Shared, AttrSet):
    __slots__ = ()


class Other(Shared, AttrSet, wire_order="c a"):
    __slots__ = ()

    b: Be32 = attr(2, "B", doc="required here")
    d: Be32 | None = attr(4, "D", default=None)


def order_of(view: View) -> list[int]:
    return [attribute.number for attribute in view.attributes]


def test_attributes_are_inherited_and_each_set_has_its_own_order() -> None:
    assert order_of(Same(c="x", b=2, a=1)) == [1, 2, 3]
    assert order_of(Other(d=4, c="x", b=2, a=1)) == [3, 1, 2, 4]
    assert [field.name for field in Shared.__attrs__] == ["a", "b", "c"]
    with pytest.raises(TypeError, match="Other\\(\\) needs b="):
        Other(a=1)  # type: ignore[call-arg]
    assert Same(a=1).b is None
    assert Same(a=1) != Other(a=1, b=2)


def test_attributes_in_the_order_given() -> None:
    given = Other.in_order(b=2, d=None, c="x", a=1)
    assert order_of(given) == [2, 3, 1]
    assert given == Other(a=1, b=2, c="x")
    with pytest.raises(TypeError, match="has no field e"):
        Other.in_order(b=2, e=1)


def test_an_order_of_what_is_not_there_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="wire_order names e, which is no attribute"):

        class Wrong(Shared, AttrSet, wire_order="a e"):
            __slots__ = ()


def test_a_number_used_twice_is_a_mistake_across_inheritance_too() -> None:
    with pytest.raises(TypeError, match="used twice"):

        class Wrong(Shared, AttrSet):
            __slots__ = ()

            e: Be32 | None = attr(1, "E", default=None)


def test_text_is_read_to_its_nul_and_has_none_inside() -> None:
    assert Same(c="ftp").attributes[0].data == b"ftp\0"
    with pytest.raises(EncodeError, match=r"Same\.c: .*a NUL inside"):
        Same(c="f\0tp")
    with pytest.raises(EncodeError, match=r"Same\.c"):
        Same(c=5)  # type: ignore[arg-type]


def test_nothing_but_what_needs_it_imports_construct() -> None:
    """It takes longer to import than nfnl; flows and packets can be decoded and built without."""
    script = (
        "import sys, nfnl; from nfnl.subsys.conntrack import *; "
        "f = NewFlow(original=Tuple(proto=TupleProto(num=6)), help=Help(name='ftp'), status=Status.ASSURED); "
        "(again,) = nfnl.decode(bytes(f.replace(nlmsg_flags=1))); "
        "assert again.helper == 'ftp' and again.protocol == 6, again; "
        "sys.exit('construct' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
