"""Event filters: the programs decide as their conditions say, and as those of libnetfilter_conntrack do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_network
from struct import Struct
from typing import Any

import pytest

from nfnl.session.eventfilter import FIELDS, EventConditions, EventFilter
from nfnl.session.flowspec import reply_to, tuple_of
from nfnl.sim import bpf
from nfnl.subsys.conntrack import DccpInfo, DestroyedFlow, Flow, ProtoInfo, SctpInfo, SctpState, Status, TcpInfo, TcpState
from nfnl.subsys.expect import Expectation
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.control import Ack
from tests.recordings import FIXTURES, sessions

ESTABLISHED, TIME_WAIT = int(TcpState.ESTABLISHED), int(TcpState.TIME_WAIT)
WHOLE = 0xFFFFFFFF


def passes(program: bpf.Program, data: bytes) -> bool:
    return bpf.run(program, data) != 0


def recorded() -> list[bytes]:
    """Every event of flows in the recordings."""
    unasked = [r.data for r in sessions("conntrack") if r.data[8:12] == bytes(4)]
    found = [data for data in unasked if isinstance(decode(data)[0], Flow | DestroyedFlow)]
    assert len(found) > 50
    return found


def made() -> Iterator[bytes]:
    """Events of flows that differ in all that can be asked."""
    sources = ["10.77.0.1", "10.77.0.9", "10.78.0.1", "2001:db8::1", "2001:db8::2"]
    destinations = {4: ["10.77.0.1", "10.77.0.200", "192.0.2.1"], 6: ["2001:db8::1", "fd00::7"]}
    states: list[Any] = [None, ESTABLISHED, TIME_WAIT, int(TcpState.SYN_SENT)]
    for source, protocol, state, mark, zone in itertools.product(sources, (6, 17, 132), states, (None, 1, 0x101, 2), (None, 7)):
        info = None
        if state is not None and protocol == 6:
            info = ProtoInfo(tcp=TcpInfo(state=state))
        elif state is not None and protocol == 132:
            info = ProtoInfo(sctp=SctpInfo(state=state))
        elif state is not None:
            continue
        for destination in destinations[ip_network(source).version]:
            original = tuple_of(source, destination, protocol, 1, 2)
            yield bytes(
                Flow(
                    nlmsg_flags=NlmsgFlag.CREATE | NlmsgFlag.EXCL,
                    nfgen_family=2 if ip_network(source).version == 4 else 10,
                    original=original,
                    reply=reply_to(original),
                    zone=zone,
                    id=7,
                    status=Status.CONFIRMED,
                    timeout=30,
                    protoinfo=info,
                    mark=mark,
                )
            )


EVENTS = [*recorded(), *made()]


# --- as libnetfilter_conntrack ------------------------------------------------------------------------------------------------


def library(name: str) -> bpf.Program:
    text = (FIXTURES / "conntrack/filters/libnetfilter_conntrack-1.1.1.txt").read_text()
    digits = dict(line.split() for line in text.splitlines() if not line.startswith("#"))[name]
    data = bytes.fromhex(digits)
    return bpf.check(list(Struct("<HBBI").iter_unpack(data)))


#: What the library was asked, in our words. Its conditions about addresses of one family let all of the other pass.
SAME: dict[str, EventFilter] = {
    "p0": EventFilter(),
    "p1": EventFilter(only={"protocol": ("tcp", "udp")}),
    "p2": EventFilter(never={"protocol": "tcp"}),
    "p3": EventFilter(only={"source": ("10.77.0.1", "::/0")}),
    "p4": EventFilter(never={"destination": ("10.77.0.0/24", "10.77.0.1")}),
    "p5": EventFilter(only={"source": ("2001:db8::1", "0.0.0.0/0")}),
    "p6": EventFilter(only={"tcp_state": (ESTABLISHED, TIME_WAIT)}),
    "p7": EventFilter(only={"mark": [(1, 0xFF)]}),
    "p8": EventFilter(never={"mark": [(1, 0xFF)]}),
    "p9": EventFilter(
        only={"protocol": 6, "source": ("10.77.0.0/24", "::/0"), "tcp_state": ESTABLISHED, "mark": [(1, 0xFF)]},
    ),
    "p10": EventFilter(only={"zone": 7}),
}


@pytest.mark.parametrize("name", SAME)
def test_it_decides_as_the_library(name: str) -> None:
    mine, theirs = bpf.check(SAME[name].program), library(name)
    decisions = [(passes(mine, event), passes(theirs, event)) for event in EVENTS]
    assert all(a == b for a, b in decisions)
    if name != "p0":
        assert {a for a, _ in decisions} == {True, False}, "the events do not tell it from others"


# --- as its conditions say --------------------------------------------------------------------------------------------------------


def holds(name: str, value: Any, flow: Flow | DestroyedFlow) -> bool | None:
    """What a condition means, said again in other words; None: the event does not tell."""
    original = flow.original
    if name in ("source", "destination"):
        address = original.src if name == "source" else original.dst
        return address in ip_network(value, strict=False)
    if name == "protocol":
        return bool(original.protocol == {"tcp": 6, "udp": 17, "sctp": 132}.get(value, value))
    if name == "tcp_state":
        return None if flow.tcp_state is None else flow.tcp_state == value
    if name == "sctp_state":
        return None if flow.sctp_state is None else flow.sctp_state == value
    mark, mask = value if isinstance(value, tuple) else (value, WHOLE)
    told = flow.mark if name == "mark" else flow.zone
    return bool((told or 0) & mask == mark)


def meant(only: EventConditions, never: EventConditions, flow: Flow | DestroyedFlow) -> bool:
    def listed(values: Any) -> Any:
        return values if isinstance(values, list) else [values]

    for name, values in only.items():
        said = [holds(name, value, flow) for value in listed(values)]
        if None not in said and not any(said):
            return False
    return not any(holds(name, value, flow) for name, values in never.items() for value in listed(values))


CONDITIONS: list[tuple[EventConditions, EventConditions]] = [
    ({"protocol": "tcp"}, {}),
    ({}, {"protocol": ["udp", 132]}),
    ({"source": "10.77.0.0/24"}, {}),
    ({"source": ["10.77.0.1", "2001:db8::/127"]}, {}),
    ({}, {"source": ["10.77.0.0/16", "2001:db8::1"]}),
    ({"destination": ["0.0.0.0/0"]}, {"destination": ["192.0.2.0/24"]}),
    ({"tcp_state": ESTABLISHED}, {}),
    ({}, {"tcp_state": [TIME_WAIT]}),
    ({"sctp_state": [int(SctpState.ESTABLISHED), int(SctpState.COOKIE_WAIT)]}, {"mark": [2]}),
    ({"mark": [(1, 0xFF)]}, {"mark": [(0x100, 0xFF00)]}),
    ({"mark": 0}, {}),
    ({"zone": 0}, {"protocol": "sctp"}),
    ({"zone": [7, 9], "source": ["2001:db8::/32"], "protocol": ["tcp", "udp"]}, {"destination": "fd00::/8"}),
]


@pytest.mark.parametrize(("only", "never"), CONDITIONS)
def test_it_decides_as_it_says(only: EventConditions, never: EventConditions) -> None:
    program = bpf.check(EventFilter(only, never).program)
    decisions = set()
    for data in EVENTS:
        (flow,) = decode(data)
        assert isinstance(flow, Flow | DestroyedFlow)
        decisions.add(passes(program, data))
        assert passes(program, data) == meant(only, never, flow), flow
    assert decisions == {True, False}, "the events do not tell it from others"


def test_every_condition_is_tried() -> None:
    tried = {name for pair in CONDITIONS for conditions in pair for name in conditions}
    assert tried | {"dccp_state"} == set(FIELDS) == set(EventConditions.__annotations__)


def test_a_dccp_state_is_found_where_older_kernels_tell_it() -> None:
    """Newer ones have no such events: this is by the numbers in the kernel's header only."""
    original = tuple_of("10.0.0.1", "10.0.0.2", 33, 1, 2)
    program = EventFilter(only={"dccp_state": 4}).program
    for state in (4, 5):
        info = ProtoInfo(dccp=DccpInfo(state=state))
        assert passes(program, bytes(Flow(original=original, reply=reply_to(original), protoinfo=info))) == (state == 4)


