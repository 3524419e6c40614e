"""The stream of events: flows are made while the listener stands still, then it reads what its buffer holds; again and again.

A hundred flows at a time: their events fit the default buffer, and ``conntrack -E -b`` (1.4.7) sizes that of its other socket.
What is compared is CPU time; that of ``conntrack -E`` has its start and its end in it. Wall time is that of the whole, the making
included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.contests import Contest, Effort
from bench.flows import fill
from bench.outcome import CannotRunError, Outcome, Turn
from bench.peers import NotInstalledError, command
from bench.worker import Worker, children_cpu
from bench.world import enter_namespace

TOGETHER = 100
_PATIENCE = 20.0


def _listener() -> list[str] | None:
    """What the kernel says of the one netfilter socket in this namespace that has joined groups."""
    for line in Path("/proc/self/net/netlink").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1] == "12" and int(fields[3], 16):
            return fields
    return None


def _until_listening(*, empty: bool) -> None:
    """Wait until somebody listens, or has read all there is."""
    end = time.monotonic() + _PATIENCE
    while (found := _listener()) is None or (empty and found[4] != "0"):
        if time.monotonic() > end:
            raise CannotRunError("nobody listens" if found is None else "the listener does not read")
        time.sleep(0.001)


def happen(flows: int, listener: int) -> float:
    """Have so many flows come to be, and the process take note; the seconds it all took."""
    _until_listening(empty=False)
    start = time.perf_counter()
    for first in range(0, flows, TOGETHER):
        os.kill(listener, signal.SIGSTOP)
        try:
            fill(TOGETHER, first=first)
        finally:
            os.kill(listener, signal.SIGCONT)
        _until_listening(empty=True)
    return time.perf_counter() - start


def conntrack(program: str, flows: int) -> Turn:
    """``conntrack -E`` of new flows, to /dev/null."""
    enter_namespace()  # a new one, whose table is empty
    before = children_cpu()
    listener = subprocess.Popen([program, "-E", "-e", "NEW"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall = happen(flows, listener.pid)
    listener.send_signal(signal.SIGINT)
    said = listener.communicate()[1]
    if f"{flows} flow events" not in said:
        raise CannotRunError(f"conntrack -E was to show {flows} flows, but: {said.strip()}")
    return Turn((children_cpu() - before) / flows * 1e6, wall / flows * 1e6)


def nfnl(flows: int) -> Turn:
    """nfnl, iterating over the same events."""
    enter_namespace()
    with Worker([sys.executable, "-m", "bench.contenders.nfnl_table", "events"]) as worker:
        worker.tell(f"events {flows}")
        wall = happen(flows, worker.pid)
        report = worker.report()
    if report["flows"] != flows:
        raise CannotRunError(f"{flows} events were to be read, but: {report}")
    return Turn(report["cpu"] / flows * 1e6, wall / flows * 1e6)


def run(effort: Effort) -> Iterator[Outcome]:
    """One outcome."""
    flows = 2_000 if effort.short else 10_000
    turns: dict[str, list[Turn]] = {"nfnl": []}
    missing: dict[str, str] = {}
    program = ""
    try:
        program = command("conntrack", "conntrack")
        turns["conntrack -E"] = []
    except NotInstalledError as why:
        missing["conntrack -E"] = str(why)
    for _ in range(effort.rounds):
        turns["nfnl"].append(nfnl(flows))
        if program:
            turns["conntrack -E"].append(conntrack(program, flows))
    yield Outcome(CONTEST.name, f"{flows:,} new flows", "event", turns, missing=missing)


CONTEST = Contest("events", "CPU time for each event of a flow that came to be", run)
