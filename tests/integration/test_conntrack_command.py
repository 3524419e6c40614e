"""``nfnl conntrack`` and ``conntrack`` look at the same table of Linux, and say the same."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator

import pytest

import nfnl
from nfnl._table import NewFlowOptions
from nfnl.session.flowspec import nat_to, tuple_of
from nfnl.subsys.conntrack import ProtoInfo, SctpInfo, SctpState, TcpState
from nfnl.testing.lab import LinuxLab
from tests import probes

NFNL = f"{sys.executable} -c 'from nfnl.cli import main; main()'"
ENTRIES = 1000


@pytest.fixture(scope="module")
def lab() -> Iterator[LinuxLab]:
    """A namespace with flows of all protocols, translated or not, with marks and zones, counted or not."""
    probes.require("lab-available")
    probes.require("conntrack-command")
    with LinuxLab() as made:
        with nfnl.open_conntrack(kernel=made) as table:
            for number in range(ENTRIES):
                if number == ENTRIES // 2:
                    for switch in ("acct", "timestamp"):
                        made.sysctl(f"net.netfilter.nf_conntrack_{switch}", 1)
                create(table, number)
        yield made


def create(table: nfnl.FlowTable, number: int) -> None:
    dice = random.Random(number)
    v6 = dice.random() < 0.3
    src, dst, other = (
        (f"fd00::{number:x}", "fd01::1", "fd02::2") if v6 else (f"10.{number >> 8}.{number & 255}.1", "10.9.9.9", "192.0.2.7")
    )
    protocol = dice.choice(["tcp", "udp", "udplite", "sctp", "gre", "icmpv6" if v6 else "icmp", 2, 50])
    ports = (dice.randrange(1, 65536), dice.randrange(1, 65536)) if protocol in ("tcp", "udp", "udplite", "sctp", "gre") else ()
    icmp = {"icmp_type": 128 if v6 else 8, "icmp_code": 0, "icmp_id": number} if str(protocol).startswith("icmp") else {}
    zone = dice.choice([0, 0, number % 5, number])
    one_way = dice.choice([None, None, None, number % 7 or None]) if not zone else None
    content: NewFlowOptions = {"zone": zone, "mark": dice.choice([0, number])}
    status = dice.choice([nfnl.Status(0), nfnl.Status.SEEN_REPLY, nfnl.Status.SEEN_REPLY | nfnl.Status.ASSURED])
    content["status"] = status | dice.choice([nfnl.Status(0), nfnl.Status.FIXED_TIMEOUT])
    if protocol == "tcp":
        content["tcp_state"] = dice.choice([*TcpState])
    if protocol == "sctp":
        state = dice.choice([state for state in SctpState if state <= SctpState.HEARTBEAT_SENT])
        content["protoinfo"] = ProtoInfo(sctp=SctpInfo(state=state, vtag_original=1, vtag_reply=number))
    translate = ports and protocol != "gre" and dice.random() < 0.4
    table.create(
        tuple_of(src, dst, protocol, *ports, zone=one_way, **icmp),
        timeout=dice.randrange(10_000, 1_000_000),
        nat_src=nat_to(other, dice.choice([None, 1024 + number])) if translate and dice.random() < 0.6 else None,
        nat_dst=nat_to(other, dice.choice([None, 1024 + number])) if translate and dice.random() < 0.6 else None,
        **content,
    )


def lines(lab: LinuxLab, command: str) -> list[str]:
    """What a command prints, in order, but for what the clock has its hand in."""
    done = lab.run(command)
    text = re.sub(r"(?<= )\d{4,6}(?= (src|[A-Z]))", "SECONDS", done.stdout)  # one second may pass from one command to the other
    text = re.sub(r"<timeout>\d+|-t \d+|delta-time=\d+|<deltatime>\d+", "SECONDS", text)
    return sorted(text.splitlines())


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-o extended,id",
        "-o ktimestamp",
        "-f ipv6",
        "-p tcp --state ESTABLISHED",
        "-u ASSURED",
        "-u UNREPLIED",
        "-m 0/0xf",
        "-w 3",
        "--orig-zone 3",
        "-n",
        "-g",
        "-j 192.0.2.7",
        "-s 10.1.0.0/16 -d 10.9.9.9",
        "--mask-src 0.0.0.255 -s 0.0.0.1",
        "-q 192.0.2.7",
    ],
)
def test_lists_are_equal_line_for_line(lab: LinuxLab, options: str) -> None:
    expected = lines(lab, f"conntrack -L {options}")
    assert lines(lab, f"{NFNL} conntrack -L {options}") == expected
    assert expected, "nothing to compare"


def test_it_is_all_of_them(lab: LinuxLab) -> None:
    assert len(lines(lab, "conntrack -L")) == ENTRIES
    assert lab.run(f"{NFNL} conntrack -C").stdout == lab.run("conntrack -C").stdout == f"{ENTRIES}\n"


def test_what_nfnl_saves_conntrack_loads(lab: LinuxLab) -> None:
    listed = lab.run(f"{NFNL} conntrack -L -p udp -o save").stdout.splitlines(keepends=True)
    # of what is translated the saved options name addresses only: the kernel may choose other ports
    saved = "".join(line for line in listed if " -g " not in line and " -n " not in line)
    with LinuxLab() as other:
        command = ["sh", "-c", 'printf %s "$1" | conntrack -R -', "sh", saved]
        assert other.run(command).returncode == 0
        # conntrack itself does not save marks
        loaded = re.sub(r" -m \d+", "", re.sub(r"-t \d+", "SECONDS", saved))
        assert lines(other, "conntrack -L -o save") == sorted(loaded.splitlines())
