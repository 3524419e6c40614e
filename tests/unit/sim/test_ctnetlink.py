"""Flows and expectations over netlink: what needs more than one socket, time, or a fake kernel's own verbs.

Single requests and their answers are compared with those of Linux by `test_ct_replay` and by the contract.
"""

from __future__ import annotations

import struct
from errno import EACCES, EEXIST, EINVAL, ENOBUFS, ENOENT
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfnl.sim import PROFILES, FakeKernel
from nfnl.sim.af_netlink import SO_ATTACH_FILTER, SO_RCVBUF, SOL_SOCKET
from nfnl.sim.clock import EPOCH
from nfnl.subsys.conntrack import (
    Counters,
    DeleteFlow,
    DestroyedFlow,
    Filter,
    FilterFlag,
    Flow,
    GetDying,
    GetFlow,
    GetFlowCtrzero,
    GetStats,
    GetStatsCpu,
    NewFlow,
    ProtoInfo,
    Stats,
    StatsCpu,
    Status,
    TcpInfo,
    Tuple,
    TupleIp,
    TupleProto,
)
from nfnl.subsys.expect import DeleteExpectation, Expectation, GetExpectation, NewExpectation
from nfnl.testing.strategies import datagrams
from nfnl.wire.codec import decode
from nfnl.wire.constants import Group, NlmsgFlag, SocketOption
from nfnl.wire.control import Ack, Done
from nfnl.wire.declare import Message
from tests.unit.sim.ct_world import DUMP, REQUEST_ACK, Client, World, tcp_tuple
from tests.unit.sim.test_ct_replay import after, requests

SOL_NETLINK = 270
PREFIX = "net.netfilter.nf_conntrack_"


def udp(port: int, *, answer: bool = False) -> Tuple:
    """The tuple of a flow from 10.0.1.2 to port 53 of 10.0.2.2, or of its answers."""
    one, other = IPv4Address("10.0.1.2"), IPv4Address("10.0.2.2")
    if answer:
        return Tuple(ip=TupleIp(v4_src=other, v4_dst=one), proto=TupleProto(num=17, src_port=53, dst_port=port))
    return Tuple(ip=TupleIp(v4_src=one, v4_dst=other), proto=TupleProto(num=17, src_port=port, dst_port=53))


def new(port: int, *, timeout: int = 100, flags: int = REQUEST_ACK | NlmsgFlag.CREATE, **fields: object) -> bytes:
    request = NewFlow(
        nlmsg_flags=flags,
        nfgen_family=2,
        original=udp(port),
        reply=udp(port, answer=True),
        timeout=timeout,
        **fields,  # type: ignore[arg-type]
    )
    return bytes(request)


def delete(port: int, flags: int = REQUEST_ACK) -> bytes:
    return bytes(DeleteFlow(nlmsg_flags=flags, nfgen_family=2, original=udp(port)))


def ask(client: Client, request: Message | bytes) -> list[object]:
    """All messages that answer."""
    return [message for datagram in client.ask(bytes(request)) for message in decode(datagram)]


def errors(client: Client, request: Message | bytes) -> list[int]:
    return [message.error for message in ask(client, request) if isinstance(message, Ack)]


def shown(client: Client, request: Message | bytes) -> list[int | None]:
    """Source ports of the flows that answer."""
    return [message.original.src_port for message in ask(client, request) if isinstance(message, Flow)]


def everything(**fields: object) -> GetFlow:
    return GetFlow(nlmsg_flags=DUMP, **fields)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------------------------------------------------------ the verbs


def test_flows_are_what_a_dump_shows(world: World) -> None:
    world.client.ask(new(1, mark=5))
    world.client.ask(new(2))
    [one, other] = world.kernel.flows()
    assert (one.original.src_port, one.mark, one.timeout) == (1, 5, 100)
    assert other.original.src_port == 2
    dumped = [message for message in ask(world.client, everything()) if isinstance(message, Flow)]
    assert [flow.attributes for flow in world.kernel.flows()] == [flow.attributes for flow in dumped]


def test_flows_end_as_time_passes(world: World) -> None:
    listener = world.listener(Group.CONNTRACK_DESTROY)
    world.client.ask(new(1, timeout=10))
    world.client.ask(new(2, timeout=20))
    world.kernel.advance(9)
    assert [flow.timeout for flow in world.kernel.flows()] == [1, 11]
    world.kernel.advance(2)
    assert [flow.original.src_port for flow in world.kernel.flows()] == [2]
    [gone] = [message for datagram in listener.hear() for message in decode(datagram)]
    assert isinstance(gone, DestroyedFlow)
    assert (gone.original.src_port, gone.timeout, gone.nlmsg_pid) == (1, None, 0)


