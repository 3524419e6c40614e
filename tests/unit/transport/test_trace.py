"""What crosses the seam, in readable lines; over either kernel, and the same over both."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import nfnl
from nfnl.sim import FakeKernel
from nfnl.subsys.queue import Config
from nfnl.testing.lab import LinuxLab
from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.trace import TraceKernel, TraceTransport
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.datagram import Datagram, JoinGroup
from nfnl.wire.header import NATIVE
from tests import probes

NOOP = NATIVE.header.pack(16, 1, NlmsgFlag.REQUEST | NlmsgFlag.ACK, 7, 0)


@pytest.fixture(params=["fake", "linux"])
def any_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    if request.param == "linux":
        probes.require("lab-available")
    with FakeKernel() if request.param == "fake" else LinuxLab() as kernel:
        yield kernel


def told(lines: list[str]) -> list[str]:
    """The lines without times and ports, which differ between kernels."""
    return [re.sub(r"^\d+\.\d{6} \d+ ", "", line) for line in lines]


def test_a_session_reads_the_same_on_both_kernels(any_kernel: Kernel) -> None:
    lines: list[str] = []
    traced = TraceKernel(any_kernel, lines.append)
    with nfnl.open_queue(1, kernel=traced) as queue:
        queue.configure(flags=nfnl.QueueFlag.GSO)
        with pytest.raises(nfnl.NotPermitted):
            nfnl.open_queue(1, kernel=traced, receive_buffer=100_000)
    assert told(lines) == [
        "-- open, options as usual",
        "-> Config queue 1 BIND, PACKET 65531 seq 1",
        "<- Ack of Config seq 1",
        "-> Config queue 1 mask GSO, flags GSO seq 2",
        "<- Ack of Config seq 2",
        "-- open, receive_buffer=100000",
        "-> Config queue 1 BIND, PACKET 65531 seq 1",
        "<- Error EPERM of Config seq 1",
        "-- close",
        "-- close",
    ]


def test_a_line_begins_with_the_kernels_time_and_the_sockets_port() -> None:
    lines: list[str] = []
    kernel = FakeKernel(pid=77)
    transport = TraceKernel(kernel, lines.append).open()
    kernel.advance(1.5)
    transport.send(NOOP)
    assert lines[-1] == "1.500000 77 -> NLMSG_NOOP seq 7"


def test_an_overrun_is_told_and_still_raised(any_kernel: Kernel) -> None:
    lines: list[str] = []
    transport = TraceKernel(any_kernel, lines.append).open(SocketOptions(receive_buffer=0))
    for _ in range(10):
        transport.send(NOOP)
    with pytest.raises(nfnl.OverrunError):
        transport.receive()
    assert told(lines)[-1].startswith("<- OverrunError: ")


def test_socket_requests_are_told(any_kernel: Kernel) -> None:
    lines: list[str] = []
    transport = TraceKernel(any_kernel, lines.append).open()
    transport.apply(JoinGroup(1))
    with pytest.raises(OSError, match=r".*"):
        transport.apply(JoinGroup(33))
    assert told(lines)[1:] == ["-- JoinGroup(group=1)", "-- JoinGroup(group=33)", "-- failed: EINVAL"]


def test_what_is_closed_says_so(any_kernel: Kernel) -> None:
    lines: list[str] = []
    transport = TraceKernel(any_kernel, lines.append).open()
    transport.close()
    transport.close()
    with pytest.raises(nfnl.TransportClosed):
        transport.receive()
    assert told(lines)[1] == "-- close"


def test_several_messages_in_a_datagram_have_a_line_each() -> None:
    lines: list[str] = []
    transport = TraceKernel(FakeKernel(), lines.append).open()
    request = bytes(Config(res_id=3, nlmsg_flags=NlmsgFlag.REQUEST, queue_maxlen=1))
    transport.send(request + request[:15] + b"\0")
    transport.send(request + request)
    broken = (
        f"nlmsghdr at byte 28: nlmsg_len is 28, but must be from 16 to the 16 bytes left [{(request[:15] + bytes(1)).hex(' ')}]"
    )
    assert told(lines)[1:] == [
        "-> Config queue 3 queue_maxlen 1",
        f"-> broken framing: {broken}",
        "-> Config queue 3 queue_maxlen 1",
        "-> Config queue 3 queue_maxlen 1",
    ]


class Hands:
    """A transport that hands out what it is given."""

    port_id = 5

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams = list(datagrams)

    def receive(self) -> list[bytes]:
        return self.datagrams

    def now(self) -> float:
        return 0.0


def test_facts_of_a_datagram_are_told() -> None:
    hands = Hands(Datagram.make(NOOP, sender=99, groups=4), Datagram.make(NOOP[:8], truncated=True))
    lines: list[str] = []
    transport: Transport = TraceTransport(hands, lines.append)  # type: ignore[arg-type]
    assert transport.receive() == hands.datagrams
    too_short = f"a datagram of 8 bytes holds no netlink header (16 bytes) [{NOOP[:8].hex(' ')}]"
    assert told(lines)[1:] == [
        "<- NLMSG_NOOP seq 7 [from port 99, groups 0x4]",
        f"<- broken framing: message at byte 0: {too_short} [truncated]",
    ]


def test_the_rest_of_the_seam_passes_through(any_kernel: Kernel) -> None:
    traced = TraceKernel(any_kernel, lambda line: None)
    assert traced.read_proc("netlink") == any_kernel.read_proc("netlink")
    assert traced.sysctl("net.core.rmem_default") == any_kernel.sysctl("net.core.rmem_default")
    transport = traced.open()
    transport.wake()
    assert transport.wait(None).name == "WOKEN"
    assert transport.receive_buffer > 0
    assert (transport.fileno() is None) == isinstance(any_kernel, FakeKernel)


def test_readiness_callbacks_pass_through() -> None:
    called: list[bool] = []
    transport = TraceKernel(FakeKernel(), lambda line: None).open()
    take_back = transport.on_readable(lambda: called.append(True))
    transport.send(NOOP)
    assert called
    take_back()
