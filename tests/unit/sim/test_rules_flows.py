"""Rules about flows: what switches tracking on and off, what counts and forgets, what targets leave behind.

Each expectation was seen on Linux 6.18; what rules match is compared with it packet by packet in `test_rules_against_linux`.
"""

from __future__ import annotations

import copy

import pytest

from nfnl.sim.ct_entry import Event, Status
from nfnl.sim.iptables import IptablesError
from nfnl.sim.journey import Journey
from nfnl.sim.skb import IPV4, IPV6
from tests.unit.sim.dataplane import PING, TCP, UDP, World, ip4, ip6
from tests.unit.sim.flows import Told

DNS = UDP(sport=1000, dport=53)
QUESTION, ANSWER = ip4(DNS), ip4(UDP(sport=53, dport=1000), src="10.0.0.1", dst="10.0.0.9")


def world(*lines: str) -> World:
    made = World()
    for line in lines:
        (made.ip6tables if line.startswith("ip6tables") else made.iptables)(line)
    return made


def steps(journey: Journey) -> list[str]:
    return [str(step) for step in journey.steps]


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -m conntrack --ctstate NEW",
        "-A INPUT -m state --state NEW",
        "-A INPUT -m connmark --mark 1",
        "-A INPUT -m helper --helper ftp",
        "-A INPUT -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode bytes",
        "-A INPUT -m connlimit --connlimit-above 1",
        "-A INPUT -m connlabel --label 1",
        "-A INPUT -j CONNMARK --save-mark",
        "-t raw -A PREROUTING -j CT",
        "-t raw -A PREROUTING -p tcp -j CT --helper ftp",
        "-t nat -A POSTROUTING -j SNAT --to-source 1.2.3.4",
        "-t nat -A POSTROUTING -j MASQUERADE",
        "-t nat -A PREROUTING -j DNAT --to-destination 1.2.3.4",
        "-t nat -A PREROUTING -j REDIRECT",
        "-t nat -A PREROUTING -j NETMAP --to 10.1.0.0/16",
    ],
)
def test_a_rule_that_needs_tracking_has_it_while_it_stands(rule: str) -> None:
    made = world(rule, rule)
    assert (made.tracking.is_on(IPV4), made.tracking.is_on(IPV6)) == (True, False)
    made.iptables(rule.replace("-A", "-D"))
    assert made.tracking.is_on(IPV4)
    made.iptables(rule.replace("-A", "-D"))
    assert not made.tracking.is_on(IPV4)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -m mark --mark 1 -j ACCEPT",
        "-t raw -A PREROUTING -j CT --notrack",
        "-t raw -A PREROUTING -j NOTRACK",
        "-t nat -A PREROUTING -p tcp -j ACCEPT",
        "-t nat -A POSTROUTING -j LOG",
        "-A INPUT -m limit",
    ],
)
def test_others_do_not(rule: str) -> None:
    made = world(rule)
    assert not made.tracking.is_on(IPV4)
    made.stack.receive(QUESTION)
    assert len(made.conntrack) == 0


def test_the_family_of_the_rule_counts() -> None:
    made = world("ip6tables -A INPUT -m conntrack --ctstate NEW")
    assert (made.tracking.is_on(IPV4), made.tracking.is_on(IPV6)) == (False, True)
    made.stack.receive(QUESTION)
    made.stack.receive(ip6(DNS))
    assert [entry.family for entry in made.conntrack.walk()] == [IPV6]


def test_what_is_refused_needs_nothing() -> None:
    made = World()
    with pytest.raises(IptablesError, match="Invalid argument"):
        made.iptables("-A INPUT -m conntrack --ctstate NEW -j SNAT --to-source 1.2.3.4")
    with pytest.raises(IptablesError):
        made.iptables.restore("*filter\n-A INPUT -m conntrack --ctstate NEW\n-A INPUT --bogus\nCOMMIT\n")
    assert not made.tracking.is_on(IPV4)


def test_a_file_replaces_rules_without_a_gap() -> None:
    """The new ones come before the old ones go, so that tracking stays, and with it a packet in a queue."""
    made = world("-A INPUT -m conntrack --ctstate NEW -j NFQUEUE --queue-num 1")
    made.listen()
    waiting = made.stack.receive(QUESTION)
    made.iptables.restore("*filter\n-A INPUT -m state --state NEW\nCOMMIT\n")
    assert made.tracking.is_on(IPV4)
    assert waiting.queued
    made.iptables("-F")
    assert waiting.dropped


