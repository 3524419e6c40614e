"""How a contender talks to the referee: for each line of its input it does its work, and says what that cost.

Standard library only: contenders run in interpreters that have no nfnl.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

#: the mark that is set where a packet is to be marked
NEW_MARK = 7


@dataclass(frozen=True)
class Terms:
    """What everyone who drains a queue is given, so that all do the same work."""

    queue: int
    #: bytes of each packet that are copied
    copy_range: int
    #: packets that may wait in the kernel
    max_length: int
    #: SO_RCVBUF in bytes, before the kernel doubles it
    receive_buffer: int
    #: what becomes of a packet: ``"accept"``, ``"mark"`` or ``"rewrite"``
    action: str


def terms() -> Terms:
    """The terms, from the command line."""
    queue, copy_range, max_length, receive_buffer, action = sys.argv[1:]
    return Terms(int(queue), int(copy_range), int(max_length), int(receive_buffer), action)


def rewritten(payload: bytes) -> bytes:
    """The packet with the checksum of its UDP header cleared, which means that there is none."""
    return payload[:26] + b"\0\0" + payload[28:]


def take_turns(work: Callable[[str], dict[str, int]]) -> None:
    """Say that all is ready; then, for each line, ``work(line)``, and say what it gave and cost."""
    print("ready", flush=True)
    for line in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        report = work(line.strip())
        after, end = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(json.dumps({**report, "cpu": cpu, "wall": end - start, "memory": after.ru_maxrss}), flush=True)


def drain_in_turns(drain: Callable[[int], tuple[int, int]]) -> None:
    """The same for queues: ``drain(count)`` waits for so many packets; it gives how many it saw, and bytes of payload it read."""

    def work(line: str) -> dict[str, int]:
        packets, size = drain(int(line))
        return {"packets": packets, "bytes": size}

    take_turns(work)
