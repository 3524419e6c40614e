"""How the attributes of an nfnetlink message are checked before anybody looks at them."""

from __future__ import annotations

import struct

import pytest

from nfnl.wire.constants import NLA_F_NESTED, NLA_F_NET_BYTEORDER, SocketOption, SubsystemId
from nfnl.wire.control import Ack
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import needs, only, rule
from tests.contract.wirekit import (
    CONFIG,
    LOG_CONFIG,
    PACKET,
    VERDICT,
    VERDICT_BATCH,
    Client,
    attribute,
    be32,
    bind,
    nfnetlink,
    queue_config,
)

CMD, PARAMS, MAXLEN, MASK, FLAGS = 1, 2, 3, 4, 5
VERDICT_HDR, MARK, PAYLOAD, CT, VLAN, PRIORITY = 2, 3, 10, 11, 19, 21

FAILED = "Attribute failed policy validation"
LEFTOVER = "bytes leftover after parsing attributes"
#: where the first attribute of a message stands
FIRST = 20


@pytest.fixture
def owner(kernel: KernelUnderTest) -> Client:
    """Somebody who owns queue 7 and is told why he is refused."""
    client = Client(kernel).option(SocketOption.EXT_ACK).option(SocketOption.CAP_ACK)
    assert client.answers(bind(7)) == ["ACK"]
    return client


def params(mode: int, copy_range: int = 0) -> bytes:
    """NFQA_CFG_PARAMS: what /proc shows of it is how these tests see which attribute counted."""
    return attribute(PARAMS, struct.pack(">IB", copy_range, mode))


def copy_mode(kernel: KernelUnderTest) -> int:
    """The copy mode of the one queue there is."""
    return int(kernel.read_proc("netfilter/nfnetlink_queue").split()[3])


def configured(owner: Client, attributes: bytes) -> Ack:
    return owner.ack(queue_config(attributes, queue=7))


def warned(ack: Ack) -> bool:
    """A success, with the warning that not all of it could be read."""
    assert ack.error == 0
    return ack.extended is not None and ack.extended.message == LEFTOVER


# --------------------------------------------------------------------------------------------------------------------- length


@rule("AT-1", "C7-15", "C7-51")
@pytest.mark.parametrize(("number", "size"), [(CMD, 3), (PARAMS, 4), (MAXLEN, 3), (MAXLEN, 0), (MASK, 3), (FLAGS, 3)])
def test_an_attribute_that_is_too_short_is_refused(owner: Client, number: int, size: int) -> None:
    ack = configured(owner, attribute(number, bytes(size)))
    assert (ack.error, ack.extended and ack.extended.message) == (34, FAILED)


@rule("AT-1")
def test_the_refusal_says_where_it_stands(owner: Client) -> None:
    before = attribute(99, b"12345678") + params(2)
    ack = configured(owner, before + attribute(MAXLEN, bytes(3)))
    assert ack.extended is not None
    assert ack.extended.offset == FIRST + len(before)


@rule("AT-1")
def test_a_refused_message_changes_nothing(kernel: KernelUnderTest, owner: Client) -> None:
    assert configured(owner, params(2) + attribute(MAXLEN, bytes(3))).error == 34
    assert copy_mode(kernel) == 0


@rule("AT-2", "C7-15")
def test_an_attribute_that_is_too_long_is_read_from_the_front(kernel: KernelUnderTest, owner: Client) -> None:
    ack = configured(owner, attribute(PARAMS, struct.pack(">IB", 0, 1) + b"\2\2\2") + attribute(MAXLEN, be32(5) + bytes(60)))
    assert (ack.error, ack.extended) == (0, None)
    assert copy_mode(kernel) == 1


@rule("AT-3", "C7-13")
@pytest.mark.parametrize("number", [0, 6, 99, 0x3FFF])
def test_an_unknown_attribute_is_ignored(kernel: KernelUnderTest, owner: Client, number: int) -> None:
    ack = configured(owner, attribute(number, b"x") + params(1) + attribute(number))
    assert (ack.error, ack.extended) == (0, None)
    assert copy_mode(kernel) == 1


