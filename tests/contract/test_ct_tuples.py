"""How a request names a flow: addresses, protocol, ports, zones."""

from __future__ import annotations

import pytest

from nfnl.wire.constants import NLA_F_NESTED
from tests.contract.ctkit import (
    A6,
    B6,
    CREATE,
    DCCP,
    ESP,
    GRE,
    ICMP,
    ICMPV6,
    LIFE,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    V6,
    A,
    Asker,
    B,
    Cta,
    address,
    addresses,
    both,
    both6,
    ends,
    nest,
    orig,
    pings,
    pings6,
    protocol,
    reply,
    tuple_,
    u8,
    u16,
)
from tests.contract.rules import rule
from tests.contract.wirekit import attribute

UDP_PORTS = protocol(UDP, 5000, 53)


def odd(*parts: bytes) -> bytes:
    """A flow whose original direction consists of these parts."""
    return nest(Cta.TUPLE_ORIG, *parts) + reply()


# -------------------------------------------------------------------------------------------------------------- what is needed

MISSING = {
    "nothing": odd(),
    "no addresses": odd(UDP_PORTS),
    "no protocol": odd(addresses(A, B)),
    "no source": odd(addresses(None, B), UDP_PORTS),
    "no destination": odd(addresses(A, None), UDP_PORTS),
    "no number": odd(addresses(A, B), protocol(None, 5000, 53)),
    "no source port": odd(addresses(A, B), protocol(UDP, None, 53)),
    "no destination port": odd(addresses(A, B), protocol(UDP, 5000)),
}


@rule("CTTUPLE-3", "CTTUPLE-4", "C7-21")
@pytest.mark.parametrize("said", MISSING.values(), ids=MISSING)
def test_every_part_is_needed(asker: Asker, said: bytes) -> None:
    assert asker.make(said, LIFE) == "EINVAL"


SHORT = {
    "1 byte": attribute(Cta.TUPLE_ORIG | NLA_F_NESTED, bytes(1)) + reply(),
    "3 bytes": attribute(Cta.TUPLE_ORIG | NLA_F_NESTED, bytes(3)) + reply(),
    "addresses of 2 bytes": odd(attribute(1, bytes(2)), UDP_PORTS),
    "protocol of 1 byte": odd(addresses(A, B), attribute(2, bytes(1))),
    "source of 3 bytes": odd(nest(1, attribute(1, bytes(3)), attribute(2, address(B))), UDP_PORTS),
    "destination of 3 bytes": odd(nest(1, attribute(1, address(A)), attribute(2, bytes(3))), UDP_PORTS),
    "empty number": odd(addresses(A, B), nest(2, attribute(1), u16(2, 5000), u16(3, 53))),
    "source port of 1 byte": odd(addresses(A, B), nest(2, u8(1, UDP), u8(2, 1), u16(3, 53))),
    "destination port of 1 byte": odd(addresses(A, B), nest(2, u8(1, UDP), u16(2, 1), u8(3, 53))),
    "zone of 1 byte": odd(addresses(A, B), UDP_PORTS, u8(3, 1)),
}


@rule("CTTUPLE-1", "C7-23")
@pytest.mark.parametrize("said", SHORT.values(), ids=SHORT)
def test_a_part_that_is_too_short(asker: Asker, said: bytes) -> None:
    assert asker.make(said, LIFE) == "ERANGE"


@rule("CTTUPLE-1", "CTTUPLE-3")
def test_a_part_that_is_too_long_is_read_from_the_front(asker: Asker) -> None:
    ip = nest(1, attribute(1, address(A) + bytes(4)), attribute(2, address(B)))
    assert asker.make(odd(ip, nest(2, attribute(1, bytes((UDP, 9))), attribute(2, b"\x13\x88\0\0"), u16(3, 53))), LIFE) == "ACK"
    assert asker.only().ends == (A, B, UDP, (5000, 53), None)


