"""The data plane held to the real kernel: the same packets, rules and verdicts on both, and every difference is a failure.

What is compared: the packets that leave (to the byte), the errno of a sender, the counters of every chain and rule (and with them
the way each packet took), what a queue's owner is told, the counters of the queues. IPv4 ids and header checksums of packets the
kernel makes are left out. Needs root; see `linux_world`.
"""

from __future__ import annotations

import random
import shlex
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfnl.errors import NotModelled
from nfnl.sim.hooks import ACCEPT, DROP
from nfnl.sim.iptables import IptablesError, IptablesNotModelled
from nfnl.sim.queueing import COPY_PACKET, UID_GID, Queue, QueuedEntry
from tests.probes import probe, require
from tests.unit.sim import scenarios
from tests.unit.sim.dataplane import PING, UDP, World, ip4
from tests.unit.sim.linux_world import LinuxWorld, why_not

PROGRAMS = ("iptables", "ip6tables")
#: Limits that depend on how much time has passed have a test of their own.
NO_LIMITS = (
    "net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=100000 "
    "net.ipv4.ipfrag_time=9000 net.ipv6.ip6frag_time=9000 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0 "
    "net.ipv4.conf.default.send_redirects=0"
)


@probe
def linux_world() -> str | None:
    """A network namespace with tun devices and iptables-legacy."""
    return why_not()


@dataclass
class Both:
    """The two kernels, set up alike."""

    linux: LinuxWorld
    world: World

    def limitless(self) -> None:
        self.linux.shell(f"sysctl -qw {NO_LIMITS}")
        self.world.stack.sysctls |= {
            "net.ipv4.icmp_ratelimit": 0,
            "net.ipv6.icmp.ratelimit": 0,
            "net.ipv4.conf.all.send_redirects": 0,
            "net.ipv4.conf.eth0.send_redirects": 0,
            "net.ipv4.conf.eth1.send_redirects": 0,
        }

    def tables(self) -> tuple[list[str], list[str]]:
        """What iptables-save -c prints for both families, without the order of the tables."""
        real = "".join(self.linux.shell(f"{program}-legacy-save -c") for program in PROGRAMS)
        fake = self.world.iptables.save(counters=True) + self.world.ip6tables.save(counters=True)
        return sorted(line for line in real.splitlines() if line[:1] != "#"), sorted(fake.splitlines())

    def restore(self, choose: random.Random, *, queues: bool) -> None:
        for version, program, fake in ((4, "iptables", self.world.iptables), (6, "ip6tables", self.world.ip6tables)):
            text = scenarios.ruleset(choose, version, queues=queues)
            assert self.linux.restore(text, f"{program}-legacy-restore")[0] == 0, text
            fake.restore(text)

    def packet(self, way: str, data: bytes, mark: int = 0, priority: int = 0) -> tuple[object, object]:
        """One packet on both: errno, and what left."""
        self.world.stack.seen.clear()
        if way == scenarios.SEND:
            code, left = self.linux.send(data, mark=mark, priority=priority)
            journey = self.world.stack.send(data, mark=mark, priority=priority)
        else:
            code, left = 0, self.linux.receive(data, way)
            journey = self.world.stack.receive(data, way)
        return (code, comparable(left)), (journey.errno, comparable(self.world.stack.seen))


