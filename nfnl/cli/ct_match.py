"""Which flows a command line of ``nfnl conntrack`` means, and how to say it to nfnl."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from nfnl.cli.ct_order import Address, Masked, NatEnd, Net, Order, StatusWish
from nfnl.session.eventfilter import EventConditions, EventFilter
from nfnl.session.flowspec import FlowFilter, reply_to, tuple_of
from nfnl.subsys.conntrack import (
    DccpInfo,
    FlowAttributes,
    Nat,
    NatProto,
    Protocol,
    ProtoInfo,
    SctpInfo,
    Status,
    TcpFlag,
    TcpFlags,
    TcpInfo,
    Tuple,
)
from nfnl.subsys.expect import ExpectationAttributes

Test = Callable[[FlowAttributes], bool]


def criteria(order: Order) -> FlowFilter:
    """What the kernel is asked to select by: family, mark and status, on which all kernels agree."""
    mark: Masked | None = order["mark"]
    status: StatusWish | None = order["status"]
    possible = mark is not None and not mark.value & ~mark.mask
    return FlowFilter(
        family=order.family or None,
        mark=mark.value if mark is not None and possible else None,
        mark_mask=mark.mask if mark is not None and possible else None,
        status=status.on if status else None,
        status_mask=status.on | status.off if status else None,
    )


def matcher(order: Order, label_numbers: Callable[[str], frozenset[int]]) -> Callable[[FlowAttributes], bool]:
    """Whether a flow is meant: every option that is said of flows holds."""
    tests: list[Test] = [_TESTS[name](value) for name, value in order.values.items() if name in _TESTS]
    if order.family:
        version = 4 if order.family == 2 else 6
        tests.append(
            lambda flow: flow.original is not None and flow.original.src is not None and flow.original.src.version == version
        )
    tests += [_inside(end, order[end], order[f"mask_{end}"]) for end in ("src", "dst") if order[end] is not None]
    if "label" in order:
        wanted = label_numbers(order["label"])
        tests.append(lambda flow: wanted <= flow.label_numbers)
    return lambda flow: all(test(flow) for test in tests)


def _inside(end: str, net: Net, mask: Address | None) -> Test:
    width = net.address.max_prefixlen
    bits = int(mask) if mask is not None else (1 << width) - (1 << width - (width if net.bits is None else net.bits))
    wanted = int(net.address) & bits

    def test(flow: FlowAttributes) -> bool:
        address = None if flow.original is None else getattr(flow.original, end)
        return address is not None and address.max_prefixlen == width and int(address) & bits == wanted

    return test


def _of_tuple(direction: str, field: str) -> Callable[[Any], Test]:
    def test_for(wanted: Any) -> Test:
        def test(flow: FlowAttributes) -> bool:
            ends: Tuple | None = getattr(flow, direction)
            found = None if ends is None else getattr(ends, field)
            return bool(found == wanted if field != "zone" else (found or 0) == wanted)

        return test

    return test_for


def _of_flow(field: str) -> Callable[[Any], Test]:
    return lambda wanted: lambda flow: (getattr(flow, field) or 0) == wanted


def _mark(wanted: Masked) -> Test:
    return lambda flow: (flow.mark or 0) & wanted.mask == wanted.value


def _status(wanted: StatusWish) -> Test:
    return lambda flow: (flow.status or Status(0)) & (wanted.on | wanted.off) == wanted.on


def _state(wanted: int) -> Test:
    return lambda flow: state_of(flow) == wanted


def state_of(flow: FlowAttributes) -> int | None:
    """The number of the protocol's state."""
    info = flow.protoinfo
    of_protocol = None if info is None else info.tcp or info.sctp or info.dccp
    return None if of_protocol is None else of_protocol.state


def _translated(*ends: str) -> Callable[[NatEnd], Test]:
    """One of the ends is translated, to what is wanted if anything is."""

    def test_for(wanted: NatEnd) -> Test:
        return lambda flow: any(_end_translated(flow, end, wanted) for end in ends)

    return test_for


def _end_translated(flow: FlowAttributes, end: str, wanted: NatEnd) -> bool:
    bit, was, now = (Status.SRC_NAT, "src", "dst") if end == "src" else (Status.DST_NAT, "dst", "src")
    original, reply = flow.original, flow.reply
    if original is None or reply is None or not (flow.status or Status(0)) & bit:
        return False
    address, port = getattr(reply, now), getattr(reply, f"{now}_port")
    changed = address != getattr(original, was), port != getattr(original, f"{was}_port")
    if wanted.address is None and wanted.port is None:
        return any(changed)
    return (wanted.address is None or (changed[0] and address == wanted.address)) and (
        wanted.port is None or (changed[1] and port == wanted.port)
    )


