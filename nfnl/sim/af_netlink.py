"""NETLINK_NETFILTER sockets as the kernel has them: ports, groups, receive buffers, overruns (net/netlink/af_netlink.c).

Numbers of constants are Linux's, wherever this runs.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection
from enum import IntEnum
from typing import TYPE_CHECKING

from nfnl.sim import bpf
from nfnl.sim.clock import Clock
from nfnl.sim.errnos import Errno
from nfnl.sim.gate import Gate, Outside
from nfnl.sim.profile import Profile
from nfnl.wire.constants import NETLINK_NETFILTER, SOL_NETLINK, SocketOption

if TYPE_CHECKING:
    from nfnl.sim.dump import Dump
    from nfnl.sim.socket import FakeSocket

NOT_MODELLED = {
    "other protocols than NETLINK_NETFILTER": "socket() raises EPROTONOSUPPORT, as for a protocol that is not registered",
    "user namespaces": "a capability counts everywhere; there is no process that is almighty in its own namespace only",
    "other network namespaces": "each FakeKernel is one; LISTEN_ALL_NSID can be set, and changes nothing",
    "other options at SOL_SOCKET": "ENOPROTOOPT, as for an unknown option",
    "ancillary BPF loads but NLATTR, NLATTR_NEST and ALU_XOR_X": "EINVAL, as for an unknown one",
    "control messages in sendmsg": "EINVAL",
    "random port ids": "drawn from a fixed sequence",
}

#: port id, mask of groups
Address = tuple[int, int]
#: a control message: level, type, data
Control = tuple[int, int, bytes]

AF_NETLINK = 16
SOCK_DGRAM, SOCK_RAW = 2, 3
SOL_SOCKET = 1
MSG_OOB, MSG_PEEK, MSG_CTRUNC, MSG_TRUNC, MSG_DONTWAIT = 0x01, 0x02, 0x08, 0x20, 0x40
POLLIN, POLLOUT, POLLERR = 0x01, 0x04, 0x08
SCM_CREDENTIALS = 2

#: asm-generic/socket.h
SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_PASSCRED = 3, 4, 7, 8, 16
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 26, 27, 32, 33
SO_PROTOCOL, SO_DOMAIN, SO_MEMINFO = 38, 39, 55

#: groups there are room for; 1 to 9 are used
GROUPS = 32
#: parts of dumps do not become larger, whatever they are received into (SKB_WITH_OVERHEAD(32768))
MOST_READ = 32448
#: SOCK_MIN_RCVBUF and SOCK_MIN_SNDBUF
_MIN_RCVBUF, _MIN_SNDBUF = 2304, 4608
#: where the kernel looks for a free port when the process id is taken: downwards from somewhere in here
_PORTS = range(0x80000000, 0xFFFFF000)

_PKTINFO = int(SocketOption.PKTINFO)
_NO_ENOBUFS = int(SocketOption.NO_ENOBUFS)
_BROADCAST_ERROR = int(SocketOption.BROADCAST_ERROR)
_LISTEN_ALL_NSID = int(SocketOption.LISTEN_ALL_NSID)
_SWITCHES = frozenset(
    int(option)
    for option in SocketOption
    if option not in (SocketOption.ADD_MEMBERSHIP, SocketOption.DROP_MEMBERSHIP, SocketOption.LIST_MEMBERSHIPS)
)

_int = struct.Struct("=i")
_u32 = struct.Struct("=I")
_credentials = struct.Struct("=iII")


class Capability(IntEnum):
    """``CAP_*`` that netlink and raw sockets ask for (include/uapi/linux/capability.h)."""

    NET_BROADCAST = 11
    NET_ADMIN = 12
    NET_RAW = 13


class Process:
    """Whoever makes a call. ``capabilities`` are numbers (`Capability` and others), effective in every namespace there is."""

    __slots__ = ("capabilities", "gid", "pid", "uid")

    def __init__(self, pid: int, uid: int, gid: int, capabilities: Collection[int]) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.capabilities = frozenset(capabilities)

    def __deepcopy__(self, memo: object) -> Process:
        return self  # never changed


#: A datagram in a receive queue: its bytes, what it is charged with, the sender's port, the group it was sent to (or 0), and
#: the process that sent it (None: the kernel).
Waiting = tuple[bytes, int, int, int, Process | None]


class Sock:
    """A socket as the kernel knows it (`struct netlink_sock`). Descriptors of it are `FakeSocket`."""

    __slots__ = (
        "bound",
        "charged",
        "congested",
        "connected",
        "descriptors",
        "drops",
        "dump",
        "error",
        "filter",
        "groups",
        "groups_known",
        "inode",
        "largest_read",
        "opener",
        "options",
        "passcred",
        "peer_group",
        "peer_port",
        "port",
        "queue",
        "rcvbuf",
        "sndbuf",
        "table",
        "type",
        "watchers",
    )

    def __init__(self, table: SocketTable, type: int, inode: int) -> None:  # noqa: A002
        self.table = table
        self.type = type
        self.inode = inode
        self.opener = table.current
        #: open descriptors of it
        self.descriptors: Outside[FakeSocket] = Outside()
        self.bound = False
        self.port = 0
        #: mask of the multicast groups it has joined
        self.groups = 0
        #: a list of groups was allocated, which LIST_MEMBERSHIPS shows
        self.groups_known = False
        self.connected = False
        self.peer_port = 0
        self.peer_group = 0
        self.rcvbuf = table.sysctls["net.core.rmem_default"]
        self.sndbuf = table.sysctls["net.core.wmem_default"]
        #: the truesizes of what is in the queue
        self.charged = 0
        self.drops = 0
        #: to be told by the next receive call (``sk_err``)
        self.error: Errno | None = None
        #: after an overrun nothing is taken any more until the queue has been read empty
        self.congested = False
        self.queue: deque[Waiting] = deque()
        #: NETLINK_* switches that are on
        self.options: set[int] = set()
        self.passcred = False
        self.filter: bpf.Program | None = None
        #: the dump that is under way
        self.dump: Dump | None = None
        #: size of the largest buffer that something was received into, up to `MOST_READ`
        self.largest_read = 0
        #: functions to call when it has become readable
        self.watchers: Outside[Callable[[], None]] = Outside()

    @property
    def readable(self) -> bool:
        """A receive call would not wait."""
        return bool(self.queue) or self.error is not None

    # ------------------------------------------------------------------------------------------------------- what arrives

    def filtered(self, data: bytes) -> bytes:
        """What the socket's filter leaves of a datagram; b"" rejects it (`sk_filter`)."""
        return data if self.filter is None else data[: bpf.run(self.filter, data)]

    def admit(self, data: bytes, truesize: int, port: int = 0, group: int = 0, sender: Process | None = None) -> bool:
        """Put a datagram into the queue, if there is room (`netlink_attachskb`)."""
        if self.congested or not self.has_room(truesize):
            return False
        self.append(data, truesize, port, group, sender)
        return True

    def has_room(self, truesize: int) -> bool:
        """The receive buffer would take that much more."""
        charged = self.charged
        if self.table.profile.strict_admission:
            return not charged or charged + truesize <= self.rcvbuf
        return charged <= self.rcvbuf

    def append(self, data: bytes, truesize: int, port: int = 0, group: int = 0, sender: Process | None = None) -> None:
        """Put a datagram into the queue, whether there is room or not (`netlink_sendskb`)."""
        self.queue.append((data, truesize, port, group, sender))
        self.charged += truesize
        self._ring()

    def overrun(self) -> None:
        """A datagram was lost (`netlink_overrun`)."""
        self.drops += 1
        if not self.congested and _NO_ENOBUFS not in self.options:
            self.congested = True
            self.error = Errno.ENOBUFS
            self._ring()

    def _ring(self) -> None:
        gate = self.table.gate
        if self.watchers:
            gate.ring(self)
        gate.notify()

    # ----------------------------------------------------------------------------------------------------- what is received

    def receive(self, room: int, peek: bool = False) -> Waiting | None:
        """The next datagram, or None where there is none. Raises OSError for a pending error, which goes before all data.

        ``room`` is the size of the buffer it is to be put into; it is up to the caller to cut it. A dump that is under way
        goes on.
        """
        if self.error is not None:
            raise self.take_error()
        queue = self.queue
        if not queue:
            self.congested = False
            return None
        self.largest_read = min(max(self.largest_read, room), MOST_READ)
        if peek:
            waiting = queue[0]
        else:
            waiting = queue.popleft()
            self.charged -= waiting[1]
        if self.dump is not None and self.charged <= self.rcvbuf // 2:
            self.error = self.dump.proceed()
        self._emptied()
        return waiting

    def receive_many(self, room: int, limit: int) -> list[Waiting]:
        """Up to ``limit`` datagrams, each into a buffer of its own (recvmmsg). Raises OSError for a pending error."""
        if self.error is not None:
            raise self.take_error()
        queue = self.queue
        if self.dump is None and len(queue) <= limit:
            self.largest_read = min(max(self.largest_read, room if queue else 0), MOST_READ)
            many = list(queue)
            queue.clear()
            self.charged = 0
            self._emptied()
            return many
        many = []
        while len(many) < limit and self.error is None and (waiting := self.receive(room)) is not None:
            many.append(waiting)
        return many

    def take_error(self) -> OSError:
        """The pending error, which is forgotten by this."""
        error = self.error
        assert error is not None
        self.error = None
        self._emptied()
        return error.error()

    def _emptied(self) -> None:
        """`netlink_rcv_wake`."""
        if not self.queue:
            self.congested = False
        self.table.gate.notify()

    # ------------------------------------------------------------------------------------------------------------ addresses

    def bind(self, port: int, groups: int) -> None:
        """`netlink_bind`."""
        if groups:
            self._need_admin()
            self.groups_known = True
        if self.bound:
            if port != self.port:
                raise Errno.EINVAL.error()
        elif port:
            self.table.insert(self, port)
        else:
            self.table.autobind(self)
        self.groups = groups

    def connect(self, port: int, groups: int) -> None:
        """`netlink_connect`."""
        if port or groups:
            self._need_admin()
        if not self.bound:
            self.table.autobind(self)
        self.connected = True
        self.peer_port = port
        self.peer_group = _lowest(groups)

    def _need_admin(self) -> None:
        """`netlink_allowed`."""
        if Capability.NET_ADMIN not in self.table.current.capabilities:
            raise Errno.EPERM.error()

    # -------------------------------------------------------------------------------------------------------------- sending

    def send(self, data: bytes, address: Address | None = None, flags: int = 0) -> Callable[[], int | None]:
        """The first half of `netlink_sendmsg`: what can be refused is refused, and group members have got their copies.

        Returns the second half, the delivery to one port: it gives the number of bytes, or None while the receiver has no room.
        """
        table = self.table
        if flags & MSG_OOB:
            raise Errno.EOPNOTSUPP.error()
        if not data:
            raise Errno.ENODATA.error()
        if address is None:
            port, group = self.peer_port, self.peer_group
        else:
            port, group = address[0], _lowest(address[1])
            if port or group:
                self._need_admin()
        if not self.bound:
            table.autobind(self)
        if len(data) > self.sndbuf - 32:
            raise Errno.EMSGSIZE.error()
        if group:
            table.multicast(data, group, table.profile.user_truesize(len(data), multicast=True), sender=self, but=port)
        return lambda: self._unicast(data, port, group, address is not None)

    def _unicast(self, data: bytes, port: int, group: int, addressed: bool) -> int | None:
        """`netlink_unicast`."""
        table = self.table
        if port == 0:
            table.input(self, data, addressed)
            return len(data)
        receiver = table.ports.get(port)
        if receiver is None or (receiver.connected and receiver.peer_port != self.port):
            raise Errno.ECONNREFUSED.error()
        kept = receiver.filtered(data)
        truesize = table.profile.user_truesize(len(data), multicast=bool(group))
        if kept and not receiver.admit(kept, truesize, self.port, group, table.current):
            return None
        return len(data)

    # -------------------------------------------------------------------------------------------------------------- options

    def set_option(self, level: int, option: int, value: int) -> None:
        """setsockopt(2) for what is a number."""
        if level == SOL_NETLINK:
            self._set_netlink(option, value & 0xFFFFFFFF)
        elif level == SOL_SOCKET:
            self._set_socket(option, value)
        else:
            raise Errno.ENOPROTOOPT.error()

    def _set_netlink(self, option: int, value: int) -> None:
        if option in (SocketOption.ADD_MEMBERSHIP, SocketOption.DROP_MEMBERSHIP):
            self._need_admin()
            self.groups_known = True
            if not 0 < value <= GROUPS:
                raise Errno.EINVAL.error()
            bit = 1 << (value - 1)
            self.groups = self.groups | bit if option == SocketOption.ADD_MEMBERSHIP else self.groups & ~bit
        elif option in _SWITCHES:
            if option == _LISTEN_ALL_NSID and Capability.NET_BROADCAST not in self.table.current.capabilities:
                raise Errno.EPERM.error()
            if not value:
                self.options.discard(option)
                return
            self.options.add(option)
            if option == _NO_ENOBUFS:
                self.congested = False
        else:
            raise Errno.ENOPROTOOPT.error()

    def _set_socket(self, option: int, value: int) -> None:
        sysctls = self.table.sysctls
        if option in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
            self._need_admin()
            size = max(value, 0)
        else:
            size = value & 0xFFFFFFFF  # a negative size is a very large one
        if option in (SO_RCVBUF, SO_RCVBUFFORCE):
            limit = sysctls["net.core.rmem_max"] if option == SO_RCVBUF else 0x3FFFFFFF
            self.rcvbuf = max(2 * min(size, limit, 0x3FFFFFFF), _MIN_RCVBUF)
        elif option in (SO_SNDBUF, SO_SNDBUFFORCE):
            limit = sysctls["net.core.wmem_max"] if option == SO_SNDBUF else 0x3FFFFFFF
            self.sndbuf = max(2 * min(size, limit, 0x3FFFFFFF), _MIN_SNDBUF)
        elif option == SO_PASSCRED:
            self.passcred = bool(value)
        elif option == SO_DETACH_FILTER:
            if self.filter is None:
                raise Errno.ENOENT.error()
            self.filter = None
        else:
            raise Errno.ENOPROTOOPT.error()

    def get_option(self, level: int, option: int, room: int) -> bytes:
        """getsockopt(2): the bytes that come back into a buffer of ``room`` bytes."""
        if level == SOL_NETLINK:
            if option == SocketOption.LIST_MEMBERSHIPS:
                # the length tells what would be needed, whatever was written
                return _u32.pack(self.groups if room >= 4 else 0) if self.groups_known else b""
            hidden = option == _LISTEN_ALL_NSID and not self.table.profile.listen_all_nsid_readable
            if option not in _SWITCHES or hidden:
                raise Errno.ENOPROTOOPT.error()
            if room < 4:
                raise Errno.EINVAL.error()
            return _int.pack(option in self.options)
        if level == SOL_SOCKET:
            return self._get_socket(option)[:room]
        raise Errno.ENOPROTOOPT.error()

    def _get_socket(self, option: int) -> bytes:
        if option == SO_MEMINFO:
            return struct.pack("=9I", self.charged, self.rcvbuf, 0, self.sndbuf, 0, 0, 0, 0, self.drops)
        if option == SO_ERROR:
            error, self.error = self.error, None
            return _int.pack(error or 0)
        plain = {
            SO_TYPE: self.type,
            SO_DOMAIN: AF_NETLINK,
            SO_PROTOCOL: NETLINK_NETFILTER,
            SO_RCVBUF: self.rcvbuf,
            SO_SNDBUF: self.sndbuf,
            SO_PASSCRED: self.passcred,
        }
        if option not in plain:
            raise Errno.ENOPROTOOPT.error()
        return _int.pack(plain[option])

    def __repr__(self) -> str:
        return f"<Sock {self.port}, {len(self.queue)} waiting>"


