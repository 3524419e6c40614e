"""The queue session: its table, its ledger, and when verdicts leave."""

from __future__ import annotations

import errno
import itertools

import pytest

from nfnl.errors import EncodeError, LocalProtocolError, NotFound, NotPermitted, RemoteProtocolError
from nfnl.session.events import Acked, ForeignDatagram, Overrun, PacketQueued, PacketsLost, Refused, Undecodable
from nfnl.session.queue import HOLD, TRANSITIONS, Input, Policy, QueueSession, State
from nfnl.subsys.queue import Command, ConfigCommand, CopyMode, Params, QueueFlag, VerdictBatch, VerdictHeader, VerdictMessage
from nfnl.wire.codec import decode
from nfnl.wire.constants import Verdict
from nfnl.wire.control import Ack, ExtendedAck
from nfnl.wire.datagram import Datagram
from tests.unit.session.kernel_model import ModelQueue

DROP, ACCEPT, STOLEN, QUEUE, REPEAT, STOP = (int(v) for v in Verdict)


def bound(kernel: ModelQueue, **options: object) -> QueueSession:
    session = QueueSession(kernel.number, **options)  # type: ignore[arg-type]
    request = session.bind()
    session.receive_datagrams(kernel.take(session.datagrams_to_send()), 0.0)
    assert session.next_event() == Acked(request, f"bind queue {kernel.number}")
    session._next_id = session._head = (kernel.last_id + 1) & 0xFFFFFFFF
    return session


def feed(session: QueueSession, *datagrams: bytes, now: float = 0.0) -> list[object]:
    session.receive_datagrams(datagrams, now)
    return list(iter(session.next_event, None))


def sent(session: QueueSession) -> list[VerdictMessage | VerdictBatch]:
    """What leaves, and each datagram's messages must decode strictly."""
    out = [message for datagram in session.datagrams_to_send() for message in decode(datagram, strict=True)]
    assert all(isinstance(m, VerdictMessage | VerdictBatch) for m in out)
    return out  # type: ignore[return-value]


# --- the table ---------------------------------------------------------------------------------------------------------------


def in_state(state: State) -> tuple[QueueSession, ModelQueue]:
    kernel = ModelQueue()
    session = QueueSession(0)
    if state is State.NEW:
        return session, kernel
    session.bind()
    request = kernel.take(session.datagrams_to_send())
    if state is State.BINDING:
        return session, kernel
    session.receive_datagrams(request, 0.0)
    feed(session, kernel.arrive())
    if state is State.BOUND:
        return session, kernel
    session.unbind()
    request = kernel.take(session.datagrams_to_send())
    if state is State.UNBINDING:
        return session, kernel
    session.receive_datagrams(request, 0.0)
    while session.next_event():
        pass
    return session, kernel


def apply(session: QueueSession, what: Input, kernel: ModelQueue) -> None:
    match what:
        case Input.BIND:
            session.bind()
        case Input.CONFIGURE:
            session.configure(max_length=1)
        case Input.UNBIND:
            session.unbind()
        case Input.DECIDE:
            session.decide(1, ACCEPT, 0.0)
        case Input.PACKET:
            session.receive_datagram(kernel.arrive(), 0.0)
        case Input.OVERRUN:
            session.receive_overrun(0.0)
        case Input.ACKED | Input.REFUSED:
            error = errno.EPERM if what is Input.REFUSED else 0
            pending = next(iter(session._pending.values()), None)
            request = bytes(pending.message if pending else VerdictMessage(header=VerdictHeader(0, 99), nlmsg_seq=99))
            session.receive_datagram(bytes(Ack.build(request, error)), 0.0)


@pytest.mark.parametrize(("state", "what"), list(itertools.product(State, Input)), ids=lambda v: v.value)
def test_every_input_in_every_state(state: State, what: Input) -> None:
    session, kernel = in_state(state)
    assert session.state is state
    expected = TRANSITIONS.get((state, what))
    mine = what in (Input.BIND, Input.CONFIGURE, Input.UNBIND, Input.DECIDE)
    before = session.waiting, session.has_output
    if expected is None and mine:
        with pytest.raises(LocalProtocolError):
            apply(session, what, kernel)
        assert (session.waiting, session.has_output) == before, "a wrong call changes nothing"
        expected = state
    else:
        apply(session, what, kernel)
    assert session.state is (expected or state)
    if what is Input.PACKET:
        came = [e for e in iter(session.next_event, None) if isinstance(e, PacketQueued)]
        assert bool(came) == ((state, what) in TRANSITIONS)


