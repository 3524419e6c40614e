"""What a protocol's tracker answers about a packet of a flow.

A tracker is a function of the flow, the direction, what is known of the packet, the sysctls and the time. It keeps its own notes in
`Entry.proto`; everything else it wants done stands in its answer, for `ConntrackTable` and its events to carry out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from nfnl.sim.ct_entry import Entry
from nfnl.sim.ct_sysctls import HZ


class Verdict(Enum):
    """What becomes of the packet."""

    ACCEPT = "accept"
    INVALID = "invalid"  #: it goes on without its flow; a flow it would have made is not made
    REPEAT = "repeat"  #: its flow is to be ended, and the packet looked at again as if it were the first of one


class Answer(NamedTuple):
    """About one packet."""

    verdict: Verdict = Verdict.ACCEPT
    #: ticks the flow shall last from now on, and the packet is counted; None: neither
    timeout: int | None = None
    #: bits of `Status` to set
    status: int = 0
    #: bits of `Event` to note
    events: int = 0
    #: the packet is counted and the flow ended
    kill: bool = False
    #: ticks the flow shall last at most, though the packet is INVALID
    at_most: int | None = None


#: The packet passes and changes nothing.
PASS = Answer()
INVALID = Answer(Verdict.INVALID)
REPEAT = Answer(Verdict.REPEAT)


def ticks_of(entry: Entry, current: Mapping[str, int], name: str) -> int:
    """A timeout in ticks: the flow's own if it has a set of its own, else the sysctl's."""
    return (current if entry.timeouts is None else entry.timeouts)[name] * HZ
