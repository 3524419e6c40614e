"""How steps that take microseconds are timed: many of them in a row, in rounds that take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

from bench.outcome import Turn

#: does a step so many times
Steps = Callable[[int], object]


def repeat(step: Callable[[], object]) -> Steps:
    """A task of a single call."""

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return steps


def cost(steps: Steps, count: int) -> Turn:
    """What one step takes, when so many are done."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    steps(count)
    return Turn((time.process_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6)


def calibrate(steps: Steps, seconds: float) -> int:
    """How many steps fit into so many seconds."""
    count = 1
    while (spent := cost(steps, count).cpu * count / 1e6) < seconds / 8:
        count *= 4
    return max(1, int(count * seconds / spent))


def compare(tasks: Mapping[str, Steps], rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """Turns of all tasks, each of about so many seconds."""
    counts = {name: calibrate(steps, seconds) for name, steps in tasks.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, steps in tasks.items():
            turns[name].append(cost(steps, counts[name]))
    return turns
