"""What a user of the table of flows relies on, through every door, on both kernels: one file, so that doors cannot drift apart."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
import trio

import nfnl
import nfnl.trio
from nfnl import Family, Status, TcpState, aio, nat_to, tuple_of
from nfnl.sim import FakeKernel, Idle
from nfnl.testing.lab import LinuxLab
from nfnl.transport.wrap import WrappedKernel, WrappedTransport
from nfnl.wire.constants import NlmsgFlag
from tests import probes
from tests.doors.drivers import in_thread
from tests.doors.tables import DOORS, Door, Table

ONE = tuple_of("10.0.0.1", "10.0.0.2", "tcp", 40000, 80)
TWO = tuple_of("10.0.0.1", "10.0.0.2", "udp", 40000, 53)
SIX = tuple_of("fd00::1", "fd00::2", "udp", 1, 2)
#: No test waits longer than this for a thread; it is never reached when all is well.
PATIENCE = 20


@pytest.fixture(params=["fake", "linux"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Either kernel; whatever flow is made there is spoken of."""
    if request.param == "linux":
        probes.require("lab-available")
    made: FakeKernel | LinuxLab = FakeKernel(when_idle="wait") if request.param == "fake" else LinuxLab()
    with made:
        made.sysctl("net.netfilter.nf_conntrack_events", 1)
        yield made


@pytest.fixture
def fake() -> Iterator[FakeKernel]:
    with FakeKernel() as made:
        yield made


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@pytest.fixture
def other(kernel: Any) -> Iterator[nfnl.FlowTable]:
    """Somebody else who changes flows."""
    with nfnl.open_conntrack(kernel=kernel) as table:
        yield table


def numbered(number: int) -> nfnl.Tuple:
    return tuple_of("10.0.1.1", "10.0.0.2", "udp", number, 53)


