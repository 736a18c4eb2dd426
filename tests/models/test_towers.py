"""Which parameters are what, counted on the architectures themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import open_clip
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipfit_cli.errors import ModelError
from clipfit_cli.models import towers
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import golden_json
from tests.kinds import ALL_KINDS, KINDS, build, config_of, hugging_face_kind

MEASURED = [
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-B-32-quickgelu",
    "ViT-L-14-quickgelu",
    "RN50-quickgelu",
    "RN101-quickgelu",
    "ViT-B-16-SigLIP",
    "coca_ViT-B-32",
    "convnext_base",
    "EVA02-B-16",
    "MobileCLIP-B",
    "roberta-local-ViT-B-32",
]
KIND_WORDS = {
    "vit": ("ViT", "causal"),
    "resnet": ("ResNet", "causal"),
    "sigmoid": ("timm ViT", "not causal"),
    "timm-vit": ("timm ViT", "causal"),
    "convnext": ("timm ConvNeXt", "causal"),
    "eva": ("timm EVA", "causal"),
    "coca": ("ViT", "causal"),
    "hugging-face": ("ViT", "Hugging Face roberta"),
}


def on_meta(backbone: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    from open_clip import factory

    if backbone == "roberta-local-ViT-B-32":
        text = hugging_face_kind(folder / "r", layers=12, width=768, heads=12, vocabulary=50265, positions=514)
        config = {**open_clip.get_model_config("ViT-B-32"), "custom_text": True, "text_cfg": text["text_cfg"]}
        monkeypatch.setitem(factory._MODEL_CONFIGS, backbone, config)
    return build_on_meta(backbone)


def count(model: torch.nn.Module, names: list[str]) -> list[int]:
    return [len(names), sum(model.get_parameter(name).numel() for name in names)]


@pytest.fixture(scope="module")
def golden_counts() -> dict[str, Any]:
    counts: dict[str, Any] = golden_json("param_counts.json")
    return counts


@pytest.mark.parametrize("backbone", MEASURED)
def test_counts_of_real_architectures(
    backbone: str, golden_counts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, golden = on_meta(backbone, tmp_path, monkeypatch), golden_counts[backbone]
    assert sum(p.numel() for p in model.parameters()) == golden["total"]
    text = towers.feed_forward_output_biases(model)
    image = towers.layer_norm_parameters(model, "image")
    assert count(model, image) == golden["vis_module_LN"]
    if "roberta" in backbone:  # the measurement looked for open_clip's own names, and found none in this text tower
        assert text == [f"text.transformer.encoder.layer.{index}.output.dense.bias" for index in range(12)]
        assert count(model, text) == [12, 9216]
        assert sorted(image) == sorted(golden["names_clipfit"])
    else:
        assert count(model, text) == golden["ffn2_text"]
        assert sorted(image + text) == sorted(golden["names_clipfit"])
        assert count(model, image + text)[1] == golden["clipfit_by_module"]
    biases = {tower: towers.bias_parameters(model, tower) for tower in get_args(towers.Tower)}
    assert count(model, biases["image"]) == golden["bias_visual"]
    assert count(model, biases["text"]) == golden["bias_text"]
    assert count(model, biases["image"] + biases["text"])[1] == golden["bitfit_both"]
    norms = image + towers.layer_norm_parameters(model, "text")
    assert count(model, norms)[1] == golden["ln_only_both"]
    outside = [name for name, _ in model.named_parameters() if towers.tower_of(name) is None]
    assert [name for name in outside if not name.startswith("text_decoder.")] == [
        name for name in golden["non_tower_params"] if not name.startswith("text_decoder.")
    ]


def test_tunable_parameters_are_those_of_the_official_optimiser() -> None:
    model = build_on_meta("ViT-B-16")
    names = [name for tower in get_args(towers.Tower) for name in towers.tunable_parameters(model, tower)]
    assert count(model, names) == [300, 124_323_840]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_kinds_and_what_is_only_looked_up(kind: str, tmp_path: Path) -> None:
    model = build(config_of(kind, tmp_path))
    assert towers.kinds_of(model) == KIND_WORDS[kind]
    text = towers.tower_parameters(model, "text")
    looked_up = set(text) - set(towers.tunable_parameters(model, "text"))
    assert len(looked_up) == 1 and looked_up.pop().endswith(("token_embedding.weight", "word_embeddings.weight"))
    assert towers.tunable_parameters(model, "image") == towers.tower_parameters(model, "image")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_weight_of_a_kind_is_what_lay_in_memory(kind: str, tmp_path: Path) -> None:
    """Meanwhile PyTorch fills with nan what it allocates."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        model = build(config_of(kind, tmp_path))
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
    assert [name for name, weight in model.named_parameters() if not weight.isfinite().all()] == []


class SeenNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects weights and biases that go through the layer-norm kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ids: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_layer_norm.default:
            self.ids |= {id(tensor) for tensor in args[2:4]}
        return func(*args, **(kwargs or {}))


NEED_HUGGING_FACE = {
    "coca_roberta-ViT-B-32",
    "mt5-base-ViT-B-32",
    "mt5-xl-ViT-H-14",
    "nllb-clip-base",
    "nllb-clip-base-siglip",
    "nllb-clip-large",
    "nllb-clip-large-siglip",
    "roberta-ViT-B-32",
    "xlm-roberta-base-ViT-B-32",
    "xlm-roberta-large-ViT-H-14",
}


