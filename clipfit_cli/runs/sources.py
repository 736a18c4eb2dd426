"""Images as a method takes them: pixels, or what the frozen tower makes of them; see `methods.base.Source`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import cached_property

import torch
from torch import Tensor

from clipfit_cli.config import Recipe, Tap
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.data.shifts import Shift
from clipfit_cli.engine.batches import batch_size_of, plan_of, steps_per_epoch
from clipfit_cli.runs.frozen_features import BATCH_SIZE, FrozenFeatures, View, crop_seed

Batches = Iterator[tuple[Tensor, Tensor]]
"""Inputs of a tap (batch, ...), on the device, and labels (batch,)."""


class Inputs:
    """Gives the images of data sets to one pristine model, by any tap."""

    def __init__(self, features: FrozenFeatures, images: ImageStore, spec: ImageSpec, device: torch.device) -> None:
        """Read nothing yet.

        Args:
            features: Of the model.
            images: Decodes them.
            spec: What crops the model takes.
            device: Where the model is.
        """
        self.features, self.images, self.spec, self.device = features, images, spec, device

    def test_batches(self, dataset: DataSet, items: Sequence[Item], tap: Tap, shift: Shift | None = None) -> Batches:
        """Yield the test's crops of items, in order, perhaps shifted, with labels on the CPU.

        Raises:
            DataError: An image is missing or damaged.
            ModelError: The tower has no projection, and what stands before it is wanted.
        """
        if tap != "image":
            yield from self.features.batches(dataset, items, BATCH_SIZE, tap, shift)
            return
        for images, labels in self.images.test_batches(dataset, items, self.spec, BATCH_SIZE, shift):
            yield normalise(to_device(images, self.device), self.spec), labels


class ValidationImages:
    """Images that a method selects on, by the test's crop; a `Source`."""

    def __init__(self, inputs: Inputs, dataset: DataSet) -> None:
        """Read nothing yet.

        Args:
            inputs: Of the model.
            dataset: The draw; its validation list is what is meant.
        """
        self._inputs, self._dataset = inputs, dataset
        self._labels = torch.tensor([item.label for item in dataset.val], device=inputs.device)
        self.steps_per_epoch = -(-len(dataset.val) // BATCH_SIZE)

    def batches(self, tap: Tap) -> Batches:
        """Yield all images, in order."""
        return self._inputs.test_batches(self._dataset, self._dataset.val, tap)

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        part = slice(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        ((inputs, _),) = self._inputs.test_batches(self._dataset, self._dataset.val[part], tap)
        return inputs, self._labels[part]

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return self._inputs.features.everything(self._dataset, self._dataset.val, tap), self._labels


class TrainingImages:
    """The images of one stage of a training; a `Source`. To be closed: threads look ahead."""

    def __init__(
        self, inputs: Inputs, dataset: DataSet, recipe: Recipe, *, seed: int, stage: int = 0, first_step: int = 0
    ) -> None:
        """Read nothing yet.

        Args:
            inputs: Of the model.
            dataset: The draw; its training list is what is meant.
            recipe: Of the stage.
            seed: Of the run.
            stage: Counted from 0.
            first_step: That is asked for; of those before it no image is looked at.
        """
        self._inputs, self._dataset, self._recipe = inputs, dataset, recipe
        labels = [item.label for item in dataset.train]
        self._labels = torch.tensor(labels, device=inputs.device)
        self.steps_per_epoch = steps_per_epoch(recipe, labels)
        self._plan = plan_of(recipe, labels, seed=seed, stage=stage, first_step=first_step)
        self._first_step = self._next_step = first_step
        self._pixels: Generator[tuple[Tensor, Tensor], None, None] | None = None
        self._pools: dict[Tap, Tensor] = {}
        self._views: dict[tuple[Tap, View], Tensor] = {}

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        """See `Source`.

        Raises:
            ValueError: A step is asked for out of order.
        """
        if step != self._next_step:
            raise ValueError(f"steps come one after the other: expected {self._next_step}, got {step}")
        self._next_step += 1
        if tap == "image" or self._is_streamed:
            self._pixels = self._pixels or self._pixel_batches()
            images, labels = next(self._pixels)
            return (images if tap == "image" else self._inputs.features.of_images(images, tap)), labels
        indices, _ = next(self._plan)
        rows = torch.tensor(indices, device=self._inputs.device)
        labels = self._labels[rows % len(self._labels)]
        if self._recipe.view_use == "cycle":
            return self._of_view(tap, self._view(step + 1))[rows], labels
        if tap not in self._pools:
            self._pools[tap] = self.everything(tap)[0]
        return self._pools[tap][rows], labels

    @cached_property
    def _is_streamed(self) -> bool:
        """Whether features are made step by step: of fresh crops, or of parts of stored ones that do not all fit."""
        recipe, num_images = self._recipe, len(self._dataset.train)
        if recipe.crop_scale is None or recipe.views is None:
            return recipe.crop_scale is not None
        is_part = recipe.view_use == "cycle" and batch_size_of(recipe, num_images) < num_images
        return is_part and not self._inputs.features.fits(num_images * recipe.views)

    def _of_view(self, tap: Tap, view: View) -> Tensor:
        """Return a view of all images (num_images, ...); it stays on the device where all views fit.

        On a CPU that would keep twice what is wanted as a whole, once for each time that its number comes up.
        """
        if (tap, view) in self._views:
            return self._views[tap, view]
        features, train = self._inputs.features, self._dataset.train
        found = features.everything(self._dataset, train, tap, view)
        is_twice = self._inputs.device.type == "cpu" and batch_size_of(self._recipe, len(train)) == len(train)
        if not is_twice and (view is None or features.fits(len(train) * (self._recipe.views or 1))):
            self._views[tap, view] = found
        return found

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        views = range((self._recipe.views or 1) if self._recipe.view_use != "cycle" else 1)
        features = self._inputs.features
        found = (features.everything(self._dataset, self._dataset.train, tap, self._view(view)) for view in views)
        total = next(found)
        if (
            self._recipe.view_use == "pool"
        ):  # filled view by view, for a list of them beside what it is made into is twice
            pooled = total.new_empty(len(views), *total.shape)
            pooled[0] = total
            for place, features_of_view in enumerate(found, start=1):
                pooled[place] = features_of_view
            return pooled.flatten(0, 1), self._labels.repeat(len(views))
        for features_of_view in found:
            total = total + features_of_view
        return total / len(views), self._labels

    def close(self) -> None:
        """Drop what is prepared ahead."""
        if self._pixels:
            self._pixels.close()

    def _view(self, number: int) -> View:
        """Return a stored crop by a number that goes on beyond the last of them."""
        if self._recipe.crop_scale is None:
            return None
        return self._recipe.crop_scale, number % (self._recipe.views or 1)

    def _pixel_batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield normalised crops (batch, 3, size, size) and labels, both on the device: fresh ones, or stored ones."""
        inputs, recipe, train = self._inputs, self._recipe, self._dataset.train
        if recipe.crop_scale is None:
            for indices, _ in self._plan:
                items = [train[index] for index in indices]
                for images, labels in inputs.images.test_batches(self._dataset, items, inputs.spec, len(items)):
                    yield normalise(to_device(images, inputs.device), inputs.spec), to_device(labels, inputs.device)
            return

        def seeded() -> Iterator[tuple[list[Item], list[int]]]:
            for step, (indices, seeds) in enumerate(self._plan, start=self._first_step):
                items = [train[index % len(train)] for index in indices]
                if recipe.views and recipe.view_use == "pool":
                    seeds = [crop_seed(item, index // len(train)) for item, index in zip(items, indices, strict=True)]
                elif recipe.views:
                    seeds = [crop_seed(item, (step + 1) % recipe.views) for item in items]
                yield items, seeds

        crops = inputs.images.train_batches(
            self._dataset, seeded(), inputs.spec, inputs.device, crop_scale=recipe.crop_scale
        )
        with closing(crops):
            yield from crops
