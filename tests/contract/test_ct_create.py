"""Making flows: what decides between making and changing, and what a new flow may be given."""

from __future__ import annotations

import struct

import pytest

from tests.contract.ctkit import (
    A6,
    B6,
    CONFIRMED,
    CREATE,
    EXCL,
    EXPECTED,
    HELPER,
    LIFE,
    REPLACE,
    SCTP,
    SEQ_ADJUST,
    TCP,
    UDP,
    V6,
    A,
    Asker,
    B,
    Cta,
    both,
    both6,
    ends,
    helper,
    name,
    nest,
    orig,
    reply,
    tuple_,
    u8,
    u16,
    u32,
    watch,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import attribute

# ------------------------------------------------------------------------------------------------------------ make or change?


@rule("CTNEW-1", "C7-20")
@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (0, "ENOENT"),
        (EXCL, "ENOENT"),
        (REPLACE, "ENOENT"),
        (EXCL | REPLACE, "ENOENT"),
        (CREATE, "ACK"),
        (CREATE | EXCL, "ACK"),
        (CREATE | REPLACE, "ACK"),
    ],
)
@pytest.mark.parametrize("said", [both(), orig() + reply(9)], ids=["mirrored", "not mirrored"])
def test_a_flow_that_is_not_there_is_made_only_if_asked(asker: Asker, flags: int, answer: str, said: bytes) -> None:
    assert asker.make(said, LIFE, flags=flags) == answer
    assert len(asker.dump()) == (answer == "ACK")


@rule("CTNEW-2", "C7-20")
@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (0, "ACK"),
        (REPLACE, "ACK"),
        (CREATE, "ACK"),
        (CREATE | REPLACE, "ACK"),
        (EXCL, "EEXIST"),
        (CREATE | EXCL, "EEXIST"),
        (REPLACE | EXCL, "EEXIST"),
    ],
)
@pytest.mark.parametrize("said", [both(), orig(), reply()], ids=["both", "original", "reply"])
def test_a_flow_that_is_there_is_changed_unless_told_not_to(asker: Asker, flags: int, answer: str, said: bytes) -> None:
    asker.made(both())
    assert asker.make(said, u32(Cta.MARK, 5), flags=flags) == answer
    assert asker.only().mark == (5 if answer == "ACK" else 0)


@rule("CTNEW-2")
def test_a_flow_is_found_by_either_direction_in_either_place(asker: Asker) -> None:
    asker.made(both())
    backwards = tuple_(Cta.TUPLE_ORIG, B, A, UDP, 53, 5000) + tuple_(Cta.TUPLE_REPLY, A, B, UDP, 5000, 53)
    assert asker.make(backwards, LIFE) == "EEXIST"
    assert asker.change(tuple_(Cta.TUPLE_ORIG, B, A, UDP, 53, 5000), u32(Cta.MARK, 6)) == "ACK"
    assert asker.change(tuple_(Cta.TUPLE_REPLY, A, B, UDP, 5000, 53), u32(Cta.MARK, 7)) == "ACK"
    assert asker.only().mark == 7


@rule("CTNEW-2")
def test_with_an_original_direction_the_reply_does_not_matter(asker: Asker) -> None:
    asker.made(both(1))
    asker.make(both(2), LIFE)
    assert asker.change(orig(1), reply(2), u32(Cta.MARK, 5)) == "ACK"
    assert asker.change(orig(1), reply(99), u32(Cta.MARK, 6)) == "ACK"
    assert asker.fetch(orig(1)).mark == 6
    assert asker.fetch(orig(2)).mark == 0


@rule("CTNEW-3", "C7-21")
@pytest.mark.parametrize(("said", "what"), [(b"", "nothing"), (orig(), "original"), (reply(), "reply")])
@pytest.mark.parametrize(("flags", "answer"), [(CREATE, "EINVAL"), (CREATE | EXCL, "EINVAL"), (0, "ENOENT"), (EXCL, "ENOENT")])
def test_making_takes_both_directions(asker: Asker, said: bytes, what: str, flags: int, answer: str) -> None:
    assert asker.make(said, LIFE, flags=flags) == answer, what


