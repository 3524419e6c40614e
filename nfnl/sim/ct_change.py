"""Making flows and changing them as requests say (`ctnetlink_create_conntrack`, `ctnetlink_change_conntrack`).

The order of the steps is part of what can be seen: the first that is refused ends the request. A flow that is being made then
vanishes; one that is being changed keeps what was done before.
"""

from __future__ import annotations

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Status, change_status, replace_status
from nfnl.sim.ct_requests import (
    N,
    change_protoinfo,
    read_help,
    read_nat,
    read_seqadj,
    read_synproxy,
    read_tuple,
    replace_labels,
    u32,
)
from nfnl.sim.errnos import Errno
from nfnl.sim.expectations import ExpectationTable
from nfnl.sim.helpers import Help, find_helper
from nfnl.sim.nat import Manip, Nat
from nfnl.sim.netlink import Refusal
from nfnl.sim.nfnetlink import Attributes
from nfnl.sim.tuples import Tuple, Zone

_HELP, _TIMEOUT, _STATUS, _PROTOINFO, _SYNPROXY = N["help"], N["timeout"], N["status"], N["protoinfo"], N["synproxy"]
_MARK, _MARK_MASK, _LABELS, _LABELS_MASK = N["mark"], N["mark_mask"], N["labels"], N["labels_mask"]
_MASTER, _NAT_SRC, _NAT_DST = N["master"], N["nat_src"], N["nat_dst"]
_SEQADJ = (N["seq_adj_original"], N["seq_adj_reply"])


class Changes:
    """What requests do to the flows of a namespace."""

    __slots__ = ("_expectations", "_nat", "_table")

    def __init__(self, table: ConntrackTable, expectations: ExpectationTable, nat: Nat) -> None:
        self._table = table
        self._expectations = expectations
        self._nat = nat

    def create(self, zone: Zone, original: Tuple, reply: Tuple, attributes: Attributes) -> Entry:
        """A new flow, in the table. Raises `Refusal` or OSError; nothing is left behind then."""
        table = self._table
        entry = table.allocate(zone, original, reply)
        try:
            self._furnish(entry, attributes)
            table.stamp_start(entry)
            table.insert(entry)
        except (Refusal, OSError):
            table.put(entry)
            raise
        return entry

    def _furnish(self, entry: Entry, attributes: Attributes) -> None:
        table = self._table
        if _TIMEOUT not in attributes:
            raise Refusal(Errno.EINVAL)
        if _HELP in attributes:
            helper = find_helper(read_help(attributes[_HELP]), entry.family, entry.protocol)
            if helper is None:
                raise Refusal(Errno.EOPNOTSUPP)
            entry.help = Help(helper)
            entry.status |= Status.HELPER
        if attributes.keys() & {_NAT_SRC, _NAT_DST}:
            for manip, number in ((Manip.DST, _NAT_DST), (Manip.SRC, _NAT_SRC)):
                self._bind(entry, manip, attributes.get(number))
        table.add_areas(entry, synproxy=True)
        entry.status |= Status.CONFIRMED
        table.set_timeout(entry, *u32(attributes[_TIMEOUT]))
        if _STATUS in attributes:
            change_status(entry, *u32(attributes[_STATUS]))
        _change_seqadj(entry, attributes)
        if _PROTOINFO in attributes:
            change_protoinfo(attributes[_PROTOINFO], entry.proto)
        if _SYNPROXY in attributes:
            entry.synproxy = read_synproxy(attributes[_SYNPROXY])
        _change_mark(entry, attributes)
        if _MASTER in attributes:
            master = table.find(entry.zone, read_tuple(attributes[_MASTER], entry.family, None))
            if master is None:
                raise Refusal(Errno.ENOENT)
            table.set_master(entry, master)

    def _bind(self, entry: Entry, manip: Manip, payload: bytes | None) -> None:
        """`ctnetlink_parse_nat_setup`."""
        if payload is None:
            bound = self._nat.null_binding(entry, manip)
        else:
            bound = self._nat.setup(entry, read_nat(payload, entry.family), manip)
        if not bound:
            raise Refusal(Errno.ENOMEM)

    def change(self, entry: Entry, attributes: Attributes) -> None:
        """Change a flow of the table. Raises `Refusal` or OSError; what was done before that stays."""
        if attributes.keys() & {_NAT_SRC, _NAT_DST, _MASTER}:
            raise Refusal(Errno.EOPNOTSUPP)
        if _HELP in attributes:
            self._change_help(entry, read_help(attributes[_HELP]))
        if _TIMEOUT in attributes:
            self._table.set_timeout(entry, *u32(attributes[_TIMEOUT]))
        if _STATUS in attributes:
            change_status(entry, *u32(attributes[_STATUS]))
        if _PROTOINFO in attributes:
            change_protoinfo(attributes[_PROTOINFO], entry.proto)
        _change_mark(entry, attributes)
        _change_seqadj(entry, attributes)
        if _SYNPROXY in attributes and entry.synproxy is not None:
            entry.synproxy = read_synproxy(attributes[_SYNPROXY])
        if _LABELS in attributes:
            change_labels(entry, attributes)

    def change_attached(self, entry: Entry, attributes: Attributes) -> None:
        """What a verdict says of its packet's flow, confirmed or not (`ctnetlink_glue_parse_ct`). Raises as `change` does."""
        if _TIMEOUT in attributes:
            self._table.set_timeout(entry, *u32(attributes[_TIMEOUT]))
        if _STATUS in attributes:
            replace_status(entry, *u32(attributes[_STATUS]))
        if _HELP in attributes:
            self._change_help(entry, read_help(attributes[_HELP]))
        if _LABELS in attributes:
            change_labels(entry, attributes)
        _change_mark(entry, attributes)

    def _change_help(self, entry: Entry, name: str) -> None:
        """`ctnetlink_change_helper`: nothing but taking the helper away, or naming the one there is."""
        present = entry.help.helper if entry.help is not None else None
        if entry.master is not None:
            if present is None or present.name != name:
                raise Refusal(Errno.EBUSY)
        elif not name:
            if entry.help is not None and present is not None:
                self._expectations.remove_of(entry)
                entry.help.helper = None
        else:
            helper = find_helper(name, entry.family, entry.protocol)
            if helper is None or entry.help is None:
                raise Refusal(Errno.EOPNOTSUPP)
            if helper is not present:
                raise Refusal(Errno.EBUSY)


def change_labels(entry: Entry, attributes: Attributes) -> None:
    """`ctnetlink_attach_labels`. Raises `Refusal`."""
    entry.labels = replace_labels(entry.labels, attributes[_LABELS], attributes.get(_LABELS_MASK))


def _change_mark(entry: Entry, attributes: Attributes) -> None:
    """Bits outside the mask are turned over by those of the value, not set to them."""
    if _MARK in attributes:
        (mark,) = u32(attributes[_MARK])
        (mask,) = u32(attributes[_MARK_MASK]) if _MARK_MASK in attributes else (0xFFFFFFFF,)
        entry.mark = entry.mark & ~mask ^ mark


def _change_seqadj(entry: Entry, attributes: Attributes) -> None:
    """Numbers that were read before one that is missing stay."""
    for direction, number in enumerate(_SEQADJ):
        if number not in attributes or entry.seqadj is None:
            continue
        shifts = list(entry.seqadj)
        shifts[direction], complete = read_seqadj(attributes[number], shifts[direction])
        entry.seqadj = (shifts[0], shifts[1])
        if not complete:
            raise Refusal(Errno.EINVAL)
        entry.status |= Status.SEQ_ADJUST
