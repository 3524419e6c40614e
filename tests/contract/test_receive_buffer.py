"""The receive buffer: its size, what a datagram costs, and what happens when there is no room."""

from __future__ import annotations

import socket
import struct
from errno import EINVAL, ENOBUFS, EPERM

import pytest

from nfnl.transport.base import Wait
from nfnl.wire.constants import SocketOption, SubsystemId, align4
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, only, rule
from tests.contract.wirekit import (
    KERNEL,
    SO_RCVBUFFORCE,
    VERDICT,
    Client,
    attribute,
    bind,
    fill,
    nfnetlink,
    noop,
    nothing_to_receive,
    numbers,
    overrun,
    queue_config,
    queues,
    refused,
    small_buffer,
    small_head,
    truesize,
    word,
)

SOL_SOCKET, SO_RCVBUF, SO_ERROR = socket.SOL_SOCKET, socket.SO_RCVBUF, socket.SO_ERROR
DONTWAIT, PEEK = socket.MSG_DONTWAIT, socket.MSG_PEEK
LEAST = 2304


def asked(kernel: KernelUnderTest, size: int, option: int = SO_RCVBUF) -> int:
    """What the kernel makes of a wish for a receive buffer of this size."""
    sock = kernel.socket()
    sock.setsockopt(SOL_SOCKET, option, size)
    return int(sock.getsockopt(SOL_SOCKET, SO_RCVBUF))


def refusal(length: int) -> bytes:
    """A request that is refused with a copy of itself: for an unbound queue, with an unknown attribute of this length."""
    return queue_config(attribute(99, bytes(length)), queue=9)


# ----------------------------------------------------------------------------------------------------------------------- size


@rule("RB-1")
def test_the_default_size(kernel: KernelUnderTest) -> None:
    assert kernel.socket().getsockopt(SOL_SOCKET, SO_RCVBUF) == 212992


@rule("RB-1")
@pytest.mark.parametrize(("size", "stored"), [(0, LEAST), (1152, LEAST), (1153, 2306), (65536, 131072), (100001, 200002)])
def test_the_size_is_doubled_and_never_tiny(kernel: KernelUnderTest, size: int, stored: int) -> None:
    assert asked(kernel, size) == stored


@rule("RB-1")
def test_the_size_is_a_whole_number(kernel: KernelUnderTest) -> None:
    with refused(EINVAL):
        kernel.socket().setsockopt(SOL_SOCKET, SO_RCVBUF, b"\0\0\1")


