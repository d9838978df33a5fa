"""Trainings side by side: the same files as one after the other, and failures in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_a2 import jobs, machine, training
from keras_a2.errors import Diverged, UserError


def touch(number: int, folder: Path) -> None:
    """A task of the tests: says on which cores it ran."""
    cores = sorted(os.sched_getaffinity(0))
    (folder / f"{number}.npz").write_text(f"{cores} {os.environ['TF_NUM_INTRAOP_THREADS']}")


def fail(number: int, folder: Path) -> None:
    """A task that fails at once for number 0 and else would take a minute."""
    if number == 0:
        raise UserError("no good")
    time.sleep(60)


def die(number: int, folder: Path, times: int) -> None:
    """A task whose process is killed so many times if its number is 0, as a system short of memory does."""
    deaths = folder / f"{number}.deaths"
    deaths.touch()
    if number == 0 and deaths.stat().st_size < times:
        with deaths.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    touch(number, folder)


@pytest.mark.slow
def test_every_task_leaves_its_files_and_keeps_to_its_cores(tmp_path):
    jobs.spread(touch, [{"number": k} for k in range(4)], 2, tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
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
        jobs.spread(fail, [{"number": k} for k in range(3)], 2, tmp_path)
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_killed_task_is_run_once_more_and_the_others_are_not(tmp_path, capsys):
    jobs.spread(die, [{"number": k, "times": 1} for k in range(3)], 2, tmp_path)
    assert sorted(f.name for f in tmp_path.glob("*.npz")) == ["0.npz", "1.npz", "2.npz"]
    said = capsys.readouterr().out
    assert "2 of 3 trained" in said
    assert "1 of 1 trained: 0" in said


@pytest.mark.slow
def test_a_task_killed_twice_is_an_error_that_leaves_what_others_trained(tmp_path):
    with pytest.raises(UserError, match="the training 0 5 was killed twice"):
        jobs.spread(die, [{"number": k, "times": 5} for k in range(2)], 2, tmp_path)
    assert [f.name for f in tmp_path.glob("*.npz")] == ["1.npz"]


@pytest.mark.slow
def test_finished_tasks_are_not_run_again(tmp_path, capsys):
    jobs.spread(touch, [{"number": k} for k in (1, 2)], 2, tmp_path)
    (tmp_path / "1.npz").write_text("finished")
    jobs.spread(touch, [{"number": k} for k in range(2)], 2, tmp_path)
    assert (tmp_path / "0.npz").exists()
    assert (tmp_path / "1.npz").read_text() == "finished"
    assert "1 of 2 trainings are finished already" in capsys.readouterr().out
    jobs.spread(fail, [{"number": k} for k in range(2)], "ray", tmp_path)  # nothing to do


@pytest.mark.parametrize(("tasks", "number"), [(2, 1), (1, 2)])
def test_one_job_or_one_task_starts_no_process(tasks, number, tmp_path):
    jobs.spread(fail, [{"number": k} for k in range(tasks)], number, tmp_path)
    assert not list(tmp_path.iterdir())


def report(number: int, folder: Path) -> None:
    """A task that says how far it is, and dies if its number is 1 and it has not died before."""
    for listen in training.LISTENERS:
        listen({"completed": number, "total": 7, "note": "half way"})
    die(1 - number, folder, 1)


@pytest.mark.slow
def test_a_run_shows_how_far_its_tasks_are(tmp_path, monkeypatch, capsys):
    shown, progress = [], training.progress

    def watched(**options):
        lines = progress(**options)
        monkeypatch.setattr(lines, "update", lambda line, **fields: shown.append(fields))
        return lines

    monkeypatch.setattr(training, "progress", watched)
    jobs.spread(report, [{"number": k} for k in range(2)], 5, tmp_path)
    assert "2 trainings, 2 at a time" in capsys.readouterr().out
    assert {fields["completed"] for fields in shown} == {0, 1}
    assert all((fields["total"], fields["note"]) == (7, "half way") for fields in shown)


@pytest.mark.slow
def test_divergence_in_a_process_is_told_from_other_failures(tmp_path):
    with pytest.raises(Diverged, match="no number"):
        jobs.spread(diverge, [{"number": k} for k in range(2)], 2, tmp_path)


def diverge(number: int, folder: Path) -> None:
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


SCRIPT = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from keras_a2 import jobs

@dataclass(frozen=True)
class Config:
    seconds: float

def touch(config, number, folder):
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(config.seconds)

if __name__ == "__main__":
    import sys
    tasks = [{"config": Config(float(sys.argv[2])), "number": k} for k in range(2)]
    jobs.spread(touch, tasks, 2, Path(sys.argv[1]))
"""


def start_script(folder: Path, seconds: int) -> subprocess.Popen:
    (folder / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, str(folder / "script.py"), str(folder), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_scripts_own_functions_and_configuration_reach_its_workers(tmp_path):
    said, _ = start_script(tmp_path, 0).communicate(timeout=60)
    assert "2 of 2 trained" in said
    assert "Config" not in said
    assert len(list(tmp_path.glob("*.pid"))) == 2


@pytest.mark.slow
def test_workers_end_with_the_run_that_started_them(tmp_path):
    process = start_script(tmp_path, 60)
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    wait_for(lambda: all(path.read_text() for path in tmp_path.glob("*.pid")))
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path("/proc", path.read_text()).exists() for path in tmp_path.glob("*.pid")))


def wait_for(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
