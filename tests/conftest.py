"""Small data that every test file can ask for, and the one start of TensorFlow."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_a2 import machine
from keras_a2.recurrent import data, sources
from keras_a2.recurrent.splits import Options

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def tensorflow():
    """Start TensorFlow once, quietly."""
    machine.configure_tensorflow(0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twelve 40x50 pictures: bright on the left, bright on the right."""
    rng = np.random.default_rng(0)
    for name, side in (("left", slice(0, 20)), ("right", slice(30, 50))):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 90, (40, 50, 3), np.uint8)
            pixels[:, side] += 150
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Twenty days of hourly rows: a daily wave, a noisy copy of it, and a constant column."""
    rng = np.random.default_rng(0)
    time = pd.date_range("2024-01-01", periods=480, freq="h")
    wave = 10 + 5 * np.sin(2 * np.pi * np.arange(480) / 24) + rng.normal(0, 0.4, 480)
    frame = pd.DataFrame({"date": time, "load": wave, "other": wave + rng.normal(0, 1, 480), "fixed": 3.0})
    frame.to_csv(tmp_path / "series.csv", index=False)
    return tmp_path / "series.csv"


@pytest.fixture
def meter():
    """A meter near 1.2e8 that rises by about 1 an hour, more by day: float32 there knows multiples of 8."""
    rng = np.random.default_rng(0)
    hours = np.arange(700)
    use = np.maximum(1 + np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.3, len(hours)), 0)
    frame = pd.DataFrame({"reading": 1.2e8 + use.cumsum()})
    return sources.Table("meter", frame, pd.date_range("2024-01-01", periods=len(frame), freq="h"), ["reading"])


@pytest.fixture
def windows(series):
    return data.prepare(sources.find(str(series), "load", None, None), Options(look_back=24, horizon=6))


def run_script(name: str, *arguments, **options) -> subprocess.CompletedProcess:
    """Run one of the experiments as a person would."""
    return run_scripts([name, *arguments], **options)[0]


def run_scripts(*commands: list, timeout: float = 500, **options) -> list[subprocess.CompletedProcess]:
    """Run several side by side; ``options`` are those of ``Popen``."""
    started: list[subprocess.Popen] = []
    try:
        for name, *arguments in commands:
            command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *map(str, arguments)]
            started.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
            )
        answers = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *answer)
        for process, answer in zip(started, answers, strict=True)
    ]


@functools.cache
def load_script(name: str) -> ModuleType:
    """One of the experiments as a module, for its ``Config`` and ``check``."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "experiments" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
