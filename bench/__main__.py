"""All contests, in turns, with a report.

    sudo python -m bench                # some minutes
    sudo python -m bench --short        # less than one, and it fails when targets are missed by far

``--short`` has every contest that missed a target by more than a quarter run again; if it misses the same target three times more,
the exit status is 1. What a machine lacks is named, and its targets are not judged: nothing fails for that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.contests import Contest, Effort, codec, conntrack_dump, events, fake, growth, latency, queue_drain, startup
from bench.outcome import CannotRunError, Outcome
from bench.peers import CACHE

CONTESTS: tuple[Contest, ...] = tuple(
    module.CONTEST for module in (queue_drain, latency, conntrack_dump, events, codec, fake, startup, growth)
)
#: those of ``--short``
SHORT = ("queue drain", "conntrack dump", "codec", "fake kernel")
#: share by which ``--short`` lets a target be missed
TOLERANCE = 0.25
RERUNS = 3


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="nfnl beside its peers.")
    parser.add_argument("--short", action="store_true", help="only what tells most; fail when targets are missed by far")
    names = [contest.name for contest in CONTESTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CONTEST", help=f"of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="turns of each contender (7; 5 with --short)")
    parser.add_argument(
        "--output", type=Path, default=CACHE / "report", help="report.md, report.json and report.svg go there (%(default)s)"
    )
    return parser.parse_args(arguments)


def take_place(contest: Contest, effort: Effort, refused: dict[str, str]) -> list[Outcome]:
    """The outcomes of one contest, printed as they come; why it cannot take place goes into ``refused``."""
    outcomes: list[Outcome] = []
    start = time.monotonic()
    try:
        for outcome in contest.run(effort):
            outcomes.append(outcome)
            print(report.section(outcome), end="\n\n", flush=True)
    except CannotRunError as why:
        refused[contest.name] = str(why)
        print(f"## {contest.name}\n\nDid not take place: {why}\n", flush=True)
    print(f"({contest.name}: {time.monotonic() - start:.0f} s)", file=sys.stderr)
    return outcomes


def far_off(outcomes: Sequence[Outcome]) -> set[str]:
    """What was missed by more than `TOLERANCE`."""
    return {f"{outcome.title}: {target}" for outcome in outcomes for target in outcome.missed(TOLERANCE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    effort = Effort(options.rounds or (5 if options.short else 7), options.short)
    names = options.only or (SHORT if options.short else [contest.name for contest in CONTESTS])
    outcomes: list[Outcome] = []
    refused: dict[str, str] = {}
    failed: set[str] = set()
    for contest in CONTESTS:
        if contest.name not in names:
            continue
        found = take_place(contest, effort, refused)
        outcomes += found
        missed = far_off(found) if options.short else set()
        for _ in range(RERUNS):
            if missed:
                missed &= far_off(take_place(contest, effort, refused))
        failed |= {f"{contest.name}, {target}" for target in missed}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.md").write_text(report.as_markdown(outcomes, refused), "utf-8")
    (options.output / "report.json").write_text(json.dumps(report.as_data(outcomes, refused), indent=1) + "\n", "utf-8")
    (options.output / "report.svg").write_text(report.as_svg(outcomes), "utf-8")
    print(f"written to {options.output}", file=sys.stderr)
    for target in sorted(failed):
        print(f"missed by more than {TOLERANCE:.0%}, {RERUNS + 1} times: {target}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
