"""The five places where netfilter looks at a packet, and the functions that hang there (net/netfilter/core.c).

Per family and hook there is a list of functions ordered by priority: the tables of iptables, connection tracking and translation.
A function answers with a *verdict word*: the verdict in the low byte, for QUEUE the number of the queue in the upper 16 bits and
the bypass bit 0x8000, for DROP an errno in the upper 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EPERM
from typing import Protocol

from nfnl.sim.journey import Step
from nfnl.sim.skb import IPV4, IPV6, Skb

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
#: NFPROTO_BRIDGE, whose hooks have the same numbers
BRIDGE = 7
HOOK_NAMES = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")

# NF_*: low byte of a verdict word
DROP, ACCEPT, STOLEN, QUEUE, REPEAT, STOP = range(6)
VERDICT_NAMES = ("DROP", "ACCEPT", "STOLEN", "QUEUE", "REPEAT", "STOP")
VERDICT_MASK = 0xFF
#: go on with the next function if nobody listens at the queue
QUEUE_BYPASS = 0x8000

#: Where the tables of iptables hang, by priority: lower runs first (NF_IP_PRI_*, include/uapi/linux/netfilter_ipv4.h; the same
#: numbers in IPv6). Between them: tracking -200, translation -100 (destination) and 100 (source), confirmation last.
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}


class HookFunction(Protocol):
    """What hangs at a hook."""

    def __call__(self, skb: Skb, hook: int) -> int:
        """Look at the packet, perhaps change it, and answer with a verdict word."""


class Entry:
    """A function in its place (`struct nf_hook_entry`)."""

    __slots__ = ("function", "name", "priority")

    def __init__(self, priority: int, name: str, function: HookFunction) -> None:
        self.priority = priority
        self.name = name
        self.function = function


#: Any number would do; this one is always the same.
HASH_SEED = 0x6E666E6C

_NOTHING_HOOKED = tuple(Step(name, "", "", "nothing is hooked here", "ACCEPT") for name in HOOK_NAMES)


class HookTable:
    """The hooks of one network namespace, IPv4 and IPv6.

    The layers above and below plug in by setting three attributes: `Stack` sets ``okfn``, ``reroute`` and ``reject``, `QueueTable`
    sets ``enqueue`` and ``removed``. ``cpu`` and ``hash_seed`` may be set at any time.
    """

    __slots__ = ("_entries", "bridged", "cpu", "enqueue", "hash_seed", "okfn", "reject", "removed", "reroute")

    def __init__(self, *, hash_seed: int = HASH_SEED) -> None:
        #: number of the processor that runs the functions (`smp_processor_id`)
        self.cpu = 0
        #: 32 bits that rules hash with (``jhash_initval`` of xt_NFQUEUE); Linux draws them once after it was started
        self.hash_seed = hash_seed
        self._entries: dict[int, list[list[Entry]]] = {family: [[] for _ in HOOK_NAMES] for family in (IPV4, IPV6, BRIDGE)}
        #: per hook, what the stack does with a packet that has passed it; answers with an errno
        self.okfn: list[Callable[[Skb], int]] = []
        #: the same for what passed the bridge family's forward hook
        self.bridged: Callable[[Skb], int] = _no_answers
        #: `nf_queue`: (skb, hook, index of the function that said so, verdict word); True: bypassed, go on with the next function
        self.enqueue: Callable[[Skb, int, int, int], bool] = _no_queues
        #: find a new route for a packet whose mark or addresses changed in OUTPUT; 0 or an errno
        self.reroute: Callable[[Skb], int] = _no_routes
        #: answer the sender of a packet that a rule rejects: an ICMP code, or None for a TCP reset
        self.reject: Callable[[Skb, int | None], object] = _no_answers
        #: told after a function was taken away
        self.removed: Callable[[], None] = _nothing

    def register(self, family: int, hook: int, priority: int, name: str, function: HookFunction) -> None:
        """Hang a function at a hook. Of equal priorities the one registered last runs first (`nf_hook_entries_grow`)."""
        entries = self._entries[family][hook]
        place = next((i for i, entry in enumerate(entries) if priority <= entry.priority), len(entries))
        entries.insert(place, Entry(priority, name, function))

    def unregister(self, family: int, hook: int, name: str) -> None:
        """Take a function away. Every packet in every queue is dropped by it, as in Linux (`nf_queue_nf_hook_drop`)."""
        entries = self._entries[family][hook]
        entries[:] = [entry for entry in entries if entry.name != name]
        self.removed()

    def entries(self, family: int, hook: int) -> list[Entry]:
        """The functions at a hook in the order they run."""
        return self._entries[family][hook]

    def run(self, skb: Skb, hook: int) -> int:
        """Take a packet through a hook and, if it passes, hand it to the stack (`NF_HOOK`, `nf_hook_slow`).

        Returns the errno a local sender sees: EPERM (or what the function says) for a packet that was dropped here or later on its
        way out, else 0. A packet that went to a queue is not an error, whatever became of it there.
        """
        skb.hook = hook
        entries = self._entries[skb.family][hook]
        if not entries:
            skb.journey.steps.append(_NOTHING_HOOKED[hook])
        return self._iterate(skb, hook, entries, 0)

    def resume(self, skb: Skb, hook: int, index: int) -> int:
        """Go on behind the function at ``index``, as `run` does."""
        return self._iterate(skb, hook, self._entries[skb.family][hook], index + 1)

    def _iterate(self, skb: Skb, hook: int, entries: list[Entry], index: int) -> int:
        while index < len(entries):
            verdict = entries[index].function(skb, hook)
            if verdict != ACCEPT:
                kind = verdict & VERDICT_MASK
                if kind == DROP:
                    skb.drop(skb.journey.steps[-1].what)
                    return verdict >> 16 or EPERM
                if kind == STOLEN:
                    return 0  # whoever took it sees to it
                if not self.enqueue(skb, hook, index, verdict):
                    return 0
            index += 1
        return self.passed(skb, hook)

    def passed(self, skb: Skb, hook: int) -> int:
        """Hand a packet that has passed a hook to whoever goes on with it."""
        return (self.bridged if skb.family == BRIDGE else self.okfn[hook])(skb)


def _no_queues(skb: Skb, hook: int, index: int, verdict: int) -> bool:
    raise RuntimeError("no QueueTable was put on these hooks")


def _no_routes(skb: Skb) -> int:
    raise RuntimeError("no Stack was put on these hooks")


def _no_answers(skb: Skb, code: int | None = None) -> int:
    raise RuntimeError("no Stack was put on these hooks")


def _nothing() -> None:
    pass
