"""The table of rules and the tests say the same."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.contract import nested
from tests.contract.rules import KERNELS, table


@pytest.fixture(scope="module")
def tested() -> set[tuple[str, str]]:
    """Kernel and rule, for every test there is, whether it would run here or be skipped."""
    found: set[tuple[str, str]] = set()
    nested.run(lambda contract: found.update((test.kernel, rule) for test in contract.tests for rule in test.rules))
    return found


def test_every_id_stands_once() -> None:
    assert [name for name, count in Counter(rule.id for rule in table()).items() if count > 1] == []


def test_every_row_is_filled_in() -> None:
    for rule in table():
        assert rule.text, rule
        assert rule.source, rule
        for kernel in KERNELS:
            verdict, _, why = getattr(rule, kernel).partition(": ")
            right = verdict == "yes" or (verdict in ("no", "later") and why)
            assert right, f"{rule.id}, {kernel}: say yes, 'no: why' or 'later: why'"


def test_tests_are_about_rules_of_the_table(tested: set[tuple[str, str]]) -> None:
    assert {rule for _, rule in tested} - {rule.id for rule in table()} == set()


@pytest.mark.parametrize("name", KERNELS)
def test_the_table_knows_what_is_tested(name: str, tested: set[tuple[str, str]]) -> None:
    by_tests = {rule for kernel, rule in tested if kernel == name}
    by_table = {rule.id for rule in table() if rule.tested_on(name)}
    assert by_table - by_tests == set(), "the table says yes, but there is no test"
    assert by_tests - by_table == set(), "there is a test, but the table does not say yes"
