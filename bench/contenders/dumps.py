"""How a contender of `bench.conntrack_dump` talks to it: for each line of its input it reads the table, and says what that cost.

Standard library only: contenders run in interpreters that have no nfnl.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

#: reads the table; gives the number of flows it saw
Read = Callable[[], int]


def take_turns(ways: dict[str, Read]) -> None:
    """Say that all is ready; then read the table in the way that each line names, and say what it cost."""
    print("ready", flush=True)
    for line in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        flows = ways[line.strip()]()
        after, end = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(json.dumps({"flows": flows, "cpu": cpu, "wall": end - start, "memory": after.ru_maxrss}), flush=True)