def test_hooks_decide_what_may_stand_where() -> None:
    """They are those from which packets can get to a rule: a user chain's follow from its callers."""
    made = world("-t nat -N mine", "-t nat -A mine -j SNAT --to-source 1.2.3.4", "-t nat -A POSTROUTING -j mine")
    with pytest.raises(IptablesError, match="Invalid argument"):
        made.iptables("-t nat -A PREROUTING -j mine")
    made.iptables("-t nat -I PREROUTING -j ACCEPT")
    made.iptables("-t nat -A PREROUTING -j mine")  # nothing gets there any more


def test_connbytes_switches_counting_on_for_good() -> None:
    made = world("-A INPUT -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode bytes")
    made.iptables("-F")
    assert made.conntrack.sysctls.current["acct"] == 1


def test_labels_have_room_while_a_rule_works_with_them() -> None:
    made = world("-A INPUT -p udp -m connlabel --label 5 --set", "-A INPUT -p udp -m connlabel ! --label 5")
    made.stack.receive(QUESTION)
    (entry,) = made.conntrack.walk()
    assert entry.labels == 1 << 5
    assert made.hits("INPUT") == [1, 0]
    made.iptables("-F")
    assert made.conntrack.label_users == 0


def test_limit_fills_with_time_and_anew_with_every_change_of_its_table() -> None:
    made = world("-A INPUT -p icmp -m limit --limit 1/min --limit-burst 2")
    for _ in range(3):
        made.stack.receive(ip4(PING))
    assert made.hits("INPUT") == [2]
    made.clock.advance(59)
    made.stack.receive(ip4(PING))
    assert made.hits("INPUT") == [2]
    made.clock.advance(1)
    made.stack.receive(ip4(PING))
    assert made.hits("INPUT") == [3]
    made.iptables("-A INPUT -p tcp")
    for _ in range(3):
        made.stack.receive(ip4(PING))
    assert made.hits("INPUT") == [5, 0]


def test_what_rules_have_counted_is_in_a_snapshot() -> None:
    made = world("-A INPUT -p icmp -m limit --limit 1/min --limit-burst 2", "-A INPUT -m statistic --mode nth --every 3 --packet 0")
    made.stack.receive(ip4(PING))
    kept = copy.deepcopy(made)
    for here in (made, kept):
        for _ in range(3):
            here.stack.receive(ip4(PING))
        assert here.hits("INPUT") == [2, 2]


def test_flows_are_limited() -> None:
    """As Linux counts them where a tick passes between packets: flows that are there, and those that only this rule has met."""
    made = world(
        "-A INPUT -m conntrack --ctstate NEW",
        "-A INPUT -p udp -m connlimit --connlimit-above 2",
        "-A INPUT -p udp -m connlimit --connlimit-upto 2 --connlimit-mask 8 --connlimit-daddr",
    )
    for port in (1, 2, 3, 3, 1):
        made.stack.receive(ip4(UDP(sport=port, dport=9)))
    assert made.hits("INPUT")[1:] == [3, 2]
    made.stack.receive(ip4(UDP(sport=4, dport=9), src="10.0.0.8"))
    assert made.hits("INPUT")[1:] == [3, 2]
    made.conntrack.flush()
    made.stack.receive(ip4(UDP(sport=5, dport=9)))  # looks through the list to its end, and finds that all are gone
    assert made.hits("INPUT")[1:] == [3, 3]


def test_marks_of_flows() -> None:
    made = world(
        "-t mangle -A PREROUTING -p udp -m connmark --mark 0 -j CONNMARK --set-mark 0x12",
        "-t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf0",
        "-t mangle -A PREROUTING -j MARK --or-mark 0x100",
        "-t mangle -A PREROUTING -j CONNMARK --save-mark --nfmask 0xf00 --ctmask 0xf0",
    )
    journey = made.stack.receive(QUESTION)
    assert journey.mark == 0x110
    (entry,) = made.conntrack.walk()
    assert entry.mark == 0x102


