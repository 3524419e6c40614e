"""The seam. Everything nfnl needs from a kernel, real or fake, is on this page.

Cut low on purpose: datagrams and socket facts, not messages. Overruns, truncation, port ids, group membership and buffer
sizes are part of a session's life, and what cannot be seen through the seam cannot be tested through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from nfnl.wire.datagram import SocketRequest


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """How a netlink socket is to be opened: a socket option each. The defaults are what nfnl wants, not the kernel's 0."""

    #: SO_RCVBUF(FORCE) in bytes, before the kernel doubles it; None leaves ``net.core.rmem_default``
    receive_buffer: int | None = None
    #: NETLINK_NO_ENOBUFS: overruns are not reported, and do not stop the flow until the socket is empty
    no_enobufs: bool = False
    #: NETLINK_EXT_ACK (since 4.12): refusals carry a sentence and the offset of the offending attribute
    extended_ack: bool = True
    #: NETLINK_CAP_ACK (since 4.3): refusals do not repeat the whole request
    cap_ack: bool = False
    #: NETLINK_LISTEN_ALL_NSID (since 4.2), needs CAP_NET_BROADCAST
    listen_all_nsid: bool = False
    #: multicast groups joined at once
    groups: tuple[int, ...] = ()
    #: port id to bind; 0 lets the kernel choose
    port_id: int = 0


class Wait(Enum):
    """Why a `Transport.wait` ended."""

    READABLE = "there is a datagram, or an error, to receive"
    DEADLINE = "the time asked for has come"
    WOKEN = "somebody called wake()"
    IDLE = "nothing can happen any more, and the tester asked to be told (until_idle)"


class Transport(Protocol):
    """An open NETLINK_NETFILTER socket.

    Not thread-safe but for `wake` and `close`, which any thread may call. A transport that was closed raises `TransportClosed`
    from every method but `close`.
    """

    @property
    def port_id(self) -> int:
        """This socket's own address (``nl_pid``), unsigned."""

    def send(self, datagram: bytes) -> None:
        """Send one datagram to the kernel. What it causes has happened when this returns; answers wait in the socket."""

    def receive(self) -> list[bytes]:
        """The datagrams that are there, as many as one system call takes; never waits; [] when there are none.

        An ordinary datagram is plain `bytes`; one with facts to tell (another sender, a multicast, truncated) is a `Datagram`.
        Raises `OverrunError` once per overrun (ENOBUFS); the datagrams that were kept come with the next call.
        """

    def wait(self, deadline: float | None) -> Wait:
        """Block until there is something to receive, `now` reaches ``deadline``, or `wake` was called; says which.

        A test kernel inside its ``until_idle()`` answers `Wait.IDLE` when nothing is readable and nothing is scheduled.
        """

    def wake(self) -> None:
        """End a `wait` that is under way, or the next one. From any thread."""

    def on_readable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called whenever the socket becomes readable; for event loops where there is no `fileno`.

        Returns a function that takes the callback back. A kernel with a `fileno` may raise NotImplementedError here.
        """

    def fileno(self) -> int | None:
        """A descriptor to poll for reading, or None where there is none (the fake kernel)."""

    def now(self) -> float:
        """Seconds on this kernel's monotonic clock. The fake kernel's is virtual."""

    def apply(self, request: SocketRequest) -> None:
        """Do what a session asked of its socket (join a group, attach a filter ...). Raises OSError as the kernel does."""

    @property
    def receive_buffer(self) -> int:
        """SO_RCVBUF as the kernel reports it: twice what was granted, in bytes."""

    def close(self) -> None:
        """Close the socket. The kernel drops what its queues held. Closing twice is fine."""


@runtime_checkable
class Kernel(Protocol):
    """Something that speaks nfnetlink: Linux, or `nfnl.sim.FakeKernel`."""

    def open(self, options: SocketOptions = SocketOptions()) -> Transport:
        """Open a NETLINK_NETFILTER socket. Raises OSError with the kernel's errno."""

    def read_proc(self, name: str) -> str:
        """The text of ``/proc/net/<name>`` of this kernel's network namespace, e.g. ``"netfilter/nfnetlink_queue"``.

        Raises OSError: ENOENT where it does not exist, EACCES where it may not be read.
        """

    def send_raw(self, packet: bytes) -> None:
        """Send an IP packet from this host, given from its network header on, as through a raw socket with IP_HDRINCL.

        Linux sets IPv4's total length and header checksum, and id and source if they are 0, and nothing in IPv6. Raises
        `NotPermitted` without CAP_NET_RAW; OSError as ``sendto`` does: EINVAL for what is no IP packet, ENETUNREACH without a
        route, EMSGSIZE beyond the MTU, EPERM when a rule drops it on its way out.
        """

    def interface_name(self, index: int) -> str | None:
        """What the network device with this number is called now, in this kernel's network namespace; None if there is none."""

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a sysctl by its dotted name (``"net.core.rmem_max"``), after writing ``value`` if one is given."""
