"""Which of several queues a packet goes to."""

from __future__ import annotations

import sys
from ipaddress import ip_address

import pytest

from nfnl.sim.balance import nfqueue_hash
from nfnl.sim.kernel import FakeKernel
from tests.unit.sim.dataplane import PING, PING6, World, ip4, ip6

#: Drawn by a Linux 6.18 when it was started, and found out from the queues that it chose.
SEED = 3551428313
#: Source, destination and protocol of a packet, and which of 16 queues that Linux put it in.
SEEN = [
    ("127.120.155.27", "127.202.245.40", 17, 13),
    ("127.34.10.103", "127.148.30.57", 1, 11),
    ("127.141.88.212", "127.54.134.55", 17, 6),
    ("127.133.139.50", "127.84.158.75", 1, 9),
    ("127.44.172.172", "127.198.127.46", 6, 12),
    ("127.242.143.23", "127.153.3.233", 1, 0),
    ("127.159.99.106", "127.216.147.111", 47, 2),
    ("127.82.119.79", "127.132.22.21", 17, 6),
    ("127.236.143.133", "127.241.175.38", 6, 2),
    ("127.34.211.234", "127.103.225.71", 6, 2),
    ("127.182.223.192", "127.164.101.232", 1, 1),
    ("127.51.31.182", "127.117.142.196", 6, 12),
    ("127.62.169.240", "127.90.148.118", 17, 12),
    ("127.21.182.179", "127.42.146.189", 1, 2),
    ("127.9.165.74", "127.164.78.199", 47, 5),
    ("127.39.150.159", "127.98.227.75", 6, 9),
    ("2001:db8:0:1::1", "2001:db8:1::11", 17, 7),
    ("2001:db8:5::15", "2001:db8:0:1::1", 17, 12),
    ("2001:db8:0:2::2", "2001:db8:3::13", 17, 8),
    ("2001:db8:8::18", "2001:db8:0:2::2", 17, 9),
    ("2001:db8:0:3::3", "2001:db8:5::15", 17, 10),
    ("2001:db8:1::11", "2001:db8:0:4::4", 17, 8),
    ("2001:db8:0:4::4", "2001:db8:8::18", 17, 5),
    ("2001:db8:3::13", "2001:db8:0:5::5", 17, 12),
    ("2001:db8:0:6::6", "2001:db8:1::11", 17, 14),
    ("2001:db8:5::15", "2001:db8:0:6::6", 17, 7),
    ("2001:db8:0:7::7", "2001:db8:3::13", 17, 15),
    ("2001:db8:8::18", "2001:db8:0:7::7", 17, 8),
    ("2001:db8:0:8::8", "2001:db8:5::15", 17, 6),
]


@pytest.mark.skipif(sys.byteorder == "big", reason="a little-endian machine was watched")
@pytest.mark.parametrize(("source", "destination", "protocol", "queue"), SEEN)
def test_queues_that_linux_chose(source: str, destination: str, protocol: int, queue: int) -> None:
    here, there = ip_address(source).packed, ip_address(destination).packed
    assert nfqueue_hash(here, there, protocol, 16, SEED) == queue
    assert nfqueue_hash(there, here, protocol, 16, SEED) == queue


@pytest.mark.parametrize("total", [2, 3, 65535])
def test_every_queue_has_its_share(total: int) -> None:
    queues = [nfqueue_hash(bytes(4), host.to_bytes(4, "big"), 17, total, SEED) for host in range(3000)]
    assert 0 <= min(queues) < total * 0.05 + 1
    assert total > max(queues) > total * 0.95 - 1


def test_the_journey_tells_which_queue_was_chosen() -> None:
    world = World()
    world.iptables("-A INPUT -j NFQUEUE --queue-balance 3:6")
    for number in range(3, 7):
        world.listen(number)
    journeys = [world.stack.receive(ip4(PING, src=f"10.0.0.{host}")) for host in range(2, 30)]
    assert {journey.queue for journey in journeys} == {3, 4, 5, 6}
    for journey in journeys:
        assert str(journey.steps[-1]) == f"filter INPUT: -A INPUT -j NFQUEUE --queue-balance 3:6 -> QUEUE {journey.queue}"


def test_the_seed_decides() -> None:
    def queues(seed: int | None) -> list[int | None]:
        with FakeKernel() if seed is None else FakeKernel(hash_seed=seed) as kernel:
            kernel.ip6tables("-A INPUT -j NFQUEUE --queue-balance 0:99 --queue-bypass")
            journeys = [kernel.receive(ip6(PING6, src=f"fd00::{host:x}")) for host in range(2, 12)]
            return [int(journey.steps[-2].result.split()[1]) for journey in journeys]

    assert queues(None) == queues(None)
    assert queues(1) == queues(1) != queues(2)


def test_the_processor_is_part_of_a_snapshot() -> None:
    with FakeKernel() as kernel:
        kernel.cpu = 3
        snapshot = kernel.snapshot()
        kernel.cpu = 4
        snapshot.restore()
        assert kernel.cpu == 3
