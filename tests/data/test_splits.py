"""The few-shot draw and the base/new halves, against lists that the reference drew."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from clipfit_cli.config import Subset
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.splits import (
    by_class,
    check_classes,
    check_lists,
    class_subset,
    few_shot,
    has_validation_list,
    names_problem,
    selection_images,
    selection_note,
    short_classes,
)
from clipfit_cli.errors import ConfigError, DataError, SelectionError, UnknownNameError
from tests.data.trees import golden, in_memory, rows_of, toy

DRAWS: dict[str, Any] = golden("fewshot_regular10x30.json")["lists"]
HALVES: dict[str, Any] = golden("base2new_regular10x30.json")["subsets"]


@pytest.fixture(scope="module")
def regular() -> DataSet:
    split = golden("split_regular10x30.json")
    names = tuple(dict.fromkeys(name for _, _, name in split["train"]))
    rows = {key: [(path, label) for path, label, _ in split[key]] for key in ("train", "val", "test")}
    return in_memory("regular", names, rows)


def test_golden_covers_every_draw() -> None:
    drawn = {name for name in DRAWS if name.startswith("shots")}
    assert drawn == {f"shots{shots}_seed{seed}" for shots in (1, 2, 4, 8, 16) for seed in (1, 2, 3)}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_draw_equals_the_reference(regular: DataSet, shots: int, seed: int) -> None:
    expected = DRAWS[f"shots{shots}_seed{seed}"]
    drawn = few_shot(regular, shots=shots, seed=seed)
    assert rows_of(drawn, drawn.train) == expected["train"]
    assert rows_of(drawn, drawn.val) == expected["val"]
    assert list(drawn.class_names) == expected["classnames"]
    assert drawn.test == regular.test
    assert drawn.split_sha256 == regular.split_sha256


@pytest.mark.parametrize("key", sorted(HALVES))
def test_halves_equal_the_reference(regular: DataSet, key: str) -> None:
    shots, seed, subset = (part.removeprefix("shots").removeprefix("seed") for part in key.split("_"))
    half = class_subset(few_shot(regular, shots=int(shots), seed=int(seed)), subset)  # type: ignore[arg-type]
    for split in ("train", "val", "test"):
        assert rows_of(half, getattr(half, split)) == HALVES[key][split]
    assert list(half.class_names) == HALVES[key]["classnames"]


def test_no_shots_draws_nothing(regular: DataSet) -> None:
    assert few_shot(regular, shots=None, seed=1) is regular


def test_draw_leaves_the_global_stream_alone(regular: DataSet) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    few_shot(regular, shots=4, seed=1)
    assert random.random() == expected


def test_classes_are_drawn_in_order_of_first_appearance() -> None:
    rows = [(f"b{k}", 1) for k in range(5)] + [(f"a{k}", 0) for k in range(5)]
    rng = random.Random(7)
    expected = rng.sample([f"b{k}" for k in range(5)], 2) + rng.sample([f"a{k}" for k in range(5)], 2)
    drawn = few_shot(toy(rows, num_classes=2), shots=2, seed=7)
    assert [item.path for item in drawn.train] == expected


def test_exactly_enough_images_are_permuted_and_too_few_are_kept_in_order() -> None:
    rows = [("a0", 0), ("a1", 0), ("b0", 1), ("b1", 1), ("b2", 1), ("c0", 2), ("c1", 2), ("c2", 2), ("c3", 2)]
    rng = random.Random(3)
    exact = rng.sample(["b0", "b1", "b2"], 3)
    more = rng.sample(["c0", "c1", "c2", "c3"], 3)
    drawn = few_shot(toy(rows, num_classes=3), shots=3, seed=3)
    assert [item.path for item in drawn.train] == ["a0", "a1", *exact, *more]


def test_validation_follows_training_in_one_stream() -> None:
    train = [(f"a{k}", 0) for k in range(9)]
    val = [(f"v{k}", 0) for k in range(9)]
    rng = random.Random(1)
    rng.sample(train, 8)
    expected = [path for path, _ in rng.sample(val, 4)]
    drawn = few_shot(toy(train, val, num_classes=1), shots=8, seed=1)
    assert [item.path for item in drawn.val] == expected


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_more_validation_images_move_no_training_image(regular: DataSet, shots: int) -> None:
    published = few_shot(regular, shots=shots, seed=2)
    for val_shots in (1, 3, 5, 16):
        drawn = few_shot(regular, shots=shots, seed=2, val_shots=val_shots)
        assert drawn.train == published.train and drawn.test == published.test
        counts = {label: len(group) for label, group in by_class(drawn.val).items()}
        assert set(counts.values()) == {min(val_shots, 10)} and len(counts) == 10, "a class has ten of them"
        assert (drawn.val == published.val) == (val_shots == min(shots, 4))


def test_validation_that_is_the_test_list_stays_whole() -> None:
    train = [(f"a{k}", 0) for k in range(9)]
    test = [(f"v{k}", 0) for k in range(9)]
    drawn = few_shot(toy(train, test, test, num_classes=1, samples_val=False), shots=2, seed=1)
    assert len(drawn.train) == 2
    assert drawn.val == drawn.test and len(drawn.val) == 9


def test_test_only_sets_are_not_drawn_from() -> None:
    rows = [(f"a{k}", 0) for k in range(9)]
    dataset = toy(rows, (), rows, num_classes=1, train_is_sampled=False)
    assert few_shot(dataset, shots=2, seed=1) is dataset
    assert short_classes(dataset, 16) == ()


@pytest.mark.parametrize("shots", [0, -1])
def test_shots_below_one_are_refused(shots: int) -> None:
    with pytest.raises(ConfigError, match="shots must be at least 1"):
        few_shot(toy([("a", 0)], num_classes=1), shots=shots, seed=1)


def test_short_classes_are_counted() -> None:
    dataset = toy([("b", 1), ("a", 0), ("a2", 0), ("c", 2)], num_classes=3)
    assert short_classes(dataset, 2) == (("c1", 1), ("c2", 1))
    assert short_classes(dataset, 1) == ()
    assert short_classes(dataset, None) == ()


@pytest.mark.parametrize(("classes", "base"), [(4, 2), (10, 5), (11, 6)])
def test_base_takes_the_odd_class(classes: int, base: int) -> None:
    rows = [(f"i{label}", label) for label in reversed(range(classes))]
    dataset = toy(rows, rows, rows, num_classes=classes)
    assert class_subset(dataset, "base").class_names == tuple(f"c{k}" for k in range(base))
    new = class_subset(dataset, "new")
    assert new.class_names == tuple(f"c{k}" for k in range(base, classes))
    assert [item.label for item in new.test] == list(reversed(range(classes - base)))
    assert [item.path for item in new.test] == [f"i{k}" for k in reversed(range(base, classes))]
    assert new.num_classes == classes - base


def test_all_classes_are_the_data_set_itself(regular: DataSet) -> None:
    assert class_subset(regular, "all") is regular


def test_unknown_subset_is_refused(regular: DataSet) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown subset 'bass'.*'base'"):
        class_subset(regular, "bass")  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "subset", "left"), [(1, "new", 0), (2, "base", 1), (2, "new", 1), (3, "new", 1)])
def test_one_class_is_no_half(classes: int, subset: Subset, left: int) -> None:
    rows = [(f"i{label}", label) for label in range(classes)]
    dataset = toy(rows, rows, rows, num_classes=classes)
    with pytest.raises(
        DataError, match=f"the {subset} half .* would have {left} of its {classes} classes.*four classes"
    ):
        class_subset(dataset, subset)


def test_three_classes_have_a_base_half() -> None:
    rows = [(f"i{label}", label) for label in range(3)]
    assert class_subset(toy(rows, test=rows, num_classes=3), "base").class_names == ("c0", "c1")


def test_half_without_test_images_is_refused() -> None:
    dataset = toy([("a", 0), ("b", 1), ("c", 2), ("d", 3)], test=[("t", 0)], num_classes=4)
    with pytest.raises(DataError, match="no test image of its new classes"):
        class_subset(dataset, "new")


def test_class_without_training_image_is_named() -> None:
    dataset = toy([("a", 0), ("c", 2)], test=[("t", 1)], num_classes=3)
    with pytest.raises(DataError, match=r"class 'c1' \(label 1\) has no training image\."):
        check_classes(dataset)
    with pytest.raises(DataError, match=r"class 'c1' .* \(nor have 1 more classes\)"):
        few_shot(toy([("a", 0)], num_classes=3), shots=1, seed=1)


def test_label_without_name_is_refused() -> None:
    with pytest.raises(DataError, match="has 1 classes, but an item has label 4"):
        check_classes(toy([("a", 0)], [("v", 4)], num_classes=1))


@pytest.mark.parametrize(("train", "test", "word"), [([], [("t", 0)], "training"), ([("a", 0)], [], "test")])
def test_empty_lists_are_refused(train: list[tuple[str, int]], test: list[tuple[str, int]], word: str) -> None:
    with pytest.raises(DataError, match=f"lists no {word} image"):
        check_classes(toy(train, test=test, num_classes=1))


Rows = list[tuple[str, int]]


@pytest.mark.parametrize(
    ("train", "val", "test", "complaint"),
    [
        (
            [("a", 0), ("b", 1), ("a", 0)],
            [],
            [("t", 0)],
            "a more than once, in train as 'c0' and in train as 'c0'",
        ),
        (
            [("a", 0), ("b", 1)],
            [],
            [("t", 0), ("a", 0)],
            "a more than once, in train as 'c0' and in test as 'c0'",
        ),
        ([("a", 0), ("b", 1)], [("b", 1)], [("t", 0)], "b more than once, in train as 'c1' and in val as 'c1'"),
        ([("a", 0), ("b", 1)], [("v", 0)], [("v", 1)], "v more than once, in val as 'c0' and in test as 'c1'"),
        ([("a", 0), ("a", 1)], [], [("t", 0)], "a more than once, in train as 'c0' and in train as 'c1'"),
    ],
)
def test_an_image_is_listed_once(train: Rows, val: Rows, test: Rows, complaint: str) -> None:
    with pytest.raises(DataError, match=f"data set 'toy' lists the image {complaint}; expected each image once"):
        check_lists(toy(train, val, test, num_classes=2))


def test_lists_that_repeat_another_by_design_are_no_doubles() -> None:
    train, test = [("a", 0), ("b", 1)], [("s", 0), ("t", 1)]
    check_lists(toy(train, [("v", 0)], test, num_classes=2))
    check_lists(toy(train, test, test, num_classes=2, samples_val=False))
    check_lists(toy(test, (), test, num_classes=2, train_is_sampled=False))


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("ant", ""), "a class has no name"),
        (("ant", " _ "), "a class has no name"),
        (("ant", "a\0t"), "one with a NUL in it"),
        (("red ant", "Red_ant"), "the classes 'red ant' and 'Red_ant' make the same prompt"),
        (("ant", "ant"), "the classes 'ant' and 'ant' make the same prompt"),
        (("ant",), "single class, 'ant'; expected two or more"),
    ],
)
def test_classes_can_be_told_apart(names: tuple[str, ...], complaint: str) -> None:
    train = [(f"i{label}", label) for label in range(len(names))]
    with pytest.raises(DataError, match=complaint):
        check_lists(in_memory("set", names, {"train": train, "val": [], "test": [("t", 0)]}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("dog's bed", "dog\u2019s bed"),
        ("a&b", "a&amp;b"),
        ("a&b", "a&amp;amp;b"),
        ("fish", "\ufb01sh"),
        ("cat", "\uff43\uff41\uff54"),
        ("cat", "\ufeffcat"),
    ],
)
def test_names_that_a_tokenizer_cleans_to_one_make_the_same_prompt(one: str, other: str) -> None:
    from open_clip import get_tokenizer

    tokens = get_tokenizer("ViT-B-32")([f"a photo of a {name}." for name in (one, other)])
    assert tokens[0].equal(tokens[1]), "to the model they are one"
    assert names_problem((one, "elm", other)) == f"the classes {one!r} and {other!r} make the same prompt"


def test_names_that_a_published_list_repeats() -> None:
    assert names_problem(("missile", "Missile", "bow"), ("missile",)) == ""
    assert "'bow' and 'bow'" in names_problem(("missile", "missile", "bow", "bow"), ("missile",))


def selected(dataset: DataSet, *, shots: int | None, seed: int = 1, val_shots: int | None = None) -> tuple[Item, ...]:
    drawn = few_shot(dataset, shots=shots, seed=seed, val_shots=val_shots)
    return selection_images(dataset, drawn, shots=shots, seed=seed, val_shots=val_shots)


def test_what_is_selected_on_are_the_validation_images_of_the_draw(regular: DataSet) -> None:
    for shots, val_shots in ((2, None), (16, None), (16, 8)):
        assert selected(regular, shots=shots, val_shots=val_shots) == (
            few_shot(regular, shots=shots, seed=1, val_shots=val_shots).val
        )
    assert selected(regular, shots=None) == regular.val
    some = few_shot(regular, shots=None, seed=1, val_shots=3)
    assert some.train == regular.train and set(some.val) < set(regular.val)
    assert {len(group) for group in by_class(some.val).values()} == {3}
    assert selected(regular, shots=None, val_shots=3) == some.val


def like_imagenet(images: int) -> DataSet:
    """Return a data set of two classes whose validation list is its test list."""
    train = [(f"{label}-{k}", label) for label in range(2) for k in range(images)]
    test = [(f"test-{label}-{k}", label) for label in range(2) for k in range(9)]
    return toy(train, test, test, num_classes=2, samples_val=False)


@pytest.mark.parametrize(
    ("shots", "val_shots", "count"), [(1, None, 1), (16, None, 4), (16, 7, 7), (2, 4, 4), (16, 99, 34)]
)
def test_without_a_validation_list_further_training_images_are_selected_on(
    shots: int, val_shots: int | None, count: int
) -> None:
    dataset = like_imagenet(50)
    for seed in (1, 2):
        drawn = few_shot(dataset, shots=shots, seed=seed, val_shots=val_shots)
        found = selected(dataset, shots=shots, seed=seed, val_shots=val_shots)
        assert [len(by_class(found)[label]) for label in range(2)] == [count] * 2 and len(set(found)) == 2 * count
        assert set(found) <= set(dataset.train) - set(drawn.train), "none is tested on, none is trained on"
    drawn = few_shot(dataset, shots=16, seed=1)
    one, again, other = (selection_images(dataset, drawn, shots=16, seed=seed, val_shots=None) for seed in (1, 1, 2))
    assert one == again != other
    random.seed(5)
    state = random.getstate()
    selected(dataset, shots=16)
    assert random.getstate() == state


def test_a_data_set_without_validation_images_draws_as_one_whose_validation_list_is_its_test_list() -> None:
    other = like_imagenet(50)
    mine = replace(other, val=(), samples_val=True)
    for shots in (1, 16):
        found = selected(mine, shots=shots)
        assert found == selected(other, shots=shots)
        assert set(found) <= set(mine.train) - set(few_shot(mine, shots=shots, seed=1).train)


def noted(dataset: DataSet, *, shots: int | None) -> str:
    drawn = replace(few_shot(dataset, shots=shots, seed=1), val=selected(dataset, shots=shots))
    return selection_note(drawn, is_listed=has_validation_list(dataset))


@pytest.mark.parametrize(("images", "shots"), [(16, 16), (50, None)])
def test_without_a_further_image_nothing_can_be_selected(images: int, shots: int | None) -> None:
    left = r"'toy' has no image left to select on of the class 'c0' \(nor of 1 more\): all its training images"
    with pytest.raises(SelectionError, match=left):
        noted(like_imagenet(images), shots=shots)
    with pytest.raises(SelectionError, match=left):
        noted(toy([("a", 0), ("b", 1)], num_classes=2), shots=1)


def test_classes_with_fewer_images_give_what_they_have_left() -> None:
    some = toy([*((f"a{k}", 0) for k in range(9)), ("b0", 1), ("b1", 1), ("b2", 1)], num_classes=2)
    assert [len(group) for group in by_class(selected(some, shots=2)).values()] == [2, 1]
    line = "toy has no validation list, so 3 of its training images that are not trained on are selected on"
    assert noted(some, shots=2) == f"{line}, 1 to 2 a class"
    with pytest.raises(SelectionError, match="of the class 'c1': all its training images are trained on"):
        noted(some, shots=3)
    listed = replace(some, val=(Item("v", 0),))
    assert noted(listed, shots=3) == "toy: no validation image is of the class 'c1'"
    assert noted(replace(some, val=(Item("v", 0), Item("w", 1))), shots=3) == ""
    with pytest.raises(SelectionError, match="of the class 'c0'.*: the validation list has none"):
        selection_note(replace(listed, val=()), is_listed=True)
