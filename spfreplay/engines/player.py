"""The only door between the two engines, and how a trace is played to one.

An engine answers every event with one integer (see ``contract``): outcome in
the low five bits, abort reason or errno above, page bits or digest in the
upper half.  A :class:`Player` collects these integers; what they mean is the
business of :mod:`spfreplay.diff`.

Both sides are imported late: a command that does not replay pays for neither.
"""

from __future__ import annotations

import errno
import gc
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

from spfreplay.errors import ModelError
from spfreplay.protocols import definition
from spfreplay.trace.container import Trace
from spfreplay.trace.events import EV_NO_EFFECT, EV_NO_RESULT, Columns, Tables
from spfreplay.trace.unmodelled import unmodelled_call
from spfreplay_reference.contract import (
    MAP_HUGETLB,
    MM_NONE,
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MBIND,
    OP_MIGRATE,
    OP_MMAP,
    OP_UNKNOWN_POPULATION,
    OUT_CALL_ERROR,
    OUT_CALL_OK,
    PAGE_SHIFT_IN_RESULT,
    REASON_MASK,
    REASON_SHIFT,
    RET_UNKNOWN,
    VM_EXEC,
    VM_READ,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_WRITE,
    Image,
    InitialImage,
    Region,
)

#: Outcomes that the driver gives where no engine was asked.
OUT_NOT_REPLAYED: Final = 28  # the reason is an index into SKIP_REASONS
OUT_NO_OPERATION: Final = 29  # checkpoints, gaps, page-cache facts

SKIP_NO_EFFECT: Final = 1
SKIP_UNKNOWN_MM: Final = 2
SKIP_NO_RESULT: Final = 3
SKIP_ENVIRONMENT: Final = 4
SKIP_NOT_MODELLED: Final = 5
SKIP_REASONS: Final = (
    "",
    "fault without effect (signal or retry)",
    "address space unknown",
    "result never recorded",
    "failed for reasons outside memory",
    "operation not modelled",
)

#: Failures that a model of memory cannot know: the call had no effect.
ENVIRONMENT_ERRNOS: Final = frozenset(
    {
        errno.EBADF, errno.EACCES, errno.EPERM, errno.ENODEV, errno.EAGAIN, errno.EINTR,
        errno.ENOSYS, errno.EOVERFLOW, errno.ENFILE, errno.ETXTBSY,
    }
)  # fmt: skip

#: The columns that a player reads.
PLAYED_COLUMNS: Final = (
    "op", "flags", "tid", "mm", "a0", "a1", "a2", "a3", "a4", "a5", "ret",
)  # fmt: skip

#: What an engine raises that has come to something it does not know: a planted bug may
#: make it follow what is not there.
_FAULTS_OF_AN_ENGINE: Final = (
    NotImplementedError, LookupError, ArithmeticError, TypeError, AttributeError,
)  # fmt: skip

#: How many results that differ from the recording are listed one by one.
LISTED_MISMATCHES: Final = 50

_INERT: Final = frozenset({OP_CHECKPOINT, OP_GAP, OP_UNKNOWN_POPULATION})
_CACHE: Final = frozenset({OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE})
_SYNTHETIC: Final = frozenset(range(OP_MBIND, OP_MIGRATE + 1))
_UNJUDGED_RET: Final = frozenset({OP_FORK, OP_EXIT, OP_EXEC})
_MARKED: Final = 0x80  # set in the op of an event that needs a closer look
_MARK_NO_EFFECT: Final = bytes(
    _MARKED if low & (EV_NO_EFFECT | EV_NO_RESULT) else 0 for low in range(256)
)


