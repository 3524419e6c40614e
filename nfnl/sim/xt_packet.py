"""Reading the options of matches that look into the packet or at what goes with it (extensions/libxt_*.c of iptables 1.8.9)."""

from __future__ import annotations

from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim.matches import TCP_FLAGS, WITH_PORTS, IcmpType, IpRange, Length, Multiport, Ports, Range, TimeToLive, TypeOfService
from nfnl.sim.matches_around import (
    ADDRESS_TYPES,
    DEFAULT_BURST,
    DEFAULT_LIMIT,
    LIMIT_SCALE,
    AddressType,
    Chance,
    Comment,
    Ids,
    Limit,
    Mac,
    Mark,
    Nth,
    OwnerOf,
)
from nfnl.sim.rules import Match
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP
from nfnl.sim.xtables import Guided, MatchExtension, Problem, host_of, number, port, ports

#: ICMP types by name, in the order of the library's tables: (type, lowest code, highest code).
_ICMP_NAMES = {
    "any": (255, 0, 255), "echo-reply": (0, 0, 255), "pong": (0, 0, 255), "destination-unreachable": (3, 0, 255),
    "network-unreachable": (3, 0, 0), "host-unreachable": (3, 1, 1), "protocol-unreachable": (3, 2, 2),
    "port-unreachable": (3, 3, 3), "fragmentation-needed": (3, 4, 4), "source-route-failed": (3, 5, 5),
    "network-unknown": (3, 6, 6), "host-unknown": (3, 7, 7), "network-prohibited": (3, 9, 9), "host-prohibited": (3, 10, 10),
    "TOS-network-unreachable": (3, 11, 11), "TOS-host-unreachable": (3, 12, 12), "communication-prohibited": (3, 13, 13),
    "host-precedence-violation": (3, 14, 14), "precedence-cutoff": (3, 15, 15), "source-quench": (4, 0, 255),
    "redirect": (5, 0, 255), "network-redirect": (5, 0, 0), "host-redirect": (5, 1, 1), "TOS-network-redirect": (5, 2, 2),
    "TOS-host-redirect": (5, 3, 3), "echo-request": (8, 0, 255), "ping": (8, 0, 255), "router-advertisement": (9, 0, 255),
    "router-solicitation": (10, 0, 255), "time-exceeded": (11, 0, 255), "ttl-exceeded": (11, 0, 255),
    "ttl-zero-during-transit": (11, 0, 0), "ttl-zero-during-reassembly": (11, 1, 1), "parameter-problem": (12, 0, 255),
    "ip-header-bad": (12, 0, 0), "required-option-missing": (12, 1, 1), "timestamp-request": (13, 0, 255),
    "timestamp-reply": (14, 0, 255), "address-mask-request": (17, 0, 255), "address-mask-reply": (18, 0, 255),
}  # fmt: skip
_ICMPV6_NAMES = {
    "destination-unreachable": (1, 0, 255), "no-route": (1, 0, 0), "communication-prohibited": (1, 1, 1),
    "beyond-scope": (1, 2, 2), "address-unreachable": (1, 3, 3), "port-unreachable": (1, 4, 4), "failed-policy": (1, 5, 5),
    "reject-route": (1, 6, 6), "packet-too-big": (2, 0, 255), "time-exceeded": (3, 0, 255), "ttl-exceeded": (3, 0, 255),
    "ttl-zero-during-transit": (3, 0, 0), "ttl-zero-during-reassembly": (3, 1, 1), "parameter-problem": (4, 0, 255),
    "bad-header": (4, 0, 0), "unknown-header-type": (4, 1, 1), "unknown-option": (4, 2, 2), "echo-request": (128, 0, 255),
    "ping": (128, 0, 255), "echo-reply": (129, 0, 255), "pong": (129, 0, 255), "router-solicitation": (133, 0, 255),
    "router-advertisement": (134, 0, 255), "neighbour-solicitation": (135, 0, 255), "neighbor-solicitation": (135, 0, 255),
    "neighbour-advertisement": (136, 0, 255), "neighbor-advertisement": (136, 0, 255), "redirect": (137, 0, 255),
}  # fmt: skip