@rule("RB-1")
def test_there_is_a_largest_size(kernel: KernelUnderTest) -> None:
    most = asked(kernel, 0x7FFFFFFF)
    assert asked(kernel, most // 2 + 1) == most
    assert asked(kernel, most // 2 - 1) == most - 2
    assert asked(kernel, -1) == most, "a negative size counts as a huge one"


@rule("RB-1")
def test_the_largest_size_is_a_sysctl(kernel: KernelUnderTest) -> None:
    kernel.require("rmem-max-visible")
    assert asked(kernel, 0x7FFFFFFF) == 2 * int(kernel.sysctl("net.core.rmem_max"))


@rule("RB-2")
def test_force_goes_beyond_the_largest_size(kernel: KernelUnderTest) -> None:
    kernel.require("initial-user-namespace")
    assert asked(kernel, 1 << 26, SO_RCVBUFFORCE) == 1 << 27
    assert asked(kernel, 0x7FFFFFFF, SO_RCVBUFFORCE) == 2147483646


@rule("RB-2")
@pytest.mark.parametrize(("size", "stored"), [(-1, LEAST), (0, LEAST), (1153, 2306)])
def test_force_has_the_same_least_size(kernel: KernelUnderTest, size: int, stored: int) -> None:
    kernel.require("initial-user-namespace")
    assert asked(kernel, size, SO_RCVBUFFORCE) == stored


@rule("RB-2")
def test_force_needs_a_capability(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with kernel.process(), refused(EPERM):
        sock.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF) == 212992


# --------------------------------------------------------------------------------------------------------------------- charge


@rule("RB-3")
def test_a_datagram_is_charged_until_it_is_read(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    assert client.charged == 0
    client.tell(noop())
    each = client.charged
    client.tell(noop())
    assert client.charged == 2 * each
    client.hear_one()
    assert client.charged == each
    client.hear_one()
    assert client.charged == 0


@rule("RB-3")
def test_peeking_frees_nothing(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.tell(noop())
    before = client.charged
    client.socket.recv(1000, PEEK | DONTWAIT)
    assert client.charged == before


@rule("RB-3")
def test_the_limit_is_shown_beside_the_charge(kernel: KernelUnderTest) -> None:
    assert small_buffer(kernel).meminfo()[1] == 8192


@rule("RB-3")
@pytest.mark.parametrize("length", [0, 100, 200, 340, 348, 380, 500, 704, 1000, 1700, 3500, 3800, 5000, 12000, 60000])
def test_what_a_refusal_is_charged_with(kernel: KernelUnderTest, length: int) -> None:
    client = Client(kernel)
    head = small_head(client)
    request = refusal(length)
    client.tell(request)
    charge = client.charged
    [answer] = client.hear()
    assert len(answer) == 20 + len(request)
    assert charge == truesize(align4(20 + len(request)), len(answer), small_head=head)


@rule("RB-3")
@pytest.mark.parametrize("length", [1, 300, 384, 385, 704, 705, 1000, 2000, 3700, 3776, 3777, 4000, 8000, 20000, 150000])
def test_what_a_datagram_between_users_is_charged_with(kernel: KernelUnderTest, length: int) -> None:
    sender, receiver = Client(kernel), Client(kernel)
    head = small_head(receiver)
    sender.socket.sendto(bytes(length), (receiver.port_id, 0))
    data = (length + 63) & ~63
    paged = data + 320 > 4096
    assert receiver.charged == (data + 320 + 256 if paged else truesize(length, length, small_head=head))


@rule("RB-3")
@pytest.mark.parametrize("length", [1, 256, 257, 320, 704, 705, 1728, 3776, 3777, 8000, 20000])
def test_what_a_multicast_between_users_is_charged_with(kernel: KernelUnderTest, length: int) -> None:
    sender, members = Client(kernel), [Client(kernel, groups=0b10) for _ in range(2)]
    head = small_head(members[0])
    sender.socket.sendto(bytes(length), (0, 0b10))
    assert [member.charged for member in members] == [truesize(length, length, small_head=head)] * 2


@rule("RB-3", "AK-24")
@pytest.mark.parametrize(("number", "policy_room"), [(2, 0), (3, 48), (19, 32)], ids=["structure", "number", "nest"])
def test_what_an_explained_refusal_is_charged_with(kernel: KernelUnderTest, number: int, policy_room: int) -> None:
    client = Client(kernel).option(SocketOption.EXT_ACK)
    head = small_head(client)
    for length in range(0, 400, 4):
        request = nfnetlink(SubsystemId.QUEUE, VERDICT, attribute(99, bytes(length)) + attribute(number, bytes(3)))
        client.tell(request)
        charge = client.charged
        [answer] = client.hear()
        assert word(answer) == "ERANGE"
        room = 40 + 8 + policy_room  # for the sentence, the offset, and the policy, however little of that is said
        assert charge == truesize(20 + len(request) + room, len(answer), small_head=head), length


# ------------------------------------------------------------------------------------------------------------------ admission


@rule("RB-4")
@needs("buffers-are-kept-to")
def test_a_datagram_gets_in_if_it_fits(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel)
    client.tell(noop())
    each = client.charged
    client.hear()
    assert fill(client) == 8192 // each
    assert client.charged == 8192 // each * each


@rule("RB-4")
def test_an_empty_buffer_takes_any_single_datagram(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel, 0)
    [answer] = client.ask(refusal(20000))
    assert len(answer) == 20044
    assert client.drops == 0


@rule("RB-4")
@needs("buffers-are-kept-to")
def test_a_buffer_that_is_not_empty_does_not(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel, 0)
    client.tell(noop())
    client.tell(refusal(20000))
    assert client.drops == 1


@rule("RB-5")
@needs("buffers-overshoot")
@only("linux", "the fake is a newer one, unless told")
def test_one_more_than_fits_gets_in(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel)
    client.tell(noop())
    each = client.charged
    client.hear()
    assert fill(client) == 8192 // each + 1


@rule("RB-6")
def test_what_does_not_fit_is_dropped_and_counted(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel)
    fitted = fill(client, spare=4)
    assert client.drops == 5
    with refused(ENOBUFS):
        client.hear()
    assert numbers(client.hear()) == list(range(fitted))


@rule("RB-6")
def test_the_answers_to_one_datagram_can_overrun_a_buffer(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel)
    client.tell(b"".join(noop(seq=seq) for seq in range(20)))
    with refused(ENOBUFS):
        client.hear()
    fitted = numbers(client.hear())
    assert fitted == list(range(len(fitted)))
    assert client.drops == 20 - len(fitted) > 0


@rule("RB-6")
def test_a_member_of_a_group_overruns_like_that_too(kernel: KernelUnderTest) -> None:
    member, sender = Client(kernel, groups=0b10), Client(kernel)
    member.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
    for seq in range(6):
        sender.socket.sendto(noop(seq=seq, flags=0), (0, 0b10))
    with refused(ENOBUFS):
        member.hear()
    kept = numbers(member.hear())
    assert kept == list(range(len(kept)))
    assert member.drops == 6 - len(kept) > 0


# --------------------------------------------------------------------------------------------------------------------- ENOBUFS


@rule("RB-7", "C7-57")
def test_the_error_comes_before_the_data_and_once(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel)
    fitted = fill(client)
    with refused(ENOBUFS):
        client.hear_one()
    assert numbers(client.hear()) == list(range(fitted))


@rule("RB-7")
def test_peeking_takes_the_error(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    with refused(ENOBUFS):
        client.socket.recv(1000, PEEK | DONTWAIT)
    assert len(client.socket.recv(1000, PEEK | DONTWAIT)) == 36


@rule("RB-7", "NL-19")
def test_asking_for_the_error_takes_it(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    assert [client.socket.getsockopt(SOL_SOCKET, SO_ERROR) for _ in range(2)] == [ENOBUFS, 0]
    assert client.hear_one() is not None


@rule("RB-7", "NL-58")
def test_an_error_makes_a_socket_readable(kernel: KernelUnderTest) -> None:
    transport = kernel.open()
    client = overrun(kernel)
    assert transport.wait(transport.now()) is Wait.DEADLINE, "somebody else's overrun"
    with refused(ENOBUFS):
        client.hear()


# ----------------------------------------------------------------------------------------------------------------- congestion


@rule("RB-8")
def test_after_an_overrun_nothing_gets_in_although_there_is_room(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    client.socket.getsockopt(SOL_SOCKET, SO_ERROR)
    while client.charged > 1000:
        client.hear_one()
    before = client.drops
    client.tell(noop(seq=777))
    assert client.drops == before + 1
    assert 777 not in numbers(client.hear())


@rule("RB-8")
def test_reading_the_last_datagram_ends_the_congestion(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    client.socket.getsockopt(SOL_SOCKET, SO_ERROR)
    while client.charged:
        client.hear_one()
    client.tell(noop(seq=777))
    assert numbers(client.hear()) == [777]


@rule("RB-8")
def test_a_second_overrun_of_one_congestion_is_no_second_error(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    with refused(ENOBUFS):
        client.hear_one()
    client.tell(noop())
    assert client.drops == 2
    client.hear()
    assert nothing_to_receive(client)


@rule("RB-8")
def test_an_overrun_of_a_new_congestion_is_a_new_error(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    with refused(ENOBUFS):
        client.hear()
    client.hear()
    for seq in range(20):
        client.tell(noop(seq=seq))
    with refused(ENOBUFS):
        client.hear()


# ----------------------------------------------------------------------------------------------------------------- NO_ENOBUFS


@rule("RB-9")
def test_without_errors_drops_are_only_counted(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel).option(SocketOption.NO_ENOBUFS)
    fitted = fill(client, spare=4)
    assert client.drops == 5
    assert client.socket.getsockopt(SOL_SOCKET, SO_ERROR) == 0
    assert numbers(client.hear()) == list(range(fitted))


@rule("RB-9")
def test_without_errors_there_is_no_congestion(kernel: KernelUnderTest) -> None:
    client = small_buffer(kernel).option(SocketOption.NO_ENOBUFS)
    fill(client)
    client.hear_one()
    client.tell(noop(seq=777))
    assert 777 in numbers(client.hear())


@rule("RB-9")
def test_switching_errors_off_leaves_the_one_that_waits(kernel: KernelUnderTest) -> None:
    client = overrun(kernel).option(SocketOption.NO_ENOBUFS)
    with refused(ENOBUFS):
        client.hear_one()


@rule("RB-9")
def test_switching_errors_off_ends_a_congestion(kernel: KernelUnderTest) -> None:
    client = overrun(kernel).option(SocketOption.NO_ENOBUFS)
    with refused(ENOBUFS):
        client.hear_one()
    client.hear_one()
    client.tell(noop(seq=777))
    assert 777 in numbers(client.hear())


@rule("RB-9")
def test_switching_errors_on_again_does_not_bring_the_congestion_back(kernel: KernelUnderTest) -> None:
    client = overrun(kernel).option(SocketOption.NO_ENOBUFS, 1).option(SocketOption.NO_ENOBUFS, 0)
    client.socket.getsockopt(SOL_SOCKET, SO_ERROR)
    client.hear_one()
    client.tell(noop(seq=777))
    assert 777 in numbers(client.hear())


@rule("RB-10")
def test_a_command_is_executed_although_its_acknowledgement_is_lost(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    client.socket.sendto(bind(7), KERNEL)
    with refused(ENOBUFS):
        client.hear()
    fillers = client.hear()
    assert all(struct.unpack_from("=H", answer, 24) == (1,) for answer in fillers), "they all answer NOOPs"
    assert queues(kernel) == [7]
