"""The mirror by itself: what is laid over what, and the race between a dump and its events."""

from __future__ import annotations

import errno

from nfnl.session.events import Event, FlowDestroyed, FlowNew, FlowUpdated, Refused, Resynced
from nfnl.session.flowspec import reply_to, tuple_of
from nfnl.session.mirror import FlowMirror, MirrorSession
from nfnl.subsys.conntrack import DestroyedFlow, Flow, Help, Status, Tuple, label_bitmap
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag, NlmsgType
from nfnl.wire.control import Ack
from nfnl.wire.header import NATIVE


def numbered(number: int) -> Tuple:
    return tuple_of("10.0.0.1", "10.0.0.2", "udp", number, 53)


def flow(number: int, *, id: int | None = None, seq: int = 0, pid: int = 0, **fields: object) -> Flow:  # noqa: A002
    original = numbered(number)
    return Flow(
        nlmsg_seq=seq,
        nlmsg_pid=pid,
        nfgen_family=2,
        original=original,
        reply=reply_to(original),
        id=number if id is None else id,
        **{"status": Status.CONFIRMED, **fields},  # type: ignore[arg-type]
    )


def gone(number: int, *, id: int | None = None) -> FlowDestroyed:  # noqa: A002
    original = numbered(number)
    return FlowDestroyed(DestroyedFlow(original=original, reply=reply_to(original), id=number if id is None else id))


def mirror_of(*flows: Flow) -> FlowMirror:
    mirror = FlowMirror()
    mirror.begin()
    mirror.part(flows)
    assert mirror.end(True)
    return mirror


def numbers(mirror: FlowMirror) -> list[int]:
    return sorted(flow.id or 0 for flow in mirror)


# --- what is laid over what -------------------------------------------------------------------------------------------------------


def test_an_event_is_laid_over_what_is_known() -> None:
    whole = flow(1, mark=1, use=1, timeout=30, help=Help(name="tftp"), labels=label_bitmap(1), counters_original=None)
    mirror = mirror_of(whole)
    mirror.happened(
        FlowUpdated(flow(1, status=Status.CONFIRMED | Status.ASSURED, mark=2, help=Help(name="tftp"), timestamp_event=5))
    )
    (now,) = mirror
    assert now == whole.replace(status=Status.CONFIRMED | Status.ASSURED, mark=2)
    assert mirror.find(numbered(1)) == now
    assert mirror.find(flow(1)) == now
    assert mirror.find(numbered(1), zone=1) is None


def test_what_an_event_leaves_out_can_say_something() -> None:
    """Every event has a helper and a mark if the flow has; one that a request caused also has the labels."""
    whole = flow(1, mark=1, help=Help(name="tftp"), labels=label_bitmap(1), timeout=30)
    by_packet, by_request = mirror_of(whole), mirror_of(whole)
    by_packet.happened(FlowUpdated(flow(1)))
    by_request.happened(FlowUpdated(flow(1, pid=4711)))
    (one,), (other,) = by_packet, by_request
    assert (one.mark, one.helper, one.label_numbers, one.timeout) == (None, None, frozenset((1,)), 30)
    assert (other.mark, other.helper, other.label_numbers, other.timeout) == (None, None, frozenset(), 30)


def test_many_events_are_not_kept() -> None:
    mirror = mirror_of(flow(1))
    for mark in range(1, 100):
        mirror.happened(FlowUpdated(flow(1, mark=mark)))
    assert max(len(layers) for layers in mirror._flows.values()) < 10
    assert [flow.mark for flow in mirror] == [99]


def test_a_flow_in_the_place_of_another_has_nothing_of_it() -> None:
    mirror = mirror_of(flow(1, mark=7, labels=label_bitmap(3)))
    mirror.happened(FlowNew(flow(1, id=99)))
    (now,) = mirror
    assert now == flow(1, id=99)
    mirror.happened(gone(1, id=1))
    assert numbers(mirror) == [99], "the end of the other comes late"
    mirror.happened(gone(1, id=99))
    assert len(mirror) == 0


def test_zones_are_told_apart() -> None:
    mirror = mirror_of(flow(1), flow(1, id=2, zone=5))
    assert len(mirror) == 2
    assert numbered(1) in mirror
    found = mirror.find(numbered(1), zone=5)
    assert found is not None
    assert found.id == 2
    assert flow(1, zone=5) in mirror
    assert flow(1, zone=6) not in mirror
    assert "what" not in mirror


# --- while a dump is read ---------------------------------------------------------------------------------------------------------


def resynced(mirror: FlowMirror, *what: list[Flow] | Event) -> FlowMirror:
    """The mirror after another dump: lists are its parts."""
    mirror.begin()
    for it in what:
        mirror.part(it) if isinstance(it, list) else mirror.happened(it)
    assert mirror.end(True)
    return mirror


def test_what_the_dump_does_not_have_is_gone() -> None:
    assert numbers(resynced(mirror_of(flow(1), flow(2)), [flow(2)], [flow(3)])) == [2, 3]


def test_what_happens_meanwhile_counts() -> None:
    mirror = resynced(
        mirror_of(flow(1), flow(2)), [flow(1), flow(2)], FlowNew(flow(3)), gone(1), [flow(4)], FlowUpdated(flow(2, mark=1))
    )
    assert numbers(mirror) == [2, 3, 4]
    assert [f.mark for f in mirror if f.id == 2] == [1]


