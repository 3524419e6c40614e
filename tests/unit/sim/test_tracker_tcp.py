"""The TCP tracker: every cell of its table, and the rules beside it (B.7; names such as N3 are those of the measured rules)."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, SequenceAdjustment, Status
from nfnl.sim.ct_sysctls import HZ, SYSCTLS
from nfnl.sim.protoinfo import TcpFlag, TcpInfo, TcpState
from nfnl.sim.skb import IPV4, TCP
from nfnl.sim.tcp_segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Kind, Segment, read_segment
from nfnl.sim.tracker import INVALID, PASS, REPEAT, Answer, Verdict
from nfnl.sim.tracker_tcp import STATES, TIMEOUTS, track
from nfnl.sim.tuples import DEFAULT_ZONE, Tuple
from tests.unit.sim.flows import A, B, inverse

RECORDED = Path(__file__).parents[3] / "fixtures/conntrack/tcp-transitions.tsv"
CELLS = [line.split("\t") for line in RECORDED.read_text().splitlines() if not line.startswith(("#", "direction"))]
S = TcpState


class Dialogue:
    """One flow, and what the tracker makes of its segments."""

    def __init__(self, *, confirmed: bool = False) -> None:
        t = Tuple(IPV4, A, B, TCP, 1000, 80)
        self.entry = Entry(1, DEFAULT_ZONE, t, inverse(t), TcpInfo())
        self.current = {name: row.default for name, row in SYSCTLS.items()}
        self.now = 0
        if confirmed:
            self.entry.status |= Status.CONFIRMED

    @property
    def info(self) -> TcpInfo:
        assert isinstance(self.entry.proto, TcpInfo)
        return self.entry.proto

    def say(self, direction: int, segment: Segment) -> Answer:
        """As the tracker's caller does: what it answers is carried out, and a first answer sets SEEN_REPLY afterwards."""
        answer = track(self.entry, direction, segment, self.current, self.now)
        if answer.verdict is Verdict.ACCEPT:
            self.entry.status |= answer.status | Status.CONFIRMED
            if answer.timeout is not None:
                self.entry.expires = self.now + answer.timeout
            if direction == REPLY:
                self.entry.status |= Status.SEEN_REPLY
        return answer

    def out(self, flags: int, seq: int, ack: int = 0, length: int = 0, window: int = 8192, **options: object) -> Answer:
        return self.say(ORIGINAL, Segment(flags, seq, ack, window, length, bool(options), **options))  # type: ignore[arg-type]

    def back(self, flags: int, seq: int, ack: int = 0, length: int = 0, window: int = 8192, **options: object) -> Answer:
        return self.say(REPLY, Segment(flags, seq, ack, window, length, bool(options), **options))  # type: ignore[arg-type]

    def open(self) -> Dialogue:
        """The three-way handshake; then 101 and 501 come next."""
        self.out(SYN, 100)
        self.back(SYN | ACK, 500, 101)
        self.out(ACK, 101, 501)
        assert self.info.state is S.ESTABLISHED
        return self


def seconds(answer: Answer) -> int | None:
    return None if answer.timeout is None else answer.timeout // HZ


def test_the_recording_has_every_cell() -> None:
    assert len({tuple(cell[:3]) for cell in CELLS}) == len(CELLS) == 2 * len(Kind) * len(TcpState)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell[:3]))
def test_the_table_says_what_linux_does(cell: list[str]) -> None:
    direction, packet, old, new, effect, timeout, *_ = cell
    ours = STATES[("original", "reply").index(direction)][Kind[packet]][TcpState[old]]
    assert (ours.name if isinstance(ours, TcpState) else ours) == new
    if isinstance(ours, TcpState):
        assert timeout == str(120 if ours is S.SYN_SENT2 else SYSCTLS[TIMEOUTS[ours]].default)
        assert (effect == "REOPEN") == (ours is S.SYN_SENT and TcpState[old] >= S.TIME_WAIT and TcpState[old] is not S.SYN_SENT2)


