"""The operations that open_clip's towers need in a step of a method, and those of a step as its reference makes it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.methods.skip_tuning import keep_probabilities
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import class_prompts

TEMPLATE = "a photo of a {}."
META = torch.device("meta")
CONTEXTS = ("coop", "cocoop", "kgcoop")
UPPER = ("mmrl", "skip-tuning")
METHODS = ("clip-lora", "clip-svd", "two-stage", *CONTEXTS, "maple", "promptsrc", *UPPER)
PROMPTS = {"maple": 2, "promptsrc": 4, "mmrl": 5}
"""Positions that a method adds to an image."""

FROZEN_PASS = ("promptsrc",)
SEED = 1
"""Of what is drawn: which classes SkipTuning keeps."""

RANK = 2


def names_of(num_classes: int) -> list[str]:
    """Return ImageNet's first class names."""
    return list(open_clip.IMAGENET_CLASSNAMES[:num_classes])


def tokens_of(bundle: ClipBundle, method: str, num_classes: int) -> list[list[int]]:
    """Return the tokens of each class's prompt, without padding."""
    settings: Any = methods.get(method).settings()
    template = " ".join(["X"] * settings.count) + " {}." if method in CONTEXTS else TEMPLATE
    prompts = class_prompts(names_of(num_classes), [template])
    padded = bundle.tokenizer(prompts).tolist()
    return [tokens[: bundle.count_tokens(prompt)] for prompt, tokens in zip(prompts, padded, strict=True)]


def num_shared(tokens: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False))))


def num_kept(num_classes: int, batch_size: int) -> int:
    """Return how many classes SkipTuning keeps in the loss of so many images."""
    torch.manual_seed(SEED)
    settings: Any = methods.get("skip-tuning").settings()
    drawn = torch.rand(num_classes) < keep_probabilities(num_classes, settings)
    return int((drawn | (torch.arange(num_classes) < batch_size)).sum())


def images_of(bundle: ClipBundle, batch_size: int) -> Tensor:
    """Return images without memory."""
    return torch.empty(batch_size, 3, bundle.image_size, bundle.image_size, device=META)


def counted(run: Callable[[], object]) -> float:
    """Return the operations of what is run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _patches(bundle: ClipBundle, batch_size: int) -> float:
    """Return the operations of the patches of images."""
    model: Any = bundle.model
    return counted(lambda: model.visual.conv1(images_of(bundle, batch_size)))


def _image_blocks(bundle: ClipBundle, batch_size: int, prompts: int = 0, first: int = 0) -> float:
    """Return the operations of open_clip's image tower behind the patches, with so many more positions.

    Args:
        bundle: The model, without memory.
        batch_size: Images.
        prompts: Positions of each beside its own.
        first: The block to begin with.
    """
    model: Any = bundle.model
    visual = model.visual
    positions, width = visual.positional_embedding.shape
    states = torch.empty(batch_size, positions + prompts, width, device=META, requires_grad=True)

    def run() -> None:
        seen = states
        for block in visual.transformer.resblocks[first:]:
            seen = block(seen)
        seen[:, 0] @ visual.proj

    return counted(run)


def _text_blocks(bundle: ClipBundle, lengths: Sequence[int], first: int = 0) -> float:
    """Return the operations of open_clip's text blocks on sequences of these lengths, and of the projection of each."""
    model: Any = bundle.model
    width = model.positional_embedding.shape[1]

    def run() -> None:
        for length, count in Counter(lengths).items():
            seen = torch.empty(count, length, width, device=META, requires_grad=True)
            mask = torch.empty(length, length, device=META)
            for block in model.transformer.resblocks[first:]:
                seen = block(seen, attn_mask=mask)
            seen[:, -1] @ model.text_projection

    return counted(run)


def _factors(width: int, blocks: int, positions: int) -> float:
    """Return the operations of CLIP-LoRA's A and B in a tower: their products, and the gradients of both sides."""
    return 3.0 * blocks * 3 * 2 * positions * 2 * width * RANK


def _gradients(width: int, blocks: int, positions: int) -> float:
    """Return the operations of the gradients of every matrix in the blocks of a tower: 12 width^2 numbers in each."""
    return 2.0 * blocks * positions * 12 * width**2


def _own(method: str, width: int, blocks: int, positions: int) -> float:
    """Return the operations that what a method trains in a tower needs besides."""
    found = {"clip-lora": _factors, "clip-svd": _gradients}.get(method)
    return found(width, blocks, positions) if found else 0.0


def _unread(width: int, positions: float, read: int, passes: int) -> float:
    """Return the operations of a last block that cannot reach the features: of all it does but keys and values."""
    return 2.0 * (positions - read) * (1 + 1 + 4 + 4) * width**2 * passes


