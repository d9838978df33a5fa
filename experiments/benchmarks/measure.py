"""Ours and theirs in turn, as ratios; a row each, measured in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
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

_starting = threading.Lock()  # two threads that silence at once would restore each other's silence
PRELOADED = ["tensorflow", "keras", "pandas", "scipy.stats", "sklearn.linear_model"]


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
    """A row from paired measurements; in seconds or bytes less is better, in a rate (``.../s``) more."""
    pairs = np.array(ours) / np.array(theirs)
    ratio = float(np.median(pairs if unit.endswith("/s") else 1 / pairs))
    return asdict(Row(what, against, unit, float(np.median(ours)), float(np.median(theirs)), ratio, bar, note))


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Measurements in turn, so that a machine whose speed drifts is the same to both."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def rate(n: int, work: Callable[[], object]) -> Callable[[], float]:
    """Items per second of ``work``, which does ``n``."""
    return lambda: n / seconds(work)


def seconds(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_process(function: str, **arguments: Any) -> Any:
    """What ``module:function`` answers in a process of its own, forked from one that has imported TensorFlow.

    Raises:
        UserError: the process failed; what it raised is named.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with _starting, machine.silence():  # the processes inherit it
            answer = pool.submit(_call, function, arguments)
        try:
            return answer.result()
        except Exception as error:  # whatever the function raises, or the pool where the process died
            raise UserError(
                f"the benchmark {function.split(':')[1]} failed: {type(error).__name__}: {error}"
            ) from error


def _call(function: str, arguments: dict) -> Any:
    machine.configure_tensorflow(0)
    module, name = function.split(":")
    with Path(os.devnull).open("w") as null, redirect_stdout(null):  # progress of what is measured
        return getattr(importlib.import_module(module), name)(**arguments)


def growth(function: str, base: int, noun: str) -> dict:
    """A row of time and memory at 1, 4 and 16 times ``base`` items.

    Args:
        function: ``module:function``; of a number of items it answers seconds and peak memory in bytes.
        noun: what one item is.
    """
    sizes = [base * factor for factor in (1, 4, 16)]
    measured = [in_process(function, n=n) for n in sizes]
    each = ", ".join(f"{1000 * time / n:.2f} ms" for (time, _), n in zip(measured, sizes, strict=True))
    (one, small), *_, (sixteen, large) = measured
    note = f"{sizes[0]} to {sizes[-1]} {noun}s: {each} a {noun}"
    note += f"; peak memory {small / 2**30:.2f} to {large / 2**30:.2f} GB"
    return row(f"16 times the {noun}s", "16 times the time", "s", [sixteen], [16 * one], 1, note)


def importing() -> float:
    """Seconds that a process needs until it has Keras and TensorFlow; a forked one has them from the start."""
    command = [sys.executable, "-c", "import keras, tensorflow"]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
