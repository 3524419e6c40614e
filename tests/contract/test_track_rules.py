"""What rules see of flows, and what they do to them: the matches and targets that are about tracking."""

from __future__ import annotations

import pytest

from nfnl.sim.iptables import IptablesError
from tests.contract.ctkit import CONFIRMED, HELPER, UDP, Cta, tuple_, u32
from tests.contract.rules import needs, rule
from tests.contract.trackkit import A2, A6, B2, B6, HERE, A, B, Wire, icmp, spoilt, tcp, udp

THERE, BACK = udp(A, B), udp(B, A, 53, 5000)
OTHER, SYN = udp(A2, B, 5001, 54), tcp(A, B, 5000, 80, "S", 1)
INVALID = spoilt(OTHER, 26, size=2)
ERROR = icmp(3, 3, 0, THERE[:28], source=B, destination=A)
MET = 0x77


def matched(wire: Wire, match: str, *packets: bytes, nat: str = "") -> list[bool]:
    """Which of the packets, which come by in this order, a rule matches in FORWARD."""
    if nat:
        wire.nat(nat)
    wire.kernel.iptables(f"-t mangle -A FORWARD {match} -j MARK --set-mark {MET}")
    return [wire.kernel.receive(packet).mark == MET for packet in packets]


# --------------------------------------------------------------------------------------------------------------------- matches


