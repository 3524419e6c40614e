"""Connection tracking (ctnetlink): the flows that the kernel follows, their events, and changes to them.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h for numbers, net/netfilter/nf_conntrack_netlink.c for who says what, in
which order. All messages of a flow say it with the same attributes, those of `nfnl.subsys.flow`. What the kernel writes depends on
what it tells of: `Flow` is declared in the order of dumps; events have another one (see `View.in_order`).
"""

from __future__ import annotations

from nfnl.subsys.flow import (
    LABELS_SIZE,
    Counters,
    DccpInfo,
    DccpRole,
    DccpState,
    Filter,
    FilterFlag,
    FlowAttributes,
    FlowTimestamp,
    Help,
    Nat,
    NatProto,
    ProtoInfo,
    SctpInfo,
    SctpState,
    SecCtx,
    SeqAdj,
    Status,
    SynProxy,
    TcpFlag,
    TcpFlags,
    TcpInfo,
    TcpState,
    label_bitmap,
    labels_in,
)
from nfnl.subsys.tuples import (
    NEST,
    Protocol,
    Tuple,
    TupleIp,
    TupleProto,
    protocol_words,
)
from nfnl.wire.constants import SubsystemId
from nfnl.wire.declare import AttrSet, Direction, Message, Subsystem, attr
from nfnl.wire.layout import Be32

__all__ = [
    "CONNTRACK",
    "LABELS_SIZE",
    "NEST",
    "AttachedFlow",
    "Counters",
    "DccpInfo",
    "DccpRole",
    "DccpState",
    "DeleteFlow",
    "DestroyedFlow",
    "ExpectStatsCpu",
    "Filter",
    "FilterFlag",
    "Flow",
    "FlowAttributes",
    "FlowTimestamp",
    "GetDying",
    "GetFlow",
    "GetFlowCtrzero",
    "GetStats",
    "GetStatsCpu",
    "GetUnconfirmed",
    "Help",
    "Nat",
    "NatProto",
    "NewFlow",
    "ProtoInfo",
    "Protocol",
    "SctpInfo",
    "SctpState",
    "SecCtx",
    "SeqAdj",
    "Stats",
    "StatsCpu",
    "Status",
    "SynProxy",
    "TcpFlag",
    "TcpFlags",
    "TcpInfo",
    "TcpState",
    "Tuple",
    "TupleIp",
    "TupleProto",
    "label_bitmap",
    "labels_in",
    "protocol_words",
]

CONNTRACK = Subsystem(SubsystemId.CTNETLINK, "conntrack", "net/netfilter/nf_conntrack_netlink.c")


class AttachedFlow(
    FlowAttributes,
    AttrSet,
    wire_order="original reply zone id status timeout protoinfo counters_original counters_reply timestamp help secctx master "
    "seq_adj_original seq_adj_reply synproxy mark labels",
):
    """A flow as it stands in messages of other subsystems (NFQA_CT): what ctnetlink's glue writes, in its order, and reads.

    Of what comes back along with a verdict the kernel takes timeout, status, help, labels and mark, the last two with their masks.
    """

    __slots__ = ()
    __told_by__ = "conntrack.Flow"


# --- from the kernel ---------------------------------------------------------------------------------------------------------


