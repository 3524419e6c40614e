"""``nfnl queue``: on the fake kernel with scenarios and captures, on Linux in a lab."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import RawPcapNgReader, wrpcap, wrpcapng

import nfnl
from nfnl.cli.queue import command, losses_in_words
from nfnl.testing.lab import LinuxLab
from tests import probes
from tests.unit.cli.terminal import NFNL, Terminal, pipe, without_colour

PING = IP(src="10.0.0.9", dst="10.0.0.1", id=1) / ICMP()
RULE = "-A INPUT -p icmp -j NFQUEUE --queue-num 5"
HINT = "  iptables -A INPUT -p icmp -j NFQUEUE --queue-num 5 --queue-bypass"

FIREWALL = """
kept = []

def judge(packet):
    if packet.id == 1:
        packet.accept()
    elif packet.id == 2:
        packet.drop()
    elif packet.id == 3:
        packet.accept(packet.payload, mark=7)
    elif packet.id == 4:
        kept.append(packet)
    else:
        raise RuntimeError("what now?")

number = 5
"""
SCENARIO = f"""
from scapy.layers.inet import IP, ICMP
kernel.iptables({RULE!r})
for number in range(COUNT):
    print("->", kernel.receive(IP(src="10.0.0.9", dst="10.0.0.1") / ICMP(seq=number)))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of handlers and a scenario."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "firewall.py").write_text(FIREWALL)
    (tmp_path / "scenario.py").write_text(SCENARIO.replace("COUNT", "4"))
    (tmp_path / "rules").write_text(f"*filter\n:INPUT ACCEPT [0:0]\n{RULE}\nCOMMIT\n")
    return tmp_path


# --- on the fake kernel --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_packets_are_shown_and_accepted_as_they_come() -> None:
    done = pipe("queue", "5", "--scenario", "scenario.py")
    assert done.returncode == 0, done.stderr.decode()
    expected = []
    for number in range(4):
        what = f"ICMP 10.0.0.9 > 10.0.0.1 echo request seq {number}"
        expected += [f"{number + 1:>5}  INPUT       {what:<58} ACCEPT", "-> 28 bytes, delivered"]
    assert done.stdout.decode().splitlines() == expected
    assert done.stderr.decode().splitlines() == [
        "On the fake kernel, in this process: nothing on this machine is touched.",
        "4 packets came to queue 5: 4 ACCEPT.",
        "Nothing was lost.",
        "On the fake kernel: 4 packets sent or received: 4 delivered.",
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "verdicts", "lines"),
    [
        (["--accept"], "4 ACCEPT", 0),
        (["--drop"], "4 DROP", 0),
        (["--drop", "--watch"], "4 DROP", 4),
        (["--watch"], "4 ACCEPT", 4),
        (["--handler", "firewall:judge"], "2 ACCEPT, 2 DROP", 0),
        (["--handler", "firewall:judge", "--watch", "--kernel", "fake"], "2 ACCEPT, 2 DROP", 4),
    ],
)
def test_who_decides_and_who_looks_on(options: list[str], verdicts: str, lines: int) -> None:
    done = pipe("queue", "5", "--scenario", "scenario.py", *options)
    assert done.returncode == 0, done.stderr.decode()
    assert f"4 packets came to queue 5: {verdicts}." in done.stderr.decode()
    assert done.stdout.count(b"echo request") == lines
    forgotten = "1 packet left without a verdict by the handler, and dropped."
    assert (forgotten in done.stderr.decode()) == ("--handler" in options)


def test_a_handler_that_fails_is_shown_and_its_packet_dropped(here: Path) -> None:
    (here / "scenario.py").write_text(SCENARIO.replace("COUNT", "6"))
    done = pipe("queue", "5", "--scenario", "scenario.py", "--handler", "firewall:judge")
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    trace = said.index("Traceback (most recent call last):")
    assert said[trace + 1].lstrip().startswith('File "scenario.py", line 5')
    assert "RuntimeError: what now?" in said
    assert "5 packets came to queue 5: 3 DROP, 2 ACCEPT." in said


