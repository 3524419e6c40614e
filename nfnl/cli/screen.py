"""Where a command's words go: plain to a pipe or a file, in colour to a terminal."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Screen:
    """Standard output. Nothing is ever wrapped, cut, or read as markup."""

    def __init__(self) -> None:
        self.in_colour = sys.stdout.isatty()

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def line(self, *pieces: tuple[str, str]) -> None:
        """Print a line of (text, style) pieces; a style is a word of rich, or ""."""
        if not self.in_colour:
            print("".join(text for text, _ in pieces).rstrip())
            return
        from rich.text import Text

        self._console.print(Text.assemble(*pieces))
