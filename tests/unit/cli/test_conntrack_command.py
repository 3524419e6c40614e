"""``nfnl conntrack`` on the fake kernel, against recordings of conntrack 1.4.7 on Linux: the same commands, the same words."""

from __future__ import annotations

import shlex
from xml.etree import ElementTree

import pytest

import nfnl
from nfnl.cli import conntrack
from nfnl.cli.conntrack import World
from nfnl.cli.ct_options import OPTIONS, parse
from nfnl.cli.ct_order import Command, UsageProblem
from nfnl.sim import FakeKernel
from tests.unit.cli.conversations import in_our_words, loosened, recorded, run

#: Where nfnl prints something else, and why.
OTHERWISE = {
    "conntrack": "its own help",
    "conntrack -h": "its own help",
    "conntrack -h -p tcp": "its own help",
    "conntrack -V": "its own version",
    "conntrack -L -m xyz": "what is no number is refused, not taken for 0",
    "conntrack -L -w 70000": "a zone that cannot be is refused",
    "conntrack -G -r 2.2.2.2 -q 4.4.4.4 -p tcp --reply-port-src 20 --reply-port-dst 4444": "the reply tuple names a flow, too",
    "conntrack -D -f ipv6 -o xml": "what is deleted is shown as a whole document",
    "conntrack -S expect": "as many lines as there are CPUs",
    "conntrack -S": "as many lines as there are CPUs, each its own numbers",
}


@pytest.mark.parametrize("name", ["create-list", "errors"])
def test_a_recorded_conversation(ct_kernel: FakeKernel, name: str) -> None:
    compared = 0
    for said in recorded(name):
        if said.command.startswith("setpriv"):
            continue
        result = run(said.command)
        if said.command in OTHERWISE:
            continue
        assert result.stderr == in_our_words(said.stderr), said.command
        assert (loosened(result.stdout), result.exit_code) == (loosened(said.stdout), said.exit_code), said.command
        compared += 1
    assert compared >= 30


def test_without_the_right_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = {said.command: said for said in recorded("errors")}
    said = recordings["setpriv --bounding-set -net_admin --inh-caps -net_admin conntrack -L"]
    monkeypatch.setattr(conntrack, "World", lambda **_: World(FakeKernel(capabilities=())))
    result = run("conntrack -L")
    assert (result.stderr, result.exit_code) == (in_our_words(said.stderr), said.exit_code)


def test_what_is_saved_can_be_loaded(ct_kernel: FakeKernel) -> None:
    recordings = list(recorded("roundtrip"))
    for said in recordings[:3]:
        result = run(said.command)
        assert loosened(result.stdout) == loosened(said.stdout)
    saved = result.stdout
    run("conntrack -F")
    assert run("conntrack -L").stdout == ""
    loaded = run("conntrack -R -", saved)
    assert (loaded.exit_code, loaded.stderr) == (0, "")
    again = run("conntrack -L -o save").stdout
    assert sorted(again.splitlines()) == sorted(saved.splitlines())  # the mark is among it
    assert "-m 9" in again


def test_a_file_with_a_bad_line_changes_nothing(ct_kernel: FakeKernel) -> None:
    good = "-A -s 7.7.7.7 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100"
    result = run("conntrack -R -", f"{good}\n# a remark\n\n-A -s 7.7.7.7\n")
    assert result.exit_code == 2
    assert "-:4: You need to supply the `--protonum' option" in result.stderr
    assert ct_kernel.flows() == []


def test_of_two_families_one_is_flushed(ct_kernel: FakeKernel) -> None:
    for addresses in ("-s 1.1.1.1 -d 2.2.2.2", "-s fd00::1 -d fd00::2"):
        run(f"conntrack -I {addresses} -p udp --sport 1 --dport 2 -t 100")
    assert run("conntrack -F -f ipv6").exit_code == 0
    assert [line.split()[3] for line in run("conntrack -L").stdout.splitlines()] == ["src=1.1.1.1"]


def test_an_update_shows_what_became_of_it(ct_kernel: FakeKernel) -> None:
    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100")
    result = run("conntrack update -s 1.1.1.1 -m 0x10/0xf0 -t 50")
    assert (result.exit_code, result.stderr) == (0, "nfnl conntrack: 1 flow entries have been updated.\n")
    assert "mark=16" in result.stdout
    assert result.stdout.split()[2] == "50"
    assert run("conntrack update -s 1.1.1.1 -m 16").stdout == ""  # as it is already
    assert run("conntrack update -s 9.9.9.9 -m 1").exit_code == 1


def test_json_says_everything(ct_kernel: FakeKernel) -> None:
    import json

    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 1 --dport 2 --state ESTABLISHED -u SEEN_REPLY -t 100 -m 5")
    (line,) = run("conntrack list -o json").stdout.splitlines()
    flow = json.loads(line)
    assert flow["original"]["ip"] == {"v4_src": "1.1.1.1", "v4_dst": "2.2.2.2"}
    assert flow["original"]["proto"] == {"num": "TCP", "src_port": 1, "dst_port": 2}
    assert flow["protoinfo"]["tcp"]["state"] == "ESTABLISHED"
    assert flow["status"] == ["SEEN_REPLY", "CONFIRMED"]
    assert flow["mark"] == 5


