"""What a rule of iptables asks by itself: addresses, interfaces, the protocol (net/ipv4/netfilter/ip_tables.c).

After `ip_packet_match`. Each is compiled to *predicates*: functions that get the packet and what `Skb.parse` found in it, and
answer yes or no.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import unpack_from

from nfnl.sim.skb import IPV4, Parsed, Skb

#: A function that outlives a snapshot: a closure over plain values, or a bound method of an object, which is copied along.
Predicate = Callable[[Skb, Parsed], bool]

#: Names of protocols as iptables prints them (/etc/protocols of netbase).
PROTOCOLS = {
    1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup", 17: "udp", 20: "hmp",
    22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp", 38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route",
    44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt",
    60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap",
    103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135: "mobility-header",
    136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}  # fmt: skip


class Hotdrop(Exception):
    """A match found the packet too broken to look at: it is dropped at once (`par->hotdrop`)."""


def bang(inverted: bool) -> str:
    """What inverts a criterion."""
    return "! " if inverted else ""


@dataclass(frozen=True, slots=True)
class Address:
    """``-s`` or ``-d``: the address under the mask. ``value`` has no bit outside ``mask``."""

    value: int
    mask: int
    inverted: bool = False

    def predicate(self, family: int, which: int) -> Predicate | None:
        """``which`` 0: the source, 1: the destination; None when it holds for every packet."""
        size = 4 if family == IPV4 else 16
        value, mask, inverted = self.value, self.mask, self.inverted
        if not mask and not inverted:
            return None
        wanted = value.to_bytes(size, "big")
        if mask == (1 << 8 * size) - 1:
            if which:
                return lambda _, ip: (ip[1] == wanted) is not inverted
            return lambda _, ip: (ip[0] == wanted) is not inverted
        if which:
            return lambda _, ip: (int.from_bytes(ip[1], "big") & mask == value) is not inverted
        return lambda _, ip: (int.from_bytes(ip[0], "big") & mask == value) is not inverted

    def text(self, family: int, option: str) -> str:
        """``-s 10.0.0.0/8``; nothing when it holds for every packet."""
        if not self.mask and not self.inverted:
            return ""
        bits = 32 if family == IPV4 else 128
        length = self.mask.bit_count()
        contiguous = self.mask == ((1 << bits) - 1) ^ ((1 << (bits - length)) - 1)
        behind = str(length) if contiguous else address_text(self.mask, family)
        return f"{bang(self.inverted)}{option} {address_text(self.value, family)}/{behind}"


@dataclass(frozen=True, slots=True)
class Interface:
    """``-i`` or ``-o``: a name, or with ``+`` at its end what a name starts with."""

    name: str
    inverted: bool = False

    def predicate(self, out: bool) -> Predicate:
        name, inverted = self.name, self.inverted
        if name.endswith("+"):
            start = name[:-1]
            if out:
                return lambda skb, _: (skb.outdev.name if skb.outdev else "").startswith(start) is not inverted
            return lambda skb, _: (skb.indev.name if skb.indev else "").startswith(start) is not inverted
        if out:
            return lambda skb, _: (skb.outdev is not None and skb.outdev.name == name) is not inverted
        return lambda skb, _: (skb.indev is not None and skb.indev.name == name) is not inverted

    def text(self, option: str) -> str:
        """``-i eth+``; nothing for ``+`` alone, inverted or not (iptables loses the ``!`` there)."""
        return "" if self.name == "+" else f"{bang(self.inverted)}{option} {self.name}"


@dataclass(frozen=True, slots=True)
class Protocol:
    """``-p``: the number of the transport protocol; 0 is every one."""

    number: int
    inverted: bool = False

    def predicate(self, family: int) -> Predicate | None:
        number, inverted = self.number, self.inverted
        if not number:
            return None
        if family == IPV4:
            return lambda _, ip: (ip[2] == number) is not inverted

        def ipv6(_: Skb, ip: Parsed) -> bool:
            if ip[2] < 0:  # the extension headers are broken off
                if not ip[3]:
                    raise Hotdrop
                return False
            return (ip[2] == number) is not inverted

        return ipv6

    def text(self) -> str:
        """``-p tcp``."""
        return f"{bang(self.inverted)}-p {PROTOCOLS.get(self.number, self.number)}" if self.number else ""


def address_text(value: int, family: int) -> str:
    """As the C library's `inet_ntop` writes it."""
    if family == IPV4:
        return ".".join(map(str, value.to_bytes(4, "big")))
    words = unpack_from("!8H", value.to_bytes(16, "big"))
    start, length = _longest_zeros(words)
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return ("::ffff:" if length == 5 else "::") + address_text(value & 0xFFFFFFFF, IPV4)
    texts = [f"{word:x}" for word in words]
    if length < 2:
        return ":".join(texts)
    return ":".join(texts[:start]) + "::" + ":".join(texts[start + length :])


def _longest_zeros(words: tuple[int, ...]) -> tuple[int, int]:
    best = (0, 0)
    for start in range(8):
        length = 0
        while start + length < 8 and not words[start + length]:
            length += 1
        if length > best[1]:
            best = (start, length)
    return best