def test_sysctls_decide_what_new_flows_carry(world: World) -> None:
    kernel = world.kernel
    assert kernel.sysctl(f"{PREFIX}acct") == "0"
    kernel.sysctl(f"{PREFIX}acct", 1)
    kernel.sysctl("net/netfilter/nf_conntrack_timestamp", "1")
    world.client.ask(new(1))
    kernel.sysctl(f"{PREFIX}acct", 0)
    [flow] = kernel.flows()
    assert flow.counters_original == Counters(packets=0, bytes=0)
    assert flow.timestamp is not None
    assert kernel.sysctl(f"{PREFIX}count") == "1"
    with pytest.raises(OSError, match="Permission denied") as caught:
        kernel.sysctl(f"{PREFIX}count", 0)
    assert caught.value.errno == EACCES
    with pytest.raises(OSError, match="Invalid") as caught:
        kernel.sysctl(f"{PREFIX}acct", 2)
    assert caught.value.errno == EINVAL
    with pytest.raises(OSError, match="No such") as caught:
        kernel.sysctl(f"{PREFIX}nothing")
    assert caught.value.errno == ENOENT


def test_a_snapshot_holds_flows_and_the_dump_that_shows_them(world: World) -> None:
    for port in range(1, 101):
        world.client.ask(new(port))
    reader = Client(world.kernel)
    reader.socket.send(bytes(everything()))
    first = decode(reader.socket.recv(65536))
    snapshot = world.kernel.snapshot()
    rest = [message for datagram in reader.hear() for message in decode(datagram)]
    assert len(first) + len(rest) == 101
    world.client.ask(bytes(DeleteFlow(nlmsg_flags=REQUEST_ACK)))
    assert not world.kernel.flows()
    for _ in range(2):
        snapshot.restore()
        assert len(world.kernel.flows()) == 100
        assert [message for datagram in reader.hear() for message in decode(datagram)] == rest
        assert errors(world.client, new(1, flags=REQUEST_ACK | NlmsgFlag.CREATE | NlmsgFlag.EXCL)) == [EEXIST]
        assert errors(world.client, delete(1)) == [0]
        assert len(world.kernel.flows()) == 99


def test_a_snapshot_holds_what_flows_know_and_how_they_hang_together(world: World) -> None:
    world.kernel.sysctl(f"{PREFIX}acct", 1)
    world.connection(4000, 21, "ftp")
    after("exp-new")(world)
    [entry] = world.table.walk()
    assert entry.counters is not None
    entry.counters[0] = 7
    before = (world.kernel.flows(), world.kernel.read_proc("nf_conntrack_expect"))
    snapshot = world.kernel.snapshot()
    for _ in range(2):
        there = tcp_tuple("10.0.1.2", 4000, "10.0.2.2", 21)
        changed = NewFlow(nlmsg_flags=REQUEST_ACK, nfgen_family=2, original=there, protoinfo=ProtoInfo(tcp=TcpInfo(state=7)))
        assert errors(world.client, changed) == [0]
        assert world.kernel.flows() != before[0]
        assert errors(world.client, GetFlowCtrzero(nlmsg_flags=REQUEST_ACK, nfgen_family=2, original=there)) == [0]
        assert errors(world.client, DeleteFlow(nlmsg_flags=REQUEST_ACK, nfgen_family=2, original=there)) == [0]
        assert world.kernel.read_proc("nf_conntrack_expect") == "", "they go with their master"
        snapshot.restore()
        assert (world.kernel.flows(), world.kernel.read_proc("nf_conntrack_expect")) == before


# ------------------------------------------------------------------------------------------------------------------------ /proc

