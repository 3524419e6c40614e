"""Sockets in process: what the contract suite cannot see from outside, and what only the fake has."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from threading import Event, Thread

import pytest

from nfnl.sim.af_netlink import (
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_TRUNC,
    SO_ATTACH_FILTER,
    SO_DETACH_FILTER,
    SO_ERROR,
    SO_MEMINFO,
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_SNDBUF,
    SOCK_RAW,
    SOL_SOCKET,
    Address,
    SocketTable,
)
from nfnl.sim.clock import Clock
from nfnl.sim.errnos import Errno
from nfnl.sim.gate import Gate, Idle
from nfnl.sim.profile import PROFILES, Profile
from nfnl.sim.socket import FakeSocket
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from tests.unit.sim.control_rig import NOBODY, ROOT


class Sockets:
    """Sockets, and a kernel that notes what it is told."""

    def __init__(self, profile: Profile = Profile(), gate: Gate | None = None) -> None:
        self.clock = Clock()
        self.table = SocketTable(gate or Gate("raise"), self.clock, profile, ROOT, {})
        self.heard: list[tuple[bytes, bool]] = []
        self.table.input = lambda sock, data, addressed: self.heard.append((data, addressed))

    def socket(self, port: int | None = None, groups: int = 0) -> FakeSocket:
        sock = FakeSocket(self.table.create(SOCK_RAW))
        if port is not None:
            sock.bind((port, groups))
        return sock


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


def refusal(call: Callable[[], object]) -> Errno:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        call()
    return next(number for number in Errno if getattr(errno, number.name, int(number)) == caught.value.errno)


# -------------------------------------------------------------------------------------------------------------------- addresses


def test_ports_are_the_process_then_drawn_the_same_every_time() -> None:
    def ports() -> list[int]:
        sockets = Sockets()
        return [sockets.socket(0).getsockname()[0] for _ in range(5)]

    first = ports()
    assert first[0] == ROOT.pid
    assert all(0x80000000 <= port <= 0xFFFFEFFF for port in first[1:])
    assert len(set(first)) == 5
    assert ports() == first


def test_a_drawn_port_that_is_taken_is_counted_down_from(sockets: Sockets) -> None:
    sockets.socket(0)
    drawn = Sockets()
    drawn.socket(0)
    second = drawn.socket(0).getsockname()[0]
    sockets.socket(second)
    assert sockets.socket(0).getsockname()[0] == second - 1


def test_every_process_has_its_own_first_port(sockets: Sockets) -> None:
    assert sockets.socket(0).getsockname() == (ROOT.pid, 0)
    sockets.table.current = NOBODY
    assert sockets.socket(0).getsockname() == (NOBODY.pid, 0)


def test_a_port_is_free_when_its_last_descriptor_is_closed(sockets: Sockets) -> None:
    released: list[int] = []
    sockets.table.released.append(released.append)
    first = sockets.socket(7)
    second = first.dup()
    first.close()
    first.close()
    assert refusal(lambda: sockets.socket(7)) is Errno.EADDRINUSE
    second.close()
    assert released == [7]
    sockets.socket(7)


def test_a_closed_descriptor_is_bad(sockets: Sockets) -> None:
    sock = sockets.socket(7)
    sock.close()
    calls: list[Callable[[], object]] = [
        lambda: sock.recv(1),
        lambda: sock.send(b"x"),
        sock.getsockname,
        sock.poll,
        sock.dup,
        lambda: sock.getsockopt(SOL_SOCKET, SO_ERROR),
    ]
    assert {refusal(call) for call in calls} == {Errno.EBADF}
    assert repr(sock) == "<FakeSocket closed>"


# ---------------------------------------------------------------------------------------------------------------------- sending


def test_the_kernel_is_told_whether_it_was_addressed(sockets: Sockets) -> None:
    sock = sockets.socket()
    assert sock.send(b"one") == 3
    assert sock.sendto(b"two", (0, 0)) == 3
    assert sock.sendto(b"three", MSG_DONTWAIT, (0, 0)) == 5
    assert sock.sendmsg([b"fo", b"ur"], (), 0, (0, 0)) == 4
    assert sock.sendmsg([b"five"]) == 4
    assert sockets.heard == [(b"one", False), (b"two", True), (b"three", True), (b"four", True), (b"five", False)]


def test_a_full_receiver_does_not_make_group_members_hear_twice(sockets: Sockets) -> None:
    sender, full, member = sockets.socket(1), sockets.socket(2), sockets.socket(3, 1)
    full.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    sender.setblocking(False)
    both: Address = (2, 1)
    for _ in range(2):
        assert sender.sendto(b"x", both) == 1
    assert refusal(lambda: sender.sendto(b"x", both)) is Errno.EAGAIN
    assert len(member.sock.queue) == 3, "one for each call, delivered before the unicast failed"


def test_control_messages_cannot_be_sent(sockets: Sockets) -> None:
    assert refusal(lambda: sockets.socket().sendmsg([b"x"], [(1, 2, b"")])) is Errno.EINVAL


# -------------------------------------------------------------------------------------------------------------------- receiving


def test_receiving_into_a_buffer(sockets: Sockets) -> None:
    sender, receiver = sockets.socket(1), sockets.socket(2)
    for _ in range(3):
        sender.sendto(b"abcdef", (2, 0))
    buffer = bytearray(4)
    assert receiver.recv_into(buffer) == 4
    assert buffer == b"abcd"
    assert receiver.recv_into(buffer, 2, MSG_TRUNC | MSG_PEEK) == 6
    assert receiver.recv_into(bytearray(0), 0, MSG_TRUNC) == 6
    assert receiver.recvfrom(100) == (b"abcdef", (1, 0))
    assert not receiver.readable


def test_a_filter_cuts_and_rejects(sockets: Sockets) -> None:
    sender, receiver = sockets.socket(1), sockets.socket(2)
    receiver.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, [(0x06, 0, 0, 4)])
    assert sender.sendto(b"abcdef", (2, 0)) == 6
    assert receiver.recv(100) == b"abcd"
    # the program's bytes do as well
    receiver.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("=HBBI", 0x06, 0, 0, 0))
    assert sender.sendto(b"abcdef", (2, 0)) == 6
    assert not receiver.readable
    receiver.setsockopt(SOL_SOCKET, SO_DETACH_FILTER, 0)
    assert refusal(lambda: receiver.setsockopt(SOL_SOCKET, SO_DETACH_FILTER, 0)) is Errno.ENOENT
    assert refusal(lambda: receiver.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, bytes(7))) is Errno.EINVAL


# ---------------------------------------------------------------------------------------------------------- memory and overrun


@pytest.mark.parametrize(
    ("kernel", "charge"), [("5.10.223", 768), ("6.1.192", 768), ("6.12.117", 896), ("6.18.15", 896), ("6.18.44", 832)]
)
def test_what_an_acknowledgement_is_charged(kernel: str, charge: int) -> None:
    assert PROFILES[kernel].truesize(36, 36) == charge


@pytest.mark.parametrize(("size", "charge"), [(44, 832), (344, 1280), (744, 2304), (3844, 8448)])
def test_what_refusals_are_charged(size: int, charge: int) -> None:
    assert Profile().truesize(size, size) == charge


@pytest.mark.parametrize(
    ("size", "charge"), [(256, 832), (257, 1280), (704, 1280), (705, 2304), (3776, 4352), (3777, 4416), (150000, 150592)]
)
def test_what_users_are_charged(size: int, charge: int) -> None:
    assert Profile().user_truesize(size, multicast=False) == charge


def test_a_big_multicast_is_charged_otherwise() -> None:
    assert [Profile().user_truesize(size, multicast=True) for size in (3776, 3777)] == [4352, 8448]


def test_a_message_that_is_mostly_slack_is_shrunk() -> None:
    assert Profile().truesize(3776, 36) == 832
    assert Profile().truesize(1000, 900) == 2304


def fill(sockets: Sockets, port: int) -> int:
    """How many acknowledgements of the kernel's a socket takes."""
    truesize = sockets.table.profile.truesize(36, 36)
    count = 0
    while sockets.table.unicast(port, bytes(36), truesize):
        count += 1
    return count


