"""When the kernel answers of its own accord, from which address, by which way, and how often.

What it says is in `nfnl.sim.answers`. Sources: net/ipv4/icmp.c, net/ipv6/icmp.c, net/ipv4/route.c, net/ipv4/inetpeer.c.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENETUNREACH

from nfnl.sim import answers
from nfnl.sim.clock import Clock
from nfnl.sim.journey import Journey
from nfnl.sim.routing import ANY4, ANY6, LOOPBACK6, Routing, is_link_local, leaks
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, KERNEL, TCP, Device, Link, Owner, Route, RouteType, Skb, family_of

_HOP_LIMIT = 64


class Peer:
    """What is remembered of an address for the sake of rate limits (`struct inet_peer`). Milliseconds.

    Several limits share these three numbers, as they do in the kernel: one kind of message can use up what another had saved,
    and messages that cost nothing let nothing be saved.
    """

    __slots__ = ("last", "redirects", "tokens")

    def __init__(self, now: int) -> None:
        self.tokens = 0
        self.last = now - 60_000
        self.redirects = 0

    def error_allowed(self, now: int, cost: int, burst: int = 6) -> bool:
        """`inet_peer_xrlim_allow`."""
        if now != self.last:
            self.tokens = min(self.tokens + now - self.last, burst * cost)
            self.last = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def redirect_allowed(self, now: int) -> bool:
        """`ip_rt_send_redirect`: at growing intervals, nine times, then silence for 20 seconds."""
        if now > self.last + 20_480:
            self.tokens = self.redirects = 0
        if self.redirects >= 9:
            self.last = now
            return False
        if self.redirects and now <= self.last + (20 << self.redirects):
            return False
        self.last = now
        self.redirects += 1
        return True


class Responder:
    """Sends the kernel's own packets of one network namespace through ``send``, which takes them from OUTPUT on."""

    __slots__ = ("_clock", "_ip_id", "_peers", "_routing", "_send", "_speaking", "_sysctls", "related")

    def __init__(self, clock: Clock, routing: Routing, sysctls: dict[str, int], send: Callable[[Skb], int]) -> None:
        self._clock = clock
        self._routing = routing
        self._sysctls = sysctls
        self._send = send
        self._ip_id = 0
        self._peers: dict[bytes, Peer] = {}
        #: the ICMP socket is sending, and can send nothing else meanwhile (`icmp_xmit_lock`)
        self._speaking = False
        #: told of an ICMP error or a rule's RST and the packet it is about, before it is sent: it belongs to the same flow
        self.related: Callable[[Skb, Skb], object] = _nobody_cares

    def way_back(
        self, cause: Skb, src: bytes | None, dev: Device | None = None, source_of: Device | None = None
    ) -> tuple[Route, bytes] | None:
        """A route to where ``cause`` came from, and a source; None if there is no way.

        ``src`` None: any source that suits, of the device ``source_of`` if possible. ``dev``: leave through no other.
        """
        to = cause.parse()[0]
        route = self._routing.output(cause.family, to, dev=dev)
        if route is None or route.type is RouteType.UNREACHABLE:
            return None
        if src is None:
            src = self._routing.source(cause.family, route, to, source_of)
        elif cause.family == IPV4 and not self._routing.is_local(src):
            return None  # a verdict has turned the packet to an address that is not ours
        return None if src is None or leaks(src, route) else (route, src)

    def asked(self, skb: Skb) -> bytes | None:
        """The address it was sent to, if that is one of this machine's and of no other."""
        dst = skb.parse()[1]
        return dst if skb.dst is not None and skb.dst.type is RouteType.LOCAL and dst not in (ANY4, ANY6) else None

    def came_in(self, skb: Skb) -> Device | None:
        """The input device; for what came over the loopback, the one that owns the destination (`icmp6_dev`, `tcp_v6_iif`)."""
        return self._routing.owner(skb.parse()[1]) if skb.indev is self._routing.lo else skb.indev

    def answer(
        self,
        cause: Skb,
        route: Route,
        data: bytes,
        *,
        pseudo: int | None = None,
        sk: Owner | None = KERNEL,
        related: bool = False,
    ) -> None:
        """Send a packet of the kernel's own because of ``cause``.

        ``pseudo``: the device is to complete its TCP checksum, from this sum of the pseudo header on. ``sk`` is None where no
        socket sends it. ``related``: it belongs to the flow of ``cause``.
        """
        skb = Skb(data, family_of(data), Journey(data, data), sk=sk)
        by_icmp = data[9] == ICMP if skb.family == IPV4 else data[6] == ICMPV6
        cause.journey.answers.append(skb.journey)
        skb.dst = route
        skb.ignore_df = True
        skb.transport = 20 if skb.family == IPV4 else 40
        if pseudo is not None:
            skb.set_partial(skb.transport, 16, pseudo)
        if related:
            self.related(skb, cause)
        before, self._speaking = self._speaking, self._speaking or by_icmp
        try:
            self._send(skb)
        finally:
            self._speaking = before

    def reset(self, cause: Skb, at: int) -> None:
        """`tcp_v4_send_reset`, `tcp_v6_send_reset`."""
        data = answers.reset(cause.family, cause.data, at, ttl=self.ttl(cause.family))
        src, dst, *_ = cause.parse()
        strict = cause.family == IPV6 and (src == LOOPBACK6 or is_link_local(src))
        back = self.way_back(cause, self.asked(cause), self.came_in(cause) if strict else None)
        if data is None or back is None:
            return
        route, source = back
        if dst in (ANY4, ANY6):  # the checksum was made before a source was found, and stays as it is
            data = answers.with_source(data, source)
        if cause.family == IPV4:
            self.answer(cause, route, data)
        else:  # `tcp_v6_send_response` sends it without a socket
            self.answer(cause, route, data, pseudo=answers.pseudo(dst, src, TCP, 20), sk=None)

    def icmp_error(self, cause: Skb, kind: int, code: int, info: int = 0, *, dev: Device | None = None) -> None:
        """`icmp_send`, `icmp6_send`: if this packet is one to complain about, and not too often.

        ``dev``: where link-local addresses are looked for, if not behind its input device.
        """
        if self._speaking:
            return
        v6 = cause.family == IPV6
        src = cause.parse()[0]
        to_many = cause.dst is not None and cause.dst.type in (RouteType.BROADCAST, RouteType.MULTICAST)
        if to_many and not (v6 and kind == answers.V6_PACKET_TOO_BIG):
            return
        if v6 and (src == ANY6 or src[0] == 0xFF or self._routing.is_anycast(src)):
            return
        if not answers.deserves_error(cause.family, cause.data):
            return
        own = self.asked(cause)
        if v6 and own and not self._routing.is_local(own):
            own = None
        back = self.way_back(cause, own, (dev or cause.indev) if v6 and is_link_local(src) else None, cause.indev if v6 else None)
        if back is None or not self._rate_allows(cause.family, back[0], src, kind, code):
            return
        route, source = back
        ttl, ip_id = self.ttl(cause.family), self.next_id()
        data = answers.icmp_error(cause.family, cause.data, kind, code, info, source, ttl=ttl, id=ip_id)
        self.answer(cause, route, data, related=True)

    def _rate_allows(self, family: int, back: Route, to: bytes, kind: int, code: int) -> bool:
        """`icmpv4_xrlim_allow`, `icmpv6_xrlim_allow`. The limit on all addresses together, which draws lots, is left out."""
        if back.dev.link is Link.LOOPBACK:
            return True
        if family == IPV4:
            limited = self._sysctls["net.ipv4.icmp_ratemask"] >> kind & 1
            cost = self._sysctls["net.ipv4.icmp_ratelimit"]
            if not limited or (kind, code) == (answers.DEST_UNREACH, answers.FRAG_NEEDED):
                return True
        else:
            if kind == answers.V6_PACKET_TOO_BIG:
                return True
            # more for those that stand for many: the wider the route, the cheaper
            cost = self._sysctls["net.ipv6.icmp.ratelimit"] >> (128 - back.length >> 5)
        return self._peer(to).error_allowed(self._milliseconds(), cost)

    def _peer(self, address: bytes) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(self._milliseconds())
        return peer

    def redirect(self, cause: Skb, gateway: bytes) -> None:
        """There is a shorter way: tell the sender, if it has not been told lately (`ip_rt_send_redirect`)."""
        if self._peer(cause.parse()[0]).redirect_allowed(self._milliseconds()):
            self.icmp_error(cause, answers.REDIRECT, answers.REDIRECT_HOST, int.from_bytes(gateway, "big"))

    def _milliseconds(self) -> int:
        return int(self._clock.now * 1000)

    def ttl(self, family: int) -> int:
        """Of the packets made here."""
        return self._sysctls["net.ipv4.ip_default_ttl"] if family == IPV4 else _HOP_LIMIT

    def next_id(self) -> int:
        """IPv4 ids of packets made here: 1, 2, 3 ... (the kernel's come from counters hashed with a secret)."""
        self._ip_id = self._ip_id % 0xFFFF + 1
        return self._ip_id

    def no_route(self, skb: Skb, error: int) -> None:
        """A packet to be forwarded found no route (`ip_error`): the errno says which."""
        now = self._milliseconds()
        if self._peer(skb.parse()[0]).error_allowed(now, 1000, burst=5):
            code = answers.NET_UNREACH if error == ENETUNREACH else answers.HOST_UNREACH
            self.icmp_error(skb, answers.DEST_UNREACH, code)


def _nobody_cares(answer: Skb, cause: Skb) -> None:
    pass
