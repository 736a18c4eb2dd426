"""CLIPFit on parts of what it tunes: which biases, which LayerNorms, how many numbers, and that no other one moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Recipe, TrainingConfig
from clipfit_cli.engine.train import optimiser_of, seeded
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.methods import resolve
from clipfit_cli.methods._some_numbers import PartlyTuned, drawn, num_of
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import recorded
from clipfit_cli.methods.clipfit import ClipfitSettings, attach, factors
from clipfit_cli.models import towers
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.protocols.compare import plan
from clipfit_cli.results.keys import training_key
from tests.kinds import ALL_KINDS
from tests.methods.test_tuned_encoders import LABELS, NAMES, TEMPLATES, bundle_of_kind, images_for

CLIPFIT = methods.get("clipfit")
TEXT = "transformer.resblocks.{}.{}"
SHARES = (1.0, 3.0, 10.0, 30.0, 100.0)
CPU = torch.device("cpu")


def tuned(bundle: ClipBundle, seed: int = 1, **settings: Any) -> TunedEncoders:
    with seeded(seed, CPU):
        adapted = attach(bundle, NAMES, TEMPLATES, ClipfitSettings(**settings))
    assert isinstance(adapted, TunedEncoders)
    return adapted


def described(bundle: ClipBundle, seed: int = 1, **settings: Any) -> dict[str, int]:
    with seeded(seed, CPU):
        found = CLIPFIT.describe(bundle.model, ClipfitSettings(**settings), 3, 4)
    return {one.name: one.num_values for one in found}


def fitted(adapted: TunedEncoders, images: Tensor, *, steps: int = 3, at_a_time: int = 4) -> dict[str, Tensor]:
    """Train as the engine does: its optimiser, with momentum and more decay than any recipe has."""
    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=0.5)
    groups = adapted.parameters()
    optimiser = optimiser_of(groups, recipe)
    for _ in range(steps):
        optimiser.zero_grad()
        for part, own in zip(torch.split(images, at_a_time), torch.split(LABELS, at_a_time), strict=True):
            torch.autograd.backward(adapted.loss(part, own)[0] * (len(part) / len(images)))
        optimiser.step()
    return adapted.state()


# which


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"text_blocks": "first-1"}, [TEXT.format(0, "mlp.c_proj.bias")]),
        ({"text_blocks": "last-1"}, [TEXT.format(1, "mlp.c_proj.bias")]),
        ({"text_blocks": "every-2"}, [TEXT.format(0, "mlp.c_proj.bias")]),
        ({"text_blocks": "1"}, [TEXT.format(1, "mlp.c_proj.bias")]),
        ({"text_blocks": "0-1"}, [TEXT.format(block, "mlp.c_proj.bias") for block in (0, 1)]),
        (
            {"text_biases": "attention", "text_blocks": "last-1"},
            [TEXT.format(1, name) for name in ("attn.in_proj_bias", "attn.out_proj.bias")],
        ),
        (
            {"text_biases": "all", "text_blocks": "first-1"},
            [
                TEXT.format(0, f"{name}bias")
                for name in ("ln_1.", "attn.in_proj_", "attn.out_proj.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
            ],
        ),
    ],
)
def test_biases_of_blocks(settings: dict[str, Any], names: list[str], small_clip: ClipBundle) -> None:
    assert sorted(described(small_clip, image_layer_norms="none", **settings)) == sorted(names)


@pytest.mark.parametrize(
    ("settings", "parts", "kinds"),
    [
        ({"image_layer_norms": "before"}, {"ln_pre"}, {"weight", "bias"}),
        ({"image_layer_norms": "after"}, {"ln_post"}, {"weight", "bias"}),
        ({"image_layer_norms": "blocks"}, {"transformer"}, {"weight", "bias"}),
        ({"layer_norm_parts": "gains"}, {"ln_pre", "transformer", "ln_post"}, {"weight"}),
        ({"image_layer_norms": "first-1", "layer_norm_parts": "shifts"}, {"ln_pre", "transformer"}, {"bias"}),
    ],
)
def test_norms_of_places(settings: dict[str, Any], parts: set[str], kinds: set[str], small_clip: ClipBundle) -> None:
    names = list(described(small_clip, text_biases="none", **settings))
    assert {name.split(".")[1] for name in names} == parts and {name.split(".")[-1] for name in names} == kinds
    assert len(names) == len(kinds) * ((2 if settings.get("image_layer_norms") == "first-1" else 4) * (
        "transformer" in parts
    ) + len(parts - {"transformer"}))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_blocks": "first"}, "text_blocks must be all or blocks such as 0-5, first-4"),
        ({"text_blocks": "none"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "every-0"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "first-0"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "-1"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "every--2"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "0,0"}, "text_blocks must be all or blocks"),
        ({"text_blocks": "\N{ARABIC-INDIC DIGIT ONE}"}, "text_blocks must be all or blocks"),
        ({"image_layer_norms": "last-0"}, "image_layer_norms must be all, none or blocks"),
        ({"text_blocks": "3-1"}, "text_blocks '3-1' ends before it begins"),
        ({"text_blocks": "9" * 5000}, r"text_blocks must be all or blocks .* '9{140} ... 9{40}'$"),
        ({"text_blocks": "0", "text_biases": "none"}, "text_blocks says nothing with text_biases=none"),
        ({"layer_norm_parts": "gains", "image_layer_norms": "none"}, "layer_norm_parts says nothing"),
        ({"image_layer_norms": "behind"}, "or a place among blocks, before and after, got 'behind'"),
        ({"tuned_pct": 0.0}, "above 0 and at most 100, got 0.0"),
        ({"tuned_pct": 100.1}, "above 0 and at most 100"),
        ({"tuned_pct": float("nan")}, "above 0 and at most 100"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipfitSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"text_blocks": "first-3"}, ConfigError, "'first-3' is outside the text tower, which has 2"),
        ({"text_blocks": "last-3"}, ConfigError, "'last-3' is outside the text tower"),
        ({"text_blocks": "2"}, ConfigError, "'2' is outside the text tower"),
        ({"text_blocks": "1-2"}, ConfigError, "'1-2' is outside the text tower"),
        ({"text_blocks": "every-3"}, ConfigError, "'every-3' is outside the text tower, which has 2"),
        ({"image_layer_norms": "every-99"}, ConfigError, "'every-99' is outside the image tower, which has 2"),
        ({"image_layer_norms": "last-3"}, ConfigError, "'last-3' is outside the image tower, which has 2"),
    ],
)
def test_what_a_tower_lacks(settings: dict[str, Any], error: type[Exception], message: str, small_clip: ClipBundle) -> None:  # fmt: skip  # noqa: E501
    with pytest.raises(error, match=message):
        described(small_clip, **settings)


@pytest.mark.parametrize("settings", [{"image_layer_norms": "blocks"}, {"layer_norm_parts": "gains"}])
def test_a_resnet_has_no_norms_to_choose_from(settings: dict[str, Any], small_resnet_clip: ClipBundle) -> None:
    with pytest.raises(ModelError, match="the image tower is a ResNet, "):
        described(small_resnet_clip, **settings)


# how many


@pytest.mark.parametrize(
    ("num_all", "pct", "expected"),
    [(3456, 1, 35), (3456, 3, 104), (3456, 10, 346), (3456, 30, 1037), (46080, 1, 461), (50, 1, 1), (49, 1, 1),
     (150, 1, 2), (250, 1, 3), (10, 100, 10), (1000, 0.1, 1), (46080, 12.5, 5760)],
)  # fmt: skip
def test_a_share_is_rounded_halves_up(num_all: int, pct: float, expected: int) -> None:
    assert num_of(num_all, pct) == expected
    sizes = {"a": num_all // 2, "b": num_all - num_all // 2}
    assert sum(map(len, drawn(sizes, pct, 1).values())) == expected


def flat(sizes: dict[str, int], positions: dict[str, Tensor]) -> set[tuple[str, int]]:
    assert all(len(one) and one.max() < sizes[name] for name, one in positions.items())
    return {(name, place) for name, one in positions.items() for place in one.tolist()}


def test_shares_are_nested_and_depend_on_seed_and_names_alone() -> None:
    sizes = {"x.weight": 700, "y.bias": 300, "z.bias": 1}
    found = [flat(sizes, drawn(sizes, share, 4)) for share in SHARES]
    assert [len(one) for one in found] == [10, 30, 100, 300, 1001]
    assert all(smaller < larger for smaller, larger in pairwise(found))
    torch.rand(5)
    assert flat(sizes, drawn(dict(reversed(sizes.items())), 10, 4)) == found[2]
    assert flat(sizes, drawn(sizes, 10, 5)) != found[2]
    renamed = {name.replace("x", "w"): size for name, size in sizes.items()}
    assert {place for name, place in flat(renamed, drawn(renamed, 10, 4)) if name == "w.weight"} != {
        place for name, place in found[2] if name == "x.weight"
    }
    first_half = sum(name == "x.weight" and place < 350 for name, place in found[3])
    assert 60 < first_half < 150, "by lot: about 105 of the first 350"


@pytest.mark.parametrize("share", SHARES[:-1])
def test_no_other_number_moves(share: float, small_clip: ClipBundle) -> None:
    images = images_for(small_clip)
    adapted = tuned(small_clip, tuned_pct=share, beta=2.0)
    before, after = adapted.state(), fitted(adapted, images)
    sizes = {name: tensor.numel() for name, tensor in before.items()}
    moved = {(name, place) for name in before for place in (before[name] != after[name]).nonzero().flatten().tolist()}
    mask = flat(sizes, drawn(sizes, share, 1))
    assert moved <= mask and len(moved) > 0.8 * len(mask)
    assert sum(described(small_clip, tuned_pct=share).values()) == len(mask) == num_of(sum(sizes.values()), share)
    pristine = dict(small_clip.model.named_parameters())
    for name, tensor in after.items():
        others = [place for place in range(sizes[name]) if (name, place) not in mask]
        assert torch.equal(tensor[others], pristine[name].detach()[others]), name
    (group,) = adapted.parameters()
    assert sum(one.numel() for one in group.parameters) == len(mask)


def test_what_is_drawn_of_all_is_clipfit_bit_for_bit(small_clip: ClipBundle) -> None:
    """The vectors that train, and what goes between them and the model, cost no bit."""
    images = images_for(small_clip)
    whole = tuned(small_clip)
    assert type(whole) is TunedEncoders and type(tuned(small_clip, tuned_pct=100.0)) is TunedEncoders
    sizes = {name: tensor.numel() for name, tensor in whole.state().items()}
    partly = PartlyTuned(
        small_clip,
        NAMES,
        TEMPLATES,
        trained=list(sizes),
        penalty=whole._penalty,
        positions=drawn(sizes, 100, 1),
    )
    for at_a_time in (4, 2):
        found, expected = (fitted(one, images, steps=2, at_a_time=at_a_time) for one in (partly, whole))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        logits = [one.classifier(NAMES, TEMPLATES)(images) for one in (partly, whole)]
        assert torch.equal(*logits)


def test_a_share_is_loaded_whatever_was_drawn(small_clip: ClipBundle) -> None:
    images = images_for(small_clip)
    first = tuned(small_clip, tuned_pct=10.0)
    state = fitted(first, images)
    other = tuned(small_clip, seed=2, tuned_pct=10.0)
    other.load(state)
    assert torch.equal(other.classifier(NAMES, TEMPLATES)(images), first.classifier(NAMES, TEMPLATES)(images))
    merged = dict(other.merged_model().named_parameters())
    assert all(torch.equal(merged[name], tensor) for name, tensor in state.items())
    again = tuned(small_clip, tuned_pct=10.0)
    again.load(state)
    longer, at_once = fitted(again, images, steps=1), tuned(small_clip, tuned_pct=10.0)
    at_once.load(state)
    expected = fitted(at_once, images, steps=1)
    assert all(torch.equal(longer[name], expected[name]) for name in state)
    assert any(not torch.equal(longer[name], state[name]) for name in state), "it trains on from what was loaded"


def test_one_number_alone_is_of_one_tower(small_clip: ClipBundle) -> None:
    adapted = tuned(small_clip, tuned_pct=0.001)
    before, after = adapted.state(), fitted(adapted, images_for(small_clip))
    assert sum(int((before[name] != after[name]).sum()) for name in before) == 1
    assert sum(described(small_clip, tuned_pct=0.001).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"tuned_pct": 10.0}, {"text_biases": "attention", "image_layer_norms": "blocks"}])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_of_tower(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    bundle = bundle_of_kind(kind, tmp_path)
    if kind == "resnet" and "image_layer_norms" in settings:
        return
    adapted = tuned(bundle, **settings)
    before, after = adapted.state(), fitted(adapted, images_for(bundle), steps=1)
    moved = {name: int((before[name] != after[name]).sum()) for name in before}
    statistics = set(towers.batch_norm_buffers(bundle.model))
    count = described(bundle, **settings)
    own = {name: number for name, number in moved.items() if number and name not in statistics}
    assert own and set(own) <= set(count) and all(number <= count[name] for name, number in own.items())


@pytest.mark.slow
def test_the_contract_holds_for_a_share() -> None:
    """All of it, but that a whole tensor is in the state of which some numbers train."""
    from clipfit_cli.testing import answers, steps, told

    class Partly(ClipfitSettings):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{"tuned_pct": 30.0, **given})

    info = replace(CLIPFIT, settings=Partly)
    for own in (*told.CHECKS, *steps.CHECKS, *answers.CHECKS):
        if own.__name__ not in ("check_described", "check_settings"):
            own(info)
    assert info.settings().tuned_pct == 30


# what of it is in keys


TODAY = [
    ("few-shot", "textures", {}, "eaa6669cde8569e4165223846d235fabe607df1bd682b3ef5edaf57c5b73d849"),
    ("base2new", "dtd", {}, "7cb5f34493ceb6e6591510edefe8ee89541ead940cc0c362d34b8fcfa410f335"),
    (
        "few-shot",
        "eurosat",
        {"text_biases": "all", "image_layer_norms": "0-5", "regulariser": "mse"},
        "dc1ed21a68c0ee91d95f4c3a81979736663a37b1c6ce84d5bd2237127f518f7f",
    ),
]
"""Keys of 0.3.0, in which `text_blocks`, `layer_norm_parts` and `tuned_pct` are left out at their defaults."""


def key_of(protocol: str, dataset: str, overrides: dict[str, str]) -> str:
    from clipfit_cli.config import MethodChoice, Request

    (config,) = plan(protocol, Request(datasets=(dataset,), methods=(MethodChoice("clipfit", overrides),), seeds=(1,)))
    training = TrainingConfig(**{name: getattr(config, name) for name in TrainingConfig.__dataclass_fields__})
    return training_key(training, split_sha256="s" * 64, images_sha256="i" * 64, weights_sha256="w" * 64)


@pytest.mark.parametrize(("protocol", "dataset", "overrides", "key"), TODAY)
def test_keys_stay(protocol: str, dataset: str, overrides: dict[str, str], key: str) -> None:
    defaults = {"text_blocks": "all", "layer_norm_parts": "both", "tuned_pct": "100"}
    assert key_of(protocol, dataset, overrides) == key_of(protocol, dataset, {**overrides, **defaults}) == key
    others = [{"text_blocks": "0"}, {"layer_norm_parts": "gains"}, {"tuned_pct": "30"}, {"tuned_pct": "10"}]
    assert len({key, *(key_of(protocol, dataset, {**overrides, **one}) for one in others)}) == 5


def test_records_leave_out_what_came_later_at_its_default() -> None:
    made = ClipfitSettings(tuned_pct=3.0)
    assert recorded(made) == {**resolve(CLIPFIT, {}).settings, "tuned_pct": 3.0}
    assert CLIPFIT.all_settings(recorded(made)) == vars(made)
    assert set(resolve(CLIPFIT, {}).settings) == {"beta", "text_biases", "image_layer_norms", "regulariser"}


# what is varied


@pytest.mark.parametrize("backbone", ["clipfit-tiny", "ViT-B-16"])
def test_the_grid_fits(backbone: str) -> None:
    model = build_on_meta(backbone)
    found = factors(model)
    assert set(found) == {"biases", "layer-norms", "fraction", "beta"}
    counts = {}
    for factor, one in found.items():
        for level in one.levels:
            key = (factor, *level.values())
            settings = ClipfitSettings(**resolve(CLIPFIT, level, Conditions()).settings)
            counts[key] = sum(each.num_values for each in CLIPFIT.describe(model, settings, 5, 5))
    assert 1 + len(counts) <= 24 and len(counts) == sum(len(one.levels) for one in found.values())
    if backbone == "ViT-B-16":
        assert [counts["fraction", share] for share in ("1", "3", "10", "30")] == [461, 1382, 4608, 13824]
        assert counts["beta", "0"] == 46080 and counts["biases", "none"] == 39936
        assert counts["layer-norms", "gains"] == counts["layer-norms", "shifts"] == 6144 + 19968
        assert counts["biases", "attention"] == 39936 + 12 * 4 * 512
        assert counts["biases", "first-6"] == 39936 + 3072
