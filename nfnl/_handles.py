"""What a user holds: a packet to answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, SupportsBytes, TypedDict, Unpack

from nfnl import packets
from nfnl.errors import LocalProtocolError, NotPermitted
from nfnl.session.events import PacketQueued
from nfnl.session.queue import Changes
from nfnl.subsys.conntrack import AttachedFlow, label_bitmap
from nfnl.subsys.expect import AttachedExpectation
from nfnl.subsys.queue import ConntrackInfo, Packet, SkbInfo, Vlan
from nfnl.wire.constants import VERDICT_FLAG_QUEUE_BYPASS, EtherType, Family, Hook, Verdict

if TYPE_CHECKING:
    from nfnl._door import QueueDoor

_PAYLOAD = next(field.index for field in Packet.__attrs__ if field.name == "payload")
_DROP, _ACCEPT, _QUEUE, _REPEAT, _STOP = (
    int(v) for v in (Verdict.DROP, Verdict.ACCEPT, Verdict.QUEUE, Verdict.REPEAT, Verdict.STOP)
)


class Acceptance(TypedDict, total=False):
    """How a packet is let go on. See `QueuedPacket.accept`."""

    #: make lengths and checksums right
    repair: bool
    #: the new packet mark; 0 clears it
    mark: int | None
    #: the new packet priority
    priority: int | None
    #: past all further hooks at this point
    stop: bool
    #: the new mark of its flow
    connmark: int | None
    #: the labels that its flow has from now on
    connlabels: Iterable[int] | None
    #: other changes to its flow
    flow: AttachedFlow | None
    #: what its flow is to expect
    expectation: AttachedExpectation | None
    #: bridge family: the new tag, with both its parts
    vlan: Vlan | None
    #: bridge family: the new link-layer header
    l2hdr: bytes | None


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
    def physindev(self) -> int | None:
        """Index of the bridge port it came in by, if it is bridged; `indev` is the bridge then."""
        return self.message.physindev

    @property
    def physoutdev(self) -> int | None:
        """Index of the bridge port it will leave by, if it is bridged."""
        return self.message.physoutdev

    @property
    def indev_name(self) -> str | None:
        """What the interface it came in by is called, asked for now; None without one, or if it is gone."""
        return self._name(self.message.indev)

    @property
    def outdev_name(self) -> str | None:
        """What the interface it will leave by is called."""
        return self._name(self.message.outdev)

    @property
    def physindev_name(self) -> str | None:
        """What the bridge port it came in by is called."""
        return self._name(self.message.physindev)

    @property
    def physoutdev_name(self) -> str | None:
        """What the bridge port it will leave by is called."""
        return self._name(self.message.physoutdev)

    def _name(self, index: int | None) -> str | None:
        return None if index is None else self.owner.interface_name(index)

    @property
    def vlan(self) -> Vlan | None:
        """The 802.1Q tag beside the packet (bridge family, since Linux 4.7)."""
        return self.message.vlan

    @property
    def l2hdr(self) -> bytes | None:
        """The link-layer header (bridge family, since Linux 4.7), without the tag in `vlan`."""
        return self.message.l2hdr

    @property
    def flow(self) -> AttachedFlow | None:
        """The conntrack entry, with `QueueFlag.CONNTRACK` where the kernel can tell of it; None if it is not tracked."""
        return self.message.ct

    @property
    def flow_info(self) -> ConntrackInfo | None:
        """How it stands to its `flow`."""
        info = self.message.ct_info
        return None if info is None else ConntrackInfo(info)

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

    def accept(self, payload: bytes | SupportsBytes | None = None, **options: Unpack[Acceptance]) -> None:
        """Let it go on with the next hook; with ``stop``, past all further hooks at this point (NF_STOP).

        ``payload`` replaces the packet from the network header on. The kernel repairs nothing in it: lengths and checksums must be
        right, or ``repair`` makes them so (`nfnl.packets.repair`; without a new payload, those of the packet as it came). ``mark``
        replaces the packet mark (0 clears it), ``priority`` the priority (since Linux 5.18).

        Of a packet that came with its `flow`, the flow can be changed: ``connmark`` is its new mark, ``connlabels`` are the numbers
        of the labels it has from now on; all else goes into a ``flow`` of your own (a mark with a mask, timeout, status). An
        ``expectation`` is added to it. The kernel never tells whether it could do that: what it cannot, it leaves.

        In the bridge family, ``vlan`` is the new tag, with both its parts, ``l2hdr`` the new link-layer header of the same length.

        Raises `LocalProtocolError` if the packet has its verdict already, for a new payload when the old one was `truncated` (the
        rest of the packet would be lost), and for what the kernel would pass over without a word or drop the packet for: a change
        to a flow it came without, a tag or header outside of the bridge family, half a tag, a header of another length. Raises
        `EncodeError` for values that do not fit, `PacketError` for what cannot be repaired, ValueError for labels there are not.
        The packet then still waits.
        """
        # A dozen keywords with defaults would cost as much as all the rest of a plain verdict: hence the dict.
        if payload is None and not options:
            self.owner.decide_plain(self.id, _ACCEPT)
        else:
            word = _STOP if options.get("stop") else _ACCEPT
            self.owner.decide(self.id, word, **self._changes(payload, options))

    def _changes(self, payload: bytes | SupportsBytes | None, options: Acceptance) -> Changes:
        """What its verdict is to change."""
        unknown = options.keys() - Acceptance.__annotations__.keys()
        if unknown:
            raise TypeError(f"accept() has no option {', '.join(sorted(unknown))}")
        repair = options.get("repair", False)
        if repair and payload is None:
            payload = self.payload
        changes: Changes = {"mark": options.get("mark"), "priority": options.get("priority")}
        connmark, connlabels, flow = options.get("connmark"), options.get("connlabels"), options.get("flow")
        expectation = options.get("expectation")
        if connmark is not None or connlabels is not None or flow is not None or expectation is not None:
            changes["ct"], changes["exp"] = self._changed_flow(connmark, connlabels, flow), expectation
        vlan, l2hdr = options.get("vlan"), options.get("l2hdr")
        if vlan is not None or l2hdr is not None:
            self._check_bridged(vlan, l2hdr)
            changes["vlan"], changes["l2hdr"] = vlan, l2hdr
        if payload is not None:
            if self.truncated:
                raise LocalProtocolError(
                    f"packet {self.id} is truncated ({len(self.payload)} of {self.full_length} bytes were copied): "
                    "a new payload would cut the rest off; bind with a larger copy_range"
                )
            changes["payload"] = packets.repair(bytes(payload)) if repair else bytes(payload)
        return changes

    def _changed_flow(self, mark: int | None, labels: Iterable[int] | None, flow: AttachedFlow | None) -> AttachedFlow:
        if self.message.ct is None:
            raise LocalProtocolError(
                f"packet {self.id} came without its flow: it has none, or the queue was opened without QueueFlag.CONNTRACK"
            )
        if mark is None and labels is None:
            return AttachedFlow() if flow is None else flow
        if flow is not None:
            raise LocalProtocolError("connmark and connlabels go into the flow that is given")
        return AttachedFlow(mark=mark, labels=None if labels is None else label_bitmap(*labels))

    def _check_bridged(self, vlan: Vlan | None, l2hdr: bytes | None) -> None:
        if self.message.nfgen_family != Family.BRIDGE:
            raise LocalProtocolError(f"packet {self.id} is not of the bridge family: its link-layer header is not looked at")
        if vlan is not None and (vlan.tci is None or vlan.proto is None):
            raise LocalProtocolError("a tag has two parts, tci and proto: for half of one the kernel drops the packet")
        if l2hdr is not None and len(l2hdr) != len(self.message.l2hdr or b""):
            had = len(self.message.l2hdr or b"")
            raise LocalProtocolError(f"the link-layer header has {had} bytes, not {len(l2hdr)}: the kernel would drop the packet")

    def drop(self) -> None:
        """Drop it. Raises `LocalProtocolError` if it has its verdict already."""
        self.owner.decide_plain(self.id, _DROP)

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
