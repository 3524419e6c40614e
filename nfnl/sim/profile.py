"""Where kernels differ from each other, and how much memory they say a message takes."""

from __future__ import annotations

from dataclasses import dataclass

from nfnl.sim.errnos import Errno

#: sizeof(struct sk_buff), and of the struct skb_shared_info behind the data, both rounded up (x86-64)
_SKB = 256
_TRAILER = 320
_PAGE = 4096


def _version(name: str) -> list[int]:
    return [int(part) for part in name.split(".")]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kernel. The defaults are those of 6.18.44; `PROFILES` has others.

    The patch level matters more than the series: several of these came to old series as fixes. Sizes are for x86-64 with
    4 KiB pages.
    """

    name: str = "6.18.44"
    #: a datagram must fit into what is left of the receive buffer; False: it is enough that the buffer is not over-full yet
    strict_admission: bool = True
    #: NETLINK_LISTEN_ALL_NSID can be read back
    listen_all_nsid_readable: bool = True
    #: bytes of the small head for packets (``SKB_SMALL_HEAD_CACHE_SIZE``; depends on build options); 0 where there is none
    small_head: int = 576
    #: ``net.core.rmem_max`` and ``net.core.wmem_max``
    rmem_max: int = 4194304
    wmem_max: int = 4194304
    #: most packets in one queue, whatever its length is set to; None: no such limit
    entry_limit: int | None = 65536
    #: NFQA_PRIORITY is told and obeyed
    priority: bool = True
    #: NFQA_CGROUP_CLASSID is told
    cgroup_classid: bool = True
    #: answer to a queue command that does not exist
    unknown_command: Errno = Errno.EOPNOTSUPP
    #: bytes asked for a queue message without payload, timestamp and ids
    queue_message: int = 120
    #: numbers of nfnetlink subsystems: 0 to this, exclusive (NFNL_SUBSYS_COUNT)
    subsystems: int = 13
    #: queues tell the flows of packets, and verdicts may change them (CONFIG_NETFILTER_NETLINK_GLUE_CT; depends on build options)
    conntrack_glue: bool = False
    #: CTA_FILTER lets flows through whose IPv6 addresses are *not* those it names
    filter_inverts_ipv6: bool = True
    #: NLMSG_DONE of a dump of flows has NLM_F_DUMP_FILTERED, too
    done_says_filtered: bool = False

    def knows(self, since: str) -> bool:
        """It has what came with that kernel; "": what always was there."""
        return not since or _version(since) <= _version(self.name)

    def head(self, size: int) -> int:
        """Bytes taken for a buffer of ``size`` (`__alloc_skb`)."""
        total = ((size + 63) & -64) + _TRAILER
        if total <= self.small_head:
            return self.small_head
        return 1 << (total - 1).bit_length()

    def room(self, size: int) -> int:
        """Bytes that fit into a buffer that was made for ``size``."""
        return self.head(size) - _TRAILER

    def truesize(self, asked: int, used: int, paged: int = 0) -> int:
        """What a socket is charged for a message of the kernel's: ``asked`` bytes were allocated for it and ``used`` written.

        ``paged`` bytes are attached as pages and count by themselves. Where at least half is slack the message is
        shrunk as it is sent (`netlink_trim`).
        """
        total = self.head(asked)
        if (total - _TRAILER - used) * 2 >= total + _SKB + paged:
            total = self.head(used)
        return total + _SKB + paged

    def buffer_truesize(self, size: int) -> int:
        """What a socket is charged for a buffer of ``size`` bytes that is not shrunk, however little is in it."""
        return self.head(size) + _SKB

    def packet_truesize(self, size: int) -> int:
        """What a local socket is charged for a packet of so many bytes that it sends, room for a link-layer header included."""
        return self.head(size + 31) + _SKB

    def user_truesize(self, size: int, *, multicast: bool) -> int:
        """What a socket is charged for a datagram of another user's (`netlink_alloc_large_skb`)."""
        total = ((size + 63) & -64) + _TRAILER
        if total > _PAGE and not multicast:
            return total + _SKB
        return self.truesize(size, size)


#: Kernels that were measured, by their version.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "5.10.223",
            strict_admission=False,
            listen_all_nsid_readable=False,
            small_head=0,
            rmem_max=212992,
            wmem_max=212992,
            entry_limit=None,
            priority=False,
            cgroup_classid=False,
            unknown_command=Errno.ENOTSUPP,
            queue_message=104,
            subsystems=12,
        ),
        Profile(
            "6.1.192",
            listen_all_nsid_readable=False,
            small_head=0,
            rmem_max=212992,
            wmem_max=212992,
            entry_limit=None,
            cgroup_classid=False,
            queue_message=112,
        ),
        Profile("6.12.117", small_head=640, rmem_max=212992, wmem_max=212992, filter_inverts_ipv6=False, done_says_filtered=True),
        Profile("6.18.15", small_head=640, entry_limit=None, unknown_command=Errno.ENOTSUPP),
        Profile(),
    )
}
