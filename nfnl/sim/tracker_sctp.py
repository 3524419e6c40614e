"""The SCTP tracker (net/netfilter/nf_conntrack_proto_sctp.c)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct, unpack_from
from typing import NamedTuple

from nfnl.sim.ct_entry import ORIGINAL, REPLY, Entry, Event, Status
from nfnl.sim.protoinfo import SctpInfo, SctpState
from nfnl.sim.tracker import INVALID, Answer, Verdict, ticks_of


class Chunk(IntEnum):
    """Chunk types the tracker looks at (RFC 9260)."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14


_NO, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS = SctpState
#: In the table in place of a state.
IV = "INVALID"

#: By direction and chunk, the new state for each old one, in the order of `SctpState`. Other chunks leave the state as it is.
STATES: tuple[dict[int, tuple[SctpState | str, ...]], ...] = (
    {
        Chunk.INIT: (_CL, _CL, _CW, _CE, _ES, _CL, _CL, _SA, _CW),
        Chunk.INIT_ACK: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),
        Chunk.ABORT: (_CL,) * 9,
        Chunk.SHUTDOWN: (_CL, _CL, _CW, _CE, _SS, _SS, _SR, _SA, _CL),
        Chunk.SHUTDOWN_ACK: (_SA, _CL, _CW, _CE, _ES, _SA, _SA, _SA, _SA),
        Chunk.ERROR: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),
        Chunk.COOKIE_ECHO: (_CL, _CL, _CE, _CE, _ES, _SS, _SR, _SA, _CL),
        Chunk.COOKIE_ACK: (_CL, _CL, _CW, _ES, _ES, _SS, _SR, _SA, _CL),
        Chunk.SHUTDOWN_COMPLETE: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _CL, _CL),
        Chunk.HEARTBEAT: (_HS, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
        Chunk.HEARTBEAT_ACK: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
    },
    {
        Chunk.INIT: (IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, IV),
        Chunk.INIT_ACK: (IV, _CW, _CW, _CE, _ES, _SS, _SR, _SA, IV),
        Chunk.ABORT: (IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, IV),
        Chunk.SHUTDOWN: (IV, _CL, _CW, _CE, _SR, _SS, _SR, _SA, IV),
        Chunk.SHUTDOWN_ACK: (IV, _CL, _CW, _CE, _ES, _SA, _SA, _SA, IV),
        Chunk.ERROR: (IV, _CL, _CW, _CL, _ES, _SS, _SR, _SA, IV),
        Chunk.COOKIE_ECHO: (IV, _CL, _CE, _CE, _ES, _SS, _SR, _SA, IV),
        Chunk.COOKIE_ACK: (IV, _CL, _CW, _ES, _ES, _SS, _SR, _SA, IV),
        Chunk.SHUTDOWN_COMPLETE: (IV, _CL, _CW, _CE, _ES, _SS, _SR, _CL, IV),
        Chunk.HEARTBEAT: (IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
        Chunk.HEARTBEAT_ACK: (IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _ES),
    },
)

#: Which sysctl says how long a flow lasts in a state.
TIMEOUTS = {state: f"sctp_timeout_{state.name.lower()}" for state in SctpState if state} | {_NO: "sctp_timeout_closed"}

_ALONE = frozenset((Chunk.INIT, Chunk.INIT_ACK, Chunk.SHUTDOWN_COMPLETE))
_FIRST = frozenset((Chunk.COOKIE_ECHO, Chunk.COOKIE_ACK))
#: Chunks that no flow begins with.
_NOT_NEW = frozenset((Chunk.ABORT, Chunk.SHUTDOWN_COMPLETE, Chunk.COOKIE_ACK))
#: With one of these in the packet its tag is not looked at beforehand: they have rules of their own, or none.
_OWN_RULES = frozenset(
    (
        Chunk.INIT,
        Chunk.SHUTDOWN_COMPLETE,
        Chunk.COOKIE_ECHO,
        Chunk.ABORT,
        Chunk.SHUTDOWN_ACK,
        Chunk.HEARTBEAT,
        Chunk.HEARTBEAT_ACK,
    )
)
#: The tag is the other side's (the T bit).
_T = 1

_CHUNK = Struct("!BBH")


class SctpPacket(NamedTuple):
    """What the tracker reads from a packet."""

    vtag: int
    #: type, flags, and of INIT and INIT ACK the tag they announce (None: cut off)
    chunks: tuple[tuple[int, int, int | None], ...]

    @property
    def types(self) -> frozenset[int]:
        """Which chunks there are."""
        return frozenset(kind for kind, _, _ in self.chunks)


def read_packet(data: bytes) -> SctpPacket | None:
    """From the SCTP header to the end of the packet; None if its chunks cannot stand like this (`do_basic_checks`)."""
    if len(data) < 12:
        return None
    chunks: list[tuple[int, int, int | None]] = []
    at, alone = 12, False
    while at + 4 <= len(data):
        kind, flags, length = _CHUNK.unpack_from(data, at)
        alone = alone or kind in _ALONE
        if not length or (chunks and (alone or kind in _FIRST)):
            return None
        whole = kind in (Chunk.INIT, Chunk.INIT_ACK) and at + 20 <= len(data)
        chunks.append((kind, flags, unpack_from("!I", data, at + 4)[0] if whole else None))
        at += length + 3 & ~3
    return SctpPacket(unpack_from("!I", data, 4)[0], tuple(chunks)) if chunks else None


