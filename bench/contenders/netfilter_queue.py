"""NetfilterQueue, as its users write it. Runs in an interpreter of its own, where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netfilterqueue import NetfilterQueue, Packet

from bench.contenders.turns import take_turns, terms


def main() -> None:
    t = terms()
    packets = size = 0

    def handle(packet: Packet) -> None:
        nonlocal packets, size
        size += len(packet.get_payload())
        packet.accept()
        packets += 1

    def drain(_count: int) -> tuple[int, int]:
        nonlocal packets, size
        packets = size = 0
        queue.run(block=False)  # until the socket is empty
        return packets, size

    queue = NetfilterQueue()
    queue.bind(t.queue, handle, max_len=t.max_length, range=t.copy_range, sock_len=t.receive_buffer)
    take_turns(drain)
    queue.unbind()


if __name__ == "__main__":
    main()
