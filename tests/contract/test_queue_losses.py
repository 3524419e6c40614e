"""The ways a queue loses its packets."""

from __future__ import annotations

import socket
from errno import ENOBUFS

import pytest

from nfnl.subsys.queue import Command, ConfigCommand, CopyMode, Params, QueueFlag
from nfnl.wire.constants import SocketOption
from nfnl.wire.datagram import AttachFilter
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import (
    ACCEPT,
    CAUGHT,
    DROP,
    Client,
    Listener,
    bind,
    noop,
    queue_row,
    queues,
    refused,
    rooms,
    settings,
    small_head,
    udp4,
    udp6,
    unbind,
    verdict,
    word,
)

FAIL_OPEN = {"mask": QueueFlag.FAIL_OPEN, "flags": QueueFlag.FAIL_OPEN}
BPF_RET = 0x06
SENT = 6
SOL_SOCKET, SO_RCVBUF, DONTWAIT = socket.SOL_SOCKET, socket.SO_RCVBUF, socket.MSG_DONTWAIT


@pytest.fixture
def rules(kernel: KernelUnderTest) -> None:
    """What is sent to port 9000 waits at mangle OUTPUT, in queue 1."""
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")


def slow_listener(kernel: KernelUnderTest, *, no_enobufs: bool = False, fail_open: bool = False) -> Listener:
    """Somebody whose receive buffer has room for a few messages only."""
    listener = Listener(kernel, mode=CopyMode.META, **(FAIL_OPEN if fail_open else {}))
    listener.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
    listener.option(SocketOption.NO_ENOBUFS, int(no_enobufs))
    return listener


# ------------------------------------------------------------------------------------------------------- the listener is slow


@rule("QE-8", "C7-57")
@pytest.mark.parametrize("no_enobufs", [False, True], ids=["", "NO_ENOBUFS"])
def test_what_finds_no_room_in_the_listener_s_buffer_is_dropped(kernel: KernelUnderTest, rules: None, no_enobufs: bool) -> None:
    listener = slow_listener(kernel, no_enobufs=no_enobufs)
    journeys = [kernel.send(udp4()) for _ in range(SENT)]
    row = listener.row
    fitted = row.waiting
    assert 0 < fitted < SENT
    assert (row.dropped, row.user_dropped, listener.drops) == (0, SENT - fitted, SENT - fitted)
    assert [journey.queued for journey in journeys] == [True] * fitted + [False] * (SENT - fitted)
    assert all(journey.dropped for journey in journeys[fitted:])
    assert {journey.errno for journey in journeys} == {0}


@rule("QE-8", "C7-57", "C7-61")
def test_what_is_lost_like_that_uses_an_id(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel)
    kernel.send_many(udp4(), SENT)
    assert listener.row.last_id == SENT
    with refused(ENOBUFS):
        listener.hear()
    assert listener.ids() == list(range(1, listener.row.waiting + 1))
    kernel.send(udp4())
    assert listener.ids() == [SENT + 1]


@rule("QE-8")
@pytest.mark.parametrize("no_enobufs", [False, True], ids=["", "NO_ENOBUFS"])
def test_with_fail_open_it_is_accepted_and_not_counted(kernel: KernelUnderTest, rules: None, no_enobufs: bool) -> None:
    listener = slow_listener(kernel, no_enobufs=no_enobufs, fail_open=True)
    journeys = [kernel.send(udp4()) for _ in range(SENT)]
    row = listener.row
    assert [journey.delivered for journey in journeys] == [False] * row.waiting + [True] * (SENT - row.waiting)
    assert (row.dropped, row.user_dropped, row.last_id) == (0, 0, SENT)
    assert listener.drops == SENT - row.waiting


@rule("QE-8", "C7-57")
def test_the_listener_is_told_once_and_then_gets_what_fitted(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel)
    kernel.send_many(udp4(), SENT)
    with refused(ENOBUFS):
        listener.socket.recv(1 << 16, DONTWAIT)
    assert listener.ids() == list(range(1, listener.row.waiting + 1))


@rule("QE-8", "C7-57")
def test_with_no_enobufs_he_is_not_told(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel, no_enobufs=True)
    kernel.send_many(udp4(), SENT)
    assert listener.ids() == list(range(1, listener.row.waiting + 1))


@rule("QE-8")
def test_until_he_has_read_everything_all_is_lost(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel)
    kernel.send_many(udp4(), SENT)
    with refused(ENOBUFS):
        listener.hear_one()
    while listener.row.waiting and listener.charged > 1000:
        listener.hear_one()
    before = listener.row.user_dropped
    assert kernel.send(udp4()).dropped, "there would be room"
    assert listener.row.user_dropped == before + 1
    listener.hear()
    assert kernel.send(udp4()).queued
    assert listener.ids() == [SENT + 2]


