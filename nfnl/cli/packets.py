"""IP packets in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
_ICMP = {
    0: "echo reply",
    3: "destination unreachable",
    5: "redirect",
    8: "echo request",
    11: "time exceeded",
    12: "parameter problem",
}
_UNREACHABLE = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    13: "administratively prohibited",
}
_ICMPV6 = {
    1: "destination unreachable",
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
}
_UNREACHABLE_V6 = {0: "no route", 1: "administratively prohibited", 3: "address unreachable", 4: "port unreachable"}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


def summary(packet: bytes) -> str:
    """A packet, from its network header on: ``ICMP 127.0.0.1 > 127.0.0.1 echo request seq 1``. Of broken ones what there is."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        fragment = (packet[6] << 8 | packet[7]) & 0x1FFF
        return _above(packet[9], packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 :], fragment * 8)
    if version == 6 and len(packet) >= 40:
        return _above(packet[6], packet[8:24], packet[24:40], packet[40:], 0)
    return f"{len(packet)} bytes, not IP"


def _above(protocol: int, source: bytes, destination: bytes, data: bytes, fragment: int) -> str:
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    here, there = str(ip_address(source)), str(ip_address(destination))
    say = _SAY.get(name)
    if fragment:
        return f"{name} {here} > {there} fragment at {fragment}, {len(data)} bytes"
    if say is None or len(data) < 8:
        return f"{name} {here} > {there}, {len(data)} bytes"
    if name in ("TCP", "UDP"):
        from_port, to_port = struct.unpack_from("!HH", data)
        here, there = (f"[{address}]" if ":" in address else address for address in (here, there))
        here, there = f"{here}:{from_port}", f"{there}:{to_port}"
    return f"{name} {here} > {there}{say(data)}"


def _icmp(types: dict[int, str], unreachable: int, codes: dict[int, str]) -> Callable[[bytes], str]:
    def say(data: bytes) -> str:
        kind, code = data[0], data[1]
        text = types.get(kind, f"type {kind} code {code}")
        if kind == unreachable:
            text = codes.get(code, f"{text}, code {code}")
        return f" {text}{f' seq {data[6] << 8 | data[7]}' if text.startswith('echo') else ''}"

    return say


def _tcp(data: bytes) -> str:
    flags = data[13] if len(data) > 13 else 0
    return f" {' '.join(name for bit, name in enumerate(_TCP_FLAGS) if flags & 1 << bit)}"


_SAY: dict[str, Callable[[bytes], str]] = {
    "ICMP": _icmp(_ICMP, 3, _UNREACHABLE),
    "ICMPv6": _icmp(_ICMPV6, 1, _UNREACHABLE_V6),
    "TCP": _tcp,
    "UDP": lambda data: f", {len(data) - 8} bytes",
}
