"""What the declarations of nfnl say is what the kernel understands and says: requests built from them, answers read by them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from nfnl.subsys.conntrack import (
    DeleteFlow,
    DestroyedFlow,
    Filter,
    FilterFlag,
    Flow,
    GetFlow,
    GetFlowCtrzero,
    GetStats,
    GetStatsCpu,
    Help,
    NewFlow,
    ProtoInfo,
    SeqAdj,
    Stats,
    StatsCpu,
    Status,
    SynProxy,
    TcpInfo,
    TcpState,
    Tuple,
    TupleIp,
    TupleProto,
)
from nfnl.subsys.expect import DeleteExpectation, DestroyedExpectation, Expectation, ExpectFlag, GetExpectation, NewExpectation
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.control import Ack, Done
from nfnl.wire.declare import Direction, Message
from nfnl.wire.header import NetlinkMessage
from tests.contract.ctkit import CREATE, DUMP, TCP, UDP, V4, V6, Asker
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import ACK, REQUEST

A, B = IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2")
A6, B6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")


def said(asker: Asker, kind: type[Message], and_: int = 0, *, family: int = V4, **fields: Any) -> list[NetlinkMessage]:
    """Send a declared message; the messages that answer it."""
    request = kind(nlmsg_flags=NlmsgFlag(REQUEST | ACK | and_), nfgen_family=family, nlmsg_seq=1, **fields)
    return [message for part in asker.ask(bytes(request)) for message in decode(part, direction=Direction.FROM_KERNEL, strict=True)]


def done(answers: list[NetlinkMessage]) -> bool:
    """It went well, and nothing else was said."""
    return [type(answer) for answer in answers] == [Ack] and not any(getattr(answer, "error", 0) for answer in answers)


def ipv4(source: IPv4Address, destination: IPv4Address, number: int, sport: int, dport: int) -> Tuple:
    """A tuple of IPv4."""
    return Tuple(ip=TupleIp(v4_src=source, v4_dst=destination), proto=TupleProto(num=number, src_port=sport, dst_port=dport))


THERE, BACK = ipv4(A, B, TCP, 5000, 21), ipv4(B, A, TCP, 21, 5000)
EVERYTHING: dict[str, Any] = {
    "original": THERE,
    "reply": BACK,
    "timeout": 1000,
    "zone": 5,
    "status": Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED,
    "mark": 0x01020304,
    "protoinfo": ProtoInfo(tcp=TcpInfo(state=TcpState.ESTABLISHED)),
    "help": Help(name="ftp"),
    "seq_adj_original": SeqAdj(correction_pos=1, offset_before=-2, offset_after=3),
    "seq_adj_reply": SeqAdj(correction_pos=4, offset_before=5, offset_after=-6),
    "synproxy": SynProxy(isn=7, its=8, tsoff=9),
}


@rule("CTNEW-1", "CTATTR-1")
def test_a_flow_is_told_as_it_was_given(asker: Asker) -> None:
    assert done(said(asker, NewFlow, CREATE, **EVERYTHING))
    flow, ack = said(asker, GetFlow, original=THERE, zone=5)
    assert isinstance(flow, Flow)
    assert isinstance(ack, Ack)
    for name in EVERYTHING.keys() - {"timeout", "status", "protoinfo"}:
        assert getattr(flow, name) == EVERYTHING[name], name
    assert flow.status == EVERYTHING["status"] | Status.HELPER | Status.SEQ_ADJUST
    assert flow.protoinfo is not None
    assert flow.protoinfo.tcp is not None
    assert flow.protoinfo.tcp.state == TcpState.ESTABLISHED
    assert flow.timeout is not None
    assert 900 < flow.timeout <= 1000


@rule("CTTUPLE-3", "CTTUPLE-7")
@pytest.mark.parametrize("number", [UDP, 58])
def test_a_flow_of_ipv6(asker: Asker, number: int) -> None:
    if number == UDP:
        protos = TupleProto(num=UDP, src_port=1, dst_port=2), TupleProto(num=UDP, src_port=2, dst_port=1)
    else:
        protos = (
            TupleProto(num=58, icmpv6_id=7, icmpv6_type=128, icmpv6_code=0),
            TupleProto(num=58, icmpv6_id=7, icmpv6_type=129, icmpv6_code=0),
        )
    there = Tuple(ip=TupleIp(v6_src=A6, v6_dst=B6), proto=protos[0])
    back = Tuple(ip=TupleIp(v6_src=B6, v6_dst=A6), proto=protos[1])
    assert done(said(asker, NewFlow, CREATE, family=V6, original=there, reply=back, timeout=1000))
    flow, end = said(asker, GetFlow, DUMP, family=V6)
    assert isinstance(flow, Flow)
    assert isinstance(end, Done)
    assert (flow.original, flow.reply, flow.nfgen_family) == (there, back, V6)


@rule("CTUPD-4", "CTDEL-2", "CTEV-2")
def test_changing_and_removing(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = Asker(kernel, 1, 2, 3)
    assert done(said(asker, NewFlow, CREATE, original=THERE, reply=BACK, timeout=1000, mark=0xF0))
    assert done(said(asker, NewFlow, original=THERE, mark=0x0F, mark_mask=0x0F))
    [flow, _] = said(asker, GetFlowCtrzero, reply=BACK)
    assert isinstance(flow, Flow)
    assert flow.mark == 0xFF
    assert done(said(asker, DeleteFlow, original=THERE, id=flow.id))
    told = [message for part in watcher.hear() for message in decode(part)]
    assert [type(event) for event in told] == [Flow, Flow, DestroyedFlow]
    assert [bool(event.nlmsg_flags & NlmsgFlag.CREATE) for event in told] == [True, False, False]
    assert {getattr(event, "id", None) for event in told} == {flow.id}


@rule("CTFILT-9")
@needs("flush-by-filter")
def test_a_filter(asker: Asker) -> None:
    for port in (1, 2):
        both: dict[str, Any] = {"original": ipv4(A, B, UDP, port, 53), "reply": ipv4(B, A, UDP, 53, port)}
        assert done(said(asker, NewFlow, CREATE, timeout=1000, **both))
    by_port = Filter(orig_flags=FilterFlag.PROTO_NUM | FilterFlag.PROTO_SRC_PORT)
    flow, end = said(asker, GetFlow, DUMP, filter=by_port, original=Tuple(proto=TupleProto(num=UDP, src_port=2)))
    assert isinstance(flow, Flow)
    assert isinstance(end, Done)
    assert flow.original.src_port == 2
    assert done(said(asker, DeleteFlow, filter=by_port, original=Tuple(proto=TupleProto(num=UDP, src_port=2))))
    assert len(asker.dump()) == 1


def inserted(asker: Asker) -> int:
    """How many flows programs have put in, by the statistics of all processors."""
    *told, end = said(asker, GetStatsCpu, DUMP, family=0)
    assert isinstance(end, Done)
    assert {type(stats) for stats in told} == {StatsCpu}
    return sum(stats.insert or 0 for stats in told if isinstance(stats, StatsCpu))


@rule("CTSTAT-1", "CTSTAT-3")
def test_statistics(asker: Asker) -> None:
    before = inserted(asker)
    assert done(said(asker, NewFlow, CREATE, original=THERE, reply=BACK, timeout=1000))
    assert inserted(asker) == before + 1
    stats, _ = said(asker, GetStats, family=0)
    assert isinstance(stats, Stats)
    assert stats.entries == 1


@needs("expectations-deleted-by-id")
@rule("CTEXP-14", "CTEXP-16")
def test_an_expectation(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = Asker(kernel, 4, 6)
    assert done(said(asker, NewFlow, CREATE, original=THERE, reply=BACK, timeout=1000, help=Help(name="ftp")))
    ones = IPv4Address("255.255.255.255")
    fields: dict[str, Any] = {
        "tuple": ipv4(A, B, TCP, 0, 5000),
        "mask": ipv4(ones, ones, TCP, 0, 0xFFFF),
        "master": THERE,
        "flags": ExpectFlag.PERMANENT,
        "fn": "nat-follow-master",
    }
    assert done(said(asker, NewExpectation, CREATE, **fields))
    one, _ = said(asker, GetExpectation, tuple=fields["tuple"])
    assert isinstance(one, Expectation)
    for name, value in fields.items():
        assert getattr(one, name) == value, name
    assert (one.help_name, one.expect_class) == ("ftp", 0)
    assert done(said(asker, DeleteExpectation, tuple=fields["tuple"], id=one.id))
    told = [message for part in watcher.hear() for message in decode(part)]
    assert [type(event) for event in told] == [Expectation, DestroyedExpectation]
