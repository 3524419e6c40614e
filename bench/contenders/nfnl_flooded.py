"""nfnl with a small buffer, a short queue and a handler that holds some packets back: what a flood makes of it."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque

import nfnl
from bench.contenders.turns import take_turns

RECEIVE_BUFFER = 1 << 19
MAX_LENGTH = 2048
#: packets that wait for a verdict in the handler, as if it had to ask somebody
HELD = 100


def work(line: str) -> dict[str, int]:
    """Take packets for so many seconds."""
    end = time.monotonic() + float(line)
    held: deque[nfnl.QueuedPacket] = deque()
    packets = size = 0
    for packet in queue:
        held.append(packet)
        packets += 1
        size += len(packet.payload)
        if len(held) > HELD:
            held.popleft().accept()
        if time.monotonic() > end:
            break
    for packet in held:
        packet.drop()
    losses = queue.losses
    return {
        "packets": packets,
        "overruns": losses.overruns,
        "lost": losses.lost,
        "queue_dropped": losses.queue_dropped or 0,
        "user_dropped": losses.user_dropped or 0,
    }


warnings.simplefilter("ignore", nfnl.QueueWarning)
with nfnl.open_queue(int(sys.argv[1]), max_length=MAX_LENGTH, receive_buffer=RECEIVE_BUFFER) as queue:
    take_turns(work)
