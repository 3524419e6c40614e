"""Dispatch and attribute policies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfnl.sim.af_netlink import Capability, Process
from nfnl.sim.errnos import Errno
from nfnl.sim.netlink import Refusal, Request
from nfnl.sim.nfnetlink import (
    REJECTED,
    Attributes,
    Check,
    Operation,
    ProcFile,
    at_most,
    bits,
    check_of,
    nul_string,
    parse,
)
from nfnl.sim.profile import PROFILES, Profile
from nfnl.subsys.queue import Config, VerdictBatch, VerdictMessage
from nfnl.wire.constants import SubsystemId
from nfnl.wire.control import Policy
from nfnl.wire.declare import Attr, Message
from nfnl.wire.header import NATIVE
from nfnl.wire.layout import octets, u8, u16
from tests.unit.sim.control_rig import NOBODY, REQUEST_ACK, ROOT, Client, Rig

U32 = (4, False, Policy(min_unsigned=0, max_unsigned=0xFFFFFFFF, type=4))


def message(type_: int, body: bytes = b"\0\0\0\0", *, flags: int = REQUEST_ACK, length: int | None = None) -> bytes:
    return NATIVE.header.pack(16 + len(body) if length is None else length, type_, flags, 1, 0) + body


def attribute(type_: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    packed = NATIVE.attr.pack(4 + len(data) if length is None else length, type_) + data
    return packed + b"\0" * (-len(packed) % 4)


# --------------------------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        # nfqa_cfg_policy, nfqa_verdict_policy, nfqa_verdict_batch_policy
        (Config, {1: (4, False, None), 2: (5, False, None), 3: U32, 4: U32, 5: U32}),
        (VerdictMessage, {2: (8, False, None), 3: U32, 19: (0, True, Policy(type=13)), 21: U32}),
        (VerdictBatch, {2: (8, False, None), 3: U32, 21: U32}),
    ],
)
def test_policies_follow_from_declarations(declaration: type[Message], expected: dict[int, tuple[object, ...]]) -> None:
    operation = Operation(lambda request, attributes: None, declaration)
    assert {number: check[:3] for number, check in operation.checks.items()} == expected


def test_every_size_of_number_has_a_type() -> None:
    def checked(layout: object) -> Check | None:
        field = Attr(1, "X", default=None, doc="", since="", nested=False, padded=True, policy=layout)  # type: ignore[arg-type]
        field.nest = None
        return check_of(field)

    assert checked(u16) == Check(2, False, Policy(min_unsigned=0, max_unsigned=0xFFFF, type=3), 48)
    assert checked(u8) == Check(1, False, Policy(min_unsigned=0, max_unsigned=0xFF, type=2), 48)
    assert checked(octets(6)) == Check(6, False, None, 0)
    assert checked(None) is None


CHECKS = {3: Check(4, False, None, 0), 19: Check(0, True, None, 0)}


def parsed(attributes: bytes) -> tuple[Attributes, Request]:
    request = Request(Rig().client().socket.sock, message(0x0302, bytes(4) + attributes), 0)
    return parse(request, CHECKS), request


def test_reading_attributes_is_lenient() -> None:
    found, request = parsed(
        attribute(3, b"first")
        + attribute(0, b"")
        + attribute(0x3FFF, b"unknown")
        + attribute(0xC003, b"last wins")
        + attribute(4, b"x", length=5)[:5]
    )
    assert found == {0: b"", 3: b"last wins", 4: b"x", 0x3FFF: b"unknown"}
    assert request.message is None


@pytest.mark.parametrize("rest", [b"\0", b"\0\0\0", b"\0\0\0\0", b"\x03\0\x03\0", b"\x09\0\x03\0\0\0\0\0", b"\0\0\x03\0abcd"])
def test_what_is_no_attribute_ends_the_reading_with_a_warning(rest: bytes) -> None:
    found, request = parsed(attribute(3, b"abcd") + rest)
    assert found == {3: b"abcd"}
    assert request.message == "bytes leftover after parsing attributes"


@pytest.mark.parametrize("bad", [attribute(3, b"abc"), attribute(3), attribute(19, b"a"), attribute(19, b"abc")])
def test_what_is_too_short_is_refused_where_it_stands(bad: bytes) -> None:
    request = Request(Rig().client().socket.sock, message(0x0302, bytes(4) + attribute(3, b"good") + bad + b"\0"), 0)
    with pytest.raises(Refusal) as caught:
        parse(request, CHECKS)
    assert caught.value.errno is Errno.ERANGE
    assert request.bad_attribute == 28
    assert request.message == "Attribute failed policy validation"


def test_a_nest_may_be_empty() -> None:
    assert parsed(attribute(19) + attribute(19, b"abcd"))[0] == {19: b"abcd"}


@given(st.binary(max_size=40))
def test_no_bytes_make_the_reader_stumble(data: bytes) -> None:
    try:
        found, _ = parsed(data)
    except Refusal:
        return
    assert sum(4 + len(payload) for payload in found.values()) <= len(data)


# --------------------------------------------------------------------------------------------------------------------- dispatch


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


def test_a_subsystem_is_added_by_registering_it(rig: Rig, client: Client) -> None:
    seen: list[tuple[int, Attributes]] = []

    def handler(request: Request, attributes: Attributes) -> None:
        seen.append((request.res_id, attributes))
        if attributes:
            raise Refusal(Errno.EBUSY)

    rig.nfnetlink.register(SubsystemId.ACCT, {2: Operation(handler)}, {"acct": ProcFile(0o444, lambda: "text")})
    assert client.errors(message(0x0702, b"\0\0\x12\x34")) == [0]
    assert client.errors(message(0x0702, b"\0\0\0\0" + attribute(9, b"x"))) == [Errno.EBUSY]
    assert client.errors(message(0x0701)) == [Errno.EINVAL]
    assert seen == [(0x1234, {}), (0, {9: b"x"})]
    assert rig.nfnetlink.proc["acct"].text() == "text"


@pytest.mark.parametrize("type_", [0x0100, 0x0400, 0x0A00, 0x0D00, 0xFFFF, 0x0304, 0x03FF, 0x0011])
def test_what_is_not_there_is_invalid(client: Client, type_: int) -> None:
    assert client.errors(message(type_)) == [Errno.EINVAL]


@pytest.mark.parametrize("body", [b"", b"\0\0\0"])
def test_without_an_nfgenmsg_nothing_happens(client: Client, body: bytes) -> None:
    assert client.errors(message(0xFF00, body)) == [0]


def test_attributes_are_checked_before_the_handler_looks(client: Client) -> None:
    assert client.errors(message(0x0302, b"\0\0\0\x63" + attribute(1, b"\1"))) == [Errno.ERANGE]


# ------------------------------------------------------------------------------------------------------------------- permission


@pytest.mark.parametrize(
    ("opener", "sender", "addressed", "allowed"),
    [
        (ROOT, ROOT, False, True),
        (ROOT, NOBODY, True, False),
        (ROOT, NOBODY, False, False),
        (NOBODY, ROOT, True, True),
        (NOBODY, ROOT, False, False),
        (NOBODY, Process(1, 65534, 65534, {Capability.NET_ADMIN}), True, True),
    ],
)
def test_who_may_talk(rig: Rig, opener: Process, sender: Process, addressed: bool, allowed: bool) -> None:
    rig.sockets.current = opener
    client = rig.client()
    rig.sockets.current = sender
    data = message(1)
    if addressed:
        client.socket.sendto(data, (0, 0))
    else:
        client.socket.send(data)
    [answer] = client.hear()
    assert int.from_bytes(answer[16:20], NATIVE.name, signed=True) == (0 if allowed else -Errno.EPERM)


def test_one_refusal_for_all_of_a_datagram(rig: Rig, client: Client) -> None:
    rig.sockets.current = NOBODY
    assert client.errors(message(1, flags=0) + message(1) + message(1)) == [Errno.EPERM]
    assert client.errors(message(16)) == [Errno.EPERM]
    assert client.errors(b"\0" * 15) == []
    assert client.errors(message(1, length=99)) == []


# ---------------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("res_id", "error"),
    [
        (b"\0\0", Errno.EOPNOTSUPP),
        (b"\0\x03", Errno.EOPNOTSUPP),
        (b"\0\x0a", Errno.EOPNOTSUPP),
        (b"\x0a\0", Errno.EOPNOTSUPP if NATIVE.name == "little" else Errno.EINVAL),
        (b"\0\x0c", Errno.EOPNOTSUPP),
        (b"\0\x0d", Errno.EINVAL),
        (b"\1\0", Errno.EINVAL),
    ],
)
def test_a_batch_is_refused_once(client: Client, res_id: bytes, error: Errno) -> None:
    assert client.errors(message(16, b"\0\0" + res_id, flags=0) + message(1) + message(17)) == [error]


def test_old_kernels_have_a_subsystem_less() -> None:
    def answer(profile: Profile) -> list[int]:
        return Rig(profile).client().errors(message(16, b"\0\0\0\x0c"))

    assert answer(PROFILES["5.10.223"]) == [Errno.EINVAL]
    assert answer(Profile()) == [Errno.EOPNOTSUPP]


def test_a_batch_without_room_is_ignored_and_a_bad_attribute_refused(client: Client) -> None:
    assert client.errors(message(16, b"\0\0\0")) == []
    assert client.errors(message(16, b"\0\0\0\x03", length=16)) == [Errno.EOPNOTSUPP], "the room counts, not the length"
    client.socket.setsockopt(270, 11, 1)  # EXT_ACK
    [answer] = client.ask(message(16, b"\0\0\0\x0a" + attribute(1, b"abc")))
    assert int.from_bytes(answer[16:20], NATIVE.name, signed=True) == -Errno.ERANGE
    assert NATIVE.header.unpack_from(answer)[2] & 0x200 == 0, "nothing is said besides"


@pytest.mark.parametrize(
    ("check", "payload", "errno"),
    [
        (at_most(16), bytes(16), None),
        (at_most(16), b"", None),
        (at_most(16), bytes(17), Errno.ERANGE),
        (nul_string(3), b"abc\0", None),
        (nul_string(3), b"a\0bc\0", Errno.ERANGE),
        (nul_string(3), b"abcd\0", Errno.EINVAL),
        (nul_string(3), b"abc", Errno.EINVAL),
        (nul_string(3), b"", Errno.EINVAL),
        (nul_string(), b"as long as you like\0", None),
        (nul_string(), b"no end", Errno.EINVAL),
        (bits(7), b"\0\0\0\7and more", None),
        (bits(7), b"\0\0\0\x08", Errno.EINVAL),
        (bits(7), b"\0\0", Errno.ERANGE),
        (REJECTED, b"", Errno.EINVAL),
    ],
)
def test_policies_that_are_more_than_a_size(check: Check, payload: bytes, errno: Errno | None) -> None:
    assert check.verdict(payload) is errno


@pytest.mark.parametrize(
    ("check", "payload", "said"),
    [
        (at_most(16), bytes(17), ("Attribute failed policy validation", Policy(max_length=16, type=10))),
        (nul_string(15), b"x" * 16, ("Attribute failed policy validation", Policy(max_length=15, type=12))),
        (nul_string(), b"x", ("Attribute failed policy validation", Policy(type=12))),
        (bits(7), b"\0\0\0\x08", ("reserved bit set", None)),
        (bits(7), b"\0", ("Attribute failed policy validation", None)),
        (REJECTED, b"", ("Attribute failed policy validation", None)),
    ],
)
def test_what_is_said_of_a_refused_attribute(check: Check, payload: bytes, said: tuple[str, Policy | None]) -> None:
    request = Request(Rig().client().socket.sock, message(0x0100, bytes(4) + attribute(3, payload)), 0)
    with pytest.raises(Refusal):
        parse(request, {3: check})
    assert (request.message, request.policy) == said
    assert request.bad_attribute == 20
