"""Translation at the hooks: there and back, what errors quote, masquerading, redirecting."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6

from nfnl.sim.ct_entry import Status
from nfnl.sim.hooks import ACCEPT, DROP, INPUT, OUTPUT, POSTROUTING, PREROUTING, REPEAT
from nfnl.sim.journey import Fate
from nfnl.sim.nat import Range
from nfnl.sim.skb import IPV4, IPV6, checksum
from tests.unit.sim.dataplane import ip4, ip6
from tests.unit.sim.tracked import FILTER, MANGLE, Tracked

CLIENT, SERVER, HERE, OTHER = "10.0.0.9", "10.1.0.5", "10.0.0.1", "10.2.0.7"


def udp(src: str, sport: int, dst: str, dport: int, data: bytes = b"hello") -> bytes:
    return ip4(UDP(sport=sport, dport=dport) / data, src=src, dst=dst)


def passed_on(packet: bytes) -> bytes:
    """One hop later."""
    header = bytearray(packet)
    header[8] -= 1
    header[10:12] = bytes(2)
    header[10:12] = checksum(bytes(header[:20])).to_bytes(2, "big")
    return bytes(header)


def translating(**bindings: Any) -> Tracked:
    kernel = Tracked(nat=True)
    for name, (address, ports) in bindings.items():
        kernel.bind({"snat": POSTROUTING, "dnat": PREROUTING, "out": OUTPUT, "inside": INPUT}[name], address, ports)
    return kernel


# -------------------------------------------------------------------------------------------------------------- there and back


def test_the_source_there_and_the_destination_back() -> None:
    kernel = translating(snat=(HERE, None))
    assert kernel.through(udp(CLIENT, 5000, SERVER, 53)) == passed_on(udp(HERE, 5000, SERVER, 53))
    assert kernel.through(udp(SERVER, 53, HERE, 5000)) == passed_on(udp(SERVER, 53, CLIENT, 5000))
    assert kernel.states == ["NEW", "ESTABLISHED"]
    assert kernel.flow.status & (Status.SRC_NAT | Status.DST_NAT) == Status.SRC_NAT
    kernel.at_rest()
    kernel.empty()


def test_the_destination_there_and_the_source_back() -> None:
    kernel = translating(dnat=(SERVER, (5353, 5353)))
    assert kernel.through(udp(CLIENT, 5000, HERE, 53)) == passed_on(udp(CLIENT, 5000, SERVER, 5353))
    assert kernel.through(udp(SERVER, 5353, CLIENT, 5000)) == passed_on(udp(HERE, 53, CLIENT, 5000))
    kernel.at_rest()


def test_both_at_once() -> None:
    kernel = translating(dnat=(SERVER, None), snat=(HERE, (60000, 60000)))
    assert kernel.through(udp(CLIENT, 5000, OTHER, 53)) == passed_on(udp(HERE, 60000, SERVER, 53))
    assert kernel.through(udp(SERVER, 53, HERE, 60000)) == passed_on(udp(OTHER, 53, CLIENT, 5000))


def test_what_goes_out_from_here_finds_another_way() -> None:
    kernel = translating(out=("10.1.0.5", (5353, 5353)))
    kernel.stack.add_device("eth1")
    kernel.stack.add_address("eth1", "10.1.0.1/24")
    journey = kernel.send(udp(HERE, 5000, OTHER, 53))
    assert journey.fate is Fate.SENT
    assert kernel.stack.seen[-1] == ("eth1", udp(HERE, 5000, "10.1.0.5", 5353)), "with the source it had"
    kernel.stack.add_route("10.1.0.5/32", None)
    refused = kernel.send(udp(HERE, 5001, OTHER, 53))
    assert refused.dropped
    assert refused.errno
    kernel.at_rest()


def test_what_comes_in_may_seem_to_come_from_elsewhere() -> None:
    kernel = translating(inside=("10.9.9.9", None))
    journey = kernel.receive(ip4(b"abc", proto=2))
    assert journey.delivered
    assert journey.data[12:16] == bytes((10, 9, 9, 9))
    assert kernel.flow.reply.dst == bytes((10, 9, 9, 9))
    kernel.at_rest()


def test_what_goes_around_is_translated_once_at_each_end() -> None:
    kernel = translating(out=("127.0.0.1", (99, 99)))
    kernel.send(udp(HERE, 5000, HERE, 53))
    assert kernel.flow.reply.src == bytes((127, 0, 0, 1))
    assert kernel.flow.reply.src_part == 99
    assert kernel.states == ["NEW", "NEW", "RELATED", "RELATED"], "and nobody is there"
    kernel.at_rest()


@pytest.mark.parametrize("v6", [False, True])
def test_of_random_flows_answers_come_back_as_if_nothing_had_been(v6: bool) -> None:
    choose = random.Random(4)
    kernel = Tracked(nat=True)
    family, here = (IPV6, "fd00::1") if v6 else (IPV4, HERE)
    kernel.bind(POSTROUTING, here, (1000, 1003), family=family)
    address = "fd01::{}" if v6 else "10.1.0.{}"
    flows: dict[bytes, tuple[str, int]] = {}
    for _ in range(300):
        src, sport = address.format(choose.randrange(10, 20)), choose.randrange(2000, 2004)
        dst, dport = address.format(choose.randrange(20, 90)), 53
        packet: Any = IPv6(src=src, dst=dst) if v6 else IP(src=src, dst=dst)
        out = kernel.through(bytes(packet / UDP(sport=sport, dport=dport) / b"x"))
        if out is None:
            continue  # all four ports towards that destination are taken
        at = 40 if v6 else 20
        source = out[8:24] if v6 else out[12:16]
        assert source == ip_address(here).packed
        port = int.from_bytes(out[at : at + 2], "big")
        assert 1000 <= port <= 1003
        key = out[at : at + 2] + dst.encode()
        assert flows.setdefault(key, (src, sport)) == (src, sport), "two flows would have the same answers"
        answer: Any = IPv6(src=dst, dst=here) if v6 else IP(src=dst, dst=here)
        back = kernel.through(bytes(answer / UDP(sport=dport, dport=port) / b"y"))
        expected: Any = IPv6(src=dst, dst=src, hlim=63) if v6 else IP(src=dst, dst=src, ttl=63)
        assert back == bytes(expected / UDP(sport=dport, dport=sport) / b"y")
    assert len(flows) > 100
    kernel.at_rest()
    kernel.empty()


def test_fragments_are_translated_whole() -> None:
    kernel = translating(snat=(HERE, (60000, 60000)))
    whole = udp(CLIENT, 5000, SERVER, 53, b"x" * 100)
    kernel.stack.sysctls["net.ipv4.ip_forward"] = 1
    journeys = [kernel.receive(bytes(piece)) for piece in fragment(IP(whole), fragsize=48)]
    assert journeys[-1].data == passed_on(udp(HERE, 60000, SERVER, 53, b"x" * 100))
    kernel.at_rest()


# ---------------------------------------------------------------------------------------------------------------------- errors


def test_an_error_from_a_third_party_looks_as_if_it_came_from_the_other_side() -> None:
    kernel = translating(snat=(HERE, (60000, 60000)))
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    error = ip4(ICMP(type=11) / udp(HERE, 60000, SERVER, 53)[:28], src="10.3.3.3", dst=HERE)
    got = kernel.through(error)
    assert kernel.states[-1] == "RELATED"
    quoted = bytearray(udp(CLIENT, 5000, SERVER, 53)[:28])
    assert got is not None
    assert got[12:20] == bytes((10, 3, 3, 3)) + bytes((10, 0, 0, 9)), "its own source stays"
    assert got[28 + 12 :] == bytes(quoted[12:])
    assert not checksum(got[20:])
    assert not checksum(got[28:48])
    kernel.at_rest()


def test_one_about_the_answers_hides_who_is_behind() -> None:
    kernel = translating(dnat=(SERVER, (5353, 5353)))
    kernel.through(udp(CLIENT, 5000, HERE, 53))
    error = ip4(ICMP(type=3, code=3) / udp(CLIENT, 5000, SERVER, 5353)[:28], src=SERVER, dst=CLIENT)
    got = kernel.through(error)
    assert got is not None
    assert got[12:20] == bytes((10, 0, 0, 1)) + bytes((10, 0, 0, 9)), "as if this machine had said it"
    assert got[28 + 12 :] == udp(CLIENT, 5000, HERE, 53)[12:28]
    assert not checksum(got[20:])


def test_of_ipv6() -> None:
    kernel = Tracked(nat=True)
    kernel.bind(POSTROUTING, "fd00::1", (60000, 60000), family=IPV6)
    kernel.through(ip6(UDP(sport=5000, dport=53) / b"hello", dst="fd01::5"))
    quoted = ip6(UDP(sport=60000, dport=53) / b"hello", src="fd00::1", dst="fd01::5")
    got = kernel.through(ip6(ICMPv6DestUnreach(code=4) / quoted, src="fd01::5", dst="fd00::1"))
    assert got == ip6(
        ICMPv6DestUnreach(code=4) / ip6(UDP(sport=5000, dport=53) / b"hello", dst="fd01::5"), src="fd01::5", dst="fd00::9", hlim=63
    )
    kernel.at_rest()


@pytest.mark.parametrize(("size", "passes"), [(20 + 4, False), (20 + 7, False), (20 + 8, True)])
def test_one_that_quotes_too_little_is_dropped(size: int, passes: bool) -> None:
    kernel = translating(snat=(HERE, (60000, 60000)))
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    error = ip4(ICMP(type=3) / udp(HERE, 60000, SERVER, 53)[:size], src=SERVER, dst=HERE)
    assert (kernel.through(error) is not None) == passes
    assert kernel.states[-1] == "RELATED"
    kernel.at_rest()


@pytest.mark.parametrize("translated", [False, True])
def test_redirects_about_translated_flows_are_dropped(translated: bool) -> None:
    kernel = translating(snat=(HERE if translated else CLIENT, None))
    source = HERE if translated else CLIENT
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    error = ip4(ICMP(type=5) / udp(source, 5000, SERVER, 53)[:28], src="10.0.0.8", dst=source)
    journey = kernel.receive(error)
    assert any("redirect about" in step.what for step in journey.steps) == translated
    kernel.at_rest()


# ------------------------------------------------------------------------------------------------------ masquerade and the like


def masquerading() -> Tracked:
    kernel = Tracked(nat=True)
    kernel.ask(POSTROUTING, lambda skb, hook: kernel.nat_hooks.masquerade(skb, hook, Range()))
    kernel.stack.add_device("eth1")
    return kernel


def test_masquerade_takes_the_address_of_the_device() -> None:
    kernel = masquerading()
    kernel.stack.add_address("eth1", "10.1.0.1/24")
    assert kernel.through(udp(CLIENT, 5000, SERVER, 53)) == passed_on(udp("10.1.0.1", 5000, SERVER, 53))
    kernel.at_rest()
    kernel.empty()


def test_a_masqueraded_flow_ends_where_it_leaves_by_another_device() -> None:
    kernel = masquerading()
    kernel.stack.add_address("eth1", "10.1.0.1/24")
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    [flow] = kernel.flows
    kernel.stack.add_route("10.1.0.5/32", "eth0")
    assert kernel.through(udp(CLIENT, 5000, SERVER, 53)) is None
    assert kernel.flows == []
    assert flow.counters == [3, 99, 0, 0], "the packet that ends it is counted once more, as Linux does"
    kernel.at_rest()
    kernel.empty()


def test_masquerade_without_an_address_drops() -> None:
    kernel = Tracked(nat=True)
    kernel.ask(POSTROUTING, lambda skb, hook: kernel.nat_hooks.masquerade(skb, hook, Range()), family=IPV6)
    kernel.stack.sysctls["net.ipv6.conf.all.forwarding"] = 1
    for name in ("eth1", "eth2"):
        kernel.stack.add_device(name)
    kernel.stack.add_route("fd01::/64", "eth2")
    kernel.stack.set_up("eth0", False)  # and with it the only address
    journey = kernel.stack.receive(ip6(UDP(sport=5000, dport=53), src="2001:db8::9", dst="fd01::5"), "eth1")
    assert journey.reason == "eth2 has no address"
    assert kernel.table.count == 0


def test_a_masqueraded_flow_ends_with_its_device() -> None:
    kernel = masquerading()
    kernel.stack.add_address("eth1", "10.1.0.1/24")
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    kernel.through(udp(CLIENT, 5000, "10.0.0.8", 53))
    kernel.nat_hooks.device_down(kernel.stack.device("eth1").index)
    assert [flow.original.dst for flow in kernel.flows] == [bytes((10, 0, 0, 8))]
    kernel.at_rest()
    kernel.empty()


def test_redirect_leads_here() -> None:
    kernel = Tracked(nat=True)
    for hook in (PREROUTING, OUTPUT):
        kernel.ask(hook, lambda skb, at: kernel.nat_hooks.redirect(skb, at, Range(parts=(99, 99))))
    kernel.receive(udp(CLIENT, 5000, SERVER, 53))
    kernel.send(udp(HERE, 5000, SERVER, 53))
    assert [(flow.reply.src, flow.reply.src_part) for flow in kernel.flows] == [(b"\x0a\0\0\1", 99), (b"\x7f\0\0\1", 99)]
    kernel.at_rest()


def test_a_network_is_mapped_to_another() -> None:
    kernel = Tracked(nat=True)
    kernel.ask(PREROUTING, lambda skb, hook: kernel.nat_hooks.map_net(skb, hook, b"\x0a\x09\0\0", b"\xff\xff\0\0"))
    assert kernel.through(udp(CLIENT, 5000, SERVER, 53)) == passed_on(udp(CLIENT, 5000, "10.9.0.5", 53))


# ---------------------------------------------------------------------------------------------------------------------- queues


@pytest.mark.parametrize("priority", [MANGLE, FILTER])
@pytest.mark.parametrize("hook", [PREROUTING, POSTROUTING])
def test_bindings_outlast_a_verdict_to_repeat(hook: int, priority: int) -> None:
    kernel = translating(dnat=(SERVER, (5353, 5353)), snat=(HERE, (60000, 60000)))
    kernel.queue(hook, priority)
    kernel.through(udp(CLIENT, 5000, OTHER, 53))
    kernel.answer(REPEAT)
    assert kernel.answer(ACCEPT).data == passed_on(udp(HERE, 60000, SERVER, 5353))
    kernel.through(udp(CLIENT, 5000, OTHER, 53))
    assert kernel.answer(DROP).dropped
    kernel.at_rest()
    kernel.empty()


def test_two_that_want_the_same_port_at_the_same_time() -> None:
    """Neither sees the other while both wait; the later one finds its answers taken."""
    kernel = translating(snat=(HERE, (60000, 60000)))
    kernel.queue(POSTROUTING, 200)
    kernel.through(udp("10.1.0.8", 5000, SERVER, 53))
    kernel.through(udp("10.1.0.9", 5000, SERVER, 53))
    assert [kernel.answer(ACCEPT).fate for _ in range(2)] == [Fate.SENT, Fate.DROPPED]
    assert kernel.table.statistics.insert_failed == 1
    kernel.at_rest()
    kernel.empty()


def test_a_payload_put_in_by_a_verdict_does_not_change_whose_packet_it_is() -> None:
    kernel = translating(snat=(HERE, (60000, 60000)))
    queue = kernel.queue(PREROUTING, MANGLE)
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    [entry] = queue.entries.values()
    kernel.queues.replace_payload(entry, udp(CLIENT, 5001, SERVER, 53))
    data = kernel.answer(ACCEPT).data
    assert struct.unpack("!HH", data[20:24]) == (60000, 53)
    kernel.at_rest()


# ------------------------------------------------------------------------------------------------------------------- on and off


def test_without_chains_there_is_no_translation() -> None:
    kernel = Tracked(nat=True)
    for hook in (PREROUTING, INPUT, OUTPUT, POSTROUTING):
        kernel.nat_hooks.remove(IPV4, hook, "idle")
    assert all(entry.name != "nat" for hook in range(5) for entry in kernel.hooks.entries(IPV4, hook))
    assert any(entry.name == "nat" for entry in kernel.hooks.entries(IPV6, PREROUTING))
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    assert not kernel.flow.status & (Status.SRC_NAT_DONE | Status.DST_NAT_DONE)


def test_chains_are_asked_in_order_until_one_binds() -> None:
    kernel = Tracked(nat=True)
    asked = []

    def chain(name: str, address: str | None) -> Any:
        def ask(skb: Any, hook: int) -> int:
            asked.append(name)
            packed = ip_address(address).packed if address else b""
            return kernel.nat_hooks.bind(skb, hook, Range((packed, packed))) if address else ACCEPT

        return ask

    kernel.nat_hooks.add(IPV4, PREROUTING, 5, "late", chain("late", "10.4.4.4"))
    kernel.nat_hooks.add(IPV4, PREROUTING, -9, "early", chain("early", None))
    kernel.nat_hooks.add(IPV4, PREROUTING, 5, "later, and so before it", chain("binds", "10.5.5.5"))
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    assert asked == ["early", "binds"]
    kernel.through(udp(CLIENT, 5000, SERVER, 53))
    assert asked == ["early", "binds"], "only about the first packet"


@pytest.mark.parametrize("payload", [TCP(sport=5, dport=6, flags="S"), UDP(sport=5, dport=6), ICMP(id=5), b"abc"])
def test_nothing_is_lost_with_checksums_for_the_device_to_finish(payload: Any) -> None:
    kernel = translating(snat=("10.0.0.77", None), out=("10.0.0.88", None))
    packet = ip4(payload, src=HERE, dst=CLIENT)
    partial = packet[9] in (6, 17)
    journey = kernel.stack.send(packet, partial_checksum=partial)
    expected = bytes(IP(src="10.0.0.77", dst="10.0.0.88", id=1, proto=packet[9]) / payload)
    assert journey.data == expected
