"""The fake kernel's side of the seam: `nfnl.transport.base.Transport` over a socket in process."""

from __future__ import annotations

from collections.abc import Callable

from nfnl.errors import OverrunError, TransportClosed
from nfnl.sim.af_netlink import MSG_DONTWAIT, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_RCVBUF, SO_RCVBUFFORCE, SOL_SOCKET, Sock
from nfnl.sim.gate import Gate
from nfnl.sim.socket import FakeSocket
from nfnl.transport.base import SocketOptions, Wait
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from nfnl.wire.datagram import AttachFilter, Datagram, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer, SocketRequest

#: the most datagrams one `receive` hands out, as one recvmmsg(2) of the real kernel's transport
_AT_ONCE = 64
#: into as much room as there, for each
_ROOM = 260 * 1024
_KERNEL = (0, 0)


class FakeTransport:
    """One NETLINK_NETFILTER socket of a fake kernel. See `nfnl.transport.base.Transport` for what each method promises.

    ``resting`` tells whether the tester has asked to be told when nothing can happen (`FakeKernel.until_idle`), ``undecided``
    in words which packets wait for a verdict.
    """

    def __init__(
        self, socket: FakeSocket, options: SocketOptions, resting: Callable[[], bool], undecided: Callable[[], str]
    ) -> None:
        self._socket = socket
        self._gate: Gate = socket.sock.table.gate
        self._resting = resting
        self._undecided = undecided
        self._woken = False
        self._unwatch: list[Callable[[], None]] = []
        if options.receive_buffer is not None:
            self._size_receive_buffer(options.receive_buffer)
        for option, wanted in (
            (SocketOption.NO_ENOBUFS, options.no_enobufs),
            (SocketOption.LISTEN_ALL_NSID, options.listen_all_nsid),
            (SocketOption.EXT_ACK, options.extended_ack),
            (SocketOption.CAP_ACK, options.cap_ack),
        ):
            if wanted:
                socket.setsockopt(SOL_NETLINK, option, 1)
        socket.bind((options.port_id, 0))
        for group in options.groups:
            socket.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, group)

    @property
    def _sock(self) -> Sock:
        sock = self._socket._sock
        if sock is None:
            raise TransportClosed("the transport was closed")
        return sock

    def _check_open(self) -> None:
        _ = self._sock

    @property
    def port_id(self) -> int:
        return self._sock.port

    def send(self, datagram: bytes) -> None:
        with self._gate:
            self._sock.send(datagram, _KERNEL, MSG_DONTWAIT)()

    def receive(self) -> list[bytes]:
        with self._gate:
            sock = self._sock
            if sock.error is not None:  # there is no other than ENOBUFS
                sock.take_error()
                raise OverrunError("the receive buffer was full, and the kernel threw datagrams away")
            return [
                Datagram.make(data, sender=port, groups=1 << group - 1 if group else 0) if port or group else data
                for data, _, port, group, _ in sock.receive_many(_ROOM, _AT_ONCE)
            ]

    def wait(self, deadline: float | None) -> Wait:
        with self._gate:
            while True:
                sock = self._sock
                if self._woken:
                    self._woken = False
                    return Wait.WOKEN
                if sock.readable:
                    return Wait.READABLE
                if deadline is not None and deadline <= self.now():
                    return Wait.DEADLINE
                if self._resting():
                    return Wait.IDLE
                self._gate.wait(lambda: self._why(deadline))

    def _why(self, deadline: float | None) -> str:
        """Who waits for what, for `Idle`."""
        sock = self._sock
        clock = sock.table.clock
        text = f"port {sock.port} waits for a datagram, but nothing is on its way to it and nobody else runs"
        if undecided := self._undecided():
            text += f"; {undecided}"
        due = min((time for time in (deadline, clock.next_due()) if time is not None), default=None)
        if due is not None:
            text += f"; advance({due - clock.now:g}) would let something happen"
        return text + ". Inside 'with kernel.until_idle():' this ends an iteration instead"

    def wake(self) -> None:
        with self._gate:
            self._check_open()
            self._woken = True
            self._gate.notify()

    def on_readable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Called with the kernel's lock held, by whoever causes the datagram, when the machine has come to rest; at once if
        something is there already. It must not wait for other threads.
        """
        with self._gate:
            sock = self._sock
            sock.watchers.append(callback)
            if sock.readable:
                callback()

        def take_back() -> None:
            with self._gate:
                if callback in sock.watchers:
                    sock.watchers.remove(callback)

        self._unwatch.append(take_back)
        return take_back

    def fileno(self) -> int | None:
        return None

    def now(self) -> float:
        return self._sock.table.clock.now

    def apply(self, request: SocketRequest) -> None:
        socket = self._socket
        with self._gate:
            self._check_open()
            match request:
                case JoinGroup(group):
                    socket.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, group)
                case LeaveGroup(group):
                    socket.setsockopt(SOL_NETLINK, SocketOption.DROP_MEMBERSHIP, group)
                case SetReceiveBuffer(size):
                    self._size_receive_buffer(size)
                case SetOption(option, value):
                    socket.setsockopt(SOL_NETLINK, option, int(value))
                case AttachFilter(program) if program:
                    socket.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)
                case AttachFilter():
                    if self._sock.filter is not None:
                        socket.setsockopt(SOL_SOCKET, SO_DETACH_FILTER, 0)

    def _size_receive_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, size)

    @property
    def receive_buffer(self) -> int:
        return self._sock.rcvbuf

    def close(self) -> None:
        with self._gate:
            for take_back in self._unwatch:
                take_back()
            self._socket.close()
