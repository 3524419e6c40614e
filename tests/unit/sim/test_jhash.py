"""jhash2 by its published constants; what the kernel makes of it is recorded in fixtures/conntrack/nat-addresses.tsv."""

from __future__ import annotations

import pytest

from nfnl.sim.jhash import jhash2


def test_of_nothing_it_is_the_start_value() -> None:
    assert jhash2([], 0) == 0xDEADBEEF
    assert jhash2([], 1) == 0xDEADBEF0


@pytest.mark.parametrize("count", range(1, 9))
def test_every_bit_of_every_word_counts(count: int) -> None:
    words = [0x01010101 * i for i in range(count)]
    plain = jhash2(words, 7)
    hashes = {jhash2([*words[:i], words[i] ^ 1 << bit, *words[i + 1 :]], 7) for i in range(count) for bit in range(32)}
    assert plain not in hashes
    assert len(hashes) == 32 * count
    assert jhash2(words, 8) != plain
