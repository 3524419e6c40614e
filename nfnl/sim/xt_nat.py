"""Reading the options of targets for tracking and translation (libxt_CT.c, libxt_CONNMARK.c, libxt_NAT.c ... of iptables 1.8.9)."""

from __future__ import annotations

from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim import nat
from nfnl.sim.nat import Range
from nfnl.sim.rules import Target
from nfnl.sim.skb import ICMP, IPV4, TCP, UDP
from nfnl.sim.targets_flow import (
    CT_EVENTS,
    EXPECT_EVENTS,
    RANDOM,
    Ct,
    DestinationNat,
    Masquerade,
    NetMap,
    Redirect,
    SetConnMark,
    SourceNat,
)
from nfnl.sim.tuples import DCCP, SCTP
from nfnl.sim.xtables import Guided, Problem, TargetExtension, host_of, number, port


class _Ct(Guided, TargetExtension):
    name = "CT"
    options: ClassVar[dict[str, int]] = {
        "notrack": 0, "helper": 1, "timeout": 1, "ctevents": 1, "expevents": 1, "zone": 1, "zone-orig": 1, "zone-reply": 1,
    }  # fmt: skip
    helper, timeout = "", ""
    events, expect_events = 0, 0
    zone, zone_of_mark, directions = 0, False, 0

    def read(self, option: str, value: str) -> None:
        if option.startswith("zone"):
            self.directions |= {"zone": 0, "zone-orig": 1, "zone-reply": 2}[option]
            if value == "mark":
                self.zone_of_mark = True
                return
            zone = number(value, 0xFFFF)
            if zone is None:
                raise Problem(f"Cannot parse {value} as a zone ID")
            self.zone = zone
        elif option == "helper":
            self.helper = self.string(value, 15)
        elif option == "timeout":
            self.timeout = self.string(value, 31)
        elif option == "ctevents":
            self.events = _events(value, CT_EVENTS)
        elif option == "expevents":
            self.expect_events = _events(value, EXPECT_EVENTS)

    def finish(self) -> Target:
        return Ct(
            "notrack" in self.given,
            False,
            self.zone,
            self.zone_of_mark,
            self.directions,
            self.helper,
            self.timeout,
            self.events,
            self.expect_events,
        )


def _events(value: str, names: tuple[str, ...]) -> int:
    bits = 0
    for name in value.split(","):
        if name not in names:
            raise Problem(f'Unknown event type "{name}"')
        bits |= 1 << names.index(name)
    return bits


class _NoTrack(Guided, TargetExtension):
    name = "NOTRACK"

    def finish(self) -> Target:
        return Ct(notrack=True, alias=True)


class _ConnMark(Guided, TargetExtension):
    name = "CONNMARK"
    options: ClassVar[dict[str, int]] = {
        "set-xmark": 1, "set-mark": 1, "and-mark": 1, "or-mark": 1, "xor-mark": 1, "save-mark": 0, "restore-mark": 0,
        "left-shift-mark": 1, "right-shift-mark": 1, "ctmask": 1, "nfmask": 1, "mask": 1,
    }  # fmt: skip
    exclusive = (tuple(options)[:7], ("ctmask", "mask"), ("nfmask", "mask"))

    def __init__(self) -> None:
        super().__init__()
        self.result: SetConnMark | None = None
        self.ctmask = self.nfmask = 0xFFFFFFFF

    def read(self, option: str, value: str) -> None:
        if option.endswith("shift-mark"):
            raise NotModelled(f"--{option}")
        if option in ("save-mark", "restore-mark"):
            self.result = SetConnMark(option.removesuffix("-mark"))
        elif option in ("set-xmark", "set-mark"):
            mark, mask = self.masked(option, value)
            self.result = SetConnMark("set", mark, mask if option == "set-xmark" else mask | mark)
        else:
            bits = self.unsigned(option, value, 0xFFFFFFFF)
            if option.endswith("mask"):
                self.ctmask = self.ctmask if option == "nfmask" else bits
                self.nfmask = self.nfmask if option == "ctmask" else bits
            else:
                self.result = {
                    "and-mark": SetConnMark("set", 0, bits ^ 0xFFFFFFFF),
                    "or-mark": SetConnMark("set", bits, bits),
                    "xor-mark": SetConnMark("set", bits, 0),
                }[option]

    def finish(self) -> Target:
        self.check()
        done = self.result
        if done is None:
            raise Problem("CONNMARK target: No operation specified")
        if done.how == "set":
            return SetConnMark("set", done.value, self.ctmask if "mask" in self.given else done.ctmask, self.nfmask)
        return SetConnMark(done.how, 0, self.ctmask, self.nfmask)


