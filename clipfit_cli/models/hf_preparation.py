"""What a checkpoint of transformers does to pictures and prompts before its model, in our own terms."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfit_cli.errors import ModelError, first_line, shortened
from clipfit_cli.models.hf_folder import INPUT_FILES, TOKENIZER_FILES, HfModel
from clipfit_cli.models.hub import network_closed

_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of those that images are resized with here."""

_LARGEST = 4096
"""Pixels of a side that no model comes near."""

_MOST_ROUNDING = 0.05
"""Of a pixel in [0, 1]: by which libraries round and filter edges, and place a centre, otherwise."""


def transformers() -> Any:
    """Return the library, imported when it is first needed: without it the rest works, and it takes a second."""
    return importlib.import_module("transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers neither reach the network nor print or warn meanwhile: what matters is checked here."""
    logging = transformers().utils.logging
    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with network_closed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def image_preparation(model: HfModel, config: Any) -> dict[str, Any]:
    """Return ``size``, ``mean``, ``std``, ``interpolation`` and ``resize_mode`` of a checkpoint's image processor.

    Args:
        model: The checkpoint.
        config: transformers' configuration of the model.

    Raises:
        ModelError: The processor cannot be loaded, or does what is not done here.
    """
    try:
        with quiet():
            processor: Any = transformers().AutoImageProcessor.from_pretrained(
                os.fspath(model.folder), trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # what it raises over files of others has no end of kinds
        raise ModelError(f"{model.preparation} cannot be read as an image processor ({first_line(error)})") from error
    try:
        found = _patches(processor, config) if model.kind.takes == "patches" else _square(processor)
        found |= _scale(processor)
        if not getattr(processor, "do_resize", True):
            raise ValueError("images are not resized")
        if int(processor.resample) not in _FILTERS:
            raise ValueError(f"resample is {int(processor.resample)}, expected 2 (bilinear) or 3 (bicubic)")
        if not 1 <= found["size"] <= _LARGEST:
            raise ValueError(f"images are of {found['size']} pixels, expected 1 to {_LARGEST}")
        own = config.vision_config.image_size if model.kind.takes == "squares" else found["size"]
        if own not in (found["size"], [found["size"]] * 2, (found["size"],) * 2):
            raise ValueError(f"images are made {found['size']} pixels large, the image tower takes {own}")
        if model.kind.takes != "patches":
            _check_pixels(processor, **found)
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ModelError(
            f"{model.preparation} asks for what clipfit does not do to images: {shortened(first_line(error))}"
        ) from error
    return {**found, "interpolation": _FILTERS[int(processor.resample)]}


def _square(processor: Any) -> dict[str, Any]:
    """Return size and resize mode: the shorter side resized and the centre cut out, or both sides resized."""
    size, crop = _sides(processor.size), None
    if getattr(processor, "do_center_crop", False):
        crop = _sides(processor.crop_size)
    if size.keys() == {"shortest_edge"} and crop and set(crop.values()) == set(size.values()):
        return {"size": size["shortest_edge"], "resize_mode": "shortest"}
    if size.keys() == {"height", "width"} and len(set(size.values())) == 1 and crop in (None, size):
        return {"size": size["height"], "resize_mode": "squash"}
    raise ValueError(f"images are resized to {size} and cut to {crop}")


def _sides(size: Any) -> dict[str, int]:
    return {key: int(value) for key, value in dict(size).items() if value is not None}


def _patches(processor: Any, config: Any) -> dict[str, Any]:
    """Return the same for a model of flexible resolution: the largest square that its number of patches makes."""
    if processor.patch_size != config.vision_config.patch_size:
        raise ValueError(
            f"patches are {processor.patch_size} pixels large, the image tower takes {config.vision_config.patch_size}"
        )
    return {
        "size": int(processor.patch_size) * math.isqrt(int(processor.max_num_patches)),
        "resize_mode": "squash",
    }


def _scale(processor: Any) -> dict[str, Any]:
    """Return mean and standard deviation for pixels in [0, 1].

    ``(factor * x - offset - mean) / std`` of pixels x in 0..255 is ``(x / 255 - mean') / std'``. EfficientNet's
    processor may divide by ``image_std`` once more (``include_top``).
    """
    factor = 255 * float(processor.rescale_factor) if processor.do_rescale else 255.0
    offset = 1.0 if processor.do_rescale and getattr(processor, "rescale_offset", False) else 0.0
    normalises = processor.do_normalize
    mean = _of_colours(processor.image_mean) if normalises else [0.0] * 3
    std = _of_colours(processor.image_std) if normalises else [1.0] * 3
    if getattr(processor, "include_top", False):
        std = [first * second for first, second in zip(std, _of_colours(processor.image_std), strict=True)]
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    found = {"mean": tuple((m + offset) / factor for m in mean), "std": tuple(s / factor for s in std)}
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*found["mean"], *found["std"]))):
        raise ValueError("mean and standard deviation are not three numbers each")
    if min(found["std"]) <= 0:
        raise ValueError(f"the standard deviation is {found['std']}, expected numbers above 0")
    return found