FLAGS = {Kind.SYN: SYN, Kind.SYNACK: SYN | ACK, Kind.FIN: FIN | ACK, Kind.ACK: ACK, Kind.RST: RST, Kind.NONE: 0}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell[:3]))
def test_the_tracker_follows_the_table(cell: list[str]) -> None:
    """A flow as requests make it, without history: the first segment of its direction, in a state that was set."""
    direction, packet, old, new, effect, timeout, *_ = cell
    dialogue = Dialogue(confirmed=True)
    dialogue.entry.status |= Status.SEEN_REPLY
    dialogue.info.state = TcpState[old]
    dialogue.info.last_win = 1  # no shorter time for a window of 0
    # a flow without history remembers a SYN that ended at 0: whoever acknowledges that, starts the connection over
    ack = 7000 if packet == "SYNACK" and effect == "IGNORE" else 0
    answer = dialogue.say(("original", "reply").index(direction), Segment(FLAGS[Kind[packet]], 1000, ack, 8192))
    if effect == "ACCEPT":
        assert answer.verdict is Verdict.ACCEPT
        assert dialogue.info.state is TcpState[new]
        # behind a RST or data that nobody has acknowledged the shorter times count; SYN and FIN are such data
        whole = 10 if packet == "RST" else int(timeout)
        assert seconds(answer) == (min(whole, 300) if packet in ("SYN", "SYNACK", "FIN") else whole)
        assert bool(answer.events & Event.PROTOINFO) == (new != old)
    else:
        assert answer == (INVALID if effect == "INVALID" else PASS)
        assert dialogue.info.state is TcpState[old]


@pytest.mark.parametrize("state", [S.TIME_WAIT, S.CLOSE])
@pytest.mark.parametrize("side", [0, 1])
def test_a_syn_opens_a_closed_connection_again(state: TcpState, side: int) -> None:
    dialogue = Dialogue(confirmed=True)
    dialogue.info.state = state
    dialogue.info.sides[side].flags |= TcpFlag.CLOSE_INIT
    assert dialogue.out(SYN, 1) == REPEAT


def test_an_ordinary_connection() -> None:
    dialogue = Dialogue()
    syn = dialogue.out(SYN, 100)
    assert (seconds(syn), syn.events) == (120, Event.PROTOINFO)
    synack = dialogue.back(SYN | ACK, 500, 101)
    assert (seconds(synack), synack.events, dialogue.info.state) == (60, Event.PROTOINFO, S.SYN_RECV)
    ack = dialogue.out(ACK, 101, 501)
    assert (seconds(ack), ack.status, ack.events) == (432000, Status.ASSURED, Event.ASSURED | Event.PROTOINFO)
    data = dialogue.out(ACK | PSH, 101, 501, 50)
    assert (seconds(data), data.events) == (300, 0)  # nobody has acknowledged it yet
    assert seconds(dialogue.back(ACK, 501, 151)) == 432000
    fin = dialogue.out(FIN | ACK, 151, 501)
    assert (seconds(fin), dialogue.info.state) == (120, S.FIN_WAIT)
    assert dialogue.info.sides[0].flags & TcpFlag.CLOSE_INIT
    assert (seconds(dialogue.back(ACK, 501, 152)), dialogue.info.state) == (60, S.CLOSE_WAIT)
    assert (seconds(dialogue.back(FIN | ACK, 501, 152)), dialogue.info.state) == (30, S.LAST_ACK)
    assert (seconds(dialogue.out(ACK, 152, 502)), dialogue.info.state) == (120, S.TIME_WAIT)
    assert dialogue.out(SYN, 9999) == REPEAT


def test_a_syn_sent_again_does_not_renew_the_time() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100)
    assert dialogue.out(SYN, 100) == PASS


@pytest.mark.parametrize("flags", [SYN | ACK, FIN | ACK, RST, RST | ACK])
def test_nothing_else_starts_a_flow(flags: int) -> None:
    assert Dialogue().out(flags, 1, 1) == INVALID


