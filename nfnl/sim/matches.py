"""Matches that look into the packet (xt_tcpudp.c, xt_multiport.c, xt_iprange.c, xt_length.c, xt_hl.c, xt_dscp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL

from nfnl.sim.criteria import PROTOCOLS, Hotdrop, Predicate, address_text, bang
from nfnl.sim.ground import Ground
from nfnl.sim.rules import Match, Place, Rule, TableError
from nfnl.sim.skb import ICMP, IPV4, TCP, UDP, Parsed, Skb
from nfnl.sim.tuples import DCCP, SCTP, UDPLITE

TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
#: What `-m multiport` can be asked of.
WITH_PORTS = (TCP, UDP, UDPLITE, SCTP, DCCP)


def _check_protocol(rule: Rule, protocol: int) -> None:
    if not rule.is_for(protocol):
        raise TableError(EINVAL)


@dataclass(frozen=True, slots=True)
class Range:
    """Ports ``low`` to ``high``, both included."""

    low: int = 0
    high: int = 0xFFFF
    inverted: bool = False

    def text(self, option: str) -> str:
        """``--dport 80``. Nothing for all ports, inverted or not (iptables loses the ``!`` there)."""
        if self.low == 0 and self.high == 0xFFFF:
            return ""
        ports = str(self.low) if self.low == self.high else f"{self.low}:{self.high}"
        return f"{bang(self.inverted)}{option} {ports}"


@dataclass(frozen=True, slots=True)
class Ports(Match):
    """``-m tcp`` and ``-m udp`` (xt_tcpudp.c). A later fragment has no ports and does not match, whatever is asked."""

    protocol: int
    sports: Range = Range()
    dports: Range = Range()
    #: TCP: (mask, wanted bits, inverted); None: not asked
    flags: tuple[int, int, bool] | None = None
    #: TCP: (kind of an option that must be there, inverted); None: not asked
    option: tuple[int, bool] | None = None

    def check(self, rule: Rule, place: Place) -> None:
        _check_protocol(rule, self.protocol)

    def predicate(self, ground: Ground) -> Predicate:
        tcp = self.protocol == TCP
        header = 20 if tcp else 8
        low_s, high_s, not_s = self.sports.low, self.sports.high, self.sports.inverted
        low_d, high_d, not_d = self.dports.low, self.dports.high, self.dports.inverted
        mask, wanted, not_flags = self.flags or (0, 0, False)
        option, not_option = self.option or (0, False)

        def matches(skb: Skb, ip: Parsed) -> bool:
            if ip[3]:
                if tcp and ip[3] == 1:  # a fragment made to overwrite the flags of the first (RFC 1858)
                    raise Hotdrop
                return False
            if len(skb.data) < ip[4] + header:
                raise Hotdrop
            sport, dport = skb.ports or skb.parse_ports()
            return (
                (low_s <= sport <= high_s) is not not_s
                and (low_d <= dport <= high_d) is not not_d
                and (not mask or (skb.data[ip[4] + 13] & mask == wanted) is not not_flags)
                and (not option or _has_option(skb.data, ip[4], option) is not not_option)
            )

        return matches

    def text(self) -> str:
        parts = [f"-m {PROTOCOLS[self.protocol]}", self.sports.text("--sport"), self.dports.text("--dport")]
        if self.option:
            parts.append(f"{bang(self.option[1])}--tcp-option {self.option[0]}")
        if self.flags:
            mask, wanted, inverted = self.flags
            parts.append(f"{bang(inverted)}--tcp-flags {_flags_text(mask)} {_flags_text(wanted)}")
        return " ".join(filter(None, parts))


def _has_option(data: bytes, at: int, wanted: int) -> bool:
    """`tcp_find_option`."""
    size = (data[at + 12] >> 4) * 4
    if size < 20 or len(data) < at + size:
        raise Hotdrop
    options = data[at + 20 : at + size]
    place = 0
    while place < len(options):
        kind = options[place]
        if kind == wanted:
            return True
        length = options[place + 1] if kind > 1 and place + 1 < len(options) else 1
        place += length or 1
    return False


def _flags_text(bits: int) -> str:
    return ",".join(name for name, bit in TCP_FLAGS.items() if bits & bit) or "NONE"


@dataclass(frozen=True, slots=True)
class IcmpType(Match):
    """``-m icmp``, ``-m icmp6``: a type, and codes from ``low`` to ``high``. IPv4's type 255 is any."""

    protocol: int
    type: int
    low: int = 0
    high: int = 0xFF
    inverted: bool = False

    def check(self, rule: Rule, place: Place) -> None:
        _check_protocol(rule, self.protocol)

    def predicate(self, ground: Ground) -> Predicate:
        wanted, low, high, inverted = self.type, self.low, self.high, self.inverted
        any_type = self.protocol == ICMP and wanted == 0xFF

        def matches(skb: Skb, ip: Parsed) -> bool:
            at = ip[4]
            if ip[3]:
                return False
            if len(skb.data) < at + 8:
                raise Hotdrop
            return (any_type or (skb.data[at] == wanted and low <= skb.data[at + 1] <= high)) is not inverted

        return matches

    def text(self) -> str:
        name, option = ("icmp", "--icmp-type") if self.protocol == ICMP else ("icmp6", "--icmpv6-type")
        if self.protocol == ICMP and self.type == 0xFF:
            value = "any"
        else:
            value = f"{self.type}/{self.low}" if (self.low, self.high) != (0, 0xFF) else str(self.type)
        return f"-m {name} {bang(self.inverted)}{option} {value}"


