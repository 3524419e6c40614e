"""Putting fragments together (net/ipv4/ip_fragment.c, net/ipv6/reassembly.c, net/ipv4/inet_fragment.c).

The fragment that completes a packet goes on as the whole, on its own journey; the journeys of the others end there.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from functools import partial

from nfnl.sim import answers
from nfnl.sim.clock import Clock, Timer
from nfnl.sim.journey import Fate
from nfnl.sim.skb import ICMPV6, IPV4, TCP, UDP, Checksum, Skb, checksum, find_header

#: Seconds until an incomplete packet is given up (``net.ipv4.ipfrag_time``, ``net.ipv6.ip6frag_time``).
_PATIENCE = {4: 30.0, 6: 60.0}
_MOST = 0xFFFF

Key = tuple[bytes, bytes, bytes]


class ParameterProblem(Exception):
    """ICMPv6 is to complain about a fragment: code, and offset of what is wrong."""

    def __init__(self, code: int, pointer: int) -> None:
        self.code = code
        self.pointer = pointer


class _Corrupt(Exception):
    """The fragments contradict each other: all of them are dropped."""


class Assembly:
    """What has come of one packet (`struct inet_frag_queue`)."""

    __slots__ = ("ecn", "largest", "largest_df", "last_seen", "length", "pieces", "timer")

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        #: (offset, end, arrival, header and packet, payload), by offset
        self.pieces: list[tuple[int, int, int, Skb, bytes]] = []
        #: of the payload, as far as is known
        self.length = 0
        self.last_seen = False
        #: bit n: a fragment had the ECN bits n
        self.ecn = 0
        self.largest = self.largest_df = 0

    def add(self, skb: Skb, offset: int, payload: bytes, more: bool) -> bool:
        """False: nothing new, to be dropped. Raises `_Corrupt`."""
        end = offset + len(payload)
        if not more:
            if end < self.length or (self.last_seen and end != self.length):
                raise _Corrupt
            self.last_seen, self.length = True, end
        elif end > self.length:
            if self.last_seen:
                raise _Corrupt
            self.length = end
        if not payload:
            raise _Corrupt
        for start, stop in self._runs():
            if start <= offset and end <= stop:
                return False
            if offset < stop and start < end:
                raise _Corrupt
        insort(self.pieces, (offset, end, len(self.pieces), skb, payload), key=lambda piece: piece[0])
        return True

    def _runs(self) -> list[tuple[int, int]]:
        """What is there without gaps."""
        runs: list[tuple[int, int]] = []
        for offset, end, *_ in self.pieces:
            if runs and runs[-1][1] == offset:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((offset, end))
        return runs

    @property
    def complete(self) -> bool:
        return self.last_seen and self._runs() == [(0, self.length)]

    @property
    def first(self) -> Skb | None:
        """The packet with the first fragment, if it has come."""
        return self.pieces[0][3] if self.pieces and self.pieces[0][0] == 0 else None

    def payload(self) -> bytes:
        return b"".join(piece[4] for piece in self.pieces)

    def drop(self, reason: str) -> None:
        for piece in self.pieces:
            piece[3].drop(reason)


def _cut_short(data: bytes) -> bool:
    """A first IPv6 fragment without the whole of the transport header (`ipv6frag_thdr_truncated`)."""
    protocol, at, _ = find_header(data)
    return protocol >= 0 and len(data) < at + {TCP: 20, UDP: 8, ICMPV6: 8}.get(protocol, 1)


class Defragmenter:
    """The fragments a machine waits for. ``timed_out`` is told of a first fragment whose others never came."""

    __slots__ = ("_assemblies", "_clock", "_timed_out")

    def __init__(self, clock: Clock, timed_out: Callable[[Skb], None]) -> None:
        self._clock = clock
        self._timed_out = timed_out
        self._assemblies: dict[Key, Assembly] = {}

    def ipv4(self, skb: Skb) -> bool:
        """`ip_defrag`. True: ``skb`` is now the whole packet. False: it waits, or was dropped."""
        data = skb.data
        header = (data[0] & 0xF) << 2
        frag = data[6] << 8 | data[7]
        offset, more = (frag & 0x1FFF) << 3, bool(frag & 0x2000)
        payload = data[header:]
        if more:
            payload = payload[: len(payload) & ~7]
        # identity: protocol and id, source, destination
        key = (data[9:10] + data[4:6], data[12:16], data[16:20])
        assembly = self._queue(key, skb, offset, payload, more, data[1] & 3)
        if assembly is None:
            return False
        size = header + len(payload)
        assembly.largest = max(assembly.largest, size)
        if frag & 0x4000:
            assembly.largest_df = max(assembly.largest_df, size)
        if not assembly.complete:
            return False
        whole = self._join(key, assembly, skb)
        if whole is None:
            return False
        first, congestion = whole
        head = first.data[: (first.data[0] & 0xF) << 2]
        df = assembly.largest_df == assembly.largest
        length = len(head) + assembly.length
        if length > _MOST:
            skb.drop("fragments of a packet too long")
            return False
        fixed = head[:1] + bytes((head[1] | congestion,)) + length.to_bytes(2, "big") + head[4:6]
        fixed += (b"\x40\0" if df else b"\0\0") + head[8:10] + b"\0\0" + head[12:]
        skb.set_data(fixed[:10] + checksum(fixed).to_bytes(2, "big") + fixed[12:] + assembly.payload())
        skb.transport = len(head)
        return True

    def ipv6(self, skb: Skb, at: int, named_at: int) -> bool:
        """`ipv6_frag_rcv`, for the fragment header at ``at``. Raises `ParameterProblem`."""
        data = skb.data
        if len(data) < at + 8 or data[4:6] == b"\0\0":
            raise ParameterProblem(0, at)
        frag = data[at + 2] << 8 | data[at + 3]
        offset, more = frag & 0xFFF8, bool(frag & 1)
        payload = data[at + 8 :]
        if not offset and _cut_short(data):
            raise ParameterProblem(3, 0)
        if offset + len(payload) > _MOST:
            raise ParameterProblem(0, at + 2)
        if more and len(payload) & 7:
            raise ParameterProblem(0, 4)
        key = (data[at + 4 : at + 8], data[8:24], data[24:40])
        assembly = self._queue(key, skb, offset, payload, more, answers.traffic_class(data) & 3)
        if assembly is None or not assembly.complete:
            return False
        whole = self._join(key, assembly, skb)
        if whole is None:
            return False
        first, congestion = whole
        # the number of what was fragmented moves up to where the fragment header's own number stood
        head = first.data[:named_at] + first.data[at : at + 1] + first.data[named_at + 1 : at]
        length = at - 40 + assembly.length
        if length > _MOST:
            skb.drop("fragments of a packet too long")
            return False
        head = head[:1] + bytes((head[1] | congestion << 4,)) + head[2:4] + length.to_bytes(2, "big") + head[6:]
        skb.set_data(head + assembly.payload())
        skb.transport = at
        return True

    def _queue(self, key: Key, skb: Skb, offset: int, payload: bytes, more: bool, ecn: int) -> Assembly | None:
        assembly = self._assemblies.get(key)
        if assembly is None:
            patience = _PATIENCE[4 if skb.family == IPV4 else 6]
            timer = self._clock.call_at(self._clock.now + patience, partial(self._give_up, key))
            assembly = self._assemblies[key] = Assembly(timer)
        try:
            if not assembly.add(skb, offset, payload, more):
                skb.drop("a fragment that was there already")
                return None
        except _Corrupt:
            self._forget(key).drop("fragments that contradict each other")
            skb.drop("fragments that contradict each other")
            return None
        assembly.ecn |= 1 << ecn
        skb.end(Fate.HELD)
        return assembly

    def _join(self, key: Key, assembly: Assembly, last: Skb) -> tuple[Skb, int] | None:
        """The packet with the first fragment, and the ECN bits to set; None if those of the fragments do not go together."""
        self._forget(key)
        if assembly.ecn & 1 and assembly.ecn != 1:
            assembly.drop("fragments with and without ECN")
            return None
        first = assembly.first
        assert first is not None
        for *_, skb, _ in assembly.pieces:
            if skb is not last:
                skb.end(Fate.JOINED)
        # all but the route is the first one's (`skb_morph`)
        last.mark, last.priority, last.hwaddr, last.tstamp = first.mark, first.priority, first.hwaddr, first.tstamp
        last.csum = Checksum.NONE
        last.journey.fate = Fate.MOVING
        congestion = 3 if assembly.ecn & 8 and assembly.ecn & 6 else 0
        return first, congestion

    def _forget(self, key: Key) -> Assembly:
        assembly = self._assemblies.pop(key)
        assembly.timer.cancel()
        return assembly

    def _give_up(self, key: Key) -> None:
        assembly = self._assemblies.pop(key)
        first = assembly.first
        assembly.drop("its other fragments never came")
        if first:
            self._timed_out(first)