@rule("AT-4")
def test_of_a_repeated_attribute_the_last_counts(kernel: KernelUnderTest, owner: Client) -> None:
    assert configured(owner, params(1) + params(2) + params(1)).error == 0
    assert copy_mode(kernel) == 1


@rule("AT-4")
def test_of_a_repeated_attribute_each_is_checked(owner: Client) -> None:
    assert configured(owner, attribute(PARAMS, bytes(1)) + params(2)).error == 34


@rule("AT-4")
def test_the_first_that_fails_decides_the_answer(owner: Client) -> None:
    ack = configured(owner, attribute(MAXLEN, bytes(1)) + attribute(CMD, bytes(1)))
    assert ack.extended is not None
    assert (ack.extended.offset, ack.extended.policy is not None) == (FIRST, True)


# ----------------------------------------------------------------------------------------------------------------------- walk


@rule("AT-5", "C7-12")
@pytest.mark.parametrize(
    "rest",
    [
        b"\0",
        b"\0\0",
        b"\0\0\0",
        attribute(MAXLEN, length=3),
        attribute(MAXLEN, be32(1), length=9),
        attribute(MAXLEN, length=0xFFFF),
    ],
    ids=["1 byte", "2 bytes", "3 bytes", "nla_len 3", "nla_len beyond", "nla_len 65535"],
)
def test_what_cannot_be_an_attribute_ends_the_walk_with_a_warning(kernel: KernelUnderTest, owner: Client, rest: bytes) -> None:
    assert warned(configured(owner, params(1) + rest))
    assert copy_mode(kernel) == 1


@rule("AT-5")
@pytest.mark.parametrize("length", [0, 3])
def test_what_stands_behind_it_is_not_seen(kernel: KernelUnderTest, owner: Client, length: int) -> None:
    assert warned(configured(owner, attribute(99, length=length) + params(2) + attribute(MAXLEN, b"\0")))
    assert copy_mode(kernel) == 0


@rule("AT-5", "C7-12")
def test_what_is_not_seen_may_be_missed(owner: Client) -> None:
    unseen = attribute(99, length=3) + attribute(VERDICT_HDR, be32(1) + be32(1))
    ack = owner.ack(nfnetlink(SubsystemId.QUEUE, VERDICT, unseen, res_id=7))
    assert ack.error == 22
    assert ack.extended is not None
    assert ack.extended.message == LEFTOVER


@rule("AT-6")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_last_attribute_needs_no_padding(owner: Client, size: int) -> None:
    ack = configured(owner, params(1) + struct.pack("=HH", 4 + size, 99) + bytes(size))
    assert (ack.error, ack.extended) == (0, None)


@rule("AT-3", "C7-14")
@pytest.mark.parametrize("flag", [NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLA_F_NESTED | NLA_F_NET_BYTEORDER], ids=hex)
def test_flags_of_a_type_are_not_looked_at(kernel: KernelUnderTest, owner: Client, flag: int) -> None:
    ack = configured(owner, attribute(PARAMS | flag, struct.pack(">IB", 0, 1)))
    assert (ack.error, ack.extended) == (0, None)
    assert copy_mode(kernel) == 1


@rule("C7-14")
@pytest.mark.parametrize("flag", [0, NLA_F_NESTED], ids=["plain", "NESTED"])
def test_a_nest_needs_no_flag(owner: Client, flag: int) -> None:
    header = attribute(VERDICT_HDR, be32(1) + be32(1))
    verdict = nfnetlink(SubsystemId.QUEUE, VERDICT, header + attribute(VLAN | flag, attribute(1, b"\x81\0")), res_id=7)
    assert owner.answers(verdict) == ["ENOENT"], "no such packet, but nothing wrong with the message"


# --------------------------------------------------------------------------------------------------------------------- policy

U32 = attribute(4, struct.pack("=Q", 0)) + attribute(5, struct.pack("=Q", 0xFFFFFFFF)) + attribute(1, struct.pack("=I", 4))
U16 = attribute(4, struct.pack("=Q", 0)) + attribute(5, struct.pack("=Q", 0xFFFF)) + attribute(1, struct.pack("=I", 3))
NEST = attribute(1, struct.pack("=I", 13))


