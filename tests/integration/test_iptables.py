"""Rules of iptables, in both of its back ends, and of nftables, with a handler at the queue and ordinary sockets at both ends.

Every test says its rules once for each; what programs receive in the end must be the same. (How the kernel behaves to the byte is
the contract's affair, and that packets get where they should in all other ways, the lab's.)
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import nfnl
from nfnl.testing.lab import LinuxLab
from tests import probes

#: What makes rules, and the probe that tells whether it is to be had.
FIREWALLS = {"legacy": "iptables-legacy", "nft": "iptables-nft", "nftables": "nft-queue"}
#: Chains of nftables where iptables has its own.
CHAINS = """\
add table inet t
add chain inet t mangle_output { type route hook output priority mangle; }
add chain inet t output { type filter hook output priority filter; }
add chain inet t input { type filter hook input priority filter; }
"""
PORT, MARKED = 9000, 7


class Net:
    """A namespace, the firewall that this test is about, and programs that talk to each other over the loopback."""

    def __init__(self, lab: LinuxLab, firewall: str, cleanup: ExitStack) -> None:
        self.lab = lab
        self.firewall = firewall
        self._cleanup = cleanup
        self._receivers = {family: self._socket(family) for family in (socket.AF_INET, socket.AF_INET6)}
        for family, receiver in self._receivers.items():
            receiver.bind((_loopback(family), PORT))
            receiver.setblocking(False)
        if firewall == "nftables":
            self._run(*(f"nft {line}" for line in CHAINS.splitlines()))

    def rules(self, iptables: str, nftables: str) -> None:
        """Add these rules, one a line: as ``iptables`` (or ``ip6tables``) takes them, and what follows ``nft add rule inet t``."""
        if self.firewall == "nftables":
            self._run(*(f"nft add rule inet t {line.strip()}" for line in nftables.strip().splitlines()))
        else:
            for line in iptables.strip().splitlines():
                program, arguments = line.strip().split(maxsplit=1)
                self._run(f"{program}-{self.firewall} {arguments}")

    def remove_rules(self) -> None:
        """As if there had never been any."""
        self._run(*(["nft flush table inet t"] if self.firewall == "nftables" else [f"iptables-{self.firewall} -F"]))

    def talk(self, *words: str, family: socket.AddressFamily = socket.AF_INET, source: str = "") -> None:
        """A program of its own sends these, each in a datagram."""
        with self._socket(family) as sender:
            sender.bind((source, 0))
            for word in words:
                sender.sendto(word.encode(), (_loopback(family), PORT))

    def listen(self, number: int) -> nfnl.Queue:
        """The queue, until the test is over."""
        return self._cleanup.enter_context(nfnl.open_queue(number, kernel=self.lab))

    def handle(self, queue: nfnl.Queue, decide: Callable[[nfnl.QueuedPacket], None]) -> int:
        """Let this decide about all that waits, and comes of it; how many there were."""
        count = 0
        with self.lab.until_idle():
            for packet in queue:
                decide(packet)
                count += 1
        return count

    def heard(self, family: socket.AddressFamily = socket.AF_INET) -> list[str]:
        """What has arrived since this was last asked."""
        words = []
        with self.lab.until_idle():
            pass
        try:
            while True:
                words.append(self._receivers[family].recv(4096).decode())
        except BlockingIOError:
            return words

    def _socket(self, family: socket.AddressFamily) -> socket.socket:
        return self._cleanup.enter_context(self.lab._kernel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)))

    def _run(self, *lines: str) -> None:
        for line in lines:
            done = self.lab.run(shlex.split(line) if not line.startswith("nft ") else ["nft", line.removeprefix("nft ")])
            assert done.returncode == 0, f"{line}: {done.stderr}"


def _loopback(family: socket.AddressFamily) -> str:
    return "127.0.0.1" if family == socket.AF_INET else "::1"


def word(packet: nfnl.QueuedPacket) -> str:
    """What a datagram says: behind the headers of IPv4 and UDP, or IPv6 and UDP."""
    return packet.payload[28 if packet.payload[0] >> 4 == 4 else 48 :].decode()


def accept(packet: nfnl.QueuedPacket) -> None:
    packet.accept()


@pytest.fixture(params=FIREWALLS)
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    probes.require("lab-available")
    probes.require(FIREWALLS[request.param])
    with ExitStack() as cleanup:
        yield Net(cleanup.enter_context(LinuxLab()), request.param, cleanup)


def queue_all_to(net: Net, number: int) -> nfnl.Queue:
    """Everything that goes to the port waits in this queue on its way out."""
    net.rules(
        f"iptables -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-num {number}", f"output udp dport {PORT} queue num {number}"
    )
    return net.listen(number)


def test_the_handler_decides_what_arrives(net: Net) -> None:
    queue = queue_all_to(net, 1)
    net.talk("one", "two", "three", "four")
    assert net.heard() == [], "they wait"
    assert net.handle(queue, lambda packet: packet.drop() if "o" in word(packet) else packet.accept()) == 4
    assert net.heard() == ["three"]


def test_a_program_receives_what_the_handler_made_of_it(net: Net) -> None:
    queue = queue_all_to(net, 1)
    net.talk("hello darkness")

    def change(packet: nfnl.QueuedPacket) -> None:
        packet.accept(packet.payload.replace(b"darkness", b"light"), repair=True)

    net.handle(queue, change)
    assert net.heard() == ["hello light"]


def test_ipv6(net: Net) -> None:
    net.rules(
        f"ip6tables -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-num 1",
        f"output meta nfproto ipv6 udp dport {PORT} queue num 1",
    )
    queue = net.listen(1)
    net.talk("four")
    net.talk("six", "sixty", family=socket.AF_INET6)
    assert net.handle(queue, lambda packet: packet.drop() if word(packet) == "sixty" else packet.accept()) == 2
    assert net.heard() == ["four"]
    assert net.heard(socket.AF_INET6) == ["six"]


def test_on_the_way_in(net: Net) -> None:
    net.rules(
        f"iptables -A INPUT -i lo -p udp --dport {PORT} -j NFQUEUE --queue-num 1", f"input iif lo udp dport {PORT} queue num 1"
    )
    queue = net.listen(1)
    net.talk("one", "two")

    def accept_what_comes_in(packet: nfnl.QueuedPacket) -> None:
        assert packet.hook == nfnl.Hook.INPUT
        packet.accept()

    assert net.handle(queue, accept_what_comes_in) == 2
    assert net.heard() == ["one", "two"]


def test_later_rules_see_the_mark_of_a_verdict(net: Net) -> None:
    net.rules(
        f"""iptables -t mangle -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-num 1
            iptables -A OUTPUT -m mark --mark {MARKED} -j DROP""",
        f"""mangle_output udp dport {PORT} queue num 1
            output mark {MARKED} drop""",
    )
    queue = net.listen(1)
    net.talk("good", "bad")
    net.handle(queue, lambda packet: packet.accept(mark=MARKED if word(packet) == "bad" else None))
    assert net.heard() == ["good"]


def test_a_repeated_packet_meets_the_rules_again(net: Net) -> None:
    net.rules(
        f"""iptables -A OUTPUT -m mark --mark {MARKED} -j ACCEPT
            iptables -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-num 1""",
        f"""output mark {MARKED} accept
            output udp dport {PORT} queue num 1""",
    )
    queue = net.listen(1)
    net.talk("again")
    assert net.handle(queue, lambda packet: packet.repeat(mark=MARKED)) == 1
    assert net.heard() == ["again"]


def test_from_one_queue_to_another(net: Net) -> None:
    first, second = queue_all_to(net, 1), net.listen(2)
    net.talk("one", "two")
    assert net.handle(first, lambda packet: packet.queue(2)) == 2
    assert net.heard() == []
    assert net.handle(second, lambda packet: packet.drop() if word(packet) == "one" else packet.accept()) == 2
    assert net.heard() == ["two"]


@pytest.mark.parametrize("bypass", [False, True])
def test_where_nobody_listens(net: Net, bypass: bool) -> None:
    net.rules(
        f"iptables -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-num 1 {'--queue-bypass' * bypass}",
        f"output udp dport {PORT} queue num 1 {'bypass' * bypass}",
    )
    net.talk("anybody?")
    assert net.heard() == ["anybody?"] * bypass


def test_each_pair_of_addresses_has_its_queue_among_several(net: Net) -> None:
    net.rules(
        f"iptables -A OUTPUT -p udp --dport {PORT} -j NFQUEUE --queue-balance 1:3",
        f"output udp dport {PORT} queue num 1-3",
    )
    queues = [net.listen(number) for number in (1, 2, 3)]
    for number in range(1, 61):
        net.talk(f"{number} first", f"{number} second", source=f"127.0.0.{number}")
    places: list[set[str]] = [set(), set(), set()]
    for queue, place in zip(queues, places, strict=True):

        def note(packet: nfnl.QueuedPacket, seen: set[str] = place) -> None:
            seen.add(word(packet).split()[0])
            packet.accept()

        net.handle(queue, note)
    assert sum(map(len, places)) == 60, "none was in two"
    assert all(places)
    assert len(net.heard()) == 120


def test_a_packet_waits_on_when_its_rule_is_gone(net: Net) -> None:
    queue = queue_all_to(net, 1)
    net.talk("early")
    net.remove_rules()
    net.talk("late")
    assert net.heard() == ["late"]
    assert net.handle(queue, accept) == 1
    assert net.heard() == ["early"]


def test_the_mark_of_a_verdict_can_be_kept_for_the_flow(net: Net) -> None:
    net.rules(
        f"""iptables -t mangle -A OUTPUT -j CONNMARK --restore-mark
            iptables -t mangle -A OUTPUT -p udp --dport {PORT} -m mark --mark 0 -j NFQUEUE --queue-num 1
            iptables -A OUTPUT -j CONNMARK --save-mark""",
        f"""mangle_output meta mark set ct mark
            mangle_output udp dport {PORT} meta mark 0 queue num 1
            output ct mark set meta mark""",
    )
    queue = net.listen(1)
    with net._socket(socket.AF_INET) as sender:
        sender.connect(("127.0.0.1", PORT))
        sender.send(b"first")
        assert net.handle(queue, lambda packet: packet.accept(mark=MARKED)) == 1
        sender.send(b"second")
        assert net.handle(queue, accept) == 0, "its flow is known"
    assert net.heard() == ["first", "second"]
