"""What the contract tests say to conntrack and its expectations, and how they read the answers.

What a request consists of is put together from attributes, so that a test can leave one out, repeat one, or make one that must
not be. Answers are read without the declarations as well as with them: the order of attributes is part of the contract.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from nfnl.errors import error_name
from nfnl.subsys.conntrack import Status
from nfnl.wire.codec import decode
from nfnl.wire.constants import NLA_F_NESTED, NLA_TYPE_MASK, Group, NlmsgFlag, NlmsgType, SocketOption, SubsystemId, align4
from nfnl.wire.declare import Direction
from nfnl.wire.header import walk
from tests.contract.kernels import KernelUnderTest
from tests.contract.wirekit import ACK, REQUEST, Client, attribute, nfnetlink

CT, EXP = SubsystemId.CTNETLINK, SubsystemId.CTNETLINK_EXP
CREATE, EXCL, REPLACE, ECHO = NlmsgFlag.CREATE, NlmsgFlag.EXCL, NlmsgFlag.REPLACE, NlmsgFlag.ECHO
ROOT, MATCH, DUMP = NlmsgFlag.ROOT, NlmsgFlag.MATCH, NlmsgFlag.DUMP
MULTI, DUMP_FILTERED = NlmsgFlag.MULTI, NlmsgFlag.DUMP_FILTERED
#: operations of subsystem conntrack (``IPCTNL_MSG_CT_*``), of which the first three are those of expectations, too
NEW, GET, DELETE, GET_CTRZERO, GET_STATS_CPU, GET_STATS, GET_DYING, GET_UNCONFIRMED = range(8)
EXP_GET_STATS_CPU = 3
ANY, V4, V6 = 0, 2, 10
ICMP, TCP, UDP, DCCP, GRE, ESP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 47, 50, 58, 132, 136

#: attributes of a flow (``CTA_*``)
Cta = IntEnum(
    "Cta",
    "TUPLE_ORIG TUPLE_REPLY STATUS PROTOINFO HELP NAT_SRC TIMEOUT MARK COUNTERS_ORIG COUNTERS_REPLY USE ID NAT_DST TUPLE_MASTER"
    " SEQ_ADJ_ORIG SEQ_ADJ_REPLY SECMARK ZONE SECCTX TIMESTAMP MARK_MASK LABELS LABELS_MASK SYNPROXY FILTER STATUS_MASK"
    " TIMESTAMP_EVENT",
)
#: attributes of an expectation (``CTA_EXPECT_*``)
Exp = IntEnum("Exp", "MASTER TUPLE MASK TIMEOUT ID HELP_NAME ZONE FLAGS CLASS NAT FN")

#: status bits (``IPS_*``)
(
    EXPECTED,
    SEEN_REPLY,
    ASSURED,
    CONFIRMED,
    SRC_NAT,
    DST_NAT,
    SEQ_ADJUST,
    SRC_NAT_DONE,
    DST_NAT_DONE,
    DYING,
    FIXED_TIMEOUT,
    TEMPLATE,
    UNTRACKED,
    HELPER,
    OFFLOAD,
    HW_OFFLOAD,
) = Status

#: where the flows of these tests come from and go to, unless a test says otherwise
A, B, PORT = "10.9.0.1", "10.9.0.2", 53
A6, B6 = "fd00::1", "fd00::2"


# ----------------------------------------------------------------------------------------------------------------- attributes


def u8(type: int, value: int) -> bytes:  # noqa: A002
    """An attribute of one byte."""
    return attribute(type, bytes((value,)))


def u16(type: int, value: int) -> bytes:  # noqa: A002
    """An attribute of two bytes, big endian."""
    return attribute(type, struct.pack(">H", value))


def u32(type: int, value: int) -> bytes:  # noqa: A002
    """An attribute of four bytes, big endian."""
    return attribute(type, struct.pack(">I", value))


def nest(type: int, *inner: bytes, flag: bool = True) -> bytes:  # noqa: A002
    """Attributes inside an attribute, which says so unless told not to."""
    return attribute(type | (NLA_F_NESTED if flag else 0), b"".join(inner))


def name(type: int, text: str) -> bytes:  # noqa: A002
    """A string with the NUL that ends it."""
    return attribute(type, text.encode() + b"\0")


def address(text: str) -> bytes:
    """The bytes of an IPv4 or IPv6 address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def addresses(source: str | None, destination: str | None) -> bytes:
    """CTA_TUPLE_IP; what is None is left out."""
    first = 3 if ":" in (source or destination or "") else 1
    return nest(1, *(attribute(first + n, address(text)) for n, text in enumerate((source, destination)) if text is not None))


