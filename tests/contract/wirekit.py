"""What the contract tests say to a kernel, and how they listen.

Well-formed messages are built from the declarations of `nfnl.subsys`; what must be malformed is packed by hand.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EAGAIN
from typing import Any, NamedTuple

import pytest

from nfnl.errors import error_name
from nfnl.subsys.queue import (
    Command,
    Config,
    ConfigCommand,
    CopyMode,
    Packet,
    Params,
    VerdictBatch,
    VerdictHeader,
    VerdictMessage,
)
from nfnl.wire.codec import decode
from nfnl.wire.constants import SOL_NETLINK, NlmsgFlag, NlmsgType, SocketOption, SubsystemId, align4
from nfnl.wire.control import Ack
from nfnl.wire.declare import Direction
from nfnl.wire.header import NetlinkMessage
from tests.contract.kernels import KernelUnderTest, NetlinkSocket

REQUEST, ACK = NlmsgFlag.REQUEST, NlmsgFlag.ACK
#: the kernel's address
KERNEL = (0, 0)
SO_MEMINFO, SO_RCVBUFFORCE = 55, 33  # asm-generic/socket.h

#: operations of subsystem queue (``NFQNL_MSG_*``)
PACKET, VERDICT, CONFIG, VERDICT_BATCH = range(4)
#: and of subsystem log (``NFULNL_MSG_*``)
LOG_PACKET, LOG_CONFIG = range(2)


class Client:
    """A socket, and somebody who speaks netlink through it. It never waits: answers are there when the question returns."""

    def __init__(self, kernel: KernelUnderTest, *, bind: bool = True, port_id: int = 0, groups: int = 0) -> None:
        self.socket: NetlinkSocket = kernel.socket()
        if bind:
            self.socket.bind((port_id, groups))

    @property
    def port_id(self) -> int:
        return self.socket.getsockname()[0]

    def option(self, option: SocketOption, value: int = 1) -> Client:
        self.socket.setsockopt(SOL_NETLINK, option, value)
        return self

    def tell(self, datagram: bytes) -> None:
        """Send a datagram to the kernel."""
        assert self.socket.sendto(datagram, KERNEL) == len(datagram)

    def hear(self) -> list[bytes]:
        """All datagrams that are there. Raises OSError (ENOBUFS) as the socket does."""
        heard = []
        while (datagram := self.hear_one()) is not None:
            heard.append(datagram)
        return heard

    def hear_one(self) -> bytes | None:
        """The next datagram, or None. An attempt that finds nothing counts as a read that left the queue empty."""
        try:
            return self.socket.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def ask(self, datagram: bytes) -> list[bytes]:
        """Send a datagram; all that is there afterwards."""
        self.tell(datagram)
        return self.hear()

    def answers(self, datagram: bytes) -> list[str]:
        """The same in words: ``["ACK", "EINVAL"]``; [] is silence."""
        return [word(answer) for answer in self.ask(datagram)]

    def ack(self, datagram: bytes) -> Ack:
        """The one acknowledgement or refusal that answers the datagram."""
        [answer] = self.ask(datagram)
        return ack(answer)

    def meminfo(self) -> tuple[int, ...]:
        """SO_MEMINFO: nine counters, of which 0 is the charge, 1 its limit, 8 the drops."""
        return struct.unpack("=9I", self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))

    @property
    def charged(self) -> int:
        """Bytes the waiting datagrams are charged with."""
        return self.meminfo()[0]

    @property
    def drops(self) -> int:
        """Datagrams this socket had no room for."""
        return self.meminfo()[8]


def only_message(datagram: bytes) -> NetlinkMessage:
    """The one message that makes up this datagram of the kernel's."""
    [message] = decode(datagram, direction=Direction.FROM_KERNEL, strict=True)
    return message


def ack(datagram: bytes) -> Ack:
    """This datagram, which is one NLMSG_ERROR."""
    message = only_message(datagram)
    assert isinstance(message, Ack), message
    return message


def word(datagram: bytes) -> str:
    """``"ACK"``, the name of the refusal, or what kind of message it is."""
    message = only_message(datagram)
    if not isinstance(message, Ack):
        return type(message).__name__
    return error_name(message.error) if message.error else "ACK"


