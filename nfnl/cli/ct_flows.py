"""``nfnl conntrack`` and the flows: listed, made, changed, deleted, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import nfnl
from nfnl.cli import ct_match
from nfnl.cli.ct_order import Command, Masked, Order, StatusWish
from nfnl.cli.ct_output import remark
from nfnl.cli.ct_task import Task, show_stats
from nfnl.cli.ct_text import What
from nfnl.subsys.conntrack import Flow, FlowAttributes, label_bitmap

_STATS = "found invalid insert insert_failed drop early_drop error search_restart clash_resolve chain_toolong"


class FlowTask(Task):
    """One command on flows."""

    nouns = "flow entries"

    @property
    def _saving(self) -> bool:
        """A line that is saved says what is to be done again; others are as in a list."""
        return "save" in self.order.values.get("output", ())

    def _meant(self) -> Callable[[FlowAttributes], bool]:
        return ct_match.matcher(self.order, self.labels.numbers)

    def _flows(self, order: Order) -> Iterator[Flow]:
        fits = ct_match.matcher(order, self.labels.numbers)
        wanted = ct_match.criteria(order)
        criteria = {name: value for name, value in vars(wanted).items() if value is not None}
        return filter(fits, self.table.flows(zero="zero" in order, **criteria))

    def list_flows(self) -> int:
        """-L"""
        if self.order.table == "dying":
            flows: Iterable[Flow] = filter(self._meant(), self.table.dying())
        elif self.order.table == "unconfirmed":
            flows = filter(self._meant(), self.table.unconfirmed())
        else:
            flows = self._flows(self.order)
        self.output.show_all(flows)
        return self.output.shown

    def get_flow(self) -> int:
        """-G"""
        original, reply = ct_match.tuples(self.order)
        target = original if self.order["src"] is not None else reply
        self.output.show(self.table.get(target, zone=self.order["zone"]))
        return 1

    def create_flow(self) -> int:
        """-I"""
        self._create(exclusive=True)
        return 1

    def add_flow(self) -> int:
        """-A: one that is there is changed as far as it can be, and does not count."""
        try:
            self._create(exclusive=True)
        except nfnl.Exists:
            self._create(exclusive=False)
            return 0
        return 1

    def _create(self, *, exclusive: bool) -> None:
        order = self.order
        original, reply = ct_match.tuples(order)
        status: StatusWish | None = order["status"]
        mark: Masked | None = order["mark"]
        self.table.create(
            original,
            reply=reply,
            timeout=order["timeout"],
            exclusive=exclusive,
            zone=order["zone"],
            status=status.on if status else nfnl.Status(0),
            mark=mark.value if mark else None,
            protoinfo=ct_match.protoinfo(order),
            nat_src=ct_match.nat(order["src_nat"]),
            nat_dst=ct_match.nat(order["dst_nat"]),
            labels=self.labels.numbers(order["label_add"]) if "label_add" in order else None,
        )

    def update_flows(self) -> int:
        """-U"""
        order = self.order
        which = Order(
            order.command, order.table, {k: v for k, v in order.values.items() if k not in ct_match.CHANGES}, order.family
        )
        changes = self._changes()
        for flow in list(self._flows(which)):
            if self._changes_nothing(flow):
                continue
            self.table.update(flow, **changes)
            self.output.show(self.table.get(flow), What.UPDATE if self._saving else None)
        return self.output.shown

    def _changes(self) -> dict[str, Any]:
        order = self.order
        mark: Masked | None = order["mark"]
        changes: dict[str, Any] = {}
        if order["timeout"] is not None:
            changes["timeout"] = order["timeout"]
        if order["status"] is not None:
            changes["status"] = order["status"].on
        if mark is not None:
            changes |= {"mark": mark.value & mark.mask, "mark_mask": mark.mask}
        if order["state"] is not None:
            changes["protoinfo"] = ct_match.protoinfo(order)
        added = self.labels.numbers(order["label_add"]) if "label_add" in order else frozenset()
        if "label_del" in order:
            every = frozenset(range(128))
            gone = self.labels.numbers(order["label_del"]) if order["label_del"] else every
            changes |= {"labels": label_bitmap(*added), "labels_mask": label_bitmap(*(added | gone))}
        elif added:
            changes |= {"labels": label_bitmap(*added), "labels_mask": label_bitmap(*added)}
        return changes

    def _changes_nothing(self, flow: Flow) -> bool:
        order = self.order
        if order["timeout"] is not None or order["state"] is not None or "label_add" in order or "label_del" in order:
            return False
        mark: Masked | None = order["mark"]
        status: StatusWish | None = order["status"]
        return (mark is None or ((flow.mark or 0) ^ mark.value) & mark.mask == 0) and (
            status is None or (flow.status or nfnl.Status(0)) & status.on == status.on
        )

    def delete_flows(self) -> int:
        """-D: each that matches, and no other that took its place meanwhile."""
        for flow in list(self._flows(self.order)):
            try:
                self.table.delete(flow)
            except nfnl.NotFound:
                continue  # its time was up
            self.output.show(flow, What.DESTROY if self._saving else None)
        return self.output.shown

    def flush_flows(self) -> None:
        """-F"""
        self.table.flush(family=self.order.family or None)
        if not self.quiet:
            remark("connection tracking table has been emptied.")

    def count_flows(self) -> None:
        """-C"""
        print(self.table.count())

    def flow_stats(self) -> None:
        """-S"""
        show_stats(self.table.cpu_stats(), _STATS)

    commands: ClassVar = {
        Command.LIST: list_flows,
        Command.GET: get_flow,
        Command.CREATE: create_flow,
        Command.ADD: add_flow,
        Command.UPDATE: update_flows,
        Command.DELETE: delete_flows,
        Command.FLUSH: flush_flows,
        Command.COUNT: count_flows,
        Command.STATS: flow_stats,
    }
