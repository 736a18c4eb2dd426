"""CoCoOp: CoOp's context, to which a small network adds what it makes of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._frozen import embed_dim
from clipfit_cli.methods.base import Adapted, MethodInfo, Trained
from clipfit_cli.methods.coop import WORDS, ContextSettings, context_of

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class CocoopSettings(ContextSettings):
    """Settings of CoCoOp; see `ContextSettings`.

    Attributes:
        words: Whose embeddings the context begins with, one token a word; None = it is drawn, N(0, 0.02^2).
        num_context: Tokens of the context; None = as many as there are words, of a random one 4.
        reduction: The network's hidden layer has the numbers of an image feature divided by this.
    """

    words: str | None = WORDS
    reduction: int = ranged(16, 1)

    method = "cocoop"
    random_tokens = 4


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: CocoopSettings
) -> Adapted:
    """Return CoCoOp on a model that stays as it is."""
    from clipfit_cli.methods._contexts import ConditionalContext

    _, *network = describe(bundle.model, settings)
    return ConditionalContext(
        bundle,
        class_names,
        prompt_templates,
        count=settings.count,
        words=settings.text,
        network={one.name: one.shape for one in network},
    )


def describe(model: nn.Module, settings: CocoopSettings, *_: int) -> list[Trained]:
    """Return what trains.

    Raises:
        ModelError: The text tower takes no context.
        ConfigError: No number would be left in the hidden layer.
    """
    context, width = context_of(model, "cocoop", settings), embed_dim(model)
    hidden = width // settings.reduction
    if not hidden:
        raise ConfigError(f"cocoop's reduction must be at most {width} here, got {settings.reduction}")
    shapes: dict[str, tuple[int, ...]] = {
        "linear1.weight": (hidden, width),
        "linear1.bias": (hidden,),
        "linear2.weight": (context.shape[-1], hidden),
        "linear2.bias": (context.shape[-1],),
    }
    return [context, *(Trained(f"meta_net.{name}", shape, "text") for name, shape in shapes.items())]


def recipe(conditions: Conditions, _: CocoopSettings) -> tuple[Recipe, ...]:
    """Return the one stage, image by image.

    On `textures` 3 epochs at a higher rate: ours.

    Source: CoOp ff61507c, its configurations of CoCoOp.
    """
    ours = conditions.dataset == TEXTURES
    return (Recipe(epochs=3 if ours else 10, lr=0.03 if ours else 0.002, batch_size=1),)


METHOD = MethodInfo(
    name="cocoop",
    summary="vectors in place of the words before the class name, shifted image by image, cross-entropy",
    source="Zhou et al., CVPR 2022, arXiv 2203.05557; official code at ff61507c",
    family="prompts",
    settings=CocoopSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    starts_at_zero_shot=False,
    preset_source="configurations of CoCoOp in CoOp's repository at ff61507c; textures: ours",
)
