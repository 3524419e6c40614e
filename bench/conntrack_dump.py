"""Read a table of flows that nfnl has filled: nfnl beside conntrack(8) and pyroute2, on the real kernel, as ratios.

    sudo python -m bench.conntrack_dump

All read the same table in turns, so that what else the machine does hits all alike, and ratios are taken within a round. nfnl and
pyroute2 give a list of all flows; ``conntrack -L`` prints them to /dev/null, and its start is in its time. What is measured is
wall time: conntrack works in the kernel and in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nfnl
from bench.contenders import BENCH, NotInstalledError, pyroute2
from bench.tables import Spread, table
from bench.world import CannotRunError, enter_namespace


def fill(flows: int) -> float:
    """Make so many flows, two thirds TCP and one third UDP; the µs that each took."""
    start = time.perf_counter()
    with nfnl.open_conntrack() as door:
        for number in range(flows):
            source = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            original = nfnl.tuple_of(source, "192.0.2.1", "tcp" if number % 3 else "udp", 40000, 443)
            door.create(original, timeout=100_000, mark=number % 7)
    return (time.perf_counter() - start) / flows * 1e6


class Reader:
    """A contender in a process of its own; a context manager that ends it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._child = subprocess.Popen(
            command, cwd=BENCH.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            raise CannotRunError(f"{' '.join(command)} did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._child.communicate()

    def turn(self, way: str, flows: int) -> dict[str, Any]:
        """Read the table once; `CannotRunError` if not every flow was seen."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{way}\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        report: dict[str, Any] = json.loads(answer or "{}")
        if report.get("flows") != flows:
            raise CannotRunError(f"{flows} flows were to be read, but: {report}")
        return report


def conntrack(flows: int) -> float:
    """Wall time of ``conntrack -L``, in seconds."""
    start = time.perf_counter()
    try:
        done = subprocess.run(["conntrack", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise CannotRunError("there is no conntrack command") from None
    took = time.perf_counter() - start
    if f"{flows} flow entries" not in done.stderr:
        raise CannotRunError(f"conntrack was to show {flows} flows, but: {done.stderr.strip()}")
    return took


def summary(turns: dict[str, list[float]], flows: int) -> str:
    """A table of medians and quartiles, in µs for each flow, with ratios to ``conntrack -L`` of the same round."""
    judge = turns["conntrack -L"]
    rows: list[list[object]] = []
    for name, own in turns.items():
        ratios = [mine / theirs for mine, theirs in zip(own, judge, strict=False)]
        rows.append([name, Spread.of([seconds / flows * 1e6 for seconds in own]), Spread.of(ratios)])
    return table(("", "wall µs", "this / conntrack -L"), rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.conntrack_dump", description="Read the table of flows: nfnl and its peers."
    )
    parser.add_argument("--flows", type=int, default=100_000, help="flows in the table (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (%(default)s)")
    parser.add_argument(
        "--peer-rounds", type=int, default=2, help="turns of pyroute2, which takes its time (%(default)s); 0: without it"
    )
    parser.add_argument("--json", type=Path, help="write every turn there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    flows: int = options.flows
    peer: list[str] = []
    try:
        if options.peer_rounds:
            try:
                peer = pyroute2()  # before the namespace, which has no network
            except NotInstalledError as why:
                print(f"pyroute2: not installed: {why}")
        enter_namespace()
        print(f"{flows} flows made by nfnl, {fill(flows):.0f} µs each")
        turns: dict[str, list[float]] = {"conntrack -L": [], "nfnl, list": [], "nfnl, stream": []}
        with Reader([sys.executable, "-m", "bench.contenders.dump_nfnl"]) as reader:
            streamed = [reader.turn("stream", flows)["memory"] for _ in range(3)]
            for _ in range(options.rounds):
                turns["conntrack -L"].append(conntrack(flows))
                turns["nfnl, list"].append(reader.turn("list", flows)["wall"])
                turns["nfnl, stream"].append(reader.turn("stream", flows)["wall"])
        if peer:
            turns["pyroute2, list"] = []
            with Reader(peer) as reader:
                turns["pyroute2, list"] = [reader.turn("list", flows)["wall"] for _ in range(options.peer_rounds)]
    except CannotRunError as why:
        print(f"bench.conntrack_dump: {why}", file=sys.stderr)
        return 2
    print(summary(turns, flows))
    print(f"resident memory at its highest while streaming, after 1, 2 and 3 times: {', '.join(f'{kib} KiB' for kib in streamed)}")
    if options.json:
        options.json.write_text(json.dumps({"flows": flows, "turns": turns, "memory": streamed}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
