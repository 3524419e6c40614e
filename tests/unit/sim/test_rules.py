"""What rules match and do. Each expectation was seen on Linux 6.18 with the same rule and packet."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)

from nfnl.sim.iptables import IptablesError
from nfnl.sim.rules import TableError
from tests.unit.sim.dataplane import ICMP, PING, PING6, TCP, UDP, World, ip4, ip6

SYN, ACK = TCP(sport=1000, dport=80, flags="S"), TCP(sport=1000, dport=80, flags="A")
DNS = UDP(sport=1000, dport=53)


@pytest.mark.parametrize(
    ("spec", "packet", "matches"),
    [
        ("", PING, True),
        ("-p icmp", PING, True),
        ("-p icmp", SYN, False),
        ("! -p icmp", SYN, True),
        ("! -p icmp", PING, False),
        ("-p 6", SYN, True),
        ("-p all", SYN, True),
        ("-s 10.0.0.9", PING, True),
        ("-s 10.0.0.8", PING, False),
        ("! -s 10.0.0.8", PING, True),
        ("-s 10.0.0.0/24", PING, True),
        ("-s 10.0.1.0/24", PING, False),
        ("-s 10.0.0.0/31", PING, False),
        ("-s 10.9.9.9/255.0.0.0", PING, True),
        ("-s 0.0.0.9/0.0.0.255", PING, True),  # a mask with a hole in front
        ("-s 0.0.0.0/0", PING, True),
        ("! -s 0.0.0.0/0", PING, False),
        ("-d 10.0.0.1", PING, True),
        ("! -d 10.0.0.0/8", PING, False),
        ("-i eth0", PING, True),
        ("-i eth1", PING, False),
        ("-i eth", PING, False),
        ("-i eth+", PING, True),
        ("-i +", PING, True),
        ("! -i +", PING, False),
        ("! -i lo", PING, True),
        ("-p tcp --dport 80", SYN, True),
        ("-p tcp --dport 81", SYN, False),
        ("-p tcp ! --dport 81", SYN, True),
        ("-p tcp --dport 79:81", SYN, True),
        ("-p tcp --dport :80", SYN, True),
        ("-p tcp --dport 81:", SYN, False),
        ("-p tcp --sport 1000 --dport 80", SYN, True),
        ("-p tcp --sport 1001 --dport 80", SYN, False),
        ("-p tcp -m tcp --sport 1000 -m tcp ! --dport 80", SYN, False),
        ("-p udp --dport 80", SYN, False),
        ("-p udp --dport domain", DNS, True),
        ("-p tcp --syn", SYN, True),
        ("-p tcp --syn", ACK, False),
        ("-p tcp ! --syn", ACK, True),
        ("-p tcp --tcp-flags ALL ACK", ACK, True),
        ("-p tcp --tcp-flags SYN,ACK NONE", TCP(flags="F"), True),
        ("-p icmp --icmp-type 8", PING, True),
        ("-p icmp --icmp-type echo-request", PING, True),
        ("-p icmp --icmp-type 0", PING, False),
        ("-p icmp ! --icmp-type 0", PING, True),
        ("-p icmp --icmp-type any", PING, True),
        ("-p icmp ! --icmp-type any", PING, False),
        ("-p icmp --icmp-type 3", ICMP(type=3, code=4), True),
        ("-p icmp --icmp-type 3/4", ICMP(type=3, code=4), True),
        ("-p icmp --icmp-type port-unreachable", ICMP(type=3, code=4), False),
        ("-m mark --mark 0", PING, True),
        ("-m mark --mark 1", PING, False),
        ("-m mark --mark 1/0", PING, False),  # no packet's mark & 0 is 1
        ("-m mark ! --mark 1", PING, True),
        ("-f", PING, False),
        ("! -f", PING, True),
    ],
)
def test_matches(spec: str, packet: object, matches: bool) -> None:
    world = World()
    world.iptables(f"-t mangle -A PREROUTING {spec}")
    world.stack.receive(ip4(packet))
    assert world.hits("PREROUTING", table="mangle") == [int(matches)]


@pytest.mark.parametrize(
    ("spec", "packet", "matches"),
    [
        ("-p icmpv6", PING6, True),
        ("-p ipv6-icmp --icmpv6-type 128", PING6, True),
        ("-p ipv6-icmp --icmpv6-type echo-reply", PING6, False),
        ("-p ipv6-icmp --icmpv6-type 1/4", ICMPv6DestUnreach(code=4), True),
        ("-p ipv6-icmp --icmpv6-type 1/3", ICMPv6DestUnreach(code=4), False),
        ("-p icmp", PING6, False),
        ("-s fd00::9", PING6, True),
        ("-s fd00::/64", PING6, True),
        ("! -s fd00::/64", PING6, False),
        ("-s ::9/::ff", PING6, True),
        ("-p tcp --dport 80", IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / SYN, True),
        ("-p ipv6-opts", IPv6ExtHdrDestOpt() / SYN, False),  # the protocol is the one behind the extension headers
        ("-p tcp", IPv6ExtHdrFragment(offset=2, nh=6) / (b"x" * 8), True),
        ("-p tcp --dport 80", IPv6ExtHdrFragment(offset=2, nh=6) / (b"x" * 8), False),
    ],
)
def test_matches_ipv6(spec: str, packet: object, matches: bool) -> None:
    world = World()
    world.ip6tables(f"-t mangle -A PREROUTING {spec}")
    world.stack.receive(ip6(packet))
    assert world.hits("PREROUTING", table="mangle", v6=True) == [int(matches)]


def test_interfaces_of_every_hook() -> None:
    world = World()
    for chain, spec in (
        ("PREROUTING", "-i lo"),
        ("INPUT", "-i lo"),
        ("OUTPUT", "-o lo"),
        ("POSTROUTING", "-o lo"),
        ("FORWARD", "-i eth0 -o eth1"),
    ):
        world.iptables(f"-t mangle -A {chain} {spec}")
    world.stack.send(ip4(UDP(), src="127.0.0.1", dst="127.0.0.1"))  # and the port unreachable that answers it
    world.stack.add_device("eth1")
    world.stack.forward(ip4(PING, dst="192.0.2.1"), "eth0", "eth1")
    for chain, hits in (("PREROUTING", 2), ("INPUT", 2), ("OUTPUT", 2), ("POSTROUTING", 2), ("FORWARD", 1)):
        assert world.hits(chain, table="mangle") == [hits], chain


def test_a_user_chain_sees_no_interface_where_the_hook_has_none() -> None:
    world = World()
    world.iptables("-N user")
    world.iptables("-A OUTPUT -j user")
    for spec in ("-i lo", "! -i lo", "-i +", "-i e+", "! -i e+"):
        world.iptables(f"-A user {spec}")
    world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9"))
    assert world.hits("user") == [0, 1, 1, 0, 1]


def test_a_later_fragment_has_no_ports_and_matches_neither_way() -> None:
    world = World()
    for spec in ("-p udp --dport 53", "-p udp ! --dport 53", "-p udp -m udp", "-p udp", "-f", "! -f"):
        world.iptables(f"-t mangle -A PREROUTING {spec}")
    world.stack.receive(ip4(b"x" * 8, proto=17, frag=3))
    assert world.hits("PREROUTING", table="mangle") == [0, 0, 0, 1, 1, 0]
    world.stack.receive(ip4(DNS, flags="MF"))
    assert world.hits("PREROUTING", table="mangle") == [1, 0, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("spec", "packet"),
    [
        ("-p tcp --dport 80", ip4(b"x" * 19, proto=6)),
        ("-p tcp --dport 80", ip4(b"x" * 20, proto=6, frag=1)),  # would overwrite the flags of the first fragment
        ("-p udp --dport 80", ip4(b"x" * 7, proto=17)),
        ("-p icmp --icmp-type 8", ip4(b"\x08" * 7, proto=1)),
    ],
)
def test_a_packet_too_broken_to_look_at_is_dropped_by_the_match(spec: str, packet: bytes) -> None:
    world = World()
    world.iptables(f"-t mangle -A PREROUTING {spec}")
    world.iptables("-t mangle -A PREROUTING")
    journey = world.stack.receive(packet)
    assert journey.dropped
    assert "malformed" in journey.reason
    assert world.hits("PREROUTING", table="mangle") == [0, 0]


def test_ipv6_asks_for_the_protocol_only_where_a_rule_does() -> None:
    world = World()
    broken = ip6(b"\x11", nh=60)
    world.ip6tables("-t mangle -A PREROUTING -s fd00::9")
    assert world.stack.receive(broken).hooks == ["PREROUTING", "INPUT"]
    world.ip6tables("-t mangle -A PREROUTING ! -p udp")
    assert world.stack.receive(broken).hooks == ["PREROUTING"]
    assert world.hits("PREROUTING", table="mangle", v6=True) == [2, 0]


# ------------------------------------------------------------------------------------------------------------- the way through


def test_jump_comes_back_and_goto_does_not() -> None:
    world = World()
    for line in (
        "-N one",
        "-N two",
        "-A INPUT -j one",
        "-A INPUT -m mark --mark 0",  # after coming back from chain one, not from its goto
        "-A one -g two",
        "-A one -j DROP",
        "-A two -j RETURN",
        "-A two -j DROP",
    ):
        world.iptables(line)
    journey = world.stack.receive(ip4(PING))
    assert journey.delivered
    assert world.hits("INPUT") == [1, 1]
    assert world.hits("one") == [1, 0]
    assert world.hits("two") == [1, 0]


def test_goto_from_a_builtin_chain_ends_at_the_policy() -> None:
    world = World()
    for line in ("-N user", "-A user -p tcp", "-A INPUT -g user", "-A INPUT -j ACCEPT", "-P INPUT DROP"):
        world.iptables(line)
    journey = world.stack.receive(ip4(PING))
    assert journey.dropped
    assert journey.reason == "policy DROP"
    assert world.hits("INPUT") == [1, 0]


def test_return_in_a_builtin_chain_is_the_policy_and_is_counted_there() -> None:
    world = World()
    world.iptables("-P INPUT DROP")
    world.iptables("-A INPUT -j RETURN")
    world.iptables("-A INPUT -j ACCEPT")
    data = ip4(PING)
    assert world.stack.receive(data).dropped
    chain = world.iptables.ruleset.table("filter").chain("INPUT")
    assert (chain.packets, chain.bytes) == (1, len(data))
    assert world.hits("INPUT") == [1, 0]


def test_accept_ends_only_the_table() -> None:
    world = World()
    world.iptables("-t mangle -A INPUT -j ACCEPT")
    world.iptables("-t mangle -A INPUT")
    world.iptables("-A INPUT -j DROP")
    assert world.stack.receive(ip4(PING)).reason == "-A INPUT -j DROP"
    assert world.hits("INPUT", table="mangle") == [1, 0]


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        ("--set-mark 5", 0xF0, 5),
        ("--set-mark 0x10/0xf0", 0xFF, 0x1F),
        ("--set-xmark 0xff/0xf", 0xF1, 0x0F),
        ("--or-mark 0x100", 1, 0x101),
        ("--and-mark 0xf0", 0xFF, 0xF0),
        ("--xor-mark 0xf", 0xFF, 0xF0),
    ],
)
def test_mark(option: str, before: int, after: int) -> None:
    world = World()
    world.iptables(f"-t mangle -A OUTPUT -j MARK {option}")
    world.iptables(f"-t mangle -A OUTPUT -m mark --mark {after}")
    assert world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9"), mark=before).mark == after
    assert world.hits("OUTPUT", table="mangle") == [1, 1]


def test_a_mark_set_in_mangle_output_finds_a_new_route() -> None:
    world = World()
    world.stack.add_device("eth1")
    world.stack.add_route("0.0.0.0/0", "eth1", mark=5)
    world.iptables("-t mangle -A OUTPUT -j MARK --set-mark 5")
    world.iptables("-A OUTPUT -o eth0")  # the hook's output device stays what it was
    world.iptables("-t mangle -A POSTROUTING -o eth1")
    journey = world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9"))
    assert world.stack.seen == [("eth1", journey.data)]
    assert world.hits("OUTPUT") == [1]
    assert world.hits("POSTROUTING", table="mangle") == [1]


def test_a_mark_without_a_route_drops_in_mangle_output() -> None:
    world = World()
    world.stack.add_route("0.0.0.0/0", None, mark=5)
    world.iptables("-t mangle -A OUTPUT -j MARK --set-mark 5")
    journey = world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.9"))
    assert journey.dropped
    assert journey.errno == errno.EHOSTUNREACH
    assert world.stack.send(ip4(PING, src="127.0.0.1", dst="127.0.0.1")).delivered


def test_127_does_not_leave_the_machine_on_a_new_route() -> None:
    world = World()
    world.iptables("-t mangle -A OUTPUT -j MARK --set-mark 5")
    assert world.stack.send(ip4(PING, src="127.0.0.1", dst="10.0.0.9")).errno == errno.EINVAL
    world.iptables("-t mangle -F")
    assert world.stack.send(ip4(PING, src="127.0.0.1", dst="10.0.0.9")).errno == 0


def test_the_journey_tells_what_was_met() -> None:
    world = World()
    world.iptables("-t mangle -A PREROUTING -j MARK --set-mark 1")
    world.iptables("-N user")
    world.iptables("-A INPUT -p icmp -j user")
    world.iptables("-A user -j DROP")
    journey = world.stack.receive(ip4(PING))
    assert [str(step) for step in journey.steps] == [
        "mangle PREROUTING: -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff -> MARK 0x1",
        "mangle PREROUTING: policy ACCEPT -> ACCEPT",
        "mangle INPUT: policy ACCEPT -> ACCEPT",
        "filter INPUT: -A INPUT -p icmp -j user -> user",
        "filter INPUT user: -A user -j DROP -> DROP",
    ]
    assert journey.hooks == ["PREROUTING", "INPUT"]
    assert journey.reason == "-A user -j DROP"


def test_a_renamed_chain_has_its_new_name_in_the_journey() -> None:
    world = World()
    for line in ("-N old", "-A INPUT -j old"):
        world.iptables(line)
    assert world.stack.receive(ip4(PING)).steps[1].result == "old"
    world.iptables("-E old new")
    step = world.stack.receive(ip4(PING)).steps[1]
    assert (step.what, step.result) == ("-A INPUT -j new", "new")


# ------------------------------------------------------------------------------------------------------------- changing tables


def test_a_transaction_holds_as_a_whole_or_not_at_all() -> None:
    world = World()
    table = world.iptables.ruleset.table("filter")
    world.iptables("-N a")
    before = world.iptables.save()

    def change() -> None:
        with table.transaction():
            table.new_chain("b")
            table.chain("INPUT").set_policy("DROP")
            table.chain("INPUT").packets = 7
            table.delete_chain(table.chain("a"))
            table.chain("INPUT").delete(0)

    with pytest.raises(TableError) as refused:
        change()
    assert refused.value.errno == errno.E2BIG
    assert world.iptables.save() == before


def test_a_loop_that_packets_can_get_into_is_refused() -> None:
    world = World()
    for line in ("-N a", "-N b", "-A a -j b", "-A b -j a"):  # nobody can get there yet
        world.iptables(line)
    before = world.iptables.save()
    with pytest.raises(IptablesError, match="Too many levels of symbolic links"):
        world.iptables("-A INPUT -j a")
    assert world.iptables.save() == before
    world.iptables("-I a -j ACCEPT")  # now nothing gets to the jump
    world.iptables("-A INPUT -j a")