def test_bind_says_everything_in_one_message() -> None:
    """A queue that is bound but not configured drops every packet, so there must be no moment between the two."""
    session = QueueSession(7)
    session.bind(copy_range=100, max_length=5, flags=QueueFlag.FAIL_OPEN | QueueFlag.UID_GID)
    (datagram,) = session.datagrams_to_send()
    (config,) = decode(datagram)
    assert config.fields() == {  # type: ignore[attr-defined]
        "command": Command(ConfigCommand.BIND),
        "params": Params(100, CopyMode.PACKET),
        "queue_maxlen": 5,
        "mask": QueueFlag.FAIL_OPEN | QueueFlag.UID_GID,
        "flags": QueueFlag.FAIL_OPEN | QueueFlag.UID_GID,
    }
    assert config.res_id == 7  # type: ignore[attr-defined]


def test_flags_can_be_cleared() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    session.configure(flags=QueueFlag(0), mask=QueueFlag.FAIL_OPEN)
    kernel.take(session.datagrams_to_send())
    assert (kernel.configs[-1].flags, kernel.configs[-1].mask) == (QueueFlag(0), QueueFlag.FAIL_OPEN)
    assert kernel.configs[-1].present() == {"flags", "mask"}


def test_a_refused_bind_names_both_reasons() -> None:
    session = QueueSession(3)
    request = session.bind()
    (datagram,) = session.datagrams_to_send()
    (event,) = feed(session, bytes(Ack.build(datagram, errno.EPERM)))
    assert isinstance(event, Refused)
    assert event.request == request
    assert isinstance(event.error, NotPermitted)
    assert event.error.attribute is None
    assert "CAP_NET_ADMIN" in str(event.error)
    assert "another process" in str(event.error)


def test_a_refusal_names_the_attribute_the_kernel_points_at_and_what_it_says() -> None:
    session = QueueSession(3)
    session.bind(max_length=9)
    (datagram,) = session.datagrams_to_send()
    words = ExtendedAck(message="Attribute failed policy validation", offset=28 + 12)
    (event,) = feed(session, bytes(Ack.build(datagram, errno.ERANGE, extended=words)))
    assert isinstance(event, Refused)
    assert event.error.attribute == "Config.queue_maxlen (NFQA_CFG_QUEUE_MAXLEN)"
    assert str(event.error) == (
        "bind queue 3: ERANGE (Numerical result out of range); the kernel says: Attribute failed policy validation; "
        "attribute: Config.queue_maxlen (NFQA_CFG_QUEUE_MAXLEN)"
    )


@pytest.mark.parametrize("number", [-1, 65536])
def test_queue_numbers_are_16_bits(number: int) -> None:
    with pytest.raises(LocalProtocolError, match="65535"):
        QueueSession(number)


# --- the ledger --------------------------------------------------------------------------------------------------------------


def test_exactly_one_verdict_per_packet() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive())
    session.decide(1, ACCEPT, 0.0)
    with pytest.raises(LocalProtocolError, match="packet 1 of queue 0 has its verdict already"):
        session.decide(1, DROP, 0.0)
    with pytest.raises(LocalProtocolError, match="packet 2 of queue 0 has not come yet"):
        session.decide(2, DROP, 0.0)
    session.flush()
    kernel.take(session.datagrams_to_send())
    assert kernel.fates == {1: ACCEPT}


@pytest.mark.parametrize("word", [STOLEN, 6, 255, ACCEPT | 0x100, ACCEPT | 0x8000, REPEAT | 1 << 16, -1, 1 << 32])
def test_words_the_kernel_would_misunderstand_are_refused_and_the_packet_still_waits(word: int) -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive())
    with pytest.raises(LocalProtocolError):
        session.decide(1, word, 0.0)
    with pytest.raises(LocalProtocolError):
        session.decide(1, word, 0.0, mark=1)
    assert session.waiting == {1}


