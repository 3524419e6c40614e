"""Flows as text: /proc/net/nf_conntrack and its neighbours (nf_conntrack_standalone.c, nf_conntrack_expect.c)."""

from __future__ import annotations

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.ct_sysctls import HZ
from nfnl.sim.expectations import INACTIVE, PERMANENT, ExpectationTable
from nfnl.sim.nfnetlink import ProcFile
from nfnl.sim.protoinfo import GreInfo, SctpInfo, TcpInfo
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, TCP, UDP
from nfnl.sim.tuples import GRE, PORT_PROTOCOLS, SCTP, UDPLITE, Tuple

_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", GRE: "gre", ICMPV6: "icmpv6", SCTP: "sctp", UDPLITE: "udplite"}
#: what the zone is called, by the directions it is valid for
_ZONES = {1: "zone-orig", 2: "zone-reply", 3: "zone"}

_STATISTICS_HEAD = (
    "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  "
    "expect_new expect_create expect_delete search_restart\n"
)


def _address(packed: bytes) -> str:
    if len(packed) == 4:
        return ".".join(map(str, packed))
    return ":".join(packed[i : i + 2].hex() for i in range(0, 16, 2))


def _tuple_words(t: Tuple) -> str:
    """`print_tuple`."""
    words = f"src={_address(t.src)} dst={_address(t.dst)} "
    if t.protocol == GRE:
        return words + f"srckey={t.src_part:#x} dstkey={t.dst_part:#x} "
    if t.protocol in PORT_PROTOCOLS:
        return words + f"sport={t.src_part} dport={t.dst_part} "
    if t.protocol in (ICMP, ICMPV6):
        return words + f"type={t.icmp_type} code={t.icmp_code} id={t.src_part} "
    return words


def _state_words(entry: Entry) -> str:
    """What the protocol's tracker has to say (``print_conntrack``)."""
    if isinstance(entry.proto, TcpInfo | SctpInfo):
        return f"{entry.proto.state.name} "
    if entry.protocol == GRE:
        timeouts = (entry.proto.timeout, entry.proto.stream_timeout) if isinstance(entry.proto, GreInfo) else (0, 0)
        return f"timeout={timeouts[0] // HZ}, stream_timeout={timeouts[1] // HZ} "
    return ""


class ConntrackFiles:
    """The files, by their names below /proc/net."""

    __slots__ = ("_expectations", "_flows")

    def __init__(self, flows: ConntrackTable, expectations: ExpectationTable) -> None:
        self._flows = flows
        self._expectations = expectations

    def files(self) -> dict[str, ProcFile]:
        """By name."""
        return {
            "nf_conntrack": ProcFile(0o440, self._conntrack),
            "stat/nf_conntrack": ProcFile(0o444, self._statistics),
            "nf_conntrack_expect": ProcFile(0o440, self._expected),
        }

    def _conntrack(self) -> str:
        return "".join(self._line(entry) for entry in self._flows.walk())

    def _line(self, entry: Entry) -> str:
        """`ct_seq_show`."""
        status, counters = entry.status, entry.counters
        zone = f"{_ZONES[entry.zone.directions]}={entry.zone.id} "

        def direction(number: int) -> str:
            words = _tuple_words(entry.tuple(number))
            if entry.zone.directions == number + 1:
                words += zone
            if counters is not None:
                words += f"packets={counters[2 * number]} bytes={counters[2 * number + 1]} "
            return words

        family = "ipv4" if entry.family == IPV4 else "ipv6"
        line = f"{family:8} {entry.family} {_NAMES.get(entry.protocol, 'unknown'):8} {entry.protocol} "
        if not status & Status.OFFLOAD:
            line += f"{self._flows.seconds_left(entry)} {_state_words(entry)}"
        line += direction(0)
        if not status & Status.SEEN_REPLY:
            line += "[UNREPLIED] "
        line += direction(1)
        for bit, word in ((Status.HW_OFFLOAD, "HW_OFFLOAD"), (Status.OFFLOAD, "OFFLOAD"), (Status.ASSURED, "ASSURED")):
            if status & bit:
                line += f"[{word}] "
                break
        line += f"mark={entry.mark} "
        if entry.zone.directions == 3:
            line += zone
        if entry.start is not None:
            line += f"delta-time={max(0, self._flows.wall_ns() - entry.start) // 1_000_000_000} "
        # the reader holds a reference, too
        return line + f"use={entry.use + 1}\n"

    def _statistics(self) -> str:
        counted = self._flows.statistics
        numbers = (
            self._flows.count,
            counted.clash_resolve,
            counted.found,
            0,
            counted.invalid,
            0,
            0,
            counted.chaintoolong,
            counted.insert,
            counted.insert_failed,
            counted.drop,
            counted.early_drop,
            counted.error,
            counted.expect_new,
            counted.expect_create,
            counted.expect_delete,
            counted.search_restart,
        )
        words = [f"{number & 0xFFFFFFFF:08x}" for number in numbers]
        return f"{_STATISTICS_HEAD}{words[0]}  {' '.join(words[1:13])}  {' '.join(words[13:])}\n"

    def _expected(self) -> str:
        """`exp_seq_show`."""
        lines = []
        for expectation in self._expectations:
            t, master = expectation.tuple, expectation.master
            flags = ",".join(name for bit, name in ((PERMANENT, "PERMANENT"), (INACTIVE, "INACTIVE")) if expectation.flags & bit)
            line = (
                f"{self._expectations.seconds_left(expectation)} l3proto = {t.family} proto={t.protocol} {_tuple_words(t)}{flags}"
            )
            if master.help is not None and master.help.helper is not None:
                helper = master.help.helper
                class_ = helper.policies[expectation.class_].name
                line += f"{' ' if flags else ''}{helper.name}{'/' if class_ else ''}{class_}"
            lines.append(line + "\n")
        return "".join(lines)
