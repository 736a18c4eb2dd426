"""The dual encoders of transformers that can be a backbone, and where each keeps its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Part:
    """One of the two encoders.

    Attributes:
        encoder, projection: Attributes of transformers' model; None where the encoder itself ends in features.
        read: What is read of it: its own ``pooled`` output, or the ``first`` position.
        idle: Modules of the encoder that contrastive features never pass through; they are left out.
    """

    encoder: str
    projection: str | None = None
    read: Literal["pooled", "first"] = "pooled"
    idle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        model: transformers' class.
        image, text: Its encoders.
        width: Name of the number of a feature in its configuration, dotted.
        prompt: What of a prompt can reach the features: all up to its ``end`` token, since the encoder is causal;
            all that is ``marked``, padding masked; or the ``whole`` context, padding too, as the model was trained.
        temperature: Attribute of the logarithm of the multiplier, or of the divisor where it is ``temperature``; None
            where the model has none.
        takes: What its image encoder takes: ``squares`` of one size, of ``any`` size, or a list of ``patches``.
    """

    model: str
    image: Part
    text: Part
    width: str = "projection_dim"
    prompt: Literal["end", "marked", "whole"] = "marked"
    temperature: Literal["logit_scale", "temperature"] | None = "logit_scale"
    takes: Literal["squares", "any", "patches"] = "squares"


_IMAGE = Part("vision_model", "visual_projection")
_TEXT = Part("text_model", "text_projection")
_FIRST = Part("text_model", "text_projection", "first", ("pooler",))

KINDS: dict[str, Kind] = {
    "clip": Kind("CLIPModel", _IMAGE, _TEXT, prompt="end"),
    "metaclip_2": Kind("MetaClip2Model", _IMAGE, _TEXT, prompt="end"),
    "siglip": Kind(
        "SiglipModel", Part("vision_model"), Part("text_model"), width="text_config.projection_size", prompt="whole"
    ),
    "siglip2": Kind(
        "Siglip2Model",
        Part("vision_model"),
        Part("text_model"),
        width="text_config.projection_size",
        prompt="whole",
        takes="patches",
    ),
    "altclip": Kind("AltCLIPModel", _IMAGE, _TEXT),
    "chinese_clip": Kind("ChineseCLIPModel", _IMAGE, _FIRST),
    "align": Kind("AlignModel", Part("vision_model"), _FIRST, temperature="temperature", takes="any"),
    "blip": Kind(
        "BlipForImageTextRetrieval",
        Part("vision_model", "vision_proj", "first"),
        Part("text_encoder", "text_proj", "first", ("crossattention",)),
        width="image_text_hidden_size",
        temperature=None,
    ),
}
"""``model_type`` of a configuration -> the kind."""

PLAIN_TEMPERATURE = 0.07
"""What cosines are divided by where a model has no temperature: with what CLIP's and BLIP's own began."""
