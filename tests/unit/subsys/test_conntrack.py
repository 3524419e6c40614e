"""Conntrack and expectations: recordings of the kernel and of conntrack mean what was set up when they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from nfnl.errors import EncodeError
from nfnl.subsys.conntrack import (
    AttachedFlow,
    Counters,
    DeleteFlow,
    DestroyedFlow,
    Filter,
    FilterFlag,
    Flow,
    FlowAttributes,
    GetFlow,
    GetFlowCtrzero,
    GetStats,
    Help,
    Nat,
    NatProto,
    NewFlow,
    Protocol,
    ProtoInfo,
    SctpState,
    SeqAdj,
    Stats,
    StatsCpu,
    Status,
    SynProxy,
    TcpFlag,
    TcpFlags,
    TcpInfo,
    TcpState,
    Tuple,
    TupleIp,
    TupleProto,
    label_bitmap,
    labels_in,
)
from nfnl.subsys.expect import AttachedExpectation, DestroyedExpectation, Expectation, ExpectDirection, ExpectFlag, NewExpectation
from nfnl.subsys.queue import Packet, PacketHeader, VerdictHeader, VerdictMessage
from nfnl.wire.codec import decode, encode
from nfnl.wire.compiled import MAX_SHAPES, Codec, build, codec
from nfnl.wire.constants import NlmsgFlag, Verdict
from nfnl.wire.control import Done, Malformed
from nfnl.wire.declare import HEADER_FIELDS, AttrSet, Direction, Message, View, registry
from nfnl.wire.header import BIG, LITTLE, NATIVE
from tests.recordings import Recording, exchanges, sessions

RECORDINGS = [*sessions("conntrack"), *sessions("expect")]
#: the hosts in most recordings
A, B = IPv4Address("10.0.1.2"), IPv4Address("10.0.2.2")
A6, B6 = IPv6Address("fd00:1::2"), IPv6Address("fd00:2::2")

little = pytest.mark.skipif(NATIVE is BIG, reason="probe little-endian: the recordings were made on a little-endian machine")


def messages(name: str) -> list[Message]:
    """The declared messages of one recording, in order, without repeats of requests in acknowledgements."""
    found = [message for r in RECORDINGS if r.name.split(":")[0] == name for message in decode(r.data, direction=r.direction)]
    return [message for message in found if isinstance(message, Message)]


def flow(name: str, kind: type[FlowAttributes] = Flow, at: int = 0) -> Any:
    """A flow in it."""
    return [message for message in messages(name) if isinstance(message, kind)][at]


# --- bytes ---------------------------------------------------------------------------------------------------------------------


def rebuilt(view: View, *, declared: bool) -> Any:
    """The same from its values alone, nests too; in the order of the wire, or with ``declared`` in that of the declaration."""
    wire = [view.__by_number__[attribute.number].name for attribute in view.attributes]
    values: dict[str, Any] = {name: getattr(view, name) for name in HEADER_FIELDS if isinstance(view, Message)}
    for name in wire:
        value = getattr(view, name)
        values[name] = rebuilt(value, declared=declared) if isinstance(value, AttrSet) else value
    return type(view)(**values) if declared else type(view).in_order(**values)


def laid_out(view: View) -> list[tuple[int, Any]]:
    """Attributes as they lie on the wire, nests too: all but the padding, which conntrack leaves as it finds it."""
    found: list[tuple[int, Any]] = []
    for attribute in view.attributes:
        field = view.__by_number__[attribute.number]
        inside = getattr(view, field.name)
        found.append((attribute.type, laid_out(inside) if isinstance(inside, AttrSet) else attribute.data))
    return found


@little
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_values_alone_give_the_recorded_bytes(recording: Recording) -> None:
    for message in decode(recording.data, direction=recording.direction):
        if isinstance(message, Message) and not message.unknown:
            again = rebuilt(message, declared=False)
            assert laid_out(again) == laid_out(message)
            assert bytes(again)[:20] == bytes(message)[:20]
            if recording.direction is Direction.FROM_KERNEL:
                assert bytes(again) == bytes(message)[: message.nlmsg_len]


def in_declared_order(message: Message) -> bool:
    """What the kernel always writes in the order of declaration: all but events of new and changed flows."""
    return type(message) in (DestroyedFlow, Expectation, DestroyedExpectation, Stats, StatsCpu) or (
        isinstance(message, Flow) and bool(message.nlmsg_flags & NlmsgFlag.MULTI)
    )


@little
def test_the_order_of_declaration_is_that_of_the_kernel() -> None:
    seen: Counter[str] = Counter()
    for recording in RECORDINGS:
        for message in decode(recording.data, direction=recording.direction):
            if isinstance(message, Message) and in_declared_order(message):
                assert bytes(rebuilt(message, declared=True)) == bytes(message)[: message.nlmsg_len]
                seen[type(message).__name__] += 1
    assert seen["Flow"] > 250
    assert min(seen[kind] for kind in ("DestroyedFlow", "Expectation", "DestroyedExpectation", "StatsCpu", "Stats")) > 1


@little
def test_the_order_in_packets_is_that_of_the_glue() -> None:
    nests = [
        message.ct  # type: ignore[attr-defined]
        for recording in sessions("queue")
        for message in decode(recording.data, direction=recording.direction)
        if getattr(message, "ct", None) is not None
    ]
    for nest in nests:
        assert bytes(rebuilt(nest, declared=True)) == bytes(nest)


@little
def test_the_recordings_hold_every_kind_of_message_of_both_subsystems() -> None:
    seen = {type(m) for r in RECORDINGS for m in decode(r.data, direction=r.direction)}
    missing = {cls.__name__ for cls in registry.values() if cls.__subsystem__.id in (1, 2)} - {cls.__name__ for cls in seen}
    assert missing == set()


# --- what they mean ------------------------------------------------------------------------------------------------------------


@little
def test_a_udp_flow_from_first_packet_to_assured() -> None:
    first, replied, assured = messages("ev-udp")
    assert first.nlmsg_flags == NlmsgFlag.CREATE | NlmsgFlag.EXCL
    assert [m.nlmsg_flags for m in (replied, assured)] == [0, 0]
    for event in (first, replied, assured):
        assert isinstance(event, Flow)
        assert (event.original.src, event.original.dst, event.original.src_port, event.original.dst_port) == (A, B, 5000, 53)
        assert (event.reply.src, event.reply.dst, event.reply.src_port, event.reply.dst_port) == (B, A, 53, 5000)
        assert event.protocol is Protocol.UDP
        assert event.present() == {"original", "reply", "id", "status", "timeout"}
    assert [flow("ev-udp", at=i).status for i in range(3)] == [
        Status.CONFIRMED,
        Status.CONFIRMED | Status.SEEN_REPLY,
        Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED,
    ]
    assert [flow("ev-udp", at=i).timeout for i in range(3)] == [30, 30, 120]


@little
def test_a_flow_with_all_there_is() -> None:
    """TCP to port 21 with accounting, timestamps, the helper ftp, label 5 and mark 0x77; window scales 7 and 8, both with SACK."""
    rich = flow("get-rich")
    assert (rich.protocol, rich.tcp_state) == (Protocol.TCP, TcpState.ESTABLISHED)
    assert (rich.original.src, rich.original.src_port, rich.original.dst, rich.original.dst_port) == (A, 3000, B, 21)
    assert (rich.mark, rich.helper, rich.label_numbers) == (0x77, "ftp", {5})
    tcp = rich.protoinfo.tcp
    assert (tcp.wscale_original, tcp.wscale_reply) == (7, 8)
    assert {TcpFlag.WINDOW_SCALE, TcpFlag.SACK_PERM} <= set(tcp.flags_original.flags)
    assert tcp.flags_reply.mask == 0
    assert (rich.counters_original.packets, rich.counters_original.bytes) == (2, 48 + 40)
    assert (rich.counters_reply.packets, rich.counters_reply.bytes) == (1, 48)
    assert rich.timestamp.start > 1_700_000_000 * 10**9
    assert rich.timestamp.stop is None


@little
def test_a_tcp_connection_goes_through_its_states() -> None:
    states = [message.tcp_state for message in messages("ev-tcp-life") if isinstance(message, Flow)]
    assert states[:3] == [TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.ESTABLISHED]
    assert [message.tcp_state for message in messages("ev-rst") if isinstance(message, FlowAttributes)][-1] == TcpState.CLOSE


@little
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ev-icmp", "icmp 10.0.1.2 > 10.0.2.2 type 8 code 0 id 5"),
        ("ev-icmpv6", "icmpv6 fd00:1::2 > fd00:2::2 type 128 code 0 id 5"),
        ("ev-tcp6", "tcp [fd00:1::2]:4000 > [fd00:2::2]:80"),
        ("ev-sctp", "sctp 10.0.1.2:1 > 10.0.2.2:9"),
        ("ev-gre-pptp", "gre 10.0.1.2:0 > 10.0.2.2:4660"),
        ("ev-generic", "protocol 50 10.0.1.2 > 10.0.2.2"),
        ("new-zone-orig", "udp 10.0.1.2:1000 > 10.0.2.2:53 zone 7"),
    ],
)
def test_tuples_of_every_protocol(name: str, said: str) -> None:
    assert str(flow(name).original) == said


@little
def test_sctp_states_and_tags() -> None:
    request = flow("new-sctp", NewFlow)
    assert (request.sctp_state, request.tcp_state) == (SctpState.ESTABLISHED, None)
    assert (request.protoinfo.sctp.vtag_original, request.protoinfo.sctp.vtag_reply) == (0x11, 0x22)
    assert [message.sctp_state for message in messages("ev-sctp") if isinstance(message, Flow)] == [
        SctpState.CLOSED,
        SctpState.COOKIE_WAIT,
        SctpState.COOKIE_ECHOED,
        SctpState.ESTABLISHED,
    ]


@little
def test_zones_marks_and_labels_by_rule() -> None:
    assert (flow("ev-zone").zone, flow("ev-zone").original.zone) == (9, None)
    assert flow("ev-mark").mark == 0x55
    assert flow("ev-label").label_numbers == {2}
    orig = flow("new-zone-orig", NewFlow)
    assert (orig.zone, orig.original.zone, orig.reply.zone) == (None, 7, None)


@little
@pytest.mark.parametrize(
    ("name", "back", "bits"),
    [
        ("ev-snat", ("10.0.2.50", 7000), Status.SRC_NAT),
        ("ev-dnat", ("10.0.1.2", 1), Status.DST_NAT),
        ("ev-null-binding", ("10.0.1.2", 1), Status(0)),
    ],
)
def test_where_replies_of_translated_flows_go(name: str, back: tuple[str, int], bits: Status) -> None:
    translated = flow(name)
    assert (str(translated.reply.dst), translated.reply.dst_port) == back
    assert translated.status == Status.CONFIRMED | Status.SRC_NAT_DONE | Status.DST_NAT_DONE | bits


@little
def test_counters_timestamps_and_the_end_of_a_flow() -> None:
    events = [message for message in messages("ev-counters-timestamp") if isinstance(message, FlowAttributes)]
    assert [type(event) for event in events if not isinstance(event, DeleteFlow)] == [Flow, Flow, DestroyedFlow]
    gone = flow("ev-counters-timestamp", DestroyedFlow)
    assert (gone.counters_original.packets, gone.counters_reply.packets) == (1, 1)
    assert gone.timestamp.start < gone.timestamp.stop <= gone.timestamp_event
    assert Status.DYING in gone.status
    assert gone.protoinfo.tcp.present() == {"state"}
    assert flow("ev-expired", DestroyedFlow).timeout is None


@little
def test_requests_as_they_were_meant() -> None:
    tcp = flow("new-tcp", NewFlow)
    assert (tcp.timeout, tcp.mark) == (100, 0x1234)
    assert tcp.status == Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED
    info = tcp.protoinfo.tcp
    assert (info.state, info.wscale_original, info.wscale_reply) == (TcpState.ESTABLISHED, 7, 8)
    both = TcpFlag.WINDOW_SCALE | TcpFlag.SACK_PERM
    assert info.flags_original == info.flags_reply == TcpFlags(both, both)
    snat = flow("new-snat", NewFlow)
    assert (snat.nat_src.v4_minip, snat.nat_src.v4_maxip) == (IPv4Address("10.0.2.50"), None)
    assert (snat.nat_src.proto.port_min, snat.nat_src.proto.port_max) == (4000, 4000)
    assert flow("new-dnat6", NewFlow).nat_dst.v6_minip == IPv6Address("fd00:2::9")
    assert flow("new-helper", NewFlow).help == Help(name="ftp")
    master = flow("new-master", NewFlow).master
    assert (master.src, master.dst, master.src_port, master.dst_port) == (A, B, 1000, 21)
    more = flow("new-seqadj-synproxy", NewFlow)
    assert more.seq_adj_original == SeqAdj(correction_pos=1, offset_before=2, offset_after=3)
    assert more.seq_adj_reply == SeqAdj(correction_pos=4, offset_before=5, offset_after=6)
    assert more.synproxy == SynProxy(isn=7, its=8, tsoff=9)
    mark = flow("upd-mark", NewFlow)
    assert (mark.mark, mark.mark_mask) == (0xFF00, 0xFF00)
    flush = flow("flush-filter", DeleteFlow)
    assert (flush.status, flush.status_mask, flush.original) == (0, Status.ASSURED, None)
    assert flow("ctrzero-one", GetFlowCtrzero).original.dst_port == 53


@little
def test_the_words_of_a_filter_are_in_the_order_of_the_host() -> None:
    asked = flow("dump-filter", GetFlow)
    assert asked.filter.orig_flags == FilterFlag.PROTO_NUM | FilterFlag.PROTO_DST_PORT
    assert asked.filter.reply_flags is None
    filtered = Filter(orig_flags=FilterFlag.IP_SRC)
    assert bytes(filtered)[4:] == (b"\1\0\0\0" if NATIVE is LITTLE else b"\0\0\0\1")
    assert bytes(build(Filter, {"orig_flags": FilterFlag.IP_SRC}, BIG))[4:] == b"\0\0\0\1"


@little
def test_statistics() -> None:
    [stats] = [message for message in messages("stats") if isinstance(message, Stats)]
    assert stats.entries == 6
    assert stats.max_entries is not None
    assert stats.max_entries > 1000
    cpus = [message for message in messages("stats-cpu") if isinstance(message, StatsCpu)]
    assert [cpu.res_id for cpu in cpus] == list(range(len(cpus)))
    assert all(cpu.searched is None and cpu.found is not None and cpu.chain_toolong is not None for cpu in cpus)


@little
def test_one_type_number_means_two_things() -> None:
    """Expectation statistics are answered as subsystem 1, number 3, which asks to read and clear counters the other way."""
    kinds = [(type(m).__name__, m.nlmsg_type) for m in messages("exp-stats-cpu")]
    assert kinds[0] == ("GetExpectStatsCpu", 0x0203)
    assert set(kinds[1:]) == {("ExpectStatsCpu", 0x0103)}
    assert registry[0x0103, Direction.TO_KERNEL] is GetFlowCtrzero


@little
def test_an_expectation() -> None:
    request, made = (m for m in messages("exp-new-nat") if isinstance(m, NewExpectation | Expectation))
    assert isinstance(request, NewExpectation)
    assert isinstance(made, Expectation)
    assert request.nat is not None
    assert request.nat.tuple is not None
    assert (request.nat.dir, request.nat.tuple.src, request.nat.tuple.src_port) == (
        ExpectDirection.REPLY,
        ip_address("10.7.7.7"),
        999,
    )
    assert (request.fn, request.flags, request.expect_class) == ("nat-follow-master", ExpectFlag.PERMANENT, 0)
    assert (made.tuple.src, made.tuple.dst, made.tuple.src_port, made.tuple.dst_port) == (A, B, 0, 5000)
    assert (made.mask.dst_port, made.mask.src_port, str(made.mask.src)) == (0xFFFF, 0, "255.255.255.255")
    assert (made.master.src_port, made.master.dst_port, made.master.protocol) == (4000, 21, Protocol.TCP)
    assert (made.help_name, made.fn, made.nat) == ("ftp", "nat-follow-master", request.nat)
    assert str(made).startswith("tcp 10.0.1.2:0 > 10.0.2.2:5000 master tcp 10.0.1.2:4000 > 10.0.2.2:21 timeout ")


@little
def test_adjusted_sequence_numbers_and_a_related_flow() -> None:
    adjusted = next(m for m in messages("ftp-port-snat") if isinstance(m, Flow) and m.seq_adj_original is not None)
    assert adjusted.seq_adj_original is not None
    # "PORT 10,0,1,2,..." became "PORT 10,0,2,77,...": one byte more
    assert (adjusted.seq_adj_original.offset_before, adjusted.seq_adj_original.offset_after) == (0, 1)
    related = next(m for m in messages("ftp-passive") if isinstance(m, Flow) and m.master is not None)
    assert related.master is not None
    assert (related.master.dst_port, related.original.dst_port) == (21, 5001)
    assert related.status is not None
    assert Status.EXPECTED in related.status


# --- one bad entry ---------------------------------------------------------------------------------------------------------------


def dump(count: int) -> list[bytes]:
    """Entries of a dump, each with its own source port."""
    return [
        bytes(Flow(nlmsg_flags=2, nlmsg_seq=7, nfgen_family=2, original=udp(1000 + i, 53), reply=udp(53, 1000 + i), mark=i))
        for i in range(count)
    ]


def udp(source: int, destination: int) -> Tuple:
    return Tuple(ip=TupleIp(v4_src=A, v4_dst=B), proto=TupleProto(num=Protocol.UDP, src_port=source, dst_port=destination))


def broken(entry: bytes, path: str) -> bytes:
    """The entry with the attribute at the path one byte too short for its value, its room left as it was."""
    data = bytearray(entry)
    start, end, declaration = 20, len(data), Flow
    cls: type[View] = declaration
    for name in path.split("."):
        field = next(a for a in cls.__attrs__ if a.name == name)
        while NATIVE.attr.unpack_from(data, start)[1] & 0x3FFF != field.number:
            start += (NATIVE.attr.unpack_from(data, start)[0] + 3) & ~3
            assert start < end
        at, start = start, start + 4
        cls = field.nest or cls
    length, kind = NATIVE.attr.unpack_from(data, at)
    assert length % 4 != 1 or length == 5
    NATIVE.attr.pack_into(data, at, length - 1, kind)
    return bytes(data)


@pytest.mark.parametrize("path", ["original.proto.src_port", "reply.proto.num", "original.ip.v4_dst", "mark"])
def test_one_bad_entry_is_named_and_loses_nothing_else(path: str) -> None:
    entries = dump(31)
    entries[17] = broken(entries[17], path)
    done = NATIVE.header.pack(20, 3, 2, 7, 0) + bytes(4)
    found = decode(b"".join(entries) + done)
    assert len(found) == 32
    assert encode(found) == b"".join(entries) + done
    [bad] = [message for message in found if isinstance(message, Malformed)]
    assert bad is found[17]
    assert bad.error.path == f"Flow.{path}"
    assert bad.error.offset is not None
    assert bad.error.offset > sum(map(len, entries[:17]))
    flows = [message for message in found if isinstance(message, Flow)]
    assert [entry.original.src_port for entry in flows] == [1000 + i for i in range(31) if i != 17]
    assert isinstance(found[-1], Done)


def test_a_nest_that_overruns_its_own_is_named() -> None:
    entry = bytearray(dump(1)[0])
    # original (at 20), ip (24), v4_src (28): its length reaches past the end of ip
    NATIVE.attr.pack_into(entry, 28, 40, 1)
    [bad] = decode(bytes(entry))
    assert isinstance(bad, Malformed)
    assert bad.error.path == "Flow.original.ip.v4_src"
    assert bad.error.offset == 28


# --- values ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"v4_src": A6}, "TupleIp.v4_src"),
        ({"v4_src": "10.0.0.1"}, "TupleIp.v4_src"),
        ({"v4_dst": 5}, "TupleIp.v4_dst"),
        ({"v6_src": A}, "TupleIp.v6_src"),
        ({"v6_dst": bytes(16)}, "TupleIp.v6_dst"),
    ],
)
def test_an_address_is_one_of_its_family_and_nothing_else(values: dict[str, Any], path: str) -> None:
    with pytest.raises(EncodeError, match=path):
        TupleIp(**values)


def test_a_protocol_nobody_named_stays_a_number() -> None:
    tuple_ = Tuple(proto=TupleProto(num=50))
    assert tuple_.protocol == 50
    assert not isinstance(tuple_.protocol, Protocol)
    assert str(tuple_) == "protocol 50 any > any"


def test_absent_parts_of_a_tuple_are_none() -> None:
    empty = Tuple()
    names = ("src", "dst", "protocol", "src_port", "dst_port", "icmp_id", "icmp_type", "icmp_code", "zone")
    assert [getattr(empty, name) for name in names] == [None] * len(names)
    bare = GetFlow()
    assert (bare.protocol, bare.tcp_state, bare.sctp_state, bare.helper, bare.label_numbers) == (
        None,
        None,
        None,
        None,
        frozenset(),
    )
    assert str(bare) == ""


def test_an_icmp_zero_is_not_absent() -> None:
    echo = Tuple(
        proto=TupleProto(num=Protocol.ICMP, icmp_id=0, icmp_type=0, icmp_code=0, icmpv6_id=9, icmpv6_type=9, icmpv6_code=9)
    )
    assert (echo.icmp_id, echo.icmp_type, echo.icmp_code) == (0, 0, 0)


def test_offsets_of_sequence_numbers_can_be_negative() -> None:
    shrunk = SeqAdj(correction_pos=0xFFFFFFFF, offset_before=0, offset_after=-3)
    assert bytes(shrunk)[-4:] == b"\xff\xff\xff\xfd"
    assert NewFlow(seq_adj_reply=shrunk).seq_adj_reply == shrunk


@pytest.mark.parametrize("order", [LITTLE, BIG], ids=["little", "big"])
def test_labels(order: Any) -> None:
    numbers = (0, 5, 63, 64, 127)
    bitmap = label_bitmap(*numbers, order=order)
    assert len(bitmap) == 16
    assert labels_in(bitmap, order) == set(numbers)
    assert build(Flow, {"original": Tuple(), "reply": Tuple(), "labels": bitmap}, order).label_numbers == set(numbers)
    assert label_bitmap(5, order=LITTLE) == bytes([0x20]) + bytes(15)
    assert label_bitmap(5, order=BIG) == bytes(7) + bytes([0x20]) + bytes(8)
    with pytest.raises(ValueError, match="128 is not a label"):
        label_bitmap(128)


def test_counters_of_old_kernels_and_padding() -> None:
    old = Counters(packets32=3, bytes32=99, pad=b"")
    assert bytes(old).hex() == bytes(rebuilt(old, declared=False)).hex()
    assert (old.packets, old.packets32, old.bytes32) == (None, 3, 99)


def test_a_flow_in_words() -> None:
    told = Flow(
        nfgen_family=2,
        original=udp(1000, 53),
        reply=Tuple(ip=TupleIp(v4_src=B, v4_dst=IPv4Address("10.0.2.50")), proto=TupleProto(num=17, src_port=53, dst_port=4000)),
        status=Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED | Status.SRC_NAT,
        timeout=29,
        mark=7,
        help=Help(name="tftp"),
        counters_original=Counters(packets=1, bytes=40),
    )
    assert str(told) == (
        "udp 10.0.1.2:1000 > 10.0.2.2:53 reply 10.0.2.2:53 > 10.0.2.50:4000 SEEN_REPLY ASSURED mark 7 timeout 29 helper tftp "
        "sent 1 packets 40 bytes"
    )
    assert repr(told).startswith("Flow(nfgen_family=2, original=Tuple(ip=TupleIp(v4_src=IPv4Address('10.0.1.2'), ")


def test_a_request_is_built_from_what_it_is_about() -> None:
    request = NewFlow(
        nlmsg_flags=0x605,
        nfgen_family=2,
        original=udp(1000, 53),
        reply=udp(53, 1000),
        timeout=100,
        protoinfo=ProtoInfo(tcp=TcpInfo(state=TcpState.ESTABLISHED)),
        nat_dst=Nat(v4_minip=B, proto=NatProto(port_min=53)),
    )
    [again] = decode(bytes(request))
    assert again == request
    assert again.tcp_state is TcpState.ESTABLISHED  # type: ignore[attr-defined]


def test_messages_without_attributes() -> None:
    request = GetStats(nlmsg_flags=1)
    assert len(bytes(request)) == 20
    assert decode(bytes(request)) == [request]


def test_the_kinds_of_a_flow_share_their_attributes() -> None:
    numbers = {a.number: (a.name, a.kernel_name) for a in FlowAttributes.__attrs__}
    for kind in (Flow, DestroyedFlow, NewFlow, GetFlow, DeleteFlow, GetFlowCtrzero, AttachedFlow):
        assert {a.number: (a.name, a.kernel_name) for a in kind.__attrs__} == numbers
        assert [a.index for a in kind.__attrs__] == list(range(len(numbers)))
    assert set(numbers) == set(range(1, 28))


# --- shapes ----------------------------------------------------------------------------------------------------------------------


def shapes() -> Iterator[bytes]:
    """Flows that look different each: attributes that nobody knows, of any number and length."""
    entry = dump(1)[0]
    for number in range(2 * MAX_SHAPES):
        more = NATIVE.attr.pack(4 + 4 * (number % 7), 100 + number) + bytes(4 * (number % 7))
        yield NATIVE.u32.pack(len(entry) + len(more)) + entry[4:] + more


def test_a_hostile_stream_cannot_grow_what_is_remembered_without_bound() -> None:
    fresh = Codec(Flow, NATIVE)
    for data in [*shapes(), *shapes()]:
        assert fresh.decode(data).original.src_port == 1000
    assert len(fresh._known) == MAX_SHAPES
    assert sum(map(len, fresh._of_length.values())) + len(fresh._of_any) == MAX_SHAPES


def test_shapes_of_one_length_are_told_apart() -> None:
    fresh = Codec(Flow, NATIVE)
    entry = dump(1)[0]
    for kind in (201, 202, 203, 201, 203):
        data = NATIVE.u32.pack(len(entry) + 4) + entry[4:] + NATIVE.attr.pack(4, kind)
        assert [a.type for a in fresh.decode(data).unknown] == [kind]
    assert codec(Flow) is codec(Flow)


# --- in packets and verdicts -----------------------------------------------------------------------------------------------------


def queued(name: str, direction: Direction) -> Any:
    """The message of the queue recorded under that name."""
    (found,) = (r for r in [*exchanges(), *sessions()] if r.name == name)
    (message,) = decode(found.data, direction=direction)
    return message


@little
def test_a_packet_tells_its_flow() -> None:
    """UDP to port 9000 of this host, and the answer: the flow is the same, seen from its original side."""
    first, answer = (queued(f"6.18.15/packet.ct.{which}", Direction.FROM_KERNEL) for which in ("new", "reply"))
    for packet in (first, answer):
        assert isinstance(packet.ct, AttachedFlow)
        assert packet.ct.protocol is Protocol.UDP
        original: Any = packet.ct.original
        assert (str(original.src), str(original.dst), original.dst_port) == ("127.0.0.1", "127.0.0.1", 9000)
    assert first.ct.id == answer.ct.id
    assert Status.SEEN_REPLY not in first.ct.status
    assert Status.SEEN_REPLY in answer.ct.status


@little
def test_a_verdict_marks_its_flow() -> None:
    verdict = queued("q-ctnest:17", Direction.TO_KERNEL)
    assert verdict.ct == AttachedFlow(mark=42)


def test_a_verdict_changes_its_flow_and_expects_another() -> None:
    verdict = VerdictMessage(
        nlmsg_flags=1,
        header=VerdictHeader(Verdict.ACCEPT, 1),
        ct=AttachedFlow(
            timeout=5, status=Status.ASSURED, help=Help(name="ftp"), labels=label_bitmap(3), labels_mask=label_bitmap(3)
        ),
        exp=AttachedExpectation(tuple=udp(0, 53), mask=udp(0, 0xFFFF), expect_class=1),
    )
    [again] = decode(bytes(verdict))
    assert again == verdict
    assert isinstance(again, VerdictMessage)
    assert again.ct is not None
    assert again.exp is not None
    assert (again.ct.helper, again.ct.label_numbers, again.exp.expect_class) == ("ftp", frozenset({3}), 1)
    assert [attribute.number for attribute in again.exp.attributes] == [2, 3, 9]


def test_a_bad_attribute_of_a_flow_in_a_packet_is_named() -> None:
    packet = bytearray(bytes(Packet(header=PacketHeader(1, 0x0800, 1), ct=AttachedFlow(mark=42))))
    at = packet.index(NATIVE.attr.pack(8, 8))
    NATIVE.attr.pack_into(packet, at, 7, 8)
    [bad] = decode(bytes(packet))
    assert isinstance(bad, Malformed)
    assert (bad.error.path, bad.error.offset) == ("Packet.ct.mark", at)
