"""The real kernel's end of the seam. Each test has a network namespace of its own."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nfnl.errors import OverrunError, TransportClosed
from nfnl.transport import linux
from nfnl.transport.base import Kernel, SocketOptions, Transport, Wait
from nfnl.transport.linux import LinuxKernel, LinuxTransport
from nfnl.wire.constants import SocketOption
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer
from tests import probes

SO_MEMINFO = 55


def in_thread(function: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def new_namespace() -> int:
    """A descriptor of a fresh network namespace. Raises OSError."""
    found: list[int] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    in_thread(make)
    return found[0]


@pytest.fixture
def netns() -> Iterator[int]:
    probes.require("network-namespaces")
    descriptor = new_namespace()
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["recvmmsg", "recvmsg"])
def kernel(netns: int, request: pytest.FixtureRequest) -> LinuxKernel:
    return LinuxKernel(netns, _recvmmsg=request.param)


@pytest.fixture
def transport(kernel: LinuxKernel) -> Iterator[LinuxTransport]:
    transport = kernel.open()
    yield transport
    transport.close()


@contextmanager
def refused(number: int) -> Iterator[None]:
    """The body raises OSError with this errno."""
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        yield
    assert caught.value.errno == number


def in_initial_user_namespace() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def own_namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def request_for_ack(sequence: int) -> bytes:
    """NLMSG_NOOP with NLM_F_REQUEST | NLM_F_ACK: answered with 36 bytes."""
    return struct.pack("=IHHII", 16, 1, 5, sequence, 0)


def sequence_of(ack: bytes) -> int:
    return int.from_bytes(ack[8:12], sys.byteorder)


def error_of(answer: bytes) -> int:
    return -int.from_bytes(answer[16:20], sys.byteorder, signed=True)


def drops(transport: LinuxTransport) -> int:
    information = transport._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return int(struct.unpack("=9I", information)[8])


def everything(transport: LinuxTransport) -> list[bytes]:
    return [datagram for batch in iter(transport.receive, []) for datagram in batch]


# -- where there is no netlink


def test_needs_no_linux_before_a_socket_is_opened() -> None:
    program = """
import errno, socket
del socket.AF_NETLINK
from nfnl.transport.linux import LinuxKernel
kernel = LinuxKernel(netns="blue")
try:
    LinuxKernel().open()
except OSError as error:
    assert error.errno == errno.EAFNOSUPPORT, error
    assert "AF_NETLINK" in str(error), error
else:
    raise SystemExit("it opened")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_keeps_the_protocols() -> None:
    kernel: Kernel = LinuxKernel()
    assert isinstance(kernel, Kernel)
    transport_type: type[Transport] = LinuxTransport
    assert transport_type is LinuxTransport


# -- namespaces


def test_opens_in_the_namespace_of_a_descriptor_and_leaves_the_thread_where_it_was(netns: int) -> None:
    before = own_namespace()
    first = LinuxKernel(netns).open(SocketOptions(port_id=4242))
    with refused(errno.EADDRINUSE):
        LinuxKernel(netns).open(SocketOptions(port_id=4242))
    other = new_namespace()
    second = LinuxKernel(other).open(SocketOptions(port_id=4242))  # free there
    assert own_namespace() == before
    first.close()
    second.close()
    os.close(other)


def test_opens_in_the_namespace_of_a_path(netns: int) -> None:
    with_path = LinuxKernel(f"/proc/{os.getpid()}/fd/{netns}")
    transport = with_path.open(SocketOptions(port_id=4242))
    assert " 4242 " in LinuxKernel(netns).read_proc("netlink")
    transport.close()


def test_opens_in_the_namespace_of_a_name(netns: int) -> None:
    probes.require("initial-user-namespace")
    probes.require("iproute2")
    name = f"nfnl-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "attach", name, str(os.getpid())], check=True)
    try:
        transport = LinuxKernel(name).open()
        assert f" {transport.port_id} " in LinuxKernel().read_proc("netlink")
        transport.close()
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.parametrize(
    ("where", "number"),
    [("/run/netns/no-such-namespace", errno.ENOENT), ("no-such-namespace", errno.ENOENT), ("/dev/null", errno.EINVAL)],
)
def test_a_namespace_that_cannot_be_entered(where: str, number: int) -> None:
    before = own_namespace()
    for use in (
        LinuxKernel(where).open,
        lambda: LinuxKernel(where).read_proc("netlink"),
        lambda: LinuxKernel(where).sysctl("net.a"),
    ):
        with refused(number):
            use()
    assert own_namespace() == before