@rule("QE-8")
def test_with_no_enobufs_room_is_enough(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel, no_enobufs=True)
    kernel.send_many(udp4(), SENT)
    listener.hear_one()
    assert kernel.send(udp4()).queued


@rule("QE-8", "RB-10")
@needs("buffers-are-kept-to")
def test_verdicts_count_although_their_answers_find_no_room(kernel: KernelUnderTest, rules: None) -> None:
    listener = slow_listener(kernel)
    listener.tell(noop())
    cost = listener.charged
    listener.hear()
    journeys = []
    while listener.charged + cost <= listener.meminfo()[1]:
        journeys.append(kernel.send(udp4()))
    ids = [number + 1 for number in range(len(journeys))]
    assert listener.row.waiting == len(ids) > 0
    listener.tell(b"".join(verdict(1, number, ACCEPT) for number in ids))
    assert all(journey.delivered for journey in journeys)
    with refused(ENOBUFS):
        listener.hear()
    assert listener.ids() == ids, "no answer among them"


@rule("QE-8", "NL-57")
def test_a_packet_waits_although_its_message_is_filtered_away(kernel: KernelUnderTest, rules: None) -> None:
    transport = kernel.open()
    transport.send(settings(1, command=Command(ConfigCommand.BIND), params=Params(0, CopyMode.META)))
    assert [word(answer) for answer in transport.receive()] == ["ACK"]
    transport.apply(AttachFilter(((BPF_RET, 0, 0, 0),)))
    assert kernel.send(udp4()).queued
    assert transport.receive() == []
    assert queue_row(kernel).user_dropped == 0


# ------------------------------------------------------------------------------------------------------------- what it costs


