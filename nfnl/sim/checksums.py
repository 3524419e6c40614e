"""Whether a packet's transport checksum is right (net/netfilter/utils.c `nf_checksum`)."""

from __future__ import annotations

from nfnl.sim import answers
from nfnl.sim.skb import IPV4, TCP, UDP, Skb, checksum

#: CRC32c (Castagnoli), a byte at a time, as SCTP has it (RFC 9260, appendix A)
_CRC32C = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    _CRC32C.append(_byte)


def crc32c(data: bytes) -> int:
    """The checksum of SCTP, over a packet from its header on in which the checksum is 0; it stands there in little-endian order."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def is_right_sctp(data: bytes) -> bool:
    """From the SCTP header on (`sctp_compute_cksum`)."""
    return crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little") == data[8:12]


def is_right(skb: Skb, protocol: int, at: int) -> bool:
    """`nf_ip_checksum`, `nf_ip6_checksum`, for the transport header at ``at``; whatever is known about it already."""
    data = skb.data
    src, dst, *_ = skb.parse()
    if skb.family == IPV4:  # the sum goes over the IP header as well, which adds up to nothing
        initial = answers.pseudo(src, dst, protocol, len(data) - at) if protocol in (TCP, UDP) else 0
        return not checksum(data, initial)
    return not checksum(data[at:], answers.pseudo(src, dst, protocol, len(data) - at))


def made_anew(family: int, data: bytes, protocol: int, at: int, *, partial: bool) -> bytes:
    """A packet of TCP or UDP whose payload has changed: lengths and checksums are those of what it is now (`nf_nat_csum_recalc`).

    ``partial``: the transport checksum is only the sum of the pseudo header, for the device to complete.
    """
    length = len(data) - at
    if family == IPV4:
        head = data[:2] + len(data).to_bytes(2, "big") + data[4:10] + b"\0\0" + data[12:at]
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        src, dst = data[12:16], data[16:20]
    else:
        head = data[:4] + (len(data) - 40).to_bytes(2, "big") + data[6:at]
        src, dst = data[8:24], data[24:40]
    place = {TCP: 16, UDP: 6}[protocol]
    payload = data[at:]
    pseudo = answers.pseudo(src, dst, protocol, length)
    if partial:
        sum_ = 0xFFFF - checksum(b"", pseudo)
    else:
        sum_ = checksum(payload[:place] + b"\0\0" + payload[place + 2 :], pseudo)
        if protocol == UDP:
            sum_ = sum_ or 0xFFFF
    return head + payload[:place] + sum_.to_bytes(2, "big") + payload[place + 2 :]