@contextmanager
def refused(errno: int) -> Iterator[None]:
    """The call inside fails with this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - compared below, by name so that a failure can be read
        yield
    assert error_name(caught.value.errno or 0) == error_name(errno)


def nothing_to_receive(client: Client) -> bool:
    """A read that may not wait finds nothing, and no error either."""
    try:
        client.socket.recv(1 << 18, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except OSError as error:
        if error.errno != EAGAIN:
            raise
        return True
    return False


# ---------------------------------------------------------------------------------------------------- messages, packed by hand


def message(
    type: int,  # noqa: A002
    body: bytes = b"",
    *,
    flags: int = REQUEST | ACK,
    seq: int = 1,
    pid: int = 0,
    length: int | None = None,
) -> bytes:
    """A netlink message, not padded; ``length`` is what nlmsg_len says when it is to lie."""
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, type, flags, seq, pid) + body


def padded(data: bytes) -> bytes:
    """With zeros up to a multiple of 4."""
    return data.ljust(align4(len(data)), b"\0")


def noop(*, flags: int = REQUEST | ACK, seq: int = 1) -> bytes:
    """NLMSG_NOOP: the smallest thing that can be acknowledged."""
    return message(NlmsgType.NOOP, flags=flags, seq=seq)


def attribute(type: int, data: bytes = b"", *, length: int | None = None) -> bytes:  # noqa: A002
    """A netlink attribute and its padding; ``length`` is what nla_len says when it is to lie."""
    return padded(struct.pack("=HH", 4 + len(data) if length is None else length, type) + data)


def nfgenmsg(res_id: int = 0, *, family: int = 0, version: int = 0) -> bytes:
    """What stands behind the header of every nfnetlink message."""
    return struct.pack(">BBH", family, version, res_id)


def nfnetlink(
    subsystem: int,
    operation: int,
    attributes: bytes = b"",
    *,
    res_id: int = 0,
    flags: int = REQUEST | ACK,
    seq: int = 1,
    pid: int = 0,
    family: int = 0,
    version: int = 0,
) -> bytes:
    """A message of an nfnetlink subsystem with any attributes whatever."""
    body = nfgenmsg(res_id, family=family, version=version) + attributes
    return message(subsystem << 8 | operation, body, flags=flags, seq=seq, pid=pid)


def queue_config(attributes: bytes = b"", *, queue: int = 0, flags: int = REQUEST | ACK, seq: int = 1, pid: int = 0) -> bytes:
    """NFQNL_MSG_CONFIG with any attributes whatever."""
    return nfnetlink(SubsystemId.QUEUE, CONFIG, attributes, res_id=queue, flags=flags, seq=seq, pid=pid)


def be32(value: int) -> bytes:
    """The way numbers stand in nfnetlink attributes."""
    return struct.pack(">I", value)


# ------------------------------------------------------------------------------------------ messages, from the declarations


def config(queue: int = 0, *, flags: int = REQUEST | ACK, seq: int = 1, **fields: Any) -> bytes:
    """A well-formed NFQNL_MSG_CONFIG."""
    return bytes(Config(res_id=queue, nlmsg_flags=flags, nlmsg_seq=seq, **fields))


def bind(queue: int = 0, *, flags: int = REQUEST | ACK, seq: int = 1) -> bytes:
    """NFQNL_CFG_CMD_BIND."""
    return config(queue, flags=flags, seq=seq, command=Command(ConfigCommand.BIND))


def unbind(queue: int = 0, *, flags: int = REQUEST | ACK, seq: int = 1) -> bytes:
    """NFQNL_CFG_CMD_UNBIND."""
    return config(queue, flags=flags, seq=seq, command=Command(ConfigCommand.UNBIND))


def queues(kernel: KernelUnderTest) -> list[int]:
    """Numbers of the bound queues, from /proc."""
    return [int(line.split()[0]) for line in kernel.read_proc("netfilter/nfnetlink_queue").splitlines()]


# --------------------------------------------------------------------------------------------------------------------- packets


def ip_packet(payload: bytes = b"", *, source: str = "10.0.0.1", destination: str = "10.0.0.9", protocol: int = 17) -> bytes:
    """An IPv4 packet; its payload is a UDP datagram from port 5000 to port 9000 unless another protocol is named."""
    if protocol == 17:
        payload = struct.pack(">HHHH", 5000, 9000, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + addresses
    sum_ = sum(struct.unpack(">10H", header))
    checksum = ~(sum_ + (sum_ >> 16)) & 0xFFFF
    return header[:10] + struct.pack(">H", checksum) + header[12:] + payload


# ------------------------------------------------------------------------------------------------------------- receive buffers


def small_buffer(kernel: KernelUnderTest, size: int = 4096) -> Client:
    """Somebody whose receive buffer holds a handful of acknowledgements: twice ``size`` bytes, as the kernel counts."""
    client = Client(kernel)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return client


def fill(client: Client, *, spare: int = 0) -> int:
    """Provoke acknowledgements, numbered from 0, until the buffer had no room for one and ``spare`` more; how many fitted."""
    for seq in range(10_000):
        client.tell(noop(seq=seq))
        if client.drops:
            break
    else:
        pytest.fail("the buffer is never full")
    for lost in range(1, spare + 1):
        client.tell(noop(seq=seq + lost))
    return seq


def overrun(kernel: KernelUnderTest) -> Client:
    """Somebody whose buffer has overrun: ENOBUFS waits to be received, and behind it the acknowledgements that fitted."""
    client = small_buffer(kernel)
    fill(client)
    return client


def numbers(datagrams: list[bytes]) -> list[int]:
    """The sequence number of each."""
    return [only_message(datagram).nlmsg_seq for datagram in datagrams]


def small_head(client: Client) -> int:
    """Size of the kernel's cache for small messages, measured; 0 where it has none. It depends on how the kernel was built."""
    client.tell(noop())
    head = client.charged - 256
    client.hear()
    return 0 if head in (512, 1024) else head


