"""Address translation at the hooks (net/netfilter/nf_nat_core.c, nf_nat_proto.c, nf_nat_masquerade.c, nf_nat_redirect.c).

The chains of nat tables are no hook functions of their own: they hang below the function that translates, which asks them once for
each flow and each end of it.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from nfnl.sim import ct_packet
from nfnl.sim.ct_entry import Entry, Status
from nfnl.sim.hooks import ACCEPT, DROP, HOOK_NAMES, INPUT, OUTPUT, POSTROUTING, PREROUTING, HookFunction, HookTable
from nfnl.sim.journey import Step
from nfnl.sim.nat import Manip, Nat, Range
from nfnl.sim.nat_packet import rewrite, rewrite_quoted
from nfnl.sim.routing import Routing
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, IPV6, Checksum, Skb
from nfnl.sim.tracking import CtInfo, direction_of
from nfnl.sim.tuples import Tuple

HOOKS = (PREROUTING, INPUT, OUTPUT, POSTROUTING)
_PRIORITIES = {PREROUTING: -100, OUTPUT: -100, INPUT: 100, POSTROUTING: 100}
MANIPS = {PREROUTING: Manip.DST, OUTPUT: Manip.DST, INPUT: Manip.SRC, POSTROUTING: Manip.SRC}
_DONE = {Manip.SRC: Status.SRC_NAT_DONE, Manip.DST: Status.DST_NAT_DONE}
_BOTH_DONE = Status.SRC_NAT_DONE | Status.DST_NAT_DONE
_BOTH = Status.SRC_NAT | Status.DST_NAT
_REDIRECTS = {ICMP: 5, ICMPV6: 137}
_LOOPBACK = {IPV4: bytes((127, 0, 0, 1)), IPV6: bytes(15) + b"\x01"}


class NatHooks:
    """Translation in one network namespace. Registered from the first nat table of a family on.

    Packets have flows to be translated only while somebody needs tracking: a target that translates does, a table without one not.
    """

    __slots__ = ("_chains", "_devices", "_hooks", "_routing", "nat")

    def __init__(self, hooks: HookTable, nat: Nat, routing: Routing) -> None:
        self.nat = nat
        self._hooks = hooks
        self._routing = routing
        #: (family, hook) -> (priority, name, what to ask), in the order they are asked
        self._chains: dict[tuple[int, int], list[tuple[int, str, HookFunction]]] = {}
        #: flows that were masqueraded, and the device they left by
        self._devices: dict[Entry, int] = {}
        nat.table.freed.append(self._freed)

    def _freed(self, entry: Entry) -> None:
        self._devices.pop(entry, None)

    def device_down(self, index: int) -> None:
        """Flows that were masqueraded when they left by this device end with it (`masq_device_event`)."""
        for entry, device in tuple(self._devices.items()):
            if device == index:
                self.nat.table.delete(entry)

    # ------------------------------------------------------------------ nat tables

    def add(self, family: int, hook: int, priority: int, name: str, function: HookFunction) -> None:
        """A chain of a nat table: asked about the first packet of each flow. Of equal priorities the last one added is first."""
        if not any(of == family for of, _ in self._chains):
            for at in HOOKS:
                self._hooks.register(family, at, _PRIORITIES[at], "nat", self)
        chains = self._chains.setdefault((family, hook), [])
        place = next((i for i, (other, _, _) in enumerate(chains) if priority <= other), len(chains))
        chains.insert(place, (priority, name, function))

    def remove(self, family: int, hook: int, name: str) -> None:
        """Take a chain away; with the last of a family translation ends."""
        self._chains[family, hook] = [chain for chain in self._chains[family, hook] if chain[1] != name]
        if not self._chains[family, hook]:
            del self._chains[family, hook]
        if not any(of == family for of, _ in self._chains):
            for at in HOOKS:
                self._hooks.unregister(family, at, "nat")

    # ------------------------------------------------------------------ a packet

    def __call__(self, skb: Skb, hook: int) -> int:
        """`nf_nat_ipv4_pre_routing`, `nf_nat_ipv4_local_fn` ..., `nf_nat_ipv4_fn`, and their IPv6 twins."""
        entry = skb.ct
        if entry is None:
            return ACCEPT
        destination = (skb.ip or skb.parse())[1]
        verdict = self._translate(skb, entry, hook)
        if verdict != ACCEPT:
            return verdict
        if hook == PREROUTING and (skb.ip or skb.parse())[1] != destination:
            skb.dst = None  # what came over the loopback is to be routed after all
        elif hook == OUTPUT:
            direction = direction_of(skb)
            if entry.tuple(direction).dst != entry.tuple(1 - direction).src and (error := self._hooks.reroute(skb)):
                self._note(skb, hook, "no route to the new destination", "DROP")
                return error << 16 | DROP
        return ACCEPT

    def _translate(self, skb: Skb, entry: Entry, hook: int) -> int:
        """`nf_nat_inet_fn`."""
        manip = MANIPS[hook]
        info = skb.ctinfo
        if info in (CtInfo.RELATED, CtInfo.RELATED_REPLY):
            found = ct_packet.where(skb)
            if found is not None and found[0] == (ICMP if skb.family == IPV4 else ICMPV6):
                return self._error(skb, entry, hook, *found)
        if info in (CtInfo.NEW, CtInfo.RELATED, CtInfo.RELATED_REPLY) and not entry.status & _DONE[manip]:
            for _, _, chain in self._chains.get((skb.family, hook), ()):
                verdict = chain(skb, hook)
                if verdict != ACCEPT:
                    return verdict
                if entry.status & _DONE[manip]:
                    break
            else:
                if not self.nat.null_binding(entry, manip):
                    return self._no(skb, hook, "its flow cannot be bound")
        elif self._left_elsewhere(skb, entry, hook):
            self.nat.table.count_packet(entry, direction_of(skb), len(skb.data))
            self.nat.table.delete(entry)
            return self._no(skb, hook, "it leaves by another device than its masqueraded flow")
        if self._is_translated(skb, entry, manip):
            target = entry.tuple(1 - direction_of(skb)).inverse()
            assert target is not None
            return self._rewrite(skb, hook, target, manip)
        return ACCEPT

    def _is_translated(self, skb: Skb, entry: Entry, manip: Manip) -> bool:
        """That end of packets of this direction is to be rewritten: answers are the other way about."""
        bit = Status.SRC_NAT if manip is Manip.SRC else Status.DST_NAT
        if direction_of(skb):
            bit ^= _BOTH
        return bool(entry.status & bit)

    def _rewrite(self, skb: Skb, hook: int, target: Tuple, manip: Manip) -> int:
        before = skb.data
        if not rewrite(skb, target, manip):
            return self._no(skb, hook, "too short to be translated")
        if skb.data != before:
            end = "source" if manip is Manip.SRC else "destination"
            self._note(skb, hook, f"{end} becomes {_end(target, manip)}", "SNAT" if manip is Manip.SRC else "DNAT")
        return ACCEPT

    def _error(self, skb: Skb, entry: Entry, hook: int, protocol: int, at: int) -> int:
        """`nf_nat_icmp_reply_translation`, `nf_nat_icmpv6_reply_translation`: inside and outside."""
        data = skb.data
        if len(data) < at + 8 + (20 if skb.family == IPV4 else 40) or not (
            skb.csum is not Checksum.NONE or ct_packet.is_sound(skb, protocol, at)
        ):
            return self._no(skb, hook, "an ICMP error that cannot be translated")
        if data[at] == _REDIRECTS[protocol] and (entry.status & _BOTH_DONE != _BOTH_DONE or entry.status & _BOTH):
            return self._no(skb, hook, "a redirect about a translated flow")
        manip = MANIPS[hook]
        if self._is_translated(skb, entry, manip):
            other = entry.tuple(1 - direction_of(skb))
            if not rewrite_quoted(skb, at + 8, other, Manip.DST if manip is Manip.SRC else Manip.SRC):
                return self._no(skb, hook, "an ICMP error that quotes too little to be translated")
            target = other.inverse()
            assert target is not None
            return self._rewrite(skb, hook, target._replace(protocol=protocol), manip)
        return ACCEPT

    def _left_elsewhere(self, skb: Skb, entry: Entry, hook: int) -> bool:
        """`nf_nat_oif_changed`."""
        device = self._devices.get(entry)
        return (
            device is not None
            and hook == POSTROUTING
            and not direction_of(skb)
            and skb.outdev is not None
            and skb.outdev.index != device
        )

    # ------------------------------------------------------------------ what rules ask for

    def bind(self, skb: Skb, hook: int, wanted: Range) -> int:
        """SNAT or DNAT, whichever end is bound here: a verdict (`nf_nat_setup_info`)."""
        entry = skb.ct
        if entry is None:
            return ACCEPT
        return ACCEPT if self.nat.setup(entry, wanted, MANIPS[hook]) else DROP

    def masquerade(self, skb: Skb, hook: int, wanted: Range) -> int:
        """SNAT to the address of the device it leaves by (`nf_nat_masquerade_ipv4`, `..._ipv6`)."""
        entry, device = skb.ct, skb.outdev
        if entry is None or device is None:
            return ACCEPT
        src, dst, *_ = skb.ip or skb.parse()
        if skb.family == IPV4 and not any(src):
            return ACCEPT  # a DHCP client
        address = None if skb.dst is None else self._routing.source(skb.family, skb.dst, dst, device)
        if address is None:
            return self._no(skb, hook, f"{device.name} has no address")
        self._devices[entry] = device.index
        return self.bind(skb, hook, replace(wanted, addresses=(address, address)))

    def redirect(self, skb: Skb, hook: int, wanted: Range) -> int:
        """DNAT to this machine (`nf_nat_redirect`): of what comes in, to the first address of its device."""
        if hook == OUTPUT:
            address: bytes | None = _LOOPBACK[skb.family]
        else:
            addresses = self._routing.addresses(skb.indev, skb.family) if skb.indev is not None else iter(())
            address = next(addresses, None)
        if address is None:
            return self._no(skb, hook, "its device has no address")
        return self.bind(skb, hook, replace(wanted, addresses=(address, address)))

    def map_net(self, skb: Skb, hook: int, network: bytes, mask: bytes) -> int:
        """NETMAP: the address keeps its bits outside the mask, which is that of the network."""
        src, dst, *_ = skb.ip or skb.parse()
        old = src if MANIPS[hook] is Manip.SRC else dst
        address = bytes(new & bits | was & ~bits & 0xFF for new, bits, was in zip(network, mask, old, strict=True))
        return self.bind(skb, hook, Range((address, address)))

    # ------------------------------------------------------------------ words

    def _no(self, skb: Skb, hook: int, why: str) -> int:
        self._note(skb, hook, why, "DROP")
        return DROP

    @staticmethod
    def _note(skb: Skb, hook: int, what: str, result: str) -> None:
        skb.journey.steps.append(Step(HOOK_NAMES[hook], "nat", "", what, result))


def _end(t: Tuple, manip: Manip) -> str:
    address, part = (t.src, t.src_part) if manip is Manip.SRC else (t.dst, t.dst_part)
    host = str(ip_address(address))
    if t.protocol in (ICMP, ICMPV6):
        return host
    return f"[{host}]:{part}" if ":" in host else f"{host}:{part}"
