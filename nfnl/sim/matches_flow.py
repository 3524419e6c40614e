"""Matches that ask connection tracking (xt_conntrack.c, xt_connmark.c, xt_helper.c, xt_connbytes.c, xt_connlimit.c, xt_connlabel.c,
nf_conncount.c).

They switch tracking on. A packet without a flow matches none of them unless it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import ERANGE
from typing import NamedTuple

from nfnl.sim import ct_packet
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.criteria import Hotdrop, Predicate, address_text, bang
from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, Status
from nfnl.sim.ground import Ground
from nfnl.sim.matches_around import mark_text, quoted
from nfnl.sim.protoinfo import TcpInfo, TcpState
from nfnl.sim.rules import Match, Place, Rule, TableError
from nfnl.sim.skb import IPV4, Parsed, Skb
from nfnl.sim.tracking import direction_of, state_of
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple, Zone

#: In the order they are printed.
STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
#: ... and what can be asked of a flow's status.
STATUSES = {
    "EXPECTED": Status.EXPECTED,
    "SEEN_REPLY": Status.SEEN_REPLY,
    "ASSURED": Status.ASSURED,
    "CONFIRMED": Status.CONFIRMED,
}
MOST_SECONDS = 0xFFFFFFFF


class Asked(NamedTuple):
    """A criterion of ``-m conntrack``: from ``low`` to ``high``, or ``low`` under the mask ``high``."""

    low: int
    high: int
    inverted: bool = False


#: Options about addresses and ports: (direction, which end), in the order they are printed.
ADDRESSES = {
    "ctorigsrc": (ORIGINAL, "src"),
    "ctorigdst": (ORIGINAL, "dst"),
    "ctreplsrc": (REPLY, "src"),
    "ctrepldst": (REPLY, "dst"),
}
PORTS = {
    "ctorigsrcport": (ORIGINAL, "src_part"),
    "ctorigdstport": (ORIGINAL, "dst_part"),
    "ctreplsrcport": (REPLY, "src_part"),
    "ctrepldstport": (REPLY, "dst_part"),
}


@dataclass(frozen=True, slots=True)
class Conntrack(Match):
    """``-m conntrack``, and ``-m state``, which is less of it."""

    family: int
    states: tuple[frozenset[str], bool] | None = None
    protocol: Asked | None = None
    #: by the names in `ADDRESSES`, in that order
    addresses: tuple[tuple[str, Asked], ...] = ()
    #: by the names in `PORTS`, in that order; of ICMP the id, and type and code
    ports: tuple[tuple[str, Asked], ...] = ()
    #: bits of `Status`; 0 (``NONE``) never matches
    status: tuple[int, bool] | None = None
    #: seconds until the flow ends
    expires: Asked | None = None
    direction: int | None = None
    #: it was said in the words of ``-m state``
    state: bool = False

    tracks = True

    def predicate(self, ground: Ground) -> Predicate:
        states = self._states()
        if (self.protocol, self.addresses, self.ports, self.status, self.expires, self.direction) == (
            None,
            (),
            (),
            None,
            None,
            None,
        ):
            return states or _always
        return _Conntrack(self, states, ground.tracking.table).matches

    def _states(self) -> Predicate | None:
        if self.states is None:
            return None
        wanted, inverted = self.states
        source, destination = "SNAT" in wanted, "DNAT" in wanted
        if not source and not destination:
            return lambda skb, _: (state_of(skb) in wanted) is not inverted
        bits = (Status.SRC_NAT if source else 0) | (Status.DST_NAT if destination else 0)
        return lambda skb, _: (state_of(skb) in wanted or bool(skb.ct is not None and skb.ct.status & bits)) is not inverted

    def text(self) -> str:
        parts = ["-m state" if self.state else "-m conntrack"]
        if self.states:
            option = "--state" if self.state else "--ctstate"
            parts.append(f"{bang(self.states[1])}{option} {','.join(name for name in STATES if name in self.states[0])}")
        if self.protocol:
            parts.append(f"{bang(self.protocol.inverted)}--ctproto {self.protocol.low}")
        for option, asked in self.addresses:
            parts.append(f"{bang(asked.inverted)}--{option} {network_text(asked.low, asked.high, self.family)}")
        for option, asked in self.ports:
            parts.append(f"{bang(asked.inverted)}--{option} {_range_text(asked)}")
        if self.status:
            names = ",".join(name for name, bit in STATUSES.items() if self.status[0] & bit)
            parts.append(f"{bang(self.status[1])}--ctstatus {names or 'NONE'}")
        if self.expires:
            parts.append(f"{bang(self.expires.inverted)}--ctexpire {_range_text(self.expires)}")
        if self.direction is not None:
            parts.append(f"--ctdir {'REPLY' if self.direction else 'ORIGINAL'}")
        return " ".join(parts)


def _range_text(asked: Asked) -> str:
    return str(asked.low) if asked.low == asked.high else f"{asked.low}:{asked.high}"


def network_text(value: int, mask: int, family: int) -> str:
    """An address, with the length of a mask behind it that is not a whole address long."""
    bits = 32 if family == IPV4 else 128
    length = mask.bit_count()
    return address_text(value, family) + (f"/{length}" if length != bits else "")


def _always(skb: Skb, ip: Parsed) -> bool:
    return True


class _Conntrack:
    """`conntrack_mt` for everything but mere states."""

    __slots__ = ("_asked", "_states", "_table")

    def __init__(self, asked: Conntrack, states: Predicate | None, table: ConntrackTable) -> None:
        self._asked = asked
        self._states = states
        self._table = table

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        asked, states = self._asked, self._states
        if states is not None and not states(skb, ip):
            return False
        entry = skb.ct
        if entry is None:
            return states is not None  # a packet without a flow has only its state to be asked about
        if asked.direction is not None and direction_of(skb) != asked.direction:
            return False
        for option, wanted in asked.addresses:
            direction, end = ADDRESSES[option]
            address = int.from_bytes(getattr(entry.tuple(direction), end), "big")
            if ((address ^ wanted.low) & wanted.high == 0) is wanted.inverted:
                return False
        if asked.protocol and (entry.protocol == asked.protocol.low) is asked.protocol.inverted:
            return False
        for option, wanted in asked.ports:
            direction, end = PORTS[option]
            if (wanted.low <= getattr(entry.tuple(direction), end) <= wanted.high) is wanted.inverted:
                return False
        if asked.status and bool(entry.status & asked.status[0]) is asked.status[1]:
            return False
        expires = asked.expires
        return expires is None or (expires.low <= self._seconds(entry) <= expires.high) is not expires.inverted

    def _seconds(self, entry: Entry) -> int:
        # the time of one that is not confirmed has not begun, and Linux takes it for long over
        return self._table.seconds_left(entry) if entry.status & Status.CONFIRMED else 0


@dataclass(frozen=True, slots=True)
class ConnMark(Match):
    """``-m connmark``: the mark of the flow under a mask."""

    value: int
    mask: int
    inverted: bool = False

    tracks = True

    def predicate(self, ground: Ground) -> Predicate:
        value, mask, inverted = self.value, self.mask, self.inverted
        return lambda skb, _: skb.ct is not None and (skb.ct.mark & mask == value) is not inverted

    def text(self) -> str:
        return f"-m connmark {bang(self.inverted)}--mark {mark_text(self.value, self.mask)}"


@dataclass(frozen=True, slots=True)
class HelperOf(Match):
    """``-m helper``: the flow was expected by another one with this helper; of an empty name, with any."""

    name: str
    inverted: bool = False

    tracks = True

    def predicate(self, ground: Ground) -> Predicate:
        name, inverted = self.name, self.inverted

        def matches(skb: Skb, ip: Parsed) -> bool:
            master = skb.ct.master if skb.ct is not None else None
            helper = master.help.helper if master is not None and master.help is not None else None
            # it is enough that what is asked for begins with the helper's name
            return (helper is not None and (not name or name.startswith(helper.name))) is not inverted

        return matches

    def text(self) -> str:
        return f"-m helper {bang(self.inverted)}--helper {quoted(self.name)}"


#: What counters can be asked of: which of `Entry.counters`.
DIRECTIONS = {"original": (0,), "reply": (2,), "both": (0, 2)}
MODES = ("packets", "bytes", "avgpkt")
MOST_BYTES = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ConnBytes(Match):
    """``-m connbytes``: what has gone by so far; outside of a range that is the wrong way round. Switches counting on."""

    low: int
    high: int
    mode: str
    direction: str

    tracks = True

    def enter(self, ground: Ground, family: int) -> None:
        Match.enter(self, ground, family)
        ground.tracking.table.sysctls.current["acct"] = 1

    def predicate(self, ground: Ground) -> Predicate:
        low, high, mode, places = self.low, self.high, self.mode, DIRECTIONS[self.direction]

        def matches(skb: Skb, ip: Parsed) -> bool:
            counters = skb.ct.counters if skb.ct is not None else None
            if counters is None:
                return False
            packets = sum(counters[place] for place in places)
            octets = sum(counters[place + 1] for place in places)
            what = packets if mode == "packets" else octets if mode == "bytes" else octets // packets if packets else 0
            return low <= what <= high if low <= high else what < high or what > low

        return matches

    def text(self) -> str:
        inverted = self.low > self.high
        low, high = sorted((self.low, self.high))
        behind = f":{high}" if high not in (low, MOST_BYTES) else ""
        return (
            f"-m connbytes {bang(inverted)}--connbytes {low}{behind} --connbytes-mode {self.mode} --connbytes-dir {self.direction}"
        )


@dataclass(frozen=True, slots=True)
class ConnLabel(Match):
    """``-m connlabel``: a bit of the flow's labels; ``set``: set it, where there is room for it."""

    label: int
    inverted: bool = False
    set: bool = False

    tracks = True

    def check(self, rule: Rule, place: Place) -> None:
        if self.label > 127:
            raise TableError(ERANGE)

    def enter(self, ground: Ground, family: int) -> None:
        Match.enter(self, ground, family)
        ground.tracking.table.label_users += 1

    def leave(self, ground: Ground, family: int) -> None:
        Match.leave(self, ground, family)
        ground.tracking.table.label_users -= 1

    def predicate(self, ground: Ground) -> Predicate:
        return _Labels(self, ground.tracking.table).matches

    def text(self) -> str:
        return f'-m connlabel {bang(self.inverted)}--label "{self.label}"{" --set" if self.set else ""}'


