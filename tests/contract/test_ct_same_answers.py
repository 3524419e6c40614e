"""Whatever is said to conntrack, both kernels answer the same, and have the same flows and expectations afterwards.

Left out is what differs between two runs on one kernel (ids, the order of flows, which address or port a translation picks), and
what differs between kernels and has tests of its own.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from nfnl.wire.constants import NLA_F_NESTED, NlmsgType, SocketOption, align4
from tests import probes
from tests.contract.ctkit import (
    CREATE,
    CT,
    DELETE,
    DUMP,
    ECHO,
    EXCL,
    EXP,
    GET,
    GET_CTRZERO,
    GET_STATS,
    ICMP,
    ICMPV6,
    NEW,
    SCTP,
    TCP,
    UDP,
    Asker,
    Cta,
    Exp,
    flags_of,
    helper,
    in_words,
    messages,
    name,
    nest,
    request,
    tuple_,
    u8,
    u16,
    u32,
    walk_attributes,
    words,
)
from tests.contract.kernels import Kernels, KernelUnderTest
from tests.contract.wirekit import attribute

#: far apart, so that it is known which one a flow was given whatever time has passed
TIMEOUTS = [1000, 50000, 0x7FFFFFFF]

# few of everything, so that requests have to do with each other
families = st.sampled_from([2, 2, 2, 2, 2, 2, 10, 10, 0, 7])
ports = st.sampled_from([1, 2])
numbers = st.sampled_from([UDP, UDP, TCP, TCP, TCP, SCTP, ICMP, ICMPV6, 50, 47])
zones = st.sampled_from([None] * 8 + [0, 5])


@st.composite
def flows(draw: st.DrawFn, family: int, kinds: tuple[int, ...] = (1, 2), number: int | None = None) -> bytes:
    """Tuples of a flow, or of one direction of it, or of two flows."""
    a, b = ("fd00::1", "fd00::2") if family == 10 else ("10.9.0.1", "10.9.0.2")
    number = draw(numbers) if number is None else number
    port = draw(ports)
    said = b""
    for kind in kinds:
        other = draw(st.sampled_from([port] * 6 + [1, 2]))
        backwards = (kind == 2) != draw(st.sampled_from([False] * 7 + [True]))
        ends, both_ports = ((b, a), (53, other)) if backwards else ((a, b), (other, 53))
        if number in (ICMP, ICMPV6):
            types = (8, 0) if number == ICMP else (128, 129)
            said += tuple_(kind, *ends, number, icmp=(other, types[backwards], 0), zone=draw(zones))
        else:
            said += tuple_(kind, *ends, number, *both_ports, zone=draw(zones))
    return said


@st.composite
def expected(draw: st.DrawFn, family: int) -> bytes:
    """An expectation: tuple, mask and master."""
    a, b = ("fd00::1", "fd00::2") if family == 10 else ("10.9.0.1", "10.9.0.2")
    ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if family == 10 else "255.255.255.255"
    number, port = draw(st.sampled_from([TCP, UDP])), draw(st.sampled_from([0, 1, 2]))
    parts = [
        tuple_(Exp.TUPLE, a, b, number, port, draw(st.sampled_from([5000, 5001]))),
        tuple_(Exp.MASK, ones, ones, number, draw(st.sampled_from([0, 0xFFFF])), 0xFFFF),
        draw(flows(family, (Exp.MASTER,), TCP)),
    ]
    missing = draw(st.sampled_from([None] * 9 + [0, 1, 2]))
    return b"".join(part for at, part in enumerate(parts) if at != missing)


OF_FLOWS = [
    *(u32(Cta.TIMEOUT, seconds) for seconds in TIMEOUTS),
    *(u32(Cta.STATUS, status) for status in (0, 8, 0xA, 0xE, 0x408, 0x2008, 0xFFFFFDFE)),
    *(u32(Cta.STATUS_MASK, mask) for mask in (0, 4, 8)),
    *(u32(Cta.MARK, mark) for mark in (0, 1, 0x11, 0xFFFFFFFF)),
    *(u32(Cta.MARK_MASK, mask) for mask in (0, 1, 0xFFFFFFFF)),
    *(u16(Cta.ZONE, zone) for zone in (0, 5)),
    *(helper(text) for text in ("ftp", "ftp", "tftp", "irc", "nosuch")),
    *(words(kind, *range(count)) for kind in (Cta.SEQ_ADJ_ORIG, Cta.SEQ_ADJ_REPLY, Cta.SYNPROXY) for count in (3, 2)),
    *(nest(Cta.PROTOINFO, nest(1, u8(1, state))) for state in (0, 3, 9, 10)),
    nest(Cta.PROTOINFO, nest(1, u8(2, 7), u8(3, 8), attribute(4, b"\x0b\xff"), attribute(5, b"\1\1"))),
    nest(Cta.PROTOINFO, nest(3, u8(1, 4), u32(2, 1), u32(3, 2))),
    attribute(Cta.LABELS, b"\1\0\0\0"),
    attribute(Cta.LABELS, b"\2" * 16),
    attribute(Cta.LABELS),
    attribute(Cta.LABELS_MASK, b"\1\0\0\0"),
    *(flags_of(flags) for flags in (None, 0, 4, 8, 0x18, 0x38, 0x1C8, 0xE08, 0x1000)),
    *(flags_of(0, flags) for flags in (4, 8, 0x38)),
    u32(Cta.ID, 1),
    nest(Cta.NAT_DST),
    u32(Cta.USE, 7),
    attribute(99, b"abc"),
]
#: addresses of IPv6 are compared one way or the other, which depends on the kernel
OF_IPV4 = [*OF_FLOWS, *(flags_of(flags) for flags in (1, 2, 3, 0xFFF)), *(flags_of(0, flags) for flags in (1, 2))]
OF_EXPECTATIONS = [
    *(u32(Exp.TIMEOUT, seconds) for seconds in TIMEOUTS),
    *(u32(Exp.FLAGS, flags) for flags in (0, 1, 2, 4, 8)),
    *(u32(Exp.CLASS, number) for number in (0, 1)),
    *(u16(Exp.ZONE, zone) for zone in (0, 5)),
    *(name(Exp.HELP_NAME, text) for text in ("ftp", "tftp", "nosuch")),
    *(name(Exp.FN, text) for text in ("nat-follow-master", "nosuch")),
    nest(Exp.NAT, u32(1, 1), tuple_(2, "10.7.7.7", "0.0.0.0", TCP, 999, 0)),
    nest(Exp.NAT, u32(1, 0)),
    u32(Exp.ID, 1),
]


@st.composite
def damaged(draw: st.DrawFn, said: bytes) -> bytes:
    """Attributes of which one is cut short, empty, twice there, without its flag, or lies about its length."""
    parts = [said[at:end] for at, end in _spans(said)]
    if not parts:
        return said
    at = draw(st.integers(0, len(parts) - 1))
    length, type_ = struct.unpack_from("=HH", parts[at])
    value = parts[at][4:length]
    parts[at] = draw(
        st.sampled_from(
            [
                attribute(type_, value[:-1]),
                attribute(type_, value[: len(value) // 2]),
                attribute(type_, value[:3]),
                attribute(type_),
                attribute(type_, value + b"\0\0\0\0"),
                attribute(type_ ^ NLA_F_NESTED, value),
                attribute(type_, value, length=3),
                attribute(type_, value, length=length + 400),
                parts[at] + attribute(type_, value),
                b"",
            ]
        )
    )
    return b"".join(parts)


def _spans(said: bytes) -> list[tuple[int, int]]:
    spans, at = [], 0
    while at < len(said):
        end = at + align4(struct.unpack_from("=H", said, at)[0])
        spans.append((at, end))
        at = end
    return spans


def mirrored(family: int, number: int, port: int) -> bytes:
    """Both tuples of a flow, as they should be."""
    a, b = ("fd00::1", "fd00::2") if family == 10 else ("10.9.0.1", "10.9.0.2")
    if number in (ICMP, ICMPV6):
        there, back = (8, 0) if number == ICMP else (128, 129)
        return tuple_(1, a, b, number, icmp=(port, there, 0)) + tuple_(2, b, a, number, icmp=(port, back, 0))
    return tuple_(1, a, b, number, port, 53) + tuple_(2, b, a, number, 53, port)


@st.composite
def good_flows(draw: st.DrawFn) -> bytes:
    """A request for a flow, or for a change of it, as programs make them; what else is in it may be wrong."""
    family, number = draw(st.sampled_from([2, 2, 10])), draw(numbers)
    said = mirrored(family, number, draw(ports)) + u32(Cta.TIMEOUT, draw(st.sampled_from(TIMEOUTS)))
    said += b"".join(draw(st.lists(st.sampled_from(OF_FLOWS), max_size=2)))
    return request(NEW, said, flags=CREATE | draw(st.sampled_from([0, 0, EXCL, ECHO])), family=family, seq=5)


@st.composite
def good_expectations(draw: st.DrawFn) -> bytes:
    """The same for expectations."""
    said = draw(expected(2)) + b"".join(draw(st.lists(st.sampled_from(OF_EXPECTATIONS), max_size=1)))
    return request(NEW, said, subsystem=EXP, flags=CREATE | draw(st.sampled_from([0, EXCL, ECHO])), seq=5)


@st.composite
def named_flows(draw: st.DrawFn) -> bytes:
    """A request about one flow, or with a filter about many."""
    family = draw(st.sampled_from([2, 2, 10]))
    said = mirrored(family, draw(numbers), draw(ports)) if draw(st.booleans()) else b""
    said += b"".join(draw(st.lists(st.sampled_from(OF_IPV4 if family == 2 else OF_FLOWS), max_size=2)))
    operation, flags = draw(st.sampled_from([(GET, 0), (GET, DUMP), (GET_CTRZERO, DUMP), (NEW, 0), (NEW, ECHO), (DELETE, 0)]))
    return request(operation, said, flags=flags, family=draw(st.sampled_from([family, family, 0])), version=draw(versions), seq=5)


@st.composite
def odd_requests(draw: st.DrawFn) -> bytes:
    """Any request about flows or expectations; perhaps damaged."""
    family = draw(families)
    subsystem = draw(st.sampled_from([CT, CT, EXP]))
    operation = draw(st.sampled_from([NEW, NEW, GET, DELETE, *((GET_CTRZERO, GET_STATS) if subsystem == CT else ())]))
    if subsystem == EXP:
        said = draw(st.sampled_from([b"", draw(expected(family)), draw(expected(family))]))
        said += b"".join(draw(st.lists(st.sampled_from(OF_EXPECTATIONS), max_size=2)))
    else:
        said = draw(flows(family, draw(st.sampled_from([(1, 2), (1, 2), (1,), (2,), ()]))))
        said += draw(st.sampled_from([b"", draw(flows(family, (Cta.TUPLE_MASTER,), TCP))]))
        said += draw(st.sampled_from([*(u32(Cta.TIMEOUT, seconds) for seconds in TIMEOUTS), b""]))
        said += b"".join(draw(st.lists(st.sampled_from(OF_FLOWS), max_size=3)))
    if draw(st.booleans()):
        said = draw(damaged(said))
    flags = draw(st.sampled_from([CREATE, CREATE | EXCL, 0, ECHO] if operation == NEW else [0, DUMP, ECHO]))
    ack, version = draw(st.sampled_from([True, True, False])), draw(versions)
    return request(operation, said, subsystem=subsystem, flags=flags, ack=ack, family=family, version=version, seq=5)


versions = st.sampled_from([0, 0, 0, 1])
requests = st.one_of(good_flows(), good_flows(), good_expectations(), named_flows(), odd_requests(), odd_requests())
#: a flow that may expect others
EXPECTING = request(NEW, mirrored(2, TCP, 1), u32(Cta.TIMEOUT, TIMEOUTS[0]), helper("ftp"), flags=CREATE)


class Side:
    """One of the kernels, somebody who asks, somebody who looks, and somebody who listens."""

    def __init__(self, kernel: KernelUnderTest, explain: bool, labels: bool) -> None:
        if labels:
            kernel.use_labels()
        self.asker, self.looker = Asker(kernel), Asker(kernel)
        if explain:
            self.asker.option(SocketOption.EXT_ACK)
        #: from before there are any flows, so that these have events
        self.listener = Asker(kernel, 1, 2, 3, 4, 5, 6)

    def take(self, said: bytes) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Say something; what is answered, what is told to others, and what there is afterwards."""
        answers = [self._loose(message) for part in self.asker.ask(said) for message in messages(part)]
        told = [self._loose(message) for part in self.listener.hear() for message in messages(part)]
        there = [flow.data for subsystem in (CT, EXP) for flow in self.looker.dump(subsystem=subsystem)]
        return sorted(answers), sorted(told), sorted(map(self._loose, there))

    def _loose(self, data: bytes) -> bytes:
        """Without what differs between two runs: ports of sockets, ids, the seconds that have passed."""
        (port,) = struct.unpack_from("=I", data, 12)
        who = {self.asker.port_id: b"ASKS", self.looker.port_id: b"LOOK", 0: b"NONE"}[port]
        head = data[:12] + who + data[16:20]
        type_ = struct.unpack_from("=H", data, 4)[0]
        if type_ >> 8 == CT and type_ & 0xFF in (NEW, DELETE):
            return head + _without_times(data[20:], Cta.ID, Cta.TIMEOUT)
        if type_ >> 8 == EXP:
            return head + _without_times(data[20:], Exp.ID, Exp.TIMEOUT)
        if type_ == CT << 8 | GET_STATS:
            return head + data[20:28]  # the limit is that of the machine
        if type_ == NlmsgType.DONE:
            head = head[:6] + b"\2\0" + head[8:]  # some kernels say there that the dump was filtered
        return head + data[20:]


