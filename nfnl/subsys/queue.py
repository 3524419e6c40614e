"""NFQUEUE: packets wait in a queue until user space gives a verdict.

Sources: include/uapi/linux/netfilter/nfnetlink_queue.h for numbers and layouts, net/netfilter/nfnetlink_queue.c for the policies
and for the order in which the kernel writes attributes. Numbers inside attributes are in network byte order.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Annotated, NamedTuple

from nfnl.subsys.conntrack import AttachedFlow
from nfnl.subsys.expect import AttachedExpectation
from nfnl.wire.constants import VERDICT_FLAG_QUEUE_BYPASS, EtherType, Hook, SubsystemId, Verdict
from nfnl.wire.declare import AttrSet, Direction, Message, Subsystem, attr
from nfnl.wire.layout import U8, Be16, Be32, Be64, Layout, Octets8, Raw, as_enum, be16, be32, in_words, names_of, octets, u8

QUEUE = Subsystem(SubsystemId.QUEUE, "queue", "net/netfilter/nfnetlink_queue.c")


class ConfigCommand(IntEnum):
    """``NFQNL_CFG_CMD_*``."""

    NONE = 0
    BIND = 1
    UNBIND = 2
    PF_BIND = 3  #: no-op since Linux 3.8; answered with success
    PF_UNBIND = 4  #: no-op since Linux 3.8


class CopyMode(IntEnum):
    """``NFQNL_COPY_*``: how much of a packet comes to user space."""

    NONE = 0  #: nothing comes, and every packet is dropped; the mode of a queue nobody has configured
    META = 1  #: everything but the packet itself
    PACKET = 2  #: metadata and up to ``copy_range`` bytes of the packet


class QueueFlag(IntFlag):
    """``NFQA_CFG_F_*``: behaviour of a queue."""

    FAIL_OPEN = 1  #: accept instead of drop when the queue or the socket is full (since 3.6)
    CONNTRACK = 2  #: send the conntrack entry along (since 3.6; needs CONFIG_NETFILTER_NETLINK_GLUE_CT)
    GSO = 4  #: take packets before segmentation, with unfinished checksums (since 3.10)
    UID_GID = 8  #: send the user and group of the local socket (since 3.14)
    SECCTX = 16  #: send the security context (since 4.3)


class SkbInfo(IntFlag):
    """``NFQA_SKB_*``: what the kernel knows about the packet's checksum and size."""

    CSUMNOTREADY = 1  #: the transport checksum is only the pseudo-header's sum so far
    GSO = 2  #: larger than the device can send; will be segmented later
    CSUM_NOTVERIFIED = 4  #: nobody has checked the checksum yet


class ConntrackInfo(IntEnum):
    """``enum ip_conntrack_info``: how the packet stands to its flow (include/uapi/linux/netfilter/nf_conntrack_common.h)."""

    ESTABLISHED = 0
    RELATED = 1
    NEW = 2
    ESTABLISHED_REPLY = 3
    RELATED_REPLY = 4


_VERDICT_NAME = names_of(Verdict)


def verdict_words(word: int) -> str:
    """A verdict word for people: ``ACCEPT``, ``QUEUE 2 bypass``."""
    if word & 0xFF == Verdict.QUEUE:
        return f"QUEUE {word >> 16}{' bypass' if word & VERDICT_FLAG_QUEUE_BYPASS else ''}"
    return _VERDICT_NAME(word & 0xFF)


_ETHERTYPE = in_words(be16, names_of(EtherType))
_HOOK = in_words(u8, names_of(Hook))
_VERDICT = in_words(be32, verdict_words)
_COMMAND = as_enum(u8, ConfigCommand)
_COPY_MODE = as_enum(u8, CopyMode)


class PacketHeader(NamedTuple):
    """``struct nfqnl_msg_packet_hdr``: 7 bytes."""

    #: number of the packet in its queue: 1, 2, 3 ... and after 2^32 - 1 round again
    packet_id: Be32
    #: EtherType: 0x0800 IPv4, 0x86dd IPv6
    hw_protocol: Annotated[int, _ETHERTYPE]
    #: see `Hook`
    hook: Annotated[int, _HOOK]

    def __str__(self) -> str:
        return f"id {self.packet_id} {_HOOK.say(self.hook)}"


class Timestamp(NamedTuple):
    """``struct nfqnl_msg_packet_timestamp``: when the packet was received, since the epoch."""

    seconds: Be64
    microseconds: Be64

    def __str__(self) -> str:
        return f"{self.seconds}.{self.microseconds:06}"


