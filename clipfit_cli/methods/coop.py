"""CoOp: a context of learnt vectors in place of the words around the class name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods.base import Adapted, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle

WORDS = "a photo of a"
"""What the contexts of CoOp's family begin with, where they are not random."""


@dataclass(frozen=True)
class ContextSettings(Settings):
    """Settings of a learnt context.

    Attributes:
        words: Whose embeddings the context begins with, one token a word; None = it is drawn, N(0, 0.02^2).
        num_context: Tokens of the context; None = as many as there are words, of a random one 16.
    """

    words: str | None = None
    num_context: int | None = ranged(None, 1)

    method = "coop"
    random_tokens = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words is not None and not self.text:
            raise ConfigError(f"{self.method}'s words must be a word or more, or none, got {self.words!r}")
        if self.text and self.num_context not in (None, len(self.text.split())):
            raise ConfigError(
                f"{self.method}'s num_context must be {len(self.text.split())}, the number of its words "
                f"{self.text!r}, got {self.num_context}; leave it out, or take words=none for a random context"
            )

    @property
    def text(self) -> str | None:
        """The words, in which underscores become spaces."""
        return None if self.words is None else " ".join(self.words.replace("_", " ").split())

    @property
    def count(self) -> int:
        """Tokens of the context."""
        return len(self.text.split()) if self.text else self.num_context or self.random_tokens


@dataclass(frozen=True)
class CoopSettings(ContextSettings):
    """Settings of CoOp; see `ContextSettings`.

    Attributes:
        class_contexts: Whether each class has a context of its own, so that there is no answer for other classes.
        name_position: Where the class name stands: behind the context, in its middle or before it.
    """

    class_contexts: bool = False
    name_position: Literal["end", "middle", "front"] = "end"


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: CoopSettings
) -> Adapted:
    """Return CoOp on a model that stays as it is."""
    from clipfit_cli.methods._contexts import LearntContext
    from clipfit_cli.methods._prompted import check_towers

    check_towers(bundle.model, "coop", "text")
    return LearntContext(
        bundle,
        class_names,
        prompt_templates,
        count=settings.count,
        words=settings.text,
        of_each=settings.class_contexts,
        position=settings.name_position,
    )


def context_of(model: nn.Module, method: str, settings: ContextSettings, *classes: int) -> Trained:
    """Return the context as a method describes it.

    Args:
        model: The CLIP model; on the meta device too.
        method: For the message.
        settings: Of the context.
        classes: How many there are, where each has a context of its own.

    Raises:
        ModelError: The text tower takes no context.
    """
    from clipfit_cli.methods._prompted import check_towers
    from clipfit_cli.models.contexts import text_width

    check_towers(model, method, "text")
    return Trained("context", (*classes, settings.count, text_width(model)), "text")


def describe(model: nn.Module, settings: CoopSettings, num_classes: int, _: int) -> list[Trained]:
    """Return what trains."""
    return [context_of(model, "coop", settings, *([num_classes] if settings.class_contexts else []))]


def recipe(conditions: Conditions, _: CoopSettings) -> tuple[Recipe, ...]:
    """Return the one stage, shorter with few shots of all classes and on ImageNet.

    On `textures` 20 epochs at a higher rate: ours.

    Source: CoOp ff61507c, README and scripts.
    """
    if conditions.dataset == TEXTURES:
        return (Recipe(epochs=20, lr=0.02),)
    few = {1: 50, 2: 100, 3: 100, 4: 100} if conditions.protocol != "base2new" else {}
    return (Recipe(epochs=50 if conditions.dataset == "imagenet" else few.get(conditions.shots or 0, 200)),)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the words that the context begins with in tests of other classes; else it is random.

    Source: CoOp ff61507c, README and scripts.
    """
    return {"words": WORDS} if conditions.protocol in ("base2new", "xdataset") else {}


METHOD = MethodInfo(
    name="coop",
    summary="vectors in place of the words before the class name, the same for all classes, cross-entropy",
    source="Zhou et al., IJCV 2022, arXiv 2109.01134; official code at ff61507c",
    family="prompts",
    new_classes=lambda settings: not settings.class_contexts,
    settings=CoopSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    presets=presets,
    starts_at_zero_shot=False,
    preset_source="README and scripts of CoOp at ff61507c; textures: ours",
)
