"""The table of flows. Names such as A4.1 are those of the measured rules the contract tests carry."""

from __future__ import annotations

import copy
from errno import EBUSY, EEXIST, ENOMEM, EPERM, ETIME

import pytest

from nfnl.sim.clock import EPOCH
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import NO_ADJUSTMENT, ORIGINAL, REPLY, Entry, Event, Status, change_status
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.tuples import DEFAULT_ZONE, Zone
from tests.unit.sim.flows import A, B, C, inverse, new_table, packet, request, udp

T = udp()


def test_a_flow_is_found_by_either_tuple() -> None:
    _, table, _ = new_table()
    entry = request(table, T)
    assert table.find(DEFAULT_ZONE, T) is entry
    assert table.lookup(DEFAULT_ZONE, T) == (entry, ORIGINAL)
    assert table.lookup(DEFAULT_ZONE, inverse(T)) == (entry, REPLY)
    assert table.find(DEFAULT_ZONE, udp(1)) is None
    assert (entry.tuple(ORIGINAL), entry.tuple(REPLY)) == (T, inverse(T))


def test_a_flow_that_mirrors_itself_is_found_as_its_own_answer() -> None:
    _, table, _ = new_table()
    t = udp(7, 7, A, A)
    entry = request(table, t)
    assert table.lookup(DEFAULT_ZONE, t) == (entry, REPLY)


def test_an_unconfirmed_flow_counts_but_is_not_found() -> None:
    _, table, _ = new_table()
    entry = table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert (table.count, len(table), table.find(DEFAULT_ZONE, T)) == (1, 0, None)
    assert list(table.walk()) == []
    table.put(entry)
    assert table.count == 0


@pytest.mark.parametrize("taken", [T, inverse(T)])
def test_a_tuple_is_taken_once_in_whatever_direction(taken: object) -> None:
    _, table, _ = new_table()
    request(table, T)
    other = T if taken == T else inverse(T)
    for original, reply in ((other, udp(9)), (udp(9), other)):
        with pytest.raises(FileExistsError) as raised:
            request(table, original, reply=reply)
        assert raised.value.errno == EEXIST
    assert (len(table), table.count) == (1, 1)


def test_zones_keep_equal_tuples_apart() -> None:
    _, table, _ = new_table()
    flows = {zone: request(table, T, zone=Zone(zone)) for zone in (0, 5, 6)}
    for zone, entry in flows.items():
        assert table.find(Zone(zone), T) is entry
        assert table.find(Zone(zone), inverse(T)) is entry
    assert table.find(Zone(7), T) is None


def test_a_zone_for_one_direction_counts_as_0_in_the_other() -> None:
    _, table, _ = new_table()
    entry = request(table, T, zone=Zone(5, 1))
    assert table.find(Zone(5, 1), T) is entry
    assert table.find(Zone(5), T) is entry
    assert table.find(DEFAULT_ZONE, T) is None
    assert table.find(DEFAULT_ZONE, inverse(T)) is entry
    assert table.find(Zone(5), inverse(T)) is None
    # its reply tuple stands in zone 0 and is taken there
    with pytest.raises(FileExistsError):
        request(table, inverse(T))
    request(table, inverse(T), zone=Zone(5, 1), reply=udp(9))


def test_ids_differ_and_come_again_with_the_same_seed() -> None:
    def ids(seed: int) -> list[int]:
        table = ConntrackTable(new_table()[0], seed=seed)
        return [request(table, udp(port)).id for port in range(100)]

    assert len(set(ids(1))) == 100
    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


# ------------------------------------------------------------------------------------------------------------------- areas


def test_without_switches_a_flow_carries_nothing() -> None:
    _, table, _ = new_table(listening=False)
    entry = table.allocate(DEFAULT_ZONE, T, inverse(T))
    table.add_areas(entry)
    carried = (entry.counters, entry.start, entry.labels, entry.seqadj, entry.synproxy, entry.event_mask)
    assert carried == (None,) * 6


def test_what_a_flow_carries_is_decided_when_it_is_made() -> None:
    _, table, _ = new_table()
    table.sysctls.current.update(acct=1, timestamp=1)
    table.label_users = 1
    entry = request(table, T)
    table.sysctls.current.update(acct=0, timestamp=0, events=0)
    assert (entry.counters, entry.labels, entry.event_mask, entry.expect_mask) == ([0, 0, 0, 0], 0, 0xFFFF, 0xFFFF)
    assert entry.start == EPOCH * 10**9
    assert (entry.seqadj, entry.synproxy) == (NO_ADJUSTMENT, (0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "listening", "asked", "mask"),
    [
        (0, True, 0, None),
        (0, False, Event.MARK, Event.MARK),
        (1, False, 0, 0xFFFF),
        (1, False, Event.MARK, Event.MARK),
        (2, False, 0, None),
        (2, True, 0, 0xFFFF),
        (2, True, Event.MARK, Event.MARK),
    ],
)
def test_who_has_events(mode: int, listening: bool, asked: int, mask: int | None) -> None:
    _, table, _ = new_table()
    table.sysctls.current["events"] = mode
    table.has_listeners = lambda: listening
    entry = table.allocate(DEFAULT_ZONE, T, inverse(T))
    table.add_areas(entry, events=asked)
    assert entry.event_mask == mask


