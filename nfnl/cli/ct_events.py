"""``nfnl conntrack`` and what happens: events, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

import nfnl
from nfnl.cli import ct_match
from nfnl.cli.ct_labels import LabelMap
from nfnl.cli.ct_order import Order
from nfnl.cli.ct_output import Output, remark
from nfnl.cli.ct_text import What
from nfnl.cli.owners import program_of
from nfnl.session.events import (
    ExpectationDestroyed,
    ExpectationNew,
    FlowDestroyed,
    FlowNew,
    FlowUpdated,
    Overrun,
)
from nfnl.transport.base import Kernel
from nfnl.wire.declare import Message

#: of flows, and of expectations: words of --event-mask, and what has to be followed
_KINDS: dict[bool, dict[str, tuple[Any, ...]]] = {
    True: {
        "ALL": ("new", "updated", "destroyed"),
        "NEW": ("new",),
        "UPDATES": ("updated",),
        "DESTROY": ("destroyed",),
    },
    False: {"ALL": ("expectation_new", "expectation_destroyed")},
}
_WHAT: dict[type, What] = {
    FlowNew: What.NEW,
    FlowUpdated: What.UPDATE,
    FlowDestroyed: What.DESTROY,
    ExpectationNew: What.NEW,
    ExpectationDestroyed: What.DESTROY,
}
_OVERRUN = """WARNING: We have hit ENOBUFS! We are losing events.
This message means that the current netlink socket buffer size is too small.
Please, check --buffer-size in `nfnl conntrack --help'."""


class Follower:
    """The events that an order asks for, shown as they come."""

    def __init__(self, order: Order, clock: Callable[[], float], processes: Kernel | None) -> None:
        """``processes``: the kernel whose ports belong to processes; None: nobody's do."""
        self._processes = processes
        self._names: dict[int, str] = {}
        labels = LabelMap(order["labelmap"])
        self._order = order
        self._flows = order.table != "expect"
        self._fits: Callable[[Any], bool] = (
            ct_match.matcher(order, labels.numbers) if self._flows else ct_match.expectation_matcher(order)
        )
        self.output = Output(order["output"] or frozenset(), labels.names, order.table, clock)

    def options(self) -> nfnl.ConntrackOptions:
        """What a table that tells the events has to be opened with."""
        kinds = _KINDS[self._flows]
        followed = {kind for word in self._order["event_mask"] or ("ALL",) for kind in kinds[word]}
        options: nfnl.ConntrackOptions = {"follow": tuple(sorted(followed))}
        if self._flows:
            options["event_filter"] = ct_match.event_filter(self._order)
        if self._order["buffer_size"]:
            options["receive_buffer"] = self._order["buffer_size"]
        return options

    def follow(self, table: nfnl.FlowTable) -> None:
        """Show them, until nothing more can come."""
        for event in table:
            what = _WHAT.get(type(event))
            if what is None:
                click.echo(_OVERRUN if isinstance(event, Overrun) else str(event), err=True)
                continue
            entry = event.flow if isinstance(event, FlowNew | FlowUpdated | FlowDestroyed) else event.expectation  # type: ignore[union-attr]
            if self._fits(entry):
                self.output.show(entry, what, ending=self._cause(entry))
                sys.stdout.flush()

    def follow_until_signal(self, table: nfnl.FlowTable) -> None:
        """Show them, until a signal comes; what is being shown then is shown whole. The second signal does what it always does."""
        before: dict[int, Any] = {}

        def stop(number: int, _: FrameType | None) -> None:
            signal.signal(number, before[number])
            table.stop()
            if os.isatty(2):
                os.write(2, b"\n")  # behind the ^C that the terminal shows

        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
        if sys.stderr.isatty():
            click.echo("Following what happens; Ctrl-C ends it.", err=True)
        try:
            self.follow(table)
        finally:
            for which, former in before.items():
                signal.signal(which, former)

    def close(self) -> None:
        """Say that it is all."""
        self.output.close()
        remark(f"{self.output.shown} {'flow' if self._flows else 'expectation'} events have been shown.")

    def _cause(self, entry: Message) -> str:
        """Which program it was, if it was one."""
        if not entry.nlmsg_pid or not {"xml", "json"}.isdisjoint(self._order["output"] or ()):
            return ""
        name = self._program(entry.nlmsg_pid)
        return f" [USERSPACE] portid={entry.nlmsg_pid}" + (f" progname={name}" if name else "")

    def _program(self, port_id: int) -> str:
        """Its name; looked up until it is found, and no more: a program may cause events faster than /proc is read."""
        if self._processes is not None and not self._names.get(port_id):
            self._names[port_id] = program_of(self._processes, port_id)
        return self._names.get(port_id, "")
