"""Who runs the fake kernel: one lock, and what becomes of those who wait."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, RLock
from typing import Literal, Protocol, Self, TypeVar

from nfnl.errors import NfnlError

T = TypeVar("T")


class Idle(NfnlError):
    """Somebody waits for what cannot happen: nothing is readable, and nobody is left who could change that."""


class Outside(list[T]):
    """A list of things that do not belong to the machine but to its user: a snapshot leaves them alone."""

    def __deepcopy__(self, memo: object) -> Outside[T]:
        return self


class Watched(Protocol):
    """Something that becomes readable (a socket), and those who want to know."""

    watchers: Outside[Callable[[], None]]

    @property
    def readable(self) -> bool:
        """There is something to read."""


class Gate:
    """The one lock of a fake kernel. Who is inside runs the machine.

    Those who watch a socket are called, still inside, when the outermost visit ends: the machine is at rest then, so that
    they may call it at once.
    """

    __slots__ = ("_changed", "_depth", "_lock", "_rung", "waiting", "when_idle")

    def __init__(self, when_idle: Literal["raise", "wait"]) -> None:
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._depth = 0
        self._rung: list[Watched] = []
        #: threads in `wait`
        self.waiting = 0
        self.when_idle = when_idle

    def __deepcopy__(self, memo: object) -> Gate:
        return self  # a snapshot does not hold back threads

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._rung and self._depth == 1:
                rung, self._rung = self._rung, []
                for watched in dict.fromkeys(rung):
                    for watcher in tuple(watched.watchers) if watched.readable else ():
                        watcher()
        finally:
            self._depth -= 1
            self._lock.release()

    def ring(self, watched: Watched) -> None:
        """Something has come to a socket: tell those who watch it when the machine is at rest."""
        self._rung.append(watched)

    def notify(self) -> None:
        """Something has changed that threads in `wait` may be waiting for."""
        if self.waiting:
            self._changed.notify_all()

    def wait(self, why: Callable[[], str]) -> None:
        """Let others in until something changes. Where nobody else is expected, raises `Idle` instead, which tells ``why``."""
        if self.when_idle == "raise":
            raise Idle(why())
        depth, self._depth = self._depth, 0
        self.waiting += 1
        try:
            self._changed.wait()
        finally:
            self.waiting -= 1
            self._depth = depth
