"""Which extensions iptables 1.8.9 has, and which of them are modelled."""

from __future__ import annotations

from nfnl.errors import NotModelled
from nfnl.sim.criteria import PROTOCOLS
from nfnl.sim.rules import STANDARD
from nfnl.sim.skb import IPV4, IPV6
from nfnl.sim.xt_flow import FLOW_MATCHES
from nfnl.sim.xt_nat import FLOW_TARGETS
from nfnl.sim.xt_packet import PACKET_MATCHES
from nfnl.sim.xt_targets import PACKET_TARGETS, REJECTS
from nfnl.sim.xtables import MatchExtension, TargetExtension

_BOTH = (IPV4, IPV6)
#: By name: the families they are for, and what reads them.
_MATCHES = PACKET_MATCHES | {name: (_BOTH, kind) for name, kind in FLOW_MATCHES.items()}
_TARGETS = PACKET_TARGETS | {name: (_BOTH, kind) for name, kind in FLOW_TARGETS.items()}

#: Those that are not modelled: naming one is no mistake, but cannot be obeyed.
OTHER_MATCHES = frozenset((
    "ah", "bpf", "cgroup", "cluster", "cpu", "dccp", "devgroup", "dst", "ecn", "esp", "eui64", "frag", "hashlimit", "hbh", "ipcomp",
    "ipv6header", "ipvs", "mh", "nfacct", "osf", "physdev", "pkttype", "policy", "quota", "rateest", "realm", "recent", "rpfilter",
    "rt", "sctp", "set", "socket", "srh", "string", "tcpmss", "time", "u32",
))  # fmt: skip
OTHER_TARGETS = frozenset((
    "AUDIT", "CHECKSUM", "CLASSIFY", "CLUSTERIP", "CONNSECMARK", "DNPT", "ECN", "HMARK", "IDLETIMER", "LED", "NAT", "RATEEST",
    "SECMARK", "SET", "SNPT", "SYNPROXY", "TCPMSS", "TCPOPTSTRIP", "TEE", "TPROXY", "TRACE", "ULOG",
))  # fmt: skip
#: ... and the protocols whose options come with such a match.
_PROTOCOL_MATCHES = frozenset(("sctp", "dccp", "esp", "ah", "mobility-header", "ipcomp"))


def find_match(name: str, family: int) -> MatchExtension | None:
    """The extension behind ``-m name``; None if iptables has none. Raises `NotModelled` for one it has."""
    if name in OTHER_MATCHES:
        raise NotModelled(f"match {name}")
    families, kind = _MATCHES.get(name, ((), MatchExtension))
    if family not in families:
        return None
    match = kind()
    match.family = family
    return match


def find_protocol_match(number: int, family: int) -> MatchExtension | None:
    """The extension whose options follow ``-p`` without a ``-m``. Raises `NotModelled`."""
    name = PROTOCOLS.get(number, "")
    if name in _PROTOCOL_MATCHES:
        raise NotModelled(f"match {name}")
    return find_match(name, family)


def find_target(name: str, family: int) -> TargetExtension | None:
    """The extension behind ``-j name``; None if iptables has none. Raises `NotModelled` for one it has."""
    if name in OTHER_TARGETS:
        raise NotModelled(f"target {name}")
    families, kind = (_BOTH, REJECTS[family]) if name == "REJECT" else _TARGETS.get(name, ((), TargetExtension))
    if family not in families:
        return None
    target = kind()
    target.family = family
    return target


def is_target(name: str) -> bool:
    """The name of a target, which no chain may have."""
    return not name or name in STANDARD or name in OTHER_TARGETS or name in _TARGETS or name == "REJECT"
