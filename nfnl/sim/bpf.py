"""Classic BPF: the programs that filter what a socket receives (net/core/filter.c).

An instruction is ``(code, jt, jf, k)``. A program sees the datagram from its first byte on; loads are in network byte order. Of
the ancillary loads (``SKF_AD_*``) there are those that make sense for netlink: NLATTR, NLATTR_NEST and ALU_XOR_X; a program
with another is refused as Linux refuses an unknown one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add, and_, eq, ge, gt, lshift, mul, or_, rshift, sub, xor

from nfnl.sim.errnos import Errno
from nfnl.wire.constants import NLA_TYPE_MASK, align4
from nfnl.wire.header import NATIVE

Instruction = tuple[int, int, int, int]
Program = tuple[Instruction, ...]

#: BPF_MAXINSNS, BPF_MEMWORDS
MAX_INSTRUCTIONS = 4096
MEMORY_WORDS = 16

# instruction classes, and the source bit of ALU and JMP: X instead of k
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
X = 0x08

# what is loaded from where: size and mode of LD and LDX
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0

#: SKF_AD_OFF, SKF_NET_OFF and SKF_LL_OFF as unsigned numbers: where special offsets begin
_ANCILLARY, _NET, _LINK = (offset & 0xFFFFFFFF for offset in (-0x1000, -0x100000, -0x200000))
NLATTR, NLATTR_NEST, ALU_XOR_X = (_ANCILLARY + offset for offset in (12, 16, 40))

DIV, MOD, NEG, LSH, RSH = 0x30, 0x90, 0x80, 0x60, 0x70
_ARITHMETIC: dict[int, Callable[[int, int], int]] = {
    0x00: add,
    0x10: sub,
    0x20: mul,
    0x40: or_,
    0x50: and_,
    LSH: lambda a, b: lshift(a, b & 31),
    RSH: lambda a, b: rshift(a, b & 31),
    0xA0: xor,
}
JA = 0x00
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {0x10: eq, 0x20: gt, 0x30: ge, 0x40: lambda a, b: bool(a & b)}

_LOADS = {LD | size | mode for size in _SIZES for mode in (ABS, IND)}
_KNOWN = (
    _LOADS
    | {LD | IMM, LD | MEM, LD | LEN, LDX | IMM, LDX | MEM, LDX | LEN, LDX | 0x10 | MSH, ST, STX}
    | {ALU | operation | source for operation in (*_ARITHMETIC, DIV, MOD) for source in (0, X)}
    | {ALU | NEG, JMP | JA, RET, RET | 0x10, MISC, MISC | 0x80}
    | {JMP | comparison | source for comparison in _COMPARISONS for source in (0, X)}
)


def check(instructions: Sequence[Instruction]) -> Program:
    """The program, if the kernel would take it (`bpf_check_classic`); raises OSError (EINVAL) if not."""
    program = tuple((code & 0xFFFF, jt & 0xFF, jf & 0xFF, k & 0xFFFFFFFF) for code, jt, jf, k in instructions)
    count = len(program)
    right = (
        0 < count <= MAX_INSTRUCTIONS
        and all(_is_sound(instruction, count - at - 1) for at, instruction in enumerate(program))
        and program[-1][0] in (RET, RET | 0x10)
        and _reads_what_was_written(program)
    )
    if not right:
        raise Errno.EINVAL.error()
    return program


def _is_sound(instruction: Instruction, behind: int) -> bool:
    """One instruction by itself; ``behind`` is how many follow it."""
    code, jt, jf, k = instruction
    if code not in _KNOWN:
        return False
    if code in (ALU | DIV, ALU | MOD):
        return k != 0
    if code in (ALU | LSH, ALU | RSH):
        return k < 32
    if code in (LD | MEM, LDX | MEM, ST, STX):
        return k < MEMORY_WORDS
    if code == JMP | JA:
        return k < behind
    if code & 7 == JMP:
        return jt < behind and jf < behind
    if code & 7 == LD and code & 0xE0 == ABS and k >= _ANCILLARY:
        return k in (NLATTR, NLATTR_NEST, ALU_XOR_X)
    return True


def _reads_what_was_written(program: Program) -> bool:
    """No word of memory is read on a way on which it was not written (`check_load_and_stores`)."""
    everything = (1 << MEMORY_WORDS) - 1
    at_entry = [everything] * len(program)
    written = 0
    for at, (code, jt, jf, k) in enumerate(program):
        written &= at_entry[at]
        if code in (ST, STX):
            written |= 1 << k
        elif code in (LD | MEM, LDX | MEM):
            if not written >> k & 1:
                return False
        elif code & 7 == JMP:
            for jump in (k,) if code == JMP | JA else (jt, jf):
                at_entry[at + 1 + jump] &= written
            written = everything
    return True


def run(program: Program, data: bytes) -> int:
    """How many bytes of the datagram to keep; 0 rejects it. A load from outside the datagram ends the program with 0."""
    a = x = at = 0
    memory = [0] * MEMORY_WORDS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        operand = x if code & X else k
        match code & 7:
            case 0 | 1 as target:  # LD, LDX
                match code & 0xE0:
                    case 0x00:
                        value: int | None = k
                    case 0x60:
                        value = memory[k]
                    case 0x80:
                        value = len(data)
                    case 0xA0:
                        low = _load(data, k, 1)
                        value = None if low is None else 4 * (low & 0xF)
                    case 0x20 if k >= _ANCILLARY:
                        value = a ^ x if k == ALU_XOR_X else _find_attribute(data, a, x, nested=k == NLATTR_NEST)
                    case mode:
                        value = _load(data, (k + x if mode == IND else k) & 0xFFFFFFFF, _SIZES[code & 0x18])
                if value is None:
                    return 0
                if target == LD:
                    a = value
                else:
                    x = value
            case 2:  # ST
                memory[k] = a
            case 3:  # STX
                memory[k] = x
            case 4:  # ALU
                operation = code & 0xF0
                if operation == NEG:
                    a = -a
                elif operation in (DIV, MOD):
                    if operand == 0:
                        return 0
                    a = a // operand if operation == DIV else a % operand
                else:
                    a = _ARITHMETIC[operation](a, operand)
                a &= 0xFFFFFFFF
            case 5:  # JMP
                at += k if code & 0xF0 == JA else jt if _COMPARISONS[code & 0xF0](a, operand) else jf
            case 6:  # RET
                return a if code & 0x10 else k
            case _:  # MISC: TXA, TAX
                if code & 0x80:
                    a = x
                else:
                    x = a


def _load(data: bytes, offset: int, size: int) -> int | None:
    if offset >= _NET:
        offset -= _NET  # the network header of a netlink message is its first byte
    elif offset >= _LINK:
        return None  # a link-layer header it has not
    if offset + size > len(data):
        return None
    return int.from_bytes(data[offset : offset + size], "big")


def _find_attribute(data: bytes, start: int, wanted: int, *, nested: bool) -> int:
    """Offset of the attribute of type ``wanted`` at or behind ``start`` (inside the one at ``start`` if nested); 0: none."""
    end = len(data)
    if end < 4 or start > end - 4:
        return 0
    if nested:
        length, _ = NATIVE.attr.unpack_from(data, start)
        if length > end - start:
            return 0
        start, end = start + 4, start + length
    while end - start >= 4:
        length, type_ = NATIVE.attr.unpack_from(data, start)
        if length < 4 or length > end - start:
            return 0
        if type_ & NLA_TYPE_MASK == wanted:
            return start
        start += align4(length)
    return 0
