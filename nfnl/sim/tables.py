"""The tables of iptables, and the walk of a packet through them (net/ipv4/netfilter/ip_tables.c, iptable_mangle.c)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST, EINVAL, ELOOP, EMLINK, ENOENT, ENOTEMPTY

from nfnl.sim.criteria import Hotdrop
from nfnl.sim.ground import Ground
from nfnl.sim.hooks import ACCEPT, DROP, FORWARD, HOOK_NAMES, INPUT, OUTPUT, POSTROUTING, PREROUTING, PRIORITIES
from nfnl.sim.journey import Step
from nfnl.sim.rules import CONTINUE, GOTO, JUMP, RETURN, STANDARD, Chain, Jump, Place, Rule, Standard, TableError
from nfnl.sim.skb import IPV4, Skb

#: Hooks at which each table stands.
TABLES = {
    "raw": (PREROUTING, OUTPUT),
    "mangle": (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING),
    "nat": (PREROUTING, INPUT, OUTPUT, POSTROUTING),
    "filter": (INPUT, FORWARD, OUTPUT),
    "security": (INPUT, FORWARD, OUTPUT),
}
#: Where the chains of the nat table hang, below the function that translates.
_NAT_PRIORITIES = {PREROUTING: -100, OUTPUT: -100, INPUT: 100, POSTROUTING: 100}

_TO_CHAINS = (JUMP, GOTO)


class Table:
    """One table of one family. It is a hook function itself."""

    def __init__(self, name: str, family: int, ground: Ground) -> None:
        self.name = name
        self.ground = ground
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
                            if action in _TO_CHAINS:
                                assert isinstance(rule.target, Jump)
                                if action == JUMP:
                                    callers.append((here, rules))
                                here = rule.target.chain
                                rules = iter(here.rules)
                                break
                            if action == RETURN:
                                if callers:
                                    here, rules = callers.pop()
                                    break
                                return self._policy(chain, skb)
                            verdict = rule.act(skb, hook)
                            if verdict >= 0:
                                return verdict
                            ip = skb.ip or skb.parse()
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
            reached = self._reached()
            for chain in self.chains:
                for rule in chain.rules:
                    rule.check(Place(self.name, reached.get(rule, 0)))
        except BaseException:
            self.user = user
            for chain, name, rules, policy, packets, octets in before:
                chain.name, chain.rules, chain.packets, chain.bytes = name, rules, packets, octets
                if chain.builtin:
                    chain.set_policy(policy)
            raise
        self._exchange({rule: None for _, _, rules, *_ in before for rule in rules})

    def _exchange(self, before: dict[Rule, None]) -> None:
        """As in Linux, the whole table is replaced: new rules come, then those that are no more go, and what counts begins anew."""
        now = {rule: None for chain in self.chains for rule in chain.rules}
        for rule in now:
            if rule not in before:
                rule.enter(self.ground)
            elif rule.counts:
                rule.compile(self.ground)
        for rule in before:
            if rule not in now:
                rule.leave(self.ground)

    def _reached(self) -> dict[Rule, int]:
        """The hooks, a bit for each, from which packets can get to a rule (`mark_source_chains`).

        Raises `TableError` (ELOOP) if a chain that they can get into leads back to itself.
        """
        reached: dict[Rule, int] = {}

        def walk(chain: Chain, bit: int, path: set[Chain], seen: set[Chain]) -> None:
            if chain in path:
                raise TableError(ELOOP)
            if chain in seen:
                return
            path.add(chain)
            for rule in chain.rules:
                reached[rule] = reached.get(rule, 0) | bit
                if isinstance(rule.target, Jump):
                    walk(rule.target.chain, bit, path, seen)
                if rule.unconditional and isinstance(rule.target, Standard):
                    break  # nothing behind it is ever reached
            path.remove(chain)
            seen.add(chain)

        for hook, chain in self._builtin.items():
            walk(chain, 1 << hook, set(), set())
        return reached

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
    result = "counted" if rule.target is None else rule.target.result()
    step = rule.steps[hook] = Step(HOOK_NAMES[hook], chain.table, chain.name, what, result)
    return step


def _routed_by(skb: Skb) -> bytes:
    """Of the header, what a new route is looked for after a change of it: addresses, TOS; in IPv6 the hop limit too."""
    data = skb.data
    return data[1:2] + data[12:20] if skb.family == IPV4 else data[:4] + data[7:40]


class MangleTable(Table):
    """The mangle table looks for a new route when rules in OUTPUT changed what routing went by (iptable_mangle.c)."""

    def __call__(self, skb: Skb, hook: int) -> int:
        if hook != OUTPUT:
            return Table.__call__(self, skb, hook)
        before = skb.mark, _routed_by(skb)
        verdict = Table.__call__(self, skb, hook)
        if (skb.mark, _routed_by(skb)) != before and verdict != DROP and (error := self.ground.hooks.reroute(skb)):
            skb.journey.steps.append(Step(HOOK_NAMES[hook], self.name, "", "no route for what it has become", "DROP"))
            return error << 16 | DROP
        return verdict


class Ruleset:
    """The tables of one family. A table comes into being, and onto its hooks, when it is first asked for, as in Linux."""

    def __init__(self, ground: Ground, family: int) -> None:
        self.ground = ground
        self.family = family
        #: in the order they came into being
        self.tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """Raises `TableError` (ENOENT)."""
        if name not in TABLES:
            raise TableError(ENOENT)
        table = self.tables.get(name)
        if table is None:
            table = (MangleTable if name == "mangle" else Table)(name, self.family, self.ground)
            self.tables[name] = table
            for hook in TABLES[name]:
                if name == "nat":
                    self.ground.nat.add(self.family, hook, _NAT_PRIORITIES[hook], name, table)
                else:
                    self.ground.hooks.register(self.family, hook, PRIORITIES[name], name, table)
        return table
