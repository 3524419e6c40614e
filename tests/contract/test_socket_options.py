"""Options at level SOL_NETLINK."""

from __future__ import annotations

import socket
import struct
from errno import EINVAL, ENOPROTOOPT, EPERM

import pytest

from nfnl.sim import Capability
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import ACK, REQUEST, Client, attribute, bind, noop, queue_config, refused

BOOLEANS = [
    SocketOption.PKTINFO,
    SocketOption.BROADCAST_ERROR,
    SocketOption.NO_ENOBUFS,
    SocketOption.CAP_ACK,
    SocketOption.EXT_ACK,
    SocketOption.GET_STRICT_CHK,
]
boolean = pytest.mark.parametrize("option", BOOLEANS, ids=lambda option: str(option.name))


@rule("NL-30")
@boolean
def test_a_boolean_is_off_at_first(kernel: KernelUnderTest, option: int) -> None:
    assert kernel.socket().getsockopt(SOL_NETLINK, option) == 0


@rule("NL-30")
@boolean
def test_any_number_but_0_sets_a_boolean(kernel: KernelUnderTest, option: int) -> None:
    sock = kernel.socket()
    for value in (77, -1, 1 << 16):
        sock.setsockopt(SOL_NETLINK, option, 0)
        sock.setsockopt(SOL_NETLINK, option, value)
        assert sock.getsockopt(SOL_NETLINK, option) == 1


@rule("NL-30")
@boolean
def test_a_value_shorter_than_a_number_clears_a_boolean(kernel: KernelUnderTest, option: int) -> None:
    sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, option, 1)
    sock.setsockopt(SOL_NETLINK, option, b"\1\0\1")
    assert sock.getsockopt(SOL_NETLINK, option) == 0


@rule("NL-31")
@boolean
def test_a_boolean_is_read_as_four_bytes(kernel: KernelUnderTest, option: int) -> None:
    sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, option, 1)
    assert sock.getsockopt(SOL_NETLINK, option, 8) == struct.pack("=I", 1)
    with refused(EINVAL):
        sock.getsockopt(SOL_NETLINK, option, 3)


@rule("NL-32")
@pytest.mark.parametrize("option", [6, 7, 13, 99], ids=["RX_RING", "TX_RING", "13", "99"])
def test_an_option_that_does_not_exist_cannot_be_set(kernel: KernelUnderTest, option: int) -> None:
    with refused(ENOPROTOOPT):
        kernel.socket().setsockopt(SOL_NETLINK, option, 1)


@rule("NL-32")
@pytest.mark.parametrize("option", [SocketOption.ADD_MEMBERSHIP, SocketOption.DROP_MEMBERSHIP, 6, 99])
def test_an_option_that_does_not_exist_cannot_be_read(kernel: KernelUnderTest, option: int) -> None:
    with refused(ENOPROTOOPT):
        kernel.socket().getsockopt(SOL_NETLINK, option)


@rule("NL-32")
def test_the_level_of_another_protocol_means_nothing(kernel: KernelUnderTest) -> None:
    with refused(ENOPROTOOPT):
        kernel.socket().setsockopt(SOL_NETLINK + 1, SocketOption.EXT_ACK, 1)


@rule("NL-33")
def test_hearing_other_namespaces_needs_a_capability_of_its_own(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with kernel.process(capabilities={Capability.NET_ADMIN}), refused(EPERM):
        sock.setsockopt(SOL_NETLINK, SocketOption.LISTEN_ALL_NSID, 1)
    with kernel.process(capabilities={Capability.NET_BROADCAST}):
        sock.setsockopt(SOL_NETLINK, SocketOption.LISTEN_ALL_NSID, 1)


@rule("NL-34")
def test_strict_checking_changes_nothing_here(kernel: KernelUnderTest) -> None:
    client = Client(kernel).option(SocketOption.GET_STRICT_CHK)
    assert client.answers(bind(1)) == ["ACK"]
    assert client.answers(queue_config(attribute(99, b"unknown") + b"left", queue=1)) == ["ACK"]


@rule("NL-35")
def test_who_multicasts_from_user_space_never_learns_of_a_full_member(kernel: KernelUnderTest) -> None:
    member = Client(kernel, groups=0b10).option(SocketOption.BROADCAST_ERROR)
    member.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    speaker = Client(kernel)
    for _ in range(10):
        assert speaker.socket.sendto(noop(flags=0), (0, 0b10)) == 16
    assert member.drops > 0


@rule("NL-36")
def test_without_the_option_an_overrun_is_an_error(kernel: KernelUnderTest) -> None:
    for option, raises in ((0, True), (1, False)):
        client = Client(kernel).option(SocketOption.NO_ENOBUFS, option)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        for seq in range(10):
            client.tell(noop(flags=REQUEST | ACK, seq=seq))
        assert bool(client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) is raises
