"""IPv6 extension headers on their way in (net/ipv6/exthdrs.c, net/ipv6/reassembly.c).

Modelled is what lets a packet pass or drops it in silence. What makes the kernel answer with a parameter problem or send the
packet elsewhere is refused.
"""

from __future__ import annotations

from nfnl.errors import NotModelled
from nfnl.sim.skb import DSTOPTS, FRAGMENT, HOPOPTS, ROUTING

_PAD1, _PADN, _ROUTER_ALERT, _CALIPSO, _IOAM = 0, 1, 5, 7, 49
#: Most options in one header, most bytes of padding in a row.
_MAX_OPTIONS, _MAX_PADDING = 8, 7


class Malformed(Exception):
    """Dropped without a word."""


def after_hop_by_hop(data: bytes) -> int:
    """Where a hop-by-hop header right behind the IPv6 header ends. Raises `Malformed`, `NotModelled`."""
    return _options(data, 40, hop_by_hop=True)


def skip(data: bytes, multicast: bool) -> tuple[int, int, int]:
    """The protocol behind the extension headers, where it starts, and where its number stands.

    Stops at a fragment header, unless it belongs to a whole packet. Raises `Malformed`, `NotModelled`.
    """
    protocol, at, named_at = data[6], 40, 6
    if protocol == HOPOPTS:  # checked when it came in, unless a verdict has put it there
        if len(data) < 48:
            raise NotModelled("a next header of 0 put in by a verdict: Linux answers with a parameter problem")
        protocol, at, named_at = data[40], 40 + (data[41] + 1 << 3), 40
    while protocol in (ROUTING, FRAGMENT, DSTOPTS):
        if protocol == FRAGMENT and (
            len(data) < at + 8 or data[4:6] == b"\0\0" or int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF9
        ):
            break
        if len(data) < at + 8:
            raise Malformed("cut off IPv6 extension header")
        following = data[at]
        if protocol == DSTOPTS:
            end = _options(data, at, hop_by_hop=False)
        elif protocol == FRAGMENT:
            end = at + 8
        else:
            end = at + (data[at + 1] + 1 << 3)
            if len(data) < end:
                raise Malformed("cut off IPv6 extension header")
            if multicast:
                raise Malformed("routing header to many")
            if data[at + 3] or data[at + 2] in (2, 3, 4):
                raise NotModelled("IPv6 routing headers")
        protocol, at, named_at = following, end, at
    return protocol, at, named_at


def _options(data: bytes, start: int, *, hop_by_hop: bool) -> int:
    """`ip6_parse_tlv`. Returns where the header ends."""
    if len(data) < start + 8 or len(data) < start + (data[start + 1] + 1 << 3):
        raise Malformed("cut off IPv6 extension header")
    end = start + (data[start + 1] + 1 << 3)
    at, count, padding = start + 2, 0, 0
    while at < end:
        option = data[at]
        length = 1 if option == _PAD1 else data[at + 1] + 2 if at + 1 < end else end
        if at + length > end:
            raise Malformed("IPv6 option longer than its header")
        if option in (_PAD1, _PADN):
            padding += length
            if padding > _MAX_PADDING or any(data[at + 2 : at + length]):
                raise Malformed("too much IPv6 padding, or not of zeros")
        else:
            count += 1
            padding = 0
            _option(option, length, hop_by_hop)
            if count > _MAX_OPTIONS:
                raise Malformed("too many IPv6 options")
        at += length
    return end


def _option(option: int, length: int, hop_by_hop: bool) -> None:
    """The two upper bits of an option's number say what to do about it if it is unknown: 0 pass over it, 1 discard the packet."""
    if hop_by_hop and option == _ROUTER_ALERT and length != 4:
        raise Malformed("router alert of a wrong length")
    if (hop_by_hop and option in (_CALIPSO, _IOAM)) or option >> 6 > 1:
        raise NotModelled(f"IPv6 option {option:#x}")
    if option >> 6 == 1:
        raise Malformed("IPv6 option that says to discard the packet")
