"""fnfqueue, as its users write it. Runs in an interpreter of its own, where it is installed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fnfqueue import COPY_PACKET, Connection, Packet

from bench.contenders.turns import NEW_MARK, drain_in_turns, rewritten, terms

t = terms()
_SO_RCVBUFFORCE = 33


def accept(packet: Packet) -> int:
    """Look at a packet and accept it."""
    size = len(packet.payload)
    packet.accept()
    return size


def mark(packet: Packet) -> int:
    """The same, with a new mark."""
    size = len(packet.payload)
    packet.mark = NEW_MARK
    packet.mangle()
    return size


def rewrite(packet: Packet) -> int:
    """The same, with new contents."""
    payload = packet.payload
    packet.payload = rewritten(payload)
    packet.mangle()
    return len(payload)


ACTIONS: dict[str, Callable[[Packet], int]] = {"accept": accept, "mark": mark, "rewrite": rewrite}

connection = Connection()
own = socket.socket(fileno=connection._conn.fd)  # it has no way of its own to size the buffer
own.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, t.receive_buffer)
own.detach()
queue = connection.bind(t.queue)
queue.set_mode(t.copy_range, COPY_PACKET)
queue.set_maxlen(t.max_length)
act = ACTIONS[t.action]


def drain(count: int) -> tuple[int, int]:
    """So many packets."""
    packets = size = 0
    for packet in islice(connection, count):
        size += act(packet)
        packets += 1
    return packets, size


drain_in_turns(drain)
connection.close()
