"""What only some kernels can show: it depends on modules and build options that a machine may lack, and so each test asks a probe.

On a machine without them, ``nfnl lab run`` runs these tests on other kernels, in guests.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

import nfnl
from nfnl.subsys.conntrack import AttachedFlow
from nfnl.subsys.queue import ConntrackInfo, Packet, QueueFlag, Vlan
from nfnl.wire.constants import SubsystemId
from tests.behaviour import fate_of_a_replaced_packet
from tests.contract.bridges import Bridge, FakeBridge
from tests.contract.kernels import FakeUnderTest, KernelUnderTest, LinuxUnderTest
from tests.contract.rules import needs, only, rule
from tests.contract.wirekit import ACCEPT, CAUGHT, VERDICT, Listener, attribute, be32, message, raw_attributes, udp4, verdict

CONNTRACK = {"mask": QueueFlag.CONNTRACK, "flags": QueueFlag.CONNTRACK}
PHYSINDEV, PHYSOUTDEV, INDEV, OUTDEV, VLAN, L2HDR, PAYLOAD, CT, CT_INFO = 7, 8, 5, 6, 19, 20, 10, 11, 12
NESTED = 0x8000
AnyBridge = Bridge | FakeBridge
#: attributes of a conntrack entry (linux/netfilter/nfnetlink_conntrack.h)
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_MARK, CTA_MARK_MASK = 1, 2, 3, 8, 21

lacking = only("linux", "the fake has no nftables, and one user namespace")


# ------------------------------------------------------------------------------------------------------------------- conntrack


def attributes(nest: bytes) -> dict[int, bytes]:
    """Those of a nest, by number."""
    return {number & 0x3FFF: value for number, value in raw_attributes(bytes(20) + nest)}


def mark(packet: Packet) -> int:
    """The mark of its flow."""
    assert packet.ct is not None
    assert packet.ct.mark is not None
    return packet.ct.mark


def accept_and_change(flows: Listener, packet: Packet, change: bytes) -> str:
    """Accept, with NFQA_CT of whatever content; the kernel's answer."""
    body = verdict(flows.queue, packet.header.packet_id, ACCEPT)[16:] + attribute(CT | NESTED, change)
    return flows.request(message(SubsystemId.QUEUE << 8 | VERDICT, body))


def reply(data: bytes = b"hello") -> bytes:
    """A datagram back to where those of `udp4` come from."""
    there = udp4(data)
    return there[:20] + there[22:24] + there[20:22] + there[24:]


@pytest.fixture
def flows(kernel: KernelUnderTest) -> Listener:
    """Listens to queue 1 with the flag CONNTRACK; what goes to port 9000 waits there, what comes from it, and what it causes."""
    kernel.require("conntrack-glue")
    for match in ("-p udp --dport 9000", "-p udp --sport 9000", "-p icmp"):
        kernel.iptables(f"-A OUTPUT {match} -m conntrack --ctstate NEW,ESTABLISHED,RELATED -j NFQUEUE --queue-num 1")
    return Listener(kernel, **CONNTRACK)


@rule("QC-17", "QP-15")
def test_a_packet_comes_with_its_flow(kernel: KernelUnderTest, flows: Listener) -> None:
    kernel.send(udp4())
    [datagram] = flows.hear()
    told = dict(raw_attributes(datagram))
    assert CT | NESTED in told
    flow = attributes(told[CT | NESTED])
    assert {CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS} <= flow.keys()
    assert struct.pack(">HH", 5000, 9000) in (ports(flow[CTA_TUPLE_ORIG]))
    assert struct.pack(">HH", 9000, 5000) in (ports(flow[CTA_TUPLE_REPLY]))


def ports(tuple_: bytes) -> list[bytes]:
    """Source and destination port of a tuple: CTA_TUPLE_PROTO (2) has them as 2 and 3."""
    protocol = attributes(attributes(tuple_)[2])
    return [protocol[2] + protocol[3]]


@rule("QP-15", "QP-16")
def test_not_without_the_flag(kernel: KernelUnderTest, flows: Listener) -> None:
    flows.configure(mask=QueueFlag.CONNTRACK, flags=0)
    kernel.send(udp4())
    packet = flows.packet()
    assert (packet.ct, packet.ct_info) == (None, None)


