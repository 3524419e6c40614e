"""``nfnl queue``: listen at a queue, and look at what comes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Unpack

import click

import nfnl
from nfnl.cli import handlers, packets
from nfnl.cli.owners import owners
from nfnl.cli.pcapng import PcapngWriter
from nfnl.cli.rights import has_net_admin
from nfnl.cli.screen import Screen
from nfnl.session.queue import Changes
from nfnl.subsys.queue import verdict_words

if TYPE_CHECKING:
    from nfnl.cli.stage import Stage

_STYLES = {"DROP": "red", "ACCEPT": "green"}
_PACKAGE, _IMPORTLIB = str(Path(nfnl.__file__).parent), str(Path(importlib.__file__).parent)
#: seconds without a packet after which a rule is suggested
_PATIENCE = 3.0


def rule_for(number: int) -> str:
    """A rule that brings packets to a queue, and locks nobody out."""
    return f"iptables -A INPUT -p icmp -j NFQUEUE --queue-num {number} --queue-bypass"


@click.command()
@click.argument("number", metavar="NUM", type=click.IntRange(0, 65535))
@click.option("--accept", "verdict", flag_value="accept", help="Accept every packet.")
@click.option("--drop", "verdict", flag_value="drop", help="Drop every packet.")
@click.option("--handler", metavar="MODULE:FUNCTION", help="Let a Python function decide: it is handed each QueuedPacket.")
@click.option("--watch", is_flag=True, help="Print a line for each packet, with its verdict. Without a verdict option: accept it.")
@click.option("--pcap", metavar="FILE", type=click.Path(dir_okay=False), help="Write the packets to a pcapng file, for Wireshark.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after so many packets.")
@click.option("--copy-range", metavar="N", type=click.IntRange(1, 65531), help="Bytes of each packet that are copied.")
@click.option("--max-length", metavar="N", type=click.IntRange(0, 0xFFFFFFFF), help="Packets that may wait in the kernel.")
@click.option("--fail-open", is_flag=True, help="Packets that find the queue full are accepted, not dropped.")
@click.option("--kernel", type=click.Choice(["linux", "fake"]), help="Linux, unless a scenario or packets are given.")
@click.option("--scenario", metavar="FILE.py", help="A Python file that is run with 'kernel', a fake kernel, in scope.")
@click.option("--rules", metavar="FILE", help="Rules for the fake kernel, as iptables-save prints them.")
@click.option(
    "--packets", "capture", metavar="PCAP", help="A capture whose packets the fake kernel receives on eth0, at their times."
)
def command(
    number: int,
    verdict: str | None,
    handler: str | None,
    watch: bool,
    pcap: str | None,
    count: int | None,
    copy_range: int | None,
    max_length: int | None,
    fail_open: bool,
    kernel: str | None,
    scenario: str | None,
    rules: str | None,
    capture: str | None,
) -> None:
    """Listen at queue NUM: watch the packets that come, or decide about them.

    Without options each packet is printed and accepted. A HANDLER gives each packet one verdict, as in
    "def judge(packet): packet.drop()"; packets that it leaves without one are dropped. Ctrl-C ends it, with a count of verdicts
    and losses. It takes CAP_NET_ADMIN.

    With a scenario, or packets, everything happens on a fake kernel in this process, and takes no rights: a machine with the
    addresses 10.0.0.1 and fd00::1, which passes nothing on. A scenario can change that before the packets come:
    kernel.sysctl("net.ipv4.ip_forward", 1), kernel.add_address("eth0", "192.0.2.1/24").

    \b
    Examples:
      nfnl queue 5
      nfnl queue 5 --drop --watch --count 10
      nfnl queue 5 --handler firewall:judge --pcap seen.pcapng
      nfnl queue 5 --handler firewall:judge --rules saved.txt --packets some.pcap
      nfnl queue 5 --scenario scenario.py
    """
    if verdict and handler:
        raise click.UsageError(f"--{verdict} and --handler are two answers to one question.")
    fake = bool(scenario or rules or capture or kernel == "fake")
    if fake and kernel == "linux":
        raise click.UsageError("--scenario, --rules and --packets are for the fake kernel.")
    if fake and not (scenario or capture):
        raise click.UsageError("On a fake kernel nothing comes by itself: give it a --scenario or --packets.")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    judge: handlers.Handler
    if handler:
        with users_code():
            judge = handlers.load(handler)
    else:
        judge = nfnl.QueuedPacket.drop if verdict == "drop" else nfnl.QueuedPacket.accept
    stage = _stage() if fake else None
    options: nfnl.QueueOptions = {
        "kernel": stage or nfnl.LinuxKernel(),
        "undecided": "drop" if handler or verdict == "drop" else "accept",
        "flags": nfnl.QueueFlag.FAIL_OPEN if fail_open else nfnl.QueueFlag(0),
        "max_length": max_length,
        "on_event": lambda event: click.echo(f"nfnl queue: {event}", err=True),
    }
    if copy_range is not None:
        options["copy_range"] = copy_range
    with ExitStack() as cleanup:
        queue = _open(number, options)
        cleanup.callback(_close, queue)
        work = Work(queue, judge, Screen() if watch or not (verdict or handler) else None, count)
        if pcap:
            try:
                file = cleanup.enter_context(open(pcap, "wb", buffering=0))
            except OSError as error:
                raise click.ClickException(f"{pcap}: {error.strerror}") from None
            work.capture = PcapngWriter(file, f"queue {number}")
        try:
            if stage:
                work.clock = lambda: stage.now
                _play(stage, work, rules, capture, scenario)
            else:
                _listen(work)
        except click.ClickException:
            raise  # what is wrong with a file is all there is to say
        except BaseException:
            _tell(work, stage)
            raise
        _tell(work, stage)


def _tell(work: Work, stage: Stage | None) -> None:
    for line in work.summary():
        click.echo(line, err=True)
    if stage:
        stage.tell_fates()


class Listener(nfnl.Queue):
    """A queue that remembers the last verdict."""

    word: int
    mark: int | None
    changed: bool

    def decide(self, packet_id: int, word: int, **changes: Unpack[Changes]) -> None:
        """See `Queue.decide`."""
        super().decide(packet_id, word, **changes)
        self.word, self.mark, self.changed = word, changes.get("mark"), changes.get("payload") is not None

    def decide_plain(self, packet_id: int, word: int) -> None:
        """See `Queue.decide_plain`."""
        super().decide_plain(packet_id, word)
        self.word, self.mark, self.changed = word, None, False


class Work:
    """Packets are judged, shown, recorded and counted."""

    def __init__(self, queue: Listener, judge: handlers.Handler, screen: Screen | None, count: int | None) -> None:
        self.queue = queue
        self.judge = judge
        self.screen = screen
        self.capture: PcapngWriter | None = None
        self.clock: Callable[[], float] = time.time
        self.verdicts: Counter[str] = Counter()
        self.forgotten = 0
        self.judging = False  #: a handler is at work
        self._left = count
        self.on_first: Callable[[], object] = lambda: None

    def serve(self) -> None:
        """Judge what comes, until the queue's iteration ends or there were enough."""
        if self._left == 0:
            return
        for packet in self.queue:
            self.on_first()
            self._one(packet)
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    return

    def _one(self, packet: nfnl.QueuedPacket) -> None:
        self.judging = True
        try:
            self.judge(packet)
        finally:
            self.judging = False
            if not packet.decided:
                self.forgotten += 1
                packet.drop()
            said = verdict_words(self.queue.word)
            self.verdicts[said] += 1
            if self.screen:
                told = f"{said}{'' if self.queue.mark is None else f' mark {self.queue.mark:#x}'}"
                what = packets.summary(packet.payload) if packet.payload else f"EtherType {packet.hw_protocol:#06x}"
                head = f"{packet.id:>5}  {packet.hook.name:<11} "
                self.screen.line((head, "dim"), (f"{what:<58} ", ""), (told, _STYLES.get(said, "yellow")))
            if self.capture:
                when = packet.timestamp or self.clock()
                self.capture.write(packet.payload, seconds=when, length=packet.full_length, comment=self._comment(packet, said))

    def _comment(self, packet: nfnl.QueuedPacket, said: str) -> str:
        mark = packet.mark if self.queue.mark is None else self.queue.mark
        parts = [
            f"packet {packet.id} of queue {self.queue.number} at {packet.hook.name}: {said}",
            *([f"mark {mark:#x}"] if mark else []),
            *(["with other bytes than these"] if self.queue.changed else []),
        ]
        return ", ".join(parts)

    def summary(self) -> Iterator[str]:
        """What happened, for people. To be asked before the queue is closed."""
        total = self.verdicts.total()
        told = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.most_common())
        yield f"{_packets(total)} came to queue {self.queue.number}{': ' * bool(told)}{told}."
        if self.forgotten:
            yield f"{_packets(self.forgotten)} left without a verdict by the handler, and dropped."
        if waiting := len(self.queue.waiting):
            yield f"{_packets(waiting)} more had come: the policy for undecided packets decides them."
        yield from losses_in_words(self.queue.losses)
        if not total:
            yield f"A rule brings packets here, for example:\n  {rule_for(self.queue.number)}"


