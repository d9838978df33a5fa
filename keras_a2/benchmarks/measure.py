"""Ours and theirs in turn, as ratios; a row each, measured in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from keras_a2.errors import UserError

# Prints one line of JSON last: whatever TensorFlow prints comes before it.
_CALL = """
import importlib, json, sys
from keras_a2 import runs
runs.configure_tensorflow(0)
module, name = sys.argv[1].split(":")
answer = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
print("\\n" + json.dumps(answer))
"""


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
        return "" if self.bar is None else "reached" if self.ratio >= self.bar else "short"


def row(what: str, against: str, unit: str, ours: list[float], theirs: list[float], bar: float | None, note: str = ""):
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
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fresh(function: str, **arguments):
    """What ``module:function`` answers in a process of its own.

    Raises:
        UserError: the process failed; the last line it wrote is named.
    """
    command = [sys.executable, "-c", _CALL, function, json.dumps(arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the benchmark {function.split(':')[1]} failed: {last}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def growth(function: str, base: int, noun: str) -> dict:
    """A row of time and memory at 1, 4 and 16 times ``base`` items.

    Args:
        function: ``module:function``; of a number of items it answers seconds and peak memory in bytes.
        noun: what one item is.
    """
    sizes = [base * factor for factor in (1, 4, 16)]
    found = [fresh(function, n=n) for n in sizes]
    each = ", ".join(f"{1000 * time / n:.2f} ms" for (time, _), n in zip(found, sizes, strict=True))
    (one, small), *_, (sixteen, large) = found
    note = f"{sizes[0]} to {sizes[-1]} {noun}s: {each} a {noun}"
    note += f"; peak memory {small / 2**30:.2f} to {large / 2**30:.2f} GB"
    return row(f"16 times the {noun}s", "16 times the time", "s", [sixteen], [16 * one], 1, note)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