@rule("RB-3", "QE-8")
def test_what_the_message_of_a_packet_is_charged_with(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    head = small_head(listener)
    measured = []
    for length in (0, 1, 60, 100, 103, 104, 105, 500, 551, 552, 553, 1400, 3000, 8000, 16000, 16400, 40000, 65000):
        assert kernel.send(udp4(bytes(length))).queued
        charge = listener.charged
        [message] = listener.hear()
        measured.append((28 + length, 0, len(message), charge))
    assert rooms(head, measured), measured


#: Until Linux 6.0 so many bytes of a large datagram stay with its headers (MAX_HEADER, as distributions build it); then none.
KEPT_IN_FRONT = 80


@rule("RB-3", "QE-8")
@pytest.mark.parametrize(("headers", "linear"), [(28, 16032), (48, 16039)], ids=["IPv4", "IPv6"])
def test_a_large_datagram_lies_in_pages(kernel: KernelUnderTest, rules: None, headers: int, linear: int) -> None:
    kernel.ip6tables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    head = small_head(listener)
    measured: dict[int, list[tuple[int, int, int, int]]] = {headers: [], max(headers, KEPT_IN_FRONT): []}
    for length in (headers + 1, 132, 133, 580, 581, 8000, linear, linear + 1, 20000, 65000):
        payload = bytes(length - headers)
        kernel.send_datagram(udp4(payload) if headers == 28 else udp6(payload))
        charge = listener.charged
        [message] = listener.hear()
        for front, rows in measured.items():
            paged = length - front if length > linear else 0
            rows.append((length - paged, paged, len(message), charge))
    assert any(rooms(head, rows) for rows in measured.values()), measured


# ---------------------------------------------------------------------------------------------------------- the listener leaves


@rule("QF-1", "C7-58")
@pytest.mark.parametrize("fail_open", [False, True], ids=["", "FAIL_OPEN"])
@pytest.mark.parametrize("how", ["unbind", "close"])
def test_what_waits_is_dropped_when_the_listener_leaves(kernel: KernelUnderTest, rules: None, how: str, fail_open: bool) -> None:
    listener = Listener(kernel, **(FAIL_OPEN if fail_open else {}))
    journeys = [kernel.send(udp4()) for _ in range(3)]
    if how == "unbind":
        listener.configure(command=Command(ConfigCommand.UNBIND))
    else:
        listener.socket.close()
    assert queues(kernel) == []
    assert [journey.dropped for journey in journeys] == [True, True, True]


@rule("QF-1")
def test_only_his_packets_are_dropped(kernel: KernelUnderTest, rules: None) -> None:
    kernel.iptables("-A OUTPUT -p udp --dport 9001 -j NFQUEUE --queue-num 2")
    leaving, staying = Listener(kernel, 1), Listener(kernel, 2)
    gone, kept = kernel.send(udp4()), kernel.send(udp4(port=9001))
    leaving.socket.close()
    assert (gone.dropped, kept.queued) == (True, True)
    assert staying.ids() == [1]
    assert staying.decide(1) == "ACK"
    assert kept.delivered


@rule("QF-2", "QC-22")
def test_the_number_is_free_at_once(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    journey = kernel.send(udp4())
    assert listener.ids() == [1]
    assert listener.answers(unbind(1) + settings(1, command=Command(ConfigCommand.BIND), params=Params(0, CopyMode.META))) == [
        "ACK",
        "ACK",
    ]
    assert journey.dropped
    assert (listener.row.waiting, listener.row.last_id) == (0, 0)


@rule("QF-2")
def test_somebody_else_can_have_it_as_soon_as_it_is_closed(kernel: KernelUnderTest, rules: None) -> None:
    for _ in range(20):
        client = Client(kernel)
        assert client.answers(bind(1)) == ["ACK"]
        client.socket.close()


@rule("QF-3")
def test_messages_that_were_not_read_stay_readable(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    kernel.send(udp4())
    assert [word(heard) for heard in listener.ask(unbind(1))] == ["Packet", "ACK"]
    assert listener.decide(1) == "ENODEV"
    assert listener.answers(bind(1)) == ["ACK"]
    assert listener.decide(1) == "ENOENT"


# -------------------------------------------------------------------------------------------------------- the world changes


@rule("QF-4", "QF-6")
def test_taking_any_hook_away_drops_all_that_waits(kernel: KernelUnderTest, rules: None) -> None:
    kernel.iptables(f"-A INPUT {CAUGHT} 2")
    kernel.ip6tables(f"-A INPUT {CAUGHT} 2")
    one, two = Listener(kernel, 1, **FAIL_OPEN), Listener(kernel, 2)
    journeys = [kernel.send(udp4()), kernel.receive(udp4(source="10.0.0.9", destination="10.0.0.1"))]
    assert (one.ids(), two.ids()) == ([1], [1])
    before = one.row, two.row
    kernel.take_a_hook_away()
    assert [journey.dropped for journey in journeys] == [True, True]
    assert (one.row, two.row) == tuple(row._replace(waiting=0) for row in before), "no counter tells"
    assert (one.packets(), two.packets()) == ([], []), "nor does a message"
    assert (one.decide(1), two.decide(1)) == ("ENOENT", "ENOENT")
    assert kernel.send(udp4()).queued
    assert one.ids() == [2]


@rule("QF-4")
def test_changing_rules_drops_nothing(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    journey = kernel.send(udp4())
    kernel.iptables("-t mangle -A INPUT -p icmp")
    kernel.iptables("-t mangle -F")
    kernel.iptables("-A INPUT -p icmp")
    assert journey.queued
    assert listener.decide(1) == "ACK"
    assert journey.delivered


@rule("QF-5", "QF-6")
def test_a_device_that_goes_down_takes_its_packets_along(kernel: KernelUnderTest, rules: None) -> None:
    kernel.add_device("eth1")
    kernel.iptables(f"-A INPUT -i eth0 {CAUGHT} 1")
    kernel.iptables(f"-A FORWARD {CAUGHT} 1")
    listener = Listener(kernel)
    came_in = kernel.receive(udp4(source="10.0.0.9", destination="10.0.0.1"))
    goes_out = kernel.send(udp4(source="10.0.0.1", destination="10.0.0.9"))
    passes = kernel.forward(udp4(source="192.0.2.9", destination="10.0.0.9"), "eth1")
    elsewhere = kernel.send(udp4())
    assert listener.ids() == [1, 2, 3, 4]
    before = listener.row
    kernel.set_up("eth1", False)
    assert listener.row == before._replace(waiting=3), "no counter tells"
    assert listener.decide(3) == "ENOENT"
    kernel.set_up("eth0", False)
    assert listener.row == before._replace(waiting=1)
    assert listener.packets() == [], "nor does a message"
    assert [listener.decide(packet_id) for packet_id in (1, 2, 4)] == ["ENOENT", "ENOENT", "ACK"]
    assert [journey.dropped for journey in (came_in, goes_out, passes)] == [True, True, True]
    assert elsewhere.delivered


@rule("QF-6")
def test_a_lost_packet_s_id_is_not_used_again(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    kernel.send(udp4())
    assert listener.ids() == [1]
    kernel.take_a_hook_away()
    kernel.send(udp4())
    assert listener.ids() == [2]
    assert listener.decide_until(1, DROP) == "ENOENT"
