"""What NLMSG_ERROR looks like, byte by byte."""

from __future__ import annotations

import struct
from errno import ENODEV, ERANGE

import pytest

from nfnl.wire.constants import ExtAck, SocketOption
from nfnl.wire.control import Ack, ExtendedAck
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import Client, attribute, be32, bind, padded, queue_config, unbind

CAPPED, TLVS = 0x100, 0x200
#: queue 12, which nobody has bound: refused by the subsystem itself
NOBODY_BOUND = queue_config(attribute(3, be32(5)), queue=12)
#: a command of one byte instead of four: refused while its attributes are checked
TOO_SHORT = queue_config(attribute(1, b"\1"), queue=12)

each_setting = pytest.mark.parametrize(
    ("cap_ack", "ext_ack"), [(0, 0), (0, 1), (1, 0), (1, 1)], ids=["plain", "EXT", "CAP", "CAP-EXT"]
)


def client_with(kernel: KernelUnderTest, cap_ack: int = 0, ext_ack: int = 0) -> Client:
    return Client(kernel).option(SocketOption.CAP_ACK, cap_ack).option(SocketOption.EXT_ACK, ext_ack)


def expected(client: Client, request: bytes, error: int, *, flags: int, copied: bytes, tlvs: bytes = b"") -> bytes:
    """An NLMSG_ERROR put together by hand."""
    body = struct.pack("=i", -error) + copied + tlvs
    return struct.pack("=IHHII", 16 + len(body), 2, flags, 1, client.port_id) + body


def text(sentence: str) -> bytes:
    """NLMSGERR_ATTR_MSG."""
    return attribute(ExtAck.MSG, sentence.encode() + b"\0")


@rule("AK-20", "C7-7")
@each_setting
def test_success_repeats_the_header_alone(kernel: KernelUnderTest, cap_ack: int, ext_ack: int) -> None:
    client = client_with(kernel, cap_ack, ext_ack)
    request = bind(7)
    assert client.ask(request) == [expected(client, request, 0, flags=CAPPED, copied=request[:16])]


@rule("AK-21", "C7-8")
@pytest.mark.parametrize("ext_ack", [0, 1])
def test_a_refusal_repeats_the_whole_request(kernel: KernelUnderTest, ext_ack: int) -> None:
    client = client_with(kernel, 0, ext_ack)
    assert client.ask(NOBODY_BOUND) == [expected(client, NOBODY_BOUND, ENODEV, flags=0, copied=NOBODY_BOUND)]


@rule("AK-21")
def test_however_long_it_is(kernel: KernelUnderTest) -> None:
    client = client_with(kernel)
    request = queue_config(attribute(99, bytes(60000)), queue=12)
    assert client.ask(request) == [expected(client, request, ENODEV, flags=0, copied=request)]


@rule("AK-21")
def test_of_several_requests_only_its_own_is_repeated(kernel: KernelUnderTest) -> None:
    client = client_with(kernel)
    answers = client.ask(NOBODY_BOUND + TOO_SHORT)
    assert answers == [
        expected(client, NOBODY_BOUND, ENODEV, flags=0, copied=NOBODY_BOUND),
        expected(client, TOO_SHORT, ERANGE, flags=0, copied=TOO_SHORT),
    ]


@rule("AK-22")
@pytest.mark.parametrize("ext_ack", [0, 1])
def test_a_capped_refusal_repeats_the_header_alone(kernel: KernelUnderTest, ext_ack: int) -> None:
    client = client_with(kernel, 1, ext_ack)
    answer = expected(client, NOBODY_BOUND, ENODEV, flags=CAPPED, copied=NOBODY_BOUND[:16])
    assert client.ask(NOBODY_BOUND) == [answer]
    assert Ack(answer).request_len == len(NOBODY_BOUND), "the length of the request, not of what is left of it"


