"""Whether a TCP segment lies where it may lie (`tcp_in_window` in nf_conntrack_proto_tcp.c).

Following Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter": a sender may not send beyond what its peer has
allowed, nor acknowledge what its peer has not sent. Sequence numbers are compared around the circle, modulo 2**32.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from nfnl.sim.ct_entry import REPLY, Entry
from nfnl.sim.protoinfo import TcpFlag, TcpInfo, TcpSide, TcpState
from nfnl.sim.tcp_segment import ACK, RST, SYN, Kind, Segment

_U32 = 0xFFFFFFFF
#: An acknowledgement may lie behind by so much at least (MAXACKWINCONST).
_ACK_WINDOW = 66000


class Fit(Enum):
    """What the window says."""

    ACCEPT = "accept"
    IGNORE = "ignore"  #: passes, and changes nothing
    INVALID = "invalid"


def after(a: int, b: int) -> bool:
    """``a`` comes later than ``b``."""
    return 0 < (a - b & _U32) < 0x80000000


def set_options(side: TcpSide, segment: Segment) -> None:
    """What a SYN says about its sender (`tcp_options`). One without any options leaves what is known."""
    if not segment.options:
        return
    side.scale = segment.scale or 0
    side.flags = (TcpFlag.WINDOW_SCALE if segment.scale is not None else 0) | (TcpFlag.SACK_PERM if segment.sack_perm else 0)


def _start(sender: TcpSide, receiver: TcpSide, segment: Segment, direction: int) -> None:
    """The history of a side begins with a SYN (`tcp_init_sender`)."""
    sender.end = sender.maxend = segment.end
    sender.maxwin = segment.window or 1
    set_options(sender, segment)
    if direction == REPLY and not sender.flags & receiver.flags & TcpFlag.WINDOW_SCALE:
        sender.scale = receiver.scale = 0


def _pick_up(sender: TcpSide, receiver: TcpSide, segment: Segment, sack: int) -> None:
    """The history of a side begins in the middle of a connection."""
    sender.end = segment.end
    sender.maxwin = segment.window << sender.scale or 1
    sender.maxend = segment.end + sender.maxwin & _U32
    if receiver.maxwin == 0:
        receiver.end = receiver.maxend = sack
    elif sack == receiver.end + 1 & _U32:
        receiver.end = sack  # the answer to a keep-alive


def _shift(entry: Entry, direction: int, seq: int) -> int:
    """By how much a sequence number of a direction was changed on its way (`nf_ct_seq_offset`)."""
    if entry.seqadj is None:
        return 0
    position, before_, after_ = entry.seqadj[direction]
    return after_ if after(seq, position) else before_


def check(entry: Entry, info: TcpInfo, direction: int, segment: Segment, current: Mapping[str, int]) -> Fit:
    """Whether the segment may be where it is; if ACCEPT, what it says is noted in ``info``."""
    sender, receiver = info.sides[direction], info.sides[not direction]
    flags, seq, ack, end = segment.flags, segment.seq, segment.ack, segment.end
    sack = ack
    if receiver.flags & TcpFlag.SACK_PERM:
        for edge in segment.sack_edges:
            if after(edge, sack):
                sack = edge
    offset = _shift(entry, 1 - direction, ack - 1)
    ack, sack = ack - offset & _U32, sack - offset & _U32

    if sender.maxwin == 0:
        if flags & SYN:
            _start(sender, receiver, segment, direction)
            if not flags & ACK:
                return Fit.ACCEPT  # both open at once
        else:
            _pick_up(sender, receiver, segment, sack)
    elif flags & SYN and after(end, sender.end) and info.state in (TcpState.SYN_SENT, TcpState.SYN_RECV):
        _start(sender, receiver, segment, direction)
        if direction == REPLY and not flags & ACK:
            return Fit.ACCEPT

    if not flags & ACK or (flags & RST and ack == 0):
        ack = sack = receiver.end
    if flags & RST and seq == 0 and info.state == TcpState.SYN_SENT:
        seq = end = sender.end

    fit = _fits(sender, receiver, seq, end, sack)
    if fit is not None:
        return Fit.ACCEPT if sender.flags & TcpFlag.BE_LIBERAL or current["tcp_be_liberal"] else fit
    _note(sender, receiver, segment, end, ack, sack)
    if segment.kind is Kind.ACK:
        now = (direction, seq, ack, end, segment.window)
        if (info.last_dir, info.last_seq, info.last_ack, info.last_end, info.last_win) == now:
            info.retransmissions += 1
        else:
            info.last_dir, info.last_seq, info.last_ack, info.last_end, info.last_win = now
            info.retransmissions = 0
    return Fit.ACCEPT


def _fits(sender: TcpSide, receiver: TcpSide, seq: int, end: int, sack: int) -> Fit | None:
    """What is wrong with it; None: nothing."""
    not_too_old = after(end, sender.end - receiver.maxwin - 1)
    ack_not_too_high = not after(sack, receiver.end)
    ack_not_too_low = after(sack, receiver.end - max(sender.maxwin, _ACK_WINDOW) - 1)
    if after(seq, sender.maxend):
        overshot = end - sender.maxend + 1 & _U32
        if receiver.maxwin and not_too_old and ack_not_too_high and ack_not_too_low and overshot <= receiver.maxwin:
            # a little too much: if the rules let it pass, its acknowledgement must not look like one of what was never sent
            sender.end = end
            sender.flags |= TcpFlag.DATA_UNACKNOWLEDGED
            return Fit.IGNORE
        return Fit.INVALID
    if not ack_not_too_high:
        return Fit.INVALID
    if receiver.maxwin and not not_too_old:
        return Fit.IGNORE
    return None if ack_not_too_low else Fit.IGNORE


def _note(sender: TcpSide, receiver: TcpSide, segment: Segment, end: int, ack: int, sack: int) -> None:
    """What a segment in the window tells about both sides."""
    window = segment.window if segment.flags & SYN else segment.window << sender.scale
    sender.maxwin = max(sender.maxwin, window + (sack - ack & _U32))
    if after(end, sender.end):
        sender.end = end
        sender.flags |= TcpFlag.DATA_UNACKNOWLEDGED
    if segment.flags & ACK and (not sender.flags & TcpFlag.MAXACK_SET or after(ack, sender.maxack)):
        sender.maxack = ack
        sender.flags |= TcpFlag.MAXACK_SET
    if receiver.maxwin and after(end, sender.maxend):
        receiver.maxwin += end - sender.maxend & _U32
    if after(sack + window & _U32, receiver.maxend - 1 & _U32):
        receiver.maxend = sack + window + (window == 0) & _U32
    if ack == receiver.end:
        receiver.flags &= ~TcpFlag.DATA_UNACKNOWLEDGED