@rule("QP-15", "QP-16")
def test_what_is_not_tracked_has_no_flow(kernel: KernelUnderTest, flows: Listener) -> None:
    kernel.iptables("-t raw -A OUTPUT -p udp --dport 9000 -j CT --notrack")
    kernel.iptables(f"-I OUTPUT {CAUGHT} 1")
    kernel.send(udp4())
    packet = flows.packet()
    assert (packet.ct, packet.ct_info) == (None, None)


@rule("QP-16")
def test_how_a_packet_stands_to_its_flow(kernel: KernelUnderTest, flows: Listener) -> None:
    kernel.iptables("-I OUTPUT -p icmp -j DROP")  # nobody is to say: port unreachable
    told = []
    for data in (udp4(), reply(), udp4()):
        kernel.send(data)
        packet = flows.packet()
        told.append(packet.ct_info)
        assert flows.decide(packet) == "ACK"
    assert told == [ConntrackInfo.NEW, ConntrackInfo.ESTABLISHED_REPLY, ConntrackInfo.ESTABLISHED]


@rule("QP-16")
def test_an_error_is_related_to_the_flow_it_is_about(kernel: KernelUnderTest, flows: Listener) -> None:
    kernel.send(udp4())
    assert flows.decide(flows.packet()) == "ACK"
    unreachable = flows.packet()
    assert bytes(unreachable.payload or b"")[20:22] == b"\3\3", "port unreachable"
    assert unreachable.ct_info == ConntrackInfo.RELATED_REPLY


@rule("QV-30")
def test_a_verdict_can_mark_the_flow(kernel: KernelUnderTest, flows: Listener) -> None:
    kernel.iptables("-I OUTPUT -p icmp -j DROP")
    marks = []
    for change in (
        attribute(CTA_MARK, be32(0x99)),
        attribute(CTA_MARK, be32(0x0F00)) + attribute(CTA_MARK_MASK, be32(0x0FF0)),
        b"",
    ):
        kernel.send(udp4())
        packet = flows.packet()
        marks.append(mark(packet))
        assert accept_and_change(flows, packet, change) == "ACK"
    assert marks == [0, 0x99, 0x99 & ~0x0FF0 ^ 0x0F00]


@rule("QV-30", "QP-15", "QP-16")
def test_a_handler_can_mark_the_flow(kernel: KernelUnderTest) -> None:
    kernel.require("conntrack-glue")
    kernel.iptables("-A OUTPUT -p udp --dport 9000 -m conntrack --ctstate NEW,ESTABLISHED -j NFQUEUE --queue-num 1")
    kernel.iptables("-A OUTPUT -p icmp -j DROP")
    seen = []
    with nfnl.open_queue(1, kernel=kernel.kernel, flags=QueueFlag.CONNTRACK) as queue, kernel.until_idle():
        for change in ({"connmark": 0x99}, {"flow": AttachedFlow(mark=0x0F00, mark_mask=0x0FF0)}, {}):
            kernel.send(udp4())
            for packet in queue:
                assert packet.flow is not None
                seen.append((packet.flow.mark, packet.flow_info))
                packet.accept(**change)
    assert seen == [(mark, ConntrackInfo.NEW) for mark in (0, 0x99, 0x99 & ~0x0FF0 ^ 0x0F00)]


@rule("QV-31")
@pytest.mark.parametrize("nonsense", [b"", b"\1\2\3", attribute(CTA_MARK, b"\1"), attribute(CTA_TUPLE_ORIG)])
def test_a_change_that_means_nothing_is_no_obstacle(kernel: KernelUnderTest, flows: Listener, nonsense: bytes) -> None:
    journey = kernel.send(udp4())
    assert accept_and_change(flows, flows.packet(), nonsense) == "ACK"
    assert journey.delivered


# -------------------------------------------------------------------------------------------------------------------- nftables


def nft(kernel: KernelUnderTest, *lines: str) -> None:
    """Say this to nft, in the namespace of the test."""
    assert isinstance(kernel, LinuxUnderTest)
    kernel.touched = True
    for line in lines:
        done = kernel.kernel.run(["nft", line])
        assert not done.returncode, done.stderr


@pytest.fixture
def nft_queue(kernel: KernelUnderTest) -> Callable[[str], None]:
    """Hands what goes to port 9000 to an nftables queue statement."""
    kernel.require("nft-queue")
    nft(kernel, "add table ip t", "add chain ip t output { type filter hook output priority 0; }")
    return lambda statement: nft(kernel, f"add rule ip t output udp dport 9000 {statement}")