@pytest.mark.usefixtures("here")
def test_it_ends_after_so_many() -> None:
    done = pipe("queue", "5", "--scenario", "scenario.py", "--count", "2")
    assert done.stdout.decode().splitlines()[3:] == ["-> 28 bytes, delivered", *["-> 28 bytes, waiting for a verdict"] * 2]
    assert "2 packets came to queue 5: 2 ACCEPT." in done.stderr.decode()


def test_a_full_queue_and_what_becomes_of_the_rest(here: Path) -> None:
    scenario = f"kernel.iptables({RULE!r})\nwith kernel.until_idle():\n    for _ in range(5): kernel.receive({bytes(PING)!r})\n"
    (here / "scenario.py").write_text(scenario)
    said = pipe("queue", "5", "--scenario", "scenario.py", "--max-length", "2").stderr.decode()
    assert "2 packets came to queue 5: 2 ACCEPT.\n3 packets lost: too many were waiting for a verdict." in said
    assert "5 packets sent or received: 3 dropped, 2 delivered." in said
    said = pipe("queue", "5", "--scenario", "scenario.py", "--max-length", "2", "--fail-open").stderr.decode()
    assert "2 packets came to queue 5: 2 ACCEPT.\nNothing was lost." in said
    assert "5 packets sent or received: 5 delivered." in said


def test_why_packets_were_dropped(here: Path) -> None:
    (here / "scenario.py").write_text(
        "kernel.iptables('-A INPUT -j DROP')\n"
        f"for _ in range(2): kernel.receive({bytes(PING)!r})\n"
        f"kernel.receive({bytes(IP(src='10.0.0.9', dst='192.0.2.1') / UDP())!r})\n"
    )
    said = pipe("queue", "5", "--scenario", "scenario.py").stderr.decode().splitlines()
    assert said[-3:] == [
        "On the fake kernel: 3 packets sent or received: 3 dropped.",
        "  2 dropped: -A INPUT -j DROP",
        "  1 dropped: not for this machine, and forwarding is off",
    ]


def test_an_answer_of_the_handler_is_not_handled_within_it(here: Path) -> None:
    (here / "firewall.py").write_text(
        "def judge(packet):\n    packet.accept() if packet.hook.name == 'OUTPUT' else packet.reject()\n"
    )
    scenario = f"kernel.iptables({RULE!r})\nkernel.iptables({RULE.replace('INPUT', 'OUTPUT')!r})\nkernel.receive({bytes(PING)!r})\n"
    (here / "scenario.py").write_text(scenario)
    done = pipe("queue", "5", "--scenario", "scenario.py", "--handler", "firewall:judge", "--watch")
    assert done.returncode == 0, done.stderr.decode()
    assert [line.split()[-1] for line in done.stdout.decode().splitlines()] == ["DROP", "ACCEPT"]


def test_captures_are_received_under_rules(here: Path) -> None:
    frames = [Ether() / PING, Ether() / Dot1Q(vlan=3) / PING, Ether() / ARP(), Ether() / PING]
    wrpcap(str(here / "some.pcap"), frames)
    done = pipe("queue", "5", "--rules", "rules", "--packets", "some.pcap")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"ICMP 10.0.0.9 > 10.0.0.1 echo request seq 0") == 3
    assert "nfnl: some.pcap: left out: 1 packet that is not IP" in done.stderr.decode()
    assert "3 packets sent or received: 3 delivered." in done.stderr.decode()


STATEFUL = """*filter
:INPUT DROP
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -s 10.0.0.9 -m conntrack --ctstate NEW -j NFQUEUE --queue-num 5
COMMIT
"""


