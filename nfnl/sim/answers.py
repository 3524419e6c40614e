"""What this kernel says of its own accord: echo replies, resets, ICMP errors. Bytes in, bytes out.

`None` where the kernel keeps silent because of what the packet is (limits of rate are the stack's business). The family is told,
for a verdict may have put any bytes where the version should be. IP ids come from the caller; the kernel takes them from counters
it keeps secret. Flow labels are 0, as the kernel's are with ``net.ipv6.auto_flowlabels=0``.

Sources: net/ipv4/icmp.c, net/ipv6/icmp.c, net/ipv4/tcp_ipv4.c (`tcp_v4_send_reset`), net/ipv6/tcp_ipv6.c (`tcp_v6_send_response`).
"""

from __future__ import annotations

from struct import Struct

from nfnl.sim.skb import ICMP, ICMPV6, IPV4, TCP, checksum, find_header

_V4 = Struct("!BBHHHBBH4s4s")
_V6 = Struct("!IHBB16s16s")
_ICMP = Struct("!BBHI")
_TCP = Struct("!HHIIBBHHH")

DF = 0x4000

# ICMP types and codes
ECHO_REPLY, DEST_UNREACH, REDIRECT, ECHO, TIME_EXCEEDED, TIMESTAMP, TIMESTAMP_REPLY = 0, 3, 5, 8, 11, 13, 14
NET_UNREACH, HOST_UNREACH, PROT_UNREACH, PORT_UNREACH, FRAG_NEEDED = range(5)
REDIRECT_HOST = 1
#: TIME_EXCEEDED, both families: fragments did not all come
REASSEMBLY = 1
#: ICMP types that are errors or taken for one (`icmp_pointers`), and the last that exists
_ERRORS = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12))
LAST_ICMP_TYPE = 18

# ICMPv6
V6_DEST_UNREACH, V6_PACKET_TOO_BIG, V6_TIME_EXCEEDED, V6_PARAMETER_PROBLEM, V6_ECHO, V6_ECHO_REPLY = 1, 2, 3, 4, 128, 129
V6_NO_ROUTE, V6_NOT_NEIGHBOUR, V6_PORT_UNREACH = 0, 2, 4
V6_UNKNOWN_NEXT_HEADER = 1

#: An ICMP error is no longer than this; it quotes as much as fits.
_V4_ERROR_MAX = 576
_V6_ERROR_MAX = 1280


def ipv4(src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int, tos: int = 0, id: int = 0, df: bool = False) -> bytes:  # noqa: A002
    """An IPv4 packet without options."""
    length = 20 + len(payload)
    frag = DF if df else 0
    head = _V4.pack(0x45, tos, length, id, frag, ttl, protocol, 0, src, dst)
    return _V4.pack(0x45, tos, length, id, frag, ttl, protocol, checksum(head), src, dst) + payload


def ipv6(src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int, tos: int = 0) -> bytes:
    """An IPv6 packet without extension headers."""
    return _V6.pack(6 << 28 | tos << 20, len(payload), protocol, ttl, src, dst) + payload


def pseudo(src: bytes, dst: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header, to go before a transport checksum."""
    return int.from_bytes(src, "big") + int.from_bytes(dst, "big") + protocol + length


def traffic_class(data: bytes) -> int:
    """Of an IPv6 packet."""
    return (data[0] & 0xF) << 4 | data[1] >> 4


def echo_reply(family: int, data: bytes, at: int, src: bytes, *, ttl: int, id: int) -> bytes:  # noqa: A002
    """To the echo request whose ICMP header is at ``at``. TOS or traffic class are those of the request."""
    if family == IPV4:
        body = data[at + 1 : at + 2] + b"\0\0" + data[at + 4 :]
        message = bytes((ECHO_REPLY,)) + body
        return ipv4(src, data[12:16], ICMP, _with_checksum(message, 0), ttl=ttl, tos=data[1], id=id)
    message = bytes((V6_ECHO_REPLY,)) + data[at + 1 : at + 2] + b"\0\0" + data[at + 4 :]
    dst = data[8:24]
    initial = pseudo(src, dst, ICMPV6, len(message))
    return ipv6(src, dst, ICMPV6, _with_checksum(message, initial), ttl=ttl, tos=traffic_class(data))


def timestamp_reply(data: bytes, at: int, src: bytes, milliseconds: int, *, ttl: int, id: int) -> bytes:  # noqa: A002
    """To an ICMP timestamp request; ``milliseconds`` since midnight UTC."""
    now = milliseconds.to_bytes(4, "big")
    message = bytes((TIMESTAMP_REPLY, 0, 0, 0)) + data[at + 4 : at + 12] + now + now
    return ipv4(src, data[12:16], ICMP, _with_checksum(message, 0), ttl=ttl, tos=data[1], id=id)


def _with_checksum(message: bytes, initial: int) -> bytes:
    sum_ = checksum(message, initial) % 0xFFFF  # over nothing but zeros the kernel has 0 too
    return message[:2] + sum_.to_bytes(2, "big") + message[4:]


def reset(family: int, data: bytes, at: int, *, ttl: int, tos: int | None = None) -> bytes | None:
    """The RST for a TCP segment nobody waits for; none for a RST. No id, and DF set, as the kernel's are.

    Its TOS or traffic class is that of the segment, but for the ECN bits, unless another is given.
    """
    sport, dport, seq, ack, offset, flags, *_ = _TCP.unpack_from(data, at)
    if flags & 0x04:
        return None
    if flags & 0x10:
        answer, seq, ack = 0x04, ack, 0
    else:
        length = len(data) - at - (offset >> 4 << 2)
        answer, seq, ack = 0x14, 0, seq + length + (flags & 1) + (flags >> 1 & 1)
    segment = _TCP.pack(dport, sport, seq, ack & 0xFFFFFFFF, 0x50, answer, 0, 0, 0)
    v4 = family == IPV4
    src, dst = (data[16:20], data[12:16]) if v4 else (data[24:40], data[8:24])
    sum_ = checksum(segment, pseudo(src, dst, TCP, 20))
    segment = segment[:16] + sum_.to_bytes(2, "big") + segment[18:]
    if tos is None:
        tos = (data[1] if v4 else traffic_class(data)) & 0xFC
    if v4:
        return ipv4(src, dst, TCP, segment, ttl=ttl, tos=tos, df=True)
    return ipv6(src, dst, TCP, segment, ttl=ttl, tos=tos)


def deserves_error(family: int, data: bytes) -> bool:
    """An ICMP error may be sent about this packet: not about a later fragment, nor about another error (RFC 1122, RFC 4443)."""
    if family == IPV4:
        if int.from_bytes(data[6:8], "big") & 0x1FFF:
            return False
        at = (data[0] & 0xF) << 2
        return data[9] != ICMP or (at < len(data) and data[at] <= LAST_ICMP_TYPE and data[at] not in _ERRORS)
    protocol, at, fragment = find_header(data)
    if protocol != ICMPV6 or fragment & ~7:
        return True
    return data[at] >= 128 if at < len(data) else fragment > 0


def icmp_error(family: int, data: bytes, type: int, code: int, info: int, src: bytes, *, ttl: int, id: int) -> bytes:  # noqa: A002
    """An ICMP or ICMPv6 error about ``data``. ``info`` is the second word of its header: an MTU, a gateway, an offset.

    The TOS of an IPv4 error is the packet's without the ECN bit that is no TOS bit, with precedence 6 (``RT_TOS | 0xc0``).
    """
    if family == IPV4:
        message = _ICMP.pack(type, code, 0, info) + data[: _V4_ERROR_MAX - 28]
        return ipv4(src, data[12:16], ICMP, _with_checksum(message, 0), ttl=ttl, tos=data[1] & 0x1E | 0xC0, id=id)
    message = _ICMP.pack(type, code, 0, info) + data[: _V6_ERROR_MAX - 48]
    dst = data[8:24]
    return ipv6(src, dst, ICMPV6, _with_checksum(message, pseudo(src, dst, ICMPV6, len(message))), ttl=ttl)


def with_source(data: bytes, src: bytes) -> bytes:
    """A packet without options or extension headers, with another source address; the transport checksum is left as it is."""
    if len(src) == 16:
        return data[:8] + src + data[24:]
    head = data[:10] + b"\0\0" + src + data[16:20]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + data[20:]


def decrease_ttl(data: bytes) -> bytes:
    """An IPv4 packet with its TTL one less, the header checksum adjusted as `ip_decrease_ttl` does it."""
    check = int.from_bytes(data[10:12], "big") + 0x0100
    check = (check + (check >= 0xFFFF)) & 0xFFFF
    return data[:8] + bytes((data[8] - 1, data[9])) + check.to_bytes(2, "big") + data[12:]
