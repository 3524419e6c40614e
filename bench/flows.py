"""Flows by the thousand, made as fast as the kernel takes them."""

from __future__ import annotations

import errno
import socket

from bench.outcome import CannotRunError
from nfnl.session.flowspec import reply_to, tuple_of
from nfnl.subsys.conntrack import NewFlow, Status
from nfnl.wire.constants import NlmsgFlag

_NETLINK_NETFILTER = 12
#: messages in one datagram: below the default SO_SNDBUF
_TOGETHER = 500
MARKS = 7


def fill(flows: int, *, first: int = 0) -> None:
    """Make so many flows, two thirds TCP and one third UDP, their marks from 0 to 6. Raises `CannotRunError` if the kernel refuses.

    Their messages differ in their sources alone, so those are put into two templates.
    """
    templates = [_template("udp"), _template("tcp"), _template("tcp")]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(5)
        for start in range(first, first + flows, _TOGETHER):
            numbers = range(start, min(start + _TOGETHER, first + flows))
            sock.send(b"".join(_message(templates[number % 3], number) for number in numbers))
        # refusals come unasked, so what tells of success is that there is none
        sock.setblocking(False)
        try:
            refusal = sock.recv(4096)
        except BlockingIOError:
            return
        number = -int.from_bytes(refusal[16:20], "little", signed=True)
        raise CannotRunError(f"the kernel makes no more flows: {errno.errorcode.get(number, number)}")


_SOURCE = bytes((10, 255, 254, 253))
_MARK = bytes((0x12, 0x34, 0x56, 0x78))


def _template(protocol: str) -> tuple[bytes, ...]:
    """The bytes between the places where the source (twice) and the mark stand."""
    original = tuple_of("10.255.254.253", "192.0.2.1", protocol, 40000, 443)
    message = NewFlow(
        nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.CREATE | NlmsgFlag.EXCL,
        nfgen_family=2,
        original=original,
        reply=reply_to(original),
        status=Status.CONFIRMED,
        timeout=100_000,
        mark=int.from_bytes(_MARK, "big"),
    )
    before, between, rest = bytes(message).split(_SOURCE)
    behind, end = rest.split(_MARK)
    return before, between, behind, end


def _message(template: tuple[bytes, ...], number: int) -> bytes:
    before, between, behind, end = template
    source = (0x0A000000 | number).to_bytes(4, "big")
    return b"".join((before, source, between, source, behind, (number % MARKS).to_bytes(4, "big"), end))
