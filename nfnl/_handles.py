"""What a user holds: a packet to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsBytes

from nfnl import packets
from nfnl.errors import LocalProtocolError, NotPermitted
from nfnl.session.events import PacketQueued
from nfnl.subsys.queue import Packet, SkbInfo
from nfnl.wire.constants import VERDICT_FLAG_QUEUE_BYPASS, EtherType, Hook, Verdict

if TYPE_CHECKING:
    from nfnl._door import QueueDoor

_PAYLOAD = next(field.index for field in Packet.__attrs__ if field.name == "payload")
_DROP, _ACCEPT, _QUEUE, _REPEAT, _STOP = (
    int(v) for v in (Verdict.DROP, Verdict.ACCEPT, Verdict.QUEUE, Verdict.REPEAT, Verdict.STOP)
)


class QueuedPacket(PacketQueued):
    """A packet that waits for your verdict. Give exactly one: `accept`, `drop`, `repeat` or `queue`.

    What is not there reads as None, but for the payload, which is then ``b""``. ``message`` is the whole decoded message, an
    `nfnl.Packet`.
    """

    __slots__ = ()
    owner: QueueDoor

    # -- what it is ------------------------------------------------------------------------------------------------------------

    @property
    def payload(self) -> bytes:
        """The packet from the network header on, as far as it was copied; ``b""`` in copy mode META."""
        # Read from every packet, so past `message`, which then need not be made.
        place = self._shape.at[_PAYLOAD]
        return b"" if place is None else self._data[place]

    @property
    def truncated(self) -> bool:
        """The payload is not the whole packet: it was longer than ``copy_range``."""
        return self.message.cap_len is not None

    @property
    def full_length(self) -> int:
        """Length of the whole packet in bytes, copied or not; 0 in copy mode META, where the kernel does not tell."""
        length = self.message.cap_len
        return len(self.payload) if length is None else length

    @property
    def mark(self) -> int | None:
        """The packet mark; None when it has none (0)."""
        return self.message.mark

    @property
    def hook(self) -> Hook:
        """Where the packet met the rule."""
        return Hook(self.message.header.hook)

    @property
    def hw_protocol(self) -> int:
        """EtherType: 0x0800 for IPv4, 0x86dd for IPv6."""
        return self.message.header.hw_protocol

    @property
    def indev(self) -> int | None:
        """Index of the interface it came in by."""
        return self.message.indev

    @property
    def outdev(self) -> int | None:
        """Index of the interface it will leave by."""
        return self.message.outdev

    @property
    def timestamp(self) -> float | None:
        """When it was received, in seconds since 1970-01-01, if the kernel noted it."""
        stamp = self.message.timestamp
        return None if stamp is None else stamp.seconds + stamp.microseconds / 1_000_000

    @property
    def uid(self) -> int | None:
        """User id of the local socket that sent it, with `QueueFlag.UID_GID`."""
        return self.message.uid

    @property
    def gid(self) -> int | None:
        """Group id of the local socket that sent it, with `QueueFlag.UID_GID`."""
        return self.message.gid

    @property
    def decided(self) -> bool:
        """It has its verdict."""
        return not self.owner.is_waiting(self.id)

    # -- what becomes of it ----------------------------------------------------------------------------------------------------

    def accept(
        self,
        payload: bytes | SupportsBytes | None = None,
        *,
        repair: bool = False,
        mark: int | None = None,
        priority: int | None = None,
        stop: bool = False,
    ) -> None:
        """Let it go on with the next hook; with ``stop``, past all further hooks at this point (NF_STOP).

        ``payload`` replaces the packet from the network header on. The kernel repairs nothing in it: lengths and checksums must be
        right, or ``repair`` makes them so (`nfnl.packets.repair`; without a new payload, those of the packet as it came). ``mark``
        replaces the packet mark (0 clears it), ``priority`` the priority (since Linux 5.18).

        Raises `LocalProtocolError` if the packet has its verdict already, or for a new payload when the old one was `truncated`
        (the rest of the packet would be lost); `EncodeError` for values that do not fit; `PacketError` for what cannot be repaired.
        The packet then still waits.
        """
        word = _STOP if stop else _ACCEPT
        if repair and payload is None:
            payload = self.payload
        if payload is None and mark is None and priority is None:
            self.owner.decide(self.id, word)
            return
        data = None
        if payload is not None:
            if self.truncated:
                raise LocalProtocolError(
                    f"packet {self.id} is truncated ({len(self.payload)} of {self.full_length} bytes were copied): "
                    "a new payload would cut the rest off; bind with a larger copy_range"
                )
            data = packets.repair(bytes(payload)) if repair else bytes(payload)
        self.owner.decide(self.id, word, payload=data, mark=mark, priority=priority)

    def drop(self) -> None:
        """Drop it. Raises `LocalProtocolError` if it has its verdict already."""
        self.owner.decide(self.id, _DROP)

    def reject(self, with_: str | None = None) -> bool:
        """Drop it and answer its sender as the REJECT target would, so that he need not wait for a time-out. True: it was answered.

        ``with_`` is what follows ``--reject-with`` of iptables: ``"tcp-reset"``, ``"icmp-host-prohibited"``,
        ``"icmp6-adm-prohibited"`` ...; "port unreachable" unless given. No answer is given where the kernel would give none (to a
        RST, to an ICMP error, to a wrong checksum: `nfnl.packets.reject` has the rules), and where none can be sent: no route back,
        or a rule drops it.

        The answer is sent through a raw socket. So it passes OUTPUT like all this host sends, and a rule that queues everything
        there queues it, too: accept what you do not want to reject. (It cannot go round for ever, since it deserves no answer.)
        Connection tracking does not tie it to the packet, as it does with the kernel's own: it has its place where addresses are
        not translated. Of IPv6 packets that are forwarded, ICMP errors come from the address that was asked, not from this host's.

        Raises, and the packet still waits: ValueError for a ``with_`` that is not of its family, `PacketError` if it is not IP or
        was not copied (copy mode META), `LocalProtocolError` if it has its verdict already. It is dropped already when this raises
        `NotPermitted` for want of CAP_NET_RAW.
        """
        packet, info = self.payload, SkbInfo(self.message.skb_info or 0)
        source: str | bytes | None = None
        if self.hw_protocol == EtherType.IPV4 and self.hook is not Hook.INPUT:
            source = "0.0.0.0"  # where it does not end here, an error about it comes from an address of this host: any
        elif self.hw_protocol == EtherType.IPV6 and self.hook is Hook.OUTPUT:
            source = packet[8:24]
        answer = packets.reject(packet, with_, check=SkbInfo.CSUM_NOTVERIFIED in info, source=source)
        self.drop()
        if answer is None:
            return False
        try:
            self.owner.send_raw(answer)
        except NotPermitted:
            raise
        except OSError:
            return False
        return True

    def repeat(self, *, mark: int | None = None) -> None:
        """Send it through its hook once more (NF_REPEAT). Set a mark and let a rule pass what carries it, or it comes again."""
        self.owner.decide(self.id, _REPEAT, mark=mark)

    def queue(self, number: int, *, bypass: bool = False, mark: int | None = None) -> None:
        """Send it to another queue; with ``bypass`` it goes on if nobody listens there (since Linux 2.6.39), else it is dropped."""
        if not 0 <= number <= 0xFFFF:
            raise LocalProtocolError(f"queue numbers go from 0 to 65535, not {number}")
        word = number << 16 | (VERDICT_FLAG_QUEUE_BYPASS if bypass else 0) | _QUEUE
        self.owner.decide(self.id, word, mark=mark)

    def __repr__(self) -> str:
        state = "decided" if self.decided else "waiting"
        return f"<QueuedPacket {self.id} at {self.hook.name}, {len(self.payload)} bytes, {state}>"
