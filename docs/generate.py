"""Write the generated pages of docs/reference anew: `python docs/generate.py`. A test compares them with what this would write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nfnl.subsys.queue  # noqa: F401 -- declares the messages to be written about
from nfnl.sim import NOT_MODELLED
from nfnl.wire.declare import Message, registry
from nfnl.wire.describe import rows

REFERENCE = Path(__file__).parent / "reference"


def table(head: Sequence[str], body: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in body:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def messages() -> Iterator[str]:
    """Every declared message, attribute by attribute."""
    yield "# Messages"
    yield ""
    yield "Every message that nfnl declares, with its attributes in the order in which the kernel writes them, or nfnl does."
    yield "Layouts: `be16`, `be32`, `be64` are numbers in network byte order, `u8` has one byte, `bytes` and `text` take what there"
    yield "is; a name behind a layout is the enum its values are read as. *Since* is the first Linux that knows it, where that"
    yield "matters. The source of it all is `nfnl/subsys/`."
    subsystem = None
    for declaration in sorted(registry.values(), key=lambda cls: cls.__type__):
        if declaration.__subsystem__ is not subsystem:
            subsystem = declaration.__subsystem__
            yield ""
            yield f"## {subsystem.name}"
            yield ""
            yield f"Subsystem {int(subsystem.id)} (`NFNL_SUBSYS_{subsystem.id.name}`), {subsystem.source} in the kernel."
        yield ""
        yield from message(declaration)


def message(declaration: type[Message]) -> Iterator[str]:
    """One of them."""
    yield f"### {declaration.__name__}"
    yield ""
    yield f"`{declaration.__kernel_name__}`, type {declaration.__type__:#06x}, {declaration.__direction__.value}."
    yield ""
    yield (inspect.getdoc(declaration) or "").replace("``", "`")
    yield ""
    head = ("field", "number", "kernel name", "layout", "", "since", "meaning")
    yield from table(head, [(f"`{r.path}`", r.number, f"`{r.kernel_name}`", *r[3:]) for r in rows(declaration)])


def not_modelled() -> Iterator[str]:
    """What the fake kernel does not do."""
    yield "# What the fake kernel does not model"
    yield ""
    yield "Each line says what happens instead."
    for part, missing in NOT_MODELLED.items():
        yield ""
        yield f"## {part}"
        yield ""
        yield from table(("not modelled", "instead"), list(missing.items()))


PAGES: dict[str, Callable[[], Iterator[str]]] = {"messages.md": messages, "not-modelled.md": not_modelled}


def page(name: str) -> str:
    """The text of one page."""
    note = "<!-- Written by docs/generate.py; change the declarations instead. -->"
    return "\n".join([note, *PAGES[name]()]) + "\n"


if __name__ == "__main__":
    for written in PAGES:
        (REFERENCE / written).write_text(page(written), encoding="utf-8")
