"""Part 1: a pretrained MobileNetV3Small, frozen then unfrozen, against the same network from random initialisation.

python experiments/transfer.py                            solar cells
python experiments/transfer.py --data ~/photos            a folder per class
python experiments/transfer.py --data photos/labels.csv   a table of labels
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from keras_a2 import machine, runs, settings, training
from keras_a2.console import console
from keras_a2.settings import Count, CountOrZero, FileOr, Form, Fraction, NotNegative, Positive, Range, Share
from keras_a2.transfer import sources

if TYPE_CHECKING:  # TensorFlow takes seconds to import: functions import what they need, so that --help is quick
    import keras

    from keras_a2.saved_model import FreshProcess
    from keras_a2.training import Average
    from keras_a2.transfer.data import Images
    from keras_a2.transfer.evaluate import Results
    from keras_a2.transfer.model import Weights
    from keras_a2.transfer.train import Arm, Epoch


@dataclass(frozen=True)
class NetworkOptions:
    """The network, and options of both phases."""

    weights: Annotated[str, FileOr(("auto", "imagenet", "bundled", "random"))] = "auto"
    """auto (ImageNet by Keras, else the bundled ones), imagenet, bundled, random, or a path to .weights.h5 / .h5."""
    alpha: float | None = None
    """Width of the network, 0.75 or 1.0; by default that of the weights."""
    dropout: Share = 0.2
    """Share of features dropped before the last layer while training."""
    batch_size: Count | None = None
    """Images per step of phase 2 and of the control; by default 32 below 4,000 images, else 64."""
    augment: Literal["auto", "none", "shift", "crop", "flips"] = "auto"
    """Random crops and flips; auto depends on the data (digits are not flipped)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: all classes count equally in every loss; recognises more of a rare class."""
    label_smoothing: Share = 0.1
    """Probability mass spread over the other classes; keeps the network from memorising a few thousand images."""
    weight_decay: NotNegative = 0.02
    """AdamW's decay of kernels, in phase 2 and the control."""
    ema: Share = 0.98
    """Decay of the moving average of the weights that phase 2 and the control evaluate and keep; 0 turns it off."""
    coverage: Fraction = 0.9
    """Probability that the set of classes that the published model gives for an image contains the true one."""
    strategy: Literal["none", "mirrored"] = "none"
    """mirrored: distribute every batch over the GPUs of this machine (tf.distribute.MirroredStrategy)."""


@dataclass(frozen=True)
class HeadOptions:
    """Phase 1: the head trains, the backbone is frozen."""

    head_epochs: CountOrZero = 2
    """Epochs on cached features, after the head's convex solution."""
    head_learning_rate: Positive = 1e-4
    """Rate of the head phase (Adam); small, because it starts at the optimum for the cached features."""
    views: Count = 4
    """Views of each image whose features are cached for the head phase; 1 is the plain image only."""


