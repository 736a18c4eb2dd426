"""Small models with random weights, a few images, and a training of a method with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from clipfit_cli.config import BnMode, Conditions, ModelConfig, Precision, Recipe, Tap
from clipfit_cli.engine.batches import plan_of, steps_per_epoch
from clipfit_cli.engine.resume import Keeper, Snapshot
from clipfit_cli.engine.train import Training, seeded, train
from clipfit_cli.methods.base import Adapted, MethodInfo, Source
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.load import bundle_of

CPU = torch.device("cpu")
NAMES = ("cat", "polka-dotted thing", "red_tractor")
TEMPLATES = ("a photo of a {}.",)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1])
CONDITIONS = Conditions(shots=3)
_NOISE = 0.3


def _images(seed: int, shape: tuple[int, ...] = (7, 3, 32, 32)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = 3 * _images(0, (3, 3, 1, 1))[LABELS] + _NOISE * _images(1)
"""(7, 3, 32, 32); the colour tells the class, for random weights see little else."""


def build_small_clip(*, resnet: bool = False, seed: int = 0) -> CLIP:
    """Return a randomly initialised CLIP of 2 + 2 layers, 32 px, with the standard tokenizer's vocabulary.

    Args:
        resnet: Whether its image tower is a ResNet, of one block a stage; else it is a ViT of width 48.
        seed: Of the weights.
    """
    if torch.get_default_device().type != "cpu":
        return _drawn(resnet, seed)[0]
    model, state = _kept(resnet, seed)
    torch.set_rng_state(state)
    return copy.deepcopy(model)


def _drawn(resnet: bool, seed: int) -> tuple[CLIP, Tensor]:
    """Return a new model, and torch's generator as it is then."""
    torch.manual_seed(seed)
    vision = (
        CLIPVisionCfg(image_size=32, layers=(1, 1, 1, 1), width=16, head_width=32)
        if resnet
        else CLIPVisionCfg(image_size=32, patch_size=8, width=48, layers=2, head_width=24)
    )
    text = CLIPTextCfg(context_length=32, width=32, heads=2, layers=2)
    model = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    return model, torch.get_rng_state()


_kept = cache(_drawn)


def small_bundle(model: torch.nn.Module, *, backbone: str = "small", bn: BnMode = "eval") -> ClipBundle:
    """Return a frozen bundle around a model, which is frozen itself.

    Args:
        model: open_clip's module.
        backbone: How it is called.
        bn: See `ModelConfig`.
    """
    model.float().eval().requires_grad_(False)
    return bundle_of(model, ModelConfig(backbone=backbone, pretrained="random", bn=bn), weights_sha256="0" * 64)


@cache
def pristine() -> ClipBundle:
    """Return a small ViT that all checks share, as all runs of a sweep do."""
    return small_bundle(build_small_clip())


