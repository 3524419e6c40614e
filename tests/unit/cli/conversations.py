"""Recorded conversations with conntrack 1.4.7, and the same command lines said to ``nfnl conntrack``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner, Result

from nfnl.cli import conntrack

RECORDINGS = Path(__file__).parents[3] / "fixtures/conntrack/command"


class Recorded(NamedTuple):
    """A command, and what it printed."""

    command: str
    stdout: str
    stderr: str
    exit_code: int


def recorded(name: str) -> Iterator[Recorded]:
    """The commands of a recording; of one that was interrupted no exit status is known: 0."""
    for block in (RECORDINGS / f"{name}.txt").read_text().split("\n$ ")[1:]:
        command, _, rest = block.partition("\n--- stdout\n")
        stdout, _, rest = rest.partition("--- stderr\n")
        stderr, _, code = rest.partition("--- exit ")
        yield Recorded(command, stdout, stderr, int((code.split() or "0")[0]))


#: what of a line depends on the clock, or on chance
LOOSE = (
    (r"(?<= )id=\d{5,}", "id=N"),
    (r"<id>\d+</id>", "<id>N</id>"),
    (r"(?<=\d )(49\d|500|1000|99\d)(?= )", "SECONDS"),
    (r"<timeout>\d+</timeout>", "<timeout>N</timeout>"),
    (r"-t \d+", "-t N"),
    (r"delta-time=\d+", "delta-time=N"),
    (r"<deltatime>\d+", "<deltatime>N"),
    (r"\[start=[^]]*\]", "[start]"),
    (r"<start>\d+", "<start>N"),
    # XML of SCTP: conntrack takes the names from the states of TCP
    (r'(?<=protonum="132")(.*)<state>\w+', r"\1<state>S"),
    # save: conntrack forgets the mark
    (r"(-u \S+) -m \d+", r"\1"),
)


def loosened(text: str) -> list[str]:
    """Lines, without what time and chance have their hands in, in any order."""
    for pattern, instead in LOOSE:
        text = re.sub(pattern, instead, text)
    return sorted(text.splitlines())


def in_our_words(stderr: str) -> str:
    """What conntrack says of itself, as nfnl says it."""
    stderr = stderr.replace("conntrack v1.4.7 (conntrack-tools): ", "nfnl conntrack: ")
    stderr = stderr.replace("Try `conntrack -h' or 'conntrack --help'", "Try `nfnl conntrack --help'")
    return stderr.replace("nfct_labelmap_new: No such file or directory\n", "")  # of a machine without names of labels


def run(command: str, stdin: str = "") -> Result:
    """Say it to nfnl; the kernel is that of the fixture ``ct_kernel``."""
    return CliRunner().invoke(conntrack.command, shlex.split(command)[1:], input=stdin, prog_name="nfnl conntrack")