def test_a_connection_is_picked_up_in_the_middle_unless_that_is_switched_off() -> None:
    dialogue = Dialogue()
    assert seconds(dialogue.out(ACK, 5000, 7000)) == 300
    assert [side.flags & TcpFlag.BE_LIBERAL for side in dialogue.info.sides] == [TcpFlag.BE_LIBERAL] * 2
    answer = dialogue.back(ACK, 7000, 5000)
    assert (seconds(answer), answer.status) == (300, 0)
    answer = dialogue.back(ACK, 7000, 5000)
    assert (seconds(answer), answer.status) == (432000, Status.ASSURED)
    strict = Dialogue()
    strict.current["tcp_loose"] = 0
    assert strict.out(ACK, 5000, 7000) == INVALID


def test_the_ways_of_a_rst() -> None:
    dialogue = Dialogue().open()
    assert dialogue.back(RST, 400) == INVALID  # below what was acknowledged
    inexact = dialogue.back(RST, 600)
    assert (seconds(inexact), dialogue.info.state) == (10, S.ESTABLISHED)
    exact = dialogue.back(RST, 501)
    assert (seconds(exact), dialogue.info.state, exact.events) == (10, S.CLOSE, Event.PROTOINFO)
    assert dialogue.back(RST, 12345).verdict is Verdict.ACCEPT  # closed already: anything goes


def test_a_low_rst_that_is_let_through_does_not_close() -> None:
    dialogue = Dialogue().open()
    dialogue.current["tcp_ignore_invalid_rst"] = 1
    dialogue.back(ACK, 501, 101, 100)
    dialogue.out(ACK, 101, 601)
    answer = dialogue.back(RST, 590)
    assert (answer.verdict, dialogue.info.state) == (Verdict.ACCEPT, S.ESTABLISHED)


def test_a_rst_as_the_first_answer_ends_the_flow() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100)
    answer = dialogue.back(RST | ACK, 0, 101)
    assert (answer.kill, answer.events, dialogue.info.state) == (True, Event.PROTOINFO, S.CLOSE)


def test_both_sides_open_at_once() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100)
    states = []
    for direction, segment in (
        (REPLY, Segment(SYN, 500, 0, 8192)),
        (ORIGINAL, Segment(SYN | ACK, 100, 501, 8192)),
        (REPLY, Segment(ACK, 501, 101, 8192)),
    ):
        dialogue.say(direction, segment)
        states.append(dialogue.info.state)
    assert states == [S.SYN_SENT2, S.SYN_RECV, S.ESTABLISHED]


def test_a_syn_that_was_ignored_and_is_answered_starts_over() -> None:
    dialogue = Dialogue().open()
    assert dialogue.out(SYN, 90000, scale=3, sack_perm=True) == PASS
    answer = dialogue.back(SYN | ACK, 70000, 90001, scale=2)
    assert (answer.verdict, dialogue.info.state) == (Verdict.ACCEPT, S.SYN_RECV)
    opener, answering = dialogue.info.sides
    assert (opener.end, opener.scale, opener.flags & TcpFlag.SACK_PERM) == (90001, 3, TcpFlag.SACK_PERM)
    assert (answering.end, answering.scale) == (70001, 2)


def test_a_synack_for_another_syn_is_ignored() -> None:
    dialogue = Dialogue().open()
    dialogue.out(SYN, 90000)
    assert dialogue.back(SYN | ACK, 70000, 90002) == PASS
    assert dialogue.info.state is S.ESTABLISHED


def test_a_challenge_ack_in_last_ack_is_not_the_last_ack() -> None:
    dialogue = Dialogue().open()
    dialogue.back(FIN | ACK, 501, 101)
    dialogue.out(ACK, 101, 502)
    dialogue.back(FIN | ACK, 501, 101)
    states = [dialogue.info.state]
    for answer in (dialogue.out(SYN, 4000), dialogue.back(ACK, 502, 101)):
        assert answer == PASS
        states.append(dialogue.info.state)
    dialogue.back(ACK, 502, 101)
    assert [*states, dialogue.info.state] == [S.LAST_ACK, S.LAST_ACK, S.LAST_ACK, S.TIME_WAIT]


