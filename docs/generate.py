"""Write the generated pages of docs/reference anew: `python docs/generate.py`. A test compares them with what this would write."""

from __future__ import annotations

import csv
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nfnl.subsys.expect
import nfnl.subsys.queue  # noqa: F401 -- declares the messages to be written about
from nfnl.sim import NOT_MODELLED
from nfnl.wire.declare import Message, View, registry
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
    yield "Layouts: `be16`, `be32`, `be64` are numbers in network byte order, `u32` one in that of the host, `u8` has one byte,"
    yield "`ipv4` and `ipv6` are addresses, `bytes` and `text` take what there is; a name behind a layout is the enum its values"
    yield "are read as. *Since* is the first Linux that knows it, where that matters. The source of it all is `nfnl/subsys/`."
    yield "What is inside a nest stands behind the messages of its subsystem, once."
    declared = sorted(registry.values(), key=lambda cls: (cls.__type__, cls.__direction__.value))
    told: set[type[View]] = set()
    for subsystem in dict.fromkeys(declaration.__subsystem__ for declaration in declared):
        yield ""
        yield f"## {subsystem.name}"
        yield ""
        yield f"Subsystem {int(subsystem.id)} (`NFNL_SUBSYS_{subsystem.id.name}`), {subsystem.source} in the kernel."
        own = [declaration for declaration in declared if declaration.__subsystem__ is subsystem]
        for declaration in own:
            yield ""
            yield from message(declaration)
        for nest in dict.fromkeys(nest for declaration in own for nest in nests(declaration)):
            if nest not in told:
                told.add(nest)
                yield ""
                yield f"### {nest.__name__}"
                yield ""
                yield from attributes(nest)


def nests(declaration: type[View]) -> Iterator[type[View]]:
    """What is inside its attributes, but for what a message says as well."""
    for a in declaration.__attrs__:
        if a.nest is not None and not a.nest.__told_by__:
            yield a.nest
            yield from nests(a.nest)


def message(declaration: type[Message]) -> Iterator[str]:
    """One of them."""
    yield f"### {declaration.__name__}"
    yield ""
    yield f"`{declaration.__kernel_name__}`, type {declaration.__type__:#06x}, {declaration.__direction__.value}."
    yield ""
    yield from attributes(declaration)


def attributes(declaration: type[View]) -> Iterator[str]:
    """What a message or a nest is, and what is in it."""
    yield (inspect.getdoc(declaration) or "").replace("``", "`")
    if declaration.__attrs__:
        yield ""
        head = ("field", "number", "kernel name", "layout", "", "since", "meaning")
        yield from table(head, [(f"`{r.path}`", r.number, f"`{r.kernel_name}`", *r[3:]) for r in rows(declaration, deep=False)])


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


#: how the ids of capabilities.tsv begin, and what these rows have in common
SECTIONS = {
    "MNL": "libmnl",
    "NFN": "libnfnetlink",
    "QUE": "libnetfilter_queue",
    "PEER-A": "Peers: layers and codec",
    "PEER-B": "Peers: subsystems",
    "PEER-C": "Peers: NFQUEUE",
    "PEER-D": "Peers: running it",
    "PEER-E": "Peers: losses, pressure, tuning",
    "PEER-F": "Peers: namespaces",
    "PEER-G": "Peers: testing",
    "PEER-H": "Peers: the product",
    "NEW": "What no peer has",
}


def capabilities() -> Iterator[str]:
    """What other libraries can do, and whether nfnl can."""
    with (REFERENCE / "capabilities.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    yield "# Capabilities"
    yield ""
    yield "What other libraries can do, and whether nfnl can. MNL, NFN and QUE are the functions of three C libraries; PEER is what"
    yield "23 libraries in Go, Rust and Python were compared by, as far as it concerns layers, queue and transport: of the"
    yield "other subsystems nfnl has none yet. NEW is what none of them had, as far as their sources told."
    yield ""
    yield "*have*: it is there. *part*: some of it is, and the remark says what is missing. *will not*: it is left out, and the"
    yield "remark says why. *open*: it is not there. What is there names tests that show it; a test holds this page to that."
    yield ""
    counts = Counter((_section(row["id"]), row["status"]) for row in rows)
    statuses = ("have", "part", "will not", "open")
    yield from table(("", *statuses), [(title, *(counts[title, status] for status in statuses)) for title in SECTIONS.values()])
    for title in SECTIONS.values():
        yield ""
        yield f"## {title}"
        yield ""
        own = [row for row in rows if _section(row["id"]) == title]
        head = ("id", "what", "status", "where", "shown by", "remark")
        yield from table(head, [(r["id"], r["what"], r["status"], _names(r["nfnl"]), _tests(r["tests"]), r["remark"]) for r in own])


def _section(row: str) -> str:
    return next(title for prefix, title in SECTIONS.items() if row.startswith(prefix))


def _names(words: str) -> str:
    return ", ".join(f"`{name}`" for name in words.split())


def _tests(words: str) -> str:
    tests = (test.split("::") for test in words.split())
    return ", ".join(f"[{name}](../../{file})" for file, name in tests)


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "capabilities.md": capabilities,
    "messages.md": messages,
    "not-modelled.md": not_modelled,
}


def page(name: str) -> str:
    """The text of one page."""
    note = "<!-- Written by docs/generate.py; change what it is made from instead. -->"
    return "\n".join([note, *PAGES[name]()]) + "\n"


if __name__ == "__main__":
    for written in PAGES:
        (REFERENCE / written).write_text(page(written), encoding="utf-8")
