"""Packets that stand for several: a stretch of a stream, or many datagrams, are handed over at once, to be cut as late as possible.

After net/ipv4/tcp_offload.c (`tcp_gso_segment`), net/ipv4/udp_offload.c (`__udp_gso_segment`), `inet_gso_segment` and
`ipv6_gso_segment`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from nfnl.sim.answers import pseudo
from nfnl.sim.journey import Fate, Journey
from nfnl.sim.skb import IPV4, TCP, Checksum, Skb, checksum

_U16 = Struct("!H")
_U32 = Struct("!I")
_UDP_HEADER, _TCP_HEADER = 8, 20
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
#: UDP_MAX_SEGMENTS
MAX_DATAGRAMS = 128


def payload_at(skb: Skb) -> int:
    """Where the payload begins, behind IP and transport header."""
    _, _, protocol, _, at = skb.parse()
    if protocol == TCP:
        return at + max(skb.data[at + 12] >> 4 << 2 if len(skb.data) > at + 12 else 0, _TCP_HEADER)
    return at + _UDP_HEADER


def split(skb: Skb) -> list[Skb]:
    """The segments in whose favour the packet ends: each with an IP id, lengths and checksums of its own, and a journey.

    There are none if it cannot be cut, for a verdict may have changed it: it is dropped then.
    """
    _, _, protocol, _, at = skb.parse()
    data, start = skb.data, payload_at(skb)
    if protocol != skb.gso_protocol or len(data) - start <= skb.gso_size:
        skb.drop("it is to be cut into segments, and cannot be")
        return []
    ip_header = _ipv4_header if skb.family == IPV4 else _ipv6_header
    segments = [
        _segment(skb, ip_header(data[:at], number, len(segment)) + segment)
        for number, segment in enumerate((_tcp if protocol == TCP else _udp)(skb, at, start))
    ]
    skb.end(Fate.SPLIT, f"into {len(segments)} segments")
    skb.journey.segments = [segment.journey for segment in segments]
    return segments


def _pieces(skb: Skb, start: int) -> Iterator[tuple[int, bytes]]:
    for here in range(start, len(skb.data), skb.gso_size):
        yield here - start, skb.data[here : here + skb.gso_size]


def _udp(skb: Skb, at: int, start: int) -> Iterator[bytes]:
    ports, length_was = skb.data[at : at + 4], int.from_bytes(skb.data[at + 4 : at + 6], "big")
    for _, body in _pieces(skb, start):
        header = ports + _U16.pack(_UDP_HEADER + len(body)) + skb.data[at + 6 : at + 8]
        sum_ = _sum(header, 6, body, length_was)
        yield header[:6] + _U16.pack(sum_ or 0xFFFF) + body


def _tcp(skb: Skb, at: int, start: int) -> Iterator[bytes]:
    header, length_was = skb.data[at:start], len(skb.data) - at
    if skb.csum is not Checksum.PARTIAL:  # then the sum of the pseudo header is made first
        src, dst, *_ = skb.parse()
        header = header[:16] + _U16.pack(0xFFFF - checksum(b"", pseudo(src, dst, TCP, length_was))) + header[18:]
    seq, flags = int.from_bytes(header[4:8], "big"), header[13]
    for offset, body in _pieces(skb, start):
        last = offset + len(body) == len(skb.data) - start
        here = flags & ~(0 if last else _FIN | _PSH) & ~(_CWR if offset else 0)
        segment = header[:4] + _U32.pack(seq + offset & 0xFFFFFFFF) + header[8:13] + bytes((here,)) + header[14:]
        yield segment[:16] + _U16.pack(_sum(segment, 16, body, length_was)) + segment[18:] + body


def _sum(header: bytes, place: int, body: bytes, length_was: int) -> int:
    """The checksum of a segment. At its place stands the sum of a pseudo header, which is corrected by the length alone."""
    was = int.from_bytes(header[place : place + 2], "big")
    length = len(header) + len(body)
    return checksum(header[:place] + b"\0\0" + header[place + 2 :] + body, was + 0xFFFF - length_was + length)


def _ipv4_header(header: bytes, number: int, length: int) -> bytes:
    ip_id = int.from_bytes(header[4:6], "big") + number & 0xFFFF
    lengths = (len(header) + length).to_bytes(2, "big") + ip_id.to_bytes(2, "big")
    head = header[:2] + lengths + header[6:10] + b"\0\0" + header[12:]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:]


def _ipv6_header(header: bytes, _number: int, length: int) -> bytes:
    return header[:4] + (len(header) - 40 + length).to_bytes(2, "big") + header[6:]


def _segment(skb: Skb, data: bytes) -> Skb:
    journey = Journey(data, data, skb.mark, steps=[*skb.journey.steps])
    segment = Skb(data, skb.family, journey, skb.mark, skb.priority, skb.sk)
    for name in ("hook", "indev", "outdev", "hwaddr", "tstamp", "ignore_df", "looped", "dst", "transport"):
        setattr(segment, name, getattr(skb, name))
    skb.share_flow(segment)
    return segment
