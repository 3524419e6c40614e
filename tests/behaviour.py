"""Probes for what Linux kernels do differently from one another. `behaviour.tsv` beside this file says since when, and why.

They are found out by trying, as those of `probes.py`: a number tells little where distributions take fixes from newer kernels.
"""

from __future__ import annotations

import csv
import functools
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nfnl.subsys.queue import CopyMode, QueueFlag, SkbInfo
from nfnl.testing.lab import LinuxLab, enter_user_namespace
from nfnl.wire.constants import Group
from tests.contract.bridges import Bridge
from tests.contract.ctkit import (
    ASSURED,
    CONFIRMED,
    CREATE,
    DCCP,
    DELETE,
    EXCL,
    EXP,
    FIXED_TIMEOUT,
    GET_UNCONFIRMED,
    LIFE,
    NEW,
    TCP,
    UDPLITE,
    A,
    Asker,
    B,
    Cta,
    Exp,
    both,
    flags_of,
    helper,
    name,
    orig,
    tuple_,
    u16,
    u32,
    watch,
)
from tests.contract.kernels import LABS, LinuxUnderTest
from tests.contract.trackkit import Connection, Wire, icmp, ip, ports, tcp, udp
from tests.contract.wirekit import (
    CAUGHT,
    Client,
    Listener,
    attribute,
    noop,
    queue_config,
    settings,
    udp4,
)
from tests.probes import probe


@dataclass(frozen=True)
class Difference:
    """A row of `behaviour.tsv`: a probe that kernels answer differently."""

    probe: str
    meaning: str
    #: the first Linux that says yes; "to 6.18": the last
    since: str
    #: file and function in the kernel that explain it
    source: str
    #: what was changed there, in the words of its author where there is a change with a title
    explained: str


