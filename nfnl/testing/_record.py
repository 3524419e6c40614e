"""Recordings of what kernels and programs say: scenarios that are played in a lab, and the datagrams that come of it.

Nothing that nfnl has encoded is ever recorded: of its own sockets only what the kernel sends is kept, and of programs, which a tap
(``nlmon``) listens to, everything that is about the subsystem.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import struct
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nfnl
import nfnl.subsys.conntrack
import nfnl.subsys.expect
import nfnl.subsys.queue
from nfnl.errors import NfnlError
from nfnl.testing.lab import LabTransport, LinuxLab
from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.wrap import WrappedKernel, WrappedTransport
from nfnl.wire.codec import decode
from nfnl.wire.constants import NETLINK_NETFILTER, NlmsgFlag, NlmsgType, SubsystemId
from nfnl.wire.declare import Direction
from nfnl.wire.describe import summary

__all__ = ["RecordError", "Scenario", "kernel_name", "load", "record", "text"]

#: directory of fixtures -> the subsystem whose datagrams are kept
SUBSYSTEMS = {"queue": SubsystemId.QUEUE, "conntrack": SubsystemId.CTNETLINK, "expect": SubsystemId.CTNETLINK_EXP}
#: what a step may be, and what may stand beside it
STEPS: dict[str, set[str]] = {
    "iptables": set(),
    "ip6tables": set(),
    "listen": {"copy_range", "flags"},
    "send": {"mark", "priority"},
    "receive": set(),
    "run": set(),
}
_ETH_P_ALL, _PACKET_BUFFER = 3, 8 << 20
#: struct nlmsghdr
_HEADER = struct.Struct("=IHHII")


class RecordError(NfnlError):
    """A scenario that cannot be played, here or anywhere."""


@dataclass(frozen=True)
class Scenario:
    """A table of the file of scenarios."""

    name: str
    subsystem: str
    about: str
    #: each a table with one of `STEPS` in it
    steps: tuple[dict[str, Any], ...]

    @property
    def programs(self) -> list[str]:
        """The programs it runs."""
        return sorted({shlex.split(step["run"])[0] for step in self.steps if "run" in step})


def load(path: Path) -> list[Scenario]:
    """The scenarios of a file. Raises `RecordError` for what is none."""
    with path.open("rb") as file:
        tables = tomllib.load(file)
    found = []
    for name, table in tables.items():
        steps = tuple(table.pop("steps", ()))
        if table.keys() != {"subsystem", "about"} or table["subsystem"] not in SUBSYSTEMS or not steps:
            raise RecordError(f"{path}: {name}: want subsystem ({', '.join(SUBSYSTEMS)}), about, and steps")
        for step in steps:
            kinds = step.keys() & STEPS.keys()
            if len(kinds) != 1 or not step.keys() - kinds <= STEPS[next(iter(kinds))]:
                raise RecordError(f"{path}: {name}: {step} is no step")
        found.append(Scenario(name, table["subsystem"], table["about"], steps))
    return found


@dataclass(frozen=True)
class Heard:
    """A datagram, and who sent it."""

    direction: Direction
    data: bytes

    def __str__(self) -> str:
        messages = decode(self.data, direction=self.direction)
        return f"{'<' if self.direction is Direction.FROM_KERNEL else '>'} {'; '.join(map(summary, messages))}"


def record(scenario: Scenario) -> list[Heard]:
    """Play a scenario in a lab of its own. Raises `RecordError`; OSError, if there is no lab, or the kernel refuses something."""
    heard: list[Heard] = []
    with ExitStack() as cleanup:
        lab = cleanup.enter_context(LinuxLab())
        tap = _tap(lab, cleanup) if scenario.programs else None
        queues: list[nfnl.Queue] = []
        for step in scenario.steps:
            _play(step, lab, queues, heard, cleanup)
            if tap is not None:
                heard += _tapped(tap, scenario.subsystem, keep="run" in step)
            for queue in queues:
                with lab.until_idle():
                    for packet in queue:
                        packet.accept()
    return heard


def _play(step: dict[str, Any], lab: LinuxLab, queues: list[nfnl.Queue], heard: list[Heard], cleanup: ExitStack) -> None:
    match step:
        case {"iptables": line}:
            lab.iptables(line)
        case {"ip6tables": line}:
            lab.ip6tables(line)
        case {"send": digits, **how}:
            lab.send(bytes.fromhex(digits), **how)
        case {"receive": digits}:
            lab.receive(bytes.fromhex(digits))
        case {"run": line}:
            done = lab.run(line)
            if done.returncode:
                raise RecordError(f"{line}: {done.stderr.strip()}")
        case {"listen": number, **how}:
            how["flags"] = nfnl.QueueFlag(how.get("flags", 0))
            queues.append(cleanup.enter_context(nfnl.open_queue(number, kernel=_Ear(lab, heard), **how)))


# ---------------------------------------------------------------------------------------------------------------- what is heard


class _Ear(WrappedKernel):
    """A kernel of which everything is kept that it says of its own accord."""

    def __init__(self, kernel: Kernel, heard: list[Heard]) -> None:
        super().__init__(kernel)
        self._heard = heard

    def wrap(self, transport: Transport, options: SocketOptions) -> Transport:
        assert isinstance(transport, LabTransport)
        return _EarTransport(transport, self._heard)


class _EarTransport(WrappedTransport):
    def __init__(self, transport: Transport, heard: list[Heard]) -> None:
        super().__init__(transport)
        self._heard = heard

    def receive(self) -> list[bytes]:
        datagrams = super().receive()
        # an answer would repeat the request, which nfnl has encoded
        self._heard += [Heard(Direction.FROM_KERNEL, data) for data in datagrams if _kind(data) != NlmsgType.ERROR]
        return datagrams


def _tap(lab: LinuxLab, cleanup: ExitStack) -> socket.socket:
    """A socket that hears what is said through netlink in the lab."""
    for line in ("ip link add tap type nlmon", "ip link set tap up"):
        done = lab.run(line)
        if done.returncode:
            raise RecordError(f"programs cannot be listened to, as this kernel has no nlmon (CONFIG_NLMON): {done.stderr.strip()}")
    ears = lab._kernel.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)))
    cleanup.callback(ears.close)
    ears.bind(("tap", _ETH_P_ALL))
    ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PACKET_BUFFER)
    return ears


def _tapped(ears: socket.socket, subsystem: str, *, keep: bool) -> Iterator[Heard]:
    with suppress(BlockingIOError):
        while True:
            data, (_, protocol, *_) = ears.recvfrom(1 << 18, socket.MSG_DONTWAIT)
            if keep and protocol == NETLINK_NETFILTER and _subsystem(data) in (SUBSYSTEMS[subsystem], None):
                flags = _HEADER.unpack_from(data)[2]
                asked = flags & NlmsgFlag.REQUEST and _HEADER.unpack_from(data)[4] == 0
                yield Heard(Direction.TO_KERNEL if asked else Direction.FROM_KERNEL, data)


def _kind(data: bytes) -> int:
    return int(_HEADER.unpack_from(data)[1])


def _subsystem(data: bytes) -> int | None:
    """The subsystem a datagram is about; of an answer, that of what it answers; None for the end of a list."""
    kind = _kind(data)
    if kind == NlmsgType.ERROR:
        kind = _kind(data[_HEADER.size + 4 :])
    return None if kind == NlmsgType.DONE else kind >> 8


# ---------------------------------------------------------------------------------------------------------------- what is written


def kernel_name() -> str:
    """The version of the present kernel with its patch level, which distributions leave out of the release."""
    told = os.uname()
    found = re.search(r"\bDebian (\d+\.\d+\.\d+)", told.version) or re.match(r"(\d+\.\d+\.\d+)", told.release)
    return found[1] if found else told.release


def text(scenario: Scenario, heard: Sequence[Heard], versions: Sequence[str]) -> str:
    """The recording as a file: what it is, and then for each datagram a line with what it means and one with its bytes."""
    lines = [
        f"# scenario: {scenario.about}",
        f"# {', '.join(versions) or 'the kernel alone; what it was asked for is not kept'}",
        f"# recorded on Linux {kernel_name()}, {os.uname().machine} {sys.byteorder}-endian, by nfnl record {scenario.name}",
    ]
    return "\n".join([*lines, *(line for one in heard for line in (str(one), one.data.hex()))]) + "\n"
