"""Verdicts: what they do to a packet, and when they are refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from nfnl.subsys.queue import CopyMode
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import (
    ACCEPT,
    ACK,
    BYPASS,
    CAUGHT,
    DROP,
    MAX_RANGE,
    REPEAT,
    REQUEST,
    STOLEN,
    STOP,
    TO_QUEUE,
    VERDICT,
    Client,
    Listener,
    attribute,
    be32,
    bind,
    head,
    nfnetlink,
    small_head,
    udp4,
    udp6,
    udp_sum,
    verdict,
)

VERDICT_HDR, PAYLOAD, CT, EXP, VLAN, L2HDR = 2, 10, 11, 15, 19, 20
#: what stands behind mangle in the way of a packet that goes on
NOT_FURTHER = "-A OUTPUT -p udp --dport 9000 -j DROP"
NEIGHBOUR: dict[str, Any] = {"source": "10.0.0.1", "destination": "10.0.0.9"}


@pytest.fixture
def listener(kernel: KernelUnderTest) -> Listener:
    """Listens to queue 1, where what is sent to port 9000 waits at mangle OUTPUT."""
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    return Listener(kernel)


@pytest.fixture
def later(kernel: KernelUnderTest, listener: Listener) -> Listener:
    """Listens to queue 2, where it waits again at filter OUTPUT: somebody who sees what a verdict has made of it."""
    kernel.iptables(f"-A OUTPUT {CAUGHT} 2")
    return Listener(kernel, 2)


def len_of(data: bytes) -> str:
    return f"{len(data)} {data[:5].decode()}"


def to_queue(number: int, *, bypass: bool = False) -> int:
    """The verdict word that sends a packet to another queue."""
    return number << 16 | (BYPASS if bypass else 0) | TO_QUEUE


# ------------------------------------------------------------------------------------------------------------------ refused


@rule("QV-1", "C7-46")
def test_a_verdict_for_a_queue_that_is_not_bound(kernel: KernelUnderTest, listener: Listener) -> None:
    assert listener.answers(verdict(99, 1, ACCEPT)) == ["ENODEV"]
    assert listener.answers(verdict(99, 1, STOLEN)) == ["ENODEV"]
    assert listener.answers(nfnetlink(3, VERDICT, res_id=99)) == ["ENODEV"]


@rule("QV-2")
def test_a_verdict_for_another_s_queue(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    other = Client(kernel)
    assert other.answers(verdict(1, 1, ACCEPT)) == ["EPERM"]
    assert other.answers(verdict(1, 1, 77)) == ["EPERM"]
    assert other.answers(verdict(1, 12345, ACCEPT)) == ["EPERM"]
    assert other.answers(nfnetlink(3, VERDICT, res_id=1)) == ["EPERM"]
    assert journey.queued
    assert listener.ids() == [1]
    assert listener.decide(1) == "ACK"
    assert journey.delivered


@rule("QV-3", "C7-52")
@pytest.mark.parametrize("word", [STOLEN, 6, 7, 255, 0x00020002, 0x7FFFFFFF, 0xFFFFFFFF])
def test_what_is_no_verdict_is_refused_and_the_packet_stays(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, word) == "EINVAL"
    assert listener.decide(1, word, mark=5, payload=b"") == "EINVAL"
    assert journey.queued
    assert listener.row.waiting == 1
    assert listener.decide(1) == "ACK"
    assert (journey.delivered, journey.mark) == (True, 0)


@rule("QV-3")
def test_a_verdict_without_a_header_is_refused(listener: Listener) -> None:
    assert listener.answers(nfnetlink(3, VERDICT, res_id=1)) == ["EINVAL"]
    assert listener.answers(nfnetlink(3, VERDICT, attribute(3, be32(1)), res_id=1)) == ["EINVAL"]


@rule("QV-4", "C7-52")
@pytest.mark.parametrize("packet_id", [0, 1, 3, 0x80000002, 0xFFFFFFFF])
def test_a_verdict_for_what_does_not_wait(kernel: KernelUnderTest, listener: Listener, packet_id: int) -> None:
    kernel.send(udp4())
    kernel.send(udp4())
    assert listener.decide(1) == "ACK"
    assert listener.decide(packet_id) == "ENOENT"
    assert listener.row.waiting == 1


@rule("QV-4", "QV-3")
def test_a_bad_verdict_is_noticed_before_a_bad_id(listener: Listener) -> None:
    assert listener.decide(12345, STOLEN) == "EINVAL"


@rule("QV-7", "AK-7")
def test_a_verdict_is_answered_if_it_asks_for_it_or_fails(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.packet().header.packet_id == 1
    assert listener.answers(verdict(1, 1, ACCEPT, flags=REQUEST)) == []
    assert journey.delivered
    assert listener.answers(verdict(1, 1, ACCEPT, flags=REQUEST)) == ["ENOENT"]


@rule("QV-7", "AK-5")
def test_a_verdict_that_is_no_request_is_none(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, flags=ACK) == "ACK"
    assert journey.queued


# --------------------------------------------------------------------------------------------------------------------- order


@rule("QV-5")
def test_verdicts_may_come_in_any_order(kernel: KernelUnderTest, listener: Listener, later: Listener) -> None:
    for number in range(4):
        kernel.send(udp4(b"%d" % number))
    assert listener.ids() == [1, 2, 3, 4]
    assert listener.answers(verdict(1, 3, ACCEPT) + verdict(1, 9, ACCEPT) + verdict(1, 1, ACCEPT)) == ["ACK", "ENOENT", "ACK"]
    assert listener.decide(4) == "ACK"
    assert [packet.payload and packet.payload[28:] for packet in later.packets()] == [b"2", b"0", b"3"]


# ------------------------------------------------------------------------------------------------------------ plain verdicts


@rule("QV-6")
@pytest.mark.parametrize("word", [DROP, 0x00010000, 0x00000100, 0xFFFFFF00])
def test_drop(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, word) == "ACK"
    assert journey.dropped
    assert listener.row.waiting == 0


@rule("QV-7")
def test_accept(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, ACCEPT) == "ACK"
    assert (journey.delivered, journey.data[20:]) == (True, udp4()[20:])


@rule("QV-7")
def test_what_is_accepted_goes_on_to_the_next_table(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables(NOT_FURTHER)
    journey = kernel.send(udp4())
    assert listener.decide(1, ACCEPT) == "ACK"
    assert journey.dropped


@rule("QV-7")
def test_what_is_accepted_skips_the_rest_of_this_table(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-t mangle -A OUTPUT -p udp -j DROP")
    kernel.iptables("-t mangle -P OUTPUT DROP")
    journey = kernel.send(udp4())
    assert listener.decide(1, ACCEPT) == "ACK"
    assert journey.delivered


@rule("QV-8")
@pytest.mark.parametrize("word", [STOP, 0x00010005, 0x00000105])
def test_what_is_stopped_meets_no_other_table_here(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    kernel.iptables(NOT_FURTHER)
    journey = kernel.send(udp4())
    assert listener.decide(1, word) == "ACK"
    assert journey.delivered


@rule("QV-8")
def test_what_is_stopped_still_meets_the_other_hooks(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-A INPUT -p udp --dport 9000 -j DROP")
    journey = kernel.send(udp4())
    assert listener.decide(1, STOP) == "ACK"
    assert journey.dropped


@rule("QV-9")
@pytest.mark.parametrize("word", [0x00010001, 0x00000101, 0x00008001, 0xFFFFFF01])
def test_accept_with_any_other_bit_is_stop(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    kernel.iptables(NOT_FURTHER)
    journey = kernel.send(udp4())
    assert listener.decide(1, word) == "ACK"
    assert journey.delivered


@rule("QV-6", "QV-7", "QV-8")
@pytest.mark.parametrize(("word", "passes"), [(DROP, False), (ACCEPT, True), (STOP, True)])
@pytest.mark.parametrize("hook", ["PREROUTING", "INPUT", "FORWARD", "POSTROUTING"])
def test_verdicts_work_at_every_hook(kernel: KernelUnderTest, hook: str, word: int, passes: bool) -> None:
    kernel.iptables(f"-t mangle -A {hook} {CAUGHT} 1")
    listener = Listener(kernel)
    to = "192.0.2.9" if hook in ("FORWARD", "POSTROUTING") else "10.0.0.1"
    journey = kernel.forward(udp4(source="10.0.0.9", destination=to))
    assert journey.queued
    assert listener.decide(1, word) == "ACK"
    assert (journey.delivered, journey.dropped) == (passes, not passes)


@rule("QV-6", "QV-7", "QV-8")
@pytest.mark.parametrize(("word", "passes"), [(DROP, False), (ACCEPT, True), (STOP, True)])
@pytest.mark.parametrize("hook", ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])
def test_verdicts_work_for_ipv6(kernel: KernelUnderTest, hook: str, word: int, passes: bool) -> None:
    kernel.ip6tables(f"-t mangle -A {hook} {CAUGHT} 1")
    listener = Listener(kernel)
    journey = kernel.send(udp6())
    assert journey.queued
    assert listener.decide(1, word) == "ACK"
    assert (journey.delivered, journey.dropped) == (passes, not passes)


# -------------------------------------------------------------------------------------------------------------------- repeat


@rule("QV-10", "C7-60")
def test_repeat_meets_the_same_rule_again(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    first = listener.packet()
    assert listener.decide(first, REPEAT) == "ACK"
    again = listener.packet()
    assert (again.header.packet_id, again.payload) == (2, first.payload)
    assert journey.queued
    assert listener.decide(first) == "ENOENT"
    assert listener.decide(again) == "ACK"
    assert journey.delivered


@rule("QV-10")
def test_repeat_begins_at_the_first_rule_with_the_new_mark(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-t mangle -I OUTPUT -m mark --mark 0x77 -j ACCEPT")
    journey = kernel.send(udp4())
    assert listener.decide(1, REPEAT, mark=0x77) == "ACK"
    assert (journey.delivered, journey.mark) == (True, 0x77)
    assert listener.ids() == [1]


@rule("QV-10")
def test_what_repeat_lets_pass_goes_on_to_the_next_table(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-t mangle -I OUTPUT -m mark --mark 0x77 -j ACCEPT")
    kernel.iptables(NOT_FURTHER)
    journey = kernel.send(udp4())
    assert listener.decide(1, REPEAT, mark=0x77) == "ACK"
    assert journey.dropped


@rule("QV-10")
def test_repeat_does_not_run_an_earlier_table(kernel: KernelUnderTest, listener: Listener, later: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.ids() == [1]
    assert listener.decide(1) == "ACK"
    assert later.ids() == [1]
    assert later.decide(1, REPEAT) == "ACK"
    assert (listener.ids(), later.ids()) == ([], [2])
    assert later.decide(2) == "ACK"
    assert journey.delivered


@rule("QV-10")
def test_a_rule_may_drop_what_is_repeated(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-t mangle -I OUTPUT -m mark --mark 0x77 -j DROP")
    journey = kernel.send(udp4())
    assert listener.decide(1, REPEAT, mark=0x77) == "ACK"
    assert journey.dropped


@rule("QV-11")
@pytest.mark.parametrize("word", [0x00010004, 0x00000104, 0x00008004])
def test_repeat_with_any_other_bit_is_drop(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, word) == "ACK"
    assert journey.dropped
    assert listener.ids() == [1]


# ------------------------------------------------------------------------------------------------------------- another queue


@rule("QV-12", "QT-6", "C7-59")
def test_a_packet_can_be_sent_to_another_queue(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2)
    journey = kernel.send(udp4())
    first = listener.packet()
    assert listener.decide(first, to_queue(2)) == "ACK"
    second = other.packet()
    assert (second.res_id, second.header, second.payload) == (2, first.header, first.payload), "it has id 1 there, too"
    assert (listener.row.waiting, other.row.waiting) == (0, 1)
    assert (journey.queued, journey.queue) == (True, 2)
    assert other.decide(1) == "ACK"
    assert journey.delivered


@rule("QV-12")
def test_what_another_queue_accepts_goes_on_to_the_next_table(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables(NOT_FURTHER)
    other = Listener(kernel, 65535)
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(65535)) == "ACK"
    assert other.decide(1) == "ACK"
    assert journey.dropped


@rule("QV-12")
def test_a_packet_can_be_sent_to_the_same_queue(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(1)) == "ACK"
    assert listener.ids() == [1, 2]
    assert listener.decide(2) == "ACK"
    assert journey.delivered


@rule("QV-12", "QE-4")
def test_another_queue_may_be_full(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2, queue_maxlen=0)
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(2)) == "ACK"
    assert journey.dropped
    assert other.row.dropped == 1


@rule("QV-13", "QT-6", "C7-59")
def test_sent_to_a_queue_nobody_listens_to_it_is_dropped(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(50)) == "ACK"
    assert journey.dropped


@rule("QV-13", "QT-6", "C7-59")
@pytest.mark.parametrize("further", [True, False])
def test_with_bypass_it_goes_on_to_the_next_table(kernel: KernelUnderTest, listener: Listener, further: bool) -> None:
    if not further:
        kernel.iptables(NOT_FURTHER)
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(50, bypass=True)) == "ACK"
    assert (journey.delivered, journey.dropped) == (further, not further)


@rule("QV-12", "QT-6")
def test_bypass_does_not_matter_when_somebody_listens(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2)
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(2, bypass=True)) == "ACK"
    assert journey.queued
    assert other.ids() == [1]


@rule("QV-12")
def test_the_bits_between_do_not_matter(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2)
    kernel.send(udp4())
    assert listener.decide(1, to_queue(2) | 0x7F00) == "ACK"
    assert other.ids() == [1]


@rule("QV-13")
@pytest.mark.parametrize("bypass", [False, True])
def test_sent_to_a_queue_that_was_not_configured_it_is_dropped(kernel: KernelUnderTest, listener: Listener, bypass: bool) -> None:
    assert Client(kernel).answers(bind(77)) == ["ACK"]
    journey = kernel.send(udp4())
    assert listener.decide(1, to_queue(77, bypass=bypass)) == "ACK"
    assert journey.dropped


# ---------------------------------------------------------------------------------------------------------- mark and priority


@rule("QV-16")
@pytest.mark.parametrize(("before", "given", "after"), [(0, 0xCAFE0001, 0xCAFE0001), (7, 9, 9), (7, 0, None), (7, None, 7)])
def test_a_verdict_can_set_the_mark(
    kernel: KernelUnderTest, listener: Listener, later: Listener, before: int, given: int | None, after: int | None
) -> None:
    kernel.send(udp4(), mark=before)
    assert listener.packet().mark == (before or None)
    assert listener.decide(1, mark=given) == "ACK"
    assert later.packet().mark == after


@rule("QV-16")
@needs("priority-told")
@pytest.mark.parametrize(("before", "given", "after"), [(0, 0x00010002, 0x00010002), (6, 3, 3), (6, 0, None), (6, None, 6)])
def test_a_verdict_can_set_the_priority(
    kernel: KernelUnderTest, listener: Listener, later: Listener, before: int, given: int | None, after: int | None
) -> None:
    kernel.send(udp4(), priority=before)
    assert listener.packet().priority == (before or None)
    assert listener.decide(1, priority=given) == "ACK"
    assert later.packet().priority == after


@rule("QV-16")
@needs("priority-told")
def test_mark_and_priority_count_for_another_queue_too(kernel: KernelUnderTest, listener: Listener) -> None:
    other = Listener(kernel, 2, mode=CopyMode.META)
    kernel.send(udp4())
    assert listener.decide(1, to_queue(2), mark=5, priority=6) == "ACK"
    packet = other.packet()
    assert (packet.mark, packet.priority) == (5, 6)


@rule("QV-16")
def test_a_mark_lasts_to_the_end(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.iptables("-A INPUT -m mark --mark 0x5 -j DROP")
    journeys = [kernel.send(udp4()), kernel.send(udp4(**NEIGHBOUR))]
    assert [listener.decide(packet_id, mark=5) for packet_id in (1, 2)] == ["ACK", "ACK"]
    assert [journey.delivered for journey in journeys] == [False, True]


# ------------------------------------------------------------------------------------------------------------------- routing


@rule("QV-14", "QV-15")
def test_a_new_mark_leads_to_a_new_route(kernel: KernelUnderTest, listener: Listener) -> None:
    kernel.add_route("10.0.0.9/32", None, mark=0x66)
    journeys = [kernel.send(udp4(**NEIGHBOUR)) for _ in range(2)]
    assert [listener.decide(1, mark=0x66), listener.decide(2, mark=0x67)] == ["ACK", "ACK"], "whatever comes of it"
    assert [journey.delivered for journey in journeys] == [False, True]


@rule("QV-14", "QV-8", "QV-9")
@pytest.mark.parametrize("word", [STOP, 0x00010001])
def test_what_is_stopped_keeps_its_route(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    kernel.add_route("10.0.0.9/32", None, mark=0x66)
    journey = kernel.send(udp4(**NEIGHBOUR))
    assert listener.decide(1, word, mark=0x66) == "ACK"
    assert journey.delivered


@rule("QV-14")
def test_routes_are_looked_up_at_output_only(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-t mangle -A POSTROUTING {CAUGHT} 1")
    listener = Listener(kernel)
    kernel.add_route("10.0.0.9/32", None, mark=0x66)
    journey = kernel.send(udp4(**NEIGHBOUR))
    assert listener.decide(1, mark=0x66) == "ACK"
    assert journey.delivered


@rule("QV-14", "QV-25")
@pytest.mark.parametrize(
    ("changed", "looked_up"),
    [
        ({}, False),
        ({"ttl": 9}, False),
        ({"data": b"HELLO"}, False),
        ({"tos": 4}, True),
        ({"source": "10.0.0.7"}, True),
        ({"destination": "10.0.0.8"}, True),
    ],
    ids=["nothing", "ttl", "data", "tos", "source", "destination"],
)
def test_what_changed_decides_whether_a_new_route_is_looked_up(
    kernel: KernelUnderTest, listener: Listener, changed: dict[str, Any], looked_up: bool
) -> None:
    journey = kernel.send(udp4(**NEIGHBOUR))
    kernel.add_route("10.0.0.8/31", None)  # from now on there is no way
    assert listener.decide(1, payload=udp4(**{**NEIGHBOUR, **changed})) == "ACK"
    assert (journey.delivered, journey.dropped) == (not looked_up, looked_up)


@rule("QV-14", "QV-25")
@pytest.mark.parametrize(
    ("changed", "looked_up"),
    [({}, False), ({"data": b"HELLO"}, False), ({"source": "fd00::7"}, True), ({"destination": "fd00::8"}, True)],
    ids=["nothing", "data", "source", "destination"],
)
def test_the_same_for_ipv6(kernel: KernelUnderTest, changed: dict[str, Any], looked_up: bool) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    addresses: dict[str, Any] = {"source": "fd00::1", "destination": "fd00::9"}
    journey = kernel.send(udp6(**addresses))
    kernel.add_route("fd00::8/127", None)
    assert listener.decide(1, payload=udp6(**{**addresses, **changed})) == "ACK"
    assert (journey.delivered, journey.dropped) == (not looked_up, looked_up)


# ------------------------------------------------------------------------------------------------------ rules that have changed


@rule("QV-17")
def test_accept_needs_no_rule(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    kernel.iptables("-t mangle -F")
    assert listener.decide(1) == "ACK"
    assert journey.delivered


@rule("QV-17")
def test_accept_meets_the_rules_of_now(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    kernel.iptables(NOT_FURTHER)
    assert listener.decide(1) == "ACK"
    assert journey.dropped


@rule("QV-17")
def test_repeat_meets_the_rules_of_now(kernel: KernelUnderTest, listener: Listener) -> None:
    journeys = [kernel.send(udp4()) for _ in range(2)]
    kernel.iptables("-t mangle -F")
    assert listener.decide(1, REPEAT) == "ACK"
    kernel.iptables("-t mangle -A OUTPUT -p udp -j DROP")
    assert listener.decide(2, REPEAT) == "ACK"
    assert [journey.delivered for journey in journeys] == [True, False]


# ------------------------------------------------------------------------------------------------------------------- payload


@rule("QV-20", "QV-21")
@pytest.mark.parametrize("data", [b"hello", b"HELLO", b"HELLO WORLD", b"HE", b"", b"y" * 1400, b"y" * (MAX_RANGE - 28)], ids=len_of)
def test_a_verdict_can_replace_the_packet(kernel: KernelUnderTest, listener: Listener, later: Listener, data: bytes) -> None:
    journey = kernel.send(udp4())
    new = udp4(data)
    assert listener.decide(1, payload=new) == "ACK"
    assert later.packet().payload == new
    assert later.decide(1) == "ACK"
    assert (journey.delivered, journey.data) == (True, new)


@rule("QV-20", "QV-21")
@pytest.mark.parametrize("data", [b"HELLO", b"HELLO WORLD", b"H", b""], ids=len_of)
def test_a_verdict_can_replace_a_packet_of_ipv6(kernel: KernelUnderTest, data: bytes) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    journey = kernel.send(udp6())
    assert listener.decide(1, payload=udp6(data)) == "ACK"
    assert (journey.delivered, journey.data) == (True, udp6(data))


@rule("QV-20")
def test_the_last_payload_counts(kernel: KernelUnderTest, listener: Listener, later: Listener) -> None:
    kernel.send(udp4())
    header = struct.pack(">II", ACCEPT, 1)
    payloads = attribute(PAYLOAD, udp4(b"first")) + attribute(PAYLOAD, udp4(b"last!"))
    request = nfnetlink(3, VERDICT, attribute(VERDICT_HDR, header) + payloads, res_id=1)
    assert listener.request(request) == "ACK"
    assert later.packet().payload == udp4(b"last!")


def in_pieces(*case: object) -> object:
    """A case in which a packet is replaced by one that ends too early."""
    return pytest.param(*case, marks=needs("payloads-unexamined"))


@rule("QV-21", "QV-15")
@pytest.mark.parametrize(("length", "passes"), [(0, False), (4, False), (19, False), in_pieces(20, True), in_pieces(32, True)])
def test_a_packet_cannot_be_cut_before_its_transport_header(
    kernel: KernelUnderTest, listener: Listener, length: int, passes: bool
) -> None:
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 2")
    later = Listener(kernel, 2)
    journey = kernel.send(udp4())
    assert listener.decide(1, payload=udp4()[:length]) == "ACK", "whatever comes of it"
    assert [packet.payload for packet in later.packets()] == ([udp4()[:length]] if passes else [])
    assert (journey.queued, journey.dropped) == (passes, not passes)


@rule("QV-21", "QV-15")
@pytest.mark.parametrize(("length", "passes"), [(0, False), (39, False), in_pieces(40, True)])
def test_nor_one_of_ipv6(kernel: KernelUnderTest, length: int, passes: bool) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    kernel.ip6tables("-A OUTPUT -j NFQUEUE --queue-num 2")
    listener, later = Listener(kernel), Listener(kernel, 2)
    kernel.send_datagram(udp6())
    assert listener.decide(1, payload=udp6()[:length]) == "ACK"
    assert [len(packet.payload or b"") for packet in later.packets()] == ([length] if passes else [])


@rule("QV-21")
@needs("payloads-unexamined")
@pytest.mark.parametrize("word", [ACCEPT, STOP])
@pytest.mark.parametrize("length", [0, 1, 20, 39, 40, 47])
def test_a_raw_packet_of_ipv6_can_be_cut_anywhere(kernel: KernelUnderTest, length: int, word: int) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    kernel.ip6tables("-t mangle -A POSTROUTING -j NFQUEUE --queue-num 2")
    listener, later = Listener(kernel), Listener(kernel, 2)
    journey = kernel.send(udp6())
    assert listener.decide(1, word, payload=udp6()[:length]) == "ACK"
    packet = later.packet()
    assert (packet.payload or b"", packet.outdev) == (udp6()[:length], kernel.index_of("lo")), "its route is the old one"
    assert later.decide(packet) == "ACK"
    assert journey.dropped, "when it comes in"


@rule("QV-21")
@pytest.mark.parametrize(("length", "leaves"), [(0, False), in_pieces(1, True), in_pieces(40, True)])
def test_what_is_left_of_it_leaves_unless_that_is_nothing(kernel: KernelUnderTest, length: int, leaves: bool) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    packet = udp6(source="fd00::1", destination="fd00::9")
    journey = kernel.send(packet)
    assert listener.decide(1, STOP, payload=packet[:length]) == "ACK"
    assert (journey.delivered, journey.dropped, journey.data) == (leaves, not leaves, packet[:length])


@rule("QV-22")
@pytest.mark.parametrize(("checksum", "arrives"), [(None, True), (0, True), (0x1234, False)], ids=["right", "none", "wrong"])
def test_checksums_are_not_repaired(kernel: KernelUnderTest, listener: Listener, checksum: int | None, arrives: bool) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, payload=udp4(b"HELLO", udp_checksum=checksum)) == "ACK"
    assert (journey.delivered, journey.dropped) == (arrives, not arrives)


@rule("QV-22", "QP-33")
def test_nor_those_of_a_packet_that_had_none_yet(kernel: KernelUnderTest, listener: Listener, later: Listener) -> None:
    listener.configure(mask=4, flags=4)  # GSO: leave checksums alone
    kernel.send_datagram(udp4())
    old = listener.packet()
    assert old.payload is not None
    assert udp_sum(old.payload) != 0xFFFF
    assert listener.decide(old, payload=old.payload) == "ACK"
    new = later.packet()
    assert (new.payload, new.skb_info) == (old.payload, None), "it counts as complete now"


@rule("QV-23")
@pytest.mark.parametrize(
    "packet",
    [
        udp4(b"HELLO", version=6),
        udp4(b"HELLO", length=30),
        udp4(b"HELLO", length=40),
        udp4(b"HELLO", ihl=6),
        udp4(b"HELLO", fragment=0x2000),
        bytes(33),
        b"x" * 100,
    ],
    ids=["version", "too short", "too long", "header length", "fragment", "zeros", "x"],
)
@needs("payloads-unexamined")
def test_the_new_packet_is_not_looked_at(kernel: KernelUnderTest, listener: Listener, packet: bytes) -> None:
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 2")
    later = Listener(kernel, 2)
    journey = kernel.send(udp4())
    assert listener.decide(1, payload=packet) == "ACK"
    assert later.packet().payload == packet
    assert journey.queued


@rule("QV-24")
def test_a_new_packet_may_be_dropped(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, DROP, payload=udp4(b"HELLO")) == "ACK"
    assert journey.dropped


@rule("QV-24")
def test_a_new_packet_may_be_stopped(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    assert listener.decide(1, STOP, payload=udp4(b"HELLO")) == "ACK"
    assert (journey.delivered, journey.data) == (True, udp4(b"HELLO"))


@rule("QV-24")
@pytest.mark.parametrize("word", [REPEAT, to_queue(1)])
def test_a_new_packet_may_be_queued_again(kernel: KernelUnderTest, listener: Listener, word: int) -> None:
    kernel.send(udp4())
    assert listener.decide(1, word, payload=udp4(b"HELLO")) == "ACK"
    assert [packet.payload for packet in listener.packets()] == [udp4(), udp4(b"HELLO")]


@rule("QV-25")
def test_a_new_packet_may_go_elsewhere(kernel: KernelUnderTest, listener: Listener) -> None:
    journey = kernel.send(udp4())
    new = udp4(source="10.0.0.1", destination="192.0.2.9")
    assert listener.decide(1, payload=new) == "ACK"
    assert (journey.delivered, journey.data, journey.answers) == (True, new, [])


@rule("QV-26", "QV-20", "QP-12")
@pytest.mark.parametrize("length", [33, 200, 225, 226, 232, 233, 500, 1400])
@pytest.mark.parametrize("how", ["raw IPv4", "raw IPv6", "IPv4", "IPv6"])
def test_a_packet_that_outgrows_its_memory_is_nobody_s(kernel: KernelUnderTest, listener: Listener, how: str, length: int) -> None:
    kernel.ip6tables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    small = small_head(listener)
    listener.configure(mask=8, flags=8)  # UID_GID

    def long(size: int) -> bytes:
        return udp4(bytes(size - 28)) if how.endswith("IPv4") else udp6(bytes(max(size - 48, 0)))

    packet = long(length)
    # in front of the packet there is room for link-layer headers (16), behind it some to align it
    asked, front = (len(packet) + 24, 24) if how == "IPv6" else (len(packet) + 31, 16)
    most = head(asked, small) - 320 - front
    for grown, somebody in ((most, True), (most + 1, False)):
        if how.startswith("raw"):
            kernel.send(packet)
        else:
            kernel.send_datagram(packet)
        before = listener.packet()
        assert listener.decide(before, to_queue(1), payload=long(grown)) == "ACK"
        after = listener.packet()
        assert (before.uid is not None, after.uid is not None) == (True, somebody)
        assert listener.decide(after, DROP) == "ACK"


@rule("QV-26")
@pytest.mark.parametrize(("length", "somebody"), [(19_000, True), (20_000, True), (20_001, False)])
def test_behind_data_in_pages_there_is_no_room(kernel: KernelUnderTest, listener: Listener, length: int, somebody: bool) -> None:
    listener.configure(mask=8, flags=8)  # UID_GID
    kernel.send_datagram(udp4(bytes(20_000 - 28)))
    assert listener.decide(1, to_queue(1), payload=udp4(bytes(length - 28))) == "ACK"
    assert [packet.uid is not None for packet in listener.packets()] == [True, somebody]


@rule("QV-26", "QP-34")
@pytest.mark.parametrize(("length", "info"), [(150, None), (2000, 4)])
def test_and_its_checksum_was_verified_by_nobody(kernel: KernelUnderTest, length: int, info: int | None) -> None:
    kernel.iptables(f"-t mangle -A POSTROUTING {CAUGHT} 1")
    listener = Listener(kernel)
    kernel.send(udp4())
    assert listener.decide(1, to_queue(1), payload=udp4(bytes(length - 28))) == "ACK"
    assert [packet.skb_info for packet in listener.packets()] == [None, info]


@rule("QV-31", "QV-32", "QV-36")
@pytest.mark.parametrize(
    ("number", "payload"),
    [
        (VLAN, b""),
        (VLAN, attribute(1, b"\x81\0")),
        (VLAN | 0x8000, attribute(1, b"\x81\0") + attribute(2, b"\0\5")),
        (L2HDR, b"abc"),
        (L2HDR, bytes(14)),
        (CT, b""),
        (CT, b"rubbish"),
        (CT | 0x8000, attribute(8, be32(5))),
        (EXP, b"rubbish"),
    ],
    ids=["vlan", "vlan half", "vlan whole", "l2hdr short", "l2hdr", "ct", "ct rubbish", "ct mark", "exp"],
)
def test_what_does_not_apply_is_ignored(kernel: KernelUnderTest, listener: Listener, number: int, payload: bytes) -> None:
    journey = kernel.send(udp4())
    header = attribute(VERDICT_HDR, struct.pack(">II", ACCEPT, 1))
    assert listener.request(nfnetlink(3, VERDICT, header + attribute(number, payload), res_id=1)) == "ACK"
    assert (journey.delivered, journey.mark) == (True, 0)
