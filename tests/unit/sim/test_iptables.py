"""The iptables command. Outputs and complaints are those of iptables-legacy 1.8.9; `test_dataplane_against_linux` asks it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nfnl.errors import NfnlError, NotModelled
from nfnl.sim.iptables import IptablesError, IptablesNotModelled
from tests.unit.sim.dataplane import PING, World, ip4

EMPTY = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"


def rules(world: World, *, v6: bool = False) -> list[str]:
    listed = (world.ip6tables if v6 else world.iptables)("-S")
    return [line for line in listed.splitlines() if line.startswith("-A")]


@pytest.mark.parametrize(
    ("typed", "saved"),
    [
        ("", ""),
        ("-j ACCEPT", "-j ACCEPT"),
        ("-s 10.0.0.9", "-s 10.0.0.9/32"),
        ("-s 10/8 -d 10.1.2.3/255.255.0.0", "-s 10.0.0.0/8 -d 10.1.0.0/16"),
        ("-s 10.0.0.1/255.0.255.255", "-s 10.0.0.1/255.0.255.255"),
        ("! -s 10.0.0.1 --dst 0/0", "! -s 10.0.0.1/32"),
        ("! -d 0/0", "! -d 0.0.0.0/0"),
        ("-s 010.0x10.0.1", "-s 8.16.0.1/32"),
        ("-i eth0 ! -o lo+", "-i eth0 ! -o lo+"),
        ("-i + -o eth+", "-o eth+"),
        ("-p 6", "-p tcp"),
        ("-p TCP", "-p tcp"),
        ("! -p udp", "! -p udp"),
        ("-p 253", "-p 253"),
        ("-p gre", "-p gre"),
        ("-p all", ""),
        ("-f", "-f"),
        ("! -f", "! -f"),
        ("-p tcp --dport 80", "-p tcp -m tcp --dport 80"),
        ("-p tcp --destination-port http", "-p tcp -m tcp --dport 80"),
        ("-p udp --dport domain", "-p udp -m udp --dport 53"),
        ("-p tcp --sport 1024: --dport :90", "-p tcp -m tcp --sport 1024:65535 --dport 0:90"),
        ("-p tcp ! --dport 80", "-p tcp -m tcp ! --dport 80"),
        ("-p tcp ! --dport 0:65535", "-p tcp -m tcp"),
        ("-p tcp --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
        ("-p tcp --tcp-flags all none", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE"),
        ("-p icmp --icmp-type echo-request", "-p icmp -m icmp --icmp-type 8"),
        ("-p icmp --icmp-type 3/4", "-p icmp -m icmp --icmp-type 3/4"),
        ("-p icmp ! --icmp-type any", "-p icmp -m icmp ! --icmp-type any"),
        ("-m mark ! --mark 1/0xff", "-m mark ! --mark 0x1/0xff"),
        ("-p tcp -m mark --mark 4 --dport 80", "-p tcp -m mark --mark 0x4 -m tcp --dport 80"),
        ("-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
        ("-j MARK --set-mark 1/2", "-j MARK --set-xmark 0x1/0x3"),
        ("-j MARK --and-mark 0xff", "-j MARK --set-xmark 0x0/0xffffff00"),
        ("-j MARK --or-mark 0x100", "-j MARK --set-xmark 0x100/0x100"),
        ("-j MARK --xor-mark 0x100", "-j MARK --set-xmark 0x100/0x0"),
        ("-j NFQUEUE", "-j NFQUEUE --queue-num 0"),
        ("-j NFQUEUE --queue-n 3 --queue-bypass", "-j NFQUEUE --queue-num 3 --queue-bypass"),
        ("-j NFQUEUE --queue-ba 0x1:010", "-j NFQUEUE --queue-balance 1:8"),
        ("-j NFQUEUE --queue-balance 1:", "-j NFQUEUE --queue-balance 1:65535"),
        ("-j NFQUEUE --queue-balance :65534", "-j NFQUEUE --queue-balance 0:65534"),
        (
            "-j NFQUEUE --queue-cpu-fanout --queue-bypass --queue-balance 1:4",
            "-j NFQUEUE --queue-balance 1:4 --queue-bypass --queue-cpu-fanout",
        ),
        ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
        ("-p tcp -j REJECT --reject-with tcp-rst", "-p tcp -j REJECT --reject-with tcp-reset"),
        ("-j RETURN", "-j RETURN"),
        ("-j QUEUE", "-j QUEUE"),
        ("-w 3 -j DROP", "-j DROP"),
        ("-o lo -p udp -d 1.2.3.4 -s 5.6.7.8 -i lo -j DROP", "-s 5.6.7.8/32 -d 1.2.3.4/32 -i lo -o lo -p udp -j DROP"),
    ],
)
def test_what_was_typed_as_it_is_saved(typed: str, saved: str) -> None:
    world = World()
    world.iptables(f"-A FORWARD {typed}")
    assert rules(world) == [f"-A FORWARD {saved}".rstrip()]
    again = World()
    again.iptables(rules(world)[0])  # and as it is saved it is read
    assert rules(again) == rules(world)


@pytest.mark.parametrize(
    ("typed", "saved"),
    [
        ("-s ::1", "-s ::1/128"),
        ("-s fe80::1/ffff::ff -d FD00::1/64", "-s fe80::1/ffff::ff -d fd00::/64"),
        ("-s ::102:304", "-s ::1.2.3.4/128"),
        ("-s ::ffff:1.2.3.4", "-s ::ffff:1.2.3.4/128"),
        ("-s 1:0:0:2:0:0:0:3", "-s 1:0:0:2::3/128"),
        ("-s 1::2:0:0:3:0:4", "-s 1:0:2::3:0:4/128"),
        ("-p icmpv6 --icmpv6-type ping", "-p ipv6-icmp -m icmp6 --icmpv6-type 128"),
        ("-p 58 --icmpv6-type 1/4", "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4"),
        ("-p tcp --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    ],
)
def test_ipv6(typed: str, saved: str) -> None:
    world = World()
    world.ip6tables(f"-A FORWARD {typed}")
    assert rules(world, v6=True) == [f"-A FORWARD {saved}"]
    assert rules(world) == []


USAGE = "\nTry `iptables -h' or 'iptables --help' for more information."


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("", 2, "iptables v1.8.9 (legacy): no command specified" + USAGE),
        ("-A INPUT -D INPUT", 2, "iptables v1.8.9 (legacy): Cannot use -D with -A" + USAGE),
        ("-A NOPE -j ACCEPT", 1, "iptables: No chain/target/match by that name."),
        ("-A INPUT -j NOPE", 2, "iptables v1.8.9 (legacy): Couldn't load target `NOPE':No such file or directory\n" + USAGE),
        ("-A INPUT -g NOPE", 2, "iptables v1.8.9 (legacy): goto 'NOPE' is not a chain" + USAGE),
        ("-A INPUT -m foo", 2, "iptables v1.8.9 (legacy): Couldn't load match `foo':No such file or directory\n" + USAGE),
        ("-A INPUT -j ACCEPT extra", 2, "Bad argument `extra'" + USAGE),
        ("-A INPUT --dport 80", 2, 'iptables v1.8.9 (legacy): unknown option "--dport"' + USAGE),
        ("-A INPUT -p icmp --dport 80", 2, 'iptables v1.8.9 (legacy): unknown option "--dport"' + USAGE),
        ("-A INPUT -p tcp --dport 90:80", 2, "iptables v1.8.9 (legacy): invalid portrange (min > max)" + USAGE),
        ("-A INPUT -p tcp -m udp", 1, "iptables: Invalid argument. Run `dmesg' for more information."),
        ("-A INPUT ! -p tcp --dport 80", 1, "iptables: Invalid argument. Run `dmesg' for more information."),
        ("-A OUTPUT -i lo", 2, "iptables v1.8.9 (legacy): Can't use -i with OUTPUT\n" + USAGE),
        ("-t mangle -A PREROUTING -o lo", 2, "iptables v1.8.9 (legacy): Can't use -o with PREROUTING\n" + USAGE),
        (
            "-A INPUT -j NFQUEUE --queue-num 65536",
            2,
            'iptables v1.8.9 (legacy): NFQUEUE: bad value for option "--queue-num", or out of range (0-65535).\n' + USAGE,
        ),
        ("-A INPUT -j NFQUEUE --queue-balance 0:65535", 1, "iptables: Invalid argument. Run `dmesg' for more information."),
        ("-A INPUT -j NFQUEUE --queue-balance 5", 2, 'iptables v1.8.9 (legacy): Bad range "5"' + USAGE),
        ("-A INPUT -j NFQUEUE --queue-balance 5:5", 2, "iptables v1.8.9 (legacy): 5 should be less than 5" + USAGE),
        (
            "-A INPUT -j NFQUEUE --queue-balance 65535:65536",
            2,
            'iptables v1.8.9 (legacy): NFQUEUE: bad value for option "--queue-balance" near "65536", or out of range (0-65535).\n'
            + USAGE,
        ),
        (
            "-A INPUT -j NFQUEUE --queue-num 1 --queue-cpu-fanout",
            2,
            'iptables v1.8.9 (legacy): NFQUEUE: option "--queue-cpu-fanout" also requires "--queue-balance".\n' + USAGE,
        ),
        ("-A INPUT -s 10.0.0.1/33", 2, "iptables v1.8.9 (legacy): invalid mask `33' specified" + USAGE),
        ("-A INPUT -ptcp", 2, 'iptables v1.8.9 (legacy): unknown protocol "-ptcp" specified' + USAGE),
        ("-N INPUT", 1, "iptables: Chain already exists."),
        ("-N NFQUEUE", 2, "iptables v1.8.9 (legacy): chain name may not clash with target name" + USAGE),
        ("-X INPUT", 1, "iptables: Invalid argument. Run `dmesg' for more information."),
        ("-D INPUT 1", 1, "iptables: Index of deletion too big."),
        ("-D INPUT -j DROP", 1, "iptables: Bad rule (does a matching rule exist in that chain?)."),
        ("-I INPUT 5 -j DROP", 1, "iptables: Index of insertion too big."),
        ("-R INPUT 1 -j DROP", 1, "iptables: Index of replacement too big."),
        ("-P INPUT REJECT", 1, "iptables: Bad policy name. Run `dmesg' for more information."),
        ("-P NOPE DROP", 1, "iptables: Bad built-in chain name."),
        (
            "-t foo -S",
            3,
            (
                "iptables v1.8.9 (legacy): can't initialize iptables table `foo': Table does not exist (do you need to insmod?)\n"
                "Perhaps iptables or your kernel needs to be upgraded."
            ),
        ),
    ],
)
def test_complaints(line: str, code: int, text: str) -> None:
    world = World()
    with pytest.raises(IptablesError) as error:
        world.iptables(line)
    assert (error.value.exit_code, error.value.text) == (code, text)
    assert isinstance(error.value, NfnlError)
    assert world.iptables("-S") == EMPTY


def test_the_error_shows_its_first_sentence() -> None:
    with pytest.raises(IptablesError, match=r'^iptables v1\.8\.9 \(legacy\): unknown option "--bogus"$'):
        World().iptables("-A INPUT --bogus")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("-A INPUT -m recent --set", "match recent"),
        ("-A INPUT -p sctp --dport 1", "match sctp"),
        ("-A INPUT -j TRACE", "target TRACE"),
        ("-A INPUT -p icmp --icmp-type 3/4:6", "codes"),
        ("-A OUTPUT -m owner --gid-owner 0 --suppl-groups", "--suppl-groups"),
        ("-A INPUT -j NFLOG --nflog-range 5", "--nflog-range"),
        ("-A INPUT -m conntrack --ctorigsrc www.example.org", "www.example.org"),
        ("-A INPUT -s www.example.org", "www.example.org"),
        ("-v -A INPUT", "-v"),
        ("-L", "-L"),
        ("-h", "-h"),
    ],
)
def test_what_is_not_modelled_is_named(line: str, named: str) -> None:
    world = World()
    with pytest.raises(IptablesNotModelled, match=named) as refusal:
        world.iptables(line)
    assert isinstance(refusal.value, NotModelled)
    assert world.iptables("-S") == EMPTY


def test_the_name_of_the_program_may_stand_in_front() -> None:
    world = World()
    world.iptables("iptables -A INPUT -j DROP")
    world.ip6tables("ip6tables -A INPUT -j DROP")
    with pytest.raises(IptablesError, match="Bad argument `ip6tables'"):
        world.iptables("ip6tables -A INPUT")


RULES = Path(__file__).parents[3] / "fixtures/iptables/rules.tsv"
#: What rules of the corpus need that is not modelled.
MISSING = {
    "match sctp", "match pkttype", "match tcpmss", "match u32", "match string", "match bpf", "match recent", "match hashlimit",
    "match set", "match physdev", "match rpfilter", "target TCPMSS", "target CLASSIFY", "target CHECKSUM", "target SET",
    "target TRACE",
}  # fmt: skip


def test_a_corpus_of_rules() -> None:
    """Each is saved as iptables-save did, or refused by the name of what is missing."""
    missing, saved = set(), 0
    with RULES.open(encoding="utf-8") as lines:
        for row in csv.DictReader((line for line in lines if line[0] != "#"), delimiter="\t", quoting=csv.QUOTE_NONE):
            world = World()
            world.iptables("-N chain1")
            place = f"-t {row['table']} -A {row['chain']} "
            try:
                world.iptables(place + row["typed"])
            except IptablesNotModelled as refusal:
                missing.add(str(refusal).removeprefix("not modelled: "))
                continue
            rules_of_table = world.iptables.save(row["table"])
            assert rules_of_table.splitlines()[-2] == row["saved"], row["typed"]
            again = World()
            again.iptables.restore(rules_of_table)
            assert again.iptables.save(row["table"]) == rules_of_table
            saved += 1
    assert (missing, saved) == (MISSING, 118)


def test_insert_replace_delete_check() -> None:
    world = World()
    for line in ("-A INPUT -j DROP", "-I INPUT -j ACCEPT", "-I INPUT 2 -p tcp", "-R INPUT 1 -p udp"):
        world.iptables(line)
    assert rules(world) == ["-A INPUT -p udp", "-A INPUT -p tcp", "-A INPUT -j DROP"]
    world.iptables("-C INPUT -p 17")
    world.iptables("-D INPUT -p 17")
    world.iptables("-D INPUT 1")
    assert rules(world) == ["-A INPUT -j DROP"]
    with pytest.raises(IptablesError, match="Bad rule"):
        world.iptables("-C INPUT -p 17")
    world.iptables("-F")
    assert rules(world) == []


def test_a_list_of_addresses_is_a_rule_for_every_pair() -> None:
    world = World()
    world.iptables("-A INPUT -s 1.1.1.1,2.2.2.2 -d 3.3.3.3,4.4.4.4 -j DROP")
    assert [rule.split()[3:6:2] for rule in rules(world)] == [
        [src, dst] for src in ("1.1.1.1/32", "2.2.2.2/32") for dst in ("3.3.3.3/32", "4.4.4.4/32")
    ]
    with pytest.raises(IptablesError, match="Bad rule"):
        world.iptables("-D INPUT -s 1.1.1.1,9.9.9.9 -d 3.3.3.3 -j DROP")
    assert len(rules(world)) == 4  # all or nothing
    world.iptables("-D INPUT -s 1.1.1.1,2.2.2.2 -d 3.3.3.3,4.4.4.4 -j DROP")
    assert rules(world) == []


def test_chains_come_go_and_are_renamed() -> None:
    world = World()
    for line in ("-N b", "-N a", "-A INPUT -j b", "-A b -g a", "-E b c"):
        world.iptables(line)
    assert world.iptables("-S") == EMPTY + "-N a\n-N c\n-A INPUT -j c\n-A c -g a\n"
    for line, reason in (("-X c", "Too many links"), ("-X", "Too many links"), ("-E a c", "File exists")):
        with pytest.raises(IptablesError, match=reason):
            world.iptables(line)
    world.iptables("-D INPUT -j c")
    with pytest.raises(IptablesError, match="Directory not empty"):
        world.iptables("-X c")
    world.iptables("-F")
    world.iptables("-X")
    assert world.iptables("-S") == EMPTY


def test_counters_are_listed_set_and_zeroed() -> None:
    world = World()
    data = ip4(PING)
    world.iptables("-A INPUT -p icmp")
    world.iptables("-A INPUT -c 3 4 -j DROP")
    world.stack.receive(data)
    n = len(data)
    assert world.iptables("-vS INPUT") == (f"-P INPUT ACCEPT -c 0 0\n-A INPUT -p icmp -c 1 {n}\n-A INPUT -c 4 {4 + n} -j DROP\n")
    world.iptables("-Z INPUT 1")
    assert world.hits("INPUT") == [0, 4]
    world.iptables("-P INPUT DROP -c 5 6")
    assert world.iptables("-v -S INPUT").splitlines()[0] == "-P INPUT DROP -c 5 6"
    world.iptables("-Z")
    assert world.iptables("-v -S INPUT").splitlines()[0] == "-P INPUT DROP -c 0 0"


FILE = """\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [1:2]
:POSTROUTING ACCEPT [0:0]
[5:6] -A OUTPUT -p icmp -j NFQUEUE --queue-num 3
COMMIT
*filter
:INPUT DROP [3:4]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:user - [0:0]
[0:0] -A INPUT -m mark --mark 0x1 -j user
[7:8] -A user -j ACCEPT
COMMIT
"""


def test_a_file_is_loaded_and_saved() -> None:
    world = World()
    world.iptables("-A FORWARD -j DROP")
    world.iptables("-N gone")
    world.iptables.restore("# a comment\n\n" + FILE, counters=True)
    assert world.iptables.save(counters=True) == FILE
    assert world.iptables.save("filter").startswith("*filter\n:INPUT DROP [3:4]\n")
    world.iptables.restore(FILE)
    assert "[3:4]" not in world.iptables.save()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("*filter\n-A INPUT -p udp\n", 1, "iptables-restore: COMMIT expected at line 3"),
        ("*filter\n-A NOPE -j ACCEPT\nCOMMIT\n", 1, "iptables-restore: line 2 failed"),
        ("-A INPUT\n", 1, "iptables-restore: line 1 failed"),
        ("*filter\n:a - [0:0]\n-A INPUT -j a\n-A a -j a\nCOMMIT\n", 1, "iptables-restore: line 5 failed"),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT --bogus\nCOMMIT\n",
            2,
            (
                'iptables-restore v1.8.9 (legacy): unknown option "--bogus"\nError occurred at line: 3\n'
                "Try `iptables-restore -h' or 'iptables-restore --help' for more information."
            ),
        ),
        (
            "*filter\n:INPUT FOO [0:0]\nCOMMIT\n",
            1,
            "iptables-restore v1.8.9 (legacy): Can't set policy `FOO' on `INPUT' line 2: Bad policy name",
        ),
    ],
)
def test_a_file_with_a_mistake_changes_nothing_in_its_table(text: str, code: int, message: str) -> None:
    world = World()
    world.iptables("-A FORWARD -j DROP")
    before = world.iptables.save()
    with pytest.raises(IptablesError) as error:
        world.iptables.restore(text)
    assert (error.value.exit_code, error.value.text) == (code, message)
    assert world.iptables.save() == before


def test_the_tables_before_the_mistake_are_loaded() -> None:
    world = World()
    with pytest.raises(IptablesError):
        world.iptables.restore("*mangle\n-A INPUT -j DROP\nCOMMIT\n*filter\n-A NOPE\nCOMMIT\n")
    assert "-A INPUT -j DROP" in world.iptables.save("mangle")


def test_lines_for_the_other_family_are_passed_over() -> None:
    world = World()
    text = "*filter\n-4 -A INPUT -p icmp\n-6 -A INPUT -p icmpv6\n-A INPUT -j DROP\nCOMMIT\n"
    world.iptables.restore(text)
    world.ip6tables.restore(text)
    assert rules(world) == ["-A INPUT -p icmp", "-A INPUT -j DROP"]
    assert rules(world, v6=True) == ["-A INPUT -p ipv6-icmp", "-A INPUT -j DROP"]


def test_a_file_with_something_not_modelled_names_it_and_the_line() -> None:
    with pytest.raises(IptablesNotModelled, match=r"match recent \(line 2\)"):
        World().iptables.restore("*filter\n-A INPUT -m recent --set\nCOMMIT\n")


def test_a_table_exists_from_the_first_command_about_it() -> None:
    world = World()
    assert world.iptables.save() == ""
    world.iptables("-t mangle -S")
    world.iptables("-S")
    assert [line for line in world.iptables.save().splitlines() if line[0] == "*"] == ["*filter", "*mangle"]
