"""The two kernels as the contract tests see them: one set of verbs, and a process to call them from.

What differs between them is in this file and nowhere else. A test that needs to know which kernel it runs on is two tests.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import probes

from nfnl.sim import Capability, FakeKernel
from nfnl.sim.journey import Journey
from nfnl.transport.base import SocketOptions, Transport
from nfnl.transport.linux import LinuxKernel
from nfnl.wire.constants import NETLINK_NETFILTER

#: the number of the process in front of the fake kernel
PROCESS_ID = 4242
#: a user without any right of his own
NOBODY = 65534

Address = tuple[int, int]
Ancillary = list[tuple[int, int, bytes]]


class NetlinkSocket(Protocol):
    """What a netlink socket of either kernel has in common with `socket.socket`. Addresses are (port id, groups)."""

    def bind(self, address: Address, /) -> None: ...
    def connect(self, address: Address, /) -> None: ...
    def getsockname(self) -> Address: ...
    def getpeername(self) -> Address: ...
    def send(self, data: bytes, flags: int = ..., /) -> int: ...
    def sendto(self, data: bytes, flags_or_address: Any, address: Address = ..., /) -> int: ...
    def recv(self, size: int, flags: int = ..., /) -> bytes: ...
    def recvfrom(self, size: int, flags: int = ..., /) -> tuple[bytes, Address]: ...
    def recvmsg(self, size: int, ancillary: int = ..., flags: int = ..., /) -> tuple[bytes, Ancillary, int, Address]: ...
    def recv_into(self, buffer: bytearray, size: int = ..., flags: int = ..., /) -> int: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def getsockopt(self, level: int, option: int, size: int = ..., /) -> Any: ...
    def listen(self, backlog: int = ..., /) -> None: ...
    def accept(self) -> Any: ...
    def shutdown(self, how: int, /) -> None: ...
    def dup(self) -> Any: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class KernelUnderTest:
    """A kernel with one network namespace, and the process that talks to it. What a test opens is closed behind it."""

    name: str

    def __init__(self, kernel: Any, cleanup: ExitStack) -> None:
        self.kernel = kernel
        self.cleanup = cleanup

    def socket(self, type: int = socket.SOCK_RAW, protocol: int = NETLINK_NETFILTER) -> NetlinkSocket:  # noqa: A002
        """A netlink socket, not bound."""
        sock: NetlinkSocket = self.kernel.socket(type, protocol)
        self.cleanup.callback(sock.close)
        return sock

    def open(self, options: SocketOptions = SocketOptions()) -> Transport:
        transport: Transport = self.kernel.open(options)
        self.cleanup.callback(transport.close)
        return transport

    def read_proc(self, name: str) -> str:
        return str(self.kernel.read_proc(name))

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        return str(self.kernel.sysctl(name, value))

    def iptables(self, line: str) -> None:
        self.kernel.iptables(line)

    def send(self, packet: bytes) -> Journey:
        """A packet from a socket of this machine."""
        journey: Journey = self.kernel.send(packet)
        return journey

    def receive(self, packet: bytes, dev: str = "eth0") -> Journey:
        """A packet that arrives at a device."""
        journey: Journey = self.kernel.receive(packet, dev)
        return journey

    @property
    def process_id(self) -> int:
        """Number of the process that owns the sockets, in its own pid namespace."""
        raise NotImplementedError

    def require(self, probe: str) -> None:
        """Skip the test unless the machine can do what this probe asks; the fake needs nothing of it."""
        raise NotImplementedError

    def process(self, *, uid: int = 0, capabilities: Collection[Capability] = ()) -> AbstractContextManager[None]:
        """Inside, the calls come from a process with this user and these capabilities; outside from an almighty one."""
        raise NotImplementedError

    def another(self) -> KernelUnderTest:
        """A second network namespace, owned by the same user namespace."""
        raise NotImplementedError


class FakeUnderTest(KernelUnderTest):
    name = "fake"
    kernel: FakeKernel

    @property
    def process_id(self) -> int:
        return PROCESS_ID

    def require(self, probe: str) -> None:
        pass

    def process(self, *, uid: int = 0, capabilities: Collection[Capability] = ()) -> AbstractContextManager[None]:
        return self.kernel.process(uid=uid, capabilities=capabilities)

    def another(self) -> KernelUnderTest:
        return FakeUnderTest(self.cleanup.enter_context(FakeKernel(pid=PROCESS_ID)), self.cleanup)


class LinuxUnderTest(KernelUnderTest):
    name = "linux"

    @property
    def process_id(self) -> int:
        return os.getpid()

    def require(self, probe: str) -> None:
        probes.require(probe)

    @contextmanager
    def process(self, *, uid: int = 0, capabilities: Collection[Capability] = ()) -> Iterator[None]:
        before, groups = _effective(), os.getgroups()
        if uid:
            os.setgroups([])
            os.setegid(uid)
            os.seteuid(uid)
        # SYS_ADMIN (21) stays: the lab needs it to enter its namespace. Netlink never asks for it.
        _effective(sum(1 << number for number in {*capabilities, 21}) & before)
        try:
            yield
        finally:
            if uid:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(groups)
            _effective(before)

    def another(self) -> KernelUnderTest:
        return LinuxUnderTest(self.cleanup.enter_context(StandIn()), self.cleanup)


def _effective(wanted: int | None = None) -> int:
    """The effective capabilities of this thread, after setting them if wanted."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    words = ctypes.create_string_buffer(24)
    if libc.capget(header, words) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    low, permitted_low, inherit_low, high, permitted_high, inherit_high = map(int, struct.unpack("=6I", words.raw))
    if wanted is not None:
        low, high = wanted & 0xFFFFFFFF, wanted >> 32
        new = struct.pack("=6I", low, permitted_low, inherit_low, high, permitted_high, inherit_high)
        if libc.capset(header, ctypes.create_string_buffer(new)) != 0:
            raise OSError(ctypes.get_errno(), "capset")
    return low | high << 32


class StandIn(LinuxKernel):
    """A bare namespace with loopback, until the lab is there."""

    def __init__(self) -> None:
        found: list[int] = []

        def make() -> None:
            if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0:
                found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self.descriptor = found[0]
        super().__init__(netns=self.descriptor)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def socket(self, type: int, protocol: int) -> socket.socket:  # noqa: A002
        return self.inside(lambda: socket.socket(socket.AF_NETLINK, type, protocol))

    def iptables(self, line: str) -> None:
        path = f"/proc/self/fd/{self.descriptor}"
        subprocess.run(
            ["nsenter", f"--net={path}", "sh", "-ec", f"ip link set lo up; iptables-legacy -w {line}"],
            check=True,
            pass_fds=[self.descriptor],
        )


@contextmanager
def kernel_under_test(name: str) -> Iterator[KernelUnderTest]:
    """A fresh kernel of this name."""
    with ExitStack() as cleanup:
        if name == "linux":
            yield LinuxUnderTest(cleanup.enter_context(StandIn()), cleanup)
        else:
            yield FakeUnderTest(cleanup.enter_context(FakeKernel(pid=PROCESS_ID)), cleanup)
