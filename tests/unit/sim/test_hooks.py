from __future__ import annotations

import errno

import pytest

from nfnl.sim.hooks import ACCEPT, DROP, INPUT, PREROUTING, QUEUE
from nfnl.sim.skb import IPV4, IPV6, Skb
from tests.unit.sim.dataplane import PING, PING6, World, ip4, ip6


class Probe:
    """A hook function that notes its name and answers what it is told to."""

    def __init__(self, name: str, log: list[str], verdict: int = ACCEPT) -> None:
        self.name, self.log, self.verdict = name, log, verdict

    def __call__(self, skb: Skb, hook: int) -> int:
        self.log.append(self.name)
        if self.verdict != ACCEPT:
            from nfnl.sim.journey import Step

            skb.journey.steps.append(Step("INPUT", "", "", self.name, "DROP"))
        return self.verdict


def test_functions_run_by_priority_and_of_equal_ones_the_newest_first() -> None:
    world = World()
    log: list[str] = []
    for priority, name in ((0, "zero"), (-150, "mangle"), (0, "newer zero"), (300, "last"), (-300, "raw")):
        world.hooks.register(IPV4, INPUT, priority, name, Probe(name, log))
    world.stack.receive(ip4(PING))
    assert log == ["raw", "mangle", "newer zero", "zero", "last"]
    log.clear()
    world.stack.receive(ip6(PING6))
    assert log == []  # the families have hooks of their own


def test_drop_ends_it_with_eperm_or_the_errno_in_the_verdict() -> None:
    world = World()
    log: list[str] = []
    world.hooks.register(IPV4, INPUT, 0, "drops", Probe("drops", log, DROP))
    world.hooks.register(IPV4, INPUT, 1, "after", Probe("after", log))
    assert world.stack.receive(ip4(PING)).reason == "drops"
    assert log == ["drops"]
    world.hooks.register(IPV4, 3, 0, "drops", Probe("drops", log, DROP))
    assert world.stack.send(ip4(PING, src="127.0.0.1", dst="127.0.0.1")).errno == errno.EPERM
    world.hooks.unregister(IPV4, 3, "drops")
    world.hooks.register(IPV4, 3, 0, "drops", Probe("drops", log, errno.ENETDOWN << 16 | DROP))
    assert world.stack.send(ip4(PING, src="127.0.0.1", dst="127.0.0.1")).errno == errno.ENETDOWN


def test_a_drop_in_postrouting_is_told_to_the_sender_and_one_in_input_is_not() -> None:
    world = World()
    world.iptables("-t mangle -A POSTROUTING -d 10.0.0.8 -j DROP")
    world.iptables("-A INPUT -d 127.0.0.7 -j DROP")
    assert world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.8")).errno == errno.EPERM
    assert world.stack.send(ip4(PING, src="10.0.0.1", dst="127.0.0.7")).errno == 0


def test_a_hook_without_functions_is_in_the_journey_too() -> None:
    journey = World().stack.receive(ip4(PING))
    assert journey.hooks == ["PREROUTING", "INPUT"]
    assert journey.steps[0].hook == "PREROUTING"


def test_taking_a_function_away_empties_every_queue() -> None:
    world = World()
    queue = world.listen()
    world.iptables("-A INPUT -j NFQUEUE --queue-num 1")
    world.hooks.register(IPV6, PREROUTING, 0, "unrelated", Probe("unrelated", []))
    journey = world.stack.receive(ip4(PING))
    assert journey.queued
    world.hooks.unregister(IPV6, PREROUTING, "unrelated")
    assert journey.dropped
    assert (len(queue), queue.dropped, queue.user_dropped) == (0, 0, 0)


def test_without_queues_a_queue_verdict_is_an_error_of_the_composition() -> None:
    from nfnl.sim.hooks import HookTable
    from nfnl.sim.journey import Journey

    hooks = HookTable()
    hooks.register(IPV4, INPUT, 0, "queues", Probe("queues", [], QUEUE))
    with pytest.raises(RuntimeError, match="QueueTable"):
        hooks.run(Skb(b"", IPV4, Journey(b"")), INPUT)
