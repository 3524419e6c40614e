"""Rules of iptables and chains of them (the head of net/ipv4/netfilter/ip_tables.c, net/netfilter/x_tables.c).

A `Rule` says what it asks in plain fields. When it comes into a table it is compiled to a tuple of *predicates*: functions that get
the packet and what `Skb.parse` found in it, and answer yes or no. A rule matches when all of them say yes; then its target
acts. Texts are those of iptables-save 1.8.9; reading them is the business of `nfnl.sim.iptables`.

What can be asked and done beyond what stands here is in `nfnl.sim.matches` and `nfnl.sim.targets` and their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import E2BIG, EINVAL, ENOENT
from typing import ClassVar, NamedTuple

from nfnl.errors import NfnlError
from nfnl.sim.criteria import Address, Interface, Predicate, Protocol, bang
from nfnl.sim.ground import Ground
from nfnl.sim.hooks import ACCEPT, DROP, HOOK_NAMES, QUEUE
from nfnl.sim.journey import Step
from nfnl.sim.skb import Skb

#: What a target does to a packet at a hook. Answers with a verdict word, or CONTINUE.
Action = Callable[[Skb, int], int]


class TableError(NfnlError):
    """The kernel, or the library that edits its tables, refuses this; ``errno`` says why."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Place(NamedTuple):
    """Where a rule stands: in which table, and at which hooks packets can get there (a bit for each)."""

    table: str
    hooks: int


class Match:
    """``-m``: something asked of a packet."""

    __slots__ = ()
    #: it asks tracking, which is switched on for it
    tracks: ClassVar[bool] = False
    #: it counts, and begins anew whenever its table changes
    counts: ClassVar[bool] = False

    def predicate(self, ground: Ground) -> Predicate:
        """The question."""
        raise NotImplementedError

    def check(self, rule: Rule, place: Place) -> None:
        """What the kernel checks (`checkentry`). Raises `TableError`."""

    def enter(self, ground: Ground, family: int) -> None:
        """A rule with it has come into a table."""
        if self.tracks:
            ground.tracking.need(family, "iptables")

    def leave(self, ground: Ground, family: int) -> None:
        """A rule with it is gone."""
        if self.tracks:
            ground.tracking.release(family, "iptables")

    def text(self) -> str:
        """As iptables-save prints it."""
        raise NotImplementedError


class Target:
    """``-j``: something done about a packet."""

    __slots__ = ()
    #: it works on what tracking says, which is switched on for it
    tracks: ClassVar[bool] = False
    #: the only table it may stand in; None: any
    table: ClassVar[str | None] = None
    #: the only hooks it may be met at, a bit for each; None: any
    hooks: ClassVar[int | None] = None

    def verdict(self) -> int:
        """The verdict word, CONTINUE ..., or CALL where that is for `action` to say."""
        return CALL

    def action(self, ground: Ground, rule: Rule) -> Action:
        """What it does; for CALL."""
        raise NotImplementedError

    def check(self, rule: Rule, place: Place) -> None:
        """What the kernel checks. Raises `TableError`."""
        if self.table not in (None, place.table) or (self.hooks is not None and place.hooks & ~self.hooks):
            raise TableError(EINVAL)

    def enter(self, ground: Ground, family: int) -> None:
        """A rule with it has come into a table."""
        if self.tracks:
            ground.tracking.need(family, "iptables")

    def leave(self, ground: Ground, family: int) -> None:
        """A rule with it is gone."""
        if self.tracks:
            ground.tracking.release(family, "iptables")

    def result(self) -> str:
        """What a `Step` says of it."""
        raise NotImplementedError

    def text(self) -> str:
        """As iptables-save prints it."""
        raise NotImplementedError


def at_hooks(*numbers: int) -> int:
    """The bits of these hooks."""
    return sum(1 << number for number in numbers)


#: What `Table` does behind a rule that matched, where it is not a verdict word.
CONTINUE, RETURN, JUMP, GOTO, CALL = -1, -2, -3, -4, -5

