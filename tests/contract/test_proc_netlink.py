"""/proc/net/netlink: every socket, for everybody to see."""

from __future__ import annotations

from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import Client, noop, overrun

HEADER = ["sk", "Eth", "Pid", "Groups", "Rmem", "Wmem", "Dump", "Locks", "Drops", "Inode"]


def rows(kernel: KernelUnderTest, port: int) -> list[dict[str, str]]:
    """The sockets of NETLINK_NETFILTER with this port."""
    header, *lines = kernel.read_proc("netlink").splitlines()
    assert header.split() == HEADER
    table = [dict(zip(HEADER, line.split(), strict=True)) for line in lines]
    return [row for row in table if (row["Eth"], row["Pid"]) == ("12", str(port))]


@rule("PN-1")
def test_a_bound_socket_has_a_line(kernel: KernelUnderTest) -> None:
    client = Client(kernel, port_id=4711)
    assert len(rows(kernel, 4711)) == 1
    client.socket.close()
    assert rows(kernel, 4711) == []


@rule("PN-1")
def test_ports_are_unsigned(kernel: KernelUnderTest) -> None:
    Client(kernel, port_id=0xFFFFFFFE)
    assert len(rows(kernel, 4294967294)) == 1


@rule("PN-2")
def test_groups_are_hexadecimal(kernel: KernelUnderTest) -> None:
    Client(kernel, port_id=4711, groups=1 << 8 | 0b101)
    [row] = rows(kernel, 4711)
    assert row["Groups"] == "00000105"


@rule("PN-3")
def test_the_charge_is_shown(kernel: KernelUnderTest) -> None:
    client = Client(kernel, port_id=4711)
    client.tell(noop())
    [row] = rows(kernel, 4711)
    assert int(row["Rmem"]) == client.charged > 0
    assert (row["Wmem"], row["Dump"], row["Drops"]) == ("0", "0", "0")


@rule("PN-3")
def test_the_drops_are_shown(kernel: KernelUnderTest) -> None:
    client = overrun(kernel)
    [row] = rows(kernel, client.port_id)
    assert int(row["Drops"]) == client.drops == 1


@rule("PN-4")
def test_the_kernel_has_port_0(kernel: KernelUnderTest) -> None:
    [row] = rows(kernel, 0)
    assert row["Groups"] == "00000000"