def meminfo(sock: FakeSocket) -> tuple[int, int]:
    """Bytes charged, and drops."""
    words = struct.unpack("=9I", sock.getsockopt(SOL_SOCKET, SO_MEMINFO, 36))
    return words[0], words[8]


def test_a_buffer_takes_what_fits(sockets: Sockets) -> None:
    sock = sockets.socket(1)
    assert fill(sockets, 1) == 256
    assert meminfo(sock) == (212992, 1)


def test_old_kernels_let_one_more_in() -> None:
    sockets = Sockets(PROFILES["5.10.223"])
    sock = sockets.socket(1)
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 2304)  # room for 6 of 768
    assert fill(sockets, 1) == 7
    assert meminfo(sock) == (7 * 768, 1)


def test_an_overrun_is_told_once_and_lasts_until_the_socket_is_empty(sockets: Sockets) -> None:
    sock = sockets.socket(1)
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    assert fill(sockets, 1) == 2
    assert refusal(lambda: sock.recv(100)) is Errno.ENOBUFS
    sock.recv(100)
    assert fill(sockets, 1) == 0, "there is room, but not until the socket is empty"
    sock.recv(100)
    assert fill(sockets, 1) == 2
    assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == Errno.ENOBUFS
    assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0
    assert meminfo(sock)[1] == 3


