"""``nfnl conntrack``: the flows of this machine, as the conntrack command shows and changes them."""

from __future__ import annotations

import errno
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

import nfnl
from nfnl.cli.ct_events import Follower
from nfnl.cli.ct_expectations import ExpectationTask
from nfnl.cli.ct_flows import FlowTask
from nfnl.cli.ct_options import parse
from nfnl.cli.ct_order import HINT, Command, Order, OutputProblem, UsageProblem
from nfnl.cli.ct_output import remark
from nfnl.cli.ct_task import Task

if TYPE_CHECKING:
    from nfnl.sim import FakeKernel

_REFUSALS = {
    errno.EEXIST: "Such conntrack exists, try -U to update",
    errno.ENOENT: "such conntrack doesn't exist",
    errno.EINVAL: "invalid parameters",
    errno.ENOMEM: "not enough memory",
    errno.ETIME: "conntrack has expired",
    errno.EPERM: "sorry, you must be root or get CAP_NET_ADMIN capability to do this",
}
#: commands a file may hold
_LOADABLE = frozenset((Command.CREATE, Command.ADD, Command.UPDATE, Command.DELETE, Command.FLUSH))


class Failed(Exception):
    """What is said of it; exit status 1."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]},
    options_metavar="[KERNEL OPTIONS]",
)
@click.option("--kernel", type=click.Choice(["linux", "fake"]), help="Linux, unless a scenario or packets are given.")
@click.option("--netns", metavar="NAME", help="The network namespace, by its name or path.")
@click.option("--scenario", metavar="FILE.py", help="A Python file that is run with 'kernel', a fake kernel, in scope.")
@click.option("--rules", metavar="FILE", help="Rules for the fake kernel, as iptables-save prints them.")
@click.option(
    "--packets", "capture", metavar="PCAP", help="A capture whose packets the fake kernel receives on eth0, at their times."
)
@click.version_option(nfnl.__version__, "-V", "--version", message="nfnl %(version)s")
@click.argument("arguments", metavar="COMMAND [TABLE] [OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def command(
    kernel: str | None,
    netns: str | None,
    scenario: str | None,
    rules: str | None,
    capture: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Show and change the flows that the kernel tracks: the options and the lines of conntrack(8) 1.4.7.

    \b
    Commands (a word, or conntrack's letter):
      list    -L [TABLE]   flows; TABLE is conntrack, expect, dying or unconfirmed
      get     -G [TABLE]   one flow or expectation, by its whole tuple
      create  -I [TABLE]   make one; add -A does not mind if it is there
      update  -U           change those that match
      delete  -D [TABLE]   delete those that match
      flush   -F [TABLE]   delete all, or all of a family
      events  -E [TABLE]   follow what happens, until Ctrl-C
      count   -C [TABLE]   how many there are
      stats   -S [TABLE]   what each CPU has counted
      load    -R FILE      commands I, A, U, D and F from a file, a line each; - is standard input

    \b
    Which flows, or what is made:
      -s, --src ADDR[/BITS]   -d, --dst ADDR[/BITS]   --mask-src MASK  --mask-dst MASK
      -r, --reply-src ADDR    -q, --reply-dst ADDR
      -p, --protonum PROTO    and then, for tcp, udp, udplite, sctp, dccp: --sport --dport --reply-port-src --reply-port-dst;
                              tcp, sctp, dccp: --state; sctp: --orig-vtag --reply-vtag; dccp: --role;
                              icmp: --icmp-type --icmp-code --icmp-id; icmpv6 likewise; gre: --srckey --dstkey
      -f, --family ipv4|ipv6  -m, --mark VALUE[/MASK]  -c, --secmark VALUE
      -u, --status LIST       ASSURED, SEEN_REPLY, UNREPLIED, FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD, UNSET; !NAME
      -n, --src-nat [ADDR[:PORT]]  -g, --dst-nat  -j, --any-nat
      -w, --zone N            --orig-zone N  --reply-zone N
      -l, --label LIST        --label-add LIST  --label-del [LIST]  -M, --labelmap FILE
      -t, --timeout SECONDS   -z, --zero (with -L: start counters again)

    \b
    Events:  -e, --event-mask ALL|NEW|UPDATES|DESTROY   -b, --buffer-size BYTES
    Output:  -o, --output LIST
             extended, id, timestamp, ktimestamp, labels, xml, save, userspace as conntrack has them;
             json: everything, a line each; plain: lines on a terminal, too, where a table is shown otherwise

    \b
    Examples:
      nfnl conntrack list -p tcp --dport 443 -o id
      nfnl conntrack -D -s 10.0.0.0/8
      nfnl conntrack update -s 10.0.0.9 -m 7
      nfnl conntrack events -e NEW,DESTROY -o json
      nfnl conntrack list --scenario scenario.py

    With a scenario, or packets, everything happens on a fake kernel in this process, and takes no rights; packets come after the
    scenario, which may prepare for them: kernel.sysctl("net.ipv4.ip_forward", 1).

    Where nfnl does better than conntrack does is told in docs/explanation/conntrack-command.md. Exit status: 0; 1 when the kernel
    refused or nothing matched what was to be changed or deleted; 2 for a command line that makes no sense.
    """
    if not arguments:
        click.echo(click.get_current_context().get_help())
        return
    fake = bool(scenario or rules or capture or kernel == "fake")
    if fake and (kernel == "linux" or netns):
        raise click.UsageError("--scenario, --rules and --packets are for the fake kernel.")
    try:
        order = parse(arguments)
        world = _fake_world(scenario, rules, capture) if fake else World(netns=netns)
        done = world.run(order)
    except UsageProblem as problem:
        remark(f"{problem}\n{HINT}")
        sys.exit(2)
    except BrokenPipeError:
        raise  # whoever read it has seen enough
    except OSError as error:
        remark(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except (OutputProblem, Failed, nfnl.NfnlError, ValueError) as problem:
        for warning in getattr(problem, "warnings", ()):
            click.echo(warning, err=True)
        remark(str(problem))
        sys.exit(1)
    sys.exit(0 if done else 1)


def _fake_world(scenario: str | None, rules: str | None, capture: str | None) -> World:
    from nfnl.cli.stage import Stage, load_rules, play, receive_capture

    click.echo("On the fake kernel, in this process: nothing on this machine is touched.", err=True)
    kernel = Stage()

    def story() -> None:
        if rules:
            load_rules(kernel, rules)
        if scenario:
            play(kernel, scenario)
        if capture:
            receive_capture(kernel, capture)
            kernel.tell_fates()

    return World(kernel, story=story)


class World:
    """The kernel that is meant, and the commands on it."""

    def __init__(
        self, kernel: FakeKernel | None = None, *, netns: str | None = None, story: Callable[[], None] = lambda: None
    ) -> None:
        """``story`` is what happens on a fake kernel: before the command, or while it follows events."""
        self._options: nfnl.ConntrackOptions = {"netns": netns} if netns else {}
        self._clock = time.time
        if kernel is not None:
            from nfnl.sim.clock import EPOCH

            self._options["kernel"] = kernel
            self._clock = lambda: EPOCH + kernel.now
        self._kernel = kernel
        self._story = story

    def run(self, order: Order) -> bool:
        """Do it. False: nothing was there to be changed. Raises `Failed`."""
        for warning in order.warnings:
            click.echo(warning, err=True)
        if order.command is Command.EVENTS:
            return self._follow(order)
        self._story()
        try:
            with nfnl.open_conntrack(**self._options) as table:
                if order.command is Command.LOAD:
                    return self._load(order, table)
                return self._task(order, table).run()
        except nfnl.NetlinkError as error:
            raise Failed(f"Operation failed: {_refusal(order, error)}") from None

    def _task(self, order: Order, table: nfnl.FlowTable, *, quiet: bool = False) -> Task:
        kind = ExpectationTask if order.table == "expect" else FlowTask
        return kind(order, table, self._clock, quiet=quiet)

    def _load(self, order: Order, table: nfnl.FlowTable) -> bool:
        try:
            text = sys.stdin.read() if order.file == "-" else Path(order.file).read_text()
        except OSError as error:
            raise Failed(f"{order.file}: {error.strerror}") from None
        orders = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    orders.append((number, parse(shlex.split(line))))
                except (UsageProblem, OutputProblem, ValueError) as problem:
                    raise UsageProblem(f"{order.file}:{number}: {problem}") from None
                if orders[-1][1].command not in _LOADABLE:
                    raise UsageProblem(f"{order.file}:{number}: a file may hold -I, -A, -U, -D and -F")
        for number, one in orders:
            try:
                self._task(one, table, quiet=True).run()
            except nfnl.NetlinkError as error:
                raise Failed(f"{order.file}:{number}: Operation failed: {_refusal(one, error)}") from None
        return True

    def _follow(self, order: Order) -> bool:
        processes = nfnl.LinuxKernel(self._options.get("netns")) if self._kernel is None else None
        follower = Follower(order, self._clock, processes)
        with ExitStack() as cleanup:
            try:
                table = cleanup.enter_context(nfnl.open_conntrack(**(self._options | follower.options())))
            except nfnl.NotPermitted:
                raise Failed(_REFUSALS[errno.EPERM]) from None
            if order["buffer_size"]:
                click.echo(f"NOTICE: Netlink socket buffer size has been set to {table.receive_buffer} bytes.", err=True)
            try:
                if self._kernel is None:
                    follower.follow_until_signal(table)
                else:
                    with self._kernel.until_idle():
                        self._story()
                        follower.follow(table)
            except KeyboardInterrupt:
                pass
            finally:
                follower.close()
        return True


def _refusal(order: Order, error: nfnl.NetlinkError) -> str:
    number = error.errno or 0
    if order.table == "expect" and number == errno.ENOENT and order.command is Command.CREATE:
        return "master conntrack not found"
    return _REFUSALS.get(number) or error.strerror or str(error)
