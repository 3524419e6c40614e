"""End web connections to some hosts: read the first request of each, and mark its flow, so that the rest never comes here.

iptables-restore examples/home_router/home_router.rules
python examples/home_router/web_filter.py 0 ads.example
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection

import nfnl

#: what home_router.rules does with packets marked so: keep the mark with the flow; end the connection
ALLOWED, BLOCKED = 1, 2

_HOST = re.compile(rb"\r\nHost: *([^\r\n:]+)", re.IGNORECASE)


def filter_web(queue: nfnl.Queue, blocked: Collection[str]) -> None:
    """Decide by the header ``Host``. Packets before it go on, unmarked."""
    for packet in queue:
        found = _HOST.search(packet.payload)
        if found is None:
            packet.accept()
        else:
            packet.accept(mark=BLOCKED if found[1].decode("latin-1").lower() in blocked else ALLOWED)


if __name__ == "__main__":
    with nfnl.open_queue(int(sys.argv[1])) as queue:
        filter_web(queue, sys.argv[2:])
