"""``nfnl demo``: the same handler, and the same lines, on both kernels."""

from __future__ import annotations

import os
import re

import click
import pytest

import nfnl.testing.lab
from nfnl.cli import demo
from tests import probes
from tests.unit.cli.terminal import Terminal, pipe, without_colour


def test_on_the_fake_kernel() -> None:
    done = pipe("demo")
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode().splitlines()
    assert shown[0] == "rule     iptables -A OUTPUT -p icmp -j NFQUEUE --queue-num 1 --queue-bypass"
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown[4:-2]]
    pings = {number: [row[1:] for row in rows if row[0].endswith(f"echo request seq {number}")] for number in range(1, 7)}
    assert pings == {n: [["DROP", "dropped"]] if n % 2 else [["ACCEPT", "delivered"]] for n in range(1, 7)}
    assert [row[0] for row in rows if "reply" in row[0]] == [f"ICMP 127.0.0.1 > 127.0.0.1 echo reply seq {n}" for n in (2, 4, 6)]
    assert ["UDP 127.0.0.1:40000 > 127.0.0.1:9, 5 bytes", "not queued", "delivered"] in rows
    assert ["ICMP 127.0.0.1 > 127.0.0.1 port unreachable", "ACCEPT", "delivered"] in rows
    assert ["TCP 127.0.0.1:40000 > 127.0.0.1:9 SYN", "not queued", "delivered"] in rows
    assert shown[-1] == "13 packets: 10 went through queue 1, of which the handler dropped 3"
    assert b"nothing on this machine is touched" in done.stderr


def test_both_kernels_print_the_same_lines() -> None:
    probes.require("lab-available")
    fake, linux = pipe("demo", "--kernel", "fake"), pipe("demo", "--kernel", "linux")
    assert linux.returncode == 0, linux.stderr.decode()
    assert linux.stdout.decode() == fake.stdout.decode()


def test_a_terminal_has_the_same_lines_in_colour() -> None:
    terminal = Terminal("demo")
    assert terminal.close() == 0
    assert "\x1b[31mDROP" in terminal.shown
    shown = [line.rstrip() for line in without_colour(terminal.shown).splitlines()]
    assert shown[1:] == pipe("demo").stdout.decode().splitlines()


def test_without_root_and_user_namespaces_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(1, "Operation not permitted: unprivileged user namespaces are switched off")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(nfnl.testing.lab, "enter_user_namespace", refuse)
    with pytest.raises(click.ClickException) as said:
        demo.open_kernel("linux")
    assert said.value.message.splitlines() == [
        "no throw-away network namespace can be had here: Operation not permitted: unprivileged user namespaces are switched off.",
        "It takes root, or user namespaces and a tun device open to all; 'nfnl demo' on the fake kernel takes neither.",
    ]
