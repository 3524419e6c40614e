"""What became of a packet: the answer of every verb that puts one on its way, on the fake kernel and in the lab alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Fate(Enum):
    """Where a packet is now."""

    MOVING = "on its way"
    QUEUED = "waiting for a verdict"
    DELIVERED = "delivered"  #: to a local socket or protocol
    SENT = "sent"  #: left through a device
    DROPPED = "dropped"
    SPLIT = "split"  #: replaced by its segments, each with a journey of its own
    HELD = "waiting for its other fragments"
    JOINED = "joined"  #: a fragment put together with the others; the one that came last goes on as the whole


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened at one hook. Steps of packets that meet the same rule may be the same object."""

    hook: str  #: ``"PREROUTING"`` ... ``"POSTROUTING"``, or ``""`` outside the hooks (routing)
    table: str  #: ``"mangle"``, ``"filter"`` ..., or ``""``
    chain: str  #: the chain the rule stands in, or whose policy spoke
    what: str  #: the rule as iptables-save prints it (``-A INPUT -j DROP``), ``policy ACCEPT``, ``verdict ACCEPT from queue 0`` ...
    result: str  #: ``ACCEPT``, ``DROP``, ``QUEUE 0``, ``MARK 0x1`` ...

    def __str__(self) -> str:
        chain = "" if self.chain == self.hook else self.chain
        place = " ".join(filter(None, (self.table, self.hook, chain)))
        return f"{place}: {self.what} -> {self.result}"


@dataclass(slots=True, eq=False)
class Journey:
    """One packet's way through a kernel. It is updated as the packet moves on; ask it after the verdict.

    Compared by identity: two pings with equal bytes are two journeys.
    """

    #: the packet as it was handed in, from the network header on
    packet: bytes
    #: the packet as it is now, or was when its journey ended (a verdict may have changed it)
    data: bytes = b""
    mark: int = 0
    fate: Fate = Fate.MOVING
    #: why it ended so, in words: ``-A INPUT -j DROP``, ``queue 3: nobody listens``, ``verdict DROP from queue 0``
    reason: str = ""
    #: what the local program that sent it was told: 0, or the errno of its ``sendto`` (1, EPERM, for a DROP; a packet lost in a
    #: queue is no error)
    errno: int = 0
    #: number of the queue it waits in, or waited in last
    queue: int | None = None
    steps: list[Step] = field(default_factory=list)
    #: packets this kernel sent because of this one, in the order sent: echo replies, RSTs, ICMP errors, and the copy of a broadcast
    #: or multicast that comes back to the machine it was sent from
    answers: list[Journey] = field(default_factory=list)
    #: of a packet that was SPLIT, its segments in their order
    segments: list[Journey] = field(default_factory=list)

    @property
    def delivered(self) -> bool:
        """It arrived: at a local socket or protocol, or out through a device."""
        return self.fate in (Fate.DELIVERED, Fate.SENT)

    @property
    def dropped(self) -> bool:
        """It died here."""
        return self.fate is Fate.DROPPED

    @property
    def queued(self) -> bool:
        """It waits for a verdict."""
        return self.fate is Fate.QUEUED

    @property
    def hooks(self) -> list[str]:
        """The hooks it passed, in order, each once per visit."""
        seen: list[str] = []
        for step in self.steps:
            if step.hook and (not seen or seen[-1] != step.hook):
                seen.append(step.hook)
        return seen

    def __str__(self) -> str:
        tail = f" ({self.reason})" if self.reason else ""
        return f"{len(self.packet)} bytes, {self.fate.value}{tail}"
