"""Does an x86-64 instruction write to memory?  For faults that do not say.

Only which way the memory operand goes is decoded, from prefixes, opcode and, for
some, the reg field of ModRM.  What reads and writes different places (movs, push
of a memory operand) is not decided.

Models: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A
"""

from __future__ import annotations

from typing import Final

#: Bytes of code that are enough to tell.
LONGEST: Final = 16

_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_ALL: Final = frozenset(range(8))
_NONE: Final[frozenset[int]] = frozenset()

#: One-byte opcodes that store through ModRM, whatever its reg field.
_STORES: Final = frozenset(
    (
        *(op | low for op in range(0x00, 0x38, 8) for low in (0, 1)),  # add ... xor
        0x86, 0x87, 0x88, 0x89, 0x8C, 0x8F, 0xA2, 0xA3, 0xAA, 0xAB, 0xC0, 0xC1, 0xC6, 0xC7,
        0xD0, 0xD1, 0xD2, 0xD3,
        *range(0x50, 0x58), 0x68, 0x6A, 0x9C, 0xC8, 0xE8,  # on the stack
    )
)  # fmt: skip
#: One-byte opcodes of which the reg fields given store.
_BY_REG: Final = {
    0x80: _ALL - {7}, 0x81: _ALL - {7}, 0x83: _ALL - {7},
    0xF6: frozenset((2, 3)), 0xF7: frozenset((2, 3)),
    0xFE: frozenset((0, 1)), 0xFF: frozenset((0, 1)),
    0xD9: frozenset((2, 3, 6, 7)), 0xDB: frozenset((1, 2, 3, 7)),
    0xDD: frozenset((1, 2, 3, 6, 7)), 0xDF: frozenset((1, 2, 3, 6, 7)),
}  # fmt: skip
_UNDECIDED: Final = frozenset((0xA4, 0xA5))  # movs: from one place to another
_PUSHES: Final = frozenset((2, 3, 6))  # of 0xFF: call and push of what memory holds

#: After 0F, in any encoding.
_STORES_0F: Final = frozenset(
    (
        0x11, 0x13, 0x17, 0x29, 0x2B, 0x7F, 0xD6, 0xE7, 0xC3, 0xB0, 0xB1, 0xC0, 0xC1, 0xAB,
        0xB3, 0xBB, 0xA4, 0xA5, 0xAC, 0xAD, 0xA0, 0xA8, *range(0x90, 0xA0),
    )
)  # fmt: skip
_BY_REG_0F: Final = {
    0xBA: frozenset((5, 6, 7)), 0xC7: frozenset((1, 3, 4)), 0xAE: frozenset((0, 3, 4, 6)),
}  # fmt: skip
_STORES_0F38: Final = frozenset((0xF1, 0x2E, 0x2F, 0x8E, *range(0xA0, 0xA4)))
_STORES_0F3A: Final = frozenset((0x14, 0x15, 0x16, 0x17, 0x19, 0x1B, 0x1D, 0x39, 0x3B))


def writes(code: bytes) -> bool | None:
    """Tell whether the instruction at the start of ``code`` stores; None: cannot say."""
    at, repeated = 0, False
    while at < len(code) and code[at] in _PREFIXES:
        repeated = repeated or code[at] == 0xF3
        at += 1
    if at < len(code) and 0x40 <= code[at] < 0x50:
        at += 1  # REX
    try:
        return _decode(code, at, repeated)
    except IndexError:
        return None


def _decode(code: bytes, at: int, repeated: bool) -> bool | None:
    op = code[at]
    if op == 0xC5:  # VEX of two bytes
        return _map_0f(code, at + 2, code[at + 1] & 3 == 2)
    if op == 0xC4:
        return _of_map(code, at + 3, code[at + 1] & 0x1F, code[at + 2] & 3 == 2)
    if op == 0x62:  # EVEX
        return _of_map(code, at + 4, code[at + 1] & 7, code[at + 2] & 3 == 2)
    if op == 0x0F:
        if code[at + 1] == 0x38:
            return _of_map(code, at + 2, 2, repeated)
        if code[at + 1] == 0x3A:
            return _of_map(code, at + 2, 3, repeated)
        return _map_0f(code, at + 1, repeated)
    if op in _UNDECIDED:
        return None
    if op in _BY_REG:
        reg = code[at + 1] >> 3 & 7
        if op == 0xFF and reg in _PUSHES:
            return True if code[at + 1] >> 6 == 3 else None
        return reg in _BY_REG[op]
    return op in _STORES


def _of_map(code: bytes, at: int, number: int, repeated: bool) -> bool | None:
    if number == 1:
        return _map_0f(code, at, repeated)
    if number == 2:
        return code[at] in _STORES_0F38
    return code[at] in _STORES_0F3A if number == 3 else None


def _map_0f(code: bytes, at: int, repeated: bool) -> bool:
    op = code[at]
    if op == 0x7E:
        return not repeated  # movq to a register, movd and movq from one
    if op in _BY_REG_0F:
        return (code[at + 1] >> 3 & 7) in _BY_REG_0F[op]
    return op in _STORES_0F
