"""``nfnl doctor``: what it says of conntrack, on kernels as they may be."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import nfnl
from nfnl.cli.doctor_conntrack import conntrack
from nfnl.cli.findings import Finding, State
from nfnl.sim import FakeKernel
from nfnl.testing.lab import LinuxLab
from tests import probes


def found(kernel: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in conntrack(kernel)}


def test_on_linux_flows_can_be_listed() -> None:
    probes.require("lab-available")
    with LinuxLab() as lab:
        told = found(lab)
    assert told["nf_conntrack_netlink"].state is State.OK
    assert told["flows"].told.startswith("0 of ")
    assert {finding.area for finding in told.values()} == {"conntrack"}


@pytest.mark.parametrize("name", ["acct", "timestamp", "events"])
def test_a_switch_that_is_off_is_noted_with_its_remedy(name: str) -> None:
    with FakeKernel() as kernel:
        for value, state in ((0, State.NOTE), (1, State.OK)):
            kernel.sysctl(f"net.netfilter.nf_conntrack_{name}", value)
            finding = found(kernel)[f"nf_conntrack_{name}"]
            assert finding.state is state
            assert finding.remedy.startswith(f"sysctl -w net.netfilter.nf_conntrack_{name}=1") == (state is State.NOTE)


def test_what_automatic_events_mean_is_said() -> None:
    with FakeKernel() as kernel:
        assert found(kernel)["nf_conntrack_events"].told.endswith("if they began while somebody listened")


@pytest.mark.parametrize(("flows", "state"), [(8, State.OK), (9, State.NOTE)])
def test_a_table_that_is_nearly_full(flows: int, state: State) -> None:
    with FakeKernel() as kernel, nfnl.open_conntrack(kernel=kernel) as table:
        kernel.sysctl("net.netfilter.nf_conntrack_max", 10)
        for port in range(flows):
            table.create(nfnl.tuple_of("10.0.0.1", "10.0.0.2", "udp", port, 53), timeout=100)
        finding = found(kernel)["flows"]
    assert finding.state is state
    assert finding.told.startswith(f"{flows} of 10")
    assert ("nf_conntrack_max=20" in finding.remedy) == (state is State.NOTE)


def test_without_rights() -> None:
    with FakeKernel(capabilities=()) as kernel:
        finding = found(kernel)["nf_conntrack_netlink"]
    assert (finding.state, "CAP_NET_ADMIN" in finding.told) == (State.NOTE, True)
    assert "unshare -Urn" in finding.remedy


def test_without_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise OSError(errno.ENOENT, "No such file or directory")

    def unanswered(*_: object, **__: object) -> nfnl.FlowTable:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with FakeKernel() as kernel:
        monkeypatch.setattr(kernel, "sysctl", missing)
        monkeypatch.setattr("nfnl.open_conntrack", unanswered)
        told = found(kernel)
    assert {finding.state for finding in told.values()} == {State.NOTE}
    assert "modprobe nf_conntrack_netlink" in told["nf_conntrack_netlink"].remedy
    assert told["nf_conntrack"].remedy == "load it: modprobe nf_conntrack"
