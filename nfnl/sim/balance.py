"""Which of several queues a packet goes to (`nfqueue_hash` in include/net/netfilter/nf_queue.h, include/linux/jhash.h)."""

from __future__ import annotations

from struct import unpack

_U32 = 0xFFFFFFFF


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
    return _jhash_3words(low, high, third, seed) * total >> 32


def _jhash_3words(a: int, b: int, c: int, seed: int) -> int:
    """`jhash_3words`: each word plus the start value, and then `__jhash_final`."""
    start = seed + 0xDEADBEEF + 12
    a, b, c = a + start & _U32, b + start & _U32, c + start & _U32
    c = (c ^ b) - _rol(b, 14) & _U32
    a = (a ^ c) - _rol(c, 11) & _U32
    b = (b ^ a) - _rol(a, 25) & _U32
    c = (c ^ b) - _rol(b, 16) & _U32
    a = (a ^ c) - _rol(c, 4) & _U32
    b = (b ^ a) - _rol(a, 14) & _U32
    return (c ^ b) - _rol(b, 24) & _U32


def _rol(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _U32
