"""A stateful firewall, tested: no root, no second machine, no waiting; and the same tests on Linux.

pytest examples/home_router
pytest examples/home_router --nfnl-kernel=linux
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from web_filter import ALLOWED, filter_web

import nfnl

RULES = Path(__file__).with_name("home_router.rules").read_text()

PC, LAPTOP, SERVER = "10.0.0.9", "10.0.0.8", "10.0.0.20"  # inside
ROUTER = "203.0.113.5"  # as seen from outside
RESOLVER, STRANGER = "198.51.100.53", "198.51.100.66"  # outside

QUESTION = IP(src=PC, dst=RESOLVER) / UDP(sport=5000, dport=53) / b"where is it?"
ANSWER = IP(src=RESOLVER, dst=ROUTER) / UDP(sport=53, dport=5000) / b"there"


class Router:
    """A kernel with the rules, and what comes in on its two sides."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        kernel.add_device("eth1")
        kernel.add_address("eth1", f"{ROUTER}/24")
        kernel.del_route("0.0.0.0/0")
        kernel.add_route("0.0.0.0/0", "eth1")
        kernel.sysctl("net.ipv4.ip_forward", 1)
        kernel.iptables_restore(RULES)

    def from_inside(self, packet: Any) -> Any:
        return self.kernel.receive(packet, "eth0")

    def from_outside(self, packet: Any) -> Any:
        return self.kernel.receive(packet, "eth1")

    @property
    def flows(self) -> list[nfnl.Flow]:
        return self.kernel.flows()  # type: ignore[no-any-return]


@pytest.fixture
def router(kernel: Any) -> Router:
    return Router(kernel)


# ------------------------------------------------------------------------------------------------------- who may talk to whom


def test_only_what_was_asked_for_comes_back(router: Router) -> None:
    assert router.from_outside(ANSWER).dropped, "nobody has asked"
    assert router.from_inside(QUESTION).delivered
    assert router.from_outside(ANSWER).delivered
    assert router.from_outside(IP(src=STRANGER, dst=ROUTER) / UDP(sport=53, dport=5000)).dropped, "somebody else was asked"
    assert router.from_outside(IP(src=RESOLVER, dst=ROUTER) / UDP(sport=53, dport=5001)).dropped, "another one has asked"


def test_a_port_scan_finds_nothing_and_leaves_nothing(router: Router) -> None:
    for port in (21, 22, 23, 25, 80, 443, 3389):
        probe = router.from_outside(IP(src=STRANGER, dst=ROUTER) / TCP(sport=4000, dport=port, flags="S"))
        assert probe.reason == "policy DROP"
        assert not probe.answers, "not even a refusal tells that somebody is here"
    assert router.flows == []


@pytest.mark.parametrize("flags", ["", "F", "FPU", "A", "SA", "RA"])
def test_segments_out_of_nowhere_are_dropped(router: Router, flags: str) -> None:
    assert router.from_outside(IP(src=STRANGER, dst=SERVER) / TCP(sport=4000, dport=80, flags=flags)).dropped
    assert router.from_outside(IP(src=STRANGER, dst=ROUTER) / TCP(sport=4000, dport=8080, flags=flags)).dropped
    assert router.from_inside(IP(src=PC, dst=STRANGER) / TCP(sport=4000, dport=80, flags=flags)).dropped


def test_nobody_inside_pretends_to_be_from_elsewhere(router: Router) -> None:
    assert router.from_inside(IP(src="192.0.2.1", dst=RESOLVER) / UDP(sport=5000, dport=53)).dropped


def test_the_router_answers_pings_from_inside_only(router: Router) -> None:
    [answer] = router.from_inside(IP(src=PC, dst="10.0.0.1") / ICMP(id=1)).answers
    assert ICMP in IP(answer.data)
    assert router.from_outside(IP(src=STRANGER, dst=ROUTER) / ICMP(id=1)).dropped


# ---------------------------------------------------------------------------------------------------------------- translation


def test_clients_are_hidden(router: Router) -> None:
    asked = IP(router.from_inside(QUESTION).data)
    assert (asked.src, asked.dst, asked[UDP].sport) == (ROUTER, RESOLVER, 5000)
    answered = IP(router.from_outside(ANSWER).data)
    assert (answered.src, answered.dst, answered[UDP].dport) == (RESOLVER, PC, 5000)


def test_two_clients_with_one_port_are_told_apart(router: Router) -> None:
    router.from_inside(QUESTION)
    asked = IP(router.from_inside(IP(src=LAPTOP, dst=RESOLVER) / UDP(sport=5000, dport=53)).data)
    assert asked.src == ROUTER
    assert asked[UDP].sport != 5000
    answer = router.from_outside(IP(src=RESOLVER, dst=ROUTER) / UDP(sport=53, dport=asked[UDP].sport))
    assert IP(answer.data).dst == LAPTOP
    assert IP(router.from_outside(ANSWER).data).dst == PC