class _Labels:
    __slots__ = ("_asked", "_table")

    def __init__(self, asked: ConnLabel, table: ConntrackTable) -> None:
        self._asked = asked
        self._table = table

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        asked, entry = self._asked, skb.ct
        if entry is None or entry.labels is None:
            return asked.inverted
        bit = 1 << asked.label
        if not entry.labels & bit:
            if not asked.set:
                return asked.inverted
            entry.labels |= bit
            self._table.events.cache(entry, Event.LABEL)
        return not asked.inverted


# ---------------------------------------------------------------------------------------------------------- connlimit


@dataclass(frozen=True, slots=True)
class ConnLimit(Match):
    """``-m connlimit``: flows from one network (``daddr``: to it) that this rule has seen, more than ``limit`` of them or not."""

    family: int
    limit: int
    above: bool
    #: length of the network's prefix; None: not said in IPv4, which is the longest, and yet another rule
    length: int | None
    daddr: bool = False

    tracks = True
    counts = True

    def predicate(self, ground: Ground) -> Predicate:
        return _Counts(self, ground.tracking.table).matches

    def text(self) -> str:
        option, end = "above" if self.above else "upto", "daddr" if self.daddr else "saddr"
        bits = 32 if self.family == IPV4 else 128
        length = bits if self.length is None else self.length
        return f"-m connlimit --connlimit-{option} {self.limit} --connlimit-mask {length} --connlimit-{end}"


