"""Ctrl-C ends a loop that waits, on both kernels, and the queue is closed in an orderly way."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests import probes

PROGRAM = """
import sys, nfnl
from nfnl.sim import FakeKernel
from nfnl.testing.lab import LinuxLab
kernel = FakeKernel(when_idle="wait") if sys.argv[1] == "fake" else LinuxLab()
kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
try:
    with nfnl.open_queue(0, kernel=kernel) as queue:
        print("waiting", flush=True)
        for packet in queue:
            packet.accept()
except KeyboardInterrupt:
    assert not kernel.read_proc("netfilter/nfnetlink_queue")
    print("closed", flush=True)
    sys.exit(3)
"""


@pytest.mark.parametrize("kernel", ["fake", "linux"])
def test_ctrl_c_ends_a_waiting_loop(kernel: str) -> None:
    if kernel == "linux":
        probes.require("lab-available")
    with subprocess.Popen([sys.executable, "-c", PROGRAM, kernel], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("closed\n", 3)
