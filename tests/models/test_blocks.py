"""Blocks against open_clip's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, QuickGELU, ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from clipfit_cli.models.blocks import attend_from, attend_within, plain_blocks, run_block, run_block_at


def block(activation: type[nn.Module], scale: float | None) -> ResidualAttentionBlock:
    torch.manual_seed(1)
    made = ResidualAttentionBlock(24, 3, act_layer=activation, ls_init_value=scale)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


@pytest.mark.parametrize("activation", [nn.GELU, QuickGELU])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("fold", [False, True])
def test_a_block_and_its_gradients(activation: type[nn.Module], scale: float | None, fold: bool) -> None:
    reference = block(activation, scale)
    states = torch.randn(3, 7, 24)
    results = []
    for run in (reference, partial(run_block, reference, attend=attend_within, fold=fold)):
        reference.zero_grad()
        start = states.clone().requires_grad_(True)
        end = run(start)
        end.square().sum().backward()
        gradients = [parameter.grad for parameter in (start, *reference.parameters())]
        assert all(gradient is not None for gradient in gradients)
        results.append([end.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)])
    assert len(results[0]) == len(results[1]) > 10
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("fold", [False, True])
def test_a_block_at_one_position(fold: bool) -> None:
    reference = block(QuickGELU, None)
    states = torch.randn(5, 7, 24)
    with torch.no_grad():
        ours = run_block_at(reference, states, lambda rows: rows[:, 0], attend_from, fold=fold)
        torch.testing.assert_close(ours, reference(states)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fold", [False, True])
def test_a_block_at_several_positions(fold: bool) -> None:
    reference = block(QuickGELU, 0.5)
    states = torch.randn(5, 7, 24)
    with torch.no_grad():
        ours = run_block_at(reference, states, lambda rows: rows[:, :4], attend_from, fold=fold)
        torch.testing.assert_close(ours, reference(states)[:, :4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("names", ["qkv", "q", "kv", ""])
def test_what_is_added_to_projections_is_added_to_weights(names: str) -> None:
    reference, changed = block(QuickGELU, None), block(QuickGELU, None)
    more = {name: 0.3 * torch.randn(24, 24) for name in names}
    whole = torch.cat([more.get(name, torch.zeros(24, 24)) for name in "qkv"])
    states = torch.randn(5, 7, 24)

    def added(name: str, inputs: Tensor) -> Tensor | None:
        return inputs @ more[name].T if name in more else None

    with torch.no_grad():
        changed.attn.in_proj_weight.add_(whole)
        expected = changed(states)
        assert torch.allclose(expected, reference(states), atol=1e-3) == (names == "")
        torch.testing.assert_close(
            run_block(reference, states, attend_within, added=added), expected, atol=1e-5, rtol=1e-5
        )
        one = run_block_at(reference, states, lambda rows: rows[:, 2], attend_from, added=added)
        torch.testing.assert_close(one, expected[:, 2], atol=1e-5, rtol=1e-5)


def test_which_blocks_are_plain() -> None:
    assert len(plain_blocks(Transformer(24, 2, 3)) or ()) == 2
    odd = Transformer(24, 2, 3)
    odd.resblocks[1] = CustomResidualAttentionBlock(24, 3)
    assert plain_blocks(odd) is None
    odd.resblocks[1] = ResidualAttentionBlock(24, 3, is_cross_attention=True)
    assert plain_blocks(odd) is None
