"""From a datagram to its subsystem: permission, dispatch, attribute policies (net/netfilter/nfnetlink.c, lib/nlattr.c)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from nfnl.sim.af_netlink import Capability, Sock, SocketTable
from nfnl.sim.errnos import Errno
from nfnl.sim.netlink import Refusal, Request, acknowledge, walk
from nfnl.sim.profile import Profile
from nfnl.wire.constants import NFGENMSG_LEN, NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN, NlmsgType, SubsystemId, align4
from nfnl.wire.control import Policy
from nfnl.wire.declare import Attr, Message
from nfnl.wire.header import NATIVE

NOT_MODELLED = {
    "subsystems but queue, conntrack and its expectations": (
        "EINVAL, as for one that is not built into the kernel; batches for them: EOPNOTSUPP"
    ),
}

_BODY = NLMSG_HDRLEN + NFGENMSG_LEN
_unpack_attribute = NATIVE.attr.unpack_from
_NET_ADMIN = int(Capability.NET_ADMIN)

#: attribute type -> payload; of a repeated one the last
Attributes = dict[int, bytes]
#: executes a request, or raises Refusal
Handler = Callable[[Request, Attributes], None]

#: NL_ATTR_TYPE_* of a plain number, by its size
_NUMBER_TYPES = {1: 2, 2: 3, 4: 4, 8: 5}
_NESTED_TYPE = 13


_FAILED = "Attribute failed policy validation"


class Check(NamedTuple):
    """What a policy demands of an attribute (`struct nla_policy`)."""

    #: fewest bytes of payload
    minimum: int
    #: may be empty; otherwise there must be room for an attribute header
    nested: bool
    #: what a refusal says, and the room the kernel reserves for that
    policy: Policy | None
    policy_room: int
    #: what else is wrong with a payload, if anything
    judge: Callable[[bytes], Errno | None] | None = None
    message: str = _FAILED

    def verdict(self, payload: bytes) -> Errno | None:
        """Why the payload is refused; None: it is not."""
        size = len(payload)
        if size < self.minimum or (self.nested and 0 < size < NLA_HDRLEN):
            return Errno.ERANGE
        return self.judge(payload) if self.judge is not None else None


def at_most(size: int) -> Check:
    """Bytes, but not more than so many (NLA_BINARY)."""
    return Check(0, False, Policy(max_length=size, type=10), 32, lambda data: Errno.ERANGE if len(data) > size else None)


def nul_string(most: int | None = None) -> Check:
    """Text that ends with a NUL, of at most so many bytes before it (NLA_NUL_STRING)."""

    def judge(data: bytes) -> Errno | None:
        if b"\0" not in (data if most is None else data[: most + 1]):
            return Errno.EINVAL
        return Errno.ERANGE if most is not None and len(data.removesuffix(b"\0")) > most else None

    return Check(0, False, Policy(max_length=most, type=12), 32, judge)


def bits(mask: int) -> Check:
    """A number in network order with no other bits than these (NLA_POLICY_MASK)."""

    def judge(data: bytes) -> Errno | None:
        return Errno.EINVAL if int.from_bytes(data[:4], "big") & ~mask else None

    return Check(4, False, None, 0, judge, "reserved bit set")


#: what the kernel sends and does not take (NLA_REJECT)
REJECTED = Check(0, False, None, 0, lambda data: Errno.EINVAL)


@cache  # a kernel asks it of some hundred attributes, and tests make many kernels
def check_of(field: Attr) -> Check | None:
    """What the kernel's policy checks of a declared attribute; None where it checks nothing."""
    layout = field.policy
    if layout is None:
        return None
    if field.nest is not None:
        return Check(0, True, Policy(type=_NESTED_TYPE), 32)
    if layout.code in ("B", "H", "I", "Q"):
        highest = (1 << 8 * layout.size) - 1
        return Check(layout.size, False, Policy(min_unsigned=0, max_unsigned=highest, type=_NUMBER_TYPES[layout.size]), 48)
    return Check(layout.size, False, None, 0)


class Operation:
    """One message type of a subsystem.

    ``declarations`` say what is checked of its attributes, ``checks`` what a layout cannot say. Operations that share a policy in
    the kernel are given each other's declarations, too.
    """

    __slots__ = ("checks", "handler")

    def __init__(
        self,
        handler: Handler,
        *declarations: type[Message],
        unknown: Collection[str] = (),
        checks: Mapping[int, Check] = MappingProxyType({}),
    ) -> None:
        self.handler = handler
        #: by attribute type; attributes that this kernel does not know yet are left out
        self.checks: dict[int, Check] = {}
        for declaration in declarations:
            for field in declaration.__attrs__:
                if field.name not in unknown and (check := check_of(field)) is not None:
                    self.checks[field.number] = check
        self.checks.update(checks)


