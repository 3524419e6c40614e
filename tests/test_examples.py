"""Every example, on both kernels: written once, as a user would test it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6

import nfnl
from nfnl.session.flowspec import tuple_of
from nfnl.sim import FakeKernel
from nfnl.testing.lab import LinuxLab
from tests import probes

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = [path for path in sorted(EXAMPLES.rglob("*.py")) if not path.name.startswith("test_")]
OF_QUEUES = [path for path in PROGRAMS if "open_queue" in path.read_text()]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["fake", "linux"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "linux":
        probes.require("lab-available")
    with FakeKernel() if request.param == "fake" else LinuxLab() as made:
        yield made


def test_every_packet(kernel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.iptables("-A OUTPUT -p icmp -j NFQUEUE --queue-num 0 --queue-bypass")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        ping = kernel.send(IP(src="127.0.0.1", dst="127.0.0.1") / ICMP(id=1, seq=1) / b"abcd")
        load("every_packet").accept_all(queue)
    assert ping.delivered
    assert capsys.readouterr().out == "OUTPUT: packet 1, 32 bytes\nOUTPUT: packet 2, 32 bytes\n", "the request and its reply"


def test_mangler(kernel: Any) -> None:
    kernel.iptables("-A INPUT -p udp -j NFQUEUE --queue-num 0 --queue-bypass")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        whole = kernel.receive(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=1, dport=2) / b"hello darkness")
        other = kernel.receive(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=1, dport=2) / b"hello")
        load("mangler").replace_word(queue, b"darkness", b"light")
    assert whole.delivered
    assert other.delivered
    expected = IP(bytes(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=1, dport=2) / b"hello light"))
    assert bytes(whole.data)[20:] == bytes(expected)[20:], "length and checksum of UDP are right"
    assert IP(whole.data).len == len(whole.data)
    assert other.data == other.packet


def test_rate_limiter(kernel: Any) -> None:
    kernel.iptables("-A INPUT -p udp -j NFQUEUE --queue-num 0 --queue-bypass")
    kernel.ip6tables("-A INPUT -p udp -j NFQUEUE --queue-num 0 --queue-bypass")
    clock = [0.0]
    limiter = load("rate_limiter").RateLimiter(rate=1, burst=2, now=lambda: clock[0])

    def arrive(*packets: Any) -> list[bool]:
        with kernel.until_idle():
            journeys = [kernel.receive(packet / UDP(sport=1, dport=2)) for packet in packets]
            limiter.run(queue)
        return [journey.delivered for journey in journeys]

    with nfnl.open_queue(0, kernel=kernel) as queue:
        greedy, modest, six = (
            IP(src="10.0.0.9", dst="10.0.0.1"),
            IP(src="10.0.0.8", dst="10.0.0.1"),
            IPv6(src="fd00::9", dst="fd00::1"),
        )
        assert arrive(greedy, greedy, greedy, modest, six, six, six) == [True, True, False, True, True, True, False]
        clock[0] = 1.0
        assert arrive(greedy, greedy, six) == [True, False, True]


@pytest.mark.parametrize("kernel_name", ["fake", "linux"])
def test_home_router(kernel_name: str, tmp_path: Path) -> None:
    if kernel_name == "linux":
        probes.require("lab-available")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--nfnl-kernel={kernel_name}"]
    tests = EXAMPLES / "home_router"
    done = subprocess.run([*command, f"--rootdir={tests}", tests], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_flow_exporter(kernel: Any) -> None:
    lines: list[dict[str, Any]] = []
    flow = tuple_of("10.0.0.9", "10.0.0.1", "udp", 4000, 53)
    with (
        nfnl.open_conntrack(kernel=kernel, mirror=True) as follower,
        nfnl.open_conntrack(kernel=kernel) as table,
        kernel.until_idle(),
    ):
        kernel.sysctl("net.netfilter.nf_conntrack_acct", 1)
        for _ in range(2):
            table.create(flow, timeout=100)
            kernel.sysctl("net.netfilter.nf_conntrack_acct", 0)
            table.delete(flow)
        load("flow_exporter").export(follower, lines.append)
    ended = {"protocol": "udp", "source": "10.0.0.9", "destination": "10.0.0.1", "port": 53}
    assert lines == [{**ended, "sent": 0, "received": 0}, {**ended, "sent": None, "received": None}]


def test_flow_exporter_says_what_it_lost(kernel: Any) -> None:
    lines: list[dict[str, Any]] = []
    with (
        nfnl.open_conntrack(kernel=kernel, mirror=True, receive_buffer=1) as follower,
        nfnl.open_conntrack(kernel=kernel) as table,
        kernel.until_idle(),
    ):
        for port in range(100):
            table.create(tuple_of("10.0.0.9", "10.0.0.1", "udp", port + 1, 53), timeout=100)
        load("flow_exporter").export(follower, lines.append)
    assert lines == [{"lost": "some that ended", "flows": 100}]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_says_how_to_use_it(path: Path) -> None:
    assert f"python {path.relative_to(EXAMPLES.parent)}" in path.read_text()


@pytest.mark.parametrize("path", OF_QUEUES, ids=lambda path: path.stem)
def test_an_example_fails_politely(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "70000"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "queue numbers go from 0 to 65535, not 70000" in done.stderr
