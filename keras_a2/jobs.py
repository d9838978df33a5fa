"""Independent trainings side by side: as processes on this machine, or as tasks on a Ray cluster.

A task is a call of ``module:function`` that trains one arm or cell with one seed and leaves its state in a folder. The
run then goes through its story as ever and finds every stage finished: the same figures as one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from keras_a2.console import console
from keras_a2.errors import Diverged, UserError
from keras_a2.machine import cores

Task = dict[str, object]
RETRIES = 3  # of a Ray task whose node was lost

# A worker ends with the run that started it, however that ends: its standard input closes.
_WORKER = """
import importlib, json, os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
cores = json.loads(sys.argv[3])
if cores and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, cores)
module, name = sys.argv[1].split(":")
from keras_a2.errors import Diverged, UserError
try:
    getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
except UserError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(3 if isinstance(error, Diverged) else 2)
os._exit(0)
"""
DIVERGED = 3  # as above


def spread(
    function: str,
    tasks: list[Task],
    jobs: int | str,
    folder: Path,
    is_finished: Callable[..., bool] = lambda **_: False,
) -> None:
    """Run every task that is not finished; their files are in ``folder`` afterwards.

    A task whose process was killed, for lack of memory perhaps, is run once more when the others have ended.

    Args:
        function: ``module:function``, called with a task's fields and ``folder``.
        tasks: keyword arguments that JSON can carry.
        jobs: so many processes at once, each on cores of its own; or ``ray``.
        is_finished: called as ``function`` is: whether ``folder`` holds all that the task would leave there.

    Raises:
        Diverged: a training diverged.
        UserError: a task failed (the first failure is named) or was killed twice, or Ray is not installed.
    """
    open_tasks = [task for task in tasks if not is_finished(**task, folder=str(folder))]
    if len(open_tasks) < len(tasks):
        console.print(f"{len(tasks) - len(open_tasks)} of {len(tasks)} trainings are finished already")
    if not open_tasks:
        return
    console.print(f"{len(open_tasks)} trainings, " + ("on Ray" if jobs == "ray" else f"{jobs} at a time"))
    if jobs == "ray":
        _on_ray(function, open_tasks, folder)
        return
    killed = _as_processes(function, open_tasks, int(jobs), folder)
    if killed:
        names = ", ".join(map(_name, killed))
        console.print(f"note: killed, perhaps for lack of memory: {names}; each is trained again by itself")
        killed = _as_processes(function, killed, 1, folder)
    if killed:
        raise UserError(f"the training {_name(killed[0])} was killed twice, perhaps for lack of memory; free some")


class _Killed(Exception):
    """A process ended by a signal."""


def _as_processes(function: str, tasks: list[Task], jobs: int, folder: Path) -> list[Task]:
    """Run the tasks in processes and return those whose process was killed."""
    free = core_groups(jobs)
    running: set[subprocess.Popen] = set()
    failed = threading.Event()

    def work(task: Task) -> None:
        mine = free.pop()
        arguments = json.dumps({**task, "folder": str(folder)})
        command = [sys.executable, "-c", _WORKER, function, arguments, json.dumps(mine)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **_threads()},
        )
        running.add(process)
        if failed.is_set():
            process.kill()
        message = process.stderr.read()
        running.discard(process)
        free.append(mine)
        code = process.wait()
        if code < 0:
            raise _Killed
        if code:
            last = (message.strip().splitlines() or [f"the training {_name(task)} ended with exit code {code}"])[-1]
            raise Diverged(last) if code == DIVERGED else UserError(last)

    killed, done = [], 0
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(waiting):
            try:
                future.result()
            except _Killed:
                killed.append(waiting[future])
                continue
            except UserError:
                failed.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    process.kill()
                raise
            done += 1
            _say_done(done, waiting[future], len(tasks))
    return killed


def core_groups(jobs: int) -> list[list[int]]:
    """The cores that this process may use, dealt to ``jobs`` processes; shared where there are more jobs than cores."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [mine[k % max(len(mine), 1) :: jobs] for k in range(jobs)]


def _on_ray(function: str, tasks: list[Task], folder: Path) -> None:
    try:
        import ray
    except ImportError as error:
        raise UserError("--jobs ray needs the package ray; pip install -e '.[cluster]'") from error

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")  # RAY_ADDRESS names a cluster; without it, this machine
    # A process of its own for every task: TensorFlow's state does not pass from one to the next.
    # As many threads as here: sums are then cut, and rounded, in the same places.
    remote = ray.remote(num_cpus=_cpus_of_a_task(ray), max_retries=RETRIES, max_calls=1)(_ray_task)
    waiting = {remote.remote(function, task, _threads()): task for task in tasks}
    number = 0
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        try:
            files = ray.get(done)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            last = (str(cause).strip().splitlines() or [str(error)])[-1]
            kind = Diverged if isinstance(cause, Diverged) else UserError
            raise kind(f"{_name(waiting[done])}: {last}") from error
        for name, content in files.items():
            temporary = folder / f"{name}.tmp"
            temporary.write_bytes(content)
            os.replace(temporary, folder / name)  # whole or not at all
        number += 1
        _say_done(number, waiting.pop(done), len(tasks))


def _cpus_of_a_task(ray) -> int:
    """Cores of the driver, as far as the smallest node of the cluster has them."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(min([cores(), *(n for n in nodes if n)]), 1)


def _threads() -> dict[str, str]:
    return {"TF_NUM_INTRAOP_THREADS": str(cores()), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _ray_task(function: str, task: Task, environment: dict[str, str]) -> dict[str, bytes]:
    """On a node of the cluster: a folder of its own, its files as the answer."""
    import importlib

    os.environ |= environment
    module, name = function.split(":")
    with tempfile.TemporaryDirectory() as folder:
        getattr(importlib.import_module(module), name)(**task, folder=folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _say_done(number: int, task: Task, total: int) -> None:
    console.print(f"{number} of {total} trained: {_name(task)}")


def _name(task: Task) -> str:
    return " ".join(str(value) for name, value in task.items() if name != "config")
