"""Events of what programs do to flows: who hears them, and what they say."""

from __future__ import annotations

import pytest

from nfnl.wire.constants import Group
from tests.contract.ctkit import (
    ANY,
    CONFIRMED,
    CREATE,
    CT,
    DELETE,
    DYING,
    ECHO,
    EXCL,
    LIFE,
    NEW,
    SCTP,
    TCP,
    V4,
    V6,
    Asker,
    Cta,
    Told,
    both,
    both6,
    ends,
    events,
    helper,
    messages,
    name,
    nest,
    orig,
    reply,
    request,
    u8,
    u16,
    u32,
    watch,
    words,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, only, rule
from tests.contract.wirekit import attribute, nothing_to_receive

ACCT, STAMPS, EVENTS = (f"net.netfilter.nf_conntrack_{name}" for name in ("acct", "timestamp", "events"))
MASTER = orig(number=TCP, to=21, type=Cta.TUPLE_MASTER)
ALWAYS = "TUPLE_ORIG TUPLE_REPLY ID STATUS TIMEOUT"


@pytest.fixture
def watcher(kernel: KernelUnderTest) -> Asker:
    """Somebody who hears of all that happens to flows, from before there are any."""
    return watch(kernel)


def only_event(watcher: Asker) -> Told:
    """The one event that has come."""
    [event] = watcher.told()
    return event


# ---------------------------------------------------------------------------------------------------------------------- header


@rule("CTEV-1")
@pytest.mark.parametrize(("said", "family"), [(both(), V4), (both6(), V6)], ids=["IPv4", "IPv6"])
def test_headers_of_events(watcher: Asker, asker: Asker, said: bytes, family: int) -> None:
    assert asker.make(said, LIFE, family=family, seq=77) == "ACK"
    assert asker.change(said, family=family, seq=78) == "ACK"
    assert asker.delete(said, family=family, seq=79) == "ACK"
    heads = [(event.type, event.flags, event.seq, event.pid, event.family, event.version, event.res_id) for event in watcher.told()]
    assert heads == [
        (CT << 8 | NEW, CREATE | EXCL, 0, asker.port_id, family, 0, 0),
        (CT << 8 | NEW, 0, 0, asker.port_id, family, 0, 0),
        (CT << 8 | DELETE, 0, 0, asker.port_id, family, 0, 0),
    ]


@rule("CTEV-1")
def test_each_event_is_a_datagram(watcher: Asker, asker: Asker) -> None:
    for port in (1, 2, 3):
        assert asker.make(both(port), LIFE) == "ACK"
    assert asker.delete() == "ACK"
    assert [len(messages(datagram)) for datagram in watcher.hear()] == [1] * 6


# ---------------------------------------------------------------------------------------------------------------------- groups


@rule("CTEV-2")
def test_each_kind_has_its_group(kernel: KernelUnderTest, asker: Asker) -> None:
    listeners = [watch(kernel, group) for group in (1, 2, 3)]
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.change(orig()) == "ACK"
    assert asker.delete(orig()) == "ACK"
    assert [[event.kind for event in listener.told()] for listener in listeners] == [["NEW"], ["UPDATE"], ["DESTROY"]]


@rule("CTEV-2")
def test_a_flow_with_a_master_is_new_like_any_other(kernel: KernelUnderTest, asker: Asker) -> None:
    listeners = [watch(kernel, group) for group in (1, 2, 4)]
    assert asker.make(both(number=TCP, to=21), LIFE) == "ACK"
    assert asker.make(both(), LIFE, MASTER) == "ACK"
    assert [[event.kind for event in listener.told()] for listener in listeners] == [["NEW", "NEW"], [], []]


@rule("CTEV-2")
def test_who_is_in_no_group_hears_nothing(kernel: KernelUnderTest, asker: Asker) -> None:
    other = Asker(kernel)
    assert asker.make(both(), LIFE) == "ACK"
    assert nothing_to_receive(other)
    assert nothing_to_receive(asker)


@rule("CTEV-10")
def test_who_is_in_another_namespace_hears_nothing(kernel: KernelUnderTest, asker: Asker) -> None:
    stranger, watcher = watch(kernel.another()), watch(kernel)
    assert asker.make(both(), LIFE) == "ACK"
    assert only_event(watcher).kind == "NEW"
    assert nothing_to_receive(stranger)


# ------------------------------------------------------------------------------------------------------------------------ new


@rule("CTEV-3", "CTATTR-10", "C7-40")
@pytest.mark.parametrize(
    ("said", "names"),
    [
        (both(), f"{ALWAYS} SYNPROXY MARK"),
        (both() + u32(Cta.MARK, 5), f"{ALWAYS} SYNPROXY MARK"),
        (both(number=TCP), f"{ALWAYS} PROTOINFO SYNPROXY MARK"),
        (both(number=SCTP), f"{ALWAYS} PROTOINFO SYNPROXY MARK"),
        (both() + u16(Cta.ZONE, 3), "TUPLE_ORIG TUPLE_REPLY ZONE ID STATUS TIMEOUT SYNPROXY MARK"),
        (orig(zone=3) + reply(), f"{ALWAYS} SYNPROXY MARK"),
        (both(number=TCP, to=21) + helper("ftp"), f"{ALWAYS} PROTOINFO HELP SYNPROXY MARK"),
        (both() + words(Cta.SEQ_ADJ_ORIG, 1, 2, 3), f"{ALWAYS} SEQ_ADJ_ORIG SEQ_ADJ_REPLY SYNPROXY MARK"),
    ],
    ids=["UDP", "mark", "TCP", "SCTP", "zone", "zone of a direction", "helper", "adjusted"],
)
def test_a_new_flow(watcher: Asker, asker: Asker, said: bytes, names: str) -> None:
    assert asker.make(said, LIFE) == "ACK"
    assert events(watcher.told()) == [("NEW", names)]


@rule("CTEV-3", "CTATTR-10")
def test_a_new_flow_with_everything(kernel: KernelUnderTest, watcher: Asker, asker: Asker) -> None:
    kernel.use_labels()
    assert asker.make(both(number=TCP, to=21), LIFE, u16(Cta.ZONE, 5)) == "ACK"
    said = both(2, number=TCP) + helper("ftp") + words(Cta.SEQ_ADJ_ORIG, 1, 2, 3) + attribute(Cta.LABELS, b"\1\0\0\0")
    assert asker.make(said, LIFE, MASTER, u16(Cta.ZONE, 5)) == "ACK"
    event = watcher.told()[-1]
    assert event.names == (
        "TUPLE_ORIG TUPLE_REPLY ZONE ID STATUS TIMEOUT PROTOINFO HELP LABELS TUPLE_MASTER SEQ_ADJ_ORIG SEQ_ADJ_REPLY SYNPROXY MARK"
    )
    assert ends(event[Cta.TUPLE_MASTER]).numbers == (5000, 21)
    assert event[Cta.HELP] == name(1, "ftp")
    assert event[Cta.LABELS] == b"\1" + bytes(15)


@rule("CTEV-3")
def test_a_new_flow_says_what_it_was_given(watcher: Asker, asker: Asker) -> None:
    state = nest(Cta.PROTOINFO, nest(1, u8(1, 3)))
    assert asker.make(both(number=TCP), LIFE, u32(Cta.MARK, 9), u32(Cta.STATUS, 0xE), state, words(Cta.SYNPROXY, 1, 2, 3)) == "ACK"
    event, flow = only_event(watcher), asker.only()
    for type_ in (Cta.TUPLE_ORIG, Cta.TUPLE_REPLY, Cta.ID, Cta.STATUS, Cta.MARK, Cta.PROTOINFO, Cta.SYNPROXY):
        assert event[type_] == flow[type_]
    assert 900 < event.number(Cta.TIMEOUT) <= 1000


# --------------------------------------------------------------------------------------------------------------------- update


@rule("CTEV-4", "CTATTR-10", "C7-40")
@pytest.mark.parametrize("said", [b"", u32(Cta.MARK, 5), u32(Cta.STATUS, 0xE), u32(Cta.TIMEOUT, 5000)])
def test_a_change_is_told_whether_it_changes_anything_or_not(watcher: Asker, asker: Asker, said: bytes) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.change(orig(), said) == "ACK"
    assert events(watcher.told())[1:] == [("UPDATE", f"{ALWAYS} SYNPROXY MARK")]


@rule("CTEV-4", "CTATTR-10")
@pytest.mark.parametrize(
    ("said", "change", "names"),
    [
        (both(number=TCP), b"", f"{ALWAYS} PROTOINFO SYNPROXY MARK"),
        (both(number=TCP, to=21) + helper("ftp"), b"", f"{ALWAYS} PROTOINFO HELP SYNPROXY MARK"),
        (both(number=TCP), words(Cta.SEQ_ADJ_ORIG, 1, 2, 3), f"{ALWAYS} PROTOINFO SEQ_ADJ_ORIG SEQ_ADJ_REPLY SYNPROXY MARK"),
    ],
    ids=["TCP", "helper", "adjusted"],
)
def test_what_a_change_tells(watcher: Asker, asker: Asker, said: bytes, change: bytes, names: str) -> None:
    assert asker.make(said, LIFE) == "ACK"
    assert asker.change(said[: len(orig())], change) == "ACK"
    assert events(watcher.told())[1:] == [("UPDATE", names)]


@rule("CTEV-4")
def test_a_change_of_a_flow_with_a_master_does_not_tell_the_master(watcher: Asker, asker: Asker) -> None:
    assert asker.make(both(number=TCP, to=21), LIFE) == "ACK"
    assert asker.make(both(2), LIFE, MASTER) == "ACK"
    assert asker.change(orig(2)) == "ACK"
    assert events(watcher.told())[1:] == [
        ("NEW", f"{ALWAYS} TUPLE_MASTER SYNPROXY MARK"),
        ("UPDATE", f"{ALWAYS} SYNPROXY MARK"),
    ]


@rule("CTEV-4", "CTATTR-5")
def test_a_change_tells_the_labels_if_there_are_any(kernel: KernelUnderTest, watcher: Asker, asker: Asker) -> None:
    kernel.use_labels()
    assert asker.make(both(), LIFE, attribute(Cta.LABELS, b"\1\0\0\0")) == "ACK"
    assert asker.change(orig()) == "ACK"
    assert asker.change(orig(), attribute(Cta.LABELS)) == "ACK"
    assert events(watcher.told()) == [
        ("NEW", f"{ALWAYS} LABELS SYNPROXY MARK"),
        ("UPDATE", f"{ALWAYS} LABELS SYNPROXY MARK"),
        ("UPDATE", f"{ALWAYS} SYNPROXY MARK"),
    ]


# -------------------------------------------------------------------------------------------------------------------- destroy


@needs("ends-tell-time-and-state")
@rule("CTEV-5", "CTATTR-11", "C7-40")
@pytest.mark.parametrize(
    ("said", "names"),
    [
        (both(), ALWAYS),
        (both() + u32(Cta.MARK, 5), f"{ALWAYS} MARK"),
        (both(number=TCP), f"{ALWAYS} PROTOINFO"),
        (both(number=SCTP), f"{ALWAYS} PROTOINFO"),
        (both() + u16(Cta.ZONE, 3), "TUPLE_ORIG TUPLE_REPLY ZONE ID STATUS TIMEOUT"),
        (both(number=TCP, to=21) + helper("ftp"), f"{ALWAYS} PROTOINFO"),
        (both() + words(Cta.SEQ_ADJ_ORIG, 1, 2, 3) + words(Cta.SYNPROXY, 1, 2, 3), ALWAYS),
    ],
    ids=["UDP", "mark", "TCP", "SCTP", "zone", "helper", "adjusted"],
)
def test_a_flow_that_goes(watcher: Asker, asker: Asker, said: bytes, names: str) -> None:
    assert asker.make(said, LIFE) == "ACK"
    assert asker.delete() == "ACK"
    [_, event] = watcher.told()
    assert (event.kind, event.names) == ("DESTROY", names)
    assert event.status & DYING


@needs("ends-tell-time-and-state")
@rule("CTEV-5", "CTATTR-11", "C7-40")
def test_a_flow_that_goes_tells_what_went_through_and_when(kernel: KernelUnderTest, watcher: Asker, asker: Asker) -> None:
    kernel.sysctl(ACCT, 1)
    kernel.sysctl(STAMPS, 1)
    assert asker.make(both(number=TCP), LIFE, u32(Cta.MARK, 5)) == "ACK"
    assert asker.change(orig(number=TCP)) == "ACK"
    assert asker.delete() == "ACK"
    new, update, destroy = (event.names.removesuffix(" TIMESTAMP_EVENT") for event in watcher.told())
    assert new == update == f"{ALWAYS} PROTOINFO SYNPROXY MARK"
    assert destroy == f"{ALWAYS} COUNTERS_ORIG COUNTERS_REPLY TIMESTAMP PROTOINFO MARK"


@rule("CTEV-6", "C7-40")
def test_where_events_have_the_time_all_of_them_do(kernel: KernelUnderTest, watcher: Asker, asker: Asker) -> None:
    kernel.sysctl(STAMPS, 1)
    for _ in range(2):
        assert asker.make(both(), LIFE) == "ACK"
        assert asker.change(orig()) == "ACK"
        assert asker.delete() == "ACK"
    told = watcher.told()
    stamped = [event.number(Cta.TIMESTAMP_EVENT) for event in told if Cta.TIMESTAMP_EVENT in event]
    assert stamped == sorted(stamped)
    assert len(stamped) in (0, 6)
    if stamped:
        assert {list(event)[-1] for event in told} == {Cta.TIMESTAMP_EVENT}, "it stands last"
        start, stop = told[2].inside(Cta.TIMESTAMP).numbers().values()
        assert start <= stamped[0]
        assert stamped[1] <= stop <= stamped[2]


@rule("CTEV-6")
def test_events_have_no_time_where_flows_have_none(watcher: Asker, asker: Asker) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    assert Cta.TIMESTAMP_EVENT not in only_event(watcher)


@rule("CTATTR-11")
@pytest.mark.parametrize(("number", "kind"), [(TCP, 1), (SCTP, 3)])
def test_of_its_state_one_part_is_told_at_the_end(watcher: Asker, asker: Asker, number: int, kind: int) -> None:
    tags = (u32(2, 1), u32(3, 1)) if number == SCTP else ()
    assert asker.make(both(number=number), LIFE, nest(Cta.PROTOINFO, nest(kind, u8(1, 3), *tags))) == "ACK"
    assert asker.delete() == "ACK"
    assert watcher.told()[-1].inside(Cta.PROTOINFO, kind) == {1: b"\3"}


# ---------------------------------------------------------------------------------------------------------------- who asked


@rule("CTEV-7")
@pytest.mark.parametrize(
    ("operation", "said", "answer"),
    [
        (NEW, both(2) + LIFE, (CT << 8 | NEW, CREATE | EXCL)),
        (NEW, orig(), (CT << 8 | NEW, 0)),
        (DELETE, orig(), (CT << 8 | DELETE, 0)),
        (DELETE, b"", (CT << 8 | DELETE, 0)),
    ],
    ids=["new", "change", "delete", "flush"],
)
def test_who_wants_an_echo_hears_the_event_before_the_answer(
    watcher: Asker, asker: Asker, operation: int, said: bytes, answer: tuple[int, int]
) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    watcher.told()
    told, end, _ = asker.say(request(operation, said, flags=ECHO | (CREATE if operation == NEW else 0), seq=44))
    assert [(event.type, event.flags) for event in told] == [answer]
    assert [(event.seq, event.pid) for event in told] == [(0, asker.port_id)]
    assert end == "ACK"
    assert [event.data for event in watcher.told()] == [event.data for event in told], "others hear it as well"


@rule("CTEV-7")
def test_an_echo_of_a_flush_is_one_event_for_each(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(EVENTS, 1)
    for port in (1, 2, 3):
        assert asker.make(both(port), LIFE) == "ACK"
    told, end, _ = asker.say(request(DELETE, flags=ECHO, family=ANY))
    assert sorted(event.ends.numbers[0] for event in told) == [1, 2, 3]
    assert end == "ACK"


@rule("CTEV-7")
@pytest.mark.parametrize("flags", [0, ECHO])
def test_who_listens_and_asks_hears_it_once(kernel: KernelUnderTest, flags: int) -> None:
    both_of_it = watch(kernel)
    told, end, _ = both_of_it.say(request(NEW, both(), LIFE, flags=CREATE | flags))
    assert ([event.kind for event in told], end) == (["NEW"], "ACK")
    told, end, _ = both_of_it.say(request(DELETE, flags=flags))
    assert ([event.kind for event in told], end) == (["DESTROY"], "ACK")


@rule("CTEV-7")
def test_an_echo_of_what_failed_is_the_refusal(asker: Asker) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.do(NEW, orig(), u32(Cta.STATUS, 0), flags=ECHO) == "EBUSY"
    assert asker.do(DELETE, orig(9), flags=ECHO) == "ENOENT"


# -------------------------------------------------------------------------------------------------------------------- switches


@rule("CTEV-8")
def test_flows_made_while_events_are_off_never_have_any(kernel: KernelUnderTest, watcher: Asker, asker: Asker) -> None:
    kernel.sysctl(EVENTS, 0)
    assert asker.make(both(), LIFE) == "ACK"
    kernel.sysctl(EVENTS, 1)
    assert asker.change(orig(), u32(Cta.MARK, 5)) == "ACK"
    assert asker.delete() == "ACK"
    assert watcher.told() == []


@rule("CTEV-8")
def test_flows_made_while_events_are_on_keep_them(kernel: KernelUnderTest, asker: Asker) -> None:
    kernel.sysctl(EVENTS, 1)
    assert asker.make(both(), LIFE) == "ACK"
    kernel.sysctl(EVENTS, 0)
    late = watch(kernel, Group.CONNTRACK_UPDATE, Group.CONNTRACK_DESTROY)
    assert asker.change(orig()) == "ACK"
    assert asker.delete() == "ACK"
    assert [event.kind for event in late.told()] == ["UPDATE", "DESTROY"]


@needs("events-on-demand")
@rule("CTEV-9", "C7-42")
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 6])
def test_by_default_a_flow_has_events_if_anybody_listens_to_anything(kernel: KernelUnderTest, asker: Asker, group: int) -> None:
    assert kernel.sysctl(EVENTS) == "2"
    somebody = watch(kernel, group)
    assert asker.make(both(), LIFE) == "ACK"
    somebody.socket.close()
    late = watch(kernel, Group.CONNTRACK_DESTROY)
    assert asker.delete() == "ACK"
    assert [event.kind for event in late.told()] == ["DESTROY"]


