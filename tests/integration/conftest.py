"""These tests need Linux. An ordinary user's run moves to a user namespace, as the contract's does."""

from __future__ import annotations

import pytest

from nfnl.testing.plugin import become_root_of_a_namespace


def pytest_configure(config: pytest.Config) -> None:
    become_root_of_a_namespace()