def test_packets_of_a_capture_come_at_their_times(here: Path) -> None:
    packets = [IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=5000, dport=9) for _ in range(4)]
    for packet, seconds in zip(packets, (1.7e9, 1.7e9 + 29, 1.7e9 + 20, 1.7e9 + 60), strict=True):
        packet.time = seconds
    (here / "stateful").write_text(STATEFUL.replace("ESTABLISHED", "ESTABLISHED,NEW"))
    for write in (wrpcap, wrpcapng):
        write(str(here / "some.pcap"), packets)
        done = pipe("conntrack", "events", "-e", "NEW,DESTROY", "--rules", "stateful", "--packets", "some.pcap")
        assert done.returncode == 0, done.stderr.decode()
        assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["[NEW]", "[DESTROY]", "[NEW]"]


def test_a_scenario_prepares_for_a_capture(here: Path) -> None:
    question = IP(src="10.0.0.9", dst="192.0.2.1") / UDP(sport=5000, dport=53)
    answer = IP(src="192.0.2.1", dst="10.0.0.9") / UDP(sport=53, dport=5000)
    wrpcap(str(here / "some.pcap"), [answer, question, answer])
    (here / "scenario.py").write_text("kernel.sysctl('net.ipv4.ip_forward', 1)")
    (here / "stateful").write_text(STATEFUL.replace("INPUT", "FORWARD"))
    done = pipe("queue", "5", "--rules", "stateful", "--scenario", "scenario.py", "--packets", "some.pcap")
    assert done.stdout.decode().split()[1:5] == ["FORWARD", "UDP", "10.0.0.9:5000", ">"]
    assert "3 packets sent or received: 2 sent, 1 dropped.\n  1 dropped: policy DROP\n" in done.stderr.decode()


def test_without_a_rule_a_rule_is_suggested(here: Path) -> None:
    (here / "scenario.py").write_text(f"kernel.receive({bytes(PING)!r})")
    done = pipe("queue", "5", "--scenario", "scenario.py")
    assert done.returncode == 0
    assert HINT in done.stderr.decode().splitlines()
    assert "1 packet sent or received: 1 delivered." in done.stderr.decode()


def test_a_bridge_in_a_scenario(here: Path) -> None:
    header = bytes.fromhex("02000000000b 02000000000a")
    frames = (header + b"\x08\0" + bytes(PING), header + b"\x08\6" + bytes(28))
    lines = [f"kernel.receive_frame({frame!r}, 'left')" for frame in frames]
    (here / "scenario.py").write_text("kernel.add_bridge('br0', ('left', 'right'), queue=5)\n" + "\n".join(lines))
    done = pipe("queue", "5", "--scenario", "scenario.py", "--drop", "--watch")
    ping, arp = done.stdout.decode().splitlines()
    assert ping.split()[1:3] == ["FORWARD", "ICMP"]
    assert "28 bytes, not IP" in arp
    assert "2 packets sent or received: 2 dropped" in done.stderr.decode()


