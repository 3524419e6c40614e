"""A fake kernel with flows that packets have made, for tests of the control plane: taken over from messages that show them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from types import TracebackType

from nfnl.sim import FakeKernel
from nfnl.sim.af_netlink import MSG_DONTWAIT, SO_RCVBUF, SOL_SOCKET
from nfnl.sim.clock import EPOCH
from nfnl.sim.ct_entry import Entry, SequenceAdjustment
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.expectations import Expectation as Expected
from nfnl.sim.expectations import Mask
from nfnl.sim.helpers import Help, find_helper
from nfnl.sim.protoinfo import SctpInfo, SctpState, TcpInfo, TcpState
from nfnl.sim.tuples import Tuple, Zone
from nfnl.subsys.conntrack import DestroyedFlow, Flow, GetFlow, NewFlow, ProtoInfo, TupleIp, TupleProto
from nfnl.subsys.conntrack import Help as HelpNest
from nfnl.subsys.conntrack import TcpInfo as TcpNest
from nfnl.subsys.conntrack import Tuple as TupleNest
from nfnl.subsys.expect import DestroyedExpectation, Expectation, GetExpectation
from nfnl.wire.constants import Group, NlmsgFlag, SocketOption
from nfnl.wire.header import NATIVE

REQUEST_ACK = NlmsgFlag.REQUEST | NlmsgFlag.ACK
DUMP = NlmsgFlag.REQUEST | NlmsgFlag.DUMP


class Client:
    """A bound socket, and somebody who speaks through it."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.socket = kernel.socket()
        self.socket.bind((0, 0))

    def hear(self) -> list[bytes]:
        """All that is there."""
        heard = []
        while self.socket.readable:
            heard.append(self.socket.recv(1 << 16, MSG_DONTWAIT))
        return heard

    def ask(self, datagram: bytes) -> list[bytes]:
        """Send to the kernel; all that is there afterwards."""
        self.socket.send(datagram)
        return self.hear()


def tuple_of(nest: TupleNest) -> Tuple:
    """A declared tuple as the tables have it."""
    assert nest.src is not None
    assert nest.dst is not None
    family = 2 if nest.src.version == 4 else 10
    if nest.icmp_type is not None:
        parts = (nest.icmp_id or 0, nest.icmp_type << 8 | (nest.icmp_code or 0))
    else:
        parts = (nest.src_port or 0, nest.dst_port or 0)
    return Tuple(family, nest.src.packed, nest.dst.packed, nest.protocol or 0, *parts)


def tcp_tuple(source: str, sport: int, destination: str, dport: int) -> TupleNest:
    """A TCP tuple over IPv4."""
    return TupleNest(
        ip=TupleIp(v4_src=IPv4Address(source), v4_dst=IPv4Address(destination)),
        proto=TupleProto(num=6, src_port=sport, dst_port=dport),
    )


