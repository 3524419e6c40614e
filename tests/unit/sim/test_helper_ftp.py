"""The FTP helper: what lines announce, and what becomes of them behind a translation."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Status
from nfnl.sim.expectations import Expectation
from nfnl.sim.helper_ftp import Announced, FtpInfo, Partial, read_line
from nfnl.sim.helpers import find_helper
from nfnl.sim.hooks import POSTROUTING, PREROUTING
from nfnl.sim.skb import IPV4, IPV6
from nfnl.sim.tracking import Template
from tests.unit.sim.tracked import Tracked

CLIENT, SERVER, HERE = "10.0.0.9", "10.1.0.5", "10.0.0.1"
CLIENT6, SERVER6, HERE6 = "fd00::9", "fd01::5", "fd00::1"

# ----------------------------------------------------------------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("line", "direction", "family", "address", "port", "said"),
    [
        (b"PORT 10,0,0,9,4,1\r\n", ORIGINAL, IPV4, "10.0.0.9", 1025, b"10,0,0,9,4,1"),
        (b"port 10,0,0,9,4,1\r\n", ORIGINAL, IPV4, "10.0.0.9", 1025, b"10,0,0,9,4,1"),
        (b"PORT x 10,0,0,9,4,1\r", ORIGINAL, IPV4, None, 0, None),
        (b"EPRT |1|10.0.0.9|1025|\r\n", ORIGINAL, IPV4, "10.0.0.9", 1025, b"|1|10.0.0.9|1025|"),
        (b"EPRT |2|fd00::9|1025|\r\n", ORIGINAL, IPV6, "fd00::9", 1025, b"|2|fd00::9|1025|"),
        (b"EPRT !2!fd00::9!1025!\r\n", ORIGINAL, IPV6, "fd00::9", 1025, b"!2!fd00::9!1025!"),
        (b"227 Entering Passive Mode (10,1,0,5,4,1).\r\n", REPLY, IPV4, "10.1.0.5", 1025, b"10,1,0,5,4,1"),
        (b"227 =10,1,0,5,4,1\r\n", REPLY, IPV4, "10.1.0.5", 1025, b"10,1,0,5,4,1"),
        (b"229 Entering Extended Passive Mode (|||1025|)\r\n", REPLY, IPV4, None, 1025, b"|||1025|"),
        (b"229 Entering Extended Passive Mode (|||1025|)\r\n", REPLY, IPV6, None, 1025, b"|||1025|"),
    ],
)
def test_lines(line: bytes, direction: int, family: int, address: str | None, port: int, said: bytes | None) -> None:
    if said is None:
        with pytest.raises(Partial):
            read_line(line, direction, family)
        return
    found = read_line(line, direction, family)
    assert found is not None
    announced: Announced = found[1]
    assert announced.address == (ip_address(address).packed if address else None)
    assert announced.port == port
    assert line[announced.start : announced.start + announced.length] == said


@pytest.mark.parametrize(
    ("line", "direction"),
    [
        (b"PO", ORIGINAL),
        (b"PORT", ORIGINAL),
        (b"PORT 10,0,0,9,4", ORIGINAL),
        (b"PORT 10,0,0,9,4,1", ORIGINAL),
        (b"EPRT |1|10.0.0.9|", ORIGINAL),
        (b"EPRT |1|10.0.0.9|0|\r\n", ORIGINAL),
        (b"EPRT |2|10.0.0.9|7|\r\n", ORIGINAL),
        (b"EPRT 111\r\n", ORIGINAL),
        (b"227", REPLY),
        (b"227 nothing here\r\n", REPLY),
        (b"229 Extended (|||", REPLY),
        (b"229 Extended |||7|\r\n", REPLY),
        (b"229 (|x|7|)\r\n", REPLY),
    ],
)
def test_lines_that_are_cut_short(line: bytes, direction: int) -> None:
    with pytest.raises(Partial):
        read_line(line, direction, IPV4)


@pytest.mark.parametrize(("line", "direction"), [(b"USER me\r\n", ORIGINAL), (b"227 (1,2,3,4,5,6)", ORIGINAL), (b"PORT 1,", REPLY)])
def test_lines_of_no_interest(line: bytes, direction: int) -> None:
    assert read_line(line, direction, IPV4) is None


def test_line_ends_are_remembered_two_at_a_time() -> None:
    info = FtpInfo()
    for seq in (100, 200, 300):
        info.note_line_end(ORIGINAL, seq)
    assert [info.begins_line(ORIGINAL, seq) for seq in (100, 200, 300)] == [False, True, True]
    info.note_line_end(ORIGINAL, 50)
    assert info.begins_line(ORIGINAL, 200), "an old one does not push out a newer one"
    assert not info.begins_line(REPLY, 200)


# ----------------------------------------------------------------------------------------------------------------- connections


class Control:
    """A control connection through this machine, as each end sees it."""

    def __init__(self, kernel: Tracked, *, v6: bool = False, server: str | None = None, port: int = 4000) -> None:
        self.kernel = kernel
        self.port = port
        self.v6 = v6
        self.family = IPV6 if v6 else IPV4
        self.ends = [CLIENT6 if v6 else CLIENT, server or (SERVER6 if v6 else SERVER)]
        kernel.template(Template(helper=find_helper("ftp", self.family, 6)), family=self.family)
        #: what each end has sent, and has seen of the other
        self.sent, self.seen = [1001, 5001], [5001, 1001]
        #: how the far side sees the ports and addresses of the near one
        self.far: list[tuple[str, int]] = [("", 0), ("", 0)]
        self.segment(0, b"", "S", 1000, 0)
        self.segment(1, b"", "SA", 5000, 1001)
        self.segment(0, b"", "A", 1001, 5001)

    def segment(self, end: int, data: bytes, flags: str, seq: int, ack: int, options: Any = ()) -> Any:
        """What leaves of a segment, read by scapy."""
        ends = ((self.ends[0], self.port), (self.ends[1], 21)) if end == 0 else (self.far[1], self.far[0])
        (src, sport), (dst, dport) = ends
        head: Any = IPv6(src=src, dst=dst) if self.v6 else IP(src=src, dst=dst)
        tcp = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, options=list(options))
        left = self.kernel.through(bytes(head / tcp / data))
        if left is None:
            return None
        packet: Any = (IPv6 if self.v6 else IP)(left)
        if end == 0 and not self.far[0][1]:
            self.far = [(packet.src, packet.sport), (packet.dst, packet.dport)]
        again = packet.copy()
        del again[TCP].chksum
        assert bytes(again) == left, "its checksum is right"
        return packet

    def say(self, end: int, line: bytes) -> bytes | None:
        """One end says a line; what the other is told."""
        packet = self.segment(end, line, "PA", self.sent[end], self.seen[end])
        if packet is None:
            return None
        told = bytes(packet[TCP].payload)
        assert packet[TCP].seq == self.seen[1 - end], "where the other end stands"
        self.sent[end] += len(line)
        self.seen[1 - end] += len(told)
        answer = self.segment(1 - end, b"", "A", self.sent[1 - end], self.seen[1 - end])
        assert answer[TCP].ack == self.sent[end], "what this end has sent"
        return told

    def log_in(self) -> None:
        assert self.say(1, b"220 hello\r\n")
        assert self.say(0, b"USER me\r\n")
        assert self.say(1, b"230 you\r\n")

    @property
    def flow(self) -> Entry:
        return next(flow for flow in self.kernel.flows if flow.original.dst_part == 21 and flow.original.src_part == self.port)

    @property
    def expected(self) -> Expectation:
        [expectation] = self.kernel.expectations
        return expectation


def line_for(family: int, port: int, address: str, *, active: bool, extended: bool) -> bytes:
    numbers = f"{address.replace('.', ',')},{port >> 8},{port & 255}"
    if active:
        return (f"EPRT |{1 if family == IPV4 else 2}|{address}|{port}|\r\n" if extended else f"PORT {numbers}\r\n").encode()
    return (f"229 Entering (|||{port}|)\r\n" if extended else f"227 Entering ({numbers}).\r\n").encode()


KINDS = [
    (v6, active, extended) for v6 in (False, True) for active in (False, True) for extended in (False, True) if extended or not v6
]


@pytest.mark.parametrize(("v6", "active", "extended"), KINDS)
def test_what_is_announced_is_expected(v6: bool, active: bool, extended: bool) -> None:
    control = Control(Tracked(), v6=v6)
    control.log_in()
    own = control.ends[0 if active else 1]
    line = line_for(control.family, 1025, own, active=active, extended=extended)
    assert control.say(0 if active else 1, line) == line
    t = control.expected.tuple
    assert (t.dst, t.dst_part) == (ip_address(own).packed, 1025)
    assert t.src == ip_address(control.ends[1 if active else 0]).packed
    kernel = control.kernel
    source, other = (control.ends[1], control.ends[0]) if active else (control.ends[0], control.ends[1])
    head: Any = IPv6(src=source, dst=other) if v6 else IP(src=source, dst=other)
    kernel.through(bytes(head / TCP(sport=20, dport=1025, flags="S", seq=9)))
    assert kernel.states[-1] == "RELATED"
    [data] = [flow for flow in kernel.flows if flow is not control.flow]
    assert data.master is control.flow
    assert data.status & Status.EXPECTED
    assert not list(kernel.expectations)
    kernel.at_rest()
    kernel.empty()


@pytest.mark.parametrize("port", [1025, 65535])
@pytest.mark.parametrize(("v6", "extended"), [(False, False), (False, True), (True, True)])
def test_an_active_client_that_is_translated(v6: bool, extended: bool, port: int) -> None:
    """Its address is another one for the server, and often longer or shorter: sequence numbers shift from there on."""
    kernel = Tracked(nat=True)
    here = HERE6 if v6 else "192.168.200.100"
    kernel.bind(POSTROUTING, here, family=IPV6 if v6 else IPV4)
    control = Control(kernel, v6=v6)
    control.log_in()
    before = control.seen[1] - control.sent[0]
    told = control.say(0, line_for(control.family, port, control.ends[0], active=True, extended=extended))
    exploded = ip_address(here).exploded
    assert told == line_for(control.family, port, exploded, active=True, extended=extended)
    shift = control.seen[1] - control.sent[0]
    assert shift != before
    assert control.flow.status & Status.SEQ_ADJUST
    assert control.say(1, b"200 ok\r\n") == b"200 ok\r\n"
    assert control.say(0, b"RETR file\r\n") == b"RETR file\r\n"
    again = control.say(0, line_for(control.family, port, control.ends[0], active=True, extended=extended))
    assert again is not None
    assert control.seen[1] - control.sent[0] == 2 * shift - before
    edges = control.seen[1] - 5, control.seen[1]
    sack = control.segment(1, b"", "A", control.sent[1], control.seen[1] - 9, [("NOP", None), ("NOP", None), ("SAck", edges)])
    assert dict(sack[TCP].options)["SAck"] == (control.sent[0] - 5, control.sent[0])
    head: Any = IPv6(src=control.ends[1], dst=here) if v6 else IP(src=control.ends[1], dst=here)
    left = kernel.through(bytes(head / TCP(sport=20, dport=port, flags="S", seq=9)))
    assert left is not None
    data: Any = (IPv6 if v6 else IP)(left)
    assert (data.dst, data.dport) == (control.ends[0], port)
    kernel.at_rest()
    kernel.empty()


@pytest.mark.parametrize("extended", [False, True])
def test_a_passive_server_that_is_translated(extended: bool) -> None:
    kernel = Tracked(nat=True)
    kernel.bind(PREROUTING, "192.168.200.100")
    control = Control(kernel, server="10.1.0.5")
    control.log_in()
    told = control.say(1, line_for(IPV4, 1025, "192.168.200.100", active=False, extended=extended))
    assert told == line_for(IPV4, 1025, "10.1.0.5", active=False, extended=extended)
    left = kernel.through(bytes(IP(src=CLIENT, dst="10.1.0.5") / TCP(sport=4001, dport=1025, flags="S", seq=9)))
    assert left is not None
    assert IP(left).dst == "192.168.200.100"
    assert kernel.states[-1] == "RELATED"
    kernel.at_rest()
    kernel.empty()


def test_an_address_of_somebody_else_is_not_expected_unless_loose() -> None:
    for loose in (False, True):
        control = Control(Tracked())
        control.kernel.ftp.loose = loose
        control.log_in()
        line = b"PORT 10,7,7,7,4,1\r\n"
        assert control.say(0, line) == line
        assert [e.tuple.dst for e in control.kernel.expectations] == ([bytes((10, 7, 7, 7))] if loose else [])


def test_a_line_that_is_cut_short_is_dropped_once_a_line_end_was_seen() -> None:
    control = Control(Tracked())
    assert control.say(0, b"PORT 10,0") == b"PORT 10,0", "nobody knows that a line begins here"
    assert control.say(0, b"\r\n") == b"\r\n"
    assert control.say(0, b"PORT 10,0") is None
    control.kernel.at_rest()


@pytest.mark.parametrize(("port", "free"), [(1025, True), (0xFFFE, False)])
def test_where_a_port_is_expected_already_another_one_above_it_is_announced(port: int, free: bool) -> None:
    kernel = Tracked(nat=True)
    kernel.bind(POSTROUTING, "192.168.200.100")
    told = []
    for client in (4000, 4001):
        control = Control(kernel, port=client)
        control.log_in()
        told.append(control.say(0, line_for(IPV4, port, CLIENT, active=True, extended=False)))
    assert told[0] == line_for(IPV4, port, "192.168.200.100", active=True, extended=False)
    if not free:
        assert told[1] is None
        assert len(kernel.expectations) == 1
    else:
        first, second = kernel.expectations
        assert second.tuple.dst_part > first.tuple.dst_part == port
        assert second.saved_part == port
        assert told[1] == line_for(IPV4, second.tuple.dst_part, "192.168.200.100", active=True, extended=False)
    kernel.at_rest()
    kernel.empty()


def test_shifts_are_told_as_32_bits() -> None:
    """A payload that became shorter shifts by less than nothing."""
    kernel = Tracked(nat=True)
    kernel.bind(POSTROUTING, "1.1.1.1")
    control = Control(kernel)
    control.log_in()
    control.say(0, b"PORT 10,0,0,9,4,1\r\n")
    assert control.flow.seqadj is not None
    assert control.flow.seqadj[0].after == (1 << 32) - 1
    struct.pack("!3I", *control.flow.seqadj[0])
