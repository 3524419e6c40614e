"""A network namespace in which a queue can be filled before anybody drains it, and a table of flows before anybody reads it."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.outcome import CannotRunError

#: whoever sends there is thrown away
PORT = 9000
#: whoever sends there is answered
ECHO_PORT = 9001
_CLONE_NEWNET = 0x40000000
_SO_SNDBUFFORCE = 32


@dataclass(frozen=True)
class Waiting:
    """A line of /proc/net/netfilter/nfnetlink_queue."""

    packets: int
    queue_dropped: int
    user_dropped: int


class World:
    """Moves this process, for good, into a new namespace where UDP to two ports goes to a queue.

    The receiver on `PORT` has a tiny buffer that nobody reads: a packet that was accepted is delivered and thrown away, at
    the same price for every contender, and no ICMP error is made.
    """

    def __init__(self, queue: int) -> None:
        enter_namespace()
        self.queue = queue
        _run("ip", "link", "set", "lo", "up")
        ports = f"{PORT}:{ECHO_PORT}"
        _run("iptables", "-A", "OUTPUT", "-p", "udp", "--dport", ports, "-j", "NFQUEUE", "--queue-num", str(queue))
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        self._receiver.bind(("127.0.0.1", PORT))
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener.bind(("127.0.0.1", ECHO_PORT))
        self._listener.settimeout(10)

    def fill(self, packets: int, size: int) -> None:
        """Queue ``packets`` UDP packets with ``size`` bytes of data each. Raises `CannotRunError` if any got lost."""
        before = self.waiting()
        # A queued packet stays charged to its sender: the default SO_SNDBUF holds 256 small ones or 92 of full size.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, (1 << 30) - 1)
            sender.setblocking(False)
            sender.connect(("127.0.0.1", PORT))
            data = bytes(size)
            for _ in range(packets):
                sender.send(data)
        after = self.waiting()
        if after != Waiting(before.packets + packets, before.queue_dropped, before.user_dropped):
            raise CannotRunError(f"the queue could not be filled with {packets} packets of {size} bytes: {before} -> {after}")

    def through(self, packets: int, size: int) -> float:
        """Send packets one by one, each after the one before has come through the queue; the seconds that all took."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", ECHO_PORT))
            data, receive = bytes(size), self._listener.recv
            start = time.perf_counter()
            for _ in range(packets):
                sender.send(data)
                receive(size)
            return time.perf_counter() - start

    def flood(self, seconds: float, size: int) -> int:
        """Send as fast as can be, for so long, whatever becomes of it; how many packets were sent."""
        sent, data = 0, bytes(size)
        end = time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 27)
            sender.setblocking(False)
            sender.connect(("127.0.0.1", PORT))
            while time.monotonic() < end:
                for _ in range(100):
                    try:
                        sender.send(data)
                    except (PermissionError, BlockingIOError):  # dropped by the full queue
                        continue
                    sent += 1
        return sent

    def close(self) -> None:
        """Close the sockets; with the last of them goes the namespace."""
        self._receiver.close()
        self._listener.close()

    def waiting(self) -> Waiting:
        """What the kernel says of the queue."""
        for line in Path("/proc/self/net/netfilter/nfnetlink_queue").read_text("ascii").splitlines():
            fields = [int(field) for field in line.split()]
            if fields[0] == self.queue:
                return Waiting(fields[2], fields[5], fields[6])
        raise CannotRunError(f"nobody has bound queue {self.queue}")


def enter_namespace() -> None:
    """Move this process, for good, into a new network namespace."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise CannotRunError("this needs root on Linux: run it again with sudo")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise CannotRunError(f"no new network namespace: {os.strerror(ctypes.get_errno())}")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotRunError(f"there is no {command[0]} command") from None
    except subprocess.CalledProcessError as error:
        raise CannotRunError(f"{' '.join(command)}: {error.stderr.strip()}") from None
