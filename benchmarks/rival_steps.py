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
the image tower has none, and CoCoOp's text tower runs once for each image. MMRL's gradients end before the upper
blocks, and a second pass without tokens shares the blocks below with the first. SkipTuning trains the upper blocks, on
the classes that it keeps, and what the text tower's lower blocks say is kept; an epoch's images go through the image
tower's lower ones once, which is what a step's do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from measuring import JSON, circumstances, print_records, random_bundle, write_json
from rival_needs import META, METHODS, SEED, TEMPLATE, counted, images_of, names_of, needs, reference, tokens_of
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Conditions
from clipfit_cli.methods.base import Step
from clipfit_cli.models import hooks
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.packing import Packing, pack

TERA = 1e12


def ours(bundle: ClipBundle, method: str, batch_size: int, num_classes: int) -> float:
    """Return the operations of a step of a method as a user gets it, of its first stage.

    It is not the very first, in which what the frozen text tower says of the classes is computed and kept.
    """
    info, images = methods.get(method), images_of(bundle, batch_size)
    torch.manual_seed(SEED)
    adapted = info.attach(bundle, names_of(num_classes), [TEMPLATE], info.settings())
    labels = torch.zeros(batch_size, dtype=torch.int64, device=META)

    def step() -> None:
        loss, _ = adapted.loss(tapped(bundle.model, images, adapted.tap), labels)
        torch.autograd.backward(loss)

    with patch.object(hooks, "_longer", _longer_of(tokens_of(bundle, method, num_classes))):
        step()
        return counted(step)


def _longer_of(prompts: Sequence[Sequence[int]]) -> Callable[[Packing, int], Packing]:
    """Return what makes the packing of prompts with more tokens behind the first, which reads no tokens of it."""

    def longer(packing: Packing, count: int) -> Packing:
        rows = [[*one[:1] * count, *one] for one in map(list, prompts)]
        lengths = torch.tensor([len(row) for row in rows])
        padded = [row + [0] * (int(lengths.max()) - len(row)) for row in rows]
        return pack(torch.tensor(padded), lengths, share_prefix=packing.prefix > 0).to(META)

    return longer


def count_all(
    backbone: str, batch_size: int | None, classes: Sequence[int], names: Sequence[str] = METHODS
) -> dict[str, list[JSON]]:
    """Return the TFLOP of every way, a record a number of classes, by method; None = its own batch size."""
    with ExitStack() as stack:
        # such a model knows no autocast, and in float32 there is none; nor a generator for it, nor a way to the CPU
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        stack.enter_context(patch.object(Step, "generator", lambda *_, **__: None))
        stack.enter_context(patch.object(Tensor, "cpu", lambda tensor: tensor))
        bundle = random_bundle(backbone, META)
        return {method: [_count(bundle, method, batch_size, num) for num in classes] for method in names}


def _count(bundle: ClipBundle, method: str, given: int | None, num_classes: int) -> JSON:
    info = methods.get(method)
    batch_size = given or info.recipe(Conditions(), info.settings())[0].batch_size or 1
    need, least = needs(bundle, method, batch_size, num_classes)
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
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--batch-size", type=int, help="of all methods; without it, each has its own")
    parser.add_argument("--classes", type=lambda text: [int(part) for part in text.split(",")], default=[50, 100, 500])
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    counts = count_all(options.backbone, options.batch_size, options.classes, options.methods)
    for method, records in counts.items():
        print_records(f"TFLOP a step of {method}", records)
    config = {"backbone": options.backbone, "batch_size": options.batch_size, "template": TEMPLATE}
    write_json(options.json, {"config": config, **circumstances(), "tflop": counts})


if __name__ == "__main__":
    main()
