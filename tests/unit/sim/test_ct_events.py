"""Events: merged, masked, missed, told again (rules A.11, A.12)."""

from __future__ import annotations

from nfnl.sim.ct_entry import Event
from nfnl.sim.tuples import DEFAULT_ZONE
from tests.unit.sim.flows import inverse, new_table, packet, request, udp


def test_what_is_noted_is_told_together() -> None:
    _, table, told = new_table()
    entry = packet(table, udp())
    table.events.cache(entry, Event.MARK)
    table.events.deliver(entry)
    table.events.deliver(entry)
    assert told.bits() == [Event.NEW | Event.MARK]


def test_of_an_unconfirmed_flow_nothing_is_told() -> None:
    _, table, told = new_table()
    entry = table.allocate(DEFAULT_ZONE, udp(), inverse(udp()))
    table.add_areas(entry)
    table.events.cache(entry, Event.MARK)
    table.events.deliver(entry)
    assert table.events.report(entry, Event.MARK)
    assert told.events == []


def test_a_flow_without_events_is_never_told_of() -> None:
    _, table, told = new_table(listening=False)
    entry = packet(table, udp())
    table.events.deliver(entry)
    table.events.report(entry, Event.MARK)
    table.delete(entry)
    assert told.events == []


def test_a_mask_lets_whole_events_through_or_none() -> None:
    _, table, told = new_table()
    entry = request(table, udp())
    entry.event_mask = Event.MARK
    table.events.report(entry, Event.REPLY)
    table.events.report(entry, Event.REPLY | Event.MARK)
    assert told.bits() == [Event.REPLY | Event.MARK]
    table.delete(entry)
    assert told.bits() == []


def test_what_was_not_heard_comes_with_the_next() -> None:
    _, table, told = new_table()
    entry = request(table, udp())
    told.deaf = True
    assert not table.events.report(entry, Event.NEW)
    assert not table.events.report(entry, Event.MARK)
    told.deaf = False
    assert table.events.report(entry, Event.REPLY)
    assert table.events.report(entry, Event.REPLY)
    assert told.bits() == [Event.NEW | Event.MARK | Event.REPLY, Event.REPLY]


def test_an_end_that_was_not_heard_is_told_again_after_a_second() -> None:
    clock, table, told = new_table()
    entry = request(table, udp())
    told.deaf = True
    table.events.report(entry, Event.MARK)
    assert table.delete(entry, portid=77)
    assert (table.find(DEFAULT_ZONE, udp()), len(table), table.count) == (None, 0, 1)
    assert list(table.events.dying) == [entry]
    told.deaf = False
    clock.advance(0.99)
    assert told.events == []
    clock.advance(0.01)
    assert told.events == [(Event.DESTROY, entry, 77, False)]
    assert (table.count, list(table.events.dying)) == (0, [])


def test_while_nobody_has_room_it_is_tried_every_10_ms() -> None:
    clock, table, told = new_table()
    told.deaf = True
    for port in range(3):
        table.delete(request(table, udp(port)))
    clock.advance(5)
    assert table.count == 3
    told.deaf = False
    clock.advance(0.02)
    assert [bits & Event.DESTROY for bits in told.bits()] == [Event.DESTROY] * 3
    assert table.count == 0


def test_another_end_that_is_heard_brings_the_lost_ones_along() -> None:
    _, table, told = new_table()
    lost, other = request(table, udp(1)), request(table, udp(2))
    told.deaf = True
    table.delete(lost)
    told.deaf = False
    table.delete(other)
    assert [entry for _, entry, *_ in told.events] == [other, lost]
    assert table.count == 0