@rule("QT-5")
@lacking
def test_nftables_queues_like_iptables(kernel: KernelUnderTest, nft_queue: Callable[[str], None]) -> None:
    nft_queue("queue num 5")
    listener = Listener(kernel, 5)
    journey = kernel.send(udp4())
    packet = listener.packet()
    assert packet.payload == journey.packet
    assert listener.decide(packet) == "ACK"
    assert journey.delivered


@rule("QT-5")
@lacking
@pytest.mark.parametrize("bypass", [False, True])
def test_where_nobody_listens_nftables_drops_unless_it_may_bypass(
    kernel: KernelUnderTest, nft_queue: Callable[[str], None], bypass: bool
) -> None:
    nft_queue(f"queue num 5{' bypass' if bypass else ''}")
    nft_queue("drop")
    journey = kernel.send(udp4())
    assert journey.delivered == bypass, "bypass leads to the next chain, not to the next rule"


@rule("QT-5")
@lacking
def test_nftables_can_choose_among_queues(kernel: KernelUnderTest, nft_queue: Callable[[str], None]) -> None:
    nft_queue("queue num 10-12 fanout")
    listeners = [Listener(kernel, number) for number in (10, 11, 12)]
    kernel.send(udp4())
    assert sum(len(listener.packets()) for listener in listeners) == 1


# --------------------------------------------------------------------------------------------------------------------- bridges


@pytest.fixture
def bridge(kernel: KernelUnderTest) -> AnyBridge:
    """A bridge whose forward chain hands everything to queue 6."""
    if isinstance(kernel, FakeUnderTest):
        return FakeBridge(kernel.kernel)
    kernel.require("bridge-queue")
    assert isinstance(kernel, LinuxUnderTest)
    kernel.touched = True
    return Bridge(kernel.kernel, kernel.cleanup)


@pytest.fixture
def bridged(kernel: KernelUnderTest, bridge: AnyBridge) -> Listener:
    """Listens to that queue."""
    return Listener(kernel, 6)


def waiting(bridge: AnyBridge, bridged: Listener, **frame: int) -> Packet:
    """A packet on its way through the bridge."""
    bridge.send(udp4(), **frame)
    assert bridge.came_out() == []
    return bridged.packet()


@rule("QP-3", "QP-5", "QP-10")
def test_ports_and_link_header_of_a_bridged_packet(bridge: AnyBridge, bridged: Listener) -> None:
    frame = bridge.send(udp4())
    [datagram] = bridged.hear()
    told = raw_attributes(datagram)
    assert datagram[16] == socket.AF_BRIDGE
    assert [number for number, _ in told if number in (PHYSINDEV, INDEV, PHYSOUTDEV, OUTDEV, L2HDR, PAYLOAD)] == [
        *(PHYSINDEV, INDEV, PHYSOUTDEV, OUTDEV, L2HDR, PAYLOAD)
    ]
    by_number = dict(told)
    for number, device in ((PHYSINDEV, "port1"), (INDEV, "br0"), (PHYSOUTDEV, "port2"), (OUTDEV, "br0")):
        assert by_number[number] == be32(bridge.index(device)), device
    assert by_number[L2HDR] == frame[:14]
    assert by_number[PAYLOAD] == frame[14:]


@rule("QP-9", "QP-10")
def test_the_tag_of_a_bridged_packet_is_told_beside_its_link_header(bridge: AnyBridge, bridged: Listener) -> None:
    frame = bridge.send(udp4(), tag=0x6005)
    [datagram] = bridged.hear()
    told = dict(raw_attributes(datagram))
    assert raw_attributes(bytes(20) + told[VLAN | NESTED]) == [(2, b"\x60\x05"), (1, b"\x81\x00")], "TCI first"
    assert told[L2HDR] == frame[:12] + b"\x08\0"
    assert told[PAYLOAD] == frame[18:]


@rule("QV-34")
@pytest.mark.parametrize("before", [None, 0x6005])
def test_a_verdict_can_tag_a_bridged_packet(bridge: AnyBridge, bridged: Listener, before: int | None) -> None:
    packet = waiting(bridge, bridged, **({} if before is None else {"tag": before}))
    assert bridged.decide(packet, vlan=Vlan(tci=0x2007, proto=0x8100)) == "ACK"
    [frame] = bridge.came_out()
    assert frame.tag == 0x2007
    assert frame.data[14:] == udp4()


