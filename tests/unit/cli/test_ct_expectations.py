"""``nfnl conntrack ... expect`` and labels on the fake kernel, against recordings of conntrack 1.4.7 on Linux."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import nfnl
from nfnl.cli import conntrack
from nfnl.cli.conntrack import World
from nfnl.cli.ct_options import parse
from nfnl.session.flowspec import tuple_of
from nfnl.sim import FakeKernel
from nfnl.subsys.conntrack import TcpState
from tests.unit.cli.conversations import Recorded, in_our_words, loosened, recorded, run

ON = "-s 10.77.0.1 -d 10.77.0.2 -p tcp"
#: what the helper of FTP expected in the recording: data to port 40000, from any port
EXPECTED = "--orig-port-src 0 --orig-port-dst 40000"
MADE = (
    f"conntrack -I expect {ON} --orig-port-src 6001 --orig-port-dst 21 --tuple-src 10.77.0.1 --tuple-dst 10.77.0.2 "
    "--mask-src 255.255.255.255 --mask-dst 255.255.255.255 --tuple-port-src 0 --tuple-port-dst 40000 --mask-port-src 0 "
    "--mask-port-dst 65535 -t 300"
)


def master(kernel: FakeKernel, port: int) -> None:
    """A flow to an FTP server, which has the helper."""
    with nfnl.open_conntrack(kernel=kernel) as table:
        status = nfnl.Status.SEEN_REPLY | nfnl.Status.ASSURED
        expecting = tuple_of("10.77.0.1", "10.77.0.2", "tcp", port, 21)
        table.create(expecting, timeout=432_000, status=status, tcp_state=TcpState.ESTABLISHED, helper="ftp")


def of(command: str, *, last: bool = False) -> Recorded:
    """A command of the recording, at its first or its last place."""
    found = [said for said in recorded("expect") if said.command.replace("\\", "") == command]
    return found[-1 if last else 0]


def without_time(text: str) -> list[str]:
    text = re.sub(r"^(.*?)\b(29\d|300) (proto=)", r"\1SECONDS \3", text, flags=re.MULTILINE)
    text = re.sub(r"^\[\d+\.\d{6}\]", "[NOW]", text, flags=re.MULTILINE)
    return loosened(re.sub(r"<when>.*?</when>", "<when/>", text))


@pytest.fixture
def expecting(ct_kernel: FakeKernel) -> FakeKernel:
    """The table as it was when the recording began: one flow, and what it expects."""
    master(ct_kernel, 6001)
    assert (run(MADE).stderr, run("conntrack -C expect").stdout) == ("", "1\n")
    return ct_kernel


@pytest.mark.parametrize(
    "command",
    [
        "conntrack -L expect",
        "conntrack -L expect -o xml",
        "conntrack -L expect -o timestamp",
        "conntrack -C expect",
        f"conntrack -G expect {ON} {EXPECTED} --reply-port-src 40000 --reply-port-dst 0",
    ],
)
@pytest.mark.usefixtures("expecting")
def test_expectations_are_shown_as_recorded(command: str) -> None:
    said, result = of(command), run(command)
    assert without_time(result.stdout) == without_time(said.stdout)
    assert (result.stderr, result.exit_code) == (in_our_words(said.stderr), said.exit_code)


@pytest.mark.usefixtures("expecting")
def test_each_cpu_has_counted_its_own() -> None:
    lines = run("conntrack -S expect").stdout.splitlines()
    layout = re.sub(r"\d", "N", of("conntrack -S expect").stdout.splitlines()[0])
    assert {re.sub(r"\d", "N", line) for line in lines} == {layout}
    assert sum(int(re.findall(r"expect_create=(\d+)", line)[0]) for line in lines) == 1


@pytest.mark.usefixtures("expecting")
def test_all_are_flushed() -> None:
    said, result = of("conntrack -F expect"), run("conntrack -F expect")
    assert (result.stdout, result.stderr, result.exit_code) == ("", in_our_words(said.stderr), 0)
    said, result = of("conntrack -L expect", last=False), run("conntrack -L expect")
    assert (result.stdout, result.stderr) == ("", "nfnl conntrack: 0 expectations have been shown.\n")


def test_ports_of_an_expectation_are_where_they_belong(ct_kernel: FakeKernel) -> None:
    master(ct_kernel, 6002)
    (make,) = (said for said in recorded("expect") if "-I expect -s 10.77.0.1" in said.command)
    assert run(make.command).exit_code == make.exit_code == 0
    recorded_line = of("conntrack -L expect", last=True).stdout
    assert "proto=40 " in recorded_line  # its defect: a port, 10240, where the protocol belongs
    (line,) = run("conntrack -L expect").stdout.splitlines()
    # of a mask Linux keeps what it says of the source
    right = "proto=6 src=4.4.4.4 dst=5.5.5.5 sport=10240 dport=10241 mask-src=255.255.255.0 mask-dst=255.255.255.255 "
    right += "sport=10 dport=65535 master-src=10.77.0.1 master-dst=10.77.0.2 sport=6002 dport=21 class=0 helper=ftp"
    assert line.partition(" ")[2] == right


def test_there_must_be_a_flow_that_expects(ct_kernel: FakeKernel) -> None:
    (said,) = (said for said in recorded("expect") if "-I expect -s 9.9.9.9" in said.command)
    result = run(said.command)
    assert (result.stdout, result.stderr, result.exit_code) == ("", in_our_words(said.stderr), said.exit_code)


@pytest.mark.usefixtures("expecting")
def test_one_is_deleted_and_said_to_be() -> None:
    (said,) = (said for said in recorded("expect") if said.command.startswith("conntrack -D expect"))
    assert (said.stderr.partition(": ")[2], said.exit_code) == ("0 expectations have been shown.\n", 1)  # its defect
    result = run(f"conntrack -D expect {ON} {EXPECTED}")
    assert (result.stderr, result.exit_code) == ("nfnl conntrack: 1 expectations have been deleted.\n", 0)
    assert run("conntrack -C expect").stdout == "0\n"
    again = run(f"conntrack -D expect {ON} {EXPECTED}")
    assert (again.stderr, again.exit_code) == ("nfnl conntrack: 0 expectations have been deleted.\n", 1)
    absent = run(f"conntrack -G expect {ON} {EXPECTED}")
    assert (absent.stdout, absent.exit_code) == ("", 1)


@pytest.mark.usefixtures("expecting")
def test_families_are_told_apart() -> None:
    assert run("conntrack -L expect -f ipv6").stdout == ""
    assert run("conntrack -L expect -f ipv4").stdout == run("conntrack -L expect").stdout != ""


@pytest.mark.usefixtures("expecting")
def test_json_of_an_expectation() -> None:
    (line,) = run("conntrack -L expect -o json").stdout.splitlines()
    told = json.loads(line)
    assert told["tuple"]["proto"] == {"num": "TCP", "src_port": 0, "dst_port": 40000}
    assert told["help_name"] == "ftp"


@pytest.mark.parametrize("options", ["", " -o timestamp,xml"])
def test_events_of_expectations(ct_kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    ct_kernel.sysctl("net.netfilter.nf_conntrack_events", 1)  # also of flows that are older than the listener
    master(ct_kernel, 6001)

    def story() -> None:
        inner = World(ct_kernel)
        for command in (MADE, "conntrack -F expect"):
            inner.run(parse(shlex.split(command)[1:]))

    monkeypatch.setattr(conntrack, "World", lambda **_: World(ct_kernel, story=story))
    said, result = of(f"conntrack -E expect{options}    (then SIGINT)"), run(f"conntrack -E expect{options}")
    # the first two of the recording are these; the others are of the defect shown above
    theirs = [line for line in without_time(said.stdout) if "proto=40" not in line and 'protonum="40"' not in line]
    ours = [re.sub(r" \[USERSPACE\] portid=\d+.*", "", line) for line in without_time(result.stdout)]
    assert ours == theirs
    assert result.stderr.endswith("nfnl conntrack: 2 expectation events have been shown.\n")
    assert result.exit_code == 0


# --- labels ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The names of the recording."""
    file = tmp_path / "connlabel.conf"
    file.write_text("0 eth0-in\n1 eth0-out\n5 'web label'\n40 bulk\n")
    monkeypatch.setattr("nfnl.cli.ct_labels.DEFAULT", file)
    return file


