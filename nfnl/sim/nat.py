"""Choosing what a flow is translated to (nf_nat_core.c)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry


class Manip(IntEnum):
    """Which end is translated (enum nf_nat_manip_type)."""

    SRC = 0
    DST = 1


#: ``NF_NAT_RANGE_*`` beyond what the fields of `Range` say by being there: bits of `Range.flags`.
PROTO_RANDOM, PERSISTENT, PROTO_RANDOM_FULLY, PROTO_OFFSET = 1 << 2, 1 << 3, 1 << 4, 1 << 5


@dataclass(frozen=True, slots=True)
class Range:
    """What may be chosen from (`struct nf_nat_range2`). Nothing given: a null binding, that changes as little as possible."""

    #: first and last address, packed
    addresses: tuple[bytes, bytes] | None = None
    #: first and last port; ICMP: id, GRE: key
    parts: tuple[int, int] | None = None
    flags: int = 0
    #: with PROTO_OFFSET: the port that the first of ``parts`` stands for
    base: int = 0


class Nat:
    """Translation of a namespace's flows."""

    def __init__(self, table: ConntrackTable) -> None:
        self.table = table

    def setup(self, entry: Entry, wanted: Range, manip: Manip) -> bool:
        """Bind one end of an unconfirmed flow (`nf_nat_setup_info`): change its reply tuple, set SRC_NAT or DST_NAT if that
        changed, and SRC_NAT_DONE or DST_NAT_DONE.

        False: it has that binding already; the packet would be dropped. A confirmed flow is left as it is.
        """
        raise NotImplementedError

    def null_binding(self, entry: Entry, manip: Manip) -> bool:
        """Keep the address; a port changes only if it must (`nf_nat_alloc_null_binding`)."""
        raise NotImplementedError
