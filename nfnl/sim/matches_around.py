"""Matches that look at what goes with a packet: marks, devices, sockets, time, luck.

xt_mark.c, xt_comment.c, xt_limit.c, xt_statistic.c, xt_mac.c, xt_owner.c, xt_addrtype.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ERANGE
from itertools import pairwise

from nfnl.sim.clock import Clock
from nfnl.sim.criteria import Predicate, bang
from nfnl.sim.ct_expiry import ticks
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.ground import Ground
from nfnl.sim.hooks import INPUT, OUTPUT, POSTROUTING, PREROUTING
from nfnl.sim.lots import Lots
from nfnl.sim.routing import ALL_ONES, Routing
from nfnl.sim.rules import Match, Place, Rule, TableError, at_hooks
from nfnl.sim.skb import IPV4, IPV6, Device, Link, Parsed, RouteType, Skb

_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Mark(Match):
    """``-m mark``: the packet mark under a mask."""

    value: int
    mask: int = _WORD
    inverted: bool = False

    def predicate(self, ground: Ground) -> Predicate:
        value, mask, inverted = self.value, self.mask, self.inverted
        return lambda skb, _: (skb.mark & mask == value) is not inverted

    def text(self) -> str:
        return f"-m mark {bang(self.inverted)}--mark {mark_text(self.value, self.mask)}"


def mark_text(value: int, mask: int) -> str:
    """``0x1``, ``0x1/0xff``."""
    return f"{value:#x}" if mask == _WORD else f"{value:#x}/{mask:#x}"


@dataclass(frozen=True, slots=True)
class Comment(Match):
    """``-m comment``: asks nothing."""

    comment: str

    def predicate(self, ground: Ground) -> Predicate:
        return lambda _skb, _ip: True

    def text(self) -> str:
        return f"-m comment --comment {quoted(self.comment)}"


_PLAIN = frozenset("_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ESCAPED = str.maketrans({c: "\\" + c for c in "\"\\'"})


def quoted(text: str) -> str:
    """A text as iptables-save prints it (`xtables_save_string`)."""
    if text and _PLAIN.issuperset(text):
        return text
    return f'"{text.translate(_ESCAPED)}"'


# ---------------------------------------------------------------------------------------------------------- limit

#: What a rate is told in: this many parts of a second for each packet.
LIMIT_SCALE = 10000
_CREDITS_PER_TICK = 128
DEFAULT_LIMIT, DEFAULT_BURST = 12_000_000, 5


def _credits(user: int) -> int:
    """`user2credits`, which reckons in 32 bits."""
    if user > _WORD // (HZ * _CREDITS_PER_TICK):
        return user // LIMIT_SCALE * HZ * _CREDITS_PER_TICK & _WORD
    return user * HZ * _CREDITS_PER_TICK // LIMIT_SCALE


@dataclass(frozen=True, slots=True)
class Limit(Match):
    """``-m limit``: one packet in so many ten thousandths of a second, and ``burst`` of them that may be saved up."""

    average: int = DEFAULT_LIMIT
    burst: int = DEFAULT_BURST

    counts = True

    def check(self, rule: Rule, place: Place) -> None:
        if not self.burst or _credits(self.average * self.burst & _WORD) < _credits(self.average):
            raise TableError(ERANGE)

    def predicate(self, ground: Ground) -> Predicate:
        return _Bucket(ground.clock, _credits(self.average), _credits(self.average * self.burst & _WORD)).matches

    def text(self) -> str:
        burst = f" --limit-burst {self.burst}" if self.burst != DEFAULT_BURST else ""
        return f"-m limit --limit {_rate_text(self.average)}{burst}"


_UNITS = (("day", 864_000_000), ("hour", 36_000_000), ("min", 600_000), ("sec", LIMIT_SCALE))


def _rate_text(period: int) -> str:
    """In the largest unit that divides well enough (`print_rate`)."""
    for (name, unit), (_, smaller) in pairwise(_UNITS):
        if period > smaller or smaller // period < smaller % period:
            return f"{unit // period}/{name}"
    return f"{LIMIT_SCALE // period}/sec"


class _Bucket:
    """It fills with time, up to its brim; a packet costs something."""

    __slots__ = ("_brim", "_clock", "_cost", "_credit", "_last")

    def __init__(self, clock: Clock, cost: int, brim: int) -> None:
        self._clock = clock
        self._cost = cost
        self._brim = self._credit = brim
        self._last = ticks(clock)

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        now = ticks(self._clock)
        self._credit = min(self._credit + (now - self._last) * _CREDITS_PER_TICK, self._brim)
        self._last = now
        if self._credit < self._cost:
            return False
        self._credit -= self._cost
        return True


# ---------------------------------------------------------------------------------------------------------- statistic


@dataclass(frozen=True, slots=True)
class Nth(Match):
    """``-m statistic --mode nth``: one packet of ``every``, ``packet`` of them after the first."""

    every: int
    packet: int
    inverted: bool = False

    counts = True

    def predicate(self, ground: Ground) -> Predicate:
        return _Counter(self.every, self.every - 1 - self.packet, self.inverted).matches

    def text(self) -> str:
        return f"-m statistic --mode nth {bang(self.inverted)}--every {self.every} --packet {self.packet}"


class _Counter:
    __slots__ = ("_count", "_every", "_inverted")

    def __init__(self, every: int, count: int, inverted: bool) -> None:
        self._every = every
        self._count = count
        self._inverted = inverted

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        self._count = (self._count + 1) % self._every
        return (self._count == 0) is not self._inverted


@dataclass(frozen=True, slots=True)
class Chance(Match):
    """``-m statistic --mode random``: with a probability of so many in 2**31. The lots come from a seed."""

    probability: int
    inverted: bool = False

    counts = True

    def predicate(self, ground: Ground) -> Predicate:
        return _Lottery(self.probability, self.inverted, ground.hooks.hash_seed).matches

    def text(self) -> str:
        return f"-m statistic --mode random {bang(self.inverted)}--probability {self.probability / 0x80000000:.11f}"


class _Lottery:
    __slots__ = ("_inverted", "_lots", "_probability")

    def __init__(self, probability: int, inverted: bool, seed: int) -> None:
        self._probability = probability
        self._inverted = inverted
        self._lots = Lots(seed)

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        return (self._lots.draw(31) < self._probability) is not self._inverted


# ---------------------------------------------------------------------------------------------------------- neighbours


@dataclass(frozen=True, slots=True)
class Mac(Match):
    """``-m mac``: the source address of an Ethernet frame. False where there is none, inverted or not."""

    address: bytes
    inverted: bool = False

    def check(self, rule: Rule, place: Place) -> None:
        if place.hooks & at_hooks(OUTPUT, POSTROUTING):
            raise TableError(EINVAL)

    def predicate(self, ground: Ground) -> Predicate:
        address, inverted = self.address, self.inverted

        def matches(skb: Skb, ip: Parsed) -> bool:
            if skb.indev is None or skb.indev.link is not Link.ETHER or skb.hwaddr is None:
                return False
            return (skb.hwaddr == address) is not inverted

        return matches

    def text(self) -> str:
        return f"-m mac {bang(self.inverted)}--mac-source {self.address.hex(':')}"


#: First and last id, and whether it is inverted.
Ids = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class OwnerOf(Match):
    """``-m owner``: the user and group whose socket a packet comes from, or whether there is a socket (False: there is none)."""

    uid: Ids | None = None
    gid: Ids | None = None
    socket: bool | None = None

    def check(self, rule: Rule, place: Place) -> None:
        if place.hooks & ~at_hooks(OUTPUT, POSTROUTING) or any(ids and ids[0] > ids[1] for ids in (self.uid, self.gid)):
            raise TableError(EINVAL)

    def predicate(self, ground: Ground) -> Predicate:
        uid, gid, socket = self.uid, self.gid, self.socket
        # without an owner, only what asks for something else than one holds
        holds_without = all(ids is None or ids[2] for ids in (uid, gid))

        def matches(skb: Skb, ip: Parsed) -> bool:
            owner = skb.sk
            if owner is None:
                return holds_without and socket is not True
            if socket is False:
                return False
            if owner.uid is None or owner.gid is None:
                return holds_without
            return all(
                ids is None or (ids[0] <= number <= ids[1]) is not ids[2] for ids, number in ((uid, owner.uid), (gid, owner.gid))
            )

        return matches

    def text(self) -> str:
        parts = ["-m owner"]
        if self.socket is not None:
            parts.append(f"{bang(not self.socket)}--socket-exists")
        for option, ids in (("--uid-owner", self.uid), ("--gid-owner", self.gid)):
            if ids:
                low, high, inverted = ids
                parts.append(f"{bang(inverted)}{option} {low if low == high else f'{low}-{high}'}")
        return " ".join(parts)


# ---------------------------------------------------------------------------------------------------------- addrtype

#: In the order of their numbers, which are those of `RouteType` and its neighbours.
ADDRESS_TYPES = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT",
    "XRESOLVE",
)  # fmt: skip
_BIT = {name: 1 << number for number, name in enumerate(ADDRESS_TYPES)}
#: IPv6: what no address is.
_NOT_IN_IPV6 = ~sum(_BIT[name] for name in ("UNSPEC", "UNICAST", "LOCAL", "ANYCAST", "MULTICAST", "UNREACHABLE"))
_ROUTED = _BIT["LOCAL"] | _BIT["ANYCAST"] | _BIT["UNREACHABLE"]

#: Bits by `ADDRESS_TYPES`, and whether they are inverted.
Types = tuple[int, bool]


@dataclass(frozen=True, slots=True)
class AddressType(Match):
    """``-m addrtype``: what kind of address it is here; ``limit`` ``in`` or ``out``: at the device it comes in or goes out by."""

    family: int
    src: Types | None = None
    dst: Types | None = None
    limit: str = ""

    def check(self, rule: Rule, place: Place) -> None:
        wrong = {"out": at_hooks(PREROUTING, INPUT), "in": at_hooks(POSTROUTING, OUTPUT)}.get(self.limit, 0)
        if place.hooks & wrong:
            raise TableError(EINVAL)
        if self.family == IPV6 and any(types and types[0] & _NOT_IN_IPV6 for types in (self.src, self.dst)):
            raise TableError(EINVAL)

    def predicate(self, ground: Ground) -> Predicate:
        return _AddressTypes(ground.routing, self).matches

    def text(self) -> str:
        parts = ["-m addrtype"]
        for option, types in (("--src-type", self.src), ("--dst-type", self.dst)):
            if types:
                bits, inverted = types
                parts.append(f"{bang(inverted)}{option} {','.join(name for name in ADDRESS_TYPES if bits & _BIT[name])}")
        if self.limit:
            parts.append(f"--limit-iface-{self.limit}")
        return " ".join(parts)


class _AddressTypes:
    __slots__ = ("_asked", "_routing")

    def __init__(self, routing: Routing, asked: AddressType) -> None:
        self._routing = routing
        self._asked = asked

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        asked = self._asked
        dev = {"in": skb.indev, "out": skb.outdev}.get(asked.limit)
        is_one_of = self._ipv4 if asked.family == IPV4 else self._ipv6
        for address, types in ((ip[0], asked.src), (ip[1], asked.dst)):
            if types and is_one_of(address, dev, types[0]) is types[1]:
                return False
        return True

    def _ipv4(self, address: bytes, dev: Device | None, bits: int) -> bool:
        """`inet_dev_addr_type`."""
        routing = self._routing
        kind = RouteType.UNICAST
        if not address[0] or address == ALL_ONES:
            kind = RouteType.BROADCAST
        elif address[0] >> 4 == 0xE:
            kind = RouteType.MULTICAST
        elif routing.is_local(address):
            if dev in (None, routing.owner(address)):
                kind = RouteType.LOCAL
        elif (behind := routing.broadcast_device(address)) is not None and dev in (None, behind):
            kind = RouteType.BROADCAST
        return bool(bits >> kind & 1)

    def _ipv6(self, address: bytes, dev: Device | None, bits: int) -> bool:
        """`match_type6`: all of it that can be told from the address, and any of what routing knows."""
        multicast, anything = address[0] == 0xFF, any(address)
        mapped = address[:12] == bytes(10) + b"\xff\xff"
        if bits & _BIT["MULTICAST"] and not multicast:
            return False
        if bits & _BIT["UNICAST"] and (multicast or mapped or not anything):
            return False
        if bits & _BIT["UNSPEC"] and anything:
            return False
        return not bits & _ROUTED or bool(bits & self._routed(address, dev))

    def _routed(self, address: bytes, dev: Device | None) -> int:
        """`match_lookup_rt6`."""
        routing = self._routing
        bits = 0
        if dev is not None and routing.is_local(address) and routing.owner(address) is dev:
            bits = _BIT["LOCAL"]
        route = routing.output(IPV6, address, 0, dev)
        if route is None or route.type is RouteType.UNREACHABLE:
            return bits | _BIT["UNREACHABLE"] if route else _BIT["UNREACHABLE"]
        if dev is None and route.type is RouteType.LOCAL:
            bits |= _BIT["LOCAL"]
        return bits | _BIT["ANYCAST"] if routing.is_anycast(address) else bits
