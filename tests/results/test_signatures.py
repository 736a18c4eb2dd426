"""Signs that a run went wrong: they show where they should and not on honest runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.signatures import (
    MEANINGS,
    beside_zero_shot,
    codes_in,
    learnt_nothing,
    notes_of_test,
    signatures_of,
    zero_shot_of,
)
from tests.results.result_examples import make_config, make_run, make_test, training_of, zero_shot_run

RUN = make_run()
"""Trained on the base classes of dtd."""
AS_IT_IS = zero_shot_run()


def notes(labels: Sequence[int], predicted: Sequence[int], names: int = 0) -> tuple[str, ...]:
    """Return the notes of a test, its scores counted class by class."""
    pairs = list(zip(labels, predicted, strict=True))
    f1 = []
    for label in set(labels):
        hits = sum(own == found == label for own, found in pairs)
        f1.append(2 * hits / (labels.count(label) + predicted.count(label)))
    unused = np.zeros(len(labels))
    return notes_of_test(
        "dtd",
        [f"class {label}" for label in range(max(names, *labels, *predicted) + 1)],
        Predictions(np.array(labels, np.int32), np.array(predicted, np.int32), unused, unused, unused),
        accuracy_pct=100 * sum(own == found for own, found in pairs) / len(pairs),
        macro_f1_pct=100 * sum(f1) / len(f1),
    )


def balanced(classes: int, images: int = 20) -> list[int]:
    return [label for label in range(classes) for _ in range(images)]


def test_all_images_in_one_class_is_a_collapse() -> None:
    for classes in (2, 3, 10):
        labels = balanced(classes)
        (note,) = notes(labels, [1] * len(labels))
        assert note == f"all {len(labels)} test images of dtd were taken for 'class 1'"
        assert codes_in([note]) == ("collapse",)


@pytest.mark.parametrize(("kept", "shows"), [(2, True), (3, True), (4, True), (5, False), (12, False)])
def test_predictions_of_at_most_a_third_of_the_classes_are_a_collapse(kept: int, shows: bool) -> None:
    """Of 12 classes those that are kept are right, all others are taken for them; 4 lie on both thresholds."""
    labels = balanced(12)
    predicted = [label if label < kept else label % kept for label in labels]
    found = notes(labels, predicted)
    assert bool(found) == shows
    if shows:
        assert f"90 % of the 240 test images of dtd were taken for {kept} of 12 classes" in found[0]
        assert codes_in(found) == ("collapse",)


def test_few_predicted_classes_alone_are_none_where_the_scores_are_alike() -> None:
    """One class has nearly all images that are predicted, and macro-F1 holds on small classes that are all right."""
    labels = balanced(4, 3)
    assert not notes(labels, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    assert not notes(labels, [0] * 11 + [3])


def test_honest_predictions_of_two_classes_are_none() -> None:
    labels = balanced(2)
    for wrong in range(0, 19):
        predicted = [1] * wrong + [0] * (20 - wrong) + [1] * 20
        assert not notes(labels, predicted), wrong


def test_very_unequal_lists_are_none() -> None:
    majority = [0] * 95 + [1] * 5
    assert not notes(majority, [0] * 100)
    long_tail = [0] * 300 + [label for label in range(1, 31) for _ in range(3)]
    assert not notes(long_tail, [0] * 340 + list(range(1, 51)))
    large, small = [label for label in range(4) for _ in range(30)], [label for label in range(4, 12) for _ in range(5)]
    assert not notes(large + small, large + [label % 4 for label in small]), "macro-F1 alone is far below"
    slightly = [0] * 60 + [1] * 40
    assert notes(slightly, [0] * 100), "but 3 : 2 is not that unequal"


def test_a_handful_of_images_says_nothing() -> None:
    assert not notes([0, 1, 2] * 3, [0] * 9)
    assert notes([0, 1] * 5, [0] * 10)


def test_images_of_a_single_class_are_told_whatever_is_predicted() -> None:
    for predicted in ([2] * 4, [0, 1, 2, 3]):
        (note,) = notes([2] * 4, predicted, names=3)
        assert note.startswith("the 4 test images of dtd are of a single class, 'class 2' of 4: ")
        assert codes_in([note]) == ("few_classes",)


def test_a_loss_of_guessing_is_told() -> None:
    config, guessing = training_of(make_config()), math.log(24)
    assert learnt_nothing(config, first=1.5, last=0.98 * guessing, num_classes=24) == ()
    (note,) = learnt_nothing(config, first=1.5, last=0.981 * guessing, num_classes=24)
    assert note.startswith("clipfit on dtd, seed 3, learnt nothing: the cross-entropy of the last epoch is 3.12, that")
    assert codes_in([note]) == ("learnt_nothing",)


def test_what_fell_by_a_tenth_is_no_sign_though_it_is_above_guessing() -> None:
    config = training_of(make_config())
    assert learnt_nothing(config, first=5.0, last=4.5, num_classes=24) == ()
    assert learnt_nothing(config, first=5.0, last=4.51, num_classes=24)


def test_other_notes_are_no_signs() -> None:
    assert codes_in(["3 classes of dtd have fewer than 16 training images", "", "all of theirs are used"]) == ()
    assert codes_in(["all 12 test images of dtd were taken for 'a\nb'"] * 2) == ("collapse",)


def example(subset: str, accuracy: float, run: Run = RUN, **changes: Any) -> Test:
    return make_test(run, subset=subset, accuracy_pct=accuracy, **changes)


@pytest.mark.parametrize(
    ("subset", "accuracy", "images", "code"),
    [
        ("new", 58.9, 100_000, "new_below_zero_shot"),
        ("new", 59.1, 100_000, None),  # less than a point
        ("new", 58.9, 864, None),  # within the standard error, 1.67 points
        ("new", 58.2, 864, "new_below_zero_shot"),
        ("new", 65.0, 864, None),
        ("base", 65.0, 864, None),
        ("base", 61.1, 864, None),  # a point ahead
        ("base", 60.9, 864, "no_gain"),
        ("base", 60.0, 864, "no_gain"),
        ("base", 40.0, 864, "no_gain"),
        ("base", 60.2, 100_000, None),  # beyond the standard error, 0.15 points
        ("base", 60.1, 100_000, "no_gain"),
        ("all", 40.0, 864, None),  # both halves: neither trained nor new
    ],
)
def test_an_accuracy_beside_zero_shots(subset: str, accuracy: float, images: int, code: str | None) -> None:
    test = example(subset, accuracy, num_images=images)
    zero_shot = example(subset, 60.0, AS_IT_IS, num_images=images)
    assert beside_zero_shot(RUN, test, test.accuracy_pct, zero_shot) == code
    assert beside_zero_shot(AS_IT_IS, test, test.accuracy_pct, zero_shot) is None, "it is no training"


@pytest.mark.parametrize(("zero_shot", "accuracy", "code"), [(0, 0, "no_gain"), (100, 100, None), (100, 99, "no_gain")])
def test_the_ends_of_the_scale(zero_shot: float, accuracy: float, code: str | None) -> None:
    other = example("base", zero_shot, AS_IT_IS, num_images=12)
    assert beside_zero_shot(RUN, example("base", accuracy, num_images=12), accuracy, other) == code


def test_another_data_set_is_new_and_one_by_another_name_is_not() -> None:
    other = {"dataset": "eurosat", "split_sha256": "e" * 64}
    test, zero_shot = (example("all", 50.0 + gain, run, **other) for gain, run in ((0.0, RUN), (9.0, AS_IT_IS)))
    assert beside_zero_shot(RUN, test, test.accuracy_pct, zero_shot) == "new_below_zero_shot"
    copy = example("base", 50.0, dataset="a copy", split_sha256=RUN.split_sha256)
    assert beside_zero_shot(RUN, copy, 50.0, example("base", 60.0, AS_IT_IS)) == "no_gain"
    scored = replace(RUN, split_sha256="", scored_adapter=True)
    unknown = replace(copy, split_sha256="")
    assert beside_zero_shot(scored, unknown, 50.0, example("base", 60.0)) == "new_below_zero_shot"


def test_zero_shot_is_that_on_the_same_images_in_the_same_precision() -> None:
    test, alike = example("new", 50.0), example("new", 60.0, AS_IT_IS)
    others = [
        example("base", 60.0, AS_IT_IS),
        replace(alike, split_sha256="0" * 64),
        replace(alike, images_sha256="0" * 64),
        replace(alike, precision="bf16"),
        replace(alike, transform="jpeg"),
        replace(alike, numbers_version=alike.numbers_version - 1),
    ]
    assert zero_shot_of(test, others) is None
    assert zero_shot_of(test, [*others, alike]) == alike
    other_prompts = replace(alike, templates=("{}",), key="0" * 64)
    assert zero_shot_of(test, [other_prompts, alike]) == alike and zero_shot_of(test, [other_prompts]) == other_prompts


def test_sentences_have_the_numbers_and_what_to_try() -> None:
    zero_shot = [example("base", 55.5, AS_IT_IS), example("new", 60.25, AS_IT_IS)]
    assert signatures_of(RUN, [example("base", 50.0), example("new", 41.125)], zero_shot) == (
        f"no gain over zero-shot: 50.00 % on dtd (base classes), zero-shot has 55.50; {MEANINGS['no_gain'][1]}",
        "new classes below zero-shot: 41.12 % on dtd (new classes), zero-shot has 60.25; "
        + MEANINGS["new_below_zero_shot"][1],
    )
    assert signatures_of(RUN, [example("base", 50.0), example("new", 41.125)], []) == ()
    assert signatures_of(AS_IT_IS, zero_shot, zero_shot) == ()
    points = [replace(example("new", 41.125), interpolation=alpha) for alpha in (0.0, 0.5)]
    assert signatures_of(RUN, points, zero_shot) == (), "points along alpha show no signs of the training"