class ProcFile(NamedTuple):
    """A file below /proc/net."""

    mode: int
    text: Callable[[], str]


class Nfnetlink:
    """The subsystems there are, and the way to them. What is not registered is answered like a module that is not there."""

    __slots__ = ("_operations", "_profile", "_sockets", "proc")

    def __init__(self, sockets: SocketTable, profile: Profile) -> None:
        self._sockets = sockets
        self._profile = profile
        self._operations: dict[int, Operation] = {}
        #: files of the subsystems below /proc/net, by name
        self.proc: dict[str, ProcFile] = {}
        sockets.input = self.receive

    def register(self, subsystem: SubsystemId, operations: Mapping[int, Operation], proc: Mapping[str, ProcFile]) -> None:
        """Add a subsystem: its operations by number, and its files (`nfnetlink_subsys_register`)."""
        for number, operation in operations.items():
            self._operations[subsystem << 8 | number] = operation
        self.proc.update(proc)

    def receive(self, sock: Sock, data: bytes, addressed: bool) -> None:
        """A datagram for the kernel (`nfnetlink_rcv`). ``addressed``: the sender named the kernel as its destination."""
        if len(data) < NLMSG_HDRLEN:
            return
        length, type_, _, _, _ = NATIVE.header.unpack_from(data)
        if not NLMSG_HDRLEN <= length <= len(data):
            return
        if not (_NET_ADMIN in self._sockets.current.capabilities and (addressed or _NET_ADMIN in sock.opener.capabilities)):
            acknowledge(Request(sock, data, 0), Errno.EPERM)
        elif type_ == _BATCH_BEGIN:
            self._batch(Request(sock, data, 0))
        else:
            walk(sock, data, self._execute)

    def _execute(self, request: Request) -> None:
        """`nfnetlink_rcv_msg`."""
        if request.length < _BODY:
            return
        operation = self._operations.get(request.type)
        if operation is None:
            raise Refusal(Errno.EINVAL)
        operation.handler(request, parse(request, operation.checks))

    def _batch(self, begin: Request) -> None:
        """`nfnetlink_rcv_skb_batch`: no subsystem that is modelled takes batches."""
        if len(begin.data) < _BODY:
            return
        known = begin.res_id < self._profile.subsystems or begin.data[NLMSG_HDRLEN + 2 : _BODY] == _NFTABLES_HOST_ORDER
        error = Errno.EOPNOTSUPP if known else Errno.EINVAL
        try:
            parse(begin, _BATCH_CHECKS)
        except Refusal as refusal:
            error = refusal.errno
        begin.message = None  # batches are older than extended acks: nothing is said here
        acknowledge(begin, error)


#: old programs name nf_tables in the order of the host, and are understood
_NFTABLES_HOST_ORDER = NATIVE.u16.pack(SubsystemId.NFTABLES)
_BATCH_BEGIN = int(NlmsgType.BATCH_BEGIN)
#: NFNL_BATCH_GENID
_BATCH_CHECKS = {1: Check(4, False, None, 0)}


def parse(request: Request, checks: Mapping[int, Check]) -> Attributes:
    """The attributes of a request, read as leniently as the kernel does (`nla_parse_deprecated`).

    Raises `Refusal` when its policy does not let one pass (ERANGE: it is too short); the request then knows what is to be said
    about it.
    """
    data = request.data
    offset, end = request.offset + _BODY, request.offset + request.length
    found: Attributes = {}
    while end - offset >= NLA_HDRLEN:
        length, type_ = _unpack_attribute(data, offset)
        if length < NLA_HDRLEN or length > end - offset:
            break
        number = type_ & NLA_TYPE_MASK
        payload = data[offset + NLA_HDRLEN : offset + length]
        check = checks.get(number)
        if check is not None:
            error = check.verdict(payload)
            if error is not None:
                request.message = check.message if error is Errno.EINVAL else _FAILED
                request.bad_attribute = offset - request.offset
                request.policy, request.policy_room = check.policy, check.policy_room
                raise Refusal(error)
        found[number] = payload
        offset += align4(length)
    if offset < end:
        request.message = "bytes leftover after parsing attributes"
    return found
