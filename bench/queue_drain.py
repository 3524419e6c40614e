"""Drain a queue that was filled before: nfnl beside its peers, on the real kernel, as ratios.

    sudo python -m bench.queue_drain

Each contender drains the same number of the same packets, in a process of its own, in rounds that take turns (A B C, A B C, ...), so
that what else the machine does hits all alike. Its handler reads the payload and accepts. CPU time is what the kernel charges to that
process (user and system), which includes sending the accepted packets on; ratios are taken within a round. Absolute times say something
about a machine, the ratios about programs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.contenders import BENCH, CONTENDERS, NotInstalledError
from bench.tables import Spread, table
from bench.world import CannotRunError, World

QUEUE = 1
#: NetfilterQueue copies no more
COPY_RANGE = 4016
#: SO_RCVBUF; the kernel doubles it. A full-size packet takes 2304 bytes
RECEIVE_BUFFER = 1 << 29
#: drained before the clock starts: code is generated, pages are touched
WARM_UP = 1000
IP_AND_UDP_HEADER = 28


@dataclass(frozen=True)
class Turn:
    """What one drain cost one contender, per packet, in µs."""

    cpu: float
    user: float
    wall: float


def take_turn(world: World, command: list[str], packets: int, size: int) -> Turn:
    """Start a contender, fill its queue, let it drain. Raises `CannotRunError` if it did not see every packet whole."""
    terms = map(str, (QUEUE, COPY_RANGE, packets + WARM_UP, RECEIVE_BUFFER))
    with subprocess.Popen([*command, *terms], cwd=BENCH.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline() != "bound\n":
            raise CannotRunError(f"{command[0]} did not bind its queue")
        for count in (WARM_UP, packets):
            world.fill(count, size)
            child.stdin.write(f"{count}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            if not answer:
                raise CannotRunError(f"{command[0]} ended without a word")
            report: dict[str, Any] = json.loads(answer)
            left = world.waiting().packets
            if left or report["packets"] != count or report["bytes"] != count * (size + IP_AND_UDP_HEADER):
                raise CannotRunError(f"{command[0]} was to drain {count} packets, but: {report}, {left} left")
        child.stdin.close()
    each = 1e6 / packets
    return Turn((report["user"] + report["system"]) * each, report["user"] * each, report["wall"] * each)


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
        row: list[object] = [name]
        row += [Spread.of([getattr(t, what) for t in own]) for what in ("cpu", "user", "wall")]
        row += [Spread.of([getattr(a, what) / getattr(b, what) for a, b in zip(turns[first], own, strict=True)]) for what in ("cpu", "wall")]
        rows.append(row)
    head = ("", "CPU µs", "of it user", "wall µs", f"CPU: {first} / this", f"wall: {first} / this")
    return "\n".join([table(head, rows), *(f"{name}: not installed: {why}" for name, why in missing.items())])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue_drain", description="Drain a real queue: nfnl beside its peers.")
    parser.add_argument("--packets", type=int, default=20_000, help="packets in the queue (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 1400], help="bytes of UDP data (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[], choices=[c.name for c in CONTENDERS], help="these contenders", metavar="NAME")
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
                    turns[name].append(take_turn(world, command, options.packets, size))
            results[str(size)] = turns
            print(f"{size} bytes, {options.packets} packets, {options.rounds} rounds; median (quartiles) per packet")
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
