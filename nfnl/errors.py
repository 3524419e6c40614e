"""Every exception nfnl raises on purpose.

The tree tells whose fault it is: `LocalProtocolError` is yours, `RemoteProtocolError` is the kernel's, a `NetlinkError` is a
polite refusal by the kernel, a `CodecError` is about bytes. Catch `NfnlError` to catch them all.
"""

from __future__ import annotations

import errno as _errno
import os as _os

__all__ = [
    "Busy",
    "CodecError",
    "DecodeError",
    "DumpInterruptedError",
    "EncodeError",
    "Exists",
    "LocalProtocolError",
    "NetlinkError",
    "NfnlError",
    "NotFound",
    "NotPermitted",
    "OverrunError",
    "PacketError",
    "RemoteProtocolError",
    "TransportClosed",
    "error_name",
]

#: The kernel's own ENOTSUPP. It leaks to user space as -524 and has no name in the C library; not EOPNOTSUPP (95).
ENOTSUPP = 524


def error_name(number: int) -> str:
    """The name of an errno as the kernel's sources spell it: ``EPERM``, ``EOPNOTSUPP``, ``ENOTSUPP``."""
    if number == ENOTSUPP:
        return "ENOTSUPP"
    if number == _errno.EOPNOTSUPP:  # the C library calls the same number ENOTSUP
        return "EOPNOTSUPP"
    if number == _errno.EAGAIN:
        return "EAGAIN"
    return _errno.errorcode.get(number, f"errno {number}")


class NfnlError(Exception):
    """The root of everything nfnl raises on purpose."""


class CodecError(NfnlError, ValueError):
    """Bytes and meaning do not agree.

    ``path`` names the field or attribute, outermost first (``"Packet.vlan.tci"``); ``offset`` is where it starts, counted in bytes
    from the beginning of the datagram (None when building); ``excerpt`` holds the bytes around it.
    """

    def __init__(self, problem: str, *, path: str = "", offset: int | None = None, excerpt: bytes = b"") -> None:
        self.problem = problem
        self.path = path
        self.offset = offset
        self.excerpt = excerpt
        super().__init__(problem)

    def __str__(self) -> str:
        where = self.path or "message"
        if self.offset is not None:
            where += f" at byte {self.offset}"
        tail = f" [{self.excerpt.hex(' ')}]" if self.excerpt else ""
        return f"{where}: {self.problem}{tail}"


class DecodeError(CodecError):
    """Bytes that are not what the declaration says."""


class EncodeError(CodecError):
    """A value that the declared layout cannot hold."""


class PacketError(NfnlError, ValueError):
    """Bytes that are no IP packet.

    ``what`` says what is wrong, ``offset`` where the header in question starts, counted in bytes from the network header.
    """

    def __init__(self, what: str, offset: int) -> None:
        self.what = what
        self.offset = offset
        super().__init__(what, offset)

    def __str__(self) -> str:
        return f"{self.what} (at byte {self.offset})"


class LocalProtocolError(NfnlError):
    """You asked for what the present state does not allow. Nothing was changed by the call."""


class RemoteProtocolError(NfnlError):
    """The other side of the socket sent what it may not send: broken framing, an answer nobody asked for."""


class NetlinkError(NfnlError, OSError):
    """The kernel refused a request.

    ``errno`` is the kernel's number; ``request`` says what was asked in words; ``kernel_message`` is the kernel's own sentence
    (extended acknowledgement, since Linux 4.12) if it gave one; ``attribute`` the path of the attribute it points at;
    ``hint`` the likely reason, where we know one.
    """

    def __init__(
        self,
        errno: int,
        request: str = "",
        *,
        kernel_message: str | None = None,
        attribute: str | None = None,
        hint: str | None = None,
    ) -> None:
        text = "Operation not supported (kernel-internal ENOTSUPP)" if errno == ENOTSUPP else _os.strerror(errno)
        super().__init__(errno, text)
        self.request = request
        self.kernel_message = kernel_message
        self.attribute = attribute
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.request or 'request'}: {error_name(self.errno or 0)} ({self.strerror})"
        if self.kernel_message:
            text += f"; the kernel says: {self.kernel_message}"
        if self.attribute:
            text += f"; attribute: {self.attribute}"
        if self.hint:
            text += f". {self.hint}"
        return text

    @staticmethod
    def of(
        errno: int,
        request: str = "",
        *,
        kernel_message: str | None = None,
        attribute: str | None = None,
        hint: str | None = None,
    ) -> NetlinkError:
        """The most specific class for this errno."""
        cls = _BY_ERRNO.get(errno, NetlinkError)
        return cls(errno, request, kernel_message=kernel_message, attribute=attribute, hint=hint)


class NotPermitted(NetlinkError, PermissionError):
    """EPERM or EACCES: missing CAP_NET_ADMIN, or somebody else owns the thing."""


class NotFound(NetlinkError, FileNotFoundError):
    """ENOENT or ENODEV: no such packet, queue, flow."""


class Exists(NetlinkError, FileExistsError):
    """EEXIST: already there."""


class Busy(NetlinkError):
    """EBUSY: it is in use, perhaps by you."""


_BY_ERRNO: dict[int, type[NetlinkError]] = {
    _errno.EPERM: NotPermitted,
    _errno.EACCES: NotPermitted,
    _errno.ENOENT: NotFound,
    _errno.ENODEV: NotFound,
    _errno.EEXIST: Exists,
    _errno.EBUSY: Busy,
}


class OverrunError(NfnlError):
    """ENOBUFS: the receive buffer was full and the kernel threw datagrams away.

    The next receive goes on with what was kept. The kernel accepts nothing new until the socket has been read empty
    (`netlink_rcv_wake` in net/netlink/af_netlink.c), so keep reading.
    """


class DumpInterruptedError(NfnlError):
    """The table changed while it was being dumped (NLM_F_DUMP_INTR): what was seen is not one consistent state."""


class TransportClosed(NfnlError):
    """The socket, or the kernel behind it, was closed."""


class NotModelled(NfnlError, NotImplementedError):
    """Linux does something here that the fake kernel has not learnt. Nothing is pretended."""
