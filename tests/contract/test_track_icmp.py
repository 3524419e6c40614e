"""ICMP and ICMPv6: questions and answers that are flows, errors that are related to one."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import CONFIRMED, ICMP, ICMPV6, LIFE, SEEN_REPLY, UDP, Cta, Ends, tuple_
from tests.contract.rules import needs, rule
from tests.contract.trackkit import A2, A6, B2, B6, HERE6, A, B, Clock, Wire, icmp, ip, spoilt, tcp, udp

PING, PONG = icmp(8), icmp(0, source=B, destination=A)


# ----------------------------------------------------------------------------------------------------------- questions, answers


@rule("TI-1", "TK-3")
def test_life_of_a_flow_of_icmp(wire: Wire) -> None:
    clock = Clock(wire, "icmp_", "timeout")
    assert [(wire.state(packet), clock(wire.flow), wire.flow.status) for packet in (PING, PING, PONG, PONG, PING)] == [
        ("NEW", "timeout", CONFIRMED),
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
    ]
    assert (wire.flow.ends, wire.flow.back) == (Ends(A, B, ICMP, (5, 8, 0)), Ends(B, A, ICMP, (5, 0, 0)))


@rule("TI-1")
@pytest.mark.parametrize("sender", ["asks", "answers"])
def test_both_directions_prolong_it(wire: Wire, sender: str) -> None:
    wire.states(PING, PONG)
    wire.set(icmp_timeout=3000)
    wire.state(PING if sender == "asks" else PONG)
    assert wire.flow.number(Cta.TIMEOUT) > 1000


@rule("TI-1")
@pytest.mark.parametrize(("kind", "answer"), [(8, 0), (13, 14), (15, 16), (17, 18)])
def test_four_kinds_of_questions(wire: Wire, kind: int, answer: int) -> None:
    assert wire.state(icmp(kind)) == "NEW"
    assert wire.flow.back == Ends(B, A, ICMP, (5, answer, 0))
    assert wire.state(icmp(answer, source=B, destination=A)) == "ESTABLISHED"


@rule("TI-1")
@pytest.mark.parametrize("kind", [0, 14, 16, 18, 1, 2, 6, 7, 9, 10, 19, 40, 255])
def test_nothing_else_begins_a_flow(wire: Wire, kind: int) -> None:
    assert wire.state(icmp(kind)) == "INVALID"
    assert wire.flows == []


@rule("TI-1")
def test_a_wrong_answer_is_no_answer(wire: Wire) -> None:
    back = {"source": B, "destination": A}
    assert wire.state(icmp(8, 3)) == "NEW"
    assert wire.state(icmp(0, 0, **back)) == "INVALID"  # type: ignore[arg-type]
    assert wire.state(icmp(0, 3, id=6, **back)) == "INVALID"  # type: ignore[arg-type]
    assert wire.state(icmp(14, 3, **back)) == "INVALID"  # type: ignore[arg-type]
    assert wire.state(icmp(0, 3, **back)) == "ESTABLISHED"  # type: ignore[arg-type]


@rule("TI-1", "TK-1")
@pytest.mark.parametrize(
    "packet", [ip(A, B, ICMP, b"\x08\0\0\0"), ip(A, B, ICMP), spoilt(PING, 22, size=2)], ids=["4 bytes", "0", "sum"]
)
def test_invalid_icmp(wire: Wire, packet: bytes) -> None:
    assert wire.state(packet) == "INVALID"


@rule("TI-2")
def test_life_of_a_flow_of_icmpv6(wire: Wire) -> None:
    clock = Clock(wire.ipv6(), "icmpv6_", "timeout")
    packets = (icmp(128, source=A6, destination=B6), icmp(129, source=B6, destination=A6))
    assert [(wire.state(packet), clock(wire.flow), wire.flow.status) for packet in packets] == [
        ("NEW", "timeout", CONFIRMED),
        ("ESTABLISHED", "timeout", CONFIRMED | SEEN_REPLY),
    ]
    assert (wire.flow.ends, wire.flow.back) == (Ends(A6, B6, ICMPV6, (5, 128, 0)), Ends(B6, A6, ICMPV6, (5, 129, 0)))


@rule("TI-2")
@pytest.mark.parametrize(("kind", "state"), [(139, "NEW"), *((kind, "INVALID") for kind in (129, 140, 144, 200, 255))])
def test_what_begins_a_flow_of_icmpv6(wire: Wire, kind: int, state: str) -> None:
    assert wire.ipv6().state(icmp(kind, source=A6, destination=B6)) == state


@rule("TI-2")
@pytest.mark.parametrize(
    "kind",
    [
        *(130, 131, 132, 133, 134, 135, 136, 143),
        *(pytest.param(kind, marks=needs("multicast-routers-untracked")) for kind in (151, 152)),
    ],
)
def test_what_neighbours_say_is_not_tracked(wire: Wire, kind: int) -> None:
    assert wire.ipv6().state(icmp(kind, source=A6, destination=HERE6, data=bytes(16))) == "UNTRACKED"


@rule("TI-2")
def test_icmpv6_in_ipv4_is_invalid(wire: Wire) -> None:
    assert wire.state(ip(A, B, ICMPV6, b"\x80" + bytes(7))) == "INVALID"


# ---------------------------------------------------------------------------------------------------------------------- errors

FLOW = udp(A, B)
BEGINNING = FLOW[:28]


def error(kind: int = 3, code: int = 3, quoted: bytes = BEGINNING, *, source: str = B, destination: str = A) -> bytes:
    """An error about a packet; from its destination to its source, unless told otherwise."""
    return icmp(kind, code, 0, quoted, source=source, destination=destination, seq=0)


@pytest.fixture
def flowing(wire: Wire) -> Wire:
    """There is a flow from A to B."""
    assert wire.state(FLOW) == "NEW"
    return wire


@rule("TI-3")
@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_errors_are_related(flowing: Wire, kind: int) -> None:
    assert flowing.state(error(kind, 0)) == "RELATED"
    assert flowing.flow.status == CONFIRMED


@rule("TI-3")
def test_an_error_may_come_from_anywhere(flowing: Wire) -> None:
    packet = error(11, 0, source=B2)
    assert flowing.state(packet) == "RELATED"
    assert flowing.passes(packet) is not None


@rule("TI-3")
def test_an_error_may_be_about_an_answer(flowing: Wire) -> None:
    assert flowing.state(error(quoted=udp(B, A, 53, 5000)[:28], source=A, destination=B)) == "RELATED"


@rule("TI-3")
def test_an_error_does_nothing_to_the_flow(flowing: Wire) -> None:
    flowing.set(acct=1)
    flowing.asker.delete()
    flowing.state(FLOW)
    watcher = flowing.listen()
    assert flowing.asker.change(tuple_(Cta.TUPLE_ORIG, A, B, UDP, 5000, 53), LIFE) == "ACK"
    watcher.told()
    assert flowing.state(error()) == "RELATED"
    flow = flowing.flow
    assert flow.number(Cta.TIMEOUT) > 100
    assert flow.inside(Cta.COUNTERS_REPLY).numbers() == {1: 0, 2: 0}
    assert flow.inside(Cta.COUNTERS_ORIG).number(1) == 1
    assert watcher.told() == []


@rule("TI-3")
@pytest.mark.parametrize(
    "packet",
    [
        error(quoted=udp(A, B, 5001)[:28]),
        error(destination=A2),
        error(quoted=BEGINNING[:22]),
        error(quoted=b""),
        error(quoted=spoilt(BEGINNING, 6, 10, size=2)),
        spoilt(error(), 22, size=2),
    ],
    ids=["unknown flow", "sent elsewhere", "no ports", "nothing quoted", "a later fragment", "checksum"],
)
def test_errors_that_are_invalid(flowing: Wire, packet: bytes) -> None:
    assert flowing.state(packet) == "INVALID"


@rule("TI-3")
@pytest.mark.parametrize(("size", "state"), [(24, "RELATED"), (23, "INVALID")])
def test_how_much_an_error_quotes(flowing: Wire, size: int, state: str) -> None:
    assert flowing.state(error(quoted=FLOW[:size])) == state


@rule("TI-3")
def test_an_error_about_a_ping(wire: Wire) -> None:
    assert wire.states(PING, error(quoted=PING)) == ["NEW", "RELATED"]


@rule("TI-3")
def test_an_error_about_an_error(wire: Wire) -> None:
    assert wire.state(FLOW) == "NEW"
    assert wire.state(error(quoted=error())) == "INVALID"


@rule("TI-3")
def test_an_error_about_a_segment(wire: Wire) -> None:
    packet = tcp(A, B, 5000, 80, "S", 1)
    assert wire.states(packet, error(quoted=packet[:28])) == ["NEW", "RELATED"]


@rule("TI-4")
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 100, 127])
def test_what_of_icmpv6_is_an_error(wire: Wire, kind: int) -> None:
    wire.ipv6()
    packet = udp(A6, B6)
    assert wire.states(packet, error(kind, 0, packet[:48], source=B6, destination=A6)) == ["NEW", "RELATED"]


@rule("TI-4")
@pytest.mark.parametrize(
    ("quoted", "destination"),
    [(udp(A6, B6, 5001)[:48], A6), (udp(A6, B6)[:48], "2001:db8:a::2"), (udp(A6, B6)[:42], A6)],
    ids=["unknown flow", "sent elsewhere", "no ports"],
)
def test_errors_of_icmpv6_that_are_invalid(wire: Wire, quoted: bytes, destination: str) -> None:
    assert wire.ipv6().state(udp(A6, B6)) == "NEW"
    assert wire.state(error(1, 0, quoted, source=B6, destination=destination)) == "INVALID"
