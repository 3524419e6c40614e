"""Many packets through one queue, round after round, and a flood nobody can keep up with: does the memory stay what it was?

sudo python -m bench.soak
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from bench.draining import Drainer
from bench.outcome import CannotRunError
from bench.peers import QUEUES, nfnl_module
from bench.tables import table
from bench.worker import Worker
from bench.world import World

QUEUE = 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Memory of nfnl over many packets.")
    parser.add_argument("--packets", type=int, default=20_000, help="packets of each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="rounds (%(default)s)")
    parser.add_argument("--size", type=int, default=1400, help="bytes of UDP data (%(default)s)")
    parser.add_argument("--flood", type=float, default=180, help="seconds of the flood (%(default)s)")
    return parser.parse_args(arguments)


def rounds(world: World, options: argparse.Namespace) -> list[list[object]]:
    """Queues that are filled and drained; memory of both doors."""
    rows: list[list[object]] = []
    for contender in QUEUES[:2]:
        with Drainer(world, contender.prepare(), options.packets) as drainer:
            memory = []
            for _ in range(options.rounds):
                drainer.turn(options.packets, options.size)
                memory.append(drainer.memory())
        rows.append([contender.name, options.packets * options.rounds, *_marks(memory)])
    return rows


def flood(world: World, seconds: float, size: int) -> list[object]:
    """As many packets as one sender can send, to a door with small buffers and a handler that is too slow, for so long."""
    memory: list[int] = []
    with Worker([*nfnl_module("nfnl_flooded")(), str(world.queue)]) as worker:
        worker.tell(f"{seconds}")
        end = time.monotonic() + seconds
        sent = 0
        while time.monotonic() < end:
            sent += world.flood(min(1.0, seconds / 10), size)
            memory.append(worker.memory())
        report = worker.report()
    print(f"flood: {sent} packets sent, {report}")
    if not report["lost"] + report["queue_dropped"]:
        raise CannotRunError("that was no flood: nothing was lost")
    return ["nfnl, flooded", sent, *_marks(memory)]


def _marks(memory: Sequence[int]) -> list[object]:
    tenth = max(1, len(memory) // 10)
    return [memory[0], memory[tenth], memory[-1], max(memory)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    try:
        world = World(QUEUE)
        rows = rounds(world, options)
        if options.flood:
            rows.append(flood(world, options.flood, options.size))
    except CannotRunError as why:
        print(f"bench.soak: {why}", file=sys.stderr)
        return 2
    print(table(("RSS in KiB", "packets", "at first", "after a tenth", "at last", "most"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
