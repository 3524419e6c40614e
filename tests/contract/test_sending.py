"""Sending: to the kernel, to each other, to groups."""

from __future__ import annotations

import socket
from errno import EAGAIN, ECONNREFUSED, EMSGSIZE, ENODATA, EOPNOTSUPP

import pytest

from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import KERNEL, Client, message, nfnetlink, noop, nothing_to_receive, overrun, refused, word


@rule("NL-40")
def test_without_an_address_it_goes_to_the_kernel(kernel: KernelUnderTest) -> None:
    client = Client(kernel, bind=False)
    assert client.socket.send(noop()) == 16
    assert [word(answer) for answer in client.hear()] == ["ACK"]


@rule("NL-40")
def test_without_an_address_it_goes_where_the_socket_is_connected_to(kernel: KernelUnderTest) -> None:
    other, client = Client(kernel), Client(kernel)
    client.socket.connect((other.port_id, 0))
    assert client.socket.send(b"hello") == 5
    assert other.hear() == [b"hello"]


@rule("NL-40", "NL-46")
def test_a_socket_can_be_connected_to_a_group(kernel: KernelUnderTest) -> None:
    member, client = Client(kernel, groups=0b10), Client(kernel)
    client.socket.connect((0, 0b10))
    client.socket.send(noop())
    assert member.hear() == [noop()]
    assert [word(answer) for answer in client.hear()] == ["ACK"]


@rule("NL-40")
@pytest.mark.parametrize(
    "datagram",
    [b"x", b"\xff" * 100, message(1, length=0), nfnetlink(255, 255)],
    ids=["one byte", "garbage", "lying header", "refused request"],
)
def test_sending_succeeds_whatever_the_kernel_thinks_of_it(kernel: KernelUnderTest, datagram: bytes) -> None:
    assert kernel.socket().sendto(datagram, KERNEL) == len(datagram)


@rule("NL-41")
def test_nothing_cannot_be_sent(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with refused(ENODATA):
        sock.sendto(b"", KERNEL)
    assert sock.getsockname() == (0, 0)


@rule("NL-42")
def test_a_datagram_must_fit_the_send_buffer(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
    assert sock.sendto(b"\0" * room, KERNEL) == room
    with refused(EMSGSIZE):
        sock.sendto(b"\0" * (room + 1), KERNEL)


@rule("NL-42")
def test_what_is_too_long_binds_all_the_same(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with refused(EMSGSIZE):
        sock.sendto(bytes(1 << 20), KERNEL)
    assert sock.getsockname() == (kernel.process_id, 0)


@rule("NL-42")
@pytest.mark.parametrize(("size", "stored"), [(0, 4608), (2304, 4608), (2305, 4610), (50000, 100000)])
def test_the_send_buffer_is_doubled_and_never_tiny(kernel: KernelUnderTest, size: int, stored: int) -> None:
    sock = kernel.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == stored
    with refused(EMSGSIZE):
        sock.sendto(bytes(stored - 31), KERNEL)


@rule("NL-43")
def test_there_is_no_out_of_band(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with refused(EOPNOTSUPP):
        sock.sendto(noop(), socket.MSG_OOB, KERNEL)
    with refused(EOPNOTSUPP):
        sock.recv(100, socket.MSG_OOB)


@rule("NL-44")
def test_sending_to_a_port_that_nobody_has(kernel: KernelUnderTest) -> None:
    with refused(ECONNREFUSED):
        kernel.socket().sendto(noop(), (4711, 0))


@rule("NL-45", "NL-50")
@pytest.mark.parametrize("data", [b"x", noop(), message(1, length=5)], ids=["one byte", "message", "lying header"])
def test_what_users_send_each_other_is_not_looked_at(kernel: KernelUnderTest, data: bytes) -> None:
    sender, receiver = Client(kernel), Client(kernel)
    sender.socket.sendto(data, (receiver.port_id, 0))
    assert receiver.socket.recvfrom(1000, socket.MSG_DONTWAIT) == (data, (sender.port_id, 0))
    assert nothing_to_receive(sender)


@rule("NL-45")
def test_a_socket_can_write_to_itself(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.socket.sendto(b"x", (client.port_id, 0))
    assert client.hear() == [b"x"]


@rule("NL-45", "RB-8")
def test_a_congested_receiver_holds_senders_back_too(kernel: KernelUnderTest) -> None:
    sender, receiver = Client(kernel), overrun(kernel)
    receiver.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    receiver.hear_one()
    before = receiver.drops
    with refused(EAGAIN):
        sender.socket.sendto(b"x", socket.MSG_DONTWAIT, (receiver.port_id, 0))
    assert receiver.drops == before


@rule("NL-45")
def test_a_full_receiver_holds_back_a_sender_who_is_a_user(kernel: KernelUnderTest) -> None:
    sender, receiver = Client(kernel), Client(kernel)
    receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    sent = 0
    with refused(EAGAIN):
        while sent < 10_000:
            sender.socket.sendto(b"%d" % sent, socket.MSG_DONTWAIT, (receiver.port_id, 0))
            sent += 1
    assert receiver.drops == 0
    assert receiver.hear() == [b"%d" % number for number in range(sent)]


@rule("NL-45")
def test_a_receiver_that_read_lets_the_next_sender_in(kernel: KernelUnderTest) -> None:
    sender, receiver = Client(kernel), Client(kernel)
    receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    with refused(EAGAIN):
        for _ in range(10_000):
            sender.socket.sendto(b"x", socket.MSG_DONTWAIT, (receiver.port_id, 0))
    receiver.hear()
    assert sender.socket.sendto(b"y", socket.MSG_DONTWAIT, (receiver.port_id, 0)) == 1
    assert receiver.hear() == [b"y"]


@rule("NL-46")
def test_members_of_a_group_hear_it_but_not_the_sender(kernel: KernelUnderTest) -> None:
    members = [Client(kernel, groups=0b10) for _ in range(3)]
    bystander = Client(kernel, groups=0b100)
    members[0].socket.sendto(noop(flags=0), (0, 0b10))
    assert [client.hear() for client in (*members, bystander)] == [[], [noop(flags=0)], [noop(flags=0)], []]


@rule("NL-46")
def test_of_several_groups_the_lowest_counts(kernel: KernelUnderTest) -> None:
    second, third = Client(kernel, groups=0b10), Client(kernel, groups=0b100)
    Client(kernel).socket.sendto(b"x", (0, 0b110))
    assert [second.hear(), third.hear()] == [[b"x"], []]


@rule("NL-46")
def test_what_goes_to_a_group_goes_to_the_kernel_too(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.socket.sendto(noop(), (0, 0b10))
    assert [word(answer) for answer in client.hear()] == ["ACK"]


@rule("NL-46")
def test_what_goes_to_a_group_goes_to_the_port_too(kernel: KernelUnderTest) -> None:
    sender, member, addressee = Client(kernel), Client(kernel, groups=0b10), Client(kernel)
    sender.socket.sendto(b"x", (addressee.port_id, 0b10))
    assert [member.hear(), addressee.hear()] == [[b"x"], [b"x"]]


@rule("NL-47")
def test_an_error_that_waits_to_be_received_does_not_disturb_sending(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    assert client.socket.sendto(noop(), KERNEL) == 16
