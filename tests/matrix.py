"""The contract on other Linux kernels, each in a guest: ``tox -e kernels``, or ``python -m tests.matrix 6.1 newest``.

Kernels are named as in `KERNELS`, or as for ``nfnl lab run --kernel``; none means all of `KERNELS`. What the probes say of each and
how its tests ended is written to ``docs/reference/kernels.json`` with ``--write``; of that `docs/generate.py` makes a page. The
exit status is 1 when a kernel that decides failed or could not be had, 0 else.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nfnl.errors import NfnlError
from nfnl.testing import guest
from nfnl.testing._kernels import Kernel, KernelError, find_kernel
from tests.check_skips import REASON

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "reference" / "kernels.json"


@dataclass(frozen=True)
class Wanted:
    """A kernel to run the contract on."""

    name: str
    #: where it may come from; the first that can be had is taken
    sources: tuple[str, ...]
    #: the run fails when it fails
    decides: bool = True


KERNELS = (
    Wanted("5.10", ("bullseye:linux-image-cloud-amd64",)),
    Wanted("6.1", ("bookworm-security:linux-image-cloud-amd64", "bookworm:linux-image-cloud-amd64")),
    Wanted("6.12", ("trixie:linux-image-cloud-amd64",)),
    Wanted("6.18", ("trixie-backports:linux-image-6.18*-cloud-amd64",)),
    # not even its bugs are known yet
    Wanted("newest", ("trixie-backports:linux-image-cloud-amd64", "sid:linux-image-cloud-amd64"), decides=False),
)


@dataclass
class Outcome:
    """What came of one kernel."""

    wanted: Wanted
    source: str = ""
    linux: str = ""
    #: why there is no result
    trouble: str = ""
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    #: probe -> why not; "" means yes
    probes: dict[str, str] = field(default_factory=dict)
    #: rule -> the needs of the tests about it that passed ("" for none), and "failed"
    rules: dict[str, set[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Everything is as it should be."""
        return not self.trouble and not self.failed and self.passed > 0

    @property
    def series(self) -> str:
        """``"6.1"`` of ``"6.1.192-2"``."""
        return ".".join(self.linux.split("-")[0].split(".")[:2])

    def read(self, reports: Path) -> None:
        """Take over what the guest reported. Raises OSError, if it did not come to that."""
        told = json.loads((reports / "probes.json").read_text(encoding="utf-8"))
        self.probes = {name: why_not or "" for name, why_not in told["probes"].items()}
        for case in ElementTree.parse(reports / "junit.xml").iter("testcase"):
            self._count(case)

    def _count(self, case: ElementTree.Element) -> None:
        about = [(p.get("name"), p.get("value") or "") for p in case.iter("property")]
        rules = [value for name, value in about if name == "rule"]
        needs = ", ".join(sorted(value for name, value in about if name == "needs"))
        skip = next(case.iter("skipped"), None)
        name = f"{case.get('classname')}::{case.get('name')}"
        if any(True for kind in ("failure", "error") for _ in case.iter(kind)):
            self.failed.append(name)
            ended = "failed"
        elif skip is None:
            self.passed += 1
            ended = needs
        elif REASON.match(skip.get("message") or ""):
            self.skipped += 1
            return
        else:
            self.failed.append(f"{name}: skipped, but by no probe")
            ended = "failed"
        for rule in rules:
            self.rules.setdefault(rule, set()).add(ended)


def wanted(names: Sequence[str]) -> list[Wanted]:
    """The kernels of these names; all, if there are none."""
    known = {kernel.name: kernel for kernel in KERNELS}
    return [known.get(name) or Wanted(name, (name,)) for name in names] or list(KERNELS)


def found(kernel: Wanted) -> tuple[Kernel, str]:
    """It, and where it came from. Raises `KernelError` with every reason why it cannot be had."""
    reasons = []
    for source in kernel.sources:
        try:
            return find_kernel(source, say), source
        except KernelError as error:
            reasons.append(str(error))
    raise KernelError("; ".join(reasons))


