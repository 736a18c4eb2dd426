"""Tip-Adapter: training images vote for their class, beside the zero-shot logits; nothing is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods._frozen import (
    SCALE,
    Frozen,
    class_features,
    reference_templates,
    tried_pairs,
    votes_of,
)
from clipfit_cli.methods.base import MethodInfo, Settings, Source

if TYPE_CHECKING:
    from torch import Tensor

    from clipfit_cli.models.bundle import ClipBundle

_PRESETS = {
    "caltech101": (3.0, 5.0, 12.0),
    "dtd": (2.0, 13.0, 13.0),
    "eurosat": (2.0, 10.0, 12.0),
    "fgvc_aircraft": (5.0, 30.0, 30.0),
    "food101": (1.17, 10.0, 10.0),
    "oxford_flowers": (10.0, 50.0, 50.0),
    "stanford_cars": (3.0, 10.0, 20.0),
    "sun397": (1.17, 10.0, 12.0),
    "ucf101": (3.0, 3.0, 7.0),
    TEXTURES: (30.0, 100.0, 10.0),
}
"""Data set -> alpha, and where the search for alpha and for beta ends; ImageNet and OxfordPets have the defaults."""
PRESET_SOURCE = "configurations of Tip-Adapter d0e2d6f8, made for RN50; textures: ours"

_FROM = 0.1

CACHE = Recipe(steps=0, crop_scale=(0.5, 1.0), views=10, view_use="mean")


@dataclass(frozen=True)
class TipAdapterSettings(Settings):
    """Settings of Tip-Adapter; the defaults are the reference's for ImageNet.

    Attributes:
        alpha: Weight of the votes.
        beta: How fast a vote falls with its distance.
        alpha_to, beta_to: With --tune both are searched for, from 0.1 up to, but not including, these.
    """

    alpha: float = ranged(1.17, 0)
    beta: float = ranged(1.0, 0)
    alpha_to: float = ranged(3.0, _FROM)
    beta_to: float = ranged(7.0, _FROM)


class TipAdapter(Frozen):
    """Logits of normalised features x: ``100 x W' + alpha exp(-beta (1 - x K')) V``.

    W are the zero-shot class features, K the cached images' features, V their labels, one-hot.
    """

    method = "tip-adapter"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: TipAdapterSettings
    ) -> None:
        """Start with an empty cache; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._settings = settings
        width = class_features(bundle, class_names, templates).shape[1]
        self._alpha, self._beta = (torch.tensor(x, device=bundle.device) for x in (settings.alpha, settings.beta))
        self._keys = self._alpha.new_zeros(0, width)
        self._labels = torch.zeros(0, dtype=torch.int64, device=bundle.device)

    def prepare(self, train: Source, _: Source | None) -> None:
        """Keep the training images' features, each the normalised mean of its views, and their labels."""
        from clipfit_cli.models.text_features import normalised

        features, self._labels = train.everything(self.tap)
        self._keys = normalised(features)

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # of the votes only those for these classes count
        from clipfit_cli.models.text_features import normalised

        places = self.places_of(class_names)
        text_features = class_features(self.bundle, class_names, templates)

        def logits(inputs: Tensor) -> Tensor:
            image_features = normalised(inputs)
            # in place, for the next of these large tensors takes as long to fill as this one
            affinities = (self._keys @ (self._beta * image_features).T).sub_(self._beta).exp_()
            votes = votes_of(affinities, self._labels, len(self.class_names))
            votes = votes if places is None else votes[:, places]
            return SCALE * image_features @ text_features.T + self._alpha * votes

        return logits

    def calibrate(self, val: Source) -> dict[str, float]:
        """Search for beta and alpha: of the best pairs the first is taken, beta by beta.

        Where no pair gets a single image right, both stay as they were. (The reference takes 0 for both then.)

        Source: Tip-Adapter d0e2d6f8, the search; on the validation images of the draw, never on test images.
        """
        from clipfit_cli.models.text_features import normalised

        features, labels = val.everything(self.tap)
        tried = tried_pairs(
            normalised(features),
            labels,
            text_features=class_features(self.bundle, self.class_names, self.templates),
            keys=self._keys,
            key_labels=self._labels,
            betas=_grid(self._settings.beta_to, 200),
            alphas=_grid(self._settings.alpha_to, 20),
        )
        self._tried = dict(zip(("beta", "alpha", "accuracy_pct"), tried.T.tolist(), strict=True))
        beta, alpha, accuracy_pct = tried[tried[:, 2].argmax()].tolist()
        if not accuracy_pct:
            return {"alpha": self._settings.alpha, "beta": self._settings.beta}
        self._alpha, self._beta = self._alpha.new_tensor(alpha), self._beta.new_tensor(beta)
        return {"alpha": alpha, "beta": beta}

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({"keys": self._keys, "labels": self._labels, "alpha": self._alpha, "beta": self._beta})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        # how many images are cached, the tensors alone tell
        from clipfit_cli.methods._tensors import check_names, take_back

        check_names(self.state(), tensors)
        images = tensors["keys"].shape[:1]
        own = {"keys": self._keys.new_zeros(*images, self._keys.shape[1]), "labels": self._labels.new_zeros(images)}
        own |= {"alpha": self._alpha.clone(), "beta": self._beta.clone()}
        take_back(own, tensors)
        if ((own["labels"] < 0) | (own["labels"] >= len(self.class_names))).any():
            raise CheckpointError(f"the adapter's labels are not all of its {len(self.class_names)} classes")
        self._keys, self._labels, self._alpha, self._beta = own["keys"], own["labels"], own["alpha"], own["beta"]


def _grid(end: float, steps: int) -> list[float]:
    return [_FROM + i * (end - _FROM) / steps for i in range(steps)]


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return alpha and where the search ends, by data set.

    Source: configurations of Tip-Adapter d0e2d6f8; `textures` is ours.
    """
    found = _PRESETS.get(conditions.dataset)
    return dict(zip(("alpha", "alpha_to", "beta_to"), found, strict=True)) if found else {}


METHOD = MethodInfo(
    name="tip-adapter",
    summary="training images of the frozen tower vote for their class, beside zero-shot; nothing is stepped",
    source="Zhang et al., ECCV 2022, arXiv 2207.09519; official code at d0e2d6f8",
    family="features",
    settings=TipAdapterSettings,
    attach=TipAdapter,
    recipe=lambda *_: (CACHE,),
    describe=lambda *_: (),
    presets=presets,
    templates=reference_templates,
    new_classes=False,
    selects="tune",
    starts_at_zero_shot=False,
    preset_source=PRESET_SOURCE,
)
