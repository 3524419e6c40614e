"""Numbers from a seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.lots import Lots, scramble


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    one, same, other = Lots(1), Lots(1), Lots(2)
    drawn = [one.draw(16) for _ in range(100)]
    assert drawn == [same.draw(16) for _ in range(100)]
    assert drawn != [other.draw(16) for _ in range(100)]
    assert all(0 <= number < 65536 for number in drawn)
    assert len(set(drawn)) > 90


@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 2**32 - 1), max_size=200))
def test_scrambled_numbers_stay_different(seed: int, numbers: set[int]) -> None:
    scrambled = {scramble(number, seed) for number in numbers}
    assert len(scrambled) == len(numbers)
    assert all(0 <= number < 2**32 for number in scrambled)
