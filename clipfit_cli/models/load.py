"""A backbone's name and its weights -> a `ClipBundle` ready for any method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError, ModelError
from clipfit_cli.models.architectures import create
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.checkpoints import read_state_dict
from clipfit_cli.models.hf_weights import load_hf, notes_on
from clipfit_cli.models.source import ModelSource, find_source
from clipfit_cli.models.tiny import build_tiny
from clipfit_cli.models.tokenizers import Tokenizer, simple_tokenizer, tokenizer_of
from clipfit_cli.models.towers import activation_of, check_supported

# Buffers that older checkpoints carry although the architecture decides them.
_NO_WEIGHTS = (
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "text.transformer.embeddings.position_ids",
)
_MOST_BUFFERED = 1 << 28


def load_bundle(config: ModelConfig, *, device: torch.device, source: ModelSource | None = None) -> ClipBundle:
    """Return the model with its weights, float32, frozen, in evaluation mode, on the device.

    Weights that were trained with QuickGELU run with QuickGELU, whatever the backbone is called.

    Args:
        config: Backbone, weights and BatchNorm mode.
        device: Where the model goes.
        source: What `find_source` returned, if it was asked already.

    Raises:
        UnknownNameError: No such backbone or weights.
        ModelError: The weights cannot be fetched, or the kind of tower is not supported.
        CheckpointError: The file is damaged, unsafe, or its tensors do not fit the backbone.
    """
    source = source or find_source(config)
    model = _load(source)
    check_supported(model, config.backbone)
    _check_finite(model, source)
    model.to(device).float().eval().requires_grad_(False)
    bundle = bundle_of(model, config, weights_sha256=source.sha256, tokenizer=tokenizer_of(source))
    return replace(bundle, notes=notes_on(source.hf, bundle.image_size)) if source.hf else bundle


def bundle_of(
    model: torch.nn.Module, config: ModelConfig, *, weights_sha256: str, tokenizer: Tokenizer | None = None
) -> ClipBundle:
    """Return a bundle around a model of open_clip's, or a `DualEncoder`, that is loaded already.

    Args:
        model: The model.
        config: By which names it was asked for.
        weights_sha256: Of its weights.
        tokenizer: None = CLIP's own.

    Raises:
        ModelError: The image tower takes images that are not square.
    """
    visual: Any = cast(Any, model).visual
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ModelError(
            f"the image tower of {config.backbone} takes images of {width}x{height} pixels, expected square ones"
        )
    tokenizer = tokenizer or simple_tokenizer(int(cast(Any, model).context_length))
    preprocess = merge_preprocess_dict(PreprocessCfg(), getattr(visual, "preprocess_cfg", None) or {})
    return ClipBundle(
        model=model,
        tokenizer=tokenizer.tokenize,
        count_tokens=tokenizer.count,
        backbone=config.backbone,
        pretrained=config.pretrained,
        weights_sha256=weights_sha256,
        activation=activation_of(model),
        bn=config.bn,
        image_size=int(height),
        image_mean=cast("tuple[float, float, float]", tuple(map(float, preprocess["mean"]))),
        image_std=cast("tuple[float, float, float]", tuple(map(float, preprocess["std"]))),
        interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
        resize_mode=preprocess["resize_mode"],
    )


def _load(source: ModelSource) -> torch.nn.Module:
    if source.hf:
        return load_hf(source.hf, source.hf_weights)
    return cast(torch.nn.Module, build_tiny()) if source.is_builtin else _build(source)


def _build(source: ModelSource) -> torch.nn.Module:
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    # The side of the input stays the architecture's, as in open_clip.
    preprocess = {key: value for key, value in source.preprocess.items() if key != "size"}
    options: dict[str, Any] = {"force_preprocess_cfg": merge_preprocess_dict({}, preprocess)}
    if source.quick_gelu is not None:
        options["quick_gelu"] = source.quick_gelu
    _check_size(create(source, device="meta", **options), source)  # costs nothing, so what cannot be ends at once
    model = create(source, device="cpu", **options)
    state = convert_state_dict(model, read_state_dict(source.path))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)  # of before text towers became modules of their own
    _load_strictly(model, state, source)
    return model


def _check_finite(model: torch.nn.Module, source: ModelSource) -> None:
    """Refuse weights with numbers that are none: every logit would be none, and a training be blamed for it."""
    for name, parameter in model.named_parameters():
        ends = torch.stack(parameter.detach().aminmax()) if parameter.numel() else torch.zeros(1)
        if not ends.isfinite().all():
            raise CheckpointError(f"{source.path} holds numbers that are not finite, in {name}; fetch or copy it anew")


def _check_size(sketch: torch.nn.Module, source: ModelSource) -> None:
    """Refuse a model that its weights file cannot fill, before any memory is taken for it."""
    parameters = sum(parameter.numel() for parameter in sketch.parameters())
    size, buffers = source.path.stat().st_size, sum(buffer.numel() for buffer in sketch.buffers())
    if parameters > size or buffers > _MOST_BUFFERED:  # the smallest type of number takes a byte
        raise CheckpointError(
            f"{source.path} does not fit the backbone {source.backbone}: it has {size:,} bytes, which cannot hold "
            f"{parameters:,} parameters and {buffers:,} fixed numbers"
        )


def _load_strictly(model: torch.nn.Module, state: dict[str, Any], source: ModelSource) -> None:
    own = model.state_dict()
    if "logit_bias" in own and "logit_scale" in state:
        state.setdefault("logit_bias", torch.zeros(()))  # as open_clip, for weights that were trained without one
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in own and scalar in state and state[scalar].numel() == 1:
            state[scalar] = state[scalar].reshape(own[scalar].shape)
    computed = {name for name, _ in model.named_buffers()} - set(own)
    for extra in (*computed, *_NO_WEIGHTS):
        if extra not in own:
            state.pop(extra, None)
    problems = [text for name in own if name in state and (text := _misfit(name, state[name], own[name]))][:1]
    missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
    for what, names in (("missing", missing), ("unknown", unknown)):
        problems += [f"{len(names)} tensors are {what}, the first is {names[0]}"] if names else []
    if problems:
        raise CheckpointError(f"{source.path} does not fit the backbone {source.backbone}: {'; '.join(problems)}")
    model.load_state_dict(state)


def _misfit(name: str, given: torch.Tensor, own: torch.Tensor) -> str | None:
    """Return in words how a tensor differs from the model's in kind; None where it fits."""
    if given.shape != own.shape:
        return f"{name} is {tuple(given.shape)}, expected {tuple(own.shape)}"
    if own.is_floating_point() and not given.is_floating_point():
        return f"{name} holds {given.dtype}, expected {own.dtype}"
    return None
