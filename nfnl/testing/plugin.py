"""The pytest plugin of nfnl: a kernel for your tests. It comes with ``nfnl[testing]`` and needs no configuration.

    def test_only_pings_get_through(kernel):
        kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
        ...

* ``kernel`` is a fresh kernel for each test: the fake one, unless ``pytest --nfnl-kernel=linux`` says that the same tests are
  to run on Linux, in a throw-away network namespace, or ``--nfnl-kernel=both`` that each is to run twice.
* ``fake_kernel`` is always the fake one, for tests that need what only it can do (`advance`, `snapshot`).

Linux needs root. An ordinary user's test run moves to a user namespace instead, where there is one to be had. Asked for Linux
where it cannot be had, a test fails; asked for both, its Linux half is skipped, with the reason.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nfnl.sim import FakeKernel
    from nfnl.testing.lab import LinuxLab

KERNELS = ("fake", "linux")
OPTION = "--nfnl-kernel"

# The kernels are imported where they are made: pytest loads this plugin in every run, and few runs want a kernel.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("nfnl", "nfnl").addoption(
        OPTION,
        choices=(*KERNELS, "both"),
        default="fake",
        help="the kernel behind the fixture 'kernel': the fake one (default), Linux in a namespace of its own, or each in turn",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION) != "fake":
        become_root_of_a_namespace()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "nfnl_kernel" in metafunc.fixturenames and metafunc.config.getoption(OPTION) == "both":
        metafunc.parametrize("nfnl_kernel", KERNELS, indirect=True)


def become_root_of_a_namespace() -> None:
    """Give an ordinary user what a lab needs, by moving the process to a user namespace.

    Where that cannot be, `LinuxLab.available` will tell why there is no lab.
    """
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        from nfnl.testing.lab import enter_user_namespace

        # pytest names its directory in /tmp after the user; it is to be this user's, not one that root may have there
        with suppress(OSError, KeyError):
            os.environ.setdefault("LOGNAME", getpass.getuser())
        with suppress(OSError):
            enter_user_namespace()


@pytest.fixture
def nfnl_kernel(request: pytest.FixtureRequest) -> str:
    """Which kernel this test runs on: ``"fake"`` or ``"linux"``."""
    name: str = getattr(request, "param", None) or request.config.getoption(OPTION)
    return name


@pytest.fixture
def kernel(request: pytest.FixtureRequest, nfnl_kernel: str) -> Iterator[FakeKernel | LinuxLab]:
    """A fresh kernel of the kind asked for with ``--nfnl-kernel``."""
    if nfnl_kernel == "fake":
        from nfnl.sim import FakeKernel

        with FakeKernel() as fake:
            yield fake
        return
    from nfnl.testing.lab import LinuxLab

    if why_not := LinuxLab.available():
        give_up = pytest.skip if request.config.getoption(OPTION) == "both" else pytest.fail
        give_up(f"probe lab-available: {why_not}")
    with LinuxLab() as lab:
        yield lab


@pytest.fixture
def fake_kernel() -> Iterator[FakeKernel]:
    """A fresh fake kernel, whatever ``--nfnl-kernel`` says."""
    from nfnl.sim import FakeKernel

    with FakeKernel() as fake:
        yield fake