def comparable(packets: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Without ids and header checksums of IPv4, and without the order between packets of one moment."""
    found = []
    for dev, data in packets:
        if data[0] >> 4 == 4:
            data = data[:4] + b"\0\0" + data[6:10] + b"\0\0" + data[12:]
        found.append((dev, data.hex()))
    return sorted(found)


@pytest.fixture
def both() -> Iterator[Both]:
    require("linux-world")
    linux, world = LinuxWorld(), World()
    for program in PROGRAMS:
        linux.shell(f"{program}-legacy -L; {program}-legacy -t mangle -L")
        getattr(world, program)("-S")
        getattr(world, program)("-t mangle -S")
    yield Both(linux, world)
    linux.close()


@pytest.fixture
def routers(both: Both) -> Both:
    """A pair of `make_routers`."""
    return make_routers(both)


def make_routers(both: Both) -> Both:
    """With a second device, forwarding, a mark that leads to that device, and no limits."""
    both.linux.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    both.world.stack.add_device("eth1")
    both.limitless()
    both.linux.add_tun("eth1")
    both.linux.shell("ip addr add 10.1.0.1/24 dev eth1; ip addr add fd01::1/64 dev eth1 nodad")
    for family in ("", "-6"):
        both.linux.shell(f"ip {family} rule add fwmark 7 table 77; ip {family} route add default dev eth1 table 77")
    # a worker of the kernel makes the address usable
    both.linux.shell("until ip -6 route show table local | grep -q fd01::1; do :; done")
    both.world.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
    for address in ("10.1.0.1/24", "fd01::1/64"):
        both.world.stack.add_address("eth1", address)
    for prefix in ("0.0.0.0/0", "::/0"):
        both.world.stack.add_route(prefix, "eth1", mark=7)
    both.linux.shell("ip6tables-legacy -Z; ip6tables-legacy -t mangle -Z")  # it has told of the groups it has joined
    return both


def compare(both: Both, events: list[scenarios.Event]) -> None:
    for place, (way, data) in enumerate(events):
        real, fake = both.packet(way, data)
        assert fake == real, f"packet {place}: {way} {data.hex()}"
        if place % 16 == 15 or place == len(events) - 1:
            real_tables, fake_tables = both.tables()
            assert fake_tables == real_tables, f"up to packet {place}: {way} {data.hex()}"


def test_addresses(both: Both) -> None:
    both.world.stack.add_device("eth1")
    both.limitless()
    compare(both, scenarios.addresses())


def test_headers(routers: Both) -> None:
    compare(routers, scenarios.headers())


def reject(both: Both, chain: str, reset: bool) -> None:
    for family in ("", "6"):
        line = f"-A {chain} -j REJECT --reject-with adm"
        if reset:
            line = f"-A {chain} -p tcp -m tcp ! --tcp-flags RST RST -j REJECT --reject-with tcp-reset"
        both.linux.shell(f"ip{family}tables-legacy {line}")
        getattr(both.world, f"ip{family}tables")(line)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chain", ["INPUT", "OUTPUT"])
def test_addresses_that_are_rejected(both: Both, chain: str, reset: bool) -> None:
    both.world.stack.add_device("eth1")
    both.limitless()
    reject(both, chain, reset)
    compare(both, scenarios.addresses())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chain", ["INPUT", "OUTPUT", "FORWARD"])
def test_headers_that_are_rejected(routers: Both, chain: str, reset: bool) -> None:
    reject(routers, chain, reset)
    compare(routers, scenarios.headers())


def test_fragments(both: Both) -> None:
    both.world.stack.add_device("eth1")
    both.limitless()
    compare(both, scenarios.fragments(random.Random(1)))


@pytest.mark.parametrize("seed", range(6))
def test_random_rules(routers: Both, seed: int) -> None:
    choose = random.Random(seed)
    routers.restore(choose, queues=False)
    for step in range(40):
        data, way = scenarios.packet(choose), choose.choice((scenarios.SEND, scenarios.ETH0, scenarios.ETH1))
        mark = choose.choice((0, 0, 1, 7)) if way == scenarios.SEND else 0
        real, fake = routers.packet(way, data, mark)
        assert fake == real, f"step {step}: {way} {data.hex()} mark {mark}"
    real_tables, fake_tables = routers.tables()
    assert fake_tables == real_tables


def test_the_limit_of_errors(both: Both) -> None:
    packet = ip4(UDP(dport=9))
    for _ in range(8):  # within the second in which one more would be allowed
        real, fake = both.packet(scenarios.ETH0, packet)
        assert fake == real


# ------------------------------------------------------------------------------------------------------------------- queues


def outside(kind: str, number: int) -> int:
    """The number that a user or group of this user namespace has in the initial one: queues tell that."""
    inside, there, _ = map(int, Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines()[0].split())
    return number - inside + there


def told(queue: Queue, entry: QueuedEntry) -> dict[int, str]:
    """The attributes of a queue message that the data plane decides."""
    found = {1: struct.pack("!IHB", entry.id, entry.hw_protocol, entry.hook)}
    for kind, number in ((3, entry.mark), (5, entry.indev), (6, entry.outdev), (14, entry.skb_info), (21, entry.priority)):
        if number:
            found[kind] = struct.pack("!I", number)
    if entry.hwaddr is not None:
        found[9] = struct.pack("!HH8s", 6, 0, entry.hwaddr)
    if queue.flags & UID_GID and entry.uid is not None and entry.gid is not None:
        found |= {16: struct.pack("!I", outside("uid", entry.uid)), 17: struct.pack("!I", outside("gid", entry.gid))}
    if queue.copy_mode == COPY_PACKET and entry.payload:
        found[10] = entry.payload
    return plain(found)


def plain(attributes: dict[int, bytes]) -> dict[int, str]:
    payload = attributes.get(10)
    if payload:
        attributes = attributes | {10: bytes.fromhex(comparable([("", payload)])[0][1])}
    # without the time stamp (4), which comes when any program on the machine has asked for such
    return {kind: value.hex() for kind, value in sorted(attributes.items()) if kind != 4}


def queue_state(both: Both) -> tuple[list[list[str]], list[list[str]]]:
    lines = [line.split() for line in both.linux.shell("cat /proc/net/netfilter/nfnetlink_queue").splitlines()]
    real = [[line[i] for i in (0, 2, 3, 5, 6, 7)] for line in lines]
    fake = [
        [str(value) for value in (q.number, len(q), q.copy_mode, q.dropped, q.user_dropped, q.last_id)]
        for q in both.world.queues.queues()
    ]
    return real, fake


VERDICTS = (1, 1, 1, 1, 0, 4, 4, 5, 0x10001, 0x101, 0x10004, 0x50000)


def new_payload(choose: random.Random, data: bytes) -> bytes:
    return choose.choice(
        (
            data,
            data + b"zz",
            data[:-1],
            data[:20],
            data[:39],
            data[:19],
            bytes(5),
            data[:1] + b"\x10" + data[2:],
            data[:12] + bytes([10, 0, 0, 9]) + data[16:],
            data[:16] + bytes([10, 1, 0, 5]) + data[20:],
            b"\x60" + data[1:],
        )
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_verdicts(routers: Both, seed: int) -> None:
    choose = random.Random(seed)
    world, linux = routers.world, routers.linux
    routers.restore(choose, queues=True)
    heard: list[tuple[int, dict[int, str]]] = []

    def deliver(queue: Queue, entry: QueuedEntry) -> bool:
        heard.append((queue.number, told(queue, entry)))
        return True

    def bind(number: int) -> None:
        mode, flags, most = choose.choice((0, 1, 2, 2, 2)), choose.choice((0, 0, 1, 8, 4)), choose.choice((1024, 1, 2, 3))
        linux.bind(number, mode, flags, most)
        world.listen(number, mode=mode, flags=flags, max_length=most).deliver = deliver

    for number in range(3):
        bind(number)
    for step in range(50):
        waiting = [(queue, packet_id) for queue in world.queues.queues() for packet_id in queue.entries]
        what = choose.random()
        if what < 0.5 or not waiting:
            data, way = scenarios.packet(choose), choose.choice((scenarios.SEND, scenarios.ETH0, scenarios.ETH1))
            note = f"{way} {data.hex()}"
            real, fake = routers.packet(way, data, choose.choice((0, 1, 7)) if way == scenarios.SEND else 0)
        elif what < 0.95:
            queue, packet_id = choose.choice(waiting)
            verdict = choose.choice((*VERDICTS, *(3 | n << 16 | bypass for n in range(4) for bypass in (0, 0x8000))))
            mark = choose.choice((None, None, 1, 7))
            entry = queue.take(packet_id)
            assert entry is not None
            payload = new_payload(choose, entry.payload) if choose.random() < 0.25 else None
            note = f"verdict {verdict:#x} on {packet_id} of {queue.number}, mark {mark}, payload {payload and payload.hex()}"
            world.stack.seen.clear()
            possible = payload is None or world.queues.replace_payload(entry, payload)
            if mark is not None:
                entry.mark = mark
            world.queues.reinject(entry, verdict if possible else DROP)
            code, left = linux.verdict(queue.number, packet_id, verdict, mark, payload)
            real, fake = (code, comparable(left)), (0, comparable(world.stack.seen))
        else:
            number = choose.randrange(4)
            note = f"bind or unbind {number}"
            if world.queues.get(number):
                world.queues.destroy(number)
                linux.unbind(number)
            else:
                bind(number)
            real = fake = None
        assert fake == real, f"step {step}: {note}"
        messages = [(number, plain(attributes)) for number, attributes in linux.queued()]
        assert heard == messages, f"step {step}: {note}"
        heard.clear()
        real_state, fake_state = queue_state(routers)
        assert fake_state == real_state, f"step {step}: {note}"
    real_tables, fake_tables = routers.tables()
    assert fake_tables == real_tables


def test_a_table_made_while_a_packet_waits() -> None:
    """A packet queued by the only table goes on, after another was made before it, by meeting the first again."""
    require("linux-world")
    linux, world = LinuxWorld(), World()
    linux.bind(1)
    world.listen()
    line = "-A OUTPUT -p icmp -j NFQUEUE --queue-num 1"
    linux.shell(f"iptables-legacy {line}")
    world.iptables(line)
    packet = ip4(PING, src="10.0.0.1", dst="10.0.0.9")
    linux.send(packet)
    world.stack.send(packet)
    linux.shell("iptables-legacy -t mangle -A OUTPUT -p udp -j ACCEPT")
    world.iptables("-t mangle -A OUTPUT -p udp -j ACCEPT")
    assert linux.verdict(1, 1, ACCEPT) == (0, [])
    assert world.answer(ACCEPT).queued
    code, left = linux.verdict(1, 2, ACCEPT)
    assert (code, comparable(left)) == (0, comparable([("eth0", world.answer(ACCEPT).data)]))
    linux.close()


# ------------------------------------------------------------------------------------------------------------------- iptables

COMMANDS = Path(__file__).with_name("iptables-lines.txt")
FILES = Path(__file__).with_name("iptables-files.txt")


def warnings_aside(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("Warning:", "Ignoring")))


@pytest.mark.parametrize("program", PROGRAMS)
def test_command_lines(both: Both, program: str) -> None:
    """Exit code, output, complaints, and the tables afterwards."""
    fake = getattr(both.world, program)
    known = 0
    for line in COMMANDS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        where, _, line = line.partition(": ")
        if where not in (program, "both"):
            continue
        known += 1
        code, out, err = both.linux.run(f"{program}-legacy", *shlex.split(line))
        try:
            mine = (0, fake(line), "")
        except IptablesError as error:
            mine = (error.exit_code, "", error.text + "\n")
        assert mine == (code, out, warnings_aside(err)), line
        state = both.linux.shell(f"{program}-legacy -S; {program}-legacy -t mangle -S")
        assert fake("-S") + fake("-t mangle -S") == state, line
    assert known > 80


@pytest.mark.parametrize("counters", [False, True])
def test_files(both: Both, counters: bool) -> None:
    for text in FILES.read_text(encoding="utf-8").split("%%\n"):
        code, _, err = both.linux.restore(text, "iptables-legacy-restore", *(["-c"] if counters else []))
        try:
            both.world.iptables.restore(text, counters=counters)
            mine = (0, "")
        except IptablesError as error:
            mine = (error.exit_code, error.text + "\n")
        assert mine == (code, err), text
        real, fake = both.tables()
        assert fake == real, text


def test_what_the_fake_refuses_linux_may_take_but_not_the_other_way_round(both: Both) -> None:
    """Lines out of a corpus of everything: what the fake takes it prints as Linux does, and the rest it names."""
    refused = []
    for line in (
        "-A FORWARD -m pkttype --pkt-type broadcast",
        "-A FORWARD -m u32 --u32 6&0xFF=17",
        "-A FORWARD -m recent --name x --set",
        "-A FORWARD -p sctp --dport 100",
        "-A FORWARD -p icmp --icmp-type 3/4:6",
        "-t raw -A PREROUTING -j TRACE",
        "-t mangle -A FORWARD -j CLASSIFY --set-class 1:10",
        "-t mangle -A FORWARD -p tcp --syn -j TCPMSS --set-mss 1400",
        "-v -A FORWARD -j ACCEPT",
        "-L -n",
    ):
        code, _, err = both.linux.run("iptables-legacy", *shlex.split(line))
        with pytest.raises(IptablesNotModelled) as refusal:
            both.world.iptables(line)
        assert code == 0, (line, err)
        refused.append(str(refusal.value))
        assert isinstance(refusal.value, NotModelled)
    assert both.world.iptables("-S") == "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"
    assert refused[1] == "not modelled: match u32"
