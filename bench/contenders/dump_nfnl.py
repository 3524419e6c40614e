"""nfnl reads the table: into a list, or flow by flow with a look at each."""

from __future__ import annotations

import nfnl
from bench.contenders.dumps import take_turns

with nfnl.open_conntrack() as table:

    def as_list() -> int:
        """All flows, held."""
        return len(list(table.flows()))

    def as_stream() -> int:
        """One after the other, none held; the destination port of each is read."""
        return sum(flow.original.dst_port is not None for flow in table.flows())

    take_turns({"list": as_list, "stream": as_stream})
