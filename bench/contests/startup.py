"""What it takes to begin: the interpreter alone, and with what is imported."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.contests import Contest, Effort
from bench.outcome import Outcome, Turn
from bench.worker import children_cpu

STARTS = {
    "the interpreter alone": "pass",
    "import nfnl": "import nfnl",
    "import nfnl.aio": "import nfnl.aio",
    "import nfnl.sim": "import nfnl.sim",
    "import asyncio": "import asyncio",
}


def start(program: str) -> Turn:
    """One start of the interpreter, with a program."""
    before, begin = children_cpu(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return Turn((children_cpu() - before) * 1e6, (time.perf_counter() - begin) * 1e6)


def run(effort: Effort) -> Iterator[Outcome]:
    """One outcome."""
    for program in STARTS.values():
        start(program)  # written to __pycache__, read into memory
    turns: dict[str, list[Turn]] = {name: [] for name in STARTS}
    for _ in range(3 if effort.short else 2 * effort.rounds):
        for name, program in STARTS.items():
            turns[name].append(start(program))
    outcome = Outcome(CONTEST.name, "a program that imports and ends", "start", turns)
    alone = outcome.spread("the interpreter alone", "cpu").median
    for name in ("import nfnl", "import nfnl.sim"):
        outcome.notes.append(f"{name}: {(outcome.spread(name, 'cpu').median - alone) / 1000:.0f} ms more than the interpreter")
    yield outcome


CONTEST = Contest("start", "time until a program can begin", run)
