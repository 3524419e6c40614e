"""Who takes part beside nfnl, and how each is made ready: into ``bench/.cache``, and nowhere else but for packages of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BENCH = Path(__file__).resolve().parent
CACHE = BENCH / ".cache"


class NotInstalledError(Exception):
    """A contender cannot take part here; the text says why."""


@dataclass(frozen=True)
class Contender:
    """``prepare`` gives the command line that runs it, or raises `NotInstalledError`."""

    name: str
    prepare: Callable[[], list[str]]


def ready(contenders: Sequence[Contender]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Command lines by contender, and reasons of those that cannot take part."""
    commands: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for contender in contenders:
        try:
            commands[contender.name] = contender.prepare()
        except NotInstalledError as why:
            missing[contender.name] = str(why)
    return commands, missing


def nfnl_module(name: str) -> Callable[[], list[str]]:
    """A contender that is nfnl, in a module of `bench.contenders`."""
    return lambda: [sys.executable, "-m", f"bench.contenders.{name}"]


def c_program(name: str, *libraries: str, header: str = "", package: str = "") -> Callable[[], list[str]]:
    """A contender in C; without ``header`` its ``package`` is installed first, where that is possible."""

    @cache
    def prepare() -> list[str]:
        if shutil.which("gcc") is None:
            raise NotInstalledError("there is no gcc")
        if header and not Path("/usr/include", header).exists():
            _apt(package)
        CACHE.mkdir(exist_ok=True)
        program = CACHE / name
        _run("gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(BENCH / "c" / f"{name}.c"), *libraries)
        return [str(program)]

    return prepare


def from_pypi(requirement: str, module: str, script: str) -> Callable[[], list[str]]:
    """A contender from PyPI, in an environment of its own, with the Python that runs the benchmark."""

    @cache
    def prepare() -> list[str]:
        name = requirement.partition("=")[0].lower()
        environment = CACHE / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
        python = environment / "bin" / "python"
        if not python.exists():
            _run(sys.executable, "-m", "venv", str(environment))
        try:
            _run(str(python), "-c", f"import {module}")
        except NotInstalledError:
            _run(str(python), "-m", "pip", "install", "--quiet", "--timeout", "10", "--retries", "1", requirement)
            _run(str(python), "-c", f"import {module}")
        return [str(python), str(BENCH / "contenders" / script)]

    return prepare


@cache
def command(name: str, package: str) -> str:
    """The path of a command, after installing its package where it is missing and that is possible."""
    if shutil.which(name) is None:
        _apt(package)
    found = shutil.which(name)
    if found is None:
        raise NotInstalledError(f"there is no {name} command")
    return found


def _apt(package: str) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotInstalledError(f"{package} is not installed")
    _run("apt-get", "-qq", "-y", "--no-install-recommends", "install", package)


def _run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        telling = next((line for line in said if "error:" in line.lower()), said[-1])
        raise NotInstalledError(f"{Path(command[0]).name}: {telling.strip()}")


NETFILTER_QUEUE = Contender("NetfilterQueue", from_pypi("NetfilterQueue==1.1.0", "netfilterqueue", "netfilter_queue.py"))
FNFQUEUE = Contender("fnfqueue", from_pypi("fnfqueue==1.1.2", "fnfqueue", "fnfqueue_loop.py"))
PYROUTE2 = from_pypi("pyroute2==0.9.4", "pyroute2", "pyroute2_table.py")

#: those who drain queues; the first is the one the others are compared with
QUEUES = (
    Contender("nfnl", nfnl_module("nfnl_sync")),
    Contender("nfnl asyncio", nfnl_module("nfnl_aio")),
    NETFILTER_QUEUE,
    FNFQUEUE,
    Contender(
        "C, libnetfilter_queue",
        c_program(
            "nfq_loop",
            "-lnetfilter_queue",
            header="libnetfilter_queue/libnetfilter_queue.h",
            package="libnetfilter-queue-dev",
        ),
    ),
    Contender("C, recvmmsg and batch", c_program("nfq_batch")),
)
