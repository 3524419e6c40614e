"""``nfnl doctor`` and conntrack: can flows be listed and followed here, and what will be told of them?"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import nfnl
from nfnl.cli.findings import Finding, State
from nfnl.errors import error_name
from nfnl.transport.base import Kernel

_PREFIX = "net.netfilter.nf_conntrack_"
_MODULE = "load it: modprobe nf_conntrack_netlink; or take a kernel with CONFIG_NF_CT_NETLINK"
#: switches: what is missing where one is 0, and what is there
_SWITCHES = {
    "acct": ("flows have no counters of packets and bytes", "flows count packets and bytes"),
    "timestamp": ("flows do not tell when they began", "flows tell when they began"),
    "events": ("nothing is told of new, changed and ended flows", "flows tell what happens to them"),
}
#: the default of nf_conntrack_events since Linux 5.19
_AUTOMATIC = 2
#: from which part of the table on new connections are in danger
_FULL = 0.9


def conntrack(kernel: Kernel) -> Iterator[Finding]:
    """Whether ctnetlink answers, how full the table is, and the switches that decide what new flows carry."""
    yield _answers(kernel)
    try:
        values = {name: int(kernel.sysctl(_PREFIX + name)) for name in ("count", "max", *_SWITCHES)}
    except OSError:
        yield Finding("conntrack", "nf_conntrack", State.NOTE, "not there: no flows are tracked", "load it: modprobe nf_conntrack")
        return
    yield _fullness(values["count"], values["max"])
    for name, (missing, there) in _SWITCHES.items():
        if not values[name]:
            remedy = f"sysctl -w {_PREFIX}{name}=1; flows that are there already stay as they are"
            yield Finding("conntrack", f"nf_conntrack_{name}", State.NOTE, missing, remedy)
        elif name == "events" and values[name] == _AUTOMATIC:
            told = f"{there}, if they began while somebody listened"
            yield Finding("conntrack", f"nf_conntrack_{name}", State.OK, told)
        else:
            yield Finding("conntrack", f"nf_conntrack_{name}", State.OK, there)


def _answers(kernel: Kernel) -> Finding:
    """Ctnetlink and the rights, by a question that changes nothing."""
    try:
        with nfnl.open_conntrack(kernel=kernel) as table:
            table.stats()
    except OSError as error:
        if error.errno == errno.EPERM:
            told, remedy = (
                "only with CAP_NET_ADMIN flows are listed and followed",
                "run it as root, or in a network of its own: unshare -Urn",
            )
        else:
            told, remedy = f"not there: {error_name(error.errno or 0)}", _MODULE
        return Finding("conntrack", "nf_conntrack_netlink", State.NOTE, told, remedy)
    return Finding("conntrack", "nf_conntrack_netlink", State.OK, "flows can be listed and followed")


def _fullness(count: int, most: int) -> Finding:
    told = f"{count:,} of {most:,}"
    if most and count >= _FULL * most:
        remedy = f"when it is full new connections are dropped: sysctl -w {_PREFIX}max={2 * most}"
        return Finding("conntrack", "flows", State.NOTE, f"{told}: the table is nearly full", remedy)
    return Finding("conntrack", "flows", State.OK, told if most else f"{count:,}, without a limit")
