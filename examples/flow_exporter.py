"""Write a line of JSON for each flow that ends, with what went through it: accounting without looking at packets.

sysctl -w net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1
python examples/flow_exporter.py > flows.json
"""

from __future__ import annotations

import json
from collections.abc import Callable

import nfnl
from nfnl.subsys.conntrack import protocol_words

Record = dict[str, str | int | None]


def record(flow: nfnl.DestroyedFlow) -> Record:
    """What is told of a flow that is gone. Of one that was made while nobody counted, no bytes are known."""
    there, back = flow.counters_original, flow.counters_reply
    return {
        "protocol": protocol_words(flow.original.protocol),
        "source": str(flow.original.src),
        "destination": str(flow.original.dst),
        "port": flow.original.dst_port,
        "sent": None if there is None else there.bytes,
        "received": None if back is None else back.bytes,
    }


def export(table: nfnl.FlowTable, write: Callable[[Record], object]) -> None:
    """Until the table is closed. What was lost is said, too, with how many flows there are: no account is silently short."""
    for event in table:
        if isinstance(event, nfnl.FlowDestroyed):
            write(record(event.flow))
        elif isinstance(event, nfnl.Overrun) and table.mirror is not None:
            table.catch_up()  # the mirror reads the table again
            write({"lost": "some that ended", "flows": len(table.mirror)})


if __name__ == "__main__":
    with nfnl.open_conntrack(mirror=True) as table:
        export(table, lambda line: print(json.dumps(line), flush=True))
