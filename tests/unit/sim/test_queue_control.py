"""The queue subsystem: configuration, verdicts and messages; and whole recorded conversations, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.af_netlink import SO_RCVBUF, SOL_SOCKET
from nfnl.sim.errnos import Errno
from nfnl.sim.hooks import ACCEPT, DROP, FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING, QUEUE, QUEUE_BYPASS, REPEAT, STOP
from nfnl.sim.journey import Fate, Journey
from nfnl.sim.profile import PROFILES
from nfnl.sim.queue import packet_message
from nfnl.sim.queueing import COPY_META, COPY_NONE, COPY_PACKET, FAIL_OPEN, MAX_COPY_RANGE, UID_GID, Queue, QueuedEntry
from nfnl.sim.skb import IPV4, IPV6, Checksum, Device, Owner, Skb
from nfnl.sim.socket import FakeSocket
from nfnl.subsys.conntrack import AttachedFlow
from nfnl.subsys.queue import (
    Command,
    Config,
    ConfigCommand,
    CopyMode,
    HardwareAddress,
    Packet,
    PacketHeader,
    Params,
    QueueFlag,
    SkbInfo,
    Timestamp,
    VerdictBatch,
    VerdictHeader,
)
from nfnl.wire.codec import decode
from nfnl.wire.constants import Verdict
from nfnl.wire.control import Ack
from tests.recordings import FIXTURES, exchanges
from tests.unit.sim.control_rig import NOBODY, REQUEST_ACK, Client, Rig, skb, skb_of, verdict


def config(number: int = 0, **fields: object) -> bytes:
    return bytes(Config(res_id=number, nlmsg_flags=REQUEST_ACK, **fields))  # type: ignore[arg-type]


def command(number: int, which: int) -> bytes:
    return config(number, command=Command(which))


# ---------------------------------------------------------------------------------------------------------------- configuration


def test_a_new_queue_has_the_defaults() -> None:
    rig = Rig()
    client = rig.client()
    assert client.errors(command(7, ConfigCommand.BIND)) == [0]
    queue = rig.queues.get(7)
    assert queue is not None
    assert (queue.owner, queue.copy_mode, queue.copy_range, queue.max_length, queue.flags) == (client.port, 0, 65531, 1024, 0)


def test_binding_twice_is_busy_and_taking_another_s_is_not_permitted() -> None:
    rig = Rig()
    first, second = rig.client(), rig.client()
    assert first.errors(command(0, ConfigCommand.BIND)) == [0]
    assert first.errors(command(0, ConfigCommand.BIND)) == [Errno.EBUSY]
    for request in (command(0, ConfigCommand.BIND), command(0, ConfigCommand.UNBIND), command(0, 0), config(0)):
        assert second.errors(request) == [Errno.EPERM]
    assert second.errors(command(1, ConfigCommand.BIND)) == [0]


def test_unbinding_leaves_nothing_behind() -> None:
    rig = Rig()
    client = rig.client()
    client.bind(5, queue_maxlen=3)
    assert client.errors(command(5, ConfigCommand.UNBIND)) == [0]
    assert rig.queues.queues() == []
    assert client.errors(command(5, ConfigCommand.UNBIND)) == [Errno.ENODEV]
    client.bind(5)
    queue = rig.queues.get(5)
    assert queue is not None
    assert queue.max_length == 1024


def test_unbinding_ignores_the_rest_of_the_message() -> None:
    client = Rig().client()
    client.bind(5)
    both = config(5, command=Command(ConfigCommand.UNBIND), queue_maxlen=1)
    assert client.errors(both) == [0]


@pytest.mark.parametrize("which", [ConfigCommand.PF_BIND, ConfigCommand.PF_UNBIND])
def test_binding_a_family_does_nothing_but_succeed(which: ConfigCommand) -> None:
    rig = Rig()
    owner, other = rig.client(), rig.client()
    owner.bind(0)
    # flags without a mask would be refused, were anything looked at
    assert other.errors(config(0, command=Command(which), flags=QueueFlag.GSO, queue_maxlen=1)) == [0]
    queue = rig.queues.get(0)
    assert queue is not None
    assert queue.max_length == 1024


@pytest.mark.parametrize("number", [0, 5, 255])
def test_a_command_that_does_not_exist(number: int) -> None:
    client = Rig().client()
    assert client.errors(command(0, number)) == [Errno.EOPNOTSUPP]
    old = Rig(PROFILES["6.18.15"]).client()
    assert old.errors(command(0, number)) == [Errno.ENOTSUPP]


def test_nothing_can_be_configured_that_is_not_bound() -> None:
    client = Rig().client()
    assert client.errors(config(9)) == [Errno.ENODEV]
    assert client.errors(config(9, queue_maxlen=1)) == [Errno.ENODEV]
    assert client.errors(config(9, params=Params(0, CopyMode.META))) == [Errno.ENODEV]


@pytest.mark.parametrize(
    ("mode", "asked", "granted"),
    [
        (CopyMode.PACKET, 0, 65531),
        (CopyMode.PACKET, 1, 1),
        (CopyMode.PACKET, 65531, 65531),
        (CopyMode.PACKET, 65532, 65531),
        (CopyMode.PACKET, 0xFFFFFFFF, 65531),
        (CopyMode.META, 500, 0),
        (CopyMode.NONE, 500, 0),
    ],
)
def test_copy_ranges(mode: CopyMode, asked: int, granted: int) -> None:
    rig = Rig()
    rig.client().bind(0, mode=mode, copy_range=asked)
    queue = rig.queues.get(0)
    assert queue is not None
    assert (queue.copy_mode, queue.copy_range) == (mode, granted)


def test_an_unknown_copy_mode_is_acknowledged_and_ignored() -> None:
    rig = Rig()
    client = rig.client()
    client.bind(0, copy_range=200)
    assert client.errors(config(0, params=Params(7, 3))) == [0]
    queue = rig.queues.get(0)
    assert queue is not None
    assert (queue.copy_mode, queue.copy_range) == (COPY_PACKET, 200)


def test_flags_are_set_under_their_mask() -> None:
    rig = Rig()
    client = rig.client()
    client.bind(0)
    queue = rig.queues.get(0)
    assert queue is not None
    assert client.errors(config(0, mask=0xFFFFFFFF, flags=QueueFlag.GSO | QueueFlag.UID_GID)) == [0]
    assert client.errors(config(0, mask=QueueFlag.GSO | QueueFlag.FAIL_OPEN, flags=QueueFlag.FAIL_OPEN)) == [0]
    assert queue.flags == QueueFlag.UID_GID | QueueFlag.FAIL_OPEN
    assert client.errors(config(0, mask=QueueFlag.UID_GID)) == [0], "a mask alone changes nothing"
    assert queue.flags == QueueFlag.UID_GID | QueueFlag.FAIL_OPEN


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"flags": 1}, Errno.EINVAL),
        ({"flags": 32, "mask": 0}, Errno.EOPNOTSUPP),
        ({"flags": QueueFlag.CONNTRACK, "mask": QueueFlag.CONNTRACK}, Errno.EOPNOTSUPP),
        ({"flags": QueueFlag.CONNTRACK, "mask": QueueFlag.GSO}, Errno.ENODEV),
    ],
)
def test_flags_are_judged_before_anything_else(fields: dict[str, int], error: Errno) -> None:
    rig = Rig()
    client = rig.client()
    assert client.errors(config(3, **fields)) == [error]
    if error != Errno.ENODEV:
        assert client.errors(config(3, command=Command(ConfigCommand.BIND), **fields)) == [error]
        assert rig.queues.queues() == [], "the refusal is for the whole message"


def test_the_last_close_of_its_socket_ends_a_queue() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    client.bind(0)
    client.bind(9, flags=QueueFlag.FAIL_OPEN, mask=QueueFlag.FAIL_OPEN)
    other.bind(1)
    journey = rig.inject(skb(), INPUT, 9)
    twin = client.socket.dup()
    client.socket.close()
    assert len(rig.queues.queues()) == 3
    twin.close()
    assert [queue.number for queue in rig.queues.queues()] == [1]
    assert journey.fate is Fate.DROPPED, "FAIL_OPEN makes no difference"


def test_messages_that_wait_survive_their_queue() -> None:
    rig = Rig()
    client = rig.client()
    client.bind(0)
    rig.inject(skb(), INPUT)
    client.socket.sendto(command(0, ConfigCommand.UNBIND), (0, 0))
    message, answer = (decode(datagram)[0] for datagram in client.hear())
    assert isinstance(message, Packet)
    assert isinstance(answer, Ack)
    assert client.errors(verdict(0, message.header.packet_id, ACCEPT)) == [Errno.ENODEV]
    client.bind(0)
    assert client.errors(verdict(0, message.header.packet_id, ACCEPT)) == [Errno.ENOENT]


def test_proc_lists_the_queues() -> None:
    rig = Rig()
    client = rig.client(12345)
    for number in (16, 32, 3, 19, 256, 257, 511, 1000):
        client.bind(number, copy_range=100)
    rig.inject(skb(), INPUT, 3)
    lines = rig.nfnetlink.proc["netfilter/nfnetlink_queue"].text().splitlines()
    assert [int(line.split()[0]) for line in lines] == [257, 32, 16, 256, 19, 3, 1000, 511]
    assert lines[5] == "    3  12345     1 2   100     0     0        1  1"


# --------------------------------------------------------------------------------------------------------------------- verdicts


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def client(rig: Rig) -> Client:
    client = rig.client()
    client.bind(0)
    return client


@pytest.mark.parametrize(
    ("word", "fate"),
    [
        (DROP, Fate.DROPPED),
        (DROP | 0xFFFF0000, Fate.DROPPED),
        (ACCEPT, Fate.DELIVERED),
        (STOP, Fate.DELIVERED),
        (ACCEPT | 0x10000, Fate.DELIVERED),
        (REPEAT, Fate.QUEUED),
        (REPEAT | 0x100, Fate.DROPPED),
        (QUEUE, Fate.QUEUED),
        (QUEUE | 9 << 16, Fate.DROPPED),
        (QUEUE | 9 << 16 | QUEUE_BYPASS, Fate.DELIVERED),
    ],
)
def test_what_becomes_of_a_packet(rig: Rig, client: Client, word: int, fate: Fate) -> None:
    journey = rig.inject(skb(), INPUT)
    client.packets()
    answers = [decode(datagram)[0] for datagram in client.ask(verdict(0, 1, word))]
    assert journey.fate is fate
    *again, answer = answers
    assert isinstance(answer, Ack)
    assert answer.error == 0
    assert [message.header.packet_id for message in again if isinstance(message, Packet)] == ([2] if fate is Fate.QUEUED else [])


def test_who_may_decide_what(rig: Rig, client: Client) -> None:
    other = rig.client()
    journey = rig.inject(skb(), INPUT)
    client.packets()
    header_missing = verdict(0, 1, ACCEPT)[:20].replace(b"\x20", b"\x14", 1)
    assert other.errors(verdict(3, 1, 77)) == [Errno.ENODEV]
    assert other.errors(verdict(0, 1, 77)) == [Errno.EPERM]
    assert client.errors(header_missing) == [Errno.EINVAL]
    for word in (Verdict.STOLEN, STOP + 1, 255, 0x10002):
        assert client.errors(verdict(0, 99, word)) == [Errno.EINVAL]
    for unknown in (0, 2, 0xFFFFFFFF):
        assert client.errors(verdict(0, unknown, ACCEPT)) == [Errno.ENOENT]
    assert journey.fate is Fate.QUEUED
    assert client.errors(verdict(0, 1, ACCEPT)) == [0]
    assert client.errors(verdict(0, 1, ACCEPT)) == [Errno.ENOENT]


def test_a_verdict_sets_mark_and_priority(rig: Rig, client: Client) -> None:
    packet = skb()
    packet.mark = packet.priority = 1
    rig.inject(packet, INPUT)
    client.packets()
    assert client.errors(verdict(0, 1, ACCEPT, mark=0, priority=0x01020304)) == [0]
    assert (packet.mark, packet.priority) == (0, 0x01020304)


def test_an_old_kernel_knows_no_priority() -> None:
    rig = Rig(PROFILES["5.10.223"])
    client = rig.client()
    client.bind(0)
    packet = skb()
    packet.priority = 6
    rig.inject(packet, INPUT)
    [message] = client.packets()
    assert message.priority is None
    assert client.errors(verdict(0, 1, ACCEPT, priority=9)) == [0]
    assert packet.priority == 6
    # and its policy does not look at it: three bytes are fine
    rig.inject(packet, INPUT)
    client.packets()
    short = verdict(0, 2, ACCEPT, priority=9).replace(b"\x08\x00\x15\x00", b"\x07\x00\x15\x00")
    assert client.errors(short) == [0]


def test_a_payload_replaces_the_packet(rig: Rig, client: Client) -> None:
    packet = skb()
    packet.transport = 20
    journey = rig.inject(packet, INPUT)
    client.packets()
    assert client.errors(verdict(0, 1, ACCEPT, payload=b"N" * 20)) == [0]
    assert journey.data == b"N" * 20
    assert journey.delivered


def test_a_payload_that_cannot_be_applied_drops_the_packet_and_is_acknowledged(rig: Rig, client: Client) -> None:
    packet = skb()
    packet.transport = 20
    journey = rig.inject(packet, INPUT)
    client.packets()
    assert client.errors(verdict(0, 1, ACCEPT, payload=b"N" * 19)) == [0]
    assert journey.dropped


def test_attributes_of_bridges_and_conntrack_are_ignored(rig: Rig, client: Client) -> None:
    journey = rig.inject(skb(), INPUT)
    client.packets()
    assert client.errors(verdict(0, 1, ACCEPT, l2hdr=b"x" * 99, ct=AttachedFlow(mark=7))) == [0]
    assert journey.delivered
    assert journey.data == journey.packet


def batch(last: int, word: int, **fields: object) -> bytes:
    return bytes(VerdictBatch(nlmsg_flags=REQUEST_ACK, header=VerdictHeader(word, last), **fields))  # type: ignore[arg-type]


def test_a_batch_decides_all_up_to_an_id(rig: Rig, client: Client) -> None:
    packets = [skb() for _ in range(5)]
    journeys = [rig.inject(packet, INPUT) for packet in packets]
    client.packets()
    assert client.errors(verdict(0, 2, DROP)) == [0]
    assert client.errors(batch(3, ACCEPT, mark=7, priority=8)) == [0]
    fates = [journey.fate for journey in journeys]
    assert fates == [Fate.DELIVERED, Fate.DROPPED, Fate.DELIVERED, Fate.QUEUED, Fate.QUEUED]
    assert [(packet.mark, packet.priority) for packet in packets] == [(7, 8), (0, 0), (7, 8), (0, 0), (0, 0)]
    assert client.errors(batch(3, ACCEPT)) == [Errno.ENOENT]
    assert client.errors(batch(4 + 0x80000001, ACCEPT)) == [Errno.ENOENT], "that far ahead is behind"
    assert client.errors(batch(4 + 0x80000000, ACCEPT)) == [0]


def test_a_batch_takes_each_packet_once(rig: Rig, client: Client) -> None:
    journeys = [rig.inject(skb(), INPUT) for _ in range(3)]
    client.packets()
    assert client.socket.sendto(batch(3, REPEAT), (0, 0))
    messages = [decode(datagram)[0] for datagram in client.hear()]
    assert [message.header.packet_id for message in messages if isinstance(message, Packet)] == [4, 5, 6]
    assert isinstance(messages[-1], Ack), "the messages go before the acknowledgement"
    assert all(journey.queued for journey in journeys)


def test_who_may_send_batches(rig: Rig, client: Client) -> None:
    rig.inject(skb(), INPUT)
    client.packets()
    assert rig.client().errors(batch(1, ACCEPT)) == [Errno.EPERM]
    assert client.errors(batch(1, Verdict.STOLEN)) == [Errno.EINVAL]
    assert client.errors(batch(0, ACCEPT)) == [Errno.ENOENT]


def test_users_do_not_queue_packets(rig: Rig, client: Client) -> None:
    message = bytes(Packet(nlmsg_flags=REQUEST_ACK, header=PacketHeader(1, 0x800, 0)))
    assert client.errors(message) == [Errno.ENOTSUPP]


# -------------------------------------------------------------------------------------------------------------- packet messages


def test_an_overrun_costs_packets_and_ids(rig: Rig, client: Client) -> None:
    client.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1000)  # 2304 bytes: two messages of 832
    journeys = [rig.inject(skb(), INPUT) for _ in range(4)]
    assert [journey.fate for journey in journeys] == [Fate.QUEUED, Fate.QUEUED, Fate.DROPPED, Fate.DROPPED]
    with pytest.raises(OSError, match="No buffer space available"):
        client.socket.recv(1000)
    assert [message.header.packet_id for message in client.packets()] == [1, 2]
    rig.inject(skb(), INPUT)
    assert [message.header.packet_id for message in client.packets()] == [5]
    queue = rig.queues.get(0)
    assert queue is not None
    assert (queue.user_dropped, queue.dropped) == (2, 0)


def test_fail_open_accepts_what_the_owner_could_not_be_told(rig: Rig, client: Client) -> None:
    assert client.errors(config(0, mask=FAIL_OPEN, flags=FAIL_OPEN)) == [0]
    client.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1000)
    journeys = [rig.inject(skb(), INPUT) for _ in range(3)]
    assert journeys[2].fate is Fate.DELIVERED


def test_an_owner_who_is_connected_elsewhere_hears_nothing(rig: Rig, client: Client) -> None:
    client.socket.connect((4711, 0))
    journey = rig.inject(skb(), INPUT)
    assert journey.dropped
    assert not client.socket.readable
    queue = rig.queues.get(0)
    assert queue is not None
    assert queue.user_dropped == 1


def test_an_owner_who_filters_leaves_packets_waiting(rig: Rig, client: Client) -> None:
    client.socket.setsockopt(SOL_SOCKET, 26, [(0x06, 0, 0, 0)])  # SO_ATTACH_FILTER: reject all
    assert rig.inject(skb(), INPUT).queued
    assert not client.socket.readable


@pytest.mark.parametrize(
    ("mode", "payload", "charge"),
    # measured on 6.18.44 with udp packets: bytes of payload behind 28 of headers, and what SO_MEMINFO then showed
    [
        (CopyMode.META, 1000, 832),
        (CopyMode.PACKET, 0, 832),
        (CopyMode.PACKET, 100, 832),
        (CopyMode.PACKET, 104, 832),
        (CopyMode.PACKET, 105, 1280),
        (CopyMode.PACKET, 552, 1280),
        (CopyMode.PACKET, 553, 2304),
        (CopyMode.PACKET, 1472, 2304),
        (CopyMode.PACKET, 4000, 8448),
        (CopyMode.PACKET, 16000, 33024),
        (CopyMode.PACKET, 65000, 65000 + 832),
    ],
)
def test_what_a_message_is_charged(rig: Rig, client: Client, mode: CopyMode, payload: int, charge: int) -> None:
    assert client.errors(config(0, params=Params(0xFFFF, mode))) == [0]
    packet = skb(bytes.fromhex("4500 0000 0000 0000 4011 0000 7f000001 7f000001") + bytes(8 + payload))
    packet.csum, packet.csum_start, packet.csum_offset = Checksum.PARTIAL, 20, 6
    packet.outdev = Device("lo", 1)
    rig.inject(packet, OUTPUT)
    assert client.socket.sock.charged == charge


@dataclass
class Told:
    """A packet in a queue, and what its message must say."""

    queue: Queue
    entry: QueuedEntry
    message: Packet


@st.composite
def told(draw: st.DrawFn) -> Told:
    queue = Queue(draw(st.integers(0, 65535)), 1)
    queue.copy_mode = draw(st.sampled_from([COPY_META, COPY_PACKET]))
    queue.copy_range = draw(st.sampled_from([0, 1, 40, 47, MAX_COPY_RANGE])) if queue.copy_mode == COPY_PACKET else 0
    queue.copy_range = queue.copy_range or MAX_COPY_RANGE
    queue.flags = draw(st.sampled_from([0, UID_GID]))
    family = draw(st.sampled_from([IPV4, IPV6]))
    u32 = st.integers(0, 0xFFFFFFFF)
    data = draw(st.binary(min_size=40, max_size=60))
    packet = Skb(data, family, Journey(data), draw(u32 | st.just(0)), draw(u32 | st.just(0)))
    device = st.none() | st.integers(1, 0x7FFFFFFF).map(lambda index: Device("x", index))
    packet.indev, packet.outdev = draw(device), draw(device)
    packet.hwaddr = draw(st.none() | st.binary(min_size=6, max_size=6))
    packet.sk = draw(st.none() | st.builds(Owner, u32, u32) | st.just(Owner(None, None)))
    hook = draw(st.sampled_from([PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING]))
    microseconds = draw(st.none() | st.integers(1_700_000_000_000_000, 1_900_000_000_000_000))
    packet.tstamp = None if microseconds is None else microseconds / 1_000_000
    entry = QueuedEntry(packet, hook, 0)
    entry.id = draw(u32)
    entry.skb_info = draw(st.sampled_from([0, 1, 4]))

    payload = data[: queue.copy_range] if queue.copy_mode == COPY_PACKET else None
    wanted = queue.flags and packet.sk is not None and packet.sk.uid is not None
    message = Packet(
        nfgen_family=family,
        res_id=queue.number,
        header=PacketHeader(entry.id, 0x0800 if family == IPV4 else 0x86DD, hook),
        indev=packet.indev.index if packet.indev else None,
        outdev=packet.outdev.index if packet.outdev else None,
        mark=packet.mark or None,
        priority=packet.priority or None,
        hwaddr=HardwareAddress(6, 0, packet.hwaddr.ljust(8, b"\0")) if packet.indev and packet.hwaddr else None,
        timestamp=Timestamp(*divmod(microseconds, 1_000_000)) if microseconds and hook <= FORWARD else None,
        uid=packet.sk.uid if wanted and packet.sk else None,
        gid=packet.sk.gid if wanted and packet.sk else None,
        cap_len=len(data) if payload is not None and len(payload) < len(data) else None,
        skb_info=SkbInfo(entry.skb_info) or None,
        payload=payload,
    )
    return Told(queue, entry, message)


@given(told())
def test_the_fast_builder_writes_what_the_declaration_says(told: Told) -> None:
    assert packet_message(told.queue, told.entry) == bytes(told.message)


# ------------------------------------------------------------------------------------------------------------------- recordings

#: recorded packet messages that the fake kernel has no occasion to send, and why
NO_SUCH_PACKET = {
    "packet.brnf": "bridges",
    "packet.bridge": "bridges",
    "packet.ct": "conntrack",
    "packet.classid": "control groups",
    "packet.secctx": "security modules",
    "gso.flag.whole": "segmentation offload",
}

MODES = {True: COPY_PACKET, False: COPY_META}


def recorded_packets() -> Iterator[tuple[str, bytes]]:
    for recording in exchanges():
        name = recording.name.partition("/")[2]
        if name.startswith(("packet.", "gso.", "range.")) and not name.startswith(tuple(NO_SUCH_PACKET)):
            yield recording.name, recording.data


@pytest.mark.parametrize(("name", "recorded"), list(recorded_packets()), ids=[name for name, _ in recorded_packets()])
def test_recorded_packet_messages(name: str, recorded: bytes) -> None:
    [message] = decode(recorded)
    assert isinstance(message, Packet)
    rig = Rig(PROFILES[name.partition("/")[0]])
    client = rig.client()
    whole = message.payload is not None
    client.bind(message.res_id, mode=CopyMode.PACKET if whole else CopyMode.META, copy_range=len(message.payload or b""))
    queue = rig.queues.get(message.res_id)
    assert queue is not None
    queue.last_id = message.header.packet_id - 1
    partial = whole and (message.skb_info or 0) & SkbInfo.CSUMNOTREADY
    queue.flags = (UID_GID if message.uid is not None else 0) | (QueueFlag.GSO if partial else 0)
    rig.inject(skb_of(message), message.header.hook, message.res_id)
    assert client.hear() == [recorded]


#: recorded conversations that need more than the control plane, and what
NO_SUCH_SESSION = {
    "q-bridge": "bridges",
    "q-tcp-gso": "segmentation offload",
    "q-enobufs": "packets that were lost are not in the recording",
    "q-noenobufs": "packets that were lost are not in the recording",
}


def replayable() -> list[str]:
    names = sorted(path.stem for path in (FIXTURES / "queue" / "sessions").glob("q-*.txt"))
    assert NO_SUCH_SESSION.keys() <= set(names)
    return [name for name in names if name not in NO_SUCH_SESSION]


@pytest.mark.parametrize("name", replayable())
def test_recorded_conversations(name: str) -> None:
    """What real programs said to a real kernel is said to the fake, and every answer must be the same, to the byte.

    Packets are handed in where the recording shows their message, unless the fake has queued one by itself (REPEAT and QUEUE).
    """
    lines = (FIXTURES / "queue" / "sessions" / f"{name}.txt").read_text().splitlines()
    rig = Rig()
    sockets: dict[str, FakeSocket] = {}
    unread: dict[str, list[bytes]] = {}
    compared = 0
    for number, line in enumerate(lines):
        if line[:1] not in "=<>" or not line:
            continue
        who = line.split()[1]
        if line.startswith("= ") and " socket(" in line:
            if "unpriv" in name:
                rig.sockets.current = NOBODY
            sockets[who] = rig.socket()
            unread[who] = []
        elif line.startswith("= ") and " close" in line:
            sockets[who].close()
        elif line.startswith("= ") and " bind " in line:
            if sockets[who].getsockname() == (0, 0):
                sockets[who].bind((port_of(lines[number:], who), 0))
        elif line.startswith("> "):
            sockets[who].sendto(bytes.fromhex(lines[number + 1]), (0, 0))
        elif line.startswith("< "):
            recorded = bytes.fromhex(lines[number + 1])
            [message] = decode(recorded)
            if isinstance(message, Packet) and not sockets[who].readable:
                rig.inject(skb_of(message), message.header.hook, message.res_id)
            assert sockets[who].recv(1 << 17).hex(" ") == recorded.hex(" "), line
            compared += 1
    assert compared > 0
    assert not any(socket.readable for socket in sockets.values() if socket._sock is not None)


def port_of(lines: list[str], who: str) -> int:
    """The port id that a socket had, as its first answer tells."""
    for number, line in enumerate(lines):
        if line.startswith(f"< {who} NLMSG_ERROR"):
            return decode(bytes.fromhex(lines[number + 1]))[0].nlmsg_pid
    raise AssertionError(f"{who} got no answer")


def test_a_queue_in_mode_none_takes_nothing(rig: Rig) -> None:
    client = rig.client()
    assert client.errors(command(0, ConfigCommand.BIND)) == [0]
    queue = rig.queues.get(0)
    assert queue is not None
    assert queue.copy_mode == COPY_NONE
    assert rig.inject(skb(), INPUT).dropped
    assert queue.last_id == 0


def test_a_partial_checksum_is_told_unless_the_payload_is(rig: Rig, client: Client) -> None:
    def queued() -> Packet:
        packet = skb(bytes.fromhex("4500 0021 c643 4000 4011 7686 7f000001 7f000001 e92f 2328 000d fe20 68656c6c6f"))
        packet.csum, packet.csum_start, packet.csum_offset = Checksum.PARTIAL, 20, 6
        rig.inject(packet, OUTPUT)
        [message] = client.packets()
        return message

    finished = queued()
    assert finished.skb_info is None
    assert finished.payload is not None
    assert finished.payload[26:28] == bytes.fromhex("b1a7"), "the sum that Linux wrote there"
    assert client.errors(config(0, mask=QueueFlag.GSO, flags=QueueFlag.GSO)) == [0]
    left = queued()
    assert left.skb_info == SkbInfo.CSUMNOTREADY
    assert left.payload is not None
    assert left.payload[26:28] == bytes.fromhex("fe20")
    assert client.errors(config(0, params=Params(0, CopyMode.META))) == [0]
    assert queued().skb_info == SkbInfo.CSUMNOTREADY


def test_a_checksum_nobody_has_looked_at_is_told_on_the_way_in(rig: Rig, client: Client) -> None:
    for hook, told in ((PREROUTING, True), (INPUT, True), (FORWARD, True), (OUTPUT, False), (POSTROUTING, True)):
        packet = skb()
        packet.csum = Checksum.NONE
        rig.inject(packet, hook)
        [message] = client.packets()
        assert (message.skb_info == SkbInfo.CSUM_NOTVERIFIED) is told
