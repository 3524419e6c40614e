"""A contender at work in a process of its own: for each line it is given it does something, and says what that cost."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.outcome import CannotRunError
from bench.peers import BENCH


def children_cpu() -> float:
    """User and system time of all processes that were started here and have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Worker:
    """The process; a context manager that ends it. See `bench.contenders.turns` for what it says."""

    def __init__(self, command: Sequence[str]) -> None:
        self._name = " ".join(Path(word).name for word in command[:4])
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, cwd=BENCH.parent, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        if self._answer() != "ready\n":
            self._child.kill()
            self._child.communicate()
            raise CannotRunError(f"{self} did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._child.communicate()  # its standard input ends, and so does it

    def __str__(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def tell(self, line: str) -> None:
        """Have it begin; `report` waits for the end."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()

    def report(self) -> dict[str, Any]:
        """What it says when it is done. Raises `CannotRunError` if it ended instead."""
        answer = self._answer()
        if not answer:
            raise CannotRunError(f"{self} ended without a word")
        report: dict[str, Any] = json.loads(answer)
        return report

    def ask(self, line: str) -> dict[str, Any]:
        """Have it do something, and wait for its report."""
        self.tell(line)
        return self.report()

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def memory(self) -> int:
        """Resident memory of the process, in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise CannotRunError(f"{self} is gone")