def test_no_enobufs_loses_without_a_word(sockets: Sockets) -> None:
    sock = sockets.socket(1)
    sock.setsockopt(SOL_NETLINK, SocketOption.NO_ENOBUFS, 1)
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    fill(sockets, 1)
    sock.recv(100)
    assert fill(sockets, 1) == 1
    assert sock.sock.error is None


def test_many_at_once_leave_the_rest(sockets: Sockets) -> None:
    sock = sockets.socket(1)
    fill(sockets, 1)
    sock.sock.take_error()
    assert len(sock.sock.receive_many(65536, 64)) == 64
    assert sock.sock.charged == 192 * 832
    assert sock.sock.congested
    assert len(sock.sock.receive_many(65536, 1000)) == 192
    assert sock.sock.charged == 0
    assert not sock.sock.congested


def test_buffer_sizes_follow_the_sysctls(sockets: Sockets) -> None:
    sock = sockets.socket()
    sockets.table.sysctls["net.core.rmem_max"] = 5000
    sockets.table.sysctls["net.core.rmem_default"] = 7777
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 20)
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF) == 10000
    sock.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF) == 2 << 20
    assert sockets.socket().getsockopt(SOL_SOCKET, SO_RCVBUF) == 7777
    sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 0)
    assert sock.getsockopt(SOL_SOCKET, SO_SNDBUF) == 4608


def test_listen_all_nsid_cannot_be_read_back_from_old_kernels() -> None:
    old, new = Sockets(PROFILES["6.1.192"]).socket(), Sockets().socket()
    for sock in (old, new):
        sock.setsockopt(SOL_NETLINK, SocketOption.LISTEN_ALL_NSID, 1)
    assert new.getsockopt(SOL_NETLINK, SocketOption.LISTEN_ALL_NSID) == 1
    assert refusal(lambda: old.getsockopt(SOL_NETLINK, SocketOption.LISTEN_ALL_NSID)) is Errno.ENOPROTOOPT


# ---------------------------------------------------------------------------------------------------------------------- waiting


