"""Rows to text."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    return "\n".join("  ".join(line) for line in _aligned(cells))


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same, for Markdown."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    first, *others = [f"| {' | '.join(line)} |" for line in _aligned(cells)]
    return "\n".join([first, "|---" + "|---:" * (len(head) - 1) + "|", *others])


def _aligned(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        for first, *others in cells
    ]
