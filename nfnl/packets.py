"""Packets as bytes: lengths and checksums made right, and the answer that a rejected packet gets.

Pure functions over packets from the network header on, as they come out of a queue. Known here are the checksums of TCP, UDP,
UDP-Lite, ICMP, IGMP and ICMPv6. All else (SCTP, GRE, ESP, what is inside a tunnel) is payload, and left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from struct import Struct
from typing import NamedTuple

from nfnl.errors import PacketError

__all__ = ["reject", "repair"]

_U16 = Struct("!H")
_U16_TRIPLE = Struct("!HHH")
_IPV4 = Struct("!BBHHHBBH4s4s")
_IPV6 = Struct("!IHBB16s16s")
_TCP_HEADER = Struct("!HHIIBBHHH")
_ICMP_HEADER = Struct("!BBHI")

_ICMP, _IGMP, _TCP, _UDP, _GRE, _ESP, _AH, _ICMPV6, _SCTP, _UDPLITE = 1, 2, 6, 17, 47, 50, 51, 58, 132, 136
#: IPv6 extension headers, but for AH; "no next header" (59) counts as a protocol without checksum
_HOPOPTS, _ROUTING, _FRAGMENT, _DSTOPTS = 0, 43, 44, 60
_EXTENSIONS = frozenset((_HOPOPTS, _ROUTING, _FRAGMENT, _AH, _DSTOPTS))

_MAX_LENGTH = 0xFFFF  #: of IPv4's total length and IPv6's payload length, in bytes
_MORE_FRAGMENTS, _DONT_FRAGMENT, _FRAGMENT_OFFSET = 0x2000, 0x4000, 0x1FFF
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


# --- lengths and checksums -----------------------------------------------------------------------------------------------------


def repair(packet: bytes, *, udp_checksum: bool = False) -> bytes:
    """The same packet with every length and checksum made right; what is right already stays, to the bit.

    The length is that of ``packet``: whatever follows the headers belongs to the packet, for a queue never hands out bytes behind
    its end (Linux has cut them off, `ip_rcv_core`). Made right are the total length and header checksum of IPv4, the payload length
    of IPv6, the length of UDP, and the checksums named above. A UDP checksum of 0 in IPv4 says that there is none (RFC 768), and
    is kept; ``udp_checksum`` puts one in its place. A UDP-Lite checksum goes on covering as much as it says, or everything if that
    is no longer there.

    A fragment, the first one too, keeps its transport header: the checksum goes over parts that are not at hand.

    Of addresses in IP options and IPv6 extension headers the checksum sees the last one (source routes, routing headers of type
    0, 2, 3 and 4) or the home address, as RFC 1122, 8200 and 6275 demand. The ICV of an authentication header cannot be repaired.

    Raises `PacketError` for what is no IP packet: a header that is cut off, more than 65535 bytes, a jumbogram, a routing header
    under way whose last address cannot be known.
    """
    data = bytearray(packet)
    v4 = _version(packet) == 4
    upper = _repair_ipv4(data) if v4 else _repair_ipv6(data)
    known = _PROTOCOLS.get((v4, upper.protocol)) if upper else None
    if upper is None or known is None:
        return bytes(data)
    at, size = upper.at, len(data) - upper.at
    if size < known.header:
        raise PacketError(f"{known.name} header is cut off", at)
    covered = size
    if upper.protocol == _UDP:
        _U16.pack_into(data, at + 4, size)
        if v4 and not udp_checksum and data[at + 6] == data[at + 7] == 0:
            return bytes(data)
    elif upper.protocol == _UDPLITE:
        (covered,) = _U16.unpack_from(data, at + 4)
        if not known.header <= covered <= size:
            _U16.pack_into(data, at + 4, 0)
            covered = size
    pseudo_header = upper.addresses + upper.protocol + size if known.pseudo_header else 0
    _repair_checksum(data, at, at + covered, at + known.checksum, pseudo_header, known.never_zero)
    return bytes(data)


class _Protocol(NamedTuple):
    """Where a protocol has its checksum."""

    name: str
    header: int  #: how many bytes there are at least
    checksum: int  #: where in the header it stands
    pseudo_header: bool  #: it goes over addresses, protocol and length, too
    never_zero: bool  #: 0 would mean something else; a sum of 0 is written as 0xffff, which is equal to it


_PROTOCOLS = {
    (True, _ICMP): _Protocol("ICMP", 8, 2, False, False),
    (True, _IGMP): _Protocol("IGMP", 8, 2, False, False),
    (False, _ICMPV6): _Protocol("ICMPv6", 8, 2, True, False),
    **{(v4, _TCP): _Protocol("TCP", 20, 16, True, False) for v4 in (True, False)},
    **{(v4, _UDP): _Protocol("UDP", 8, 6, True, True) for v4 in (True, False)},
    **{(v4, _UDPLITE): _Protocol("UDP-Lite", 8, 6, True, True) for v4 in (True, False)},
}


class _Upper(NamedTuple):
    """What IP says of the layer above."""

    protocol: int
    at: int  #: where it begins
    addresses: int  #: the sum of both, for the pseudo-header


def _version(packet: bytes) -> int:
    """4 or 6, if there is a whole header without options."""
    version = packet[0] >> 4 if packet else 0
    if version not in (4, 6):
        raise PacketError(f"no IP packet: version {version}" if packet else "no IP packet: no bytes", 0)
    if len(packet) < (20 if version == 4 else 40):
        raise PacketError(f"IPv{version} header is cut off", 0)
    if version == 4 and not 20 <= _ipv4_header(packet) <= len(packet):
        raise PacketError(f"IPv4 header of {_ipv4_header(packet)} bytes in a packet of {len(packet)}", 0)
    return version


def _ipv4_header(packet: bytes | bytearray) -> int:
    """How long it is, options included."""
    return (packet[0] & 0xF) << 2


def _repair_ipv4(data: bytearray) -> _Upper | None:
    """Repair the header. None: a fragment."""
    if len(data) > _MAX_LENGTH:
        raise PacketError(f"{len(data)} bytes are too long for an IPv4 packet (65535)", 2)
    at = _ipv4_header(data)
    _U16.pack_into(data, 2, len(data))
    _repair_checksum(data, 0, at, 10)
    if _U16.unpack_from(data, 6)[0] & (_MORE_FRAGMENTS | _FRAGMENT_OFFSET):
        return None
    destination = data[16:20]
    for kind, option in _options(data[20:at], ends=0, fills=1, beside=0):
        if kind in (131, 137) and len(option) >= 7 and option[2] <= len(option):  # a source route that is still under way
            destination = option[-4:]
    return _Upper(data[9], at, int.from_bytes(data[12:16], "big") + int.from_bytes(destination, "big"))


def _repair_ipv6(data: bytearray) -> _Upper | None:
    """Repair the header. None: a fragment."""
    if len(data) - 40 > _MAX_LENGTH:
        raise PacketError(f"{len(data) - 40} bytes are too long for the payload of an IPv6 packet (65535)", 4)
    _U16.pack_into(data, 4, len(data) - 40)
    source, destination = data[8:24], data[24:40]
    protocol, at = data[6], 40
    while protocol in _EXTENSIONS:
        if len(data) < at + 2 or len(data) < at + _extension_length(data, at, protocol):
            raise PacketError(f"IPv6 extension header {protocol} is cut off", at)
        header = data[at : at + _extension_length(data, at, protocol)]
        if protocol == _FRAGMENT and _U16.unpack_from(header, 2)[0] & 0xFFF9:
            return None
        if protocol == _ROUTING and header[3]:
            destination = _last_address(header, destination, at)
        elif protocol in (_HOPOPTS, _DSTOPTS):
            for kind, option in _options(header[2:], ends=None, fills=0, beside=2):
                if kind == 0xC2 and protocol == _HOPOPTS:
                    raise PacketError("a jumbogram, whose length is in an option", at)
                if kind == 0xC9 and protocol == _DSTOPTS and len(option) == 18:  # home address
                    source = option[2:]
        protocol, at = header[0], at + len(header)
    return _Upper(protocol, at, int.from_bytes(source, "big") + int.from_bytes(destination, "big"))


def _extension_length(data: bytes | bytearray, at: int, kind: int) -> int:
    if kind == _FRAGMENT:
        return 8
    return (data[at + 1] + 2) << 2 if kind == _AH else (data[at + 1] + 1) << 3


def _options(area: bytearray, *, ends: int | None, fills: int, beside: int) -> Iterator[tuple[int, bytearray]]:
    """Kind and bytes of each option. ``beside``: how many bytes an option has beside those that its length counts."""
    at = 0
    while at + 1 < len(area) and area[at] != ends:
        length = 1 if area[at] == fills else max(area[at + 1] + beside, 2)
        yield area[at], area[at : at + length]
        at += length


def _last_address(header: bytearray, destination: bytearray, at: int) -> bytearray:
    """Where a routing header will have led the packet in the end."""
    kind, last = header[2], bytearray()
    if kind in (0, 2):
        last = header[8:][-16:]
    elif kind == 3:  # RFC 6554: addresses without what they have in common with the destination
        common, padding = header[4] & 0xF, header[5] >> 4
        last = destination[:common] + header[8 : len(header) - padding][common - 16 :]
    elif kind == 4:  # RFC 8754: the last comes first
        last = header[8:24]
    if len(last) != 16:
        raise PacketError(f"IPv6 routing header of type {kind} does not tell the last address", at)
    return last


def _repair_checksum(data: bytearray, start: int, end: int, at: int, before: int = 0, never_zero: bool = False) -> None:
    """Make the checksum at ``at`` right, over ``data[start:end]`` and what adds up to ``before``."""
    if _checksum(data[start:end], before) == 0 and (any(data[at : at + 2]) or not never_zero):
        return  # 0 and 0xffff are one number: right is right
    _U16.pack_into(data, at, 0)
    _U16.pack_into(data, at, _checksum(data[start:end], before) or (0xFFFF if never_zero else 0))


def _checksum(data: bytes | bytearray, before: int = 0) -> int:
    """The Internet checksum (RFC 1071); 0 over data that has its right checksum in it.

    Adding words with the carry brought round is adding modulo 0xffff, and 2^16 is 1 there: so all words are one long number.
    """
    total = before + int.from_bytes(data + b"\0" if len(data) & 1 else data, "big")
    return -total % 0xFFFF if total else 0xFFFF


# --- what a rejected packet is answered ----------------------------------------------------------------------------------------

_RESET = -1

#: ``--reject-with`` of iptables -> code of the ICMP error "destination unreachable" (include/uapi/linux/icmp.h)
_WITH_IPV4 = {
    "icmp-net-unreachable": 0,
    "icmp-host-unreachable": 1,
    "icmp-proto-unreachable": 2,
    "icmp-port-unreachable": 3,
    "icmp-net-prohibited": 9,
    "icmp-host-prohibited": 10,
    "icmp-admin-prohibited": 13,
    "tcp-reset": _RESET,
    # the short names iptables also takes
    "net-unreach": 0,
    "host-unreach": 1,
    "proto-unreach": 2,
    "port-unreach": 3,
    "net-prohib": 9,
    "host-prohib": 10,
    "admin-prohib": 13,
    "tcp-rst": _RESET,
}
#: the same of ip6tables (include/uapi/linux/icmpv6.h)
_WITH_IPV6 = {
    "icmp6-no-route": 0,
    "icmp6-adm-prohibited": 1,
    "icmp6-addr-unreachable": 3,
    "icmp6-port-unreachable": 4,
    "icmp6-policy-fail": 5,
    "icmp6-reject-route": 6,
    "tcp-reset": _RESET,
    "no-route": 0,
    "adm-prohibited": 1,
    "addr-unreach": 3,
    "port-unreach": 4,
    "policy-fail": 5,
    "reject-route": 6,
}
_DEFAULT = "port-unreach"

_UNREACHABLE, _UNREACHABLE_IPV6 = 3, 1
#: an error is never longer than that; it quotes as much as fits
_MAX_ERROR, _MAX_ERROR_IPV6 = 576, 1280
#: ICMP types that are errors (unreachable, source quench, redirect, time exceeded, parameter problem) or that Linux takes for one:
#: those nobody uses, router advertisements and solicitations (`icmp_pointers`), what comes behind the last (`__icmp_send`)
_ICMP_ERRORS, _LAST_ICMP = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12)), 18
_FIRST_ICMPV6_QUERY = 128  #: what comes before is an error
#: protocols whose checksum, if any, is not the Internet checksum of everything
_NOT_VERIFIED = frozenset((_GRE, _ESP, _AH, _SCTP, _UDPLITE))
#: TTL and hop limit of what a host sends (``net.ipv4.ip_default_ttl``, ``net.ipv6.conf.all.hop_limit``)
_TTL = 64
_PRECEDENCE = 0xC0  #: "internetwork control", in the TOS of an ICMP error


def reject(packet: bytes, with_: str | None = None, *, check: bool = True, source: str | bytes | None = None) -> bytes | None:
    """The packet that the REJECT target of iptables would send because of this one; None where it would keep silent.

    ``with_`` is what follows ``--reject-with``, in its long or short form; without it the answer is "port unreachable".
    ``source`` is the address an ICMP error comes from: that of this host. Without it, and in a TCP RST always, it is the address
    that the packet was sent to. In IPv4 0.0.0.0 leaves the choice to the kernel that sends it.

    The rules are those of Linux (`nf_send_reset`, `nf_send_unreach` and `icmp_send` in net/ipv4, and their IPv6 twins). No answer
    is given to a RST or an ICMP error; to any but the first fragment; to what came from or went to more than one host, as far as
    addresses tell (the broadcast address of a network does not); to a wrong checksum, unless ``check=False`` says that it was
    verified or is not complete yet; with ``"tcp-reset"``, to anything but TCP. Of checksums the kernel is no fine judge here: a
    protocol that it does not know is answered only if the sum over the whole packet happens to be that of a right one.

    The answer differs from the kernel's in three things: the IPv4 id is 0 (a kernel that sends it puts one in), the TTL 64 even if
    configured otherwise, and IP options are not sent back. Of a packet that was cut short, what is there is quoted.

    Raises `PacketError` for what is no IP packet, ValueError for a ``with_`` that does not go with the packet's family.
    """
    v4 = _version(packet) == 4
    names = _WITH_IPV4 if v4 else _WITH_IPV6
    code = names.get(with_ or _DEFAULT)
    if code is None:
        raise ValueError(f"an IPv{4 if v4 else 6} packet is rejected with one of {', '.join(names)}, not with {with_}")
    rejected = _rejected_ipv4(packet) if v4 else _rejected_ipv6(packet)
    if rejected is None or (check and not _verified(rejected)):
        return None
    if code == _RESET:
        return _reset(rejected)
    return (_unreachable_ipv4 if v4 else _unreachable_ipv6)(rejected, code, source)


class _Rejected(NamedTuple):
    """What there is to know about the packet that gets an answer."""

    packet: bytes
    v4: bool
    length: int  #: as the header says; less may be there
    protocol: int
    at: int  #: where the transport header begins
    src: bytes
    dst: bytes


def _rejected_ipv4(packet: bytes) -> _Rejected | None:
    """None: a later fragment."""
    length, _, fragment = _U16_TRIPLE.unpack_from(packet, 2)
    if fragment & _FRAGMENT_OFFSET:
        return None
    length = length or len(packet)  # a segment yet to be cut may be longer than the field can say
    return _Rejected(packet[:length], True, length, packet[9], _ipv4_header(packet), packet[12:16], packet[16:20])


def _rejected_ipv6(packet: bytes) -> _Rejected | None:
    """`ipv6_skip_exthdr`. None: a later fragment, or nothing behind the extension headers."""
    (length,) = _U16.unpack_from(packet, 4)
    length = length + 40 if length else len(packet)
    packet = packet[:length]
    protocol, at = packet[6], 40
    while protocol in _EXTENSIONS:
        if len(packet) < at + (4 if protocol == _FRAGMENT else 2):
            return None
        if protocol == _FRAGMENT and _U16.unpack_from(packet, at + 2)[0] & ~7:
            return None
        protocol, at = packet[at], at + _extension_length(packet, at, protocol)
    return _Rejected(packet, False, length, protocol, at, packet[8:24], packet[24:40]) if at < len(packet) else None


def _verified(rejected: _Rejected) -> bool:
    """The checksum is right, or of a kind that is not looked at (`nf_reject_verify_csum`, `nf_ip_checksum`, `nf_ip6_checksum`)."""
    packet, v4, length, protocol, at, src, dst = rejected
    if protocol in _NOT_VERIFIED or len(packet) < length:
        return True
    if protocol == _UDP and packet[at + 6 : at + 8] == b"\0\0":
        return True
    before = 0
    if not v4 or protocol in (_TCP, _UDP):
        before = int.from_bytes(src, "big") + int.from_bytes(dst, "big") + protocol + length - at
    return not _checksum(packet if v4 else packet[at:], before)  # an IPv4 header adds up to nothing


def _reset(rejected: _Rejected) -> bytes | None:
    """`nf_send_reset`, `nf_send_reset6`."""
    packet, v4, length, protocol, at, src, dst = rejected
    if protocol != _TCP or len(packet) < at + 20:
        return None
    one_host = _one_host_ipv4 if v4 else _unicast_ipv6
    sport, dport, seq, ack, offset, flags, *_ = _TCP_HEADER.unpack_from(packet, at)
    if flags & _RST or not one_host(src) or not one_host(dst):
        return None
    if flags & _ACK:
        segment = _TCP_HEADER.pack(dport, sport, ack, 0, 5 << 4, _RST, 0, 0, 0)
    else:
        payload = length - at - (offset >> 4 << 2)
        following = (seq + bool(flags & _SYN) + bool(flags & _FIN) + payload) & 0xFFFFFFFF
        segment = _TCP_HEADER.pack(dport, sport, 0, following, 5 << 4, _RST | _ACK, 0, 0, 0)
    return _ipv4(_TCP, dst, src, segment, flags=_DONT_FRAGMENT) if v4 else _ipv6(_TCP, dst, src, segment)


def _unreachable_ipv4(rejected: _Rejected, code: int, source: str | bytes | None) -> bytes | None:
    """`nf_send_unreach`, `icmp_send`."""
    packet, _, _, protocol, at, src, dst = rejected
    if not _one_host_ipv4(src) or not _one_host_ipv4(dst):
        return None
    if protocol == _ICMP and (at >= len(packet) or packet[at] > _LAST_ICMP or packet[at] in _ICMP_ERRORS):
        return None
    message = _ICMP_HEADER.pack(_UNREACHABLE, code, 0, 0) + packet[: _MAX_ERROR - 28]
    return _ipv4(_ICMP, _address(source, dst), src, message, tos=packet[1] & 0x1E | _PRECEDENCE)


def _unreachable_ipv6(rejected: _Rejected, code: int, source: str | bytes | None) -> bytes | None:
    """`nf_send_unreach6`, `icmp6_send`."""
    packet, _, _, protocol, at, src, dst = rejected
    if dst[0] == 0xFF or src[0] == 0xFF or not any(src):
        return None
    if protocol == _ICMPV6 and packet[at] < _FIRST_ICMPV6_QUERY:
        return None
    message = _ICMP_HEADER.pack(_UNREACHABLE_IPV6, code, 0, 0) + packet[: _MAX_ERROR_IPV6 - 48]
    return _ipv6(_ICMPV6, _address(source, dst), src, message)


def _one_host_ipv4(address: bytes) -> bool:
    """Not in 0.0.0.0/8, not multicast, not to everybody."""
    return address[0] != 0 and not 224 <= address[0] <= 239 and address != b"\xff\xff\xff\xff"


def _unicast_ipv6(address: bytes) -> bool:
    """``ipv6_addr_type() & IPV6_ADDR_UNICAST``: not multicast, not the unspecified address, not an IPv4 address in disguise."""
    return address[0] != 0xFF and any(address) and not address.startswith(bytes(10) + b"\xff\xff")


def _address(given: str | bytes | None, otherwise: bytes) -> bytes:
    return otherwise if given is None else ip_address(given).packed


def _ipv4(protocol: int, src: bytes, dst: bytes, message: bytes, *, tos: int = 0, flags: int = 0) -> bytes:
    return repair(_IPV4.pack(0x45, tos, 0, 0, flags, _TTL, protocol, 0, src, dst) + message)


def _ipv6(protocol: int, src: bytes, dst: bytes, message: bytes) -> bytes:
    return repair(_IPV6.pack(6 << 28, 0, protocol, _TTL, src, dst) + message)
