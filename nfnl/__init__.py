"""nfnl: Linux netfilter over netlink, and a fake kernel to test against.

    import nfnl

    with nfnl.open_queue(0) as queue:          # iptables -A INPUT -p icmp -j NFQUEUE --queue-num 0 --queue-bypass
        for packet in queue:
            packet.accept()

    with nfnl.open_conntrack(follow=True) as table:
        for event in table:
            print(event)

The asyncio door is `nfnl.aio`, the fake kernel `nfnl.sim`, help for your tests `nfnl.testing`.
"""

from nfnl._door import QueueLosses, QueueOptions, QueueStatistics, QueueWarning
from nfnl._handles import QueuedPacket
from nfnl._table import ConntrackOptions, ConntrackWarning
from nfnl.errors import (
    Busy,
    CodecError,
    DecodeError,
    DumpInterruptedError,
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
from nfnl.session.conntrack import ConntrackSession
from nfnl.session.eventfilter import EventFilter
from nfnl.session.events import (
    Acked,
    Answered,
    DumpDone,
    DumpInterrupted,
    Event,
    EventsLost,
    ExpectationDestroyed,
    ExpectationNew,
    FlowDestroyed,
    FlowNew,
    FlowUpdated,
    ForeignDatagram,
    Overrun,
    PacketQueued,
    PacketsLost,
    Refused,
    Resynced,
    Undecodable,
)
from nfnl.session.flowspec import FlowFilter, nat_to, tuple_of
from nfnl.session.mirror import FlowMirror, MirrorSession
from nfnl.session.queue import QueueSession
from nfnl.subsys.conntrack import DestroyedFlow, Flow, Protocol, Status, TcpState, Tuple
from nfnl.subsys.expect import Expectation
from nfnl.subsys.queue import Config, CopyMode, Packet, QueueFlag, SkbInfo, VerdictBatch, VerdictMessage
from nfnl.sync import FlowTable, Queue, open_conntrack, open_queue
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
    "Answered",
    "Busy",
    "CodecError",
    "Config",
    "ConntrackOptions",
    "ConntrackSession",
    "ConntrackWarning",
    "CopyMode",
    "DecodeError",
    "DestroyedFlow",
    "Direction",
    "DumpDone",
    "DumpInterrupted",
    "DumpInterruptedError",
    "EncodeError",
    "Event",
    "EventFilter",
    "EventsLost",
    "Exists",
    "Expectation",
    "ExpectationDestroyed",
    "ExpectationNew",
    "Family",
    "Flow",
    "FlowDestroyed",
    "FlowFilter",
    "FlowMirror",
    "FlowNew",
    "FlowTable",
    "FlowUpdated",
    "ForeignDatagram",
    "Generic",
    "Hook",
    "Kernel",
    "LinuxKernel",
    "LocalProtocolError",
    "Malformed",
    "MirrorSession",
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
    "Protocol",
    "Queue",
    "QueueFlag",
    "QueueLosses",
    "QueueOptions",
    "QueueSession",
    "QueueStatistics",
    "QueueWarning",
    "QueuedPacket",
    "Refused",
    "RemoteProtocolError",
    "Resynced",
    "SkbInfo",
    "SocketOptions",
    "Status",
    "TcpState",
    "Transport",
    "TransportClosed",
    "Tuple",
    "Undecodable",
    "Verdict",
    "VerdictBatch",
    "VerdictMessage",
    "decode",
    "encode",
    "nat_to",
    "open_conntrack",
    "open_queue",
    "tuple_of",
]
