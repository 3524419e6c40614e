"""A bridge between two cables, on either kernel: frames go in at one end and come out at the other, or wait in a queue."""

from __future__ import annotations

import socket
import struct
import tempfile
from contextlib import ExitStack
from typing import NamedTuple

from nfnl.sim import FakeKernel, Fate, Journey
from nfnl.testing.lab import LinuxLab

SOL_PACKET, PACKET_AUXDATA = 263, 8  # linux/if_packet.h
ETH_P_ALL, ETH_P_IP, ETH_P_8021Q = 3, 0x0800, 0x8100
_TP_STATUS_VLAN_VALID = 1 << 4
#: Nobody has these addresses: the bridge floods.
LEFT, RIGHT = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")

#: ``left`` is plugged into ``port1`` and ``right`` into ``port2``; the bridge forwards at once and says nothing by itself.
_WIRING = """\
link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0
link add port1 type veth peer name left
link add port2 type veth peer name right
link set port1 master br0 up
link set port2 master br0 up
link set left up
link set right up
link set br0 up
"""
_RULES = """\
add table bridge t
add chain bridge t forward { type filter hook forward priority 0; }
add rule bridge t forward queue num 6
"""


class Frame(NamedTuple):
    """What came out, and the tag that was beside it: TCI, or None."""

    data: bytes
    tag: int | None


def made_of(payload: bytes, tag: int | None) -> bytes:
    """A frame with an IPv4 packet, from the left end to the right one."""
    return RIGHT + LEFT + (struct.pack(">HH", ETH_P_8021Q, tag) if tag is not None else b"") + struct.pack(">H", ETH_P_IP) + payload


class FakeBridge:
    """The same on the fake kernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._under_way: list[Journey] = []
        kernel.add_bridge("br0", ("port1", "port2"), queue=6)

    def index(self, device: str) -> int:
        return self._kernel._world.stack.device(device).index

    def unplug(self, port: str) -> None:
        self._kernel.leave_bridge(port)

    def send(self, payload: bytes, *, tag: int | None = None) -> bytes:
        frame = made_of(payload, tag)
        self._under_way.append(self._kernel.receive_frame(frame, "port1"))
        return frame

    def came_out(self) -> list[Frame]:
        out = [journey.data for journey in self._under_way if journey.fate is Fate.SENT]
        self._under_way = [journey for journey in self._under_way if journey.queued]
        return [
            Frame(data[:12] + data[16:], int.from_bytes(data[14:16], "big")) if data[12:14] == b"\x81\0" else Frame(data, None)
            for data in out
        ]


class Bridge:
    """Closed with the stack it is given. Raises OSError, with the reason in words, where it cannot be had."""

    def __init__(self, lab: LinuxLab, cleanup: ExitStack) -> None:
        self._lab = lab
        self._run("ip", "-batch", _WIRING)
        self._run("nft", "-f", _RULES)
        self._left, self._right = (cleanup.enter_context(self._end(name)) for name in ("left", "right"))

    def index(self, device: str) -> int:
        """The number of a device."""
        return self._lab._kernel.inside(lambda: socket.if_nametoindex(device))

    def unplug(self, port: str) -> None:
        """A port is no port of the bridge any more."""
        self._run("ip", "-batch", f"link set {port} nomaster\n")

    def send(self, payload: bytes, *, tag: int | None = None) -> bytes:
        """Send a frame with an IPv4 packet into the left end, and return it. Where it goes is decided when this returns."""
        frame = made_of(payload, tag)
        self._left.send(frame)
        return frame

    def came_out(self) -> list[Frame]:
        """The frames that have come out of the right end since the last time."""
        frames: list[Frame] = []
        while True:
            try:
                data, ancillary, _, _ = self._right.recvmsg(1 << 16, 256, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return frames
            [auxiliary] = [value for _, kind, value in ancillary if kind == PACKET_AUXDATA]
            status, _, _, _, _, tag, _ = struct.unpack("=IIIHHHH", auxiliary)
            frames.append(Frame(data, tag if status & _TP_STATUS_VLAN_VALID else None))

    def _end(self, device: str) -> socket.socket:
        end = self._lab._kernel.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        end.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        end.bind((device, ETH_P_ALL))
        return end

    def _run(self, program: str, option: str, lines: str) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(lines)
            file.flush()
            done = self._lab.run([program, option, file.name])
        if done.returncode:
            raise OSError(f"{program}: {done.stderr.strip().replace(file.name, 'line')}")
