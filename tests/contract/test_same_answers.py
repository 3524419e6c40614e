"""Whatever is said to them, both kernels answer the same, to the byte.

The tests of single rules look where somebody expected a difference; this one looks everywhere else.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nfnl.errors import error_name
from nfnl.subsys.queue import Params
from nfnl.testing.strategies import datagrams
from nfnl.wire.constants import SocketOption, SubsystemId, align4
from tests import probes
from tests.contract.kernels import Kernels, KernelUnderTest
from tests.contract.wirekit import ACK, REQUEST, Client, attribute, bind, config, message, nfgenmsg, noop, unbind

#: few numbers, so that messages have to do with each other
QUEUES, FLAGS = [0, 1, 7], [REQUEST | ACK, REQUEST | ACK, REQUEST, ACK, 0, 0xFFFF]
OPTIONS = [SocketOption.NO_ENOBUFS, SocketOption.CAP_ACK, SocketOption.EXT_ACK, SocketOption.GET_STRICT_CHK]

attributes = st.builds(
    attribute,
    st.sampled_from([1, 2, 3, 4, 5, 6, 10, 11, 19, 21, 99, 0x8003, 0x4002]),
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 255]), max_size=12).map(bytes),
    length=st.sampled_from([None] * 9 + [0, 3, 4, 9, 0xFFFF]),
)


@st.composite
def raw_requests(draw: st.DrawFn) -> bytes:
    """A message to the queue subsystem, or to one that does not exist; possibly cut off or with a wrong length."""
    kind = draw(st.sampled_from([SubsystemId.QUEUE] * 8 + [0, 13])) << 8 | draw(st.sampled_from([0, 1, 2, 2, 2, 3, 4, 16]))
    body = nfgenmsg(draw(st.sampled_from(QUEUES)), family=draw(st.sampled_from([0, 2, 77])))
    body += b"".join(draw(st.lists(attributes, max_size=4))) + bytes(draw(st.sampled_from([0, 0, 0, 1, 3])))
    body = body[: draw(st.sampled_from([None, None, None, 0, 3, 4, 11]))]
    length = draw(st.sampled_from([None] * 9 + [0, 15, 16, 19, 20, len(body) + 17]))
    said = message(kind, body, flags=draw(st.sampled_from(FLAGS)), seq=draw(st.integers(0, 9)), length=length)
    return said + bytes(align4(len(said)) - len(said))


queues = st.sampled_from(QUEUES)
flags = st.sampled_from(FLAGS)
seqs = st.integers(0, 9)
#: what a sensible program says
good_requests = st.one_of(
    st.builds(noop, flags=flags, seq=seqs),
    st.builds(bind, queues, flags=flags, seq=seqs),
    st.builds(unbind, queues, flags=flags, seq=seqs),
    st.builds(config, queues, flags=flags, seq=seqs, params=st.builds(Params, st.integers(0, 70000), st.integers(0, 3))),
)

who = st.integers(0, 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), who, st.lists(good_requests, min_size=1, max_size=12).map(b"".join)),
        st.tuples(st.just("say"), who, st.lists(raw_requests(), min_size=1, max_size=4).map(b"".join)),
        st.tuples(st.just("say"), who, datagrams(damaged=True).filter(len)),
        st.tuples(st.just("hear"), who),
        st.tuples(st.just("set"), who, st.sampled_from(OPTIONS), st.integers(0, 1)),
        st.tuples(st.just("size"), who, st.sampled_from([0, 2000, 100000])),
    ),
    min_size=5,
    max_size=15,
)


class Side:
    """One of the kernels, and two who talk to it."""

    def __init__(self, kernel: KernelUnderTest) -> None:
        self.kernel = kernel
        self.clients = [Client(kernel), Client(kernel)]

    def take(self, step: tuple[Any, ...]) -> object:
        """Take a step; all that can be seen of it, with the names of the two in place of their ports."""
        match step:
            case ("say", int(who), bytes(datagram)):
                self.clients[who].tell(datagram)
            case ("set", int(who), option, int(value)):
                self.clients[who].option(option, value)
            case ("size", int(who), int(size)):
                self.clients[who].socket.setsockopt(1, 8, size)
        heard: list[bytes] | str = []
        if step[0] == "hear":
            try:
                heard = [self._anonymous(datagram) for datagram in self.clients[step[1]].hear()]
            except OSError as error:
                heard = error_name(error.errno or 0)
        return heard, [(client.charged, client.drops) for client in self.clients], self._queues()

    def _anonymous(self, datagram: bytes) -> bytes:
        (port,) = struct.unpack_from("=I", datagram, 12)
        return datagram[:12] + self._name(port).encode() + datagram[16:]

    def _name(self, port: int) -> str:
        return {client.port_id: f"<{name}>" for client, name in zip(self.clients, "AB", strict=True)}.get(port, f"port {port}")

    def _queues(self) -> list[list[str]]:
        rows = [line.split() for line in self.kernel.read_proc("netfilter/nfnetlink_queue").splitlines()]
        return [[row[0], self._name(int(row[1])), *row[2:]] for row in rows]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(steps=steps)
def test_both_kernels_answer_the_same(kernels: Kernels, steps: list[tuple[Any, ...]]) -> None:
    probes.require("lab-available")
    with ExitStack() as stack:
        fake, linux = (Side(stack.enter_context(kernels.make(name))) for name in ("fake", "linux"))
        for number, step in enumerate(steps):
            assert fake.take(step) == linux.take(step), f"step {number}: {step}"
