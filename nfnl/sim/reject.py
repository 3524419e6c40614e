"""The answer of the REJECT target (net/ipv4/netfilter/nf_reject_ipv4.c, net/ipv6/netfilter/nf_reject_ipv6.c)."""

from __future__ import annotations

from collections.abc import Callable

from nfnl.sim import answers
from nfnl.sim.checksums import is_right
from nfnl.sim.responder import Responder
from nfnl.sim.routing import Routing, leaks
from nfnl.sim.skb import IPV4, TCP, UDP, Device, Route, RouteType, Skb

#: GRE, ESP, AH, SCTP, UDP-Lite: their checksum, if any, is not the Internet checksum of everything (`nf_reject_verify_csum`).
_NOT_VERIFIED = frozenset((47, 50, 51, 132, 136))
_RST = 0x04


class Rejecter:
    """Answers for the rules of one network namespace."""

    __slots__ = ("_responder", "_routing", "closing")

    def __init__(self, responder: Responder, routing: Routing) -> None:
        self._responder = responder
        self._routing = routing
        #: told of the packet whose connection is reset
        self.closing: Callable[[Skb], object] = _nobody_cares

    def __call__(self, skb: Skb, code: int | None) -> None:
        """Tell the sender of a packet that it is not wanted: "destination unreachable" with a code, or None for a TCP reset."""
        v4 = skb.family == IPV4
        found = self._transport(skb)
        if found is None:
            return
        protocol, at = found
        if code is None:
            if protocol == TCP:
                self._reset(skb, at)
        elif skb.csum_unnecessary or not _is_verified(skb, protocol, at) or is_right(skb, protocol, at):
            kind = answers.DEST_UNREACH if v4 else answers.V6_DEST_UNREACH
            self._responder.icmp_error(skb, kind, code, dev=self._near(skb))

    @staticmethod
    def _transport(skb: Skb) -> tuple[int, int] | None:
        """Protocol and offset of the transport header; None where none can be. (In IPv4 nobody asks whether it is there.)"""
        _, _, protocol, fragment, at = skb.parse()
        least = 20 if skb.family == IPV4 else max(40, at + 1)
        return (protocol, at) if len(skb.data) >= least and not fragment else None

    def _near(self, skb: Skb) -> Device | None:
        """Of a packet that leaves from here, the device behind which its link-local source is looked for (`icmp6_dev`)."""
        if skb.indev or not skb.dst:
            return skb.indev
        return self._routing.owner(skb.parse()[1]) if skb.dst.dev is self._routing.lo else skb.dst.dev

    def _reset(self, skb: Skb, at: int) -> None:
        """`nf_send_reset`, `nf_send_reset6`."""
        data, family = skb.data, skb.family
        if len(data) < at + 20 or data[at + 13] & _RST or not (skb.csum_unnecessary or is_right(skb, TCP, at)):
            return
        src, dst, *_ = skb.parse()
        answer = answers.reset(family, data, at, ttl=self._responder.ttl(family), tos=0)
        route = self._way_back(skb, src, dst)
        if answer is None or route is None:
            return
        pseudo = answers.pseudo(dst, src, TCP, 20) if family == IPV4 else None
        self.closing(skb)
        self._responder.answer(skb, route, answer, pseudo=pseudo, sk=None, related=True)

    def _way_back(self, skb: Skb, src: bytes, dst: bytes) -> Route | None:
        if skb.family == IPV4:
            if skb.dst is None or skb.dst.type in (RouteType.BROADCAST, RouteType.MULTICAST):
                return None
        elif not (_is_unicast(src) and _is_unicast(dst)):
            return None
        route = self._routing.output(skb.family, src)
        return None if route is None or route.type is RouteType.UNREACHABLE or leaks(dst, route) else route


def _is_unicast(address: bytes) -> bool:
    """``ipv6_addr_type() & IPV6_ADDR_UNICAST``: not multicast, not the unspecified address, not an IPv4 address in disguise."""
    return address[0] != 0xFF and any(address) and not address.startswith(bytes(10) + b"\xff\xff")


def _is_verified(skb: Skb, protocol: int, at: int) -> bool:
    """The checksum has to be right for an answer (`nf_reject_verify_csum`)."""
    return protocol not in _NOT_VERIFIED and not (protocol == UDP and skb.data[at + 6 : at + 8] == b"\0\0")


def _nobody_cares(skb: Skb) -> None:
    pass
