"""Reading the options of targets that mark, queue, reject, note or change a packet (extensions/libxt_*.c of iptables 1.8.9)."""

from __future__ import annotations

from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim.rules import Target
from nfnl.sim.skb import IPV4, IPV6
from nfnl.sim.targets import LOG_FLAGS, REJECT_WITH, Log, NfLog, NfQueue, Reject, SetMark, SetTimeToLive, SetTypeOfService
from nfnl.sim.xt_packet import dscp_class, type_of_service
from nfnl.sim.xtables import Guided, Problem, TargetExtension, number


class _MarkTarget(Guided, TargetExtension):
    name = "MARK"
    options: ClassVar[dict[str, int]] = {"set-xmark": 1, "set-mark": 1, "and-mark": 1, "or-mark": 1, "xor-mark": 1}
    exclusive = (tuple(options),)

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


class _NfQueue(Guided, TargetExtension):
    name = "NFQUEUE"
    options: ClassVar[dict[str, int]] = {"queue-num": 1, "queue-balance": 1, "queue-bypass": 0, "queue-cpu-fanout": 0}
    exclusive = (("queue-num", "queue-balance"),)
    also: ClassVar[dict[str, str]] = {"queue-cpu-fanout": "queue-balance"}
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
        return NfQueue(self.number, "queue-bypass" in self.given, self.total, "queue-cpu-fanout" in self.given)


class _Reject(Guided, TargetExtension):
    name = "REJECT"
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
    shortened: ClassVar[dict[str, str]] = {"icmp6-": "", "unreachable": "unreach"}
    answer = "icmp6-port-unreachable"


_LEVELS = {"alert": 1, "crit": 2, "debug": 7, "emerg": 0, "error": 3, "info": 6, "notice": 5, "panic": 0, "warning": 4}


class _Log(Guided, TargetExtension):
    name = "LOG"
    options: ClassVar[dict[str, int]] = {"log-level": 1, "log-prefix": 1, **dict.fromkeys(LOG_FLAGS, 0)}
    prefix, level = "", 4

    def read(self, option: str, value: str) -> None:
        if option == "log-prefix":
            self.prefix = self.string(value, 29, least=1)
        elif option == "log-level":
            level = number(value, 7)
            if level is None:
                level = _LEVELS.get(value)
            if level is None:
                raise Problem(f'log level "{value}" unknown\n')
            self.level = level

    def finish(self) -> Target:
        return Log(self.prefix, self.level, tuple(flag for flag in LOG_FLAGS if flag in self.given))


class _NfLog(Guided, TargetExtension):
    name = "NFLOG"
    options: ClassVar[dict[str, int]] = {
        "nflog-group": 1, "nflog-prefix": 1, "nflog-range": 1, "nflog-size": 1, "nflog-threshold": 1,
    }  # fmt: skip
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}

    def read(self, option: str, value: str) -> None:
        if option == "nflog-range":
            raise NotModelled("--nflog-range")
        if option == "nflog-prefix":
            self.prefix = self.string(value, 63, least=1)
        else:
            self.numbers[option] = self.unsigned(option, value, 0xFFFFFFFF if option == "nflog-size" else 0xFFFF)

    def finish(self) -> Target:
        get = self.numbers.get
        return NfLog(get("nflog-group", 0), self.prefix, get("nflog-size"), get("nflog-threshold", 0))


class _Ttl(Guided, TargetExtension):
    name = "TTL"
    options: ClassVar[dict[str, int]] = {"ttl-set": 1, "ttl-dec": 1, "ttl-inc": 1}
    exclusive = (tuple(options),)

    def read(self, option: str, value: str) -> None:
        self.value = self.unsigned(option, value, 255, least=0 if option.endswith("set") else 1)

    def finish(self) -> Target:
        self.check()
        if not self.given:
            raise Problem(f"{self.name}: You must specify an action")
        return SetTimeToLive(self.family, next(iter(self.given))[-3:], self.value)


class _Hl(_Ttl):
    name = "HL"
    options: ClassVar[dict[str, int]] = {"hl-set": 1, "hl-dec": 1, "hl-inc": 1}
    exclusive = (tuple(options),)


class _Tos(Guided, TargetExtension):
    name = "TOS"
    options: ClassVar[dict[str, int]] = {"set-tos": 1, "and-tos": 1, "or-tos": 1, "xor-tos": 1}
    exclusive = (tuple(options),)

    def read(self, option: str, value: str) -> None:
        if option == "set-tos":
            self.result = SetTypeOfService(*type_of_service(value))
            return
        bits = self.unsigned(option, value, 255)
        self.result = {
            "and-tos": SetTypeOfService(0, bits ^ 0xFF),
            "or-tos": SetTypeOfService(bits, bits),
            "xor-tos": SetTypeOfService(bits, 0),
        }[option]

    def finish(self) -> Target:
        self.check()
        if not self.given:
            raise Problem("TOS: An action is required")
        return self.result


class _Dscp(Guided, TargetExtension):
    name = "DSCP"
    options: ClassVar[dict[str, int]] = {"set-dscp": 1, "set-dscp-class": 1}
    exclusive = (tuple(options),)

    def read(self, option: str, value: str) -> None:
        self.value = self.unsigned(option, value, 63) if option == "set-dscp" else dscp_class(value)

    def finish(self) -> Target:
        self.check()
        if not self.given:
            raise Problem("DSCP target: Parameter --set-dscp is required")
        return SetTypeOfService(self.value << 2, 0xFC, dscp=True)


_BOTH = (IPV4, IPV6)
#: By name: the families they are for, and what reads them.
PACKET_TARGETS: dict[str, tuple[tuple[int, ...], type[TargetExtension]]] = {
    "MARK": (_BOTH, _MarkTarget),
    "NFQUEUE": (_BOTH, _NfQueue),
    "LOG": (_BOTH, _Log),
    "NFLOG": (_BOTH, _NfLog),
    "TTL": ((IPV4,), _Ttl),
    "HL": ((IPV6,), _Hl),
    "TOS": (_BOTH, _Tos),
    "DSCP": (_BOTH, _Dscp),
}
REJECTS: dict[int, type[TargetExtension]] = {IPV4: _Reject, IPV6: _Reject6}