class _Counts:
    """`nf_conncount_count`: by network and zone, the tuples of flows; those that have ended are found out in passing."""

    __slots__ = ("_asked", "_lists", "_table")

    def __init__(self, asked: ConnLimit, table: ConntrackTable) -> None:
        self._asked = asked
        self._table = table
        self._lists: dict[tuple[int, int], list[tuple[Zone, Tuple]]] = {}

    def matches(self, skb: Skb, ip: Parsed) -> bool:
        asked, entry = self._asked, skb.ct
        if entry is not None:
            zone, flow = entry.zone, entry.original
        else:
            found = ct_packet.where(skb)
            own = ct_packet.tuple_of(skb.family, skb.data, *found) if found else None
            if own is None:
                raise Hotdrop
            zone, flow = DEFAULT_ZONE, own
        address = int.from_bytes(ip[1] if asked.daddr else ip[0], "big")
        bits = 32 if asked.family == IPV4 else 128
        shift = 0 if asked.length is None else bits - asked.length
        flows = self._lists.setdefault((zone.id, address >> shift), [])
        self._add(flows, zone, flow)
        return (len(flows) > asked.limit) is asked.above

    def _add(self, flows: list[tuple[Zone, Tuple]], zone: Zone, flow: Tuple) -> None:
        """`__nf_conncount_add`: look up to the flow itself, and drop those before it that are gone or closed."""
        gone = []
        for other in flows:
            found = self._table.find(*other)
            if other == (zone, flow) and found is not None:
                break
            if found is None or _is_closed(found):
                gone.append(other)
        else:
            flows.append((zone, flow))
        for other in gone:
            flows.remove(other)


def _is_closed(entry: Entry) -> bool:
    """`already_closed`."""
    return isinstance(entry.proto, TcpInfo) and entry.proto.state in (TcpState.TIME_WAIT, TcpState.CLOSE)
