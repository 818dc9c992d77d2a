"""Touch memory by machine code, counting faults and surviving signals.

From Python the interpreter's own page faults (copy on write after a fork,
above all) would be counted, too, and a signal would end it.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from typing import Final, NamedTuple

from spfreplay.oracle.kernel import SYS_RT_SIGACTION, syscall

#: Bytes of the signal stack; its upper part takes the largest frame (AMX: 11 KiB).
_STACK, _FRAME = 64 << 10, 16 << 10
_SA_SIGINFO, _SA_ONSTACK, _SA_RESTORER = 4, 0x0800_0000, 0x0400_0000
_libc = ctypes.CDLL(None, use_errno=True)


class Touched(NamedTuple):
    """What a routine came to: its result as a pattern, faults meanwhile, a signal.

    ``code`` and ``addr`` are si_code and si_addr, ``signal`` 0 if there was none.
    """

    result: int
    faults: int
    signal: int
    code: int
    addr: int


class _SigAction(ctypes.Structure):
    """struct sigaction of the kernel on x86-64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("restorer", ctypes.c_void_p),
        ("mask", ctypes.c_ulong),
    )


class _Stack(ctypes.Structure):
    """stack_t."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class Touch:
    """Routines that do one thing between two getrusage calls.

    One page of code and one of parameters::

        word 0..4   number and arguments of a system call, or 1 = address, 2 = value
        word 7      result             word 8, 9    addresses of the two answers
        word 10     stack pointer      word 11      where to go on after a signal
        word 12..14 signal, si_code, si_addr

    Of memory that is run the first instruction counts: ``ret``, or zeroes,
    which are ``add %al,(%rax)`` and here get at address 0.

    :raises OSError: no signal handler for this process
    """

    _GETRUSAGE = "b862000000 bf01000000 488b73{:02x} 0f05"
    _ENTER = "53 4889fb 48896350" + _GETRUSAGE.format(0x40)
    _LEAVE = "48894338" + _GETRUSAGE.format(0x48) + "5bc3"
    _BODIES = (
        "488b03 488b7b08 488b7310 488b5318 4c8b5320 4531c0 4531c9 0f05",  # system call
        "488b4308 488b00",  # load
        "488b4308 488b4b10 488908",  # store
        "31c0 ff5308 31c0",  # run
    )
    #: Handler of a signal: %rbx was the parameters; noted there, on to LEAVE.
    _HANDLER = (
        "488b8a80000000 897960 8b4608 894168 488b4610 48894170"
        "488b4158 488982a8000000 488b4150 488982a0000000 c3"
    )
    #: The way back from it.  Not the C library's: that may be a fault of its own.
    _RESTORER = "b80f000000 0f05"
    CALL, LOAD, STORE, RUN = range(4)

    def __init__(self) -> None:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        data = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        stack = mmap.mmap(-1, _STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._keep = code, data, stack
        start = _address(code)
        self.routines = []
        for body in self._BODIES:
            at = code.tell()
            code.write(bytes.fromhex(self._ENTER + body + self._LEAVE))
            self.routines.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start + at))
        self.at = _address(data)
        self.words = (ctypes.c_uint64 * 512).from_address(self.at)
        self.words[8], self.words[9] = self.at + 512, self.at + 1024
        self.words[11] = start + code.tell()
        code.write(bytes.fromhex(self._LEAVE))
        self._stack_top = _address(stack) + _STACK - _FRAME
        handler = start + code.tell()
        code.write(bytes.fromhex(self._HANDLER))
        _catch(handler, start + code.tell(), _address(stack))
        code.write(bytes.fromhex(self._RESTORER))

    def __call__(self, kind: int, *parameters: int) -> Touched:
        """Run a routine."""
        words = self.words
        words[: len(parameters)] = list(parameters)
        words[12] = 0
        if kind != self.CALL:
            # No fault of the signal's own is to be counted.
            ctypes.memset(self._stack_top, 0, _FRAME)
        self.routines[kind](self.at)
        # ru_minflt and ru_majflt
        faults = words[136] + words[137] - words[72] - words[73]
        return Touched(words[7], faults, words[12], words[13], words[14])


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _catch(handler: int, restorer: int, stack: int) -> None:
    """Let ``handler`` take the signals of bad accesses, on a stack of its own."""
    place = _Stack(stack, 0, _STACK)
    if _libc.sigaltstack(ctypes.byref(place), None):
        raise OSError(ctypes.get_errno(), "no signal stack")
    action = _SigAction(handler, _SA_SIGINFO | _SA_ONSTACK | _SA_RESTORER, restorer, 0)
    for number in (signal.SIGSEGV, signal.SIGBUS):
        error = syscall(SYS_RT_SIGACTION, number, ctypes.addressof(action), 0, 8)
        if error:
            raise OSError(-error, "no signal handler")


def answer_of(touched: Touched, addr: int) -> int:
    """Return 0, or a signal as one number: :data:`SIGNALS`, or -9999 if it is not of ``addr``.

    Where memory was run, a signal about address 0 is that of its first instruction.
    """
    if not touched.signal:
        return 0
    if touched.addr >> 12 != addr >> 12:
        return 0 if touched.addr == 0 else -9999
    return -(1000 * touched.signal + touched.code)


#: SIGSEGV without and against the rights of a mapping, SIGBUS: below all errnos.
SIGNALS: Final = {
    -11001: "SIGSEGV (MAPERR)",
    -11002: "SIGSEGV (ACCERR)",
    -7002: "SIGBUS (ADRERR)",
    -9999: "a signal about another address",
}
