"""Drive the running kernel: one process each, calls and touches, page tables.

Everything is done with ctypes and works as an ordinary user.  A touch is by
default a system call that copies to or from user memory, so that a bad one is
an errno; a direct one is a real user-mode access and only for addresses that
are known to be legal.
"""

import array
import ctypes
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
from pathlib import Path

from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_REG,
    FILE_SHMEM,
    KIND_ANON,
    KIND_FILE,
    KIND_SWAP,
    KIND_ZERO,
    MAP_SHARED,
    PG_HUGE,
    PG_SHARED,
    PROT_WRITE,
    FileFacts,
    KernelProfile,
)

SYS_MMAP, SYS_MPROTECT, SYS_MUNMAP, SYS_MREMAP, SYS_MADVISE = 9, 10, 11, 25, 28
SYS_MLOCK, SYS_MUNLOCK, SYS_MLOCK2, SYS_MLOCKALL, SYS_MUNLOCKALL = 149, 150, 325, 151, 152
SYS_PREAD, SYS_PWRITE = 17, 18
PAGEMAP_SCAN = 0xC0606610
#: PAGEMAP_SCAN categories
SCAN_FILE, SCAN_PRESENT, SCAN_SWAPPED, SCAN_PFNZERO, SCAN_HUGE = 4, 8, 16, 32, 64
PAGEMAP_EXCLUSIVE, PAGEMAP_FRAME = 1 << 56, (1 << 55) - 1
U64 = (1 << 64) - 1
#: x86-64 `ret`, in every page of the test files at this offset
RET_OFFSET = 64

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long


def syscall(number, a0=0, a1=0, a2=0, a3=0, a4=0, a5=0):
    """Return what the kernel returns: a value or a negative errno."""
    ret = _syscall(number, a0, a1, a2, a3, a4, a5)
    return -ctypes.get_errno() if ret == -1 else ret


def setting(path, default):
    """Return the text of a kernel setting; of several choices the chosen one."""
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return default
    return text.split("[")[1].split("]")[0] if "[" in text else text


def this_kernel():
    """Return the behaviour profile of the kernel we run on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    caps = int(setting("/proc/self/status", "").split("CapEff:")[1].split()[0], 16)
    around = int(setting("/sys/kernel/debug/fault_around_bytes", "65536"))
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    thp = "/sys/kernel/mm/transparent_hugepage/"
    return KernelProfile(
        release=os.uname().release,
        fault_around_pages=around // 4096,
        thp_enabled=setting(thp + "enabled", "never"),
        thp_zero_page=setting(thp + "use_zero_page", "1") == "1",
        overcommit_memory=int(setting("/proc/sys/vm/overcommit_memory", "0")),
        max_map_count=int(setting("/proc/sys/vm/max_map_count", "65530")),
        stack_limit=stack,
        memlock_limit=-1 if caps >> 14 & 1 else soft,
    )


def cannot_judge():
    """Return why the running kernel cannot be used as judge, "" if it can."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if os.uname().machine != "x86_64" or release < (6, 18):
        return f"the rules are those of 6.18 on x86-64, this is {os.uname().release}"
    if this_kernel().memlock_limit != -1:
        return "needs CAP_IPC_LOCK (mlock without limit)"
    return ""


