"""Count what a step of a method that trains in the towers costs: ours, what the towers need, its reference's.

    python benchmarks/rival_steps.py --json benchmarks/rival_steps.json

Nothing is timed. Arithmetic is counted on a model without memory: gradients included, what is computed twice counts
twice. What the towers need is counted of open_clip's own towers: their forward pass over the images and over the
prompts' tokens, none of them padding, and as much again for the gradients of their inputs, but for the patches, which
need none; where nothing differs from prompt to prompt, the tokens that all of them begin with count once. What trains
needs its own products besides, in CLIP-SVD the gradient of every matrix in the blocks. A last row does without what
cannot reach the features in the last blocks. The references run both towers whole, over all positions of each prompt;
CLIP-SVD's multiplies by both factors of a matrix, which is as much in all as the gradient of it. Prompts of images are
positions like others; PromptSRC runs the frozen image tower, too, without gradients. Where only a context is learnt,
the image tower has none, and CoCoOp's text tower runs once for each image.
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
from clipfit_cli.config import Conditions
from clipfit_cli.methods.base import Step
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.text_features import class_prompts

TEMPLATE = "a photo of a {}."
META = torch.device("meta")
CONTEXTS = ("coop", "cocoop", "kgcoop")
METHODS = ("clip-lora", "clip-svd", "two-stage", *CONTEXTS, "maple", "promptsrc")
IMAGE_PROMPTS = {"maple": 2, "promptsrc": 4}
FROZEN_PASS = ("promptsrc",)
RANK = 2
TERA = 1e12


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


def images_of(bundle: ClipBundle, batch_size: int) -> Tensor:
    """Return images without memory."""
    return torch.empty(batch_size, 3, bundle.image_size, bundle.image_size, device=META)


def ours(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step of a method as a user gets it, of its first stage.

    It is not the very first, in which what the frozen text tower says of the classes is computed and kept.
    """
    info = methods.get(method)
    adapted = info.attach(bundle, names_of(num_classes), [TEMPLATE], info.settings())
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)
    images, counted = images_of(bundle, batch_size), 0
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            loss, _ = adapted.loss(tapped(bundle.model, images, adapted.tap), labels)
            torch.autograd.backward(loss)
        counted = counter.get_total_flops()
    return float(counted)


