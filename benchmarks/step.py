"""Print what a step of CLIPFit costs, as the official code makes it (see `reference.py`) and as ours does.

    python benchmarks/step.py --json benchmarks/step.json
    python benchmarks/step.py --counts-only

First the arithmetic, counted and not timed; what is computed again to save memory counts twice. Then seconds: all ways
take turns in one process, and the best turn counts. Then the memory that one step adds, each way in a process of its
own. Then, with a CUDA device, what `step_on_gpu.py` tells. The model has random weights, which cost the same as real
ones. A reference step of 500 classes takes about a minute on two cores of a processor, and 20 GiB of memory or more;
where it is ended for that, a dash stands for it, or, while it is timed, the file has all that was found before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import cast
from unittest.mock import patch

import open_clip
import torch
from measuring import (
    JSON,
    best_seconds,
    circumstances,
    parameters_of,
    peak_memory_mib,
    print_records,
    print_table,
    random_bundle,
    reset_memory_peak,
    write_json,
)
from reference import BETA, Reference, stepper
from rich.console import Console
from step_on_gpu import measure_gpu
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.config import Precision
from clipfit_cli.engine import environment
from clipfit_cli.methods._tuned_encoders import Encoders, TunedEncoders
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import NO_SHORTCUTS, Shortcuts
from clipfit_cli.models.towers import tower_of
from clipfit_cli.process import keep_freed_memory

TEMPLATE = "a photo of a {}."
META = torch.device("meta")
WITHOUT = {
    "last block": Shortcuts(last_block=False),
    "shared prefix": Shortcuts(share_prefix=False),
    "packing": Shortcuts(pack=False, share_prefix=False),
    "trimming": Shortcuts(trim=False, pack=False, share_prefix=False),
    "any": NO_SHORTCUTS,
}
"""What is switched off, and what goes with it: without packing no prefix is shared, without trimming nothing packed."""

Loss = Callable[[Tensor, Tensor], Tensor]


def names_of(num_classes: int) -> list[str]:
    """Return ImageNet's first class names."""
    return list(open_clip.IMAGENET_CLASSNAMES[:num_classes])


def ours(bundle: ClipBundle, num_classes: int) -> TunedEncoders:
    """Return CLIPFit as a user gets it."""
    info = methods.get("clipfit")
    return cast(TunedEncoders, info.attach(bundle, names_of(num_classes), [TEMPLATE], info.settings()))


def ours_with(bundle: ClipBundle, num_classes: int, shortcuts: Shortcuts) -> TunedEncoders:
    """Return the same with some shortcuts only."""

    def distillation(encoders: Encoders, text_features: Tensor) -> Tensor:
        return BETA * (1 - (text_features * encoders.zero_shot_features()).sum(dim=-1).mean())

    info = methods.get("clipfit")
    return TunedEncoders(
        bundle,
        names_of(num_classes),
        [TEMPLATE],
        trained=[one.name for one in info.describe(bundle.model, info.settings(), num_classes, 0)],
        penalty=distillation,
        shortcuts=shortcuts,
    )


def loss_of(adapted: TunedEncoders) -> Loss:
    """Return the loss alone, everything that is computed once computed already."""
    adapted.zero_shot_features()
    return lambda images, labels: adapted.loss(images, labels)[0]


def image_tower(reference: Reference, *, pruned: bool) -> Loss:
    """Return a stand-in for a loss that needs the image tower only; its LayerNorms train."""
    model = reference.model

    def run(images: Tensor, labels: Tensor) -> Tensor:
        del labels
        features: Tensor = encode.encode_image(model, images) if pruned else model.encode_image(images)
        return features.float().square().mean()

    return run