@rule("CTNEW-3")
def test_both_directions_are_of_one_protocol(asker: Asker) -> None:
    assert asker.make(orig(number=UDP), reply(number=TCP), LIFE) == "EINVAL"
    assert asker.make(orig(number=UDP), reply(number=TCP), LIFE, flags=0) == "ENOENT"


@rule("CTNEW-4")
def test_the_directions_need_not_mirror_each_other(asker: Asker) -> None:
    flow = asker.made(orig(), tuple_(Cta.TUPLE_REPLY, "10.9.9.9", "10.8.8.8", UDP, 1, 2))
    assert flow.ends == (A, B, UDP, (5000, 53), None)
    assert flow.back == ("10.9.9.9", "10.8.8.8", UDP, (1, 2), None)


@rule("CTNEW-5")
def test_a_reply_that_is_taken(asker: Asker) -> None:
    asker.made(both())
    for flags in (CREATE, CREATE | EXCL):
        assert asker.make(orig(7), reply(), LIFE, flags=flags) == "EEXIST"
    assert len(asker.dump()) == 1


# -------------------------------------------------------------------------------------------------------------------- timeout


@rule("CTNEW-6", "C7-21")
def test_a_timeout_is_needed(asker: Asker) -> None:
    assert asker.make(both()) == "EINVAL"
    assert asker.dump() == []


@rule("CTNEW-7")
@pytest.mark.parametrize("seconds", [100, 1000, 432000, 2147483])
def test_the_timeout_is_told_in_whole_seconds_that_are_left(asker: Asker, seconds: int) -> None:
    assert asker.make(both(), u32(Cta.TIMEOUT, seconds)) == "ACK"
    assert seconds - 30 < asker.only().number(Cta.TIMEOUT) <= seconds


