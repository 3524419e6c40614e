"""The fake kernel: packets through rules, a queue, a session, a handler, and on to who gets them."""

from __future__ import annotations

from collections.abc import Iterator

import nfnl
from bench.contests import Contest, Effort
from bench.contests.steps import Steps, compare, repeat
from bench.outcome import Outcome
from nfnl.sim import FakeKernel

#: an ICMP echo reply from 10.0.0.9 to 10.0.0.1: nobody answers it
ECHO_REPLY = bytes.fromhex("4500001c00010000400166d70a0000090a0000010000ffff00000000")
#: packets a second that the fake should take, so that tests of thousands of packets are over at once
ENOUGH = 25_000


def through(count: int) -> None:
    """Packets that a handler accepts; some dozens at a time, as a test would."""
    kernel = FakeKernel()
    kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        for start in range(0, count, 32):
            journeys = [kernel.receive(ECHO_REPLY) for _ in range(min(32, count - start))]
            for waiting in queue:
                waiting.accept()
            if not all(journey.delivered for journey in journeys):
                raise AssertionError(f"the fake kernel did not deliver: {journeys[0]}")


def past_rules(count: int) -> None:
    """Packets that two rules look at, and no queue."""
    kernel = FakeKernel()
    kernel.iptables("-A INPUT -s 10.0.0.8 -j DROP")
    kernel.iptables("-A INPUT -p tcp -j DROP")
    for _ in range(count):
        kernel.receive(ECHO_REPLY)


def run(effort: Effort) -> Iterator[Outcome]:
    """One outcome."""
    tasks: dict[str, Steps] = {
        "rules, queue, session, verdict": through,
        "two rules": past_rules,
        "a fake kernel made": repeat(FakeKernel),
    }
    turns = compare(tasks, effort.rounds, 0.05 if effort.short else 0.3)
    outcome = Outcome(CONTEST.name, "a packet's whole way, and its parts", "packet", turns)
    whole = outcome.spread("rules, queue, session, verdict", "cpu").median
    outcome.notes.append(f"{1e6 / whole:,.0f} packets a second of CPU time; {ENOUGH:,} are wished for")
    yield outcome


CONTEST = Contest("fake kernel", "CPU time for each packet of a test", run)
