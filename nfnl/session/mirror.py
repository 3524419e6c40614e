"""A copy of the kernel's table of flows, kept up to date by events, and made anew when some were lost.

What an event says is laid over what is known of its flow. When the socket overran, nobody knows what is missing, so the table is
read again; events that come meanwhile count for the old copy and the new one, and the new one takes the place of the old when
the dump has come to its end whole.

One race is the kernel's own: a part of a dump is filled, then a flow in it is destroyed, and the event may overtake the part on
its way into the socket. So events are remembered until the next part has come: what was destroyed does not rise again, and what
was changed is laid over what the part says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf

from nfnl.session.conntrack import ConntrackSession
from nfnl.session.events import (
    Answered,
    DumpDone,
    DumpInterrupted,
    Event,
    FlowDestroyed,
    FlowNew,
    FlowUpdated,
    Refused,
    Resynced,
    Undecodable,
)
from nfnl.session.requests import MAX_EVENTS, Request
from nfnl.subsys.conntrack import Flow, FlowAttributes, Tuple
from nfnl.wire.compiled import BODY, codec, message_bytes, wire_attributes
from nfnl.wire.constants import NLA_HDRLEN, NLA_TYPE_MASK, Group
from nfnl.wire.declare import HEADER_FIELDS

#: a flow's zone and the bytes of its original tuple: what no two flows have in common. Ids are hashes, and may be alike
Key = tuple[int, bytes]

#: Events are laid over a flow when somebody looks at it, or when there are so many of them.
_LAYERS = 8
_NUMBERS = {field.name: field.number for field in Flow.__attrs__}
#: Of what an event does not have, this tells that the flow has none (`ctnetlink_conntrack_event`) ...
_TELLING = {_NUMBERS["mark"], _NUMBERS["help"]}
#: ... and if a request caused it, this, too: it then speaks of everything that could have changed.
_TELLING_OF_REQUESTS = _TELLING | {_NUMBERS["labels"]}
_NOT_OF_THE_FLOW = {_NUMBERS["timestamp_event"]}


class FlowMirror:
    """The flows as far as they are known: a collection of `Flow`.

    A flow has what the last dump and the events since then said of it, so its counters are those of the dump. Labels cleared by
    other means than a request of ctnetlink, and flows that send no events (made while nobody listened, with
    ``net.netfilter.nf_conntrack_events`` at its default of 2), are put right by the next dump only.
    """

    def __init__(self) -> None:
        self._flows: dict[Key, list[Flow]] = {}
        self._fresh: dict[Key, list[Flow]] | None = None
        self._spoiled = False
        # since the last part of the dump under way
        self._changed: dict[Key, list[Flow]] = {}
        self._destroyed: set[tuple[Key, int | None]] = set()
        #: it was the kernel's table when the last event came; False: something was lost, or nothing has been read yet
        self.synced = False
        #: how often the table was read to its end
        self.resyncs = 0

    # -- looking ---------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        for layers in list(self._flows.values()):
            yield _whole(layers)

    def __contains__(self, wanted: object) -> bool:
        return isinstance(wanted, Tuple | FlowAttributes) and self.find(wanted) is not None

    def find(self, wanted: Tuple | FlowAttributes, zone: int = 0) -> Flow | None:
        """The flow with this original tuple, as it is known now; None if there is none."""
        if isinstance(wanted, Tuple):
            key = zone, bytes(wanted)
        elif wanted.original is not None:
            key = wanted.zone or 0, bytes(wanted.original)
        else:
            return None
        layers = self._flows.get(key)
        return None if layers is None else _whole(layers)

    # -- being told ------------------------------------------------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        """Take in an event, in the order in which the socket had it."""
        if isinstance(event, FlowNew | FlowUpdated):
            flow = event.flow
            key = key_of(flow)
            _lay(self._flows, key, flow)
            if self._fresh is not None:
                _lay(self._fresh, key, flow)
                self._changed.setdefault(key, []).append(flow)
        elif isinstance(event, FlowDestroyed):
            gone = event.flow
            key = key_of(gone)
            _remove(self._flows, key, gone.id)
            if self._fresh is not None:
                _remove(self._fresh, key, gone.id)
                self._changed.pop(key, None)
                self._destroyed.add((key, gone.id))

    def lost(self) -> None:
        """Some events were lost: what is known may be wrong from now on, and a dump under way will not do."""
        self.synced = False
        self._spoiled = True

    def begin(self) -> None:
        """The table is being read from now on."""
        self._fresh = {}
        self._spoiled = False
        self._changed.clear()
        self._destroyed.clear()

    def part(self, flows: Iterable[Flow]) -> None:
        """A part of the dump, in order with the events."""
        assert self._fresh is not None
        for flow in flows:
            key = key_of(flow)
            if (key, flow.id) not in self._destroyed:
                self._fresh[key] = [flow, *self._changed.get(key, ())]
        self._changed.clear()
        self._destroyed.clear()

    def end(self, whole: bool) -> bool:
        """The dump has come to its end. True: this is the kernel's table now."""
        fresh, self._fresh = self._fresh, None
        self._changed.clear()
        self._destroyed.clear()
        if fresh is None or not whole or self._spoiled:
            return False
        self._flows = fresh
        self.synced = True
        self.resyncs += 1
        return True


