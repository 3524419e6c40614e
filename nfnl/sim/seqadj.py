"""Shifting TCP sequence numbers where a helper has changed the length of a payload (net/netfilter/nf_conntrack_seqadj.c)."""

from __future__ import annotations

from struct import pack, unpack_from

from nfnl.sim.ct_entry import NO_ADJUSTMENT, Entry, SequenceAdjustment, Status
from nfnl.sim.nat_packet import replaced
from nfnl.sim.skb import TCP, Checksum, Skb

_U32 = 0xFFFFFFFF
_ACK = 0x10
_NOP, _SACK = 1, 5


def after(a: int, b: int) -> bool:
    """Whether sequence number ``a`` comes after ``b``, modulo 2**32."""
    return 0 < (a - b) & _U32 < 0x80000000


def note(entry: Entry, direction: int, seq: int, change: int) -> None:
    """The payload that begins at ``seq`` has become longer by ``change`` bytes (`nf_ct_seqadj_set`).

    Nothing is noted of a flow that has no place for it.
    """
    if not change or entry.seqadj is None:
        return
    entry.status |= Status.SEQ_ADJUST
    sides = list(entry.seqadj)
    old = sides[direction]
    if old.before == old.after or after(seq, old.position):
        sides[direction] = SequenceAdjustment(seq, old.after, old.after + change & _U32)
    entry.seqadj = (sides[0], sides[1])


def adjust(skb: Skb, entry: Entry, direction: int, at: int) -> bool:
    """Shift the numbers of a packet (`nf_ct_seq_adjust`). False: it is cut off, or its options are, and to be dropped."""
    if entry.protocol != TCP:
        return True
    data = skb.data
    if len(data) < at + 20:
        return False
    sides = entry.seqadj or NO_ADJUSTMENT
    mine, theirs = sides[direction], sides[1 - direction]
    seq, ack = unpack_from("!II", data, at + 4)
    header = data[at : at + (data[at + 12] >> 4 << 2)]
    changed = header[:4] + pack("!I", seq + _offset(mine, seq) & _U32) + header[8:]
    if header[13] & _ACK:
        changed = changed[:8] + pack("!I", _unshifted(theirs, ack)) + changed[12:]
        options = _sacks(changed[20:], theirs)
        if options is None:
            return False
        changed = changed[:20] + options
    if skb.csum is not Checksum.PARTIAL:  # the sum of the pseudo header knows nothing of them
        sum_ = replaced(int.from_bytes(header[16:18], "big"), _without_sum(header), _without_sum(changed))
        changed = changed[:16] + sum_.to_bytes(2, "big") + changed[18:]
    skb.set_data(data[:at] + changed + data[at + len(header) :])
    return True


def _without_sum(header: bytes) -> bytes:
    return header[:16] + header[18:]


def _offset(side: SequenceAdjustment, seq: int) -> int:
    return side.after if after(seq, side.position) else side.before


def _unshifted(side: SequenceAdjustment, ack: int) -> int:
    """What the other side sent, before it was shifted."""
    return ack - (side.after if after(ack - side.before & _U32, side.position) else side.before) & _U32


def _sacks(options: bytes, side: SequenceAdjustment) -> bytes | None:
    """`nf_ct_sack_adjust`. None: one of the options is cut off."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] == _NOP:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            return None
        if options[at] == _SACK and size >= 10 and (size - 2) % 8 == 0:
            edges = [_unshifted(side, edge) for edge in unpack_from(f"!{(size - 2) // 4}I", options, at + 2)]
            options = options[: at + 2] + pack(f"!{len(edges)}I", *edges) + options[at + size :]
        at += size
    return options
