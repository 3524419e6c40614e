"""The conntrack session: its table, what it asks, what it tells, and what it refuses to ask."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable

import pytest

from nfnl.errors import Busy, EncodeError, Exists, LocalProtocolError, NotFound, NotPermitted, RemoteProtocolError
from nfnl.session.conntrack import ConntrackSession
from nfnl.session.eventfilter import EventFilter
from nfnl.session.events import (
    Acked,
    Answered,
    DumpDone,
    DumpInterrupted,
    Event,
    EventsLost,
    ExpectationDestroyed,
    ExpectationNew,
    FlowDestroyed,
    FlowNew,
    FlowUpdated,
    ForeignDatagram,
    Overrun,
    Refused,
    Undecodable,
)
from nfnl.session.flowspec import FlowFilter, nat_to, reply_to, tuple_of
from nfnl.session.requests import TRANSITIONS, Input, Kind, Phase, Request
from nfnl.subsys.conntrack import (
    DeleteFlow,
    DestroyedFlow,
    FilterFlag,
    Flow,
    GetFlow,
    GetFlowCtrzero,
    Help,
    NewFlow,
    ProtoInfo,
    Stats,
    Status,
    TcpInfo,
    Tuple,
    label_bitmap,
)
from nfnl.subsys.expect import DeleteExpectation, DestroyedExpectation, Expectation, GetExpectation, NewExpectation
from nfnl.wire.codec import decode, encode
from nfnl.wire.constants import Family, Group, NlmsgFlag, NlmsgType, SocketOption
from nfnl.wire.control import Ack
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer
from nfnl.wire.declare import Message
from nfnl.wire.header import NATIVE
from tests.recordings import FIXTURES

ORIGINAL = tuple_of("10.0.0.1", "10.0.0.2", "tcp", 40000, 80)
SIX = tuple_of("fd00::1", "fd00::2", "udp", 1, 2)
REQUEST, ACK, DUMP, MULTI = NlmsgFlag.REQUEST, NlmsgFlag.ACK, NlmsgFlag.DUMP, NlmsgFlag.MULTI
CREATE, EXCL, INTR = NlmsgFlag.CREATE, NlmsgFlag.EXCL, NlmsgFlag.DUMP_INTR


def flow(number: int = 1, *, seq: int = 0, flags: int = 0, **fields: object) -> Flow:
    original = tuple_of("10.0.0.1", "10.0.0.2", "udp", number, 2)
    return Flow(
        nlmsg_seq=seq,
        nlmsg_flags=flags,
        nfgen_family=2,
        original=original,
        reply=reply_to(original),
        id=number,
        status=Status.CONFIRMED,
        **fields,  # type: ignore[arg-type]
    )


def done(seq: int, error: int = 0, flags: int = 0) -> bytes:
    return NATIVE.header.pack(20, NlmsgType.DONE, MULTI | flags, seq, 7) + (-error).to_bytes(4, NATIVE.name, signed=True)


def feed(session: ConntrackSession, *datagrams: bytes) -> list[Event]:
    session.receive_datagrams(datagrams, 0.0)
    return list(iter(session.next_event, None))


def asked(session: ConntrackSession) -> Message:
    """The one request that leaves."""
    (datagram,) = session.datagrams_to_send()
    (message,) = decode(datagram, strict=True)
    assert isinstance(message, Message)
    return message


# --- the table --------------------------------------------------------------------------------------------------------------------

ASK: dict[Kind, Callable[[ConntrackSession], int]] = {
    Kind.COMMAND: lambda session: session.delete(ORIGINAL),
    Kind.QUERY: lambda session: session.get(ORIGINAL),
    Kind.DUMP: lambda session: session.dump(),
}
PHASES = (Phase.ASKED, Phase.ANSWERING)


def saying(what: Input, request: Message) -> bytes:
    seq = request.nlmsg_seq
    return {
        Input.PART: bytes(flow(seq=seq, flags=MULTI)),
        Input.ACKED: bytes(Ack.build(bytes(request))),
        Input.REFUSED: bytes(Ack.build(bytes(request), errno.EBUSY)),
        Input.DONE: done(seq),
    }[what]


@pytest.mark.parametrize(("kind", "phase", "what"), list(itertools.product(Kind, PHASES, Input)))
def test_every_kind_phase_and_input(kind: Kind, phase: Phase, what: Input) -> None:
    session = ConntrackSession()
    number = ASK[kind](session)
    request = asked(session)
    if phase is Phase.ANSWERING:
        if (kind, Phase.ASKED, Input.PART) not in TRANSITIONS:
            assert not [key for key in TRANSITIONS if key[:2] == (kind, phase)], "a phase that cannot be"
            return
        feed(session, saying(Input.PART, request))
    following = TRANSITIONS.get((kind, phase, what))
    if following is None:
        with pytest.raises(RemoteProtocolError):
            feed(session, saying(what, request))
        return
    events = feed(session, saying(what, request))
    (event,) = events
    expected: type[Event] = {
        Input.PART: Answered,
        Input.ACKED: DumpDone if kind is Kind.DUMP else Acked,
        Input.REFUSED: Refused,
        Input.DONE: DumpDone,
    }[what]
    assert type(event) is expected
    assert event.request == number  # type: ignore[union-attr]
    pending = session._pending.get(request.nlmsg_seq)
    if following is Phase.OVER:
        assert pending is None
        assert not session.dumping
    else:
        assert isinstance(pending, Request)
        assert pending.phase is following
        assert session.dumping == (kind is Kind.DUMP)


def test_nothing_comes_after_the_end() -> None:
    assert not [key for key in TRANSITIONS if key[1] is Phase.OVER]


# --- answers ----------------------------------------------------------------------------------------------------------------------


def test_one_list_at_a_time_whatever_is_listed() -> None:
    session = ConntrackSession()
    session.dump()
    seq = asked(session).nlmsg_seq
    lists: list[Callable[[], int]] = [
        session.dump,
        session.dump_dying,
        session.dump_unconfirmed,
        session.cpu_stats,
        session.dump_expectations,
        session.expectation_stats,
    ]
    for another in lists:
        with pytest.raises(LocalProtocolError, match="another answer to come"):
            another()
        assert not session.has_output
    session.get(ORIGINAL)
    asked(session)
    feed(session, done(seq))
    for another in lists:
        another()
        feed(session, done(asked(session).nlmsg_seq))


def test_events_between_the_parts_of_a_dump_keep_their_place() -> None:
    session = ConntrackSession()
    number = session.dump()
    seq = asked(session).nlmsg_seq
    part = encode([flow(1, seq=seq, flags=MULTI), flow(2, seq=seq, flags=MULTI)])
    born = bytes(flow(3, flags=CREATE | EXCL))
    last = bytes(flow(4, seq=seq, flags=MULTI))
    events = feed(session, part, Datagram.make(born, groups=1), last, done(seq))
    assert [type(event) for event in events] == [Answered, FlowNew, Answered, DumpDone]
    assert [[m.id for m in e.messages] for e in events if isinstance(e, Answered)] == [[1, 2], [4]]  # type: ignore[attr-defined]
    assert all(e.request == number for e in events if isinstance(e, Answered | DumpDone))


def test_answers_that_were_asked_for_aside_come_aside() -> None:
    session = ConntrackSession()
    replies = session.collect(session.get(ORIGINAL))
    request = asked(session)
    events = feed(session, bytes(flow(seq=request.nlmsg_seq, flags=MULTI)), bytes(flow(2)), bytes(Ack.build(bytes(request))))
    assert [type(event) for event in events] == [FlowUpdated]
    assert [type(event) for event in replies] == [Answered, Acked]


@pytest.mark.parametrize("where", ["part", "slow part", "done"])
def test_an_interrupted_dump_is_not_whole(where: str) -> None:
    session = ConntrackSession()
    number = session.dump()
    seq = asked(session).nlmsg_seq
    part = bytes(flow(seq=seq, flags=MULTI | (INTR if "part" in where else 0)))
    if where == "slow part":
        part = encode(
            [decode(part)[0], flow(2)]
        )  # an event in one datagram with it: not what the kernel does, but framing allows it
    events = feed(session, part, done(seq, flags=INTR if where == "done" else 0))
    assert events[-1] == DumpInterrupted(number, "list flows")
    assert not session.dumping


def test_a_dump_that_ends_in_an_error_is_refused() -> None:
    session = ConntrackSession()
    number = session.dump()
    (event,) = feed(session, done(asked(session).nlmsg_seq, errno.EBUSY))
    assert isinstance(event, Refused)
    assert event.request == number
    assert isinstance(event.error, Busy)
    assert not session.dumping


def test_an_abandoned_dump_is_read_and_thrown_away() -> None:
    session = ConntrackSession()
    number = session.dump()
    seq = asked(session).nlmsg_seq
    session.abandon(number)
    assert session.finishing
    broken = bytearray(encode([flow(seq=seq, flags=MULTI)]))
    assert feed(session, bytes(flow(seq=seq, flags=MULTI)), bytes(broken), bytes(flow(5))) == [FlowUpdated(flow(5))]
    assert feed(session, done(seq)) == []
    assert not session.dumping


def test_what_cannot_be_decoded_of_a_dump_is_told_and_the_rest_comes() -> None:
    session = ConntrackSession()
    session.dump()
    seq = asked(session).nlmsg_seq
    bad = bytearray(bytes(flow(1, seq=seq, flags=MULTI)))
    bad[20] = 3  # nla_len
    events = feed(session, bytes(bad) + bytes(flow(2, seq=seq, flags=MULTI)), done(seq))
    assert [type(event) for event in events] == [Undecodable, Answered, DumpDone]


def test_an_answer_nobody_asked_for_is_the_kernels_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="nobody made"):
        feed(ConntrackSession(), bytes(Ack.build(bytes(GetFlow(nlmsg_seq=9)))))


def test_data_for_what_is_over_is_ignored() -> None:
    assert feed(ConntrackSession(), bytes(flow(seq=9, flags=MULTI)), done(9)) == []


# --- losses -----------------------------------------------------------------------------------------------------------------------


def test_what_an_overrun_may_have_taken_is_asked_again_once_the_socket_is_empty() -> None:
    session = ConntrackSession()
    create, delete, get = session.create(ORIGINAL, timeout=1), session.delete(SIX), session.get(ORIGINAL)
    session.datagrams_to_send()
    session.receive_overrun(0.0)
    assert list(iter(session.next_event, None)) == [Overrun()]
    assert not session.has_output
    session.receive_empty(0.0)
    again = [decode(datagram)[0] for datagram in session.datagrams_to_send()]
    assert [type(m) for m in again] == [NewFlow, DeleteFlow, GetFlow]
    assert [m.nlmsg_seq for m in again] == [4, 5, 6]
    events = feed(
        session,
        bytes(Ack.build(bytes(again[0]), errno.EEXIST)),
        bytes(Ack.build(bytes(again[1]), errno.ENOENT)),
        bytes(Ack.build(bytes(again[2]), errno.ENOENT)),
    )
    assert [(type(e), e.request) for e in events] == [(Acked, create), (Acked, delete), (Refused, get)]  # type: ignore[union-attr]


def test_a_dump_that_has_begun_is_not_asked_for_again() -> None:
    session = ConntrackSession()
    session.dump()
    seq = asked(session).nlmsg_seq
    feed(session, bytes(flow(seq=seq, flags=MULTI)))
    get = session.get(ORIGINAL)
    asked(session)
    session.receive_overrun(0.0)
    session.receive_empty(0.0)
    assert isinstance(asked(session), GetFlow)
    events = feed(session, bytes(flow(2, seq=seq, flags=MULTI)), done(seq))
    assert [type(event) for event in events] == [Overrun, Answered, DumpDone]
    assert get


def test_a_dump_whose_first_part_never_came_is_asked_for_again() -> None:
    session = ConntrackSession()
    number = session.dump()
    asked(session)
    session.receive_overrun(0.0)
    session.receive_empty(0.0)
    again = asked(session)
    assert again.nlmsg_flags & DUMP == DUMP
    assert feed(session, done(again.nlmsg_seq))[-1] == DumpDone(number, "list flows")


def test_events_are_kept_up_to_a_limit_and_what_is_lost_is_counted() -> None:
    session = ConntrackSession(max_events=3)
    session.receive_datagrams([bytes(flow(i)) for i in range(1, 8)], 0.0)
    told = [session.next_event() for _ in range(2)]
    assert told == [FlowUpdated(flow(1)), FlowUpdated(flow(2))]
    session.receive_datagrams([bytes(flow(8)), bytes(flow(9))], 0.0)
    assert list(iter(session.next_event, None)) == [
        FlowUpdated(flow(3)),
        EventsLost(4),
        FlowUpdated(flow(8)),
        EventsLost(1),
    ]


def test_answers_are_not_lost_to_the_limit() -> None:
    session = ConntrackSession(max_events=1)
    number = session.delete(ORIGINAL)
    ack = bytes(Ack.build(bytes(asked(session))))
    assert feed(session, bytes(flow(1)), bytes(flow(2)), ack) == [
        FlowUpdated(flow(1)),
        EventsLost(1),
        Acked(number, f"delete {ORIGINAL}"),
    ]


# --- events -----------------------------------------------------------------------------------------------------------------------


def test_what_messages_are_told_as() -> None:
    gone = DestroyedFlow(nfgen_family=2, original=ORIGINAL, reply=reply_to(ORIGINAL), id=1)
    expected = Expectation(tuple=ORIGINAL, mask=ORIGINAL, master=ORIGINAL)
    over = DestroyedExpectation(tuple=ORIGINAL, mask=ORIGINAL, master=ORIGINAL)
    caused = flow(2, flags=CREATE | EXCL).replace(nlmsg_pid=4711)
    session = ConntrackSession()
    events = feed(session, *map(bytes, (flow(1, flags=CREATE | EXCL), caused, flow(3), gone, expected, over)))
    assert events == [
        FlowNew(flow(1, flags=CREATE | EXCL)),
        FlowNew(caused),  # nlmsg_pid says who caused it; who sent it is the kernel all the same
        FlowUpdated(flow(3)),
        FlowDestroyed(gone),
        ExpectationNew(expected),
        ExpectationDestroyed(over),
    ]


def test_what_some_process_sends_is_not_from_the_kernel() -> None:
    data = bytes(flow(1, flags=CREATE | EXCL))
    assert feed(ConntrackSession(), Datagram.make(data, sender=4711)) == [ForeignDatagram(4711, data)]


def test_an_event_that_cannot_be_decoded_is_told() -> None:
    bad = bytearray(bytes(flow(1)))
    bad[20] = 3
    (event,) = feed(ConntrackSession(), bytes(bad))
    assert isinstance(event, Undecodable)


def test_groups_are_joined_and_left_once() -> None:
    session = ConntrackSession()
    session.follow(Group.CONNTRACK_NEW, Group.CONNTRACK_DESTROY)
    session.follow(Group.CONNTRACK_NEW)
    assert session.socket_requests() == [JoinGroup(1), JoinGroup(3)]
    session.unfollow(Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE)
    assert session.socket_requests() == [LeaveGroup(1)]
    assert session.groups == {3}
    assert session.socket_requests() == []


def test_what_is_asked_of_the_socket() -> None:
    session = ConntrackSession()
    wanted = EventFilter(only={"protocol": "tcp"})
    session.filter_events(wanted)
    session.filter_events(None)
    session.size_buffer(1 << 20)
    session.be_reliable()
    assert session.socket_requests() == [
        AttachFilter(wanted.program),
        AttachFilter(()),
        SetReceiveBuffer(1 << 20),
        SetOption(SocketOption.BROADCAST_ERROR, True),
    ]


def test_a_refusal_of_the_socket_has_a_hint() -> None:
    error = ConntrackSession().socket_refused(JoinGroup(1), errno.EPERM)
    assert isinstance(error, NotPermitted)
    assert "CAP_NET_ADMIN" in str(error)


# --- what is asked ----------------------------------------------------------------------------------------------------------------


def recorded_requests(name: str) -> list[Message]:
    """What conntrack(8) sent."""
    lines = (FIXTURES / "conntrack/sessions" / f"{name}.txt").read_text().splitlines()
    found = [decode(bytes.fromhex(after))[0] for line, after in itertools.pairwise(lines) if line.startswith(">")]
    return [message for message in found if isinstance(message, Message)]


def test_requests_are_those_of_conntrack() -> None:
    """`conntrack -I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 20 --state LISTEN -t 500` and others, as recorded."""
    theirs = recorded_requests("ct-create")
    first = theirs[0]
    assert isinstance(first, NewFlow)
    assert first.original is not None
    assert first.timeout is not None
    session = ConntrackSession()
    session.create(first.original, timeout=first.timeout, status=first.status, protoinfo=first.protoinfo)
    mine = asked(session)
    assert isinstance(mine, NewFlow)
    assert (mine.original, mine.reply, mine.timeout, mine.protoinfo) == (
        first.original,
        first.reply,
        first.timeout,
        first.protoinfo,
    )
    assert mine.nlmsg_flags == first.nlmsg_flags


def test_a_new_flow() -> None:
    session = ConntrackSession()
    session.create(
        ORIGINAL,
        timeout=30,
        zone=7,
        status=Status.ASSURED,
        mark=5,
        tcp_state=3,
        helper="ftp",
        labels=(1, 100),
        nat_src=nat_to("192.0.2.1", 4000),
        master=SIX,
        exclusive=False,
    )
    assert asked(session) == NewFlow(
        nlmsg_flags=REQUEST | ACK | CREATE,
        nlmsg_seq=1,
        nfgen_family=2,
        original=ORIGINAL,
        reply=tuple_of("10.0.0.2", "10.0.0.1", "tcp", 80, 40000),
        zone=7,
        status=Status.ASSURED | Status.CONFIRMED,
        mark=5,
        timeout=30,
        protoinfo=ProtoInfo(tcp=TcpInfo(state=3)),
        help=Help(name="ftp"),
        labels=label_bitmap(1, 100),
        nat_src=nat_to("192.0.2.1", 4000),
        master=SIX,
    )


def test_a_flow_that_is_held_is_named_by_what_it_is() -> None:
    session = ConntrackSession()
    held = flow(9, zone=3).replace(status=Status.CONFIRMED | Status.SEEN_REPLY | Status.SRC_NAT_DONE)
    session.update(held, mark=1, mark_mask=0xF, status=Status.ASSURED)
    assert asked(session) == NewFlow(
        nlmsg_flags=REQUEST | ACK,
        nlmsg_seq=1,
        nfgen_family=2,
        original=held.original,
        zone=3,
        status=Status.ASSURED | Status.SEEN_REPLY | Status.CONFIRMED,  # what is missing of these two would be EBUSY
        mark=1,
        mark_mask=0xF,
    )
    session.delete(held)
    assert asked(session) == DeleteFlow(
        nlmsg_flags=REQUEST | ACK, nlmsg_seq=2, nfgen_family=2, original=held.original, zone=3, id=9
    )
    session.get(held, zero=True)
    assert asked(session) == GetFlowCtrzero(nlmsg_flags=REQUEST | ACK, nlmsg_seq=3, nfgen_family=2, original=held.original, zone=3)


def test_a_filtered_dump() -> None:
    session = ConntrackSession()
    part = tuple_of("10.0.0.1", protocol="tcp", dst_port=80)
    session.dump(FlowFilter(mark=1, mark_mask=0xF, status=Status.ASSURED, zone=0, original=part))
    message = asked(session)
    assert isinstance(message, GetFlow)
    assert message.filter is not None
    assert message.filter.orig_flags == FilterFlag.IP_SRC | FilterFlag.PROTO_NUM | FilterFlag.PROTO_DST_PORT
    assert message.filter.reply_flags is None
    assert (message.nfgen_family, message.mark, message.mark_mask, message.status, message.status_mask, message.zone) == (
        2,
        1,
        0xF,
        Status.ASSURED,
        None,
        0,
    )
    assert message.original == part


def test_ipv6_addresses_are_never_left_to_the_kernel() -> None:
    """It takes the entries that are unequal."""
    session = ConntrackSession()
    session.dump(FlowFilter(original=tuple_of("fd00::1", protocol="udp")))
    message = asked(session)
    assert isinstance(message, GetFlow)
    assert message.nfgen_family == 10
    assert message.filter is not None
    assert message.filter.orig_flags == FilterFlag.PROTO_NUM


# --- what is never asked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [Tuple(), tuple_of("10.0.0.1"), tuple_of(protocol="tcp")])
def test_a_deletion_without_a_tuple_would_delete_everything(wanted: Tuple) -> None:
    session = ConntrackSession()
    with pytest.raises(LocalProtocolError, match="whole tuple"):
        session.delete(wanted, id=7)
    with pytest.raises(LocalProtocolError, match="delete all"):
        session.delete_expectation(wanted)
    assert not session.has_output


def test_a_flush_of_a_family_says_so_in_a_way_that_is_heard() -> None:
    session = ConntrackSession()
    session.flush(FlowFilter(family=Family.IPV6))
    message = asked(session)
    assert (message.nfgen_family, message.nfgen_version) == (10, 1)
    assert isinstance(message, DeleteFlow)
    assert not message.present()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (FlowFilter(original=SIX), "unequal to an IPv6 address"),
        (FlowFilter(reply=tuple_of("10.0.0.1", protocol="sctp", src_port=1)), "ports of TCP and UDP only"),
        (FlowFilter(original=tuple_of("10.0.0.1", zone=3)), "zone of a tuple"),
    ],
)
def test_what_the_kernel_selects_wrongly_is_neither_flushed_nor_zeroed(wanted: FlowFilter, why: str) -> None:
    session = ConntrackSession()
    with pytest.raises(LocalProtocolError, match=why):
        session.flush(wanted)
    with pytest.raises(LocalProtocolError, match=why):
        session.dump(wanted, zero=True)
    assert not session.has_output
    assert not session.dumping


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda s: s.update(ORIGINAL, mark=0x11, mark_mask=0xF), "turned over"),
        (lambda s: s.update(ORIGINAL, mark_mask=0xF), "needs a mark"),
        (lambda s: s.update(ORIGINAL, labels_mask=(1,)), "needs labels"),
        (lambda s: s.update(ORIGINAL, tcp_state=1, protoinfo=ProtoInfo()), "give one of them"),
        (lambda s: s.flush_expectations(helper=""), "without a name"),
    ],
)
def test_what_would_mean_something_else(ask: Callable[[ConntrackSession], int], why: str) -> None:
    session = ConntrackSession()
    with pytest.raises(LocalProtocolError, match=why):
        ask(session)
    assert not session.has_output


def test_values_that_do_not_fit_change_nothing() -> None:
    session = ConntrackSession()
    with pytest.raises(EncodeError, match="mark"):
        session.update(ORIGINAL, mark=1 << 32)
    with pytest.raises(EncodeError, match="mark"):
        session.dump(FlowFilter(mark=-1))
    assert not session.has_output
    assert not session.dumping
    assert not session._pending


# --- expectations -----------------------------------------------------------------------------------------------------------------


def test_requests_about_expectations() -> None:
    session = ConntrackSession()
    mask = tuple_of("255.255.255.255", "255.255.255.255", "tcp", 0, 0xFFFF)
    session.create_expectation(ORIGINAL, master=flow(1, zone=4), mask=mask, expect_class=1)
    message = asked(session)
    assert isinstance(message, NewExpectation)
    assert message.nlmsg_flags == REQUEST | ACK | CREATE | EXCL
    assert (message.tuple, message.mask, message.master, message.zone) == (ORIGINAL, mask, flow(1).original, 4)
    session.delete_expectation(Expectation(tuple=ORIGINAL, mask=mask, master=SIX, id=5))
    message = asked(session)
    assert isinstance(message, DeleteExpectation)
    assert (message.tuple, message.id, message.nfgen_family) == (ORIGINAL, 5, 2)
    session.get_expectation(ORIGINAL)
    message = asked(session)
    assert isinstance(message, GetExpectation)
    assert message.tuple == ORIGINAL
    session.dump_expectations(master=ORIGINAL)
    message = asked(session)
    assert isinstance(message, GetExpectation)
    assert message.nlmsg_flags == REQUEST | ACK | DUMP
    assert (message.master, message.nfgen_family, message.zone) == (ORIGINAL, 2, None)
    session.flush_expectations(helper="ftp")
    message = asked(session)
    assert isinstance(message, DeleteExpectation)
    assert message.present() == {"help_name"}


# --- refusals ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "number", "kind", "hint"),
    [
        (lambda s: s.create(ORIGINAL, timeout=1), errno.EEXIST, Exists, "as its reply"),
        (lambda s: s.update(ORIGINAL, mark=1), errno.ENOENT, NotFound, "no flow with this tuple"),
        (lambda s: s.delete(ORIGINAL), errno.ENOENT, NotFound, "another id by now"),
        (lambda s: s.dump(), errno.EBUSY, Busy, "Another dump"),
        (lambda s: s.get_expectation(ORIGINAL), errno.ENOENT, NotFound, "Nothing of the kind"),
    ],
)
def test_refusals_are_typed_and_have_hints(
    ask: Callable[[ConntrackSession], int], number: int, kind: type[OSError], hint: str
) -> None:
    session = ConntrackSession()
    request = ask(session)
    (event,) = feed(session, bytes(Ack.build(bytes(asked(session)), number)))
    assert isinstance(event, Refused)
    assert event.request == request
    assert type(event.error) is kind
    assert hint in str(event.error)


def test_statistics_are_an_answer() -> None:
    session = ConntrackSession()
    number = session.stats()
    request = asked(session)
    stats = Stats(nlmsg_seq=request.nlmsg_seq, nlmsg_flags=MULTI, entries=3, max_entries=9)
    assert feed(session, bytes(stats), bytes(Ack.build(bytes(request)))) == [
        Answered(number, [stats]),
        Acked(number, "count flows"),
    ]
