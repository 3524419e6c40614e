"""Two kernels that are given the same rules and the same packets, and what can be compared of them.

The real one is driven as `tests.unit.sim.linux_world` does it, by a program that shares nothing with nfnl. An example is a list of
rules, each of a short list, and of events: packets of a dozen connections in either direction, with plausible numbers and others,
in pieces, errors about what was passed on before. It is made of small numbers, so that hypothesis can make it smaller.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple

from nfnl.sim import FakeKernel
from nfnl.sim.hooks import POSTROUTING
from nfnl.sim.journey import Journey
from nfnl.sim.skb import checksum
from nfnl.subsys.conntrack import DeleteFlow, DestroyedFlow, Flow, GetFlow
from nfnl.transport.base import SocketOptions
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from tests.unit.sim.dataplane import Tapped
from tests.unit.sim.linux_world import LinuxWorld

# ------------------------------------------------------------------------------------------------------------------------ rules

STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
#: (table, rule) for both families; {s} and {m} and so on are addresses of the family
RULES = (
    ("raw", "-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack"),
    ("raw", "-A PREROUTING -i eth0 -j CT --zone 5"),
    ("raw", "-A OUTPUT -p udp -j CT --notrack"),
    ("raw", "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp"),
    ("mangle", "-A PREROUTING -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x5/0xffffffff"),
    ("mangle", "-A PREROUTING -j CONNMARK --restore-mark"),
    ("mangle", "-A POSTROUTING -m mark --mark 0x5 -j MARK --set-xmark 0x0/0xffffffff"),
    ("mangle", "-A OUTPUT -m connmark --mark 0x5 -j ACCEPT"),
    ("mangle", "-A FORWARD -p tcp -m conntrack --ctstate NEW -j MARK --set-xmark 0x9/0xffffffff"),
    ("mangle", "-A POSTROUTING -m mark --mark 0x9 -j CONNMARK --save-mark"),
    ("nat", "-A POSTROUTING -o eth1 -j MASQUERADE"),
    ("nat", "-A POSTROUTING -p udp -o eth1 -j SNAT --to-source {extra}"),
    ("nat", "-A POSTROUTING -p tcp -o eth0 -j SNAT --to-source {extra}"),
    ("nat", "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination {server}"),
    ("nat", "-A PREROUTING -d {here} -p udp -j DNAT --to-destination {server}"),
    ("nat", "-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination {server}"),
    ("nat", "-A PREROUTING -p udp -m udp --dport 123 -j REDIRECT"),
    ("nat", "-A INPUT -p udp -j SNAT --to-source {extra}"),
    ("nat", "-A PREROUTING -p {icmp} -j DNAT --to-destination {server}"),
    ("filter", "-A FORWARD -m conntrack --ctstate INVALID -j DROP"),
    ("filter", "-A FORWARD -p tcp -m conntrack --ctstate NEW -m tcp --dport 443 -j REJECT --reject-with tcp-reset"),
    ("filter", "-A FORWARD -p udp -m udp --dport 161 -j REJECT"),
    ("filter", "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT"),
    ("filter", "-A INPUT -p tcp -j REJECT --reject-with tcp-reset"),
    ("filter", "-A OUTPUT -m conntrack --ctstate RELATED -j DROP"),
    ("security", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"),
)
_NAMES = {
    4: {"extra": "10.1.0.77", "server": "10.1.0.5", "here": "10.0.0.1", "icmp": "icmp"},
    6: {"extra": "fd01::77", "server": "fd01::5", "here": "fd00::1", "icmp": "ipv6-icmp"},
}


def ruleset(chosen: list[int], version: int) -> str:
    """A file for iptables-restore: those rules, and at each hook some that only count states."""
    lines = []
    for table, chains in _CHAINS.items():
        lines.append(f"*{table}")
        lines += [f":{chain} ACCEPT [0:0]" for chain in chains]
        if table == "mangle":
            lines += [f"-A {chain} -m conntrack --ctstate {state}" for chain in chains for state in STATES]
        for number in chosen:
            where, rule = RULES[number]
            if where == table:
                lines.append(rule.format(**_NAMES[version]))
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


# ---------------------------------------------------------------------------------------------------------------------- packets


class Connection(NamedTuple):
    """Who talks to whom. Source ports are unlike each other, so that no kernel has to choose one by lot."""

    version: int
    protocol: int
    client: str
    server: str
    port: int


def _connections() -> tuple[Connection, ...]:
    found = []
    for version, near, far, here in ((4, "10.0.0.9", "10.1.0.5", "10.0.0.1"), (6, "fd00::9", "fd01::5", "fd00::1")):
        icmp = 1 if version == 4 else 58
        for client, server in ((near, far), (far, near), (near, here), (here, far)):
            found += [Connection(version, 6, client, server, port) for port in (21, 80, 443)]
            found += [Connection(version, 17, client, server, port) for port in (53, 123, 161)]
            found += [Connection(version, icmp, client, server, 0), Connection(version, 132, client, server, 7)]
            found.append(Connection(version, 200, client, server, 0))
    return tuple(found)


CONNECTIONS = _connections()
FLAGS = ("S", "SA", "A", "PA", "FA", "R", "RA", "SF", "", "SAEC")
_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


class Event(NamedTuple):
    """One packet."""

    connection: int
    #: 0: from the client, 1: an answer to what the server has seen
    direction: int
    #: 0: as it should be, 1: an ICMP error about the last packet of that direction that was passed on, 2: in pieces
    kind: int
    #: TCP: place in `FLAGS`
    flags: int
    #: TCP: by how much sequence number and acknowledgement differ from what would come next
    seq: int
    ack: int
    size: int


def _ip(version: int, src: str, dst: str, protocol: int, payload: bytes, *, fragment: int = 0, ident: int = 1) -> bytes:
    ends = ip_address(src).packed + ip_address(dst).packed
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0) + ends
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def _summed(version: int, src: str, dst: str, protocol: int, data: bytes, place: int) -> bytes:
    """With the right checksum at that place."""
    pseudo = 0
    if protocol != 1:
        ends = ip_address(src).packed + ip_address(dst).packed
        pseudo = sum(struct.unpack(f"!{len(ends) // 2}H", ends)) + protocol + len(data)
    sum_ = checksum(data[:place] + b"\0\0" + data[place + 2 :], pseudo)
    if protocol == 17:
        sum_ = sum_ or 0xFFFF
    return data[:place] + sum_.to_bytes(2, "big") + data[place + 2 :]


@dataclass
class State:
    """Of one connection, as an observer outside has it."""

    #: the last packet of each direction as it left, if it did
    left: list[bytes | None] = field(default_factory=lambda: [None, None])
    seq: list[int] = field(default_factory=lambda: [1000, 5000])


class Script:
    """Turns events into packets: answers need to know what left, for addresses may have been translated."""

    def __init__(self, start: int) -> None:
        self._states: dict[int, State] = {}
        self.ident = start

    def packets(self, event: Event) -> list[tuple[str, bytes]]:
        """What is sent for an event, and by which way. Nothing, where there is nothing to answer to."""
        connection = CONNECTIONS[event.connection]
        state = self._states.setdefault(event.connection, State())
        if event.kind == 1:
            return self._error(event, connection, state)
        ends = self._ends(event, connection, state)
        if ends is None:
            return []
        src, dst, sport, dport = ends
        payload = self._transport(event, connection, state, src, dst, sport, dport)
        way = _way(src)
        if event.kind == 2 and connection.version == 4:
            self.ident = self.ident % 0xFFFF + 1
            pieces = [payload[at : at + 64] for at in range(0, len(payload), 64)]
            return [
                (
                    way,
                    _ip(
                        4,
                        src,
                        dst,
                        connection.protocol,
                        piece,
                        fragment=number * 8 | (number + 1 < len(pieces)) << 13,
                        ident=self.ident,
                    ),
                )
                for number, piece in enumerate(pieces)
            ]
        return [(way, _ip(connection.version, src, dst, connection.protocol, payload))]

    def note(self, event: Event, left: list[tuple[str, bytes]]) -> None:
        """What left because of it."""
        if event.kind == 1:
            return
        connection = CONNECTIONS[event.connection]
        for _, data in left:
            if (data[9] if data[0] >> 4 == 4 else data[6]) == connection.protocol:
                self._states[event.connection].left[event.direction] = data
                return

    def _ends(self, event: Event, connection: Connection, state: State) -> tuple[str, str, int, int] | None:
        sport = 20000 + event.connection
        if not event.direction:
            return connection.client, connection.server, sport, connection.port
        seen = state.left[0]
        if seen is None:
            return None
        src, dst, ports = _addresses(seen)
        return dst, src, ports[1], ports[0]

    def _transport(self, event: Event, connection: Connection, state: State, src: str, dst: str, sport: int, dport: int) -> bytes:
        version, protocol, direction = connection.version, connection.protocol, event.direction
        data = bytes(range(event.size))
        if protocol == 17:
            return _summed(version, src, dst, 17, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, 6)
        if protocol == 6:
            letters = FLAGS[event.flags]
            if letters not in ("A", "PA"):
                data = b""
            seq = state.seq[direction] + event.seq & 0xFFFFFFFF
            ack = state.seq[1 - direction] + event.ack & 0xFFFFFFFF if "A" in letters else 0
            bits = sum(_BITS[letter] for letter in letters)
            segment = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, bits, 8192, 0, 0) + data
            if not event.seq:
                state.seq[direction] = seq + len(data) + ("S" in letters) + ("F" in letters) & 0xFFFFFFFF
            return _summed(version, src, dst, 6, segment, 16)
        if protocol in (1, 58):
            kind = (0 if direction else 8) if version == 4 else 128 + direction
            ident = sport if not direction else dport
            return _summed(version, src, dst, protocol, struct.pack("!BBHHH", kind, 0, 0, ident, 1) + data, 2)
        if protocol == 132:
            return _sctp(sport, dport, direction)
        return data

    @staticmethod
    def _error(event: Event, connection: Connection, state: State) -> list[tuple[str, bytes]]:
        seen = state.left[event.direction]
        if seen is None:
            return []
        src, dst, _ = _addresses(seen)
        version = connection.version
        quoted = seen[: (20 if version == 4 else 40) + (8, 4, 20, 64, 0, 7)[event.ack % 6]]
        kind = (3, 11, 5, 12)[event.seq % 4] if version == 4 else (1, 3, 2, 4)[event.seq % 4]
        source = dst if event.size % 2 else ("10.0.0.66" if version == 4 else "fd00::66")
        protocol = 1 if version == 4 else 58
        message = _summed(version, source, src, protocol, struct.pack("!BBHI", kind, 1, 0, 0) + quoted, 2)
        return [(_way(source), _ip(version, source, src, protocol, message))]


def _way(src: str) -> str:
    if src in ("10.0.0.1", "fd00::1", "10.1.0.1", "fd01::1"):
        return "send"
    return "eth1" if src.startswith(("10.1.", "fd01")) else "eth0"


def _addresses(packet: bytes) -> tuple[str, str, tuple[int, int]]:
    if packet[0] >> 4 == 4:
        src, dst, at = packet[12:16], packet[16:20], 20
    else:
        src, dst, at = packet[8:24], packet[24:40], 40
    protocol = packet[9] if at == 20 else packet[6]
    ports = (0, 0)
    if protocol in (1, 58):
        ident = int.from_bytes(packet[at + 4 : at + 6], "big")
        ports = ident, ident
    elif len(packet) >= at + 4:
        ports = struct.unpack_from("!HH", packet, at)
    return str(ip_address(src)), str(ip_address(dst)), ports


def _sctp(sport: int, dport: int, direction: int) -> bytes:
    chunk = struct.pack("!BBHIIHHI", 2 if direction else 1, 0, 20, 0x77 + direction, 9000, 1, 1, 5)
    packet = struct.pack("!HHII", sport, dport, 0x77 if direction else 0, 0) + chunk
    return packet[:8] + struct.pack("<I", _crc32c(packet)) + packet[12:]


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# -------------------------------------------------------------------------------------------------------------------- comparing


def comparable(packets: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Packets that left at one moment, in any order: without ids and header checksums of IPv4, and fragments put together."""
    found: list[tuple[str, str]] = []
    pieces: dict[tuple[str, bytes, bytes], list[tuple[int, bytes]]] = {}
    for dev, data in packets:
        if data[0] >> 4 == 4:
            fragment = int.from_bytes(data[6:8], "big")
            if fragment & 0x3FFF:
                pieces.setdefault((dev, data[4:6], data[12:20]), []).append((fragment & 0x1FFF, data))
                continue
            data = _without_id(data)
        found.append((dev, data.hex()))
    for (dev, *_), parts in pieces.items():
        parts.sort()
        first = parts[0][1]
        whole = first[:6] + b"\0\0" + first[8:20] + b"".join(part[20:] for _, part in parts)
        found.append((dev, _without_id(whole[:2] + len(whole).to_bytes(2, "big") + whole[4:]).hex()))
    return sorted(found)


