"""nfnl, as its users write it."""

from __future__ import annotations

from itertools import islice

import nfnl
from bench.contenders.turns import take_turns, terms


def main() -> None:
    t = terms()

    def drain(count: int) -> tuple[int, int]:
        packets = size = 0
        for packet in islice(queue, count):
            size += len(packet.payload)
            packet.accept()
            packets += 1
        return packets, size

    with nfnl.open_queue(t.queue, copy_range=t.copy_range, max_length=t.max_length, receive_buffer=t.receive_buffer) as queue:
        take_turns(drain)


if __name__ == "__main__":
    main()
