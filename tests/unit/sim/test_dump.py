"""Dumps, part by part: sizes and charges as Linux 6.18 has them, over a subsystem that has messages of 192 bytes to tell."""

from __future__ import annotations

import copy
from errno import EBUSY, ENOBUFS

import pytest

from nfnl.sim.af_netlink import MSG_DONTWAIT, MSG_PEEK, SO_ATTACH_FILTER, SO_RCVBUF, SOL_SOCKET, Sock
from nfnl.sim.dump import start_dump
from nfnl.sim.netlink import Request
from nfnl.sim.nfnetlink import Attributes, Operation
from nfnl.sim.profile import PROFILES, Profile
from nfnl.wire.constants import NlmsgFlag, NlmsgType, SubsystemId
from nfnl.wire.header import NATIVE
from tests.unit.sim.control_rig import Client, Rig

SIZE = 192
DUMP = NlmsgFlag.REQUEST | NlmsgFlag.DUMP


class Countdown:
    """So many messages, and how many of them fit."""

    def __init__(self, left: int) -> None:
        self.left = left

    def fill(self, room: int) -> bytes:
        now = min(self.left, room // SIZE)
        self.left -= now
        return bytes(SIZE * now)


def rig_with(count: int, profile: Profile = Profile()) -> Client:
    rig = Rig(profile)

    def handler(request: Request, attributes: Attributes) -> None:
        if request.flags & NlmsgFlag.DUMP:
            start_dump(request, Countdown(count).fill)
        else:
            request.sock.table.unicast(request.sock.port, bytes(SIZE), 832)

    rig.nfnetlink.register(SubsystemId.OSF, {0: Operation(handler)}, {})
    return rig.client()


def ask(client: Client, flags: int = DUMP, seq: int = 7) -> Sock:
    client.socket.send(NATIVE.header.pack(20, SubsystemId.OSF << 8, NlmsgFlag.REQUEST | flags, seq, 0) + bytes(4))
    return client.socket.sock


@pytest.mark.parametrize(
    ("rooms", "seen"),
    [
        ([4096] * 3, [(3648, 8448), (4032, 8448), (4032, 8448)]),
        ([65536] * 3, [(3648, 33024), (32448, 33024), (32448, 33024)]),
        ([4096, 8192, 16384, 65536, 65536], [(3648, 8448), (4032, 16640), (8064, 33024), (16320, 33024), (32448, 33024)]),
        ([100] * 3, [(3648, 4352)] * 3),
    ],
)
def test_parts_grow_with_what_they_are_received_into(rooms: list[int], seen: list[tuple[int, int]]) -> None:
    client = rig_with(3000)
    sock = ask(client)
    assert sock.charged == 4352
    assert [(len(client.socket.recv(room, 0x20)), sock.charged) for room in rooms] == seen


def test_a_dump_ends_with_done_in_a_datagram_of_its_own() -> None:
    client = rig_with(3)
    ask(client, DUMP | NlmsgFlag.ACK, seq=99)
    parts = client.hear()
    assert parts == [bytes(3 * SIZE), NATIVE.header.pack(20, NlmsgType.DONE, NlmsgFlag.MULTI, 99, client.port) + bytes(4)]


def test_nothing_to_tell_is_done_at_once() -> None:
    client = rig_with(0)
    sock = ask(client)
    assert sock.dump is None
    assert [len(part) for part in client.hear()] == [20]


def test_one_dump_at_a_time() -> None:
    client = rig_with(100)
    ask(client)
    ask(client, seq=8)
    first, refusal, *_ = client.hear()
    assert len(first) == 3648
    assert NATIVE.header.unpack_from(refusal)[3] == 8
    assert int.from_bytes(refusal[16:20], NATIVE.name, signed=True) == -EBUSY
    ask(client, seq=9)
    assert [len(part) for part in client.hear()] == [100 * SIZE, 20]


def test_looking_at_a_part_makes_another() -> None:
    client = rig_with(1000)
    sock = ask(client)
    client.socket.recv(65536, MSG_PEEK)
    assert sock.charged == 4352 + 33024
    client.socket.recv(65536, MSG_PEEK)
    assert sock.charged == 4352 + 2 * 33024


def test_reading_makes_parts_when_the_buffer_is_half_empty() -> None:
    client = rig_with(1000)
    client.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    for _ in range(4):
        ask(client, 0)
    sock = ask(client)
    assert sock.charged == 3328 + 4352
    seen = [(len(client.socket.recv(65536, MSG_DONTWAIT)), sock.charged) for _ in range(6)]
    assert seen == [(192, 6848), (192, 6016), (192, 5184), (192, 4352), (3648, 33024), (32448, 33024)]


def test_a_dump_without_room_is_refused_and_tried_again_at_every_read() -> None:
    """Linux keeps the dump it refuses, so that reading the refusal brings ENOBUFS once more."""
    client = rig_with(1000)
    client.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    for _ in range(9):
        ask(client, 0)
    sock = ask(client)

    def receive() -> int:
        try:
            return len(client.socket.recv(65536, MSG_DONTWAIT))
        except OSError as error:
            return -(error.errno or 0)

    seen = [receive() for _ in range(9)]
    assert seen == [-ENOBUFS, 192, 192, 192, 192, 192, -ENOBUFS, 192, -ENOBUFS]
    assert sock.charged == 2496


def test_older_kernels_take_a_part_as_long_as_the_buffer_is_not_over_full() -> None:
    client = rig_with(100, PROFILES["5.10.223"])
    client.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    ask(client, 0)
    sock = ask(client)
    assert sock.charged > sock.rcvbuf


def test_a_filter_sees_parts_like_any_datagram() -> None:
    client = rig_with(3)
    client.socket.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, [(0x06, 0, 0, 16)])
    ask(client)
    assert [len(part) for part in client.hear()] == [16, 16]


def test_many_at_once_go_on_with_the_dump() -> None:
    client = rig_with(3000)
    sock = ask(client)
    many = sock.receive_many(65536, 5)
    assert [len(waiting[0]) for waiting in many] == [3648] + [32448] * 4
    rest = sock.receive_many(65536, 64)
    assert sum(len(waiting[0]) for waiting in many + rest) == 3000 * SIZE + 20
    assert sock.dump is None
    assert not sock.readable


def test_the_list_of_sockets_shows_a_dump() -> None:
    client = rig_with(100)
    sock = ask(client)
    row = next(line for line in sock.table.proc().splitlines() if f" {client.port} " in line)
    assert row.split()[6] == "1"
    client.hear()
    row = next(line for line in sock.table.proc().splitlines() if f" {client.port} " in line)
    assert row.split()[6] == "0"


def test_a_copy_goes_on_where_the_original_was() -> None:
    client = rig_with(100)
    sock = ask(client)
    twin = copy.deepcopy(sock)
    client.hear()
    assert sum(len(waiting[0]) for waiting in twin.receive_many(65536, 64)) == 100 * SIZE + 20
