"""nfnl's asyncio door, as its users write it."""

from __future__ import annotations

import asyncio

import nfnl.aio
from bench.contenders.turns import take_turns, terms


def main() -> None:
    t = terms()

    async def handle(count: int) -> tuple[int, int]:
        packets = size = 0
        async for packet in queue:
            size += len(packet.payload)
            packet.accept()
            packets += 1
            if packets == count:
                break
        queue.flush()
        return packets, size

    with asyncio.Runner() as runner:
        queue = nfnl.aio.open_queue(t.queue, copy_range=t.copy_range, max_length=t.max_length, receive_buffer=t.receive_buffer)
        take_turns(lambda count: runner.run(handle(count)))
        queue.close()


if __name__ == "__main__":
    main()
