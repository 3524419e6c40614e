"""A run of the contract inside a test: for tests about the tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.rules import rules_of

Wanted = Callable[[str, str, list[str]], bool]


@dataclass
class Contract:
    """What a run of the contract found: it is the plugin that watches the run, too."""

    #: which of the tests are to run: given a node id, the kernel and the rules, says so
    wanted: Wanted
    #: kernel and rules of each test wanted, by node id
    tests: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    #: what pytest printed, for the message of a failed assertion
    output: str = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            callspec = getattr(item, "callspec", None)
            if callspec is None or "rule_ids" not in callspec.params:
                continue
            kernel, rules = str(callspec.params["kernel"]), rules_of(callspec.params["rule_ids"])
            if self.wanted(item.nodeid, kernel, rules):
                self.tests[item.nodeid] = kernel, rules
        items[:] = [item for item in items if item.nodeid in self.tests]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            (self.failed if report.failed else self.passed).append(report.nodeid)

    @property
    def rules(self) -> set[tuple[str, str]]:
        """Kernel and rule, of all tests wanted."""
        return {(kernel, rule) for kernel, rules in self.tests.values() for rule in rules}


def run(*options: str, wanted: Wanted = lambda node, kernel, rules: True) -> Contract:
    """Run the contract in this process, or a part of it. What is monkeypatched out there is monkeypatched in it."""
    contract = Contract(wanted)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        patch.delenv("PYTEST_ADDOPTS", raising=False)  # options of the outer run, such as where to write a report
        code = pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider", *options], plugins=[contract])
    contract.output = out.getvalue()
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), contract.output
    return contract
