"""Verdicts for many packets at once."""

from __future__ import annotations

import pytest

from nfnl.subsys.queue import CopyMode
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import (
    ACCEPT,
    CAUGHT,
    DROP,
    REPEAT,
    STOLEN,
    STOP,
    TO_QUEUE,
    VERDICT_BATCH,
    Client,
    Listener,
    attribute,
    nfnetlink,
    udp4,
    verdict_batch,
)

PAYLOAD, CT, VLAN, L2HDR = 10, 11, 19, 20


@pytest.fixture
def listener(kernel: KernelUnderTest) -> Listener:
    """Listens to queue 1, where what is sent to port 9000 waits at mangle OUTPUT."""
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    return Listener(kernel)


def send(kernel: KernelUnderTest, listener: Listener, count: int) -> None:
    """Send packets that the listener has heard of; their data in order is 0, 1, 2 ..."""
    for number in range(count):
        kernel.send(udp4(b"%d" % number))
    assert listener.ids() == list(range(1, count + 1))


# ------------------------------------------------------------------------------------------------------------------ refused


@rule("QB-1", "C7-46")
def test_a_batch_for_a_queue_that_is_not_bound(listener: Listener) -> None:
    assert listener.answers(verdict_batch(99, 1, ACCEPT)) == ["ENODEV"]
    assert listener.answers(nfnetlink(3, VERDICT_BATCH, res_id=99)) == ["ENODEV"]


@rule("QB-1")
def test_a_batch_for_another_s_queue(kernel: KernelUnderTest, listener: Listener) -> None:
    send(kernel, listener, 2)
    other = Client(kernel)
    assert other.answers(verdict_batch(1, 2, ACCEPT)) == ["EPERM"]
    assert other.answers(verdict_batch(1, 2, STOLEN)) == ["EPERM"]
    assert listener.row.waiting == 2