class HardwareAddress(NamedTuple):
    """``struct nfqnl_msg_packet_hw``: the source address on the link."""

    #: how many bytes of ``address`` count; 6 for Ethernet
    length: Be16
    pad: Be16
    address: Octets8

    def __str__(self) -> str:
        return self.address[: self.length].hex(":")


class VerdictHeader(NamedTuple):
    """``struct nfqnl_msg_verdict_hdr``: 8 bytes."""

    #: NF_* in the low byte (`Verdict`); for QUEUE the queue number in the high 16 bits and NF_VERDICT_FLAG_QUEUE_BYPASS
    verdict: Annotated[int, _VERDICT]
    #: the packet it is about; in a batch, the last of them
    packet_id: Be32

    def __str__(self) -> str:
        return f"id {self.packet_id} {_VERDICT.say(self.verdict)}"


class Command(NamedTuple):
    """``struct nfqnl_msg_config_cmd``: 4 bytes."""

    command: Annotated[int, _COMMAND]
    pad: U8 = 0
    #: protocol family; ignored since Linux 3.8
    pf: Be16 = 0

    def __str__(self) -> str:
        return _COMMAND.say(self.command)


class Params(NamedTuple):
    """``struct nfqnl_msg_config_params``: 5 bytes, packed."""

    #: how many bytes of each packet are copied; 0 or more than 65531 means 65531
    copy_range: Be32
    copy_mode: Annotated[int, _COPY_MODE]

    def __str__(self) -> str:
        return f"{_COPY_MODE.say(self.copy_mode)} {self.copy_range}"


class Vlan(AttrSet):
    """``NFQA_VLAN``: an 802.1Q tag that travels beside the packet (bridge family, since 4.7). The kernel writes TCI first."""

    tci: Be16 | None = attr(2, "NFQA_VLAN_TCI", default=None, doc="tag control information: priority, DEI, VLAN id")
    proto: Be16 | None = attr(1, "NFQA_VLAN_PROTO", default=None, doc="EtherType of the tag, e.g. 0x8100")


#: what the policy demands of a nest: nothing, or room for one attribute header
_NEST: Layout = octets(0)


class Packet(Message, subsystem=QUEUE, type=0, direction=Direction.FROM_KERNEL, kernel_name="NFQNL_MSG_PACKET"):
    """A packet waits for a verdict. ``res_id`` is the queue, ``nfgen_family`` the family of the hook. One comes per datagram."""

    header: PacketHeader = attr(1, "NFQA_PACKET_HDR", doc="packet id, link-layer protocol, hook")
    indev: Be32 | None = attr(
        5, "NFQA_IFINDEX_INDEV", default=None, doc="index of the input device; of the bridge for bridged packets"
    )
    physindev: Be32 | None = attr(7, "NFQA_IFINDEX_PHYSINDEV", default=None, doc="index of the bridge port the packet came in by")
    outdev: Be32 | None = attr(6, "NFQA_IFINDEX_OUTDEV", default=None, doc="index of the output device")
    physoutdev: Be32 | None = attr(8, "NFQA_IFINDEX_PHYSOUTDEV", default=None, doc="index of the bridge port the packet leaves by")
    mark: Be32 | None = attr(3, "NFQA_MARK", default=None, doc="packet mark; absent when 0")
    priority: Be32 | None = attr(
        21, "NFQA_PRIORITY", default=None, since="5.18", doc="packet priority (SO_PRIORITY or from TOS); absent when 0"
    )
    hwaddr: HardwareAddress | None = attr(9, "NFQA_HWADDR", default=None, doc="source link-layer address, where there is one")
    vlan: Vlan | None = attr(19, "NFQA_VLAN", default=None, since="4.7", doc="802.1Q tag (bridge family)")
    l2hdr: Raw | None = attr(20, "NFQA_L2HDR", default=None, since="4.7", doc="the link-layer header (bridge family)")
    timestamp: Timestamp | None = attr(4, "NFQA_TIMESTAMP", default=None, doc="time of reception, if the packet has one")
    uid: Be32 | None = attr(
        16,
        "NFQA_UID",
        default=None,
        since="3.14",
        doc="user of the local socket, in the initial user namespace; with QueueFlag.UID_GID",
    )
    gid: Be32 | None = attr(
        17,
        "NFQA_GID",
        default=None,
        since="3.14",
        doc="group of the local socket, in the initial user namespace; with QueueFlag.UID_GID",
    )
    cgroup_classid: Be32 | None = attr(
        22, "NFQA_CGROUP_CLASSID", default=None, since="6.4", doc="net_cls class id of the local socket; absent when 0"
    )
    secctx: Raw | None = attr(18, "NFQA_SECCTX", default=None, since="4.3", doc="security context as text, with QueueFlag.SECCTX")
    ct: AttachedFlow | None = attr(
        11, "NFQA_CT", default=None, since="3.6", doc="its flow (see conntrack.Flow), with QueueFlag.CONNTRACK"
    )
    ct_info: Annotated[int, as_enum(be32, ConntrackInfo)] | None = attr(
        12, "NFQA_CT_INFO", default=None, since="3.6", doc="how the packet stands to its flow"
    )
    cap_len: Be32 | None = attr(
        13, "NFQA_CAP_LEN", default=None, since="3.6", doc="full length of the packet in bytes; present when the payload was cut"
    )
    skb_info: Annotated[int, as_enum(be32, SkbInfo)] | None = attr(
        14, "NFQA_SKB_INFO", default=None, since="3.10", doc="checksum and segmentation state; absent when 0"
    )
    payload: Raw | None = attr(
        10,
        "NFQA_PAYLOAD",
        default=None,
        padded=False,
        doc="the packet from the network header on, up to copy_range bytes; never padded",
    )


