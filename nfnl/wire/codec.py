"""The front door of the pure codec: any datagram to messages and back to equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfnl.errors import DecodeError
from nfnl.wire.compiled import BODY, codec, wire_attributes
from nfnl.wire.constants import NLA_HDRLEN, NLA_TYPE_MASK, NlmsgFlag
from nfnl.wire.control import Generic, Malformed, control
from nfnl.wire.declare import Direction, Message, View, registry
from nfnl.wire.header import NATIVE, ByteOrder, NetlinkMessage, Part, walk

_REQUEST = int(NlmsgFlag.REQUEST)


def decode(
    datagram: bytes, *, direction: Direction | None = None, strict: bool = False, order: ByteOrder = NATIVE
) -> list[NetlinkMessage]:
    """The messages of one datagram.

    Each is an instance of its declaration in `nfnl.subsys`, an `Ack`, `Done` or `Control` of netlink itself, `Generic` where nfnl
    does not know the type, or `Malformed` where a declared message has attributes that cannot be (with ``strict``, that raises).
    ``direction`` says who sent it; by default NLM_F_REQUEST tells.

    Raises `DecodeError` for broken framing: no header, or an nlmsg_len that cannot be true. Nothing else raises, and
    ``encode(decode(d)) == d`` for every d that does not.
    """
    return list(iter_decode(datagram, direction=direction, strict=strict, order=order))


def iter_decode(
    datagram: bytes, *, direction: Direction | None = None, strict: bool = False, order: ByteOrder = NATIVE
) -> Iterator[NetlinkMessage]:
    """Like `decode`, one at a time: the messages before broken framing come out before it raises."""
    for part in walk(datagram, order):
        try:
            yield decode_part(part, direction, order)
        except DecodeError as error:
            if strict:
                raise
            yield Malformed(part.data, order, error)


def decode_part(part: Part, direction: Direction | None = None, order: ByteOrder = NATIVE) -> NetlinkMessage:
    """The message in one part of a datagram. Raises `DecodeError` for attributes that cannot be."""
    if part.type < 16:
        message: NetlinkMessage = control(part, order)
        return message
    if direction is None:
        direction = Direction.TO_KERNEL if part.flags & _REQUEST else Direction.FROM_KERNEL
    cls = registry.get((part.type, direction))
    if cls is None or part.length < BODY:
        return Generic(part.data, order)
    declared: NetlinkMessage = codec(cls, order).decode(part.data, part.offset)
    return declared


def encode(messages: Iterable[NetlinkMessage]) -> bytes:
    """One datagram of messages, padded where another follows."""
    out = bytearray()
    for message in messages:
        out += b"\0" * (-len(out) % 4)
        out += bytes(message)
    return bytes(out)


def attribute_at(message: Message, offset: int) -> str:
    """The attribute that starts at a byte of the message, as an extended acknowledgement points at it.

    ``Config.command (NFQA_CFG_CMD)``; where none starts there, the name of the message and the number of the byte.
    """
    name = type(message).__name__

    def search(declaration: type[View] | None, start: int, end: int, path: str) -> str | None:
        for attribute in wire_attributes(bytes(message), start, end, message._order):
            field = declaration.__by_number__.get(attribute.type & NLA_TYPE_MASK) if declaration else None
            here = f"{path}.{field.name if field else f'[{attribute.type & NLA_TYPE_MASK}]'}"
            if attribute.offset == offset:
                return f"{here} ({field.kernel_name})" if field else here
            inside = attribute.offset + NLA_HDRLEN
            if field is not None and field.nest is not None and inside <= offset < inside + len(attribute.data):
                return search(field.nest, inside, inside + len(attribute.data), here)
        return None

    return search(type(message), BODY, message.nlmsg_len, name) or f"{name}, byte {offset}"