def losses_in_words(losses: nfnl.QueueLosses) -> Iterator[str]:
    """What was lost, and what there is to do about it, a sentence each."""
    lost = losses.lost if losses.user_dropped is None else losses.user_dropped
    if lost or losses.overruns:
        least = "At least " if losses.uncertain and losses.user_dropped is None else ""
        yield f"{least}{_packets(lost)} lost: they came faster than they were read, and the receive buffer was full."
    if losses.queue_dropped:
        yield f"{_packets(losses.queue_dropped)} lost: too many were waiting for a verdict. --max-length lets more wait."
    if losses.undecodable:
        yield f"{_packets(losses.undecodable)} could not be understood: the policy for undecided packets decided them."
    if not (lost or losses.overruns or losses.queue_dropped or losses.undecodable):
        unseen = losses.queue_dropped is None
        yield f"Nothing was lost{', as far as can be seen: the counts of the kernel are for root' if unseen else ''}."


def _packets(count: int) -> str:
    return f"{count} packet{'s' * (count != 1)}"


def _stage() -> Stage:
    from nfnl.cli.stage import Stage

    click.echo("On the fake kernel, in this process: nothing on this machine is touched.", err=True)
    return Stage()


def _open(number: int, options: nfnl.QueueOptions) -> Listener:
    try:
        return Listener(number, **options)
    except nfnl.NotPermitted as error:
        raise click.ClickException(_why_not(number) or str(error)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _why_not(number: int) -> str:
    """Why a queue may not be had, of the two reasons there are; "" if that cannot be told."""
    try:
        taken = owners(nfnl.LinuxKernel()).get(number)
    except OSError:  # they are for root to see
        if has_net_admin():
            return ""
        taken = None
    if taken:
        return f"queue {number} is taken: {taken} listens there, and a queue has one listener."
    return (
        "it takes CAP_NET_ADMIN to listen at a queue.\n"
        f"Run it as root, or in a namespace of your own, where you are root:\n  unshare -Urn nfnl queue {number}"
    )


def _close(queue: Listener) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nfnl.QueueWarning)  # the summary has told of them
        queue.close()


