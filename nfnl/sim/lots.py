"""Where Linux draws by lot, this kernel draws from a seed: the same run, the same numbers."""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF


class Lots:
    """A row of numbers that look random (splitmix64)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def draw(self, bits: int) -> int:
        """A number of up to 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        return (z ^ z >> 31) >> (64 - bits)


def scramble(number: int, seed: int) -> int:
    """Another number of 32 bits for each number of 32 bits: none comes twice."""
    x = (number ^ seed) & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16
