"""Reading the words of iptables rules as libxtables 1.8.9 reads them: addresses, ports, marks, and the options of extensions.

What iptables would refuse is refused in its own words (`Problem`); what it would take and the fake kernel cannot do raises
`NotModelled`. Nothing is looked up outside: names of hosts are not modelled, names of services are those of the tables below.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim.rules import (
    PROTOCOLS,
    REJECT_WITH,
    STANDARD,
    TCP_FLAGS,
    Address,
    IcmpType,
    Interface,
    Mark,
    Match,
    NfQueue,
    Ports,
    Range,
    Reject,
    SetMark,
    Target,
)
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP

#: Extensions that iptables 1.8.9 has and the fake kernel has not: naming one is no mistake, but cannot be obeyed.
MATCHES = frozenset((
    "addrtype", "ah", "bpf", "cgroup", "cluster", "comment", "connbytes", "connlabel", "connlimit", "connmark", "conntrack",
    "cpu", "dccp", "devgroup", "dscp", "dst", "ecn", "esp", "eui64", "frag", "hashlimit", "hbh", "helper", "hl", "ipcomp",
    "iprange", "ipv6header", "ipvs", "length", "limit", "mac", "mh", "multiport", "nfacct", "osf", "owner", "physdev",
    "pkttype", "policy", "quota", "rateest", "realm", "recent", "rpfilter", "rt", "sctp", "set", "socket", "srh", "state",
    "statistic", "string", "tcpmss", "time", "tos", "ttl", "u32",
))  # fmt: skip
TARGETS = frozenset((
    "AUDIT", "CHECKSUM", "CLASSIFY", "CLUSTERIP", "CONNMARK", "CONNSECMARK", "CT", "DNAT", "DNPT", "DSCP", "ECN", "HL",
    "HMARK", "IDLETIMER", "LED", "LOG", "MASQUERADE", "NAT", "NETMAP", "NFLOG", "NOTRACK", "RATEEST", "REDIRECT",
    "SECMARK", "SET", "SNAT", "SNPT", "SYNPROXY", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TPROXY", "TRACE", "TTL", "ULOG",
))  # fmt: skip
#: ... and the protocols whose options come with such an extension.
_PROTOCOL_MATCHES = frozenset(("sctp", "dccp", "esp", "ah", "mobility-header", "ipcomp"))

#: Names iptables takes for protocols besides those it prints.
_PROTOCOL_NAMES = {name: number for number, name in PROTOCOLS.items()} | {
    "all": 0, "ip": 0, "hopopt": 0, "icmpv6": 58, "mh": 135, "ipv6-mh": 135,
}  # fmt: skip

#: Names for ports: some of /etc/services.
_TCP_SERVICES = {
    "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "mail": 25, "domain": 53, "http": 80, "www": 80, "kerberos": 88,
    "pop3": 110, "sunrpc": 111, "nntp": 119, "imap2": 143, "imap": 143, "bgp": 179, "ldap": 389, "https": 443,
    "microsoft-ds": 445, "submission": 587, "ldaps": 636, "imaps": 993, "pop3s": 995, "mysql": 3306, "postgresql": 5432,
    "http-alt": 8080,
}  # fmt: skip
_UDP_SERVICES = {
    "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "kerberos": 88, "sunrpc": 111, "ntp": 123, "netbios-ns": 137,
    "netbios-dgm": 138, "snmp": 161, "snmp-trap": 162, "ldap": 389, "https": 443, "isakmp": 500, "syslog": 514, "openvpn": 1194,
    "ipsec-nat-t": 4500, "mdns": 5353,
}  # fmt: skip

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


class Problem(Exception):
    """The command line is wrong (exit code 2); the text is what iptables prints behind its own name.

    ``bare``: it prints nothing before the text, not even its name.
    """

    def __init__(self, text: str, *, bare: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.bare = bare


# ---------------------------------------------------------------------------------------------------------- values


#: What `xtables_strtoul` reads of a text: blanks, perhaps a plus, digits.
_STRTOUL = re.compile(r"[ \t-\r]*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


def number_base(text: str) -> int:
    """Which digits a number is written in: ``0x`` hexadecimal, ``0`` octal, else decimal."""
    return 16 if text[:2].lower() == "0x" else 8 if text[:1] == "0" else 10


def number(text: str, most: int) -> int | None:
    """A number from 0 to ``most``, decimal, ``0x`` hexadecimal or ``0`` octal; None for anything else (`xtables_strtoui`)."""
    try:
        value = int(text, number_base(text)) if text[:1].isdigit() and "_" not in text else -1
    except ValueError:
        return None
    return value if 0 <= value <= most else None


def protocol(text: str) -> int:
    """A number or a name."""
    value = number(text, 255)
    if value is None:
        value = _PROTOCOL_NAMES.get(text)
    if value is None:
        raise Problem(f'unknown protocol "{text}" specified')
    return value


def interface(text: str, inverted: bool) -> Interface:
    """A name of at most 15 characters."""
    if not text:
        raise Problem("Empty interface is likely to be undesired")
    if len(text) > 15:
        raise Problem(f"interface name `{text}' must be shorter than IFNAMSIZ (15)")
    return Interface(text, inverted)


def addresses(text: str, family: int, inverted: bool) -> list[Address]:
    """One address or network, or several with commas between them."""
    found = [_network(word.lstrip(), family, inverted) for word in text.split(",")]
    if inverted and len(found) > 1:
        raise Problem("! not allowed with multiple source or destination IP addresses")
    return found


def _network(text: str, family: int, inverted: bool) -> Address:
    bits = 32 if family == IPV4 else 128
    host, slash, behind = text.partition("/")
    mask = _mask(behind, family, bits) if slash else (1 << bits) - 1
    if not mask:
        return Address(0, 0, inverted)  # whatever stands before it
    value = _dotted(host, fill=True) if family == IPV4 else _colons(host)
    if value is None:
        if ":" in host or not any(c.isalpha() for c in host):
            raise Problem(f"host/network `{host}' not found")
        raise NotModelled(f"the name of a host ({host})")
    return Address(value & mask, mask, inverted)


def _mask(text: str, family: int, bits: int) -> int:
    dotted = _dotted(text, fill=False) if family == IPV4 else _colons(text)
    if dotted is not None:
        return dotted
    length = number(text, bits)
    if length is None:
        raise Problem(f"invalid mask `{text}' specified")
    return (1 << bits) - (1 << (bits - length))


def _dotted(text: str, fill: bool) -> int | None:
    """Four numbers with dots between; with ``fill`` zeros for those that are missing at the end."""
    parts = [number(part, 255) for part in text.split(".")]
    if None in parts or len(parts) > 4 or (len(parts) < 4 and not fill):
        return None
    return int.from_bytes(bytes(part or 0 for part in parts).ljust(4, b"\0"), "big")


def _colons(text: str) -> int | None:
    try:
        return int(IPv6Address(text)) if "%" not in text else None
    except AddressValueError:
        return None


def _port(text: str, protocol: int) -> int:
    value = number(text, 0xFFFF)
    if value is None:
        value = (_TCP_SERVICES if protocol == TCP else _UDP_SERVICES).get(text)
    if value is None:
        raise Problem(f"invalid port/service `{text}' specified")
    return value


def _ports(text: str, protocol: int, inverted: bool) -> Range:
    low, colon, high = text.partition(":")
    if not colon:
        port = _port(text, protocol)
        return Range(port, port, inverted)
    first, last = _port(low, protocol) if low else 0, _port(high, protocol) if high else 0xFFFF
    if first > last:
        raise Problem("invalid portrange (min > max)")
    return Range(first, last, inverted)


def _flags(text: str) -> int:
    bits = 0
    for name in text.split(","):
        upper = name.upper()
        if upper not in TCP_FLAGS and upper not in ("ALL", "NONE"):
            raise Problem(f"Unknown TCP flag `{name}'")
        bits |= 0x3F if upper == "ALL" else TCP_FLAGS.get(upper, 0)
    return bits


# ---------------------------------------------------------------------------------------------------------- extensions


class Extension:
    """A match or target under construction: the options it has been given so far."""

    name: ClassVar[str]
    #: long option -> how many words follow it
    options: ClassVar[dict[str, int]]

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        """An option of this extension was read."""
        raise NotImplementedError


class MatchExtension(Extension):
    """A match under construction."""

    def finish(self) -> Match:
        """All options have been read."""
        raise NotImplementedError


class TargetExtension(Extension):
    """A target under construction."""

    def finish(self) -> Target:
        """All options have been read."""
        raise NotImplementedError


class _Ports(MatchExtension):
    protocol: ClassVar[int]

    def __init__(self) -> None:
        self.sports: Range | None = None
        self.dports: Range | None = None
        self.flags: tuple[int, int, bool] | None = None

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        if option in ("source-port", "sport"):
            if self.sports:
                raise Problem("Only one `--source-port' allowed")
            self.sports = _ports(values[0], self.protocol, inverted)
        else:
            if self.dports:
                raise Problem("Only one `--destination-port' allowed")
            self.dports = _ports(values[0], self.protocol, inverted)

    def finish(self) -> Match:
        return Ports(self.protocol, self.sports or Range(), self.dports or Range(), self.flags)


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
            raise NotModelled("--tcp-option")
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


class _Guided(Extension):
    """Options that libxtables itself checks: each only once, exclusive ones not together, `!` only where it makes sense."""

    invertible: ClassVar[frozenset[str]] = frozenset()
    exclusive: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.inverted = False

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        if option in self.given:
            raise self._problem(f'option "--{option}" can only be used once.')
        if inverted and option not in self.invertible:
            raise self._problem(f'option "--{option}" cannot be inverted.')
        value = values[0] if values else ""
        self.read(option, value)
        self.given[option] = value
        self.inverted = self.inverted or inverted

    def read(self, option: str, value: str) -> None:
        """Check and keep the value."""

    def check(self, mandatory: str | None = None) -> None:
        together = [option for option in self.exclusive if option in self.given]
        if len(together) > 1:
            raise self._problem(f'option "--{together[0]}" cannot be used together with "--{together[1]}".')
        if mandatory and mandatory not in self.given:
            raise self._problem(f'option "--{mandatory}" must be specified')

    def unsigned(self, option: str, value: str, most: int) -> int:
        parsed = number(value, most)
        if parsed is None:
            raise self._problem(f'bad value for option "--{option}", or out of range (0-{most}).')
        return parsed

    def unsigned_range(self, option: str, value: str, most: int) -> list[int]:
        """One number, or two with a colon between; the first may be left out for 0, the second for ``most``."""
        found: list[int] = []
        rest = value
        while True:
            if len(found) == 2:
                raise self._problem(f'Too many components for option "--{option}" (max: 2)')
            if rest[:1] in ("", ":"):
                found.append(most if found else 0)
            else:
                parsed = _STRTOUL.match(rest)
                component = int(parsed[1], number_base(parsed[1])) if parsed else 0
                if parsed is None or component > most:
                    raise self._problem(f'bad value for option "--{option}" near "{rest}", or out of range (0-{most}).')
                rest = rest[parsed.end() :]
                if rest[:1] not in ("", ":"):
                    raise self._problem(f'Argument to "--{option}" has unexpected characters near "{rest}".')
                found.append(component)
            if not rest:
                return found
            rest = rest[1:]

    def masked(self, option: str, value: str) -> tuple[int, int]:
        """A mark, perhaps with a mask behind a slash."""
        words = value.split("/")
        parsed = [number(word, 0xFFFFFFFF) for word in words[:2]]
        if None in parsed:
            raise self._problem(f'bad integer value for option "--{option}", or out of range.')
        if len(words) > 2:
            raise self._problem(f'trailing garbage after value for option "--{option}".')
        mark, mask = (*parsed, 0xFFFFFFFF)[:2]
        return mark or 0, mask or 0

    def _problem(self, text: str) -> Problem:
        return Problem(f"{self.name}: {text}\n")


class _Icmp(_Guided, MatchExtension):
    name = "icmp"
    protocol: ClassVar[int] = ICMP
    option: ClassVar[str] = "icmp-type"
    word: ClassVar[str] = "ICMP"
    names: ClassVar[dict[str, tuple[int, int, int]]] = _ICMP_NAMES
    options: ClassVar[dict[str, int]] = {"icmp-type": 1}
    invertible = frozenset(options)

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
        self.check(mandatory=self.option)
        return IcmpType(self.protocol, self.type, self.low, self.high, self.inverted)


class _Icmp6(_Icmp):
    name = "icmp6"
    protocol = ICMPV6
    option = "icmpv6-type"
    word = "ICMPv6"
    names = _ICMPV6_NAMES
    options: ClassVar[dict[str, int]] = {"icmpv6-type": 1}
    invertible = frozenset(options)


class _MarkMatch(_Guided, MatchExtension):
    name = "mark"
    options: ClassVar[dict[str, int]] = {"mark": 1}
    invertible = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.value, self.mask = self.masked(option, value)

    def finish(self) -> Match:
        self.check(mandatory="mark")
        return Mark(self.value, self.mask, self.inverted)


class _MarkTarget(_Guided, TargetExtension):
    name = "MARK"
    options: ClassVar[dict[str, int]] = {"set-xmark": 1, "set-mark": 1, "and-mark": 1, "or-mark": 1, "xor-mark": 1}
    exclusive = tuple(options)

    def read(self, option: str, value: str) -> None:
        if option in ("set-xmark", "set-mark"):
            mark, mask = self.masked(option, value)
            self.result = SetMark(mark, mask if option == "set-xmark" else mask | mark)
            return
        bits = self.unsigned(option, value, 0xFFFFFFFF)
        self.result = {
            "and-mark": SetMark(0, bits ^ 0xFFFFFFFF),
            "or-mark": SetMark(bits, bits),
            "xor-mark": SetMark(bits, 0),
        }[option]

    def finish(self) -> Target:
        self.check()
        if not self.given:
            raise Problem("MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required")
        return self.result


class _NfQueue(_Guided, TargetExtension):
    name = "NFQUEUE"
    options: ClassVar[dict[str, int]] = {"queue-num": 1, "queue-balance": 1, "queue-bypass": 0, "queue-cpu-fanout": 0}
    exclusive = ("queue-num", "queue-balance")
    number, total = 0, 1

    def read(self, option: str, value: str) -> None:
        if option == "queue-num":
            self.number = self.unsigned(option, value, 0xFFFF)
        elif option == "queue-balance":
            queues = self.unsigned_range(option, value, 0xFFFF)
            if len(queues) == 1:
                raise Problem(f'Bad range "{value}"')
            self.number, last = queues
            if last <= self.number:
                raise Problem(f"{self.number} should be less than {last}")
            self.total = last - self.number + 1 & 0xFFFF

    def finish(self) -> Target:
        self.check()
        if "queue-cpu-fanout" in self.given and "queue-balance" not in self.given:
            raise self._problem('option "--queue-cpu-fanout" also requires "--queue-balance".')
        return NfQueue(self.number, "queue-bypass" in self.given, self.total, "queue-cpu-fanout" in self.given)


class _Reject(_Guided, TargetExtension):
    name = "REJECT"
    family: ClassVar[int] = IPV4
    shortened: ClassVar[dict[str, str]] = {"icmp-": "", "unreachable": "unreach", "prohibited": "prohib", "reset": "rst"}
    options: ClassVar[dict[str, int]] = {"reject-with": 1}
    answer = "icmp-port-unreachable"

    def read(self, option: str, value: str) -> None:
        for name in REJECT_WITH[self.family]:
            short = name
            for part, instead in self.shortened.items():
                short = short.replace(part, instead)
            if name.startswith(value.lower()) or short.startswith(value.lower()):
                self.answer = name
                return
        raise Problem(f'unknown reject type "{value}"')

    def finish(self) -> Target:
        self.check()
        return Reject(self.answer, REJECT_WITH[self.family][self.answer])


class _Reject6(_Reject):
    family = IPV6
    shortened: ClassVar[dict[str, str]] = {"icmp6-": "", "unreachable": "unreach"}
    answer = "icmp6-port-unreachable"


_MATCHES: dict[str, tuple[int | None, type[MatchExtension]]] = {
    "tcp": (None, _Tcp),
    "udp": (None, _Udp),
    "mark": (None, _MarkMatch),
    "icmp": (4, _Icmp),
    "icmp6": (6, _Icmp6),
    "icmpv6": (6, _Icmp6),
    "ipv6-icmp": (6, _Icmp6),
}
_TARGETS: dict[int, dict[str, type[TargetExtension]]] = {
    IPV4: {"MARK": _MarkTarget, "NFQUEUE": _NfQueue, "REJECT": _Reject},
    IPV6: {"MARK": _MarkTarget, "NFQUEUE": _NfQueue, "REJECT": _Reject6},
}


def find_match(name: str, family: int) -> MatchExtension | None:
    """The extension behind ``-m name``; None if iptables has none. Raises `NotModelled` for one it has."""
    version, kind = _MATCHES.get(name, (None, None))
    if kind and version in (None, 4 if family == IPV4 else 6):
        return kind()
    if name in MATCHES:
        raise NotModelled(f"match {name}")
    return None


def find_protocol_match(number: int, family: int) -> MatchExtension | None:
    """The extension whose options follow ``-p`` without a ``-m``. Raises `NotModelled`."""
    name = PROTOCOLS.get(number, "")
    if name in _PROTOCOL_MATCHES:
        raise NotModelled(f"match {name}")
    return find_match(name, family)


def find_target(name: str, family: int) -> TargetExtension | None:
    """The extension behind ``-j name``; None if iptables has none. Raises `NotModelled` for one it has."""
    if name in TARGETS:
        raise NotModelled(f"target {name}")
    kind = _TARGETS[family].get(name)
    return kind() if kind else None


def is_target(name: str) -> bool:
    """The name of a target, which no chain may have."""
    return not name or name in STANDARD or name in TARGETS or name in _TARGETS[IPV4]
