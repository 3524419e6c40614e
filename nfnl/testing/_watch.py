"""What becomes of packets in a real network namespace, in the kernel's own words.

`LinuxLab` hangs an nftables chain before and behind everything else at each of the five hooks. They log every packet that comes
by (NFLOG), and mark it for tracing, so that iptables tells which rules it meets. All of that arrives in one socket in the order in
which it happened. What vanishes between two such reports is told by counters: of the queues, and of the IP stack.

Nothing of nfnl's protocol code is used here: the judge of the fake kernel must not share its mistakes.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import Enum, auto
from errno import ENOBUFS
from functools import lru_cache
from typing import Any, NamedTuple

from nfnl.errors import OverrunError
from nfnl.sim.journey import Fate, Journey, Step

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
LOOPBACK = 1  #: ifindex of lo, in every namespace

#: NFLOG groups of the lab: where its probes log, and where the kernel logs what rules a traced packet meets
PROBES, TRACES = 0xFFFF, 0
#: name of the nftables table the probes are in
TABLE = "nfnl_lab"

_NFULNL_PACKET, _NFT_TRACE = 0x0400, 0x0A11
_DROP, _ACCEPT, _STOLEN, _QUEUE, _REPEAT, _STOP = range(6)
_VERDICTS = ("DROP", "ACCEPT", "STOLEN", "QUEUE", "REPEAT", "STOP")
_TRACE = re.compile(r"TRACE: (\w+):(\S+):(rule|return|policy):(\d+) ")

#: what counts the packets that a protocol refuses behind INPUT, by family and protocol
_REFUSED = {
    (2, 1): "IcmpIn",
    (2, 6): "TcpInErrs",
    (2, 17): "UdpInErrors",
    (10, 58): "Icmp6In",
    (10, 6): "TcpInErrs",
    (10, 17): "Udp6InErrors",
}
#: counters that move when a packet is lost anywhere else in the IP stack
_LOST = re.compile(
    r"(Ip6?|IpExt)(In(HdrErrors|TooBigErrors|AddrErrors|UnknownProtos|Discards|NoRoutes|TruncatedPkts|CsumErrors)"
    r"|Out(Discards|NoRoutes)|FragFails|ReasmFails|ReasmTimeout)|TcpExtIPReversePathFilter"
)


class Place(Enum):
    """Where a packet was when last heard of."""

    ENTERING = auto()  #: handed to the kernel, not yet at its first hook
    INSIDE = auto()  #: between the first and the last function of a hook
    PASSED = auto()  #: behind the hook, before the next one
    CROSSING = auto()  #: from POSTROUTING to PREROUTING over the loopback
    LEAVING = auto()  #: from POSTROUTING to a device
    ARRIVED = auto()  #: behind INPUT
    SENT_TO_QUEUE = auto()  #: a rule or a verdict said so; whether the queue took it is still to be seen
    WAITING = auto()  #: in the queue
    LOST = auto()  #: somebody said DROP
    ENDED = auto()


class LabJourney(Journey):
    """A journey through a real kernel. What was not seen to end yet is looked after whenever it is asked."""

    __slots__ = ("device", "hook", "marking", "packet_id", "pieces", "place", "refresh", "target", "touched", "visit")

    hook: int  #: the hook it is at or was at last
    place: Place
    device: int  #: ifindex of the device it leaves through
    target: int | None  #: the queue it was sent to, if that is known
    packet_id: int  #: its number in the queue
    pieces: int  #: how many fragments of it have left
    visit: int  #: how many steps there were when it came to this hook
    touched: bool  #: it was heard of since the last verdict about it
    marking: int | None  #: which step, a rule, sets its mark; the next report tells to what
    refresh: Callable[[], object] | None

    def __getattribute__(self, name: str) -> Any:
        if name in _REFRESHED and (refresh := object.__getattribute__(self, "refresh")) is not None:
            refresh()
        return object.__getattribute__(self, name)


_REFRESHED = frozenset(("data", "mark", "fate", "reason", "queue", "steps", "answers"))


class QueueState(NamedTuple):
    """A line of /proc/net/netfilter/nfnetlink_queue."""

    owner: int
    waiting: int
    copy_mode: int
    full: int  #: packets lost because the queue was
    refused: int  #: packets lost because the owner's socket did not take the message; they have an id
    last_id: int


class Rules(NamedTuple):
    """The rules of a namespace and a family."""

    #: as iptables-save prints them: (table, chain) -> policy, rules
    chains: Mapping[tuple[str, str], tuple[str, list[str]]]
    #: for iptables-nft: (table, chain, handle) -> place in the chain, from 0
    handles: Mapping[tuple[str, str, int], int]


class Watch:
    """Follows every packet of one namespace.

    ``sock`` receives the reports; ``rules`` tells what rules a family has; ``refresh`` is called when an unfinished journey is
    asked.
    """

    def __init__(self, sock: socket.socket, rules: Callable[[int], Rules], refresh: Callable[[], object]) -> None:
        self._socket = sock
        self._rules = rules
        self._refresh = refresh
        self._moving: list[LabJourney] = []
        self._waiting: list[LabJourney] = []
        #: verdicts that were sent: the packet, and what to go back to if the kernel refuses
        self._decided: list[tuple[LabJourney, dict[str, Any]]] = []
        self._queues: dict[int, QueueState] = {}
        #: packets that passed a queue by, and which of their steps says so
        self._by: list[tuple[LabJourney, int]] = []
        #: the headers of the packet that nftables traces
        self._headers = b""
        self._blind = False
        #: the packet last heard of: what the kernel sends now is because of it
        self._current: LabJourney | None = None

    # ------------------------------------------------------------------ what is about to happen

    def new(self, packet: bytes, hook: int, mark: int = 0) -> LabJourney:
        """A packet is going to be handed to the kernel and will be seen at ``hook`` first."""
        journey = LabJourney(packet, packet, mark)
        journey.place, journey.hook, journey.visit, journey.refresh = Place.ENTERING, hook, 0, self._refresh
        journey.device = journey.packet_id = journey.pieces = 0
        journey.touched, journey.marking, journey.target = True, None, None
        self._moving.append(journey)
        return journey

    def forget(self, journey: LabJourney) -> None:
        """The kernel did not take it."""
        self._moving.remove(journey)

    def begin(self) -> None:
        """Something is going to be done; what is reported from here on is because of that."""
        self._current = None

    def netlink(self, datagram: bytes) -> None:
        """A program is going to send this to the kernel, through a socket that the lab sees."""
        for kind, _, number, attributes in messages(datagram):
            if kind in (0x0301, 0x0303) and len(attributes.get(2, b"")) >= 8:
                word, packet_id = struct.unpack_from("!II", attributes[2])
                mark = attributes.get(3)
                payload = attributes.get(10) if kind == 0x0301 else None
                for journey in [j for j in self._waiting if j.queue == number]:
                    later = (journey.packet_id - packet_id) & 0xFFFFFFFF
                    if later and (kind == 0x0301 or later < 0x80000000):
                        continue  # it is about others: about one packet, or about all up to one
                    self._verdict(journey, word, None if mark is None else int.from_bytes(mark[:4], "big"), payload)

    def _verdict(self, journey: LabJourney, word: int, mark: int | None, payload: bytes | None) -> None:
        kind, queue, hook = word & 0xFF, journey.queue, HOOKS[journey.hook]
        if kind == _STOLEN or kind > _STOP:
            return  # the kernel will refuse it
        names = ("place", "reason", "data", "mark", "queue", "fate")
        before = {name: object.__getattribute__(journey, name) for name in names} | {"steps": journey.steps[:]}
        self._decided.append((journey, before))
        self._waiting.remove(journey)
        self._moving.append(journey)
        journey.touched = False
        journey.fate = Fate.MOVING
        if mark is not None:
            journey.mark = mark
        if payload is not None:
            journey.data = payload
        name, result = _VERDICTS[kind], _VERDICTS[kind]
        if word in (_ACCEPT, _REPEAT):  # exactly: with any upper bit set ACCEPT is STOP and REPEAT is DROP
            journey.place = Place.INSIDE
        elif kind in (_ACCEPT, _STOP):
            self._pass(journey)
        elif kind == _QUEUE:
            journey.place, journey.target = Place.SENT_TO_QUEUE, word >> 16
            result = f"QUEUE {word >> 16}"
        else:
            journey.place = Place.LOST
            journey.reason = f"verdict {name} from queue {queue}"
        journey.steps.append(Step(hook, "", "", f"verdict {name} from queue {queue}", result))

    # ------------------------------------------------------------------ what has happened

    def read(self) -> bool:
        """Take note of all reports there are. False when there were none.

        Raises OverrunError when the kernel had more to report than the socket could hold: the lab has lost sight of its packets,
        and can tell nothing any more.
        """
        seen = False
        while True:
            try:
                if self._blind:
                    raise OSError(ENOBUFS, "")
                datagram = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return seen
            except OSError as error:
                self._blind = True
                raise OverrunError("more happened at once than the lab's receive buffer holds: it lost sight of packets") from error
            seen = True
            for kind, family, number, attributes in messages(datagram):
                if kind == _NFULNL_PACKET and number == PROBES:
                    self._probe(attributes)
                elif kind == _NFULNL_PACKET and (trace := _TRACE.match(attributes[10].decode(errors="replace"))):
                    table, chain, what, position = trace.groups()
                    # a rule without conditions is called a policy, too: its number tells
                    text = self._text(family, table, chain, int(position) - 1, what == "policy")
                    mark = int.from_bytes(attributes.get(2, b""), "big")
                    self._meets(attributes[1][2], attributes.get(9, b""), mark, table, chain, text, None)
                elif kind == _NFT_TRACE and attributes[1] != TABLE.encode() + b"\0":
                    self._nft_trace(family, attributes)

    def left(self, device: int, data: bytes) -> None:
        """This came out of a device."""
        leaving = [j for j in self._moving if j.place is Place.LEAVING and j.device == device]
        journey = self._pick(leaving, data)
        if journey is None:
            return
        if len(data) < len(journey.data) and _is_fragment(data):
            journey.pieces += 1
            if not _is_last_fragment(data):
                return
            journey.reason = f"in {journey.pieces} fragments"
        else:
            journey.data = data
        self._end(journey, Fate.SENT, journey.reason)

    def _probe(self, attributes: dict[int, bytes]) -> None:
        first, hook, data = attributes[10].startswith(b"first"), attributes[1][2], attributes.get(9, b"")
        indev, outdev, mark = (int.from_bytes(attributes.get(number, b""), "big") for number in (4, 5, 2))
        journey = self._at_door(hook, indev, data) if first else self._in_room(hook, data)
        self._heard_of(journey, data, mark)
        if first:
            journey.place, journey.hook, journey.device, journey.visit = Place.INSIDE, hook, outdev, len(journey.steps)
        else:
            if len(journey.steps) == journey.visit:
                journey.steps.append(Step(HOOKS[hook], "", "", "nothing is hooked here", "ACCEPT"))
            self._pass(journey)

    def _heard_of(self, journey: LabJourney, data: bytes, mark: int) -> None:
        """A report about this packet. ``data`` may be only its beginning: no log message holds more than 65531 bytes."""
        self._current = journey
        journey.touched = True
        journey.mark = mark
        if not journey.data.startswith(data):
            journey.data = data
        if journey.marking is not None:
            journey.steps[journey.marking] = replace(journey.steps[journey.marking], result=f"MARK {mark:#x}")
            journey.marking = None

    def _pass(self, journey: LabJourney) -> None:
        if journey.hook == INPUT:
            journey.place = Place.ARRIVED
        elif journey.hook == POSTROUTING:
            journey.place = Place.CROSSING if journey.device == LOOPBACK else Place.LEAVING
        else:
            journey.place = Place.PASSED

    def _at_door(self, hook: int, indev: int, data: bytes) -> LabJourney:
        """Which packet came to this hook."""

        def comes(journey: LabJourney) -> bool:
            if hook == PREROUTING and indev == LOOPBACK and journey.place is Place.CROSSING:
                return True
            if hook in (PREROUTING, OUTPUT):
                return journey.place is Place.ENTERING and journey.hook == hook
            return journey.place is Place.PASSED and (journey.hook == PREROUTING) == (hook in (INPUT, FORWARD))

        return self._pick(list(filter(comes, self._moving)), data) or self._answer(hook, data)

    def _in_room(self, hook: int, data: bytes) -> LabJourney:
        """Which packet is reported from inside this hook, or as leaving it."""
        here = [j for j in self._moving if j.hook == hook]
        return (
            self._pick([j for j in here if j.place is Place.INSIDE], data)
            or self._passed_by(self._pick([j for j in here if j.place is Place.SENT_TO_QUEUE], data))
            or self._resumed([j for j in self._waiting if j.hook == hook], data)
            or self._answer(hook, data)
        )

    def _passed_by(self, journey: LabJourney | None) -> LabJourney | None:
        """A packet that no queue took, and that goes on all the same."""
        if journey is not None:
            self._by.append((journey, len(journey.steps)))
            journey.steps.append(Step(HOOKS[journey.hook], "", "", f"{_name(journey.target)}: nobody listens, bypass", "ACCEPT"))
            journey.place = Place.INSIDE
        return journey

    def _resumed(self, candidates: list[LabJourney], data: bytes) -> LabJourney | None:
        """A packet whose verdict came from a program that the lab does not see."""
        journey = self._pick(candidates, data)
        if journey is not None:
            self._waiting.remove(journey)
            self._moving.append(journey)
            journey.place, journey.fate = Place.INSIDE, Fate.MOVING
        return journey

    def _pick(self, candidates: list[LabJourney], data: bytes) -> LabJourney | None:
        """The one that was last heard of, else the oldest; but first one that begins with these bytes."""
        in_order = sorted(candidates, key=lambda j: j is not self._current)
        return next((j for j in in_order if j.data.startswith(data)), in_order[0] if in_order else None)

    def _answer(self, hook: int, data: bytes) -> LabJourney:
        """A packet nobody handed in: the kernel made it, because of the one that was last heard of."""
        journey = self.new(data, hook)
        if self._current is None and self._decided:
            self._current = self._decided[0][0]
        if self._current is not None:
            self._current.answers.append(journey)
        return journey

    def _nft_trace(self, family: int, attributes: dict[int, bytes]) -> None:
        if 8 in attributes:  # the beginnings of the network and the transport header, in the first message of each chain
            self._headers = attributes[8] + attributes.get(9, b"")
        table, chain = (attributes[number].rstrip(b"\0").decode() for number in (1, 2))
        what = {1: "policy", 3: "rule"}.get(int.from_bytes(attributes[4], "big"))
        inside = [j for j in self._moving if j.place is Place.INSIDE] or self._waiting
        if what is None or not inside:
            return
        if what == "policy":
            index, verdict = -1, int.from_bytes(attributes[16], "big")
        elif 3 in attributes:
            index = self._rules(family).handles.get((table, chain, int.from_bytes(attributes[3], "big")), -1)
            verdict = int.from_bytes(dict(_walk(attributes[5]))[1], "big")
        else:
            return  # the end of a chain, which is told again as its policy
        hook = (self._pick(inside, self._headers) or inside[0]).hook
        text = self._text(family, table, chain, index, what == "policy")
        mark = int.from_bytes(attributes.get(14, b""), "big")
        self._meets(hook, self._headers, mark, table, chain, text, verdict)

    def _text(self, family: int, table: str, chain: str, index: int, policy: bool) -> str | None:
        """The rule, or the policy, as iptables-save prints it; None for what iptables knows nothing of."""
        named, rules = self._rules(family).chains.get((table, chain), ("", []))
        if 0 <= index < len(rules):
            return rules[index]
        return f"policy {named}" if policy and named else None

    def _meets(self, hook: int, data: bytes, mark: int, table: str, chain: str, text: str | None, verdict: int | None) -> None:
        """A packet meets a rule, or the end of a chain. ``verdict`` is what nftables says of it; iptables leaves it to the text."""
        journey = self._in_room(hook, data)
        self._heard_of(journey, data + journey.data[len(data) :], mark)
        if text is None:
            return
        found = re.search(r"(?: -[jg]|^policy) (\S+)", text)
        target = found[1] if found else ""
        if target == "NFQUEUE":
            number = re.search(r"--queue-num (\d+)", text)
            queue = int(number[1]) if number else verdict >> 16 if verdict else None
            target = "QUEUE" if queue is None else f"QUEUE {queue}"
            journey.place, journey.target = Place.SENT_TO_QUEUE, queue
        elif target in ("DROP", "REJECT"):
            journey.place, journey.reason = Place.LOST, text
        journey.steps.append(Step(HOOKS[hook], table, chain, text, target))
        if target == "MARK":
            journey.marking = len(journey.steps) - 1

    # ------------------------------------------------------------------ at rest

    def rest(self, queues: dict[int, QueueState], moved: Counter) -> None:
        """Nothing moves any more: give every packet its fate."""
        self._rest_of_queues(queues)
        self._queues = queues
        self._decided.clear()
        arrived = [j for j in self._moving if j.place is Place.ARRIVED]
        for journey in arrived:
            counter = _refusals(journey.data)
            if moved(counter) >= sum(_refusals(other.data) == counter for other in arrived):
                self._end(journey, Fate.DROPPED, f"lost behind INPUT: {counter}")
            else:
                self._end(journey, Fate.DELIVERED)
        vanished = sum(journey.place is not Place.LOST and not journey.reason for journey in self._moving)
        for journey in self._moving[:]:
            if journey.place is Place.LOST:
                self._end(journey, Fate.DROPPED, journey.reason)
            elif moved("IpReasmReqds") + moved("Ip6ReasmReqds") and _is_fragment(journey.data):
                self._end(journey, Fate.MOVING, "waits for its other fragments")
            else:
                self._end(journey, Fate.DROPPED, journey.reason or self._guess(journey, moved, vanished))

    def _guess(self, journey: LabJourney, moved: Counter, vanished: int) -> str:
        """Why a packet vanished that no rule and no verdict dropped. Counters do not say which of several they counted."""
        where = {
            Place.ENTERING: "before its first hook",
            Place.INSIDE: f"in {HOOKS[journey.hook]}",
            Place.PASSED: f"behind {HOOKS[journey.hook]}",
            Place.CROSSING: "on the loopback",
        }.get(journey.place, "at the device")
        if journey.place is Place.INSIDE and not journey.touched:
            where += f", after the {journey.steps[-1].what}"
        told = " ".join(moved.lost)
        if told and vanished > 1:
            told += f" (for one of {vanished} that vanished together)"
        return f"lost {where}" + (f": {told}" if told else "")

    def _wait(self, journey: LabJourney, queue: int, packet_id: int) -> None:
        self._moving.remove(journey)
        self._waiting.append(journey)
        journey.place, journey.fate, journey.queue, journey.packet_id = Place.WAITING, Fate.QUEUED, queue, packet_id
        journey.reason = ""
        if journey.steps and journey.steps[-1].result == "QUEUE":  # one of several, and now it is known which
            journey.steps[-1] = replace(journey.steps[-1], result=f"QUEUE {queue}")

    def _rest_of_queues(self, now: dict[int, QueueState]) -> None:
        for number, state in now.items():
            before = self._queues.get(number)
            if before is None or before.owner != state.owner or (state.last_id - before.last_id) & 0xFFFFFFFF >= 0x80000000:
                before = QueueState(state.owner, 0, 0, 0, 0, 0)  # bound anew
                self._flush(number, 0, f"queue {number} was closed")
            fresh = (state.last_id - before.last_id - (state.refused - before.refused)) & 0xFFFFFFFF
            asked = [j for j in self._moving if j.place is Place.SENT_TO_QUEUE and j.target in (number, None)]
            if not asked:  # by a rule that does not tell: of nftables, in a lab that traces iptables-legacy
                asked = [j for j in self._moving if j.place is Place.INSIDE and j.touched][:fresh]
            for packet_id, journey in enumerate(asked[:fresh], state.last_id - fresh + 1):
                self._wait(journey, number, packet_id & 0xFFFFFFFF)
            for journey in asked[fresh:]:
                if journey.target is not None:
                    journey.place, journey.reason = Place.LOST, self._loss(journey, before, state)
            for journey, step in self._by:
                if journey.target == number:
                    what = f"{self._loss(journey, before, state)}, fail-open"
                    journey.steps[step] = replace(journey.steps[step], what=what)
            ours = [j for j in self._waiting if j.queue == number]
            for journey, undo in self._decided:  # of a queue all verdicts of one sender were refused, or none
                if len(ours) < state.waiting and undo["queue"] == number and not journey.touched and journey not in self._waiting:
                    ours.append(self._undo(journey, undo))
            self._flush(number, state.waiting, f"left queue {number} without a word")
        for gone in {j.queue for j in self._waiting} - now.keys():
            self._flush(gone, 0, f"queue {gone} was closed")
        for journey in self._moving:
            if journey.place is Place.SENT_TO_QUEUE:
                journey.place, journey.reason = Place.LOST, f"{_name(journey.target)}: nobody listens"
        self._by.clear()

    @staticmethod
    def _loss(journey: LabJourney, before: QueueState, state: QueueState) -> str:
        """Why a queue did not keep a packet."""
        queue = _name(journey.target)
        if state.copy_mode == 0:
            return f"{queue}: copy mode is NONE"
        journey.queue = journey.target
        if state.refused != before.refused:
            return f"{queue}: its owner did not take the message"
        return f"{queue} is full"

    def _undo(self, journey: LabJourney, before: dict[str, Any]) -> LabJourney:
        """The kernel refused the verdict: the packet waits where it was."""
        for name, value in before.items():
            setattr(journey, name, value)
        self._moving.remove(journey)
        self._waiting.insert(0, journey)
        return journey

    def _flush(self, number: int | None, keep: int, reason: str) -> None:
        """Fewer packets wait in this queue than are known to: the oldest have left it without a word."""
        here = sorted((j for j in self._waiting if j.queue == number), key=lambda j: j.packet_id)
        for journey in here[: len(here) - keep]:
            self._waiting.remove(journey)
            self._moving.append(journey)
            journey.place = Place.LOST
            journey.reason = reason

    def _end(self, journey: LabJourney, fate: Fate, reason: str = "") -> None:
        journey.place, journey.fate, journey.reason = Place.ENDED, fate, reason
        self._moving.remove(journey)
        journey.refresh = None


def _name(queue: int | None) -> str:
    return "a queue" if queue is None else f"queue {queue}"


class Counter:
    """How far the counters of the IP stack have moved: the texts of /proc/net/snmp, netstat and snmp6, before and after."""

    def __init__(self, before: dict[str, str], after: dict[str, str]) -> None:
        self._before, self._after = before, after

    def __call__(self, name: str) -> int:
        file = "snmp6" if "6" in name else "netstat" if "Ext" in name else "snmp"
        return _counters(self._after[file]).get(name, 0) - _counters(self._before[file]).get(name, 0)

    @property
    def lost(self) -> list[str]:
        """The counters of lost packets that have moved."""
        return [name for text in self._after.values() for name in _counters(text) if _LOST.fullmatch(name) and self(name)]


@lru_cache(maxsize=12)
def _counters(text: str) -> dict[str, int]:
    lines = text.splitlines()
    if ":" not in lines[0]:  # snmp6
        return {name: int(value) for name, value in map(str.split, lines)}
    found: dict[str, int] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group, *columns = names.split()
        found.update((group[:-1] + name, int(value)) for name, value in zip(columns, values.split()[1:], strict=True))
    return found


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, dict[int, bytes]]]:
    """Walk the nfnetlink messages of a datagram: type, family, res_id, attributes (the last of a type counts)."""
    at = 0
    while at + 20 <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, at)
        if not 20 <= length <= len(datagram) - at:
            return
        family, _, number = struct.unpack_from("!BBH", datagram, at + 16)
        yield kind, family, number, dict(_walk(datagram[at + 20 : at + length]))
        at += (length + 3) & ~3


def _walk(attributes: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if not 4 <= length <= len(attributes) - at:
            return
        yield kind & 0x3FFF, attributes[at + 4 : at + length]
        at += (length + 3) & ~3


def _refusals(data: bytes) -> str:
    """The counter that moves when the protocol of this packet refuses it."""
    if len(data) < 20:  # a verdict has left too little to tell
        return ""
    if data[0] >> 4 == 6:
        counter, kind = _REFUSED.get((10, data[6]), ""), data[40:41]
        error = kind < b"\x80"
    else:
        counter, kind = _REFUSED.get((2, data[9]), ""), data[(data[0] & 15) << 2 :][:1]
        error = kind in (b"\3", b"\4", b"\5", b"\x0b", b"\x0c")
    if counter.startswith("Icmp"):  # an ICMP error about a packet that nobody remembers counts as InErrors too
        counter += "CsumErrors" if error else "Errors"
    return counter


def _is_fragment(data: bytes) -> bool:
    if len(data) >= 48 and data[0] >> 4 == 6:
        return data[6] == 44
    return len(data) >= 20 and bool(data[6] & 0x3F or data[7])


def _is_last_fragment(data: bytes) -> bool:
    return not data[43] & 1 if data[0] >> 4 == 6 else not data[6] & 0x20
