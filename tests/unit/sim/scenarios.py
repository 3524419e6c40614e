"""Packets, rules and sequences of events to try on two kernels: fixed lists, and random ones from a seed."""

from __future__ import annotations

import random
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_EOL, IPOption_NOP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.packet import Raw

from tests.unit.sim.dataplane import PING, PING6, ip4, ip6

#: How a packet meets the machine: sent by it, or received by one of its devices.
SEND, ETH0, ETH1 = "send", "eth0", "eth1"
Event = tuple[str, bytes]

_V4 = [
    "10.0.0.1",
    "10.0.0.9",
    "10.0.0.0",
    "10.0.0.255",
    "10.1.0.1",
    "10.1.0.5",
    "127.0.0.1",
    "127.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "8.8.8.8",
    "240.0.0.1",
    "224.0.0.1",
    "224.0.0.5",
    "255.255.255.255",
]
_V6 = [
    "fd00::1",
    "fd00::9",
    "fd00::",
    "fd01::1",
    "fd01::5",
    "::",
    "::1",
    "ff02::1",
    "ff02::2",
    "ff01::1",
    "ff02::1:ff00:1",
    "fe80::1",
    "2001:db8::1",
]


def addresses() -> list[Event]:
    """Every kind of source to every kind of destination."""
    events: list[Event] = []
    for i, (src, dst) in enumerate((src, dst) for src in _V4 for dst in _V4):
        payload = (PING, UDP(dport=9), TCP(dport=9), Raw(b"abc"))[i % 4]
        events.append((ETH0, ip4(payload, src=src, dst=dst, id=1 + i)))
        if src[:3] not in ("224", "255"):  # answers to such a source leave by the device of their own: not modelled
            events.append((SEND, ip4(payload, src=src, dst=dst, id=1 + i)))
    for i, (src, dst) in enumerate((src, dst) for src in _V6 for dst in _V6):
        payload = (PING6, UDP(dport=9), TCP(dport=9), Raw(b"abc"))[i % 4]
        events.append((ETH0, ip6(payload, src=src, dst=dst)))
        if src != "::" and not dst.startswith("fe80"):  # what the kernel does of its own there is another story
            events.append((SEND, ip6(payload, src=src, dst=dst)))
    return events