# ---------------------------------------------------------------------------------------------------------- translation

#: Protocols with something that can be translated besides the address.
_WITH_PARTS = frozenset((TCP, UDP, SCTP, DCCP, ICMP))


class _Nat(Guided, TargetExtension):
    def __init__(self) -> None:
        super().__init__()
        self.parts: tuple[int, int] | None = None
        self.addresses: tuple[bytes, bytes] | None = None
        self.base: int | None = None

    def ports(self, text: str, *, based: bool = False) -> None:
        """``80``, ``80-90``, and with a base ``80-90/100`` (`parse_ports`)."""
        if self.asked.number not in _WITH_PARTS:
            raise Problem("Need TCP, UDP, SCTP or DCCP with port specification")
        low, dash, high = text.partition("-")
        if dash and based:
            high, slash, base = high.partition("/")
            self.base = self._port(base) if slash else None
        first = self._port(low)
        last = self._port(high) if dash else first
        if last < first:
            raise Problem(f"Port range `{high}' funky")
        self.parts = (first, last)

    def _port(self, text: str) -> int:
        try:
            return port(text, self.asked.number)
        except Problem:
            raise Problem(f"Port `{text}' not valid") from None

    def to(self, text: str, *, based: bool) -> None:
        """``1.2.3.4-1.2.3.9:80-90``, ``:80``; in IPv6 with brackets around what is before the ports (`parse_to`)."""
        where, ports = text, ""
        if text.startswith("["):
            where, bracket, ports = text[1:].partition("]")
            if not bracket:
                raise Problem("Invalid address format")
            ports = ports.removeprefix(":")
        elif text.count(":") == 1:
            where, _, ports = text.partition(":")
        if ports:
            self.ports(ports, based=based)
        if where or not ports:
            low, dash, high = where.partition("-")
            self.addresses = (self._packed(low), self._packed(high if dash else low))

    def _packed(self, text: str) -> bytes:
        value = host_of(text, self.family)
        if value is None:
            raise Problem(f'Bad IP address "{text}"')
        return value.to_bytes(4 if self.family == IPV4 else 16, "big")

    def range(self) -> Range:
        """All of it."""
        self.check()
        flags = sum(bit for option, bit in RANDOM.items() if option in self.given)
        if self.base is not None:
            flags |= nat.PROTO_OFFSET
        return Range(self.addresses, self.parts, flags, self.base or 0)


class _Snat(_Nat):
    name = "SNAT"
    options: ClassVar[dict[str, int]] = {"to-source": 1, "random": 0, "random-fully": 0, "persistent": 0}
    mandatory = frozenset(("to-source",))

    def read(self, option: str, value: str) -> None:
        if option == "to-source":
            self.to(value, based=False)

    def finish(self) -> Target:
        return SourceNat(self.range())


class _Dnat(_Nat):
    name = "DNAT"
    options: ClassVar[dict[str, int]] = {"to-destination": 1, "random": 0, "persistent": 0}
    mandatory = frozenset(("to-destination",))

    def read(self, option: str, value: str) -> None:
        if option == "to-destination":
            self.to(value, based=True)

    def finish(self) -> Target:
        return DestinationNat(self.range())


class _Masquerade(_Nat):
    name = "MASQUERADE"
    options: ClassVar[dict[str, int]] = {"to-ports": 1, "random": 0, "random-fully": 0}

    def read(self, option: str, value: str) -> None:
        if option == "to-ports":
            self.ports(value)

    def finish(self) -> Target:
        return Masquerade(self.range())


class _Redirect(_Masquerade):
    name = "REDIRECT"
    options: ClassVar[dict[str, int]] = {"to-ports": 1, "random": 0}

    def finish(self) -> Target:
        return Redirect(self.range())


class _NetMap(Guided, TargetExtension):
    name = "NETMAP"
    options: ClassVar[dict[str, int]] = {"to": 1}
    mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.address, self.mask = self.network(value)

    def finish(self) -> Target:
        self.check()
        return NetMap(self.family, self.address & self.mask, self.mask)


FLOW_TARGETS: dict[str, type[TargetExtension]] = {
    "CT": _Ct,
    "NOTRACK": _NoTrack,
    "CONNMARK": _ConnMark,
    "SNAT": _Snat,
    "DNAT": _Dnat,
    "MASQUERADE": _Masquerade,
    "REDIRECT": _Redirect,
    "NETMAP": _NetMap,
}
