"""Netlink datagrams out of files as people have them: hex text of any style, raw bytes, pcap and pcapng."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nfnl.wire.constants import NETLINK_NETFILTER
from nfnl.wire.header import BIG, LITTLE, NATIVE, ByteOrder

LINKTYPE_NETLINK = 253
#: In front of each datagram of that link type: ARPHRD_NETLINK at 2, the netlink protocol at 14, both big-endian.
_COOKED = 16
#: longer than any netlink datagram with one message of nfnetlink
_LONGEST = 1 << 20
_PCAP = (b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a")


@dataclass(frozen=True, slots=True)
class Found:
    """A datagram, or a word about the file; with hex text that goes wrong half-way, both."""

    where: str  #: of the datagram: ``line 3``, ``packet 7``
    data: bytes = b""
    problem: str = ""  #: what is wrong, and where
    remark: str = ""  #: what is left out, and rightly so
    order: ByteOrder = NATIVE


def form_of(data: bytes) -> str:
    """``pcap``, ``hex`` or ``binary``."""
    if data.startswith(_PCAP):
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


class _Complaints(logging.Handler):
    """What scapy says about a broken file, instead of on standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def from_pcap(data: bytes) -> Iterator[Found]:
    """The nfnetlink datagrams of a capture, as tcpdump takes it from an nlmon device; pcapng too."""
    log, complaints = logging.getLogger("scapy.runtime"), _Complaints()
    before = log.propagate, log.handlers, log.level
    log.propagate, log.handlers = False, [complaints]
    log.setLevel(logging.WARNING)
    try:
        yield from _netlink(_packets(data))
    finally:
        log.propagate, log.handlers, _ = before
        log.setLevel(before[2])
    for complaint in complaints.said:
        yield Found("", problem=complaint)


def _packets(data: bytes) -> Iterator[tuple[int, ByteOrder, bytes]]:
    """Link type, byte order of the capturing host, bytes. Raises whatever scapy does."""
    from scapy.utils import RawPcapReader

    reader: Any = RawPcapReader(io.BytesIO(data))
    while True:
        try:
            packet, facts = reader._read_packet(_LONGEST)  # iterating would cut at 65535
        except EOFError:
            return
        linktype = facts.linktype if hasattr(facts, "linktype") else reader.linktype  # pcapng has one for each interface
        yield linktype, BIG if reader.endian == ">" else LITTLE, packet


def _netlink(packets: Iterable[tuple[int, ByteOrder, bytes]]) -> Iterator[Found]:
    strange: Counter[str] = Counter()
    others: Counter[int] = Counter()
    number = 0
    try:
        for number, (linktype, order, packet) in enumerate(packets, 1):
            protocol = int.from_bytes(packet[14:_COOKED], "big")
            if linktype != LINKTYPE_NETLINK:
                strange[f"of link type {linktype}, not netlink ({LINKTYPE_NETLINK})"] += 1
            elif len(packet) < _COOKED:
                strange["cut off within the capture header of netlink"] += 1
            elif protocol != NETLINK_NETFILTER:
                others[protocol] += 1
            else:
                yield Found(f"packet {number}", packet[_COOKED:], order=order)
    except Exception as error:  # scapy on a broken file: struct.error, its own, and others
        yield Found("", problem=f"the capture is broken at packet {number + 1}: {error}")
    for what, count in strange.items():
        yield Found("", problem=f"left out: {count} packet{'s' * (count != 1)} {what}")
    if others:
        protocols = ", ".join(str(protocol) for protocol in sorted(others))
        yield Found("", remark=f"left out: {others.total()} of other netlink protocols ({protocols})")
