"""Fragments are put together before they are tracked (nf_defrag_ipv4.c, net/ipv6/netfilter/nf_conntrack_reasm.c)."""

from __future__ import annotations

from collections.abc import Callable

from nfnl.sim.clock import Clock
from nfnl.sim.defrag import Defragmenter, ParameterProblem
from nfnl.sim.hooks import OUTPUT, PREROUTING
from nfnl.sim.skb import AUTH, DSTOPTS, FRAGMENT, HOPOPTS, IPV4, ROUTING, Skb

_BEFORE_FRAGMENT = frozenset((HOPOPTS, ROUTING, DSTOPTS, AUTH))


class HookDefragmenter:
    """What hangs before connection tracking. Its fragments are none of those that wait to be delivered here."""

    __slots__ = ("_by_hook",)

    def __init__(self, clock: Clock, timed_out: Callable[[Skb], None]) -> None:
        #: what comes in and what goes out has nothing to do with each other (`nf_ct_defrag_user`)
        self._by_hook = {hook: Defragmenter(clock, timed_out) for hook in (PREROUTING, OUTPUT)}

    def __call__(self, skb: Skb, hook: int) -> bool:
        """True: it is a whole packet, perhaps by now. False: it waits for its other fragments, or was dropped."""
        fragments = self._by_hook[hook]
        if skb.family == IPV4:
            return not (len(skb.data) >= 20 and (skb.data[6] & 0x3F or skb.data[7])) or fragments.ipv4(skb)
        found = _fragment_header(skb.data)
        if found is None:
            return True
        try:
            return fragments.ipv6(skb, *found)
        except ParameterProblem as problem:
            if problem.pointer == found[0] + 2:
                skb.drop("a fragment that lies behind the end of every packet")
                return False
            return True  # whoever is to receive it will complain


def _fragment_header(data: bytes) -> tuple[int, int] | None:
    """Where the fragment header is, and where its number stands (`find_prev_fhdr`)."""
    protocol, at, named_at = data[6], 40, 6
    while protocol in _BEFORE_FRAGMENT and len(data) >= at + 2:
        size = (data[at + 1] + 2) << 2 if protocol == AUTH else (data[at + 1] + 1) << 3
        protocol, at, named_at = data[at], at + size, at
    return (at, named_at) if protocol == FRAGMENT and len(data) >= at + 8 else None
