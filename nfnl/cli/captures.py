"""Netlink datagrams out of files as people have them: hex text of any style, raw bytes, captures; IP packets out of captures."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from nfnl.wire.constants import NETLINK_NETFILTER, EtherType
from nfnl.wire.header import BIG, LITTLE, NATIVE, ByteOrder

LINKTYPE_NETLINK = 253
#: In front of each datagram of that link type: ARPHRD_NETLINK at 2, the netlink protocol at 14, both big-endian.
_COOKED = 16
#: rows left out of a dump, where it says that the row above comes again, are believed up to so many bytes
_LONGEST = 1 << 20
#: how a capture begins: pcap in either byte order, with microseconds and nanoseconds; pcapng
_PCAP = (b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1")
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _ENHANCED_PACKET = 1, 6
_TSRESOL = 9


@dataclass(frozen=True, slots=True)
class Found:
    """A datagram, or a word about the file; with hex text that goes wrong half-way, both."""

    where: str  #: of the datagram: ``line 3``, ``packet 7``
    data: bytes = b""
    problem: str = ""  #: what is wrong, and where
    remark: str = ""  #: what is left out, and rightly so
    order: ByteOrder = NATIVE
    time: float = 0.0  #: in a capture: when it was seen, in seconds since 1970


def form_of(data: bytes) -> str:
    """``pcap``, ``hex`` or ``binary``."""
    if data.startswith((*_PCAP, _PCAPNG)):
        return "pcap"
    textual = all(byte in b"\t\n\v\f\r" or 0x20 <= byte < 0x7F for byte in data)
    return "hex" if textual else "binary"


def datagrams(data: bytes, form: str) -> Iterator[Found]:
    """What is in a file of a form."""
    if form == "pcap":
        return from_pcap(data)
    if form == "hex":
        return from_hex(data.decode("latin-1"))
    return iter([Found("the whole input", data)] if data else [])


# --- hex -------------------------------------------------------------------------------------------------------------------------


def from_hex(text: str) -> Iterator[Found]:
    """One datagram per block of lines; blank lines separate blocks, and lines that begin with # do not count."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("#"):
            continue
        if line.strip():
            block.append((number, line))
        elif block:
            yield _block(block)
            block = []


class _BadHexError(Exception):
    """It says what, and in which line."""


def _block(block: list[tuple[int, str]]) -> Found:
    where = f"line {block[0][0]}"
    data = bytearray()
    try:
        (_read_dump if _is_dump(block[0][1]) else _read_digits)(block, data)
    except _BadHexError as error:
        return Found(where, bytes(data), problem=str(error))
    return Found(where, bytes(data))


#: an offset, a colon perhaps, what stands behind: xxd, hexdump -C, od, tcpdump -x
_DUMP_LINE = re.compile(r"\s*(?:0x)?(?P<offset>[0-9a-fA-F]{4,16})(?P<gap>:\s*|\s+)(?P<rest>.*)")


def _is_dump(first: str) -> bool:
    """The line begins with an offset: with a colon behind it, or 0 and set apart from what could be its bytes."""
    match = _DUMP_LINE.match(first)
    if match is None:
        return False
    digits, gap = match["offset"], match["gap"]
    return gap.startswith(":") or (int(digits, 16) == 0 and (len(digits) >= 6 or len(gap) >= 2))