@pytest.mark.parametrize("extra", [{"payload": bytes(65532)}, {"mark": 1 << 32}, {"mark": -1}, {"priority": 1 << 32}])
def test_values_that_do_not_fit_are_refused_and_the_packet_still_waits(extra: dict[str, object]) -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive())
    with pytest.raises(EncodeError, match="VerdictMessage"):
        session.decide(1, ACCEPT, 0.0, **extra)  # type: ignore[arg-type]
    assert session.waiting == {1}


def test_a_refusal_is_tied_to_its_packet() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive(), kernel.arrive())
    kernel.waiting.remove(1)  # its device went down
    session.decide(1, DROP, 0.0)
    session.decide(2, ACCEPT, 0.0)
    session.flush()
    (event,) = feed(session, *kernel.take(session.datagrams_to_send()))
    assert isinstance(event, Refused)
    assert (event.packet_id, event.request) == (1, None)
    assert isinstance(event.error, NotFound)
    assert kernel.fates == {2: ACCEPT}


def test_undecided_packets_at_unbind_follow_the_policy() -> None:
    for policy, fates in ((Policy.DROP, {}), (Policy.ACCEPT, {1: ACCEPT, 2: ACCEPT})):
        kernel = ModelQueue()
        session = bound(kernel, undecided=policy)
        feed(session, kernel.arrive(), kernel.arrive())
        session.unbind()
        kernel.take(session.datagrams_to_send())
        assert kernel.fates == fates
        assert kernel.configs[-1].command == Command(ConfigCommand.UNBIND)


# --- joining -----------------------------------------------------------------------------------------------------------------


def test_consecutive_equal_decisions_leave_as_one_batch() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, *(kernel.arrive() for _ in range(5)))
    for packet_id in (1, 2, 3, 4, 5):
        session.decide(packet_id, ACCEPT if packet_id < 4 else DROP, 0.0)
    assert not session.has_output
    session.flush()
    assert [(type(m), m.header) for m in sent(session)] == [(VerdictBatch, (ACCEPT, 3)), (VerdictBatch, (DROP, 5))]


def test_a_batch_never_crosses_an_undecided_packet() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, *(kernel.arrive() for _ in range(4)))
    for packet_id in (2, 3, 4):
        session.decide(packet_id, ACCEPT, 0.0)
    session.flush()
    assert [(type(m), m.header) for m in sent(session)] == [(VerdictMessage, (ACCEPT, i)) for i in (2, 3, 4)]
    session.decide(1, DROP, 0.0)
    session.flush()
    assert [(type(m), m.header) for m in sent(session)] == [(VerdictMessage, (DROP, 1))]
    feed(session, kernel.arrive(), kernel.arrive())
    session.decide(5, ACCEPT, 0.0)
    session.decide(6, ACCEPT, 0.0)
    session.flush()
    assert [(type(m), m.header) for m in sent(session)] == [(VerdictBatch, (ACCEPT, 6))]


def test_a_verdict_with_something_to_say_travels_alone_but_in_the_same_datagram() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, *(kernel.arrive() for _ in range(3)))
    session.decide(1, ACCEPT, 0.0)
    session.decide(2, ACCEPT, 0.0, mark=9, payload=b"new")
    session.decide(3, ACCEPT, 0.0)
    session.flush()
    (datagram,) = session.datagrams_to_send()
    one, two, three = decode(datagram, strict=True)
    assert isinstance(two, VerdictMessage)
    assert (two.mark, two.payload) == (9, b"new")
    assert [m.header.packet_id for m in (one, two, three)] == [1, 2, 3]  # type: ignore[attr-defined]


def test_ids_wrap() -> None:
    kernel = ModelQueue(first_id=0xFFFFFFFD)
    session = bound(kernel)
    events = feed(session, *(kernel.arrive() for _ in range(6)))
    ids = [e.id for e in events if isinstance(e, PacketQueued)]
    assert ids == [0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2]
    for packet_id in ids:
        session.decide(packet_id, ACCEPT, 0.0)
    session.flush()
    assert [(type(m), m.header) for m in sent(session)] == [(VerdictBatch, (ACCEPT, 2))]


# --- losses ------------------------------------------------------------------------------------------------------------------


def test_an_overrun_is_told_and_the_gap_counted_exactly() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive())
    for _ in range(898):
        kernel.arrive(lost=True)
    session.receive_overrun(0.0)
    assert session.next_event() == Overrun()
    assert session.losses.uncertain
    events = feed(session, kernel.arrive())
    assert events[0] == PacketsLost(2, 899)
    assert events[0].count == 898
    assert (session.losses.lost, session.losses.uncertain, session.losses.overruns) == (898, False, 1)


