"""The pytest plugin of nfnl: a kernel for your tests. It comes with ``nfnl[testing]`` and needs no configuration.

    def test_only_pings_get_through(kernel):
        kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
        ...

* ``kernel`` is a fresh kernel for each test: the fake one, unless ``pytest --nfnl-kernel=linux`` says that the same tests are
  to run on Linux, in a throw-away network namespace, or ``--nfnl-kernel=both`` that each is to run twice.
* ``fake_kernel`` is always the fake one, for tests that need what only it can do (`advance`, `snapshot`).

Asked for Linux where it cannot be had, a test fails; asked for both, its Linux half is skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nfnl.sim import FakeKernel
    from nfnl.testing.lab import LinuxLab

KERNELS = ("fake", "linux")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("nfnl", "nfnl").addoption(
        "--nfnl-kernel",
        choices=(*KERNELS, "both"),
        default="fake",
        help="the kernel behind the fixture 'kernel': the fake one (default), Linux in a namespace of its own, or each in turn",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "nfnl_kernel" in metafunc.fixturenames and metafunc.config.getoption("--nfnl-kernel") == "both":
        metafunc.parametrize("nfnl_kernel", KERNELS, indirect=True)


@contextmanager
def make_kernel(name: str) -> Iterator[FakeKernel | LinuxLab]:
    """A fresh kernel, ``"fake"`` or ``"linux"``. Raises OSError where there can be no such Linux."""
    # imported here: pytest loads this plugin in every run, and few of them want a kernel
    if name == "fake":
        from nfnl.sim import FakeKernel

        yield FakeKernel()
    else:
        from nfnl.testing.lab import LinuxLab

        with LinuxLab() as lab:
            yield lab


@pytest.fixture
def nfnl_kernel(request: pytest.FixtureRequest) -> str:
    """Which kernel this test runs on: ``"fake"`` or ``"linux"``."""
    name: str = getattr(request, "param", None) or request.config.getoption("--nfnl-kernel")
    return name


@pytest.fixture
def kernel(nfnl_kernel: str) -> Iterator[FakeKernel | LinuxLab]:
    """A fresh kernel of the kind asked for with ``--nfnl-kernel``."""
    with make_kernel(nfnl_kernel) as made:
        yield made


@pytest.fixture
def fake_kernel() -> Iterator[FakeKernel]:
    """A fresh fake kernel, whatever ``--nfnl-kernel`` says."""
    with make_kernel("fake") as made:
        yield made
