"""Binding and configuring a queue."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from nfnl.subsys.queue import Command, ConfigCommand, CopyMode, Params, QueueFlag
from tests.contract.kernels import KernelUnderTest
from tests.contract.rules import only, rule
from tests.contract.wirekit import (
    CAUGHT,
    MAX_RANGE,
    PACKET,
    Client,
    Listener,
    attribute,
    be32,
    bind,
    nfnetlink,
    queue_config,
    queue_row,
    queues,
    settings,
    udp4,
    unbind,
    word,
)

COMMAND, PARAMS, MAXLEN, MASK, FLAGS = 1, 2, 3, 4, 5
META, PACKETS = Params(0, CopyMode.META), Params(MAX_RANGE, CopyMode.PACKET)
#: flags without a mask: refused by whoever looks at them
BAD_FLAGS = attribute(FLAGS, be32(0))


@pytest.fixture
def owner(kernel: KernelUnderTest) -> Client:
    """Somebody who owns queue 1, and has not configured it."""
    client = Client(kernel)
    assert client.answers(bind(1)) == ["ACK"]
    return client


def command(number: int, attributes: bytes = b"", *, queue: int = 1) -> bytes:
    """A command with any other attributes whatever."""
    return queue_config(attribute(COMMAND, bytes((number, 0, 0, 0))) + attributes, queue=queue)


def mode(kernel: KernelUnderTest) -> tuple[int, int]:
    """Copy mode and range of queue 1."""
    row = queue_row(kernel)
    return row.copy_mode, row.copy_range


# ------------------------------------------------------------------------------------------------------------ bind and unbind


@rule("QC-1")
def test_a_new_queue(kernel: KernelUnderTest, owner: Client) -> None:
    assert queue_row(kernel) == (1, owner.port_id, 0, CopyMode.NONE, MAX_RANGE, 0, 0, 0, 1)


@rule("QC-1")
def test_a_new_queue_holds_1024_packets(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, mode=CopyMode.META)
    for _ in range(10):  # the receive buffer does not hold so many messages at once
        kernel.send_many(udp4(), 100)
        listener.packets()
    kernel.send_many(udp4(), 26)
    assert (listener.row.waiting, listener.row.dropped, listener.row.user_dropped) == (1024, 2, 0)


@rule("QC-2", "C7-47")
def test_binding_what_one_owns_is_busy(owner: Client) -> None:
    assert owner.answers(bind(1)) == ["EBUSY"]


@rule("QC-3", "C7-47", "C7-48")
@pytest.mark.parametrize(
    "request_",
    [
        bind(1),
        unbind(1),
        settings(1),
        settings(1, params=PACKETS),
        settings(1, queue_maxlen=5),
        settings(1, mask=QueueFlag.FAIL_OPEN, flags=QueueFlag.FAIL_OPEN),
        command(0),
        command(5),
    ],
    ids=["bind", "unbind", "nothing", "params", "maxlen", "flags", "command 0", "command 5"],
)
def test_what_another_owns_is_not_to_be_touched(kernel: KernelUnderTest, owner: Client, request_: bytes) -> None:
    before = queue_row(kernel)
    assert Client(kernel).answers(request_) == ["EPERM"]
    assert queue_row(kernel) == before


@rule("QC-4")
def test_a_socket_may_own_many_queues(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    numbers = [0, 1, 2, 255, 256, 32768, 65535]
    for number in numbers:
        assert client.answers(bind(number)) == ["ACK"]
    assert sorted(queues(kernel)) == numbers
    assert {queue_row(kernel, number).owner for number in numbers} == {client.port_id}


@rule("QC-4")
@pytest.mark.parametrize(("family", "pf"), [(2, 10), (77, 0), (0, 0xFFFF)])
def test_binding_is_for_every_family(kernel: KernelUnderTest, family: int, pf: int) -> None:
    client = Client(kernel)
    request = settings(1, nfgen_family=family, command=Command(ConfigCommand.BIND, pf=pf))
    assert client.answers(request) == ["ACK"]
    assert client.answers(request) == ["EBUSY"]
    assert queues(kernel) == [1]


@rule("QC-5")
@pytest.mark.parametrize("which", [ConfigCommand.PF_BIND, ConfigCommand.PF_UNBIND])
def test_binding_a_family_succeeds_and_does_nothing(kernel: KernelUnderTest, owner: Client, which: ConfigCommand) -> None:
    before = queue_row(kernel)
    other = Client(kernel)
    everything = attribute(PARAMS, bytes((0, 0, 0, 0, 2))) + attribute(MAXLEN, be32(0)) + BAD_FLAGS
    for client in (owner, other):
        for queue in (1, 2):
            assert client.answers(command(which, everything, queue=queue)) == ["ACK"]
    assert (queues(kernel), queue_row(kernel)) == ([1], before)


@rule("QC-6", "C7-46")
def test_unbinding_frees_the_number(kernel: KernelUnderTest, owner: Client) -> None:
    assert owner.answers(unbind(1)) == ["ACK"]
    assert queues(kernel) == []
    assert Client(kernel).answers(bind(1)) == ["ACK"]


@rule("QC-6", "C7-46")
def test_unbinding_what_is_not_bound(owner: Client) -> None:
    assert owner.answers(unbind(2)) == ["ENODEV"]
    assert owner.answers(unbind(1) + unbind(1)) == ["ACK", "ENODEV"]


@rule("QC-6")
def test_unbinding_ignores_the_rest_of_the_message(kernel: KernelUnderTest, owner: Client) -> None:
    assert owner.answers(settings(1, command=Command(ConfigCommand.UNBIND), params=PACKETS, queue_maxlen=1)) == ["ACK"]
    assert queues(kernel) == []


@rule("QC-7", "C7-50")
@pytest.mark.parametrize("number", [0, 5, 255])
def test_a_command_that_does_not_exist(kernel: KernelUnderTest, owner: Client, number: int) -> None:
    refusals = (["EOPNOTSUPP"], ["ENOTSUPP"])  # the second from kernels that have not got the fix
    assert owner.answers(command(number)) in refusals
    assert owner.answers(command(number, attribute(MAXLEN, be32(0)), queue=2)) in refusals
    assert queues(kernel) == [1]


@rule("QC-8", "C7-46")
@pytest.mark.parametrize(
    "fields", [{}, {"params": META}, {"queue_maxlen": 1}, {"mask": 1, "flags": 1}], ids=["nothing", "params", "maxlen", "flags"]
)
def test_configuring_what_is_not_bound(kernel: KernelUnderTest, fields: dict[str, Any]) -> None:
    assert Client(kernel).answers(settings(1, **fields)) == ["ENODEV"]
    assert queues(kernel) == []


@rule("QC-9")
def test_saying_nothing_about_one_s_own_queue_is_fine(kernel: KernelUnderTest, owner: Client) -> None:
    before = queue_row(kernel)
    assert owner.answers(settings(1)) == ["ACK"]
    assert queue_row(kernel) == before


# ------------------------------------------------------------------------------------------------------------- mode and range


@rule("QC-10", "C7-55")
@pytest.mark.parametrize(
    ("asked", "granted"),
    [(1, 1), (1500, 1500), (MAX_RANGE, MAX_RANGE), (MAX_RANGE + 1, MAX_RANGE), (0xFFFFFFFF, MAX_RANGE), (0, MAX_RANGE)],
)
def test_how_much_of_a_packet_is_copied(kernel: KernelUnderTest, owner: Client, asked: int, granted: int) -> None:
    assert owner.answers(settings(1, params=Params(asked, CopyMode.PACKET))) == ["ACK"]
    assert mode(kernel) == (CopyMode.PACKET, granted)


@rule("QC-11")
@pytest.mark.parametrize("copy_mode", [CopyMode.NONE, CopyMode.META])
def test_without_the_packet_there_is_no_range(kernel: KernelUnderTest, owner: Client, copy_mode: CopyMode) -> None:
    assert owner.answers(settings(1, params=PACKETS) + settings(1, params=Params(500, copy_mode))) == ["ACK", "ACK"]
    assert mode(kernel) == (copy_mode, 0)


@rule("QC-12", "C7-49")
@pytest.mark.parametrize("unknown", [3, 255])
def test_an_unknown_mode_is_acknowledged_and_ignored(kernel: KernelUnderTest, owner: Client, unknown: int) -> None:
    assert owner.answers(settings(1, params=Params(1000, CopyMode.PACKET)) + settings(1, params=Params(7, unknown))) == [
        "ACK",
        "ACK",
    ]
    assert mode(kernel) == (CopyMode.PACKET, 1000)


@rule("QC-12")
def test_the_rest_of_a_message_with_an_unknown_mode_counts(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel)
    listener.configure(params=Params(7, 3), queue_maxlen=0)
    assert kernel.send(udp4()).dropped
    assert listener.row.dropped == 1


# ------------------------------------------------------------------------------------------------------------- maximum length


@rule("QC-13", "C7-49")
def test_how_many_packets_may_wait(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, queue_maxlen=2)
    assert [kernel.send(udp4()).queued for _ in range(3)] == [True, True, False]
    listener.configure(queue_maxlen=0xFFFFFFFF)
    assert kernel.send(udp4()).queued
    listener.configure(queue_maxlen=0)
    assert kernel.send(udp4()).dropped
    assert (listener.row.waiting, listener.row.dropped) == (3, 2)


@rule("QC-13")
def test_a_queue_of_length_zero_is_always_full(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, queue_maxlen=0)
    assert kernel.send(udp4()).dropped
    assert (listener.packets(), listener.row.dropped, listener.row.last_id) == ([], 1, 0)


# ----------------------------------------------------------------------------------------------------------------------- flags


@rule("QC-14", "C7-50")
def test_flags_need_a_mask(owner: Client) -> None:
    assert owner.answers(queue_config(BAD_FLAGS, queue=1)) == ["EINVAL"]


@rule("QC-15", "C7-49")
def test_a_mask_alone_means_nothing(kernel: KernelUnderTest, owner: Client) -> None:
    before = queue_row(kernel)
    assert owner.answers(queue_config(attribute(MASK, be32(0xFFFFFFFF)), queue=1)) == ["ACK"]
    assert queue_row(kernel) == before


@rule("QC-15")
def test_a_mask_alone_clears_no_flag(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, queue_maxlen=0, mask=QueueFlag.FAIL_OPEN, flags=QueueFlag.FAIL_OPEN)
    listener.configure(mask=QueueFlag.FAIL_OPEN)
    assert kernel.send(udp4()).delivered


@rule("QC-16")
def test_flags_outside_the_mask_stay(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    listener = Listener(kernel, queue_maxlen=0, mask=QueueFlag.FAIL_OPEN, flags=QueueFlag.FAIL_OPEN)
    listener.configure(mask=QueueFlag.GSO, flags=QueueFlag.GSO)
    assert kernel.send(udp4()).delivered
    listener.configure(mask=QueueFlag.GSO, flags=QueueFlag(0))
    assert kernel.send(udp4()).delivered
    listener.configure(mask=QueueFlag.FAIL_OPEN, flags=QueueFlag(0))
    assert kernel.send(udp4()).dropped
    listener.configure(mask=QueueFlag.GSO, flags=QueueFlag.FAIL_OPEN)
    assert kernel.send(udp4()).dropped


@rule("QC-16", "C7-50")
@pytest.mark.parametrize("flags", [32, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("mask", [0, 1, 0xFFFFFFFF])
def test_flags_that_do_not_exist_are_refused_even_if_masked_out(kernel: KernelUnderTest, flags: int, mask: int) -> None:
    answers = Client(kernel).answers(settings(1, mask=mask, flags=flags))
    assert answers in (["EOPNOTSUPP"], ["EINVAL"]), "the second since Linux 7"


@rule("QC-16")
def test_a_mask_may_have_any_bits(owner: Client) -> None:
    assert owner.answers(settings(1, mask=0xFFFFFFFF, flags=QueueFlag.FAIL_OPEN)) == ["ACK"]


@rule("QC-17", "QC-18")
@pytest.mark.parametrize("flag", [QueueFlag.CONNTRACK, QueueFlag.SECCTX])
def test_flags_that_need_something_else_in_the_kernel(kernel: KernelUnderTest, owner: Client, flag: QueueFlag) -> None:
    [answer] = owner.answers(settings(1, mask=flag, flags=flag, params=PACKETS))
    assert (answer, mode(kernel)) in (("ACK", (CopyMode.PACKET, MAX_RANGE)), ("EOPNOTSUPP", (CopyMode.NONE, MAX_RANGE)))


@rule("QC-17")
def test_the_conntrack_flag_outside_the_mask_is_no_matter(owner: Client) -> None:
    assert owner.answers(settings(1, mask=QueueFlag.GSO, flags=QueueFlag.CONNTRACK)) == ["ACK"]


@rule("QC-19")
def test_bad_flags_are_noticed_first(kernel: KernelUnderTest, owner: Client) -> None:
    assert Client(kernel).answers(queue_config(BAD_FLAGS, queue=1)) == ["EINVAL"], "not EPERM"
    assert owner.answers(queue_config(BAD_FLAGS, queue=2)) == ["EINVAL"], "not ENODEV"
    assert owner.answers(command(ConfigCommand.BIND, BAD_FLAGS)) == ["EINVAL"], "not EBUSY"
    assert owner.answers(command(5, BAD_FLAGS)) == ["EINVAL"], "not EOPNOTSUPP"


@rule("QC-19")
def test_bad_flags_undo_the_whole_message(kernel: KernelUnderTest, owner: Client) -> None:
    assert owner.answers(command(ConfigCommand.BIND, BAD_FLAGS, queue=2)) == ["EINVAL"]
    assert owner.answers(command(ConfigCommand.UNBIND, BAD_FLAGS)) == ["EINVAL"]
    assert owner.answers(queue_config(attribute(PARAMS, bytes((0, 0, 0, 0, 2))) + BAD_FLAGS, queue=1)) == ["EINVAL"]
    assert (queues(kernel), mode(kernel)) == ([1], (CopyMode.NONE, MAX_RANGE))


# ---------------------------------------------------------------------------------------------------- several things, and ends


@rule("QC-20")
def test_one_message_may_bind_and_configure(kernel: KernelUnderTest) -> None:
    kernel.iptables(f"-A OUTPUT {CAUGHT} 1")
    bound = Command(ConfigCommand.BIND)
    client = Client(kernel)
    fail_open = QueueFlag.FAIL_OPEN
    request = settings(1, command=bound, params=Params(100, CopyMode.PACKET), queue_maxlen=1, mask=fail_open, flags=fail_open)
    assert client.answers(request) == ["ACK"]
    assert mode(kernel) == (CopyMode.PACKET, 100)
    assert kernel.send(udp4()).queued
    assert kernel.send(udp4()).delivered, "one fits, and then it fails open"


@rule("QC-20")
def test_a_refused_bind_configures_nothing(kernel: KernelUnderTest, owner: Client) -> None:
    assert owner.answers(settings(1, command=Command(ConfigCommand.BIND), params=PACKETS)) == ["EBUSY"]
    assert mode(kernel) == (CopyMode.NONE, MAX_RANGE)


@rule("QC-21")
def test_closing_the_owner_s_socket_frees_all_its_queues(kernel: KernelUnderTest) -> None:
    client, other = Client(kernel), Client(kernel)
    assert client.answers(bind(1) + bind(2)) == ["ACK", "ACK"]
    assert other.answers(bind(3)) == ["ACK"]
    client.socket.close()
    assert queues(kernel) == [3]
    assert other.answers(bind(1)) == ["ACK"]


@rule("QC-21")
def test_a_duplicate_of_the_owner_s_socket_keeps_its_queues(kernel: KernelUnderTest, owner: Client) -> None:
    duplicate = owner.socket.dup()
    owner.socket.close()
    assert queues(kernel) == [1]
    duplicate.close()
    assert queues(kernel) == []


@rule("QC-21")
def test_another_socket_of_the_same_port_owns_none_of_them(kernel: KernelUnderTest, owner: Client) -> None:
    port = owner.port_id
    owner.socket.close()
    assert Client(kernel, port_id=port).answers(settings(1)) == ["ENODEV"]


@rule("QC-21")
@only("linux", "the fake has no other protocols")
def test_a_socket_of_another_protocol_takes_no_queue_along(kernel: KernelUnderTest, owner: Client) -> None:
    same_port = kernel.socket(protocol=0)
    same_port.bind((owner.port_id, 0))
    same_port.close()
    assert queues(kernel) == [1]


@rule("QC-21")
def test_queues_of_another_namespace_are_others(kernel: KernelUnderTest, owner: Client) -> None:
    elsewhere = kernel.another()
    client = Client(elsewhere, port_id=owner.port_id)
    assert client.answers(bind(1)) == ["ACK"]
    assert (queues(kernel), queues(elsewhere)) == ([1], [1])


@rule("QC-22")
def test_unbinding_and_binding_in_one_datagram_begins_anew(kernel: KernelUnderTest, owner: Client) -> None:
    assert owner.answers(settings(1, params=PACKETS) + unbind(1) + bind(1)) == ["ACK", "ACK", "ACK"]
    assert queue_row(kernel) == (1, owner.port_id, 0, CopyMode.NONE, MAX_RANGE, 0, 0, 0, 1)


@rule("QC-23", "C7-50")
def test_only_the_kernel_sends_packets(owner: Client) -> None:
    [answer] = owner.ask(nfnetlink(3, PACKET, res_id=1))
    assert word(answer) == "ENOTSUPP"


# ----------------------------------------------------------------------------------------------------------------------- /proc


@rule("PQ-1")
def test_the_line_of_a_queue(kernel: KernelUnderTest) -> None:
    client = Client(kernel, port_id=4711)
    assert client.answers(bind(7) + settings(7, params=Params(100, CopyMode.PACKET))) == ["ACK", "ACK"]
    assert kernel.read_proc("netfilter/nfnetlink_queue") == "    7   4711     0 2   100     0     0        0  1\n"


@rule("PQ-1")
def test_its_columns_grow_and_its_numbers_are_unsigned(kernel: KernelUnderTest) -> None:
    assert Client(kernel, port_id=0xFFFFFFFE).answers(bind(65535)) == ["ACK"]
    assert kernel.read_proc("netfilter/nfnetlink_queue") == "65535 4294967294     0 0 65531     0     0        0  1\n"


@rule("PQ-2")
def test_the_order_of_the_lines(kernel: KernelUnderTest) -> None:
    client = Client(kernel)
    numbers = [16, 32, 3, 19, 256, 257, 511, 1000]
    for number in numbers:
        assert client.answers(bind(number)) == ["ACK"]
    buckets = [[number for number in reversed(numbers) if ((number >> 8) ^ number) % 16 == bucket] for bucket in range(16)]
    assert queues(kernel) == list(chain(*buckets))