def test_a_gap_is_settled_by_the_policy_when_everything_older_is_decided() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    lying = bytearray(kernel.arrive())
    feed(session, bytes(lying))
    broken = bytearray(kernel.arrive())
    broken[32:34] = b"\x03\x00"  # the length of IFINDEX_OUTDEV
    (event,) = feed(session, bytes(broken))
    assert isinstance(event, Undecodable)
    assert event.packet_id == 2
    feed(session, kernel.arrive())
    session.decide(3, ACCEPT, 0.0)
    session.flush()
    kernel.take(session.datagrams_to_send())
    assert kernel.fates == {3: ACCEPT}, "packet 1 is undecided: nothing may be said of packet 2 yet"
    session.decide(1, ACCEPT, 0.0)
    session.flush()
    assert feed(session, *kernel.take(session.datagrams_to_send())) == []
    assert kernel.fates == {1: ACCEPT, 2: DROP, 3: ACCEPT}
    assert kernel.waiting == []


def test_settling_a_gap_of_lost_packets_is_silent() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    kernel.arrive(lost=True)
    feed(session, kernel.arrive())
    session.decide(2, ACCEPT, 0.0)
    session.flush()
    assert feed(session, *kernel.take(session.datagrams_to_send())) == [], "ENOENT for the gap is no news"
    assert kernel.fates == {2: ACCEPT}


def test_a_truncated_datagram_is_undecodable_and_its_packet_settled() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    whole = kernel.arrive(payload=bytes(100))
    (event,) = feed(session, Datagram.make(whole[:60], truncated=True))
    assert isinstance(event, Undecodable)
    assert event.packet_id == 1
    assert session.losses.undecodable == 1
    feed(session, kernel.arrive())
    session.decide(2, ACCEPT, 0.0)
    session.flush()
    feed(session, *kernel.take(session.datagrams_to_send()))
    assert kernel.fates == {1: DROP, 2: ACCEPT}


def test_an_undecodable_message_without_an_id_is_not_also_counted_as_lost() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    broken = bytearray(kernel.arrive())
    broken[20:22] = b"\xff\xff"
    (event,) = feed(session, bytes(broken))
    assert isinstance(event, Undecodable)
    assert event.packet_id is None
    events = feed(session, kernel.arrive())
    assert [type(e) for e in events] == [PacketQueued]
    assert (session.losses.lost, session.losses.undecodable) == (0, 1)


def test_packets_of_another_queue_are_not_ours() -> None:
    kernel, other = ModelQueue(), ModelQueue(number=1)
    session = bound(kernel)
    events = feed(session, kernel.arrive(), other.arrive(), kernel.arrive(), other.arrive())
    assert [e.id for e in events if isinstance(e, PacketQueued)] == [1, 2]
    assert len(events) == 2


def test_datagrams_of_others_are_ignored_and_told() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    forged = Datagram.make(kernel.arrive(), sender=4711)
    assert feed(session, forged) == [ForeignDatagram(4711, bytes(forged))]
    assert session.waiting == frozenset()


def test_broken_framing_raises_after_what_came_before_it() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    good = kernel.arrive()
    good += bytes(-len(good) % 4)
    with pytest.raises(RemoteProtocolError, match="nlmsg_len"):
        session.receive_datagram(good + b"\xff" * 16, 0.0)
    assert [type(e) for e in iter(session.next_event, None)] == [PacketQueued]


def test_an_answer_nobody_asked_for_is_the_kernels_fault() -> None:
    session = bound(ModelQueue())
    with pytest.raises(RemoteProtocolError):
        session.receive_datagram(bytes(Ack.build(b"\x14\0\0\0\x02\x03\x05\0\x63\0\0\0\0\0\0\0\0\0\0\0")), 0.0)


def test_a_lost_answer_is_not_a_failed_request() -> None:
    """ENOBUFS took the ack: ask again once the socket is empty."""
    kernel = ModelQueue()
    session = bound(kernel)
    request = session.configure(max_length=9)
    kernel.take(session.datagrams_to_send())  # the answer is lost
    session.receive_overrun(0.0)
    session.receive_empty(0.0)
    events = feed(session, *kernel.take(session.datagrams_to_send()))
    assert events == [Overrun(), Acked(request, "configure queue 0")]


