"""Connection tracking over netlink: requests about flows (net/netfilter/nf_conntrack_netlink.c)."""

from __future__ import annotations

from nfnl.sim.af_netlink import SocketTable
from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_change import Changes, change_labels
from nfnl.sim.ct_dumps import DyingDump, FlowDump, Listed
from nfnl.sim.ct_entry import Entry, Event, Status
from nfnl.sim.ct_filter import wanted_flows
from nfnl.sim.ct_messages import flow_message, statistics_message
from nfnl.sim.ct_notify import Notifier
from nfnl.sim.ct_proc import ConntrackFiles
from nfnl.sim.ct_requests import N, ZoneGiven, read_tuple, u32
from nfnl.sim.dump import GOODSIZE, start_dump
from nfnl.sim.errnos import Errno
from nfnl.sim.expectations import ExpectationTable
from nfnl.sim.nat import Nat
from nfnl.sim.netlink import Refusal, Request
from nfnl.sim.nfnetlink import REJECTED, Attributes, Handler, Nfnetlink, Operation, at_most
from nfnl.sim.tuples import Tuple
from nfnl.subsys.conntrack import LABELS_SIZE, NewFlow, Stats, StatsCpu
from nfnl.wire.constants import NlmsgFlag, SubsystemId

NOT_MODELLED = {
    "several processors": "statistics are those of one, number 0",
    "helpers in user space (CTA_HELP_INFO)": "ignored; there are only those that come with Linux",
    "CTA_SECCTX": "never told, as in a system without a security module",
    "what kernels before 6.12 did otherwise": "profiles of older kernels differ in which attributes they know, and in nothing else",
}

_ORIGINAL, _REPLY, _ZONE, _ID, _LABELS, _FILTER = (N[name] for name in ("original", "reply", "zone", "id", "labels", "filter"))
_CREATE, _EXCL, _ECHO = int(NlmsgFlag.CREATE), int(NlmsgFlag.EXCL), int(NlmsgFlag.ECHO)
#: either bit of it asks for a dump
_DUMP = int(NlmsgFlag.DUMP)
_MULTI, _FILTERED = int(NlmsgFlag.MULTI), int(NlmsgFlag.DUMP_FILTERED)

#: what a request that was carried out is told with, whether it changed that or not
_CHANGED = Event.REPLY | Event.ASSURED | Event.HELPER | Event.PROTOINFO | Event.SEQADJ | Event.MARK | Event.SYNPROXY

_STATS = Stats.__type__
_STATS_CPU = StatsCpu.__type__
#: those that kernels still tell (`ctnetlink_ct_stat_cpu_fill_info`); the others had gone before the oldest profile
_TOLD = (
    "found",
    "invalid",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "error",
    "search_restart",
    "clash_resolve",
    "chain_toolong",
)


def answer(request: Request, data: bytes) -> None:
    """Send the one message that answers a request (`nfnetlink_unicast`). Raises `Refusal` (ENOBUFS) where the asker has no room."""
    sockets = request.sock.table
    if not sockets.unicast(request.sock.port, data, sockets.profile.truesize(GOODSIZE, len(data))):
        raise Refusal(Errno.ENOBUFS)