def protocol(
    number: int | None, source: int | None = None, destination: int | None = None, icmp: tuple[int, int, int] | None = None
) -> bytes:
    """CTA_TUPLE_PROTO; what is None is left out. ``icmp`` is id, type and code."""
    inner = [] if number is None else [u8(1, number)]
    inner += [u16(2 + n, port) for n, port in enumerate((source, destination)) if port is not None]
    if icmp is not None:
        first = 7 if number == ICMPV6 else 4
        inner += [u16(first, icmp[0]), u8(first + 1, icmp[1]), u8(first + 2, icmp[2])]
    return nest(2, *inner)


def tuple_(
    type: int,  # noqa: A002
    source: str,
    destination: str,
    number: int = UDP,
    sport: int | None = None,
    dport: int | None = None,
    *,
    icmp: tuple[int, int, int] | None = None,
    zone: int | None = None,
) -> bytes:
    """One direction of a flow."""
    zones = [] if zone is None else [u16(3, zone)]
    return nest(type, addresses(source, destination), protocol(number, sport, dport, icmp), *zones)


def orig(port: int = 5000, *, number: int = UDP, to: int = PORT, zone: int | None = None, type: int = Cta.TUPLE_ORIG) -> bytes:  # noqa: A002
    """The original direction of a flow from A to B, known by the port it comes from."""
    return tuple_(type, A, B, number, port, to, zone=zone)


def reply(port: int = 5000, *, number: int = UDP, to: int = PORT, zone: int | None = None, type: int = Cta.TUPLE_REPLY) -> bytes:  # noqa: A002
    """The reply direction of that flow."""
    return tuple_(type, B, A, number, to, port, zone=zone)


def both(port: int = 5000, *, number: int = UDP, to: int = PORT) -> bytes:
    """Both directions of that flow."""
    return orig(port, number=number, to=to) + reply(port, number=number, to=to)


def both6(port: int = 5000, *, number: int = UDP, to: int = PORT) -> bytes:
    """Both directions of a flow of IPv6."""
    return tuple_(Cta.TUPLE_ORIG, A6, B6, number, port, to) + tuple_(Cta.TUPLE_REPLY, B6, A6, number, to, port)


def pings(id: int = 1, kind: int = 8, back: int = 0, *, code: int = 0, back_code: int = 0) -> bytes:  # noqa: A002
    """Both directions of ICMP messages from A to B."""
    there, here = (id, kind, code), (id, back, back_code)
    return tuple_(Cta.TUPLE_ORIG, A, B, ICMP, icmp=there) + tuple_(Cta.TUPLE_REPLY, B, A, ICMP, icmp=here)


def pings6(id: int = 1, kind: int = 128, back: int = 129) -> bytes:  # noqa: A002
    """Both directions of ICMPv6 messages."""
    there, here = (id, kind, 0), (id, back, 0)
    return tuple_(Cta.TUPLE_ORIG, A6, B6, ICMPV6, icmp=there) + tuple_(Cta.TUPLE_REPLY, B6, A6, ICMPV6, icmp=here)


#: how long a flow lives in these tests: no test waits for it to end
LIFE = u32(Cta.TIMEOUT, 1000)


def tcp(*inner: bytes) -> bytes:
    """CTA_PROTOINFO of TCP: ``u8(1, state)``, scales 2 and 3, flags and mask 4 and 5."""
    return nest(Cta.PROTOINFO, nest(1, *inner))


def tcp_flags(type: int, flags: int, mask: int) -> bytes:  # noqa: A002
    """CTA_PROTOINFO_TCP_FLAGS_*."""
    return attribute(type, bytes((flags, mask)))


def sctp(*inner: bytes) -> bytes:
    """CTA_PROTOINFO of SCTP: ``u8(1, state)``, verification tags 2 and 3."""
    return nest(Cta.PROTOINFO, nest(3, *inner))


