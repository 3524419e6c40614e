"""The values of the options of ``nfnl conntrack``, each checked and named where it is wrong."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from nfnl.cli.ct_order import Address, Command, Masked, NatEnd, Net, Order, OutputProblem, StatusWish, UsageProblem
from nfnl.subsys.conntrack import DccpState, Protocol, SctpState, Status, TcpState
from nfnl.wire.constants import Family

_STATES: dict[int, type[TcpState | SctpState | DccpState]] = {
    Protocol.TCP: TcpState,
    Protocol.SCTP: SctpState,
    Protocol.DCCP: DccpState,
}

_STATUS = {
    "ASSURED": Status.ASSURED,
    "SEEN_REPLY": Status.SEEN_REPLY,
    "UNSET": Status(0),
    "FIXED_TIMEOUT": Status.FIXED_TIMEOUT,
    "EXPECTED": Status.EXPECTED,
    "OFFLOAD": Status.OFFLOAD,
    "HW_OFFLOAD": Status.HW_OFFLOAD,
    "UNREPLIED": Status(0),
    "SRC_NAT": None,
    "DST_NAT": None,
}
EVENT_KINDS = ("ALL", "NEW", "UPDATES", "DESTROY")
OUTPUTS = ("xml", "extended", "timestamp", "id", "ktimestamp", "labels", "userspace", "save", "json", "plain")


def number_of(text: str, option: str, most: int = 0xFFFFFFFF) -> int:
    """A number, decimal or as in C. Raises `UsageProblem` (conntrack 1.4.7 takes what is no number for 0)."""
    value = _as_in_c(text)
    if value is None:
        raise UsageProblem(f"Invalid value `{text}' of `--{option}'")
    if not 0 <= value <= most:
        raise UsageProblem(f"Invalid value `{text}' of `--{option}': it goes from 0 to {most}")
    return value


def _as_in_c(text: str) -> int | None:
    """A number as strtoul(3) reads it, base 0; None: it is none."""
    try:
        return int(text, 8 if text.startswith("0") and text.isdigit() and len(text) > 1 else 0)
    except ValueError:
        return None


def protocol_of(text: str) -> int:
    """A protocol by name, one the system knows or its number."""
    try:
        return Protocol[text.upper()]
    except KeyError:
        pass
    number = _as_in_c(text)
    if number is None:
        try:
            number = socket.getprotobyname(text)
        except OSError:
            raise UsageProblem(f"`{text}' unsupported protocol") from None
    if not 0 <= number <= 255:
        raise UsageProblem(f"`{text}' unsupported protocol")
    return number


def address_of(text: str) -> Address:
    """An address of either family."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise UsageProblem(f"Invalid IP address `{text}'") from None


def _net(text: str, option: str, order: Order) -> Net:
    host, slash, bits = text.partition("/")
    address = address_of(host)
    if not slash:
        return Net(address, None)
    if not bits.isdigit() or int(bits) > address.max_prefixlen:
        raise UsageProblem("Invalid netmask")
    return Net(address, int(bits))


def _host(text: str, option: str, order: Order) -> Address:
    if "/" in text:
        raise UsageProblem(f"CIDR notation unavailable for `--{option}'")
    return address_of(text)


def _nat(text: str, option: str, order: Order) -> NatEnd:
    if not text:
        return NatEnd()
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed:
            raise UsageProblem(f"Invalid IP address `{text}'")
        colon = port[:1]
        port = port[1:]
    elif text.count(":") > 1:
        host, colon, port = text, "", ""
    else:
        host, colon, port = text.partition(":")
    if colon and not port:
        raise UsageProblem("No port specified after `:'")
    if port and (not port.isdigit() or int(port) > 65535):
        raise UsageProblem(f"Invalid port `{port}'")
    return NatEnd(address_of(host) if host else None, int(port) if port else None)


def _masked(text: str, option: str, order: Order) -> Masked:
    value, slash, mask = text.partition("/")
    return Masked(number_of(value, option), number_of(mask, option) if slash else 0xFFFFFFFF)


def _chosen(text: str, choices: Sequence[str]) -> list[str]:
    """Words of a list, each in any case and as short as one likes."""
    found = []
    for word in text.split(","):
        fitting = [choice for choice in choices if word and choice.lower().startswith(word.lower())]
        if not fitting:
            raise UsageProblem(f"Bad parameter `{word}'")
        found.append(fitting[0])
    return found


def _status(text: str, option: str, order: Order) -> StatusWish:
    on = off = Status(0)
    filtering = order.command in (Command.LIST, Command.DELETE, Command.EVENTS)
    for word in text.split(","):
        negated = word.startswith("!") and filtering
        (name,) = _chosen(word[1:] if negated else word, [*_STATUS])
        bit = _STATUS[name]
        if bit is None:
            order.warnings.append(f"WARNING: ignoring {name}, use --{name.replace('_', '-').lower()} instead")
        elif name == "UNREPLIED":
            on, off = (on | Status.SEEN_REPLY, off) if negated else (on, off | Status.SEEN_REPLY)
        elif negated:
            off |= bit
        else:
            on |= bit
    if filtering and not on and not off:
        raise OutputProblem("Operation failed: invalid parameters", order.warnings)
    return StatusWish(on, off)


def _output(text: str, option: str, order: Order) -> frozenset[str]:
    return frozenset(_chosen(text, OUTPUTS))


def _events(text: str, option: str, order: Order) -> frozenset[str]:
    return frozenset(_chosen(text, EVENT_KINDS))


def _family(text: str, option: str, order: Order) -> Family:
    try:
        return {"ipv4": Family.IPV4, "ipv6": Family.IPV6}[text]
    except KeyError:
        raise UsageProblem(f"`{text}' unsupported protocol") from None


def _number(most: int = 0xFFFFFFFF) -> Any:
    return lambda text, option, order: number_of(text, option, most)


def _protocol(text: str, option: str, order: Order) -> int:
    return protocol_of(text)


def _text(text: str, option: str, order: Order) -> str:
    return text


VALUES: dict[str, Any] = {
    **dict.fromkeys(("src", "dst"), _net),
    **dict.fromkeys(("reply_src", "reply_dst", "tuple_src", "tuple_dst", "mask_src", "mask_dst"), _host),
    **dict.fromkeys(("src_nat", "dst_nat", "any_nat"), _nat),
    **dict.fromkeys(("zone", "orig_zone", "reply_zone"), _number(0xFFFF)),
    **dict.fromkeys(("timeout", "id", "secmark"), _number()),
    "buffer_size": _number(0x7FFFFFFF),
    **dict.fromkeys(("label", "label_add", "label_del", "labelmap", "zero"), _text),
    "protonum": _protocol,
    "status": _status,
    "mark": _masked,
    "family": _family,
    "output": _output,
    "event_mask": _events,
}


def protocol_value(where: str, option: str, text: str, number: int) -> int:
    if where == "state":
        names = _STATES[number].__members__ | ({"LISTEN": TcpState.SYN_SENT2} if number == Protocol.TCP else {})
        if text not in names or names[text] > 9 or text == "HEARTBEAT_ACKED":
            raise UsageProblem(f"unknown {Protocol(number).name} state `{text}'")
        return int(names[text])
    if where == "role":
        if text not in ("client", "server"):
            raise UsageProblem(f"Unknown DCCP role `{text}'")
        return ("client", "server").index(text)
    if where.startswith("icmp_") and where != "icmp_id":
        return number_of(text, option, 255)
    return number_of(text, option, 0xFFFFFFFF if where.endswith("vtag") else 0xFFFF)