class Engine(Protocol):
    """What both engines offer; the locked one names no abort reasons."""

    @property
    def access(self) -> Callable[[int, int, int, int, int], int]: ...

    def exec(
        self, stamp: int, mm_old: int, tid: int, mm_new: int, image: InitialImage
    ) -> int: ...

    def call(
        self,
        stamp: int,
        op: int,
        mm: int,
        tid: int,
        a0: int,
        a1: int,
        a2: int,
        a3: int,
        a4: int,
        a5: int,
        ret: int,
    ) -> int: ...

    def page(self, mm: int, vpn: int) -> int: ...

    def region(self, mm: int, addr: int) -> Region | None: ...

    def regions(self, mm: int) -> tuple[Region, ...]: ...

    def image(self, mm: int) -> Image: ...

    def rss(self, mm: int) -> tuple[int, int, int, int]: ...

    def digest(self, mm: int) -> int: ...

    def mms(self) -> list[int]: ...

    def users(self, mm: int) -> int: ...


class EngineOptions(NamedTuple):
    """How the speculative engine is to behave; the reference has no options."""

    protocol: str = "spf-v11"
    file_faults: bool = False
    speculate_single_threaded: bool = False
    form: Literal["straight", "window"] = "straight"

    @property
    def serves_files(self) -> bool:
        """Are file faults served speculatively: asked for, or what the protocol is?"""
        return self.file_faults or definition(self.protocol).file_faults


class Mismatch(NamedTuple):
    """A call whose computed result is not the recorded one."""

    event: int
    recorded: int
    computed: int


def make_engine(protocol: str, tables: Tables, options: EngineOptions | None = None) -> Engine:
    """Build the engine called ``protocol`` for the kernel and files of a trace.

    :param protocol: ``locked``, or a base and patches: ``spf-fixed+M54+W03``.
    :raises PatchError: no such protocol
    """
    profile = tables.header.profile
    files = [file.facts for file in tables.files]
    engine: Any
    if protocol == "locked":
        from spfreplay_reference.engine import LockedKernel

        engine = LockedKernel(profile, files)
    else:
        from spfreplay.mm.kernel import SpeculativeKernel
        from spfreplay.mutations import protocol as patched

        source = patched(protocol)
        options = (options or EngineOptions())._replace(protocol=protocol)
        engine = SpeculativeKernel(
            profile,
            files,
            speculate_single_threaded=options.speculate_single_threaded,
            file_faults=options.serves_files,
            form=options.form,
            protocol=source,
        )
    result: Engine = engine
    return result


def reasons_of(engine: Engine) -> tuple[str, ...]:
    """Name the reasons why a fault was not taken speculatively, by number; "": it was."""
    names: tuple[str, ...] = getattr(engine, "reasons", ("every fault takes it",))
    return names


def marked_ops(columns: Columns) -> bytes:
    """Return the op column, bit 7 set where an event may not be replayed blindly.

    Byte strings are or-ed as one big integer: a chunk costs microseconds, and
    both engines then test one small integer per event.
    """
    ops = columns.op.tobytes()
    marks = columns.flags.tobytes()[::2].translate(_MARK_NO_EFFECT)
    if not marks.strip(b"\0"):
        return ops
    both = int.from_bytes(ops, "little") | int.from_bytes(marks, "little")
    return both.to_bytes(len(ops), "little")


