"""Tuples, their inverses, and zones (rules B.3, B.11)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, TCP
from nfnl.sim.tuples import DEFAULT_ZONE, GRE, ICMP_INVERSES, Tuple, Zone
from tests.unit.sim.flows import A, B


def test_the_inverse_swaps_both_ends() -> None:
    assert Tuple(IPV4, A, B, TCP, 1, 2).inverse() == Tuple(IPV4, B, A, TCP, 2, 1)
    assert Tuple(IPV4, A, B, GRE, 1, 2).inverse() == Tuple(IPV4, B, A, GRE, 2, 1)
    assert Tuple(IPV4, A, B, 255).inverse() == Tuple(IPV4, B, A, 255)


@pytest.mark.parametrize(
    ("protocol", "question", "answer"),
    [(ICMP, 8, 0), (ICMP, 13, 14), (ICMP, 15, 16), (ICMP, 17, 18), (ICMPV6, 128, 129), (ICMPV6, 139, 140)],
)
def test_icmp_answers_keep_id_and_code(protocol: int, question: int, answer: int) -> None:
    asked = Tuple(IPV4, A, B, protocol, 77, question << 8 | 5)
    told = Tuple(IPV4, B, A, protocol, 77, answer << 8 | 5)
    assert asked.inverse() == told
    assert told.inverse() == asked
    assert (told.icmp_type, told.icmp_code) == (answer, 5)


@given(st.sampled_from([ICMP, ICMPV6]), st.integers(0, 255))
def test_an_icmp_type_without_a_partner_has_no_inverse(protocol: int, kind: int) -> None:
    assert (Tuple(IPV6, A, B, protocol, 1, kind << 8).inverse() is None) == (kind not in ICMP_INVERSES[protocol])


def test_equal_tuples_are_one_key_and_copies_cost_nothing() -> None:
    t = Tuple(IPV4, A, B, TCP, 1, 2)
    assert {t: 1}[Tuple(IPV4, bytes(A), B, TCP, 1, 2)] == 1
    assert copy.deepcopy(t) is t
    assert copy.deepcopy(DEFAULT_ZONE) is DEFAULT_ZONE


def test_a_zone_counts_as_0_in_a_direction_it_is_not_valid_for() -> None:
    assert (Zone(5).original_id, Zone(5).reply_id) == (5, 5)
    assert (Zone(5, 1).original_id, Zone(5, 1).reply_id) == (5, 0)
    assert (Zone(5, 2).original_id, Zone(5, 2).reply_id) == (0, 5)