def headers() -> list[Event]:
    """Headers right and wrong, of every layer."""
    v4 = [
        *(ip4(PING, tos=tos) for tos in (0x03, 0x17, 0xFF)),
        *(ip4(UDP(dport=9), tos=tos) for tos in (0x03, 0x17, 0xFF)),
        *(ip4(TCP(dport=9), tos=tos) for tos in (0x03, 0x17, 0xFF)),
        *(ip4(PING, len=length) for length in (10, 20, 24, 100)),
        *(ip4(PING, ihl=ihl) for ihl in (0, 4, 15)),
        ip4(PING, chksum=1),
        ip4(PING)[:19],
        ip4(PING) + b"trailing",
        *(
            ip4(payload, options=options)
            for options in ([IPOption_NOP()] * 3 + [IPOption_EOL()], [IPOption_Router_Alert()])
            for payload in (PING, UDP(dport=9), TCP(dport=9))
        ),
        *(ip4(ICMP(type=kind) / bytes(16)) for kind in (0, 3, 4, 5, 9, 10, 11, 12, 14, 15, 18, 19, 42, 255)),
        ip4(ICMP(type=8, id=0)),
        ip4(ICMP(type=8, code=3)),
        ip4(ICMP(type=8, chksum=5)),
        ip4(b"\x08\0\xf7\xff", proto=1),
        ip4(UDP(dport=9) / (b"x" * 1000)),
        ip4(UDP(dport=9, chksum=5) / b"abc"),
        *(ip4(UDP(dport=9, len=length, chksum=0) / b"abc") for length in (0, 7, 8, 9, 11, 19)),
        ip4(b"abc", proto=17),
        *(ip4(TCP(dport=9, flags=flags, seq=0xFFFFFFFF, ack=3) / b"ab") for flags in ("", "S", "F", "SF", "A", "R", "FPU", "SEC")),
        ip4(TCP(dport=9, options=[("MSS", 1460)])),
        ip4(TCP(dport=9, chksum=5)),
        *(ip4(TCP(dport=9, dataofs=offset)) for offset in (0, 4, 6)),
        ip4(b"abc", proto=6),
        *(ip4(b"abcdefghijkl", proto=protocol) for protocol in (0, 2, 4, 41, 47, 50, 51, 58, 132, 254)),
        ip4(PING, dst="10.1.0.5", ttl=0),
        *(ip4(payload, dst="10.1.0.5", ttl=1) for payload in (PING, UDP(), ICMP(type=3) / (b"x" * 28), ICMP(type=19))),
        ip4(PING, dst="10.1.0.5", ttl=2, tos=0x10),
        ip4(b"x" * 8, dst="10.1.0.5", frag=5),
        ip4(b"x" * 8, dst="10.1.0.5", frag=5, ttl=1),
        ip4(UDP() / (b"x" * 1600), dst="10.1.0.5", flags="DF"),
    ]
    extensions: list[Any] = [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrFragment(),
        IPv6ExtHdrRouting(),
        IPv6ExtHdrHopByHop(options=[RouterAlert()]),
        IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"abcd")]),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt(),
        IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop(),
    ]
    v6 = [
        *(ip6(payload, tc=0x17, fl=0x12345) for payload in (PING6, UDP(dport=9), TCP(dport=9))),
        *(ip6(PING6, plen=length) for length in (0, 4, 400)),
        ip6(PING6)[:39],
        ip6(PING6) + b"trailing",
        *(ip6(b"abcdefghijkl", nh=protocol) for protocol in (1, 2, 4, 41, 50, 51, 59, 132, 135, 200)),
        ip6(ICMPv6EchoRequest(cksum=5)),
        ip6(ICMPv6EchoReply()),
        ip6(ICMPv6DestUnreach() / (b"x" * 40)),
        ip6(b"\x80\0\0\0", nh=58),
        ip6(UDP(dport=9) / (b"x" * 1400)),
        ip6(UDP(dport=9, chksum=0) / b"abc"),
        ip6(UDP(dport=9, chksum=4) / b"abc"),
        *(ip6(UDP(dport=9, len=length) / b"abc") for length in (7, 9, 70)),
        ip6(b"abc", nh=17),
        ip6(TCP(dport=9, chksum=4)),
        ip6(TCP(dport=9, flags="A", ack=5, seq=3) / b"ab"),
        ip6(TCP(dport=9, flags="R")),
        *(ip6(extension / payload) for extension in extensions for payload in (PING6, TCP(dport=9), UDP(dport=9))),
        *(ip6(extension(nh=nh) / b"abc") for extension in (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt) for nh in (59, 200)),
        *(ip6(b"\x3a\0\x01\x09" + bytes(4), nh=nh) for nh in (0, 60)),
        *(ip6(b"\x11\x05", nh=nh) for nh in (0, 43, 44, 60)),
        *(ip6(PING6, dst="fd01::5", hlim=limit) for limit in (0, 1, 2)),
        ip6(ICMPv6DestUnreach() / (b"x" * 40), dst="fd01::5", hlim=1),
        ip6(IPv6ExtHdrFragment(offset=5, nh=58) / (b"x" * 8), dst="fd01::5", hlim=1),
        ip6(UDP() / (b"x" * 1600), dst="fd01::5"),
    ]
    return [(ETH0, packet) for packet in v4 + v6]


