"""The bridge family as far as a queue sees it; what it tells and what verdicts change is in tests/contract/test_guest_only.py."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENETDOWN, ENODEV

import pytest

import nfnl
from nfnl.errors import NotModelled
from nfnl.sim import FakeKernel, Fate
from nfnl.subsys.queue import Vlan
from tests.contract.wirekit import udp4

HEADER = bytes.fromhex("02000000000b 02000000000a 0800")
FRAME = HEADER + udp4()


def bridged(*, bypass: bool = False) -> FakeKernel:
    kernel = FakeKernel()
    kernel.add_bridge("br0", ("port1", "port2"), queue=3, bypass=bypass)
    return kernel


def test_a_handler_for_a_bridge() -> None:
    with bridged() as kernel, nfnl.open_queue(3, kernel=kernel) as queue, kernel.until_idle():
        plain = kernel.receive_frame(FRAME, "port1")
        back = kernel.receive_frame(FRAME, "port2")
        for packet in queue:
            assert (packet.indev_name, packet.outdev_name) == ("br0", "br0")
            assert {packet.physindev_name, packet.physoutdev_name} == {"port1", "port2"}
            assert (packet.l2hdr, packet.payload, packet.hw_protocol) == (HEADER, udp4(), 0x0800)
            packet.accept(vlan=Vlan(tci=7, proto=0x8100), l2hdr=HEADER[:11] + b"\x77\x08\x00")
    assert (plain.fate, back.fate) == (Fate.SENT, Fate.SENT)
    assert plain.data == HEADER[:11] + b"\x77\x81\x00\x00\x07\x08\x00" + udp4()
    assert plain.packet == FRAME
    assert plain.hooks == ["FORWARD"]


def test_nobody_listens() -> None:
    with bridged() as kernel:
        assert kernel.receive_frame(FRAME, "port1").reason == "queue 3: nobody listens"
    with bridged(bypass=True) as kernel:
        assert kernel.receive_frame(FRAME, "port1").data == FRAME


def test_what_waits_goes_with_its_port() -> None:
    with bridged() as kernel, nfnl.open_queue(3, kernel=kernel, undecided="accept"):
        journey = kernel.receive_frame(FRAME, "port1")
        snapshot = kernel.snapshot()
        kernel.set_up("port2", False)
        assert (journey.dropped, journey.reason) == (True, "device 5 went down")
        assert kernel.receive_frame(FRAME, "port1").reason == "there is no other port that is up"
        snapshot.restore()
        assert journey.queued
        kernel.set_up("br0", False)
        assert journey.dropped


def test_what_is_no_frame_for_it() -> None:
    with bridged() as kernel:
        for frame in (FRAME[:13], bytes.fromhex("0180c2000000") + FRAME[6:], bytes.fromhex("020000000001") + FRAME[6:]):
            with pytest.raises(NotModelled, match="for the bridge itself"):
                kernel.receive_frame(frame, "port1")
        for port, error in (("eth0", EINVAL), ("eth7", ENODEV)):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                kernel.receive_frame(FRAME, port)
            assert caught.value.errno == error
        kernel.set_up("port1", False)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            kernel.receive_frame(FRAME, "port1")
        assert caught.value.errno == ENETDOWN
        with pytest.raises(OSError) as caught:  # noqa: PT011
            kernel.add_bridge("br0", ("a", "b"), queue=1)
        assert caught.value.errno == EEXIST