def _read_dump(block: list[tuple[int, str]], data: bytearray) -> None:
    base: int | None = None
    row = b""
    repeating = False
    for number, line in block:
        if line.strip() == "*":  # the row above comes again, until the next offset
            repeating = True
            continue
        match = _DUMP_LINE.match(f"{line} ")
        if match is None:
            raise _BadHexError(f"line {number}: {line.strip()!r} does not begin with an offset")
        offset = int(match["offset"], 16)
        base = offset if base is None else base
        missing = offset - base - len(data)
        if repeating and row and 0 <= missing <= _LONGEST:
            data += (row * (missing // len(row) + 1))[:missing]
        elif missing:
            raise _BadHexError(f"line {number}: the offset is {offset:#x}, but {len(data)} bytes came before it")
        repeating = False
        row = _dumped(match["rest"], match["gap"].startswith(":"))
        data += row


def _dumped(rest: str, colon: bool) -> bytes:
    """The bytes of one row, without the text beside them."""
    pieces = re.split(r"\s{2,}", re.split(r"\s[|>]", rest)[0].strip())
    if colon:
        pieces = pieces[:1]  # xxd: what stands apart is text, though it may look like hex
    digits = ""
    for piece in pieces:
        if not re.fullmatch(r"(?:(?:[0-9a-fA-F]{2})+ ?)+", piece):
            break
        digits += piece
    return bytes.fromhex(digits)


def _read_digits(block: list[tuple[int, str]], data: bytearray) -> None:
    digits = ""
    for number, line in block:
        for token in re.split(r"[\s,;:{}]+|\\x", line.partition("#")[0]):
            prefixed = token[:2] in ("0x", "0X")
            digit = token[2:] if prefixed else token
            if not re.fullmatch(r"[0-9a-fA-F]*", digit):
                data += bytes.fromhex(digits[: len(digits) & ~1])
                raise _BadHexError(f"line {number}: {token[:40]!r} is not hexadecimal")
            digits += digit.rjust(2, "0") if prefixed and digit else digit
    data += bytes.fromhex(digits[: len(digits) & ~1])
    if len(digits) % 2:
        raise _BadHexError(
            f"line {number}: half a byte is left at the end: {len(digits)} hex digits, the last of them {digits[-1]!r}"
        )


# --- captures --------------------------------------------------------------------------------------------------------------------


class _BadCaptureError(Exception):
    """It says what, and where."""


@dataclass(frozen=True, slots=True)
class _Packet:
    linktype: int
    order: ByteOrder  #: of the host that wrote it, which is the one that spoke netlink
    data: bytes
    time: float  #: seconds since 1970


def from_pcap(data: bytes) -> Iterator[Found]:
    """The nfnetlink datagrams of a pcap or pcapng capture, as tcpdump takes it from an nlmon device."""
    strange: Counter[str] = Counter()
    others: Counter[int] = Counter()
    packets = _pcapng(data) if data.startswith(_PCAPNG) else _pcap(data)
    try:
        for number, packet in enumerate(packets, 1):
            protocol = int.from_bytes(packet.data[14:_COOKED], "big")
            if packet.linktype != LINKTYPE_NETLINK:
                strange[f"of link type {packet.linktype}, not netlink ({LINKTYPE_NETLINK})"] += 1
            elif len(packet.data) < _COOKED:
                strange["cut off within the capture header of netlink"] += 1
            elif protocol != NETLINK_NETFILTER:
                others[protocol] += 1
            else:
                yield Found(f"packet {number}", packet.data[_COOKED:], order=packet.order)
    except _BadCaptureError as error:
        yield Found("", problem=f"the capture is broken: {error}")
    for what, count in strange.items():
        yield Found("", problem=f"left out: {count} packet{'s' * (count != 1)} {what}")
    if others:
        protocols = ", ".join(str(protocol) for protocol in sorted(others))
        yield Found("", remark=f"left out: {others.total()} of other netlink protocols ({protocols})")


#: link types of IP packets -> bytes in front of them, of which at an offset are the EtherType; None: no word of what follows
_IP_IN: dict[int, tuple[int, int | None]] = {
    0: (4, None),  # NULL: BSD's loopback
    1: (14, 12),  # ETHERNET
    12: (0, None),  # DLT_RAW, as some systems write it
    14: (0, None),
    101: (0, None),  # RAW
    108: (4, None),  # LOOP
    113: (16, 14),  # LINUX_SLL: of tcpdump -i any
    228: (0, None),  # IPV4
    229: (0, None),  # IPV6
    276: (20, 0),  # LINUX_SLL2
}
_VLAN_TAGS = (0x8100, 0x88A8)


def ip_packets(data: bytes) -> Iterator[Found]:
    """The IP packets of a pcap or pcapng capture, from their network headers on; the others are left out."""
    others = 0
    try:
        for number, packet in enumerate(_pcapng(data) if data.startswith(_PCAPNG) else _pcap(data), 1):
            if packet.linktype not in _IP_IN:
                raise _BadCaptureError(f"packet {number} is of link type {packet.linktype}, in which there are no IP packets")
            at, type_at = _IP_IN[packet.linktype]
            while type_at is not None and int.from_bytes(packet.data[type_at : type_at + 2], "big") in _VLAN_TAGS:
                at, type_at = at + 4, at + 2
            ether_type = None if type_at is None else int.from_bytes(packet.data[type_at : type_at + 2], "big")
            network = packet.data[at:]
            if network and network[0] >> 4 in (4, 6) and ether_type in (None, EtherType.IPV4, EtherType.IPV6):
                yield Found(f"packet {number}", network, time=packet.time)
            else:
                others += 1
    except _BadCaptureError as error:
        yield Found("", problem=f"the capture is broken: {error}")
    if others:
        yield Found("", remark=f"left out: {others} packet{'s' * (others != 1)} that {'is' if others == 1 else 'are'} not IP")


def _take(data: bytes, at: int, size: int, what: str) -> bytes:
    piece = data[at : at + size]
    if len(piece) < size:
        raise _BadCaptureError(f"{what} at byte {at} takes {size} bytes, but {len(piece)} are left")
    return piece


def _pcap(data: bytes) -> Iterator[_Packet]:
    """draft-ietf-opsawg-pcap: a file header, then records of time, length here, length there, bytes."""
    if data[:4] not in _PCAP:
        raise _BadCaptureError("it begins neither like pcap nor like pcapng")
    order = BIG if data[0] == 0xA1 else LITTLE
    second = 1e9 if b"\x3c" in data[:4] else 1e6
    linktype = order.u32.unpack_from(_take(data, 0, 24, "the file header"), 20)[0] & 0xFFFF
    at = 24
    while at < len(data):
        seconds, parts, length, _ = struct.unpack(order.prefix + "4I", _take(data, at, 16, "the record header"))
        yield _Packet(linktype, order, _take(data, at + 16, length, "a record"), seconds + parts / second)
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[_Packet]:
    """draft-ietf-opsawg-pcapng: blocks of type, length, body, length again; sections may differ in byte order."""
    order = LITTLE
    interfaces: list[tuple[int, float]] = []  # link types, parts of a second
    at = 0
    while at < len(data):
        head = _take(data, at, 12, "a block")
        if head.startswith(_PCAPNG):
            order = BIG if head[8:] == b"\x1a\x2b\x3c\x4d" else LITTLE
            interfaces = []
        kind, length = order.u32.unpack_from(head, 0)[0], order.u32.unpack_from(head, 4)[0]
        if length < 12 or length % 4:
            raise _BadCaptureError(f"a block at byte {at} says it has {length} bytes")
        body = _take(data, at, length, "a block")[8:-4]
        if kind == _INTERFACE:
            linktype = order.u16.unpack_from(_take(body, 0, 8, "an interface description"), 0)[0]
            interfaces.append((linktype, _parts_of_a_second(body[8:], order)))
        elif kind == _ENHANCED_PACKET:
            interface, high, low, size, _ = struct.unpack_from(order.prefix + "5I", _take(body, 0, 20, "a packet block"))
            if interface >= len(interfaces):
                raise _BadCaptureError(f"the packet at byte {at} is from interface {interface}, which is not described")
            linktype, second = interfaces[interface]
            yield _Packet(linktype, order, _take(body, 20, size, "a packet"), (high << 32 | low) / second)
        at += length


def _parts_of_a_second(options: bytes, order: ByteOrder) -> float:
    """What times of an interface count: its option if_tsresol, or microseconds."""
    at = 0
    while at + 5 <= len(options):
        code, length = struct.unpack_from(order.prefix + "2H", options, at)
        if code == _TSRESOL:
            exponent = options[at + 4]
            return float(2 ** (exponent & 0x7F) if exponent & 0x80 else 10**exponent)
        at += 4 + (length + 3 & -4)
    return 1e6
