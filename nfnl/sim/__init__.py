"""A Linux kernel in process, for tests: it needs no root, and no Linux. See `FakeKernel`."""

from __future__ import annotations

from nfnl.errors import NotModelled
from nfnl.sim.af_netlink import Capability
from nfnl.sim.gate import Idle
from nfnl.sim.iptables import IptablesError
from nfnl.sim.journey import Fate, Journey, Step
from nfnl.sim.kernel import NOT_MODELLED, FakeKernel, Snapshot
from nfnl.sim.profile import PROFILES, Profile
from nfnl.sim.skb import Link
from nfnl.sim.socket import FakeSocket
from nfnl.sim.transport import FakeTransport

__all__ = [
    "NOT_MODELLED",
    "PROFILES",
    "Capability",
    "FakeKernel",
    "FakeSocket",
    "FakeTransport",
    "Fate",
    "Idle",
    "IptablesError",
    "Journey",
    "Link",
    "NotModelled",
    "Profile",
    "Snapshot",
    "Step",
]
