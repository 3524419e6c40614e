"""A packet meets a rule that sends it to a queue."""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EAGAIN, EPERM

import pytest

from nfnl.sim.iptables import IptablesError
from nfnl.subsys.queue import Command, ConfigCommand, CopyMode, Params, QueueFlag, SkbInfo
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import (
    ACCEPT,
    CAUGHT,
    DROP,
    REPEAT,
    Client,
    Listener,
    bind,
    udp4,
    udp6,
    verdict,
    word,
)

FAIL_OPEN = {"mask": QueueFlag.FAIL_OPEN, "flags": QueueFlag.FAIL_OPEN}


@pytest.fixture
def rules(kernel: KernelUnderTest) -> None:
    """What is sent to port 9000 waits at mangle OUTPUT, in queue 1."""
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")


# --------------------------------------------------------------------------------------------------------------- nobody listens


@rule("QE-1", "QT-1")
def test_without_a_listener_a_packet_is_dropped(kernel: KernelUnderTest, rules: None) -> None:
    assert kernel.send(udp4()).dropped


@rule("QE-1")
def test_its_sender_is_not_told(kernel: KernelUnderTest, rules: None) -> None:
    assert kernel.send(udp4()).errno == 0
    kernel.iptables("-t mangle -F")
    kernel.iptables("-t mangle -A OUTPUT -p udp --dport 9000 -j DROP")
    assert kernel.send(udp4()).errno == EPERM, "of a DROP he is"