def _flags(text: str) -> int:
    bits = 0
    for name in text.split(","):
        upper = name.upper()
        if upper not in TCP_FLAGS and upper not in ("ALL", "NONE"):
            raise Problem(f"Unknown TCP flag `{name}'")
        bits |= 0x3F if upper == "ALL" else TCP_FLAGS.get(upper, 0)
    return bits


class _Ports(MatchExtension):
    protocol: ClassVar[int]

    def __init__(self) -> None:
        self.sports: Range | None = None
        self.dports: Range | None = None
        self.flags: tuple[int, int, bool] | None = None
        self.option: tuple[int, bool] | None = None

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        if option in ("source-port", "sport"):
            if self.sports:
                raise Problem("Only one `--source-port' allowed")
            self.sports = ports(values[0], self.protocol, inverted)
        else:
            if self.dports:
                raise Problem("Only one `--destination-port' allowed")
            self.dports = ports(values[0], self.protocol, inverted)

    def finish(self) -> Match:
        return Ports(self.protocol, self.sports or Range(), self.dports or Range(), self.flags, self.option)


class _Udp(_Ports):
    name = "udp"
    protocol = UDP
    options: ClassVar[dict[str, int]] = {"source-port": 1, "sport": 1, "destination-port": 1, "dport": 1}


class _Tcp(_Ports):
    name = "tcp"
    protocol = TCP
    options: ClassVar[dict[str, int]] = _Udp.options | {"syn": 0, "tcp-flags": 2, "tcp-option": 1}

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        if option == "tcp-option":
            if self.option:
                raise Problem("Only one `--tcp-option' allowed")
            kind = number(values[0], 255)
            if not kind:
                raise Problem(f'Bad TCP option "{values[0]}"')
            self.option = (kind, inverted)
            return
        if option not in ("syn", "tcp-flags"):
            super().take(option, values, inverted)
            return
        if self.flags:
            raise Problem("Only one of `--syn' or `--tcp-flags'  allowed")
        if option == "syn":
            self.flags = (0x17, 0x02, inverted)
            return
        if len(values) < 2 or values[1][:1] in ("-", "!"):
            raise Problem("--tcp-flags requires two args.")
        if not all(values):
            raise NotModelled("--tcp-flags without flags")
        self.flags = (_flags(values[0]), _flags(values[1]), inverted)


