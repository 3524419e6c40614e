"""Expectations (rules A.13, B.10)."""

from __future__ import annotations

from errno import EALREADY, EBUSY, EMFILE, ESHUTDOWN

import pytest

from nfnl.sim.clock import Clock
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry
from nfnl.sim.expectations import INACTIVE, PERMANENT, Expectation, ExpectationTable, ExpectEvent, Mask
from nfnl.sim.helpers import Help, find_helper
from nfnl.sim.skb import IPV4, TCP, UDP
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple, Zone
from tests.unit.sim.flows import A, B, C, inverse, new_table, request

WHOLE = Mask(b"\xff" * 4, 0)
DATA = Tuple(IPV4, B, A, TCP, 0, 5000)
COMES = Tuple(IPV4, B, A, TCP, 40000, 5000)


class World:
    def __init__(self) -> None:
        self.clock: Clock
        self.table: ConntrackTable
        self.clock, self.table, _ = new_table()
        self.expected = ExpectationTable(self.table)
        self.told: list[tuple[int, Expectation, int, bool]] = []
        self.expected.listener = lambda *what: self.told.append(what)
        self.master = self.control(4000)

    def control(self, port: int, helper: str = "ftp", protocol: int = TCP, zone: Zone = DEFAULT_ZONE) -> Entry:
        entry = request(self.table, Tuple(IPV4, A, B, protocol, port, 21), 1000, zone=zone)
        entry.help = Help(find_helper(helper, IPV4, protocol))
        return entry

    def expect(
        self, t: Tuple = DATA, mask: Mask = WHOLE, *, master: Entry | None = None, class_: int = 0, flags: int = 0
    ) -> Expectation:
        expectation = Expectation(master or self.master, t, mask, class_, flags)
        self.expected.add(expectation, portid=7)
        return expectation

    def bits(self) -> list[tuple[int, int]]:
        said = [(bit, portid) for bit, _, portid, _ in self.told]
        self.told.clear()
        return said


def test_what_the_mask_leaves_open_does_not_count() -> None:
    world = World()
    expectation = world.expect()
    assert world.expected.find(DEFAULT_ZONE, COMES) is expectation
    assert world.expected.find(DEFAULT_ZONE, COMES._replace(src=C)) is None
    assert world.expected.find(DEFAULT_ZONE, COMES._replace(dst_part=5001)) is None
    assert world.expected.find(DEFAULT_ZONE, COMES._replace(protocol=UDP)) is None
    assert world.expected.find(Zone(5), COMES) is None
    assert Mask(bytes(4), 0).covers(COMES._replace(src=C), DATA)
    assert not Mask(bytes(4), 0xFFFF).covers(COMES, DATA)


def test_the_flow_that_comes_uses_it_up() -> None:
    world = World()
    expectation = world.expect()
    assert world.expected.meet(DEFAULT_ZONE, COMES) is expectation
    assert world.expected.meet(DEFAULT_ZONE, COMES) is None
    assert world.bits() == [(ExpectEvent.NEW, 7), (ExpectEvent.DESTROY, 0)]
    assert (world.table.statistics.expect_create, world.table.statistics.expect_delete) == (1, 1)


def test_a_permanent_one_stays_and_an_inactive_one_waits() -> None:
    world = World()
    permanent = world.expect(flags=PERMANENT)
    assert [world.expected.meet(DEFAULT_ZONE, COMES) for _ in range(2)] == [permanent] * 2
    world.expected.remove(permanent)
    inactive = world.expect(flags=INACTIVE)
    assert world.expected.meet(DEFAULT_ZONE, COMES) is None
    assert world.expected.find(DEFAULT_ZONE, COMES) is inactive


def test_a_master_that_is_not_confirmed_has_nobody_to_expect() -> None:
    world = World()
    t = Tuple(IPV4, A, B, TCP, 4001, 21)
    master = world.table.allocate(DEFAULT_ZONE, t, inverse(t))
    master.help = Help(find_helper("ftp", IPV4, TCP))
    expectation = world.expect(master=master)
    assert world.expected.meet(DEFAULT_ZONE, COMES) is None
    assert world.expected.find(DEFAULT_ZONE, COMES) is expectation


def test_it_ends_after_the_time_of_its_policy() -> None:
    world = World()
    expectation = world.expect()
    assert world.expected.seconds_left(expectation) == 300
    world.clock.advance(299)
    assert len(world.expected) == 1
    world.clock.advance(1)
    assert len(world.expected) == 0
    assert world.bits() == [(ExpectEvent.NEW, 7), (ExpectEvent.DESTROY, 0)]


