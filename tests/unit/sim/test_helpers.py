"""Helpers by name (rules A.13, B.10)."""

from __future__ import annotations

import pytest

from nfnl.sim.helpers import find_helper
from nfnl.sim.skb import IPV4, IPV6, TCP, UDP


@pytest.mark.parametrize(
    ("name", "protocol", "ipv6", "timeout"),
    [
        ("ftp", TCP, True, 300),
        ("irc", TCP, False, 300),
        ("sane", TCP, True, 300),
        ("tftp", UDP, True, 300),
        ("sip", UDP, True, 180),
        ("sip", TCP, True, 180),
        ("amanda", UDP, True, 180),
        ("netbios-ns", UDP, False, 3),
        ("snmp", UDP, False, 30),
        ("pptp", TCP, False, 300),
        ("RAS", UDP, True, 240),
        ("Q.931", TCP, True, 240),
        ("H.245", UDP, True, 240),
    ],
)
def test_a_helper_is_found_for_its_families_and_protocol(name: str, protocol: int, ipv6: bool, timeout: int) -> None:
    helper = find_helper(name, IPV4, protocol)
    assert helper is not None
    assert {policy.timeout for policy in helper.policies} == {timeout}
    assert (find_helper(name, IPV6, protocol) is not None) == ipv6
    assert find_helper(name, IPV4, 132) is None


@pytest.mark.parametrize("name", ["", "FTP", "nosuch"])
def test_there_is_no_other(name: str) -> None:
    assert find_helper(name, IPV4, TCP) is None
