"""A real Dask cluster of two worker processes, one of which is killed midway."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import distributed
import executor_tasks as tasks
import pytest

from spfreplay import cluster as cluster_module
from spfreplay.corpus import Corpus
from spfreplay.errors import EXIT_CANNOT, CannotError, TraceError
from spfreplay.executors import WorkerDied, as_done, executor, in_order
from spfreplay.fuzz.campaign import BATCH, FuzzOptions, fuzz

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
#: workers import the tasks of the tests
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(HERE),
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
}


class Cluster:
    """A scheduler and two workers, each a process."""

    def __init__(self, folder):
        self.folder = folder
        self.workers = []
        self.file = folder / "scheduler.json"
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0")
        # written in place, with the closing brace at last
        wait_for(lambda: self.file.exists() and self.file.read_text().rstrip().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.worker() for _ in range(2)]

    def worker(self):
        return self.start(
            "worker", "--nthreads", "1", "--no-nanny", "--local-directory", self.folder
        )

    def start(self, what, *more):
        command = [Path(sys.executable).parent / "dask", what, *more]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--scheduler-file", self.file, "--no-dashboard"],
                stdout=log, stderr=log, env=ENVIRONMENT, cwd=self.folder,
            )  # fmt: skip

    def end(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.end()


def test_no_item_is_lost_with_a_worker(cluster, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    first = cluster.workers[0]
    items = [(str(marks), number) for number in range(60)]
    came = []
    with executor(1, cluster.address) as pool:
        wait_for(lambda: pool.workers == 2)
        for (_, number), result in as_done(pool, tasks.leaves_a_mark, items):
            assert number == result
            came.append(number)
            if first.poll() is None and any(marks.glob(f"*-{first.pid}")):
                first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert sorted(came) == list(range(60))
    assert any(marks.glob(f"*-{cluster.workers[1].pid}"))


def spfreplay(*arguments):
    command = [Path(sys.executable).parent / "spfreplay", "diff", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
    )


def test_diff_tells_the_same_from_a_cluster_that_loses_a_worker(cluster):
    what = ("--budget", "300", "--format", "json", "traces/recorded/cstress.bin")
    here, _ = (one := spfreplay("-j", "1", *what)).communicate()
    with watching(cluster) as busy:
        there = spfreplay("--dask", cluster.address, *what)
        wait_for(busy)
        cluster.workers[0].send_signal(signal.SIGKILL)
    told, complaints = there.communicate()
    assert (there.returncode, told) == (one.returncode, here), complaints
    assert cluster.workers[0].wait() == -signal.SIGKILL


def test_a_campaign_is_the_same_on_a_cluster_that_loses_a_worker(cluster, tmp_path):
    options = FuzzOptions("spf-fixed", seed=3, tries=192, steps=4_000, corpus=tmp_path / "here")
    here = fuzz(options)
    with executor(1, cluster.address) as pool:
        wait_for(lambda: pool.workers == 2)

    def look(progress):
        if progress.tried == 2 * BATCH:  # of eight batches; four are under way
            cluster.workers[0].send_signal(signal.SIGKILL)

    there = fuzz(options._replace(corpus=tmp_path / "there", dask=cluster.address), look)
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert here.features == there.features
    assert Corpus(tmp_path / "there").names() == Corpus(tmp_path / "here").names() != []


@contextmanager
def watching(cluster):
    """Yield what says whether the first worker has something to do."""
    with distributed.Client(cluster.address, set_as_default=False) as client:
        wait_for(lambda: len(client.nthreads()) == 2)
        pids = client.run(os.getpid)
        (first,) = (each for each, pid in pids.items() if pid == cluster.workers[0].pid)
        yield lambda: client.processing().get(first)


def test_ctrl_c_ends_us_and_leaves_the_cluster_to_others(cluster):
    with watching(cluster) as busy:
        ours = spfreplay("--dask", cluster.address, "-q", "traces/recorded/cstress.bin")
        wait_for(busy)
        ours.send_signal(signal.SIGINT)
        told, complaints = ours.communicate(timeout=120)
    assert (ours.returncode, "Traceback" in complaints) == (130, False), complaints
    assert "Scope:" in told
    with executor(1, cluster.address) as pool:
        assert list(in_order(pool, tasks.square, range(3))) == [0, 1, 4]


def test_a_task_that_kills_every_worker_is_an_error_that_says_so(cluster):
    cluster.workers += [cluster.worker() for _ in range(3)]
    with executor(1, cluster.address) as pool:
        wait_for(lambda: pool.workers == 5)
        with pytest.raises(WorkerDied, match="died, one after the other, with the same task"):
            list(in_order(pool, tasks.dies, [2]))


def test_a_cluster_without_workers_is_an_error_not_a_hang(cluster):
    with (
        executor(1, cluster.address) as pool,
        pytest.raises(CannotError, match="the workers of the cluster are gone"),
    ):
        list(in_order(pool, tasks.dies, [2]))


def test_exceptions_come_back_as_they_are(cluster):
    with (
        executor(1, cluster.address) as pool,
        pytest.raises(TraceError, match=r"^a\.txt: 1:1: expected a trace$"),
    ):
        list(in_order(pool, tasks.refuse, range(9)))


def test_a_worker_with_other_sources_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "sources", lambda: "of another version")
    with (
        executor(1, cluster.address) as pool,
        pytest.raises(CannotError, match="runs other sources of spfreplay"),
    ):
        list(in_order(pool, tasks.square, range(3)))


def test_a_scheduler_that_goes_away_is_an_error_not_a_hang(cluster):
    with executor(1, cluster.address) as pool, pytest.raises(CannotError):
        for done, _ in enumerate(in_order(pool, tasks.slowest_first, range(10_000))):
            if done == 5:
                cluster.scheduler.kill()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:{free}", "tcp://127.0.0.1:{free}"])
def test_what_is_no_cluster_is_one_line_and_exit_5(address):
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        address = address.format(free=free.getsockname()[1])
        process = spfreplay("--dask", address, "-q", "traces/recorded/cstress.bin")
        told, complaints = process.communicate()
    assert (process.returncode, told) == (EXIT_CANNOT, "")
    (line,) = complaints.splitlines()
    assert line.startswith(f"spfreplay: {address}: no")
