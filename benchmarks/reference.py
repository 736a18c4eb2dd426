"""CLIPFit as its official code runs it, written with open_clip's own modules: what our way is measured against.

Both towers run whole, over the full context. The text tower runs twice a step, with gradients both times: for the
logits and for the distillation. Evaluation encodes the classes again for every batch. Images are read, decoded,
cropped and normalised by Pillow and torchvision in the workers of a DataLoader, every epoch anew. The workers
end with the epoch, as there and as is PyTorch's default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clipfit_cli import methods
from clipfit_cli.config import Precision, Recipe
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.pixels.transforms import ImageSpec
from clipfit_cli.engine.precision import autocast
from clipfit_cli.engine.train import optimiser_of
from clipfit_cli.methods.base import Group
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import class_prompts

BETA = 8.0

Loader = DataLoader[tuple[Tensor, int]]
"""Gives batches: images (batch, 3, size, size) and labels (batch,)."""


class Reference:
    """A copy of a CLIP with CLIPFit's parameters trainable."""

    def __init__(self, bundle: ClipBundle, class_names: Sequence[str], template: str) -> None:
        """Copy the model and set the classes; the model of the bundle is not changed."""
        self.bundle = bundle
        self.model: Any = copy.deepcopy(bundle.model)
        info = methods.get("clipfit")
        described = info.describe(self.model, info.settings(), len(class_names), 0)
        self._trained = [self.model.get_parameter(one.name) for one in described]
        for parameter in self._trained:
            parameter.requires_grad_(True)
        self.set_classes(class_names, template)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that train."""
        return list(self._trained)

    def set_classes(self, class_names: Sequence[str], template: str) -> None:
        """Tokenize the prompts and encode them with the untouched model, once."""
        self._tokens = self.bundle.tokenizer(class_prompts(class_names, [template])).to(self.bundle.device)
        with torch.no_grad():
            self._zero_shot = _unit(cast(Any, self.bundle.model).encode_text(self._tokens))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of normalised images (batch, 3, size, size): cross-entropy plus distillation."""
        cross_entropy = F.cross_entropy(self.logits(images), labels)
        cosine = (self._text_features() * self._zero_shot).sum(dim=-1)
        return cross_entropy + BETA * (1 - cosine.mean())

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes); the classes are encoded anew."""
        image_features = _unit(self.model.encode_image(images))
        logits: Tensor = self.model.logit_scale.exp() * image_features @ self._text_features().T
        return logits

    def _text_features(self) -> Tensor:
        return _unit(self.model.encode_text(self._tokens))


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    unit: Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit


def stepper(
    loss: Callable[[Tensor, Tensor], Tensor],
    parameters: Sequence[torch.nn.Parameter],
    *,
    precision: Precision,
    device: torch.device,
) -> Callable[[Tensor, Tensor], None]:
    """Return what makes one whole step on images and labels: loss, gradients, SGD's update."""
    optimiser = optimiser_of([Group(parameters)], Recipe())

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(precision, device):
            value = loss(images, labels)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimiser.step()

    return step


def accuracy_pct(reference: Reference, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> float:
    """Return the accuracy over batches of normalised images and labels."""
    device = reference.bundle.device
    right = count = 0
    with torch.no_grad(), autocast(precision, device):
        for images, labels in batches:
            found = reference.logits(images.to(device)).argmax(dim=-1)
            right += int((found == labels.to(device)).sum())
            count += len(labels)
    return 100 * right / count


class _Images(Dataset[tuple[Tensor, int]]):
    """Items of a data set on disk behind a transform of torchvision."""

    def __init__(self, folder: ImageFolder, items: Sequence[Item], transform: Callable[[Any], Tensor]) -> None:
        self._folder = folder
        self._items = items
        self._transform = transform

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self._items[index]
        with Image.open(self._folder.root / item.path) as image:
            return self._transform(image.convert("RGB")), item.label


def loader(
    dataset: DataSet, items: Sequence[Item], spec: ImageSpec, *, train: bool, batch_size: int, workers: int
) -> Loader:
    """Return an epoch of training batches, or all test batches, each time it is gone through."""
    folder = dataset.load_image
    assert isinstance(folder, ImageFolder)
    bicubic = transforms.InterpolationMode.BICUBIC
    crop: list[Callable[[Any], Any]] = (
        [transforms.RandomResizedCrop(spec.size, interpolation=bicubic), transforms.RandomHorizontalFlip()]
        if train
        else [transforms.Resize(spec.size, interpolation=bicubic), transforms.CenterCrop(spec.size)]
    )
    transform = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)])
    return DataLoader(
        _Images(folder, items, transform),
        batch_size=batch_size,
        shuffle=train,
        drop_last=train and len(items) >= batch_size,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