@rule("CTNEW-7")
@pytest.mark.parametrize("seconds", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_the_timeout_has_an_end(asker: Asker, seconds: int) -> None:
    assert asker.make(both(1), u32(Cta.TIMEOUT, seconds)) == "ACK"
    left = asker.only().number(Cta.TIMEOUT)
    # as many ticks as fit: 100, 250, 300 or 1000 a second
    assert any(0x7FFFFFFF // ticks - 30 < left <= 0x7FFFFFFF // ticks for ticks in (100, 250, 300, 1000))


@rule("CTNEW-7")
def test_a_flow_without_any_time_exists_for_listeners_only(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = watch(kernel, 1)
    assert asker.make(both(), u32(Cta.TIMEOUT, 0)) == "ACK"
    assert [event.number(Cta.TIMEOUT) for event in watcher.told()] == [0]
    assert asker.get(orig()) == "ENOENT"
    assert asker.dump() == []
    assert asker.make(both(), u32(Cta.TIMEOUT, 0)) == "ACK"


# --------------------------------------------------------------------------------------------------------------- mark, ignored


@rule("CTNEW-8")
@pytest.mark.parametrize(
    ("said", "mark"),
    [
        (b"", 0),
        (u32(Cta.MARK, 0x1234), 0x1234),
        (u32(Cta.MARK, 0x12345678) + u32(Cta.MARK_MASK, 0xFF), 0x12345678),
        (u32(Cta.MARK, 5) + u32(Cta.MARK_MASK, 0), 5),
        (u32(Cta.MARK_MASK, 0xFF), 0),
    ],
    ids=["none", "plain", "with a mask", "with mask 0", "mask alone"],
)
def test_a_new_flow_has_the_mark_as_it_is_given(asker: Asker, said: bytes, mark: int) -> None:
    assert asker.made(both(), said).mark == mark


@rule("CTNEW-9")
@pytest.mark.parametrize(
    "said",
    [
        u32(Cta.USE, 9),
        u32(Cta.ID, 0xDEAD),
        nest(Cta.COUNTERS_ORIG, attribute(1, bytes(8))),
        nest(Cta.COUNTERS_REPLY),
        u32(Cta.SECMARK, 5),
        nest(Cta.SECCTX, name(1, "x")),
        nest(Cta.TIMESTAMP),
        u32(Cta.STATUS_MASK, 4),
        nest(Cta.FILTER),
        attribute(Cta.FILTER, b"nonsense"),
    ],
    ids=["USE", "ID", "COUNTERS_ORIG", "COUNTERS_REPLY", "SECMARK", "SECCTX", "TIMESTAMP", "STATUS_MASK", "FILTER", "bad FILTER"],
)
def test_what_is_not_looked_at(asker: Asker, said: bytes) -> None:
    plain = asker.made(both())
    assert asker.delete(orig()) == "ACK"
    assert asker.made(both(), said).names == plain.names


@rule("CTNEW-10")
def test_a_timestamp_of_an_event_is_refused_where_it_is_known(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl("net.netfilter.nf_conntrack_timestamp", 1)
    watcher = watch(kernel, 1)
    asker.made(both())
    [event] = watcher.told()
    stamp = attribute(Cta.TIMESTAMP_EVENT, struct.pack(">Q", 1))
    # known: events have it
    refused = Cta.TIMESTAMP_EVENT in event
    assert asker.change(orig(), stamp) == ("EINVAL" if refused else "ACK")
    assert asker.get(orig(), stamp) == "EINVAL" if refused else asker.fetch(orig(), stamp)


# --------------------------------------------------------------------------------------------------------------------- helpers


@rule("CTNEW-11")
@pytest.mark.parametrize("port", [21, 9999])
def test_a_flow_with_a_helper(asker: Asker, port: int) -> None:
    flow = asker.made(both(number=TCP, to=port), helper("ftp"))
    assert flow[Cta.HELP] == name(1, "ftp")
    assert flow.status == CONFIRMED | HELPER


@rule("CTNEW-11", "C7-27")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (helper("nosuch"), "EOPNOTSUPP"),
        (helper(""), "EOPNOTSUPP"),
        (helper("a" * 15), "EOPNOTSUPP"),
        (helper("a" * 16), "EINVAL"),
        (nest(Cta.HELP), "EINVAL"),
        (nest(Cta.HELP, attribute(1, b"ftp")), "EINVAL"),
        (nest(Cta.HELP, attribute(1)), "EINVAL"),
        (nest(Cta.HELP, attribute(2, b"x")), "EINVAL"),
    ],
    ids=["unknown", "empty name", "15 letters", "16 letters", "no name", "no NUL", "no bytes", "info alone"],
)
def test_a_helper_that_cannot_be(asker: Asker, said: bytes, answer: str) -> None:
    assert asker.make(both(number=TCP, to=21), LIFE, said) == answer
    assert asker.dump() == []


@rule("CTNEW-11")
def test_a_helper_is_for_one_protocol(asker: Asker) -> None:
    assert asker.make(both(to=21), LIFE, helper("ftp")) == "EOPNOTSUPP"
    assert asker.make(both(to=69), LIFE, helper("tftp")) == "ACK"
    assert asker.make(both(number=SCTP, to=21), LIFE, helper("ftp")) == "EOPNOTSUPP"


@rule("CTNEW-11")
def test_a_helper_is_for_a_family(asker: Asker) -> None:
    assert asker.make(both6(number=TCP, to=21), LIFE, helper("ftp"), family=V6) == "ACK"
    assert asker.make(both6(number=TCP, to=6667), LIFE, helper("irc"), family=V6) == "EOPNOTSUPP"
    assert asker.make(both(number=TCP, to=6667), LIFE, helper("irc")) == "ACK"


# --------------------------------------------------------------------------------------------------- what a program may add


@rule("CTNEW-12")
def test_adjusted_sequence_numbers(asker: Asker) -> None:
    flow = asker.made(both(number=TCP), words(Cta.SEQ_ADJ_ORIG, 1, 2, 3), words(Cta.SEQ_ADJ_REPLY, 4, 5, 6))
    assert flow.inside(Cta.SEQ_ADJ_ORIG).numbers() == {1: 1, 2: 2, 3: 3}
    assert flow.inside(Cta.SEQ_ADJ_REPLY).numbers() == {1: 4, 2: 5, 3: 6}
    assert flow.status == CONFIRMED | SEQ_ADJUST


@rule("CTNEW-12")
@pytest.mark.parametrize("direction", [Cta.SEQ_ADJ_ORIG, Cta.SEQ_ADJ_REPLY])
def test_one_direction_adjusted_shows_the_other_as_zeros(asker: Asker, direction: int) -> None:
    other = Cta.SEQ_ADJ_ORIG + Cta.SEQ_ADJ_REPLY - direction
    flow = asker.made(both(number=TCP), words(direction, 1, 2, 3))
    assert flow.inside(direction).numbers() == {1: 1, 2: 2, 3: 3}
    assert flow.inside(other).numbers() == {1: 0, 2: 0, 3: 0}


@rule("CTNEW-12")
@pytest.mark.parametrize("direction", [Cta.SEQ_ADJ_ORIG, Cta.SEQ_ADJ_REPLY])
def test_an_adjustment_is_whole(asker: Asker, direction: int) -> None:
    for missing in (1, 2, 3):
        values = [u32(n, n) for n in (1, 2, 3) if n != missing]
        assert asker.make(both(number=TCP), LIFE, nest(direction, *values)) == "EINVAL"
        assert asker.make(both(number=TCP), LIFE, nest(direction, *values, u8(missing, 1))) == "ERANGE"
    assert asker.make(both(number=TCP), LIFE, nest(direction)) == "EINVAL"
    assert asker.dump() == []


@rule("CTNEW-13", "C7-39")
@pytest.mark.parametrize("number", [TCP, UDP])
def test_a_syn_proxy(asker: Asker, number: int) -> None:
    assert asker.made(both(1, number=number)).inside(Cta.SYNPROXY).numbers() == {1: 0, 2: 0, 3: 0}
    assert asker.make(both(2, number=number), LIFE, words(Cta.SYNPROXY, 1, 2, 3)) == "ACK"
    assert asker.fetch(orig(2, number=number)).inside(Cta.SYNPROXY).numbers() == {1: 1, 2: 2, 3: 3}


@rule("CTNEW-13")
def test_a_syn_proxy_is_whole(asker: Asker) -> None:
    for missing in (1, 2, 3):
        values = [u32(n, n) for n in (1, 2, 3) if n != missing]
        assert asker.make(both(number=TCP), LIFE, nest(Cta.SYNPROXY, *values)) == "EINVAL"
    assert asker.make(both(number=TCP), LIFE, nest(Cta.SYNPROXY)) == "EINVAL"
    assert asker.dump() == []


@rule("CTNEW-14")
@pytest.mark.parametrize("size", [0, 1, 3, 4, 16])
def test_labels_without_room_are_lost_without_a_word(asker: Asker, size: int) -> None:
    assert "LABELS" not in asker.made(both(), attribute(Cta.LABELS, b"\1" * size)).names


@rule("CTNEW-14")
def test_labels_at_birth(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.use_labels()
    assert asker.made(both(), attribute(Cta.LABELS, b"\2\0\0\0"))[Cta.LABELS] == b"\2" + bytes(15)
    assert asker.make(both(2), LIFE, attribute(Cta.LABELS, b"\1\2\3")) == "ACK", "an error does not matter then"
    assert "LABELS" not in asker.fetch(orig(2)).names


# --------------------------------------------------------------------------------------------------------------------- masters


@pytest.fixture
def child_of(asker: Asker) -> Asker:
    """Somebody who has made a TCP flow to port 21."""
    assert asker.make(both(number=TCP, to=21), LIFE) == "ACK"
    return asker


MASTER = orig(number=TCP, to=21, type=Cta.TUPLE_MASTER)


@rule("CTNEW-15")
@pytest.mark.parametrize(
    "master", [MASTER, reply(number=TCP, to=21, type=Cta.TUPLE_MASTER)], ids=["by its original direction", "by its reply"]
)
def test_a_flow_with_a_master(child_of: Asker, master: bytes) -> None:
    assert child_of.make(both(), LIFE, master) == "ACK"
    flow = child_of.fetch(orig())
    assert flow.status == CONFIRMED | EXPECTED
    assert ends(flow[Cta.TUPLE_MASTER]) == (A, B, TCP, (5000, 21), None)


@rule("CTNEW-15", "C7-38")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (orig(1, number=TCP, to=21, type=Cta.TUPLE_MASTER), "ENOENT"),
        (nest(Cta.TUPLE_MASTER), "EINVAL"),
        (MASTER + u16(Cta.ZONE, 4), "ENOENT"),
    ],
    ids=["unknown", "empty", "in another zone"],
)
def test_a_master_that_is_not_there(child_of: Asker, said: bytes, answer: str) -> None:
    assert child_of.make(both(), LIFE, said) == answer
    assert len(child_of.dump()) == 1


# -------------------------------------------------------------------------------------------------------------------- and fail


@rule("CTNEW-16")
@pytest.mark.parametrize(
    "wrong",
    [
        u32(Cta.STATUS, 0),
        words(Cta.SEQ_ADJ_ORIG, 1),
        nest(Cta.SYNPROXY),
        nest(Cta.TUPLE_MASTER),
        helper("nosuch"),
        nest(Cta.NAT_SRC, attribute(1, b"\1")),
    ],
    ids=["STATUS", "SEQ_ADJ_ORIG", "SYNPROXY", "TUPLE_MASTER", "HELP", "NAT_SRC"],
)
def test_what_fails_leaves_nothing_behind(kernel: KernelUnderTest, asker: Asker, wrong: bytes) -> None:
    watcher = watch(kernel)
    assert asker.make(both(number=TCP), LIFE, wrong) != "ACK"
    assert asker.dump() == []
    assert watcher.told() == []
    assert asker.make(both(number=TCP), LIFE) == "ACK"


@rule("CTNEW-16")
@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (helper("nosuch"), nest(Cta.NAT_DST, attribute(1, b"\1")), "EOPNOTSUPP"),
        (nest(Cta.NAT_DST, attribute(1, b"\1")), u32(Cta.STATUS, 0), "ERANGE"),
        (u32(Cta.STATUS, 0), words(Cta.SEQ_ADJ_ORIG, 1), "EBUSY"),
        (words(Cta.SEQ_ADJ_ORIG, 1), nest(Cta.PROTOINFO, nest(1, u8(1, 10))), "EINVAL"),
        (nest(Cta.PROTOINFO, nest(1, u8(1, 10))), nest(Cta.SYNPROXY), "ERANGE"),
        (nest(Cta.SYNPROXY), orig(9, type=Cta.TUPLE_MASTER), "EINVAL"),
    ],
    ids=["HELP, NAT", "NAT, STATUS", "STATUS, SEQ_ADJ", "SEQ_ADJ, PROTOINFO", "PROTOINFO, SYNPROXY", "SYNPROXY, MASTER"],
)
def test_what_is_looked_at_first(asker: Asker, first: bytes, second: bytes, answer: str) -> None:
    assert asker.make(both(number=TCP), LIFE, second, first) == answer


@rule("CTNEW-16")
def test_a_master_is_looked_for_before_the_place_is(child_of: Asker) -> None:
    child_of.make(both(8), LIFE)
    assert child_of.make(orig(), reply(8), LIFE, orig(9, type=Cta.TUPLE_MASTER)) == "ENOENT"
    assert child_of.make(orig(), reply(8), LIFE, MASTER) == "EEXIST"


@rule("C7-43")
def test_flows_can_be_made_where_nothing_is_tracked(asker: Asker) -> None:
    assert asker.dump() == []
    assert asker.made(both()).names == "TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SYNPROXY"
    assert tuple(asker.only().ends[:2]) == (A, B)
    assert asker.make(tuple_(Cta.TUPLE_ORIG, A6, B6, 0) + tuple_(Cta.TUPLE_REPLY, B6, A6, 0), LIFE, family=V6) == "ACK"
