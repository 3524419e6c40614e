"""The outermost layer of bytes: host byte order, the netlink header, walking a datagram.

A datagram is a row of messages, each an ``nlmsghdr`` (16 bytes, host order) and a body, padded to a multiple of 4 before the
next one (include/uapi/linux/netlink.h). Headers of netlink are in the order of the host; to test both on one machine the order
is an argument here, `NATIVE` unless said otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct
from typing import Final, Literal, NamedTuple

from nfnl.errors import DecodeError
from nfnl.wire.constants import NLMSG_HDRLEN, align4


class ByteOrder:
    """The byte order of a host, with the struct formats that depend on it."""

    __slots__ = ("attr", "header", "name", "prefix", "u16", "u32")

    def __init__(self, name: Literal["little", "big"]) -> None:
        self.name: Final = name
        self.prefix: Final = "<" if name == "little" else ">"
        #: nlmsghdr: length, type, flags, seq, pid
        self.header: Final = Struct(self.prefix + "IHHII")
        #: nlattr: length, type
        self.attr: Final = Struct(self.prefix + "HH")
        self.u16: Final = Struct(self.prefix + "H")
        self.u32: Final = Struct(self.prefix + "I")

    def __repr__(self) -> str:
        return f"<{self.name}-endian host>"

    def __deepcopy__(self, memo: object) -> ByteOrder:
        return self  # there are two of them, compared by identity


LITTLE: Final = ByteOrder("little")
BIG: Final = ByteOrder("big")
NATIVE: Final = LITTLE if sys.byteorder == "little" else BIG


class Part(NamedTuple):
    """One message of a datagram: where it starts, and its bytes with the padding behind it (and, for the last, up to 15 strays)."""

    offset: int
    length: int  #: nlmsg_len
    type: int
    flags: int
    data: bytes


def excerpt(data: bytes, offset: int) -> bytes:
    """The bytes an error shows: up to 16 from ``offset``."""
    return bytes(data[offset : offset + 16])


def walk(datagram: bytes, order: ByteOrder = NATIVE) -> Iterator[Part]:
    """The messages of a datagram, in order.

    Like the kernel's own loop (`netlink_rcv_skb` in net/netlink/af_netlink.c) it steps by the length rounded up to 4, and up to 15
    bytes behind the last message belong to nobody; unlike it, a header that cannot be true raises `DecodeError` where
    it stands, after the messages before it were handed out.
    """
    total = len(datagram)
    offset = 0
    if total < NLMSG_HDRLEN:
        raise DecodeError(f"a datagram of {total} bytes holds no netlink header (16 bytes)", offset=0, excerpt=excerpt(datagram, 0))
    while total - offset >= NLMSG_HDRLEN:
        length, type_, flags, _, _ = order.header.unpack_from(datagram, offset)
        if length < NLMSG_HDRLEN or length > total - offset:
            raise DecodeError(
                f"nlmsg_len is {length}, but must be from 16 to the {total - offset} bytes left",
                path="nlmsghdr",
                offset=offset,
                excerpt=excerpt(datagram, offset),
            )
        end = min(offset + align4(length), total)
        if total - end < NLMSG_HDRLEN:
            end = total
        yield Part(offset, length, type_, flags, bytes(datagram[offset:end]))
        offset = end


class NetlinkMessage:
    """Anything with a netlink header. An immutable view of bytes it owns; equal when its fields are."""

    __slots__ = ()
    _data: bytes  # kept by the subclass

    @property
    def _order(self) -> ByteOrder:
        raise NotImplementedError

    @property
    def nlmsg_len(self) -> int:
        """Length of the message in bytes, header included, padding not (``nlmsg_len``)."""
        return int(self._order.u32.unpack_from(self._data, 0)[0])

    @property
    def nlmsg_type(self) -> int:
        """``nlmsg_type``: for nfnetlink the subsystem in the high byte, the operation in the low one."""
        return int(self._order.u16.unpack_from(self._data, 4)[0])

    @property
    def nlmsg_flags(self) -> int:
        """``nlmsg_flags``: see `nfnl.wire.constants.NlmsgFlag`."""
        return int(self._order.u16.unpack_from(self._data, 6)[0])

    @property
    def nlmsg_seq(self) -> int:
        """``nlmsg_seq``: number that an answer repeats; 0 in what the kernel says of its own accord."""
        return int(self._order.u32.unpack_from(self._data, 8)[0])

    @property
    def nlmsg_pid(self) -> int:
        """``nlmsg_pid``: a port id. In an answer, that of the socket it was sent to; the kernel never reads it in a request."""
        return int(self._order.u32.unpack_from(self._data, 12)[0])

    def __bytes__(self) -> bytes:
        """The message exactly as it came or was built, with any padding and stray bytes behind it."""
        return self._data