# --------------------------------------------------------------------------------------------------------------------- families


@rule("CTTUPLE-2", "C7-22")
@pytest.mark.parametrize("family", [0, 1, 7, 12, 255])
def test_other_families_have_no_tuples(asker: Asker, family: int) -> None:
    assert asker.make(both(), LIFE, family=family) == "EOPNOTSUPP"


@rule("CTTUPLE-2")
def test_the_family_is_looked_at_behind_the_first_look_at_the_tuple(asker: Asker) -> None:
    inside_too_short = odd(attribute(1, bytes(2)), UDP_PORTS)
    wrong = attribute(Cta.TUPLE_ORIG | NLA_F_NESTED, bytes(4)) + reply()
    assert asker.make(wrong, LIFE, family=0) == "EOPNOTSUPP"
    assert asker.make(odd(attribute(3, bytes(1))), LIFE, family=0) == "ERANGE"
    assert asker.make(inside_too_short, LIFE, family=0) == "ERANGE"


@rule("CTTUPLE-3", "C7-22")
def test_addresses_of_the_other_family_are_not_looked_at(asker: Asker) -> None:
    assert asker.make(both(), LIFE, family=V6) == "EINVAL"
    assert asker.make(both6(), LIFE) == "EINVAL"
    mixed = nest(1, *(attribute(n, address(text)) for n, text in enumerate((A, B, A6, B6), 1)))
    assert asker.make(odd(mixed, UDP_PORTS), LIFE) == "ACK"
    assert asker.only().ends[:2] == (A, B)


@rule("CTTUPLE-3")
def test_a_flow_of_ipv6(asker: Asker) -> None:
    flow = asker.made(both6(), family=V6)
    assert flow.family == V6
    assert (flow.ends, flow.back) == ((A6, B6, UDP, (5000, 53), None), (B6, A6, UDP, (53, 5000), None))


# -------------------------------------------------------------------------------------------------------------------- protocols


@rule("CTTUPLE-5")
@pytest.mark.parametrize("number", [TCP, UDP, SCTP, GRE])
def test_protocols_with_ports(asker: Asker, number: int) -> None:
    flow = asker.made(both(number=number))
    assert flow.ends == (A, B, number, (5000, 53), None)
    assert flow.back == (B, A, number, (53, 5000), None)


@rule("CTTUPLE-5")
@pytest.mark.parametrize("number", [TCP, UDP, SCTP, GRE])
@pytest.mark.parametrize(
    ("ports", "answer"),
    [
        ((), "EINVAL"),
        ((u16(2, 1),), "EINVAL"),
        ((u16(3, 1),), "EINVAL"),
        ((u8(2, 1), u16(3, 1)), "ERANGE"),
        ((u16(2, 1), u8(3, 1)), "ERANGE"),
    ],
    ids=["none", "source", "destination", "short source", "short destination"],
)
def test_both_ports_are_needed(asker: Asker, number: int, ports: tuple[bytes, ...], answer: str) -> None:
    assert asker.make(odd(addresses(A, B), nest(2, u8(1, number), *ports)), LIFE) == answer


@rule("CTTUPLE-6")
@pytest.mark.parametrize(("kind", "back"), [(8, 0), (0, 8), (13, 14), (14, 13), (15, 16), (16, 15), (17, 18), (18, 17)])
def test_kinds_of_icmp_that_have_an_answer(asker: Asker, kind: int, back: int) -> None:
    flow = asker.made(pings(7, kind, back, code=9, back_code=3))
    assert flow.ends == (A, B, ICMP, (7, kind, 9), None)
    assert flow.back == (B, A, ICMP, (7, back, 3), None)


@rule("CTTUPLE-6")
@pytest.mark.parametrize("kind", [1, 3, 4, 5, 9, 10, 11, 12, 19, 255])
def test_kinds_of_icmp_that_have_none(asker: Asker, kind: int) -> None:
    assert asker.make(pings(7, kind, 0), LIFE) == "EINVAL"
    assert asker.make(pings(7, 8, kind), LIFE) == "EINVAL"


