"""A run of the contract inside a test: for tests about the tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.rules import group_of, rules_of


@dataclass(frozen=True)
class Test:
    """A test of the contract: about which rules, on which kernel."""

    __test__ = False  # pytest is not to take this class for one

    item: pytest.Item
    kernel: str
    rules: list[str]

    @property
    def groups(self) -> set[str]:
        """The groups its rules belong to."""
        return set(map(group_of, self.rules))


@dataclass
class Contract:
    """The tests there are. It is the plugin that watches and steers the inner run, too."""

    #: what is done with the tests when all are collected
    script: Callable[[Contract], None]
    tests: list[Test] = field(default_factory=list)
    _reports: list[pytest.TestReport] = field(default_factory=list)

    def passes(self, test: Test) -> bool:
        """Run this test; it may be run more than once."""
        self._reports.clear()
        test.item.ihook.pytest_runtest_protocol(item=test.item, nextitem=None)
        return all(report.passed for report in self._reports)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            callspec = getattr(item, "callspec", None)
            if callspec is not None and "rule_ids" in callspec.params:
                self.tests.append(Test(item, str(callspec.params["kernel"]), rules_of(callspec.params["rule_ids"])))

    def pytest_runtestloop(self) -> bool:
        self.script(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)


def run(script: Callable[[Contract], None]) -> str:
    """Collect the contract in this process, whether its tests would run or be skipped, and do what the script says.

    What is monkeypatched out there is monkeypatched in it. Returns what pytest printed.
    """
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        patch.delenv("PYTEST_ADDOPTS", raising=False)  # options of the outer run, such as where to write a report
        code = pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider"], plugins=[Contract(script)])
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), out.getvalue()
    return out.getvalue()
