"""Packets waiting for a verdict: the queues of one network namespace, and the way in and out of them.

What the kernel does in `nf_queue`, `nf_reinject` (net/netfilter/nf_queue.c) and the part of net/netfilter/nfnetlink_queue.c
that is not about messages. Whoever listens to a queue is an ``owner`` number and a function ``deliver``; that the owner is a
netlink socket is known one layer up.
"""

from __future__ import annotations

from collections.abc import Callable

from nfnl.sim import gso
from nfnl.sim.hooks import (
    ACCEPT,
    FORWARD,
    HOOK_NAMES,
    OUTPUT,
    POSTROUTING,
    QUEUE,
    QUEUE_BYPASS,
    REPEAT,
    STOP,
    VERDICT_MASK,
    VERDICT_NAMES,
    HookTable,
)
from nfnl.sim.journey import Fate, Journey, Step
from nfnl.sim.skb import IPV4, Checksum, Skb

COPY_NONE, COPY_META, COPY_PACKET = range(3)
FAIL_OPEN, CONNTRACK, GSO, UID_GID, SECCTX = 1, 2, 4, 8, 16

#: ``copy_range`` of a new queue, and the most there is: an attribute of 65535 bytes without its header.
MAX_COPY_RANGE = 0xFFFF - 4
DEFAULT_MAX_LENGTH = 1024

#: NFQA_SKB_*: bits of `QueuedEntry.skb_info`
CSUM_NOT_READY, IS_GSO, CSUM_NOT_VERIFIED = 1, 2, 4


class QueuedEntry:
    """A packet in a queue, with the place it is to go on from (`struct nf_queue_entry`).

    ``mark`` and ``priority`` may be set, as a verdict does; for the payload there is `QueueTable.replace_payload`.
    """

    __slots__ = ("_routed_by", "hook", "id", "index", "skb", "skb_info")

    def __init__(self, skb: Skb, hook: int, index: int) -> None:
        #: packet id, 1 to 2**32 - 1, then 0 and on; per queue
        self.id = 0
        self.skb = skb
        #: NF_INET_PRE_ROUTING 0 ... NF_INET_POST_ROUTING 4
        self.hook = hook
        #: which function of the hook sent it here
        self.index = index
        #: NFQA_SKB_INFO as it is to be told (CSUM_NOT_READY, IS_GSO, CSUM_NOT_VERIFIED); 0: nothing to tell
        self.skb_info = 0
        self._routed_by = _routed_by(skb) if hook == OUTPUT else None

    @property
    def family(self) -> int:
        """2 or 10."""
        return self.skb.family

    @property
    def journey(self) -> Journey:
        """What the tester holds of this packet."""
        return self.skb.journey

    @property
    def payload(self) -> bytes:
        """The packet from the network header on, whole."""
        return self.skb.data

    @property
    def mark(self) -> int:
        """``skb->mark``."""
        return self.skb.mark

    @mark.setter
    def mark(self, value: int) -> None:
        self.skb.mark = value

    @property
    def priority(self) -> int:
        """``skb->priority``."""
        return self.skb.priority

    @priority.setter
    def priority(self, value: int) -> None:
        self.skb.priority = value

    @property
    def hw_protocol(self) -> int:
        """0x0800 or 0x86dd."""
        return self.skb.hw_protocol

    @property
    def indev(self) -> int | None:
        """ifindex of the hook's input device; None where the hook has none (packets made here, before the loopback)."""
        dev = self.skb.indev
        return dev.index if dev else None

    @property
    def outdev(self) -> int | None:
        """ifindex of the hook's output device; None at PREROUTING and INPUT."""
        dev = self.skb.outdev
        return dev.index if dev else None

    @property
    def devices(self) -> list[int]:
        """All that have to do with it, bridge ports included, by ifindex."""
        frame = self.skb.frame
        ports = (frame.indev, frame.outdev) if frame else ()
        return [dev.index for dev in (self.skb.indev, self.skb.outdev, *ports) if dev]

    @property
    def hwaddr(self) -> bytes | None:
        """Source address in the link-layer header, 6 bytes; None without an input device or without such a header (tun)."""
        return self.skb.hwaddr if self.skb.indev else None

    @property
    def timestamp(self) -> float | None:
        """When it was received, in seconds since 1970; None at OUTPUT and POSTROUTING, or if nobody asked for time stamps."""
        return self.skb.tstamp if self.hook <= FORWARD else None

    @property
    def uid(self) -> int | None:
        """User of the local socket that sent it; None for received and forwarded packets and for the kernel's own."""
        return self.skb.sk.uid if self.skb.sk else None

    @property
    def gid(self) -> int | None:
        """Group of that socket."""
        return self.skb.sk.gid if self.skb.sk else None

    @property
    def reroute_needed(self) -> bool:
        """At OUTPUT: mark, TOS (IPv4 only), source or destination changed since it was queued (`nf_ip_reroute`)."""
        if self._routed_by is None:
            return False
        *before, addresses = self._routed_by
        *now, new = _routed_by(self.skb)
        return before != now or not addresses.startswith(new)  # what a short payload leaves of the header is still there

    def __repr__(self) -> str:
        return f"<QueuedEntry {self.id} at {HOOK_NAMES[self.hook]}, {len(self.skb.data)} bytes>"


