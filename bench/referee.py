"""Has one contender drain one queue, turn by turn, and checks that it did all of the work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.contenders import BENCH
from bench.world import CannotRunError, World

#: NetfilterQueue copies no more
COPY_RANGE = 4016
#: SO_RCVBUF; the kernel doubles it. A full-size packet takes 2304 bytes
RECEIVE_BUFFER = 1 << 29
IP_AND_UDP_HEADER = 28


@dataclass(frozen=True)
class Turn:
    """What one drain cost, per packet, in µs."""

    #: user and system time of the process
    cpu: float
    wall: float


class Contest:
    """A contender at work on the queue of ``world``, in a process of its own; a context manager that ends it."""

    def __init__(self, world: World, command: Sequence[str], max_length: int) -> None:
        self._world = world
        self._name = command[0]
        terms = map(str, (world.queue, COPY_RANGE, max_length, RECEIVE_BUFFER))
        pipe = subprocess.PIPE
        self._child = subprocess.Popen([*command, *terms], cwd=BENCH.parent, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        if self._answer() != "bound\n":
            self._child.kill()
            self._child.communicate()
            raise CannotRunError(f"{self._name} did not bind its queue")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._child.communicate()  # its standard input ends, and so does it

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def turn(self, packets: int, size: int) -> Turn:
        """Fill the queue and let it drain. Raises `CannotRunError` if not every packet was seen whole, and decided."""
        self._world.fill(packets, size)
        assert self._child.stdin is not None
        self._child.stdin.write(f"{packets}\n")
        self._child.stdin.flush()
        answer = self._answer()
        if not answer:
            raise CannotRunError(f"{self._name} ended without a word")
        report: dict[str, Any] = json.loads(answer)
        left = self._world.waiting().packets
        if left or report["packets"] != packets or report["bytes"] != packets * (size + IP_AND_UDP_HEADER):
            raise CannotRunError(f"{self._name} was to drain {packets} packets, but: {report}, {left} left")
        return Turn(report["cpu"] / packets * 1e6, report["wall"] / packets * 1e6)

    def memory(self) -> int:
        """Resident memory of the process, in KiB."""
        for line in Path(f"/proc/{self._child.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise CannotRunError(f"{self._name} is gone")