@rule("CTTUPLE-7")
@pytest.mark.parametrize(("kind", "back"), [(128, 129), (129, 128), (139, 140), (140, 139)])
def test_kinds_of_icmpv6_that_have_an_answer(asker: Asker, kind: int, back: int) -> None:
    assert asker.made(pings6(7, kind, back), family=V6).ends == (A6, B6, ICMPV6, (7, kind, 0), None)


@rule("CTTUPLE-7")
@pytest.mark.parametrize("kind", [0, 1, 8, 127, 130, 133, 135, 136, 141, 255])
def test_kinds_of_icmpv6_that_have_none(asker: Asker, kind: int) -> None:
    assert asker.make(pings6(7, kind, 129), LIFE, family=V6) == "EINVAL"


@rule("CTTUPLE-6", "CTTUPLE-7")
@pytest.mark.parametrize("number", [ICMP, ICMPV6])
@pytest.mark.parametrize("left_out", [0, 1, 2], ids=["id", "type", "code"])
def test_all_of_id_type_and_code_are_needed(asker: Asker, number: int, left_out: int) -> None:
    first = 7 if number == ICMPV6 else 4
    fields = [u16(first, 1), u8(first + 1, 8 if number == ICMP else 128), u8(first + 2, 0)]
    short = [attribute(first + n) for n in range(3)]
    del fields[left_out]
    whole = tuple_(Cta.TUPLE_REPLY, B, A, number, icmp=(1, 0 if number == ICMP else 129, 0))
    asked = nest(Cta.TUPLE_ORIG, addresses(A, B), nest(2, u8(1, number), *fields))
    assert asker.make(asked, whole, LIFE) == "EINVAL"
    asked = nest(Cta.TUPLE_ORIG, addresses(A, B), nest(2, u8(1, number), *fields, short[left_out]))
    assert asker.make(asked, whole, LIFE) == "ERANGE"


@rule("CTTUPLE-6", "CTTUPLE-7")
def test_icmp_is_not_known_by_ports_nor_by_the_fields_of_the_other(asker: Asker) -> None:
    assert asker.make(both(number=ICMP), LIFE) == "EINVAL"
    fields = nest(2, u8(1, ICMPV6), u16(4, 1), u8(5, 8), u8(6, 0))
    assert asker.make(nest(Cta.TUPLE_ORIG, addresses(A, B), fields), reply(), LIFE) == "EINVAL"


@rule("CTTUPLE-7")
def test_icmpv6_over_ipv4_is_possible(asker: Asker) -> None:
    there, here = (1, 128, 0), (1, 129, 0)
    said = tuple_(Cta.TUPLE_ORIG, A, B, ICMPV6, icmp=there) + tuple_(Cta.TUPLE_REPLY, B, A, ICMPV6, icmp=here)
    assert asker.made(said).ends == (A, B, ICMPV6, there, None)


@rule("CTTUPLE-8", "C7-45")
@pytest.mark.parametrize("number", [0, 2, ESP, 51, 103, 255])
@pytest.mark.parametrize("ports", [(None, None), (1, 2)], ids=["without ports", "with ports"])
def test_other_protocols_need_nothing_and_have_no_ports(
    asker: Asker, number: int, ports: tuple[int, int] | tuple[None, None]
) -> None:
    sport, dport = ports
    said = tuple_(Cta.TUPLE_ORIG, A, B, number, sport, dport) + tuple_(Cta.TUPLE_REPLY, B, A, number, dport, sport)
    flow = asker.made(said)
    assert (flow.ends, flow.back) == ((A, B, number, (), None), (B, A, number, (), None))


# ------------------------------------------------------------------------------------------------------------------------ zones


