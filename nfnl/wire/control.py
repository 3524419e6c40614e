"""Messages of netlink itself: acknowledgements with what the kernel says in them, DONE, and what has no declaration.

Sources: include/uapi/linux/netlink.h, `netlink_ack` in net/netlink/af_netlink.c.
"""

from __future__ import annotations

from typing import Any

from nfnl.errors import DecodeError, error_name
from nfnl.wire.compiled import revive_nest
from nfnl.wire.constants import NLMSG_HDRLEN, NlmsgFlag, NlmsgType, align4
from nfnl.wire.declare import AttrSet, attr
from nfnl.wire.header import NATIVE, ByteOrder, NetlinkMessage, Part, excerpt
from nfnl.wire.layout import U32, U64, CString, Raw


class Policy(AttrSet):
    """``NLMSGERR_ATTR_POLICY``: what the kernel would have accepted (``NL_POLICY_TYPE_ATTR_*``, since Linux 5.10). Host order."""

    min_unsigned: U64 | None = attr(4, "NL_POLICY_TYPE_ATTR_MIN_VALUE_U", default=None, doc="smallest unsigned value")
    max_unsigned: U64 | None = attr(5, "NL_POLICY_TYPE_ATTR_MAX_VALUE_U", default=None, doc="largest unsigned value")
    min_length: U32 | None = attr(6, "NL_POLICY_TYPE_ATTR_MIN_LENGTH", default=None, doc="fewest bytes")
    max_length: U32 | None = attr(7, "NL_POLICY_TYPE_ATTR_MAX_LENGTH", default=None, doc="most bytes")
    mask: U64 | None = attr(12, "NL_POLICY_TYPE_ATTR_MASK", default=None, doc="valid bits")
    type: U32 | None = attr(1, "NL_POLICY_TYPE_ATTR_TYPE", default=None, doc="NL_ATTR_TYPE_*: 3 u16, 4 u32, 13 nested ...")


class ExtendedAck(AttrSet):
    """What stands behind an acknowledgement with NLM_F_ACK_TLVS (``NLMSGERR_ATTR_*``, since Linux 4.12). Host order."""

    message: CString | None = attr(1, "NLMSGERR_ATTR_MSG", default=None, doc="a sentence for people")
    cookie: Raw | None = attr(3, "NLMSGERR_ATTR_COOKIE", default=None, doc="subsystem data of a success")
    offset: U32 | None = attr(2, "NLMSGERR_ATTR_OFFS", default=None, doc="offset in the request of the attribute it is about")
    policy: Policy | None = attr(4, "NLMSGERR_ATTR_POLICY", default=None, since="5.10", doc="the policy that was violated")
    missing_type: U32 | None = attr(5, "NLMSGERR_ATTR_MISS_TYPE", default=None, since="6.1", doc="number of a missing attribute")
    missing_nest: U32 | None = attr(
        6, "NLMSGERR_ATTR_MISS_NEST", default=None, since="6.1", doc="offset of the nest it is missing in"
    )


class _Plain(NetlinkMessage):
    """A message that is not declared: a header and a body."""

    __slots__ = ("_byte_order", "_data")

    def __init__(self, data: bytes, order: ByteOrder = NATIVE) -> None:
        self._data = data
        self._byte_order = order

    @property
    def _order(self) -> ByteOrder:
        return self._byte_order

    @property
    def body(self) -> bytes:
        """What stands behind nlmsghdr."""
        return self._data[NLMSG_HDRLEN : self.nlmsg_len]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self._data[: self.nlmsg_len], other._data[: other.nlmsg_len]
        return mine == theirs and self._byte_order is other._byte_order

    def __hash__(self) -> int:
        return hash(self._data[: self.nlmsg_len])

    def __repr__(self) -> str:
        head = f"type={self.nlmsg_type:#06x}, flags={self.nlmsg_flags:#x}, seq={self.nlmsg_seq}"
        return f"{type(self).__name__}({head}, body={self.body.hex(' ')})"


class Generic(_Plain):
    """A message of a subsystem or type that nfnl does not know, or with a body too short for an nfgenmsg. Kept as it is."""

    __slots__ = ()


class Control(_Plain):
    """NLMSG_NOOP, NLMSG_OVERRUN, and the reserved types below 16."""

    __slots__ = ()