#: What a target may be by itself.
STANDARD = ("ACCEPT", "DROP", "QUEUE", "RETURN")
_VERDICTS = {"ACCEPT": ACCEPT, "DROP": DROP, "QUEUE": QUEUE, "RETURN": RETURN}


@dataclass(frozen=True, slots=True)
class Standard(Target):
    """``-j ACCEPT``, ``-j DROP``, ``-j RETURN``, and ``-j QUEUE``, which is queue 0."""

    name: str

    def verdict(self) -> int:
        return _VERDICTS[self.name]

    def result(self) -> str:
        return "QUEUE 0" if self.name == "QUEUE" else self.name

    def text(self) -> str:
        return f"-j {self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Jump(Target):
    """``-j chain``, and ``-g chain``, which does not come back."""

    chain: Chain
    goto: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Jump) and self.chain is other.chain and self.goto == other.goto

    def __hash__(self) -> int:
        return hash((id(self.chain), self.goto))

    def verdict(self) -> int:
        return GOTO if self.goto else JUMP

    def result(self) -> str:
        return self.chain.name

    def text(self) -> str:
        return f"-{'g' if self.goto else 'j'} {self.chain.name}"


class Rule:
    """A rule with its counters. What it asks and does never changes; two rules are the same rule when `same` says so."""

    __slots__ = (
        "act",
        "action",
        "bytes",
        "dst",
        "family",
        "fragment",
        "indev",
        "matches",
        "outdev",
        "packets",
        "predicates",
        "protocol",
        "src",
        "steps",
        "target",
    )

    def __init__(
        self,
        family: int,
        *,
        src: Address = Address(0, 0),
        dst: Address = Address(0, 0),
        indev: Interface | None = None,
        outdev: Interface | None = None,
        protocol: Protocol = Protocol(0),
        fragment: bool | None = None,
        matches: tuple[Match, ...] = (),
        target: Target | None = None,
        packets: int = 0,
        bytes: int = 0,  # noqa: A002
    ) -> None:
        self.family = family
        self.src, self.dst = src, dst
        self.indev, self.outdev = indev, outdev
        self.protocol = protocol
        #: ``-f``: True a later fragment, False (``! -f``) anything else, None not asked
        self.fragment = fragment
        self.matches = matches
        self.target = target
        self.packets = packets
        #: IP lengths of the packets it matched, added up
        self.bytes = bytes
        self.predicates: tuple[Predicate, ...] = ()
        #: what the target says by itself
        self.action = CONTINUE if target is None else target.verdict()
        #: what it does where that says CALL
        self.act: Action = _nothing
        self.steps: list[Step | None] = [None] * len(HOOK_NAMES)

    def compile(self, ground: Ground) -> None:
        """Make ready to be asked; whatever a match has counted is forgotten."""
        self.predicates = tuple(self._predicates(ground))
        if self.target is not None and self.action == CALL:
            self.act = self.target.action(ground, self)

    def enter(self, ground: Ground) -> None:
        """It has come into a table."""
        for part in self._parts():
            part.enter(ground, self.family)
        self.compile(ground)

    def leave(self, ground: Ground) -> None:
        """It is gone from its table."""
        for part in self._parts():
            part.leave(ground, self.family)

    def _parts(self) -> Iterator[Match | Target]:
        yield from self.matches
        if self.target is not None:
            yield self.target

    @property
    def counts(self) -> bool:
        """A match has to begin anew when the table changes."""
        return any(match.counts for match in self.matches)

    def _predicates(self, ground: Ground) -> Iterator[Predicate]:
        """In the order of the kernel, which shows when one of them drops the packet."""
        for predicate in (
            self.src.predicate(self.family, 0),
            self.dst.predicate(self.family, 1),
            self.indev and self.indev.predicate(out=False),
            self.outdev and self.outdev.predicate(out=True),
            self.protocol.predicate(self.family),
        ):
            if predicate:
                yield predicate
        if self.fragment is not None:
            fragment = self.fragment
            yield lambda _, ip: (ip[3] > 0) is fragment
        for match in self.matches:
            yield match.predicate(ground)

    def check(self, place: Place) -> None:
        """What the kernel checks of a rule. Raises `TableError`."""
        for part in self._parts():
            part.check(self, place)

    def is_for(self, protocol: int) -> bool:
        """It asks for this transport protocol, and no other."""
        return self.protocol == Protocol(protocol)

    @property
    def unconditional(self) -> bool:
        """It matches every packet by its looks (a match that is always true does not count)."""
        asked = (self.src, self.dst, self.indev, self.outdev, self.protocol, self.fragment, self.matches)
        return asked == (Address(0, 0), Address(0, 0), None, None, Protocol(0), None, ())

    def same(self, other: Rule) -> bool:
        """It asks and does the same (counters aside)."""
        return all(
            getattr(self, field) == getattr(other, field)
            for field in ("src", "dst", "indev", "outdev", "protocol", "fragment", "matches", "target")
        )

    def text(self, counters: bool = False) -> str:
        """What stands behind ``-A CHAIN`` in iptables-save."""
        fragment = "" if self.fragment is None else f"{bang(not self.fragment)}-f"
        parts = [
            self.src.text(self.family, "-s"),
            self.dst.text(self.family, "-d"),
            self.indev.text("-i") if self.indev else "",
            self.outdev.text("-o") if self.outdev else "",
            self.protocol.text(),
            fragment,
            *(match.text() for match in self.matches),
            f"-c {self.packets} {self.bytes}" if counters else "",
            self.target.text() if self.target else "",
        ]
        return " ".join(filter(None, parts))


