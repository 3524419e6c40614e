"""``nfnl conntrack``: the flows of this machine, as the conntrack command shows and changes them."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nfnl
from nfnl.cli import ct_match
from nfnl.cli.ct_labels import LabelMap
from nfnl.cli.ct_options import HINT, Command, Masked, Order, OutputProblem, StatusWish, UsageProblem, parse
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
from nfnl.session.flowspec import tuple_of
from nfnl.subsys.conntrack import ExpectStatsCpu, Flow, FlowAttributes, Stats, StatsCpu, Tuple, label_bitmap
from nfnl.subsys.expect import ExpectationAttributes
from nfnl.wire.declare import Message

if TYPE_CHECKING:
    from nfnl.sim import FakeKernel

#: what is said at the end, by command
_DONE = {
    Command.LIST: "shown",
    Command.GET: "shown",
    Command.DELETE: "deleted",
    Command.UPDATE: "updated",
    Command.CREATE: "created",
    Command.ADD: "added",
}
_REFUSALS = {
    errno.EEXIST: "Such conntrack exists, try -U to update",
    errno.ENOENT: "such conntrack doesn't exist",
    errno.EINVAL: "invalid parameters",
    errno.ENOMEM: "not enough memory",
    errno.ETIME: "conntrack has expired",
    errno.EPERM: "sorry, you must be root or get CAP_NET_ADMIN capability to do this",
}
_KINDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "conntrack": {
        "ALL": ("new", "updated", "destroyed"),
        "NEW": ("new",),
        "UPDATES": ("updated",),
        "DESTROY": ("destroyed",),
    },
    "expect": {"ALL": ("expectation_new", "expectation_destroyed")},
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
#: commands a file may hold
_LOADABLE = frozenset((Command.CREATE, Command.ADD, Command.UPDATE, Command.DELETE, Command.FLUSH))
_STATS = (
    "found invalid insert insert_failed drop early_drop error search_restart clash_resolve chain_toolong",
    "new create delete",
)


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
@click.option("--packets", "capture", metavar="PCAP", help="A capture whose packets the fake kernel receives on eth0.")
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

    With a scenario, or packets, everything happens on a fake kernel in this process, and takes no rights. Where nfnl does better
    than conntrack does is told in docs/explanation/conntrack-command.md. Exit status: 0; 1 when the kernel refused or nothing
    matched what was to be changed or deleted; 2 for a command line that makes no sense.
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
        if capture:
            receive_capture(kernel, capture)
        if scenario:
            play(kernel, scenario)

    return World(kernel, story=story)


class World:
    """The kernel that is meant, and the commands on it."""

    def __init__(
        self, kernel: FakeKernel | None = None, *, netns: str | None = None, story: Callable[[], None] = lambda: None
    ) -> None:
        """``story`` is what happens on a fake kernel: before the command, or while it follows events."""
        self._options: nfnl.ConntrackOptions = {"netns": netns} if netns else {}
        if kernel is not None:
            self._options["kernel"] = kernel
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
                return Task(order, table, self._clock).run()
        except nfnl.NetlinkError as error:
            raise Failed(f"Operation failed: {_refusal(order, error)}") from None

    def _clock(self) -> float | None:
        if self._kernel is None:
            return None
        from nfnl.sim.clock import EPOCH

        return EPOCH + self._kernel.now

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
                Task(one, table, self._clock, quiet=True).run()
            except nfnl.NetlinkError as error:
                raise Failed(f"{order.file}:{number}: Operation failed: {_refusal(one, error)}") from None
        return True

    def _follow(self, order: Order) -> bool:
        kinds = _KINDS["expect" if order.table == "expect" else "conntrack"]
        followed = {kind for word in order["event_mask"] or ("ALL",) for kind in kinds[word]}
        options: nfnl.ConntrackOptions = {**self._options, "follow": tuple(sorted(followed))}
        if order.table != "expect":
            options["event_filter"] = ct_match.event_filter(order)
        if order["buffer_size"]:
            options["receive_buffer"] = order["buffer_size"]
        task = Task(order, None, self._clock)
        with ExitStack() as cleanup:
            try:
                table = cleanup.enter_context(nfnl.open_conntrack(**options))
            except nfnl.NotPermitted:
                raise Failed(_REFUSALS[errno.EPERM]) from None
            if order["buffer_size"]:
                click.echo(f"NOTICE: Netlink socket buffer size has been set to {table.receive_buffer} bytes.", err=True)
            try:
                if self._kernel is None:
                    task.follow(table)
                else:
                    with self._kernel.until_idle():
                        self._story()
                        task.follow(table)
            except KeyboardInterrupt:
                pass
            finally:
                task.output.close()
                remark(f"{task.output.shown} {'expectation' if order.table == 'expect' else 'flow'} events have been shown.")
        return True


def _refusal(order: Order, error: nfnl.NetlinkError) -> str:
    number = error.errno or 0
    if order.table == "expect" and number == errno.ENOENT and order.command is Command.CREATE:
        return "master conntrack not found"
    return _REFUSALS.get(number) or error.strerror or str(error)


class Task:
    """One command on one table."""

    def __init__(
        self, order: Order, table: nfnl.FlowTable | None, clock: Callable[[], float | None], *, quiet: bool = False
    ) -> None:
        self.order = order
        self._table = table
        self._quiet = quiet
        self._labels = LabelMap(order["labelmap"])
        self.output = Output(order["output"] or frozenset(), self._labels.names, order.table)
        if clock() is not None:
            self.output.clock = clock  # type: ignore[assignment]

    @property
    def table(self) -> nfnl.FlowTable:
        """The table it is about."""
        assert self._table is not None
        return self._table

    def run(self) -> bool:
        """Do it, and say so. False: nothing matched what was to be changed or deleted."""
        on = _ON_EXPECTATIONS if self.order.table == "expect" else _ON_FLOWS
        count = on[self.order.command](self)
        self.output.close()
        word = _DONE.get(self.order.command)
        if count is not None and word and not self._quiet:
            noun = "expectations" if self.order.table == "expect" else "flow entries"
            remark(f"{count} {noun} have been {word}.")
        return bool(count) or count is None or self.order.command not in (Command.DELETE, Command.UPDATE)

    @property
    def _saving(self) -> bool:
        """A line that is saved says what is to be done again; others are as in a list."""
        return "save" in self.order.values.get("output", ())

    # -- flows -----------------------------------------------------------------------------------------------------------------

    def _meant(self) -> Callable[[FlowAttributes], bool]:
        return ct_match.matcher(self.order, self._labels.numbers)

    def _flows(self, order: Order) -> Iterator[Flow]:
        fits = ct_match.matcher(order, self._labels.numbers)
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
            labels=self._labels.numbers(order["label_add"]) if "label_add" in order else None,
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
        added = self._labels.numbers(order["label_add"]) if "label_add" in order else frozenset()
        if "label_del" in order:
            every = frozenset(range(128))
            gone = self._labels.numbers(order["label_del"]) if order["label_del"] else every
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
        if not self._quiet:
            remark("connection tracking table has been emptied.")

    def count_flows(self) -> None:
        """-C"""
        print(self.table.count())

    def flow_stats(self) -> None:
        """-S"""
        _show_stats(self.table.cpu_stats(), _STATS[0])

    # -- expectations ----------------------------------------------------------------------------------------------------------

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
        if not self._quiet:
            remark("expectation table has been emptied.")

    def count_expectations(self) -> None:
        """-C expect"""
        print(len(self.table.expectations.list()))

    def expectation_stats(self) -> None:
        """-S expect"""
        _show_stats(self.table.expectations.cpu_stats(), _STATS[1], "expect_")

    # -- events ----------------------------------------------------------------------------------------------------------------

    def follow(self, table: nfnl.FlowTable) -> None:
        """-E: until nothing more can come, or Ctrl-C."""
        fits: Callable[[Any], bool] = self._meant() if self.order.table != "expect" else ct_match.expectation_matcher(self.order)
        for event in table:
            what = _WHAT.get(type(event))
            if what is None:
                click.echo(_OVERRUN if isinstance(event, Overrun) else str(event), err=True)
                continue
            entry = event.flow if isinstance(event, FlowNew | FlowUpdated | FlowDestroyed) else event.expectation  # type: ignore[union-attr]
            if isinstance(entry, ExpectationAttributes) or fits(entry):
                self.output.show(entry, what, ending=self._cause(entry))
                sys.stdout.flush()

    def _cause(self, entry: Message) -> str:
        """Which program it was, if it was one."""
        if not entry.nlmsg_pid or "xml" in self.order.values.get("output", ()) or "json" in self.order.values.get("output", ()):
            return ""
        name = program_of(nfnl.LinuxKernel(), entry.nlmsg_pid)
        return f" [USERSPACE] portid={entry.nlmsg_pid}" + (f" progname={name}" if name else "")


def _show_stats(stats: Sequence[StatsCpu | ExpectStatsCpu | Stats], names: str, prefix: str = "") -> None:
    for cpu in stats:
        values = [f"{prefix}{name.replace('chain_toolong', 'chaintoolong')}={getattr(cpu, name) or 0} " for name in names.split()]
        print(f"cpu={cpu.res_id:<4}\t{''.join(values)}")


_ON_FLOWS: dict[Command, Callable[[Task], int | None]] = {
    Command.LIST: Task.list_flows,
    Command.GET: Task.get_flow,
    Command.CREATE: Task.create_flow,
    Command.ADD: Task.add_flow,
    Command.UPDATE: Task.update_flows,
    Command.DELETE: Task.delete_flows,
    Command.FLUSH: Task.flush_flows,
    Command.COUNT: Task.count_flows,
    Command.STATS: Task.flow_stats,
}
_ON_EXPECTATIONS: dict[Command, Callable[[Task], int | None]] = {
    Command.LIST: Task.list_expectations,
    Command.GET: Task.get_expectation,
    Command.CREATE: Task.create_expectation,
    Command.DELETE: Task.delete_expectation,
    Command.FLUSH: Task.flush_expectations,
    Command.COUNT: Task.count_expectations,
    Command.STATS: Task.expectation_stats,
}