@dataclass(frozen=True, slots=True)
class Multiport(Match):
    """``-m multiport``: one of several ports and ranges of them; ``end`` is ``sports``, ``dports``, or ``ports`` for either."""

    end: str
    ranges: tuple[tuple[int, int], ...]
    inverted: bool = False

    def predicate(self, ground: Ground) -> Predicate:
        ranges, inverted = self.ranges, self.inverted
        source, destination = self.end != "dports", self.end != "sports"

        def matches(skb: Skb, ip: Parsed) -> bool:
            if ip[3]:
                return False
            if len(skb.data) < ip[4] + 4:
                raise Hotdrop
            sport, dport = skb.ports or skb.parse_ports()
            for low, high in ranges:
                if (source and low <= sport <= high) or (destination and low <= dport <= high):
                    return not inverted
            return inverted

        return matches

    def text(self) -> str:
        ports = ",".join(str(low) if low == high else f"{low}:{high}" for low, high in self.ranges)
        return f"-m multiport {bang(self.inverted)}--{self.end} {ports}"


#: First and last address, and whether it is inverted.
_Addresses = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class IpRange(Match):
    """``-m iprange``: addresses from one to another. A range the wrong way round holds nothing."""

    family: int
    src: _Addresses | None = None
    dst: _Addresses | None = None

    def predicate(self, ground: Ground) -> Predicate:
        asked = [(which, *wanted) for which, wanted in enumerate((self.src, self.dst)) if wanted]
        return lambda _, ip: all(
            (low <= int.from_bytes(ip[0] if not which else ip[1], "big") <= high) is not inverted
            for which, low, high, inverted in asked
        )

    def text(self) -> str:
        parts = ["-m iprange"]
        for option, wanted in (("--src-range", self.src), ("--dst-range", self.dst)):
            if wanted:
                low, high, inverted = wanted
                parts.append(f"{bang(inverted)}{option} {address_text(low, self.family)}-{address_text(high, self.family)}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Length(Match):
    """``-m length``: bytes of the packet, IP header included."""

    low: int
    high: int
    inverted: bool = False

    def predicate(self, ground: Ground) -> Predicate:
        low, high, inverted = self.low, self.high, self.inverted
        return lambda skb, _: (low <= len(skb.data) <= high) is not inverted

    def text(self) -> str:
        sizes = str(self.low) if self.low == self.high else f"{self.low}:{self.high}"
        return f"-m length {bang(self.inverted)}--length {sizes}"


@dataclass(frozen=True, slots=True)
class TimeToLive(Match):
    """``-m ttl``, and in IPv6 ``-m hl``; ``how`` is ``eq``, ``ne``, ``lt`` or ``gt``."""

    family: int
    how: str
    value: int

    def predicate(self, ground: Ground) -> Predicate:
        value, at = self.value, 8 if self.family == IPV4 else 7
        return {
            "eq": lambda skb, _: int.from_bytes(skb.data[at : at + 1], "big") == value,
            "ne": lambda skb, _: int.from_bytes(skb.data[at : at + 1], "big") != value,
            "lt": lambda skb, _: int.from_bytes(skb.data[at : at + 1], "big") < value,
            "gt": lambda skb, _: int.from_bytes(skb.data[at : at + 1], "big") > value,
        }[self.how]

    def text(self) -> str:
        name = "ttl" if self.family == IPV4 else "hl"
        return f"-m {name} {bang(self.how == 'ne')}--{name}-{'eq' if self.how == 'ne' else self.how} {self.value}"


def traffic_class(data: bytes, family: int) -> int:
    """The byte that is called TOS in IPv4, and traffic class in IPv6 (`ipv4_get_dsfield`, `ipv6_get_dsfield`)."""
    first = int.from_bytes(data[:2].ljust(2, b"\0"), "big")
    return first & 0xFF if family == IPV4 else first >> 4 & 0xFF


@dataclass(frozen=True, slots=True)
class TypeOfService(Match):
    """``-m tos``: the byte under a mask. ``-m dscp``: its upper six bits."""

    value: int
    mask: int
    inverted: bool = False
    dscp: bool = False

    def predicate(self, ground: Ground) -> Predicate:
        value, mask, inverted = self.value, self.mask, self.inverted
        return lambda skb, _: (traffic_class(skb.data, skb.family) & mask == value) is not inverted

    def text(self) -> str:
        if self.dscp:
            return f"-m dscp {bang(self.inverted)}--dscp {self.value >> 2:#04x}"
        return f"-m tos {bang(self.inverted)}--tos {self.value:#04x}/{self.mask:#04x}"
