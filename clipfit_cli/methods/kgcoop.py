"""KgCoOp: CoOp's context, its class features held close to the zero-shot ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.methods.base import Adapted, MethodInfo
from clipfit_cli.methods.coop import WORDS, ContextSettings, context_of

if TYPE_CHECKING:
    from torch import Tensor

    from clipfit_cli.methods._tuned_encoders import Encoders
    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class KgcoopSettings(ContextSettings):
    """Settings of KgCoOp; see `ContextSettings`. The reference takes no other words than these.

    Attributes:
        words: Whose embeddings the context begins with, one token a word; None = it is drawn, N(0, 0.02^2).
        num_context: Tokens of the context; None = as many as there are words, of a random one 4.
        beta: Weight of 1 - mean cosine between learnt and zero-shot class features; the reference's scripts give it as
            W, its configuration has 1.
    """

    words: str | None = WORDS
    beta: float = ranged(8.0, 0)

    method = "kgcoop"
    random_tokens = 4


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: KgcoopSettings
) -> Adapted:
    """Return KgCoOp on a model that stays as it is."""
    from clipfit_cli.methods._contexts import LearntContext
    from clipfit_cli.methods._prompted import check_towers

    def distillation(encoders: Encoders, text_features: Tensor) -> Tensor:
        return settings.beta * (1 - (text_features * encoders.zero_shot_features()).sum(dim=-1).mean())

    check_towers(bundle.model, "kgcoop", "text")
    return LearntContext(
        bundle, class_names, prompt_templates, count=settings.count, words=settings.text, penalty=distillation
    )


def recipe(conditions: Conditions, _: KgcoopSettings) -> tuple[Recipe, ...]:
    """Return the one stage.

    On `textures` 60 epochs at a higher rate: ours.

    Source: KgCoOp c43ccc32, its scripts.
    """
    ours = conditions.dataset == TEXTURES
    return (Recipe(epochs=60 if ours else 100, lr=0.1 if ours else 0.002, batch_size=128),)


METHOD = MethodInfo(
    name="kgcoop",
    summary="vectors in place of the words before the class name, cross-entropy plus distilled class features",
    source="Yao et al., CVPR 2023, arXiv 2303.13283; official code at c43ccc32",
    family="prompts",
    settings=KgcoopSettings,
    attach=attach,
    recipe=recipe,
    describe=lambda model, settings, *_: [context_of(model, "kgcoop", settings)],
    starts_at_zero_shot=False,
    preset_source="scripts of KgCoOp at c43ccc32; textures: ours",
)
