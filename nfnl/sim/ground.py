"""What the rules of a network namespace stand on: the parts of the kernel that their matches ask and their targets use."""

from __future__ import annotations

from dataclasses import dataclass

from nfnl.sim.clock import Clock
from nfnl.sim.hooks import HookTable
from nfnl.sim.nat_hooks import NatHooks
from nfnl.sim.routing import Routing
from nfnl.sim.tracking import Tracking


@dataclass(slots=True)
class Ground:
    """The parts of one namespace, put together by whoever makes it."""

    hooks: HookTable
    clock: Clock
    routing: Routing
    tracking: Tracking
    nat: NatHooks
