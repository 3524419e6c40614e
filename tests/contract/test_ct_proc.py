"""Conntrack in /proc: flows as text, and what can be tuned."""

from __future__ import annotations

import re
from errno import EACCES, EINVAL

import pytest

from tests.contract.ctkit import (
    ASSURED,
    CONFIRMED,
    GRE,
    LIFE,
    SCTP,
    SEEN_REPLY,
    TCP,
    UDPLITE,
    V4,
    V6,
    Asker,
    Cta,
    Exp,
    both,
    both6,
    helper,
    orig,
    pings,
    reply,
    request,
    tcp,
    tuple_,
    u8,
    u16,
    u32,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import only, rule
from tests.contract.wirekit import refused

PREFIX = "net.netfilter.nf_conntrack_"


def line(kernel: KernelUnderTest) -> str:
    """The one line of /proc/net/nf_conntrack, without the seconds that are left."""
    [text] = kernel.read_proc("nf_conntrack").splitlines()
    seconds = re.fullmatch(r"ipv[46] +\d+ [a-z]+ +\d+ (\d+) .*", text)
    assert seconds, text
    assert 900 < int(seconds[1]) <= 1000
    return text.replace(f" {seconds[1]} ", " ", 1)


THERE, BACK = "src=10.9.0.1 dst=10.9.0.2", "src=10.9.0.2 dst=10.9.0.1"
PORTS, PORTS_BACK = "sport=5000 dport=53", "sport=53 dport=5000"
TIMEOUTS, KEYS, KEYS_BACK = "timeout=0, stream_timeout=0", "srckey=0x1388 dstkey=0x35", "srckey=0x35 dstkey=0x1388"
SIX, SIX_BACK = "0000:0000:0000:0000:0000:0000:0000:0001", "0000:0000:0000:0000:0000:0000:0000:0002"


@rule("CTPROC-1", "C7-44b")
@pytest.mark.parametrize(
    ("said", "text"),
    [
        (both(), f"ipv4     2 udp      17 {THERE} {PORTS} [UNREPLIED] {BACK} {PORTS_BACK} mark=0 zone=0 use=2"),
        (
            both() + u32(Cta.STATUS, CONFIRMED | SEEN_REPLY),
            f"ipv4     2 udp      17 {THERE} {PORTS} {BACK} {PORTS_BACK} mark=0 zone=0 use=2",
        ),
        (
            both() + u32(Cta.STATUS, CONFIRMED | SEEN_REPLY | ASSURED) + u32(Cta.MARK, 77) + u16(Cta.ZONE, 5),
            f"ipv4     2 udp      17 {THERE} {PORTS} {BACK} {PORTS_BACK} [ASSURED] mark=77 zone=5 use=2",
        ),
        (
            orig(zone=7) + reply(),
            f"ipv4     2 udp      17 {THERE} {PORTS} zone-orig=7 [UNREPLIED] {BACK} {PORTS_BACK} mark=0 use=2",
        ),
        (
            orig() + reply(zone=7),
            f"ipv4     2 udp      17 {THERE} {PORTS} [UNREPLIED] {BACK} {PORTS_BACK} zone-reply=7 mark=0 use=2",
        ),
        (
            both(number=TCP) + tcp(u8(1, 3)),
            f"ipv4     2 tcp      6 ESTABLISHED {THERE} {PORTS} [UNREPLIED] {BACK} {PORTS_BACK} mark=0 zone=0 use=2",
        ),
        (both(number=SCTP), f"ipv4     2 sctp     132 NONE {THERE} {PORTS} [UNREPLIED] {BACK} {PORTS_BACK} mark=0 zone=0 use=2"),
        (
            pings(7),
            f"ipv4     2 icmp     1 {THERE} type=8 code=0 id=7 [UNREPLIED] {BACK} type=0 code=0 id=7 mark=0 zone=0 use=2",
        ),
        (
            both(number=GRE),
            f"ipv4     2 gre      47 {TIMEOUTS} {THERE} {KEYS} [UNREPLIED] {BACK} {KEYS_BACK} mark=0 zone=0 use=2",
        ),
        (
            tuple_(1, "10.9.0.1", "10.9.0.2", 50) + tuple_(2, "10.9.0.2", "10.9.0.1", 50),
            f"ipv4     2 unknown  50 {THERE} [UNREPLIED] {BACK} mark=0 zone=0 use=2",
        ),
        (
            both(number=TCP, to=21) + helper("ftp"),
            f"ipv4     2 tcp      6 NONE {THERE} sport=5000 dport=21 [UNREPLIED] {BACK} sport=21 dport=5000 mark=0 zone=0 use=2",
        ),
    ],
    ids=["UDP", "replied", "assured", "zone there", "zone back", "TCP", "SCTP", "ICMP", "GRE", "unknown", "helper"],
)
def test_a_flow_as_text(kernel: KernelUnderTest, asker: Asker, said: bytes, text: str) -> None:
    asker.made(said)
    assert line(kernel) == text


@rule("CTPROC-1")
def test_a_flow_of_ipv6_as_text(kernel: KernelUnderTest, asker: Asker) -> None:
    asker.made(both6(), family=V6)
    one, two = (address.replace("0000", "fd00", 1) for address in (SIX, SIX_BACK))
    assert line(kernel) == (
        f"ipv6     10 udp      17 src={one} dst={two} {PORTS} [UNREPLIED] src={two} dst={one} {PORTS_BACK} mark=0 zone=0 use=2"
    )


@rule("CTPROC-1")
def test_counters_as_text(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(PREFIX + "acct", 1)
    asker.made(both())
    zeros = "packets=0 bytes=0"
    assert f"{PORTS} {zeros} [UNREPLIED] {BACK} {PORTS_BACK} {zeros} mark=0" in line(kernel)


@rule("CTPROC-1")
def test_a_line_for_each_flow_that_has_not_expired(kernel: KernelUnderTest, asker: Asker) -> None:
    for port in range(5):
        assert asker.make(both(port), LIFE) == "ACK"
    assert asker.change(orig(3), u32(Cta.TIMEOUT, 0)) == "ACK"
    assert len(kernel.read_proc("nf_conntrack").splitlines()) == 4


@rule("CTPROC-2")
def test_expectations_as_text(kernel: KernelUnderTest, asker: Asker) -> None:
    asker.made(both(number=TCP, to=21), helper("ftp"))
    for flags, words_of_it in ((0, ""), (1, "PERMANENT "), (2, "INACTIVE "), (3, "PERMANENT,INACTIVE ")):
        ones = "255.255.255.255"
        said = (
            tuple_(Exp.TUPLE, "10.9.0.1", "10.9.0.2", TCP, 0, 5000)
            + tuple_(Exp.MASK, ones, ones, TCP, 0, 0xFFFF)
            + orig(number=TCP, to=21, type=Exp.MASTER)
        )
        assert asker.do(0, said, u32(Exp.FLAGS, flags), subsystem=2, flags=0x400) == "ACK"
        [text] = kernel.read_proc("nf_conntrack_expect").splitlines()
        assert re.fullmatch(
            rf"(2\d\d|300) l3proto = 2 proto=6 src=10\.9\.0\.1 dst=10\.9\.0\.2 sport=0 dport=5000 {words_of_it}ftp *", text
        ), text
        assert asker.do(2, subsystem=2) == "ACK"


# --------------------------------------------------------------------------------------------------------------------- sysctls

DEFAULTS = {
    "acct": 0,
    "checksum": 1,
    "events": 2,
    "generic_timeout": 600,
    "gre_timeout": 30,
    "gre_timeout_stream": 180,
    "icmp_timeout": 30,
    "icmpv6_timeout": 30,
    "log_invalid": 0,
    "sctp_timeout_closed": 10,
    "sctp_timeout_cookie_wait": 3,
    "sctp_timeout_cookie_echoed": 3,
    "sctp_timeout_established": 210,
    "sctp_timeout_shutdown_sent": 3,
    "sctp_timeout_shutdown_recd": 3,
    "sctp_timeout_shutdown_ack_sent": 3,
    "sctp_timeout_heartbeat_sent": 30,
    "tcp_be_liberal": 0,
    "tcp_ignore_invalid_rst": 0,
    "tcp_loose": 1,
    "tcp_max_retrans": 3,
    "tcp_timeout_syn_sent": 120,
    "tcp_timeout_syn_recv": 60,
    "tcp_timeout_established": 432000,
    "tcp_timeout_fin_wait": 120,
    "tcp_timeout_close_wait": 60,
    "tcp_timeout_last_ack": 30,
    "tcp_timeout_time_wait": 120,
    "tcp_timeout_close": 10,
    "tcp_timeout_max_retrans": 300,
    "tcp_timeout_unacknowledged": 300,
    "timestamp": 0,
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
}


@rule("CTPROC-3")
@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_new_namespace_begins_with(kernel: KernelUnderTest, name: str) -> None:
    assert kernel.sysctl(PREFIX + name) == str(DEFAULTS[name])


@rule("CTPROC-4")
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("acct", [0, 1], [-1, 2]),
        ("timestamp", [0, 1], [-1, 2]),
        ("checksum", [0, 1], [-1, 2]),
        ("tcp_loose", [0, 1], [-1, 2]),
        ("tcp_be_liberal", [0, 1], [-1, 2]),
        ("tcp_ignore_invalid_rst", [0, 1], [-1, 2]),
        ("events", [0, 1, 2], [-1, 3]),
        ("tcp_max_retrans", [0, 255], [-1, 256]),
        ("log_invalid", [0, 255], [-1, 256]),
        ("udp_timeout", [-1, 0, 100000], []),
        ("tcp_timeout_established", [-1, 0, 100000], []),
    ],
)
def test_what_may_be_written(kernel: KernelUnderTest, name: str, good: list[int], bad: list[int]) -> None:
    for value in good:
        assert kernel.sysctl(PREFIX + name, value) == str(value)
    for value in bad:
        with refused(EINVAL):
            kernel.sysctl(PREFIX + name, value)
    assert kernel.sysctl(PREFIX + name) == str(good[-1])


