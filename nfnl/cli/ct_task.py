"""One command of ``nfnl conntrack`` on one table: what is common to flows and expectations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import nfnl
from nfnl.cli.ct_labels import LabelMap
from nfnl.cli.ct_order import Command, Order
from nfnl.cli.ct_output import Output, remark
from nfnl.subsys.conntrack import ExpectStatsCpu, Stats, StatsCpu

#: what is said at the end, by command
_DONE = {
    Command.LIST: "shown",
    Command.GET: "shown",
    Command.DELETE: "deleted",
    Command.UPDATE: "updated",
    Command.CREATE: "created",
    Command.ADD: "added",
}


class Task:
    """One command on one table."""

    #: what there is in the table
    nouns = ""
    #: the commands it knows; each returns how many it was about, or None where nobody counts
    commands: ClassVar[Mapping[Command, Callable[..., int | None]]]

    def __init__(self, order: Order, table: nfnl.FlowTable, clock: Callable[[], float], *, quiet: bool = False) -> None:
        self.order = order
        self.table = table
        self.quiet = quiet
        self.labels = LabelMap(order["labelmap"])
        self.output = Output(order["output"] or frozenset(), self.labels.names, order.table, clock)

    def run(self) -> bool:
        """Do it, and say so. False: nothing matched what was to be changed or deleted."""
        count = self.commands[self.order.command](self)
        self.output.close()
        word = _DONE.get(self.order.command)
        if count is not None and word and not self.quiet:
            remark(f"{count} {self.nouns} have been {word}.")
        return bool(count) or count is None or self.order.command not in (Command.DELETE, Command.UPDATE)


def show_stats(stats: Sequence[StatsCpu | ExpectStatsCpu | Stats], names: str, prefix: str = "") -> None:
    for cpu in stats:
        values = [f"{prefix}{name.replace('chain_toolong', 'chaintoolong')}={getattr(cpu, name) or 0} " for name in names.split()]
        print(f"cpu={cpu.res_id:<4}\t{''.join(values)}")
