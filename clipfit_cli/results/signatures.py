"""Signs that a run went wrong, in sentences with numbers and what to try, and the short code of each.

What one run or test tells by itself (`learnt_nothing`, `collapse`, `few_classes`) is among its notes from the start.
What takes zero-shot's numbers (`new_below_zero_shot`, `no_gain`) is never stored, so that records do not depend on what
was run before: it is found anew whenever runs are shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from clipfit_cli.config import TrainingConfig
from clipfit_cli.results.reader import is_of_its_data
from clipfit_cli.results.record import Run, Test

if TYPE_CHECKING:
    from clipfit_cli.results.predictions import Predictions

Code = Literal["learnt_nothing", "collapse", "few_classes", "new_below_zero_shot", "no_gain"]
MEANINGS: dict[Code, tuple[str, str]] = {
    "learnt_nothing": ("learnt nothing", "try another --lr or more --epochs"),
    "collapse": (
        "collapse onto few classes",
        "look at class names and prompts, or try a lower --lr; the notes of each run say more",
    ),
    "few_classes": ("tested on images of a single class", "its accuracy says nothing; add test images of the others"),
    "new_below_zero_shot": (
        "new classes below zero-shot",
        "try a lower --lr, fewer --epochs, or stronger distillation where the method has it",
    ),
    "no_gain": ("no gain over zero-shot", "try more --epochs or --shots, another --lr, or --tune"),
}
"""Code -> what it says, and what helps, in the order in which they are told."""

LEAST_POINTS = 1.0
"""By how much zero-shot has to be ahead on new classes at least."""

_GUESSING = 0.98
_FALLEN = 0.9
_FEW = 1 / 3
_FAR_BELOW = 0.5
_FEWEST_IMAGES, _FEWEST_CLASSES = 10, 1.5
_ROUNDING = 1 + 1e-9
_MOST_OF = 0.9
_NOTES: tuple[tuple[Code, re.Pattern[str]], ...] = (
    ("learnt_nothing", re.compile(r".*, learnt nothing: the cross-entropy of ", re.S)),
    ("collapse", re.compile(r"(all|90 % of the) \d+ test images of .* were taken for ", re.S)),
    ("few_classes", re.compile(r"the \d+ test images of .* are of a single class, ", re.S)),
)


def learnt_nothing(config: TrainingConfig, *, first: float, last: float, num_classes: int) -> tuple[str, ...]:
    """A note where a training's cross-entropy ends above 98 % of that of guessing, and has not fallen by a tenth.

    What begins far above guessing, as a model may whose temperature does not fit the images, has learnt something on
    its way down. A tenth is about what the few images of a small draw move it by themselves.

    Args:
        config: What was trained.
        first, last: Means over the first and the last epoch, in nats.
        num_classes: Of the training; guessing has their number's logarithm.
    """
    guessing = math.log(num_classes)
    if last <= _GUESSING * guessing or last <= _FALLEN * first:
        return ()
    return (
        f"{config.method} on {config.dataset}, seed {config.seed}, learnt nothing: the cross-entropy of the last epoch "
        f"is {last:.2f}, that of the first {first:.2f}, guessing has {guessing:.2f}; try another --lr",
    )


def notes_of_test(
    name: str, class_names: Sequence[str], predictions: Predictions, *, accuracy_pct: float, macro_f1_pct: float
) -> tuple[str, ...]:
    """Notes on what a test says by itself: the images of a single class, or nearly all taken for few classes.

    The number of classes among labels or predictions is the exponential of the entropy of their shares: 10 classes
    alike count as 10, and a list with nine tenths of one class as hardly more than one, however many the others are.
    It is a collapse where there are 10 images or more, and

    * all images were taken for one class, although the labels have at least 1.5 classes (two classes no more unequal
      than 6 : 1), or
    * the predictions have at most a third as many classes as the labels, and macro-F1 is at most half the accuracy.

    So honest predictions of two classes, or of a very unequal list, are none.

    Args:
        name: Of the data set and its class group.
        class_names: In label order.
        predictions: Of the test, one or more.
        accuracy_pct, macro_f1_pct: What they come to, 0 to 100.
    """
    import numpy as np

    labels, predicted = (np.bincount(column) for column in (predictions.label, predictions.predicted))
    total = len(predictions.label)
    if np.count_nonzero(labels) < 2:
        only = class_names[int(labels.argmax())]
        return (
            f"the {total} test images of {name} are of a single class, {only!r} of {len(class_names)}: their accuracy "
            "says nothing of how classes are told apart; add test images of the others",
        )
    own, found = (
        math.exp(-sum(share * math.log(share) for share in _shares(column))) for column in (labels, predicted)
    )
    if total < _FEWEST_IMAGES:
        return ()
    if np.count_nonzero(predicted) == 1:
        if own < _FEWEST_CLASSES:
            return ()
        return (f"all {total} test images of {name} were taken for {class_names[int(predicted.argmax())]!r}",)
    if found > _FEW * own * _ROUNDING or macro_f1_pct > _FAR_BELOW * accuracy_pct * _ROUNDING:
        return ()
    few = int((np.sort(predicted)[::-1].cumsum() < _MOST_OF * total).sum()) + 1
    return (
        f"90 % of the {total} test images of {name} were taken for {few} of {np.count_nonzero(labels)} classes; "
        f"macro-F1 is {macro_f1_pct:.2f} at an accuracy of {accuracy_pct:.2f} %",
    )


def codes_in(notes: Iterable[str]) -> tuple[Code, ...]:
    """The codes of the signs among the notes of a run or a test, each once."""
    notes = tuple(notes)
    return tuple(code for code, pattern in _NOTES if any(pattern.match(note) for note in notes))


def signatures_of(run: Run, tests: Iterable[Test], zero_shot_tests: Iterable[Test]) -> tuple[str, ...]:
    """The signs that a run shows beside zero-shot CLIP, a sentence each; its notes hold those that it shows alone.

    Args:
        run: A training; what trains nothing shows none.
        tests: Of it.
        zero_shot_tests: Tests of the same model as it is, of any data set; see `RunStore.tests_as_it_is`.
    """
    pool, found = tuple(zero_shot_tests), []
    for test in tests:
        other = zero_shot_of(test, pool)
        code = beside_zero_shot(run, test, test.accuracy_pct, other) if other else None
        if other and code:
            what, advice = MEANINGS[code]
            where = test.dataset if test.subset == "all" else f"{test.dataset} ({test.subset} classes)"
            found.append(
                f"{what}: {test.accuracy_pct:.2f} % on {where}, zero-shot has {other.accuracy_pct:.2f}; {advice}"
            )
    return tuple(found)


def beside_zero_shot(run: Run, test: Test, accuracy_pct: float, zero_shot: Test) -> Code | None:
    """The sign in an accuracy beside that of zero-shot CLIP on the same images, if it is one.

    * ``new_below_zero_shot``: on classes or data sets that were not trained on, below zero-shot by more than one point
      and more than the standard error of zero-shot's accuracy.
    * ``no_gain``: on what was trained on, above zero-shot by less than one point and less than that standard error,
      though short of 100 %.

    Shifted images and points along alpha show none: to lose there is no sign that a training went wrong.

    The standard error is that of a share p = (right + 1) / (images + 2), so that it is never 0.

    Args:
        run: What was trained.
        test: On what it was tested.
        accuracy_pct: What is compared: of this test, or the mean over the seeds of such tests.
        zero_shot: See `zero_shot_of`.
    """
    if is_as_it_is(run) or not test.is_plain:
        return None
    share = (zero_shot.accuracy_pct / 100 * zero_shot.num_images + 1) / (zero_shot.num_images + 2)
    error = 100 * math.sqrt(share * (1 - share) / max(1, zero_shot.num_images))
    gain = accuracy_pct - zero_shot.accuracy_pct
    config = run.config
    if is_of_trained(run, test):
        return "no_gain" if gain < min(LEAST_POINTS, error) and accuracy_pct < 100 else None
    is_new = not is_of_its_data(run, test) or {test.subset, config.subset} == {"base", "new"}
    return "new_below_zero_shot" if is_new and -gain > max(LEAST_POINTS, error) else None


def is_of_trained(run: Run, test: Test) -> bool:
    """Whether a test is of the data set and the classes that were trained on."""
    return is_of_its_data(run, test) and test.subset == run.config.subset


def zero_shot_of(test: Test, pool: Iterable[Test]) -> Test | None:
    """The test of the model as it is on the same images in the same precision, with the same prompts if there is one.

    Args:
        test: Of a training.
        pool: Tests of the same model as it is.
    """
    alike = [one for one in pool if _conditions(one) == _conditions(test)]
    return min(alike, key=lambda one: (one.templates != test.templates, one.key), default=None)


def is_as_it_is(run: Run) -> bool:
    """Whether the run is that of a model that nothing was trained of."""
    return run.config.shots == 0 and not run.config.stages and not run.scored_adapter


def _conditions(test: Test) -> tuple[object, ...]:
    done = test.transform, test.interpolation
    return test.subset, test.split_sha256, test.images_sha256, test.precision, *done, test.numbers_version


def _shares(counts: Iterable[int]) -> list[float]:
    """Return what shares counts have of their sum, without those of nothing."""
    counts = [int(count) for count in counts if count]
    total = sum(counts)
    return [count / total for count in counts]
