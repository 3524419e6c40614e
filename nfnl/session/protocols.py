"""Layer-4 protocols by name, for people who do not know that 132 is SCTP. The names are those of /etc/protocols."""

from __future__ import annotations

#: those that conntrack knows something about, and some more
PROTOCOLS: dict[str, int] = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}


def protocol_number(protocol: str | int) -> int:
    """The number of a protocol given by name, in any case (``"tcp"``), or number. Raises ValueError for what is neither."""
    if isinstance(protocol, str):
        found = PROTOCOLS.get(protocol.lower().replace("-", ""))
        if found is None:
            raise ValueError(f"there is no protocol {protocol!r} here: give its number, or one of {', '.join(PROTOCOLS)}")
        return found
    if not 0 <= protocol <= 255:
        raise ValueError(f"protocols have numbers from 0 to 255, not {protocol}")
    return protocol
