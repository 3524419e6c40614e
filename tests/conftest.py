"""Options and environment of the whole suite. hypothesis is reproducible; `--hypothesis-profile=deep` searches long."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests import probes

# ip, nft and iptables stand where Debian does not let ordinary users look.
os.environ["PATH"] += ":/usr/sbin:/sbin"
# A shell starts what it puts into the background without Ctrl-C, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mutations", type=int, default=20_000, help="how many mutated messages tests/properties/test_mutations.py tries"
    )
    parser.addoption(
        "--differential",
        type=int,
        default=2_000,
        help="how many packets tests/properties/test_differential.py sends to two kernels",
    )
    parser.addoption("--quick", action="store_true", help="of the contract a few tests that are about every rule, and nothing else")
    parser.addoption("--tell-probes", metavar="FILE", type=Path, help="write what all probes of tests/probes.py say, as JSON")
    parser.addoption("--boot", default="", metavar="KERNEL", help="boot this kernel (as in: nfnl lab run --kernel) in a guest")


@pytest.hookimpl(tryfirst=True)  # before the option that chooses a profile is looked at
def pytest_configure(config: pytest.Config) -> None:
    probes.BOOT = config.getoption("--boot")
    if not config.getoption("--quick"):  # which generates nothing, and hypothesis takes seconds to import in a guest
        from hypothesis import HealthCheck, settings

        settings.register_profile("default", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
        settings.register_profile("deep", deadline=None, max_examples=5000, suppress_health_check=list(HealthCheck))
        settings.load_profile("default")


def pytest_sessionfinish(session: pytest.Session) -> None:
    told: Path | None = session.config.getoption("--tell-probes")
    if told:
        answers = {name: ask() for name, ask in probes.PROBES.items()}
        told.write_text(json.dumps({"release": os.uname().release, "probes": answers}, indent=1), encoding="utf-8")
