"""Would the contract notice? A fault is planted in the fake, and a test of the rules it breaks must fail."""

from __future__ import annotations

import pytest

from tests.contract import nested
from tests.contract.faults import FAULTS, Fault
from tests.contract.rules import group_of, table


def unnoticed(contract: nested.Contract, fault: Fault) -> str | None:
    """Why the contract does not notice this fault; None if it does."""
    tests = [test for test in contract.tests if test.kernel == "fake" and fault.group in test.groups]
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        failed = next((test for test in tests if not contract.passes(test)), None)
    if failed is None:
        return f"all {len(tests)} tests of {fault.group} pass"
    if not contract.passes(failed):
        return f"{failed.item.nodeid} fails without it, too"
    return None


@pytest.fixture(scope="module")
def complaints() -> dict[str, str | None]:
    """For each fault, why it is not noticed."""
    found: dict[str, str | None] = {}

    def script(contract: nested.Contract) -> None:
        found.update({name: unnoticed(contract, fault) for name, fault in FAULTS.items()})

    nested.run(script)
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_the_contract_notices_that(name: str, complaints: dict[str, str | None]) -> None:
    assert complaints[name] is None


def test_every_group_of_rules_has_a_fault() -> None:
    tested = {group_of(rule.id) for rule in table() if rule.tested_on("fake")}
    assert tested - {fault.group for fault in FAULTS.values()} == set()
