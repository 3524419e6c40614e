"""Rewriting packets of translated flows (net/netfilter/nf_nat_proto.c)."""

from __future__ import annotations

from nfnl.sim import answers
from nfnl.sim.checksums import crc32c
from nfnl.sim.nat import Manip
from nfnl.sim.skb import ICMP, ICMPV6, IPV4, TCP, UDP, Checksum, Skb, checksum, find_header
from nfnl.sim.tuples import DCCP, GRE, SCTP, UDPLITE, Tuple

#: where the checksum stands in the header, how long the header has to be for it to be there
_CHECKSUMS = {TCP: (16, 20), UDP: (6, 8), UDPLITE: (6, 8), DCCP: (6, 12)}
#: ICMP with an identifier
_QUERIES = {ICMP: frozenset((0, 8, 13, 14, 15, 16, 17, 18)), ICMPV6: frozenset((128, 129))}
_REWRITTEN = frozenset((*_CHECKSUMS, *_QUERIES, SCTP, GRE))
_MANGLED_0 = 0xFFFF


def rewrite(skb: Skb, target: Tuple, manip: Manip) -> bool:
    """Give the packet the source or the destination of a tuple, and put its checksums right (`nf_nat_manip_pkt`).

    False: too little of its transport header is there, and it is to be dropped.
    """
    changed = _rewritten(skb.data, skb.family, target, manip, skb.csum is Checksum.PARTIAL)
    if changed is None:
        return False
    if changed != skb.data:
        skb.set_data(changed)
    return True


def rewrite_quoted(skb: Skb, at: int, target: Tuple, manip: Manip) -> bool:
    """The same for the packet that an ICMP error quotes, which begins at ``at``; then the error's own checksum is made anew."""
    data = skb.data
    start = at - 8
    inner = _rewritten(data[at:], skb.family, target, manip, False)
    if inner is None:
        return False
    message = data[start : start + 2] + b"\0\0" + data[start + 4 : at] + inner
    if skb.csum is not Checksum.PARTIAL:
        src, dst, *_ = skb.parse()
        pseudo = 0 if skb.family == IPV4 else answers.pseudo(src, dst, ICMPV6, len(message))
        message = message[:2] + checksum(message, pseudo).to_bytes(2, "big") + message[4:]
    else:
        message = message[:2] + data[start + 2 : start + 4] + message[4:]
    skb.set_data(data[:start] + message)
    return True


def _rewritten(data: bytes, family: int, target: Tuple, manip: Manip, partial: bool) -> bytes | None:
    address = target.src if manip is Manip.SRC else target.dst
    if family == IPV4:
        if len(data) < 20:
            return None
        place, at = (12 if manip is Manip.SRC else 16), (data[0] & 0xF) << 2
        fragment = (data[6] << 8 | data[7]) & 0x1FFF
    else:
        if len(data) < 40:
            return None
        place = 8 if manip is Manip.SRC else 24
        _, at, flags = find_header(data)
        fragment = flags & ~7
    old = data[place : place + len(address)]
    payload = data[at:]
    if not fragment:
        rewritten = _transport(payload, target, manip, old, address, partial)
        if rewritten is None:
            return None
        payload = rewritten
    head = data[:place] + address + data[place + len(address) : at]
    if family == IPV4:
        sum_ = replaced(int.from_bytes(head[10:12], "big"), old, address)
        head = head[:10] + sum_.to_bytes(2, "big") + head[12:]
    return head + payload


def _transport(data: bytes, target: Tuple, manip: Manip, old_address: bytes, address: bytes, partial: bool) -> bytes | None:
    """`l4proto_manip_pkt`: from the transport header on, of which an ICMP error may quote 8 bytes. None: there are fewer."""
    protocol = target.protocol
    if protocol not in _REWRITTEN:
        return data
    if len(data) < 8:
        return None
    if protocol in _CHECKSUMS:
        return _ports(data, target, manip, old_address, address, partial)
    if protocol == SCTP:
        data = _with_port(data, target, manip)
        if len(data) < 12:
            return data
        return data[:8] + crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little") + data[12:]
    if protocol in _QUERIES:
        sum_ = int.from_bytes(data[2:4], "big")
        if protocol == ICMPV6:
            sum_ = replaced(sum_, old_address, address)
        if data[0] in _QUERIES[protocol]:
            new = target.src_part.to_bytes(2, "big")
            sum_ = replaced(sum_, data[4:6], new)
            data = data[:4] + new + data[6:]
        return data[:2] + sum_.to_bytes(2, "big") + data[4:]
    if manip is Manip.DST and data[1] & 7 == 1:  # GRE
        return data[:6] + target.dst_part.to_bytes(2, "big") + data[8:]
    return data


def _with_port(data: bytes, target: Tuple, manip: Manip) -> bytes:
    if manip is Manip.SRC:
        return target.src_part.to_bytes(2, "big") + data[2:]
    return data[:2] + target.dst_part.to_bytes(2, "big") + data[4:]


def _ports(data: bytes, target: Tuple, manip: Manip, old_address: bytes, address: bytes, partial: bool) -> bytes:
    protocol = target.protocol
    changed = _with_port(data, target, manip)
    place, size = _CHECKSUMS[protocol]
    sum_ = int.from_bytes(data[place : place + 2], "big")
    if len(data) < size or (protocol == UDP and not sum_ and not partial):
        return changed
    if partial:  # it is the sum of the pseudo header, and no complement
        sum_ = replaced(sum_ ^ 0xFFFF, old_address, address) ^ 0xFFFF
    else:
        sum_ = replaced(replaced(sum_, old_address, address), data[:4], changed[:4])
        if protocol in (UDP, UDPLITE):
            sum_ = sum_ or _MANGLED_0
    return changed[:place] + sum_.to_bytes(2, "big") + changed[place + 2 :]


def replaced(sum_: int, old: bytes, new: bytes) -> int:
    """A checksum after some bytes under it were changed (RFC 1624); wrong ones stay as wrong as they were."""
    if old == new:
        return sum_
    total = sum_ ^ 0xFFFF
    for before, after in zip(_words(old), _words(new), strict=True):
        total += (before ^ 0xFFFF) + after
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _words(data: bytes) -> list[int]:
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]
