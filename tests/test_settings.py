"""Options: ranges, groups, and the one line that refuses a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from keras_a2 import settings
from keras_a2.errors import UserError
from keras_a2.settings import Count, CountOrZero, Fraction, NotNegative, Positive, Range, Seed, Share


@dataclass(frozen=True)
class Network:
    """What is trained."""

    units: Count = 8
    dropout: Share = 0.0
    layer_decay: NotNegative | None = None
    cell: Literal["simple_rnn", "gru"] = "gru"


@dataclass(frozen=True)
class Config:
    """All options."""

    network: Network = Network()
    epochs: CountOrZero = 2
    learning_rate: Positive = 1e-3
    test_fraction: Fraction = 0.25
    image_size: Annotated[int, Range(32, 1024)] = 128
    jobs: Count | Literal["ray"] = 1
    seed: Seed = 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(Network(units=0)), "--units is 0; it must be at least 1"),
        (Config(Network(dropout=1.5)), "--dropout is 1.5; it must be at least 0 and below 1"),
        (Config(Network(dropout=1.0)), "--dropout is 1.0; it must be at least 0 and below 1"),
        (Config(Network(layer_decay=-1.0)), "--layer-decay is -1.0; it must be at least 0"),
        (Config(epochs=-1), "--epochs is -1; it must be at least 0"),
        (Config(learning_rate=0.0), "--learning-rate is 0.0; it must be above 0"),
        (Config(learning_rate=float("nan")), "--learning-rate is nan; it must be above 0"),
        (Config(learning_rate=float("inf")), "--learning-rate is inf; it must be above 0"),
        (Config(test_fraction=1.0), "--test-fraction is 1.0; it must be above 0 and below 1"),
        (Config(image_size=8), "--image-size is 8; it must be at least 32 and at most 1024"),
        (Config(jobs=0), "--jobs is 0; it must be at least 1"),
        (Config(seed=2**31), "--seed is 2147483648; it must be at least 0 and at most 2147483647"),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(config, message):
    with pytest.raises(UserError) as refusal:
        settings.check(config)
    assert str(refusal.value) == message


@pytest.mark.parametrize("config", [Config(), Config(jobs="ray"), Config(Network(layer_decay=0.85, dropout=0.99))])
def test_values_in_their_range_pass(config):
    settings.check(config)


def test_groups_dissolve_into_option_names():
    assert settings.flat(Config()) == {
        "units": 8, "dropout": 0.0, "layer_decay": None, "cell": "gru", "epochs": 2, "learning_rate": 1e-3,
        "test_fraction": 0.25, "image_size": 128, "jobs": 1, "seed": 0,
    }  # fmt: skip


def test_options_of_a_group_are_given_by_their_own_names_and_choices_in_any_spelling():
    config = settings.parse(Config, ["--units", "3", "--cell=SimpleRNN", "--jobs", "ray", "--layer-decay", "0.5"])
    assert config == Config(Network(units=3, cell="simple_rnn", layer_decay=0.5), jobs="ray")


def test_help_prints_the_groups(capsys):
    with pytest.raises(SystemExit):
        settings.parse(Config, ["--help"])
    assert "What is trained." in capsys.readouterr().out


def test_defaults_fill_what_was_left_open_in_every_group():
    config = settings.fill(Config(), layer_decay=0.9, units=3)
    assert config == Config(Network(layer_decay=0.9))
    assert settings.fill(config, layer_decay=0.5) == config
