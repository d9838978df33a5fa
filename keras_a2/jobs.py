"""Independent trainings side by side: as processes on this machine, or as tasks on a Ray cluster.

A task trains one arm or cell with one seed and leaves its state in a folder. The run then goes through its script as
ever and finds every stage finished: the same figures as one after the other.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from keras_a2.console import console
from keras_a2.errors import Diverged, UserError
from keras_a2.files import whole
from keras_a2.machine import cores

Task = dict[str, Any]
RETRIES = 3  # of a Ray task whose node was lost


def spread(
    function: Callable[..., None],
    tasks: list[Task],
    jobs: int | str,
    folder: Path,
    is_finished: Callable[..., bool] = lambda **_: False,
) -> None:
    """Run every task that is not finished; their files are in ``folder`` afterwards.

    A task whose process was killed, for lack of memory perhaps, is run once more when the others have ended.

    Args:
        function: called with a task's arguments and ``folder``. It stands at the top of a module or of the script, and
            so do the classes of its arguments: a worker imports them from there.
        tasks: keyword arguments, a configuration among them.
        jobs: so many processes at once, each on cores of its own; or ``ray``.
        is_finished: called as ``function`` is: whether ``folder`` holds all that the task would leave there.

    Raises:
        Diverged: a training diverged.
        UserError: a task failed (the first failure is named) or was killed twice, or Ray is not installed.
    """
    unfinished = [task for task in tasks if not is_finished(**task, folder=folder)]
    if len(unfinished) < len(tasks):
        console.print(f"{len(tasks) - len(unfinished)} of {len(tasks)} trainings are finished already")
    if not unfinished:
        return
    console.print(f"{len(unfinished)} trainings, " + ("on Ray" if jobs == "ray" else f"{jobs} at a time"))
    if jobs == "ray":
        _on_ray(function, unfinished, folder)
        return
    killed = _in_processes(function, unfinished, int(jobs), folder)
    if killed:
        names = ", ".join(map(_name, killed))
        console.print(f"note: killed, perhaps for lack of memory: {names}; each is trained again by itself")
        killed = _in_processes(function, killed, 1, folder)
    if killed:
        raise UserError(f"the training {_name(killed[0])} was killed twice, perhaps for lack of memory; free some")


def _in_processes(function: Callable[..., None], tasks: list[Task], jobs: int, folder: Path) -> list[Task]:
    """Run the tasks in processes and return those whose process was killed."""
    context = multiprocessing.get_context("spawn")
    waiting, free, killed, trained = tasks[::-1], core_groups(jobs), [], 0
    running: dict[int, tuple] = {}  # a process's sentinel -> it, its task, its cores, and where its error comes from
    try:
        while waiting or running:
            while waiting and free:
                task, group = waiting.pop(), free.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(function, task, folder, _threads(), sender), daemon=True)
                with _on_cores(group):
                    process.start()
                sender.close()
                running[process.sentinel] = process, task, group, receiver
            for sentinel in wait(list(running)):
                process, task, group, receiver = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                free.append(group)
                if process.exitcode < 0:
                    killed.append(task)
                elif process.exitcode:
                    raise _error(receiver, f"the training {_name(task)} ended with exit code {process.exitcode}")
                else:
                    trained += 1
                    console.print(f"{trained} of {len(tasks)} trained: {_name(task)}")
    finally:
        for process, *_ in running.values():
            process.kill()
            process.join()
    return killed


def _work(
    function: Callable[..., None], task: Task, folder: Path, environment: dict[str, str], errors: Connection
) -> None:
    """In the process of a task: be quiet, end with the run that started it, and send it the error."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    os.environ |= environment
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        function(**task, folder=folder)
    except UserError as error:
        errors.send(error)
        sys.exit(2)
    except Exception as error:
        errors.send(UserError(traceback.format_exception_only(error)[-1]))
        sys.exit(1)


def _error(receiver: Connection, otherwise: str) -> UserError:
    try:
        return receiver.recv()
    except EOFError:
        return UserError(otherwise)


@contextmanager
def _on_cores(group: list[int]) -> Iterator[None]:
    """A process that starts in this block keeps to the cores of ``group``, all of its threads from the first on."""
    if not group:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, group)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def core_groups(jobs: int) -> list[list[int]]:
    """The cores that this process may use, dealt to ``jobs`` processes; shared where there are more jobs than cores."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [mine[k % max(len(mine), 1) :: jobs] for k in range(jobs)]


def _threads() -> dict[str, str]:
    """As many threads in a worker as here: sums are then cut, and rounded, in the same places."""
    return {"TF_NUM_INTRAOP_THREADS": str(cores()), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _on_ray(function: Callable[..., None], tasks: list[Task], folder: Path) -> None:
    try:
        import ray
    except ImportError as error:
        raise UserError("--jobs ray needs the package ray; pip install -e '.[cluster]'") from error

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")  # RAY_ADDRESS names a cluster; without it, this machine
    # A process of its own for every task: TensorFlow's state does not pass from one to the next.
    remote = ray.remote(num_cpus=_cpus_of_a_task(ray), max_retries=RETRIES, max_calls=1)(_ray_task)
    waiting = {remote.remote(function, task, _threads()): task for task in tasks}
    trained = 0
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
            with whole(folder / name) as temporary:
                temporary.write_bytes(content)
        trained += 1
        console.print(f"{trained} of {len(tasks)} trained: {_name(waiting.pop(done))}")


def _cpus_of_a_task(ray: Any) -> int:
    """Cores of the driver, as far as the smallest node of the cluster has them."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(min([cores(), *(n for n in nodes if n)]), 1)


def _ray_task(function: Callable[..., None], task: Task, environment: dict[str, str]) -> dict[str, bytes]:
    """On a node of the cluster: a folder of its own, its files as the answer."""
    os.environ |= environment
    with tempfile.TemporaryDirectory() as folder:
        function(**task, folder=Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _name(task: Task) -> str:
    return " ".join(str(value) for value in task.values() if not dataclasses.is_dataclass(value))