@rule("QE-1")
def test_without_a_listener_packets_of_others_are_dropped_too(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A INPUT {CAUGHT} 1")
    assert kernel.receive(udp4(source="10.0.0.9", destination="10.0.0.1")).dropped


@rule("QE-2", "QT-1")
def test_bypass_lets_it_go_on(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1 --queue-bypass")
    assert kernel.send(udp4()).delivered


@rule("QE-2")
def test_bypass_skips_the_rest_of_the_table(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1 --queue-bypass")
    kernel.iptables("-t mangle -A OUTPUT -p udp -j DROP")
    kernel.iptables("-t mangle -P OUTPUT DROP")
    assert kernel.send(udp4()).delivered


@rule("QE-2")
def test_bypass_goes_on_with_the_next_table(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1 --queue-bypass")
    kernel.iptables("-A OUTPUT -p udp --dport 9000 -j DROP")
    assert kernel.send(udp4()).dropped


@rule("QT-1")
def test_bypass_does_not_matter_when_somebody_listens(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1 --queue-bypass")
    listener = Listener(kernel)
    assert kernel.send(udp4()).queued
    assert listener.ids() == [1]


@rule("QT-1")
@pytest.mark.parametrize("number", [0, 1, 255, 256, 32768, 65535])
def test_a_rule_names_its_queue(kernel: KernelUnderTest, number: int) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} {number}")
    others = [Listener(kernel, other) for other in {0, 1, 65535} - {number}]
    listener = Listener(kernel, number)
    journey = kernel.send(udp4())
    assert (journey.queued, journey.queue) == (True, number)
    assert listener.packet().res_id == number
    assert [other.packets() for other in others] == [[]] * len(others)


@rule("QT-1")
def test_a_rule_that_names_none_means_queue_0(kernel: KernelUnderTest) -> None:
    kernel.iptables("-A OUTPUT -p udp -j NFQUEUE")
    listener = Listener(kernel, 0)
    assert kernel.send(udp4()).queued
    assert listener.ids() == [1]


@rule("QT-1")
def test_one_queue_takes_both_families(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    kernel.ip6tables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    kernel.send(udp4())
    kernel.send(udp6())
    assert [(packet.header.packet_id, packet.nfgen_family) for packet in listener.packets()] == [(1, 2), (2, 10)]


# ------------------------------------------------------------------------------------------------------------- several queues


@pytest.fixture
def listeners(kernel: KernelUnderTest) -> list[Listener]:
    """Listeners to queues 10 to 13."""
    return [Listener(kernel, number, mode=CopyMode.META) for number in range(10, 14)]


def chosen(kernel: KernelUnderTest, listeners: list[Listener], packet: bytes) -> int:
    """The queue that a packet sent by this machine comes to."""
    kernel.send(packet)
    [number] = [listener.queue for listener in listeners for _ in listener.packets()]
    return number


def between4(source: str, destination: str, *, protocol: int = 17, port: int = 9000) -> bytes:
    packet = udp4(source=source, destination=destination, port=port)
    return packet[:9] + bytes((protocol,)) + packet[10:]


def between6(source: str, destination: str, *, protocol: int = 17, port: int = 9000) -> bytes:
    packet = udp6(source=source, destination=destination, port=port)
    return packet[:6] + bytes((protocol,)) + packet[7:]


#: By family: the program that makes the rules, packets, this machine, and others enough that chance is no explanation.
FAMILIES = pytest.mark.parametrize(
    ("program", "between", "here", "others"),
    [
        ("iptables", between4, "127.0.0.1", [f"127.0.3.{host}" for host in range(1, 25)]),
        ("ip6tables", between6, "fd00::1", [f"fd00::{host:x}" for host in range(2, 26)]),
    ],
    ids=["ipv4", "ipv6"],
)
Between = Callable[..., bytes]


@rule("QT-2")
@FAMILIES
def test_addresses_choose_among_queues(
    kernel: KernelUnderTest, listeners: list[Listener], program: str, between: Between, here: str, others: list[str]
) -> None:
    getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 10:13")
    first, again = ({there: chosen(kernel, listeners, between(here, there)) for there in others} for _ in range(2))
    assert first == again
    assert len(set(first.values())) > 1


@rule("QT-2")
@FAMILIES
def test_both_directions_meet_in_one_queue(
    kernel: KernelUnderTest, listeners: list[Listener], program: str, between: Between, here: str, others: list[str]
) -> None:
    getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 10:13")
    for there in others:
        there_and_back = {chosen(kernel, listeners, between(*ends)) for ends in ((here, there), (there, here))}
        assert len(there_and_back) == 1, there


@rule("QT-2")
@FAMILIES
def test_ports_do_not_choose(
    kernel: KernelUnderTest, listeners: list[Listener], program: str, between: Between, here: str, others: list[str]
) -> None:
    getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 10:13")
    assert len({chosen(kernel, listeners, between(here, others[0], port=port)) for port in range(9000, 9024)}) == 1


@rule("QT-2")
@FAMILIES
def test_the_protocol_counts_in_ipv4_alone(
    kernel: KernelUnderTest, listeners: list[Listener], program: str, between: Between, here: str, others: list[str]
) -> None:
    getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 10:13")
    differ = [
        there
        for there in others
        if len({chosen(kernel, listeners, between(here, there, protocol=protocol)) for protocol in (17, 6)}) > 1
    ]
    assert bool(differ) is (program == "iptables")


@rule("QT-2", "QT-1")
def test_bypass_looks_at_the_queue_that_was_chosen(kernel: KernelUnderTest) -> None:
    kernel.iptables("-A OUTPUT -p udp -j NFQUEUE --queue-balance 10:11 --queue-bypass")
    listener = Listener(kernel, 10)
    journeys = [kernel.send(udp4(destination=f"127.0.3.{host}")) for host in range(1, 25)]
    assert {(journey.queued, journey.delivered) for journey in journeys} == {(True, False), (False, True)}
    assert len(listener.ids()) == sum(journey.queued for journey in journeys)


@rule("QT-3")
def test_the_processor_chooses_among_queues(kernel: KernelUnderTest, listeners: list[Listener]) -> None:
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-balance 10:12 --queue-cpu-fanout")
    for processor in kernel.processors:
        kernel.run_on(processor)
        queues = {chosen(kernel, listeners, udp4(destination=f"127.0.3.{host}")) for host in range(1, 9)}
        assert queues == {10 + processor % 3}


@rule("QT-4")
@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_all_queues_are_too_many(kernel: KernelUnderTest, program: str) -> None:
    with pytest.raises(IptablesError, match=r"Invalid argument|out of range"):  # iptables 1.8.11 does not even ask the kernel
        getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 0:65535")
    getattr(kernel, program)("-A OUTPUT -j NFQUEUE --queue-balance 0:65534")


@rule("QT-4")
def test_no_queue_is_above_65535(kernel: KernelUnderTest) -> None:
    with pytest.raises(IptablesError, match="out of range"):
        kernel.iptables("-A OUTPUT -j NFQUEUE --queue-balance 65535:65536")


# -------------------------------------------------------------------------------------------------------- nobody has said how


@rule("QE-3", "C7-54")
@pytest.mark.parametrize("bypass", ["", " --queue-bypass"])
def test_a_queue_that_was_not_configured_drops_everything(kernel: KernelUnderTest, bypass: str) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1{bypass}")
    client = Client(kernel)
    assert client.answers(bind(1)) == ["ACK"]
    before = kernel.read_proc("netfilter/nfnetlink_queue")
    journey = kernel.send(udp4())
    assert (journey.dropped, journey.errno) == (True, 0)
    assert client.hear() == []
    assert kernel.read_proc("netfilter/nfnetlink_queue") == before, "no counter moved, no id was used"


@rule("QE-3", "C7-54")
def test_copy_mode_none_drops_everything_even_fail_open(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, **FAIL_OPEN)
    kernel.send(udp4())
    listener.configure(params=Params(0, CopyMode.NONE))
    assert kernel.send(udp4()).dropped
    assert listener.ids() == [1]
    assert (listener.row.waiting, listener.row.last_id, listener.row.dropped, listener.row.user_dropped) == (1, 1, 0, 0)


# ----------------------------------------------------------------------------------------------------------------------- full


@rule("QE-4", "C7-56")
def test_a_full_queue_drops(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, queue_maxlen=2)
    journeys = [kernel.send(udp4(b"%d" % number)) for number in range(6)]
    assert [journey.queued for journey in journeys] == [True, True, False, False, False, False]
    assert [journey.dropped for journey in journeys] == [False, False, True, True, True, True]
    assert {journey.errno for journey in journeys} == {0}
    assert listener.ids() == [1, 2]
    assert (listener.row.waiting, listener.row.dropped, listener.row.user_dropped) == (2, 4, 0)


@rule("QE-4", "C7-61")
def test_what_a_full_queue_drops_uses_no_id(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, queue_maxlen=1)
    kernel.send(udp4())
    kernel.send(udp4())
    assert listener.row.last_id == 1
    assert listener.decide(1) == "ACK"
    kernel.send(udp4())
    assert listener.ids() == [1, 2]


@rule("QE-5", "C7-56")
def test_a_full_queue_that_fails_open_accepts(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, queue_maxlen=2, **FAIL_OPEN)
    journeys = [kernel.send(udp4()) for _ in range(6)]
    assert [journey.delivered for journey in journeys] == [False, False, True, True, True, True]
    assert listener.ids() == [1, 2]
    row = listener.row
    assert (row.waiting, row.dropped, row.user_dropped, row.last_id) == (2, 0, 0, 2), "nothing is counted, no id used"


@rule("QE-5")
def test_what_fails_open_still_meets_the_later_rules(kernel: KernelUnderTest, rules: None) -> None:
    Listener(kernel, queue_maxlen=0, **FAIL_OPEN)
    assert kernel.send(udp4()).delivered
    kernel.iptables("-A OUTPUT -p udp --dport 9000 -j DROP")
    assert kernel.send(udp4()).dropped


@rule("QE-5", "QP-33")
@pytest.mark.parametrize(("mode", "info"), [(CopyMode.PACKET, None), (CopyMode.META, SkbInfo.CSUMNOTREADY)])
def test_its_checksum_is_finished_before_the_queue_is_found_full(
    kernel: KernelUnderTest, rules: None, mode: CopyMode, info: SkbInfo | None
) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 2")
    Listener(kernel, mode=mode, queue_maxlen=0, **FAIL_OPEN)
    later = Listener(kernel, 2, mode=CopyMode.META)
    kernel.send_datagram(udp4())
    assert later.packet().skb_info == info


@rule("QE-6")
def test_a_shorter_queue_keeps_what_waits(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    journeys = [kernel.send(udp4()) for _ in range(3)]
    listener.configure(queue_maxlen=2)
    assert kernel.send(udp4()).dropped
    assert listener.decide(1) == "ACK"
    assert kernel.send(udp4()).dropped, "two still wait"
    assert [listener.decide(packet_id) for packet_id in (2, 3)] == ["ACK", "ACK"]
    assert [journey.delivered for journey in journeys] == [True, True, True]
    assert kernel.send(udp4()).queued


# ------------------------------------------------------------------------------------------------------------------------ ids


@rule("QE-7", "C7-61")
def test_ids_count_from_1(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    for _ in range(5):
        kernel.send(udp4())
    assert listener.ids() == [1, 2, 3, 4, 5]
    assert listener.row.last_id == 5


@rule("QE-7")
def test_each_queue_counts_for_itself(kernel: KernelUnderTest) -> None:
    for port, queue in ((9001, 1), (9002, 2)):
        kernel.iptables(f"-A OUTPUT -p udp --dport {port} -j NFQUEUE --queue-num {queue}")
    one, two = Listener(kernel, 1), Listener(kernel, 2)
    for port in (9001, 9002, 9002, 9001):
        kernel.send(udp4(port=port))
    assert (one.ids(), two.ids()) == ([1, 2], [1, 2])


@rule("QE-7", "QC-22", "C7-61")
def test_a_queue_that_is_bound_again_counts_from_1_again(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    for _ in range(3):
        kernel.send(udp4())
    assert listener.ids() == [1, 2, 3]
    listener.configure(command=Command(ConfigCommand.UNBIND))
    listener.configure(command=Command(ConfigCommand.BIND), params=Params(0, CopyMode.META))
    kernel.send(udp4())
    assert listener.ids() == [1]


@rule("QE-13")
def test_ids_follow_arrival_without_gaps(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    for number in range(40):
        kernel.send(udp4(b"%d" % number))
    packets = listener.packets()
    assert [packet.header.packet_id for packet in packets] == list(range(1, 41))
    assert [packet.payload[28:] for packet in packets if packet.payload] == [b"%d" % number for number in range(40)]


@rule("QE-13")
def test_a_decided_packet_s_id_is_not_used_again(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    for expected in range(1, 6):
        kernel.send(udp4())
        assert listener.ids() == [expected]
        assert listener.decide(expected, DROP) == "ACK"


# ---------------------------------------------------------------------------------------------------------------- the listener


@rule("QE-9")
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_listener_connected_to_somebody_else_refuses_packets(kernel: KernelUnderTest, rules: None, fail_open: bool) -> None:
    listener = Listener(kernel, **(FAIL_OPEN if fail_open else {}))
    listener.socket.connect((4711, 0))
    journey = kernel.send(udp4())
    assert (journey.delivered, journey.dropped) == (fail_open, not fail_open)
    assert listener.packets() == []
    assert (listener.row.waiting, listener.row.last_id, listener.row.user_dropped) == (0, 1, 0 if fail_open else 1)


@rule("QE-12")
def test_a_packet_comes_before_the_answer_to_what_caused_it(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    kernel.send(udp4())
    assert listener.ids() == [1]
    assert listener.answers(verdict(1, 1, REPEAT)) == ["Packet", "ACK"]


@rule("QE-12")
def test_a_packet_comes_before_its_sender_goes_on(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel)
    kernel.send(udp4())
    assert word(listener.socket.recv(1 << 16, socket.MSG_DONTWAIT)) == "Packet"


@rule("QE-11")
def test_what_waits_is_charged_to_its_sender(kernel: KernelUnderTest, rules: None) -> None:
    listener = Listener(kernel, mode=CopyMode.META)
    sender = kernel.sender(send_buffer=0)  # the least there is: some 4 kB
    sent = [sender.send(udp4(b"z")).errno for _ in range(20)]
    waiting = listener.row.waiting
    assert 0 < waiting < 20
    assert sent == [0] * waiting + [EAGAIN] * (20 - waiting)
    assert kernel.send(udp4(b"z")).errno == 0, "others may"
    assert listener.decide(1, DROP) == "ACK"
    assert [sender.send(udp4(b"z")).errno for _ in range(2)] == [0, EAGAIN]
    assert listener.decide_until(waiting + 2, ACCEPT) == "ACK"
    assert sender.send(udp4(b"z")).errno == 0