def names(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


# --- one flow ---------------------------------------------------------------------------------------------------------------------


def test_a_flow_is_made_looked_at_changed_and_deleted(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        open_ = table.door
        open_.create(ONE, timeout=600, tcp_state=TcpState.ESTABLISHED, status=Status.SEEN_REPLY, mark=3)
        flow = open_.get(ONE)
        assert flow.original == ONE
        assert flow.reply == tuple_of("10.0.0.2", "10.0.0.1", "tcp", 80, 40000)
        assert flow.protocol == nfnl.Protocol.TCP
        assert flow.tcp_state is TcpState.ESTABLISHED
        assert flow.status == Status.SEEN_REPLY | Status.CONFIRMED
        assert flow.timeout in range(500, 601)
        assert open_.get(flow.reply).id == flow.id, "by either of its tuples"
        open_.update(flow, mark=0x50, mark_mask=0xF0, status=Status.ASSURED, timeout=60)
        changed = open_.get(flow)
        assert (changed.mark, changed.timeout) == (0x53, changed.timeout)
        assert changed.timeout in range(1, 61)
        assert changed.status == Status.SEEN_REPLY | Status.CONFIRMED | Status.ASSURED
        open_.delete(flow)
        with pytest.raises(nfnl.NotFound, match="no flow with this tuple"):
            open_.get(ONE)

    door(kernel, play)


def test_translation_and_the_other_family(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        table.door.create(ONE, timeout=60, nat_src=nat_to("192.0.2.1", 4000))
        flow = table.door.get(ONE)
        assert (flow.reply.dst, flow.reply.dst_port) == (IPv4Address("192.0.2.1"), 4000)
        assert flow.status is not None
        assert Status.SRC_NAT in flow.status
        table.door.create(SIX, timeout=60)
        assert table.door.get(SIX).original == SIX

    door(kernel, play)


def test_zones_are_tables_of_their_own(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        table.door.create(ONE, timeout=60, zone=7)
        with pytest.raises(nfnl.NotFound):
            table.door.get(ONE)
        flow = table.door.get(ONE, zone=7)
        assert flow.zone == 7
        table.door.update(flow, mark=1)
        assert await table.flows(zone=0) == []
        assert [f.mark for f in await table.flows(zone=7)] == [1]
        table.door.delete(flow)

    door(kernel, play)


def test_refusals_are_typed_and_say_why(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        open_ = table.door
        open_.create(ONE, timeout=60)
        with pytest.raises(nfnl.Exists, match="as its reply"):
            open_.create(ONE, timeout=60)
        open_.create(ONE, timeout=60, mark=4, exclusive=False)
        assert open_.get(ONE).mark == 4
        with pytest.raises(nfnl.NotFound):
            open_.update(TWO, mark=1)
        with pytest.raises(nfnl.NotFound):
            open_.delete(TWO)
        with pytest.raises(nfnl.NetlinkError, match="no helper of this name") as refusal:
            open_.create(TWO, timeout=60, helper="nothing")
        assert refusal.value.errno == errno.EOPNOTSUPP
        assert open_.count() == 1

    door(kernel, play)


def test_a_flow_that_took_the_place_of_another_is_not_deleted(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        table.door.create(ONE, timeout=60)
        flow = table.door.get(ONE)
        held = flow.replace(id=(flow.id or 0) ^ 1)
        with pytest.raises(nfnl.NotFound, match="another id"):
            table.door.delete(held)
        assert table.door.get(ONE).id == flow.id

    door(kernel, play)


# --- all of them ------------------------------------------------------------------------------------------------------------------


def test_lists_are_filtered(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        for number in range(6):
            table.door.create(numbered(number), timeout=60, mark=number, status=Status.ASSURED if number % 2 else None)
        table.door.create(ONE, timeout=60)
        for number in range(2):
            table.door.create(tuple_of("fd00::1", f"fd00::{number + 2}", "udp", 1, 2), timeout=60)

        async def ports(**criteria: Any) -> list[int]:
            return sorted(flow.original.src_port or 0 for flow in await table.flows(**criteria))

        assert await ports() == [0, 1, 1, 1, 2, 3, 4, 5, 40000]
        assert await ports(family=Family.IPV6) == [1, 1]
        assert await ports(mark=2) == [2]
        assert await ports(mark=1, mark_mask=1) == [1, 3, 5]
        assert await ports(status=Status.ASSURED) == [1, 3, 5]
        assert await ports(status=Status(0), status_mask=Status.ASSURED, family=Family.IPV4) == [0, 2, 4, 40000]
        assert await ports(original=tuple_of("10.0.1.1")) == [0, 1, 2, 3, 4, 5]
        assert await ports(original=tuple_of(protocol="tcp", dst_port=80), family=Family.IPV4) == [40000]
        assert await ports(reply=tuple_of(dst="10.0.0.1")) == [40000]
        assert await ports(original=tuple_of("fd00::1", "fd00::3")) == [1], "which some kernels turn round"
        assert await ports(original=tuple_of("fd00::9")) == []

    door(kernel, play)


def test_counters_start_again(fake: FakeKernel, door: Door) -> None:
    async def play(table: Table) -> None:
        fake.sysctl("net.netfilter.nf_conntrack_acct", 1)
        table.door.create(ONE, timeout=60)
        (flow,) = await table.flows(zero=True)
        assert flow.counters_original is not None
        assert table.door.get(ONE, zero=True).counters_original == flow.counters_original
        with pytest.raises(nfnl.LocalProtocolError, match="zero the counters of others"):
            await table.flows(zero=True, original=tuple_of("fd00::1"))

    door(fake, play)


def test_what_a_flush_takes(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        open_ = table.door

        def fill() -> None:
            for tuple_, mark in ((ONE, 1), (TWO, 2), (SIX, 1), (tuple_of("fd00::1", "fd00::3", "udp", 1, 2), 0)):
                open_.create(tuple_, timeout=60, mark=mark, exclusive=False)

        async def left() -> int:
            return len(await table.flows())

        fill()
        open_.flush(family=Family.IPV6)
        assert await left() == 2
        fill()
        open_.flush(mark=1)
        assert await left() == 2
        fill()
        open_.flush(original=SIX)
        assert await left() == 3, "not what kernels make of IPv6 addresses"
        fill()
        open_.flush(original=tuple_of(protocol="udp"), family=Family.IPV4)
        assert await left() == 3
        open_.flush()
        assert await left() == 0

    door(kernel, play)


def test_a_list_in_many_parts_is_whole(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    for number in range(300):
        other.create(numbered(number), timeout=600)

    async def play(table: Table) -> None:
        assert {flow.original.src_port for flow in await table.flows()} == set(range(300))
        assert table.door.count() == 300
        stats = table.door.stats()
        assert stats.entries == 300
        assert (stats.max_entries or 0) > 300

    door(kernel, play)


def test_a_list_that_is_let_go_of_stands_in_nobodys_way(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        for number in range(60):
            table.door.create(numbered(number), timeout=600)
        assert len(await table.first(3)) == 3
        assert len(await table.first(1)) == 1
        assert table.door.get(numbered(5)).original == numbered(5)
        assert len(await table.flows()) == 60

    door(kernel, play)


def test_flows_are_changed_while_they_are_listed(kernel: Any) -> None:
    with nfnl.open_conntrack(kernel=kernel) as table:
        for number in range(60):
            table.create(numbered(number), timeout=600)
        for flow in table.flows():
            table.update(flow, mark=9)
        assert [flow.mark for flow in table.flows()] == [9] * 60
        for flow in table.flows(mark=9):
            table.delete(flow)
        assert table.count() == 0


def test_lists_within_lists(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfnl.sim.transport._AT_ONCE", 1)  # or all is read at once, and nothing is under way
    monkeypatch.setattr("nfnl.transport.linux._SLOTS", 1)
    with nfnl.open_conntrack(kernel=kernel) as table:
        for number in range(60):
            table.create(numbered(number), timeout=600)
        outer = table.flows()
        ports = [next(outer).original.src_port]
        assert table._session.dumping
        inner = table.flows()
        next(inner)
        assert len(list(table.flows())) == 60
        assert len(list(inner)) == 59
        ports += [flow.original.src_port for flow in outer]
        assert sorted(port or 0 for port in ports) == list(range(60))


class Interrupting(WrappedKernel):
    """Says of the first ``times`` dumps that they were interrupted."""

    def __init__(self, kernel: Any, times: int) -> None:
        super().__init__(kernel)
        self.times = times

    def wrap(self, transport: Any, options: Any) -> Any:
        outer = self

        class Transport(WrappedTransport):
            def receive(self) -> list[bytes]:
                return [self._spoilt(datagram) for datagram in super().receive()]

            def _spoilt(self, datagram: bytes) -> bytes:
                message = nfnl.decode(datagram)[0]
                if outer.times and isinstance(message, nfnl.Flow) and message.nlmsg_seq:
                    outer.times -= 1
                    return bytes(message.replace(nlmsg_flags=message.nlmsg_flags | NlmsgFlag.DUMP_INTR))
                return datagram

        return Transport(transport)


def test_an_interrupted_list_is_not_passed_off_as_whole(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    other.create(ONE, timeout=600)

    async def raised(table: Table) -> None:
        with pytest.raises(nfnl.DumpInterruptedError, match="changed while it was read"):
            await table.flows()
        assert len(await table.flows()) == 1

    async def once_again(table: Table) -> None:
        assert len(await table.flows(retries=2)) == 1

    async def in_vain(table: Table) -> None:
        with pytest.raises(nfnl.DumpInterruptedError):
            await table.flows(retries=2)

    door(Interrupting(kernel, 1), raised)
    door(Interrupting(kernel, 2), once_again)
    door(Interrupting(kernel, 3), in_vain)


def test_statistics(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        before = sum(cpu.insert or 0 for cpu in table.door.cpu_stats())
        table.door.create(ONE, timeout=600)
        cpus = table.door.cpu_stats()
        assert [cpu.res_id for cpu in cpus] == list(range(len(cpus)))
        assert sum(cpu.insert or 0 for cpu in cpus) == before + 1
        assert len(table.door.expectations.cpu_stats()) == len(cpus)

    door(kernel, play)


def test_the_lists_that_are_empty(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        lists: Any = table.door
        for listed in (lists.dying(), lists.unconfirmed()):
            assert [flow async for flow in listed] == [] if hasattr(listed, "__aiter__") else list(listed) == []

    door(kernel, play)


# --- expectations -----------------------------------------------------------------------------------------------------------------


def test_expectations(kernel: Any, door: Door) -> None:
    wanted = tuple_of("10.0.0.2", "10.0.0.1", "tcp", dst_port=5000)

    async def play(table: Table) -> None:
        expectations = table.door.expectations
        assert expectations.list() == []
        with pytest.raises(nfnl.NotFound, match="master's tuple"):
            expectations.create(wanted, master=ONE)
        table.door.create(ONE, timeout=600)
        with pytest.raises(nfnl.NetlinkError, match="has no helper"):
            expectations.create(wanted, master=ONE)
        assert expectations.list(master=ONE) == []
        table.door.delete(ONE)
        table.door.create(ONE, timeout=600, helper="ftp")
        expectations.create(wanted, master=ONE)
        (expected,) = expectations.list()
        assert (expected.tuple.src_port, expected.mask.src_port) == (0, 0), "any port will do"
        assert (expected.tuple.dst_port, expected.mask.dst_port) == (5000, 0xFFFF)
        assert expected.master == ONE
        assert expected.help_name == "ftp"
        assert [one.id for one in expectations.list(master=ONE)] == [expected.id]
        assert expectations.list(family=Family.IPV6) == []
        assert expectations.get(expected.tuple).id == expected.id
        expectations.delete(expected)
        with pytest.raises(nfnl.NotFound):
            expectations.delete(expected)
        expectations.create(wanted, master=table.door.get(ONE))
        expectations.flush()
        assert expectations.list() == []
        assert names(await table.events(4)) == [
            "ExpectationNew",
            "ExpectationDestroyed",
            "ExpectationNew",
            "ExpectationDestroyed",
        ]

    door(kernel, play, follow=("expectation_new", "expectation_destroyed"))


# --- events -----------------------------------------------------------------------------------------------------------------------


def test_events_come_in_order(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        other.create(ONE, timeout=600, mark=1)
        other.update(ONE, mark=2)
        other.delete(ONE)
        new, updated, destroyed = await table.events(3)
        assert names([new, updated, destroyed]) == ["FlowNew", "FlowUpdated", "FlowDestroyed"]
        assert (new.flow.original, new.flow.mark, updated.flow.mark) == (ONE, 1, 2)
        assert new.flow.id == updated.flow.id == destroyed.flow.id
        assert new.flow.nlmsg_pid == other._transport.port_id

    door(kernel, play, follow=True)


def test_requests_are_answered_while_events_wait(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        for number in range(30):
            other.create(numbered(number), timeout=600)
            if number % 10 == 9:
                assert len(await table.flows()) == number + 1
            assert table.door.get(numbered(number)).original.src_port == number
        assert [event.flow.original.src_port for event in await table.events(30)] == list(range(30))

    door(kernel, play, follow=("new",))


def test_a_handler_may_ask(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        other.create(ONE, timeout=600)

        def mark(event: Any) -> None:
            if isinstance(event, nfnl.FlowNew):
                table.door.update(event.flow, mark=7)

        assert names(await table.events(2, mark)) == ["FlowNew", "FlowUpdated"]
        assert table.door.get(ONE).mark == 7

    door(kernel, play, follow=True)


def test_groups_and_filters_can_change(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        open_ = table.door
        other.create(ONE, timeout=600)
        open_.follow("destroyed")
        other.create(TWO, timeout=600)
        other.delete(TWO)
        open_.filter_events(nfnl.EventFilter(only={"protocol": "udp"}))
        other.delete(ONE)
        other.create(TWO, timeout=600)
        other.delete(TWO)
        assert [event.flow.original for event in await table.events(2)] == [TWO, TWO]
        open_.filter_events(None)
        other.create(ONE, timeout=600)
        other.delete(ONE)
        assert [event.flow.original for event in await table.events(1)] == [ONE]
        open_.unfollow()
        with pytest.raises(nfnl.LocalProtocolError, match="no events are followed"):
            await table.events(1)

    door(kernel, play)


def test_the_kernel_filters_events_and_nothing_else(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        open_ = table.door
        for tuple_ in (ONE, TWO, SIX):
            open_.create(tuple_, timeout=600)
        assert open_.get(TWO).original == TWO
        assert len(await table.flows()) == 3
        other.update(ONE, mark=1)
        assert [(event.flow.original, event.flow.mark) for event in await table.events(2)] == [(ONE, 0), (ONE, 1)]

    door(kernel, play, follow=True, event_filter=nfnl.EventFilter(only={"source": "10.0.0.0/8"}, never={"protocol": "udp"}))


def test_an_overrun_is_told_where_it_was(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        for number in range(100):
            other.create(numbered(number), timeout=600)
        assert isinstance((await table.events(1))[0], nfnl.Overrun)
        table.door.catch_up()
        other.create(ONE, timeout=600)
        told: list[Any] = []
        while not told or told[-1].flow.original != ONE:
            told += await table.events(1)
        assert [event.flow.original.src_port for event in told[:-1]] == list(range(len(told) - 1)), "the first ones, and then ONE"
        assert len(told) < 50
        assert len(await table.flows()) == 101, "the table is whole"

    door(kernel, play, follow=("new",), receive_buffer=1)


def test_requests_are_answered_although_an_overrun_took_the_first_answer(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        open_ = table.door
        asks: list[Callable[[], object]] = [
            lambda: open_.create(ONE, timeout=600),
            lambda: open_.update(ONE, mark=5),
            lambda: open_.get(ONE),
            open_.count,
            open_.cpu_stats,
            open_.expectations.list,
            lambda: open_.delete(ONE),
        ]
        for ask in asks:
            for number in range(50):
                other.create(numbered(number), timeout=600, exclusive=False)
            ask()
            assert nfnl.Overrun() in open_._session.events, "or this was about nothing"
            open_._session.events.clear()
        for number in range(50):
            other.create(numbered(number), timeout=600, exclusive=False)
        assert len(await table.flows()) == 50

    door(kernel, play, follow=True, receive_buffer=1)


def test_somebody_reliable_hears_of_every_end(fake: FakeKernel, door: Door) -> None:
    async def play(table: Table) -> None:
        with nfnl.open_conntrack(kernel=fake) as other:
            for number in range(50):
                other.create(numbered(number), timeout=600)
            other.flush()
            assert list(other.flows()) == []
            assert 0 < len(list(other.dying())) < 50
            heard: set[int | None] = set()
            while len(heard) < 50:
                table.door.catch_up()
                fake.advance(2)
                table.door.catch_up()
                waiting = len(table.door._session.events)
                told = await table.events(waiting)
                heard |= {event.flow.original.src_port for event in told if isinstance(event, nfnl.FlowDestroyed)}
            assert list(other.dying()) == []

    fake.sysctl("net.netfilter.nf_conntrack_events", 1)
    door(fake, play, follow=("destroyed",), receive_buffer=1, reliable=True)


def test_what_is_not_taken_is_counted(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        for number in range(9):
            other.create(numbered(number), timeout=600)
        table.door.catch_up()
        *kept, lost = await table.events(5)
        assert [event.flow.original.src_port for event in kept] == [0, 1, 2, 3]
        assert lost == nfnl.EventsLost(5)

    door(kernel, play, follow=True, max_events=4)


# --- the mirror -------------------------------------------------------------------------------------------------------------------


def test_the_mirror_is_the_table(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    for number in range(50):
        other.create(numbered(number), timeout=600)

    async def play(table: Table) -> None:
        mirror = table.door.mirror
        assert mirror is not None
        assert mirror.synced
        assert {flow.original.src_port for flow in mirror} == set(range(50))
        other.update(numbered(7), mark=5)
        other.delete(numbered(8))
        other.create(ONE, timeout=600, status=Status.ASSURED)
        table.door.catch_up()
        assert len(mirror) == 50
        found = mirror.find(numbered(7))
        assert found is not None
        assert found.mark == 5
        assert numbered(8) not in mirror
        assert ONE in mirror
        assert mirror.resyncs == 1
        assert names(await table.events(4)) == ["Resynced", "FlowUpdated", "FlowDestroyed", "FlowNew"]

    door(kernel, play, mirror=True)


def test_the_mirror_recovers_from_an_overrun_as_it_is_followed(kernel: Any, door: Door, other: nfnl.FlowTable) -> None:
    async def play(table: Table) -> None:
        mirror = table.door.mirror
        assert mirror is not None
        for number in range(100):
            other.create(numbered(number), timeout=600)
        while len(mirror) < 100:
            await table.events(1)
        assert mirror.synced
        assert mirror.resyncs == 2

    door(kernel, play, mirror=True, receive_buffer=1)


def test_the_mirror_waits_before_it_reads_again(fake: FakeKernel) -> None:
    options: nfnl.ConntrackOptions = {"kernel": fake, "mirror": True, "receive_buffer": 1, "resync_delay": 5}
    with nfnl.open_conntrack(kernel=fake) as other, nfnl.open_conntrack(**options) as table:
        mirror = table.mirror
        assert mirror is not None
        for number in range(100):
            other.create(numbered(number), timeout=600)
        for seconds in (0, 4):
            fake.advance(seconds)
            table.catch_up()
            assert not mirror.synced
            assert len(mirror) < 100
        fake.advance(1)
        table.catch_up()
        assert mirror.synced
        assert len(mirror) == 100


def test_a_mirror_is_refreshed(fake: FakeKernel) -> None:
    """Flows that were made while nobody listened send no events: with the sysctl at 2, its default."""
    with nfnl.open_conntrack(kernel=fake) as other:
        other.create(ONE, timeout=600)
        with nfnl.open_conntrack(kernel=fake, mirror=True, refresh=30) as table:
            mirror = table.mirror
            assert mirror is not None
            other.delete(ONE)
            table.catch_up()
            assert ONE in mirror
            fake.advance(30)
            table.catch_up()
            assert ONE not in mirror


@pytest.mark.parametrize("options", [{"event_filter": nfnl.EventFilter(only={"protocol": 6})}, {"no_enobufs": True}])
def test_a_mirror_that_cannot_be_right_is_refused(fake: FakeKernel, options: Any) -> None:
    with pytest.raises(nfnl.LocalProtocolError, match="needs all events"):
        nfnl.open_conntrack(kernel=fake, mirror=True, **options)
    with nfnl.open_conntrack(kernel=fake, mirror=True) as table:
        with pytest.raises(nfnl.LocalProtocolError, match="needs all events"):
            table.unfollow()
        with pytest.raises(nfnl.LocalProtocolError, match="needs all events"):
            table.filter_events(None)


# --- opening, stopping, closing ---------------------------------------------------------------------------------------------------


def test_options_are_checked(fake: FakeKernel) -> None:
    with pytest.raises(TypeError, match="no option buffer"):
        nfnl.open_conntrack(kernel=fake, buffer=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no events 'old'"):
        nfnl.open_conntrack(kernel=fake, follow=("old",))  # type: ignore[arg-type]
    with pytest.raises(nfnl.LocalProtocolError, match="netns"):
        nfnl.open_conntrack(kernel=fake, netns="x")


def test_without_rights_to_follow_it_says_so(fake: FakeKernel) -> None:
    with fake.process(uid=1000):
        with pytest.raises(nfnl.NotPermitted, match="CAP_NET_ADMIN"):
            nfnl.open_conntrack(kernel=fake, follow=True)
        with nfnl.open_conntrack(kernel=fake) as table, pytest.raises(nfnl.NotPermitted, match="CAP_NET_ADMIN"):
            list(table.flows())


def test_stop_ends_the_loop_and_not_the_table(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        table.door.create(ONE, timeout=600)
        assert names(await table.until_stopped(lambda event: table.door.stop())) == ["FlowNew"]
        table.door.delete(ONE)
        assert names(await table.events(1)) == ["FlowDestroyed"]
        table.door.stop()
        assert await table.until_stopped() == [], "asked to before, it ends at once"

    door(kernel, play, follow=True)


def test_stop_and_close_from_another_thread(kernel: Any) -> None:
    for method in ("stop", "close"):
        with nfnl.open_conntrack(kernel=kernel, follow=True) as table:
            begun = threading.Event()

            def end(table: nfnl.FlowTable = table, begun: threading.Event = begun, method: str = method) -> None:
                begun.wait(PATIENCE)
                getattr(table, method)()

            thread = in_thread(end)
            table.create(ONE, timeout=600, exclusive=False)
            for _ in table:
                begun.set()
            thread.join(PATIENCE)
            assert ("closed" in repr(table)) == (method == "close")


def test_close_from_another_task(kernel: Any) -> None:
    async def with_asyncio() -> None:
        table = aio.open_conntrack(kernel=kernel, follow=True)

        async def read() -> list[Any]:
            return [event async for event in table]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        table.close()
        assert await asyncio.wait_for(reading, PATIENCE) == []

    async def with_trio() -> None:
        table = nfnl.trio.open_conntrack(kernel=kernel, follow=True)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert [event async for event in table] == []

                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                table.close()

    asyncio.run(with_asyncio())
    trio.run(with_trio)


def test_what_is_closed_is_closed(fake: FakeKernel, door: Door) -> None:
    async def play(table: Table) -> None:
        assert "new, updated, destroyed" in repr(table.door)
        table.door.close()  # type: ignore[attr-defined]
        table.door.close()  # type: ignore[attr-defined]
        with pytest.raises(nfnl.LocalProtocolError, match="is closed"):
            await table.events(1)
        with pytest.raises(nfnl.TransportClosed):
            table.door.get(ONE)
        assert "closed" in repr(table.door)

    door(fake, play, follow=True)


def test_the_loop_ends_when_all_is_quiet(fake: FakeKernel) -> None:
    with nfnl.open_conntrack(kernel=fake, follow=True) as table:
        table.create(ONE, timeout=60)
        with fake.until_idle():
            assert names(list(table)) == ["FlowNew"]
        with pytest.raises(Idle, match="nothing is on its way"):
            list(table)


def test_where_there_is_a_descriptor(kernel: Any, door: Door) -> None:
    async def play(table: Table) -> None:
        assert (table.door.fileno() is None) == isinstance(kernel, FakeKernel)
        assert table.door.receive_buffer >= 2 << 16

    door(kernel, play, receive_buffer=1 << 16)
