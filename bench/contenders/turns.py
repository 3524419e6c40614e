"""How a contender talks to the referee: it is told how many packets wait, drains them, and says what that cost.

Standard library only: contenders run in interpreters that have no nfnl.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """What every contender is given, so that all do the same work."""

    queue: int
    #: bytes of each packet that are copied
    copy_range: int
    #: packets that may wait in the kernel
    max_length: int
    #: SO_RCVBUF in bytes, before the kernel doubles it
    receive_buffer: int


def terms() -> Terms:
    """The terms, from the command line."""
    return Terms(*map(int, sys.argv[1:]))


#: drains that many packets, which all wait already; gives the number of packets it saw, and of payload bytes it read
Drain = Callable[[int], tuple[int, int]]


def take_turns(drain: Drain) -> None:
    """Say that the queue is bound; then, for each line on standard input, drain so many packets and say what it cost."""
    print("bound", flush=True)
    for line in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        packets, size = drain(int(line))
        after, end = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        turn = {"packets": packets, "bytes": size, "cpu": cpu, "wall": end - start}
        print(json.dumps(turn), flush=True)
