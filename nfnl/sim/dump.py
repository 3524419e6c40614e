"""Dumps: one request, many answers, made part by part as they are read (`netlink_dump` in net/netlink/af_netlink.c)."""

from __future__ import annotations

from collections.abc import Callable

from nfnl.sim.af_netlink import Sock
from nfnl.sim.errnos import Errno
from nfnl.sim.netlink import Refusal, Request
from nfnl.wire.constants import NLMSG_HDRLEN, NlmsgFlag, NlmsgType
from nfnl.wire.header import NATIVE

#: what is asked for a message of unknown size, and the least room of a part (NLMSG_GOODSIZE)
GOODSIZE = 3776
_MULTI = int(NlmsgFlag.MULTI)

#: Gives as many of the messages that are left as fit into this many bytes; b"" when nothing is left. It lives as long as the
#: dump and is copied with it by snapshots, so it is a method of something that knows how far it has come, not a generator.
Fill = Callable[[int], bytes]


class Dump:
    """A dump under way on a socket (`struct netlink_callback`).

    The socket's reader drives it: the first part is made with the request, each further one when something was received and
    the buffer is at most half full. Parts are as large as the largest buffer that was ever received into.
    """

    __slots__ = ("_done_flags", "_fill", "_seq", "_sock")

    def __init__(self, sock: Sock, seq: int, fill: Fill, done_flags: int) -> None:
        self._sock = sock
        self._seq = seq
        self._fill = fill
        self._done_flags = done_flags

    def proceed(self) -> Errno | None:
        """Make the next part; the last is NLMSG_DONE. ENOBUFS where there is no room for it: somebody has to try again."""
        sock = self._sock
        profile = sock.table.profile
        room = max(GOODSIZE, sock.largest_read)
        truesize = profile.buffer_truesize(room)
        if not sock.has_room(truesize):
            return Errno.ENOBUFS
        part = self._fill(room)
        if not part:
            part = NATIVE.header.pack(NLMSG_HDRLEN + 4, NlmsgType.DONE, _MULTI | self._done_flags, self._seq, sock.port) + bytes(4)
            sock.dump = None
        if kept := sock.filtered(part):
            sock.append(kept, truesize)
        return None


def start_dump(request: Request, fill: Fill, done_flags: int = 0) -> None:
    """Answer a request with a dump (`netlink_dump_start`). Nothing acknowledges it but its NLMSG_DONE.

    Raises `Refusal`: EBUSY while another runs on the socket; ENOBUFS without room for the first part, but then reading goes on
    with it all the same.
    """
    sock = request.sock
    if sock.dump is not None:
        raise Refusal(Errno.EBUSY)
    sock.dump = Dump(sock, request.seq, fill, done_flags)
    request.answered = True
    error = sock.dump.proceed()
    if error is not None:
        raise Refusal(error)
