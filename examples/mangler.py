"""Replace a word in UDP datagrams on their way, whatever its length: nfnl repairs lengths and checksums.

iptables -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 0 --queue-bypass
python examples/mangler.py 0
"""

from __future__ import annotations

import sys

import nfnl


def replace_word(queue: nfnl.Queue, old: bytes, new: bytes) -> None:
    """Change ``old`` into ``new`` in every packet that has it. A packet of which only a part was copied is left as it is."""
    for packet in queue:
        if old in packet.payload and not packet.truncated:
            packet.accept(packet.payload.replace(old, new), repair=True)
        else:
            packet.accept()


if __name__ == "__main__":
    with nfnl.open_queue(int(sys.argv[1])) as queue:
        replace_word(queue, b"darkness", b"light")