class Flow(FlowAttributes, Message, subsystem=CONNTRACK, type=0, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_CT_NEW"):
    """A flow: an entry of a dump, the answer to a request, or an event. ``nfgen_family`` is its family.

    Answers have NLM_F_MULTI and the number of their request. An event has neither: with NLM_F_CREATE it tells of a new flow (group
    CONNTRACK_NEW), without of a change (CONNTRACK_UPDATE), and it carries less than a dump and in another order.
    """

    __slots__ = ()

    original: Tuple = attr(1, "CTA_TUPLE_ORIG", policy=NEST, doc="packets from the side that began")
    reply: Tuple = attr(2, "CTA_TUPLE_REPLY", policy=NEST, doc="packets that answer, as they come back")


class DestroyedFlow(
    FlowAttributes,
    Message,
    subsystem=CONNTRACK,
    type=2,
    direction=Direction.FROM_KERNEL,
    kernel_name="IPCTNL_MSG_CT_DELETE",
    wire_order="original reply zone id status timeout counters_original counters_reply timestamp protoinfo mark timestamp_event",
):
    """A flow is gone (group CONNTRACK_DESTROY): deleted, timed out, or thrown out early. The order is that of the event."""

    __slots__ = ()

    original: Tuple = attr(1, "CTA_TUPLE_ORIG", policy=NEST, doc="packets from the side that began")
    reply: Tuple = attr(2, "CTA_TUPLE_REPLY", policy=NEST, doc="packets that answer, as they come back")


class StatsCpu(Message, subsystem=CONNTRACK, type=4, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_STATS_CPU"):
    """What one CPU has counted since boot (since 3.6). ``res_id`` is the number of the CPU; one message for each possible one."""

    __slots__ = ()

    searched: Be32 | None = attr(1, "CTA_STATS_SEARCHED", default=None, doc="lookups; before 4.9")
    found: Be32 | None = attr(2, "CTA_STATS_FOUND", default=None, doc="searches that met a taken tuple, in NAT")
    new: Be32 | None = attr(3, "CTA_STATS_NEW", default=None, doc="flows begun; before 4.9")
    invalid: Be32 | None = attr(4, "CTA_STATS_INVALID", default=None, doc="packets that could not be tracked")
    ignore: Be32 | None = attr(5, "CTA_STATS_IGNORE", default=None, doc="packets that had a flow already; before 5.10")
    delete: Be32 | None = attr(6, "CTA_STATS_DELETE", default=None, doc="flows removed; before 4.9")
    delete_list: Be32 | None = attr(7, "CTA_STATS_DELETE_LIST", default=None, doc="flows put on the dying list; before 4.9")
    insert: Be32 | None = attr(8, "CTA_STATS_INSERT", default=None, doc="flows put in by ctnetlink")
    insert_failed: Be32 | None = attr(9, "CTA_STATS_INSERT_FAILED", default=None, doc="insertions that found the tuple taken")
    drop: Be32 | None = attr(10, "CTA_STATS_DROP", default=None, doc="packets dropped as no flow could be made or put in for them")
    early_drop: Be32 | None = attr(11, "CTA_STATS_EARLY_DROP", default=None, doc="flows thrown out to make room in a full table")
    error: Be32 | None = attr(12, "CTA_STATS_ERROR", default=None, doc="ICMP errors that were refused")
    search_restart: Be32 | None = attr(13, "CTA_STATS_SEARCH_RESTART", default=None, doc="lookups begun again during a resize")
    clash_resolve: Be32 | None = attr(
        14, "CTA_STATS_CLASH_RESOLVE", default=None, since="5.10", doc="clashes of two first packets that could be resolved"
    )
    chain_toolong: Be32 | None = attr(
        15, "CTA_STATS_CHAIN_TOOLONG", default=None, since="5.15", doc="insertions refused as the hash chain was too long"
    )


class Stats(Message, subsystem=CONNTRACK, type=5, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_STATS"):
    """The table as a whole (since 3.6)."""

    __slots__ = ()

    entries: Be32 | None = attr(1, "CTA_STATS_GLOBAL_ENTRIES", default=None, doc="flows there are, unconfirmed and dying ones too")
    max_entries: Be32 | None = attr(
        2, "CTA_STATS_GLOBAL_MAX_ENTRIES", default=None, since="4.18", doc="flows there may be (nf_conntrack_max)"
    )


class ExpectStatsCpu(
    Message, subsystem=CONNTRACK, type=3, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_EXP_GET_STATS_CPU"
):
    """What one CPU has counted of expectations (since 3.6); ``res_id`` is its number.

    It answers a request to subsystem 2, but the kernel writes subsystem 1 into its type.
    """

    __slots__ = ()

    new: Be32 | None = attr(1, "CTA_STATS_EXP_NEW", default=None, doc="flows that had been expected")
    create: Be32 | None = attr(2, "CTA_STATS_EXP_CREATE", default=None, doc="expectations made")
    delete: Be32 | None = attr(3, "CTA_STATS_EXP_DELETE", default=None, doc="expectations removed")


# --- to the kernel -----------------------------------------------------------------------------------------------------------


class NewFlow(FlowAttributes, Message, subsystem=CONNTRACK, type=0, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_NEW"):
    """Make a flow (NLM_F_CREATE; with NLM_F_EXCL it must be new), or change one.

    Looked up by ``original``, else by ``reply``. Making one takes both, and a timeout.
    """

    __slots__ = ()


class GetFlow(FlowAttributes, Message, subsystem=CONNTRACK, type=1, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET"):
    """Ask for a flow by ``original`` or else ``reply`` (and ``zone``), or with NLM_F_DUMP for all that a filter lets through.

    What filters in a dump: ``nfgen_family``, mark and mark_mask, status and status_mask, zone, filter with its tuples.
    """

    __slots__ = ()


class DeleteFlow(
    FlowAttributes, Message, subsystem=CONNTRACK, type=2, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_DELETE"
):
    """Delete a flow by ``original`` or else ``reply`` (with ``zone`` and ``id``).

    **Without a tuple it deletes all flows** that a filter lets through, and ``id`` alone is no filter; ``nfgen_family`` is one only
    with ``nfgen_version`` 1 or with ``filter``.
    """

    __slots__ = ()


class GetFlowCtrzero(
    FlowAttributes, Message, subsystem=CONNTRACK, type=3, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_CTRZERO"
):
    """Like `GetFlow`, and the counters of what is shown start again from 0. Each of the four numbers is exchanged for itself."""

    __slots__ = ()


class GetStatsCpu(Message, subsystem=CONNTRACK, type=4, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_STATS_CPU"):
    """Ask for `StatsCpu` of every CPU (since 3.6). Only as a dump; without NLM_F_DUMP it does nothing."""

    __slots__ = ()


class GetStats(Message, subsystem=CONNTRACK, type=5, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_STATS"):
    """Ask for `Stats` (since 3.6)."""

    __slots__ = ()


class GetDying(Message, subsystem=CONNTRACK, type=6, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_DYING"):
    """Ask for the flows that are gone but whose event is still to be told (since 3.8): only as a dump, else EOPNOTSUPP."""

    __slots__ = ()


class GetUnconfirmed(
    Message, subsystem=CONNTRACK, type=7, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_CT_GET_UNCONFIRMED"
):
    """Ask for the flows whose first packet is under way (since 3.8; none on current kernels): only as a dump, else EOPNOTSUPP."""

    __slots__ = ()
