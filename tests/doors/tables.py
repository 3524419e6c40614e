"""The doors to connection tracking as their tests see them: one play, whatever does the waiting.

A play is a coroutine, and what only some doors have to wait for it awaits. With the sync door nothing ever waits inside it, so it
is run by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

import nfnl
import nfnl.trio
from nfnl import aio
from nfnl._table import FlowTableDoor


class Table:
    """An open table; ``door`` is the door itself, for what is a plain call in all of them."""

    def __init__(self, door: Any) -> None:
        self.door: FlowTableDoor = door
        self._door: Any = door

    async def flows(self, **criteria: Any) -> list[nfnl.Flow]:
        """All that `flows` gives."""
        return [flow async for flow in self._door.flows(**criteria)]

    async def first(self, count: int) -> list[nfnl.Flow]:
        """The first few, and then it is let go of."""
        found: list[nfnl.Flow] = []
        async for flow in self._door.flows():
            found.append(flow)
            if len(found) == count:
                break
        return found

    async def events(self, count: int, each: Callable[[Any], object] = lambda event: None) -> list[Any]:
        """The next so many events."""
        seen: list[Any] = []
        async for event in self._door:
            each(event)
            seen.append(event)
            if len(seen) == count:
                break
        return seen

    async def until_stopped(self, each: Callable[[Any], object] = lambda event: None) -> list[Any]:
        """Events until the loop ends by itself."""
        seen: list[Any] = []
        async for event in self._door:
            seen.append(event)
            each(event)
        return seen


class SyncTable(Table):
    """The same for the sync door."""

    async def flows(self, **criteria: Any) -> list[nfnl.Flow]:
        return list(self._door.flows(**criteria))

    async def first(self, count: int) -> list[nfnl.Flow]:
        listed = self._door.flows()
        return [next(listed) for _ in range(count)]

    async def events(self, count: int, each: Callable[[Any], object] = lambda event: None) -> list[Any]:
        seen: list[Any] = []
        for event in self._door:
            each(event)
            seen.append(event)
            if len(seen) == count:
                break
        return seen

    async def until_stopped(self, each: Callable[[Any], object] = lambda event: None) -> list[Any]:
        seen: list[Any] = []
        for event in self._door:
            seen.append(event)
            each(event)
        return seen


Play = Callable[[Any], Awaitable[None]]


class Door(Protocol):
    """Opens the table of a kernel, and has the play played with it."""

    def __call__(self, kernel: Any, play: Play, **options: Any) -> None: ...


def sync(kernel: Any, play: Play, **options: Any) -> None:
    with nfnl.open_conntrack(kernel=kernel, **options) as table:
        steps = play(SyncTable(table)).__await__()
        assert next(steps, "over") == "over", "the sync door made somebody wait"


def asynchronous(kernel: Any, play: Play, **options: Any) -> None:
    async def main() -> None:
        async with aio.open_conntrack(kernel=kernel, **options) as table:
            await play(Table(table))

    asyncio.run(main())


def with_trio(kernel: Any, play: Play, **options: Any) -> None:
    async def main() -> None:
        async with nfnl.trio.open_conntrack(kernel=kernel, **options) as table:
            await play(Table(table))

    trio.run(main)


DOORS: dict[str, Door] = {"sync": sync, "asyncio": asynchronous, "trio": with_trio}
