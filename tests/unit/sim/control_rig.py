"""The control plane alone, for its unit tests: sockets, nfnetlink and queues over hooks that send every packet to a queue."""

from __future__ import annotations

from nfnl.sim.af_netlink import MSG_DONTWAIT, SOCK_RAW, Capability, Process, SocketTable
from nfnl.sim.clock import Clock
from nfnl.sim.gate import Gate
from nfnl.sim.hooks import HOOK_NAMES, QUEUE, HookTable
from nfnl.sim.journey import Fate, Journey
from nfnl.sim.nfnetlink import Nfnetlink
from nfnl.sim.profile import Profile
from nfnl.sim.queue import QueueSubsystem
from nfnl.sim.queueing import QueueTable
from nfnl.sim.skb import IPV4, IPV6, Checksum, Device, Owner, Skb
from nfnl.sim.socket import FakeSocket
from nfnl.subsys.queue import Command, Config, ConfigCommand, CopyMode, Packet, Params, SkbInfo, VerdictHeader, VerdictMessage
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.control import Ack

REQUEST_ACK = NlmsgFlag.REQUEST | NlmsgFlag.ACK
ROOT = Process(4242, 0, 0, (Capability.NET_ADMIN, Capability.NET_BROADCAST))
NOBODY = Process(4343, 65534, 65534, ())


class Rig:
    """A control plane, and what it does to packets."""

    def __init__(self, profile: Profile = Profile()) -> None:
        self.gate = Gate("raise")
        self.clock = Clock()
        self.hooks = HookTable()
        self.queues = QueueTable(self.hooks, entry_limit=profile.entry_limit)
        self.sockets = SocketTable(self.gate, self.clock, profile, ROOT, {})
        self.nfnetlink = Nfnetlink(self.sockets, profile)
        QueueSubsystem(self.nfnetlink, self.sockets, self.queues, profile)
        #: the queue that packets are sent to
        self.target = 0
        self.hooks.okfn = [_deliver] * len(HOOK_NAMES)
        self.hooks.reroute = lambda skb: 0
        for family in (IPV4, IPV6):
            for hook in range(len(HOOK_NAMES)):
                self.hooks.register(family, hook, 0, "queue", lambda skb, hook: self.target << 16 | QUEUE)

    def socket(self) -> FakeSocket:
        return FakeSocket(self.sockets.create(SOCK_RAW))

    def client(self, port: int = 0) -> Client:
        return Client(self, port)

    def inject(self, skb: Skb, hook: int, queue: int = 0) -> Journey:
        """Have a packet meet the queue at a hook."""
        self.target = queue
        self.hooks.run(skb, hook)
        return skb.journey


def _deliver(skb: Skb) -> int:
    skb.end(Fate.DELIVERED)
    return 0


class Client:
    """A bound socket, and somebody who speaks through it."""

    def __init__(self, rig: Rig, port: int = 0) -> None:
        self.socket = rig.socket()
        self.socket.bind((port, 0))
        self.port = self.socket.getsockname()[0]

    def hear(self) -> list[bytes]:
        """All that is there."""
        heard = []
        while self.socket.readable:
            heard.append(self.socket.recv(1 << 18, MSG_DONTWAIT))
        return heard

    def ask(self, datagram: bytes) -> list[bytes]:
        """Send to the kernel; all that is there afterwards."""
        self.socket.sendto(datagram, (0, 0))
        return self.hear()

    def errors(self, datagram: bytes) -> list[int]:
        """The errnos of the acknowledgements that answer a datagram."""
        found = []
        for answer in self.ask(datagram):
            [message] = decode(answer)
            assert isinstance(message, Ack)
            found.append(message.error)
        return found

    def bind(self, number: int, *, mode: CopyMode = CopyMode.PACKET, copy_range: int = 0xFFFF, **fields: object) -> None:
        """Bind a queue and set its mode."""
        command = Command(ConfigCommand.BIND)
        config = Config(
            res_id=number,
            nlmsg_flags=REQUEST_ACK,
            command=command,
            params=Params(copy_range, mode),
            **fields,  # type: ignore[arg-type]
        )
        assert self.errors(bytes(config)) == [0]

    def packets(self) -> list[Packet]:
        """The packet messages that are there."""
        packets = []
        for datagram in self.hear():
            [message] = decode(datagram)
            assert isinstance(message, Packet), message
            packets.append(message)
        return packets


def verdict(queue: int, packet_id: int, word: int, *, flags: int = REQUEST_ACK, **fields: object) -> bytes:
    """NFQNL_MSG_VERDICT."""
    return bytes(
        VerdictMessage(
            res_id=queue,
            nlmsg_flags=flags,
            header=VerdictHeader(word, packet_id),
            **fields,  # type: ignore[arg-type]
        )
    )


def skb(data: bytes = b"E" + bytes(39), family: int = IPV4) -> Skb:
    """A packet."""
    made = Skb(data, family, Journey(data))
    made.csum = Checksum.UNNECESSARY
    return made


def skb_of(message: Packet) -> Skb:
    """The packet that a message of the kernel's was about, as far as the message tells."""
    payload = message.payload or bytes(40)
    whole = payload.ljust(message.cap_len or 0, b"\0")
    made = Skb(whole, message.nfgen_family, Journey(whole), message.mark or 0, message.priority or 0)
    made.transport = min(20, len(whole))
    if message.indev is not None:
        made.indev = Device("in", message.indev)
    if message.outdev is not None:
        made.outdev = Device("out", message.outdev)
    if message.hwaddr is not None:
        made.hwaddr = message.hwaddr.address[: message.hwaddr.length]
    if message.timestamp is not None:
        made.tstamp = message.timestamp.seconds + message.timestamp.microseconds / 1_000_000
    if message.uid is not None:
        made.sk = Owner(message.uid, message.gid)
    info = message.skb_info or 0
    if info & SkbInfo.CSUMNOTREADY:
        made.csum = Checksum.PARTIAL
    elif not info & SkbInfo.CSUM_NOTVERIFIED:
        made.csum = Checksum.UNNECESSARY
    return made
