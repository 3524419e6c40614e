"""The codecs, on generated, damaged and random bytes: never wrong, never hanging, never losing anything in silence."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import nfnl
from nfnl.errors import DecodeError
from nfnl.testing.strategies import datagrams, messages
from nfnl.wire import compiled, reference
from nfnl.wire.codec import decode, encode
from nfnl.wire.compiled import Codec
from nfnl.wire.control import Generic, Malformed
from nfnl.wire.declare import Direction, Message, View, registry
from nfnl.wire.header import BIG, LITTLE, NATIVE, ByteOrder, walk

KINDS = sorted(registry.values(), key=lambda cls: cls.__type__)
orders = pytest.mark.parametrize("order", [LITTLE, BIG], ids=["little", "big"])


def plain(value: Any) -> Any:
    """Field values with nests as dicts, the form of the reference codec."""
    return {name: plain(inner) for name, inner in value.fields().items()} if isinstance(value, View) else value


def residue(view: View) -> list[tuple[int, bytes]]:
    return [(raw.type, raw.data) for raw in view.attributes]


def reference_residue(
    items: tuple[reference.Residue, ...], cls: type[View], data: bytes, order: ByteOrder
) -> list[tuple[int, bytes]]:
    """What `View.attributes` must give, read off the bytes by the reference codec's construct."""
    table = reference._AttributeTable(order).parse(data)
    assert [item.type for item in table.found] == [item.type for item in items]
    return [(item.type, item.value) for item in table.found]


def agree(cls: type[Message], data: bytes, order: ByteOrder) -> None:
    """Both codecs say the same of one message: fields, residue, bytes; or the same complaint at the same place."""
    fresh = Codec(cls, order)
    outcomes: list[Any] = []
    for attempt in (fresh.decode, fresh.decode, compiled.codec(cls, order).decode):  # generic, by shape, with a history
        try:
            outcomes.append(attempt(data))
        except DecodeError as error:
            outcomes.append((error.path, error.offset))
    try:
        expected = reference.decode(cls, data, order)
    except DecodeError as error:
        complaints = [(error.path, error.offset)] * 3
    else:
        complaints = []
    if complaints:
        assert outcomes == complaints
        return
    for view in outcomes:
        assert isinstance(view, cls), view
        assert plain(view) == expected.fields
        assert residue(view) == reference_residue(expected.residue, cls, data[20 : view.nlmsg_len], order)
        assert bytes(view) == data
        assert reference.encode(cls, expected, order) == data
        for name in ("nlmsg_type", "nlmsg_flags", "nlmsg_seq", "nlmsg_pid", "nfgen_family", "nfgen_version", "res_id"):
            assert getattr(view, name) == expected.header[name]


@orders
@given(data=st.data())
def test_reference_and_compiled_agree_on_what_we_build(order: ByteOrder, data: st.DataObject) -> None:
    message = data.draw(messages(order=order))
    header = {
        name: getattr(message, name)
        for name in ("nlmsg_flags", "nlmsg_seq", "nlmsg_pid", "nfgen_family", "nfgen_version", "res_id")
    }
    present = {name: value for name, value in message.fields().items() if name in message.present()}
    assert reference.build(type(message), header, present, order) == bytes(message)
    agree(type(message), bytes(message), order)


@orders
@given(data=st.data())
def test_reference_and_compiled_agree_on_foreign_and_damaged_bytes(order: ByteOrder, data: st.DataObject) -> None:
    datagram = data.draw(datagrams(damaged=data.draw(st.booleans()), order=order))
    try:
        parts = list(walk(datagram, order))
    except DecodeError:
        parts = []
    for part in parts:
        for cls in KINDS:
            if part.type == cls.__type__ and part.length >= 20:
                agree(cls, part.data, order)


