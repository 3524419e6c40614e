"""Ends by themselves: at their time, in order, however often they are put off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.clock import Clock
from nfnl.sim.ct_expiry import NEVER, ExpiryQueue, ticks
from nfnl.sim.ct_sysctls import HZ


class Thing:
    def __init__(self, name: int, expires: int) -> None:
        self.name = name
        self.expires = expires
        self.scheduled = NEVER


def test_they_end_in_the_order_of_their_times_each_at_its_own() -> None:
    clock, ended = Clock(), list[tuple[int, float]]()
    queue: ExpiryQueue[Thing] = ExpiryQueue(clock, lambda thing: ended.append((thing.name, clock.now)))
    for name, seconds in enumerate((3, 1, 2, 1)):
        queue.schedule(Thing(name, seconds * HZ))
    clock.advance(10)
    assert ended == [(1, 1.0), (3, 1.0), (2, 2.0), (0, 3.0)]


def test_what_is_put_off_ends_later_and_what_is_brought_forward_sooner() -> None:
    clock, ended = Clock(), list[tuple[int, float]]()
    queue: ExpiryQueue[Thing] = ExpiryQueue(clock, lambda thing: ended.append((thing.name, clock.now)))
    later, sooner = Thing(0, 5 * HZ), Thing(1, 5 * HZ)
    for thing, seconds in ((later, 9), (sooner, 2)):
        queue.schedule(thing)
        thing.expires = seconds * HZ
        queue.schedule(thing)
    clock.advance(100)
    assert ended == [(1, 2.0), (0, 9.0)]


def test_what_is_forgotten_never_ends_and_leaves_nothing_behind() -> None:
    clock, ended = Clock(), list[int]()
    queue: ExpiryQueue[Thing] = ExpiryQueue(clock, lambda thing: ended.append(thing.name))
    for name in range(10_000):
        thing = Thing(name, 432_000 * HZ + name)
        queue.schedule(thing)
        queue.forget(thing)
    assert len(queue._due) < 200
    assert len(queue._ticks) < 200
    clock.advance(500_000)
    assert ended == []


def test_time_that_has_passed_already_comes_with_the_next_step() -> None:
    clock, ended = Clock(), list[int]()
    clock.advance(5)
    queue: ExpiryQueue[Thing] = ExpiryQueue(clock, lambda thing: ended.append(thing.name))
    queue.schedule(Thing(0, -250))
    assert ended == []
    clock.advance(0)
    assert ended == [0]


def test_a_tick_is_not_lost_to_fractions() -> None:
    clock = Clock()
    for _ in range(30):
        clock.advance(0.1)
    assert ticks(clock) == 3 * HZ


#: what is done: (which thing, its new time) or seconds that pass
steps = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)) | st.integers(0, 10), max_size=60)


@given(steps)
def test_like_looking_at_everything_all_the_time(plan: list[tuple[int, int] | int]) -> None:
    clock, ended = Clock(), list[tuple[int, int]]()
    queue: ExpiryQueue[Thing] = ExpiryQueue(clock, lambda thing: ended.append((ticks(clock), thing.name)))
    things = {name: Thing(name, 0) for name in range(5)}
    alive: dict[int, int] = {}
    expected: list[tuple[int, int]] = []
    for step in plan:
        if isinstance(step, tuple):
            name, expires = step
            if expires == 0:
                queue.forget(things[name])
                alive.pop(name, None)
            else:
                alive[name] = things[name].expires = ticks(clock) + expires * HZ
                queue.schedule(things[name])
        else:
            clock.advance(step)
            due = sorted((when, name) for name, when in alive.items() if when <= ticks(clock))
            for when, name in due:
                del alive[name]
                expected.append((when, name))
            expected.sort()
            assert sorted(ended) == expected
            assert [when for when, _ in ended] == sorted(when for when, _ in ended)
