"""The TCP tracker (net/netfilter/nf_conntrack_proto_tcp.c): a table of states, what it leaves out, and the windows beside it."""

from __future__ import annotations

from collections.abc import Mapping

from nfnl.sim import tcp_window
from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, Status
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.protoinfo import TcpFlag, TcpInfo, TcpSide, TcpState
from nfnl.sim.tcp_segment import RST, Kind, Segment
from nfnl.sim.tcp_window import Fit
from nfnl.sim.tracker import INVALID, PASS, REPEAT, Answer, Verdict, ticks_of

_NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2 = TcpState
#: In the table in place of a state: the packet is invalid; it passes and changes nothing.
IV, IG = "INVALID", "IGNORE"

#: By direction and kind of segment, the new state for each old one, in the order of `TcpState`.
STATES: tuple[dict[Kind, tuple[TcpState | str, ...]], ...] = (
    {
        Kind.SYN: (_SS, _SS, IG, IG, IG, IG, IG, _SS, _SS, _S2),
        Kind.SYNACK: (IV, IV, _SR, IV, IV, IV, IV, IV, IV, _SR),
        Kind.FIN: (IV, IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, IV),
        Kind.ACK: (_ES, IV, _ES, _ES, _CW, _CW, _TW, _TW, _CL, IV),
        Kind.RST: (IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),
        Kind.NONE: (IV,) * 10,
    },
    {
        Kind.SYN: (IV, _S2, IV, IV, IV, IV, IV, _SS, IV, _S2),
        Kind.SYNACK: (IV, _SR, IG, IG, IG, IG, IG, IG, IG, _SR),
        Kind.FIN: (IV, IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, IV),
        Kind.ACK: (IV, IG, _SR, _ES, _CW, _CW, _TW, _TW, _CL, IG),
        Kind.RST: (IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),
        Kind.NONE: (IV,) * 10,
    },
)

#: Which sysctl says how long a flow lasts in a state.
TIMEOUTS = {
    state: f"tcp_timeout_{name}"
    for state, name in (
        (_SS, "syn_sent"),
        (_SR, "syn_recv"),
        (_ES, "established"),
        (_FW, "fin_wait"),
        (_CW, "close_wait"),
        (_LA, "last_ack"),
        (_TW, "time_wait"),
        (_CL, "close"),
        (_S2, "syn_sent2"),
    )
}
#: Two minutes, and no sysctl.
_SYN_SENT2 = 120

_CLOSING = frozenset((_FW, _CW, _LA, _TW, _CL))


def track(entry: Entry, direction: int, segment: Segment, current: Mapping[str, int], now: int) -> Answer:
    """A segment of a flow (`nf_conntrack_tcp_packet`). ``current`` are the sysctls by their short names, ``now`` in ticks."""
    if not entry.status & Status.CONFIRMED:
        started = _first(segment, current)
        if started is None:
            return INVALID
        entry.proto = started
    info = entry.proto
    assert isinstance(info, TcpInfo)
    kind, old = segment.kind, info.state
    new = STATES[direction][kind][old]
    if new == IV:
        return INVALID
    checked = True
    if new == IG or (new == _SS and old >= _TW):
        if new == _SS and (_closed(info) or (info.last_dir == direction and info.last_index == Kind.RST)):
            return REPEAT
        if not _answers_ignored_syn(info, direction, segment):
            _remember(info, direction, segment, old)
            return PASS
        _resynchronise(info, direction)
        old, new = _SS, _SR
    elif new == _S2:
        info.last_flags |= TcpFlag.SIMULTANEOUS_OPEN
    elif new == _SR and direction == REPLY and kind is Kind.ACK and info.last_flags & TcpFlag.SIMULTANEOUS_OPEN:
        new = _ES
    elif new == _TW and old == _LA and kind is Kind.ACK and _is_challenged(info, direction):
        info.last_flags &= ~TcpFlag.EXP_CHALLENGE_ACK
        return PASS
    elif new == _CL and kind is Kind.RST:
        judged = _reset(entry, info, direction, segment, current)
        if judged is None:
            return INVALID
        checked, closes = judged
        if not closes:
            new = old
    assert isinstance(new, TcpState)
    if checked:
        fit = tcp_window.check(entry, info, direction, segment, current)
        if fit is Fit.IGNORE:
            return PASS
        if fit is Fit.INVALID:
            return _out_of_window(entry, info, direction, kind, current, now)
    return _commit(entry, info, direction, segment, old, new, current)