def helper(text: str) -> bytes:
    """CTA_HELP."""
    return nest(Cta.HELP, name(1, text))


def words(type: int, *values: int) -> bytes:  # noqa: A002
    """A nest of numbers, 1 and following: CTA_SEQ_ADJ_*, CTA_SYNPROXY."""
    return nest(type, *(u32(n, value) for n, value in enumerate(values, 1)))


def flags_of(original: int | None = None, replying: int | None = None, *, order: str = "=", flag: bool = True) -> bytes:
    """CTA_FILTER, whose words stand in the order of the host."""
    inner = [attribute(n, struct.pack(order + "I", value)) for n, value in enumerate((original, replying), 1) if value is not None]
    return nest(Cta.FILTER, *inner, flag=flag)


# -------------------------------------------------------------------------------------------------------------------- answers


def walk_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type word and value of each attribute; they must fill the data."""
    at = 0
    while at < len(data):
        length, type_ = struct.unpack_from("=HH", data, at)
        assert 4 <= length <= len(data) - at
        yield type_, data[at + 4 : at + length]
        at += align4(length)


class Nest(dict[int, bytes]):
    """The attributes in a piece of a message, by number; their order is kept."""

    def __init__(self, data: bytes) -> None:
        pairs = [(type_ & NLA_TYPE_MASK, value) for type_, value in walk_attributes(data)]
        super().__init__(pairs)
        assert len(self) == len(pairs), "an attribute stands there twice"

    def number(self, type: int) -> int:  # noqa: A002
        """The value of an attribute that is a number."""
        return int.from_bytes(self[type], "big")

    def numbers(self) -> dict[int, int]:
        """The values of attributes that are all numbers."""
        return {type_: self.number(type_) for type_ in self}

    def inside(self, *path: int) -> Nest:
        """The attributes in an attribute."""
        inner = self
        for type_ in path:
            inner = Nest(inner[type_])
        return inner


class Told(Nest):
    """A message of the kernel's about flows or expectations."""

    def __init__(self, data: bytes) -> None:
        length, self.type, self.flags, self.seq, self.pid = struct.unpack_from("=IHHII", data)
        assert length == len(data)
        self.family, self.version, self.res_id = struct.unpack_from(">BBH", data, 16)
        self.data = data
        super().__init__(data[20:])

    @property
    def names(self) -> str:
        """Names of the attributes, in the order they stand in, without CTA_."""
        table = Exp if self.type >> 8 == EXP else Cta
        return " ".join(table(type_).name for type_ in self)

    @property
    def kind(self) -> str:
        """What kind of event this is."""
        return {(NEW, CREATE | EXCL): "NEW", (NEW, 0): "UPDATE", (DELETE, 0): "DESTROY"}[self.type & 0xFF, self.flags]

    @property
    def ends(self) -> Ends:
        """Where the original direction comes from and goes to."""
        return ends(self[Cta.TUPLE_ORIG])

    @property
    def back(self) -> Ends:
        """The same of the reply direction."""
        return ends(self[Cta.TUPLE_REPLY])

    @property
    def status(self) -> int:
        return self.number(Cta.STATUS)

    @property
    def mark(self) -> int:
        return self.number(Cta.MARK)


class Ends(NamedTuple):
    """What a tuple says: addresses, protocol, and its numbers, which are ports, or id, type and code of ICMP."""

    source: str
    destination: str
    protocol: int
    numbers: tuple[int, ...] = ()
    zone: int | None = None


def ends(data: bytes) -> Ends:
    """Read a tuple."""
    parts = Nest(data)
    source, destination = parts.inside(1).values()
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    number, *rest = parts.inside(2).numbers().values()
    zone = parts.number(3) if 3 in parts else None
    return Ends(socket.inet_ntop(family, source), socket.inet_ntop(family, destination), number, tuple(rest), zone)


def messages(datagram: bytes) -> list[bytes]:
    """The messages in a datagram, each with nothing behind it. That nfnl can read them is seen to, as well."""
    decode(datagram, direction=Direction.FROM_KERNEL, strict=True)
    return [part.data[: part.length] for part in walk(datagram)]


