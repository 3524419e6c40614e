"""The trackers that know little more than how long to wait: UDP, UDP-Lite, GRE, ICMP, and everything else.

nf_conntrack_proto_udp.c, ..._gre.c, ..._icmp.c, ..._icmpv6.c, ..._generic.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import unpack_from

from nfnl.sim.ct_entry import Entry, Event, Status
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.protoinfo import GreInfo, UdpInfo
from nfnl.sim.skb import ICMP, ICMPV6, UDP
from nfnl.sim.tracker import INVALID, Answer, Verdict, ticks_of
from nfnl.sim.tuples import GRE, UDPLITE

#: Two seconds after its first packet a flow that is answered counts as a stream.
_STREAM = 2 * HZ

#: Types that start a flow.
_STARTING = {ICMP: frozenset((8, 13, 15, 17)), ICMPV6: frozenset((128, 139))}

#: A packet of a flow: the flow, the sysctls by their short names, the time in ticks.
Tracker = Callable[[Entry, Mapping[str, int], int], Answer]


def track_udp(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """A datagram (`nf_conntrack_udp_packet`)."""
    if not entry.status & Status.CONFIRMED:
        entry.proto = UdpInfo(now + _STREAM)
    stream_from = entry.proto.stream_from if isinstance(entry.proto, UdpInfo) else 0
    if not entry.status & Status.SEEN_REPLY or now <= stream_from:
        return Answer(timeout=ticks_of(entry, current, "udp_timeout"))
    return _assured(entry, ticks_of(entry, current, "udp_timeout_stream"))


def track_udplite(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """A UDP-Lite datagram (`nf_conntrack_udplite_packet`)."""
    if not entry.status & Status.SEEN_REPLY:
        return Answer(timeout=ticks_of(entry, current, "udp_timeout"))
    return _assured(entry, ticks_of(entry, current, "udp_timeout_stream"))


def track_gre(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """A GRE packet (`nf_conntrack_gre_packet`).

    The timeouts are those of the time when the first packet came. A flow that a request made has none: its first packet ends it.
    """
    if not entry.status & Status.CONFIRMED:
        entry.proto = GreInfo(ticks_of(entry, current, "gre_timeout"), ticks_of(entry, current, "gre_timeout_stream"))
    info = entry.proto if isinstance(entry.proto, GreInfo) else GreInfo(0, 0)
    return _assured(entry, info.stream_timeout) if entry.status & Status.SEEN_REPLY else Answer(timeout=info.timeout)


def track_icmp(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """An ICMP message that is no error (`nf_conntrack_icmp_packet`)."""
    return _track_echo(entry, ticks_of(entry, current, "icmp_timeout"))


def track_icmpv6(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """An ICMPv6 message that is no error (`nf_conntrack_icmpv6_packet`)."""
    return _track_echo(entry, ticks_of(entry, current, "icmpv6_timeout"))


def track_generic(entry: Entry, current: Mapping[str, int], now: int) -> Answer:
    """A packet of any other protocol."""
    return Answer(timeout=ticks_of(entry, current, "generic_timeout"))


def _track_echo(entry: Entry, timeout: int) -> Answer:
    if not entry.status & Status.CONFIRMED and entry.original.icmp_type not in _STARTING[entry.protocol]:
        return INVALID
    return Answer(timeout=timeout)


def _assured(entry: Entry, timeout: int) -> Answer:
    """There is traffic both ways. One that lost a clash does not last and is never assured."""
    if entry.status & (Status.ASSURED | Status.NAT_CLASH):
        return Answer(timeout=timeout)
    return Answer(Verdict.ACCEPT, timeout, Status.ASSURED, Event.ASSURED)


#: By protocol; `track_generic` for those that are not here.
TRACKERS: dict[int, Tracker] = {
    UDP: track_udp,
    UDPLITE: track_udplite,
    GRE: track_gre,
    ICMP: track_icmp,
    ICMPV6: track_icmpv6,
}


def sound_udp(data: bytes) -> bool:
    """Whether a UDP header is there and its length fits, from the header to the end of the packet (`udp_error`)."""
    if len(data) < 8:
        return False
    length: int = unpack_from("!H", data, 4)[0]
    return 8 <= length <= len(data)


def sound_udplite(data: bytes) -> bool:
    """Whether a UDP-Lite header is there, its coverage fits, and it has a checksum (`udplite_error`)."""
    if len(data) < 8:
        return False
    coverage: int
    checksum: int
    coverage, checksum = unpack_from("!HH", data, 4)
    return (coverage == 0 or 8 <= coverage <= len(data)) and checksum != 0