@dataclass(frozen=True)
class FineTuneOptions:
    """Phase 2: the last blocks of the backbone are unfrozen."""

    fine_tune_epochs: CountOrZero = 10
    """Epochs with the backbone unfrozen; 0 leaves it frozen."""
    unfreeze: Annotated[int, Range(1, 13)] | None = None
    """Blocks to train, of the backbone's 13, from the last; by default 9, or all with bundled and random weights."""
    learning_rate: Positive | None = None
    """Peak rate (AdamW); by default 3e-4, and below 4,000 images 2e-4, or 2e-3 with the bundled weights."""
    layer_decay: Annotated[float, Range(0, 1, open=("low",))] = 0.85
    """Each block's rate is this multiple of the next one's, so that early, general features move least."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """frozen: batch norm in inference mode, nothing trained; train: trained, with the statistics of each batch."""


@dataclass(frozen=True)
class ControlOptions:
    """The same network from random initialisation."""

    scratch: bool = True
    """Train the control from random initialisation."""
    scratch_epochs: CountOrZero | None = None
    """Epochs of the scratch control; by default head epochs + fine-tune epochs."""
    scratch_learning_rate: Positive = 2e-3
    """Peak rate of the scratch control; random weights need a higher one."""
    learning_curve: Annotated[str, Form(r"auto|none|[1-9]\d*(,[1-9]\d*)*", "auto, none, or like 10,30,100")] = "auto"
    """Train again on fewer images: auto (if it costs under a quarter of the run), none, or per class: 10,30."""


@dataclass(frozen=True)
class Config:
    """Compare a pretrained MobileNetV3Small with random initialisation; publish it."""

    data: sources.Options = field(default_factory=sources.Options)
    network: NetworkOptions = NetworkOptions()
    head: HeadOptions = HeadOptions()
    fine_tune: FineTuneOptions = FineTuneOptions()
    control: ControlOptions = ControlOptions()
    run: runs.Options = field(default_factory=runs.Options)


def build_arm(name: str, images: Images, weights: Weights, config: Config, seed: int, folder: Path) -> Arm:
    """Keras Applications' network without its top, pixels 0-255 to pooled features; and a new head, to logits."""
    import keras

    from keras_a2.transfer import model, train

    keras.utils.set_random_seed(seed)  # whatever was trained before
    backbone = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, alpha=weights.alpha, input_shape=(None, None, 3), pooling="avg"
    )
    model.load_weights(backbone, weights)
    model.set_momentum(backbone, model.momentum_for(train.steps_per_epoch(images, config.network.batch_size)))
    head = keras.Sequential(
        [
            keras.Input(backbone.output_shape[1:]),
            # Fixed scaling: batch norm that never trains.
            keras.layers.BatchNormalization(center=False, scale=False, trainable=False, name="standardise"),
            keras.layers.Dropout(config.network.dropout, name="dropout"),
            keras.layers.Dense(len(images.classes), name="logits"),
        ]
    )
    class_weights = train.class_weights(images, config.network.class_weights)
    return train.Arm(name, images, weights, backbone, head, seed, folder, *class_weights)


def train_pretrained(images: Images, weights: Weights, config: Config, seed: int, folder: Path) -> Arm:
    """Phase 1 trains the head, phase 2 the last blocks too; of both, the state of lowest validation loss is kept."""
    import keras

    from keras_a2.fast import images as fast
    from keras_a2.fast import litert
    from keras_a2.transfer import model, train

    arm = build_arm("pretrained", images, weights, config, seed, folder)
    backbone, head, plain = arm.backbone, arm.head, config.run.plain
    if config.fine_tune.batch_norm == "train":
        model.estimate_statistics(backbone, images, seed)  # a head fitted under other statistics would be thrown off

    # Phase 1: only the head trains. The backbone is frozen, so the features of an image never change: once is enough.
    backbone.trainable = False
    compute = train.keras_features if plain else litert.Parallel
    features = train.Features(compute, arm, config.head.views, config.network.augment)
    train.solve_head(arm, features)  # logistic regression: the best head for these features
    loss = train.cross_entropy(config.network.label_smoothing, arm.class_weights)
    head.compile(keras.optimizers.Adam(config.head.head_learning_rate), loss, metrics=["accuracy"])
    epoch = train.keras_epoch(head, features.batches) if plain else fast.compiled_epoch(head, features.batches)
    arm.fit("head", head, epoch, config.head.head_epochs, predict=lambda: head.predict(features.validation, verbose=0))
    arm.frozen = arm.network.get_weights()  # to be compared, on the test split, with what phase 2 makes of it

    # Phase 2: the last blocks train too, at a low rate that warms up and decays, lower for earlier blocks.
    options = config.fine_tune
    if options.fine_tune_epochs:
        unfreeze(backbone, options)
        epochs, rate = options.fine_tune_epochs, options.learning_rate
        epoch, average = compile_network(arm, config, epochs, rate, options.layer_decay)
        arm.fit("fine_tune", arm.network, epoch, epochs, average)
    return arm


def unfreeze(backbone: keras.Model, options: FineTuneOptions) -> None:
    """Let the last blocks train, all but their batch norm."""
    import keras

    from keras_a2.transfer import model

    backbone.trainable = True
    for layer in backbone.layers:
        early = model.block_number(layer) < model.BLOCKS - options.unfreeze
        # Batch norm stays in inference mode: a few images' statistics would spoil features that the head is fitted to.
        # Layer by layer, because a `training=False` given when a network is put together gives way to fit's own True.
        fixed = options.batch_norm == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not (early or fixed)


