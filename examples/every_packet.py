"""Bind a queue, range over its packets, accept each: the loop it all begins with.

iptables -A OUTPUT -p icmp -j NFQUEUE --queue-num 0 --queue-bypass
python examples/every_packet.py 0
"""

from __future__ import annotations

import sys

import nfnl


def accept_all(queue: nfnl.Queue) -> None:
    """Say what comes, and let it go on."""
    for packet in queue:
        print(f"{packet.hook.name}: packet {packet.id}, {len(packet.payload)} bytes")
        packet.accept()


if __name__ == "__main__":
    with nfnl.open_queue(int(sys.argv[1])) as queue:
        accept_all(queue)
