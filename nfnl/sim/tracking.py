"""Connection tracking at the hooks: packets become flows.

net/netfilter/nf_conntrack_core.c (`nf_conntrack_in`, `__nf_conntrack_confirm`), nf_conntrack_proto.c (`nf_confirm`, and which hooks
there are), nf_conntrack_proto_icmp.c and ..._icmpv6.c (errors), net/ipv4/netfilter/nf_defrag_ipv4.c and its IPv6 twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from nfnl.sim import ct_packet
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, Status
from nfnl.sim.expectations import Expectation, ExpectationTable
from nfnl.sim.helpers import Help, Helper
from nfnl.sim.hooks import ACCEPT, DROP, HOOK_NAMES, INPUT, OUTPUT, POSTROUTING, PREROUTING, STOLEN, HookTable
from nfnl.sim.journey import Step
from nfnl.sim.protoinfo import TcpInfo, TcpState
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, TCP, Skb
from nfnl.sim.tracker import Answer, Verdict
from nfnl.sim.tuples import DEFAULT_ZONE, SCTP, Tuple, Zone


class CtInfo(IntEnum):
    """How a packet stands to its flow (`enum ip_conntrack_info`)."""

    ESTABLISHED = 0
    RELATED = 1
    NEW = 2
    ESTABLISHED_REPLY = 3
    RELATED_REPLY = 4
    UNTRACKED = 7


_REPLY = 3  # IP_CT_IS_REPLY: what is from here on belongs to the reply direction
_STATE_NAMES = {
    CtInfo.ESTABLISHED: "ESTABLISHED",
    CtInfo.RELATED: "RELATED",
    CtInfo.NEW: "NEW",
    CtInfo.ESTABLISHED_REPLY: "ESTABLISHED",
    CtInfo.RELATED_REPLY: "RELATED",
    CtInfo.UNTRACKED: "UNTRACKED",
}


def state_of(skb: Skb) -> str:
    """As rules have it: NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED."""
    if skb.ct is None and skb.ctinfo != CtInfo.UNTRACKED:
        return "INVALID"
    return _STATE_NAMES[CtInfo(skb.ctinfo)]


def direction_of(skb: Skb) -> int:
    """Of its flow: ORIGINAL or REPLY."""
    return REPLY if _REPLY <= skb.ctinfo < CtInfo.UNTRACKED else ORIGINAL


@dataclass(frozen=True, slots=True)
class Template:
    """What ``-j CT`` says of a flow that is still to be made (`struct nf_conn` with IPS_TEMPLATE)."""

    zone: Zone = DEFAULT_ZONE
    #: the zone is the packet's mark
    zone_of_mark: bool = False
    helper: Helper | None = None
    #: masks of events, bits of `Event` and of `ExpectEvent`; 0: not said
    events: int = 0
    expect_events: int = 0
    timeouts: Mapping[str, int] | None = None


#: Types of ICMP errors.
_ERRORS = frozenset((3, 4, 5, 11, 12))
_HIGHEST = 18
#: ICMPv6 that is none of a tracker's business: multicast listeners, neighbours (`noct_valid_new`).
_UNTRACKED6 = frozenset((130, 131, 132, 133, 134, 135, 136, 143, 151, 152))
_REDIRECT6 = 137
#: Protocols whose flows cannot have begun twice (`allow_clash` is off).
_NEVER_TWICE = frozenset((TCP, SCTP, ICMP, ICMPV6))
_NAT_DONE = Status.SRC_NAT_DONE | Status.DST_NAT_DONE

#: Looks at a packet of a flow with a helper, with the offset of its transport header; a verdict.
HelperFunction = Callable[[Skb, Entry, int], int]


class Tracking:
    """The tracker of one network namespace, at its hooks while somebody needs it."""

    __slots__ = (
        "_defragment",
        "_users",
        "adjust_sequence",
        "expectations",
        "expected",
        "helpers",
        "hooks",
        "table",
    )

    def __init__(
        self, hooks: HookTable, table: ConntrackTable, expectations: ExpectationTable, defragment: Callable[[Skb, int], bool]
    ) -> None:
        """``defragment``: put fragments together for a hook; False if the packet waits, or was dropped."""
        self.hooks = hooks
        self.table = table
        self.expectations = expectations
        self._defragment = defragment
        self._users: dict[int, list[str]] = {IPV4: [], IPV6: []}
        #: by the helper's name, what it does about a packet
        self.helpers: dict[str, HelperFunction] = {}
        #: by name of the function of an expectation, what it does to the flow that came
        self.expected: dict[str, Callable[[Entry, Expectation], None]] = {}
        #: shift sequence numbers of a flow that helpers have changed; False: it cannot be done
        self.adjust_sequence: Callable[[Skb, Entry, int, int], bool] = _nothing_to_adjust

    # ------------------------------------------------------------------ on and off

    def need(self, family: int, who: str) -> None:
        """Somebody needs tracking: with the first the hooks are registered (`nf_ct_netns_get`)."""
        self._users[family].append(who)
        if len(self._users[family]) == 1:
            last = (1 << 31) - 1
            for hook in (PREROUTING, OUTPUT):
                self.hooks.register(family, hook, -400, "defrag", self._defrag)
                self.hooks.register(family, hook, -200, "conntrack", self.track)
            self.hooks.register(family, POSTROUTING, last, "confirm", self.confirm)
            self.hooks.register(family, INPUT, last - (family == IPV6), "confirm", self.confirm)
            self._forget_windows(family)

    def release(self, family: int, who: str) -> None:
        """Somebody needs it no longer; after the last the hooks are gone, and what waits in queues is dropped."""
        self._users[family].remove(who)
        if not self._users[family]:
            for hook in (PREROUTING, OUTPUT):
                self.hooks.unregister(family, hook, "conntrack")
                self.hooks.unregister(family, hook, "defrag")
            for hook in (POSTROUTING, INPUT):
                self.hooks.unregister(family, hook, "confirm")

    def is_on(self, family: int) -> bool:
        """Packets of this family are tracked."""
        return bool(self._users[family])

    def _forget_windows(self, family: int) -> None:
        """Nobody has seen what went by meanwhile (`nf_ct_tcp_fixup`)."""
        for entry in self.table.walk():
            info = entry.proto
            if entry.family == family and isinstance(info, TcpInfo) and info.state == TcpState.ESTABLISHED:
                for side in info.sides:
                    side.maxwin = 0

    def _defrag(self, skb: Skb, hook: int) -> int:
        if skb.ct is not None or skb.ctinfo == CtInfo.UNTRACKED:
            return ACCEPT
        return ACCEPT if self._defragment(skb, hook) else STOLEN

    # ------------------------------------------------------------------ in

    def track(self, skb: Skb, hook: int) -> int:
        """`nf_conntrack_in`: give a packet its flow, and tell it from others."""
        if skb.ct is not None or skb.ctinfo == CtInfo.UNTRACKED:
            return ACCEPT  # it comes over the loopback, or a rule said so
        verdict = self._track(skb, hook, skb.template or _NO_TEMPLATE)
        skb.template = None
        result = "DROP" if verdict == DROP else "ACCEPT"
        skb.journey.steps.append(_STEPS[hook, "the table of flows is full" if verdict == DROP else state_of(skb), result])
        return verdict

    def _track(self, skb: Skb, hook: int, template: Template) -> int:
        table = self.table
        statistics = table.statistics
        found = ct_packet.where(skb)
        if found is None:
            statistics.invalid += 1
            return ACCEPT
        protocol, at = found
        checked = hook == PREROUTING and bool(table.sysctls.current["checksum"])
        if protocol in (ICMP, ICMPV6):
            if not self._icmp(skb, protocol, at, template, checked):
                statistics.error += 1
                return ACCEPT
            if skb.ct is not None or skb.ctinfo == CtInfo.UNTRACKED:
                return ACCEPT
        while True:
            try:
                entry = self._resolve(skb, protocol, at, template)
            except OSError:
                statistics.drop += 1
                return DROP
            if entry is None:
                statistics.invalid += 1
                return ACCEPT
            direction = direction_of(skb)
            answer = ct_packet.track(entry, direction, skb, at, table.sysctls.current, table.now, checked)
            if answer.verdict is Verdict.ACCEPT:
                break
            if answer.at_most is not None and not entry.status & Status.FIXED_TIMEOUT:
                table.shorten(entry, answer.at_most)
            skb.detach()
            if answer.verdict is Verdict.INVALID:
                statistics.invalid += 1
                return ACCEPT
            table.delete(entry)
        self._apply(skb, entry, direction, answer)
        if skb.ctinfo == CtInfo.ESTABLISHED_REPLY and not entry.status & Status.SEEN_REPLY:
            entry.status |= Status.SEEN_REPLY
            table.events.cache(entry, Event.REPLY)
        return ACCEPT

    def _resolve(self, skb: Skb, protocol: int, at: int, template: Template) -> Entry | None:
        """`resolve_normal_ct`. None: there is no telling. Raises OSError (ENOMEM)."""
        wanted = ct_packet.tuple_of(skb.family, skb.data, protocol, at)
        if wanted is None:
            return None
        zone = _zone_of(skb, template)
        found = self.table.lookup(zone, wanted)
        if found is not None:
            entry, direction = found
            entry.use += 1
        else:
            reply = wanted.inverse()
            if reply is None:
                return None
            entry, direction = self._begin(skb, zone, wanted, reply, template), ORIGINAL
        if direction == REPLY:
            info = CtInfo.ESTABLISHED_REPLY
        elif entry.status & Status.SEEN_REPLY:
            info = CtInfo.ESTABLISHED
        else:
            info = CtInfo.RELATED if entry.status & Status.EXPECTED else CtInfo.NEW
        skb.attach(entry, info, self.table.put)
        return entry

    def _begin(self, skb: Skb, zone: Zone, original: Tuple, reply: Tuple, template: Template) -> Entry:
        """A flow that is not in the table yet (`init_conntrack`)."""
        table = self.table
        entry = table.allocate(zone, original, reply)
        entry.timeouts = template.timeouts
        table.add_areas(entry, events=template.events, expect_events=template.expect_events)
        expectation = self.expectations.meet(zone, original) if len(self.expectations) else None
        helper = template.helper
        if expectation is not None:
            master = expectation.master
            table.set_master(entry, master)
            entry.mark, entry.secmark = master.mark, master.secmark
            table.statistics.expect_new += 1
            helper = expectation.helper
        if helper is not None and helper.protocol == original.protocol and original.family in helper.families:
            entry.help = Help(helper)
            if expectation is None:
                entry.status |= Status.HELPER
        if expectation is not None and expectation.function:
            self.expected.get(expectation.function, _not_to_be_changed)(entry, expectation)
        return entry

    def _apply(self, skb: Skb, entry: Entry, direction: int, answer: Answer) -> None:
        """What the tracker wants done about the flow."""
        table = self.table
        entry.status |= answer.status
        if answer.events:
            table.events.cache(entry, answer.events)
        if answer.timeout is not None:
            table.refresh(entry, answer.timeout)
        if answer.timeout is not None or answer.kill:
            table.count_packet(entry, direction, len(skb.data))
        if answer.kill:
            table.delete(entry)

    # ------------------------------------------------------------------ ICMP errors

    def _icmp(self, skb: Skb, protocol: int, at: int, template: Template, checked: bool) -> bool:
        """`nf_conntrack_icmpv4_error`, `nf_conntrack_icmpv6_error`. False: INVALID."""
        if (protocol == ICMP) != (skb.family == IPV4):
            return True
        data = skb.data
        if len(data) < at + 8 or (checked and not ct_packet.is_sound(skb, protocol, at)):
            return False
        kind = data[at]
        if protocol == ICMPV6:
            if kind in _UNTRACKED6:
                skb.ctinfo = CtInfo.UNTRACKED
                return True
            if kind == _REDIRECT6:
                return self._redirect6(skb, at, template)
            return kind >= 128 or self._error(skb, data[at + 8 :], template)
        if kind > _HIGHEST:
            return False
        return kind not in _ERRORS or self._error(skb, data[at + 8 :], template)

    def _redirect6(self, skb: Skb, at: int, template: Template) -> bool:
        """`nf_conntrack_icmpv6_redirect`: only from a neighbour, and about the packet it quotes."""
        data = skb.data
        if data[7] != 255 or data[8] != 0xFE or data[9] & 0xC0 != 0x80:
            return False
        options = data[at + 40 :]
        while len(options) >= 8:
            size = options[1] << 3
            if not size or size > len(options):
                return False
            if options[0] == 4:
                return self._error(skb, options[8:size], template)
            options = options[size:]
        return False

    def _error(self, skb: Skb, quoted: bytes, template: Template) -> bool:
        """`nf_conntrack_inet_error`: the packet belongs to the flow of the one it quotes."""
        inner = ct_packet.inner_tuple(skb.family, quoted)
        wanted = inner.inverse() if inner is not None else None
        found = self.table.lookup(_zone_of(skb, template), wanted) if wanted is not None else None
        if found is None:
            return False
        entry, direction = found
        if (skb.ip or skb.parse())[1] != entry.tuple(direction).dst:
            return False
        entry.use += 1
        skb.attach(entry, CtInfo.RELATED_REPLY if direction == REPLY else CtInfo.RELATED, self.table.put)
        return True

    # ------------------------------------------------------------------ out

    def confirm(self, skb: Skb, hook: int) -> int:
        """`nf_confirm`: what got here goes on, so its flow is put into the table, and what happened to it is told."""
        entry = skb.ct
        if entry is None or skb.ctinfo == CtInfo.UNTRACKED:
            return ACCEPT
        adjusted = entry.status & Status.SEQ_ADJUST and not _over_loopback(skb)
        if (entry.help is not None or adjusted) and skb.ctinfo != CtInfo.RELATED_REPLY:
            found = ct_packet.where(skb)
            if found is not None:
                verdict = self._help(skb, entry, found[1])
                if verdict != ACCEPT:
                    return verdict
                if adjusted and not self.adjust_sequence(skb, entry, direction_of(skb), found[1]):
                    self.table.statistics.drop += 1
                    skb.journey.steps.append(_STEPS[hook, "its sequence numbers cannot be adjusted", "DROP"])
                    return DROP
        if entry.status & Status.CONFIRMED:
            if not entry.status & Status.DYING:
                self.table.events.deliver(entry)
            return ACCEPT
        if direction_of(skb) == REPLY:
            return ACCEPT
        return self._confirm(skb, entry, hook)

    def _help(self, skb: Skb, entry: Entry, at: int) -> int:
        helper = entry.help.helper if entry.help else None
        function = self.helpers.get(helper.name) if helper else None
        return ACCEPT if function is None else function(skb, entry, at)

    def _confirm(self, skb: Skb, entry: Entry, hook: int) -> int:
        """`__nf_conntrack_confirm`."""
        table = self.table
        if entry.status & Status.DYING:
            table.statistics.insert_failed += 1
            skb.journey.steps.append(_STEPS[hook, "its flow was deleted meanwhile", "DROP"])
            return DROP
        try:
            table.confirm(entry)
        except OSError:
            if self._resolve_clash(skb, entry):
                return ACCEPT
            table.statistics.insert_failed += 1
            table.statistics.drop += 1
            skb.journey.steps.append(_STEPS[hook, "its flow clashes with another", "DROP"])
            return DROP
        table.events.deliver(entry)
        return ACCEPT

    def _resolve_clash(self, skb: Skb, loser: Entry) -> bool:
        """`nf_ct_resolve_clash`: two first packets of one flow. The later one joins the flow of the first, and stays as it was:
        NEW, even if it goes the other way.

        Where only the original tuples are equal Linux lets the loser live for a second, by its reply tuple alone. That is left out:
        the packet is dropped.
        """
        if loser.protocol in _NEVER_TWICE:
            return False
        found = self.table.lookup(loser.zone, loser.original) or self.table.lookup(loser.zone, loser.reply)
        if found is None:
            return False
        winner, _ = found
        if winner.status & _NAT_DONE and {winner.original, winner.reply} != {loser.original, loser.reply}:
            return False
        info = skb.ctinfo
        if winner.counters is not None and loser.counters is not None:
            winner.counters[0] += 1
            winner.counters[1] += loser.counters[1]
        winner.use += 1
        skb.detach()
        skb.attach(winner, info, self.table.put)
        self.table.statistics.clash_resolve += 1
        self.table.events.deliver(winner)
        return True

    # ------------------------------------------------------------------ answers of this machine

    def belong_together(self, answer: Skb, cause: Skb) -> None:
        """A packet that this machine sends because of another is RELATED to its flow (`nf_conntrack_attach`)."""
        entry = cause.ct
        if entry is None:
            if cause.ctinfo == CtInfo.UNTRACKED:
                answer.ctinfo = CtInfo.RELATED  # to no flow: it is INVALID, but has had its say about tracking
            return
        entry.use += 1
        info = CtInfo.RELATED if direction_of(cause) == REPLY else CtInfo.RELATED_REPLY
        answer.attach(entry, info, self.table.put)

    def close(self, skb: Skb) -> None:
        """A rule resets the connection of a packet (`nf_ct_set_closing`)."""
        entry = skb.ct
        info = entry.proto if entry is not None else None
        if entry is None or not isinstance(info, TcpInfo):
            return
        if entry.status & (Status.CONFIRMED | Status.FIXED_TIMEOUT | Status.DYING) != Status.CONFIRMED:
            return
        if info.state == TcpState.CLOSE:
            return  # it was closed already: nobody is told again
        info.state = TcpState.CLOSE
        seconds = (entry.timeouts or self.table.sysctls.current)["tcp_timeout_close"]
        self.table.set_timeout(entry, seconds)
        self.table.events.cache(entry, Event.PROTOINFO)


_NO_TEMPLATE = Template()


def _zone_of(skb: Skb, template: Template) -> Zone:
    if template.zone_of_mark:
        return Zone(skb.mark & 0xFFFF, template.zone.directions)
    return template.zone


def _over_loopback(skb: Skb) -> bool:
    dev = skb.outdev or skb.indev
    return dev is not None and dev.name == "lo"


def _nothing_to_adjust(skb: Skb, entry: Entry, direction: int, at: int) -> bool:
    return True


def _not_to_be_changed(entry: Entry, expectation: Expectation) -> None:
    pass


class _Steps(dict[tuple[int, str, str], Step]):
    """Steps are made once for each thing that can be said."""

    def __missing__(self, said: tuple[int, str, str]) -> Step:
        hook, what, result = said
        step = self[said] = Step(HOOK_NAMES[hook], "conntrack", "", what, result)
        return step


_STEPS = _Steps()
