"""From a message to the subsystem that answers it."""

from __future__ import annotations

import pytest

from nfnl.wire.constants import NlmsgType, SocketOption, SubsystemId
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import (
    ACK,
    CONFIG,
    PACKET,
    REQUEST,
    VERDICT,
    VERDICT_BATCH,
    Client,
    attribute,
    be32,
    bind,
    message,
    nfgenmsg,
    nfnetlink,
    noop,
    numbers,
    queues,
)

QUEUE, ULOG = SubsystemId.QUEUE, SubsystemId.ULOG


@rule("NF-1", "C7-2")
@pytest.mark.parametrize("size", [0, 1, 3])
def test_without_a_whole_nfgenmsg_nothing_is_done_and_that_is_success(kernel: KernelUnderTest, size: int) -> None:
    client = Client(kernel)
    assert client.answers(message(QUEUE << 8 | CONFIG, bytes(size))) == ["ACK"]
    assert client.answers(message(QUEUE << 8 | CONFIG, bytes(size), flags=REQUEST)) == []


@rule("NF-2", "C7-5")
@pytest.mark.parametrize(("subsystem", "operation"), [(0, 18), (0, 255), (13, 0), (13, 255), (14, 0), (127, 0), (255, 255)])
def test_a_subsystem_that_does_not_exist(kernel: KernelUnderTest, subsystem: int, operation: int) -> None:
    assert Client(kernel).answers(nfnetlink(subsystem, operation)) == ["EINVAL"]


@rule("NF-3", "C7-5")
@pytest.mark.parametrize("operation", [4, 5, 255])
def test_an_operation_that_does_not_exist(kernel: KernelUnderTest, operation: int) -> None:
    assert Client(kernel).answers(nfnetlink(QUEUE, operation)) == ["EINVAL"]


@rule("NF-3")
@pytest.mark.parametrize("operation", [2, 255])
def test_an_operation_that_the_log_does_not_have(kernel: KernelUnderTest, operation: int) -> None:
    assert Client(kernel).answers(nfnetlink(ULOG, operation)) == ["EINVAL"]


