"""A dual encoder of transformers in the form that methods know: an image side, a text side, a temperature."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipfit_cli.models.hf_kinds import Kind, Part

_IN_BLOCK = re.compile(r"((?:visual|text)\.tower\.(?:\w+\.)*?)(layers?)(\.\d+\..*)")
"""A name of what is in a block: what stands before the list of blocks, how that is called, what stands behind."""


class _Side(nn.Module):
    """One encoder with its projection; parameters are called ``tower.``, then as in transformers, and ``projection.``.

    Attributes:
        config: transformers' configuration of the encoder.
    """

    def __init__(self, model: Any, part: Part) -> None:
        """Take the parts out of transformers' model, without what features never pass through.

        Args:
            model: It loses that, too.
            part: Where they are.
        """
        super().__init__()
        self.tower: nn.Module = getattr(model, part.encoder)
        self.projection: nn.Linear | None = getattr(model, part.projection) if part.projection else None
        self.config: Any = cast(Any, self.tower).config
        self._first = part.read == "first"
        for parent in list(self.tower.modules()):
            for name, _ in list(parent.named_children()):
                if name in part.idle:
                    setattr(parent, name, None)

    def _read(self, *inputs: Tensor | None, **named: Tensor | None) -> Tensor:
        """Return what is read of the encoder (batch, width)."""
        output = self.tower(*inputs, **named)
        return cast(Tensor, output.last_hidden_state[:, 0] if self._first else output.pooler_output)

    def _projected(self, features: Tensor) -> Tensor:
        return features if self.projection is None else cast(Tensor, self.projection(features))


class HfImageSide(_Side):
    """Attributes: ``image_size`` (height, width) of its input, ``preprocess_cfg`` as open_clip has it."""

    def __init__(self, model: Any, kind: Kind, preparation: Mapping[str, Any]) -> None:
        """See `_Side`.

        Args:
            model, kind: Which.
            preparation: ``size`` of the square input, ``mean``, ``std``, ``interpolation`` and ``resize_mode``.
        """
        super().__init__(model, kind.image)
        self.image_size = (preparation["size"],) * 2
        self.preprocess_cfg = dict(preparation)
        self._takes_patches = kind.takes == "patches"

    def forward(self, images: Tensor) -> Tensor:
        """Return raw features (batch, embed_dim) of normalised images (batch, 3, size, size)."""
        return self._projected(self.unprojected(images))

    def unprojected(self, images: Tensor) -> Tensor:
        """Return what stands before the projection (batch, width); of an encoder without one, its features."""
        if not self._takes_patches:
            return self._read(pixel_values=images)
        side = self.config.patch_size
        count = images.shape[-1] // side
        patches = images.reshape(len(images), -1, count, side, count, side).permute(0, 2, 4, 3, 5, 1)
        # by place, since releases call them otherwise: patches, which of them are padding (none), how they lie. That is
        # one for all images: what is made of it is spread over the batch
        shape = torch.tensor([[count, count]])
        return self._read(patches.reshape(len(images), count * count, -1), None, shape)


class HfTextSide(_Side):
    """Takes token ids alone: what is padding, they tell."""

    def __init__(self, model: Any, kind: Kind) -> None:
        super().__init__(model, kind.text)
        self._prompt = kind.prompt

    def forward(self, tokens: Tensor) -> Tensor:
        """Return raw features (num_prompts, embed_dim) of padded token ids (num_prompts, length)."""
        mask = self._is_token(tokens).long() if self._prompt == "marked" else None
        return self._projected(self._read(input_ids=tokens, attention_mask=mask))

    def used_context(self, tokens: Tensor) -> int:
        """Return how many positions of token ids (num_prompts, length) can reach the features, at least 1.

        A causal encoder is read at its end token, which its class takes for the first of an id or for the largest id:
        nothing behind the later of both counts.
        """
        if self._prompt == "whole":
            return tokens.shape[1]
        if self._prompt == "end":
            first = (tokens == (self.config.eos_token_id or 0)).int().argmax(dim=-1)
            return int(torch.maximum(first, tokens.argmax(dim=-1)).max()) + 1
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return max(1, int((self._is_token(tokens) * places).max()))

    def token_embedding(self) -> nn.Module:
        """Return what tokens are looked up in: the first embedding with a row for each."""
        tables = (module for module in self.tower.modules() if isinstance(module, nn.Embedding))
        return next(table for table in tables if table.num_embeddings == self.config.vocab_size)

    def _is_token(self, tokens: Tensor) -> Tensor:
        return tokens.ne(self.config.pad_token_id)


class DualEncoder(nn.Module):
    """Both sides as ``visual`` and ``text``, as in open_clip's models; ``logit_scale`` is a logarithm, as there."""

    def __init__(self, model: Any, kind: Kind, preparation: Mapping[str, Any], temperature: float | None) -> None:
        """Take transformers' model apart; parameters are shared with it.

        Args:
            model: The model, which loses what its features never pass through; on the meta device too.
            kind: Of it.
            preparation: See `HfImageSide`.
            temperature: What cosines are divided by, where the model has no temperature.
        """
        super().__init__()
        self.kind = kind
        self.visual = HfImageSide(model, kind, preparation)
        self.text = HfTextSide(model, kind)
        if kind.temperature == "logit_scale":
            self.logit_scale = model.logit_scale
        else:
            divisor = model.temperature.detach() if kind.temperature else torch.tensor(temperature)
            self.logit_scale = nn.Parameter(-divisor.log())
        self.logit_bias: nn.Parameter | None = getattr(model, "logit_bias", None)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return raw features (batch, embed_dim) of normalised images (batch, 3, size, size)."""
        return cast(Tensor, self.visual(images))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return raw features (num_prompts, embed_dim) of token ids (num_prompts, length)."""
        return cast(Tensor, self.text(tokens))

    def name_in_transformers(self, name: str) -> str | None:
        """Return what transformers calls a parameter or buffer of this model; None for the temperature."""
        side, _, rest = name.partition(".")
        part = {"visual": self.kind.image, "text": self.kind.text}.get(side)
        if part is None:
            return name if name == "logit_bias" else None
        place, _, rest = rest.partition(".")
        return f"{part.encoder if place == 'tower' else part.projection}.{rest}"

    def named_here(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of an adapter by the names that they have in this release of transformers.

        AltCLIP's list of text blocks is ``layer`` in some releases, ``layers`` in others.
        """
        found = (_IN_BLOCK.fullmatch(name) for name in self.state_dict())
        own = {match[1]: match[2] for match in found if match}

        def named(name: str) -> str:
            match = _IN_BLOCK.fullmatch(name)
            return f"{match[1]}{own.get(match[1], match[2])}{match[3]}" if match else name

        return {named(name): tensor for name, tensor in tensors.items()}
