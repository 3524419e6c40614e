"""``nfnl show``: the declared messages, attribute by attribute."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module

import click

import nfnl.subsys
from nfnl.cli.screen import Screen
from nfnl.wire.declare import Message, registry
from nfnl.wire.describe import rows

Cells = tuple[str, ...]

HEAD: Cells = ("field", "no", "kernel name", "layout", "since", "meaning")
_STYLES = ("", "cyan", "cyan", "", "dim", "dim")
#: A last column narrower than this is no column: what belongs there goes to a line of its own.
_NARROW = 30


@click.command()
@click.argument("name", default="")
def command(name: str) -> None:
    """Show the messages that nfnl declares.

    NAME is a message (queue.Packet, Packet, NFQNL_MSG_PACKET), an attribute (NFQA_CFG_CMD: the messages that have it), or a
    subsystem (queue: a list of its messages). Without a name all messages are listed.

    \b
    Examples:
      nfnl show
      nfnl show queue.Packet
      nfnl show NFQA_CFG_CMD
    """
    declared = declarations()
    screen = Screen()
    for heading in (None, *sorted({message.__subsystem__.name for message in declared})):
        if name.lower() == (heading or ""):
            listed = [message for message in declared if heading in (None, message.__subsystem__.name)]
            show_table(("name", "kernel name", "type", "direction", "meaning"), [_line(message) for message in listed], screen)
            return
    found = [message for message in declared if name.lower() in map(str.lower, names(message))]
    found = found or [message for message in declared if name.upper() in {row.kernel_name for row in rows(message)}]
    if not found:
        raise click.ClickException(f"nothing is called {name!r}{_near(name, declared)}\n'nfnl show' lists all messages.")
    for number, message in enumerate(found):
        if number:
            screen.line()
        show(message, screen)


def declarations() -> list[type[Message]]:
    """All of them, of every subsystem, by type."""
    for module in pkgutil.iter_modules(nfnl.subsys.__path__):
        import_module(f"nfnl.subsys.{module.name}")
    return sorted(registry.values(), key=lambda message: (message.__type__, message.__direction__.value))


def names(message: type[Message]) -> tuple[str, str, str]:
    """What a message can be asked for by."""
    return f"{message.__subsystem__.name}.{message.__name__}", message.__name__, message.__kernel_name__


def _near(name: str, declared: Sequence[type[Message]]) -> str:
    known = {message.__subsystem__.name for message in declared}
    known.update(called for message in declared for called in names(message))
    known.update(row.kernel_name for message in declared for row in rows(message))
    by_lower = {called.lower(): called for called in sorted(known)}
    close = [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, 3)]
    return f"; is it {' or '.join(close)}?" if close else "."


def _doc(message: type[Message]) -> str:
    return (inspect.getdoc(message) or "").replace("``", "")


def _line(message: type[Message]) -> Cells:
    first = " ".join(_doc(message).split("\n\n")[0].split())
    return (
        names(message)[0],
        message.__kernel_name__,
        f"{message.__type__:#06x}",
        message.__direction__.value,
        f"{first.split('. ')[0].rstrip('.')}.",
    )


def show(message: type[Message], screen: Screen) -> None:
    """One message: what it is, and a table of its attributes."""
    qualified, _, kernel_name = names(message)
    told = f"  {kernel_name}, type {message.__type__:#06x}, {message.__direction__.value}"
    screen.line((qualified, "bold"), (told, "dim"))
    for line in _doc(message).splitlines():
        screen.line((line, ""))
    screen.line()
    show_table(HEAD, list(_cells(message)), screen)


def _cells(message: type[Message]) -> Iterator[Cells]:
    for row in rows(message):
        *above, field = row.path.split(".")
        indent = "  " * len(above)
        parts = row.layout.split(", ")
        layout = row.layout if len(parts) == 1 else "record"
        required = f"{row.meaning} (required)" if row.presence == "required" else row.meaning
        yield f"{indent}{field}", str(row.number), row.kernel_name, layout, row.since, required
        for part in parts if len(parts) > 1 else ():
            name, _, layout = part.partition(" ")
            yield f"{indent}  {name}", "", "", layout, "", ""


def show_table(head: Cells, body: Sequence[Cells], screen: Screen) -> None:
    """Columns side by side; on a terminal the last one is wrapped to what is left of its width."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)
    width = shutil.get_terminal_size().columns
    beside = width - indent >= _NARROW
    for row in (head, *body):
        cells = [f"{cell:<{wide}}  " for cell, wide in zip(row, widths, strict=False)]
        styles = ["bold"] * len(head) if row is head else _STYLES
        first, more = row[-1], list[str]()
        if screen.in_colour and beside:
            first, *more = textwrap.wrap(first, width - indent) or [""]
        elif screen.in_colour and row is not head:
            first, more = "", textwrap.wrap(first, width - 4)
        screen.line(*zip([*cells, first], styles, strict=False))
        for line in more:
            screen.line((f"{'':<{indent if beside else 4}}{line}", styles[-1]))
