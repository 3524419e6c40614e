"""The comparison of skipped tests with those that may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import probes
from tests.check_skips import Expected, Skip, complaints, expected_of, main, skips_of

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest">
<testcase classname="tests.contract.test_sockets" name="test_x[fake-NL-8]" />
<testcase classname="tests.contract.test_sockets" name="test_x[linux-NL-8]">
<skipped message="{message}">where</skipped></testcase>
</testsuite></testsuites>
"""
NO_LAB = Skip("contract.test_sockets::test_x[linux-NL-8]", "probe lab-available: no tun device")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(REPORT.format(message="probe lab-available: no tun device"))
    return path


def listed(tmp_path: Path, text: str) -> str:
    path = tmp_path / "skips.txt"
    path.write_text(text)
    return str(path)


def test_skipped_tests_are_read_from_the_report(report: Path) -> None:
    assert skips_of(report) == [NO_LAB]


def test_a_skip_names_its_probe() -> None:
    assert NO_LAB.probe == "lab-available"
    assert Skip("x", "needs root").probe is None


@pytest.mark.parametrize(
    "line",
    [
        "contract.test_sockets::test_x[linux-NL-8] lab-available",
        "contract.*::*[linux-*] lab-available",
        "* lab-available",
    ],
)
def test_a_listed_skip_is_fine(line: str) -> None:
    assert complaints([NO_LAB], expected_of(line)) == []


def test_brackets_are_only_brackets() -> None:
    assert not Expected("contract.test_sockets::test_x[linuxNL8-]", "lab-available").covers(NO_LAB)


def test_a_skip_that_is_not_listed() -> None:
    [complaint] = complaints([NO_LAB], [])
    assert complaint == f"skipped, but not in the list: {NO_LAB.test} (probe lab-available: no tun device)"


def test_a_listed_test_that_another_probe_skipped() -> None:
    assert len(complaints([NO_LAB], [Expected(NO_LAB.test, "root")])) == 2


def test_a_skip_without_a_probe_is_never_expected() -> None:
    skip = Skip("a::b", "needs root")
    assert complaints([skip], [Expected("*", "root")])[0] == "skipped, but not in the list: a::b (needs root)"


def test_a_line_that_skipped_nothing() -> None:
    assert complaints([], [Expected("a::*", "root")]) == ["in the list, but nothing was skipped by it: a::* root"]


def test_the_list_has_comments() -> None:
    assert expected_of("# why\n\na::b  root  # because\n") == [Expected("a::b", "root")]
    with pytest.raises(ValueError, match="line 2"):
        expected_of("a::b root\nc::d\n")


def test_the_command(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = listed(tmp_path, f"{NO_LAB.test} lab-available"), str(tmp_path / "empty.txt")
    Path(bad).write_text("")
    assert main([str(report), "--list", good]) == 0
    assert capsys.readouterr().out == "1 skipped, as expected\n"
    assert main([str(report), "--list", bad]) == 1
    assert "test_x[linux-NL-8]" in capsys.readouterr().err


def test_an_expected_failure_counts_as_a_skip(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT.format(message="xfail reason"))
    assert main([str(path), "--list", listed(tmp_path, "* lab-available")]) == 1


def test_the_committed_list_names_probes_there_are() -> None:
    text = (Path(__file__).parents[1] / "skips.txt").read_text()
    assert {line.probe for line in expected_of(text)} - set(probes.PROBES) == set()


def test_requiring_skips_with_the_name_of_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.PROBES, "moon", lambda: "not full")
    with pytest.raises(pytest.skip.Exception, match="probe moon: not full"):
        probes.require("moon")
    monkeypatch.setitem(probes.PROBES, "moon", lambda: None)
    probes.require("moon")
