"""Expectations over netlink (net/netfilter/nf_conntrack_netlink.c, its second half)."""

from __future__ import annotations

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_dumps import ExpectationDump, Listed
from nfnl.sim.ct_entry import Entry
from nfnl.sim.ct_messages import EXP_NEW, expectation_message, statistics_message
from nfnl.sim.ct_requests import HELPER_NAME, ZoneGiven, read_nest, read_tuple, text_of, u32
from nfnl.sim.ctnetlink import answer
from nfnl.sim.dump import start_dump
from nfnl.sim.errnos import Errno
from nfnl.sim.expectations import USERSPACE, Expectation, ExpectationTable, Mask
from nfnl.sim.helpers import EXPECT_FUNCTIONS, find_helper
from nfnl.sim.netlink import Refusal, Request
from nfnl.sim.nfnetlink import Attributes, Check, Handler, Nfnetlink, Operation, bits, nul_string
from nfnl.subsys.conntrack import ExpectStatsCpu
from nfnl.subsys.expect import NewExpectation
from nfnl.wire.constants import NlmsgFlag, SubsystemId

_N = {field.name: field.number for field in NewExpectation.__attrs__}
_TUPLE, _MASK, _MASTER, _ZONE, _ID, _TIMEOUT = (_N[name] for name in ("tuple", "mask", "master", "zone", "id", "timeout"))
_FLAGS, _CLASS, _FN, _NAT, _HELP_NAME = (_N[name] for name in ("flags", "expect_class", "fn", "nat", "help_name"))
_CREATE, _EXCL, _ECHO, _DUMP, _MULTI = (
    int(f) for f in (NlmsgFlag.CREATE, NlmsgFlag.EXCL, NlmsgFlag.ECHO, NlmsgFlag.DUMP, NlmsgFlag.MULTI)
)


def _direction(data: bytes) -> Errno | None:
    return Errno.ERANGE if u32(data)[0] > 1 else None


_NAT_CHECKS = {1: Check(4, False, None, 0, _direction), 2: Check(0, True, None, 0)}


