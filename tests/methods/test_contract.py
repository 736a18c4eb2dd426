"""What every method must do, whatever it is: the checks of `clipfit_cli.testing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods, testing
from clipfit_cli.config import Recipe
from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.models import encode
from clipfit_cli.testing.probes import HostReads, NoSource
from clipfit_cli.testing.small import IMAGES, LABELS, TensorSource, pristine

QUICK = ("bitfit", "prolip")  # of each kind of tap one; the others are slow together


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in methods.available()]
)
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check: Callable[[MethodInfo], None], name: str) -> None:
    check(methods.get(name))


def test_one_method_trains_nothing() -> None:
    assert [name for name in methods.available() if not methods.get(name).trains] == ["zero-shot"]


def test_all_checks_are_run() -> None:
    testing.check(methods.get("zero-shot"))
    with pytest.raises(AssertionError, match="zero-shot: summary and source say next to nothing"):
        testing.check(replace(methods.get("zero-shot"), summary=""))


def source(recipe: Recipe | None) -> TensorSource:
    return TensorSource(pristine(), IMAGES, LABELS, recipe)


def features(images: Tensor) -> Tensor:
    with torch.no_grad():
        return encode.encode_image(pristine().model, images)


def test_a_source_gives_what_the_recipe_says() -> None:
    images = source(Recipe(batch_size=3))
    assert images.steps_per_epoch == 2
    (first, labels), (second, others) = (images.batch("image", step) for step in (0, 1))
    rows = [int((IMAGES == image).flatten(1).all(dim=1).nonzero()) for image in (*first, *second)]
    assert len(set(rows)) == 6 and [*labels.tolist(), *others.tolist()] == LABELS[rows].tolist()
    torch.testing.assert_close(source(Recipe(batch_size=3)).batch("projected", 0)[0], features(first))
    assert source(Recipe(batch_size=3)).batch("unprojected", 0)[0].shape == (3, 48)
    with pytest.raises(ValueError, match="expected 2, got 4"):
        images.batch("image", 4)


def test_a_source_has_stored_views() -> None:
    recipe = Recipe(batch_size=None, views=3)
    cycled = source(recipe)
    batches = [cycled.batch("image", step)[0] for step in range(4)]
    assert torch.equal(batches[0], batches[3]) and torch.equal(batches[2], IMAGES)
    assert not torch.equal(batches[0], batches[1])
    pooled, labels = source(Recipe(batch_size=None, views=3, view_use="pool")).everything("projected")
    assert pooled.shape == (21, 24) and labels.tolist() == 3 * LABELS.tolist()
    mean, labels = source(Recipe(batch_size=None, views=3, view_use="mean")).everything("projected")
    torch.testing.assert_close(mean, pooled.view(3, 7, 24).mean(dim=0))
    torch.testing.assert_close(pooled[7:14], features(batches[0]))
    assert labels.tolist() == LABELS.tolist()


def test_validation_images_are_one_batch_at_any_step() -> None:
    images = source(None)
    assert images.steps_per_epoch == 1
    assert all(torch.equal(images.batch("image", step)[0], IMAGES) for step in (0, 0, 5))


def test_host_reads_are_seen() -> None:
    with HostReads() as reads:
        (torch.arange(3) > 1).nonzero()
        float(torch.ones(()))
        torch.arange(3)[torch.arange(3) > 1]
    assert reads.found == ["nonzero", "_local_scalar_dense", "index by a mask"]


def test_no_part_of_a_source_that_is_not_to_be_seen() -> None:
    hidden = NoSource()
    for ask in (lambda: hidden.steps_per_epoch, lambda: hidden.batch("image", 3), lambda: hidden.everything("image")):
        with pytest.raises(AssertionError, match="which `selects` does not say"):
            ask()
