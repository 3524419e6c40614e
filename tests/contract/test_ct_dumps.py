"""Dumps: how they are asked for, what their messages say, how they are cut into datagrams."""

from __future__ import annotations

import struct

import pytest

from nfnl.errors import error_name
from tests.contract.ctkit import (
    ANY,
    CREATE,
    CT,
    DUMP,
    DUMP_FILTERED,
    GET,
    GET_CTRZERO,
    GET_DYING,
    GET_UNCONFIRMED,
    LIFE,
    MULTI,
    NEW,
    UDP,
    V4,
    V6,
    A,
    Asker,
    B,
    Cta,
    Told,
    both,
    both6,
    flags_of,
    messages,
    orig,
    request,
    tuple_,
    u16,
    u32,
    watch,
)
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import rule
from tests.contract.wirekit import fill, numbers

DONE = 3
#: as many flows as do not fit into one datagram
MANY = 300


@pytest.fixture
def table(asker: Asker) -> Asker:
    """Somebody who has made a flow of each family."""
    assert asker.make(both(), LIFE) == "ACK"
    assert asker.make(both6(), LIFE, family=V6) == "ACK"
    return asker


@pytest.fixture
def crowd(asker: Asker) -> Asker:
    """Somebody who has made many flows."""
    said = b"".join(request(NEW, both(port), LIFE, flags=CREATE, ack=False) for port in range(1, MANY + 1))
    assert asker.ask(said) == []
    return asker


def parts(asker: Asker, size: int, said: bytes = request(GET, flags=DUMP, ack=False)) -> list[bytes]:
    """The datagrams of a dump, read with buffers of this size."""
    asker.tell(said)
    heard: list[bytes] = []
    while not heard or struct.unpack_from("=H", heard[-1], 4)[0] != DONE:
        heard.append(asker.socket.recv(size))
    return heard


def ports(datagrams: list[bytes]) -> list[int]:
    """Source ports of the flows in them."""
    told = [Told(message) for datagram in datagrams for message in messages(datagram)]
    return [flow.ends.numbers[0] for flow in told]


# --------------------------------------------------------------------------------------------------------------- asking for one


@rule("CTDUMP-1", "DU-1", "DU-2")
@pytest.mark.parametrize("operation", [GET, GET_CTRZERO])
def test_messages_of_a_dump(table: Asker, operation: int) -> None:
    told, end, done = table.say(request(operation, flags=DUMP, ack=False, family=ANY, seq=66))
    assert {(flow.type, flow.flags, flow.seq, flow.pid, flow.version, flow.res_id) for flow in told} == {
        (CT << 8 | NEW, MULTI, 66, table.port_id, 0, 0)
    }
    assert {flow.family for flow in told} == {V4, V6}
    assert end == "DONE"
    assert done == struct.pack("=IHHIIi", 20, DONE, MULTI, 66, table.port_id, 0)


@rule("CTDUMP-2", "C7-19")
@pytest.mark.parametrize(
    ("said", "family", "filtered"),
    [
        (b"", ANY, False),
        (b"", V4, True),
        (u32(Cta.MARK, 0), ANY, True),
        (u16(Cta.ZONE, 0), ANY, True),
        (u32(Cta.STATUS, 8), ANY, True),
        (flags_of(), ANY, True),
        (u32(Cta.MARK_MASK, 1), ANY, False),
        (u32(Cta.STATUS_MASK, 1), ANY, False),
        (u32(Cta.ID, 1), ANY, False),
        (orig(), ANY, False),
    ],
    ids=["all", "family", "mark", "zone", "status", "empty filter", "mark mask", "status mask", "id", "tuple"],
)
def test_a_dump_that_may_leave_something_out_says_so(table: Asker, said: bytes, family: int, filtered: bool) -> None:
    told, end, done = table.say(request(GET, said, flags=DUMP, ack=False, family=family))
    assert told
    assert end == "DONE"
    assert {flow.flags for flow in told} == {MULTI | DUMP_FILTERED if filtered else MULTI}
    # the last message says it, too, or it does not: that depends on the kernel, not on the dump
    assert struct.unpack_from("=H", done, 6)[0] in ((MULTI, MULTI | DUMP_FILTERED) if filtered else (MULTI,))


@rule("CTDUMP-2")
def test_whether_the_last_message_says_so_does_not_depend_on_the_filter(table: Asker) -> None:
    def at_the_end(said: bytes, family: int = ANY) -> int:
        flags: int = struct.unpack_from("=H", table.say(request(GET, said, flags=DUMP, ack=False, family=family)).last, 6)[0]
        return flags

    assert len({at_the_end(b"", V4), at_the_end(b"", V6), at_the_end(u32(Cta.MARK, 0)), at_the_end(u16(Cta.ZONE, 0))}) == 1