class Player:
    """Plays events to one engine and keeps its answers.

    ``results`` has one integer per event played since the last
    :meth:`take`, ``values`` the return value of each call.
    """

    __slots__ = (
        "_known", "_ops", "_ops_of", "engine", "mismatch_count", "mismatches", "results",
        "tables", "unmodelled", "values",
    )  # fmt: skip

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.engine = engine
        self.tables = tables
        self.results: array[int] = array("I")
        self.values: array[int] = array("q")
        self.mismatches: list[Mismatch] = []
        self.mismatch_count = 0
        self.unmodelled: Counter[str] = Counter()
        self._known: set[int] = set(engine.mms())
        self._ops: bytes = b""
        self._ops_of: Columns | None = None

    def take(self) -> tuple[array[int], array[int]]:
        """Hand over results and values and begin new ones."""
        taken = self.results, self.values
        self.results, self.values = array("I"), array("q")
        return taken

    def play(self, columns: Columns, start: int, stop: int) -> None:
        """Play the events ``start`` .. ``stop`` (exclusive) of ``columns``.

        :raises ModelError: the engine failed; the message says at which event
        """
        if columns is not self._ops_of:
            self._ops, self._ops_of = marked_ops(columns), columns
        access = self.engine.access
        append = self.results.append
        known = self._known
        last = -1
        stamp = columns.first + start
        whole = stop - start == len(columns)
        part = (
            (column if whole else column[start:stop])
            for column in (columns.mm, columns.tid, columns.a0, columns.a1)
        )
        try:
            for op, mm, tid, a0, a1 in zip(self._ops[start:stop], *part, strict=True):
                if op == OP_ACCESS and (mm == last or mm in known):
                    last = mm
                    append(access(stamp, mm, tid, a0, a1))
                else:
                    append(self._other(columns, stamp - columns.first, op))
                    last = -1
                stamp += 1
        except ModelError as error:
            raise ModelError(f"event {stamp}: {error}") from error
        except _FAULTS_OF_AN_ENGINE as error:
            raise ModelError(f"event {stamp}: {type(error).__name__}: {error}") from error

    def _other(self, columns: Columns, i: int, op: int) -> int:
        """Answer for everything but an access of a known address space."""
        mm = columns.mm[i]
        stamp = columns.first + i
        marked, op = op & _MARKED, op & ~_MARKED
        if op in _INERT:
            return OUT_NO_OPERATION
        if op == OP_EXEC:
            return self._exec(columns, i)
        if op in _CACHE:
            self.engine.call(stamp, op, mm, columns.tid[i], *_arguments(columns, i))
            return OUT_NO_OPERATION
        if mm not in self._known:
            return OUT_NOT_REPLAYED | SKIP_UNKNOWN_MM << REASON_SHIFT
        if op == OP_ACCESS:
            return self._access_without_effect(columns, i)
        ret = columns.ret[i]
        if marked and ret == RET_UNKNOWN and op not in _UNJUDGED_RET:
            return OUT_NOT_REPLAYED | SKIP_NO_RESULT << REASON_SHIFT
        if ret < 0 and (-ret in ENVIRONMENT_ERRNOS or _asks_for_hugetlb(columns, i, op)):
            return OUT_NOT_REPLAYED | SKIP_ENVIRONMENT << REASON_SHIFT
        name = unmodelled_call(op, columns.a2[i], columns.a3[i], ret)
        if name:
            self.unmodelled[name] += 1
            return OUT_NOT_REPLAYED | SKIP_NOT_MODELLED << REASON_SHIFT
        return self._call(columns, i, op)

    def _access_without_effect(self, columns: Columns, i: int) -> int:
        """Replay a fault that was recorded as having had no effect.

        It had none because a signal was due: SIGSEGV, which the engine must
        come to as well, or any other, after which the instruction was retried
        and recorded again.  A legal access is of the second kind and left out:
        it would populate a page too early.
        """
        mm, addr, code = columns.mm[i], columns.a0[i], columns.a1[i]
        region = self.engine.region(mm, addr)
        without_effect = columns.flags[i] & EV_NO_EFFECT
        if without_effect and region is not None and permits(region, code):
            return OUT_NOT_REPLAYED | SKIP_NO_EFFECT << REASON_SHIFT
        return self.engine.access(columns.first + i, mm, columns.tid[i], addr, code)

    def _call(self, columns: Columns, i: int, op: int) -> int:
        engine, mm, stamp = self.engine, columns.mm[i], columns.first + i
        arguments = _arguments(columns, i)
        try:
            value = engine.call(stamp, op, mm, columns.tid[i], *arguments)
        except (NotImplementedError, ModelError):
            if op not in _SYNTHETIC:
                raise
            return OUT_NOT_REPLAYED | SKIP_NOT_MODELLED << REASON_SHIFT
        self.values.append(value)
        if op == OP_FORK:
            self._known.add(columns.a1[i])
        elif op == OP_EXIT and mm not in engine.mms():
            self._known.discard(mm)
        recorded = columns.ret[i]
        if value != recorded and recorded != RET_UNKNOWN and op not in _UNJUDGED_RET:
            self.mismatch_count += 1
            if len(self.mismatches) < LISTED_MISMATCHES:
                self.mismatches.append(Mismatch(stamp, recorded, value))
        digest = engine.digest(mm) << PAGE_SHIFT_IN_RESULT
        if value < 0:
            return OUT_CALL_ERROR | (-value & REASON_MASK) << REASON_SHIFT | digest
        return OUT_CALL_OK | digest

    def _exec(self, columns: Columns, i: int) -> int:
        engine, old, new = self.engine, columns.mm[i], columns.a0[i]
        image = self.tables.images[columns.a1[i]]
        if old not in self._known:
            old = MM_NONE
        value = engine.exec(columns.first + i, old, columns.tid[i], new, image)
        self.values.append(value)
        self._known.add(new)
        if old not in engine.mms():
            self._known.discard(old)
        return OUT_CALL_OK | engine.digest(new) << PAGE_SHIFT_IN_RESULT


