"""Targets that tell connection tracking something, and those that have addresses translated.

xt_CT.c, xt_connmark.c, xt_nat.c, xt_MASQUERADE.c, xt_REDIRECT.c, xt_NETMAP.c. They switch tracking on.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ENOENT

from nfnl.sim import nat
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.criteria import address_text
from nfnl.sim.ct_entry import Event
from nfnl.sim.ground import Ground
from nfnl.sim.helpers import Helper, find_helper
from nfnl.sim.hooks import INPUT, OUTPUT, POSTROUTING, PREROUTING
from nfnl.sim.nat import Range
from nfnl.sim.nat_hooks import NatHooks
from nfnl.sim.rules import CONTINUE, Action, Place, Rule, TableError, Target, at_hooks
from nfnl.sim.skb import IPV4, IPV6, Skb
from nfnl.sim.tracking import CtInfo, Template
from nfnl.sim.tuples import Zone

#: ``--ctevents``, in the order of the bits of `Event`; and ``--expevents``.
CT_EVENTS = ("new", "related", "destroy", "reply", "assured", "protoinfo", "helper", "mark", "natseqinfo", "secmark")
EXPECT_EVENTS = ("new",)


@dataclass(frozen=True, slots=True)
class Ct(Target):
    """``-j CT``: what becomes of the flow that a packet will be the first of, or that it shall have none (``notrack``)."""

    notrack: bool = False
    #: it was said as ``-j NOTRACK``
    alias: bool = False
    zone: int = 0
    zone_of_mark: bool = False
    #: as in `Zone.directions`; 0: nothing said, which is both
    directions: int = 0
    helper: str = ""
    timeout: str = ""
    events: int = 0
    expect_events: int = 0

    table = "raw"

    def check(self, rule: Rule, place: Place) -> None:
        """`xt_ct_tg_check`. There are no timeout policies to be named."""
        Target.check(self, rule, place)
        if self.notrack:
            return
        if self.helper and self._helper(rule) is None:
            raise TableError(ENOENT)
        if self.timeout:
            raise TableError(ENOENT if rule.protocol.number and not rule.protocol.inverted else EINVAL)

    def _helper(self, rule: Rule) -> Helper | None:
        return None if rule.protocol.inverted else find_helper(self.helper, rule.family, rule.protocol.number)

    def enter(self, ground: Ground, family: int) -> None:
        if not self.notrack:
            ground.tracking.need(family, "iptables")

    def leave(self, ground: Ground, family: int) -> None:
        if not self.notrack:
            ground.tracking.release(family, "iptables")

    def template(self, rule: Rule) -> Template:
        """What the tracker is told."""
        zone = Zone(self.zone, self.directions or 3)
        helper = self._helper(rule) if self.helper else None
        return Template(zone, self.zone_of_mark, helper, self.events, self.expect_events)

    def result(self) -> str:
        return self.text().removeprefix("-j ")

    def text(self) -> str:
        if self.alias:
            return "-j NOTRACK"
        parts = ["-j CT"]
        if self.notrack:
            parts.append("--notrack")
        if self.helper:
            parts.append(f"--helper {self.helper}")
        for option, names, bits in (("ctevents", CT_EVENTS, self.events), ("expevents", EXPECT_EVENTS, self.expect_events)):
            if bits:
                parts.append(f"--{option} {','.join(name for bit, name in enumerate(names) if bits >> bit & 1)}")
        if self.zone or self.zone_of_mark:
            end = {1: "-orig", 2: "-reply"}.get(self.directions, "")
            parts.append(f"--zone{end} {'mark' if self.zone_of_mark else self.zone}")
        return " ".join(parts)

    def action(self, ground: Ground, rule: Rule) -> Action:
        template = None if self.notrack else self.template(rule)

        def act(skb: Skb, hook: int) -> int:
            if skb.ct is not None or skb.ctinfo or skb.template is not None:
                return CONTINUE  # it came over the loopback, or another rule was first
            if template is None:
                skb.ctinfo = CtInfo.UNTRACKED
            else:
                skb.template = template
            return CONTINUE

        return act


@dataclass(frozen=True, slots=True)
class SetConnMark(Target):
    """``-j CONNMARK``. ``set``: the flow's mark becomes ``(old & ~ctmask) ^ value``; ``save``: the packet's mark under ``nfmask``
    is the value; ``restore``: the other way round.
    """

    how: str
    value: int = 0
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF

    tracks = True

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Marker(self, ground.tracking.table).act

    def result(self) -> str:
        return self.text().removeprefix("-j ")

    def text(self) -> str:
        if self.how == "set":
            return f"-j CONNMARK --set-xmark {self.value:#x}/{self.ctmask:#x}"
        return f"-j CONNMARK --{self.how}-mark --nfmask {self.nfmask:#x} --ctmask {self.ctmask:#x}"


class _Marker:
    """`connmark_tg_shift`."""

    __slots__ = ("_how", "_table")

    def __init__(self, how: SetConnMark, table: ConntrackTable) -> None:
        self._how = how
        self._table = table

    def act(self, skb: Skb, hook: int) -> int:
        entry, how = skb.ct, self._how
        if entry is None:
            return CONTINUE
        if how.how == "restore":
            skb.mark = skb.mark & ~how.nfmask ^ entry.mark & how.ctmask
            return CONTINUE
        value = how.value if how.how == "set" else skb.mark & how.nfmask
        mark = entry.mark & ~how.ctmask ^ value
        if mark != entry.mark:
            entry.mark = mark
            self._table.events.cache(entry, Event.MARK)
        return CONTINUE


# ---------------------------------------------------------------------------------------------------------- translation

#: Options, and the bits of `Range.flags` they are.
RANDOM = {"random": nat.PROTO_RANDOM, "random-fully": nat.PROTO_RANDOM_FULLY, "persistent": nat.PERSISTENT}


class _Nat(Target):
    __slots__ = ()
    tracks = True
    table = "nat"

    def result(self) -> str:
        return self.text().removeprefix("-j ")


class _Translator:
    """What a rule wants, and who does it."""

    __slots__ = ("_nat", "_wanted")

    def __init__(self, nat_hooks: NatHooks, wanted: Range) -> None:
        self._nat = nat_hooks
        self._wanted = wanted

    def bind(self, skb: Skb, hook: int) -> int:
        return self._nat.bind(skb, hook, self._wanted)

    def masquerade(self, skb: Skb, hook: int) -> int:
        return self._nat.masquerade(skb, hook, self._wanted)

    def redirect(self, skb: Skb, hook: int) -> int:
        return self._nat.redirect(skb, hook, self._wanted)


def _flags_text(flags: int) -> str:
    return "".join(f" --{option}" for option, bit in RANDOM.items() if flags & bit)


def _parts_text(wanted: Range) -> str:
    if wanted.parts is None:
        return ""
    low, high = wanted.parts
    ports = str(low) if low == high else f"{low}-{high}"
    return f"{ports}/{wanted.base}" if wanted.flags & nat.PROTO_OFFSET else ports


def _address(packed: bytes) -> str:
    return address_text(int.from_bytes(packed, "big"), IPV4 if len(packed) == 4 else IPV6)


@dataclass(frozen=True, slots=True)
class SourceNat(_Nat):
    """``-j SNAT``: the source becomes one of the range."""

    wanted: Range

    hooks = at_hooks(POSTROUTING, INPUT)
    option = "SNAT --to-source"

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Translator(ground.nat, self.wanted).bind

    def text(self) -> str:
        wanted, ports = self.wanted, _parts_text(self.wanted)
        where = ""
        if wanted.addresses:
            low, high = wanted.addresses
            where = _address(low) if low == high else f"{_address(low)}-{_address(high)}"
            if ports and len(low) > 4:
                where = f"[{where}]"
        return f"-j {self.option} {where}{':' + ports if ports else ''}{_flags_text(wanted.flags)}"


@dataclass(frozen=True, slots=True)
class DestinationNat(SourceNat):
    """``-j DNAT``: the destination becomes one of the range."""

    hooks = at_hooks(PREROUTING, OUTPUT)
    option = "DNAT --to-destination"


@dataclass(frozen=True, slots=True)
class Masquerade(_Nat):
    """``-j MASQUERADE``: the source becomes the address of the device a packet leaves by."""

    wanted: Range = Range()

    hooks = at_hooks(POSTROUTING)
    name = "MASQUERADE"

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Translator(ground.nat, self.wanted).masquerade

    def text(self) -> str:
        ports = f" --to-ports {_parts_text(self.wanted)}" if self.wanted.parts else ""
        return f"-j {self.name}{ports}{_flags_text(self.wanted.flags)}"


@dataclass(frozen=True, slots=True)
class Redirect(Masquerade):
    """``-j REDIRECT``: the destination becomes this machine."""

    hooks = at_hooks(PREROUTING, OUTPUT)
    name = "REDIRECT"

    def action(self, ground: Ground, rule: Rule) -> Action:
        return _Translator(ground.nat, self.wanted).redirect


@dataclass(frozen=True, slots=True)
class NetMap(_Nat):
    """``-j NETMAP``: the network of an address becomes another one; the rest of it stays."""

    family: int
    network: int
    mask: int

    hooks = at_hooks(PREROUTING, INPUT, OUTPUT, POSTROUTING)

    def action(self, ground: Ground, rule: Rule) -> Action:
        size = 4 if rule.family == IPV4 else 16
        return _NetMapper(ground.nat, self.network.to_bytes(size, "big"), self.mask.to_bytes(size, "big")).act

    def text(self) -> str:
        return f"-j NETMAP --to {address_text(self.network, self.family)}/{self.mask.bit_count()}"


class _NetMapper:
    __slots__ = ("_mask", "_nat", "_network")

    def __init__(self, nat_hooks: NatHooks, network: bytes, mask: bytes) -> None:
        self._nat = nat_hooks
        self._network = network
        self._mask = mask

    def act(self, skb: Skb, hook: int) -> int:
        return self._nat.map_net(skb, hook, self._network, self._mask)