def _routed_by(skb: Skb) -> tuple[int, int, bytes]:
    data = skb.data
    if skb.family == IPV4:
        return skb.mark, data[1], data[12:20]
    return skb.mark, 0, data[8:40]


class Queue:
    """One queue number that somebody listens to. The configurable fields are plain attributes."""

    __slots__ = (
        "copy_mode",
        "copy_range",
        "deliver",
        "dropped",
        "entries",
        "flags",
        "last_id",
        "max_length",
        "number",
        "owner",
        "user_dropped",
    )

    def __init__(self, number: int, owner: int) -> None:
        self.number = number
        #: port id of the listening socket
        self.owner = owner
        #: COPY_NONE (every packet is dropped), COPY_META or COPY_PACKET
        self.copy_mode = COPY_NONE
        #: bytes of the packet to tell, at most
        self.copy_range = MAX_COPY_RANGE
        #: packets that may wait at once; 0: none
        self.max_length = DEFAULT_MAX_LENGTH
        #: FAIL_OPEN | CONNTRACK | GSO | UID_GID | SECCTX
        self.flags = 0
        #: id of the last packet (0: none yet); a 32-bit counter
        self.last_id = 0
        #: packets lost because the queue was full
        self.dropped = 0
        #: packets lost because the owner did not take their messages
        self.user_dropped = 0
        #: what waits, in the order it came
        self.entries: dict[int, QueuedEntry] = {}
        #: tells the owner about a packet that has got its id and is about to wait; False: refused, or its buffer is full
        self.deliver: Callable[[Queue, QueuedEntry], bool] = _nobody

    def take(self, packet_id: int) -> QueuedEntry | None:
        """Take a packet out of the queue to decide it (`find_dequeue_entry`); None when there is no such id."""
        return self.entries.pop(packet_id, None)

    def take_until(self, packet_id: int) -> list[QueuedEntry]:
        """Take out, from the front, all whose id does not come after ``packet_id`` (a batch verdict).

        Ids are compared around the circle, as a signed 32-bit difference (`nfq_id_after`), and the first that comes after ends it.
        """
        taken = []
        for entry in self.entries.values():
            if 0 < (entry.id - packet_id) & 0xFFFFFFFF < 0x80000000:
                break
            taken.append(entry)
        for entry in taken:
            del self.entries[entry.id]
        return taken

    def __len__(self) -> int:
        """Packets that wait."""
        return len(self.entries)

    def __bool__(self) -> bool:
        return True  # an empty queue is a queue

    def __repr__(self) -> str:
        return f"<Queue {self.number} of {self.owner}, {len(self.entries)} waiting>"


def _nobody(queue: Queue, entry: QueuedEntry) -> bool:
    return False