def run(kernel: Wanted, tests: Sequence[str], options: argparse.Namespace, reports: Path) -> Outcome:
    """Run these tests on one kernel."""
    outcome = Outcome(kernel)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-k", "linux", *tests),
        *(f"--junitxml={reports / 'junit.xml'}", f"--tell-probes={reports / 'probes.json'}", "--show-capture=no", "-r", "fE"),
        *([] if options.all else ["--quick"]),
    ]
    try:
        image, outcome.source = found(kernel)
        outcome.linux = image.version
        # with others beside it, what a guest prints comes in one piece
        printed = io.BytesIO() if options.jobs > 1 else None
        try:
            guest.run(image, command, tree=ROOT, share=reports, timeout=options.timeout, tell=say, output=printed, errors=printed)
        finally:
            if printed is not None:
                say(f"what {kernel.name} printed:\n{printed.getvalue().decode(errors='replace')}")
        outcome.read(reports)
    except (NfnlError, OSError) as error:
        outcome.trouble = str(error)
    except Exception as error:  # half a report, say: of a kernel that does not decide it is told, and no more
        outcome.trouble = f"no result: {error!r}"
    return outcome


def say(text: str) -> None:
    """A line of ours among those of pytest."""
    print("".join(f"kernels: {line}\n" for line in text.splitlines()), end="", flush=True)


def chosen_tests(options: argparse.Namespace) -> list[str]:
    """What is to be run, as pytest is told. To find it out here spares the guests, to which it takes ten times as long.

    The tests are collected once in any case: so pytest leaves them compiled beside their sources, and no guest has to do it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-k", "linux", "tests/contract"]
    if not options.all:
        command.append("--quick")
    collected = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if collected.returncode:
        raise SystemExit(f"{collected.stdout}the tests cannot be collected")
    return ["tests/contract"] if options.all else [line for line in collected.stdout.splitlines() if "::" in line]


# ---------------------------------------------------------------------------------------------------------------- what is written


def merged(table: dict[str, Any], outcomes: Sequence[Outcome], tests: str) -> dict[str, Any]:
    """The table with these results in it; other kernels keep theirs."""
    kernels: dict[str, Any] = {**table.get("kernels", {})}
    for outcome in outcomes:
        if outcome.linux and not outcome.trouble:
            kernels[outcome.series] = {
                "linux": outcome.linux,
                "from": outcome.source,
                "decides": outcome.wanted.decides,
                "tests": tests,
                "passed": outcome.passed,
                "failed": sorted(outcome.failed),
                "skipped": outcome.skipped,
                "probes": dict(sorted(outcome.probes.items())),
                "rules": {rule: sorted(ends) for rule, ends in sorted(outcome.rules.items())},
            }
    return {"kernels": dict(sorted(kernels.items(), key=lambda item: [int(part) for part in item[0].split(".")]))}


def write(outcomes: Sequence[Outcome], tests: str) -> None:
    """Bring the table and its page up to date."""
    before = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    TABLE.write_text(json.dumps(merged(before, outcomes, tests), indent=1) + "\n", encoding="utf-8")
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"]
    TABLE.with_suffix(".md").write_text(page("kernels.md"), encoding="utf-8")


def summary(outcome: Outcome, seconds: float) -> Iterator[str]:
    """Some lines about one kernel."""
    name = f"{outcome.wanted.name} (Linux {outcome.linux})" if outcome.linux else outcome.wanted.name
    weight = "" if outcome.good or outcome.wanted.decides else "; this kernel does not decide"
    if outcome.trouble:
        yield f"{name}: {outcome.trouble}{weight}"
        return
    counts = f"{outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped"
    yield f"{name}: {counts} in {seconds:.0f} s{weight}"
    for test in outcome.failed:
        yield f"  failed: {test}"


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="tests.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"one of {', '.join(k.name for k in KERNELS)}, or any other")
    parser.add_argument("--all", action="store_true", help="the whole contract: minutes instead of one")
    parser.add_argument("--write", action="store_true", help="write docs/reference/kernels.json and kernels.md")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each guest (default: 900)")
    parser.add_argument("--jobs", type=int, default=1, help="guests at the same time (default: 1)")
    parser.add_argument("--reports", type=Path, help="keep what guests report below this directory")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    options = arguments(words)
    if why_not := guest.available():
        say(f"no guests here: {why_not}")
        return 1
    tests = chosen_tests(options)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as guests:

        def attend(kernel: Wanted) -> Outcome:
            started = time.monotonic()
            place = (options.reports or Path(scratch)).absolute() / kernel.name.replace("/", "_").replace(":", "_")
            outcome = run(kernel, tests, options, place)
            say("\n".join(summary(outcome, time.monotonic() - started)))
            return outcome

        outcomes = list(guests.map(attend, wanted(options.kernels)))
    if options.write:
        write(outcomes, "all" if options.all else "quick")
    return 0 if all(outcome.good or not outcome.wanted.decides for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
