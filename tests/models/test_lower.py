"""The lower blocks by themselves, what a tower makes of their states, and some prompts out of a packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from clipfit_cli.errors import ModelError
from clipfit_cli.models import encode
from clipfit_cli.models.encode import Shortcuts, encode_image, encode_part, encode_text, prepare_prompts
from clipfit_cli.models.hooks import Hooks, Part, insert_behind_first
from clipfit_cli.models.lower import lower_image, lower_text
from clipfit_cli.models.packing import Packing, chosen
from clipfit_cli.models.tokenizers import simple_tokenizer
from clipfit_cli.models.towers import upper_parameters
from clipfit_cli.testing.small import build_small_clip
from tests.kinds import KINDS, build, hugging_face_kind
from tests.models.plain_towers import IMAGES, SHORTCUTS, TEXTS, hooked_model, random


@pytest.fixture
def model() -> Any:
    return hooked_model()


@pytest.fixture
def tokens() -> Tensor:
    return simple_tokenizer(32).tokenize(TEXTS)


def alike(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["pack", "own-prefix", "all"])
def test_a_tower_goes_on_where_its_lower_blocks_end(model: Any, tokens: Tensor, count: int, name: str) -> None:
    """With tokens put in behind them, and without."""
    shortcuts = SHORTCUTS[name]
    prompts = prepare_prompts(model, tokens, shortcuts)
    text, image = random(3, 32), random(3, 48)

    def hooks(values: Tensor | None, **begun: Any) -> Hooks:
        def before(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
            enters = index == count and values is not None
            return insert_behind_first(states, part, cast(Tensor, values)) if enters else (states, part)

        return Hooks(before_block=before, **begun)

    (part,) = prompts.parts
    assert isinstance(part, Packing)
    with torch.inference_mode():  # what is kept must not forbid a gradient
        of_text = lower_text(model, part, count)
    of_image = lower_image(model, IMAGES, count)
    assert not of_text.is_inference() and not of_image.requires_grad and of_text.shape == (len(part.tokens), 32)
    for values in (None, text):
        on = hooks(values, start=count, started=lambda _: of_text)
        alike(encode_text(model, prompts, hooks=on), encode_text(model, prompts, hooks=hooks(values)))
    for values in (None, image):
        on = hooks(values, start=count, started=lambda _: of_image)
        found = encode_image(model, IMAGES, hooks=on, last_block=shortcuts.last_block)
        alike(found, encode_image(model, IMAGES, hooks=hooks(values), last_block=shortcuts.last_block))
    assert found.requires_grad


def test_lower_states_of_text_are_float32_under_autocast() -> None:
    small = build_small_clip()
    (part,) = prepare_prompts(small, simple_tokenizer(32).tokenize(TEXTS)).parts
    assert isinstance(part, Packing)
    expected = lower_text(small, part, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lower_text(small, part, 1), expected)


def test_towers_without_hooks_have_no_lower_blocks(tmp_path: Path) -> None:
    resnet = build_small_clip(resnet=True)
    with pytest.raises(ModelError, match="is a ResNet"):
        lower_image(resnet, torch.zeros(1, 3, 32, 32), 1)
    other = build(hugging_face_kind(tmp_path))
    (part,) = prepare_prompts(build_small_clip(), simple_tokenizer(32).tokenize(TEXTS)).parts
    assert isinstance(part, Packing)
    with pytest.raises(ModelError, match="Hugging Face"):
        lower_text(other, part, 1)


@pytest.mark.parametrize("last_block", [False, True])
@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("prompts", [[5], [0, 3, 7], [6, 1]])
@pytest.mark.parametrize("more", [0, 2, 99])
def test_chosen_prompts_have_the_features_they_had(
    model: Any, tokens: Tensor, prompts: list[int], share_prefix: bool, last_block: bool, more: int
) -> None:
    (part,) = prepare_prompts(model, tokens, Shortcuts(share_prefix=share_prefix)).parts
    assert isinstance(part, Packing)
    whole = sum(part.rests[prompt] for prompt in prompts)
    assert part.rests == tuple((tokens.argmax(dim=-1) + 1 - part.prefix).tolist())
    num_rows = part.prefix + min(whole + more, len(prompts) * part.mask.shape[0])
    rows, own = chosen(part, torch.tensor(prompts), num_rows)
    assert rows.shape == own.tokens.shape == own.positions.shape == (num_rows,)
    expected = encode_part(model, part, last_block=last_block)[prompts]
    alike(encode_part(model, own, last_block=last_block), expected)
    above = Hooks(start=1, started=lambda _: lower_text(model, part, 1).index_select(0, rows))
    alike(encode_part(model, own, last_block=last_block, hooks=above), expected)


def test_gradients_of_chosen_prompts(model: Any, tokens: Tensor) -> None:
    (part,) = prepare_prompts(model, tokens).parts
    assert isinstance(part, Packing)
    prompts = torch.tensor([0, 3, 7])
    rows, own = chosen(part, prompts, part.prefix + sum(part.rests[prompt] for prompt in (0, 3, 7)) + 2)
    states = lower_text(model, part, 1).requires_grad_(True)
    found = encode_part(
        model, own, last_block=False, hooks=Hooks(start=1, started=lambda _: states.index_select(0, rows))
    )
    expected = encode_part(model, part, last_block=False, hooks=Hooks(start=1, started=lambda _: states))[prompts]
    weights = random(*expected.shape).detach()
    (mine,), (theirs,) = (torch.autograd.grad((one * weights).sum(), states) for one in (found, expected))
    assert float(theirs.norm()) > 0
    alike(mine, theirs)


def test_prompts_in_one_part(model: Any, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "tokens_at_once", lambda _: 20)
    assert len(prepare_prompts(model, tokens).parts) > 1
    assert len(prepare_prompts(model, tokens, in_parts=False).parts) == 1
    assert len(prepare_prompts(model, tokens, SHORTCUTS["none"], in_parts=False).parts) == 1


UPPER = {
    "vit": ({"ln_post", "proj"}, {"ln_final", "text_projection"}),
    "sigmoid": ({"trunk.norm", "trunk.attn_pool"}, {"text.ln_final", "text.text_projection"}),
    "timm-vit": ({"trunk.norm", "head.proj"}, {"text.ln_final", "text.text_projection"}),
    "eva": ({"trunk.norm", "trunk.fc_norm", "trunk.head", "head.proj"}, {"text.ln_final", "text.text_projection"}),
    "coca": ({"attn_pool", "ln_post", "proj"}, {"text.ln_final", "text.text_projection"}),
}


@pytest.mark.parametrize("kind", UPPER)
def test_parameters_from_a_block_on(kind: str) -> None:
    """All that is left is the lower blocks' and what stands before these."""
    built = build(KINDS[kind])
    for tower, behind in zip(("image", "text"), UPPER[kind], strict=True):
        prefix = "visual." if tower == "image" else ""
        names = upper_parameters(built, tower, 1)  # type: ignore[arg-type]
        of_blocks = {name for name in names if "blocks." in name}
        others = {name for name in names if name not in of_blocks}
        assert others and all(any(name.startswith(f"{prefix}{one}") for one in behind) for name in others)
        assert all("blocks.0." not in name for name in of_blocks)
        every = set(upper_parameters(built, tower, 0))  # type: ignore[arg-type]
        assert every - set(names) == {name for name in every if "blocks.0." in name}


def test_towers_of_which_the_upper_part_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the image tower is a timm ConvNeXt, which has no transformer blocks"):
        upper_parameters(build(KINDS["convnext"]), "image", 1)
    with pytest.raises(ModelError, match="the text tower is a Hugging Face roberta, of which it is not known what"):
        upper_parameters(build(hugging_face_kind(tmp_path)), "text", 1)
