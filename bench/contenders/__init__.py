"""Who takes part in the benchmarks, and how each is made ready."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
CACHE = BENCH / ".cache"


class NotInstalledError(Exception):
    """A contender cannot take part here; the text says why."""


@dataclass(frozen=True)
class Contender:
    """``prepare`` gives the command line that runs it, or raises `NotInstalledError`."""

    name: str
    prepare: Callable[[], list[str]]


def _module(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", f"bench.contenders.{name}"]


def _c_program(name: str, *libraries: str) -> Callable[[], list[str]]:
    def prepare() -> list[str]:
        if shutil.which("gcc") is None:
            raise NotInstalledError("there is no gcc")
        CACHE.mkdir(exist_ok=True)
        program = CACHE / name
        _build("gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(BENCH / "c" / f"{name}.c"), *libraries)
        return [str(program)]

    return prepare


def _netfilter_queue() -> list[str]:
    """Installed from PyPI into an environment of its own, with the Python that runs the benchmark."""
    environment = CACHE / f"netfilterqueue-{sys.version_info.major}.{sys.version_info.minor}"
    python = environment / "bin" / "python"
    if not python.exists():
        _build(sys.executable, "-m", "venv", str(environment))
    try:
        _build(str(python), "-c", "import netfilterqueue")
    except NotInstalledError:
        _build(str(python), "-m", "pip", "install", "--quiet", "NetfilterQueue==1.1.0")
    return [str(python), str(BENCH / "contenders" / "netfilter_queue.py")]


def pyroute2() -> list[str]:
    """The command line of pyroute2 for `bench.conntrack_dump`: from PyPI, in an environment of its own."""
    environment = CACHE / f"pyroute2-{sys.version_info.major}.{sys.version_info.minor}"
    python = environment / "bin" / "python"
    if not python.exists():
        _build(sys.executable, "-m", "venv", str(environment))
    try:
        _build(str(python), "-c", "import pyroute2")
    except NotInstalledError:
        _build(str(python), "-m", "pip", "install", "--quiet", "pyroute2==0.9.4")
    return [str(python), str(BENCH / "contenders" / "dump_pyroute2.py")]


def _build(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        telling = next((line for line in said if "error:" in line.lower()), said[-1])
        raise NotInstalledError(f"{Path(command[0]).name}: {telling.strip()}")


#: the first is the one the others are compared with
CONTENDERS = (
    Contender("nfnl", _module("nfnl_sync")),
    Contender("nfnl asyncio", _module("nfnl_aio")),
    Contender("NetfilterQueue", _netfilter_queue),
    Contender("C, libnetfilter_queue", _c_program("nfq_loop", "-lnetfilter_queue")),
    Contender("C, recvmmsg and batch", _c_program("nfq_batch")),
)
