"""CLIPFit: feed-forward output biases of the text tower, LayerNorms of the image tower, distilled class features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, ranged
from clipfit_cli.errors import ConfigError, ModelError, shortened
from clipfit_cli.methods._official import official_method, parameters_of
from clipfit_cli.methods.base import Adapted, Factor, Settings, Trained, later

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.methods._tuned_encoders import Encoders, Penalty
    from clipfit_cli.models.bundle import ClipBundle

_BETA_8 = ("dtd", "sun397", TEXTURES)
_BLOCKS = re.compile(
    r"(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?|(?P<word>first|last|every)-(?P<number>[1-9]\d{0,8})", re.ASCII
)
_BLOCK_WORDS = "blocks such as 0-5, first-4, last-4 or every-2"
_PLACES = ("blocks", "before", "after")


@dataclass(frozen=True)
class ClipfitSettings(Settings):
    """Settings of CLIPFit; the defaults are the method, the others ablations: the paper's, and those of `factors`.

    Attributes:
        beta: Weight of the regulariser (called lambda in the official code).
        text_biases: ``c_proj``: bias of the last linear layer of every feed-forward block; ``attention``: biases of
            the linear layers within attention; ``all``: every bias of the text tower; ``none``.
        image_layer_norms: ``all``; ``none``; ``blocks``, ``before`` or ``after`` them; or blocks such as ``0-5`` or
            ``11``, counted from 0, ``first-4``, ``last-4``, or ``every-2``, which is 0, 2, 4 and so on. Where blocks
            are counted, the norm before the first counts to it, the norm after the last to that.
        regulariser: ``kd``: 1 - mean cosine between tuned and zero-shot class features; ``mse``: mean squared
            change of the tuned text biases; ``none``.
        text_blocks: Whose biases train: ``all``, those outside of blocks too, or blocks as above.
        layer_norm_parts: ``gains`` or ``shifts`` of those LayerNorms alone, or ``both``.
        tuned_pct: Share, in percent, of all these numbers that train, drawn by lot from the run's seed; what a smaller
            share draws is among that of a larger one.
    """

    beta: float = ranged(8.0, 0)
    text_biases: Literal["c_proj", "attention", "all", "none"] = "c_proj"
    image_layer_norms: str = "all"
    regulariser: Literal["kd", "mse", "none"] = "kd"
    text_blocks: str = later("all")
    layer_norm_parts: Literal["both", "gains", "shifts"] = later("both")
    tuned_pct: float = later(100.0, SMALLEST, 100)

    def __post_init__(self) -> None:
        super().__post_init__()
        norms, blocks, no_text = self.image_layer_norms, self.text_blocks, self.text_biases == "none"
        norm_blocks, places = _BLOCKS.fullmatch(norms), ", ".join(_PLACES[:-1]) + f" and {_PLACES[-1]}"
        refusals = {
            f"clipfit's image_layer_norms must be all, none or {_BLOCK_WORDS}, or a place among {places}, got "
            f"{shortened(norms)!r}": norms not in ("all", "none", *_PLACES) and not norm_blocks,
            f"clipfit's text_blocks must be all or {_BLOCK_WORDS}, got {shortened(blocks)!r}": (
                blocks != "all" and not _BLOCKS.fullmatch(blocks)
            ),
            **{
                f"clipfit's {name} {text!r} ends before it begins": _ends_early(text)
                for name, text in (("image_layer_norms", norms), ("text_blocks", blocks))
            },
            "clipfit has nothing to train with text_biases=none and image_layer_norms=none": (
                no_text and norms == "none"
            ),
            "clipfit's regulariser=mse acts on the text biases, so text_biases must not be none": (
                no_text and self.regulariser == "mse"
            ),
            "clipfit's text_blocks says nothing with text_biases=none; leave one of them out": (
                no_text and blocks != "all"
            ),
            "clipfit's layer_norm_parts says nothing with image_layer_norms=none; leave one of them out": (
                norms == "none" and self.layer_norm_parts != "both"
            ),
        }
        for message, applies in refusals.items():
            if applies:
                raise ConfigError(message)


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: ClipfitSettings
) -> Adapted:
    """Return CLIPFit on a copy of the model."""
    from clipfit_cli.methods._some_numbers import PartlyTuned
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names, penalty = require_some(trained(bundle.model, settings), "clipfit"), _penalty(bundle, settings)
    if settings.tuned_pct == 100:
        return TunedEncoders(bundle, class_names, prompt_templates, trained=names, penalty=penalty)
    positions = _positions(bundle.model, names, settings)
    return PartlyTuned(bundle, class_names, prompt_templates, trained=names, penalty=penalty, positions=positions)


def trained(model: nn.Module, settings: ClipfitSettings) -> list[str]:
    """Return the names of the parameters that train, the image tower's first.

    Raises:
        ConfigError: The image tower has no such block.
        ModelError: It cannot be told with certainty which they are.
    """
    return [*_image_names(model, settings), *_text_names(model, settings)]


def describe(model: nn.Module, settings: ClipfitSettings, *_: int) -> list[Trained]:
    """Return what trains; of a share, how many numbers of each tensor depends on the seed, but not how many in all."""
    names = trained(model, settings)
    whole = parameters_of(model, names)
    if settings.tuned_pct == 100 or not names:
        return whole
    positions = _positions(model, names, settings)
    return [one._replace(shape=(len(positions[one.name]),)) for one in whole if one.name in positions]


def _positions(model: nn.Module, names: Sequence[str], settings: ClipfitSettings) -> dict[str, Tensor]:
    """Return which numbers train, by the seed that torch's generator was started from."""
    import torch

    from clipfit_cli.methods._some_numbers import drawn

    sizes = {name: model.get_parameter(name).numel() for name in names}
    return drawn(sizes, settings.tuned_pct, torch.initial_seed())


