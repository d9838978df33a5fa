"""Independent trainings side by side: as processes on this machine, or as tasks on a Ray cluster.

A task trains one arm or cell with one seed and leaves its state in a folder. The run then goes through its script as
usual and finds every stage finished: results are bit-for-bit those of sequential runs.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from keras_a2 import training
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.files import whole
from keras_a2.machine import cores

Task = dict[str, Any]
POLL_SECONDS = 0.1
RETRIES = 3  # of a Ray task whose node was lost


def spread(function: Callable[..., None], tasks: list[Task], jobs: int | str, folder: Path) -> None:
    """Run every task in a process of its own; their files are in ``folder`` afterwards.

    With one job, or one task, there is nothing to do: the run itself will train everything. A finished task also leaves
    a file ``<its name>.done``, and is not run again. A task whose process was killed, for lack of memory perhaps, is
    run once more when the others have ended.

    Args:
        function: called with a task's arguments and ``folder``. It stands at the top of a module or of the script, and
            so do the classes of its arguments: a worker imports them from there.
        tasks: keyword arguments, a configuration among them.
        jobs: number of simultaneous processes, from two, each on its own cores; or ``ray``.

    Raises:
        Diverged: a training diverged.
        UserError: a task failed (the first failure is named) or was killed twice, or Ray is not installed.
    """
    if jobs == 1 or (jobs != "ray" and len(tasks) == 1):
        return
    unfinished = [task for task in tasks if not _marker(task, folder).exists()]
    if len(unfinished) < len(tasks):
        console.print(f"{len(tasks) - len(unfinished)} of {len(tasks)} trainings are finished already")
    if not unfinished:
        return
    if jobs == "ray":
        console.print(f"{len(unfinished)} trainings, on Ray")
        _on_ray(function, unfinished, folder)
        return
    jobs = min(int(jobs), len(unfinished))
    console.print(f"{len(unfinished)} trainings, {jobs} at a time")
    killed = _in_processes(function, unfinished, jobs, folder)
    if killed:
        names = ", ".join(map(_name, killed))
        console.print(f"note: killed, perhaps for lack of memory: {names}; each is trained again by itself")
        killed = _in_processes(function, killed, 1, folder)
    if killed:
        raise UserError(f"the training {_name(killed[0])} was killed twice, perhaps for lack of memory; free some")


def _in_processes(function: Callable[..., None], tasks: list[Task], jobs: int, folder: Path) -> list[Task]:
    """Run each task in a process of its own, ``jobs`` at once, and return the tasks whose process was killed."""
    context, environment, groups = multiprocessing.get_context("spawn"), _environment(), core_groups(jobs)

    def take_cores() -> None:
        if group := groups.pop():
            os.sched_setaffinity(0, group)  # of this thread and of every process that it starts

    def train(task: Task) -> None:
        here, there = context.Pipe(duplex=False)
        line = lines.add_task(_name(task), total=1, note="starting")
        with ProcessPoolExecutor(1, context, _start_worker, (environment, there)) as process:
            ended = process.submit(_train, function, task, folder)
            there.close()  # the process has an end of its own, which is gone when it is killed
            with suppress(EOFError):
                while not ended.done():
                    if here.poll(POLL_SECONDS):
                        lines.update(line, **here.recv())
            lines.remove_task(line)
            ended.result()

    killed: list[Task] = []
    trained = 0
    with training.progress(transient=True) as lines, ThreadPoolExecutor(jobs, initializer=take_cores) as threads:
        futures = {threads.submit(train, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                task = futures[future]
                if isinstance(error := future.exception(), BrokenProcessPool):
                    killed.append(task)
                elif error:
                    raise error
                else:
                    trained += 1
                    console.print(f"{trained} of {len(tasks)} trained: {_name(task)}")
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for process in multiprocessing.active_children():
                    process.kill()
                time.sleep(0.05)
    return killed


def _start_worker(environment: dict[str, str], run: Connection) -> None:
    """In the process of a task: tell the run how far it is, be quiet, and end with it."""
    training.LISTENERS.append(run.send)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    os.environ |= environment
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _train(function: Callable[..., None], task: Task, folder: Path) -> None:
    """Run a task and mark its end; whatever stops it is a ``UserError``, which every process can read."""
    try:
        function(**task, folder=folder)
        _marker(task, folder).touch()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_name(task)}: {traceback.format_exception_only(error)[-1]}") from error


def core_groups(jobs: int) -> list[list[int]]:
    """The cores that this process may use, dealt to ``jobs`` processes; shared where there are more jobs than cores."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [mine[k % max(len(mine), 1) :: jobs] for k in range(jobs)]


def _environment() -> dict[str, str]:
    """As many threads in a worker as here: sums are then cut, and rounded, in the same places."""
    return {"TF_NUM_INTRAOP_THREADS": str(cores()), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _on_ray(function: Callable[..., None], tasks: list[Task], folder: Path) -> None:
    try:
        import ray
    except ImportError as error:
        raise UserError("--jobs ray needs the package ray; pip install -e '.[cluster]'") from error

    if not ray.is_initialized():
        ray.init(
            log_to_driver=False, logging_level=logging.ERROR
        )  # RAY_ADDRESS names a cluster; without it, this machine
    # Cores of this machine, as far as the smallest node of the cluster has them.
    nodes = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    cpus = min([cores(), *filter(None, nodes)])
    # A process of its own for every task: TensorFlow's state does not pass from one to the next.
    remote = ray.remote(num_cpus=cpus, max_retries=RETRIES, max_calls=1)(_train_on_node)
    futures = {remote.remote(function, task, _environment()).future(): task for task in tasks}
    for trained, future in enumerate(as_completed(futures), start=1):
        try:
            files = future.result()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # of ``_train``
        except ray.exceptions.RayError as error:
            raise UserError(f"{_name(futures[future])}: {error}") from error
        for name, content in files.items():
            with whole(folder / name) as temporary:
                temporary.write_bytes(content)
        console.print(f"{trained} of {len(tasks)} trained: {_name(futures[future])}")


def _train_on_node(function: Callable[..., None], task: Task, environment: dict[str, str]) -> dict[str, bytes]:
    """On a node of the cluster: a folder of its own, its files as the answer."""
    os.environ |= environment
    with tempfile.TemporaryDirectory() as folder:
        _train(function, task, Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _name(task: Task) -> str:
    return " ".join(str(value) for value in task.values() if not dataclasses.is_dataclass(value))


def _marker(task: Task, folder: Path) -> Path:
    return folder / f"{_name(task).replace(' ', '_')}.done"
