"""Which conntrack events a socket lets in: conditions compiled to a classic BPF program that the kernel runs.

What the kernel throws away costs no system call, no copy and no room in the receive buffer. The program lets pass whatever is not
a conntrack event: it looks at the subsystem and at the sequence number, which only answers have, so that dumps and
acknowledgements on the same socket are untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, NamedTuple, TypedDict

from nfnl.session.protocols import protocol_number
from nfnl.wire.constants import NFGENMSG_LEN, NLA_HDRLEN, NLMSG_HDRLEN, SubsystemId

Instruction = tuple[int, int, int, int]
Network = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
Masked = int | tuple[int, int]

#: BPF_MAXINSNS: more instructions the kernel does not take
MAX_INSTRUCTIONS = 4096


class EventConditions(TypedDict, total=False):
    """What can be asked of an event. Each is one value or several; several are alternatives."""

    #: layer-4 protocol, by name or number
    protocol: str | int | Iterable[str | int]
    #: source of the original direction: an address or a network, of either family
    source: Network | Iterable[Network]
    #: destination of the original direction
    destination: Network | Iterable[Network]
    #: TCP state (`TcpState`), as far as the event tells one: what tells none passes
    tcp_state: int | Iterable[int]
    #: SCTP state, likewise
    sctp_state: int | Iterable[int]
    #: DCCP state, likewise. Linux has no DCCP tracker since 6.17
    dccp_state: int | Iterable[int]
    #: connection mark; among several, also pairs of mark and mask: ``[(1, 0xff)]``. An event without one counts as 0
    mark: int | Iterable[Masked]
    #: conntrack zone of both directions; an event without one counts as 0
    zone: int | Iterable[int]


@dataclass(frozen=True)
class EventFilter:
    """Events pass that have one of the values of each condition in ``only``, and none of those in ``never``.

        EventFilter(only={"protocol": ("tcp", "udp")}, never={"source": ["127.0.0.0/8", "::1"]})

    Raises ValueError for what no condition can be, and when the program would be longer than the 4096 instructions that the kernel
    takes (about 800 IPv4 networks).
    """

    only: EventConditions = field(default_factory=EventConditions)
    never: EventConditions = field(default_factory=EventConditions)
    #: the compiled program, as `nfnl.wire.datagram.AttachFilter` takes it
    program: tuple[Instruction, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "program", _compile(self.only, self.never))


class Word(NamedTuple):
    """One load, and what it must give."""

    offset: int
    size: int
    mask: int
    value: int


class Place(NamedTuple):
    """An attribute, by the numbers on the way to it, and which test a value becomes there; None for a value of another kind."""

    path: tuple[int, ...]
    test: Any


class Field(NamedTuple):
    """Where a condition looks, in this order, and what the absence of all of it means: this value, or None for: let it pass."""

    places: tuple[Place, ...]
    absent: int | None = None


def _number(size: int, convert: Any = int) -> Any:
    full = (1 << 8 * size) - 1

    def test(value: Any) -> tuple[Word, ...]:
        wanted, mask = value if isinstance(value, tuple) else (value, full)
        wanted = convert(wanted)
        if not 0 <= wanted <= full or not 0 <= mask <= full:
            raise ValueError(f"{value!r} does not fit {8 * size} bits")
        if wanted & ~mask:
            raise ValueError(f"{wanted:#x} has bits outside its mask {mask:#x}: nothing would match")
        return (Word(0, size, mask, wanted),)

    return test


def _network(version: int) -> Any:
    def test(value: Any) -> tuple[Word, ...] | None:
        network = ip_network(value, strict=False)
        if network.version != version:
            return None
        address, mask = network.network_address.packed, network.netmask.packed
        words = (Word(at, 4, _word(mask, at), _word(address, at)) for at in range(0, len(mask), 4))
        return tuple(word for word in words if word.mask)

    return test


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


#: Attribute numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h, because a program is made of numbers.
_ORIGINAL, _PROTOINFO = 1, 4
FIELDS: dict[str, Field] = {
    "protocol": Field((Place((_ORIGINAL, 2, 1), _number(1, protocol_number)),)),
    "source": Field((Place((_ORIGINAL, 1, 1), _network(4)), Place((_ORIGINAL, 1, 3), _network(6)))),
    "destination": Field((Place((_ORIGINAL, 1, 2), _network(4)), Place((_ORIGINAL, 1, 4), _network(6)))),
    "tcp_state": Field((Place((_PROTOINFO, 1, 1), _number(1)),)),
    "dccp_state": Field((Place((_PROTOINFO, 2, 1), _number(1)),)),
    "sctp_state": Field((Place((_PROTOINFO, 3, 1), _number(1)),)),
    "mark": Field((Place((8,), _number(4)),), absent=0),
    "zone": Field((Place((18,), _number(2)),), absent=0),
}

# include/uapi/linux/bpf_common.h, and the ancillary loads of include/uapi/linux/filter.h (SKF_AD_OFF + 12, + 16)
_LD_IMM, _LD_BYTE, _LD_WORD, _LDX_IMM, _AND, _TAX, _JA, _JEQ, _RET = 0x00, 0x30, 0x20, 0x01, 0x54, 0x07, 0x05, 0x15, 0x06
_LD_INDIRECT = {1: 0x50, 2: 0x48, 4: 0x40}
_NLATTR, _NLATTR_NEST = 0xFFFFF00C, 0xFFFFF010
_PASS, _REJECT = "pass", "reject"
_EVERYTHING = 0xFFFFFFFF
_ATTRIBUTES = NLMSG_HDRLEN + NFGENMSG_LEN
_SUBSYSTEM = 5 if sys.byteorder == "little" else 4  # high byte of nlmsg_type, which is in host order
_SEQ = 8


class _Assembler:
    """Instructions with labels for jumps. A label is a name or, for what is local, a number."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None, str | None]] = []
        self._labels: dict[str, int] = {}
        self._fresh = 0

    def label(self) -> str:
        self._fresh += 1
        return str(self._fresh)

    def here(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def put(self, code: int, k: int = 0, *, then: str | None = None, otherwise: str | None = None) -> None:
        self._code.append((code, k, then, otherwise))

    def jump(self, label: str) -> None:
        self.put(_JA, then=label)

    def jump_if_zero(self, label: str) -> None:
        """Conditional jumps reach 255 instructions far, the unconditional one anywhere."""
        go_on = self.label()
        self.put(_JEQ, 0, otherwise=go_on)
        self.jump(label)
        self.here(go_on)

    def program(self) -> tuple[Instruction, ...]:
        def distance(at: int, label: str | None) -> int:
            return 0 if label is None else self._labels[label] - at - 1

        return tuple(
            (code, 0, 0, distance(at, then)) if code == _JA else (code, distance(at, then), distance(at, otherwise), k)
            for at, (code, k, then, otherwise) in enumerate(self._code)
        )


def _compile(only: EventConditions, never: EventConditions) -> tuple[Instruction, ...]:
    out = _Assembler()
    _pass_unless(out, _LD_BYTE, _SUBSYSTEM, SubsystemId.CTNETLINK)
    _pass_unless(out, _LD_WORD, _SEQ, 0)
    for conditions, negate in ((only, False), (never, True)):
        for name, values in conditions.items():
            if name not in FIELDS:
                raise ValueError(f"there is no condition {name!r}; there are {', '.join(FIELDS)}")
            _stage(out, name, _several(values), negate)
    out.here(_PASS)
    out.put(_RET, _EVERYTHING)
    out.here(_REJECT)
    out.put(_RET, 0)
    program = out.program()
    if len(program) > MAX_INSTRUCTIONS:
        raise ValueError(f"the filter takes {len(program)} instructions, but the kernel takes {MAX_INSTRUCTIONS} at the most")
    return program


def _several(values: Any) -> Sequence[Any]:
    """One value or several."""
    single = isinstance(values, str | int | IPv4Address | IPv6Address | IPv4Network | IPv6Network)
    return (values,) if single else tuple(values)


def _pass_unless(out: _Assembler, load: int, offset: int, value: int) -> None:
    goes_on = out.label()
    out.put(load, offset)
    out.put(_JEQ, value, then=goes_on)
    out.jump(_PASS)
    out.here(goes_on)


def _stage(out: _Assembler, name: str, values: Sequence[Any], negate: bool) -> None:
    """One condition. What does not pass jumps to reject, what passes runs on behind the stage."""
    if not values:
        raise ValueError(f"{name} has no values")
    spec = FIELDS[name]
    done = out.label()
    hit, miss = (_REJECT, done) if negate else (done, _REJECT)
    fits = 0
    absent_hits = False
    for path, test in spec.places:
        elsewhere = out.label()
        _find(out, path, elsewhere)
        for value in values:
            words = test(value)
            if words is None:
                continue
            fits += 1
            absent_hits |= spec.absent is not None and all(spec.absent & word.mask == word.value for word in words)
            _compare(out, words, hit)
        out.jump(miss)
        out.here(elsewhere)
    assert fits == len(values)
    if spec.absent is not None:
        out.jump(hit if absent_hits else miss)
    out.here(done)


def _find(out: _Assembler, path: tuple[int, ...], absent: str) -> None:
    """X is where the attribute begins; or jump, if there is none.

    NLATTR_NEST stays inside the nest. NLATTR would go on behind its end, and take what stands there for what it looks for.
    """
    out.put(_LD_IMM, _ATTRIBUTES)
    for depth, number in enumerate(path):
        out.put(_LDX_IMM, number)
        out.put(_LD_WORD, _NLATTR_NEST if depth else _NLATTR)
        out.jump_if_zero(absent)
    out.put(_TAX)


def _compare(out: _Assembler, words: tuple[Word, ...], hit: str) -> None:
    differs = out.label()
    for offset, size, mask, value in words:
        out.put(_LD_INDIRECT[size], NLA_HDRLEN + offset)
        if mask != (1 << 8 * size) - 1:
            out.put(_AND, mask)
        out.put(_JEQ, value, otherwise=differs)
    out.jump(hit)
    out.here(differs)
