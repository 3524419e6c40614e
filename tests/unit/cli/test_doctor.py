"""``nfnl doctor``: what it finds here, in labs, and where things are missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP

import nfnl
from nfnl.cli import doctor
from nfnl.cli.doctor import command
from nfnl.cli.findings import Finding, State
from nfnl.sim import FakeKernel
from nfnl.testing.lab import LinuxLab
from tests import probes
from tests.unit.cli.terminal import NFNL, Terminal, pipe, without_colour


@pytest.fixture
def lab() -> Iterator[LinuxLab]:
    probes.require("lab-available")
    with LinuxLab() as lab:
        yield lab


def report(lab: LinuxLab) -> dict[str, Any]:
    done = lab._kernel.inside(lambda: pipe("doctor", "--json"))
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["able"] == (done.returncode == 0), done.stderr.decode()
    return report


def by_name(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in report["findings"]}


def test_where_labs_are_to_be_had_queues_can_be_listened_at(lab: LinuxLab) -> None:
    told = report(lab)
    assert told["able"]
    found = by_name(told)
    for name in (
        "CAP_NET_ADMIN",
        "nfnetlink_queue",
        "QueueFlag.FAIL_OPEN",
        "QueueFlag.GSO",
        "extended ack",
        "recvmmsg",
        "LinuxLab",
    ):
        assert found[name]["state"] == "ok", found[name]
    assert "ok" in {found[program]["state"] for program in ("iptables-legacy", "iptables-nft", "nft")}
    assert found["NFQA_CT"]["state"] == found["QueueFlag.CONNTRACK"]["state"]
    assert found["release"]["told"] == os.uname().release


def test_a_flag_is_accepted_if_the_kernel_accepts_it(lab: LinuxLab) -> None:
    found = by_name(report(lab))
    for flag in nfnl.QueueFlag:
        try:
            nfnl.open_queue(3, kernel=lab, flags=flag).close()
            accepted = "ok"
        except nfnl.NetlinkError:
            accepted = "note"
        assert found[f"QueueFlag.{flag.name}"]["state"] == accepted


def test_it_changes_nothing(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p icmp -j NFQUEUE --queue-num 5")

    def state() -> list[str]:
        programs = ("iptables-legacy-save", "iptables-nft-save", "nft list ruleset", "ip -o link", "ip -o address", "ip route")
        shown = [lab.run(program).stdout for program in programs if shutil.which(program.split()[0])]
        return [line for text in shown for line in text.splitlines() if not line.startswith("#")]

    before = state()
    with nfnl.open_queue(5, kernel=lab) as queue:
        assert report(lab)["able"]
        assert queue._transport.receive() == []
    assert state() == before


def test_who_has_which_queue(lab: LinuxLab) -> None:
    probes.require("initial-user-namespace")
    assert by_name(report(lab))["taken"]["told"] == "none"
    lab.iptables("-A INPUT -p icmp -j NFQUEUE --queue-num 7")
    with nfnl.open_queue(7, kernel=lab) as queue:
        lab.receive(IP(src="10.0.0.9", dst="10.0.0.1") / ICMP())
        comm = Path("/proc/self/comm").read_text().strip()
        owner = f"taken by {comm}, process {os.getpid()} (port {queue._transport.port_id}), 1 packet waiting"
        assert by_name(report(lab))["queue 7"] == {"area": "queues", "name": "queue 7", "state": "ok", "told": owner, "remedy": ""}


def test_in_a_terminal(lab: LinuxLab) -> None:
    terminal = lab._kernel.inside(lambda: Terminal("doctor"))
    assert terminal.close() == 0
    assert "\x1b[32m  ok" in terminal.shown
    lines = without_colour(terminal.shown).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "rights",
        "kernel",
        "rules",
        "buffers",
        "queues",
        "conntrack",
        "tests",
        "Queues can be listened at here.",
    ]


def test_without_rights_the_remedy_is_named_and_the_rest_still_found_out() -> None:
    probes.require("initial-user-namespace")
    reduced = ["setpriv", "--inh-caps=-all", "--bounding-set=-net_admin,-sys_admin"]
    done = subprocess.run([*reduced, *NFNL, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    at = lines.index("problem CAP_NET_ADMIN user 0 in the machine's user namespace has no CAP_NET_ADMIN")
    assert lines[at + 1] == "-> run it as root, or give it CAP_NET_ADMIN, or a network of its own: unshare -Urn"
    assert "ok release" in done.stdout.replace("      ", "")
    assert lines[-1] == "Queues cannot be listened at here: 1 problem."


# --- where things are missing ----------------------------------------------------------------------------------------------------


def test_rights_are_asked_of_the_kernel() -> None:
    (able, there) = doctor.rights(FakeKernel())
    assert (able.state, there.name, there.state) == (State.OK, "nfnetlink_queue", State.OK)
    (unable,) = doctor.rights(FakeKernel(capabilities=()))
    assert (unable.name, unable.state) == ("CAP_NET_ADMIN", State.PROBLEM)


def test_a_kernel_without_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ask_in_vain", lambda kernel: errno.EINVAL)
    rights, missing = doctor.rights(FakeKernel())
    assert rights.state is State.OK
    assert (missing.name, missing.state, missing.told) == ("nfnetlink_queue", State.PROBLEM, "not there: EINVAL")
    assert "modprobe nfnetlink_queue" in missing.remedy


def test_a_small_receive_buffer_and_what_to_do_about_it() -> None:
    kernel = FakeKernel(capabilities=())
    kernel.sysctl("net.core.rmem_max", 300_000)
    found = {finding.name: finding for finding in doctor.buffers(kernel)}
    assert found["net.core.rmem_max"].told == "300,000 bytes"
    assert found["receive buffer"] == Finding(
        "buffers",
        "receive buffer",
        State.NOTE,
        "300,000 of 8,388,608 bytes are granted: bursts may be lost",
        "root gets what it asks for; others with: sysctl -w net.core.rmem_max=8388608",
    )
    granted = {finding.name: finding for finding in doctor.buffers(FakeKernel())}["receive buffer"]
    assert (granted.state, granted.told) == (State.OK, "8,388,608 of 8,388,608 bytes are granted")


def test_queues_that_only_root_may_see() -> None:
    kernel = FakeKernel()
    with kernel.process(uid=1000):
        (hidden,) = doctor.queues(kernel)
    assert (hidden.state, hidden.told) == (State.NOTE, "only root may see which")


def test_without_a_program_that_makes_rules(lab: LinuxLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    *programs, problem = doctor.rules(lab._kernel)
    assert [(finding.name, finding.state, finding.remedy) for finding in programs] == [
        ("iptables-legacy", State.NOTE, "apt-get install iptables"),
        ("iptables-nft", State.NOTE, "apt-get install iptables"),
        ("nft", State.NOTE, "apt-get install nftables"),
    ]
    assert problem.state is State.PROBLEM


def test_a_program_that_complains_is_quoted(lab: LinuxLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RULES", (("iptables-nft", "-A OUTPUT -j NOWHERE", "", "iptables", "a target"),))
    complaint, problem = doctor.rules(lab._kernel)
    assert "NOWHERE" in complaint.told
    assert complaint.remedy == "it takes a kernel with a target (modprobe)"
    assert problem.state is State.PROBLEM


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("nft is not installed", "install iproute2, iptables and nftables"),
        ("making a tun device: Permission denied: /dev/net/tun", "let this user open /dev/net/tun"),
        ("Operation not permitted", "be root, or allow user namespaces"),
    ],
)
def test_without_a_lab(monkeypatch: pytest.MonkeyPatch, reason: str, remedy: str) -> None:
    monkeypatch.setattr(LinuxLab, "available", lambda: reason)
    (found,) = doctor.lab()
    assert (found.state, found.told) == (State.NOTE, reason)
    assert found.remedy.startswith(remedy)


def test_without_a_namespace_what_needs_one_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EPERM, "Operation not permitted: unprivileged user namespaces are switched off")

    monkeypatch.setattr(doctor, "LinuxKernel", FakeKernel)
    monkeypatch.setattr(doctor, "_throw_away_namespace", refuse)
    monkeypatch.setattr(LinuxLab, "available", lambda: "Operation not permitted")
    done = CliRunner().invoke(command)
    assert done.exit_code == 0
    told = "cannot be tried without a network namespace: Operation not permitted: unprivileged user namespaces are switched off"
    assert [line.split(maxsplit=1)[0] for line in done.output.splitlines() if told in line] == ["note", "note"]


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    done = CliRunner().invoke(command, ["--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["findings"][0]["told"] == "this is darwin, not Linux"
