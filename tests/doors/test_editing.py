"""Packets with other bytes, and packets that get an answer: through every door, on both kernels, with real sockets at the end."""

from __future__ import annotations

import errno
import gc
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Raw

import nfnl
from nfnl.packets import repair
from nfnl.sim import FakeKernel, Journey
from nfnl.sim.af_netlink import Capability
from nfnl.testing.lab import LinuxLab
from nfnl.transport.trace import TraceKernel
from tests import probes
from tests.contract.kernels import LinuxUnderTest
from tests.doors.drivers import DRIVERS, Driver, until

V4 = {"src": "10.0.0.9", "dst": "10.0.0.1"}
V6 = {"src": "fd00::9", "dst": "fd00::1"}
DATAGRAM = bytes(IP(**V4, id=7) / UDP(sport=5, dport=9) / b"hello")
DATAGRAM_V6 = bytes(IPv6(**V6) / UDP(sport=5, dport=9) / b"hello")
SYN = bytes(IP(**V4, id=7) / TCP(sport=5, dport=9, flags="S", seq=100))
SYN_V6 = bytes(IPv6(**V6) / TCP(sport=5, dport=9, flags="S", seq=100))
#: no longer hello, and no longer as long
GREETING = b"a much longer greeting"


@pytest.fixture(params=["fake", "linux"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "linux":
        probes.require("lab-available")
    made: FakeKernel | LinuxLab = FakeKernel() if request.param == "fake" else LinuxLab()
    with made:
        queue_everything(made, "INPUT")
        yield made


@pytest.fixture
def fake() -> Iterator[FakeKernel]:
    with FakeKernel() as made:
        queue_everything(made, "INPUT")
        yield made


@pytest.fixture
def lab() -> Iterator[LinuxLab]:
    """For what only Linux has: sockets of programs. The doors are given the namespace, as in production, and not the lab."""
    probes.require("lab-available")
    with LinuxLab() as made:
        yield made


@pytest.fixture(params=DRIVERS)
def door(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


def queue_everything(kernel: Any, chain: str) -> None:
    kernel.iptables(f"-A {chain} -j NFQUEUE --queue-num 0")
    kernel.ip6tables(f"-A {chain} -j NFQUEUE --queue-num 0")


def received(kernel: Any, door: Driver, packet: bytes, handle: Callable[[nfnl.QueuedPacket], object], **options: Any) -> Journey:
    """The packet arrives, and is handled."""
    journeys: list[Journey] = []
    door(
        kernel,
        until(1, lambda packet, queue: handle(packet)),
        meanwhile=lambda queue: journeys.append(kernel.receive(packet)),
        **options,
    )
    return journeys[0]


# --- other bytes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datagram", [DATAGRAM, DATAGRAM_V6], ids=["IPv4", "IPv6"])
def test_a_payload_of_another_length_is_right_with_repair_and_dropped_without(kernel: Any, door: Driver, datagram: bytes) -> None:
    edited = datagram[:-5] + GREETING
    journey = received(kernel, door, datagram, lambda packet: packet.accept(edited, repair=True))
    assert journey.delivered
    assert journey.data == repair(edited)
    layer = (IP if datagram == DATAGRAM else IPv6)(journey.data)
    assert layer[UDP].len == 8 + len(GREETING)
    assert received(kernel, door, datagram, lambda packet: packet.accept(edited)).dropped


def test_a_scapy_packet_need_not_be_told_what_to_compute(kernel: Any, door: Driver) -> None:
    def edit(packet: nfnl.QueuedPacket) -> None:
        ip = IP(packet.payload)
        ip[UDP].payload = Raw(GREETING)
        packet.accept(ip, repair=True)

    journey = received(kernel, door, DATAGRAM, edit)
    assert journey.delivered
    assert journey.data == bytes(IP(**V4, id=7) / UDP(sport=5, dport=9) / GREETING)


def test_without_a_payload_the_packet_itself_is_repaired(kernel: Any, door: Driver) -> None:
    spoilt = bytes(IP(**V4, id=7) / UDP(sport=5, dport=9, chksum=77) / b"hello")
    assert received(kernel, door, spoilt, lambda packet: packet.accept()).dropped
    journey = received(kernel, door, spoilt, lambda packet: packet.accept(repair=True, mark=3))
    assert journey.delivered
    assert (journey.data, journey.mark) == (DATAGRAM, 3)


def test_what_cannot_be_repaired_raises_and_the_packet_waits(kernel: Any, door: Driver) -> None:
    def handle(packet: nfnl.QueuedPacket) -> None:
        with pytest.raises(nfnl.PacketError, match="no IP packet"):
            packet.accept(b"", repair=True)
        assert not packet.decided
        packet.accept()

    assert received(kernel, door, DATAGRAM, handle).delivered


def test_a_truncated_packet_is_not_repaired(kernel: Any, door: Driver) -> None:
    def handle(packet: nfnl.QueuedPacket) -> None:
        with pytest.raises(nfnl.LocalProtocolError, match="truncated"):
            packet.accept(repair=True)
        packet.accept()

    assert received(kernel, door, DATAGRAM, handle, copy_range=30).delivered


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def test_a_real_socket_gets_the_new_bytes_and_never_the_unrepaired(
    lab: LinuxLab, door: Driver, family: socket.AddressFamily, host: str
) -> None:
    queue_everything(lab, "INPUT")

    def handle(packet: nfnl.QueuedPacket, queue: object) -> None:
        packet.accept(packet.payload[:-5] + GREETING, repair=packet.id == 2)

    with (
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as server,
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as client,
    ):
        server.bind((host, 0))
        client.connect(server.getsockname())
        door(nfnl.LinuxKernel(lab._namespace), until(2, handle), meanwhile=lambda queue: [client.send(b"hello") for _ in range(2)])
        assert server.recv(100, socket.MSG_DONTWAIT) == GREETING
        with pytest.raises(BlockingIOError):
            server.recv(100, socket.MSG_DONTWAIT)


# --- answers --------------------------------------------------------------------------------------------------------------------


def rejected(kernel: Any, door: Driver, packet: bytes, with_: str | None, answered: bool = True) -> Journey:
    verdicts: list[bool] = []
    journey = received(kernel, door, packet, lambda packet: verdicts.append(packet.reject(with_)))
    assert journey.dropped
    assert verdicts == [answered]
    return journey


def without_id(packet: bytes) -> bytes:
    """An IPv4 packet with id 0; another as it is."""
    return repair(packet[:4] + bytes(2) + packet[6:]) if packet[0] >> 4 == 4 else packet


def test_a_syn_is_reset(kernel: Any, door: Driver) -> None:
    rejected(kernel, door, SYN, "tcp-reset")
    rejected(kernel, door, SYN_V6, "tcp-reset")
    assert [sent.delivered for sent in kernel.sent] == [True, True]
    for sent, layer in zip(kernel.sent, (IP, IPv6), strict=True):
        answer = layer(sent.data)
        assert (answer[TCP].flags, answer[TCP].ack, answer[TCP].sport, answer[TCP].dport) == ("RA", 101, 9, 5)


def test_a_datagram_is_told_that_the_port_is_unreachable(kernel: Any, door: Driver) -> None:
    rejected(kernel, door, DATAGRAM, None)
    rejected(kernel, door, DATAGRAM_V6, None)
    assert [sent.delivered for sent in kernel.sent] == [True, True]
    first, second = IP(kernel.sent[0].data), IPv6(kernel.sent[1].data)
    assert (first[ICMP].type, first[ICMP].code, bytes(first[ICMP].payload)) == (3, 3, DATAGRAM)
    assert (second[ICMPv6DestUnreach].code, bytes(second[ICMPv6DestUnreach].payload)) == (4, DATAGRAM_V6)


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        (bytes(IP(**V4) / TCP(flags="R")), ""),
        (bytes(IP(**V4) / UDP(chksum=77)), ""),
        (bytes(IP(**V4) / ICMP(type=3, code=3) / DATAGRAM), ""),
        (bytes(IP(src="192.0.2.9", dst="10.0.0.1") / TCP()), "no route"),
        (SYN, "-A OUTPUT -p tcp -j DROP"),
    ],
    ids=["RST", "wrong checksum", "ICMP error", "no way back", "dropped on its way out"],
)
def test_no_answer_is_no_reason_to_stop(kernel: Any, door: Driver, packet: bytes, rule: str) -> None:
    if rule == "no route":
        kernel.add_route("192.0.2.0/24", None)
    elif rule:
        kernel.iptables(rule)
    rejected(kernel, door, packet, "tcp-reset" if TCP in IP(packet) else None, answered=False)
    assert not any(sent.delivered for sent in kernel.sent)


def test_an_answer_that_is_queued_itself_ends_there(kernel: Any, door: Driver) -> None:
    queue_everything(kernel, "OUTPUT")
    answered: list[bool] = []
    door(
        kernel,
        until(2, lambda packet, queue: answered.append(packet.reject("tcp-reset"))),
        meanwhile=lambda queue: kernel.receive(SYN),
    )
    assert answered == [True, False]
    assert [sent.dropped for sent in kernel.sent] == [True]


def test_what_cannot_be_rejected_so_still_waits(kernel: Any, door: Driver) -> None:
    def handle(packet: nfnl.QueuedPacket) -> None:
        with pytest.raises(ValueError, match="icmp-net-unreachable"):
            packet.reject("icmp6-no-route")
        assert not packet.decided
        packet.accept()
        with pytest.raises(nfnl.LocalProtocolError, match="has its verdict already"):
            packet.reject()

    assert received(kernel, door, DATAGRAM, handle).delivered
    assert not kernel.sent


def test_a_packet_that_was_not_copied_cannot_be_rejected(kernel: Any, door: Driver) -> None:
    def handle(packet: nfnl.QueuedPacket) -> None:
        with pytest.raises(nfnl.PacketError, match="no bytes"):
            packet.reject()
        packet.accept()

    assert received(kernel, door, DATAGRAM, handle, copy="meta").delivered


def test_a_packet_copied_in_part_is_answered(kernel: Any, door: Driver) -> None:
    journey = received(kernel, door, SYN, lambda packet: packet.reject("tcp-reset"), copy_range=40)
    assert journey.dropped
    long = bytes(IP(**V4, id=7) / TCP(sport=5, dport=9, flags="S", seq=100) / bytes(1000))
    assert received(kernel, door, long, lambda packet: packet.reject("tcp-reset"), copy_range=40).dropped
    assert [IP(sent.data)[TCP].ack for sent in kernel.sent] == [101, 1101]


def test_without_the_capability_the_packet_is_dropped_and_the_reason_told(kernel: Any, door: Driver) -> None:
    def handle(packet: nfnl.QueuedPacket) -> None:
        with pytest.raises(nfnl.NotPermitted, match=r"open a raw socket: EPERM.*CAP_NET_RAW"):
            packet.reject()

    with ExitStack() as cleanup:
        if isinstance(kernel, FakeKernel):
            cleanup.enter_context(kernel.process(capabilities={Capability.NET_ADMIN}))
            assert received(kernel, door, DATAGRAM, handle).dropped
            return
        journeys: list[Journey] = []
        cleanup.enter_context(LinuxUnderTest(kernel, cleanup).process(capabilities={Capability.NET_ADMIN}))
        door(
            nfnl.LinuxKernel(kernel._namespace),
            until(1, lambda packet, queue: handle(packet)),
            meanwhile=lambda queue: journeys.append(kernel.receive(DATAGRAM)),
        )
    assert journeys[0].dropped


@pytest.mark.parametrize(
    ("hook", "packet", "source"),
    [
        ("INPUT", DATAGRAM, "10.0.0.1"),
        ("INPUT", DATAGRAM_V6, "fd00::1"),
        ("FORWARD", bytes(IP(src="10.0.0.9", dst="192.0.2.1") / UDP()), "10.0.0.1"),
        ("FORWARD", bytes(IPv6(src="fd00::9", dst="2001:db8::1") / UDP()), "2001:db8::1"),
        ("OUTPUT", bytes(IP(src="10.0.0.1", dst="192.0.2.1") / UDP()), "10.0.0.1"),
        ("OUTPUT", bytes(IPv6(src="fd00::1", dst="2001:db8::1") / UDP()), "fd00::1"),
        ("PREROUTING", DATAGRAM, "10.0.0.1"),
    ],
)
def test_who_an_error_comes_from(kernel: Any, hook: str, packet: bytes, source: str) -> None:
    """This host, but for IPv6 packets that are forwarded."""
    for tool in (kernel.iptables, kernel.ip6tables):
        tool("-F INPUT")
        tool(f"-t mangle -A {hook} ! -p {'icmp' if tool == kernel.iptables else 'icmpv6'} -j NFQUEUE --queue-num 0")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        verb = {"FORWARD": kernel.forward, "OUTPUT": kernel.send}.get(hook, kernel.receive)
        journey = verb(packet)
        for queued in queue:
            assert queued.reject()
    assert journey.dropped
    (answer,) = kernel.sent
    assert answer.delivered
    assert (IP if packet[0] >> 4 == 4 else IPv6)(answer.data).src == source


@pytest.mark.parametrize("hook", ["INPUT", "FORWARD", "OUTPUT"])
@pytest.mark.parametrize("with_", ["tcp-reset", "port-unreach"])
@pytest.mark.parametrize("v4", [True, False], ids=["IPv4", "IPv6"])
def test_the_answer_is_the_one_of_the_target_reject(lab: LinuxLab, hook: str, with_: str, v4: bool) -> None:
    away, near, here = ("192.0.2.1", "10.0.0.9", "10.0.0.1") if v4 else ("2001:db8::1", "fd00::9", "fd00::1")
    src, dst = {"INPUT": (near, here), "FORWARD": (near, away), "OUTPUT": (here, away)}[hook]
    packet = bytes((IP(src=src, dst=dst, id=7) if v4 else IPv6(src=src, dst=dst)) / TCP(sport=5, dport=9, seq=100))
    verbs: dict[str, Callable[[bytes], Journey]] = {"INPUT": lab.receive, "FORWARD": lab.forward, "OUTPUT": lab.send}
    verb = verbs[hook]
    tool = lab.iptables if v4 else lab.ip6tables
    tool(f"-A {hook} -p tcp --dport 9 -j REJECT --reject-with {with_}")
    (by_linux,) = verb(packet).answers
    tool(f"-R {hook} 1 -p tcp --dport 9 -j NFQUEUE --queue-num 0")
    with nfnl.open_queue(0, kernel=lab) as queue, lab.until_idle():
        verb(packet)
        for queued in queue:
            assert queued.reject(with_)
    (ours,) = lab.sent
    assert ours.delivered == by_linux.delivered
    expected, got = without_id(by_linux.data), without_id(ours.data)
    if not v4 and hook == "FORWARD" and with_ == "port-unreach":  # the known difference
        expected = repair(expected[:8] + packet[24:40] + expected[24:])
    assert got == expected


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("with_", ["tcp-reset", None])
def test_a_real_connection_is_refused_though_somebody_listens(
    lab: LinuxLab, door: Driver, family: socket.AddressFamily, host: str, with_: str | None
) -> None:
    with (
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_STREAM)) as server,
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_STREAM)) as client,
    ):
        server.bind((host, 0))
        server.listen()
        client.setblocking(False)
        for tool in (lab.iptables, lab.ip6tables):
            tool(f"-A INPUT -p tcp --dport {server.getsockname()[1]} -j NFQUEUE --queue-num 0")
        door(
            nfnl.LinuxKernel(lab._namespace),
            until(1, lambda packet, queue: packet.reject(with_)),
            meanwhile=lambda queue: client.connect_ex(server.getsockname()),
        )
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def test_a_real_datagram_is_refused(lab: LinuxLab, door: Driver, family: socket.AddressFamily, host: str) -> None:
    lab.iptables("-A INPUT -p udp -j NFQUEUE --queue-num 0")
    lab.ip6tables("-A INPUT -p udp -j NFQUEUE --queue-num 0")
    with (
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as server,
        lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as client,
    ):
        server.bind((host, 0))
        client.connect(server.getsockname())
        door(
            nfnl.LinuxKernel(lab._namespace),
            until(1, lambda packet, queue: packet.reject()),
            meanwhile=lambda queue: client.send(b"hello"),
        )
        with pytest.raises(ConnectionRefusedError):
            client.send(b"hello")