# -------------------------------------------------------------------------------------------------------------------- time


def test_a_flow_ends_at_its_time_and_says_so() -> None:
    clock, table, told = new_table()
    table.sysctls.current["timestamp"] = 1
    entry = request(table, T, 30)
    assert table.seconds_left(entry) == 30
    clock.advance(29.9)
    assert (table.seconds_left(entry), len(table)) == (0, 1)
    clock.advance(100)
    assert (len(table), table.count, table.seconds_left(entry)) == (0, 0, 0)
    assert told.events == [(Event.DESTROY, entry, 0, False)]
    assert entry.dying
    assert entry.stop == (EPOCH + 30) * 10**9


def test_flows_end_in_the_order_of_their_times() -> None:
    clock, table, told = new_table()
    flows = [request(table, udp(port), timeout) for port, timeout in ((1, 30), (2, 10), (3, 20))]
    clock.advance(60)
    assert [entry for _, entry, *_ in told.events] == [flows[1], flows[2], flows[0]]


def test_packets_put_the_end_off() -> None:
    clock, table, told = new_table()
    entry = packet(table, T)
    for _ in range(10):
        clock.advance(29)
        table.refresh(entry, 30 * HZ)
    assert len(table) == 1
    clock.advance(30)
    assert told.bits() == [Event.DESTROY]


def test_a_shorter_timeout_is_kept() -> None:
    clock, table, _ = new_table()
    entry = request(table, T, 432000)
    table.refresh(entry, 10 * HZ)
    clock.advance(10)
    assert len(table) == 0


def test_a_fixed_timeout_is_not_moved() -> None:
    clock, table, _ = new_table()
    entry = request(table, T, 30, status=Status.FIXED_TIMEOUT)
    table.refresh(entry, 1000 * HZ)
    with pytest.raises(PermissionError) as raised:
        table.set_timeout(entry, 1000)
    assert raised.value.errno == EPERM
    clock.advance(30)
    assert len(table) == 0


def test_a_timeout_is_capped() -> None:
    _, table, _ = new_table()
    entry = request(table, T)
    table.set_timeout(entry, 2**32 - 1)
    assert table.seconds_left(entry) == 8589934


def test_the_timeout_of_a_flow_that_is_gone_cannot_be_set() -> None:
    _, table, _ = new_table()
    entry = request(table, T)
    table.delete(entry)
    with pytest.raises(OSError, match="Timer expired") as raised:
        table.set_timeout(entry, 1)
    assert raised.value.errno == ETIME


@pytest.mark.parametrize("look", ["lookup", "walk", "taken", "advance"])
def test_a_timeout_of_0_makes_a_flow_that_nobody_meets(look: str) -> None:
    clock, table, told = new_table()
    entry = request(table, T, 0)
    assert table.count == 1
    if look == "lookup":
        assert table.lookup(DEFAULT_ZONE, T) is None
    elif look == "walk":
        assert list(table.walk()) == []
    elif look == "taken":
        assert not table.taken(T, request(table, udp(9)))
    else:
        clock.advance(0)
    assert [(bits, gone) for bits, gone, *_ in told.events] == [(Event.DESTROY, entry)]


def test_a_stop_that_is_noticed_late_is_told_as_it_was() -> None:
    clock, table, _ = new_table()
    table.sysctls.current["timestamp"] = 1
    clock.advance(10)
    entry = request(table, T)
    entry.expires = table.now - 3 * HZ
    assert table.find(DEFAULT_ZONE, T) is None
    assert entry.stop == (EPOCH + 7) * 10**9


def test_a_packets_flow_starts_to_run_when_it_is_confirmed() -> None:
    clock, table, told = new_table()
    table.sysctls.current["timestamp"] = 1
    entry = table.allocate(DEFAULT_ZONE, T, inverse(T))
    table.add_areas(entry)
    table.refresh(entry, 30 * HZ)
    clock.advance(100)
    table.confirm(entry)
    assert (table.seconds_left(entry), entry.start) == (30, (EPOCH + 100) * 10**9)
    table.events.deliver(entry)
    assert told.bits() == [Event.NEW]
    clock.advance(30)
    assert (len(table), table.count) == (0, 1)  # the packet still holds it
    table.put(entry)
    assert table.count == 0