class ConntrackSubsystem:
    """The flows of a namespace as netlink sockets see them. It registers itself."""

    __slots__ = ("_profile", "_table", "changes", "checks")

    def __init__(
        self, nfnetlink: Nfnetlink, sockets: SocketTable, table: ConntrackTable, expectations: ExpectationTable, nat: Nat
    ) -> None:
        self._table = table
        self._profile = profile = sockets.profile
        self.changes = Changes(table, expectations, nat)
        Notifier(sockets, table, expectations)
        unknown = [field.name for field in NewFlow.__attrs__ if not profile.knows(field.since)]
        checks = {N["labels"]: at_most(LABELS_SIZE), N["labels_mask"]: at_most(LABELS_SIZE), N["timestamp_event"]: REJECTED}
        checks = {number: check for number, check in checks.items() if number not in {N[name] for name in unknown}}

        def operation(handler: Handler, *, plain: bool = False) -> Operation:
            """``plain``: the kernel looks at no attributes."""
            declarations = () if plain else (NewFlow,)
            return Operation(handler, *declarations, unknown=unknown, checks={} if plain else checks)

        #: what is checked of a flow's attributes, wherever they stand
        self.checks = operation(self._new).checks
        nfnetlink.register(
            SubsystemId.CTNETLINK,
            {
                0: operation(self._new),
                1: operation(self._get),
                2: operation(self._delete),
                3: operation(self._get_ctrzero),
                4: operation(self._stats_cpu, plain=True),
                5: operation(self._stats, plain=True),
                6: operation(self._dying, plain=True),
                7: operation(self._unconfirmed, plain=True),
            },
            ConntrackFiles(table, expectations).files(),
        )

    # ---------------------------------------------------------------------------------------------------- making and changing

    def _new(self, request: Request, attributes: Attributes) -> None:
        """`ctnetlink_new_conntrack`."""
        table = self._table
        given = ZoneGiven(attributes.get(_ZONE))
        original, reply = (
            read_tuple(attributes[number], request.family, given, direction) if number in attributes else None
            for direction, number in ((1, _ORIGINAL), (2, _REPLY))
        )
        looked_up = original or reply
        entry = table.find(given.zone, looked_up) if looked_up is not None else None
        if entry is not None:
            if request.flags & _EXCL:
                raise Refusal(Errno.EEXIST)
            self.changes.change(entry, attributes)
            self._tell(request, entry, Event.LABEL)
            return
        if not request.flags & _CREATE:
            raise Refusal(Errno.ENOENT)
        if original is None or reply is None or original.protocol != reply.protocol:
            raise Refusal(Errno.EINVAL)
        entry = self.changes.create(given.zone, original, reply, attributes)
        bits = Event.RELATED if entry.status & Status.EXPECTED else Event.NEW
        if _LABELS in attributes:
            try:
                change_labels(entry, attributes)
            except Refusal:
                pass  # nobody is told
            else:
                bits |= Event.LABEL
        self._tell(request, entry, bits)

    def _tell(self, request: Request, entry: Entry, bits: int) -> None:
        self._table.events.report(entry, _CHANGED | bits, request.sock.port, bool(request.flags & _ECHO))

    # ----------------------------------------------------------------------------------------------------------------- asking

    def _find(self, request: Request, attributes: Attributes) -> Entry | None:
        """The flow a request names; ENOENT if there is none. None: it names none."""
        given = ZoneGiven(attributes.get(_ZONE))
        for direction, number in ((1, _ORIGINAL), (2, _REPLY)):
            if number in attributes:
                named: Tuple = read_tuple(attributes[number], request.family, given, direction)
                entry = self._table.find(given.zone, named)
                if entry is None:
                    raise Refusal(Errno.ENOENT)
                return entry
        return None

    def _get(self, request: Request, attributes: Attributes) -> None:
        self._show(request, attributes, reset=False)

    def _get_ctrzero(self, request: Request, attributes: Attributes) -> None:
        self._show(request, attributes, reset=True)

    def _show(self, request: Request, attributes: Attributes, *, reset: bool) -> None:
        """`ctnetlink_get_conntrack`."""
        port = request.sock.port
        if request.flags & _DUMP:
            wanted = wanted_flows(request, attributes, request.family, inverted=self._profile.filter_inverts_ipv6)
            done_flags = _FILTERED if wanted is not None and self._profile.done_says_filtered else 0
            start_dump(request, FlowDump(self._table, wanted, port, request.seq, reset=reset).fill, done_flags)
            return
        entry = self._find(request, attributes)
        if entry is None:
            raise Refusal(Errno.EINVAL)
        # looking it up takes a reference, which shows
        message = flow_message(entry, self._table, port, request.seq, _MULTI, entry.use + 1, reset=reset)
        assert message is not None
        answer(request, message)

    # --------------------------------------------------------------------------------------------------------------- deleting

    def _delete(self, request: Request, attributes: Attributes) -> None:
        """`ctnetlink_del_conntrack`. What names no flow is a flush."""
        port, report = request.sock.port, bool(request.flags & _ECHO)
        entry = self._find(request, attributes) if _FILTER not in attributes else None
        if entry is not None:
            if _ID in attributes and u32(attributes[_ID])[0] != entry.id:
                raise Refusal(Errno.ENOENT)
            self._table.delete(entry, port, report)
            return
        family = request.family if request.version or _FILTER in attributes else 0
        wanted = wanted_flows(request, attributes, family, inverted=self._profile.filter_inverts_ipv6)
        self._table.flush(wanted.matches if wanted is not None else None, port, report)

    # ------------------------------------------------------------------------------------------------------------- statistics

    def _stats_cpu(self, request: Request, attributes: Attributes) -> None:
        if request.flags & _DUMP:
            counted = self._table.statistics
            numbers = {
                field.number: getattr(counted, field.name.replace("chain_", "chain"))
                for field in StatsCpu.__attrs__
                if field.name in _TOLD and self._profile.knows(field.since)
            }
            start_dump(request, Listed(statistics_message(_STATS_CPU, request.seq, request.sock.port, numbers)).fill)

    def _stats(self, request: Request, attributes: Attributes) -> None:
        numbers = {1: self._table.count, 2: self._table.sysctls.current["max"]}
        answer(request, statistics_message(_STATS, request.seq, request.sock.port, numbers))

    def _dying(self, request: Request, attributes: Attributes) -> None:
        if not request.flags & _DUMP:
            raise Refusal(Errno.EOPNOTSUPP)
        start_dump(request, DyingDump(self._table, request.family, request.sock.port, request.seq).fill)

    def _unconfirmed(self, request: Request, attributes: Attributes) -> None:
        """Always empty: flows are kept in no list before they are confirmed."""
        if not request.flags & _DUMP:
            raise Refusal(Errno.EOPNOTSUPP)
        start_dump(request, Listed().fill)
