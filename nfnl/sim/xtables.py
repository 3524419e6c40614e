"""Reading the words of iptables rules as libxtables 1.8.9 reads them: addresses, ports, marks, and the options of extensions.

What iptables would refuse is refused in its own words (`Problem`); what it would take and the fake kernel cannot do raises
`NotModelled`. Nothing is looked up outside: names of hosts are not modelled, names of services are those of the tables below.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim.criteria import PROTOCOLS, Address, Interface, Protocol
from nfnl.sim.matches import Range
from nfnl.sim.rules import Match, Target
from nfnl.sim.skb import IPV4, TCP

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


def port(text: str, protocol: int) -> int:
    """A number, or the name of a service of a protocol."""
    value = number(text, 0xFFFF)
    if value is None:
        value = (_TCP_SERVICES if protocol == TCP else _UDP_SERVICES).get(text)
    if value is None:
        raise Problem(f"invalid port/service `{text}' specified")
    return value


def ports(text: str, protocol: int, inverted: bool) -> Range:
    """One port, or a range of them."""
    low, colon, high = text.partition(":")
    if not colon:
        only = port(text, protocol)
        return Range(only, only, inverted)
    first, last = port(low, protocol) if low else 0, port(high, protocol) if high else 0xFFFF
    if first > last:
        raise Problem("invalid portrange (min > max)")
    return Range(first, last, inverted)


def host(text: str, family: int) -> int:
    """An address alone. Raises `NotModelled` for a name."""
    value = _aton(text) if family == IPV4 else _colons(text)
    if value is None:
        raise NotModelled(f"the name of a host ({text})")
    return value


def host_of(text: str, family: int) -> int | None:
    """An address alone, with all its parts; None for anything else."""
    return _dotted(text, fill=False) if family == IPV4 else _colons(text)


def _aton(text: str) -> int | None:
    """As the C library's `inet_aton` has it: up to four numbers, the last of which fills what is left."""
    parts = [number(part, 0xFFFFFFFF) for part in text.split(".")]
    if len(parts) > 4:
        return None
    value = 0
    for place, part in enumerate(parts):
        room = 8 if place < len(parts) - 1 else 8 * (5 - len(parts))
        if part is None or part >> room:
            return None
        value = value << room | part
    return value


# ---------------------------------------------------------------------------------------------------------- extensions


class Extension:
    """A match or target under construction: the options it has been given so far."""

    name: ClassVar[str]
    #: long option -> how many words follow it
    options: ClassVar[dict[str, int]] = {}
    #: the family it is for, and what ``-p`` has asked for so far
    family = IPV4
    asked = Protocol(0)

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


class Guided(Extension):
    """Options that libxtables itself checks: each only once, exclusive ones not together, `!` only where it makes sense."""

    invertible: ClassVar[frozenset[str]] = frozenset()
    mandatory: ClassVar[frozenset[str]] = frozenset()
    #: of each of these tuples one at most
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    #: option -> another that has to be there too
    also: ClassVar[dict[str, str]] = {}
    #: other names of options
    aliases: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.inverted: set[str] = set()

    def take(self, option: str, values: list[str], inverted: bool) -> None:
        option = self.aliases.get(option, option)
        if option in self.given:
            raise self.problem(f'option "--{option}" can only be used once.')
        if inverted and option not in self.invertible:
            raise self.problem(f'option "--{option}" cannot be inverted.')
        value = values[0] if values else ""
        if inverted:
            self.inverted.add(option)
        self.read(option, value)
        self.given[option] = value

    def read(self, option: str, value: str) -> None:
        """Check and keep the value."""

    def check(self) -> None:
        """What is asked of the options together (`xtables_options_fcheck`)."""
        for option in self.options:
            if option in self.mandatory and option not in self.given:
                raise self.problem(f'option "--{option}" must be specified')
            if option not in self.given:
                continue
            if (other := self.also.get(option, option)) not in self.given:
                raise self.problem(f'option "--{option}" also requires "--{other}".')
            for group in self.exclusive:
                others = [other for other in group if other in self.given and other != option] if option in group else []
                if others:
                    raise self.problem(f'option "--{option}" cannot be used together with "--{others[0]}".')

    def unsigned(self, option: str, value: str, most: int, least: int = 0) -> int:
        """One number."""
        parsed = number(value, most)
        if parsed is None or parsed < least:
            raise self.problem(f'bad value for option "--{option}", or out of range ({least}-{most}).')
        return parsed

    def string(self, value: str, most: int, least: int = 0) -> str:
        """A text, of which what is longer than ``most`` is cut off."""
        if len(value) < least:
            raise Problem(f"Argument must have a minimum length of {least} characters\n")
        return value[:most]

    def bad(self, option: str, value: str) -> Problem:
        """A value that makes no sense."""
        return Problem(f'{self.name}: Bad value for "--{option}" option: "{value}"')

    def unsigned_range(self, option: str, value: str, most: int) -> list[int]:
        """One number, or two with a colon between; the first may be left out for 0, the second for ``most``."""
        found: list[int] = []
        rest = value
        while True:
            if len(found) == 2:
                raise self.problem(f'Too many components for option "--{option}" (max: 2)')
            if rest[:1] in ("", ":"):
                found.append(most if found else 0)
            else:
                parsed = _STRTOUL.match(rest)
                component = int(parsed[1], number_base(parsed[1])) if parsed else 0
                if parsed is None or component > most:
                    raise self.problem(f'bad value for option "--{option}" near "{rest}", or out of range (0-{most}).')
                rest = rest[parsed.end() :]
                if rest[:1] not in ("", ":"):
                    raise self.problem(f'Argument to "--{option}" has unexpected characters near "{rest}".')
                found.append(component)
            if not rest:
                return found
            rest = rest[1:]

    def masked(self, option: str, value: str) -> tuple[int, int]:
        """A mark, perhaps with a mask behind a slash."""
        words = value.split("/")
        parsed = [number(word, 0xFFFFFFFF) for word in words[:2]]
        if None in parsed:
            raise self.problem(f'bad integer value for option "--{option}", or out of range.')
        if len(words) > 2:
            raise self.problem(f'trailing garbage after value for option "--{option}".')
        mark, mask = (*parsed, 0xFFFFFFFF)[:2]
        return mark or 0, mask or 0

    def problem(self, text: str) -> Problem:
        """What libxtables says."""
        return Problem(f"{self.name}: {text}\n")

    def network(self, value: str) -> tuple[int, int]:
        """An address, perhaps with a mask or its length behind a slash: both as numbers."""
        bits = 32 if self.family == IPV4 else 128
        text, slash, mask = value.partition("/")
        address = host(text, self.family)
        length = self.mask_length(mask) if slash else bits
        if length is None:
            raise NotModelled(f"the mask {mask}")
        return address, (1 << bits) - (1 << (bits - length))

    def mask_length(self, text: str) -> int | None:
        """Of a mask by its length or as an address; one with holes passes for the longest. None for anything else."""
        bits = 32 if self.family == IPV4 else 128
        length = number(text, bits)
        if length is not None:
            return length
        mask = _aton(text) if self.family == IPV4 else _colons(text)
        if mask is None:
            return None
        length = mask.bit_count()
        return length if mask == (1 << bits) - (1 << (bits - length)) else bits
