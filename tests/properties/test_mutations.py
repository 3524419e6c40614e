"""Recorded messages, mutated: nothing but nfnl's own errors, no hang, nothing lost in silence.

Fast and without hypothesis, so that many can be tried: ``pytest tests/properties/test_mutations.py --mutations=200000``.
"""

from __future__ import annotations

import random
import re

import pytest

from nfnl.errors import DecodeError
from nfnl.session.events import PacketQueued, Undecodable
from nfnl.session.queue import QueueSession
from nfnl.subsys.queue import Packet
from nfnl.wire.codec import decode, encode, iter_decode
from nfnl.wire.control import Malformed
from nfnl.wire.declare import Direction, Message
from nfnl.wire.header import NATIVE, NetlinkMessage
from tests.recordings import exchanges, sessions
from tests.unit.session.kernel_model import ModelQueue

CORPUS = sorted({r.data for r in [*exchanges(), *sessions()]})
EDGES = [0, 1, 2, 3, 4, 5, 7, 8, 0x7F, 0x80, 0xFF]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or appended; lengths and types more often than the rest."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out)) & (~3 if rng.random() < 0.6 else ~0)
        match rng.randrange(6):
            case 0 | 1 | 2:
                out[at] = rng.choice(EDGES) if rng.random() < 0.7 else rng.randrange(256)
            case 3:
                del out[at : at + rng.choice([1, 2, 4, 8, 20])]
            case 4:
                out[at:at] = out[at : at + rng.choice([4, 8, 12])]
            case 5:
                out += rng.randbytes(rng.choice([1, 3, 4, 16, 20]))
    return bytes(out)


def check(data: bytes, direction: Direction) -> str:
    found: list[NetlinkMessage] = []
    problem: DecodeError | None = None
    try:
        found = decode(data, direction=direction)
    except DecodeError as error:
        problem = error
    if problem is not None:
        assert problem.offset is not None
        assert 0 <= problem.offset <= len(data)
        with pytest.raises(DecodeError, match=re.escape(str(problem))):
            found.extend(iter_decode(data, direction=direction))
        assert encode(found) == data[: problem.offset], "what came before is handed out"
        return "broken framing"
    assert encode(found) == data, "nothing may be lost"
    outcome = "fine"
    for message in found:
        if isinstance(message, Malformed):
            assert message.error.path
            assert message.error.offset is not None
            assert message.error.offset <= len(data)
            outcome = "malformed"
        elif isinstance(message, Message):
            assert repr(message)  # reading any field of a view cannot fail
            assert sum(4 + len(raw.data) for raw in message.attributes) <= message.nlmsg_len - 20
    return outcome


def test_mutated_messages_raise_nothing_but_our_errors(pytestconfig: pytest.Config) -> None:
    rng = random.Random(20241124)
    outcomes = {"fine": 0, "malformed": 0, "broken framing": 0}
    for _ in range(pytestconfig.getoption("--mutations")):
        outcomes[check(mutate(rng, rng.choice(CORPUS)), rng.choice(list(Direction)))] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_a_session_fed_mutated_packets_accounts_for_each(pytestconfig: pytest.Config) -> None:
    """Every packet message that arrives, however broken, is a packet, an `Undecodable`, or not of this queue."""
    rng = random.Random(11)
    kernel = ModelQueue()
    session = QueueSession(0)
    session.bind()
    session.receive_datagrams(kernel.take(session.datagrams_to_send()), 0.0)
    session.next_event()
    for _ in range(pytestconfig.getoption("--mutations") // 10):
        whole = kernel.arrive(payload=rng.randbytes(rng.randint(0, 30)))
        data = mutate(rng, whole)
        if len(data) < 24 or data[:8] != NATIVE.u32.pack(len(data)) + whole[4:8] or data[16:20] != whole[16:20]:
            data = NATIVE.u32.pack(len(data)) + data[4:] if len(data) >= 20 else whole
            data = data[:4] + whole[4:8] + data[8:16] + whole[16:20] + data[20:]
        session.receive_datagram(data, 0.0)
        told = [event for event in iter(session.next_event, None) if isinstance(event, PacketQueued | Undecodable)]
        assert len(told) == 1
        if isinstance(told[0], PacketQueued):
            assert isinstance(told[0].message, Packet)
            session.decide(told[0].id, 1, 0.0)
        session.flush()
        session.datagrams_to_send()
