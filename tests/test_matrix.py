"""`tests/matrix.py`: what is made of what guests report. The guest is a function here; nothing is booted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nfnl.testing import guest
from nfnl.testing._kernels import Kernel, KernelError
from nfnl.testing.guest import GuestTimeout
from tests import behaviour, matrix, probes
from tests.contract import nested, quick
from tests.contract.rules import table

Guest = Callable[[Path], int]

CASE = """<testcase classname="tests.contract.test_a" name="{name}"><properties>{about}</properties>{end}</testcase>"""
SKIPPED = '<skipped message="probe {}: not here"/>'


def report(*cases: tuple[str, dict[str, str], str], probes: dict[str, str | None] | None = None) -> Guest:
    """A guest in which tests with these properties ended like that."""

    def run(share: Path) -> int:
        share.mkdir(parents=True, exist_ok=True)
        written = [
            CASE.format(
                name=name, about="".join(f'<property name="{kind}" value="{value}"/>' for kind, value in about.items()), end=end
            )
            for name, about, end in cases
        ]
        (share / "junit.xml").write_text(f"<testsuites><testsuite>{''.join(written)}</testsuite></testsuites>")
        (share / "probes.json").write_text(json.dumps({"release": "6.1", "probes": probes or {}}))
        return 0

    return run


def half_a_report(share: Path) -> int:
    """A guest that came to a sudden end."""
    report()(share)
    (share / "junit.xml").write_text("<testsuites><testsuite>")
    return 0


GOOD = report(("test_x[linux-NL-1]", {"rule": "NL-1"}, ""), probes={"priority-told": None, "payloads-examined": "it does not"})


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Guest | Exception]:
    """Source of a kernel -> what becomes of its guest; other kernels cannot be had."""
    known: dict[str, Guest | Exception] = {}

    def find(source: str, tell: object) -> Kernel:
        if source not in known:
            raise KernelError(f"{source} is not to be had")
        return Kernel(Path(source), None, source.partition(":")[0] + ".7-1")

    def run(kernel: Kernel, command: Sequence[str], *, share: Path, **options: Any) -> int:
        end = known[str(kernel.image)]
        if isinstance(end, Exception):
            raise end
        return end(share)

    monkeypatch.setattr(matrix, "find_kernel", find)
    monkeypatch.setattr(guest, "run", run)
    monkeypatch.setattr(guest, "available", lambda: None)
    monkeypatch.setattr(matrix, "chosen_tests", lambda options: ["tests/contract/test_a.py::test_x"])
    monkeypatch.setattr(matrix, "TABLE", tmp_path / "kernels.json")
    monkeypatch.setattr(
        matrix, "KERNELS", (matrix.Wanted("old", ("1.1:a", "1.1:b")), matrix.Wanted("new", ("9.9:a",), decides=False))
    )
    return known


def test_all_is_well(guests: dict[str, Guest | Exception], capsys: pytest.CaptureFixture[str]) -> None:
    guests.update({"1.1:a": GOOD, "9.9:a": GOOD})
    assert matrix.main([]) == 0
    assert "old (Linux 1.1.7-1): 1 passed, 0 failed, 0 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (report(("test_x[linux-NL-1]", {"rule": "NL-1"}, "<failure/>")), "failed: tests.contract.test_a::test_x[linux-NL-1]"),
        (report(("test_x[linux-NL-1]", {"rule": "NL-1"}, "<error/>")), "failed: tests.contract.test_a::test_x[linux-NL-1]"),
        (report(("test_x", {}, '<skipped message="no mood"/>')), "failed: tests.contract.test_a::test_x: skipped, but by no probe"),
        (report(), "0 passed, 0 failed"),
        (GuestTimeout("no end after 5 s"), "no end after 5 s"),
        (lambda share: 4, "No such file or directory"),
        (half_a_report, "no result: ParseError"),
    ],
    ids=["failed", "error", "skipped", "nothing", "timeout", "no report", "half a report"],
)
@pytest.mark.parametrize(("source", "decides"), [("1.1:a", True), ("9.9:a", False)])
def test_what_goes_wrong_matters_where_it_decides(
    guests: dict[str, Guest | Exception],
    capsys: pytest.CaptureFixture[str],
    end: Guest | Exception,
    told: str,
    source: str,
    decides: bool,
) -> None:
    guests.update({"1.1:a": GOOD, "9.9:a": GOOD})
    guests[source] = end
    assert matrix.main([]) == int(decides)
    said = capsys.readouterr().out
    assert told in said
    assert ("does not decide" in said) is not decides


def test_a_kernel_may_come_from_elsewhere(guests: dict[str, Guest | Exception]) -> None:
    guests["1.1:b"] = GOOD
    assert matrix.main(["old"]) == 0


def test_a_kernel_that_cannot_be_had(guests: dict[str, Guest | Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["old"]) == 1
    assert "old: 1.1:a is not to be had; 1.1:b is not to be had" in capsys.readouterr().out
    assert matrix.main(["new"]) == 0


def test_any_other_kernel_decides(guests: dict[str, Guest | Exception]) -> None:
    guests["7.7:x"] = report(("test_x", {}, "<failure/>"))
    assert matrix.main(["7.7:x"]) == 1


def test_the_table_has_probes_and_what_each_rule_needed(guests: dict[str, Guest | Exception]) -> None:
    guests["1.1:a"] = report(
        ("test_x[linux-QV-38]", {"rule": "QV-38", "needs": "payloads-unexamined"}, ""),
        ("test_y[linux-QV-38]", {"rule": "QV-38", "needs": "payloads-examined"}, SKIPPED.format("payloads-examined")),
        ("test_z[linux-QV-38]", {"rule": "QV-38"}, ""),
        probes={"priority-told": None, "payloads-examined": "it does not"},
    )
    [outcome] = [matrix.run(kernel, [], matrix.arguments([]), matrix.TABLE.parent / "r") for kernel in matrix.wanted(["old"])]
    kernel = matrix.merged({}, [outcome], "quick")["kernels"]["1.1"]
    assert kernel["probes"] == {"payloads-examined": "it does not", "priority-told": ""}
    assert kernel["rules"] == {"QV-38": ["", "payloads-unexamined"]}
    assert (kernel["passed"], kernel["failed"], kernel["skipped"]) == (2, [], 1)


def test_kernels_that_were_not_run_keep_their_columns(guests: dict[str, Guest | Exception]) -> None:
    guests["1.1:a"] = GOOD
    outcomes = [matrix.run(kernel, [], matrix.arguments([]), matrix.TABLE.parent / kernel.name) for kernel in matrix.wanted([])]
    before = {"kernels": {"10.2": {"linux": "10.2.1"}, "1.1": {"linux": "1.1.1"}, "9.9": {"linux": "9.9.1"}}}
    after = matrix.merged(before, outcomes, "quick")["kernels"]
    assert {name: kernel["linux"] for name, kernel in after.items()} == {"1.1": "1.1.7-1", "9.9": "9.9.1", "10.2": "10.2.1"}
    assert list(after) == ["1.1", "9.9", "10.2"]


# ------------------------------------------------------------------------------------------------------------------- the tables


def test_what_kernels_do_differently_is_explained() -> None:
    rows = {difference.probe: difference for difference in behaviour.differences()}
    assert rows.keys() <= probes.PROBES.keys()
    for row in rows.values():
        assert all((row.meaning, row.since, row.source, row.explained)), row.probe
    found = json.loads((matrix.ROOT / "docs" / "reference" / "kernels.json").read_text(encoding="utf-8"))["kernels"].values()
    answers = {name: {kernel["probes"].get(name) == "" for kernel in found} for kernel in found for name in kernel["probes"]}
    opposites = {"buffers-are-kept-to", "payloads-examined", "flags-are-plain-numbers"}
    assert {name for name, told in answers.items() if len(told) > 1} - rows.keys() - opposites == set()


# -------------------------------------------------------------------------------------------------------------------- the subset


def test_few_tests_cover_every_rule_and_every_need() -> None:
    """However many tests there are: of those that are left out, none is about something that the others are not about."""
    candidates: list[quick.Candidate] = []
    chosen: set[object] = set()

    def script(contract: nested.Contract) -> None:
        items = [test.item for test in contract.tests]
        candidates.extend(candidate for item in items if (candidate := quick.Candidate.of(item)))
        chosen.update(quick.chosen(items))

    nested.run(script)
    everything = {covered for candidate in candidates for covered in candidate.covers}
    assert {covered for candidate in candidates if candidate.item in chosen for covered in candidate.covers} == everything
    assert len(chosen) < len(candidates) / 3
    told = {("linux", rule.id) for rule in table() if rule.linux == "yes" and not rule.source.startswith("nfnl/")}
    assert told <= {covered[:2] for covered in everything}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["a.py::test_x[linux-A-1]", "a.py::test_x[linux-A-2]", "b.py::test_y"], {"a.py::test_x", "b.py::test_y"}),
        (["a.py::test_x", "b.py"], set()),
        (["tests/contract"], set()),
    ],
)
def test_only_what_is_named_is_made_where_everything_is_named(words: list[str], named: set[str]) -> None:
    config = cast(pytest.Config, SimpleNamespace(args=words, stash=pytest.Stash()))
    assert quick.named_on(config) == named
