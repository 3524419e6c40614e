"""``nfnl show``: declarations as tables."""

from __future__ import annotations

import re

import pytest

from nfnl.cli.show import declarations
from nfnl.wire.describe import rows
from tests.unit.cli.terminal import Terminal, pipe, without_colour


def shown(*arguments: str) -> list[str]:
    done = pipe("show", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_all_messages_are_listed_and_each_can_be_shown_by_its_name() -> None:
    head, *lines = shown()
    assert head.split() == ["name", "kernel", "name", "type", "direction", "meaning"]
    assert len(lines) == len(declarations())
    for line, declaration in zip(lines, declarations(), strict=True):
        name, kernel_name = line.split()[:2]
        assert kernel_name == declaration.__kernel_name__
        assert shown(name)[0] == (
            f"{name}  {kernel_name}, type {declaration.__type__:#06x}, {'to' if ' to the ' in line else 'from'} the kernel"
        )


def test_a_subsystem_lists_its_own() -> None:
    _, *lines = shown("queue")
    assert [line.split()[0] for line in lines] == [line.split()[0] for line in shown() if line.startswith("queue.")]


@pytest.mark.parametrize("name", ["Packet", "packet", "QUEUE.PACKET", "NFQNL_MSG_PACKET"])
def test_a_message_by_any_of_its_names(name: str) -> None:
    assert shown(name) == shown("queue.Packet")


def test_every_attribute_is_there_with_what_is_known_of_it() -> None:
    (packet,) = (declaration for declaration in declarations() if declaration.__name__ == "Packet")
    table = shown("queue.Packet")[3:]
    assert re.split(r"  +", table[0]) == ["field", "no", "kernel name", "layout", "since", "meaning"]
    for row in rows(packet):
        field = row.path.split(".")[-1]
        (line,) = (line for line in table if line.split()[:3] == [field, str(row.number), row.kernel_name])
        assert line.endswith(f"{row.since:<5}  {row.meaning}{' (required)' if row.presence == 'required' else ''}")
        indent = len(line) - len(line.lstrip())
        assert indent == 2 * row.path.count(".")
        if "," in row.layout:
            parts = table[table.index(line) + 1 :][: row.layout.count(",") + 1]
            assert [" ".join(part.split()) for part in parts] == row.layout.split(", ")
        else:
            assert f"  {row.layout}  " in line


def test_an_attribute_shows_the_messages_that_have_it() -> None:
    titles = [line.split()[0] for line in shown("nfqa_mark") if line.startswith("queue.")]
    assert titles == ["queue.Packet", "queue.VerdictMessage", "queue.VerdictBatch"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("queue.Packat", "; is it queue.Packet"),
        ("packt", "; is it Packet?"),
        ("NFQA_CFG_CDM", "; is it NFQA_CFG_CMD"),
        ("queues", "; is it queue"),
        ("xyzzy", "."),
    ],
)
def test_unknown_names_and_those_that_are_near(name: str, advice: str) -> None:
    done = pipe("show", name)
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.decode()
    assert said.startswith(f"Error: nothing is called {name!r}{advice}")
    assert said.endswith("\n'nfnl show' lists all messages.\n")


@pytest.mark.parametrize("columns", [80, 110, 400])
def test_on_a_terminal_nothing_is_wider_than_it(columns: int) -> None:
    terminal = Terminal("show", "queue.Packet", columns=columns)
    assert terminal.close() == 0
    assert "\x1b[" in terminal.shown
    lines = [line.rstrip() for line in without_colour(terminal.shown).splitlines()]
    table = lines[lines.index("") + 1 :]
    assert max(map(len, table)) <= columns
    words = " ".join(" ".join(table).split())
    assert words.startswith(
        "field no kernel name layout since meaning header 1 NFQA_PACKET_HDR record packet id, link-layer protocol"
    )
    assert words.endswith("the packet from the network header on, up to copy_range bytes; never padded")
    if columns == 400:
        assert lines == shown("queue.Packet")
    if columns == 80:
        assert "    user of the local socket, in the initial user namespace; with" in lines