class World:
    """The kernel, one who asks, and what had happened before."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.kernel.sysctl("net.netfilter.nf_conntrack_events", 1)
        self.client = Client(self.kernel)
        self.table = self.kernel._world.conntrack
        self.expectations = self.kernel._world.expectations

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kernel.close()

    def listener(self, *groups: int) -> Client:
        """Another socket, in these groups."""
        client = Client(self.kernel)
        for group in groups:
            client.socket.setsockopt(270, SocketOption.ADD_MEMBERSHIP, group)
        return client

    # ------------------------------------------------------------------------------------------------------- made by requests

    def connection(self, port: int, to: int, helper: str | None = None) -> None:
        """An established TCP connection from 10.0.1.2 to 10.0.2.2."""
        self.client.ask(
            bytes(
                NewFlow(
                    nfgen_family=2,
                    nlmsg_flags=REQUEST_ACK | NlmsgFlag.CREATE,
                    original=tcp_tuple("10.0.1.2", port, "10.0.2.2", to),
                    reply=tcp_tuple("10.0.2.2", to, "10.0.1.2", port),
                    timeout=100,
                    help=HelpNest(name=helper) if helper else None,
                    protoinfo=ProtoInfo(tcp=TcpNest(state=3)),
                )
            )
        )

    def fix_timeout(self) -> None:
        """FIXED_TIMEOUT for every flow there is."""
        for entry in self.table.walk():
            entry.status |= 0x400

    def forty_are_dying(self, shown: list[Flow]) -> None:
        """A listener that wants to be sure of its events has had room for six; those that are shown wait."""
        listener = self.kernel.socket()
        listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        listener.setsockopt(270, SocketOption.BROADCAST_ERROR, 1)
        listener.bind((0, 1 << Group.CONNTRACK_DESTROY - 1))
        for i in range(6):
            self.take_over(shown[0].replace(id=i, status=8), 100 + i)
        for flow in shown:
            self.take_over(flow.replace(status=8))
        self.table.flush()

    # -------------------------------------------------------------------------------------------------------- made by packets

    def take_over(self, message: Flow | DestroyedFlow, port: int | None = None) -> Entry:
        """A flow as a message shows it; in the table, if it is not gone. ``port``: from another port."""
        original, reply = tuple_of(message.original), tuple_of(message.reply)
        if port is not None:
            original, reply = original._replace(src_part=port), reply._replace(dst_part=port)
        zone = Zone(message.zone or 0)
        for bound, nest in ((1, message.original), (2, message.reply)):
            if nest.zone is not None:
                zone = Zone(nest.zone, bound)
        entry = self.table.allocate(zone, original, reply)
        entry.id = message.id or 0
        entry.status = int(message.status or 0)
        entry.mark = message.mark or 0
        entry.event_mask = entry.expect_mask = 0xFFFF
        entry.expires = self.table.now + (message.timeout or 0) * HZ
        _set_state(entry, message.protoinfo)
        if message.help is not None:
            entry.help = Help(find_helper(message.help.name or "", original.family, original.protocol))
        if message.counters_original is not None and message.counters_reply is not None:
            one, other = message.counters_original, message.counters_reply
            entry.counters = [one.packets or 0, one.bytes or 0, other.packets or 0, other.bytes or 0]
        if message.timestamp is not None or message.timestamp_event is not None:
            entry.start = EPOCH * 10**9
        if message.timestamp is not None and message.timestamp.stop is not None:
            entry.stop = EPOCH * 10**9
        if message.labels is not None:
            entry.labels = sum(1 << number for number in message.label_numbers)
        if message.seq_adj_original is not None and message.seq_adj_reply is not None:
            shifts = [
                SequenceAdjustment(nest.correction_pos or 0, nest.offset_before or 0, nest.offset_after or 0)
                for nest in (message.seq_adj_original, message.seq_adj_reply)
            ]
            entry.seqadj = (shifts[0], shifts[1])
        if message.synproxy is not None:
            entry.synproxy = (message.synproxy.isn or 0, message.synproxy.its or 0, message.synproxy.tsoff or 0)
        if message.master is not None:
            entry.master = self._master(tuple_of(message.master))
        if isinstance(message, Flow):
            self.table.insert(entry)
        return entry

    def _master(self, original: Tuple) -> Entry:
        reply = original.inverse()
        assert reply is not None
        return self.table.allocate(Zone(), original, reply)

    def expect(self, message: Expectation | DestroyedExpectation) -> Expected:
        """An expectation as a message shows it."""
        master = self._master(tuple_of(message.master))
        master.help = Help(find_helper(message.help_name or "", master.family, master.protocol))
        master.event_mask = master.expect_mask = 0xFFFF
        mask = tuple_of(message.mask)
        made = Expected(master, tuple_of(message.tuple), Mask(mask.src, mask.src_part), message.expect_class or 0)
        made.flags = int(message.flags or 0)
        made.function = message.fn
        if message.nat is not None:
            assert message.nat.tuple is not None
            before = tuple_of(message.nat.tuple)
            made.direction, made.saved_addr, made.saved_part = message.nat.dir or 0, before.src, before.src_part
        self.expectations.add(made)
        self.expectations.set_timeout(made, message.timeout or 0)
        return made

    def dump_flows(self, seq: int, family: int) -> list[bytes]:
        """What a dump shows, without its end."""
        return self.client.ask(bytes(GetFlow(nlmsg_flags=DUMP, nlmsg_seq=seq, nfgen_family=family)))[:-1]

    def dump_expectations(self, seq: int) -> list[bytes]:
        """What a dump of expectations shows, without its end."""
        return self.client.ask(bytes(GetExpectation(nlmsg_flags=DUMP, nlmsg_seq=seq)))[:-1]


def _set_state(entry: Entry, info: ProtoInfo | None) -> None:
    if info is None:
        return
    if info.tcp is not None:
        assert isinstance(entry.proto, TcpInfo)
        entry.proto.state = TcpState(info.tcp.state or 0)
        for side, scale, flags in zip(
            entry.proto.sides,
            (info.tcp.wscale_original, info.tcp.wscale_reply),
            (info.tcp.flags_original, info.tcp.flags_reply),
            strict=True,
        ):
            side.scale = scale or 0
            side.flags = flags.flags if flags is not None else 0
    if info.sctp is not None:
        assert isinstance(entry.proto, SctpInfo)
        entry.proto.state = SctpState(info.sctp.state or 0)
        entry.proto.vtags = [info.sctp.vtag_original or 0, info.sctp.vtag_reply or 0]


# -------------------------------------------------------------------------------------------------------------- the comparison

#: attributes that are different every time, by subsystem: numbers, or pairs of a nest's number and one inside it
_LOOSE: dict[int, set[int | tuple[int, int]]] = {1: {12, 27, (20, 1), (20, 2)}, 2: {5}}
_TIMEOUT = {1: 7, 2: 4}


def loosened(datagram: bytes) -> tuple[bytes, tuple[int, ...]]:
    """What has to be the same every time, and the seconds that are left, which may differ by one."""
    data = bytearray(datagram)
    timeouts: list[int] = []
    offset = 0
    while offset + 16 <= len(data):
        length, type_ = struct.unpack_from("=IH", data, offset)
        data[offset + 12 : offset + 16] = bytes(4)
        if type_ >= 16:
            _loosen(data, offset + 20, min(offset + length, len(data)), type_ >> 8, None, timeouts)
        offset += max(16, length + 3 & ~3)
    return bytes(data), tuple(timeouts)


def _loosen(data: bytearray, offset: int, end: int, subsystem: int, outer: int | None, timeouts: list[int]) -> None:
    while offset + 4 <= end:
        length, type_ = NATIVE.attr.unpack_from(data, offset)
        if not 4 <= length <= end - offset:
            return
        number = type_ & 0x3FFF
        key = number if outer is None else (outer, number)
        if key in _LOOSE.get(subsystem, ()):
            data[offset + 4 : offset + length] = bytes(length - 4)
        elif outer is None and number == _TIMEOUT.get(subsystem):
            timeouts.append(int.from_bytes(data[offset + 4 : offset + 8], "big"))
            data[offset + 4 : offset + 8] = bytes(4)
        elif outer is None and type_ & 0x8000:
            _loosen(data, offset + 4, offset + length, subsystem, number, timeouts)
        offset += length + 3 & ~3


def alike(ours: bytes, theirs: bytes) -> None:
    """Fails unless both are the same but for what is different every time."""
    (mine, my_times), (other, their_times) = loosened(ours), loosened(theirs)
    assert mine.hex(" ", 4) == other.hex(" ", 4)
    assert len(my_times) == len(their_times)
    assert all(abs(one - another) <= 1 for one, another in zip(my_times, their_times, strict=True))