def _of_colours(values: Any) -> list[float]:
    """Return a number for each colour, of one a colour or one for all."""
    return [float(values)] * 3 if isinstance(values, int | float) else [float(value) for value in values]


def _check_pixels(processor: Any, *, size: int, resize_mode: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Do nothing for a processor that makes of a picture of smooth colours what is made of it here.

    So what is not asked for by name is seen, too: padding, colours in another order, steps of a class of its own.

    Raises:
        ValueError: It makes something else, or nothing.
    """
    height, width = 48, 72
    across = size * (width / height if resize_mode == "shortest" else 1)  # what is not in the centre is cut off
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    expected_rows = (torch.arange(size) + 0.5) / size
    expected_columns = (torch.arange(size) + (across - size) / 2 + 0.5) / across
    picture = (255 * _colours(rows, columns)).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    try:
        with quiet():
            made = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"]).float()
    except Exception as error:  # what it raises has no end of kinds
        raise ValueError(f"it cannot prepare a picture ({first_line(error)})") from error
    if made.shape != (1, 3, size, size):
        raise ValueError(f"of a picture it makes {tuple(made.shape)} numbers, expected {(1, 3, size, size)}")
    pixels = made[0] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    difference = float((pixels - _colours(expected_rows, expected_columns)).abs().max())
    if not difference <= _MOST_ROUNDING + 1 / size:
        raise ValueError(
            f"it makes other pixels than size, crop, mean and standard deviation tell ({difference:.2g} off)"
        )


def _colours(rows: Tensor, columns: Tensor) -> Tensor:
    """Return a picture (3, rows, columns) that is smooth, and another when it is turned or its colours are swapped."""
    down, across = rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1)
    return torch.stack([across, down, 1 - (across + down) / 2])


def hf_tokenizer(model: HfModel, config: Any) -> tuple[Callable[[list[str]], Tensor], Callable[[str], int]]:
    """Return what `Tokenizer` is made of: prompts -> tokens, a prompt -> its number of tokens.

    The context is the shorter of what tokenizer and text tower say. Padding is behind the prompt, but where padding is
    read, too: there it is the tokenizer's own.

    Args:
        model: The checkpoint.
        config: transformers' configuration of its text tower.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        with quiet():
            tokenizer: Any = transformers().AutoTokenizer.from_pretrained(
                os.fspath(model.folder), trust_remote_code=False, local_files_only=True
            )
        _check_files(tokenizer, model.folder)
        tokenizer(["a"])
        context = min(int(tokenizer.model_max_length), _positions(config))
        pad = config.pad_token_id if model.kind.prompt == "marked" else tokenizer.pad_token_id
        if context < 3 or not isinstance(pad, int):
            raise ValueError(f"it reads {context} tokens and pads with {pad!r}")
        most = max(tokenizer.get_vocab().values())
        if most >= config.vocab_size or 2 * len(tokenizer) < config.vocab_size:  # some lack files without a word
            raise ValueError(f"it has {len(tokenizer)} tokens, the text tower {config.vocab_size}")
    except Exception as error:  # what it raises over files of others has no end of kinds
        raise ModelError(f"the tokenizer in {model.folder} cannot be used ({first_line(error)})") from error
    tokenize = _padded if model.kind.prompt != "whole" else _padded_as_trained
    return partial(tokenize, tokenizer, context, pad), partial(_count, tokenizer)


def _check_files(tokenizer: Any, folder: Path) -> None:
    """Do nothing for a tokenizer that reads no files but those that a model is known by.

    Raises:
        ValueError: It reads another, as some classes and old configurations do.
    """
    names = (*tokenizer.vocab_files_names.values(), *tokenizer.init_kwargs.get("fast_tokenizer_files", ()))
    for name in names:
        if name not in INPUT_FILES and os.path.lexists(folder / name):
            raise ValueError(f"it reads {shortened(name)}, expected {', '.join(TOKENIZER_FILES)}")


def _positions(config: Any) -> int:
    """Return how many tokens a text tower has positions for; RoBERTa's begin behind that of padding."""
    most = int(config.max_position_embeddings)
    return most - int(config.pad_token_id) - 1 if config.model_type == "altclip_text_model" else most


def _padded(tokenizer: Any, context: int, pad: int, prompts: list[str]) -> Tensor:
    """Return int64 tokens (num_prompts, context)."""
    ids = tokenizer(prompts, truncation=True, max_length=context, padding=False, verbose=False).input_ids
    tokens = torch.full((len(prompts), context), pad, dtype=torch.int64)
    for row, own in zip(tokens, ids, strict=True):
        row[: len(own)] = torch.tensor(own)
    return tokens


def _padded_as_trained(tokenizer: Any, context: int, _: int, prompts: list[str]) -> Tensor:
    ids = tokenizer(prompts, truncation=True, max_length=context, padding="max_length", verbose=False).input_ids
    return torch.tensor(ids, dtype=torch.int64)


def _count(tokenizer: Any, prompt: str) -> int:
    return len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
