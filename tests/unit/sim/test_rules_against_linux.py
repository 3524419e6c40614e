"""Rules about flows held to the real kernel and the real command: texts, refusals, and what packets meet.

As in `test_dataplane_against_linux`: the same on both, and every difference is a failure.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from nfnl.sim.iptables import IptablesError
from nfnl.sim.skb import FRAGMENT
from tests.probes import require
from tests.unit.sim import scenarios
from tests.unit.sim.dataplane import World
from tests.unit.sim.linux_world import LinuxWorld
from tests.unit.sim.test_dataplane_against_linux import Both, make_routers, warnings_aside

RULES = Path(__file__).with_name("iptables-extensions.txt")


@pytest.fixture
def both() -> Iterator[Both]:
    require("linux-world")
    pair = Both(LinuxWorld(), World())
    yield pair
    pair.linux.close()


def same(both: Both, program: str, command: str) -> None:
    """Exit code, output and complaints of a command line."""
    code, out, err = both.linux.run(f"{program}-legacy", *shlex.split(command))
    try:
        mine = (0, getattr(both.world, program)(command), "")
    except IptablesError as error:
        mine = (error.exit_code, "", error.text + "\n")
    assert mine == (code, out, warnings_aside(err)), command


def test_extensions(both: Both) -> None:
    """What is refused and how, what is saved, and that it is read again as it was saved, and found by what it was saved as."""
    lines = [line for line in RULES.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    for (program, table), group in groupby(lines, key=lambda line: line.split(" ")[:2]):
        fake = getattr(both.world, program)
        for line in group:
            chain, _, words = line.split(" ", 2)[2].partition(": ")
            same(both, program, f"-t {table} -A {chain} {words}")
        text = fake.save(table)
        real = both.linux.shell(f"{program}-legacy-save -t {table}")
        assert text == "".join(row for row in real.splitlines(keepends=True) if row[0] != "#"), table
        for row in dict.fromkeys(row for row in text.splitlines() if row.startswith("-A")):
            same(both, program, f"-t {table} -C {row[3:]}")
        fake.restore(text)
        assert fake.save(table) == text
        both.linux.shell(f"{program}-legacy -t {table} -F")
        fake(f"-t {table} -F")


@pytest.mark.parametrize("seed", range(12))
def test_random_rules_about_flows(both: Both, seed: int) -> None:
    choose = random.Random(seed)
    make_routers(both)
    for version, program in ((4, "iptables"), (6, "ip6tables")):
        text = scenarios.flow_ruleset(choose, version)
        code, _, err = both.linux.restore(text, f"{program}-legacy-restore")
        assert code == 0, (err, text)
        getattr(both.world, program).restore(text)
    for step in range(60):  # malformed fragments have tests of their own
        data, way = scenarios.packet(choose), choose.choice((scenarios.SEND, scenarios.ETH0, scenarios.ETH1))
        mark = choose.choice((0, 0, 1, 3)) if way == scenarios.SEND else 0
        if data[0] >> 4 == 6 and FRAGMENT in (data[6], *data[40:41]):
            continue
        real, fake = both.packet(way, data, mark)
        assert fake == real, f"step {step}: {way} {data.hex()} mark {mark}"
    real_tables, fake_tables = both.tables()
    assert fake_tables == real_tables
