"""Multicast groups of NETLINK_NETFILTER: joining, leaving, telling."""

from __future__ import annotations

import socket
import struct
from errno import EINVAL, EPERM

import pytest

from nfnl.wire.constants import SOL_NETLINK, SocketOption
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import Client, noop, refused

JOIN, LEAVE = SocketOption.ADD_MEMBERSHIP, SocketOption.DROP_MEMBERSHIP


@rule("NL-20", "NL-21")
@pytest.mark.parametrize("group", [1, 9, 10, 31, 32])
def test_there_are_32_groups_whether_used_or_not(kernel: KernelUnderTest, group: int) -> None:
    sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, JOIN, group)
    assert sock.getsockname() == (0, 1 << group - 1)


@rule("NL-20", "NL-21")
@pytest.mark.parametrize("option", [JOIN, LEAVE])
@pytest.mark.parametrize("group", [0, 33, 0xFFFFFFFF])
def test_there_are_no_others(kernel: KernelUnderTest, group: int, option: int) -> None:
    with refused(EINVAL):
        kernel.socket().setsockopt(SOL_NETLINK, option, struct.pack("=I", group))


@rule("NL-22")
def test_a_group_never_joined_can_be_left(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, LEAVE, 5)
    assert sock.getsockname() == (0, 0)


@rule("NL-23")
def test_joining_does_not_bind(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, JOIN, 3)
    assert sock.getsockname() == (0, 0b100)


@rule("NL-24")
def test_binding_with_groups_joins_them(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0b101))
    assert sock.getsockname() == (4711, 0b101)


@rule("NL-24")
def test_groups_are_told_however_they_were_joined(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0b100))
    sock.setsockopt(SOL_NETLINK, JOIN, 9)
    assert sock.getsockname() == (4711, 1 << 8 | 0b100)
    sock.setsockopt(SOL_NETLINK, LEAVE, 3)
    assert sock.getsockname() == (4711, 1 << 8)


@rule("NL-25")
def test_memberships_are_listed_in_whole_words(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    assert sock.getsockopt(SOL_NETLINK, SocketOption.LIST_MEMBERSHIPS, 8) == b""
    sock.setsockopt(SOL_NETLINK, JOIN, 3)
    assert sock.getsockopt(SOL_NETLINK, SocketOption.LIST_MEMBERSHIPS, 8) == struct.pack("=I", 0b100)
    sock.setsockopt(SOL_NETLINK, LEAVE, 3)
    assert sock.getsockopt(SOL_NETLINK, SocketOption.LIST_MEMBERSHIPS, 8) == struct.pack("=I", 0)


@rule("NL-21")
@pytest.mark.parametrize("value", [b"", b"\1", b"\1\0\0"])
def test_less_than_a_number_is_group_0(kernel: KernelUnderTest, value: bytes) -> None:
    with refused(EINVAL):
        kernel.socket().setsockopt(SOL_NETLINK, JOIN, value)


@rule("NL-23")
def test_a_member_without_a_port_is_passed_over(kernel: KernelUnderTest) -> None:
    # whoever multicasts names a port that is to be left out; 0, if none, is also the port of those who have none
    member = Client(kernel, bind=False).option(JOIN, 2)
    speaker = Client(kernel)
    speaker.socket.sendto(b"unbound", (0, 0b10))
    member.socket.bind((0, 0b10))
    speaker.socket.sendto(b"bound", (0, 0b10))
    assert member.hear() == [b"bound"]


@rule("NL-24")
def test_a_member_hears_what_is_sent_to_the_group(kernel: KernelUnderTest) -> None:
    speaker, member, left = Client(kernel), Client(kernel), Client(kernel, groups=0b10)
    member.option(JOIN, 2)
    left.option(LEAVE, 2)
    speaker.socket.sendto(noop(flags=0), (0, 0b10))
    assert member.hear() == [noop(flags=0)]
    assert left.hear() == []


@rule("NL-26")
@pytest.mark.parametrize("option", [JOIN, LEAVE])
def test_joining_and_leaving_need_a_capability(kernel: KernelUnderTest, option: int) -> None:
    with kernel.process():
        sock = kernel.socket()
        with refused(EPERM):
            sock.setsockopt(SOL_NETLINK, option, 1)


@rule("NL-26")
def test_binding_with_groups_needs_a_capability(kernel: KernelUnderTest) -> None:
    with kernel.process():
        sock = kernel.socket()
        with refused(EPERM):
            sock.bind((0, 1))
        assert sock.getsockname() == (0, 0)


@rule("NL-26")
@pytest.mark.parametrize("address", [(4711, 0), (0, 1)], ids=["port", "group"])
def test_sending_to_others_needs_a_capability(kernel: KernelUnderTest, address: tuple[int, int]) -> None:
    Client(kernel, port_id=4711)
    with kernel.process():
        sock = kernel.socket()
        with refused(EPERM):
            sock.sendto(b"x", address)


@rule("NL-26")
def test_an_address_that_connect_remembers_is_not_asked_about_again(kernel: KernelUnderTest) -> None:
    sock, other = kernel.socket(), Client(kernel)
    sock.connect((other.port_id, 0))
    with kernel.process():
        sock.send(b"x")
    assert other.hear() == [b"x"]


@rule("NL-26")
def test_the_capability_is_that_of_the_moment(kernel: KernelUnderTest) -> None:
    sock = kernel.socket(socket.SOCK_RAW)
    with kernel.process(), refused(EPERM):
        sock.setsockopt(SOL_NETLINK, JOIN, 1)
    sock.setsockopt(SOL_NETLINK, JOIN, 1)
    assert sock.getsockname() == (0, 1)
