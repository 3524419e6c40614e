"""What connection tracking reads from a packet: its tuple, and what a protocol's tracker says about it."""

from __future__ import annotations

from collections.abc import Mapping
from struct import unpack_from

from nfnl.sim import tracker_sctp, tracker_tcp
from nfnl.sim.checksums import is_right, is_right_sctp
from nfnl.sim.ct_entry import Entry
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, TCP, UDP, Checksum, Skb, find_header
from nfnl.sim.tcp_segment import read_segment
from nfnl.sim.tracker import INVALID, Answer
from nfnl.sim.tracker_simple import TRACKERS, sound_udp, sound_udplite, track_generic
from nfnl.sim.tuples import GRE, PORT_PROTOCOLS, SCTP, UDPLITE, Tuple

#: Bytes of a transport header without which there is no tuple.
_LEAST = {ICMP: 8, ICMPV6: 8}
_PPP = 0x880B


def where(skb: Skb) -> tuple[int, int] | None:
    """Protocol and offset of the transport header; None if it cannot be found, or is in another fragment (`get_l4proto`)."""
    _, _, protocol, fragment, at = skb.ip or skb.parse()
    size = len(skb.data)
    if protocol < 0 or fragment or at > size or (skb.family == IPV4 and at < 20):
        return None
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
    """`gre_pkt_to_tuple`: version 1 has the call id of PPTP, all others have nothing."""
    if len(data) < at + 4:
        return None
    version, protocol = data[at + 1] & 7, data[at + 2] << 8 | data[at + 3]
    if version != 1:
        return 0, 0
    if len(data) < at + 8 or protocol != _PPP:
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
    protocol, at, fragment = find_header(data)
    if protocol < 0 or fragment & ~7:
        return None
    return tuple_of(family, data, protocol, at)


def is_sound(skb: Skb, protocol: int, at: int) -> bool:
    """Whether the checksum is right, where the protocol's tracker wants it to be (`nf_checksum`). For what comes in."""
    if skb.csum is not Checksum.NONE or protocol not in (TCP, UDP, UDPLITE, ICMP, ICMPV6):
        return True
    if protocol == UDP and skb.data[at + 6 : at + 8] == b"\0\0":
        return True
    # The tracker of UDP-Lite has the checksum verified as if it were UDP's, so a right one is taken for wrong.
    return is_right(skb, UDP if protocol == UDPLITE else protocol, at)


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
    return TRACKERS.get(protocol, track_generic)(entry, current, now)
