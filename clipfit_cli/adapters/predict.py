"""Pictures -> class names and probabilities, by a saved adapter; the same for the command and for Python."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from clipfit_cli.adapters.attach import AttachedAdapter, attach_adapter, merged_model
from clipfit_cli.adapters.shared import fetch_adapter
from clipfit_cli.config import PRECISIONS, TOP_CLASSES, Precision
from clipfit_cli.data.files.decode import rgb_of
from clipfit_cli.data.files.pictures import unlabelled
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import eval_crop, normalise
from clipfit_cli.engine.environment import resolve_device
from clipfit_cli.engine.micro_batches import MicroBatches, is_out_of_memory
from clipfit_cli.engine.precision import autocast, resolve_precision
from clipfit_cli.errors import CheckpointError, ConfigError, OutOfMemoryError, UnknownNameError
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.hub import HUB_PREFIXES
from clipfit_cli.runs.frozen_features import BATCH_SIZE
from clipfit_cli.runs.workspace import image_spec

Picture = str | os.PathLike[str] | Image.Image
"""A file, or an image that is open already."""


class Classifier:
    """An adapter on its model, ready to classify pictures; `load_adapter` makes it.

    Attributes:
        class_names: What it chooses from, in the order of the logits.
        prompt_templates: What its class names are put in, as in training.
        card: What is known of its training.
    """

    def __init__(
        self, attached: AttachedAdapter, *, precision: Precision, say: Callable[[str], None] | None = None
    ) -> None:
        """Take over an adapter that classifies among the classes of its card.

        Args:
            attached: The adapter.
            precision: Resolved: of the towers.
            say: Told when memory is too short for all images at a time.
        """
        self.card = attached.card
        self.class_names = attached.card.class_names
        self.prompt_templates = attached.card.prompt_templates
        self._adapted = attached.adapted
        self._bundle = attached.bundle
        self._spec = image_spec(attached.bundle)
        self._precision = precision
        self._classify = attached.adapted.classifier(attached.card.class_names, self.prompt_templates)

        def on_smaller(before: int, now: int) -> None:
            if say:
                say(f"out of memory at {before} pictures: going on with {now} at a time")

        self._at_a_time = MicroBatches(sys.maxsize, on_smaller)

    @property
    def model(self) -> nn.Module:
        """The tuned module, open_clip's or a `DualEncoder` of transformers', in evaluation mode.

        Raises:
            ConfigError: What the method learns is not in CLIP's own weights, so there is no such module.
        """
        return merged_model(self._adapted, self.card.method)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._bundle.device

    def set_classes(self, class_names: Sequence[str]) -> None:
        """Classify among other classes from now on; the prompts around their names stay.

        Raises:
            ConfigError: There are fewer than two, one has no name, two make the same prompt, a prompt is longer than
                the text tower reads, or the method has no answer for classes that it was not trained on.
        """
        names = check_classes(class_names)
        self._classify = self._adapted.classifier(names, self.prompt_templates)
        self.class_names = names

    def preprocess(self, picture: Image.Image) -> Tensor:
        """Return a picture as the image tower takes it, float32 (3, size, size) on the CPU, as in evaluation.

        Raises:
            DataError: It is damaged, too large, or of 32-bit pixels.
        """
        return normalise(eval_crop(rgb_of(picture), self._spec).unsqueeze(0), self._spec)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (batch, num_classes) on the model's device, without gradients.

        Images that memory runs out on go through the model in parts of half their number, as do those that follow.

        Args:
            images: Preprocessed, (batch, 3, size, size), on any device.

        Raises:
            ConfigError: They have another shape.
            OutOfMemoryError: The device ran out of memory with a single image.
        """
        size = self._spec.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ConfigError(f"images must be (batch, 3, {size}, {size}), got {tuple(images.shape)}")
        try:
            with torch.no_grad(), autocast(self._precision, self.device):
                return self._at_a_time.run(
                    len(images),
                    lambda at_a_time: torch.cat(
                        [
                            self._classify(tapped(self._bundle.model, part.to(self.device), self._adapted.tap).float())
                            for part in torch.split(images, at_a_time)
                        ]
                    ),
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"{self.device} ran out of memory; try precision bf16 or the device cpu") from error

    def classify(
        self,
        pictures: Sequence[Picture],
        *,
        top: int = TOP_CLASSES,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return for each picture the most probable classes with their probabilities (0 to 1), the likeliest first.

        All pictures are read and decoded before the first is classified. Of equal logits, the first class wins.

        Args:
            pictures: Files, or images that are open.
            top: How many classes; where there are fewer, all of them.
            on_progress: Told what is done (``decoding``, ``classifying``), to how many files or pictures, of how many.

        Raises:
            ConfigError: `top` is below 1, or `pictures` is a single one.
            DataError: A picture is missing or damaged; the message names it.
            CheckpointError: A logit is not a finite number.
            OutOfMemoryError: The device ran out of memory with a single picture.
        """
        if isinstance(pictures, str | os.PathLike | Image.Image):
            raise ConfigError("classify takes a list of pictures, got a single one; put it into a list")
        if top < 1:
            raise ConfigError(f"top must be at least 1, got {top}")
        ready = [
            eval_crop(rgb_of(p), self._spec) if isinstance(p, Image.Image) else Path(p).expanduser() for p in pictures
        ]
        found: list[list[tuple[str, float]]] = []
        with closing(ImageStore()) as store:
            files = unlabelled([path for path in ready if isinstance(path, Path)])
            read = 0
            for _, labels in store.test_batches(files, files.test, self._spec, BATCH_SIZE):
                read += len(labels)  # the crops stay in the store: as far as memory goes, none is made twice
                if on_progress:
                    on_progress("decoding", read, len(files.test))
            from_files = (
                crop for batch, _ in store.test_batches(files, files.test, self._spec, BATCH_SIZE) for crop in batch
            )
            for start in range(0, len(ready), BATCH_SIZE):
                crops = [p if isinstance(p, Tensor) else next(from_files) for p in ready[start : start + BATCH_SIZE]]
                found += self._best(normalise(torch.stack(crops).to(self.device), self._spec), top)
                if on_progress:
                    on_progress("classifying", len(found), len(ready))
        return found

    def _best(self, images: Tensor, top: int) -> list[list[tuple[str, float]]]:
        logits = self.logits(images).cpu()
        if not logits.isfinite().all():
            raise CheckpointError("the adapter gives logits that are not finite; its training broke down: lower --lr")
        order = logits.sort(dim=-1, descending=True, stable=True).indices[:, :top]
        probabilities = logits.softmax(dim=-1).gather(-1, order)
        return [
            [(self.class_names[index], probability) for index, probability in zip(indices, values, strict=True)]
            for indices, values in zip(order.tolist(), probabilities.tolist(), strict=True)
        ]


def load_adapter(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "auto",
    backbone: str | None = None,
    pretrained: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Classifier:
    """Return a saved adapter on its model, ready to classify among the classes that it was trained on.

    Args:
        path: Folder of a run, one of the adapter's two files, or ``hf:ORG/NAME``, perhaps with ``@REVISION``, for an
            adapter of the hub.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: Of the towers: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        backbone, pretrained: Where the model's weights are found now; None = as when it was trained.
        say: Told where weights are fetched from, if they have to be, and of what memory is too short for.

    Raises:
        CheckpointError: There is no adapter, it is damaged, or the weights are not those it was made for.
        ModelError: The model's weights, or the adapter of the hub, are not to be had.
        ConfigError: Device, precision, backbone, weights or method are not known or do not go together.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    machine = resolve_device(device)
    folder = fetch_adapter(str(path), say=say) if str(path).startswith(HUB_PREFIXES) else Path(path)
    attached = attach_adapter(folder, device=machine, backbone=backbone, pretrained=pretrained, say=say)
    return Classifier(
        attached, precision=resolve_precision(cast(Precision, precision), machine, attached.source), say=say
    )


def check_classes(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return class names that can be told apart, as they are.

    Raises:
        ConfigError: There are fewer than two, one has no name, or two make the same prompt.
    """
    if isinstance(class_names, str) or len(class_names) < 2:
        raise ConfigError(f"expected two or more class names to choose from, got {class_names!r}")
    prompts = [" ".join(name.replace("_", " ").lower().split()) for name in class_names]
    ((prompt, count),) = Counter(prompts).most_common(1)
    if "" in prompts:
        raise ConfigError(f"class name {class_names[prompts.index('')]!r} is empty")
    if count > 1:
        first, second, *_ = (name for name, own in zip(class_names, prompts, strict=True) if own == prompt)
        raise ConfigError(f"the classes {first!r} and {second!r} make the same prompt; leave one of them out")
    return tuple(class_names)