def test_a_confirm_that_finds_the_tuple_taken_changes_nothing() -> None:
    clock, table, _ = new_table()
    first, second = (table.allocate(DEFAULT_ZONE, T, inverse(T)) for _ in range(2))
    for entry in (first, second):
        table.refresh(entry, 30 * HZ)
    clock.advance(5)
    table.confirm(first)
    with pytest.raises(FileExistsError):
        table.confirm(second)
    assert (second.confirmed, second.expires, second.use) == (False, 30 * HZ, 1)


# ------------------------------------------------------------------------------------------------------------------ ending


def test_a_flow_is_deleted_once_with_the_name_of_who_did_it() -> None:
    _, table, told = new_table()
    entry = request(table, T)
    assert table.delete(entry, portid=77, report=True)
    assert not table.delete(entry, portid=78)
    assert told.events == [(Event.DESTROY, entry, 77, True)]
    assert (table.find(DEFAULT_ZONE, T), table.count) == (None, 0)
    request(table, T)  # the tuple is free again


def test_flows_that_are_gone_are_not_kept_until_their_time_would_have_come() -> None:
    _, table, _ = new_table()
    for port in range(1000):
        table.delete(request(table, udp(port), 432000 + port))
    assert len(table._expiry._due) < 200


def test_a_flush_takes_those_concerned() -> None:
    _, table, told = new_table()
    flows = [request(table, udp(port)) for port in range(10)]
    waiting = table.allocate(DEFAULT_ZONE, udp(99), inverse(udp(99)))
    assert table.flush(lambda entry: entry.original.src_part % 2 == 0, portid=5) == 5
    assert [entry.original.src_part for entry in table.walk()] == [1, 3, 5, 7, 9]
    assert table.flush() == 5
    assert [portid for *_, portid, _ in told.events] == [5] * 5 + [0] * 5
    assert {entry for _, entry, *_ in told.events} == set(flows)
    assert not waiting.dying
    assert table.count == 1


def test_a_master_is_held_by_its_children() -> None:
    _, table, told = new_table()
    master = request(table, T)
    child = table.allocate(DEFAULT_ZONE, udp(2), inverse(udp(2)))
    table.add_areas(child)
    table.set_master(child, master)
    child.expires = 100
    table.confirm(child)
    table.put(child)
    assert (child.status & Status.EXPECTED, master.use) == (Status.EXPECTED, 2)
    table.events.deliver(child)
    assert told.bits() == [Event.RELATED]
    table.delete(master)
    assert (len(table), table.count, child.master) == (1, 2, master)
    table.delete(child)
    assert table.count == 0


def test_an_unconfirmed_flow_is_only_marked() -> None:
    _, table, told = new_table()
    entry = table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert table.delete(entry)
    assert (entry.dying, table.count, told.events) == (True, 1, [])


# -------------------------------------------------------------------------------------------------------------------- walks


def test_a_walk_survives_what_comes_and_goes() -> None:
    _, table, _ = new_table()
    flows = [request(table, udp(port)) for port in range(10)]
    walk = table.walk()
    assert [next(walk) for _ in range(4)] == flows[:4]
    table.delete(flows[1])  # met already
    table.delete(flows[5])  # still to come
    late = request(table, udp(50))
    later = request(table, udp(51))
    rest = list(walk)
    assert [entry for entry in rest if entry in flows] == [flows[4], *flows[6:]]
    assert len(rest) == len(set(rest))
    assert set(rest) - set(flows) <= {late, later}
    assert {entry.original.src_part for entry in table.walk()} == {0, 2, 3, 4, 6, 7, 8, 9, 50, 51}


def test_a_walk_can_take_a_step_back() -> None:
    _, table, _ = new_table()
    flows = [request(table, udp(port)) for port in range(3)]
    walk = table.walk()
    next(walk)
    next(walk)
    walk.back()
    assert list(walk) == flows[1:]


def test_a_walk_ends_when_everything_is_gone() -> None:
    _, table, _ = new_table()
    for port in range(5):
        request(table, udp(port))
    walk = table.walk()
    next(walk)
    table.flush()
    assert list(walk) == []
    request(table, T)
    assert len(list(table.walk())) == 1


def test_gaps_are_used_again() -> None:
    _, table, _ = new_table()
    for round_ in range(50):
        for port in range(20):
            request(table, udp(port, round_))
        table.flush(lambda entry: entry.original.src_part != 7)
    assert len(table._slots) <= 20 + 50


# ----------------------------------------------------------------------------------------------------------------- a full table


def test_a_full_table_refuses_and_keeps_count() -> None:
    _, table, _ = new_table()
    table.sysctls.current["max"] = 3
    for port in range(3):
        request(table, udp(port), status=Status.ASSURED)
    with pytest.raises(OSError, match="Cannot allocate") as raised:
        table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert (raised.value.errno, table.count, table.statistics.early_drop) == (ENOMEM, 3, 0)
    table.sysctls.current["max"] = 0
    table.allocate(DEFAULT_ZONE, T, inverse(T))


