"""The two kernels as the contract tests see them: one set of verbs, and a process to call them from.

What differs between them is in this file and nowhere else. A test that needs to know which kernel it runs on is two tests.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast

from nfnl.sim import FakeKernel
from nfnl.sim.hooks import ACCEPT, INPUT
from nfnl.sim.journey import Journey
from nfnl.sim.skb import IPV4
from nfnl.sim.socket import FakeSocket
from nfnl.testing.lab import LinuxLab
from nfnl.transport.base import SocketOptions, Transport
from nfnl.wire.constants import NETLINK_NETFILTER, NlmsgFlag, SubsystemId
from tests import probes

#: the number of the process in front of the fake kernel
PROCESS_ID = 4242
#: a user without any right of his own
NOBODY = 65534
SO_PRIORITY, SO_MARK = 12, 36  # asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h

#: IPCTNL_MSG_CT_DELETE without anything: all flows, and their expectations
FLUSH = struct.pack("=IHHII4x", 20, SubsystemId.CTNETLINK << 8 | 2, NlmsgFlag.REQUEST, 0, 0)

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


class Sender(Protocol):
    """What the programs that send packets have in common."""

    def send(self, packet: bytes, /) -> Journey: ...


class KernelUnderTest:
    """A kernel with one network namespace, and the process that talks to it. What a test opens is closed behind it."""

    name: str

    def __init__(self, kernel: FakeKernel | LinuxLab, cleanup: ExitStack) -> None:
        self.kernel = kernel
        #: closes what the test has opened
        self.cleanup = cleanup
        #: more was done to it than to open sockets, make rules, send packets and look
        self.touched = False
        #: there may be flows
        self.tracked = False
        #: rules were made: with which program, in which table
        self.ruled: set[tuple[str, str]] = set()

    def socket(self, type: int = socket.SOCK_RAW, protocol: int = NETLINK_NETFILTER) -> NetlinkSocket:  # noqa: A002
        """A netlink socket, not bound."""
        sock = cast("NetlinkSocket", self.kernel.socket(type, protocol))
        self.cleanup.callback(sock.close)
        return sock

    def open(self, options: SocketOptions = SocketOptions()) -> Transport:
        """A transport of the seam."""
        transport = self.kernel.open(options)
        self.cleanup.callback(transport.close)
        return transport

    def read_proc(self, name: str) -> str:
        """The text of ``/proc/net/<name>``."""
        return self.kernel.read_proc(name)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a sysctl, after writing it if a value is given; behind the test it is what it was."""
        if value is not None:
            before, after = self.kernel.sysctl(name), self.kernel.sysctl(name, value)
            self.cleanup.callback(self.kernel.sysctl, name, before)
            return after
        return self.kernel.sysctl(name, value)

    def iptables(self, line: str) -> None:
        """What follows ``iptables`` on a command line."""
        self._rule("iptables", line)

    def ip6tables(self, line: str) -> None:
        """What follows ``ip6tables`` on a command line."""
        self._rule("ip6tables", line)

    def _rule(self, program: str, line: str) -> None:
        words = line.split()
        if {"-A", "-I", "-F"}.isdisjoint(words):
            self.touched = True  # what else was done a flush will not undo
        self.tracked = True  # where one rule asks for flows, every packet has one
        self.ruled.add((program, words[words.index("-t") + 1] if "-t" in words else "filter"))
        getattr(self.kernel, program)(line)

    def send(self, packet: bytes, *, mark: int = 0, priority: int = 0) -> Journey:
        """A packet from a program on this machine, through a raw socket."""
        return self.kernel.send(packet, mark=mark, priority=priority)

    def sender(self, *, send_buffer: int) -> Sender:
        """A program with a socket of its own."""
        return self.kernel.sender(send_buffer=send_buffer)

    def send_many(self, packet: bytes, count: int) -> None:
        """The same packet many times, without asking what becomes of each."""
        raise NotImplementedError

    def send_datagram(self, packet: bytes, *, gso_size: int = 0) -> None:
        """A UDP packet from a program on this machine, through an ordinary socket: its checksum is left to whoever sends it out.

        With a ``gso_size`` so is making datagrams with at most so many bytes of it (UDP_SEGMENT). Raises OSError.
        """
        raise NotImplementedError

    def send_stream(self, packet: bytes, *, segment: int) -> None:
        """A TCP packet from a program on this machine to itself, out of a connection where no more than so many bytes fit into one.

        Where it comes from a real connection, its numbers are others.
        """
        raise NotImplementedError

    def receive(self, packet: bytes, dev: str = "eth0") -> Journey:
        """A packet that arrives at a device."""
        return self.kernel.receive(packet, dev)

    def forward(self, packet: bytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """A packet that arrives and is to be passed on."""
        self.touched = True
        return self.kernel.forward(packet, in_dev, out_dev)

    def add_device(self, name: str) -> None:
        """Another device like eth0."""
        self.touched = True
        self.kernel.add_device(name)

    def add_route(self, prefix: str, dev: str | None, *, mark: int | None = None) -> None:
        """A route; without a device one that says unreachable, with a mark for packets with that mark only."""
        self.touched = True
        self.kernel.add_route(prefix, dev, mark=mark)

    def set_up(self, dev: str, up: bool) -> None:
        """Switch a device on or off."""
        self.touched = True
        self.kernel.set_up(dev, up)

    def until_idle(self) -> AbstractContextManager[None]:
        """Inside, an iteration over a queue ends when nothing happens any more."""
        return self.kernel.until_idle()

    def index_of(self, dev: str) -> int:
        """The number of a device."""
        raise NotImplementedError

    @property
    def processors(self) -> list[int]:
        """The numbers of the processors that programs may run on."""
        raise NotImplementedError

    def run_on(self, processor: int) -> None:
        """Let what sends packets run on this processor from now on."""
        raise NotImplementedError

    def take_a_hook_away(self) -> None:
        """Hang something of no consequence at a hook, and take it away again."""
        raise NotImplementedError

    def track(self) -> None:
        """Have packets of IPv4 tracked: a rule asks for the state of flows."""
        self.iptables("-A FORWARD -m conntrack --ctstate NEW")

    def use_labels(self) -> None:
        """Give new flows room for labels: a rule looks at them."""
        self.iptables("-t mangle -A OUTPUT -m connlabel --label 3 -j RETURN")

    def wait(self, sock: NetlinkSocket, seconds: float) -> bool:
        """Wait until there is something to receive, at most so long; False if there was not.

        The fake's clock is put forward until then.
        """
        raise NotImplementedError

    @property
    def process_id(self) -> int:
        """Number of the process that owns the sockets, in its own pid namespace."""
        raise NotImplementedError

    def require(self, probe: str) -> None:
        """Skip the test unless the machine can do what this probe asks; the fake needs nothing of it."""
        raise NotImplementedError

    def process(self, *, uid: int = 0, capabilities: Collection[int] = ()) -> AbstractContextManager[None]:
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
        if probe == "conntrack-glue":  # a matter of how a kernel was built: another one, then
            assert not self.ruled
            profile = replace(self.kernel.profile, conntrack_glue=True)
            self.kernel = self.cleanup.enter_context(FakeKernel(pid=PROCESS_ID, profile=profile))

    def send_many(self, packet: bytes, count: int) -> None:
        for _ in range(count):
            self.kernel.send(packet)

    def send_datagram(self, packet: bytes, *, gso_size: int = 0) -> None:
        journey = self.kernel.send(packet, partial_checksum=True, gso_size=gso_size)
        if journey.errno:
            raise OSError(journey.errno, journey.reason)

    def send_stream(self, packet: bytes, *, segment: int) -> None:
        journey = self.kernel.send(packet, partial_checksum=True, gso_size=segment)
        assert not journey.errno

    @property
    def processors(self) -> list[int]:
        return [0, 1, 2, 3, 4]

    def run_on(self, processor: int) -> None:
        self.kernel.cpu = processor

    def index_of(self, dev: str) -> int:
        return self.kernel._world.stack.device(dev).index

    def wait(self, sock: NetlinkSocket, seconds: float) -> bool:
        waiting = cast("FakeSocket", sock)
        for _ in range(round(seconds * 100)):
            if waiting.readable:
                return True
            self.kernel.advance(0.01)
        return waiting.readable

    def take_a_hook_away(self) -> None:
        hooks = self.kernel._world.hooks
        hooks.register(IPV4, INPUT, 77, "of no consequence", lambda skb, hook: ACCEPT)
        hooks.unregister(IPV4, INPUT, "of no consequence")

    def process(self, *, uid: int = 0, capabilities: Collection[int] = ()) -> AbstractContextManager[None]:
        return self.kernel.process(uid=uid, capabilities=capabilities)

    def another(self) -> KernelUnderTest:
        return FakeUnderTest(self.cleanup.enter_context(FakeKernel(pid=PROCESS_ID)), self.cleanup)


class LinuxUnderTest(KernelUnderTest):
    name = "linux"
    kernel: LinuxLab

    @property
    def process_id(self) -> int:
        return os.getpid()

    def require(self, probe: str) -> None:
        probes.require(probe)

    def send_many(self, packet: bytes, count: int) -> None:
        raw = self.kernel._raw[4]
        for option in (SO_MARK, SO_PRIORITY):
            raw.setsockopt(socket.SOL_SOCKET, option, 0)
        to = socket.inet_ntoa(packet[16:20]), 0
        for start in range(0, count, 100):  # the lab looks for each packet among all that came since it looked last
            with self.kernel._step():
                for _ in range(min(100, count - start)):
                    raw.sendto(packet, to)

    def send_datagram(self, packet: bytes, *, gso_size: int = 0) -> None:
        v4 = packet[0] >> 4 == 4
        family, at, size = (socket.AF_INET, 20, 4) if v4 else (socket.AF_INET6, 40, 16)
        source, destination = (socket.inet_ntop(family, a) for a in (packet[at - 2 * size : at - size], packet[at - size : at]))
        ports = struct.unpack_from(">HH", packet, at)

        sock = self.kernel._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self.cleanup.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((source, ports[0]))
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, gso_size)
        with self.kernel._step():
            sock.sendto(packet[at + 8 :], (destination, ports[1]))

    def send_stream(self, packet: bytes, *, segment: int) -> None:
        family, address, prefix = (socket.AF_INET, "127.0.0.1", "") if packet[0] >> 4 == 4 else (socket.AF_INET6, "::1", "-6 ")
        at = 20 if family == socket.AF_INET else 40
        # nothing is to be sent a second time because its answer waits in a queue, no headers are to hold options, and on a slow
        # machine, too, what is written at once is to leave at once
        for name, value in (("tcp_timestamps", 0), ("tcp_early_retrans", 0), ("tcp_min_tso_segs", 64)):
            self.sysctl(f"net.ipv4.{name}", value)
        done = self.kernel.run(f"ip {prefix}route replace local {address} dev lo table local rto_min 1000s")
        assert not done.returncode, done.stderr

        def connect() -> tuple[socket.socket, socket.socket]:
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                listener.bind((address, int.from_bytes(packet[at + 2 : at + 4], "big")))
                listener.listen()
                client = socket.socket(family, socket.SOCK_STREAM)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                client.connect(listener.getsockname())
                return client, listener.accept()[0]

        client, server = self.kernel._kernel.inside(connect)
        self.cleanup.callback(server.close)
        self.cleanup.callback(client.close)
        with self.kernel._step():
            client.sendall(packet[at + (packet[at + 12] >> 4 << 2) :])

    @property
    def processors(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def run_on(self, processor: int) -> None:
        self.cleanup.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processor})

    def index_of(self, dev: str) -> int:
        return self.kernel._kernel.inside(lambda: socket.if_nametoindex(dev))

    def wait(self, sock: NetlinkSocket, seconds: float) -> bool:
        return bool(select.select([sock], [], [], seconds)[0])

    def take_a_hook_away(self) -> None:
        for line in (
            "add table ip strange",
            "add chain ip strange c { type filter hook input priority 77; }",
            "delete table ip strange",
        ):
            done = self.kernel.run(["nft", line])
            assert not done.returncode, done.stderr

    @contextmanager
    def process(self, *, uid: int = 0, capabilities: Collection[int] = ()) -> Iterator[None]:
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
        return LinuxUnderTest(self.cleanup.enter_context(LinuxLab()), self.cleanup)


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


