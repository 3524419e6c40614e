"""The fixtures that users get with nfnl[testing]."""

from __future__ import annotations

import os

import pytest

from nfnl.testing.lab import LinuxLab
from nfnl.testing.plugin import become_root_of_a_namespace

pytest_plugins = ["pytester"]

TESTS = """
    from nfnl.sim import FakeKernel
    from nfnl.testing.lab import LinuxLab

    def test_kernel(kernel):
        kernel.iptables("-A INPUT -j DROP")
        print(type(kernel).__name__)

    def test_fake(fake_kernel):
        assert isinstance(fake_kernel, FakeKernel)

    def test_fresh(kernel):
        assert kernel.read_proc("netfilter/nfnetlink_queue") == ""
        kernel.open()
"""


@pytest.fixture(autouse=True)
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Times that a test run has moved to a user namespace; but these tests stay where they are."""
    made: list[str] = []
    monkeypatch.setattr("nfnl.testing.lab.enter_user_namespace", lambda: made.append("moved"))
    return made


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess("-v", "-s", "-ra", "-p", "no:cacheprovider", *options)


def test_the_kernel_is_the_fake_one(pytester: pytest.Pytester) -> None:
    result = run(pytester)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_kernel *FakeKernel*"])


def test_the_kernel_is_linux_when_asked_for(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfnl.testing.lab.LinuxLab", Lab)
    result = run(pytester, "--nfnl-kernel=linux")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_kernel *Lab*"])


def test_the_kernel_is_each_in_turn(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfnl.testing.lab.LinuxLab", Lab)
    result = run(pytester, "--nfnl-kernel=both")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*test_kernel[[]fake] *FakeKernel*", "*test_kernel[[]linux] *Lab*"])


def test_no_linux_is_a_failure_for_who_asked_for_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinuxLab, "available", staticmethod(lambda: "it is Sunday"))
    result = run(pytester, "--nfnl-kernel=linux")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*lab-available: it is Sunday*"])


def test_no_linux_is_a_skip_for_who_asked_for_both(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinuxLab, "available", staticmethod(lambda: "it is Sunday"))
    result = run(pytester, "--nfnl-kernel=both")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(["*probe lab-available: it is Sunday*"])


@pytest.mark.parametrize(
    ("user", "kernel", "moved"), [(0, "linux", False), (1000, "fake", False), (1000, "linux", True), (1000, "both", True)]
)
def test_an_ordinary_user_moves_to_a_namespace(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, moves: list[str], user: int, kernel: str, moved: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    pytester.runpytest_inprocess("--collect-only", "-p", "no:cacheprovider", f"--nfnl-kernel={kernel}")
    assert bool(moves) is moved


def test_who_moves_keeps_a_name(monkeypatch: pytest.MonkeyPatch, moves: list[str]) -> None:
    """Root of a namespace is not to share pytest's directories with root of the machine."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    monkeypatch.delenv("LOGNAME", raising=False)
    become_root_of_a_namespace()
    assert moves
    assert os.environ.pop("LOGNAME") == "alice"


def test_an_unknown_kernel_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--nfnl-kernel=plan9")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*invalid choice: *plan9*"])


class Lab:
    """Stands for LinuxLab where it is only asked which kernel a test gets."""

    @staticmethod
    def available() -> None:
        return None

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iptables(self, line: str) -> None:
        pass

    def read_proc(self, name: str) -> str:
        return ""

    def open(self) -> None:
        pass


def test_importing_the_plugin_is_cheap(pytester: pytest.Pytester) -> None:
    # every run of pytest where nfnl is installed imports it
    script = "import sys, nfnl.testing.plugin; print([m for m in sys.modules if m.split('.')[0] == 'scapy' or 'lab' in m])"
    result = pytester.runpython_c(script)
    result.stdout.fnmatch_lines(["[[]]"])
