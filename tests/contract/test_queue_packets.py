"""What a queue tells about a packet."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

import nfnl
from nfnl.subsys.queue import CopyMode, Params, QueueFlag
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, rule
from tests.contract.wirekit import CAUGHT, MAX_RANGE, Listener, be32, raw_attributes, sum16, udp4, udp6, udp_sum

HDR, MARK, TIMESTAMP, INDEV, OUTDEV, HWADDR, PAYLOAD = 1, 3, 4, 5, 6, 9, 10
CAP_LEN, SKB_INFO, UID, GID, PRIORITY = 13, 14, 16, 17, 21
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
NOT_READY, NOT_VERIFIED = 1, 4
UID_GID = {"mask": QueueFlag.UID_GID, "flags": QueueFlag.UID_GID}
GSO = {"mask": QueueFlag.GSO, "flags": QueueFlag.GSO}


def caught_at(kernel: KernelUnderTest, hook: str, family: int = 4) -> None:
    """What goes to port 9000 waits at this hook, in queue 1."""
    (kernel.iptables if family == 4 else kernel.ip6tables)(f"-t mangle -A {hook} {CAUGHT} 1")


def told(listener: Listener) -> dict[int, bytes]:
    """The attributes of the one message that has come, in order.

    But for the time stamp: there is one before OUTPUT whenever any program of the machine asks for time stamps.
    """
    [datagram] = listener.hear()
    attributes = raw_attributes(datagram)
    if datagram[30] < HOOKS.index(OUTPUT):
        attributes = [attribute for attribute in attributes if attribute[0] != TIMESTAMP]
    assert len(dict(attributes)) == len(attributes), "each is there once"
    return dict(attributes)


class Way(NamedTuple):
    """A packet on its way past a hook, and what is told of it besides itself."""

    hook: str
    start: str  #: "lo": sent from here to here; "out": from here to eth0; "in": from eth0 to here; "through": from eth0 to eth1
    indev: str | None
    outdev: str | None
    rest: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.start} {self.hook}"


WAYS = [
    Way(OUTPUT, "lo", None, "lo", ()),
    Way(POSTROUTING, "lo", None, "lo", ()),
    Way(PREROUTING, "lo", "lo", None, (HWADDR,)),
    Way(INPUT, "lo", "lo", None, (HWADDR,)),
    Way(OUTPUT, "out", None, "eth0", ()),
    Way(POSTROUTING, "out", None, "eth0", ()),
    Way(PREROUTING, "in", "eth0", None, (SKB_INFO,)),
    Way(INPUT, "in", "eth0", None, (SKB_INFO,)),
    Way(PREROUTING, "through", "eth0", None, (SKB_INFO,)),
    Way(FORWARD, "through", "eth0", "eth1", (SKB_INFO,)),
    Way(POSTROUTING, "through", "eth0", "eth1", (SKB_INFO,)),
]


def go(kernel: KernelUnderTest, start: str, family: int) -> bytes:
    """Send a packet on this way."""
    own, other, far = ("10.0.0.1", "10.0.0.9", "192.0.2.9") if family == 4 else ("fd00::1", "fd00::9", "2001:db8::9")
    packet = udp4 if family == 4 else udp6
    match start:
        case "lo":
            data = packet()
            kernel.send_datagram(data)
        case "out":
            data = packet(source=own, destination=other)
            kernel.send_datagram(data)
        case "in":
            data = packet(source=other, destination=own)
            kernel.receive(data)
        case _:
            kernel.add_device("eth1")
            data = packet(source=other, destination=far)
            kernel.forward(data, "eth0", "eth1")
    return data


@rule("QP-1", "QP-2", "QP-4", "QP-8", "QP-19", "AK-9")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_what_is_told_at_which_hook(kernel: KernelUnderTest, way: Way, family: int) -> None:
    caught_at(kernel, way.hook, family)
    listener = Listener(kernel)
    sent = go(kernel, way.start, family)
    [datagram] = listener.hear()
    assert datagram[:20] == struct.pack("=IHHIIBB", len(datagram), 0x0300, 0, 0, 0, 2 if family == 4 else 10, 0) + b"\0\1"
    attributes = dict(raw_attributes(datagram))
    assert attributes[HDR] == struct.pack(">IHB", 1, 0x0800 if family == 4 else 0x86DD, HOOKS.index(way.hook))
    devices = {INDEV: way.indev, OUTDEV: way.outdev}
    assert {number: attributes.get(number) for number in devices} == {
        number: be32(kernel.index_of(device)) if device else None for number, device in devices.items()
    }
    transport = 20 if family == 4 else 40
    assert attributes[PAYLOAD][transport:] == sent[transport:]
    there = [number for number in attributes if number != TIMESTAMP or HOOKS.index(way.hook) > HOOKS.index(FORWARD)]
    assert there == [HDR, *(number for number, device in devices.items() if device), *way.rest, PAYLOAD]


@rule("QP-1")
@pytest.mark.parametrize("number", [0, 258, 65535])
def test_the_queue_is_named(kernel: KernelUnderTest, number: int) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} {number}")
    listener = Listener(kernel, number)
    kernel.send(udp4())
    assert listener.hear()[0][18:20] == number.to_bytes(2, "big")


@rule("QP-1")
def test_a_packet_forwarded_has_lost_a_hop(kernel: KernelUnderTest) -> None:
    for hook in (PREROUTING, FORWARD):
        kernel.iptables(f"-t mangle -A {hook} {CAUGHT} 1")
    listener = Listener(kernel)
    kernel.forward(udp4(source="10.0.0.9", destination="192.0.2.9", ttl=33))
    before = listener.packet()
    assert listener.decide(before) == "ACK"
    after = listener.packet()
    assert [packet.payload and packet.payload[8] for packet in (before, after)] == [33, 32]


# ---------------------------------------------------------------------------------------------------------- single attributes


@rule("QP-6")
@pytest.mark.parametrize(("mark", "there"), [(0, False), (1, True), (0x01020304, True), (0xFFFFFFFF, True)])
def test_the_mark_is_told_unless_it_is_0(kernel: KernelUnderTest, mark: int, there: bool) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    kernel.send(udp4(), mark=mark)
    assert told(listener).get(MARK) == (be32(mark) if there else None)


@rule("QP-6")
def test_a_mark_set_by_a_rule_is_told(kernel: KernelUnderTest) -> None:
    kernel.iptables("-t mangle -A OUTPUT -p udp --dport 9000 -j MARK --set-mark 0x77")
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    kernel.send(udp4())
    assert told(listener)[MARK] == be32(0x77)


@rule("QP-7")
@needs("priority-told")
@pytest.mark.parametrize("priority", [0, 1, 6])
def test_the_priority_is_told_unless_it_is_0(kernel: KernelUnderTest, priority: int) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    kernel.send(udp4(), priority=priority)
    assert told(listener).get(PRIORITY) == (be32(priority) if priority else None)


@rule("QP-7")
@needs("priority-told")
@pytest.mark.parametrize(("tos", "priority"), [(0, None), (0x10, 6), (0x08, 2), (0x18, 4), (0x04, None), (0xE0, None)])
def test_a_forwarded_packet_s_priority_comes_from_its_tos(kernel: KernelUnderTest, tos: int, priority: int | None) -> None:
    caught_at(kernel, FORWARD)
    listener = Listener(kernel)
    kernel.forward(udp4(source="10.0.0.9", destination="192.0.2.9", tos=tos))
    assert told(listener).get(PRIORITY) == (None if priority is None else be32(priority))


@rule("QP-8")
def test_the_hardware_address_of_the_loopback(kernel: KernelUnderTest) -> None:
    caught_at(kernel, PREROUTING)
    listener = Listener(kernel)
    kernel.send(udp4())
    assert told(listener)[HWADDR] == b"\0\6\0\0" + bytes(8)


@rule("QP-11")
@pytest.mark.parametrize("hook", [OUTPUT, POSTROUTING])
def test_no_time_is_told_on_the_way_out(kernel: KernelUnderTest, hook: str) -> None:
    caught_at(kernel, hook)
    listener = Listener(kernel)
    kernel.send(udp4())
    kernel.forward(udp4(source="10.0.0.9", destination="192.0.2.9"))
    for datagram in listener.hear():
        assert TIMESTAMP not in dict(raw_attributes(datagram))


@rule("QP-6", "QP-7", "QP-8", "QP-17", "QP-18")
@needs("priority-told")
def test_the_order_of_the_attributes(kernel: KernelUnderTest) -> None:
    caught_at(kernel, PREROUTING)
    listener = Listener(kernel, copy_range=30, **UID_GID)
    kernel.send(udp4(), mark=1, priority=6)
    assert list(told(listener)) == [HDR, INDEV, MARK, PRIORITY, HWADDR, CAP_LEN, SKB_INFO, PAYLOAD]


# ------------------------------------------------------------------------------------------------------------------- payload


@rule("QP-17", "QP-19", "QC-10")
@pytest.mark.parametrize("copy_range", [1, 19, 20, 32, 33, 34, 1000])
def test_the_payload_is_cut_at_the_range(kernel: KernelUnderTest, copy_range: int) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, copy_range=copy_range)
    kernel.send(udp4())
    attributes = told(listener)
    assert attributes[PAYLOAD] == udp4()[:copy_range]
    assert attributes.get(CAP_LEN) == (be32(33) if copy_range < 33 else None)


@rule("QP-30", "QP-19")
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_the_payload_is_last_and_not_padded(kernel: KernelUnderTest, length: int) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    packet = udp4(bytes(length))
    kernel.send(packet)
    [datagram] = listener.hear()
    assert struct.unpack_from("=I", datagram)[0] == len(datagram) == 20 + 12 + 8 + 4 + len(packet)
    assert datagram.endswith(struct.pack("=HH", 4 + len(packet), PAYLOAD) + packet)


@rule("QP-30")
def test_everything_else_is_padded_with_zeros(kernel: KernelUnderTest) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.send(udp4())
    [datagram] = listener.hear()
    header = struct.pack("=HH", 11, HDR) + struct.pack(">IHB", 1, 0x0800, 3) + b"\0"
    assert datagram[20:] == header + struct.pack("=HH", 8, OUTDEV) + be32(kernel.index_of("lo"))


@rule("QP-31", "QC-11")
def test_in_mode_meta_the_packet_is_not_told(kernel: KernelUnderTest) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.send(udp4(bytes(1000)))
    assert list(told(listener)) == [HDR, OUTDEV]


@rule("QP-32", "QP-17")
@pytest.mark.parametrize("length", [MAX_RANGE - 1, MAX_RANGE, MAX_RANGE + 1, 65535])
def test_the_largest_packets(kernel: KernelUnderTest, length: int) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    packet = udp4(b"y" * (length - 28))
    assert kernel.send(packet).queued
    attributes = told(listener)
    assert attributes[PAYLOAD] == packet[:MAX_RANGE]
    assert attributes.get(CAP_LEN) == (be32(length) if length > MAX_RANGE else None)


@rule("QP-19", "QC-10")
def test_a_new_range_is_for_packets_to_come(kernel: KernelUnderTest) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    kernel.send(udp4())
    listener.configure(params=Params(25, CopyMode.PACKET))
    kernel.send(udp4())
    assert [len(packet.payload or b"") for packet in listener.packets()] == [33, 25]


# ------------------------------------------------------------------------------------------------------------- the checksum


@rule("QP-18", "QP-33")
@pytest.mark.parametrize("hook", [OUTPUT, POSTROUTING, PREROUTING, INPUT])
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_a_checksum_left_to_the_device_is_finished_first(kernel: KernelUnderTest, hook: str, family: int) -> None:
    caught_at(kernel, hook, family)
    listener = Listener(kernel)
    go(kernel, "lo", family)
    attributes = told(listener)
    assert SKB_INFO not in attributes
    assert udp_sum(attributes[PAYLOAD]) == 0xFFFF, "it is right"


@rule("QP-18", "QP-33")
@pytest.mark.parametrize("hook", [OUTPUT, POSTROUTING, PREROUTING, INPUT])
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_with_the_gso_flag_it_is_left_alone(kernel: KernelUnderTest, hook: str, family: int) -> None:
    caught_at(kernel, hook, family)
    listener = Listener(kernel, **GSO)
    go(kernel, "lo", family)
    attributes = told(listener)
    assert attributes[SKB_INFO] == be32(NOT_READY)
    packet = attributes[PAYLOAD]
    at, addresses = (20, packet[12:20]) if family == 4 else (40, packet[8:40])
    of_the_pseudo_header = 0xFFFF - sum16(addresses + struct.pack(">HH", 17, len(packet) - at))
    assert int.from_bytes(packet[at + 6 : at + 8], "big") == of_the_pseudo_header


@rule("QP-18", "QP-33")
@pytest.mark.parametrize("flags", [{}, GSO], ids=["", "GSO"])
def test_in_mode_meta_too(kernel: KernelUnderTest, flags: dict[str, QueueFlag]) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, mode=CopyMode.META, **flags)
    kernel.send_datagram(udp4())
    assert told(listener) == {HDR: b"\0\0\0\1\x08\0\3", OUTDEV: be32(kernel.index_of("lo")), SKB_INFO: be32(NOT_READY)}


@rule("QP-18", "QP-33")
@pytest.mark.parametrize("hook", [OUTPUT, POSTROUTING])
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_nothing_is_left_to_a_device_that_cannot(kernel: KernelUnderTest, hook: str, family: int) -> None:
    caught_at(kernel, hook, family)
    listener = Listener(kernel, **GSO)
    go(kernel, "out", family)
    attributes = told(listener)
    assert SKB_INFO not in attributes
    assert udp_sum(attributes[PAYLOAD]) == 0xFFFF


@rule("QP-33", "QP-34")
def test_a_finished_checksum_stays_finished(kernel: KernelUnderTest) -> None:
    for hook in (OUTPUT, PREROUTING):
        caught_at(kernel, hook)
    listener = Listener(kernel)
    kernel.send_datagram(udp4())
    out = listener.packet()
    listener.configure(params=Params(0, CopyMode.META))
    assert listener.decide(out) == "ACK"
    assert listener.packet().skb_info == NOT_VERIFIED, "complete, and nobody has looked at it since"


@rule("QP-33")
def test_a_partial_checksum_stays_partial(kernel: KernelUnderTest) -> None:
    for hook in (OUTPUT, PREROUTING):
        caught_at(kernel, hook)
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.send_datagram(udp4())
    assert listener.decide(listener.packet()) == "ACK"
    assert listener.packet().skb_info == NOT_READY


@rule("QP-18", "QP-34")
@pytest.mark.parametrize(("hook", "info"), [(OUTPUT, None), (POSTROUTING, None), (PREROUTING, NOT_VERIFIED), (INPUT, NOT_VERIFIED)])
@pytest.mark.parametrize("mode", [CopyMode.META, CopyMode.PACKET])
def test_a_complete_checksum_is_verified_by_nobody(kernel: KernelUnderTest, hook: str, info: int | None, mode: CopyMode) -> None:
    caught_at(kernel, hook)
    listener = Listener(kernel, mode=mode)
    kernel.send(udp4(udp_checksum=0x1234))
    assert told(listener).get(SKB_INFO) == (None if info is None else be32(info))


@rule("QP-34")
@pytest.mark.parametrize("hook", [PREROUTING, FORWARD, POSTROUTING])
def test_nor_is_that_of_a_packet_on_its_way_through(kernel: KernelUnderTest, hook: str) -> None:
    caught_at(kernel, hook)
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.forward(udp4(source="10.0.0.9", destination="192.0.2.9"))
    assert told(listener)[SKB_INFO] == be32(NOT_VERIFIED)


# --------------------------------------------------------------------------------------------------------------- user and group


@rule("QP-12")
@pytest.mark.parametrize("uid", [0, 4321])
def test_who_sent_a_packet(kernel: KernelUnderTest, uid: int) -> None:
    kernel.require("initial-user-namespace")
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, **UID_GID)
    with kernel.process(uid=uid):
        kernel.send_datagram(udp4())
    attributes = told(listener)
    assert list(attributes) == [HDR, OUTDEV, UID, GID, PAYLOAD]
    assert (attributes[UID], attributes[GID]) == (be32(uid), be32(uid))


@rule("QP-12")
def test_the_order_of_the_attributes_with_user_and_group(kernel: KernelUnderTest) -> None:
    caught_at(kernel, POSTROUTING)
    flags = QueueFlag.UID_GID | QueueFlag.GSO
    listener = Listener(kernel, copy_range=20, mask=flags, flags=flags)
    kernel.send_datagram(udp4())
    assert list(told(listener)) == [HDR, OUTDEV, UID, GID, CAP_LEN, SKB_INFO, PAYLOAD]


@rule("QP-12")
def test_it_is_not_told_without_the_flag(kernel: KernelUnderTest) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel)
    kernel.send_datagram(udp4())
    assert not {UID, GID} & told(listener).keys()


@rule("QP-12")
@pytest.mark.parametrize("start", ["lo", "in", "through"])
def test_nobody_here_sent_what_comes_in(kernel: KernelUnderTest, start: str) -> None:
    caught_at(kernel, PREROUTING)
    listener = Listener(kernel, **UID_GID)
    go(kernel, start, 4)
    assert not {UID, GID} & told(listener).keys()


@rule("QP-12")
def test_nor_what_the_kernel_answers(kernel: KernelUnderTest) -> None:
    kernel.iptables("-A OUTPUT -p icmp -j NFQUEUE --queue-num 1")
    listener = Listener(kernel, **UID_GID)
    kernel.receive(udp4(source="10.0.0.9", destination="10.0.0.1"))
    attributes = told(listener)
    assert attributes[PAYLOAD][20:22] == b"\3\3", "port unreachable"
    assert not {UID, GID} & attributes.keys()


@rule("QP-14")
def test_a_packet_without_a_security_mark_has_no_context(kernel: KernelUnderTest) -> None:
    caught_at(kernel, OUTPUT)
    listener = Listener(kernel, mask=QueueFlag.SECCTX, flags=QueueFlag.SECCTX)
    kernel.send(udp4())
    assert list(told(listener)) == [HDR, OUTDEV, PAYLOAD]


#: all but CONNTRACK, which takes a kernel that knows of flows
FLAGS = pytest.mark.parametrize("flag", [flag for flag in QueueFlag if flag is not QueueFlag.CONNTRACK], ids=lambda flag: flag.name)


@rule("QC-16")
@FLAGS
def test_a_flag_can_be_set_and_cleared(kernel: KernelUnderTest, flag: QueueFlag) -> None:
    """What each does has tests of its own; here it makes a difference while it is set, and none before and after."""
    caught_at(kernel, OUTPUT)
    with nfnl.open_queue(1, kernel=kernel.kernel, max_length=1) as queue, kernel.until_idle():
        seen = []
        for flags in (QueueFlag(0), flag, QueueFlag(0)):
            queue.configure(flags=flags, mask=flag)
            kernel.send_datagram(udp4())
            second = kernel.send(udp4())
            for packet in queue:
                seen.append((packet.message.skb_info, packet.uid is not None, second.delivered))
                packet.drop()
        before, during, after = seen
    assert before == after == (None, False, False)
    assert (
        during
        == {
            QueueFlag.FAIL_OPEN: (None, False, True),
            QueueFlag.GSO: (NOT_READY, False, False),
            QueueFlag.UID_GID: (None, True, False),
            QueueFlag.SECCTX: before,
        }[flag]
    )


# ---------------------------------------------------------------------------------------------------------------------- names


@rule("QP-2", "QP-4")
def test_devices_are_called_what_they_are_called_now(kernel: KernelUnderTest) -> None:
    kernel.add_device("eth1")
    caught_at(kernel, FORWARD)
    with nfnl.open_queue(1, kernel=kernel.kernel) as queue, kernel.until_idle():
        kernel.forward(udp4(source="10.0.0.9", destination="10.0.0.8"), "eth0", "eth1")
        names = []
        for packet in queue:
            names.append((packet.indev_name, packet.outdev_name, packet.physindev_name, packet.physoutdev_name))
            packet.accept()
        assert names == [("eth0", "eth1", None, None)]
        assert [queue.interface_name(kernel.index_of(name)) for name in ("lo", "eth1")] == ["lo", "eth1"]
        assert [queue.interface_name(index) for index in (0, 4711, -1, 1 << 40)] == [None] * 4