# ------------------------------------------------------------------ the first segment


def _first(segment: Segment, current: Mapping[str, int]) -> TcpInfo | None:
    """What a flow starts with (`tcp_new`); None: no flow starts like this."""
    new = STATES[ORIGINAL][segment.kind][_NO]
    if new == IV or (new != _SS and not current["tcp_loose"]):
        return None
    info = TcpInfo()
    info.last_index = Kind.NONE
    sender, receiver = info.sides
    sender.end = sender.maxend = segment.end
    sender.maxwin = segment.window or 1
    if new == _SS:
        tcp_window.set_options(sender, segment)
    else:
        sender.maxend = segment.end + sender.maxwin & 0xFFFFFFFF
        sender.flags = receiver.flags = TcpFlag.SACK_PERM | TcpFlag.BE_LIBERAL
    return info


# ------------------------------------------------------------------ what the table leaves out


def _closed(info: TcpInfo) -> bool:
    return bool((info.sides[0].flags | info.sides[1].flags) & TcpFlag.CLOSE_INIT)


def _answers_ignored_syn(info: TcpInfo, direction: int, segment: Segment) -> bool:
    return (
        segment.kind is Kind.SYNACK and info.last_index == Kind.SYN and info.last_dir != direction and segment.ack == info.last_end
    )


def _resynchronise(info: TcpInfo, direction: int) -> None:
    """Both ends agree on a connection that began with a SYN we took for nothing: go on from that."""
    opener = info.sides[1 - direction]
    info.last_flags &= ~TcpFlag.EXP_CHALLENGE_ACK
    opener.end = opener.maxend = info.last_end
    opener.maxwin = info.last_win or 1
    opener.scale, opener.flags = info.last_scale, info.last_flags
    answering = TcpSide()
    info.sides = (answering, opener) if direction == ORIGINAL else (opener, answering)


def _remember(info: TcpInfo, direction: int, segment: Segment, old: TcpState) -> None:
    """Of a segment that passes without effect, for what may come after it."""
    kind = segment.kind
    info.last_index, info.last_dir = kind, direction
    info.last_seq, info.last_end, info.last_win = segment.seq, segment.end, segment.window
    if kind is Kind.SYN and direction == ORIGINAL:
        options = TcpSide()
        tcp_window.set_options(options, segment)
        info.last_scale, info.last_flags = options.scale, options.flags
        if old == _LA:
            info.last_flags |= TcpFlag.EXP_CHALLENGE_ACK
    if old == _SS and kind is Kind.ACK and direction == REPLY:
        info.last_ack = segment.ack  # perhaps a challenge; a RST that answers it has this number


def _is_challenged(info: TcpInfo, direction: int) -> bool:
    """The ACK answers a SYN that came in LAST_ACK (RFC 5961), and not the FIN."""
    return info.last_dir != direction and info.last_index == Kind.SYN and bool(info.last_flags & TcpFlag.EXP_CHALLENGE_ACK)


