"""Which of several queues a packet goes to (`nfqueue_hash` in include/net/netfilter/nf_queue.h)."""

from __future__ import annotations

from struct import unpack

from nfnl.sim.jhash import jhash2


def nfqueue_hash(source: bytes, destination: bytes, protocol: int, total: int, seed: int) -> int:
    """A number below ``total``, the same for both directions.

    Ports do not count, and the protocol counts in IPv4 only. Of an IPv6 address the last four bytes count, and of the two
    second words the smaller. Words are numbers in the byte order of the machine, as the kernel reads them.
    """
    if len(source) == 4:
        low, high = sorted(unpack("=II", source + destination))
        third = protocol
    else:
        words = unpack("=8I", source + destination)
        low, high = sorted((words[3], words[7]))
        third = min(words[1], words[5])
    return jhash2((low, high, third), seed) * total >> 32
