"""A private tracefs instance: events on, binary pages out, always removed."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Protocol

from spfreplay.errors import CannotError
from spfreplay.record.catalog import Wanted
from spfreplay.record.formats import compile_event, parse_format
from spfreplay.record.ring import Readers

PREFIX: Final = "spfreplay-"
#: Pages are drained this often (s): 64 MiB a CPU last for seconds.
DRAIN_PERIOD: Final = 0.1


def find_tracefs() -> Path | None:
    """Return where a tracefs is mounted and can be used, or None."""
    places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            parts = line.split(" ")
            if len(parts) > 2 and parts[2] == "tracefs":
                places.insert(0, parts[1].replace("\\040", " "))
    for place in places:
        if os.access(f"{place}/instances", os.W_OK | os.X_OK):
            return Path(place)
    return None


class TracefsMount:
    """A usable tracefs, mounted for the occasion where there is none.

    :raises CannotError: not root, or the kernel refuses; says what to do.
    """

    def __init__(self) -> None:
        self._own: str | None = None
        found = find_tracefs()
        if found is None:
            found = self._mount()
        self.path = found

    def _mount(self) -> Path:
        if os.geteuid() != 0:
            raise CannotError(
                "recording needs tracefs, which only root can read: run as root "
                "(sudo spfreplay record …), or import a perf.data instead"
            )
        place = tempfile.mkdtemp(prefix="spfreplay-tracefs-")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tracefs", place.encode(), b"tracefs", 0, None) != 0:
            reason = os.strerror(ctypes.get_errno())
            os.rmdir(place)
            raise CannotError(
                f"tracefs cannot be mounted ({reason}): needs CONFIG_FTRACE, CAP_SYS_ADMIN "
                "and no lockdown=confidentiality; in a container, record on the host"
            )
        self._own = place
        return Path(place)

    def close(self) -> None:
        """Unmount what was mounted here; does nothing the second time."""
        if self._own is not None:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.umount2(self._own.encode(), 2)  # MNT_DETACH
            with suppress(OSError):
                os.rmdir(self._own)
            self._own = None


class Tracing(Protocol):
    """What records the kernel's events while a program runs."""

    def follow(self, pid: int) -> None:
        """Record the events of ``pid``, and of what it forks."""

    def begin(self) -> None:
        """Record from now on."""

    def drain(self) -> object:
        """Take out of the kernel what it has recorded so far."""


