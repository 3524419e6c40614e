"""Names of labels, from the file that iptables and conntrack use (connlabel.conf)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from nfnl.cli.ct_order import UsageProblem

#: where the command looks (`CONNLABEL_CFG` of libnetfilter_conntrack and iptables)
DEFAULT = Path("/etc/xtables/connlabel.conf")


class LabelMap:
    """Numbers and names of labels."""

    def __init__(self, file: str | None = None) -> None:
        """Read a file; without one the usual one, which need not be there. Raises `UsageProblem` for one that cannot be read."""
        self.names: dict[int, str] = {}
        try:
            text = Path(file or DEFAULT).read_text()
        except OSError as error:
            if file is not None:
                raise UsageProblem(f"{file}: {error.strerror}") from None
            text = ""
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if len(words) == 2 and words[0].isdigit() and int(words[0]) < 128:
                self.names.setdefault(int(words[0]), words[1])
        self._numbers = {name: number for number, name in self.names.items()}

    def numbers(self, names: str) -> frozenset[int]:
        """The numbers of a comma list of names. Raises `UsageProblem`."""
        return frozenset(self._number(name) for name in names.split(","))

    def _number(self, name: str) -> int:
        try:
            return self._numbers[name]
        except KeyError:
            raise UsageProblem(f"unknown label '{name}'") from None

    def sorted(self, numbers: Iterable[int]) -> list[str]:
        """Names of labels that have one, in the order of their numbers."""
        return [self.names[number] for number in sorted(numbers) if number in self.names]
