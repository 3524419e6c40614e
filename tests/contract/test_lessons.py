"""What went wrong in other programs, and must not in ours: tests of the public API, on both kernels.

Each was paid for by somebody who lost packets, or an afternoon.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from errno import ENOENT
from typing import Any, cast

import pytest

import nfnl
from nfnl import LocalProtocolError, QueueSession, QueueWarning, SocketOptions
from nfnl.session.events import Acked, Event, Overrun, PacketQueued, PacketsLost, Refused, Undecodable
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import (
    ACCEPT,
    CAUGHT,
    Listener,
    attribute,
    padded,
    queue_config,
    queue_row,
    udp4,
    udp6,
    verdict,
)

pytestmark = pytest.mark.filterwarnings("error::nfnl.QueueWarning")
PAYLOAD = 10


@pytest.fixture(autouse=True)
def rules(kernel: KernelUnderTest) -> None:
    """What is sent to port 9000 waits at OUTPUT, in queue 1."""
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")


class Meddler:
    """A kernel whose datagrams come to the program changed: ``change`` is given what one `receive` found, and says what comes.

    ``options`` are what its sockets are opened with whatever the program says.
    """

    def __init__(self, kernel: KernelUnderTest, change: Callable[[list[bytes]], list[bytes]] = list, **options: Any) -> None:
        self.kernel = kernel.kernel
        self.change = change
        self.options = options

    def open(self, options: SocketOptions = SocketOptions()) -> Any:
        return _Meddled(self.kernel.open(replace(options, **self.options)), self.change)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)


class _Meddled:
    def __init__(self, transport: nfnl.Transport, change: Callable[[list[bytes]], list[bytes]]) -> None:
        self._transport = transport
        self._change = change

    def receive(self) -> list[bytes]:
        return self._change(self._transport.receive())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def open_queue(kernel: KernelUnderTest | Meddler, events: list[Event] | None = None, **options: Any) -> nfnl.Queue:
    """Queue 1; what is no packet is noted, or if nothing of the kind is to come, raised."""
    if events is not None:
        options["on_event"] = events.append
    real = kernel if isinstance(kernel, Meddler) else kernel.kernel
    return nfnl.open_queue(1, kernel=cast("nfnl.Kernel", real), **options)


# -------------------------------------------------------------------------------------------------------- packets and answers


@rule("LS-1")
def test_a_burst_of_packets_between_a_verdict_and_its_answer(kernel: KernelUnderTest) -> None:
    """One reader for packets and answers: whoever waits for the answer meets the next packets first, and must keep them."""
    session = QueueSession(1, acknowledge=True, join=False)
    transport = kernel.open()
    seen: list[Event] = []

    def exchange() -> None:
        for datagram in session.datagrams_to_send():
            transport.send(datagram)
        while datagrams := transport.receive():
            session.receive_datagrams(datagrams, transport.now())
            seen.extend(iter(session.next_event, None))

    session.bind()
    exchange()
    assert [type(event) for event in seen] == [Acked]
    journeys = [kernel.send(udp4(b"%d" % number)) for number in range(3)]
    exchange()
    packets = [event for event in seen if isinstance(event, PacketQueued)]
    assert [packet.id for packet in packets] == [1, 2, 3]
    for packet in packets:
        session.decide(packet.id, ACCEPT, transport.now())
        exchange()
    assert [journey.delivered for journey in journeys] == [True, True, True]
    assert len(seen) == 4, "nothing was refused or lost"


@rule("LS-1")
def test_a_burst_of_packets_between_a_request_and_its_answer(kernel: KernelUnderTest) -> None:
    with open_queue(kernel) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4(b"%d" % number)) for number in range(3)]
        seen = []
        for packet in queue:
            if packet.id == 1:
                journeys.append(kernel.send(udp4(b"3")))
                queue.configure(max_length=10)
            seen.append((packet.id, packet.payload[28:]))
            packet.accept()
    assert seen == [(1, b"0"), (2, b"1"), (3, b"2"), (4, b"3")]
    assert [journey.delivered for journey in journeys] == [True] * 4


@rule("LS-1")
@pytest.mark.parametrize("join", [True, False])
def test_a_burst_of_three(kernel: KernelUnderTest, join: bool) -> None:
    with open_queue(kernel, join=join) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4()) for _ in range(3)]
        for packet in queue:
            packet.accept()
    assert [journey.delivered for journey in journeys] == [True, True, True]


# -------------------------------------------------------------------------------------------------------------- large packets


@rule("LS-2")
def test_a_large_datagram_survives_being_rewritten_as_it_is(kernel: KernelUnderTest) -> None:
    data = bytes(range(250)) * 80
    with open_queue(kernel) as queue, kernel.until_idle():
        journey = kernel.send(udp4(data))
        for packet in queue:
            assert (packet.payload, packet.truncated) == (udp4(data), False)
            packet.accept(payload=packet.payload)
    assert (journey.delivered, journey.data) == (True, udp4(data))


@rule("LS-2")
def test_what_was_not_copied_whole_cannot_be_rewritten(kernel: KernelUnderTest) -> None:
    with open_queue(kernel, copy_range=4016) as queue, kernel.until_idle():
        journey = kernel.send(udp4(bytes(20_000)))
        for packet in queue:
            assert (len(packet.payload), packet.truncated, packet.full_length) == (4016, True, 20_028)
            with pytest.raises(LocalProtocolError, match="truncated"):
                packet.accept(payload=packet.payload)
            assert not packet.decided
            assert (journey.queued, queue_row(kernel).waiting) == (True, 1), "it still waits"
            packet.accept()
    assert (journey.delivered, len(journey.data)) == (True, 20_028)


@rule("LS-3")
@pytest.mark.parametrize("length", [8192, 65531, 65532, 65535])
def test_the_largest_packets_pass_whole(kernel: KernelUnderTest, length: int) -> None:
    sent = udp4(b"y" * (length - 28))
    with open_queue(kernel) as queue, kernel.until_idle():
        journey = kernel.send(sent)
        for packet in queue:
            assert (packet.payload, packet.full_length, packet.truncated) == (sent[:65531], length, length > 65531)
            packet.accept()
    assert (journey.delivered, journey.data) == (True, sent)


@rule("LS-3")
def test_a_large_packet_of_ipv6_passes_whole(kernel: KernelUnderTest) -> None:
    kernel.ip6tables(f"-A OUTPUT {CAUGHT} 1")
    sent = udp6(b"y" * 60_000)
    with open_queue(kernel) as queue, kernel.until_idle():
        journey = kernel.send(sent)
        for packet in queue:
            packet.accept(payload=packet.payload)
    assert (journey.delivered, journey.data) == (True, sent)


# --------------------------------------------------------------------------------------------------------------------- losses


@rule("LS-4")
def test_lost_packets_are_told_and_counted(kernel: KernelUnderTest) -> None:
    events: list[Event] = []
    with open_queue(kernel, events, receive_buffer=32768) as queue, kernel.until_idle():
        assert queue.receive_buffer == 65536
        kernel.send_many(udp4(), 1000)
        received = []
        for packet in queue:
            received.append(packet.id)
            packet.accept()
        assert events == [Overrun()]
        assert (queue.losses.overruns, queue.losses.uncertain) == (1, True), "how many shows with the next packet"
        assert queue.losses.user_dropped == 1000 - len(received)
        kernel.send(udp4())
        for packet in queue:
            received.append(packet.id)
            packet.accept()
        losses, row = queue.losses, queue_row(kernel)
    lost = 1001 - len(received)
    assert 0 < lost < 1000
    assert received == [*range(1, len(received)), 1001]
    assert events == [Overrun(), PacketsLost(len(received), 1000)]
    assert (losses.lost, losses.uncertain, losses.user_dropped) == (lost, False, lost)
    assert (row.user_dropped, row.waiting, row.dropped) == (lost, 0, 0)


@rule("LS-4")
def test_they_are_counted_without_enobufs_too(kernel: KernelUnderTest) -> None:
    events: list[Event] = []
    with open_queue(kernel, events, receive_buffer=2048, no_enobufs=True) as queue, kernel.until_idle():
        for _ in range(3):
            kernel.send_many(udp4(), 10)
            for packet in queue:
                packet.accept()
        kernel.send(udp4())
        for packet in queue:
            packet.accept()
        losses, row = queue.losses, queue_row(kernel)
    assert [type(event) for event in events] == [PacketsLost] * 3
    assert losses.lost == sum(event.count for event in events if isinstance(event, PacketsLost)) == row.user_dropped > 0
    assert (losses.overruns, losses.uncertain) == (0, False)


@rule("LS-4")
def test_what_a_full_queue_loses_only_the_kernel_knows(kernel: KernelUnderTest) -> None:
    events: list[Event] = []
    with open_queue(kernel, events, max_length=2) as queue, kernel.until_idle():
        kernel.send_many(udp4(), 10)
        for packet in queue:
            packet.accept()
        kernel.send(udp4())
        for packet in queue:
            packet.accept()
        losses = queue.losses
    assert events == []
    assert (losses.lost, losses.queue_dropped, losses.user_dropped) == (0, 8, 0)


# ------------------------------------------------------------------------------------------------------------- odd messages


@rule("LS-5")
def test_packets_of_odd_lengths(kernel: KernelUnderTest) -> None:
    with open_queue(kernel) as queue, kernel.until_idle():
        sent = [udp4(bytes(length)) for length in range(9)]
        journeys = [kernel.send(packet) for packet in sent]
        seen = []
        for packet in queue:
            seen.append(packet.payload)
            assert nfnl.encode(nfnl.decode(bytes(packet.message))) == bytes(packet.message)
            packet.accept()
    assert seen == sent
    assert [journey.delivered for journey in journeys] == [True] * 9


@rule("LS-5")
@pytest.mark.parametrize("length", range(4))
def test_a_datagram_of_several_messages_whose_last_is_unaligned(kernel: KernelUnderTest, length: int) -> None:
    def join(datagrams: list[bytes]) -> list[bytes]:
        return [b"".join([*map(padded, datagrams[:-1]), datagrams[-1]])] if datagrams else []

    with open_queue(Meddler(kernel, join)) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4(bytes(length))) for _ in range(3)]
        for packet in queue:
            packet.accept()
    assert [journey.delivered for journey in journeys] == [True, True, True]


def with_length(data: bytes, number: int, length: int) -> bytes:
    """A packet message in which the attribute of this number says that it has another length."""
    at = 20
    while at < len(data):
        whole, found = struct.unpack_from("=HH", data, at)
        if found == number:
            return data[:at] + struct.pack("=H", length) + data[at + 2 :]
        at += whole + -whole % 4
    return data


@rule("LS-6")
@pytest.mark.parametrize("length", range(4))
@pytest.mark.parametrize("number", [1, 3, PAYLOAD], ids=["header", "mark", "payload"])
@pytest.mark.parametrize("undecided", ["drop", "accept"])
def test_an_attribute_too_short_to_be_one(kernel: KernelUnderTest, number: int, length: int, undecided: str) -> None:
    """The kernel never sends that. If it came, one packet could not be understood, and the queue would go on."""

    def spoil(datagrams: list[bytes]) -> list[bytes]:
        return [with_length(data, number, length) if data.endswith(b"spoil") else data for data in datagrams]

    events: list[Event] = []
    seen = []
    with open_queue(Meddler(kernel, spoil), events, undecided=undecided) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4(data), mark=7) for data in (b"one", b"spoil", b"three")]
        for packet in queue:
            seen.append(packet.payload[28:])
            packet.accept()
        assert (queue.losses.undecodable, queue.losses.lost) == (1, 0)
    assert seen == [b"one", b"three"]
    [event] = events
    assert isinstance(event, Undecodable)
    assert [journey.delivered for journey in journeys] == [True, undecided == "accept", True]


@rule("LS-6", "AK-21")
@pytest.mark.parametrize("length", range(4))
def test_an_error_that_repeats_such_an_attribute(kernel: KernelUnderTest, length: int) -> None:
    transport = kernel.open()
    request = queue_config(attribute(99, b"before") + attribute(4, bytes(4), length=length), queue=9)
    transport.send(request)
    [answer] = transport.receive()
    [message] = nfnl.decode(answer)
    assert isinstance(message, nfnl.Ack)
    assert (message.error, nfnl.encode([message])) == (19, answer)
    assert message.request[: len(request)] == request


@rule("LS-7", "AK-22")
def test_a_refusal_that_repeats_only_the_head_of_the_request(kernel: KernelUnderTest) -> None:
    """With CAP_ACK the request in it says that it is longer than the whole answer."""
    events: list[Event] = []
    with open_queue(Meddler(kernel, cap_ack=True), events) as queue, kernel.until_idle():
        kernel.send(udp4())
        for packet in queue:
            kernel.take_a_hook_away()
            packet.accept(payload=udp4(bytes(1000)))
            queue.flush()
            break
        journey = kernel.send(udp4())
        for packet in queue:
            packet.accept()
    [event] = events
    assert isinstance(event, Refused)
    assert (event.packet_id, event.error.errno) == (1, ENOENT)
    assert journey.delivered


@rule("LS-7")
@pytest.mark.parametrize("length", range(16, 36))
def test_a_refusal_that_is_cut_itself(kernel: KernelUnderTest, length: int) -> None:
    def cut(datagrams: list[bytes]) -> list[bytes]:
        return [
            struct.pack("=I", length) + data[4:length] if data[4:6] == b"\2\0" and data[16:20] != bytes(4) else data
            for data in datagrams
        ]

    events: list[Event] = []
    with open_queue(Meddler(kernel, cut), events) as queue, kernel.until_idle():
        kernel.send(udp4())
        for packet in queue:
            kernel.take_a_hook_away()
            packet.accept()
            queue.flush()
            break
        journey = kernel.send(udp4())
        for packet in queue:
            packet.accept()
    assert [type(event) for event in events] == [Undecodable]
    assert journey.delivered


@rule("LS-7", "AK-22")
@pytest.mark.parametrize("cap_ack", [False, True])
def test_the_error_of_a_request_with_a_broken_end(kernel: KernelUnderTest, cap_ack: bool) -> None:
    transport = kernel.open(SocketOptions(cap_ack=cap_ack))
    for end in range(1, 24):
        request = verdict(9, 1, ACCEPT, payload=udp4())[:-end]
        transport.send(struct.pack("=I", len(request)) + request[4:])
        [answer] = transport.receive()
        [message] = nfnl.decode(answer)
        assert isinstance(message, nfnl.Ack)
        assert (message.error, nfnl.encode([message])) == (19, answer)


# ------------------------------------------------------------------------------------------------------ handlers that give up


def accept_but_the_second(queue: nfnl.Queue, kept: list[nfnl.QueuedPacket] | None = None) -> None:
    """A handler with a mistake."""
    for packet in queue:
        if kept is not None:
            kept.append(packet)
        if packet.id == 2:
            raise ZeroDivisionError
        packet.accept()


@rule("LS-8")
@pytest.mark.parametrize("undecided", ["drop", "accept"])
def test_an_exception_comes_out_and_the_packet_gets_its_verdict(kernel: KernelUnderTest, undecided: str) -> None:
    with ExitStack() as stack:
        stack.enter_context(kernel.until_idle())
        queue = stack.enter_context(open_queue(kernel, undecided=undecided))
        journeys = [kernel.send(udp4()) for _ in range(3)]
        stack.callback(accept_but_the_second, queue)
        with pytest.warns(QueueWarning, match=f"2, 3.*{undecided.upper()}"), pytest.raises(ZeroDivisionError):
            stack.close()
    accepted = undecided == "accept"
    assert [journey.delivered for journey in journeys] == [True, accepted, accepted]
    assert [journey.dropped for journey in journeys] == [False, not accepted, not accepted]
    assert kernel.read_proc("netfilter/nfnetlink_queue") == ""


@rule("LS-8")
def test_after_an_exception_the_queue_can_go_on(kernel: KernelUnderTest) -> None:
    kept: list[nfnl.QueuedPacket] = []
    with open_queue(kernel) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4()) for _ in range(3)]
        with pytest.raises(ZeroDivisionError):
            accept_but_the_second(queue, kept)
        assert [journey.delivered for journey in journeys] == [True, False, False], "what was decided has left"
        accept_but_the_second(queue, kept)
        assert [journey.delivered for journey in journeys] == [True, False, True]
        kept[1].accept()
        queue.flush()
    assert [journey.delivered for journey in journeys] == [True, True, True]


@rule("LS-8")
@pytest.mark.parametrize("undecided", ["drop", "accept"])
def test_a_packet_that_is_let_go_gets_its_verdict(kernel: KernelUnderTest, undecided: str) -> None:
    with open_queue(kernel, undecided=undecided) as queue, kernel.until_idle():
        journeys = [kernel.send(udp4()) for _ in range(2)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for packet in queue:
                if packet.id == 2:
                    packet.accept()
    assert [journey.delivered for journey in journeys] == [undecided == "accept", True]
    assert ["packet 1 was let go" in str(warning.message) for warning in caught] == [True]


@rule("LS-8")
def test_a_second_verdict_is_refused_here_and_changes_nothing(kernel: KernelUnderTest) -> None:
    with open_queue(kernel) as queue, kernel.until_idle():
        journey = kernel.send(udp4())
        for packet in queue:
            packet.accept()
            with pytest.raises(LocalProtocolError, match="verdict already"):
                packet.drop()
    assert journey.delivered
    assert Listener(kernel).row.waiting == 0