@rule("AT-7")
@pytest.mark.parametrize(
    ("operation", "number", "size", "policy"),
    [(CONFIG, MAXLEN, 3, U32), (CONFIG, PARAMS, 4, None), (VERDICT, MARK, 0, U32), (VERDICT, VLAN, 3, NEST)],
    ids=["u32", "structure", "u32 of a verdict", "nest"],
)
def test_the_refusal_says_what_is_right(owner: Client, operation: int, number: int, size: int, policy: bytes | None) -> None:
    ack = owner.ack(nfnetlink(SubsystemId.QUEUE, operation, attribute(number, bytes(size)), res_id=7))
    assert ack.extended is not None
    assert (ack.extended.policy and bytes(ack.extended.policy)) == policy


@rule("AT-7")
def test_the_policy_is_a_nest(owner: Client) -> None:
    ack = configured(owner, attribute(MAXLEN, bytes(3)))
    assert ack.extended is not None
    assert ack.extended.attributes[-1].type == NLA_F_NESTED | 4


@rule("AT-8")
@pytest.mark.parametrize(
    ("operation", "number", "least"),
    [
        (CONFIG, CMD, 4),
        (CONFIG, PARAMS, 5),
        (CONFIG, MAXLEN, 4),
        (CONFIG, MASK, 4),
        (CONFIG, FLAGS, 4),
        (VERDICT, VERDICT_HDR, 8),
        (VERDICT, MARK, 4),
        (VERDICT, VLAN, 4),
        pytest.param(VERDICT, PRIORITY, 4, marks=needs("priority-told")),
        (VERDICT, PAYLOAD, 0),
        (VERDICT, CT, 0),
        (VERDICT, 1, 0),
        (VERDICT_BATCH, VERDICT_HDR, 8),
        (VERDICT_BATCH, MARK, 4),
        pytest.param(VERDICT_BATCH, PRIORITY, 4, marks=needs("priority-told")),
        (VERDICT_BATCH, VLAN, 0),
        (VERDICT_BATCH, PAYLOAD, 0),
        (PACKET, 1, 0),
        (PACKET, MARK, 0),
    ],
)
def test_how_long_an_attribute_must_be(kernel: KernelUnderTest, operation: int, number: int, least: int) -> None:
    client = Client(kernel)

    def refusal(size: int) -> str:
        # to a queue nobody has bound: attributes are checked before that is noticed
        return client.answers(nfnetlink(SubsystemId.QUEUE, operation, attribute(number, bytes(size)), res_id=4444))[0]

    assert refusal(least) != "ERANGE"
    if least:
        assert refusal(least - 1) == "ERANGE"


@rule("AT-8")
def test_an_empty_nest_is_long_enough(owner: Client) -> None:
    assert owner.answers(nfnetlink(SubsystemId.QUEUE, VERDICT, attribute(VLAN), res_id=4444)) == ["ENODEV"]


@rule("AT-7")
@needs("flags-are-plain-numbers")
@only("linux", "queues have no number of 16 bits, and the log is not modelled yet")
def test_the_policy_of_a_short_number(owner: Client) -> None:
    ack = owner.ack(nfnetlink(SubsystemId.ULOG, LOG_CONFIG, attribute(6, bytes(1))))
    assert ack.extended is not None
    assert bytes(ack.extended.policy or b"") == U16


@rule("AT-9")
@only("linux", "the log is not modelled yet")
@pytest.mark.parametrize(("number", "least"), [(1, 1), (2, 6), (3, 4), (4, 4), (5, 4), (6, 2)])
def test_how_long_an_attribute_of_the_log_must_be(kernel: KernelUnderTest, number: int, least: int) -> None:
    client = Client(kernel)

    def refusal(size: int) -> str:
        return client.answers(nfnetlink(SubsystemId.ULOG, LOG_CONFIG, attribute(number, bytes(size)), res_id=4444))[0]

    assert [refusal(least - 1), refusal(least) == "ERANGE"] == ["ERANGE", False]
