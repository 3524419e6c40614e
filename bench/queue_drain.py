"""Drain a queue that was filled before: nfnl beside its peers, on the real kernel, as ratios.

    sudo python -m bench.queue_drain

Each contender drains the same number of the same packets, in a process of its own, in rounds that take turns (A B C, A B C,
...), so that what else the machine does hits all alike. Its handler reads the payload and accepts. CPU time is what the kernel
charges to that process (user and system), which includes sending the accepted packets on; ratios are taken within a round.
Absolute times say something about a machine, the ratios about programs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.contenders import CONTENDERS, NotInstalledError
from bench.referee import Contest, Turn
from bench.tables import Spread, table
from bench.world import CannotRunError, World

QUEUE = 1
#: drained before the clock starts: code is generated, pages are touched
WARM_UP = 1000


def prepare(names: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Command lines by contender, and reasons of those that cannot take part."""
    ready: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for contender in CONTENDERS:
        if names and contender.name not in names:
            continue
        try:
            ready[contender.name] = contender.prepare()
        except NotInstalledError as why:
            missing[contender.name] = str(why)
    return ready, missing


def summary(turns: dict[str, list[Turn]], missing: dict[str, str]) -> str:
    """A table of medians and quartiles, with ratios to the first contender."""
    first = next(iter(turns))
    rows: list[list[object]] = []
    for name, own in turns.items():
        row: list[object] = [name, Spread.of([turn.cpu for turn in own]), Spread.of([turn.wall for turn in own])]
        pairs = list(zip(turns[first], own, strict=True))
        row += [Spread.of([a.cpu / b.cpu for a, b in pairs]), Spread.of([a.wall / b.wall for a, b in pairs])]
        rows.append(row)
    head = ("", "CPU µs", "wall µs", f"CPU: {first} / this", f"wall: {first} / this")
    return "\n".join([table(head, rows), *(f"{name}: not installed: {why}" for name, why in missing.items())])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue_drain", description="Drain a real queue: nfnl and its peers.")
    parser.add_argument("--packets", type=int, default=20_000, help="packets in the queue (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 1400], help="bytes of UDP data (%(default)s)")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--json", type=Path, help="write every turn there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    try:
        ready, missing = prepare(options.only)  # before the world: it has no network
        world = World(QUEUE)
        results: dict[str, dict[str, list[Turn]]] = {}
        for size in options.sizes:
            turns: dict[str, list[Turn]] = {name: [] for name in ready}
            for _ in range(options.rounds):
                for name, command in ready.items():
                    with Contest(world, command, max(options.packets, WARM_UP)) as contest:
                        contest.turn(WARM_UP, size)
                        turns[name].append(contest.turn(options.packets, size))
            results[str(size)] = turns
            print(f"{size} bytes, {options.packets} packets, {options.rounds} rounds; per packet: median (quartiles)")
            print(summary(turns, missing), flush=True)
            print()
    except CannotRunError as why:
        print(f"bench.queue_drain: {why}", file=sys.stderr)
        return 2
    if options.json:
        report = {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "packets": options.packets,
            "not installed": missing,
            "turns": {size: {name: [asdict(t) for t in own] for name, own in turns.items()} for size, turns in results.items()},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
