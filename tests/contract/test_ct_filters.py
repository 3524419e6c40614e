"""What a dump can be asked to leave out, in the kernel."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import (
    ANY,
    ASSURED,
    CONFIRMED,
    DUMP,
    GET,
    GRE,
    ICMP,
    LIFE,
    SCTP,
    TCP,
    UDP,
    V4,
    V6,
    A,
    Asker,
    B,
    Cta,
    addresses,
    both,
    both6,
    flags_of,
    nest,
    orig,
    pings,
    pings6,
    protocol,
    reply,
    request,
    tuple_,
    u16,
    u32,
)
from tests.contract.rules import needs, rule
from tests.contract.wirekit import attribute

#: bits of CTA_FILTER_*_FLAGS
IP_SRC, IP_DST, TUPLE_ZONE, PROTO_NUM, SRC_PORT, DST_PORT, ICMP_TYPE, ICMP_CODE, ICMP_ID = (1 << n for n in range(9))
ICMPV6_TYPE, ICMPV6_CODE, ICMPV6_ID = (1 << n for n in range(9, 12))
#: which part of the reply is which part of the original direction
MIRRORED = {IP_SRC: IP_DST, IP_DST: IP_SRC, PROTO_NUM: PROTO_NUM, SRC_PORT: DST_PORT, DST_PORT: SRC_PORT}

PLAIN, MARKED, ZONED, IPV6, STREAM, CHUNKS, PING, OTHER = 0, 0x11, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400
ALL = {PLAIN, MARKED, ZONED, IPV6, STREAM, CHUNKS, PING, OTHER}
OF_V4 = ALL - {IPV6}


@pytest.fixture
def table(asker: Asker) -> Asker:
    """Somebody who has made a table of flows, told apart by their marks."""
    for said, family in (
        (both(1), V4),
        (both(2) + u32(Cta.MARK, MARKED), V4),
        (both(3) + u32(Cta.MARK, ZONED) + u16(Cta.ZONE, 5), V4),
        (both6(4) + u32(Cta.MARK, IPV6), V6),
        (both(5, number=TCP, to=80) + u32(Cta.MARK, STREAM) + u32(Cta.STATUS, CONFIRMED | ASSURED), V4),
        (both(6, number=SCTP) + u32(Cta.MARK, CHUNKS), V4),
        (pings(7) + u32(Cta.MARK, PING), V4),
        (tuple_(1, "10.9.0.3", B, UDP, 1, 99) + tuple_(2, B, "10.9.0.3", UDP, 99, 1) + u32(Cta.MARK, OTHER), V4),
    ):
        assert asker.make(said, LIFE, family=family) == "ACK"
    return asker


def marks(asker: Asker, *said: bytes, family: int = V4) -> set[int]:
    """Marks of the flows that pass."""
    return {flow.mark for flow in asker.dump(*said, family=family)}


def refusal(asker: Asker, *said: bytes, family: int = V4) -> str:
    """The answer to a dump that is not to be had."""
    return asker.do(GET, *said, flags=DUMP, ack=False, family=family)


# ----------------------------------------------------------------------------------------------------- family, mark, status, zone

#: cases that are about these filters
BY_STATUS, BY_ZONE = needs("lists-filter-by-status"), needs("lists-filter-by-zone")


@rule("CTFILT-1", "C7-16")
@pytest.mark.parametrize(("family", "passed"), [(ANY, ALL), (V4, OF_V4), (V6, {IPV6}), (7, set()), (255, set())])
@pytest.mark.parametrize("version", [0, 1])
def test_by_family(table: Asker, family: int, passed: set[int], version: int) -> None:
    assert {flow.mark for flow in table.dump(family=family, version=version)} == passed


@rule("CTFILT-2", "C7-34")
@pytest.mark.parametrize(
    ("said", "passed"),
    [
        (u32(Cta.MARK, MARKED), {MARKED}),
        (u32(Cta.MARK, 0), {PLAIN}),
        (u32(Cta.MARK, 0x10) + u32(Cta.MARK_MASK, 0x10), {MARKED}),
        (u32(Cta.MARK, 0x11) + u32(Cta.MARK_MASK, 0x10), set()),
        (u32(Cta.MARK, 0) + u32(Cta.MARK_MASK, 0), ALL),
        (u32(Cta.MARK, 5) + u32(Cta.MARK_MASK, 0), set()),
        pytest.param(u16(Cta.ZONE, 5), {ZONED}, marks=BY_ZONE),
        pytest.param(u16(Cta.ZONE, 0), ALL - {ZONED}, marks=BY_ZONE),
        pytest.param(u32(Cta.STATUS, ASSURED), {STREAM}, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, CONFIRMED), ALL, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, CONFIRMED | ASSURED), {STREAM}, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, 0) + u32(Cta.STATUS_MASK, ASSURED), ALL - {STREAM}, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, ASSURED) + u32(Cta.STATUS_MASK, CONFIRMED), set(), marks=BY_STATUS),
    ],
    ids=[
        "mark",
        "mark 0",
        "mask",
        "outside the mask",
        "mask 0",
        "outside mask 0",
        "zone",
        "zone 0",
        "status",
        "confirmed",
        "both bits",
        "without",
        "outside the status mask",
    ],
)
def test_by_mark_zone_and_status(table: Asker, said: bytes, passed: set[int]) -> None:
    assert marks(table, said, family=ANY) == passed
    assert marks(table, said) == passed - {IPV6}


@rule("CTFILT-3")
@pytest.mark.parametrize(
    ("said", "family"),
    [
        (u32(Cta.MARK_MASK, 1), V4),
        pytest.param(u32(Cta.STATUS_MASK, 1), V4, marks=BY_STATUS),
        (u32(Cta.MARK_MASK, 1) + u16(Cta.ZONE, 0), ANY),
        pytest.param(u32(Cta.STATUS_MASK, 1) + u32(Cta.MARK, 0), ANY, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, 0), ANY, marks=BY_STATUS),
        pytest.param(u32(Cta.STATUS, ASSURED) + u32(Cta.STATUS_MASK, 0), ANY, marks=BY_STATUS),
        (u32(Cta.MARK_MASK, 1) + flags_of(), ANY),
    ],
    ids=["mark mask", "status mask", "mark mask, zone", "status mask, mark", "status 0", "status mask 0", "mark mask, filter"],
)
def test_a_mask_needs_what_it_masks(table: Asker, said: bytes, family: int) -> None:
    assert refusal(table, said, family=family) == "EINVAL"


@rule("CTFILT-4")
@pytest.mark.parametrize(
    "said",
    [
        u32(Cta.MARK_MASK, 1),
        u32(Cta.STATUS_MASK, 1),
        u32(Cta.ID, 1),
        u32(Cta.TIMEOUT, 1),
        orig(99),
        reply(99),
        nest(Cta.TUPLE_ORIG),
    ],
    ids=["mark mask", "status mask", "id", "timeout", "original", "reply", "empty tuple"],
)
def test_what_is_no_filter_leaves_nothing_out(table: Asker, said: bytes) -> None:
    assert marks(table, said, family=ANY) == ALL


@rule("CTFILT-4")
@pytest.mark.parametrize("said", [orig(99), nest(Cta.TUPLE_ORIG), u32(Cta.ID, 1)], ids=["original", "empty tuple", "id"])
def test_a_tuple_alone_is_no_filter_either_way(table: Asker, said: bytes) -> None:
    assert marks(table, said) == OF_V4


# ------------------------------------------------------------------------------------------------------------- CTA_FILTER: form

BAD = {
    "no nest": flags_of(IP_SRC, flag=False),
    "network order": flags_of(IP_SRC, order=">"),
    "bit 12": flags_of(1 << 12),
    "bit 31": flags_of(1 << 31),
    "reply's bit 12": flags_of(None, 1 << 12),
    "1 byte": nest(Cta.FILTER, attribute(1, b"\1")),
    "5 bytes": nest(Cta.FILTER, attribute(1, struct.pack("=IB", IP_SRC, 0))),
    "no bytes": nest(Cta.FILTER, attribute(1)),
    "unknown inside": nest(Cta.FILTER, attribute(1, struct.pack("=I", IP_SRC)), attribute(9, b"zzzz")),
    "type 3": nest(Cta.FILTER, attribute(3, bytes(4))),
    "rest of 3 bytes": nest(Cta.FILTER, attribute(1, struct.pack("=I", IP_SRC)) + b"\0\0\0"),
}


@rule("CTFILT-5", "C7-34")
@pytest.mark.parametrize("said", BAD.values(), ids=BAD)
def test_the_form_of_a_filter_is_strict(table: Asker, said: bytes) -> None:
    assert refusal(table, said, orig() + reply()) == "EINVAL"
    assert marks(table, family=ANY) == ALL


@rule("CTFILT-5", "C7-34")
@needs("flush-by-filter")
@pytest.mark.parametrize("said", BAD.values(), ids=BAD)
def test_so_it_is_for_what_is_to_be_deleted(table: Asker, said: bytes) -> None:
    assert table.delete(said, orig() + reply()) == "EINVAL"
    assert marks(table, family=ANY) == ALL


@rule("CTFILT-6")
@pytest.mark.parametrize(
    "said", [flags_of(), flags_of(0), flags_of(None, 0), flags_of(0, 0)], ids=["empty", "0", "reply 0", "both 0"]
)
def test_without_flags_no_tuple_is_looked_at(table: Asker, said: bytes) -> None:
    for beside in (b"", orig(99), nest(Cta.TUPLE_ORIG)):
        assert marks(table, said, beside) == OF_V4
        assert marks(table, said, beside, family=ANY) == ALL


# ----------------------------------------------------------------------------------------------------- CTA_FILTER: what is needed


@rule("CTFILT-7", "C7-34")
@pytest.mark.parametrize(
    ("said", "family", "answer"),
    [
        (flags_of(IP_SRC), V4, "EINVAL"),
        (flags_of(IP_SRC) + reply(), V4, "EINVAL"),
        (flags_of(None, IP_SRC), V4, "EINVAL"),
        (flags_of(None, IP_SRC) + orig(), V4, "EINVAL"),
        (flags_of(IP_SRC) + orig(), ANY, "EOPNOTSUPP"),
        (flags_of(IP_SRC) + orig(), 7, "EOPNOTSUPP"),
        (flags_of(IP_SRC) + orig(), V6, "EINVAL"),
        (flags_of(IP_SRC) + nest(1, protocol(UDP, 1, 2)), V4, "EINVAL"),
        (flags_of(IP_SRC) + nest(1, addresses(None, B)), V4, "EINVAL"),
        (flags_of(IP_DST) + nest(1, addresses(A, None)), V4, "EINVAL"),
        (flags_of(PROTO_NUM) + nest(1, addresses(A, B)), V4, "EINVAL"),
        (flags_of(PROTO_NUM) + nest(1, protocol(None, 1, 2)), V4, "EINVAL"),
        (flags_of(DST_PORT) + orig(), V4, "EINVAL"),
        (flags_of(SRC_PORT | IP_SRC) + orig(), V4, "EINVAL"),
        (flags_of(ICMP_TYPE) + pings(), V4, "EINVAL"),
        (flags_of(ICMPV6_ID) + pings6(), V6, "EINVAL"),
        (flags_of(PROTO_NUM | SRC_PORT) + nest(1, protocol(UDP, None, 1)), V4, "EINVAL"),
        (flags_of(PROTO_NUM | DST_PORT) + nest(1, protocol(TCP, 1)), V4, "EINVAL"),
        (flags_of(PROTO_NUM | ICMP_ID) + nest(1, protocol(ICMP)), V4, "EINVAL"),
    ],
    ids=[
        "no tuple",
        "reply alone",
        "no reply",
        "original alone",
        "any family",
        "bridges",
        "IPv6",
        "no addresses",
        "no source",
        "no destination",
        "no protocol",
        "no number",
        "port alone",
        "port and address",
        "type alone",
        "ICMPv6 id alone",
        "no source port",
        "no destination port",
        "no id",
    ],
)
def test_what_is_flagged_is_needed(table: Asker, said: bytes, family: int, answer: str) -> None:
    assert refusal(table, said, family=family) == answer


@rule("CTFILT-8", "C7-34")
@pytest.mark.parametrize(
    ("flags", "said", "passed"),
    [
        (PROTO_NUM, nest(1, protocol(TCP)), {STREAM}),
        (PROTO_NUM | DST_PORT, nest(1, protocol(TCP, None, 80)), {STREAM}),
        (IP_SRC, nest(1, addresses("10.9.0.3", None)), {OTHER}),
        (IP_DST, nest(1, addresses(None, B)), OF_V4),
        (0xFFF, orig(2), {MARKED}),
        (PROTO_NUM | ICMP_TYPE | ICMPV6_ID, nest(1, protocol(UDP)), {PLAIN, MARKED, ZONED, OTHER}),
        (PROTO_NUM | SRC_PORT, pings(9), {PING}),
    ],
    ids=["protocol", "protocol and port", "source", "destination", "all flags", "fields of another protocol", "ports of pings"],
)
def test_what_is_not_flagged_is_not_needed(table: Asker, flags: int, said: bytes, passed: set[int]) -> None:
    assert marks(table, flags_of(flags), said) == passed


# ------------------------------------------------------------------------------------------------------------ CTA_FILTER: match


@rule("CTFILT-9")
@pytest.mark.parametrize(
    ("flags", "passed"),
    [
        (IP_SRC, OF_V4 - {OTHER}),
        (IP_DST, OF_V4),
        (IP_SRC | IP_DST, OF_V4 - {OTHER}),
        (PROTO_NUM, {PLAIN, MARKED, ZONED, OTHER}),
        (IP_SRC | PROTO_NUM, {PLAIN, MARKED, ZONED}),
        (PROTO_NUM | SRC_PORT, {PLAIN, OTHER}),
        (PROTO_NUM | DST_PORT, {PLAIN, MARKED, ZONED}),
        (IP_SRC | IP_DST | PROTO_NUM | SRC_PORT | DST_PORT, {PLAIN}),
    ],
    ids=["source", "destination", "addresses", "protocol", "source, protocol", "source port", "destination port", "everything"],
)
def test_the_flagged_parts_must_be_equal(table: Asker, flags: int, passed: set[int]) -> None:
    assert marks(table, flags_of(flags), orig(1)) == passed
    mirrored = sum(to for here, to in MIRRORED.items() if flags & here)
    assert marks(table, flags_of(None, mirrored), reply(1)) == passed
    assert marks(table, flags_of(flags, mirrored), orig(1), reply(1)) == passed
    other = marks(table, flags_of(None, mirrored), reply(2))
    assert marks(table, flags_of(flags, mirrored), orig(1), reply(2)) == passed & other, "both must let it through"


@rule("CTFILT-9")
@pytest.mark.parametrize(
    ("other", "passed"),
    [
        (u32(Cta.MARK, MARKED), {MARKED}),
        (u32(Cta.MARK, STREAM), set()),
        pytest.param(u16(Cta.ZONE, 5), {ZONED}, marks=BY_ZONE),
        pytest.param(u32(Cta.STATUS, ASSURED), set(), marks=BY_STATUS),
    ],
    ids=["mark", "another mark", "zone", "status"],
)
def test_with_other_filters_all_must_let_it_through(table: Asker, other: bytes, passed: set[int]) -> None:
    assert marks(table, flags_of(PROTO_NUM) + orig(), other) == passed


@rule("CTFILT-10")
@pytest.mark.parametrize("zone", [None, 5, 9])
def test_the_zone_of_a_tuple_does_not_select(table: Asker, zone: int | None) -> None:
    assert marks(table, flags_of(TUPLE_ZONE), orig(zone=zone)) == OF_V4


@BY_ZONE
@rule("CTFILT-10")
def test_the_zone_of_a_tuple_counts_where_zone_0_is_asked_for(table: Asker) -> None:
    assert marks(table, flags_of(TUPLE_ZONE), orig(zone=5), u16(Cta.ZONE, 0)) == {ZONED}


@BY_ZONE
@rule("CTFILT-10")
def test_the_zone_of_a_tuple_is_named_once(table: Asker) -> None:
    assert refusal(table, flags_of(TUPLE_ZONE), orig(zone=5), u16(Cta.ZONE, 5)) == "EINVAL"
    assert marks(table, flags_of(PROTO_NUM), orig(zone=5), u16(Cta.ZONE, 5)) == {ZONED}, "not flagged, not looked at"


@rule("CTFILT-11")
def test_icmp(asker: Asker) -> None:
    for number, kind in ((1, 8), (2, 8), (1, 13)):
        assert asker.make(pings(number, kind, 0 if kind == 8 else 14, code=kind), LIFE) == "ACK"

    def passed(flags: int, number: int, kind: int, code: int) -> set[tuple[int, ...]]:
        said = tuple_(Cta.TUPLE_ORIG, A, B, ICMP, icmp=(number, kind, code))
        return {flow.ends.numbers for flow in asker.dump(flags_of(PROTO_NUM | flags), said, family=V4)}

    one, two, stamp = (1, 8, 8), (2, 8, 8), (1, 13, 13)
    assert passed(0, 9, 8, 0) == {one, two, stamp}
    assert passed(ICMP_ID, 1, 8, 0) == {one, stamp}
    assert passed(ICMP_TYPE, 9, 8, 0) == {one, two}
    assert passed(ICMP_CODE, 9, 8, 13) == {stamp}
    assert passed(ICMP_ID | ICMP_TYPE | ICMP_CODE, 2, 8, 8) == {two}
    assert passed(SRC_PORT | DST_PORT | ICMPV6_ID, 9, 8, 0) == {one, two, stamp}


@rule("CTFILT-11")
def test_icmpv6(asker: Asker) -> None:
    for number in (1, 2):
        assert asker.make(pings6(number), LIFE, family=V6) == "ACK"
    said = pings6(2)
    for flags, passed in ((0, {1, 2}), (ICMPV6_ID, {2}), (ICMPV6_TYPE | ICMPV6_CODE, {1, 2}), (ICMP_ID, {1, 2})):
        told = asker.dump(flags_of(PROTO_NUM | flags), said, family=V6)
        assert {flow.ends.numbers[0] for flow in told} == passed


@rule("CTFILT-11")
@pytest.mark.parametrize("number", [SCTP, GRE])
def test_ports_of_other_protocols_are_not_compared(asker: Asker, number: int) -> None:
    for port in (1, 2):
        assert asker.make(both(port, number=number), LIFE) == "ACK"
    told = asker.dump(flags_of(PROTO_NUM | SRC_PORT), orig(2, number=number), family=V4)
    assert {flow.ends.numbers[0] for flow in told} == {1, 2}


@rule("CTFILT-12", "C7-34")
@pytest.mark.parametrize(("flags", "back"), [(IP_SRC, IP_DST), (IP_DST, IP_SRC)])
def test_addresses_of_ipv6_are_compared_one_way_or_the_other(asker: Asker, flags: int, back: int) -> None:
    assert asker.make(both6(), LIFE, family=V6) == "ACK"
    other = tuple_(Cta.TUPLE_ORIG, "fd00::77", "fd00::78", UDP, 5000, 53) + tuple_(
        Cta.TUPLE_REPLY, "fd00::78", "fd00::77", UDP, 53, 5000
    )

    def passes(*said: bytes) -> bool:
        return bool(asker.dump(*said, family=V6))

    # this kernel lets pass what is equal, or it lets pass what is not
    equal = passes(flags_of(flags), both6())
    assert passes(flags_of(flags), other) != equal
    assert passes(flags_of(None, back), both6()) == equal
    assert passes(flags_of(None, back), other) != equal
    assert passes(flags_of(flags | PROTO_NUM | SRC_PORT), both6()) == equal
    assert not passes(flags_of(flags | PROTO_NUM | SRC_PORT), both6(9))


@needs("lists-filter-by-status")
@rule("CTFILT-13", "C7-19")
def test_a_refused_filter_is_an_ordinary_refusal(table: Asker) -> None:
    told, end, last = table.say(request(GET, u32(Cta.STATUS, 0), flags=DUMP, ack=False))
    assert (told, end, struct.unpack_from("=H", last, 6)[0]) == ([], "EINVAL", 0)
