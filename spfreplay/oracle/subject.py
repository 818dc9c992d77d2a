"""One process of a program: it does calls, touches memory, forks.

A touch is a system call that copies to or from user memory, so that a bad one
is an errno, or a direct one: a real user-mode access, a bad one is a signal.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Final

from spfreplay.oracle.kernel import RET_OFFSET, SYS_PREAD, SYS_PWRITE, U64, Values, syscall
from spfreplay.oracle.touch import Touch, answer_of

#: Bits of how to touch.
EXECUTE, WRITE, DIRECT = 1, 2, 4

_LEAVE_WITHIN: Final = 5000  # ms


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
        """Touch ``addr``; return (answer, word loaded or stored, faults taken).

        The answer is 0, -errno, or one of :data:`~spfreplay.oracle.touch.SIGNALS`.
        """
        values = self.values
        if how & DIRECT:
            kind = Touch.STORE if how & WRITE else Touch.LOAD
            if how & EXECUTE:
                kind, addr = Touch.RUN, (addr & ~0xFFF) + RET_OFFSET
            done = self._touch(kind, 0, addr, value)
            return answer_of(done, addr), value if how & WRITE else done.result, done.faults
        if how & WRITE:
            call = SYS_PREAD, values.source, addr, 8, 8 * value
        else:
            call = SYS_PWRITE, values.sink, addr, 8, 0
        ret, faults, *_ = self._touch(Touch.CALL, *call)
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