def test_window_scale_counts_only_if_both_offer_it() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100, scale=7)
    dialogue.back(SYN | ACK, 500, 101)
    assert [side.scale for side in dialogue.info.sides] == [0, 0]
    dialogue = Dialogue()
    dialogue.out(SYN, 100, scale=7)
    dialogue.back(SYN | ACK, 500, 101, scale=8)
    assert [side.scale for side in dialogue.info.sides] == [7, 8]
    dialogue.out(ACK, 101, 501, window=100)
    assert dialogue.info.sides[1].maxend == 501 + (100 << 7)


def test_a_syn_without_options_leaves_those_of_the_one_before() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100, scale=7)
    dialogue.out(SYN, 200)
    assert (dialogue.info.sides[0].end, dialogue.info.sides[0].scale) == (201, 7)
    dialogue.out(SYN, 300, sack_perm=True)
    assert (dialogue.info.sides[0].scale, dialogue.info.sides[0].flags) == (0, TcpFlag.SACK_PERM)


def test_a_rst_that_answers_its_own_sides_syn_is_held_to_the_window() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100)
    dialogue.back(SYN, 500)
    assert dialogue.back(RST, 10**6) == INVALID
    assert dialogue.info.state is S.SYN_SENT2


def test_the_four_sides_of_the_window() -> None:
    far = 501 + 200_000
    over = Dialogue().open()
    assert over.back(ACK, far, 101, 10) == INVALID
    little = Dialogue().open()
    assert little.back(ACK, 501 + 8192 + 1, 101, 10) == PASS
    assert little.info.sides[1].end == 501 + 8192 + 11
    unseen = Dialogue().open()
    assert unseen.back(ACK, 501, 102) == INVALID
    old = Dialogue().open()
    old.back(ACK, 501, 101, 8192)
    old.out(ACK, 101, 501 + 8192)
    assert old.back(ACK, 400 - 8192, 101, 10) == PASS
    late = Dialogue().open()
    for number in range(12):
        late.out(ACK, 101 + 8000 * number, 501, 8000)
        late.back(ACK, 501, 101 + 8000 * (number + 1))
    assert late.back(ACK, 501, 101) == PASS


@pytest.mark.parametrize("how", ["sysctl", "flag"])
def test_being_liberal_lets_everything_pass_and_notes_nothing(how: str) -> None:
    dialogue = Dialogue().open()
    if how == "sysctl":
        dialogue.current["tcp_be_liberal"] = 1
    else:
        dialogue.info.sides[1].flags |= TcpFlag.BE_LIBERAL
    before = dialogue.info.sides[1].end
    assert dialogue.back(ACK, 501 + 200_000, 101, 10).verdict is Verdict.ACCEPT
    assert dialogue.info.sides[1].end == before


def test_sack_blocks_count_if_the_peer_permitted_them() -> None:
    for permitted in (False, True):
        dialogue = Dialogue()
        dialogue.out(SYN, 100, sack_perm=permitted)
        dialogue.back(SYN | ACK, 500, 101, sack_perm=True)
        dialogue.out(ACK, 101, 501, 100)
        answer = dialogue.back(ACK, 501, 101, sack_edges=(900,))
        assert (answer == INVALID) == permitted  # 900 was never sent


def test_what_sack_blocks_reach_beyond_the_acknowledgement_widens_the_window() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 100, sack_perm=True)
    dialogue.back(SYN | ACK, 500, 101, sack_perm=True)
    dialogue.out(ACK, 101, 501, 1000)
    dialogue.back(ACK, 501, 101, sack_edges=(1101,))
    assert dialogue.info.sides[1].maxwin == 8192 + 1000


def test_a_closed_window_leaves_room_for_one_byte() -> None:
    dialogue = Dialogue().open()
    dialogue.out(ACK, 101, 501, 8192)
    dialogue.back(ACK, 501, 101 + 8192, window=0)
    assert dialogue.info.sides[0].maxend == 101 + 8192 + 1


def test_a_rst_that_answers_a_challenge_has_its_number() -> None:
    for seq, fine in ((7000, True), (7001, False)):
        dialogue = Dialogue()
        dialogue.out(SYN, 100)
        assert dialogue.back(ACK, 9000, 7000) == PASS
        assert (dialogue.out(RST, seq).verdict is Verdict.ACCEPT) == fine


