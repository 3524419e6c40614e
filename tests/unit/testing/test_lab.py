"""The lab on the real kernel: that the fates it tells are what happened."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

import nfnl
from nfnl.errors import LocalProtocolError, OverrunError, TransportClosed
from nfnl.sim import FakeKernel
from nfnl.sim.iptables import IptablesError
from nfnl.sim.journey import Fate, Journey, Step
from nfnl.subsys.conntrack import NewFlow, Tuple, TupleIp, TupleProto
from nfnl.testing import lab as lab_module
from nfnl.testing.lab import LabTransport, LinuxLab
from nfnl.transport.base import Kernel, Transport, Wait
from nfnl.transport.linux import LinuxTransport
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.datagram import SetReceiveBuffer
from tests import probes

PEER, HERE = "10.0.0.9", "10.0.0.1"
PEER6, HERE6 = "fd00::9", "fd00::1"
PING = IP(src=PEER, dst=HERE) / ICMP(id=7, seq=1) / b"ping"
SYN = IP(src=PEER, dst=HERE) / TCP(sport=1024, dport=22, seq=1000)
UDP9 = IP(src=PEER, dst=HERE) / UDP(sport=1024, dport=9) / b"to nobody"
DROP, ACCEPT, STOLEN, QUEUE, REPEAT, STOP = range(6)


@pytest.fixture(params=["legacy", "nft"])
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LinuxLab]:
    if (reason := LinuxLab.available()) is not None:
        pytest.skip(reason)
    flavour = lab_module.iptables_flavour()
    if request.param != flavour and shutil.which(f"iptables-{request.param}", path="/usr/sbin:/sbin") is None:
        pytest.skip(f"iptables-{request.param} is not installed")
    if request.param == "legacy" and flavour == "nft":
        pytest.skip("iptables-legacy does not work here")
    monkeypatch.setattr(lab_module, "iptables_flavour", lambda: request.param)
    with LinuxLab() as lab:
        yield lab


# -- NFQUEUE by hand


class Queue:
    """One queue, held by a transport of the lab."""

    def __init__(self, lab: LinuxLab, number: int = 0, *, maxlen: int | None = None, mode: int = 2, flags: int = 0) -> None:
        self.transport: LinuxTransport = lab.open()
        self.number = number
        self.bind(maxlen=maxlen, mode=mode, flags=flags)

    def bind(self, *, maxlen: int | None = None, mode: int = 2, flags: int = 0) -> None:
        attributes = attribute(1, struct.pack("!BxH", 1, 0)) + attribute(2, struct.pack("!IB", 0xFFFF, mode))
        if maxlen is not None:
            attributes += attribute(3, struct.pack("!I", maxlen))
        attributes += attribute(4, struct.pack("!I", 0xFF)) + attribute(5, struct.pack("!I", flags))
        assert self.ask(2, attributes) == 0

    def ask(self, operation: int, attributes: bytes) -> int:
        """The errno of the acknowledgement; packets that are waiting in the socket are read and forgotten."""
        body = struct.pack("!BBH", 0, 0, self.number) + attributes
        self.transport.send(struct.pack("=IHHII", 16 + len(body), 0x0300 | operation, 5, 1, 0) + body)
        while True:
            for answer in self.transport.receive():
                if answer[4:6] == struct.pack("=H", 2):
                    return -int(struct.unpack_from("=i", answer, 16)[0])

    def ids(self) -> list[int]:
        """Ids of the packets that are waiting in the socket."""
        return [struct.unpack_from("!I", datagram, 24)[0] for datagram in self.transport.receive()]

    def verdict(self, packet_id: int, word: int, *, mark: int | None = None, payload: bytes | None = None) -> int:
        attributes = attribute(2, struct.pack("!II", word, packet_id))
        if mark is not None:
            attributes += attribute(3, struct.pack("!I", mark))
        if payload is not None:
            attributes += attribute(10, payload)
        return self.ask(1, attributes)

    def batch(self, up_to: int, word: int) -> int:
        return self.ask(3, attribute(2, struct.pack("!II", word, up_to)))


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def only(journeys: list[Journey]) -> Journey:
    (journey,) = journeys
    return journey


# -- the world


def test_is_a_kernel_of_the_seam(lab: LinuxLab) -> None:
    kernel: Kernel = lab
    assert isinstance(kernel, Kernel)
    transport: Transport = lab.open()
    assert isinstance(transport, LabTransport)


def test_the_world(lab: LinuxLab) -> None:
    assert lab.run("ip -brief address").stdout.split("\n")[1].split() == ["eth0", "UNKNOWN", "10.0.0.1/24", "fd00::1/64"]
    assert "default dev eth0" in lab.run("ip route").stdout
    assert "default dev eth0" in lab.run("ip -6 route").stdout
    assert lab.open().port_id == os.getpid()  # as for the first socket in any namespace
    assert lab.iptables("-S") == "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"
    for name, value in lab_module.SYSCTLS.items():
        assert lab.sysctl(name) == str(value)


def test_nothing_but_the_testers_packets_is_counted(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j ACCEPT")
    lab.iptables("-A OUTPUT -j ACCEPT")
    lab.receive(PING)
    lab.receive(PING)
    counted = lab.iptables("-S -v")
    assert f"-A INPUT -c 2 {2 * len(PING)} -j ACCEPT" in counted
    assert f"-A OUTPUT -c 2 {2 * len(PING)} -j ACCEPT" in counted


def test_verbs_that_are_refused(lab: LinuxLab) -> None:
    with pytest.raises(LocalProtocolError, match="time passes by itself"):
        lab.advance(1)
    with pytest.raises(IptablesError, match="NOPE") as refused:
        lab.iptables("-A INPUT -j NOPE")
    assert refused.value.exit_code == 2
    with pytest.raises(LocalProtocolError, match="lo"):
        lab.receive(PING, "lo")
    with pytest.raises(OSError, match="eth7") as caught:
        lab.receive(PING, "eth7")
    assert caught.value.errno == 19
    with pytest.raises(OSError, match="Invalid argument"):
        lab.receive(bytes(20))
    with pytest.raises(OSError, match="File exists"):
        lab.add_device("eth0")
    with pytest.raises(OSError, match="File exists"):
        lab.add_address("eth0", "10.0.0.1/24")
    with pytest.raises(OSError, match="No such device"):
        lab.add_address("eth7", "10.0.1.1/24")
    with pytest.raises(OSError, match="No such process"):
        lab.del_route("192.0.2.0/24")
    with pytest.raises(FileNotFoundError, match="not installed"):
        lab.run("no-such-program")


def test_a_closed_lab(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE")
    queue = Queue(lab)
    ping = lab.receive(PING)
    lab.close()
    lab.close()
    assert ping.queue == 0  # journeys can still be asked
    with pytest.raises(TransportClosed):
        lab.receive(PING)
    with pytest.raises(TransportClosed):
        queue.transport.receive()


def test_leaves_nothing_behind(lab: LinuxLab) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with LinuxLab() as other:
        other.receive(PING)
        other.open()
    del other
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == 1


def test_programs_run_inside(lab: LinuxLab) -> None:
    assert os.readlink("/proc/self/ns/net") not in lab.run(["ls", "-l", "/proc/self/ns/net"]).stdout
    assert lab.run("sh -c 'echo to stderr >&2; exit 3'").returncode == 3
    assert lab.sysctl("net.ipv4.ip_default_ttl", 77) == "77"
    assert lab.run("cat /proc/sys/net/ipv4/ip_default_ttl").stdout == "77\n"
    assert "eth0" in lab.read_proc("dev")


# -- what arrives


def test_an_echo_request_is_delivered_and_answered(lab: LinuxLab) -> None:
    ping = lab.receive(PING)
    assert ping.delivered
    assert ping.fate is Fate.DELIVERED
    assert ping.packet == ping.data == bytes(PING)
    assert ping.hooks == ["PREROUTING", "INPUT"]
    pong = only(ping.answers)
    assert pong.fate is Fate.SENT
    reply = IP(pong.data)
    assert (reply.src, reply.dst, reply[ICMP].type, reply[ICMP].payload.load) == (HERE, PEER, 0, b"ping")
    assert pong.hooks == ["OUTPUT", "POSTROUTING"]
    assert pong.answers == []


def test_ipv6_too(lab: LinuxLab) -> None:
    ping = lab.receive(IPv6(src=PEER6, dst=HERE6) / ICMPv6EchoRequest(data=b"six"))
    assert ping.fate is Fate.DELIVERED
    assert IPv6(only(ping.answers).data)[ICMPv6EchoReply].data == b"six"
    lab.ip6tables("-A INPUT -p udp -j DROP")
    assert lab.receive(IPv6(src=PEER6, dst=HERE6) / UDP(dport=9)).reason == "-A INPUT -p udp -j DROP"
    lab.ip6tables("-F")
    refused = lab.receive(IPv6(src=PEER6, dst=HERE6) / UDP(dport=9))
    assert refused.fate is Fate.DELIVERED
    assert IPv6(only(refused.answers).data).haslayer(ICMPv6DestUnreach)


def test_closed_ports_answer(lab: LinuxLab) -> None:
    syn = lab.receive(SYN)
    assert syn.fate is Fate.DELIVERED
    reset = IP(only(syn.answers).data)
    assert (reset[TCP].flags, reset[TCP].ack) == ("RA", 1001)
    del reset[TCP].chksum
    assert IP(bytes(reset)) == IP(syn.answers[0].data)  # the checksum is finished: it is what left, not what POSTROUTING saw
    udp = lab.receive(UDP9)
    assert udp.fate is Fate.DELIVERED
    assert (IP(only(udp.answers).data)[ICMP].type, IP(udp.answers[0].data)[ICMP].code) == (3, 3)


def test_every_error_is_answered(lab: LinuxLab) -> None:
    """The limits by time are off."""
    assert [len(lab.receive(UDP9).answers) for _ in range(100)] == [1] * 100


def test_a_rule_drops(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p icmp -j DROP")
    lab.iptables("-N mine")
    lab.iptables("-A mine -p udp -j DROP")
    lab.iptables("-A INPUT -p udp -j mine")
    ping, udp, syn = lab.receive(PING), lab.receive(UDP9), lab.receive(SYN)
    assert ping.dropped
    assert ping.reason == "-A INPUT -p icmp -j DROP"
    assert ping.answers == []
    assert ping.steps[-1] == Step("INPUT", "filter", "INPUT", "-A INPUT -p icmp -j DROP", "DROP")
    assert udp.dropped
    assert udp.reason == "-A mine -p udp -j DROP"
    assert udp.steps[-2:] == [
        Step("INPUT", "filter", "INPUT", "-A INPUT -p udp -j mine", "mine"),
        Step("INPUT", "filter", "mine", "-A mine -p udp -j DROP", "DROP"),
    ]
    assert syn.delivered
    assert syn.steps[-1] == Step("INPUT", "filter", "INPUT", "policy ACCEPT", "ACCEPT")


def test_the_rules_of_a_restored_table_are_known(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p icmp -j DROP")
    lab.iptables_restore("*filter\n:INPUT ACCEPT\n-A INPUT -p udp\n-A INPUT -p icmp -j DROP\nCOMMIT\n")
    lab.iptables("-I INPUT -p tcp")
    assert [step.what for step in lab.receive(PING).steps if step.table] == ["-A INPUT -p icmp -j DROP"]
    lab.iptables("-D INPUT -p icmp -j DROP")
    assert [step.what for step in lab.receive(UDP9).steps if step.table] == ["-A INPUT -p udp", "policy ACCEPT"]


def test_whole_files_for_each_family(lab: LinuxLab) -> None:
    lab.ip6tables_restore("*filter\n:INPUT DROP\nCOMMIT\n")
    assert "-P INPUT DROP" in lab.ip6tables("-S")
    assert "-P INPUT ACCEPT" in lab.iptables("-S")


def test_a_policy_drops(lab: LinuxLab) -> None:
    lab.iptables("-P INPUT DROP")
    assert lab.receive(PING).reason == "policy DROP"


def test_a_rejected_packet_is_dropped_and_answered(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p udp -j REJECT --reject-with icmp-host-prohibited")
    udp = lab.receive(UDP9)
    assert udp.dropped
    assert udp.reason == "-A INPUT -p udp -j REJECT --reject-with icmp-host-prohibited"
    answer = only(udp.answers)
    assert answer.fate is Fate.SENT
    assert IP(answer.data)[ICMP].code == 10


def test_an_answer_can_be_dropped(lab: LinuxLab) -> None:
    lab.iptables("-A OUTPUT -p icmp -j DROP")
    ping = lab.receive(PING)
    assert ping.delivered
    assert only(ping.answers).reason == "-A OUTPUT -p icmp -j DROP"


def test_what_rules_change_is_seen(lab: LinuxLab) -> None:
    lab.iptables("-t mangle -A PREROUTING -p icmp -j TTL --ttl-set 3")
    lab.iptables("-t mangle -A INPUT -p icmp -j MARK --set-mark 0x17")
    ping = lab.receive(PING)
    assert ping.packet == bytes(PING)
    assert IP(ping.data).ttl == 3
    assert ping.mark == 0x17
    assert [step.result for step in ping.steps if "MARK" in step.what] == ["MARK 0x17"]
    assert only(ping.answers).mark == 0


def test_what_rules_change_before_a_queue_is_seen(lab: LinuxLab) -> None:
    lab.iptables("-t mangle -A INPUT -p icmp -j TTL --ttl-set 3")
    lab.iptables("-t mangle -A INPUT -p icmp -j MARK --or-mark 0x10")
    lab.iptables("-t mangle -A INPUT -p icmp -j NFQUEUE")
    queue = Queue(lab)
    ping = lab.receive(PING)
    assert ping.queued
    assert ping.mark == 0x10
    assert IP(ping.data).ttl == 3
    assert ping.steps[-2].result == "MARK 0x10"
    assert queue.verdict(1, DROP) == 0
    assert (ping.mark, IP(ping.data).ttl) == (0x10, 3)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (IP(src=PEER, dst="10.0.0.77") / ICMP(), "lost behind PREROUTING: IpInAddrErrors"),
        (IP(src="127.0.0.1", dst=HERE) / ICMP(), "lost behind PREROUTING"),
        (IP(src=PEER, dst=HERE, chksum=1) / ICMP(), "lost before its first hook: IpInHdrErrors IpExtInCsumErrors"),
        (IP(src=PEER, dst=HERE, len=99) / ICMP(), "lost before its first hook: IpExtInTruncatedPkts"),
        (IP(src=PEER, dst=HERE) / ICMP(chksum=1), "lost behind INPUT: IcmpInErrors"),
        (IP(src=PEER, dst=HERE) / TCP(chksum=1), "lost behind INPUT: TcpInErrs"),
        (IP(src=PEER, dst=HERE) / UDP(chksum=1), "lost behind INPUT: UdpInErrors"),
        (IPv6(src=PEER6, dst=HERE6, plen=99) / UDP(), "lost before its first hook: Ip6InTruncatedPkts"),
        (IPv6(src=PEER6, dst=HERE6) / UDP(chksum=1), "lost behind INPUT: Udp6InErrors"),
        (IPv6(src=PEER6, dst="fd00::77") / UDP(), "lost behind PREROUTING"),
    ],
    ids=lambda value: value.summary() if isinstance(value, Packet) else "",
)
def test_the_stack_drops(lab: LinuxLab, packet: Packet, reason: str) -> None:
    journey = lab.receive(packet)
    assert journey.dropped
    assert journey.reason.startswith(reason)
    assert lab.receive(PING).delivered  # and the next one is not taken for it


def test_an_icmp_error_about_nothing_is_delivered_all_the_same(lab: LinuxLab) -> None:
    error = IP(src=PEER, dst=HERE) / ICMP(type=3, code=3) / IP(src=HERE, dst=PEER) / UDP(sport=1, dport=2)
    assert lab.receive(error).fate is Fate.DELIVERED


def test_a_fragment_waits_for_the_others(lab: LinuxLab) -> None:
    first, last = IP(bytes(PING))[IP].copy(), IP(bytes(PING))[IP].copy()
    payload = bytes(PING[ICMP])
    first.remove_payload(), last.remove_payload()
    for part in (first, last):
        del part.len, part.chksum
    first.flags, last.frag = "MF", 1
    one = lab.receive(first / payload[:8])
    assert one.fate is Fate.MOVING
    assert one.reason == "waits for its other fragments"
    two = lab.receive(last / payload[8:])
    assert two.fate is Fate.DELIVERED
    assert IP(two.data)[ICMP].load == b"ping"
    assert len(two.answers) == 1


# -- what is sent


def test_sent_over_the_loopback(lab: LinuxLab) -> None:
    ping = lab.send(IP(src="127.0.0.1", dst="127.0.0.1") / ICMP(), mark=5)
    assert ping.fate is Fate.DELIVERED
    assert ping.hooks == ["OUTPUT", "POSTROUTING", "PREROUTING", "INPUT"]
    assert ping.mark == 5
    assert ping.errno == 0
    pong = only(ping.answers)
    assert pong.fate is Fate.DELIVERED
    assert pong.hooks == ping.hooks


def test_sent_out_of_a_device(lab: LinuxLab) -> None:
    data = bytes(IP(src=HERE, dst=PEER) / UDP(sport=1, dport=2) / b"out")
    udp = lab.send(data)
    assert udp.fate is Fate.SENT
    assert udp.data == data
    assert lab.send(IPv6(src=HERE6, dst=PEER6) / UDP()).fate is Fate.SENT


def test_what_a_sender_is_told(lab: LinuxLab) -> None:
    lab.iptables("-A OUTPUT -p icmp -j DROP")
    dropped = lab.send(IP(src=HERE, dst=PEER) / ICMP())
    assert dropped.dropped
    assert dropped.errno == 1
    assert dropped.reason == "-A OUTPUT -p icmp -j DROP"
    long = lab.send(IP(src=HERE, dst=PEER) / UDP() / bytes(2000))
    assert long.dropped
    assert long.errno == 90
    assert long.reason == "longer than the MTU of the device"
    lab.del_route("0.0.0.0/0")
    lost = lab.send(IP(src=HERE, dst="192.0.2.1") / UDP())
    assert (lost.fate, lost.errno, lost.reason) == (Fate.DROPPED, 101, "no route")
    assert lab.send(b"").errno == 22


def test_routes_by_mark(lab: LinuxLab) -> None:
    lab.add_device("eth1")
    lab.add_route("192.0.2.0/24", "eth1", mark=3)
    lab.add_route("198.51.100.0/24", None)
    packet = IP(src=HERE, dst="192.0.2.1") / UDP()
    lab.iptables("-t mangle -A POSTROUTING -o eth1 -j DROP")
    assert lab.send(packet).fate is Fate.SENT
    assert lab.send(packet, mark=3).dropped
    assert lab.send(IP(src=HERE, dst="198.51.100.1") / UDP()).errno == 113
    lab.del_route("192.0.2.0/24", mark=3)
    assert lab.send(packet, mark=3).fate is Fate.SENT


# -- what passes through


def test_forwarded(lab: LinuxLab) -> None:
    lab.add_device("eth1")
    through = lab.forward(IP(src=PEER, dst="192.0.2.1", ttl=9) / UDP() / b"through", out_dev="eth1")
    assert through.fate is Fate.SENT
    assert through.hooks == ["PREROUTING", "FORWARD", "POSTROUTING"]
    assert IP(through.data).ttl == 8
    assert "192.0.2.1 dev eth1" in lab.run("ip route").stdout
    six = lab.forward(IPv6(src=PEER6, dst="fd77::1", hlim=9) / UDP(), out_dev="eth1")
    assert six.fate is Fate.SENT
    assert IPv6(six.data).hlim == 8
    expired = lab.forward(IP(src=PEER, dst="192.0.2.1", ttl=1) / UDP())
    assert expired.dropped
    assert IP(only(expired.answers).data)[ICMP].type == 11
    lab.iptables("-P FORWARD DROP")
    assert lab.forward(IP(src=PEER, dst="192.0.2.1") / UDP()).reason == "policy DROP"


def test_forwarded_into_a_narrow_device(lab: LinuxLab) -> None:
    lab.add_device("eth1", mtu=600)
    packet = IP(src=PEER, dst="192.0.2.1", flags=0) / UDP() / bytes(1400)
    through = lab.forward(packet, out_dev="eth1")
    assert through.fate is Fate.SENT
    assert through.reason == "in 3 fragments"
    assert len(through.data) == len(packet)
    packet.flags = "DF"
    stopped = lab.forward(packet, out_dev="eth1")
    assert stopped.dropped
    answer = IP(only(stopped.answers).data)
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 600)


def test_a_device_that_is_down(lab: LinuxLab) -> None:
    lab.add_device("eth1")
    lab.add_route("192.0.2.0/24", "eth1")
    lab.set_up("eth1", False)
    with pytest.raises(OSError, match="Network is down"):
        lab.receive(PING, "eth1")
    lab.set_up("lo", False)
    assert lab.receive(PING).delivered


# -- queues


@pytest.fixture
def queue(lab: LinuxLab) -> Queue:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    return Queue(lab)


def test_queued_then_accepted(lab: LinuxLab, queue: Queue) -> None:
    ping = lab.receive(PING)
    assert ping.queued
    assert not ping.delivered
    assert ping.queue == 0
    assert ping.answers == []
    assert queue.ids() == [1]
    assert queue.verdict(1, ACCEPT, mark=9) == 0
    assert ping.fate is Fate.DELIVERED
    assert ping.mark == 9
    assert ping.reason == ""
    assert ping.steps[-2:] == [
        Step("INPUT", "filter", "INPUT", "-A INPUT -j NFQUEUE --queue-num 0", "QUEUE 0"),
        Step("INPUT", "", "", "verdict ACCEPT from queue 0", "ACCEPT"),
    ]
    assert only(ping.answers).fate is Fate.SENT


def test_queued_then_dropped(lab: LinuxLab, queue: Queue) -> None:
    ping = lab.receive(PING)
    assert queue.verdict(1, DROP) == 0
    assert ping.dropped
    assert ping.reason == "verdict DROP from queue 0"
    assert ping.answers == []


def test_a_new_payload_is_delivered(lab: LinuxLab, queue: Queue) -> None:
    changed = bytes(IP(src=PEER, dst=HERE) / ICMP(id=7, seq=1) / b"something else")
    ping = lab.receive(PING)
    assert queue.verdict(1, ACCEPT, payload=changed) == 0
    if ping.dropped:
        pytest.skip("this kernel takes no payload in a user namespace")
    assert ping.packet == bytes(PING)
    assert ping.data == changed
    assert IP(only(ping.answers).data)[ICMP].load == b"something else"


def test_a_payload_that_the_protocol_refuses(lab: LinuxLab, queue: Queue) -> None:
    ping = lab.receive(PING)
    assert queue.verdict(1, ACCEPT, payload=bytes(PING)[:-4] + b"pong") == 0  # a stale checksum
    assert ping.dropped
    assert ping.answers == []


def test_a_payload_too_short_for_the_kernel(lab: LinuxLab, queue: Queue) -> None:
    ping = lab.receive(PING)
    assert queue.verdict(1, ACCEPT, payload=b"short") == 0
    assert ping.dropped
    assert ping.reason == "lost in INPUT, after the verdict ACCEPT from queue 0"


@pytest.mark.parametrize("word", [STOP, ACCEPT | 0x10000, ACCEPT | 0x100])
def test_stop_skips_what_is_left_of_the_hook(lab: LinuxLab, word: int) -> None:
    lab.iptables("-t mangle -A INPUT -j NFQUEUE --queue-num 0")
    lab.iptables("-A INPUT -j DROP")
    queue = Queue(lab)
    ping = lab.receive(PING)
    assert queue.verdict(1, word) == 0
    assert ping.fate is Fate.DELIVERED
    assert only(ping.answers).fate is Fate.SENT
    second = lab.receive(PING)
    assert queue.verdict(2, ACCEPT) == 0
    assert second.reason == "-A INPUT -j DROP"


def test_stop_at_the_end_of_the_way_out(lab: LinuxLab) -> None:
    lab.iptables("-t mangle -A POSTROUTING -j NFQUEUE --queue-num 0")
    queue = Queue(lab)
    out, over = lab.send(IP(src=HERE, dst=PEER) / UDP()), lab.send(IP(src="127.0.0.1", dst="127.0.0.1") / UDP() / b"!")
    assert [journey.queued for journey in (out, over)] == [True, True]
    assert queue.batch(2, STOP) == 0
    assert out.fate is Fate.SENT
    assert over.fate is Fate.DELIVERED
    assert only(over.answers).queued


def test_repeat_runs_the_rules_again(lab: LinuxLab, queue: Queue) -> None:
    lab.iptables("-I INPUT -m mark --mark 1 -j ACCEPT")
    ping = lab.receive(PING)
    assert queue.verdict(1, REPEAT) == 0
    assert ping.queued
    assert queue.verdict(2, REPEAT, mark=1) == 0
    assert ping.fate is Fate.DELIVERED
    assert [step.result for step in ping.steps if step.table == "filter"] == ["QUEUE 0", "QUEUE 0", "ACCEPT"]


def test_from_queue_to_queue(lab: LinuxLab, queue: Queue) -> None:
    other = Queue(lab, 7)
    ping, lost = lab.receive(PING), lab.receive(PING)
    assert queue.verdict(1, QUEUE | 7 << 16) == 0
    assert ping.queued
    assert ping.queue == 7
    assert queue.verdict(2, QUEUE | 8 << 16) == 0
    assert lost.dropped
    assert lost.reason == "queue 8: nobody listens"
    assert queue.verdict(1, ACCEPT) == 2
    assert ping.queued
    assert other.verdict(1, ACCEPT) == 0
    assert ping.delivered


def test_packets_with_equal_bytes_are_told_apart(lab: LinuxLab, queue: Queue) -> None:
    pings = [lab.receive(PING) for _ in range(4)]
    assert queue.verdict(3, DROP) == 0
    assert queue.verdict(2, ACCEPT) == 0
    assert [ping.fate for ping in pings] == [Fate.QUEUED, Fate.DELIVERED, Fate.DROPPED, Fate.QUEUED]
    assert [len(ping.answers) for ping in pings] == [0, 1, 0, 0]
    assert queue.verdict(1, DROP) == 0
    assert queue.verdict(4, ACCEPT) == 0
    assert [ping.fate for ping in pings] == [Fate.DROPPED, Fate.DELIVERED, Fate.DROPPED, Fate.DELIVERED]


def test_many_verdicts_in_one_datagram(lab: LinuxLab, queue: Queue) -> None:
    lab.iptables("-A INPUT -j DROP")
    lab.iptables("-t mangle -A INPUT -j NFQUEUE --queue-num 0")
    lab.iptables("-D INPUT 1")
    lab.iptables("-I INPUT -p icmp -j ACCEPT")
    packets = [PING, SYN, PING, UDP9, PING]
    journeys = [lab.receive(packet) for packet in packets]
    assert all(journey.queued for journey in journeys)
    words = [ACCEPT, ACCEPT, DROP, ACCEPT, ACCEPT]
    datagram = b""
    for packet_id, word in enumerate(words, 1):
        body = struct.pack("!BBH", 0, 0, 0) + attribute(2, struct.pack("!II", word, packet_id))
        datagram += struct.pack("=IHHII", 16 + len(body), 0x0301, 1, 0, 0) + body
    queue.transport.send(datagram)
    assert [journey.fate.name for journey in journeys] == ["DELIVERED", "DROPPED", "DROPPED", "DROPPED", "DELIVERED"]
    assert [journey.reason for journey in journeys] == ["", "-A INPUT -j DROP", "verdict DROP from queue 0", "-A INPUT -j DROP", ""]
    assert [len(journey.answers) for journey in journeys] == [1, 0, 0, 0, 1]


def test_a_batch(lab: LinuxLab, queue: Queue) -> None:
    # what can be reported at once depends on a buffer, which in a user namespace of older kernels is small
    many = 150 if lab._reports.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 2 << 20 else 25
    pings = [lab.receive(PING / bytes([number])) for number in range(many + 50)]
    assert queue.batch(many, ACCEPT) == 0
    assert [ping.fate for ping in pings] == [Fate.DELIVERED] * many + [Fate.QUEUED] * 50
    pongs = [IP(only(ping.answers).data) for ping in pings[:many]]
    assert [pong[ICMP].load for pong in pongs] == [b"ping" + bytes([number]) for number in range(many)]
    assert queue.batch(1000, DROP) == 0
    assert [ping.dropped for ping in pings[many:]] == [True] * 50


def test_more_than_can_be_reported(lab: LinuxLab, queue: Queue) -> None:
    """Loudly, not by guessing."""
    pings = [lab.receive(PING) for _ in range(20)]
    lab._reports.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with pytest.raises(OverrunError, match="lost sight"):
        queue.batch(20, ACCEPT)
    with pytest.raises(OverrunError, match="lost sight"):
        assert pings[0].delivered
    with pytest.raises(OverrunError, match="lost sight"):
        lab.receive(PING)


def test_a_refused_verdict_changes_nothing(lab: LinuxLab, queue: Queue) -> None:
    ping = lab.receive(PING)
    steps = ping.steps[:]
    stranger = Queue(lab, 5)
    stranger.number = 0
    for word in (DROP, ACCEPT, STOP, QUEUE | 5 << 16):
        assert stranger.verdict(1, word, mark=77) == 1
    for word in (STOLEN, 6, 0xFF):
        assert queue.verdict(1, word) == 22
    assert queue.verdict(2, DROP) == 2
    assert ping.queued
    assert ping.mark == 0
    assert ping.steps == steps
    assert queue.verdict(1, ACCEPT) == 0
    assert ping.delivered


def test_nobody_listens(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p icmp -j NFQUEUE --queue-num 3")
    lab.iptables("-A INPUT -p tcp -j NFQUEUE --queue-num 3 --queue-bypass")
    ping, syn = lab.receive(PING), lab.receive(SYN)
    assert ping.dropped
    assert ping.reason == "queue 3: nobody listens"
    assert syn.delivered
    assert syn.steps[-1] == Step("INPUT", "", "", "queue 3: nobody listens, bypass", "ACCEPT")
    assert (ping.queue, syn.queue) == (None, None)


def test_a_full_queue(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    queue = Queue(lab, maxlen=1)
    first, second = lab.receive(PING), lab.receive(PING)
    assert first.queued
    assert second.dropped
    assert second.reason == "queue 0 is full"
    assert queue.verdict(1, DROP) == 0
    third = lab.receive(PING)
    assert third.queued
    assert queue.verdict(2, ACCEPT) == 0
    assert [ping.fate for ping in (first, second, third)] == [Fate.DROPPED, Fate.DROPPED, Fate.DELIVERED]


def test_a_full_queue_that_fails_open(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    queue = Queue(lab, maxlen=1, flags=1)
    first, second = lab.receive(PING), lab.receive(PING)
    assert first.queued
    assert second.delivered
    assert second.steps[-1] == Step("INPUT", "", "", "queue 0 is full, fail-open", "ACCEPT")
    assert second.queue == 0
    assert queue.ids() == [1]


def test_a_queue_without_a_mode(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    queue = Queue(lab, mode=0)
    ping = lab.receive(PING)
    assert ping.dropped
    assert queue.ids() == []
    assert ping.reason == "queue 0: copy mode is NONE"


def test_a_full_socket(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    queue = Queue(lab)
    queue.transport.apply(SetReceiveBuffer(1))
    pings = [lab.receive(PING) for _ in range(6)]
    with pytest.raises(OverrunError):
        queue.transport.receive()
    kept = queue.ids()
    assert [number for number, ping in enumerate(pings, 1) if ping.queued] == kept
    assert 0 < len(kept) < 6
    assert {ping.reason for ping in pings if ping.dropped} == {"queue 0: its owner did not take the message"}


@pytest.mark.parametrize("how", ["close", "unbind", "device"])
def test_what_waits_is_dropped_when_the_queue_goes(lab: LinuxLab, queue: Queue, how: str) -> None:
    pings = [lab.receive(PING) for _ in range(3)]
    if how == "close":
        queue.transport.close()
    elif how == "unbind":
        assert queue.ask(2, attribute(1, struct.pack("!BxH", 2, 0))) == 0
    else:
        lab.set_up("eth0", False)
    assert [ping.fate for ping in pings] == [Fate.DROPPED] * 3
    assert {ping.reason for ping in pings} == {"left queue 0 without a word" if how == "device" else "queue 0 was closed"}


def test_bound_anew(lab: LinuxLab, queue: Queue) -> None:
    old = lab.receive(PING)
    queue.transport.close()
    again = Queue(lab)
    new = lab.receive(PING)
    assert (old.fate, new.fate) == (Fate.DROPPED, Fate.QUEUED)
    assert again.ids() == [1]
    assert again.verdict(1, ACCEPT) == 0
    assert new.delivered


def test_queued_on_the_way_out(lab: LinuxLab) -> None:
    lab.iptables("-A OUTPUT -j NFQUEUE --queue-num 0")
    queue = Queue(lab)
    over, out = lab.send(IP(src="127.0.0.1", dst="127.0.0.1") / ICMP(id=7)), lab.send(IP(src=HERE, dst=PEER) / UDP())
    assert [(journey.fate, journey.errno, journey.hooks) for journey in (over, out)] == [(Fate.QUEUED, 0, ["OUTPUT"])] * 2
    assert queue.verdict(2, ACCEPT) == 0
    assert out.fate is Fate.SENT
    assert queue.verdict(1, ACCEPT) == 0
    assert over.fate is Fate.DELIVERED
    pong = only(over.answers)
    assert pong.queued
    assert queue.verdict(3, ACCEPT) == 0
    assert pong.delivered
    ping = lab.receive(PING)
    assert only(ping.answers).queued
    assert queue.verdict(4, DROP) == 0
    assert ping.delivered
    assert only(ping.answers).dropped


def test_a_raw_socket_of_the_lab(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    sock = lab.socket()
    body = struct.pack("!BBH", 0, 0, 0) + attribute(1, struct.pack("!BxH", 1, 0)) + attribute(2, struct.pack("!IB", 100, 2))
    sock.send(struct.pack("=IHHII", 16 + len(body), 0x0302, 5, 1, 0) + body)
    assert sock.recv(100)[16:20] == bytes(4)
    pings = [lab.receive(PING) for _ in range(5)]
    sends: list[Callable[[bytes], object]] = [
        sock.send, sock.sendall, lambda data: sock.sendto(data, (0, 0)), lambda data: sock.sendmsg([data[:7], data[7:]])
    ]  # fmt: skip
    for packet_id, send in enumerate(sends, 1):
        body = struct.pack("!BBH", 0, 0, 0) + attribute(2, struct.pack("!II", DROP, packet_id))
        send(struct.pack("=IHHII", 16 + len(body), 0x0301, 1, 1, 0) + body)
    assert [ping.reason for ping in pings[:4]] == ["verdict DROP from queue 0"] * 4
    assert pings[4].queued
    sock.close()
    assert pings[4].reason == "queue 0 was closed"


def test_verdicts_of_a_program_that_the_lab_does_not_see(lab: LinuxLab) -> None:
    lab.iptables("-t mangle -A INPUT -j NFQUEUE --queue-num 0")
    lab.iptables("-A INPUT -p udp -j DROP")
    queue = Queue(lab)
    queue.transport.close()
    queue.transport = lab._kernel.open()
    queue.bind()
    journeys = [lab.receive(packet) for packet in (PING, SYN, UDP9)]
    assert [journey.queued for journey in journeys] == [True, True, True]
    assert queue.verdict(2, ACCEPT) == 0
    assert [journey.fate for journey in journeys] == [Fate.QUEUED, Fate.DELIVERED, Fate.QUEUED]
    assert IP(only(journeys[1].answers).data).haslayer(TCP)
    assert queue.verdict(1, DROP) == 0
    assert [journey.fate for journey in journeys] == [Fate.DROPPED, Fate.DELIVERED, Fate.QUEUED]
    assert journeys[0].reason == "left queue 0 without a word"
    assert queue.verdict(3, ACCEPT) == 0
    assert journeys[2].reason == "-A INPUT -p udp -j DROP"
    queue.transport.close()


def test_verdicts_from_another_thread(lab: LinuxLab, queue: Queue) -> None:
    def serve() -> None:
        decided = 0
        while decided < 20:
            assert queue.transport.wait(None) is Wait.READABLE
            for packet_id in queue.ids():
                body = struct.pack("!BBH", 0, 0, 0) + attribute(2, struct.pack("!II", packet_id & 1, packet_id))
                queue.transport.send(struct.pack("=IHHII", 16 + len(body), 0x0301, 1, 1, 0) + body)
                decided += 1

    thread = threading.Thread(target=serve)
    thread.start()
    pings = [lab.receive(PING) for _ in range(20)]
    thread.join()
    assert [ping.delivered for ping in pings] == [True, False] * 10
    assert [ping.dropped for ping in pings] == [False, True] * 10


# -- idleness


def test_idle_is_an_empty_socket(lab: LinuxLab, queue: Queue) -> None:
    transport = queue.transport
    assert transport.wait(transport.now()) is Wait.DEADLINE
    with lab.until_idle():
        assert transport.wait(None) is Wait.IDLE
        assert transport.wait(transport.now() + 1000) is Wait.IDLE
        assert transport.wait(transport.now()) is Wait.DEADLINE
        ping = lab.receive(PING)
        assert transport.wait(None) is Wait.READABLE
        assert queue.ids() == [1]
        assert transport.wait(None) is Wait.IDLE  # what waits for a verdict of ours moves by our doing alone
        transport.wake()
        assert transport.wait(None) is Wait.WOKEN
        assert queue.verdict(1, ACCEPT) == 0
        assert ping.delivered
    assert transport.wait(transport.now()) is Wait.DEADLINE


# -- without root


def test_a_process_with_threads_cannot_enter_a_user_namespace() -> None:
    program = """
