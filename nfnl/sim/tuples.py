"""What tells one flow from another (`struct nf_conntrack_tuple`), and what the answers to it look like.

Addresses are packed bytes in network order, 4 or 16 of them; ports, ids and keys are plain numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nfnl.sim.skb import ICMP, ICMPV6, TCP, UDP

GRE, DCCP, SCTP, UDPLITE = 47, 33, 132, 136

#: Protocols whose tuples hold a pair of ports (GRE: keys); of the others but ICMP nothing is looked at.
PORT_PROTOCOLS = frozenset((TCP, UDP, SCTP, UDPLITE, GRE))

#: ICMP types that come in pairs, question and answer (net/netfilter/nf_conntrack_proto_icmp.c, ..._icmpv6.c).
ICMP_INVERSES = {
    ICMP: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    ICMPV6: {128: 129, 129: 128, 139: 140, 140: 139},
}


class Tuple(NamedTuple):
    """One direction of a flow. It is hashed and compared by value, at the speed of a plain tuple."""

    family: int  #: 2 or 10 (NFPROTO_IPV4, NFPROTO_IPV6)
    src: bytes  #: source address, packed
    dst: bytes  #: destination address, packed
    protocol: int
    src_part: int = 0  #: source port; ICMP: id; GRE: key; 0 for protocols of which nothing is looked at
    dst_part: int = 0  #: destination port; ICMP: type << 8 | code; GRE: key

    @property
    def icmp_type(self) -> int:
        """Of an ICMP or ICMPv6 tuple."""
        return self.dst_part >> 8

    @property
    def icmp_code(self) -> int:
        """Of an ICMP or ICMPv6 tuple."""
        return self.dst_part & 0xFF

    def inverse(self) -> Tuple | None:
        """What answers to it carry; None for an ICMP type that has no answer (`nf_ct_invert_tuple`)."""
        family, src, dst, protocol, src_part, dst_part = self
        inverses = ICMP_INVERSES.get(protocol)
        if inverses is None:
            return Tuple(family, dst, src, protocol, dst_part, src_part)
        kind = inverses.get(dst_part >> 8)
        return None if kind is None else Tuple(family, dst, src, protocol, src_part, kind << 8 | dst_part & 0xFF)

    def __deepcopy__(self, memo: Any) -> Tuple:
        return self  # nothing in it can change; a snapshot of many flows is quicker for it


class Zone(NamedTuple):
    """A zone: equal tuples in different zones are different flows (`struct nf_conntrack_zone`).

    In a direction it is not valid for, the id counts as 0.
    """

    id: int = 0  #: 0 to 65535
    directions: int = 3  #: 1: valid for the original direction, 2: for the reply direction, 3: for both

    @property
    def original_id(self) -> int:
        """What counts for tuples of the original direction."""
        return self.id if self.directions & 1 else 0

    @property
    def reply_id(self) -> int:
        """What counts for tuples of the reply direction."""
        return self.id if self.directions & 2 else 0

    def __deepcopy__(self, memo: Any) -> Zone:
        return self


DEFAULT_ZONE = Zone()