@rule("TR-1")
@pytest.mark.parametrize(
    ("states", "seen"),
    [
        ("NEW", [1, 0, 0, 0, 0]),
        ("ESTABLISHED", [0, 1, 1, 0, 0]),
        ("RELATED", [0, 0, 0, 1, 0]),
        ("INVALID", [0, 0, 0, 0, 1]),
        ("NEW,ESTABLISHED", [1, 1, 1, 0, 0]),
        ("INVALID,RELATED", [0, 0, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("match", ["-m conntrack --ctstate", "-m state --state"])
@pytest.mark.parametrize("sense", [True, False], ids=["", "not"])
def test_states(wire: Wire, match: str, states: str, seen: list[int], sense: bool) -> None:
    module, option = match.rsplit(" ", 1)
    negated = "" if sense else " !"
    found = matched(wire, f"{module}{negated} {option} {states}", THERE, BACK, THERE, ERROR, INVALID)
    assert found == [bool(each) == sense for each in seen]


@rule("TR-1")
@pytest.mark.parametrize("match", ["-m conntrack --ctstate UNTRACKED", "-m state --state UNTRACKED"])
def test_the_state_of_what_is_not_tracked(wire: Wire, match: str) -> None:
    wire.kernel.iptables("-t raw -A PREROUTING -p udp --sport 53 -j CT --notrack")
    assert matched(wire, match, THERE, BACK, INVALID) == [False, True, False]


@rule("TR-1")
@pytest.mark.parametrize(
    ("nat", "states", "seen"),
    [
        (f"POSTROUTING -s {A} -p udp -j SNAT --to-source 192.0.2.50", "SNAT", [0, 1, 1]),
        (f"POSTROUTING -s {A} -p udp -j SNAT --to-source 192.0.2.50", "DNAT", [0, 0, 0]),
        (f"PREROUTING -d {B} -p udp -j DNAT --to-destination {B2}", "DNAT", [1, 1, 1]),
        (f"PREROUTING -d {B} -p udp -j DNAT --to-destination {B2}", "SNAT", [0, 0, 0]),
        (f"PREROUTING -d {B} -p udp -j DNAT --to-destination {B2}", "DNAT,INVALID", [1, 1, 1]),
    ],
)
def test_states_of_translated_flows(wire: Wire, nat: str, states: str, seen: list[int]) -> None:
    back = udp(B2, A, 53, 5000) if "DNAT" in nat else udp(B, "192.0.2.50", 53, 5000)
    assert matched(wire, f"-m conntrack --ctstate {states}", THERE, back, THERE, nat=nat) == [bool(each) for each in seen]


@rule("TR-2")
@pytest.mark.parametrize(
    ("match", "seen"),
    [
        ("--ctproto udp", [1, 1, 1, 0, 0]),
        ("--ctproto 6", [0, 0, 0, 1, 0]),
        ("! --ctproto udp", [0, 0, 0, 1, 0]),
        (f"--ctorigsrc {A}", [1, 1, 0, 1, 0]),
        ("--ctorigsrc 198.51.100.0/24", [1, 1, 1, 1, 0]),
        (f"! --ctorigsrc {A}", [0, 0, 1, 0, 0]),
        (f"--ctorigdst {B}", [1, 1, 1, 1, 0]),
        (f"--ctreplsrc {B}", [1, 1, 1, 1, 0]),
        (f"--ctrepldst {A2}", [0, 0, 1, 0, 0]),
        ("--ctorigsrcport 5000", [1, 1, 0, 1, 0]),
        ("--ctorigsrcport 5001:5010", [0, 0, 1, 0, 0]),
        ("--ctorigdstport 53", [1, 1, 0, 0, 0]),
        ("! --ctorigdstport 53:54", [0, 0, 0, 1, 0]),
        ("--ctreplsrcport 53", [1, 1, 0, 0, 0]),
        ("--ctrepldstport 5001", [0, 0, 1, 0, 0]),
        ("--ctdir ORIGINAL", [1, 0, 1, 1, 0]),
        ("--ctdir REPLY", [0, 1, 0, 0, 0]),
        (f"--ctproto 17 --ctorigsrc {A} --ctdir REPLY --ctstate ESTABLISHED", [0, 1, 0, 0, 0]),
    ],
)
def test_fields_of_flows(wire: Wire, match: str, seen: list[int]) -> None:
    """Packets without a flow have none, and match none, negated or not."""
    assert matched(wire, f"-m conntrack {match}", THERE, BACK, OTHER, SYN, INVALID) == [bool(each) for each in seen]


@rule("TR-2")
def test_fields_of_translated_flows(wire: Wire) -> None:
    nat = f"PREROUTING -d {B} -p udp -j DNAT --to-destination {B2}:5353"
    wire.nat(nat)
    match = f"-m conntrack --ctorigdst {B} --ctorigdstport 53 --ctreplsrc {B2} --ctreplsrcport 5353"
    assert matched(wire, match, THERE, udp(B2, A, 5353, 5000)) == [True, True]


@rule("TR-2")
@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ("NONE", [0, 0, 0, 0]),
        ("CONFIRMED", [0, 1, 1, 1]),
        ("SEEN_REPLY", [0, 0, 1, 1]),
        ("ASSURED", [0, 0, 0, 0]),
        ("EXPECTED", [0, 0, 0, 0]),
        ("SEEN_REPLY,ASSURED", [0, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("sense", [True, False], ids=["", "not"])
def test_status(wire: Wire, status: str, seen: list[int], sense: bool) -> None:
    negated = "" if sense else "! "
    found = matched(wire, f"-m conntrack {negated}--ctstatus {status}", THERE, THERE, BACK, THERE)
    assert found == [bool(each) == sense for each in seen]


@needs("unconfirmed-flows-have-no-time")
@rule("TR-2")
@pytest.mark.parametrize(
    ("match", "seen"),
    [("--ctexpire 1:3000", [0, 1]), ("--ctexpire 0", [1, 0]), ("! --ctexpire 1:3000", [1, 0]), ("--ctexpire 4000:9000", [0, 0])],
)
def test_how_long_it_lives(wire: Wire, match: str, seen: list[int]) -> None:
    """A flow that is not confirmed does not live yet."""
    wire.set(udp_timeout=3000)
    assert matched(wire, f"-m conntrack {match}", THERE, THERE) == [bool(each) for each in seen]


@rule("TR-2")
def test_fields_of_flows_over_ipv6(wire: Wire) -> None:
    wire.ipv6().kernel.ip6tables(f"-t mangle -A FORWARD -m conntrack --ctorigsrc {A6} --ctorigdstport 53 -j MARK --set-mark {MET}")
    packets = udp(A6, B6), udp(B6, A6, 53, 5000), udp(A6, B6, 5000, 54)
    assert [wire.kernel.receive(packet).mark == MET for packet in packets] == [True, True, False]


@rule("TR-3")
@pytest.mark.parametrize(("match", "seen"), [("5", 1), ("1/0x1", 1), ("4/0xf", 0), ("0", 0)])
def test_marks_of_flows(wire: Wire, match: str, seen: int) -> None:
    wire.state(THERE)
    assert wire.asker.change(tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53), u32(Cta.MARK, 5)) == "ACK"
    assert matched(wire, f"-m connmark --mark {match}", THERE, BACK) == [bool(seen)] * 2


@rule("TR-3")
@pytest.mark.parametrize("match", ["--mark 0", "! --mark 5"])
def test_what_has_no_flow_has_no_mark_of_one(wire: Wire, match: str) -> None:
    assert matched(wire, f"-m connmark {match}", INVALID, THERE) == [False, True]


@rule("TR-4")
@pytest.mark.parametrize(
    ("match", "seen"),
    [
        ("2 --connbytes-dir original --connbytes-mode packets", [0, 0, 1, 1]),
        ("1:1 --connbytes-dir original --connbytes-mode packets", [1, 1, 0, 0]),
        ("! 2:3 --connbytes-dir original --connbytes-mode packets", [1, 1, 0, 0]),
        ("! 1:1 --connbytes-dir original --connbytes-mode packets", [1, 1, 0, 0]),
        ("1 --connbytes-dir reply --connbytes-mode packets", [0, 1, 1, 1]),
        ("3 --connbytes-dir both --connbytes-mode packets", [0, 0, 1, 1]),
        ("100 --connbytes-dir original --connbytes-mode bytes", [0, 0, 0, 1]),
        ("29:58 --connbytes-dir both --connbytes-mode bytes", [1, 1, 0, 0]),
        ("30 --connbytes-dir original --connbytes-mode avgpkt", [0, 0, 0, 1]),
    ],
)
def test_counters(wire: Wire, match: str, seen: list[int]) -> None:
    """A packet is counted before the rules see it: 29 bytes, and 128 in the end. A range of one number cannot be negated."""
    wire.set(acct=1)
    match = match.removeprefix("! ") if (negated := match.startswith("! ")) else match
    match = f"-m connbytes {'! ' if negated else ''}--connbytes {match}"
    assert matched(wire, match, THERE, BACK, THERE, udp(data=bytes(100))) == [bool(each) for each in seen]


@rule("TR-4")
def test_a_rule_about_counters_switches_them_on(wire: Wire) -> None:
    """Flows that are there already have none, and match nothing."""
    wire.set(acct=0)
    wire.state(THERE)
    match = "-m connbytes --connbytes 1 --connbytes-dir original --connbytes-mode packets"
    assert matched(wire, match, THERE, OTHER) == [False, True]
    assert wire.kernel.kernel.sysctl("net.netfilter.nf_conntrack_acct") == "1"


@rule("TR-5")
@pytest.mark.parametrize(
    ("match", "seen"),
    [
        ("--connlimit-above 1", [0, 1, 1, 0]),
        ("--connlimit-upto 1", [1, 0, 0, 1]),
        ("--connlimit-above 2", [0, 0, 1, 0]),
        ("--connlimit-above 3 --connlimit-mask 24", [0, 0, 0, 1]),
        ("--connlimit-above 3 --connlimit-daddr", [0, 0, 0, 1]),
    ],
)
def test_numbers_of_flows(wire: Wire, match: str, seen: list[int]) -> None:
    packets = *(udp(A, B, port) for port in (1, 2, 3)), udp(A2, B)
    assert matched(wire, f"-p udp -m connlimit {match}", *packets) == [bool(each) for each in seen]


@rule("TR-5")
def test_flows_that_are_gone_are_not_counted(wire: Wire) -> None:
    assert matched(wire, "-p udp -m connlimit --connlimit-above 1", udp(A, B, 1), udp(A, B, 2)) == [False, True]
    assert wire.asker.delete() == "ACK"
    wire.pass_time(0.1)  # some ticks
    assert wire.kernel.receive(udp(A, B, 3)).mark != MET


@rule("TR-6")
@pytest.mark.parametrize(("match", "seen"), [("--helper ftp", False), ("! --helper ftp", True)])
def test_the_helper_of_a_flow_is_that_of_its_master(wire: Wire, match: str, seen: bool) -> None:
    """These have none, though one of them has a helper itself."""
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    assert matched(wire, f"-m helper {match}", tcp(A, B, 5000, 21, "S", 1), SYN) == [seen, seen]


@rule("TR-6")
def test_labels_of_flows(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A PREROUTING -p udp --sport 53 -m connlabel --label 3 --set")
    wire.kernel.iptables("-t mangle -D PREROUTING -m conntrack --ctstate ESTABLISHED -j RETURN")
    assert matched(wire, "-m connlabel --label 3", THERE, BACK, THERE) == [False, True, True]


# --------------------------------------------------------------------------------------------------------------- marks, targets


def marks(wire: Wire, *targets: str) -> tuple[int, int]:
    """The mark of a packet behind rules with these targets, and that of its flow."""
    for target in targets:
        wire.kernel.iptables(f"-t mangle -A FORWARD -p udp -j {target}")
    return wire.kernel.receive(THERE).mark, wire.flow.number(Cta.MARK)


@rule("TR-7")
@pytest.mark.parametrize(
    ("targets", "result"),
    [
        (["CONNMARK --set-mark 0x12"], (0, 0x12)),
        (["CONNMARK --set-mark 0xff", "CONNMARK --set-mark 0x10/0xf0"], (0, 0x1F)),
        (["CONNMARK --set-mark 0xff", "CONNMARK --set-mark 0x13/0xf0"], (0, 0x1F)),
        (["CONNMARK --set-mark 0xff", "CONNMARK --set-xmark 0xf/0xf0"], (0, 0)),
        (["CONNMARK --set-mark 0xff", "CONNMARK --and-mark 0x3c"], (0, 0x3C)),
        (["CONNMARK --set-mark 0xf0", "CONNMARK --or-mark 0x3c"], (0, 0xFC)),
        (["CONNMARK --set-mark 0xf0", "CONNMARK --xor-mark 0x3c"], (0, 0xCC)),
        (["MARK --set-mark 0x12", "CONNMARK --save-mark"], (0x12, 0x12)),
        (["MARK --set-mark 0x1234", "CONNMARK --save-mark --nfmask 0xff --ctmask 0xff"], (0x1234, 0x34)),
        (
            ["CONNMARK --set-mark 0xff00ff", "MARK --set-mark 0x1234", "CONNMARK --save-mark --nfmask 0xff00 --ctmask 0xff"],
            (0x1234, 0xFF1200),
        ),
        (["CONNMARK --set-mark 5", "CONNMARK --restore-mark"], (5, 5)),
        (["MARK --set-mark 0xf0", "CONNMARK --set-mark 0xff", "CONNMARK --restore-mark --nfmask 0xf --ctmask 3"], (0xF3, 0xFF)),
        (["MARK --set-mark 0xff", "MARK --set-mark 0x10/0xf0"], (0x1F, 0)),
        (["MARK --set-mark 0xff", "MARK --set-xmark 0xf/0xf0"], (0, 0)),
        (["MARK --set-mark 0xff", "MARK --and-mark 0x3c"], (0x3C, 0)),
        (["MARK --set-mark 0xf0", "MARK --or-mark 0x3c"], (0xFC, 0)),
        (["MARK --set-mark 0xf0", "MARK --xor-mark 0x3c"], (0xCC, 0)),
    ],
)
def test_marks(wire: Wire, targets: list[str], result: tuple[int, int]) -> None:
    assert marks(wire, *targets) == result


@rule("TR-7")
def test_a_mark_of_a_flow_is_there_for_all_its_packets(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -m conntrack --ctstate NEW -j CONNMARK --set-mark 5")
    wire.kernel.iptables("-t mangle -A FORWARD -j CONNMARK --restore-mark")
    assert [wire.kernel.receive(packet).mark for packet in (THERE, BACK, OTHER, ERROR)] == [5, 5, 5, 5]


@rule("TR-7")
def test_what_has_no_flow_cannot_save_its_mark(wire: Wire) -> None:
    wire.kernel.iptables("-t mangle -A FORWARD -j MARK --set-mark 5")
    wire.kernel.iptables("-t mangle -A FORWARD -j CONNMARK --save-mark")
    wire.kernel.iptables("-t mangle -A FORWARD -j CONNMARK --restore-mark")
    assert wire.kernel.receive(INVALID).mark == 5
    assert wire.flows == []


@rule("TR-8")
@pytest.mark.parametrize("target", ["NFLOG --nflog-group 5 --nflog-prefix hello", "LOG --log-prefix hello"])
def test_what_is_logged_goes_on(wire: Wire, target: str) -> None:
    assert marks(wire, target, "CONNMARK --set-mark 5", "CONNMARK --restore-mark") == (5, 5)


# -------------------------------------------------------------------------------------------------------------------------- CT


@rule("TR-9")
@pytest.mark.parametrize("target", ["CT --notrack", "NOTRACK"])
def test_packets_need_not_be_tracked(wire: Wire, target: str) -> None:
    wire.kernel.iptables(f"-t raw -A PREROUTING -p udp --dport 53 -j {target}")
    assert wire.states(THERE, THERE) == ["UNTRACKED", "UNTRACKED"]
    assert wire.flows == []
    assert wire.state(BACK) == "NEW"


@rule("TR-9")
def test_what_a_program_sends_need_not_be_tracked(wire: Wire) -> None:
    wire.kernel.iptables("-t raw -A OUTPUT -p udp -j CT --notrack")
    wire.kernel.send(udp(HERE, A))
    assert wire.flows == []


@rule("TR-9")
@pytest.mark.parametrize(("first", "then", "zone"), [("--zone 1", "--zone 2", 1), ("--zone 2", "--notrack", 2)])
def test_the_first_rule_decides(wire: Wire, first: str, then: str, zone: int) -> None:
    for option in (first, then):
        wire.kernel.iptables(f"-t raw -A PREROUTING -p udp -j CT {option}")
    wire.state(THERE)
    assert wire.flow.number(Cta.ZONE) == zone


@rule("TR-9")
def test_what_is_not_tracked_stays_so(wire: Wire) -> None:
    for option in ("--notrack", "--zone 2"):
        wire.kernel.iptables(f"-t raw -A PREROUTING -p udp -j CT {option}")
    assert (wire.state(THERE), wire.flows) == ("UNTRACKED", [])


@rule("TR-9")
def test_flows_that_are_there_take_nothing_on(wire: Wire) -> None:
    wire.state(tcp(A, B, 5000, 21, "S", 1))
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    wire.state(tcp(A, B, 5000, 21, "S", 1))
    assert wire.flow.status == CONFIRMED
    wire.state(tcp(A, B, 5001, 21, "S", 1))
    assert {flow.ends.numbers[0]: flow.status for flow in wire.flows} == {5000: CONFIRMED, 5001: CONFIRMED | HELPER}


@rule("TR-9")
def test_a_helper_given_by_a_rule(wire: Wire) -> None:
    watcher = wire.listen()
    wire.kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    wire.state(tcp(A, B, 5000, 21, "S", 1))
    assert wire.flow.inside(Cta.HELP)[1] == b"ftp\0"
    assert "HELP" in watcher.told()[0].names


@rule("TR-9")
@pytest.mark.parametrize(
    "line",
    [
        "-t raw -A PREROUTING -p tcp -j CT --helper nobody",
        "-t raw -A PREROUTING -p udp -j CT --helper ftp",
        "-t raw -A PREROUTING -j CT --helper ftp",
        "-t mangle -A PREROUTING -p tcp -j CT --zone 1",
        "-A FORWARD -j CT --notrack",
        "-t mangle -A FORWARD -m conntrack --ctstate NONSENSE",
        "-t mangle -A FORWARD -m conntrack --ctstatus NONSENSE",
        "-t mangle -A FORWARD -m conntrack --ctdir NONSENSE",
        "-t mangle -A FORWARD -m conntrack",
    ],
)
def test_rules_that_are_refused(wire: Wire, line: str) -> None:
    with pytest.raises(IptablesError):
        wire.kernel.iptables(line)
