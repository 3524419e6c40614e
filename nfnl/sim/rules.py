"""Rules of iptables: what they ask of a packet and what they do with it; and chains of them.

After net/netfilter/xt_tcpudp.c, xt_mark.c, xt_NFQUEUE.c and the head of net/ipv4/netfilter/ip_tables.c.

A `Rule` says what it asks in plain fields, and is compiled once, when it is made, to a tuple of *predicates*: functions that get
the packet and what `Skb.parse` found in it, and answer yes or no. A rule matches when all of them say yes. Texts are those of
iptables-save 1.8.9; reading them is the business of `nfnl.sim.iptables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import E2BIG, EINVAL, ENOENT
from struct import unpack_from

from nfnl.errors import NfnlError
from nfnl.sim.balance import nfqueue_hash
from nfnl.sim.hooks import (
    ACCEPT,
    DROP,
    HOOK_NAMES,
    QUEUE,
    QUEUE_BYPASS,
)
from nfnl.sim.journey import Step
from nfnl.sim.skb import ICMP, IPV4, IPV6, TCP, Parsed, Skb

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

TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}


class TableError(NfnlError):
    """The kernel, or the library that edits its tables, refuses this; ``errno`` says why."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Hotdrop(Exception):
    """A match found the packet too broken to look at: it is dropped at once (`par->hotdrop`)."""


# ---------------------------------------------------------------------------------------------------------- what rules ask


def _bang(inverted: bool) -> str:
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
        return f"{_bang(self.inverted)}{option} {address_text(self.value, family)}/{behind}"


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
        return "" if self.name == "+" else f"{_bang(self.inverted)}{option} {self.name}"


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
        return f"{_bang(self.inverted)}-p {PROTOCOLS.get(self.number, self.number)}" if self.number else ""


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
        return f"{_bang(self.inverted)}{option} {ports}"


@dataclass(frozen=True, slots=True)
class Ports:
    """``-m tcp`` and ``-m udp`` (xt_tcpudp.c). A later fragment has no ports and does not match, whatever is asked."""

    protocol: int
    sports: Range = Range()
    dports: Range = Range()
    #: TCP: (mask, wanted bits, inverted); None: not asked
    flags: tuple[int, int, bool] | None = None

    @property
    def name(self) -> str:
        return PROTOCOLS[self.protocol]

    def predicate(self) -> Predicate:
        tcp = self.protocol == TCP
        header = 20 if tcp else 8
        low_s, high_s, not_s = self.sports.low, self.sports.high, self.sports.inverted
        low_d, high_d, not_d = self.dports.low, self.dports.high, self.dports.inverted
        mask, wanted, not_flags = self.flags or (0, 0, False)

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
            )

        return matches

    def text(self) -> str:
        parts = [f"-m {self.name}", self.sports.text("--sport"), self.dports.text("--dport")]
        if self.flags:
            mask, wanted, inverted = self.flags
            parts.append(f"{_bang(inverted)}--tcp-flags {_flags_text(mask)} {_flags_text(wanted)}")
        return " ".join(filter(None, parts))


def _flags_text(bits: int) -> str:
    return ",".join(name for name, bit in TCP_FLAGS.items() if bits & bit) or "NONE"


@dataclass(frozen=True, slots=True)
class IcmpType:
    """``-m icmp``, ``-m icmp6``: a type, and codes from ``low`` to ``high``. IPv4's type 255 is any."""

    protocol: int
    type: int
    low: int = 0
    high: int = 0xFF
    inverted: bool = False

    @property
    def name(self) -> str:
        return "icmp" if self.protocol == ICMP else "icmp6"

    def predicate(self) -> Predicate:
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
        option = "--icmp-type" if self.protocol == ICMP else "--icmpv6-type"
        if self.protocol == ICMP and self.type == 0xFF:
            value = "any"
        else:
            value = f"{self.type}/{self.low}" if (self.low, self.high) != (0, 0xFF) else str(self.type)
        return f"-m {self.name} {_bang(self.inverted)}{option} {value}"


@dataclass(frozen=True, slots=True)
class Mark:
    """``-m mark``: the packet mark under a mask."""

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False

    protocol = 0
    name = "mark"

    def predicate(self) -> Predicate:
        value, mask, inverted = self.value, self.mask, self.inverted
        return lambda skb, _: (skb.mark & mask == value) is not inverted

    def text(self) -> str:
        mask = f"/{self.mask:#x}" if self.mask != 0xFFFFFFFF else ""
        return f"-m mark {_bang(self.inverted)}--mark {self.value:#x}{mask}"


Match = Ports | IcmpType | Mark


# ---------------------------------------------------------------------------------------------------------- what rules do


#: What a target may be by itself.
STANDARD = ("ACCEPT", "DROP", "QUEUE", "RETURN")


@dataclass(frozen=True, slots=True)
class Standard:
    """``-j ACCEPT``, ``-j DROP``, ``-j RETURN``, and ``-j QUEUE``, which is queue 0."""

    name: str

    def text(self) -> str:
        return f"-j {self.name}"


