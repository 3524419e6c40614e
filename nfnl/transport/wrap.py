"""A kernel around a kernel, and a transport around a transport, that change nothing: what trace and pcap are made from.

Such wrappers stack, in any order, over any kernel. Yours may start here, too: override what you want to see or to spoil.
"""

from __future__ import annotations

from collections.abc import Callable

from nfnl.transport.base import Kernel, SocketOptions, Transport, Wait
from nfnl.wire.datagram import SocketRequest


class WrappedKernel:
    """The kernel inside, in everything. Override `wrap`, which is given each transport that is opened."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wrap(self, transport: Transport, options: SocketOptions) -> Transport:
        """What `open` gives for a transport of the kernel inside, opened with ``options``."""
        return WrappedTransport(transport)

    def open(self, options: SocketOptions = SocketOptions()) -> Transport:
        """Open a socket of the kernel inside, and wrap it. Raises OSError with the kernel's errno."""
        return self.wrap(self._kernel.open(options), options)

    def read_proc(self, name: str) -> str:
        """See `Kernel.read_proc`."""
        return self._kernel.read_proc(name)

    def send_raw(self, packet: bytes) -> None:
        """See `Kernel.send_raw`."""
        self._kernel.send_raw(packet)

    def interface_name(self, index: int) -> str | None:
        """See `Kernel.interface_name`."""
        return self._kernel.interface_name(index)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """See `Kernel.sysctl`."""
        return self._kernel.sysctl(name, value)


class WrappedTransport:
    """The transport inside, in everything. See `nfnl.transport.base.Transport` for what each method promises."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def port_id(self) -> int:
        return self._transport.port_id

    def send(self, datagram: bytes) -> None:
        self._transport.send(datagram)

    def receive(self) -> list[bytes]:
        return self._transport.receive()

    def wait(self, deadline: float | None) -> Wait:
        return self._transport.wait(deadline)

    def wake(self) -> None:
        self._transport.wake()

    def on_readable(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._transport.on_readable(callback)

    def fileno(self) -> int | None:
        return self._transport.fileno()

    def now(self) -> float:
        return self._transport.now()

    def apply(self, request: SocketRequest) -> None:
        self._transport.apply(request)

    @property
    def receive_buffer(self) -> int:
        return self._transport.receive_buffer

    def close(self) -> None:
        self._transport.close()
