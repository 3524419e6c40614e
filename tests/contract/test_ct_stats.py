"""Counters of the tracker, of each processor and of the whole table."""

from __future__ import annotations

import pytest

from tests.contract.ctkit import (
    ANY,
    CREATE,
    CT,
    DUMP,
    EXP,
    EXP_GET_STATS_CPU,
    GET_STATS,
    GET_STATS_CPU,
    LIFE,
    MULTI,
    TCP,
    V6,
    Asker,
    both,
    both6,
    orig,
    reply,
    request,
)
from tests.contract.rules import rule

ENTRIES, MAX_ENTRIES = 1, 2
FOUND, INVALID, INSERT, INSERT_FAILED, DROP, EARLY_DROP, ERROR, SEARCH_RESTART, CLASH_RESOLVE, CHAIN_TOOLONG = (
    2,
    4,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
)


def sums(asker: Asker) -> dict[int, int]:
    """The counters of all processors together."""
    told = [message.numbers() for message in asker.dump(operation=GET_STATS_CPU)]
    return {number: sum(numbers[number] for numbers in told) for number in told[0]}


def entries(asker: Asker) -> int:
    """How many flows the kernel counts."""
    [stats] = asker.say(request(GET_STATS, family=ANY)).told
    return stats.number(ENTRIES)


@rule("CTSTAT-1")
@pytest.mark.parametrize("family", [0, 2, 255])
def test_the_table_as_a_whole(asker: Asker, family: int) -> None:
    told, end, _ = asker.say(request(GET_STATS, family=family, seq=9))
    [stats] = told
    assert (stats.type, stats.flags, stats.seq, stats.pid) == (CT << 8 | GET_STATS, MULTI, 9, asker.port_id)
    assert (stats.family, stats.version, stats.res_id) == (0, 0, 0)
    assert list(stats) == [ENTRIES, MAX_ENTRIES]
    assert stats.number(MAX_ENTRIES) > 0
    assert end == "ACK"


@rule("CTSTAT-1", "C7-18")
def test_asked_for_as_a_dump_it_is_the_same_single_message(asker: Asker) -> None:
    told, end, _ = asker.say(request(GET_STATS, flags=DUMP, ack=False))
    assert ([(stats.flags, list(stats)) for stats in told], end) == ([(MULTI, [ENTRIES, MAX_ENTRIES])], "")


@rule("CTSTAT-2")
def test_flows_are_counted(asker: Asker) -> None:
    before = entries(asker)
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.make(both6(), LIFE, family=V6) == "ACK"
    assert entries(asker) == before + 2
    assert asker.make(both(), LIFE) == "EEXIST"
    assert asker.delete(orig()) == "ACK"
    assert entries(asker) == before + 1


@rule("CTSTAT-3", "C7-35")
@pytest.mark.parametrize("subsystem", [CT, EXP])
def test_processors_are_dumped_or_nothing(asker: Asker, subsystem: int) -> None:
    operation = GET_STATS_CPU if subsystem == CT else EXP_GET_STATS_CPU
    assert asker.do(operation, subsystem=subsystem) == "ACK"


@rule("CTSTAT-3")
def test_a_message_for_each_processor(asker: Asker) -> None:
    told = asker.dump(operation=GET_STATS_CPU)
    assert [stats.res_id for stats in told] == list(range(len(told)))
    assert len(told) >= 1
    assert {(stats.type, stats.flags, stats.pid, stats.family) for stats in told} == {
        (CT << 8 | GET_STATS_CPU, MULTI, asker.port_id, 0)
    }


@rule("CTSTAT-3")
def test_what_is_counted(asker: Asker) -> None:
    order = [FOUND, INVALID, INSERT, INSERT_FAILED, DROP, EARLY_DROP, ERROR, SEARCH_RESTART, CLASH_RESOLVE, CHAIN_TOOLONG]
    for stats in asker.dump(operation=GET_STATS_CPU):
        assert list(stats) == order
        assert all(len(value) == 4 for value in stats.values())


@rule("CTSTAT-4")
def test_what_programs_put_in_is_counted_as_inserted(asker: Asker) -> None:
    before = sums(asker)
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.make(both(2), LIFE) == "ACK"
    assert asker.make(both(2), LIFE, flags=CREATE) == "ACK"
    assert asker.make(orig(3), reply(2), LIFE) == "EEXIST"
    after = sums(asker)
    assert {number: after[number] - before[number] for number in after if after[number] != before[number]} == {INSERT: 2}


@rule("CTSTAT-5")
def test_expectations_are_counted_for_each_processor_in_the_name_of_conntrack(asker: Asker) -> None:
    told = asker.dump(subsystem=EXP, operation=EXP_GET_STATS_CPU)
    assert {stats.type for stats in told} == {CT << 8 | EXP_GET_STATS_CPU}
    assert [stats.res_id for stats in told] == list(range(len(asker.dump(operation=GET_STATS_CPU))))
    assert {tuple(stats) for stats in told} == {(1, 2, 3)}
    assert {(stats.flags, stats.family) for stats in told} == {(MULTI, 0)}


@rule("CTSTAT-4")
def test_what_is_refused_is_not_counted(asker: Asker) -> None:
    before = sums(asker)
    assert asker.make(both(number=TCP)) == "EINVAL"
    assert asker.delete(orig()) == "ENOENT"
    assert sums(asker) == before