def test_an_error_on_the_way_gets_back_to_the_client(router: Router) -> None:
    asked = router.from_inside(QUESTION)
    expired = router.from_outside(IP(src="198.51.100.1", dst=ROUTER) / ICMP(type="time-exceeded") / asked.data)
    told = IP(expired.data)
    assert told.dst == PC
    assert told["IPerror"].src == PC, "it quotes what the client has sent, not what the router made of it"
    assert router.from_outside(IP(src="198.51.100.1", dst=ROUTER) / ICMP(type="time-exceeded") / bytes(QUESTION)).dropped


def test_a_forwarded_port(router: Router) -> None:
    came = IP(router.from_outside(IP(src=STRANGER, dst=ROUTER) / TCP(sport=4000, dport=8080, flags="S")).data)
    assert (came.src, came.dst, came[TCP].dport) == (STRANGER, SERVER, 80)
    answer = IP(router.from_inside(IP(src=SERVER, dst=STRANGER) / TCP(sport=80, dport=4000, flags="SA", ack=1)).data)
    assert (answer.src, answer.dst, answer[TCP].sport) == (ROUTER, STRANGER, 8080)
    assert router.from_outside(IP(src=STRANGER, dst=SERVER) / TCP(sport=4001, dport=80, flags="S")).dropped, "no other way in"


# ----------------------------------------------------------------------------------------------------------------------- time


def test_an_idle_flow_is_forgotten(router: Router, nfnl_kernel: str) -> None:
    router.kernel.sysctl("net.netfilter.nf_conntrack_udp_timeout", 1)
    router.from_inside(QUESTION)
    if nfnl_kernel == "fake":
        router.kernel.advance(2)
    else:
        time.sleep(2)
    assert router.from_outside(ANSWER).dropped


def test_how_long_the_flows_of_udp_last(fake_kernel: Any) -> None:
    router = Router(fake_kernel)
    router.from_inside(QUESTION)
    fake_kernel.advance(29)
    assert router.from_outside(ANSWER).delivered
    fake_kernel.advance(31)
    assert router.from_outside(ANSWER).dropped
    assert router.flows == []


def test_a_connection_may_sleep_for_five_days(fake_kernel: Any) -> None:
    router = Router(fake_kernel)
    connect(router, 22)
    fake_kernel.advance(5 * 24 * 3600 - 1)
    assert router.from_outside(reply(22, "PA") / b"still there?").delivered
    fake_kernel.advance(5 * 24 * 3600)
    assert router.from_outside(reply(22, "PA") / b"and now?").dropped


# ------------------------------------------------------------------------------------------------------------- the web filter


def request(port: int, flags: str, seq: int = 101, ack: int = 901) -> Any:
    """A segment of the client's."""
    return IP(src=PC, dst=STRANGER) / TCP(sport=40000, dport=port, flags=flags, seq=seq, ack=ack)


def reply(port: int, flags: str, seq: int = 901, ack: int = 101) -> Any:
    """A segment of the other side's."""
    return IP(src=STRANGER, dst=ROUTER) / TCP(sport=port, dport=40000, flags=flags, seq=seq, ack=ack)


def connect(router: Router, port: int) -> None:
    """The client opens a connection to a port of the stranger's."""
    assert router.from_inside(request(port, "S", 100, 0)).delivered
    assert router.from_outside(reply(port, "SA", 900)).delivered
    router.from_inside(request(port, "A"))


@pytest.fixture
def ask(router: Router) -> Iterator[Any]:
    """Ask a web server for a page, with the filter at work. What becomes of the request, and of the packet behind it."""
    with nfnl.open_queue(0, kernel=router.kernel) as queue:

        def ask_for(host: str) -> tuple[Any, Any]:
            page = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            with router.kernel.until_idle():
                connect(router, 80)
                first = router.from_inside(request(80, "PA") / page)
                filter_web(queue, {"ads.example"})
                second = router.from_inside(request(80, "PA", 101 + len(page)) / b"more")
            return first, second

        yield ask_for


def test_an_allowed_page_is_looked_at_once(router: Router, ask: Any) -> None:
    first, second = ask("example.org")
    assert first.delivered
    assert first.queue == 0
    assert second.delivered
    assert second.queue is None, "the flow was decided"
    [flow] = router.flows
    assert flow.mark == ALLOWED


def test_a_blocked_page_is_refused_and_its_connection_closed(router: Router, ask: Any) -> None:
    first, _ = ask("Ads.Example:80")
    assert first.dropped
    [refusal] = first.answers
    assert (IP(refusal.data).dst, str(IP(refusal.data)[TCP].flags)) == (PC, "R")
    [flow] = router.flows
    assert flow.tcp_state == nfnl.TcpState.CLOSE


def test_without_the_filter_everything_passes(router: Router) -> None:
    connect(router, 80)
    assert router.from_inside(request(80, "PA") / b"GET / HTTP/1.1\r\nHost: ads.example\r\n\r\n").delivered
