"""What connection tracking reads from a packet: its tuple, and what a protocol's tracker says about it."""

from __future__ import annotations

from collections.abc import Mapping
from struct import unpack_from

from nfnl.sim import tracker_sctp, tracker_tcp
from nfnl.sim.checksums import is_right, is_right_sctp
from nfnl.sim.ct_entry import Entry
from nfnl.sim.skb import (
    AUTH,
    DSTOPTS,
    FRAGMENT,
    HOPOPTS,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    NONE,
    ROUTING,
    TCP,
    UDP,
    Checksum,
    Skb,
)
from nfnl.sim.tcp_segment import read_segment
from nfnl.sim.tracker import INVALID, Answer
from nfnl.sim.tracker_simple import TRACKERS, sound_udp, sound_udplite, track_generic
from nfnl.sim.tuples import GRE, PORT_PROTOCOLS, SCTP, UDPLITE, Tuple

#: Bytes of a transport header without which there is no tuple.
_LEAST = {ICMP: 8, ICMPV6: 8}
_PPP = 0x880B
_FAMILIES = {ICMP: IPV4, ICMPV6: IPV6}
_EXTENSIONS = frozenset((HOPOPTS, ROUTING, FRAGMENT, AUTH, NONE, DSTOPTS))


def where(skb: Skb) -> tuple[int, int] | None:
    """Protocol and offset of the transport header; None if it cannot be found, or is in another fragment (`get_l4proto`)."""
    if skb.family == IPV6:
        return _behind_extensions(skb.data)
    _, _, protocol, fragment, at = skb.ip or skb.parse()
    if fragment or not 20 <= at <= len(skb.data):
        return None
    return protocol, at


def _behind_extensions(data: bytes) -> tuple[int, int] | None:
    """`ipv6_skip_exthdr`. Where it ends nobody asks whether there is anything."""
    protocol, at = data[6], 40
    while protocol in _EXTENSIONS:
        if protocol == NONE or len(data) < at + (4 if protocol == FRAGMENT else 2):
            return None
        if protocol == FRAGMENT:
            if (data[at + 2] << 8 | data[at + 3]) & ~7:
                return None
            size = 8
        else:
            size = (data[at + 1] + 2) << 2 if protocol == AUTH else (data[at + 1] + 1) << 3
        protocol, at = data[at], at + size
    return protocol, at


def tuple_of(family: int, data: bytes, protocol: int, at: int) -> Tuple | None:
    """The tuple of a packet whose transport header begins at ``at``; None where there is too little of it (`nf_ct_get_tuple`)."""
    src, dst = (data[12:16], data[16:20]) if family == IPV4 else (data[8:24], data[24:40])
    if protocol in _LEAST:
        if len(data) < at + 8:
            return None
        return Tuple(family, src, dst, protocol, data[at + 4] << 8 | data[at + 5], data[at] << 8 | data[at + 1])
    if protocol == GRE:
        keys = _gre_keys(data, at)
        return None if keys is None else Tuple(family, src, dst, protocol, *keys)
    if protocol in PORT_PROTOCOLS:
        if len(data) < at + 4:
            return None
        return Tuple(family, src, dst, protocol, *unpack_from("!HH", data, at))
    return Tuple(family, src, dst, protocol)


def _gre_keys(data: bytes, at: int) -> tuple[int, int] | None:
    """`gre_pkt_to_tuple`: version 1 has the call id of PPTP, all others have nothing, nor has what is cut off."""
    if len(data) < at + 8 or data[at + 1] & 7 != 1:
        return 0, 0
    if data[at + 2] << 8 | data[at + 3] != _PPP:
        return None
    return 0, data[at + 6] << 8 | data[at + 7]


def inner_tuple(family: int, data: bytes) -> Tuple | None:
    """The tuple of the packet that an ICMP error is about, as far as it quotes it (`nf_ct_get_tuplepr`)."""
    if family == IPV4:
        if len(data) < 20:
            return None
        at = (data[0] & 0xF) << 2
        if (data[6] << 8 | data[7]) & 0x1FFF or at < 20 or at > len(data):
            return None
        return tuple_of(family, data, data[9], at)
    if len(data) < 40:
        return None
    found = _behind_extensions(data)
    return None if found is None else tuple_of(family, data, *found)


def is_sound(skb: Skb, protocol: int, at: int) -> bool:
    """Whether the checksum is right, where the protocol's tracker wants it to be (`nf_checksum`). For what comes in."""
    if skb.csum is not Checksum.NONE or protocol not in (TCP, UDP, UDPLITE, ICMP, ICMPV6):
        return True
    if protocol == UDP and skb.data[at + 6 : at + 8] == b"\0\0":
        return True
    # The tracker of UDP-Lite has the checksum verified as if it were UDP's, so a right one is taken for wrong.
    if not is_right(skb, UDP if protocol == UDPLITE else protocol, at):
        return False
    skb.csum = Checksum.UNNECESSARY  # nobody has to look at it again (`__skb_checksum_complete`)
    return True


def track(entry: Entry, direction: int, skb: Skb, at: int, current: Mapping[str, int], now: int, checked: bool) -> Answer:
    """What the tracker of its protocol answers (`nf_conntrack_handle_packet`). ``checked``: the checksum has to be right."""
    protocol = entry.original.protocol
    data = skb.data[at:]
    if protocol == TCP:
        segment = read_segment(data)
        if segment is None or (checked and not is_sound(skb, protocol, at)):
            return INVALID
        return tracker_tcp.track(entry, direction, segment, current, now)
    if protocol == SCTP:
        packet = tracker_sctp.read_packet(data)
        if checked and skb.csum is Checksum.NONE and not is_right_sctp(data):
            return INVALID
        return INVALID if packet is None else tracker_sctp.track(entry, direction, packet, current, now)
    if (protocol == UDP and not sound_udp(data)) or (protocol == UDPLITE and not sound_udplite(data)):
        return INVALID
    if checked and protocol in (UDP, UDPLITE) and not is_sound(skb, protocol, at):
        return INVALID
    if protocol in _FAMILIES and _FAMILIES[protocol] != skb.family:
        return INVALID
    return TRACKERS.get(protocol, track_generic)(entry, current, now)
