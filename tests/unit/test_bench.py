"""The benchmarks can be started and say what they found. Nothing is timed here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench import conntrack_dump, micro, queue_drain, soak
from bench.contenders import BENCH, CONTENDERS, Contender, NotInstalledError
from bench.referee import Turn
from bench.tables import Spread, table


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    assert str(Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])) == "3.00 (2.00-4.00)"
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_table_has_its_names_to_the_left_and_its_numbers_to_the_right() -> None:
    assert table(("", "µs"), [("nfnl", 1.5), ("a peer", 10)]) == "         µs\nnfnl    1.5\na peer   10"


def test_ratios_are_taken_within_a_round() -> None:
    turns = {"nfnl": [Turn(1.0, 1.0), Turn(3.0, 9.0)], "peer": [Turn(2.0, 4.0), Turn(6.0, 18.0)]}
    lines = queue_drain.summary(turns, {"other": "there is no gcc"}).splitlines()
    assert lines[0].split("  ")[-1].strip() == "wall: nfnl / this"
    assert lines[1].startswith("nfnl")
    assert "1.00 (1.00-1.00)" in lines[1]
    assert lines[2].startswith("peer")
    assert "0.50 (0.50-0.50)" in lines[2], "CPU: half in both rounds"
    assert "0.38 (0.31-0.44)" in lines[2], "wall: a quarter and a half"
    assert lines[3] == "other: not installed: there is no gcc"


def test_a_contender_that_cannot_take_part_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise NotInstalledError("no compiler")

    monkeypatch.setattr(queue_drain, "CONTENDERS", (Contender("a", lambda: ["a"]), Contender("b", refuse)))
    assert queue_drain.prepare([]) == ({"a": ["a"]}, {"b": "no compiler"})
    assert queue_drain.prepare(["b"]) == ({}, {"b": "no compiler"})


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    loop = next(c for c in CONTENDERS if c.name == "C, recvmmsg and batch")
    with pytest.raises(NotInstalledError, match="there is no gcc"):
        loop.prepare()


def test_nfnl_is_what_the_others_are_compared_with() -> None:
    assert CONTENDERS[0].name == "nfnl"


def test_every_contender_has_its_source() -> None:
    assert {path.stem for path in (BENCH / "c").glob("*.c")} == {"nfq_loop", "nfq_batch"}
    for path in (BENCH / "contenders").glob("*.py"):
        ast.parse(path.read_text("utf-8"))


def test_command_lines() -> None:
    options = queue_drain.parse(["--packets", "10", "--rounds", "2", "--sizes", "64", "--only", "nfnl", "--json", "x.json"])
    assert (options.packets, options.rounds, options.sizes, options.only) == (10, 2, [64], ["nfnl"])
    assert options.json == Path("x.json")
    assert queue_drain.parse([]).sizes == [64, 1400]
    assert soak.parse([]).packets * soak.parse([]).rounds == 1_000_000
    assert micro.parse(["--rounds", "3"]).rounds == 3
    assert conntrack_dump.parse([]).flows == 100_000
    with pytest.raises(SystemExit):
        queue_drain.parse(["--only", "nobody"])


def test_tables_are_compared_within_a_round() -> None:
    lines = conntrack_dump.summary(
        {"conntrack -L": [1.0, 2.0], "nfnl, list": [0.5, 3.0], "pyroute2, list": [20.0]}, 1_000_000
    ).splitlines()
    assert lines[1].split() == ["conntrack", "-L", "1.50", "(1.25-1.75)", "1.00", "(1.00-1.00)"]
    assert lines[2].split() == ["nfnl,", "list", "1.75", "(1.12-2.38)", "1.00", "(0.75-1.25)"]
    assert lines[3].split() == ["pyroute2,", "list", "20.00", "(20.00-20.00)", "20.00", "(20.00-20.00)"]


@pytest.mark.parametrize("program", [queue_drain, soak, conntrack_dump])
def test_without_root_it_says_so(program: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unavailable() -> list[str]:
        raise NotInstalledError("not here")

    monkeypatch.setattr("bench.world.os.geteuid", lambda: 1000)
    monkeypatch.setattr(queue_drain, "prepare", lambda names: ({"nfnl": ["nfnl"]}, {}))
    monkeypatch.setattr(conntrack_dump, "pyroute2", unavailable)
    assert program.main([]) == 2  # type: ignore[attr-defined]
    assert "needs root" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(micro.tasks()))
def test_every_small_task_runs(name: str) -> None:
    micro.tasks()[name](2)


def test_the_import_of_a_module_takes_time() -> None:
    assert micro.import_time("json") > 0
