"""Has one contender drain one queue, turn by turn, and checks that it did all of the work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from bench.outcome import CannotRunError, Turn
from bench.worker import Worker
from bench.world import World

#: NetfilterQueue copies no more
COPY_RANGE = 4016
#: SO_RCVBUF; the kernel doubles it. A full-size packet takes 2304 bytes
RECEIVE_BUFFER = 1 << 29
IP_AND_UDP_HEADER = 28


class Drainer(Worker):
    """A contender at work on the queue of ``world``; a context manager that ends it."""

    def __init__(self, world: World, command: Sequence[str], max_length: int, action: str = "accept") -> None:
        self._world = world
        super().__init__([*command, *map(str, (world.queue, COPY_RANGE, max_length, RECEIVE_BUFFER)), action])

    def turn(self, packets: int, size: int) -> Turn:
        """Fill the queue and let it drain. Raises `CannotRunError` if not every packet was seen whole, and decided."""
        os.kill(self.pid, signal.SIGSTOP)  # or those who read ahead had begun before the clock starts
        try:
            self._world.fill(packets, size)
            self.tell(f"{packets}")
        finally:
            os.kill(self.pid, signal.SIGCONT)
        return self._cost(packets, size)

    def latency(self, packets: int, size: int) -> Turn:
        """Have packets pass one by one. The wall time is the sender's, there and back, the CPU time the contender's."""
        self.tell(f"{packets}")
        try:
            seconds = self._world.through(packets, size)
        except TimeoutError:
            raise CannotRunError(f"{self} let a packet wait for ever") from None
        return Turn(self._cost(packets, size).cpu, seconds / packets * 1e6)

    def _cost(self, packets: int, size: int) -> Turn:
        report = self.report()
        left = self._world.waiting().packets
        patience = time.monotonic() + 2
        while left and time.monotonic() < patience:  # those who decide in another thread
            time.sleep(0.01)
            left = self._world.waiting().packets
        if left or report["packets"] != packets or report["bytes"] != packets * (size + IP_AND_UDP_HEADER):
            raise CannotRunError(f"{self} was to drain {packets} packets, but: {report}, {left} left")
        return Turn(report["cpu"] / packets * 1e6, report["wall"] / packets * 1e6)
