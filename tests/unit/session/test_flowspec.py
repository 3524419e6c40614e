"""Tuples, masks and filters from what people write."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from nfnl.errors import EncodeError, LocalProtocolError
from nfnl.session.flowspec import FlowFilter, expected_tuple, family_of, nat_to, reply_to, tuple_of, zones_of
from nfnl.session.protocols import PROTOCOLS, protocol_number
from nfnl.subsys.conntrack import Flow, Nat, NatProto, Protocol, Status, Tuple, TupleIp, TupleProto
from nfnl.wire.constants import Family


def test_a_tuple() -> None:
    assert tuple_of("10.0.0.1", IPv4Address("10.0.0.2"), "TCP", 1, 2, zone=3) == Tuple(
        ip=TupleIp(v4_src=IPv4Address("10.0.0.1"), v4_dst=IPv4Address("10.0.0.2")),
        proto=TupleProto(num=6, src_port=1, dst_port=2),
        zone=3,
    )
    assert tuple_of() == Tuple()
    assert tuple_of(dst="fd00::1").present() == {"ip"}
    assert tuple_of(protocol=0).protocol == 0


@pytest.mark.parametrize(("protocol", "name"), [("icmp", "icmp"), ("icmpv6", "icmpv6"), (58, "icmpv6")])
def test_what_icmp_has_goes_where_it_belongs(protocol: str | int, name: str) -> None:
    made = tuple_of(protocol=protocol, icmp_type=8, icmp_code=0, icmp_id=7)
    assert made.proto is not None
    assert made.proto.present() == {"num", f"{name}_type", f"{name}_code", f"{name}_id"}
    assert (made.icmp_type, made.icmp_code, made.icmp_id) == (8, 0, 7)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"src": "10.0.0"}, "10.0.0"),
        ({"src": "10.0.0.1", "dst": "::1"}, "two families"),
        ({"protocol": "tpc"}, "no protocol 'tpc'"),
        ({"protocol": -1}, "from 0 to 255"),
    ],
)
def test_what_is_no_tuple(arguments: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tuple_of(**arguments)
    with pytest.raises(EncodeError, match="src_port"):
        tuple_of(src_port=65536)


def test_protocols_agree_with_the_declaration() -> None:
    for protocol in Protocol:
        assert protocol_number(protocol.name.lower()) == protocol
    assert protocol_number("UDP-Lite") == PROTOCOLS["udplite"]


def test_what_answers_a_tuple() -> None:
    assert reply_to(tuple_of("10.0.0.1", "10.0.0.2", "udp", 1, 2, zone=3)) == tuple_of("10.0.0.2", "10.0.0.1", "udp", 2, 1)
    ping = tuple_of("10.0.0.1", "10.0.0.2", "icmp", icmp_type=8, icmp_code=0, icmp_id=5)
    assert reply_to(ping) == tuple_of("10.0.0.2", "10.0.0.1", "icmp", icmp_type=0, icmp_code=0, icmp_id=5)
    six = tuple_of("fd00::1", "fd00::2", "icmpv6", icmp_type=128, icmp_code=0, icmp_id=5)
    assert reply_to(six).icmp_type == 129
    assert reply_to(reply_to(six)) == six
    with pytest.raises(ValueError, match="has no answer"):
        reply_to(tuple_of("10.0.0.1", "10.0.0.2", "icmp", icmp_type=3, icmp_code=0, icmp_id=0))


def test_translations() -> None:
    assert nat_to("192.0.2.1") == Nat(v4_minip=IPv4Address("192.0.2.1"))
    assert nat_to(port=1, last_port=9) == Nat(proto=NatProto(port_min=1, port_max=9))
    ends: dict[str, Any] = {"v6_minip": ip_address("fd00::1"), "v6_maxip": ip_address("fd00::9")}
    assert nat_to("fd00::1", 5, last="fd00::9") == Nat(**ends, proto=NatProto(port_min=5))
    for wrong in ({"last": "10.0.0.1"}, {"address": "10.0.0.1", "last": "::1"}, {"last_port": 5}):
        with pytest.raises(ValueError, match=r"no range|needs port"):
            nat_to(**wrong)


def test_what_an_expectation_leaves_open() -> None:
    whole, mask = expected_tuple(tuple_of("10.0.0.1", "10.0.0.2", "tcp", dst_port=5000))
    assert whole == tuple_of("10.0.0.1", "10.0.0.2", "tcp", 0, 5000)
    assert mask == tuple_of("255.255.255.255", "255.255.255.255", "tcp", 0, 65535)
    whole, mask = expected_tuple(tuple_of(dst="fd00::2", protocol="udp", src_port=1, dst_port=2))
    ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    assert whole == tuple_of("::", "fd00::2", "udp", 1, 2)
    assert mask == tuple_of("::", ones, "udp", 65535, 65535)


def test_families() -> None:
    assert family_of(tuple_of("10.0.0.1"), None) is Family.IPV4
    assert family_of(tuple_of(dst="::1")) is Family.IPV6
    assert family_of(tuple_of(protocol=6), None) is Family.UNSPEC
    with pytest.raises(ValueError, match="two families"):
        family_of(tuple_of("10.0.0.1"), tuple_of("::1"))


# --- filters ----------------------------------------------------------------------------------------------------------------------


def flow(**fields: Any) -> Flow:
    original = fields.pop("original", tuple_of("10.0.0.1", "10.0.0.2", "tcp", 1000, 80))
    return Flow(nfgen_family=2, original=original, reply=reply_to(original), **{"status": Status.CONFIRMED, **fields})


SCTP = tuple_of("10.0.0.1", "10.0.0.2", "sctp", 1000, 80)
SIX = tuple_of("fd00::1", "fd00::2", "udp", 1000, 80)


@pytest.mark.parametrize(
    ("wanted", "fits", "does_not"),
    [
        (FlowFilter(family=Family.IPV4), flow(), flow(original=SIX)),
        (FlowFilter(mark=0), flow(), flow(mark=1)),
        (FlowFilter(mark=1, mark_mask=0xF), flow(mark=0x11), flow(mark=0x12)),
        (FlowFilter(status=Status.ASSURED), flow(status=Status.ASSURED | Status.CONFIRMED), flow()),
        (FlowFilter(status=Status(0), status_mask=Status.ASSURED), flow(), flow(status=Status.ASSURED)),
        (FlowFilter(zone=0), flow(), flow(zone=7)),
        (FlowFilter(zone=7), flow(zone=7), flow()),
        (FlowFilter(zone=7), flow(original=tuple_of("10.0.0.1", "10.0.0.2", "tcp", 1, 2, zone=7)), flow(zone=8)),
        (FlowFilter(original=tuple_of("10.0.0.1", protocol="sctp", dst_port=80)), flow(original=SCTP), flow()),
        (FlowFilter(reply=tuple_of(dst="fd00::1")), flow(original=SIX), flow()),
        (
            FlowFilter(original=tuple_of("10.0.0.1", zone=7)),
            flow(original=tuple_of("10.0.0.1", "10.0.0.2", 6, 1, 2, zone=7)),
            flow(),
        ),
    ],
)
def test_what_a_filter_means(wanted: FlowFilter, fits: Flow, does_not: Flow) -> None:
    assert wanted
    assert wanted.matches(fits)
    assert not wanted.matches(does_not)
    assert FlowFilter().matches(fits)
    assert not FlowFilter()


@pytest.mark.parametrize(
    ("criteria", "match"),
    [
        ({"mark_mask": 1}, "mark_mask without mark"),
        ({"status_mask": Status.ASSURED}, "status_mask without status"),
        ({"mark": 2, "mark_mask": 1}, "outside its mask"),
        ({"status": Status(0)}, "needs a status_mask"),
        ({"original": tuple_of("10.0.0.1", dst_port=80)}, "only together with a protocol"),
        ({"original": tuple_of(protocol="tcp")}, "together with a family"),
        ({"original": tuple_of("10.0.0.1"), "family": Family.IPV6}, "not of family IPV6"),
    ],
)
def test_what_is_no_filter_to_the_kernel(criteria: Any, match: str) -> None:
    with pytest.raises(LocalProtocolError, match=match):
        FlowFilter(**criteria)


def test_zones() -> None:
    assert zones_of(flow()) == {0}
    assert zones_of(flow(zone=3)) == {3}
    assert zones_of(flow(original=tuple_of("10.0.0.1", "10.0.0.2", 6, 1, 2, zone=9))) == {9}
