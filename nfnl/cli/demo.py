"""``nfnl demo``: a queue handler at work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

import nfnl
from nfnl.cli import packets
from nfnl.cli.screen import Screen
from nfnl.sim.journey import Journey

if TYPE_CHECKING:
    from nfnl.sim import FakeKernel
    from nfnl.testing.lab import LinuxLab

RULE = "-A OUTPUT -p icmp -j NFQUEUE --queue-num 1 --queue-bypass"
_STYLES = {"DROP": "red", "dropped": "red", "ACCEPT": "green", "delivered": "green", "not queued": "dim"}


def drop_odd_pings(queue: nfnl.Queue) -> None:
    """The handler: it has no idea which kernel it works for."""
    from scapy.layers.inet import ICMP, IP

    for packet in queue:
        ip = IP(packet.payload)
        if ICMP in ip and ip[ICMP].type == 8 and ip[ICMP].seq % 2:
            packet.drop()
        else:
            packet.accept()


def traffic() -> Iterator[Any]:
    """Six pings, and a UDP and a TCP packet to ports where nobody listens."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP

    there = IP(src="127.0.0.1", dst="127.0.0.1")
    for number in range(1, 7):
        yield there / ICMP(type=8, id=1, seq=number)
    yield there / UDP(sport=40000, dport=9) / b"hello"
    yield there / TCP(sport=40000, dport=9, flags="S")


@click.command()
@click.option(
    "--kernel",
    type=click.Choice(["fake", "linux"]),
    default="fake",
    show_default=True,
    help="The fake kernel in this process, or Linux in a throw-away network namespace (root, or a user namespace).",
)
def command(kernel: str) -> None:
    """Send pings through a queue and drop every other one.

    Six pings, a UDP and a TCP packet go to 127.0.0.1; a rule sends ICMP to queue 1, where a handler drops the echo requests
    with an odd sequence number. Rule, handler and packets are the same on both kernels, and so is every line printed.

    \b
    Examples:
      nfnl demo
      nfnl demo --kernel linux
    """
    logging.getLogger("scapy").setLevel(logging.ERROR)  # it warns of what does not concern us: no default route and the like
    with open_kernel(kernel) as opened:
        run(opened, Screen())


def open_kernel(name: str) -> AbstractContextManager[FakeKernel | LinuxLab]:
    """The kernel of that name. Raises ClickException, with the reason, where there can be no lab."""
    if name == "fake":
        from nfnl.sim import FakeKernel

        click.echo("On the fake kernel, in this process: nothing on this machine is touched.", err=True)
        return FakeKernel()
    from nfnl.testing.lab import LinuxLab, enter_user_namespace

    try:
        if os.geteuid() != 0:
            enter_user_namespace()
        lab = LinuxLab()
    except OSError as error:
        raise click.ClickException(
            f"no throw-away network namespace can be had here: {error.strerror or error}.\n"
            "It takes root, or user namespaces and a tun device open to all; 'nfnl demo' on the fake kernel takes neither."
        ) from None
    click.echo("On Linux, in a network namespace of its own that is gone at the end.", err=True)
    return lab


def run(kernel: FakeKernel | LinuxLab, screen: Screen) -> None:
    """The demonstration, on any kernel that has the tester's verbs."""
    kernel.iptables(RULE)
    screen.line(("rule     ", "bold"), (f"iptables {RULE}", ""))
    screen.line(("handler  ", "bold"), ("drops echo requests with an odd sequence number, accepts all else", ""))
    screen.line()
    screen.line((f"{'packet':<59}{'verdict':<13}what became of it", "bold"))
    seen: list[Journey] = []
    with nfnl.open_queue(1, kernel=kernel) as queue:
        for packet in traffic():
            with kernel.until_idle():
                journey = kernel.send(packet)
                drop_odd_pings(queue)
            for depth, one in family(journey):
                show(one, depth, screen)
                seen.append(one)
    queued = [journey for journey in seen if journey.queue is not None]
    dropped = [journey for journey in queued if verdict(journey) == "DROP"]
    screen.line()
    screen.line((f"{len(seen)} packets: {len(queued)} went through queue 1, of which the handler dropped {len(dropped)}", "bold"))


def family(journey: Journey, depth: int = 0) -> Iterator[tuple[int, Journey]]:
    """A packet and what was sent because of it."""
    yield depth, journey
    for answer in journey.answers:
        yield from family(answer, depth + 1)


def show(journey: Journey, depth: int, screen: Screen) -> None:
    """One line."""
    what = f"{'  ' * depth}{packets.summary(journey.data)}"
    given, fate = verdict(journey), journey.fate.value
    screen.line((f"{what:<58} ", ""), (f"{given:<12} ", _STYLES.get(given, "")), (fate, _STYLES.get(fate, "")))


def verdict(journey: Journey) -> str:
    """What the handler said about a packet."""
    for step in reversed(journey.steps):
        if step.what.startswith("verdict "):
            return step.what.split()[1]
    return "not queued" if journey.queue is None else "none"