@rule("CTDUMP-3", "DU-4", "C7-17")
def test_a_dump_is_not_acknowledged(table: Asker) -> None:
    told, end, _ = table.say(request(GET, flags=DUMP, family=ANY))
    assert (len(told), end) == (2, "DONE")


@rule("CTDUMP-3", "DU-2")
def test_a_dump_of_nothing(asker: Asker) -> None:
    assert asker.say(request(GET, flags=DUMP, family=ANY))[:2] == ([], "DONE")


@rule("CTDUMP-4", "DU-5")
def test_one_dump_at_a_time(table: Asker) -> None:
    for seq in (1, 2):
        table.tell(request(GET, flags=DUMP, ack=False, family=ANY, seq=seq))
    heard = [message for datagram in table.hear() for message in messages(datagram)]
    refusals = [message for message in heard if struct.unpack_from("=H", message, 4)[0] == 2]
    assert [struct.unpack_from("=i", message, 16)[0] for message in refusals] == [-16], "EBUSY"
    assert numbers(refusals) == [2]
    assert {struct.unpack_from("=I", message, 8)[0] for message in heard if message not in refusals} == {1}
    assert len(heard) == 4
    assert len(table.dump()) == 2


@rule("CTDUMP-4")
def test_a_dump_of_nothing_is_over_at_once(asker: Asker) -> None:
    for seq in (1, 2):
        asker.tell(request(GET, flags=DUMP, ack=False, seq=seq))
    assert asker.answers(request(GET, orig())) == ["Done", "Done", "ENOENT"]


@rule("CTDUMP-4", "DU-6")
def test_other_requests_are_answered_while_it_runs(crowd: Asker) -> None:
    crowd.tell(request(GET, flags=DUMP, ack=False, seq=1))
    crowd.tell(request(GET, orig(1), seq=2))
    seqs = [struct.unpack_from("=I", message, 8)[0] for part in crowd.hear() for message in messages(part)]
    assert (seqs.count(1), seqs.count(2)) == (MANY + 1, 2)


# -------------------------------------------------------------------------------------------------------------------- datagrams


@rule("CTDUMP-5", "DU-2")
def test_done_stands_alone(table: Asker) -> None:
    assert [len(messages(datagram)) for datagram in parts(table, 65536)] == [1, 1]
    assert [len(datagram) for datagram in parts(table, 65536)][-1] == 20


@rule("CTDUMP-5", "DU-3")
def test_a_small_reader_gets_small_datagrams(crowd: Asker) -> None:
    heard = parts(crowd, 4096)
    sizes = [len(datagram) for datagram in heard]
    assert max(sizes) <= 4096
    assert sizes[-1] == 20
    whole = len(messages(heard[0])[0])
    assert all(4096 - size < 2 * whole + 512 for size in sizes[:-2]), "they are well filled"
    assert sorted(ports(heard[:-1])) == list(range(1, MANY + 1))


@rule("CTDUMP-5", "DU-3")
def test_a_large_reader_gets_large_datagrams_but_the_first(crowd: Asker) -> None:
    heard = parts(crowd, 32768)
    sizes = [len(datagram) for datagram in heard]
    assert sizes[0] < 4096
    assert 8192 < max(sizes) <= 32768
    assert sorted(ports(heard[:-1])) == list(range(1, MANY + 1))


@rule("CTDUMP-5", "DU-3")
def test_a_larger_buffer_still_gets_no_more_than_32_kilobytes(crowd: Asker) -> None:
    sizes = [len(datagram) for datagram in parts(crowd, 1 << 20)]
    assert max(sizes) <= 32768


@rule("CTDUMP-5", "DU-3")
def test_the_largest_buffer_so_far_is_remembered(crowd: Asker) -> None:
    parts(crowd, 32768)
    assert len(parts(crowd, 32768)[0]) > 8192


@rule("DU-3")
def test_parts_are_made_as_they_are_read(crowd: Asker) -> None:
    crowd.tell(request(GET, flags=DUMP, ack=False))
    charged = [crowd.charged]
    assert charged[0] > 0, "the first is there at once"
    while (part := crowd.socket.recv(4096)) and struct.unpack_from("=H", part, 4)[0] != DONE:
        charged.append(crowd.charged)
    assert max(charged) <= 2 * charged[0], "there are never many"


@rule("DU-8")
def test_the_smallest_buffer_is_large_enough(kernel: KernelUnderTest, crowd: Asker) -> None:
    tiny = Asker(kernel, receive_buffer=0)
    assert sorted(ports(parts(tiny, 65536)[:-1])) == list(range(1, MANY + 1))


def attempt(asker: Asker) -> bytes | None:
    """The next datagram; ``b""`` for ENOBUFS, None when there is nothing."""
    try:
        return asker.hear_one()
    except OSError as error:
        assert error_name(error.errno or 0) == "ENOBUFS"  # noqa: PT017 - it may come at any time
        return b""