class _Icmp(Guided, MatchExtension):
    name = "icmp"
    protocol: ClassVar[int] = ICMP
    word: ClassVar[str] = "ICMP"
    names: ClassVar[dict[str, tuple[int, int, int]]] = _ICMP_NAMES
    options: ClassVar[dict[str, int]] = {"icmp-type": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        named = [name for name in self.names if name.lower().startswith(value.lower())]
        if len(named) > 1:
            raise Problem(f"Ambiguous {self.word} type `{value}': `{named[0]}' or `{named[1]}'?")
        if named:
            self.type, self.low, self.high = self.names[named[0]]
            return
        kind, slash, code = value.partition("/")
        parsed = number(kind, 255)
        if parsed is None:
            raise Problem(f"Unknown {self.word} type `{kind}'")
        self.type, self.low, self.high = parsed, 0, 255
        if slash:
            if ":" in code:
                raise NotModelled(f"a range of codes in --{option}")
            only = number(code, 255)
            if only is None:
                raise Problem(f"Unknown {self.word} code `{value}'")
            self.low = self.high = only

    def finish(self) -> Match:
        self.check()
        return IcmpType(self.protocol, self.type, self.low, self.high, bool(self.inverted))


class _Icmp6(_Icmp):
    name = "icmp6"
    protocol = ICMPV6
    word = "ICMPv6"
    names = _ICMPV6_NAMES
    options: ClassVar[dict[str, int]] = {"icmpv6-type": 1}
    invertible = mandatory = frozenset(options)


class _Multiport(Guided, MatchExtension):
    name = "multiport"
    options: ClassVar[dict[str, int]] = {
        "source-ports": 1, "sports": 1, "destination-ports": 1, "dports": 1, "ports": 1,
    }  # fmt: skip
    aliases: ClassVar[dict[str, str]] = {"sports": "source-ports", "dports": "destination-ports"}
    invertible = frozenset(("source-ports", "destination-ports", "ports"))
    exclusive = (("source-ports", "destination-ports", "ports"),)
    #: a range takes two places of them
    _MOST = 15
    _ENDS: ClassVar[dict[str, str]] = {"source-ports": "sports", "destination-ports": "dports", "ports": "ports"}

    def read(self, option: str, value: str) -> None:
        protocol = self.asked.number
        if not protocol:
            raise Problem("multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'")
        if protocol not in WITH_PORTS or self.asked.inverted:
            raise Problem("multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP")
        ranges = []
        for part in value.split(","):
            low, colon, high = part.partition(":")
            first = port(low, protocol)
            last = port(high, protocol) if colon else first
            if colon and first >= last:
                raise Problem("invalid portrange specified")
            ranges.append((first, last))
        if sum(1 if low == high else 2 for low, high in ranges) > self._MOST:
            raise Problem("too many ports specified")
        self.ranges = tuple(ranges)

    def finish(self) -> Match:
        self.check()
        if not self.given:
            raise Problem("multiport expection an option")
        return Multiport(self._ENDS[next(iter(self.given))], self.ranges, bool(self.inverted))


class _IpRange(Guided, MatchExtension):
    name = "iprange"
    options: ClassVar[dict[str, int]] = {"src-range": 1, "dst-range": 1}
    invertible = frozenset(options)

    def __init__(self) -> None:
        super().__init__()
        self.ranges: dict[str, tuple[int, int, bool]] = {}

    def read(self, option: str, value: str) -> None:
        low, dash, high = value.partition("-")
        ends = []
        for text in (low, high if dash else low):
            address = host_of(text, self.family)
            if address is None:
                raise self.bad(option, text)
            ends.append(address)
        self.ranges[option] = (ends[0], ends[1], option in self.inverted)

    def finish(self) -> Match:
        if not self.given:
            raise Problem("iprange match: You must specify `--src-range' or `--dst-range'")
        return IpRange(self.family, self.ranges.get("src-range"), self.ranges.get("dst-range"))


class _Length(Guided, MatchExtension):
    name = "length"
    options: ClassVar[dict[str, int]] = {"length": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        found = self.unsigned_range(option, value, 0xFFFF)
        self.low, self.high = found[0], found[-1]

    def finish(self) -> Match:
        self.check()
        return Length(self.low, self.high, bool(self.inverted))


class _Ttl(Guided, MatchExtension):
    name = "ttl"
    options: ClassVar[dict[str, int]] = {"ttl-lt": 1, "ttl-gt": 1, "ttl-eq": 1, "ttl": 1}
    aliases: ClassVar[dict[str, str]] = {"ttl": "ttl-eq"}
    invertible = frozenset(("ttl-eq",))
    exclusive = (("ttl-lt", "ttl-gt", "ttl-eq"),)
    nothing: ClassVar[str] = "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt"

    def read(self, option: str, value: str) -> None:
        self.value = self.unsigned(option, value, 255)

    def finish(self) -> Match:
        self.check()
        if not self.given:
            raise Problem(self.nothing)
        return TimeToLive(self.family, "ne" if self.inverted else next(iter(self.given))[-2:], self.value)


class _Hl(_Ttl):
    name = "hl"
    options: ClassVar[dict[str, int]] = {"hl-lt": 1, "hl-gt": 1, "hl-eq": 1, "hl": 1}
    aliases: ClassVar[dict[str, str]] = {"hl": "hl-eq"}
    invertible = frozenset(("hl-eq",))
    exclusive = (("hl-lt", "hl-gt", "hl-eq"),)
    nothing = "HL match: You must specify one of `--hl-eq', `--hl-lt', `--hl-gt'"


#: Names of a type of service, and of the classes of differentiated services.
_TOS_NAMES = {
    "minimize-delay": 0x10, "maximize-throughput": 0x08, "maximize-reliability": 0x04, "minimize-cost": 0x02, "normal-service": 0,
}  # fmt: skip
_DSCP_CLASSES = {
    **{f"CS{number}": number << 3 for number in range(8)},
    "BE": 0,
    **{f"AF{number}{drop}": number << 3 | drop << 1 for number in range(1, 5) for drop in range(1, 4)},
    "EF": 0x2E,
}


def type_of_service(value: str) -> tuple[int, int]:
    """A byte, perhaps with a mask behind a slash, or a name: value and mask."""
    text, slash, mask = value.partition("/")
    parsed = number(text, 255)
    if parsed is not None:
        under = number(mask, 255) if slash else 255
        if under is None:
            raise NotModelled(f"the type of service {value}")
        return parsed, under
    if value.lower() not in _TOS_NAMES:
        raise Problem(f'Symbolic name "{value}" is unknown')
    return _TOS_NAMES[value.lower()], 0x3F


def dscp_class(value: str) -> int:
    """Six bits by their name."""
    if value.upper() not in _DSCP_CLASSES:
        raise Problem(f"Invalid DSCP value `{value}'")
    return _DSCP_CLASSES[value.upper()]


class _Tos(Guided, MatchExtension):
    name = "tos"
    options: ClassVar[dict[str, int]] = {"tos": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.value, self.mask = type_of_service(value)

    def finish(self) -> Match:
        self.check()
        return TypeOfService(self.value, self.mask, bool(self.inverted))


class _Dscp(Guided, MatchExtension):
    name = "dscp"
    options: ClassVar[dict[str, int]] = {"dscp": 1, "dscp-class": 1}
    invertible = frozenset(options)
    exclusive = (tuple(options),)

    def read(self, option: str, value: str) -> None:
        self.value = self.unsigned(option, value, 63) if option == "dscp" else dscp_class(value)

    def finish(self) -> Match:
        self.check()
        if not self.given:
            raise Problem('DSCP match: Parameter "--dscp" is required')
        return TypeOfService(self.value << 2, 0xFC, bool(self.inverted), dscp=True)


class _Mark(Guided, MatchExtension):
    name = "mark"
    options: ClassVar[dict[str, int]] = {"mark": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.value, self.mask = self.masked(option, value)

    def finish(self) -> Match:
        self.check()
        return Mark(self.value, self.mask, bool(self.inverted))


class _Comment(Guided, MatchExtension):
    name = "comment"
    options: ClassVar[dict[str, int]] = {"comment": 1}
    mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.comment = self.string(value, 255)

    def finish(self) -> Match:
        self.check()
        return Comment(self.comment)


_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class _Limit(Guided, MatchExtension):
    name = "limit"
    options: ClassVar[dict[str, int]] = {"limit": 1, "limit-burst": 1}
    average, burst = DEFAULT_LIMIT, DEFAULT_BURST

    def read(self, option: str, value: str) -> None:
        if option == "limit-burst":
            self.burst = self.unsigned(option, value, 10000)
            return
        text, slash, unit = value.partition("/")
        digits = text.lstrip(" \t")
        while digits and not digits.isdigit():
            digits = digits[:-1]
        named = [seconds for name, seconds in _UNITS.items() if unit and name.startswith(unit.lower())] if slash else [1]
        if not named or not digits or not int(digits):
            raise Problem(f'bad rate "{value}"\'')
        self.average = LIMIT_SCALE * named[0] // int(digits)
        if not self.average:
            raise Problem(f'Rate too fast "{value}"')

    def finish(self) -> Match:
        return Limit(self.average, self.burst)


class _Statistic(Guided, MatchExtension):
    name = "statistic"
    options: ClassVar[dict[str, int]] = {"mode": 1, "probability": 1, "every": 1, "packet": 1}
    invertible = frozenset(("probability", "every"))
    also: ClassVar[dict[str, str]] = {"every": "packet", "packet": "every"}
    exclusive = (("probability", "every"), ("probability", "packet"))
    probability, every, packet = 0, 0, 0

    def read(self, option: str, value: str) -> None:
        if option == "mode" and value not in ("random", "nth"):
            raise Problem(f'Bad mode "{value}"')
        if option == "probability":
            try:
                chance = float(value)
            except ValueError:
                chance = -1
            if not 0 <= chance <= 1:
                raise self.problem('bad value for option "--probability", or out of range (0-1).')
            self.probability = int(chance * 0x80000000 + 0.5)
        elif option == "every":
            self.every = self.unsigned(option, value, 0xFFFFFFFF, least=1)
        elif option == "packet":
            self.packet = self.unsigned(option, value, 0xFFFFFFFF)

    def finish(self) -> Match:
        self.check()
        if self.given.get("mode") == "nth":
            if "every" not in self.given:
                raise Problem("--every and --packet must be specified when using nth mode")
            if self.packet >= self.every:
                raise Problem("the --packet p must be 0 <= p <= n-1")
            return Nth(self.every, self.packet, bool(self.inverted))
        if "probability" not in self.given:
            raise Problem("--probability must be specified when using random mode")
        return Chance(self.probability, bool(self.inverted))


class _Mac(Guided, MatchExtension):
    name = "mac"
    options: ClassVar[dict[str, int]] = {"mac-source": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        try:
            self.address = bytes(int(part, 16) for part in value.split(":"))
        except ValueError:
            self.address = b""
        if len(self.address) != 6:
            raise Problem("Invalid MAC address specified.")

    def finish(self) -> Match:
        self.check()
        return Mac(self.address, bool(self.inverted))


class _Owner(Guided, MatchExtension):
    name = "owner"
    options: ClassVar[dict[str, int]] = {"uid-owner": 1, "gid-owner": 1, "socket-exists": 0, "suppl-groups": 0}
    invertible = frozenset(("uid-owner", "gid-owner", "socket-exists"))

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, Ids] = {}

    def read(self, option: str, value: str) -> None:
        if option == "suppl-groups":
            raise NotModelled("--suppl-groups")
        if option == "socket-exists":
            return
        low, dash, high = value.partition("-")
        found = [0 if text == "root" else number(text, 0xFFFFFFFE) for text in (low, high if dash else low)]
        if None in found:
            if not value[:1].isdigit():
                raise NotModelled(f"the name of a user or group ({value})")
            raise self.bad(option, value)
        self.ids[option] = (found[0] or 0, found[1] or 0, option in self.inverted)

    def finish(self) -> Match:
        if not self.given:
            raise Problem("owner: At least one of --uid-owner, --gid-owner or --socket-exists is required")
        socket = "socket-exists" not in self.inverted if "socket-exists" in self.given else None
        return OwnerOf(self.ids.get("uid-owner"), self.ids.get("gid-owner"), socket)


class _AddressType(Guided, MatchExtension):
    name = "addrtype"
    options: ClassVar[dict[str, int]] = {"src-type": 1, "dst-type": 1, "limit-iface-in": 0, "limit-iface-out": 0}
    invertible = frozenset(("src-type", "dst-type"))
    exclusive = (("limit-iface-in", "limit-iface-out"),)

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, tuple[int, bool]] = {}

    def read(self, option: str, value: str) -> None:
        if option not in self.invertible:
            return
        bits = 0
        for name in value.split(","):
            found = [number for number, known in enumerate(ADDRESS_TYPES) if name and known.startswith(name.upper())]
            if not found:
                raise Problem(f'addrtype: bad type "{name}"')
            bits |= 1 << found[0]
        self.types[option] = (bits, option in self.inverted)

    def finish(self) -> Match:
        self.check()
        if not self.types:
            raise Problem("addrtype: you must specify --src-type or --dst-type")
        limit = next((option[12:] for option in ("limit-iface-in", "limit-iface-out") if option in self.given), "")
        return AddressType(self.family, self.types.get("src-type"), self.types.get("dst-type"), limit)


_BOTH = (IPV4, IPV6)
#: By name: the families they are for, and what reads them.
PACKET_MATCHES: dict[str, tuple[tuple[int, ...], type[MatchExtension]]] = {
    "tcp": (_BOTH, _Tcp),
    "udp": (_BOTH, _Udp),
    "icmp": ((IPV4,), _Icmp),
    "icmp6": ((IPV6,), _Icmp6),
    "icmpv6": ((IPV6,), _Icmp6),
    "ipv6-icmp": ((IPV6,), _Icmp6),
    "multiport": (_BOTH, _Multiport),
    "iprange": (_BOTH, _IpRange),
    "length": (_BOTH, _Length),
    "ttl": ((IPV4,), _Ttl),
    "hl": ((IPV6,), _Hl),
    "tos": (_BOTH, _Tos),
    "dscp": (_BOTH, _Dscp),
    "mark": (_BOTH, _Mark),
    "comment": (_BOTH, _Comment),
    "limit": (_BOTH, _Limit),
    "statistic": (_BOTH, _Statistic),
    "mac": (_BOTH, _Mac),
    "owner": (_BOTH, _Owner),
    "addrtype": (_BOTH, _AddressType),
}
