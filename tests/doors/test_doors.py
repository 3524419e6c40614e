"""What a user of a queue relies on, through every door, on both kernels. One file, so that the doors cannot drift apart."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from scapy.layers.inet import ICMP, IP, UDP

import nfnl
import nfnl.trio
from nfnl import aio
from nfnl._door import QueueDoor
from nfnl.sim import FakeKernel, Idle, Journey
from nfnl.testing.lab import LinuxLab
from tests import probes
from tests.doors.drivers import DRIVERS, Driver, in_thread, until

RULE = "-A INPUT -p udp -j NFQUEUE --queue-num 0"
#: No test waits longer than this for a thread; it is never reached when all is well.
PATIENCE = 20


@pytest.fixture(params=["fake", "linux"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Either kernel, with a rule that queues incoming UDP."""
    if request.param == "linux":
        probes.require("lab-available")
    made: FakeKernel | LinuxLab = FakeKernel(when_idle="wait") if request.param == "fake" else LinuxLab()
    with made:
        made.iptables(RULE)
        yield made


@pytest.fixture
def fake() -> Iterator[FakeKernel]:
    with FakeKernel() as made:
        made.iptables(RULE)
        yield made


@pytest.fixture(params=DRIVERS)
def door(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


def datagram(text: bytes = b"hello", port: int = 9) -> bytes:
    return bytes(IP(src="10.0.0.9", dst="10.0.0.1", id=7) / UDP(sport=5, dport=port) / text)


def accept(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
    packet.accept()


# --- verdicts ------------------------------------------------------------------------------------------------------------------


def test_each_packet_gets_its_verdict(kernel: Any, door: Driver) -> None:
    journeys: list[Journey] = []

    def even_only(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        packet.accept() if packet.payload[-1] % 2 == 0 else packet.drop()

    door(
        kernel,
        until(6, even_only),
        meanwhile=lambda queue: journeys.extend(kernel.receive(datagram(bytes([i]))) for i in range(6)),
    )
    assert [journey.delivered for journey in journeys] == [True, False] * 3
    assert [journey.dropped for journey in journeys] == [False, True] * 3


def test_what_a_packet_tells(kernel: Any, door: Driver) -> None:
    seen: dict[str, object] = {}
    indev: list[int | None] = []

    def look(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        indev.append(packet.indev)
        for name in ("id", "payload", "mark", "hook", "outdev", "hw_protocol", "uid", "gid", "truncated", "full_length", "decided"):
            seen[name] = getattr(packet, name)
        seen["text"] = repr(packet)
        packet.accept()

    door(kernel, until(1, look), meanwhile=lambda queue: kernel.receive(datagram()))
    assert indev[0] is not None
    assert indev[0] > 1, "not the loopback"
    assert seen == {
        "id": 1,
        "payload": datagram(),
        "mark": None,
        "hook": nfnl.Hook.INPUT,
        "outdev": None,
        "hw_protocol": 0x0800,
        "uid": None,
        "gid": None,
        "truncated": False,
        "full_length": len(datagram()),
        "decided": False,
        "text": f"<QueuedPacket 1 at INPUT, {len(datagram())} bytes, waiting>",
    }


def test_a_changed_payload_and_a_mark_arrive(kernel: Any, door: Driver) -> None:
    kernel.iptables("-A INPUT -m mark --mark 7 -j ACCEPT") if isinstance(kernel, LinuxLab) else None
    journeys: list[Journey] = []
    new = datagram(b"HELLO, and more")

    def change(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        packet.accept(IP(new), mark=7)

    door(kernel, until(1, change), meanwhile=lambda queue: journeys.append(kernel.receive(datagram())))
    assert journeys[0].delivered
    assert journeys[0].data == new


def test_repeat_with_a_mark_and_to_another_queue(fake: FakeKernel, door: Driver) -> None:
    fake.iptables("-F INPUT")
    fake.iptables("-A INPUT -p udp --dport 10 -j NFQUEUE --queue-num 0")
    hooks = []

    def handle(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        hooks.append(packet.id)
        if packet.id == 1:
            packet.repeat(mark=1)
        else:
            packet.queue(5, bypass=True)

    journeys: list[Journey] = []
    door(fake, until(2, handle), meanwhile=lambda queue: journeys.append(fake.receive(datagram(port=10))))
    assert hooks == [1, 2]
    assert journeys[0].delivered
    assert journeys[0].mark == 1


def test_a_second_verdict_raises_and_changes_nothing(kernel: Any, door: Driver) -> None:
    def twice(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        packet.drop()
        assert packet.decided
        with pytest.raises(nfnl.LocalProtocolError, match="packet 1 of queue 0 has its verdict already"):
            packet.accept()

    journeys: list[Journey] = []
    door(kernel, until(1, twice), meanwhile=lambda queue: journeys.append(kernel.receive(datagram())))
    assert journeys[0].dropped


def test_a_rewrite_of_a_truncated_packet_is_refused_and_the_packet_waits(kernel: Any, door: Driver) -> None:
    def rewrite(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        assert packet.truncated
        assert (len(packet.payload), packet.full_length) == (30, len(datagram()))
        with pytest.raises(nfnl.LocalProtocolError, match="truncated"):
            packet.accept(packet.payload)
        packet.accept()

    journeys: list[Journey] = []
    door(kernel, until(1, rewrite), copy_range=30, meanwhile=lambda queue: journeys.append(kernel.receive(datagram())))
    assert journeys[0].delivered
    assert journeys[0].data == datagram()


# --- the end of a loop ---------------------------------------------------------------------------------------------------------


def test_stop_from_another_thread_ends_a_loop_that_waits(kernel: Any, door: Driver) -> None:
    queues: list[QueueDoor] = []
    waiting = threading.Event()

    def meanwhile(queue: QueueDoor) -> None:
        queues.append(queue)
        kernel.receive(datagram())

    def handle(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        packet.accept()
        waiting.set()

    thread = in_thread(lambda: door(kernel, handle, meanwhile=meanwhile))
    assert waiting.wait(PATIENCE)
    queues[0].stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_stop_before_the_loop_ends_it_at_once_and_the_next_goes_on(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake) as queue:
        queue.stop()
        assert list(queue) == []
        fake.receive(datagram())
        for packet in queue:
            packet.accept()
            break


def test_close_from_another_thread_ends_a_sync_loop(kernel: Any) -> None:
    queues: list[nfnl.Queue] = []
    handled = threading.Event()
    ended = threading.Event()

    def loop() -> None:
        queue = nfnl.open_queue(0, kernel=kernel)
        queues.append(queue)
        kernel.receive(datagram())
        for packet in queue:
            packet.accept()
            handled.set()
        ended.set()

    in_thread(loop)
    assert handled.wait(PATIENCE)
    queues[0].close()
    assert ended.wait(PATIENCE)
    with pytest.raises(nfnl.LocalProtocolError, match="closed"):
        next(iter(queues[0]))
    with nfnl.open_queue(0, kernel=kernel):
        pass  # the number is free


def test_close_from_another_task_ends_an_asyncio_loop(kernel: Any) -> None:
    async def main() -> str:
        queue = aio.open_queue(0, kernel=kernel)

        async def loop() -> str:
            async for packet in queue:
                packet.accept()
                handled.set()
            return "ended"

        handled = asyncio.Event()
        task = asyncio.create_task(loop())
        kernel.receive(datagram())
        await asyncio.wait_for(handled.wait(), PATIENCE)
        queue.close()
        return await asyncio.wait_for(task, PATIENCE)

    assert asyncio.run(main()) == "ended"


def test_close_from_another_task_ends_a_trio_loop(kernel: Any) -> None:
    async def main() -> str:
        queue = nfnl.trio.open_queue(0, kernel=kernel)
        handled = trio.Event()
        outcome = []

        async def loop() -> None:
            async for packet in queue:
                packet.accept()
                handled.set()
            outcome.append("ended")

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop)
                await trio.lowlevel.checkpoint()
                kernel.receive(datagram())
                await handled.wait()
                queue.close()
        return outcome[0]

    assert trio.run(main) == "ended"


def test_a_verdict_leaves_while_the_trio_handler_awaits(kernel: Any) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with nfnl.trio.open_queue(0, kernel=kernel) as queue:
                journeys = [kernel.receive(datagram()) for _ in range(2)]
                async for packet in queue:
                    packet.accept()
                    if packet.id == 2:
                        while not journeys[0].delivered:
                            await trio.lowlevel.checkpoint()
                        return

    trio.run(main)


def test_cancelling_the_task_of_an_asyncio_loop_leaves_the_queue_usable(kernel: Any) -> None:
    async def main() -> list[int]:
        async with aio.open_queue(0, kernel=kernel) as queue:
            seen = []

            async def loop() -> None:
                async for packet in queue:
                    seen.append(packet.id)
                    packet.accept()
                    if packet.id == 2:
                        queue.stop()
                    handled.set()

            handled = asyncio.Event()
            task = asyncio.create_task(loop())
            kernel.receive(datagram())
            await asyncio.wait_for(handled.wait(), PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            kernel.receive(datagram())
            await asyncio.wait_for(loop(), PATIENCE)
            return seen

    assert asyncio.run(main()) == [1, 2]


def test_a_break_lets_the_verdicts_given_leave(kernel: Any) -> None:
    with nfnl.open_queue(0, kernel=kernel) as queue:
        first, second = kernel.receive(datagram()), kernel.receive(datagram())
        for packet in queue:
            packet.accept()
            break
        assert first.delivered
        assert second.queued
        for packet in queue:
            packet.drop()
            break
    assert second.dropped


@pytest.mark.parametrize(("policy", "delivered"), [("drop", False), ("accept", True)])
def test_an_exception_comes_out_and_the_packet_it_held_follows_the_policy(
    kernel: Any, door: Driver, policy: str, delivered: bool
) -> None:
    def fail(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        raise ZeroDivisionError("from the handler")

    journeys: list[Journey] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ZeroDivisionError, match="from the handler"):
            door(kernel, fail, undecided=policy, meanwhile=lambda queue: journeys.append(kernel.receive(datagram())))
    assert [str(w.message) for w in caught if w.category is nfnl.QueueWarning] == [
        f"queue 0 closed with undecided packets: 1; policy: {policy.upper()}"
    ]
    assert journeys[0].delivered is delivered
    assert journeys[0].dropped is not delivered


@pytest.mark.parametrize(("policy", "delivered"), [("drop", False), ("accept", True)])
def test_a_packet_let_go_without_a_word_follows_the_policy(kernel: Any, door: Driver, policy: str, delivered: bool) -> None:
    journeys: list[Journey] = []

    def meanwhile(queue: QueueDoor) -> None:
        journeys.extend((kernel.receive(datagram(b"1")), kernel.receive(datagram(b"2"))))

    def forgetful(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        if packet.id == 2:
            packet.accept()

    with pytest.warns(nfnl.QueueWarning, match=f"packet 1 was let go without a verdict; policy: {policy.upper()}"):
        door(kernel, until(2, forgetful), undecided=policy, meanwhile=meanwhile)
    assert [journey.delivered for journey in journeys] == [delivered, True]


def test_a_packet_may_be_kept_and_decided_later(kernel: Any, door: Driver) -> None:
    journeys: list[Journey] = []
    kept: list[nfnl.QueuedPacket] = []

    def meanwhile(queue: QueueDoor) -> None:
        journeys.extend(kernel.receive(datagram(bytes([i]))) for i in range(4))

    def hold_the_first_two(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        if packet.id <= 2:
            kept.append(packet)
        elif packet.id == 3:
            packet.drop()
        else:
            packet.accept()
            kept.pop().drop()
            kept.pop().accept()

    door(kernel, until(4, hold_the_first_two), meanwhile=meanwhile)
    assert [journey.delivered for journey in journeys] == [True, False, False, True]


# --- time ----------------------------------------------------------------------------------------------------------------------


def test_a_slow_handler_never_holds_back_the_verdicts_before_it(fake: FakeKernel) -> None:
    """Each turn takes 5 ms of virtual time; when a handler starts, everything decided before it has left."""
    with nfnl.open_queue(0, kernel=fake) as queue, fake.until_idle():
        journeys = [fake.receive(datagram()) for _ in range(5)]
        for packet in queue:
            assert all(journey.delivered for journey in journeys[: packet.id - 1])
            fake.advance(0.005)
            packet.accept()
    assert all(journey.delivered for journey in journeys)


def test_fast_verdicts_travel_together_and_leave_at_the_first_call_after_a_millisecond(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake) as queue, fake.until_idle():
        journeys = [fake.receive(datagram()) for _ in range(4)]
        for packet in queue:
            if packet.id == 3:
                assert [j.queued for j in journeys] == [True] * 4, "nothing has left: no time has passed"
                fake.advance(0.0011)
            packet.accept()
            if packet.id == 3:
                assert [j.delivered for j in journeys] == [True, True, True, False], "giving a verdict is a call into the door"
    assert all(journey.delivered for journey in journeys)


def test_a_verdict_leaves_while_the_asyncio_handler_awaits(kernel: Any) -> None:
    """On the loop's own clock: nothing else calls into the door."""

    async def main() -> None:
        async with aio.open_queue(0, kernel=kernel) as queue:
            journeys = [kernel.receive(datagram()) for _ in range(2)]
            async for packet in queue:
                packet.accept()
                if packet.id == 2:
                    while not journeys[0].delivered:
                        await asyncio.sleep(0)
                    return

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_flush_lets_them_leave_now(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake) as queue, fake.until_idle():
        journey, _ = fake.receive(datagram()), fake.receive(datagram())
        for packet in queue:
            packet.accept()
            if packet.id == 1:
                assert journey.queued
                queue.flush()
                assert journey.delivered


def test_without_joining_each_leaves_at_once(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake, join=False) as queue, fake.until_idle():
        journeys = [fake.receive(datagram()) for _ in range(3)]
        for packet in queue:
            packet.accept()
            assert journeys[packet.id - 1].delivered


def test_waiting_for_what_cannot_come_raises_idle_and_says_who_waits(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake) as queue, pytest.raises(Idle, match="wait"):
        next(iter(queue))


# --- losses and options --------------------------------------------------------------------------------------------------------


def test_losses_are_told_and_counted(kernel: Any, door: Driver) -> None:
    events: list[nfnl.Event] = []
    losses: list[nfnl.QueueLosses] = []

    def meanwhile(queue: QueueDoor) -> None:
        for _ in range(300):
            kernel.receive(datagram())

    def handle(packet: nfnl.QueuedPacket, queue: QueueDoor) -> None:
        packet.accept()
        if packet.id == 301:
            losses.append(queue.losses)
            queue.stop()
        elif packet.id == 2:
            kernel.receive(datagram())  # there is room again; its id tells what was lost before it

    door(kernel, handle, meanwhile=meanwhile, receive_buffer=4096, no_enobufs=True, on_event=events.append)
    (measured,) = losses
    assert measured.user_dropped is not None
    assert measured.lost == measured.user_dropped > 200
    assert not measured.uncertain
    assert sum(event.count for event in events if isinstance(event, nfnl.PacketsLost)) == measured.lost
    assert not any(isinstance(event, nfnl.Overrun) for event in events)


def test_an_event_without_a_listener_becomes_a_warning(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake, receive_buffer=2048) as queue, fake.until_idle():
        for _ in range(50):
            fake.receive(datagram())
        with pytest.warns(nfnl.QueueWarning, match="receive buffer was full"):
            decided = [(packet.accept(), packet.id) for packet in queue]  # type: ignore[func-returns-value]
        assert 0 < len(decided) < 50


def test_a_queue_with_an_owner_is_refused_with_both_reasons(kernel: Any, door: Driver) -> None:
    with nfnl.open_queue(0, kernel=kernel):
        with pytest.raises(nfnl.NotPermitted) as refusal:
            door(kernel, accept)
        assert "bind queue 0: EPERM" in str(refusal.value)
        assert "another process" in str(refusal.value)
        assert "CAP_NET_ADMIN" in str(refusal.value)


def test_configure_changes_a_bound_queue(kernel: Any) -> None:
    with nfnl.open_queue(0, kernel=kernel, max_length=1) as queue:
        journeys = [kernel.receive(datagram()) for _ in range(2)]
        assert journeys[1].dropped
        assert queue.losses.queue_dropped == 1
        queue.configure(max_length=5, copy="meta")
        journeys.append(kernel.receive(datagram()))
        for packet in queue:
            assert packet.payload == (datagram() if packet.id == 1 else b"")
            packet.accept()
            if packet.id == 2:
                break
        with pytest.raises(nfnl.NetlinkError, match="EOPNOTSUPP"):
            queue.configure(flags=nfnl.QueueFlag(32))
    assert [journey.delivered for journey in journeys] == [True, False, True]


def test_two_queues_at_once(kernel: Any) -> None:
    kernel.iptables("-I INPUT -p udp --dport 10 -j NFQUEUE --queue-num 1")
    with nfnl.open_queue(0, kernel=kernel) as first, nfnl.open_queue(1, kernel=kernel) as second:
        journeys = [kernel.receive(datagram(port=port)) for port in (9, 10)]
        for queue, port in ((second, 10), (first, 9)):
            for packet in queue:
                assert UDP in IP(packet.payload)
                assert IP(packet.payload)[UDP].dport == port
                packet.accept()
                break
    assert all(journey.delivered for journey in journeys)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"colour": "red"}, TypeError),
        ({"copy": "everything"}, ValueError),
        ({"undecided": "maybe"}, ValueError),
        ({"netns": "x"}, nfnl.LocalProtocolError),
        ({"copy_range": -1}, nfnl.EncodeError),
        ({"max_length": 1 << 32}, nfnl.EncodeError),
    ],
)
def test_wrong_options_are_named(fake: FakeKernel, door: Driver, options: dict[str, Any], error: type[Exception]) -> None:
    wrong = next(iter(options))
    with pytest.raises(error, match=wrong if error is not nfnl.EncodeError else "Config"):
        door(fake, accept, **options)
    assert fake.read_proc("netfilter/nfnetlink_queue") == ""


def test_what_the_kernel_says_of_a_queue(kernel: Any) -> None:
    if isinstance(kernel, LinuxLab):
        probes.require("initial-user-namespace")
    with nfnl.open_queue(0, kernel=kernel, copy_range=100, max_length=1) as queue:
        kernel.receive(datagram())
        kernel.receive(datagram())
        line = queue.statistics
        assert line is not None
        assert (line.number, line.waiting, line.copy_mode, line.copy_range, line.last_id) == (0, 1, 2, 100, 1)
        assert (line.queue_dropped, line.user_dropped) == (1, 0)


def test_what_a_queue_says_of_itself(fake: FakeKernel) -> None:
    with nfnl.open_queue(0, kernel=fake) as queue:
        assert repr(queue) == "<nfnl.sync.Queue 0, bound>"
        assert queue.fileno() is None
        assert queue.receive_buffer == 212992
    assert repr(queue) == "<nfnl.sync.Queue 0, closed>"
    queue.close()


def test_the_handler_of_the_readme_on_both_kernels(kernel: Any) -> None:
    def pings_only(queue: nfnl.Queue) -> None:
        for packet in queue:
            packet.accept() if ICMP in IP(packet.payload) else packet.drop()

    kernel.iptables("-F INPUT")
    kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        ping = kernel.receive(IP(src="10.0.0.9", dst="10.0.0.1") / ICMP())
        udp = kernel.receive(datagram())
        pings_only(queue)
    assert ping.delivered
    assert udp.dropped
