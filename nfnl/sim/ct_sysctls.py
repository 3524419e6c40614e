"""What can be tuned about connection tracking: ``net.netfilter.nf_conntrack_*`` (nf_conntrack_standalone.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from errno import EACCES
from typing import NamedTuple

PREFIX = "net.netfilter.nf_conntrack_"

#: Ticks in a second. Timeouts are kept in ticks (jiffies) and told in seconds.
HZ = 250
_INT_MAX = 0x7FFFFFFF


class Sysctl(NamedTuple):
    """One row: what it is set to at first, and what may be written."""

    default: int
    least: int = -_INT_MAX - 1
    most: int = _INT_MAX


def _timeout(seconds: int) -> Sysctl:
    most = _INT_MAX // HZ
    return Sysctl(seconds, -most, most)


def _switch(value: int) -> Sysctl:
    return Sysctl(value, 0, 1)


#: By what follows the prefix. Timeouts are in seconds, and any number counts, even a negative one: it is over at once.
SYSCTLS = {
    "max": Sysctl(262144, 0),
    "buckets": Sysctl(262144),
    "expect_max": Sysctl(4096, 1),
    "acct": _switch(0),
    "timestamp": _switch(0),
    "events": Sysctl(2, 0, 2),
    "checksum": _switch(1),
    "log_invalid": Sysctl(0, 0, 255),
    "generic_timeout": _timeout(600),
    "udp_timeout": _timeout(30),
    "udp_timeout_stream": _timeout(120),
    "icmp_timeout": _timeout(30),
    "icmpv6_timeout": _timeout(30),
    "gre_timeout": _timeout(30),
    "gre_timeout_stream": _timeout(180),
    "tcp_timeout_syn_sent": _timeout(120),
    "tcp_timeout_syn_recv": _timeout(60),
    "tcp_timeout_established": _timeout(432000),
    "tcp_timeout_fin_wait": _timeout(120),
    "tcp_timeout_close_wait": _timeout(60),
    "tcp_timeout_last_ack": _timeout(30),
    "tcp_timeout_time_wait": _timeout(120),
    "tcp_timeout_close": _timeout(10),
    "tcp_timeout_max_retrans": _timeout(300),
    "tcp_timeout_unacknowledged": _timeout(300),
    "tcp_max_retrans": Sysctl(3, 0, 255),
    "tcp_loose": _switch(1),
    "tcp_be_liberal": _switch(0),
    "tcp_ignore_invalid_rst": _switch(0),
    "sctp_timeout_closed": _timeout(10),
    "sctp_timeout_cookie_wait": _timeout(3),
    "sctp_timeout_cookie_echoed": _timeout(3),
    "sctp_timeout_established": _timeout(210),
    "sctp_timeout_shutdown_sent": _timeout(3),
    "sctp_timeout_shutdown_recd": _timeout(3),
    "sctp_timeout_shutdown_ack_sent": _timeout(3),
    "sctp_timeout_heartbeat_sent": _timeout(30),
}


class ConntrackSysctls(MutableMapping[str, int]):
    """The values, by the whole name. ``nf_conntrack_count`` is among them and can only be read.

    Writing raises ValueError for what the kernel answers with EINVAL, OSError (EACCES) for the count.
    """

    __slots__ = ("_count", "current")

    def __init__(self, count: Callable[[], int]) -> None:
        #: the values by their short names (``"udp_timeout"``), for those that look often
        self.current = {name: row.default for name, row in SYSCTLS.items()}
        self._count = count

    def __getitem__(self, name: str) -> int:
        short = name.removeprefix(PREFIX)
        if short == name:
            raise KeyError(name)
        return self._count() if short == "count" else self.current[short]

    def __setitem__(self, name: str, value: int) -> None:
        if name == f"{PREFIX}count":
            raise OSError(EACCES, "Permission denied", name)
        short = name.removeprefix(PREFIX)
        row = SYSCTLS[short if short != name else ""]
        if not row.least <= value <= row.most:
            raise ValueError(f"{name} takes {row.least} to {row.most}, not {value}")
        self.current[short] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("a sysctl cannot be taken away")

    def __iter__(self) -> Iterator[str]:
        yield f"{PREFIX}count"
        for short in self.current:
            yield PREFIX + short

    def __len__(self) -> int:
        return len(self.current) + 1