# --- what it leaves alone ---------------------------------------------------------------------------------------------------------


def test_answers_and_other_messages_pass() -> None:
    program = EventFilter(only={"protocol": "udp"}).program
    original = tuple_of("10.0.0.1", "10.0.0.2", "tcp", 1, 2)
    flow = Flow(original=original, reply=reply_to(original))
    assert not passes(program, bytes(flow))
    assert passes(program, bytes(flow.replace(nlmsg_seq=1, nlmsg_flags=NlmsgFlag.MULTI))), "part of a dump"
    assert passes(program, bytes(Ack.build(bytes(flow.replace(nlmsg_seq=1)))))
    assert passes(program, bytes(Expectation(tuple=original, mask=original, master=original)))


def test_many_values_take_many_instructions_up_to_what_the_kernel_takes() -> None:
    many = [f"10.{i // 256}.{i % 256}.0/24" for i in range(800)]
    program = bpf.check(EventFilter(only={"source": many}).program)
    assert len(program) > 255, "further than a conditional jump reaches"
    original = tuple_of("10.3.31.9", "10.0.0.2", "tcp", 1, 2)
    assert passes(program, bytes(Flow(original=original, reply=reply_to(original)))), "the last of them"
    with pytest.raises(ValueError, match="4096"):
        EventFilter(only={"source": [f"10.{i // 256}.{i % 256}.0/24" for i in range(1100)]})


@pytest.mark.parametrize(
    ("conditions", "match"),
    [
        ({"color": 1}, "no condition 'color'"),
        ({"protocol": "tpc"}, "no protocol 'tpc'"),
        ({"protocol": 256}, "256"),
        ({"source": "10.0.0.256"}, "10.0.0.256"),
        ({"mark": [(2, 1)]}, "nothing would match"),
        ({"zone": 0x10000}, "does not fit 16 bits"),
        ({"tcp_state": []}, "has no values"),
    ],
)
def test_what_no_condition_can_be(conditions: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EventFilter(only=conditions)
