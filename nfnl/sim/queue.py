"""NFQUEUE over netlink: what a socket says to a queue, and what a queue tells its socket (net/netfilter/nfnetlink_queue.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from struct import Struct
from typing import Any

from nfnl.sim import gso
from nfnl.sim.af_netlink import SocketTable
from nfnl.sim.ct_entry import Entry as FlowEntry
from nfnl.sim.ct_glue import Glue
from nfnl.sim.errnos import Errno
from nfnl.sim.hooks import DROP, STOLEN, STOP, VERDICT_MASK
from nfnl.sim.netlink import Refusal, Request
from nfnl.sim.nfnetlink import Attributes, Nfnetlink, Operation, ProcFile
from nfnl.sim.profile import Profile
from nfnl.sim.queueing import CONNTRACK, COPY_PACKET, MAX_COPY_RANGE, UID_GID, Queue, QueuedEntry, QueueTable
from nfnl.sim.skb import IPV4, IPV6, UDP, Frame, Skb
from nfnl.subsys.queue import Config, ConfigCommand, CopyMode, Packet, QueueFlag, VerdictBatch, VerdictMessage, Vlan
from nfnl.wire.constants import NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, NlmsgFlag, SubsystemId
from nfnl.wire.declare import Attr, View
from nfnl.wire.header import NATIVE

NOT_MODELLED = {
    "QueueFlag.CONNTRACK": "for profiles with ``conntrack_glue``; else refused with EOPNOTSUPP, as by a kernel without "
    "CONFIG_NETFILTER_NETLINK_GLUE_CT, and NFQA_CT and NFQA_EXP in a verdict are ignored",
    "QueueFlag.SECCTX": "accepted, as Linux does; no packet has a context, as in a system without a security module",
    "packets that stand for several (GSO)": "of TCP and UDP, as `FakeKernel.send` makes them; what arrives is not put together",
    "the bridge family": "bridges of two ports whose forward chain has one rule, for a queue: `FakeKernel.add_bridge`",
    "br_netfilter": "bridged packets do not pass the hooks of the IP families",
    "control groups": "a `FakeKernel.sender` can have a class id; there is nothing else of them",
    "a sender blocked by its own queued packets": "with `FakeKernel.sender`; what `FakeKernel.send` sends has no send buffer",
    "grace periods": "what a closed queue held is dropped at once, not a little later",
}

_ALL_FLAGS = int(QueueFlag.FAIL_OPEN | QueueFlag.CONNTRACK | QueueFlag.GSO | QueueFlag.UID_GID | QueueFlag.SECCTX)


# ------------------------------------------------------------------------------------------------- taken from the declarations


def _field(message: type[View], name: str) -> Attr:
    return next(field for field in message.__attrs__ if field.name == name)


def _reader(message: type[View], name: str) -> tuple[int, Callable[[bytes], tuple[Any, ...]]]:
    """Number of an attribute, and what takes the numbers out of its payload."""
    field = _field(message, name)
    assert field.layout is not None
    return field.number, Struct(">" + field.layout.code).unpack_from


def _writer(name: str) -> Callable[..., bytes]:
    """What makes an attribute of a packet message, padded, of the numbers in it."""
    field = _field(Packet, name)
    layout = field.layout
    assert layout is not None
    assert layout.code
    header = NATIVE.attr.pack(NLA_HDRLEN + layout.size, field.number | (NLA_F_NESTED if field.nested else 0))
    return partial(Struct(f">4s{layout.code}{-layout.size % 4}x").pack, header)


_COMMAND, _read_command = _reader(Config, "command")
_PARAMS, _read_params = _reader(Config, "params")
_MAXLEN, _read_maxlen = _reader(Config, "queue_maxlen")
_MASK, _read_mask = _reader(Config, "mask")
_FLAGS, _read_flags = _reader(Config, "flags")

_HEADER, _read_header = _reader(VerdictMessage, "header")
_MARK, _read_mark = _reader(VerdictMessage, "mark")
_PRIORITY, _read_priority = _reader(VerdictMessage, "priority")
_PAYLOAD = _field(VerdictMessage, "payload").number
_CT, _EXP = (_field(VerdictMessage, name).number for name in ("ct", "exp"))
_VLAN, _L2HDR = (_field(VerdictMessage, name).number for name in ("vlan", "l2hdr"))
_VLAN_TCI, _VLAN_PROTO = (_field(Vlan, name).number for name in ("tci", "proto"))

_nfgenmsg = Struct(">BxH").pack
_header = _writer("header")
_indev = _writer("indev")
_outdev = _writer("outdev")
_physindev = _writer("physindev")
_physoutdev = _writer("physoutdev")
_mark = _writer("mark")
_priority = _writer("priority")
_hwaddr = _writer("hwaddr")
_timestamp = _writer("timestamp")
_uid = _writer("uid")
_gid = _writer("gid")
_cgroup_classid = _writer("cgroup_classid")
_cap_len = _writer("cap_len")
_skb_info = _writer("skb_info")
_ct_info = _writer("ct_info")
_PACKET = Packet.__type__
_PACKET_PAYLOAD = _field(Packet, "payload").number
_pack_message = NATIVE.header.pack
_pack_attribute = NATIVE.attr.pack


# ---------------------------------------------------------------------------------------------------------------- the messages


def packet_message(
    queue: Queue, entry: QueuedEntry, *, priority: bool = True, classid: bool = True, flow: bytes | None = None
) -> bytes:
    """NFQNL_MSG_PACKET for a packet that has its id, as `Packet` declares it; the payload is not padded.

    ``priority``, ``classid``: the kernel knows NFQA_PRIORITY, NFQA_CGROUP_CLASSID. ``flow``: what is told of its flow.
    """
    skb = entry.skb
    hook = entry.hook
    parts = [_nfgenmsg(skb.family, queue.number), _header(entry.id, skb.hw_protocol, hook)]
    indev, outdev, frame = skb.indev, skb.outdev, skb.frame
    if frame is not None:
        parts.append(_physindev(frame.indev.index))
    if indev is not None:
        parts.append(_indev(indev.index))
    if frame is not None:
        parts.append(_physoutdev(frame.outdev.index))
    if outdev is not None:
        parts.append(_outdev(outdev.index))
    if skb.mark:
        parts.append(_mark(skb.mark))
    if skb.priority and priority:
        parts.append(_priority(skb.priority))
    hwaddr = entry.hwaddr
    if hwaddr is not None:
        parts.append(_hwaddr(len(hwaddr), 0, hwaddr))
    if frame is not None:
        parts += _link_layer(frame)
    timestamp = entry.timestamp
    if timestamp is not None:
        parts.append(_timestamp(*divmod(round(timestamp * 1_000_000), 1_000_000)))
    if queue.flags & UID_GID and entry.uid is not None:
        parts += _uid(entry.uid), _gid(entry.gid)
    if classid and skb.sk is not None and skb.sk.classid:
        parts.append(_cgroup_classid(skb.sk.classid))
    if flow is not None:
        parts += _pack_attribute(NLA_HDRLEN + len(flow), _CT | NLA_F_NESTED), flow, _ct_info(skb.ctinfo)
    payload = b""
    if queue.copy_mode == COPY_PACKET:
        data = skb.data
        payload = data[: queue.copy_range]
        if len(payload) < len(data):
            parts.append(_cap_len(len(data)))
    if entry.skb_info:
        parts.append(_skb_info(entry.skb_info))
    if payload:
        parts += _pack_attribute(NLA_HDRLEN + len(payload), _PACKET_PAYLOAD), payload
    body = b"".join(parts)
    return _pack_message(16 + len(body), _PACKET, 0, 0, 0) + body


def _link_layer(frame: Frame) -> Iterator[bytes]:
    """`nfqnl_put_bridge`."""
    if frame.vlan:
        proto, tci = frame.vlan
        yield _pack_attribute(20, _VLAN | NLA_F_NESTED) + _nested(_VLAN_TCI, tci) + _nested(_VLAN_PROTO, proto)
    yield _pack_attribute(NLA_HDRLEN + len(frame.header), _L2HDR) + frame.header + bytes(-len(frame.header) % 4)


def _nested(number: int, value: int) -> bytes:
    return _pack_attribute(6, number) + value.to_bytes(2, "big") + b"\0\0"


#: From this size on, with the room that is kept for other headers, UDP puts the data of a packet into pages, behind a linear part
#: of its headers (SKB_MAX_ALLOC; ``alloc_extra`` in `__ip_append_data`, `__ip6_append_data`).
_PAGED_FROM = (4096 << 2) - 320
_ROOM_KEPT = {IPV4: 31, IPV6: 24}


def _linear(skb: Skb, copied: int) -> int:
    """How many of the first ``copied`` bytes of a packet lie in its linear part."""
    if skb.frame:
        return copied
    if skb.gso_size:
        return min(gso.payload_at(skb), copied)
    headers = skb.csum_start + 8
    if len(skb.data) + _ROOM_KEPT[skb.family] < _PAGED_FROM or not skb.csum_start or (skb.ip or skb.parse())[2] != UDP:
        return copied
    return min(headers, copied)


# --------------------------------------------------------------------------------------------------------------- the subsystem


class QueueSubsystem:
    """The queues of a namespace as netlink sockets see them. It registers itself."""

    __slots__ = ("_glue", "_profile", "_queues", "_sockets")

    def __init__(
        self, nfnetlink: Nfnetlink, sockets: SocketTable, queues: QueueTable, profile: Profile, glue: Glue | None = None
    ) -> None:
        self._glue = glue
        self._sockets = sockets
        self._queues = queues
        self._profile = profile
        sockets.released.append(self._owner_gone)
        unknown = () if profile.priority else ("priority",)
        nfnetlink.register(
            SubsystemId.QUEUE,
            {
                0: Operation(_not_for_users),
                1: Operation(self._verdict, VerdictMessage, unknown=unknown),
                2: Operation(self._config, Config),
                3: Operation(self._verdict_batch, VerdictBatch, unknown=unknown),
            },
            {"netfilter/nfnetlink_queue": ProcFile(0o440, self._proc)},
        )

    # ------------------------------------------------------------------------------------------------------- configuration

    def _config(self, request: Request, attributes: Attributes) -> None:
        """`nfqnl_recv_config`."""
        command = None
        if _COMMAND in attributes:
            command = _read_command(attributes[_COMMAND])[0]
            if command in (ConfigCommand.PF_BIND, ConfigCommand.PF_UNBIND):
                return
        flags = mask = 0
        if _FLAGS in attributes:
            if _MASK not in attributes:
                raise Refusal(Errno.EINVAL)
            (flags,), (mask,) = _read_flags(attributes[_FLAGS]), _read_mask(attributes[_MASK])
            if flags > _ALL_FLAGS or (flags & mask & CONNTRACK and self._glue is None):
                raise Refusal(Errno.EOPNOTSUPP)
        number, port = request.res_id, request.sock.port
        queue = self._queues.get(number)
        if queue is not None and queue.owner != port:
            raise Refusal(Errno.EPERM)
        match command:
            case None:
                pass
            case ConfigCommand.BIND:
                if queue is not None:
                    raise Refusal(Errno.EBUSY)
                queue = self._queues.create(number, port)
                queue.deliver = self._deliver
            case ConfigCommand.UNBIND:
                if queue is None:
                    raise Refusal(Errno.ENODEV)
                self._queues.destroy(number)
                return
            case _:
                raise Refusal(self._profile.unknown_command)
        if queue is None:
            raise Refusal(Errno.ENODEV)
        if _PARAMS in attributes:
            _set_mode(queue, *_read_params(attributes[_PARAMS]))
        if _MAXLEN in attributes:
            (queue.max_length,) = _read_maxlen(attributes[_MAXLEN])
        queue.flags = (queue.flags & ~mask) | (flags & mask)

    def _owner_gone(self, port: int) -> None:
        """A socket was closed: its queues vanish (`nfqnl_rcv_nl_event`)."""
        for queue in self._queues.queues():
            if queue.owner == port:
                self._queues.destroy(queue.number)

    # ------------------------------------------------------------------------------------------------------------- verdicts

    def _addressed(self, request: Request, attributes: Attributes) -> tuple[Queue, int, int]:
        """The queue a verdict is for, its verdict word and its packet id."""
        queue = self._queues.get(request.res_id)
        if queue is None:
            raise Refusal(Errno.ENODEV)
        if queue.owner != request.sock.port:
            raise Refusal(Errno.EPERM)
        header = attributes.get(_HEADER)
        if header is None:
            raise Refusal(Errno.EINVAL)
        verdict, packet_id = _read_header(header)
        kind = verdict & VERDICT_MASK
        if kind > STOP or kind == STOLEN:
            raise Refusal(Errno.EINVAL)
        return queue, verdict, packet_id

    def _verdict(self, request: Request, attributes: Attributes) -> None:
        """`nfqnl_recv_verdict`."""
        queue, verdict, packet_id = self._addressed(request, attributes)
        entry = queue.take(packet_id)
        if entry is None:
            raise Refusal(Errno.ENOENT)
        flow = self._change_flow(entry.skb, request, attributes)
        frame = entry.skb.frame
        if frame is not None:
            try:
                _change_link_layer(frame, attributes)
            except Refusal:
                self._queues.reinject(entry, DROP)
                raise
        payload = attributes.get(_PAYLOAD)
        if payload is not None:
            if len(payload) > self._room(entry.skb):
                entry.skb.sk = None  # it is copied to where there is room, and copies belong to nobody (`skb_copy_expand`)
            longer = len(payload) - len(entry.skb.data)
            if not self._queues.replace_payload(entry, payload):
                verdict = DROP
            if flow is not None and self._glue is not None:
                self._glue.lengthened(entry.skb, flow, longer)
        self._decide(entry, verdict, attributes)

    def _change_flow(self, skb: Skb, request: Request, attributes: Attributes) -> FlowEntry | None:
        """`nfqnl_ct_parse`: the flow, if what the verdict says of it was done."""
        if self._glue is None or _CT not in attributes:
            return None
        flow = self._glue.change(skb, attributes[_CT])
        if flow is not None and _EXP in attributes:
            self._glue.expect(flow, attributes[_EXP], bool(request.flags & NlmsgFlag.ECHO))
        return flow

    def _room(self, skb: Skb) -> int:
        """How long a packet that was made here may become in the memory it was given then."""
        made = len(skb.journey.packet)
        if _linear(skb, made) < made:  # behind pages there is no room
            return len(skb.data)
        if skb.family == IPV6 and skb.transport:  # by `__ip6_append_data`; the others by `raw_send_hdrinc` and the like
            return self._profile.room(made + 24) - 24
        return self._profile.room(made + 31) - 16

    def _verdict_batch(self, request: Request, attributes: Attributes) -> None:
        """`nfqnl_recv_verdict_batch`."""
        queue, verdict, last_id = self._addressed(request, attributes)
        entries = queue.take_until(last_id)
        if not entries:
            raise Refusal(Errno.ENOENT)
        for entry in entries:
            self._decide(entry, verdict, attributes)

    def _decide(self, entry: QueuedEntry, verdict: int, attributes: Attributes) -> None:
        if _MARK in attributes:
            (entry.mark,) = _read_mark(attributes[_MARK])
        if _PRIORITY in attributes and self._profile.priority:
            (entry.priority,) = _read_priority(attributes[_PRIORITY])
        self._queues.reinject(entry, verdict)

    # -------------------------------------------------------------------------------------------------------------- packets

    def _deliver(self, queue: Queue, entry: QueuedEntry) -> bool:
        """Tell the owner of a packet; False: it could not be told."""
        profile = self._profile
        asked = profile.queue_message
        flow, glue = entry.skb.ct, self._glue
        told = None
        if glue is not None and flow is not None and queue.flags & CONNTRACK:
            told = glue.told(flow)
            asked += glue.room_for(flow)
        message = packet_message(queue, entry, priority=profile.priority, classid=profile.cgroup_classid, flow=told)
        if entry.skb.tstamp is not None:
            asked += 20
        if queue.flags & UID_GID:
            asked += 16
        if entry.skb.frame is not None:
            asked += 40 if entry.skb.frame.vlan else 20
        paged = 0
        if queue.copy_mode == COPY_PACKET:
            copied = min(queue.copy_range, len(entry.skb.data))
            linear = _linear(entry.skb, copied)
            asked += NLA_HDRLEN + linear
            paged = copied - linear
        return self._sockets.unicast(queue.owner, message, profile.truesize(asked, len(message) - paged, paged))

    # ---------------------------------------------------------------------------------------------------------------- /proc

    def _proc(self) -> str:
        """``/proc/net/netfilter/nfnetlink_queue``."""
        return "".join(
            f"{queue.number:5d} {queue.owner:6d} {len(queue.entries):5d} {queue.copy_mode:1d} {queue.copy_range:5d} "
            f"{queue.dropped:5d} {queue.user_dropped:5d} {queue.last_id:8d} {1:2d}\n"
            for queue in self._queues.queues()
        )


def _not_for_users(request: Request, attributes: Attributes) -> None:
    raise Refusal(Errno.ENOTSUPP)


def _change_link_layer(frame: Frame, attributes: Attributes) -> None:
    """`nfqa_parse_bridge`."""
    if _VLAN in attributes:
        parts = _parts(attributes[_VLAN])
        if any(len(parts.get(number, b"zz")) < 2 for number in (_VLAN_TCI, _VLAN_PROTO)):
            raise Refusal(Errno.ERANGE)
        if _VLAN_TCI not in parts or _VLAN_PROTO not in parts:
            raise Refusal(Errno.EINVAL)
        proto, tci = (int.from_bytes(parts[number][:2], "big") for number in (_VLAN_PROTO, _VLAN_TCI))
        frame.vlan = proto, tci
    header = attributes.get(_L2HDR)
    if header is not None:
        if len(header) != len(frame.header):
            raise Refusal(Errno.EINVAL)
        frame.header = header


def _parts(nest: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + NLA_HDRLEN <= len(nest):
        length, number = NATIVE.attr.unpack_from(nest, at)
        if not NLA_HDRLEN <= length <= len(nest) - at:
            break
        found[number & NLA_TYPE_MASK] = nest[at + NLA_HDRLEN : at + length]
        at += length + 3 & ~3
    return found


def _set_mode(queue: Queue, copy_range: int, mode: int) -> None:
    """`nfqnl_set_mode`; an unknown mode changes nothing, and nobody is told."""
    if mode == CopyMode.PACKET:
        queue.copy_range = min(copy_range, MAX_COPY_RANGE) or MAX_COPY_RANGE
    elif mode in (CopyMode.NONE, CopyMode.META):
        queue.copy_range = 0
    else:
        return
    queue.copy_mode = mode
