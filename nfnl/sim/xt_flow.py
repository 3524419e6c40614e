"""Reading the options of matches that ask connection tracking (extensions/libxt_*.c of iptables 1.8.9)."""

from __future__ import annotations

from typing import ClassVar

from nfnl.errors import NotModelled
from nfnl.sim.ct_entry import ORIGINAL, REPLY
from nfnl.sim.matches_flow import (
    ADDRESSES,
    DIRECTIONS,
    MODES,
    MOST_BYTES,
    MOST_SECONDS,
    PORTS,
    STATES,
    STATUSES,
    Asked,
    ConnBytes,
    ConnLabel,
    ConnLimit,
    ConnMark,
    Conntrack,
    HelperOf,
)
from nfnl.sim.rules import Match
from nfnl.sim.skb import IPV4, IPV6, UDP
from nfnl.sim.xtables import Guided, MatchExtension, Problem, number, port, protocol


def _states(value: str, names: tuple[str, ...], what: str) -> frozenset[str]:
    words = [word.upper() for word in value.split(",")]
    for word, said in zip(words, value.split(","), strict=True):
        if word not in names:
            raise Problem(f'Bad {what} "{said}"')
    return frozenset(words)


class _State(Guided, MatchExtension):
    name = "state"
    options: ClassVar[dict[str, int]] = {"state": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.states = _states(value, STATES[:5], "state")

    def finish(self) -> Match:
        self.check()
        return Conntrack(self.family, (self.states, bool(self.inverted)), state=True)


class _Conntrack(Guided, MatchExtension):
    name = "conntrack"
    options: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("ctstate", "ctproto", *ADDRESSES, "ctstatus", "ctexpire", *PORTS, "ctdir"), 1),
    }
    invertible = frozenset(options) - {"ctdir"}

    def __init__(self) -> None:
        super().__init__()
        self.states: tuple[frozenset[str], bool] | None = None
        self.status: tuple[int, bool] | None = None
        self.direction: int | None = None
        self.ranges: dict[str, Asked] = {}

    def read(self, option: str, value: str) -> None:
        inverted = option in self.inverted
        if option == "ctstate":
            self.states = (_states(value, STATES, "ctstate"), inverted)
        elif option == "ctstatus":
            words = _states(value, ("NONE", *STATUSES), "ctstatus")
            self.status = (sum(STATUSES.get(word, 0) for word in words), inverted)
        elif option == "ctdir":
            found = {"ORIGINAL": ORIGINAL, "REPLY": REPLY}.get(value.upper())
            if found is None:
                raise Problem(f'conntrack: Bad value for "--ctdir" option: "{value}"')
            self.direction = found
        elif option in ADDRESSES:
            self.ranges[option] = Asked(*self.network(value), inverted)
        elif option in PORTS:
            self.ranges[option] = Asked(*self._ports(value), inverted)
        elif option == "ctexpire":
            seconds = self.unsigned_range(option, value, MOST_SECONDS)
            self.ranges[option] = Asked(seconds[0], seconds[-1], inverted)
        else:
            self.ranges[option] = Asked(protocol(value), 0, inverted)

    @staticmethod
    def _ports(value: str) -> tuple[int, int]:
        """What is too much for 16 bits is cut off there."""
        low, colon, high = value.partition(":")

        def one(text: str, otherwise: int) -> int:
            whole = number(text, 0xFFFFFFFF) if text else otherwise
            return port(text, UDP) if whole is None else whole & 0xFFFF

        first = one(low, 0)
        return first, one(high, 0xFFFF) if colon else first

    def finish(self) -> Match:
        self.check()
        if not self.given:
            raise Problem("conntrack: At least one option is required")
        ranges = self.ranges
        return Conntrack(
            self.family,
            self.states,
            ranges.get("ctproto"),
            tuple((option, ranges[option]) for option in ADDRESSES if option in ranges),
            tuple((option, ranges[option]) for option in PORTS if option in ranges),
            self.status,
            ranges.get("ctexpire"),
            self.direction,
        )


