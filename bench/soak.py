"""Many packets through one queue, round after round: does the memory of the process stay what it was?

sudo python -m bench.soak
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.contenders import CONTENDERS
from bench.referee import Contest
from bench.tables import table
from bench.world import CannotRunError, World

QUEUE = 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Memory of nfnl over many packets.")
    parser.add_argument("--packets", type=int, default=20_000, help="packets of each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="rounds (%(default)s)")
    parser.add_argument("--size", type=int, default=1400, help="bytes of UDP data (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    try:
        world = World(QUEUE)
        rows: list[list[object]] = []
        for contender in CONTENDERS[:2]:
            with Contest(world, contender.prepare(), options.packets) as contest:
                memory = []
                for _ in range(options.rounds):
                    contest.turn(options.packets, options.size)
                    memory.append(contest.memory())
            tenth = max(1, options.rounds // 10)
            rows.append([contender.name, options.packets * options.rounds, memory[0], memory[tenth], memory[-1], max(memory)])
    except CannotRunError as why:
        print(f"bench.soak: {why}", file=sys.stderr)
        return 2
    print(table(("RSS in KiB", "packets", "first round", "after a tenth", "last round", "most"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