def _lowest(groups: int) -> int:
    """The group of the lowest bit set; 0 where none is."""
    return (groups & -groups).bit_length()


def group_mask(group: int) -> int:
    """The bit of a group; 0 for none."""
    return 1 << (group - 1) if group else 0


def control_messages(sock: Sock, waiting: Waiting, room: int) -> tuple[list[Control], int]:
    """The control messages of a datagram that fit, and MSG_CTRUNC if not all do (`put_cmsg`)."""
    _, _, _, group, sender = waiting
    wanted: list[Control] = []
    if _PKTINFO in sock.options:
        wanted.append((SOL_NETLINK, _PKTINFO, _u32.pack(group)))
    if sock.passcred:
        ids = (sender.pid, sender.uid, sender.gid) if sender else (0, 0, 0)
        wanted.append((SOL_SOCKET, SCM_CREDENTIALS, _credentials.pack(*ids)))
    control: list[Control] = []
    flags = 0
    for level, type_, data in wanted:
        fitting = min(room, 16 + len(data))
        if fitting < 16 + len(data):
            flags = MSG_CTRUNC
        if fitting >= 16:
            control.append((level, type_, data[: fitting - 16]))
            room -= min(room, (16 + len(data) + 7) & ~7)
    return control, flags


class SocketTable:
    """All NETLINK_NETFILTER sockets of one network namespace (`nl_table`)."""

    __slots__ = ("_draw", "_inode", "clock", "current", "gate", "input", "ports", "profile", "released", "sockets", "sysctls")

    def __init__(self, gate: Gate, clock: Clock, profile: Profile, process: Process, sysctls: dict[str, int]) -> None:
        self.gate = gate
        self.clock = clock
        self.profile = profile
        #: the process that makes the calls
        self.current = process
        self.sysctls = sysctls
        for name, size in (("rmem", profile.rmem_max), ("wmem", profile.wmem_max)):
            sysctls[f"net.core.{name}_max"] = size
            sysctls[f"net.core.{name}_default"] = 212992
        #: all that are open, bound or not
        self.sockets: list[Sock] = []
        #: those that are bound, by port
        self.ports: dict[int, Sock] = {}
        #: what the kernel does with a datagram: (socket it came from, bytes, whether the sender named an address)
        self.input: Callable[[Sock, bytes, bool], None] = _nobody_listens
        #: called with the port of each bound socket that goes away
        self.released: list[Callable[[int], None]] = []
        self._draw = 0
        self._inode = 1

    def create(self, type: int) -> Sock:  # noqa: A002
        """A new socket, opened by the current process."""
        self._inode += 1
        sock = Sock(self, type, self._inode)
        self.sockets.append(sock)
        return sock

    def insert(self, sock: Sock, port: int) -> None:
        """Give a socket its port. Raises OSError (EADDRINUSE)."""
        sock.port = port  # even if it is refused: getsockname shows it from now on (`netlink_insert`)
        if port in self.ports:
            raise Errno.EADDRINUSE.error()
        self.ports[port] = sock
        sock.bound = True

    def autobind(self, sock: Sock) -> None:
        """Give it the number of the process or, if that is taken, the next free one below a number drawn in the upper half."""
        port = self.current.pid
        if port in self.ports:
            # the kernel draws at random; here each draw follows from the one before
            self._draw = (self._draw * 1103515245 + 12345) & 0x7FFFFFFF
            port = _PORTS[self._draw % len(_PORTS)]
            while port in self.ports:
                port = port - 1 if port > _PORTS.start else _PORTS[-1]
        self.insert(sock, port)

    def release(self, sock: Sock) -> None:
        """The last descriptor of a socket was closed (`netlink_release`)."""
        self.sockets.remove(sock)
        sock.queue.clear()
        sock.charged = 0
        sock.dump = None
        if sock.bound:
            del self.ports[sock.port]
            for callback in self.released:
                callback(sock.port)

    def unicast(self, port: int, data: bytes, truesize: int) -> bool:
        """The kernel sends a datagram to a port (`nfnetlink_unicast`). False: nobody is there for it, or there was no room."""
        sock = self.ports.get(port)
        if sock is None or (sock.connected and sock.peer_port):
            return False
        if sock.filter is not None:
            data = sock.filtered(data)
            if not data:
                return True  # the sender never learns
        if sock.admit(data, truesize):
            return True
        sock.overrun()
        return False

    def listeners(self, groups: int) -> bool:
        """Somebody is a member of one of these groups, given as a mask (`nfnetlink_has_listeners`)."""
        return any(sock.groups & groups for sock in self.sockets)

    def multicast(self, data: bytes, group: int, truesize: int, *, sender: Sock | None = None, but: int = 0) -> bool:
        """Send to the members of a group, but not to the sender, nor to port ``but`` (`netlink_broadcast`).

        False: somebody has missed it who wants that known (BROADCAST_ERROR).
        """
        port, process = (sender.port, self.current) if sender else (0, None)
        received = True
        for sock in self.sockets:
            if not sock.groups >> (group - 1) & 1 or sock is sender or sock.port == but:
                continue
            kept = sock.filtered(data)
            if kept and not sock.admit(kept, truesize, port, group, process):
                sock.overrun()
                received = received and _BROADCAST_ERROR not in sock.options
        return received

    def proc(self) -> str:
        """``/proc/net/netlink``. Addresses of sockets are hidden, as they are from the unprivileged."""
        lines = ["sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"]
        rows = [(0, 0, 0, False, 0, 1)]  # the kernel's own
        rows += [
            (sock.port, sock.groups, sock.charged, sock.dump is not None, sock.drops, sock.inode) for sock in self.ports.values()
        ]
        for port, groups, charged, dumping, drops, inode in rows:
            lines.append(
                f"{0:016x} {NETLINK_NETFILTER:<3d} {port:<10d} {groups:08x} {charged:<8d} {0:<8d} {dumping:<5d} {2:<8d} "
                f"{drops:<8d} {inode:<8d}\n"
            )
        return "".join(lines)


def _nobody_listens(sock: Sock, data: bytes, addressed: bool) -> None:
    raise Errno.ECONNREFUSED.error()
