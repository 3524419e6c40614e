"""The doors as their tests see them: one way to run a handler, whatever does the waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol

import trio

import nfnl
import nfnl.trio
from nfnl import aio
from nfnl._door import QueueDoor

Handler = Callable[[nfnl.QueuedPacket, QueueDoor], object]


class Driver(Protocol):
    """A door: opens queue 0 of a kernel, calls ``meanwhile`` with it, then loops ``handler`` until something ends the loop."""

    def __call__(
        self, kernel: Any, handler: Handler, *, meanwhile: Callable[[QueueDoor], object] = ..., **options: Any
    ) -> None: ...


def nothing(queue: QueueDoor) -> None:
    """No meanwhile."""


def sync(kernel: Any, handler: Handler, *, meanwhile: Callable[[QueueDoor], object] = nothing, **options: Any) -> None:
    with nfnl.open_queue(0, kernel=kernel, **options) as queue:
        meanwhile(queue)
        for packet in queue:
            handler(packet, queue)
            del packet


def asynchronous(kernel: Any, handler: Handler, *, meanwhile: Callable[[QueueDoor], object] = nothing, **options: Any) -> None:
    async def main() -> None:
        async with aio.open_queue(0, kernel=kernel, **options) as queue:
            meanwhile(queue)
            async for packet in queue:
                handler(packet, queue)
                del packet

    asyncio.run(main())


def with_trio(kernel: Any, handler: Handler, *, meanwhile: Callable[[QueueDoor], object] = nothing, **options: Any) -> None:
    async def main() -> None:
        async with nfnl.trio.open_queue(0, kernel=kernel, **options) as queue:
            meanwhile(queue)
            async for packet in queue:
                handler(packet, queue)
                del packet

    trio.run(main)


DRIVERS: dict[str, Driver] = {"sync": sync, "asyncio": asynchronous, "trio": with_trio}


def until(count: int, handler: Handler) -> Handler:
    """``handler`` for ``count`` packets, then stop."""
    seen = 0

    def handle(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            queue.stop()
        handler(packet, queue)

    return handle


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread
