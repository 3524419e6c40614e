"""Small breakages of the fake kernel, each of which the contract must notice.

A fault belongs to a group of rules (the letters of their ids) and is planted with pytest's monkeypatch in `nfnl.sim`. It should
be the kind of mistake somebody could make: something forgotten, or swapped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from nfnl.sim import (
    ct_change,
    ct_dumps,
    ct_filter,
    ct_messages,
    ct_packet,
    ct_proc,
    ct_requests,
    ctnetlink,
    dump,
    gso,
    helper_ftp,
    matches_flow,
    nat_hooks,
    netlink,
    nfnetlink,
    queue,
    queueing,
    targets,
    tcp_window,
    tracker_sctp,
    tracker_simple,
    tracker_tcp,
    tracking,
)
from nfnl.sim.af_netlink import Sock, SocketTable
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_change import Changes
from nfnl.sim.ct_entry import Entry, Event
from nfnl.sim.ct_events import Events
from nfnl.sim.ct_notify import Notifier
from nfnl.sim.ctnetlink import ConntrackSubsystem
from nfnl.sim.errnos import Errno
from nfnl.sim.expectations import Expectation, ExpectationTable
from nfnl.sim.nat import Nat
from nfnl.sim.nfnetlink import Attributes
from nfnl.sim.profile import Profile
from nfnl.sim.queueing import Queue, QueuedEntry, QueueTable
from nfnl.sim.sender import Sender
from nfnl.sim.tracking import Tracking
from nfnl.sim.tuples import DEFAULT_ZONE
from nfnl.wire.header import BIG


@dataclass(frozen=True)
class Fault:
    """One breakage."""

    #: the rules whose tests must notice: ``"NL"``, ``"RB"`` ...
    group: str
    #: break the fake, until the monkeypatch is undone
    plant: Callable[[pytest.MonkeyPatch], None]


def replaced(owner: object, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Something of the fake is something else."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def changed(owner: object, name: str, change: Callable[[Any], object]) -> Callable[[pytest.MonkeyPatch], None]:
    """A function of the fake is changed: ``change`` is given the original and gives what takes its place."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, change(getattr(owner, name)))


def forget_seq(original: Any) -> Any:
    def init(self: netlink.Request, sock: Sock, data: bytes, offset: int) -> None:
        original(self, sock, data, offset)
        self.seq = 0

    return init


def refuse_short_bodies(original: Any) -> Any:
    def execute(self: nfnetlink.Nfnetlink, request: netlink.Request) -> None:
        if request.length < 20:
            raise netlink.Refusal(Errno.EINVAL)
        original(self, request)

    return execute


def count_ports_from_1(original: Any) -> Any:
    return lambda self, sock, port: original(self, sock, port + 1)


def name_an_address(original: Any) -> Any:
    return lambda self, sock, data, addressed: original(self, sock, data, True)


def skip_checks(original: Any) -> Any:
    return lambda request, checks: original(request, {})


def drop_without_a_word(self: Sock) -> None:
    self.drops += 1


def set_any_mode(queue: Queue, copy_range: int, mode: int) -> None:
    queue.copy_range, queue.copy_mode = copy_range, mode


def pad_it(original: Any) -> Any:
    def packet_message(queue: Queue, entry: QueuedEntry, **what: Any) -> bytes:
        data: bytes = original(queue, entry, **what)
        return data + bytes(-len(data) % 4)

    return packet_message


def swap(monkeypatch: pytest.MonkeyPatch, owner: object, one: str, other: str) -> None:
    first, second = getattr(owner, one), getattr(owner, other)
    monkeypatch.setattr(owner, one, second)
    monkeypatch.setattr(owner, other, first)


def take_half(original: Any) -> Any:
    return lambda nest: {1: b"\0\0", 2: b"\0\0", **original(nest)}


def look_at_the_low_byte(original: Any) -> Any:
    return lambda self, entry, verdict: original(self, entry, verdict if verdict & 0xFF == 3 else verdict & 0xFF)


def look_at_the_source_alone(original: Any) -> Any:
    return lambda source, destination, *rest: original(source, source, *rest)


def compare_plainly(self: Queue, packet_id: int) -> list[QueuedEntry]:
    return [self.entries.pop(waiting) for waiting in tuple(self.entries) if waiting <= packet_id]


def set_status(entry: Entry, status: int) -> None:
    entry.status = status