def in_words(data: bytes) -> str:
    """``"ACK"``, the name of the refusal, or ``"DONE"``."""
    _, type_, _, _, _ = struct.unpack_from("=IHHII", data)
    error = struct.unpack_from("=i", data, 16)[0]
    return {NlmsgType.DONE: "DONE", NlmsgType.ERROR: error_name(-error) if error else "ACK"}[NlmsgType(type_)]


class Answer(NamedTuple):
    """What came of a request."""

    told: list[Told]
    #: how it ended, ``"ACK"`` ...; ``""`` if nothing said that it did
    end: str
    #: the last message if it is no data: an acknowledgement, a refusal, DONE
    last: bytes


# ---------------------------------------------------------------------------------------------------------------------- asking


def request(
    operation: int,
    *attributes: bytes,
    subsystem: int = CT,
    flags: int = 0,
    ack: bool = True,
    family: int = V4,
    **header: Any,
) -> bytes:
    """A request to conntrack."""
    said = REQUEST | flags | (ACK if ack else 0)
    return nfnetlink(subsystem, operation, b"".join(attributes), flags=said, family=family, **header)


class Asker(Client):
    """Somebody who talks to conntrack."""

    def __init__(self, kernel: KernelUnderTest, *groups: int, receive_buffer: int | None = None, port_id: int = 0) -> None:
        super().__init__(kernel, bind=False)
        kernel.tracked = True
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((port_id, 0))
        for group in groups:
            self.option(SocketOption.ADD_MEMBERSHIP, group)

    def say(self, datagram: bytes) -> Answer:
        """Send a request, and read all that comes."""
        heard = [message for part in self.ask(datagram) for message in messages(part)]
        last = heard.pop() if heard and struct.unpack_from("=H", heard[-1], 4)[0] < 16 else b""
        return Answer([Told(message) for message in heard], in_words(last) if last else "", last)

    def do(self, operation: int, *attributes: bytes, **header: Any) -> str:
        """A request that is answered by no more than success or a refusal."""
        answer = self.say(request(operation, *attributes, **header))
        assert not answer.told
        return answer.end

    def make(self, *attributes: bytes, flags: int = CREATE | EXCL, **header: Any) -> str:
        """IPCTNL_MSG_CT_NEW for a flow that is not there."""
        return self.do(NEW, *attributes, flags=flags, **header)

    def change(self, *attributes: bytes, **header: Any) -> str:
        """IPCTNL_MSG_CT_NEW for a flow that is there."""
        return self.do(NEW, *attributes, **header)

    def delete(self, *attributes: bytes, **header: Any) -> str:
        """IPCTNL_MSG_CT_DELETE."""
        return self.do(DELETE, *attributes, **header)

    def get(self, *attributes: bytes, operation: int = GET, **header: Any) -> Told | str:
        """The flow that was asked for, or the refusal."""
        told, end, _ = self.say(request(operation, *attributes, **header))
        if end != "ACK":
            assert not told
            return end
        [flow] = told
        return flow

    def fetch(self, *attributes: bytes, **header: Any) -> Told:
        """The flow that was asked for, which is there."""
        flow = self.get(*attributes, **header)
        assert isinstance(flow, Told), flow
        return flow

    def dump(self, *attributes: bytes, operation: int = GET, family: int = ANY, **header: Any) -> list[Told]:
        """All flows that pass the filter."""
        told, end, _ = self.say(request(operation, *attributes, flags=DUMP, ack=False, family=family, **header))
        assert end == "DONE"
        return told

    def only(self) -> Told:
        """The one flow there is."""
        [flow] = self.dump()
        return flow

    def made(self, *attributes: bytes, family: int = V4) -> Told:
        """The flow, newly made, as it is dumped; it lives long unless it is said how long."""
        assert self.make(LIFE, *attributes, family=family) == "ACK"
        return self.only()

    def told(self) -> list[Told]:
        """The events that have come."""
        return [Told(message) for part in self.hear() for message in messages(part)]


def watch(kernel: KernelUnderTest, *groups: int) -> Asker:
    """Somebody who hears of flows; of everything about them, unless groups are named."""
    return Asker(kernel, *(groups or (Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE, Group.CONNTRACK_DESTROY)))


def events(told: list[Told]) -> list[tuple[str, str]]:
    """The kind of each, and the attributes it has."""
    return [(event.kind, event.names) for event in told]
