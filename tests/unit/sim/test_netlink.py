"""Walking and acknowledging: recorded answers to recorded requests, and the walk by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nfnl.sim.af_netlink import Sock
from nfnl.sim.errnos import Errno
from nfnl.sim.netlink import Refusal, Request, acknowledge, walk
from nfnl.subsys.queue import Command, Config
from nfnl.wire.codec import decode
from nfnl.wire.constants import SOL_NETLINK, SocketOption
from nfnl.wire.control import Ack, Policy
from nfnl.wire.header import NATIVE
from tests.recordings import exchanges
from tests.unit.sim.control_rig import NOBODY, REQUEST_ACK, Client, Rig

RECORDED = {recording.name: recording.data for recording in exchanges() if recording.name.startswith("6.18.44/")}


def recorded(name: str) -> bytes:
    return RECORDED[f"6.18.44/{name}"]


def bind(queue: int, client: Client) -> None:
    request = Config(res_id=queue, nlmsg_flags=REQUEST_ACK, command=Command(1))
    assert client.errors(bytes(request)) == [0]


def nothing(rig: Rig, client: Client) -> None:
    """The exchange needs no preparation."""


def queue_0(rig: Rig, client: Client) -> None:
    bind(0, client)


def queue_1(rig: Rig, client: Client) -> None:
    bind(1, client)


def queue_40(rig: Rig, client: Client) -> None:
    bind(40, client)


def queue_77(rig: Rig, client: Client) -> None:
    bind(77, client)


def taken(rig: Rig, client: Client) -> None:
    bind(0, rig.client())


def taken_1(rig: Rig, client: Client) -> None:
    bind(1, rig.client())


def unprivileged(rig: Rig, client: Client) -> None:
    rig.sockets.current = NOBODY


CAP, EXT = SocketOption.CAP_ACK, SocketOption.EXT_ACK
Preparation = Callable[[Rig, Client], None]

#: request, what goes before it, options, answers
EXCHANGES: list[tuple[str, Preparation, set[SocketOption], list[str]]] = [
    ("noop.request+ack.request", nothing, set(), ["noop.request+ack.reply"]),
    ("multi.3-noops.request", nothing, set(), [f"multi.3-noops.reply{i}" for i in range(3)]),
    ("ack.ERANGE.request", nothing, set(), ["ack.cap0.ext0.ERANGE"]),
    ("ack.ERANGE.request", nothing, {CAP}, ["ack.cap1.ext0.ERANGE"]),
    ("ack.ERANGE.request", nothing, {EXT}, ["ack.cap0.ext1.ERANGE"]),
    ("ack.ERANGE.request", nothing, {CAP, EXT}, ["ack.cap1.ext1.ERANGE"]),
    ("ack.ENODEV.request", nothing, set(), ["ack.cap0.ext0.ENODEV"]),
    ("ack.ENODEV.request", nothing, {CAP}, ["ack.cap1.ext0.ENODEV"]),
    ("ack.ENODEV.request", nothing, {EXT}, ["ack.cap0.ext1.ENODEV"]),
    ("ack.ENODEV.request", nothing, {CAP, EXT}, ["ack.cap1.ext1.ENODEV"]),
    ("ack.success.request", nothing, set(), ["ack.cap0.ext0.success"]),
    ("ack.unaligned.request", nothing, set(), ["ack.unaligned.reply"]),
    ("ack.unaligned.ext.request", nothing, {EXT}, ["ack.unaligned.ext.reply"]),
    ("attr.u32-3-bytes.request", queue_40, {CAP, EXT}, ["attr.u32-3-bytes.reply"]),
    ("attr.leftover-1.request", queue_40, {CAP, EXT}, ["attr.leftover-1.reply"]),
    ("unknown-subsystem.request", nothing, set(), ["unknown-subsystem.reply"]),
    ("error-without-ack-flag.request", nothing, set(), ["error-without-ack-flag.reply"]),
    ("queue.op0-packet-from-user.request", nothing, set(), ["queue.op0-packet-from-user.reply"]),
    ("config.bind.request", nothing, set(), ["config.bind.reply"]),
    ("config.bind.request", queue_0, set(), ["config.bind-again.reply"]),
    ("config.bind.request", taken, set(), ["config.bind-taken.reply"]),
    ("config.flags-unknown.request", queue_77, {CAP, EXT}, ["config.flags-unknown.reply"]),
    ("verdict.accept.request", taken_1, set(), ["verdict.other-port.reply"]),
    ("verdict.accept.request", queue_1, set(), ["verdict.unknown-id.reply"]),
    ("verdict.stolen.request", queue_1, set(), ["verdict.stolen.reply"]),
]


@pytest.mark.parametrize(("request_name", "prepare", "options", "answers"), EXCHANGES)
def test_recorded_exchanges(request_name: str, prepare: Preparation, options: set[SocketOption], answers: list[str]) -> None:
    expected = [recorded(answer) for answer in answers]
    rig = Rig()
    client = rig.client(NATIVE.header.unpack_from(expected[0])[4])
    prepare(rig, client)
    for option in options:
        client.socket.setsockopt(SOL_NETLINK, option, 1)
    got = client.ask(recorded(request_name))
    assert [answer.hex(" ") for answer in got] == [answer.hex(" ") for answer in expected]


@pytest.mark.parametrize(("options", "answer"), [(set(), "eperm.reply"), ({CAP}, "eperm.cap-ack.reply")])
def test_recorded_refusals_of_the_unprivileged(options: set[SocketOption], answer: str) -> None:
    expected = recorded(answer)
    rig = Rig()
    client = rig.client(NATIVE.header.unpack_from(expected)[4])
    unprivileged(rig, client)
    for option in options:
        client.socket.setsockopt(SOL_NETLINK, option, 1)
    request = bytes(Config(res_id=1, nlmsg_flags=REQUEST_ACK, nlmsg_seq=5, command=Command(1)))
    assert client.ask(request) == [expected]


# -------------------------------------------------------------------------------------------------------------------- the walk


def message(type_: int = 0x0302, flags: int = REQUEST_ACK, body: bytes = b"", seq: int = 1, length: int | None = None) -> bytes:
    return NATIVE.header.pack(16 + len(body) if length is None else length, type_, flags, seq, 99) + body


class Walk:
    """A walk with a handler that refuses what has an odd number."""

    def __init__(self) -> None:
        self.client = Rig().client()
        self.handled: list[int] = []

    def __call__(self, data: bytes) -> list[tuple[int, int]]:
        """Number and errno of each answer."""
        walk(self.client.socket.sock, data, self.handle)
        answers = [decode(answer)[0] for answer in self.client.hear()]
        return [(answer.nlmsg_seq, answer.error) for answer in answers if isinstance(answer, Ack)]

    def handle(self, request: Request) -> None:
        self.handled.append(request.seq)
        if request.seq % 2:
            raise Refusal(Errno.EBUSY)


@pytest.fixture
def walked() -> Walk:
    return Walk()


def test_each_message_is_answered_and_errors_do_not_stop(walked: Walk) -> None:
    assert walked(message(seq=1) + message(seq=2) + message(seq=3)) == [(1, Errno.EBUSY), (2, 0), (3, Errno.EBUSY)]


def test_success_is_told_when_asked_and_refusal_always(walked: Walk) -> None:
    assert walked(message(seq=1, flags=1) + message(seq=2, flags=1)) == [(1, Errno.EBUSY)]
    assert walked.handled == [1, 2]


def test_what_is_no_request_or_netlink_s_own_is_not_handled(walked: Walk) -> None:
    assert walked(message(seq=1, flags=4) + message(type_=15, seq=3) + message(type_=16, seq=4)) == [(1, 0), (3, 0), (4, 0)]
    assert walked.handled == [4]


@pytest.mark.parametrize("bad", [message(length=15), message(length=17), message(length=0)[:16], b"\0" * 15])
def test_an_impossible_header_ends_the_walk(walked: Walk, bad: bytes) -> None:
    assert walked(message(seq=2) + bad) == [(2, 0)]


def test_padding_is_skipped(walked: Walk) -> None:
    assert walked(message(seq=2, body=b"abc") + b"\0" + message(seq=4, body=b"abc")) == [(2, 0), (4, 0)]


def test_room_for_an_answer_counts_what_it_might_have_said(walked: Walk) -> None:
    """The kernel asks for more memory than a policy takes; what is charged follows from what was asked for."""
    sock: Sock = walked.client.socket.sock
    sock.options |= {EXT, CAP}
    charges = {}
    for room in (40, 300):
        request = Request(sock, message(), 0)
        request.message, request.bad_attribute, request.policy, request.policy_room = "text", 20, Policy(type=4), room
        acknowledge(request, Errno.ERANGE)
        charges[room] = sock.charged
        walked.client.hear()
    assert charges == {40: 832, 300: 1280}
