"""A kernel with accidents, around the fake one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from nfnl.errors import OverrunError
from nfnl.sim import FakeKernel
from nfnl.subsys.conntrack import Flow, GetFlow, GetStats, NewFlow, Stats, Tuple, TupleIp, TupleProto
from nfnl.transport.base import SocketOptions, Transport
from nfnl.transport.faults import FaultyKernel
from nfnl.transport.trace import TraceKernel
from nfnl.wire.codec import decode
from nfnl.wire.constants import Group, NlmsgFlag
from nfnl.wire.control import Ack, Done
from nfnl.wire.datagram import Datagram
from nfnl.wire.header import NetlinkMessage

REQUEST = NlmsgFlag.REQUEST | NlmsgFlag.ACK
DUMP = NlmsgFlag.REQUEST | NlmsgFlag.DUMP


def new(port: int) -> bytes:
    one, other = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    there = Tuple(ip=TupleIp(v4_src=one, v4_dst=other), proto=TupleProto(num=17, src_port=port, dst_port=53))
    back = Tuple(ip=TupleIp(v4_src=other, v4_dst=one), proto=TupleProto(num=17, src_port=53, dst_port=port))
    flags = REQUEST | NlmsgFlag.CREATE
    return bytes(NewFlow(nlmsg_flags=flags, nfgen_family=2, original=there, reply=back, timeout=100))


@pytest.fixture
def faulty() -> Iterator[FaultyKernel]:
    with FakeKernel() as kernel:
        transport = kernel.open()
        for port in range(1, 51):
            transport.send(new(port))
        yield FaultyKernel(kernel)


def messages(transport: Transport) -> list[NetlinkMessage]:
    """All that is there."""
    found: list[NetlinkMessage] = []
    while datagrams := transport.receive():
        for datagram in datagrams:
            found += decode(datagram)
    return found


def dumped(transport: Transport, seq: int = 1) -> list[NetlinkMessage]:
    transport.send(bytes(GetFlow(nlmsg_flags=DUMP, nlmsg_seq=seq)))
    return messages(transport)


def interrupted(said: list[NetlinkMessage]) -> list[int]:
    """Which of them say so."""
    return [i for i, message in enumerate(said) if message.nlmsg_flags & NlmsgFlag.DUMP_INTR]


def test_nothing_goes_wrong_by_itself(faulty: FaultyKernel) -> None:
    transport = faulty.open()
    said = dumped(transport)
    assert len(said) == 51
    assert interrupted(said) == []


@pytest.mark.parametrize(("after", "where"), [(None, 50), (0, 0), (30, 30), (50, 50), (1000, 50)])
def test_a_dump_is_interrupted_once(faulty: FaultyKernel, after: int | None, where: int) -> None:
    transport = faulty.open()
    faulty.interrupt_dump(after=after)
    said = dumped(transport)
    assert interrupted(said) == [where]
    assert isinstance(said[-1], Done)
    assert all(isinstance(message, Flow) for message in said[:-1])
    assert interrupted(dumped(transport, 2)) == []


def test_several_dumps_are_interrupted_one_after_the_other(faulty: FaultyKernel) -> None:
    faulty.interrupt_dump(after=3)
    faulty.interrupt_dump()
    one, other = faulty.open(), faulty.open()
    assert [interrupted(dumped(transport)) for transport in (one, other, one)] == [[3], [50], []]


def test_only_dumps_are_interrupted(faulty: FaultyKernel) -> None:
    transport = faulty.open()
    faulty.interrupt_dump()
    transport.send(bytes(GetStats(nlmsg_flags=REQUEST, nlmsg_seq=1)))
    stats, ack = messages(transport)
    assert isinstance(stats, Stats)
    assert isinstance(ack, Ack)
    assert interrupted([stats, ack]) == []
    assert interrupted(dumped(transport)) == [50]


def test_a_dump_that_is_refused_leaves_the_interruption_to_the_next(faulty: FaultyKernel) -> None:
    transport = faulty.open()
    faulty.interrupt_dump()
    transport.send(bytes(GetFlow(nlmsg_flags=DUMP, nlmsg_seq=1, mark_mask=1, nfgen_family=2)))
    [refusal] = messages(transport)
    assert isinstance(refusal, Ack)
    assert interrupted([refusal]) == []
    assert interrupted(dumped(transport)) == [50]


def test_datagrams_vanish(faulty: FaultyKernel) -> None:
    transport = faulty.open()
    faulty.lose(2)
    for _ in range(3):
        transport.send(bytes(GetStats(nlmsg_flags=REQUEST)))
    assert [type(message) for message in messages(transport)] == [Stats, Ack, Stats, Ack]


def test_some_datagrams_vanish(faulty: FaultyKernel) -> None:
    def acknowledges(datagram: bytes) -> bool:
        return isinstance(decode(datagram)[0], Ack)

    transport = faulty.open()
    faulty.lose(2, matching=acknowledges)
    for _ in range(3):
        transport.send(bytes(GetStats(nlmsg_flags=REQUEST)))
    assert [type(message) for message in messages(transport)] == [Stats, Stats, Stats, Ack]


def test_an_overrun_comes_first_and_costs_what_follows(faulty: FaultyKernel) -> None:
    listener = faulty.open(SocketOptions(groups=(Group.CONNTRACK_NEW,)))
    writer = faulty.open()
    faulty.overrun(lost=3)
    for port in range(100, 106):
        writer.send(new(port))
    with pytest.raises(OverrunError):
        listener.receive()
    heard = [message for message in messages(listener) if isinstance(message, Flow)]
    assert [flow.original.src_port for flow in heard] == [103, 104, 105]
    faulty.overrun(lost=0)
    writer.send(new(200))
    with pytest.raises(OverrunError):
        listener.receive()
    assert len(messages(listener)) == 1


def test_facts_of_datagrams_stay(faulty: FaultyKernel) -> None:
    listener = faulty.open(SocketOptions(groups=(Group.CONNTRACK_NEW,)))
    faulty.open().send(new(100))
    [datagram] = listener.receive()
    assert isinstance(datagram, Datagram)
    assert datagram.groups == 1


def test_wrappers_stack_in_any_order(faulty: FaultyKernel) -> None:
    inner: list[str] = []
    outer: list[str] = []
    inside = FaultyKernel(TraceKernel(faulty, inner.append))
    transport = TraceKernel(inside, outer.append).open()
    inside.interrupt_dump(after=1)
    assert interrupted(dumped(transport)) == [1]
    inside.lose()
    transport.send(bytes(GetStats(nlmsg_flags=REQUEST)))
    assert [type(message) for message in messages(transport)] == [Ack]
    assert len(inner) == len(outer) + 1


def test_bytes_that_are_no_messages_pass(faulty: FaultyKernel) -> None:
    transport = faulty.open()
    faulty.interrupt_dump()
    transport.send(b"\0" * 20)
    transport.send(b"?")
    assert transport.receive() == []
