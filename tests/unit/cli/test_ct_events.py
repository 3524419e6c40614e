"""``nfnl conntrack events``, and other things that only a terminal, a pipe or Linux can show."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import nfnl
from nfnl.cli import conntrack
from nfnl.cli.conntrack import World
from nfnl.cli.ct_match import event_filter, matcher
from nfnl.cli.ct_options import parse
from nfnl.session.flowspec import tuple_of
from nfnl.sim import FakeKernel
from nfnl.subsys.conntrack import TcpState
from nfnl.testing.lab import LinuxLab
from tests import probes
from tests.unit.cli.conversations import run
from tests.unit.cli.terminal import NFNL, Terminal, pipe, without_colour

FLOW = "-s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2"
STORY = (
    f"-I {FLOW} -t 100",
    "-I -s 1.1.1.9 -d 2.2.2.2 -p tcp --sport 1 --dport 2 -t 100 --state SYN_SENT",
    "-I -s fd00::1 -d fd00::2 -p udp --sport 1 --dport 2 -t 100 -w 3",
    "-U -p udp -m 5 -f ipv4",
    "-D -p tcp",
)


@pytest.fixture
def told(ct_kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Events of a story, as words: the kind, the source."""

    def story() -> None:
        for line in STORY:
            World(ct_kernel).run(parse(shlex.split(line)))

    monkeypatch.setattr(conntrack, "World", lambda **_: World(ct_kernel, story=story))

    def tell(options: str) -> list[str]:
        result = run(f"conntrack -E {options}")
        assert result.exit_code == 0, result.stderr
        lines = [line for line in result.stdout.splitlines() if line.lstrip().startswith("[") and "USERSPACE" in line]
        assert f"nfnl conntrack: {len(lines)} flow events have been shown." in result.stderr
        return [" ".join((line.split()[0], *re.findall(r"src=(\S+)", line)[:1])) for line in lines]

    return tell


NEW_4, NEW_TCP, NEW_6 = "[NEW] 1.1.1.1", "[NEW] 1.1.1.9", "[NEW] fd00::1"
CHANGED, GONE = "[UPDATE] 1.1.1.1", "[DESTROY] 1.1.1.9"


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ("", [NEW_4, NEW_TCP, NEW_6, CHANGED, GONE]),
        ("-e ALL", [NEW_4, NEW_TCP, NEW_6, CHANGED, GONE]),
        ("-e NEW", [NEW_4, NEW_TCP, NEW_6]),
        ("-e upd", [CHANGED]),
        ("-e NEW,DESTROY", [NEW_4, NEW_TCP, NEW_6, GONE]),
        ("-e d", [GONE]),
        ("-p tcp", [NEW_TCP, GONE]),
        ("-p tcp --state ESTABLISHED", []),
        ("-s 1.1.1.0/29", [NEW_4, CHANGED]),
        ("-s 1.1.7.7 --mask-src 255.255.0.0", [NEW_4, NEW_TCP, CHANGED, GONE]),
        ("-d 2.2.2.2 -p udp --dport 2", [NEW_4, CHANGED]),
        ("-f ipv6", [NEW_6]),
        ("-w 3", [NEW_6]),
        ("-m 5", [CHANGED]),
        ("-q 1.1.1.1", [NEW_4, CHANGED]),
    ],
)
def test_which_events_are_followed(told: Callable[[str], list[str]], options: str, events: list[str]) -> None:
    assert told(options) == events


@pytest.mark.parametrize(
    "options", ["-p udp", "-p 6", "-s 1.1.1.0/29", "-s 1.1.1.1", "-d fd00::/16", "-d 2.2.2.2 -p tcp", "-s ::/0"]
)
def test_what_the_kernel_throws_away_nobody_would_have_been_shown(ct_kernel: FakeKernel, options: str) -> None:
    order = parse(shlex.split(f"-E {options}"))
    only = event_filter(order)
    assert only is not None
    shown = []
    for chosen in (only, None):
        with nfnl.open_conntrack(kernel=ct_kernel, follow=True, event_filter=chosen) as table, ct_kernel.until_idle():
            for line in (*STORY, "-F"):
                World(ct_kernel).run(parse(shlex.split(line)))
            flows = [event.flow for event in table]  # type: ignore[union-attr]
        fits = matcher(order, lambda names: frozenset())
        shown.append([str(flow.original) for flow in flows if fits(flow)])
        if chosen is only:
            assert len(shown[0]) == len(flows), "the program lets pass what the command line does not mean"
    assert shown[0] == shown[1] != []