def _listen(work: Work) -> None:
    """On Linux: until a signal, or until there were enough."""
    queue = work.queue
    before: dict[int, Any] = {}
    advice = f"Nothing yet. A rule brings packets here, for example:\n  {rule_for(queue.number)}"
    hint = threading.Timer(_PATIENCE, click.echo, [advice], {"err": True})
    hint.daemon = True

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, before[number])
        queue.stop()
        if os.isatty(2):
            os.write(2, b"\n")  # behind the ^C that the terminal shows
        if work.judging:
            os.write(2, b"Ending after this packet; once more, and the handler is interrupted.\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    work.on_first = hint.cancel
    hint.start()
    click.echo(f"Listening at queue {queue.number}; Ctrl-C ends it.", err=True)
    try:
        with users_code():
            work.serve()
    finally:
        hint.cancel()
        for which, former in before.items():
            signal.signal(which, former)


def _play(stage: Stage, work: Work, rules: str | None, capture: str | None, scenario: str | None) -> None:
    """On the fake kernel: until the scenario is over."""
    from nfnl.cli.stage import load_rules, play, receive_capture

    stage.serve = work.serve
    if rules:
        load_rules(stage, rules)
    with users_code():
        if scenario:
            play(stage, scenario)
        if capture:
            receive_capture(stage, capture)


@contextmanager
def users_code() -> Iterator[None]:
    """Inside runs what the user wrote. Ctrl-C ends it; an exception is shown from where his code begins, and the status is 1."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)
    except (click.ClickException, BrokenPipeError):
        raise
    except Exception as error:
        sys.stdout.flush()
        trace = error.__traceback__
        while trace and (trace.tb_frame.f_code.co_filename.startswith((_PACKAGE, "<frozen importlib", _IMPORTLIB))):
            trace = trace.tb_next
        traceback.print_exception(error.with_traceback(trace))
        raise click.exceptions.Exit(1) from None
