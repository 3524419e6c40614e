"""The classic BPF machine. What is expected here was compared with Linux 6.18.44 (tens of thousands of random programs)."""

from __future__ import annotations

import struct

import pytest

from nfnl.sim import bpf
from nfnl.sim.bpf import Instruction

# mnemonics: code of the instruction
LD_W, LD_H, LD_B, LD_IND_B, LD_LEN, LD_IMM, LD_MEM = 0x20, 0x28, 0x30, 0x50, 0x80, 0x00, 0x60
LDX_IMM, LDX_MEM, LDX_MSH = 0x01, 0x61, 0xB1
ST, STX, TAX, TXA, RET_K, RET_A, JA, JEQ, JGT_X, JSET = 0x02, 0x03, 0x07, 0x87, 0x06, 0x16, 0x05, 0x15, 0x2D, 0x45
ADD, SUB_X, DIV, DIV_X, MOD, LSH, LSH_X, NEG, XOR = 0x04, 0x1C, 0x34, 0x3C, 0x94, 0x64, 0x6C, 0x84, 0xA4
NLATTR, NLATTR_NEST, XOR_X = 0xFFFFF00C, 0xFFFFF010, 0xFFFFF028


def op(code: int, k: int = 0, jt: int = 0, jf: int = 0) -> Instruction:
    return code, jt, jf, k


def result(*program: Instruction, data: bytes = bytes(range(16))) -> int:
    """What is in A when the program ends."""
    return bpf.run(bpf.check((*program, op(RET_A))), data)


def attribute(type_: int, payload: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(payload), type_) + payload
    return data + b"\0" * (-len(data) % 4)


def test_loads_are_in_network_order() -> None:
    assert result(op(LD_W, 1)) == 0x01020304
    assert result(op(LD_H, 1)) == 0x0102
    assert result(op(LD_B, 15)) == 15
    assert result(op(LDX_IMM, 3), op(LD_IND_B, 2)) == 5
    assert result(op(LD_LEN)) == 16
    assert result(op(LD_IMM, 7)) == 7
    assert result(op(LDX_MSH, 7), op(TXA)) == 28
    assert result(op(LD_W, 0xFFF00004)) == 0x04050607, "behind the network header, which is the first byte"


@pytest.mark.parametrize("load", [op(LD_W, 13), op(LD_H, 15), op(LD_B, 16), op(LDX_MSH, 16), op(LD_B, 0xFFE00000)])
def test_a_load_from_outside_rejects(load: Instruction) -> None:
    assert bpf.run(bpf.check((load, op(RET_K, 5))), bytes(16)) == 0


def test_arithmetic_is_of_32_bits_without_sign() -> None:
    assert result(op(LD_IMM, 0xFFFFFFFF), op(ADD, 2)) == 1
    assert result(op(LD_IMM, 1), op(LDX_IMM, 2), op(SUB_X)) == 0xFFFFFFFF
    assert result(op(LD_IMM, 0xFFFFFFFF), op(DIV, 2)) == 0x7FFFFFFF
    assert result(op(LD_IMM, 7), op(MOD, 4)) == 3
    assert result(op(LD_IMM, 1), op(LSH, 31)) == 0x80000000
    assert result(op(LD_IMM, 1), op(LDX_IMM, 33), op(LSH_X)) == 2, "five bits of the shift count"
    assert result(op(LD_IMM, 1), op(NEG)) == 0xFFFFFFFF
    assert result(op(LD_IMM, 5), op(XOR, 1)) == 4
    assert result(op(LDX_IMM, 6), op(LD_IMM, 5), op(LD_W, XOR_X)) == 3


def test_dividing_by_zero_rejects() -> None:
    assert bpf.run(bpf.check((op(DIV_X), op(RET_K, 5))), b"x") == 0


def test_memory_and_registers() -> None:
    assert result(op(LD_IMM, 9), op(ST, 15), op(LD_IMM, 0), op(LD_MEM, 15)) == 9
    assert result(op(LDX_IMM, 9), op(STX, 0), op(LDX_IMM, 0), op(LDX_MEM, 0), op(TXA)) == 9
    assert result(op(LD_IMM, 9), op(TAX), op(LD_IMM, 0), op(TXA)) == 9


def test_jumps() -> None:
    def branch(*test: Instruction) -> int:
        return bpf.run(bpf.check((*test, op(RET_K, 10), op(RET_K, 20))), bytes(4))

    assert branch(op(JA, 1)) == 20
    assert branch(op(JEQ, 0, 0, 1)) == 10
    assert branch(op(JEQ, 1, 0, 1)) == 20
    assert branch(op(LD_IMM, 0x80000000), op(LDX_IMM, 1), op(JGT_X, 0, 0, 1)) == 10, "there is no sign"
    assert branch(op(LD_IMM, 6), op(JSET, 2, 0, 1)) == 10


def test_finding_attributes() -> None:
    data = (
        bytes(4) + attribute(1, b"abc") + attribute(2 | 0x8000, attribute(5, b"") + attribute(6, b"12345678")) + attribute(3, b"")
    )
    assert result(op(LD_IMM, 4), op(LDX_IMM, 2), op(LD_W, NLATTR), data=data) == 12
    assert result(op(LD_IMM, 4), op(LDX_IMM, 3), op(LD_W, NLATTR), data=data) == 32
    assert result(op(LD_IMM, 4), op(LDX_IMM, 9), op(LD_W, NLATTR), data=data) == 0
    assert result(op(LD_IMM, 12), op(LDX_IMM, 6), op(LD_W, NLATTR_NEST), data=data) == 20
    assert result(op(LD_IMM, 12), op(LDX_IMM, 3), op(LD_W, NLATTR_NEST), data=data) == 0, "not in that nest"
    assert result(op(LD_IMM, 33), op(LDX_IMM, 3), op(LD_W, NLATTR), data=data) == 0, "no room for an attribute there"
    lying = data[:12] + b"\xff\x00" + data[14:]
    assert result(op(LD_IMM, 12), op(LDX_IMM, 6), op(LD_W, NLATTR_NEST), data=lying) == 0
    assert result(op(LD_IMM, 4), op(LDX_IMM, 3), op(LD_W, NLATTR), data=lying) == 0


@pytest.mark.parametrize(
    "program",
    [
        [],
        [op(LD_IMM)],
        [op(0x0E), op(RET_K)],
        [op(DIV, 0), op(RET_K)],
        [op(LSH, 32), op(RET_K)],
        [op(ST, 16), op(RET_K)],
        [op(JA, 1), op(RET_K)],
        [op(JA, 0xFFFFFFFF), op(RET_K)],
        [op(JEQ, 0, 1, 0), op(RET_K)],
        [op(JEQ, 0, 0, 1), op(RET_K)],
        [op(LD_MEM, 3), op(RET_K)],
        [op(JEQ, 0, 0, 1), op(ST, 3), op(LD_MEM, 3), op(RET_K)],
        [op(LD_W, 0xFFFFF038), op(RET_K)],
        [op(RET_K)] * 4097,
    ],
)
def test_programs_that_are_refused(program: list[Instruction]) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        bpf.check(program)


def test_memory_may_be_read_where_every_way_wrote_it() -> None:
    both = (op(LD_IMM, 5), op(JEQ, 5, 0, 2), op(ST, 3), op(JA, 1), op(ST, 3), op(LD_MEM, 3))
    assert result(*both) == 5
