"""What the checks look through: tolerances, sources that watch, a memory that is too small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipfit_cli.config import Tap
from clipfit_cli.methods.base import Adapted, MethodInfo, Source
from clipfit_cli.models import encode, towers
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import class_prompts, classifier_weights, normalised, tokenize_prompts
from clipfit_cli.testing.small import IMAGES, NAMES, TEMPLATES, attach, fit_stages, pristine, shortened, validation

SEVERAL = ("a photo of a {}.", "the {} on a very long table", "{}")


def hold(info: MethodInfo, holds: bool, message: str) -> None:
    """Do nothing if something holds.

    Raises:
        AssertionError: It does not.
    """
    if not holds:
        raise AssertionError(f"{info.name}: {message}")


def same(info: MethodInfo, what: str, found: Tensor, expected: Tensor, atol: float) -> None:
    """Do nothing if two tensors are alike; with a tolerance of 0, bit for bit.

    Raises:
        AssertionError: They are not.
    """
    hold(info, found.shape == expected.shape, f"{what} are {tuple(found.shape)}, expected {tuple(expected.shape)}")
    alike = torch.allclose(found, expected, atol=atol, rtol=1e-5) if atol else torch.equal(found, expected)
    gap = (found.double() - expected.double()).abs().max() if found.numel() else 0
    hold(info, alike, f"{what} differ by up to {float(gap):.3g}")


def equal(info: MethodInfo, what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Do nothing if two states are the same, bit for bit.

    Raises:
        AssertionError: They are not.
    """
    hold(info, found.keys() == expected.keys(), f"{what} has other names: {sorted(found.keys() ^ expected.keys())}")
    for name, tensor in expected.items():
        same(info, f"{what}: its {name}", found[name], tensor, 0)


def inputs_of(adapted: Adapted, bundle: ClipBundle | None = None) -> Tensor:
    """Return the images as a method takes them, (num_images, ...), of `pristine` unless another model is given."""
    with torch.no_grad():
        return encode.tapped((bundle or pristine()).model, IMAGES, adapted.tap)


def model_of(adapted: Adapted) -> dict[str, Tensor]:
    """Return the tensors of the model that a method, or a part of it, keeps as ``model``; nothing if there is none."""
    parts = (one for one in getattr(adapted, "__dict__", {}).values() if not isinstance(one, ClipBundle))
    models = (getattr(one, "model", None) for one in (adapted, *parts))
    return next((dict(model.state_dict()) for model in models if isinstance(model, nn.Module)), {})


def logits_of(model: nn.Module, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return what a CLIP says by itself of the images: (num_images, num_classes)."""
    prompts = tokenize_prompts(pristine(), class_prompts(names, templates))
    weights = classifier_weights(model, prompts, num_templates=len(templates))
    with torch.no_grad():
        features = normalised(encode.encode_image(model, IMAGES))
        return towers.logit_scale(model) * features @ weights.T + towers.logit_bias(model)


def makes_steps(info: MethodInfo) -> bool:
    """Return whether an optimiser sets anything."""
    return any(stage.makes_steps for stage in shortened(info, 1))


def val_of(info: MethodInfo, bundle: ClipBundle | None = None) -> Source | None:
    """Return validation images for a method that always selects on them."""
    return validation(bundle or pristine()) if info.selects == "always" else None


def after_steps(info: MethodInfo) -> Iterator[tuple[Adapted, int]]:
    """Yield a method after each stage that makes steps, of which it made two, and which stage it was."""
    adapted, recipes = attach(info, pristine()), shortened(info, 2)
    for stage, _ in enumerate(fit_stages(adapted, recipes, pristine(), val=val_of(info))):
        if recipes[stage].makes_steps:
            yield adapted, stage


class NoSource:
    """A `Source` that must not be looked at."""

    steps_per_epoch: int

    def __getattr__(self, name: str) -> Any:
        """Raise AssertionError."""
        raise AssertionError(f"{name} of validation images is asked for, which `selects` does not say")

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Raise AssertionError."""
        raise AssertionError(f"validation images are looked at in step {step}, which `selects` does not say")

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Raise AssertionError."""
        raise AssertionError("all validation images are looked at, which `selects` does not say")


class Asking:
    """A `Source` that has a method classify before each of its batches."""

    def __init__(self, adapted: Adapted, source: Source) -> None:
        """Ask nothing yet."""
        self._source, self._adapted = source, adapted
        self.steps_per_epoch = source.steps_per_epoch

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        found = self._source.batch(tap, step)
        with torch.inference_mode():
            self._adapted.classifier(NAMES, TEMPLATES)(found[0])
        return found

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return self._source.everything(tap)


class SmallMemory:
    """An `Adapted` that runs out of memory behind the loss of more images than fit."""

    def __init__(self, adapted: Adapted, most: int) -> None:
        """Stand before a method.

        Args:
            adapted: It.
            most: Images that fit.
        """
        self._adapted, self._most = adapted, most

    def __getattr__(self, name: str) -> Any:
        """Return what the method itself has."""
        return getattr(self._adapted, name)

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found = self._adapted.loss(inputs, labels)
        if len(inputs) > self._most:
            raise torch.OutOfMemoryError("out of memory, as the check has it")
        return found


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations in which a GPU would make the host wait for a value."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operation, and do it."""
        name = func.overloadpacket.__name__
        if any(name.startswith(waiting) for waiting in self.WAITING):
            self.found.append(name)
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(getattr(one, "dtype", None) == torch.bool for one in places):
            self.found.append(f"{name} by a mask")
        return func(*args, **(kwargs or {}))