def zones(asker: Asker) -> tuple[int | None, int | None, int | None]:
    """What the one flow says of zones: its own, that of the original direction, that of the reply."""
    flow = asker.only()
    return flow.number(Cta.ZONE) if Cta.ZONE in flow else None, flow.ends.zone, flow.back.zone


def zone(number: int) -> bytes:
    """CTA_ZONE."""
    return u16(Cta.ZONE, number)


@rule("CTTUPLE-9", "CTATTR-4")
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (both() + zone(5), (5, None, None)),
        (both() + zone(65535), (65535, None, None)),
        (both() + zone(0), (None, None, None)),
        (orig(zone=7) + reply(), (None, 7, None)),
        (orig() + reply(zone=7), (None, None, 7)),
        (orig(zone=7) + reply() + zone(0), (None, 7, None)),
    ],
    ids=["both directions", "the highest", "0", "original", "reply", "original, and 0"],
)
def test_a_zone_is_for_both_directions_or_for_one(
    asker: Asker, said: bytes, shown: tuple[int | None, int | None, int | None]
) -> None:
    assert asker.make(said, LIFE) == "ACK"
    assert zones(asker) == shown


@rule("CTTUPLE-9")
@pytest.mark.parametrize(
    "said",
    [
        orig(zone=7) + reply(zone=8),
        orig(zone=7) + reply(zone=7),
        orig(zone=7) + reply() + zone(3),
        orig() + reply(zone=7) + zone(3),
    ],
    ids=["both", "both the same", "zone and original", "zone and reply"],
)
def test_a_zone_is_named_once(asker: Asker, said: bytes) -> None:
    assert asker.make(said, LIFE) == "EINVAL"


@rule("CTTUPLE-9")
def test_a_master_is_named_without_a_zone(asker: Asker) -> None:
    asker.made(both(number=TCP))
    master = orig(number=TCP, type=Cta.TUPLE_MASTER)
    assert asker.make(both(), LIFE, orig(number=TCP, type=Cta.TUPLE_MASTER, zone=3)) == "EINVAL"
    assert asker.make(both(), LIFE, master) == "ACK"
    assert [ends(flow[Cta.TUPLE_MASTER]) for flow in asker.dump() if Cta.TUPLE_MASTER in flow] == [(A, B, TCP, (5000, 53), None)]


@rule("CTTUPLE-10")
def test_the_same_tuples_may_stand_in_every_zone(asker: Asker) -> None:
    said = both() + LIFE
    answers = [asker.make(said, zone(number)) for number in (0, 1, 2, 1)]
    assert answers == ["ACK", "ACK", "ACK", "EEXIST"]


@rule("CTTUPLE-10")
def test_a_zone_of_one_direction_leaves_the_other_in_zone_0(asker: Asker) -> None:
    assert asker.make(orig(zone=7), reply(), LIFE) == "ACK"
    assert asker.make(both(), LIFE, flags=CREATE) == "EEXIST", "the reply is taken"
    assert asker.make(both(), LIFE, zone(7), flags=CREATE) == "ACK", "an update: the original direction is found in that zone"
    assert len(asker.dump()) == 1


@rule("C7-45", "CTTUPLE-8")
@pytest.mark.parametrize("number", [DCCP, UDPLITE])
def test_dccp_and_udplite_have_ports_where_the_kernel_tracks_them(asker: Asker, number: int) -> None:
    flow = asker.made(both(number=number))
    assert flow.ends[:3] == (A, B, number)
    assert flow.ends.numbers in ((), (5000, 53))
    # with a tracker both ports are needed, without one they are not even looked at
    bare = tuple_(Cta.TUPLE_ORIG, A, B, number) + tuple_(Cta.TUPLE_REPLY, B, A, number)
    assert asker.make(bare, LIFE, flags=CREATE) == ("EINVAL" if flow.ends.numbers else "ACK")
    assert len(asker.dump()) == 1
