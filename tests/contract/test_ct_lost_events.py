"""Events for which there was no room, and listeners who want to be told them later (NETLINK_BROADCAST_ERROR)."""

from __future__ import annotations

from errno import ENOBUFS

import pytest

from nfnl.wire.constants import Group, SocketOption
from tests.contract.ctkit import (
    CONFIRMED,
    CREATE,
    DYING,
    GET_DYING,
    GET_STATS,
    LIFE,
    NEW,
    V4,
    V6,
    Asker,
    Cta,
    Told,
    both,
    messages,
    orig,
    request,
    u32,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import nothing_to_receive, refused

#: more flows than a small buffer has room for events
CROWD = 60
#: how long a test waits for what must come, in seconds; on a machine that does nothing else it takes one
PATIENCE = 300


@pytest.fixture
def asker(kernel: KernelUnderTest) -> Asker:
    """Somebody who talks to conntrack."""
    kernel.touched = True  # what is still to be told outlives the test
    return Asker(kernel)


def listener(kernel: KernelUnderTest, *groups: int, reliable: bool = False) -> Asker:
    """Somebody with room for a handful of events."""
    made = Asker(kernel, *groups, receive_buffer=4096)
    if reliable:
        made.option(SocketOption.BROADCAST_ERROR)
    return made


def crowd(asker: Asker, first: int = 1, count: int = CROWD) -> None:
    """Make many flows."""
    for port in range(first, first + count):
        assert asker.make(both(port), LIFE) == "ACK"


def ports(told: list[Told]) -> list[int]:
    """Source ports of the flows that were told of."""
    return [event.ends.numbers[0] for event in told]


def entries(asker: Asker) -> int:
    """How many flows the kernel counts."""
    [stats] = asker.say(request(GET_STATS)).told
    return stats.number(1)


# ------------------------------------------------------------------------------------------------------------------------ loss


@rule("CTLOST-1")
def test_an_overrun_is_told_once_and_first(kernel: KernelUnderTest, asker: Asker) -> None:
    lossy = listener(kernel, Group.CONNTRACK_NEW)
    crowd(asker)
    assert len(asker.dump()) == CROWD, "nobody was held up"
    with refused(ENOBUFS):
        lossy.hear_one()
    heard = ports(lossy.told())
    assert heard == list(range(1, len(heard) + 1))
    assert 1 <= len(heard) < CROWD


@rule("CTLOST-1")
def test_what_was_lost_stays_lost_and_what_comes_is_heard(kernel: KernelUnderTest, asker: Asker) -> None:
    lossy = listener(kernel, Group.CONNTRACK_NEW)
    crowd(asker)
    with refused(ENOBUFS):
        lossy.hear_one()
    lossy.told()
    crowd(asker, 1001, 3)
    assert ports(lossy.told()) == [1001, 1002, 1003]


@rule("CTLOST-2")
def test_a_congested_listener_misses_everything_until_he_has_read_all(kernel: KernelUnderTest, asker: Asker) -> None:
    lossy = listener(kernel, Group.CONNTRACK_NEW)
    crowd(asker)
    with refused(ENOBUFS):
        lossy.hear_one()
    assert lossy.hear_one() is not None, "there is room for one again"
    crowd(asker, 1001, 1)
    assert 1001 not in ports(lossy.told())
    crowd(asker, 1002, 1)
    assert ports(lossy.told()) == [1002]


@rule("CTLOST-3")
def test_the_error_can_be_done_without(kernel: KernelUnderTest, asker: Asker) -> None:
    lossy = listener(kernel, Group.CONNTRACK_NEW)
    lossy.option(SocketOption.NO_ENOBUFS)
    crowd(asker)
    assert 1 <= len(lossy.told()) < CROWD


@rule("CTLOST-4")
def test_flows_go_at_once_whoever_misses_it(kernel: KernelUnderTest, asker: Asker) -> None:
    before = entries(asker)
    listener(kernel, Group.CONNTRACK_DESTROY)
    crowd(asker)
    assert asker.delete() == "ACK"
    assert asker.dump(operation=GET_DYING) == []
    assert entries(asker) == before


# ------------------------------------------------------------------------------------------------------------- told again: gone


@rule("CTLOST-5", "C7-37")
def test_flows_whose_end_was_not_told_are_dying(kernel: KernelUnderTest, asker: Asker) -> None:
    before = entries(asker)
    reliable = listener(kernel, Group.CONNTRACK_DESTROY, reliable=True)
    crowd(asker)
    assert asker.delete() == "ACK"
    assert asker.dump() == []
    dying = asker.dump(operation=GET_DYING)
    assert 0 < len(dying) < CROWD
    assert asker.get(orig(ports(dying)[0])) == "ENOENT"
    assert entries(asker) == before + len(dying)
    with refused(ENOBUFS):
        reliable.hear_one()


@rule("CTLOST-5")
def test_dying_flows_are_shown_like_others(kernel: KernelUnderTest, asker: Asker) -> None:
    listener(kernel, Group.CONNTRACK_DESTROY, reliable=True)
    crowd(asker)
    assert asker.delete() == "ACK"
    dying = asker.dump(operation=GET_DYING)
    assert {(flow.type, flow.flags, flow.status) for flow in dying} == {(0x100, 2, CONFIRMED | DYING)}
    assert {flow.names for flow in dying} == {"TUPLE_ORIG TUPLE_REPLY STATUS MARK ID USE TIMEOUT SYNPROXY"}
    assert len(asker.dump(operation=GET_DYING, family=V4)) == len(dying)
    assert asker.dump(operation=GET_DYING, family=V6) == []


@rule("CTLOST-5")
def test_a_place_that_a_dying_flow_had_is_free(kernel: KernelUnderTest, asker: Asker) -> None:
    listener(kernel, Group.CONNTRACK_DESTROY, reliable=True)
    crowd(asker)
    assert asker.delete() == "ACK"
    [*_, port] = ports(asker.dump(operation=GET_DYING))
    assert asker.make(both(port), LIFE) == "ACK"
    assert asker.only().ends.numbers[0] == port


@rule("CTLOST-6", "C7-37")
def test_their_end_is_told_to_whoever_reads(kernel: KernelUnderTest, asker: Asker) -> None:
    reliable = listener(kernel, Group.CONNTRACK_DESTROY, reliable=True)
    crowd(asker)
    assert asker.delete() == "ACK"
    told: list[Told] = []
    while len(told) < CROWD and kernel.wait(reliable.socket, PATIENCE):
        try:
            told += map(Told, messages(reliable.hear_one() or b""))
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
    assert sorted(ports(told)) == list(range(1, CROWD + 1))
    assert {(event.kind, event.pid) for event in told} == {("DESTROY", asker.port_id)}, "who asked first is named"
    assert nothing_to_receive(reliable)
    assert asker.dump(operation=GET_DYING) == []


@rule("CTLOST-6", "C7-37")
def test_without_anybody_reliable_they_just_go(kernel: KernelUnderTest, asker: Asker) -> None:
    reliable = listener(kernel, Group.CONNTRACK_DESTROY, reliable=True)
    watcher = Asker(kernel, Group.CONNTRACK_DESTROY)
    crowd(asker)
    assert asker.delete() == "ACK"
    missing = len(asker.dump(operation=GET_DYING))
    watcher.told()
    reliable.socket.close()
    told: list[Told] = []
    while len(told) < missing and kernel.wait(watcher.socket, PATIENCE):
        told += watcher.told()
    assert len(told) == missing > 0, "others hear of them twice"
    assert asker.dump(operation=GET_DYING) == []


@rule("CTLOST-7")
def test_one_reliable_listener_is_enough(kernel: KernelUnderTest, asker: Asker) -> None:
    listener(kernel, Group.CONNTRACK_DESTROY)
    reliable = Asker(kernel, Group.CONNTRACK_DESTROY)
    reliable.option(SocketOption.BROADCAST_ERROR)
    crowd(asker)
    assert asker.delete() == "ACK"
    assert asker.dump(operation=GET_DYING) == [], "he who is reliable missed nothing"
    assert len(reliable.told()) == CROWD


# ------------------------------------------------------------------------------------------------------- told again: new, changed


def overrun(kernel: KernelUnderTest, asker: Asker) -> Asker:
    """Somebody reliable who has missed that flow 500 is new."""
    reliable = listener(kernel, Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE, reliable=True)
    crowd(asker)
    crowd(asker, 500, 1)
    return reliable


def catch_up(reliable: Asker) -> None:
    """Read all that is there."""
    with refused(ENOBUFS):
        reliable.hear_one()
    assert 500 not in ports(reliable.told())


@rule("CTLOST-8")
def test_what_was_missed_comes_with_the_next_change(kernel: KernelUnderTest, asker: Asker) -> None:
    reliable = overrun(kernel, asker)
    assert asker.change(orig(500), u32(Cta.MARK, 7)) == "ACK", "he who is not heard is none the wiser"
    catch_up(reliable)
    kinds = []
    for mark in (8, 9):
        assert asker.change(orig(500), u32(Cta.MARK, mark)) == "ACK"
        [event] = reliable.told()
        kinds.append((event.kind, event.names, event.mark))
    names = "TUPLE_ORIG TUPLE_REPLY ID STATUS TIMEOUT SYNPROXY MARK"
    assert kinds == [("NEW", names, 8), ("UPDATE", names, 9)]


@rule("CTLOST-8")
def test_what_an_unreliable_listener_missed_does_not(kernel: KernelUnderTest, asker: Asker) -> None:
    lossy = listener(kernel, Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE)
    crowd(asker)
    crowd(asker, 500, 1)
    catch_up(lossy)
    assert asker.change(orig(500)) == "ACK"
    assert [event.kind for event in lossy.told()] == ["UPDATE"]


@rule("CTLOST-8")
def test_what_was_missed_is_not_told_when_the_flow_goes(kernel: KernelUnderTest, asker: Asker) -> None:
    reliable = overrun(kernel, asker)
    reliable.option(SocketOption.ADD_MEMBERSHIP, Group.CONNTRACK_DESTROY)
    catch_up(reliable)
    assert asker.delete(orig(500)) == "ACK"
    assert [event.kind for event in reliable.told()] == ["DESTROY"]


@rule("CTLOST-9")
def test_an_echo_comes_although_somebody_misses_the_event(kernel: KernelUnderTest, asker: Asker) -> None:
    overrun(kernel, asker)
    [answer] = [message for part in asker.ask(request(NEW, orig(500), flags=8, ack=False)) for message in messages(part)]
    assert Told(answer).ends.numbers[0] == 500


@rule("CTLOST-2")
def test_a_full_listener_does_not_stop_others(kernel: KernelUnderTest, asker: Asker) -> None:
    overrun(kernel, asker)
    other = Asker(kernel, Group.CONNTRACK_NEW)
    assert asker.make(both(700), LIFE, flags=CREATE) == "ACK"
    assert ports(other.told()) == [700]
