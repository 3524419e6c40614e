"""See what crosses the seam: a kernel around any kernel, that writes a readable line for everything said.

    with nfnl.open_queue(1, kernel=TraceKernel(nfnl.LinuxKernel(), print)) as queue: ...

    0.000000 4242 -> Config queue 1 BIND, PACKET 65531 seq 1
    0.000000 4242 <- Ack of Config seq 1
    0.000000 4242 <- Packet queue 1 id 1 OUTPUT, outdev 1, payload 84 bytes

Each line has the time on the kernel's clock, the socket's port id, an arrow, and what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import nfnl.subsys.queue  # noqa: F401 -- declares the messages to be named
from nfnl.errors import DecodeError, NfnlError, error_name
from nfnl.transport.base import Kernel, SocketOptions, Transport
from nfnl.transport.wrap import WrappedKernel, WrappedTransport
from nfnl.wire.codec import iter_decode
from nfnl.wire.datagram import Datagram, SocketRequest
from nfnl.wire.declare import Direction
from nfnl.wire.describe import summary

#: Takes one line, without its end: ``print``, or the ``write`` of a list, a logger ...
Write = Callable[[str], object]


class TraceKernel(WrappedKernel):
    """A kernel whose sockets tell what goes through them. It is the kernel inside in everything else of the seam."""

    def __init__(self, kernel: Kernel, write: Write) -> None:
        super().__init__(kernel)
        self._write = write

    def wrap(self, transport: Transport, options: SocketOptions) -> TraceTransport:
        """The transport, traced."""
        return TraceTransport(transport, self._write, options)


class TraceTransport(WrappedTransport):
    """A transport that tells what goes through it."""

    def __init__(self, transport: Transport, write: Write, options: SocketOptions = SocketOptions()) -> None:
        super().__init__(transport)
        self._write = write
        self._port_id = transport.port_id
        self._tell("--", f"open, {_options(options)}")

    def _tell(self, arrow: str, what: str) -> None:
        self._write(f"{self._transport.now():.6f} {self._port_id} {arrow} {what}")

    @property
    def port_id(self) -> int:
        return self._port_id

    def send(self, datagram: bytes) -> None:
        for line in _said(datagram, Direction.TO_KERNEL):
            self._tell("->", line)
        try:
            self._transport.send(datagram)
        except (OSError, NfnlError) as error:
            self._tell("->", _failure(error))
            raise

    def receive(self) -> list[bytes]:
        try:
            datagrams = self._transport.receive()
        except (OSError, NfnlError) as error:
            self._tell("<-", _failure(error))
            raise
        for datagram in datagrams:
            for line in _said(datagram, Direction.FROM_KERNEL):
                self._tell("<-", f"{line}{_facts(datagram)}")
        return datagrams

    def apply(self, request: SocketRequest) -> None:
        self._tell("--", str(request))
        try:
            self._transport.apply(request)
        except OSError as error:
            self._tell("--", _failure(error))
            raise

    def close(self) -> None:
        with suppress(NfnlError):  # closed already, it has no time any more
            self._tell("--", "close")
        self._transport.close()


def _options(options: SocketOptions) -> str:
    default = SocketOptions()
    told = [f"{name}={value}" for name in options.__slots__ if (value := getattr(options, name)) != getattr(default, name)]
    return " ".join(told) or "options as usual"


def _said(datagram: bytes, direction: Direction) -> Iterator[str]:
    try:
        for message in iter_decode(bytes(datagram), direction=direction):
            yield summary(message)
    except DecodeError as error:
        yield f"broken framing: {error}"


def _facts(datagram: bytes) -> str:
    if not isinstance(datagram, Datagram):
        return ""
    facts = [
        f"from port {datagram.sender}" if datagram.sender else "",
        f"groups {datagram.groups:#x}" if datagram.groups else "",
        "truncated" if datagram.truncated else "",
    ]
    told = ", ".join(filter(None, facts))
    return f" [{told}]" if told else ""


def _failure(error: Exception) -> str:
    return f"failed: {error_name(error.errno or 0)}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
