"""The conversation with ctnetlink: requests about flows and expectations, and the events of a table that changes meanwhile.

How requests are answered is told in `nfnl.session.requests`. What is dangerous is refused before it is sent, or put right: a
deletion that names no tuple takes the whole table with it, whatever else it says, and a flush of one family with header version 0
all families.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

from nfnl.errors import LocalProtocolError
from nfnl.session.base import Hints
from nfnl.session.eventfilter import EventFilter
from nfnl.session.events import ExpectationDestroyed, ExpectationNew, FlowDestroyed, FlowNew, FlowUpdated
from nfnl.session.expect import EXPECT_HINTS, ExpectRequests
from nfnl.session.flowspec import FlowFilter, helper_of, labels_of, reply_to, tcp_info, which
from nfnl.session.requests import MAX_EVENTS, Kind
from nfnl.subsys.conntrack import (
    DeleteFlow,
    DestroyedFlow,
    ExpectStatsCpu,
    Flow,
    FlowAttributes,
    GetDying,
    GetFlow,
    GetFlowCtrzero,
    GetStats,
    GetStatsCpu,
    GetUnconfirmed,
    Nat,
    NewFlow,
    ProtoInfo,
    SeqAdj,
    Stats,
    StatsCpu,
    Status,
    SynProxy,
    Tuple,
)
from nfnl.subsys.expect import DestroyedExpectation, Expectation
from nfnl.wire.constants import NlmsgFlag, SocketOption
from nfnl.wire.datagram import AttachFilter, JoinGroup, LeaveGroup, SetOption, SetReceiveBuffer

#: What a status must repeat of what the flow is: the kernel never clears these, and says EBUSY if they are missing.
_STICKY = Status.EXPECTED | Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED

HINTS: Hints = EXPECT_HINTS | {
    (NewFlow.__type__, errno.EPERM): "Either CAP_NET_ADMIN is missing, or the timeout of this flow is fixed (Status.FIXED_TIMEOUT)",
    (NewFlow.__type__, errno.EEXIST): "A flow has one of these tuples already, perhaps as its reply",
    (NewFlow.__type__, errno.ENOENT): "There is no flow with this tuple in this zone, or no master",
    (NewFlow.__type__, errno.EBUSY): "Bits of the status that are set stay set, and EXPECTED, CONFIRMED and DYING cannot change; "
    "nor can the helper of a flow that has one, or has a master",
    (
        NewFlow.__type__,
        errno.EOPNOTSUPP,
    ): "There is no helper of this name for this protocol and family, or the flow can have none; and "
    "translation and master can only be given to a new flow",
    (NewFlow.__type__, errno.EINVAL): "A new flow takes both tuples, whole, and a timeout; ICMP needs the type of a query; "
    "nests of SCTP, sequence adjustment and SYNPROXY must have all three values",
    (
        NewFlow.__type__,
        errno.ERANGE,
    ): "A TCP state is above 9, a window scale above 14, an SCTP state above 8, or a value short",
    (NewFlow.__type__, errno.ENOSPC): "The flow has no room for labels: they need a rule that uses them (-m connlabel, ct label)",
    (NewFlow.__type__, errno.ENOMEM): "The table is full (net.netfilter.nf_conntrack_max)",
    (GetFlow.__type__, errno.EPERM): "It takes CAP_NET_ADMIN",
    (GetFlow.__type__, errno.ENOENT): "There is no flow with this tuple in this zone",
    (GetFlow.__type__, errno.EBUSY): "Another dump is under way on this socket",
    (GetFlow.__type__, errno.EINVAL): "This kernel does not take one of the filters (tuples since 5.8, status since 5.18)",
    (GetFlowCtrzero.__type__, errno.ENOENT): "There is no flow with this tuple in this zone",
    (DeleteFlow.__type__, errno.EPERM): "It takes CAP_NET_ADMIN",
    (DeleteFlow.__type__, errno.ENOENT): "There is no flow with this tuple in this zone, or it has another id by now",
    (DeleteFlow.__type__, errno.EOPNOTSUPP): "Filters by tuple need Linux 6.8 to delete by",
}


def _new_or_updated(flow: Flow) -> FlowNew | FlowUpdated:
    return FlowNew(flow) if flow.nlmsg_flags & NlmsgFlag.CREATE else FlowUpdated(flow)


class ConntrackSession(ExpectRequests):
    """A session with the connection tracker of a network namespace.

    Methods that ask something give back the number that the answers carry. They raise `LocalProtocolError` for what the kernel
    would take for something else, and `EncodeError` for values that do not fit; nothing has changed then.
    """

    hints = HINTS
    entry = Flow
    answers = (Flow, Expectation, Stats, StatsCpu, ExpectStatsCpu)
    happenings = {  # noqa: RUF012 -- a table of the class
        Flow: _new_or_updated,
        DestroyedFlow: FlowDestroyed,
        Expectation: ExpectationNew,
        DestroyedExpectation: ExpectationDestroyed,
    }

    def __init__(self, *, max_events: int = MAX_EVENTS) -> None:
        super().__init__(max_events=max_events)
        #: multicast groups the socket was asked to be in
        self.groups: frozenset[int] = frozenset()

    # -- events ----------------------------------------------------------------------------------------------------------------

    def follow(self, *groups: int) -> None:
        """Join multicast groups (`Group`), where they are not joined already: their events come from now on."""
        for group in groups:
            if group not in self.groups:
                self._wanted.append(JoinGroup(group))
        self.groups |= frozenset(groups)

    def unfollow(self, *groups: int) -> None:
        """Leave multicast groups. What is in the socket already still comes."""
        for group in groups:
            if group in self.groups:
                self._wanted.append(LeaveGroup(group))
        self.groups -= frozenset(groups)

    def filter_events(self, events: EventFilter | None) -> None:
        """Have the kernel let in only some events from now on; None: all. What is in the socket already still comes."""
        self._wanted.append(AttachFilter(events.program if events is not None else ()))

    def size_buffer(self, size: int) -> None:
        """Ask for a receive buffer of ``size`` bytes, which the kernel doubles. An event takes about 700 to 1300 of them."""
        self._wanted.append(SetReceiveBuffer(size))

    def be_reliable(self) -> None:
        """Have the kernel keep what did not fit the receive buffer and tell it later (NETLINK_BROADCAST_ERROR).

        Destroyed flows then stay, invisible, until their event has been told; others tell what was missed with their next event.
        """
        self._wanted.append(SetOption(SocketOption.BROADCAST_ERROR, True))

    # -- flows -----------------------------------------------------------------------------------------------------------------

    def dump(self, wanted: FlowFilter = FlowFilter(), *, zero: bool = False) -> int:
        """List flows. With ``zero`` the counters of those that are listed start again from 0.

        The kernel may list more than is wanted: see `FlowFilter`. Raises `LocalProtocolError` while another list is under way, and
        for ``zero`` with a filter that the kernel cannot be left alone with.
        """
        why = wanted.unselectable()
        if zero and why:
            raise LocalProtocolError(f"this would also zero the counters of others: {why}")
        return self._ask(Kind.DUMP, GetFlowCtrzero if zero else GetFlow, "list flows", wanted.request())

    def dump_dying(self) -> int:
        """List flows that are gone but whose event is still to be told (see `be_reliable`). Since Linux 3.8."""
        return self._ask(Kind.DUMP, GetDying, "list dying flows")

    def dump_unconfirmed(self) -> int:
        """List flows whose first packet is still under way. Since Linux 3.8; always empty since 6.0."""
        return self._ask(Kind.DUMP, GetUnconfirmed, "list unconfirmed flows")

    def get(self, target: Tuple | FlowAttributes, *, zone: int | None = None, zero: bool = False) -> int:
        """Ask for one flow, by a tuple of either direction. With ``zero`` its counters start again from 0."""
        message = GetFlowCtrzero if zero else GetFlow
        return self._ask(Kind.QUERY, message, f"get {_words(target)}", which(target, zone))

    def create(
        self,
        original: Tuple,
        *,
        timeout: int,
        reply: Tuple | None = None,
        zone: int | None = None,
        exclusive: bool = True,
        status: Status | None = None,
        mark: int | None = None,
        tcp_state: int | None = None,
        protoinfo: ProtoInfo | None = None,
        helper: str | None = None,
        nat_src: Nat | None = None,
        nat_dst: Nat | None = None,
        master: Tuple | None = None,
        labels: bytes | Iterable[int] | None = None,
        seq_adj_original: SeqAdj | None = None,
        seq_adj_reply: SeqAdj | None = None,
        synproxy: SynProxy | None = None,
    ) -> int:
        """Make a flow that lives for ``timeout`` seconds; one that exists is an error, or is changed if not ``exclusive``.

        ``reply`` is what answers ``original`` unless given. CONFIRMED is added to ``status``, as the kernel wants it. Labels are
        numbers or a bitmap; without room for them (a rule that uses labels) the kernel says nothing and forgets them.
        """
        content = self._content(timeout, status, mark, None, tcp_state, protoinfo, helper, labels, None) | {
            "reply": reply_to(original) if reply is None else reply,
            "nat_src": nat_src,
            "nat_dst": nat_dst,
            "master": master,
            "seq_adj_original": seq_adj_original,
            "seq_adj_reply": seq_adj_reply,
            "synproxy": synproxy,
        }
        flags = NlmsgFlag.CREATE | (NlmsgFlag.EXCL if exclusive else 0)
        fields = which(original, zone) | content
        # Asked again because the answer was lost, it finds what it made the first time.
        again = errno.EEXIST if exclusive else None
        return self._ask(Kind.COMMAND, NewFlow, f"create {original}", fields, flags=flags, done_already=again)

    def update(
        self,
        target: Tuple | FlowAttributes,
        *,
        zone: int | None = None,
        timeout: int | None = None,
        status: Status | None = None,
        mark: int | None = None,
        mark_mask: int | None = None,
        tcp_state: int | None = None,
        protoinfo: ProtoInfo | None = None,
        helper: str | None = None,
        labels: bytes | Iterable[int] | None = None,
        labels_mask: bytes | Iterable[int] | None = None,
        seq_adj_original: SeqAdj | None = None,
        seq_adj_reply: SeqAdj | None = None,
        synproxy: SynProxy | None = None,
    ) -> int:
        """Change a flow, named by one of its tuples or by what is known of it. If it is refused, part of it may have been done.

        Bits of ``status`` are set, none is ever cleared; what the kernel wants repeated is added, as far as the flow is known. Of
        mark and labels only what the masks have changes; without masks all of it. The kernel looks a flow up by its tuple
        alone: if another one took its place, that one is changed.
        """
        if status is not None and not isinstance(target, Tuple):
            status |= (target.status or Status(0)) & _STICKY
        content = self._content(timeout, status, mark, mark_mask, tcp_state, protoinfo, helper, labels, labels_mask) | {
            "seq_adj_original": seq_adj_original,
            "seq_adj_reply": seq_adj_reply,
            "synproxy": synproxy,
        }
        return self._ask(Kind.COMMAND, NewFlow, f"update {_words(target)}", which(target, zone) | content)

    def _content(
        self,
        timeout: int | None,
        status: Status | None,
        mark: int | None,
        mark_mask: int | None,
        tcp_state: int | None,
        protoinfo: ProtoInfo | None,
        helper: str | None,
        labels: bytes | Iterable[int] | None,
        labels_mask: bytes | Iterable[int] | None,
    ) -> dict[str, Any]:
        """What requests to make and to change have in common."""
        if mark_mask is not None and (mark is None or mark & ~mark_mask):
            raise LocalProtocolError("mark_mask needs a mark that lies inside it: bits outside would be turned over, not set")
        if labels_mask is not None and labels is None:
            raise LocalProtocolError("labels_mask needs labels")
        if tcp_state is not None and protoinfo is not None:
            raise LocalProtocolError("tcp_state and protoinfo say the same: give one of them")
        return {
            "timeout": timeout,
            "status": None if status is None else status | Status.CONFIRMED,
            "mark": mark,
            "mark_mask": mark_mask,
            "protoinfo": protoinfo if tcp_state is None else tcp_info(tcp_state),
            "help": None if helper is None else helper_of(helper),
            "labels": None if labels is None else labels_of(labels),
            "labels_mask": None if labels_mask is None else labels_of(labels_mask),
        }

    def delete(self, target: Tuple | FlowAttributes, *, zone: int | None = None, id: int | None = None) -> int:  # noqa: A002
        """Delete one flow. The id of a flow that is known, or the one given, keeps the kernel from deleting another in its place.

        Raises `LocalProtocolError` if no whole tuple names it: a request without one would delete all flows, id or not.
        """
        if id is None and not isinstance(target, Tuple):
            id = target.id  # noqa: A001
        fields = which(target, zone) | {"id": id}
        return self._ask(Kind.COMMAND, DeleteFlow, f"delete {_words(target)}", fields, done_already=errno.ENOENT)

    def flush(self, wanted: FlowFilter = FlowFilter()) -> int:
        """Delete all flows, or all that are wanted.

        Family and mark select on all kernels. Status needs Linux 5.18, zone and tuples 6.8: **an older kernel may take no notice
        and delete everything**, so know yours. Raises `LocalProtocolError` for what no kernel selects by as it is meant.
        """
        why = wanted.unselectable()
        if why:
            raise LocalProtocolError(f"this would delete others, too: {why}; delete them one by one")
        # With version 0 the kernel takes no notice of the family: `ctnetlink_flush_conntrack`.
        return self._ask(Kind.COMMAND, DeleteFlow, "flush flows", wanted.request() | {"nfgen_version": 1})

    def stats(self) -> int:
        """Ask how many flows there are, and may be (`Stats`). Since Linux 3.6."""
        return self._ask(Kind.QUERY, GetStats, "count flows")

    def cpu_stats(self) -> int:
        """Ask what each CPU has counted (`StatsCpu`). Since Linux 3.6."""
        return self._ask(Kind.DUMP, GetStatsCpu, "list statistics")


def _words(target: Tuple | FlowAttributes) -> str:
    return str(target if isinstance(target, Tuple) else target.original or target.reply)
