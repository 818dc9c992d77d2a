"""The same results from this process, from processes, and after workers have died."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import executor_tasks as tasks
import pytest

from spfreplay import cluster
from spfreplay.errors import CannotError, ModelError, TraceError
from spfreplay.executors import WorkerDied, as_done, executor, in_order


@pytest.fixture(scope="module")
def two():
    with executor(2) as pool:
        yield pool


def test_one_job_is_this_process():
    with executor(1) as pool:
        assert list(in_order(pool, tasks.process, [0])) == [os.getpid()]


def test_two_jobs_are_other_processes(two):
    assert os.getpid() not in set(in_order(two, tasks.process, range(8)))


def test_results_come_in_the_order_of_the_items(two):
    assert list(in_order(two, tasks.slowest_first, range(20))) == list(range(20))


def test_each_result_comes_with_its_item(two):
    expected = {(number, number * number) for number in range(20)}
    assert set(as_done(two, tasks.square, range(20))) == expected


def test_who_is_done_first_comes_first(two):
    assert next(as_done(two, tasks.slowest_first, range(4))) != (0, 0)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("come", [in_order, as_done])
def test_no_more_is_submitted_than_asked_for(jobs, come):
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with executor(jobs) as pool:
        results = come(pool, tasks.square, items(), ahead=3)
        next(results)
        assert len(taken) == (1 if jobs == 1 else 3)
        results.close()


def test_any_executor_will_do():
    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, tasks.square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_comes_where_its_result_would(jobs):
    with executor(jobs) as pool:
        results = in_order(pool, tasks.refuse, range(9))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TraceError, match=r"^a\.txt: 1:1: expected a trace$"):
            next(results)


def test_an_exception_that_does_not_travel_is_told(two):
    with pytest.raises(ModelError, match="Secret: short"):
        list(in_order(two, tasks.secret, [0]))


@pytest.mark.parametrize("come", [in_order, as_done])
def test_an_item_whose_worker_died_is_done_by_another(two, tmp_path, come):
    items = [(str(tmp_path / "died"), number) for number in range(10)]
    results = list(come(two, tasks.dies_once, items))
    numbers = [each if come is in_order else each[1] for each in results]
    assert sorted(numbers) == list(range(10))
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_its_workers_is_an_error_that_says_so(two):
    with pytest.raises(WorkerDied, match=r"was killed by SIGKILL \(out of memory\?\), 3 times"):
        list(in_order(two, tasks.dies, range(5)))


def test_others_do_not_suffer_from_an_item_that_kills(two):
    done = []
    with pytest.raises(WorkerDied):
        for item, _ in as_done(two, tasks.dies, range(5)):
            done.append(item)
    assert 2 not in done
    assert sorted(in_order(two, tasks.square, range(3))) == [0, 1, 4]


def alive(pids):
    """Those of ``pids`` that still run; a zombie does not."""
    found = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(") ")[2][0] != "Z":
            found.append(pid)
    return found


def until(condition, seconds=20.0):
    """Wait for ``condition``; a limit for what would hang, not a measure."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (found := condition()):
        time.sleep(0.02)
    return found


CAMPAIGN = """
import sys
sys.path.insert(0, {here!r})
import executor_tasks
from spfreplay.executors import executor, in_order
if __name__ == "__main__":
    with executor(2) as pool:
        list(in_order(pool, executor_tasks.says_who_and_waits, [sys.argv[1]] * 9))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_however_ours_ends(tmp_path, how):
    script = tmp_path / "campaign.py"
    script.write_text(CAMPAIGN.format(here=str(Path(__file__).parent)))
    folder = tmp_path / "who"
    folder.mkdir()
    ours = subprocess.Popen(
        [sys.executable, script, folder],
        stderr=subprocess.PIPE,
        start_new_session=True,
        # a shell has jobs in the background ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert until(lambda: len(list(folder.iterdir())) == 2)
    theirs = [int(path.name) for path in folder.iterdir()]
    assert len(alive(theirs)) == 2
    if how == signal.SIGINT:
        os.killpg(ours.pid, how)  # as a terminal does
    else:
        ours.send_signal(how)
    _, complaints = ours.communicate(timeout=20)
    assert until(lambda: not alive(theirs))
    told = [line for line in complaints.decode().splitlines() if "Error" in line]
    assert told == []
    assert complaints.count(b"KeyboardInterrupt") == (how == signal.SIGINT)


def test_without_distributed_a_cluster_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(CannotError, match=r"pip install 'spfreplay\[dask\]'"),
        executor(1, "x:1"),
    ):
        pass


def test_the_sources_of_a_cluster_are_those_of_its_protocols_too(monkeypatch, tmp_path):
    ours = cluster.sources.__wrapped__()
    monkeypatch.setenv("SPFREPLAY_PROTOCOLS", str(tmp_path))
    module = tmp_path / "spf_other.py"
    module.write_text("PROTOCOL = 1\n")
    one = cluster.sources.__wrapped__()
    module.write_text("PROTOCOL = 2\n")
    assert len({ours, one, cluster.sources.__wrapped__()}) == 3


def session(leader):
    """Processes of the session of ``leader``, zombies aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = path.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_diff_in_the_middle_of_its_windows_leaves_no_process(how):
    root = Path(__file__).resolve().parents[2]
    command = [Path(sys.executable).parent / "spfreplay", "diff", "-q", "-j", "2"]
    ours = subprocess.Popen(
        [*command, "traces/recorded/cstress.bin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
        start_new_session=True,
        text=True,
    )
    # itself, the tracker of resources, the fork server, two workers
    assert until(lambda: len(session(ours.pid)) == 5, 300)
    time.sleep(1)  # into the windows
    (os.killpg if how == signal.SIGINT else os.kill)(ours.pid, how)
    told, complaints = ours.communicate(timeout=60)
    assert until(lambda: session(ours.pid) == [])
    assert "Traceback" not in complaints
    if how == signal.SIGINT:
        assert ours.returncode == 130
        assert "Scope:" in told


def test_ctrl_c_reaches_no_process_that_is_only_starting():
    """A fork server that hears of it while it imports would print a traceback."""
    seen = run_python(
        "import os, signal\n"
        "from multiprocessing import forkserver\n"
        "from spfreplay.processes import Processes\n"
        "with Processes(1) as pool:\n"
        "    pool.submit(os.getpid).result()\n"
        "    pid = forkserver._forkserver._forkserver_pid\n"
        "    status = open(f'/proc/{pid}/status').read()\n"
        "blocked = next(l for l in status.splitlines() if l.startswith('SigBlk'))\n"
        "print(int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1)\n"
    )
    assert seen == "1\n"


def run_python(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
