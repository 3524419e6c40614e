"""The FTP helper: what a control connection says about data connections to come.

net/netfilter/nf_conntrack_ftp.c, nf_nat_ftp.c, nf_nat_helper.c.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY
from ipaddress import IPv6Address
from typing import NamedTuple

from nfnl.sim import seqadj
from nfnl.sim.checksums import made_anew
from nfnl.sim.ct_entry import NO_ADJUSTMENT, Entry, Status
from nfnl.sim.expectations import Expectation, ExpectationTable, Mask
from nfnl.sim.hooks import ACCEPT, DROP, HOOK_NAMES
from nfnl.sim.journey import Step
from nfnl.sim.lots import Lots
from nfnl.sim.nat import Manip, Nat, Range
from nfnl.sim.skb import IPV4, IPV6, TCP, Checksum, Skb
from nfnl.sim.tracking import CtInfo, direction_of
from nfnl.sim.tuples import Tuple

#: Line ends that are remembered for each direction.
_REMEMBERED = 2
_STATUS_NAT = Status.SRC_NAT | Status.DST_NAT
_U32 = 0xFFFFFFFF
_CR, _COMMA, _DOT, _SPACE, _OPEN = b"\r,. ("


class FtpInfo:
    """What is remembered of a control connection (`struct nf_ct_ftp_master`)."""

    __slots__ = ("line_ends", "pickup")

    def __init__(self, *, pickup: bool = False) -> None:
        #: by direction, sequence numbers behind line ends
        self.line_ends: tuple[list[int], list[int]] = ([], [])
        #: by direction: a request made the flow, so its first packet counts wherever it begins
        self.pickup = [pickup, pickup]

    def begins_line(self, direction: int, seq: int) -> bool:
        """The byte at ``seq`` follows a line end."""
        return seq in self.line_ends[direction]

    def note_line_end(self, direction: int, seq: int) -> None:
        """`update_nl_seq`."""
        ends = self.line_ends[direction]
        if seq in ends:
            return
        if len(ends) < _REMEMBERED:
            ends.append(seq)
            return
        oldest = 0 if seqadj.after(ends[1], ends[0]) else 1
        if seqadj.after(seq, ends[oldest]):
            ends[oldest] = seq


class Announced(NamedTuple):
    """Where a data connection is to go, and which bytes of the payload say so."""

    address: bytes | None  #: None: the address of who says it
    port: int
    start: int
    length: int


class Partial(Exception):
    """The line begins like one that announces something, and cannot be understood."""


def _number(data: bytes, count: int, separator: int, end: int | None) -> tuple[list[int], int] | None:
    """`try_number`: so many numbers, and how many bytes they take; ``end`` None: whatever comes behind."""
    numbers = [0] * count
    at = 0
    for length, byte in enumerate(data):
        if 48 <= byte <= 57:
            numbers[at] = (numbers[at] * 10 + byte - 48) & _U32
        elif byte == separator and at < count - 1:
            at += 1
        elif byte != separator and at == count - 1 and (end is None or byte == end):
            return numbers, length
        else:
            return None
    return None


def _port(data: bytes, start: int, delimiter: int) -> tuple[int, int] | None:
    """`get_port`: the port, and where the bytes behind its delimiter begin."""
    port = 0
    for at in range(start, len(data)):
        if data[at] == delimiter:
            return (port, at + 1) if port else None
        if not 48 <= data[at] <= 57:
            return None
        port = port * 10 + data[at] - 48 & 0xFFFF
    return None


def _rfc959(data: bytes, end: int | None, start: int) -> Announced | None:
    found = _number(data, 6, _COMMA, end)
    if found is None:
        return None
    numbers, length = found
    return Announced(_packed(numbers), (numbers[4] << 8 | numbers[5]) & 0xFFFF, start, length)


def _packed(numbers: list[int]) -> bytes:
    """An address of four numbers; too large a one runs over into those before it."""
    a, b, c, d = numbers[:4]
    return ((a << 24 | b << 16 | c << 8 | d) & _U32).to_bytes(4, "big")


def _port_command(data: bytes, family: int, start: int) -> Announced | None:
    return _rfc959(data, _CR, start)


def _passive_answer(data: bytes, family: int, start: int) -> Announced | None:
    """`try_rfc1123`: numbers anywhere behind the code."""
    first = next((at for at, byte in enumerate(data) if 48 <= byte <= 57), None)
    return None if first is None else _rfc959(data[first:], None, start + first)


def _is_delimiter(byte: int) -> bool:
    return 33 <= byte <= 126 and not 48 <= byte <= 57


def _extended_port(data: bytes, family: int, start: int) -> Announced | None:
    """`try_eprt`: ``|1|132.235.1.2|6275|``, ``|2|fd00::1|6446|``."""
    if len(data) <= 3 or not _is_delimiter(data[0]) or data[2] != data[0]:
        return None
    if data[1] != {IPV4: ord("1"), IPV6: ord("2")}[family]:
        return None
    address, _, _ = data[3:].partition(data[:1])
    if family == IPV4:
        found = _number(data[3:], 4, _DOT, data[0])
        if found is None:
            return None
        packed, length = _packed(found[0]), found[1]
    else:
        try:
            packed, length = IPv6Address(address.decode("ascii")).packed, len(address)
        except ValueError:
            return None
    port = _port(data, 3 + length + 1, data[0])
    return None if port is None else Announced(packed, port[0], start, port[1])


def _extended_passive(data: bytes, family: int, start: int) -> Announced | None:
    """`try_epsv_response`: ``|||6446|``."""
    if len(data) <= 3 or not _is_delimiter(data[0]) or data[1] != data[0] or data[2] != data[0]:
        return None
    port = _port(data, 3, data[0])
    return None if port is None else Announced(None, port[0], start, port[1])


class Pattern(NamedTuple):
    """A line that announces something: how it begins, what is skipped to, how it is read, and how it is written anew."""

    start: bytes
    skip: int | None
    read: Callable[[bytes, int, int], Announced | None]
    write: Callable[[bytes, int], str]


def _with_commas(address: bytes, port: int) -> str:
    return ",".join(map(str, (*address, port >> 8, port & 0xFF)))


def _with_bars(address: bytes, port: int) -> str:
    if len(address) == 4:
        return f"|1|{'.'.join(map(str, address))}|{port}|"
    return f"|2|{IPv6Address(address).exploded}|{port}|"


def _bare(address: bytes, port: int) -> str:
    return f"|||{port}|"


#: By direction.
PATTERNS = (
    (Pattern(b"PORT", _SPACE, _port_command, _with_commas), Pattern(b"EPRT", _SPACE, _extended_port, _with_bars)),
    (Pattern(b"227 ", None, _passive_answer, _with_commas), Pattern(b"229 ", _OPEN, _extended_passive, _bare)),
)


def read_line(data: bytes, direction: int, family: int) -> tuple[Pattern, Announced] | None:
    """What a line announces (`find_pattern`). Raises `Partial`."""
    for pattern in PATTERNS[direction]:
        if len(data) <= len(pattern.start):
            if pattern.start.upper().startswith(data.upper()):
                raise Partial
            continue
        if data[: len(pattern.start)].upper() != pattern.start:
            continue
        at = len(pattern.start)
        if pattern.skip is not None:
            at = data.find(pattern.skip, at, len(data) - 1) + 1
            if not at:
                raise Partial
        announced = pattern.read(data[at:], family, at)
        if announced is None or not announced.length:
            raise Partial
        return pattern, announced
    return None


class FtpHelper:
    """The helper of one network namespace. ``loose``: data connections may go to a third party."""

    __slots__ = ("_expectations", "_lots", "_nat", "loose")

    def __init__(self, expectations: ExpectationTable, nat: Nat, lots: Lots) -> None:
        self._expectations = expectations
        self._nat = nat
        self._lots = lots
        self.loose = False

    def __call__(self, skb: Skb, entry: Entry, at: int) -> int:
        """A packet of a control connection (`help` in nf_conntrack_ftp.c)."""
        if skb.ctinfo not in (CtInfo.ESTABLISHED, CtInfo.ESTABLISHED_REPLY) or entry.help is None:
            return ACCEPT
        data = skb.data
        if len(data) < at + 20:
            return ACCEPT
        start = at + (data[at + 12] >> 4 << 2)
        line = data[start:]
        if not line:
            return ACCEPT
        info = entry.help.data
        if not isinstance(info, FtpInfo):
            info = entry.help.data = FtpInfo(pickup=entry.synproxy is not None)
        direction = direction_of(skb)
        seq = int.from_bytes(data[at + 4 : at + 8], "big")
        verdict = ACCEPT
        if info.begins_line(direction, seq) or info.pickup[direction]:
            if not info.begins_line(direction, seq):
                info.pickup[direction] = False
            try:
                found = read_line(line, direction, skb.family)
            except Partial:
                _say(skb, "a line of FTP that is cut short")
                return DROP
            if found is not None:
                verdict = self._expect(skb, entry, direction, at, start, *found)
        if line.endswith(b"\n"):
            info.note_line_end(direction, seq + len(line) & _U32)
        return verdict

    def _expect(self, skb: Skb, entry: Entry, direction: int, at: int, start: int, pattern: Pattern, said: Announced) -> int:
        own = entry.tuple(direction).src
        destination = entry.tuple(1 - direction).dst
        if said.address is not None and said.address != own:
            if not self.loose:
                return ACCEPT
            destination = said.address
        source = entry.tuple(1 - direction).src
        ones = bytes(len(source) * [0xFF])
        expectation = Expectation(entry, Tuple(skb.family, source, destination, TCP, 0, said.port), Mask(ones, 0))
        if entry.status & _STATUS_NAT:
            return self._translate(skb, entry, direction, at, start, pattern, said, expectation)
        try:
            self._expectations.add(expectation)
        except OSError:
            _say(skb, "its data connection cannot be expected")
            return DROP
        return ACCEPT

    def _translate(
        self,
        skb: Skb,
        entry: Entry,
        direction: int,
        at: int,
        start: int,
        pattern: Pattern,
        said: Announced,
        expectation: Expectation,
    ) -> int:
        """`nf_nat_ftp`: say in the payload what it will be after translation."""
        address = entry.tuple(1 - direction).dst
        expectation.saved_part = said.port
        expectation.direction = 1 - direction
        expectation.function = "nat-follow-master"
        port = self._free_port(expectation, said.port)
        if port is None:
            _say(skb, "all ports for its data connection are taken")
            return DROP
        text = pattern.write(address, port).encode()
        data = skb.data
        begin = start + said.start
        self._put(skb, at, data[:begin] + text + data[begin + said.length :])
        if entry.seqadj is None:
            entry.seqadj = NO_ADJUSTMENT
        seqadj.note(entry, direction, int.from_bytes(data[at + 4 : at + 8], "big"), len(text) - said.length)
        return ACCEPT

    def _free_port(self, expectation: Expectation, port: int) -> int | None:
        """`nf_nat_exp_find_port`: that one if it can be, else one that is free."""
        span = 0xFFFF - port
        for candidate in (port, *(port + self._lots.draw(16) % span for _ in range(min(span, 128)))):
            expectation.tuple = expectation.tuple._replace(dst_part=candidate)
            try:
                self._expectations.add(expectation)
            except OSError as error:
                if error.errno != EBUSY:
                    return None
            else:
                return candidate
        return None

    @staticmethod
    def _put(skb: Skb, at: int, data: bytes) -> None:
        """Another payload in the place of the packet's, lengths and checksums put right (`nf_nat_mangle_tcp_packet`)."""
        skb.set_data(made_anew(skb.family, data, TCP, at, partial=skb.csum is Checksum.PARTIAL))

    def follow_master(self, entry: Entry, expectation: Expectation) -> None:
        """A data connection is translated as its control connection is (`nf_nat_follow_master`)."""
        other = expectation.master.tuple(1 - expectation.direction)
        part = expectation.saved_part
        self._nat.setup(entry, Range((other.dst, other.dst)), Manip.SRC)
        self._nat.setup(entry, Range((other.src, other.src), (part, part)), Manip.DST)


def _say(skb: Skb, what: str) -> None:
    skb.journey.steps.append(Step(HOOK_NAMES[skb.hook], "conntrack", "", what, "DROP"))