def _text_names(model: nn.Module, settings: ClipfitSettings) -> list[str]:
    from clipfit_cli.models import places, towers

    if settings.text_biases == "none":
        return []
    if settings.text_biases == "attention":
        names = places.attention_biases(model)
    elif settings.text_biases == "all":
        names = towers.bias_parameters(model, "text")
    else:
        names = towers.feed_forward_output_biases(model)
    if settings.text_blocks == "all":
        return names
    blocks = [name for name, _ in towers.text_blocks(model)]
    wanted = [blocks[index] for index in _indices("text_blocks", settings.text_blocks, len(blocks), "text")]
    return [name for name in names if places.is_within(name, wanted)]


def _image_names(model: nn.Module, settings: ClipfitSettings) -> list[str]:
    from clipfit_cli.models import places, towers

    which, parts = settings.image_layer_norms, settings.layer_norm_parts
    if which == "none":
        return []
    if which == "all":
        names = towers.layer_norm_parameters(model, "image")
    elif which in _PLACES:
        names = places.image_norms(model, cast("places.Place", which))
    else:
        wanted = _indices("image_layer_norms", which, len(towers.image_blocks(model)), "image")
        names = [name for name, block in towers.block_of_image_norms(model).items() if block in wanted]
    if parts == "both":
        return names
    found = places.of_one_kind(names, parts)
    if not found:
        raise ModelError(f"the image tower is a {towers.kinds_of(model).image}, whose LayerNorms have no {parts} there")
    return found


def _ends_early(blocks: str) -> bool:
    match = _BLOCKS.fullmatch(blocks)
    return bool(match and match["last"] and int(match["last"]) < int(match["first"]))


def _indices(setting: str, text: str, count: int, tower: str) -> range:
    """Return the blocks that a text means.

    Raises:
        ConfigError: The tower has not so many.
    """
    match = _BLOCKS.fullmatch(text)
    assert match
    if match["word"]:
        end = number = int(match["number"])
        found = {
            "first": range(number),
            "last": range(count - number, count),
            "every": range(0, count, number),
        }[match["word"]]
    else:
        found = range(int(match["first"]), int(match["last"] or match["first"]) + 1)
        end = found.stop
    if end > count:
        raise ConfigError(
            f"clipfit's {setting} {text!r} is outside the {tower} tower, which has {count} transformer blocks"
        )
    return found


def factors(model: nn.Module) -> dict[str, Factor]:
    """Return what `clipfit sensitivity` varies around the defaults, with n as half of the text tower's blocks."""
    from clipfit_cli.models import towers

    half = max(1, sum(1 for _ in towers.text_blocks(model)) // 2)
    biases = [{"text_biases": which} for which in ("none", "attention", "all")]
    blocks = [{"text_blocks": which} for which in (f"first-{half}", f"last-{half}", "every-2")]
    places = [{"image_layer_norms": where} for where in ("none", *_PLACES)]
    parts = [{"layer_norm_parts": part} for part in ("gains", "shifts")]
    return {
        "biases": Factor([*biases, *blocks]),
        "layer-norms": Factor([*places, *parts]),
        "fraction": Factor([{"tuned_pct": share} for share in ("1", "3", "10", "30")]),
        "beta": Factor([{"beta": value} for value in ("0", "0.5", "2", "8", "32")], selects=False),
    }


def _penalty(bundle: ClipBundle, settings: ClipfitSettings) -> Penalty | None:
    if settings.regulariser == "none" or settings.beta == 0:
        return None
    if settings.regulariser == "kd":

        def distillation(encoders: Encoders, text_features: Tensor) -> Tensor:
            return settings.beta * (1 - (text_features * encoders.zero_shot_features()).sum(dim=-1).mean())

        return distillation

    import torch

    before = {name: bundle.model.get_parameter(name) for name in _text_names(bundle.model, settings)}

    def bias_change(encoders: Encoders, _: Tensor) -> Tensor:
        squares = [((encoders.model.get_parameter(name) - old) ** 2).flatten() for name, old in before.items()]
        return settings.beta * torch.cat(squares).mean()

    return bias_change


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the beta of the paper's runs: 2 with all classes, on three data sets 8; 8 across classes and data sets.

    Source: README of the CLIPFit repository at 4dde0494, and the value that it ships; `textures` is ours.
    """
    return {"beta": 2.0 if conditions.protocol == "few-shot" and conditions.dataset not in _BETA_8 else 8.0}


METHOD = replace(
    official_method(
        name="clipfit",
        summary="text feed-forward output biases and image LayerNorms, cross-entropy plus distilled class features",
        source="Li et al., EMNLP 2024, arXiv 2409.16718; official code at 4dde0494",
        settings=ClipfitSettings,
        trained=trained,
        attach=attach,
        presets=presets,
        factors=factors,
    ),
    describe=describe,
)
