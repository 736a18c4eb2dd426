"""What is known of a model before its weights are: built on the meta device, where tensors have shapes only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, cast

import msgspec
import open_clip
import platformdirs
import torch

from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED
from clipfit_cli.errors import ModelError, first_line
from clipfit_cli.files import read_bytes, write_whole
from clipfit_cli.models.hf_kinds import KINDS
from clipfit_cli.models.hf_weights import hf_config, sketch, sketch_by_default
from clipfit_cli.models.source import Blueprint, find_blueprint
from clipfit_cli.models.towers import check_supported, kinds_of

EXAMPLES = (
    *("ViT-B-16", "coca_ViT-B-32", "ViT-bigG-14-CLIPA", "RN50", "ViT-B-16-SigLIP", "ViTamin-B", "EVA02-B-16"),
    *("convnext_base", "MobileCLIP-S1", "swin_base_patch4_window7_224"),
)
"""An architecture of open_clip for each kind of towers."""

_MOST_MEMORY = 1 << 24


@dataclass(frozen=True)
class Architecture:
    """The outside of a backbone.

    Attributes:
        num_parameters: Of the whole model.
        image_size: Side of its square input in pixels.
        image_tower, text_tower: What they are, in words.
    """

    num_parameters: int
    image_size: int
    image_tower: str
    text_tower: str


def create(blueprint: Blueprint, *, device: str, **options: Any) -> torch.nn.Module:
    """Return a model without weights of its own, its towers of supported kinds; open_clip leaves some of them unfilled.

    Args:
        blueprint: What to build.
        device: ``meta`` for names and shapes alone, which costs no memory and little time; or ``cpu``. Of a model of
            transformers' always ``meta``.
        options: Further ones of ``open_clip.create_model``.

    Raises:
        ModelError: It cannot be built here, or the kind of a tower is not supported.
    """
    if blueprint.hf:
        return sketch(blueprint.hf, hf_config(blueprint.hf))
    options = {"load_weights": False, "pretrained_text": False, **options}
    if blueprint.text_cfg:
        options["text_cfg"] = dict(blueprint.text_cfg)
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip reports missing weights, which are loaded elsewhere or not wanted
    try:
        with torch.device(device):
            if blueprint.is_builtin:
                return cast(torch.nn.Module, open_clip.CLIP(**blueprint.model_cfg))
            model = open_clip.create_model(blueprint.name, device=device, **options)
    except Exception as error:  # some architectures need packages or files that are not here
        raise ModelError(f"open_clip cannot build {blueprint.backbone} here: {first_line(error)}") from error
    finally:
        logging.disable(quiet)
    check_supported(model, blueprint.backbone)
    return cast(torch.nn.Module, model)


def build_on_meta(backbone: str, *, offline: bool = False) -> torch.nn.Module:
    """Return a backbone of which only names and shapes are there.

    Args:
        backbone: A name of open_clip's, ``clipfit-tiny``, or a folder or ``hf:org/name`` of open_clip's or
            transformers'.
        offline: Fetch no configuration that is not on this machine.

    Raises:
        UnknownNameError: There is no such backbone.
        ModelError: It cannot be built here, or the kind of a tower is not supported.
    """
    return create(find_blueprint(backbone, offline=offline), device="meta")


def describe(backbone: str) -> Architecture:
    """Return what a backbone is like, from what is on this machine.

    Raises:
        UnknownNameError: There is no such backbone.
        ModelError: It cannot be built from that.
    """
    model = build_on_meta(backbone, offline=True)
    size = cast(Any, model).visual.image_size
    return Architecture(
        sum(parameter.numel() for parameter in model.parameters()),
        size if isinstance(size, int) else size[0],
        *kinds_of(model),
    )


def examples() -> Iterator[tuple[str, str, torch.nn.Module | ModelError]]:
    """Yield library, name and model, on the meta device, of every kind of model: why, where it cannot be built here.

    Of transformers' kinds the name is the ``model_type``, and the sizes are those of its default configuration.
    """
    for name in EXAMPLES:
        yield "open_clip", name, build_on_meta(name, offline=True)
    for name, kind in KINDS.items():
        try:
            yield "transformers", name, sketch_by_default(kind)
        except ModelError as error:
            yield "transformers", name, error


def pairs(words: Sequence[str] = ()) -> list[tuple[str, str | None]]:
    """Return the backbones with their weights, the built-in one first, of which each of the words is a part.

    Args:
        words: Looked for in "backbone pretrained", in small letters.

    Returns:
        Backbone and weights that open_clip knows; None where it knows none.
    """
    tags: dict[str, list[str | None]] = {TINY_BACKBONE: [TINY_PRETRAINED]}
    for backbone in open_clip.list_models():
        tags[backbone] = list(open_clip.list_pretrained_tags_by_model(backbone)) or [None]
    found = ((backbone, tag) for backbone, own in tags.items() for tag in own)
    return [pair for pair in found if all(word.lower() in f"{pair[0]} {pair[1]}".lower() for word in words)]


def describe_all(
    backbones: Iterable[str], *, on_new: Callable[[int], None] | None = None, file: Path | None = None
) -> dict[str, Architecture | ModelError]:
    """Return what each backbone is like, or why it cannot be built here.

    What was found is remembered, since building all of them takes half a minute.

    Args:
        backbones: Their names.
        on_new: Told how many have to be looked at first.
        file: The memory; a damaged one, or one of other versions of open_clip or timm, counts as empty. None = in the
            user's cache folder.
    """
    file = file or platformdirs.user_cache_path("clipfit", appauthor=False) / "architectures.json"
    made_by = " ".join(
        f"{found.metadata['Name']} {found.version}"
        for name in ("open_clip_torch", "timm", "transformers")
        for found in distributions(name=name)
    )
    known: dict[str, Architecture] = {}
    with suppress(OSError, ValueError, RecursionError):
        by, stored = msgspec.json.decode(read_bytes(file, _MOST_MEMORY), type=tuple[str, dict[str, Architecture]])
        known = stored if by == made_by else {}
    wanted = list(dict.fromkeys(backbones))
    new, failed = [name for name in wanted if name not in known], dict[str, ModelError]()
    if new and on_new:
        on_new(len(new))
    for name in new:
        try:
            known[name] = describe(name)
        except ModelError as error:  # may have another end tomorrow, so it is not remembered
            failed[name] = error
    if len(failed) < len(new):
        with suppress(OSError):  # a memory that cannot be written costs time only
            write_whole(file, msgspec.json.encode((made_by, known)))
    return {name: failed.get(name) or known[name] for name in wanted}