def test_what_nothing_can_end_raises_idle(sockets: Sockets) -> None:
    sock, full = sockets.socket(1), sockets.socket(2)
    with pytest.raises(Idle, match="port 1 waits for a datagram"):
        sock.recv(100)
    full.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    for _ in range(2):
        sock.sendto(b"x", (2, 0))
    with pytest.raises(Idle, match="port 1 waits for room"):
        sock.sendto(b"x", (2, 0))


def test_a_timeout_is_over_at_once_unless_something_is_due_before(sockets: Sockets) -> None:
    sock = sockets.socket(1)
    sock.settimeout(2.0)
    with pytest.raises(TimeoutError):
        sock.recv(100)
    assert sockets.clock.now == 0
    sockets.clock.call_at(1.0, lambda: None)
    with pytest.raises(Idle):
        sock.recv(100)
    sock.setblocking(False)
    assert refusal(lambda: sock.recv(100)) is Errno.EAGAIN
    assert sock.gettimeout() == 0.0
    assert not sock.getblocking()
    with pytest.raises(ValueError, match="out of range"):
        sock.settimeout(-1)


def test_with_when_idle_wait_another_thread_ends_it() -> None:
    sockets = Sockets(gate=Gate("wait"))
    sender, receiver = sockets.socket(1), sockets.socket(2)
    got: list[bytes] = []
    thread = Thread(target=lambda: got.append(receiver.recv(100)))
    thread.start()
    sender.sendto(b"hello", (2, 0))
    thread.join(10)
    assert got == [b"hello"]


def test_with_when_idle_wait_room_is_waited_for() -> None:
    sockets = Sockets(gate=Gate("wait"))
    sender, receiver = sockets.socket(1), sockets.socket(2)
    receiver.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    for _ in range(2):
        sender.sendto(b"x", (2, 0))
    started = Event()

    def send() -> None:
        started.set()
        sender.sendto(b"last", (2, 0))

    thread = Thread(target=send)
    thread.start()
    started.wait(10)
    assert [receiver.recv(100) for _ in range(3)] == [b"x", b"x", b"last"]
    thread.join(10)


# --------------------------------------------------------------------------------------------------------------------- watching


def test_watchers_are_called_when_the_machine_is_at_rest(sockets: Sockets) -> None:
    sender, receiver = sockets.socket(1), sockets.socket(2)
    seen: list[int] = []
    receiver.sock.watchers.append(lambda: seen.append(len(receiver.sock.queue)))
    with sockets.table.gate:
        for _ in range(3):
            sender.sendto(b"x", (2, 0))
        assert seen == []
    assert seen == [3], "once for all that came"


def test_a_watcher_may_call_the_machine(sockets: Sockets) -> None:
    first, second = sockets.socket(1), sockets.socket(2)
    log: list[bytes] = []

    def answer() -> None:
        log.append(first.recv(100))
        first.sendto(b"pong", (2, 0))

    first.sock.watchers.append(answer)
    second.sock.watchers.append(lambda: log.append(second.recv(100)))
    second.sendto(b"ping", (1, 0))
    assert log == [b"ping", b"pong"]


def test_a_watcher_is_not_called_for_what_was_taken_meanwhile(sockets: Sockets) -> None:
    sender, receiver = sockets.socket(1), sockets.socket(2)
    seen: list[int] = []
    receiver.sock.watchers.append(lambda: seen.append(1))
    with sockets.table.gate:
        sender.sendto(b"x", (2, 0))
        receiver.recv(100)
    assert seen == []


def test_an_overrun_is_something_to_watch(sockets: Sockets) -> None:
    receiver = sockets.socket(2)
    receiver.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    seen: list[Errno | None] = []
    receiver.sock.watchers.append(lambda: seen.append(receiver.sock.error))
    with sockets.table.gate:
        fill(sockets, 2)
    assert seen == [Errno.ENOBUFS]
