"""The kernel put together: the seam, the tester's verbs, idleness, threads, snapshots."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from nfnl.errors import OverrunError, TransportClosed
from nfnl.sim import NOT_MODELLED, PROFILES, Capability, FakeKernel, FakeSocket, FakeTransport, Fate, Idle, NotModelled
from nfnl.sim.af_netlink import SO_RCVBUF, SOL_SOCKET
from nfnl.sim.queueing import COPY_PACKET
from nfnl.sim.skb import checksum
from nfnl.subsys.queue import Command, Config, ConfigCommand, CopyMode, Packet, Params, QueueFlag
from nfnl.testing import lab
from nfnl.transport.base import Kernel, SocketOptions, Transport, Wait
from nfnl.wire.codec import decode
from nfnl.wire.constants import SOL_NETLINK, NlmsgFlag, SocketOption, Verdict
from nfnl.wire.control import Ack
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer
from nfnl.wire.header import NATIVE
from tests.unit.sim.control_rig import verdict

NOOP = NATIVE.header.pack(16, 1, NlmsgFlag.REQUEST | NlmsgFlag.ACK, 1, 0)
ALL_TO_QUEUE_0 = "-A INPUT -j NFQUEUE --queue-num 0"


def ping(ident: int = 1) -> bytes:
    """An echo request from a neighbour."""
    icmp = b"\x08\0\0\0" + ident.to_bytes(2, "big") + b"\0\1"
    icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
    header = bytes.fromhex("4500 001c 0001 0000 4001 0000 0a000009 0a000001")
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + icmp


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    with FakeKernel() as kernel:
        yield kernel


@pytest.fixture
def transport(kernel: FakeKernel) -> FakeTransport:
    return kernel.open()


def bind(transport: Transport, number: int = 0) -> None:
    config = Config(
        res_id=number,
        nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.ACK,
        command=Command(ConfigCommand.BIND),
        params=Params(0xFFFF, CopyMode.PACKET),
    )
    transport.send(bytes(config))
    [answer] = (decode(datagram)[0] for datagram in transport.receive())
    assert isinstance(answer, Ack)
    assert answer.error == 0


# ------------------------------------------------------------------------------------------------------------------ end to end


def test_it_is_a_kernel(kernel: FakeKernel) -> None:
    assert isinstance(kernel, Kernel)
    opened: Transport = kernel.open()
    assert opened.fileno() is None
    assert opened.now() == 0.0


def test_a_packet_goes_through_a_queue(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)
    journey = kernel.receive(ping())
    assert journey.fate is Fate.QUEUED
    assert transport.wait(None) is Wait.READABLE
    [datagram] = transport.receive()
    assert type(datagram) is bytes
    [message] = decode(datagram)
    assert isinstance(message, Packet)
    assert message.payload == ping()
    transport.send(verdict(0, message.header.packet_id, Verdict.ACCEPT))
    assert journey.delivered
    assert [answer.fate for answer in journey.answers] == [Fate.SENT], "the echo"


def test_the_second_family_has_its_own_rules(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.ip6tables("-A INPUT -j DROP")
    assert kernel.receive(ping()).delivered
    kernel.iptables_restore("*filter\n:INPUT DROP [0:0]\nCOMMIT\n")
    assert kernel.receive(ping()).dropped
    kernel.ip6tables_restore("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    assert "-P INPUT ACCEPT" in kernel.ip6tables("-S")
    assert "-P INPUT DROP" in kernel.iptables("-S")


def test_the_send_buffer_of_a_program(kernel: FakeKernel, transport: FakeTransport) -> None:
    """It is full as long as its packets wait at OUTPUT, and has room again when they have left."""
    kernel.iptables("-A OUTPUT -p icmp -j NFQUEUE --queue-num 0")
    bind(transport)
    sender = kernel.sender(send_buffer=0, uid=1000)
    assert sender.send_buffer == 4608
    journeys = [sender.send(ping()) for _ in range(8)]
    assert [journey.errno for journey in journeys] == [0] * 6 + [errno.EAGAIN] * 2
    assert (journeys[6].dropped, journeys[6].reason) == (True, "the send buffer is full of what waits in queues")
    assert sender.charged == 6 * 832
    snapshot = kernel.snapshot()
    transport.send(verdict(0, 1, Verdict.ACCEPT))
    assert sender.charged == 5 * 832
    snapshot.restore()
    assert sender.charged == 6 * 832


@pytest.mark.parametrize(("version", "told"), [("6.18.44", 0x10001), ("6.1.192", None)])
def test_the_class_of_a_program(version: str, told: int | None) -> None:
    with FakeKernel(profile=PROFILES[version]) as kernel:
        kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 0")
        transport = kernel.open()
        bind(transport)
        kernel.sender(classid=0x10001).send(ping())
        [[message]] = [decode(datagram) for datagram in transport.receive()]
        assert isinstance(message, Packet)
        assert message.cgroup_classid == told


@pytest.mark.parametrize("name", lab.SYSCTLS | lab.NEWER_SYSCTLS)
def test_sysctls_are_as_in_a_lab(kernel: FakeKernel, name: str) -> None:
    kernel.add_device("eth1")
    for which in (name, name.replace(".all.", ".eth1.") if "send_redirects" in name else name):
        assert kernel.sysctl(which) == str((lab.SYSCTLS | lab.NEWER_SYSCTLS)[name])


def test_what_cannot_be_tuned(kernel: FakeKernel) -> None:
    assert kernel.sysctl("net.ipv4.conf.all.rp_filter", 0) == "0"
    with pytest.raises(NotModelled, match="rp_filter other than 0"):
        kernel.sysctl("net.ipv4.conf.all.rp_filter", 1)


def test_a_local_packet_tells_whose_it_is(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 0")
    bind(transport)
    flags = QueueFlag.UID_GID
    transport.send(bytes(Config(nlmsg_flags=1, mask=flags, flags=flags)))
    packet = bytes.fromhex("4500 0021 0000 4000 4011 0000 7f000001 7f000001 13882328000d0000 68656c6c6f")

    def owner() -> tuple[int | None, int | None]:
        [[message]] = [decode(datagram) for datagram in transport.receive()]
        assert isinstance(message, Packet)
        return message.uid, message.gid

    kernel.send(packet)
    assert owner() == (0, 0)
    with kernel.process(uid=1000, gid=1001):
        kernel.send(packet)
    assert owner() == (1000, 1001)
    kernel.send(packet, uid=7, gid=8)
    assert owner() == (7, 8)


def test_devices_addresses_and_routes(kernel: FakeKernel) -> None:
    device = kernel.add_device("eth1", mtu=1400)
    kernel.add_address("eth1", "10.7.0.1/24")
    to_7 = ping().replace(bytes([10, 0, 0, 1]), bytes([10, 7, 0, 1]))
    to_7 = to_7[:10] + b"\0\0" + to_7[12:]
    to_7 = to_7[:10] + checksum(to_7[:20]).to_bytes(2, "big") + to_7[12:]
    assert kernel.receive(to_7, "eth1").delivered
    kernel.set_up("eth1", False)
    assert not device.up
    kernel.set_up("eth1", True)
    kernel.add_route("10.9.0.0/16", "eth1")
    kernel.del_route("10.9.0.0/16")
    with pytest.raises(OSError, match="No such process"):
        kernel.del_route("10.9.0.0/16")


def test_a_device_that_goes_down_drops_what_waits(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)
    journey = kernel.receive(ping())
    kernel.set_up("eth0", False)
    assert journey.dropped


def test_forwarding(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.add_device("eth1")
    kernel.iptables("-A FORWARD -j NFQUEUE --queue-num 0")
    bind(transport)
    far = bytes.fromhex("4500 001c 0001 0000 4001 0000 0a000009 0b000001")
    far = far[:10] + checksum(far).to_bytes(2, "big") + far[12:] + ping()[20:]
    journey = kernel.forward(far, out_dev="eth1")
    assert journey.queued
    transport.send(verdict(0, 1, Verdict.ACCEPT))
    assert journey.fate is Fate.SENT


# -------------------------------------------------------------------------------------------------------------- the transport


def test_options_are_applied(kernel: FakeKernel) -> None:
    options = SocketOptions(
        receive_buffer=1 << 25, no_enobufs=True, extended_ack=False, cap_ack=True, listen_all_nsid=True, groups=(1, 9), port_id=77
    )
    transport = kernel.open(options)
    assert transport.port_id == 77
    assert transport.receive_buffer == 1 << 26
    sock = transport._socket
    assert sock.getsockname() == (77, 0x101)
    switches = [SocketOption.NO_ENOBUFS, SocketOption.EXT_ACK, SocketOption.CAP_ACK, SocketOption.LISTEN_ALL_NSID]
    assert [sock.getsockopt(SOL_NETLINK, option) for option in switches] == [1, 0, 1, 1]


def test_what_cannot_be_opened_leaves_nothing_open(kernel: FakeKernel) -> None:
    kernel.open(SocketOptions(port_id=77))
    with pytest.raises(OSError, match="Address already in use"):
        kernel.open(SocketOptions(port_id=77))
    with kernel.process(uid=1000), pytest.raises(PermissionError):
        kernel.open(SocketOptions(groups=(1,)))
    assert len(kernel._world.sockets.sockets) == 1


def test_the_unprivileged_get_the_buffer_they_may_have(kernel: FakeKernel) -> None:
    with kernel.process(uid=1000):
        transport = kernel.open(SocketOptions(receive_buffer=1 << 25))
        assert transport.receive_buffer == 2 * 4194304
        transport.send(NOOP)
    [[answer]] = [decode(datagram) for datagram in transport.receive()]
    assert isinstance(answer, Ack)
    assert answer.error == errno.EPERM


def test_requests_of_a_session_are_done(transport: FakeTransport) -> None:
    sock = transport._socket
    transport.apply(JoinGroup(3))
    assert sock.getsockname()[1] == 4
    transport.apply(LeaveGroup(3))
    assert sock.getsockname()[1] == 0
    transport.apply(SetReceiveBuffer(5000))
    assert transport.receive_buffer == 10000
    transport.apply(SetOption(SocketOption.CAP_ACK, True))
    assert sock.getsockopt(SOL_NETLINK, SocketOption.CAP_ACK) == 1
    transport.apply(AttachFilter(((0x06, 0, 0, 0),)))
    transport.send(NOOP)
    assert transport.receive() == []
    for _ in range(2):
        transport.apply(AttachFilter(()))
    transport.send(NOOP)
    assert len(transport.receive()) == 1


def test_facts_travel_with_datagrams(kernel: FakeKernel, transport: FakeTransport) -> None:
    transport.apply(JoinGroup(2))
    other = kernel.socket()
    other.bind((7, 0))
    other.sendto(b"to all", (0, 2))
    other.sendto(b"to you", (transport.port_id, 0))
    transport.send(NOOP)
    group, user, own = transport.receive()
    assert isinstance(group, Datagram)
    assert (group, group.sender, group.groups, group.truncated) == (b"to all", 7, 2, False)
    assert isinstance(user, Datagram)
    assert (user, user.sender, user.groups) == (b"to you", 7, 0)
    assert type(own) is bytes


def test_datagrams_come_by_64(transport: FakeTransport) -> None:
    for _ in range(100):
        transport.send(NOOP)
    assert [len(transport.receive()) for _ in range(3)] == [64, 36, 0]


def test_an_overrun_is_raised_once_before_what_was_kept(transport: FakeTransport) -> None:
    transport._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    for _ in range(3):
        transport.send(NOOP)
    assert transport.wait(None) is Wait.READABLE
    with pytest.raises(OverrunError):
        transport.receive()
    assert len(transport.receive()) == 2
    assert transport.receive() == []


def test_waiting(kernel: FakeKernel, transport: FakeTransport) -> None:
    assert transport.wait(0.0) is Wait.DEADLINE
    transport.wake()
    transport.send(NOOP)
    assert transport.wait(None) is Wait.WOKEN
    assert transport.wait(0.0) is Wait.READABLE
    transport.receive()
    kernel.advance(5)
    assert transport.now() == 5.0
    assert transport.wait(5.0) is Wait.DEADLINE


def test_what_nothing_can_end_is_said_so(kernel: FakeKernel, transport: FakeTransport) -> None:
    with pytest.raises(Idle, match="port 4242 waits for a datagram") as caught:
        transport.wait(None)
    assert "advance" not in str(caught.value)
    with pytest.raises(Idle, match=r"advance\(2.5\)"):
        transport.wait(2.5)
    kernel._world.clock.call_at(1.0, lambda: None)
    with pytest.raises(Idle, match=r"advance\(1\)"):
        transport.wait(2.5)
    assert transport.now() == 0.0


def test_undecided_packets_are_named(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)
    for _ in range(2):
        kernel.receive(ping())
    transport.receive()
    with pytest.raises(Idle, match=r"wait for a verdict: queue 0 \(port 4242\): 2"):
        transport.wait(None)


def test_until_idle(kernel: FakeKernel, transport: FakeTransport) -> None:
    with kernel.until_idle():
        transport.send(NOOP)
        assert transport.wait(None) is Wait.READABLE
        transport.receive()
        with kernel.until_idle():
            assert transport.wait(None) is Wait.IDLE
        assert transport.wait(100.0) is Wait.IDLE
    with pytest.raises(Idle):
        transport.wait(None)


def test_watching(kernel: FakeKernel, transport: FakeTransport) -> None:
    calls: list[int] = []
    transport.send(NOOP)
    take_back = transport.on_readable(lambda: calls.append(1))
    assert calls == [1], "something was there already"
    transport.receive()
    transport.send(NOOP)
    assert calls == [1, 1]
    take_back()
    take_back()
    transport.send(NOOP)
    assert calls == [1, 1]


def test_a_watcher_may_answer_at_once(kernel: FakeKernel, transport: FakeTransport) -> None:
    """Were it called in the middle of things, the packet would not be in its queue yet."""
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)

    def decide() -> None:
        for datagram in transport.receive():
            for message in decode(datagram):
                if isinstance(message, Packet):
                    transport.send(verdict(0, message.header.packet_id, Verdict.DROP, flags=1))

    transport.on_readable(decide)
    assert kernel.receive(ping()).dropped
    assert kernel.receive(ping()).dropped


def test_a_closed_transport_says_so(kernel: FakeKernel, transport: FakeTransport) -> None:
    transport.on_readable(lambda: None)
    transport.close()
    transport.close()
    calls: list[Callable[[], object]] = [
        lambda: transport.port_id,
        lambda: transport.send(NOOP),
        transport.receive,
        lambda: transport.wait(None),
        transport.wake,
        lambda: transport.on_readable(lambda: None),
        transport.now,
        lambda: transport.apply(JoinGroup(1)),
        lambda: transport.receive_buffer,
    ]
    for call in calls:
        with pytest.raises(TransportClosed):
            call()


def test_closing_drops_what_its_queues_held(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)
    journey = kernel.receive(ping())
    transport.close()
    assert journey.dropped
    assert kernel.read_proc("netfilter/nfnetlink_queue") == ""


def test_a_closed_kernel_says_so() -> None:
    kernel = FakeKernel()
    transport, socket = kernel.open(), kernel.socket()
    with kernel.until_idle(), kernel.process(uid=5):
        kernel.close()
        kernel.close()
    for call in (transport.receive, kernel.open, kernel.snapshot, lambda: kernel.advance(1)):
        with pytest.raises(TransportClosed):
            call()
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.recv(1)


# --------------------------------------------------------------------------------------------------------------------- threads


@pytest.fixture
def waiting() -> Iterator[FakeKernel]:
    with FakeKernel(when_idle="wait") as kernel:
        yield kernel


def in_thread(call: Callable[[], object]) -> tuple[Thread, list[object]]:
    """A thread that is about to make a call, and what comes of it."""
    results: list[object] = []
    started = Event()

    def run() -> None:
        started.set()
        try:
            results.append(call())
        except TransportClosed as closed:
            results.append(type(closed))

    thread = Thread(target=run)
    thread.start()
    started.wait(10)
    return thread, results


@pytest.mark.parametrize(
    ("act", "result"),
    [
        (lambda kernel, transport: transport.send(NOOP), Wait.READABLE),
        (lambda kernel, transport: transport.wake(), Wait.WOKEN),
        (lambda kernel, transport: transport.close(), TransportClosed),
        (lambda kernel, transport: kernel.close(), TransportClosed),
        (lambda kernel, transport: kernel.advance(3), Wait.DEADLINE),
    ],
)
def test_another_thread_ends_a_wait(waiting: FakeKernel, act: Callable[[FakeKernel, FakeTransport], None], result: object) -> None:
    transport = waiting.open()
    thread, results = in_thread(lambda: transport.wait(3.0))
    act(waiting, transport)
    thread.join(10)
    assert results == [result]


def test_another_thread_may_ask_for_rest(waiting: FakeKernel) -> None:
    transport = waiting.open()
    thread, results = in_thread(lambda: transport.wait(None))
    with waiting.until_idle():
        thread.join(10)
    assert results == [Wait.IDLE]


def test_many_threads_share_a_kernel(waiting: FakeKernel) -> None:
    """A handler in one thread, packets from three others."""
    waiting.iptables(ALL_TO_QUEUE_0)
    transport = waiting.open()
    bind(transport)
    count = 50

    def handle() -> int:
        handled = 0
        while handled < 3 * count:
            transport.wait(None)
            for datagram in transport.receive():
                for message in decode(datagram):
                    assert isinstance(message, Packet)
                    transport.send(verdict(0, message.header.packet_id, Verdict.ACCEPT, flags=1))
                    handled += 1
        return handled

    handler, handled = in_thread(handle)
    senders = [in_thread(lambda: [waiting.receive(ping()) for _ in range(count)]) for _ in range(3)]
    for thread, _ in senders:
        thread.join(30)
    handler.join(30)
    assert handled == [3 * count]
    journeys = [journey for _, [sent] in senders for journey in sent]  # type: ignore[attr-defined]
    assert len(journeys) == 3 * count
    assert all(journey.delivered for journey in journeys)


# -------------------------------------------------------------------------------------------------------- /proc and processes


def test_proc(kernel: FakeKernel, transport: FakeTransport) -> None:
    bind(transport, 3)
    assert kernel.read_proc("netfilter/nfnetlink_queue") == "    3   4242     0 2 65531     0     0        0  1\n"
    head, own, line = kernel.read_proc("netlink").splitlines()
    assert head.split() == ["sk", "Eth", "Pid", "Groups", "Rmem", "Wmem", "Dump", "Locks", "Drops", "Inode"]
    assert own.split()[1:4] == ["12", "0", "00000000"]
    assert line.split()[1:4] == ["12", "4242", "00000000"]
    with pytest.raises(FileNotFoundError):
        kernel.read_proc("netfilter/nfnetlink_log")


def test_only_root_reads_the_queues(kernel: FakeKernel) -> None:
    with kernel.process(uid=1000):
        with pytest.raises(PermissionError):
            kernel.read_proc("netfilter/nfnetlink_queue")
        kernel.read_proc("netlink")
    with kernel.process(uid=1000, gid=0):
        kernel.read_proc("netfilter/nfnetlink_queue")


def test_sysctls(kernel: FakeKernel) -> None:
    assert kernel.sysctl("net.core.rmem_max") == "4194304"
    assert kernel.sysctl("net/core/rmem_max", 5000) == "5000"
    assert kernel.open(SocketOptions(receive_buffer=9000)).receive_buffer == 18000, "forced"
    with kernel.process(uid=1000):
        assert kernel.open(SocketOptions(receive_buffer=9000)).receive_buffer == 10000
        with pytest.raises(PermissionError):
            kernel.sysctl("net.core.rmem_max", 1)
    with pytest.raises(FileNotFoundError):
        kernel.sysctl("net.core.nonsense")
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.sysctl("net.core.rmem_max", "much")


def test_processes(kernel: FakeKernel) -> None:
    with kernel.process(pid=99, uid=5, capabilities={Capability.NET_ADMIN}):
        inside = kernel.socket()
        inside.bind((0, 1))
        assert inside.getsockname() == (99, 1)
    outside = kernel.socket()
    outside.bind((0, 0))
    assert outside.getsockname() == (4242, 0)


def test_other_sockets_are_not_there(kernel: FakeKernel) -> None:
    for type_, protocol, problem in ((1, 12, "Socket type"), (3, 0, "Protocol"), (3, 99, "Protocol")):
        with pytest.raises(OSError, match=problem):
            kernel.socket(type_, protocol)


def test_what_is_not_modelled_is_listed() -> None:
    assert "QueueFlag.CONNTRACK" in NOT_MODELLED["queue"]
    assert all(text for part in NOT_MODELLED.values() for text in part.values())


# ------------------------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_brings_everything_back(kernel: FakeKernel, transport: FakeTransport) -> None:
    kernel.iptables(ALL_TO_QUEUE_0)
    bind(transport)
    journey = kernel.receive(ping(1))
    snapshot = kernel.snapshot()
    proc = kernel.read_proc("netfilter/nfnetlink_queue")

    def decided() -> tuple[list[bytes], bool, str]:
        heard = transport.receive()
        transport.send(verdict(0, 1, Verdict.ACCEPT))
        return [*heard, *transport.receive()], journey.delivered, kernel.read_proc("netfilter/nfnetlink_queue")

    first = decided()
    kernel.iptables("-F INPUT")
    kernel.sysctl("net.core.rmem_max", 5)
    kernel.advance(9)
    for _ in range(2):
        snapshot.restore()
        assert kernel.read_proc("netfilter/nfnetlink_queue") == proc
        assert kernel.now == 0.0
        assert kernel.sysctl("net.core.rmem_max") != "5"
        assert journey.queued, "the journey in the tester's hands goes back, too"
        assert kernel.receive(ping(2)).queued, "and so do the rules"
        snapshot.restore()
        assert decided() == first


def test_sockets_follow_a_snapshot(kernel: FakeKernel, transport: FakeTransport) -> None:
    closed_since = kernel.open()
    bind(closed_since, 5)
    snapshot = kernel.snapshot()
    closed_since.close()
    opened_since = kernel.open()
    transport.apply(JoinGroup(1))
    snapshot.restore()
    with pytest.raises(TransportClosed):
        opened_since.receive()
    assert transport._socket.getsockname()[1] == 0
    assert kernel.read_proc("netfilter/nfnetlink_queue") == "", "what was closed stays closed, and its queues with it"
    transport.send(NOOP)
    assert len(transport.receive()) == 1
    assert kernel._world.queues.get(5) is None
    assert len(kernel._world.sockets.sockets) == 1


def test_a_snapshot_leaves_watchers_alone(kernel: FakeKernel, transport: FakeTransport) -> None:
    calls: list[int] = []
    transport.send(NOOP)
    snapshot = kernel.snapshot()
    transport.receive()
    transport.on_readable(lambda: calls.append(1))
    snapshot.restore()
    assert calls == [1], "there is something to read again"
    assert len(transport.receive()) == 1
    transport.send(NOOP)
    assert calls == [1, 1]


def test_the_same_scenario_gives_the_same_bytes() -> None:
    def scenario() -> list[bytes]:
        with FakeKernel() as kernel:
            kernel.iptables(ALL_TO_QUEUE_0)
            transports = [kernel.open(), kernel.open()]
            for number, transport in enumerate(transports):
                bind(transport, number)
            log = []
            for word in (Verdict.ACCEPT, Verdict.REPEAT, Verdict.QUEUE | 1 << 16, Verdict.DROP):
                journey = kernel.receive(ping(word & 0xFF))
                packet_id = kernel._world.queues.get(0).last_id  # type: ignore[union-attr]
                transports[0].send(verdict(0, packet_id, word))
                log += [answer.data for answer in journey.answers]
                log += [datagram for transport in transports for datagram in transport.receive()]
            return [*log, kernel.read_proc("netfilter/nfnetlink_queue").encode(), kernel.read_proc("netlink").encode()]

    first = scenario()
    assert len(first) > 10
    assert scenario() == first


def test_it_needs_no_linux() -> None:
    """What it is made of is in the standard library of every system; sockets are its own."""
    kernel = FakeKernel()
    sock = kernel.socket()
    assert isinstance(sock, FakeSocket)
    assert (sock.family, sock.type, sock.proto) == (16, 3, 12)
    assert COPY_PACKET == CopyMode.PACKET
