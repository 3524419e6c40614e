"""Record what crosses the seam, for Wireshark: a kernel around any kernel, that writes a capture file as of an ``nlmon`` device.

    with open("netlink.pcap", "wb") as file:
        kernel = PcapKernel(nfnl.LinuxKernel(), file, epoch=time.time() - time.monotonic())
        with nfnl.open_queue(1, kernel=kernel) as queue: ...

The file is a pcap with microseconds and LINKTYPE_NETLINK (253), in this machine's byte order, as netlink itself. Wireshark,
``tshark``, ``tcpdump -r`` and ``nfnl decode`` read it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.wrap import WrappedKernel, WrappedTransport
from nfnl.wire.constants import NETLINK_NETFILTER

LINKTYPE_NETLINK = 253
#: bytes of a datagram that are kept; readers refuse longer records
SNAPLEN = 262_144
#: packet types of struct sockaddr_ll. ``nlmon`` itself has lost the direction: the kernel calls all that passes a tap on its way
#: out of a device outgoing (dev_queue_xmit_nit in net/core/dev.c).
PACKET_HOST, PACKET_OUTGOING = 0, 4
_ARPHRD_NETLINK = 824


class BinaryFile(Protocol):
    """What a capture is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of these bytes."""


class PcapKernel(WrappedKernel):
    """A kernel whose sockets' datagrams are written to a capture file. It is the kernel inside in everything else of the seam.

    ``epoch`` is the time, in seconds since 1970, at which the kernel's clock (`Transport.now`) showed 0; left at 0, a fake kernel's
    capture begins in 1970, and is the same each time it is made. ``file`` is not flushed: open it unbuffered to have it read while
    it grows.
    """

    def __init__(self, kernel: Kernel, file: BinaryFile, *, epoch: float = 0.0) -> None:
        super().__init__(kernel)
        self._file = file
        self._epoch = epoch
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, LINKTYPE_NETLINK))

    def wrap(self, transport: Transport, options: SocketOptions) -> PcapTransport:
        """The transport, recorded."""
        return PcapTransport(transport, self._record)

    def _record(self, now: float, packet_type: int, datagram: bytes) -> None:
        seconds, microseconds = divmod(round((self._epoch + now) * 1_000_000), 1_000_000)
        cooked = struct.pack("!HHH8xH", packet_type, _ARPHRD_NETLINK, 0, NETLINK_NETFILTER) + datagram
        kept = cooked[:SNAPLEN]
        self._file.write(struct.pack("=IIII", seconds, microseconds, len(kept), len(cooked)) + kept)


class PcapTransport(WrappedTransport):
    """A transport that has its datagrams recorded: those that were sent, and those that were received, when they were."""

    def __init__(self, transport: Transport, record: Callable[[float, int, bytes], None]) -> None:
        super().__init__(transport)
        self._record = record

    def send(self, datagram: bytes) -> None:
        now = self._transport.now()
        self._transport.send(datagram)
        self._record(now, PACKET_OUTGOING, bytes(datagram))

    def receive(self) -> list[bytes]:
        datagrams = self._transport.receive()
        if datagrams:
            now = self._transport.now()
            for datagram in datagrams:
                self._record(now, PACKET_HOST, datagram)
        return datagrams