class VerdictMessage(Message, subsystem=QUEUE, type=1, direction=Direction.TO_KERNEL, kernel_name="NFQNL_MSG_VERDICT"):
    """The fate of one packet. ``res_id`` is the queue. Errors are answered; success only with NLM_F_ACK."""

    header: VerdictHeader = attr(2, "NFQA_VERDICT_HDR", policy=octets(8), doc="verdict word and packet id")
    mark: Be32 | None = attr(3, "NFQA_MARK", default=None, policy=be32, doc="new packet mark; 0 clears it")
    priority: Be32 | None = attr(21, "NFQA_PRIORITY", default=None, since="5.18", policy=be32, doc="new packet priority")
    vlan: Vlan | None = attr(
        19, "NFQA_VLAN", default=None, since="4.7", policy=_NEST, doc="new 802.1Q tag; both parts (bridge family)"
    )
    l2hdr: Raw | None = attr(
        20, "NFQA_L2HDR", default=None, since="4.7", doc="new link-layer header of the same length (bridge family)"
    )
    ct: AttachedFlow | None = attr(
        11,
        "NFQA_CT",
        default=None,
        since="3.6",
        doc="changes to its flow (see conntrack.Flow): timeout, status, help, labels, mark",
    )
    exp: AttachedExpectation | None = attr(
        15, "NFQA_EXP", default=None, since="3.12", doc="an expectation to add (see expect.Expectation); with ct"
    )
    payload: Raw | None = attr(
        10, "NFQA_PAYLOAD", default=None, doc="the packet's new bytes from the network header on; nothing in them is repaired"
    )


class Config(Message, subsystem=QUEUE, type=2, direction=Direction.TO_KERNEL, kernel_name="NFQNL_MSG_CONFIG"):
    """Bind, configure or unbind the queue ``res_id``; several at once if wanted. Refused flags leave everything undone."""

    command: Command | None = attr(1, "NFQA_CFG_CMD", default=None, policy=octets(4), doc="bind or unbind")
    params: Params | None = attr(
        2, "NFQA_CFG_PARAMS", default=None, policy=octets(5), doc="copy mode and range; an unknown mode is acknowledged and ignored"
    )
    queue_maxlen: Be32 | None = attr(
        3, "NFQA_CFG_QUEUE_MAXLEN", default=None, policy=be32, doc="how many packets may wait (default 1024); 0 lets none in"
    )
    mask: Annotated[int, as_enum(be32, QueueFlag)] | None = attr(
        4,
        "NFQA_CFG_MASK",
        default=None,
        since="3.6",
        policy=be32,
        doc="which bits of flags count; flags without it are refused (EINVAL)",
    )
    flags: Annotated[int, as_enum(be32, QueueFlag)] | None = attr(
        5, "NFQA_CFG_FLAGS", default=None, since="3.6", policy=be32, doc="new values of the bits in mask"
    )


class VerdictBatch(Message, subsystem=QUEUE, type=3, direction=Direction.TO_KERNEL, kernel_name="NFQNL_MSG_VERDICT_BATCH"):
    """One verdict for every waiting packet up to and including an id (since 3.1), from the front of the queue.

    Mark and priority apply to each; anything else in the message is ignored. ENOENT when nothing was waiting up to there.
    """

    header: VerdictHeader = attr(2, "NFQA_VERDICT_HDR", policy=octets(8), doc="verdict word and the last packet id")
    mark: Be32 | None = attr(3, "NFQA_MARK", default=None, policy=be32, doc="new packet mark; 0 clears it")
    priority: Be32 | None = attr(21, "NFQA_PRIORITY", default=None, since="5.18", policy=be32, doc="new packet priority")
