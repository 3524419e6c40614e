"""NetfilterQueue, as its users write it. Runs in an interpreter of its own, where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netfilterqueue import NetfilterQueue, Packet

from bench.contenders.turns import NEW_MARK, drain_in_turns, rewritten, terms

t = terms()
wanted = packets = size = 0


class EnoughError(Exception):
    """Ends `NetfilterQueue.run`, which nothing else does."""


def accept(packet: Packet) -> None:
    """Look at a packet and accept it."""
    global packets, size
    size += len(packet.get_payload())
    packet.accept()
    packets += 1
    if packets == wanted:
        raise EnoughError


def mark(packet: Packet) -> None:
    """The same, with a new mark."""
    global packets, size
    size += len(packet.get_payload())
    packet.set_mark(NEW_MARK)
    packet.accept()
    packets += 1
    if packets == wanted:
        raise EnoughError


def rewrite(packet: Packet) -> None:
    """The same, with new contents."""
    global packets, size
    payload = packet.get_payload()
    size += len(payload)
    packet.set_payload(rewritten(payload))
    packet.accept()
    packets += 1
    if packets == wanted:
        raise EnoughError


def drain(count: int) -> tuple[int, int]:
    """So many packets."""
    global wanted, packets, size
    wanted, packets, size = count, 0, 0
    with suppress(EnoughError):
        queue.run()
    return packets, size


ACTIONS: dict[str, Callable[[Packet], None]] = {"accept": accept, "mark": mark, "rewrite": rewrite}

queue = NetfilterQueue()
queue.bind(t.queue, ACTIONS[t.action], max_len=t.max_length, range=t.copy_range, sock_len=t.receive_buffer)
drain_in_turns(drain)
queue.unbind()
