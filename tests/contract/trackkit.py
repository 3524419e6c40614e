"""What the contract tests send past the tracker, and how they read what it made of it.

This machine stands between two hosts, and what one sends to the other comes in by eth0 and leaves by it again: every packet has
its checksums verified, none meets a local protocol. Rules in table mangle tell which state a packet was in.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import Any

from nfnl.packets import repair
from nfnl.sim.journey import Fate, Journey
from nfnl.wire.constants import Group
from tests.contract.ctkit import ICMP, ICMPV6, SCTP, TCP, UDP, Asker, Cta, Told, tuple_, u32, watch
from tests.contract.kernels import KernelUnderTest
from tests.contract.wirekit import sum16

#: the two hosts, and others on their sides
A, A2, B, B2 = "198.51.100.1", "198.51.100.2", "203.0.113.1", "203.0.113.2"
A6, B6 = "2001:db8:a::1", "2001:db8:b::1"
#: this machine
HERE, HERE6 = "10.0.0.1", "fd00::1"

PREFIX = "net.netfilter.nf_conntrack_"
#: what rules call the states, in the order of iptables
STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
_STATE = re.compile(r"--ctstate (\w+)")
TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


# --------------------------------------------------------------------------------------------------------------------- packets


def ip(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes = b"",
    *,
    ttl: int = 64,
    tos: int = 0,
    fragment: int = 0,
    id: int = 1,  # noqa: A002
) -> bytes:
    """An IP packet whose payload is as given, right or not."""
    if ":" in source:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
        return struct.pack(">IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl) + ends + payload
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(payload), id, fragment, ttl, protocol, 0) + ends
    return head[:10] + struct.pack(">H", sum16(head)) + head[12:] + payload


def udp(
    source: str = A,
    destination: str = B,
    sport: int = 5000,
    dport: int = 53,
    data: bytes = b"x",
    *,
    protocol: int = UDP,
    **head: int,
) -> bytes:
    """A UDP datagram with a right checksum, or one of another protocol that looks like it."""
    segment = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    return repair(ip(source, destination, protocol, segment, **head), udp_checksum=True)


def tcp_flags(letters: str) -> int:
    """Of letters as in ``"SA"``."""
    return sum(_FLAGS[letter] for letter in letters)


def tcp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    flags: str | int,
    seq: int = 0,
    ack: int = 0,
    *,
    data: bytes = b"",
    window: int = 8192,
    options: bytes = b"",
    **head: int,
) -> bytes:
    """A TCP segment with a right checksum; options are filled up with NOPs."""
    options += b"\1" * (-len(options) % 4)
    bits = flags if isinstance(flags, int) else tcp_flags(flags)
    words = (seq % (1 << 32), ack % (1 << 32), (20 + len(options)) // 4 << 4, bits, window, 0, 0)
    segment = struct.pack(">HHIIBBHHH", sport, dport, *words) + options + data
    return repair(ip(source, destination, TCP, segment, **head))


def icmp(
    kind: int,
    code: int = 0,
    id: int = 5,  # noqa: A002
    data: bytes = b"",
    *,
    source: str = A,
    destination: str = B,
    seq: int = 1,
    **head: int,
) -> bytes:
    """An ICMP or ICMPv6 message with a right checksum; an error quotes ``data``."""
    protocol = ICMPV6 if ":" in source else ICMP
    return repair(ip(source, destination, protocol, struct.pack(">BBHHH", kind, code, 0, id, seq) + data, **head))


def chunk(kind: int, flags: int = 0, body: bytes = b"") -> bytes:
    """A chunk of SCTP, padded."""
    return struct.pack(">BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def sctp(source: str, destination: str, sport: int, dport: int, tag: int, *chunks: bytes) -> bytes:
    """An SCTP packet with a right checksum."""
    packet = struct.pack(">HHII", sport, dport, tag, 0) + b"".join(chunks)
    return ip(source, destination, SCTP, packet[:8] + struct.pack("<I", _crc32c(packet)) + packet[12:])


def _crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def spoilt(packet: bytes, at: int, value: int | None = None, *, size: int = 1) -> bytes:
    """The packet with other bytes somewhere: with this value, or wrong in any case. Of a packet of IPv4 its header's checksum
    is made right again.
    """
    old = packet[at : at + size]
    new = bytes(byte ^ 0x55 for byte in old) if value is None else value.to_bytes(size, "big")
    packet = packet[:at] + new + packet[at + size :]
    if packet[0] >> 4 == 6:
        return packet
    head = packet[:10] + bytes(2) + packet[12:20]
    return head[:10] + struct.pack(">H", sum16(head)) + packet[12:]


def addresses(packet: bytes | None) -> tuple[str, str]:
    """Where a packet of IPv4 says that it comes from and goes to."""
    assert packet is not None, "nothing left"
    return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])


def ports(packet: bytes | None) -> tuple[int, int]:
    """The ports of a packet of IPv4 without options."""
    assert packet is not None, "nothing left"
    sport, dport = struct.unpack_from(">HH", packet, 20)
    return sport, dport


# ---------------------------------------------------------------------------------------------------------------- the machine


def setting(kernel: KernelUnderTest, name: str, value: int) -> None:
    """Set a sysctl until the end of the test: nothing of it stays, so that the kernel can serve another one."""
    before = kernel.kernel.sysctl(name)
    kernel.cleanup.callback(kernel.kernel.sysctl, name, before)
    kernel.kernel.sysctl(name, value)


def state(journey: Journey) -> str:
    """What ``-m conntrack --ctstate`` says of a packet that came in."""
    for step in journey.steps:
        if step.table == "mangle" and step.hook in ("PREROUTING", "OUTPUT") and (found := _STATE.search(step.what)):
            return found[1]
    raise AssertionError(f"no rule told the state: {journey.steps}")


def left(journey: Journey) -> bytes | None:
    """What left this machine."""
    return journey.data if journey.fate is Fate.SENT else None


class Wire:
    """The machine between the two hosts."""

    def __init__(self, kernel: KernelUnderTest) -> None:
        self.kernel = kernel
        setting(kernel, "net.ipv4.ip_forward", 1)
        _classify(kernel, "iptables")
        self.asker = Asker(kernel)

    def ipv6(self) -> Wire:
        """Pass on IPv6, too."""
        self.kernel.sysctl("net.ipv6.conf.all.forwarding", 1)
        _classify(self.kernel, "ip6tables")
        return self

    def look_away(self) -> None:
        """Track nothing for a moment."""
        self.kernel.iptables("-t mangle -F")
        _classify(self.kernel, "iptables")

    def ready_for(self, packet: bytes) -> Wire:
        """Pass on IPv6 if it is a packet of that."""
        return self.ipv6() if packet[0] >> 4 == 6 else self

    def set(self, **values: int) -> None:
        """Set sysctls of conntrack, by the ends of their names."""
        for name, value in values.items():
            setting(self.kernel, PREFIX + name, value)

    def nat(self, *rules: str) -> None:
        """Rules of table nat, behind ``-A``. That table never leaves a namespace again."""
        self.kernel.touched = True
        for line in rules:
            self.kernel.iptables(f"-t nat -A {line}")

    def passes(self, packet: bytes) -> bytes | None:
        """A packet comes by; what leaves."""
        return left(self.kernel.receive(packet))

    def state(self, packet: bytes) -> str:
        """A packet comes by; the state it is in."""
        return state(self.kernel.receive(packet))

    def states(self, *packets: bytes) -> list[str]:
        """The same of several."""
        return [self.state(packet) for packet in packets]

    def listen(self, *groups: Group) -> Asker:
        """Somebody who hears of flows."""
        return watch(self.kernel, *groups)

    def pass_time(self, seconds: float) -> None:
        """At least so much time passes."""
        assert not self.kernel.wait(self.asker.socket, seconds)

    @property
    def flows(self) -> list[Told]:
        return self.asker.dump()

    @property
    def flow(self) -> Told:
        """The one flow there is."""
        return self.asker.only()


def _classify(kernel: KernelUnderTest, program: str) -> None:
    rules = "".join(f"-A {hook} -m conntrack --ctstate {name} -j RETURN\n" for hook in ("PREROUTING", "OUTPUT") for name in STATES)
    kernel.tracked = True
    kernel.ruled.add((program, "mangle"))
    getattr(kernel.kernel, f"{program}_restore")(f"*mangle\n{rules}COMMIT\n")


# ----------------------------------------------------------------------------------------------------------------------- times


class Clock:
    """Timeouts so far apart that one tells which it was, however slow the machine is."""

    STEP = 10_000

    def __init__(self, wire: Wire, prefix: str, *names: str) -> None:
        self._wire = wire
        self._names = names
        wire.set(**{prefix + name: n * self.STEP for n, name in enumerate(names, 1)})

    def __call__(self, flow: Told) -> str:
        """The name of the timeout that a flow has got."""
        steps, rest = divmod(flow.number(Cta.TIMEOUT) + self.STEP // 2, self.STEP)
        if not steps:
            return "none of them"
        assert rest <= self.STEP // 2, "it is more than what it was set to"
        return self._names[steps - 1]


# ------------------------------------------------------------------------------------------------------------------------- TCP

#: flags of each side (``IP_CT_TCP_FLAG_*``)
SCALED, SACK, CLOSED_FIRST, LIBERAL, UNACKNOWLEDGED, HAS_ACKED = 1, 2, 4, 8, 16, 32
#: an option of SYNs
SACK_PERMITTED = b"\4\2"


def scale(shift: int) -> bytes:
    """The option of window scaling."""
    return bytes((3, 3, shift))


#: the shorter ones first, so that what may only shorten can be seen to
TCP_TIMES = (
    *("close", "last_ack", "close_wait", "syn_recv", "fin_wait", "time_wait", "syn_sent"),
    *("max_retrans", "unacknowledged", "established"),
)


class Connection:
    """Segments between port 5000 of A, or another one, and port 80 of B."""

    def __init__(self, wire: Wire, port: int = 5000) -> None:
        self.wire = wire
        self.port = port

    def a(self, flags: str | int, seq: int, ack: int = 0, **more: Any) -> str:
        """A sends a segment; the state it is in."""
        return self.wire.state(tcp(A, B, self.port, 80, flags, seq, ack, **more))

    def b(self, flags: str | int, seq: int, ack: int = 0, **more: Any) -> str:
        """B sends a segment."""
        return self.wire.state(tcp(B, A, 80, self.port, flags, seq, ack, **more))

    def open(self, **more: Any) -> Connection:
        """Three segments; then both sides stand at 1001 and 5001."""
        assert self.a("S", 1000, **more) == "NEW"
        assert self.b("SA", 5000, 1001, **more) == "ESTABLISHED"
        more.pop("options", None)
        assert self.a("A", 1001, 5001, **more) == "ESTABLISHED"
        return self

    @property
    def key(self) -> bytes:
        return tuple_(Cta.TUPLE_ORIG, A, B, TCP, self.port, 80)

    @property
    def there(self) -> bool:
        """Whether the tracker knows it."""
        answer = self.wire.asker.get(self.key)
        assert isinstance(answer, Told) or answer == "ENOENT"
        return isinstance(answer, Told)

    @property
    def flow(self) -> Told:
        return self.wire.asker.fetch(self.key)

    @property
    def info(self) -> dict[int, int]:
        """CTA_PROTOINFO_TCP: the state, the scales of A and B, their flags and masks."""
        return self.flow.inside(Cta.PROTOINFO, 1).numbers()

    @property
    def tcp_state(self) -> str:
        return TCP_STATES[self.info[1]]

    @property
    def tcp_flags(self) -> tuple[int, int]:
        """Of A and B."""
        return self.info[4] >> 8, self.info[5] >> 8

    @property
    def scales(self) -> tuple[int, int]:
        return self.info[2], self.info[3]

    def reset_timeout(self, seconds: int) -> None:
        """Give it another timeout, to see whether a packet renews it."""
        assert self.wire.asker.change(self.key, u32(Cta.TIMEOUT, seconds)) == "ACK"


def kinds(watcher: Asker) -> list[str]:
    """What kinds of events have come."""
    return [event.kind for event in watcher.told()]
