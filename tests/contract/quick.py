"""``pytest --quick``: of the contract only so many tests that there is one about every rule. For guests, which are slow.

Nobody keeps a list. A rule is covered anew for each kernel, and for each set of probes that tests about it need, so that a kernel
that differs from others shows it; whatever a usual machine skips, as `skips.txt` has it, is always among them, and rules about nfnl
itself never.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.check_skips import expected_of
from tests.contract.rules import needed_by, rules_of, table

SKIPS = Path(__file__).parent.parent / "skips.txt"


@dataclass(frozen=True)
class Candidate:
    """A test that may be chosen, and what it covers."""

    item: pytest.Item
    #: kernel, rule, and the probes that this test needs beside
    covers: frozenset[tuple[str, str, frozenset[str]]]

    @classmethod
    def of(cls, item: pytest.Item) -> Candidate | None:
        """None, if it is about no rule."""
        callspec = getattr(item, "callspec", None)
        if callspec is None or "rule_ids" not in callspec.params:
            return None
        kernel, needs = callspec.params["kernel"], frozenset(needed_by(item))
        rules = set(rules_of(callspec.params["rule_ids"])) & _of_kernels()
        return cls(item, frozenset((kernel, rule, needs) for rule in rules))


def chosen(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Those of the tests that cover what all of them cover, in the order they have."""
    candidates = [candidate for item in items if (candidate := Candidate.of(item))]
    skipped = re.compile("|".join(line.pattern for line in expected_of(SKIPS.read_text(encoding="utf-8"))))
    always = {candidate for candidate in candidates if skipped.fullmatch(test_name(candidate.item.nodeid))}
    few = always | set(cover([candidate for candidate in candidates if candidate not in always], already=always))
    return [candidate.item for candidate in candidates if candidate in few]


def cover(candidates: list[Candidate], already: Iterable[Candidate] = ()) -> list[Candidate]:
    """Few that cover all: time and again the first of those that cover the most of what is left."""
    left = {covered for candidate in candidates for covered in candidate.covers}
    left -= {covered for candidate in already for covered in candidate.covers}
    found = []
    while left:
        best = max(candidates, key=lambda candidate: len(candidate.covers & left))
        found.append(best)
        left -= best.covers
    return found


@functools.cache
def _of_kernels() -> frozenset[str]:
    return frozenset(rule.id for rule in table() if not rule.source.startswith("nfnl/"))


def test_name(nodeid: str) -> str:
    """What junit reports, and `skips.txt`, call this test."""
    module, *names = nodeid.split("::")
    return f"{module.removeprefix('tests/').removesuffix('.py').replace('/', '.')}::{'::'.join(names)}"


_NAMED = pytest.StashKey[frozenset[str]]()


def named_on(config: pytest.Config) -> frozenset[str]:
    """The functions with the tests that the command line names; none, if it names anything else beside."""
    if _NAMED not in config.stash:
        every = all("::" in word for word in config.args)
        config.stash[_NAMED] = frozenset(word.partition("[")[0] for word in config.args) if every else frozenset()
    return config.stash[_NAMED]


def may_have_some(file: Path) -> bool:
    """Whether it is worth looking for tests about rules in this file."""
    return file.suffix != ".py" or "@rule(" in file.read_text(encoding="utf-8")
