"""Faults that take too long for every test run; the table of docs/reliability.md comes from here.

python tests/faults.py kill --times 30    SIGKILL at random moments, resumed; figures against an uninterrupted run's
python tests/faults.py repeat             the same seed three times, once with --jobs 2: the same figures
python tests/faults.py full-disk          disks of a few sizes that fill up on the way (needs root, for tmpfs)
python tests/faults.py many-files         100,000 images: time and memory
python tests/faults.py many-rows          a CSV of 10 million rows: time and memory
python tests/faults.py cluster            a Ray cluster of two nodes, one killed half-way (extra [cluster])
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from PIL import Image

import keras_a2
from keras_a2.errors import UserError

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SHORT = {
    "transfer": ["--data", "digits", "--image-size", "32", "--weights", "bundled", "--train-per-class", "40",
                 "--head-epochs", "3", "--fine-tune-epochs", "3", "--views", "2", "--unfreeze", "9"],
    "recurrent": ["--cell", "gru", "--epochs", "8"],
}  # fmt: skip
TIMES = {"seconds", "seconds_per_epoch", "environment", "config"}


def command(script: str, output: Path, *more: str) -> list[str]:
    return [sys.executable, str(EXPERIMENTS / f"{script}.py"), *SHORT[script], "--output", str(output), *more]


def figures(output: Path) -> dict:
    """Every figure of every published ``metrics.json`` below ``output``, what time and place decide left out."""
    return {
        str(path.relative_to(output)): _without_times(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(output.glob("*/*/metrics.json"))
    }


def differences(found, expected, where: str = "") -> list[str]:
    """Each place where two structures of figures differ, with both values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        return [d for k in keys for d in differences(found.get(k), expected.get(k), f"{where}/{k}")]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [d for i in range(len(found)) for d in differences(found[i], expected[i], f"{where}/{i}")]
    return [] if found == expected else [f"{where}: {found} instead of {expected}"]


def _without_times(value):
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def kill(times: int = 30, seed: int = 0, scripts: tuple[str, ...] = tuple(SHORT)) -> None:
    """Kill the scripts at random moments and resume them until they end."""
    for script in scripts:
        with tempfile.TemporaryDirectory() as folder:
            _kill_one(script, Path(folder), times, random.Random(seed))


def _kill_one(script: str, root: Path, times: int, rng: random.Random) -> None:
    started = time.perf_counter()
    subprocess.run(command(script, root / "whole"), check=True, stdout=subprocess.DEVNULL)
    length, expected = time.perf_counter() - started, figures(root / "whole")
    kills, ended, same, damaged = 0, 0, 0, 0
    while kills < times or (root / "killed").exists():
        process = subprocess.Popen(command(script, root / "killed", "--resume"), stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, length) if kills < times else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        damaged += _damaged(root / "killed")
        if process.returncode == 0 or _done(root / "killed"):
            ended += 1
            found = figures(root / "killed")
            same += found == expected
            print("".join(f"{line}\n" for line in differences(found, expected)), end="", flush=True)
            shutil.rmtree(root / "killed")
    print(f"{script}: {kills} kills, {ended} runs ended, {same} of them with the figures of the whole run", flush=True)
    assert (same, damaged) == (ended, 0)


def _done(output: Path) -> bool:
    """Whether a killed run had published and tidied up already: the kill met a process that was about to exit."""
    left = [path for path in output.glob("*/.work-*") if path.is_dir() and path.suffix != ".done"]
    return any(output.glob("*/[0-9]*")) and not left


def _damaged(output: Path) -> int:
    count = 0
    for version in output.glob("*/[0-9]*"):
        try:
            keras_a2.load(version)
        except UserError as error:
            print(error)
            count += 1
    return count


def repeat(times: int = 3) -> None:
    """Run both scripts several times with one seed, the last time in processes of one core each."""
    for script in SHORT:
        with tempfile.TemporaryDirectory() as folder:
            seen = []
            for number in range(times):
                more = ["--jobs", "2"] if number == times - 1 else []
                run = command(script, Path(folder, str(number)), *more)
                subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
                seen.append(figures(Path(folder, str(number))))
        print(f"{script}: {times} runs, {sum(s == seen[0] for s in seen)} with the figures of the first")
        assert all(s == seen[0] for s in seen)


