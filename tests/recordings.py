"""Reading the recordings in fixtures/: bytes of real kernels and real programs, never of our own encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nfnl.wire.declare import Direction

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True)
class Recording:
    """One datagram, and where it comes from."""

    name: str
    direction: Direction
    label: str
    data: bytes
    #: version of the kernel it was made on
    kernel: str = ""


def exchanges(subsystem: str = "queue") -> Iterator[Recording]:
    """One file per datagram: `# key: value` lines, then hex."""
    for path in sorted((FIXTURES / subsystem / "exchanges").rglob("*.hex")):
        notes, digits = {}, ""
        for line in path.read_text().splitlines():
            if line.startswith("#"):
                key, _, value = line[1:].partition(":")
                notes[key.strip()] = value.strip()
            else:
                digits += line
        direction = Direction.FROM_KERNEL if notes["direction"] == "kernel->user" else Direction.TO_KERNEL
        yield Recording(f"{path.parent.name}/{path.stem}", direction, notes["label"], bytes.fromhex(digits), notes["kernel"])


def sessions(subsystem: str = "queue") -> Iterator[Recording]:
    """Whole conversations: a `>` or `<` label line, then the datagram in hex."""
    for path in sorted((FIXTURES / subsystem / "sessions").glob("*.txt")):
        yield from _conversation(path, path.stem)


def recorded(subsystem: str = "queue") -> Iterator[Recording]:
    """The same, made by ``nfnl record``, of which each kernel has its own."""
    for path in sorted((FIXTURES / subsystem / "recorded").rglob("*.txt")):
        yield from _conversation(path, f"{path.parent.name}/{path.stem}")


def every_recording() -> Iterator[Recording]:
    """All of them, of all subsystems."""
    for subsystem in ("queue", "conntrack", "expect"):
        yield from exchanges(subsystem)
        yield from sessions(subsystem)
        yield from recorded(subsystem)


def _conversation(path: Path, name: str) -> Iterator[Recording]:
    label, text = "", path.read_text()
    kernel = re.search(r"^# (?:recorded on )?Linux ([\d.]+\d)", text, re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        if line[:1] in "><":
            label = line
        elif label:
            direction = Direction.TO_KERNEL if label[0] == ">" else Direction.FROM_KERNEL
            yield Recording(f"{name}:{number}", direction, label[2:], bytes.fromhex(line), kernel[1] if kernel else "")
            label = ""
