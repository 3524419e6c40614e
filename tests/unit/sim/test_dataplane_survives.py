"""Whatever bytes come, the machine goes on: a packet ends somewhere, or the machine says that it has not learnt this."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

from nfnl.errors import NotModelled
from nfnl.sim.hooks import ACCEPT, REPEAT, STOP
from nfnl.sim.journey import Fate
from tests.unit.sim.dataplane import ICMP, PING, PING6, TCP, UDP, World, ip4, ip6

OWN = [ip4(PING, src="10.0.0.1", dst="127.0.0.1"), ip6(PING6, src="::1", dst="::1")]
SEEDS = [
    *OWN,
    ip4(PING),
    ip4(UDP(dport=9) / b"abc"),
    ip4(TCP(dport=9)),
    ip4(ICMP(type=3) / (b"x" * 28), dst="10.0.0.7"),
    ip4(b"x" * 24, frag=3),
    ip6(PING6),
    ip6(UDP(dport=9) / b"abc"),
    ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / TCP(dport=9)),
    ip6(IPv6ExtHdrFragment(offset=1, m=1) / (b"x" * 16)),
]


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A good packet with some bytes changed, cut off or added; or no packet at all."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=100))
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def everything_matched() -> World:
    world = World()
    for program, icmp in ((world.iptables, "icmp"), (world.ip6tables, "icmpv6")):
        for chain in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"):
            for spec in ("-p tcp --syn", "-p udp --dport 9", f"-p {icmp}"):
                program(f"-t mangle -A {chain} {spec}")
    world.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
    return world


@given(packets(), st.booleans())
def test_a_packet_ends_somewhere(data: bytes, sent: bool) -> None:
    world = everything_matched()
    with suppress(NotModelled):
        journey = world.stack.send(data) if sent else world.stack.receive(data)
        assert journey.fate in (Fate.DELIVERED, Fate.SENT, Fate.DROPPED, Fate.HELD, Fate.JOINED)
        assert journey.reason or not journey.dropped


@given(st.sampled_from(SEEDS), st.integers(0, 4), packets(), st.sampled_from((ACCEPT, STOP, REPEAT)), st.booleans())
def test_so_does_one_whose_bytes_a_verdict_has_changed(seed: bytes, hook: int, payload: bytes, verdict: int, sent: bool) -> None:
    world = everything_matched()
    queue = world.listen()
    chain = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")[hook]
    for program in (world.iptables, world.ip6tables):
        program(f"-t mangle -I {chain} -m mark --mark 0 -j NFQUEUE --queue-num 1")
    with suppress(NotModelled):
        journey = world.stack.send(seed) if sent else world.stack.receive(seed)
        for _ in range(8):
            for entry in queue.take_until(queue.last_id):
                entry.mark = 1
                if world.queues.replace_payload(entry, payload):
                    world.queues.reinject(entry, verdict)
                else:
                    entry.skb.drop("payload refused")
        assert journey.fate is not Fate.MOVING
        assert not journey.queued


def test_the_seeds_are_good() -> None:
    hooks = [(World().stack.send(data) if data in OWN else World().stack.receive(data)).hooks for data in SEEDS]
    assert all(hooks)