def track(entry: Entry, direction: int, packet: SctpPacket, current: Mapping[str, int], now: int) -> Answer:
    """A packet of a flow (`nf_conntrack_sctp_packet`). ``current`` are the sysctls by their short names, ``now`` in ticks."""
    confirmed = bool(entry.status & Status.CONFIRMED)
    types = packet.types
    if not confirmed:
        started = None if types & _NOT_NEW else _first(packet)
        if started is None:
            return INVALID
        entry.proto = started
    info = entry.proto
    assert isinstance(info, SctpInfo)
    if not types & _OWN_RULES and packet.vtag != info.vtags[direction]:
        return INVALID
    status = events = 0
    renew = True
    new = _NO
    for kind, flags, tag in packet.chunks:
        fits = _tag_fits(info, direction, kind, flags, packet.vtag)
        if fits is None:
            if Chunk.DATA in types or not renew or not _heartbeat_differs(info, direction, kind, packet.vtag):
                return Answer(Verdict.INVALID, status=status, events=events)
            if kind == Chunk.HEARTBEAT:
                renew = False
                continue
        elif not fits:
            return Answer(Verdict.INVALID, status=status, events=events)
        old = info.state
        following = STATES[direction][kind][old] if kind in STATES[direction] else old
        if not isinstance(following, SctpState) or not _note_tag(info, direction, kind, tag):
            return Answer(Verdict.INVALID, status=status, events=events)
        new = info.state = following
        if kind == Chunk.INIT and old == new == _CL and confirmed:
            renew = False  # an INIT sent again
        if new != old:
            events |= Event.PROTOINFO
            if new == _ES and not (entry.status | status) & Status.ASSURED:
                status, events = Status.ASSURED, events | Event.ASSURED
    return Answer(Verdict.ACCEPT, ticks_of(entry, current, TIMEOUTS[new]) if renew else None, status, events)


def _first(packet: SctpPacket) -> SctpInfo | None:
    """What a flow starts with (`sctp_new`); None: no flow starts like this."""
    info = SctpInfo()
    for kind, _, tag in packet.chunks:
        if kind not in STATES[ORIGINAL]:
            return None
        if kind == Chunk.INIT:
            if packet.vtag or tag is None:
                return None
            info.vtags[REPLY] = tag
        elif kind == Chunk.HEARTBEAT:
            info.vtags[ORIGINAL] = packet.vtag
        elif kind == Chunk.SHUTDOWN_ACK:
            info.vtags[REPLY] = packet.vtag
    return info


def _tag_fits(info: SctpInfo, direction: int, kind: int, flags: int, vtag: int) -> bool | None:
    """Whether a chunk may come under this tag (RFC 9260, 8.5.1); None: a heartbeat under another tag than is known."""
    if kind == Chunk.INIT:
        return vtag == 0
    if kind in (Chunk.ABORT, Chunk.SHUTDOWN_COMPLETE):
        return vtag == info.vtags[1 - direction if flags & _T else direction]
    if kind == Chunk.COOKIE_ECHO:
        return vtag == info.vtags[direction]
    if kind == Chunk.COOKIE_ACK:
        info.init = [False, False]
    elif kind in (Chunk.HEARTBEAT, Chunk.HEARTBEAT_ACK):
        if info.vtags[direction] == 0:
            info.vtags[direction] = vtag
        elif vtag != info.vtags[direction]:
            return None
        else:
            info.heartbeat_failed = False
    return True


def _heartbeat_differs(info: SctpInfo, direction: int, kind: int, vtag: int) -> bool:
    """A heartbeat under another tag passes; if it is answered, the tags were wrong. False: an answer to nothing."""
    if kind == Chunk.HEARTBEAT:
        info.heartbeat_failed, info.last_dir = True, direction
        return True
    if not info.heartbeat_failed or info.last_dir == direction:
        return False
    info.heartbeat_failed = False
    info.vtags[direction], info.vtags[1 - direction] = vtag, 0
    return True


def _note_tag(info: SctpInfo, direction: int, kind: int, tag: int | None) -> bool:
    """INIT and INIT ACK announce the tag of what goes the other way. False: it is not there, or contradicts what is known."""
    if kind not in (Chunk.INIT, Chunk.INIT_ACK):
        return True
    if tag is None:
        return False
    other = 1 - direction
    if kind == Chunk.INIT:
        info.init[other] = info.init[other] and not info.init[direction]
        info.init[direction] = True
    elif tag != info.vtags[other]:
        if not info.init[other] and info.vtags[other]:
            return False
        if info.init[direction] and info.init[other]:
            return False  # both sides have sent an INIT
    info.vtags[other] = tag
    return True