def image_forward(bundle: ClipBundle, batch_size: int, prompts: int = 0) -> tuple[float, float]:
    """Return the operations of open_clip's image tower, with prompts of so many positions, and those of its patches."""
    visual = cast(Any, bundle.model).visual
    with FlopCounterMode(display=False) as patches:
        visual.conv1(images_of(bundle, batch_size))
    positions, width = visual.positional_embedding.shape
    states = torch.empty(batch_size, positions + prompts, width, device=META, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        visual.transformer(states)[:, 0] @ visual.proj
    return float(counter.get_total_flops() + patches.get_total_flops()), float(patches.get_total_flops())


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


def gradients(width: int, blocks: int, positions: int) -> float:
    """Return the operations of the gradients of every matrix in the blocks of a tower: 12 width^2 numbers in each."""
    return 2.0 * blocks * positions * 12 * width**2


def own(method: str, width: int, blocks: int, positions: int) -> float:
    """Return the operations that what a method trains in a tower needs besides."""
    found = {"clip-lora": factors, "clip-svd": gradients}.get(method)
    return found(width, blocks, positions) if found else 0.0


def unread(width: int, positions: int, read: int, passes: int) -> float:
    """Return the operations of a last block that cannot reach the features: of all it does but keys and values."""
    return 2.0 * (positions - read) * (1 + 1 + 4 + 4) * width**2 * passes


def needs(bundle: ClipBundle, method: str, batch_size: int, tokens: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return the operations that the towers need in a step of a method, and without what cannot be read."""
    model: Any = bundle.model
    image_width, text_width = model.visual.class_embedding.shape[0], model.positional_embedding.shape[1]
    shared = 0 if method == "clip-lora" else num_shared(tokens)
    lengths = [len(one) - shared for one in tokens] + ([shared] if shared else [])
    prompts = IMAGE_PROMPTS.get(method, 0)
    whole, patches = image_forward(bundle, batch_size, prompts)
    if method in CONTEXTS:
        texts = batch_size if method == "cocoop" else 1
        spared = unread(image_width, batch_size * model.visual.positional_embedding.shape[0], batch_size, 1)
        spared += texts * unread(text_width, sum(lengths), len(tokens), 2)
        total = whole + texts * 2 * text_forward(bundle, lengths)
        return total, total - spared
    total = 2 * (whole + text_forward(bundle, lengths)) - patches
    at_first = batch_size * model.visual.positional_embedding.shape[0]
    positions = at_first + batch_size * prompts
    total += own(method, image_width, len(model.visual.transformer.resblocks), positions)
    total += own(method, text_width, len(model.transformer.resblocks), sum(lengths))
    passes = 3 if method == "clip-svd" else 2
    spared = unread(image_width, positions, batch_size, passes) + unread(text_width, sum(lengths), len(tokens), passes)
    if method in FROZEN_PASS:
        total += image_forward(bundle, batch_size)[0]
        spared += unread(image_width, at_first, batch_size, 1)
    return total, total - spared


def reference(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step that runs open_clip's own towers whole, their LayerNorms or a context trained."""
    model: Any = copy.deepcopy(bundle.model)
    if method in CONTEXTS:
        texts = batch_size if method == "cocoop" else 1
        lengths = [model.positional_embedding.shape[0]] * num_classes
        return image_forward(bundle, batch_size)[0] + texts * 2 * text_forward(bundle, lengths)
    for module in model.modules():
        module.requires_grad_(isinstance(module, nn.LayerNorm))
    context = model.positional_embedding.shape[0]
    tokens = torch.zeros(num_classes, context, dtype=torch.int64, device=META)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)
    with FlopCounterMode(display=False) as counter:
        image_features, text_features, _ = model(images_of(bundle, batch_size), tokens)
        torch.autograd.backward(nn.functional.cross_entropy(image_features @ text_features.T, labels))
    total, visual = float(counter.get_total_flops()), model.visual
    (whole, _), (prompted, _) = (image_forward(bundle, batch_size, n) for n in (0, IMAGE_PROMPTS.get(method, 0)))
    total += 2 * (prompted - whole) + (whole if method in FROZEN_PASS else 0)
    positions = batch_size * visual.positional_embedding.shape[0]
    total += own(method, visual.class_embedding.shape[0], len(visual.transformer.resblocks), positions)
    total += own(method, model.positional_embedding.shape[1], len(model.transformer.resblocks), num_classes * context)
    return total


def count_all(backbone: str, batch_size: int | None, classes: Sequence[int]) -> dict[str, list[JSON]]:
    """Return the TFLOP of every way, a record a number of classes, by method; None = its own batch size."""
    with ExitStack() as stack:
        # such a model knows no autocast, and in float32 there is none; nor a generator for it, nor a way to the CPU
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        stack.enter_context(patch.object(Step, "generator", lambda *_, **__: None))
        stack.enter_context(patch.object(Tensor, "cpu", lambda tensor: tensor))
        bundle = random_bundle(backbone, META)
        return {
            method: [_count(bundle, method, batch_size, num_classes) for num_classes in classes] for method in METHODS
        }


def _count(bundle: ClipBundle, method: str, given: int | None, num_classes: int) -> JSON:
    info = methods.get(method)
    batch_size = given or info.recipe(Conditions(), info.settings())[0].batch_size or 1
    need, least = needs(bundle, method, batch_size, tokens_of(bundle, method, num_classes))
    found = ours(bundle, method, batch_size, num_classes)
    official = reference(bundle, method, batch_size, num_classes)
    return {
        "classes": num_classes,
        "images": batch_size,
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
    parser.add_argument("--batch-size", type=int, help="of all methods; without it, each has its own")
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
