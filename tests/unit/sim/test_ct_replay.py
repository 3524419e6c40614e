"""What Linux 6.18.44 was asked about conntrack, asked again: the answers must be the same, byte for byte.

Left out of the comparison is what is another every time: ids, port ids, time stamps, and a second more or less of time left. A
recording starts where others ended or where packets had made flows; what was there then is made here, from requests or, where
packets did it, from what the recording itself shows of the flows, by `ct_world.World`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import pytest

from nfnl.sim.ct_entry import Event
from nfnl.subsys.conntrack import DestroyedFlow, Flow
from nfnl.subsys.expect import DestroyedExpectation, Expectation
from nfnl.wire.codec import decode
from nfnl.wire.constants import Group, NlmsgFlag, SocketOption
from nfnl.wire.declare import Direction
from tests.recordings import Recording, sessions
from tests.unit.sim.ct_world import World, alike, loosened

#: by name; those whose names begin with ``ct-`` are of the conntrack command
SESSIONS = {
    name: list(group)
    for name, group in groupby(sessions("conntrack"), lambda one: one.name.partition(":")[0])
    if not name.startswith("ct-")
}


def requests(name: str) -> Iterator[bytes]:
    return (one.data for one in SESSIONS[name] if one.direction is Direction.TO_KERNEL)


def said(name: str) -> list[bytes]:
    """What the kernel said, datagram by datagram."""
    return [one.data for one in SESSIONS[name] if one.direction is Direction.FROM_KERNEL]


def after(*names: str) -> Callable[[World], None]:
    """The world after these conversations."""

    def prepare(world: World) -> None:
        for name in names:
            PREPARED.get(name, nothing)(world)
            for request in requests(name):
                world.client.ask(request)

    return prepare


def nothing(world: World) -> None:
    pass


def connection(port: int, to: int, *, helper: str | None = None) -> Callable[[World], None]:
    return lambda world: world.connection(port, to, helper)


def packets_came(world: World) -> None:
    """The six flows that packets had made, as the dump of everything shows them."""
    world.kernel.sysctl("net.netfilter.nf_conntrack_timestamp", 1)
    for flow in decode(said("dump-all")[0]):
        assert isinstance(flow, Flow)
        world.take_over(flow)


def fixed(world: World) -> None:
    after("new-echo")(world)
    world.fix_timeout()


def capped(world: World) -> None:
    after("new-echo")(world)
    world.client.socket.setsockopt(270, SocketOption.CAP_ACK, 1)


def extended(world: World) -> None:
    world.client.socket.setsockopt(270, SocketOption.EXT_ACK, 1)


def forty_are_dying(world: World) -> None:
    after("unconfirmed")(world)  # who has received into a large buffer once is given large parts
    shown = decode(said("dying")[0])
    world.forty_are_dying([flow for flow in shown if isinstance(flow, Flow)])


def nine_were_inserted(world: World) -> None:
    world.table.statistics.insert = 9


def expecting(world: World) -> None:
    world.connection(4000, 21, "ftp")
    after("exp-new")(world)


def no_helper(world: World) -> None:
    world.connection(4000, 21, "ftp")
    world.connection(4009, 21)


#: what is there before a conversation; where a name is missing nothing is
PREPARED: dict[str, Callable[[World], None]] = {
    "new-master": after("new-helper"),
    **dict.fromkeys(("err-eexist", "err-ebusy", "err-eopnotsupp"), after("new-echo")),
    "err-eperm": fixed,
    "err-capped": capped,
    "err-extack": extended,
    "upd-mark": connection(1000, 80),
    "upd-protoinfo": after("upd-mark"),
    "upd-status-timeout": after("upd-protoinfo"),
    **dict.fromkeys(("get-orig", "get-reply", "get-enoent"), after("upd-status-timeout")),
    **dict.fromkeys(
        ("get-rich", "dump-all", "dump-v6", "dump-mark", "dump-filter", "dump-empty", "ctrzero-one", "stats"), packets_came
    ),
    "ctrzero-dump": after("ctrzero-one"),
    "del-tuple": after("ctrzero-dump"),
    **dict.fromkeys(("del-wrong-id", "del-id"), after("del-tuple")),
    "flush-filter": after("del-id"),
    "flush-v1": after("flush-filter"),
    "stats-cpu": nine_were_inserted,
    "exp-new": connection(4000, 21, helper="ftp"),
    **dict.fromkeys(("exp-dump", "exp-get", "exp-dump-master", "exp-del"), expecting),
    "exp-new-nat": connection(4000, 21, helper="ftp"),
    "exp-flush": after("exp-new-nat"),
    "exp-einval": connection(4000, 21, helper="ftp"),
    "exp-eopnotsupp": no_helper,
    "dying": forty_are_dying,
}

#: events of packets, and the dump behind them
UNASKED = sorted(name for name in SESSIONS if name.startswith(("ev-", "ftp-")))
ASKED = sorted(SESSIONS.keys() - set(UNASKED))


def test_all_recordings_are_used() -> None:
    assert len(ASKED) + len(UNASKED) == 82
    assert PREPARED.keys() <= set(ASKED)
    for name in UNASKED:
        assert sum(isinstance(message, Flow | DestroyedFlow | Expectation | DestroyedExpectation) for message in told(name))


@pytest.mark.parametrize("name", ASKED)
def test_the_answers_are_the_same(name: str) -> None:
    with World() as world:
        PREPARED.get(name, nothing)(world)
        groups = [Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE, Group.CONNTRACK_DESTROY]
        groups += [Group.CONNTRACK_EXP_NEW, Group.CONNTRACK_EXP_DESTROY]
        listener = world.listener(*groups)
        heard: list[bytes] = []
        for request in requests(name):
            heard += world.client.ask(request)
        heard += listener.hear()
        expected = said(name)
        if name.startswith("flush-"):  # the table is walked in no order
            heard, expected = sorted(heard, key=loosened), sorted(expected, key=loosened)
        if name.endswith("stats-cpu"):  # of each CPU; the fake has one
            expected[0] = expected[0][: int.from_bytes(expected[0][:4], "little")]
        assert len(heard) == len(expected)
        for ours, theirs in zip(heard, expected, strict=True):
            alike(ours, theirs)


def told(name: str) -> list[object]:
    return [message for datagram in said(name) for message in decode(datagram)]


@pytest.mark.parametrize("name", UNASKED)
def test_what_packets_cause_is_told_with_the_same_bytes(name: str) -> None:
    """A flow in the state that a message shows is told of with that message."""
    for one in SESSIONS[name]:
        if one.direction is Direction.FROM_KERNEL:
            for message in decode(one.data):
                if isinstance(message, Flow | DestroyedFlow | Expectation | DestroyedExpectation):
                    with World() as world:
                        assert_told_alike(world, message)


def assert_told_alike(world: World, message: Flow | DestroyedFlow | Expectation | DestroyedExpectation) -> None:
    listener = world.listener(*(group for group in Group if group <= Group.CONNTRACK_EXP_DESTROY))
    theirs = bytes(message)
    if isinstance(message, Expectation | DestroyedExpectation):
        made = world.expect(message)
        if message.nlmsg_flags & NlmsgFlag.MULTI:
            ours = world.dump_expectations(message.nlmsg_seq)
        else:
            if isinstance(message, DestroyedExpectation):
                listener.hear()
                world.kernel._world.expectations.remove(made)
            ours = listener.hear()
    else:
        entry = world.take_over(message)
        if message.nlmsg_flags & NlmsgFlag.MULTI:
            ours = world.dump_flows(message.nlmsg_seq, message.nfgen_family)
        else:
            world.kernel._world.conntrack.events.report(entry, bits_of(message))
            ours = listener.hear()
    assert len(ours) == 1
    alike(ours[0], theirs)


def bits_of(message: Flow | DestroyedFlow) -> int:
    """What must have happened to a flow for this message."""
    if isinstance(message, DestroyedFlow):
        return Event.DESTROY
    bits = Event.REPLY
    if message.nlmsg_flags & NlmsgFlag.CREATE:
        bits |= Event.RELATED if message.master is not None else Event.NEW
    for name, bit in (("protoinfo", Event.PROTOINFO), ("labels", Event.LABEL), ("synproxy", Event.SYNPROXY)):
        if getattr(message, name) is not None:
            bits |= bit
    return bits


def test_a_difference_would_be_seen() -> None:
    one = said("new-udp")[1]
    with pytest.raises(AssertionError):
        alike(one[:-1] + b"\x01", one)
    with pytest.raises(AssertionError):
        alike(one[:-8], one)


def test_what_is_left_out_is_little() -> None:
    """Of 148 bytes only the port id and the id; the time is compared by itself."""
    one: Recording = SESSIONS["ev-udp"][0]
    data = one.data
    passed_over = [i for i in range(len(data)) if loosened(data[:i] + bytes((data[i] ^ 0x80,)) + data[i + 1 :]) == loosened(data)]
    port_id, id_ = range(12, 16), range(128, 132)
    assert passed_over == [*port_id, *id_]
