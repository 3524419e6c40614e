"""Would the contract notice? A fault is planted in the fake, and the tests of the rules it breaks must fail."""

from __future__ import annotations

import pytest

from tests.contract import nested
from tests.contract.faults import FAULTS
from tests.contract.rules import group_of, table


@pytest.mark.parametrize("name", FAULTS)
def test_the_contract_notices_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    broken = nested.run("-x", wanted=lambda _, kernel, rules: kernel == "fake" and fault.group in map(group_of, rules))
    assert broken.failed, f"{len(broken.passed)} tests of {fault.group} passed on a kernel where {name}\n{broken.output}"
    monkeypatch.undo()
    whole = nested.run(wanted=lambda node, *_: node in broken.failed)
    assert whole.passed == broken.failed, f"it fails without the fault, too:\n{whole.output}"


def test_every_group_of_rules_has_a_fault() -> None:
    tested = {group_of(rule.id) for rule in table() if rule.tested_on("fake")}
    assert tested - {fault.group for fault in FAULTS.values()} == set()
