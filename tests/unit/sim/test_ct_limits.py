"""Who gives way in a full table (rule B.12)."""

from __future__ import annotations

import pytest

from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.ct_limits import Buckets, may_give_way
from nfnl.sim.protoinfo import SctpInfo, SctpState, TcpInfo, TcpState
from nfnl.sim.tuples import DEFAULT_ZONE
from tests.unit.sim.flows import inverse, udp


def flow(port: int, status: int = 0) -> Entry:
    entry = Entry(port, DEFAULT_ZONE, udp(port), inverse(udp(port)), None)
    entry.status = status
    return entry


@pytest.mark.parametrize("state", TcpState)
def test_an_assured_tcp_flow_may_go_when_it_is_closing(state: TcpState) -> None:
    entry = flow(1, Status.ASSURED)
    entry.proto = TcpInfo()
    entry.proto.state = state
    assert may_give_way(entry) == (TcpState.FIN_WAIT <= state <= TcpState.CLOSE)


@pytest.mark.parametrize("state", SctpState)
def test_an_assured_sctp_flow_may_go_when_it_is_closing(state: SctpState) -> None:
    entry = flow(1, Status.ASSURED)
    entry.proto = SctpInfo()
    entry.proto.state = state
    assert may_give_way(entry) == (SctpState.SHUTDOWN_SENT <= state <= SctpState.SHUTDOWN_ACK_SENT)


def test_others_may_go_unless_assured() -> None:
    assert may_give_way(flow(1))
    assert not may_give_way(flow(1, Status.ASSURED))


def test_eight_buckets_are_searched_and_the_first_that_has_any_is_emptied() -> None:
    few, many = Buckets(8), Buckets(2**20)
    flows = [flow(port) for port in range(50)]
    for buckets in (few, many):
        for entry in flows:
            buckets.add(entry)
    victims = few.near(udp(99))
    assert 0 < len(victims) < 50
    assert many.near(udp(99)) == []
    assert flows[3] in many.near(udp(3))
    for entry in victims:
        few.remove(entry)
    assert not set(victims) & set(few.near(udp(99)))


def test_the_assured_stay() -> None:
    buckets = Buckets(1)
    buckets.add(flow(1, Status.ASSURED))
    assert buckets.near(udp(2)) == []