class ExpectSubsystem:
    """The expectations of a namespace as netlink sockets see them. It registers itself."""

    __slots__ = ("_checks", "_expectations", "_flows")

    def __init__(self, nfnetlink: Nfnetlink, flows: ConntrackTable, expectations: ExpectationTable) -> None:
        self._flows = flows
        self._expectations = expectations
        checks = {_HELP_NAME: nul_string(HELPER_NAME), _FN: nul_string(), _FLAGS: bits(7)}

        def operation(handler: Handler) -> Operation:
            return Operation(handler, NewExpectation, checks=checks)

        self._checks = operation(self._new).checks
        nfnetlink.register(
            SubsystemId.CTNETLINK_EXP,
            {
                0: operation(self._new),
                1: operation(self._get),
                2: operation(self._delete),
                3: Operation(self._stats_cpu),
            },
            {},
        )

    # ----------------------------------------------------------------------------------------------------------------- making

    def _new(self, request: Request, attributes: Attributes) -> None:
        """`ctnetlink_new_expect`: of one that is there only the time changes, and nobody is told."""
        if not attributes.keys() >= {_TUPLE, _MASK, _MASTER}:
            raise Refusal(Errno.EINVAL)
        zone = ZoneGiven(attributes.get(_ZONE)).zone
        expectations = self._expectations
        there = expectations.find(zone, read_tuple(attributes[_TUPLE], request.family, None))
        if there is not None:
            if request.flags & _EXCL:
                raise Refusal(Errno.EEXIST)
            if _TIMEOUT in attributes:
                expectations.set_timeout(there, *u32(attributes[_TIMEOUT]))
            return
        if not request.flags & _CREATE:
            raise Refusal(Errno.ENOENT)
        expected, mask, master = (read_tuple(attributes[n], request.family, None) for n in (_TUPLE, _MASK, _MASTER))
        flow = self._flows.find(zone, master)
        if flow is None:
            raise Refusal(Errno.ENOENT)
        made = Expectation(flow, expected, Mask(mask.src, mask.src_part))
        _furnish(made, flow, attributes)
        expectations.add(made, request.sock.port, bool(request.flags & _ECHO))

    def attach(self, flow: Entry, payload: bytes, report: bool) -> None:
        """An expectation of this flow, as a verdict asks for it: what stands in NFQA_EXP. Raises `Refusal` or OSError."""
        attributes = read_nest(payload, self._checks)
        if not attributes.keys() >= {_TUPLE, _MASK}:
            raise Refusal(Errno.EINVAL)
        expected, mask = (read_tuple(attributes[n], flow.family, None) for n in (_TUPLE, _MASK))
        made = Expectation(flow, expected, Mask(mask.src, mask.src_part))
        if _HELP_NAME in attributes:
            made.helper = find_helper(text_of(attributes[_HELP_NAME]), flow.family, flow.protocol)
            if made.helper is None:
                raise Refusal(Errno.EOPNOTSUPP)
        _furnish(made, flow, attributes)
        self._expectations.add(made, 0, report)

    # ----------------------------------------------------------------------------------------------------------------- asking

    def _named(self, request: Request, attributes: Attributes, number: int) -> Expectation:
        """The expectation whose tuple is in that attribute, and whose id is the one given, if one is."""
        zone = ZoneGiven(attributes.get(_ZONE)).zone
        found = self._expectations.find(zone, read_tuple(attributes[number], request.family, None))
        if found is None or (_ID in attributes and u32(attributes[_ID])[0] != found.id):
            raise Refusal(Errno.ENOENT)
        return found

    def _get(self, request: Request, attributes: Attributes) -> None:
        """`ctnetlink_get_expect`."""
        port, seq = request.sock.port, request.seq
        if request.flags & _DUMP:
            self._dump(request, attributes)
        elif _TUPLE in attributes or _MASTER in attributes:
            found = self._named(request, attributes, _TUPLE if _TUPLE in attributes else _MASTER)
            answer(request, expectation_message(EXP_NEW, _MULTI, seq, port, found, self._expectations))
        else:
            raise Refusal(Errno.EINVAL)

    def _dump(self, request: Request, attributes: Attributes) -> None:
        """All, or those of a master; one without a helper is not answered at all."""
        master = None
        if _MASTER in attributes:
            named = read_tuple(attributes[_MASTER], request.family, None)
            master = self._flows.find(ZoneGiven(attributes.get(_ZONE)).zone, named)
            if master is None:
                raise Refusal(Errno.ENOENT)
            if master.help is None:
                return
        shown = ExpectationDump(self._expectations, master, request.family, request.sock.port, request.seq)
        start_dump(request, shown.fill)

    # --------------------------------------------------------------------------------------------------------------- deleting

    def _delete(self, request: Request, attributes: Attributes) -> None:
        """`ctnetlink_del_expect`: one, all of a helper, or all there are."""
        port, report = request.sock.port, bool(request.flags & _ECHO)
        if _TUPLE in attributes:
            gone = [self._named(request, attributes, _TUPLE)]
        else:
            gone = list(self._expectations)
            if _HELP_NAME in attributes:
                name = text_of(attributes[_HELP_NAME])
                gone = [expectation for expectation in gone if _helper_name(expectation.master) == name]
        for expectation in gone:
            self._expectations.remove(expectation, port, report)

    # ------------------------------------------------------------------------------------------------------------- statistics

    def _stats_cpu(self, request: Request, attributes: Attributes) -> None:
        """Its answers say that they come from the other subsystem."""
        if request.flags & _DUMP:
            counted = self._flows.statistics
            numbers = {field.number: getattr(counted, f"expect_{field.name}") for field in ExpectStatsCpu.__attrs__}
            start_dump(request, Listed(statistics_message(ExpectStatsCpu.__type__, request.seq, request.sock.port, numbers)).fill)


def _helper_name(flow: Entry) -> str | None:
    return flow.help.helper.name if flow.help is not None and flow.help.helper is not None else None


def _furnish(made: Expectation, master: Entry, attributes: Attributes) -> None:
    """`ctnetlink_alloc_expect`: what a new expectation is besides its tuples. Raises `Refusal`."""
    helper = master.help.helper if master.help is not None else None
    if helper is None:
        raise Refusal(Errno.EOPNOTSUPP)
    if _CLASS in attributes:
        (made.class_,) = u32(attributes[_CLASS])
        if made.class_ >= len(helper.policies):
            raise Refusal(Errno.EINVAL)
    if _FLAGS in attributes:
        made.flags = u32(attributes[_FLAGS])[0] & ~USERSPACE
    if _FN in attributes:
        made.function = text_of(attributes[_FN])
        if made.function not in EXPECT_FUNCTIONS:
            raise Refusal(Errno.EINVAL)
    if _NAT in attributes:
        found = read_nest(attributes[_NAT], _NAT_CHECKS)
        if not found.keys() >= {1, 2}:
            raise Refusal(Errno.EINVAL)
        before = read_tuple(found[2], master.family, None)
        made.direction, made.saved_addr, made.saved_part = u32(found[1])[0], before.src, before.src_part
