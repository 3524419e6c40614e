"""Write the generated pages of docs/reference anew: `python docs/generate.py`. A test compares them with what this would write."""

from __future__ import annotations

import csv
import inspect
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nfnl.subsys.expect
import nfnl.subsys.queue  # noqa: F401 -- declares the messages to be written about
from nfnl.sim import NOT_MODELLED
from nfnl.wire.codec import decode
from nfnl.wire.declare import Message, View, registry
from nfnl.wire.describe import rows

ROOT = Path(__file__).parent.parent
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
    "CTN": "libnetfilter_conntrack",
    "CLI": "The command conntrack",
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
    yield "What other libraries can do, and whether nfnl can. MNL, NFN, QUE and CTN are the functions of four C libraries,"
    yield "CLI those of the command conntrack; PEER is what 23 libraries in Go, Rust and Python were compared by, as far as it"
    yield "concerns layers, queues, conntrack and transport: of the other subsystems nfnl has none yet. NEW is what none of"
    yield "them had, as far as their sources told."
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


def kernels() -> Iterator[str]:
    """How Linux kernels differ, as `tests/matrix.py` found out."""
    found = json.loads((REFERENCE / "kernels.json").read_text(encoding="utf-8"))["kernels"]
    yield "# Linux, kernel by kernel"
    yield ""
    yield "The contract (`tests/contract`) was run on these kernels, in guests, by `tox -e kernels`; `kernels.json` beside this"
    yield "page has everything that was told. *quick*: a test about every rule and what it needs; *all*: every test."
    yield ""
    head = ("Linux", "version", "from", "tests", "passed", "failed", "skipped")
    counts = ("linux", "from", "tests", "passed")
    yield from table(head, [(name, *(k[c] for c in counts), len(k["failed"]), k["skipped"]) for name, k in found.items()])
    for name, kernel in found.items():
        if kernel["failed"]:
            yield ""
            yield f"What failed on {name}{'' if kernel['decides'] else ', which decides nothing'}:"
            yield ""
            yield from (f"* `{test}`" for test in kernel["failed"])
    yield ""
    yield "## What they do differently"
    yield ""
    yield "Found out by trying, with the probes of `tests/behaviour.py` and `tests/probes.py`; what explains it was read in the"
    yield "kernel's source. Distributions take fixes from newer kernels: the number is no proof. Empty: not asked."
    yield ""
    with (ROOT / "tests" / "behaviour.tsv").open(encoding="utf-8", newline="") as file:
        probes = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    answers = [[_answer(k["probes"].get(p["probe"])) for k in found.values()] for p in probes]
    explained = [f"{p['explained']} (`{p['source']}`)" for p in probes]
    yield from table(
        ("probe", *found, "it means", "since", "explained"),
        [(p["probe"], *a, p["meaning"], p["since"], e) for p, a, e in zip(probes, answers, explained, strict=True)],
    )
    yield ""
    yield "## Rules that not all of them keep"
    yield ""
    yield "A rule of `tests/contract/rules.tsv` is listed when different tests about it passed. *yes* is a test that needs nothing"
    yield "of the kernel; else the probes are named that the tests need; empty: no test about it could be run there."
    yield ""
    with (ROOT / "tests" / "contract" / "rules.tsv").open(encoding="utf-8", newline="") as file:
        rules = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if _differs(row["id"], found)]
    yield from table(
        ("rule", "", *found, "source"),
        [(r["id"], r["rule"], *(_kept(r["id"], k) for k in found.values()), f"`{r['source']}`") for r in rules],
    )


def _answer(why_not: str | None) -> str:
    return "" if why_not is None else "no" if why_not else "yes"


def _kept(rule: str, kernel: dict[str, Any]) -> str:
    return "; ".join(ended or "yes" for ended in kernel["rules"].get(rule, ()))


def _differs(rule: str, found: dict[str, Any]) -> bool:
    return len({_kept(rule, kernel) for kernel in found.values()}) > 1


def recordings() -> Iterator[str]:
    """Which declared messages are recorded, and on which kernels."""
    sys.path.append(str(ROOT))  # when it is this file that was run
    from tests.recordings import every_recording

    found: defaultdict[type, Counter[str]] = defaultdict(Counter)
    for one in every_recording():
        for message in decode(one.data, direction=one.direction):
            found[type(message)][one.kernel or "no kernel: made by hand"] += 1
    yield "# Recordings"
    yield ""
    yield "What nfnl declares is held to bytes of real kernels and of other programs, in `fixtures/`; none comes from nfnl's"
    yield "own encoder. `nfnl record` makes those below `recorded`, on the present kernel or with `--kernel` on another one;"
    yield "`fixtures/scenarios.toml` says what is played."
    yield ""
    head = ("subsystem", "message", "direction", "recorded on Linux (how often)")
    yield from table(
        head,
        [
            (cls.__subsystem__.name, f"`{cls.__name__}`", cls.__direction__.value, _where(found[cls]))
            for cls in sorted(registry.values(), key=lambda cls: (cls.__subsystem__.name, cls.__type__))
        ],
    )


def _where(counts: Counter[str]) -> str:
    return ", ".join(f"{kernel} ({count})" for kernel, count in sorted(counts.items())) or "nowhere"


def known_differences() -> Iterator[str]:
    """Where the fake is not as Linux is, and knows it."""
    with (REFERENCE / "known-differences.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    yield "# Known differences"
    yield ""
    yield "`tests/properties/test_differential.py` gives the same rules and the same packets to Linux and to the fake kernel, and"
    yield "compares what leaves, what senders are told, the counters of every rule and policy, the table of flows, and the"
    yield "events, all but the numbers that differ from run to run (ids, times, use counts). With `--differential=100000` it"
    yield "sends as many packets as one likes. What is left of differences stands here, each held to by a test;"
    yield "what is not modelled at all stands in [Not modelled](not-modelled.md)."
    yield ""
    yield (REFERENCE / "longest-run.txt").read_text(encoding="utf-8").strip()
    yield ""
    yield from table(
        ("what", "on Linux", "on the fake", "why", "shown by"), [(*list(row.values())[:4], _tests(row["test"])) for row in rows]
    )


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "capabilities.md": capabilities,
    "kernels.md": kernels,
    "known-differences.md": known_differences,
    "messages.md": messages,
    "not-modelled.md": not_modelled,
    "recordings.md": recordings,
}


def page(name: str) -> str:
    """The text of one page."""
    note = "<!-- Written by docs/generate.py; change what it is made from instead. -->"
    return "\n".join([note, *PAGES[name]()]) + "\n"


if __name__ == "__main__":
    for written in PAGES:
        (REFERENCE / written).write_text(page(written), encoding="utf-8")
