"""Expectations: flows that a helper, or a program for it, sees coming."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from nfnl.wire.constants import Group
from tests.contract.ctkit import (
    ANY,
    CREATE,
    CT,
    DELETE,
    DUMP,
    EXCL,
    EXP,
    EXPECTED,
    GET,
    LIFE,
    MULTI,
    NEW,
    SCTP,
    TCP,
    UDP,
    V6,
    A,
    Asker,
    B,
    Cta,
    Exp,
    Told,
    both,
    ends,
    helper,
    name,
    nest,
    orig,
    request,
    tuple_,
    u16,
    u32,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import attribute, nothing_to_receive

ONES = "255.255.255.255"
ALWAYS = "TUPLE MASK MASTER TIMEOUT ID FLAGS CLASS HELP_NAME"
PERMANENT, INACTIVE, USERSPACE = 1, 2, 4
DIR, NAT_TUPLE = 1, 2

#: the flow that expects, which has the helper of FTP, and two more
FTP, OTHER, PLAIN = 4000, 4002, 4001


def master(port: int = FTP, zone: int | None = None) -> bytes:
    """The flow that expects, by its original direction."""
    return orig(port, number=TCP, to=21, zone=zone, type=Exp.MASTER)


def expected(to: int = 5000, port: int = 0, *, number: int = TCP, destination: str = B, zone: int | None = None) -> bytes:
    """The flow that is expected."""
    return tuple_(Exp.TUPLE, A, destination, number, port, to, zone=zone)


def mask(to: int = 0xFFFF, port: int = 0, *, number: int = TCP) -> bytes:
    """What of it must be so: addresses, and as a rule the port it goes to."""
    return tuple_(Exp.MASK, ONES, ONES, number, port, to)


WHOLE = expected() + mask() + master()


class Expecter(Asker):
    """Somebody who talks about expectations, and has made flows that can have some."""

    def __init__(self, kernel: KernelUnderTest) -> None:
        super().__init__(kernel)
        for port, said in ((FTP, helper("ftp")), (OTHER, helper("ftp")), (PLAIN, b"")):
            assert self.make(both(port, number=TCP, to=21), LIFE, said) == "ACK"

    def ask_for(self, operation: int, *said: bytes, **header: Any) -> str:
        """A request to the expectations that is answered by no more than success or a refusal."""
        return self.do(operation, *said, subsystem=EXP, **header)

    def expect(self, *said: bytes, flags: int = CREATE | EXCL, **header: Any) -> str:
        """IPCTNL_MSG_EXP_NEW."""
        return self.ask_for(NEW, *said, flags=flags, **header)

    def forget(self, *said: bytes, **header: Any) -> str:
        """IPCTNL_MSG_EXP_DELETE."""
        return self.ask_for(DELETE, *said, **header)

    def look(self, *said: bytes, family: int = 2) -> Told | str:
        """IPCTNL_MSG_EXP_GET: the expectation, or the refusal."""
        return self.get(*said, subsystem=EXP, family=family)

    def expectations(self, *said: bytes, family: int = ANY) -> list[Told]:
        """All expectations."""
        return self.dump(*said, subsystem=EXP, family=family)

    def expectation(self, *said: bytes) -> Told:
        """The one expectation, newly made."""
        assert self.expect(WHOLE, *said) == "ACK"
        [one] = self.expectations()
        return one


@pytest.fixture
def expecter(kernel: KernelUnderTest) -> Expecter:
    """Somebody who talks about expectations."""
    return Expecter(kernel)


@pytest.fixture
def watcher(kernel: KernelUnderTest) -> Asker:
    """Somebody who hears of expectations, from before there are any."""
    return Asker(kernel, Group.CONNTRACK_EXP_NEW, Group.CONNTRACK_EXP_UPDATE, Group.CONNTRACK_EXP_DESTROY)


# ------------------------------------------------------------------------------------------------------------------------- new


@rule("CTEXP-1", "C7-38")
@pytest.mark.parametrize(
    "said",
    [expected() + mask(), expected() + master(), mask() + master(), b""],
    ids=["no master", "no mask", "no tuple", "nothing"],
)
@pytest.mark.parametrize("flags", [0, CREATE, CREATE | EXCL])
def test_three_tuples_are_needed(expecter: Expecter, said: bytes, flags: int) -> None:
    assert expecter.expect(said, flags=flags) == "EINVAL"


@rule("CTEXP-1")
@pytest.mark.parametrize(
    ("said", "family", "answer"),
    [
        (WHOLE, ANY, "EOPNOTSUPP"),
        (WHOLE, 7, "EOPNOTSUPP"),
        (WHOLE, V6, "EINVAL"),
        (nest(Exp.TUPLE) + mask() + master(), 2, "EINVAL"),
        (expected() + nest(Exp.MASK) + master(), 2, "EINVAL"),
        (expected() + mask() + nest(Exp.MASTER), 2, "EINVAL"),
        (attribute(Exp.TUPLE, b"\1") + mask() + master(), 2, "ERANGE"),
        (expected(zone=3) + mask() + master(), 2, "EINVAL"),
        (expected() + mask() + master(zone=3), 2, "EINVAL"),
        (WHOLE + attribute(Exp.FLAGS, bytes(3)), 2, "ERANGE"),
        (WHOLE + attribute(Exp.CLASS, bytes(3)), 2, "ERANGE"),
        (WHOLE + attribute(Exp.TIMEOUT, bytes(3)), 2, "ERANGE"),
        (WHOLE + attribute(Exp.ID, bytes(3)), 2, "ERANGE"),
        (WHOLE + attribute(Exp.ZONE, bytes(1)), 2, "ERANGE"),
        (WHOLE + attribute(Exp.HELP_NAME, b"ftp"), 2, "EINVAL"),
        (WHOLE + name(Exp.HELP_NAME, "a" * 16), 2, "EINVAL"),
        (WHOLE + attribute(Exp.FN, b"nosuch"), 2, "EINVAL"),
    ],
    ids=[
        "any family",
        "bridges",
        "IPv6",
        "empty tuple",
        "empty mask",
        "empty master",
        "short tuple",
        "zone of the tuple",
        "zone of the master",
        "FLAGS",
        "CLASS",
        "TIMEOUT",
        "ID",
        "ZONE",
        "no NUL",
        "16 letters",
        "FN without NUL",
    ],
)
def test_what_cannot_be_read(expecter: Expecter, said: bytes, family: int, answer: str) -> None:
    assert expecter.expect(said, family=family) == answer
    assert expecter.expectations() == []


@rule("CTEXP-2")
@pytest.mark.parametrize(("flags", "answer"), [(0, "ENOENT"), (EXCL, "ENOENT"), (CREATE, "ACK"), (CREATE | EXCL, "ACK")])
def test_one_that_is_not_there_is_made_only_if_asked(expecter: Expecter, flags: int, answer: str) -> None:
    assert expecter.expect(WHOLE, flags=flags) == answer
    assert len(expecter.expectations()) == (answer == "ACK")


@rule("CTEXP-3")
@pytest.mark.parametrize(("flags", "answer"), [(0, "ACK"), (CREATE, "ACK"), (EXCL, "EEXIST"), (CREATE | EXCL, "EEXIST")])
def test_of_one_that_is_there_the_timeout_may_be_changed(watcher: Asker, expecter: Expecter, flags: int, answer: str) -> None:
    before = expecter.expectation()
    watcher.told()
    said = WHOLE + u32(Exp.TIMEOUT, 77) + u32(Exp.FLAGS, PERMANENT) + u32(Exp.CLASS, 0)
    assert expecter.expect(said, flags=flags) == answer
    [after] = expecter.expectations()
    assert (after.number(Exp.TIMEOUT) <= 77) == (answer == "ACK")
    assert [after[type_] for type_ in (Exp.FLAGS, Exp.ID)] == [before[type_] for type_ in (Exp.FLAGS, Exp.ID)]
    assert nothing_to_receive(watcher)


@rule("CTEXP-3")
def test_it_is_found_through_the_mask_it_has(expecter: Expecter) -> None:
    expecter.expectation()
    assert expecter.expect(expected(port=777), mask(), master()) == "EEXIST"
    assert expecter.expect(expected(), mask(), master(OTHER)) == "EEXIST", "whoever is its master"
    assert expecter.expect(expected(), mask(), master(OTHER), flags=CREATE) == "ACK"
    [one] = expecter.expectations()
    assert ends(one[Exp.MASTER]).numbers == (FTP, 21)


@rule("CTEXP-4", "C7-38")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (expected() + mask() + orig(9, number=TCP, type=Exp.MASTER), "ENOENT"),
        (WHOLE + u16(Exp.ZONE, 5), "ENOENT"),
        (WHOLE + u16(Exp.ZONE, 0), "ACK"),
        (expected() + mask() + master(PLAIN), "EOPNOTSUPP"),
        (WHOLE + u32(Exp.CLASS, 1), "EINVAL"),
        (WHOLE + u32(Exp.CLASS, 0), "ACK"),
        (WHOLE + name(Exp.FN, "nosuch"), "EINVAL"),
        (WHOLE + name(Exp.FN, "nat-follow-master"), "ACK"),
        (expected(number=UDP) + mask(number=UDP) + master(), "ACK"),
    ],
    ids=["unknown master", "zone", "zone 0", "no helper", "class 1", "class 0", "function", "known function", "other protocol"],
)
def test_who_can_expect_what(expecter: Expecter, said: bytes, answer: str) -> None:
    assert expecter.expect(said) == answer
    assert len(expecter.expectations()) == (answer == "ACK")


@rule("CTEXP-5")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0, 0),
        (PERMANENT, PERMANENT),
        (INACTIVE, INACTIVE),
        (USERSPACE, 0),
        (PERMANENT | INACTIVE | USERSPACE, PERMANENT | INACTIVE),
    ],
)
def test_flags(expecter: Expecter, given: int, kept: int) -> None:
    assert expecter.expectation(u32(Exp.FLAGS, given)).number(Exp.FLAGS) == kept


@rule("CTEXP-5")
@pytest.mark.parametrize("flags", [8, 0x80000000, 0xF])
def test_flags_that_do_not_exist(expecter: Expecter, flags: int) -> None:
    assert expecter.expect(WHOLE, u32(Exp.FLAGS, flags)) == "EINVAL"


@rule("CTEXP-6")
@pytest.mark.parametrize(
    "asked",
    [u32(Exp.TIMEOUT, 42), pytest.param(name(Exp.HELP_NAME, "nosuch"), marks=needs("helper-of-expectations-ignored"))],
    ids=["life", "helper"],
)
def test_its_life_and_its_helper_come_from_the_master(expecter: Expecter, asked: bytes) -> None:
    one = expecter.expectation(asked)
    assert 250 < one.number(Exp.TIMEOUT) <= 300
    assert one[Exp.HELP_NAME] == b"ftp\0"


@rule("CTEXP-6")
@pytest.mark.parametrize(
    ("text", "number", "seconds"), [("tftp", UDP, 300), ("sip", UDP, 180), ("amanda", UDP, 180), ("irc", TCP, 300)]
)
def test_how_long_other_helpers_wait(expecter: Expecter, text: str, number: int, seconds: int) -> None:
    assert expecter.make(both(1, number=number), LIFE, helper(text)) == "ACK"
    assert expecter.expect(expected(), mask(), orig(1, number=number, type=Exp.MASTER)) == "ACK"
    [one] = expecter.expectations()
    assert seconds - 50 < one.number(Exp.TIMEOUT) <= seconds
    assert one[Exp.HELP_NAME] == text.encode() + b"\0"


# --------------------------------------------------------------------------------------------------------------------- clashes


@rule("CTEXP-7")
def test_one_that_overlaps_with_another_is_refused(expecter: Expecter) -> None:
    assert expecter.expect(expected(port=7), mask(port=0xFFFF), master()) == "ACK"
    assert expecter.expect(expected(), mask(), master()) == "EBUSY"
    assert expecter.expect(expected(), mask(), master(OTHER)) == "EBUSY"
    assert expecter.expect(expected(port=8), mask(port=0xFFFF), master(OTHER)) == "ACK"
    assert len(expecter.expectations()) == 2


@rule("CTEXP-8")
def test_a_master_has_so_many_and_the_oldest_goes(watcher: Asker, expecter: Expecter) -> None:
    for port in (6000, 6001, 6002):
        assert expecter.expect(expected(port), mask(), master()) == "ACK"
    assert [ends(one[Exp.TUPLE]).numbers for one in expecter.expectations()] == [(0, 6002)]
    told = [(event.kind, ends(event[Exp.TUPLE]).numbers[1]) for event in watcher.told()]
    assert told == [("NEW", 6000), ("DESTROY", 6000), ("NEW", 6001), ("DESTROY", 6001), ("NEW", 6002)]


@rule("CTEXP-8")
def test_of_another_master_nothing_goes(expecter: Expecter) -> None:
    assert expecter.expect(expected(6000), mask(), master()) == "ACK"
    assert expecter.expect(expected(6001), mask(), master(OTHER)) == "ACK"
    assert len(expecter.expectations()) == 2


# ------------------------------------------------------------------------------------------------------------------------- get


@rule("CTEXP-9")
@pytest.mark.parametrize("said", [expected(), expected(port=777), expected() + master(PLAIN)], ids=["tuple", "mask", "and master"])
def test_asking_for_one(expecter: Expecter, said: bytes) -> None:
    made = expecter.expectation()
    told, end, _ = expecter.say(request(GET, said, subsystem=EXP, seq=5))
    [one] = told
    assert (one.type, one.flags, one.seq, one.pid, one.family) == (EXP << 8 | NEW, MULTI, 5, expecter.port_id, 2)
    assert (one.names, one[Exp.ID]) == (ALWAYS, made[Exp.ID])
    assert end == "ACK"


@rule("CTEXP-9")
@pytest.mark.parametrize(
    ("said", "family", "answer"),
    [
        (b"", 2, "EINVAL"),
        (mask(), 2, "EINVAL"),
        (expected(5001), 2, "ENOENT"),
        (master(), 2, "ENOENT"),
        (expected() + u16(Exp.ZONE, 3), 2, "ENOENT"),
        (expected(), ANY, "EOPNOTSUPP"),
        (expected(number=UDP), 2, "ENOENT"),
        (expected() + u32(Exp.ID, 1), 2, "ENOENT"),
    ],
    ids=["nothing", "mask", "another", "master is an expected tuple here", "zone", "any family", "other protocol", "id"],
)
def test_asking_for_what_is_not_there(expecter: Expecter, said: bytes, family: int, answer: str) -> None:
    expecter.expectation()
    assert expecter.look(said, family=family) == answer


@rule("CTEXP-9")
def test_asking_with_an_id(expecter: Expecter) -> None:
    number = expecter.expectation()[Exp.ID]
    found = expecter.look(expected(), attribute(Exp.ID, number))
    assert isinstance(found, Told)
    assert found[Exp.ID] == number
    assert expecter.look(expected(), attribute(Exp.ID, bytes((number[0] ^ 1, *number[1:])))) == "ENOENT"


# ------------------------------------------------------------------------------------------------------------------------ dump


@rule("CTEXP-10")
def test_dumping_all_or_those_of_a_family(expecter: Expecter) -> None:
    expecter.expectation()
    assert expecter.expect(expected(6000), mask(), master(OTHER)) == "ACK"
    assert [len(expecter.expectations(family=family)) for family in (ANY, 2, V6, 7)] == [2, 2, 0, 0]
    assert {one.flags for one in expecter.expectations(family=2)} == {MULTI}, "never DUMP_FILTERED"


@rule("CTEXP-10")
def test_dumping_those_of_a_master(expecter: Expecter) -> None:
    expecter.expectation()
    assert [len(expecter.expectations(master(port), family=2)) for port in (FTP, OTHER)] == [1, 0]
    assert expecter.ask_for(GET, orig(9, number=TCP, type=Exp.MASTER), flags=DUMP, ack=False) == "ENOENT"
    assert expecter.ask_for(GET, master(), flags=DUMP, ack=False, family=ANY) == "EOPNOTSUPP"


@rule("CTEXP-11")
def test_dumping_those_of_a_master_without_a_helper_is_silence(expecter: Expecter) -> None:
    expecter.expectation()
    assert expecter.ask_for(GET, master(PLAIN), flags=DUMP, ack=False) == ""
    assert expecter.ask_for(GET, master(PLAIN), flags=DUMP) == "ACK"


# --------------------------------------------------------------------------------------------------------------------- delete


@needs("expectations-deleted-by-id")
@rule("CTEXP-12")
def test_deleting_one(watcher: Asker, expecter: Expecter) -> None:
    number = expecter.expectation()[Exp.ID]
    assert expecter.forget(expected(), attribute(Exp.ID, bytes((number[0] ^ 1, *number[1:])))) == "ENOENT"
    assert expecter.forget(expected(5001)) == "ENOENT"
    assert expecter.forget(expected(), u16(Exp.ZONE, 3)) == "ENOENT"
    assert expecter.forget(expected(), attribute(Exp.ID, number)) == "ACK"
    assert expecter.forget(expected()) == "ENOENT"
    assert [(event.kind, event.pid) for event in watcher.told()][1:] == [("DESTROY", expecter.port_id)]


@rule("CTEXP-13")
@pytest.mark.parametrize(
    ("said", "left"),
    [
        (name(Exp.HELP_NAME, "nosuch"), 2),
        (name(Exp.HELP_NAME, "tftp"), 2),
        (name(Exp.HELP_NAME, "ftp"), 0),
        (b"", 0),
        (master(), 0),
        (mask(), 0),
        (u32(Exp.ID, 1), 0),
        (u16(Exp.ZONE, 9), 0),
    ],
    ids=["unknown helper", "another helper", "helper", "nothing", "master", "mask", "id", "zone"],
)
@pytest.mark.parametrize("family", [ANY, 2, V6])
def test_deleting_many(expecter: Expecter, said: bytes, left: int, family: int) -> None:
    expecter.expectation()
    assert expecter.expect(expected(6000), mask(), master(OTHER)) == "ACK"
    assert expecter.forget(said, family=family) == "ACK"
    assert len(expecter.expectations()) == left


# -------------------------------------------------------------------------------------------------------------------- contents


@rule("CTEXP-14")
def test_what_an_expectation_says(expecter: Expecter) -> None:
    one = expecter.expectation()
    assert (one.type, one.flags, one.family, one.names) == (EXP << 8 | NEW, MULTI, 2, ALWAYS)
    assert ends(one[Exp.TUPLE]) == (A, B, TCP, (0, 5000), None)
    assert ends(one[Exp.MASK]) == (ONES, ONES, TCP, (0, 0xFFFF), None)
    assert ends(one[Exp.MASTER]) == (A, B, TCP, (FTP, 21), None)
    assert (one.number(Exp.FLAGS), one.number(Exp.CLASS)) == (0, 0)


@rule("CTEXP-14")
def test_of_the_mask_the_destination_is_always_whole(expecter: Expecter) -> None:
    half = tuple_(Exp.MASK, "255.255.255.0", "0.0.0.0", TCP, 0xFF00, 0)
    assert expecter.expect(expected(port=0x1234), half, master()) == "ACK"
    [one] = expecter.expectations()
    assert ends(one[Exp.MASK]) == ("255.255.255.0", ONES, TCP, (0xFF00, 0xFFFF), None)
    assert ends(one[Exp.TUPLE]) == (A, B, TCP, (0x1234, 5000), None), "which is shown as it was given"
    assert expecter.expect(tuple_(Exp.TUPLE, "10.9.0.77", B, TCP, 0x12FF, 5000), half, master()) == "EEXIST"


@rule("CTEXP-15")
@pytest.mark.parametrize(
    ("said", "names"),
    [
        (name(Exp.FN, "nat-follow-master"), f"{ALWAYS} FN"),
        (
            nest(Exp.NAT, u32(DIR, 1), tuple_(NAT_TUPLE, "10.7.7.7", "0.0.0.0", TCP, 999, 0)),
            "TUPLE MASK MASTER NAT TIMEOUT ID FLAGS CLASS HELP_NAME",
        ),
        (
            nest(Exp.NAT, u32(DIR, 0), tuple_(NAT_TUPLE, "0.0.0.0", "0.0.0.0", TCP, 999, 0)),
            "TUPLE MASK MASTER NAT TIMEOUT ID FLAGS CLASS HELP_NAME",
        ),
        (nest(Exp.NAT, u32(DIR, 1), tuple_(NAT_TUPLE, "0.0.0.0", "0.0.0.0", TCP, 0, 0)), ALWAYS),
        (u16(Exp.ZONE, 0), ALWAYS),
    ],
    ids=["function", "NAT", "NAT of the port", "NAT of nothing", "zone 0"],
)
def test_what_stands_there_only_if_it_is_something(watcher: Asker, expecter: Expecter, said: bytes, names: str) -> None:
    assert expecter.expectation(said).names == names
    assert expecter.forget() == "ACK"
    assert [event.names for event in watcher.told()] == [names, names]


@rule("CTEXP-15")
def test_nat_of_an_expectation(expecter: Expecter) -> None:
    one = expecter.expectation(nest(Exp.NAT, u32(DIR, 1), tuple_(NAT_TUPLE, "10.7.7.7", "1.2.3.4", TCP, 999, 5)))
    nat = one.inside(Exp.NAT)
    assert list(nat) == [DIR, NAT_TUPLE]
    assert nat.number(DIR) == 1
    assert ends(nat[NAT_TUPLE]) == ("10.7.7.7", "0.0.0.0", TCP, (999, 0), None), "the source alone is kept"


@rule("CTEXP-15")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (nest(Exp.NAT, u32(DIR, 1)), "EINVAL"),
        (nest(Exp.NAT, tuple_(NAT_TUPLE, "10.7.7.7", "0.0.0.0", TCP, 999, 0)), "EINVAL"),
        (nest(Exp.NAT), "EINVAL"),
        (nest(Exp.NAT, u32(DIR, 2), tuple_(NAT_TUPLE, "10.7.7.7", "0.0.0.0", TCP, 999, 0)), "ERANGE"),
        (nest(Exp.NAT, u32(DIR, 5), tuple_(NAT_TUPLE, "10.7.7.7", "0.0.0.0", TCP, 999, 0)), "ERANGE"),
        (nest(Exp.NAT, attribute(DIR, bytes(3)), nest(NAT_TUPLE)), "ERANGE"),
        (nest(Exp.NAT, u32(DIR, 1), nest(NAT_TUPLE)), "EINVAL"),
    ],
    ids=["direction alone", "tuple alone", "empty", "direction 2", "direction 5", "short direction", "empty tuple"],
)
def test_nat_that_cannot_be(expecter: Expecter, said: bytes, answer: str) -> None:
    assert expecter.expect(WHOLE, said) == answer
    assert expecter.expectations() == []


@rule("CTEXP-14")
def test_an_expectation_of_another_protocol(expecter: Expecter) -> None:
    assert expecter.expect(expected(number=SCTP), mask(number=SCTP), master()) == "ACK"
    [one] = expecter.expectations()
    assert (ends(one[Exp.TUPLE]).protocol, ends(one[Exp.MASTER]).protocol) == (SCTP, TCP)


@rule("CTEXP-14")
def test_ids_of_expectations(expecter: Expecter) -> None:
    one = expecter.expectation()
    assert expecter.expect(expected(6000), mask(), master(OTHER)) == "ACK"
    assert len({other[Exp.ID] for other in expecter.expectations()}) == 2
    assert one[Exp.ID] in {other[Exp.ID] for other in expecter.expectations()}


# ---------------------------------------------------------------------------------------------------------------------- events


@rule("CTEXP-16")
def test_events_of_expectations(watcher: Asker, expecter: Expecter) -> None:
    one = expecter.expectation()
    assert expecter.forget(expected()) == "ACK"
    told = watcher.told()
    assert [(event.type, event.flags, event.seq, event.pid, event.family, event.names) for event in told] == [
        (EXP << 8 | NEW, CREATE | EXCL, 0, expecter.port_id, 2, ALWAYS),
        (EXP << 8 | DELETE, 0, 0, expecter.port_id, 2, ALWAYS),
    ]
    assert {event[Exp.ID] for event in told} == {one[Exp.ID]}


@rule("CTEXP-16")
def test_their_groups(kernel: KernelUnderTest) -> None:
    listeners = [Asker(kernel, group) for group in range(1, 7)]
    expecter = Expecter(kernel)
    for listener in listeners:
        listener.hear()
    expecter.expectation()
    assert expecter.forget() == "ACK"
    assert [[event.kind for event in listener.told()] for listener in listeners] == [[], [], [], ["NEW"], [], ["DESTROY"]]


@rule("CTEXP-17")
def test_they_go_with_their_master(watcher: Asker, expecter: Expecter) -> None:
    expecter.expectation()
    assert expecter.delete(orig(FTP, number=TCP, to=21)) == "ACK"
    assert expecter.expectations() == []
    assert [(event.kind, event.pid) for event in watcher.told()] == [("NEW", expecter.port_id), ("DESTROY", 0)]


@rule("CTEXP-17")
def test_their_end_is_told_behind_that_of_the_master(kernel: KernelUnderTest) -> None:
    listener = Asker(kernel, Group.CONNTRACK_DESTROY, Group.CONNTRACK_EXP_DESTROY)
    expecter = Expecter(kernel)
    expecter.expectation()
    assert expecter.delete(orig(FTP, number=TCP, to=21)) == "ACK"
    assert [event.type for event in listener.told()] == [CT << 8 | DELETE, EXP << 8 | DELETE]


@rule("CTEXP-17")
def test_what_has_a_master_does_not_go_with_it(expecter: Expecter) -> None:
    child = orig(FTP, number=TCP, to=21, type=Cta.TUPLE_MASTER)
    assert expecter.make(both(1), LIFE, child) == "ACK"
    assert expecter.delete(orig(FTP, number=TCP, to=21)) == "ACK"
    flow = expecter.fetch(orig(1))
    assert flow.status & EXPECTED
    assert ends(flow[Cta.TUPLE_MASTER]).numbers == (FTP, 21)


@rule("CTEXP-17")
def test_they_go_with_the_helper(expecter: Expecter) -> None:
    expecter.expectation()
    answer = expecter.change(orig(FTP, number=TCP, to=21), helper(""))
    assert len(expecter.expectations()) == (answer != "ACK")


@rule("CTEXP-16")
def test_flows_that_expect_tell_nothing_of_it(kernel: KernelUnderTest) -> None:
    listener = Asker(kernel, 1, 2, 3)
    expecter = Expecter(kernel)
    listener.told()
    expecter.expectation()
    assert expecter.forget() == "ACK"
    assert nothing_to_receive(listener)


@rule("CTEXP-14")
def test_an_expectation_byte_by_byte(expecter: Expecter) -> None:
    one = expecter.expectation()
    timeout, number = one[Exp.TIMEOUT], one[Exp.ID]
    wanted = (
        bytes.fromhex("34000280 14000180 080001000a090001 080002000a090002 1c000280 0500010006000000")
        + bytes.fromhex("0600020000000000 0600030013880000")
        + bytes.fromhex("34000380 14000180 08000100ffffffff 08000200ffffffff 1c000280 0500010006000000")
        + bytes.fromhex("0600020000000000 06000300ffff0000")
        + bytes.fromhex("34000180 14000180 080001000a090001 080002000a090002 1c000280 0500010006000000")
        + bytes.fromhex("060002000fa00000 0600030000150000")
        + struct.pack("=HH4sHH4s", 8, 4, timeout, 8, 5, number)
        + bytes.fromhex("0800080000000000 0800090000000000 0800060066747000")
    )
    assert one.data[20:] == wanted
