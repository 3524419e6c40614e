"""Where flows and expectations go: lines, XML, JSON or, on a terminal, a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import click

from nfnl.cli import ct_text
from nfnl.cli.ct_match import state_of
from nfnl.cli.ct_text import Style, What
from nfnl.cli.screen import Screen
from nfnl.subsys.conntrack import FlowAttributes, Protocol, Status, Tuple, protocol_words
from nfnl.subsys.expect import ExpectationAttributes

Entry = FlowAttributes | ExpectationAttributes
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
#: rows whose widths decide those of a table's columns
_PAGE = 500
#: entries from one look at the clock to the next, while a long list goes to a file
_STEP = 1000


class Output:
    """What is shown, in the form that was asked for."""

    def __init__(self, forms: frozenset[str], label_names: dict[int, str], table: str, clock: Callable[[], float]) -> None:
        """``clock``: seconds since 1970, this machine's or a fake kernel's."""
        self.style = Style(
            extended="extended" in forms,
            id="id" in forms,
            timestamp="timestamp" in forms,
            ktimestamp="ktimestamp" in forms,
            labels="labels" in forms,
            label_names=label_names,
        )
        self._forms = forms
        self._root = "expect" if table == "expect" else "conntrack"
        self._opened = False
        self.shown = 0
        self._clock = clock

    @property
    def tabular(self) -> bool:
        """A person is looking, and has not asked for lines."""
        return not self._forms and sys.stdout.isatty()

    def text(self, entry: Entry, what: What | None = None) -> str:
        """One entry, in the form that was asked for."""
        now = self._clock()
        if "json" in self._forms:
            return ct_text.flow_json(entry, what=what)
        if isinstance(entry, FlowAttributes):
            if "save" in self._forms:
                return ct_text.flow_save(entry, what=what)
            if "xml" in self._forms:
                return ct_text.flow_xml(entry, self.style, what=what, now=now)
            return ct_text.flow_line(entry, self.style, what=what, now=now)
        if "xml" in self._forms:
            return ct_text.expectation_xml(entry, self.style, what=what, now=now)
        return ct_text.expectation_line(entry, self.style, what=what, now=now)

    def show(self, entry: Entry, what: What | None = None, *, ending: str = "") -> None:
        """Print one entry; ``what`` happened to it."""
        if "xml" in self._forms and not self._opened:
            print(f"{_DECLARATION}\n<{self._root}>")
            self._opened = True
        self.shown += 1
        print(self.text(entry, what) + ending)

    def show_all(self, entries: Iterable[Entry]) -> None:
        """Print many entries: a table for a person, lines for a pipe, and a count on the terminal while a file is written."""
        if self.tabular and self._root == "conntrack":
            self._show_table(entry for entry in entries if isinstance(entry, FlowAttributes))
            return
        if sys.stdout.isatty() or not sys.stderr.isatty():
            for entry in entries:
                self.show(entry)
            return
        for entry in entries:
            self.show(entry)
            if not self.shown % _STEP:
                click.echo(f"\r{self.shown:,} entries", nl=False, err=True)
        click.echo("\r\x1b[K", nl=False, err=True)

    def close(self) -> None:
        """Say that it is all."""
        if self._opened:
            print(f"</{self._root}>")
        sys.stdout.flush()

    # -- a table ---------------------------------------------------------------------------------------------------------------

    def _show_table(self, flows: Iterator[FlowAttributes]) -> None:
        table = _Table(Screen())
        for flow in flows:
            self.shown += 1
            table.add(_row(flow))
        table.flush()


class _Table:
    """Rows in columns that are as wide as a page needs; a column that has been empty so far is left out."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._widths = [0] * len(_HEADS)
        self._page: list[tuple[str, ...]] = []

    def add(self, row: tuple[str, ...]) -> None:
        self._page.append(row)
        if len(self._page) == _PAGE:
            self.flush()

    def flush(self) -> None:
        """Print the page, with heads if there are columns that had none."""
        needed = [max((len(row[at]) for row in self._page), default=0) for at in range(len(_HEADS))]
        heads = any(width and not before for width, before in zip(needed, self._widths, strict=True))
        widths = (max(width, before) for width, before in zip(needed, self._widths, strict=True))
        self._widths = [width and max(width, len(head)) for width, head in zip(widths, _HEADS, strict=True)]
        if heads:
            self._line(_HEADS, ("bold",) * len(_HEADS))
        for row in self._page:
            self._line(row, _STYLES)
        self._page.clear()

    def _line(self, row: tuple[str, ...], styles: tuple[str, ...]) -> None:
        shown = [(f"{cell:<{width}}  ", style) for cell, width, style in zip(row, self._widths, styles, strict=True) if width]
        *cells, (last, style) = shown
        self._screen.line(*cells, (last.rstrip(), style))


_HEADS = ("PROTOCOL", "STATE", "ORIGINAL", "", "TRANSLATED, ANSWERS", "SECONDS", "MARK", "ZONE", "PACKETS", "")
_STYLES = ("cyan", "green", "", "", "magenta", "", "yellow", "", "", "dim")


def _row(flow: FlowAttributes) -> tuple[str, ...]:
    original, reply = flow.original, flow.reply
    assert original is not None
    state = state_of(flow)
    name = getattr(state, "name", "" if state is None else str(state))
    status = flow.status or Status(0)
    translated = status & (Status.SRC_NAT | Status.DST_NAT) and reply is not None
    notes = [] if status & Status.SEEN_REPLY else ["unreplied"]
    notes += [bit.name.lower() for bit in (Status.ASSURED, Status.OFFLOAD, Status.HW_OFFLOAD) if status & bit and bit.name]
    notes += [f"helper {flow.helper}"] if flow.helper else []
    packets = [c.packets or 0 for c in (flow.counters_original, flow.counters_reply) if c is not None]
    src, dst = _ends(original)
    return (
        protocol_words(original.protocol),
        name,
        src,
        f"> {dst}",
        " > ".join(_ends(reply)) if translated and reply is not None else "",
        "" if flow.timeout is None else str(flow.timeout),
        hex(flow.mark) if flow.mark else "",
        "" if flow.zone is None else str(flow.zone),
        " / ".join(map(str, packets)),
        ", ".join(notes),
    )


def _ends(ends: Tuple) -> tuple[str, str]:
    if ends.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return str(ends.src), f"{ends.dst} type {ends.icmp_type} id {ends.icmp_id}"
    return _end(ends.src, ends.src_port), _end(ends.dst, ends.dst_port)


def _end(address: object, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def remark(text: str) -> None:
    """Something for people, on standard error."""
    click.echo(f"nfnl conntrack: {text}", err=True)
