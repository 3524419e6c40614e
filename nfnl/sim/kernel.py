"""The fake kernel put together: a network namespace with its clock, rules, queues and netlink sockets; the tester's verbs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from errno import ENETDOWN
from typing import Any, Literal, SupportsBytes

from nfnl.errors import NetlinkError, NotModelled, TransportClosed
from nfnl.sim.af_netlink import NOT_MODELLED as SOCKETS_NOT_MODELLED
from nfnl.sim.af_netlink import SOCK_DGRAM, SOCK_RAW, Capability, Process, Sock, SocketTable
from nfnl.sim.bridge import Bridge
from nfnl.sim.clock import Clock
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_glue import Glue
from nfnl.sim.ct_messages import flow_message
from nfnl.sim.ct_sysctls import PREFIX as CONNTRACK_SYSCTLS
from nfnl.sim.ctnetlink import NOT_MODELLED as CTNETLINK_NOT_MODELLED
from nfnl.sim.ctnetlink import ConntrackSubsystem
from nfnl.sim.ctnetlink_expect import ExpectSubsystem
from nfnl.sim.errnos import Errno
from nfnl.sim.expectations import ExpectationTable
from nfnl.sim.gate import Gate
from nfnl.sim.ground import Ground
from nfnl.sim.helper_ftp import FtpHelper
from nfnl.sim.hooks import HASH_SEED, HookTable
from nfnl.sim.iptables import NOT_MODELLED as IPTABLES_NOT_MODELLED
from nfnl.sim.iptables import Iptables
from nfnl.sim.journey import Journey
from nfnl.sim.nat import Nat
from nfnl.sim.nat_hooks import NatHooks
from nfnl.sim.nfnetlink import NOT_MODELLED as NFNETLINK_NOT_MODELLED
from nfnl.sim.nfnetlink import Nfnetlink, ProcFile
from nfnl.sim.profile import Profile
from nfnl.sim.queue import NOT_MODELLED as QUEUE_NOT_MODELLED
from nfnl.sim.queue import QueueSubsystem
from nfnl.sim.queueing import QueueTable
from nfnl.sim.sender import Sender
from nfnl.sim.seqadj import adjust
from nfnl.sim.skb import IPV4, IPV6, Device, Link, Owner
from nfnl.sim.socket import FakeSocket
from nfnl.sim.stack import FIXED_SYSCTLS, SYSCTLS, Stack
from nfnl.sim.stack import NOT_MODELLED as STACK_NOT_MODELLED
from nfnl.sim.tracking import Tracking
from nfnl.sim.transport import FakeTransport
from nfnl.subsys.conntrack import Flow
from nfnl.transport.base import SocketOptions
from nfnl.wire.codec import decode
from nfnl.wire.constants import NETLINK_NETFILTER

#: What is not modelled, and what happens instead, by the part of the kernel it belongs to.
NOT_MODELLED: dict[str, dict[str, str]] = {
    "netlink sockets": SOCKETS_NOT_MODELLED,
    "nfnetlink": NFNETLINK_NOT_MODELLED,
    "queue": QUEUE_NOT_MODELLED,
    "conntrack": CTNETLINK_NOT_MODELLED,
    "the IP stack": STACK_NOT_MODELLED,
    "iptables": IPTABLES_NOT_MODELLED,
}


#: How sysctls are at first: as in a `nfnl.testing.lab.LinuxLab`, where nothing happens by itself or depends on time.
WORLD_SYSCTLS = SYSCTLS | {
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv6.icmp.ratelimit": 0,
}


class _World:
    """Everything that a snapshot holds."""

    def __init__(self, gate: Gate, profile: Profile, process: Process, hash_seed: int) -> None:
        self.clock = Clock()
        self.hooks = HookTable(hash_seed=hash_seed)
        self.queues = QueueTable(self.hooks, entry_limit=profile.entry_limit)
        self.stack = Stack(self.clock, self.queues, WORLD_SYSCTLS)
        self._iptables: dict[int, Iptables] = {}
        self.sockets = SocketTable(gate, self.clock, profile, process, self.stack.sysctls)
        self.nfnetlink = Nfnetlink(self.sockets, profile)
        self.conntrack = ConntrackTable(self.clock)
        self.expectations = ExpectationTable(self.conntrack)
        self.nat = Nat(self.conntrack)
        self.tracking = Tracking(self.hooks, self.conntrack, self.expectations, self.stack.defragment)
        ftp = FtpHelper(self.expectations, self.nat, self.conntrack.lots)
        self.tracking.helpers["ftp"] = ftp
        self.tracking.expected["nat-follow-master"] = ftp.follow_master
        self.tracking.adjust_sequence = adjust
        self.nat_hooks = NatHooks(self.hooks, self.nat, self.stack.routing)
        self.stack.going_down.append(self.nat_hooks.device_down)
        self.ground = Ground(self.hooks, self.clock, self.stack.routing, self.tracking, self.nat_hooks)
        self.stack.responder.related = self.tracking.belong_together
        self.stack.rejecter.closing = self.tracking.close
        flows = ConntrackSubsystem(self.nfnetlink, self.sockets, self.conntrack, self.expectations, self.nat)
        expected = ExpectSubsystem(self.nfnetlink, self.conntrack, self.expectations)
        glue = Glue(self.conntrack, flows, expected) if profile.conntrack_glue else None
        QueueSubsystem(self.nfnetlink, self.sockets, self.queues, profile, glue)
        self.sent: list[Journey] = []
        self.bridges: list[Bridge] = []

    def iptables(self, family: int) -> Iptables:
        """The tables of a family, made when somebody asks for them."""
        if family not in self._iptables:
            self._iptables[family] = Iptables(self.ground, family)
        return self._iptables[family]


class FakeKernel:
    """A Linux kernel in process: what `nfnl.transport.base.Kernel` is, and verbs that make things happen to it.

    ``profile`` says which kernel it is like; ``capabilities`` and ``pid`` are those of the process that uses it, a root by
    user id; ``when_idle`` says what becomes of a wait that nothing can end: ``"raise"`` ends it with `Idle`, ``"wait"`` waits
    for another thread; ``hash_seed`` is the number of 32 bits that ``--queue-balance`` hashes with, which Linux draws by lot.

    A verb returns when everything it has caused is done, or waits for somebody: a verdict, or `advance`. It may be called
    from any thread. After `close` all but `close` raises `TransportClosed`.
    """

    def __init__(
        self,
        *,
        profile: Profile = Profile(),
        capabilities: Collection[int] = tuple(Capability),
        when_idle: Literal["raise", "wait"] = "raise",
        pid: int = 4242,
        hash_seed: int = HASH_SEED,
    ) -> None:
        self.profile = profile
        self._gate = Gate(when_idle)
        self._alive: _World | None = _World(self._gate, profile, Process(pid, 0, 0, capabilities), hash_seed)
        #: `until_idle` blocks that are open
        self._resting = 0

    @property
    def _world(self) -> _World:
        if self._alive is None:
            raise TransportClosed("the kernel was closed")
        return self._alive

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeKernel {self.profile.name}{'' if self._alive else ', closed'}>"

    # -------------------------------------------------------------------------------------------------------------- packets

    def send(
        self,
        packet: SupportsBytes,
        *,
        mark: int = 0,
        priority: int = 0,
        uid: int | None = None,
        gid: int | None = None,
        partial_checksum: bool = False,
        gso_size: int = 0,
    ) -> Journey:
        """A local program sends a packet, given from its network header on.

        It goes as it is, as through a raw socket; with ``partial_checksum`` as through an ordinary socket, whose transport
        checksum is finished later; with a ``gso_size`` as from TCP, or through a UDP socket with UDP_SEGMENT: it stands for several
        packets with at most so many bytes of payload in each. Where they are cut, its journey ends as `Fate.SPLIT`, and theirs are
        its ``segments``. ``uid`` and ``gid`` are the current process's unless given.

        Raises `NotModelled` for segments of anything but TCP and UDP.
        """
        with self._gate:
            process = self._world.sockets.current
            return self._world.stack.send(
                packet,
                mark=mark,
                priority=priority,
                uid=process.uid if uid is None else uid,
                gid=process.gid if gid is None else gid,
                partial_checksum=partial_checksum,
                gso_size=gso_size,
            )

    def sender(self, *, send_buffer: int = 106496, uid: int | None = None, gid: int | None = None, classid: int = 0) -> Sender:
        """A local program with a socket of its own: what it sends and what then waits in queues fills its send buffer.

        ``send_buffer`` is SO_SNDBUF in bytes, which the kernel doubles; ``uid`` and ``gid`` are as for `send`; ``classid`` is the
        net_cls class of its control group.
        """
        with self._gate:
            process = self._world.sockets.current
            owner = Owner(process.uid if uid is None else uid, process.gid if gid is None else gid, classid)
        return Sender(self._gate, lambda: (self._world.stack, self._world.queues), self.profile, owner, send_buffer)

    def send_raw(self, packet: bytes) -> None:
        """Send an IP packet, as `nfnl.transport.base.Kernel.send_raw` says; for programs, where `send` is for their tester."""
        with self._gate:
            if Capability.NET_RAW not in self._world.sockets.current.capabilities:
                raise NetlinkError.of(Errno.EPERM, "open a raw socket", hint="It takes CAP_NET_RAW.")
            journey = self.send(packet)
            self._world.sent.append(journey)
        if journey.errno:
            raise OSError(journey.errno, journey.reason)

    @property
    def sent(self) -> Sequence[Journey]:
        """What programs have sent with `send_raw`, such as the answers of `QueuedPacket.reject`; the last is the latest."""
        return self._world.sent

    def receive(self, packet: SupportsBytes, dev: str = "eth0", *, hwaddr: bytes | None = None) -> Journey:
        """A packet arrives on a device; ``hwaddr`` is the source address of its frame."""
        with self._gate:
            return self._world.stack.receive(packet, dev, hwaddr=hwaddr)

    def forward(self, packet: SupportsBytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """A packet arrives that is to be passed on: forwarding is switched on and, with ``out_dev``, a route is made for it."""
        with self._gate:
            return self._world.stack.forward(packet, in_dev, out_dev)

    # ------------------------------------------------------------------------------------------------------- configuration

    def iptables(self, line: str) -> str:
        """``iptables <line>``, as typed in a shell; what it prints. Raises `IptablesError` with what it complains of."""
        with self._gate:
            return self._world.iptables(IPV4)(line)

    def ip6tables(self, line: str) -> str:
        """``ip6tables <line>``."""
        with self._gate:
            return self._world.iptables(IPV6)(line)

    def iptables_restore(self, text: str) -> None:
        """``iptables-restore`` with this input. Raises `IptablesError`."""
        with self._gate:
            self._world.iptables(IPV4).restore(text)

    def ip6tables_restore(self, text: str) -> None:
        """``ip6tables-restore`` with this input. Raises `IptablesError`."""
        with self._gate:
            self._world.iptables(IPV6).restore(text)

    def add_bridge(self, name: str, ports: tuple[str, str], *, queue: int, bypass: bool = False) -> None:
        """A bridge with two new ports. What it forwards goes to a queue, as with ``queue num N`` in nftables' family bridge, hook
        forward; nothing else of that family is modelled. Raises OSError (EEXIST).
        """
        with self._gate:
            world = self._world
            device, *made = (world.stack.add_device(each, Link.ETHER) for each in (name, *ports))
            world.bridges.append(Bridge(world.hooks, device, made, queue, bypass=bypass))

    def receive_frame(self, frame: bytes, port: str) -> Journey:
        """An Ethernet frame, from its destination address on, arrives at the port of a bridge, to go out by the other one.

        The bytes of its journey are those of whole frames. Raises OSError (ENODEV, ENETDOWN, EINVAL for no port of a bridge).
        """
        with self._gate:
            device = self._world.stack.device(port)
            if not device.up:
                raise OSError(ENETDOWN, "Network is down", port)
            for bridge in self._world.bridges:
                if device.master is bridge.device:
                    return bridge.receive(frame, device)
            raise Errno.EINVAL.error(f"{port} is no port of a bridge")

    def leave_bridge(self, port: str) -> None:
        """``ip link set port nomaster``. Raises OSError (ENODEV)."""
        with self._gate:
            self._world.stack.device(port).master = None

    def add_device(self, name: str, link: Link = Link.NONE, *, index: int | None = None, mtu: int = 1500) -> Device:
        """A new device, up, without addresses. Raises OSError (EEXIST)."""
        with self._gate:
            return self._world.stack.add_device(name, link, index=index, mtu=mtu)

    def add_address(self, dev: str, address: str) -> None:
        """``"10.0.0.1/24"``: an address of this machine, and the network behind the device. Raises OSError (EEXIST, ENODEV)."""
        with self._gate:
            self._world.stack.add_address(dev, address)

    def add_route(self, prefix: str, dev: str | None, *, mark: int | None = None) -> None:
        """``"0.0.0.0/0"``; ``dev`` None: unreachable. With a mark: only for packets with that mark, and looked at first."""
        with self._gate:
            self._world.stack.add_route(prefix, dev, mark=mark)

    def del_route(self, prefix: str, *, mark: int | None = None) -> None:
        """Raises OSError (ESRCH)."""
        with self._gate:
            self._world.stack.del_route(prefix, mark=mark)

    def set_up(self, dev: str, up: bool) -> None:
        """``ip link set dev up|down``. Going down drops the queued packets that came in or go out through it."""
        with self._gate:
            self._world.stack.set_up(dev, up)

    def interface_name(self, index: int) -> str | None:
        """What the device with this number is called; None if there is none."""
        with self._gate:
            return next((device.name for device in self._world.stack.devices.values() if device.index == index), None)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a sysctl by its dotted name, after writing ``value`` if one is given.

        Raises OSError: ENOENT, EINVAL for what is no number, EACCES for writing without being root; `NotModelled` for a value that
        would make a difference which the fake does not know (``net.ipv4.conf.all.rp_filter``).
        """
        with self._gate:
            key = name.replace("/", ".")
            sysctls: MutableMapping[str, int] = self._world.stack.sysctls
            if key.startswith(CONNTRACK_SYSCTLS):
                sysctls = self._world.conntrack.sysctls
            if key in FIXED_SYSCTLS:
                if value is not None and str(value) != str(FIXED_SYSCTLS[key]):
                    raise NotModelled(f"{name} other than {FIXED_SYSCTLS[key]}")
                return str(FIXED_SYSCTLS[key])
            if key not in sysctls:
                raise Errno.ENOENT.error(name)
            if value is not None:
                if self._world.sockets.current.uid:
                    raise Errno.EACCES.error(name)
                try:
                    sysctls[key] = int(value)
                except ValueError:
                    raise Errno.EINVAL.error(name) from None
            return str(sysctls[key])

    def flows(self) -> list[Flow]:
        """The flows that are tracked, each as a dump over netlink shows it."""
        with self._gate:
            table = self._world.conntrack
            told = [flow_message(entry, table, 0, 0, 0, entry.use) for entry in table.walk()]
        return [flow for message in told if message for flow in decode(message) if isinstance(flow, Flow)]

    @property
    def cpu(self) -> int:
        """Number of the processor that everything runs on, as ``--queue-cpu-fanout`` sees it: 0 until another is set."""
        return self._world.hooks.cpu

    @cpu.setter
    def cpu(self, number: int) -> None:
        with self._gate:
            self._world.hooks.cpu = number

    # ----------------------------------------------------------------------------------------------------------------- time

    @property
    def now(self) -> float:
        """Virtual seconds since this kernel was made."""
        return self._world.clock.now

    def advance(self, seconds: float) -> None:
        """Let time pass, and what falls due happen. Nothing else moves the clock."""
        with self._gate:
            self._world.clock.advance(seconds)
            self._world.queues.run_to_rest()
            self._gate.notify()

    @contextmanager
    def until_idle(self) -> Iterator[None]:
        """Inside, a transport that has nothing to read answers `Wait.IDLE`, and an iteration over a queue ends. At the end
        the machine is run to rest.
        """
        with self._gate:
            _ = self._world  # closed?
            self._resting += 1
            self._gate.notify()
        try:
            yield
        finally:
            with self._gate:
                self._resting -= 1
                if self._alive is not None:
                    self._alive.queues.run_to_rest()

    # --------------------------------------------------------------------------------------------------- sockets and /proc

    @contextmanager
    def process(
        self, *, pid: int | None = None, uid: int = 0, gid: int | None = None, capabilities: Collection[int] = ()
    ) -> Iterator[None]:
        """Inside, calls come from another process: with this user and group (by default of equal number), these capabilities
        and, unless given, the same pid.
        """
        with self._gate:
            before = self._world.sockets.current
            process = Process(before.pid if pid is None else pid, uid, uid if gid is None else gid, capabilities)
            self._world.sockets.current = process
        try:
            yield
        finally:
            with self._gate:
                if self._alive is not None:
                    self._alive.sockets.current = before

    def socket(self, type: int = SOCK_RAW, protocol: int = NETLINK_NETFILTER) -> FakeSocket:  # noqa: A002
        """A netlink socket, opened by the current process, not bound.

        Raises OSError: ESOCKTNOSUPPORT for a type that netlink has not, EPROTONOSUPPORT for every other protocol.
        """
        if type not in (SOCK_RAW, SOCK_DGRAM):
            raise Errno.ESOCKTNOSUPPORT.error()
        if protocol != NETLINK_NETFILTER:
            raise Errno.EPROTONOSUPPORT.error()
        with self._gate:
            return FakeSocket(self._world.sockets.create(type))

    def open(self, options: SocketOptions = SocketOptions()) -> FakeTransport:
        """Open a socket as `nfnl.transport.base.Kernel.open` says. Raises OSError with the kernel's errno."""
        sock = self.socket()
        try:
            return FakeTransport(sock, options, lambda: self._resting > 0, self._undecided)
        except BaseException:
            sock.close()
            raise

    def _undecided(self) -> str:
        """Which packets wait for a verdict."""
        held = [
            f"queue {queue.number} (port {queue.owner}): {len(queue.entries)}"
            for queue in self._world.queues.queues()
            if queue.entries
        ]
        return f"packets that wait for a verdict: {', '.join(held)}" if held else ""

    def read_proc(self, name: str) -> str:
        """The text of ``/proc/net/<name>``. Raises OSError: ENOENT, EACCES for what only root may read."""
        with self._gate:
            world = self._world
            files = {"netlink": ProcFile(0o444, world.sockets.proc), **world.nfnetlink.proc}
            if name not in files:
                raise Errno.ENOENT.error(f"/proc/net/{name}")
            process = world.sockets.current
            if not files[name].mode & 0o004 and process.uid and process.gid:
                raise Errno.EACCES.error(f"/proc/net/{name}")
            return files[name].text()

    def close(self) -> None:
        """Close every socket. Closing twice is fine."""
        with self._gate:
            if self._alive is not None:
                for sock in tuple(self._alive.sockets.sockets):
                    _close_all(sock)
                self._alive = None

    # ------------------------------------------------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        """The state of everything, to come back to with `Snapshot.restore`."""
        with self._gate:
            return Snapshot(self, self._world)


