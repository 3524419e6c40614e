"""The contests: what is compared with what. Each gives outcomes as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.outcome import Outcome


@dataclass(frozen=True)
class Effort:
    """How much is to be done."""

    #: turns of each contender
    rounds: int
    #: only what tells most, in few seconds
    short: bool = False


@dataclass(frozen=True)
class Contest:
    """One of them, with a sentence on what it tells."""

    name: str
    about: str
    run: Callable[[Effort], Iterator[Outcome]]
