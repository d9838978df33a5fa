"""Working folders, versions, errors: what a run may leave behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, load_script, run_scripts
from keras_a2 import machine, runs, settings
from keras_a2.errors import Diverged, UserError


@dataclass(frozen=True)
class Config:
    size: int = 1
    output: Path = Path()
    resume: bool = False


def publish(output: Path, size: int = 1, wait=None) -> int:
    with runs.Run(Config(size), "thing", output) as run:
        if wait is not None:
            wait.wait()
        with run.publishing() as folder:
            (folder / "model.json").write_text(json.dumps({"size": size}))
    return int(run.version.name)


def test_versions_count_up_and_carry_their_number(tmp_path):
    assert [publish(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert json.loads((tmp_path / "thing" / "3" / "model.json").read_text())["version"] == 3
    assert sorted(p.name for p in (tmp_path / "thing").iterdir()) == ["1", "2", "3"]


def test_a_lock_file_that_was_removed_while_waiting_protects_nobody(tmp_path, monkeypatch):
    first = runs.Run(Config(), "thing", tmp_path)
    flock, waiting = machine.fcntl.flock, [first]

    def after_the_first_has_ended(file, how):
        if waiting:
            waiting.pop().close()  # the second run has opened the lock file, and has not locked it yet
        flock(file, how)

    monkeypatch.setattr(machine.fcntl, "flock", after_the_first_has_ended)
    second, third = (runs.Run(Config(), "thing", tmp_path) for _ in range(2))
    assert second.work != third.work


def _publish_together(output: Path, size: int, barrier, answers) -> None:
    answers.put(publish(output, size, barrier))


def test_eight_runs_at_once_get_eight_versions(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()
    workers = [context.Process(target=_publish_together, args=(tmp_path, 1, barrier, answers)) for _ in range(8)]
    for worker in workers:
        worker.start()
    versions = sorted(answers.get(timeout=30) for _ in workers)
    for worker in workers:
        worker.join()
    assert versions == list(range(1, 9))
    cards = [json.loads((tmp_path / "thing" / str(v) / "model.json").read_text())["version"] for v in versions]
    assert cards == versions
    assert not [p for p in (tmp_path / "thing").iterdir() if p.name.startswith(".")]


def test_a_killed_run_is_taken_up_only_by_the_same_configuration(tmp_path):
    first = runs.Run(Config(1), "thing", tmp_path)
    runs.state_file(first.work, "head").write_bytes(b"progress")
    first._lock.close()  # what a kill does
    other = runs.Run(Config(2), "thing", tmp_path, resume=True)
    assert not other.resumed
    again = runs.Run(Config(1), "thing", tmp_path, resume=True)
    assert again.resumed
    assert runs.state_file(again.work, "head").read_bytes() == b"progress"
    again._lock.close()
    fresh = runs.Run(Config(1), "thing", tmp_path)
    assert not runs.state_file(fresh.work, "head").exists()


def test_a_run_killed_after_publishing_keeps_its_version(tmp_path):
    first = runs.Run(Config(), "thing", tmp_path, resume=True)
    with first.publishing() as folder:
        (folder / "model.json").write_text("{}")
    first._lock.close()  # killed before it could remove its working folder
    with runs.Run(Config(), "thing", tmp_path, resume=True) as again, again.publishing() as folder:
        (folder / "model.json").write_text("{}")
    assert again.version.name == "1"
    assert sorted(p.name for p in (tmp_path / "thing").iterdir()) == ["1"]
    assert publish(tmp_path) == 2


def test_a_run_killed_while_tidying_up_is_not_taken_up_again(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed_half_way(folder, **_):
        if (folder / "run").exists():
            (folder / "run").unlink()
            raise Killed

    first = runs.Run(Config(), "thing", tmp_path, resume=True)
    runs.state_file(first.work, "head").write_bytes(b"progress")
    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", killed_half_way)
        with pytest.raises(Killed):
            first.close()
    first._lock.close()
    with runs.Run(Config(), "thing", tmp_path, resume=True) as again:
        assert not again.resumed
    assert publish(tmp_path) == 1
    assert sorted(p.name for p in (tmp_path / "thing").iterdir()) == ["1"]


def test_a_resumed_run_whose_data_changed_is_refused_and_kept(tmp_path):
    first = runs.Run(Config(), "thing", tmp_path)
    first.check_inputs(data={"sha256": "a"}, weights="w")
    first.check_inputs(data={"sha256": "b"}, weights="w")  # nothing was trained on the former
    runs.state_file(first.work, "head").write_bytes(b"progress")
    first._lock.close()  # what a kill does
    message = "^the data changed since the run was interrupted; .* without --resume to start anew$"
    with pytest.raises(UserError, match=message), runs.Run(Config(), "thing", tmp_path, resume=True) as again:
        again.check_inputs(data={"sha256": "a"}, weights="w")
    with runs.Run(Config(), "thing", tmp_path, resume=True) as again:
        again.check_inputs(data={"sha256": "b"}, weights="w")
        assert runs.state_file(again.work, "head").read_bytes() == b"progress"


def test_a_resume_that_has_nothing_to_resume_says_so(tmp_path, capsys):
    with runs.Run(Config(), "thing", tmp_path, resume=True):
        pass
    assert "a new run starts" in capsys.readouterr().out
    with runs.Run(Config(), "thing", tmp_path):
        pass
    assert capsys.readouterr().out == ""


def run_that_ends_with(error: Exception, output: Path) -> None:
    with runs.Run(Config(), "thing", output, resume=True) as run:
        run.check_inputs(data="unchanged")
        runs.state_file(run.work, "head").write_bytes(b"progress")
        raise error


def test_what_was_trained_outlives_a_failure_but_not_a_divergence(tmp_path):
    for error, message in [(UserError("killed"), r"^killed; to resume, .*--resume$"), (OSError("disk full"), "full")]:
        with pytest.raises(type(error), match=message):
            run_that_ends_with(error, tmp_path)
        left = runs.Run(Config(), "thing", tmp_path, resume=True)
        assert runs.state_file(left.work, "head").read_bytes() == b"progress"
        left._lock.close()
    with pytest.raises(Diverged, match=r"epoch 3$"):
        run_that_ends_with(Diverged("diverged in epoch 3"), tmp_path)
    assert list((tmp_path / "thing").iterdir()) == []


def test_a_refused_run_leaves_nothing(tmp_path):
    with pytest.raises(UserError), runs.Run(Config(), "thing", tmp_path / "new" / "deep"):
        raise UserError("no good")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_name_must_be_a_folder_name(tmp_path, name):
    with pytest.raises(UserError, match="cannot be a folder"):
        runs.Run(Config(), name, tmp_path)


def test_output_that_is_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        runs.Run(Config(), "thing", tmp_path / "file")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "m.json", {"loss": float("nan")})
    assert not (tmp_path / "m.json").exists()


INTERRUPTED = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from keras_a2 import files, runs

@dataclass(frozen=True)
class Config:
    pass

def main(config):
    with files.whole(Path("rows.csv")) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

runs.command_line(Config, main, [])
"""


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_writing_leaves_no_file(tmp_path):
    answer = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=tmp_path, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr.strip()) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_needs_no_tensorflow(tmp_path):
    scripts = ["transfer", "recurrent", "predict", "pretrain", "benchmark"]
    narrow = {**os.environ, "COLUMNS": "80"}
    for script, answer in zip(
        scripts, run_scripts(*([script, "--help"] for script in scripts), cwd=tmp_path, timeout=60, env=narrow),
        strict=True,
    ):  # fmt: skip
        assert answer.returncode == 0
        assert "usage" in answer.stdout
        if script in ("transfer", "recurrent", "predict"):
            assert [line for line in answer.stdout.splitlines()[1:] if len(line) > 80] == []
            assert "{None}" not in answer.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("recurrent", ["--cell", "GRU"], {"cell": "gru"}),
        ("recurrent", ["--cell=SimpleRNN", "--loss", "MSE"], {"cell": "simple_rnn", "loss": "mse"}),
        ("recurrent", ["--target", "GRU", "--name", "LSTM"], {"target": "GRU", "name": "LSTM"}),
        ("recurrent", [], {"refit": True, "channel_independent": None, "calendar": True}),
        ("recurrent", ["--refit", "--no-channel-independent"], {"refit": True, "channel_independent": False}),
        ("recurrent", ["--no-refit", "--channel-independent"], {"refit": False, "channel_independent": True}),
        ("transfer", ["--batch-norm", "Train", "--jobs", "ray"], {"batch_norm": "train", "jobs": "ray"}),
        ("transfer", ["--no-scratch", "--litert"], {"scratch": False, "litert": True}),
        ("predict", ["m", "--export", "LiteRT"], {"export": "litert"}),
    ],
)
def test_options_are_flags_and_choices_in_any_case(script, arguments, expected):
    config = settings.flat(settings.parse(load_script(script).Config, arguments))
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("recurrent", ["--refit", "True"]), ("recurrent", ["--cell", "rnn"]), ("transfer", ["--no-no-scratch"])],
)
def test_flags_take_no_value_and_choices_are_those_listed(script, arguments):
    with pytest.raises(SystemExit):
        settings.parse(load_script(script).Config, arguments)


