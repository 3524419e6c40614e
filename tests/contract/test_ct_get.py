"""Asking for one flow."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import (
    ANY,
    GET,
    GET_CTRZERO,
    LIFE,
    MATCH,
    MULTI,
    NEW,
    ROOT,
    TCP,
    UDP,
    V6,
    A,
    Asker,
    B,
    Cta,
    both,
    both6,
    orig,
    reply,
    request,
    tuple_,
    u16,
    u32,
)
from tests.contract.rules import rule


@pytest.fixture
def owner(asker: Asker) -> Asker:
    """Somebody who has made one UDP flow."""
    assert asker.make(both(), LIFE) == "ACK"
    return asker


@rule("CTGET-1", "C7-25")
@pytest.mark.parametrize("operation", [GET, GET_CTRZERO])
def test_the_answer_is_one_flow_and_then_the_acknowledgement(owner: Asker, operation: int) -> None:
    told, end, _ = owner.say(request(operation, orig(), seq=55))
    [flow] = told
    assert (flow.type, flow.seq, flow.pid, flow.family, flow.version, flow.res_id) == (1 << 8 | NEW, 55, owner.port_id, 2, 0, 0)
    assert flow.ends == (A, B, UDP, (5000, 53), None)
    assert end == "ACK"


@rule("CTGET-1", "C7-18")
@pytest.mark.parametrize("operation", [GET, GET_CTRZERO])
def test_it_says_that_more_follows_and_nothing_does(owner: Asker, operation: int) -> None:
    told, end, _ = owner.say(request(operation, orig(), ack=False))
    assert ([flow.flags for flow in told], end) == ([MULTI], "")


@rule("CTGET-2", "C7-24")
@pytest.mark.parametrize(
    "said",
    [
        orig(),
        reply(),
        both(),
        tuple_(Cta.TUPLE_ORIG, B, A, UDP, 53, 5000),
        tuple_(Cta.TUPLE_REPLY, A, B, UDP, 5000, 53),
        orig() + reply(99),
    ],
    ids=["original", "reply", "both", "reply as original", "original as reply", "original counts"],
)
def test_a_flow_is_found_by_either_direction(owner: Asker, said: bytes) -> None:
    assert owner.fetch(said).ends == (A, B, UDP, (5000, 53), None)


@rule("CTGET-3")
@pytest.mark.parametrize(
    ("said", "family", "answer"),
    [
        (b"", 2, "EINVAL"),
        (b"", ANY, "EINVAL"),
        (u32(Cta.ID, 1), 2, "EINVAL"),
        (orig(1), 2, "ENOENT"),
        (orig(99) + reply(), 2, "ENOENT"),
        (orig(number=TCP), 2, "ENOENT"),
        (orig(), ANY, "EOPNOTSUPP"),
        (orig(), V6, "EINVAL"),
        (orig() + u16(Cta.ZONE, 3), 2, "ENOENT"),
    ],
    ids=["nothing", "nothing, any family", "id", "other port", "other original", "other protocol", "any family", "IPv6", "zone"],
)
@pytest.mark.parametrize("operation", [GET, GET_CTRZERO])
def test_a_flow_that_is_not_found(owner: Asker, said: bytes, family: int, answer: str, operation: int) -> None:
    assert owner.get(said, family=family, operation=operation) == answer


@rule("CTGET-4")
@pytest.mark.parametrize(
    "said",
    [u32(Cta.ID, 1), u32(Cta.MARK, 77), u32(Cta.STATUS, 0), u32(Cta.TIMEOUT, 5), u32(Cta.MARK_MASK, 1)],
    ids=["ID", "MARK", "STATUS", "TIMEOUT", "MARK_MASK"],
)
def test_nothing_but_the_tuple_is_compared(owner: Asker, said: bytes) -> None:
    assert owner.fetch(orig(), said)[Cta.ID] == owner.only()[Cta.ID]


@rule("CTGET-5")
def test_a_flow_of_a_zone_is_asked_for_with_its_zone(asker: Asker) -> None:
    asker.made(both(), u16(Cta.ZONE, 9))
    assert asker.get(orig()) == "ENOENT"
    assert asker.fetch(orig(), u16(Cta.ZONE, 9)).number(Cta.ZONE) == 9
    for said in (orig(zone=9), reply(zone=9)):
        assert asker.fetch(said).number(Cta.ZONE) == 9, "in that direction it is the same"


@rule("CTGET-5")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (orig(zone=4), "found"),
        (orig() + u16(Cta.ZONE, 4), "found"),
        (orig(), "ENOENT"),
        (reply(), "found"),
        (reply() + u16(Cta.ZONE, 4), "ENOENT"),
        (reply(zone=4), "ENOENT"),
        (orig(zone=4) + u16(Cta.ZONE, 4), "EINVAL"),
        (orig(zone=5), "ENOENT"),
    ],
    ids=["tuple's", "ZONE", "none", "reply", "reply, ZONE", "reply's", "twice", "another"],
)
def test_a_zone_of_the_original_direction(asker: Asker, said: bytes, answer: str) -> None:
    assert asker.make(orig(zone=4), reply(), LIFE) == "ACK"
    found = asker.get(said)
    assert (found if isinstance(found, str) else "found") == answer


@rule("CTGET-6")
@pytest.mark.parametrize("flags", [ROOT, MATCH, ROOT | MATCH])
def test_either_bit_of_dump_makes_it_a_dump(owner: Asker, flags: int) -> None:
    assert owner.make(both6(), LIFE, family=V6) == "ACK"
    told, end, _ = owner.say(request(GET, orig(1), flags=flags, family=ANY, ack=False))
    assert (len(told), end) == (2, "DONE")


@rule("CTGET-7")
def test_asking_counts_as_a_use(owner: Asker) -> None:
    assert owner.only().number(Cta.USE) == 1
    assert owner.fetch(orig()).number(Cta.USE) == 2
    assert owner.only().number(Cta.USE) == 1


@rule("CTGET-7")
def test_a_child_is_a_use_of_its_master(asker: Asker) -> None:
    asker.made(both(number=TCP))
    assert asker.make(both(2), LIFE, orig(number=TCP, type=Cta.TUPLE_MASTER)) == "ACK"
    assert {flow.ends.numbers[0]: flow.number(Cta.USE) for flow in asker.dump()} == {5000: 2, 2: 1}
    assert asker.delete(orig(2)) == "ACK"
    assert asker.only().number(Cta.USE) == 1
