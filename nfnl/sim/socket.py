"""`FakeSocket`: a netlink socket in process with the methods of Python's `socket.socket`.

Numbers of constants are Linux's, wherever this runs. Whatever a call causes has happened when it returns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Self, TypeVar, cast

from nfnl.sim import bpf
from nfnl.sim.af_netlink import (
    AF_NETLINK,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    POLLERR,
    POLLIN,
    POLLOUT,
    SO_ATTACH_FILTER,
    SOL_SOCKET,
    Address,
    Control,
    Sock,
    Waiting,
    control_messages,
    group_mask,
)
from nfnl.sim.errnos import Errno
from nfnl.wire.constants import NETLINK_NETFILTER, SOL_NETLINK
from nfnl.wire.header import NATIVE

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

_instruction = struct.Struct("=HBBI")


class FakeSocket:
    """A netlink socket with the methods of `socket.socket`. Addresses are (port id, mask of groups).

    A call that would wait for what cannot come raises `Idle`; after `settimeout` it raises TimeoutError at once, for nothing
    else can happen in the meantime (virtual time does not move by itself).
    """

    def __init__(self, sock: Sock) -> None:
        self._sock: Sock | None = sock
        self._gate = sock.table.gate
        self._timeout: float | None = None
        sock.descriptors.append(self)

    @property
    def sock(self) -> Sock:
        """What the kernel knows of it. Raises OSError (EBADF) when closed."""
        if self._sock is None:
            raise Errno.EBADF.error()
        return self._sock

    @property
    def family(self) -> int:
        """AF_NETLINK."""
        return AF_NETLINK

    @property
    def type(self) -> int:
        """SOCK_RAW or SOCK_DGRAM."""
        return self.sock.type

    @property
    def proto(self) -> int:
        """NETLINK_NETFILTER."""
        return NETLINK_NETFILTER

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeSocket {'closed' if self._sock is None else self._sock.port}>"

    def close(self) -> None:
        """Close this descriptor. Closing twice is fine."""
        with self._gate:
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.descriptors.remove(self)
                if not sock.descriptors:
                    sock.table.release(sock)
                self._gate.notify()

    def dup(self) -> FakeSocket:
        """Another descriptor of the same socket."""
        with self._gate:
            other = FakeSocket(self.sock)
            other._timeout = self._timeout
            return other

    # ------------------------------------------------------------------------------------------------------------ addresses

    def bind(self, address: Address) -> None:
        """Take a port (0: any) and join groups. Raises OSError: EADDRINUSE, EINVAL for another port than it has, EPERM."""
        with self._gate:
            self.sock.bind(*_numbers(address))

    def getsockname(self) -> Address:
        """Port and groups; (0, 0) before it is bound."""
        with self._gate:
            return self.sock.port, self.sock.groups

    def connect(self, address: Address) -> None:
        """Remember where `send` is to send to, and take unicasts from that port only. Raises OSError (EPERM)."""
        with self._gate:
            self.sock.connect(*_numbers(address))

    def getpeername(self) -> Address:
        """What `connect` remembered, of the groups only the lowest."""
        with self._gate:
            return self.sock.peer_port, group_mask(self.sock.peer_group)

    # ------------------------------------------------------------------------------------------------- what netlink has not

    def listen(self, backlog: int = 0) -> NoReturn:
        """EOPNOTSUPP."""
        raise Errno.EOPNOTSUPP.error()

    def accept(self) -> NoReturn:
        """EOPNOTSUPP."""
        raise Errno.EOPNOTSUPP.error()

    def shutdown(self, how: int) -> NoReturn:
        """EOPNOTSUPP."""
        raise Errno.EOPNOTSUPP.error()

    # -------------------------------------------------------------------------------------------------------------- sending

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send to where it is connected to; by default that is the kernel."""
        return self._send(bytes(data), flags, None)

    def sendto(self, data: Buffer, flags_or_address: int | Address, address: Address | None = None) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``. See `Sock.send` for errors."""
        if isinstance(flags_or_address, int):
            assert address is not None
            return self._send(bytes(data), flags_or_address, _numbers(address))
        return self._send(bytes(data), 0, _numbers(flags_or_address))

    def sendmsg(
        self, buffers: Iterable[Buffer], ancillary: Iterable[Any] = (), flags: int = 0, address: Address | None = None
    ) -> int:
        """Several buffers as one datagram. Control messages are not modelled (EINVAL)."""
        if tuple(ancillary):
            raise Errno.EINVAL.error()
        return self._send(b"".join(bytes(buffer) for buffer in buffers), flags, None if address is None else _numbers(address))

    def _send(self, data: bytes, flags: int, address: Address | None) -> int:
        with self._gate:
            return self._attempt(self.sock.send(data, address, flags), flags, "room in the receiver's buffer")

    # ------------------------------------------------------------------------------------------------------------ receiving

    def recv(self, size: int, flags: int = 0) -> bytes:
        """The next datagram, cut to ``size``; with MSG_TRUNC what is missing up to its true length is zeros (Python: anything)."""
        return self.recvfrom(size, flags)[0]

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Address]:
        """`recv` and the sender's address."""
        data, _, port, group, _ = self._receive(size, flags)
        return data[:size].ljust(len(data) if flags & MSG_TRUNC else 0, b"\0"), (port, group_mask(group))

    def recv_into(self, buffer: Buffer, size: int = 0, flags: int = 0) -> int:
        """Into a buffer; the number of bytes, or with MSG_TRUNC the true length of the datagram."""
        view = memoryview(buffer).cast("B")
        room = size or len(view)
        waiting = self._receive(room, flags)
        copied = waiting[0][:room]
        view[: len(copied)] = copied
        return len(waiting[0]) if flags & MSG_TRUNC else len(copied)

    def recvmsg(self, size: int, ancillary: int = 0, flags: int = 0) -> tuple[bytes, list[Control], int, Address]:
        """(data, control messages that fit into ``ancillary`` bytes, MSG_* flags, sender's address)."""
        with self._gate:
            waiting = self._receive(size, flags)
            sock = self.sock
        data, _, port, group, _ = waiting
        control, facts = control_messages(sock, waiting, ancillary)
        if len(data) > size:
            facts |= MSG_TRUNC
        return data[:size], control, facts, (port, group_mask(group))

    def _receive(self, size: int, flags: int) -> Waiting:
        if flags & MSG_OOB:
            raise Errno.EOPNOTSUPP.error()
        peek = bool(flags & MSG_PEEK)
        with self._gate:
            return self._attempt(lambda: self.sock.receive(size, peek), flags, "a datagram")

    # -------------------------------------------------------------------------------------------------------------- waiting

    def _attempt(self, call: Callable[[], T | None], flags: int, what: str) -> T:
        """The result of a call, waiting as long as it has none."""
        clock = self.sock.table.clock
        deadline = None if self._timeout is None else clock.now + self._timeout
        while (result := call()) is None:
            if flags & MSG_DONTWAIT or self._timeout == 0:
                raise Errno.EAGAIN.error()
            if deadline is not None and (clock.now >= deadline or self._nothing_before(deadline)):
                raise TimeoutError("timed out")
            self._gate.wait(lambda: f"port {self.sock.port} waits for {what}, which nobody is going to provide")
        return result

    def _nothing_before(self, deadline: float) -> bool:
        """Nothing is going to happen before that time."""
        due = self.sock.table.clock.next_due()
        return self._gate.when_idle == "raise" and (due is None or due > deadline)

    def settimeout(self, timeout: float | None) -> None:
        """Seconds of virtual time a call may wait; None: any, 0: none."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """What `settimeout` said."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """Wait as long as it takes, or not at all."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Calls may wait."""
        return self._timeout != 0

    def poll(self) -> int:
        """POLLIN, POLLOUT and POLLERR as poll(2) would report them."""
        with self._gate:
            sock = self.sock
            return POLLOUT | (POLLIN if sock.queue else 0) | (POLLERR if sock.error is not None else 0)

    @property
    def readable(self) -> bool:
        """There is a datagram or an error to receive."""
        with self._gate:
            return self.sock.readable

    # -------------------------------------------------------------------------------------------------------------- options

    def setsockopt(self, level: int, option: int, value: int | Buffer | Sequence[bpf.Instruction]) -> None:
        """Set an option. Raises OSError: ENOPROTOOPT, EINVAL, EPERM.

        Where Linux takes a pointer, for SO_ATTACH_FILTER, this takes the program itself: its instructions as
        ``(code, jt, jf, k)`` or as their bytes (``struct sock_filter``).
        """
        with self._gate:
            sock = self.sock
            if level == SOL_SOCKET and option == SO_ATTACH_FILTER:
                assert not isinstance(value, int)
                sock.filter = bpf.check(_instructions(value))
                return
            if isinstance(value, int):
                number = value
            else:
                data = bytes(cast("Buffer", value))
                if len(data) >= 4:
                    number = int.from_bytes(data[:4], NATIVE.name, signed=True)
                elif level == SOL_NETLINK:
                    number = 0
                else:
                    raise Errno.EINVAL.error()
            sock.set_option(level, option, number)
            self._gate.notify()

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        """An int, or with ``size`` up to as many bytes. Raises OSError (ENOPROTOOPT, EINVAL)."""
        with self._gate:
            data = self.sock.get_option(level, option, size or 4)
        return data if size else int.from_bytes(data, NATIVE.name, signed=True)


def _numbers(address: Address) -> Address:
    port, groups = address
    return port & 0xFFFFFFFF, groups & 0xFFFFFFFF


def _instructions(value: Buffer | Sequence[bpf.Instruction]) -> Sequence[bpf.Instruction]:
    if not isinstance(value, Buffer):
        return value
    data = bytes(value)
    if len(data) % _instruction.size:
        raise Errno.EINVAL.error()
    return cast("list[bpf.Instruction]", list(_instruction.iter_unpack(data)))