@dataclass(frozen=True, slots=True)
class SetMark:
    """``-j MARK``: the new mark is ``(old & ~mask) ^ value``; the packet goes on to the next rule."""

    value: int
    mask: int = 0xFFFFFFFF

    def text(self) -> str:
        return f"-j MARK --set-xmark {self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class NfQueue:
    """``-j NFQUEUE``: to the queue with this number; with ``bypass`` on to the next *table* if nobody listens to it.

    A ``total`` above 1 means so many queues from that number on: a hash of the addresses chooses, or with ``cpu_fanout`` the
    processor that runs the hook. 0 is what becomes of 65536 in the 16 bits there are.
    """

    number: int = 0
    bypass: bool = False
    total: int = 1
    cpu_fanout: bool = False

    def check(self) -> None:
        """`nfqueue_tg_check`. Raises `TableError` (EINVAL)."""
        if not self.total:
            raise TableError(EINVAL)

    def choose(self, ip: Parsed, cpu: int, seed: int) -> int:
        """Number of the queue for a packet (`nfqueue_tg_v3`); ``seed`` is that of the hash."""
        if self.cpu_fanout:
            return self.number + cpu % self.total
        return self.number + nfqueue_hash(ip[0], ip[1], ip[2], self.total, seed)

    def verdict(self, number: int) -> int:
        """The verdict word that says so."""
        return number << 16 | QUEUE | (QUEUE_BYPASS if self.bypass else 0)

    def text(self) -> str:
        queues = f"--queue-balance {self.number}:{self.number + self.total - 1}" if self.total > 1 else f"--queue-num {self.number}"
        bypass, fanout = " --queue-bypass" if self.bypass else "", " --queue-cpu-fanout" if self.cpu_fanout else ""
        return f"-j NFQUEUE {queues}{bypass}{fanout}"


