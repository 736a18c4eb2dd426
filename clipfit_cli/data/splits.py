"""Which images a run uses: the few-shot draw and the base/new halves of the classes."""

from __future__ import annotations

import html
import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from clipfit_cli.config import SUBSETS, Subset
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.errors import ConfigError, DataError, SelectionError, UnknownNameError, check_known

VAL_SHOTS_AT_MOST = 4
"""Validation images per class: `min(shots, 4)`."""


def check_classes(dataset: DataSet) -> None:
    """Check that every class can be trained: each has a training image, and a name.

    Raises:
        DataError: A list is empty, a class has no training image, or an item's label has no class name.
    """
    if not dataset.train or not dataset.test:
        raise DataError(f"data set {dataset.name!r} lists no {'training' if not dataset.train else 'test'} image")
    in_train, known = {item.label for item in dataset.train}, range(dataset.num_classes)
    if beyond := {*in_train, *(item.label for item in (*dataset.val, *dataset.test))}.difference(known):
        raise DataError(f"data set {dataset.name!r} has {len(known)} classes, but an item has label {min(beyond)}")
    if without := [label for label in known if label not in in_train]:
        more = f" (nor have {len(without) - 1} more classes)" if len(without) > 1 else ""
        raise DataError(
            f"data set {dataset.name!r}: class {dataset.class_names[without[0]]!r} (label {without[0]}) has no "
            f"training image{more}. Every class needs at least one; complete the training list."
        )


def check_lists(dataset: DataSet, same_names: Collection[str] = ()) -> None:
    """Check the lists of a whole data set: classes that can be told apart, and each image once.

    Lists that repeat another by design (validation of ImageNet, training of a test-only set) do not count.

    Args:
        dataset: As a reader made it.
        same_names: Class names that the published list is known to give to more than one class.

    Raises:
        DataError: See `check_classes`; or there is a single class, one has no name, two make the same prompt, or an
            image is listed more than once.
    """
    if dataset.num_classes == 1:
        raise DataError(
            f"data set {dataset.name!r} has a single class, {dataset.class_names[0]!r}; expected two or more"
        )
    check_classes(dataset)
    if problem := names_problem(dataset.class_names, same_names):
        raise DataError(f"data set {dataset.name!r}: {problem}")
    lists = {
        "train": dataset.train if dataset.train_is_sampled else (),
        "val": dataset.val if dataset.samples_val else (),
        "test": dataset.test,
    }
    listed: dict[str, Item] = {}
    for item in (item for items in lists.values() for item in items):
        if listed.setdefault(item.path, item) is not item:
            places = [
                f"in {split} as {dataset.class_names[other.label]!r}"
                for split, items in lists.items()
                for other in items
                if other.path == item.path
            ]
            raise DataError(
                f"data set {dataset.name!r} lists the image {item.path} more than once, {' and '.join(places[:3])}; "
                "expected each image once"
            )


def names_problem(class_names: Sequence[str], same_names: Collection[str] = ()) -> str:
    """Return what keeps classes from being told apart in a prompt; empty where nothing does.

    Args:
        class_names: As shown to people.
        same_names: Names that more than one class may have, in lower case.
    """
    import ftfy  # 0.05 s

    seen: dict[str, str] = {}
    for name in class_names:
        # as open_clip's tokenizer cleans text, which takes accents, quotes, ligatures and wide letters for one another
        text = html.unescape(html.unescape(ftfy.fix_text(name.replace("_", " "))))
        words = " ".join(text.lower().split())
        if not words or "\0" in name:
            return f"a class has no name, or one with a NUL in it: {name!r}"
        if words in seen and words not in same_names:
            return f"the classes {seen[words]!r} and {name!r} make the same prompt"
        seen[words] = name
    return ""


def renamed(names: Sequence[str], given: Mapping[str, str], *, where: str) -> tuple[str, ...]:
    """Return the names that classes are given, in their order.

    Args:
        names: Of the classes.
        given: Name of a class -> its other name.
        where: Whose classes they are, in words.

    Raises:
        UnknownNameError: A name is given to a class that there is not.
        ConfigError: None is given to one that there is.
    """
    if strange := [name for name in given if name not in names]:
        raise UnknownNameError(f"class of {where}", strange[0], names)
    if lacking := [name for name in names if name not in given]:
        few = f" and {len(lacking) - 1} more, classes of" if len(lacking) > 1 else ", a class of"
        raise ConfigError(
            f"no class name was given for {lacking[0]!r}{few} {where}; "
            "an object has every class, what keeps its name as well"
        )
    return tuple(given[name] for name in names)


def few_shot(dataset: DataSet, *, shots: int | None, seed: int, val_shots: int | None = None) -> DataSet:
    """Return the data set with `shots` training images per class, drawn by `seed`.

    The draw is the published one: one random stream, the training list first, then `min(shots, 4)` validation
    images per class; classes in order of first appearance; a class with fewer images keeps all of them, in
    order, and draws nothing. The test list stays whole. Lists that are never sampled (validation of ImageNet,
    everything of a test-only set) stay whole too.

    Args:
        dataset: Whole, as a reader returns it.
        shots: Images per class, at least 1; None = all images, no draw.
        seed: Of the draw.
        val_shots: Validation images per class; None = the published `min(shots, 4)`, or all where there is no draw.
            Training images stay the same.

    Raises:
        ConfigError: `shots` is below 1.
        DataError: See `check_classes`.

    Source: Dassl.pytorch c61a1b57, `generate_fewshot_dataset`; CoOp ff61507c, the data set classes.
    """
    if shots is not None and shots < 1:
        raise ConfigError(f"shots must be at least 1, got {shots}")
    check_classes(dataset)
    if not dataset.train_is_sampled or (shots is None and val_shots is None):
        return dataset
    rng = random.Random(seed)
    train = dataset.train if shots is None else _draw(dataset.train, shots, rng)
    count = val_shots or min(shots or VAL_SHOTS_AT_MOST, VAL_SHOTS_AT_MOST)
    return replace(dataset, train=train, val=_draw(dataset.val, count, rng) if dataset.samples_val else dataset.val)