def test_an_unbind_asked_twice_takes_enodev_for_a_yes() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    request = session.unbind()
    kernel.take(session.datagrams_to_send())
    session.receive_overrun(0.0)
    session.receive_empty(0.0)
    (again,) = session.datagrams_to_send()
    events = feed(session, bytes(Ack.build(again, errno.ENODEV)))
    assert events == [Overrun(), Acked(request, "unbind queue 0")]
    assert session.state is State.UNBOUND


def test_counters_never_fall_when_an_old_id_comes_again() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    first = kernel.arrive()
    feed(session, first, kernel.arrive())
    events = feed(session, first)
    assert [type(e) for e in events] == [Undecodable]
    assert session.waiting == {1, 2}
    assert session.losses.lost == 0


# --- when a verdict leaves ---------------------------------------------------------------------------------------------------


def test_a_verdict_leaves_when_the_socket_is_empty() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive())
    session.decide(1, ACCEPT, 0.0)
    assert not session.has_output
    session.receive_empty(0.0)
    assert session.has_output


def test_a_verdict_leaves_at_the_first_call_after_the_hold() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive(), kernel.arrive(), now=1.0)
    session.decide(1, ACCEPT, 1.0)
    assert session.deadline() == 1.0 + HOLD
    session.handle_timer(1.0 + HOLD / 2)
    assert not session.has_output
    session.handle_timer(1.0 + HOLD * 1.01)
    assert session.has_output
    assert session.deadline() is None


def test_a_slow_handlers_own_verdict_leaves_at_once() -> None:
    """It was handed the packet at 1.0 and came back at 1.5: nothing is gained by holding it."""
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, kernel.arrive(), kernel.arrive(), now=1.0)
    session.decide(1, ACCEPT, 1.5)
    assert session.has_output


def test_without_joining_each_leaves_at_once() -> None:
    kernel = ModelQueue()
    session = bound(kernel, join=False)
    feed(session, kernel.arrive(), kernel.arrive())
    for packet_id in (1, 2):
        session.decide(packet_id, ACCEPT, 0.0)
        assert [(type(m), m.header) for m in sent(session)] == [(VerdictMessage, (ACCEPT, packet_id))]


def test_held_verdicts_are_bounded_and_datagrams_fit_the_send_buffer() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, *(kernel.arrive() for _ in range(3000)))
    for packet_id in range(1, 3001):
        session.decide(packet_id, ACCEPT, 0.0, mark=packet_id)
    assert len(session._held) < 1024
    session.flush()
    datagrams = session.datagrams_to_send()
    assert max(map(len, datagrams)) < 212960
    kernel.take(datagrams)
    assert len(kernel.fates) == 3000


def test_three_verdicts_with_big_payloads_leave_in_datagrams_the_kernel_takes() -> None:
    kernel = ModelQueue()
    session = bound(kernel)
    feed(session, *(kernel.arrive() for _ in range(6)))
    for packet_id in range(1, 7):
        session.decide(packet_id, ACCEPT, 0.0, payload=bytes(65531))
    session.flush()
    datagrams = session.datagrams_to_send()
    assert max(map(len, datagrams)) < 212960
    kernel.take(datagrams)
    assert len(kernel.fates) == 6


def test_a_burst_of_acknowledged_verdicts_needs_no_waiting() -> None:
    """Packets and acknowledgements arrive interleaved; neither is taken for the other (a single reader that waits for each
    acknowledgement in turn deadlocks here)."""
    kernel = ModelQueue()
    session = bound(kernel, acknowledge=True, join=False)
    feed(session, kernel.arrive(), kernel.arrive(), kernel.arrive())
    for packet_id in (1, 2, 3):
        session.decide(packet_id, ACCEPT, 0.0)
    answers = kernel.take(session.datagrams_to_send())
    assert len(answers) == 3
    events = feed(session, answers[0], kernel.arrive(), answers[1], kernel.arrive(), answers[2])
    assert [e.id for e in events if isinstance(e, PacketQueued)] == [4, 5]
    assert len(events) == 2
    assert kernel.fates == {1: ACCEPT, 2: ACCEPT, 3: ACCEPT}
