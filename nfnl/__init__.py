"""nfnl: Linux netfilter over netlink, and a fake kernel to test against.

    import nfnl

    with nfnl.open_queue(0) as queue:          # iptables -A INPUT -p icmp -j NFQUEUE --queue-num 0 --queue-bypass
        for packet in queue:
            packet.accept()

The asyncio door is `nfnl.aio`, the fake kernel `nfnl.sim`, help for your tests `nfnl.testing`.
"""

from nfnl._door import QueueLosses, QueueOptions, QueueWarning
from nfnl._handles import QueuedPacket
from nfnl.errors import (
    Busy,
    CodecError,
    DecodeError,
    EncodeError,
    Exists,
    LocalProtocolError,
    NetlinkError,
    NfnlError,
    NotFound,
    NotPermitted,
    OverrunError,
    PacketError,
    RemoteProtocolError,
    TransportClosed,
)
from nfnl.session.events import (
    Acked,
    Event,
    ForeignDatagram,
    Overrun,
    PacketQueued,
    PacketsLost,
    Refused,
    Undecodable,
)
from nfnl.session.queue import QueueSession
from nfnl.subsys.queue import Config, CopyMode, Packet, QueueFlag, SkbInfo, VerdictBatch, VerdictMessage
from nfnl.sync import Queue, open_queue
from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.linux import LinuxKernel
from nfnl.wire.codec import decode, encode
from nfnl.wire.constants import Family, Hook, Verdict
from nfnl.wire.control import Ack, Generic, Malformed
from nfnl.wire.declare import Direction

__version__ = "0.1.0"

__all__ = [
    "Ack",
    "Acked",
    "Busy",
    "CodecError",
    "Config",
    "CopyMode",
    "DecodeError",
    "Direction",
    "EncodeError",
    "Event",
    "Exists",
    "Family",
    "ForeignDatagram",
    "Generic",
    "Hook",
    "Kernel",
    "LinuxKernel",
    "LocalProtocolError",
    "Malformed",
    "NetlinkError",
    "NfnlError",
    "NotFound",
    "NotPermitted",
    "Overrun",
    "OverrunError",
    "Packet",
    "PacketError",
    "PacketQueued",
    "PacketsLost",
    "Queue",
    "QueueFlag",
    "QueueLosses",
    "QueueOptions",
    "QueueSession",
    "QueueWarning",
    "QueuedPacket",
    "Refused",
    "RemoteProtocolError",
    "SkbInfo",
    "SocketOptions",
    "Transport",
    "TransportClosed",
    "Undecodable",
    "Verdict",
    "VerdictBatch",
    "VerdictMessage",
    "decode",
    "encode",
    "open_queue",
]