@rule("DU-9")
def test_a_dump_that_finds_the_buffer_full_goes_on_as_it_is_read(kernel: KernelUnderTest, crowd: Asker) -> None:
    full = Asker(kernel, receive_buffer=4096)
    fill(full)
    full.tell(request(GET, flags=DUMP, ack=False, seq=99999))
    heard: list[bytes] = []
    overruns = 0
    while (said := attempt(full)) is not None:
        overruns += not said
        heard += messages(said) if said else []
    assert overruns
    of_dump = [message for message in heard if struct.unpack_from("=I", message, 8)[0] == 99999]
    kinds = [struct.unpack_from("=H", message, 4)[0] for message in of_dump]
    assert kinds.count(0x100) == MANY
    assert kinds[-1] == DONE


# ---------------------------------------------------------------------------------------------------------------- come and go


@rule("CTDUMP-6")
def test_a_flow_that_has_expired_is_left_out_and_goes(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = watch(kernel)
    asker.make(both(), LIFE)
    assert asker.change(orig(), u32(Cta.TIMEOUT, 0)) == "ACK"
    assert [event.kind for event in watcher.told()][:2] == ["NEW", "UPDATE"]
    assert asker.dump() == []
    assert asker.get(orig()) == "ENOENT"


@rule("CTDUMP-6", "CTEV-11")
def test_whoever_meets_it_makes_it_go(kernel: KernelUnderTest, asker: Asker) -> None:
    watcher = watch(kernel, 3)
    assert asker.make(both(), u32(Cta.TIMEOUT, 0)) == "ACK"
    asker.dump()
    [event] = watcher.told()
    assert (event.kind, event.pid) == ("DESTROY", 0)
    assert event.names == "TUPLE_ORIG TUPLE_REPLY ID STATUS", "no time is left"


@rule("CTDUMP-7")
def test_what_goes_meanwhile_does_not_interrupt(crowd: Asker, kernel: KernelUnderTest) -> None:
    crowd.tell(request(GET, flags=DUMP, ack=False))
    heard = [crowd.socket.recv(4096)]
    assert Asker(kernel).delete() == "ACK"
    heard += crowd.hear()
    kinds = [struct.unpack_from("=HH", message, 4) for datagram in heard for message in messages(datagram)]
    assert kinds[-1] == (DONE, MULTI | kinds[-1][1] & DUMP_FILTERED)
    assert not any(flags & 0x10 for _, flags in kinds), "NLM_F_DUMP_INTR"
    assert len(kinds) < MANY


@rule("CTDUMP-7")
def test_every_flow_that_stays_is_shown(crowd: Asker, kernel: KernelUnderTest) -> None:
    crowd.tell(request(GET, flags=DUMP, ack=False))
    heard = [crowd.socket.recv(4096)]
    assert Asker(kernel).make(both(50000), LIFE) == "ACK"
    assert Asker(kernel).delete(orig(7)) == "ACK"
    heard += crowd.hear()
    assert set(ports([datagram for datagram in heard if len(datagram) > 20])) >= set(range(1, MANY + 1)) - {7}


# --------------------------------------------------------------------------------------------------------- dying, unconfirmed


@rule("CTDUMP-8", "C7-35")
@pytest.mark.parametrize("operation", [GET_DYING, GET_UNCONFIRMED])
@pytest.mark.parametrize("said", [b"", orig()], ids=["nothing", "a tuple"])
def test_dying_and_unconfirmed_flows_are_dumped_or_nothing(asker: Asker, operation: int, said: bytes) -> None:
    assert asker.do(operation, said) == "EOPNOTSUPP"


@rule("CTDUMP-8", "C7-36")
@pytest.mark.parametrize("operation", [GET_DYING, GET_UNCONFIRMED])
def test_a_flow_in_the_table_is_neither(table: Asker, operation: int) -> None:
    assert table.dump(operation=operation) == []
    assert table.delete() == "ACK"
    assert table.dump(operation=operation) == []


@rule("CTDUMP-9")
def test_dumps_know_all_zones(asker: Asker) -> None:
    for zone in (0, 1, 2):
        assert asker.make(both(), LIFE, u16(Cta.ZONE, zone)) == "ACK"
    assert len(asker.dump()) == 3


@rule("CTDUMP-9")
def test_a_flow_is_shown_once_although_it_has_two_directions(asker: Asker) -> None:
    said = tuple_(Cta.TUPLE_ORIG, A, B, UDP, 1, 2) + tuple_(Cta.TUPLE_REPLY, "10.8.8.8", A, UDP, 9, 1)
    assert asker.make(said, LIFE) == "ACK"
    assert len(asker.dump()) == 1