class _ConnMark(Guided, MatchExtension):
    name = "connmark"
    options: ClassVar[dict[str, int]] = {"mark": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.value, self.mask = self.masked(option, value)

    def finish(self) -> Match:
        self.check()
        return ConnMark(self.value, self.mask, bool(self.inverted))


class _Helper(Guided, MatchExtension):
    name = "helper"
    options: ClassVar[dict[str, int]] = {"helper": 1}
    invertible = mandatory = frozenset(options)

    def read(self, option: str, value: str) -> None:
        self.helper = self.string(value, 29)

    def finish(self) -> Match:
        self.check()
        return HelperOf(self.helper, bool(self.inverted))


class _ConnBytes(Guided, MatchExtension):
    name = "connbytes"
    options: ClassVar[dict[str, int]] = {"connbytes": 1, "connbytes-dir": 1, "connbytes-mode": 1}
    mandatory = frozenset(options)
    invertible = frozenset(("connbytes",))

    def read(self, option: str, value: str) -> None:
        if option == "connbytes":
            found = self.unsigned_range(option, value, MOST_BYTES)
            self.low, self.high = found[0], found[1] if len(found) > 1 else MOST_BYTES
            if self.high < self.low:
                raise Problem(f"{self.low} should be less than {self.high}")
            return
        known = DIRECTIONS if option == "connbytes-dir" else MODES
        if value not in known:
            raise Problem(f"Unknown --{option} `{value}'")

    def finish(self) -> Match:
        self.check()
        low, high = (self.high, self.low) if self.inverted else (self.low, self.high)
        return ConnBytes(low, high, self.given["connbytes-mode"], self.given["connbytes-dir"])


class _ConnLimit(Guided, MatchExtension):
    name = "connlimit"
    options: ClassVar[dict[str, int]] = {
        "connlimit-upto": 1, "connlimit-above": 1, "connlimit-mask": 1, "connlimit-saddr": 0, "connlimit-daddr": 0,
    }  # fmt: skip
    invertible = frozenset(("connlimit-upto", "connlimit-above"))
    exclusive = (("connlimit-upto", "connlimit-above"), ("connlimit-saddr", "connlimit-daddr"))
    limit: int
    length: int | None = None

    def read(self, option: str, value: str) -> None:
        if option in self.invertible:
            self.limit = self.unsigned(option, value, 0xFFFFFFFF)
        elif option == "connlimit-mask":
            length = self.mask_length(value)
            if length is None:
                most = 32 if self.family == IPV4 else 128
                raise self.problem(f'bad value for option "--{option}", neither a valid network mask nor valid CIDR (0-{most}).')
            self.length = length

    def finish(self) -> Match:
        self.check()
        if not self.invertible & self.given.keys():
            raise Problem('You must specify "--connlimit-above" or "--connlimit-upto".')
        length = 128 if self.length is None and self.family == IPV6 else self.length  # which are the same there
        above = ("connlimit-above" in self.given) is not bool(self.inverted)
        return ConnLimit(self.family, self.limit, above, length, "connlimit-daddr" in self.given)


class _ConnLabel(Guided, MatchExtension):
    name = "connlabel"
    options: ClassVar[dict[str, int]] = {"label": 1, "set": 0}
    mandatory = frozenset(("label",))
    invertible = frozenset(("label",))

    def read(self, option: str, value: str) -> None:
        if option == "label":
            label = number(value, 0xFFFF)
            if label is None:
                raise NotModelled("names of labels")
            self.label = label

    def finish(self) -> Match:
        self.check()
        return ConnLabel(self.label, bool(self.inverted), "set" in self.given)


FLOW_MATCHES: dict[str, type[MatchExtension]] = {
    "conntrack": _Conntrack,
    "state": _State,
    "connmark": _ConnMark,
    "helper": _Helper,
    "connbytes": _ConnBytes,
    "connlimit": _ConnLimit,
    "connlabel": _ConnLabel,
}