@rule("NF-4")
def test_the_length_of_the_body_is_checked_first(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(message(255 << 8 | 255, bytes(3))) == ["ACK"]


@rule("NF-4")
def test_the_operation_is_looked_up_before_attributes_are_checked(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(nfnetlink(QUEUE, 4, attribute(3, bytes(3)))) == ["EINVAL"]


@rule("NF-4")
def test_attributes_are_checked_before_the_subsystem_is_asked(kernel: KernelUnderTest) -> None:
    too_short = nfnetlink(QUEUE, VERDICT, attribute(3, bytes(3)), res_id=4444)
    just_right = nfnetlink(QUEUE, VERDICT, attribute(3, bytes(4)), res_id=4444)
    assert Client(kernel).answers(too_short + just_right) == ["ERANGE", "ENODEV"]


@rule("NF-5", "C7-6")
@pytest.mark.parametrize(("family", "version"), [(0, 9), (77, 0), (255, 255)])
def test_nobody_looks_at_version_and_family(kernel: KernelUnderTest, family: int, version: int) -> None:
    command = attribute(1, b"\1\0\0\0")
    assert Client(kernel).answers(nfnetlink(QUEUE, CONFIG, command, res_id=7, family=family, version=version)) == ["ACK"]
    assert queues(kernel) == [7]


@rule("NF-7")
def test_a_batch_begins_at_the_beginning_or_not_at_all(kernel: KernelUnderTest) -> None:
    begin = message(NlmsgType.BATCH_BEGIN, nfgenmsg(QUEUE), seq=2)
    assert Client(kernel).answers(noop(seq=1) + begin + noop(seq=3)) == ["ACK", "EINVAL", "ACK"]


@rule("NF-7")
def test_a_batch_that_did_not_begin_cannot_end(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(message(NlmsgType.BATCH_END, nfgenmsg(QUEUE))) == ["EINVAL"]


# -------------------------------------------------------------------------------------------------------------------- batches


def begin(res_id: int, attributes: bytes = b"", flags: int = REQUEST) -> bytes:
    """NFNL_MSG_BATCH_BEGIN, number 1."""
    return message(NlmsgType.BATCH_BEGIN, nfgenmsg(res_id) + attributes, flags=flags, seq=1)


@rule("NF-20")
@pytest.mark.parametrize("size", [0, 3])
def test_a_datagram_with_no_room_for_the_nfgenmsg_of_a_batch(kernel: KernelUnderTest, size: int) -> None:
    assert Client(kernel).answers(message(NlmsgType.BATCH_BEGIN, bytes(size))) == []


@rule("NF-20")
def test_the_nfgenmsg_of_a_batch_is_read_even_from_the_next_message(kernel: KernelUnderTest) -> None:
    # only the length of the datagram is checked, not that of the message
    too_short = message(NlmsgType.BATCH_BEGIN)
    client = Client(kernel)
    assert client.answers(too_short + nfgenmsg(QUEUE)) == ["EOPNOTSUPP"]
    assert client.answers(too_short + nfgenmsg(200)) == ["EINVAL"]


@rule("NF-21")
def test_a_beginning_with_a_short_generation_is_refused(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    answers = client.ask(begin(SubsystemId.NFTABLES, attribute(1, bytes(3))) + noop(seq=2))
    assert numbers(answers) == [1]
    assert client.answers(begin(SubsystemId.NFTABLES, attribute(1, bytes(3)))) == ["ERANGE"]


@rule("NF-21")
def test_nothing_explains_the_refusal_of_a_batch(kernel: KernelUnderTest) -> None:
    client = Client(kernel).option(SocketOption.EXT_ACK)
    for attributes in (attribute(1, bytes(3)), b"\0\0\0"):
        assert client.ack(begin(QUEUE, attributes, flags=REQUEST | ACK)).extended is None


@rule("NF-21", "NF-23")
def test_a_batch_is_refused_whether_it_is_a_request_or_not(kernel: KernelUnderTest) -> None:
    assert Client(kernel).answers(begin(QUEUE, flags=0)) == ["EOPNOTSUPP"]


@rule("NF-22")
@pytest.mark.parametrize("res_id", [13, 255, 0x0B00, 0xFFFF])
def test_a_batch_for_a_subsystem_that_does_not_exist(kernel: KernelUnderTest, res_id: int) -> None:
    client = Client(kernel)
    assert client.answers(begin(res_id)) == ["EINVAL"]
    assert numbers(client.ask(begin(res_id) + noop(seq=2))) == [1]


@rule("NF-23")
def test_a_batch_for_a_subsystem_that_takes_none(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    assert client.answers(begin(QUEUE)) == ["EOPNOTSUPP"]
    assert numbers(client.ask(begin(QUEUE) + bind(7, seq=2) + noop(seq=3))) == [1]
    assert queues(kernel) == []


@rule("NF-23")
def test_the_refusal_of_a_batch_repeats_its_beginning(kernel: KernelUnderTest) -> None:
    request = begin(QUEUE)
    ack = Client(kernel).ack(request + bind(7))
    assert ack.request == request


# ------------------------------------------------------------------------------------------------- what the queue says to all


VERDICT_HEADER = attribute(2, be32(1) + be32(1))


@rule("C7-46")
@pytest.mark.parametrize(
    ("operation", "attributes"),
    [
        (CONFIG, b""),
        (CONFIG, attribute(3, be32(5))),
        (VERDICT, VERDICT_HEADER),
        (VERDICT_BATCH, VERDICT_HEADER),
    ],
    ids=["CONFIG", "CONFIG maxlen", "VERDICT", "VERDICT_BATCH"],
)
def test_a_queue_that_nobody_has_bound(kernel: KernelUnderTest, operation: int, attributes: bytes) -> None:
    assert Client(kernel).answers(nfnetlink(QUEUE, operation, attributes, res_id=9)) == ["ENODEV"]


@rule("C7-50")
def test_packets_come_from_the_kernel_only(kernel: KernelUnderTest) -> None:
    answer = Client(kernel).ack(nfnetlink(QUEUE, PACKET))
    assert answer.error == 524, "ENOTSUPP, which has no name outside the kernel"