class TensorSource:
    """A `Source` of given images, by any tap of a pristine model; every crop is the whole image.

    Stored views but the first differ from the image by a little noise of their own.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        images: Tensor,
        labels: Tensor,
        recipe: Recipe | None = None,
        *,
        seed: int = 1,
        stage: int = 0,
        first_step: int = 0,
    ) -> None:
        """Encode nothing yet.

        Args:
            bundle: The pristine model.
            images: Normalised (num_images, 3, size, size).
            labels: int64 (num_images,).
            recipe: Of the stage; None = validation images, all of them in one batch.
            seed: Of the run.
            stage: Counted from 0.
            first_step: That is asked for; those before it are passed over.
        """
        self._bundle, self._images, self._labels, self._recipe = bundle, images, labels, recipe
        self._views = (recipe and recipe.views) or 1
        self._use = recipe.view_use if recipe else "cycle"
        self._next_step = first_step
        self._known: dict[tuple[Tap, int], Tensor] = {}
        if recipe:
            self._plan = plan_of(recipe, labels.tolist(), seed=seed, stage=stage, first_step=first_step)
            self.steps_per_epoch = steps_per_epoch(recipe, labels.tolist())
        else:
            self.steps_per_epoch = 1

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        """See `Source`.

        Raises:
            ValueError: A training step is asked for out of order.
        """
        if not self._recipe:
            return self.everything(tap)
        if step != self._next_step:
            raise ValueError(f"steps come one after the other: expected {self._next_step}, got {step}")
        self._next_step += 1
        rows = torch.tensor(next(self._plan)[0])
        if self._use == "cycle":
            return self._view(tap, (step + 1) % self._views)[rows], self._labels[rows]
        inputs, labels = self.everything(tap)
        return inputs[rows], labels[rows]

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        if self._use == "cycle":
            return self._view(tap, 0), self._labels
        views = [self._view(tap, view) for view in range(self._views)]
        if self._use == "pool":
            return torch.cat(views), self._labels.repeat(self._views)
        return torch.stack(views).mean(dim=0), self._labels

    def _view(self, tap: Tap, view: int) -> Tensor:
        """Return a view of all images (num_images, ...) as a tap has it."""
        if (tap, view) not in self._known:
            noise = _images(100 + view, tuple(self._images.shape))
            with torch.no_grad():
                images = self._images + (_NOISE * noise if view else 0)
                self._known[tap, view] = tapped(self._bundle.model, images, tap).float()
        return self._known[tap, view]


def validation(bundle: ClipBundle) -> TensorSource:
    """Return validation images: the training images of other crops."""
    return TensorSource(bundle, IMAGES + _NOISE * _images(2), LABELS)


def attach(
    info: MethodInfo,
    bundle: ClipBundle,
    *,
    seed: int = 1,
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
) -> Adapted:
    """Return a method with its default settings on a model, as a run of a seed attaches it."""
    with seeded(seed, CPU):
        return info.attach(bundle, names, templates, info.settings())


def shortened(info: MethodInfo, steps: int, lr: float = 0.01) -> tuple[Recipe, ...]:
    """Return the method's own recipe, its stages with steps changed to so many, without warm-up, at another rate."""
    return tuple(
        replace(stage, steps=steps, lr=lr, warmup_epochs=0, decay="none") if stage.makes_steps else stage
        for stage in info.recipe(CONDITIONS, info.settings())
    )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method, trained.

    Attributes:
        adapted: It.
        stages: What each stage did.
    """

    adapted: Adapted
    stages: tuple[Training, ...]


def fit_stages(
    adapted: Adapted,
    recipes: Sequence[Recipe],
    bundle: ClipBundle,
    *,
    seed: int = 1,
    precision: Precision = "fp32",
    val: Source | None = None,
    source: Callable[[Source], Source] = lambda source: source,
    past: Sequence[Snapshot] = (),
    keeper: Keeper | None = None,
) -> Iterator[Training]:
    """Train stage after stage, and yield what each did.

    Args:
        adapted: The method.
        recipes: Of the stages.
        bundle: The pristine model.
        seed: Of the run.
        precision: Of the towers.
        val: Validation images.
        source: Puts something around the training images.
        past: Of the first stages: where they go on, or their ends.
        keeper: Of the training.
    """
    for stage, recipe in enumerate(recipes):
        begun = past[stage] if stage < len(past) else None
        first_step = begun.done if begun else 0
        images = source(TensorSource(bundle, IMAGES, LABELS, recipe, seed=seed, stage=stage, first_step=first_step))
        yield train(
            adapted,
            recipe,
            images,
            seed=seed,
            precision=precision,
            device=CPU,
            val=val,
            stage=stage,
            resume=begun,
            keeper=keeper,
        )


def fit(
    info: MethodInfo,
    *,
    steps: int = 4,
    bundle: ClipBundle | None = None,
    templates: Sequence[str] = TEMPLATES,
    seed: int = 1,
    val: Source | None = None,
    precision: Precision = "fp32",
    source: Callable[[Source], Source] = lambda source: source,
) -> Fitted:
    """Return a method, attached and trained with so many steps a stage.

    Args:
        info: The method.
        steps: Of each stage that makes any; with 0, such a stage begins and is prepared.
        bundle: None = `pristine`.
        templates: Of its prompts.
        seed, precision, source: See `fit_stages`.
        val: None = validation images for a method that always selects on them, else none.
    """
    bundle = bundle or pristine()
    val = validation(bundle) if val is None and info.selects == "always" else val
    adapted = attach(info, bundle, seed=seed, templates=templates)
    recipes = shortened(info, steps)
    found = fit_stages(adapted, recipes, bundle, seed=seed, precision=precision, val=val, source=source)
    return Fitted(adapted, tuple(found))


@cache
def fitted(info: MethodInfo, steps: int = 4) -> Fitted:
    """Return what `fit` does, made once; whoever asks must not change it."""
    return fit(info, steps=steps)
