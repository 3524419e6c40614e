"""Read a table of flows: nfnl beside conntrack(8) and pyroute2, on the real kernel.

All read the same table in turns. What is measured is wall time: conntrack works in the kernel and in a process of its own, and its
start is in its time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench.contests import Contest, Effort
from bench.flows import MARKS, fill
from bench.outcome import CannotRunError, Outcome, Target, Turn
from bench.peers import PYROUTE2, NotInstalledError, command
from bench.worker import Worker, children_cpu
from bench.world import enter_namespace

#: of those the marks are 0 to 6, and 3 is wanted
WANTED_MARK = 3
#: turns of pyroute2 with the large table, which takes its time
PEER_ROUNDS = 2


def conntrack(program: str, flows: int, *arguments: str) -> Turn:
    """``conntrack -L`` to /dev/null."""
    before, start = children_cpu(), time.perf_counter()
    done = subprocess.run([program, "-L", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall, cpu = time.perf_counter() - start, children_cpu() - before
    if f"{flows} flow entries" not in done.stderr:
        raise CannotRunError(f"conntrack was to show {flows} flows, but: {done.stderr.strip()}")
    return Turn(cpu / flows * 1e6, wall / flows * 1e6)


def read(worker: Worker, way: str, flows: int) -> Turn:
    """Read the table once; `CannotRunError` if not every flow was seen."""
    report = worker.ask(way)
    if report["flows"] != flows:
        raise CannotRunError(f"{flows} flows were to be read, but: {report}")
    return Turn(report["cpu"] / flows * 1e6, report["wall"] / flows * 1e6)


def run(effort: Effort) -> Iterator[Outcome]:
    """An outcome for each size of the table, and for one mark of the largest."""
    missing: dict[str, str] = {}
    program, peer = "", list[str]()
    try:
        program = command("conntrack", "conntrack")
    except NotInstalledError as why:
        missing["conntrack -L"] = str(why)
    try:
        peer = [] if effort.short else PYROUTE2()
    except NotInstalledError as why:
        missing["pyroute2, list"] = str(why)
    enter_namespace()
    made = 0
    with ExitStack() as stack:
        nfnl = stack.enter_context(Worker([sys.executable, "-m", "bench.contenders.nfnl_table"]))
        pyroute2 = stack.enter_context(Worker(peer)) if peer else None
        for flows in (20_000,) if effort.short else (1_000, 100_000):
            fill(flows - made, first=made)
            made = flows
            yield _whole(effort, flows, program, nfnl, pyroute2, missing)
        yield _of_one_mark(effort, made, program, nfnl)


def _whole(effort: Effort, flows: int, program: str, nfnl: Worker, pyroute2: Worker | None, missing: dict[str, str]) -> Outcome:
    turns: dict[str, list[Turn]] = {"nfnl, list": [], "nfnl, stream": [], "nfnl, count": []}
    if program:
        turns["conntrack -L"] = []
    if pyroute2:
        turns["pyroute2, list"] = []
    memory = [nfnl.ask("stream")["memory"] for _ in range(3)]
    for number in range(effort.rounds):
        for way in ("list", "stream", "count"):
            turns[f"nfnl, {way}"].append(read(nfnl, way, flows))
        if program:
            turns["conntrack -L"].append(conntrack(program, flows))
        if pyroute2 and (number < PEER_ROUNDS or flows < 10_000):
            turns["pyroute2, list"].append(read(pyroute2, "list", flows))
    targets: Sequence[Target] = ()
    if flows > 10_000:
        targets = (
            Target("nfnl, list", "conntrack -L", "wall", 1.2),
            Target("nfnl, count", "conntrack -L", "wall", 1.0),
            Target("nfnl, list", "pyroute2, list", "wall", 1 / 15),
        )
    told = f"highest resident memory after streaming once, twice and three times: {', '.join(f'{kib} KiB' for kib in memory)}"
    return Outcome(CONTEST.name, f"{flows:,} flows", "flow", turns, tuple(targets), missing, [told])


def _of_one_mark(effort: Effort, flows: int, program: str, nfnl: Worker) -> Outcome:
    """Per flow that is given out, although the kernel has to look at all."""
    wanted = len(range(WANTED_MARK, flows, MARKS))
    turns: dict[str, list[Turn]] = {"nfnl, list": []}
    if program:
        turns["conntrack -L --mark"] = []
    for _ in range(effort.rounds):
        turns["nfnl, list"].append(read(nfnl, "mark", wanted))
        if program:
            turns["conntrack -L --mark"].append(conntrack(program, wanted, "--mark", str(WANTED_MARK)))
    targets = (Target("nfnl, list", "conntrack -L --mark", "wall", 1.0),)
    return Outcome(CONTEST.name, f"those with one of {MARKS} marks, of {flows:,} flows", "flow", turns, targets)


CONTEST = Contest("conntrack dump", "wall time for each flow of a table that is read", run)