def set_under_the_mask(entry: Entry, attributes: Attributes) -> None:
    mark, mask = (
        int.from_bytes(attributes.get(number, default), "big")
        for number, default in ((ct_change._MARK, bytes(4)), (ct_change._MARK_MASK, b"\xff" * 4))
    )
    if ct_change._MARK in attributes:
        entry.mark = entry.mark & ~mask | mark & mask


def apply_all_or_nothing(original: Any) -> Any:
    def change(self: Changes, entry: Entry, attributes: Attributes) -> None:
        expires, mark, status = entry.expires, entry.mark, entry.status
        try:
            original(self, entry, attributes)
        except (netlink.Refusal, OSError):
            entry.expires, entry.mark, entry.status = expires, mark, status
            raise

    return change


def say_nothing(original: Any) -> Any:
    def enter(self: ConntrackTable, entry: Entry) -> None:
        with suppress(OSError):
            original(self, entry)

    return enter


def heed_the_id(original: Any) -> Any:
    def delete(self: ConntrackSubsystem, request: netlink.Request, attributes: Attributes) -> None:
        if attributes.keys() == {ctnetlink._ID}:
            raise netlink.Refusal(Errno.ENOENT)
        original(self, request, attributes)

    return delete


def heed_the_family(original: Any) -> Any:
    def wanted_flows(request: netlink.Request, attributes: Attributes, family: int, **how: Any) -> Any:
        return original(request, attributes, request.family, **how)

    return wanted_flows


def believe_all_heard(original: Any) -> Any:
    return lambda self, *event: original(self, *event) or True


def check_nothing(self: ExpectationTable, new: Expectation) -> None:
    pass


def leave_answers_out(original: Any) -> Any:
    return lambda self, entry, bits: original(self, entry, bits & ~Event.REPLY)