class QueueTable:
    """All queues of a network namespace.

    ``entry_limit``: most packets in one queue, whatever its max_length, in kernels that keep them in a hash table; None in
    the others.
    """

    __slots__ = ("_queues", "entry_limit", "hooks", "run_to_rest")

    def __init__(self, hooks: HookTable, *, entry_limit: int | None = 65536) -> None:
        self.hooks = hooks
        self.entry_limit = entry_limit
        self._queues: dict[int, Queue] = {}
        #: set by the stack: let what a verdict set in motion come to rest
        self.run_to_rest: Callable[[], None] = _at_rest
        hooks.enqueue = self._nf_queue
        hooks.removed = self.flush_hook

    # ------------------------------------------------------------------ which queues there are

    def get(self, number: int) -> Queue | None:
        """The queue with this number, if somebody listens to it."""
        return self._queues.get(number)

    def create(self, number: int, owner: int) -> Queue:
        """A new queue, in mode NONE. The number must be free."""
        if number in self._queues:
            raise ValueError(f"queue {number} exists")
        queue = self._queues[number] = Queue(number, owner)
        return queue

    def destroy(self, number: int) -> None:
        """Free the number and drop what waits in it; FAIL_OPEN makes no difference. Raises KeyError if there is none."""
        queue = self._queues.pop(number)
        self._flush(queue, lambda _: True, f"queue {number} was closed")

    def queues(self) -> list[Queue]:
        """In the order of /proc/net/netfilter/nfnetlink_queue: 16 buckets, in each the newest first."""
        newest_first = reversed(self._queues.values())
        return sorted(newest_first, key=lambda queue: ((queue.number >> 8) ^ queue.number) & 15)

    # ------------------------------------------------------------------ events that drop what waits

    def flush_hook(self) -> None:
        """A function was taken from a hook of this namespace: every packet in every queue is dropped, none is counted."""
        for queue in self._queues.values():
            self._flush(queue, lambda _: True, "a netfilter hook was removed")

    def device_down(self, ifindex: int) -> None:
        """A device goes down: the packets that came in or would go out through it are dropped, none is counted."""
        for queue in self._queues.values():
            self._flush(queue, lambda entry: ifindex in entry.devices, f"device {ifindex} went down")

    def _flush(self, queue: Queue, concerned: Callable[[QueuedEntry], bool], reason: str) -> None:
        for entry in [entry for entry in queue.entries.values() if concerned(entry)]:
            del queue.entries[entry.id]
            entry.skb.drop(reason)

    # ------------------------------------------------------------------ in

    def _nf_queue(self, skb: Skb, hook: int, index: int, verdict: int) -> bool:
        """A QUEUE verdict (`nf_queue`). True: nobody listens and the verdict says bypass, so the packet is to go on."""
        number = verdict >> 16
        queue = self._queues.get(number)
        if queue is None:
            if verdict & QUEUE_BYPASS:
                self._note(skb, hook, f"queue {number}: nobody listens, bypass", "ACCEPT")
                return True
            skb.drop(f"queue {number}: nobody listens")
        elif queue.copy_mode == COPY_NONE:
            skb.drop(f"queue {number}: copy mode is NONE")
        else:
            self._enqueue_whole_or_split(queue, skb, hook, index)
        return False

    def _enqueue_whole_or_split(self, queue: Queue, skb: Skb, hook: int, index: int) -> None:
        """`nfqnl_enqueue_packet`. With a segment for which there is no place those behind it are lost, too, and not counted."""
        if _is_shared(skb):
            skb.detach()
            skb.drop("its flow is not confirmed, and another packet belongs to it as well")
            return
        whole = not skb.gso_size or queue.flags & GSO
        packets = iter([skb] if whole else gso.split(skb))
        for packet in packets:
            if not self._enqueue(queue, QueuedEntry(packet, hook, index)):
                for rest in packets:
                    rest.drop(f"a segment before it was lost at queue {queue.number}")

    def _enqueue(self, queue: Queue, entry: QueuedEntry) -> bool:
        """`__nfqnl_enqueue_packet`. False: the packet is lost."""
        skb = entry.skb
        skb.journey.queue = queue.number
        hook = entry.hook
        if skb.csum is Checksum.PARTIAL:
            if queue.copy_mode == COPY_PACKET and not queue.flags & GSO:
                skb.finish_checksum()
            else:
                entry.skb_info = CSUM_NOT_READY
        elif not skb.csum_unnecessary and (hook <= FORWARD or (hook == POSTROUTING and skb.sk is None)):
            entry.skb_info = CSUM_NOT_VERIFIED
        if skb.gso_size:
            entry.skb_info |= IS_GSO
        waiting = len(queue.entries)
        if waiting >= queue.max_length:
            return self._lost(queue, entry, "dropped", f"queue {queue.number} is full")
        entry.id = queue.last_id = (queue.last_id + 1) & 0xFFFFFFFF
        if self.entry_limit is not None and waiting >= self.entry_limit:
            return self._lost(queue, entry, "dropped", f"queue {queue.number} is full ({self.entry_limit} packets)")
        if not queue.deliver(queue, entry):
            return self._lost(queue, entry, "user_dropped", f"queue {queue.number}: its owner did not take the message")
        queue.entries[entry.id] = entry
        skb.end(Fate.QUEUED)
        return True

    def _lost(self, queue: Queue, entry: QueuedEntry, counter: str, reason: str) -> bool:
        """There is no place for a packet. True: it goes on all the same."""
        if queue.flags & FAIL_OPEN:
            self._note(entry.skb, entry.hook, f"{reason}, fail-open", "ACCEPT")
            self._reinject(entry, ACCEPT)
            return True
        setattr(queue, counter, getattr(queue, counter) + 1)
        entry.skb.drop(reason)
        return False

    # ------------------------------------------------------------------ out

    def replace_payload(self, entry: QueuedEntry, payload: bytes) -> bool:
        """Put ``payload`` in the place of the packet's bytes (`nfqnl_mangle`); nothing is checked or repaired.

        False when it cannot be done: shorter than the old packet *and* than the old packet's network header. The kernel then
        turns the verdict into DROP and reports success.
        """
        skb = entry.skb
        if len(payload) < len(skb.data) and len(payload) < skb.transport:
            return False
        skb.set_data(payload)
        skb.csum = Checksum.NONE
        return True

    def reinject(self, entry: QueuedEntry, verdict: int) -> None:
        """Carry out a verdict word on a packet that was taken out of its queue (`nf_reinject`), and run to rest.

        The word is compared whole: ACCEPT goes on with the next function, REPEAT runs the same one again, STOP and an ACCEPT with
        any upper bit set hand the packet to the stack at once, QUEUE (low byte) sends it to queue ``verdict >> 16``, anything else
        drops it.
        """
        self._reinject(entry, verdict)
        self.run_to_rest()

    def _reinject(self, entry: QueuedEntry, verdict: int) -> None:
        skb, hook = entry.skb, entry.hook
        hooks = self.hooks
        journey = skb.journey
        functions = hooks.entries(skb.family, hook)
        if entry.index >= len(functions):
            skb.drop("the netfilter hook it was queued at is gone")
            return
        journey.fate = Fate.MOVING
        journey.reason = ""
        self._note_verdict(skb, hook, verdict)
        if skb.frame is not None and not skb.frame.is_bridged:
            skb.drop("its port has left the bridge")
            return
        if verdict == REPEAT:
            verdict = functions[entry.index].function(skb, hook)
        if verdict == ACCEPT:
            if entry.reroute_needed and hooks.reroute(skb):
                skb.drop("no route after the verdict changed it")
                return
            hooks.resume(skb, hook, entry.index)
            return
        kind = verdict & VERDICT_MASK
        if kind in (ACCEPT, STOP):
            hooks.passed(skb, hook)
        elif kind == QUEUE:
            if self._nf_queue(skb, hook, entry.index, verdict):
                hooks.resume(skb, hook, entry.index)
        else:
            skb.drop(journey.steps[-1].what)  # the verdict, or after REPEAT what the function said

    def _note_verdict(self, skb: Skb, hook: int, verdict: int) -> None:
        kind = verdict & VERDICT_MASK
        name = VERDICT_NAMES[kind] if kind <= STOP else str(kind)
        result = f"QUEUE {verdict >> 16}" if kind == QUEUE else name
        self._note(skb, hook, f"verdict {name} from queue {skb.journey.queue}", result)

    def _note(self, skb: Skb, hook: int, what: str, result: str) -> None:
        skb.journey.steps.append(Step(HOOK_NAMES[hook], "", "", what, result))


def _is_shared(skb: Skb) -> bool:
    """`nf_ct_drop_unconfirmed`: its flow has died before it was confirmed, or more than one packet would have to confirm it."""
    entry = skb.ct
    if entry is None or entry.confirmed:
        return False
    return entry.dying or entry.use > 1


def _at_rest() -> None:
    pass
