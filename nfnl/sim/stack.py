"""The IP stack around the hooks: devices, addresses, routing, local delivery, and the answers the kernel itself gives.

INTERFACE; the implementation follows.
"""

from __future__ import annotations

from typing import SupportsBytes

from nfnl.sim.clock import Clock
from nfnl.sim.journey import Journey
from nfnl.sim.queueing import QueueTable
from nfnl.sim.skb import Device, Link


class Stack:
    """One network namespace: lo, eth0 with 10.0.0.1/24 and fd00::1/64, and a default route through eth0.

    ``FakeKernel`` is composed like this::

        clock = Clock()
        hooks = HookTable()
        queues = QueueTable(hooks)
        stack = Stack(clock, queues)
        iptables = Iptables(hooks, IPV4); ip6tables = Iptables(hooks, IPV6)     # nfnl.sim.iptables

    Everything is plain objects and bound methods: `copy.deepcopy` of the object that holds all of these (one call, so that they
    stay connected) is a snapshot; putting a deep copy of the copy back restores it.
    """

    def __init__(self, clock: Clock, queues: QueueTable) -> None:
        self.clock = clock
        self.queues = queues
        self.hooks = queues.hooks
        #: by name; change `Device.mtu` and friends freely, `Device.up` only through `set_up`
        self.devices: dict[str, Device] = {}
        #: ``"net.ipv4.ip_forward"`` and the like -> number. Unknown names are not in here.
        self.sysctls: dict[str, int] = {}
        #: somebody on the machine asked for receive time stamps (SO_TIMESTAMP)
        self.timestamping = False

    def add_device(self, name: str, link: Link = Link.NONE, *, index: int | None = None, mtu: int = 1500) -> Device:
        """A new device, up, without addresses. Raises OSError (EEXIST)."""
        raise NotImplementedError

    def add_address(self, dev: str, address: str) -> None:
        """``"10.0.0.1/24"``: an address of this machine and the network behind the device. Raises OSError (EEXIST, ENODEV)."""
        raise NotImplementedError

    def add_route(self, prefix: str, dev: str | None, *, mark: int | None = None) -> None:
        """``"0.0.0.0/0"``; ``dev`` None: unreachable. With a mark: only for packets with that mark, and looked at first."""
        raise NotImplementedError

    def del_route(self, prefix: str, *, mark: int | None = None) -> None:
        """Raises OSError (ESRCH)."""
        raise NotImplementedError

    def set_up(self, dev: str, up: bool) -> None:
        """``ip link set dev up|down``. Going down drops the queued packets that came in or go out through it."""
        raise NotImplementedError

    def send(
        self,
        packet: SupportsBytes,
        *,
        mark: int = 0,
        priority: int = 0,
        uid: int | None = 0,
        gid: int | None = 0,
        partial_checksum: bool = False,
    ) -> Journey:
        """A local program sends a packet: as through a raw socket with IP_HDRINCL, or, with ``partial_checksum``, an ordinary one."""
        raise NotImplementedError

    def receive(self, packet: SupportsBytes, dev: str = "eth0", *, hwaddr: bytes | None = None) -> Journey:
        """A packet arrives on a device."""
        raise NotImplementedError

    def forward(self, packet: SupportsBytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """A packet arrives that is to be passed on: switches forwarding on and, with ``out_dev``, makes the route; then `receive`."""
        raise NotImplementedError