#: What is wrong with the fake, in words -> how it comes to be.
FAULTS: dict[str, Fault] = {
    "everybody may join groups": Fault("NL", replaced(Sock, "_need_admin", lambda self: None)),
    "ports are off by one": Fault("NL", changed(SocketTable, "insert", count_ports_from_1)),
    "an overrun is not told": Fault("RB", replaced(Sock, "overrun", drop_without_a_word)),
    "a datagram costs its length": Fault("RB", replaced(Profile, "truesize", lambda self, asked, used, paged=0: used)),
    "an answer has no number": Fault("AK", changed(netlink.Request, "__init__", forget_seq)),
    "explanations are sent unasked": Fault("AK", replaced(netlink, "_EXT_ACK", netlink._CAP_ACK)),
    "nobody asks who opened a socket": Fault("PM", changed(nfnetlink.Nfnetlink, "receive", name_an_address)),
    "a short body is refused": Fault("NF", changed(nfnetlink.Nfnetlink, "_execute", refuse_short_bodies)),
    "attributes are not checked": Fault("AT", changed(nfnetlink, "parse", skip_checks)),
    "/proc/net/netlink is empty": Fault("PN", replaced(SocketTable, "proc", lambda self: "")),
    "what is no request is done": Fault("C7", replaced(netlink, "_REQUEST", 0xFFFF)),
    "every copy mode is taken": Fault("QC", replaced(queue, "_set_mode", set_any_mode)),
    "queues are listed as they were bound": Fault("PQ", replaced(QueueTable, "queues", lambda self: list(self._queues.values()))),
    "nothing fails open": Fault("QE", replaced(queueing, "FAIL_OPEN", 0)),
    "bypass is forgotten": Fault("QT", replaced(queueing, "QUEUE_BYPASS", 0)),
    "queues are balanced by the source": Fault("QT", changed(targets, "nfqueue_hash", look_at_the_source_alone)),
    "a hook may be taken away unnoticed": Fault("QF", replaced(QueueTable, "flush_hook", lambda self: None)),
    "of a verdict the low byte counts": Fault("QV", changed(QueueTable, "_reinject", look_at_the_low_byte)),
    "ids are compared as plain numbers": Fault("QB", replaced(Queue, "take_until", compare_plainly)),
    "the payload is padded": Fault("QP", changed(queue, "packet_message", pad_it)),
    "a packet that stands for several does not say so": Fault("QG", replaced(queueing, "IS_GSO", 0)),
    "half a tag is a tag": Fault("QV", changed(queue, "_parts", take_half)),
    "bridges are told first": Fault("QP", lambda monkeypatch: swap(monkeypatch, queue, "_physindev", "_indev")),
    "what waits is charged to nobody": Fault("QE", replaced(Sender, "charged", 0)),
    "every segment of a stream pushes": Fault("QG", replaced(gso, "_PSH", 0)),
    "losses are not counted": Fault("LS", replaced(QueueTable, "_lost", lambda self, queue, entry, *why: entry.skb.drop("lost"))),
    "sizes of what is said to conntrack are not checked": Fault("CTMSG", changed(nfnetlink, "parse", skip_checks)),
    "every kind of ICMP has an answer": Fault(
        "CTTUPLE", replaced(ct_requests, "ICMP_INVERSES", dict.fromkeys((1, 58), range(256)))
    ),
    "zones are not looked at": Fault("CTTUPLE", replaced(ct_requests.ZoneGiven, "zone", ct_requests.ZoneGiven().zone)),
    "flows are made unasked": Fault("CTNEW", replaced(ctnetlink, "_CREATE", 0xFFFF)),
    "a flow whose place is taken is said to be made": Fault("CTNEW", changed(ConntrackTable, "_enter", say_nothing)),
    "the status is what it is said to be": Fault("CTSTATUS", replaced(ct_change, "change_status", set_status)),
    "the state of a protocol is forgotten": Fault("CTPROTO", replaced(ct_change, "change_protoinfo", lambda data, proto: None)),
    "what is not translated is not settled": Fault("CTNAT", replaced(Nat, "null_binding", lambda self, entry, manip: True)),
    "a mark is set under its mask": Fault("CTUPD", replaced(ct_change, "_change_mark", set_under_the_mask)),
    "a change that fails is undone": Fault("CTUPD", changed(Changes, "change", apply_all_or_nothing)),
    "a single answer is said to be one": Fault("CTGET", replaced(ctnetlink, "_MULTI", 0)),
    "an id alone names a flow": Fault("CTDEL", changed(ConntrackSubsystem, "_delete", heed_the_id)),
    "the family of a flush counts": Fault("CTDEL", changed(ctnetlink, "wanted_flows", heed_the_family)),
    "words of a filter are in network order": Fault("CTFILT", replaced(ct_filter, "NATIVE", BIG)),
    "a filtered dump does not say so": Fault("CTDUMP", replaced(ct_dumps, "_FILTERED", 0)),
    "a dump is read by nobody in particular": Fault("DU", replaced(dump, "GOODSIZE", 32768)),
    "a counter is left out": Fault("CTSTAT", replaced(ctnetlink, "_TOLD", ctnetlink._TOLD[1:])),
    "a helper is not told": Fault("CTATTR", replaced(ct_messages, "_help", lambda entry: b"")),
    "a flow made by a program is told like any other": Fault("CTEV", replaced(ctnetlink, "_CHANGED", 0)),
    "whoever misses an event has missed it": Fault("CTLOST", changed(Notifier, "_send", believe_all_heard)),
    "expectations may overlap": Fault("CTEXP", replaced(ExpectationTable, "_check", check_nothing)),
    "what packets do is told by nobody": Fault("CTPKT", replaced(Events, "deliver", lambda self, entry: None)),
    "flows in /proc have no state": Fault("CTPROC", replaced(ct_proc, "_state_words", lambda entry: "")),
    "checksums are believed": Fault("TK", replaced(ct_packet, "is_sound", lambda skb, protocol, at: True)),
    "whatever is answered is a stream": Fault("TU", replaced(tracker_simple, "_STREAM", -1)),
    "of errors only the unreachable are any": Fault("TI", replaced(tracking, "_ERRORS", frozenset((3,)))),
    "no acknowledgement is too old": Fault("TT", replaced(tcp_window, "_ACK_WINDOW", 1 << 30)),
    "every SYN begins anew": Fault("TT", replaced(tracker_tcp, "_closed", lambda info: True)),
    "tags are not looked at": Fault("TS", replaced(tracker_sctp, "_tag_fits", lambda *packet: True)),
    "an answer is nothing to tell": Fault("TV", changed(Events, "cache", leave_answers_out)),
    "who comes second is lost": Fault("TP", replaced(Tracking, "_resolve_clash", lambda self, skb, loser: False)),
    "redirects of translated flows pass": Fault("TN", replaced(nat_hooks, "_REDIRECTS", {})),
    "rules see the counters of the other side": Fault(
        "TR", replaced(matches_flow, "DIRECTIONS", {"original": (2,), "reply": (0,)})
    ),
    "packets have no zone": Fault("TZ", replaced(tracking, "_zone_of", lambda skb, template: DEFAULT_ZONE)),
    "the client of FTP is taken for the server": Fault("TH", replaced(helper_ftp, "PATTERNS", helper_ftp.PATTERNS[::-1])),
}
