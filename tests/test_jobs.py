"""Trainings side by side: the same files as one after the other, and failures in one line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from keras_a2 import jobs, machine
from keras_a2.errors import Diverged, UserError


def touch(number: int, folder: str) -> None:
    """A task of the tests: says on which cores it ran."""
    cores = sorted(os.sched_getaffinity(0))
    Path(folder, f"{number}.npz").write_text(f"{cores} {os.environ['TF_NUM_INTRAOP_THREADS']}")


def fail(number: int, folder: str) -> None:
    """A task that fails at once for number 0 and else would take a minute."""
    if number == 0:
        raise UserError("no good")
    time.sleep(60)


def die(number: int, folder: str, times: int) -> None:
    """A task whose process is killed so many times if its number is 0, as a system short of memory does."""
    deaths = Path(folder, f"{number}.deaths")
    deaths.touch()
    if number == 0 and deaths.stat().st_size < times:
        with deaths.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    touch(number, folder)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.slow
def test_every_task_leaves_its_files_and_keeps_to_its_cores(tmp_path):
    jobs.spread("test_jobs:touch", [{"number": k} for k in range(4)], 2, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["0.npz", "1.npz", "2.npz", "3.npz"]
    groups = {str(group) for group in jobs.core_groups(2)}
    for file in files:
        group, threads = file.read_text().rsplit(" ", 1)
        assert group in groups
        assert threads == str(len(os.sched_getaffinity(0)))  # as many as in sequence: the same rounding


@pytest.mark.slow
def test_a_failure_is_the_tasks_own_line_and_ends_the_others(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match="no good"):
        jobs.spread("test_jobs:fail", [{"number": k} for k in range(3)], 2, tmp_path)
    assert time.monotonic() - started < 30


def test_a_killed_task_is_run_once_more_and_the_others_are_not(tmp_path, capsys):
    jobs.spread("test_jobs:die", [{"number": k, "times": 1} for k in range(3)], 2, tmp_path)
    assert sorted(f.name for f in tmp_path.glob("*.npz")) == ["0.npz", "1.npz", "2.npz"]
    said = capsys.readouterr().out
    assert "2 of 3 trained" in said
    assert "1 of 1 trained: 0" in said


def test_a_task_killed_twice_is_an_error_that_leaves_what_others_trained(tmp_path):
    with pytest.raises(UserError, match="the training 0 5 was killed twice"):
        jobs.spread("test_jobs:die", [{"number": k, "times": 5} for k in range(2)], 2, tmp_path)
    assert [f.name for f in tmp_path.glob("*.npz")] == ["1.npz"]


def test_finished_tasks_are_not_run_again(tmp_path, capsys):
    (tmp_path / "1.npz").write_text("finished")
    jobs.spread("test_jobs:touch", [{"number": k} for k in range(2)], 2, tmp_path, is_touched)
    assert (tmp_path / "0.npz").exists()
    assert (tmp_path / "1.npz").read_text() == "finished"
    assert "1 of 2 trainings are finished already" in capsys.readouterr().out
    jobs.spread("test_jobs:fail", [{"number": k} for k in range(2)], "ray", tmp_path, is_touched)  # nothing to do


def is_touched(number: int, folder: str) -> bool:
    return Path(folder, f"{number}.npz").exists()


def test_divergence_in_a_process_is_told_from_other_failures(tmp_path):
    with pytest.raises(Diverged, match="no number"):
        jobs.spread("test_jobs:diverge", [{"number": 0}], 2, tmp_path)


def diverge(number: int, folder: str) -> None:
    raise Diverged("no number")


def test_a_pinned_process_counts_its_own_cores(monkeypatch):
    mine = machine.cores()
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1000")  # as many as the run that started it has
    assert machine.cores() == mine
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert machine.cores() == 1


def test_more_jobs_than_cores_share_them():
    groups = jobs.core_groups(64)
    assert len(groups) == 64
    assert all(groups)