def full_disk(megabytes: tuple[int, ...] = (1, 301, 302, 304, 306, 308, 312)) -> None:
    """Run on small disks: below 300 MB a run is refused at once, so the rest is filled up while it runs."""
    for script in SHORT:
        for size in megabytes:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", folder], check=True)
                try:
                    _fill_while_running(script, Path(folder), size)
                finally:
                    subprocess.run(["umount", "-l", folder], check=True)


def _fill_while_running(script: str, disk: Path, size: int) -> None:
    process = subprocess.Popen(
        command(script, disk / "models"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(disk.glob("models/*/.work*")):
        time.sleep(0.05)
    if process.poll() is None and size > 300:
        with (disk / "ballast").open("wb") as file:
            file.write(bytes(300 * 2**20))
    message = process.communicate()[1].strip()
    versions = list(disk.glob("models/*/[0-9]*"))
    print(f"{script}, {size} MB: exit {process.returncode}, {len(versions)} versions, {message[-160:]!r}")
    assert process.returncode == 0 or (process.returncode == 2 and len(message.splitlines()) == 1 and not versions)
    assert _damaged(disk / "models") == 0


def many_files(count: int = 100_000) -> None:
    """Read a folder of tiny images, every thousandth of them broken."""
    from keras_a2.transfer import data, sources

    with tempfile.TemporaryDirectory() as folder:
        for label in range(10):
            Path(folder, f"class {label}").mkdir()
        rng = np.random.default_rng(0)
        for i in range(count):
            path = Path(folder, f"class {i % 10}", f"{i}.png")
            if i % 1000:
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
            else:
                path.write_bytes(b"no image")
        started = time.perf_counter()
        images = data.load(sources.find(folder), sources.Options(image_size=32), seed=0)
        _report(f"{count} images", started)
        assert len(images.skipped) == len(range(0, count, 1000))


def many_rows(count: int = 10_000_000) -> None:
    """Read a CSV, put it on its grid and cut it into windows."""
    from keras_a2.recurrent import data, sources
    from keras_a2.recurrent.splits import Options

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "series.csv")
        rng = np.random.default_rng(0)
        times = pd.date_range("2000-01-01", periods=count, freq="min")
        values = rng.normal(size=count).cumsum().round(3)
        pd.DataFrame({"time": times, "load": values}).to_csv(path, index=False)
        del times, values
        started = time.perf_counter()
        table = sources.from_file(path, None, target="load", inputs=None)
        windows = data.prepare(table, Options(look_back=72, horizon=24, split="0.6,0.2,0.2"))
        _report(f"{count} rows, {path.stat().st_size / 2**20:.0f} MB of CSV", started)
        assert len(windows.origins["train"]) > 0.59 * count


def cluster() -> None:
    """Train on two local Ray nodes, kill one in the middle, and compare with the sequential run."""
    from ray.cluster_utils import Cluster

    options = ["--cell", "all", "--seeds", "2", "--epochs", "3"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run(command("recurrent", root / "whole", *options), check=True, stdout=subprocess.DEVNULL)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        doomed = nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        process = subprocess.Popen(
            command("recurrent", root / "cluster", *options, "--jobs", "ray"),
            env={**os.environ, "RAY_ADDRESS": nodes.address},
            stdout=subprocess.DEVNULL,
        )
        while not list(root.glob("cluster/*/.work-*/*.npz")) and process.poll() is None:
            time.sleep(0.2)  # the first training is done: both nodes are at work
        nodes.remove_node(doomed, allow_graceful=False)
        assert process.wait() == 0
        same = figures(root / "cluster") == figures(root / "whole")
        nodes.shutdown()
    print(f"cluster: one of two nodes killed, figures {'as' if same else 'not as'} in the sequential run")
    assert same


def _report(what: str, started: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - started:.0f} s, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tyro.extras.subcommand_cli_from_dict(
        {
            "cluster": cluster,
            "kill": kill,
            "repeat": repeat,
            "full-disk": full_disk,
            "many-files": many_files,
            "many-rows": many_rows,
        }
    )