class TraceInstance:
    """``instances/spfreplay-PID``: made, used by one recording, removed.

    ``pages[cpu]`` are files of whole ring-buffer pages of ``page_size`` bytes.
    """

    def __init__(self, tracefs: Path, buffer_kib: int) -> None:
        self._tracefs = tracefs
        _remove_stale(tracefs / "instances")
        self.path = tracefs / "instances" / f"{PREFIX}{os.getpid()}"
        try:
            self.path.mkdir()
        except OSError as error:
            raise CannotError(
                f"tracefs: no instance can be made ({error.strerror}): needs root and "
                "CONFIG_TRACING with instances"
            ) from error
        self.pages: dict[int, IO[bytes]] = {}
        self.enabled: list[str] = []
        self.readers: Readers = {}
        self._fds: dict[int, int] = {}
        try:
            self._set_up(buffer_kib)
        except BaseException:
            self.close()
            raise

    def _set_up(self, buffer_kib: int) -> None:
        self.write("tracing_on", "0")
        self.write("trace_clock", "mono")
        self.write("options/event-fork", "1")
        self.write("buffer_size_kb", str(buffer_kib))
        size = 4
        with suppress(OSError, ValueError):
            size = int((self.path / "buffer_subbuf_size_kb").read_text())
        self.page_size = size * 1024
        for folder in sorted((self.path / "per_cpu").glob("cpu[0-9]*")):
            cpu = int(folder.name[3:])
            self._fds[cpu] = os.open(folder / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
            self.pages[cpu] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()

    def follow(self, pid: int) -> None:
        """Record the events of ``pid``, and of what it forks."""
        self.write("set_event_pid", str(pid))

    def begin(self) -> None:
        """Record from now on."""
        self.write("tracing_on", "1")

    def write(self, name: str, text: str, required: bool = True) -> bool:
        """Write one control file; a refusal of a required one is an error."""
        try:
            with (self.path / name).open("w") as file:
                file.write(text)
        except OSError as error:
            if required:
                raise CannotError(
                    f"tracefs: {name} refuses {text!r} ({error.strerror}); "
                    "needs root and a kernel with event tracing"
                ) from error
            return False
        return True

    def enable(self, events: Iterable[Wanted]) -> None:
        """Switch events on and learn their layouts.

        :raises CannotError: this kernel lacks an event that is needed.
        """
        for one in events:
            folder = self.path / "events" / one.system / one.name
            try:
                form = parse_format((folder / "format").read_text())
            except OSError as error:
                if one.required:
                    raise CannotError(
                        f"tracefs: this kernel has no event {one.system}:{one.name}"
                        f" ({error.strerror})"
                    ) from error
                continue
            base = f"events/{one.system}/{one.name}"
            if one.filter and not self.write(f"{base}/filter", one.filter, one.required):
                continue
            if not self.write(f"{base}/enable", "1", one.required):
                continue
            self.readers[form.id] = (one.code, compile_event(form, one))
            self.enabled.append(f"{one.system}:{one.name}")

    def drain(self) -> int:
        """Move what the buffers hold to ``pages``; return the pages moved."""
        moved = 0
        for cpu, fd in self._fds.items():
            write = self.pages[cpu].write
            while True:
                try:
                    page = os.read(fd, self.page_size)
                except BlockingIOError:
                    break
                if not page:
                    break
                write(page.ljust(self.page_size, b"\0"))
                moved += 1
        return moved

    def stats(self) -> tuple[dict[str, int], ...]:
        """Return the per-CPU counts: events, overrun, dropped."""
        found = []
        for cpu in self._fds:
            text = (self.path / "per_cpu" / f"cpu{cpu}" / "stats").read_text()
            counts = {
                key.strip(): int(value)
                for key, value in re.findall(r"^([\w ]+):\s*(\d+)$", text, re.M)
            }
            found.append({
                "cpu": cpu,
                "events": counts.get("entries", 0) + counts.get("read events", 0),
                "overrun": counts.get("overrun", 0) + counts.get("commit overrun", 0),
                "dropped": counts.get("dropped events", 0),
            })  # fmt: skip
        return tuple(found)

    def close_buffers(self) -> None:
        """Take tracing down, keep the drained pages."""
        for fd in self._fds.values():
            with suppress(OSError):
                os.close(fd)
        self._fds = {}
        if self.path.exists():
            with suppress(OSError, CannotError):
                self.write("tracing_on", "0", required=False)
                self.write("events/enable", "0", required=False)
            with suppress(OSError):
                self.path.rmdir()

    def close(self) -> None:
        """Remove everything; does nothing the second time."""
        self.close_buffers()
        for file in self.pages.values():
            file.close()
        self.pages = {}


def _remove_stale(instances: Path) -> None:
    """Remove instances whose recorder was killed before it could."""
    for folder in instances.glob(f"{PREFIX}*"):
        number = folder.name[len(PREFIX) :]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            with suppress(OSError):
                (folder / "tracing_on").write_text("0")
                (folder / "events" / "enable").write_text("0")
                folder.rmdir()


class Drainer(threading.Thread):
    """Empties the ring buffers while the program runs; ``tick`` runs beside."""

    def __init__(self, instance: Tracing) -> None:
        super().__init__(name="drain", daemon=True)
        self._instance = instance
        self._end = threading.Event()
        self.error: BaseException | None = None

    def tick(self) -> None:
        """Do what else is due; called after every drain."""

    def run(self) -> None:
        try:
            while not self._end.wait(DRAIN_PERIOD):
                self._instance.drain()
                self.tick()
        except BaseException as error:  # handed to the main thread by stop()
            self.error = error

    def stop(self) -> None:
        """Drain a last time and hand on what went wrong."""
        self._end.set()
        self.join()
        if self.error is not None:
            raise self.error
        self._instance.drain()
