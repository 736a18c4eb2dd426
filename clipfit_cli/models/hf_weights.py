"""A dual encoder of transformers: built, filled with its weights, written again with what was learnt."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clipfit_cli.errors import CheckpointError, ModelError, first_line
from clipfit_cli.models.checkpoints import read_state_dict
from clipfit_cli.models.hf_encoder import DualEncoder
from clipfit_cli.models.hf_folder import HF_WEIGHTS_FILES, TEMPERATURE_FIELD, HfModel
from clipfit_cli.models.hf_kinds import PLAIN_TEMPERATURE, Kind
from clipfit_cli.models.hf_preparation import image_preparation, quiet, transformers
from clipfit_cli.models.model_folder import HF_CONFIG_FILE

_WHOLE_NUMBERS = ("position_ids", "token_type_ids", "num_batches_tracked")
"""What is no number with a fraction in some models' files."""

_LIST = re.compile(r"\.layers?\.")

_STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""How numbers with a fraction may be stored; smaller types stand for quantised weights, whose scales are elsewhere."""


def notes_on(model: HfModel, image_size: int) -> tuple[str, ...]:
    """Return what a reader of the numbers should know of a model.

    Args:
        model: Which.
        image_size: Side of the square that its pictures are made.
    """
    notes = []
    if model.temperature is not None:
        notes.append(
            f"{model.given} brings no temperature: cosines are divided by {model.temperature:g} "
            "(?temperature=X behind its name sets another)"
        )
    if model.kind.takes == "patches":
        notes.append(
            f"{model.given} takes pictures of any shape: here they are made squares of {image_size} pixels, whatever "
            "their shape is"
        )
    return tuple(notes)


def hf_config(model: HfModel) -> Any:
    """Return transformers' configuration of a model.

    Raises:
        ModelError: It is none, or this transformers does not know the kind.
    """
    kind = getattr(transformers(), model.kind.model, None)
    if kind is None:
        raise ModelError(
            f"{model.given} is a {model.kind.model}, which transformers {transformers().__version__} does not have; "
            "pip install --upgrade transformers"
        )
    try:
        with quiet():
            config = kind.config_class.from_dict(dict(model.config))
            _check(model, config)
    except Exception as error:  # what it raises over files of others has no end of kinds
        raise ModelError(
            f"{model.folder / HF_CONFIG_FILE} is not transformers' configuration of a {model.kind.model} "
            f"({first_line(error)})"
        ) from error
    return config


def _check(model: HfModel, config: Any) -> None:
    """Do nothing for a configuration that says what is read of it.

    Raises:
        ValueError: It does not.
    """
    text = config.text_config
    needed = {"vocab_size": text.vocab_size, "max_position_embeddings": text.max_position_embeddings}
    needed |= {"a feature's size": embed_dim_of(model, config)}
    if model.kind.prompt == "marked":
        needed["pad_token_id"] = text.pad_token_id
    if model.kind.prompt == "end":
        needed["eos_token_id"] = text.eos_token_id
    for name, value in needed.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}, expected a number")
    for tower, part in (("text", text), ("image", config.vision_config)):
        if getattr(part, "num_hidden_layers", 1) < 1:
            raise ValueError(f"its {tower} tower has {part.num_hidden_layers} layers, expected at least 1")
    if getattr(config.vision_config, "vision_use_head", True) is not True:
        raise ValueError("its image tower has no head, so it has no image features")


def embed_dim_of(model: HfModel, config: Any) -> int:
    """Return the numbers in a feature."""
    for name in model.kind.width.split("."):
        config = getattr(config, name)
    return cast(int, config)


def sketch(model: HfModel, config: Any) -> DualEncoder:
    """Return the model on the meta device, where tensors have shapes only.

    Raises:
        ModelError: It cannot be built.
    """
    preparation = image_preparation(model, config)
    with torch.device("meta"):
        made = DualEncoder(_built(model, config), model.kind, preparation, model.temperature)
    if made.visual.projection is None:  # where there is one, it is built as wide as a feature
        with torch.no_grad():
            width = made.encode_image(torch.empty(1, 3, *made.visual.image_size, device="meta")).shape[1]
        if width != embed_dim_of(model, config):
            raise ModelError(
                f"{model.given} is not one model: its image features have {width} numbers, those of text "
                f"{embed_dim_of(model, config)}"
            )
    return made


def _built(model: HfModel, config: Any) -> Any:
    try:
        with quiet():
            return getattr(transformers(), model.kind.model)(config).eval()
    except Exception as error:  # some sizes do not go together
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(f"transformers cannot build {model.given}: {reason}") from error


def sketch_by_default(kind: Kind) -> DualEncoder:
    """Return a kind as this transformers has it by default, on the meta device.

    Raises:
        ModelError: It does not have the kind, or is not installed.
    """
    try:
        with quiet(), torch.device("meta"):
            model = getattr(transformers(), kind.model)
            config = model.config_class()
            vision = config.vision_config
            patches = kind.takes == "patches"
            size = vision.patch_size * math.isqrt(vision.num_patches) if patches else vision.image_size
            return DualEncoder(model(config).eval(), kind, {"size": size}, PLAIN_TEMPERATURE)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{kind.model} is not there: pip install --upgrade 'clipfit-cli[hf]'") from error


def load_hf(model: HfModel, weights: tuple[Path, ...]) -> DualEncoder:
    """Return the model with its weights, on the CPU.

    Raises:
        ModelError: It cannot be built.
        CheckpointError: The files are damaged, unsafe, or their tensors do not fit.
    """
    config = hf_config(model)
    preparation = sketch(model, config).visual.preprocess_cfg  # costs nothing, so what cannot be ends at once
    return DualEncoder(_filled(model, config, weights), model.kind, preparation, model.temperature)


def _filled(model: HfModel, config: Any, weights: tuple[Path, ...]) -> Any:
    """Return transformers' model with its weights, all that are in the files."""
    with torch.device("meta"):
        empty = _built(model, config)
    parameters, size = sum(p.numel() for p in empty.parameters()), sum(path.stat().st_size for path in weights)
    if parameters > size:  # the smallest type of number takes a byte
        raise CheckpointError(
            f"{weights[0]} does not fit {model.given}: {size:,} bytes cannot hold its {parameters:,} parameters"
        )
    state: dict[str, torch.Tensor] = {}
    for path in weights:
        state |= _tensors(path)
    for name, tensor in state.items():
        if tensor.dtype not in _STORED and not name.endswith(_WHOLE_NUMBERS):
            raise CheckpointError(
                f"{weights[0]} does not fit {model.given}: {name} holds {tensor.dtype}, expected numbers of 16 to 64 "
                "bits with a fraction"
            )
    try:
        with quiet():
            filled, found = getattr(transformers(), model.kind.model).from_pretrained(
                None, config=config, state_dict=state, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except Exception as error:  # of shapes, types and names, each in words of its own
        raise CheckpointError(f"{weights[0]} does not fit {model.given}: {first_line(error)}") from error
    problems = [
        f"{len(names)} tensors are missing, such as {min(names)}" for names in (found["missing_keys"],) if names
    ]
    problems += [
        f"{name} is {tuple(stored)}, expected {tuple(own)}"
        for name, stored, own in sorted(found["mismatched_keys"])[:1]
    ]
    if problems:
        raise CheckpointError(f"{weights[0]} does not fit {model.given}: {'; '.join(problems)}")
    return filled.eval()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in one of a model's files; an index has none."""
    return {} if path.suffix == ".json" else read_state_dict(path)


def save_hf(model: HfModel, weights: tuple[Path, ...], tuned: nn.Module, folder: Path) -> None:
    """Write a tuned model as a folder that transformers loads, float32, with all that its class has beside both sides.

    Args:
        model, weights: What it was made from.
        tuned: The `DualEncoder`.
        folder: Exists.
    """
    config = hf_config(model)
    if model.asked_temperature is not None:
        setattr(config, TEMPERATURE_FIELD, -math.log(model.asked_temperature))
    filled = _filled(model, config, weights).float()
    own = filled.state_dict()
    with torch.no_grad():
        for name, tensor in tuned.state_dict().items():
            theirs = cast(DualEncoder, tuned).name_in_transformers(name)
            if theirs:
                own[theirs].copy_(tensor)
    with quiet():
        filled.save_pretrained(folder)
    _name_as_before(folder / HF_WEIGHTS_FILES[0], {name for path in weights for name in _tensors(path)})
    for path in model.inputs:
        shutil.copyfile(path, folder / path.name)


def _name_as_before(path: Path, names: set[str]) -> None:
    """Call tensors in a written file as in the files that they came from, which all releases of transformers read.

    Some releases write AltCLIP's image blocks, ``layers``, as ``layer``, which others leave at random values.

    Args:
        path: The written file.
        names: Of the tensors in those files.
    """
    if not path.exists():  # several parts, for which no model of these kinds is large enough
        return
    tensors, changed = load_file(path), dict[str, str]()
    for name in tensors.keys() - names:
        other = _LIST.sub(lambda found: ".layers." if found[0] == ".layer." else ".layer.", name)
        if other in names:
            changed[name] = other
    if changed:
        save_file({changed.get(name, name): tensor for name, tensor in tensors.items()}, path, {"format": "pt"})