def fragments(shuffle: random.Random) -> list[Event]:
    """Packets in pieces, whole and in disorder, twice, overlapping, too short."""
    events: list[Event] = []
    echo = ICMP(id=1) / (b"abcdefgh" * 10)

    def of(number: int, payload: Any = echo, **fields: Any) -> list[Any]:
        return list(fragment(IP(src="10.0.0.9", dst="10.0.0.1", id=number, **fields) / payload, fragsize=24))

    number = 0
    for payload in (echo, UDP(dport=9) / (b"x" * 70), TCP(dport=9) / (b"x" * 70)):
        for _ in range(3):
            number += 1
            pieces = of(number, payload)
            shuffle.shuffle(pieces)
            events += [(ETH0, bytes(piece)) for piece in pieces]
    pieces = of(100)
    events += [(ETH0, bytes(pieces[i])) for i in (0, 0, 1, 1, 3, 2)]
    pieces = of(101)
    overlapping = IP(src="10.0.0.9", dst="10.0.0.1", id=101, proto=1, frag=2, flags="MF") / (b"y" * 24)
    events += [(ETH0, bytes(piece)) for piece in (pieces[0], overlapping, *pieces[1:])]
    for number, ecn in ((102, (2, 3, 1, 2)), (103, (0, 2, 0, 0))):
        for piece, bits in zip(of(number), ecn, strict=True):
            events.append((ETH0, bytes(IP(bytes(piece), tos=bits, chksum=None))[: len(piece)]))
    events.append((ETH0, ip4(b"1234567", id=104, flags="MF")))
    events += [(ETH0, ip4(b"x" * 24, id=105, frag=place)) for place in (3, 9)]

    def of6(ident: int, inner: bytes, nh: int, size: int = 24) -> list[bytes]:
        return [
            ip6(IPv6ExtHdrFragment(nh=nh, offset=at // 8, m=int(at + size < len(inner)), id=ident) / inner[at : at + size])
            for at in range(0, len(inner), size)
        ]

    inner = ip6(ICMPv6EchoRequest(id=1, data=b"abcdefgh" * 10))[40:]
    for ident in range(3):
        pieces = of6(ident, inner, 58)
        shuffle.shuffle(pieces)
        events += [(ETH0, piece) for piece in pieces]
    pieces = of6(10, inner, 58)
    events += [(ETH0, pieces[i]) for i in (0, 0, 1, 3, 2)]
    for first in (
        IPv6ExtHdrFragment(nh=58, m=1, id=11) / b"\x80 345678 ",
        IPv6ExtHdrFragment(nh=6, m=1, id=12) / b"12345678",
        IPv6ExtHdrFragment(nh=60, m=1, id=13) / b"\x3a\0\1\4\0\0\0\0",
        IPv6ExtHdrFragment(nh=58, offset=8191, id=14) / b"1234567890",
    ):
        events.append((ETH0, ip6(first)))
    return events


# ------------------------------------------------------------------------------------------------------------------- at random


def packet(choose: random.Random) -> bytes:
    """A packet of either family that may be for this machine, through it, or broken."""

    def port() -> int:
        return choose.choice((9, 80, 53, 5, 1024, 40000))

    transport: Any = choose.choice(
        (
            TCP(dport=port(), sport=port(), flags=choose.choice(("S", "A", "SA", "F", "R", ""))),
            UDP(dport=port(), sport=port()),
            None,
            Raw(b""),
        )
    )
    tail = bytes(choose.randrange(40))
    if choose.random() < 0.5:
        head: Any = IP(
            src=choose.choice(("10.0.0.9", "10.1.0.5", "8.8.8.8", "10.0.0.1", "127.0.0.1")),
            dst=choose.choice(("10.0.0.1", "10.1.0.1", "10.1.0.5", "10.0.0.7", "8.8.4.4")),
            tos=choose.choice((0, 0, 8, 16)),
            ttl=choose.choice((64, 64, 64, 1, 2)),
            id=choose.randrange(1, 0x10000),
            frag=choose.choice((0,) * 8 + (1, 5)),
        )
        if transport is None:
            transport = ICMP(type=choose.choice((0, 3, 8)))
        elif transport == Raw(b""):
            head.proto = choose.choice((200, 47, 6, 17, 1))
    else:
        head = IPv6(
            src=choose.choice(("fd00::9", "fd01::5", "2001:db8::1", "fd00::1")),
            dst=choose.choice(("fd00::1", "fd01::1", "fd01::5", "fd00::7", "2001:db8::2")),
            hlim=choose.choice((64, 64, 64, 1, 2)),
        )
        extension: Any = choose.choice((None,) * 5 + (IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(offset=1)))
        if extension is not None:
            head = head / extension
        if transport is None:
            transport = choose.choice((ICMPv6EchoRequest(), ICMPv6EchoReply(), ICMPv6DestUnreach(code=4) / (b"x" * 48)))
        elif transport == Raw(b""):
            head.lastlayer().nh = choose.choice((200, 47, 6, 17, 58, 60, 44))
    return bytes(head / transport / tail)


_ADDRESSES = {
    4: ("10.0.0.0/8", "10.0.0.9", "10.1.0.5/255.255.0.255", "127.0.0.1", "10.0.0.1", "0.0.0.0/0", "10.0.0.0/24"),
    6: ("fd00::/16", "fd00::9", "fd01::5", "::1", "fd00::1", "::/0", "fd01::/64", "::5/::ff"),
}
_ICMP = {
    4: ("-p icmp", "--icmp-type", ("8", "0", "3", "3/3", "echo-request", "any")),
    6: ("-p icmpv6", "--icmpv6-type", ("128", "129", "1", "1/4", "echo-request")),
}
_REJECT_WITH = {4: ("net-unreach", "port-unreach", "admin-prohib"), 6: ("no-route", "port-unreach", "policy-fail")}


def rule(choose: random.Random, version: int, table: str, chain: str, user: list[str], queues: bool) -> str:
    """A rule for this chain, in the order iptables-save knows."""

    def maybe(chance: float, text: str) -> str:
        return text if choose.random() < chance else ""

    def bang() -> str:
        return maybe(0.25, "! ")

    def ports() -> str:
        return choose.choice(("9", "80", "0:1023", "53", "1024:", "5:20", "0:65535"))

    devices = ("lo", "eth0", "eth1", "eth+", "+", "l+")
    parts = [f"-A {chain}"]
    parts.append(maybe(0.25, f"{bang()}-s {choose.choice(_ADDRESSES[version])}"))
    parts.append(maybe(0.25, f"{bang()}-d {choose.choice(_ADDRESSES[version])}"))
    if chain not in ("OUTPUT", "POSTROUTING"):
        parts.append(maybe(0.2, f"{bang()}-i {choose.choice(devices)}"))
    if chain not in ("PREROUTING", "INPUT"):
        parts.append(maybe(0.2, f"{bang()}-o {choose.choice(devices)}"))
    kind = choose.random()
    if kind < 0.4:
        parts.append("-p tcp" if kind < 0.2 else "-p udp")
        parts.append(maybe(0.6, f"{bang()}--dport {ports()}"))
        parts.append(maybe(0.4, f"{bang()}--sport {ports()}"))
        if kind < 0.2:
            parts.append(maybe(0.4, choose.choice(("--syn", "! --syn", "--tcp-flags ALL SYN"))))
    elif kind < 0.55:
        protocol, option, types = _ICMP[version]
        parts.append(protocol + maybe(0.7, f" {bang()}{option} {choose.choice(types)}"))
    elif kind < 0.65:
        parts.append(f"{bang()}-p {choose.choice(('tcp', 'udp', 'icmp', 'icmpv6', '200', 'gre'))}")
    if version == 4:
        parts.append(maybe(0.1, f"{bang()}-f"))
    parts.append(maybe(0.15, f"-m mark {bang()}--mark {choose.choice(('0', '1', '3', '7', '1/1', '0x10/0xf0'))}"))
    later = [name for name in user if chain not in user or name > chain]
    targets = ["", "", "-j RETURN", "-j ACCEPT", "-j DROP"]
    targets += [f"-j MARK {mark}" for mark in ("--set-mark 1", "--or-mark 2", "--xor-mark 3", "--set-mark 7")]
    targets += [f"{way} {name}" for name in later for way in ("-j", "-j", "-g")]
    if table == "filter":
        targets.append(f"-j REJECT --reject-with {choose.choice(_REJECT_WITH[version])}")
        if "-p tcp" in parts:
            targets.append("-j REJECT --reject-with tcp-reset")
    if queues:
        targets += [f"-j NFQUEUE --queue-num {choose.randrange(4)}{maybe(0.4, ' --queue-bypass')}" for _ in range(8)]
    parts.append(choose.choice(targets))
    return " ".join(filter(None, parts))


def ruleset(choose: random.Random, version: int, *, queues: bool) -> str:
    """A file for iptables-restore."""
    lines = []
    for table, chains in (
        ("mangle", ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
        ("filter", ["INPUT", "FORWARD", "OUTPUT"]),
    ):
        user = [f"u{i}" for i in range(choose.randrange(4))]
        lines.append(f"*{table}")
        lines += [f":{chain} {choose.choice(['ACCEPT'] * 9 + ['DROP'])} [0:0]" for chain in chains]
        lines += [f":{chain} - [0:0]" for chain in user]
        lines += [rule(choose, version, table, choose.choice(chains + user), user, queues) for _ in range(choose.randrange(3, 20))]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


# ------------------------------------------------------------------------------------------------------------- rules about flows

_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED", "RELATED,ESTABLISHED", "SNAT", "DNAT,INVALID")
_HOSTS = {4: ("10.0.0.9", "10.1.0.5", "10.0.0.0/8"), 6: ("fd00::9", "fd01::5", "fd00::/16")}


def flow_matches(choose: random.Random, version: int, table: str, chain: str) -> str:
    """A match that looks at flows (but in table raw, before there are any), at what goes with the packet, or into it."""

    def bang() -> str:
        return choose.choice(("", "", "! "))

    def host() -> str:
        return choose.choice(_HOSTS[version])

    first, last = ("10.0.0.2", "10.1.0.1") if version == 4 else ("fd00::2", "fd01::1")
    ttl = "ttl" if version == 4 else "hl"
    kinds = ["UNICAST", "LOCAL", "MULTICAST"] + (["BROADCAST"] if version == 4 else ["ANYCAST", "UNREACHABLE"])
    counted = f"--connbytes-dir {choose.choice(('original', 'reply', 'both'))} "
    counted += f"--connbytes-mode {choose.choice(('packets', 'bytes', 'avgpkt'))}"
    about_flows = [
        f"-m conntrack {bang()}--ctstate {choose.choice(_STATES)}",
        f"-m conntrack {bang()}--ctstate {choose.choice(_STATES)}",
        f"-m conntrack {bang()}--ctproto {choose.choice(('tcp', 'udp', 'icmp'))} {bang()}--ctorigsrc {host()}",
        f"-m conntrack {bang()}--ctrepldst {host()} --ctdir {choose.choice(('ORIGINAL', 'REPLY'))}",
        f"-m conntrack {bang()}--ctorigdstport 1:100 {bang()}--ctreplsrcport 80",
        f"-m conntrack {bang()}--ctstatus {choose.choice(('SEEN_REPLY', 'ASSURED', 'CONFIRMED', 'NONE', 'EXPECTED,CONFIRMED'))}",
        f"-m conntrack {bang()}--ctexpire 100:",
        f"-m state {bang()}--state {choose.choice(_STATES[:6])}",
        f"-m connmark {bang()}--mark {choose.choice(('0', '1', '3', '1/1'))}",
        f"-m helper {bang()}--helper ftp",
        f"-m connbytes {bang()}--connbytes {choose.choice(('1:3', '2', '60:200'))} {counted}",
        f"-m connlabel {bang()}--label 3 {choose.choice(('', '--set'))}",
    ]
    others = [
        f"-m limit --limit 1/hour --limit-burst {choose.choice((1, 3, 8))}",
        f"-m statistic --mode nth {bang()}--every 3 --packet {choose.randrange(3)}",
        f"-m length {bang()}--length {choose.choice(('40', '20:60', ':50'))}",
        f"-m {ttl} {choose.choice((f'--{ttl}-eq 64', f'! --{ttl}-eq 64', f'--{ttl}-lt 2', f'--{ttl}-gt 1'))}",
        f"-m tos {bang()}--tos {choose.choice(('0', '8', '16/0x1f'))}",
        f"-m dscp {bang()}--dscp 2",
        f"-m iprange {bang()}--src-range {first}-{last}",
        f"-m iprange {bang()}--src-range {first}-{last} {bang()}--dst-range {first}-{last}",
        f"-m addrtype {bang()}--{choose.choice(('src', 'dst'))}-type {choose.choice(kinds)}",
        f"-p {choose.choice(('tcp', 'udp'))} -m multiport {bang()}--{choose.choice(('sports', 'dports', 'ports'))} 9,50:60,1024",
        f"-p tcp {bang()}--tcp-option {choose.choice((2, 3))}",
        "-m comment --comment x",
    ]
    if chain in ("OUTPUT", "POSTROUTING"):
        others.append(f"-m owner {choose.choice(('--uid-owner 0', '! --uid-owner 0', '--socket-exists', '! --socket-exists'))}")
        others.append(f"-m owner {bang()}--uid-owner 5-10 {bang()}--gid-owner 0")
    return choose.choice(others if table == "raw" else about_flows + others)


def flow_rule(choose: random.Random, version: int, table: str, chain: str) -> str:
    """A rule about flows for this chain."""
    targets = ["", "", "-j LOG", "-j RETURN"]
    targets += [f"-j CONNMARK {mark}" for mark in ("--set-mark 1", "--or-mark 2", "--save-mark", "--restore-mark --nfmask 3")]
    targets += ["-j MARK --set-mark 1", "-j NFLOG --nflog-group 9"]
    if table == "raw":
        targets += [
            "-j NOTRACK",
            "-j CT --notrack",
            *(f"-j CT --zone{end} {zone}" for end, zone in (("", "3"), ("-orig", "2"), ("", "mark"))),
            "-p tcp -j CT --helper ftp",
        ]
    elif table == "mangle":
        name = ("TTL", "ttl") if version == 4 else ("HL", "hl")
        targets += [f"-j {name[0]} --{name[1]}-{how}" for how in ("set 5", "inc 250", "dec 1", "dec 70")]
        targets += ["-j TOS --set-tos 8", "-j TOS --xor-tos 0x12", "-j DSCP --set-dscp 5"]
    else:
        targets += ["-j DROP", "-j ACCEPT"]
    rule = f"{flow_matches(choose, version, table, chain)} {choose.choice(targets)}"
    if table == "filter" and choose.random() < 0.1:
        return f"-A {chain} -p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset"
    if rule.count("-p ") > 1:
        rule = rule[: rule.rindex("-p ")] + choose.choice(("-j RETURN", "-j NOTRACK" if table == "raw" else "-j LOG"))
    return f"-A {chain} {rule}".rstrip()


def flow_ruleset(choose: random.Random, version: int) -> str:
    """A file for iptables-restore, about flows, for all tables but nat."""
    lines = []
    for table, chains in (
        ("raw", ("PREROUTING", "OUTPUT")),
        ("mangle", ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")),
        ("filter", ("INPUT", "FORWARD", "OUTPUT")),
        ("security", ("INPUT", "FORWARD", "OUTPUT")),
    ):
        lines.append(f"*{table}")
        lines += [flow_rule(choose, version, table, choose.choice(chains)) for _ in range(choose.randrange(2, 14))]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])
