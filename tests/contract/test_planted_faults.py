"""Would the contract notice? A fault is planted in the fake, and the tests of the rules it breaks must fail."""

from __future__ import annotations

import pytest

from contract import nested
from contract.faults import FAULTS
from contract.rules import group_of


@pytest.mark.parametrize("name", FAULTS)
def test_the_contract_notices_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    contract = nested.run("-x", wanted=lambda kernel, rules: kernel == "fake" and fault.group in map(group_of, rules))
    assert contract.failed, f"{len(contract.passed)} tests of {fault.group} passed on a kernel where {name}\n{contract.output}"