@given(st.data())
def test_a_remembered_shape_is_not_fooled(data: st.DataObject) -> None:
    """Learn a shape from one message, then damage bytes of it: the answer is the reference's, whatever was remembered."""
    message = data.draw(messages())
    cls, original = type(message), bytes(message)
    learned = Codec(cls, NATIVE)
    learned.decode(original)
    headers = [
        i for wire in compiled.wire_attributes(original, 20, len(original), NATIVE) for i in range(wire.offset, wire.offset + 4)
    ]
    places = st.sampled_from([0, 1, *headers]) | st.integers(0, len(original) - 1)
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(places)
        damaged[at] = data.draw(st.sampled_from([0, 1, 3, 4, damaged[at] ^ 1, (damaged[at] + 1) & 255, (damaged[at] + 4) & 255]))
    if NATIVE.u32.unpack_from(damaged, 0)[0] > len(damaged) or damaged[4:6] != original[4:6]:
        return  # broken framing, or another kind of message: not this codec's to see
    try:
        expected = reference.decode(cls, bytes(damaged)).fields
    except DecodeError as error:
        complaint = re.escape(error.path)
    else:
        assert plain(learned.decode(bytes(damaged))) == expected
        return
    with pytest.raises(DecodeError, match=complaint):
        learned.decode(bytes(damaged))


@given(st.binary(min_size=0, max_size=80), st.sampled_from(KINDS))
def test_reference_and_compiled_agree_on_random_attributes(body: bytes, cls: type[Message]) -> None:
    agree(cls, NATIVE.header.pack(20 + len(body), cls.__type__, 0, 0, 0) + bytes(4) + body, NATIVE)


@given(datagrams(damaged=True))
def test_any_datagram_comes_back_to_equal_bytes_or_is_broken_framing(datagram: bytes) -> None:
    try:
        found = decode(datagram)
    except DecodeError as error:
        with pytest.raises(DecodeError, match=re.escape(str(error))):
            list(walk(datagram))
        return
    assert encode(found) == datagram
    assert all(isinstance(m, Message | Generic | Malformed | nfnl.Ack) or m.nlmsg_type < 16 for m in found)


@given(messages())
def test_equality_hash_repr_and_pickle_go_by_value(message: Message) -> None:
    import copy
    import pickle

    twin = compiled.revive(type(message), bytes(bytearray(bytes(message))), NATIVE.name)
    assert twin == message
    assert hash(twin) == hash(message)
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) is message
    assert type(message).__name__ in repr(message)


@given(messages().filter(lambda message: bool(message.__attrs__)), st.data())
def test_replace_changes_what_it_is_told_and_nothing_else(message: Message, data: st.DataObject) -> None:
    other = data.draw(messages(kinds=[type(message)]))
    name = data.draw(st.sampled_from([a.name for a in message.__attrs__]))
    value = getattr(other, name)
    required = {a.name for a in message.__attrs__ if a.required}
    assume(value is not None or name not in required)
    changed = message.replace(**{name: value})
    assert getattr(changed, name) == value
    for a in message.__attrs__:
        if a.name != name:
            assert getattr(changed, a.name) == getattr(message, a.name)
    assert changed.replace(**{name: getattr(message, name)}) == message


@given(datagrams())
def test_replace_keeps_unknown_attributes_and_order(datagram: bytes) -> None:
    for message in decode(datagram):
        if not isinstance(message, Message):
            continue
        same = message.replace(nlmsg_seq=message.nlmsg_seq)
        assert same == message
        assert same.attributes == message.attributes


@given(messages(kinds=[nfnl.Packet]), st.integers(1, 40))
def test_a_cut_message_is_never_taken_for_whole(message: Message, cut: int) -> None:
    """What is missing at the end shows, in the framing or in the attributes."""
    data = bytes(message)[:-cut]
    with pytest.raises(DecodeError):
        decode(data, direction=Direction.FROM_KERNEL, strict=True)


@example(b"")
@example(b"\x10\0\0\0")
@given(st.binary(max_size=64))
def test_random_bytes_raise_nothing_but_our_errors(data: bytes) -> None:
    try:
        found = decode(data)
    except DecodeError:
        return
    assert encode(found) == data