def _first_blocks(bundle: ClipBundle, method: str) -> tuple[int, int]:
    """Return the first block that anything is learnt for in image and text tower, of a method in the upper ones."""
    model: Any = bundle.model
    counts = len(model.visual.transformer.resblocks), len(model.transformer.resblocks)
    image, text = (max(count // 2, 1) - 1 if method == "mmrl" else count // 2 for count in counts)
    return image, text


def needs(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> tuple[float, float]:
    """Return the operations that the towers need in a step of a method, and without what cannot be read."""
    model: Any = bundle.model
    tokens = tokens_of(bundle, method, num_classes)
    image_width, text_width = model.visual.class_embedding.shape[0], model.positional_embedding.shape[1]
    shared = 0 if method == "clip-lora" else num_shared(tokens)
    lengths = [len(one) - shared for one in tokens] + ([shared] if shared else [])
    prompts = PROMPTS.get(method, 0)
    at_first = batch_size * model.visual.positional_embedding.shape[0]
    positions = at_first + batch_size * prompts
    patches, whole = _patches(bundle, batch_size), _image_blocks(bundle, batch_size, prompts)
    if method in UPPER:
        return _needs_of_upper(bundle, method, batch_size, tokens)
    if method in CONTEXTS:
        texts = batch_size if method == "cocoop" else 1
        spared = _unread(image_width, at_first, batch_size, 1)
        spared += texts * _unread(text_width, sum(lengths), len(tokens), 2)
        total = patches + whole + texts * 2 * _text_blocks(bundle, lengths)
        return total, total - spared
    total = patches + 2 * (whole + _text_blocks(bundle, lengths))
    total += _own(method, image_width, len(model.visual.transformer.resblocks), positions)
    total += _own(method, text_width, len(model.transformer.resblocks), sum(lengths))
    passes = 3 if method == "clip-svd" else 2
    spared = _unread(image_width, positions, batch_size, passes) + _unread(
        text_width, sum(lengths), len(tokens), passes
    )
    if method in FROZEN_PASS:
        total += patches + _image_blocks(bundle, batch_size)
        spared += _unread(image_width, at_first, batch_size, 1)
    return total, total - spared


def _needs_of_upper(
    bundle: ClipBundle, method: str, batch_size: int, tokens: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Return what `needs` does, where gradients end before the upper blocks.

    Of SkipTuning's classes those that it keeps are taken to be as long as all are in the mean.
    """
    model: Any = bundle.model
    image_width, text_width = model.visual.class_embedding.shape[0], model.positional_embedding.shape[1]
    (first, first_text), shared = _first_blocks(bundle, method), num_shared(tokens)
    at_first, prompts = batch_size * model.visual.positional_embedding.shape[0], PROMPTS.get(method, 0)
    upper = _image_blocks(bundle, batch_size, prompts, first)
    lower = (
        _patches(bundle, batch_size)
        + _image_blocks(bundle, batch_size)
        - _image_blocks(bundle, batch_size, first=first)
    )
    rests, common = [len(one) - shared for one in tokens], [shared + prompts]
    passes, kept = (2, len(tokens)) if method == "mmrl" else (3, num_kept(len(tokens), batch_size))
    of_rests = kept / len(tokens) * _text_blocks(bundle, rests, first_text)
    total = lower + passes * (upper + of_rests + _text_blocks(bundle, common, first_text))
    read = batch_size * (1 + prompts)
    spared = _unread(image_width, at_first + batch_size * prompts, read, passes)
    spared += _unread(text_width, kept / len(tokens) * sum(rests) + sum(common), kept, passes)
    if method == "mmrl":  # the frozen features of the images
        total += _image_blocks(bundle, batch_size, first=first)
        spared += _unread(image_width, at_first, batch_size, 1)
    return total, total - spared


def reference(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step that runs open_clip's own towers whole, their LayerNorms or a context trained."""
    model: Any = copy.deepcopy(bundle.model)
    context = model.positional_embedding.shape[0]
    patches, whole = _patches(bundle, batch_size), _image_blocks(bundle, batch_size)
    if method in UPPER:
        return _reference_of_upper(bundle, method, batch_size, num_classes)
    if method in CONTEXTS:
        texts = batch_size if method == "cocoop" else 1
        return patches + whole + texts * 2 * _text_blocks(bundle, [context] * num_classes)
    for module in model.modules():
        module.requires_grad_(isinstance(module, nn.LayerNorm))
    tokens = torch.zeros(num_classes, context, dtype=torch.int64, device=META)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)

    def step() -> None:
        image_features, text_features, _ = model(images_of(bundle, batch_size), tokens)
        torch.autograd.backward(nn.functional.cross_entropy(image_features @ text_features.T, labels))

    total, visual = counted(step), model.visual
    total += 2 * (_image_blocks(bundle, batch_size, PROMPTS.get(method, 0)) - whole)
    total += patches + whole if method in FROZEN_PASS else 0
    positions = batch_size * visual.positional_embedding.shape[0]
    total += _own(method, visual.class_embedding.shape[0], len(visual.transformer.resblocks), positions)
    total += _own(method, model.positional_embedding.shape[1], len(model.transformer.resblocks), num_classes * context)
    return total


def _reference_of_upper(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return what `reference` does, where gradients end before the upper blocks.

    SkipTuning keeps what the lower ones make of texts, and of an epoch's images; MMRL runs them in every pass.
    """
    (first, first_text), prompts = _first_blocks(bundle, method), PROMPTS.get(method, 0)
    model: Any = bundle.model
    length = model.positional_embedding.shape[0]
    patches, upper = _patches(bundle, batch_size), _image_blocks(bundle, batch_size, first=first)
    lower = patches + _image_blocks(bundle, batch_size) - upper
    if method == "skip-tuning":
        texts = [length] * num_kept(num_classes, batch_size)
        return lower + 3 * (upper + _text_blocks(bundle, texts, first_text))
    texts = [length] * num_classes
    of_text = _text_blocks(bundle, texts) - _text_blocks(bundle, texts, first_text)
    of_text += 2 * _text_blocks(bundle, [length + prompts] * num_classes, first_text)
    return 2 * lower + upper + 2 * _image_blocks(bundle, batch_size, prompts, first) + of_text
