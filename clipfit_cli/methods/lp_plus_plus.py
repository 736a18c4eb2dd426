"""LP++: a linear probe, and beside it the zero-shot cosines, weighted class by class; the data tell all step sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clipfit_cli.config import Recipe, Tap, ranged
from clipfit_cli.methods._closed_forms import AT_ONCE, by_class
from clipfit_cli.methods._frozen import Frozen, class_features, embed_dim, reference_templates
from clipfit_cli.methods.base import MethodInfo, Settings, Source, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class LpPlusPlusSettings(Settings):
    """Settings of LP++.

    Attributes:
        epochs: Steps on all images; the state that is best on the validation images is kept, of equals the last.
        momentum: Of the steps of weights and biases.
        alpha_period: Alpha makes a step after so many of those.
        alpha_grad: What alpha follows then: the sum of its gradients since the beginning, as in the reference, which
            never clears them, or the last one.
        alpha_start: Alpha begins as this times the mean over classes of the mean cosine of images and own class.
        weight_start: Weights begin as the sum of a class's image features, or as their mean times the images of the
            largest class; where all classes have as many images, these are the same.
    """

    epochs: int = ranged(300, 1, 1_000_000)
    momentum: float = ranged(0.9, 0, below=1)
    alpha_period: int = ranged(10, 1)
    alpha_grad: Literal["accumulate", "fresh"] = "accumulate"
    alpha_start: float = ranged(250.0, 0)
    weight_start: Literal["sum", "mean"] = "sum"


class LpPlusPlus(Frozen):
    """Logits of normalised features x: ``x W' + b + alpha * x T'``, T the zero-shot class features.

    W, b and alpha, a number for each class, are learnt; there is no temperature.
    """

    method = "lp-plus-plus"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: LpPlusPlusSettings
    ) -> None:
        """Draw the biases that training begins with; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._settings = settings
        drawn = torch.nn.Linear(embed_dim(bundle.model), len(class_names)).requires_grad_(False).to(bundle.device)
        self._bias = drawn.bias.detach()
        self._weight, self._alpha = torch.zeros_like(drawn.weight), torch.zeros_like(drawn.bias)
        self._epoch = settings.epochs

    def prepare(self, train: Source, val: Source | None) -> None:
        """Make all steps on the training images; keep the state that is best on the validation images, or the last.

        Source: LP++ f81054f9, which takes as many validation images of a class as training images.
        """
        import torch

        images, labels = _with_ones(train, self.tap)
        val_images, val_labels = _with_ones(val, self.tap) if val else (images[:0], labels[:0])
        text_features = class_features(self.bundle, self.class_names, self.templates)
        text_features = torch.nn.functional.pad(text_features, (0, 1))  # biases have no part in the cosines
        accuracies: list[float] = []
        for probe, alpha in self._steps(images, labels, text_features):
            found = (val_images @ torch.addcmul(probe, alpha, text_features).T).argmax(dim=-1)
            accuracies.append(100 * int((found == val_labels).sum()) / max(len(val_labels), 1))
            if accuracies[-1] == max(accuracies):
                self._epoch, kept = len(accuracies), (probe.clone(), alpha.clone())
        self._weight, self._bias, self._alpha = kept[0][:, :-1].contiguous(), kept[0][:, -1].contiguous(), kept[1][:, 0]
        if val:
            self._tried = {"epoch": [float(epoch + 1) for epoch in range(len(accuracies))], "accuracy_pct": accuracies}

    def _steps(self, images: Tensor, labels: Tensor, text_features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weights beside biases (num_classes, embed_dim + 1), and alpha (num_classes, 1), after each epoch.

        They are the same two tensors each time. Alpha steps along gradients of before the step of weights and biases.
        Cosines with text features T are linear in the images, too, so that ``W + alpha T`` is all that images meet.

        Args:
            images: Normalised features with a 1 behind each (num_images, embed_dim + 1).
            labels: int64 (num_images,).
            text_features: Normalised, with a 0 behind each (num_classes, embed_dim + 1).

        Source: LP++ f81054f9.
        """
        import torch

        settings, num_images, num_classes = self._settings, len(images), len(text_features)
        sums = torch.stack([own.sum(dim=0) for own in by_class(images, labels, num_classes)])
        counts, cosines = sums[:, -1:], (sums * text_features).sum(dim=1, keepdim=True)
        alpha = (settings.alpha_start * (cosines / counts)[counts > 0].mean()).repeat(num_classes, 1)
        probe = sums * (counts.max() / counts.clamp(min=1)) if settings.weight_start == "mean" else sums.clone()
        probe[:, -1] = self._bias
        # the largest squared singular value of the images, and the largest sum over images of a class's squared cosines
        gram = images.T @ images
        rate = float(4 * num_images / torch.linalg.eigvalsh(gram[:-1, :-1].double())[-1])
        alpha_rate = float(num_images / (4 * (text_features @ gram * text_features).sum(dim=1).max()))
        velocity, alpha_gradient = torch.zeros_like(probe), torch.zeros_like(alpha)
        at_once = min(num_images, max(1, AT_ONCE // num_classes))
        places, logits, errors = torch.arange(at_once, device=labels.device), *images.new_empty(2, at_once, num_classes)
        for epoch in range(1, settings.epochs + 1):
            weight, gradient = torch.addcmul(probe, alpha, text_features), torch.zeros_like(probe)
            for some, own in zip(torch.split(images, at_once), torch.split(labels, at_once), strict=True):
                torch.mm(some, weight.T, out=logits[: len(some)])
                error = torch.softmax(logits[: len(some)], dim=-1, out=errors[: len(some)])
                error[places[: len(some)], own] -= 1
                gradient.addmm_(error.T, some, alpha=1 / num_images)
            latest = (gradient * text_features).sum(dim=1, keepdim=True)
            alpha_gradient = latest if settings.alpha_grad == "fresh" else alpha_gradient + latest
            probe -= rate * velocity.mul_(settings.momentum).add_(gradient)
            if epoch % settings.alpha_period == 0:
                alpha -= alpha_rate * alpha_gradient
            yield probe, alpha

    def calibrate(self, _: Source) -> dict[str, float]:
        """Return the epoch that `prepare` has chosen, counted from 1."""
        return {"epoch": float(self._epoch)}

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        from clipfit_cli.models.text_features import normalised

        places = self.places_of(class_names)
        text_features = class_features(self.bundle, class_names, templates)

        def logits(inputs: Tensor) -> Tensor:
            weight, bias, alpha = (t if places is None else t[places] for t in (self._weight, self._bias, self._alpha))
            return normalised(inputs) @ (weight + alpha[:, None] * text_features).T + bias

        return logits

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({"weight": self._weight, "bias": self._bias, "alpha": self._alpha})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back({"weight": self._weight, "bias": self._bias, "alpha": self._alpha}, tensors)


def _with_ones(source: Source, tap: Tap) -> tuple[Tensor, Tensor]:
    """Return normalised features with a 1 behind each (num_images, embed_dim + 1), and labels."""
    import torch

    from clipfit_cli.models.text_features import normalised

    features, labels = source.everything(tap)
    return torch.nn.functional.pad(normalised(features), (0, 1), value=1.0), labels


def describe(model: nn.Module, _: LpPlusPlusSettings, num_classes: int, __: int) -> list[Trained]:
    rows = (Trained(name, (num_classes,), None) for name in ("bias", "alpha"))
    return [Trained("weight", (num_classes, embed_dim(model)), None), *rows]


METHOD = MethodInfo(
    name="lp-plus-plus",
    summary="a linear probe beside zero-shot, whose cosines each class weighs, cross-entropy; steps as the data say",
    source="Huang et al., CVPR 2024, arXiv 2404.02285 (LP++); official code at f81054f9",
    family="features",
    settings=LpPlusPlusSettings,
    attach=LpPlusPlus,
    recipe=lambda *_: (Recipe(steps=0, crop_scale=(0.5, 1.0), views=1),),
    describe=describe,
    templates=reference_templates,
    new_classes=False,
    selects="always",
    starts_at_zero_shot=False,
)