@rule("CTPROC-6")
@only("linux", "the fake is a machine of its own")
@pytest.mark.parametrize("name", ["max", "buckets", "expect_max"])
def test_what_is_of_the_whole_machine_cannot_be_written_here(kernel: KernelUnderTest, name: str) -> None:
    value = kernel.sysctl(PREFIX + name)
    assert int(value) > 0
    with refused(EACCES):
        kernel.sysctl(PREFIX + name, value)


@rule("CTPROC-5")
def test_how_many_there_are_cannot_be_written(kernel: KernelUnderTest) -> None:
    with refused(EACCES):
        kernel.sysctl(PREFIX + "count", 0)


@rule("CTPROC-5", "CTSTAT-2")
def test_flows_are_counted_in_a_sysctl(kernel: KernelUnderTest, asker: Asker) -> None:
    before = int(kernel.sysctl(PREFIX + "count"))
    assert asker.make(both(), LIFE, words(Cta.SYNPROXY, 1, 2, 3)) == "ACK"
    assert asker.make(both(number=UDPLITE), LIFE) == "ACK"
    assert int(kernel.sysctl(PREFIX + "count")) == before + 2
    [stats] = asker.say(request(5, family=V4)).told
    assert stats.number(1) == before + 2
    assert asker.delete() == "ACK"
    assert int(kernel.sysctl(PREFIX + "count")) == before


@rule("CTPROC-5")
def test_the_limit_is_told_over_netlink_as_well(kernel: KernelUnderTest, asker: Asker) -> None:
    [stats] = asker.say(request(5, family=V4)).told
    assert str(stats.number(2)) == kernel.sysctl(PREFIX + "max")
