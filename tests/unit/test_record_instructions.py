"""Which way the memory operand of an instruction goes; bytes as an assembler writes them."""

import pytest

from spfreplay.record.instructions import writes

STORES = {
    "mov %eax,(%rdi)": "89 07",
    "mov %al,(%rdi)": "88 07",
    "movl $1,(%rdi)": "c7 07 01 00 00 00",
    "mov %rax,8(%rsp)": "48 89 44 24 08",
    "mov %r8,(%r9)": "4d 89 01",
    "add %eax,(%rdi)": "01 07",
    "lock xadd %eax,(%rdi)": "f0 0f c1 07",
    "lock cmpxchg %ecx,(%rdi)": "f0 0f b1 0f",
    "xchg %eax,(%rdi)": "87 07",
    "addq $1,(%rdi)": "48 83 07 01",
    "incl (%rdi)": "ff 07",
    "notl (%rdi)": "f7 17",
    "rep stos %al,(%rdi)": "f3 aa",
    "push %rbx": "53",
    "call": "e8 00 00 00 00",
    "call *%rax": "ff d0",
    "movups %xmm0,(%rdi)": "0f 11 07",
    "movaps %xmm0,(%rdi)": "0f 29 07",
    "movdqu %xmm0,(%rdi)": "f3 0f 7f 07",
    "movq %xmm0,(%rdi)": "66 0f d6 07",
    "movnti %eax,(%rdi)": "0f c3 07",
    "sete (%rdi)": "0f 94 07",
    "vmovdqu %ymm0,(%rdi)": "c5 fe 7f 07",
    "vmovups %ymm8,(%rdi)": "c5 7c 11 07",
    "vmovdqu64 %zmm16,(%rdi)": "62 e1 fe 48 7f 07",
    "fstpl (%rdi)": "dd 1f",
    "mov %fs-relative": "64 89 04 25 00 00 00 00",
}
LOADS = {
    "mov (%rdi),%eax": "8b 07",
    "movzbl (%rdi),%eax": "0f b6 07",
    "movsbl (%rdi),%eax": "0f be 07",
    "movslq (%rdi),%rax": "48 63 07",
    "cmp %eax,(%rdi)": "39 07",
    "cmpb $0,(%rdi)": "80 3f 00",
    "cmpl $1,(%rdi)": "83 3f 01",
    "test %al,(%rdi)": "84 07",
    "testb $1,(%rdi)": "f6 07 01",
    "add (%rdi),%eax": "03 07",
    "imul (%rdi),%eax": "0f af 07",
    "divl (%rdi)": "f7 37",
    "jmp *(%rdi)": "ff 27",
    "pop %rbx": "5b",
    "ret": "c3",
    "cmove (%rdi),%eax": "0f 44 07",
    "bt %eax,(%rdi)": "0f a3 07",
    "movups (%rdi),%xmm0": "0f 10 07",
    "movdqu (%rdi),%xmm0": "f3 0f 6f 07",
    "movq (%rdi),%xmm0": "f3 0f 7e 07",
    "pcmpeqb (%rdi),%xmm0": "66 0f 74 07",
    "vpcmpeqb (%rdi),%ymm1,%ymm0": "c5 f5 74 07",
    "vmovdqu (%rdi),%ymm0": "c5 fe 6f 07",
    "vmovdqu64 (%rdi),%zmm16": "62 e1 fe 48 6f 07",
    "pshufb (%rdi),%xmm0": "66 0f 38 00 07",
    "fldl (%rdi)": "dd 07",
    "repz scas %al": "f3 ae",
}
UNDECIDED = {
    "rep movsb": "f3 a4",
    "movsq": "48 a5",
    "push (%rdi)": "ff 37",
    "call *(%rdi)": "ff 17",
    "nothing": "",
    "prefixes only": "66 f3",
    "cut": "0f",
}


@pytest.mark.parametrize(
    ("code", "answer"),
    [(code, answer) for codes, answer in ((STORES, True), (LOADS, False), (UNDECIDED, None))
     for code in codes.values()],
    ids=[name for codes in (STORES, LOADS, UNDECIDED) for name in codes],
)  # fmt: skip
def test_an_instruction_stores_or_not(code, answer):
    assert writes(bytes.fromhex(code)) is answer


def test_any_bytes_have_an_answer():
    answers = {writes(bytes((a, b, 0x07, 0, 0))) for a in range(256) for b in range(256)}
    assert answers == {True, False, None}
