"""Targets that mark, queue, reject, note or change a packet.

xt_mark.c, xt_NFQUEUE.c, ipt_REJECT.c, xt_LOG.c, xt_NFLOG.c, xt_HL.c, xt_DSCP.c, xt_TCPMSS.c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import EINVAL

from nfnl.sim.balance import nfqueue_hash
from nfnl.sim.ground import Ground
from nfnl.sim.hooks import DROP, QUEUE, QUEUE_BYPASS, HookTable
from nfnl.sim.matches import traffic_class
from nfnl.sim.matches_around import quoted
from nfnl.sim.nat_packet import replaced
from nfnl.sim.rules import CALL, CONTINUE, Action, Place, Rule, TableError, Target
from nfnl.sim.skb import IPV4, IPV6, TCP, Parsed, Skb


@dataclass(frozen=True, slots=True)
class SetMark(Target):
    """``-j MARK``: the new mark is ``(old & ~mask) ^ value``; the packet goes on to the next rule."""

    value: int
    mask: int = 0xFFFFFFFF

    def action(self, ground: Ground, rule: Rule) -> Action:
        value, kept = self.value, ~self.mask

        def act(skb: Skb, hook: int) -> int:
            skb.mark = skb.mark & kept ^ value
            return CONTINUE

        return act

    def result(self) -> str:
        return f"MARK {self.value:#x}" if self.mask == 0xFFFFFFFF else f"MARK {self.value:#x}/{self.mask:#x}"

    def text(self) -> str:
        return f"-j MARK --set-xmark {self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class NfQueue(Target):
    """``-j NFQUEUE``: to the queue with this number; with ``bypass`` on to the next *table* if nobody listens to it.

    A ``total`` above 1 means so many queues from that number on: a hash of the addresses chooses, or with ``cpu_fanout`` the
    processor that runs the hook. 0 is what becomes of 65536 in the 16 bits there are.
    """

    number: int = 0
    bypass: bool = False
    total: int = 1
    cpu_fanout: bool = False

    def check(self, rule: Rule, place: Place) -> None:
        """`nfqueue_tg_check`."""
        if not self.total:
            raise TableError(EINVAL)

    def verdict(self) -> int:
        return self.word(self.number) if self.total == 1 else CALL

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Balancer(ground.hooks, self).act

    def choose(self, ip: Parsed, cpu: int, seed: int) -> int:
        """Number of the queue for a packet (`nfqueue_tg_v3`); ``seed`` is that of the hash."""
        if self.cpu_fanout:
            return self.number + cpu % self.total
        return self.number + nfqueue_hash(ip[0], ip[1], ip[2], self.total, seed)

    def word(self, number: int) -> int:
        """The verdict word that says so."""
        return number << 16 | QUEUE | (QUEUE_BYPASS if self.bypass else 0)

    def result(self) -> str:
        return f"QUEUE {self.number}"

    def text(self) -> str:
        queues = f"--queue-balance {self.number}:{self.number + self.total - 1}" if self.total > 1 else f"--queue-num {self.number}"
        bypass, fanout = " --queue-bypass" if self.bypass else "", " --queue-cpu-fanout" if self.cpu_fanout else ""
        return f"-j NFQUEUE {queues}{bypass}{fanout}"


class _Balancer:
    __slots__ = ("_hooks", "_queues")

    def __init__(self, hooks: HookTable, queues: NfQueue) -> None:
        self._hooks = hooks
        self._queues = queues

    def act(self, skb: Skb, hook: int) -> int:
        queues, steps = self._queues, skb.journey.steps
        number = queues.choose(skb.ip or skb.parse(), self._hooks.cpu, self._hooks.hash_seed)
        steps[-1] = replace(steps[-1], result=f"QUEUE {number}")
        return queues.word(number)


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
class Reject(Target):
    """``-j REJECT``: drop it and tell its sender, with "destination unreachable" and this code, or None for a TCP reset."""

    name: str
    code: int | None

    table = "filter"

    def check(self, rule: Rule, place: Place) -> None:
        """`reject_tg_check`."""
        Target.check(self, rule, place)
        if self.code is None and not rule.is_for(TCP):
            raise TableError(EINVAL)

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Rejection(ground.hooks, self.code).act

    def result(self) -> str:
        return "REJECT"

    def text(self) -> str:
        return f"-j REJECT --reject-with {self.name}"


class _Rejection:
    __slots__ = ("_code", "_hooks")

    def __init__(self, hooks: HookTable, code: int | None) -> None:
        self._hooks = hooks
        self._code = code

    def act(self, skb: Skb, hook: int) -> int:
        self._hooks.reject(skb, self._code)
        return DROP


# ---------------------------------------------------------------------------------------------------------- notes


class _Note(Target):
    """It changes nothing: the journey of the packet has a step of it, and that is all."""

    __slots__ = ()

    def verdict(self) -> int:
        return CONTINUE


@dataclass(frozen=True, slots=True)
class Log(_Note):
    """``-j LOG``."""

    prefix: str = ""
    level: int = 4
    #: of `LOG_FLAGS`, in that order
    flags: tuple[str, ...] = ()

    def result(self) -> str:
        return f"LOG {self.prefix}".rstrip()

    def text(self) -> str:
        prefix = f" --log-prefix {quoted(self.prefix)}" if self.prefix else ""
        level = f" --log-level {self.level}" if self.level != 4 else ""
        return f"-j LOG{prefix}{level}" + "".join(f" --{flag}" for flag in self.flags)


LOG_FLAGS = ("log-tcp-sequence", "log-tcp-options", "log-ip-options", "log-uid", "log-macdecode")


@dataclass(frozen=True, slots=True)
class NfLog(_Note):
    """``-j NFLOG``."""

    group: int = 0
    prefix: str = ""
    size: int | None = None
    threshold: int = 0

    def result(self) -> str:
        return f"NFLOG {self.group}"

    def text(self) -> str:
        parts = ["-j NFLOG"]
        if self.prefix:
            parts.append(f"--nflog-prefix {quoted(self.prefix)}")
        if self.group:
            parts.append(f"--nflog-group {self.group}")
        if self.size is not None:
            parts.append(f"--nflog-size {self.size}")
        if self.threshold:
            parts.append(f"--nflog-threshold {self.threshold}")
        return " ".join(parts)


# ---------------------------------------------------------------------------------------------------------- headers


def _replace_word(skb: Skb, at: int, word: bytes) -> None:
    """Put another pair of bytes into the IP header, and its checksum right, where it has one."""
    data = skb.data
    old = data[at : at + 2]
    if old == word or len(old) < 2:
        return
    data = data[:at] + word + data[at + 2 :]
    if skb.family == IPV4:
        sum_ = replaced(int.from_bytes(data[10:12], "big"), old, word)
        data = data[:10] + sum_.to_bytes(2, "big") + data[12:]
    skb.set_data(data)


@dataclass(frozen=True, slots=True)
class SetTimeToLive(Target):
    """``-j TTL``, and in IPv6 ``-j HL``; ``how`` is ``set``, ``dec`` or ``inc``."""

    family: int
    how: str
    value: int

    table = "mangle"

    def action(self, ground: Ground, rule: Rule) -> Action:
        at = 8 if rule.family == IPV4 else 7
        add = {"set": 0, "inc": self.value, "dec": -self.value}[self.how]
        fixed = self.value if self.how == "set" else None

        def act(skb: Skb, hook: int) -> int:
            data = skb.data
            now = data[at] if len(data) > at else 0
            new = min(255, max(0, now + add)) if fixed is None else fixed
            word = bytes((new, data[9])) if at == 8 else bytes((data[6], new))
            _replace_word(skb, at & ~1, word)
            return CONTINUE

        return act

    def result(self) -> str:
        return self.text().removeprefix("-j ")

    def text(self) -> str:
        name = "TTL" if self.family == IPV4 else "HL"
        return f"-j {name} --{name.lower()}-{self.how} {self.value}"


@dataclass(frozen=True, slots=True)
class SetTypeOfService(Target):
    """``-j TOS``: the byte becomes ``(old & ~mask) ^ value``. ``-j DSCP``: its upper six bits."""

    value: int
    mask: int
    dscp: bool = False

    table = "mangle"

    def action(self, ground: Ground, rule: Rule) -> Action:
        value, kept, family = self.value, ~self.mask & 0xFF, rule.family

        def act(skb: Skb, hook: int) -> int:
            data = skb.data
            new = traffic_class(data, family) & kept ^ value
            if family == IPV4:
                _replace_word(skb, 0, data[:1] + bytes((new,)))
            else:
                first = int.from_bytes(data[:2], "big")
                _replace_word(skb, 0, (first & 0xF00F | new << 4).to_bytes(2, "big"))
            return CONTINUE

        return act

    def result(self) -> str:
        return self.text().removeprefix("-j ")

    def text(self) -> str:
        if self.dscp:
            return f"-j DSCP --set-dscp {self.value >> 2:#04x}"
        return f"-j TOS --set-tos {self.value:#04x}/{self.mask:#04x}"