def test_only_a_mark_that_changes_is_an_event() -> None:
    made = world("-t mangle -A OUTPUT -j CONNMARK --set-mark 1")
    made.conntrack.events.listener = told = Told()
    made.conntrack.sysctls.current["events"] = 1
    for expected in (Event.NEW | Event.MARK, None):
        made.stack.send(ANSWER)
        assert told.bits() == ([] if expected is None else [expected])
    made.iptables("-t mangle -R OUTPUT 1 -j CONNMARK --set-mark 2")
    made.stack.send(ANSWER)
    assert told.bits() == [Event.MARK]


def test_what_is_not_tracked() -> None:
    made = world("-t raw -A PREROUTING -p udp -j NOTRACK", "-A INPUT -m conntrack --ctstate UNTRACKED -j DROP")
    assert made.stack.receive(QUESTION).reason == "-A INPUT -m conntrack --ctstate UNTRACKED -j DROP"
    assert len(made.conntrack) == 0
    assert made.stack.receive(ip4(PING)).delivered


def test_what_ct_says_of_a_flow() -> None:
    made = world(
        "-t raw -A PREROUTING -p tcp -j CT --helper ftp --zone-orig 7 --ctevents new,mark --expevents new",
        "-t raw -A PREROUTING -j CT --zone mark",  # comes too late for TCP
        "-t raw -A OUTPUT -j DROP",  # no answer ends the flow
    )
    made.conntrack.sysctls.current["events"] = 1
    made.stack.receive(ip4(TCP(sport=1000, dport=21, flags="S")))
    made.stack.receive(QUESTION)
    tcp, udp = made.conntrack.walk()
    assert (tcp.zone.id, tcp.zone.directions, tcp.event_mask, tcp.expect_mask) == (7, 1, Event.NEW | Event.MARK, 1)
    assert tcp.help is not None
    assert tcp.help.helper is not None
    assert tcp.help.helper.name == "ftp"
    assert tcp.status & Status.HELPER
    assert (udp.zone.id, udp.help) == (0, None)


def test_notes_leave_a_step_and_nothing_else() -> None:
    made = world('-A INPUT -j LOG --log-prefix "seen: "', "-A INPUT -j NFLOG --nflog-group 3 --nflog-size 64")
    journey = made.stack.receive(ip4(PING))
    assert journey.delivered
    assert steps(journey)[1:3] == [
        'filter INPUT: -A INPUT -j LOG --log-prefix "seen: " -> LOG seen:',
        "filter INPUT: -A INPUT -j NFLOG --nflog-group 3 --nflog-size 64 -> NFLOG 3",
    ]


def test_security_comes_behind_filter_and_raw_before_all() -> None:
    made = world(*(f"-t {table} -A INPUT" for table in ("security", "filter", "mangle")), "-t raw -A PREROUTING")
    tables = [step.table for step in made.stack.receive(ip4(PING)).steps if step.what.startswith("-A")]
    assert tables == ["raw", "mangle", "filter", "security"]


def test_a_nat_table_is_asked_once_for_a_flow() -> None:
    made = world("-t nat -A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1:54", "-t nat -A INPUT", "-t nat -A POSTROUTING")
    for _ in range(2):
        made.stack.receive(ip4(DNS, dst="10.0.0.1"))
    assert made.hits("PREROUTING", table="nat") == [1]
    assert made.hits("INPUT", table="nat") == [1]
    (entry,) = made.conntrack.walk()
    assert (entry.reply.src_part, entry.status & Status.DST_NAT) == (54, Status.DST_NAT)


def test_headers_are_changed_with_their_checksum() -> None:
    made = world(
        "-t mangle -A OUTPUT -j TTL --ttl-set 7",
        "-t mangle -A OUTPUT -m ttl --ttl-eq 7 -j TOS --set-tos 0x10/0x3f",
        "-t mangle -A OUTPUT -j DSCP --set-dscp 10",
        "ip6tables -t mangle -A OUTPUT -j HL --hl-dec 100",
        "ip6tables -t mangle -A OUTPUT -m hl --hl-lt 1 -j TOS --or-tos 0xf",
    )
    data = made.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9", ttl=64)).data
    assert data == ip4(PING, src="10.0.0.1", dst="10.0.0.9", ttl=7, tos=0x28)
    six = made.stack.send(ip6(DNS, src="fd00::1", dst="fd00::9")).data
    assert six == ip6(DNS, src="fd00::1", dst="fd00::9", hlim=0, tc=0x0F)