def test_ctrl_c_ends_a_scenario(here: Path) -> None:
    (here / "scenario.py").write_text(f"kernel.iptables({RULE!r})\nwhile True: kernel.receive({bytes(PING)!r})\n")
    arguments = [*NFNL, "queue", "5", "--scenario", "scenario.py"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline().split()[0] == "1"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 0
    assert "Traceback" not in said
    assert " came to queue 5: " in said


# --- what is written -----------------------------------------------------------------------------------------------------------


def test_packets_are_written_with_their_verdicts(here: Path) -> None:
    options = ["--handler", "firewall:judge", "--pcap", "seen.pcapng", "--copy-range", "20"]
    (here / "scenario.py").write_text(
        f"kernel.iptables({RULE!r})\nfor _ in range(4):\n    kernel.advance(1.5)\n    kernel.receive({bytes(PING)!r})\n"
    )
    (here / "firewall.py").write_text(FIREWALL.replace("packet.payload, ", ""))
    assert pipe("queue", "5", "--scenario", "scenario.py", *options).returncode == 0
    with RawPcapNgReader("seen.pcapng") as reader:
        read = list(reader)
    assert [data for data, _ in read] == [bytes(PING)[:20]] * 4
    assert {(about.linktype, about.wirelen, about.ifname) for _, about in read} == {(101, 28, b"queue 5")}
    assert [(about.tshigh << 32 | about.tslow) / about.tsresol for _, about in read] == [1.5, 3, 4.5, 6]
    head = "packet {} of queue 5 at INPUT: "
    assert [comment.decode() for _, about in read for comment in about.comments] == [
        head.format(1) + "ACCEPT",
        head.format(2) + "DROP",
        head.format(3) + "ACCEPT, mark 0x7",
        head.format(4) + "DROP",
    ]


@pytest.mark.usefixtures("here")
def test_wireshark_reads_what_was_written() -> None:
    probes.require("tshark")
    assert pipe("queue", "5", "--scenario", "scenario.py", "--handler", "firewall:judge", "--pcap", "seen.pcapng").returncode == 0
    fields = [word for field in ("icmp.seq", "frame.comment", "frame.interface_name") for word in ("-e", field)]
    printed = subprocess.run(
        ["tshark", "-r", "seen.pcapng", "-T", "fields", *fields], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == [
        "0\tpacket 1 of queue 5 at INPUT: ACCEPT\tqueue 5",
        "1\tpacket 2 of queue 5 at INPUT: DROP\tqueue 5",
        "2\tpacket 3 of queue 5 at INPUT: ACCEPT, mark 0x7, with other bytes than these\tqueue 5",
        "3\tpacket 4 of queue 5 at INPUT: DROP\tqueue 5",
    ]


# --- errors --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ("--accept --handler firewall:judge", 2, "--accept and --handler are two answers to one question."),
        ("--kernel linux --scenario scenario.py", 2, "--scenario, --rules and --packets are for the fake kernel."),
        ("--kernel fake", 2, "nothing comes by itself"),
        ("--rules rules", 2, "nothing comes by itself"),
        ("--handler firewall", 2, "'firewall' is not MODULE:FUNCTION"),
        ("--handler nowhere:judge", 1, "there is no module 'nowhere' here or on Python's path\n"),
        ("--handler firewall.py:judge", 1, "a module is named as in an import: firewall\n"),
        ("--handler firewall:jugde", 1, "in firewall there is no function 'jugde'; is it 'judge'?"),
        ("--handler firewall:number", 1, "in firewall there is a int, no function, 'number'"),
        ("--handler broken:judge", 1, "ModuleNotFoundError: No module named 'nowhere'"),
        ("--scenario missing.py", 1, "missing.py: No such file or directory"),
        ("--scenario broken.py", 1, "ModuleNotFoundError: No module named 'nowhere'"),
        ("--scenario rules", 1, "SyntaxError: "),
        ("--scenario scenario.py --rules scenario.py", 1, "scenario.py: iptables-restore"),
        ("--scenario scenario.py --rules latin", 1, "latin: that is no text, as iptables-save prints it"),
        ("--rules rules --packets rules", 1, "rules: the capture is broken: it begins neither like pcap nor like pcapng"),
        ("--scenario scenario.py --pcap no/such", 1, "no/such: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said(here: Path, arguments: str, status: int, complaint: str) -> None:
    (here / "broken.py").write_text("import nowhere\n")
    (here / "latin").write_bytes(b"\xff")
    done = pipe("queue", "5", *arguments.split())
    assert (done.returncode, done.stdout) == (status, b"")
    assert complaint in done.stderr.decode()
    assert ("Traceback" in done.stderr.decode()) == ("broken.py" in done.stderr.decode())


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (nfnl.QueueLosses(0, 0, False, 0, 0, 0), ["Nothing was lost."]),
        (
            nfnl.QueueLosses(0, 0, False, 0, None, None),
            ["Nothing was lost, as far as can be seen: the counts of the kernel are for root."],
        ),
        (
            nfnl.QueueLosses(1, 4, True, 2, None, None),
            [
                "At least 4 packets lost: they came faster than they were read, and the receive buffer was full.",
                "2 packets could not be understood: the policy for undecided packets decided them.",
            ],
        ),
        (
            nfnl.QueueLosses(1, 0, True, 0, 1, 9),
            [
                "9 packets lost: they came faster than they were read, and the receive buffer was full.",
                "1 packet lost: too many were waiting for a verdict. --max-length lets more wait.",
            ],
        ),
    ],
)
def test_losses_in_words(losses: nfnl.QueueLosses, told: list[str]) -> None:
    assert list(losses_in_words(losses)) == told


# --- on Linux ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[LinuxLab]:
    probes.require("lab-available")
    with LinuxLab() as lab:
        yield lab


def in_terminal(lab: LinuxLab, *arguments: str) -> Terminal:
    return lab._kernel.inside(lambda: Terminal("queue", *arguments))


def test_in_a_terminal_until_ctrl_c(lab: LinuxLab) -> None:
    lab.iptables(RULE)
    terminal = in_terminal(lab, "5", "--drop", "--watch")
    terminal.read(until="Ctrl-C ends it.")
    ping = lab.receive(PING)
    terminal.read(until="DROP")
    os.kill(terminal.process.pid, signal.SIGINT)
    assert terminal.close() == 0
    lab.run("true")  # to see what has come of it
    assert ping.dropped
    assert "\x1b[31mDROP" in terminal.shown
    shown = [line.strip() for line in without_colour(terminal.shown).splitlines()]
    assert shown[0] == "Listening at queue 5; Ctrl-C ends it."
    assert shown[1].split() == ["1", "INPUT", "ICMP", "10.0.0.9", ">", "10.0.0.1", "echo", "request", "seq", "0", "DROP"]
    assert "1 packet came to queue 5: 1 DROP." in shown


def test_a_rule_is_suggested_while_nothing_comes(lab: LinuxLab) -> None:
    terminal = in_terminal(lab, "5")
    terminal.read(until=HINT.strip())
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.close() == 0
    assert "0 packets came to queue 5." in terminal.shown


def test_a_handler_that_hangs_is_left_by_the_second_ctrl_c(lab: LinuxLab, here: Path) -> None:
    (here / "firewall.py").write_text("def judge(packet):\n    print('stuck')\n    while True:\n        pass\n")
    lab.iptables(RULE)
    terminal = in_terminal(lab, "5", "--handler", "firewall:judge")
    terminal.read(until="Ctrl-C ends it.")
    ping = lab.receive(PING)
    terminal.read(until="stuck")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.read(until="once more, and the handler is interrupted.")
    os.kill(terminal.process.pid, signal.SIGINT)
    assert terminal.close() == 0
    lab.run("true")
    assert ping.dropped
    assert "Traceback" not in terminal.shown
    assert "1 packet left without a verdict by the handler, and dropped." in terminal.shown


def test_a_queue_that_is_taken_has_an_owner(lab: LinuxLab, monkeypatch: pytest.MonkeyPatch) -> None:
    probes.require("initial-user-namespace")
    monkeypatch.setattr(nfnl, "LinuxKernel", lambda: lab)
    with nfnl.open_queue(5, kernel=lab) as queue:
        done = CliRunner().invoke(command, ["5"])
        port_id = queue._transport.port_id
    assert done.exit_code == 1
    assert "queue 5 is taken: " in done.output
    assert f", process {os.getpid()} (port {port_id}) listens there, and a queue has one listener." in done.output


def test_without_the_right_to_it_is_said() -> None:
    probes.require("initial-user-namespace")
    reduced = ["setpriv", "--inh-caps=-all", "--bounding-set=-net_admin,-sys_admin"]
    done = subprocess.run([*reduced, *NFNL, "queue", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: it takes CAP_NET_ADMIN to listen at a queue.",
        "Run it as root, or in a namespace of your own, where you are root:",
        "  unshare -Urn nfnl queue 5",
    ]