def differences() -> list[Difference]:
    """The rows of `behaviour.tsv`."""
    with Path(__file__).with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        return [Difference(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def tried(attempt: Callable[[LinuxUnderTest], str | None]) -> Callable[[], str | None]:
    """A probe that makes this attempt in a lab. It returns what speaks against it, or raises an OSError that says so."""

    @functools.wraps(attempt)
    def ask() -> str | None:
        try:
            with LABS.make("linux") as kernel:
                assert isinstance(kernel, LinuxUnderTest)
                return attempt(kernel)
        except OSError as error:
            return " ".join(str(error.strerror or error).split())

    return probe(ask)


# -------------------------------------------------------------------------------------------------------------- receive buffers


@tried
def buffers_overshoot(kernel: LinuxUnderTest) -> str | None:
    """One datagram more than fits gets into a receive buffer."""
    client = Client(kernel)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(20):
        client.tell(noop())
    charged, room = client.meminfo()[:2]
    return None if charged > room else "this kernel lets in what fits"


@probe
def buffers_are_kept_to() -> str | None:
    """Only what fits gets into a receive buffer."""
    return None if buffers_overshoot() else "this kernel lets in one datagram more than fits"


# ---------------------------------------------------------------------------------------------------------------------- packets


@tried
def priority_told(kernel: LinuxUnderTest) -> str | None:
    """Packets tell their priority (NFQA_PRIORITY), and verdicts can set it."""
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, mode=CopyMode.META)
    kernel.send(udp4(), priority=6)
    return None if listener.packet().priority == 6 else "this kernel does not tell it"


def _sent_in_segments(kernel: LinuxUnderTest, destination: str) -> None:
    source = "127.0.0.1" if destination == "127.0.0.1" else "10.0.0.1"
    kernel.send_datagram(udp4(bytes(300), source=source, destination=destination), gso_size=100)


@tried
def segments_without_offload(kernel: LinuxUnderTest) -> str | None:
    """Datagrams that stand for several segments (UDP_SEGMENT) can be sent through a device that makes no checksums."""
    _sent_in_segments(kernel, "10.0.0.9")
    return None


@tried
def loopback_keeps_segments_together(kernel: LinuxUnderTest) -> str | None:
    """A datagram that stands for several segments crosses the loopback as one."""
    kernel.iptables(f"-A INPUT {CAUGHT} 1")
    listener = Listener(kernel, mask=QueueFlag.GSO, flags=QueueFlag.GSO)
    _sent_in_segments(kernel, "127.0.0.1")
    first = listener.packets()[0]
    return None if (first.skb_info or 0) & SkbInfo.GSO else "it is cut before it comes in"


@tried
def packets_of_lost_ports_dropped(kernel: LinuxUnderTest) -> str | None:
    """A packet that waits while its bridge port is taken away is dropped, whatever the verdict."""
    kernel.touched = True
    bridge = Bridge(kernel.kernel, kernel.cleanup)
    listener = Listener(kernel, 6)
    bridge.send(udp4())
    packet = listener.packet()
    bridge.unplug("port2")
    listener.decide(packet)
    return "this kernel delivers it" if bridge.came_out() else None


# --------------------------------------------------------------------------------------------------------------------- verdicts


@tried
def payloads_unexamined(kernel: LinuxUnderTest) -> str | None:
    """A verdict may replace a packet by any bytes whatever; else only by a proper packet, and others are lost."""
    kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")
    kernel.iptables("-A OUTPUT -j NFQUEUE --queue-num 2")
    one, two = Listener(kernel, 1), Listener(kernel, 2)
    kernel.send(udp4())
    one.decide(1, payload=bytes(33))
    return None if two.packets() else "this kernel examines them"


@probe
def payloads_examined() -> str | None:
    """A verdict may replace a packet by a proper packet only."""
    return None if payloads_unexamined() else "this kernel takes any bytes"


@functools.cache
def fate_of_a_replaced_packet() -> str:
    """What becomes of a packet that is accepted with the payload it had, by root of a user namespace; or what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()  # which has all modules: a guest takes long to import them again
    if not child:
        try:
            os.write(writer, _replaced_in_a_user_namespace().encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as told:
        fate = told.read()
    os.waitpid(child, 0)
    return fate


def _replaced_in_a_user_namespace() -> str:
    enter_user_namespace()
    with ExitStack() as cleanup:
        kernel = LinuxUnderTest(cleanup.enter_context(LinuxLab()), cleanup)
        kernel.iptables(f"-t mangle -A OUTPUT {CAUGHT} 1")
        listener = Listener(kernel)
        journey = kernel.send(udp4())
        assert listener.decide(listener.packet(), payload=udp4()) == "ACK"
        return str(journey.fate.value)


@probe
def payloads_in_user_namespaces() -> str | None:
    """Root of a user namespace may replace packets; else his verdict is acknowledged and the packet vanishes."""
    fate = fate_of_a_replaced_packet()
    return None if fate == "delivered" else fate


# ------------------------------------------------------------------------------------------------------------------------ flows


@tried
def flush_by_filter(kernel: LinuxUnderTest) -> str | None:
    """Flows can be deleted by a filter of their tuples (CTA_FILTER)."""
    answer = Asker(kernel).delete(flags_of(8) + orig())
    return None if answer == "ACK" else f"the filter is not looked at, and the tuple alone gets {answer}"


@tried
def helper_of_expectations_ignored(kernel: LinuxUnderTest) -> str | None:
    """An expectation has the helper of its master, whatever helper is asked for."""
    asker = Asker(kernel)
    asker.make(both(1, number=TCP, to=21), LIFE, helper("ftp"))
    everything = ("255.255.255.255", "255.255.255.255", TCP, 0, 0xFFFF)
    answer = asker.do(
        NEW,
        tuple_(Exp.TUPLE, A, B, TCP, 0, 5000) + tuple_(Exp.MASK, *everything) + orig(1, number=TCP, to=21, type=Exp.MASTER),
        name(Exp.HELP_NAME, "nosuch"),
        subsystem=EXP,
        flags=CREATE | EXCL,
    )
    return None if answer == "ACK" else f"this kernel looks for it: {answer}"


# --------------------------------------------------------------------------------------------------------------------- refusals


@tried
def unknown_commands_have_an_errno(kernel: LinuxUnderTest) -> str | None:
    """A queue command that does not exist is refused with EOPNOTSUPP, not with ENOTSUPP (524), which programs know no name of."""
    [answer] = Client(kernel).answers(queue_config(attribute(1, struct.pack(">BxH", 77, 0))))
    return None if answer == "EOPNOTSUPP" else f"refused with {answer}"


@tried
def flags_have_a_mask(kernel: LinuxUnderTest) -> str | None:
    """Flags that do not exist are found by the attribute check (EINVAL) before queue or log look at them (EOPNOTSUPP)."""
    [answer] = Client(kernel).answers(settings(1, mask=0x80, flags=0x80))
    return None if answer == "EINVAL" else f"refused with {answer}"


@probe
def flags_are_plain_numbers() -> str | None:
    """The attribute check lets any flags pass."""
    return None if flags_have_a_mask() else "this kernel's attribute check knows which there are"


@tried
def batch_frames_acknowledged(kernel: LinuxUnderTest) -> str | None:
    """Beginning and end of a batch are acknowledged where that is asked for."""
    begin, end = (struct.pack("=IHHII", 20, kind, 5, kind, 0) + b"\0\0\0\x0a" for kind in (16, 17))
    answers = Client(kernel).answers(begin + end)
    return None if len(answers) == 2 else f"{len(answers)} answers"


@tried
def expectations_deleted_by_id(kernel: LinuxUnderTest) -> str | None:
    """An expectation can be deleted by its tuple and the id that it is listed with."""
    asker = Asker(kernel)
    asker.make(both(1, number=TCP, to=21), LIFE, helper("ftp"))
    said = tuple_(Exp.TUPLE, A, B, TCP, 0, 5000)
    everything = tuple_(Exp.MASK, "255.255.255.255", "255.255.255.255", TCP, 0, 0xFFFF)
    whole = said + everything + orig(1, number=TCP, to=21, type=Exp.MASTER) + u32(Exp.TIMEOUT, 1000)
    asker.do(NEW, whole, subsystem=EXP, flags=CREATE | EXCL)
    [one] = asker.dump(subsystem=EXP)
    answer = asker.do(DELETE, said, attribute(Exp.ID, one[Exp.ID]), subsystem=EXP)
    return None if answer == "ACK" else f"refused with {answer}"


@tried
def lists_filter_by_status(kernel: LinuxUnderTest) -> str | None:
    """Lists of flows can be filtered by status (CTA_STATUS, CTA_STATUS_MASK)."""
    asker = Asker(kernel)
    asker.make(both(), LIFE)
    return "everything is listed" if asker.dump(u32(Cta.STATUS, ASSURED)) else None


@tried
def lists_filter_by_zone(kernel: LinuxUnderTest) -> str | None:
    """Lists of flows can be filtered by zone (CTA_ZONE)."""
    asker = Asker(kernel)
    asker.make(both(), LIFE)
    return "everything is listed" if asker.dump(u16(Cta.ZONE, 5)) else None


@tried
def fixed_timeouts_stay(kernel: LinuxUnderTest) -> str | None:
    """The timeout of a flow with the status FIXED_TIMEOUT cannot be changed (EPERM)."""
    asker = Asker(kernel)
    asker.make(both(), LIFE)
    asker.change(orig(), u32(Cta.STATUS, CONFIRMED | FIXED_TIMEOUT))
    answer = asker.change(orig(), u32(Cta.TIMEOUT, 10))
    return None if answer == "EPERM" else f"this kernel changes it: {answer}"


# ----------------------------------------------------------------------------------------------------------------------- events


@tried
def ends_tell_time_and_state(kernel: LinuxUnderTest) -> str | None:
    """The event of a flow that goes tells the time that it had left, and the state of the protocol."""
    asker, watcher = Asker(kernel), watch(kernel, Group.CONNTRACK_DESTROY)
    asker.make(both(number=TCP), LIFE)
    asker.delete()
    names = watcher.told()[0].names.split()
    return None if {"TIMEOUT", "PROTOINFO"} <= set(names) else f"it tells {' '.join(names)}"


@tried
def events_on_demand(kernel: LinuxUnderTest) -> str | None:
    """By default flows have events if anybody listens (nf_conntrack_events is 2); else always (1)."""
    Asker(kernel).dump()
    value = kernel.sysctl("net.netfilter.nf_conntrack_events")
    return None if value == "2" else f"nf_conntrack_events is {value}"


# ------------------------------------------------------------------------------------------------------------------ the tracker


@tried
def unconfirmed_unlisted(kernel: LinuxUnderTest) -> str | None:
    """There is no list of the flows whose first packet is still on its way: IPCTNL_MSG_CT_GET_UNCONFIRMED has none."""
    wire = Wire(kernel)
    kernel.iptables("-t mangle -A FORWARD -p udp -j NFQUEUE --queue-num 1")
    listener = Listener(kernel)
    kernel.receive(udp())
    told = wire.asker.dump(operation=GET_UNCONFIRMED)
    listener.decide(listener.packet())
    return "this kernel lists them" if told else None


@tried
def rejected_connections_close(kernel: LinuxUnderTest) -> str | None:
    """A reset that REJECT answers with closes the connection of the packet that was rejected."""
    connection = Connection(Wire(kernel)).open()
    kernel.iptables("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    connection.a("PA", 1001, 5001, data=b"evil")
    return None if connection.tcp_state == "CLOSE" else f"it stays {connection.tcp_state}"


@tried
def tracks_udplite(kernel: LinuxUnderTest) -> str | None:
    """Flows of UDP-Lite are known by their ports."""
    wire = Wire(kernel)
    wire.set(checksum=0)
    wire.state(udp(protocol=UDPLITE))
    return None if wire.flow.ends.numbers else "to this kernel UDP-Lite is a protocol like any other"


@tried
def dccp_is_generic(kernel: LinuxUnderTest) -> str | None:
    """Of DCCP the tracker knows no more than the number."""
    wire = Wire(kernel)
    wire.state(ip("10.0.0.2", "203.0.113.1", DCCP, b"\0\1\0\2" + bytes(20)))
    return None if wire.flows and not wire.flow.ends.numbers else "this kernel tracks DCCP"


@tried
def near_resets_shorten(kernel: LinuxUnderTest) -> str | None:
    """A TCP reset that is in the window, but not where the other side stands, leaves a connection as long as one that is closed."""
    wire = Wire(kernel)
    wire.set(tcp_timeout_close=10_000, tcp_timeout_unacknowledged=90_000)
    connection = Connection(wire).open()
    connection.b("R", 5101)
    return None if connection.flow.number(Cta.TIMEOUT) <= 10_000 else "this kernel waits for an acknowledgement"


@tried
def multicast_routers_untracked(kernel: LinuxUnderTest) -> str | None:
    """What routers of multicast say of themselves (ICMPv6 types 151 and 152) is not tracked, like what neighbours say."""
    found = Wire(kernel).ipv6().state(icmp(151, source="2001:db8:a::1", destination="fd00::1", data=bytes(16)))
    return None if found == "UNTRACKED" else f"it is {found}"


@tried
def late_first_packets_clash(kernel: LinuxUnderTest) -> str | None:
    """Of two first packets of a connection that have waited in a queue the second is dropped; else it joins the first."""
    wire = Wire(kernel)
    kernel.iptables("-t mangle -A FORWARD -p tcp -j NFQUEUE --queue-num 1")
    listener = Listener(kernel)
    journeys = [kernel.receive(tcp("10.0.0.2", "203.0.113.1", 5000, 80, "S", 1000)) for _ in range(2)]
    for packet in listener.packets():
        listener.decide(packet)
    return None if len(wire.flows) == 1 and journeys[1].dropped else "this kernel looks for its flow again when a packet has waited"


@tried
def dnat_ports_in_order(kernel: LinuxUnderTest) -> str | None:
    """Of a range of ports DNAT takes the first that is free; else any."""
    wire = Wire(kernel)
    wire.nat("PREROUTING -p udp -j DNAT --to-destination 203.0.113.2:8000-8009")
    chosen = [ports(wire.passes(udp(dport=port)))[1] for port in range(53, 58)]
    return None if chosen == list(range(8000, 8005)) else f"chosen are {chosen}"


@tried
def unconfirmed_flows_have_no_time(kernel: LinuxUnderTest) -> str | None:
    """To rules (``-m conntrack --ctexpire``) a flow lives 0 seconds while its first packet is on its way."""
    Wire(kernel).set(udp_timeout=3000)
    kernel.iptables("-t mangle -A FORWARD -m conntrack --ctexpire 0 -j MARK --set-mark 5")
    return None if kernel.receive(udp()).mark == 5 else "this kernel tells the time that it is going to have"


@tried
def ftp_translated(kernel: LinuxUnderTest) -> str | None:
    """The FTP helper knows translation: CONFIG_NF_NAT_FTP, and it is loaded."""
    wire = Wire(kernel)
    wire.nat("POSTROUTING -s 198.51.100.1 -j SNAT --to-source 192.0.2.77")
    kernel.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    there, back = ("198.51.100.1", "203.0.113.1", 4100, 21), ("203.0.113.1", "192.0.2.77", 21, 4100)
    for packet in (tcp(*there, "S", 999), tcp(*back, "SA", 4999, 1000), tcp(*there, "PA", 1000, 5000, data=b"USER x\r\n")):
        wire.passes(packet)
    left = wire.passes(tcp(*there, "PA", 1008, 5000, data=b"PORT 198,51,100,1,19,140\r\n"))
    return None if left and b"192,0,2,77" in left else "nf_nat_ftp is not there"