def _without_id(data: bytes) -> bytes:
    return data[:4] + b"\0\0" + data[6:10] + b"\0\0" + data[12:]


#: what is another every time, or depends on the moment
_LOOSE = ("id", "use", "timeout", "timestamp", "timestamp_event")


def facts(messages: list[bytes]) -> list[dict[str, Any]]:
    """What messages about flows say, but for what is loose."""
    told = []
    for data in messages:
        for message in decode(data):
            assert isinstance(message, Flow | DestroyedFlow)
            kind = (
                "destroyed" if isinstance(message, DestroyedFlow) else "new" if message.nlmsg_flags & NlmsgFlag.CREATE else "told"
            )
            said = {name: value for name, value in message.fields().items() if value is not None and name not in _LOOSE}
            texts = {name: str(value) for name, value in said.items() if not name.startswith("nlmsg")}
            if message.original.src_port != (chosen := message.reply.dst_port):
                texts["reply"] = texts["reply"].removesuffix(f":{chosen}") + ":by lot"  # no rule names a port of a source
            told.append({"kind": kind, **texts})
    return told


def timeouts(messages: list[bytes]) -> dict[str, int]:
    """Of each flow by its original tuple."""
    return {
        str((message.original, message.zone)): message.timeout or 0
        for data in messages
        for message in decode(data)
        if isinstance(message, Flow)
    }