LINES = (
    "ipv4     2 udp      17 100 src=10.0.1.2 dst=10.0.2.2 sport=1 dport=53 packets=0 bytes=0 [UNREPLIED] "
    "src=10.0.2.2 dst=10.0.1.2 sport=53 dport=1 packets=0 bytes=0 mark=5 zone=0 delta-time=7 use=2\n"
    "ipv4     2 tcp      6 93 ESTABLISHED src=10.0.1.2 dst=10.0.2.2 sport=4000 dport=21 packets=0 bytes=0 [UNREPLIED] "
    "src=10.0.2.2 dst=10.0.1.2 sport=21 dport=4000 packets=0 bytes=0 mark=0 zone=0 delta-time=7 use=2\n"
    "ipv4     2 udp      17 200 src=10.0.1.2 dst=10.0.2.2 sport=2 dport=53 zone-orig=9 "
    "src=10.0.2.2 dst=10.0.1.2 sport=53 dport=2 [ASSURED] mark=0 use=2\n"
)


def test_flows_as_text(world: World) -> None:
    """The lines are those that Linux 6.18.44 printed of such flows."""
    world.kernel.sysctl(f"{PREFIX}acct", 1)
    world.kernel.sysctl(f"{PREFIX}timestamp", 1)
    world.client.ask(new(1, mark=5, timeout=107))
    world.connection(4000, 21)
    world.kernel.sysctl(f"{PREFIX}acct", 0)
    world.kernel.sysctl(f"{PREFIX}timestamp", 0)
    bound = udp(2).replace(zone=9)
    request = NewFlow(
        nlmsg_flags=REQUEST_ACK | NlmsgFlag.CREATE,
        nfgen_family=2,
        original=bound,
        reply=udp(2, answer=True),
        timeout=207,
        status=Status(0xE),
    )
    world.client.ask(bytes(request))
    world.kernel.advance(7)
    assert world.kernel.read_proc("nf_conntrack") == LINES


def test_expectations_as_text(world: World) -> None:
    world.connection(4000, 21, "ftp")
    after("exp-new")(world)
    assert world.kernel.read_proc("nf_conntrack_expect") == (
        "300 l3proto = 2 proto=6 src=10.0.1.2 dst=10.0.2.2 sport=0 dport=5000 ftp\n"
    )


def test_statistics_as_text_and_as_messages(world: World) -> None:
    for port in (1, 2, 3):
        world.client.ask(new(port))
    head, row = world.kernel.read_proc("stat/nf_conntrack").splitlines()
    counted = dict(zip(head.split(), row.split(), strict=True))
    assert (counted["entries"], counted["insert"], counted["found"]) == ("00000003", "00000003", "00000000")
    [stats, ack] = ask(world.client, GetStats(nlmsg_flags=REQUEST_ACK))
    assert isinstance(stats, Stats)
    assert (stats.entries, stats.max_entries) == (3, 262144)
    assert isinstance(ack, Ack)
    [cpu, done] = ask(world.client, GetStatsCpu(nlmsg_flags=DUMP))
    assert isinstance(cpu, StatsCpu)
    assert (cpu.insert, cpu.res_id) == (3, 0)
    assert isinstance(done, Done)


def test_only_root_reads_the_table(world: World) -> None:
    with world.kernel.process(uid=1000):
        for name in ("nf_conntrack", "nf_conntrack_expect"):
            with pytest.raises(PermissionError):
                world.kernel.read_proc(name)
        assert world.kernel.read_proc("stat/nf_conntrack")


# ------------------------------------------------------------------------------------------------------------------------ dumps


def test_a_dump_shows_what_is_there_when_its_place_comes(world: World) -> None:
    for port in range(1, 51):
        world.client.ask(new(port))
    reader = Client(world.kernel)
    reader.socket.send(bytes(everything()))
    world.client.ask(delete(50))
    world.client.ask(delete(1))
    world.client.ask(new(1000))
    ports = [message.original.src_port for datagram in reader.hear() for message in decode(datagram) if isinstance(message, Flow)]
    assert 50 not in ports
    assert 1 in ports, "it was in the first part, which was made with the request"
    assert len(ports) == len(set(ports))
    assert set(range(2, 50)) <= set(ports)


def test_a_flow_that_comes_when_all_was_told_is_too_late(world: World) -> None:
    """The whole table was in the first part, though nobody has read that yet."""
    world.client.ask(new(1))
    reader = Client(world.kernel)
    reader.socket.send(bytes(everything()))
    world.client.ask(new(2))
    assert [type(message) for datagram in reader.hear() for message in decode(datagram)] == [Flow, Done]


def test_a_dump_of_many_flows_takes_no_more_than_it_must(world: World) -> None:
    for port in range(1, 3001):
        world.client.ask(new(port))
    reader = Client(world.kernel)
    parts = reader.ask(bytes(everything()))
    assert len(parts[0]) == 19 * 192
    assert {len(part) for part in parts[1:-2]} == {169 * 192}
    assert sum(map(len, parts)) == 3000 * 192 + 20