def _reset(entry: Entry, info: TcpInfo, direction: int, segment: Segment, current: Mapping[str, int]) -> tuple[bool, bool] | None:
    """About a RST: whether its window is to be checked, and whether it closes the flow; None: it is invalid."""
    if info.state in _CLOSING:
        return False, True
    closes = True
    peer, seq = info.sides[1 - direction], segment.seq
    if peer.flags & TcpFlag.MAXACK_SET and info.last_index != Kind.SYN:
        established = info.state == _ES and entry.status & Status.ASSURED
        if seq == 0 and not established:
            return True, True
        if tcp_window.after(peer.maxack, seq) and not current["tcp_ignore_invalid_rst"]:
            return None
        if not established or seq == peer.maxack:
            return True, True
        if info.last_index == Kind.ACK and info.last_dir == direction and seq == info.last_end:
            return True, True
        closes = False  # not quite the number: the other end may challenge it
    answers_syn = entry.status & Status.SEEN_REPLY and info.last_index == Kind.SYN and info.last_dir != direction
    answers_ignored = answers_syn or (not entry.status & Status.ASSURED and info.last_index == Kind.ACK)
    if answers_ignored and segment.ack == info.last_end:
        return False, closes
    if info.state == _SS and info.last_index == Kind.ACK and info.last_dir == REPLY and seq == info.last_ack:
        return False, closes
    return True, closes


def _out_of_window(entry: Entry, info: TcpInfo, direction: int, kind: Kind, current: Mapping[str, int], now: int) -> Answer:
    """If both sides want to end it, though with numbers that do not fit, it shall not last for days (`nf_tcp_handle_invalid`)."""
    if kind not in (Kind.FIN, Kind.RST) or entry.status & (Status.ASSURED | Status.FIXED_TIMEOUT) != Status.ASSURED:
        return INVALID
    if info.last_dir == direction or info.last_index not in (Kind.FIN, Kind.RST):
        info.last_index, info.last_dir = kind, direction
        return INVALID
    most = ticks_of(entry, current, "tcp_timeout_unacknowledged")
    left = entry.expires - now
    return INVALID._replace(at_most=most) if left >= 120 * HZ and left > most else INVALID


# ------------------------------------------------------------------ the end of it


def _commit(
    entry: Entry, info: TcpInfo, direction: int, segment: Segment, old: TcpState, new: TcpState, current: Mapping[str, int]
) -> Answer:
    kind = segment.kind
    info.last_index, info.last_dir = kind, direction
    info.state = new
    if old != new and new == _FW:
        info.sides[direction].flags |= TcpFlag.CLOSE_INIT
    timeout = _timeout(entry, info, kind, new, current)
    events = Event.PROTOINFO if new != old else 0
    status = 0
    if not entry.status & Status.SEEN_REPLY:
        if segment.flags & RST:
            return Answer(events=events, kill=True)
        if kind is Kind.SYN and old == _SS:
            return Answer(events=events)
        if new == _ES:
            timeout = min(timeout, ticks_of(entry, current, "tcp_timeout_unacknowledged"))
    elif not entry.status & Status.ASSURED and old in (_SR, _ES) and new == _ES:
        status, events = Status.ASSURED, events | Event.ASSURED
    return Answer(Verdict.ACCEPT, timeout, status, events)


def _timeout(entry: Entry, info: TcpInfo, kind: Kind, new: TcpState, current: Mapping[str, int]) -> int:
    """How long it lasts now, in ticks. The first reason to make it shorter counts."""
    if new == _S2 and (entry.timeouts is None or TIMEOUTS[_S2] not in entry.timeouts):
        whole = _SYN_SENT2 * HZ
    else:
        whole = ticks_of(entry, current, TIMEOUTS[new])
    retransmitted = ticks_of(entry, current, "tcp_timeout_max_retrans")
    unacknowledged = ticks_of(entry, current, "tcp_timeout_unacknowledged")
    if info.retransmissions >= current["tcp_max_retrans"] and whole > retransmitted:
        return retransmitted
    if kind is Kind.RST:
        return ticks_of(entry, current, "tcp_timeout_close")
    if (info.sides[0].flags | info.sides[1].flags) & TcpFlag.DATA_UNACKNOWLEDGED and whole > unacknowledged:
        return unacknowledged
    if info.last_win == 0 and whole > retransmitted:
        return retransmitted
    return whole