@pytest.mark.parametrize(("form", "named"), [("id", True), ("xml", False), ("json", False)])
@pytest.mark.usefixtures("told")
def test_a_program_is_named_behind_lines_only(form: str, named: bool) -> None:
    shown = run(f"conntrack -E -o {form}").stdout
    assert "1.1.1.1" in shown
    assert bool(re.search(r" \[USERSPACE\] portid=\d+\n", shown)) == named
    assert "progname" not in shown  # on a fake kernel no port is a program's


@pytest.mark.usefixtures("told")
def test_events_as_a_document() -> None:
    shown = run("conntrack -E -o xml,timestamp").stdout
    document = ElementTree.fromstring(shown[shown.index("<?xml") :])  # what the story itself shows stands in front
    assert document.tag == "conntrack"
    assert [flow.get("type") for flow in document] == ["new", "new", "new", "update", "destroy"]
    assert all(flow.find("meta/when") is not None or flow.find("when") is not None for flow in document)


def test_lost_events_are_told_and_following_goes_on(ct_kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> None:
        with nfnl.open_conntrack(kernel=ct_kernel) as table:
            for number in range(100):
                table.create(tuple_of("1.1.1.1", "2.2.2.2", "udp", 1 + number, 2), timeout=100)

    monkeypatch.setattr(conntrack, "World", lambda **_: World(ct_kernel, story=story))
    result = run("conntrack -E -b 2304")
    assert "NOTICE: Netlink socket buffer size has been set to 4608 bytes." in result.stderr
    assert "WARNING: We have hit ENOBUFS! We are losing events." in result.stderr
    assert "Please, check --buffer-size in `nfnl conntrack --help'." in result.stderr
    shown = result.stdout.count("[NEW]")
    assert 0 < shown < 100
    assert f"{shown} flow events have been shown." in result.stderr
    assert result.exit_code == 0


# --- in a process of its own -------------------------------------------------------------------------------------------------


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    file = tmp_path / "scenario.py"
    file.write_text(
        "import nfnl\nfrom nfnl.session.flowspec import nat_to, tuple_of\n"
        "with nfnl.open_conntrack(kernel=kernel) as table:\n"
        "    table.create(tuple_of('10.0.0.1', '10.9.9.9', 'tcp', 40000, 443), timeout=431999, tcp_state=3, mark=7,\n"
        "                 status=nfnl.Status.SEEN_REPLY | nfnl.Status.ASSURED)\n"
        "    table.create(tuple_of('10.0.0.2', '10.9.9.9', 'udp', 53000, 53), timeout=29, nat_src=nat_to('192.0.2.7'))\n"
        "    for number in range(int(__import__('os').environ.get('MORE', '0'))):\n"
        "        table.create(tuple_of('10.0.0.3', '10.9.9.9', 'udp', 1 + number, 53), timeout=29)\n"
    )
    return str(file)


def test_a_person_is_shown_a_table(scenario: str) -> None:
    terminal = Terminal("conntrack", "list", "--scenario", scenario)
    assert terminal.close() == 0
    _, heads, tcp, udp, summary = (line.rstrip() for line in without_colour(terminal.shown).splitlines())
    assert heads.split() == ["PROTOCOL", "STATE", "ORIGINAL", "TRANSLATED,", "ANSWERS", "SECONDS", "MARK"]
    assert tcp.split() == ["tcp", "ESTABLISHED", "10.0.0.1:40000", ">", "10.9.9.9:443", "431999", "0x7", "assured"]
    assert udp.split() == ["udp", "10.0.0.2:53000", ">", "10.9.9.9:53", "10.9.9.9:53", ">", "192.0.2.7:53000", "29", "unreplied"]
    assert heads.index("SECONDS") == tcp.index("431999") == udp.index("29  ")
    assert summary == "nfnl conntrack: 2 flow entries have been shown."
    assert "\x1b[36mtcp" in terminal.shown  # in colour


def test_a_narrow_terminal_loses_nothing(scenario: str) -> None:
    wide, narrow = (Terminal("conntrack", "list", "--scenario", scenario, columns=columns) for columns in (200, 30))
    assert (wide.close(), narrow.close()) == (0, 0)
    assert narrow.shown == wide.shown


def test_a_person_may_ask_for_lines(scenario: str) -> None:
    terminal = Terminal("conntrack", "list", "-o", "plain", "--scenario", scenario)
    assert terminal.close() == 0
    assert "tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.9.9.9 sport=40000" in terminal.shown


def test_a_pipe_gets_lines(scenario: str) -> None:
    done = pipe("conntrack", "list", "--scenario", scenario)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[0].startswith("tcp      6 431999 ESTABLISHED src=10.0.0.1")


def test_heads_come_again_for_a_column_that_was_empty(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", "600")
    with Path(scenario).open("a") as file:
        file.write("    table.create(tuple_of('10.0.0.4', '10.9.9.9', 'udp', 9, 53), timeout=29, zone=4)\n")
    terminal = Terminal("conntrack", "list", "--scenario", scenario)
    assert terminal.close() == 0
    lines = without_colour(terminal.shown).splitlines()
    first, again = (line for line in lines if line.startswith("PROTOCOL"))
    assert ("ZONE" in first, "ZONE" in again) == (False, True)
    assert len([line for line in lines if line.startswith(("tcp", "udp"))]) == 603


@pytest.mark.parametrize("command", ["list", "list -o xml", "events"])
def test_a_reader_that_has_seen_enough(scenario: str, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("MORE", "3000")
    line = shlex.join([*NFNL, "conntrack", *command.split(), "--scenario", scenario])
    done = subprocess.run(["sh", "-c", f"{line} | head -n 1"], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_count_on_the_terminal_while_a_file_is_written(scenario: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MORE", "3000")
    line = shlex.join([*NFNL, "conntrack", "list", "--scenario", scenario])
    terminal = Terminal(command=["sh", "-c", f"{line} > {tmp_path / 'out'}"])
    assert terminal.close() == 0
    assert terminal.shown.split("\r")[2:5] == ["1,000 entries", "2,000 entries", "3,000 entries"]
    assert "3002 flow entries have been shown." in terminal.shown
    assert len((tmp_path / "out").read_text().splitlines()) == 3002


def test_commands_from_a_file(scenario: str, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text(f"# a remark\n\n-A {FLOW} -t 100 -m 3\n-D -p tcp\n-D -p sctp\n")
    loaded = pipe("conntrack", "load", str(commands), "--scenario", scenario)
    assert (loaded.returncode, b"".join(loaded.stderr.splitlines()[1:])) == (0, b"")
    commands.write_text("-L\n")
    refused = pipe("conntrack", "-R", str(commands), "--scenario", scenario)
    assert (refused.returncode, b"commands:1: a file may hold" in refused.stderr) == (2, True)
    absent = pipe("conntrack", "-R", "/no/such/file", "--scenario", scenario)
    assert (absent.returncode, b"/no/such/file: No such file or directory" in absent.stderr) == (1, True)


# --- on Linux ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[LinuxLab]:
    probes.require("lab-available")
    with LinuxLab() as lab:
        yield lab


def change(table: nfnl.FlowTable, port: int = 7) -> None:
    flow = tuple_of("10.0.0.1", "10.9.9.9", "tcp", port, 443)
    table.create(flow, timeout=100, tcp_state=TcpState.SYN_SENT)
    table.delete(flow)


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_events_in_a_terminal_until_ctrl_c(lab: LinuxLab, signal_: signal.Signals) -> None:
    terminal = lab._kernel.inside(lambda: Terminal("conntrack", "events", "-o", "id"))
    terminal.read(until="Ctrl-C ends it.")
    with nfnl.open_conntrack(kernel=lab) as table:
        change(table)
    terminal.read(until="[DESTROY]")
    os.kill(terminal.process.pid, signal_)
    assert terminal.close() == 0
    new, destroy, _, summary = without_colour(terminal.shown).splitlines()[1:]
    assert new.startswith("    [NEW] tcp      6 100 SYN_SENT src=10.0.0.1 dst=10.9.9.9 sport=7 dport=443 [UNREPLIED]")
    assert destroy.startswith("[DESTROY] tcp      6")
    assert re.search(r" id=\d+ \[USERSPACE\] portid=\d+( progname=\S+)?$", new)
    assert summary == "nfnl conntrack: 2 flow events have been shown."


def test_events_in_a_pipe_come_at_once_and_end_as_a_document(lab: LinuxLab) -> None:
    arguments = [*NFNL, "conntrack", "-E", "-o", "xml"]
    start = lambda: subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: E731
    with lab._kernel.inside(start) as running, nfnl.open_conntrack(kernel=lab) as table:
        assert running.stdout
        while not select.select([running.stdout], [], [], 0.05)[0]:  # until it listens
            change(table)
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        shown, said = running.communicate()
    assert running.returncode == 0
    document = ElementTree.fromstring(shown)
    assert {flow.get("type") for flow in document} <= {"new", "destroy"}
    assert said == f"nfnl conntrack: {len(document)} flow events have been shown.\n"


def test_another_network_namespace(lab: LinuxLab) -> None:
    with nfnl.open_conntrack(kernel=lab) as table:
        table.create(tuple_of("10.0.0.1", "10.9.9.9", "udp", 7, 53), timeout=100)
    path = f"/proc/{os.getpid()}/fd/{lab._namespace}"
    done = pipe("conntrack", "list", "--netns", path)
    if os.geteuid() == 0:
        assert (done.returncode, done.stdout.split()[:1]) == (0, [b"udp"])
    absent = pipe("conntrack", "list", "--netns", "no-such-namespace")
    assert absent.returncode == 1
    assert b"no-such-namespace" in absent.stderr
    assert b"Traceback" not in absent.stderr


def test_counters_start_again(lab: LinuxLab) -> None:
    lab.iptables("-A OUTPUT -m conntrack --ctstate NEW")
    lab.sysctl("net.netfilter.nf_conntrack_acct", 1)
    lab.send(bytes.fromhex("4500001c00010000401100007f0000017f0000011388000900080000"))
    counted = lab._kernel.inside(lambda: pipe("conntrack", "-L", "-z")).stdout
    after = lab._kernel.inside(lambda: pipe("conntrack", "-L")).stdout
    assert b"packets=1 bytes=28" in counted
    assert b"packets=0 bytes=0" in after


@pytest.mark.parametrize("table", ["dying", "unconfirmed"])
def test_tables_that_are_mostly_empty(lab: LinuxLab, table: str) -> None:
    done = lab._kernel.inside(lambda: pipe("conntrack", "-L", table))
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"nfnl conntrack: 0 flow entries have been shown.\n"


def test_labels_where_a_rule_works_with_them(lab: LinuxLab, tmp_path: Path) -> None:
    names = tmp_path / "connlabel.conf"
    names.write_text("3 three\n40 bulk\n")
    lab.iptables("-t mangle -A OUTPUT -m connlabel --label 3 -j RETURN")

    def say(*words: str) -> bytes:
        return lab._kernel.inside(lambda: pipe("conntrack", *words, "-M", str(names))).stdout

    with nfnl.open_conntrack(kernel=lab) as table:
        table.create(tuple_of("10.0.0.1", "10.9.9.9", "udp", 7, 53), timeout=100)
    changed = say("-U", "-s", "10.0.0.1", "--label-add", "bulk,three", "-o", "labels")
    assert changed.endswith(b"labels=three,bulk\n")
    assert say("-U", "-s", "10.0.0.1", "--label-del", "three", "-o", "labels").endswith(b"labels=bulk\n")
    assert say("-L", "-l", "bulk").startswith(b"udp")
    assert say("-L", "-l", "three") == b""
