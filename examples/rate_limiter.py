"""Let each sender have so many packets a second, and drop the rest: a token bucket for every source address.

iptables -A INPUT -p udp -j NFQUEUE --queue-num 0 --queue-bypass
python examples/rate_limiter.py 0
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import nfnl


class RateLimiter:
    """``rate`` packets a second for each source, and ``burst`` at once. The clock is an argument, so that tests own the time."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.now = rate, burst, now
        self.buckets: dict[bytes, tuple[float, float]] = {}  # source -> (tokens, when counted)

    def allows(self, source: bytes) -> bool:
        """Take a token of this source, if it has one."""
        now = self.now()
        tokens, counted = self.buckets.get(source, (self.burst, now))
        tokens = min(self.burst, tokens + (now - counted) * self.rate)
        allowed = tokens >= 1
        self.buckets[source] = (tokens - allowed, now)
        return allowed

    def run(self, queue: nfnl.Queue) -> None:
        """Decide every packet of a queue."""
        for packet in queue:
            ipv6 = packet.hw_protocol == 0x86DD
            source = packet.payload[8:24] if ipv6 else packet.payload[12:16]
            packet.accept() if self.allows(source) else packet.drop()


if __name__ == "__main__":
    with nfnl.open_queue(int(sys.argv[1])) as queue:
        RateLimiter(rate=10, burst=20).run(queue)
