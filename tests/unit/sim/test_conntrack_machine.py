"""The table against a plain list of flows that is searched from end to end."""

from __future__ import annotations

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nfnl.sim.conntrack import Walk
from nfnl.sim.ct_entry import Entry, Event
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.tuples import Tuple, Zone
from tests.unit.sim.flows import A, B, inverse, new_table, request, udp


@dataclasses.dataclass
class Flow:
    entry: Entry
    zone: Zone
    original: Tuple
    reply: Tuple
    ends: int

    def has(self, zone: Zone, t: Tuple) -> bool:
        return (t == self.original and zone.original_id == self.zone.original_id) or (
            t == self.reply and zone.reply_id == self.zone.reply_id
        )


def clash(flow: Flow, zone: Zone, t: Tuple, number: int) -> bool:
    """Whether a new flow of a zone may not have the tuple, which it would keep under ``number``."""
    return any(
        t == theirs and number == kept == zoned
        for theirs, kept, zoned in (
            (flow.original, flow.zone.original_id, zone.original_id),
            (flow.reply, flow.zone.reply_id, zone.reply_id),
        )
    )


tuples = st.builds(udp, st.integers(1, 3), st.integers(1, 2), st.sampled_from([A, B]), st.sampled_from([A, B]))
zones = st.builds(Zone, st.integers(0, 2), st.integers(1, 3))


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock, self.table, self.told = new_table()
        self.flows: list[Flow] = []
        self.walk: Walk | None = None
        self.met: list[Entry] = []
        self.to_meet: list[Entry] = []

    def gone(self, flows: list[Flow]) -> None:
        """These must just have been told of, and nothing else."""
        told = [(bits, entry.id) for bits, entry, *_ in self.told.events]
        self.told.events.clear()
        assert sorted(told) == sorted((Event.DESTROY, flow.entry.id) for flow in flows)
        self.flows = [flow for flow in self.flows if flow not in flows]

    @rule(zone=zones, original=tuples, mirrored=st.booleans(), reply=tuples, timeout=st.integers(1, 50))
    def create(self, zone: Zone, original: Tuple, mirrored: bool, reply: Tuple, timeout: int) -> None:
        reply = inverse(original) if mirrored else reply
        refused = any(
            clash(flow, zone, original, zone.original_id) or clash(flow, zone, reply, zone.reply_id) for flow in self.flows
        )
        try:
            entry = request(self.table, original, timeout, zone=zone, reply=reply)
        except FileExistsError:
            assert refused
        else:
            assert not refused
            assert entry.id not in {flow.entry.id for flow in self.flows}
            self.flows.append(Flow(entry, zone, original, reply, self.table.now + timeout * HZ))

    @rule(zone=zones, t=tuples)
    def look(self, zone: Zone, t: Tuple) -> None:
        found = self.table.lookup(zone, t)
        candidates = [flow for flow in self.flows if flow.has(zone, t)]
        if found is None:
            assert not candidates
        else:
            assert found[0] in [flow.entry for flow in candidates]
            assert found[0].tuple(found[1]) == t

    @precondition(lambda self: self.flows)
    @rule(which=st.integers(0), timeout=st.integers(1, 50))
    def refresh(self, which: int, timeout: int) -> None:
        flow = self.flows[which % len(self.flows)]
        self.table.refresh(flow.entry, timeout * HZ)
        flow.ends = self.table.now + timeout * HZ

    @precondition(lambda self: self.flows)
    @rule(which=st.integers(0))
    def delete(self, which: int) -> None:
        flow = self.flows[which % len(self.flows)]
        assert self.table.delete(flow.entry, 1)
        assert not self.table.delete(flow.entry, 2)
        self.gone([flow])

    @rule(zone=st.integers(0, 2))
    def flush(self, zone: int) -> None:
        concerned = [flow for flow in self.flows if flow.zone.id == zone]
        assert self.table.flush(lambda entry: entry.zone.id == zone) == len(concerned)
        self.gone(concerned)

    @rule(seconds=st.integers(0, 20))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)
        over = [flow for flow in self.flows if flow.ends <= self.table.now]
        order = {flow.entry.id: flow.ends for flow in over}
        ends = [order[entry.id] for _, entry, *_ in self.told.events]
        assert ends == sorted(ends)
        self.gone(over)

    @rule()
    def start_walk(self) -> None:
        self.walk, self.met = self.table.walk(), []
        self.to_meet = [flow.entry for flow in self.flows]

    @precondition(lambda self: self.walk is not None)
    @rule(steps=st.integers(1, 4))
    def go_on(self, steps: int) -> None:
        assert self.walk is not None
        for _ in range(steps):
            entry = next(self.walk, None)
            if entry is None:
                alive = {flow.entry for flow in self.flows}
                assert set(self.to_meet) & alive <= set(self.met)
                assert len(self.met) == len(set(self.met))
                self.walk = None
                return
            assert entry in [flow.entry for flow in self.flows]
            self.met.append(entry)

    @invariant()
    def all_there(self) -> None:
        assert len(self.table) == self.table.count == len(self.flows)
        assert {entry.id for entry in self.table.walk()} == {flow.entry.id for flow in self.flows}
        for flow in self.flows:
            assert self.table.seconds_left(flow.entry) == (flow.ends - self.table.now) // HZ


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
