"""nfnl, as its users write it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import nfnl
from bench.contenders.turns import NEW_MARK, drain_in_turns, rewritten, terms

t = terms()


def accept(count: int) -> tuple[int, int]:
    """Look at packets and accept them."""
    packets = size = 0
    for packet in islice(queue, count):
        size += len(packet.payload)
        packet.accept()
        packets += 1
    return packets, size


def mark(count: int) -> tuple[int, int]:
    """The same, with a new mark."""
    packets = size = 0
    for packet in islice(queue, count):
        size += len(packet.payload)
        packet.accept(mark=NEW_MARK)
        packets += 1
    return packets, size


def rewrite(count: int) -> tuple[int, int]:
    """The same, with new contents."""
    packets = size = 0
    for packet in islice(queue, count):
        payload = packet.payload
        size += len(payload)
        packet.accept(rewritten(payload))
        packets += 1
    return packets, size


ACTIONS: dict[str, Callable[[int], tuple[int, int]]] = {"accept": accept, "mark": mark, "rewrite": rewrite}

with nfnl.open_queue(t.queue, copy_range=t.copy_range, max_length=t.max_length, receive_buffer=t.receive_buffer) as queue:
    drain_in_turns(ACTIONS[t.action])
