"""Plain readings of a hooked tower: open_clip's own blocks on whole padded sequences, and changed weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from clipfit_cli.models.encode import NO_SHORTCUTS, Shortcuts
from clipfit_cli.models.text_features import class_prompts
from tests.kinds import KINDS, build

WIDTH = {"image": 48, "text": 32}
CONFIG: dict[str, Any] = {
    **KINDS["vit"],
    "vision_cfg": {**KINDS["vit"]["vision_cfg"], "layers": 3},
    "text_cfg": {**KINDS["vit"]["text_cfg"], "layers": 3},
}
TEXTS = class_prompts(["cat", "polka-dotted, spiralled thing", "x", "red tractor"], ["a photo of a {}.", "the {}!"])
IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()
SHORTCUTS = {
    "none": NO_SHORTCUTS,
    "trim": replace(NO_SHORTCUTS, trim=True),
    "pack": Shortcuts(share_prefix=False, last_block=False),
    "own-prefix": Shortcuts(share_prefix=False),
    "all": Shortcuts(),
}


@lru_cache
def hooked_model() -> Any:
    """Return a model in float64, where nothing but a mistake is as large as 1e-9."""
    return build(CONFIG, seed=2).double().eval().requires_grad_(False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return (0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()).requires_grad_(True)


def gradients_of(features: Tensor, values: list[Tensor]) -> list[Tensor]:
    """The gradients of a loss that tells the features apart: softmax over them against themselves in a new order."""
    loss = nn.functional.cross_entropy(3 * features.flatten(1), torch.arange(len(features)) % features.shape[-1])
    return list(torch.autograd.grad(loss, values, retain_graph=True))


def assert_alike(ours: Tensor, plain: Tensor, values: list[Tensor]) -> None:
    """Features, and gradients of the values that both were made of."""
    assert ours.shape == plain.shape
    assert float((ours - plain).detach().norm() / plain.detach().norm()) < 1e-9
    for mine, theirs in zip(gradients_of(ours, values), gradients_of(plain, values), strict=True):
        assert float(theirs.norm()) > 1e-4
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-9


Change = Callable[[int, Tensor], Tensor]
"""(block, states (batch, length, width)) -> states; block -1 is what comes behind the positional embedding."""


def plain_image(model: Any, change: Change, read: int = 1) -> Tensor:
    visual = model.visual
    x = visual.conv1(IMAGES).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(change(-1, x))
    for index, block in enumerate(visual.transformer.resblocks):
        x = block(change(index, x))
    x = visual.ln_post(x)
    return x[:, :read] if read > 1 else x[:, 0] @ visual.proj  # type: ignore[no-any-return]


def plain_text(model: Any, tokens: Tensor, change: Change) -> Tensor:
    x = change(-1, model.token_embedding(tokens) + model.positional_embedding)
    for index, block in enumerate(model.transformer.resblocks):
        x = change(index, x)
        x = block(x, attn_mask=x.new_full((x.shape[1], x.shape[1]), -math.inf).triu(1))
    ends = tokens.argmax(dim=-1) + x.shape[1] - tokens.shape[1]
    return model.ln_final(x[torch.arange(len(x)), ends]) @ model.text_projection  # type: ignore[no-any-return]


@dataclass
class LowRank:
    """Of every block and each of its projections, down (rank, width) and up (width, rank)."""

    down: dict[tuple[int, str], Tensor]
    up: dict[tuple[int, str], Tensor]

    def __call__(self, index: int, name: str, inputs: Tensor) -> Tensor | None:
        if (index, name) not in self.down:
            return None
        return inputs @ self.down[index, name].T @ self.up[index, name].T

    def in_proj(self, model: nn.Module, tower: str) -> dict[str, Tensor]:
        prefix, width = ("visual." if tower == "image" else ""), WIDTH[tower]
        weights = {}
        for index in range(3):
            name = f"{prefix}transformer.resblocks.{index}.attn.in_proj_weight"
            nothing = torch.zeros(width, width, dtype=torch.float64)
            products = [self.up[index, p] @ self.down[index, p] if (index, p) in self.up else nothing for p in "qkv"]
            weights[name] = model.get_parameter(name) + torch.cat(products)
        return weights

    def tensors(self) -> list[Tensor]:
        return [*self.down.values(), *self.up.values()]


def low_rank(tower: str, names: str = "qkv", rank: int = 5) -> LowRank:
    at = [(index, name) for index in range(3) for name in names]
    down = {place: random(rank, WIDTH[tower], seed=seed) for seed, place in enumerate(at)}
    return LowRank(down, {place: random(WIDTH[tower], rank, seed=50 + seed) for seed, place in enumerate(at)})
