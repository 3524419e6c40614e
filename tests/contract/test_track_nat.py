"""Translation by rules: what leaves, what the flow says, how answers and errors come back, and which ports are chosen."""

from __future__ import annotations

import socket
import struct

import pytest

from nfnl.sim.iptables import IptablesError
from nfnl.sim.journey import Fate
from tests.contract.ctkit import CONFIRMED, DST_NAT, DST_NAT_DONE, ESP, SEEN_REPLY, SRC_NAT, SRC_NAT_DONE, TCP, UDP, Ends
from tests.contract.rules import needs, rule
from tests.contract.trackkit import A2, A6, B2, B6, HERE, A, B, Wire, addresses, icmp, ip, kinds, left, ports, tcp, udp
from tests.contract.wirekit import sum16

#: the address that is seen instead of A, and that which stands for B
MAPPED, PUBLIC = "192.0.2.50", "192.0.2.1"
BOUND = CONFIRMED | SRC_NAT_DONE | DST_NAT_DONE
THERE = udp(A, B)


def whole(packet: bytes | None) -> tuple[str, str, int, int]:
    """Addresses and ports of a packet whose checksums are right."""
    assert packet is not None, "nothing left"
    assert sum16(packet[:20]) == 0xFFFF
    segment = packet[20:]
    assert sum16(packet[12:20] + struct.pack(">HH", packet[9], len(segment)) + segment) == 0xFFFF
    return (*addresses(packet), *ports(packet))


# ------------------------------------------------------------------------------------------------------------------- no binding


@rule("TN-1")
def test_without_nat_chains_nothing_is_bound(wire: Wire) -> None:
    wire.passes(THERE)
    assert wire.flow.status == CONFIRMED


