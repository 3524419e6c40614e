"""Tying tests to rules. `rules.tsv` lists the rules; `test_rules_table.py` compares it with the tests."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest

KERNELS = ("fake", "linux")


@dataclass(frozen=True)
class Rule:
    """A row of the table: something the kernel does, where its source says so, and on which kernels a test holds it to that."""

    id: str
    text: str
    source: str
    fake: str
    linux: str

    def tested_on(self, kernel: str) -> bool:
        """The table says that a test runs there; otherwise the column says why none does."""
        return str(getattr(self, kernel)) == "yes"


def table() -> list[Rule]:
    """The rows of `rules.tsv`."""
    with Path(__file__).with_name("rules.tsv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["id", "rule", "source", "fake", "linux 6.18"], header
    return [Rule(*row) for row in rows]


def rule(*ids: str) -> pytest.MarkDecorator:
    """The rules this test is about. They become its parameter: ``test_x[fake-NL-8]``, several joined with a plus."""
    return pytest.mark.rule(*ids)


def only(kernel: str, because: str) -> pytest.MarkDecorator:
    """This test makes sense on one kernel only. The column of the other in `rules.tsv` says why, in its own words."""
    assert kernel in KERNELS
    assert because
    return pytest.mark.only(kernel, because)


def needs(*names: str) -> pytest.MarkDecorator:
    """This test is about Linux kernels of which these probes say yes; as a mark of one case, only that case is."""
    return pytest.mark.needs(*names)


def needed_by(test: pytest.Item) -> list[str]:
    """The probes that a test says it needs."""
    return [str(name) for mark in test.iter_markers("needs") for name in mark.args]


def rules_of(parameter: str) -> list[str]:
    """The ids in a test's parameter."""
    return parameter.split("+")


def group_of(rule: str) -> str:
    """The group a rule belongs to: ``"NL"`` of ``"NL-8"``."""
    return rule.partition("-")[0]
