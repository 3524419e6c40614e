"""``nfnl decode``: every byte of netlink datagrams, in words."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import cast

import click

import nfnl.subsys.queue  # noqa: F401 -- declares the messages to be known
from nfnl.cli import packets
from nfnl.cli.captures import Found, datagrams, form_of
from nfnl.cli.screen import Screen
from nfnl.wire.declare import Direction
from nfnl.wire.describe import Line, columns, tree

#: bytes shown of long contents, unless all are asked for
SHOWN = 64


def _standard_input() -> bytes:
    """All of standard input. Piece by piece: a Ctrl-C noted just before ``read()`` it would look at only when the input ends."""
    pieces = []
    while piece := cast("io.BufferedReader", sys.stdin.buffer).read1():
        pieces.append(piece)
    return b"".join(pieces)


@click.command()
@click.argument("file", default="-")
@click.option("--hex", "form", flag_value="hex", help="It is hex text.")
@click.option("--binary", "form", flag_value="binary", help="It is the bytes of one datagram.")
@click.option("--pcap", "form", flag_value="pcap", help="It is a pcap or pcapng capture of netlink.")
@click.option("--to-kernel", "direction", flag_value="TO_KERNEL", help="All datagrams went to the kernel.")
@click.option("--from-kernel", "direction", flag_value="FROM_KERNEL", help="All datagrams came from the kernel.")
@click.option("--all", "everything", is_flag=True, help=f"Show long contents whole, not only the first {SHOWN} bytes.")
def command(file: str, form: str | None, direction: str | None, everything: bool) -> None:
    """Show every byte of netlink datagrams, in words.

    FILE is hex text, raw bytes, or a capture; - or nothing is standard input. Which of them it is shows by itself. Hex may be
    spaced in any way, with 0x or without, as xxd, hexdump -C and tcpdump -x print it; a blank line begins a new datagram, and # a
    comment. In a capture everything but NETLINK_NETFILTER is left out. Requests are told from answers by NLM_F_REQUEST.

    Broken datagrams are shown as far as they can be; the exit status is then 1.

    \b
    Examples:
      echo 1c000000 02030500 01000000 00000000 00000001 0800010001000000 | nfnl decode
      nfnl decode --from-kernel answer.bin
      tcpdump -i nlmon0 -w netlink.pcap; nfnl decode netlink.pcap
    """
    if file == "-" and sys.stdin.isatty():
        click.echo("Reading hex from the terminal; Ctrl-D ends it.", err=True)
    try:
        data = _standard_input() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
    screen = Screen()
    wrong: list[str] = []
    remarks: list[str] = []
    number = 0
    for found in datagrams(data, form or form_of(data)):
        if found.data:
            number += 1
            screen.line((f"# datagram {number}, {found.where}, {len(found.data)} bytes", "bold"))
            wrong += show(found, None if direction is None else Direction[direction], None if everything else SHOWN, screen)
            screen.line()
        if found.problem:
            wrong.append(found.problem)
        if found.remark:
            remarks.append(found.remark)
    if not number:
        wrong.append("there is no datagram in it")
    sys.stdout.flush()  # so that complaints stand behind what they are about
    for complaint in remarks + wrong:
        click.echo(f"nfnl decode: {'standard input' if file == '-' else file}: {complaint}", err=True)
    sys.exit(1 if wrong else 0)


def show(found: Found, direction: Direction | None, longest: int | None, screen: Screen) -> list[str]:
    """Print one datagram; what is wrong with it, one sentence each."""
    wrong = []
    for line in tree(found.data, direction=direction, order=found.order, longest=longest):
        if line.content is not None and line.note.startswith("NFQA_PAYLOAD"):
            line = dataclasses.replace(line, value=f"{line.value}, {packets.summary(line.content)}")
        if line.problem and line.depth == 0:
            wrong.append(f"{found.where}: {line.name}")
        show_line(line, screen)
    return wrong


def show_line(line: Line, screen: Screen) -> None:
    """Print one line of a tree."""
    offset, data, text, note = columns(line)
    style = "red" if line.problem else "" if line.data else "bold"
    screen.line((f"{offset}  ", "dim"), (f"{data}  ", "cyan"), (f"{text}  ", style), (note, "dim"))
