"""One packet at a time: sent, queued, decided, received, and only then the next. Wall time is what counts here."""

from __future__ import annotations

from collections.abc import Iterator

from bench.contests import Contest, Effort
from bench.draining import Drainer
from bench.outcome import Outcome, Turn
from bench.peers import QUEUES, ready
from bench.world import World

QUEUE = 1
SIZE = 64


def run(effort: Effort) -> Iterator[Outcome]:
    """One outcome."""
    commands, missing = ready(QUEUES)
    packets = 500 if effort.short else 2_000
    world = World(QUEUE)
    turns: dict[str, list[Turn]] = {name: [] for name in commands}
    for _ in range(effort.rounds):
        for name, command in commands.items():
            with Drainer(world, command, 1024) as drainer:
                drainer.latency(100, SIZE)
                turns[name].append(drainer.latency(packets, SIZE))
    yield Outcome(CONTEST.name, f"{SIZE} bytes, one packet there and back", "packet", turns, missing=missing)
    world.close()


CONTEST = Contest("latency", "time from sending a packet to receiving it, with nothing else under way", run)