@rule("AK-23", "C7-9")
@pytest.mark.parametrize("cap_ack", [0, 1])
def test_explanations_stand_behind_the_request(kernel: KernelUnderTest, cap_ack: int) -> None:
    client = client_with(kernel, cap_ack, 1)
    tlvs = text("Attribute failed policy validation") + attribute(ExtAck.OFFS, struct.pack("=I", 20))
    copied, flags = (TOO_SHORT[:16], TLVS | CAPPED) if cap_ack else (TOO_SHORT, TLVS)
    assert client.ask(TOO_SHORT) == [expected(client, TOO_SHORT, ERANGE, flags=flags, copied=copied, tlvs=tlvs)]


@rule("AK-23")
@pytest.mark.parametrize("cap_ack", [0, 1])
def test_who_does_not_ask_for_explanations_gets_none(kernel: KernelUnderTest, cap_ack: int) -> None:
    assert client_with(kernel, cap_ack, 0).ack(TOO_SHORT).extended is None


@rule("AK-24")
def test_the_policy_comes_last(kernel: KernelUnderTest) -> None:
    ack = client_with(kernel, 1, 1).ack(queue_config(attribute(3, b"\0\0\5"), queue=12))
    assert ack.extended is not None
    assert [tlv.number for tlv in ack.extended.attributes] == [ExtAck.MSG, ExtAck.OFFS, ExtAck.POLICY]


@rule("AK-24")
def test_refusals_of_the_subsystem_itself_come_without_explanation(kernel: KernelUnderTest) -> None:
    client = client_with(kernel, 1, 1)
    client.ack(bind(7))
    somebody_else = client_with(kernel, 1, 1)
    refusals = [NOBODY_BOUND, bind(7), queue_config(attribute(5, be32(1)), queue=7)]
    assert [client.ack(request).extended for request in refusals] == [None] * 3
    assert somebody_else.ack(unbind(7)).extended is None


@rule("AK-25", "C7-9")
@pytest.mark.parametrize("cap_ack", [0, 1])
def test_a_success_can_carry_a_warning(kernel: KernelUnderTest, cap_ack: int) -> None:
    client = client_with(kernel, cap_ack, 1)
    request = bind(7) + b"\0"
    request = struct.pack("=I", len(request)) + request[4:]
    tlvs = text("bytes leftover after parsing attributes")
    assert client.ask(request) == [expected(client, request, 0, flags=CAPPED | TLVS, copied=request[:16], tlvs=tlvs)]


@rule("AK-25")
def test_who_asks_for_no_acknowledgement_gets_no_warning(kernel: KernelUnderTest) -> None:
    request = bind(7, flags=1) + b"\0"
    request = struct.pack("=I", len(request)) + request[4:]
    assert client_with(kernel, 0, 1).ask(request) == []


@rule("AK-26")
@pytest.mark.parametrize("ext_ack", [0, 1])
@pytest.mark.parametrize("stray", [b"a", b"ab", b"abc"])
def test_the_repeated_request_is_padded(kernel: KernelUnderTest, stray: bytes, ext_ack: int) -> None:
    client = client_with(kernel, 0, ext_ack)
    unpadded = struct.pack("=HH", 4 + len(stray), 99) + stray
    request = queue_config(attribute(1, b"\1") + unpadded, queue=33)
    assert len(request) % 4 == len(stray)
    tlvs = text("Attribute failed policy validation") + attribute(ExtAck.OFFS, struct.pack("=I", 20))
    answer = expected(client, request, ERANGE, flags=TLVS * ext_ack, copied=padded(request), tlvs=tlvs if ext_ack else b"")
    assert client.ask(request) == [answer]


@rule("AK-23", "AK-26")
def test_a_reader_finds_the_explanation_behind_an_unaligned_request(kernel: KernelUnderTest) -> None:
    request = queue_config(attribute(1, b"\1") + b"abc", queue=33)
    ack = client_with(kernel, 0, 1).ack(request)
    assert ack.request == request
    assert ack.extended == ExtendedAck(message="Attribute failed policy validation", offset=20)
