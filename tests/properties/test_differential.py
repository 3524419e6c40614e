"""The same rules and packets on Linux and on the fake kernel; what they do not agree in is a failure, which hypothesis makes small.

``--differential=100000`` sends so many packets instead of 2,000, other ones each time, and tells how far it is. What is known to
differ stands in docs/reference/known-differences.tsv, and each row names a test that holds it to that.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, fragment

from tests.probes import require
from tests.properties.differential import CONNECTIONS, FLAGS, RULES, ByLot, Difference, Event, Pair, comparable
from tests.unit.sim import test_dataplane_against_linux as against_linux  # noqa: F401 -- its probe
from tests.unit.sim.dataplane import UDP, ip4

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs/reference/known-differences.tsv"
#: packets in CI
BOUND = 2_000
#: events in an example
LEAST, MOST = 20, 60


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Pair]]:
    """The pair in use; a new one takes its place where the two have parted."""
    require("linux-world")  # as those of `against_linux`
    made = [Pair()]
    yield made
    made[0].close()


@st.composite
def examples(draw: st.DrawFn) -> tuple[list[int], list[Event]]:
    """Some rules, and what happens on a few connections."""
    rules = draw(st.lists(st.integers(0, len(RULES) - 1), unique=True, max_size=6).map(sorted))
    few = draw(st.lists(st.integers(0, len(CONNECTIONS) - 1), unique=True, min_size=1, max_size=4))
    near = st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 5, -500, 100_000))
    event = st.builds(
        Event,
        connection=st.sampled_from(few),
        direction=st.integers(0, 1),
        kind=st.sampled_from((0, 0, 0, 0, 0, 1, 2)),
        flags=st.sampled_from((2, 0, 1, 3, 2, 3, *range(4, len(FLAGS)))),
        seq=near,
        ack=near,
        size=st.sampled_from((0, 1, 5, 100, 200)),
    )
    return rules, draw(st.lists(event, min_size=LEAST, max_size=MOST))


def test_linux_and_the_fake_agree(pairs: list[Pair], request: pytest.FixtureRequest) -> None:
    wanted: int = request.config.getoption("--differential")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    sent = told = 0

    @settings(
        max_examples=100_000_000 if wanted > BOUND else wanted // LEAST,
        derandomize=wanted <= BOUND,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(examples())
    def tried(example: tuple[list[int], list[Event]]) -> None:
        nonlocal sent, told
        if sent >= wanted:
            raise _Enough
        before = pairs[0].packets
        try:
            pairs[0].run(*example)
        except Difference:
            packets = pairs[0].packets
            pairs[0].close()
            pairs[0] = Pair()
            pairs[0].packets = packets
            raise
        sent += pairs[0].packets - before
        if wanted > BOUND and sent >= told + 1_000:
            told = sent
            with capture.global_and_fixture_disabled():
                terminal.write_line(f"{sent} packets of {wanted}, {pairs[0].examples} examples")

    with suppress(_Enough):
        tried()
    assert sent >= wanted
    assert pairs[0].slow + pairs[0].lots < pairs[0].examples / 2, "too few were compared to the end"


class _Enough(BaseException):
    """So many packets were wanted, and so many were sent."""


# ------------------------------------------------------------------------------------------------------------ known differences


def known() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_each_known_difference_is_held_to_by_a_test() -> None:
    for row in known():
        path, _, name = row["test"].partition("::")
        names = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in names, row["test"]
        assert all(row.values()), row


def test_ports_that_are_chosen_by_lot_are_chosen_differently(pairs: list[Pair]) -> None:
    """Two sources with one port behind one address: the second gets another port."""
    masquerade = next(number for number, (_, rule) in enumerate(RULES) if "MASQUERADE" in rule)
    pair = pairs[0]
    pair.run([masquerade], [])
    pair.packet("eth0", ip4(UDP(sport=5000, dport=7), dst="10.1.0.5"))
    others = [ip4(UDP(sport=5000, dport=7), src=f"10.0.0.{last}", dst="10.1.0.5") for last in range(20, 40)]
    with pytest.raises(ByLot):
        parted_at(pair, others)


def parted_at(pair: Pair, packets: list[bytes]) -> None:
    for packet in packets:
        pair.packet("eth0", packet)


def test_fragments_leave_one_by_one_on_linux_alone(pairs: list[Pair]) -> None:
    """The fake says in how many fragments a packet left; its bytes are those of the whole."""
    pair = pairs[0]
    pair.run([], [])
    whole = ip4(UDP(sport=5000, dport=7) / bytes(range(200)), dst="10.1.0.5")
    pieces = [bytes(piece) for piece in fragment(IP(whole), fragsize=64)]
    real = [packet for piece in pieces for packet in pair.packet("eth0", piece)]
    assert len(real) == len(pieces)
    assert len(pair.tapped.seen) == 1
    assert comparable(real) == comparable(pair.tapped.seen)
