"""Hypothesis profiles for the whole suite: reproducible by default, `--hypothesis-profile=deep` for a long search."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# ip, nft and iptables stand where Debian does not let ordinary users look.
os.environ["PATH"] += ":/usr/sbin:/sbin"

settings.register_profile("default", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", deadline=None, max_examples=5000, suppress_health_check=list(HealthCheck))
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mutations", type=int, default=20_000, help="how many mutated messages tests/properties/test_mutations.py tries"
    )