def test_a_dump_that_begins_late_shows_what_is_there_then(world: World) -> None:
    """It was refused for lack of room, and goes on with the reading all the same."""
    world.connection(4000, 21, "ftp")
    asker = Client(world.kernel)
    asker.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    for _ in range(9):
        asker.socket.send(bytes(GetStats(nlmsg_flags=NlmsgFlag.REQUEST)))
    asker.socket.send(bytes(GetExpectation(nlmsg_flags=DUMP)))
    after("exp-new")(world)
    said: list[object] = []
    while asker.socket.readable:
        try:
            said += decode(asker.socket.recv(4096))
        except OSError as error:
            assert error.errno == ENOBUFS  # noqa: PT017 -- once for the refusal, and once for each part without room
    assert [type(message) for message in said] == [*[Stats] * 9, Expectation, Done]


@pytest.mark.parametrize(("room", "lost"), [(4096, False), (4130, True), (4160, True), (4179, True)])
def test_counters_of_a_flow_that_did_not_fit_are_lost(world: World, room: int, lost: bool) -> None:
    """Linux exchanges them for 0 before it sees that the message has no room, and shows the 0 in the next part."""
    world.kernel.sysctl(f"{PREFIX}acct", 1)
    for port in range(1, 101):
        world.client.ask(new(port))
    for entry in world.table.walk():
        entry.counters = [3, 300, 0, 0]
        entry.synproxy = None
    reader = Client(world.kernel)
    reader.socket.send(bytes(GetFlowCtrzero(nlmsg_flags=DUMP)))
    counts: list[list[int | None]] = []
    while reader.socket.readable:
        part = decode(reader.socket.recv(room))
        counts.append([flow.counters_original.packets for flow in part if isinstance(flow, Flow) and flow.counters_original])
    assert len(counts[0]) == 17
    for part_counts in counts[2:-1]:
        assert part_counts == [0 if lost else 3, *[3] * (len(part_counts) - 1)]
    assert all(entry.counters == [0, 0, 0, 0] for entry in world.table.walk())


@pytest.mark.parametrize(("profile", "inverted"), [("6.18.44", True), ("6.12.117", False)])
def test_ipv6_addresses_in_filters(profile: str, inverted: bool) -> None:
    with FakeKernel(profile=PROFILES[profile]) as kernel:
        client = Client(kernel)
        client.ask(next(requests("new-udp6")))
        [flow] = kernel.flows()
        wanted = everything(nfgen_family=10, original=flow.original, filter=Filter(orig_flags=FilterFlag.IP_SRC))
        answers = ask(client, wanted)
        assert [message.original for message in answers if isinstance(message, Flow)] == ([] if inverted else [flow.original])
        [*_, done] = answers
        assert isinstance(done, Done)
        assert bool(done.nlmsg_flags & NlmsgFlag.DUMP_FILTERED) is not inverted


# ----------------------------------------------------------------------------------------------------------------------- events


def test_events_are_filtered_by_the_socket(world: World) -> None:
    """A program that takes messages with mark 5 only: the word behind the last attribute's header."""
    listener = world.listener(Group.CONNTRACK_NEW)
    length, accept, reject = 0x80, 0x06, 0x06
    program = [
        (length, 0, 0, 0),
        (0x14, 0, 0, 4),
        (0x07, 0, 0, 0),
        (0x40, 0, 0, 0),
        (0x15, 0, 1, 5),
        (accept, 0, 0, 0xFFFF),
        (reject, 0, 0, 0),
    ]
    listener.socket.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)
    for port, mark in ((1, 4), (2, 5), (3, 6)):
        world.client.ask(new(port, mark=mark))
    [heard] = [message for datagram in listener.hear() for message in decode(datagram)]
    assert isinstance(heard, Flow)
    assert heard.original.src_port == 2


@pytest.mark.parametrize(("mode", "joined", "heard"), [(0, True, False), (1, False, True), (2, True, True), (2, False, False)])
def test_whether_a_flow_has_events_is_decided_at_its_birth(world: World, mode: int, joined: bool, heard: bool) -> None:
    world.kernel.sysctl(f"{PREFIX}events", mode)
    if joined:
        world.listener(Group.CONNTRACK_EXP_DESTROY)
    world.client.ask(new(1))
    world.kernel.sysctl(f"{PREFIX}events", 1 - heard)
    listener = world.listener(Group.CONNTRACK_DESTROY)
    world.client.ask(delete(1))
    assert bool(listener.hear()) is heard