def test_its_time_can_be_set() -> None:
    world = World()
    expectation = world.expect()
    world.expected.set_timeout(expectation, 5)
    world.clock.advance(5)
    assert len(world.expected) == 0


def test_one_whose_time_is_over_is_not_met() -> None:
    world = World()
    expectation = world.expect()
    world.expected.set_timeout(expectation, 0)
    assert list(world.expected) == []
    assert world.expected.find(DEFAULT_ZONE, COMES) is None
    assert world.bits() == [(ExpectEvent.NEW, 7), (ExpectEvent.DESTROY, 0)]


def test_it_goes_with_its_master() -> None:
    world = World()
    mine, other = world.expect(), world.control(4001)
    theirs = world.expect(DATA._replace(dst_part=6000), master=other)
    world.told.clear()
    world.table.delete(world.master, portid=9)
    assert list(world.expected) == [theirs]
    assert [(bit, gone, portid) for bit, gone, portid, _ in world.told] == [(ExpectEvent.DESTROY, mine, 0)]
    world.expected.remove(mine)  # gone already
    assert len(world.told) == 1


def test_the_oldest_of_its_class_gives_way() -> None:
    world = World()
    first = world.expect()
    second = world.expect(DATA._replace(dst_part=6000))
    assert list(world.expected) == [second]
    assert [gone for bit, gone, *_ in world.told if bit == ExpectEvent.DESTROY] == [first]


def test_classes_are_counted_apart() -> None:
    world = World()
    sip = world.control(4002, "sip")
    kept = [world.expect(DATA._replace(dst_part=port), master=sip, class_=1) for port in range(4)]
    kept.append(world.expect(DATA._replace(dst_part=100), master=sip, class_=0))
    assert list(world.expected) == kept
    last = world.expect(DATA._replace(dst_part=50), master=sip, class_=1)
    assert list(world.expected) == [*kept[1:], last]


def test_one_that_overlaps_another_is_refused() -> None:
    world = World()
    world.expect(DATA._replace(src_part=7), Mask(b"\xff" * 4, 0xFFFF))
    for t, mask in ((DATA, WHOLE), (DATA, Mask(bytes(4), 0))):
        with pytest.raises(OSError, match="busy") as raised:
            world.expect(t, mask)
        assert raised.value.errno == EBUSY
    with pytest.raises(OSError, match="busy"):
        world.expect(DATA._replace(src_part=7), Mask(b"\xff" * 4, 0xFFFF), master=world.control(4001))
    world.expect(DATA, WHOLE, master=world.control(4000, zone=Zone(5)))
    assert len(world.expected) == 2


def test_the_same_again_takes_the_place_of_the_old_one() -> None:
    world = World()
    old = world.expect()
    new = world.expect()
    assert list(world.expected) == [new]
    assert (old.id != new.id, old.scheduled > 2**40) == (True, True)


def test_the_same_in_another_class_is_refused() -> None:
    world = World()
    sip = world.control(4002, "sip")
    world.expect(master=sip)
    with pytest.raises(OSError, match="in progress") as raised:
        world.expect(master=sip, class_=1)
    assert raised.value.errno == EALREADY


def test_a_master_without_helper_expects_nothing() -> None:
    world = World()
    assert world.master.help is not None
    for help_ in (None, Help(None)):
        world.master.help = help_
        with pytest.raises(OSError, match="shutdown") as raised:
            world.expect()
        assert raised.value.errno == ESHUTDOWN


def test_there_is_a_most_for_the_namespace() -> None:
    world = World()
    world.table.sysctls.current["expect_max"] = 2
    sip = world.control(4002, "sip")
    for port in range(2):
        world.expect(DATA._replace(dst_part=port), master=sip, class_=1)
    with pytest.raises(OSError, match="Too many") as raised:
        world.expect(DATA._replace(dst_part=9), master=sip, class_=1)
    assert raised.value.errno == EMFILE


@pytest.mark.parametrize(("events", "mask"), [(None, 0xFFFF), (0xFFFF, 0)])
def test_a_master_may_have_no_events(events: int | None, mask: int) -> None:
    world = World()
    world.master.event_mask, world.master.expect_mask = events, mask
    world.expected.remove(world.expect())
    assert world.told == []
