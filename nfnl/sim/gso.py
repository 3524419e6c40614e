"""Packets that stand for several: a local program hands over many datagrams as one, to be cut as late as possible.

After net/ipv4/udp_offload.c (`__udp_gso_segment`) and `inet_gso_segment`, `ipv6_gso_segment`.
"""

from __future__ import annotations

from struct import Struct

from nfnl.sim.journey import Fate, Journey
from nfnl.sim.skb import IPV4, UDP, Skb, checksum

_U16_PAIR = Struct("!HH")
_UDP_HEADER = 8
#: UDP_MAX_SEGMENTS
MAX_SEGMENTS = 128


def payload_of(skb: Skb) -> int:
    """How many bytes follow the UDP header."""
    return len(skb.data) - skb.parse()[4] - _UDP_HEADER


def split(skb: Skb) -> list[Skb]:
    """The segments in whose favour the packet ends: each with an IP id, lengths and checksums of its own, and a journey.

    There are none if it cannot be cut, for a verdict may have changed it: it is dropped then.
    """
    _, _, protocol, _, at = skb.parse()
    data, start = skb.data, at + _UDP_HEADER
    if protocol != UDP or payload_of(skb) <= skb.gso_size:
        skb.drop("it is to be cut into segments, and cannot be")
        return []
    length_was, sum_was = _U16_PAIR.unpack_from(data, at + 4)
    segments = []
    for number, here in enumerate(range(start, len(data), skb.gso_size)):
        body = data[here : here + skb.gso_size]
        length = _UDP_HEADER + len(body)
        udp = data[at : at + 4] + length.to_bytes(2, "big")
        # the sum of the pseudo header is not made anew: what stands in its place is corrected by the length
        sum_ = checksum(udp + b"\0\0" + body, sum_was + 0xFFFF - length_was + length) or 0xFFFF
        head = (_ipv4_header if skb.family == IPV4 else _ipv6_header)(data[:at], number, length)
        segments.append(_segment(skb, head + udp + sum_.to_bytes(2, "big") + body))
    skb.end(Fate.SPLIT, f"into {len(segments)} segments")
    skb.journey.segments = [segment.journey for segment in segments]
    return segments


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
    return segment
