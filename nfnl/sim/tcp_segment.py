"""What the TCP tracker reads from a packet."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct, unpack_from
from typing import NamedTuple

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

#: Flags that may stand together; PSH, ECE and CWR may always be there.
_VALID = frozenset((SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG))

_HEADER = Struct("!4xIIBBH4x")
_END, _NOP, _SCALE, _SACK_PERM, _SACK = 0, 1, 3, 4, 5
_MOST_SCALE = 14


class Kind(IntEnum):
    """What a segment is to the state table (`enum tcp_bit_set`)."""

    SYN = 0
    SYNACK = 1
    FIN = 2
    ACK = 3
    RST = 4
    NONE = 5


class Segment(NamedTuple):
    """A TCP segment. Numbers are as in the packet."""

    flags: int
    seq: int
    ack: int
    window: int
    length: int = 0  #: bytes of payload
    options: bool = False  #: it has options, whatever they are
    scale: int | None = None  #: window scale it offers, at most 14
    sack_perm: bool = False
    sack_edges: tuple[int, ...] = ()  #: right edges of its SACK blocks

    @property
    def kind(self) -> Kind:
        """RST before SYN before FIN before ACK (`get_conntrack_index`)."""
        flags = self.flags
        if flags & RST:
            return Kind.RST
        if flags & SYN:
            return Kind.SYNACK if flags & ACK else Kind.SYN
        if flags & FIN:
            return Kind.FIN
        return Kind.ACK if flags & ACK else Kind.NONE

    @property
    def end(self) -> int:
        """Sequence number behind it; SYN and FIN count one each."""
        return self.seq + self.length + bool(self.flags & SYN) + bool(self.flags & FIN) & 0xFFFFFFFF


def read_segment(data: bytes) -> Segment | None:
    """From the TCP header to the end of the packet (`tcp_error`).

    None if the header is cut off or its flags cannot stand together.
    """
    if len(data) < 20:
        return None
    seq, ack, offset, flags, window = _HEADER.unpack_from(data)
    size = offset >> 4 << 2
    if not 20 <= size <= len(data) or flags & ~(PSH | ECE | CWR) not in _VALID:
        return None
    scale, sack_perm, edges = _options(data[20:size])
    return Segment(flags, seq, ack, window, len(data) - size, size > 20, scale, sack_perm, edges)


def _options(data: bytes) -> tuple[int | None, bool, tuple[int, ...]]:
    """`tcp_options`, `tcp_sack`. What is wrong ends it; what was read before counts."""
    scale, sack_perm, edges = None, False, list[int]()
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _NOP:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            break
        kind = data[at]
        if kind == _SCALE and size == 3:
            scale = min(data[at + 2], _MOST_SCALE)
        elif kind == _SACK_PERM and size == 2:
            sack_perm = True
        elif kind == _SACK and size >= 10 and (size - 2) % 8 == 0 and not edges:
            edges = [unpack_from("!I", data, block + 4)[0] for block in range(at + 2, at + size, 8)]
        at += size
    return scale, sack_perm, tuple(edges)
