"""CLIP-Adapter: a small network on image features, whose output is blended with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.data.catalog import prompt_template
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._frozen import Frozen, class_features, embed_dim
from clipfit_cli.methods.base import Group, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class ClipAdapterSettings(Settings):
    """Settings of CLIP-Adapter.

    Attributes:
        ratio: Share of the network's output in the blend.
        reduction: Numbers in a feature over those in the hidden layer.
    """

    ratio: float = ranged(0.2, SMALLEST, below=1)
    reduction: int = ranged(4, 1)


class ClipAdapter(Frozen):
    """Logits of raw features x: ``exp(tau) cos(r relu(relu(x D') U') + (1 - r) x, W)``.

    D and U are the two layers, without biases, r is the ratio, tau the model's temperature and W the zero-shot class
    features. As neither layer has a bias, the length of x does not matter.
    """

    method = "clip-adapter"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: ClipAdapterSettings
    ) -> None:
        """Draw the layers as torch draws a linear layer; see `Frozen`.

        Raises:
            ConfigError: No number would be left in the hidden layer.
        """
        from torch import nn

        from clipfit_cli.models.towers import logit_scale

        super().__init__(bundle, class_names, templates)
        self._ratio, self._scale = settings.ratio, logit_scale(bundle.model)
        self._layers: dict[str, nn.Parameter] = {}
        for name, (rows, columns) in shapes(bundle.model, settings).items():
            weight = nn.Linear(columns, rows, bias=False).weight  # on the CPU, so that devices draw the same
            self._layers[name] = nn.Parameter(weight.detach().to(bundle.device))

    def parameters(self) -> list[Group]:
        return [Group(list(self._layers.values()))]

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # every class has an answer
        from torch.nn.functional import linear, relu

        from clipfit_cli.models.text_features import normalised

        scaled = self._scale * class_features(self.bundle, class_names, templates)

        def logits(inputs: Tensor) -> Tensor:
            adapted = relu(linear(relu(linear(inputs, self._layers["down"])), self._layers["up"]))
            return normalised(inputs.lerp(adapted, self._ratio)) @ scaled.T

        return logits

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies(self._layers)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back(self._layers, tensors)


def shapes(model: nn.Module, settings: ClipAdapterSettings) -> dict[str, tuple[int, int]]:
    """Return the shapes of the layers, by name.

    Raises:
        ConfigError: No number would be left in the hidden layer.
    """
    width = embed_dim(model)
    hidden = width // settings.reduction
    if not hidden:
        raise ConfigError(f"clip-adapter's reduction must be at most {width} here, got {settings.reduction}")
    return {"down": (hidden, width), "up": (width, hidden)}


def recipe(conditions: Conditions, _: ClipAdapterSettings) -> tuple[Recipe, ...]:
    """Return the one stage: CoOp's schedule, shorter with few shots and on ImageNet, over stored crops.

    The reference draws a fresh crop in every step: ``views=none``.

    Source: CLIP-Adapter 08d07f8b, README, which takes CoOp's runs; CoOp ff61507c, README; `textures` is ours.
    """
    few = {1: 50, 2: 100, 3: 100, 4: 100} if conditions.protocol != "base2new" else {}
    epochs = 50 if conditions.dataset == "imagenet" else few.get(conditions.shots or 0, 200)
    return (Recipe(lr=0.05 if conditions.dataset == TEXTURES else 0.002, epochs=epochs, views=20),)


def templates(dataset: str) -> tuple[str, ...]:
    """Return CoOp's template of a data set, of DTD a shorter one.

    Source: CLIP-Adapter 08d07f8b, its list of templates.
    """
    return ("{} texture.",) if dataset == "dtd" else (prompt_template(dataset),)


METHOD = MethodInfo(
    name="clip-adapter",
    summary="two layers on image features of the frozen tower, blended with these, cross-entropy",
    source="Gao et al., IJCV 2024, arXiv 2110.04544; official code at 08d07f8b",
    family="features",
    settings=ClipAdapterSettings,
    attach=ClipAdapter,
    recipe=recipe,
    describe=lambda model, settings, *_: [Trained(n, shape, None) for n, shape in shapes(model, settings).items()],
    templates=templates,
    starts_at_zero_shot=False,
    preset_source="README of CLIP-Adapter at 08d07f8b and of CoOp at ff61507c; textures: ours",
)
