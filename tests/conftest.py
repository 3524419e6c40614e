"""Options and environment of the whole suite. hypothesis is reproducible; `--hypothesis-profile=deep` searches long."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import probes

# ip, nft and iptables stand where Debian does not let ordinary users look.
os.environ["PATH"] += ":/usr/sbin:/sbin"

settings.register_profile("default", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", deadline=None, max_examples=5000, suppress_health_check=list(HealthCheck))
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mutations", type=int, default=20_000, help="how many mutated messages tests/properties/test_mutations.py tries"
    )
    parser.addoption("--boot", default="", metavar="KERNEL", help="boot this kernel (as in: nfnl lab run --kernel) in a guest")


def pytest_configure(config: pytest.Config) -> None:
    probes.BOOT = config.getoption("--boot")
