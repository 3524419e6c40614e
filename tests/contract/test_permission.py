"""Who may talk to netfilter."""

from __future__ import annotations

import socket
import subprocess
import sys
from errno import EACCES, EPERM

import pytest

from nfnl.sim import Capability
from nfnl.wire.constants import SOL_NETLINK, NlmsgType, SocketOption, SubsystemId
from tests.contract.kernels import NOBODY, KernelUnderTest
from tests.contract.rules import only, rule
from tests.contract.wirekit import (
    KERNEL,
    SO_RCVBUFFORCE,
    Client,
    bind,
    message,
    nfgenmsg,
    nfnetlink,
    noop,
    numbers,
    queues,
    refused,
    word,
)

ALL_KINDS = {
    "command": bind(7),
    "command, no answer wanted": bind(7, flags=1),
    "NOOP": noop(),
    "NOOP, no flags": noop(flags=0),
    "subsystem that does not exist": nfnetlink(13, 0),
    "batch": message(NlmsgType.BATCH_BEGIN, nfgenmsg(SubsystemId.NFTABLES), flags=1),
}


@rule("PM-1")
@pytest.mark.parametrize("datagram", ALL_KINDS.values(), ids=ALL_KINDS)
def test_who_has_no_capability_is_refused_whatever_he_says(kernel: KernelUnderTest, datagram: bytes) -> None:
    with kernel.process():
        assert Client(kernel).answers(datagram) == ["EPERM"]
    assert queues(kernel) == []


@rule("PM-1")
def test_one_refusal_is_enough_for_a_whole_datagram(kernel: KernelUnderTest) -> None:
    with kernel.process():
        assert numbers(Client(kernel).ask(noop(seq=5) + noop(seq=6) + noop(seq=7))) == [5]


@rule("PM-1")
def test_the_refusal_looks_like_any_other(kernel: KernelUnderTest) -> None:
    with kernel.process():
        client = Client(kernel).option(SocketOption.EXT_ACK)
        refusal = client.ack(bind(7))
        assert refusal.request == bind(7)
        assert refusal.extended is None
        client.option(SocketOption.CAP_ACK)
        assert client.ack(bind(7)).capped


@rule("PM-2")
@pytest.mark.parametrize(
    "datagram",
    [b"x" * 10, message(NlmsgType.NOOP, length=99), message(NlmsgType.NOOP, length=15)],
    ids=["10 bytes", "long", "short"],
)
def test_who_cannot_be_understood_is_not_refused(kernel: KernelUnderTest, datagram: bytes) -> None:
    with kernel.process():
        assert Client(kernel).answers(datagram) == []


@rule("PM-3")
def test_a_socket_opened_without_capability_works_when_an_address_is_named(kernel: KernelUnderTest) -> None:
    with kernel.process():
        sock = kernel.socket()
    sock.sendto(bind(7), KERNEL)
    assert word(sock.recv(1000, socket.MSG_DONTWAIT)) == "ACK"


@rule("PM-3")
def test_a_socket_opened_without_capability_does_not_work_without_address(kernel: KernelUnderTest) -> None:
    with kernel.process():
        sock = kernel.socket()
    sock.send(bind(7))
    assert word(sock.recv(1000, socket.MSG_DONTWAIT)) == "EPERM"


@rule("PM-3")
def test_joining_does_not_ask_who_opened_the_socket(kernel: KernelUnderTest) -> None:
    with kernel.process():
        sock = kernel.socket()
    sock.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, 1)
    assert sock.getsockname() == (0, 1)


@rule("PM-4")
def test_a_socket_opened_with_capability_does_not_lend_it(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with kernel.process():
        sock.sendto(bind(7), KERNEL)
        sock.send(bind(7))
    assert [word(sock.recv(1000, socket.MSG_DONTWAIT)) for _ in range(2)] == ["EPERM", "EPERM"]


@rule("PM-5")
def test_the_capability_is_enough_for_anybody(kernel: KernelUnderTest) -> None:
    kernel.require("initial-user-namespace")
    with kernel.process(uid=NOBODY, capabilities={Capability.NET_ADMIN}):
        client = Client(kernel)
        assert client.answers(bind(7)) == ["ACK"]
        client.option(SocketOption.ADD_MEMBERSHIP, 1)
        client.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)


@rule("PM-5")
def test_root_without_the_capability_is_anybody(kernel: KernelUnderTest) -> None:
    with kernel.process(uid=0, capabilities={Capability.NET_BROADCAST}):
        assert Client(kernel).answers(bind(7)) == ["EPERM"]


@rule("PM-8")
def test_what_everybody_may_do(kernel: KernelUnderTest) -> None:
    with kernel.process():
        sock = kernel.socket()
        sock.bind((4711, 0))
        sock.connect(KERNEL)
        for option in (SocketOption.PKTINFO, SocketOption.NO_ENOBUFS, SocketOption.CAP_ACK, SocketOption.EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 131072
        assert kernel.read_proc("netlink")


@rule("PM-9")
def test_the_list_of_queues_is_for_root(kernel: KernelUnderTest) -> None:
    kernel.require("initial-user-namespace")
    with kernel.process(uid=NOBODY), refused(EACCES):
        kernel.read_proc("netfilter/nfnetlink_queue")
    assert kernel.read_proc("netfilter/nfnetlink_queue") == ""


@rule("PM-9")
@only("linux", "the fake has one user namespace")
@pytest.mark.parametrize(
    ("unshare", "readable"),
    [
        (["unshare", "--user", "--map-root-user", "unshare", "--net"], True),
        (["unshare", "--user", "--map-root-user", "--net"], False),
    ],
    ids=["root existed first", "root was made later"],
)
def test_root_of_a_user_namespace_must_be_older_than_its_network(
    kernel: KernelUnderTest, unshare: list[str], readable: bool
) -> None:
    kernel.require("initial-user-namespace")
    kernel.require("user-namespaces")
    program = [*unshare, "cat", "/proc/self/net/netfilter/nfnetlink_queue"]
    done = subprocess.run(program, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
    assert (done.returncode == 0) is readable, done.stderr


#: No module of ours: Python is slow enough to start in a guest.
IN_A_USER_NAMESPACE = f"""
import socket, sys
def errno(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.sendto(bytes.fromhex("{bind(7).hex()}"), (0, 0))
answer = -int.from_bytes(sock.recv(1000)[16:20], sys.byteorder, signed=True)
print(answer, errno(sock.setsockopt, 270, 1, 1), errno(sock.setsockopt, 1, 33, 1 << 20))
"""


def outcome(*namespaces: str) -> str:
    """What a command, joining a group and SO_RCVBUFFORCE come to for root of a new user namespace with other new namespaces."""
    program = ["unshare", "--user", "--map-root-user", *namespaces, sys.executable, "-c", IN_A_USER_NAMESPACE]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


@rule("PM-6")
@only("linux", "the fake has one user namespace")
def test_root_of_a_user_namespace_with_a_network_namespace_of_its_own(kernel: KernelUnderTest) -> None:
    kernel.require("user-namespaces")
    assert outcome("--net") == f"0 0 {EPERM}"


@rule("PM-7")
@only("linux", "the fake has one user namespace")
def test_root_of_a_user_namespace_in_a_foreign_network_namespace(kernel: KernelUnderTest) -> None:
    kernel.require("user-namespaces")
    assert outcome() == f"{EPERM} {EPERM} {EPERM}"
