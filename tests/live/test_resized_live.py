"""Files that change their size while they are mapped: both engines as the kernel."""

import os
import subprocess
from pathlib import Path

import pytest
from tracing import cannot_record

from spfreplay.record.output import write_recording
from spfreplay.record.recorder import record
from spfreplay.trace.container import open_trace
from spfreplay.verify import verify_trace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_record()), reason=cannot_record() or "can record"),
]

SOURCE = Path(__file__).resolve().parents[1] / "programs" / "resize.c"
#: accesses that meet the end: all but the last of the program's
BEYOND = 4


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    built = tmp_path_factory.mktemp("programs") / "resize"
    subprocess.run(["gcc", "-O1", "-o", built, SOURCE], check=True)
    return str(built)


@pytest.fixture(params=["disk", "tmpfs", "memfd"])
def place(request, tmp_path):
    """Yield a path of a file on a disk, in memory, or with no name."""
    path = {"disk": tmp_path / "f", "tmpfs": Path(f"/dev/shm/spfreplay-{os.getpid()}")}
    yield str(path.get(request.param, "memfd"))
    path["tmpfs"].unlink(missing_ok=True)


def verified(command, folder):
    recording = record(command)
    write_recording(recording, folder / "t.bin")
    return recording.status, verify_trace(open_trace(folder / "t.bin"))


@pytest.mark.parametrize("step", [[], ["small"]], ids=["at once", "by pages"])
@pytest.mark.parametrize("way", ["cut", "regrow", "beyond", "inside", "punch"])
def test_pages_that_leave_a_file_are_unmapped(program, place, way, step, tmp_path):
    status, result = verified([program, way, place, *step], tmp_path)
    wrong = [one for one in result.checkpoints if not one.perfect]
    # A hole in a large folio of a disk file unmaps it, and no event tells.
    unseen = way == "punch" and not step and place.endswith("/f")
    assert (status, bool(wrong)) == (BEYOND if way == "beyond" else 0, unseen)


def test_a_file_that_was_there_before_is_cut_as_well(program, place, tmp_path):
    subprocess.run([program, "regrow", place], check=True)
    status, result = verified([program, "regrow", place], tmp_path)
    assert (status, [one for one in result.checkpoints if not one.perfect]) == (0, [])
