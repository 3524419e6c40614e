"""What a contest found, and what was hoped for: all as ratios, since absolute times tell of machines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

Clock = Literal["cpu", "wall"]


class CannotRunError(Exception):
    """The machine lacks what a benchmark needs; the text says what."""


@dataclass(frozen=True)
class Turn:
    """What one turn of one contender cost for each packet, flow or message, in µs."""

    #: user and system time of the process
    cpu: float
    wall: float


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and their quartiles: half of them lie between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Target:
    """What ``name`` takes should be at most so many times what ``against`` takes."""

    name: str
    against: str
    clock: Clock
    at_most: float
    #: it has been reached; False: it is told whether it is by now, and nothing fails if it is not
    held: bool = True

    def __str__(self) -> str:
        return f"{self.clock} of {self.name} at most {self.at_most} of {self.against}"


@dataclass
class Outcome:
    """The turns of all who took part, by name; the first is the one whose ratios are told."""

    contest: str
    title: str
    #: what costs are for: a packet, a flow ...
    per: str
    turns: dict[str, list[Turn]]
    targets: tuple[Target, ...] = ()
    #: why others did not take part
    missing: dict[str, str] = field(default_factory=dict)
    #: what else is to be told
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The contender that the others are compared with."""
        return next(iter(self.turns))

    def spread(self, name: str, clock: Clock) -> Spread:
        """What one contender took, in µs."""
        return Spread.of([getattr(turn, clock) for turn in self.turns[name]])

    def ratio(self, name: str, against: str, clock: Clock) -> Spread:
        """The ratio of two medians, with the quartiles of the ratios within the rounds that both took part in."""
        own, other = self.turns[name], self.turns[against]
        within = Spread.of([getattr(a, clock) / getattr(b, clock) for a, b in zip(own, other, strict=False)])
        return Spread(self.spread(name, clock).median / self.spread(against, clock).median, within.low, within.high)

    def judged(self) -> list[tuple[Target, Spread]]:
        """The targets of those who took part, and what was reached."""
        return [
            (target, self.ratio(target.name, target.against, target.clock))
            for target in self.targets
            if self.turns.get(target.name) and self.turns.get(target.against)
        ]

    def missed(self, tolerance: float = 0.0) -> list[Target]:
        """The targets held before that were missed by more than that share."""
        return [t for t, reached in self.judged() if t.held and reached.median > t.at_most * (1 + tolerance)]
