from __future__ import annotations

from functools import partial

import pytest

from nfnl.sim.clock import EPOCH, Clock


def test_time_stands_still_until_it_is_moved() -> None:
    clock = Clock()
    assert clock.now == 0.0
    clock.advance(2.5)
    assert clock.now == 2.5
    assert clock.wall() == EPOCH + 2.5


def test_what_falls_due_happens_in_order_each_at_its_own_time() -> None:
    clock = Clock()
    happened: list[tuple[str, float]] = []

    def note(name: str) -> None:
        happened.append((name, clock.now))

    for name, when in (("late", 5.0), ("early", 1.0), ("second at 1", 1.0), ("beyond", 9.0)):
        clock.call_at(when, partial(note, name))
    clock.advance(6.0)
    assert happened == [("early", 1.0), ("second at 1", 1.0), ("late", 5.0)]
    assert clock.now == 6.0
    assert clock.next_due() == 9.0


def test_what_a_timer_starts_falls_due_in_the_same_step() -> None:
    clock = Clock()
    happened: list[float] = []

    def start_another() -> None:
        clock.call_at(2.0, lambda: happened.append(clock.now))

    clock.call_at(1.0, start_another)
    clock.advance(3.0)
    assert happened == [2.0]


def test_a_cancelled_timer_does_nothing_and_is_not_waited_for() -> None:
    clock = Clock()
    timer = clock.call_at(1.0, lambda: pytest.fail("cancelled"))
    assert timer.pending
    timer.cancel()
    assert clock.next_due() is None
    clock.advance(2.0)
    assert not timer.pending


def test_a_time_that_has_passed_is_due_at_the_next_step() -> None:
    clock = Clock()
    clock.advance(10.0)
    happened: list[float] = []
    clock.call_at(3.0, lambda: happened.append(clock.now))
    clock.advance(0.0)
    assert happened == [10.0]


def test_no_way_back() -> None:
    with pytest.raises(ValueError, match="backwards"):
        Clock().advance(-1.0)