def batch_of(bundle: ClipBundle, batch_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return images and labels on the model's device."""
    size, device = bundle.image_size, bundle.device
    labels = torch.arange(batch_size) % num_classes
    return torch.randn(batch_size, 3, size, size, device=device), labels.to(device)


def tflop(loss: Loss, images: Tensor, labels: Tensor) -> float:
    """Return the 10^12 multiplications and additions of loss and gradients."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(loss(images, labels))
    return float(counter.get_total_flops() / 1e12)


def count_all(backbone: str, batch_size: int, classes: Sequence[int]) -> JSON:
    """Return TFLOP a step of every way, on a model without memory."""
    # such a model knows no autocast, and in float32 there is none
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        return _count_all(backbone, batch_size, classes)


def _count_all(backbone: str, batch_size: int, classes: Sequence[int]) -> JSON:
    bundle = random_bundle(backbone, META)
    rows = []
    for num_classes in classes:
        batch = batch_of(bundle, batch_size, num_classes)
        reference = Reference(bundle, names_of(num_classes), TEMPLATE)
        row: JSON = {"classes": num_classes, "reference": tflop(reference.loss, *batch)}
        row["ours"] = tflop(loss_of(ours(bundle, num_classes)), *batch)
        for name, shortcuts in WITHOUT.items():
            row[f"without {name}"] = tflop(loss_of(ours_with(bundle, num_classes, shortcuts)), *batch)
        rows.append(row)
    towers = {
        "open_clip's": tflop(image_tower(reference, pruned=False), *batch),
        "ours": tflop(image_tower(reference, pruned=True), *batch),
    }
    for row in rows:
        row["reference / ours"] = row["reference"] / row["ours"]
        row["ours / image tower"] = row["ours"] / towers["open_clip's"]
    return {"image_tower": towers, "steps": rows}


def time_ways(
    backbone: str,
    batch_size: int,
    num_classes: int,
    *,
    precisions: Sequence[Precision],
    turns: int,
    device: torch.device,
) -> list[JSON]:
    """Return seconds a step, gradients and update included, a record a precision."""
    bundle = random_bundle(backbone, device)
    batch = batch_of(bundle, batch_size, num_classes)
    official = Reference(bundle, names_of(num_classes), TEMPLATE)
    norms = [p for name, p in official.model.named_parameters() if p.requires_grad and tower_of(name) == "image"]
    adapted = ours(bundle, num_classes)
    ways: dict[str, tuple[Loss, list[torch.nn.Parameter]]] = {
        "reference": (official.loss, official.parameters()),
        "ours": (loss_of(adapted), parameters_of(adapted)),
        "image tower": (image_tower(official, pruned=False), norms),
    }
    steps: dict[str, Callable[[], object]] = {
        f"{name} {precision}": partial(stepper(*way, precision=precision, device=device), *batch)
        for precision in precisions
        for name, way in ways.items()
    }
    best = best_seconds(steps, turns, device)
    records = [_times(num_classes, precision, best) for precision in precisions]
    if len(precisions) == 2:
        first, second = precisions
        for name in ("reference", "ours"):
            records[-1][f"{first} / {second}, {name}"] = best[f"{name} {first}"] / best[f"{name} {second}"]
    return records


def _times(num_classes: int, precision: Precision, best: dict[str, float]) -> JSON:
    reference, own, tower = (best[f"{name} {precision}"] for name in ("reference", "ours", "image tower"))
    return {
        "classes": num_classes,
        "precision": precision,
        "reference_s": reference,
        "ours_s": own,
        "image_tower_s": tower,
        "reference / ours": reference / own,
        "ours / image tower": own / tower,
    }


def added_memory(way: str, backbone: str, batch_size: int, num_classes: int, device: torch.device) -> JSON:
    """Return the MiB that the first step of a fresh process adds to what it held before, at the peak."""
    bundle = random_bundle(backbone, device)
    batch = batch_of(bundle, batch_size, num_classes)
    if way == "reference":
        reference = Reference(bundle, names_of(num_classes), TEMPLATE)
        step = stepper(reference.loss, reference.parameters(), precision="fp32", device=device)
    else:
        adapted = ours(bundle, num_classes)
        step = stepper(loss_of(adapted), parameters_of(adapted), precision="fp32", device=device)
    before = reset_memory_peak(device)
    step(*batch)
    return {"before_mib": round(before, 1), "added_mib": round(peak_memory_mib(device) - before, 1)}


def compare_memory(backbone: str, batch_size: int, num_classes: int, device: torch.device) -> JSON:
    """Return what both ways add, each in a process of its own, in float32."""
    options = ("--backbone", backbone, "--batch-size", str(batch_size), "--memory-classes", str(num_classes))
    found: JSON = {"classes": num_classes}
    for way in ("reference", "ours"):
        command = [sys.executable, __file__, *options, "--device", str(device), "--memory-of", way]
        printed = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        found[way] = json.loads(printed.stdout) if printed.returncode == 0 else None
    if found["reference"] and found["ours"]:
        found["reference / ours"] = found["reference"]["added_mib"] / found["ours"]["added_mib"]
    return found


def good_precisions(device: torch.device) -> list[Precision]:
    """Return float32, and bfloat16 where the machine multiplies it by itself."""
    if device.type == "cuda":
        return ["fp32", "bf16"] if torch.cuda.is_bf16_supported() else ["fp32"]
    info = Path("/proc/cpuinfo")
    return ["fp32", "bf16"] if info.is_file() and "bf16" in info.read_text() else ["fp32"]


def numbers(text: str) -> list[int]:
    """Return whole numbers with commas between them."""
    return [int(part) for part in text.split(",") if part]


def parser_of_options() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--classes", type=numbers, default=[24, 50, 100, 500, 1000], help="to count for")
    parser.add_argument("--counts-only", action="store_true", help="time nothing")
    parser.add_argument("--time-classes", type=numbers, default=[24, 50, 100], help="to time for")
    parser.add_argument("--turns", type=int, default=3, help="after one to warm up")
    parser.add_argument("--memory-classes", type=int, default=500, help="to measure memory for; 0 = do not")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--memory-of", choices=("reference", "ours"), help="only that step's memory, in this process")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser_of_options().parse_args(arguments)
    keep_freed_memory()  # as the command does
    device = environment.resolve_device(options.device)
    model = (options.backbone, options.batch_size)
    if options.memory_of:
        print(json.dumps(added_memory(options.memory_of, *model, options.memory_classes, device)))
        return
    found: JSON = {
        "config": {"backbone": model[0], "batch_size": model[1], "template": TEMPLATE, "turns": options.turns},
        **circumstances(),
    }
    counts = found["tflop"] = count_all(*model, options.classes)
    print_records("TFLOP a step", counts["steps"])
    print_table("TFLOP of the image tower alone", ["", "step"], list(counts["image_tower"].items()))
    if not options.counts_only:
        found["seconds"] = []
        precisions = good_precisions(device)
        for num_classes in options.time_classes:
            found["seconds"] += time_ways(
                *model, num_classes, precisions=precisions, turns=options.turns, device=device
            )
            write_json(options.json, found)  # what comes next may need more memory than there is
        print_records(f"Seconds a step on {environment.device_name(device)}", found["seconds"])
        if options.memory_classes:
            found["memory"] = compare_memory(*model, options.memory_classes, device)
            print_memory(found["memory"])
        if device.type == "cuda":
            found["gpu"] = measure_gpu(random_bundle(options.backbone, device), options.batch_size)
            print_table("On the GPU", ["", "value"], list(found["gpu"].items()))
        else:
            Console().print("no CUDA device: its part is left out")
    write_json(options.json, found)


def print_memory(found: JSON) -> None:
    """Print what a step adds; a dash for a way that did not come to its end."""
    ways = {way: found[way]["added_mib"] if found[way] else None for way in ("reference", "ours")}
    row = {"classes": found["classes"], **ways, "reference / ours": found.get("reference / ours")}
    print_records("MiB that a step in float32 adds", [row])


if __name__ == "__main__":
    main()
