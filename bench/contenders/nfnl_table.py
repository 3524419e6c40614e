"""nfnl reads the table of flows, and its events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice

import nfnl
from bench.contenders.turns import take_turns

RECEIVE_BUFFER = 1 << 29
WANTED_MARK = 3


def as_list() -> int:
    """All flows, held."""
    return len(list(table.flows()))


def as_stream() -> int:
    """One after the other, none held; the destination port of each is read."""
    return sum(flow.original.dst_port is not None for flow in table.flows())


def counted() -> int:
    """One after the other, only counted."""
    return sum(1 for _ in table.flows())


def of_mark() -> int:
    """Those of one mark, held."""
    return len(list(table.flows(mark=WANTED_MARK)))


WAYS: dict[str, Callable[[], int]] = {"list": as_list, "stream": as_stream, "count": counted, "mark": of_mark}


def work(line: str) -> dict[str, int]:
    """``list``, ``stream`` ... or ``events 1000``."""
    way, _, number = line.partition(" ")
    if way in WAYS:
        return {"flows": WAYS[way]()}
    new = sum(isinstance(event, nfnl.FlowNew) and event.flow.original is not None for event in islice(table, int(number)))
    return {"flows": new}


follow = "events" in sys.argv
with nfnl.open_conntrack(follow=["new"] if follow else None, receive_buffer=RECEIVE_BUFFER if follow else None) as table:
    take_turns(work)
