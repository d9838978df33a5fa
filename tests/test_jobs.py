"""Trainings side by side: the same files as one after the other, and failures in one line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from keras_a2 import jobs, machine
from keras_a2.errors import UserError


def touch(number: int, folder: str) -> None:
    """A task of the tests: says on which cores it ran."""
    cores = sorted(os.sched_getaffinity(0))
    Path(folder, f"{number}.npz").write_text(f"{cores} {os.environ['TF_NUM_INTRAOP_THREADS']}")


def fail(number: int, folder: str) -> None:
    """A task that fails at once for number 0 and else would take a minute."""
    if number == 0:
        raise UserError("no good")
    time.sleep(60)


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
