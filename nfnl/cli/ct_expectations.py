"""``nfnl conntrack`` and the expectations."""

from __future__ import annotations

from typing import ClassVar

import nfnl
from nfnl.cli import ct_match
from nfnl.cli.ct_order import Command
from nfnl.cli.ct_output import remark
from nfnl.cli.ct_task import Task, show_stats
from nfnl.session.flowspec import tuple_of
from nfnl.subsys.conntrack import Tuple


class ExpectationTask(Task):
    """One command on expectations."""

    nouns = "expectations"

    def list_expectations(self) -> int:
        """-L expect"""
        fits = ct_match.expectation_matcher(self.order)
        expectations = self.table.expectations.list(family=self.order.family or None)
        self.output.show_all(expectation for expectation in expectations if fits(expectation))
        return self.output.shown

    def _expected(self) -> Tuple:
        order = self.order
        return tuple_of(order["src"].address, order["dst"].address, order["protonum"], order["port_src"], order["port_dst"])

    def get_expectation(self) -> None:
        """-G expect"""
        self.output.show(self.table.expectations.get(self._expected()))

    def create_expectation(self) -> None:
        """-I expect"""
        order = self.order
        number = order["protonum"]
        expected, mask = (
            tuple_of(
                order[f"{kind}_src"], order[f"{kind}_dst"], number, order[f"{kind}_port_src"] or 0, order[f"{kind}_port_dst"] or 0
            )
            for kind in ("tuple", "mask")
        )
        self.table.expectations.create(expected, mask=mask, master=self._expected())

    def delete_expectation(self) -> int:
        """-D expect"""
        try:
            self.table.expectations.delete(self._expected())
        except nfnl.NotFound:
            return 0
        return 1

    def flush_expectations(self) -> None:
        """-F expect"""
        self.table.expectations.flush()
        if not self.quiet:
            remark("expectation table has been emptied.")

    def count_expectations(self) -> None:
        """-C expect"""
        print(len(self.table.expectations.list()))

    def expectation_stats(self) -> None:
        """-S expect"""
        show_stats(self.table.expectations.cpu_stats(), "new create delete", "expect_")

    commands: ClassVar = {
        Command.LIST: list_expectations,
        Command.GET: get_expectation,
        Command.CREATE: create_expectation,
        Command.DELETE: delete_expectation,
        Command.FLUSH: flush_expectations,
        Command.COUNT: count_expectations,
        Command.STATS: expectation_stats,
    }
