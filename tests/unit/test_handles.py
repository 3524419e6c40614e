"""What a packet tells that neither kernel says of its own accord in the doors' tests."""

from __future__ import annotations

from nfnl._handles import QueuedPacket
from nfnl.session.queue import QueueSession
from nfnl.subsys.queue import Packet, PacketHeader, QueueFlag, Timestamp
from nfnl.wire.constants import Hook
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