def head(size: int, small_head: int) -> int:
    """What the kernel takes for ``size`` bytes and what it keeps behind them (320: struct skb_shared_info), on x86-64."""
    need = ((size + 63) & ~63) + 320
    return small_head if need <= small_head else 1 << (need - 1).bit_length()


def truesize(alloc: int, used: int, *, small_head: int, paged: int = 0) -> int:
    """What a message costs for which ``alloc`` bytes were asked and ``used`` written, on x86-64 (256: struct sk_buff).

    ``paged`` bytes more hang at it in pages.
    """
    taken = head(alloc, small_head)
    if (taken - 320 - used) * 2 >= taken + 256 + paged:  # netlink_trim: half of it would be air
        taken = head(used, small_head)
    return taken + 256 + paged


def rooms(head: int, measured: list[tuple[int, int, int, int]]) -> list[int]:
    """What the kernel may reserve in a message for all but the payload, going by (linear bytes of the packet, bytes of it in
    pages, length of the message, charge). It depends on the kernel's version and on what it was built with.
    """

    def explains(room: int) -> bool:
        return all(
            truesize(room + 4 + linear, length - paged, small_head=head, paged=paged) == charge
            for linear, paged, length, charge in measured
        )

    return [room for room in range(80, 129, 4) if explains(room)]


# ---------------------------------------------------------------------------------------------------------------------- queues

#: What a queue's rules catch in these tests: datagrams to port 9000. The answers of the kernel (port unreachable) are not.
CAUGHT = "-p udp --dport 9000 -j NFQUEUE --queue-num"
#: NF_*: verdict words
DROP, ACCEPT, STOLEN, TO_QUEUE, REPEAT, STOP = range(6)
#: NF_VERDICT_FLAG_QUEUE_BYPASS
BYPASS = 0x8000
#: the most bytes of a packet that a queue tells
MAX_RANGE = 65531


class QueueRow(NamedTuple):
    """A line of /proc/net/netfilter/nfnetlink_queue."""

    number: int
    owner: int
    waiting: int
    copy_mode: int
    copy_range: int
    dropped: int  #: lost because the queue was full
    user_dropped: int  #: lost because the owner did not take the message
    last_id: int
    one: int


def queue_row(kernel: KernelUnderTest, queue: int = 1) -> QueueRow:
    """What /proc says of a queue."""
    rows = [QueueRow(*map(int, line.split())) for line in kernel.read_proc("netfilter/nfnetlink_queue").splitlines()]
    [row] = [row for row in rows if row.number == queue]
    return row


def settings(queue: int = 1, **fields: Any) -> bytes:
    """A well-formed NFQNL_MSG_CONFIG, like `config`; ``flags`` are those of the queue."""
    return bytes(Config(res_id=queue, nlmsg_flags=REQUEST | ACK, nlmsg_seq=1, **fields))


def verdict(queue: int, packet_id: int, word: int, *, flags: int = REQUEST | ACK, seq: int = 1, **fields: Any) -> bytes:
    """A well-formed NFQNL_MSG_VERDICT."""
    header = VerdictHeader(word, packet_id)
    return bytes(VerdictMessage(res_id=queue, nlmsg_flags=flags, nlmsg_seq=seq, header=header, **fields))


def verdict_batch(queue: int, last_id: int, word: int, **fields: Any) -> bytes:
    """A well-formed NFQNL_MSG_VERDICT_BATCH."""
    return bytes(VerdictBatch(res_id=queue, nlmsg_flags=REQUEST | ACK, nlmsg_seq=1, header=VerdictHeader(word, last_id), **fields))


