"""Flows for the tests of the table, made as a request or a packet makes them."""

from __future__ import annotations

from nfnl.sim.clock import Clock
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.skb import IPV4, UDP
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple, Zone

A, B, C = b"\x0a\0\1\2", b"\x0a\0\2\2", b"\x0a\0\3\2"
CONFIRMED = Status.CONFIRMED


def udp(sport: int = 1000, dport: int = 53, src: bytes = A, dst: bytes = B) -> Tuple:
    return Tuple(IPV4, src, dst, UDP, sport, dport)


def inverse(t: Tuple) -> Tuple:
    back = t.inverse()
    assert back is not None
    return back


class Told:
    """A listener that writes down what it is told, and hears it or not."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Entry, int, bool]] = []
        self.deaf = False

    def __call__(self, bits: int, entry: Entry, portid: int, report: bool) -> bool:
        if self.deaf:
            return False
        self.events.append((bits, entry, portid, report))
        return True

    def bits(self) -> list[int]:
        told = [bits for bits, *_ in self.events]
        self.events.clear()
        return told


def new_table(*, listening: bool = True) -> tuple[Clock, ConntrackTable, Told]:
    clock = Clock()
    table = ConntrackTable(clock)
    told = Told()
    table.events.listener = told
    if listening:
        table.sysctls.current["events"] = 1
    return clock, table, told


def request(
    table: ConntrackTable, t: Tuple, timeout: int = 100, *, reply: Tuple | None = None, zone: Zone = DEFAULT_ZONE, status: int = 0
) -> Entry:
    """A flow as a request makes it, in the table. Raises OSError."""
    entry = table.allocate(zone, t, inverse(t) if reply is None else reply)
    try:
        table.add_areas(entry, synproxy=True)
        entry.status |= CONFIRMED | status
        entry.expires = table.now + timeout * HZ
        table.stamp_start(entry)
        table.insert(entry)
    except OSError:
        table.put(entry)
        raise
    return entry


def packet(table: ConntrackTable, t: Tuple, timeout: int = 30) -> Entry:
    """A flow as a packet makes it, confirmed, and held by the packet."""
    entry = table.allocate(DEFAULT_ZONE, t, inverse(t))
    table.add_areas(entry)
    table.refresh(entry, timeout * HZ)
    table.confirm(entry)
    return entry