def test_an_echo_comes_before_the_acknowledgement_and_not_twice(world: World) -> None:
    asker = world.listener(Group.CONNTRACK_NEW, Group.CONNTRACK_DESTROY)
    other = world.listener(Group.CONNTRACK_NEW, Group.CONNTRACK_DESTROY)
    for request in (new(1, flags=REQUEST_ACK | NlmsgFlag.CREATE | NlmsgFlag.ECHO), delete(1, REQUEST_ACK | NlmsgFlag.ECHO)):
        echo, ack = asker.ask(request)
        assert isinstance(decode(ack)[0], Ack)
        assert other.hear() == [echo]
    unasked = world.client.ask(new(2, flags=REQUEST_ACK | NlmsgFlag.CREATE | NlmsgFlag.ECHO))
    assert len(unasked) == 2


def deaf(world: World, *groups: int, sure: bool = True) -> Client:
    """A listener with room for one event, which is taken. ``sure``: it wants the sender to know what it misses."""
    listener = world.listener(*groups)
    listener.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    if sure:
        listener.socket.setsockopt(SOL_NETLINK, SocketOption.BROADCAST_ERROR, 1)
    world.client.ask(new(9999))
    world.client.ask(delete(9999))
    assert len(listener.socket.sock.queue) == 1
    return listener


def after_the_overrun(listener: Client) -> list[object]:
    """What is there behind the error that says that something is missing."""
    with pytest.raises(OSError, match="No buffer space") as caught:
        listener.hear()
    assert caught.value.errno == ENOBUFS
    return [message for datagram in listener.hear() for message in decode(datagram)]


def test_a_missed_birth_makes_the_next_change_a_birth(world: World) -> None:
    listener = deaf(world, Group.CONNTRACK_NEW)
    assert errors(world.client, new(1)) == [0]
    assert listener.socket.sock.congested
    after_the_overrun(listener)
    assert errors(world.client, new(1, mark=1)) == [0]
    [born] = [message for datagram in listener.hear() for message in decode(datagram)]
    assert isinstance(born, Flow)
    assert born.nlmsg_flags == NlmsgFlag.CREATE | NlmsgFlag.EXCL
    assert born.mark == 1
    world.client.ask(new(1, mark=2))
    assert listener.hear() == []


def test_a_missed_end_is_told_again_until_it_is_heard(world: World) -> None:
    other = world.listener(Group.CONNTRACK_DESTROY)
    listener = deaf(world, Group.CONNTRACK_DESTROY)
    for port in (1, 2):
        world.client.ask(new(port))
    other.hear()
    assert errors(world.client, bytes(DeleteFlow(nlmsg_flags=REQUEST_ACK))) == [0]
    assert len(other.hear()) == 2
    assert shown(world.client, everything()) == []
    dying = GetDying(nlmsg_flags=DUMP)
    assert shown(world.client, dying) == [1, 2]
    assert [stats.entries for stats in ask(world.client, GetStats(nlmsg_flags=REQUEST_ACK)) if isinstance(stats, Stats)] == [2]
    world.kernel.advance(0.5)
    assert shown(world.client, dying) == [1, 2]
    after_the_overrun(listener)
    world.kernel.advance(0.5)
    # there is room for one at a time, and the next is tried every hundredth of a second
    assert shown(world.client, dying) == [2]
    [gone] = after_the_overrun(listener)
    assert isinstance(gone, DestroyedFlow)
    assert (gone.original.src_port, gone.nlmsg_pid) == (1, world.client.socket.sock.port)
    world.kernel.advance(0.01)
    assert shown(world.client, dying) == []
    assert len(listener.hear()) == 1


def test_whoever_does_not_ask_to_be_sure_just_misses(world: World) -> None:
    listener = deaf(world, Group.CONNTRACK_DESTROY, sure=False)
    world.client.ask(new(1))
    world.client.ask(delete(1))
    assert shown(world.client, GetDying(nlmsg_flags=DUMP)) == []
    assert listener.socket.sock.drops == 1