@rule("QV-34")
@pytest.mark.parametrize("half", [Vlan(tci=0x2007), Vlan(proto=0x8100)], ids=["without protocol", "without TCI"])
def test_half_a_tag_is_refused_and_the_packet_is_lost(bridge: AnyBridge, bridged: Listener, half: Vlan) -> None:
    packet = waiting(bridge, bridged)
    assert bridged.decide(packet, vlan=half) == "EINVAL"
    assert bridge.came_out() == []
    assert bridged.row.waiting == 0


@rule("QV-35")
def test_a_verdict_can_replace_the_link_header(bridge: AnyBridge, bridged: Listener) -> None:
    packet = waiting(bridge, bridged)
    header = bytes(packet.l2hdr or b"")
    other = header[:6] + bytes.fromhex("020000007777") + header[12:]
    assert bridged.decide(packet, l2hdr=other) == "ACK"
    [frame] = bridge.came_out()
    assert frame.data == other + udp4()


@rule("QV-35")
@pytest.mark.parametrize("length", [13, 15])
def test_a_link_header_of_another_length_is_refused_and_the_packet_lost(bridge: AnyBridge, bridged: Listener, length: int) -> None:
    packet = waiting(bridge, bridged)
    header = bytes(packet.l2hdr or b"")
    assert bridged.decide(packet, l2hdr=(header + bytes(2))[:length]) == "EINVAL"
    assert bridge.came_out() == []
    assert bridged.row.waiting == 0


@rule("QV-34", "QV-35", "QP-3", "QP-5")
def test_a_handler_can_change_tag_and_link_header(kernel: KernelUnderTest, bridge: AnyBridge) -> None:
    with nfnl.open_queue(6, kernel=kernel.kernel) as queue, kernel.until_idle():
        frame = bridge.send(udp4())
        for packet in queue:
            assert (packet.indev_name, packet.physindev_name, packet.physoutdev_name) == ("br0", "port1", "port2")
            assert packet.l2hdr == frame[:14]
            packet.accept(vlan=Vlan(tci=0x2007, proto=0x8100), l2hdr=frame[:11] + b"\x77" + frame[12:14])
    [out] = bridge.came_out()
    assert out.tag == 0x2007
    assert out.data == frame[:11] + b"\x77" + frame[12:]


@rule("QV-37")
def test_a_packet_whose_port_is_gone(bridge: AnyBridge, bridged: Listener) -> None:
    """Whether it still goes out is another question: see the probe packets-of-lost-ports-dropped."""
    packet = waiting(bridge, bridged)
    bridge.unplug("port2")
    assert bridged.decide(packet) == "ACK"
    assert bridged.row.waiting == 0


# ----------------------------------------------------------------------------------------------------------- packets examined


@rule("QV-23")
@needs("payloads-examined")
@lacking
@pytest.mark.parametrize(
    "packet",
    [
        udp4(b"HELLO", version=6),
        udp4(b"HELLO", length=30),
        udp4(b"HELLO", length=40),
        udp4(b"HELLO", ihl=6),
        udp4(b"HELLO", fragment=0x2000),
        udp4(b"HELLO")[:32],
        bytes(33),
    ],
    ids=["version", "too short", "too long", "header length", "fragment", "cut", "zeros"],
)
def test_where_packets_are_examined_what_is_none_is_lost(kernel: KernelUnderTest, packet: bytes) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    journey = kernel.send(udp4())
    assert listener.decide(1, payload=packet) == "ACK"
    assert (journey.dropped, listener.row.waiting) == (True, 0)


@rule("QV-23")
@needs("payloads-examined")
@lacking
def test_where_packets_are_examined_a_proper_one_may_have_another_length_and_other_addresses(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    journey = kernel.send(udp4())
    new = udp4(b"HELLO WORLD", source="10.0.0.1", destination="192.0.2.9")
    assert listener.decide(1, payload=new) == "ACK"
    assert (journey.delivered, journey.data) == (True, new)


# ------------------------------------------------------------------------------------------------------------- user namespaces


@rule("QV-38")
@needs("user-namespaces", "payloads-unexamined")
@lacking
def test_root_of_a_user_namespace_may_replace_packets(kernel: KernelUnderTest) -> None:
    assert fate_of_a_replaced_packet() == "delivered"


@rule("QV-38")
@needs("user-namespaces", "payloads-examined")
@lacking
def test_where_packets_are_examined_he_loses_them(kernel: KernelUnderTest) -> None:
    assert fate_of_a_replaced_packet() == "dropped"