class Listener(Client):
    """Somebody who listens to a queue."""

    def __init__(
        self, kernel: KernelUnderTest, queue: int = 1, *, mode: int = CopyMode.PACKET, copy_range: int = MAX_RANGE, **fields: Any
    ) -> None:
        super().__init__(kernel)
        self.kernel = kernel
        self.queue = queue
        self._heard: list[Packet] = []
        self.configure(command=Command(ConfigCommand.BIND), params=Params(copy_range, mode), **fields)

    def configure(self, **fields: Any) -> None:
        """Change something about the queue."""
        assert self.request(settings(self.queue, **fields)) == "ACK"

    def request(self, datagram: bytes) -> str:
        """Send a datagram, put aside the packets that come of it, and give the answer; ``""`` for silence."""
        answers = []
        for heard in self.ask(datagram):
            message = only_message(heard)
            if isinstance(message, Packet):
                self._heard.append(message)
            else:
                answers.append(word(heard))
        assert len(answers) < 2, answers
        return "".join(answers)

    def packets(self) -> list[Packet]:
        """The packets that have come since the last time."""
        for heard in self.hear():
            message = only_message(heard)
            assert isinstance(message, Packet), message
            self._heard.append(message)
        packets, self._heard = self._heard, []
        return packets

    def packet(self) -> Packet:
        """The one packet that has come."""
        [packet] = self.packets()
        return packet

    def ids(self) -> list[int]:
        """The ids of the packets that have come."""
        return [packet.header.packet_id for packet in self.packets()]

    def decide(self, packet: Packet | int, word: int = ACCEPT, **fields: Any) -> str:
        """Give a verdict; the kernel's answer to it."""
        packet_id = packet if isinstance(packet, int) else packet.header.packet_id
        return self.request(verdict(self.queue, packet_id, word, **fields))

    def decide_until(self, last_id: int, word: int = ACCEPT, **fields: Any) -> str:
        """Give a verdict to all up to an id; the kernel's answer to it."""
        return self.request(verdict_batch(self.queue, last_id, word, **fields))

    @property
    def row(self) -> QueueRow:
        """What /proc says of the queue."""
        return queue_row(self.kernel, self.queue)


def sum16(data: bytes) -> int:
    """The Internet checksum, 0xffff for 0; of data with its right checksum in it 0xffff as well."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    return -sum(words) % 0xFFFF or 0xFFFF


def udp4(
    data: bytes = b"hello",
    *,
    source: str = "127.0.0.1",
    destination: str = "127.0.0.1",
    port: int = 9000,
    tos: int = 0,
    ttl: int = 64,
    udp_checksum: int | None = None,
    **lies: int,
) -> bytes:
    """A UDP datagram from port 5000, over IPv4. ``lies`` are what its header says instead of the truth: ``version``, ``ihl``
    (in words), ``length``, ``fragment``.
    """
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    udp = struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data
    if udp_checksum is None:
        udp_checksum = sum16(addresses + struct.pack(">HH", 17, len(udp)) + udp)
    first = lies.get("version", 4) << 4 | lies.get("ihl", 5)
    length, fragment = lies.get("length", 20 + len(udp)), lies.get("fragment", 0x4000)
    header = struct.pack(">BBHHHBBH", first, tos, length, 77, fragment, ttl, 17, 0) + addresses
    return header[:10] + struct.pack(">H", sum16(header)) + header[12:] + udp[:6] + struct.pack(">H", udp_checksum) + udp[8:]


def udp6(data: bytes = b"hello", *, source: str = "::1", destination: str = "::1", port: int = 9000) -> bytes:
    """A UDP datagram from port 5000, over IPv6."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    udp = struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data
    sum_ = sum16(addresses + struct.pack(">II", len(udp), 17) + udp)
    return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + addresses + udp[:6] + struct.pack(">H", sum_) + udp[8:]


def tcp(family: int, data: bytes = b"", *, flags: int = 0x18, port: int = 9000) -> bytes:
    """A TCP packet from port 5000 of this machine to itself, with no options and no checksum."""
    segment = struct.pack(">HHIIBBHHH", 5000, port, 1000, 2000, 5 << 4, flags, 65535, 0, 0) + data
    if family == 6:
        return struct.pack(">IHBB", 6 << 28, len(segment), 6, 64) + bytes(15) + b"\1" + bytes(15) + b"\1" + segment
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 77, 0x4000, 64, 6, 0) + bytes((127, 0, 0, 1)) * 2
    return header[:10] + struct.pack(">H", sum16(header)) + header[12:] + segment


def udp_sum(packet: bytes) -> int:
    """The sum over a UDP datagram and its pseudo header: 0xffff when its checksum is right."""
    at, addresses = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
    return sum16(addresses + struct.pack(">HH", 17, len(packet) - at) + packet[at:])


def raw_attributes(datagram: bytes) -> list[tuple[int, bytes]]:
    """The attributes of a packet message in the order they stand in, by number and with nothing understood of them."""
    found = []
    at = 20
    while at < len(datagram):
        length, number = struct.unpack_from("=HH", datagram, at)
        assert 4 <= length <= len(datagram) - at
        found.append((number, datagram[at + 4 : at + length]))
        at += align4(length)
    return found
