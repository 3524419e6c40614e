"""A fake kernel whose queue is served while a scenario is played on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsBytes

import click

from nfnl.cli.captures import ip_packets
from nfnl.sim import FakeKernel, IptablesError, Journey


class Stage(FakeKernel):
    """After each verb that moves packets the handler has its turn, as it would have on Linux, where it runs all the while.

    Inside ``until_idle()`` it waits until the end of the block: so a scenario lets packets pile up in the queue.
    """

    def __init__(self) -> None:
        super().__init__()
        self.serve: Callable[[], object] = lambda: None
        self.journeys: list[Journey] = []
        self._busy = False

    def _turn(self) -> None:
        if self._busy:  # the handler sends packets of its own, or the scenario wants it to wait
            return
        self._busy = True
        try:
            with super().until_idle():
                self.serve()
        finally:
            self._busy = False

    def send(self, packet: SupportsBytes, **how: Any) -> Journey:
        """See `FakeKernel.send`."""
        return self._seen(super().send(packet, **how))

    def receive(self, packet: SupportsBytes, dev: str = "eth0", **how: Any) -> Journey:
        """See `FakeKernel.receive`."""
        return self._seen(super().receive(packet, dev, **how))

    def forward(self, packet: SupportsBytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """See `FakeKernel.forward`."""
        return self._seen(super().forward(packet, in_dev, out_dev))

    def receive_frame(self, frame: bytes, port: str) -> Journey:
        """See `FakeKernel.receive_frame`."""
        return self._seen(super().receive_frame(frame, port))

    def _seen(self, journey: Journey) -> Journey:
        self.journeys.append(journey)
        self._turn()
        return journey

    def advance(self, seconds: float) -> None:
        """See `FakeKernel.advance`."""
        super().advance(seconds)
        self._turn()

    @contextmanager
    def until_idle(self) -> Iterator[None]:
        """See `FakeKernel.until_idle`."""
        before, self._busy = self._busy, True
        try:
            with super().until_idle():
                yield
        finally:
            self._busy = before
        self._turn()

    def tell_fates(self) -> None:
        """Say what became of the packets sent and received, and why some were dropped."""
        fates = Counter(journey.fate.value for journey in self.journeys)
        told = ", ".join(f"{count} {fate}" for fate, count in fates.most_common())
        count = f"{len(self.journeys)} packet{'s' * (len(self.journeys) != 1)}"
        click.echo(f"On the fake kernel: {count} sent or received{': ' * bool(told)}{told}.", err=True)
        for reason, number in Counter(journey.reason for journey in self.journeys if journey.dropped).most_common():
            click.echo(f"  {number} dropped: {reason}", err=True)


def load_rules(kernel: FakeKernel, file: str) -> None:
    """Restore what iptables-save printed. Raises ClickException with what the command complains of."""
    try:
        kernel.iptables_restore(read(file).decode())
    except UnicodeDecodeError:
        raise click.ClickException(f"{file}: that is no text, as iptables-save prints it") from None
    except IptablesError as error:
        raise click.ClickException(f"{file}: {error}") from None


def receive_capture(kernel: FakeKernel, file: str) -> None:
    """Let the IP packets of a capture arrive, as long after each other as they did. Raises ClickException where it is broken."""
    latest = None
    for found in ip_packets(read(file)):
        if found.data:
            latest = found.time if latest is None else latest
            if found.time > latest:
                kernel.advance(found.time - latest)
                latest = found.time
            kernel.receive(found.data)
        if found.remark:
            click.echo(f"nfnl: {file}: {found.remark}", err=True)
        if found.problem:
            raise click.ClickException(f"{file}: {found.problem}")


def play(kernel: FakeKernel, file: str) -> None:
    """Run a scenario: Python with ``kernel`` in scope. What it raises comes out."""
    exec(compile(read(file), file, "exec"), {"__name__": "__main__", "__file__": str(Path(file)), "kernel": kernel})


def read(file: str) -> bytes:
    """Its bytes. Raises ClickException."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