def _asks_for_hugetlb(columns: Columns, i: int, op: int) -> bool:
    """Tell whether a call asks for pages of the hugetlb pool, which no model knows."""
    return op == OP_MMAP and bool(columns.a3[i] & MAP_HUGETLB)


def _arguments(columns: Columns, i: int) -> tuple[int, int, int, int, int, int, int]:
    return (
        columns.a0[i],
        columns.a1[i],
        columns.a2[i],
        columns.a3[i],
        columns.a4[i],
        columns.a5[i],
        columns.ret[i],
    )


def permits(region: Region, error_code: int) -> bool:
    """Tell whether the rights of ``region`` allow an access."""
    if error_code & X86_PF_WRITE:
        return bool(region.flags & VM_WRITE)
    if error_code & X86_PF_INSTR:
        return bool(region.flags & VM_EXEC)
    return bool(region.flags & (VM_READ | VM_WRITE | VM_EXEC))


@dataclass(slots=True)
class Replay:
    """One engine's answers to a whole trace.

    ``outcomes[n]`` is outcome | reason << 5 of event n, ``pages[n]`` the page
    bits after an access, the digest after a call.
    """

    outcomes: array[int] = field(default_factory=lambda: array("H"))
    pages: array[int] = field(default_factory=lambda: array("H"))
    mismatches: list[Mismatch] = field(default_factory=list)
    mismatch_count: int = 0


def replay(
    engine: Engine,
    trace: Trace,
    *,
    on_checkpoint: Callable[[int, int, int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Play a whole trace to one engine.

    ``on_checkpoint(event, mm, checkpoint id)`` is called when the engine
    stands where the checkpoint was taken, ``progress(events)`` now and then.
    """
    player = Player(engine, trace.tables)
    done = Replay()
    with patient_collector():
        _play_all(player, trace, done, on_checkpoint, progress)
    done.mismatches, done.mismatch_count = player.mismatches, player.mismatch_count
    return done


def _play_all(
    player: Player,
    trace: Trace,
    done: Replay,
    on_checkpoint: Callable[[int, int, int], None] | None,
    progress: Callable[[int], None] | None,
) -> None:
    for columns in trace.chunks(PLAYED_COLUMNS):
        begin = 0
        for stop in positions(columns, OP_CHECKPOINT):
            player.play(columns, begin, stop)
            begin = stop
            if on_checkpoint:
                on_checkpoint(columns.first + stop, columns.mm[stop], columns.a0[stop])
        player.play(columns, begin, len(columns))
        halves = array("H", player.take()[0].tobytes())
        done.outcomes += halves[::2]
        done.pages += halves[1::2]
        if progress:
            progress(len(columns))


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let the garbage collector look less often while engines run.

    Every mapped page is an object or two that lives on; looking through all of
    them after each 700 new ones is a sixth of a replay.  What the engines drop
    in cycles is little: an address space now and then.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def positions(columns: Columns, *ops: int) -> list[int]:
    """Return where in ``columns`` the operations ``ops`` stand, ascending."""
    haystack = columns.op.tobytes()
    found = []
    for op in ops:
        needle, at = bytes((op,)), -1
        while (at := haystack.find(needle, at + 1)) >= 0:
            found.append(at)
    return sorted(found)