#: ``--reject-with``: its names, in the order iptables looks them up, and the ICMP code they stand for; None: a TCP reset.
REJECT_WITH: dict[int, dict[str, int | None]] = {
    IPV4: {
        "icmp-net-unreachable": 0, "icmp-host-unreachable": 1, "icmp-proto-unreachable": 2, "icmp-port-unreachable": 3,
        "icmp-net-prohibited": 9, "icmp-host-prohibited": 10, "tcp-reset": None, "icmp-admin-prohibited": 13,
    },
    IPV6: {
        "icmp6-no-route": 0, "icmp6-adm-prohibited": 1, "icmp6-addr-unreachable": 3, "icmp6-port-unreachable": 4,
        "tcp-reset": None, "icmp6-policy-fail": 5, "icmp6-reject-route": 6,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reject:
    """``-j REJECT``: drop it and tell its sender, with "destination unreachable" and this code, or None for a TCP reset."""

    name: str
    code: int | None

    def check(self, table: str, protocol: Protocol) -> None:
        """`reject_tg_check`. Raises `TableError` (EINVAL)."""
        if table != "filter" or (self.code is None and protocol != Protocol(TCP)):
            raise TableError(EINVAL)

    def text(self) -> str:
        return f"-j REJECT --reject-with {self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Jump:
    """``-j chain``, and ``-g chain``, which does not come back."""

    chain: Chain
    goto: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Jump) and self.chain is other.chain and self.goto == other.goto

    def __hash__(self) -> int:
        return hash((id(self.chain), self.goto))

    def text(self) -> str:
        return f"-{'g' if self.goto else 'j'} {self.chain.name}"


Target = Standard | SetMark | NfQueue | Reject | Jump

#: What `Table` does behind a rule that matched, where it is not a verdict word.
CONTINUE, RETURN, JUMP, GOTO, SET_MARK, BALANCE, REJECT = -1, -2, -3, -4, -5, -6, -7


class Rule:
    """A rule with its counters. What it asks and does never changes; two rules are the same rule when `same` says so."""

    __slots__ = (
        "action",
        "bytes",
        "dst",
        "family",
        "fragment",
        "indev",
        "matches",
        "outdev",
        "packets",
        "predicates",
        "protocol",
        "src",
        "steps",
        "target",
    )

    def __init__(
        self,
        family: int,
        *,
        src: Address = Address(0, 0),
        dst: Address = Address(0, 0),
        indev: Interface | None = None,
        outdev: Interface | None = None,
        protocol: Protocol = Protocol(0),
        fragment: bool | None = None,
        matches: tuple[Match, ...] = (),
        target: Target | None = None,
        packets: int = 0,
        bytes: int = 0,  # noqa: A002
    ) -> None:
        self.family = family
        self.src, self.dst = src, dst
        self.indev, self.outdev = indev, outdev
        self.protocol = protocol
        #: ``-f``: True a later fragment, False (``! -f``) anything else, None not asked
        self.fragment = fragment
        self.matches = matches
        self.target = target
        self.packets = packets
        #: IP lengths of the packets it matched, added up
        self.bytes = bytes
        self.predicates = tuple(self._predicates())
        self.action = _action(target)
        self.steps: list[Step | None] = [None] * len(HOOK_NAMES)

    def _predicates(self) -> Iterator[Predicate]:
        """In the order of the kernel, which shows when one of them drops the packet."""
        for predicate in (
            self.src.predicate(self.family, 0),
            self.dst.predicate(self.family, 1),
            self.indev and self.indev.predicate(out=False),
            self.outdev and self.outdev.predicate(out=True),
            self.protocol.predicate(self.family),
        ):
            if predicate:
                yield predicate
        if self.fragment is not None:
            fragment = self.fragment
            yield lambda _, ip: (ip[3] > 0) is fragment
        for match in self.matches:
            yield match.predicate()

    def check(self, table: str) -> None:
        """What the kernel checks of a new rule in a table. Raises `TableError` (EINVAL)."""
        for match in self.matches:
            if match.protocol and (match.protocol != self.protocol.number or self.protocol.inverted):
                raise TableError(EINVAL)
        if isinstance(self.target, NfQueue):
            self.target.check()
        elif isinstance(self.target, Reject):
            self.target.check(table, self.protocol)

    @property
    def unconditional(self) -> bool:
        """It matches every packet by its looks (a match that is always true does not count)."""
        asked = (self.src, self.dst, self.indev, self.outdev, self.protocol, self.fragment, self.matches)
        return asked == (Address(0, 0), Address(0, 0), None, None, Protocol(0), None, ())

    def same(self, other: Rule) -> bool:
        """It asks and does the same (counters aside)."""
        return all(
            getattr(self, field) == getattr(other, field)
            for field in ("src", "dst", "indev", "outdev", "protocol", "fragment", "matches", "target")
        )

    def text(self, counters: bool = False) -> str:
        """What stands behind ``-A CHAIN`` in iptables-save."""
        fragment = "" if self.fragment is None else f"{_bang(not self.fragment)}-f"
        parts = [
            self.src.text(self.family, "-s"),
            self.dst.text(self.family, "-d"),
            self.indev.text("-i") if self.indev else "",
            self.outdev.text("-o") if self.outdev else "",
            self.protocol.text(),
            fragment,
            *(match.text() for match in self.matches),
            f"-c {self.packets} {self.bytes}" if counters else "",
            self.target.text() if self.target else "",
        ]
        return " ".join(filter(None, parts))


def _action(target: Target | None) -> int:
    match target:
        case None:
            return CONTINUE
        case Standard(name):
            return {"ACCEPT": ACCEPT, "DROP": DROP, "QUEUE": QUEUE, "RETURN": RETURN}[name]
        case NfQueue():
            return target.verdict(target.number) if target.total == 1 else BALANCE
        case SetMark():
            return SET_MARK
        case Reject():
            return REJECT
        case Jump():
            return GOTO if target.goto else JUMP


class Chain:
    """A named list of rules. Built-in chains have a policy, ``"ACCEPT"`` or ``"DROP"``, and stand at a hook.

    ``rules`` is replaced as a whole by every change, so that whoever keeps the old list can put it back.
    """

    __slots__ = ("bytes", "hook", "name", "packets", "policy", "policy_step", "rules", "table")

    def __init__(self, table: str, name: str, hook: int | None = None) -> None:
        self.table = table
        self.name = name
        self.hook = hook
        self.rules: list[Rule] = []
        #: packets and bytes that met the policy
        self.packets = 0
        self.bytes = 0
        self.policy = "ACCEPT"
        self.policy_step: Step | None = None
        if hook is not None:
            self.set_policy("ACCEPT")

    @property
    def builtin(self) -> bool:
        return self.hook is not None

    def set_policy(self, policy: str) -> None:
        self.policy = policy
        self.policy_step = Step(self.name, self.table, self.name, f"policy {policy}", policy)

    def insert(self, rule: Rule, index: int) -> None:
        """Put a rule before the one at ``index`` (from 0). Raises `TableError` (E2BIG)."""
        if index > len(self.rules):
            raise TableError(E2BIG)
        self.rules = [*self.rules[:index], rule, *self.rules[index:]]

    def replace(self, rule: Rule, index: int) -> None:
        """Put a rule in the place of another. Raises `TableError` (E2BIG)."""
        self.at(index)
        self.rules = [*self.rules[:index], rule, *self.rules[index + 1 :]]

    def delete(self, index: int) -> None:
        """Raises `TableError` (E2BIG)."""
        self.at(index)
        self.rules = [*self.rules[:index], *self.rules[index + 1 :]]

    def at(self, index: int) -> Rule:
        """Raises `TableError` (E2BIG)."""
        if index >= len(self.rules):
            raise TableError(E2BIG)
        return self.rules[index]

    def index(self, rule: Rule) -> int:
        """Where the first such rule stands. Raises `TableError` (ENOENT)."""
        for index, other in enumerate(self.rules):
            if other.same(rule):
                return index
        raise TableError(ENOENT)

    def zero(self) -> None:
        """Set all counters to 0."""
        self.packets = self.bytes = 0
        for rule in self.rules:
            rule.packets = rule.bytes = 0


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
