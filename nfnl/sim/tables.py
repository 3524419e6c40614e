"""The tables of iptables, and the walk of a packet through them (net/ipv4/netfilter/ip_tables.c, iptable_mangle.c)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EEXIST, EINVAL, ELOOP, EMLINK, ENOENT, ENOTEMPTY

from nfnl.sim.hooks import (
    ACCEPT,
    DROP,
    FORWARD,
    HOOK_NAMES,
    INPUT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    PRIORITIES,
    HookTable,
)
from nfnl.sim.journey import Step
from nfnl.sim.rules import (
    CONTINUE,
    JUMP,
    STANDARD,
    Chain,
    Hotdrop,
    Jump,
    NfQueue,
    Reject,
    Rule,
    SetMark,
    Standard,
    TableError,
)
from nfnl.sim.skb import Skb

#: Hooks at which each table stands.
TABLES = {
    "mangle": (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING),
    "filter": (INPUT, FORWARD, OUTPUT),
}


class Table:
    """One table of one family. It is a hook function itself."""

    def __init__(self, name: str, family: int, hooks: HookTable) -> None:
        self.name = name
        self.hooks = hooks
        self.family = family
        builtin = [Chain(name, HOOK_NAMES[hook], hook) for hook in TABLES[name]]
        #: user chains, by name, as iptables lists them
        self.user: list[Chain] = []
        self._builtin: dict[int, Chain] = dict(zip(TABLES[name], builtin, strict=True))

    # ------------------------------------------------------------------ a packet

    def __call__(self, skb: Skb, hook: int) -> int:
        """`ipt_do_table`."""
        chain = self._builtin[hook]
        steps = skb.journey.steps
        if chain.rules:
            ip = skb.ip or skb.parse()
            callers: list[tuple[Chain, Iterator[Rule]]] = []
            here, rules = chain, iter(chain.rules)
            try:
                while True:
                    for rule in rules:
                        for predicate in rule.predicates:
                            if not predicate(skb, ip):
                                break
                        else:
                            rule.packets += 1
                            rule.bytes += len(skb.data)
                            steps.append(rule.steps[hook] or _step(here, rule, hook))
                            action = rule.action
                            if action >= 0:
                                return action
                            if action == CONTINUE:
                                continue
                            target = rule.target
                            if isinstance(target, SetMark):
                                skb.mark = skb.mark & ~target.mask ^ target.value
                                continue
                            if isinstance(target, Jump):
                                if action == JUMP:
                                    callers.append((here, rules))
                                here = target.chain
                                rules = iter(here.rules)
                                break
                            if isinstance(target, Reject):
                                self.hooks.reject(skb, target.code)
                                return DROP
                            if isinstance(target, NfQueue):  # one of several queues
                                number = target.choose(ip, self.hooks.cpu, self.hooks.hash_seed)
                                steps[-1] = replace(steps[-1], result=f"QUEUE {number}")
                                return target.verdict(number)
                            if callers:  # RETURN
                                here, rules = callers.pop()
                                break
                            return self._policy(chain, skb)
                    else:
                        if not callers:
                            break
                        here, rules = callers.pop()
            except Hotdrop:
                steps.append(Step(HOOK_NAMES[hook], self.name, here.name, "a match found the packet malformed", "DROP"))
                return DROP
        return self._policy(chain, skb)

    @staticmethod
    def _policy(chain: Chain, skb: Skb) -> int:
        chain.packets += 1
        chain.bytes += len(skb.data)
        assert chain.policy_step is not None
        skb.journey.steps.append(chain.policy_step)
        return ACCEPT if chain.policy == "ACCEPT" else DROP

    # ------------------------------------------------------------------ changes, inside a `transaction`

    @property
    def chains(self) -> list[Chain]:
        """Built-in chains in hook order, then the user's."""
        return [*self._builtin.values(), *self.user]

    def find(self, name: str) -> Chain | None:
        """The chain of this name."""
        return next((chain for chain in self.chains if chain.name == name), None)

    def chain(self, name: str) -> Chain:
        """The chain of this name. Raises `TableError` (ENOENT)."""
        chain = self.find(name)
        if chain is None:
            raise TableError(ENOENT)
        return chain

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done inside holds as a whole or, if it raises or the kernel would refuse the outcome, not at all.

        Raises `TableError` at its end: EINVAL for a rule the kernel does not take, ELOOP for chains that lead to themselves.
        """
        before = [(chain, chain.name, chain.rules, chain.policy, chain.packets, chain.bytes) for chain in self.chains]
        user = self.user
        try:
            yield
            for chain in self.chains:
                for rule in chain.rules:
                    rule.check(self.name)
            if self._loops():
                raise TableError(ELOOP)
        except BaseException:
            self.user = user
            for chain, name, rules, policy, packets, octets in before:
                chain.name, chain.rules, chain.packets, chain.bytes = name, rules, packets, octets
                if chain.builtin:
                    chain.set_policy(policy)
            raise

    def _loops(self) -> bool:
        """A chain that a packet can get into leads back to itself (`mark_source_chains`)."""
        harmless: set[int] = set()
        path: set[int] = set()

        def leads_to_itself(chain: Chain) -> bool:
            if id(chain) in path:
                return True
            if id(chain) in harmless:
                return False
            path.add(id(chain))
            for rule in chain.rules:
                if isinstance(rule.target, Jump) and leads_to_itself(rule.target.chain):
                    return True
                if rule.unconditional and isinstance(rule.target, Standard):
                    break  # nothing behind it is ever reached
            path.remove(id(chain))
            harmless.add(id(chain))
            return False

        return any(leads_to_itself(chain) for chain in self._builtin.values())

    def clear(self) -> None:
        """No rules, no user chains, no counts; the policies stay."""
        self.user = []
        for chain in self._builtin.values():
            chain.rules = []
            chain.packets = chain.bytes = 0

    def new_chain(self, name: str) -> Chain:
        """Raises `TableError` (EEXIST), also for a name that means a verdict."""
        if self.find(name) or name in STANDARD:
            raise TableError(EEXIST)
        chain = Chain(self.name, name)
        self._sort([*self.user, chain])
        return chain

    def _sort(self, user: list[Chain]) -> None:
        self.user = sorted(user, key=lambda chain: chain.name)

    def delete_chain(self, chain: Chain) -> None:
        """Raises `TableError`: EINVAL (built in), EMLINK (a rule leads to it), ENOTEMPTY."""
        if chain.builtin:
            raise TableError(EINVAL)
        if any(isinstance(rule.target, Jump) and rule.target.chain is chain for other in self.chains for rule in other.rules):
            raise TableError(EMLINK)
        if chain.rules:
            raise TableError(ENOTEMPTY)
        self.user = [other for other in self.user if other is not chain]

    def rename_chain(self, chain: Chain, name: str) -> None:
        """Raises `TableError`: EEXIST, ENOENT for a built-in chain."""
        if self.find(name) or name in STANDARD:
            raise TableError(EEXIST)
        if chain.builtin:
            raise TableError(ENOENT)
        chain.name = name
        self._sort(self.user)
        for other in self.chains:  # their texts have changed
            for rule in other.rules:
                rule.steps = [None] * len(HOOK_NAMES)


def _step(chain: Chain, rule: Rule, hook: int) -> Step:
    what = f"-A {chain.name} {rule.text()}".rstrip()
    match rule.target:
        case None:
            result = "counted"
        case NfQueue(number):
            result = f"QUEUE {number}"
        case SetMark(value, mask):
            result = f"MARK {value:#x}" if mask == 0xFFFFFFFF else f"MARK {value:#x}/{mask:#x}"
        case Reject():
            result = "REJECT"
        case Jump(target):
            result = target.name
        case Standard(name):
            result = "QUEUE 0" if name == "QUEUE" else name
    step = rule.steps[hook] = Step(HOOK_NAMES[hook], chain.table, chain.name, what, result)
    return step


class MangleTable(Table):
    """The mangle table looks for a new route when rules in OUTPUT changed what routing went by (iptable_mangle.c)."""

    def __call__(self, skb: Skb, hook: int) -> int:
        if hook != OUTPUT:
            return Table.__call__(self, skb, hook)
        mark = skb.mark  # the one thing the modelled targets can change
        verdict = Table.__call__(self, skb, hook)
        if skb.mark != mark and verdict != DROP and (error := self.hooks.reroute(skb)):
            skb.journey.steps.append(Step(HOOK_NAMES[hook], self.name, "", "no route with the new mark", "DROP"))
            return error << 16 | DROP
        return verdict


class Ruleset:
    """The tables of one family. A table comes into being, and onto its hooks, when it is first asked for, as in Linux."""

    def __init__(self, hooks: HookTable, family: int) -> None:
        self.hooks = hooks
        self.family = family
        #: in the order they came into being
        self.tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """Raises `TableError` (ENOENT)."""
        if name not in TABLES:
            raise TableError(ENOENT)
        table = self.tables.get(name)
        if table is None:
            table = (MangleTable if name == "mangle" else Table)(name, self.family, self.hooks)
            self.tables[name] = table
            for hook in TABLES[name]:
                self.hooks.register(self.family, hook, PRIORITIES[name], name, table)
        return table
