"""Receiving: one datagram at a time, cut or whole, and what comes beside it."""

from __future__ import annotations

import os
import select
import socket
import struct
from errno import EAGAIN

import pytest

from nfnl.transport.base import Wait
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from nfnl.wire.datagram import AttachFilter
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import only, rule
from tests.contract.wirekit import Client, noop, nothing_to_receive, overrun, refused

DONTWAIT, PEEK, TRUNC = socket.MSG_DONTWAIT, socket.MSG_PEEK, socket.MSG_TRUNC
SO_PASSCRED, SCM_CREDENTIALS = 16, 2

#: length of the answer to `noop`
ACKNOWLEDGED = 36


@pytest.fixture
def answered(kernel: KernelUnderTest) -> Client:
    """Somebody for whom one answer of 36 bytes is there."""
    client = Client(kernel)
    client.tell(noop())
    return client


@rule("NL-50")
def test_the_kernel_is_port_0(answered: Client) -> None:
    data, address = answered.socket.recvfrom(1000, DONTWAIT)
    assert (len(data), address) == (ACKNOWLEDGED, (0, 0))


@rule("NL-50")
def test_each_call_receives_one_datagram(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.tell(noop() * 3)
    assert [len(client.socket.recv(1000, DONTWAIT)) for _ in range(3)] == [ACKNOWLEDGED] * 3
    assert nothing_to_receive(client)


@rule("NL-50")
def test_a_multicast_shows_its_group(kernel: KernelUnderTest) -> None:
    sender, member = Client(kernel), Client(kernel, groups=0b110)
    sender.socket.sendto(b"x", (0, 0b100))
    assert member.socket.recvfrom(1000, DONTWAIT) == (b"x", (sender.port_id, 0b100))


@rule("NL-51")
def test_a_short_buffer_cuts_and_says_so(answered: Client) -> None:
    data, _, flags, _ = answered.socket.recvmsg(10, 0, DONTWAIT)
    assert (len(data), bool(flags & TRUNC)) == (10, True)
    assert nothing_to_receive(answered)


@rule("NL-51")
def test_a_buffer_that_fits_exactly_cuts_nothing(answered: Client) -> None:
    data, _, flags, _ = answered.socket.recvmsg(ACKNOWLEDGED, 0, DONTWAIT)
    assert (len(data), bool(flags & TRUNC)) == (ACKNOWLEDGED, False)


@rule("NL-52")
def test_who_asks_is_told_the_whole_length(answered: Client) -> None:
    assert answered.socket.recv_into(bytearray(10), 10, TRUNC | DONTWAIT) == ACKNOWLEDGED
    assert nothing_to_receive(answered)


@rule("NL-52")
def test_asking_for_the_whole_length_gives_no_more_bytes(answered: Client) -> None:
    data, _, flags, _ = answered.socket.recvmsg(10, 0, TRUNC | DONTWAIT)
    assert (len(data), bool(flags & TRUNC)) == (10, True)


@rule("NL-52")
def test_peeking_leaves_the_datagram(answered: Client) -> None:
    assert len(answered.socket.recv(1000, PEEK | DONTWAIT)) == ACKNOWLEDGED
    assert len(answered.socket.recv(1000, DONTWAIT)) == ACKNOWLEDGED
    assert nothing_to_receive(answered)


@rule("NL-52")
def test_peeking_into_a_short_buffer_says_so(answered: Client) -> None:
    data, _, flags, _ = answered.socket.recvmsg(10, 0, PEEK | DONTWAIT)
    assert (len(data), bool(flags & TRUNC)) == (10, True)


@rule("NL-52")
def test_the_length_can_be_asked_for_without_taking_the_datagram(answered: Client) -> None:
    assert answered.socket.recv_into(bytearray(1), 1, PEEK | TRUNC | DONTWAIT) == ACKNOWLEDGED
    assert len(answered.socket.recv(1000, DONTWAIT)) == ACKNOWLEDGED


@rule("NL-53")
def test_a_buffer_of_no_size_takes_the_datagram(answered: Client) -> None:
    data, _, flags, _ = answered.socket.recvmsg(0, 0, DONTWAIT)
    assert (data, bool(flags & TRUNC)) == (b"", True)
    assert nothing_to_receive(answered)


@rule("NL-54")
@pytest.mark.parametrize("flags", [0, PEEK, TRUNC], ids=["", "PEEK", "TRUNC"])
def test_who_may_not_wait_is_told_that_nothing_is_there(kernel: KernelUnderTest, flags: int) -> None:
    with refused(EAGAIN):
        Client(kernel).socket.recv(1000, DONTWAIT | flags)


@rule("NL-54")
def test_receiving_does_not_bind(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with refused(EAGAIN):
        sock.recv(1000, DONTWAIT)
    assert sock.getsockname() == (0, 0)


@rule("NL-55")
def test_the_group_comes_along_when_asked_for(kernel: KernelUnderTest) -> None:
    client = Client(kernel, groups=0b100).option(SocketOption.PKTINFO)
    Client(kernel).socket.sendto(b"x", (0, 0b100))
    client.tell(noop())
    groups = [client.socket.recvmsg(1000, 1000, DONTWAIT)[1] for _ in range(2)]
    assert groups == [[(SOL_NETLINK, SocketOption.PKTINFO, struct.pack("=I", group))] for group in (3, 0)]


@rule("NL-56")
def test_the_kernel_has_the_credentials_of_nobody(kernel: KernelUnderTest) -> None:
    kernel.require("initial-user-namespace")  # in another one these ids have no names
    client = Client(kernel)
    client.socket.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    client.tell(noop())
    assert credentials(client) == (0, 0, 0)


@rule("NL-56")
def test_a_user_has_his_own_credentials(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.socket.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    Client(kernel).socket.sendto(b"x", (client.port_id, 0))
    assert credentials(client) == (kernel.process_id, 0, 0)


def credentials(client: Client) -> tuple[int, ...]:
    """Process, user and group that came with the next datagram."""
    _, [(level, kind, data)], _, _ = client.socket.recvmsg(1000, 1000, DONTWAIT)
    assert (level, kind) == (socket.SOL_SOCKET, SCM_CREDENTIALS)
    return struct.unpack("=iII", data)


@rule("NL-57")
def test_what_a_filter_rejects_vanishes_without_a_word(kernel: KernelUnderTest) -> None:
    transport = kernel.open()
    transport.apply(AttachFilter(((0x06, 0, 0, 0),)))  # BPF_RET, 0 bytes
    transport.send(noop())
    assert transport.receive() == []
    transport.apply(AttachFilter(()))
    transport.send(noop())
    assert [len(datagram) for datagram in transport.receive()] == [ACKNOWLEDGED]


@rule("NL-57")
def test_a_filter_lets_through_what_it_accepts(kernel: KernelUnderTest) -> None:
    transport = kernel.open()
    # the answer's sequence number (bytes 8 to 11, as a big-endian word) decides: accept if it is that of number 2
    wanted = int.from_bytes(struct.pack("=I", 2), "big")
    program = ((0x20, 0, 0, 8), (0x15, 0, 1, wanted), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
    transport.apply(AttachFilter(program))
    transport.send(noop(seq=1) + noop(seq=2) + noop(seq=3))
    assert [struct.unpack_from("=I", datagram, 8)[0] for datagram in transport.receive()] == [2]


@rule("NL-57")
def test_a_filter_can_cut(kernel: KernelUnderTest) -> None:
    transport = kernel.open()
    transport.apply(AttachFilter(((0x06, 0, 0, 20),)))
    transport.send(noop())
    [datagram] = transport.receive()
    assert (len(datagram), type(datagram)) == (20, bytes), "short, but nothing says so"


@rule("NL-58")
def test_readable_means_a_datagram_is_there(kernel: KernelUnderTest) -> None:
    transport = kernel.open()
    assert transport.wait(transport.now()) is Wait.DEADLINE
    transport.send(noop())
    assert transport.wait(transport.now()) is Wait.READABLE
    transport.receive()
    assert transport.wait(transport.now()) is Wait.DEADLINE


@rule("NL-58")
@only("linux", "the fake's sockets have no descriptor")
def test_poll(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    poll = select.poll()
    poll.register(client.socket.fileno(), select.POLLIN | select.POLLOUT | select.POLLERR)
    assert poll.poll(0) == [(client.socket.fileno(), select.POLLOUT)]
    client.tell(noop())
    assert poll.poll(0) == [(client.socket.fileno(), select.POLLOUT | select.POLLIN)]
    late = overrun(kernel)
    poll.register(late.socket.fileno(), select.POLLIN | select.POLLERR)
    assert dict(poll.poll(0))[late.socket.fileno()] == select.POLLIN | select.POLLERR


@rule("NL-56")
@only("linux", "the fake has one process")
def test_the_credentials_are_those_of_who_sends(kernel: KernelUnderTest) -> None:
    client, sender = Client(kernel), Client(kernel)
    client.socket.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    child = os.fork()
    if child == 0:
        sender.socket.sendto(b"x", (client.port_id, 0))
        os._exit(0)
    os.waitpid(child, 0)
    assert credentials(client) == (child, 0, 0)
