"""What a packet tells that neither kernel says of its own accord in the doors' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import nfnl
from nfnl import LocalProtocolError
from nfnl._handles import QueuedPacket
from nfnl.session.queue import QueueSession
from nfnl.sim import FakeKernel
from nfnl.subsys.conntrack import AttachedFlow, label_bitmap
from nfnl.subsys.expect import AttachedExpectation
from nfnl.subsys.queue import ConntrackInfo, Packet, PacketHeader, QueueFlag, Timestamp, VerdictMessage, Vlan
from nfnl.transport.trace import TraceKernel
from nfnl.wire.constants import Family, Hook
from tests.unit.session.kernel_model import ModelQueue


def received(message: Packet) -> QueuedPacket:
    kernel = ModelQueue()
    session = QueueSession(0, packet_class=QueuedPacket)
    session.bind(flags=QueueFlag.UID_GID)
    session.receive_datagrams([*kernel.take(session.datagrams_to_send()), bytes(message)], 0.0)
    _, packet = iter(session.next_event, None)
    assert isinstance(packet, QueuedPacket)
    return packet


def test_everything_a_message_can_hold() -> None:
    packet = received(
        Packet(
            header=PacketHeader(1, 0x86DD, 2),
            indev=3,
            outdev=4,
            mark=5,
            uid=1000,
            gid=100,
            timestamp=Timestamp(1_700_000_000, 250_000),
            cap_len=1500,
            payload=b"begin",
        )
    )
    assert (packet.id, packet.hw_protocol, packet.hook) == (1, 0x86DD, Hook.FORWARD)
    assert (packet.indev, packet.outdev, packet.mark, packet.uid, packet.gid) == (3, 4, 5, 1000, 100)
    assert packet.timestamp == 1_700_000_000.25
    assert (packet.truncated, packet.full_length, packet.payload) == (True, 1500, b"begin")


def test_what_is_absent_is_none_and_the_payload_empty() -> None:
    packet = received(Packet(header=PacketHeader(1, 0x0800, 3)))
    for name in ("indev", "outdev", "mark", "uid", "gid", "timestamp"):
        assert getattr(packet, name) is None
    assert (packet.payload, packet.truncated, packet.full_length) == (b"", False, 0)


class Owner:
    """Takes what verdicts say to the session, and knows two interfaces."""

    def __init__(self) -> None:
        self.said: list[VerdictMessage] = []

    def decide(self, packet_id: int, word: int, **changes: object) -> None:
        self.said.append(VerdictMessage(header=(word, packet_id), **changes))  # type: ignore[arg-type]

    def interface_name(self, index: int) -> str | None:
        return {3: "br0", 4: "port1"}.get(index)


def owned(**fields: object) -> tuple[QueuedPacket, Owner]:
    packet = received(Packet(header=PacketHeader(1, 0x0800, 2), payload=b"x", **fields))  # type: ignore[arg-type]
    packet.owner = owner = Owner()  # type: ignore[assignment]
    return packet, owner


FLOW = AttachedFlow(mark=1)


def test_a_bridged_packet() -> None:
    packet, owner = owned(
        nfgen_family=Family.BRIDGE, physindev=4, indev=3, physoutdev=9, outdev=3, vlan=Vlan(tci=5, proto=0x8100), l2hdr=bytes(14)
    )
    assert (packet.indev_name, packet.outdev_name, packet.physindev_name, packet.physoutdev_name) == ("br0", "br0", "port1", None)
    assert (packet.physindev, packet.physoutdev, packet.vlan, packet.l2hdr) == (4, 9, Vlan(tci=5, proto=0x8100), bytes(14))
    packet.accept(vlan=Vlan(tci=7, proto=0x8100), l2hdr=b"z" * 14)
    [said] = owner.said
    assert (said.vlan, said.l2hdr, said.payload, said.ct) == (Vlan(tci=7, proto=0x8100), b"z" * 14, None, None)


def test_the_flow_of_a_packet() -> None:
    packet, owner = owned(ct=FLOW, ct_info=3)
    assert (packet.flow, packet.flow_info) == (FLOW, ConntrackInfo.ESTABLISHED_REPLY)
    packet.accept(connmark=7, connlabels={1, 64})
    packet.accept(flow=AttachedFlow(mark=7, mark_mask=15, timeout=60))
    packet.accept(expectation=AttachedExpectation(timeout=5))
    marked, changed, expecting = owner.said
    assert marked.ct == AttachedFlow(mark=7, labels=label_bitmap(1, 64))
    assert changed.ct == AttachedFlow(mark=7, mark_mask=15, timeout=60)
    assert (expecting.ct, expecting.exp) == (AttachedFlow(), AttachedExpectation(timeout=5))


@pytest.mark.parametrize(
    ("fields", "change", "why"),
    [
        ({}, lambda packet: packet.accept(connmark=1), "without its flow"),
        ({}, lambda packet: packet.accept(expectation=AttachedExpectation()), "without its flow"),
        ({"ct": FLOW}, lambda packet: packet.accept(connmark=1, flow=FLOW), "go into the flow"),
        ({}, lambda packet: packet.accept(l2hdr=b""), "not of the bridge family"),
        ({"l2hdr": bytes(14)}, lambda packet: packet.accept(vlan=Vlan(tci=1, proto=2)), "not of the bridge family"),
        ({"nfgen_family": 7}, lambda packet: packet.accept(vlan=Vlan(tci=1)), "two parts"),
        ({"nfgen_family": 7, "l2hdr": bytes(14)}, lambda packet: packet.accept(l2hdr=bytes(13)), "has 14 bytes, not 13"),
    ],
)
def test_what_the_kernel_would_pass_over_or_drop_the_packet_for(
    fields: dict[str, object], change: Callable[[QueuedPacket], None], why: str
) -> None:
    packet, owner = owned(**fields)
    with pytest.raises(LocalProtocolError, match=why):
        change(packet)
    assert owner.said == []


def test_labels_there_are_not() -> None:
    packet, owner = owned(ct=FLOW)
    with pytest.raises(ValueError, match="128 is not a label"):
        packet.accept(connlabels=[128])
    assert owner.said == []


@pytest.mark.parametrize("acknowledge", [False, True])
def test_verdicts_are_answered_if_that_is_asked(acknowledge: bool) -> None:
    lines: list[str] = []
    with FakeKernel() as kernel:
        kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 0")
        traced = TraceKernel(kernel, lines.append)
        with nfnl.open_queue(0, kernel=traced, acknowledge=acknowledge) as queue, kernel.until_idle():
            kernel.send(bytes.fromhex("4500001400010000400100000a0000010a000009"))
            for packet in queue:
                packet.drop()
    assert any("<- Ack of Verdict" in line for line in lines) is acknowledge
