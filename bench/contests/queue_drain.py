"""Drain a queue that was filled before: nfnl beside its peers, on the real kernel.

Each contender drains the same number of the same packets, in a process of its own, in rounds that take turns (A B C, A B C,
...), so that what else the machine does hits all alike. Its handler reads the payload, and accepts the packet as it is, with a
mark, or with new contents. CPU time is what the kernel charges to that process (user and system), which includes sending the
packets on.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.contests import Contest, Effort
from bench.draining import Drainer
from bench.outcome import Outcome, Target, Turn
from bench.peers import QUEUES, ready
from bench.world import World

QUEUE = 1
#: drained before the clock starts: code is generated, pages are touched
WARM_UP = 1000
SIZES = (64, 1400)
ACTIONS = ("accept", "mark", "rewrite")

TARGETS = (
    Target("nfnl", "NetfilterQueue", "cpu", 0.75),
    Target("nfnl", "C, libnetfilter_queue", "cpu", 0.9),
    Target("nfnl", "C, recvmmsg and batch", "cpu", 1.4, held=False),
    Target("nfnl asyncio", "nfnl", "cpu", 1.3),
)


def run(effort: Effort) -> Iterator[Outcome]:
    """One outcome for each size and action."""
    commands, missing = ready(QUEUES)  # before the world: it has no network
    if effort.short:
        missing.pop("fnfqueue", None)
        commands.pop("fnfqueue", None)
    packets = 5_000 if effort.short else 20_000
    world = World(QUEUE)
    for size, action in [(64, "accept")] if effort.short else [(size, action) for action in ACTIONS for size in SIZES]:
        turns: dict[str, list[Turn]] = {name: [] for name in commands}
        for _ in range(effort.rounds):
            for name, command in commands.items():
                with Drainer(world, command, packets, action) as drainer:
                    drainer.turn(min(WARM_UP, packets), size)
                    turns[name].append(drainer.turn(packets, size))
        yield Outcome(
            CONTEST.name,
            f"{size} bytes, {action}",
            "packet",
            turns,
            TARGETS if action == "accept" else (),
            missing,
        )
    world.close()


CONTEST = Contest("queue drain", "CPU time for each packet of a queue that was filled before", run)