def test_an_end_that_overtook_its_part_is_believed() -> None:
    mirror = resynced(mirror_of(flow(1)), gone(1), [flow(1), flow(2)])
    assert numbers(mirror) == [2]


def test_but_only_until_the_next_part() -> None:
    """The same tuple, and the same id even, may come again."""
    mirror = resynced(mirror_of(flow(1)), gone(1), [flow(2)], [flow(1)])
    assert numbers(mirror) == [1, 2]


def test_a_change_that_overtook_its_part_is_laid_over_it() -> None:
    mirror = resynced(mirror_of(flow(1)), FlowUpdated(flow(1, mark=5)), [flow(1, mark=4, labels=label_bitmap(9))])
    (now,) = mirror
    assert (now.mark, now.label_numbers) == (5, frozenset((9,)))


def test_the_old_copy_is_shown_until_the_new_one_is_whole() -> None:
    mirror = mirror_of(flow(1), flow(2))
    mirror.lost()
    assert not mirror.synced
    mirror.begin()
    mirror.part([flow(3)])
    mirror.happened(FlowNew(flow(4)))
    assert numbers(mirror) == [1, 2, 4]
    mirror.lost()
    assert not mirror.end(True), "something was lost while it was read"
    assert numbers(mirror) == [1, 2, 4]
    mirror.begin()
    mirror.part([flow(3), flow(4)])
    assert not mirror.end(False), "it was interrupted"
    assert not mirror.synced
    assert numbers(resynced(mirror, [flow(3), flow(4)])) == [3, 4]
    assert mirror.synced
    assert mirror.resyncs == 2


# --- when the table is read -------------------------------------------------------------------------------------------------------


class Talk:
    """A session, and a kernel that answers it by hand."""

    def __init__(self, **options: float) -> None:
        self.session = MirrorSession(**options)  # type: ignore[arg-type]
        self.session.socket_requests()
        self.dump = 0

    def empty(self, now: float) -> bool:
        """The socket is empty at that time; whether the table is asked for."""
        self.session.receive_empty(now)
        asked = [decode(datagram)[0] for datagram in self.session.datagrams_to_send()]
        if asked:
            (request,) = asked
            self.request = request
            self.dump = request.nlmsg_seq
        return bool(asked)

    def answer(self, now: float, *flows: int, flags: int = 0) -> list[Event]:
        parts = [bytes(flow(number, seq=self.dump).replace(nlmsg_flags=NlmsgFlag.MULTI | flags)) for number in flows]
        done = NATIVE.header.pack(20, NlmsgType.DONE, NlmsgFlag.MULTI, self.dump, 7) + bytes(4)
        self.session.receive_datagrams([*parts, done], now)
        return list(iter(self.session.next_event, None))


def test_it_is_read_at_once_and_again_after_a_loss() -> None:
    talk = Talk()
    assert talk.empty(0.0)
    assert talk.answer(0.0, 1, 2) == [Resynced(2)]
    assert not talk.empty(100.0)
    assert talk.session.deadline() is None
    talk.session.receive_overrun(101.0)
    assert talk.empty(101.0)
    talk.session.next_event()
    assert talk.answer(101.0, 1) == [Resynced(1)]


def test_a_loss_while_it_is_read_makes_it_be_read_again() -> None:
    talk = Talk()
    assert talk.empty(0.0)
    talk.session.receive_overrun(0.0)
    talk.session.next_event()
    assert talk.answer(0.0, 1) == []
    assert talk.empty(0.0)
    assert talk.answer(0.0, 1) == [Resynced(1)]


def test_an_interrupted_dump_is_repeated() -> None:
    talk = Talk(resync_delay=2.0)
    assert talk.empty(10.0)
    assert talk.answer(11.0, 1, flags=NlmsgFlag.DUMP_INTR) == []
    assert talk.session.deadline() == 13.0
    assert not talk.empty(12.9)
    assert talk.empty(13.0)
    assert talk.answer(13.0, 1) == [Resynced(1)]


def test_losses_in_a_row_cost_one_dump() -> None:
    talk = Talk(resync_delay=5.0)
    assert talk.empty(0.0), "the first is not delayed"
    talk.answer(0.0)
    for now in (10.0, 11.0, 14.0):
        talk.session.receive_overrun(now)
        assert not talk.empty(now)
    assert talk.session.deadline() == 15.0
    assert talk.empty(15.0)


def test_it_is_read_anew_from_time_to_time() -> None:
    talk = Talk(refresh=60.0)
    talk.empty(0.0)
    talk.answer(1.0)
    assert talk.session.deadline() == 61.0
    assert not talk.empty(60.0)
    assert talk.empty(61.0)


def test_a_list_of_somebody_else_comes_first() -> None:
    talk = Talk()
    talk.session.dump()
    talk.session.datagrams_to_send()
    seq = talk.session._seq
    assert not talk.empty(0.0)
    talk.dump = seq
    events = talk.answer(0.0, 1)
    assert [type(event).__name__ for event in events] == ["Answered", "DumpDone"]
    assert talk.empty(0.0)


def test_a_refusal_is_told_and_ends_it() -> None:
    talk = Talk()
    talk.empty(0.0)
    talk.session.receive_datagram(bytes(Ack.build(bytes(talk.request), errno.EPERM)), 0.0)
    event = talk.session.next_event()
    assert isinstance(event, Refused)
    assert not talk.empty(1.0)
    assert not talk.session.mirror.synced