def test_events_of_a_story(ct_kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> None:
        inner = World(ct_kernel)
        for line in (
            "-I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100",
            "-I -s 1.1.1.9 -d 2.2.2.2 -p tcp --sport 1 --dport 2 -t 100 --state SYN_SENT",
            "-D -p udp",
        ):
            inner.run(parse(shlex.split(line)))

    monkeypatch.setattr(conntrack, "World", lambda **_: World(ct_kernel, story=story))
    result = run("conntrack -E -p udp")
    events = [line for line in result.stdout.splitlines() if line.lstrip().startswith("[")]
    assert [line.split()[0] for line in events] == ["[NEW]", "[DESTROY]"]
    assert all("src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2" in line and "[USERSPACE] portid=" in line for line in events)
    assert result.stderr.endswith("nfnl conntrack: 2 flow events have been shown.\n")


def test_words_do_as_well_as_letters() -> None:
    for command in Command:
        if command is Command.LOAD:
            assert parse(["load", "file"]).file == parse(["-R", "file"]).file == "file"
        elif command not in (Command.CREATE, Command.ADD, Command.GET):
            assert parse([command.word]) == parse([f"-{command.letter}"]) == parse([f"--{command.long}"])
    assert parse(["list", "exp"]) == parse(["-L", "expect"])
    with pytest.raises(UsageProblem, match="unknown command `lst'"):
        parse(["lst"])


def value_for(name: str) -> list[str]:
    arguments = {
        "zero": [],
        "event_mask": ["NEW"],
        "family": ["ipv4"],
        "output": ["id"],
        "protonum": ["udp"],
        "status": ["ASSURED"],
    }
    if name in arguments:
        return arguments[name]
    return ["1.1.1.1"] if name.endswith(("src", "dst", "nat")) else ["1"]


#: cells of the manual's table, as the recordings show them
REFUSED = [
    ("-L", "timeout"),
    ("-D", "zero"),
    ("-F", "src"),
    ("-E", "timeout"),
    ("-C", "src"),
    ("-S", "mark"),
    ("-U", "zone"),
    ("-F", "mark"),
]


@pytest.mark.parametrize(("command", "name"), REFUSED)
def test_an_option_that_a_command_does_not_take(command: str, name: str) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)
    with pytest.raises(UsageProblem, match=f"Illegal option `--{option.longs[0]}' with this command"):
        parse([command, f"--{option.longs[0]}", *value_for(name)])


# --- where it differs: rows of docs/explanation/conntrack-command.md that no recording above shows -----------------------------


def test_nothing_is_said_to_be_emptied_that_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "World", lambda **_: World(FakeKernel(capabilities=())))
    for table in ("", " expect"):
        result = run(f"conntrack -F{table}")
        assert "emptied" not in result.stderr
        assert result.exit_code == 1


@pytest.mark.usefixtures("ct_kernel")
def test_a_flow_is_found_by_its_reply_tuple() -> None:
    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100 -g 3.3.3.3")
    result = run("conntrack -G -r 3.3.3.3 -q 1.1.1.1 -p udp --reply-port-src 2 --reply-port-dst 1")
    assert "src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2" in result.stdout
    assert (result.stderr, result.exit_code) == ("nfnl conntrack: 1 flow entries have been shown.\n", 0)


@pytest.mark.usefixtures("ct_kernel")
def test_what_is_saved_of_dccp_can_be_loaded() -> None:
    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p dccp --sport 1 --dport 2 --state OPEN --role client -t 100")
    saved = run("conntrack -L -o save").stdout
    assert saved.endswith(" -p dccp\n")
    run("conntrack -F")
    loaded = run("conntrack -R -", saved)
    assert (loaded.exit_code, loaded.stderr) == (0, "")
    assert run("conntrack -L -o save").stdout == saved


@pytest.mark.usefixtures("ct_kernel")
def test_documents_are_whole() -> None:
    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100")
    for command in ("-U -s 1.1.1.1 -m 5", "-D -s 1.1.1.1"):
        document = ElementTree.fromstring(run(f"conntrack {command} -o xml").stdout)
        assert (document.tag, len(document)) == ("conntrack", 1)


@pytest.mark.usefixtures("ct_kernel")
def test_types_of_icmp_select() -> None:
    for number in (8, 13):
        run(f"conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p icmp --icmp-type {number} --icmp-code 0 --icmp-id 5 -t 100")
    for command in ("-L", "-U -m 4", "-D"):
        (line,) = run(f"conntrack {command} -p icmp --icmp-type 13").stdout.splitlines()
        assert "type=13" in line


@pytest.mark.usefixtures("ct_kernel")
def test_a_flow_is_named_by_its_id() -> None:
    for port in (1, 2):
        run(f"conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport {port} --dport 2 -t 100")
    ids = [line.partition("id=")[2] for line in run("conntrack -L -o id").stdout.splitlines()]
    for option, number in zip(("-i", "--id"), ids, strict=True):
        assert len(run(f"conntrack -D {option} {number}").stdout.splitlines()) == 1
    assert run("conntrack -C").stdout == "0\n"


def test_a_flow_in_the_place_of_a_deleted_one_stays(ct_kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    make = "conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100"
    run(make)
    delete = nfnl.FlowTable.delete

    def meanwhile(table: nfnl.FlowTable, flow: nfnl.Flow) -> None:
        with nfnl.open_conntrack(kernel=ct_kernel) as other:
            delete(other, flow)
        run(make)
        delete(table, flow)

    monkeypatch.setattr(nfnl.FlowTable, "delete", meanwhile)
    result = run("conntrack -D -s 1.1.1.1")
    assert (result.stdout, result.exit_code) == ("", 1)
    assert len(ct_kernel.flows()) == 1