@pytest.mark.slow
def test_every_architecture_of_open_clip() -> None:
    """What is selected is what the kernel of layer norms sees, and one bias of the right width a text block."""
    absent = set()
    for backbone in open_clip.list_models():
        try:
            model: Any = build_on_meta(backbone, offline=True).eval()
        except ModelError as error:
            assert (backbone in NEED_HUGGING_FACE and "Hugging Face" in str(error)) or "text model" in str(error)
            absent.add(backbone)
            continue
        size = model.visual.image_size
        with torch.no_grad(), SeenNorms() as seen:
            model.visual(torch.empty(2, 3, *((size, size) if isinstance(size, int) else size), device="meta"))
        image = towers.layer_norm_parameters(model, "image")
        assert {id(model.get_parameter(name)) for name in image} == seen.ids - {id(None)}, backbone
        config = open_clip.get_model_config(backbone)["text_cfg"]
        layers, width = config.get("layers", 12), config.get("width", 512)
        text = towers.feed_forward_output_biases(model)
        assert count(model, text) == [layers, layers * width], backbone
        assert not any(name.startswith("text_decoder") for name in text + image), backbone
    assert absent <= NEED_HUGGING_FACE


@pytest.mark.parametrize("backbone", sorted(NEED_HUGGING_FACE)[:2])
def test_a_text_tower_that_is_not_here(backbone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clipfit_cli.models.architectures import describe

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ModelError, match=rf"\(text model of {backbone}\): not in the local cache"):
        describe(backbone)


def test_every_parameter_has_a_tower_or_belongs_to_the_logits(small_clip: ClipBundle) -> None:
    model = small_clip.model
    named = {name for name, _ in model.named_parameters()}
    divided = set(towers.tower_parameters(model, "image")) | set(towers.tower_parameters(model, "text"))
    assert named - divided == {"logit_scale"}


def test_blocks_divide_the_image_norms(small_clip: ClipBundle) -> None:
    model = small_clip.model
    blocks = towers.block_of_image_norms(model)
    assert list(blocks) == towers.layer_norm_parameters(model, "image")
    assert blocks["visual.ln_pre.weight"] == 0 and blocks["visual.ln_post.bias"] == 1
    assert blocks["visual.transformer.resblocks.1.ln_2.bias"] == 1
    assert sorted(blocks.values(), key=str) == [0] * 6 + [1] * 6


def test_a_resnet_has_no_blocks(small_resnet_clip: ClipBundle) -> None:
    assert towers.image_blocks(small_resnet_clip.model) == []
    assert towers.block_of_image_norms(small_resnet_clip.model) == {}
    assert towers.layer_norm_parameters(small_resnet_clip.model, "image") == []


def test_temperature_is_a_multiplier(small_clip: ClipBundle) -> None:
    assert float(towers.logit_scale(small_clip.model)) == pytest.approx(1 / 0.07, rel=1e-5)


def test_the_bias_of_the_logits() -> None:
    assert float(towers.logit_bias(build(KINDS["sigmoid"]).requires_grad_(False))) == -10
    assert float(towers.logit_bias(build(KINDS["vit"]))) == 0


class OddNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def test_a_norm_of_unknown_kind_is_named(small_clip: ClipBundle) -> None:
    model: Any = small_clip.model
    model.visual.add_module("extra", OddNorm())
    with pytest.raises(ModelError, match=r"visual\.extra is a OddNorm"):
        towers.layer_norm_parameters(model, "image")
    assert towers.layer_norm_parameters(model, "text")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda block: block.add_module("extra", nn.Linear(32, 5)), "does not lead back"),
        (lambda block: setattr(block.mlp, "c_proj", nn.Linear(128, 32, bias=False)), "has no bias"),
        (lambda block: setattr(block, "mlp", nn.Identity()), "0 linear layers"),
    ],
)
def test_a_feed_forward_part_of_unknown_form_is_named(spoil: Any, message: str, small_clip: ClipBundle) -> None:
    model: Any = small_clip.model
    spoil(model.transformer.resblocks[1])
    with pytest.raises(ModelError, match=rf"transformer\.resblocks\.1 .*{message}"):
        towers.feed_forward_output_biases(model)


def test_blocks_of_a_hugging_face_tower_that_cannot_be_told(tmp_path: Path) -> None:
    model: Any = build(config_of("hugging-face", tmp_path))
    model.text.transformer.add_module("twin", nn.ModuleList([nn.Identity(), nn.Identity()]))
    with pytest.raises(ModelError, match="in which 2 lists have as many modules"):
        list(towers.text_blocks(model))


def test_other_kinds_of_towers_are_refused(small_clip: ClipBundle) -> None:
    towers.check_supported(small_clip.model, "small")
    with pytest.raises(ModelError, match="Linear"):
        towers.check_supported(torch.nn.Linear(2, 3), "odd")
    small_clip.model.visual = torch.nn.Identity()
    with pytest.raises(ModelError, match="image tower of odd is a Identity"):
        towers.check_supported(small_clip.model, "odd")
    custom: Any = build(KINDS["timm-vit"])
    custom.text = nn.Identity()
    with pytest.raises(ModelError, match="text tower of odd is a Identity"):
        towers.check_supported(custom, "odd")
