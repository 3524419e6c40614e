"""CTA_NAT_SRC and CTA_NAT_DST: a new flow whose addresses are translated."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import (
    CONFIRMED,
    DST_NAT,
    DST_NAT_DONE,
    ICMP,
    LIFE,
    SRC_NAT,
    SRC_NAT_DONE,
    UDP,
    V6,
    A,
    Asker,
    B,
    Cta,
    address,
    both,
    both6,
    nest,
    orig,
    pings,
    tuple_,
    u8,
    u16,
)
from tests.contract.rules import rule
from tests.contract.wirekit import attribute

MINIP, MAXIP, PROTO, MINIP6, MAXIP6 = 1, 2, 3, 4, 5
PORT_MIN, PORT_MAX = 1, 2
DONE = CONFIRMED | SRC_NAT_DONE | DST_NAT_DONE


def at(type: int, text: str) -> bytes:  # noqa: A002
    """An address to translate to."""
    return attribute(type, address(text))


def src(*inner: bytes) -> bytes:
    """CTA_NAT_SRC."""
    return nest(Cta.NAT_SRC, *inner)


def dst(*inner: bytes) -> bytes:
    """CTA_NAT_DST."""
    return nest(Cta.NAT_DST, *inner)


def ports(*inner: bytes) -> bytes:
    """CTA_NAT_PROTO."""
    return nest(PROTO, *inner)


@rule("CTNAT-1", "CTNAT-2")
@pytest.mark.parametrize(
    ("said", "back", "bits"),
    [
        (src(at(MINIP, "10.9.5.5")), (B, "10.9.5.5", (53, 5000)), SRC_NAT),
        (src(at(MINIP, "10.9.5.5"), ports(u16(PORT_MIN, 4000), u16(PORT_MAX, 4000))), (B, "10.9.5.5", (53, 4000)), SRC_NAT),
        (src(at(MINIP, "10.9.5.5"), ports(u16(PORT_MIN, 4000))), (B, "10.9.5.5", (53, 4000)), SRC_NAT),
        (src(ports(u16(PORT_MIN, 4000))), (B, A, (53, 4000)), SRC_NAT),
        (dst(at(MINIP, "10.9.6.6")), ("10.9.6.6", A, (53, 5000)), DST_NAT),
        (dst(at(MINIP, "10.9.6.6"), ports(u16(PORT_MIN, 5353))), ("10.9.6.6", A, (5353, 5000)), DST_NAT),
        (dst(ports(u16(PORT_MIN, 5353))), (B, A, (5353, 5000)), DST_NAT),
        (src(at(MINIP, "10.9.5.5")) + dst(at(MINIP, "10.9.6.6")), ("10.9.6.6", "10.9.5.5", (53, 5000)), SRC_NAT | DST_NAT),
        (src(at(MINIP, "10.9.5.5"), at(MAXIP, "10.9.5.5")), (B, "10.9.5.5", (53, 5000)), SRC_NAT),
    ],
    ids=["source", "source, ports", "source, port", "port", "dest", "dest, port", "dest port", "both", "range of one"],
)
def test_the_reply_comes_from_and_goes_to_the_translated(
    asker: Asker, said: bytes, back: tuple[str, str, tuple[int, int]], bits: int
) -> None:
    flow = asker.made(both(), said)
    assert flow.ends == (A, B, UDP, (5000, 53), None)
    assert (flow.back.source, flow.back.destination, flow.back.numbers) == back
    assert flow.status == DONE | bits


@rule("CTNAT-2", "CTNAT-3")
@pytest.mark.parametrize(
    "said",
    [
        src(),
        dst(),
        src(at(MAXIP, "10.9.5.5")),
        src(at(MINIP6, "fd00::77")),
        src(ports()),
        src(attribute(PROTO)),
        src(at(MINIP, A)),
        dst(at(MINIP, B)),
        src(ports(u16(PORT_MIN, 5000))),
        src(attribute(77, b"zz")),
    ],
    ids=["nothing", "no dest", "max alone", "IPv6", "no ports", "empty ports", "same", "same dest", "same port", "unknown"],
)
def test_a_binding_that_changes_nothing(asker: Asker, said: bytes) -> None:
    flow = asker.made(both(), said)
    assert flow.back == (B, A, UDP, (53, 5000), None)
    assert flow.status == DONE


@rule("CTNAT-1")
def test_without_these_attributes_there_is_no_binding(asker: Asker) -> None:
    assert asker.made(both()).status == CONFIRMED


@rule("CTNAT-3")
@pytest.mark.parametrize(
    "inner",
    [
        attribute(MINIP, bytes(2)),
        attribute(MINIP, bytes(3)),
        attribute(MAXIP, bytes(3)),
        ports(u8(PORT_MIN, 5)),
        ports(u8(PORT_MAX, 5)),
        attribute(PROTO, bytes(3)),
        attribute(MINIP6, bytes(15)),
    ],
    ids=["2 bytes", "3 bytes", "max", "port", "max port", "ports", "IPv6"],
)
@pytest.mark.parametrize("kind", [Cta.NAT_SRC, Cta.NAT_DST])
def test_a_part_that_is_too_short(asker: Asker, kind: int, inner: bytes) -> None:
    assert asker.make(both(), LIFE, nest(kind, inner)) == "ERANGE"
    assert asker.dump() == []


@rule("CTNAT-4")
def test_one_of_a_range_of_addresses(asker: Asker) -> None:
    flow = asker.made(both(), src(at(MINIP, "10.9.5.1"), at(MAXIP, "10.9.5.4")))
    assert flow.back.destination in {f"10.9.5.{n}" for n in (1, 2, 3, 4)}
    assert flow.back.numbers == (53, 5000)


@rule("CTNAT-4")
@pytest.mark.parametrize("kind", [src, dst])
def test_one_of_a_range_of_ports(asker: Asker, kind: object) -> None:
    said = ports(u16(PORT_MIN, 7000), u16(PORT_MAX, 7001))
    flow = asker.made(both(), src(said) if kind is src else dst(said))
    assert flow.back.numbers[kind is src] in (7000, 7001)


@rule("CTNAT-4")
def test_the_highest_port_alone_means_from_0(asker: Asker) -> None:
    flow = asker.made(both(), src(ports(u16(PORT_MAX, 3))))
    assert flow.back.numbers[1] <= 3


@rule("CTNAT-5")
def test_a_tuple_that_is_taken_is_given_another_port(asker: Asker) -> None:
    said = src(at(MINIP, "10.9.5.5"))
    asker.made(both(), said)
    other = tuple_(Cta.TUPLE_ORIG, "10.9.0.3", B, UDP, 5000, 53) + tuple_(Cta.TUPLE_REPLY, B, "10.9.0.3", UDP, 53, 5000)
    assert asker.make(other, LIFE, said) == "ACK"
    first, second = sorted((flow.back for flow in asker.dump()), key=lambda back: back.numbers[1] != 5000)
    assert first.numbers == (53, 5000)
    assert second[:3] == (B, "10.9.5.5", UDP)
    assert second.numbers != first.numbers


@rule("CTNAT-5")
def test_a_range_that_is_used_up(asker: Asker) -> None:
    said = src(at(MINIP, "10.9.5.5"), ports(u16(PORT_MIN, 4000)))
    asker.made(both(1), said)
    assert asker.make(both(2), LIFE, said) == "EEXIST"
    assert len(asker.dump()) == 1


@rule("CTNAT-6")
@pytest.mark.parametrize(("kind", "back"), [(8, 0), (13, 14)])
def test_the_port_of_an_echo_is_its_id(asker: Asker, kind: int, back: int) -> None:
    flow = asker.made(pings(5, kind, back), src(at(MINIP, "10.9.5.5"), ports(u16(PORT_MIN, 99))))
    assert flow.ends.numbers == (5, kind, 0)
    assert flow.back == (B, "10.9.5.5", ICMP, (99, back, 0), None)


@rule("CTNAT-7")
def test_translating_ipv6(asker: Asker) -> None:
    flow = asker.made(both6(), src(at(MINIP6, "fd00::77")), dst(at(MINIP6, "fd00::88")), family=V6)
    assert (flow.back.source, flow.back.destination) == ("fd00::88", "fd00::77")
    assert flow.status == DONE | SRC_NAT | DST_NAT
    assert asker.delete(orig()) == "ENOENT"


@rule("CTNAT-7")
def test_addresses_of_ipv4_mean_nothing_to_ipv6(asker: Asker) -> None:
    assert asker.made(both6(), src(at(MINIP, "10.9.5.5")), family=V6).status == DONE


@rule("CTNAT-8")
@pytest.mark.parametrize(
    ("said", "source", "destination", "bits"),
    [
        (src(at(MINIP, "10.9.5.5")), "1.1.1.1", "10.9.5.5", SRC_NAT),
        (dst(at(MINIP, "10.9.6.6")), "10.9.6.6", "2.2.2.2", DST_NAT),
        (src(), "1.1.1.1", "2.2.2.2", 0),
    ],
    ids=["source", "destination", "neither"],
)
def test_a_reply_that_is_no_mirror_keeps_its_other_half(
    asker: Asker, said: bytes, source: str, destination: str, bits: int
) -> None:
    flow = asker.made(orig(), tuple_(Cta.TUPLE_REPLY, "1.1.1.1", "2.2.2.2", UDP, 9, 10), said)
    assert flow.back == (source, destination, UDP, (9, 10), None)
    assert flow.status == DONE | bits
