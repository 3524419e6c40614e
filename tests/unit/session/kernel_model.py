"""A queue as small as can be, to hold the session's bytes against: independent of the fake kernel, and of the session."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from nfnl.subsys.queue import Config, Packet, PacketHeader, VerdictBatch, VerdictMessage
from nfnl.wire.codec import decode
from nfnl.wire.control import Ack

MASK = 0xFFFFFFFF


class ModelQueue:
    """One bound queue. ``fates`` is what became of each packet: the verdict word, by id."""

    def __init__(self, number: int = 0, first_id: int = 1) -> None:
        self.number = number
        self.last_id = (first_id - 1) & MASK
        self.waiting: list[int] = []
        self.fates: dict[int, int] = {}
        self.configs: list[Config] = []
        self.refused: list[tuple[int, int]] = []  # (id, errno)

    def arrive(self, *, lost: bool = False, payload: bytes = b"x") -> bytes:
        """A packet meets the rule; its message. ``lost``: the message did not fit, the kernel dropped the packet."""
        self.last_id = (self.last_id + 1) & MASK
        if not lost:
            self.waiting.append(self.last_id)
        return bytes(
            Packet(res_id=self.number, nfgen_family=2, header=PacketHeader(self.last_id, 0x0800, 3), outdev=1, payload=payload)
        )

    def take(self, datagrams: Iterable[bytes]) -> list[bytes]:
        """Carry out what a client sent; the answers."""
        answers = []
        for datagram in datagrams:
            for message in decode(datagram, strict=True):
                error = 0
                if isinstance(message, VerdictMessage):
                    error = self._decide(message.header.packet_id, message.header.verdict)
                elif isinstance(message, VerdictBatch):
                    error = self._decide_up_to(message.header.packet_id, message.header.verdict)
                elif isinstance(message, Config):
                    self.configs.append(message)
                if error or message.nlmsg_flags & 4:
                    answers.append(bytes(Ack.build(bytes(message), error, capped=not error)))
        return answers

    def _decide(self, packet_id: int, word: int) -> int:
        if packet_id not in self.waiting:
            self.refused.append((packet_id, errno.ENOENT))
            return errno.ENOENT
        self.waiting.remove(packet_id)
        assert packet_id not in self.fates, "two verdicts for one packet"
        self.fates[packet_id] = word
        return 0

    def _decide_up_to(self, last: int, word: int) -> int:
        taken = []
        for packet_id in self.waiting:
            if 0 < ((packet_id - last) & MASK) < 1 << 31:  # behind the last, in circular order
                break
            taken.append(packet_id)
        for packet_id in taken:
            self._decide(packet_id, word)
        return 0 if taken else errno.ENOENT
