"""Walking a datagram sent to the kernel, and acknowledging what is in it (`netlink_rcv_skb`, `netlink_ack`)."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from nfnl.sim.af_netlink import Sock
from nfnl.sim.errnos import Errno
from nfnl.wire.constants import NLMSG_HDRLEN, NlmsgFlag, NlmsgType, SocketOption, align4
from nfnl.wire.control import ExtendedAck, Policy
from nfnl.wire.header import NATIVE

_REQUEST, _ACK = int(NlmsgFlag.REQUEST), int(NlmsgFlag.ACK)
_CAPPED, _TLVS = int(NlmsgFlag.CAPPED), int(NlmsgFlag.ACK_TLVS)
_ERROR = int(NlmsgType.ERROR)
_CAP_ACK, _EXT_ACK = int(SocketOption.CAP_ACK), int(SocketOption.EXT_ACK)
#: types below are netlink's own, and nothing to execute (NLMSG_MIN_TYPE)
_MIN_TYPE = 16
#: the answer's header, the error, the header of the request
_answer = Struct(NATIVE.header.format + "i16s")


class Refusal(Exception):
    """The kernel does not do what a message asks for."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


class Request:
    """One message to the kernel, and what is to be said about it besides an errno (`struct netlink_ext_ack`)."""

    __slots__ = (
        "answered",
        "bad_attribute",
        "data",
        "flags",
        "length",
        "message",
        "offset",
        "policy",
        "policy_room",
        "seq",
        "sock",
        "type",
    )

    def __init__(self, sock: Sock, data: bytes, offset: int) -> None:
        self.sock = sock
        #: the datagram, and where in it the message starts
        self.data = data
        self.offset = offset
        self.length, self.type, self.flags, self.seq, _ = NATIVE.header.unpack_from(data, offset)
        #: success needs no acknowledgement: a dump ends with NLMSG_DONE
        self.answered = False
        #: a sentence for people
        self.message: str | None = None
        #: offset of the offending attribute from the start of the message
        self.bad_attribute: int | None = None
        #: what the attribute should have been, and the room the kernel reserves for saying so
        self.policy: Policy | None = None
        self.policy_room = 0

    @property
    def family(self) -> int:
        """``nfgen_family`` of the nfgenmsg that follows the header."""
        return self.data[self.offset + NLMSG_HDRLEN]

    @property
    def version(self) -> int:
        """``version`` of the nfgenmsg."""
        return self.data[self.offset + NLMSG_HDRLEN + 1]

    @property
    def res_id(self) -> int:
        """``res_id`` of the nfgenmsg."""
        at = self.offset + NLMSG_HDRLEN + 2
        return self.data[at] << 8 | self.data[at + 1]


def walk(sock: Sock, data: bytes, handle: Callable[[Request], None]) -> None:
    """Have every message of a datagram executed by ``handle``, which may raise `Refusal` or OSError, and answered.

    A header that cannot be true ends the walk without a word.
    """
    offset, total = 0, len(data)
    while total - offset >= NLMSG_HDRLEN:
        request = Request(sock, data, offset)
        if not NLMSG_HDRLEN <= request.length <= total - offset:
            return
        error = 0
        if request.flags & _REQUEST and request.type >= _MIN_TYPE:
            try:
                handle(request)
            except Refusal as refusal:
                error = refusal.errno
            except OSError as refusal:  # of the data plane, which has the numbers of this system
                error = Errno.of(refusal)
        if error or (request.flags & _ACK and not request.answered):
            acknowledge(request, error)
        offset += align4(request.length)


def acknowledge(request: Request, error: int) -> None:
    """Answer a message with NLMSG_ERROR: a refusal, or with 0 success."""
    sock = request.sock
    start = request.offset
    header = request.data[start : start + NLMSG_HDRLEN]
    body = tlvs = b""
    flags = room = 0
    if error and _CAP_ACK not in sock.options:
        body = request.data[start + NLMSG_HDRLEN : start + request.length]
        body += b"\0" * (-len(body) % 4)
    else:
        flags = _CAPPED
    if request.message is not None and _EXT_ACK in sock.options:
        tlvs = _extended(request, error)
        room = len(tlvs)
        if error and request.policy is not None:
            room += request.policy_room - _POLICY_HEADER - len(bytes(request.policy))
        flags |= _TLVS
    length = _answer.size + len(body) + len(tlvs)
    answer = _answer.pack(length, _ERROR, flags, request.seq, sock.port, -error, header) + body + tlvs
    asked = _answer.size + len(body) + room
    sock.table.unicast(sock.port, answer, sock.table.profile.truesize(asked, length))


_POLICY_HEADER = 4


def _extended(request: Request, error: int) -> bytes:
    """What EXT_ACK adds; a success carries the sentence only."""
    if error:
        return bytes(ExtendedAck(message=request.message, offset=request.bad_attribute, policy=request.policy))
    return bytes(ExtendedAck(message=request.message))