@rule("TN-1")
def test_a_flow_that_no_rule_is_about_is_bound_to_nothing(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -p udp --dport 9999 -j SNAT --to-source {MAPPED}")
    assert wire.passes(THERE) is not None
    assert (wire.flow.status, wire.flow.ends, wire.flow.back) == (
        BOUND,
        Ends(A, B, UDP, (5000, 53)),
        Ends(B, A, UDP, (53, 5000)),
    )


@rule("TN-1")
def test_rules_that_come_later_are_not_asked(wire: Wire) -> None:
    wire.nat("POSTROUTING -p udp --dport 9999 -j ACCEPT")
    wire.passes(THERE)
    wire.nat(f"POSTROUTING -p udp -j SNAT --to-source {MAPPED}")
    assert addresses(wire.passes(THERE)) == (A, B)


@rule("TN-1")
def test_other_targets_in_nat_chains(wire: Wire) -> None:
    """Each flow meets them once."""
    wire.nat("PREROUTING -p udp -j MARK --set-mark 5")
    assert [wire.kernel.receive(THERE).mark for _ in range(3)] == [5, 0, 0]


# ------------------------------------------------------------------------------------------------------------------------- SNAT


@rule("TN-2")
@pytest.mark.parametrize("there", [THERE, tcp(A, B, 5000, 53, "S", 1, options=b"\4\2")], ids=["UDP", "TCP"])
def test_snat(wire: Wire, there: bytes) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    assert whole(wire.passes(there)) == (MAPPED, B, 5000, 53)
    assert wire.flow.status == BOUND | SRC_NAT
    assert (wire.flow.ends[:2], wire.flow.back[:2]) == ((A, B), (B, MAPPED))
    back = udp(B, MAPPED, 53, 5000) if there[9] == UDP else tcp(B, MAPPED, 53, 5000, "SA", 1, 2)
    assert whole(wire.passes(back)) == (B, A, 53, 5000)
    assert wire.flow.status == BOUND | SRC_NAT | SEEN_REPLY


@rule("TN-2")
def test_a_binding_outlives_its_rule(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    wire.passes(THERE)
    wire.kernel.iptables("-t nat -F")
    assert addresses(wire.passes(THERE)) == (MAPPED, B)


@rule("TN-2")
def test_snat_to_the_same_is_none(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {A}")
    assert addresses(wire.passes(THERE)) == (A, B)
    assert wire.flow.status == BOUND


@rule("TN-2")
def test_the_first_rule_that_binds_is_the_only_one(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}", f"POSTROUTING -s {A} -j SNAT --to-source {PUBLIC}")
    assert addresses(wire.passes(THERE)) == (MAPPED, B)


@rule("TN-2")
def test_a_udp_packet_without_checksum_stays_without(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    bare = ip(A, B, UDP, struct.pack(">HHHH", 5000, 53, 9, 0) + b"x")
    packet = wire.passes(bare)
    assert packet is not None
    assert (addresses(packet), packet[26:28]) == ((MAPPED, B), bytes(2))


@rule("TN-2")
def test_snat_over_ipv6(wire: Wire) -> None:
    wire.ipv6()
    wire.kernel.touched = True
    wire.kernel.ip6tables(f"-t nat -A POSTROUTING -s {A6} -j SNAT --to-source 2001:db8:c::1")
    packet = wire.passes(udp(A6, B6))
    assert packet is not None
    assert socket.inet_ntop(socket.AF_INET6, packet[8:24]) == "2001:db8:c::1"
    assert sum16(packet[8:40] + struct.pack(">II", len(packet) - 40, UDP) + packet[40:]) == 0xFFFF
    assert wire.flow.back.destination == "2001:db8:c::1"


# -------------------------------------------------------------------------------------------------------------- choice of ports


def second(wire: Wire, port: int) -> int:
    """Two hosts are to have the same address and port to the same peer; the port that the second gets."""
    assert ports(wire.passes(udp(A, B, port)))[0] == port
    source, _, chosen, _ = whole(wire.passes(udp(A2, B, port)))
    assert source == MAPPED
    return chosen


@rule("TN-3")
@pytest.mark.parametrize(("port", "first", "last"), [(2000, 1024, 65535), (600, 600, 1023), (100, 1, 511)])
def test_a_port_that_is_taken_becomes_another_of_its_kind(wire: Wire, port: int, first: int, last: int) -> None:
    wire.nat(f"POSTROUTING -j SNAT --to-source {MAPPED}")
    chosen = second(wire, port)
    assert first <= chosen <= last
    assert chosen != port


@rule("TN-3")
def test_who_has_a_port_keeps_it_towards_others(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -j SNAT --to-source {MAPPED}")
    chosen = second(wire, 2000)
    assert ports(wire.passes(udp(A2, B2, 2000)))[0] == chosen


@rule("TN-3")
def test_ports_are_shared_towards_different_peers(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -j SNAT --to-source {MAPPED}")
    packets = udp(A, B, 2000), udp(A2, B2, 2000), udp(A2, B, 2001, 54)
    assert [ports(wire.passes(packet))[0] for packet in packets] == [2000, 2000, 2001]


@rule("TN-3")
def test_every_port_of_a_range_is_used_once(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -p udp -j SNAT --to-source {MAPPED}:7000-7003")
    assert sorted(ports(wire.passes(udp(A, B, port)))[0] for port in range(1000, 1004)) == [7000, 7001, 7002, 7003]
    watcher = wire.listen()
    assert wire.kernel.receive(udp(A, B, 1004)).fate is Fate.DROPPED
    assert (len(wire.flows), kinds(watcher)) == (4, [])


@rule("TN-3")
def test_a_port_in_the_range_stays(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -p udp -j SNAT --to-source {MAPPED}:1000-2000")
    assert ports(wire.passes(udp(A, B, 1500)))[0] == 1500


@rule("TN-3")
def test_a_single_port_is_for_one_flow_to_each_peer(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -p udp -j SNAT --to-source {MAPPED}:7000")
    packets = udp(A, B, 1), udp(A, B, 2), udp(A, B2, 2)
    assert [left(wire.kernel.receive(packet)) is not None for packet in packets] == [True, False, True]


@rule("TN-3")
def test_a_range_of_addresses(wire: Wire) -> None:
    wire.nat("POSTROUTING -p udp -j SNAT --to-source 192.0.2.50-192.0.2.53")
    seen = {addresses(wire.passes(udp(f"198.51.100.{n}", B)))[0] for n in range(1, 40)}
    assert seen <= {f"192.0.2.{n}" for n in range(50, 54)}
    assert len(seen) > 1


@rule("TN-3")
def test_an_address_has_always_the_same_of_a_range(wire: Wire) -> None:
    wire.nat("POSTROUTING -p udp -j SNAT --to-source 192.0.2.50-192.0.2.53 --persistent")
    assert len({addresses(wire.passes(udp(A, f"203.0.113.{n}")))[0] for n in range(1, 20)}) == 1


@rule("TN-3")
@pytest.mark.parametrize("option", ["--random", "--random-fully"])
def test_random_ports(wire: Wire, option: str) -> None:
    wire.nat(f"POSTROUTING -p udp -j SNAT --to-source {MAPPED} {option}")
    chosen = [ports(wire.passes(udp(A, B, port)))[0] for port in range(2000, 2006)]
    assert chosen != list(range(2000, 2006))
    assert all(port >= 1024 for port in chosen)


@rule("TN-3")
def test_ids_of_pings_are_chosen_like_ports(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -j SNAT --to-source {MAPPED}")
    wire.passes(icmp(8, id=5))
    packet = wire.passes(icmp(8, id=5, source=A2))
    assert packet is not None
    assert sum16(packet[20:]) == 0xFFFF
    (chosen,) = struct.unpack_from(">H", packet, 24)
    assert chosen != 5
    back = wire.passes(icmp(0, id=chosen, source=B, destination=MAPPED))
    assert back is not None
    assert (addresses(back), back[24:26], sum16(back[20:])) == ((B, A2), b"\0\5", 0xFFFF)


@rule("TN-3")
def test_where_there_is_nothing_to_choose_the_second_is_dropped(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -j SNAT --to-source {MAPPED}")
    packets = ip(A, B, ESP, bytes(8)), ip(A2, B, ESP, bytes(8))
    assert [left(wire.kernel.receive(packet)) is not None for packet in packets] == [True, False]


@rule("TN-3")
def test_a_flow_without_translation_may_have_to_change_its_port(wire: Wire) -> None:
    """Its answers would be taken for those of another."""
    wire.nat(f"POSTROUTING -s {A} -p udp -j SNAT --to-source {MAPPED}")
    wire.passes(udp(A, B, 2000))
    chosen = ports(wire.passes(udp(MAPPED, B, 2000)))[0]
    assert chosen != 2000


# ------------------------------------------------------------------------------------------------------------------------- DNAT


@rule("TN-4")
def test_dnat(wire: Wire) -> None:
    wire.nat(f"PREROUTING -d {PUBLIC} -p udp --dport 80 -j DNAT --to-destination {B}:8080")
    assert whole(wire.passes(udp(A, PUBLIC, 5000, 80))) == (A, B, 5000, 8080)
    assert wire.flow.status == BOUND | DST_NAT
    assert (wire.flow.ends, wire.flow.back) == (Ends(A, PUBLIC, UDP, (5000, 80)), Ends(B, A, UDP, (8080, 5000)))
    assert whole(wire.passes(udp(B, A, 8080, 5000))) == (PUBLIC, A, 80, 5000)


@rule("TN-4")
def test_dnat_comes_before_the_decision_where_to(wire: Wire) -> None:
    wire.nat(f"PREROUTING -d {HERE} -p udp -j DNAT --to-destination {B}")
    assert addresses(wire.passes(udp(A, HERE))) == (A, B)
    assert addresses(wire.passes(udp(B, A, 53, 5000))) == (HERE, A)


@rule("TN-4")
def test_dnat_does_not_change_the_port_unless_told(wire: Wire) -> None:
    wire.nat(f"PREROUTING -d {PUBLIC} -j DNAT --to-destination {B}")
    wire.passes(udp(A, B))
    assert wire.kernel.receive(udp(A, PUBLIC)).fate is Fate.SENT
    assert [flow.back.numbers[0] for flow in wire.flows] == [53, 53]


@needs("dnat-ports-in-order")
@rule("TN-4")
def test_a_range_of_ports_begins_at_its_beginning(wire: Wire) -> None:
    wire.nat(f"PREROUTING -d {PUBLIC} -p udp -j DNAT --to-destination {B}:8000-8001")
    assert [ports(wire.passes(udp(A, PUBLIC, 5000, port)))[1] for port in (80, 81)] == [8000, 8001]


@rule("TN-4")
def test_both_ends_translated(wire: Wire) -> None:
    wire.nat(f"PREROUTING -d {PUBLIC} -j DNAT --to-destination {B}", f"POSTROUTING -d {B} -j SNAT --to-source {MAPPED}")
    assert whole(wire.passes(tcp(A, PUBLIC, 5000, 80, "S", 1))) == (MAPPED, B, 5000, 80)
    assert wire.flow.status == BOUND | SRC_NAT | DST_NAT
    assert wire.flow.back == Ends(B, MAPPED, TCP, (80, 5000))
    assert whole(wire.passes(tcp(B, MAPPED, 80, 5000, "SA", 1, 2))) == (PUBLIC, A, 80, 5000)


@rule("TN-4")
def test_what_this_machine_sends_can_go_elsewhere(wire: Wire) -> None:
    wire.nat(f"OUTPUT -d {PUBLIC} -p udp -j DNAT --to-destination {B}:70")
    journey = wire.kernel.send(udp(HERE, PUBLIC))
    assert whole(left(journey)) == (HERE, B, 5000, 70)
    back = wire.kernel.receive(udp(B, HERE, 70, 5000))
    assert whole(back.data) == (PUBLIC, HERE, 53, 5000)


@rule("TN-2")
def test_what_comes_in_can_seem_to_come_from_elsewhere(wire: Wire) -> None:
    wire.nat(f"INPUT -p udp -j SNAT --to-source {MAPPED}")
    journey = wire.kernel.receive(udp(A, HERE))
    assert whole(journey.data) == (MAPPED, HERE, 5000, 53)
    assert wire.flow.back == Ends(HERE, MAPPED, UDP, (53, 5000))


# --------------------------------------------------------------------------------------------- MASQUERADE, REDIRECT, NETMAP


@rule("TN-5")
def test_masquerade(wire: Wire) -> None:
    wire.nat("POSTROUTING -o eth0 -j MASQUERADE")
    assert whole(wire.passes(THERE)) == (HERE, B, 5000, 53)
    assert wire.flow.status == BOUND | SRC_NAT
    assert whole(wire.passes(udp(B, HERE, 53, 5000))) == (B, A, 53, 5000)


@rule("TN-5")
def test_masquerade_with_ports(wire: Wire) -> None:
    wire.nat("POSTROUTING -p udp -j MASQUERADE --to-ports 7000-7001")
    assert ports(wire.passes(THERE))[0] in (7000, 7001)


@rule("TN-7")
def test_a_flow_with_masquerade_ends_with_its_device(wire: Wire) -> None:
    wire.nat("POSTROUTING -o eth0 -j MASQUERADE")
    watcher = wire.listen()
    wire.passes(THERE)
    watcher.told()
    wire.kernel.set_up("eth0", False)
    assert wire.kernel.wait(watcher.socket, 60)
    assert (kinds(watcher), wire.flows) == (["DESTROY"], [])


@rule("TN-7")
def test_a_flow_with_masquerade_ends_when_it_leaves_elsewhere(wire: Wire) -> None:
    wire.nat("POSTROUTING -j MASQUERADE")
    wire.passes(THERE)
    wire.kernel.add_device("eth1")
    wire.kernel.add_route(f"{B}/32", "eth1")
    assert wire.kernel.receive(THERE).fate is Fate.DROPPED
    assert wire.flows == []


@rule("TN-4")
def test_dnat_of_what_this_machine_sends_decides_anew_where_to(wire: Wire) -> None:
    """Its source stays what it was."""
    wire.kernel.add_device("eth1")
    wire.kernel.add_route(f"{B}/32", "eth1")
    wire.kernel.iptables("-t mangle -A POSTROUTING -o eth1 -j MARK --set-mark 5")
    wire.nat(f"OUTPUT -d {PUBLIC} -j DNAT --to-destination {B}")
    assert [wire.kernel.send(udp(HERE, to)).mark for to in (PUBLIC, B2)] == [5, 0]
    assert wire.flows[0].ends.source == HERE


@rule("TN-5")
def test_redirect(wire: Wire) -> None:
    wire.nat("PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 5353")
    journey = wire.kernel.receive(THERE)
    assert whole(journey.data) == (A, HERE, 5000, 5353)
    assert (wire.flow.ends, wire.flow.back) == (Ends(A, B, UDP, (5000, 53)), Ends(HERE, A, UDP, (5353, 5000)))
    assert whole(left(wire.kernel.send(udp(HERE, A, 5353, 5000)))) == (B, A, 53, 5000)


@rule("TN-5")
def test_redirect_of_what_this_machine_sends(wire: Wire) -> None:
    wire.nat("OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 5353")
    wire.kernel.send(udp(HERE, B))
    assert wire.flow.back == Ends("127.0.0.1", HERE, UDP, (5353, 5000))


@rule("TN-5")
def test_netmap(wire: Wire) -> None:
    wire.nat(
        "PREROUTING -d 192.0.2.0/24 -j NETMAP --to 203.0.113.0/24", "POSTROUTING -s 198.51.100.0/24 -j NETMAP --to 192.0.2.0/24"
    )
    assert whole(wire.passes(udp(A, "192.0.2.77"))) == ("192.0.2.1", "203.0.113.77", 5000, 53)
    assert whole(wire.passes(udp("203.0.113.77", "192.0.2.1", 53, 5000))) == ("192.0.2.77", A, 53, 5000)


@rule("TN-5")
@pytest.mark.parametrize(
    "line",
    [
        f"-A FORWARD -j SNAT --to-source {MAPPED}",
        f"-t nat -A PREROUTING -j SNAT --to-source {MAPPED}",
        f"-t nat -A POSTROUTING -j DNAT --to-destination {B}",
        "-t nat -A PREROUTING -j MASQUERADE",
        "-t nat -A POSTROUTING -j REDIRECT",
        "-t nat -A PREROUTING -j DROP",
    ],
    ids=[
        "SNAT in filter",
        "SNAT in PREROUTING",
        "DNAT in POSTROUTING",
        "MASQUERADE in PREROUTING",
        "REDIRECT in POSTROUTING",
        "DROP",
    ],
)
def test_targets_have_their_places(wire: Wire, line: str) -> None:
    wire.kernel.touched = True
    with pytest.raises(IptablesError):
        wire.kernel.iptables(line)


# ---------------------------------------------------------------------------------------------------------------------- errors


def error(about: bytes | None, source: str, kind: int = 3) -> bytes:
    """An ICMP error about a packet that left, to whom it seemed to come from."""
    assert about is not None
    return icmp(kind, 0, 0, about[:28], source=source, destination=addresses(about)[0], seq=0)


def quoted(packet: bytes | None) -> tuple[str, str, int, int]:
    """Addresses and ports of the packet that an error quotes; its checksums are right."""
    assert packet is not None, "nothing left"
    assert (sum16(packet[20:]), sum16(packet[28:48])) == (0xFFFF, 0xFFFF)
    inner = packet[28:]
    return (*addresses(inner), *ports(inner))


@rule("TN-6")
def test_an_error_about_a_flow_with_snat(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    packet = wire.passes(error(wire.passes(THERE), B2, 11))
    assert (addresses(packet), quoted(packet)) == ((B2, A), (A, B, 5000, 53))


@rule("TN-6")
@pytest.mark.parametrize("source", [B, B2], ids=["from its destination", "from a router"])
def test_an_error_about_a_flow_with_dnat(wire: Wire, source: str) -> None:
    """It comes from the address that was asked, whoever sent it."""
    wire.nat(f"PREROUTING -d {PUBLIC} -p udp -j DNAT --to-destination {B}:8080")
    packet = wire.passes(error(wire.passes(udp(A, PUBLIC)), source))
    assert (addresses(packet), quoted(packet)) == ((PUBLIC, A), (A, PUBLIC, 5000, 53))


@rule("TN-6")
def test_an_error_about_an_answer_of_a_flow_with_snat(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    wire.passes(THERE)
    packet = wire.passes(error(wire.passes(udp(B, MAPPED, 53, 5000)), A))
    assert (addresses(packet), quoted(packet)) == ((MAPPED, B), (B, MAPPED, 53, 5000))


@rule("TN-6")
def test_redirects_about_translated_flows_are_dropped(wire: Wire) -> None:
    wire.nat(f"POSTROUTING -s {A} -j SNAT --to-source {MAPPED}")
    assert wire.passes(error(wire.passes(THERE), B2, 5)) is None