import errno, threading
from nfnl.testing.lab import enter_user_namespace
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
try:
    enter_user_namespace()
except OSError as error:
    assert error.errno == errno.EINVAL and "more than one thread" in str(error), error
else:
    raise SystemExit("it entered")
finally:
    done.set()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_in_a_user_namespace() -> None:
    """All of the above, as nobody."""
    probes.require("initial-user-namespace")
    probes.require("lab-available")
    probes.require("user-namespaces-for-nobody")
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # A private view of the machine, with what nobody may not read elsewhere, and a tun driver for everybody as on most machines.
    view = """
        mount -t tmpfs none /mnt && cd /mnt && mkdir python site source && mknod -m 666 tun c 10 200
        mount --bind tun /dev/net/tun
        mount --bind "$0" python && mount --bind "$1" site && mount --bind "$2" source && shift 2
        cd / && exec "$@"
    """
    root = Path(__file__).parents[3]
    shared = [sys.base_prefix, sysconfig.get_path("purelib"), str(root)]
    program = (
        "import sys; from nfnl.testing.lab import LinuxLab, enter_user_namespace; assert LinuxLab.available.__wrapped__();"
        "enter_user_namespace(); assert LinuxLab.available.__wrapped__() is None, LinuxLab.available.__wrapped__();"
        "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:nfnl', *sys.argv[1:]]))"
    )
    there = ["LD_LIBRARY_PATH=/mnt/python/lib", "PYTHONPATH=/mnt/source:/mnt/site", "PYTHONDONTWRITEBYTECODE=1"]
    command = [*as_nobody, "env", *there, f"/mnt/python/bin/python3.{sys.version_info.minor}", "-c", program]
    command += [f"/mnt/source/{Path(__file__).relative_to(root)}", "-k", "not user_namespace"]
    done = subprocess.run(["unshare", "-m", "sh", "-ec", view, *shared, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# -- conntrack


def test_flows_are_those_of_the_namespace(lab: LinuxLab) -> None:
    assert lab.flows() == []
    transport = lab.open()
    ports = range(1, 201)  # more than one datagram takes
    for port in ports:
        there, back = (udp_tuple(PEER, HERE, port, 53), udp_tuple(HERE, PEER, 53, port))
        flags = NlmsgFlag.REQUEST | NlmsgFlag.CREATE
        transport.send(bytes(NewFlow(nlmsg_flags=flags, nfgen_family=2, original=there, reply=back, timeout=600)))
    assert transport.receive() == [], "nothing was refused"
    assert sorted(flow.original.src_port or 0 for flow in lab.flows()) == list(ports)
    with FakeKernel() as fake:
        sender = fake.open()
        there, back = (udp_tuple(PEER, HERE, 1, 53), udp_tuple(HERE, PEER, 53, 1))
        flags = NlmsgFlag.REQUEST | NlmsgFlag.CREATE
        sender.send(bytes(NewFlow(nlmsg_flags=flags, nfgen_family=2, original=there, reply=back, timeout=600)))
        [like] = [flow for flow in lab.flows() if flow.original == there]
        [flow] = fake.flows()
        assert flow.present() == like.present()
        assert (flow.original, flow.reply, flow.status) == (like.original, like.reply, like.status)


def udp_tuple(source: str, destination: str, sport: int, dport: int) -> Tuple:
    return Tuple(
        ip=TupleIp(v4_src=IPv4Address(source), v4_dst=IPv4Address(destination)),
        proto=TupleProto(num=17, src_port=sport, dst_port=dport),
    )


def test_a_balanced_rule_tells_the_queue_it_chose(lab: LinuxLab) -> None:
    lab.iptables("-A INPUT -p icmp -j NFQUEUE --queue-balance 0:3")
    queues = [nfnl.open_queue(number, kernel=lab, undecided="accept") for number in range(4)]
    journey = lab.receive(PING)
    assert journey.queue in range(4)
    assert journey.steps[-1].result == f"QUEUE {journey.queue}"
    for queue in queues:
        with lab.until_idle():
            for packet in queue:
                packet.accept()
        queue.close()
    assert journey.delivered


def test_counters_do_not_say_which_of_several_vanished(lab: LinuxLab) -> None:
    lab.iptables("-t mangle -A PREROUTING -p icmp -j NFQUEUE --queue-num 1")
    with nfnl.open_queue(1, kernel=lab) as queue, lab.until_idle():
        journeys = [lab.receive(IP(src=PEER, dst="10.0.0.77", id=number) / ICMP()) for number in (1, 2)]
        for packet in queue:
            packet.accept()  # both verdicts leave as one message
    why = "lost behind PREROUTING: IpInAddrErrors (for one of 2 that vanished together)"
    assert [journey.reason for journey in journeys] == [why, why]
