"""Bob Jenkins' hash as Linux has it (include/linux/jhash.h)."""

from __future__ import annotations

from collections.abc import Sequence

_U32 = 0xFFFFFFFF


def _rol(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _U32


#: Per step of `__jhash_mix`: how far the word it is mixed with is turned.
_MIX = (4, 6, 8, 16, 19, 4)


def jhash2(words: Sequence[int], seed: int) -> int:
    """Of 32-bit words, as numbers (`jhash2`)."""
    a = b = c = 0xDEADBEEF + (len(words) << 2) + seed & _U32
    rest = list(words)
    while len(rest) > 3:
        a, b, c = a + rest[0] & _U32, b + rest[1] & _U32, c + rest[2] & _U32
        for turn in _MIX:  # each step does to (a, c, b) what the one before did, the words moved on by one
            a = (a - c & _U32) ^ _rol(c, turn)
            c = c + b & _U32
            a, b, c = b, c, a
        del rest[:3]
    if not rest:
        return c
    rest += [0] * (3 - len(rest))
    a, b, c = a + rest[0] & _U32, b + rest[1] & _U32, c + rest[2] & _U32
    for turn in (14, 11, 25, 16, 4, 14, 24):  # `__jhash_final`
        c = (c ^ b) - _rol(b, turn) & _U32
        a, b, c = b, c, a
    return b