# --- the seam -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "number"),
    [
        (b"", errno.EINVAL),
        (b"\x45" + bytes(18), errno.EINVAL),
        (bytes(IP(src="10.0.0.1", dst="192.0.2.1")), errno.EHOSTUNREACH),
        (bytes(IP(src="10.0.0.1", dst="10.0.0.9") / UDP() / bytes(1500)), errno.EMSGSIZE),
        (bytes(IPv6(src="fd00::1", dst="fd00::9") / UDP() / bytes(1500)), errno.EMSGSIZE),
        (bytes(IP(src="10.0.0.1", dst="10.0.0.9") / TCP()), errno.EPERM),
    ],
    ids=["nothing", "cut off", "unreachable", "too long", "too long, IPv6", "dropped by a rule"],
)
@pytest.mark.parametrize("bare", [False, True], ids=["", "without the lab"])
def test_what_cannot_be_sent_is_told(kernel: Any, packet: bytes, number: int, bare: bool) -> None:
    kernel.add_route("192.0.2.0/24", None)
    kernel.iptables("-A OUTPUT -p tcp -j DROP")
    sender = nfnl.LinuxKernel(kernel._namespace) if bare and isinstance(kernel, LinuxLab) else kernel
    with pytest.raises(OSError) as error:  # noqa: PT011
        sender.send_raw(packet)
    assert error.value.errno == number
    assert not isinstance(error.value, nfnl.NotPermitted)


