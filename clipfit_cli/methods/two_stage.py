"""Two-stage few-shot adaptation (2SFS): first the LayerNorms of both towers, then a classifier on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, Tap, ranged
from clipfit_cli.errors import ModelError
from clipfit_cli.methods._frozen import embed_dim
from clipfit_cli.methods._official import parameters_of
from clipfit_cli.methods._tensors import copies, take_back
from clipfit_cli.methods.base import Adapted, Group, Hooks, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.methods._tuned_encoders import TunedEncoders
    from clipfit_cli.models.bundle import ClipBundle

_CLASSIFIER = "classifier"


@dataclass(frozen=True)
class TwoStageSettings(Settings):
    """Settings of 2SFS.

    Attributes:
        classifier_share: Of all steps, the second stage's.
        outer_norms: Whether the norms before, behind and between the blocks train too; the reference lists them among
            what trains, and freezes them again.
    """

    classifier_share: float = ranged(0.4, SMALLEST, below=1)
    outer_norms: bool = False


class TwoStage(Hooks):
    """LayerNorms that train, then one learnt row for each of the training's classes, which starts as its text features.

    The training's classes are told by the learnt rows, any other by its text features.
    """

    def __init__(self, encoders: TunedEncoders, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Begin the first stage.

        Args:
            encoders: Its LayerNorms train.
            class_names: In label order.
            templates: One or more with one ``{}`` each.
        """
        self._encoders, self._names, self._templates = encoders, tuple(class_names), tuple(templates)
        self.tap: Tap = encoders.tap
        self._rows: nn.Parameter | None = None

    def begin(self, stage: int) -> None:
        from torch import nn

        features = self._encoders.class_features(self._names, self._templates) if stage else None
        self._rows = None if features is None else nn.Parameter(features.clone())

    def parameters(self) -> list[Group]:
        return self._encoders.parameters() if self._rows is None else [Group([self._rows])]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self._rows is None:
            return self._encoders.loss(inputs, labels)
        import torch

        from clipfit_cli.models.text_features import normalised

        image_features = self._encoders.frozen_image_features(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            logits = self._encoders.compare(image_features, normalised(self._rows))
            loss = torch.nn.functional.cross_entropy(logits, labels)
        return loss, {"cross_entropy": loss.detach()}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # a class is one of the training's if its name is the same text
        if self._rows is None:
            return self._encoders.classifier(class_names, templates)
        import torch

        from clipfit_cli.models.text_features import normalised

        learnt = normalised(self._rows.detach())
        if tuple(class_names) == self._names:  # of which two may have one name
            return self._encoders.told_by(learnt)
        rows = dict(zip(self._names, learnt, strict=True))
        if new := [name for name in class_names if name not in rows]:
            rows |= zip(new, self._encoders.class_features(new, templates), strict=True)
        return self._encoders.told_by(torch.stack([rows[name] for name in class_names]))

    def merged_model(self) -> nn.Module:
        # the learnt rows of the training's classes are not in it
        return self._encoders.model

    def interpolated(self, alpha: float) -> TwoStage:
        # the learnt rows are on the way from the zero-shot class features, as the weights are
        import torch

        from clipfit_cli.methods._interpolated import encoders_between

        own = self._encoders
        found = TwoStage(
            encoders_between(own, own.bundle, self._names, self._templates, alpha), self._names, self._templates
        )
        if self._rows is not None:
            found._rows = torch.nn.Parameter(own.zero_shot_features().lerp(self._rows.detach(), alpha))
        return found

    def drifting_buffers(self) -> list[Tensor]:
        return self._encoders.drifting_buffers()

    def state(self) -> dict[str, Tensor]:
        # the learnt rows are among it from the second stage on
        return {**self._encoders.state(), **({} if self._rows is None else copies({_CLASSIFIER: self._rows}))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        # of both stages
        import torch

        rows = torch.empty(len(self._names), embed_dim(self._encoders.model), device=self._encoders.bundle.device)
        take_back({**self._encoders.changing, _CLASSIFIER: rows}, tensors)
        self._rows = torch.nn.Parameter(rows)


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: TwoStageSettings
) -> Adapted:
    """Return 2SFS on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names = require_some(norms(bundle.model, settings), "two-stage")
    encoders = TunedEncoders(bundle, class_names, prompt_templates, trained=names)
    return TwoStage(encoders, class_names, prompt_templates)


def norms(model: nn.Module, settings: TwoStageSettings) -> list[str]:
    """Return the names of the LayerNorm parameters that train, the image tower's first.

    Raises:
        ModelError: The image tower has no transformer blocks, or it cannot be told which parameters these are.
    """
    from clipfit_cli.models.towers import image_blocks, kinds_of, layer_norm_parameters, text_blocks

    blocks = (*image_blocks(model), *(name for name, _ in text_blocks(model)))
    if not image_blocks(model):
        raise ModelError(
            f"two-stage trains the LayerNorms of transformer blocks, the image tower is a {kinds_of(model).image}; "
            "choose a ViT backbone, or the method layer-norm"
        )
    names = [*layer_norm_parameters(model, "image"), *layer_norm_parameters(model, "text")]
    inner = tuple(f"{block}." for block in blocks)
    return names if settings.outer_norms else [name for name in names if name.startswith(inner)]


def describe(model: nn.Module, settings: TwoStageSettings, num_classes: int, _: int) -> list[Trained]:
    """Return what trains in either stage."""
    names = norms(model, settings)
    return [*parameters_of(model, names), Trained(_CLASSIFIER, (num_classes, embed_dim(model)), None)]


def recipe(conditions: Conditions, settings: TwoStageSettings) -> tuple[Recipe, ...]:
    """Return both stages, 300 steps together for each training image of a class, as for 16 where all are taken.

    On `textures` 150 in all, at a higher rate: ours.

    Source: rethinking_fewshot_vlms at 64ac143c, defaults of its runs.
    """
    steps, lr = (150, 5e-3) if conditions.dataset == TEXTURES else (300 * (conditions.shots or 16), 2e-4)
    second = min(max(round(steps * settings.classifier_share), 1), steps - 1)
    return tuple(
        Recipe(
            optimiser="adamw",
            lr=lr,
            weight_decay=0.01,
            steps=count,
            drop_last=False,
            decay="step",
            min_lr=1e-6,
            warmup_epochs=0,
        )
        for count in (steps - second, second)
    )


METHOD = MethodInfo(
    name="two-stage",
    summary="LayerNorms of both towers, then a classifier of the training's classes on their features, cross-entropy",
    source="Farina et al., CVPR 2025, arXiv 2503.11609 (2SFS); rethinking_fewshot_vlms at 64ac143c",
    family="weights",
    settings=TwoStageSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    templates=lambda _: ("a photo of a {}.",),
    preset_source="the defaults of rethinking_fewshot_vlms at 64ac143c; textures: ours",
)
