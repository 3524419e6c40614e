"""What the doors to connection tracking share: everything but the waiting."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Literal, TypedDict, TypeVar, Unpack

from nfnl._door import linux_kernel
from nfnl._expectations import Expectations
from nfnl._pump import ATTEMPTS, Pump
from nfnl.errors import DumpInterruptedError, LocalProtocolError, NotFound, RemoteProtocolError
from nfnl.session.conntrack import ConntrackSession
from nfnl.session.eventfilter import EventFilter
from nfnl.session.events import Acked, Answered, DumpDone, DumpInterrupted, Event, Refused, Undecodable
from nfnl.session.flowspec import FlowFilter
from nfnl.session.mirror import FlowMirror, MirrorSession
from nfnl.session.requests import MAX_EVENTS
from nfnl.subsys.conntrack import (
    Flow,
    FlowAttributes,
    Nat,
    ProtoInfo,
    SeqAdj,
    Stats,
    StatsCpu,
    Status,
    SynProxy,
    Tuple,
)
from nfnl.transport.base import Kernel, SocketOptions
from nfnl.wire.constants import Family, Group
from nfnl.wire.declare import Message

M = TypeVar("M", bound=Message)
Kind = Literal["new", "updated", "destroyed", "expectation_new", "expectation_destroyed"]

#: what can be followed -> its multicast group
GROUPS: dict[str, Group] = {
    "new": Group.CONNTRACK_NEW,
    "updated": Group.CONNTRACK_UPDATE,
    "destroyed": Group.CONNTRACK_DESTROY,
    "expectation_new": Group.CONNTRACK_EXP_NEW,
    "expectation_destroyed": Group.CONNTRACK_EXP_DESTROY,
}
FLOWS: tuple[Kind, ...] = ("new", "updated", "destroyed")
#: How often `FlowTableDoor.catch_up` reads a table that changes faster than it can be read.
_PATIENCE = 100


class ConntrackWarning(UserWarning):
    """Part of an answer could not be understood."""


class ConntrackOptions(TypedDict, total=False):
    """How a table is opened. All of it is optional."""

    #: where; None is Linux
    kernel: Kernel | None
    #: Linux: the network namespace, by name (of ``ip netns``), path or descriptor; None is the current one
    netns: str | int | None
    #: which events come: True for all of flows, or their names: ``("new", "updated", "destroyed", "expectation_new",
    #: "expectation_destroyed")``. None, the default: none
    follow: bool | Iterable[Kind] | None
    #: of those, which the kernel lets in
    event_filter: EventFilter | None
    #: keep a copy of the table, see `FlowTable.mirror`; follows all events of flows
    mirror: bool
    #: seconds from an overrun to the dump that puts the mirror right again; 0 unless given
    resync_delay: float
    #: seconds from one dump of the mirror to the next, even if nothing was lost; None, the default: never
    refresh: float | None
    #: bytes of socket buffer, which the kernel doubles; an event takes about 700 to 1300 of them
    receive_buffer: int | None
    #: overruns are not reported, and do not make the kernel wait for an empty socket; not with a mirror
    no_enobufs: bool
    #: have the kernel keep events that did not fit and tell them later (NETLINK_BROADCAST_ERROR): of destroyed flows reliably, of
    #: others with their next event
    reliable: bool
    #: events kept while nobody takes them: 100,000 unless given
    max_events: int


class FlowCriteria(TypedDict, total=False):
    """Which flows are meant; see `FlowFilter`, which has the same fields."""

    family: Family | None
    mark: int | None
    mark_mask: int | None
    status: Status | None
    status_mask: Status | None
    zone: int | None
    original: Tuple | None
    reply: Tuple | None


class NewFlowOptions(TypedDict, total=False):
    """What can be said of a flow that is made or changed. See `ConntrackSession.create`."""

    zone: int | None
    status: Status | None
    mark: int | None
    tcp_state: int | None
    protoinfo: ProtoInfo | None
    helper: str | None
    labels: bytes | Iterable[int] | None
    seq_adj_original: SeqAdj | None
    seq_adj_reply: SeqAdj | None
    synproxy: SynProxy | None


class FlowTableDoor:
    """The flows of a network namespace, but for the waiting. Not thread-safe, except for `stop` and, in the sync door, ``close``.

    Requests are answered at once and never wait, in all doors.
    """

    def __init__(self, **options: Unpack[ConntrackOptions]) -> None:
        """Open a socket, and follow what is to be followed. See `ConntrackOptions`.

        Raises `NotPermitted` when events are asked for without CAP_NET_ADMIN, ValueError for a name that no event has, and
        `LocalProtocolError` for options that do not go together.
        """
        unknown = options.keys() - ConntrackOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"open_conntrack() has no option {', '.join(sorted(unknown))}")
        if options.get("kernel") is not None and options.get("netns") is not None:
            raise LocalProtocolError("netns goes with kernel=None: give it to the kernel instead")
        self._session = _session(options)
        self._stopping = False
        self._closed = False
        kernel = options.get("kernel") or linux_kernel(options.get("netns"))
        self._transport = kernel.open(
            SocketOptions(receive_buffer=options.get("receive_buffer"), no_enobufs=options.get("no_enobufs", False))
        )
        self._pump = Pump(self._session, self._transport)
        try:
            self._pump.send()
            if self.mirror is not None:
                self.catch_up()
                self._refused()
        except BaseException:
            self._closed = True
            self._transport.close()
            raise

    # -- asking ----------------------------------------------------------------------------------------------------------------

    def get(self, target: Tuple | FlowAttributes, *, zone: int | None = None, zero: bool = False) -> Flow:
        """One flow, by a tuple of either direction (`tuple_of`), or what it is by now.

        With ``zero`` its counters start again from 0. Raises `NotFound`.
        """
        return self._one(Flow, self._session.get(target, zone=zone, zero=zero))

    def create(
        self,
        original: Tuple,
        *,
        timeout: int,
        reply: Tuple | None = None,
        exclusive: bool = True,
        nat_src: Nat | None = None,
        nat_dst: Nat | None = None,
        master: Tuple | None = None,
        **content: Unpack[NewFlowOptions],
    ) -> None:
        """Make a flow that lives for ``timeout`` seconds: ``create(tuple_of("10.0.0.1", "10.0.0.2", "udp", 1, 2), timeout=30)``.

        ``reply`` is what answers ``original`` unless given; ``nat_src`` and ``nat_dst`` say what is to be translated (`nat_to`). A
        flow that exists raises `Exists`, or is changed if not ``exclusive``. Other refusals are `NetlinkError`. Labels for which
        there is no room (no rule uses labels) are forgotten without a word.
        """
        self._do(
            self._session.create(
                original,
                timeout=timeout,
                reply=reply,
                exclusive=exclusive,
                nat_src=nat_src,
                nat_dst=nat_dst,
                master=master,
                **content,
            )
        )

    def update(
        self,
        target: Tuple | FlowAttributes,
        *,
        timeout: int | None = None,
        mark_mask: int | None = None,
        labels_mask: bytes | Iterable[int] | None = None,
        **content: Unpack[NewFlowOptions],
    ) -> None:
        """Change a flow, one that you hold or by a tuple: ``update(flow, mark=5)``.

        Bits of ``status`` can be set, not cleared. Of mark and labels only what is in the masks changes. Raises `NotFound`, and
        other `NetlinkError` as the kernel refuses; part of the change may have been made then.
        """
        self._do(self._session.update(target, timeout=timeout, mark_mask=mark_mask, labels_mask=labels_mask, **content))

    def delete(self, target: Tuple | FlowAttributes, *, zone: int | None = None) -> None:
        """Delete one flow, one that you hold or by a tuple. Raises `NotFound`, also when another flow has taken its place."""
        self._do(self._session.delete(target, zone=zone))

    def flush(self, **criteria: Unpack[FlowCriteria]) -> None:
        """Delete all flows, or all that are meant (`FlowFilter`).

        Families and marks are left to the kernel; what kernels understand differently, or not at all, is looked up and deleted one
        by one.
        """
        wanted = FlowFilter(**criteria)
        if wanted == FlowFilter(family=wanted.family, mark=wanted.mark, mark_mask=wanted.mark_mask):
            self._do(self._session.flush(wanted))
            return
        for flows in self._lists(wanted):
            for flow in flows:
                with suppress(NotFound):  # its time was up
                    self.delete(flow)

    def stats(self) -> Stats:
        """How many flows there are, and may be. Since Linux 3.6."""
        return self._one(Stats, self._session.stats())

    def count(self) -> int:
        """How many flows there are, those included that are not confirmed yet, or dying. Since Linux 3.6."""
        return self.stats().entries or 0

    def cpu_stats(self) -> list[StatsCpu]:
        """What each CPU has counted since the namespace was made. Since Linux 3.6."""
        return self._all(StatsCpu, self._session.cpu_stats)

    @property
    def expectations(self) -> Expectations:
        """Flows that helpers have announced."""
        return Expectations(self)

    # -- events ----------------------------------------------------------------------------------------------------------------

    def follow(self, *kinds: Kind) -> None:
        """Have more kinds of events come; without arguments, all of flows. Raises `NotPermitted` without CAP_NET_ADMIN."""
        self._session.follow(*_groups(kinds or FLOWS))
        self._pump.send()

    def unfollow(self, *kinds: Kind) -> None:
        """Have some kinds of events come no more; without arguments, none of flows."""
        if self.mirror is not None:
            raise LocalProtocolError("a mirror needs all events of flows")
        self._session.unfollow(*_groups(kinds or FLOWS))
        self._pump.send()

    def filter_events(self, events: EventFilter | None) -> None:
        """Have the kernel let in only some events from now on; None: all of those that are followed."""
        if self.mirror is not None:
            raise LocalProtocolError("a mirror needs all events of flows")
        self._session.filter_events(events)
        self._pump.send()

    @property
    def mirror(self) -> FlowMirror | None:
        """A copy of the table, if it was opened with ``mirror=True``: kept up to date while you iterate, or by `catch_up`."""
        return self._session.mirror if isinstance(self._session, MirrorSession) else None

    def catch_up(self) -> None:
        """Take in all that has happened, without waiting; the mirror is then as the kernel's table was when the last part was read.

        Events are kept for the iteration. After an overrun the mirror may have to wait: see ``resync_delay``.
        """
        for _ in range(_PATIENCE):
            while self._pump.receive():
                pass
            self._pump.send()
            if not self._session.finishing:
                return

    def stop(self) -> None:
        """End the iteration that is under way, or else the next one. From any thread or task."""
        self._stopping = True
        self._transport.wake()

    def fileno(self) -> int | None:
        """The socket's descriptor, for a poll of your own; None on the fake kernel."""
        return self._transport.fileno()

    @property
    def receive_buffer(self) -> int:
        """SO_RCVBUF as granted, in bytes, doubled by the kernel."""
        return self._transport.receive_buffer

    # -- for the doors ---------------------------------------------------------------------------------------------------------

    def _lists(self, wanted: FlowFilter, *, zero: bool = False, retries: int = 0) -> Iterator[Sequence[Flow]]:
        """Flows as they come, several at a time."""
        for flows in self._dump(Flow, lambda: self._session.dump(wanted, zero=zero), retries):
            yield [flow for flow in flows if wanted.matches(flow)] if wanted else flows

    def _dump(self, kind: type[M], ask: Callable[[], int], retries: int = 0) -> Iterator[Sequence[M]]:
        """The parts of a list. To be read again if it was interrupted, it must not have been given out: so it is held, then."""
        if retries == 0:
            yield from self._parts(kind, ask)
            return
        for left in range(retries, -1, -1):
            try:
                parts = list(self._parts(kind, ask))
            except DumpInterruptedError:
                if left == 0:
                    raise
            else:
                yield from parts
                return

    def _parts(self, kind: type[M], ask: Callable[[], int]) -> Iterator[Sequence[M]]:
        # The kernel makes one list at a time for a socket: what is left of another is read first, for whoever wants it.
        while self._session.dumping:
            self._read()
        request = ask()
        try:
            for event in self._replies(request):
                if isinstance(event, Answered):
                    yield [message for message in event.messages if isinstance(message, kind)]
                elif isinstance(event, DumpInterrupted):
                    raise DumpInterruptedError(str(event))
                elif isinstance(event, Undecodable):
                    warnings.warn(str(event), ConntrackWarning, stacklevel=3)
                elif isinstance(event, Refused):
                    raise event.error
        finally:
            self._session.abandon(request)

    def _one(self, kind: type[M], request: int) -> M:
        """The answer to a question."""
        found: M | None = None
        for event in self._replies(request):
            if isinstance(event, Refused):
                raise event.error
            if isinstance(event, Undecodable):
                raise event.error
            if isinstance(event, Answered):
                found = next((message for message in event.messages if isinstance(message, kind)), found)
        if found is None:
            raise RemoteProtocolError("the kernel acknowledged a question, and did not answer it")
        return found

    def _all(self, kind: type[M], ask: Callable[[], int], retries: int = 0) -> list[M]:
        return [message for part in self._dump(kind, ask, retries) for message in part]

    def _do(self, request: int) -> None:
        """See a command through. Raises the kernel's refusal."""
        for event in self._replies(request):
            if isinstance(event, Refused):
                raise event.error

    def _replies(self, request: int) -> Iterator[Event]:
        """What a request is answered, to its end. Nothing here waits: the kernel answers at once. Events stay where they are."""
        replies = self._session.collect(request)
        self._pump.send()
        while True:
            while replies:
                event = replies.popleft()
                yield event
                if isinstance(event, _LAST):
                    return
            self._read(replies)

    def _read(self, replies: Collection[Event] = ()) -> None:
        """Read the socket once; when it is empty, ask again what an overrun may have taken. `RemoteProtocolError` in the end."""
        for _ in range(ATTEMPTS):
            if self._pump.receive() or replies:
                return
            self._pump.send()
        raise RemoteProtocolError("the kernel did not answer a request")

    def _refused(self) -> None:
        for event in self._session.events:
            if isinstance(event, Refused):
                raise event.error

    def _check_followed(self) -> None:
        if self._closed:
            raise LocalProtocolError("the table is closed")
        if not self._session.groups:
            raise LocalProtocolError("no events are followed: open the table with follow=True, or call follow()")

    def _finish(self) -> None:
        """Close the socket."""
        self._closed = True
        self._transport.close()

    def __repr__(self) -> str:
        followed = ", ".join(name for name, group in GROUPS.items() if group in self._session.groups) or "no events"
        return f"<{type(self).__module__}.{type(self).__name__}, {'closed' if self._closed else followed}>"


_LAST = (Acked, Refused, DumpDone, DumpInterrupted)


def _session(options: ConntrackOptions) -> ConntrackSession:
    """The session that these options ask for, with what it asks of its socket."""
    followed = options.get("follow")
    limit = options.get("max_events", MAX_EVENTS)
    session: ConntrackSession
    if options.get("mirror", False):
        if options.get("event_filter") is not None or options.get("no_enobufs", False):
            raise LocalProtocolError("a mirror needs all events, and to be told of overruns: no event_filter, no no_enobufs")
        session = MirrorSession(resync_delay=options.get("resync_delay", 0.0), refresh=options.get("refresh"), max_events=limit)
    else:
        session = ConntrackSession(max_events=limit)
    # The filter first: what is let in before it is attached nobody takes out again.
    if (events := options.get("event_filter")) is not None:
        session.filter_events(events)
    if options.get("reliable", False):
        session.be_reliable()
    if followed:
        session.follow(*_groups(FLOWS if followed is True else followed))
    return session


def _groups(kinds: Iterable[str]) -> list[Group]:
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in kinds:
        if kind not in GROUPS:
            raise ValueError(f"there are no events {kind!r}; there are {', '.join(GROUPS)}")
    return [GROUPS[kind] for kind in kinds]