def train_scratch(images: Images, weights: Weights, config: Config, seed: int, folder: Path) -> Arm:
    """The control: the same network from random initialisation, batch norm in training mode, its own rate."""
    from keras_a2.transfer import model, train

    arm = build_arm("scratch", images, model.random_weights(weights.alpha), config, seed, folder)
    if train.passes(len(images.train), config.network.batch_size) > 1:
        train.answer_class_shares(arm)
    epochs, rate = config.control.scratch_epochs, config.control.scratch_learning_rate
    epoch, average = compile_network(arm, config, epochs, rate)
    arm.fit("scratch", arm.network, epoch, epochs, average)
    return arm


def compile_network(arm: Arm, config: Config, epochs: int, rate: float, decay: float = 1.0) -> tuple[Epoch, Average]:
    """For training on augmented images: AdamW, a rate that warms up and decays, a moving average of the weights."""
    from keras_a2.fast import images as fast
    from keras_a2.transfer import optimizer, train

    options, network = config.network, arm.network
    schedule = training.warm_up_and_decay(rate, epochs, train.steps_per_epoch(arm.images, options.batch_size))
    rates = optimizer.rate_multipliers(network, decay)
    adamw = optimizer.LayerwiseAdamW(rates, options.weight_decay, learning_rate=schedule)
    network.compile(adamw, train.cross_entropy(options.label_smoothing, arm.class_weights), metrics=["accuracy"])
    average = train.average(arm, network, options.ema, options.batch_size)
    batches = train.augmented(arm.images, options.augment, options.batch_size, arm.seed)
    if config.run.plain:
        return train.keras_epoch(network, batches, average), average
    return fast.compiled_epoch(network, batches, average), average


def publish(results: Results, config: Config, run: runs.Run, process: FreshProcess) -> None:
    """Publish SavedModel, model.keras, model.json, metrics.json, report.html, predictions.csv, history.csv."""
    from keras_a2 import saved_model
    from keras_a2.fast import litert
    from keras_a2.transfer import describe, evaluate, model, report, train

    arm, size, home = results.published["pretrained"], results.images.store.size, config.run.output / run.name
    temperature = results.calibrations[results.best]["pretrained"].temperature
    with run.publishing() as folder:
        network = model.assemble(arm.backbone, arm.head, size, config.data.fit, temperature)
        saved_model.export(network, describe.signatures(network, size), folder)
        compute = train.keras_features if config.run.plain else litert.Parallel
        results.unfamiliar = describe.publish(folder, network, results.images, compute)
        report.write(folder, results, describe.mapper(network), home)
        evaluate.write(folder, results, run.name, network, process, config.run.litert)
    console.print(f"open {run.version / 'report.html'}; use the model: {report.use(home)}")
    console.print(report.headline(results.metrics))


def main(config: Config) -> None:
    """Images, both arms, the test split read once, the comparison, the published model."""
    settings.check(config)
    options, source = config.run, sources.find(config.data.data)
    name = runs.published_name(options, f"transfer-{source.name}")
    with runs.Run(config, name, options.output, options.resume) as run:
        machine.import_tensorflow()  # without its start-up log
        from keras_a2 import saved_model
        from keras_a2.transfer import baselines, evaluate, learning, report, train

        strategy = machine.strategy(config.network.strategy, alone=options.jobs in ("auto", 1) and not options.plain)
        images, weights, config = train.load(source, config, run.work, audited=True)
        run.check_inputs(data=images.summary(), weights=weights.sha256)
        trainings = {"pretrained": train_pretrained} | ({"scratch": train_scratch} if config.control.scratch else {})
        with strategy.scope():
            # Of each seed the arms by name; and the control again on few images, for the learning curve.
            few = learning.sizes(images, config)
            arms, controls = train.every_arm(trainings, images, weights, config, run.work, few)

        with saved_model.FreshProcess() as process:  # imports TensorFlow while the test split is read
            # Fitted on validation images too: a factor on the logits for true probabilities, and answer sets.
            calibrations = evaluate.calibrate_all(images, arms, config.network.coverage)
            # Every choice is made: the test split is read here, once, to compare the pretrained arm with what phase 1
            # made of it, with the control, and with baselines: the largest class, and logistic regression on pixels.
            compared, recorded = baselines.predict(images), settings.flat(config)
            results = evaluate.read_test_split(images, arms, calibrations, compared, recorded)
            results.metrics |= learning.measure(results, controls, config)  # fewer images; what more would be worth
            report.show(results)
            publish(results, config, run, process)


if __name__ == "__main__":
    runs.command_line(Config, main)
