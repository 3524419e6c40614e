"""The IP stack around the hooks: devices, the way in, the way through and the way out, and when the kernel answers.

Follows net/ipv4/{raw,ip_input,ip_forward,ip_output,route,icmp}.c and their IPv6 twins in what a packet filter can see of them.
There are no local sockets: every TCP and UDP port is closed, and what `Stack.send` is given is sent as by a raw socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from errno import EEXIST, EHOSTUNREACH, EINVAL, EMSGSIZE, ENETDOWN, ENETUNREACH, ENODEV
from typing import SupportsBytes

from nfnl.errors import NotModelled
from nfnl.sim import answers, exthdrs, gso
from nfnl.sim.clock import Clock
from nfnl.sim.ct_defrag import HookDefragmenter
from nfnl.sim.defrag import Defragmenter
from nfnl.sim.hooks import FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING
from nfnl.sim.journey import Fate, Journey
from nfnl.sim.protocols import Protocols
from nfnl.sim.queueing import QueueTable
from nfnl.sim.reject import Rejecter
from nfnl.sim.responder import Responder
from nfnl.sim.routing import ALL_ONES, ANY4, ANY6, LOOPBACK6, Routing, is_link_local, leaks
from nfnl.sim.skb import (
    HOPOPTS,
    IPV4,
    IPV6,
    TCP,
    UDP,
    Checksum,
    Device,
    Link,
    Owner,
    Route,
    RouteType,
    Skb,
    checksum,
    family_of,
)

#: Packet priority by the four TOS bits (`ip_tos2prio`).
_PRIORITY_OF_TOS = (0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4)
_IPV6_MIN_MTU = 1280
#: Options of IPv4 that neither a router nor a receiver does anything about: end of list, no operation, router alert.
_IDLE_OPTIONS = frozenset((0, 1, 148))

#: What the IP stack leaves out, and what happens instead.
NOT_MODELLED = {
    "local sockets": "every TCP and UDP port is closed; what the tester sends goes out as by a raw socket",
    "IPv4 options but end, no operation and router alert": "NotModelled is raised",
    "IPv6 options that have to be complained about, CALIPSO, IOAM, routing headers with segments left": "NotModelled is raised",
    "UDP-Lite": "NotModelled is raised",
    "segments (GSO) of anything but TCP and UDP": "NotModelled is raised",
    "other transport protocols (GRE, ESP, SCTP ...)": "protocol unreachable, as from a kernel without them",
    "neighbours, multicast reports, router advertisements": "every neighbour is there; nothing is asked, told or answered",
    "reverse path filter, route_localnet, accept_local, policy rules but by mark": "off",
    "IPv4 ids of the kernel's own packets": "1, 2, 3 ...; Linux takes them from counters hashed with a secret",
    "IPv6 flow labels of the kernel's own packets": "0, as with net.ipv6.auto_flowlabels=0",
    "the limit on ICMP errors to all addresses together": "left out, for it draws lots; the limits for each address are there",
    "answers to 255.255.255.255 or a multicast address": "leave by the route to it; in Linux by the device of their source",
    "fragments on their way out": "the journey holds the whole packet and says in how many fragments it left",
    "net.ipv4.conf.default": "for devices made later; in Linux also for those there are, unless set by themselves",
    "other values of sysctls that are fixed, such as rp_filter": "NotModelled is raised",
    "limits of memory": "fragments and packets wait in any number",
}

SYSCTLS = {
    "net.ipv4.ip_forward": 0,
    "net.ipv4.ip_default_ttl": 64,
    "net.ipv4.icmp_echo_ignore_all": 0,
    "net.ipv4.icmp_echo_ignore_broadcasts": 1,
    # milliseconds for one ICMP error to an address, of which 6 may be saved up; 0: no limit; only for types in the mask
    "net.ipv4.icmp_ratelimit": 1000,
    "net.ipv4.icmp_ratemask": 6168,
    # on if it is on here or at the device
    "net.ipv4.conf.all.send_redirects": 1,
    "net.ipv4.conf.default.send_redirects": 1,
    "net.ipv6.conf.all.forwarding": 0,
    "net.ipv6.icmp.echo_ignore_all": 0,
    "net.ipv6.icmp.ratelimit": 100,
}
#: What cannot be tuned, and how it is.
FIXED_SYSCTLS = {
    **{
        f"net.ipv4.conf.{which}.{name}": 0
        for which in ("all", "default")
        for name in ("rp_filter", "accept_local", "route_localnet", "log_martians", "accept_redirects")
    },
    "net.ipv4.icmp_msgs_per_sec": 1_000_000,
    "net.ipv4.icmp_msgs_burst": 1_000_000,
    **{f"net.ipv6.conf.{which}.accept_ra": 0 for which in ("all", "default")},
    **{f"net.ipv6.conf.default.{name}": 0 for name in ("autoconf", "accept_dad", "dad_transmits", "router_solicitations")},
    "net.ipv6.conf.default.addr_gen_mode": 1,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.auto_flowlabels": 0,
}


class Stack:
    """One network namespace: lo, eth0 with 10.0.0.1/24 and fd00::1/64, and a default route through eth0.

    Composed like this::

        clock = Clock()
        hooks = HookTable()
        queues = QueueTable(hooks)
        stack = Stack(clock, queues)
        ground = Ground(hooks, clock, stack.routing, tracking, nat_hooks)         # see nfnl.sim.kernel
        iptables, ip6tables = Iptables(ground, IPV4), Iptables(ground, IPV6)    # nfnl.sim.iptables

    All of it is plain objects and bound methods: one `copy.deepcopy` of whatever holds them (one call, so that they stay connected)
    is a snapshot, and putting a deep copy of that copy in the same place restores it. Journeys are copied along, so those a tester
    holds are not the restored machine's.
    """

    def __init__(self, clock: Clock, queues: QueueTable, sysctls: Mapping[str, int] = SYSCTLS) -> None:
        self.clock = clock
        self.queues = queues
        self.hooks = queues.hooks
        #: somebody on the machine asked for receive time stamps (SO_TIMESTAMP): every packet gets one
        self.timestamping = False
        #: what can be tuned, by name; what is not in here is not modelled
        self.sysctls = dict(sysctls)
        #: by name; `Device.mtu` and the MAC addresses may be changed freely, `Device.up` through `set_up`
        self.devices: dict[str, Device] = {}
        self.routing = Routing(self.add_device("lo", Link.LOOPBACK, mtu=65536))
        eth0 = self.add_device("eth0")
        for address in ("10.0.0.1/24", "fd00::1/64"):
            self.routing.add_address(eth0, address)
        for prefix in ("0.0.0.0/0", "::/0"):
            self.routing.add_route(prefix, eth0, None)
        #: packets that wait to come in through their ``indev`` (the softirq backlog)
        self._backlog: deque[Skb] = deque()
        self._running = False
        self.responder = Responder(clock, self.routing, self.sysctls, self._local_out)
        self._defrag = Defragmenter(clock, self._fragments_missing)
        self.protocols = Protocols(clock, self.responder, self._defrag, self.sysctls)
        self.hooks.okfn = [self._routed_in, self.protocols.deliver, self._output, self._output, self._transmit]
        self.hooks.reroute = self._reroute
        self.rejecter = Rejecter(self.responder, self.routing)
        self.hooks.reject = self.rejecter
        #: called with the index of a device that goes down
        self.going_down: list[Callable[[int], None]] = [queues.device_down]
        #: puts fragments together for connection tracking
        self.defragment = HookDefragmenter(clock, self._tracked_fragments_missing)
        queues.run_to_rest = self.run

    # ------------------------------------------------------------------ the machine's configuration

    def add_device(self, name: str, link: Link = Link.NONE, *, index: int | None = None, mtu: int = 1500) -> Device:
        """A new device, up and without addresses. Raises OSError (EEXIST)."""
        index = index or max((dev.index for dev in self.devices.values()), default=0) + 1
        if name in self.devices or any(dev.index == index for dev in self.devices.values()):
            raise OSError(EEXIST, "File exists", name)
        device = self.devices[name] = Device(name, index, link, mtu=mtu)
        self.sysctls[f"net.ipv4.conf.{name}.send_redirects"] = self.sysctls["net.ipv4.conf.default.send_redirects"]
        return device

    def device(self, name: str) -> Device:
        """Raises OSError (ENODEV)."""
        try:
            return self.devices[name]
        except KeyError:
            raise OSError(ENODEV, "No such device", name) from None

    def add_address(self, dev: str, address: str) -> None:
        """``"10.0.0.1/24"``: an address of this machine and the network behind the device. Raises OSError (EEXIST, ENODEV)."""
        self.routing.add_address(self.device(dev), address)

    def add_route(self, prefix: str, dev: str | None, *, mark: int | None = None) -> None:
        """``"192.0.2.0/24"`` leads out of ``dev``; None: it is unreachable. Raises OSError (EEXIST, ENODEV).

        With a mark the route is for packets with that mark only and comes before the others, as ``ip rule add fwmark`` makes it.
        """
        self.routing.add_route(prefix, self.device(dev) if dev is not None else None, mark)

    def del_route(self, prefix: str, *, mark: int | None = None) -> None:
        """Raises OSError (ESRCH)."""
        self.routing.del_route(prefix, mark)

    def set_up(self, dev: str, up: bool) -> None:
        """``ip link set dev up|down``. Raises OSError (ENODEV).

        Going down takes along the device's routes made by hand, its IPv6 addresses, and what waits in queues having come in
        or about to go out through it; coming up brings none of that back.
        """
        device = self.device(dev)
        if device.up and not up:
            for function in self.going_down:
                function(device.index)
            self.routing.device_down(device)
        device.up = up

    # ------------------------------------------------------------------ the tester's verbs

    def send(
        self,
        packet: SupportsBytes,
        *,
        mark: int = 0,
        priority: int = 0,
        uid: int | None = 0,
        gid: int | None = 0,
        sk: Owner | None = None,
        partial_checksum: bool = False,
        gso_size: int = 0,
    ) -> Journey:
        """A local program sends a packet, as root through a raw socket with IP_HDRINCL if nothing else is said.

        ``sk`` is its socket, if it has sent or will send other packets through it.

        As there, IPv4's total length and header checksum are set, and id and source if they are 0; nothing in IPv6 is. What
        ``sendto`` reports is `Journey.errno`. With ``partial_checksum`` the TCP or UDP checksum is left to the device, as an
        ordinary socket leaves it. With a ``gso_size`` a TCP or UDP packet stands for as many as it takes to have no more than so
        many bytes of payload in each, as TCP or a socket with UDP_SEGMENT makes it; it may then be longer than the MTU.
        """
        skb = self._new(bytes(packet), sk or Owner(uid, gid), mark, priority)
        journey = skb.journey
        if gso_size and skb.parse()[2] not in (TCP, UDP):
            raise NotModelled("segments of anything but TCP and UDP")
        journey.errno = self._raw_send(skb, partial_checksum or gso_size > 0, gso_size)
        if journey.errno and journey.fate is Fate.MOVING:
            skb.drop(_SEND_ERRORS[journey.errno])
        self.run()
        return journey

    def receive(self, packet: SupportsBytes, dev: str = "eth0", *, hwaddr: bytes | None = None) -> Journey:
        """A packet arrives on a device. ``hwaddr`` is the source of its Ethernet header, where the device has one.

        Raises OSError: ENODEV, ENETDOWN.
        """
        device = self.device(dev)
        if not device.up:
            raise OSError(ENETDOWN, "Network is down", dev)
        skb = self._new(bytes(packet), None)
        if device.link is not Link.NONE:
            skb.hwaddr = hwaddr or device.peer_mac
        self._netif_rx(skb, device)
        self.run()
        return skb.journey

    def forward(self, packet: SupportsBytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """A packet arrives on ``in_dev`` that is to be passed on, and the machine is made to do so.

        For good: forwarding is switched on for the packet's family and, with ``out_dev``, its destination gets a route through
        that device. Raises as `receive`.
        """
        data = bytes(packet)
        family = family_of(data)
        self.sysctls["net.ipv4.ip_forward" if family == IPV4 else "net.ipv6.conf.all.forwarding"] = 1
        if out_dev is not None:
            dst, device = _addresses(data)[1], self.device(out_dev)
            route = self.routing.output(family, dst)
            if route is None or route.dev is not device:
                self.routing.add_host_route(dst, device)
        return self.receive(data, in_dev)

    def run(self) -> None:
        """Until nothing moves."""
        if self._running:
            return
        self._running = True
        try:
            while self._backlog:
                self._netif_receive(self._backlog.popleft())
        finally:
            self._running = False

    @staticmethod
    def _new(data: bytes, sk: Owner | None, mark: int = 0, priority: int = 0) -> Skb:
        return Skb(data, family_of(data), Journey(data, data, mark), mark, priority, sk)

    # ------------------------------------------------------------------ out

    def _raw_send(self, skb: Skb, partial_checksum: bool, gso_size: int) -> int:
        """`raw_send_hdrinc`, `rawv6_send_hdrinc`. An errno, or 0 if the packet was sent."""
        data = skb.data
        v4 = skb.family == IPV4
        least = 20 if v4 else 40
        header = (data[0] & 0xF) << 2 if v4 and data else 40
        if len(data) < least or header < least or header > len(data):
            return EINVAL
        src, dst = _addresses(data)
        route, error = self._route_output(skb.family, LOOPBACK6 if dst == ANY6 else dst, skb.mark)
        if route is None:
            return error
        payload = len(data) - gso.payload_at(skb) if gso_size else 0
        if payload > gso_size * gso.MAX_DATAGRAMS and skb.parse()[2] == UDP:
            skb.drop(f"more than {gso.MAX_DATAGRAMS} segments")
            return EINVAL
        if payload > gso_size:
            skb.gso_size, skb.gso_protocol = gso_size, skb.parse()[2]
        if len(data) - (payload - gso_size if skb.gso_size else 0) > route.dev.mtu:
            return EMSGSIZE
        skb.dst = route
        skb.transport = header if v4 or partial_checksum else 0
        if v4:
            if src == ANY4:
                src = self.routing.source(IPV4, route, dst) or ANY4
            ip_id = data[4:6] if data[4] or data[5] else self.responder.next_id().to_bytes(2, "big")
            head = data[:2] + len(data).to_bytes(2, "big") + ip_id + data[6:10] + b"\0\0" + src + data[16:header]
            skb.data = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + data[header:]
        if partial_checksum:
            src, dst, protocol, _, at = skb.parse()
            skb.set_partial(at, {TCP: 16, UDP: 6}[protocol], answers.pseudo(src, dst, protocol, len(data) - at))
            if protocol == UDP and route.dev.link is Link.NONE:  # UDP asks what the device can do (`__ip_append_data`)
                if skb.gso_size:
                    skb.csum = Checksum.NONE  # and leaves the sum of the pseudo header in place, for who cuts it will see to it
                else:
                    skb.finish_checksum()
        return self._local_out(skb)

    def _route_output(self, family: int, dst: bytes, mark: int = 0) -> tuple[Route | None, int]:
        """A route, or None and the errno of having none."""
        route = self.routing.output(family, dst, mark)
        if route is None:
            return None, ENETUNREACH
        if route.type is RouteType.UNREACHABLE:
            return None, EHOSTUNREACH
        return route, 0

    def _local_out(self, skb: Skb) -> int:
        assert skb.dst is not None
        skb.outdev = skb.dst.dev
        return self.hooks.run(skb, OUTPUT)

    def _reroute(self, skb: Skb) -> int:
        """`ip_route_me_harder`: only what comes after OUTPUT sees the new device."""
        src, dst, *_ = skb.parse()
        route, error = self._route_output(skb.family, dst, skb.mark)
        if route is None:
            return error
        if leaks(src, route):
            return EINVAL
        skb.dst = route
        return 0

    def _output(self, skb: Skb) -> int:
        """Passed OUTPUT or FORWARD (`ip_output`, `ip_mc_output`, `ip6_output`)."""
        assert skb.dst is not None
        skb.outdev = skb.dst.dev
        if skb.family == IPV4:
            self._keep_copy(skb)
        return self.hooks.run(skb, POSTROUTING)

    def _keep_copy(self, skb: Skb) -> None:
        """If this machine is among the addressees: a copy passes POSTROUTING too, and comes in where the packet goes out.

        IPv4 makes it before the packet passes POSTROUTING, IPv6 after.
        """
        route = skb.dst
        assert route is not None
        if not route.local or route.dev.link is Link.LOOPBACK:
            return
        copy = Skb(skb.data, skb.family, Journey(skb.data, skb.data, skb.mark), skb.mark, skb.priority)
        skb.journey.answers.append(copy.journey)
        copy.dst, copy.outdev, copy.transport = route, route.dev, skb.transport
        copy.gso_size, copy.gso_protocol = skb.gso_size, skb.gso_protocol
        copy.csum, copy.csum_start, copy.csum_offset = skb.csum, skb.csum_start, skb.csum_offset
        copy.looped = True
        skb.share_flow(copy)
        self.hooks.run(copy, POSTROUTING)

    def _transmit(self, skb: Skb) -> int:
        """Passed POSTROUTING (`ip_finish_output` and the device)."""
        dev = skb.outdev
        assert dev is not None
        if skb.looped or dev.link is Link.LOOPBACK:
            if skb.looped and skb.csum is Checksum.NONE:
                skb.csum = Checksum.UNNECESSARY  # `dev_loopback_xmit`
            skb.hwaddr = None if dev.link is Link.NONE else dev.mac
            self._netif_rx(skb, dev)
            return 0
        if skb.family == IPV6:
            self._keep_copy(skb)
            dst = skb.parse()[1]
            if dst[0] == 0xFF and dst[1] & 0xF <= 1:
                skb.drop("interface-local multicast does not leave")
                return 0
        if skb.gso_size:
            for segment in gso.split(skb):
                self._transmit(segment)
            return 0
        pieces = 1
        if len(skb.data) > dev.mtu:
            pieces = _fragments(skb, dev.mtu)
            if not pieces:
                self._too_big(skb, dev)
                return EMSGSIZE
        skb.finish_checksum()
        if not skb.data:
            skb.drop(f"nothing of it is left, and {dev.name} does not send that")  # `tun_net_xmit`
            return 0
        skb.end(Fate.SENT, f"in {pieces} fragments" if pieces > 1 else "")
        return 0

    def _too_big(self, skb: Skb, dev: Device) -> None:
        if skb.family == IPV4:
            self.responder.icmp_error(skb, answers.DEST_UNREACH, answers.FRAG_NEEDED, dev.mtu)
        else:
            self.responder.icmp_error(skb, answers.V6_PACKET_TOO_BIG, 0, max(dev.mtu, _IPV6_MIN_MTU))
        skb.drop(f"longer than the MTU of {dev.name}, and not to be cut")

    # ------------------------------------------------------------------ in

    def _netif_rx(self, skb: Skb, dev: Device) -> None:
        skb.indev, skb.outdev, skb.sk = dev, None, None
        self._backlog.append(skb)

    def _netif_receive(self, skb: Skb) -> None:
        """`ip_rcv`, `ipv6_rcv`: what is checked before PREROUTING."""
        if self.timestamping:
            skb.tstamp = self.clock.wall()
        problem = _ip_rcv(skb) if skb.family == IPV4 else _ipv6_rcv(skb)
        if problem:
            skb.drop(problem)
        else:
            self.hooks.run(skb, PREROUTING)

    def _routed_in(self, skb: Skb) -> int:
        """Passed PREROUTING (`ip_rcv_finish`). What came over the loopback keeps the route it was sent with."""
        v4 = skb.family == IPV4
        if v4 and skb.data[0] & 0xF > 5:
            _check_options(skb.data)
        route = skb.dst
        if route is None:
            found = self._route_input4(skb) if v4 else self._route_input6(skb)
            if isinstance(found, str):
                skb.drop(found)
                return 0
            route = skb.dst = found
        if route.local:
            return self._local_deliver(skb)
        return self._forward4(skb, route) if v4 else self._forward6(skb, route)

    def _route_input4(self, skb: Skb) -> Route | str:
        """`ip_route_input_slow`: a route, or why there is none."""
        src, dst, *_ = skb.parse()
        dev = skb.indev
        assert dev is not None
        routing = self.routing
        own_source = routing.is_configured(src)
        if routing.by_mark:  # then sources are looked at more closely (`__fib_validate_source`)
            own_source = own_source or src[0] == 127 or routing.broadcast_device(src) is not None
        if src[0] >> 4 == 0xE or src == ALL_ONES:
            return "martian source"
        if dst[0] >> 4 == 0xE:
            if not routing.joined(dev, dst, router=False):
                return "multicast group nobody joined"
            return "martian source" if own_source or src[0] == 127 else Route(RouteType.MULTICAST, dev, local=True)
        if dst == ALL_ONES or src == dst == ANY4:
            return "martian source" if own_source else Route(RouteType.BROADCAST, dev, local=True)
        if src == ANY4 or src[0] == 127:
            return "martian source"
        if dst == ANY4 or dst[0] == 127:
            return "martian destination"
        if routing.broadcast_device(dst) or routing.is_local(dst):
            kind = RouteType.BROADCAST if routing.broadcast_device(dst) else RouteType.LOCAL
            return "martian source" if own_source else Route(kind, dev, local=True)
        if not self.sysctls["net.ipv4.ip_forward"]:
            return "not for this machine, and forwarding is off"
        route, error = self._route_output(IPV4, dst, skb.mark)
        if route is None:
            self.responder.no_route(skb, error)
            return "no route"
        # where it may have to send a redirect the kernel looks more closely
        if own_source or (self._may_redirect(skb, route) and routing.broadcast_device(src)):
            return "martian source"
        return route

    def _route_input6(self, skb: Skb) -> Route | str:
        """`ip6_route_input`."""
        dst = skb.parse()[1]
        dev = skb.indev
        assert dev is not None
        router = bool(self.sysctls["net.ipv6.conf.all.forwarding"])
        if dst[0] == 0xFF:
            if not self.routing.joined(dev, dst, router=router):
                return "multicast group nobody joined"
            return Route(RouteType.MULTICAST, dev, local=True)
        if self.routing.is_local(dst):
            return Route(RouteType.LOCAL, dev, local=True)
        if router and self.routing.is_anycast(dst):
            return Route(RouteType.ANYCAST, dev, local=True)
        route, _ = self._route_output(IPV6, dst, skb.mark)
        if route is None:
            self.responder.icmp_error(skb, answers.V6_DEST_UNREACH, answers.V6_NO_ROUTE)
            return "no route"
        return route

    def _local_deliver(self, skb: Skb) -> int:
        """`ip_local_deliver`, `ip6_input`."""
        if skb.family == IPV4 and (skb.data[6] & 0x3F or skb.data[7]) and not self._defrag.ipv4(skb):
            return 0
        return self.hooks.run(skb, INPUT)

    def _fragments_missing(self, first: Skb) -> None:
        """`ip_expire`, `ip6_frag_expire_frag_queue`."""
        kind = answers.TIME_EXCEEDED if first.family == IPV4 else answers.V6_TIME_EXCEEDED
        self.responder.icmp_error(first, kind, answers.REASSEMBLY)
        self.run()

    def _tracked_fragments_missing(self, first: Skb) -> None:
        """Of IPv4, only who is to receive the packet complains."""
        if first.family != IPV4 or self.routing.is_local(first.parse()[1]):
            self._fragments_missing(first)

    # ------------------------------------------------------------------ through

    def _forward4(self, skb: Skb, route: Route) -> int:
        """`ip_forward`."""
        data = skb.data
        if data[8] <= 1:
            self.responder.icmp_error(skb, answers.TIME_EXCEEDED, 0)
            skb.drop("TTL exceeded")
            return 0
        if len(data) > route.dev.mtu and data[6] & 0x40:
            self._too_big(skb, route.dev)
            return 0
        skb.set_data(answers.decrease_ttl(data))
        if self._may_redirect(skb, route):
            self.responder.redirect(skb, data[16:20])
        skb.priority = _PRIORITY_OF_TOS[data[1] >> 1 & 0xF]
        skb.outdev = route.dev
        return self.hooks.run(skb, FORWARD)

    def _may_redirect(self, skb: Skb, route: Route) -> bool:
        return route.dev is skb.indev and any(
            self.sysctls[f"net.ipv4.conf.{name}.send_redirects"] for name in ("all", route.dev.name)
        )

    def _forward6(self, skb: Skb, route: Route) -> int:
        """`ip6_forward`. It sends no redirects, for it has no link-local address to send them from."""
        data = skb.data
        src = data[8:24]
        if not self.sysctls["net.ipv6.conf.all.forwarding"]:
            skb.drop("not for this machine, and forwarding is off")
        elif data[7] <= 1:
            self.responder.icmp_error(skb, answers.V6_TIME_EXCEEDED, 0)
            skb.drop("hop limit exceeded")
        elif route.dev is not skb.indev and src in (ANY6, LOOPBACK6):
            skb.drop("impossible source address")
        elif route.dev is not skb.indev and is_link_local(src):
            self.responder.icmp_error(skb, answers.V6_DEST_UNREACH, answers.V6_NOT_NEIGHBOUR)
            skb.drop("link-local source")
        elif len(data) > max(route.dev.mtu, _IPV6_MIN_MTU):
            self._too_big(skb, route.dev)
        else:
            skb.set_data(data[:7] + bytes((data[7] - 1,)) + data[8:])
            skb.outdev = route.dev
            return self.hooks.run(skb, FORWARD)
        return 0


_SEND_ERRORS = {
    EINVAL: "no IP header",
    EMSGSIZE: "longer than the MTU of the device",
    ENETUNREACH: "no route",
    EHOSTUNREACH: "a route that says unreachable",
}


def _addresses(data: bytes) -> tuple[bytes, bytes]:
    return (data[8:24], data[24:40]) if data[0] >> 4 == 6 else (data[12:16], data[16:20])


def _ip_rcv(skb: Skb) -> str:
    """`ip_rcv_core`: what is wrong with the header, ``""`` if nothing is."""
    data = skb.data
    if len(data) < 20:
        return "malformed IP header"
    header = (data[0] & 0xF) << 2
    if data[0] >> 4 != 4 or header < 20 or len(data) < header:
        return "malformed IP header"
    if checksum(data[:header]):
        return "bad IP header checksum"
    length = data[2] << 8 | data[3]
    if length > len(data) or length < header:
        return "IP total length and packet do not agree"
    if length < len(data):
        skb.set_data(data[:length])
    skb.transport = header
    return ""


def _ipv6_rcv(skb: Skb) -> str:
    """`ip6_rcv_core`."""
    data = skb.data
    if len(data) < 40 or data[0] >> 4 != 6:
        return "malformed IPv6 header"
    src, dst = _addresses(data)
    assert skb.indev is not None
    if skb.indev.link is not Link.LOOPBACK:
        if LOOPBACK6 in (src, dst):
            return "loopback address from outside"
        if dst[0] == 0xFF and dst[1] & 0xF == 1 and not skb.looped:
            return "interface-local multicast from outside"
    if src[0] == 0xFF or (dst[0] == 0xFF and not dst[1] & 0xF):
        return "impossible multicast address"
    skb.transport = 40
    length = 40 + (data[4] << 8 | data[5])
    if length > len(data):
        return "IPv6 payload length and packet do not agree"
    if length < len(data) and (length > 40 or data[6] != HOPOPTS):
        skb.set_data(data[:length])
    if data[6] == HOPOPTS:
        try:
            skb.transport = exthdrs.after_hop_by_hop(skb.data)
        except exthdrs.Malformed as problem:
            return str(problem)
    return ""


def _check_options(data: bytes) -> None:
    """Options that a router or receiver writes into, or that lead the packet elsewhere, are not modelled."""
    at, end = 20, (data[0] & 0xF) << 2
    while at < end and data[at]:
        if data[at] not in _IDLE_OPTIONS:
            raise NotModelled(f"IP option {data[at]}")
        at += 1 if data[at] == 1 else max(data[at + 1], 2)


def _fragments(skb: Skb, mtu: int) -> int:
    """How many fragments it leaves in; 0 if it may not be cut."""
    data = skb.data
    if skb.family == IPV4:
        header = (data[0] & 0xF) << 2
        return 0 if data[6] & 0x40 else -(-(len(data) - header) // ((mtu - header) & ~7))
    return -(-(len(data) - 40) // ((mtu - 48) & ~7)) if skb.ignore_df else 0
