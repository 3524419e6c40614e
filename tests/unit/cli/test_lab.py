"""``nfnl lab run``: what is said to it, and how its exit status tells what happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nfnl.cli.app import app
from nfnl.testing import guest
from nfnl.testing._kernels import KernelError
from nfnl.testing.guest import GuestError, GuestTimeout, Kernel


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a guest was asked for; ``"outcome"`` can be set."""
    seen: dict[str, Any] = {"outcome": 0}

    def find(what: str, tell: object) -> Kernel:
        seen["kernel"] = what
        return Kernel(Path(what), None, "6.1.5")

    def run(kernel: Kernel, command: Sequence[str], **options: Any) -> int:
        seen.update(options, command=list(command))
        if isinstance(seen["outcome"], Exception):
            raise seen["outcome"]
        return int(seen["outcome"])

    monkeypatch.setattr(guest, "find_kernel", find)
    monkeypatch.setattr(guest, "run", run)
    return seen


def nfnl(*words: str) -> Any:
    return CliRunner().invoke(app, ["lab", "run", *words])


def test_what_is_not_said(asked: dict[str, Any]) -> None:
    assert nfnl("--kernel", "stone:linux", "--", "pytest", "-q").exit_code == 0
    assert asked["kernel"] == "stone:linux"
    assert (asked["command"], asked["timeout"], asked["memory"], asked["share"]) == (["pytest", "-q"], 300, 1024, None)


def test_everything_said(asked: dict[str, Any]) -> None:
    words = [
        "--kernel",
        "vmlinuz",
        "--timeout",
        "20.5",
        "--memory",
        "2048",
        "--share",
        "out",
        "--",
        "sh",
        "-c",
        "exit 1",
        "--",
        "--memory",
    ]
    assert nfnl(*words).exit_code == 0
    assert (asked["timeout"], asked["memory"], asked["share"]) == (20.5, 2048, Path("out"))
    assert asked["command"] == ["sh", "-c", "exit 1", "--", "--memory"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "true"], "Missing option '--kernel'"),
        (["--kernel", "vmlinuz"], "Missing argument '-- COMMAND...'"),
        (["--kernel", "vmlinuz", "--timeout", "0", "--", "true"], "Invalid value for '--timeout'"),
        (["--kernel", "vmlinuz", "--memory", "much", "--", "true"], "Invalid value for '--memory'"),
    ],
)
def test_what_is_said_wrong(asked: dict[str, Any], words: list[str], said: str) -> None:
    done = nfnl(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "command" not in asked


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        (0, 0, ""),
        (7, 7, ""),
        (GuestTimeout("no end after 1 s"), 124, "nfnl lab: no end after 1 s\n"),
        (GuestError("the kernel panicked"), 125, "nfnl lab: the kernel panicked\n"),
        (KernelError("no such package"), 125, "nfnl lab: no such package\n"),
    ],
)
def test_the_exit_status_tells_what_happened(asked: dict[str, Any], outcome: object, status: int, said: str) -> None:
    asked["outcome"] = outcome
    done = nfnl("--kernel", "vmlinuz", "--", "true")
    assert (done.exit_code, done.stderr, done.stdout) == (status, said, "")
