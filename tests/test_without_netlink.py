"""The fake kernel needs no Linux: its tests pass where `socket.AF_NETLINK` does not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROGRAM = """
import socket, sys
import scapy.layers.inet, scapy.layers.inet6, trio  # on Linux they look for netlink themselves; elsewhere they do not
del socket.AF_NETLINK
for name in [name for name in vars(socket) if name.startswith(("NETLINK_", "AF_PACKET"))]:
    delattr(socket, name)
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *sys.argv[1:]]))
"""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_doors_and_contract_on_the_fake_pass_without_af_netlink() -> None:
    closing = run("tests/doors", "tests/contract", "-k", "fake and not planted and not linux")
    assert "passed" in closing
    assert "skipped" not in closing
    assert int(closing.split(" passed")[0].split()[-1]) > 150


def test_opening_linux_there_says_why_not() -> None:
    program = (
        "import socket; del socket.AF_NETLINK\n"
        "import nfnl\n"
        "try:\n    nfnl.open_queue(0)\nexcept OSError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "AF_NETLINK" in done.stdout
