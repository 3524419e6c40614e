"""Compare the tests a run skipped with those that may be: `python tests/check_skips.py report.xml ...`

The reports are what `pytest --junitxml=report.xml` writes. `skips.txt` beside this file lists, one a line, a test
(``*`` stands for anything) and the probe that skips it:

    contract.test_sockets::*[linux-*]   lab-available

The exit status is 1, with a readable reason, when a test was skipped that is not listed or not by that probe, and when a line
of the list skipped nothing: then the list promises less than is done, and nobody would notice when it becomes true.
``--list FILE`` takes another list.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

REASON = re.compile(r"probe ([\w-]+): ")


@dataclass(frozen=True)
class Skip:
    """A test that was skipped, and why."""

    test: str
    reason: str

    @property
    def probe(self) -> str | None:
        """Name of the probe that skipped it; None if somebody skipped it without one."""
        match = REASON.match(self.reason)
        return match[1] if match else None


@dataclass(frozen=True)
class Expected:
    """A line of the list."""

    tests: str
    probe: str

    @property
    def pattern(self) -> str:
        """The regular expression that the names of its tests match."""
        return re.escape(self.tests).replace(r"\*", ".*")

    def covers(self, skip: Skip) -> bool:
        """This line allows that skip."""
        return skip.probe == self.probe and re.fullmatch(self.pattern, skip.test) is not None


def skips_of(report: Path) -> list[Skip]:
    """The skipped tests of one JUnit report; an expected failure counts as one."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for skipped in case.iter("skipped"):
            test = f"{case.get('classname')}::{case.get('name')}".removeprefix("tests.")
            found.append(Skip(test, skipped.get("message") or ""))
    return found


def expected_of(text: str) -> list[Expected]:
    """The lines of a list. Raises ValueError for one that is not a test and a probe."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(f"line {number}: want a test and a probe, not {line!r}")
        found.append(Expected(*words))
    return found


def complaints(skips: list[Skip], expected: list[Expected]) -> list[str]:
    """What is wrong, one sentence each; [] when the skips are the expected ones."""
    unlisted = [skip for skip in skips if not any(line.covers(skip) for line in expected)]
    idle = [line for line in expected if not any(line.covers(skip) for skip in skips)]
    return [
        *(f"skipped, but not in the list: {skip.test} ({skip.reason})" for skip in unlisted),
        *(f"in the list, but nothing was skipped by it: {line.tests} {line.probe}" for line in idle),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, metavar="report.xml")
    parser.add_argument("--list", type=Path, default=Path(__file__).with_name("skips.txt"))
    given = parser.parse_args(arguments)
    skips = [skip for report in given.reports for skip in skips_of(report)]
    wrong = complaints(skips, expected_of(given.list.read_text(encoding="utf-8")))
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(skips)} skipped, {'as expected' if not wrong else f'{len(wrong)} differences from {given.list}'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