#: What a tester may have in his hands. It stays the same object when a snapshot is restored.
_HELD = (Journey, Device, Sock, Owner)


class Snapshot:
    """The state of a fake kernel at some moment."""

    def __init__(self, kernel: FakeKernel, world: _World) -> None:
        self._kernel = kernel
        memo: dict[int, Any] = {}
        self._world = copy.deepcopy(world, memo)
        #: what the tester may hold, and its copy; deepcopy keeps the originals in a list in its memo
        self._held = [(original, memo[id(original)]) for original in memo[id(memo)] if isinstance(original, _HELD)]

    def restore(self) -> None:
        """Put the kernel back to that moment, as often as you like.

        Journeys, devices and sockets in the tester's hands go back with it; sockets opened since are closed, and sockets
        closed since stay closed.
        """
        kernel = self._kernel
        with kernel._gate:
            now = kernel._world
            before = {id(original) for original, _ in self._held}
            for sock in tuple(now.sockets.sockets):
                if id(sock) not in before:
                    _close_all(sock)
            memo: dict[int, Any] = {id(theirs): original for original, theirs in self._held}
            world = copy.deepcopy(self._world, memo)
            for original, theirs in self._held:
                for name in theirs.__slots__:
                    setattr(original, name, copy.deepcopy(getattr(theirs, name), memo))
            world.sockets.current = now.sockets.current
            kernel._alive = world
            for sock in tuple(world.sockets.sockets):
                if not sock.descriptors:
                    world.sockets.release(sock)
                elif sock.watchers:
                    kernel._gate.ring(sock)
            kernel._gate.notify()


def _close_all(sock: Sock) -> None:
    for descriptor in tuple(sock.descriptors):
        descriptor.close()
