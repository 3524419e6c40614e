from __future__ import annotations

import socket
from errno import EADDRINUSE

import pytest

from contract.kernels import KernelUnderTest
from contract.rules import rule
from contract.wirekit import Client, noop, refused


@rule("NL-1")
@pytest.mark.parametrize("type", [socket.SOCK_RAW, socket.SOCK_DGRAM])
def test_raw_and_datagram_sockets_open(kernel: KernelUnderTest, type: int) -> None:
    kernel.socket(type)

@rule("NL-8")
def test_a_port_belongs_to_one_socket(kernel: KernelUnderTest) -> None:
    kernel.socket().bind((4711, 0))
    with refused(EADDRINUSE):
        kernel.socket().bind((4711, 0))
    assert Client(kernel).answers(noop()) == ["ACK"]
