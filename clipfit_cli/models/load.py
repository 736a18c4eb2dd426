"""A backbone's name and its weights -> a `ClipBundle` ready for any method."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch

from clipfit_cli.config import TINY_BACKBONE, ModelConfig
from clipfit_cli.errors import CheckpointError, ModelError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.tokenizers import Tokenizer, simple_tokenizer, tokenizer_of
from clipfit_cli.models.towers import activation_of, check_supported
from clipfit_cli.models.weights import Weights, find_weights, read_state_dict

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load_bundle(config: ModelConfig, *, device: torch.device, weights: Weights | None = None) -> ClipBundle:
    """Return the model with its weights, float32, frozen, in evaluation mode, on the device.

    Weights that were trained with QuickGELU run with QuickGELU, whatever the backbone is called.

    Args:
        config: Backbone, weights and BatchNorm mode.
        device: Where the model goes.
        weights: What `find_weights` returned, if it was asked already.

    Raises:
        UnknownNameError: No such backbone or weights.
        ModelError: The weights cannot be fetched, or the kind of tower is not supported.
        CheckpointError: The file is damaged, unsafe, or its tensors do not fit the backbone.
    """
    weights = weights or find_weights(config.backbone, config.pretrained)
    if config.backbone == TINY_BACKBONE:
        from clipfit_cli.models.tiny import build_tiny

        model = cast(torch.nn.Module, build_tiny())
    else:
        model = _build(config, weights)
    check_supported(model, config.backbone)
    model.to(device).float().eval().requires_grad_(False)
    tokenizer = None if config.backbone == TINY_BACKBONE else tokenizer_of(config.backbone)
    return bundle_of(model, config, weights_sha256=weights.sha256, tokenizer=tokenizer)


def bundle_of(
    model: torch.nn.Module, config: ModelConfig, *, weights_sha256: str, tokenizer: Tokenizer | None = None
) -> ClipBundle:
    """Return a bundle around an open_clip model that is loaded already.

    Args:
        model: The model.
        config: By which names it was asked for.
        weights_sha256: Of its weights.
        tokenizer: None = CLIP's own.

    Raises:
        ModelError: The image tower takes images that are not square.
    """
    visual: Any = cast(Any, model).visual
    tokenizer = tokenizer or simple_tokenizer(int(cast(Any, model).context_length))
    preprocess = getattr(visual, "preprocess_cfg", None) or {}
    return ClipBundle(
        model=model,
        tokenizer=tokenizer.tokenize,
        count_tokens=tokenizer.count,
        backbone=config.backbone,
        pretrained=config.pretrained,
        weights_sha256=weights_sha256,
        activation=activation_of(model),
        bn=config.bn,
        image_size=_side(visual.image_size, config.backbone),
        image_mean=_triple(preprocess.get("mean"), _CLIP_MEAN),
        image_std=_triple(preprocess.get("std"), _CLIP_STD),
        interpolation="bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=preprocess.get("resize_mode") or "shortest",
    )


def _build(config: ModelConfig, weights: Weights) -> torch.nn.Module:
    import open_clip
    from open_clip.convert import convert_state_dict

    tag = open_clip.get_pretrained_cfg(config.backbone, weights.tag) if weights.tag else {}
    options = {
        "load_weights": False,
        "pretrained_text": False,
        "force_quick_gelu": bool(weights.quick_gelu),
        "force_preprocess_cfg": {key: tag[key] for key in ("mean", "std") if tag.get(key)},
    }
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip reports weights that are loaded here a moment later as missing
    try:
        with torch.device("meta"):  # costs nothing, so that a tower that is not supported is refused at once
            check_supported(open_clip.create_model(config.backbone, device="meta", **options), config.backbone)
        model = open_clip.create_model(config.backbone, **options)
    except ModelError:
        raise
    except Exception as error:  # some architectures need packages or files that are not here
        raise ModelError(f"open_clip cannot build {config.backbone} here: {error}") from error
    finally:
        logging.disable(quiet)
    state = convert_state_dict(model, read_state_dict(weights.path))
    _load_strictly(model, state, config, weights)
    return cast(torch.nn.Module, model)


def _load_strictly(model: torch.nn.Module, state: dict[str, Any], config: ModelConfig, weights: Weights) -> None:
    own = model.state_dict()
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(own["logit_scale"].shape)
    for extra in ("input_resolution", "context_length", "vocab_size", "attn_mask"):
        state.pop(extra, None)
    problem = None
    if missing := [name for name in own if name not in state]:
        problem = f"{len(missing)} tensors are missing, the first is {missing[0]}"
    elif unknown := [name for name in state if name not in own]:
        problem = f"{len(unknown)} tensors are unknown, the first is {unknown[0]}"
    else:
        for name, tensor in own.items():
            if state[name].shape != tensor.shape:
                problem = f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                break
    if problem:
        raise CheckpointError(f"{weights.path} does not fit the backbone {config.backbone}: {problem}")
    model.load_state_dict(state)


def _side(size: int | tuple[int, int], backbone: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ModelError(f"the image tower of {backbone} takes images of {width}x{height} pixels, expected square ones")
    return int(height)


def _triple(given: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    values = tuple(given) if given else default
    return (float(values[0]), float(values[1]), float(values[2]))