def selection_images(
    dataset: DataSet, drawn: DataSet, *, shots: int | None, seed: int, val_shots: int | None
) -> tuple[Item, ...]:
    """Return the images that a method may select on: never one that is trained or tested on.

    They are the draw's validation images. Where a data set has none (a user's own), or none but its test list
    (ImageNet), they are further training images, as many of each class, or as many as a class has left.

    Args:
        dataset: Whole.
        drawn: The draw of it.
        shots, seed, val_shots: Of the draw.

    Source: for further training images LP++ f81054f9.
    """
    if has_validation_list(dataset):
        return drawn.val
    taken = {item.path for item in drawn.train}
    left = [item for item in dataset.train if item.path not in taken]
    count = val_shots or min(shots or VAL_SHOTS_AT_MOST, VAL_SHOTS_AT_MOST)
    return _draw(left, count, random.Random(f"validation {seed}"))


def has_validation_list(dataset: DataSet) -> bool:
    """Return whether a data set has validation images that are neither training nor test images."""
    return dataset.samples_val and bool(dataset.val)


def selection_note(drawn: DataSet, *, is_listed: bool) -> str:
    """Return what a reader should know of the images that a method selects on; empty where that is nothing.

    Args:
        drawn: A draw, cut to its class group, with such images for its validation list.
        is_listed: Whether they are of a validation list, and no further training images.

    Raises:
        SelectionError: There are none; or they are further training images, and a class has none left.
    """
    counts = Counter(item.label for item in drawn.val)
    without = [name for label, name in enumerate(drawn.class_names) if label not in counts]
    more = f" (nor of {len(without) - 1} more)" if len(without) > 1 else ""
    if without and not (is_listed and counts):
        why = "the validation list has none" if is_listed else "all its training images are trained on"
        raise SelectionError(
            f"data set {drawn.name!r} has no image left to select on of the class {without[0]!r}{more}: {why}"
        )
    if is_listed:
        return f"{drawn.name}: no validation image is of the class {without[0]!r}{more}" if without else ""
    fewest, most = min(counts.values()), max(counts.values())
    return (
        f"{drawn.name} has no validation list, so {len(drawn.val)} of its training images that are not trained on are "
        f"selected on, {fewest}{'' if fewest == most else f' to {most}'} a class"
    )


def _draw(items: Sequence[Item], shots: int, rng: random.Random) -> tuple[Item, ...]:
    """Return at most `shots` items of each class, in the order of the draw."""
    # A class with exactly `shots` items is drawn as well: that permutes it and moves the stream on.
    drawn = (rng.sample(group, shots) if len(group) >= shots else group for group in by_class(items).values())
    return tuple(itertools.chain.from_iterable(drawn))


def by_class(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Return label -> items in order; labels in order of first appearance."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def short_classes(dataset: DataSet, shots: int | None) -> tuple[tuple[str, int], ...]:
    """Return (class name, training images) of the classes that have fewer than `shots`, in label order."""
    if shots is None or not dataset.train_is_sampled:
        return ()
    groups = sorted(by_class(dataset.train).items())
    return tuple((dataset.class_names[label], len(group)) for label, group in groups if len(group) < shots)


def class_subset(dataset: DataSet, subset: Subset) -> DataSet:
    """Return the data set cut down to one half of its classes, renumbered from 0.

    Base is the first ceil(n/2) of the sorted labels of the training list, new is the rest. Items keep their
    order. It is applied after the few-shot draw.

    Args:
        dataset: A whole data set or a few-shot draw of it.
        subset: ``all`` (unchanged), ``base`` or ``new``.

    Raises:
        UnknownNameError: `subset` is none of the three.
        DataError: The half has fewer than two classes, or no test image.

    Source: CoOp ff61507c, `OxfordPets.subsample_classes`.
    """
    check_known("subset", subset, SUBSETS)
    if subset == "all":
        return dataset
    labels = sorted({item.label for item in dataset.train})
    base = (len(labels) + 1) // 2
    kept = labels[:base] if subset == "base" else labels[base:]
    if len(kept) < 2:
        raise DataError(
            f"the {subset} half of data set {dataset.name!r} would have {len(kept)} of its {len(labels)} classes, and "
            "one class alone has no accuracy; base and new halves need four classes or more"
        )
    new_label = {old: new for new, old in enumerate(kept)}
    train, val, test = (
        tuple(Item(item.path, new_label[item.label]) for item in items if item.label in new_label)
        for items in (dataset.train, dataset.val, dataset.test)
    )
    if not test:
        raise DataError(f"data set {dataset.name!r} lists no test image of its {subset} classes")
    return replace(
        dataset,
        class_names=tuple(dataset.class_names[label] for label in kept),
        train=train,
        val=val,
        test=test,
    )
