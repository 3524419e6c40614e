"""Into a queue and out of it. Names such as QE-2 are those of the measured rules the contract tests carry."""

from __future__ import annotations

import copy

import pytest

from nfnl.sim.hooks import ACCEPT, DROP, INPUT, OUTPUT, POSTROUTING, PREROUTING, QUEUE, QUEUE_BYPASS, REPEAT, STOP
from nfnl.sim.journey import Fate
from nfnl.sim.queueing import (
    COPY_META,
    COPY_NONE,
    CSUM_NOT_READY,
    CSUM_NOT_VERIFIED,
    FAIL_OPEN,
    GSO,
    Queue,
    QueuedEntry,
    QueueTable,
)
from nfnl.sim.skb import Link
from tests.unit.sim.dataplane import IP, PING, PING6, TCP, UDP, IPv6, World, ip4, ip6

LOCAL = ip4(PING, src="10.0.0.1", dst="10.0.0.9")
LOOP = ip4(UDP(dport=9) / b"abc", src="127.0.0.1", dst="127.0.0.1")


def queueing(rule: str = "-t mangle -A INPUT -j NFQUEUE --queue-num 1") -> World:
    world = World()
    world.iptables(rule)
    world.listen()
    return world


# ----------------------------------------------------------------------------------------------------------- which there are


def test_a_new_queue_is_in_mode_none_with_the_kernels_defaults() -> None:
    queue = World().queues.create(7, owner=123)
    assert (queue.number, queue.owner, queue.copy_mode, queue.copy_range) == (7, 123, COPY_NONE, 65531)
    assert (queue.max_length, queue.flags, queue.last_id, queue.dropped, queue.user_dropped) == (1024, 0, 0, 0, 0)


def test_an_empty_queue_is_a_queue() -> None:
    world = World()
    queue = world.queues.create(7, owner=1)
    assert world.queues.get(7) is queue
    assert queue
    assert len(queue) == 0
    assert world.queues.get(8) is None


def test_a_number_is_taken_once() -> None:
    queues = World().queues
    queues.create(7, owner=1)
    with pytest.raises(ValueError, match="exists"):
        queues.create(7, owner=2)
    with pytest.raises(KeyError):
        queues.destroy(8)


def test_the_order_of_proc_is_by_bucket_and_in_it_the_newest_first() -> None:
    queues = World().queues
    for number in (5, 21, 0x500, 1, 16, 0):
        queues.create(number, owner=1)
    assert [queue.number for queue in queues.queues()] == [0, 16, 1, 0x500, 21, 5]


# ------------------------------------------------------------------------------------------------------------------- in


def test_the_packet_waits_where_the_rule_was() -> None:
    world = queueing()
    journey = world.stack.receive(ip4(PING))
    assert journey.queued
    assert journey.queue == 1
    assert journey.data == journey.packet
    [(number, entry)] = world.told
    assert (number, entry.id, entry.hook, entry.family, entry.hw_protocol) == (1, 1, INPUT, 2, 0x0800)
    assert (entry.indev, entry.outdev, entry.mark, entry.priority) == (2, None, 0, 0)
    assert entry.payload == journey.packet
    assert entry.journey is journey
    assert entry.hwaddr is None  # eth0 is a tun device here: no link-layer header
    assert entry.timestamp is None
    assert (entry.uid, entry.gid) == (None, None)


def test_what_a_packet_is_told_with_at_each_hook() -> None:
    world = World()
    world.stack.add_device("eth1", Link.ETHER, index=9)
    queue = world.listen()
    facts: list[tuple[object, ...]] = []

    def note(_: Queue, e: QueuedEntry) -> bool:
        facts.append((e.hook, e.indev, e.outdev, e.hwaddr, e.mark, e.priority, e.uid, e.gid))
        return True

    queue.deliver = note
    for chain in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"):
        world.iptables(f"-t mangle -A {chain} -j NFQUEUE --queue-num 1")
    world.stack.send(LOOP, mark=3, priority=5, uid=1000, gid=100)
    for _ in range(4):
        world.answer(ACCEPT)
    world.answer(DROP)  # the port unreachable that answers it
    zeros, mac = bytes(6), bytes.fromhex("020304050607")
    assert facts == [
        (OUTPUT, None, 1, None, 3, 5, 1000, 100),
        (POSTROUTING, None, 1, None, 3, 5, 1000, 100),
        (PREROUTING, 1, None, zeros, 3, 5, None, None),
        (INPUT, 1, None, zeros, 3, 5, None, None),
        (OUTPUT, None, 1, None, 0, 0, None, None),
    ]
    facts.clear()
    world.stack.forward(ip4(PING, dst="192.0.2.9", tos=0x10), "eth1", "eth0")
    for _ in range(3):
        world.answer(ACCEPT)
    assert [fact[:3] for fact in facts] == [(0, 9, None), (2, 9, 2), (4, 9, 2)]
    assert [fact[5] for fact in facts] == [0, 6, 6]  # forwarding sets the priority by the TOS
    facts.clear()
    world.stack.receive(ip4(PING), "eth1", hwaddr=mac)
    assert facts[0][3] == mac