def _sockets(lab: LinuxLab) -> list[str]:
    """Protocol and port of the netlink sockets that are bound there."""
    return sorted(" ".join(line.split()[1:3]) for line in lab.read_proc("netlink").splitlines())


class Kernels:
    """Makes the kernels of one test run.

    A lab takes 50 ms to make and to close; so one in which nothing was done but to talk netlink, to send packets past rules and
    to look, and no socket is left, is used again: without its rules and flows it is as new.
    """

    def __init__(self) -> None:
        self._spare: LinuxLab | None = None

    @contextmanager
    def make(self, name: str) -> Iterator[KernelUnderTest]:
        """A fresh kernel, ``"fake"`` or ``"linux"``."""
        with ExitStack() as cleanup:
            if name == "fake":
                yield FakeUnderTest(cleanup.enter_context(FakeKernel(pid=PROCESS_ID)), cleanup)
                return
            lab, self._spare = self._spare or LinuxLab(), None
            made, as_new = LinuxUnderTest(lab, cleanup), _sockets(lab)
            cleanup.callback(lambda: self._put_away(made, as_new))
            yield made

    def _put_away(self, made: LinuxUnderTest, as_new: list[str]) -> None:
        if made.touched or self._spare is not None or _sockets(made.kernel) != as_new:
            made.kernel.close()
            return
        for program, table in made.ruled:
            getattr(made.kernel, program)(f"-t {table} -F")
        if made.tracked:
            with closing(made.kernel.socket()) as sock:
                sock.sendto(FLUSH, (0, 0))
        self._spare = made.kernel

    def close(self) -> None:
        """Close what is left."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None


#: for all tests, and what they ask first
LABS = Kernels()