@rule("CTEV-9", "C7-42")
@only("fake", "on Linux somebody may listen in another namespace, and counts")
def test_by_default_a_flow_made_while_nobody_listens_never_has_any(kernel: KernelUnderTest, asker: Asker) -> None:
    assert asker.make(both(), LIFE) == "ACK"
    watcher = watch(kernel)
    assert asker.change(orig()) == "ACK"
    assert asker.do(DELETE, flags=ECHO) == "ACK"
    assert watcher.told() == []


@rule("CTEV-8")
@pytest.mark.parametrize("said", [orig(), b""], ids=["one", "all"])
def test_an_echo_needs_events_as_well(kernel: KernelUnderTest, asker: Asker, said: bytes) -> None:
    kernel.sysctl(EVENTS, 0)
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.do(DELETE, said, flags=ECHO) == "ACK"


@rule("CTEV-5")
def test_an_event_shows_how_the_flow_was_when_it_went(watcher: Asker, asker: Asker) -> None:
    assert asker.make(both(), LIFE, u32(Cta.STATUS, 0xE), u32(Cta.MARK, 7)) == "ACK"
    assert asker.delete() == "ACK"
    event = watcher.told()[-1]
    assert (event.status, event.mark) == (0xE | DYING, 7)
    assert event.status & CONFIRMED
    assert 900 < event.number(Cta.TIMEOUT) <= 1000
