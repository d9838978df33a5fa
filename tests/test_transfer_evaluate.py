"""The figures of the test split, against SciPy and cases worked by hand."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import binomtest, ttest_1samp

from keras_a2 import page
from keras_a2.transfer import baselines, data, evaluate, figures, report, sources

SIZE_16 = sources.Options(image_size=16)
SIZE_32 = sources.Options(image_size=32)


def test_wilson_interval_of_the_courseworks_ten_of_twelve():
    labels = np.zeros(12, int)
    probability = np.tile([0.9, 0.1], (12, 1))
    probability[:2] = [0.1, 0.9]
    result = evaluate.metrics(labels, [probability])
    assert result["accuracy"] == pytest.approx(10 / 12)
    published = binomtest(10, 12).proportion_ci(method="wilson")  # the 55 to 95 % of docs/method.md
    assert result["accuracy_ci95"] == pytest.approx([published.low, published.high], abs=1e-9)
    assert [round(100 * end) for end in result["accuracy_ci95"]] == [55, 95]


def test_mcnemar_and_difference_by_hand():
    # 15 images only the first gets right, 5 only the second: exact p = 2 * P(B(20, 1/2) <= 5) = 0.0414.
    labels = np.zeros(100, int)
    first, second = np.zeros(100, int), np.zeros(100, int)
    second[:15], first[15:20] = 1, 1
    result = evaluate.compare(labels, first[np.newaxis], second[np.newaxis])
    assert result["accuracy"] == pytest.approx(0.10)
    assert result["p_value"] == pytest.approx(0.0414, abs=1e-4)
    # Normal approximation of the paired difference: 0.10 +- 1.96 * sqrt((20 - 100 * 0.01) / 100**2) = 0.015 .. 0.185
    assert result["ci95"] == pytest.approx([0.015, 0.185], abs=0.015)


def test_the_sign_flip_test_is_mcnemars_for_one_seed_and_scipys_for_more():
    difference = np.zeros(100)
    difference[:15], difference[15:20] = 1, -1
    assert evaluate.sign_flip(difference) == pytest.approx(0.0414, abs=0.008)
    shares = np.random.default_rng(0).integers(-3, 5, 200) / 3
    assert evaluate.sign_flip(shares) == pytest.approx(ttest_1samp(shares, 0).pvalue, abs=0.01)


def test_several_seeds_have_one_interval_and_one_p_value():
    rng = np.random.default_rng(0)
    labels = np.zeros(400, int)
    first, second = (rng.random((3, 400)) < wrong for wrong in (0.1, 0.2))
    result = evaluate.compare(labels, first.astype(int), second.astype(int))
    assert result["accuracy_seeds"] == pytest.approx(second.mean(axis=1) - first.mean(axis=1))
    assert result["accuracy"] == pytest.approx(np.mean(result["accuracy_seeds"]))
    difference = second.mean(axis=0) - first.mean(axis=0)
    half = 1.96 * difference.std() / np.sqrt(400)
    assert result["ci95"] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.005)
    assert (result["test"], result["verdict"]) == ("sign-flip permutation test", "better")
    probabilities = [np.stack([1 - wrong, wrong], axis=1) for wrong in first.astype(float)]
    figures = evaluate.metrics(labels, probabilities)
    assert figures["accuracy_seeds"] == pytest.approx(1 - first.mean(axis=1))
    low, high = figures["accuracy_ci95"]
    assert low < figures["accuracy"] < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.1 * 0.9 / 400), rel=0.1)  # of 400 images, not of 1,200
    assert not [name for name in (*result, *figures) if name.endswith(("ci95_seeds", "p_value_seeds"))]


@pytest.mark.parametrize(
    ("interval", "p_value", "verdict"),
    [
        ([0.002, 0.047], 0.052, "not shown"),  # the default run on one machine
        ([0.002, 0.047], 0.036, "better"),
        ([-0.001, 0.047], 0.036, "not shown"),
        ([-0.3, -0.1], 0.001, "worse"),
        (None, None, "too short to tell"),
    ],
)
def test_the_headline_claims_what_interval_and_test_agree_on(interval, p_value, verdict):
    assert page.verdict(interval, p_value) == verdict
    if interval is None:
        return
    test = {"accuracy": 0.9, "n": 656, "accuracy_ci95": [0.88, 0.92]}
    metrics = {
        "arms": {"pretrained": {"weights": {"origin": "bundled"}, "test": test}},
        "difference": {"accuracy": 0.02, "ci95": interval, "p_value": p_value, "test": "a test", "verdict": verdict},
        "published_seed": 4,
    }
    assert report.VERDICTS[verdict] in report.headline(metrics)
    assert "one seed" in report.headline(metrics)
    assert report.of_seed(metrics) == ""
    test["accuracy_seeds"] = [0.89, 0.9, 0.91]
    assert "mean of 3 seeds" in report.headline(metrics)
    assert report.of_seed(metrics) == ", seed 4"


def test_equal_arms_differ_by_nothing():
    result = evaluate.compare(np.zeros(9, int), np.zeros((1, 9), int), np.zeros((1, 9), int))
    assert (result["accuracy"], result["ci95"], result["p_value"]) == (0.0, [0.0, 0.0], 1.0)


def test_pixels_baseline_reads_an_easy_set_and_not_a_shuffled_one(photos):
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    truth = images.labels[images.test]
    assert (baselines.predict(images)["pixels"] == truth).all()
    images.source.labels = np.random.default_rng(5).permutation(images.labels)
    assert (baselines.predict(images)["pixels"] == images.labels[images.test]).mean() < 1


def test_perfect_predictions_are_perfect_when_a_class_is_absent_from_test():
    labels = np.array([0, 0, 1, 1])
    probability = np.eye(3)[labels]
    assert evaluate.metrics(labels, probability[np.newaxis])["macro_f1"] == 1.0
    assert "absent" not in evaluate.report(labels, probability, ["one", "two", "absent"])
    # A class that is predicted but never true counts, as in scikit-learn: F1 2/3, 1 and 0.
    assert evaluate.metrics(labels, np.eye(3)[[0, 2, 1, 1]][np.newaxis])["macro_f1"] == pytest.approx(5 / 9)


def test_confused_pairs_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 0, 0, 1])
    assert evaluate.confused(labels, predicted) == [(0, 1, 2), (2, 0, 2), (2, 1, 1)]
    assert evaluate.confused(labels, labels) == []


def texts_of(figure: Figure) -> list[str]:
    """The texts of a figure as it is drawn."""
    figure.savefig(io.BytesIO())
    return list(dict.fromkeys(text.get_text() for text in figure.findobj(Text)))


def test_class_names_are_no_formulas_in_figures(photos):
    (photos / "left").rename(photos / "a$_$b")
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    labels = images.labels[images.test]
    assert "a$_$b" in texts_of(figures.confusion(labels, 1 - labels, images.classes))
    assert "a$_$b" in texts_of(figures.per_class_f1(labels, {"pretrained": 1 - labels}, images.classes))


def test_sheets_show_every_class_and_the_most_confident_mistakes(photos):
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    labels = images.labels[images.test]
    probability = np.where(np.eye(2)[1 - labels] == 1, 0.9, 0.1)  # all are mistaken
    results = SimpleNamespace(images=images, labels=labels, probabilities=[{"pretrained": probability}], best=0)
    asked = []

    def mapper(pixels, classes):
        asked.append((pixels.shape, classes))
        return np.zeros((len(pixels), 2, 2))

    examples, mistakes = figures.sheets(results, mapper)
    assert {card.lines[0] for card in examples.cards} == {"left, said right: 90.0 %", "right, said left: 90.0 %"}
    assert {card.lines[1] for card in mistakes.cards} == {images.source.item_names[i] for i in images.test}
    assert all(card.mapped.shape == card.picture.shape == (16, 16, 3) for card in mistakes.cards)
    np.testing.assert_array_equal(np.sort(asked[1][1]), np.sort(1 - labels))  # the map of the class that is said


def test_a_hundred_classes_are_shown_by_their_most_confused_pairs(capsys):
    classes = [f"class {i:03d}" for i in range(100)]
    labels = np.repeat(np.arange(100), 10)
    predicted = np.where(np.arange(1000) % 10 < labels // 20, (labels + 1) % 100, labels)
    texts = texts_of(figures.confusion(labels, predicted, classes))
    names = [text for text in texts if "→" in text and "class" in text]
    assert len(names) == figures.READABLE_CLASSES
    assert names[0] == "class 080 → class 081"
    assert "4 of 10" in texts
    texts = texts_of(figures.per_class_f1(labels, {"pretrained": predicted}, classes))
    assert sum(text.startswith("class") for text in texts) == figures.SHOWN_CLASSES
    arm = {
        "weights": {"origin": "bundled"},
        "seconds": 1.0,
        "test": evaluate.metrics(labels, np.eye(100)[predicted][np.newaxis])
        | {"recall": evaluate.recall(labels, predicted, classes)},
    }
    metrics = {
        "data": {"name": "many", "classes": classes},
        "arms": {"pretrained": arm},
        "baselines": {name: {"test": arm["test"]} for name in ("pixels", "majority")},
        "most_confused": [{"truth": "class 080", "prediction": "class 081", "n": 4}],
    }
    report.show(evaluate.Results(None, [], [], [], {}, metrics=metrics))
    printed = capsys.readouterr().out
    assert "class 080 → class 081 (4)" in printed
    assert len(printed.splitlines()) < 20
