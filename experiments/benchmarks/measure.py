"""Ours and theirs in turn, as rows of one table; each group of rows in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_a2 import machine
from keras_a2.errors import UserError

PRELOADED = ["tensorflow", "keras", "pandas", "scipy.stats", "sklearn.linear_model"]
Work = Callable[[], object]


@dataclass
class Row:
    """One line of the table. ``ours`` and ``theirs`` are medians in ``unit``; ``ratio`` above 1 is in our favour."""

    what: str
    against: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    bar: float | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the ratio is what was aimed at; empty where nothing was."""
        return "" if self.bar is None else "reached" if self.ratio >= self.bar else "short"


def row(
    what: str, against: str, unit: str, ours: list[float], theirs: list[float], bar: float | None, note: str = ""
) -> dict:
    """A row from paired measurements; of a rate (``.../s``) more is better, of all else less."""
    pairs = np.array(ours) / np.array(theirs)
    ratio = float(np.median(pairs if unit.endswith("/s") else 1 / pairs))
    return asdict(Row(what, against, unit, float(np.median(ours)), float(np.median(theirs)), ratio, bar, note))


def seconds(work: Work) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rates(ours: Work, theirs: Work, items: tuple[int, int], rounds: int) -> tuple[list[float], list[float]]:
    """Items a second of both, in turn: a machine whose speed drifts is the same to both. Both have run before.

    Args:
        items: how many each works through.
    """
    pairs = [(items[0] / seconds(ours), items[1] / seconds(theirs)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def in_process(function: str, **arguments: Any) -> Any:
    """What ``module:function`` answers in a process of its own, forked from one that has imported TensorFlow.

    Raises:
        UserError: the process failed; what it raised is named.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_call, function, arguments).result()
        except Exception as error:  # whatever the function raises, or the pool where the process died
            raise UserError(
                f"the benchmark {function.split(':')[1]} failed: {type(error).__name__}: {error}"
            ) from error


def _call(function: str, arguments: dict[str, Any]) -> Any:
    """In the process: ``module:function``, quietly."""
    machine.configure_tensorflow(0)
    module, name = function.split(":")
    with Path(os.devnull).open("w") as null, redirect_stdout(null):  # progress of what is measured
        return getattr(importlib.import_module(module), name)(**arguments)


def importing() -> float:
    """Seconds that a process needs until it has Keras and TensorFlow; a forked one has them from the start."""
    command = [sys.executable, "-c", "import keras, tensorflow"]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def computer() -> dict[str, Any]:
    """Processor, its widest vector instructions, and the load of the last minute."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    name = facts.get("model name") or platform.processor() or platform.machine()
    return {"processor": name, "instructions": widest, "load": os.getloadavg()[0]}
