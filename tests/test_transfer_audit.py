"""The audit of the images: what is planted is found, and little else."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from keras_a2.transfer import audit, data, figures, sources
from keras_a2.transfer.decode import decode


def test_the_probability_of_a_wrong_label_is_that_of_the_simulation():
    """Labels drawn from known probabilities, a tenth of them replaced: Bayes' rule gives the answer in closed form."""
    rng = np.random.default_rng(0)
    n, classes, rate = 20_000, 5, 0.1
    logits = rng.normal(0, 3, (n, classes))
    truth = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    wrong = rng.random(n) < rate
    labels = np.where(wrong, (truth + rng.integers(1, classes, n)) % classes, truth)
    right = softmax(logits, axis=1)[np.arange(n), labels]
    exact = rate / (classes - 1) * (1 - right) / (rate / (classes - 1) * (1 - right) + (1 - rate) * right)
    answer = audit.mislabelled(logits / 2.5, labels)  # a model that is too shy: the temperature has to be inferred
    assert np.abs(answer - exact).max() < 0.06
    assert answer.mean() == pytest.approx(wrong.mean(), abs=0.01)
    suspects = answer > 0.5
    assert answer[suspects].mean() == pytest.approx(wrong[suspects].mean(), abs=0.03)


def clusters(classes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of normal clusters, standardised."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), n)
    features = rng.normal(0, 1, (classes, 20))[labels] * 2 + rng.normal(0, 1, (len(labels), 20))
    return ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 10])
def test_planted_wrong_labels_are_found_with_their_right_class(classes):
    features, truth = clusters(classes, 600 // classes)
    rng = np.random.default_rng(2)
    planted = rng.choice(600, 30, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + rng.integers(1, classes, 30)) % classes
    suspects = audit.wrong_labels(features, labels)
    assert len(set(suspects["image"]) & set(planted)) >= 27
    assert len(suspects) <= 33
    hits = suspects[suspects["image"].isin(planted)]
    assert (hits["suggested"].to_numpy() == truth[hits["image"]]).mean() > 0.95


def test_labels_that_are_right_and_classes_of_few_images_are_not_suspected():
    features, labels = clusters(4, 100)
    labels[:3] = 4  # too few to judge
    assert len(audit.wrong_labels(features, labels)) <= 2
    assert len(audit.wrong_labels(features[:8], np.repeat([0, 1], 4))) == 0


def test_an_image_far_from_all_others_is_odd():
    features, _ = clusters(3, 100)
    features[[7, 70]] += 12
    assert sorted(audit.odd_ones_out(features)["image"]) == [7, 70]


def pictures_in_splits(copies: dict[int, int]) -> data.Images:
    """Forty smooth pictures, two classes: 20 to train on, 10 to validate, 10 to test; ``copies``: image -> original."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 6, 6, 3)).astype(np.uint8)
    store = data.PixelStore(40, 32)
    for i in range(40):
        image = Image.fromarray(small[copies.get(i, i)]).resize((60, 60), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        if i in copies:
            image = image.resize((37, 37), Image.Resampling.BICUBIC)
        image.save(content, "JPEG", quality=60 if i in copies else 95)
        store.write(i, decode(content.getvalue(), 32))
    source = sources.Source("pictures", ["a", "b"], [], np.arange(40) % 2, [f"{i}.jpg" for i in range(40)])
    return data.Images(source, store, np.arange(20), np.arange(20, 30), np.arange(30, 40), sha256="")


def test_copies_in_two_splits_or_two_classes_are_found_and_no_others():
    images = pictures_in_splits({20: 0, 32: 2, 34: 24, 6: 4, 9: 8})
    suspects = audit.near_duplicates(images)
    # 6 and 4 are of one class and both to train on: no harm. 9 and 8 are of two classes.
    assert set(zip(suspects["image"], suspects["other"], strict=True)) == {(0, 20), (2, 32), (24, 34), (8, 9)}
    assert (suspects["score"] > 0.98).all()


def test_no_digit_is_nearly_equal_to_another():
    assert len(audit.near_duplicates(data.load(sources.digits(), sources.Options(image_size=32), seed=0))) == 0


def test_suspects_leave_the_training_images_only_and_never_a_whole_class():
    images = pictures_in_splits({})
    rows = [("label", image, -1, 0, 0.9) for image in (1, 3, 22)] + [("duplicate", 5, 31, -1, 0.99)]
    suspects = pd.DataFrame(rows, columns=data.SUSPECT)
    assert set(images.train) - set(audit.without(images, suspects)) == {1, 3, 5}
    all_of_a = pd.DataFrame([("odd", image, -1, -1, 9.0) for image in range(0, 20, 2)], columns=data.SUSPECT)
    assert list(audit.without(images, all_of_a)) == list(images.train)
    assert audit.counts(suspects) == {"label": 3, "duplicate": 1, "odd": 0}


def test_the_table_and_the_picture_sheet_name_the_suspects():
    images = pictures_in_splits({})
    rows = [("label", 1, -1, 0, 0.9), ("duplicate", 5, 31, -1, 0.99), ("odd", 22, -1, -1, 7.0)]
    images.suspects = pd.DataFrame(rows, columns=data.SUSPECT)
    label, duplicate, odd = audit.rows(images).to_dict("records")
    assert (label["item"], label["split"], label["class"], label["suggested_class"]) == ("1.jpg", "train", "b", "a")
    assert (duplicate["other_item"], duplicate["other_split"], duplicate["other_class"]) == ("31.jpg", "test", "b")
    assert (odd["item"], odd["split"], odd["other_item"], odd["other_class"]) == ("22.jpg", "validation", "", "")
    images.train = audit.without(images, images.suspects)
    assert list(audit.rows(images)["split"]) == ["left out", "left out", "validation"]
    sheets = figures.suspects(images)
    assert [[card.lines[0] for card in sheet.cards] for sheet in sheets] == [["b"], ["b", "b"], ["a"]]
    assert sheets[0].cards[0].lines == ["b", "looks like a 90.0 %", "1.jpg"]
    images.suspects = images.suspects[:0]
    assert figures.suspects(images) == []
    assert list(audit.rows(images).columns) == list(label)