def test_numbers_shifted_by_a_helper_are_shifted_back() -> None:
    dialogue = Dialogue().open()
    dialogue.entry.seqadj = (SequenceAdjustment(50, 0, 10), SequenceAdjustment())
    assert dialogue.back(ACK, 501, 111).verdict is Verdict.ACCEPT
    assert dialogue.info.sides[1].maxack == 101


def test_retransmissions_and_a_closed_window_shorten_the_time() -> None:
    dialogue = Dialogue().open()
    times = [seconds(dialogue.out(ACK, 101, 501)) for _ in range(5)]
    assert times == [432000, 432000, 300, 300, 300]
    assert seconds(dialogue.out(ACK, 101, 501, window=100)) == 432000
    assert seconds(dialogue.out(ACK, 101, 501, window=0)) == 300


def test_two_ends_that_do_not_fit_shorten_a_long_time() -> None:
    dialogue = Dialogue().open()
    assert dialogue.out(FIN | ACK, 10**6, 501) == INVALID
    assert dialogue.out(FIN | ACK, 10**6, 501) == INVALID
    answer = dialogue.back(FIN | ACK, 10**6, 101)
    assert (answer.verdict, answer.at_most) == (Verdict.INVALID, 300 * HZ)
    dialogue.entry.status |= Status.FIXED_TIMEOUT
    assert dialogue.back(FIN | ACK, 10**6, 101) == INVALID


def test_a_flow_may_have_timeouts_of_its_own() -> None:
    dialogue = Dialogue()
    dialogue.entry.timeouts = {**dialogue.current, "tcp_timeout_syn_sent": 7}
    assert seconds(dialogue.out(SYN, 100)) == 7


def test_numbers_go_around() -> None:
    dialogue = Dialogue()
    dialogue.out(SYN, 0xFFFFFFFF)
    dialogue.back(SYN | ACK, 0xFFFFFFFE, 0)
    dialogue.out(ACK, 0, 0xFFFFFFFF)
    dialogue.back(ACK, 0xFFFFFFFF, 0, 100)
    answer = dialogue.out(ACK, 0, 99, 10)
    assert (answer.verdict, dialogue.info.state) == (Verdict.ACCEPT, S.ESTABLISHED)


# ------------------------------------------------------------------------------------------------------------- reading


def header(flags: int, options: bytes = b"", payload: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    return pack("!HHIIBBHHH", 1000, 80, 11, 22, words << 4, flags, 333, 0, 0) + options + payload


def test_a_segment_is_read() -> None:
    options = b"\x02\x04\x05\xb4\x01\x03\x03\x0f\x04\x02\x01\x01"
    assert read_segment(header(SYN, options, b"abc")) == Segment(SYN, 11, 22, 333, 3, True, 14, True)
    assert read_segment(header(ACK, b"\x01\x01\x05\x0a" + pack("!II", 5, 6))) == Segment(
        ACK, 11, 22, 333, options=True, sack_edges=(6,)
    )
    assert Segment(SYN | FIN, 0xFFFFFFFF, 0, 0, 1).end == 2


@pytest.mark.parametrize("options", [b"\x03\x03\x07\x00", b"\x03\x03\x07\x63", b"\x03\x03\x07\x63\x00\x01\x01\x01"])
def test_what_was_read_before_a_bad_option_counts(options: bytes) -> None:
    segment = read_segment(header(SYN, options))
    assert segment is not None
    assert segment.scale == 7


GOOD = {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG}


@given(st.integers(0, 255))
def test_flags_that_cannot_stand_together(flags: int) -> None:
    assert (read_segment(header(flags)) is not None) == ((flags & ~(PSH | ECE | CWR)) in GOOD)


@given(st.binary(max_size=80))
def test_any_bytes_can_be_read(data: bytes) -> None:
    segment = read_segment(data)
    assert segment is None or 20 + segment.length <= len(data)


def test_headers_that_are_cut_off() -> None:
    whole = header(ACK, bytes(4))
    assert read_segment(whole) is not None
    assert read_segment(whole[:23]) is None
    assert read_segment(whole[:19]) is None
    assert read_segment(whole[:12] + b"\x40" + whole[13:]) is None