class Files:
    """The mapped files of a program: one of a disk file system, one shmem.

    Both start with known words: page ``i`` holds what the engines call its
    content.  Written page by page, so that no large folio comes about.
    """

    REG_PAGES, REG_TAIL, SHMEM_PAGES = 40, 100, 48
    HOLE = (20, 4)  # pages of the shmem file that are not there yet

    def __init__(self, directory="/tmp"):
        self.fds = (
            os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600),
            os.memfd_create("oracle"),
        )
        self.facts = (
            FileFacts(0, FILE_REG, self.REG_PAGES * 4096 + self.REG_TAIL),
            FileFacts(1, FILE_SHMEM, self.SHMEM_PAGES * 4096, absent=(self.HOLE,)),
        )
        for facts, fd in zip(self.facts, self.fds, strict=True):
            hole = {i for first, n in facts.absent for i in range(first, first + n)}
            os.ftruncate(fd, facts.size)
            for index in range(-(-facts.size // 4096)):
                if index not in hole:
                    page = struct.pack("<Q", CONTENT_FILE | facts.id << 31 | index)
                    page = page.ljust(RET_OFFSET, b"\0") + b"\xc3"
                    os.pwrite(fd, page, index * 4096)
        # An engine takes a shared mapping made without PROT_WRITE for one of a file
        # opened for reading: the call does not tell.  So it is one.
        self.readers = tuple(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY) for fd in self.fds)
        # Nothing may evict them while they are judged.
        self._pin = mmap.mmap(self.fds[0], 0, prot=mmap.PROT_READ)
        for offset in range(0, self.facts[0].size, 4096):
            self._pin[offset]

    def descriptor(self, file_id, prot, flags):
        """Return the file descriptor to map the file with."""
        readable = flags & MAP_SHARED and not prot & PROT_WRITE
        return (self.readers if readable else self.fds)[file_id]

    def in_hole(self, file_id, index):
        """Whether the page had no content in the file at the start."""
        return any(f <= index < f + n for f, n in self.facts[file_id].absent)


class Values:
    """A table of words to store from, and a word to load into, shared by all."""

    def __init__(self, count):
        self.source = os.memfd_create("values")
        os.pwrite(self.source, array.array("Q", range(count)).tobytes(), 0)
        self.sink = os.memfd_create("sink")
        os.pwrite(self.sink, bytes(4096), 0)
        self._view = mmap.mmap(self.sink, 4096)

    def loaded(self):
        return struct.unpack_from("<Q", self._view)[0]


class Touch:
    """Machine code that touches memory between two getrusage calls.

    From Python the interpreter's own page faults (copy on write after a fork,
    above all) would be counted too.  One page of code and one of parameters:

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

    def __init__(self):
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

    def __call__(self, kind, *parameters):
        """Return (result as a pattern, faults taken meanwhile)."""
        words = self.words
        words[: len(parameters)] = parameters
        self.routines[kind](self.at)
        # ru_minflt and ru_majflt
        return words[7], words[136] + words[137] - words[72] - words[73]


class Local:
    """This process as the live kernel's subject."""

    def __init__(self, values, fds, touch=None):
        self.values = values
        self.fds = fds
        self.pid = os.getpid()
        self._touch = touch or Touch()

    def call(self, number, *args):
        return syscall(number, *args)

    def touch(self, how, addr, value):
        """Touch ``addr``; return (0 or -errno, word loaded or stored, faults taken).

        ``how`` is (direct, write, execute) as bits 2, 1, 0.
        """
        values = self.values
        if how & 4:
            if how & 1:
                word, faults = self._touch(3, 0, (addr & ~0xFFF) + RET_OFFSET)
            else:
                word, faults = self._touch(how & 2 or 1, 0, addr, value)
            return 0, value if how & 2 else word, faults
        if how & 2:
            ret, faults = self._touch(0, SYS_PREAD, values.source, addr, 8, 8 * value)
        else:
            ret, faults = self._touch(0, SYS_PWRITE, values.sink, addr, 8, 0)
        if ret == 8:
            return 0, value if how & 2 else values.loaded(), faults
        return ret - (1 << 64) if ret >> 63 else ret, 0, faults

    def fork(self, link):
        """Fork a child that obeys ``link``; return its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                obey(link, Local(self.values, self.fds, self._touch))
            finally:
                os._exit(0)
        return pid


REQUEST = struct.Struct("<q7Q")
REPLY = struct.Struct("<qQq")


def obey(link, local):
    """Serve the requests of a :class:`Remote` until told to leave."""
    links = local.links = getattr(local, "links", [])
    while True:
        request = link.recv(REQUEST.size)
        if not request:
            return
        number, *args = REQUEST.unpack(request)
        word = faults = 0
        if number == Remote.EXIT:
            return
        if number == Remote.TOUCH:
            ret, word, faults = local.touch(*args[:3])
        elif number == Remote.FORK:
            child = socket.socket(fileno=os.dup(args[0]))
            links.append(child)
            ret = local.fork(child)
        else:
            ret = local.call(number, *args[:6])
        link.send(REPLY.pack(ret, word, faults))


class Remote:
    """A forked process as the subject, at the other end of a socket pair."""

    TOUCH, FORK, EXIT = -1, -2, -3

    def __init__(self, link):
        self.link = link
        self.pid = 0

    def _ask(self, number, *args):
        self.link.send(REQUEST.pack(number, *(a & U64 for a in args), *[0] * (7 - len(args))))
        reply = self.link.recv(REPLY.size)
        if not reply:
            raise ChildProcessError(f"process {self.pid} died")
        return REPLY.unpack(reply)

    def call(self, number, *args):
        return self._ask(number, *args)[0]

    def touch(self, how, addr, value):
        return self._ask(self.TOUCH, how, addr, value)

    def fork(self, link):
        return self._ask(self.FORK, link.fileno())[0]

    def exit(self):
        """Make the process leave; return when its address space is gone."""
        handle = os.pidfd_open(self.pid)
        self.link.send(REQUEST.pack(self.EXIT, *[0] * 7))
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(5000):
            raise ChildProcessError(f"process {self.pid} does not leave")
        os.close(handle)


class Tables:
    """What /proc says about [start, end) of one process."""

    def __init__(self, pid, start, end):
        self.start, self.end = start, end
        self.first, self.count = start >> 12, (end - start) >> 12
        proc = f"/proc/{pid}/"
        self.pagemap = os.open(proc + "pagemap", os.O_RDONLY)
        self.maps = os.open(proc + "maps", os.O_RDONLY)
        self.smaps = os.open(proc + "smaps", os.O_RDONLY)
        self.mem = os.open(proc + "mem", os.O_RDONLY)
        self.vector = array.array("Q", bytes(24 * self.count))
        self.vector_at = self.vector.buffer_info()[0]
        mask = SCAN_FILE | SCAN_PRESENT | SCAN_SWAPPED | SCAN_PFNZERO | SCAN_HUGE
        self.request = struct.pack(
            "<12Q", 96, 0, start, end, 0, self.vector_at, self.count, 0, 0, 0,
            SCAN_PRESENT | SCAN_SWAPPED, mask,
        )  # fmt: skip

    def close(self):
        for fd in (self.pagemap, self.maps, self.smaps, self.mem):
            os.close(fd)

    def frame(self, addr):
        """Return the frame number of the page at ``addr``; 0 = none, or not root."""
        word = int.from_bytes(os.pread(self.pagemap, 8, addr >> 12 << 3), "little")
        return word & PAGEMAP_FRAME if word >> 63 else 0

    def page_words(self):
        """Return the raw answer: pagemap words and scan ranges, as bytes."""
        runs = fcntl.ioctl(self.pagemap, PAGEMAP_SCAN, bytearray(self.request), True)
        raw = os.pread(self.pagemap, self.count * 8, self.first * 8)
        return raw, self.vector[: 3 * runs]

    def pages(self, words):
        """Return {vpn: kind and PG_SHARED/PG_HUGE} from :meth:`page_words`."""
        raw, runs = words
        pagemap = memoryview(raw).cast("Q")
        found = {}
        for at in range(0, len(runs), 3):
            categories = runs[at + 2]
            bits = PG_HUGE if categories & SCAN_HUGE else 0
            if categories & SCAN_SWAPPED:
                bits |= KIND_SWAP
            elif categories & SCAN_PFNZERO:
                bits |= KIND_ZERO
            elif categories & SCAN_FILE:
                bits |= KIND_FILE
            else:
                bits |= KIND_ANON
            for vpn in range(runs[at] >> 12, runs[at + 1] >> 12):
                shared = bits & 7 == KIND_ANON and not (
                    pagemap[vpn - self.first] & PAGEMAP_EXCLUSIVE
                )
                found[vpn] = bits | PG_SHARED if shared else bits
        return found

    def content(self, vpn):
        """Return the first word of a present page, whatever its rights."""
        data = os.pread(self.mem, 8, vpn << 12)
        return int.from_bytes(data, "little")

    def regions(self):
        """Return the lines of maps: [(start, end, "rwxp", pgoff)]."""
        text, at, found = b"", 0, []
        while True:
            part = os.pread(self.maps, 4096, len(text))
            text += part
            *lines, rest = text[at:].split(b"\n")
            at = len(text) - len(rest)
            for line in lines:
                fields = line.split(None, 4)
                start, end = fields[0].split(b"-")
                start = int(start, 16)
                if start >= self.end:
                    return found
                if start >= self.start:
                    # The offset of private anonymous memory is not printed.
                    found.append(
                        (start, int(end, 16), fields[1].decode(), int(fields[2], 16) >> 12)
                    )
            if not part:
                return found

    def flags(self):
        """Return {start: set of VmFlags mnemonics} for the range."""
        found, start = {}, 0
        with open(self.smaps, "rb", closefd=False) as smaps:
            smaps.seek(0)
            for line in smaps:
                if line.startswith(b"VmFlags:"):
                    if start >= self.end:
                        break
                    if start >= self.start:
                        found[start] = frozenset(line[8:].decode().split())
                elif line[0] not in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
                    start = int(line.split(b"-")[0], 16)
        return found
