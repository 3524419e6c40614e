"""Outcomes on paper: Markdown to read, JSON to go on with, SVG to look at."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from math import log10
from typing import Any

from bench.outcome import Outcome, Spread
from bench.tables import markdown

LEGEND = (
    "Medians, in brackets the quartiles. *CPU: first / this* says how much of its CPU time the first of the table takes, "
    "within the same rounds; below 1 the first is the faster one. Absolute times tell of the machine."
)


def as_markdown(outcomes: Sequence[Outcome], refused: dict[str, str]) -> str:
    """The whole report."""
    parts = [f"# Benchmarks\n\nPython {platform.python_version()}, Linux {platform.release()}. {LEGEND}"]
    parts += [section(outcome) for outcome in outcomes]
    parts += [f"## {name}\n\nDid not take place: {why}" for name, why in refused.items()]
    judged = [(outcome, target, reached) for outcome in outcomes for target, reached in outcome.judged()]
    if judged:
        rows: list[list[object]] = []
        for outcome, target, reached in judged:
            what, ratio = f"{outcome.contest}, {outcome.title}", f"{target.name} / {target.against}, {target.clock}"
            met = "met" if reached.median <= target.at_most else "**missed**"
            rows.append([what, ratio, f"{target.at_most:.3g}", reached, met])
        parts.append("## Targets\n\n" + markdown(("contest", "ratio", "at most", "reached", ""), rows))
    return "\n\n".join(parts) + "\n"


def section(outcome: Outcome) -> str:
    """One outcome: its table, and what else is to be told."""
    first = outcome.first
    head = ("", f"CPU µs/{outcome.per}", f"wall µs/{outcome.per}", "CPU: first / this", "wall: first / this")
    rows: list[list[object]] = []
    for name, turns in outcome.turns.items():
        if turns:
            costs = (outcome.spread(name, "cpu"), outcome.spread(name, "wall"))
            rows.append([name, *costs, outcome.ratio(first, name, "cpu"), outcome.ratio(first, name, "wall")])
    lines = [f"## {outcome.contest}: {outcome.title}", markdown(head, rows)]
    lines += [f"* {name} did not take part: {why}" for name, why in outcome.missing.items()]
    lines += [f"* {note}" for note in outcome.notes]
    return "\n\n".join(lines[:2]) + ("\n\n" + "\n".join(lines[2:]) if lines[2:] else "")


def as_data(outcomes: Sequence[Outcome], refused: dict[str, str]) -> dict[str, Any]:
    """Every turn, for JSON."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "targets": [
            {"contest": outcome.contest, "title": outcome.title, **asdict(target), "reached": asdict(reached)}
            for outcome in outcomes
            for target, reached in outcome.judged()
        ],
        "refused": refused,
    }


# -- the plot ------------------------------------------------------------------------------------------------------------------

_LABEL, _PLOT, _BAR, _GAP = 330, 520, 16, 6
_STYLE = "text{font:12px sans-serif}.t{font-weight:bold}.b{fill:#9bb}.f{fill:#357}.q{stroke:#222}.o{stroke:#c33;stroke-dasharray:3}"


def as_svg(outcomes: Sequence[Outcome]) -> str:
    """Bars of CPU time relative to the first of each table, on one logarithmic scale; whiskers are the quartiles."""
    shown: list[tuple[Outcome, list[tuple[str, Spread]]]] = [
        (outcome, [(name, outcome.ratio(name, outcome.first, "cpu")) for name, turns in outcome.turns.items() if turns])
        for outcome in outcomes
    ]
    values = [value for _, bars in shown for _, spread in bars for value in (spread.low, spread.high) if value > 0] or [1.0]
    lowest, highest = min(0.5, *values), max(2.0, *values)

    def x(value: float) -> float:
        return _LABEL + _PLOT * (log10(max(value, lowest)) - log10(lowest)) / (log10(highest) - log10(lowest))

    parts: list[str] = []
    y = 30
    for outcome, bars in shown:
        y += _BAR
        parts.append(f'<text class="t" x="4" y="{y}">{escape(f"{outcome.contest}: {outcome.title}")}</text>')
        y += _GAP
        for name, spread in bars:
            kind = "f" if name == outcome.first else "b"
            middle = y + _BAR / 2
            parts += [
                f'<text x="{_LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
                f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{x(spread.median) - _LABEL:.1f}" height="{_BAR}"/>',
                f'<line class="q" x1="{x(spread.low):.1f}" x2="{x(spread.high):.1f}" y1="{middle}" y2="{middle}"/>',
                f'<text x="{x(max(spread.high, spread.median)) + 6:.1f}" y="{y + 12}">{spread.median:.2f}</text>',
            ]
            y += _BAR + _GAP
    width, height = _LABEL + _PLOT + 60, y + 10
    one = f'<line class="o" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="24" y2="{y}"/>'
    title = '<text class="t" x="4" y="16">CPU time, relative to the first of each group (logarithmic; shorter is faster)</text>'
    body = "\n".join([title, one, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )
