"""Changing a flow that is there."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import (
    CONFIRMED,
    CREATE,
    FIXED_TIMEOUT,
    HELPER,
    LIFE,
    SEQ_ADJUST,
    TCP,
    Asker,
    Cta,
    both,
    helper,
    name,
    nest,
    orig,
    reply,
    tcp,
    u8,
    u16,
    u32,
    watch,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import attribute

MASTER = orig(number=TCP, to=21, type=Cta.TUPLE_MASTER)


@pytest.fixture
def owner(asker: Asker) -> Asker:
    """Somebody who has made one UDP flow."""
    assert asker.make(both(), LIFE) == "ACK"
    return asker


@pytest.fixture
def labelled(kernel: KernelUnderTest, asker: Asker) -> Asker:
    """The same, where flows have room for labels."""
    kernel.use_labels()
    assert asker.make(both(), LIFE) == "ACK"
    return asker


def labels(asker: Asker) -> bytes | None:
    """Of the one flow; None if none is shown."""
    return asker.only().get(Cta.LABELS)


# ------------------------------------------------------------------------------------------------------------- what is changed


@rule("CTUPD-1")
def test_a_change_that_changes_nothing(owner: Asker) -> None:
    before = owner.only()
    for said in (orig(), reply(), both()):
        assert owner.change(said) == "ACK"
    after = owner.only()
    assert (after.names, after.status, after.mark, after[Cta.ID]) == (before.names, before.status, before.mark, before[Cta.ID])


@rule("CTUPD-2")
@pytest.mark.parametrize("said", [orig(), reply()], ids=["by the original direction", "by the reply"])
def test_the_timeout(owner: Asker, said: bytes) -> None:
    assert owner.change(said, u32(Cta.TIMEOUT, 50000)) == "ACK"
    assert 49000 < owner.only().number(Cta.TIMEOUT) <= 50000
    assert owner.change(said, u32(Cta.TIMEOUT, 300)) == "ACK"
    assert owner.only().number(Cta.TIMEOUT) <= 300


@rule("CTUPD-2")
def test_a_timeout_of_0_ends_the_flow(owner: Asker) -> None:
    assert owner.change(orig(), u32(Cta.TIMEOUT, 0)) == "ACK"
    assert owner.dump() == []
    assert owner.change(orig()) == "ENOENT"


@needs("fixed-timeouts-stay")
@rule("CTUPD-3")
def test_a_fixed_timeout_stays(owner: Asker) -> None:
    assert owner.change(orig(), u32(Cta.TIMEOUT, 2000), u32(Cta.STATUS, CONFIRMED | FIXED_TIMEOUT)) == "ACK"
    assert owner.change(orig(), u32(Cta.TIMEOUT, 10)) == "EPERM"
    assert owner.only().number(Cta.TIMEOUT) > 1000
    assert owner.change(orig(), u32(Cta.MARK, 10)) == "ACK"


@rule("CTUPD-4", "C7-28")
@pytest.mark.parametrize(
    ("old", "said", "mark"),
    [
        (0xABCD, u32(Cta.MARK, 0x10), 0x10),
        (0x10, u32(Cta.MARK, 0xFF00) + u32(Cta.MARK_MASK, 0xFF00), 0xFF10),
        (0xFF10, u32(Cta.MARK, 0x0F) + u32(Cta.MARK_MASK, 0), 0xFF1F),
        (0xFF1F, u32(Cta.MARK, 0x0F) + u32(Cta.MARK_MASK, 0), 0xFF10),
        (0x203, u32(Cta.MARK, 2) + u32(Cta.MARK_MASK, 0xF0), 0x201),
        (0xFF10, u32(Cta.MARK_MASK, 0xFFFF), 0xFF10),
        (5, u32(Cta.MARK, 0), 0),
    ],
    ids=["plain", "masked", "mask 0 toggles", "and back", "outside the mask bits flip", "mask alone", "0"],
)
def test_the_mark(owner: Asker, old: int, said: bytes, mark: int) -> None:
    assert owner.change(orig(), u32(Cta.MARK, old)) == "ACK"
    assert owner.change(orig(), said) == "ACK"
    assert owner.only().mark == mark


@rule("CTUPD-5")
def test_adjusted_sequence_numbers_and_a_syn_proxy(owner: Asker) -> None:
    assert owner.change(orig(), words(Cta.SEQ_ADJ_REPLY, 1, 2, 3), words(Cta.SYNPROXY, 4, 5, 6)) == "ACK"
    flow = owner.only()
    assert flow.inside(Cta.SEQ_ADJ_ORIG).numbers() == {1: 0, 2: 0, 3: 0}
    assert flow.inside(Cta.SEQ_ADJ_REPLY).numbers() == {1: 1, 2: 2, 3: 3}
    assert flow.inside(Cta.SYNPROXY).numbers() == {1: 4, 2: 5, 3: 6}
    assert flow.status == CONFIRMED | SEQ_ADJUST


@rule("CTUPD-5")
@pytest.mark.parametrize("kind", [Cta.SEQ_ADJ_ORIG, Cta.SEQ_ADJ_REPLY, Cta.SYNPROXY])
def test_they_are_whole(owner: Asker, kind: int) -> None:
    assert owner.change(orig(), words(kind, 1, 2)) == "EINVAL"
    assert owner.change(orig(), nest(kind)) == "EINVAL"


# ---------------------------------------------------------------------------------------------------------- what cannot change


@rule("CTUPD-6", "C7-27")
@pytest.mark.parametrize(
    "said",
    [
        nest(Cta.NAT_SRC),
        nest(Cta.NAT_DST),
        nest(Cta.NAT_SRC, attribute(1, bytes(1))),
        MASTER,
        nest(Cta.TUPLE_MASTER),
        attribute(Cta.TUPLE_MASTER),
    ],
    ids=["NAT_SRC", "NAT_DST", "bad NAT_SRC", "MASTER", "empty MASTER", "no nest"],
)
@pytest.mark.parametrize("flags", [0, CREATE])
def test_what_is_settled_at_birth(owner: Asker, said: bytes, flags: int) -> None:
    assert owner.make(both(), said, u32(Cta.MARK, 5), u32(Cta.STATUS, 0), flags=flags) == "EOPNOTSUPP"
    assert owner.only().mark == 0


@rule("CTUPD-7")
@pytest.mark.parametrize(
    ("wrong", "answer", "done"),
    [
        (helper("nosuch"), "EOPNOTSUPP", set()),
        (u32(Cta.STATUS, 0), "EBUSY", {"TIMEOUT"}),
        (tcp(u8(1, 10)), "ERANGE", {"TIMEOUT", "STATUS"}),
        (words(Cta.SEQ_ADJ_ORIG, 1), "EINVAL", {"TIMEOUT", "STATUS", "PROTOINFO", "MARK"}),
        (nest(Cta.SYNPROXY), "EINVAL", {"TIMEOUT", "STATUS", "PROTOINFO", "MARK", "SEQ_ADJ"}),
        (attribute(Cta.LABELS, bytes(3)), "EINVAL", {"TIMEOUT", "STATUS", "PROTOINFO", "MARK", "SEQ_ADJ", "SYNPROXY"}),
    ],
    ids=["HELP", "STATUS", "PROTOINFO", "SEQ_ADJ", "SYNPROXY", "LABELS"],
)
def test_what_was_done_before_something_failed_stays_done(asker: Asker, wrong: bytes, answer: str, done: set[str]) -> None:
    asker.made(both(number=TCP), u32(Cta.TIMEOUT, 50000))
    good = {
        "TIMEOUT": u32(Cta.TIMEOUT, 1000),
        "STATUS": u32(Cta.STATUS, CONFIRMED | 4),
        "PROTOINFO": tcp(u8(1, 3)),
        "MARK": u32(Cta.MARK, 5),
        "SEQ_ADJ": words(Cta.SEQ_ADJ_ORIG, 1, 2, 3),
        "SYNPROXY": words(Cta.SYNPROXY, 1, 2, 3),
    }
    assert asker.change(orig(number=TCP), *good.values(), wrong) == answer
    flow = asker.only()
    seen = {
        "TIMEOUT": flow.number(Cta.TIMEOUT) <= 1000,
        "STATUS": bool(flow.status & 4),
        "PROTOINFO": flow.inside(Cta.PROTOINFO, 1).number(1) == 3,
        "MARK": flow.mark == 5,
        "SEQ_ADJ": bool(flow.status & SEQ_ADJUST),
        "SYNPROXY": flow.inside(Cta.SYNPROXY).number(1) == 1,
    }
    assert {part for part, was_done in seen.items() if was_done} == done


@rule("CTUPD-7")
def test_a_change_that_fails_tells_nobody(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = watch(kernel)
    asker.made(both())
    assert [event.kind for event in watcher.told()] == ["NEW"]
    assert asker.change(orig(), u32(Cta.TIMEOUT, 50), u32(Cta.STATUS, 0)) == "EBUSY"
    assert watcher.told() == []
    assert asker.only().number(Cta.TIMEOUT) <= 50


# --------------------------------------------------------------------------------------------------------------------- helpers


@rule("CTUPD-8", "C7-27")
@pytest.mark.parametrize("said", [helper("ftp"), helper("nosuch")], ids=["ftp", "unknown"])
def test_a_flow_made_without_a_helper_gets_none(asker: Asker, said: bytes) -> None:
    asker.made(both(number=TCP, to=21))
    assert asker.change(orig(number=TCP, to=21), said) == "EOPNOTSUPP"
    assert "HELP" not in asker.only().names


@rule("CTUPD-8")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (helper("ftp"), "ACK"),
        (helper("irc"), "EBUSY"),
        (helper("nosuch"), "EOPNOTSUPP"),
        (nest(Cta.HELP), "EINVAL"),
        (nest(Cta.HELP, attribute(1, b"ftp")), "EINVAL"),
    ],
    ids=["the same", "another", "unknown", "no name", "no NUL"],
)
def test_a_helper_stays(asker: Asker, said: bytes, answer: str) -> None:
    asker.made(both(number=TCP, to=21), helper("ftp"))
    assert asker.change(orig(number=TCP, to=21), said) == answer
    assert asker.only()[Cta.HELP] == name(1, "ftp")


@rule("CTUPD-9")
def test_an_empty_name_takes_the_helper_away_or_nobody_has_that_name(asker: Asker) -> None:
    asker.made(both(number=TCP, to=21), helper("ftp"))
    answer = asker.change(orig(number=TCP, to=21), helper(""))
    assert answer in ("ACK", "EOPNOTSUPP")
    assert ("HELP" in asker.only().names.split()) == (answer == "EOPNOTSUPP")
    assert asker.only().status == CONFIRMED | HELPER
    # whatever it is, it is the same for a flow without a helper, and when it is said again
    assert asker.change(orig(number=TCP, to=21), helper("")) == answer
    assert asker.make(both(2), LIFE) == "ACK"
    assert asker.change(orig(2), helper("")) == answer


@rule("CTUPD-8")
def test_a_flow_with_a_master_has_the_helper_it_has(asker: Asker) -> None:
    asker.made(both(number=TCP, to=21))
    assert asker.make(both(2, number=TCP), LIFE, MASTER) == "ACK"
    assert asker.make(both(3, number=TCP), LIFE, MASTER, helper("ftp")) == "ACK"
    assert asker.change(orig(2, number=TCP), helper("ftp")) == "EBUSY"
    assert asker.change(orig(3, number=TCP), helper("irc")) == "EBUSY"
    assert asker.change(orig(3, number=TCP), helper("nosuch")) == "EBUSY"
    assert asker.change(orig(3, number=TCP), helper("ftp")) == "ACK"


# ---------------------------------------------------------------------------------------------------------------------- labels


@rule("CTUPD-10")
def test_labels_without_room_for_them(owner: Asker) -> None:
    assert owner.change(orig(), attribute(Cta.LABELS, b"\1" * 4)) == "ENOSPC"
    assert owner.change(orig(), attribute(Cta.LABELS)) == "ENOSPC"


@rule("CTUPD-11")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (attribute(Cta.LABELS, bytes(3)), "EINVAL"),
        (attribute(Cta.LABELS, bytes(8)) + attribute(Cta.LABELS_MASK, bytes(4)), "EINVAL"),
        (attribute(Cta.LABELS, bytes(4)) + attribute(Cta.LABELS_MASK), "EINVAL"),
        (attribute(Cta.LABELS) + attribute(Cta.LABELS_MASK), "EINVAL"),
        (attribute(Cta.LABELS_MASK, bytes(3)), "ACK"),
        (attribute(Cta.LABELS_MASK, bytes(4)), "ACK"),
    ],
    ids=["3 bytes", "other mask", "no mask", "nothing", "odd mask alone", "mask alone"],
)
@pytest.mark.parametrize("room", [False, True], ids=["no room", "room"])
def test_lengths_of_labels(kernel: KernelUnderTest, asker: Asker, room: bool, said: bytes, answer: str) -> None:
    if room:
        kernel.use_labels()
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.change(orig(), said) == answer
    assert labels(asker) is None


@rule("CTUPD-11", "CTATTR-5")
@pytest.mark.parametrize(
    ("said", "after"),
    [
        (attribute(Cta.LABELS, b"\x08\0\0\0"), b"\x08" + bytes(15)),
        (attribute(Cta.LABELS, bytes(12) + b"\0\0\0\x80"), bytes(15) + b"\x80"),
        (attribute(Cta.LABELS, b"\1\0\0\0") + attribute(Cta.LABELS_MASK, b"\1\0\0\0"), b"\x07" + bytes(15)),
        (attribute(Cta.LABELS, b"\2\0\0\0") + attribute(Cta.LABELS_MASK, b"\1\0\0\0"), b"\x04" + bytes(15)),
        (attribute(Cta.LABELS, b"\2\0\0\0") + attribute(Cta.LABELS_MASK, bytes(4)), b"\x04" + bytes(15)),
        (attribute(Cta.LABELS, bytes(16)), None),
        (attribute(Cta.LABELS), None),
    ],
    ids=["4 bytes", "16 bytes", "mask", "outside the mask", "mask 0", "zeros", "nothing"],
)
def test_labels(labelled: Asker, said: bytes, after: bytes | None) -> None:
    assert labelled.change(orig(), attribute(Cta.LABELS, b"\x06\0\0\0\xff\xff\xff\xff")) == "ACK"
    assert labels(labelled) == b"\x06\0\0\0\xff\xff\xff\xff" + bytes(8)
    assert labelled.change(orig(), said) == "ACK"
    assert labels(labelled) == after


@rule("CTUPD-12", "C7-29")
def test_a_flow_of_another_zone_is_another_flow(owner: Asker) -> None:
    zone = u16(Cta.ZONE, 3)
    assert owner.change(orig(), zone, u32(Cta.MARK, 5)) == "ENOENT"
    assert owner.make(both(), LIFE, zone, u32(Cta.MARK, 6), flags=CREATE) == "ACK"
    assert owner.change(orig(), u32(Cta.MARK, 7)) == "ACK"
    assert sorted(flow.mark for flow in owner.dump()) == [6, 7]
