"""The real kernel as a partner for the fake's data plane: one throw-away network namespace, driven over a pipe.

Run as a program (inside ``unshare -n``) it is the server; `LinuxWorld` starts it. It needs root and iptables-legacy, and knows
nothing of nfnl: what is compared with the fake must not be built from the same parts.

Nothing here waits for time to pass: Linux has done everything a ``sendto`` or a ``write`` to a tun device causes when the call
returns, and a packet socket has seen it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from typing import Any

PACKET_OUTGOING = 4
SO_MARK, SO_PRIORITY = 36, 12
IPV6_HDRINCL = 36

#: iptables locks a file so that two do not edit the same tables. Here nobody else edits them, and root of a user namespace
#: may not open the one it takes by itself.
UNLOCKED = os.environ | {"XTABLES_LOCKFILE": "/dev/null"}

Attributes = dict[int, bytes]


def why_not() -> str | None:
    """The reason there can be no real kernel to compare with, or None."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "needs root to make a network namespace"
    for program in ("unshare", "ip", "iptables-legacy", "ip6tables-legacy", "iptables-legacy-save", "ip6tables-legacy-save"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "no tun devices"
    probe = subprocess.run(["unshare", "-n", "iptables-legacy", "-S"], capture_output=True, text=True, check=False, env=UNLOCKED)
    return None if probe.returncode == 0 else f"iptables-legacy does not work here: {probe.stderr.strip()}"


class LinuxWorld:
    """lo; eth0 (tun) with 10.0.0.1/24, fd00::1/64 and the default routes; in a namespace of its own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            ["unshare", "-n", sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=UNLOCKED,
        )

    def close(self) -> None:
        self._server.communicate()

    def _ask(self, *question: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server died at {question}")
        return json.loads(answer)

    def run(self, *command: str) -> tuple[int, str, str]:
        """A program in the namespace: exit code, output, errors."""
        code, out, err = self._ask("run", command)
        return code, out, err

    def shell(self, line: str) -> str:
        """A shell line that must succeed."""
        code, out, err = self.run("sh", "-c", line)
        assert code == 0, f"{line}: {out}{err}"
        return out

    def restore(self, text: str, program: str = "iptables-legacy-restore", *options: str) -> tuple[int, str, str]:
        """A file for iptables-restore: exit code, output, errors."""
        code, out, err = self._ask("feed", [program, *options], text)
        return code, out, err

    def add_tun(self, name: str) -> None:
        self._ask("tun", name)

    def receive(self, packet: bytes, dev: str = "eth0") -> list[tuple[str, bytes]]:
        """Arrives at a device. What left through any device because of it, in order."""
        return self._packets(self._ask("receive", dev, packet.hex()))

    def send(self, packet: bytes, mark: int = 0, priority: int = 0) -> tuple[int, list[tuple[str, bytes]]]:
        """Sent by a raw socket with IP_HDRINCL: errno, and what left through any device, in order."""
        code, packets = self._ask("send", packet.hex(), mark, priority)
        return code, self._packets(packets)

    def many(self, packets: list[tuple[str, bytes]]) -> list[tuple[int, list[tuple[str, bytes]]]]:
        """One packet after the other, sent (``"send"``) or arriving at the device of that name: errno, and what left."""
        answers = self._ask("many", [(way, data.hex()) for way, data in packets])
        return [(code, self._packets(left)) for code, left in answers]

    def ask_conntrack(self, request: bytes) -> list[bytes]:
        """A request to ctnetlink, for a dump or an acknowledgement: all messages up to the one that ends it."""
        return [bytes.fromhex(message) for message in self._ask("conntrack", request.hex())]

    def listen(self, groups: int) -> None:
        """Hear of what happens to flows, in these groups (a bit for each)."""
        self._ask("listen", groups)

    def heard(self) -> list[bytes]:
        """The events since the last time."""
        return [bytes.fromhex(message) for message in self._ask("heard")]

    def bind(self, number: int, mode: int = 2, flags: int = 0, maxlen: int = 1024) -> None:
        self._ask("bind", number, mode, flags, maxlen)

    def unbind(self, number: int) -> None:
        self._ask("unbind", number)

    def queued(self) -> list[tuple[int, Attributes]]:
        """The messages that have come in: queue number and attributes."""
        return [(number, {int(k): bytes.fromhex(v) for k, v in attributes.items()}) for number, attributes in self._ask("queued")]

    def verdict(
        self, number: int, packet_id: int, verdict: int, mark: int | None = None, payload: bytes | None = None
    ) -> tuple[int, list[tuple[str, bytes]]]:
        """The errno of the acknowledgement, and what left because of it."""
        code, packets = self._ask("verdict", number, packet_id, verdict, mark, payload.hex() if payload is not None else None)
        return code, self._packets(packets)

    @staticmethod
    def _packets(answer: list[list[str]]) -> list[tuple[str, bytes]]:
        return [(dev, bytes.fromhex(data)) for dev, data in answer]


# ---------------------------------------------------------------------------------------------------------------- the server


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class Server:
    def __init__(self) -> None:
        self.tuns: dict[str, int] = {}
        self.shell("ip link set lo up")
        self.shell("sysctl -qw net.ipv6.auto_flowlabels=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        # reports about multicast groups: once at each join, before the call that joins returns, and never again
        self.shell("sysctl -qw net.ipv6.conf.all.force_mld_version=1")
        self.shell("sysctl -qw net.ipv6.conf.default.mldv1_unsolicited_report_interval=2000000000")
        self.tun("eth0")
        self.shell(
            "ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad;"
            "ip route add default dev eth0; ip -6 route add default dev eth0"
        )
        self.tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.tap.setblocking(False)
        self.raw4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.raw6.setsockopt(41, IPV6_HDRINCL, 1)
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.netlink.bind((0, 0))
        self.netlink.setblocking(False)
        self.waiting: list[tuple[int, dict[int, str]]] = []

    @staticmethod
    def shell(line: str) -> None:
        subprocess.run(["sh", "-ec", line], check=True)

    def run(self, command: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def feed(self, command: list[str], text: str) -> tuple[int, str, str]:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def tun(self, name: str) -> None:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        iff_tun_without_header = 0x1001
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), iff_tun_without_header))
        self.shell(f"sysctl -qw net.ipv6.conf.{name}.addr_gen_mode=1; ip link set {name} up")
        self.tuns[name] = descriptor

    def captured(self) -> list[tuple[str, str]]:
        seen = []
        while True:
            try:
                data, address = self.tap.recvfrom(1 << 17)
            except BlockingIOError:
                break
            if address[2] == PACKET_OUTGOING:
                seen.append((address[0], data.hex()))
        for descriptor in self.tuns.values():  # so that their queues never fill
            try:
                while True:
                    os.read(descriptor, 1 << 17)
            except BlockingIOError:
                pass
        return seen

    def receive(self, dev: str, packet: str) -> list[tuple[str, str]]:
        self.captured()
        os.write(self.tuns[dev], bytes.fromhex(packet))
        return self.captured()

    def send(self, packet: str, mark: int, priority: int) -> tuple[int, list[tuple[str, str]]]:
        self.captured()
        data = bytes.fromhex(packet)
        code = 0
        try:
            if data[0] >> 4 == 6:
                sender, to = self.raw6, socket.inet_ntop(socket.AF_INET6, data[24:40].ljust(16, b"\1"))
            else:
                sender, to = self.raw4, socket.inet_ntop(socket.AF_INET, data[16:20].ljust(4, b"\1"))
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            sender.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, priority)
            sender.sendto(data, (to, 0))
        except OSError as error:
            code = error.errno or -1
        return code, self.captured()

    def many(self, packets: list[list[str]]) -> list[tuple[int, list[tuple[str, str]]]]:
        return [self.send(packet, 0, 0) if way == "send" else (0, self.receive(way, packet)) for way, packet in packets]

    # ---- nfnetlink_queue, by hand

    def request(self, kind: int, number: int, attributes: bytes) -> int:
        body = struct.pack("!BBH", 0, 0, number) + attributes
        self.netlink.send(struct.pack("=IHHII", 16 + len(body), 0x300 | kind, 5, 1, 0) + body)
        while True:
            data = self.netlink.recv(1 << 17)
            if struct.unpack_from("=H", data, 4)[0] == 2:
                code: int = struct.unpack_from("=i", data, 16)[0]
                return -code
            self.note(data)

    def note(self, data: bytes) -> None:
        end, at, attributes = struct.unpack_from("=I", data)[0], 20, {}
        while at + 4 <= end:
            length, kind = struct.unpack_from("=HH", data, at)
            attributes[kind & 0x3FFF] = data[at + 4 : at + length].hex()
            at += (length + 3) & ~3
        self.waiting.append((struct.unpack_from("!H", data, 18)[0], attributes))

    def bind(self, number: int, mode: int, flags: int, maxlen: int) -> None:
        attributes = attribute(1, struct.pack("!BxH", 1, 0)) + attribute(2, struct.pack("!IB", 0xFFFF, mode))
        attributes += attribute(3, struct.pack("!I", maxlen))
        attributes += attribute(4, struct.pack("!I", 0xFFFFFFFF)) + attribute(5, struct.pack("!I", flags))
        code = self.request(2, number, attributes)
        assert code == 0, os.strerror(code)

    def unbind(self, number: int) -> None:
        assert self.request(2, number, attribute(1, struct.pack("!BxH", 2, 0))) == 0

    def queued(self) -> list[tuple[int, dict[int, str]]]:
        try:
            while True:
                self.note(self.netlink.recv(1 << 17))
        except BlockingIOError:
            pass
        found, self.waiting = self.waiting, []
        return found

    def verdict(
        self, number: int, packet_id: int, verdict: int, mark: int | None, payload: str | None
    ) -> tuple[int, list[tuple[str, str]]]:
        self.captured()
        attributes = attribute(2, struct.pack("!II", verdict, packet_id))
        if mark is not None:
            attributes += attribute(3, struct.pack("!I", mark))
        if payload is not None:
            attributes += attribute(10, bytes.fromhex(payload))
        return self.request(1, number, attributes), self.captured()

    # ---- ctnetlink, whose messages are passed on as they are

    def conntrack(self, request: str) -> list[str]:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        sock.bind((0, 0))
        sock.send(bytes.fromhex(request))
        messages: list[str] = []
        while True:
            data = sock.recv(1 << 17)
            at = 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind in (2, 3):
                    sock.close()
                    return messages
                messages.append(data[at : at + length].hex())
                at += (length + 3) & ~3

    def listen(self, groups: int) -> None:
        self.listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.listener.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
        self.listener.bind((0, groups))
        self.listener.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        try:
            while True:
                found.append(self.listener.recv(1 << 17).hex())
        except BlockingIOError:
            return found

    def serve(self) -> None:
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(self, name)(*arguments)), flush=True)


if __name__ == "__main__":
    Server().serve()
