"""The codec alone, message by message, beside hand-written `struct` code (`bench.handwritten`) and construct."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nfnl
from bench import handwritten
from bench.contests import Contest, Effort
from bench.contests.steps import Steps, compare, repeat
from bench.outcome import Outcome, Target
from nfnl.subsys.queue import Packet, VerdictHeader, VerdictMessage
from nfnl.wire import reference
from nfnl.wire.compiled import Codec, packer
from nfnl.wire.header import NATIVE

RECORDINGS = Path(__file__).resolve().parents[2] / "fixtures" / "queue" / "exchanges" / "6.18.44"
PAYLOAD = bytes(range(64))

BY_HAND = "by hand"


def recording(name: str) -> bytes:
    """One recorded datagram of a real kernel."""
    lines = (RECORDINGS / f"{name}.hex").read_text("ascii").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def parsing(data: bytes) -> dict[str, Steps]:
    """Ways to take a packet apart."""
    codec, unseen = Codec(Packet, NATIVE), Codec(Packet, NATIVE)
    codec.decode(data)
    return {
        "nfnl, shape remembered": repeat(lambda: codec.decode(data)),
        "nfnl, attribute by attribute": repeat(lambda: unseen.parse(data)),
        "nfnl.decode": repeat(lambda: nfnl.decode(data)),
        BY_HAND: repeat(lambda: handwritten.parse(data)),
        "construct": repeat(lambda: reference.decode(Packet, data)),
    }


def verdicts() -> dict[str, Steps]:
    """Ways to write a plain verdict."""
    pack = packer(VerdictMessage, "header", nlmsg_flags=1, res_id=3)
    return {
        "nfnl, as sessions do": repeat(lambda: pack(7, 1, 7)),
        "nfnl, a message": repeat(lambda: VerdictMessage(nlmsg_flags=1, nlmsg_seq=7, res_id=3, header=VerdictHeader(1, 7))),
        BY_HAND: repeat(lambda: handwritten.verdict(3, 7, 1)),
    }


def building() -> dict[str, Steps]:
    """Ways to write a verdict that changes mark and contents."""
    header = VerdictHeader(1, 7)
    return {
        "nfnl": repeat(lambda: VerdictMessage(nlmsg_flags=1, nlmsg_seq=7, res_id=3, header=header, mark=5, payload=PAYLOAD)),
        BY_HAND: repeat(lambda: handwritten.marked_verdict(3, 7, 1, 5, PAYLOAD)),
    }


def run(effort: Effort) -> Iterator[Outcome]:
    """An outcome for each thing that a codec does."""
    seconds = 0.02 if effort.short else 0.1
    targets = (
        Target("nfnl, attribute by attribute", BY_HAND, "cpu", 1.15, held=False),
        Target("nfnl, shape remembered", BY_HAND, "cpu", 0.6),
    )
    for name, title in (("packet.INPUT.packet", "4 attributes"), ("packet.brnf.hook2", "7 attributes")):
        turns = compare(parsing(recording(name)), effort.rounds, seconds)
        yield Outcome(CONTEST.name, f"a packet of {title} taken apart", "message", turns, targets)
    turns = compare(building(), effort.rounds, seconds)
    target = Target("nfnl", BY_HAND, "cpu", 1.0, held=False)
    yield Outcome(CONTEST.name, "a message of 3 attributes built", "message", turns, (target,))
    turns = compare(verdicts(), effort.rounds, seconds)
    target = Target("nfnl, as sessions do", BY_HAND, "cpu", 1.2)
    yield Outcome(CONTEST.name, "a plain verdict", "message", turns, (target,))


CONTEST = Contest("codec", "CPU time for each message", run)
