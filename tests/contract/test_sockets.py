"""AF_NETLINK sockets: how they come to be, and what they are called."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import termios
import threading
from errno import EADDRINUSE, EINVAL, ENOTTY, EOPNOTSUPP, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT

import pytest

from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import only, rule
from tests.contract.wirekit import KERNEL, Client, bind, noop, nothing_to_receive, queues, refused

#: a range no process id lies in: where ports are drawn from when the favourite is taken
DRAWN = range(0x80000000, 0xFFFFF000)

# ------------------------------------------------------------------------------------------------------------------- creation


@rule("NL-1")
@pytest.mark.parametrize("kind", [socket.SOCK_RAW, socket.SOCK_DGRAM], ids=["RAW", "DGRAM"])
def test_raw_and_datagram_sockets_behave_alike(kernel: KernelUnderTest, kind: int) -> None:
    sock = kernel.socket(kind)
    sock.sendto(noop() + noop(), KERNEL)
    assert [len(sock.recv(100, socket.MSG_DONTWAIT)) for _ in range(2)] == [36, 36]


@rule("NL-2")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["STREAM", "SEQPACKET"])
def test_other_types_of_socket_do_not_exist(kernel: KernelUnderTest, kind: int) -> None:
    with refused(ESOCKTNOSUPPORT):
        kernel.socket(kind)


@rule("NL-3")
@pytest.mark.parametrize("protocol", [3, 32, 1000])
def test_a_protocol_that_nobody_registered(kernel: KernelUnderTest, protocol: int) -> None:
    with refused(EPROTONOSUPPORT):
        kernel.socket(socket.SOCK_RAW, protocol)


@rule("NL-19")
@pytest.mark.parametrize("kind", [socket.SOCK_RAW, socket.SOCK_DGRAM], ids=["RAW", "DGRAM"])
def test_a_socket_knows_what_it_is(kernel: KernelUnderTest, kind: int) -> None:
    sock = kernel.socket(kind)
    so_type, so_protocol, so_domain = 3, 38, 39
    assert [sock.getsockopt(socket.SOL_SOCKET, option) for option in (so_type, so_protocol, so_domain)] == [kind, 12, 16]


@rule("NL-16")
def test_there_is_nothing_to_listen_for_accept_or_shut_down(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    with refused(EOPNOTSUPP):
        sock.listen(1)
    with refused(EOPNOTSUPP):
        sock.accept()
    with refused(EOPNOTSUPP):
        sock.shutdown(socket.SHUT_RDWR)


@rule("NL-17")
@only("linux", "the fake's sockets have no descriptor")
def test_nobody_tells_how_much_is_there_to_read(kernel: KernelUnderTest) -> None:
    with refused(ENOTTY):
        fcntl.ioctl(kernel.socket().fileno(), termios.FIONREAD, b"\0" * 4)


# ------------------------------------------------------------------------------------------------------------------- port ids


@rule("NL-4")
def test_an_unbound_socket_has_no_name(kernel: KernelUnderTest) -> None:
    assert kernel.socket().getsockname() == (0, 0)


@rule("NL-5")
def test_sending_binds(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.sendto(noop(), KERNEL)
    assert sock.getsockname() == (kernel.process_id, 0)


@rule("NL-5", "NL-12")
def test_connecting_binds(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.connect(KERNEL)
    assert sock.getsockname() == (kernel.process_id, 0)


@rule("NL-5")
def test_binding_to_port_0_takes_the_process_id(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((0, 0))
    assert sock.getsockname() == (kernel.process_id, 0)


@rule("NL-5")
def test_the_second_socket_of_a_process_gets_a_number_no_process_has(kernel: KernelUnderTest) -> None:
    Client(kernel)
    others = {Client(kernel).port_id for _ in range(10)}
    assert len(others) == 10
    assert all(port in DRAWN for port in others)


@rule("NL-5")
def test_a_thread_binds_in_the_name_of_its_process(kernel: KernelUnderTest) -> None:
    ports = []
    thread = threading.Thread(target=lambda: ports.append(Client(kernel).port_id))
    thread.start()
    thread.join()
    assert ports == [kernel.process_id]


@rule("NL-6")
@only("linux", "the fake speaks one protocol")
def test_another_protocol_has_ports_of_its_own(kernel: KernelUnderTest) -> None:
    kernel.socket().bind((4711, 0))
    netlink_route = 0
    other = kernel.socket(socket.SOCK_RAW, netlink_route)
    other.bind((4711, 0))
    assert other.getsockname() == (4711, 0)


@rule("NL-6")
def test_another_namespace_has_ports_of_its_own(kernel: KernelUnderTest) -> None:
    kernel.socket().bind((4711, 0))
    other = kernel.another().socket()
    other.bind((4711, 0))
    assert other.getsockname() == (4711, 0)


@rule("NL-7")
def test_a_port_is_free_as_soon_as_its_socket_is_closed(kernel: KernelUnderTest) -> None:
    first = Client(kernel)
    first.socket.close()
    assert Client(kernel).port_id == kernel.process_id


@rule("NL-7")
def test_a_new_socket_hears_nothing_that_was_sent_to_an_old_one(kernel: KernelUnderTest) -> None:
    first = Client(kernel, port_id=4711)
    first.tell(noop())
    first.socket.close()
    second = Client(kernel, port_id=4711)
    assert (second.hear(), second.charged) == ([], 0)


@rule("NL-7")
def test_a_duplicate_keeps_the_port(kernel: KernelUnderTest) -> None:
    first = kernel.socket()
    first.bind((4711, 0))
    second = first.dup()
    kernel.cleanup.callback(second.close)
    first.close()
    assert second.getsockname() == (4711, 0)
    with refused(EADDRINUSE):
        kernel.socket().bind((4711, 0))
    second.close()
    kernel.socket().bind((4711, 0))


@rule("NL-7")
@only("linux", "the fake has one process")
def test_a_child_shares_the_port(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writable, struct.pack("I", client.port_id))
        os._exit(0)
    os.waitpid(child, 0)
    told = struct.unpack("I", os.read(readable, 4))
    os.close(readable)
    os.close(writable)
    assert told == (kernel.process_id,)


@rule("NL-8")
def test_a_port_belongs_to_one_socket(kernel: KernelUnderTest) -> None:
    kernel.socket().bind((4711, 0))
    with refused(EADDRINUSE):
        kernel.socket().bind((4711, 0))


@rule("NL-8")
def test_a_port_given_by_the_kernel_is_in_use_too(kernel: KernelUnderTest) -> None:
    taken = Client(kernel).port_id
    with refused(EADDRINUSE):
        kernel.socket().bind((taken, 0))


@rule("NL-9")
def test_binding_again_to_the_same_port_is_allowed(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0))
    sock.bind((4711, 0))
    assert sock.getsockname() == (4711, 0)


@rule("NL-9")
@pytest.mark.parametrize("port", [0, 4712])
def test_a_bound_socket_cannot_move(kernel: KernelUnderTest, port: int) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0))
    with refused(EINVAL):
        sock.bind((port, 0))
    assert sock.getsockname() == (4711, 0)


@rule("NL-9")
def test_binding_again_replaces_the_groups(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0b111))
    sock.bind((4711, 0b100))
    assert sock.getsockname() == (4711, 0b100)


@rule("NL-9")
def test_binding_again_without_groups_leaves_them_all(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.bind((4711, 0b111))
    sock.bind((4711, 0))
    assert sock.getsockname() == (4711, 0)


@rule("NL-8")
def test_a_refused_bind_leaves_a_name_but_no_port(kernel: KernelUnderTest) -> None:
    owner, sock = Client(kernel, port_id=4711), kernel.socket()
    with refused(EADDRINUSE):
        sock.bind((4711, 0b11))
    assert sock.getsockname() == (4711, 0), "what was asked for, which means nothing"
    Client(kernel, port_id=4712).socket.sendto(b"x", (4711, 0))
    assert owner.hear() == [b"x"]
    sock.bind((4713, 0))
    assert sock.getsockname() == (4713, 0)


@rule("NL-10")
@only("linux", "the fake is called with Python's addresses, which cannot be malformed")
@pytest.mark.parametrize(
    ("family", "length", "number"),
    [(16, 11, EINVAL), (16, 12, 0), (16, 16, 0), (2, 12, EINVAL)],
    ids=["11 bytes", "12 bytes", "16 bytes", "family"],
)
def test_what_counts_as_an_address(kernel: KernelUnderTest, family: int, length: int, number: int) -> None:
    address = struct.pack("=HHII4x", family, 0, 4711, 0)[:length]
    assert _libc("bind", kernel.socket().fileno(), address) == number


@rule("NL-11")
@pytest.mark.parametrize("port", [1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_any_port_may_be_asked_for(kernel: KernelUnderTest, port: int) -> None:
    sock = kernel.socket()
    sock.bind((port, 0))
    assert sock.getsockname() == (port, 0)


# -------------------------------------------------------------------------------------------------------------------- connect


@rule("NL-12")
def test_before_connect_the_peer_is_nobody(kernel: KernelUnderTest) -> None:
    assert kernel.socket().getpeername() == (0, 0)


@rule("NL-12")
@pytest.mark.parametrize(("groups", "kept"), [(0, 0), (0b100, 0b100), (0b1100, 0b100)])
def test_connect_remembers_a_port_and_the_lowest_group(kernel: KernelUnderTest, groups: int, kept: int) -> None:
    sock = kernel.socket()
    sock.connect((4711, groups))
    assert sock.getpeername() == (4711, kept)


@rule("NL-13")
@pytest.mark.parametrize("address", [(4711, 0), (0, 1)], ids=["port", "group"])
def test_connecting_to_anything_but_the_kernel_needs_a_capability(kernel: KernelUnderTest, address: tuple[int, int]) -> None:
    with kernel.process():
        sock = kernel.socket()
        with refused(EPERM):
            sock.connect(address)


@rule("NL-14")
@only("linux", "the fake is called with Python's addresses, which cannot be malformed")
def test_connecting_to_no_family_disconnects(kernel: KernelUnderTest) -> None:
    sock = kernel.socket()
    sock.connect((4711, 1))
    assert _libc("connect", sock.fileno(), struct.pack("=H", socket.AF_UNSPEC)) == 0
    assert sock.getpeername() == (0, 0)


@rule("NL-14")
@only("linux", "the fake is called with Python's addresses, which cannot be malformed")
@pytest.mark.parametrize(("family", "length"), [(2, 12), (16, 1), (16, 11)], ids=["family", "1", "11"])
def test_connect_wants_an_address(kernel: KernelUnderTest, family: int, length: int) -> None:
    address = struct.pack("=HHII", family, 0, 0, 0)[:length]
    assert _libc("connect", kernel.socket().fileno(), address) == EINVAL


@rule("NL-15")
def test_a_socket_connected_elsewhere_hears_nothing_from_the_kernel(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    client.socket.connect((4711, 0))
    client.tell(noop())
    assert nothing_to_receive(client)


@rule("NL-15")
def test_a_socket_connected_elsewhere_still_hears_its_groups(kernel: KernelUnderTest) -> None:
    client = Client(kernel, groups=0b10)
    client.socket.connect((4711, 0))
    Client(kernel).socket.sendto(b"x", (0, 0b10))
    assert client.hear() == [b"x"]


@rule("NL-15")
def test_a_connected_socket_hears_its_peer_alone(kernel: KernelUnderTest) -> None:
    peer, stranger = Client(kernel, port_id=4711), Client(kernel, port_id=4712)
    client = Client(kernel)
    client.socket.connect((4711, 0))
    peer.socket.sendto(b"peer", (client.port_id, 0))
    with pytest.raises(ConnectionRefusedError):
        stranger.socket.sendto(b"stranger", (client.port_id, 0))
    assert client.hear() == [b"peer"]


# ------------------------------------------------------------------------------------------------------------------ namespace


@rule("NL-18")
def test_a_socket_stays_in_the_namespace_it_was_opened_in(kernel: KernelUnderTest) -> None:
    # opened by a thread that is in the namespace, used by one that is not
    other = kernel.another()
    assert Client(kernel).answers(bind(7)) == ["ACK"]
    assert queues(kernel) == [7]
    assert queues(other) == []


def _libc(call: str, descriptor: int, address: bytes) -> int:
    """The errno of bind(2) or connect(2) with these bytes for an address."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if getattr(libc, call)(descriptor, address, len(address)) == 0 else ctypes.get_errno()
