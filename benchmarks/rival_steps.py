"""Count what a training step of CLIP-LoRA and of 2SFS's first stage costs: ours, what the towers need, the references.

    python benchmarks/rival_steps.py --json benchmarks/rival_steps.json

Nothing is timed. Arithmetic is counted on a model without memory: gradients included, what is computed twice counts
twice. What the towers need is counted of open_clip's own towers: their forward pass over the images and over the
prompts' tokens, none of them padding, and as much again for the gradients of their inputs, but for the patches, which
need none; where nothing differs from prompt to prompt, the tokens that all of them begin with count once. What trains
needs its own products besides. A last row does without what cannot reach the features in the last blocks. The reference
runs both towers whole, over all positions of each prompt.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import open_clip
import torch
from measuring import JSON, circumstances, print_records, random_bundle, write_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.methods.base import Step
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import class_prompts

TEMPLATE = "a photo of a {}."
META = torch.device("meta")
RANK = 2
TERA = 1e12


def names_of(num_classes: int) -> list[str]:
    """Return ImageNet's first class names."""
    return list(open_clip.IMAGENET_CLASSNAMES[:num_classes])


def tokens_of(bundle: ClipBundle, num_classes: int) -> list[list[int]]:
    """Return the tokens of each class's prompt, without padding."""
    prompts = class_prompts(names_of(num_classes), [TEMPLATE])
    padded = bundle.tokenizer(prompts).tolist()
    return [tokens[: bundle.count_tokens(prompt)] for prompt, tokens in zip(prompts, padded, strict=True)]


def num_shared(tokens: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False))))


def images_of(bundle: ClipBundle, batch_size: int) -> Tensor:
    """Return images without memory."""
    return torch.empty(batch_size, 3, bundle.image_size, bundle.image_size, device=META)


def ours(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step of a method as a user gets it, the first of its first stage."""
    info = methods.get(method)
    adapted = info.attach(bundle, names_of(num_classes), [TEMPLATE], info.settings())
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)
    with FlopCounterMode(display=False) as counter:
        loss, _ = adapted.loss(images_of(bundle, batch_size), labels)
        torch.autograd.backward(loss)
    return float(counter.get_total_flops())


def image_forward(bundle: ClipBundle, batch_size: int) -> tuple[float, float]:
    """Return the operations of open_clip's image tower, and how many of them make patches."""
    visual = cast(Any, bundle.model).visual
    with FlopCounterMode(display=False) as counter:
        visual(images_of(bundle, batch_size).requires_grad_(True))
    with FlopCounterMode(display=False) as patches:
        visual.conv1(images_of(bundle, batch_size))
    return float(counter.get_total_flops()), float(patches.get_total_flops())


def text_forward(bundle: ClipBundle, lengths: Sequence[int]) -> float:
    """Return the operations of open_clip's text blocks on sequences of these lengths, and of the projection of each."""
    model: Any = bundle.model
    width = model.positional_embedding.shape[1]
    with FlopCounterMode(display=False) as counter:
        for length, count in Counter(lengths).items():
            states = torch.empty(count, length, width, device=META, requires_grad=True)
            seen = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
            seen[:, -1] @ model.text_projection
    return float(counter.get_total_flops())


def factors(width: int, blocks: int, positions: int) -> float:
    """Return the operations of CLIP-LoRA's A and B in a tower: their products, and the gradients of both sides."""
    return 3.0 * blocks * 3 * 2 * positions * 2 * width * RANK


def unread(width: int, positions: int, read: int) -> float:
    """Return the operations of a last block that cannot reach the features: of all it does but keys and values."""
    return 2.0 * (positions - read) * (1 + 1 + 4 + 4) * width**2 * 2


def needs(bundle: ClipBundle, method: str, batch_size: int, tokens: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return the operations that the towers need in a step of a method, and without what cannot be read."""
    model: Any = bundle.model
    image_width, text_width = model.visual.class_embedding.shape[0], model.positional_embedding.shape[1]
    shared = 0 if method == "clip-lora" else num_shared(tokens)
    lengths = [len(one) - shared for one in tokens] + ([shared] if shared else [])
    whole, patches = image_forward(bundle, batch_size)
    total = 2 * (whole + text_forward(bundle, lengths)) - patches
    positions = batch_size * model.visual.positional_embedding.shape[0]
    if method == "clip-lora":
        total += factors(image_width, len(model.visual.transformer.resblocks), positions)
        total += factors(text_width, len(model.transformer.resblocks), sum(lengths))
    spared = unread(image_width, positions, batch_size) + unread(text_width, sum(lengths), len(tokens))
    return total, total - spared


def reference(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step that runs open_clip's own towers whole, their LayerNorms trained."""
    model: Any = copy.deepcopy(bundle.model)
    for module in model.modules():
        module.requires_grad_(isinstance(module, nn.LayerNorm))
    context = model.positional_embedding.shape[0]
    tokens = torch.zeros(num_classes, context, dtype=torch.int64, device=META)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)
    with FlopCounterMode(display=False) as counter:
        image_features, text_features, _ = model(images_of(bundle, batch_size), tokens)
        torch.autograd.backward(nn.functional.cross_entropy(image_features @ text_features.T, labels))
    total = float(counter.get_total_flops())
    if method == "clip-lora":
        visual = model.visual
        positions = batch_size * visual.positional_embedding.shape[0]
        total += factors(visual.class_embedding.shape[0], len(visual.transformer.resblocks), positions)
        total += factors(model.positional_embedding.shape[1], len(model.transformer.resblocks), num_classes * context)
    return total


def count_all(backbone: str, batch_size: int, classes: Sequence[int]) -> dict[str, list[JSON]]:
    """Return the TFLOP of every way, a record a number of classes, by method."""
    with ExitStack() as stack:
        # such a model knows no autocast, and in float32 there is none; nor is there a generator for it
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        stack.enter_context(patch.object(Step, "generator", lambda *_, **__: None))
        bundle = random_bundle(backbone, META)
        return {
            method: [_count(bundle, method, batch_size, num_classes) for num_classes in classes]
            for method in ("clip-lora", "two-stage")
        }


def _count(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> JSON:
    need, least = needs(bundle, method, batch_size, tokens_of(bundle, num_classes))
    found = ours(bundle, method, batch_size, num_classes)
    official = reference(bundle, method, batch_size, num_classes)
    return {
        "classes": num_classes,
        "reference": official / TERA,
        "ours": found / TERA,
        "the towers' need": need / TERA,
        "of it, what is read": least / TERA,
        "ours / need": found / need,
        "ours / what is read": found / least,
        "reference / ours": official / found,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16", help="a ViT of open_clip's own with its text tower")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--classes", type=lambda text: [int(part) for part in text.split(",")], default=[50, 100, 500])
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    counts = count_all(options.backbone, options.batch_size, options.classes)
    for method, records in counts.items():
        print_records(f"TFLOP a step of {method}", records)
    config = {"backbone": options.backbone, "batch_size": options.batch_size, "template": TEMPLATE}
    write_json(options.json, {"config": config, **circumstances(), "tflop": counts})


if __name__ == "__main__":
    main()