# Prints after the error whether the script had begun to import TensorFlow, which takes most of ten seconds.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("tensorflow" in sys.modules, file=sys.stderr)
"""


REFUSED = [
    ("transfer", ["--data", "nowhere"], "no such folder"),
    ("transfer", ["--data", "digits", "--weights", "nowhere.h5"], "--weights is nowhere.h5; it must be auto, "),
    ("transfer", ["--data", "digits", "--output", "/proc/models"], "cannot write to /proc/models"),
    ("recurrent", ["--data", "nowhere.csv"], "no such file"),
    ("recurrent", ["--data", "series.csv", "--target", "nothing"], "no column 'nothing'"),
    ("recurrent", ["--data", "series.csv", "--target", "load", "--output", "/proc/models"], "cannot write to"),
    ("recurrent", ["--segment", "7"], "does not divide"),
    ("predict", ["nowhere", "x.png"], "no such file or folder: x.png"),
    ("predict", ["nowhere", "series.csv"], "no such model folder"),
    ("pretrain", ["--data", "nowhere", "--output", "."], "no such folder"),
    ("pretrain", ["--data", ".", "--output", ".", "--teacher", "nowhere.h5"], "it must be efficientnet-lite2 or"),
]


@pytest.mark.slow
def test_bad_input_is_one_line_and_exit_code_2_before_tensorflow_is_imported(series):
    def run(script: str, arguments: list[str], _: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", WITHOUT_TENSORFLOW, ROOT / "experiments" / f"{script}.py", *arguments]
        return subprocess.run(command, cwd=series.parent, capture_output=True, text=True, timeout=60)

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(run, *zip(*REFUSED, strict=True)))
    for answer, (script, arguments, message) in zip(answers, REFUSED, strict=True):
        assert answer.returncode == 2, (script, arguments)
        error, imported = answer.stderr.strip().splitlines()
        assert error.startswith("error: ")
        assert message in error
        assert imported == "False", (script, arguments)
    assert list(series.parent.iterdir()) == [series]


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        ("transfer", "image_size", 8),
        ("transfer", "learning_rate", float("nan")),
        ("transfer", "scratch_learning_rate", float("inf")),
        ("transfer", "train_per_class", 0),
        ("transfer", "dropout", 1.5),
        ("transfer", "ema", 2.0),
        ("transfer", "label_smoothing", -1.0),
        ("transfer", "layer_decay", 0.0),
        ("transfer", "layer_decay", 1.1),
        ("transfer", "weight_decay", -0.1),
        ("transfer", "test_fraction", 1.0),
        ("transfer", "seed", -1),
        ("transfer", "seeds", 0),
        ("recurrent", "look_back", 0),
        ("recurrent", "max_gap", -1),
        ("recurrent", "input_dropout", 1.0),
        ("recurrent", "learning_rate", 0.0),
        ("recurrent", "ema", 2.0),
        ("recurrent", "seed", 2**32),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_value(script, option, value):
    experiment, name = load_script(script), f"--{option.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{name} is {value}; "):
        settings.check(settings.parse(experiment.Config, [f"{name}={value}"]))