def test_raw_sockets_are_opened_once_and_closed_with_their_kernel(lab: LinuxLab) -> None:
    kernel = nfnl.LinuxKernel(lab._namespace)
    for _ in range(2):
        for packet in (IP(src="10.0.0.1", dst="10.0.0.9") / UDP(), IPv6(src="fd00::1", dst="fd00::9") / UDP()):
            kernel.send_raw(bytes(packet))
    sockets = list(kernel._raw.values())
    assert len(sockets) == 2
    assert struct.unpack("i", sockets[1].getsockopt(socket.IPPROTO_IPV6, 36, 4)) == (1,)  # IPV6_HDRINCL
    del kernel
    gc.collect()
    assert [sock.fileno() for sock in sockets] == [-1, -1]


def test_a_broadcast_may_be_sent(lab: LinuxLab) -> None:
    nfnl.LinuxKernel(lab._namespace).send_raw(bytes(IP(src="10.0.0.1", dst="10.0.0.255") / UDP()))


def test_what_was_sent_goes_back_with_a_snapshot(fake: FakeKernel) -> None:
    fake.send_raw(bytes(IP(src="10.0.0.1", dst="10.0.0.9") / UDP()))
    (first,) = fake.sent
    before = fake.snapshot()
    fake.send_raw(bytes(IP(src="10.0.0.1", dst="10.0.0.9") / UDP()))
    assert len(fake.sent) == 2
    before.restore()
    assert list(fake.sent) == [first]


def test_a_traced_kernel_sends_too(fake: FakeKernel) -> None:
    TraceKernel(fake, print).send_raw(bytes(IP(src="10.0.0.1", dst="10.0.0.9") / UDP()))
    assert len(fake.sent) == 1
