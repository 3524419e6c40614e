"""Packets with remarks, for Wireshark: a pcapng file of raw IP packets, each with a comment (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
from typing import BinaryIO

LINKTYPE_RAW = 101  #: the packet begins with its IPv4 or IPv6 header
_SECTION, _INTERFACE, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _TSRESOL, _NAME = 1, 9, 2
_BYTE_ORDER = 0x1A2B3C4D
_MICROSECONDS = bytes([6])


class PcapngWriter:
    """A pcapng file that is being written."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """``name`` is shown as that of the interface."""
        self._file = file
        self._block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1))
        options = _option(_NAME, name.encode()) + _option(_TSRESOL, _MICROSECONDS) + _option(0, b"")
        self._block(_INTERFACE, struct.pack("=HHI", LINKTYPE_RAW, 0, 0) + options)

    def write(self, packet: bytes, *, seconds: float, length: int, comment: str) -> None:
        """A packet, when it came (since 1970), how long it is whole, and what there is to say of it."""
        stamp = round(seconds * 1_000_000)
        head = struct.pack("=IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(packet), length)
        self._block(_ENHANCED_PACKET, head + _padded(packet) + _option(_COMMENT, comment.encode()) + _option(0, b""))

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("=I", 12 + len(body))
        self._file.write(struct.pack("=I", kind) + length + body + length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)