DUMP = bytes(GetFlow(nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.DUMP))
FLUSH = bytes(DeleteFlow(nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.ACK))
#: NFNLGRP_CONNTRACK_NEW, UPDATE, DESTROY
GROUPS = 0b111

SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv6.icmp.ratelimit": 0,
    "net.netfilter.nf_conntrack_acct": 1,
    "net.netfilter.nf_conntrack_events": 1,
}
_ONLY_LINUX = (
    "net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=100000 net.ipv4.ipfrag_time=9000 net.ipv6.ip6frag_time=9000 "
    "net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0"
)


class Difference(AssertionError):
    """The two kernels do not agree."""


class ByLot(Exception):
    """Both kernels had to choose a port by lot, and have chosen different ones: what comes behind cannot be compared."""


def _chosen(packet: bytes, left: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """What left, but for source port and checksum, if that port is not the one it came with."""
    own = _addresses(packet)[2][0]
    found = []
    for dev, text in left:
        data = bytes.fromhex(text)
        at = 20 if data[0] >> 4 == 4 else 40
        protocol = data[9] if at == 20 else data[6]
        place = {6: 16, 17: 6, 132: 8}.get(protocol)
        size = 4 if protocol == 132 else 2
        if place is None or _addresses(data)[2][0] == own or len(data) < at + place + size:
            return None
        found.append((dev, (data[:at] + bytes(2) + data[at + 2 : at + place] + bytes(size) + data[at + place + size :]).hex()))
    return found


class Sent(NamedTuple):
    """A packet that was given to the fake, and what left because of it."""

    what: str
    way: str
    data: bytes
    journey: Journey
    left: list[tuple[str, bytes]]


class Pair:
    """A real kernel and a fake one, set up alike: eth0 with 10.0.0.1/24 and fd00::1/64, eth1 with 10.1.0.1/24 and fd01::1/64."""

    def __init__(self) -> None:
        self.linux = LinuxWorld()
        #: packets sent, examples run, and those of them that were not compared to the end
        self.packets = self.examples = self.slow = self.lots = 0
        self._ident = 0
        self._set_up_linux()
        self.fake = FakeKernel()
        self._set_up_fake()

    def close(self) -> None:
        self.linux.close()
        self.fake.close()

    def _set_up_linux(self) -> None:
        linux = self.linux
        linux.add_tun("eth1")
        linux.shell("ip addr add 10.1.0.1/24 dev eth1; ip addr add fd01::1/64 dev eth1 nodad")
        linux.shell("until ip -6 route show table local | grep -q fd01::1; do :; done")
        for version in (4, 6):
            self._restore_linux("", version)  # the tables, with all their chains, so that tracking is there
        linux.shell(f"sysctl -qw {_ONLY_LINUX} " + " ".join(f"{name}={value}" for name, value in SYSCTLS.items()))
        linux.listen(GROUPS)

    def _set_up_fake(self) -> None:
        fake = self.fake
        fake.add_device("eth1")
        for address in ("10.1.0.1/24", "fd01::1/64"):
            fake.add_address("eth1", address)
        for name, value in SYSCTLS.items():
            fake.sysctl(name, value)
        self.stack = fake._world.stack
        self.stack.__class__ = Tapped
        self.tapped: Tapped = self.stack  # type: ignore[assignment]
        self.tapped.seen = []
        self.stack.hooks.okfn[POSTROUTING] = self.tapped._transmit
        self.asker = fake.open(SocketOptions())
        self.listener = fake.open(SocketOptions(groups=(1, 2, 3)))

    def _restore_linux(self, text: str, version: int) -> None:
        text = text or ruleset([], version)
        program = "iptables" if version == 4 else "ip6tables"
        code, out, err = self.linux.restore(text, f"{program}-legacy-restore")
        assert code == 0, f"{text}\n{out}{err}"

    # ------------------------------------------------------------------ one example

    def run(self, rules: list[int], events: list[Event]) -> None:
        """Raises `Difference`."""
        self.examples += 1
        for version in (4, 6):
            text = ruleset(rules, version)
            self._restore_linux(text, version)
            (self.fake.iptables_restore if version == 4 else self.fake.ip6tables_restore)(text)
        self._clean()
        script = Script(self._ident)
        sent = [one for place, event in enumerate(events) for one in self._event(place, event, script)]
        self._ident = script.ident
        begun = time.monotonic()
        if not self._compare_packets(sent):
            self.lots += 1
            return
        self._compare_tables()
        if time.monotonic() - begun > 1:
            self.slow += 1  # some times are up that would not be on a machine that has nothing else to do
        else:
            self._compare_flows()

    def _event(self, place: int, event: Event, script: Script) -> Iterator[Sent]:
        """On the fake, which goes first: what leaves it is what answers are made for."""
        left: list[tuple[str, bytes]] = []
        for way, data in script.packets(event):
            sent = self._send_to_fake(way, data, f"event {place}: {event}")
            left += sent.left
            yield sent
        script.note(event, left)

    def _send_to_fake(self, way: str, data: bytes, what: str) -> Sent:
        self.tapped.seen.clear()
        journey = self.fake.send(data) if way == "send" else self.fake.receive(data, way)
        return Sent(f"{what}, {way} {data.hex()}", way, data, journey, list(self.tapped.seen))

    def packet(self, way: str, data: bytes) -> list[tuple[str, bytes]]:
        """One packet on both; what left Linux. Raises `Difference` or `ByLot`."""
        sent = self._send_to_fake(way, data, "a packet")
        [(code, real)] = self.linux.many([(way, data)])
        self._compare_packet(sent, code, real)
        return real

    def _compare_packets(self, sent: list[Sent]) -> bool:
        """False: up to a choice by lot."""
        self.packets += len(sent)
        for one, (code, real) in zip(sent, self.linux.many([(one.way, one.data) for one in sent]), strict=True):
            try:
                self._compare_packet(one, code, real)
            except ByLot:
                return False
        return True

    @staticmethod
    def _compare_packet(sent: Sent, code: int, real: list[tuple[str, bytes]]) -> None:
        journey, there, here = sent.journey, comparable(real), comparable(sent.left)
        if (code, there) == (journey.errno, here):
            return
        chosen = _chosen(sent.data, there)
        if chosen and code == journey.errno and chosen == _chosen(sent.data, here):
            raise ByLot
        steps = "\n".join(map(str, journey.steps))
        raise Difference(f"{sent.what}\nLinux: {code} {there}\nfake:  {journey.errno} {here}\n{journey}\n{steps}")

    def _clean(self) -> None:
        self.linux.ask_conntrack(FLUSH)
        self.linux.heard()
        self._ask_fake(FLUSH)
        self.listener.receive()

    def _ask_fake(self, request: bytes) -> list[bytes]:
        self.asker.send(request)
        found = []
        while datagrams := self.asker.receive():
            found += [message for datagram in datagrams for message in _messages(bytes(datagram))]
        return found

    def _compare_tables(self) -> None:
        real = self.linux.shell("iptables-legacy-save -c; ip6tables-legacy-save -c").splitlines()
        fake = [line for family in (2, 10) for line in self.fake._world.iptables(family).save(counters=True).splitlines()]
        self._same(sorted(line for line in real if line[:1] != "#"), sorted(fake), "counters")

    def _compare_flows(self) -> None:
        real, fake = self.linux.ask_conntrack(DUMP), self._ask_fake(DUMP)
        self._same(_sorted(facts(real)), _sorted(facts(fake)), "flows")
        one, other = timeouts(real), timeouts(fake)
        self._same([], [(key, value, other[key]) for key, value in one.items() if abs(value - other[key]) > 2], "timeouts")
        events = [bytes(datagram) for datagram in self.listener.receive()]
        while more := self.listener.receive():
            events += [bytes(datagram) for datagram in more]
        self._same(facts(self.linux.heard()), facts(events), "events")

    @staticmethod
    def _same(real: list[Any], fake: list[Any], what: str) -> None:
        if real != fake:
            missing, more = Counter(map(str, real)), Counter(map(str, fake))
            only_real, only_fake = "\n".join(missing - more), "\n".join(more - missing)
            raise Difference(f"{what}\nonly on Linux:\n{only_real}\nonly on the fake:\n{only_fake}")


def _messages(data: bytes) -> list[bytes]:
    """The messages of a datagram that are about flows."""
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind >= 16:
            found.append(data[at : at + length])
        at += max(length + 3 & ~3, 16)
    return found


def _sorted(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(told, key=str)
