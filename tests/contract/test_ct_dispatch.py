"""From a message to conntrack: who may speak, how a request is read, how it is answered."""

from __future__ import annotations

import struct
from errno import EPERM

import pytest

from nfnl.wire.constants import NLA_F_NESTED, NlmsgFlag, NlmsgType, SocketOption, SubsystemId
from tests.contract.ctkit import (
    ANY,
    CREATE,
    CT,
    DELETE,
    EXCL,
    EXP,
    GET,
    GET_CTRZERO,
    LIFE,
    NEW,
    TCP,
    UDP,
    A,
    Asker,
    B,
    Cta,
    address,
    both,
    nest,
    orig,
    pings,
    reply,
    request,
    tcp,
    u8,
    u16,
    u32,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import ACK, REQUEST, Client, attribute, message, nfgenmsg, nfnetlink, numbers, refused


def making(*attributes: bytes, port: int = 5000, seq: int = 1, ack: bool = True) -> bytes:
    """A request for a new flow."""
    return request(NEW, both(port), *attributes, flags=CREATE | EXCL, seq=seq, ack=ack)


# ----------------------------------------------------------------------------------------------------------------- permission


@rule("CTMSG-1")
def test_speaking_needs_a_capability(kernel: KernelUnderTest) -> None:
    with kernel.process():
        asker = Asker(kernel)
        assert asker.do(GET, flags=NlmsgFlag.DUMP, ack=False) == "EPERM"
        assert asker.make(both(), LIFE) == "EPERM"


@rule("CTMSG-1")
def test_the_capability_is_asked_for_once_in_a_datagram(kernel: KernelUnderTest) -> None:
    with kernel.process():
        answers = Asker(kernel).ask(making(LIFE, seq=1) + making(LIFE, port=5001, seq=2))
    assert numbers(answers) == [1]
    assert Asker(kernel).dump() == []


@rule("CTMSG-2")
@pytest.mark.parametrize("group", [1, 2, 3, 4, 6])
def test_listening_needs_a_capability(kernel: KernelUnderTest, group: int) -> None:
    with kernel.process():
        client = Client(kernel)
        with refused(EPERM):
            client.option(SocketOption.ADD_MEMBERSHIP, group)


# -------------------------------------------------------------------------------------------------------------------- framing


@rule("CTMSG-3")
@pytest.mark.parametrize(("flags", "answers"), [(ACK, ["ACK"]), (0, [])])
def test_what_is_no_request_is_not_done(asker: Asker, flags: int, answers: list[str]) -> None:
    said = nfnetlink(CT, NEW, both() + LIFE, flags=CREATE | flags, family=2)
    assert asker.answers(said) == answers
    assert asker.dump() == []


@rule("CTMSG-4")
def test_what_is_said_together_is_done_in_order_whatever_fails(asker: Asker) -> None:
    said = making(LIFE, port=1, seq=7) + making(port=2, seq=8) + making(LIFE, port=3, seq=9)
    answers = asker.ask(said)
    assert numbers(answers) == [7, 8, 9]
    assert asker.delete() == "ACK"
    assert asker.answers(said) == ["ACK", "EINVAL", "ACK"]
    assert sorted(flow.ends.numbers[0] for flow in asker.dump()) == [1, 3]


@rule("CTMSG-5")
@pytest.mark.parametrize("subsystem", [CT, EXP])
@pytest.mark.parametrize("operation", [NEW, GET, DELETE])
@pytest.mark.parametrize("size", [0, 2, 3])
def test_without_a_whole_nfgenmsg_nothing_is_done(asker: Asker, subsystem: int, operation: int, size: int) -> None:
    asker.made(both())
    assert asker.answers(message(subsystem << 8 | operation, bytes(size))) == ["ACK"]
    assert asker.answers(message(subsystem << 8 | operation, bytes(size), flags=REQUEST)) == []
    assert len(asker.dump()) == 1


@rule("CTMSG-6")
@pytest.mark.parametrize(("subsystem", "operation"), [(CT, 8), (CT, 20), (CT, 255), (EXP, 4), (EXP, 255), (60, 0)])
def test_an_operation_that_does_not_exist(asker: Asker, subsystem: int, operation: int) -> None:
    assert asker.do(operation, subsystem=subsystem) == "EINVAL"


# ----------------------------------------------------------------------------------------------------------------- attributes

#: attributes with a least size, and one byte less than that; LABELS have a most
SHORT = {
    "STATUS": attribute(Cta.STATUS, bytes(3)),
    "TIMEOUT": attribute(Cta.TIMEOUT, bytes(3)),
    "MARK": attribute(Cta.MARK, bytes(1)),
    "MARK_MASK": attribute(Cta.MARK_MASK, bytes(3)),
    "STATUS_MASK": attribute(Cta.STATUS_MASK, bytes(3)),
    "ID": attribute(Cta.ID, bytes(3)),
    "ZONE": attribute(Cta.ZONE, bytes(1)),
    "LABELS": attribute(Cta.LABELS, bytes(17)),
    "LABELS, 20 bytes": attribute(Cta.LABELS, bytes(20)),
    "LABELS_MASK": attribute(Cta.LABELS_MASK, bytes(17)),
    **{
        f"{Cta(number).name} of {size} byte(s)": attribute(number | NLA_F_NESTED, bytes(size))
        for number in (
            Cta.TUPLE_ORIG,
            Cta.TUPLE_REPLY,
            Cta.PROTOINFO,
            Cta.HELP,
            Cta.NAT_SRC,
            Cta.NAT_DST,
            Cta.TUPLE_MASTER,
            Cta.SEQ_ADJ_ORIG,
            Cta.SEQ_ADJ_REPLY,
        )
        for size in (1, 3)
    },
}


@rule("CTMSG-7")
@pytest.mark.parametrize("bad", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize("operation", [NEW, GET, DELETE, GET_CTRZERO])
def test_sizes_are_checked_before_anything_is_done(asker: Asker, operation: int, bad: bytes) -> None:
    asker.made(both())
    assert asker.do(operation, bad, both(5001), LIFE, flags=CREATE if operation == NEW else 0) == "ERANGE"
    assert len(asker.dump()) == 1


@rule("CTMSG-7")
def test_what_is_longer_is_read_from_the_front(asker: Asker) -> None:
    assert asker.make(both(), attribute(Cta.TIMEOUT, bytes((0, 0, 3, 232)) + bytes(4)), attribute(Cta.MARK, b"\0\0\0\5\1")) == "ACK"
    flow = asker.only()
    assert 900 < flow.number(Cta.TIMEOUT) <= 1000
    assert flow.mark == 5


@rule("CTMSG-7")
def test_of_a_repeated_attribute_the_last_counts(asker: Asker) -> None:
    assert asker.make(orig(1), u32(Cta.MARK, 1), both(2), LIFE, u32(Cta.MARK, 2)) == "ACK"
    flow = asker.only()
    assert (flow.ends.numbers, flow.mark) == ((2, 53), 2)


@rule("CTMSG-7")
@pytest.mark.parametrize("number", [0, 28, 99, 200, 0x3FFF])
def test_an_unknown_attribute_is_skipped(asker: Asker, number: int) -> None:
    assert asker.make(both(), LIFE, attribute(number, b"abcd")) == "ACK"


@rule("CTMSG-7")
@pytest.mark.parametrize("rest", [b"\0", b"\0\0\0"])
def test_less_than_an_attribute_at_the_end_is_ignored(asker: Asker, rest: bytes) -> None:
    assert asker.make(both(), LIFE, rest) == "ACK"


@rule("CTMSG-8")
def test_a_nest_need_not_say_that_it_is_one(asker: Asker) -> None:
    ip = nest(1, attribute(1, address(A)), attribute(2, address(B)), flag=False)
    ports = nest(2, u8(1, TCP), u16(2, 5000), u16(3, 53), flag=False)
    state = nest(Cta.PROTOINFO, nest(1, u8(1, 3), flag=False), flag=False)
    assert asker.make(nest(Cta.TUPLE_ORIG, ip, ports, flag=False), reply(number=TCP), LIFE, state) == "ACK"
    assert asker.only().inside(Cta.PROTOINFO, 1).number(1) == 3


@rule("CTMSG-8")
def test_in_a_nest_what_is_not_known_is_skipped(asker: Asker) -> None:
    ip = nest(1, attribute(99, b"zz"), attribute(1, address(A)), attribute(2, address(B)))
    ports = nest(2, u8(1, UDP), u16(2, 5000), attribute(77), u16(3, 53))
    assert asker.make(nest(Cta.TUPLE_ORIG, ip, attribute(77, b"zzzz"), ports), reply(), LIFE) == "ACK"


# -------------------------------------------------------------------------------------------------------------------- batches


@rule("CTMSG-9")
@pytest.mark.parametrize("subsystem", [CT, EXP])
def test_a_batch_is_refused_as_a_whole(asker: Asker, subsystem: SubsystemId) -> None:
    begin = message(NlmsgType.BATCH_BEGIN, nfgenmsg(subsystem), flags=REQUEST, seq=3)
    end = message(NlmsgType.BATCH_END, nfgenmsg(subsystem), flags=REQUEST, seq=5)
    answers = asker.ask(begin + making(LIFE, seq=4) + end)
    assert numbers(answers) == [3]
    assert asker.answers(begin + making(LIFE, seq=4) + end) == ["EOPNOTSUPP"]
    assert asker.dump() == []


# -------------------------------------------------------------------------------------------------------------------- answers


@rule("CTMSG-10")
def test_success_is_told_with_the_header_of_the_request_alone(asker: Asker) -> None:
    said = making(LIFE, seq=77)
    [answer] = asker.ask(said)
    assert len(answer) == 36
    assert struct.unpack_from("=IHHII", answer) == (36, NlmsgType.ERROR, NlmsgFlag.CAPPED, 77, asker.port_id)
    assert answer[16:] == bytes(4) + said[:16]


@rule("CTMSG-10")
def test_a_refusal_repeats_the_request(asker: Asker) -> None:
    said = making(u32(Cta.MARK, 5), seq=78)
    [answer] = asker.ask(said)
    assert struct.unpack_from("=IHHII", answer) == (20 + len(said), NlmsgType.ERROR, 0, 78, asker.port_id)
    assert answer[20:] == said


@rule("CTMSG-10")
def test_a_refusal_can_be_had_without_the_request(asker: Asker) -> None:
    said = making(seq=79)
    [answer] = asker.option(SocketOption.CAP_ACK).ask(said)
    assert struct.unpack_from("=IHHII", answer) == (36, NlmsgType.ERROR, NlmsgFlag.CAPPED, 79, asker.port_id)
    assert answer[20:] == said[:16]


@rule("CTMSG-10", "C7-9")
def test_only_what_breaks_the_policy_is_explained(asker: Asker) -> None:
    asker.option(SocketOption.EXT_ACK)
    said = both() + LIFE
    short = asker.ack(request(NEW, said, attribute(Cta.MARK, b"\1"), flags=CREATE))
    assert short.extended is not None
    assert short.extended.offset == 20 + len(said)
    assert asker.ack(request(NEW, both(), flags=CREATE)).extended is None
    assert asker.ack(request(DELETE, orig(9))).extended is None


@rule("CTMSG-11")
def test_data_comes_before_the_acknowledgement(asker: Asker) -> None:
    asker.made(both())
    first, second = asker.ask(request(GET, orig(), seq=41))
    for answer in (first, second):
        assert struct.unpack_from("=II", answer, 8) == (41, asker.port_id)
    assert asker.say(request(GET, orig())).end == "ACK"


@rule("CTMSG-12")
def test_nobody_looks_at_version_and_res_id(asker: Asker) -> None:
    assert asker.make(both(), LIFE, version=7, res_id=99) == "ACK"
    assert asker.fetch(orig(), version=7, res_id=99).family == 2
    assert asker.delete(orig(), version=7, res_id=99) == "ACK"


@rule("CTMSG-12")
@pytest.mark.parametrize(
    ("family", "answer"), [(ANY, "EOPNOTSUPP"), (1, "EOPNOTSUPP"), (7, "EOPNOTSUPP"), (255, "EOPNOTSUPP"), (10, "EINVAL")]
)
@pytest.mark.parametrize("operation", [NEW, GET, DELETE, GET_CTRZERO])
def test_the_family_is_that_of_the_tuples(asker: Asker, operation: int, family: int, answer: str) -> None:
    for said in (both(), pings()):
        assert asker.do(operation, said, LIFE, flags=CREATE if operation == NEW else 0, family=family) == answer


@rule("CTMSG-12")
def test_what_stands_beside_the_flow_is_ignored(asker: Asker) -> None:
    assert asker.make(both(), LIFE, tcp(u8(1, 3))) == "ACK"
    assert "PROTOINFO" not in asker.only().names