def test_nobody_listens() -> None:  # QE-1
    world = World()
    world.iptables("-A OUTPUT -j NFQUEUE --queue-num 1")
    journey = world.stack.send(LOCAL)
    assert journey.dropped
    assert journey.reason == "queue 1: nobody listens"
    assert journey.errno == 0  # unlike a DROP


def test_bypass_goes_on_with_the_next_table_not_the_next_rule() -> None:  # QE-2
    world = World()
    world.iptables("-t mangle -A OUTPUT -j NFQUEUE --queue-num 1 --queue-bypass")
    world.iptables("-t mangle -A OUTPUT -j DROP")
    world.iptables("-A OUTPUT")
    assert world.stack.send(LOCAL).delivered
    assert world.hits("OUTPUT", table="mangle") == [1, 0]
    assert world.hits("OUTPUT") == [1]


def test_mode_none_drops_even_with_bypass() -> None:  # QE-3
    world = World()
    queue = world.listen(mode=COPY_NONE)
    world.iptables("-A OUTPUT -j NFQUEUE --queue-num 1 --queue-bypass")
    assert world.stack.send(LOCAL).dropped
    assert (queue.last_id, queue.dropped, queue.user_dropped) == (0, 0, 0)
    assert world.told == []


def test_a_full_queue_drops_and_counts_and_uses_no_id() -> None:  # QE-4, QE-6
    world = World()
    queue = world.listen(max_length=2)
    world.iptables("-A INPUT -j NFQUEUE --queue-num 1")
    journeys = [world.stack.receive(ip4(PING)) for _ in range(3)]
    assert [journey.fate for journey in journeys] == [Fate.QUEUED, Fate.QUEUED, Fate.DROPPED]
    assert (queue.last_id, queue.dropped, queue.user_dropped) == (2, 1, 0)
    queue.max_length = 1
    assert len(queue) == 2
    world.answer(ACCEPT)
    assert world.stack.receive(ip4(PING)).dropped


def test_a_full_queue_that_fails_open_accepts() -> None:  # QE-5
    world = World()
    queue = world.listen(max_length=0, flags=FAIL_OPEN)
    world.iptables("-t mangle -A INPUT -j NFQUEUE --queue-num 1")
    world.iptables("-A INPUT")
    assert world.stack.receive(ip4(PING)).delivered
    assert world.hits("INPUT") == [1]
    assert (queue.last_id, queue.dropped, world.told) == (0, 0, [])


def test_an_owner_that_does_not_take_the_message_costs_an_id() -> None:  # QE-8
    world = queueing()
    queue = world.queues.get(1)
    assert queue is not None
    world.listening = False
    assert world.stack.receive(ip4(PING)).dropped
    assert (queue.last_id, queue.dropped, queue.user_dropped) == (1, 0, 1)
    queue.flags = FAIL_OPEN
    assert world.stack.receive(ip4(PING)).delivered
    assert (queue.last_id, queue.user_dropped) == (2, 1)
    world.listening = True
    world.stack.receive(ip4(PING))
    assert world.told[0][1].id == 3


def test_the_limit_of_entries_costs_an_id_too() -> None:  # QE-10
    world = World()
    world.queues = QueueTable(world.hooks, entry_limit=2)
    world.queues.run_to_rest = world.stack.run
    queue = world.listen()
    world.iptables("-A INPUT -j NFQUEUE --queue-num 1")
    journeys = [world.stack.receive(ip4(PING)) for _ in range(3)]
    assert journeys[2].dropped
    assert (queue.last_id, queue.dropped, len(queue)) == (3, 1, 2)
    world.queues.entry_limit = None
    assert world.stack.receive(ip4(PING)).queued


