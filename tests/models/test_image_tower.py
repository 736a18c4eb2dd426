"""What stands before the last projection of an image tower, and what a projection makes of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.errors import ModelError
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.encode import encode_image, tapped
from clipfit_cli.models.image_tower import image_projection, project_image, unprojected_image
from tests.kinds import ALL_KINDS, KINDS, build, config_of

PROJECTIONS = {
    "vit": "visual.proj",
    "coca": "visual.proj",
    "average": "visual.proj",
    "average-then-norm": "visual.proj",
    "hugging-face": "visual.proj",
    "resnet": "visual.attnpool.c_proj.weight",
    "timm-vit": "visual.head.proj.weight",
    "convnext": "visual.head.proj.weight",
    "timm-bias": "visual.head.proj.weight",
    "timm-attention-pool": "visual.head.proj.weight",
}
OTHERS = {
    "average": {**KINDS["vit"], "vision_cfg": {**KINDS["vit"]["vision_cfg"], "pool_type": "avg"}},
    "average-then-norm": {
        **KINDS["vit"],
        "vision_cfg": {**KINDS["vit"]["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": True},
    },
    "timm-bias": {**KINDS["timm-vit"], "vision_cfg": {**KINDS["timm-vit"]["vision_cfg"], "timm_proj_bias": True}},
    "timm-attention-pool": {
        **KINDS["convnext"],
        "vision_cfg": {**KINDS["convnext"]["vision_cfg"], "timm_pool": "abs_attn"},
    },
}


def model_of(kind: str, folder: Path) -> Any:
    config = OTHERS[kind] if kind in OTHERS else config_of(kind, folder)
    return build(config).eval().requires_grad_(False)


def images_for(model: Any) -> torch.Tensor:
    size = model.visual.image_size
    return torch.randn(5, 3, *((size, size) if isinstance(size, int) else size))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projecting_what_stands_before_gives_the_features(kind: str, half: bool, tmp_path: Path) -> None:
    model = model_of(kind, tmp_path)
    images = images_for(model)
    name = image_projection(model)
    assert name == PROJECTIONS[kind]
    weight = model.get_parameter(name)
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        features = encode_image(model, images)
        for last_block in (True, False):
            raw = encode_image(model, images, last_block=last_block)
            unprojected = encode_image(model, images, last_block=last_block, project=False)
            width = weight.shape[0] if name == "visual.proj" else weight.shape[1]
            assert unprojected.shape == (5, width) and not torch.equal(unprojected[0], unprojected[1])
            torch.testing.assert_close(project_image(model, unprojected), raw, atol=1e-6, rtol=1e-6)
        assert tapped(model, images, "image") is images
        assert torch.equal(tapped(model, images, "projected"), features)
        assert torch.equal(tapped(model, images, "unprojected"), encode_image(model, images, project=False))
        # twice the weight: twice the features, a bias but once
        doubled = project_image(model, unprojected, 2 * weight)
        bias = project_image(model, torch.zeros_like(unprojected))
    near = 0.05 if half else 1e-5
    torch.testing.assert_close(doubled.float(), 2 * raw.float() - bias.float(), atol=near, rtol=near)
    assert (float(bias.abs().max()) > 0) == (kind in ("resnet", "timm-bias"))


def test_the_model_keeps_its_projection() -> None:
    model: Any = build(OTHERS["average"]).eval()
    names = set(model.state_dict())
    unprojected_image(model, torch.randn(2, 3, 32, 32))
    assert model.visual.proj is not None and set(model.state_dict()) == names


def test_a_trained_projection_gets_the_gradient() -> None:
    model = build(KINDS["resnet"]).eval().requires_grad_(False)
    unprojected = encode_image(model, torch.randn(3, 3, 32, 32), project=False)
    weight = model.get_parameter(image_projection(model)).clone().requires_grad_(True)
    project_image(model, unprojected, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, unprojected.sum(dim=0).expand_as(weight))


@pytest.mark.parametrize(
    "backbone, name",
    [("ViT-B-16", "visual.proj"), ("RN50", PROJECTIONS["resnet"]), ("convnext_base", PROJECTIONS["convnext"])],
)
def test_it_is_known_before_the_weights_are(backbone: str, name: str) -> None:
    model = build_on_meta(backbone)
    assert image_projection(model) == name and model.get_parameter(name).device.type == "meta"


@pytest.mark.parametrize("kind, named", [("sigmoid", "timm ViT"), ("eva", "timm EVA"), ("no-projection", "ViT")])
def test_a_tower_without_one_is_named(kind: str, named: str, tmp_path: Path) -> None:
    model: Any = model_of("vit" if kind == "no-projection" else kind, tmp_path)
    if kind == "no-projection":
        model.visual.proj = None
    images = images_for(model)
    uses = (
        lambda: image_projection(model),
        lambda: project_image(model, torch.zeros(2, 48)),
        lambda: unprojected_image(model, images),
        lambda: encode_image(model, images, project=False),
        lambda: tapped(model, images, "unprojected"),
    )
    for use in uses:
        with pytest.raises(ModelError, match=f"is a {named} that does not end in one linear projection"):
            use()
    assert tapped(model, images, "projected").shape[0] == 5


def test_every_kind_is_told_apart() -> None:
    assert set(ALL_KINDS) - {"sigmoid", "eva"} <= set(PROJECTIONS)
