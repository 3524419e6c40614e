"""Who listens at which queue of this network namespace, as far as /proc tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from nfnl.transport.base import Kernel
from nfnl.wire.constants import NETLINK_NETFILTER


@dataclass(frozen=True, slots=True)
class Owner:
    """A queue that somebody has bound."""

    queue: int
    port_id: int
    waiting: int  #: packets without a verdict
    process: str  #: ``python3, process 4242``; "" where that cannot be seen

    def __str__(self) -> str:
        return f"{self.process or 'a process that cannot be seen'} (port {self.port_id})"


def owners(kernel: Kernel) -> dict[int, Owner]:
    """By the queue's number. Raises OSError: ENOENT without nfnetlink_queue, EACCES where it is not for us to know."""
    rows = [list(map(int, line.split())) for line in kernel.read_proc("netfilter/nfnetlink_queue").splitlines()]
    found = {}
    inodes = dict(_inodes(kernel)) if rows else {}
    for queue, port_id, waiting, *_ in rows:
        port_id &= 0xFFFFFFFF
        found[queue] = Owner(queue, port_id, waiting, _process(inodes.get(port_id, "")))
    return found


def program_of(kernel: Kernel, port_id: int) -> str:
    """Name of the program that has an nfnetlink socket with this port; "" where that cannot be seen."""
    inode = ""
    with suppress(OSError):
        inode = dict(_inodes(kernel)).get(port_id, "")
    return _process(inode).partition(",")[0] if inode else ""


def _inodes(kernel: Kernel) -> Iterator[tuple[int, str]]:
    """Port ids of the nfnetlink sockets, with the inode by which their processes know them."""
    head, *lines = kernel.read_proc("netlink").splitlines()
    columns = head.split()
    for line in lines:
        row = dict(zip(columns, line.split(), strict=True))
        if int(row["Eth"]) == NETLINK_NETFILTER:
            yield int(row["Pid"]), row["Inode"]


def _process(inode: str) -> str:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or is somebody else's
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(descriptor.path) == f"socket:[{inode}]":
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()}, process {pid}"
    return ""