def _nothing(skb: Skb, hook: int) -> int:
    return CONTINUE


class Chain:
    """A named list of rules. Built-in chains have a policy, ``"ACCEPT"`` or ``"DROP"``, and stand at a hook.

    ``rules`` is replaced as a whole by every change, so that whoever keeps the old list can put it back.
    """

    __slots__ = ("bytes", "hook", "name", "packets", "policy", "policy_step", "rules", "table")

    def __init__(self, table: str, name: str, hook: int | None = None) -> None:
        self.table = table
        self.name = name
        self.hook = hook
        self.rules: list[Rule] = []
        #: packets and bytes that met the policy
        self.packets = 0
        self.bytes = 0
        self.policy = "ACCEPT"
        self.policy_step: Step | None = None
        if hook is not None:
            self.set_policy("ACCEPT")

    @property
    def builtin(self) -> bool:
        return self.hook is not None

    def set_policy(self, policy: str) -> None:
        self.policy = policy
        self.policy_step = Step(self.name, self.table, self.name, f"policy {policy}", policy)

    def insert(self, rule: Rule, index: int) -> None:
        """Put a rule before the one at ``index`` (from 0). Raises `TableError` (E2BIG)."""
        if index > len(self.rules):
            raise TableError(E2BIG)
        self.rules = [*self.rules[:index], rule, *self.rules[index:]]

    def replace(self, rule: Rule, index: int) -> None:
        """Put a rule in the place of another. Raises `TableError` (E2BIG)."""
        self.at(index)
        self.rules = [*self.rules[:index], rule, *self.rules[index + 1 :]]

    def delete(self, index: int) -> None:
        """Raises `TableError` (E2BIG)."""
        self.at(index)
        self.rules = [*self.rules[:index], *self.rules[index + 1 :]]

    def at(self, index: int) -> Rule:
        """Raises `TableError` (E2BIG)."""
        if index >= len(self.rules):
            raise TableError(E2BIG)
        return self.rules[index]

    def index(self, rule: Rule) -> int:
        """Where the first such rule stands. Raises `TableError` (ENOENT)."""
        for index, other in enumerate(self.rules):
            if other.same(rule):
                return index
        raise TableError(ENOENT)

    def zero(self) -> None:
        """Set all counters to 0."""
        self.packets = self.bytes = 0
        for rule in self.rules:
            rule.packets = rule.bytes = 0
