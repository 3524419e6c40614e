"""How the kernel walks a datagram, and which of its messages it answers."""

from __future__ import annotations

import struct

import pytest

from nfnl.subsys.queue import CopyMode, Params
from nfnl.wire.constants import NlmsgFlag, NlmsgType, SubsystemId
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import (
    ACK,
    CONFIG,
    REQUEST,
    Client,
    bind,
    config,
    ip_packet,
    message,
    noop,
    numbers,
    padded,
    queue_config,
    queues,
    unbind,
)


@rule("AK-1")
@pytest.mark.parametrize("size", [1, 4, 15])
def test_a_datagram_without_a_header_is_ignored(kernel: KernelUnderTest, size: int) -> None:
    assert Client(kernel).answers(noop()[:size]) == []


@rule("AK-1", "C7-4")
@pytest.mark.parametrize("length", [0, 4, 15, 17, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_first_message_of_impossible_length_is_ignored(kernel: KernelUnderTest, length: int) -> None:
    assert Client(kernel).answers(message(NlmsgType.NOOP, length=length)) == []


@rule("AK-1")
def test_what_is_behind_an_impossible_first_message_is_ignored_too(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(message(NlmsgType.NOOP, length=15) + noop()) == []


@rule("AK-2")
@pytest.mark.parametrize("length", [0, 12, 15, 33, 0xFFFFFFFF])
def test_a_later_message_of_impossible_length_ends_the_walk(kernel: KernelUnderTest, length: int) -> None:
    datagram = noop(seq=1) + message(NlmsgType.NOOP, seq=2, length=length) + noop(seq=3)
    assert numbers(Client(kernel).ask(datagram)) == [1]


@rule("AK-2")
def test_what_came_before_stays_done(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(bind(7) + message(NlmsgType.NOOP, length=15)) == ["ACK"]
    assert queues(kernel) == [7]


@rule("AK-2", "C7-11")
@pytest.mark.parametrize("size", [1, 15, 16, 24])
def test_zeros_behind_the_last_message_are_ignored(kernel: KernelUnderTest, size: int) -> None:
    assert Client(kernel).answers(noop() + bytes(size)) == ["ACK"]


@rule("AK-3", "C7-10")
def test_each_message_is_answered_by_a_datagram_in_order(kernel: KernelUnderTest) -> None:
    answers = Client(kernel).ask(noop(seq=3) + noop(seq=1) + noop(seq=2))
    assert [len(answer) for answer in answers] == [36, 36, 36]
    assert numbers(answers) == [3, 1, 2]


@rule("AK-3")
def test_an_error_does_not_stop_the_following_messages(kernel: KernelUnderTest) -> None:
    nobody_bound = queue_config(queue=6)
    assert Client(kernel).answers(bind(5) + nobody_bound + unbind(5)) == ["ACK", "ENODEV", "ACK"]
    assert queues(kernel) == []


@rule("AK-4")
def test_a_length_that_is_no_multiple_of_4_is_padded(kernel: KernelUnderTest) -> None:
    datagram = padded(message(NlmsgType.NOOP, b"abc", seq=1)) + noop(seq=2)
    assert numbers(Client(kernel).ask(datagram)) == [1, 2]


@rule("AK-4")
def test_the_last_message_needs_no_padding(kernel: KernelUnderTest) -> None:
    datagram = noop(seq=1) + message(NlmsgType.NOOP, b"abc", seq=2)
    assert numbers(Client(kernel).ask(datagram)) == [1, 2]


@rule("AK-5", "C7-1")
def test_what_is_not_called_a_request_is_acknowledged_but_not_done(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(bind(7, flags=ACK)) == ["ACK"]
    assert queues(kernel) == []


@rule("AK-5")
def test_what_is_not_called_a_request_is_not_even_checked(kernel: KernelUnderTest) -> None:
    unknown = message(255 << 8, flags=ACK)
    assert Client(kernel).answers(unknown) == ["ACK"]
    assert Client(kernel).answers(bind(7, flags=0)) == []


@rule("AK-6", "C7-3")
@pytest.mark.parametrize("type_", range(16))
def test_control_messages_do_nothing(kernel: KernelUnderTest, type_: int) -> None:
    client = Client(kernel)
    assert client.answers(message(type_)) == ["ACK"]
    assert client.answers(message(type_, flags=REQUEST)) == []


@rule("AK-7")
def test_success_is_told_to_those_who_ask(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    assert client.answers(bind(7, flags=REQUEST)) == []
    assert queues(kernel) == [7]
    assert client.answers(unbind(7, flags=REQUEST | ACK)) == ["ACK"]


@rule("AK-7")
def test_an_error_is_told_to_everybody(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(queue_config(queue=9, flags=REQUEST)) == ["ENODEV"]


@rule("AK-8")
def test_the_answer_has_the_number_of_the_request(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    assert client.ack(noop(seq=0xDEADBEEF)).nlmsg_seq == 0xDEADBEEF
    assert client.ack(queue_config(queue=9, seq=0)).nlmsg_seq == 0


@rule("AK-8")
def test_the_answer_has_the_port_of_the_socket(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    assert client.ack(queue_config(queue=9, pid=0x1234)).nlmsg_pid == client.port_id


@rule("AK-8")
def test_the_port_in_a_request_is_only_repeated(kernel: KernelUnderTest) -> None:
    assert struct.unpack_from("=I", Client(kernel).ack(queue_config(queue=9, pid=0x1234)).request, 12) == (0x1234,)


@rule("AK-10")
@pytest.mark.parametrize("flag", [NlmsgFlag.ECHO, NlmsgFlag.DUMP, NlmsgFlag.MULTI, 0xFFF0], ids=hex)
def test_other_flags_mean_nothing_to_a_queue(kernel: KernelUnderTest, flag: int) -> None:
    client = Client(kernel)
    assert client.answers(bind(7, flags=REQUEST | ACK | flag)) == ["ACK"]
    assert client.answers(message(SubsystemId.QUEUE << 8 | CONFIG, bytes([0, 0, 0, 9]), flags=REQUEST | flag)) == ["ENODEV"]


@rule("AK-9")
def test_what_the_kernel_says_of_its_own_accord_has_no_number(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.ack(bind(7))
    client.ack(config(7, params=Params(0, CopyMode.META)))
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 7")
    kernel.send(ip_packet())
    [datagram] = client.hear()
    assert struct.unpack_from("=HII", datagram, 6) == (0, 0, 0)  # nlmsg_flags, nlmsg_seq, nlmsg_pid
