"""Does the cost of a packet, or of a flow, stay what it is when there are more of them?"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench.contests import Contest, Effort
from bench.contests.conntrack_dump import read
from bench.draining import Drainer
from bench.flows import fill
from bench.outcome import Outcome, Turn
from bench.peers import nfnl_module
from bench.worker import Worker
from bench.world import World, enter_namespace

QUEUE = 1
SIZE = 64
#: packets that wait at the same time; more would only be more memory of the kernel
AT_ONCE = 10_000
PACKETS = (1_000, 10_000, 100_000, 1_000_000)
FLOWS = (1_000, 10_000, 100_000, 200_000)


def run(effort: Effort) -> Iterator[Outcome]:
    """An outcome for packets and one for flows."""
    yield _packets(PACKETS[:2] if effort.short else PACKETS)
    yield _flows(FLOWS[:2] if effort.short else FLOWS, effort.rounds)


def _packets(totals: tuple[int, ...]) -> Outcome:
    """One door; what each of the last packets cost when so many had passed it."""
    world = World(QUEUE)
    turns: dict[str, list[Turn]] = {}
    with Drainer(world, nfnl_module("nfnl_sync")(), AT_ONCE) as drainer:
        drainer.turn(1_000, SIZE)
        passed = 0
        for total in totals:
            parts: list[Turn] = []
            while passed < total:
                count = min(AT_ONCE, total - passed)
                parts.append(drainer.turn(count, SIZE))
                passed += count
            turns[f"{total:,} packets"] = parts[-10:]
    world.close()
    return Outcome(CONTEST.name, "packets through one door", "packet", turns)


def _flows(sizes: tuple[int, ...], rounds: int) -> Outcome:
    enter_namespace()
    turns: dict[str, list[Turn]] = {}
    made = 0
    with Worker([sys.executable, "-m", "bench.contenders.nfnl_table"]) as worker:
        for size in sizes:
            fill(size - made, first=made)
            made = size
            read(worker, "stream", size)
            turns[f"{size:,} flows"] = [read(worker, "stream", size) for _ in range(rounds)]
    return Outcome(CONTEST.name, "flows of one table", "flow", turns)


CONTEST = Contest("growth", "cost for each packet and flow, when there are more and more", run)
