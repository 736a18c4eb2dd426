"""Which images every step takes: whole and partial batches, pools of views, batches of one class, one stream a seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from clipfit_cli.config import Recipe
from clipfit_cli.engine.batches import batch_size_of, epoch_batches, num_steps, plan_of, steps_per_epoch

TEN_CLASSES = [label for label in range(10) for _ in range(4)]


def epoch(recipe: Recipe, labels: list[int], seed: int = 1) -> list[tuple[list[int], list[int]]]:
    return list(epoch_batches(recipe, labels, torch.Generator().manual_seed(seed)))


def images_of(batches: list[tuple[list[int], list[int]]]) -> list[int]:
    return [index for indices, _ in batches for index in indices]


@pytest.mark.parametrize(("num_images", "sizes"), [(1, [1]), (7, [7]), (8, [8]), (9, [8]), (16, [8, 8]), (23, [8, 8])])
def test_partial_batches_are_dropped_unless_alone(num_images: int, sizes: list[int]) -> None:
    recipe, labels = Recipe(batch_size=8), [0] * num_images
    batches = epoch(recipe, labels)
    assert [len(indices) for indices, _ in batches] == [len(seeds) for _, seeds in batches] == sizes
    assert steps_per_epoch(recipe, labels) == len(sizes)
    used = images_of(batches)
    assert len(set(used)) == len(used) and set(used) <= set(range(num_images))


@pytest.mark.parametrize(("num_images", "sizes"), [(1, [1]), (7, [7]), (8, [8]), (9, [8, 1]), (23, [8, 8, 7])])
def test_partial_batches_are_kept_where_the_recipe_says_so(num_images: int, sizes: list[int]) -> None:
    recipe, labels = Recipe(batch_size=8, drop_last=False), [0] * num_images
    batches = epoch(recipe, labels)
    assert [len(indices) for indices, _ in batches] == sizes and steps_per_epoch(recipe, labels) == len(sizes)
    assert sorted(images_of(batches)) == list(range(num_images))


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_of_all_images_has_them_in_order(drop_last: bool) -> None:
    recipe = Recipe(batch_size=None, drop_last=drop_last)
    assert batch_size_of(recipe, 40) == 40 and steps_per_epoch(recipe, TEN_CLASSES) == 1
    ((indices, seeds),) = epoch(recipe, TEN_CLASSES)
    assert indices == list(range(40)) and len(set(seeds)) == 40


@pytest.mark.parametrize(("shots", "steps"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 5)])
def test_steps_of_ten_classes(shots: int, steps: int) -> None:
    assert steps_per_epoch(Recipe(), [label for label in range(10) for _ in range(shots)]) == steps


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        (Recipe(epochs=3, batch_size=8), 15),
        (Recipe(epochs=3, batch_size=9), 12),
        (Recipe(epochs=3, batch_size=9, drop_last=False), 15),
        (Recipe(epochs=3, batch_size=8, steps=7), 7),
        (Recipe(epochs=3, steps=0), 0),
    ],
)
def test_a_stage_has_epochs_or_steps(recipe: Recipe, steps: int) -> None:
    """Forty images; steps, where they are given, may end within an epoch and go on beyond the epochs."""
    assert num_steps(recipe, TEN_CLASSES) == steps == len(list(plan_of(recipe, TEN_CLASSES, seed=1)))


def test_steps_go_on_into_new_epochs() -> None:
    recipe = Recipe(steps=12, epochs=1, batch_size=8)
    plan = list(plan_of(recipe, TEN_CLASSES, seed=1))
    first, second, third = plan[:5], plan[5:10], plan[10:]
    assert sorted(images_of(first)) == sorted(images_of(second)) == list(range(40)) and len(third) == 2
    assert images_of(first) != images_of(second)
    assert plan == list(plan_of(Recipe(epochs=3, batch_size=8), TEN_CLASSES, seed=1))[:12]


def test_the_stream_of_a_seed_is_what_it_always_was() -> None:
    """Results of before are compared with results of now: neither order nor crops of a seed may change."""
    generator = torch.Generator().manual_seed(5)
    plan = plan_of(Recipe(epochs=2, batch_size=8), TEN_CLASSES, seed=5)
    for _ in range(2):
        order, seeds = torch.randperm(40, generator=generator), torch.randint(2**62, (40,), generator=generator)
        for start in range(0, 40, 8):
            assert next(plan) == (order[start : start + 8].tolist(), seeds[start : start + 8].tolist())
    assert next(plan, None) is None
    assert epoch(Recipe(batch_size=8), [0] * 8, seed=1)[0][0] == [5, 4, 2, 6, 7, 3, 1, 0]


def test_batches_depend_on_the_seed_and_move_on() -> None:
    recipe = Recipe(batch_size=8)
    generator = torch.Generator().manual_seed(3)
    first, second = (list(epoch_batches(recipe, TEN_CLASSES, generator)) for _ in range(2))
    assert first == epoch(recipe, TEN_CLASSES, seed=3) != second
    assert len({seed for _, seeds in first + second for seed in seeds}) == 80


def test_every_stage_has_a_stream_of_its_own() -> None:
    plans = [list(plan_of(Recipe(epochs=1), TEN_CLASSES, seed=3, stage=stage)) for stage in (0, 1, 2, 1)]
    assert plans[1] == plans[3]
    assert all(one != other for one, other in pairwise(plans))
    assert plans[1] != list(plan_of(Recipe(epochs=1), TEN_CLASSES, seed=4, stage=1))


def test_looking_ahead_changes_nothing() -> None:
    """A plan is the same whether a thread reads it ahead or the training batch by batch, drawing numbers meanwhile."""
    recipe = Recipe(epochs=3, batch_size=4)
    at_once = list(plan_of(recipe, TEN_CLASSES, seed=1))
    one_by_one = []
    for batch in plan_of(recipe, TEN_CLASSES, seed=1):
        torch.rand(3)
        one_by_one.append(batch)
    assert at_once == one_by_one


def test_views_in_a_pool_are_images_of_their_own() -> None:
    """An epoch stays as long as without views, and takes a part of them, each at most once."""
    recipe = Recipe(batch_size=8, views=5, view_use="pool", epochs=40)
    assert steps_per_epoch(recipe, TEN_CLASSES) == 5
    used = images_of(epoch(recipe, TEN_CLASSES))
    assert len(set(used)) == 40 and max(used) < 200 and len({index // 40 for index in used}) == 5
    assert set(images_of(list(plan_of(recipe, TEN_CLASSES, seed=1)))) == set(range(200))


@pytest.mark.parametrize("view_use", ["cycle", "mean"])
def test_other_views_do_not_change_the_plan(view_use: Any) -> None:
    recipe = Recipe(batch_size=8, views=5, view_use=view_use)
    assert epoch(recipe, TEN_CLASSES) == epoch(Recipe(batch_size=8), TEN_CLASSES)


@pytest.mark.parametrize("options", [{}, {"views": 3, "view_use": "pool"}])
def test_batches_of_one_class(options: dict[str, Any]) -> None:
    """Seven, four and two images: what is left of a class behind its whole batches is dropped."""
    labels = [0, 1, 0, 2, 0, 1, 0, 1, 0, 2, 0, 1, 0]
    recipe = Recipe(batch_size=3, sampler="one_class", drop_last=False, **options)
    assert steps_per_epoch(recipe, labels) == 3
    orders = set()
    for seed in range(10):
        batches = epoch(recipe, labels, seed)
        used = images_of(batches)
        assert [len(indices) for indices, _ in batches] == [3, 3, 3] and len(set(used)) == 9
        classes = [{labels[index % len(labels)] for index in indices} for indices, _ in batches]
        assert all(len(of_batch) == 1 for of_batch in classes)
        orders.add(tuple(next(iter(of_batch)) for of_batch in classes))
    assert len(orders) > 1, "batches of the classes come in random order"


def test_where_no_class_fills_a_batch_they_are_mixed() -> None:
    labels = [0, 0, 1, 1, 2, 2, 2]
    recipe = Recipe(batch_size=4, sampler="one_class", epochs=2)
    batches = list(plan_of(recipe, labels, seed=1))
    assert batches == list(plan_of(Recipe(batch_size=4, epochs=2), labels, seed=1))
    assert [len(indices) for indices, _ in batches] == [4, 4]


def test_a_batch_of_all_images_has_all_pooled_views() -> None:
    recipe = Recipe(batch_size=None, views=3, view_use="pool", steps=2)
    batches = list(plan_of(recipe, [0, 1], seed=1))
    assert [indices for indices, _ in batches] == [list(range(6))] * 2