@rule("QB-1")
@pytest.mark.parametrize("word", [STOLEN, 6, 255, 0x00020002])
def test_a_batch_of_what_is_no_verdict(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    send(kernel, listener, 2)
    assert listener.decide_until(2, word) == "EINVAL"
    assert listener.row.waiting == 2


@rule("QB-1")
def test_a_batch_without_a_header(listener: Listener) -> None:
    assert listener.answers(nfnetlink(3, VERDICT_BATCH, res_id=1)) == ["EINVAL"]


@rule("QB-2", "C7-53")
def test_a_batch_for_nothing(kernel: KernelUnderTest, listener: Listener) -> None:
    assert listener.decide_until(0xFFFFFFFF) == "ENOENT", "nothing ever waited"
    send(kernel, listener, 4)
    assert listener.decide_until(0) == "ENOENT", "before the first"
    assert listener.decide_until(2) == "ACK"
    assert listener.decide_until(2) == "ENOENT", "it is done"
    assert listener.decide_until(1) == "ENOENT"
    assert listener.row.waiting == 2
    assert listener.decide_until(4) == "ACK"
    assert listener.decide_until(1000) == "ENOENT", "nothing is left"


# ------------------------------------------------------------------------------------------------------------- which packets


@rule("QB-3", "C7-53")
def test_a_batch_takes_all_up_to_an_id(kernel: KernelUnderTest, listener: Listener) -> None:
    journeys = [kernel.send(udp4()) for _ in range(6)]
    assert listener.decide_until(3) == "ACK", "one answer for all"
    assert [journey.delivered for journey in journeys] == [True, True, True, False, False, False]
    assert [journey.queued for journey in journeys] == [False, False, False, True, True, True]
    assert listener.row.waiting == 3


@rule("QB-3")
@pytest.mark.parametrize("last_id", [3, 4, 1000, 0x7FFFFFFF])
def test_the_last_id_need_not_exist(kernel: KernelUnderTest, listener: Listener, last_id: int) -> None:
    send(kernel, listener, 3)
    assert listener.decide_until(last_id) == "ACK"
    assert listener.row.waiting == 0


@rule("QB-3")
def test_a_batch_passes_over_what_is_decided_already(kernel: KernelUnderTest, listener: Listener) -> None:
    journeys = [kernel.send(udp4()) for _ in range(4)]
    assert [listener.decide(packet_id, DROP) for packet_id in (2, 3)] == ["ACK", "ACK"]
    assert listener.decide_until(3) == "ACK"
    assert [journey.delivered for journey in journeys] == [True, False, False, False]
    assert listener.row.waiting == 1


@rule("QB-3")
def test_packets_of_a_batch_leave_in_their_order(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 2")
    later = Listener(kernel, 2)
    send(kernel, listener, 5)
    assert listener.decide_until(5) == "ACK"
    assert [(packet.payload or b"")[28:] for packet in later.packets()] == [b"0", b"1", b"2", b"3", b"4"]


@rule("QB-4", "C7-53")
@pytest.mark.parametrize(
    ("last_id", "taken"),
    [(1, 1), (0x80000000, 3), (0x80000001, 3), (0x80000002, 0), (0x80000003, 0), (0xFFFFFFFF, 0)],
)
def test_ids_are_compared_around_a_circle(kernel: KernelUnderTest, listener: Listener, last_id: int, taken: int) -> None:
    send(kernel, listener, 3)
    assert listener.decide_until(last_id) == ("ACK" if taken else "ENOENT")
    assert listener.row.waiting == 3 - taken


# ------------------------------------------------------------------------------------------------------------- what is said


@rule("QB-5")
@needs("priority-told")
def test_mark_and_priority_of_a_batch_are_for_all(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 2")
    later = Listener(kernel, 2, mode=CopyMode.META)
    send(kernel, listener, 3)
    assert listener.decide_until(2, mark=0xABC, priority=7) == "ACK"
    assert [(packet.mark, packet.priority) for packet in later.packets()] == [(0xABC, 7), (0xABC, 7)]
    assert listener.decide(3) == "ACK"
    assert [(packet.mark, packet.priority) for packet in later.packets()] == [(None, None)]


@rule("QB-5")
@pytest.mark.parametrize(
    ("number", "data"),
    [(PAYLOAD, udp4(b"X")), (PAYLOAD, b""), (CT, b"rubbish"), (VLAN, b"rubbish"), (L2HDR, b"abc")],
    ids=["payload", "empty payload", "ct", "vlan", "l2hdr"],
)
def test_a_batch_can_say_nothing_else(kernel: KernelUnderTest, listener: Listener, number: int, data: bytes) -> None:
    journey = kernel.send(udp4())
    header = attribute(2, bytes((0, 0, 0, ACCEPT, 0, 0, 0, 1)))
    assert listener.request(nfnetlink(3, VERDICT_BATCH, header + attribute(number, data), res_id=1)) == "ACK"
    assert (journey.delivered, journey.data) == (True, udp4())


@rule("QB-6")
@pytest.mark.parametrize(
    ("word", "delivered"), [(DROP, False), (ACCEPT, False), (STOP, True), (0x00010001, True), (0x00010004, False)]
)
def test_a_batch_of_each_verdict(kernel: KernelUnderTest, listener: Listener, word: int, delivered: bool) -> None:
    kernel.iptables("-A OUTPUT -p udp --dport 9000 -j DROP")
    journeys = [kernel.send(udp4()) for _ in range(3)]
    assert listener.decide_until(3, word) == "ACK"
    assert [journey.delivered for journey in journeys] == [delivered] * 3
    assert [journey.dropped for journey in journeys] == [not delivered] * 3


@rule("QB-6")
def test_a_batch_can_send_to_another_queue(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2)
    send(kernel, listener, 3)
    assert listener.decide_until(2, 2 << 16 | TO_QUEUE) == "ACK"
    packets = other.packets()
    assert [packet.header.packet_id for packet in packets] == [1, 2]
    assert [(packet.payload or b"")[28:] for packet in packets] == [b"0", b"1"]
    assert (listener.row.waiting, other.row.waiting) == (1, 2)


@rule("QB-6")
@pytest.mark.parametrize("word", [REPEAT, 1 << 16 | TO_QUEUE], ids=["REPEAT", "QUEUE"])
@pytest.mark.parametrize("last_id", [3, 1000])
def test_what_a_batch_queues_again_is_not_taken_again(kernel: KernelUnderTest, listener: Listener, word: int, last_id: int) -> None:
    send(kernel, listener, 3)
    assert listener.decide_until(last_id, word) == "ACK"
    packets = listener.packets()
    assert [packet.header.packet_id for packet in packets] == [4, 5, 6]
    assert [(packet.payload or b"")[28:] for packet in packets] == [b"0", b"1", b"2"]
    assert listener.row.waiting == 3