def test_labels_need_a_rule_that_uses_them(world: World) -> None:
    labels = struct.pack("<Q", 1 << 5) + bytes(8)
    world.client.ask(new(1, labels=labels))
    assert world.kernel.flows()[0].labels is None
    world.table.label_users += 1
    world.client.ask(new(2, labels=labels))
    assert [flow.label_numbers for flow in world.kernel.flows()] == [frozenset(), {5}]


def test_of_two_flows_with_one_tuple_the_later_is_found(world: World) -> None:
    """A zone that holds for replies only lets the original direction look like another flow's replies."""
    there, back = udp(1), udp(1, answer=True)
    bound = back.replace(zone=9)
    for original, reply, mark in ((back, there, 1), (there, bound, 2)):
        request = NewFlow(
            nlmsg_flags=REQUEST_ACK | NlmsgFlag.CREATE, nfgen_family=2, original=original, reply=reply, timeout=9, mark=mark
        )
        assert errors(world.client, request) == [0]
    found, _ = ask(world.client, GetFlow(nlmsg_flags=REQUEST_ACK, nfgen_family=2, original=there))
    assert isinstance(found, Flow)
    assert found.mark == 2


def test_an_answer_without_room_is_an_error(world: World) -> None:
    """Which is smaller, and may find room where the answer did not; as seen on Linux 6.18.44 with these sizes."""
    world.kernel.sysctl(f"{PREFIX}acct", 1)
    world.connection(1000, 53)
    asker = Client(world.kernel)
    asker.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4400)
    asker.socket.setsockopt(SOL_NETLINK, SocketOption.NO_ENOBUFS, 1)
    question = GetFlow(nlmsg_flags=NlmsgFlag.REQUEST, nfgen_family=2, original=tcp_tuple("10.0.1.2", 1000, "10.0.2.2", 53))
    for _ in range(12):
        asker.socket.send(bytes(question))
    assert asker.socket.sock.charged == 8512
    *answers, error = asker.hear()
    assert [len(answer) for answer in answers] == [296] * 6
    [refusal] = decode(error)
    assert isinstance(refusal, Ack)
    assert refusal.error == ENOBUFS


# ----------------------------------------------------------------------------------------------------------------- robustness


@pytest.mark.parametrize(("profile", "refused"), [("6.18.44", [EINVAL]), ("6.12.117", [0])])
def test_what_a_kernel_does_not_know_yet_it_passes_over(profile: str, refused: list[int]) -> None:
    with FakeKernel(profile=PROFILES[profile]) as kernel:
        assert errors(Client(kernel), new(1, timestamp_event=5)) == refused


@pytest.mark.parametrize(("profile", "told"), [("6.18.44", True), ("6.12.117", False)])
def test_when_an_event_happened_is_told_by_kernels_that_know_it(profile: str, told: bool) -> None:
    with FakeKernel(profile=PROFILES[profile]) as kernel:
        kernel.sysctl(f"{PREFIX}timestamp", 1)
        listener = Client(kernel)
        listener.socket.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, Group.CONNTRACK_NEW)
        kernel.advance(1.5)
        Client(kernel).ask(new(1))
        [datagram] = listener.hear()
        [born] = decode(datagram)
        assert isinstance(born, Flow)
        assert born.timestamp_event == ((EPOCH * 10 + 15) * 10**8 if told else None)


KINDS = [NewFlow, GetFlow, DeleteFlow, NewExpectation, GetExpectation, DeleteExpectation]
CONNTRACK_TYPES = [subsystem << 8 | number for subsystem, count in ((1, 9), (2, 5)) for number in range(count)]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CONNTRACK_TYPES),
            st.sampled_from([0, 0x400, 0x600, 0x300, 8]),
            datagrams(kinds=KINDS, damaged=True).filter(lambda data: len(data) > 16),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_bytes_make_it_stumble(requests: list[tuple[int, int, bytes]]) -> None:
    """Whatever it is asked, it answers, and can be asked again."""
    with FakeKernel() as kernel:
        client = Client(kernel)
        for type_, flags, data in requests:
            body = data[16:]
            header = struct.pack("=IHHII", 16 + len(body), type_, REQUEST_ACK | flags, 1, 0)
            answers = [part for datagram in client.ask(header + body) for part in decode(datagram)]
            dumped = flags == DUMP & ~NlmsgFlag.REQUEST
            assert answers or (dumped and type_ >> 8 == 2), "only the expectations of a master without a helper are silence"
        assert errors(client, new(1)) in ([0], [EEXIST])
