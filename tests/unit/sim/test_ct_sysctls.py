"""net.netfilter.nf_conntrack_* (rule B.5): defaults, and what may be written, as Linux 6.18.44 has them."""

from __future__ import annotations

import pytest

from nfnl.sim.ct_sysctls import PREFIX, ConntrackSysctls
from tests.unit.sim.flows import new_table, request, udp

TIMEOUTS = {
    "generic_timeout": 600,
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
    "icmp_timeout": 30,
    "icmpv6_timeout": 30,
    "gre_timeout": 30,
    "gre_timeout_stream": 180,
    "tcp_timeout_syn_sent": 120,
    "tcp_timeout_syn_recv": 60,
    "tcp_timeout_established": 432000,
    "tcp_timeout_fin_wait": 120,
    "tcp_timeout_close_wait": 60,
    "tcp_timeout_last_ack": 30,
    "tcp_timeout_time_wait": 120,
    "tcp_timeout_close": 10,
    "tcp_timeout_max_retrans": 300,
    "tcp_timeout_unacknowledged": 300,
    "sctp_timeout_closed": 10,
    "sctp_timeout_cookie_wait": 3,
    "sctp_timeout_cookie_echoed": 3,
    "sctp_timeout_established": 210,
    "sctp_timeout_shutdown_sent": 3,
    "sctp_timeout_shutdown_recd": 3,
    "sctp_timeout_shutdown_ack_sent": 3,
    "sctp_timeout_heartbeat_sent": 30,
}
#: name, default, least, most
OTHERS = [
    ("acct", 0, 0, 1),
    ("timestamp", 0, 0, 1),
    ("checksum", 1, 0, 1),
    ("tcp_loose", 1, 0, 1),
    ("tcp_be_liberal", 0, 0, 1),
    ("tcp_ignore_invalid_rst", 0, 0, 1),
    ("events", 2, 0, 2),
    ("tcp_max_retrans", 3, 0, 255),
    ("log_invalid", 0, 0, 255),
]
RANGES = [(name, value, -8589934, 8589934) for name, value in TIMEOUTS.items()] + OTHERS


def fresh() -> ConntrackSysctls:
    return new_table()[1].sysctls


@pytest.mark.parametrize(("name", "default", "least", "most"), RANGES, ids=[row[0] for row in RANGES])
def test_defaults_and_ranges(name: str, default: int, least: int, most: int) -> None:
    sysctls = ConntrackSysctls(int)
    assert sysctls[PREFIX + name] == default
    for value in (least, most):
        sysctls[PREFIX + name] = value
        assert sysctls[PREFIX + name] == sysctls.current[name] == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=name):
            sysctls[PREFIX + name] = value
        assert sysctls[PREFIX + name] == most


def test_the_count_is_read_from_the_table_and_cannot_be_written() -> None:
    _, table, _ = new_table()
    request(table, udp())
    assert table.sysctls[f"{PREFIX}count"] == 1
    with pytest.raises(PermissionError):
        table.sysctls[f"{PREFIX}count"] = 5


def test_it_is_a_mapping_of_whole_names() -> None:
    sysctls = fresh()
    assert f"{PREFIX}max" in sysctls
    assert "max" not in sysctls
    assert f"{PREFIX}nosuch" not in sysctls
    assert len(list(sysctls)) == len(sysctls) == len(RANGES) + 4  # max, buckets, expect_max, count
    with pytest.raises(KeyError):
        sysctls["max"] = 1
    with pytest.raises(TypeError):
        del sysctls[f"{PREFIX}max"]
