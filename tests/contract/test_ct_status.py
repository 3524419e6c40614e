"""The status bits of a flow: which may be asked for, which are ignored, which are refused."""

from __future__ import annotations

import pytest

from nfnl.subsys.conntrack import Status
from tests.contract.ctkit import (
    ASSURED,
    CONFIRMED,
    DST_NAT,
    DST_NAT_DONE,
    DYING,
    EXPECTED,
    FIXED_TIMEOUT,
    HELPER,
    HW_OFFLOAD,
    LIFE,
    OFFLOAD,
    SEEN_REPLY,
    SEQ_ADJUST,
    SRC_NAT,
    SRC_NAT_DONE,
    TCP,
    TEMPLATE,
    UNTRACKED,
    Asker,
    Cta,
    both,
    orig,
    u32,
    words,
)
from tests.contract.rules import rule

#: what a program may set
FREE = [SEEN_REPLY, ASSURED, FIXED_TIMEOUT, HELPER]
#: what it may name, to no effect
IGNORED = [
    SRC_NAT,
    DST_NAT,
    SEQ_ADJUST,
    SRC_NAT_DONE,
    DST_NAT_DONE,
    TEMPLATE,
    UNTRACKED,
    OFFLOAD,
    HW_OFFLOAD,
    0x10000,
    0xFFFF0000,
]
#: what must be as it is
TIED = [EXPECTED, CONFIRMED, DYING]


def bits(value: int) -> str:
    """Names of the status bits, for the id of a test."""
    return Status(value).name or hex(value)


def status(value: int) -> bytes:
    """CTA_STATUS."""
    return u32(Cta.STATUS, value)


@rule("CTSTATUS-1")
def test_a_flow_is_confirmed_from_the_beginning(asker: Asker) -> None:
    assert asker.made(both()).status == CONFIRMED
    assert asker.delete(orig()) == "ACK"
    assert asker.made(both(), status(CONFIRMED)).status == CONFIRMED


@rule("CTSTATUS-2")
@pytest.mark.parametrize("bit", FREE, ids=bits)
def test_bits_that_may_be_set(asker: Asker, bit: int) -> None:
    assert asker.made(both(), status(CONFIRMED | bit)).status == CONFIRMED | bit
    assert asker.make(both(2), LIFE) == "ACK"
    assert asker.change(orig(2), status(CONFIRMED | bit)) == "ACK"
    assert asker.fetch(orig(2)).status == CONFIRMED | bit


@rule("CTSTATUS-2")
def test_bits_that_may_be_set_together(asker: Asker) -> None:
    everything = CONFIRMED | sum(FREE)
    assert asker.made(both(), status(everything)).status == everything


@rule("CTSTATUS-3", "C7-26")
@pytest.mark.parametrize("bit", IGNORED, ids=bits)
def test_bits_that_are_ignored(asker: Asker, bit: int) -> None:
    assert asker.made(both(), status(CONFIRMED | bit)).status == CONFIRMED
    assert asker.change(orig(), status(CONFIRMED | bit)) == "ACK"
    assert asker.only().status == CONFIRMED


@rule("CTSTATUS-4", "C7-26")
@pytest.mark.parametrize("bit", TIED, ids=bits)
def test_bits_that_must_be_as_they_are(asker: Asker, bit: int) -> None:
    assert asker.make(both(), LIFE, status(CONFIRMED ^ bit)) == "EBUSY"
    assert asker.dump() == []
    asker.made(both())
    for wrong in (CONFIRMED ^ bit, (CONFIRMED | SEEN_REPLY) ^ bit):
        assert asker.change(orig(), status(wrong)) == "EBUSY"
    assert asker.only().status == CONFIRMED


@rule("CTSTATUS-4")
def test_an_expected_flow_stays_expected(asker: Asker) -> None:
    asker.made(both(number=TCP))
    assert asker.make(both(), LIFE, orig(number=TCP, type=Cta.TUPLE_MASTER)) == "ACK"
    assert asker.change(orig(), status(CONFIRMED)) == "EBUSY"
    assert asker.change(orig(), status(CONFIRMED | EXPECTED | ASSURED)) == "ACK"
    assert asker.fetch(orig()).status == CONFIRMED | EXPECTED | ASSURED


@rule("CTSTATUS-4")
def test_the_master_comes_after_the_status(asker: Asker) -> None:
    asker.made(both(number=TCP))
    master = orig(number=TCP, type=Cta.TUPLE_MASTER)
    assert asker.make(both(), LIFE, status(CONFIRMED | EXPECTED), master) == "EBUSY"
    assert asker.make(both(), LIFE, status(CONFIRMED), master) == "ACK"


@rule("CTSTATUS-5")
@pytest.mark.parametrize("bit", [SEEN_REPLY, ASSURED], ids=bits)
def test_what_has_been_seen_is_not_unseen(asker: Asker, bit: int) -> None:
    asker.made(both(), status(CONFIRMED | bit))
    assert asker.change(orig(), status(CONFIRMED)) == "EBUSY"
    assert asker.only().status == CONFIRMED | bit
    assert asker.change(orig(), status(CONFIRMED | SEEN_REPLY | ASSURED)) == "ACK"
    assert asker.change(orig(), status((CONFIRMED | SEEN_REPLY | ASSURED) ^ bit)) == "EBUSY"
    assert asker.only().status == CONFIRMED | SEEN_REPLY | ASSURED


@rule("CTSTATUS-6")
@pytest.mark.parametrize("bit", [FIXED_TIMEOUT, HELPER], ids=bits)
def test_nothing_is_ever_cleared(asker: Asker, bit: int) -> None:
    asker.made(both(), status(CONFIRMED | bit))
    assert asker.change(orig(), status(CONFIRMED)) == "ACK"
    assert asker.only().status == CONFIRMED | bit


@rule("CTSTATUS-6")
def test_an_adjusted_flow_stays_adjusted(asker: Asker) -> None:
    asker.made(both(number=TCP), words(Cta.SEQ_ADJ_ORIG, 1, 2, 3))
    assert asker.change(orig(number=TCP), status(CONFIRMED | ASSURED)) == "ACK"
    assert asker.only().status == CONFIRMED | ASSURED | SEQ_ADJUST
