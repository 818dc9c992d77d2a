"""One process of a program: it does calls, touches memory, forks.

A touch is by default a system call that copies to or from user memory, so that
a bad one is an errno; a direct one is a real user-mode access and only for
addresses that are known to be legal.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import socket
import struct
from typing import Final

from spfreplay.oracle.kernel import RET_OFFSET, SYS_PREAD, SYS_PWRITE, U64, Values, syscall

#: Bits of how to touch.
EXECUTE, WRITE, DIRECT = 1, 2, 4

_LEAVE_WITHIN: Final = 5000  # ms


class Touch:
    """Machine code that touches memory between two getrusage calls.

    From Python the interpreter's own page faults (copy on write after a fork,
    above all) would be counted too.  One page of code and one of parameters::

        word 0..4  number and arguments of a system call, or 1 = address, 2 = value
        word 7     result             word 8, 9  addresses of the two answers
    """

    _GETRUSAGE = "b862000000 bf01000000 488b73{:02x} 0f05"
    _ENTER = "53 4889fb" + _GETRUSAGE.format(0x40)
    _LEAVE = "48894338" + _GETRUSAGE.format(0x48) + "5bc3"
    _BODIES = (
        "488b03 488b7b08 488b7310 488b5318 4c8b5320 4531c0 4531c9 0f05",  # system call
        "488b4308 488b00",  # load
        "488b4308 488b4b10 488908",  # store
        "ff5308 31c0",  # run
    )
    CALL, LOAD, STORE, RUN = range(4)

    def __init__(self) -> None:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        data = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._keep = code, data
        start = ctypes.addressof(ctypes.c_char.from_buffer(code))
        self.routines = []
        for body in self._BODIES:
            at = code.tell()
            code.write(bytes.fromhex(self._ENTER + body + self._LEAVE))
            self.routines.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start + at))
        self.at = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self.words = (ctypes.c_uint64 * 512).from_address(self.at)
        self.words[8], self.words[9] = self.at + 512, self.at + 1024

    def __call__(self, kind: int, *parameters: int) -> tuple[int, int]:
        """Return (result as a pattern, faults taken meanwhile)."""
        words = self.words
        words[: len(parameters)] = list(parameters)
        self.routines[kind](self.at)
        # ru_minflt and ru_majflt
        return words[7], words[136] + words[137] - words[72] - words[73]


class Local:
    """This process as the live kernel's subject."""

    def __init__(self, values: Values, touch: Touch | None = None) -> None:
        self.values = values
        self.pid = os.getpid()
        self._touch = touch or Touch()
        self._links: list[socket.socket] = []

    def call(self, number: int, *args: int) -> int:
        """Do a system call; return its value or a negative errno."""
        return syscall(number, *args)

    def touch(self, how: int, addr: int, value: int) -> tuple[int, int, int]:
        """Touch ``addr``; return (0 or -errno, word loaded or stored, faults taken)."""
        values = self.values
        if how & DIRECT:
            if how & EXECUTE:
                word, faults = self._touch(Touch.RUN, 0, (addr & ~0xFFF) + RET_OFFSET)
            else:
                kind = Touch.STORE if how & WRITE else Touch.LOAD
                word, faults = self._touch(kind, 0, addr, value)
            return 0, value if how & WRITE else word, faults
        if how & WRITE:
            call = SYS_PREAD, values.source, addr, 8, 8 * value
        else:
            call = SYS_PWRITE, values.sink, addr, 8, 0
        ret, faults = self._touch(Touch.CALL, *call)
        if ret == 8:
            return 0, value if how & WRITE else values.loaded(), faults
        return ret - (1 << 64) if ret >> 63 else ret, 0, faults

    def fork(self, link: socket.socket) -> int:
        """Fork a child that obeys ``link``; return its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                obey(link, Local(self.values, self._touch))
            finally:
                os._exit(0)
        return pid

    def adopt(self, descriptor: int) -> int:
        """Fork a child that obeys a socket of the session; return its pid."""
        link = socket.socket(fileno=os.dup(descriptor))
        self._links.append(link)
        return self.fork(link)


_REQUEST = struct.Struct("<q7Q")
_REPLY = struct.Struct("<qQq")
_TOUCH, _FORK, _EXIT = -1, -2, -3


def obey(link: socket.socket, local: Local) -> None:
    """Serve the requests of a :class:`Remote` until told to leave."""
    while True:
        request = link.recv(_REQUEST.size)
        if not request:
            return
        number, *args = _REQUEST.unpack(request)
        word = faults = 0
        if number == _EXIT:
            return
        if number == _TOUCH:
            ret, word, faults = local.touch(*args[:3])
        elif number == _FORK:
            ret = local.adopt(args[0])
        else:
            ret = local.call(number, *args[:6])
        link.send(_REPLY.pack(ret, word, faults))


class Remote:
    """A forked process as the subject, at the other end of a socket pair."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self.link = link
        self.pid = pid

    def _ask(self, number: int, *args: int) -> tuple[int, int, int]:
        self.link.send(_REQUEST.pack(number, *(a & U64 for a in args), *[0] * (7 - len(args))))
        reply = self.link.recv(_REPLY.size)
        if not reply:
            raise ChildProcessError(f"process {self.pid} died")
        ret, word, faults = _REPLY.unpack(reply)
        return ret, word, faults

    def call(self, number: int, *args: int) -> int:
        """Have it do a system call."""
        return self._ask(number, *args)[0]

    def touch(self, how: int, addr: int, value: int) -> tuple[int, int, int]:
        """Have it touch memory, as :meth:`Local.touch`."""
        return self._ask(_TOUCH, how, addr, value)

    def fork(self, link: socket.socket) -> int:
        """Have it fork a child that obeys ``link``; return the child's pid."""
        return self._ask(_FORK, link.fileno())[0]

    def exit(self) -> None:
        """Make the process leave; return when its address space is gone."""
        handle = os.pidfd_open(self.pid)
        self.link.send(_REQUEST.pack(_EXIT, *[0] * 7))
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_LEAVE_WITHIN):
            raise ChildProcessError(f"process {self.pid} does not leave")
        os.close(handle)
