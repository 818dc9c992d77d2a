"""What importing costs: records and lines per second of processor time.

The file is one run of faultheavy under the perf command that we print; perf
itself printing it is the scale.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from spfreplay.imports.input import open_input
from spfreplay.imports.loading import READERS, load
from spfreplay.imports.perfcommand import perf_record, perf_script
from spfreplay.imports.writing import write_imported

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perf")
    if not shutil.which("perf"):
        pytest.skip("no perf: apt install linux-perf")
    source = PROGRAMS / "faultheavy.c"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", folder / "heavy", source], check=True)
    line = perf_record(["./heavy", "2", "20"])
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"perf cannot record here: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.parametrize(
    ("name", "form"), [("perf.data", "perf.data"), ("perf.txt", "perf-script")]
)
def test_import_prints_its_rates(folder, name, form):
    begin = time.process_time()
    printing = time.perf_counter()
    subprocess.run(["sh", "-c", perf_script()], cwd=folder, capture_output=True, check=True)
    printing = time.perf_counter() - printing
    decode, whole = [], []
    for _ in range(3):
        begin = time.process_time()
        count = sum(map(len, READERS[form](open_input(folder / name)).batches()))
        decode.append(time.process_time() - begin)
        begin = time.process_time()
        imported = load(folder / name)
        write_imported(imported, folder / "trace.bin")
        whole.append(time.process_time() - begin)
    print(
        f"\n  {name}: {count:,} records, {imported.events:,} events:"
        f" read {count / min(decode) / 1000:.0f} k/s,"
        f" read, paired and written {count / min(whole) / 1000:.0f} k/s (CPU);"
        f" perf script prints {count / printing / 1000:.0f} k lines/s (elapsed)"
    )
