"""Addresses and routes of one network namespace (net/ipv4/route.c, net/ipv4/fib_frontend.c, net/ipv6/route.c), and nothing else.

Kept in the shape the lookups need: own addresses by their bytes, everything else as a list with the longest prefix first.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EEXIST, ESRCH
from ipaddress import ip_interface, ip_network

from nfnl.sim.skb import IPV4, IPV6, Device, Link, Route, RouteType

LOOPBACK4 = b"\x7f\0\0\1"
ANY4, ANY6 = bytes(4), bytes(16)
LOOPBACK6 = bytes(15) + b"\1"
ALL_ONES = b"\xff" * 4
LOOPBACK_BROADCAST = b"\x7f\xff\xff\xff"
ALL_HOSTS = b"\xe0\0\0\1"
ALL_NODES = b"\xff\x02" + bytes(13) + b"\1"
ALL_NODES_HERE = b"\xff\x01" + bytes(13) + b"\1"
ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\2"
#: of the solicited-node groups, all but the last three bytes
SOLICITED = b"\xff\x02" + bytes(9) + b"\1\xff"


class Entry:
    """A line of the routing table: a prefix (as an integer) and where it leads. With ``mark``: only for packets that carry it."""

    __slots__ = ("family", "length", "mark", "route", "shift", "static", "value")

    def __init__(self, family: int, value: int, length: int, route: Route, mark: int | None, static: bool) -> None:
        bits = 32 if family == IPV4 else 128
        self.family = family
        self.length = length
        self.shift = bits - length
        self.value = value >> self.shift
        self.route = route
        self.mark = mark
        #: made by hand, not by an address
        self.static = static


class Routing:
    """What is local, what is a neighbour, and where the rest goes."""

    __slots__ = ("_addresses", "_broadcasts", "_entries", "_local", "_loopback", "lo")

    def __init__(self, lo: Device) -> None:
        self.lo = lo
        #: (device, family, address, prefix length)
        self._addresses: list[tuple[Device, int, bytes, int]] = []
        self._local: dict[bytes, Device] = {}
        self._broadcasts: dict[bytes, Device] = {}
        self._entries: list[Entry] = []
        self._loopback = Route(RouteType.LOCAL, lo, local=True)

    # ------------------------------------------------------------------ changes

    def add_address(self, dev: Device, text: str) -> None:
        """``"10.0.0.1/24"``. Raises OSError (EEXIST), ValueError for what is no address."""
        interface = ip_interface(text)
        family = IPV4 if interface.version == 4 else IPV6
        address, length = interface.packed, interface.network.prefixlen
        if any(line[0] is dev and line[2] == address for line in self._addresses):
            raise OSError(EEXIST, "File exists", text)
        self._addresses.append((dev, family, address, length))
        self._local[address] = dev
        if family == IPV4 and length < 31:
            self._broadcasts[interface.network.broadcast_address.packed] = dev
        network = int(interface.network.network_address)
        self._add(Entry(family, network, length, Route(RouteType.UNICAST, dev, length=length), None, static=False))

    def add_host_route(self, dst: bytes, dev: Device) -> None:
        """A route to this one address, in the place of the one there may be."""
        family = IPV4 if len(dst) == 4 else IPV6
        length = len(dst) * 8
        route = Route(RouteType.UNICAST, dev, length=length)
        entry = Entry(family, int.from_bytes(dst, "big"), length, route, None, static=True)
        self._entries = [other for other in self._entries if not self._equal(entry, other)]
        self._add(entry)

    def add_route(self, prefix: str, dev: Device | None, mark: int | None) -> None:
        """``dev`` None: unreachable. Raises OSError (EEXIST), ValueError for what is no prefix."""
        network = ip_network(prefix)
        family = IPV4 if network.version == 4 else IPV6
        kind = RouteType.UNICAST if dev else RouteType.UNREACHABLE
        route = Route(kind, dev or self.lo, length=network.prefixlen)
        entry = Entry(family, int(network.network_address), network.prefixlen, route, mark, static=True)
        if any(self._equal(entry, other) for other in self._entries):
            raise OSError(EEXIST, "File exists", prefix)
        self._add(entry)

    def del_route(self, prefix: str, mark: int | None) -> None:
        """Raises OSError (ESRCH)."""
        network = ip_network(prefix)
        family = IPV4 if network.version == 4 else IPV6
        gone = Entry(family, int(network.network_address), network.prefixlen, self._loopback, mark, static=True)
        for entry in self._entries:
            if self._equal(entry, gone):
                self._entries.remove(entry)
                return
        raise OSError(ESRCH, "No such process", prefix)

    @staticmethod
    def _equal(one: Entry, other: Entry) -> bool:
        return (one.family, one.value, one.length, one.mark) == (other.family, other.value, other.length, other.mark)

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        # rules by mark are asked before the main table, whatever the prefix
        self._entries.sort(key=lambda entry: (entry.mark is None, -entry.length))

    def device_down(self, dev: Device) -> None:
        """What goes with a device that goes down: routes by hand, and in IPv6 its addresses with the networks behind them."""
        for line in [line for line in self._addresses if line[0] is dev and line[1] == IPV6]:
            self._addresses.remove(line)
            del self._local[line[2]]
        self._entries = [
            entry for entry in self._entries if entry.route.dev is not dev or not (entry.static or entry.family == IPV6)
        ]

    # ------------------------------------------------------------------ questions

    def is_local(self, address: bytes) -> bool:
        """One of this machine's own (127.0.0.0/8 and ::1 included)."""
        return address in self._local or (len(address) == 4 and address[0] == 127) or address == LOOPBACK6

    def owner(self, address: bytes) -> Device:
        """The device with this address; lo for what no device has."""
        return self._local.get(address, self.lo)

    def is_configured(self, address: bytes) -> bool:
        """One that was given to a device (`inet_lookup_ifaddr_rcu`)."""
        return address in self._local or address == LOOPBACK4

    @property
    def by_mark(self) -> bool:
        """There are rules for IPv4 beside those that always are (`fib4_has_custom_rules`)."""
        return any(entry.family == IPV4 and entry.mark is not None for entry in self._entries)

    def broadcast_device(self, address: bytes) -> Device | None:
        """The device behind which all hosts are meant by this IPv4 address."""
        dev = self._broadcasts.get(address)
        return dev if dev and dev.up else None

    def is_anycast(self, address: bytes) -> bool:
        """IPv6: the address of all routers of a network of ours, to be answered if this is a router."""
        value = int.from_bytes(address, "big")
        return any(
            kind == IPV6 and length < 127 and value == int.from_bytes(own, "big") >> (128 - length) << (128 - length)
            for _, kind, own, length in self._addresses
        )

    def addresses(self, dev: Device, family: int) -> Iterator[bytes]:
        """The device's own, in the order they were given."""
        return (address for owner, kind, address, _ in self._addresses if owner is dev and kind == family)

    def joined(self, dev: Device, group: bytes, *, router: bool) -> bool:
        """Packets to this multicast group are for this machine when they come in through ``dev``."""
        if len(group) == 4:
            return group == ALL_HOSTS
        if group in (ALL_NODES, ALL_NODES_HERE) or (router and group == ALL_ROUTERS):
            return True
        # no neighbours are looked for behind a device without link-layer addresses
        return dev.link is Link.ETHER and any(group == SOLICITED + own[-3:] for own in self.addresses(dev, IPV6))

    def output(self, family: int, dst: bytes, mark: int = 0, dev: Device | None = None) -> Route | None:
        """Where a packet of ours to ``dst`` goes; None: nowhere (ENETUNREACH). Of type UNREACHABLE: a route says so.

        ``dev``: only what leaves, or is local, there.
        """
        if family == IPV6:
            return self._output6(dst, mark, dev)
        if self.is_local(dst) or dst == ANY4:  # to 0.0.0.0 is to oneself
            return Route(RouteType.BROADCAST, self.lo, local=True) if dst == LOOPBACK_BROADCAST else self._loopback
        broadcast = self.broadcast_device(dst)
        if broadcast:
            return Route(RouteType.BROADCAST, broadcast, local=True)
        route = self._longest(IPV4, dst, mark, dev)
        if route is None or (dst[0] >> 4 != 0xE and dst != ALL_ONES):
            return route
        if dst == ALL_ONES:
            return Route(RouteType.BROADCAST, route.dev, local=True)
        return Route(RouteType.MULTICAST, route.dev, local=dst == ALL_HOSTS)

    def _output6(self, dst: bytes, mark: int, dev: Device | None) -> Route | None:
        if dst[0] == 0xFF:
            dev = dev or next((line[0] for line in self._addresses if line[1] == IPV6 and line[0].up), None)
            return None if dev is None else Route(RouteType.MULTICAST, dev, local=self.joined(dev, dst, router=False))
        if self.is_local(dst) and dev in (None, self.owner(dst)):
            return self._loopback
        return self._longest(IPV6, dst, mark, dev)

    def _longest(self, family: int, dst: bytes, mark: int, dev: Device | None) -> Route | None:
        value = int.from_bytes(dst, "big")
        for entry in self._entries:
            if (
                entry.family == family
                and value >> entry.shift == entry.value
                and (entry.mark is None or entry.mark == mark)
                and entry.route.dev.up
                and dev in (None, entry.route.dev)
            ):
                return entry.route
        return None

    def source(self, family: int, route: Route, dst: bytes, dev: Device | None = None) -> bytes | None:
        """The address a packet of ours to ``dst`` gets as its source.

        One of ``dev``, or of the device it leaves through, of the same network if there is such; else one of any other device.
        """
        if route.dev is self.lo:
            return dst if route.type is RouteType.LOCAL and self.is_local(dst) else LOOPBACK4
        if family == IPV6 and dst in self._local:
            return dst
        own = [line for line in self._addresses if line[1] == family]
        here = [line for line in own if line[0] is (dev or route.dev)]
        for _, _, address, length in here:
            shift = len(address) * 8 - length
            if int.from_bytes(address, "big") >> shift == int.from_bytes(dst, "big") >> shift:
                return address
        first = next(iter(here or own), None)
        return first[2] if first else None


def leaks(src: bytes, route: Route) -> bool:
    """127.0.0.0/8 does not leave the machine (`__mkroute_output`)."""
    return len(src) == 4 and src[0] == 127 and route.dev.link is not Link.LOOPBACK


def is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
