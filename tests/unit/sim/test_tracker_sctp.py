"""The SCTP tracker (rule B.13): every cell of its table, and the rules around it."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, Status
from nfnl.sim.ct_sysctls import HZ, SYSCTLS
from nfnl.sim.protoinfo import SctpInfo, SctpState
from nfnl.sim.skb import IPV4
from nfnl.sim.tracker import INVALID, Answer, Verdict
from nfnl.sim.tracker_sctp import STATES, TIMEOUTS, Chunk, read_packet, track
from nfnl.sim.tuples import DEFAULT_ZONE, SCTP, Tuple
from tests.unit.sim.flows import A, B, inverse

RECORDED = Path(__file__).parents[3] / "fixtures/conntrack/sctp-transitions.tsv"
CELLS = [line.split("\t") for line in RECORDED.read_text().splitlines() if not line.startswith(("#", "direction"))]


def chunk(kind: int, flags: int = 0, body: bytes = b"") -> bytes:
    return pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def init(kind: int, tag: int) -> bytes:
    return chunk(kind, 0, pack("!IIHHI", tag, 1000, 1, 1, 1))


class Dialogue:
    def __init__(self, *, confirmed: bool = False) -> None:
        t = Tuple(IPV4, A, B, SCTP, 1000, 80)
        self.entry = Entry(1, DEFAULT_ZONE, t, inverse(t), SctpInfo())
        self.current = {name: row.default for name, row in SYSCTLS.items()}
        if confirmed:
            self.entry.status |= Status.CONFIRMED

    @property
    def info(self) -> SctpInfo:
        assert isinstance(self.entry.proto, SctpInfo)
        return self.entry.proto

    def say(self, direction: int, vtag: int, *chunks: bytes) -> Answer:
        packet = read_packet(pack("!HHII", 1000, 80, vtag, 0) + b"".join(chunks))
        if packet is None:
            return INVALID
        answer = track(self.entry, direction, packet, self.current, 0)
        self.entry.status |= answer.status
        if answer.verdict is Verdict.ACCEPT:
            self.entry.status |= Status.CONFIRMED | (Status.SEEN_REPLY if direction == REPLY else 0)
        return answer

    def open(self) -> Dialogue:
        """The handshake; tag 22 goes out, tag 11 comes back."""
        self.say(ORIGINAL, 0, init(Chunk.INIT, 11))
        self.say(REPLY, 11, init(Chunk.INIT_ACK, 22))
        self.say(ORIGINAL, 22, chunk(Chunk.COOKIE_ECHO, 0, b"cake"))
        self.say(REPLY, 11, chunk(Chunk.COOKIE_ACK))
        assert self.info.state is SctpState.ESTABLISHED
        return self


def test_the_recording_has_every_cell() -> None:
    assert len({tuple(cell[:3]) for cell in CELLS}) == len(CELLS) == 2 * 11 * len(SctpState)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell[:3]))
def test_the_table_says_what_linux_does(cell: list[str]) -> None:
    direction, kind, old, new, timeout, *_ = cell
    ours = STATES[("original", "reply").index(direction)][Chunk[kind]][SctpState[old]]
    assert (ours.name if isinstance(ours, SctpState) else ours) == new
    if isinstance(ours, SctpState):
        assert timeout == str(SYSCTLS[TIMEOUTS[ours]].default)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell[:3]))
def test_the_tracker_follows_the_table(cell: list[str]) -> None:
    direction, name, old, new, timeout, *_ = cell
    kind = Chunk[name]
    dialogue = Dialogue(confirmed=True)
    dialogue.info.state = SctpState[old]
    body = init(kind, 5) if kind in (Chunk.INIT, Chunk.INIT_ACK) else chunk(kind)
    answer = dialogue.say(("original", "reply").index(direction), 0, body)
    if new == "INVALID":
        assert (answer.verdict, dialogue.info.state) == (Verdict.INVALID, SctpState[old])
        return
    assert (answer.verdict, dialogue.info.state) == (Verdict.ACCEPT, SctpState[new])
    again = kind is Chunk.INIT and old == new == "CLOSED"
    assert answer.timeout == (None if again else int(timeout) * HZ)
    assert bool(answer.events & Event.PROTOINFO) == (old != new)


def test_a_handshake_makes_the_flow_assured() -> None:
    dialogue = Dialogue().open()
    assert dialogue.info.vtags == [22, 11]
    assert dialogue.entry.status & Status.ASSURED
    data = dialogue.say(ORIGINAL, 22, chunk(Chunk.DATA, 3, bytes(12)))
    assert data == Answer(timeout=210 * HZ)
    assert dialogue.say(ORIGINAL, 23, chunk(Chunk.DATA, 3, bytes(12))) == INVALID


def test_an_init_needs_the_tag_0_and_to_be_alone() -> None:
    assert Dialogue().say(ORIGINAL, 5, init(Chunk.INIT, 11)) == INVALID
    assert Dialogue().say(ORIGINAL, 0, init(Chunk.INIT, 11), chunk(Chunk.ERROR)) == INVALID
    assert Dialogue().say(ORIGINAL, 0, chunk(Chunk.ERROR), init(Chunk.INIT, 11)) == INVALID
    assert Dialogue().say(ORIGINAL, 0, chunk(Chunk.INIT, 0, bytes(8))) == INVALID
    assert Dialogue().say(ORIGINAL, 0, chunk(Chunk.ERROR), chunk(Chunk.COOKIE_ECHO)) == INVALID


@pytest.mark.parametrize("kind", [Chunk.ABORT, Chunk.SHUTDOWN_COMPLETE, Chunk.COOKIE_ACK, Chunk.DATA, 3, 200])
def test_what_no_flow_begins_with(kind: int) -> None:
    assert Dialogue().say(ORIGINAL, 5, chunk(kind)) == INVALID


def test_an_init_sent_again_does_not_renew_the_time() -> None:
    dialogue = Dialogue()
    assert dialogue.say(ORIGINAL, 0, init(Chunk.INIT, 11)).timeout == 10 * HZ
    assert dialogue.say(ORIGINAL, 0, init(Chunk.INIT, 11)) == Answer()


@pytest.mark.parametrize(("vtag", "flags", "fine"), [(22, 0, True), (11, 0, False), (11, 1, True), (22, 1, False)])
def test_an_abort_has_its_own_tag_or_with_the_t_bit_the_others(vtag: int, flags: int, fine: bool) -> None:
    dialogue = Dialogue().open()
    answer = dialogue.say(ORIGINAL, vtag, chunk(Chunk.ABORT, flags))
    assert (answer.verdict is Verdict.ACCEPT) == fine
    assert dialogue.info.state is (SctpState.CLOSED if fine else SctpState.ESTABLISHED)


def test_an_init_ack_with_another_tag_than_is_known_is_refused() -> None:
    dialogue = Dialogue().open()
    assert dialogue.say(REPLY, 11, init(Chunk.INIT_ACK, 99)) == INVALID
    assert dialogue.say(REPLY, 11, init(Chunk.INIT_ACK, 22)).verdict is Verdict.ACCEPT


def test_heartbeats_begin_a_flow_and_teach_its_tags() -> None:
    dialogue = Dialogue()
    assert dialogue.say(ORIGINAL, 22, chunk(Chunk.HEARTBEAT)).timeout == 30 * HZ
    answer = dialogue.say(REPLY, 11, chunk(Chunk.HEARTBEAT_ACK))
    assert (answer.status, answer.timeout, dialogue.info.vtags) == (Status.ASSURED, 210 * HZ, [22, 11])


@pytest.mark.parametrize(
    ("kind", "vtags"), [(Chunk.HEARTBEAT, [22, 0]), (Chunk.SHUTDOWN_ACK, [0, 22]), (Chunk.HEARTBEAT_ACK, [22, 0])]
)
def test_what_the_first_packet_tells_of_the_tags(kind: Chunk, vtags: list[int]) -> None:
    dialogue = Dialogue()
    assert dialogue.say(ORIGINAL, 22, chunk(kind)).verdict is Verdict.ACCEPT
    assert dialogue.info.vtags == vtags


def test_a_heartbeat_with_another_tag_passes_and_its_answer_puts_things_right() -> None:
    dialogue = Dialogue().open()
    assert dialogue.say(REPLY, 77, chunk(Chunk.HEARTBEAT_ACK)) == INVALID
    assert dialogue.say(ORIGINAL, 33, chunk(Chunk.HEARTBEAT)) == Answer()
    assert dialogue.say(ORIGINAL, 33, chunk(Chunk.HEARTBEAT_ACK)) == INVALID
    assert dialogue.say(REPLY, 77, chunk(Chunk.HEARTBEAT_ACK)).verdict is Verdict.ACCEPT
    assert dialogue.info.vtags == [0, 77]
    assert dialogue.say(ORIGINAL, 33, chunk(Chunk.DATA), chunk(Chunk.HEARTBEAT)).verdict is Verdict.ACCEPT
    assert dialogue.say(ORIGINAL, 34, chunk(Chunk.DATA), chunk(Chunk.HEARTBEAT)) == INVALID


def test_packets_without_chunks_or_with_an_empty_one() -> None:
    assert read_packet(bytes(12)) is None
    assert read_packet(bytes(11)) is None
    assert read_packet(bytes(12) + pack("!BBH", 0, 0, 0)) is None


@given(st.binary(max_size=100))
def test_any_bytes_can_be_read(data: bytes) -> None:
    packet = read_packet(data)
    assert packet is None or packet.chunks
