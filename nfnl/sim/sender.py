"""A program that sends through a socket of its own, and what that socket holds (net/core/sock.c)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN
from typing import SupportsBytes

from nfnl.sim.gate import Gate
from nfnl.sim.journey import Fate, Journey
from nfnl.sim.profile import Profile
from nfnl.sim.queueing import QueueTable
from nfnl.sim.skb import Owner
from nfnl.sim.stack import Stack

#: SOCK_MIN_SNDBUF
_LEAST = 4608


class Sender:
    """A local program with a socket. What it has sent is charged to the socket until it has left it: as long as it waits in a queue
    at OUTPUT or POSTROUTING, the send buffer fills up.
    """

    def __init__(
        self, gate: Gate, world: Callable[[], tuple[Stack, QueueTable]], profile: Profile, owner: Owner, send_buffer: int
    ) -> None:
        self._gate = gate
        self._world = world
        self._profile = profile
        self._owner = owner
        #: SO_SNDBUF as granted, in bytes
        self.send_buffer = max(2 * send_buffer, _LEAST)

    def send(
        self,
        packet: SupportsBytes,
        *,
        mark: int = 0,
        priority: int = 0,
        partial_checksum: bool = False,
        gso_size: int = 0,
    ) -> Journey:
        """As `FakeKernel.send`. With a full send buffer `Journey.errno` is EAGAIN, as for a socket that does not wait."""
        with self._gate:
            stack, _ = self._world()
            if self.charged >= self.send_buffer:
                data = bytes(packet)
                refused = Journey(data, data, mark, errno=EAGAIN)
                refused.fate, refused.reason = Fate.DROPPED, "the send buffer is full of what waits in queues"
                return refused
            return stack.send(
                packet, mark=mark, priority=priority, sk=self._owner, partial_checksum=partial_checksum, gso_size=gso_size
            )

    @property
    def charged(self) -> int:
        """Bytes of the send buffer that are taken (`sk_wmem_alloc_get`): memory, not lengths."""
        with self._gate:
            _, queues = self._world()
            waiting = (entry.skb for queue in queues.queues() for entry in queue.entries.values())
            return sum(self._profile.packet_truesize(len(skb.data)) for skb in waiting if skb.sk is self._owner)