class Malformed(_Plain):
    """A message that is declared but whose attributes are not what the declaration says; ``error`` says where."""

    __slots__ = ("error",)

    def __init__(self, data: bytes, order: ByteOrder, error: DecodeError) -> None:
        super().__init__(data, order)
        self.error = error

    def __repr__(self) -> str:
        return f"Malformed({self.error})"


class Done(_Plain):
    """NLMSG_DONE: the end of a dump or of a batch of log messages."""

    __slots__ = ()

    @property
    def error(self) -> int:
        """The errno the dump ended with (positive); 0 for success. Log batches put an nfgenmsg here instead of a number."""
        body = self.body
        return -int.from_bytes(body[:4], self._byte_order.name, signed=True) if len(body) >= 4 else 0


class Ack(_Plain):
    """NLMSG_ERROR: the answer to a request; with error 0 an acknowledgement."""

    __slots__ = ("extended",)
    #: what the kernel adds, or None
    extended: ExtendedAck | None

    def __init__(self, data: bytes, order: ByteOrder = NATIVE, base: int = 0) -> None:
        super().__init__(data, order)
        self.extended = None
        length = self.nlmsg_len
        if length < NLMSG_HDRLEN + 4 + NLMSG_HDRLEN:
            raise DecodeError(
                f"{length} bytes are too few for an acknowledgement, which takes 36",
                path="Ack",
                offset=base,
                excerpt=excerpt(data, 0),
            )
        if self.nlmsg_flags & NlmsgFlag.ACK_TLVS:
            # The copied header shows the request's full length even where its body was left out.
            start = NLMSG_HDRLEN + 4 + (NLMSG_HDRLEN if self.capped else align4(self.request_len))
            if start > length:
                raise DecodeError(
                    f"the request of {self.request_len} bytes it repeats ends behind it",
                    path="Ack",
                    offset=base + 20,
                    excerpt=excerpt(data, 20),
                )
            self.extended = revive_nest(ExtendedAck, data, start, length, order, "Ack.extended", base)

    @classmethod
    def build(
        cls,
        request: bytes,
        error: int = 0,
        *,
        port_id: int = 0,
        capped: bool = True,
        extended: ExtendedAck | None = None,
        order: ByteOrder = NATIVE,
    ) -> Ack:
        """The answer to ``request``, a message with its header. ``error`` is a positive errno or 0; ``capped`` drops its body."""
        length, _, _, seq, _ = order.header.unpack_from(request, 0)
        flags = (NlmsgFlag.CAPPED if capped else 0) | (NlmsgFlag.ACK_TLVS if extended is not None else 0)
        body = (-error).to_bytes(4, order.name, signed=True)
        copied = request[:NLMSG_HDRLEN] if capped else request[:length]
        body += copied + b"\0" * (-len(copied) % 4)
        if extended is not None:
            body += bytes(extended)
        return cls(order.header.pack(NLMSG_HDRLEN + len(body), NlmsgType.ERROR, flags, seq, port_id) + body, order)

    @property
    def error(self) -> int:
        """The errno of a refusal (positive), 0 for success."""
        return -int.from_bytes(self._data[16:20], self._byte_order.name, signed=True)

    @property
    def capped(self) -> bool:
        """Only the request's header is repeated, not its body (NLM_F_CAPPED)."""
        return bool(self.nlmsg_flags & NlmsgFlag.CAPPED)

    @property
    def request(self) -> bytes:
        """The request as far as it is repeated: at least its 16 bytes of header."""
        if self.capped:
            return self._data[20:36]
        return self._data[20 : min(20 + self.request_len, self.nlmsg_len)]

    @property
    def request_len(self) -> int:
        """``nlmsg_len`` of the request, which may be more than is repeated."""
        return int(self._byte_order.u32.unpack_from(self._data, 20)[0])

    @property
    def request_type(self) -> int:
        """``nlmsg_type`` of the request."""
        return int(self._byte_order.u16.unpack_from(self._data, 24)[0])

    def __repr__(self) -> str:
        result = error_name(self.error) if self.error else "success"
        return f"Ack({result}, request={self.request_type:#06x}, seq={self.nlmsg_seq}, extended={self.extended!r})"


def control(part: Part, order: ByteOrder) -> Any:
    """A message of type below 16."""
    if part.type == NlmsgType.ERROR:
        return Ack(part.data, order, part.offset)
    if part.type == NlmsgType.DONE:
        return Done(part.data, order)
    return Control(part.data, order)
