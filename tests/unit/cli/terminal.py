"""The command as a person runs it: in a terminal, and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

NFNL = [sys.executable, "-c", "from nfnl.cli import main; main()"]


def pipe(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run it with everything in pipes."""
    return subprocess.run([*NFNL, *arguments], input=given, capture_output=True, check=False)


class Terminal:
    """It runs in a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, command: Sequence[str] = ()) -> None:
        """``command`` instead: another program."""
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            command or [*NFNL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.shown = ""

    def read(self, until: str | None = None) -> str:
        """What it has shown, up to some text, or to its end."""
        while until is None or until not in self.shown:
            piece = b""
            with suppress(OSError):  # EIO: nobody has the terminal open any more
                piece = os.read(self._ours, 4096)
            if not piece:
                break
            self.shown += piece.decode()
        return self.shown

    def type(self, text: str) -> None:
        """Press keys, if there is still somebody to read them."""
        with suppress(OSError):
            os.write(self._ours, text.encode())

    def close(self) -> int:
        """Wait for its end; the exit status."""
        self.read()
        os.close(self._ours)
        return self.process.wait()


def without_colour(shown: str) -> str:
    """Text as it looks, without escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
