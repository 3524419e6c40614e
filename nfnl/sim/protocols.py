"""What becomes of a packet for this machine behind INPUT (net/ipv4/ip_input.c, tcp_ipv4.c, udp.c, icmp.c, and their IPv6 twins).

There are no sockets: every TCP and UDP port is closed.
"""

from __future__ import annotations

from nfnl.errors import NotModelled
from nfnl.sim import answers, exthdrs
from nfnl.sim.clock import Clock
from nfnl.sim.defrag import Defragmenter, ParameterProblem
from nfnl.sim.journey import Fate
from nfnl.sim.responder import Responder
from nfnl.sim.routing import LOOPBACK6, is_link_local
from nfnl.sim.skb import FRAGMENT, ICMP, ICMPV6, IGMP, IPV4, IPV6, NONE, TCP, UDP, RouteType, Skb, checksum

_UDPLITE = 136


class Protocols:
    """The transport protocols of one network namespace."""

    __slots__ = ("_clock", "_defrag", "_responder", "_sysctls")

    def __init__(self, clock: Clock, responder: Responder, defrag: Defragmenter, sysctls: dict[str, int]) -> None:
        self._clock = clock
        self._responder = responder
        self._defrag = defrag
        self._sysctls = sysctls

    def deliver(self, skb: Skb) -> int:
        """Passed INPUT (`ip_protocol_deliver_rcu`, `ip6_protocol_deliver_rcu`)."""
        assert skb.dst is not None
        if skb.family == IPV4:
            protocol, at, named_at = skb.data[9], skb.transport, 0
        else:
            found = self._behind_extensions(skb)
            if found is None:
                return 0
            protocol, at, named_at = found
        handler = _HANDLERS[skb.family].get(protocol)
        if handler:
            problem = handler(self, skb, at)
            if problem:
                skb.drop(problem)
            else:
                skb.end(Fate.DELIVERED)
        else:
            if skb.family == IPV4:
                self._responder.icmp_error(skb, answers.DEST_UNREACH, answers.PROT_UNREACH)
            else:
                self._responder.icmp_error(skb, answers.V6_PARAMETER_PROBLEM, answers.V6_UNKNOWN_NEXT_HEADER, named_at)
            skb.end(Fate.DELIVERED, f"nobody knows protocol {protocol}")
        return 0

    def _behind_extensions(self, skb: Skb) -> tuple[int, int, int] | None:
        """The protocol, where it starts, where its number stands; None if the packet has ended in its extension headers."""
        assert skb.dst is not None
        try:
            while True:
                protocol, at, named_at = exthdrs.skip(skb.data, skb.dst.type is RouteType.MULTICAST)
                if protocol != FRAGMENT:
                    return protocol, at, named_at
                if not self._defrag.ipv6(skb, at, named_at):
                    return None
        except exthdrs.Malformed as malformed:
            skb.drop(str(malformed))
        except ParameterProblem as problem:
            self._responder.icmp_error(skb, answers.V6_PARAMETER_PROBLEM, problem.code, problem.pointer)
            skb.drop("a fragment that cannot be one")
        return None

    def _ignore(self, _skb: Skb, _at: int) -> str:
        return ""

    def _udplite(self, _skb: Skb, _at: int) -> str:
        raise NotModelled("UDP-Lite")

    def _tcp(self, skb: Skb, at: int) -> str:
        """`tcp_v4_rcv`, `tcp_v6_rcv`, where no socket is."""
        data = skb.data
        if len(data) < at + 20 or data[at + 12] >> 4 < 5 or len(data) < at + (data[at + 12] >> 4 << 2):
            return "malformed TCP header"
        if not _transport_checksum_right(skb, TCP, at):
            return "bad TCP checksum"
        if skb.dst is not None and skb.dst.type is RouteType.LOCAL:
            self._responder.reset(skb, at)
        return ""

    def _udp(self, skb: Skb, at: int) -> str:
        """`__udp4_lib_rcv`, `__udp6_lib_rcv`, where no socket is."""
        data = skb.data
        if len(data) < at + 8:
            return "malformed UDP header"
        length = data[at + 4] << 8 | data[at + 5]
        if skb.family == IPV6 and not length:  # a jumbogram
            length = len(data) - at
        if length < 8 or length > len(data) - at:
            return "UDP length and packet do not agree"
        if length < len(data) - at:
            skb.set_data(data[: at + length])
        unused = data[at + 6] == data[at + 7] == 0
        if unused and skb.family == IPV6:
            return "no UDP checksum"
        if not unused and not _transport_checksum_right(skb, UDP, at):
            return "bad UDP checksum"
        skb.detach()  # what is complained of belongs to no flow any more (`nf_reset_ct`), and the complaint finds its own
        if skb.family == IPV4:
            self._responder.icmp_error(skb, answers.DEST_UNREACH, answers.PORT_UNREACH)
        else:
            self._responder.icmp_error(skb, answers.V6_DEST_UNREACH, answers.V6_PORT_UNREACH)
        return ""

    def _icmp(self, skb: Skb, at: int) -> str:
        """`icmp_rcv`."""
        data = skb.data
        if checksum(data[at:]) and not skb.csum_unnecessary:
            return "bad ICMP checksum"
        if len(data) < at + 8:
            return "malformed ICMP header"
        kind = data[at]
        assert skb.dst is not None
        if skb.dst.type is not RouteType.LOCAL and self._sysctls["net.ipv4.icmp_echo_ignore_broadcasts"]:
            return ""
        back = self._responder.way_back(skb, self._responder.asked(skb))
        if back is None:
            return ""
        route, src = back
        if kind == answers.ECHO and not self._sysctls["net.ipv4.icmp_echo_ignore_all"]:
            self._responder.answer(
                skb, route, answers.echo_reply(IPV4, data, at, src, ttl=self._responder.ttl(IPV4), id=self._responder.next_id())
            )
        elif kind == answers.TIMESTAMP and len(data) >= at + 12:
            now = int(self._clock.wall() * 1000) % 86_400_000
            self._responder.answer(
                skb, route, answers.timestamp_reply(data, at, src, now, ttl=self._responder.ttl(IPV4), id=self._responder.next_id())
            )
        return ""

    def _icmpv6(self, skb: Skb, at: int) -> str:
        """`icmpv6_rcv`. Nothing is asked or told of neighbours and groups."""
        data = skb.data
        if not _transport_checksum_right(skb, ICMPV6, at):
            return "bad ICMPv6 checksum"
        if len(data) < at + 8:
            return "malformed ICMPv6 header"
        if data[at] == answers.V6_ECHO and not self._sysctls["net.ipv6.icmp.echo_ignore_all"]:
            asker, own = data[8:24], self._responder.asked(skb)
            by_device = own is None or asker == LOOPBACK6 or is_link_local(asker)
            dev = skb.indev if asker == LOOPBACK6 else self._responder.came_in(skb)
            back = self._responder.way_back(skb, own, dev if by_device else None)
            if back:
                self._responder.answer(
                    skb, back[0], answers.echo_reply(IPV6, data, at, back[1], ttl=self._responder.ttl(IPV6), id=0)
                )
        return ""


_HANDLERS = {
    IPV4: {ICMP: Protocols._icmp, IGMP: Protocols._ignore, TCP: Protocols._tcp, UDP: Protocols._udp, _UDPLITE: Protocols._udplite},
    IPV6: {
        ICMPV6: Protocols._icmpv6,
        NONE: Protocols._ignore,
        TCP: Protocols._tcp,
        UDP: Protocols._udp,
        _UDPLITE: Protocols._udplite,
    },
}


def _transport_checksum_right(skb: Skb, protocol: int, at: int) -> bool:
    if skb.csum_unnecessary:
        return True
    src, dst, *_ = skb.parse()
    segment = skb.data[at:]
    return not checksum(segment, answers.pseudo(src, dst, protocol, len(segment)))