def test_ids_wrap_at_2_32() -> None:  # QE-7
    world = queueing()
    queue = world.queues.get(1)
    assert queue is not None
    queue.last_id = 0xFFFFFFFE
    for _ in range(3):
        world.stack.receive(ip4(PING))
    assert list(queue.entries) == [0xFFFFFFFF, 0, 1]
    assert [entry.id for entry in queue.take_until(0)] == [0xFFFFFFFF, 0]


def test_ids_start_at_1_after_a_new_bind() -> None:
    world = queueing()
    world.stack.receive(ip4(PING))
    world.queues.destroy(1)
    world.listen()
    world.stack.receive(ip4(PING))
    assert [entry.id for _, entry in world.told] == [1, 1]


# ------------------------------------------------------------------------------------------------------------------- checksums


def test_a_partial_checksum_is_finished_for_copying() -> None:  # QP-33
    world = World()
    world.listen()
    world.iptables("-A OUTPUT -j NFQUEUE --queue-num 1")
    journey = world.stack.send(LOOP, partial_checksum=True)
    [(_, entry)] = world.told
    assert entry.skb_info == 0
    assert IP(entry.payload).getlayer("UDP").chksum == IP(LOOP).getlayer("UDP").chksum
    assert journey.queued


@pytest.mark.parametrize(("mode", "flags"), [(COPY_META, 0), (2, GSO)])
def test_it_stays_partial_without_a_copy_or_with_the_gso_flag(mode: int, flags: int) -> None:
    world = World()
    world.listen(mode=mode, flags=flags)
    world.iptables("-A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.send(LOOP, partial_checksum=True)
    [(_, entry)] = world.told
    assert entry.skb_info == CSUM_NOT_READY
    pseudo = 0x7F00 + 1 + 0x7F00 + 1 + 17 + 11
    assert entry.payload[26:28] == pseudo.to_bytes(2, "big")
    assert world.answer(ACCEPT).delivered  # over the loopback nobody asks


def test_unverified_checksums_are_told_on_the_way_in() -> None:  # QP-34
    world = World()
    world.listen()
    for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"):
        world.iptables(f"-t mangle -A {chain} -j NFQUEUE --queue-num 1")
    world.stack.send(LOOP)  # as by a raw socket: complete, but nobody vouches for it
    for _ in range(4):
        world.answer(ACCEPT)
    assert [entry.skb_info for _, entry in world.told[:4]] == [0, 0, CSUM_NOT_VERIFIED, CSUM_NOT_VERIFIED]


def test_a_reset_over_ipv6_leaves_its_checksum_to_the_device() -> None:
    world = World()
    world.listen(mode=COPY_META)
    world.ip6tables("-A OUTPUT -j NFQUEUE --queue-num 1")
    journey = world.stack.receive(ip6(TCP(dport=9)))
    assert world.told[0][1].skb_info == CSUM_NOT_READY
    world.answer(ACCEPT)
    [answer] = journey.answers
    assert answer.fate is Fate.SENT
    right = IPv6(answer.data)
    del right["TCP"].chksum
    assert bytes(right) == answer.data  # it is complete when it has left


def test_time_stamps_only_when_somebody_asked_and_only_on_the_way_in() -> None:  # QP-11
    world = World()
    world.listen()
    for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"):
        world.iptables(f"-t mangle -A {chain} -j NFQUEUE --queue-num 1")
    world.stack.timestamping = True
    world.clock.advance(2.5)
    stamps = []
    world.stack.send(LOOP)
    for _ in range(4):
        stamps.append(world.told[-1][1].timestamp)
        world.answer(ACCEPT)
    assert stamps == [None, None, world.clock.wall(), world.clock.wall()]


# ------------------------------------------------------------------------------------------------------------------- out


def later_hooks() -> World:
    """Queued in mangle INPUT; filter INPUT counts."""
    world = queueing()
    world.iptables("-t mangle -A INPUT -j DROP")
    world.iptables("-A INPUT")
    world.stack.receive(ip4(PING))
    return world


@pytest.mark.parametrize(
    ("verdict", "delivered", "filter_hits"),
    [
        (ACCEPT, True, 1),  # QV-7: the next function, not the next rule
        (STOP, True, 0),  # QV-8
        (0x10001, True, 0),  # QV-9: any upper bit makes it a STOP
        (0x101, True, 0),
        (0x8001, True, 0),
        (STOP | 0x50000, True, 0),
        (DROP, False, 0),
        (DROP | 0x50000, False, 0),  # QV-6
        (REPEAT | 0x10000, False, 0),  # QV-11
    ],
)
def test_verdicts(verdict: int, delivered: bool, filter_hits: int) -> None:
    world = later_hooks()
    journey = world.answer(verdict)
    assert journey.delivered is delivered
    assert journey.dropped is not delivered
    assert world.hits("INPUT") == [filter_hits]


def test_the_answer_of_an_accepted_packet_has_left_when_reinject_returns() -> None:
    world = later_hooks()
    [answer] = world.answer(ACCEPT).answers
    assert world.stack.seen == [("eth0", answer.data)]


def test_repeat_runs_the_same_table_again() -> None:  # QV-10
    world = later_hooks()
    journey = world.answer(REPEAT)
    assert journey.queued
    assert world.told[-1][1].id == 2
    assert world.hits("INPUT", table="mangle") == [2, 0]
    entry = world.told[-1][1]
    world.iptables("-t mangle -I INPUT -m mark --mark 7 -j ACCEPT")  # QV-17: the rules of now
    entry.mark = 7
    assert world.answer(REPEAT).delivered
    assert world.hits("INPUT") == [1]
    assert journey.mark == 7


def test_queue_to_another_queue_and_to_itself() -> None:  # QV-12
    world = later_hooks()
    world.listen(2)
    journey = world.answer(QUEUE | 2 << 16)
    assert journey.queue == 2
    assert world.told[-1][0] == 2
    world.answer(QUEUE | 2 << 16, number=2)
    assert world.told[-1][1].id == 2
    assert world.answer(ACCEPT, number=2).delivered
    assert world.hits("INPUT") == [1]


def test_queue_to_nobody() -> None:  # QV-13
    assert later_hooks().answer(QUEUE | 9 << 16).dropped
    world = later_hooks()
    assert world.answer(QUEUE | 9 << 16 | QUEUE_BYPASS).delivered
    assert world.hits("INPUT") == [1]
    world = later_hooks()
    world.listen(9, mode=COPY_NONE)
    assert world.answer(QUEUE | 9 << 16 | QUEUE_BYPASS).dropped


def test_a_table_made_while_a_packet_waits_shifts_the_place_it_goes_on_from() -> None:
    """The kernel remembers a number, not the function: made later, mangle takes the place of filter, and filter is met again."""
    world = World()
    world.listen()
    world.iptables("-A OUTPUT -p icmp -j NFQUEUE --queue-num 1")
    world.stack.send(LOCAL)
    world.iptables("-t mangle -A OUTPUT -p udp -j ACCEPT")
    journey = world.answer(ACCEPT)
    assert journey.queued
    assert world.told[-1][1].id == 2
    assert world.hits("OUTPUT") == [2]
    assert world.answer(ACCEPT).delivered


def test_a_hook_that_is_gone_takes_the_packet_with_it() -> None:
    world = World()
    queue = world.listen()
    world.iptables("-A INPUT -j NFQUEUE --queue-num 1")
    journey = world.stack.receive(ip4(PING))
    entry = queue.take(1)  # the verdict is under way: no flush finds it
    assert entry is not None
    world.hooks.unregister(2, INPUT, "filter")
    world.queues.reinject(entry, ACCEPT)
    assert journey.dropped


# ------------------------------------------------------------------------------------------------------------------- re-routing


@pytest.mark.parametrize(
    ("change", "rerouted"),
    [
        ("nothing", False),
        ("mark", True),
        ("tos", True),
        ("source", True),
        ("destination", True),
        ("ttl", False),
    ],
)
def test_what_makes_accept_look_for_a_new_route_on_output(change: str, rerouted: bool) -> None:  # QV-14, QV-25
    world = queueing("-A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.send(LOCAL)
    entry = world.told[0][1]
    if change == "mark":
        entry.mark = 1
    else:
        fields: dict[str, dict[str, object]] = {
            "tos": {"tos": 4},
            "source": {"src": "10.0.0.2"},
            "destination": {"dst": "10.0.0.8"},
            "ttl": {"ttl": 3},
        }
        assert world.queues.replace_payload(entry, ip4(PING, **({"src": "10.0.0.1", "dst": "10.0.0.9"} | fields.get(change, {}))))
    assert entry.reroute_needed is rerouted


def test_no_new_route_drops_and_stop_does_not_look() -> None:
    for verdict, delivered in ((ACCEPT, False), (STOP, True), (0x10001, True)):
        world = queueing("-A OUTPUT -j NFQUEUE --queue-num 1")
        world.stack.add_route("0.0.0.0/0", None, mark=5)
        world.stack.send(LOCAL)
        world.told[0][1].mark = 5
        assert world.answer(verdict).delivered is delivered


def test_a_new_route_is_only_for_output() -> None:
    world = queueing("-t mangle -A POSTROUTING -j NFQUEUE --queue-num 1")
    world.stack.add_route("0.0.0.0/0", None, mark=5)
    world.stack.send(LOCAL)
    world.told[0][1].mark = 5
    assert not world.told[0][1].reroute_needed
    assert world.answer(ACCEPT).delivered


def test_ipv6_does_not_look_at_the_traffic_class() -> None:
    world = World()
    world.listen()
    world.ip6tables("-A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.send(ip6(PING6, src="fd00::1", dst="fd00::9"))
    entry = world.told[0][1]
    world.queues.replace_payload(entry, ip6(PING6, src="fd00::1", dst="fd00::9", tc=4))
    assert not entry.reroute_needed
    world.queues.replace_payload(entry, ip6(PING6, src="fd00::1", dst="fd00::8"))
    assert entry.reroute_needed


# ------------------------------------------------------------------------------------------------------------------- payload


@pytest.mark.parametrize(
    ("length", "possible"),
    [(0, False), (19, False), (20, True), (32, True), (33, True), (65531, True)],
)
def test_a_payload_may_shrink_to_the_transport_header(length: int, possible: bool) -> None:  # QV-20, QV-21
    world = queueing()
    data = ip4(PING)
    assert len(data) == 33
    world.stack.receive(data)
    entry = world.told[0][1]
    assert world.queues.replace_payload(entry, bytes(length)) is possible
    assert len(entry.payload) == (length if possible else 33)


def test_ipv6_to_40_bytes_or_to_the_end_of_a_hop_by_hop_header() -> None:
    from scapy.layers.inet6 import IPv6ExtHdrHopByHop

    world = World()
    world.listen()
    world.ip6tables("-A INPUT -j NFQUEUE --queue-num 1")
    world.stack.receive(ip6(PING6))
    world.stack.receive(ip6(IPv6ExtHdrHopByHop() / PING6))
    plain, extended = (entry for _, entry in world.told)
    assert not world.queues.replace_payload(plain, bytes(39))
    assert world.queues.replace_payload(plain, bytes(40))
    assert not world.queues.replace_payload(extended, bytes(47))
    assert world.queues.replace_payload(extended, bytes(48))


def test_a_packet_from_a_raw_ipv6_socket_may_shrink_to_nothing_and_dies_later() -> None:
    world = World()
    world.listen()
    world.ip6tables("-A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.send(ip6(PING6, src="::1", dst="::1"))
    entry = world.told[0][1]
    assert world.queues.replace_payload(entry, b"")
    assert world.answer(STOP).reason == "malformed IPv6 header"


def test_nothing_is_repaired() -> None:  # QV-22, QV-23
    world = queueing()
    world.iptables("-A INPUT -p udp --dport 9")
    world.stack.receive(ip4(UDP(dport=9) / b"abc"))
    entry = world.told[0][1]
    stale = entry.payload[:-1] + b"!"
    assert world.queues.replace_payload(entry, stale)
    journey = world.answer(ACCEPT)
    assert journey.reason == "bad UDP checksum"
    assert journey.data == stale
    assert world.hits("INPUT") == [1]


def test_a_payload_without_udp_checksum_passes() -> None:
    world = queueing()
    world.stack.receive(ip4(UDP(dport=9) / b"abc"))
    entry = world.told[0][1]
    assert world.queues.replace_payload(entry, ip4(UDP(dport=9, chksum=0) / b"longer"))
    assert world.answer(ACCEPT).delivered


def test_rules_see_the_new_payload() -> None:
    world = queueing()
    world.iptables("-A INPUT -p tcp --dport 80")
    world.iptables("-A INPUT -p icmp")
    world.stack.receive(ip4(PING))
    world.queues.replace_payload(world.told[0][1], ip4(TCP(dport=80)))
    world.answer(ACCEPT)
    assert world.hits("INPUT") == [1, 0]


def test_the_marks_and_bytes_of_the_end_are_in_the_journey() -> None:
    world = queueing("-A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.send(LOCAL)
    entry = world.told[0][1]
    entry.mark, entry.priority = 9, 4
    new = ip4(PING, src="10.0.0.1", dst="10.0.0.9", ttl=3)
    world.queues.replace_payload(entry, new)
    journey = world.answer(ACCEPT)
    assert (journey.mark, journey.data, journey.packet) == (9, new, LOCAL)


# ------------------------------------------------------------------------------------------------------------------- many at once


def test_a_batch_takes_from_the_front_and_stops_at_the_first_beyond() -> None:  # QB-2 to QB-4
    world = queueing()
    queue = world.queues.get(1)
    assert queue is not None
    for _ in range(5):
        world.stack.receive(ip4(PING))
    assert queue.take_until(0) == []
    assert [entry.id for entry in queue.take_until(2)] == [1, 2]
    queue.take(4)
    assert [entry.id for entry in queue.take_until(4)] == [3]
    assert queue.take_until(5 + 2**31 + 1) == []
    assert [entry.id for entry in queue.take_until(5 + 2**31)] == [5]
    assert queue.take_until(99) == []


def test_repeating_a_batch_queues_each_once() -> None:  # QB-6
    world = queueing()
    queue = world.queues.get(1)
    assert queue is not None
    for _ in range(3):
        world.stack.receive(ip4(PING))
    for entry in queue.take_until(99):
        world.queues.reinject(entry, REPEAT)
    assert list(queue.entries) == [4, 5, 6]


# ------------------------------------------------------------------------------------------------------------------- lost


def test_closing_a_queue_drops_what_waits() -> None:  # QF-1
    world = World()
    world.listen(flags=FAIL_OPEN)
    world.iptables("-A INPUT -j NFQUEUE --queue-num 1")
    journey = world.stack.receive(ip4(PING))
    world.queues.destroy(1)
    assert journey.dropped
    assert world.queues.get(1) is None


def test_changing_rules_leaves_the_queue_alone() -> None:  # QF-4
    world = queueing()
    journey = world.stack.receive(ip4(PING))
    world.iptables("-t mangle -F")
    assert journey.queued
    assert world.answer(ACCEPT).delivered


def test_a_device_that_goes_down_takes_its_packets() -> None:  # QF-5, QF-6
    world = queueing("-t mangle -A PREROUTING -j NFQUEUE --queue-num 1")
    world.iptables("-t mangle -A OUTPUT -j NFQUEUE --queue-num 1")
    world.stack.add_device("eth1")
    into = world.stack.receive(ip4(PING), "eth1")
    out = world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9"))
    other = world.stack.receive(ip4(PING), "eth0")
    world.stack.set_up("eth1", False)
    assert [journey.fate for journey in (into, out, other)] == [Fate.DROPPED, Fate.QUEUED, Fate.QUEUED]
    world.stack.set_up("eth0", False)
    assert [journey.fate for journey in (out, other)] == [Fate.DROPPED, Fate.DROPPED]
    queue = world.queues.get(1)
    assert queue is not None
    assert (queue.dropped, queue.user_dropped, len(queue)) == (0, 0, 0)


# ------------------------------------------------------------------------------------------------------------------- snapshots


def test_a_deep_copy_is_a_machine_of_its_own() -> None:
    world = queueing()
    world.iptables("-A INPUT")
    original = world.stack.receive(ip4(PING))
    twin = copy.deepcopy(world)
    assert world.answer(ACCEPT).delivered
    copied = twin.answer(DROP)
    assert copied.dropped
    assert copied is not original
    assert original.delivered
    assert (world.hits("INPUT"), twin.hits("INPUT")) == ([1], [0])
    twin.iptables("-F INPUT")
    assert world.hits("INPUT") == [1]
    twin.stack.receive(ip4(PING))
    assert (len(twin.told), len(world.told)) == (2, 1)