def give_room(kernel: FakeKernel) -> None:
    """To new flows, for labels, as a rule does that works with labels."""
    kernel._world.conntrack.label_users += 1


def test_labels_as_recorded(ct_kernel: FakeKernel, labels: Path) -> None:
    give_room(ct_kernel)
    with nfnl.open_conntrack(kernel=ct_kernel) as table:
        flow = tuple_of("10.77.0.1", "10.77.0.2", "icmp", icmp_type=8, icmp_code=0, icmp_id=19266)
        table.create(flow, timeout=29, status=nfnl.Status.SEEN_REPLY, labels=(5, 40))
    loose = (
        (r"(?<=17 )(99|100) ", "N "),
        (r"packets=\d+ bytes=\d+", ""),
        (r"(<packets>)\d+(</packets><bytes>)\d+", r"\1\2"),
        (r" use=\d", ""),
        (r"<use>\d", ""),
    )
    compared = 0
    for said in recorded("labels"):
        result = run(said.command)
        ours, theirs = "\n".join(loosened(result.stdout)), "\n".join(loosened(said.stdout))
        for pattern, instead in loose:
            ours, theirs = re.sub(pattern, instead, ours), re.sub(pattern, instead, theirs)
        assert ours == theirs, said.command
        assert (result.stderr, result.exit_code) == (in_our_words(said.stderr), said.exit_code), said.command
        compared += bool(said.stdout)
    assert compared >= 10


def test_names_from_a_file_of_ones_own(ct_kernel: FakeKernel, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("# remarks\n7 seven\n300 out of range\n8\n7 again\n")
    give_room(ct_kernel)
    run("conntrack -I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 100")
    result = run(f"conntrack -U -s 1.1.1.1 --label-add seven -M {names} -o labels")
    assert result.stdout.endswith("labels=seven\n")
    assert run(f"conntrack -L -l seven -M {names}").stdout
    assert "labels" not in run("conntrack -L -o labels").stdout  # it has no name there
    assert json.loads(run("conntrack -L -o json").stdout)["labels"].startswith("80")
    refused = run(f"conntrack -L -l eight -M {names}")
    assert ("unknown label 'eight'" in refused.stderr, refused.exit_code) == (True, 2)
