"""The benchmarks can be started and say what they found. Nothing is timed here."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as suite
from bench import handwritten, peers, report, soak
from bench.contests import Contest, Effort, codec, fake, startup, steps
from bench.outcome import CannotRunError, Outcome, Spread, Target, Turn
from bench.peers import BENCH, QUEUES, Contender, NotInstalledError, ready
from bench.tables import markdown, table
from nfnl.subsys.queue import VerdictHeader, VerdictMessage
from nfnl.wire.codec import decode

TURNS = {
    "nfnl": [Turn(1.0, 1.0), Turn(3.0, 9.0)],
    "peer": [Turn(2.0, 4.0), Turn(6.0, 18.0)],
    "late": [Turn(10.0, 10.0)],
}
OUTCOME = Outcome(
    "a contest",
    "64 bytes <small>",
    "packet",
    TURNS,
    (Target("nfnl", "peer", "cpu", 0.4), Target("peer", "nfnl", "cpu", 2.5), Target("nfnl", "absent", "cpu", 1.0)),
    {"other": "there is no gcc"},
    ["a note"],
)


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    assert str(Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])) == "3.00 (2.00-4.00)"
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_table_has_its_names_to_the_left_and_its_numbers_to_the_right() -> None:
    assert table(("", "µs"), [("nfnl", 1.5), ("a peer", 10)]) == "         µs\nnfnl    1.5\na peer   10"
    assert markdown(("", "µs"), [("a", 1)]) == "|   | µs |\n|---|---:|\n| a |  1 |"


def test_ratios_are_of_medians_and_their_quartiles_of_rounds() -> None:
    assert OUTCOME.first == "nfnl"
    assert OUTCOME.ratio("nfnl", "peer", "cpu") == Spread(0.5, 0.5, 0.5), "half in both rounds"
    wall = OUTCOME.ratio("nfnl", "peer", "wall")
    assert (wall.median, wall.low, wall.high) == (5 / 11, 0.3125, 0.4375), "a quarter and a half"
    assert OUTCOME.ratio("nfnl", "late", "cpu") == Spread(0.2, 0.1, 0.1), "one round is all they have in common"


def test_only_targets_of_those_who_took_part_are_judged() -> None:
    assert [(target.at_most, reached.median) for target, reached in OUTCOME.judged()] == [(0.4, 0.5), (2.5, 2.0)]
    assert [target.at_most for target in OUTCOME.missed()] == [0.4]
    assert OUTCOME.missed(0.25) == [], "0.5 is 0.4 and a quarter of it"
    assert [target.at_most for target in OUTCOME.missed(0.24)] == [0.4]


def test_the_report_says_what_was_found_what_was_hoped_for_and_what_was_missing() -> None:
    text = report.as_markdown([OUTCOME], {"latency": "this needs root"})
    assert re.search(r"\| nfnl +\| +2.00 \(1.50-2.50\) \|", text)
    assert "* other did not take part: there is no gcc" in text
    assert "* a note" in text
    assert "Did not take place: this needs root" in text
    assert text.count("**missed**") == 1
    assert len(re.findall(r"\| +met \|", text)) == 1
    data = json.loads(json.dumps(report.as_data([OUTCOME], {})))
    assert data["outcomes"][0]["turns"]["peer"][1] == {"cpu": 6.0, "wall": 18.0}
    assert data["targets"][0]["reached"]["median"] == 0.5


def test_the_plot_has_a_bar_for_everyone_who_took_part() -> None:
    root = ElementTree.fromstring(report.as_svg([OUTCOME]))
    space = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{space}rect")
    assert len(bars) == 3
    assert sum(bar.get("class") == "f" for bar in bars) == 1
    assert [float(bar.get("width", "nan")) for bar in bars] == sorted(float(bar.get("width", "nan")) for bar in bars)
    assert "a contest: 64 bytes <small>" in [text.text for text in root.findall(f"{space}text")]


def test_a_contender_that_cannot_take_part_says_why() -> None:
    def refuse() -> list[str]:
        raise NotInstalledError("no compiler")

    assert ready((Contender("a", lambda: ["a"]), Contender("b", refuse))) == ({"a": ["a"]}, {"b": "no compiler"})


def test_a_missing_compiler_and_a_missing_command_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotInstalledError, match="there is no gcc"):
        peers.c_program("nfq_batch")()
    with pytest.raises(NotInstalledError, match="conntrack is not installed"):
        peers.command.__wrapped__("conntrack", "conntrack")


def test_nfnl_is_what_the_others_are_compared_with() -> None:
    assert QUEUES[0].name == "nfnl"


def test_every_contender_has_its_source() -> None:
    assert {path.stem for path in (BENCH / "c").glob("*.c")} == {"nfq_loop", "nfq_batch"}
    for path in (BENCH / "contenders").glob("*.py"):
        ast.parse(path.read_text("utf-8"))


def test_targets_name_contenders_there_are() -> None:
    from bench.contests import queue_drain

    names = {contender.name for contender in QUEUES}
    assert {name for target in queue_drain.TARGETS for name in (target.name, target.against)} <= names
    done = [*codec.run(Effort(1, short=True))]
    for outcome in done:
        assert len(outcome.judged()) == len(outcome.targets)


def test_command_lines() -> None:
    options = suite.parse(["--short", "--rounds", "2", "--only", "codec", "start", "--output", "x"])
    assert (options.short, options.rounds, options.only, options.output) == (True, 2, ["codec", "start"], Path("x"))
    assert soak.parse([]).packets * soak.parse([]).rounds == 1_000_000
    assert set(suite.SHORT) <= {contest.name for contest in suite.CONTESTS}
    with pytest.raises(SystemExit):
        suite.parse(["--only", "nothing"])


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ratios: list[float], *arguments: str) -> tuple[int, int]:
    """The exit status of the suite, and how often its only contest took place, when ``nfnl`` takes so much each time."""
    left = iter(ratios)
    count = 0

    def found(effort: Effort) -> Iterator[Outcome]:
        nonlocal count
        count += 1
        turns = {"nfnl": [Turn(next(left), 1.0)], "peer": [Turn(1.0, 1.0)]}
        yield Outcome("a contest", "all of it", "packet", turns, (Target("nfnl", "peer", "cpu", 1.0),))

    monkeypatch.setattr(suite, "CONTESTS", (Contest("a contest", "", found),))
    monkeypatch.setattr(suite, "SHORT", ("a contest",))
    return suite.main([*arguments, "--output", str(tmp_path)]), count


@pytest.mark.parametrize(
    ("ratios", "status", "times"),
    [
        ([1.2], 0, 1),  # missed, but not by far
        ([1.3, 1.2], 0, 2),
        ([1.3, 1.3, 1.3, 1.0], 0, 4),
        ([1.3, 1.3, 1.3, 1.3], 1, 4),
    ],
)
def test_the_short_form_fails_when_all_reruns_are_far_off(
    ratios: list[float], status: int, times: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, tmp_path, ratios, "--short") == (status, times)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json", "report.svg"}


def test_the_long_form_only_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, tmp_path, [9.0]) == (0, 1)
    assert "**missed**" in (tmp_path / "report.md").read_text("utf-8")


def test_without_root_contests_are_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.contests import queue_drain

    monkeypatch.setattr("bench.world.os.geteuid", lambda: 1000)
    monkeypatch.setattr(queue_drain, "ready", lambda contenders: ({"nfnl": ["nfnl"]}, {}))
    assert suite.main(["--short", "--only", "queue drain", "--output", str(tmp_path)]) == 0
    assert "needs root" in (tmp_path / "report.md").read_text("utf-8")
    assert soak.main([]) == 2
    assert "needs root" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, id=name)
        for tasks in (codec.parsing(codec.recording("packet.brnf.hook2")), codec.verdicts(), codec.building())
        for name, task in tasks.items()
    ],
)
def test_every_small_task_runs(task: steps.Steps) -> None:
    assert steps.cost(task, 2).wall > 0


def test_the_fake_kernel_takes_packets() -> None:
    fake.through(40)
    fake.past_rules(2)


def test_a_program_that_imports_takes_time() -> None:
    assert startup.start("pass").cpu > 0


def test_what_is_written_by_hand_says_the_same_as_nfnl() -> None:
    data = codec.recording("packet.brnf.hook2")
    (packet,) = decode(data)
    _, _, _, family, res_id, attributes = handwritten.parse(data)
    assert attributes == {a.number: a.data for a in packet.attributes}  # type: ignore[attr-defined]
    assert (family, res_id) == (packet.nfgen_family, packet.res_id)  # type: ignore[attr-defined]
    header = VerdictHeader(1, 7)
    plain = VerdictMessage(nlmsg_flags=1, nlmsg_seq=7, res_id=3, header=header)
    assert handwritten.verdict(3, 7, 1) == bytes(plain)
    changed = VerdictMessage(nlmsg_flags=1, nlmsg_seq=7, res_id=3, header=header, mark=5, payload=b"12345")
    assert handwritten.marked_verdict(3, 7, 1, 5, b"12345") == bytes(changed)


def test_a_worker_that_does_not_start_is_named() -> None:
    from bench.worker import Worker

    with pytest.raises(CannotRunError, match="false did not start"), Worker(["false"]):
        pass
