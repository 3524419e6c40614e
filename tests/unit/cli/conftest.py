"""A kernel that commands of ``nfnl conntrack`` are about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfnl.cli import conntrack
from nfnl.cli.conntrack import World
from nfnl.sim import FakeKernel


@pytest.fixture
def ct_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """The fake kernel that all commands of a test are about, in the time zone of the recordings."""
    kernel = FakeKernel()
    for switch in ("acct", "timestamp"):
        kernel.sysctl(f"net.netfilter.nf_conntrack_{switch}", 1)
    monkeypatch.setattr(conntrack, "World", lambda **_: World(kernel))
    monkeypatch.setattr("nfnl.cli.ct_labels.DEFAULT", Path("/nowhere"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield kernel
    monkeypatch.undo()
    time.tzset()
