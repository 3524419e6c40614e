"""What somebody writes who needs just this and knows `struct`: the judge of our codec.

One function for each thing, as straight as it gets: formats made once, no classes, and only such checks as nobody can do without.
It is not tuned when the codec is.
"""

from __future__ import annotations

from struct import Struct

_NLMSGHDR = Struct("=IHHII")
_NFGENMSG = Struct(">BBH")
_NLATTR = Struct("=HH")
_VERDICT_HEADER = Struct(">II")
_MARK = Struct(">I")

_VERDICT = 0x0301
_REQUEST = 1
NFQA_VERDICT_HDR, NFQA_MARK, NFQA_PAYLOAD = 2, 3, 10


def parse(data: bytes) -> tuple[int, int, int, int, int, dict[int, bytes]]:
    """Type, flags, sequence number, family and resource id of a message, and all its attributes by their type."""
    length, kind, flags, seq, _ = _NLMSGHDR.unpack_from(data, 0)
    family, _, res_id = _NFGENMSG.unpack_from(data, 16)
    if length > len(data):
        raise ValueError("cut short")
    attributes: dict[int, bytes] = {}
    offset = 20
    while length - offset >= 4:
        size, type_ = _NLATTR.unpack_from(data, offset)
        if size < 4 or offset + size > length:
            raise ValueError("an attribute that cannot be")
        attributes[type_ & 0x3FFF] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return kind, flags, seq, family, res_id, attributes


def verdict(queue: int, packet_id: int, word: int) -> bytes:
    """A plain verdict."""
    return (
        _NLMSGHDR.pack(32, _VERDICT, _REQUEST, packet_id, 0)
        + _NFGENMSG.pack(0, 0, queue)
        + _NLATTR.pack(12, NFQA_VERDICT_HDR)
        + _VERDICT_HEADER.pack(word, packet_id)
    )


def build(type_: int, flags: int, seq: int, res_id: int, attributes: dict[int, bytes]) -> bytes:
    """Any message of attributes that are bytes already."""
    body = bytearray()
    for number, value in attributes.items():
        body += _NLATTR.pack(4 + len(value), number)
        body += value
        body += bytes(-len(value) % 4)
    return _NLMSGHDR.pack(20 + len(body), type_, flags, seq, 0) + _NFGENMSG.pack(0, 0, res_id) + body


def marked_verdict(queue: int, packet_id: int, word: int, mark: int, payload: bytes) -> bytes:
    """A verdict that changes the mark and the contents."""
    attributes = {NFQA_VERDICT_HDR: _VERDICT_HEADER.pack(word, packet_id), NFQA_MARK: _MARK.pack(mark), NFQA_PAYLOAD: payload}
    return build(_VERDICT, _REQUEST, packet_id, queue, attributes)
