"""``nfnl`` itself: what it needs, what it says of itself, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

import nfnl
import nfnl.cli
from tests.unit.cli.terminal import NFNL, Terminal, pipe


def test_the_version() -> None:
    done = pipe("--version")
    assert done.stdout.decode() == f"nfnl {nfnl.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["demo", "--help"], ["decode", "-h"], ["queue", "-h"], ["show", "-h"], ["doctor", "-h"], ["conntrack", "-h"]],
)
def test_help_has_examples(arguments: list[str]) -> None:
    done = pipe(*arguments)
    assert done.returncode == 0
    assert "Examples:\n    nfnl" in done.stdout.decode() or "| nfnl decode\n" in done.stdout.decode()


def test_an_unknown_command_is_named() -> None:
    done = pipe("dance")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No such command 'dance'" in done.stderr


def test_importing_the_command_costs_nothing() -> None:
    heavy = "import sys, nfnl.cli; print([m for m in ('click', 'rich', 'scapy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_is_missing_is_said_and_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "click" else ModuleSpec(name, None)

    monkeypatch.setattr(nfnl.cli, "find_spec", find_spec)
    with pytest.raises(SystemExit) as end:
        nfnl.cli.main()
    assert end.value.code == "nfnl: the command needs click, to be had with: pip install 'nfnl[cli]'"


def test_a_reader_that_goes_away_is_no_accident() -> None:
    many = b"1c000000020305000100000000000000000000010800010001000000\n\n" * 3000
    running = subprocess.Popen([*NFNL, "decode"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin
    assert running.stdout
    assert running.stderr
    running.stdin.write(many)
    running.stdin.close()
    assert running.stdout.readline().startswith(b"# datagram 1")
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait() == 1


def test_ctrl_c_ends_it_in_a_word() -> None:
    terminal = Terminal("decode")
    terminal.read(until="Ctrl-D ends it.")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.type("\n")  # a signal that came just before the read is seen behind it
    assert terminal.close() == 1
    assert "Traceback" not in terminal.shown
    assert terminal.shown.rstrip().endswith("Aborted!")