def key_of(flow: FlowAttributes) -> Key:
    """What tells a flow from all others of its table."""
    return flow.zone or 0, bytes(flow.original or b"")


def _lay(flows: dict[Key, list[Flow]], key: Key, flow: Flow) -> None:
    layers = flows.get(key)
    if layers is None or layers[-1].id != flow.id:
        flows[key] = [flow]
        return
    layers.append(flow)
    if len(layers) > _LAYERS:
        _whole(layers)


def _remove(flows: dict[Key, list[Flow]], key: Key, id_: int | None) -> None:
    """Unless another flow has taken its place already: a dump may be ahead of the events."""
    layers = flows.get(key)
    if layers is not None and layers[-1].id == id_:
        del flows[key]


def _whole(layers: list[Flow]) -> Flow:
    """The flow of these layers, which are one from now on."""
    if len(layers) > 1:
        flow = layers[0]
        for event in layers[1:]:
            flow = _laid_over(flow, event)
        layers[:] = [flow]
    return layers[0]


def _laid_over(flow: Flow, event: Flow) -> Flow:
    """The flow with everything the event says of it. Byte by byte: nothing is decoded for it."""
    order = flow._order
    said = {wire.type & NLA_TYPE_MASK: wire for wire in wire_attributes(event._data, BODY, event.nlmsg_len, order)}
    silent = (_TELLING_OF_REQUESTS if event.nlmsg_pid else _TELLING) - said.keys()
    body = bytearray()
    for wire in wire_attributes(flow._data, BODY, flow.nlmsg_len, order):
        number = wire.type & NLA_TYPE_MASK
        if number in silent:
            continue
        _, type_, data, _ = said.pop(number, wire)
        body += order.attr.pack(NLA_HDRLEN + len(data), type_) + data + b"\0" * (-len(data) % 4)
    for number, (_, type_, data, _) in said.items():
        if number not in _NOT_OF_THE_FLOW:
            body += order.attr.pack(NLA_HDRLEN + len(data), type_) + data + b"\0" * (-len(data) % 4)
    header = {name: getattr(flow, name) for name in HEADER_FIELDS}
    decoded: Flow = codec(Flow, order).decode(message_bytes(Flow.__type__, header, bytes(body), order, "Flow"))
    return decoded


class MirrorSession(ConntrackSession):
    """A `ConntrackSession` that keeps a `FlowMirror`: it follows flows, and reads the table at once and after every loss.

    After an overrun it waits ``resync_delay`` seconds before it reads the table again, and what is lost in between costs
    nothing more: a machine that is too busy for all its events is not kept busy by dumps. ``refresh`` seconds after a dump the
    table is read again even if nothing was lost; None: never.
    """

    def __init__(self, *, resync_delay: float = 0.0, refresh: float | None = None, max_events: int = MAX_EVENTS) -> None:
        super().__init__(max_events=max_events)
        self.mirror = FlowMirror()
        self._delay = resync_delay
        self._refresh = inf if refresh is None else refresh
        self._resync: int | None = None  # the dump under way
        self._now = 0.0
        self.due = -inf  # when the table is to be read
        self.follow(Group.CONNTRACK_NEW, Group.CONNTRACK_UPDATE, Group.CONNTRACK_DESTROY)

    def receive_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Take in what the socket had, in order. Raises `RemoteProtocolError` for broken framing, after what came before it."""
        self._now = now
        super().receive_datagrams(datagrams, now)

    def receive_overrun(self, now: float) -> None:
        """The socket reported ENOBUFS: the table has to be read again."""
        self._now = now
        self._lose()
        super().receive_overrun(now)

    def receive_empty(self, now: float) -> None:
        """The socket has been read empty: now there is room for a dump, if it is time for one."""
        self._now = now
        super().receive_empty(now)
        if now >= self.due and not self.dumping:
            self.due = inf
            self._resync = self.dump()
            self.mirror.begin()

    def _lose(self) -> None:
        if self.mirror.synced or self._resync is not None:
            self.due = min(self.due, self._now + self._delay)
        self.mirror.lost()

    def _happened(self, event: Event) -> None:
        if isinstance(event, Undecodable):
            self._lose()  # it may have been an event
        self.mirror.happened(event)
        super()._happened(event)

    def _reply(self, pending: Request, event: Event) -> None:
        if pending.number != self._resync:
            super()._reply(pending, event)
        elif isinstance(event, Answered):
            self.mirror.part(message for message in event.messages if isinstance(message, Flow))
        elif isinstance(event, DumpDone | DumpInterrupted):
            self._resync = None
            if self.mirror.end(isinstance(event, DumpDone)):
                self.due = min(self.due, self._now + self._refresh)
                super()._happened(Resynced(len(self.mirror)))
            else:
                self.due = min(self.due, self._now + self._delay)
        else:
            if isinstance(event, Refused):
                self._resync = None
                self.mirror.end(False)
            super()._reply(pending, event)