def _without_times(body: bytes, number: int, timeout: int) -> bytes:
    said = b""
    for type_, value in walk_attributes(body):
        if type_ == number:
            value = b"<id>"
        elif type_ == timeout:
            left = int.from_bytes(value, "big")
            value = b"%d" % min(seconds for seconds in (300, *TIMEOUTS, 1 << 32) if seconds >= left)
        said += attribute(type_, value)
    return said


def shown(data: bytes) -> str:
    """A message in words, for who reads that a test has failed."""
    (type_,) = struct.unpack_from("=H", data, 4)
    return in_words(data) if type_ < 16 else f"{type_:#x} {data.hex(' ', 4)}"


@settings(max_examples=40, derandomize=True, deadline=None)
@given(said=st.lists(requests, min_size=3, max_size=12), explain=st.booleans(), labels=st.booleans())
def test_both_kernels_answer_the_same(kernels: Kernels, said: list[bytes], explain: bool, labels: bool) -> None:
    probes.require("lab-available")
    with ExitStack() as stack:
        fake, linux = (Side(stack.enter_context(kernels.make(name)), explain, labels) for name in ("fake", "linux"))
        for number, datagram in enumerate((EXPECTING, *said)):
            ours, theirs = fake.take(datagram), linux.take(datagram)
            for what, mine, his in zip(("answers", "events", "table"), ours, theirs, strict=True):
                assert [*map(shown, mine)] == [*map(shown, his)], f"{what} of step {number}: {datagram.hex()}"
                assert mine == his
