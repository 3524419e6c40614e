"""The real kernel: NETLINK_NETFILTER sockets of Linux, in this or any other network namespace.

Importing this module needs no Linux; opening a socket does.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from nfnl.errors import NetlinkError, OverrunError, TransportClosed
from nfnl.transport.base import SocketOptions, Wait
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer, SocketRequest

if TYPE_CHECKING:
    import socket

__all__ = ["LinuxKernel", "LinuxTransport", "in_thread", "many_at_once"]

T = TypeVar("T")

_NETLINK_NETFILTER = 12
_CLONE_NEWNET = 0x40000000
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_RCVBUFFORCE = 26, 27, 33  # asm-generic/socket.h; Python has no names for them

#: Datagrams per system call. 32 costs 5 % more per datagram, 128 saves nothing.
_SLOTS = 64
#: Bytes per datagram. A queued packet has at most 65531 bytes of payload, and some hundreds around it; the largest datagram
#: of nfnetlink is a batch of nfnetlink_log: 128 KiB may be asked for, which the allocator rounds up to 256 KiB.
#: Only pages that were written to cost memory.
_SLOT = 260 * 1024


class LinuxKernel:
    """Linux, as seen from one network namespace.

    ``netns`` is the name of a namespace (as `ip netns` makes them, in ``/run/netns``), a path such as ``/proc/123/ns/net``,
    an open descriptor of one (which stays yours), or None for the one of the calling thread. It is looked up at each use.
    Using another namespace needs CAP_SYS_ADMIN in the user namespaces of both.
    """

    def __init__(self, netns: str | os.PathLike[str] | int | None = None, *, _recvmmsg: bool = True) -> None:
        self._netns = netns
        self._recvmmsg = _recvmmsg
        self._raw: dict[int, socket.socket] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self._netns is None else repr(self._netns)})"

    def open(self, options: SocketOptions = SocketOptions()) -> LinuxTransport:
        """Open and bind a socket; it stays in the namespace, whatever its users do later.

        Raises OSError: EAFNOSUPPORT where there is no netlink, EPERM without CAP_NET_ADMIN when groups are asked for,
        EADDRINUSE when ``port_id`` is taken; ENOENT, EINVAL, EPERM when the namespace cannot be entered.
        """
        sock = self.inside(_open_socket)
        try:
            return LinuxTransport(sock, options, _recvmmsg=self._recvmmsg)
        except BaseException:
            sock.close()
            raise

    def read_proc(self, name: str) -> str:
        """The text of ``/proc/net/<name>`` in the namespace. Raises OSError (ENOENT, EACCES, EPERM)."""

        def read() -> str:
            # not /proc/net: that shows the namespace of the process's first thread
            with open(f"/proc/thread-self/net/{name}", encoding="ascii", errors="surrogateescape") as file:
                return file.read()

        return self.inside(read)

    def send_raw(self, packet: bytes) -> None:
        """See `Kernel.send_raw`. The sockets for it are opened at their first use, and stay in the namespace they were opened in.

        To a link-local address, which needs an interface beside it, nothing can be sent (EINVAL).
        """
        import socket

        v6 = bool(packet) and packet[0] >> 4 == 6
        family, to = (socket.AF_INET6, packet[24:40].ljust(16, b"\0")) if v6 else (socket.AF_INET, packet[16:20].ljust(4, b"\0"))
        if family not in self._raw:
            self._raw[family] = self.inside(lambda: _open_raw(family))
            weakref.finalize(self, self._raw[family].close)
        self._raw[family].sendto(packet, (socket.inet_ntop(family, to), 0))

    def interface_name(self, index: int) -> str | None:
        """See `Kernel.interface_name`. It is asked anew each time: a system call, and outside of the own namespace a thread."""
        import socket

        try:
            return self.inside(lambda: socket.if_indextoname(index))
        except (OSError, OverflowError):  # ENXIO
            return None

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a sysctl of the namespace, after writing ``value`` if one is given.

        ``name`` has dots or, for devices with a dot in their names, slashes: ``net/ipv4/conf/eth0.7/rp_filter``.
        Raises OSError (ENOENT, EACCES, EPERM; EINVAL for a value the kernel does not take).
        """
        path = "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))

        def access() -> str:
            if value is not None:
                with open(path, "w", encoding="ascii") as file:
                    file.write(f"{value}\n")
            with open(path, encoding="ascii") as file:
                return file.read().rstrip("\n")

        return self.inside(access)

    def inside(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, or raises, when called in the namespace: by a thread that exists only for that.

        A namespace is a property of the thread, so what the function starts and opens is born there. As the thread dies there, no
        way back can fail, and Ctrl-C cannot leave the caller's thread in a namespace that is not his.
        """
        if self._netns is None:
            return function()

        def enter_first() -> T:
            self._enter()
            return function()

        return in_thread(enter_first)

    def _enter(self) -> None:
        """Move this thread to the namespace, for good."""
        if isinstance(self._netns, int):
            _setns(self._netns)
            return
        path = os.fspath(self._netns or "")
        descriptor = os.open(path if "/" in path else f"/run/netns/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(descriptor)
        finally:
            os.close(descriptor)


class LinuxTransport:
    """One NETLINK_NETFILTER socket. See `nfnl.transport.base.Transport` for what each method promises."""

    def __init__(self, sock: socket.socket, options: SocketOptions = SocketOptions(), *, _recvmmsg: bool = True) -> None:
        import select
        import socket

        if options.receive_buffer is not None:
            _size_receive_buffer(sock, options.receive_buffer)
        for option, wanted in (
            (SocketOption.NO_ENOBUFS, options.no_enobufs),
            (SocketOption.LISTEN_ALL_NSID, options.listen_all_nsid),
            (SocketOption.EXT_ACK, options.extended_ack),
            (SocketOption.CAP_ACK, options.cap_ack),
        ):
            if wanted:
                try:
                    sock.setsockopt(SOL_NETLINK, option, 1)
                except OSError as error:  # kernels before 4.12 and 4.3 say less when they refuse; nfnl can live with that
                    if error.errno != errno.ENOPROTOOPT or option not in (SocketOption.EXT_ACK, SocketOption.CAP_ACK):
                        raise
        sock.bind((options.port_id, 0))
        for group in options.groups:
            sock.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, group)

        self._socket = sock
        self._descriptor = sock.fileno()
        self._port_id: int = sock.getsockname()[0]
        self._receive = (_recvmmsg and many_at_once()) or _one_by_one(sock)
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Closed no sooner than nobody can call wake() any more: it might write to a file that got the same number.
        weakref.finalize(self, os.close, self._wakeup)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._rcvbuf = socket.SOL_SOCKET, socket.SO_RCVBUF

    @property
    def port_id(self) -> int:
        self._check_open()
        return self._port_id

    def send(self, datagram: bytes) -> None:
        # An address is named although the kernel is where send() goes anyhow: without one the kernel also wants the process that
        # opened the socket to be privileged (__netlink_ns_capable), not only the one that sends.
        try:
            self._socket.sendto(datagram, (0, 0))
        except OSError as error:
            _fail(error.errno or 0)

    def receive(self) -> list[bytes]:
        return self._receive(self._descriptor)

    def wait(self, deadline: float | None) -> Wait:
        while True:
            self._check_open()
            # a day at most: poll() takes 31 bits of milliseconds
            timeout = None if deadline is None else 1000 * min(max(deadline - self.now(), 0.0), 86400.0)
            ready = dict(self._poll.poll(timeout))
            self._check_open()
            if self._wakeup in ready:
                os.eventfd_read(self._wakeup)
                return Wait.WOKEN
            if ready:
                return Wait.READABLE
            if deadline is not None and self.now() >= deadline:
                return Wait.DEADLINE

    def wake(self) -> None:
        self._check_open()
        os.eventfd_write(self._wakeup, 1)

    def on_readable(self, callback: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError("a Linux socket has a fileno(): let the event loop poll it")

    def fileno(self) -> int:
        self._check_open()
        return self._descriptor

    now = staticmethod(time.monotonic)

    def apply(self, request: SocketRequest) -> None:
        self._check_open()
        match request:
            case JoinGroup(group):
                self._socket.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, group)
            case LeaveGroup(group):
                self._socket.setsockopt(SOL_NETLINK, SocketOption.DROP_MEMBERSHIP, group)
            case SetReceiveBuffer(size):
                _size_receive_buffer(self._socket, size)
            case SetOption(option, value):
                self._socket.setsockopt(SOL_NETLINK, option, int(value))
            case AttachFilter(program):
                _attach_filter(self._socket, program)

    @property
    def receive_buffer(self) -> int:
        self._check_open()
        return self._socket.getsockopt(*self._rcvbuf)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        self._descriptor = -1
        os.eventfd_write(self._wakeup, 1)  # whoever waits holds the socket open until he has seen this
        self._socket.close()

    def _check_open(self) -> None:
        if self._descriptor < 0:
            _fail(errno.EBADF)


def in_thread(function: Callable[[], T]) -> T:
    """What ``function`` returns, or raises, when called by a thread of its own."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as failure:  # it belongs to the caller
            failures.append(failure)

    thread = threading.Thread(target=run, name="nfnl, in another namespace", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


@functools.cache
def _recvmmsg_api() -> Any | None:
    """recvmmsg(2) and its structures; None where the C library or the kernel does not have it."""
    import ctypes

    # PyDLL keeps the GIL. The call never waits and is over in at most a millisecond; a thread that lets go of the GIL beside a busy
    # one must queue to get it back (measured: 750 µs for an empty call, instead of 2).
    try:
        recvmmsg = ctypes.PyDLL(None, use_errno=True).recvmmsg
    except AttributeError:
        return None
    recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
    recvmmsg(-1, None, 0, 0, None)
    if ctypes.get_errno() == errno.ENOSYS:
        return None

    class Iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    class Msghdr(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("namelen", ctypes.c_uint32),
            ("iov", ctypes.POINTER(Iovec)),
            ("iovlen", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("controllen", ctypes.c_size_t),
            ("flags", ctypes.c_uint32),
        ]

    class Mmsghdr(ctypes.Structure):
        _fields_ = [("hdr", Msghdr), ("length", ctypes.c_uint32)]

    return SimpleNamespace(recvmmsg=recvmmsg, Iovec=Iovec, Msghdr=Msghdr, Mmsghdr=Mmsghdr)


def many_at_once() -> Callable[[int], list[bytes]] | None:
    """A function that receives up to `_SLOTS` datagrams from a descriptor with one system call; None where that cannot be."""
    import ctypes
    import mmap
    import socket

    if (api := _recvmmsg_api()) is None:
        return None
    recvmmsg, header_type = api.recvmmsg, api.Mmsghdr

    # Private, or a forked child would receive into its parent's memory; no huge pages (EINVAL: this kernel has none), or each
    # page touched would cost 2 MiB.
    arena = mmap.mmap(-1, _SLOTS * _SLOT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        arena.madvise(mmap.MADV_NOHUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(arena))
    offsets = list(range(0, _SLOTS * _SLOT, _SLOT))
    sender = struct.Struct("=HHII")  # struct sockaddr_nl: family, padding, port id, groups
    senders = (ctypes.c_char * (_SLOTS * sender.size))()
    headers = (header_type * _SLOTS)()
    for index, header in enumerate(headers):
        header.hdr.name = ctypes.addressof(senders) + index * sender.size
        header.hdr.namelen = sender.size  # the kernel writes it back unchanged
        header.hdr.iov = ctypes.pointer(api.Iovec(start + offsets[index], _SLOT))
        header.hdr.iovlen = 1

    words = memoryview(headers).cast("B").cast("I")
    stride = ctypes.sizeof(header_type) // 4
    all_lengths = words[header_type.length.offset // 4 :: stride]
    all_flags = words[api.Msghdr.flags.offset // 4 :: stride]
    all_senders = memoryview(senders).cast("B")
    # sliced once for each count: a slice of a memoryview costs as much as a datagram
    lengths_of = [all_lengths[:count] for count in range(_SLOTS + 1)]
    senders_of = [all_senders[: count * sender.size] for count in range(_SLOTS + 1)]
    kernel_alone = sender.pack(socket.AF_NETLINK, 0, 0, 0) * _SLOTS
    address = ctypes.addressof(headers)
    wait_not = socket.MSG_DONTWAIT

    def receive(descriptor: int) -> list[bytes]:
        while (count := recvmmsg(descriptor, address, _SLOTS, wait_not, None)) < 0:
            # An error met behind the first datagram is not reported by this call but kept for the next, so nothing is lost here.
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                return []
            if number != errno.EINTR:
                _fail(number)
        # The hot place of nfnl: about 0.1 µs per datagram when 64 came, beside the 0.6 µs of the kernel. Facts are looked at
        # for all datagrams together; a slice of an mmap is the cheapest way to a bytes object.
        lengths = lengths_of[count].tolist()
        if kernel_alone.startswith(senders_of[count]) and _SLOT not in lengths:
            return [arena[offset : offset + length] for offset, length in zip(offsets, lengths, strict=False)]
        return [
            _with_facts(arena[offset : offset + length], port_id, groups, flags)
            for offset, length, flags, (_, _, port_id, groups) in zip(
                offsets, lengths, all_flags[:count].tolist(), sender.iter_unpack(senders_of[count]), strict=False
            )
        ]

    return receive


def _one_by_one(sock: socket.socket) -> Callable[[int], list[bytes]]:
    """The same with one system call for each datagram, for where there is no recvmmsg."""
    import mmap
    import socket

    buffer = mmap.mmap(-1, _SLOT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pending: list[int] = []  # an error met behind a datagram; it waits for the next call, as it does in the kernel

    def receive(_descriptor: int) -> list[bytes]:
        if pending:
            _fail(pending.pop())
        datagrams: list[bytes] = []
        while len(datagrams) < _SLOTS:
            try:
                length, _, flags, (port_id, groups) = sock.recvmsg_into([buffer], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if not datagrams:
                    _fail(error.errno or 0)
                pending.append(error.errno or 0)
                break
            datagrams.append(_with_facts(buffer[:length], port_id, groups, flags))
        return datagrams

    return receive


def _with_facts(data: bytes, port_id: int, groups: int, flags: int) -> bytes:
    truncated = bool(flags & 0x20)  # MSG_TRUNC
    if port_id or groups or truncated:
        return Datagram.make(data, sender=port_id, groups=groups, truncated=truncated)
    return data


def _fail(number: int) -> NoReturn:
    """Raise what this errno of the socket means."""
    if number == errno.ENOBUFS:
        raise OverrunError("the receive buffer was full, and the kernel threw datagrams away")
    if number == errno.EBADF:
        raise TransportClosed("the transport was closed")
    raise OSError(number, os.strerror(number))


def _open_socket() -> socket.socket:
    import socket

    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no AF_NETLINK sockets; nfnl.sim.FakeKernel needs none")
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)


def _open_raw(family: int) -> socket.socket:
    import socket

    try:
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)  # which implies IP_HDRINCL
    except PermissionError as refusal:
        raise NetlinkError.of(refusal.errno or 0, "open a raw socket", hint="It takes CAP_NET_RAW.") from None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock


def _size_receive_buffer(sock: socket.socket, size: int) -> None:
    import socket

    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _attach_filter(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    import ctypes
    import socket

    if not program:
        with suppress(FileNotFoundError):  # ENOENT: there was none
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def _setns(descriptor: int) -> None:
    """Move this thread to the network namespace of the descriptor. (`os.setns` came with Python 3.12.)"""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