def test_a_socket_that_cannot_be_opened_leaves_the_thread_where_it_was(netns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_namespace()

    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(socket, "socket", no_socket)
    with pytest.raises(OSError, match="too many"):
        LinuxKernel(netns).open()
    assert own_namespace() == before


def test_leaves_no_descriptor_behind(kernel: LinuxKernel) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what earlier tests left lying about holds descriptors too
    before = count()
    transport = kernel.open()
    assert count() == before + 2
    transport.close()
    del transport
    with refused(errno.EINVAL):
        kernel.open(SocketOptions(groups=(33,)))
    kernel.read_proc("netlink")
    assert count() == before


def test_reads_proc_of_the_namespace(netns: int) -> None:
    transport = LinuxKernel(netns).open(SocketOptions(port_id=0x87654321))
    assert f" {0x87654321} " in LinuxKernel(netns).read_proc("netlink")
    assert f" {0x87654321} " not in LinuxKernel().read_proc("netlink")
    with pytest.raises(FileNotFoundError):
        LinuxKernel(netns).read_proc("no/such/file")
    transport.close()


def test_reads_proc_of_the_calling_thread(netns: int) -> None:
    transport = LinuxKernel(netns).open(SocketOptions(port_id=4242))

    def look() -> None:
        linux._setns(netns)
        assert " 4242 " in LinuxKernel().read_proc("netlink")

    in_thread(look)
    transport.close()


def test_reads_and_writes_sysctls_of_the_namespace(netns: int) -> None:
    kernel, here = LinuxKernel(netns), LinuxKernel()
    before = here.sysctl("net.ipv4.ip_default_ttl")
    assert kernel.sysctl("net.ipv4.ip_default_ttl", 77) == "77"
    assert kernel.sysctl("net/ipv4/ip_default_ttl") == "77"
    assert here.sysctl("net.ipv4.ip_default_ttl") == before
    assert kernel.sysctl("net.ipv4.ip_local_port_range", "40000 50000") == "40000\t50000"
    with pytest.raises(FileNotFoundError):
        kernel.sysctl("net.no.such.thing", 1)
    with refused(errno.EINVAL):
        kernel.sysctl("net.ipv4.ip_default_ttl", 1000)


# -- sending and receiving


def test_an_ack_is_plain_bytes(transport: LinuxTransport) -> None:
    assert transport.receive() == []
    transport.send(request_for_ack(7))
    (ack,) = transport.receive()
    assert type(ack) is bytes
    assert len(ack) == 36
    assert sequence_of(ack) == 7
    assert error_of(ack) == 0
    assert transport.receive() == []


def test_many_datagrams_keep_their_order(transport: LinuxTransport) -> None:
    for sequence in range(200):
        transport.send(request_for_ack(sequence))
    first = transport.receive()
    assert len(first) == linux._SLOTS
    assert [sequence_of(ack) for ack in first + everything(transport)] == list(range(200))


def test_datagrams_of_every_size_arrive_whole(kernel: LinuxKernel) -> None:
    receiver, sender = kernel.open(SocketOptions(receive_buffer=8 << 20)), kernel.open()
    sizes = [1, 2, 15, 16, 17, 1500, 4096, 20_000, 65_535, 72_000, 150_000, 212_960]
    for size in sizes:
        sender._socket.sendto(os.urandom(8).ljust(size, b"\xa5")[:size], (receiver.port_id, 0))
    datagrams = everything(receiver)
    assert [len(datagram) for datagram in datagrams] == sizes
    assert all(datagram[8:] == b"\xa5" * (len(datagram) - 8) for datagram in datagrams if len(datagram) > 8)
    receiver.close()
    sender.close()


def test_facts_are_told_of_the_datagrams_that_have_some(kernel: LinuxKernel) -> None:
    receiver, stranger = kernel.open(SocketOptions(groups=(3, 32))), kernel.open()
    receiver.send(request_for_ack(1))
    stranger._socket.sendto(b"unicast", (receiver.port_id, 0))
    stranger._socket.sendto(b"multicast to group 3", (0, 1 << 2))
    stranger._socket.sendto(b"multicast to group 32", (0, 1 << 31))
    receiver.send(request_for_ack(2))
    datagrams = receiver.receive()
    facts = [(d.sender, d.groups, d.truncated) if isinstance(d, Datagram) else None for d in datagrams]
    other = stranger.port_id
    assert facts == [None, (other, 0, False), (other, 1 << 2, False), (other, 1 << 31, False), None]
    assert [sequence_of(datagrams[0]), *datagrams[1:4], sequence_of(datagrams[4])] == [
        1,
        b"unicast",
        b"multicast to group 3",
        b"multicast to group 32",
        2,
    ]
    assert type(datagrams[0]) is type(datagrams[4]) is bytes
    receiver.close()
    stranger.close()


def test_truncation_is_a_fact(kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_SLOT", 36)
    transport = kernel.open()
    transport.send(request_for_ack(1))  # 36 bytes: just fits
    transport.send(struct.pack("=IHHIIBBH", 20, 0x0302, 5, 2, 0, 0, 0, 0))  # ENODEV, with a copy of the request's 4 bytes
    transport.send(request_for_ack(3))
    datagrams = transport.receive()
    assert [sequence_of(d) for d in datagrams] == [1, 2, 3]
    assert [isinstance(d, Datagram) and d.truncated for d in datagrams] == [False, True, False]
    assert [len(d) for d in datagrams] == [36, 36, 36]
    transport.close()


def test_an_overrun_is_told_once_and_loses_nothing_that_was_kept(kernel: LinuxKernel) -> None:
    transport = kernel.open(SocketOptions(receive_buffer=2304))
    for sequence in range(50):
        transport.send(request_for_ack(sequence))
    assert drops(transport) > 0
    with pytest.raises(OverrunError):
        transport.receive()
    kept = everything(transport)
    assert [sequence_of(ack) for ack in kept] == list(range(len(kept)))
    assert len(kept) + drops(transport) == 50
    transport.send(request_for_ack(99))  # read empty, it takes datagrams again
    assert [sequence_of(ack) for ack in transport.receive()] == [99]
    transport.close()


def test_no_enobufs_keeps_silent_about_overruns(kernel: LinuxKernel) -> None:
    transport = kernel.open(SocketOptions(receive_buffer=2304, no_enobufs=True))
    for sequence in range(50):
        transport.send(request_for_ack(sequence))
    assert drops(transport) > 0
    assert len(everything(transport)) + drops(transport) == 50
    transport.close()


def test_an_error_behind_a_datagram_waits_for_the_next_call() -> None:
    full, empty = OSError(errno.ENOBUFS, "full"), BlockingIOError()
    answers: list[OSError | bytes] = [b"one", full, b"two", empty, full, b"three", empty]

    class Socket:
        def recvmsg_into(self, buffers: list[memoryview], *_: int) -> tuple[int, list[object], int, tuple[int, int]]:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            buffers[0][: len(answer)] = answer
            return len(answer), [], 0, (0, 0)

    receive = linux._one_by_one(Socket())  # type: ignore[arg-type]
    assert receive(0) == [b"one"]
    with pytest.raises(OverrunError):
        receive(0)
    assert receive(0) == [b"two"]
    with pytest.raises(OverrunError):
        receive(0)
    assert receive(0) == [b"three"]


@pytest.mark.parametrize("lacking", ["symbol", "system call"])
def test_without_recvmmsg_datagrams_come_one_by_one(netns: int, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    class Function:
        argtypes: object = None

        def __call__(self, *_: object) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

    class Library:
        def __init__(self, *_: object, **__: object) -> None:
            if lacking == "system call":
                self.recvmmsg = Function()

    linux._recvmmsg_api.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "PyDLL", Library)
        assert linux.many_at_once() is None
        transport = LinuxKernel(netns).open()
    linux._recvmmsg_api.cache_clear()
    transport.send(request_for_ack(5))
    assert [sequence_of(ack) for ack in transport.receive()] == [5]
    transport.close()


def test_the_capability_of_the_sender_suffices(kernel: LinuxKernel) -> None:
    """The opener needs none, because the destination is named (PM-3)."""
    probes.require("initial-user-namespace")
    os.seteuid(65534)
    try:
        sock = linux._open_socket()
    finally:
        os.seteuid(0)
    transport = LinuxTransport(sock)
    transport.send(request_for_ack(1))
    assert [error_of(answer) for answer in transport.receive()] == [0]
    os.seteuid(65534)
    try:
        transport.send(request_for_ack(2))
    finally:
        os.seteuid(0)
    assert [error_of(answer) for answer in transport.receive()] == [errno.EPERM]
    transport.close()


def test_what_cannot_be_sent(transport: LinuxTransport) -> None:
    with refused(errno.ENODATA):
        transport.send(b"")
    with refused(errno.EMSGSIZE):
        transport.send(bytes(1 << 24))


# -- waiting


def test_waits_for_a_datagram(transport: LinuxTransport) -> None:
    transport.send(request_for_ack(1))
    assert transport.wait(None) is Wait.READABLE
    assert transport.wait(transport.now()) is Wait.READABLE
    transport.receive()
    assert transport.wait(transport.now()) is Wait.DEADLINE


def test_an_overrun_ends_a_wait(kernel: LinuxKernel) -> None:
    transport = kernel.open(SocketOptions(receive_buffer=2304))
    for sequence in range(50):
        transport.send(request_for_ack(sequence))
    assert transport.wait(None) is Wait.READABLE
    transport.close()


@pytest.mark.parametrize("ahead", [-1e9, 0.0, 0.0004, 0.02])
def test_a_deadline_is_not_early(transport: LinuxTransport, ahead: float) -> None:
    deadline = transport.now() + ahead
    assert transport.wait(deadline) is Wait.DEADLINE
    assert transport.now() >= deadline


@pytest.mark.parametrize("deadline", [1e300, float("inf")])
def test_a_far_deadline_is_no_error(transport: LinuxTransport, deadline: float) -> None:
    transport.wake()
    assert transport.wait(deadline) is Wait.WOKEN


def test_a_wake_before_the_wait_is_not_lost_and_counts_once(transport: LinuxTransport) -> None:
    transport.wake()
    transport.wake()
    transport.send(request_for_ack(1))
    assert transport.wait(None) is Wait.WOKEN
    assert transport.wait(None) is Wait.READABLE


def main_thread_is_in_poll() -> bool:
    with open(f"/proc/self/task/{os.getpid()}/syscall") as file:
        return file.read().split()[0] in ("7", "73", "168", "336")  # poll and ppoll of x86-64, arm64, i386 and arm


def when_main_thread_polls(action: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        while not main_thread_is_in_poll():
            os.sched_yield()
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_wake_from_another_thread(transport: LinuxTransport) -> None:
    thread = when_main_thread_polls(transport.wake)
    assert transport.wait(None) is Wait.WOKEN
    thread.join()


def test_close_from_another_thread_ends_a_wait(transport: LinuxTransport) -> None:
    thread = when_main_thread_polls(transport.close)
    with pytest.raises(TransportClosed):
        transport.wait(None)
    thread.join()


def test_interrupt_ends_a_wait(transport: LinuxTransport) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = when_main_thread_polls(lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            transport.wait(None)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_signal_that_is_handled_does_not_end_a_wait(transport: LinuxTransport) -> None:
    handled: list[int] = []

    def handle(number: int, _frame: object) -> None:
        handled.append(number)
        transport.wake()

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        thread = when_main_thread_polls(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert transport.wait(None) is Wait.WOKEN
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert handled == [signal.SIGUSR1]


# -- socket facts


def test_port_ids_are_unsigned(kernel: LinuxKernel) -> None:
    chosen, drawn = kernel.open(SocketOptions(port_id=0xFFFFFFFF)), [kernel.open(), kernel.open()]
    assert chosen.port_id == 0xFFFFFFFF
    assert max(transport.port_id for transport in drawn) >= 0x80000000
    for transport in (chosen, *drawn):
        transport.close()


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("capped", [True, False])
def test_acknowledgements_are_as_asked(kernel: LinuxKernel, extended: bool, capped: bool) -> None:
    transport = kernel.open(SocketOptions(extended_ack=extended, cap_ack=capped))
    # NFQNL_MSG_CONFIG with NFQA_CFG_CMD one byte short: ERANGE
    transport.send(struct.pack("=IHHIIBBH", 28, 0x0302, 5, 1, 0, 0, 0, 0) + struct.pack("=HHI", 7, 1, 0))
    (answer,) = transport.receive()
    flags = int.from_bytes(answer[6:8], sys.byteorder)
    assert error_of(answer) == errno.ERANGE
    assert (b"failed policy" in answer, bool(flags & 0x200), bool(flags & 0x100)) == (extended, extended, capped)
    transport.close()


def test_an_old_kernel_without_extended_acks_will_do(netns: int) -> None:
    class Old(socket.socket):
        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            if level == 270 and option in (SocketOption.EXT_ACK, SocketOption.CAP_ACK, SocketOption.NO_ENOBUFS):
                raise OSError(errno.ENOPROTOOPT, "not available")
            super().setsockopt(level, option, value)

    transport = LinuxTransport(Old(socket.AF_NETLINK, socket.SOCK_RAW, 12), SocketOptions(cap_ack=True))
    assert transport.receive() == []
    transport.close()
    with Old(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock, pytest.raises(OSError, match="not available"):
        LinuxTransport(sock, SocketOptions(no_enobufs=True))


def test_listen_all_nsid(kernel: LinuxKernel) -> None:
    probes.require("listen-all-nsid-readable")
    transport = kernel.open(SocketOptions(listen_all_nsid=True))
    assert transport._socket.getsockopt(270, SocketOption.LISTEN_ALL_NSID) == 1
    transport.close()


def groups_of(transport: LinuxTransport) -> int:
    return int(transport._socket.getsockname()[1])


def test_groups_are_joined_and_left(kernel: LinuxKernel) -> None:
    transport = kernel.open(SocketOptions(groups=(1, 3)))
    assert groups_of(transport) == 0b101
    transport.apply(JoinGroup(2))
    transport.apply(LeaveGroup(1))
    assert groups_of(transport) == 0b110
    with refused(errno.EINVAL):
        transport.apply(JoinGroup(0))
    transport.close()


def test_the_receive_buffer_is_reported_as_the_kernel_does(transport: LinuxTransport) -> None:
    transport.apply(SetReceiveBuffer(1 << 20))
    assert transport.receive_buffer == 1 << 21
    transport.apply(SetReceiveBuffer(1))
    assert transport.receive_buffer == 2304


def test_the_receive_buffer_is_forced_beyond_the_limit_where_permitted(transport: LinuxTransport) -> None:
    beyond = int(LinuxKernel().sysctl("net.core.rmem_max")) + 4096
    transport.apply(SetReceiveBuffer(beyond))
    assert transport.receive_buffer == 2 * (beyond if in_initial_user_namespace() else beyond - 4096)


def test_without_permission_the_receive_buffer_is_what_may_be(transport: LinuxTransport) -> None:
    limit = int(LinuxKernel().sysctl("net.core.rmem_max"))
    if in_initial_user_namespace():
        os.seteuid(65534)
    try:
        transport.apply(SetReceiveBuffer(limit + 4096))
    finally:
        os.seteuid(os.getuid())
    assert transport.receive_buffer == 2 * limit


def test_options_are_switched(transport: LinuxTransport) -> None:
    for value in (True, False, True):
        transport.apply(SetOption(SocketOption.NO_ENOBUFS, value))
        assert transport._socket.getsockopt(270, SocketOption.NO_ENOBUFS) == value


def test_a_filter_is_attached_replaced_and_detached(transport: LinuxTransport) -> None:
    length_is_36 = (
        (0x80, 0, 0, 0),  # A = length of the datagram
        (0x15, 0, 1, 36),  # equal: go on, else skip one
        (0x06, 0, 0, 0xFFFFFFFF),  # take it whole
        (0x06, 0, 0, 0),  # drop it
    )
    short = request_for_ack(1)  # answered with 36 bytes
    long = struct.pack("=IHHIIBBH", 20, 0x0302, 5, 2, 0, 0, 0, 0)  # ENODEV: with 40
    transport.apply(AttachFilter(length_is_36))
    for request in (short, long, short):
        transport.send(request)
    assert [sequence_of(ack) for ack in everything(transport)] == [1, 1]
    transport.apply(AttachFilter(((0x06, 0, 0, 0),)))
    transport.send(short)
    assert everything(transport) == []
    transport.apply(AttachFilter(()))
    transport.apply(AttachFilter(()))
    transport.send(short)
    transport.send(long)
    assert [sequence_of(ack) for ack in everything(transport)] == [1, 2]
    with refused(errno.EINVAL):
        transport.apply(AttachFilter(((0xFFFF, 0, 0, 0),)))


def test_event_loops_use_the_descriptor(transport: LinuxTransport) -> None:
    with pytest.raises(NotImplementedError):
        transport.on_readable(lambda: None)
    assert os.readlink(f"/proc/self/fd/{transport.fileno()}").startswith("socket:")


# -- the end


def test_closed_for_everything_but_close(transport: LinuxTransport) -> None:
    transport.send(request_for_ack(1))
    transport.close()
    transport.close()
    uses: list[Callable[[], object]] = [
        lambda: transport.port_id,
        lambda: transport.send(request_for_ack(1)),
        transport.receive,
        lambda: transport.wait(0),
        lambda: transport.wait(None),
        transport.wake,
        transport.fileno,
        lambda: transport.apply(JoinGroup(1)),
        lambda: transport.receive_buffer,
    ]
    for use in uses:
        with pytest.raises(TransportClosed):
            use()


def test_closing_frees_the_port_and_its_queues(kernel: LinuxKernel) -> None:
    bind = struct.pack("=IHHIIBBH", 28, 0x0302, 5, 1, 0, 0, 0, 0) + struct.pack("=HHBBH", 8, 1, 1, 0, 0)
    for _ in range(3):
        transport = kernel.open(SocketOptions(port_id=4242))
        transport.send(bind)
        assert [error_of(answer) for answer in transport.receive()] == [0]
        transport.close()