def test_in_a_full_table_one_that_is_not_assured_gives_way() -> None:
    _, table, told = new_table()
    table.sysctls.current.update(max=3, buckets=1)
    keep = request(table, udp(1), status=Status.ASSURED)
    go = [request(table, udp(port)) for port in (2, 3)]
    new = table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert table.statistics.early_drop == 2
    assert {entry for _, entry, *_ in told.events} == set(go)
    assert list(table.walk()) == [keep]
    table.put(new)
    # those that come and go later are known, too
    again = request(table, udp(4))
    table.delete(again)
    last = [request(table, udp(port)) for port in (5, 6)]
    told.events.clear()
    table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert {entry for _, entry, *_ in told.events} == set(last)


def test_after_a_refusal_the_collector_ends_what_may_go() -> None:
    clock, table, _ = new_table()
    table.sysctls.current.update(max=200, buckets=2**31 - 1)
    flows = [request(table, udp(port), 1000) for port in range(200)]
    with pytest.raises(OSError, match="Cannot allocate"):
        table.allocate(DEFAULT_ZONE, udp(1, src=C), inverse(udp(1, src=C)))
    assert table.count == 200
    clock.advance(60)
    assert table.count == 189
    assert sum(entry.dying for entry in flows) == 11


# ---------------------------------------------------------------------------------------------------------------------- taken


def test_what_another_flow_answers_to_is_taken() -> None:
    _, table, _ = new_table()
    entry = request(table, T)
    other = table.allocate(DEFAULT_ZONE, udp(9), inverse(udp(9)))
    assert table.taken(T, other)
    assert table.taken(inverse(T), other)
    assert table.statistics.found == 2
    assert not table.taken(udp(8), other)
    assert not table.taken(T, entry)
    assert not table.taken(T, table.allocate(Zone(5), udp(9), inverse(udp(9))))
    twin = table.allocate(DEFAULT_ZONE, T, inverse(T))
    assert not table.taken(inverse(T), twin)  # the same flow; whoever is confirmed first has it
    assert table.statistics.found == 2


# --------------------------------------------------------------------------------------------------------------------- status


def entry_with(status: int) -> Entry:
    entry = Entry(1, DEFAULT_ZONE, T, inverse(T), None)
    entry.status = status
    return entry


CONFIRMED = Status.CONFIRMED


@pytest.mark.parametrize(
    ("before", "wish"),
    [
        (CONFIRMED, 0),
        (0, CONFIRMED),
        (CONFIRMED, CONFIRMED | Status.EXPECTED),
        (CONFIRMED | Status.EXPECTED, CONFIRMED),
        (CONFIRMED, CONFIRMED | Status.DYING),
        (CONFIRMED | Status.SEEN_REPLY, CONFIRMED),
        (CONFIRMED | Status.ASSURED, CONFIRMED | Status.SEEN_REPLY),
    ],
)
def test_status_bits_that_a_request_must_repeat(before: int, wish: int) -> None:
    entry = entry_with(before)
    with pytest.raises(OSError, match="busy") as raised:
        change_status(entry, wish)
    assert (raised.value.errno, entry.status) == (EBUSY, before)


def test_status_bits_are_set_and_never_cleared() -> None:
    entry = entry_with(CONFIRMED | Status.FIXED_TIMEOUT | Status.SRC_NAT)
    change_status(entry, CONFIRMED | Status.SEEN_REPLY | Status.ASSURED)
    assert entry.status == CONFIRMED | Status.FIXED_TIMEOUT | Status.SRC_NAT | Status.SEEN_REPLY | Status.ASSURED


def test_of_all_bits_four_can_be_set() -> None:
    entry = entry_with(CONFIRMED)
    change_status(entry, 0xFFFFFFFF & ~(Status.EXPECTED | Status.DYING))
    assert entry.status == CONFIRMED | Status.SEEN_REPLY | Status.ASSURED | Status.FIXED_TIMEOUT | Status.HELPER


# ------------------------------------------------------------------------------------------------------------------ snapshots


def test_a_copy_is_a_table_of_its_own() -> None:
    clock, table, told = new_table()
    entry = request(table, T, 30)
    walk = table.walk()
    clock2, table2, told2, walk2 = copy.deepcopy((clock, table, told, walk))
    table.delete(entry)
    assert len(table2) == 1
    assert next(walk2) is not entry
    clock2.advance(30)
    assert (len(table2), told2.bits(), told.bits()) == (0, [Event.DESTROY], [Event.DESTROY])
    assert table2.sysctls["net.netfilter.nf_conntrack_count"] == 0
    assert (entry.original.src, entry.original.dst) == (A, B)
