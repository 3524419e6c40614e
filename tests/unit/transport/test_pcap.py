"""What crosses the seam, as Wireshark reads it: our own recordings, judged by its dissectors."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import RawPcapReader

import nfnl
from nfnl.cli.captures import datagrams
from nfnl.sim import FakeKernel
from nfnl.subsys.queue import Config, Packet, VerdictMessage
from nfnl.testing.lab import LinuxLab
from nfnl.transport import pcap
from nfnl.transport.base import Kernel, SocketOptions
from nfnl.transport.pcap import LINKTYPE_NETLINK, PcapKernel
from nfnl.wire.constants import NlmsgFlag, NlmsgType
from nfnl.wire.control import Ack
from nfnl.wire.declare import Direction
from nfnl.wire.header import NATIVE
from tests import probes

EPOCH = 1_700_000_000
NOOP = NATIVE.header.pack(16, 1, NlmsgFlag.REQUEST | NlmsgFlag.ACK, 7, 0)
DATAGRAM = IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=40000, dport=9) / b"odd"


@pytest.fixture(params=["fake", "linux"])
def any_kernel(request: pytest.FixtureRequest) -> Iterator[FakeKernel | LinuxLab]:
    if request.param == "linux":
        probes.require("lab-available")
    with FakeKernel() if request.param == "fake" else LinuxLab() as kernel:
        yield kernel


def session(kernel: FakeKernel | LinuxLab, recorded: Kernel) -> None:
    """Acknowledgements, a refusal, packets with and without a mark, verdicts alone, together and in a batch."""
    kernel.iptables("-A OUTPUT -p udp -j NFQUEUE --queue-num 7")
    with nfnl.open_queue(7, kernel=recorded, max_length=10, flags=nfnl.QueueFlag.GSO) as queue, kernel.until_idle():
        for mark in (5, 0, 0x80000000):
            kernel.send(DATAGRAM, mark=mark)
        for packet in queue:
            if packet.id == 2:
                packet.drop()
            else:
                packet.accept(mark=9)
        for _ in range(3):
            kernel.send(DATAGRAM)
        for packet in queue:
            packet.accept()
        with pytest.raises(nfnl.NotPermitted):
            nfnl.open_queue(7, kernel=recorded)


def record(kernel: FakeKernel | LinuxLab) -> bytes:
    file = io.BytesIO()
    session(kernel, PcapKernel(kernel, file, epoch=EPOCH))
    return file.getvalue()


def records(capture: bytes, into: Path) -> list[tuple[bytes, Any]]:
    """As scapy reads them."""
    into.write_bytes(capture)
    with RawPcapReader(str(into)) as reader:
        assert reader.linktype == LINKTYPE_NETLINK
        return list(reader)


def test_what_is_sent_and_received_is_there_in_order(tmp_path: Path) -> None:
    file = io.BytesIO()
    kernel = FakeKernel(pid=77)
    transport = PcapKernel(kernel, file, epoch=EPOCH).open()
    kernel.advance(1.5)
    transport.send(NOOP)
    kernel.advance(0.25)
    (answer,) = transport.receive()
    assert transport.receive() == []
    (sent, when_sent), (received, when_received) = records(file.getvalue(), tmp_path / "netlink.pcap")
    # struct sockaddr_ll as tcpdump writes it: packet type, ARPHRD_NETLINK, no address, the netlink protocol; big-endian
    assert sent == bytes.fromhex("0004 0338 0000 0000000000000000 000c") + NOOP
    assert received == bytes.fromhex("0000 0338 0000 0000000000000000 000c") + answer
    assert [(when.sec, when.usec, when.wirelen) for when in (when_sent, when_received)] == [
        (EPOCH + 1, 500_000, 32),
        (EPOCH + 1, 750_000, 16 + len(answer)),
    ]


def test_nothing_that_failed_is_recorded(tmp_path: Path) -> None:
    file = io.BytesIO()
    transport = PcapKernel(FakeKernel(), file).open(SocketOptions(receive_buffer=0))
    for _ in range(10):
        transport.send(NOOP)
    with pytest.raises(nfnl.OverrunError):
        transport.receive()
    answers = transport.receive()
    transport.close()
    with pytest.raises(nfnl.TransportClosed):
        transport.send(NOOP)
    assert [data[:2] for data, _ in records(file.getvalue(), tmp_path / "netlink.pcap")] == [b"\0\4"] * 10 + [b"\0\0"] * len(
        answers
    )


def test_what_readers_would_refuse_is_cut_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap, "SNAPLEN", 24)
    file = io.BytesIO()
    PcapKernel(FakeKernel(), file).open().send(NOOP)
    ((data, about),) = records(file.getvalue(), tmp_path / "netlink.pcap")
    assert (data[16:], about.wirelen) == (NOOP[:8], 32)


def test_our_own_reader_gets_back_what_was_said(any_kernel: FakeKernel | LinuxLab) -> None:
    found = list(datagrams(record(any_kernel), "pcap"))
    assert not any(one.problem or one.remark for one in found)
    messages = [message for one in found for message in nfnl.decode(one.data)]
    assert [type(message).__name__ for message in messages[:5]] == ["Config", "Ack", "Packet", "Packet", "Packet"]
    assert [type(message).__name__ for message in messages[-2:]] == ["Config", "Ack"]


FIELDS = {
    "type": "netlink.hdr_type",
    "seq": "netlink.hdr_seq",
    "queue": "netlink-netfilter.res_id",
    "packet": "netlink-netfilter.queue.packet.id",
    "protocol": "netlink-netfilter.queue.packet.protocol",
    "hook": "netlink-netfilter.queue.packet.hook",
    "mark": "netlink-netfilter.queue.nfmark",
    "verdict": "netlink-netfilter.queue.verdict.verdict",
    "verdict of": "netlink-netfilter.queue.verdict.id",
    "command": "netlink-netfilter.queue.config.command.command",
    "copy range": "netlink-netfilter.queue.config.params.copy_range",
    "copy mode": "netlink-netfilter.queue.config.params.copy_mode",
    "maximum": "netlink-netfilter.queue.config.queue_maxlen",
    "error": "netlink.error",
}


def dissected(capture: bytes, into: Path, fields: dict[str, str]) -> list[dict[str, list[int]]]:
    """What tshark reads out of each datagram: every occurrence of each field."""
    into.write_bytes(capture)
    options = [word for field in fields.values() for word in ("-e", field)]
    command = ["tshark", "-r", str(into), "-T", "fields", "-E", "separator=;", *options]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(";") for line in printed.splitlines()]
    return [
        {name: [int(value, 0) for value in cell.split(",") if value] for name, cell in zip(fields, row, strict=True)}
        for row in rows
    ]


def understood(datagram: bytes, direction: Direction) -> dict[str, list[int]]:
    """What nfnl reads out of one."""
    found: dict[str, list[int]] = {name: [] for name in FIELDS}

    def add(**values: int | None) -> None:
        for name, value in values.items():
            if value is not None:
                found[name.replace("_", " ")].append(value)

    for message in nfnl.decode(datagram, direction=direction):
        add(type=message.nlmsg_type, seq=message.nlmsg_seq)
        match message:
            case Ack():
                add(error=-message.error, type=message.request_type, seq=message.nlmsg_seq)
            case Packet():
                header = message.header
                add(queue=message.res_id, packet=header.packet_id, protocol=header.hw_protocol, hook=header.hook, mark=message.mark)
            case VerdictMessage():
                add(queue=message.res_id, verdict=message.header.verdict, verdict_of=message.header.packet_id, mark=message.mark)
            case Config():
                add(queue=message.res_id)
                if message.command:
                    add(command=message.command.command)
                if message.params:
                    add(copy_range=message.params.copy_range, copy_mode=message.params.copy_mode)
                if message.queue_maxlen is not None:
                    add(maximum=int.from_bytes(struct.pack("=I", message.queue_maxlen), "big"))
            case _:
                add(queue=getattr(message, "res_id", None))
    return found


def test_wireshark_agrees(any_kernel: FakeKernel | LinuxLab, tmp_path: Path) -> None:
    """Message types, sequence numbers, queue numbers, packet ids, hooks, marks, verdicts, refusals, and the payloads inside.

    Known to be wrong in tshark 4.0: the greatest length (and flags and mask) of a queue is read in the host's byte order, which is
    compared as such. A batch's verdict header is not read at all, the text and the offset of an extended acknowledgement are not
    shown, and of a request within an acknowledgement only the first header.
    """
    probes.require("tshark")
    capture = record(any_kernel)
    seen = dissected(capture, tmp_path / "netlink.pcap", FIELDS)
    to_kernel = [data[1] == 4 for data, _ in records(capture, tmp_path / "again.pcap")]
    said = [one.data for one in datagrams(capture, "pcap")]
    directions = (Direction.TO_KERNEL if sent else Direction.FROM_KERNEL for sent in to_kernel)
    assert seen == [understood(datagram, direction) for datagram, direction in zip(said, directions, strict=True)]
    assert [row["error"] for row in seen if row["error"]] == [[0], [-1]]
    assert NlmsgType.ERROR in seen[1]["type"]
    inner = dissected(capture, tmp_path / "netlink.pcap", {"id": "netlink-netfilter.queue.packet.id", "port": "udp.dstport"})
    assert [row for row in inner if row["id"]] == [{"id": [number], "port": [9]} for number in range(1, 7)]
