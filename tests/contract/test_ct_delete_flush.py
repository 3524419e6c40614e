"""Removing flows: one that is named, or all that a filter lets through. What is no filter does not save anything."""

from __future__ import annotations

import pytest

from nfnl.wire.constants import Group
from tests.contract.ctkit import (
    ANY,
    ASSURED,
    CONFIRMED,
    DYING,
    LIFE,
    TCP,
    UDP,
    V4,
    V6,
    A,
    Asker,
    B,
    Cta,
    both,
    both6,
    flags_of,
    helper,
    nest,
    orig,
    reply,
    tuple_,
    u16,
    u32,
    watch,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import attribute


@pytest.fixture
def owner(asker: Asker) -> Asker:
    """Somebody who has made one UDP flow."""
    assert asker.make(both(), LIFE) == "ACK"
    return asker


#: what makes each flow of a table different: its mark
PLAIN, SCORED, MARKED, ZONED, IPV6, SURE = 0, 0x12, 0x11, 0x20, 0x40, 0x80
ALL = {PLAIN, SCORED, MARKED, ZONED, IPV6, SURE}


@pytest.fixture
def table(asker: Asker) -> Asker:
    """Somebody who has made a table of flows, told apart by their marks."""
    assert asker.make(both(1), LIFE) == "ACK"
    assert asker.make(both(2), LIFE, u32(Cta.MARK, SCORED)) == "ACK"
    assert asker.make(both(3), LIFE, u32(Cta.MARK, MARKED)) == "ACK"
    assert asker.make(both(4), LIFE, u32(Cta.MARK, ZONED), u16(Cta.ZONE, 5)) == "ACK"
    assert asker.make(both6(5), LIFE, u32(Cta.MARK, IPV6), family=V6) == "ACK"
    assert asker.make(both(6, number=TCP), LIFE, u32(Cta.MARK, SURE), u32(Cta.STATUS, CONFIRMED | ASSURED)) == "ACK"
    return asker


def left(asker: Asker) -> set[int]:
    """Marks of the flows that are there."""
    return {flow.mark for flow in asker.dump()}


# ------------------------------------------------------------------------------------------------------------------------- one


@rule("CTDEL-1")
@pytest.mark.parametrize(
    "said",
    [orig(), reply(), both(), tuple_(Cta.TUPLE_ORIG, B, A, UDP, 53, 5000), orig() + reply(99)],
    ids=["original", "reply", "both", "reply as original", "original counts"],
)
def test_a_flow_is_named_by_either_direction(owner: Asker, said: bytes) -> None:
    owner.make(both(2), LIFE)
    assert owner.delete(said) == "ACK"
    assert owner.only().ends.numbers == (2, 53)
    assert owner.delete(said) == "ENOENT"


@rule("CTDEL-1", "C7-29")
@pytest.mark.parametrize(
    ("said", "family", "answer"),
    [
        (orig(1), V4, "ENOENT"),
        (orig() + u16(Cta.ZONE, 2), V4, "ENOENT"),
        (orig(), ANY, "EOPNOTSUPP"),
        (orig(), V6, "EINVAL"),
        (nest(Cta.TUPLE_ORIG), V4, "EINVAL"),
    ],
    ids=["unknown", "another zone", "any family", "IPv6", "empty"],
)
def test_a_flow_that_is_not_there_is_not_removed(owner: Asker, said: bytes, family: int, answer: str) -> None:
    for version in (0, 1):
        assert owner.delete(said, family=family, version=version) == answer
    assert len(owner.dump()) == 1


@rule("CTDEL-2", "C7-29")
def test_with_an_id_only_that_flow_is_meant(owner: Asker) -> None:
    number = owner.only()[Cta.ID]
    wrong = bytes((number[0] ^ 1, *number[1:]))
    for said in (orig(), reply()):
        assert owner.delete(said, attribute(Cta.ID, wrong)) == "ENOENT"
    assert owner.delete(orig(), attribute(Cta.ID, number)) == "ACK"
    assert owner.dump() == []
    assert owner.delete(orig(), attribute(Cta.ID, number)) == "ENOENT"


@rule("CTDEL-3")
@pytest.mark.parametrize(
    "said",
    [u32(Cta.MARK, 5), u32(Cta.STATUS, 0), u32(Cta.MARK_MASK, 1), u32(Cta.TIMEOUT, 7)],
    ids=["MARK", "STATUS", "MASK", "TIMEOUT"],
)
def test_with_a_tuple_nothing_else_is_compared(owner: Asker, said: bytes) -> None:
    owner.make(both(2), LIFE)
    assert owner.delete(orig(), said) == "ACK"
    assert len(owner.dump()) == 1


@rule("CTDEL-4")
def test_a_flow_of_a_zone(asker: Asker) -> None:
    asker.made(both(), u16(Cta.ZONE, 2))
    assert asker.delete(orig()) == "ENOENT"
    assert asker.delete(orig(), u16(Cta.ZONE, 2)) == "ACK"


@rule("CTDEL-5")
@pytest.mark.parametrize("said", [orig(), b"", u32(Cta.MARK, 0)], ids=["one", "all", "some"])
def test_each_that_goes_is_told_of(kernel: KernelUnderTest, asker: Asker, said: bytes) -> None:
    watcher = watch(kernel, Group.CONNTRACK_DESTROY)
    asker.made(both())
    assert asker.delete(said) == "ACK"
    [event] = watcher.told()
    assert (event.kind, event.pid, event.status) == ("DESTROY", asker.port_id, CONFIRMED | DYING)


# ------------------------------------------------------------------------------------------------------------------------- all


@rule("CTDEL-6", "C7-31")
@pytest.mark.parametrize("family", [ANY, V4, V6, 7, 255])
def test_without_a_version_the_family_saves_nothing(table: Asker, family: int) -> None:
    assert table.delete(family=family) == "ACK"
    assert left(table) == set()


@rule("CTDEL-6", "C7-32")
@pytest.mark.parametrize(
    ("family", "saved"), [(V6, ALL - {IPV6}), (V4, {IPV6}), (ANY, set()), (7, ALL)], ids=["IPv6", "IPv4", "any", "bridges"]
)
@pytest.mark.parametrize("version", [1, 2, 255])
def test_with_a_version_the_family_counts(table: Asker, family: int, saved: set[int], version: int) -> None:
    assert table.delete(family=family, version=version) == "ACK"
    assert left(table) == saved


@rule("CTDEL-7", "C7-30")
@pytest.mark.parametrize(
    "said",
    [
        u32(Cta.ID, 12345),
        u32(Cta.TIMEOUT, 1),
        attribute(Cta.LABELS, b"\1" * 16),
        helper("ftp"),
        u32(Cta.MARK_MASK, 0x10),
        u32(Cta.STATUS_MASK, 4),
        u32(Cta.MARK_MASK, 0x10) + u32(Cta.STATUS_MASK, 4),
        u32(Cta.USE, 1),
        nest(Cta.PROTOINFO),
        orig(1, type=Cta.TUPLE_MASTER),
        attribute(99, b"abcd"),
    ],
    ids=[
        "ID",
        "TIMEOUT",
        "LABELS",
        "HELP",
        "MARK_MASK",
        "STATUS_MASK",
        "both masks",
        "USE",
        "PROTOINFO",
        "TUPLE_MASTER",
        "unknown",
    ],
)
def test_what_is_no_filter_saves_nothing(table: Asker, said: bytes) -> None:
    assert table.delete(said, family=ANY) == "ACK"
    assert left(table) == set()


@rule("CTDEL-7", "C7-30")
def test_the_id_of_a_flow_alone_removes_all(table: Asker) -> None:
    [flow] = [flow for flow in table.dump() if flow.mark == MARKED]
    assert table.delete(attribute(Cta.ID, flow[Cta.ID])) == "ACK"
    assert left(table) == set()


@rule("CTDEL-7")
@pytest.mark.parametrize("said", [u32(Cta.MARK_MASK, 0x10), u32(Cta.STATUS_MASK, 4)], ids=["MARK_MASK", "STATUS_MASK"])
def test_with_a_family_that_counts_a_mask_alone_is_refused(table: Asker, said: bytes) -> None:
    assert table.delete(said, family=V4, version=1) == "EINVAL"
    assert left(table) == ALL


# ------------------------------------------------------------------------------------------------------------------------ some


@rule("CTDEL-8", "C7-33")
@pytest.mark.parametrize(
    ("said", "gone"),
    [
        (u32(Cta.MARK, MARKED), {MARKED}),
        (u32(Cta.MARK, 0x10) + u32(Cta.MARK_MASK, 0x10), {MARKED, SCORED}),
        (u32(Cta.MARK, 0) + u32(Cta.MARK_MASK, 0x10), ALL - {MARKED, SCORED}),
        (u32(Cta.MARK, 0) + u32(Cta.MARK_MASK, 0xFFFFFFFF), {PLAIN}),
        (u32(Cta.MARK, 0), {PLAIN}),
        (u32(Cta.MARK, 0) + u32(Cta.MARK_MASK, 0), ALL),
        (u32(Cta.MARK, MARKED) + u32(Cta.MARK_MASK, 0x10), set()),
        (u16(Cta.ZONE, 5), {ZONED}),
        (u16(Cta.ZONE, 0), ALL - {ZONED}),
        (u16(Cta.ZONE, 6), set()),
        (u32(Cta.STATUS, ASSURED), {SURE}),
        (u32(Cta.STATUS, 0) + u32(Cta.STATUS_MASK, ASSURED), ALL - {SURE}),
        (u32(Cta.STATUS, CONFIRMED) + u32(Cta.STATUS_MASK, CONFIRMED | ASSURED), ALL - {SURE}),
        (u32(Cta.STATUS, ASSURED) + u32(Cta.STATUS_MASK, CONFIRMED), set()),
        (u32(Cta.MARK, 0) + u16(Cta.ZONE, 5), set()),
        (u32(Cta.MARK, 0x80) + u32(Cta.STATUS, ASSURED), {SURE}),
    ],
    ids=[
        "mark",
        "mark and mask",
        "mark 0 and mask",
        "mark 0 and all bits",
        "mark 0",
        "mask 0",
        "outside the mask",
        "zone",
        "zone 0",
        "zone of none",
        "status",
        "status without",
        "status and mask",
        "status outside the mask",
        "zone and mark",
        "mark and status",
    ],
)
def test_a_flush_with_a_filter(table: Asker, said: bytes, gone: set[int]) -> None:
    assert table.delete(said, family=ANY) == "ACK"
    assert left(table) == ALL - gone


@rule("CTDEL-8")
@pytest.mark.parametrize(
    "said",
    [
        u32(Cta.STATUS, 0),
        u32(Cta.STATUS, ASSURED) + u32(Cta.STATUS_MASK, 0),
        u32(Cta.MARK_MASK, 0x10) + u32(Cta.STATUS, CONFIRMED),
        u32(Cta.MARK_MASK, 0x10) + u16(Cta.ZONE, 0),
        u32(Cta.STATUS_MASK, 4) + u32(Cta.MARK, 0),
    ],
    ids=["status 0", "status mask 0", "mark mask alone", "mark mask and zone", "status mask alone"],
)
def test_a_filter_that_makes_no_sense_removes_nothing(table: Asker, said: bytes) -> None:
    assert table.delete(said, family=ANY) == "EINVAL"
    assert left(table) == ALL


@rule("CTDEL-9", "C7-33")
@pytest.mark.parametrize(("version", "saved"), [(0, set()), (1, {IPV6})])
def test_the_family_of_a_filter_counts_with_a_version_only(table: Asker, version: int, saved: set[int]) -> None:
    confirmed = u32(Cta.STATUS, CONFIRMED) + u32(Cta.STATUS_MASK, CONFIRMED)
    assert table.delete(confirmed, family=V4, version=version) == "ACK"
    assert left(table) == saved


@rule("CTDEL-10", "C7-33")
@needs("flush-by-filter")
def test_with_a_filter_of_tuples_the_tuple_names_many(table: Asker) -> None:
    # bit 3 of the flags: the protocol
    assert table.delete(flags_of(8), orig(99), family=V4) == "ACK"
    assert left(table) == {IPV6, SURE}


@rule("CTDEL-10")
@needs("flush-by-filter")
@pytest.mark.parametrize("said", [flags_of(0), flags_of(), flags_of(0, 0)], ids=["flags 0", "empty", "both 0"])
def test_with_an_empty_filter_of_tuples_the_tuple_saves_nothing(table: Asker, said: bytes) -> None:
    assert table.delete(said, orig(99), family=V4) == "ACK"
    assert left(table) == {IPV6}, "the family counts, whatever the version"


@rule("CTDEL-10", "C7-34")
@needs("flush-by-filter")
def test_a_filter_of_tuples_has_a_family(table: Asker) -> None:
    assert table.delete(flags_of(8), orig(), family=ANY) == "EOPNOTSUPP"
    assert left(table) == ALL


@rule("CTDEL-10")
@needs("flush-by-filter")
def test_a_filter_of_tuples_that_lets_nothing_through_is_a_success(table: Asker) -> None:
    assert table.delete(flags_of(8), tuple_(Cta.TUPLE_ORIG, A, B, 132, 1, 2)) == "ACK"
    assert left(table) == ALL


@rule("CTDEL-11")
@pytest.mark.parametrize(
    "said",
    [b"", u32(Cta.MARK, 5), pytest.param(flags_of(8) + orig(), marks=needs("flush-by-filter"))],
    ids=["everything", "mark", "filter"],
)
def test_flushing_an_empty_table_is_a_success(asker: Asker, said: bytes) -> None:
    assert asker.delete(said) == "ACK"