_TESTS: dict[str, Callable[[Any], Test]] = {
    "protonum": _of_tuple("original", "protocol"),
    "reply_src": _of_tuple("reply", "src"),
    "reply_dst": _of_tuple("reply", "dst"),
    "port_src": _of_tuple("original", "src_port"),
    "port_dst": _of_tuple("original", "dst_port"),
    "reply_port_src": _of_tuple("reply", "src_port"),
    "reply_port_dst": _of_tuple("reply", "dst_port"),
    "icmp_type": _of_tuple("original", "icmp_type"),
    "icmp_code": _of_tuple("original", "icmp_code"),
    "icmp_id": _of_tuple("original", "icmp_id"),
    "orig_zone": _of_tuple("original", "zone"),
    "reply_zone": _of_tuple("reply", "zone"),
    "zone": _of_flow("zone"),
    "secmark": _of_flow("secmark"),
    "id": _of_flow("id"),
    "mark": _mark,
    "status": _status,
    "state": _state,
    "src_nat": _translated("src"),
    "dst_nat": _translated("dst"),
    "any_nat": _translated("src", "dst"),
}
#: of UPDATE these say what is to become of a flow, not which is meant
CHANGES = frozenset(("mark", "status", "timeout", "state", "label_add", "label_del"))


def event_filter(order: Order) -> EventFilter | None:
    """What of it the kernel can test before an event is copied."""
    only: EventConditions = {}
    if order["protonum"] is not None:
        only["protocol"] = order["protonum"]
    for end, condition in (("src", "source"), ("dst", "destination")):
        net: Net | None = order[end]
        if net is not None and f"mask_{end}" not in order:
            bits = net.address.max_prefixlen if net.bits is None else net.bits
            only[condition] = ip_network((net.address, bits), strict=False)  # type: ignore[literal-required]
    return EventFilter(only=only) if only else None


# --- what to make ------------------------------------------------------------------------------------------------------------


def _host(end: Net | Address | None) -> Address | None:
    return end.address if isinstance(end, Net) else end


def _one_way(order: Order, prefix: str, src: Address | None, dst: Address | None, zone: int | None) -> Tuple:
    """A tuple of what is said about one direction; ICMP is only ever said of the original one."""
    number = order["protonum"]
    icmp = number in (Protocol.ICMP, Protocol.ICMPV6)
    return tuple_of(
        src,
        dst,
        number,
        order[f"{prefix}port_src"],
        order[f"{prefix}port_dst"],
        icmp_type=order["icmp_type"],
        icmp_code=order["icmp_code"],
        icmp_id=order["icmp_id"] or 0 if icmp else None,
        zone=zone,
    )


def tuples(order: Order) -> tuple[Tuple, Tuple]:
    """Both tuples of the flow that is named: what is left out of one comes from the other, which it answers."""
    src, dst = _host(order["src"]), _host(order["dst"])
    reply_src, reply_dst = order["reply_src"], order["reply_dst"]
    if src is None or dst is None:
        reply = _one_way(order, "reply_", reply_src, reply_dst, order["reply_zone"])
        if order["reply_port_src"] is None and order["port_src"] is not None:
            ports = {"src_port": order["port_dst"], "dst_port": order["port_src"]}
            reply = reply.replace(proto=reply.proto.replace(**ports) if reply.proto else None)
        return _with_zone(reply_to(reply), order["orig_zone"]), reply
    original = _one_way(order, "", src, dst, order["orig_zone"])
    mirrored = reply_to(original)
    src_port, dst_port = order["reply_port_src"], order["reply_port_dst"]
    reply = tuple_of(
        reply_src or mirrored.src,
        reply_dst or mirrored.dst,
        original.protocol,
        mirrored.src_port if src_port is None else src_port,
        mirrored.dst_port if dst_port is None else dst_port,
        icmp_type=mirrored.icmp_type,
        icmp_code=mirrored.icmp_code,
        icmp_id=mirrored.icmp_id,
        zone=order["reply_zone"],
    )
    return original, reply


def _with_zone(ends: Tuple, zone: int | None) -> Tuple:
    return ends if zone is None else ends.replace(zone=zone)


def protoinfo(order: Order) -> ProtoInfo | None:
    """The state of the protocol, as the command line says it. Flows made by hand are not held to windows nobody has seen."""
    state = order["state"]
    if order["protonum"] == Protocol.TCP and state is not None:
        liberal = TcpFlags(TcpFlag.SACK_PERM | TcpFlag.BE_LIBERAL, TcpFlag.SACK_PERM | TcpFlag.BE_LIBERAL)
        return ProtoInfo(tcp=TcpInfo(state=state, flags_original=liberal, flags_reply=liberal))
    if order["protonum"] == Protocol.SCTP and state is not None:
        return ProtoInfo(sctp=SctpInfo(state=state, vtag_original=order["orig_vtag"], vtag_reply=order["reply_vtag"]))
    if order["protonum"] == Protocol.DCCP and state is not None:
        return ProtoInfo(dccp=DccpInfo(state=state, role=order["role"], handshake_seq=0))
    return None


def nat(end: NatEnd | None) -> Nat | None:
    """What an end is to become."""
    if end is None or (end.address is None and end.port is None):
        return None
    proto = None if end.port is None else NatProto(port_min=end.port, port_max=end.port)
    if end.address is None:
        return Nat(proto=proto)
    address: dict[str, Any] = {f"v{end.address.version}_minip": end.address, f"v{end.address.version}_maxip": end.address}
    return Nat(proto=proto, **address)


def expectation_matcher(order: Order) -> Callable[[ExpectationAttributes], bool]:
    """Whether an expectation is meant."""
    if not order.family:
        return lambda expectation: True
    version = 4 if order.family == 2 else 6

    def test(expectation: ExpectationAttributes) -> bool:
        src = None if expectation.tuple is None else expectation.tuple.src
        return src is not None and src.version == version

    return test
