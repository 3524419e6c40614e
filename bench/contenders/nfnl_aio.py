"""nfnl's asyncio door, as its users write it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import nfnl.aio
from bench.contenders.turns import NEW_MARK, drain_in_turns, rewritten, terms

t = terms()


async def accept(count: int) -> tuple[int, int]:
    """Look at packets and accept them."""
    packets = size = 0
    async for packet in queue:
        size += len(packet.payload)
        packet.accept()
        packets += 1
        if packets == count:
            break
    queue.flush()
    return packets, size


async def mark(count: int) -> tuple[int, int]:
    """The same, with a new mark."""
    packets = size = 0
    async for packet in queue:
        size += len(packet.payload)
        packet.accept(mark=NEW_MARK)
        packets += 1
        if packets == count:
            break
    queue.flush()
    return packets, size


async def rewrite(count: int) -> tuple[int, int]:
    """The same, with new contents."""
    packets = size = 0
    async for packet in queue:
        payload = packet.payload
        size += len(payload)
        packet.accept(rewritten(payload))
        packets += 1
        if packets == count:
            break
    queue.flush()
    return packets, size


ACTIONS: dict[str, Callable[[int], Coroutine[Any, Any, tuple[int, int]]]] = {"accept": accept, "mark": mark, "rewrite": rewrite}

with asyncio.Runner() as runner:
    queue = nfnl.aio.open_queue(t.queue, copy_range=t.copy_range, max_length=t.max_length, receive_buffer=t.receive_buffer)
    drain_in_turns(lambda count: runner.run(ACTIONS[t.action](count)))
    queue.close()
